"""The view in SQL, the same in SQLite and in Postgres: the tables, and each method of `Store` as one transaction.

Rules:
- `view_need` holds a row for each approval that an open item lacks, with all that orders and excludes it, so that the
  next item is the first of an index however many are open.
- Two consoles fold one log into one view: the row of `view_version` is locked while one of them applies, and the other
  finds the offsets moved on.
- `generation` counts rebuilds: a console that had read on beyond one would leave a gap, and is told to begin anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Raw

from hitl_stream.console.database import Database, Row, Tables, Tx, marks, open_database
from hitl_stream.console.store import (
    ALONE_MAX,
    APPROVED_MAX,
    EXCEPTIONS_MAX,
    JUDGED_MAX,
    KINDS_MAX,
    LEASE_MS,
    LOTS_MAX,
    MICROS,
    NEXT_MAX,
    STORY_MAX,
    WITHOUT_MAX,
    Change,
    Claim,
    Dropped,
    EndedItem,
    ExceptionCount,
    Exceptions,
    Hit,
    ItemGone,
    ItemPut,
    LotGone,
    LotPut,
    OpenItem,
    Order,
    Partition,
    QueueCount,
    Search,
    Store,
    Story,
    StoryPut,
    StoryRow,
    Taken,
    Viewer,
)
from hitl_stream.core.errors import SettingsError
from hitl_stream.wire.desk_records import (
    HumanDecision,
    LotState,
    ReviewState,
    decision_of,
    decode_human_decision,
    decode_lot,
    decode_review,
)

T = TypeVar("T")
VERSION = 3
"""Of the tables. A view with an older one is dropped and read anew; claims stay."""
ARMS_MAX = 200
"""Pairs of queue and tenant that are looked up one by one; beyond it, the tenants of a queue are sifted."""
CANDIDATES = 32
TRIES_MAX = 8
"""Candidates looked at in one go, and how often: other consoles may have taken all of them meanwhile."""

TABLES = (
    "view_mark", "view_item", "view_need", "view_barred", "view_kind", "view_lot", "view_story", "view_story_by"
)  # fmt: skip
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS claim (item TEXT PRIMARY KEY, person TEXT NOT NULL, until_ms BIGINT NOT NULL)""",
    """CREATE INDEX IF NOT EXISTS claim_person ON claim (person, until_ms)""",
    """CREATE TABLE view_mark (topic TEXT, part INTEGER, place BIGINT NOT NULL, as_of_ms BIGINT NOT NULL,
        PRIMARY KEY (topic, part))""",
    """CREATE TABLE view_item (item TEXT PRIMARY KEY, tenant TEXT NOT NULL, action_id TEXT NOT NULL,
        is_open INTEGER NOT NULL, ended INTEGER NOT NULL, value BLOB NOT NULL)""",
    """CREATE INDEX view_item_action ON view_item (tenant, action_id)""",
    """CREATE TABLE view_need (item TEXT, queue TEXT, tenant TEXT NOT NULL, for_person TEXT,
        decide_by_ms BIGINT NOT NULL, cheapness DOUBLE PRECISION NOT NULL, sureness DOUBLE PRECISION NOT NULL,
        opened_ms BIGINT NOT NULL, unit TEXT NOT NULL, money_micros BIGINT NOT NULL, PRIMARY KEY (item, queue))""",
    """CREATE INDEX view_need_deadline ON view_need (queue, decide_by_ms, cheapness, item)""",
    """CREATE INDEX view_need_uncertain ON view_need (queue, sureness, decide_by_ms, item)""",
    """CREATE INDEX view_need_tenant_deadline ON view_need (queue, tenant, decide_by_ms, cheapness, item)""",
    """CREATE INDEX view_need_tenant_uncertain ON view_need (queue, tenant, sureness, decide_by_ms, item)""",
    """CREATE TABLE view_barred (item TEXT, person TEXT, PRIMARY KEY (item, person))""",
    """CREATE TABLE view_kind (item TEXT, kind TEXT, raised INTEGER NOT NULL, PRIMARY KEY (item, kind))""",
    """CREATE INDEX view_kind_raised ON view_kind (raised, item)""",
    """CREATE TABLE view_lot (lot TEXT PRIMARY KEY, tenant TEXT NOT NULL, queue TEXT NOT NULL,
        opened_ms BIGINT NOT NULL, value BLOB NOT NULL)""",
    """CREATE INDEX view_lot_queue ON view_lot (queue, opened_ms)""",
    """CREATE TABLE view_story (topic TEXT, part INTEGER, place BIGINT, kind TEXT NOT NULL, tenant TEXT NOT NULL,
        action_id TEXT NOT NULL, account TEXT, campaign TEXT, at_ms BIGINT NOT NULL, value BLOB NOT NULL,
        alone INTEGER NOT NULL, PRIMARY KEY (topic, part, place))""",
    """CREATE INDEX view_story_action ON view_story (tenant, action_id, at_ms)""",
    """CREATE INDEX view_story_account ON view_story (tenant, account, at_ms)""",
    """CREATE INDEX view_story_at ON view_story (tenant, at_ms)""",
    """CREATE INDEX view_story_old ON view_story (at_ms)""",
    """CREATE INDEX view_story_alone ON view_story (at_ms) WHERE alone = 1""",
    """CREATE TABLE view_story_by (topic TEXT, part INTEGER, place BIGINT, tenant TEXT NOT NULL, person TEXT,
        action_id TEXT NOT NULL, at_ms BIGINT NOT NULL, PRIMARY KEY (topic, part, place, person))""",
    """CREATE INDEX view_story_by_person ON view_story_by (tenant, person, at_ms)""",
    """CREATE INDEX view_story_by_old ON view_story_by (at_ms)""",
    """CREATE INDEX view_story_by_who ON view_story_by (person, at_ms)""",
    """CREATE INDEX view_story_decided ON view_story (at_ms) WHERE kind = 'decision'""",
)
_SAID = """SELECT s.value FROM view_item i
    JOIN view_story_by b ON b.tenant = i.tenant AND b.action_id = i.action_id
    JOIN view_story s ON s.topic = b.topic AND s.part = b.part AND s.place = b.place
    WHERE i.item = ? AND b.person = ? AND s.kind = 'decision' ORDER BY s.at_ms, s.part, s.place LIMIT ?"""
