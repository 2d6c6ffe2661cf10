"""Approvals are checked by what control had recorded when they were given, not by what it says now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hitl_stream.core.commands import Confirm, Keys, LevelChange, PolicyChange
from hitl_stream.wire.control_past import ControlPast
from hitl_stream.wire.policy_file import parse
from hitl_stream.wire.trust_at import Dated, TrustAt
from support.make import NOW_MS as MOMENT_MS
from support.make import SEAL_KEY, acme
from support.signed import ANA, BEN, CLUSTER, CONTROL, FIRST, NOW_MS, TRUST, entry, signed

ASKING = ("hitl.review", "hitl.escalation")
FILE = (acme().policy, acme().digest)
OTHER = acme().text.replace("sla: 15m", "sla: 16m")


def past() -> ControlPast:
    log = ControlPast(CLUSTER, TRUST)
    assert log.take(0, NOW_MS, FIRST) is None
    return log


def say(log: ControlPast, offset: int, key: Any, command: Any, **fields: Any) -> None:
    assert log.take(offset, NOW_MS, signed(key, command, **fields)) is None


def promote(log: ControlPast, offset: int, text: str) -> str:
    digest = parse(text, "policy.yaml").digest
    say(log, offset, ANA, PolicyChange, text=text, digest=digest, reason="r")
    say(log, offset + 1, BEN, Confirm, of=offset)
    return digest


def trusts(log: ControlPast, file: Dated | None = FILE) -> TrustAt:
    return TrustAt(log, ASKING, {SEAL_KEY.key_id: SEAL_KEY}, file)


def test_until_a_policy_is_promoted_that_of_the_file_holds_where_the_router_went_by_it():
    found = trusts(past()).at(0, MOMENT_MS, acme().digest)
    assert found is not None
    assert (found.policy.digest, found.rules_at, found.audience) == (acme().digest, -1, CLUSTER)
    assert found.topics == frozenset(ASKING)
    assert trusts(past()).at(0, MOMENT_MS, "e" * 64) is None
    assert trusts(past(), None).at(0, MOMENT_MS, acme().digest) is None


def test_a_policy_holds_from_its_confirmation_on_whatever_the_router_went_by():
    log = past()
    digest = promote(log, 1, OTHER)
    trust = trusts(log)
    before, after = trust.at(1, MOMENT_MS, acme().digest), trust.at(2, MOMENT_MS, acme().digest)
    assert before is not None
    assert after is not None
    assert (before.policy.digest, before.rules_at) == (acme().digest, -1)
    assert (after.policy.digest, after.rules_at) == (digest, 2)


def test_a_promoted_policy_that_this_version_cannot_read_is_not_recorded():
    log = past()
    say(log, 1, ANA, PolicyChange, text="nonsense: 1", digest="a" * 64, reason="r")
    say(log, 2, BEN, Confirm, of=1)
    assert trusts(log).at(2, MOMENT_MS, "a" * 64) is None


def test_levels_hold_from_their_epoch_on():
    log = past()
    say(log, 1, CONTROL, LevelChange, class_="bid.adjust", level=2, reason="r", evidence={})
    before, after = (trusts(log).at(epoch, MOMENT_MS, acme().digest) for epoch in (0, 1))
    assert before is not None
    assert after is not None
    assert [found.policy.of("bid.adjust").level_number for found in (before, after)] == [3, 2]
    assert [found.rules_at for found in (before, after)] == [-1, 1]


def test_keys_are_those_that_were_listed_then():
    log = past()
    ended = entry(CONTROL, until_s=NOW_MS // 1000)
    say(log, 1, ANA, Keys, keys=(ended,))
    say(log, 2, BEN, Confirm, of=1)
    before, after = (trusts(log).at(epoch, MOMENT_MS, acme().digest) for epoch in (1, 2))
    assert before is not None
    assert after is not None
    assert before.keys["control-1"].until > after.keys["control-1"].until == datetime.fromtimestamp(NOW_MS // 1000, UTC)
    assert before.keys.keys() == after.keys.keys() == {"ana-1", "ben-1", "control-1"}


def test_a_policy_is_compiled_once_for_the_days_on_which_it_says_the_same():
    trust = trusts(past())
    one, two = (trust.at(0, MOMENT_MS + number, acme().digest) for number in (0, 1_000))
    assert one is not None
    assert two is not None
    assert one.policy is two.policy
