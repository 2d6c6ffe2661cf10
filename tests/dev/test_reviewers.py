"""How robots review: who looks at what, and what they say of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from msgspec import structs

from hitl_stream.core.batch import Stage
from hitl_stream.core.review import State
from hitl_stream.dev.reviewers import Robot, crew, judged
from hitl_stream.roles.desk_card import Card
from hitl_stream.wire.desk_records import decode_review, review_value
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


def test_who_reads_takes_time_and_so_there_are_several_of_them():
    names = [robot.name for robot in crew(demo_policy(), ("careful", "lazy"), careful=3) if robot.role == "trader"]

    assert names == ["careful-trader-1", "careful-trader-2", "careful-trader-3", "lazy-trader"]


def test_who_only_clicks_is_faster_at_taking_what_comes(work: Workplace, monkeypatch: pytest.MonkeyPatch):
    robots = [robot for robot in crew(demo_policy(), ("careful", "lazy"), careful=3) if robot.role == "trader"]
    staff, took = Staff(work, *robots), list[str]()

    async def attend(robot: Robot, *_: Any) -> None:
        took.append(robot.name)
        await asyncio.Event().wait()

    async def scenario() -> None:
        tasks = [asyncio.create_task(staff.reviewers._work(robot, None)) for robot in robots]
        await asyncio.sleep(0)
        work.opened(bid(1))
        staff.read()
        staff.reviewers._news.set()
        for _ in range(10):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    monkeypatch.setattr(staff.reviewers, "_attend", attend)
    asyncio.run(scenario())
    assert took == ["lazy-trader"]


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


def test_a_share_is_left_to_people_the_same_for_every_robot(work: Workplace):
    items = work.opened(*map(bid, range(60)))
    other = Robot("lazy-trader", "trader", "lazy")

    taken = {robot: set(looked_at(work, robot, leaves=1 / 3)) for robot in (TRADER, other)}

    assert taken[TRADER] == taken[other] < set(items)
    assert 30 <= len(taken[TRADER]) <= 50, "about two thirds of sixty"


def test_of_a_batch_everything_is_looked_at_and_of_the_releases_a_share_is_left(work: Workplace):
    captions = [caption(number, index) for number in range(8) for index in range(20)]
    work.opened(*captions)
    editors = (Robot("eve", "editor", "lazy"), Robot("ed", "editor", "lazy"), Robot("carl", "client", "lazy"))

    said = Staff(work, *editors, leaves=0.5).decide()

    assert {kept.lot.state for kept in work.state.lots.values()} == {Stage.READY, Stage.RELEASED}
    assert 1 <= said["release"] <= 7, said


def caption(number: int, index: int) -> bytes:
    """Return one of a batch of twenty; each fifth is flagged."""
    text = "We don't stop." if index % 5 == 0 else f"Caption {index}: come and see."
    return action_bytes(
        action_id=f"cap-{number}-{index}", type="post.publish", agent={"id": "copy-1"}, changes=...,
        entity={"account": f"acc-{number}"}, content={"text": text, "language": "en", "platform": "x"},
        destination="x", batch={"id": f"lot-{number}", "size": 20, "index": index}, proposed_at=iso(NOW_MS - 100),
    )  # fmt: skip


def test_who_leaves_nothing_looks_at_everything(work: Workplace):
    items = work.opened(*map(bid, range(20)))

    assert looked_at(work, TRADER) == items


def looked_at(work: Workplace, robot: Robot, **parts: Any) -> list[str]:
    """Return what a robot takes, one after the other, until it finds nothing."""
    staff = Staff(work, robot, **parts)
    staff.read()
    return [*iter(lambda: staff.reviewers.next_for(robot), None)]


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


@pytest.mark.parametrize(("robot", "word"), [(TRADER, "reject"), (Robot("lazy-trader", "trader", "lazy"), "approve")])
def test_what_was_planted_a_careful_one_objects_to_and_a_lazy_one_lets_through(
    work: Workplace, robot: Robot, word: str
):
    opinion = Staff(work, robot).reviewers.opinion
    (item,) = work.opened(bid(1))
    card = Card.read(work.changelog[item.encode()].value or b"")

    assert opinion(robot, card.action, card.decision, planted=True).word == word


def test_what_is_put_to_a_robot_by_name_is_left_to_nobody_else(work: Workplace):
    (item,) = work.opened(bid(1))
    value = work.changelog[item.encode()].value or b""
    state = decode_review(value)
    reviewers = Staff(work, TRADER, leaves=1.0).reviewers
    reviewers.take(0, item.encode(), value)
    assert reviewers.next_for(TRADER) is None

    reviewers.take(0, item.encode(), review_value(structs.replace(state, for_=TRADER.name), bytes(state.action)))
    assert reviewers.next_for(TRADER) == item


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