_JUDGED_BY = """SELECT s.value FROM view_story_by b
    JOIN view_story s ON s.topic = b.topic AND s.part = b.part AND s.place = b.place
    WHERE b.person = ? AND b.at_ms >= ? AND s.kind = 'decision' ORDER BY b.at_ms DESC, b.part, b.place DESC LIMIT ?"""
_BEYOND = "SELECT at_ms FROM view_story WHERE alone = 1 ORDER BY at_ms DESC LIMIT 1 OFFSET ?"
_FORGET_ALONE = """DELETE FROM view_story WHERE alone = 1 AND at_ms <= ? AND NOT EXISTS (SELECT 1 FROM view_item i
    WHERE i.tenant = view_story.tenant AND i.action_id = view_story.action_id)"""
_ORDERS: Mapping[Order, tuple[str, str]] = {
    "deadline": ("decide_by_ms", "cheapness"),
    "uncertain": ("sureness", "decide_by_ms"),
}


def open_view(place: str | Path) -> SqlStore:
    """Open the view that the setting `store` names."""
    return SqlStore(open_database(place))


class SqlStore(Tables, Store):
    """A `Store` over a database, which it closes with itself. Tables are made with the first use."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, prepare)
        self._generation: int | None = None

    # --- folding ---

    async def offsets(self) -> dict[Partition, int]:
        """Return the offset of the last record that each partition was read to."""
        self._generation, found = await self._write(_offsets)
        return found

    async def apply(self, changes: Sequence[Change], offsets: Mapping[Partition, int], *, as_of_ms: int = 0) -> bool:
        """Take in records in the order of the log; False: the view was rebuilt, ask for `offsets` again."""
        generation = self._generation
        return await self._write(lambda tx: _apply(tx, changes, offsets, as_of_ms, generation))

    async def forget(self, before_ms: int, alone_max: int = ALONE_MAX) -> None:
        """Drop the records of stories that are too old, or too many of what nobody had to do with."""

        def work(tx: Tx) -> None:
            for table in ("view_story", "view_story_by"):
                tx.rows(f"DELETE FROM {table} WHERE at_ms < ?", (before_ms,))
            for (last_ms,) in tx.rows(_BEYOND, (alone_max,)):
                tx.rows(_FORGET_ALONE, (last_ms,))

        await self._write(work)

    async def rebuild(self) -> Dropped:
        """Drop every row and offset of the view, and keep the claims; return how much that was."""
        return await self._write(_rebuild)

    async def stale_ms(self, now_ms: int) -> int | None:
        """Return how far the view is behind, by its slowest partition; None: it has not read anything yet."""
        ((as_of_ms,),) = await self._read(lambda tx: tx.rows("SELECT MIN(as_of_ms) FROM view_mark"))
        return None if as_of_ms is None else max(now_ms - as_of_ms, 0)

    # --- what waits ---

    async def next(
        self, viewer: Viewer, now_ms: int, *, order: Order = "deadline", limit: int = 1, without: Collection[str] = ()
    ) -> tuple[OpenItem, ...]:
        """Return what could be put to a person next, the most pressing first, claiming nothing."""
        wanted = min(limit, NEXT_MAX)

        def work(tx: Tx) -> tuple[OpenItem, ...]:
            found = candidates(tx, viewer, now_ms, order, wanted, without, own=True)
            return tuple(item for one in found if (item := _open_item(tx, one)) is not None)

        return await self._read(work)

    async def take(
        self, viewer: Viewer, now_ms: int, *, order: Order = "deadline", without: Collection[str] = ()
    ) -> Taken | None:
        """Claim the next item that nobody holds for a person; None: there is none."""
        for _ in range(TRIES_MAX):
            found = await self._write(lambda tx: _take(tx, viewer, now_ms, order, without))
            if not isinstance(found, int):
                return found
        return None

    async def item(self, item: str, viewer: Viewer, now_ms: int) -> OpenItem | EndedItem | None:
        """Return one item, if this person may see it now."""
        return await self._read(lambda tx: _item(tx, item, viewer, now_ms))

    async def said(self, item: str, person: str) -> tuple[HumanDecision, ...]:
        """Return what a person has said on an item, and what each of it did, oldest first."""
        rows = await self._read(lambda tx: tx.rows(_SAID, (item, _text(person), STORY_MAX)))
        found = (decode_human_decision(value) for (value,) in rows)
        return tuple(one for one in found if one.item == item)

    async def claim(self, item: str, viewer: Viewer, now_ms: int) -> Claim | None:
        """Take an item that nobody holds, or keep one that is held already; None: it is not to be had."""
        return await self._write(lambda tx: _claim(tx, item, viewer, now_ms))

    async def renew(self, item: str, person: str, now_ms: int) -> Claim | None:
        """Lengthen a lease that still runs; None: it was lost."""
        sql = "UPDATE claim SET until_ms = ? WHERE item = ? AND person = ? AND until_ms > ? RETURNING item"
        values = (now_ms + LEASE_MS, item, person, now_ms)
        kept = await self._write(lambda tx: tx.rows(sql, values))
        return Claim(item, person, now_ms + LEASE_MS) if kept else None

    async def release(self, item: str, person: str) -> None:
        """Give a lease back."""
        await self._write(lambda tx: tx.rows("DELETE FROM claim WHERE item = ? AND person = ?", (item, person)))

    async def held(self, person: str, now_ms: int) -> tuple[Claim, ...]:
        """Return the leases of a person that still run."""
        sql = "SELECT item, person, until_ms FROM claim WHERE person = ? AND until_ms > ? ORDER BY until_ms, item"
        return tuple(Claim(*row) for row in await self._read(lambda tx: tx.rows(sql, (person, now_ms))))

    async def counts(self, viewer: Viewer) -> tuple[QueueCount, ...]:
        """Return how full each queue is that the viewer may know of."""
        return await self._read(lambda tx: _counts(tx, viewer))

    async def lots(self, viewer: Viewer) -> tuple[LotState, ...]:
        """Return the batches of the viewer's queues, the newest first."""
        if not viewer.queues or viewer.tenants == ():
            return ()
        values: list[Any] = [*viewer.queues, *(viewer.tenants or ())]
        among = f" AND tenant IN ({marks(viewer.tenants)})" if viewer.tenants is not None else ""
        where = f"queue IN ({marks(viewer.queues)}){among}"
        sql = f"SELECT value FROM view_lot WHERE {where} ORDER BY opened_ms DESC, lot LIMIT ?"
        rows = await self._read(lambda tx: tx.rows(sql, (*values, LOTS_MAX)))
        return tuple(decode_lot(value) for (value,) in rows)

    async def exceptions(self, viewer: Viewer, now_ms: int, limit: int = EXCEPTIONS_MAX) -> Exceptions:
        """Return how many exceptions wait, and those that the viewer may decide, claiming nothing."""
        return await self._read(lambda tx: _exceptions(tx, viewer, now_ms, min(limit, EXCEPTIONS_MAX)))

    # --- what was ---

    async def story(self, viewer: Viewer, tenant: str, action_id: str) -> Story:
        """Return all that became of one action; empty where it is unknown, or no tenant of theirs."""
        if not viewer.may_see(tenant):
            return Story(tenant, action_id)
        return await self._read(lambda tx: _story(tx, viewer, tenant, action_id))

    async def search(self, viewer: Viewer, wanted: Search) -> tuple[Hit, ...]:
        """Return the decided actions that fit, newest first."""
        if not viewer.may_see(wanted.tenant):
            return ()
        return await self._read(lambda tx: tuple(_hit(tx, *row) for row in tx.rows(*_search(viewer, wanted))))

    async def judged_by(self, person: str, since_ms: int, limit: int = JUDGED_MAX) -> tuple[HumanDecision, ...]:
        """Return what somebody has said since then, on items of every purpose, newest first."""
        values = (_text(person), since_ms, min(limit, JUDGED_MAX))
        rows = await self._read(lambda tx: tx.rows(_JUDGED_BY, values))
        return tuple(decode_human_decision(value) for (value,) in rows)

    async def approved(self, viewer: Viewer, before_ms: int, limit: int = APPROVED_MAX) -> tuple[HumanDecision, ...]:
        """Return what people approved before a time, of the viewer's tenants and queues, the newest first."""
        if not viewer.queues or viewer.tenants == ():
            return ()
        among = f" AND tenant IN ({marks(viewer.tenants)})" if viewer.tenants is not None else ""
        sql = (
            f"SELECT value FROM view_story WHERE kind = 'decision' AND at_ms < ?{among}"
            " ORDER BY at_ms DESC, topic, part, place LIMIT ?"
        )
        values = (before_ms, *(viewer.tenants or ()), min(limit, APPROVED_MAX))
        found = [decode_human_decision(value) for (value,) in await self._read(lambda tx: tx.rows(sql, values))]
        return tuple(one for one in found if one.verdict == "approve" and one.queue in viewer.queues)


