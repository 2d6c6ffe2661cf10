"""Reading a decision that another role wrote: type, seal, hash, and the action inside, or the reason why not.

Whoever reads a decision reads it here, so that rules, cards and adapters see the same fields of the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec
from msgspec import Struct

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from hitl_stream.wire.records import (
    ACTION_MARK,
    DECISION,
    PARKED_MARK,
    Approved,
    Held,
    decode_exceptional,
    decode_held,
    head_of,
    header,
)
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed

T = TypeVar("T")

_OF_ONE_ACTION = ("origin", "attempt", "tenant", "action_id", "hash", "ce", "type", "agent", "entity", "purpose")
"""What a decision shares with the one that people made of it."""


class Decided(Struct, frozen=True):
    """A decision whose seal and hash are good, and its action as the router read it. `head` is what is sealed."""

    decision: Held
    decoded: Decoded
    head: bytes


def read_decided(
    topic: str,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    keys: Mapping[str, SealKey],
    decode: Callable[[bytes], Held] = decode_held,
) -> Decided | Undecodable:
    """Read one record of `execute`, `review`, `escalation`, `review.seeded` or `held`, sealed under one of `keys`.

    `decode` reads the decision: `unsubmitted` where an executor asks people. Nothing raises on any input.
    """
    if not value:
        return Undecodable(ErrorClass.EMPTY, "the record has no value")
    kind = header(headers, TYPE_HEADER)
    if kind != DECISION.encode():
        return Undecodable(ErrorClass.UNKNOWN_TYPE, f"hitl-type {kind!r:.60}, expected {DECISION}")
    cut = value.find(ACTION_MARK)
    if cut < 0:
        return Undecodable(ErrorClass.SCHEMA, "a decision without an action")
    head = value[:cut]
    if not sealed(keys, topic, DECISION, head, header(headers, SEAL_HEADER) or b""):
        return Undecodable(ErrorClass.SEAL, f"hitl-seal is not that of a role which may write to {topic}")
    try:
        decision = decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))
    decoded = decided_action(value, decision)
    return decoded if isinstance(decoded, Undecodable) else Decided(decision, decoded, head)


def unsealed(
    topic: str,
    kind: str,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    keys: Mapping[str, SealKey],
    why: str,
) -> Undecodable | None:
    """Say why a record is not one of that type, sealed under one of `keys`; `why` is said of a seal that is not."""
    if not value:
        return Undecodable(ErrorClass.EMPTY, "the record has no value")
    found = header(headers, TYPE_HEADER)
    if found != kind.encode():
        return Undecodable(ErrorClass.UNKNOWN_TYPE, f"hitl-type {found!r:.60}, expected {kind}")
    if not sealed(keys, topic, kind, head_of(value), header(headers, SEAL_HEADER) or b""):
        return Undecodable(ErrorClass.SEAL, why)
    return None


def opened(
    topic: str,
    kind: str,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    keys: Mapping[str, SealKey],
    why: str,
    decode: Callable[[bytes], T],
) -> T | Undecodable:
    """Read a record of that type, sealed under one of `keys`; `decode` raises `ValueError` at what it cannot read."""
    fault = unsealed(topic, kind, value, headers, keys, why)
    if fault is not None:
        return fault
    assert value is not None  # it has a seal
    try:
        return decode(value)
    except (ValueError, OverflowError, RecursionError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))


def unsubmitted(value: bytes) -> Held:
    """Read an executor's question to people as a decision that nobody submitted; it says `by` whom it was approved.

    Raises `msgspec.DecodeError` as the decoders do.
    """
    found = decode_exceptional(value)
    shared = {name: getattr(found, name) for name in Held.__struct_fields__ if hasattr(found, name)}
    return Held(**shared | {"by": None})


def decided_action(value: bytes, decision: Held | Approved) -> Decoded | Undecodable:
    """Read the action of a decision: the last member of `value`, and the very bytes that its head names the hash of."""
    raw = bytes(decision.action)
    decoded = decode_bytes(raw, decision.ce)
    if isinstance(decoded, Undecodable):
        return decoded
    if decoded.hash != decision.hash or dict(decoded.ce) != decision.ce:
        return Undecodable(ErrorClass.SEAL, "the action's bytes are not those that were decided")
    if value[value.find(ACTION_MARK) + len(ACTION_MARK) : -1] != raw:
        return Undecodable(ErrorClass.SCHEMA, "the action is not the last member")
    return decoded


def routed_value(approved: Approved, raw: bytes) -> bytes | None:
    """Return the router's own decision that people approved: its head as it was sealed, and the action.

    None where that head is not that of a decision to be made about this very action, in this attempt.
    """
    try:
        head = approved.routed.head.encode()
    except UnicodeEncodeError:
        return None
    value = head + ACTION_MARK + raw + b"}"
    if ACTION_MARK in head or PARKED_MARK in head:
        return None
    try:
        routed = decode_held(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    same = all(getattr(routed, name) == getattr(approved, name) for name in _OF_ONE_ACTION)
    return value if same and not isinstance(decided_action(value, routed), Undecodable) else None
