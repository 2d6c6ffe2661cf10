"""Tripwires: each trips on what it is for, once, and on nothing that is only busy."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core import tripwires
from hitl_stream.core.tripwires import (
    FACTOR,
    KEYS_MAX,
    MINUTE,
    POISON_FLOOR,
    RATE_FLOOR,
    REPEATS,
    WARM,
    WIRES,
    Interval,
    Publisher,
    Surges,
    Tripped,
    Wire,
    wires,
)

SECONDS = 5.0
BIDDER = Publisher("acme", "bidder-7")
OTHER = Publisher("acme", "mover-1")


def fed(wire: Wire, intervals: Iterable[Interval]) -> list[Tripped]:
    return [tripped for interval in intervals for tripped in wire.judge(interval)]


def busy(a_second: float, publisher: Publisher = BIDDER, refused: float = 0.0, weight: float = 1.0) -> Interval:
    """Return an interval in which a publisher decides so many a second, on entities of their own."""
    interval = Interval(SECONDS)
    count = round(a_second * SECONDS / weight)
    for n in range(count):
        if n < refused * count:
            interval.refused(publisher, weight)
        else:
            interval.executed(publisher, f"acc/{n}", {}, weight)
    return interval


def spending(amount: float, unit: str = "EUR") -> Interval:
    interval = Interval(SECONDS)
    interval.executed(BIDDER, "acc/cmp", {unit: amount * SECONDS}, 1.0)
    return interval


def dying(a_second: float, topic: str = "hitl.actions", publisher: Publisher | None = None) -> Interval:
    interval = Interval(SECONDS)
    interval.died(topic, publisher, a_second * SECONDS)
    return interval


def test_there_is_one_of_every_name():
    assert set(wires()) == set(WIRES)


# --- rate, spend ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "trips"), [(4.9, False), (5.2, True)])
def test_five_times_the_baseline_trips_the_rate(factor: float, trips: bool):
    wire = tripwires.Rate()
    assert fed(wire, [busy(10)] * (WARM + 5)) == []

    found = fed(wire, [busy(10 * factor)])
    assert bool(found) is trips
    assert all((one.wire, one.publisher) == ("rate", BIDDER) for one in found)


def test_it_trips_once_and_again_after_it_had_ended():
    wire = tripwires.Rate()
    fed(wire, [busy(10)] * (WARM + 5))

    assert len(fed(wire, [busy(100)] * 3)) == 1
    fed(wire, [busy(10)] * 3)
    assert len(fed(wire, [busy(100)])) == 1


def test_what_lasts_becomes_normal():
    wire = tripwires.Rate()
    fed(wire, [busy(10)] * (WARM + 5))
    fed(wire, [busy(200)] * 400)

    assert fed(wire, [busy(10), busy(200)]) == []


def test_few_actions_never_trip_the_rate():
    wire = tripwires.Rate()
    assert fed(wire, [*[Interval(SECONDS)] * 100, busy(FACTOR * RATE_FLOOR)]) == []


def test_a_new_publisher_has_no_baseline_yet():
    assert fed(tripwires.Rate(), [busy(1)] * (WARM - 1) + [busy(1_000)]) == []


def test_one_publishers_surge_is_not_anothers():
    wire = tripwires.Rate()
    for _ in range(WARM + 5):
        both = busy(10)
        both.publishers |= busy(50, OTHER).publishers
        fed(wire, [both])

    assert [one.publisher for one in fed(wire, [busy(60)])] == [BIDDER]


def test_what_was_passed_over_counts_by_its_weight():
    wire = tripwires.Rate()
    fed(wire, [busy(10)] * (WARM + 5))

    assert len(fed(wire, [busy(100, weight=20)])) == 1


def test_money_is_added_up_by_unit_and_five_times_the_baseline_trips():
    wire = tripwires.Spend()
    fed(wire, [spending(100)] * (WARM + 5))

    assert fed(wire, [spending(450)]) == []
    (found,) = fed(wire, [spending(600)])
    assert (found.wire, found.publisher) == ("spend", BIDDER)
    assert "EUR" in found.what
    assert fed(wire, [spending(600, "USD")]) == [], "another unit is another baseline"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "trips"), [(0.10, False), (0.15, False), (0.5, True), (1.0, True)])
def test_a_jump_in_refusals_trips(share: float, trips: bool):
    wire = tripwires.Refusals()
    assert fed(wire, [busy(20, refused=0.10)] * (WARM + 5)) == []

    found = fed(wire, [busy(20, refused=share)])
    assert bool(found) is trips
    assert all((one.wire, one.publisher) == ("refusals", BIDDER) for one in found)


def test_a_slow_publisher_is_judged_once_enough_was_seen_of_it():
    wire = tripwires.Refusals()
    fed(wire, [busy(2, refused=0.0)] * 3 * (WARM + 2))

    assert len(fed(wire, [busy(2, refused=0.8)] * 6)) == 1


# --- mismatch ---------------------------------------------------------------------------------------------------------


def passing(inputs: int, outputs: int) -> Interval:
    return Interval(SECONDS, inputs, outputs)


def test_actions_without_any_answer_for_half_a_minute_trip():
    wire = tripwires.Mismatch()
    assert fed(wire, [passing(100, 100)] * MINUTE) == []

    (found,) = fed(wire, [passing(100, 0)] * MINUTE)
    assert (found.wire, found.publisher) == ("mismatch", None)


@pytest.mark.parametrize("intervals", [[passing(100, 1)] * 50, [passing(0, 0)] * 50, [passing(100, 100)] * 50])
def test_few_answers_or_no_actions_do_not(intervals: list[Interval]):
    assert fed(tripwires.Mismatch(), intervals) == []


# --- poison, repeats --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a_second", "trips"), [(FACTOR * POISON_FLOOR, False), (FACTOR * POISON_FLOOR + 1, True)])
def test_a_burst_of_dead_letters_trips_without_a_warm_up(a_second: float, trips: bool):
    found = fed(tripwires.Poison(), [dying(a_second, publisher=BIDDER)])

    assert bool(found) is trips
    assert all(one.publisher == BIDDER for one in found)


def test_of_a_topic_that_is_nobodys_nobody_is_named():
    (found,) = fed(tripwires.Poison(), [dying(100)])

    assert found.publisher is None
    assert "hitl.actions" in found.what


def repeated(count: int, weight: float = 1.0) -> Interval:
    interval = Interval(SECONDS)
    for _ in range(count):
        interval.executed(BIDDER, "acc-1/cmp-7", {}, weight)
    return interval


def test_many_actions_on_one_entity_within_a_minute_trip():
    wire = tripwires.Repeats()

    assert fed(wire, [repeated(REPEATS // 10)] * 9) == []
    (found,) = fed(wire, [repeated(REPEATS // 10)])
    assert (found.publisher, found.saw) == (BIDDER, REPEATS)
    assert "acc-1/cmp-7" in found.what


def test_the_same_over_several_minutes_does_not():
    assert fed(tripwires.Repeats(), [repeated(2)] * 100) == []


def test_an_estimate_from_a_few_records_proves_no_repeat():
    assert fed(tripwires.Repeats(), [repeated(5, weight=50)]) == []
    assert len(fed(tripwires.Repeats(), [repeated(10, weight=50)])) == 1


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_wire_remembers_so_many_keys_and_forgets_the_one_not_seen_for_longest():
    surges: Surges[int] = Surges(1.0)
    for n in range(0, KEYS_MAX + 500, 500):
        list(surges.judge({n + i: 1.0 for i in range(500)}))

    assert len(surges._baselines) == KEYS_MAX
    assert 0 not in surges._baselines
    assert KEYS_MAX + 499 in surges._baselines


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=60))
def test_nothing_trips_that_stays_below_the_floor_or_five_times_what_was_least(values: list[float]):
    surges: Surges[str] = Surges(floor=1.0)
    least = max(1.0, min(values))
    found = [hit for value in values for hit in surges.judge({"one": min(value, FACTOR * least)})]

    assert found == []
