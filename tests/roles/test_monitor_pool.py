"""What the monitor reads beside judgements: whose records count, which policy, and what was last said of a queue."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace as replaced

from hitl_stream.core.control import Control
from hitl_stream.roles.monitor_pool import Pool
from hitl_stream.roles.monitor_seeds import At
from hitl_stream.roles.monitor_state import Said
from hitl_stream.wire.records import DECISION, head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import ALERT, Alert, alert_value, seeded_value
from support.make import DESK_KEY, FakeRecord, acme, make_policy
from support.watching import START_MS, asking, judged, judgement

NAMES, SEAL = SealKey("p1", b"\x06" * 32), SealKey("m1", b"\x05" * 32)
STRANGER = SealKey("m1", b"\x09" * 32)
TOPICS = TopicSet(partitions=1)


def pool(**policies: Any) -> Pool:
    return Pool({}, TOPICS, "", {DESK_KEY.key_id: DESK_KEY}, SEAL, NAMES, policies)


def record(topic: str, value: bytes, headers: list[tuple[str, bytes]]) -> FakeRecord:
    return FakeRecord(value, 7, 0, START_MS, TOPICS.name(topic), b"", tuple(headers))


def sealed(topic: str, kind: str, value: bytes, key: SealKey) -> FakeRecord:
    seal = sealer(key, TOPICS.name(topic), kind)(head_of(value))
    return record(topic, value, [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, seal)])


def said(number: int, row: int = 0, person: str | None = None, *, ended: bool = False) -> Alert:
    return Alert(id=f"trading/{row}/{number}", queue="trading", person=person, row=row, level=3, ended=ended, at="t")


@pytest.mark.parametrize(
    ("key", "found"), [(DESK_KEY, {"item-act-0": At(0, 7)}), (replace(DESK_KEY, key=b"x" * 32), {})]
)
def test_what_people_decided_counts_under_the_desks_seal_alone(key: SealKey, found: dict[str, At]):
    there = pool()
    _, value, headers = judged(TOPICS.name("decisions"), key, judgement(asking()))
    there.take(record("decisions", value, headers))

    assert there.seeds.placed == found


@pytest.mark.parametrize(("key", "waits"), [(SEAL, True), (STRANGER, False)])
def test_what_was_planted_counts_under_our_own_seal_alone(key: SealKey, waits: bool):
    there = pool()
    held = replaced(asking(), purpose="canary", for_="ana", action_id="~x")
    there.take(sealed("review.seeded", DECISION, seeded_value(held, bytes(held.action)), key))

    assert there.seeds.may_get("ana", "elsewhere", START_MS) is not waits


def test_a_judgement_with_a_time_that_is_none_is_passed_over():
    there = pool()
    _, value, headers = judged(TOPICS.name("decisions"), DESK_KEY, replaced(judgement(asking()), decided="yesterday"))
    there.take(record("decisions", value, headers))

    assert not there.seeds._shelves


def test_the_newest_alert_of_a_queue_says_what_holds_of_it():
    there = pool()
    for one in (said(2, ended=True), said(1), said(1, row=5), said(9, person="p-1"), replaced(said(3), id="a place")):
        there.take(sealed("alerts", ALERT, alert_value(one), SEAL))
    there.take(sealed("alerts", ALERT, alert_value(said(4)), STRANGER))

    assert there.said_of("trading") == {0: Said(2, holds=False), 5: Said(1, holds=True)}
    assert there.said_of("content") == {}


def test_nothing_is_planted_under_a_policy_that_nobody_knows_and_what_is_promoted_counts_then():
    there, control = pool(), Control()
    there._know(control)
    assert there.rules(START_MS) is None
    control.policy = SimpleNamespace(epoch=3, text="no policy")  # type: ignore[assignment]
    there._know(control)
    assert there.rules(START_MS) is None
    control.policy = SimpleNamespace(epoch=4, text=acme().text)  # type: ignore[assignment]
    there._know(control)

    rules = there.rules(START_MS)
    assert rules is not None
    assert (rules.policy, rules.digest) == (acme().policy, acme().digest)


def test_the_policy_of_the_settings_counts_until_control_promotes_another():
    there, control = pool(digest=make_policy()), Control()
    there._know(control)

    rules = there.rules(START_MS)
    assert rules is not None
    assert (rules.digest, rules.epoch) == ("digest", control.epoch)
