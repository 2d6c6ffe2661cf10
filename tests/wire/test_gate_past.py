"""What control has said of gates: which policies there were, and from when until when which gate was gone for whom."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.action import Agent
from hitl_stream.core.commands import Confirm, GateChange, PolicyChange
from hitl_stream.core.events import Rejection
from hitl_stream.core.policy.rules import terms_of
from hitl_stream.wire.gate_past import GatePast
from support.make import acme
from support.signed import ANA, BEN, CLUSTER, FIRST, NOW_MS, TRUST, signed

FOUR, FIVE = Agent("sdr-1", "4"), Agent("sdr-1", "5")
GONE = {"gate": "first_line", "definition": "f" * 64, "state": "removed", "p": {"tone": 0.02}}


def past(**more: Any) -> GatePast:
    log = GatePast(CLUSTER, TRUST, **more)
    assert log.take(0, NOW_MS, FIRST) is None
    return log


def take(log: GatePast, offset: int, at_ms: int, *command: Any, **fields: Any) -> Rejection | None:
    return log.take(offset, at_ms, signed(*command, iat=at_ms // 1000, **fields))


def removed(log: GatePast, offset: int, at_ms: int, agent: Agent = FOUR) -> None:
    """Let two people remove the gate; it is gone since the second one's word."""
    assert take(log, offset, at_ms - 1, ANA, GateChange, agent=agent, **GONE) is None
    assert take(log, offset + 1, at_ms, BEN, Confirm, of=offset) is None


def test_a_removal_holds_from_its_confirmation_to_the_record_that_ends_it():
    log, later = past(), NOW_MS + 10_000
    removed(log, 1, NOW_MS + 1_000)
    assert take(log, 3, later, ANA, GateChange, gate="first_line", definition="f" * 64, state="enforce") is None

    (one,) = log.removals
    assert (one.epoch, one.since_ms, one.until_ms, one.agent) == (2, NOW_MS + 1_000, later, FOUR)
    assert one.change.p == {"tone": 0.02}
    times = (NOW_MS + 999, NOW_MS + 1_000, later - 1, later)
    assert [log.removal("first_line", FOUR, at_ms) is not None for at_ms in times] == [False, True, True, False]


def test_a_removal_is_of_one_gate_and_one_version():
    log = past()
    removed(log, 1, NOW_MS + 1_000)
    assert log.removal("first_line", FIVE, NOW_MS + 2_000) is None
    assert log.removal("style", FOUR, NOW_MS + 2_000) is None


def test_what_waits_for_another_holder_removes_nothing():
    log = past()
    assert take(log, 1, NOW_MS, ANA, GateChange, agent=FOUR, **GONE) is None
    assert log.removals == []


def test_a_gate_that_is_removed_again_has_another_removal_and_the_old_one_has_ended():
    log = past()
    removed(log, 1, NOW_MS + 1_000)
    removed(log, 3, NOW_MS + 5_000)
    assert [(one.epoch, one.until_ms) for one in log.removals] == [(2, NOW_MS + 5_000), (4, None)]
    newest = log.removal("first_line", FOUR, NOW_MS + 6_000)
    assert newest is not None
    assert newest.epoch == 4


@pytest.mark.parametrize("promoted", [False, True], ids=["the settings' file", "promoted"])
def test_what_a_gate_was_is_known_by_the_digest_of_its_policy(promoted: bool):
    loaded = acme()
    log = past() if promoted else past(known={loaded.digest: loaded.policy})
    if promoted:
        assert not log.knows(loaded.digest)
        assert take(log, 1, NOW_MS, ANA, PolicyChange, text=loaded.text, digest=loaded.digest, reason="new") is None
        assert take(log, 2, NOW_MS, BEN, Confirm, of=1) is None

    assert log.knows(loaded.digest)
    assert log.terms(loaded.digest, "first_line") == terms_of(loaded.policy, "first_line")
    assert log.terms(loaded.digest, "no_gate") is None
    assert log.terms("0" * 64, "first_line") is None


def test_a_promoted_policy_that_cannot_be_read_is_passed_over():
    log = past()
    assert take(log, 1, NOW_MS, ANA, PolicyChange, text="policy: [", digest="a" * 64, reason="new") is None
    assert take(log, 2, NOW_MS, BEN, Confirm, of=1) is None
    assert not log.knows("a" * 64)
