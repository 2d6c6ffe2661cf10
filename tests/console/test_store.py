"""What every store of the view does alike: one suite over SQLite and Postgres."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hitl_stream.console.database import DatabaseError, Tx, open_database
from hitl_stream.console.store import (
    LEASE_MS,
    LOTS_MAX,
    EndedItem,
    ItemPut,
    OpenItem,
    Order,
    Search,
    Source,
    Viewer,
    Waiting,
    viewer_of,
)
from hitl_stream.console.view import TABLES, VERSION, SqlStore, candidates_sql, open_view
from hitl_stream.core.errors import SettingsError
from hitl_stream.core.events import Purpose
from hitl_stream.core.review import State
from support.kafka import within
from support.make import NOW_MS, FakeRecord, change, iso, make_policy
from support.view import SECRETS, approval, closed, ends, flagged, folded, gone, judged, lot, raised, result, review

T = TypeVar("T")
KINDS = ("sqlite", "postgres")
ANA = Viewer("ana", ("acme",), ("trading",))
BEN = Viewer("ben", ("acme",), ("trading",))
AUDITOR = Viewer("uma")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a view may stand: what the setting `store` would say."""
    if request.param == "sqlite":
        return str(tmp_path / "state" / "view.db")
    return str(request.getfixturevalue("postgres"))


@asynccontextmanager
async def opened(place: str, *records: FakeRecord) -> AsyncIterator[SqlStore]:
    """Give a store into which some records were folded."""
    store = open_view(place)
    try:
        await store.offsets()
        if records:
            await put(store, *records)
        yield store
    finally:
        await store.close()


async def put(store: SqlStore, *records: FakeRecord, as_of_ms: int = 0) -> bool:
    changes = folded(*records)
    return await store.apply(changes, ends(changes), as_of_ms=as_of_ms)


def ask(place: str, question: Callable[[SqlStore], Awaitable[T]], *records: FakeRecord) -> T:
    """Open a store, fold records, ask one thing of it, close it."""

    async def scenario() -> T:
        async with opened(place, *records) as store:
            return await question(store)

    return within(scenario())


def names(items: Sequence[OpenItem]) -> list[str]:
    return [item.item for item in items]


def waiting(place: str, *records: FakeRecord, viewer: Viewer = ANA, **options: Any) -> list[str]:
    """Return the items that could be put to somebody next."""
    options.setdefault("limit", 10)
    return names(ask(place, lambda store: store.next(viewer, NOW_MS, **options), *records))


# --- folding ----------------------------------------------------------------------------------------------------------


def test_the_offsets_are_those_of_the_last_records(place: str):
    async def scenario() -> None:
        async with opened(place) as store:
            assert await store.offsets() == {}
            assert await store.apply(folded(review("i1", 7)), {("reviews", 0): 9, ("results", 3): 0})
            assert await store.offsets() == {("reviews", 0): 9, ("results", 3): 0}

    within(scenario())


def test_offsets_and_rows_outlive_the_process(place: str):
    ask(place, lambda store: store.offsets(), review("i1", 7))

    assert ask(place, lambda store: store.offsets()) == {("reviews", 0): 7}
    assert waiting(place) == ["i1"]


def test_a_batch_at_or_below_a_stored_offset_changes_nothing(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 5)) as store:
            await put(store, review("i1", 5, state=State.REJECTED))
            await put(store, review("i1", 4, state=State.REJECTED), gone("i1", 3))
            assert names(await store.next(ANA, NOW_MS)) == ["i1"]
            assert await store.offsets() == {("reviews", 0): 5}

    within(scenario())


def test_of_a_batch_that_overlaps_only_what_is_new_counts(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 5)) as store:
            await put(store, gone("i1", 5), review("i2", 6))
            assert names(await store.next(ANA, NOW_MS, limit=9)) == ["i1", "i2"]

    within(scenario())


def test_partitions_are_read_apart(place: str):
    assert waiting(place, review("i1", 5), review("i2", 1, partition=3)) == ["i1", "i2"]


def test_the_newest_state_of_an_item_is_what_counts(place: str):
    assert waiting(place, review("i1", 1), review("i1", 2, state=State.APPROVED), review("i1", 3)) == ["i1"]
    assert waiting(place, review("i1", 4, state=State.APPROVED)) == []


def test_an_item_that_is_gone_is_gone(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1, state=State.APPROVED), gone("i1", 2)) as store:
            assert await store.item("i1", AUDITOR, NOW_MS) is None

    within(scenario())


def test_a_batch_that_fails_half_way_changes_nothing(place: str):
    async def scenario() -> None:
        async with opened(place) as store:
            good, broken = folded(review("i1", 1), review("i2", 2))
            with pytest.raises(Exception):  # noqa: B017  each driver has its own
                await store.apply([good, msgspec.structs.replace(broken, value=None)], {("reviews", 0): 2})
            assert await store.offsets() == {}
            assert await store.next(ANA, NOW_MS) == ()

    within(scenario())


def test_a_character_that_postgres_does_not_know_breaks_nothing(place: str):
    found = ask(
        place,
        lambda store: store.story(AUDITOR, "acme", "a\0b"),
        result(1, action_id="a\0b"),
        review("i1", 1, action_id="a\0b", state=State.APPROVED),
    )

    assert (len(found.rows), len(found.items)) == (1, 1)


