"""What ran alone is counted once, in one currency, and what has no amount is never counted as nothing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.digest import Taken, digest, moved
from support.make import change, make_action

RATES = {"USD": Decimal("0.92")}


def leg(before: str, after: str, **parts: Any) -> dict[str, Any]:
    return change(before, after, field="daily_budget", **parts)


@pytest.mark.parametrize(
    ("what", "legs", "money"),
    [
        ("a raise", [leg("100", "130")], "30"),
        ("a cut", [leg("100", "72")], "28"),
        ("a move counts once", [leg("100.00", "72.00"), leg("50.00", "78.00", campaign="cmp-311")], "28.00"),
        ("two raises add up", [leg("100", "130"), leg("50", "60", campaign="cmp-311")], "40"),
        ("another currency is converted", [leg("100", "200", unit="USD")], "92.00"),
        ("a currency without a rate", [leg("100", "200", unit="CHF")], None),
        ("a text", [change("old", "new", unit=None)], None),
        ("nothing", [], None),
    ],
)
def test_how_much_money_an_action_moves(what: str, legs: list[dict[str, Any]], money: str | None):
    found = moved(make_action(changes=legs), "EUR", RATES)
    assert found == (None if money is None else Decimal(money)), what


@pytest.mark.behaviour("A3")
def test_what_was_done_alone_is_summed_by_class_and_agent_with_its_largest():
    rows = digest([
        Taken("acme/1", "bid.adjust", 3, "bidder-7", Decimal("0.10"), audited=True),
        Taken("acme/2", "bid.adjust", 3, "bidder-7", Decimal("0.30")),
        Taken("acme/3", "bid.adjust", 3, "bidder-9", Decimal("5.00")),
        Taken("acme/4", "draft.internal", 4, "copy-2"),
    ])  # fmt: skip
    assert [(row.cls, row.agent, row.count, row.money) for row in rows] == [
        ("bid.adjust", "bidder-9", 1, Decimal("5.00")),
        ("bid.adjust", "bidder-7", 2, Decimal("0.40")),
        ("draft.internal", "copy-2", 1, Decimal(0)),
    ]
    assert (rows[1].largest, rows[1].largest_money, rows[1].audit_share) == ("acme/2", Decimal("0.30"), 0.5)
    assert (rows[2].unpriced, rows[2].largest, rows[2].largest_money) == (1, None, None)


TAKEN = st.builds(
    Taken,
    st.text("ab", min_size=1, max_size=3),
    st.sampled_from(["bid", "post"]),
    st.sampled_from([3, 4]),
    st.sampled_from(["x", "y"]),
    st.none() | st.decimals(0, 1000, places=2),
    st.booleans(),
)


@given(st.lists(TAKEN, max_size=40))
def test_no_action_is_lost_or_counted_twice_in_whatever_order(taken: list[Taken]):
    rows = digest(taken)
    assert sum(row.count for row in rows) == len(taken)
    assert sum(row.money for row in rows) == sum(one.money or 0 for one in taken)
    assert sum(row.audited for row in rows) == sum(one.audited for one in taken)
    assert sum(row.unpriced for row in rows) == sum(one.money is None for one in taken)
    again = {(row.cls, row.level, row.agent): (row.count, row.money) for row in digest(taken[::-1])}
    assert again == {(row.cls, row.level, row.agent): (row.count, row.money) for row in rows}