# --- tables -----------------------------------------------------------------------------------------------------------


def prepare(tx: Tx) -> None:
    """Make the tables, or make older ones anew; raise `SettingsError` where they are of a newer version."""
    tx.alone("view")
    tx.rows(
        "CREATE TABLE IF NOT EXISTS view_version"
        " (one INTEGER PRIMARY KEY, version BIGINT NOT NULL, generation BIGINT NOT NULL)"
    )
    found = tx.rows("SELECT version, generation FROM view_version")
    version, generation = found[0] if found else (0, 0)
    _refuse_newer(version)
    if version < VERSION:
        for table in TABLES:
            tx.rows(f"DROP TABLE IF EXISTS {table}")
        for statement in SCHEMA:
            tx.rows(statement)
        tx.rows("DELETE FROM view_version")
        tx.rows("INSERT INTO view_version (one, version, generation) VALUES (1, ?, ?)", (VERSION, generation + 1))


def _refuse_newer(version: int) -> None:
    if version > VERSION:
        raise SettingsError(
            f"store: the view has tables of version {version}, this hitl knows {VERSION}; start the newer hitl, or "
            "give this one a store of its own (HITL_STORE): a view is read from Kafka anew"
        )


def _rebuild(tx: Tx) -> Dropped:
    _locked_generation(tx)
    counts = [tx.rows(f"SELECT COUNT(*) FROM {table}")[0][0] for table in ("view_item", "view_lot", "view_story")]
    for table in TABLES:
        tx.rows(f"DELETE FROM {table}")
    tx.rows("UPDATE view_version SET generation = generation + 1")
    return Dropped(*counts)


