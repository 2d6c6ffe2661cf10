"""What a change would come to, before anybody says it: whether it can be made, and how the policy would route it.

Rules:
- Nothing is written, and nothing is promised: what went before, plug-ins and kill switches are not asked. The router
  decides when the change is there.
- It goes by the item's own bytes and the policy, as the card does: planted, audited and second looks answer alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hitl_stream.console.bodies import CheckAsk
from hitl_stream.console.card import HIDDEN_ID, reason_row
from hitl_stream.console.office import Office, Who
from hitl_stream.console.reviewing import open_item
from hitl_stream.console.store import OpenItem
from hitl_stream.core.edits import edited
from hitl_stream.core.history import recall
from hitl_stream.core.policy.compile import Compiled
from hitl_stream.core.route import Route, route
from hitl_stream.core.verdicts import Edit
from hitl_stream.core.window import Window
from hitl_stream.wire.codec import Undecodable, decode_bytes

REASONS_MAX = 5


async def check(office: Office, who: Who, item: str, ask: CheckAsk) -> dict[str, Any]:
    """Return `fault`, why these changes cannot be made; or what the policy would make of the action that results."""
    found = await open_item(office, who, item)
    edits = [Edit(change.path, change.value) for change in ask.changes]
    try:
        answer = _routed(found, edits, office.policy(), office.watched.now_ms() or office.clock_ms())
    except ValueError as error:
        return {"fault": str(error), "outcome": None, "queues": [], "reasons": []}
    return {
        "fault": None,
        "outcome": answer.outcome.name,
        "queues": [approval.queue for approval in answer.approvals],
        "reasons": [reason_row(reason) for reason in answer.reasons[:REASONS_MAX]],
    }


def _routed(item: OpenItem, edits: Sequence[Edit], policy: Compiled, now_ms: int) -> Route:
    made = decode_bytes(edited(bytes(item.action), HIDDEN_ID, edits, item.opened, {"ce_type": item.type}))
    if isinstance(made, Undecodable):
        raise ValueError(f"the changed action cannot be read: {made.why}")
    draft = Window(policy.reach).draft()
    draft.at(now_ms)
    return route(made.action, recall(made.action, item.tenant, draft), policy)
