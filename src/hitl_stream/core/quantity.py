"""Sizes and money, exactly: decimals under a context that raises where it would have to round."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Clamped, Context, Decimal, DecimalException, DivisionByZero, Inexact, InvalidOperation, Overflow

from msgspec import Struct

from hitl_stream.core.action import Action, Change

EXACT = Context(prec=60, Emin=-400, Emax=400, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow, Clamped])
"""Sixty digits hold every sum and product of two numbers of eighteen; beyond them a size is undefined, not rounded."""
NEAR = 1e-9
"""Floats decide only while they are further than this share from a limit; their own error is below 1e-14 there."""


class UndefinedError(ValueError):
    """A number that cannot be compared, and why."""


class Leg(Struct, frozen=True, gc=False):
    """One change, measured in floats: `delta` in its own unit, `ratio` relative to |before|, both signed."""

    delta: float
    ratio: float


def measure(change: Change) -> Leg:
    """Measure one change; raise `UndefinedError` where it has no relative size."""
    before, after = change.before, change.after
    if before is None or after is None:
        raise UndefinedError("before is missing" if before is None else "after is missing")
    base = float(before)
    delta = float(after) - base
    if base == 0.0:
        raise UndefinedError("before is zero")
    return Leg(delta, delta / base if base > 0.0 else -delta / base)


def exceeds(change: Change, leg: Leg, limit: Decimal, limit_float: float) -> bool:
    """Say whether |after − before| > limit × |before|; exactly at the limit is not over it.

    Decided in decimals as they were written; in floats only where these are far from the limit.
    """
    distance = abs(leg.ratio) - limit_float
    if abs(distance) > NEAR * limit_float + NEAR:
        return distance > 0
    assert change.before is not None  # `measure` has seen both
    assert change.after is not None
    try:
        delta = EXACT.abs(EXACT.subtract(change.after, change.before))
        return delta > EXACT.multiply(limit, EXACT.abs(change.before))
    except DecimalException:
        # Too long or too far apart to compare exactly, and close to the limit: over it.
        return True


def amount_of(change: Change) -> Decimal:
    """Return |after − before| exactly, in the change's own unit."""
    if change.before is None or change.after is None:
        raise UndefinedError("before is missing" if change.before is None else "after is missing")
    try:
        return EXACT.abs(EXACT.subtract(change.after, change.before))
    except DecimalException:
        raise UndefinedError(f"{change.field}: {change.before} → {change.after} is too long to subtract") from None


def ratio_shown(change: Change, limit: Decimal) -> str:
    """Write a change's relative size, never so short that it looks equal to the limit."""
    assert change.before is not None
    return shown(amount_of(change) / abs(change.before), limit)


def in_currency(
    amount: Decimal, unit: str | None, currency: str, rates: Mapping[str, Decimal]
) -> tuple[Decimal, Decimal | None]:
    """Return `amount` in the policy's currency and the rate used (None: it was that currency already)."""
    if unit == currency:
        return amount, None
    rate = rates.get(unit) if unit is not None else None
    if rate is None:
        raise UndefinedError(f"no rate from {unit} to {currency}" if unit else "the amount has no currency")
    try:
        return EXACT.multiply(amount, rate), rate
    except DecimalException:
        raise UndefinedError(f"{amount} {unit} is too long to convert") from None


def unbalanced(action: Action) -> str | None:
    """Name the budget field whose legs move money without adding up to zero, or None.

    A move takes from one place what it gives to another: legs of one budget field that go both ways must sum to zero
    in each unit.
    """
    sums: dict[tuple[str, str | None], list[Decimal]] = {}
    for change in action.changes:
        if change.field.endswith("budget") and change.before is not None and change.after is not None:
            sums.setdefault((change.field, change.unit), []).append(change.after - change.before)
    for (field, unit), deltas in sums.items():
        ways = any(delta > 0 for delta in deltas) and any(delta < 0 for delta in deltas)
        total = sum(deltas, Decimal(0))
        if ways and total:
            return f"{field} legs sum to {total} {unit or ''}".rstrip()
    return None


def shown(value: Decimal, limit: Decimal | None = None) -> str:
    """Write a number short, but never so short that it looks equal to the limit it is compared with."""
    for digits in (2, 4, 8):
        text = f"{value:.{digits}f}"
        if (limit is None or Decimal(text) != limit or value == limit) and (Decimal(text) or not value):
            return text
    return str(value)
