"""The digest of what was done without anybody: by class and agent, how often, how much money, which was the largest.

Money is in the policy's currency, at its rates. Of a move between two places, what one gives is what the other takes:
it counts once. What has no amount that can be compared counts as `unpriced`, never as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, DecimalException

from msgspec import Struct

from hitl_stream.core.action import Action
from hitl_stream.core.quantity import EXACT, UndefinedError, as_decimal, in_currency

_NONE = Decimal(0)


class Taken(Struct, frozen=True):
    """One action that was executed, approved by nobody. `money` None: it has no amount that can be compared.

    `audited`: it was drawn for a blind audit.
    """

    action: str
    cls: str
    level: int
    agent: str
    money: Decimal | None = None
    audited: bool = False


class DigestRow(Struct, frozen=True, kw_only=True):
    """What one agent did alone in one class. `largest` names the action that moved most; None: none moved money."""

    cls: str
    level: int
    agent: str
    count: int
    money: Decimal
    unpriced: int
    largest: str | None
    largest_money: Decimal | None
    audited: int

    @property
    def audit_share(self) -> float:
        """Return which share of them was drawn for audit."""
        return self.audited / self.count


def digest(taken: Iterable[Taken]) -> tuple[DigestRow, ...]:
    """Return a row for each class and agent, the most money first."""
    found: dict[tuple[str, int, str], DigestRow] = {}
    for one in taken:
        key = (one.cls, one.level, one.agent)
        row = found.get(key) or DigestRow(
            cls=one.cls, level=one.level, agent=one.agent, count=0, money=_NONE, unpriced=0, largest=None,
            largest_money=None, audited=0,
        )  # fmt: skip
        found[key] = _with(row, one)
    return tuple(sorted(found.values(), key=lambda row: (-row.money, -row.count, row.cls, row.agent, row.level)))


def moved(action: Action, currency: str, rates: Mapping[str, Decimal]) -> Decimal | None:
    """Return how much money an action moves, in the policy's currency; None where that cannot be said.

    Raises and cuts are summed apart, and the larger sum counts.
    """
    ups = downs = _NONE
    for change in action.changes:
        try:
            delta = EXACT.subtract(as_decimal(change.after, "after"), as_decimal(change.before, "before"))
            amount, _ = in_currency(delta, change.unit, currency, rates)
            ups, downs = EXACT.add(ups, max(amount, _NONE)), EXACT.add(downs, max(-amount, _NONE))
        except (UndefinedError, DecimalException):
            return None
    return max(ups, downs) if action.changes else None


def _with(row: DigestRow, one: Taken) -> DigestRow:
    """Return a row with one action more."""
    largest, most = row.largest, row.largest_money
    if one.money is not None and (most is None or one.money > most):
        largest, most = one.action, one.money
    return DigestRow(
        cls=row.cls,
        level=row.level,
        agent=row.agent,
        count=row.count + 1,
        money=row.money if one.money is None else EXACT.add(row.money, one.money),
        unpriced=row.unpriced + (one.money is None),
        largest=largest,
        largest_money=most,
        audited=row.audited + one.audited,
    )
