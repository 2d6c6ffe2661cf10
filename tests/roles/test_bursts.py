"""Of what happens many times the first is said at once, and nothing is left untold."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.roles.bursts import EVERY_S, KINDS_MAX, Bursts


def test_the_first_is_told_at_once_and_the_others_together_later() -> None:
    bursts = Bursts()
    told = [bursts.count("lost", at) for at in (0.0, 0.1, EVERY_S - 0.1, EVERY_S, EVERY_S + 0.1, 2 * EVERY_S)]
    assert told == [1, 0, 0, 3, 0, 2]


def test_each_kind_has_a_burst_of_its_own() -> None:
    bursts = Bursts()
    assert [bursts.count(kind, 0.0) for kind in ("lost", "raised", "lost")] == [1, 1, 0]


def test_what_waits_is_due_after_a_while_and_then_no_more() -> None:
    bursts = Bursts()
    for _ in range(4):
        bursts.count("lost", 0.0)
    assert bursts.due(EVERY_S - 0.1) == []
    assert bursts.due(EVERY_S) == [("lost", 3)]
    assert bursts.due(9 * EVERY_S) == []


def test_kinds_beyond_the_limit_are_told_each_time_and_take_no_room() -> None:
    bursts = Bursts()
    for n in range(KINDS_MAX + 5):
        assert bursts.count(f"kind-{n}", 0.0) == 1
    assert len(bursts._bursts) == KINDS_MAX
    assert bursts.count(f"kind-{KINDS_MAX}", 0.0) == 1


@given(st.lists(st.floats(0.0, 8.0), max_size=60))
def test_in_the_end_as_many_are_told_as_there_were_and_never_two_lines_within_a_while(waits: list[float]) -> None:
    bursts, now, said, lines = Bursts(), 0.0, 0, []
    for wait in waits:
        now += wait
        told = bursts.count("lost", now)
        said += told
        lines += [now] if told else []
    said += sum(count for _, count in bursts.due(now + EVERY_S))
    assert said == len(waits)
    assert all(later >= earlier + EVERY_S for earlier, later in pairwise(lines))