def _locked_generation(tx: Tx) -> int:
    ((version, generation),) = tx.rows(f"SELECT version, generation FROM view_version{tx.lock}")
    _refuse_newer(version)
    return int(generation)


# --- folding ----------------------------------------------------------------------------------------------------------


def _offsets(tx: Tx) -> tuple[int, dict[Partition, int]]:
    generation = _locked_generation(tx)
    rows = tx.rows("SELECT topic, part, place FROM view_mark WHERE place >= 0")
    return generation, {(topic, part): place for topic, part, place in rows}


def _apply(
    tx: Tx, changes: Sequence[Change], offsets: Mapping[Partition, int], as_of_ms: int, generation: int | None
) -> bool:
    if _locked_generation(tx) != generation:
        return False
    read = {(topic, part): (place, at) for topic, part, place, at in tx.rows("SELECT * FROM view_mark")}
    fresh = [one for one in changes if one.source.offset > read.get(_partition(one), (-1, 0))[0]]
    _apply_items(tx, [one for one in fresh if isinstance(one, ItemPut | ItemGone)])
    _apply_lots(tx, [one for one in fresh if isinstance(one, LotPut | LotGone)])
    _apply_stories(tx, [one for one in fresh if isinstance(one, StoryPut)])
    for partition, offset in offsets.items():
        place, at = read.get(partition, (-1, 0))
        read[partition] = (max(place, offset), max(at, as_of_ms))
    tx.many(
        "INSERT INTO view_mark (topic, part, place, as_of_ms) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (topic, part) DO UPDATE SET place = excluded.place, as_of_ms = excluded.as_of_ms",
        [(*partition, *read[partition]) for partition in sorted(offsets)],
    )
    return True


