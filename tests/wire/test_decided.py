"""What may be read of a decision that others wrote: the router's own, and the one inside what people approved."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from hitl_stream.wire import records
from hitl_stream.wire.decided import routed_value
from hitl_stream.wire.records import Approved, Common, Decision, Routed, execute_by_ms, head_of, traces
from support.make import FakeRecord, Partition, action_bytes, change, make_router

TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


def asked() -> bytes:
    """Return a decision that asks people."""
    value = action_bytes(changes=[change("1.20", "1.60")])
    (output,) = Partition(make_router()).run(FakeRecord(value, 7))
    assert output.topic == "hitl.review"
    return output.value or b""


def approved(value: bytes, **parts: Any) -> Approved:
    """Return what people make of it."""
    decision = records.decode_decision(value)
    shared = {name: getattr(decision, name) for name in Common.__struct_fields__}
    made = Approved(
        **shared | {"outcome": "EXECUTE", "epoch": 9},
        origin=decision.origin, attempt=decision.attempt, held=decision.held, by=("ana",),
        routed=Routed(topic="hitl.review", head=head_of(value).decode(), seal="r1:x"), action=decision.action,
    )  # fmt: skip
    return msgspec.structs.replace(made, **parts)


def headed(value: bytes, **changes: Any) -> Routed:
    """Return a router's head with other members."""
    head = json.loads(head_of(value) + b"}") | changes
    return Routed(topic="hitl.review", head=json.dumps(head, separators=(",", ":"))[:-1], seal="r1:x")


def raw(value: bytes) -> bytes:
    return bytes(records.decode_decision(value).action)


def test_the_routers_own_record_comes_out_of_what_people_approved_byte_by_byte() -> None:
    value = asked()
    assert routed_value(approved(value), raw(value)) == value


@pytest.mark.parametrize(
    "changes",
    [
        {"hash": "0" * 64}, {"tenant": "other"}, {"action_id": "act-2"}, {"origin": "hitl.actions/0/8"}, {"attempt": 1},
        {"type": "budget.adjust"}, {"purpose": "audit"}, {"ce": {"ce_id": "x"}}, {"id": 5}, {"level": "x"},
        {"agent": {"id": "other", "version": "1"}}, {"entity": {"account": "other", "campaign": None}},
        {"parked": {"by": "desk", "epoch": 1, "switches": []}},
    ],
    ids=str,
)  # fmt: skip
def test_a_head_of_another_decision_gives_nothing(changes: dict[str, Any]) -> None:
    value = asked()
    assert routed_value(approved(value, routed=headed(value, **changes)), raw(value)) is None


@pytest.mark.parametrize("head", ["", "{", "{}", "[", '{"a":1', "\ud800", '{"x":{"y":1,"action":{}}'])
def test_what_is_no_head_of_a_decision_gives_nothing(head: str) -> None:
    value = asked()
    routed = Routed(topic="hitl.review", head=head, seal="r1:x")
    assert routed_value(approved(value, routed=routed), raw(value)) is None


def test_the_bytes_of_another_action_give_nothing() -> None:
    value = asked()
    assert routed_value(approved(value), raw(value).replace(b"1.60", b"9.60")) is None


def test_a_whole_record_in_place_of_its_head_gives_nothing() -> None:
    value = asked()
    routed = Routed(topic="hitl.review", head=value.decode(), seal="r1:x")
    assert routed_value(approved(value, routed=routed), raw(value)) is None


def test_of_several_traces_the_first_good_one_is_carried_on() -> None:
    assert traces([("traceparent", b"x"), ("other", TRACE[1]), TRACE, ("traceparent", TRACE[1][:-2] + b"00")]) == [
        TRACE
    ]


@pytest.mark.parametrize(
    ("text", "ms"), [(None, 0), ("1970-01-01T00:00:01.5+00:00", 1_500), ("1970-01-01T01:00:00+01:00", 0)]
)
def test_a_decision_says_until_when_it_may_run(text: str | None, ms: int) -> None:
    decision = msgspec.structs.replace(records.decode_decision(asked()), execute_by=text)
    assert execute_by_ms(decision) == ms


@pytest.mark.parametrize("text", ["soon", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_said_to_be_none(text: str) -> None:
    decision: Decision = msgspec.structs.replace(records.decode_decision(asked()), execute_by=text)
    with pytest.raises(ValueError, match=r"\S"):
        execute_by_ms(decision)
