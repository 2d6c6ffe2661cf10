"""How robots review: who looks at what, and what they say of it."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from hitl_stream.core.review import State
from hitl_stream.dev.reviewers import Robot, crew, judged
from hitl_stream.wire.records import decode_approved, decode_held
from support.desk import Workplace
from support.make import NOW_MS, action_bytes, change, iso, make_action
from support.staff import Staff, demo_policy

TRADER, SENIOR = Robot("careful-trader", "trader"), Robot("careful-senior", "senior")
MANAGERS = (Robot("mara", "marketing_manager", "lazy"), Robot("max", "marketing_manager", "lazy"))


@pytest.fixture
def work() -> Workplace:
    return Workplace(demo_policy())


def strategy() -> bytes:
    parts = {"type": "strategy.change", "agent": {"id": "mover-1"}, "entity": {"account": "acc-17"}}
    return action_bytes(**parts, changes=..., context={"goal": "margin"}, proposed_at=iso(NOW_MS - 100))


def bid(number: int, after: str = "1.60") -> bytes:
    leg = change("1.20", after, campaign=f"cmp-{number}")
    return action_bytes(action_id=f"act-{number}", changes=[leg], proposed_at=iso(NOW_MS - 100))


def test_a_crew_has_one_of_each_temper_for_every_role_that_a_queue_asks():
    robots = crew(demo_policy(), ("careful", "lazy"))

    roles = {role for queue in demo_policy().queues.values() for role in queue.roles}
    assert Counter(robot.role for robot in robots) == dict.fromkeys(roles, 2)
    assert len({robot.name for robot in robots}) == len(robots)
    assert {robot.name for robot in robots if robot.role == "marketing_manager"} == {
        "careful-marketing-manager", "lazy-marketing-manager",
    }  # fmt: skip


def test_what_needs_two_people_is_put_to_another_one_after_the_first(work: Workplace):
    (item,) = work.opened(strategy())

    assert Staff(work, MANAGERS[0]).decide() == {"approve": 1}
    assert work.review(item).state is State.OPEN
    both = Staff(work, *MANAGERS)
    assert both.decide() == {"approve": 1}, "the first one is not asked again"

    (output,) = work.left["execute"]
    assert decode_approved(output.value or b"").by == ("mara", "max")


def test_a_robot_sees_only_what_asks_its_role(work: Workplace):
    work.opened(bid(1))
    staff = Staff(work, MANAGERS[0], TRADER)
    staff.read()

    assert staff.reviewers.next_for(MANAGERS[0]) is None
    assert staff.reviewers.next_for(TRADER) is not None


def test_the_oldest_item_comes_first(work: Workplace):
    items = work.opened(bid(1), bid(2), bid(3))
    staff = Staff(work, TRADER)
    staff.read()

    assert [staff.reviewers.next_for(TRADER) for _ in range(4)] == [*items, None]


def test_what_has_ended_is_looked_at_no_more(work: Workplace):
    first, second = work.opened(bid(1), bid(2))
    staff = Staff(work, TRADER)
    staff.read()
    work.say(first, "reject", by="tess")
    work.work()
    staff.read()

    assert staff.reviewers.next_for(TRADER) == second


def test_a_careful_one_makes_too_much_smaller_and_that_is_routed_anew(work: Workplace):
    work.opened(bid(1, "1.56"))

    said = Staff(work, TRADER, seed=1).decide()

    assert said == {"change": 1}
    (output,) = work.left["actions"]
    assert json.loads(output.value or b"")["changes"][0]["after"] == "1.38"


@pytest.mark.parametrize(
    ("after", "word"), [("1.50", "approve"), ("1.56", "change"), ("1.70", "reject"), ("0.60", "reject")]
)
def test_what_a_careful_person_thinks_hangs_on_how_much_it_changes(after: str, word: str):
    assert judged(make_action(changes=[change("1.20", after)]), demo_policy()).word == word


@pytest.mark.parametrize(("robot", "does"), [(TRADER, True), (SENIOR, False)])
def test_nobody_escalates_where_there_is_nobody_to_escalate_to(robot: Robot, does: bool, work: Workplace):
    (item,) = work.opened(bid(1, "1.50"))
    staff = Staff(work, robot)
    head: Any = decode_held(work.card(item).state.routed.head.encode() + b',"action":{}}')

    words = {staff.reviewers.opinion(robot, work.card(item).action, head).word for _ in range(500)}

    assert ("escalate" in words) is does