def _partition(change: Change) -> Partition:
    return change.source.topic, change.source.partition


def _apply_items(tx: Tx, changes: Iterable[ItemPut | ItemGone]) -> None:
    newest = {one.item: one for one in changes}
    names = [(item,) for item in newest]
    puts = [one for one in newest.values() if isinstance(one, ItemPut)]
    gone = [(item,) for item, one in newest.items() if isinstance(one, ItemGone)]
    over = [(item,) for item, one in newest.items() if isinstance(one, ItemGone) or one.ended]
    for table in ("view_need", "view_barred", "view_kind"):
        tx.many(f"DELETE FROM {table} WHERE item = ?", names)
    tx.many("DELETE FROM view_item WHERE item = ?", gone)
    # Never deleted and inserted anew: whoever waits for the row to claim it would then find it gone.
    tx.many(
        "INSERT INTO view_item (item, tenant, action_id, is_open, ended, value) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (item) DO UPDATE SET tenant = excluded.tenant, action_id = excluded.action_id,"
        " is_open = excluded.is_open, ended = excluded.ended, value = excluded.value",
        [
            (
                one.item,
                _text(one.tenant),
                _text(one.action_id),
                int(one.open),
                int(one.ended),
                one.value,
            )
            for one in puts
        ],
    )
    tx.many(
        "INSERT INTO view_need (item, queue, tenant, for_person, decide_by_ms, cheapness, sureness, opened_ms, unit,"
        " money_micros) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [row for one in puts for row in _needs(one)],
    )
    tx.many(
        "INSERT INTO view_barred (item, person) VALUES (?, ?)",
        [(one.item, person) for one in puts for person in one.barred],
    )
    tx.many(
        "INSERT INTO view_kind (item, kind, raised) VALUES (?, ?, ?)",
        [
            (one.item, _text(kind), int(one.raised))
            for one in puts
            if one.waiting
            for kind in list(dict.fromkeys(one.kinds))[:KINDS_MAX]
        ],
    )
    tx.many("DELETE FROM claim WHERE item = ?", over)


def _needs(one: ItemPut) -> list[Row]:
    # A queue could be asked twice only by mistake; it is waited for once, until the earlier time.
    by_queue: dict[str, int] = {}
    for need in one.waiting:
        by_queue[need.queue] = min(need.decide_by_ms, by_queue.get(need.queue, need.decide_by_ms))
    order = (-one.loss, 1.0 - one.uncertainty, one.opened_ms, one.unit, one.money_micros)
    return [(one.item, queue, _text(one.tenant), one.for_person, until, *order) for queue, until in by_queue.items()]


def _apply_lots(tx: Tx, changes: Iterable[LotPut | LotGone]) -> None:
    newest = {one.lot: one for one in changes}
    tx.many("DELETE FROM view_lot WHERE lot = ?", [(lot,) for lot in newest])
    tx.many(
        "INSERT INTO view_lot (lot, tenant, queue, opened_ms, value) VALUES (?, ?, ?, ?, ?)",
        [
            (_text(one.lot), _text(one.tenant), one.queue, one.opened_ms, one.value)
            for one in newest.values()
            if isinstance(one, LotPut)
        ],
    )


def _apply_stories(tx: Tx, changes: Sequence[StoryPut]) -> None:
    tx.many(
        "INSERT INTO view_story (topic, part, place, kind, tenant, action_id, account, campaign, at_ms, value, alone)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(one.source.topic, one.source.partition, one.source.offset, one.kind),
                *(_text(one.tenant), _text(one.action_id), _text(one.account), _text(one.campaign)),
                *(one.at_ms, one.value, int(not one.by)),
            )
            for one in changes
        ],
    )
    tx.many(
        "INSERT INTO view_story_by (topic, part, place, tenant, person, action_id, at_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(one.source.topic, one.source.partition, one.source.offset),
                *(_text(one.tenant), _text(person), _text(one.action_id), one.at_ms),
            )
            for one in changes
            for person in set(one.by)
        ],
    )


def _text(text: str | None) -> str | None:
    """Return text as a column of either database takes it: Postgres knows no character 0."""
    return text.replace("\0", "\ufffd") if text is not None else None


# --- what waits -------------------------------------------------------------------------------------------------------


def candidates(
    tx: Tx, viewer: Viewer, now_ms: int, order: Order, limit: int, without: Collection[str], *, own: bool
) -> list[str]:
    """Return the items that could be put to a person, the most pressing first.

    `own`: those that they hold themselves are among them.
    """
    if not viewer.queues or viewer.tenants == ():
        return []
    sql, values = candidates_sql(viewer, now_ms, order, limit, without, own=own)
    return list(islice(dict.fromkeys(item for item, *_ in tx.rows(sql, values)), limit))


