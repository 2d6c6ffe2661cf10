"""Whatever a desk lets run, an executor believes: the same rules on both sides, and bytes in between."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.policy.model import Policy
from hitl_stream.core.review import State
from hitl_stream.roles.approvals import HumanApprovals
from hitl_stream.roles.executor import Vouched
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.records import Approved
from hitl_stream.wire.topics import TopicSet
from support.desk import ANA, CLUSTER, MINUTE, SECOND, Workplace
from support.make import DESK_KEY, NOW_MS, SEAL_KEY, FakeRecord, acme, action_bytes, change, iso, make_policy, post

LATE = {"expires_at": iso(NOW_MS + 3 * 86_400_000)}
BIG = {"changes": [change("1.00", "1.30")]}
"""A bid that asks one trader."""
CLAIM = {**post("It isn't magic. It is clinically proven."), "type": "post.publish", "agent": {"id": "copy-2"}, **LATE}
"""A post that asks an editor and a client."""
SIZE, FLAGGED = 200, 3


def approvals(work: Workplace, policy: Policy | None = None) -> HumanApprovals:
    """Return an executor's look, by the same control and policy as the desk's."""
    return HumanApprovals(
        TopicSet(partitions=1),
        {DESK_KEY.key_id: DESK_KEY},
        {SEAL_KEY.key_id: SEAL_KEY},
        Policies(policy if policy is not None else acme().policy, "d" * 64, work.control),
        lambda: CLUSTER,
        lambda: work.now_ms,
    )


def believed(work: Workplace, policy: Policy | None = None) -> list[Approved]:
    """Return what the desk let run, each of it good by an executor's own look."""
    executor = approvals(work, policy)
    found = []
    for output in work.left["execute"]:
        read = executor.read(FakeRecord(output.value, topic=output.topic, headers=output.headers))
        assert isinstance(read, Vouched), read
        assert read.unsealed == "", read.unsealed
        found.append(read.decision)
    return found


def opened(work: Workplace, **parts: Any) -> str:
    (item,) = work.opened(action_bytes(**parts))
    return item


@pytest.mark.behaviour("A2")
def test_one_persons_yes() -> None:
    work = Workplace()
    work.say(opened(work, **BIG))
    work.work()

    assert [one.by for one in believed(work)] == [("tess",)]


def test_a_yes_with_a_persons_own_key() -> None:
    work = Workplace()
    work.say(opened(work, **BIG), by="ana", key=ANA)
    work.work()

    assert [one.by for one in believed(work)] == [("ana",)]


@pytest.mark.behaviour("B7")
def test_two_peoples_yes() -> None:
    policy = make_policy(classes={"bid.adjust": {"people": 2}})
    work = Workplace(policy)
    item = opened(work, **BIG)
    work.say(item, by="tess")
    work.say(item, by="theo")
    work.work()

    assert [one.by for one in believed(work, policy)] == [("tess", "theo")]


@pytest.mark.behaviour("B7", "C8")
def test_an_editors_and_a_clients_yes() -> None:
    work = Workplace()
    item = opened(work, **CLAIM)
    work.say(item, by="cleo", role="client")
    work.say(item, by="eve", role="editor")
    work.work()

    assert [set(one.by) for one in believed(work)] == [{"cleo", "eve"}]


def test_the_yes_of_whoever_it_was_escalated_to() -> None:
    work = Workplace()
    item = opened(work, **BIG)
    work.later(7 * MINUTE + 31 * SECOND)
    work.say(item, by="mia", role="marketing_manager")
    work.work()

    assert [one.by for one in believed(work)] == [("mia",)]


def test_a_yes_to_a_persons_change_by_another_person() -> None:
    """Who proposed it stands in the router's sealed head; the desk and the executor bar the same one."""
    work = Workplace()
    work.say(opened(work, **BIG), "change", edits=[("/changes/0/after", "1.40")], code="too_large")
    work.work()
    (proposed,) = work.left["actions"]
    work.route(FakeRecord(proposed.value, 1, timestamp=work.now_ms, key=proposed.key, headers=tuple(proposed.headers)))
    work.work()
    (item,) = work.open_items()
    assert work.card(item).decision.by == "tess"
    work.say(item, by="tess")
    work.work()
    assert not work.left["execute"]
    work.say(item, by="theo")
    work.work()

    assert [one.by for one in believed(work)] == [("theo",)]


@pytest.mark.behaviour("E5")
def test_the_release_of_a_batch_by_one_who_judged_its_sample() -> None:
    work = Workplace()
    for number in range(SIZE):
        text = "It isn't bread." if number < FLAGGED else "Fresh bread."
        batch = {"id": "b-7", "size": SIZE, "index": number}
        parts = {**post(text), "type": "post.publish", "agent": {"id": "copy-2"}, "batch": batch, **LATE}
        work.propose(action_bytes(action_id=f"post-{number}", **parts))
    work.work()
    for item in [one for one in work.open_items() if work.review(one).state is State.OPEN]:
        work.say(item, by="eve", role="editor")
    work.work()
    work.release_batch(work.lot("acme/acc-17/b-7"), by="eve", role="editor")
    work.work()
    work.later(0)

    found = believed(work)
    assert len({one.id for one in found}) == len(found) == SIZE
    assert sum(one.proof is not None for one in found) == SIZE - FLAGGED
    assert {one.by for one in found} == {("eve",)}
