"""What agents and auditors do: propose an action or undo one, read what became of it, learn from what people said.

Rules:
- Who proposes comes from the sign-in, never from the payload. A service proposes as the agent of its own name only.
- Undoing is a proposal by a person, decided like any other action; what cannot be undone says why.
- A story says neither with what purpose people were asked nor of whom; while they are asked, it holds no decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from hitl_stream.console.office import Office, Page, Who, is_service
from hitl_stream.console.problems import ProblemError
from hitl_stream.console.store import QueueCount, Story, StoryRow, viewer_of
from hitl_stream.core.action import entity_of
from hitl_stream.core.policy.model import Queue
from hitl_stream.core.reversal import Irreversible
from hitl_stream.core.switches import folded
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.home import home_of, key_of
from hitl_stream.wire.records import VIA, Result, Via, decode_result, time_text
from hitl_stream.wire.seal import sealer
from hitl_stream.wire.undoing import MARK, Undo, undo, undo_id
from hitl_stream.wire.via import via_headers

SECRET = ("purpose", "for", "not", "routed", "source")
"""Members of records that no answer holds."""
PLANTED = "~"
"""What the id of a planted item begins with; no publisher's does."""
_members = msgspec.json.Decoder(dict[str, Raw]).decode


class Proposed(Struct, frozen=True):
    """Where a proposed action stands."""

    tenant: str
    action_id: str
    hash: str
    topic: str
    partition: int
    offset: int


async def propose(office: Office, who: Who, value: bytes) -> Proposed:
    """Append an action in the name of who is signed in, to be routed like any other."""
    if office.via_key is None:
        raise ProblemError(
            "unavailable",
            "this console has no seal key, and what it proposes would be refused",
            todo="Make one: hitl keys seal console; and give the router a copy.",
        )
    decoded = decode_bytes(value)
    if isinstance(decoded, Undecodable):
        raise ProblemError(
            "invalid",
            f"not an action ({decoded.error.value}): {decoded.why}",
            where="the body",
            todo="docs/schemas/action.json says what is expected.",
        )
    action = decoded.action
    tenant = action.tenant or office.tenant
    if not tenant or not who.sees(tenant):
        raise ProblemError(
            "tenant",
            f"tenant {tenant[:100]!r} is not one of yours",
            where="tenant",
            todo="Name a tenant of your account.",
        )
    if is_service(who) and folded(action.agent.id) != folded(who.account.name):
        raise ProblemError(
            "refused",
            f"{who.account.name} is a service, and proposes as the agent of that name only",
            where="agent.id",
            todo=f"Write {who.account.name}, or use that agent's own token.",
        )
    _check_id(who, action.action_id)
    entity = entity_of(action)
    partition = home_of(action, tenant, entity, office.topics.partitions)
    topic = office.topics.name("actions")
    via = Via(role="console", from_=office.instance, by=who.account.name)
    headers = via_headers(sealer(office.via_key, topic, VIA), via, decoded.hash)
    stands = await office.writer.append(
        "actions", partition, decoded.raw, key=key_of(tenant, entity, action.agent.id), headers=headers
    )
    return Proposed(tenant, action.action_id, decoded.hash, stands.topic, stands.partition, stands.offset)


def _check_id(who: Who, action_id: str) -> None:
    """Refuse an id that is the desk's to give; what undoes an action has one that a person may propose."""
    if "~" in action_id and (is_service(who) or not action_id.rpartition(MARK)[0].strip("~")):
        raise ProblemError(
            "invalid",
            f"{action_id[:100]!r} holds a ~, which marks an action that a person changed or undoes",
            where="action_id",
            todo="Choose an id without it.",
        )


async def story(office: Office, who: Who, tenant: str, action_id: str) -> dict[str, Any]:
    """Return all that became of an action."""
    found = await _story(office, who, tenant, action_id)
    return {
        "tenant": tenant,
        "action_id": action_id,
        "undecided": found.undecided,
        "items": [
            {
                "item": one.review.item,
                "state": one.review.state,
                "end": one.review.end,
                "queue": one.review.queue,
                "opened": one.review.opened,
            }
            for one in found.items
        ],
        "records": [
            {"kind": row.kind, "at": time_text(row.at_ms), "source": row.source, "record": told(row.value)}
            for row in found.rows
        ],
        "reversal": await _reversal(office, who, found),
    }


async def may_read(office: Office, who: Who, tenant: str, action_id: str) -> bool:
    """Say whether the story of an action is told to somebody."""
    try:
        await _story(office, who, tenant, action_id)
    except ProblemError:
        return False
    return True


async def _story(office: Office, who: Who, tenant: str, action_id: str) -> Story:
    viewer = office.viewer(who)
    auditor = who.account.has("auditor")
    found = await office.store.story(viewer, tenant, action_id)
    secret = action_id.startswith(PLANTED) and not auditor
    if secret or not (found.rows or found.items or found.undecided):
        raise ProblemError(
            "not_found",
            "nothing is known of such an action of a tenant of yours",
            where=f"{tenant}/{action_id}",
            todo="It is known here once people are asked, or it has ended.",
        )
    external = _external(office)
    hides = not auditor and not viewer.queues
    if hides and any(need.queue in external for one in found.items for need in one.review.approvals):
        raise ProblemError(
            "not_found",
            "nothing is known of such an action of a tenant of yours",
            where=f"{tenant}/{action_id}",
            todo="Its content is an external client's.",
        )
    return found