def candidates_sql(
    viewer: Viewer, now_ms: int, order: Order, limit: int, without: Collection[str], *, own: bool
) -> tuple[str, list[Any]]:
    """Return the statement behind `candidates`: the first of an index for each queue (and tenant), merged."""
    first, second = _ORDERS[order]
    aside = list(without)[-WITHOUT_MAX:]
    fits = "(n.for_person IS NULL OR n.for_person = ?)"
    barred = "NOT EXISTS (SELECT 1 FROM view_barred b WHERE b.item = n.item AND b.person = ?)"
    others = " AND c.person <> ?" if own else ""
    held = f"NOT EXISTS (SELECT 1 FROM claim c WHERE c.item = n.item AND c.until_ms > ?{others})"
    put_aside = f"n.item NOT IN ({marks(aside)})" if aside else "1 = 1"
    shared = [viewer.person, viewer.person, now_ms, *([viewer.person] if own else []), *aside, limit]
    arms: list[str] = []
    values: list[Any] = []
    for condition, asked in _arms(viewer):
        arms.append(
            f"SELECT * FROM (SELECT n.item, n.{first} AS a, n.{second} AS b FROM view_need n"
            f" WHERE {condition} AND {fits} AND {barred} AND {held} AND {put_aside}"
            f" ORDER BY n.{first}, n.{second}, n.item LIMIT ?) AS arm"
        )
        values += [*asked, *shared]
    # An item that waits for two queues of one person is found twice.
    values.append(limit * len(viewer.queues))
    return f"{' UNION ALL '.join(arms)} ORDER BY a, b, item LIMIT ?", values


def _arms(viewer: Viewer) -> list[tuple[str, list[str]]]:
    tenants = viewer.tenants
    if tenants is None:
        return [("n.queue = ?", [queue]) for queue in viewer.queues]
    if len(viewer.queues) * len(tenants) <= ARMS_MAX:
        return [("n.queue = ? AND n.tenant = ?", [queue, tenant]) for queue in viewer.queues for tenant in tenants]
    return [(f"n.queue = ? AND n.tenant IN ({marks(tenants)})", [queue, *tenants]) for queue in viewer.queues]


def _take(tx: Tx, viewer: Viewer, now_ms: int, order: Order, without: Collection[str]) -> Taken | int | None:
    """Claim the first candidate that no other console is just claiming; a number: they were all taken meanwhile."""
    found = candidates(tx, viewer, now_ms, order, CANDIDATES, without, own=False)
    for item in found:
        free = tx.rows(f"SELECT item FROM view_item WHERE item = ? AND is_open = 1{tx.skip_locked}", (item,))
        claim = _lease(tx, item, viewer.person, now_ms, own=False) if free else None
        shown = _open_item(tx, item) if claim is not None else None
        if claim is not None and shown is not None:
            return Taken(shown, claim)
    return len(found) or None


def _lease(tx: Tx, item: str, person: str, now_ms: int, *, own: bool) -> Claim | None:
    """Write a claim, unless a lease of somebody else still runs."""
    mine = " OR claim.person = excluded.person" if own else ""
    taken = tx.rows(
        "INSERT INTO claim (item, person, until_ms) VALUES (?, ?, ?) ON CONFLICT (item) DO UPDATE"
        f" SET person = excluded.person, until_ms = excluded.until_ms WHERE claim.until_ms <= ?{mine} RETURNING item",
        (item, person, now_ms + LEASE_MS, now_ms),
    )
    return Claim(item, person, now_ms + LEASE_MS) if taken else None


def _claim(tx: Tx, item: str, viewer: Viewer, now_ms: int) -> Claim | None:
    if not tx.rows(f"SELECT item FROM view_item WHERE item = ? AND is_open = 1{tx.lock}", (item,)):
        return None
    if not any(_may_decide(tx, item, viewer)):
        return None
    return _lease(tx, item, viewer.person, now_ms, own=True)


def _may_decide(tx: Tx, item: str, viewer: Viewer) -> list[bool]:
    """Return, for each approval that an item lacks in a queue of theirs, whether a person may give it."""
    sql = (
        "SELECT n.tenant, n.for_person, EXISTS (SELECT 1 FROM view_barred b WHERE b.item = n.item AND b.person = ?)"
        f" FROM view_need n WHERE n.item = ? AND n.queue IN ({marks(viewer.queues)})"
    )
    return [
        viewer.may_see(tenant) and for_person in (None, viewer.person) and not barred
        for tenant, for_person, barred in tx.rows(sql, (viewer.person, item, *viewer.queues))
    ]