def test_the_view_says_how_far_it_is_behind(place: str):
    async def scenario() -> list[int | None]:
        async with opened(place) as store:
            said = [await store.stale_ms(NOW_MS)]
            await store.apply([], {("reviews", 0): 5, ("results", 0): 3}, as_of_ms=NOW_MS - 900)
            await store.apply([], {("reviews", 0): 5}, as_of_ms=NOW_MS - 100)
            said.append(await store.stale_ms(NOW_MS))
            await store.apply([], {("results", 0): 3}, as_of_ms=NOW_MS - 50)
            said.append(await store.stale_ms(NOW_MS))
            await store.apply([], {("results", 0): 3}, as_of_ms=NOW_MS - 5_000)
            return [*said, await store.stale_ms(NOW_MS), await store.stale_ms(NOW_MS - 5_000)]

    assert within(scenario()) == [None, 900, 100, 100, 0]


def test_who_may_decide_again_is_asked_again(place: str):
    assert waiting(place, review("i1", 1, barred=("ana",)), review("i1", 2)) == ["i1"]
    assert waiting(place, review("i1", 3, barred=("ana",))) == []
    assert waiting(place, review("i1", 4)) == ["i1"]


# --- rebuild and versions ---------------------------------------------------------------------------------------------


def test_a_rebuild_drops_what_was_folded_and_keeps_the_claims(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1), lot(offset=2), result(1), judged(offset=1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            await store.rebuild()
            assert await store.offsets() == {}
            assert await rows(store) == {table: [] for table in TABLES}
            assert [one.item for one in await store.held("ana", NOW_MS)] == ["i1"]

    within(scenario())


def test_a_console_that_reads_on_after_a_rebuild_is_told_to_begin_anew(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as reader, opened(place) as other:
            await other.rebuild()
            assert not await put(reader, review("i2", 2))
            assert await reader.offsets() == {}
            assert await put(reader, review("i1", 1), review("i2", 2))
            assert names(await reader.next(ANA, NOW_MS, limit=9)) == ["i1", "i2"]

    within(scenario())


def test_nothing_is_applied_before_the_offsets_were_asked_for(place: str):
    async def scenario() -> None:
        store = open_view(place)
        try:
            assert not await put(store, review("i1", 1))
        finally:
            await store.close()

    within(scenario())


def set_version(place: str, version: int) -> None:
    async def work() -> None:
        database = open_database(place)
        await database.write(lambda tx: tx.rows("UPDATE view_version SET version = ?", (version,)))
        await database.close()

    within(work())


def test_a_view_of_a_newer_version_is_refused_with_what_to_do(place: str):
    ask(place, lambda store: store.offsets(), review("i1", 1))
    set_version(place, VERSION + 1)

    with pytest.raises(
        SettingsError, match=f"version {VERSION + 1}, this hitl knows {VERSION}; start the newer hitl, or"
    ):
        ask(place, lambda store: store.offsets())


def test_a_running_console_notices_that_a_newer_one_has_taken_over(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.database.write(lambda tx: tx.rows("UPDATE view_version SET version = ?", (VERSION + 1,)))
            with pytest.raises(SettingsError, match="start the newer hitl"):
                await put(store, review("i2", 2))

    within(scenario())


def test_a_view_of_an_older_version_is_dropped_and_read_anew(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)

    within(scenario())
    set_version(place, 0)

    assert ask(place, lambda store: store.offsets()) == {}
    assert [one.item for one in ask(place, lambda store: store.held("ana", NOW_MS))] == ["i1"]


async def rows(store: SqlStore) -> dict[str, list[Any]]:
    """Return every row of the view, in an order that does not depend on how it came about."""

    def work(tx: Tx) -> dict[str, list[Any]]:
        return {table: sorted(map(repr, tx.rows(f"SELECT * FROM {table}"))) for table in TABLES}

    return await store.database.read(work)


def histories() -> st.SearchStrategy[list[FakeRecord]]:
    """Return logs of a few items and actions, in the order in which they were written."""
    item = st.sampled_from(["i1", "i2", "i3"])
    state = st.sampled_from(list(State))
    action = st.sampled_from(["act-1", "act-2"])
    queues = st.sampled_from([("a", "b"), ("b",), {"a": ["ana"], "b": ["ben"]}])
    barred = st.sampled_from([(), ("ana",), ("ana", "eva")])
    one = st.one_of(
        st.builds(lambda i, s, a: lambda n: review(i, n, state=s, action_id=a), item, state, action),
        st.builds(lambda i, q, b: lambda n: review(i, n, queues=q, barred=b), item, queues, barred),
        st.builds(lambda i: lambda n: gone(i, n), item),
        st.builds(lambda s: lambda n: lot(offset=n, state=s), st.sampled_from(["GATHERING", "RELEASED"])),
        st.builds(lambda a: lambda n: result(n, NOW_MS + n, action_id=a), action),
        st.builds(lambda a: lambda n: closed(n, NOW_MS + n, action_id=a), action),
        st.builds(lambda i: lambda n: judged(i, n), item),
    )
    return st.lists(one, max_size=25).map(lambda makers: [make(n) for n, make in enumerate(makers)])


@given(histories(), st.lists(st.integers(1, 7), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_view_that_was_rebuilt_equals_the_one_that_was_followed(place: str, log: list[FakeRecord], steps: list[int]):
    async def scenario() -> None:
        async with opened(place) as store:
            await store.rebuild()
            await store.offsets()
            position = 0
            for step in itertools.cycle(steps):
                if position >= len(log):
                    break
                # Each step reads a little of what was read before, as a console that was restarted does.
                await put(store, *log[max(position - 2, 0) : position + step])
                position += step
            live = await rows(store)
            await store.rebuild()
            await store.offsets()
            await put(store, *log)
            assert await rows(store) == live

    within(scenario())


# --- what comes next --------------------------------------------------------------------------------------------------


def by_time(item: str, offset: int, minutes: int, **parts: Any) -> FakeRecord:
    return review(item, offset, decide_by_ms=NOW_MS + minutes * 60_000, **parts)


def test_what_must_be_decided_first_comes_first(place: str):
    assert waiting(place, by_time("late", 1, 30), by_time("soon", 2, 5), by_time("mid", 3, 10)) == [
        "soon",
        "mid",
        "late",
    ]


def test_of_equal_deadlines_the_larger_expected_loss_comes_first(place: str):
    def bid(item: str, offset: int, after: str, score: float) -> FakeRecord:
        return review(item, offset, score=score, changes=[change("1", after)])

    log = (bid("cheap", 1, "2", 0.5), bid("dear", 2, "101", 0.5), bid("sure", 3, "101", 0.1))

    assert waiting(place, *log) == ["dear", "sure", "cheap"]


def test_the_most_uncertain_can_come_first(place: str):
    log = (by_time("sure", 1, 1, score=0.02), by_time("torn", 2, 9, score=0.5), by_time("bad", 3, 2, score=0.9))

    assert waiting(place, *log, order="uncertain") == ["torn", "bad", "sure"]


@pytest.mark.parametrize("order", ["deadline", "uncertain"])
def test_queues_of_one_person_are_merged(place: str, order: Order):
    log = (
        by_time("a2", 1, 2, queues=["a"], score=0.4),
        by_time("b1", 2, 1, queues=["b"], score=0.5),
        by_time("a3", 3, 3, queues=["a", "b"], score=0.3),
        by_time("c0", 4, 0, queues=["c"]),
    )

    assert waiting(place, *log, viewer=Viewer("ana", None, ("a", "b")), order=order) == ["b1", "a2", "a3"]


def test_a_page_gets_no_more_than_it_asks_for(place: str):
    log = [by_time(f"i{n}", n, n, queues=["a", "b"]) for n in range(9)]

    assert waiting(place, *log, viewer=Viewer("ana", None, ("a", "b")), limit=4) == ["i0", "i1", "i2", "i3"]


@pytest.mark.parametrize(
    ("viewer", "record"),
    [
        (ANA, review(queues=["risk"])),
        (Viewer("ana", ("other",), ("trading",)), review()),
        (Viewer("ana", (), ("trading",)), review()),
        (Viewer("ana", None, ()), review()),
        (ANA, review(barred=("ana",))),
        (ANA, review(queues={"trading": ["ana"]})),
        (ANA, review(queues={"risk": ["ana"], "trading": []})),
        (ANA, review(queues={"trading": ["ben", "eva"]})),
        (ANA, review(for_="ben", purpose=Purpose.CANARY)),
        (ANA, review(state=State.GATHERING)),
        (ANA, review(state=State.LOT)),
        (ANA, review(state=State.PASSED)),
        (ANA, review(state=State.APPROVED)),
    ],
    ids=[
        "another queue", "another tenant", "no tenant", "no queue", "may not decide", "approved already",
        "approved in another queue", "approved by enough", "for another", "gathering", "lot", "passed", "ended",
    ],
)  # fmt: skip
def test_an_item_is_not_put_to_who_may_not_decide_it(place: str, viewer: Viewer, record: FakeRecord):
    async def scenario() -> None:
        async with opened(place, record) as store:
            assert await store.next(viewer, NOW_MS) == ()
            assert await store.take(viewer, NOW_MS) is None
            assert await store.claim("i1", viewer, NOW_MS) is None

    within(scenario())


@pytest.mark.parametrize(
    ("viewer", "record"),
    [
        (ANA, review(for_="ana", purpose=Purpose.CANARY)),
        (ANA, review(queues={"trading": ["ben"]})),
        (ANA, review(queues={"risk": ["ben"], "trading": []})),
        (Viewer("ana", None, ("trading",)), review()),
        (Viewer("ana", ("acme", "other"), ("risk", "trading")), review()),
        (Viewer("ana", ("acme", *(f"t{n}" for n in range(300))), ("risk", "trading")), review()),
    ],
    ids=["for this person", "one of two has approved", "another queue is done", "every tenant", "several", "very many"],
)
def test_an_item_is_put_to_who_may_decide_it(place: str, viewer: Viewer, record: FakeRecord):
    async def scenario() -> None:
        async with opened(place, record) as store:
            assert names(await store.next(viewer, NOW_MS)) == ["i1"]
            taken = await store.take(viewer, NOW_MS)
            assert taken is not None
            assert (taken.item.item, taken.claim.person) == ("i1", viewer.person)

    within(scenario())


def test_what_a_person_has_put_aside_does_not_come_again(place: str):
    log = (by_time("i1", 1, 1), by_time("i2", 2, 2), by_time("i3", 3, 3))

    assert waiting(place, *log, without=["i1", "i3"]) == ["i2"]


def test_an_external_role_confines_a_person_to_its_queue():
    queues = {
        "trading": {"roles": ["trader"], "sla": "15m", "owner": "o"},
        "client": {"roles": ["client", "lead"], "sla": "1d", "owner": "o", "external": True},
    }
    policy = make_policy(queues=queues)

    assert viewer_of("eva", ["acme"], ["client"], policy) == Viewer("eva", ("acme",), ("client",), confined=True)
    assert not viewer_of("tess", None, ["trader", "client"], policy).confined
    assert viewer_of("uma", None, ["auditor"], policy) == Viewer("uma")


@pytest.mark.behaviour("C8")
def test_who_is_confined_sees_only_what_is_put_to_their_queue(place: str):
    eva = Viewer("eva", ("acme",), ("client",), confined=True)

    async def scenario() -> None:
        log = (
            review("hers", 1, queues=["client"], action_id="a1"),
            review("ours", 2, queues=["trading"], action_id="a2"),
            review("done", 3, queues={"client": ["x", "y"]}, state=State.APPROVED, action_id="a3"),
            review("past", 4, queues={"trading": ["x", "y"]}, state=State.APPROVED, action_id="a4"),
        )
        async with opened(place, *log, result(1, action_id="a3"), result(2, action_id="a4")) as store:
            seen = {name: await store.item(name, eva, NOW_MS) is not None for name in ("hers", "ours", "done", "past")}
            assert seen == {"hers": True, "ours": False, "done": True, "past": False}
            assert [row.queue for row in await store.counts(eva)] == ["client"]
            assert len((await store.story(eva, "acme", "a3")).rows) == 1
            assert (await store.story(eva, "acme", "a4")).rows == ()
            assert await store.search(eva, Search(tenant="acme")) == ()

    within(scenario())


def item_put(item: str, offset: int, queue: str = "trading", later_ms: int = 0) -> ItemPut:
    """Return what an open item changes, without building its record anew."""
    needs = (Waiting(queue, NOW_MS + later_ms),)
    source = Source("reviews", 0, offset)
    return msgspec.structs.replace(template(), source=source, item=item, waiting=needs, barred=("zoe",))


@cache
def template() -> ItemPut:
    (found,) = folded(review())
    assert isinstance(found, ItemPut)
    return found


PLANS: list[tuple[Viewer, Order, str]] = [
    (Viewer("ana", ("acme",), ("trading", "risk")), "deadline", "view_need_tenant_deadline"),
    (Viewer("ana", ("acme",), ("trading", "risk")), "uncertain", "view_need_tenant_uncertain"),
    (Viewer("ana", None, ("trading", "risk")), "deadline", "view_need_deadline"),
    (Viewer("ana", None, ("trading", "risk")), "uncertain", "view_need_uncertain"),
]


def test_ten_thousand_open_items_are_as_quick_as_ten(place: str):
    """The next item is the first that fits in an index: nothing is sorted, and no table read as a whole."""

    async def scenario() -> None:
        async with opened(place) as store:
            queues = ("trading", "risk")
            many = [item_put(f"i{n}", n, queue=queues[n % 2], later_ms=n * 7919 % 10_007) for n in range(10_000)]
            await store.apply(many, {("reviews", 0): 10_000})
            await store.database.write(lambda tx: tx.rows("ANALYZE"))
            for viewer, order, index in PLANS:
                sql, values = candidates_sql(viewer, NOW_MS, order, 4, ["i1"], own=True)
                plan = await store.database.read(lambda tx, asked=(sql, values): tx.explain(*asked))
                assert plan.count(f"{index} ") == len(viewer.queues), plan
                assert "Seq Scan on view_need" not in plan, plan
                assert "SCAN n" not in plan, plan
                assert len(await store.next(viewer, NOW_MS, order=order, limit=4)) == 4

    within(scenario())


# --- what is handed out -----------------------------------------------------------------------------------------------


def disguised(item: str, offset: int, purpose: Purpose) -> FakeRecord:
    """Return an item of some purpose that is otherwise like any other."""
    for_ = None if purpose is Purpose.DECIDE else "ana"
    return review(item, offset, purpose=purpose, for_=for_, barred=("dana",), action_id="act-secret")


BLIND = (Purpose.AUDIT, Purpose.SECOND, Purpose.CANARY)


@pytest.mark.parametrize("purpose", BLIND)
def test_nothing_that_is_handed_out_tells_a_planted_item_from_another(place: str, purpose: Purpose):
    async def scenario() -> list[OpenItem]:
        async with opened(place, disguised("i1", 1, purpose), disguised("i2", 2, Purpose.DECIDE)) as store:
            found = [*await store.next(ANA, NOW_MS, limit=2)]
            for item in ("i1", "i2"):
                shown = await store.item(item, ANA, NOW_MS)
                assert isinstance(shown, OpenItem)
                found.append(shown)
            taken = await store.take(ANA, NOW_MS)
            assert taken is not None
            return [*found, taken.item]

    planted, real, *more = within(scenario())

    assert msgspec.structs.replace(planted, item="i2") == real
    assert more == [planted, real, planted]


def test_an_open_item_has_no_field_that_says_why_or_of_whom_it_is_asked(place: str):
    (found,) = ask(place, lambda store: store.next(ANA, NOW_MS), disguised("i1", 1, Purpose.CANARY))

    said = msgspec.json.encode(msgspec.structs.replace(found, action=msgspec.Raw(b"{}"))).decode()
    assert [secret for secret in SECRETS if f'"{secret}"' in said] == []
    assert "canary" not in said
    assert "dana" not in said
    assert b"act-secret" in bytes(found.action)


def test_an_item_that_has_ended_is_shown_whole(place: str):
    found = ask(
        place,
        lambda store: store.item("i1", ANA, NOW_MS),
        review("i1", 1, purpose=Purpose.CANARY, for_="ana", state=State.REJECTED),
    )

    assert isinstance(found, EndedItem)
    assert (found.review.purpose, found.review.for_) == ("canary", "ana")


@pytest.mark.parametrize(
    ("viewer", "seen"),
    [
        (ANA, True),
        (Viewer("eva", ("acme",), ("trading",)), False),
        (Viewer("dana", ("acme",), ("trading",)), False),
        (Viewer("ana", ("other",), ("trading",)), False),
        (AUDITOR, True),
    ],
    ids=["holder", "another", "barred", "another tenant", "auditor"],
)
def test_an_item_that_someone_holds_is_shown_to_nobody_else_who_decides(place: str, viewer: Viewer, seen: bool):
    async def scenario() -> bool:
        async with opened(place, review("i1", 1, barred=("dana",))) as store:
            await store.claim("i1", ANA, NOW_MS)
            return await store.item("i1", viewer, NOW_MS) is not None

    assert within(scenario()) is seen


# --- claims -----------------------------------------------------------------------------------------------------------


def test_two_people_never_hold_one_item(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            held = await store.claim("i1", ANA, NOW_MS)
            assert held is not None
            assert held.until_ms == NOW_MS + LEASE_MS
            assert await store.claim("i1", BEN, NOW_MS + 1) is None
            assert await store.next(BEN, NOW_MS + 1) == ()
            assert await store.take(BEN, NOW_MS + 1) is None
            assert names(await store.next(ANA, NOW_MS + 1)) == ["i1"]

    within(scenario())


def test_a_lease_ends(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            assert await store.claim("i1", BEN, NOW_MS + LEASE_MS - 1) is None
            taken = await store.take(BEN, NOW_MS + LEASE_MS)
            assert taken is not None
            assert await store.renew("i1", "ana", NOW_MS + LEASE_MS) is None
            assert await store.held("ana", NOW_MS + LEASE_MS) == ()

    within(scenario())


def test_a_lease_that_is_renewed_goes_on(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            renewed = await store.renew("i1", "ana", NOW_MS + LEASE_MS - 1)
            assert renewed is not None
            assert renewed.until_ms == NOW_MS + 2 * LEASE_MS - 1
            assert await store.claim("i1", BEN, NOW_MS + LEASE_MS) is None

    within(scenario())


def test_a_lease_that_has_ended_is_not_renewed(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            assert await store.renew("i1", "ana", NOW_MS + LEASE_MS) is None
            assert await store.renew("i1", "ben", NOW_MS) is None
            assert await store.renew("i2", "ana", NOW_MS) is None

    within(scenario())


def test_who_claims_again_keeps_the_item(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            again = await store.claim("i1", ANA, NOW_MS + 5)
            assert again is not None
            assert again.until_ms == NOW_MS + 5 + LEASE_MS

    within(scenario())


def test_what_is_given_back_is_free_and_nobody_gives_back_for_another(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            await store.release("i1", "ben")
            assert await store.claim("i1", BEN, NOW_MS) is None
            await store.release("i1", "ana")
            assert await store.claim("i1", BEN, NOW_MS) is not None

    within(scenario())


def test_one_person_takes_one_item_after_the_other(place: str):
    async def scenario() -> list[str]:
        async with opened(place, by_time("i2", 1, 2), by_time("i1", 2, 1), by_time("i3", 3, 3)) as store:
            taken = [await store.take(ANA, NOW_MS) for _ in range(4)]
            assert [one.item for one in await store.held("ana", NOW_MS)] == ["i1", "i2", "i3"]
            return [one.item.item if one else "" for one in taken]

    assert within(scenario()) == ["i1", "i2", "i3", ""]


@pytest.mark.parametrize("state", [State.APPROVED, State.STALE])
def test_a_claim_ends_with_its_item(place: str, state: State):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            await put(store, review("i1", 2, state=state))
            assert await store.held("ana", NOW_MS) == ()
            assert await store.renew("i1", "ana", NOW_MS) is None

    within(scenario())


def test_a_claim_outlives_a_change_of_its_item(place: str):
    async def scenario() -> None:
        async with opened(place, review("i1", 1)) as store:
            await store.claim("i1", ANA, NOW_MS)
            await put(store, review("i1", 2, queues={"trading": ["eva"]}))
            assert await store.renew("i1", "ana", NOW_MS) is not None

    within(scenario())


CLAIMS = 10_000
QUEUES = 40
"""So many that a queue is as long as one is while people hold what is ahead of the others."""
TAKERS = 4
SHARE_MAX = 3 / 4
"""What the people of one console take of all items at most: the faster console leaves work to the other."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_consoles_never_hand_one_item_to_two_people(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    """Ten thousand claims over one Postgres, by two consoles with four people each, while both fold the same log."""
    place = str(tmp_path / "view.db") if kind == "sqlite" else str(request.getfixturevalue("postgres"))
    wanted = CLAIMS if kind == "postgres" else CLAIMS // 20
    log = [item_put(f"i{n:05}", n, queue=f"q{n % QUEUES}") for n in range(wanted)]
    taken: dict[str, list[str]] = {}

    shares = {"a": 0, "b": 0}

    async def take_all(store: SqlStore, person: str) -> None:
        for n in range(QUEUES):
            viewer = Viewer(person, ("acme",), (f"q{n}",))
            while shares[person[0]] < SHARE_MAX * wanted and (found := await store.take(viewer, NOW_MS)) is not None:
                taken.setdefault(found.claim.item, []).append(person)
                shares[person[0]] += 1

    async def fold_all(store: SqlStore) -> None:
        for start in range(0, wanted, 500):
            assert await store.apply(log[start : start + 500], {("reviews", 0): min(start + 499, wanted - 1)})

    async def scenario() -> None:
        async with opened(place) as one, opened(place) as other:
            await one.apply(log[: wanted // 2], {("reviews", 0): wanted // 2 - 1})
            await asyncio.gather(fold_all(one), fold_all(other), *everybody(one, "a"), *everybody(other, "b"))
            # What was folded behind their backs is taken now.
            await asyncio.gather(*everybody(one, "a"), *everybody(other, "b"))

    def everybody(store: SqlStore, console: str) -> list[Coroutine[Any, Any, None]]:
        return [take_all(store, f"{console}{n}") for n in range(TAKERS)]

    within(scenario(), 240)

    assert len(taken) == wanted
    assert [item for item, people in taken.items() if len(people) > 1] == []
    assert min(shares.values()) > 0


# --- counts, batches, stories -----------------------------------------------------------------------------------------


def test_a_queue_says_how_full_it_is_how_old_and_what_money_waits(place: str):
    found = ask(
        place,
        lambda store: store.counts(Viewer("uma", ("acme",))),
        review("i1", 1, opened_ms=NOW_MS - 5_000, changes=[change("1", "2.50")]),
        review("i2", 2, queues=["trading", "risk"], changes=[change("1", "2.25")]),
        review("i3", 3, changes=[change("1", "8", unit="USD")]),
        review("i4", 4, tenant="other"),
        review("i5", 5, state=State.APPROVED),
        review("i6", 6, queues=["risk"], changes=[change("a", "b", unit=None)]),
    )

    assert [(row.queue, row.open, row.oldest_ms) for row in found] == [
        ("risk", 2, NOW_MS),
        ("trading", 3, NOW_MS - 5_000),
    ]
    assert [{unit: str(money) for unit, money in row.money.items()} for row in found] == [
        {"EUR": "1.25"},
        {"EUR": "2.75", "USD": "7"},
    ]


def test_batches_of_ones_queues_are_listed(place: str):
    log = (lot("acme/a/b-1", 1), lot("acme/a/b-2", 2, queue="risk"), lot("other/a/b-3", 3), lot("acme/a/b-1", 4, bad=2))

    assert [(one.lot, one.bad) for one in ask(place, lambda store: store.lots(ANA), *log)] == [("acme/a/b-1", 2)]


def test_batches_of_other_tenants_do_not_crowd_out_ones_own(place: str):
    others = [lot(f"other/a/b-{index}", index, opened=iso(NOW_MS + index)) for index in range(1, LOTS_MAX + 1)]
    log = (lot("acme/a/b-0", 0), *others)

    assert [one.lot for one in ask(place, lambda store: store.lots(ANA), *log)] == ["acme/a/b-0"]


@pytest.mark.behaviour("C4")
def test_exceptions_are_counted_by_type_and_what_could_not_be_carried_out_is_listed_by_deadline(place: str):
    log = (
        raised("x1", 1, action_id="a1", decide_by_ms=NOW_MS + 9_000),
        raised("x2", 2, action_id="a2", decide_by_ms=NOW_MS + 5_000, opened_ms=NOW_MS - 7),
        raised("x3", 3, action_id="a3", queues=("risk",)),
        raised("x4", 4, action_id="a4", tenant="other"),
        flagged("f1", 5, "brand_flag", action_id="a5"),
        flagged("f2", 6, "ethical", action_id="a6", queues=("trading", "risk")),
        review("i1", 7),
    )
    found = ask(place, lambda store: store.exceptions(ANA, NOW_MS), *log)

    assert [(one.kind, one.open, one.oldest_ms - NOW_MS) for one in found.counts] == [
        ("brand_flag", 1, 0),
        ("ethical", 1, 0),
        ("platform", 3, -7),
    ]
    assert [one.item for one in found.items] == ["x2", "x1"]


@pytest.mark.parametrize(
    "parts",
    [{"barred": ("ana",)}, {"for_": "ben"}, {"queues": ("risk",)}, {"tenant": "other"}, {"state": State.REJECTED}],
)
def test_an_exception_that_one_may_not_decide_is_not_listed(place: str, parts: dict[str, Any]):
    assert ask(place, lambda store: store.exceptions(ANA, NOW_MS), raised(**parts)).items == ()


def test_an_exception_that_another_holds_is_not_listed_until_the_lease_is_over(place: str):
    async def scenario() -> None:
        async with opened(place, raised("x1")) as store:
            assert await store.claim("x1", BEN, NOW_MS)
            assert (await store.exceptions(ANA, NOW_MS)).items == ()
            assert [one.item for one in (await store.exceptions(BEN, NOW_MS)).items] == ["x1"]
            assert [one.item for one in (await store.exceptions(ANA, NOW_MS + LEASE_MS)).items] == ["x1"]

    within(scenario())


def test_who_is_confined_is_told_of_exceptions_of_their_own_queues_only(place: str):
    client = Viewer("carl", ("acme",), ("client",), confined=True)
    found = ask(place, lambda store: store.exceptions(client, NOW_MS), raised(), flagged("f1", 2, queues=("client",)))

    assert [one.kind for one in found.counts] == ["brand_flag"]


def test_a_hit_holds_the_record_that_says_how_the_action_stands(place: str):
    log = (result(1, NOW_MS + 1), judged("i1", 2, NOW_MS + 5), judged("i2", 3, NOW_MS + 6, action={"action_id": "a2"}))
    found = ask(place, lambda store: store.search(AUDITOR, Search(tenant="acme", limit=5)), *log)

    assert [(hit.action_id, hit.at_ms - NOW_MS, hit.kind) for hit in found] == [
        ("a2", 6, "decision"),
        ("act-1", 5, "result"),
    ]


def test_the_story_of_an_action_is_told_in_order(place: str):
    found = ask(
        place,
        lambda store: store.story(ANA, "acme", "act-1"),
        review("i1", 9, state=State.APPROVED),
        result(3, NOW_MS + 2_000),
        judged("i1", 1, NOW_MS + 1_000),
        closed(2, NOW_MS + 3_000),
        result(4, action_id="act-2"),
        result(5, tenant="other"),
    )

    assert [(row.kind, row.source) for row in found.rows] == [
        ("decision", "decisions/0/1"),
        ("result", "results/0/3"),
        ("closed", "closed/0/2"),
    ]
    assert [one.review.item for one in found.items] == ["i1"]
    assert not found.undecided


@pytest.mark.parametrize("purpose", [Purpose.DECIDE, *BLIND])
def test_who_decides_is_told_nothing_of_an_action_while_anybody_is_asked_about_it(place: str, purpose: Purpose):
    async def scenario() -> None:
        log = (review("i1", 1, state=State.APPROVED), review("i2", 2, purpose=purpose), judged(offset=1), result(1))
        async with opened(place, *log) as store:
            found = await store.story(ANA, "acme", "act-1")
            assert (found.items, found.rows, found.undecided) == ((), (), True)
            assert await store.search(ANA, Search(tenant="acme")) == ()
            seen = await store.story(AUDITOR, "acme", "act-1")
            assert ([row.kind for row in seen.rows], len(seen.items)) == (["result"], 1)
            await put(store, review("i2", 3, purpose=purpose, state=State.REJECTED))
            assert len((await store.story(ANA, "acme", "act-1")).rows) == 2
            assert len(await store.search(ANA, Search(tenant="acme"))) == 1

    within(scenario())


def test_a_story_of_another_tenant_is_not_told(place: str):
    async def scenario() -> None:
        async with opened(place, result(1)) as store:
            stranger = Viewer("x", ("other",))
            assert (await store.story(stranger, "acme", "act-1")).rows == ()
            assert await store.search(stranger, Search(tenant="acme")) == ()
            assert len(await store.search(AUDITOR, Search(tenant="acme"))) == 1

    within(scenario())


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["a3", "a2", "a1"]),
        ({"action_id": "a2"}, ["a2"]),
        ({"account": "acc-9"}, ["a2"]),
        ({"campaign": "cmp-204"}, ["a3", "a2", "a1"]),
        ({"reviewer": "ben"}, ["a3"]),
        ({"reviewer": "ana"}, ["a2", "a1"]),
        ({"reviewer": "ana", "account": "acc-9"}, ["a2"]),
        ({"reviewer": "ben", "account": "acc-9"}, []),
        ({"tenant": "other"}, ["a4"]),
    ],
)
def test_what_was_decided_is_found_by_action_entity_and_reviewer(place: str, wanted: dict[str, str], found: list[str]):
    log = (
        result(1, NOW_MS + 1, action_id="a1"),
        result(2, NOW_MS + 2, action_id="a2", changes=[change(account="acc-9")]),
        closed(1, NOW_MS + 3, action_id="a3"),
        result(3, NOW_MS + 4, action_id="a4", tenant="other"),
    )
    search = Search(**{"tenant": "acme", **wanted})

    assert [hit.action_id for hit in ask(place, lambda store: store.search(AUDITOR, search), *log)] == found


def test_stories_are_forgotten_with_their_records(place: str):
    async def scenario() -> None:
        async with opened(place, result(1, NOW_MS), result(2, NOW_MS + 9)) as store:
            await store.forget(NOW_MS + 9)
            assert [row.at_ms for row in (await store.story(AUDITOR, "acme", "act-1")).rows] == [NOW_MS + 9]
            assert len(await store.search(AUDITOR, Search(tenant="acme", reviewer="ana"))) == 1

    within(scenario())


def test_of_what_ended_without_anybodys_word_only_the_newest_stay(place: str):
    log = (
        review("i9", 0, action_id="asked"),
        result(1, NOW_MS, by=(), action_id="asked"),
        result(2, NOW_MS + 1, action_id="approved"),
        *(result(3 + n, NOW_MS + 2 + n, by=(), action_id=f"alone-{n}") for n in range(5)),
    )

    async def scenario() -> list[str]:
        async with opened(place, *log) as store:
            await store.forget(0, alone_max=2)
            wanted = ["asked", "approved", *(f"alone-{n}" for n in range(5))]
            return [name for name in wanted if (await store.story(AUDITOR, "acme", name)).rows]

    assert within(scenario()) == ["asked", "approved", "alone-3", "alone-4"]


# --- places that cannot be used ---------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_named(tmp_path: Path):
    path = tmp_path / "view.db"
    path.write_bytes(b"no database at all" * 100)

    with pytest.raises(DatabaseError, match=r"view\.db: file is not a database; expected an SQLite file"):
        ask(str(path), lambda store: store.offsets())


def test_the_file_is_for_its_owner_alone(tmp_path: Path):
    path = tmp_path / "state" / "view.db"
    ask(str(path), lambda store: store.offsets())

    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://u:hush@/x?host=/nowhere", "Postgres: .* is the server up"),
        ("postgres://u:hush@127.0.0.1:1/x", "Postgres: .* is the server up"),
        ("host=/nowhere nonsense password=hush", "the Postgres DSN cannot be read"),
    ],
)
def test_a_server_that_is_not_there_is_said_at_once_and_without_the_password(dsn: str, message: str):
    with pytest.raises(DatabaseError, match=message) as error:
        ask(dsn, lambda store: store.offsets())

    assert "hush" not in str(error.value)


def test_a_missing_driver_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "hitl_stream.console.postgres", None)

    with pytest.raises(SettingsError, match=r"its driver is missing .* pip install 'hitl-stream\[postgres\]'"):
        open_database("postgresql://u@h/d")


def test_what_a_person_has_said_on_an_item_is_told_them_also_while_others_are_asked(place: str):
    async def question(store: SqlStore) -> dict[tuple[str, str], list[str]]:
        asked = [("i1", "ana"), ("i1", "ben"), ("i2", "ana"), ("i9", "ana")]
        return {(item, name): [one.verdict for one in await store.said(item, name)] for item, name in asked}

    records = (
        review("i1"),
        review("i2", 1),
        judged("i1", 0),
        judged("i1", 1, NOW_MS + 1, verdict="reject", effect="conflict"),
        judged("i2", 2, by="ben"),
    )
    told = ask(place, question, *records)

    assert told == {("i1", "ana"): ["approve", "reject"], ("i1", "ben"): [], ("i2", "ana"): [], ("i9", "ana"): []}


# --- for whoever looks at how people review ---------------------------------------------------------------------------


def test_what_somebody_has_said_is_told_newest_first_whatever_it_was_asked_for(place: str):
    records = [
        judged("i1", 0, NOW_MS - 3, purpose="canary", action={"action_id": "~c-1"}),
        judged("i2", 1, NOW_MS - 1),
        judged("i3", 2, NOW_MS - 2, by="ben"),
        judged("i4", 3, NOW_MS - 9),
    ]

    async def scenario(store: SqlStore) -> list[str]:
        return [one.item for one in await store.judged_by("ana", NOW_MS - 5)]

    assert ask(place, scenario, *records) == ["i2", "i1"]
    assert ask(place, lambda store: store.judged_by("ana", 0, limit=1), *records)[0].item == "i2"


def test_old_approvals_are_those_of_the_viewers_tenants_and_queues(place: str):
    records = [
        approval(1, at_ms=NOW_MS - 5),
        approval(2, at_ms=NOW_MS - 4),
        approval(3, at_ms=NOW_MS),
        approval(4, at_ms=NOW_MS - 3, queue="brand"),
        approval(5, at_ms=NOW_MS - 3, verdict="reject"),
        approval(6, at_ms=NOW_MS - 3, action={"tenant": "other"}),
    ]

    async def scenario(store: SqlStore, viewer: Viewer) -> list[str]:
        return [one.action_id for one in await store.approved(viewer, NOW_MS)]

    assert ask(place, lambda store: scenario(store, ANA), *records) == ["old-2", "old-1"]
    everywhere = Viewer("ana", None, ("brand", "trading"))
    assert ask(place, lambda store: scenario(store, everywhere), *records) == ["old-4", "old-6", "old-2", "old-1"]
    assert ask(place, lambda store: scenario(store, Viewer("vic", ("acme",))), *records) == []
