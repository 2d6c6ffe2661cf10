"""Acks as control reads them: sealed by a role that acknowledges, each instance under its own key, nothing else counts.

The instance's name tells its role, so that one role's key cannot speak for another's instances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hitl_stream.core.commands import INT_MAX
from hitl_stream.core.events import Rejection
from hitl_stream.wire.records import ACK, Ack, decode_ack, header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed

ACK_BYTES_MAX = 1024 * 1024
"""What the topic takes in one record."""
Seals = Mapping[str, Mapping[str, SealKey]]
"""Role → its seal keys by id."""
ReadAck = Callable[[bytes | None, bytes | None, Sequence[tuple[str, bytes]]], Ack | Rejection]


def ack_reader(topic: str, seals: Seals) -> ReadAck:
    """Return a function that reads a record of `topic` from its key, value and headers, or says why it is no ack."""

    def read(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]) -> Ack | Rejection:
        if not value or len(value) > ACK_BYTES_MAX or header(headers, TYPE_HEADER) != ACK.encode():
            return Rejection.MALFORMED
        try:
            ack = decode_ack(value)
        except (ValueError, RecursionError):
            return Rejection.MALFORMED
        if not sealed(seals.get(ack.role, {}), topic, ACK, value, header(headers, SEAL_HEADER) or b""):
            return Rejection.SEAL
        if not 0 <= ack.n <= INT_MAX or ack.epoch < -1 or ack.calls < 0:
            return Rejection.INVALID
        if key != ack.instance.encode() or role_of(ack.instance) != ack.role:
            return Rejection.ISSUER
        return ack

    return read


def role_of(instance: str) -> str:
    """Return the role in an instance's name, host/role/slot; an empty string where it is no such name.

    >>> role_of("web-1/router/0"), role_of("router")
    ('router', '')
    """
    host, _, rest = instance.partition("/")
    role, _, slot = rest.partition("/")
    return role if host and slot.isdecimal() else ""