def _open_item(tx: Tx, item: str) -> OpenItem | None:
    rows = tx.rows("SELECT value FROM view_item WHERE item = ? AND ended = 0", (item,))
    return open_item(decode_review(rows[0][0])) if rows else None


def _item(tx: Tx, item: str, viewer: Viewer, now_ms: int) -> OpenItem | EndedItem | None:
    rows = tx.rows("SELECT tenant, ended, value FROM view_item WHERE item = ?", (item,))
    if not rows or not viewer.may_see(rows[0][0]):
        return None
    _, ended, value = rows[0]
    review = decode_review(value)
    if viewer.confined and not _put_to(review, viewer):
        return None
    if ended:
        return EndedItem(review, value)
    if viewer.queues and _is_withheld(tx, review, viewer, now_ms):
        return None
    return open_item(review)


def _put_to(review: ReviewState, viewer: Viewer) -> bool:
    return any(need.queue in viewer.queues for need in review.approvals)


def _is_withheld(tx: Tx, review: ReviewState, viewer: Viewer, now_ms: int) -> bool:
    """Say whether an undecided item is not for somebody who decides: barred, meant for another, held by another."""
    held = tx.rows("SELECT person FROM claim WHERE item = ? AND until_ms > ?", (review.item, now_ms))
    given = {person for need in review.approvals for person in need.by}
    return (
        review.for_ not in (None, viewer.person)
        or viewer.person in review.not_
        or viewer.person in given
        or any(person != viewer.person for (person,) in held)
    )


def open_item(review: ReviewState) -> OpenItem:
    """Return what may be shown of an undecided item."""
    raw = bytes(review.action)
    head = decision_of(review.routed, raw)
    return OpenItem(
        item=review.item,
        tenant=head.tenant,
        hash=review.hash,
        type=head.type,
        level=head.level,
        agent=head.agent,
        entity=head.entity,
        queue=review.queue,
        opened=review.opened,
        approvals=review.approvals,
        execute_by=review.execute_by,
        tier=review.tier,
        floor_s=review.floor_s,
        escalated=review.escalated,
        covered=review.covered,
        batch=review.batch,
        flagged=review.flagged,
        opinions=review.opinions,
        exception=review.exception,
        reasons=head.reasons,
        score=head.score,
        policy=head.policy,
        action=Raw(raw),
    )


def _counts(tx: Tx, viewer: Viewer) -> tuple[QueueCount, ...]:
    where, values = _scope(viewer)
    rows = tx.rows(
        "SELECT queue, unit, COUNT(*), MIN(opened_ms), SUM(money_micros) FROM view_need"
        f" WHERE {where} GROUP BY queue, unit ORDER BY queue, unit",
        values,
    )
    found: dict[str, QueueCount] = {}
    for queue, unit, count, oldest_ms, micros in rows:
        known = found.get(queue, QueueCount(queue, 0, oldest_ms, {}))
        money = {**known.money, unit: Decimal(int(micros)) / MICROS} if unit else known.money
        found[queue] = QueueCount(queue, known.open + count, min(known.oldest_ms, oldest_ms), money)
    return tuple(found.values())


def _scope(viewer: Viewer) -> tuple[str, list[str]]:
    conditions: list[str] = ["1 = 1"]
    values: list[str] = []
    if viewer.tenants is not None:
        conditions.append(f"tenant IN ({marks(viewer.tenants)})")
        values += viewer.tenants
    if viewer.confined:
        conditions.append(f"queue IN ({marks(viewer.queues)})")
        values += viewer.queues
    return " AND ".join(conditions), values


def _exceptions(tx: Tx, viewer: Viewer, now_ms: int, limit: int) -> Exceptions:
    where, values = _scope(viewer)
    counted = tx.rows(
        "SELECT k.kind, COUNT(DISTINCT k.item), MIN(opened_ms) FROM view_kind k JOIN view_need n ON n.item = k.item"
        f" WHERE {where} GROUP BY k.kind ORDER BY k.kind",
        values,
    )
    items = (_open_item(tx, item) for item in _raised(tx, viewer, now_ms, limit))
    return Exceptions(tuple(ExceptionCount(*row) for row in counted), tuple(one for one in items if one is not None))


