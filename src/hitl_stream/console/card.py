"""The card: what a person is shown of an item, as one JSON text of which the verdict holds the digest.

Rules:
- Pure, and the same item under the same policy gives the same bytes: whoever wants to know what was seen reads the
  `shown` of the verdict.
- What will happen comes from the action's own bytes, decoded as they will run. What the model does not know of them is
  listed under `beside`: nothing that runs is hidden.
- It lacks what would tell a planted or a second look from a first one: the action's id, its deadline as the desk keeps
  it, and with what purpose it is asked.
- The agent's own words stand apart, under `agent_says`. They are text: whoever draws them makes what cannot be seen
  visible (`core.escape`), and never reads them as HTML or Markdown.
- Opinions, and a score that its class hides, come after the first judgement only.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import DecimalException
from typing import Any

import msgspec
from msgspec import Struct

from hitl_stream.console.store import OpenItem
from hitl_stream.core.action import Action, Agent, Asset, Batch, Change, Content, Entity, Evidence
from hitl_stream.core.edits import editable
from hitl_stream.core.policy.model import ActionClass, Policy
from hitl_stream.core.quantity import EXACT, UndefinedError, as_decimal
from hitl_stream.wire.desk_records import LotState
from hitl_stream.wire.verdicts import view_of

VERSION = 1
"""Of the card's own shape; a page says which it can draw."""
REASONS_MAX = 5
"""The strictest reasons; how many more there are is said."""
STRICT = ("REFUSE", "HOLD", "ESCALATE", "REVIEW", "EXECUTE")
HIDDEN_ID = "-"
"""In the place of the action's id, which would tell a canary."""
RATIO_DIGITS = 4
_encode = msgspec.json.Encoder(order="deterministic").encode
_members = msgspec.json.Decoder(dict[str, Any]).decode
_PARTS: Mapping[str, type[Struct]] = {
    "agent": Agent,
    "entity": Entity,
    "changes": Change,
    "evidence": Evidence,
    "content": Content,
    "assets": Asset,
    "batch": Batch,
}
"""Which parts of an action have fields of their own; everything in `context` is shown as it is."""


class Shown(Struct, frozen=True):
    """What was shown, and its digest, which a verdict names as its `view`."""

    text: str
    view: str


def card(item: OpenItem, policy: Policy) -> Shown:
    """Return what a person is shown of an item."""
    return shown(card_parts(item, policy))


def lot_card(lot: LotState) -> Shown:
    """Return what a person is shown of a batch before they release it."""
    return shown(
        {
            "card": VERSION,
            "batch": lot.lot,
            "state": lot.state,
            "queue": lot.queue,
            "size": lot.size,
            "wanted": lot.wanted,
            "seen": lot.size + len(lot.beside),
            "opened": lot.opened,
            "close_at": lot.close_at,
            "root": lot.root,
            "sample": {
                "drawn": len(lot.drawn),
                "waiting": len(lot.waiting),
                "good": lot.good,
                "bad": lot.bad,
                "accept": lot.accept,
            },
            "flagged": lot.flagged,
            "beside": len(lot.beside),
            "people": lot.people,
            "execute_by": lot.execute_by,
            "decide_by": [
                {"queue": need.queue, "by": need.decide_by, "people": need.people, "given": len(need.by)}
                for need in lot.approvals
            ],
            "given": sorted({person for need in lot.approvals for person in need.by}),
        }
    )


def shown(parts: Mapping[str, Any]) -> Shown:
    """Return plain data as the bytes that are shown: the same data, the same bytes."""
    text = _encode(parts).decode()
    return Shown(text, view_of(text))


