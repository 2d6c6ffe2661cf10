"""A pilot claims what it measured against what was recorded, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.intervals import error_rate
from hitl_stream.core.pilot import ITEMS_MIN, REVIEWED_MIN, Pilot, Recorded, Row, Spent, pilot

BASELINE = Recorded(minutes_per_item=2.0, error_ratio=0.12, cost_per_hour=45.0)


def spent(*minutes: float) -> Spent:
    made = Spent()
    for each in minutes:
        made.add(each, reviewed=each > 0)
    return made


def row(found: Pilot, name: str) -> Row:
    (one,) = (each for each in found.rows if each.name == name)
    return one


@pytest.mark.behaviour("A10", "A11")
def test_time_cost_and_outcome_stand_against_the_recorded_baseline():
    found = pilot("first_line", spent(*[1.0] * 130, *[0.0] * 370), error_rate(10, 250, 0.95), BASELINE)
    assert (found.items, found.reviewed) == (500, 130)
    minutes, cost, errors = (row(found, name) for name in ("minutes_per_item", "cost_per_item", "error_ratio"))
    assert minutes.measured is not None
    assert minutes.measured.value == pytest.approx(0.26)
    assert (minutes.baseline, minutes.verdict) == (2.0, "lower")
    assert cost.measured is not None
    assert cost.measured.value == pytest.approx(0.26 * 45 / 60)
    assert cost.baseline == pytest.approx(1.5)
    assert errors.verdict == "lower"
    assert found.hours_saved is not None
    assert found.hours_saved.value == pytest.approx((2.0 - 0.26) * 500 / 60)
    assert found.hours_saved.low < found.hours_saved.value < found.hours_saved.high


@pytest.mark.behaviour("A11")
@pytest.mark.parametrize(
    ("what", "minutes", "baseline"),
    [
        ("nothing happened", [], BASELINE),
        ("too little happened", [0.5] * (ITEMS_MIN - 1), BASELINE),
        ("hardly anybody looked", [0.0] * 100 + [1.0] * (REVIEWED_MIN - 1), BASELINE),
        ("nobody looked", [0.0] * 100, BASELINE),
        ("nobody wrote down what it took before", [0.5] * 100, Recorded(error_ratio=0.1, cost_per_hour=45.0)),
    ],
)
def test_no_hours_are_saved_where_they_were_not_measured(what: str, minutes: list[float], baseline: Recorded):
    found = pilot("g", spent(*minutes), None, baseline)
    assert found.hours_saved is None, what
    assert row(found, "minutes_per_item").verdict in ("not measured", "no baseline")
    assert row(found, "error_ratio").verdict == "not measured"


def test_a_gate_that_costs_more_time_says_so():
    found = pilot("g", spent(*[3.0, 3.5] * 50), None, BASELINE)
    assert row(found, "minutes_per_item").verdict == "higher"
    assert found.hours_saved is not None
    assert found.hours_saved.high < 0


def test_an_interval_that_holds_the_baseline_claims_nothing():
    found = pilot("g", spent(*[0.0, 4.1] * 50), error_rate(12, 100, 0.95), BASELINE)
    assert row(found, "minutes_per_item").verdict == "not told apart"
    assert row(found, "error_ratio").verdict == "not told apart"


@given(st.lists(st.floats(0.01, 60), min_size=ITEMS_MIN, max_size=200), st.floats(0, 10))
def test_the_hours_saved_are_those_of_the_figure_above_them(minutes: list[float], before: float):
    found = pilot("g", spent(*minutes), None, Recorded(minutes_per_item=before))
    measured, saved = row(found, "minutes_per_item").measured, found.hours_saved
    assert measured is not None
    assert saved is not None
    assert 0.0 <= measured.low <= measured.value + 1e-9 <= measured.high + 2e-9
    assert saved.low <= saved.value + 1e-9 <= saved.high + 2e-9
    assert saved.value == pytest.approx((before - measured.value) * len(minutes) / 60)
