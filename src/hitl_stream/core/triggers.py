"""The built-in triggers: always on, each escalates at any level and any confidence, each with its own reason code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, DecimalException
from functools import lru_cache

from hitl_stream.core.action import Action, Change, Evidence
from hitl_stream.core.commands import Pin
from hitl_stream.core.events import Outcome
from hitl_stream.core.fields import ABSENT, Facts, FieldError, reader
from hitl_stream.core.policy.model import TEXT_LENGTH_MAX, Policy
from hitl_stream.core.quantity import EXACT, UndefinedError, as_decimal, as_float, in_currency
from hitl_stream.core.reasons import Reason
from hitl_stream.core.switches import ByScope, Target, common_of, folded, part_of
from hitl_stream.core.validators import Verdicts

Trigger = Callable[[Action, Facts], Reason | None]
Triggers = Callable[[Action, Facts, Verdicts], Sequence[Reason]]
"""Several in one: each that fires is a reason."""

ETHICAL_FLAG = "ethical"
PINS_SHOWN_MAX = 20
"""Pins that an explanation lists: with more, a record could become too large for its topic."""
VALUE_SHOWN_MAX = 60


def budget_overrun(policy: Policy, needed: bool, queue: str) -> Trigger | None:
    """Build the trigger for spend + this change over the budget.

    Budget and spend are read from `facts.` where the policy declares them there (the platform's word), else from
    `context.` (the agent's). Where one is unknown it fires too, if the class needs it.
    """
    paths = [_declared(policy, name) for name in ("budget", "spend")]
    if None in paths:
        return (lambda action, facts: _overrun("unknown", "a budget and the spend", queue)) if needed else None
    read_budget, read_spend = (reader(path, policy) for path in paths if path is not None)

    def trigger(action: Action, facts: Facts) -> Reason | None:
        try:
            budget, spend = read_budget(action, facts), read_spend(action, facts)
            if budget is ABSENT or spend is ABSENT:
                return _overrun("unknown", "a budget and the spend", queue) if needed else None
            total = EXACT.add(spend[0], _increase(action, policy))
        except (FieldError, UndefinedError, DecimalException) as error:
            saw = str(error) if isinstance(error, ValueError) else "too long to add up exactly"
            return _overrun(saw, "a known amount", queue)
        rate = budget[1] or spend[1]
        return _overrun(str(total), str(budget[0]), queue, rate) if total > budget[0] else None

    return trigger


def _declared(policy: Policy, name: str) -> str | None:
    return next((path for path in (f"facts.{name}", f"context.{name}") if path in policy.fields), None)


def _increase(action: Action, policy: Policy) -> Decimal:
    total = Decimal(0)
    for change in action.changes:
        delta = EXACT.subtract(as_decimal(change.after, "after"), as_decimal(change.before, "before"))
        if delta > 0:
            total = EXACT.add(total, in_currency(delta, change.unit, policy.currency, policy.rates)[0])
    return total


def _overrun(saw: str, limit: str, queue: str, rate: Decimal | None = None) -> Reason:
    shown = str(rate) if rate is not None else None
    return Reason("budget_overrun", saw, limit, Outcome.ESCALATE, queue, rate=shown)


def denied_terms(policy: Policy, queue: str) -> Trigger | None:
    """Build the trigger for an ethical concern: a denied term in what would be published or in the agent's reasons."""
    terms = policy.ethical.terms
    if not terms:
        return None
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(term)}(?!\w)" for term in terms), re.IGNORECASE)

    def trigger(action: Action, facts: Facts) -> Reason | None:
        for text in (action.content.text if action.content else None, action.rationale):
            hit = pattern.search(text[:TEXT_LENGTH_MAX]) if text else None
            if hit is not None:
                return Reason("ethical", hit[0], "a denied term", Outcome.ESCALATE, queue)
        return None

    return trigger


def wrong_signal(goal: str, queue: str) -> Trigger:
    """Build the trigger for optimising the wrong signal.

    It fires where the class's goal is not in the evidence, or got worse while the other signals cited got better.
    """

    def trigger(action: Action, facts: Facts) -> Reason | None:
        cited = [evidence for evidence in action.evidence if evidence.signal == goal]
        if not cited:
            signals = ", ".join(sorted({evidence.signal for evidence in action.evidence})) or "no evidence"
            return Reason("wrong_signal", signals, goal, Outcome.ESCALATE, queue)
        others = [_progress(evidence) for evidence in action.evidence if evidence.signal != goal]
        worse = any(_progress(evidence) < 0 for evidence in cited)
        if worse and others and all(progress > 0 for progress in others):
            return Reason("wrong_signal", f"{goal} got worse", "what the others gained", Outcome.ESCALATE, queue)
        return None

    return trigger


def _progress(evidence: Evidence) -> int:
    """Say whether a signal got better (1), worse (−1), or cannot be told (0)."""
    if evidence.better not in ("up", "down"):
        return 0
    try:
        value, before = as_float(evidence.value, "value"), as_float(evidence.before, "before")
    except UndefinedError:
        return 0
    moved = (value > before) - (value < before)
    return moved if evidence.better == "up" else -moved


PinBook = Mapping[str, ByScope[Pin]]
"""Pins by the field that they are about, then by scope."""


def pin_book(pins: Mapping[int, Pin]) -> PinBook:
    """Return pins as they are looked up; they come by epoch."""
    book: dict[str, ByScope[Pin]] = {}
    for epoch, pin in sorted(pins.items()):
        book.setdefault(folded(pin.field), ByScope()).put(epoch, pin.scope, pin)
    return book


def contradicts(book: PinBook, queue: str) -> Triggers:
    """Build the trigger for contradicting a person's signed strategy decision.

    A change contradicts a pin on its field whose scope covers it, if it goes the other way than `direction`, sets a
    value outside of `range`, is in another unit than `unit`, or cannot be compared.
    """

    def trigger(action: Action, facts: Facts, verdicts: Verdicts) -> Sequence[Reason]:
        found: dict[int, Reason] = {}
        for change in action.changes:
            about = book.get(_folded_field(change.field))
            if about is None:
                continue
            target = Target(common_of(action, action.tenant), (part_of(change.entity),))
            for epoch, pin in about.covering(target):
                limit = _broken(pin, change) if epoch not in found else None
                if limit is not None:
                    found[epoch] = Reason("pin", _saw(change), f"{limit} (control/{epoch})", Outcome.ESCALATE, queue)
        return [found[epoch] for epoch in sorted(found)[:PINS_SHOWN_MAX]]

    return trigger


_folded_field = lru_cache(maxsize=4_096)(folded)


def _broken(pin: Pin, change: Change) -> str | None:
    """Say what a pin demands that a change does not keep, or None."""
    if pin.unit is not None and change.unit != pin.unit:
        return f"in {pin.unit}"
    if pin.direction is not None and not _goes(change, pin.direction):
        return f"only {pin.direction}"
    low, high = pin.range or (None, None)
    if not _lies_within(change, low, high):
        return f"{low or '-∞'} to {high or '∞'}"
    return None


def _goes(change: Change, direction: str) -> bool:
    """Say whether a change goes in a direction, or stays where it is."""
    try:
        before, after = as_decimal(change.before, "before"), as_decimal(change.after, "after")
    except UndefinedError:
        return False
    return after <= before if direction == "down" else after >= before


def _lies_within(change: Change, low: str | None, high: str | None) -> bool:
    if low is None and high is None:
        return True
    try:
        after = as_decimal(change.after, "after")
        return (low is None or after >= as_decimal(low, "low")) and (high is None or after <= as_decimal(high, "high"))
    except UndefinedError:
        return False


def _saw(change: Change) -> str:
    before, after = (f"{value!s:.{VALUE_SHOWN_MAX}}" for value in (change.before, change.after))
    return f"{change.field} {before} → {after}"
