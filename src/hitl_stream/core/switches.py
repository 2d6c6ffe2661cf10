"""Kill switches: what each covers, and which hold an action back.

A scope is a list of selectors `kind:value`. The same kind twice means either, different kinds mean both. It covers an
action if it covers any of its changes. What is in doubt covers more, never less: a selector of an unknown kind, one
without a value, and an empty scope cover everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain

from msgspec import Struct, structs

from hitl_stream.core.action import Action, Change, Entity, Value
from hitl_stream.core.events import Mode, Outcome
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.reasons import Reason

KINDS = ("campaign", "account", "agent-version", "agent", "destination", "type", "tenant")
"""Most selective first: by its first kind a switch is found. `global` is the eighth."""
GLOBAL = "global:*"
LOWERED = ("bid", "budget")
"""A number in a field of such a name may go down under REDUCE_ONLY."""
PAUSED = {"status": ("paused",), "state": ("paused",), "paused": ("true",), "enabled": ("false",), "active": ("false",)}
"""Values that pause what they are set on, by field."""
OUTCOMES = {Mode.HALT: Outcome.HOLD, Mode.REVIEW_ALL: Outcome.REVIEW, Mode.REDUCE_ONLY: Outcome.HOLD}


class Switch(Struct, frozen=True):
    """A switch that was engaged.

    `epoch` is its id: the offset of the command that engaged it; `released` is that of the one that released it, None
    while it holds.
    """

    epoch: int
    scope: tuple[str, ...]
    mode: Mode
    by: str
    at_ms: int
    reason: str | None = None
    source: str = "person"
    released: int | None = None


class Target(Struct, frozen=True):
    """An action as scopes see it: what all its changes share, and what each of them adds."""

    common: frozenset[str]
    parts: tuple[frozenset[str], ...]


def target_of(action: Action, tenant: str, entity: Entity) -> Target:
    """Return what scopes are compared with. An action without changes is about the entity that it names."""
    agent = action.agent
    common = {f"tenant:{tenant}", f"agent:{agent.id}", f"agent-version:{agent.id}@{agent.version}",
              f"type:{action.type}"}  # fmt: skip
    if action.destination is not None:
        common.add(f"destination:{action.destination}")
    entities = dict.fromkeys(change.entity for change in action.changes) if action.changes else (entity,)
    return Target(frozenset(common), tuple(frozenset(_selectors(one)) for one in entities))


def _selectors(entity: Entity) -> Iterable[str]:
    if entity.account is not None:
        yield f"account:{entity.account}"
    if entity.campaign is not None:
        yield f"campaign:{entity.campaign}"


@lru_cache(maxsize=65_536)
def parsed(scope: tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    """Return a scope's selectors by kind; empty for one that covers everything."""
    kinds: dict[str, set[str]] = {}
    for selector in scope:
        kind, colon, value = selector.partition(":")
        if kind not in KINDS or not colon or not value:
            return {}
        kinds.setdefault(kind, set()).add(selector)
    return {kind: frozenset(selectors) for kind, selectors in kinds.items()}


def covers(scope: tuple[str, ...], target: Target) -> bool:
    """Say whether a scope covers an action.

    >>> one = Target(frozenset({"tenant:acme"}), (frozenset({"account:a", "campaign:c"}),))
    >>> covers(("campaign:c", "campaign:d", "tenant:acme"), one), covers(("campaign:c", "tenant:other"), one)
    (True, False)
    """
    wanted = parsed(scope).values()
    return any(all(selectors & (target.common | part) for selectors in wanted) for part in target.parts)


class Switches:
    """All switches ever engaged, found by what they cover. Only the fold of the control log changes it."""

    def __init__(self) -> None:
        self.all: dict[int, Switch] = {}
        """By epoch, oldest first."""
        self.engaged: dict[int, Switch] = {}
        """Those that are not released."""
        self._engaged_by: dict[str, dict[int, Switch]] = {}
        self._all_by: dict[str, dict[int, Switch]] = {}

    def engage(self, switch: Switch) -> None:
        """Take in a switch. It holds until it is released, whatever else is engaged."""
        self.all[switch.epoch] = self.engaged[switch.epoch] = switch
        for anchor in _anchors(switch.scope):
            self._engaged_by.setdefault(anchor, {})[switch.epoch] = switch
            self._all_by.setdefault(anchor, {})[switch.epoch] = switch

    def release(self, epoch: int, by: int) -> None:
        """Release one switch by the command at epoch `by`; one that is not engaged stays as it is."""
        switch = self.engaged.pop(epoch, None)
        if switch is None:
            return
        self.all[epoch] = _released(switch, by)
        for anchor in _anchors(switch.scope):
            del self._engaged_by[anchor][epoch]
            if not self._engaged_by[anchor]:
                del self._engaged_by[anchor]
            self._all_by[anchor][epoch] = self.all[epoch]

    def covering(self, target: Target) -> tuple[Switch, ...]:
        """Return the engaged switches that cover an action, oldest first."""
        return _found(self._engaged_by, target, -1) if self.engaged else ()

    def blocking(self, target: Target, since: int) -> tuple[Switch, ...]:
        """Return the switches that cover an action and were engaged after epoch `since`, released or not."""
        if not self.all or next(reversed(self.all)) <= since:
            return ()
        return _found(self._all_by, target, since)


def _anchors(scope: tuple[str, ...]) -> Iterable[str]:
    """Return under which selectors a scope is found: those of its most selective kind."""
    kinds = parsed(scope)
    return next((kinds[kind] for kind in KINDS if kind in kinds), (GLOBAL,))


def _found(by: Mapping[str, Mapping[int, Switch]], target: Target, since: int) -> tuple[Switch, ...]:
    found: dict[int, Switch] = {}
    for selector in chain((GLOBAL,), target.common, *target.parts):
        for epoch, switch in by.get(selector, {}).items():
            if epoch > since and epoch not in found and covers(switch.scope, target):
                found[epoch] = switch
    return tuple(found[epoch] for epoch in sorted(found))


def _released(switch: Switch, by: int) -> Switch:
    return structs.replace(switch, released=by)


def reasons_of(covering: Sequence[Switch], action: Action, queue: str) -> list[Reason]:
    """Return what the switches that cover an action say of it; one that only reduces passes REDUCE_ONLY.

    `queue` is asked under REVIEW_ALL. The agent's own `before` is believed here; the executor judges once more by what
    stands on the platform.
    """
    reasons = []
    for switch in covering:
        if switch.mode is Mode.REDUCE_ONLY and reduces(action):
            continue
        outcome = OUTCOMES[switch.mode]
        asked = queue if outcome is Outcome.REVIEW else None
        reasons.append(Reason(f"switch.{switch.epoch}", switch.mode.value, " ".join(switch.scope), outcome, asked))
    return reasons


def reduces(action: Action) -> bool:
    """Say whether every change lowers a bid or a budget, or pauses; nothing to see means no."""
    return bool(action.changes) and all(lowers(change, change.before) for change in action.changes)


def lowers(change: Change, present: Value | None) -> bool:
    """Say whether a change lowers a bid or a budget from what stands there now, or pauses."""
    pausing = PAUSED.get(change.field.lower())
    if pausing is not None:
        return str(change.after).lower() in pausing
    if not any(word in change.field.lower() for word in LOWERED):
        return False
    try:
        before, after = as_decimal(present, "before"), as_decimal(change.after, "after")
    except UndefinedError:
        return False
    return 0 <= after < before
