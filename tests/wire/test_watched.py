"""What the monitor reads and writes: seals on it, and names that say nobody."""

from __future__ import annotations

import pytest

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.desk_records import OBSERVATION
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.watched import (
    ALERT,
    Alert,
    Observed,
    alert_value,
    pseudonym,
    read_alert,
    read_observation,
)  # fmt: skip
from support.make import DESK_KEY
from support.watching import START_MS, observation, written

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
