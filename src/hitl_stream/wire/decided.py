"""Reading a decision that another role wrote: type, seal, hash, and the action inside, or the reason why not.

Whoever reads a decision reads it here, so that rules, cards and adapters see the same fields of the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from hitl_stream.wire.records import ACTION_MARK, DECISION, Held, decode_held, header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed


class Decided(Struct, frozen=True):
    """A decision whose seal and hash are good, and its action as the router read it. `head` is what is sealed."""

    decision: Held
    decoded: Decoded
    head: bytes


def read_decided(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> Decided | Undecodable:
    """Read one record of `execute`, `review`, `escalation`, `review.seeded` or `held`, sealed under one of `keys`.

    Nothing raises on any input.
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
        decision = decode_held(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))
    raw = bytes(decision.action)
    decoded = decode_bytes(raw, decision.ce)
    if isinstance(decoded, Undecodable):
        return decoded
    if decoded.hash != decision.hash or dict(decoded.ce) != decision.ce:
        return Undecodable(ErrorClass.SEAL, "the action's bytes are not those that were decided")
    if value[cut + len(ACTION_MARK) : -1] != raw:
        return Undecodable(ErrorClass.SCHEMA, "the action is not the last member")
    return Decided(decision, decoded, head)
