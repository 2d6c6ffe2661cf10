"""Routing: say who decides, the machine, a reviewer, a senior or nobody, and every reason why.

The laws, each a property test: the strictest answer wins; adding a rule never loosens; the order of rules does not
matter; a rule that fails to evaluate escalates; handling a record twice gives the same.
"""

from __future__ import annotations

from decimal import Decimal

from msgspec import Struct

from hitl_stream.core.action import Action, accounts_of
from hitl_stream.core.events import Level, Outcome
from hitl_stream.core.fields import ABSENT, NO_FACTS, Facts, FieldError
from hitl_stream.core.history import History
from hitl_stream.core.policy.compile import Compiled, CompiledClass
from hitl_stream.core.quantity import EXACT, UndefinedError, exceeds, in_currency, shown, unbalanced
from hitl_stream.core.reasons import Reason
from hitl_stream.core.score import Score
from hitl_stream.core.triggers import ETHICAL_FLAG
from hitl_stream.core.validators import Verdicts

NO_VERDICTS: Verdicts = {}
UNSCORED = Score(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
SUM_TOLERANCE = 1e-9
"""Running sums are floats: ten steps of 5 % are not over 50 %."""


class Approval(Struct, frozen=True):
    """A queue that must say yes, and how many of its people."""

    queue: str
    people: int
    sla_ms: int


class Route(Struct, frozen=True, gc=False):
    """The answer for one action. `approvals` are a union: each queue that a counting reason names, once."""

    outcome: Outcome
    reasons: tuple[Reason, ...]
    approvals: tuple[Approval, ...]
    score: Score
    cls: CompiledClass


def route(
    action: Action, past: History, policy: Compiled, facts: Facts = NO_FACTS, verdicts: Verdicts = NO_VERDICTS
) -> Route:
    """Route one action that was admitted. Level 1 gets the route it would have had."""
    cls = policy.classes.get(action.type) or policy.undefined
    reasons: list[Reason] = [] if cls.baseline is None else [cls.baseline]
    if action.agent.id not in policy.agents:
        reasons.append(Reason("agent.unknown", action.agent.id, None, Outcome.ESCALATE, cls.senior))

    limit, confidence = cls.limit, action.confidence
    for leg in past.legs:
        if limit is not None and exceeds(leg, limit):
            reasons.append(_too_large(past, limit, cls))
            break
    if past.undefined is not None and (limit is not None or cls.cap is not None):
        reasons.append(Reason("magnitude.undefined", past.undefined, None, Outcome.ESCALATE, cls.senior))
    if limit is not None and not action.changes:
        reasons.append(Reason("magnitude.undefined", "no changes", None, Outcome.ESCALATE, cls.senior))
    if cls.confidence is not None and not (confidence is not None and cls.confidence <= confidence <= 1):
        reasons.append(_too_doubtful(confidence, cls))
    money = _amounts(action, past, policy, cls, reasons) if cls.cap is not None else 0.0
    if past.totals and cls.sums:
        _running(past, cls, reasons)
    z = 0.0 if past.z is None else abs(past.z)
    if z > policy.unusual_over:
        over = f"{policy.unusual_over:g}"
        reasons.append(Reason("unusual", f"z {past.z:.1f}", over, Outcome.ESCALATE, cls.senior))
    if len(action.changes) > 1 or past.crowded:
        _legs(action, past, cls, reasons)
    if cls.needs_evidence and not action.evidence:
        reasons.append(Reason("missing.evidence", "absent", None, Outcome.ESCALATE, cls.senior))
    if action.flags:
        _flags(action, policy, cls, reasons)
    if cls.needs:
        _needs(action, facts, cls, reasons)
    for trigger in cls.triggers:
        found = trigger(action, facts)
        if found is not None:
            reasons.append(found)
    for extra in cls.extras:
        reasons.extend(extra(action, facts, verdicts))

    score = policy.scale.score(
        abs(past.ratio) / cls.limit_float if cls.limit_float else 0.0,
        1.0 if confidence is None else 1.0 - float(confidence),
        z / policy.unusual_over,
        0.0 if action.evidence else 1.0,
        money,
    )
    if cls.banded and score.total >= policy.review_from:
        reasons.append(_banded(score, policy, cls))
    if not reasons:
        return Route(Outcome.EXECUTE, (), (), score, cls)
    return _strictest(reasons, score, policy, cls)


def unrouted(cls: CompiledClass, reason: Reason) -> Route:
    """Return the route of an action that was not admitted: it was never scored."""
    return Route(reason.outcome, (reason,), (), UNSCORED, cls)


def _strictest(reasons: list[Reason], score: Score, policy: Compiled, cls: CompiledClass) -> Route:
    counting = [reason for reason in reasons if reason.counts]
    outcome = max((reason.outcome for reason in counting), default=Outcome.EXECUTE)
    queues: dict[str, Approval] = {}
    if outcome < Outcome.REFUSE:
        for queue in sorted({reason.queue for reason in counting if reason.queue is not None}):
            asked = policy.policy.queues[queue]
            queues[queue] = Approval(queue, 1 if asked.external else cls.people, asked.sla)
    return Route(outcome, tuple(reasons), tuple(queues.values()), score, cls)


def _too_large(past: History, limit: Decimal, cls: CompiledClass) -> Reason:
    over = [EXACT.abs(leg.delta) / leg.base for leg in past.legs if exceeds(leg, limit)]
    return Reason("class.auto_max_change", shown(max(over), limit), str(limit), Outcome.REVIEW, cls.queue)


def _too_doubtful(confidence: Decimal | None, cls: CompiledClass) -> Reason:
    least = str(cls.confidence)
    if confidence is None:
        return Reason("missing.confidence", "absent", least, Outcome.ESCALATE, cls.senior)
    if not 0 <= confidence <= 1:
        return Reason("confidence.undefined", str(confidence), "0 to 1", Outcome.ESCALATE, cls.senior)
    return Reason("class.auto_min_confidence", str(confidence), f"at least {least}", Outcome.REVIEW, cls.queue)


def _amounts(action: Action, past: History, policy: Compiled, cls: CompiledClass, reasons: list[Reason]) -> float:
    """Compare each leg's amount with the cap; return the largest as a share of the cap."""
    cap = cls.cap
    assert cap is not None  # the caller asked
    source = policy.policy
    largest, used = Decimal(0), None
    for change in action.changes:
        if change.before is None or change.after is None:
            continue
        try:
            delta = EXACT.abs(EXACT.subtract(change.after, change.before))
            amount, rate = in_currency(delta, change.unit, source.currency, source.rates)
        except (UndefinedError, ArithmeticError) as error:
            reasons.append(Reason("amount.undefined", str(error), None, Outcome.ESCALATE, cls.senior))
            continue
        if amount > largest:
            largest, used = amount, rate
    if largest > cap:
        rate_text = str(used) if used is not None else None
        reasons.append(
            Reason("class.auto_max_amount", str(largest), str(cap), Outcome.REVIEW, cls.queue, rate=rate_text)
        )
    return float(largest / cap) if cap else float(bool(largest))


def _running(past: History, cls: CompiledClass, reasons: list[Reason]) -> None:
    worst: dict[int, tuple[float, float]] = {}
    for which, absolute, signed in past.totals:
        if which in cls.sums and absolute > cls.sums[which][0] + SUM_TOLERANCE:
            worst[which] = max(worst.get(which, (0.0, 0.0)), (absolute, signed))
    for which, (absolute, signed) in worst.items():
        limit, window = cls.sums[which]
        saw = f"{absolute:.4f} in {window}, net {signed:+.4f}"
        reasons.append(Reason("class.auto_max_change_per", saw, f"{limit:g}", Outcome.REVIEW, cls.queue))


def _legs(action: Action, past: History, cls: CompiledClass, reasons: list[Reason]) -> None:
    accounts = accounts_of(action)
    if len(accounts) > 1:
        names = ", ".join(sorted(str(account) for account in accounts))
        reasons.append(Reason("legs.accounts", names, "one account", Outcome.ESCALATE, cls.senior))
    uneven = unbalanced(action)
    if uneven is not None:
        reasons.append(Reason("move.unbalanced", uneven, "0", Outcome.ESCALATE, cls.senior))
    if past.crowded:
        reasons.append(Reason("window.full", "no room for a running sum", None, Outcome.ESCALATE, cls.senior))


def _flags(action: Action, policy: Compiled, cls: CompiledClass, reasons: list[Reason]) -> None:
    for flag in sorted(set(action.flags)):
        queue = policy.exceptions.get(flag, policy.policy.defaults.queue)
        rule = "ethical" if flag == ETHICAL_FLAG else f"flag.{flag}" if flag in policy.exceptions else "flag.unknown"
        reasons.append(Reason(rule, flag, None, Outcome.ESCALATE, queue))


def _needs(action: Action, facts: Facts, cls: CompiledClass, reasons: list[Reason]) -> None:
    for path, read in cls.needs:
        try:
            if read(action, facts) is not ABSENT:
                continue
            saw = "absent"
        except FieldError as error:
            saw = str(error)
        reasons.append(Reason(f"missing.{path}", saw, None, Outcome.ESCALATE, cls.senior))


def _banded(score: Score, policy: Compiled, cls: CompiledClass) -> Reason:
    if score.total >= policy.escalate_from:
        return Reason("band.escalate", f"{score.total:.2f}", f"{policy.escalate_from:g}", Outcome.ESCALATE, cls.senior)
    return Reason("band.review", f"{score.total:.2f}", f"{policy.review_from:g}", Outcome.REVIEW, cls.queue)


def recommends(route: Route) -> bool:
    """Say whether the action may only be recommended, whatever its route."""
    return route.cls.level is Level.RECOMMEND
