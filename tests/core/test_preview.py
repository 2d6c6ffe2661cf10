"""Two policies compared by what they make of the same actions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.preview import Answer, Compared, Mover, Preview, QueueRow, RouteRow

RUNS = Answer("bid", "EXECUTE")
ASKS = Answer("bid", "REVIEW", ("trading",))
BOTH = Answer("bid", "ESCALATE", ("trading", "manager"))


def compared(*pairs: tuple[Answer, Answer], queues: tuple[str, ...] = ()) -> Preview:
    made = Compared()
    for before, after in pairs:
        made.add(before, after)
    return made.preview(queues)


@pytest.mark.behaviour("E7")
def test_queues_routes_and_the_largest_movers_are_shown():
    found = compared((ASKS, RUNS), (ASKS, RUNS), (ASKS, ASKS), (RUNS, BOTH), queues=("idle",))
    assert (found.actions, found.moved) == (4, 3)
    assert found.queues == (QueueRow("manager", 0, 1), QueueRow("trading", 3, 2), QueueRow("idle", 0, 0))
    assert found.queues[1].change == -1
    assert RouteRow("bid", "EXECUTE", 1, 2) in found.routes
    assert found.movers == (
        Mover("bid", "REVIEW → trading", "EXECUTE", 2),
        Mover("bid", "EXECUTE", "ESCALATE → manager, trading", 1),
    )


def test_one_that_asks_another_queue_has_moved_though_its_route_has_not():
    found = compared((ASKS, Answer("bid", "REVIEW", ("manager",))))
    assert found.moved == 1
    assert [row.change for row in found.queues] == [1, -1]


ANSWERS = st.builds(
    Answer,
    st.sampled_from(["bid", "post"]),
    st.sampled_from(["EXECUTE", "REVIEW"]),
    st.lists(st.sampled_from(["a", "b"]), max_size=3).map(tuple),
)


@given(st.lists(st.tuples(ANSWERS, ANSWERS), max_size=30))
def test_every_action_takes_one_route_before_and_one_after(pairs: list[tuple[Answer, Answer]]):
    found = compared(*pairs)
    assert sum(row.before for row in found.routes) == sum(row.after for row in found.routes) == len(pairs)
    assert sum(mover.count for mover in found.movers) <= found.moved <= len(pairs)


@given(st.lists(ANSWERS, max_size=30))
def test_the_same_policy_moves_nothing(answers: list[Answer]):
    found = compared(*((answer, answer) for answer in answers))
    assert found.moved == 0
    assert found.movers == ()
    assert all(row.change == 0 for row in found.queues)
