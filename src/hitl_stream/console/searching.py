"""Finding what was decided: by action, by account or campaign, by who decided it; and how each of it stands.

Rules:
- Of what is still asked, who decides finds nothing; who only looks finds it without anybody's judgement.
- Of a planted item nobody but an auditor finds anything, and of an external client's nobody who only looks.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct, structs

from hitl_stream.console import proposing
from hitl_stream.console.office import Office, Who
from hitl_stream.console.problems import ProblemError
from hitl_stream.console.store import Hit, Search
from hitl_stream.core.action import Agent, Entity, entity_of
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.records import time_text

HITS_MAX = 100
"""Found at once; who finds more is told so, and asks more narrowly."""


class _Standing(Struct, frozen=True):
    """What the records of a story have of how an action stands."""

    type: str = ""
    agent: Agent | None = None
    entity: Entity | None = None
    end: str | None = None
    status: str | None = None
    verdict: str | None = None
    by: str | tuple[str, ...] = ()
    action: Raw = Raw()


_standing = msgspec.json.Decoder(_Standing).decode


async def search(office: Office, who: Who, tenant: str | None, wanted: Search) -> tuple[list[dict[str, Any]], bool]:
    """Return the decided actions that fit, newest first, and whether there are more."""
    asked = structs.replace(wanted, tenant=_tenant(office, who, tenant), limit=min(wanted.limit, HITS_MAX) + 1)
    found = await office.store.search(office.viewer(who), asked)
    told = [_told(hit) for hit in found[: asked.limit - 1] if await _may_find(office, who, hit)]
    return told, len(found) >= asked.limit


def _tenant(office: Office, who: Who, tenant: str | None) -> str:
    own = who.account.tenants
    found = tenant or (own[0] if own is not None and len(own) == 1 else office.tenant)
    if not found:
        raise ProblemError(
            "invalid",
            "no tenant was named, and you have several",
            where="tenant",
            todo=f"Name one of {', '.join(own)}." if own else "Name one: tenant=NAME.",
        )
    if not who.sees(found):
        raise ProblemError(
            "tenant",
            f"tenant {found[:100]!r} is not one of yours",
            where="tenant",
            todo="Name a tenant of your account.",
        )
    return found


async def _may_find(office: Office, who: Who, hit: Hit) -> bool:
    if who.account.has("auditor"):
        return True
    if hit.action_id.startswith(proposing.PLANTED):
        return False
    if office.viewer(who).queues:
        return True
    return await proposing.may_read(office, who, hit.tenant, hit.action_id)


def _told(hit: Hit) -> dict[str, Any]:
    found = _standing(hit.value) if hit.value else _Standing()
    decoded = decode_bytes(bytes(found.action)) if hit.kind == "decision" else None
    action = decoded.action if isinstance(decoded, Decoded) else None
    return {
        "tenant": hit.tenant,
        "action_id": hit.action_id,
        "at": time_text(hit.at_ms),
        "type": action.type if action is not None else found.type,
        "agent": action.agent if action is not None else found.agent,
        "entity": entity_of(action) if action is not None else found.entity,
        "stands": found.end or found.status or found.verdict,
        "by": [found.by] if isinstance(found.by, str) else list(found.by),
    }
