"""Sizes and money, exactly: decimals under a context that raises where it would have to round."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Clamped, Context, Decimal, DecimalException, DivisionByZero, Inexact, InvalidOperation, Overflow
from functools import reduce

from msgspec import Struct

from hitl_stream.core.action import NUMBER, Action, Change, Value

EXACT = Context(prec=60, Emin=-400, Emax=400, traps=[Inexact, InvalidOperation, DivisionByZero, Overflow, Clamped])
"""Sixty digits hold every sum and product of two numbers of eighteen; beyond them a size is undefined, not rounded."""
NEAR = 1e-9
"""Floats decide only while they are further than this share from a limit; their own error is below 1e-14 there."""
RATIO_MAX = 1e12
"""A change by a trillion times is a slip, not a size; sums and medians of anything larger would end in infinity."""
FLOAT_DIGITS_MAX = 15
"""A JSON number of so many digits is exactly the decimal that was written; a longer one may be any of several."""


_is_number = NUMBER.match


class UndefinedError(ValueError):
    """A number that cannot be compared, and why."""


class Leg(Struct, frozen=True, gc=False):
    """One change, measured in floats: `delta` in its own unit, `ratio` relative to |before|, both signed."""

    delta: float
    ratio: float


def measure(change: Change) -> Leg:
    """Measure one change; raise `UndefinedError` where it has no relative size."""
    before, after = change.before, change.after
    if type(before) is type(after) is str and _is_number(before) and _is_number(after):
        # Two good texts, as nearly every change has; `as_float` would say the same, at the price of two calls.
        base = float(before)
        delta = float(after) - base
    else:
        base = as_float(before, "before")
        delta = as_float(after, "after") - base
    if base == 0.0:
        raise UndefinedError("before is zero")
    ratio = delta / (base if base > 0.0 else -base)
    if not -RATIO_MAX < ratio < RATIO_MAX:
        raise UndefinedError(f"{change.before} → {change.after} is out of range")
    return Leg(delta, ratio)


def as_float(value: Value | None, what: str) -> float:
    """Read a number as the nearest float."""
    if isinstance(value, str):
        if _is_number(value) is not None:
            return float(value)
    elif isinstance(value, float):
        return value
    raise UndefinedError(f"{what} is missing" if value is None else f"{what} {value!r:.100} is not a number")


def as_decimal(value: Value | None, what: str) -> Decimal:
    """Read a number exactly as it was written; raise where that can no longer be told."""
    if isinstance(value, float):
        number = Decimal(repr(value))
        if not number.is_finite() or len(number.as_tuple().digits) > FLOAT_DIGITS_MAX:
            raise UndefinedError(f"{what} {value!r} has more digits than a JSON number keeps; write it as a string")
        return number
    if isinstance(value, str) and NUMBER.match(value) is not None:
        return Decimal(value)
    raise UndefinedError(f"{what} is missing" if value is None else f"{what} {value!r:.100} is not a number")


def exceeds(change: Change, leg: Leg, limit: Decimal, limit_float: float) -> bool:
    """Say whether |after − before| > limit × |before|; exactly at the limit is not over it.

    Decided in decimals as they were written; in floats only where these are far from the limit.
    """
    distance = abs(leg.ratio) - limit_float
    if abs(distance) > NEAR * limit_float + NEAR:
        return distance > 0
    try:
        before = as_decimal(change.before, "before")
        delta = EXACT.abs(EXACT.subtract(as_decimal(change.after, "after"), before))
        return delta > EXACT.multiply(limit, EXACT.abs(before))
    except (DecimalException, UndefinedError):
        # Too long or too far apart to compare exactly, and close to the limit: over it.
        return True


def amount_of(change: Change) -> Decimal:
    """Return |after − before| exactly, in the change's own unit."""
    before, after = as_decimal(change.before, "before"), as_decimal(change.after, "after")
    try:
        return EXACT.abs(EXACT.subtract(after, before))
    except DecimalException:
        raise UndefinedError(f"{change.field}: {before} → {after} is too long to subtract") from None


def ratio_shown(change: Change, leg: Leg, limit: Decimal) -> str:
    """Write a change's relative size, never so short that it looks equal to the limit."""
    try:
        return shown(amount_of(change) / abs(as_decimal(change.before, "before")), limit)
    except UndefinedError:
        return repr(abs(leg.ratio))


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
        if change.field.endswith("budget"):
            try:
                delta = EXACT.subtract(as_decimal(change.after, "after"), as_decimal(change.before, "before"))
            except (UndefinedError, DecimalException) as error:
                return f"{change.field}: {error}" if isinstance(error, UndefinedError) else f"{change.field}: too long"
            sums.setdefault((change.field, change.unit), []).append(delta)
    for (field, unit), deltas in sums.items():
        if not (any(delta > 0 for delta in deltas) and any(delta < 0 for delta in deltas)):
            continue
        try:
            total = reduce(EXACT.add, deltas)
        except DecimalException:
            return f"{field} legs are too long to sum"
        if total:
            return f"{field} legs sum to {total} {unit or ''}".rstrip()
    return None


def shown(value: Decimal, limit: Decimal | None = None) -> str:
    """Write a number short, but never so short that it looks equal to the limit it is compared with."""
    for digits in (2, 4, 8):
        text = f"{value:.{digits}f}"
        if (limit is None or Decimal(text) != limit or value == limit) and (Decimal(text) or not value):
            return text
    return str(value)
