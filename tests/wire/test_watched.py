"""What the monitor reads and writes: seals on it, and names that say nobody."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.decided import Decided
from hitl_stream.wire.desk_records import HUMAN_DECISION, OBSERVATION, HumanDecision
from hitl_stream.wire.records import Parked, decode_held
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.watched import (
    ALERT,
    Alert,
    Observed,
    alert_value,
    asked_in,
    pseudonym,
    read_alert,
    read_judgement,
    read_observation,
    seeded_value,
)  # fmt: skip
from support.make import DESK_KEY, action_bytes
from support.watching import START_MS, asking, judged, judgement, observation, written

TOPIC, KEYS = "hitl.observations", {DESK_KEY.key_id: DESK_KEY}
MONITOR = SealKey("m1", b"\x05" * 32)


def headers(kind: str, key: SealKey, topic: str, value: bytes) -> list[tuple[str, bytes]]:
    return [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, sealer(key, topic, kind)(value))]


def test_an_observation_is_read_as_the_desk_wrote_it():
    one = observation("ana", "reject", purpose="canary")
    _, value, sealed = written(TOPIC, DESK_KEY, one)

    assert read_observation(TOPIC, value, sealed, KEYS) == Observed(one, START_MS)


@pytest.mark.parametrize(
    ("value", "kind", "key", "error"),
    [
        (b"", OBSERVATION, DESK_KEY, ErrorClass.EMPTY),
        (b"{}", ALERT, DESK_KEY, ErrorClass.UNKNOWN_TYPE),
        (b"{}", OBSERVATION, MONITOR, ErrorClass.SEAL),
        (b"{}", OBSERVATION, DESK_KEY, ErrorClass.SCHEMA),
        (b"[" * 10_000, OBSERVATION, DESK_KEY, ErrorClass.SCHEMA),
    ],
)
def test_what_is_no_observation_of_the_desks_is_said_to_be_none(
    value: bytes, kind: str, key: SealKey, error: ErrorClass
):
    found = read_observation(TOPIC, value, headers(kind, key, TOPIC, value), KEYS)

    assert isinstance(found, Undecodable)
    assert found.error is error


def test_a_time_that_is_none_is_no_observation():
    _, value, sealed = written(TOPIC, DESK_KEY, observation(decided_at="yesterday"))

    assert isinstance(read_observation(TOPIC, value, sealed, KEYS), Undecodable)


# --- what people decided ----------------------------------------------------------------------------------------------


def test_what_was_asked_is_read_back_from_how_the_desk_wrote_down_the_answer():
    held, topic = asking(), "hitl.decisions"
    _, value, sealed = judged(topic, DESK_KEY, judgement(held))
    found = read_judgement(topic, value, sealed, KEYS)
    assert isinstance(found, HumanDecision)
    asked = asked_in(found.asked, bytes(found.action))

    assert isinstance(asked, Decided)
    assert asked.decision == held
    assert asked.decoded.raw == bytes(held.action)
    foreign = read_judgement(topic, value, headers(HUMAN_DECISION, MONITOR, topic, value), KEYS)
    assert isinstance(foreign, Undecodable)
    assert foreign.error is ErrorClass.SEAL


@pytest.mark.parametrize(
    ("asked", "action"),
    [(None, b"null"), ("", b"{}"), ("{", b"{}"), ("...", action_bytes(action_id="another"))],
    ids=["nobody knows the item", "no head", "half a head", "another action"],
)
def test_what_does_not_say_what_was_asked_is_left(asked: str | None, action: bytes):
    head = judgement(asking()).asked if asked == "..." else asked

    assert isinstance(asked_in(head, action), Undecodable)


def test_of_what_the_monitor_asks_the_action_is_the_last_member_and_nothing_is_parked():
    held = replace(asking(), purpose="canary", for_="ana", planted="limit", parked=Parked(by="desk", epoch=3))
    raw = bytes(held.action)
    value = seeded_value(held, raw)

    assert value.endswith(b',"action":' + raw + b"}")
    assert b"parked" not in value
    assert decode_held(value) == replace(held, parked=None)


def test_an_alert_is_read_as_it_was_written_and_from_nobody_else():
    alert = Alert(
        id="hitl.observations/0/7", queue="trading", person="p-1", row=2, level=3, page="rubber_stamp",
        figures={"hit_rate": 0.2}, at="2026-11-21T10:00:00.000Z",
    )  # fmt: skip
    value = alert_value(alert)
    keys = {MONITOR.key_id: MONITOR}

    assert read_alert("alerts", value, headers(ALERT, MONITOR, "alerts", value), keys) == alert
    assert isinstance(read_alert("alerts", value, headers(ALERT, DESK_KEY, "alerts", value), keys), Undecodable)


def test_a_pseudonym_is_the_same_for_the_same_name_and_key_only():
    assert pseudonym(SealKey("p1", bytes(32)), "ana") == "p-bcf6f521578803c6"
    assert len({pseudonym(key, name) for key in (DESK_KEY, MONITOR) for name in ("ana", "ben")}) == 4
