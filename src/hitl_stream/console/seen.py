"""What scopes have lately been about: the tenants, accounts, campaigns, agents and types that records name.

It only completes what somebody types at the kill page. It is gathered from every record that the view is folded from,
whatever it is there for, so that nothing which is missing here says anything of an item. It begins empty with each
start of the console, and keeps the newest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from hitl_stream.console.store import Change, ItemPut, StoryPut
from hitl_stream.core.action import Agent, Entity
from hitl_stream.core.switches import KINDS, folded

SEEN_MAX = 5_000
"""Pairs of a tenant and a selector remembered: about 2 MB."""
TOLD_MAX = 20
"""Of each kind, told at once."""
VALUE_LENGTH_MAX = 200


class _Leg(Struct):
    entity: Entity = Entity()


class _Action(Struct):
    type: str
    agent: Agent
    changes: tuple[_Leg, ...] = ()
    entity: Entity | None = None
    destination: str | None = None


class _About(Struct):
    action: _Action


_decode = msgspec.json.Decoder(_About).decode


class Seen:
    """Selectors by tenant, the newest last."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, str], None] = OrderedDict()

    def take(self, changes: Iterable[Change]) -> None:
        """Take note of what records are about; one that cannot be read names nothing."""
        for change in changes:
            if not isinstance(change, ItemPut | StoryPut):
                continue
            try:
                action = _decode(change.value).action
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
            for kind, value in _selectors(change.tenant, action):
                self._note(change.tenant, kind, value)

    def _note(self, tenant: str, kind: str, value: str) -> None:
        if not value or len(value) > VALUE_LENGTH_MAX:
            return
        self._seen[tenant, kind, value] = None
        self._seen.move_to_end((tenant, kind, value))
        while len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)

    def told(self, tenants: tuple[str, ...] | None, like: str = "") -> dict[str, list[str]]:
        """Return values by kind, the newest first: those of these tenants (None: every one) that hold `like`."""
        wanted = folded(like)
        found: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for tenant, kind, value in reversed(self._seen):
            values = found[kind]
            if (
                len(values) < TOLD_MAX
                and (tenants is None or tenant in tenants)
                and wanted in folded(value)
                and value not in values
            ):
                values.append(value)
        return found


def _selectors(tenant: str, action: _Action) -> Iterator[tuple[str, str]]:
    yield "tenant", tenant
    yield "type", action.type
    yield "agent", action.agent.id
    if action.agent.version:
        yield "agent-version", f"{action.agent.id}@{action.agent.version}"
    if action.destination:
        yield "destination", action.destination
    for entity in (*(leg.entity for leg in action.changes), action.entity):
        if entity is not None:
            yield "account", entity.account or ""
            yield "campaign", entity.campaign or ""
