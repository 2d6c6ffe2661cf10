"""Waiting, handling and age, by queue and class."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.waiting import Judged, Open, Spread, quantile, waiting

NOW = 1_000_000


@pytest.mark.behaviour("E11")
def test_wait_handling_age_and_money_are_those_of_the_queue_and_class():
    judged = [Judged("trading", "bid", wait, wait * 2) for wait in (10, 20, 30, 40)] + [Judged("brand", "post", 7, 8)]
    open_ = [
        Open("trading", "bid", NOW - 500, Decimal("12.50")),
        Open("trading", "bid", NOW - 100, Decimal("2.50")),
        Open("triage", "odd", NOW - 5),
    ]
    brand, trading, triage = waiting(judged, open_, NOW)
    assert (brand.queue, brand.judged, brand.wait, brand.handling) == ("brand", 1, Spread(7, 7), Spread(8, 8))
    assert (brand.open, brand.age, brand.oldest_ms) == (0, None, None)
    assert (trading.wait, trading.handling) == (Spread(20, 40), Spread(40, 80))
    assert (trading.open, trading.age, trading.oldest_ms, trading.money) == (2, Spread(100, 500), 500, Decimal(15))
    assert (triage.judged, triage.wait, triage.money, triage.unpriced) == (0, None, 0, 1)


def test_an_item_of_a_clock_that_is_ahead_has_no_negative_age():
    (row,) = waiting([], [Open("q", "c", NOW + 50)], NOW)
    assert row.oldest_ms == 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.sampled_from([0.05, 0.5, 0.95, 1.0]))
def test_a_percentile_is_a_time_that_occurred_and_so_many_do_not_exceed_it(values: list[int], share: float):
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    assert sum(value < found for value in values) < share * len(values) + 1e-6
