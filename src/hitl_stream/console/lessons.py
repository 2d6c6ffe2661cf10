"""What somebody is told of a planted item once they have judged it: whether they saw what was wrong, and where it was.

Nothing here is asked of an item that its reader has not judged. Before, and of every other item, the answer is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from hitl_stream.core.action import Action, Change
from hitl_stream.core.canaries import FAR
from hitl_stream.core.edits import TEXT
from hitl_stream.core.events import Effect, Purpose
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import HumanDecision, decision_of
from hitl_stream.wire.judged import OBJECTS
from hitl_stream.wire.records import Routed

LIMIT = "limit"
"""The type of an error that stands in a number; every other stands in a text."""
COUNTS = (Effect.APPLIED, Effect.WAITING)


def lesson(said: Sequence[HumanDecision]) -> dict[str, Any] | None:
    """Return what a person's own judgements of one item teach; None: it was not planted, or none of them counts."""
    for one in said:
        if one.purpose == Purpose.CANARY and one.effect in COUNTS and one.verdict in ("approve", *OBJECTS):
            return {"caught": one.verdict in OBJECTS, **_planted(one)}
    return None


def _planted(one: HumanDecision) -> dict[str, Any]:
    raw = bytes(one.action)
    decoded = decode_bytes(raw)
    action = decoded.action if isinstance(decoded, Decoded) else None
    error = _error(one, raw)
    return {
        "error": error,
        "type": None if action is None else action.type,
        "places": [] if action is None else places(action, error),
    }


def _error(one: HumanDecision, raw: bytes) -> str | None:
    if one.asked is None:
        return None
    try:
        return decision_of(Routed(topic="", head=one.asked, seal=""), raw).planted
    except msgspec.DecodeError:
        return None


def places(action: Action, error: str | None) -> list[dict[str, Any]]:
    """Return where an error of this type stands: by its path, with what stood before and what was shown.

    Where nobody can tell which of several numbers it was, all are named.
    """
    text = action.content.text if action.content is not None else None
    if text is not None and error != LIMIT:
        return [{"path": TEXT, "field": "text", "before": None, "proposed": None, "shown": text, "unit": None}]
    legs = [(index, change) for index, change in enumerate(action.changes) if change.after is not None]
    far = [(index, change) for index, change in legs if _is_far(change)]
    return [
        {
            "path": f"/changes/{index}/after",
            "field": change.field,
            "before": change.before,
            "proposed": None,
            "shown": change.after,
            "unit": change.unit,
        }
        for index, change in far or legs
    ]


def _is_far(change: Change) -> bool:
    try:
        before, after = as_decimal(change.before, "before"), as_decimal(change.after, "after")
    except UndefinedError:
        return False
    return after <= 0 or after >= FAR * before or before >= FAR * after
