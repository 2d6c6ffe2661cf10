"""An action is measured beside what was done before, and becomes part of it."""

from __future__ import annotations

import pytest

from hitl_stream.core.history import NOTHING, History, recall
from hitl_stream.core.window import NORM_VALUES_MIN, Draft, Reach, Window
from support.make import NOW_MS, change, make_action

HOUR = 3_600_000
MINUTE = 60_000
SLOT = 15 * MINUTE // 4


def draft(*sums_ms: int) -> Draft:
    found = Window(Reach(60_000, 15 * MINUTE, sums_ms)).draft()
    found.at(NOW_MS)
    return found


def step(into: Draft, before: str, after: str, **parts: object) -> History:
    return recall(make_action(changes=[change(before, after, **parts)]), "acme", into)


def test_an_action_without_changes_has_no_size() -> None:
    assert recall(make_action(changes=...), "acme", draft(HOUR)) == NOTHING


def test_the_size_of_an_action_is_its_largest_leg() -> None:
    action = make_action(changes=[change("100", "110"), change("100", "72", campaign="c2"), change("1", "1.2")])
    found = recall(action, "acme", draft())
    assert found.ratio == pytest.approx(-0.28)
    assert [leg.ratio for leg in found.legs] == pytest.approx([0.1, -0.28, 0.2])


@pytest.mark.parametrize("sums", [(), (HOUR,), (MINUTE, HOUR)])
def test_a_leg_without_a_size_is_named_and_the_others_are_measured(sums: tuple[int, ...]) -> None:
    found = recall(make_action(changes=[change(None, "2"), change("100", "110")]), "acme", draft(*sums))
    assert found.undefined == "before is missing"
    assert len(found.legs) == 1


@pytest.mark.parametrize("sums", [(), (HOUR,), (MINUTE, HOUR)])
def test_an_action_without_any_size_leaves_no_trace(sums: tuple[int, ...]) -> None:
    into = draft(*sums)
    assert step(into, "0", "5") == History(undefined="before is zero")
    assert step(into, "100", "110").totals == tuple((which, 0.1, 0.1) for which in range(len(sums)))


def test_ten_steps_of_nine_percent_add_up() -> None:
    into = draft(HOUR)
    totals = [step(into, "100", "109").totals for _ in range(10)]
    assert totals[-1][0][1:] == pytest.approx((0.9, 0.9))


def test_back_and_forth_adds_up_absolutely_and_cancels_out_signed() -> None:
    into = draft(HOUR)
    step(into, "100", "110")
    ((_, absolute, signed),) = step(into, "100", "90").totals
    assert (absolute, signed) == pytest.approx((0.2, 0.0))


def test_each_window_has_totals_of_its_own() -> None:
    into = draft(MINUTE, HOUR)
    step(into, "100", "110")
    into.at(NOW_MS + 2 * MINUTE)
    assert [total[:2] for total in step(into, "100", "120").totals] == [(0, 0.2), (1, pytest.approx(0.3))]


def test_one_action_with_two_legs_in_one_place_counts_both() -> None:
    action = make_action(changes=[change("100", "110"), change("110", "121")])
    assert [round(total[1], 9) for total in recall(action, "acme", draft(HOUR)).totals] == [0.1, 0.2]


@pytest.mark.parametrize("other", [{"campaign": "c2"}, {"account": "acc-1"}, {"field": "budget"}, {"campaign": None}])
def test_the_totals_of_another_place_are_not_mixed_in(other: dict[str, str]) -> None:
    into = draft(HOUR)
    step(into, "100", "150", **other)
    assert step(into, "100", "110").totals == ((0, pytest.approx(0.1), pytest.approx(0.1)),)


def test_another_tenant_has_a_past_of_its_own() -> None:
    into = draft(HOUR)
    action = make_action(changes=[change("100", "110")])
    recall(action, "other", into)
    assert recall(action, "acme", into).totals == ((0, pytest.approx(0.1), pytest.approx(0.1)),)


@pytest.mark.parametrize("sums", [(), (HOUR,)])
def test_what_is_usual_is_known_by_agent_and_type_from_the_slots_before(sums: tuple[int, ...]) -> None:
    into = draft(*sums)
    for _ in range(NORM_VALUES_MIN):
        assert step(into, "100", "101").z is None
    into.at(NOW_MS + SLOT)
    assert step(into, "100", "101").z == pytest.approx(0.0)
    z = step(into, "100", "150").z
    assert z is not None
    assert z > 90
    stranger = make_action(agent={"id": "bidder-8"}, changes=[change("100", "150")])
    assert recall(stranger, "acme", into).z is None


def test_a_sum_that_finds_no_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitl_stream.core.window.ENTITIES_MAX", 0)
    assert step(draft(HOUR), "100", "110").crowded
    assert recall(make_action(changes=[change(), change(campaign="c")]), "acme", draft(HOUR)).crowded


@pytest.mark.parametrize(("before", "after"), [(1e-4, 1e8), ("1e-5", "1e6"), (5e-324, 1.0), (-1e-9, 1e9)])
def test_wild_sizes_never_poison_what_is_normal(before: object, after: object) -> None:
    """A z-score that is no number would neither fire a trigger nor be written."""
    into = draft(HOUR)
    for _ in range(2 * NORM_VALUES_MIN):
        recall(make_action(changes=[change(before, after)]), "acme", into)
    into.at(NOW_MS + SLOT)
    for again in ([change(before, after)], [change("100", "101")]):
        z = recall(make_action(changes=again), "acme", into).z
        assert z is None or abs(z) < 1e18