def _raised(tx: Tx, viewer: Viewer, now_ms: int, limit: int) -> list[str]:
    """Return what could not be carried out and waits for this person, as `candidates` would give it to them."""
    if not viewer.queues or viewer.tenants == ():
        return []
    among = f" AND n.tenant IN ({marks(viewer.tenants)})" if viewer.tenants is not None else ""
    sql = (
        "SELECT n.item FROM view_kind k JOIN view_need n ON n.item = k.item"
        f" WHERE k.raised = 1 AND n.queue IN ({marks(viewer.queues)}){among}"
        " AND (n.for_person IS NULL OR n.for_person = ?)"
        " AND NOT EXISTS (SELECT 1 FROM view_barred b WHERE b.item = n.item AND b.person = ?)"
        " AND NOT EXISTS (SELECT 1 FROM claim c WHERE c.item = n.item AND c.until_ms > ? AND c.person <> ?)"
        " GROUP BY n.item ORDER BY MIN(n.decide_by_ms), n.item LIMIT ?"
    )
    person = viewer.person
    values = (*viewer.queues, *(viewer.tenants or ()), person, person, now_ms, person, limit)
    return [str(item) for (item,) in tx.rows(sql, values)]


# --- what was ---------------------------------------------------------------------------------------------------------


def _story(tx: Tx, viewer: Viewer, tenant: str, action_id: str) -> Story:
    asked = (_text(tenant), _text(action_id))
    found = tx.rows("SELECT ended, value FROM view_item WHERE tenant = ? AND action_id = ? ORDER BY item", asked)
    items = [(ended, value, decode_review(value)) for ended, value in found]
    undecided = any(not ended for ended, *_ in items)
    if undecided and viewer.queues:
        return Story(tenant, action_id, undecided=True)
    if viewer.confined:
        items = [one for one in items if _put_to(one[2], viewer)]
        if not items:
            return Story(tenant, action_id)
    # While anybody is still asked, a decision would tell of what is only a second look.
    secret = " AND kind <> 'decision'" if undecided else ""
    rows = tx.rows(
        f"SELECT kind, at_ms, topic, part, place, value FROM view_story WHERE tenant = ? AND action_id = ?{secret}"
        " ORDER BY at_ms, topic, part, place LIMIT ?",
        (*asked, STORY_MAX),
    )
    return Story(
        tenant,
        action_id,
        tuple(EndedItem(review, value) for ended, value, review in items if ended),
        tuple(
            StoryRow(kind, at_ms, f"{topic}/{part}/{place}", value) for kind, at_ms, topic, part, place, value in rows
        ),
        undecided,
    )


def _search(viewer: Viewer, wanted: Search) -> tuple[str, list[Any]]:
    """Return the statement of a search. Who is confined finds what they decided themselves."""
    person = viewer.person if viewer.confined else wanted.reviewer
    table = "view_story_by" if person is not None else "view_story"
    conditions: list[str] = ["s.tenant = ?"]
    values: list[Any] = [_text(wanted.tenant)]
    for column, value in (("person", person), ("action_id", wanted.action_id)):
        if value is not None:
            conditions.append(f"s.{column} = ?")
            values.append(_text(value))
    places = {"account": wanted.account, "campaign": wanted.campaign}
    asked = {column: value for column, value in places.items() if value is not None}
    if asked and person is None:
        conditions += [f"s.{column} = ?" for column in asked]
        values += [_text(value) for value in asked.values()]
    elif asked:
        among = " AND ".join(f"t.{column} = ?" for column in asked)
        conditions.append(
            "EXISTS (SELECT 1 FROM view_story t WHERE t.topic = s.topic AND t.part = s.part AND t.place = s.place"
            f" AND {among})"
        )
        values += [_text(value) for value in asked.values()]
    if viewer.queues:
        conditions.append(
            "NOT EXISTS (SELECT 1 FROM view_item i"
            " WHERE i.tenant = s.tenant AND i.action_id = s.action_id AND i.ended = 0)"
        )
    sql = (
        f"SELECT s.tenant, s.action_id, MAX(s.at_ms) FROM {table} s WHERE {' AND '.join(conditions)}"
        " GROUP BY s.tenant, s.action_id ORDER BY MAX(s.at_ms) DESC, s.action_id LIMIT ?"
    )
    return sql, [*values, min(wanted.limit, STORY_MAX)]


def _hit(tx: Tx, tenant: str, action_id: str, at_ms: int) -> Hit:
    rows = tx.rows(
        "SELECT kind, value FROM view_story s WHERE tenant = ? AND action_id = ? AND (kind <> 'decision' OR NOT EXISTS"
        " (SELECT 1 FROM view_item i WHERE i.tenant = s.tenant AND i.action_id = s.action_id AND i.ended = 0))"
        " ORDER BY CASE kind WHEN 'decision' THEN 1 ELSE 0 END, at_ms DESC, topic, part, place DESC LIMIT 1",
        (_text(tenant), _text(action_id)),
    )
    return Hit(tenant, action_id, at_ms, *(rows[0] if rows else ()))