def card_parts(item: OpenItem, policy: Policy) -> dict[str, Any]:
    """Return the card as plain data."""
    whole = _members(bytes(item.action))
    action = _action(whole, item)
    cls = policy.classes.get(item.type)
    judged = any(need.by for need in item.approvals)
    hides = cls is not None and cls.hide_score and not judged
    reasons = sorted(
        (row for row in item.reasons if row.counts and row.outcome != "EXECUTE"),
        key=lambda row: STRICT.index(row.outcome),
    )
    content = action.content
    return {
        "card": VERSION,
        "item": item.item,
        "tenant": item.tenant,
        "hash": item.hash,
        "policy": item.policy,
        "type": item.type,
        "tier": item.tier,
        "floor_s": item.floor_s,
        "agent": item.agent,
        "entity": item.entity,
        "queue": item.queue,
        "opened": item.opened,
        "escalated": item.escalated,
        "covered": item.covered,
        "flagged": item.flagged,
        "exception": item.exception,
        "changes": [_change(change) for change in action.changes],
        "publishes": None if content is None else _publishes(content, action.destination),
        "source": None if content is None else content.source,
        "assets": [] if content is None else content.assets,
        "evidence": action.evidence,
        "context": action.context,
        "flags": action.flags,
        "batch": action.batch,
        "beside": beside(whole),
        "reasons": [reason_row(row) for row in reasons[:REASONS_MAX]],
        "reasons_more": max(0, len(reasons) - REASONS_MAX),
        "score": None if hides else item.score,
        "score_hidden": hides,
        "opinions": item.opinions if judged else None,
        "deadlines": {
            "decide_by": [
                {"queue": need.queue, "by": need.decide_by, "people": need.people, "given": len(need.by)}
                for need in item.approvals
            ],
            "expires_at": whole.get("expires_at"),
        },
        "limits": _limits(cls),
        "can_change": dict(editable(action)),
        "agent_says": {"rationale": action.rationale, "confidence": action.confidence},
    }


def _action(whole: Mapping[str, Any], item: OpenItem) -> Action:
    """Return the action; what its record's headers said is filled from what the router made of it."""
    filled = {"type": item.type, "proposed_at": item.opened, **{k: v for k, v in whole.items() if v is not None}}
    return msgspec.convert(filled | {"action_id": HIDDEN_ID}, Action)


def _change(change: Change) -> dict[str, Any]:
    """Return one leg: from, to, and by how much where both are numbers."""
    parts = {"entity": change.entity, "field": change.field, "before": change.before, "after": change.after}
    return {**parts, "unit": change.unit, **_size(change)}


def _size(change: Change) -> dict[str, str | None]:
    try:
        before, after = as_decimal(change.before, "before"), as_decimal(change.after, "after")
        delta = EXACT.subtract(after, before)
    except (UndefinedError, DecimalException):
        return {"delta": None, "ratio": None}
    ratio = f"{float(delta) / abs(float(before)):+.{RATIO_DIGITS}f}" if before else None
    return {"delta": f"{delta:+f}", "ratio": ratio}


def _publishes(content: Content, destination: str | None) -> dict[str, Any]:
    return {
        "text": content.text,
        "language": content.language,
        "platform": content.platform,
        "destination": destination,
    }


def reason_row(row: Any) -> dict[str, Any]:
    """Return why it is asked: a rule, and what it compared."""
    names = ("rule", "saw", "limit", "rate", "queue", "gate", "error")
    return {name: getattr(row, name) for name in names}


def _limits(cls: ActionClass | None) -> dict[str, Any]:
    """Return what agents may and may not do alone in this class."""
    if cls is None:
        return {"known": False, "level": 2}
    return {
        "known": True,
        "level": cls.level,
        "consequence": cls.consequence,
        "auto_max_change": _text(cls.auto_max_change),
        "auto_max_change_per": {window: str(limit) for window, limit in cls.auto_max_change_per.items()},
        "auto_max_amount": {unit: str(amount) for unit, amount in (cls.auto_max_amount or {}).items()},
        "auto_min_confidence": _text(cls.auto_min_confidence),
        "evidence": cls.evidence,
        "needs": cls.needs,
        "people": cls.people,
    }


def _text(number: Any) -> str | None:
    return None if number is None else str(number)


def beside(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return by JSON pointer what stands in an action's bytes and no model knows.

    >>> beside({"type": "bid.adjust", "force": True, "changes": [{"field": "bid", "silent": 1}]})
    {'/force': True, '/changes/0/silent': 1}
    """
    found: dict[str, Any] = {}
    _look(whole, Action, "", found)
    return found


def _look(value: Any, type_: type[Struct], path: str, found: dict[str, Any]) -> None:
    if isinstance(value, list):
        for index, element in enumerate(value):
            _look(element, type_, f"{path}/{index}", found)
    elif isinstance(value, Mapping):
        known = type_.__struct_encode_fields__
        for name, part in value.items():
            here = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
            if name not in known:
                found[here] = part
            elif name in _PARTS:
                _look(part, _PARTS[name], here, found)
