"""The bytes of the action that would undo another one, as a person proposes it.

It says what the old one said of itself (type, agent, context), since the same policy decides it. Nothing is claimed for
it: no confidence, no evidence, no deadline, no batch. Its id follows from the old action's bytes: whoever proposes the
inverse a second time repeats the id, and the router refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from hitl_stream.core.action import ACTION_BYTES_MAX, Action, Change
from hitl_stream.core.reversal import Irreversible, inverse
from hitl_stream.wire import via
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from hitl_stream.wire.records import VIA, Result, Via
from hitl_stream.wire.seal import SealKey, sealer

MARK = "~undo-"
"""Ids of publishers hold no tilde."""
ID_LENGTH_MAX = 200
HASH_LETTERS = 12


class Undo(msgspec.Struct, frozen=True):
    """A proposal that would undo an action: its bytes, and as they are read."""

    value: bytes
    decoded: Decoded


def undo(result: Result, proposed_at: str, reason: str) -> Undo | Irreversible:
    """Return the proposal that would undo what was executed; `proposed_at` is RFC 3339."""
    found = decode_bytes(bytes(result.action), result.ce)
    if isinstance(found, Undecodable):
        return Irreversible("", f"its bytes cannot be read: {found.why}")
    changes = inverse(found.action, result.present)
    if isinstance(changes, Irreversible):
        return changes
    value = orjson.dumps(_members(result, found.action, changes, proposed_at, reason))
    made = decode_bytes(value)
    if isinstance(made, Undecodable) or len(value) > ACTION_BYTES_MAX:
        return Irreversible("", f"its inverse would be no action: it has {len(value)} bytes")
    return Undo(value, made)


def undo_id(action_id: str, action_hash: str) -> str:
    """Return the id of the proposal that would undo an action.

    >>> undo_id("act-1", "9f" * 32)
    'act-1~undo-9f9f9f9f9f9f'
    """
    tail = MARK + action_hash[:HASH_LETTERS]
    return action_id[: ID_LENGTH_MAX - len(tail)] + tail


def via_headers(topic: str, key: SealKey, undone: Undo, source: str, by: str) -> list[tuple[str, bytes]]:
    """Return the headers that say whose proposal it is, sealed by a console. `source` is the place of the result."""
    return via.via_headers(sealer(key, topic, VIA), Via(role="console", from_=source, by=by), undone.decoded.hash)


def _members(
    result: Result, action: Action, changes: Sequence[Change], proposed_at: str, reason: str
) -> Mapping[str, Any]:
    members = {
        "action_id": undo_id(result.action_id, result.hash),
        "tenant": result.tenant,
        "agent": msgspec.to_builtins(action.agent),
        "type": result.type,
        "changes": msgspec.to_builtins(changes),
        "proposed_at": proposed_at,
        "destination": action.destination,
        "context": action.context,
        "rationale": reason,
    }
    return {name: value for name, value in members.items() if value is not None}
