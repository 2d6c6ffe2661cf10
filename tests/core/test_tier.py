"""How much care an item takes to approve."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.tier import tier_of
from support.make import change, make_action, make_policy

POLICY = make_policy(
    classes={
        "bid.adjust": {"tier": None},
        "strategy.change": {"tier": 2},
        "account.close": {"level": 2, "consequence": ["irreversible"], "queue": "manager"},
    }
)


@pytest.mark.parametrize(
    ("parts", "tier"),
    [
        ({}, 1),
        ({"type": "strategy.change"}, 2),
        ({"type": "account.close"}, 3),
        ({"type": "nobody.knows"}, 3),
        ({"changes": [change("0.00", "10000.00")]}, 1),
        ({"changes": [change("0.00", "10000.01")]}, 3),
        ({"changes": [change("10000.01", "0.00")]}, 3),
        ({"changes": [change("1.00", "1.10"), change("5.00", "20000.00")]}, 3),
        ({"changes": [change(None, "10000.01")]}, 3),
        ({"changes": [change("0.00", "10869.56", unit="USD")]}, 1),
        ({"changes": [change("0.00", "10869.57", unit="USD")]}, 3),
        ({"changes": [change("1.00", "1.10", unit="JPY")]}, 3),
        ({"changes": [change("much", "more")]}, 3),
        ({"changes": [change("1.00", "99999.00", unit=None)]}, 1),
        ({"changes": [change("10", "90000", unit="clicks")]}, 1),
        ({"type": "strategy.change", "changes": [change("0.00", "10000.01")]}, 3),
    ],
)
def test_the_tier_is_the_classs_or_the_highest_where_more_is_at_stake(parts: dict[str, Any], tier: int):
    assert tier_of(make_action(**parts), POLICY) == tier


def test_without_an_amount_in_the_policy_money_alone_raises_nothing():
    policy = make_policy(defaults={"tier3_amount": None})
    assert tier_of(make_action(changes=[change("0.00", "90000000")]), policy) == 1
