"""Error rates: from random samples only, weighted where they were drawn differently, divided by what people find."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.intervals import error_rate
from hitl_stream.core.mistakes import (
    Planted,
    Sampled,
    Verdict,
    Watched,
    Watching,
    by_month,
    direction,
    estimate,
    hit_rates,
    sent,
)


def sampled(bad: int, n: int, p: float | None = 0.05, **parts: object) -> list[Sampled]:
    return [Sampled("post", index < bad, p, **parts) for index in range(n)]  # type: ignore[arg-type]


@pytest.mark.behaviour("D4")
def test_what_was_sent_has_an_error_rate_of_each_class_gate_and_batch():
    rows = sent([*sampled(2, 50, gates=("style",)), *sampled(1, 80, batch="acme/a/b-7")])
    assert [(row.what, row.name, row.rate.bad, row.rate.n) for row in rows] == [
        ("all", "all", 3, 130), ("class", "post", 3, 130), ("gate", "style", 2, 50), ("batch", "acme/a/b-7", 1, 80),
    ]  # fmt: skip
    assert rows[2].rate == error_rate(2, 50, 0.95)
    assert rows[2].rate.low < 0.04 < rows[2].rate.high
    assert all(row.hit_rate is None for row in rows)


def test_the_rate_is_divided_by_the_share_of_planted_errors_that_people_find():
    planted = [Planted("post", n % 2 == 0) for n in range(40)]
    row = sent(sampled(2, 50), planted)[0]
    assert (row.hit_rate, row.rate.rate) == (0.5, pytest.approx(0.08))


def test_with_few_planted_errors_nobody_knows_what_people_find():
    assert hit_rates([Planted("post", True)] * 19) == {}
    assert hit_rates([Planted("post", True)] * 20) == {"post": 1.0, "": 1.0}


def test_where_people_find_nothing_nothing_is_known_of_the_rate():
    row = sent(sampled(0, 50), [Planted("post", False)] * 20)[0]
    assert row.rate.rate is None
    assert (row.rate.low, row.rate.high) == (0.0, 1.0)


def test_a_class_without_canaries_of_its_own_takes_those_of_all():
    planted = [Planted("bid", n < 15) for n in range(20)]
    assert {row.hit_rate for row in sent(sampled(2, 50), planted)} == {0.75}


def test_what_was_drawn_rarely_stands_for_more():
    rate, weighted = estimate([*sampled(10, 100, 1.0), *sampled(0, 100, 0.1)])
    assert weighted
    assert rate.rate == pytest.approx(10 / 1100)
    assert (rate.bad, rate.n) == (10, 200)
    assert rate.high > error_rate(2, 200, 0.95).high, "the weights are worth fewer items than there are"


def test_a_weighted_rate_is_divided_by_what_people_find_too():
    whole, _ = estimate([*sampled(10, 100, 1.0), *sampled(0, 100, 0.1)])
    half, weighted = estimate([*sampled(10, 100, 1.0), *sampled(0, 100, 0.1)], 0.5)
    assert weighted
    assert whole.rate is not None
    assert half.rate == pytest.approx(2 * whole.rate)
    assert half.high == pytest.approx(2 * whole.high)


def test_where_a_probability_is_missing_all_count_the_same():
    rate, weighted = estimate([*sampled(1, 10, None), *sampled(0, 10, 0.5)])
    assert not weighted
    assert rate == error_rate(1, 20, 0.95)


def test_a_weighted_interval_covers_the_truth_in_most_of_many_draws():
    """Two strata, 8 % and 1 % of errors, drawn with p 0.5 and 0.05: the truth is (8 % + 1 %) / 2."""
    lot = random.Random(7)
    covered = 0
    for _ in range(100):
        drawn = [Sampled("c", lot.random() < 0.08, 0.5) for _ in range(2_000) if lot.random() < 0.5]
        drawn += [Sampled("c", lot.random() < 0.01, 0.05) for _ in range(2_000) if lot.random() < 0.05]
        rate, _ = estimate(drawn)
        covered += rate.low <= 0.045 <= rate.high
    assert covered >= 88, "95 % are promised; chance alone would not bring fewer in 100 draws"


@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from([0.01, 0.3, 1.0]))
def test_equal_weights_weigh_nothing(bad: int, n: int, p: float):
    assert estimate(sampled(min(bad, n), n, p)) == (error_rate(min(bad, n), n, 0.95), False)


# --- observing gates --------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D1")
def test_an_observing_gate_is_measured_before_it_enforces():
    watching = Watching()
    for one in (
        [Watched("style", ("tone",), bad=True)] * 6
        + [Watched("style", ("tone", "compliance"), bad=False)] * 2
        + [Watched("style", (), bad=False)] * 30
        + [Watched("style", (), bad=True)]
        + [Watched("style")] * 61
    ):
        watching.add(one)
    (row,) = watching.rows()
    assert (row.diverted.bad, row.diverted.n) == (8, 100)
    assert row.diverted.low < 0.08 < row.diverted.high
    assert row.by_error == {"compliance": 2, "tone": 8}
    assert (row.alarms.bad, row.alarms.n) == (2, 8), "wrong about what it would have diverted"
    assert (row.misses.bad, row.misses.n) == (1, 31), "wrong about what it would have passed"


# --- by month ---------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D10")
def test_errors_are_shown_by_type_and_month_with_their_direction():
    def month(name: str, factual: int, n: int) -> list[Verdict]:
        return [Verdict(name, ("factual",) if index < factual else ()) for index in range(n)]

    rows = by_month([*month("2026-11", 1, 400), *month("2026-09", 40, 400), *month("2026-10", 36, 400)])
    assert [(row.month, row.rate.bad, row.direction) for row in rows] == [
        ("2026-09", 40, None), ("2026-10", 36, "not told apart"), ("2026-11", 1, "falling"),
    ]  # fmt: skip


def test_a_type_that_was_not_found_in_a_month_is_shown_as_none():
    rows = by_month([Verdict("2026-10", ("tone",)), Verdict("2026-11")])
    assert [(row.month, row.error, row.rate.bad, row.rate.n) for row in rows] == [
        ("2026-10", "tone", 1, 1), ("2026-11", "tone", 0, 1),
    ]  # fmt: skip


def test_two_intervals_that_meet_say_nothing():
    low, high = error_rate(1, 400, 0.95), error_rate(40, 400, 0.95)
    assert (direction(low, high), direction(high, low), direction(low, low)) == ("rising", "falling", "not told apart")
    assert direction(None, low) is None
