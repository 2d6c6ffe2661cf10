"""What the desk says of gates: which ones look at an item, whether it is an output more, and of audits to whom."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.policy.model import Policy
from support.desk import Workplace
from support.make import action_bytes, change, gate, make_policy, post

BIG = {"changes": [change("1.00", "1.30")]}
"""A bid that asks one trader."""
SMALL = {"changes": [change("1.00", "1.01")]}
"""One that runs alone."""


def policy(state: str = "enforce", **parts: Any) -> Policy:
    """Return one with a gate over bids that never has anything to say of them."""
    looks = gate("bid.adjust", validators=["brand_voice"], state=state)
    elsewhere = gate("post.own", validators=["brand_voice"])
    return make_policy(gates={"quiet": looks, "elsewhere": elsewhere}, **parts)


@pytest.mark.parametrize("state", ["enforce", "observe"])
def test_a_judgement_names_the_gates_that_look_at_the_item_also_those_that_had_nothing_to_say(state: str):
    work = Workplace(policy(state, classes={"bid.adjust": {"second_review": 0}}))
    (item,) = work.opened(action_bytes(**BIG))
    work.say(item)
    work.work()

    (seen,) = work.take("observations")
    assert seen["gates"] == ["quiet"]
    assert not seen["again"]
    assert work.take("evidence") == []


def test_the_second_approval_of_an_item_is_no_output_more():
    work = Workplace(policy(classes={"bid.adjust": {"people": 2, "second_review": 0}}))
    (item,) = work.opened(action_bytes(**BIG))
    for person in ("tess", "theo"):
        work.say(item, by=person)
        work.work()

    assert [(seen["reviewer"], seen["again"]) for seen in work.take("observations")] == [
        ("tess", False), ("theo", True)
    ]  # fmt: skip


def test_an_audit_is_told_to_every_gate_that_looks_at_what_ran_alone():
    work = Workplace(policy(classes={"bid.adjust": {"audit_sample": 1}}))
    (item,) = work.opened(action_bytes(**SMALL))
    assert work.review(item).purpose == "audit"
    work.say(item, "reject", code="too_large")
    work.work()

    (told,) = work.left["evidence"]
    assert told.key == b"quiet"
    (seen,) = work.take("evidence")
    assert (seen["gates"], seen["purpose"], seen["verdict"]) == (["quiet"], "audit", "reject")
    assert seen["p"] == 1.0


@pytest.mark.behaviour("A8")
def test_what_a_gate_puts_to_people_is_counted_with_the_time_that_they_look():
    work = Workplace()
    claim = {**post("It isn't magic. It is clinically proven."), "type": "post.publish", "agent": {"id": "copy-2"}}
    work.propose(action_bytes(**claim), action_bytes(action_id="big", **BIG))
    work.work()
    (item,) = [name for name in work.open_items() if work.card(name).action.action_id != "big"]
    asking = {row.gate for row in work.card(item).decision.reasons if row.gate and row.counts}
    assert asking
    assert work.tally.diverted == dict.fromkeys(asking, 1)

    work.say(item, by="eve", role="editor", read_s=42)
    work.work()
    assert work.tally.gate_ms == dict.fromkeys(asking, 42_000)
    (other,) = [name for name in work.open_items() if name != item]
    work.say(other, by="tess", read_s=5_000)
    work.work()
    assert work.tally.gate_ms == {}, "no gate asked for it"
