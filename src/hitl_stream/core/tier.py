"""How much care an item takes to approve: nothing of the highest tier by one key, or faster than it can be read.

A class names its tier. It is the highest where the action cannot be undone, where nobody has said what class it is, and
where more money moves than `defaults.tier3_amount`; an amount that cannot be compared counts as more.
"""

from __future__ import annotations

import re

from hitl_stream.core.action import Action, Change
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.quantity import UndefinedError, amount_of, as_decimal, in_currency
from hitl_stream.core.review import TIER_MAX

CURRENCY = re.compile("[A-Z]{3}")


def tier_of(action: Action, policy: Policy) -> int:
    """Return the tier of an action, from 1 to `TIER_MAX`."""
    spec = policy.classes.get(action.type)
    if spec is None or "irreversible" in spec.consequence:
        return TIER_MAX
    if any(_is_large(change, policy) for change in action.changes):
        return TIER_MAX
    return spec.tier or 1


def _is_large(change: Change, policy: Policy) -> bool:
    """Say whether a leg moves more money than the policy's amount, or money that cannot be compared with it."""
    limit = policy.defaults.tier3_amount
    if limit is None or change.unit is None or CURRENCY.fullmatch(change.unit) is None:
        return False
    ((currency, most),) = limit.items()
    try:
        # Where nothing stood before, all of it is new.
        amount = abs(as_decimal(change.after, "after")) if change.before is None else amount_of(change)
        return (
            in_currency(amount, change.unit, policy.currency, policy.rates)[0]
            > in_currency(most, currency, policy.currency, policy.rates)[0]
        )
    except UndefinedError:
        return True
