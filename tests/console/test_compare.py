"""A view holds what a rebuild from the topics would; where it does not, each difference is named."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from hitl_stream.cli.logs import compared_too
from hitl_stream.console.compare import Compared, compared, rows_of
from hitl_stream.console.database import Tx
from hitl_stream.console.view import VERSION, SqlStore, open_view
from hitl_stream.core.errors import UsageError
from hitl_stream.core.ledger import Ledger
from hitl_stream.core.review import State
from support.kafka import within
from support.make import FakeRecord
from support.view import KEYS, ends, folded, gone, lot, record, review

pytestmark = pytest.mark.behaviour("I13")
LOG = (
    review("i1", 0),
    review("i2", 1, queues={"trading": ("ana",)}, people=1, state=State.APPROVED),
    review("i3", 2, queues=("trading", "brand"), barred=("dana",)),
    lot(offset=3),
    review("i1", 4, state=State.REJECTED),
    review("i4", 5),
    gone("i4", 6),
)


@pytest.fixture(params=("sqlite", "postgres"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a view stands."""
    return str(tmp_path / "view.db") if request.param == "sqlite" else str(request.getfixturevalue("postgres"))


def looked_at(
    place: str,
    read: Sequence[FakeRecord] = LOG,
    log: Sequence[FakeRecord] = LOG,
    spoil: Callable[[Tx], object] | None = None,
    *,
    is_cut: bool = False,
) -> Compared:
    """Fold `read` into a view, spoil it, and compare it with `log`."""

    async def batches() -> AsyncIterator[tuple[str, int, Sequence[FakeRecord]]]:
        for one in log:
            yield "hitl.reviews", 0, [one]

    async def scenario() -> Compared:
        store: SqlStore = open_view(place)
        try:
            await store.offsets()
            changes = folded(*read)
            await store.apply(changes, ends(changes))
            if spoil is not None:
                await store.database.write(spoil)
        finally:
            await store.close()
        return await compared(await rows_of(place), batches(), KEYS, is_cut=is_cut)

    return within(scenario())


def told(found: Compared) -> list[tuple[str, str]]:
    return [(one.name, one.what) for one in found.differences]


def test_a_view_that_read_everything_is_what_a_rebuild_gives(place: str):
    found = looked_at(place)
    assert told(found) == []
    assert (found.items, found.lots, found.moving, found.unjudged, found.found) == (3, 1, 0, 0, 0)


@pytest.mark.parametrize("compacted", [LOG, LOG[1:]])
def test_what_has_changed_since_the_view_read_it_is_counted_and_not_compared(
    place: str, compacted: Sequence[FakeRecord]
):
    """Of i1 a compacted log may have no more than what came later."""
    found = looked_at(place, LOG[:3], compacted)
    assert told(found) == []
    assert found.moving == 3  # i1, i4 and the batch


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DELETE FROM view_item WHERE item = 'i3'", ("i3", "stands in the topics (OPEN), and not in the view")),
        ("DELETE FROM view_lot", ("batch/acme/acc-17/b-7", "stands in the topics (GATHERING), and not in the view")),
        (
            "UPDATE view_item SET value = (SELECT v.value FROM view_item v WHERE v.item = 'i2') WHERE item = 'i1'",
            ("i1", "is APPROVED in the view, and REJECTED in the topics"),
        ),
        ("DELETE FROM view_need WHERE queue = 'brand'", ("i3", "waits for trading until 2026-11-21T08:10:00.140Z in")),
        ("DELETE FROM view_barred WHERE item = 'i3'", ("i3", "may not be decided by nobody in the view, and by dana")),
        ("UPDATE view_item SET is_open = 1 WHERE item = 'i1'", ("i1", "is listed as ('acme', 'act-1', 1, 1) in")),
        ("UPDATE view_item SET tenant = 'other' WHERE item = 'i1'", ("i1", "is listed as ('other', 'act-1', 0, 1) in")),
        ("UPDATE view_need SET decide_by_ms = 0 WHERE queue = 'brand'", ("i3", "brand until 1970-01-01T00:00:00.000Z")),
    ],
)
def test_a_row_that_is_missing_or_another_is_named(place: str, sql: str, expected: tuple[str, str]):
    found = looked_at(place, spoil=lambda tx: tx.rows(sql))
    ((name, what),) = told(found)
    assert name == expected[0]
    assert expected[1] in what
    assert found.differences[0].place.startswith("hitl.reviews/0/")


def test_an_item_that_the_log_does_not_have_is_named_unless_the_log_lost_its_beginning(place: str):
    assert told(looked_at(place, log=LOG[1:4] + LOG[5:])) == [
        ("i1", "stands in the view (REJECTED), and not in the topics")
    ]


def test_where_the_log_lost_its_beginning_nobody_can_tell(place: str):
    found = looked_at(place, log=LOG[1:4] + LOG[5:], is_cut=True)
    assert (told(found), found.unjudged) == ([], 1)


def test_what_is_sealed_by_nobody_is_in_no_view(place: str):
    forged = record("reviews", "review/1", "i9", b'{"item":"i9"}', 7)
    found = looked_at(place, (*LOG, forged), (*LOG, forged))
    assert (told(found), found.unreadable) == ([], 1)


def test_without_a_view_it_is_said_what_was_expected(tmp_path: Path):
    with pytest.raises(UsageError, match=r"there is no view; expected the SQLite file or the DSN"):
        within(rows_of(tmp_path / "nothing.db"))
    (tmp_path / "empty.db").touch()
    with pytest.raises(UsageError, match=f"no tables of a view, expected version {VERSION}"):
        within(rows_of(tmp_path / "empty.db"))


def test_the_report_of_verify_says_what_differs(tmp_path: Path):
    report = Ledger().close({}, {})
    good = compared_too(report, looked_at(str(tmp_path / "good.db")))
    assert (good.ok, good.notes) == (True, ())
    found = looked_at(str(tmp_path / "bad.db"), spoil=lambda tx: tx.rows("DELETE FROM view_item WHERE item = 'i3'"))
    bad = compared_too(report, found)
    assert not bad.ok
    assert {row.invariant: (row.checked, row.violations, row.verdict) for row in bad.rows}["I13"] == (4, 1, "violated")
    assert bad.violations[0].what == "i3 stands in the topics (OPEN), and not in the view"
    assert bad.violations[0].places == ("hitl.reviews/0/2",)
