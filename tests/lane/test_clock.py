"""Control time: newest append time + steady time, and never backwards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.lane.clock import ControlClock, steady_ms

APPENDED = 1_763_709_000_000


class Steady:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 5_000

    def __call__(self) -> int:
        return self.ms


def test_before_anything_was_observed_there_is_no_time():
    steady = Steady()
    clock = ControlClock(steady)
    steady.ms += 60_000

    assert clock.now_ms() == 0


def test_time_runs_on_from_the_append_time_by_the_steady_clock():
    steady = Steady()
    clock = ControlClock(steady)
    clock.observe(APPENDED)
    steady.ms += 1_500

    assert clock.now_ms() == APPENDED + 1_500


def test_an_append_time_behind_our_own_reckoning_changes_nothing():
    """Replayed and late records are old; the clock is not set back by them."""
    steady = Steady()
    clock = ControlClock(steady)
    clock.observe(APPENDED)
    steady.ms += 1_500
    clock.observe(APPENDED + 1_000)
    steady.ms += 500

    assert clock.now_ms() == APPENDED + 2_000


def test_an_append_time_ahead_moves_the_clock_on():
    steady = Steady()
    clock = ControlClock(steady)
    clock.observe(APPENDED)
    clock.observe(APPENDED + 30_000)
    steady.ms += 1

    assert clock.now_ms() == APPENDED + 30_001


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(APPENDED - 50_000, APPENDED + 50_000)), max_size=40))
def test_the_clock_never_runs_backwards(events: list[tuple[int, int]]):
    steady = Steady()
    clock = ControlClock(steady)
    seen = [clock.now_ms()]
    for passed, append_ms in events:
        steady.ms += passed
        seen.append(clock.now_ms())
        clock.observe(append_ms)
        seen.append(clock.now_ms())

    assert seen == sorted(seen)


def test_the_steady_clock_counts_milliseconds_and_does_not_run_backwards():
    read = [steady_ms() for _ in range(100)]

    assert read == sorted(read)
    assert all(isinstance(ms, int) for ms in read)
