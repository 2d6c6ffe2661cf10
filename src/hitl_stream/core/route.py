"""Routing: say who decides, the machine, a reviewer, a senior or nobody, and every reason why.

The laws, each a property test: the strictest answer wins; adding a rule never loosens; the order of rules does not
matter; a rule that fails to evaluate escalates; handling a record twice gives the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from msgspec import Struct

from hitl_stream.core.action import Action, Number, accounts_of
from hitl_stream.core.events import Level, Outcome
from hitl_stream.core.fields import ABSENT, NO_FACTS, Facts, FieldError
from hitl_stream.core.history import History
from hitl_stream.core.policy.compile import Compiled, CompiledClass
from hitl_stream.core.quantity import (
    NEAR,
    UndefinedError,
    amount_of,
    as_decimal,
    as_float,
    exceeds,
    in_currency,
    ratio_shown,
    unbalanced,
)
from hitl_stream.core.reasons import Reason
from hitl_stream.core.score import Score
from hitl_stream.core.triggers import ETHICAL_FLAG
from hitl_stream.core.validators import Verdicts

EXECUTE, REVIEW, ESCALATE = Outcome.EXECUTE, Outcome.REVIEW, Outcome.ESCALATE
NO_VERDICTS: Verdicts = {}
UNSCORED = Score(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
STEEP = 1e-6
"""From this ratio on, the error of a difference of two floats is below 1e-9 of it."""
RATIO_SAFE = 1e-6
"""Below it the difference of two large floats may have lost the digits that a cap is compared with."""
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
    action: Action,
    past: History,
    policy: Compiled,
    facts: Facts = NO_FACTS,
    verdicts: Verdicts = NO_VERDICTS,
    beside: Sequence[Reason] = (),
) -> Route:
    """Route one action that was admitted. Level 1 gets the route it would have had.

    `beside` are reasons that lie outside of the policy: kill switches, and what the action must wait behind.
    """
    cls = policy.classes.get(action.type) or policy.undefined
    reasons: list[Reason] = [] if cls.baseline is None else [cls.baseline]
    if not policy.agents.known[action.agent.id]:
        reasons.append(Reason("agent.unknown", action.agent.id, None, ESCALATE, cls.senior))

    changes, confidence = action.changes, action.confidence
    doubt = 1.0 - confidence if type(confidence) is float else _doubt(confidence)
    ratio = past.ratio if past.ratio >= 0.0 else -past.ratio
    money = 0.0
    if cls.sized:
        delta = past.delta
        # One leg that is clearly inside every limit, in floats, needs no closer look; anything else gets one.
        if (
            RATIO_SAFE < ratio < cls.limit_safe
            and 0.0 <= delta < cls.cap_safe
            and past.largest_sum < cls.sum_safe
            and (cls.cap is None or changes[0].unit == policy.currency)
        ):
            money = delta / cls.cap_float if cls.cap_float else 0.0
        else:
            money = _sized(action, past, policy, cls, reasons)
    # `not`, so that a confidence that is missing or out of range is looked at too.
    if cls.confidence is not None and not cls.doubt_min <= doubt <= cls.doubt_safe:
        _doubtful(confidence, cls, reasons)
    unusual = 0.0
    if past.z is not None:
        unusual = abs(past.z) / policy.unusual_over
        if abs(past.z) > policy.unusual_over:
            reasons.append(Reason("unusual", f"z {past.z:.1f}", f"{policy.unusual_over:g}", ESCALATE, cls.senior))
    if len(changes) > 1 or past.crowded:
        _legs(action, past, cls, reasons)
    if cls.needs_evidence and not action.evidence:
        reasons.append(Reason("missing.evidence", "absent", None, ESCALATE, cls.senior))
    if action.flags:
        _flags(action, policy, cls, reasons)
    if cls.needs:
        _needs(action, facts, cls, reasons)
    for trigger in cls.triggers:
        found = trigger(action, facts)
        if found is not None:
            reasons.append(found)
    for extra in cls.extras:
        several = extra(action, facts, verdicts)
        if several:
            reasons.extend(several)

    if beside:
        reasons.extend(beside)

    size = ratio / cls.limit_float if cls.limit_float else float(cls.limit is not None and ratio > 0.0)
    score = policy.scale.score(size, doubt, unusual, 0.0 if action.evidence else 1.0, money)
    if cls.banded and score.total >= policy.review_from:
        reasons.append(_banded(score, policy, cls))
    if not reasons:
        return Route(EXECUTE, (), (), score, cls)
    return _strictest(reasons, score, policy, cls)


def unrouted(cls: CompiledClass, reason: Reason) -> Route:
    """Return the route of an action that was not admitted: it was never scored."""
    return Route(reason.outcome, (reason,), (), UNSCORED, cls)


def _strictest(reasons: list[Reason], score: Score, policy: Compiled, cls: CompiledClass) -> Route:
    counting = [reason for reason in reasons if reason.counts]
    outcome = max((reason.outcome for reason in counting), default=EXECUTE)
    queues: dict[str, Approval] = {}
    if outcome < Outcome.HOLD:
        for queue in sorted({reason.queue for reason in counting if reason.queue is not None}):
            asked = policy.policy.queues[queue]
            queues[queue] = Approval(queue, 1 if asked.external else cls.people, asked.sla)
    return Route(outcome, tuple(reasons), tuple(queues.values()), score, cls)


def _sized(action: Action, past: History, policy: Compiled, cls: CompiledClass, reasons: list[Reason]) -> float:
    """Compare sizes with the class's limits; return the largest amount as a share of its cap."""
    changes, limit = action.changes, cls.limit
    if past.undefined is not None or not changes:
        saw = past.undefined or "no changes"
        reasons.append(Reason("magnitude.undefined", saw, None, ESCALATE, cls.senior))
    elif limit is not None:
        for change, leg in zip(changes, past.legs, strict=True):
            if exceeds(change, leg, limit, cls.limit_float):
                largest = max(zip(changes, past.legs, strict=True), key=lambda pair: abs(pair[1].ratio))
                saw = ratio_shown(*largest, limit)
                reasons.append(Reason("class.auto_max_change", saw, str(limit), REVIEW, cls.queue))
                break
    if past.totals and cls.sums:
        _running(past, cls, reasons)
    return 0.0 if cls.cap is None else _capped(action, past, policy, cls, reasons)


