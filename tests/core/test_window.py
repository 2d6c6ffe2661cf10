"""The window remembers what a batch committed, forgets by time alone, and is the same whoever replays it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.window import (
    ENTITIES_MAX,
    ID_SLOTS,
    MAD_TO_SIGMA,
    NORM_SCALE_MIN,
    NORM_SLOTS,
    NORM_VALUES_MAX,
    NORM_VALUES_MIN,
    SUM_SLOTS,
    Draft,
    IdBudget,
    Reach,
    Window,
    normal_of,
)

IDS_MS, NORMS_MS, SUM_MS = 4_000, 8_000, 12_000
ID_SLOT, NORM_SLOT, SUM_SLOT = IDS_MS // ID_SLOTS, NORMS_MS // NORM_SLOTS, SUM_MS // SUM_SLOTS
REACH = Reach(IDS_MS, NORMS_MS, (SUM_MS,))
START = 1_000_000_000
WHO = ("acme", "bidder-7", "bid.adjust")
FIELD = ("acme", "acc-17", "cmp-204", "bid")


def window(limit: int = 1_000_000) -> Window:
    return Window(REACH, IdBudget(limit))


def at(where: Window, ms: int) -> Draft:
    draft = where.draft()
    draft.at(ms)
    return draft


def claim(where: Window, identity: bytes, ms: int) -> None:
    draft = at(where, ms)
    draft.claim(identity, b"stamp")
    where.apply(draft)


def add(where: Window, ratio: float, ms: int) -> tuple[float, float] | None:
    draft = at(where, ms)
    total = draft.add(0, FIELD, ratio)
    where.apply(draft)
    return total


def observe(where: Window, *values: float, ms: int) -> list[float | None]:
    draft = at(where, ms)
    found = [draft.deviation(WHO, value) for value in values]
    where.apply(draft)
    return found


# --- ids --------------------------------------------------------------------------------------------------------------


def test_a_claim_is_seen_by_its_own_batch_at_once() -> None:
    draft = at(window(), START)
    assert draft.earlier(b"a") is None
    draft.claim(b"a", b"stamp")
    assert draft.earlier(b"a") == b"stamp"


def test_a_claim_is_seen_by_later_batches_once_applied() -> None:
    where = window()
    claim(where, b"a", START)
    assert at(where, START + 1).earlier(b"a") == b"stamp"


def test_an_aborted_batch_leaves_no_trace() -> None:
    where = window()
    draft = at(where, START)
    draft.claim(b"a", b"stamp")
    draft.add(0, FIELD, 0.5)
    draft.deviation(WHO, 0.1)

    again = at(where, START)
    assert again.earlier(b"a") is None
    assert again.add(0, FIELD, 0.1) == (0.1, 0.1)
    assert where.count() == 0
    assert where.budget.used == 0


@pytest.mark.parametrize("phase", [0, 1, ID_SLOT // 2, ID_SLOT - 1])
def test_an_id_is_remembered_for_the_whole_window_and_at_most_one_slot_more(phase: int) -> None:
    where = window()
    claim(where, b"a", START + phase)
    assert at(where, START + phase + IDS_MS).earlier(b"a") == b"stamp"
    assert at(where, START + phase + IDS_MS + ID_SLOT).earlier(b"a") is None


def test_an_id_is_remembered_within_one_batch_that_spans_many_slots() -> None:
    draft = at(window(), START)
    draft.claim(b"a", b"stamp")
    draft.at(START + IDS_MS)
    assert draft.earlier(b"a") == b"stamp"
    draft.at(START + IDS_MS + ID_SLOT)
    assert draft.earlier(b"a") is None


def test_what_is_forgotten_gives_its_room_back() -> None:
    where = window()
    claim(where, b"a", START)
    claim(where, b"b", START + IDS_MS + 2 * ID_SLOT)
    assert where.count() == 1
    assert where.budget.used == 1


@pytest.mark.parametrize("back_ms", [1, ID_SLOT, 2 * ID_SLOT])
def test_an_append_time_that_runs_backwards_forgets_no_id(back_ms: int) -> None:
    """Several inputs are merged batch by batch, and the clock of a new leader may be behind."""
    where = window()
    claim(where, b"a", START)
    assert at(where, START - back_ms).earlier(b"a") == b"stamp"


def test_a_window_is_full_when_the_ids_of_all_windows_reach_the_budget() -> None:
    budget = IdBudget(2)
    one, other = Window(REACH, budget), Window(REACH, budget)
    claim(one, b"a", START)
    draft = at(other, START)
    assert draft.claim(b"b", b"stamp")
    assert not draft.claim(b"c", b"stamp")
    assert draft.earlier(b"c") is None
    other.apply(draft)
    assert budget.full
    assert not at(one, START).claim(b"c", b"stamp")


def test_an_id_of_the_past_is_remembered_even_where_there_is_no_room() -> None:
    """Otherwise a partition that moves to a full process would take its duplicates for new."""
    where = window(limit=1)
    draft = at(where, START)
    draft.remember(b"a", b"stamp")
    draft.remember(b"b", b"stamp")
    where.apply(draft)
    assert at(where, START + IDS_MS).earlier(b"a") == b"stamp"
    assert at(where, START + IDS_MS).earlier(b"b") == b"stamp"
    assert where.budget.used == 2


def test_a_window_that_is_given_up_returns_its_ids_to_the_budget() -> None:
    budget = IdBudget(2)
    one, other = Window(REACH, budget), Window(REACH, budget)
    claim(one, b"a", START)
    claim(other, b"b", START)
    one.clear()
    assert budget.used == 1


def test_a_window_knows_how_many_ids_it_remembers() -> None:
    where = window()
    for number in range(3):
        claim(where, bytes([number]), START + number * ID_SLOT)
    assert where.count() == 3


# --- running sums -----------------------------------------------------------------------------------------------------


def test_a_sum_counts_absolute_and_signed_changes_with_the_new_one_included() -> None:
    where = window()
    assert add(where, 0.2, START) == (0.2, 0.2)
    total = add(where, -0.1, START + 1)
    assert total is not None
    assert total == pytest.approx((0.3, 0.1))


@pytest.mark.parametrize("phase", [0, 1, SUM_SLOT - 1])
def test_a_sum_reaches_back_its_window_and_at_most_one_slot_more(phase: int) -> None:
    where = window()
    add(where, 0.2, START + phase)
    counted = at(where, START + phase + SUM_MS).add(0, FIELD, 0.0)
    forgotten = at(where, START + phase + SUM_MS + SUM_SLOT).add(0, FIELD, 0.0)
    assert counted == (0.2, 0.2)
    assert forgotten == (0.0, 0.0)


def test_each_entity_field_has_a_sum_of_its_own() -> None:
    draft = at(window(), START)
    draft.add(0, FIELD, 0.2)
    assert draft.add(0, ("acme", "acc-17", "cmp-204", "budget"), 0.1) == (0.1, 0.1)
    assert draft.add(0, ("acme", "acc-17", None, "bid"), 0.1) == (0.1, 0.1)
    assert draft.add(0, ("other", "acc-17", "cmp-204", "bid"), 0.1) == (0.1, 0.1)


def test_there_is_no_room_for_more_sums_than_the_limit_but_known_ones_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitl_stream.core.window.ENTITIES_MAX", 2)
    draft = at(window(), START)
    fields = [("acme", "a", None, str(number)) for number in range(3)]
    assert [draft.add(0, field, 0.1) is None for field in fields] == [False, False, True]
    assert draft.add(0, fields[0], 0.1) is not None
    assert ENTITIES_MAX > 2


# --- what is normal ---------------------------------------------------------------------------------------------------


def test_nothing_is_unusual_before_enough_is_known() -> None:
    where = window()
    observe(where, *[0.01] * (NORM_VALUES_MIN - 1), ms=START)
    assert observe(where, 5.0, ms=START + NORM_SLOT) == [None]


def test_what_is_normal_rests_on_the_slots_before_the_current_one() -> None:
    where = window()
    assert observe(where, *[0.01] * NORM_VALUES_MIN, ms=START) == [None] * NORM_VALUES_MIN
    assert observe(where, 0.01, ms=START + NORM_SLOT - 1) == [None]
    (z,) = observe(where, 0.01 + 7 * NORM_SCALE_MIN, ms=START + NORM_SLOT)
    assert z == pytest.approx(7)


def test_what_was_normal_is_forgotten_after_the_window() -> None:
    where = window()
    observe(where, *[0.01] * NORM_VALUES_MIN, ms=START)
    assert observe(where, 0.01, ms=START + NORMS_MS) == pytest.approx([0.0])
    assert observe(where, 0.01, ms=START + NORMS_MS + NORM_SLOT) == [None]


def test_a_batch_that_spans_slots_knows_what_it_added_itself() -> None:
    draft = at(window(), START)
    for _ in range(NORM_VALUES_MIN):
        assert draft.deviation(WHO, 0.01) is None
    draft.at(START + NORM_SLOT)
    assert draft.deviation(WHO, 0.01) == pytest.approx(0.0)


def test_an_aborted_batch_does_not_make_its_own_values_normal() -> None:
    where = window()
    draft = at(where, START)
    for _ in range(NORM_VALUES_MIN):
        draft.deviation(WHO, 0.01)
    draft.at(START + NORM_SLOT)
    draft.deviation(WHO, 0.01)
    assert observe(where, 0.01, ms=START + NORM_SLOT) == [None]


def test_a_flood_of_one_slot_does_not_outweigh_the_others() -> None:
    where = window()
    for slot in range(NORM_SLOTS - 1):
        observe(where, *[0.01] * NORM_VALUES_MAX, ms=START + slot * NORM_SLOT)
    for _ in range(20):
        observe(where, *[9.0] * NORM_VALUES_MAX, ms=START + (NORM_SLOTS - 1) * NORM_SLOT)
    (z,) = observe(where, 0.01, ms=START + NORM_SLOTS * NORM_SLOT)
    assert z == pytest.approx(0)


@pytest.mark.parametrize(
    ("values", "normal"),
    [
        ([], None),
        ([0.1] * (NORM_VALUES_MIN - 1), None),
        ([0.1] * NORM_VALUES_MIN, (0.1, NORM_SCALE_MIN)),
        ([0.0] * 10 + [0.02] * 10, (0.01, 0.01 * MAD_TO_SIGMA)),
        ([0.0] * 19 + [1e9], (0.0, NORM_SCALE_MIN)),
    ],
)
def test_normal_is_the_median_and_a_scale_that_no_outlier_moves(values: list[float], normal: Any) -> None:
    found = normal_of(values)
    assert found == (pytest.approx(normal) if normal else None)


# --- replay -----------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 100, 400, ID_SLOT, NORM_SLOT, 3 * SUM_SLOT]),
        st.integers(0, 11),
        st.sampled_from([-0.3, -0.01, 0.0, 0.02, 0.11, 0.5]),
        st.booleans(),
    ),
    min_size=1,
    max_size=120,
)
Step = tuple[int, int, float, bool]


def lived(where: Window, steps: list[tuple[int, int, float]], ends: set[int]) -> list[Any]:
    """Run (time, id, ratio) through a window, committing after each place in `ends`; return what each step saw."""
    seen: list[Any] = []
    draft = where.draft()
    for place, (ms, identity, ratio) in enumerate(steps):
        draft.at(ms)
        key = bytes([identity])
        known = draft.earlier(key)
        if known is None:
            draft.claim(key, ms.to_bytes(8, "big"))
        total = draft.add(0, ("t", "a", None, str(identity % 2)), ratio)
        z = draft.deviation(("t", str(identity % 2), "k"), ratio)
        seen.append((known, None if total is None else [round(each, 9) for each in total], z))
        if place in ends:
            where.apply(draft)
            draft = where.draft()
    where.apply(draft)
    return seen


def timed(steps: list[Step]) -> tuple[list[tuple[int, int, float]], set[int]]:
    ms, records, ends = START, [], set()
    for place, (wait, identity, ratio, ends_batch) in enumerate(steps):
        ms += wait
        # Many values a step, so that something is normal.
        records.append((ms, identity, ratio))
        if ends_batch:
            ends.add(place)
    return records, ends


@given(STEPS, st.data())
@settings(max_examples=150)
def test_a_replay_sees_what_the_window_that_lived_through_it_all_sees(steps: list[Step], data: st.DataObject) -> None:
    """Wherever a replay starts (at or before `longest_ms` ago), whatever its batches, whatever went on before."""
    past, ends = timed(steps)
    newest = past[-1][0]
    # Time goes on, and everything is asked once.
    now = newest + data.draw(st.integers(0, 3_000))
    probe = [(now, identity, 0.02) for identity in range(12)]

    lifelong = window()
    lived(lifelong, past, ends)
    earliest = newest - REACH.longest_ms
    first = next(place for place, (ms, *_) in enumerate(past) if ms >= earliest)
    start = data.draw(st.integers(0, first))
    every = data.draw(st.integers(1, 50))
    replayed = window()
    stretch = past[start:]
    lived(replayed, stretch, set(range(0, len(stretch), every)))

    assert lived(replayed, probe, set()) == lived(lifelong, probe, {3})


@given(STEPS, st.integers(1, 40))
def test_where_batches_end_changes_nothing(steps: list[Step], every: int) -> None:
    past, ends = timed(steps)
    assert lived(window(), past, ends) == lived(window(), past, set(range(0, len(past), every)))


@given(STEPS)
def test_the_budget_counts_exactly_the_ids_that_are_remembered(steps: list[Step]) -> None:
    where = window()
    past, ends = timed(steps)
    lived(where, past, ends)
    assert where.budget.used == where.count()


@given(st.integers(1, 10**8), st.integers(1_000, 10**8), st.lists(st.integers(1, 10**8), max_size=3))
def test_the_longest_reach_covers_every_slot_in_use(ids: int, norms: int, sums: list[int]) -> None:
    reach = Reach(ids, norms, tuple(sums))
    where = Window(reach)
    oldest = [(where.id_slot_ms, ID_SLOTS), (where.norm_slot_ms, NORM_SLOTS)]
    oldest += [(width, SUM_SLOTS) for width in where.sum_slot_ms]
    for width, slots in oldest:
        newest = 10**12 + width - 1
        assert newest - reach.longest_ms <= (newest // width - slots) * width
