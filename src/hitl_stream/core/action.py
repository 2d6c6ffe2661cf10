"""What an agent wants to do, exactly as its bytes say it.

Numbers are decimals read from the JSON text (a number or a string), so that a limit is compared with what was written
and not with the nearest float. Fields that the model does not know stay in the bytes and are ignored here.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=200)]
"""An id or a name: 1 to 200 characters."""
Number = Decimal
Time = Annotated[datetime, Meta(tz=True)]
"""RFC 3339 with an offset."""

ACTION_BYTES_MAX = 64 * 1024
"""An action may be this long; assets are referred to, not embedded."""
DEPTH_MAX = 32
"""Objects and arrays may nest this deep."""
NUMBER_MAX = Decimal("1e24")
"""No number of an action is as large as this: more than any currency needs, little enough to add up exactly."""
LEGS_MAX = 1_000
EVIDENCE_MAX = 100
FLAGS_MAX = 32


class Agent(Struct, frozen=True, gc=False):
    """Who proposes: a new version is a new agent as far as trust goes."""

    id: Name
    version: Annotated[str, Meta(max_length=200)] = ""


class Entity(Struct, frozen=True, gc=False):
    """What is acted upon; the account decides the partition, so that its actions keep one order."""

    account: Name | None = None
    campaign: Name | None = None


class Change(Struct, frozen=True, gc=False):
    """One leg of an action: a field of an entity goes from `before` (the agent's claim) to `after`."""

    entity: Entity
    field: Name
    before: Number | None = None
    after: Number | None = None
    unit: Annotated[str, Meta(max_length=32)] | None = None


class TextChange(Change, frozen=True, gc=False):
    """A leg whose value is no number, such as a headline or a status: it has no size, so no limit lets it through."""

    was: str | bool | None = None
    becomes: str | bool | None = None


class Evidence(Struct, frozen=True, gc=False):
    """A signal the agent cites. `better` says which direction is good: "up" or "down".

    Signals are shown and compared roughly, never against a limit, so floats are exact enough.
    """

    signal: Name
    value: float | str | None = None
    before: float | str | None = None
    better: Annotated[str, Meta(max_length=16)] | None = None
    ref: Annotated[str, Meta(max_length=2_000)] | None = None


class Asset(Struct, frozen=True, gc=False):
    """A picture or a film, named by its digest."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    media_type: Annotated[str, Meta(max_length=200)]
    uri: Annotated[str, Meta(max_length=2_000)]


class Content(Struct, frozen=True, gc=False):
    """What would be published, and the source it was made from."""

    text: str | None = None
    language: Annotated[str, Meta(max_length=64)] | None = None
    platform: Annotated[str, Meta(max_length=64)] | None = None
    source: str | None = None
    assets: Annotated[tuple[Asset, ...], Meta(max_length=100)] = ()


class Batch(Struct, frozen=True, gc=False):
    """The lot that an action belongs to, of one account, `size` items long."""

    id: Name
    size: Annotated[int, Meta(ge=1, le=10_000)]
    index: Annotated[int, Meta(ge=0, lt=10_000)] = 0


class Action(Struct, frozen=True, gc=False):
    """A proposed action. Whatever it claims about its own risk or autonomy is ignored."""

    action_id: Name
    type: Name
    agent: Agent
    proposed_at: Time
    tenant: Annotated[str, Meta(max_length=200)] = ""
    changes: Annotated[tuple[Change, ...], Meta(max_length=LEGS_MAX)] = ()
    confidence: Number | None = None
    expires_at: Time | None = None
    flags: Annotated[tuple[Name, ...], Meta(max_length=FLAGS_MAX)] = ()
    entity: Entity | None = None
    destination: Annotated[str, Meta(max_length=200)] | None = None
    evidence: Annotated[tuple[Evidence, ...], Meta(max_length=EVIDENCE_MAX)] = ()
    content: Content | None = None
    context: dict[str, Any] | None = None
    rationale: str | None = None
    batch: Batch | None = None


NOWHERE = Entity()


def entity_of(action: Action) -> Entity:
    """Return what the action is about: the campaign if all legs share one, else the account of the first leg.

    Without legs it is the entity that the action names, or nothing.
    """
    changes = action.changes
    if not changes:
        return action.entity or NOWHERE
    first = changes[0].entity
    for change in changes:
        entity = change.entity
        if entity is not first and entity != first:
            return Entity(account=first.account)
    return first


def accounts_of(action: Action) -> frozenset[str | None]:
    """Return every account that a leg of the action touches."""
    return frozenset(change.entity.account for change in action.changes)


def flaw(action: Action) -> str | None:
    """Say what is wrong with a well-formed action that no type can express, or None.

    The rest of the core relies on it: every number that is compared is finite and below `NUMBER_MAX`, and a tenant
    holds no slash, so that `tenant/action_id` names one action only.
    """
    try:
        for change in action.changes:
            if change.before is not None and not -NUMBER_MAX < change.before < NUMBER_MAX:
                return f"before of {change.field} is out of range"
            if change.after is not None and not -NUMBER_MAX < change.after < NUMBER_MAX:
                return f"after of {change.field} is out of range"
        if action.confidence is not None and not -NUMBER_MAX < action.confidence < NUMBER_MAX:
            return "confidence is out of range"
    except InvalidOperation:
        return "NaN is not a number"
    if "/" in action.tenant:
        return "a tenant holds no '/'"
    return None
