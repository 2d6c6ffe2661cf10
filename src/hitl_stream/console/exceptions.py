"""Exceptions: what each type of the policy is answered by, how many wait, and what could not be carried out.

Rules:
- Every type has an owner, a queue and a time to answer, and one that nobody has named has the default queue's.
- What is listed by itself is only what an executor has handed back: nothing else can be told from a planted item.
"""

from __future__ import annotations

from typing import Any

from hitl_stream.console.office import Office, Who
from hitl_stream.console.store import EXCEPTIONS_MAX, ExceptionCount, OpenItem, Viewer
from hitl_stream.core.policy.model import Policy
from hitl_stream.wire.records import time_text


async def overview(office: Office, who: Who) -> dict[str, Any]:
    """Return the types of exceptions that somebody may know of, and the items that they may decide."""
    viewer, policy, now_ms = office.viewer(who), office.policy().policy, office.clock_ms()
    found = await office.store.exceptions(viewer, now_ms, EXCEPTIONS_MAX)
    items = [one for one in found.items if who.account.is_qualified(one.type, now_ms)]
    return {
        "types": _types(found.counts, viewer, policy),
        "items": [_item(one, viewer) for one in items],
        "more": len(found.items) >= EXCEPTIONS_MAX,
    }


def _types(counts: tuple[ExceptionCount, ...], viewer: Viewer, policy: Policy) -> list[dict[str, Any]]:
    by_kind = {count.kind: count for count in counts}
    rows = [
        _type(kind, queue, [by_kind.pop(kind)] if kind in by_kind else [], viewer, policy)
        for kind, queue in policy.exceptions.items()
    ]
    # What nobody has named, and what the policy named when it was sent and names no more.
    rows.append(_type(None, policy.defaults.queue, list(by_kind.values()), viewer, policy))
    return [row for row in rows if row["yours"] or not viewer.confined]


def _type(kind: str | None, name: str, counts: list[ExceptionCount], viewer: Viewer, policy: Policy) -> dict[str, Any]:
    queue = policy.queues[name]
    return {
        "type": kind,
        "queue": name,
        "owner": queue.owner,
        "sla_s": queue.sla / 1000,
        "next": queue.next,
        "open": sum(count.open for count in counts),
        "oldest": time_text(min(count.oldest_ms for count in counts)) if counts else None,
        "yours": name in viewer.queues,
        "external": queue.external,
    }


def _item(item: OpenItem, viewer: Viewer) -> dict[str, Any]:
    need = next(
        need for need in item.approvals if need.queue in viewer.queues and len(need.by) < need.people
    )  # the store lists no other
    said = next((row.saw for row in item.reasons if row.rule == f"exception.{item.exception}"), None)
    return {
        "item": item.item,
        "tenant": item.tenant,
        "exception": item.exception,
        "says": said,
        "type": item.type,
        "agent": item.agent,
        "entity": item.entity,
        "queue": need.queue,
        "opened": item.opened,
        "decide_by": need.decide_by,
    }