# --- undoing ----------------------------------------------------------------------------------------------------------

WHY_NOT_EXECUTED: Mapping[str, str] = {
    "failed": "the platform refused it, so that it changed nothing",
    "unresolved": "nobody knows whether it was carried out; look at the platform, then propose what is right",
}


async def reverse(office: Office, who: Who, tenant: str, action_id: str, reason: str) -> Proposed:
    """Propose what would undo an executed action, in the name of the person who is signed in."""
    if is_service(who):
        raise ProblemError(
            "service",
            f"{who.account.name} is a service, and only a person proposes what undoes an action",
            todo="A person does this, signed in by themselves.",
        )
    found = await _story(office, who, tenant, action_id)
    result = _carried_out(found.rows)
    if result is None:
        raise ProblemError(
            "not_ready",
            "no result of it is known here: it was not carried out, or people are still asked about it",
            where=f"{tenant}/{action_id}",
            todo="Read its story: GET /api/v1/actions/TENANT/ACTION_ID.",
        )
    made = _undone(result, office, reason)
    if isinstance(made, Irreversible):
        where = f"{tenant}/{action_id}{f' {made.path}' if made.path else ''}"
        raise ProblemError("irreversible", f"it cannot be undone: {made.why}", where=where, todo=INSTEAD)
    return await propose(office, who, made.value)


INSTEAD = "Propose what is right as a new action, or do it on the platform."


def _carried_out(rows: Sequence[StoryRow]) -> Result | None:
    """Return the newest result of a story; one that succeeded comes before any other."""
    results = [decode_result(row.value) for row in rows if row.kind == "result"]
    executed = [one for one in results if one.status == "executed"]
    found = executed or results
    return found[-1] if found else None


def _undone(result: Result, office: Office, reason: str) -> Undo | Irreversible:
    why = WHY_NOT_EXECUTED.get(result.status)
    if why is not None:
        return Irreversible("", why)
    return undo(result, time_text(office.watched.now_ms() or office.clock_ms()), reason)


async def _reversal(office: Office, who: Who, found: Story) -> dict[str, Any] | None:
    """Return what would undo an action, or why nothing can; None: it has no result that is told."""
    result = _carried_out(found.rows)
    if result is None:
        return None
    made = _undone(result, office, "")
    name = undo_id(result.action_id, result.hash)
    known = await office.store.story(office.viewer(who), found.tenant, name)
    return {
        "action_id": name,
        "known": bool(known.rows or known.items or known.undecided),
        "changes": [] if isinstance(made, Irreversible) else made.decoded.action.changes,
        "why": made.why if isinstance(made, Irreversible) else None,
        "path": made.path if isinstance(made, Irreversible) else None,
    }


def _external(office: Office) -> set[str]:
    return {name for name, queue in office.policy().policy.queues.items() if queue.external}


def told(value: bytes) -> dict[str, Raw]:
    """Return what may be told of a record, each member in the bytes in which it was written."""
    return {name: member for name, member in _members(value).items() if name not in SECRET}


async def queues(office: Office, who: Who) -> list[dict[str, Any]]:
    """Return how full each queue is that somebody may know of; of external ones, to who has a role in them."""
    policy = office.policy().policy
    account = who.account
    viewer = viewer_of(account.name, account.tenants, account.queue_roles, policy)
    counts = {count.queue: count for count in await office.store.counts(viewer)}
    known = [name for name in policy.queues if name in viewer.queues] if viewer.confined else list(policy.queues)
    return [_queue(name, counts.get(name), name in viewer.queues, policy.queues[name]) for name in known]


def _queue(name: str, count: QueueCount | None, yours: bool, queue: Queue) -> dict[str, Any]:
    return {
        "queue": name,
        "open": 0 if count is None else count.open,
        "oldest": None if count is None else time_text(count.oldest_ms),
        "money": {} if count is None else {unit: f"{amount:f}" for unit, amount in count.money.items()},
        "sla_s": queue.sla / 1000,
        "yours": yours,
        "external": queue.external,
    }


async def feedback(
    office: Office, who: Who, after: Mapping[int, int], limit: int, agent: str | None
) -> tuple[list[dict[str, Raw]], Page]:
    """Return what people said of agents' actions, of tenants of theirs; a service is told of its own agent only."""
    page = await office.read_feedback(after, limit)
    wanted = who.account.name if is_service(who) else agent
    rows = [_members(value) for value in page.rows]
    return [row for row in rows if _is_for(row, who, wanted)], page


def _is_for(row: Mapping[str, Raw], who: Who, agent: str | None) -> bool:
    told = msgspec.json.decode(msgspec.json.encode({name: row.get(name) for name in ("tenant", "agent", "action_id")}))
    if not who.sees(str(told["tenant"])) or str(told["action_id"]).startswith(PLANTED):
        return False  # of a planted one nobody learns anything
    return agent is None or folded(str((told["agent"] or {}).get("id"))) == folded(agent)
