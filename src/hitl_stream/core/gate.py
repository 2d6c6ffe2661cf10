"""The last gate: whether a decision may be carried out now, and if not, what becomes of it.

Asked right before each platform call, of a record whose seal and hash are good. In this order, the first that applies:

| what is found | answer |
|---|---|
| it is done already | `Skip` |
| approvals that do not hold, or no outcome that executes | `Close` refused |
| it names a control epoch that we have not reached | `Wait`; when that did not come, `SendBack` |
| its time is over | `Close` expired |
| a switch covers it, or covered it after it was decided, released or not | `SendBack` |
| an earlier one of its entity was sent back, and whoever decided it did not know | `SendBack` |
| the machine decided, and our policy does not let it run alone | `SendBack`, under the same policy `Close` refused |
| a size counts, and nobody has looked what stands on the platform | `Look` |
| the platform holds another value than it starts from | `Close` stale |
| a switch only lets through what lowers, and it does not lower that value | `SendBack` |
| nothing | `Run` |

Engaging a switch can turn any answer into a stricter one and none into `Run`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from msgspec import Struct

from hitl_stream.core.action import Action, Value
from hitl_stream.core.control import Control
from hitl_stream.core.events import End, Level, Mode, Outcome, SentBackWhy, Why
from hitl_stream.core.history import recall
from hitl_stream.core.policy.compile import Compiled
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import recommends, route
from hitl_stream.core.switches import Switch, Target, reason_of, reduces
from hitl_stream.core.window import Window

ATTEMPTS_MAX = 8
"""A router that decides by another policy file than ours would get its decisions back for ever; then we refuse."""
NOT_SENT_BACK = -1
PURE = frozenset({
    "agent.unknown", "amount.undefined", "class.auto_max_amount", "class.auto_max_change", "class.auto_min_confidence",
    "class.level", "class.review", "class.undefined", "confidence.undefined", "legs.accounts", "magnitude.undefined",
    "missing.confidence", "move.unbalanced", "pin",
})  # fmt: skip
"""Rules that see nothing but the action and the policy, so that whoever asks again gets the same answer."""


class Permit(Struct, frozen=True, kw_only=True):
    """What an execute record says of itself.

    `by` are the people whose signed approvals were found good; None where the machine decided. `unsealed` says why
    approvals do not hold; empty: they do, or none are needed.
    """

    epoch: int
    policy: str
    execute_by_ms: int
    outcome: Outcome = Outcome.EXECUTE
    attempt: int = 0
    held: int = -1
    by: tuple[str, ...] | None = None
    unsealed: str = ""


class Past(Struct, frozen=True):
    """What the executor remembers of it.

    `done`: this id and hash has an end, or this attempt was sent back. `sent_back`: the offset on `held` of what was
    last sent back of any of its entities.
    """

    done: bool = False
    sent_back: int = NOT_SENT_BACK


class Run(Struct, frozen=True):
    """Call the platform, in this very turn."""


class Look(Struct, frozen=True):
    """Read what stands on the platform, then ask again."""


class Wait(Struct, frozen=True):
    """Ask again when this control epoch is applied."""

    epoch: int


class Skip(Struct, frozen=True):
    """Do nothing: it has its end."""


class SendBack(Struct, frozen=True):
    """Park it. `switches` are those that hold it now; with none of them it is to be decided again at once."""

    why: SentBackWhy
    switches: tuple[int, ...]
    reason: Reason


class Close(Struct, frozen=True):
    """End it without a call."""

    end: End
    why: Why
    reason: Reason


Answer: TypeAlias = Run | Look | Wait | Skip | SendBack | Close
RUN, LOOK, SKIP = Run(), Look(), Skip()
NOTHING = Past()


def gate(
    permit: Permit,
    action: Action,
    target: Target,
    control: Control,
    policy: Compiled,
    now_ms: int,
    past: Past = NOTHING,
    present: Sequence[Value | None] | None = None,
    *,
    waited: bool = False,
) -> Answer:
    """Say what becomes of a decision now.

    `now_ms` is control time. `present` is what was read for each change, None before that. `waited`: its epoch was
    waited for as long as a lease lasts.
    """
    if past.done:
        return SKIP
    refused = _refused(permit)
    if refused is not None:
        # Before anything that sends it back: what nobody vouches for must not come to `held` under our seal.
        return refused
    if permit.epoch > control.epoch:
        if not waited:
            return Wait(permit.epoch)
        reason = Reason("executor.epoch", str(permit.epoch), str(control.epoch), Outcome.HOLD)
        return SendBack(SentBackWhy.EPOCH, (), reason)
    if now_ms >= permit.execute_by_ms:
        late = Reason("executor.execute_by", f"{now_ms - permit.execute_by_ms} ms late", None, Outcome.REFUSE)
        return Close(End.EXPIRED, Why.EXECUTE_BY, late)
    covering = control.switches.covering(target)
    switches = {switch.epoch: switch for switch in (*control.switches.blocking(target, permit.epoch), *covering)}
    stopping = [switch for switch in switches.values() if _stops(switch, permit)]
    if stopping:
        return SendBack(SentBackWhy.SWITCH, _holding(covering, action), reason_of(stopping[0]))
    if permit.held < past.sent_back:
        reason = Reason("executor.behind", f"held {permit.held}", str(past.sent_back), Outcome.HOLD)
        return SendBack(SentBackWhy.BEHIND, _holding(covering, action), reason)
    against = _disagrees(permit, action, control, policy, covering)
    if against is not None:
        return against
    reducing = [switch for switch in switches.values() if switch.mode is Mode.REDUCE_ONLY]
    if not reducing and (policy.of(action.type).limit is None or not action.changes):
        return RUN
    if present is None:
        return LOOK
    # Stale before reducing: the router judges by what the agent claims, and would let the same action out again.
    stale = _stale(action, present)
    if stale is not None:
        return Close(End.STALE, Why.STALE, stale)
    if reducing and not reduces(action, present):
        return SendBack(SentBackWhy.SWITCH, _holding(covering, action, by_claim=False), reason_of(reducing[0]))
    return RUN


def permits(permit: Permit, action: Action, switches: Iterable[Switch], present: Sequence[Value | None] | None) -> bool:
    """Say whether a call that is under way would still be right under switches that were engaged since."""
    found = list(switches)
    if any(_stops(switch, permit) for switch in found):
        return False
    reducing = any(switch.mode is Mode.REDUCE_ONLY for switch in found)
    return not reducing or (present is not None and reduces(action, present))


def alone(action: Action, policy: Compiled) -> tuple[Reason, ...]:
    """Return why the machine may not let this action run by itself, as far as action and policy alone can tell."""
    draft = Window(policy.reach).draft()
    draft.at(0)
    answer = route(action, recall(action, action.tenant, draft), policy)
    if recommends(answer):
        return (Reason("class.level", str(int(Level.RECOMMEND)), None, Outcome.REFUSE),)
    return tuple(reason for reason in answer.reasons if reason.counts and reason.outcome > Outcome.EXECUTE
                 and (reason.rule in PURE or reason.rule.startswith("pin.")))  # fmt: skip


def same(before: Value | None, present: Value | None) -> bool:
    """Say whether a claimed value is the one that stands there: as numbers where both are, else as texts.

    >>> same("1.20", 1.2), same("paused", "PAUSED"), same(True, "true")
    (True, False, True)
    """
    try:
        return as_decimal(before, "before") == as_decimal(present, "present")
    except UndefinedError:
        return present is not None and _text(before) == _text(present)


def _text(value: Value | None) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refused(permit: Permit) -> Close | None:
    """Close what no later moment and no other decision can make right."""
    if permit.unsealed:
        return Close(End.REFUSED, Why.UNSEALED, Reason("executor.unsealed", permit.unsealed, None, Outcome.REFUSE))
    if permit.outcome is not Outcome.EXECUTE:
        reason = Reason("executor.outcome", permit.outcome.name, Outcome.EXECUTE.name, Outcome.REFUSE)
        return Close(End.REFUSED, Why.POLICY, reason)
    return None


def _stops(switch: Switch, permit: Permit) -> bool:
    """Say whether a switch stops it whatever it would change."""
    return switch.mode is Mode.HALT or (switch.mode is Mode.REVIEW_ALL and permit.by is None)


def _holding(covering: Iterable[Switch], action: Action, *, by_claim: bool = True) -> tuple[int, ...]:
    """Return those that keep it parked: under REVIEW_ALL it goes to review at once."""
    passes = by_claim and reduces(action)
    return tuple(
        switch.epoch
        for switch in covering
        if switch.mode is Mode.HALT or (switch.mode is Mode.REDUCE_ONLY and not passes)
    )


def _disagrees(
    permit: Permit, action: Action, control: Control, policy: Compiled, covering: Iterable[Switch]
) -> SendBack | Close | None:
    """Ask our own policy copy about what no person has looked at."""
    if permit.by is not None:
        return None
    against = alone(action, policy)
    if not against:
        return None
    reason = Reason("executor.policy", str(against[0]), None, Outcome.REFUSE)
    decided_otherwise = permit.policy != policy.digest or control.rules_at > permit.epoch
    if decided_otherwise and permit.attempt < ATTEMPTS_MAX:
        return SendBack(SentBackWhy.POLICY, _holding(covering, action), reason)
    return Close(End.REFUSED, Why.POLICY, reason)


def _stale(action: Action, present: Sequence[Value | None]) -> Reason | None:
    for index, (change, value) in enumerate(zip(action.changes, present, strict=True)):
        # Where the agent claims nothing, a person has approved it without.
        if change.before is not None and not same(change.before, value):
            return Reason("executor.stale", f"/changes/{index} is {value!s:.100}", f"{change.before!s:.100}",
                          Outcome.REFUSE)  # fmt: skip
    return None
