"""What an agent wants to do, exactly as its bytes say it.

Numbers may be JSON numbers or strings, and stay what they were: what decides near a limit reads them as decimals (see
`core.quantity`). Fields that the model does not know stay in the bytes and are ignored here.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct

Name = Annotated[str, Meta(min_length=1, max_length=200)]
"""An id or a name: 1 to 200 characters."""
_NUMBER = r"^-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,2})?\Z"
NUMBER = re.compile(_NUMBER)
"""What counts as a number in a string: no spaces, underscores, other scripts' digits, NaN or infinity."""
Number = float | Annotated[str, Meta(pattern=_NUMBER)]
"""A JSON number, or a string that holds one."""
Value = float | str | bool
"""What a field changes from and to: a number, or a text such as a headline, or a flag."""
Time = Annotated[datetime, Meta(tz=True)]
"""RFC 3339 with an offset."""

ACTION_BYTES_MAX = 64 * 1024
"""An action may be this long; assets are referred to, not embedded."""
DEPTH_MAX = 32
"""Objects and arrays may nest this deep."""
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
    before: Value | None = None
    after: Value | None = None
    unit: Annotated[str, Meta(max_length=32)] | None = None


class Evidence(Struct, frozen=True, gc=False):
    """A signal the agent cites. `better` says which direction is good: "up" or "down"."""

    signal: Name
    value: Number | None = None
    before: Number | None = None
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
