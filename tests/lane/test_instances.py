"""Who acknowledges, as seen from outside: checked where a key lies here, and how long each lease holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.commands import Heartbeat
from hitl_stream.lane.heartbeats import Beat
from hitl_stream.lane.instances import LEASE_MS, Instances, seals_at
from hitl_stream.wire.records import ACK, Ack, encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, create_key, sealer
from support.make import FakeRecord
from support.signed import CONTROL, claims

TOPIC = "hitl.control.acks"
KEY = SealKey("r1", b"k" * 32)
OTHER = SealKey("r1", b"x" * 32)
ROUTER = "host-1/router/0"


def record(n: int, at_ms: int = 1_000, key: SealKey = KEY, **fields: Any) -> FakeRecord:
    ack = Ack(n=n, **{"instance": ROUTER, "role": "router", "version": "1", "epoch": 7} | fields)
    value = encode(ack)
    headers = [(TYPE_HEADER, ACK.encode()), (SEAL_HEADER, sealer(key, TOPIC, ACK)(value))]
    return FakeRecord(value, timestamp=at_ms, topic=TOPIC, key=ack.instance.encode(), headers=headers)


def heard(*records: FakeRecord, keys: bool = True) -> Instances:
    instances = Instances(TOPIC, {"router": {"r1": KEY}} if keys else {})
    for one in records:
        instances.take(one)
    return instances


def beat(n: int, at_ms: int) -> Beat:
    said = {"seq": 1, "control": "c", "epoch": 7, "digest": "0" * 64, "effective": 7, "acks": {ROUTER: n}}
    return Beat(Heartbeat(**claims(CONTROL), **said), at_ms, True)


def test_the_newest_ack_of_an_instance_counts():
    found = heard(record(1, epoch=5), record(2, 1_250, epoch=7))
    assert [(seen.ack.n, seen.ack.epoch, seen.at_ms, seen.checked) for seen in found.latest.values()] == [
        (2, 7, 1_250, True)
    ]


def test_who_said_goodbye_is_gone():
    assert heard(record(1), record(2, goodbye=True)).latest == {}


def test_who_has_not_spoken_since_a_time_is_forgotten():
    found = heard(record(1, 1_000), record(1, 2_000, instance="host-2/router/0"))
    found.forget(2_000)

    assert list(found.latest) == ["host-2/router/0"]
    assert found.lease_left_ms(ROUTER, [beat(1, 2_000)]) is None


def test_a_seal_that_is_not_the_role_s_is_not_believed():
    assert heard(record(1), record(2, key=OTHER, epoch=99)).latest[ROUTER].ack.epoch == 7


def test_without_a_key_acks_are_shown_as_unchecked():
    seen = heard(record(1, key=OTHER), keys=False).latest[ROUTER]
    assert (seen.ack.epoch, seen.checked) == (7, False)


@pytest.mark.parametrize("value", [None, b"", b"{", b"{}", b"\xff"])
def test_what_is_no_ack_is_passed_over(value: bytes | None):
    broken = record(1)
    broken.value = value
    assert heard(broken).latest == heard(broken, keys=False).latest == {}


def test_a_lease_runs_from_the_newest_ack_that_a_heartbeat_repeats():
    found = heard(*(record(n, 1_000 + 250 * n) for n in range(8)))

    assert found.lease_left_ms(ROUTER, [beat(3, 2_000)]) == 1_750 + LEASE_MS - 2_000
    assert found.lease_left_ms(ROUTER, [beat(3, 2_000), beat(4, 1_900)]) == 2_000 + LEASE_MS - 2_000
    assert found.lease_left_ms(ROUTER, [beat(0, 4_000)]) == -1_000
    assert found.lease_left_ms(ROUTER, [beat(99, 2_000)]) is None
    assert found.lease_left_ms(ROUTER, []) is None
    assert found.lease_left_ms("nobody", [beat(3, 2_000)]) is None


def test_seal_keys_are_those_that_lie_in_keys_dir(tmp_path: Path):
    assert seals_at(tmp_path) == {}
    made = create_key(tmp_path, "seal-executor", "e1")
    create_key(tmp_path, "seal-console", "c1")
    assert seals_at(tmp_path) == {"executor": {"e1": made}}
