"""Acks as control reads them: what is not sealed by the role of the instance it speaks of counts for nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.events import Rejection
from hitl_stream.wire.acks import ACK_BYTES_MAX, ack_reader, role_of
from hitl_stream.wire.records import ACK, Ack, encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer

TOPIC = "hitl.control.acks"
ROUTER = SealKey("r1", b"r" * 32)
DESK = SealKey("d1", b"d" * 32)
SEALS = {"router": {"r1": ROUTER}, "desk": {"d1": DESK}}
read = ack_reader(TOPIC, SEALS)
Headers = list[tuple[str, bytes]]


def make(key: SealKey = ROUTER, topic: str = TOPIC, **fields: Any) -> tuple[bytes, bytes, Headers]:
    """Return key, value and headers of a sealed ack."""
    common: dict[str, Any] = {"n": 7, "instance": "h/router/0", "role": "router", "version": "1", "epoch": 3}
    ack = Ack(**common | fields)
    value = encode(ack)
    return ack.instance.encode(), value, [(TYPE_HEADER, ACK.encode()), (SEAL_HEADER, sealer(key, topic, ACK)(value))]


def test_a_sealed_ack_is_read():
    found = read(*make(partitions=(0, 2), claims=(0, 1, 2), open_epoch=2))

    assert isinstance(found, Ack)
    assert (found.n, found.partitions, found.claims, found.open_epoch) == (7, (0, 2), (0, 1, 2), 2)


def test_an_ack_that_does_not_say_what_it_claims_may_claim_anything():
    key, value, _ = make()
    value = value.replace(b',"claims":null', b"")
    headers = [(TYPE_HEADER, ACK.encode()), (SEAL_HEADER, sealer(ROUTER, TOPIC, ACK)(value))]
    found = read(key, value, headers)

    assert isinstance(found, Ack)
    assert found.claims is None


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (make(SealKey("r1", b"x" * 32)), Rejection.SEAL),
        (make(SealKey("r2", ROUTER.key)), Rejection.SEAL),
        (make(topic="hitl.control"), Rejection.SEAL),
        (make(role="desk"), Rejection.SEAL),
        (make(role="monitor", instance="h/monitor/0"), Rejection.SEAL),
        (make(DESK, role="desk"), Rejection.ISSUER),
        (make(instance="h/desk/0"), Rejection.ISSUER),
        (make(instance="router"), Rejection.ISSUER),
        (make(instance="h/router/x"), Rejection.ISSUER),
        ((b"h/router/1", *make()[1:]), Rejection.ISSUER),
        ((None, *make()[1:]), Rejection.ISSUER),
        (make(n=-1), Rejection.INVALID),
        (make(n=2**63), Rejection.INVALID),
        (make(epoch=-2), Rejection.INVALID),
        (make(calls=-1), Rejection.INVALID),
        ((*make()[:2], make()[2][:1]), Rejection.SEAL),
        ((*make()[:2], make()[2][1:]), Rejection.MALFORMED),
        ((*make()[:2], [(TYPE_HEADER, b"ack/2"), make()[2][1]]), Rejection.MALFORMED),
        ((make()[0], None, make()[2]), Rejection.MALFORMED),
        ((make()[0], b"", make()[2]), Rejection.MALFORMED),
        ((make()[0], b"{}", make()[2]), Rejection.MALFORMED),
        ((make()[0], b'{"n":"7"}', make()[2]), Rejection.MALFORMED),
        ((make()[0], b"\xff", make()[2]), Rejection.MALFORMED),
        ((make()[0], b"[" * 100_000, make()[2]), Rejection.MALFORMED),
        ((make()[0], b" " * (ACK_BYTES_MAX + 1), make()[2]), Rejection.MALFORMED),
    ],
)
def test_what_is_none_is_named_by_its_reason(record: tuple[Any, Any, Headers], why: Rejection):
    assert read(*record) is why


@given(place=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_byte_of_it_can_be_changed(place: int, byte: int):
    key, value, headers = make(partitions=(1,), claims=(1,))
    place %= len(value)
    changed = value[:place] + bytes([byte]) + value[place + 1 :]

    assert isinstance(read(key, changed, headers), Rejection) or changed == value


@pytest.mark.parametrize(
    ("instance", "role"),
    [("h/router/0", "router"), ("h/desk/12", "desk"), ("h/router/", ""), ("/router/0", ""), ("h//0", ""), ("", "")],
)
def test_the_role_of_an_instance_is_in_its_name(instance: str, role: str):
    assert role_of(instance) == role
