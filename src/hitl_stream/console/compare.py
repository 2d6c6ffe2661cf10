"""Comparing a view with the topics that it is folded from: a rebuild must give the same rows.

The topics are folded anew, by the product's own fold into tables of their own, up to where the view has read them; then
row is compared with row: items, the approvals that they lack, who may not decide them, batches. The stories of what was
decided are not: the view and the topics forget them at different times.

A compacted log keeps the newest state of an item only. So what has changed since the view read it cannot be compared,
and is counted; and of what stands in the view alone nobody can tell where the log has lost its beginning. Nothing is
written, neither to Kafka nor to the view.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from hashlib import blake2b
from pathlib import Path

from msgspec import Struct

from hitl_stream.console.database import Database, Row, Tx, is_dsn, open_database
from hitl_stream.console.fold import Keys, fold
from hitl_stream.console.sqlite import SqliteDatabase
from hitl_stream.console.store import Change, ItemGone, ItemPut, LotGone, LotPut, Unreadable
from hitl_stream.console.view import VERSION, SqlStore
from hitl_stream.core.errors import UsageError
from hitl_stream.lane.admin import Client
from hitl_stream.lane.reader import read, spans
from hitl_stream.lane.step import Record
from hitl_stream.wire.desk_records import LOT_KEY, decode_lot, decode_review
from hitl_stream.wire.records import time_text
from hitl_stream.wire.topics import TopicSet

REVIEWS = "reviews"
PAGE = 1_000
"""Rows fetched at once."""
DIFFERENCES_MAX = 1_000
"""Differences told one by one; more are only counted."""
ITEM_ROWS = "SELECT item, tenant, action_id, is_open, ended, value FROM view_item WHERE item > ? ORDER BY item LIMIT ?"
LOT_ROWS = "SELECT lot, tenant, queue, opened_ms, value FROM view_lot WHERE lot > ? ORDER BY lot LIMIT ?"
NEEDS = (
    "SELECT item, queue, tenant, for_person, decide_by_ms, cheapness, sureness, opened_ms, unit, money_micros"
    " FROM view_need WHERE item > ? AND item <= ?"
)
BARRED = "SELECT item, person FROM view_barred WHERE item > ? AND item <= ?"


class Difference(Struct, frozen=True):
    """One item or batch that does not stand in the view as the topics have it; `place` is its newest record."""

    name: str
    what: str
    place: str


class Compared(Struct, frozen=True, kw_only=True):
    """What was compared: `items` and `lots` looked at, and every difference, of `found` in all.

    `moving` have changed since the view read them, `unjudged` stand in the view alone while the log has lost its
    beginning.
    """

    items: int
    lots: int
    found: int
    differences: tuple[Difference, ...]
    moving: int = 0
    unjudged: int = 0
    unreadable: int = 0


class Whole(Struct, frozen=True):
    """All rows about one item or batch; of its record a digest, and the state that it says."""

    row: Row
    state: str
    record: bytes
    needs: frozenset[Row] = frozenset()
    barred: frozenset[Row] = frozenset()


class Rows(Struct, frozen=True):
    """What stands in a view, and how far it has read each partition of `reviews`."""

    marks: Mapping[int, int]
    items: Mapping[str, Whole]
    lots: Mapping[str, Whole]


async def compare(client: Client, topics: TopicSet, keys: Keys, place: str | Path) -> Compared:
    """Compare the view at `place`, a Postgres DSN or the path of an SQLite file, with `reviews`.

    `keys` are the seal keys that count, by topic of the table. Raises `UsageError` where there is no view.
    """
    theirs = await rows_of(place)
    wanted = await spans(client, [topics.name(REVIEWS)])
    async with aclosing(read(client, wanted)) as batches:
        return await compared(theirs, batches, keys, is_cut=any(span.first for span in wanted.values()))


def expect_view(place: str | Path) -> None:
    """Raise `UsageError` where a path names no file: to open one would make it."""
    if not is_dsn(place) and not Path(place).exists():
        raise UsageError(f"{place}: there is no view; expected the SQLite file or the DSN of a console (--view)")


async def rows_of(place: str | Path) -> Rows:
    """Read a view. Where it stands is read first, so that what changes meanwhile is known to have changed."""
    expect_view(place)
    view = open_database(place)
    try:
        marks = await view.read(lambda tx: _marks(tx, place))
        return await _rows(view, marks)
    finally:
        await view.close()


async def compared(
    theirs: Rows, batches: AsyncIterable[tuple[str, int, Sequence[Record]]], keys: Keys, *, is_cut: bool = False
) -> Compared:
    """Fold `reviews` anew, as far as a view has read it, and compare. `is_cut`: the log has lost its beginning."""
    with tempfile.TemporaryDirectory(prefix="hitl-verify-") as directory:
        rebuilt = _Rebuilt(SqlStore(SqliteDatabase(Path(directory) / "view.db")), theirs)
        try:
            await rebuilt.store.offsets()
            async for topic, partition, records in batches:
                await rebuilt.take(topic, partition, [fold(record, REVIEWS, keys) for record in records])
            return await rebuilt.compared(is_cut=is_cut)
        finally:
            await rebuilt.store.close()


class _Rebuilt:
    """A view of our own, up to where the other one has read."""

    def __init__(self, store: SqlStore, theirs: Rows) -> None:
        self.store = store
        self.theirs = theirs
        self.places: dict[str, str] = {}
        """Item, or `batch/` and batch → the newest record of it."""
        self.moved: set[str] = set()
        self.unreadable = 0

    async def take(self, topic: str, partition: int, changes: Sequence[Change]) -> None:
        """Take in the next records of `reviews`; what the other view has not read yet is only named."""
        read_to = self.theirs.marks.get(partition, -1)
        for change in changes:
            self.unreadable += isinstance(change, Unreadable)
            name = _name(change)
            if name is not None:
                self.places[name] = f"{topic}/{partition}/{change.source.offset}"
            if name is not None and change.source.offset > read_to:
                self.moved.add(name)
        known = [change for change in changes if change.source.offset <= read_to]
        if known:
            await self.store.apply(known, {(REVIEWS, partition): known[-1].source.offset})

    async def compared(self, *, is_cut: bool) -> Compared:
        """Compare row with row."""
        ours, theirs = await _rows(self.store.database, {}), self.theirs
        every = [
            *self._differ(theirs.items, ours.items, "", is_cut),
            *self._differ(theirs.lots, ours.lots, LOT_KEY, is_cut),
        ]
        told = [one for one in every if one is not None]
        return Compared(
            items=len(ours.items.keys() | theirs.items.keys()),
            lots=len(ours.lots.keys() | theirs.lots.keys()),
            found=len(told),
            differences=tuple(told[:DIFFERENCES_MAX]),
            moving=len(self.moved),
            unjudged=len(every) - len(told),
            unreadable=self.unreadable,
        )

    def _differ(
        self, theirs: Mapping[str, Whole], ours: Mapping[str, Whole], before: str, is_cut: bool
    ) -> Iterator[Difference | None]:
        """Yield what differs; None: nobody can tell."""
        for name in sorted(theirs.keys() | ours.keys()):
            full = before + name
            there, here, place = theirs.get(name), ours.get(name), self.places.get(full, "")
            if full in self.moved or there == here:
                continue
            if here is None and is_cut and not place:
                yield None
            elif there is None and here is not None:
                yield Difference(full, f"stands in the topics ({here.state}), and not in the view", place)
            elif here is None and there is not None:
                yield Difference(full, f"stands in the view ({there.state}), and not in the topics", place)
            elif there is not None and here is not None:
                yield Difference(full, _what(there, here), place)


def _name(change: Change) -> str | None:
    match change:
        case ItemPut() | ItemGone():
            return change.item
        case LotPut() | LotGone():
            return LOT_KEY + change.lot
    return None


def _what(there: Whole, here: Whole) -> str:
    """Say in words how the rows about one thing differ."""
    if there.state != here.state:
        return f"is {there.state} in the view, and {here.state} in the topics"
    if there.record != here.record:
        return f"is {here.state} in both, and its record is another one"
    if there.needs != here.needs:
        return f"waits for {_queues(there)} in the view, and for {_queues(here)} in the topics"
    if there.barred != here.barred:
        return f"may not be decided by {_people(there)} in the view, and by {_people(here)} in the topics"
    return f"is listed as {there.row[1:]} in the view, and as {here.row[1:]} in the topics"


def _queues(whole: Whole) -> str:
    return ", ".join(sorted(f"{row[1]} until {time_text(int(row[4]))}" for row in whole.needs)) or "nobody"


def _people(whole: Whole) -> str:
    return ", ".join(sorted(str(row[1]) for row in whole.barred)) or "nobody"


# --- a view's rows ----------------------------------------------------------------------------------------------------


def _marks(tx: Tx, place: str | Path) -> dict[int, int]:
    """Return how far the view has read each partition of `reviews`; refuse tables of another version."""
    catalogue = ("tablename", "pg_tables") if is_dsn(place) else ("name", "sqlite_master")
    there = tx.rows("SELECT {0} FROM {1} WHERE {0} = ?".format(*catalogue), ("view_version",))
    version = tx.rows("SELECT version FROM view_version") if there else []
    if [tuple(row) for row in version] != [(VERSION,)]:
        shown = "the Postgres database" if is_dsn(place) else str(place)
        have = f"tables of version {version[0][0]}" if version else "no tables of a view"
        raise UsageError(f"{shown} has {have}, expected version {VERSION}: start the console that reads it first")
    return dict(tx.rows("SELECT part, place FROM view_mark WHERE topic = ?", (REVIEWS,)))


async def _rows(view: Database, marks: Mapping[int, int]) -> Rows:
    items, lots = {}, {}
    after: str | None = ""
    while after is not None:
        page = await view.read(partial(_items, after=after))
        items.update(page)
        after = next(reversed(page)) if len(page) == PAGE else None
    after = ""
    while after is not None:
        page = await view.read(partial(_lots, after=after))
        lots.update(page)
        after = next(reversed(page)) if len(page) == PAGE else None
    return Rows(marks, items, lots)


def _items(tx: Tx, after: str) -> dict[str, Whole]:
    """Return a page of items, in order of their names."""
    rows = tx.rows(ITEM_ROWS, (after, PAGE))
    if not rows:
        return {}
    needs, barred = (_grouped(tx.rows(sql, (after, rows[-1][0]))) for sql in (NEEDS, BARRED))
    nothing: frozenset[Row] = frozenset()
    return {
        row[0]: _whole(
            row, lambda value: decode_review(value).state, needs.get(row[0], nothing), barred.get(row[0], nothing)
        )
        for row in rows
    }


def _lots(tx: Tx, after: str) -> dict[str, Whole]:
    return {row[0]: _whole(row, lambda value: decode_lot(value).state) for row in tx.rows(LOT_ROWS, (after, PAGE))}


def _whole(row: Row, state_of: Callable[[bytes], str], *beside: frozenset[Row]) -> Whole:
    value = bytes(row[-1])
    try:
        state = state_of(value)
    except (ValueError, RecursionError):
        state = "unreadable"
    return Whole(tuple(row[:-1]), state, blake2b(value, digest_size=16).digest(), *beside)


def _grouped(rows: Sequence[Row]) -> dict[str, frozenset[Row]]:
    found: dict[str, set[Row]] = {}
    for row in rows:
        found.setdefault(row[0], set()).add(tuple(row))
    return {name: frozenset(some) for name, some in found.items()}
