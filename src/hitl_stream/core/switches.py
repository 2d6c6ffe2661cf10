"""Kill switches: what each covers, and which hold an action back.

A scope is a list of selectors `kind:value`. The same kind twice means either, different kinds mean both, of one and the
same change. It covers an action if it covers any of its changes. What is in doubt covers more, never less:
- A selector of an unknown kind, one without a value, and an empty scope cover everything.
- An action that does not say its destination is covered by a switch on any; a change that names a campaign and no
  account, by one on any account; an agent that does not say its version, by one on any version of it.
- Ids are compared without case, white space and invisible characters, for a platform may read `CMP-7 ` as `cmp-7`.
- `agent-version:bidder-7`, without a version, covers all of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Generic, TypeVar

from msgspec import Struct, structs

from hitl_stream.core.action import Action, Agent, Change, Entity, Value
from hitl_stream.core.events import Mode, Outcome
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.reasons import Reason

KINDS = ("campaign", "account", "agent-version", "agent", "destination", "type", "tenant")
"""Most selective first: by its first kind a switch is found. `global` is the eighth."""
GLOBAL = "global:*"
LOWERED = frozenset({"bid", "budget"})
"""A number may go down under REDUCE_ONLY in a field whose name ends in one of these words, such as `daily_budget`."""
UNITS = frozenset({"amount", "cents", "micros", "value"})
"""Words after it that only say how it is counted: `cpc_bid_micros`."""
WORD = re.compile("[A-Z]?[a-z0-9]+|[A-Z0-9]+")
PAUSED = {"status": ("paused",), "state": ("paused",), "paused": ("true",), "enabled": ("false",), "active": ("false",)}
"""Values that pause what they are set on, by field."""
OUTCOMES = {Mode.HALT: Outcome.HOLD, Mode.REVIEW_ALL: Outcome.REVIEW, Mode.REDUCE_ONLY: Outcome.HOLD}
ROWS_MAX = 20
"""Rows that an explanation gives to switches: with more, a record could become too large to be parked at all."""
SHOWN_MAX = 200
"""Characters of a scope in such a row."""
CACHED_MAX = 65_536
"""Values remembered of each kind: ids of entities and agents, scopes. About 20 MB each when full."""

T = TypeVar("T")


class Switch(Struct, frozen=True):
    """A switch that was engaged.

    `epoch` is its id: the offset of the command that engaged it, appended at `at_ms`; `released` and `released_ms` are
    those of the one that released it, None while it holds.
    """

    epoch: int
    scope: tuple[str, ...]
    mode: Mode
    by: str
    at_ms: int
    reason: str | None = None
    source: str = "person"
    released: int | None = None
    released_ms: int | None = None


class Target(Struct, frozen=True):
    """An action as scopes see it: what all its changes share, and what each of them adds.

    `kind:` alone stands for something that was not said, and so may be anything.
    """

    common: frozenset[str]
    parts: tuple[frozenset[str], ...]


def target_of(action: Action, tenant: str, entity: Entity) -> Target:
    """Return what scopes are compared with. An action without changes is about the entity that it names."""
    changes = action.changes
    if len(changes) == 1 and action.entity is None:
        return Target(common_of(action, tenant), (part_of(changes[0].entity),))
    entities = dict.fromkeys([change.entity for change in changes] or [entity])
    if action.entity is not None:
        entities[action.entity] = None  # beside changes it means nothing, but an adapter may look at it
    return Target(common_of(action, tenant), tuple(part_of(one) for one in entities))


def common_of(action: Action, tenant: str) -> frozenset[str]:
    """Return the selectors that fit an action whatever it changes."""
    return _common(tenant, action.agent, action.type, action.destination or "")


@lru_cache(maxsize=CACHED_MAX)
def _common(tenant: str, agent: Agent, kind: str, destination: str) -> frozenset[str]:
    name, version = folded(agent.id), folded(agent.version)
    return frozenset({
        f"tenant:{folded(tenant)}", f"agent:{name}", f"agent-version:{name}", f"agent-version:{name}@{version}",
        f"type:{folded(kind)}", f"destination:{folded(destination)}",
    })  # fmt: skip


@lru_cache(maxsize=CACHED_MAX)
def part_of(entity: Entity) -> frozenset[str]:
    """Return the selectors that fit one entity."""
    if entity.campaign is None:
        return frozenset() if entity.account is None else frozenset({f"account:{folded(entity.account)}"})
    return frozenset({f"account:{folded(entity.account or '')}", f"campaign:{folded(entity.campaign)}"})


def folded(text: str) -> str:
    """Return what two spellings of an id share: no case, no compatibility forms, nothing that cannot be seen.

    >>> folded(" CMP\u200b-7 "), folded("\uff43mp-7")
    ('cmp-7', 'cmp-7')
    """
    if text.isascii() and text.isprintable():
        return text.replace(" ", "").lower()
    while (plain := _seen(unicodedata.normalize("NFKD", _seen(text).casefold()))) != text:
        text = plain
    return text


def _seen(text: str) -> str:
    return "".join(one for one in text if not one.isspace() and unicodedata.category(one) not in ("Cc", "Cf"))


@lru_cache(maxsize=CACHED_MAX)
def parsed(scope: tuple[str, ...]) -> Mapping[str, frozenset[str]]:
    """Return by kind what a target must have one of; empty for a scope that covers everything."""
    kinds: dict[str, set[str]] = {}
    for selector in scope:
        kind, _, value = selector.partition(":")
        kind, value = folded(kind), folded(value)
        if kind not in KINDS or not value:
            return {}
        wanted = kinds.setdefault(kind, {f"{kind}:"})
        wanted.add(f"{kind}:{value}")
        if kind == "agent-version":
            # Both an agent's id and its version may hold an @: wherever the version begins, it may not have been said.
            wanted.update(f"{kind}:{value[: place + 1]}" for place, one in enumerate(value) if one == "@")
    return {kind: frozenset(wanted) for kind, wanted in kinds.items()}


def covers(scope: tuple[str, ...], target: Target) -> bool:
    """Say whether a scope covers an action.

    >>> one = Target(frozenset({"tenant:acme"}), (frozenset({"account:a", "campaign:c"}),))
    >>> covers(("campaign:c", "campaign:d", "tenant:acme"), one), covers(("campaign:c", "tenant:other"), one)
    (True, False)
    """
    common = target.common
    open_kinds = [wanted for wanted in parsed(scope).values() if wanted.isdisjoint(common)]
    if not open_kinds:
        return True
    return any(not any(wanted.isdisjoint(part) for wanted in open_kinds) for part in target.parts)


class ByScope(Generic[T]):
    """Things that have a scope, found by what they cover. They are put in by rising number."""

    def __init__(self) -> None:
        self._by: dict[str, dict[int, tuple[tuple[str, ...], T]]] = {}

    def put(self, number: int, scope: tuple[str, ...], thing: T) -> None:
        """Take in a thing; one that is there under this number is replaced, and keeps its place."""
        for anchor in _anchors(scope):
            self._by.setdefault(anchor, {})[number] = scope, thing

    def drop(self, number: int, scope: tuple[str, ...]) -> None:
        """Forget a thing that was put in."""
        for anchor in _anchors(scope):
            things = self._by[anchor]
            del things[number]
            if not things:
                del self._by[anchor]

    def covering(self, target: Target, since: int = -1) -> list[tuple[int, T]]:
        """Return what covers an action and was put in after number `since`, by number."""
        found: dict[int, T] = {}
        by = self._by
        for selector in chain((GLOBAL,), target.common, *target.parts):
            things = by.get(selector)
            if things is None:
                continue
            for number in reversed(things):
                if number <= since:
                    break
                scope, thing = things[number]
                if number not in found and covers(scope, target):
                    found[number] = thing
        return sorted(found.items(), key=_number)


def _number(item: tuple[int, object]) -> int:
    return item[0]


def _anchors(scope: tuple[str, ...]) -> Iterable[str]:
    """Return under which selectors a scope is found: those of its most selective kind."""
    kinds = parsed(scope)
    return next((kinds[kind] for kind in KINDS if kind in kinds), (GLOBAL,))


class Switches:
    """All switches ever engaged, found by what they cover. Only the fold of the control log changes it.

    Kept for ever, as the log is: about 2 kB a switch.
    """

    def __init__(self) -> None:
        self.all: dict[int, Switch] = {}
        """By epoch, oldest first."""
        self.engaged: dict[int, Switch] = {}
        """Those that are not released."""
        self._engaged: ByScope[Switch] = ByScope()
        self._all: ByScope[Switch] = ByScope()

    def engage(self, switch: Switch) -> None:
        """Take in a switch, newer than all others. It holds until it is released, whatever else is engaged."""
        self.all[switch.epoch] = self.engaged[switch.epoch] = switch
        self._engaged.put(switch.epoch, switch.scope, switch)
        self._all.put(switch.epoch, switch.scope, switch)

    def release(self, epoch: int, by: int, at_ms: int) -> None:
        """Release one switch by the command at epoch `by`, appended at `at_ms`; one not engaged stays as it is."""
        switch = self.engaged.pop(epoch, None)
        if switch is None:
            return
        self._engaged.drop(epoch, switch.scope)
        self.all[epoch] = released = structs.replace(switch, released=by, released_ms=at_ms)
        self._all.put(epoch, switch.scope, released)

    def covering(self, target: Target) -> tuple[Switch, ...]:
        """Return the engaged switches that cover an action, oldest first."""
        return tuple([switch for _, switch in self._engaged.covering(target)]) if self.engaged else ()

    def ever(self, target: Target) -> tuple[Switch, ...]:
        """Return all switches that cover an action or did, released or not, oldest first."""
        return tuple([switch for _, switch in self._all.covering(target)])

    def blocking(self, target: Target, since: int) -> tuple[Switch, ...]:
        """Return the switches that cover an action and were engaged after epoch `since`, released or not."""
        if not self.all or next(reversed(self.all)) <= since:
            return ()
        return tuple([switch for _, switch in self._all.covering(target, since)])


def stops(switch: Switch, passes: bool) -> bool:
    """Say whether a switch holds an action whoever approves it; `passes`: all that it does `reduces`."""
    return switch.mode is Mode.HALT or (switch.mode is Mode.REDUCE_ONLY and not passes)


def stopped_ms(switches: Iterable[Switch], passes: bool, since_ms: int, now_ms: int) -> int:
    """Return for how long in [since, now) any of these switches has held an open review: so long its clocks stood.

    `switches` are those that ever covered its action, released or not; times that overlap count once.
    """
    stopped, until_ms = 0, since_ms
    for switch in sorted(switches, key=_engaged_ms):
        if stops(switch, passes):
            from_ms = max(switch.at_ms, until_ms)
            until_ms = max(until_ms, now_ms if switch.released_ms is None else min(switch.released_ms, now_ms))
            stopped += max(0, until_ms - from_ms)
    return stopped


def _engaged_ms(switch: Switch) -> int:
    return switch.at_ms


def reasons_of(covering: Sequence[Switch], action: Action, queue: str) -> list[Reason]:
    """Return what the switches that cover an action say of it; one that only reduces passes REDUCE_ONLY.

    `queue` is asked under REVIEW_ALL. The agent's own `before` is believed here; the executor judges once more by what
    stands on the platform. Of more than `ROWS_MAX` the strictest and oldest have a row each, the rest one together.
    """
    if not covering:
        return []
    passes = reduces(action)
    holding = [switch for switch in covering if switch.mode is not Mode.REDUCE_ONLY or not passes]
    if len(holding) <= ROWS_MAX:
        return [reason_of(switch, queue) for switch in holding]
    holding.sort(key=lambda switch: (-OUTCOMES[switch.mode], switch.epoch))
    rest = reason_of(holding[ROWS_MAX], queue)
    more = Reason("switches.more", f"{len(holding) - ROWS_MAX} more", None, rest.outcome, rest.queue)
    return [*(reason_of(switch, queue) for switch in holding[:ROWS_MAX]), more]


def reason_of(switch: Switch, queue: str | None = None) -> Reason:
    """Return what one switch says of an action that it holds back; `queue` is asked under REVIEW_ALL."""
    outcome = OUTCOMES[switch.mode]
    asked = queue if outcome is Outcome.REVIEW else None
    return Reason(f"switch.{switch.epoch}", switch.mode.value, " ".join(switch.scope)[:SHOWN_MAX], outcome, asked)


def reduces(action: Action, present: Sequence[Value | None] | None = None) -> bool:
    """Say whether an action does nothing but lower bids and budgets, or pause; nothing to see means no.

    `present` is what stands on the platform now, change by change; without it the agent's `before` is believed.
    """
    changes = action.changes
    if not changes or action.content is not None:
        return False
    now = [change.before for change in changes] if present is None else present
    return all(lowers(change, value) for change, value in zip(changes, now, strict=True))


def lowers(change: Change, present: Value | None) -> bool:
    """Say whether a change lowers a bid or a budget from what stands there now (in the same unit), or pauses."""
    pausing = PAUSED.get(change.field.lower())
    if pausing is not None:
        return str(change.after).lower() in pausing
    if not _is_lowered(change.field):
        return False
    try:
        before, after = as_decimal(present, "before"), as_decimal(change.after, "after")
    except UndefinedError:
        return False
    return 0 <= after < before


@lru_cache(maxsize=4_096)
def _is_lowered(field: str) -> bool:
    """Say whether less of it is less spent: `max_cpc_bid`, `dailyBudget`; not `bid_target_roas`, not `forbidden`."""
    words = [word.lower() for word in WORD.findall(field)] if field.isascii() else []
    while words and words[-1] in UNITS:
        words.pop()
    return bool(words) and words[-1] in LOWERED