def _capped(action: Action, past: History, policy: Compiled, cls: CompiledClass, reasons: list[Reason]) -> float:
    """Compare each leg's amount with the cap, in the policy's currency; return the largest as a share of it."""
    source, cap = policy.policy, cls.cap
    assert cap is not None  # the caller looked
    largest = 0.0
    worst: tuple[Decimal, Decimal | None] | None = None
    for index, change in enumerate(action.changes):
        if past.undefined is None and change.unit == source.currency:
            leg = past.legs[index]
            share = abs(leg.delta) / cls.cap_float if cls.cap_float else 1.0
            # A small difference of large numbers is mostly the floats' own error.
            if share < 1.0 - NEAR and abs(leg.ratio) > STEEP:
                largest = max(largest, share)
                continue
        try:
            amount, rate = in_currency(amount_of(change), change.unit, source.currency, source.rates)
        except UndefinedError as error:
            reasons.append(Reason("amount.undefined", str(error), None, ESCALATE, cls.senior))
            continue
        largest = max(largest, float(amount / cap) if cap else float(bool(amount)))
        if amount > cap and (worst is None or amount > worst[0]):
            worst = amount, rate
    if worst is not None:
        amount, rate = worst
        used = str(rate) if rate is not None else None
        reasons.append(Reason("class.auto_max_amount", str(amount), str(cap), REVIEW, cls.queue, rate=used))
    return largest


def _doubt(confidence: Number | None) -> float:
    try:
        return 1.0 - as_float(confidence, "confidence")
    except UndefinedError:
        return 1.0


def _doubtful(confidence: Number | None, cls: CompiledClass, reasons: list[Reason]) -> None:
    """Compare a confidence with the class's least, in decimals."""
    least = cls.confidence
    assert least is not None  # the caller looked
    if confidence is None:
        reasons.append(Reason("missing.confidence", "absent", str(least), ESCALATE, cls.senior))
        return
    if isinstance(confidence, float) and float(least) + NEAR <= confidence <= 1.0:
        # 0.9999999998231234 has more digits than a JSON number keeps, and is confident enough all the same.
        return
    try:
        exact = as_decimal(confidence, "confidence")
        saw = str(confidence)
    except UndefinedError as error:
        exact, saw = Decimal(-1), str(error)
    if not 0 <= exact <= 1:
        reasons.append(Reason("confidence.undefined", saw, "0 to 1", ESCALATE, cls.senior))
    elif exact < least:
        reasons.append(Reason("class.auto_min_confidence", saw, f"at least {least}", REVIEW, cls.queue))


def _running(past: History, cls: CompiledClass, reasons: list[Reason]) -> None:
    worst: dict[int, tuple[float, float]] = {}
    for which, absolute, signed in past.totals:
        if which in cls.sums and absolute > cls.sums[which][0] + SUM_TOLERANCE:
            worst[which] = max(worst.get(which, (0.0, 0.0)), (absolute, signed))
    for which, (absolute, signed) in worst.items():
        limit, window = cls.sums[which]
        saw = f"{absolute:.4f} in {window}, net {signed:+.4f}"
        reasons.append(Reason("class.auto_max_change_per", saw, f"{limit:g}", REVIEW, cls.queue))


def _legs(action: Action, past: History, cls: CompiledClass, reasons: list[Reason]) -> None:
    accounts = accounts_of(action)
    if len(accounts) > 1:
        names = ", ".join(sorted(str(account) for account in accounts))
        reasons.append(Reason("legs.accounts", names, "one account", ESCALATE, cls.senior))
    uneven = unbalanced(action)
    if uneven is not None:
        reasons.append(Reason("move.unbalanced", uneven, "0", ESCALATE, cls.senior))
    if past.crowded:
        reasons.append(Reason("window.full", "no room for a running sum", None, ESCALATE, cls.senior))


def _flags(action: Action, policy: Compiled, cls: CompiledClass, reasons: list[Reason]) -> None:
    for flag in sorted(set(action.flags)):
        queue = policy.exceptions.get(flag, policy.policy.defaults.queue)
        rule = "ethical" if flag == ETHICAL_FLAG else f"flag.{flag}" if flag in policy.exceptions else "flag.unknown"
        reasons.append(Reason(rule, flag, None, ESCALATE, queue))


def _needs(action: Action, facts: Facts, cls: CompiledClass, reasons: list[Reason]) -> None:
    for path, read in cls.needs:
        try:
            if read(action, facts) is not ABSENT:
                continue
            saw = "absent"
        except FieldError as error:
            saw = str(error)
        reasons.append(Reason(f"missing.{path}", saw, None, ESCALATE, cls.senior))


def _banded(score: Score, policy: Compiled, cls: CompiledClass) -> Reason:
    if score.total >= policy.escalate_from:
        return Reason("band.escalate", f"{score.total:.2f}", f"{policy.escalate_from:g}", ESCALATE, cls.senior)
    return Reason("band.review", f"{score.total:.2f}", f"{policy.review_from:g}", REVIEW, cls.queue)


def recommends(route: Route) -> bool:
    """Say whether the action may only be recommended, whatever its route."""
    return route.cls.level is Level.RECOMMEND
