"""Boundaries are exact: decided in decimals as they were written, whatever floats make of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from hitl_stream.core.action import Change, Entity
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.quantity import UndefinedError, exceeds, in_currency, measure, shown, unbalanced
from support.make import change, decide, make_action, make_policy, rules

RATES = {"USD": Decimal("0.92"), "GBP": Decimal("1.17")}
DECIMALS = st.decimals(min_value=Decimal("-1e12"), max_value=Decimal("1e12"), places=6).map(lambda d: f"{d:f}")
LIMITS = st.decimals(min_value=0, max_value=10, places=3)


def leg(before: Any, after: Any) -> Change:
    """Return one leg as the decoder reads it."""
    (found,) = make_action(changes=[change(before, after)]).changes
    return found


def over(before: Any, after: Any, limit: str) -> bool:
    found = leg(before, after)
    return exceeds(found, measure(found), Decimal(limit), float(limit))


@pytest.mark.behaviour("B3")
@pytest.mark.parametrize(
    ("before", "after", "limit", "is_over"),
    [
        ("1.20", "1.32", "0.10", False),
        ("1.20", "1.321", "0.10", True),
        ("1.20", "1.08", "0.10", False),
        ("1.20", "1.079", "0.10", True),
        ("100", "110", "0.10", False),
        ("100", "110.000000000000001", "0.10", True),
        ("100", "109.999999999999999", "0.10", False),
        (1.20, 1.32, "0.10", False),
        (1.20, 1.321, "0.10", True),
        ("1.00", "1.20", "0.20", False),
        ("1.00", "1.21", "0.20", True),
        ("0.1", "0.3", "2", False),
        ("0.1", "0.30000000000000001", "2", True),
        ("-10", "-11", "0.10", False),
        ("-10", "-11.01", "0.10", True),
        ("-10", "10", "2", False),
        ("3", "3", "0", False),
        ("3", "3.000000000000000001", "0", True),
        ("3", "0", "1", False),
        ("3", "-0.0001", "1", True),
        (100, 110, "0.10", False),
        (100, 111, "0.10", True),
        ("100.00", 1.1e2, "0.10", False),
    ],
)
def test_exactly_at_the_limit_is_not_over_it(before: Any, after: Any, limit: str, is_over: bool) -> None:
    assert over(before, after, limit) is is_over


@given(DECIMALS, DECIMALS, LIMITS)
@example("1.20", "1.32", Decimal("0.1"))
def test_a_limit_is_exceeded_as_decimal_arithmetic_says(before: str, after: str, limit: Decimal) -> None:
    exact = Decimal(before)
    assume(abs(Decimal(after) - exact) < abs(exact) * 10**11)
    assert over(before, after, str(limit)) is (abs(Decimal(after) - exact) > limit * abs(exact))


@given(DECIMALS, st.integers(0, 4_000), st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 1]))
def test_one_unit_in_the_last_place_beside_the_limit_decides(
    before: str, thousandths: int, unit: int, way: int
) -> None:
    exact, limit = Decimal(before), Decimal(thousandths) / 1000
    assume(exact)
    step = limit * abs(exact) + unit * Decimal("1e-9")
    after = exact + way * step
    assume(step >= 0)
    assert over(before, f"{after:f}", str(limit)) is (unit > 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "1"),
        ("1", None),
        (None, None),
        ("0", "1"),
        ("0.00", "1"),
        ("-0", "1"),
        (0, 1),
        ("NaN", "1"),
        ("1", "Infinity"),
        ("1", "-Infinity"),
        ("a headline", "another"),
        (True, False),
        ("1_0", "11"),
        (" 1", "1"),
        ("9" * 60_00, "1"),
        ("1", "0." + "1" * 3_000),
        (5e-324, 1e308),
        ("1e-99", "999999999999999999e99"),
        (1e-300, 1e200),
    ],
)
def test_what_has_no_sane_relative_size_is_undefined(before: Any, after: Any) -> None:
    with pytest.raises(UndefinedError):
        measure(leg(before, after))


@pytest.mark.parametrize(
    ("before", "after", "ratio"),
    [("100", "128", 0.28), ("100", "72", -0.28), ("-100", "-72", 0.28), ("1", "1", 0.0), ("1e-99", "2e-99", 1.0)],
)
def test_a_ratio_is_signed_and_relative_to_the_size_of_before(before: str, after: str, ratio: float) -> None:
    assert measure(leg(before, after)).ratio == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("amount", "unit", "converted", "rate"),
    [
        ("10000", "EUR", "10000", None),
        ("10000", "USD", "9200.00", "0.92"),
        ("0.01", "GBP", "0.0117", "1.17"),
        ("-5", "USD", "-4.60", "0.92"),
    ],
)
def test_money_is_converted_at_the_recorded_rate(amount: str, unit: str, converted: str, rate: str | None) -> None:
    found = in_currency(Decimal(amount), unit, "EUR", RATES)
    assert found == (Decimal(converted), Decimal(rate) if rate else None)


@pytest.mark.parametrize(
    ("amount", "unit"), [("1", "CHF"), ("1", None), ("1", ""), ("1", "eur"), ("1." + "3" * 58 + "1", "USD")]
)
def test_money_that_cannot_be_converted_exactly_is_undefined(amount: str, unit: str | None) -> None:
    with pytest.raises(UndefinedError):
        in_currency(Decimal(amount), unit, "EUR", RATES)


def legs(*sides: tuple[Any, Any], field: str = "daily_budget", units: str = "EUR") -> str | None:
    changes = [
        change(before, after, field=field, unit=unit, campaign=f"c{index}")
        for index, ((before, after), unit) in enumerate(zip(sides, (units,) * len(sides), strict=True))
    ]
    return unbalanced(make_action(changes=changes))


@pytest.mark.parametrize(
    "sides",
    [
        [("100.00", "72.00"), ("50.00", "78.00")],
        [("0.1", "0.4"), ("0.4", "0.1")],
        [("1", "1.1"), ("1", "1.2"), ("1", "0.7")],
        [("10", "11"), ("10", "12")],
        [("999999999999999999.000000000000000001", "1"), ("1", "999999999999999999.000000000000000001")],
    ],
)
def test_a_move_that_sums_to_zero_and_changes_that_all_go_one_way_balance(sides: list[tuple[str, str]]) -> None:
    assert legs(*sides) is None


@pytest.mark.parametrize(
    "sides",
    [
        [("100.00", "72.00"), ("50.00", "78.01")],
        [("0.1", "0.4"), ("0.4", "0.10000000000000001")],
        [("999999999999999999.000000000000000001", "1"), ("1", "999999999999999999.000000000000000002")],
    ],
)
def test_a_move_whose_legs_do_not_sum_to_zero_is_named(sides: list[tuple[str, str]]) -> None:
    found = legs(*sides)
    assert found is not None
    assert found.startswith("daily_budget")


def test_only_budgets_are_moves() -> None:
    assert legs(("1", "2"), ("5", "1"), field="bid") is None


def test_each_unit_balances_by_itself() -> None:
    changes = [change("2", "1", field="budget"), change("1", "2", field="budget", unit="USD", campaign="c2")]
    assert unbalanced(make_action(changes=changes)) is None


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        ("0.28", "0.10", "0.28"),
        ("0.1008", "0.10", "0.1008"),
        ("0.100000000000001", "0.10", "0.100000000000001"),
        ("0.10", "0.10", "0.10"),
        ("0.000001", None, "0.00000100"),
        ("0", "0.1", "0.00"),
        ("12.345", None, "12.35"),
    ],
)
def test_a_number_is_shown_short_but_never_so_short_that_it_looks_like_its_limit(
    value: str, limit: str | None, text: str
) -> None:
    assert shown(Decimal(value), Decimal(limit) if limit else None) in (text, text.replace("12.35", "12.34"))


# --- the cap in money, through the router's own function -------------------------------------------------------------


CAPPED: Policy = make_policy(classes={"bid.adjust": {"auto_max_change": "1000000", "auto_max_change_per": {}}})


@pytest.mark.parametrize(
    ("before", "after", "unit", "is_over"),
    [
        ("10.00", "15.00", "EUR", False),
        ("10.00", "15.01", "EUR", True),
        ("10.00", "5.00", "EUR", False),
        ("10.00", "4.99", "EUR", True),
        ("10.00", "15.43", "USD", False),
        ("10.00", "15.44", "USD", True),
        ("100000000000000000", "100000000000000006", "EUR", True),
        ("100000000000000000", "100000000000000005", "EUR", False),
        ("123456789012.345678", "123456789017.345678", "EUR", False),
        ("123456789012.345678", "123456789017.345679", "EUR", True),
    ],
)
def test_the_cap_counts_the_amount_itself(before: str, after: str, unit: str, is_over: bool) -> None:
    found = rules(decide(make_action(changes=[change(before, after, unit=unit)]), CAPPED))
    assert ("class.auto_max_amount" in found) is is_over


@given(DECIMALS, st.decimals(-10, 10, places=6))
def test_the_cap_is_exceeded_as_decimal_arithmetic_says(before: str, delta: Decimal) -> None:
    assume(Decimal(before))
    after = f"{Decimal(before) + delta:f}"
    found = rules(decide(make_action(changes=[change(before, after)]), CAPPED))
    assert ("class.auto_max_amount" in found) is (abs(delta) > 5)


def test_an_amount_in_an_unknown_currency_escalates() -> None:
    found = decide(make_action(changes=[change(unit="CHF")]))
    assert "amount.undefined" in rules(found)


def test_a_leg_says_how_far_it_goes_in_its_own_unit() -> None:
    assert measure(Change(Entity("a"), "f", "10", "12.5")).delta == pytest.approx(2.5)
