"""Sizes and money, exactly: decimals under a context that raises where it would have to round."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Clamped, Context, Decimal, DecimalException, DivisionByZero, Inexact, InvalidOperation, Overflow

from msgspec import Struct

from hitl_stream.core.action import Action, Change

EXACT = Context(prec=60, Emin=-400, Emax=400, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow, Clamped])
"""Sixty digits hold every sum and product of two numbers of eighteen; beyond them a size is undefined, not rounded."""
ROUNDED = Context(prec=28)
"""For ratios that are shown, scored or added up, never for the comparison that decides."""


class UndefinedError(ValueError):
    """A number that cannot be compared, and why."""


class Leg(Struct, frozen=True, gc=False):
    """One change, measured: `delta` in its own unit, `ratio` signed and relative to `before`."""

    delta: Decimal
    base: Decimal
    ratio: float


def measure(change: Change) -> Leg:
    """Measure one change; raise `UndefinedError` where it has no relative size."""
    before, after = change.before, change.after
    if before is None or after is None:
        raise UndefinedError("before is missing" if before is None else "after is missing")
    try:
        delta = EXACT.subtract(after, before)
        base = EXACT.abs(before)
        if not base:
            raise UndefinedError("before is zero")
        return Leg(delta, base, float(ROUNDED.divide(delta, base)))
    except DecimalException:
        raise UndefinedError(f"{change.field}: {before} → {after} is too long or too far apart to compare") from None


def exceeds(leg: Leg, limit: Decimal) -> bool:
    """Say whether the change is over `limit` × |before|; exactly at the limit is not over it."""
    try:
        return EXACT.abs(leg.delta) > EXACT.multiply(limit, leg.base)
    except DecimalException:
        return True


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
