"""`hitl policy preview`: the log's actions decided again, under the policy in force and under a file."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from hitl_stream.cli.preview import Replaying, compare
from hitl_stream.core.control import Control
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.preview import Mover, Preview
from hitl_stream.core.window import IdBudget
from hitl_stream.roles.router import no_plugins
from support.desk import MINUTE
from support.log import Recorded
from support.make import NOW_MS, acme, action_bytes, change, iso, make_policy

LOOSER = make_policy(classes={"bid.adjust": {"auto_max_change": "0.40"}})
STRICTER = make_policy(classes={"bid.adjust": {"auto_max_change": "0.05"}})


def replaying(policy: Policy | None = None, control: Control | None = None) -> Replaying:
    loaded = acme()
    if policy is not None:
        loaded = replace(loaded, policy=policy, digest="e" * 64)
    return Replaying(loaded, control or Control(), "", 1, IdBudget.limit, no_plugins)


def previewed(work: Recorded, policy: Policy, since_ms: int = NOW_MS, sources: Any = ()) -> Preview:
    both = (replaying(), replaying(policy))
    return asyncio.run(compare(work.log, sources, both, since_ms, work.now_ms + 1))


def proposed(work: Recorded, number: int, after: str, **parts: Any) -> None:
    legs = [change("1.00", after, campaign=f"cmp-{parts.pop('campaign', number)}")]
    at = iso(work.now_ms - 100)
    work.propose(action_bytes(action_id=f"act-{number}", changes=legs, proposed_at=at, **parts))


@pytest.mark.behaviour("E7")
def test_a_higher_limit_shrinks_the_queue_by_what_it_lets_through():
    work = Recorded()
    for number, after in enumerate(("1.10", "1.30", "1.35", "1.60")):
        proposed(work, number, after)
    found = previewed(work, LOOSER)
    rows = {row.queue: (row.before, row.after) for row in found.queues}
    assert rows["trading"] == (3, 1)
    assert (found.actions, found.moved) == (4, 2)
    assert found.movers == (Mover("bid.adjust", "REVIEW → trading", "EXECUTE", 2),)


def test_a_lower_limit_fills_it():
    work = Recorded()
    proposed(work, 1, "1.10")
    found = previewed(work, STRICTER)
    assert {row.queue: row.change for row in found.queues}["trading"] == 1


def test_the_policy_in_force_says_what_the_router_said():
    work = Recorded()
    for number, after in enumerate(("1.10", "1.30", "1.60", "1.01")):
        proposed(work, number, after)
    routes = {row.route: row.before for row in previewed(work, LOOSER).routes}
    assert routes == {"EXECUTE": len(work.log.there["execute"]), "REVIEW": len(work.log.there["review"])}


def test_what_came_before_the_stretch_fills_the_windows_and_is_not_counted():
    """Steps of 15 % an hour pass the limit of 50 % an hour at the fourth one, whoever looks at the last alone."""
    work = Recorded()
    for number in range(3):
        proposed(work, number, "1.15", campaign="same")
        work.now_ms += MINUTE
    since_ms = work.now_ms
    proposed(work, 9, "1.15", campaign="same")
    found = previewed(work, LOOSER, since_ms)
    assert found.actions == 1
    assert {row.route: row.before for row in found.routes} == {"REVIEW": 1}


def test_a_persons_change_is_decided_again_like_any_other():
    """The throwaway keys of a preview know no seal, and must not take it for a forgery."""
    work = Recorded()
    legs = [change("1.00", "1.30")]
    (item,) = work.opened(action_bytes(changes=legs))
    work.say(item, "change", edits=[("/changes/0/after", "1.05")])
    work.work()
    (written,) = work.left["actions"]
    found = previewed(work, LOOSER)
    assert written.headers
    assert found.actions == 2
    assert {row.route for row in found.routes} == {"EXECUTE", "REVIEW"}


def test_two_action_topics_are_read_in_order_of_time():
    """Three steps of 15 % stay within 50 % an hour; the fourth and last one, on the first of the topics, does not."""
    work = Recorded()
    for number in range(4):
        proposed(work, number, "1.15", campaign="same")
        work.now_ms += 1_000
    early = work.log.there["actions"][:3]
    del work.log.there["actions"][:3]
    for record in early:
        record.topic = "hitl.zoo"
    work.log.there["zoo"] += early
    last_ms = work.log.there["actions"][0].timestamp
    found = previewed(work, LOOSER, last_ms, sources=("hitl.zoo",))
    assert found.actions == 1
    assert {row.route: row.before for row in found.routes} == {"REVIEW": 1}


def test_nothing_is_written():
    work = Recorded()
    proposed(work, 1, "1.30")
    before = {name: len(found) for name, found in work.log.there.items()}
    previewed(work, LOOSER)
    assert {name: len(found) for name, found in work.log.there.items()} == before


def test_a_level_that_a_record_holds_down_holds_for_both():
    work = Recorded()
    proposed(work, 1, "1.10")
    control = Control()
    control.levels["bid.adjust"] = 2
    both = (replaying(None, control), replaying(LOOSER, control))
    found = asyncio.run(compare(work.log, (), both, NOW_MS, work.now_ms + 1))
    assert {row.route: (row.before, row.after) for row in found.routes} == {"REVIEW": (1, 1)}
