"""Intervals against published figures, against SciPy, and that they cover what they say."""

from __future__ import annotations

from math import comb
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.intervals import Rate, Sides, clopper_pearson, error_rate, incomplete_beta, wilson

CASES = [(k, n) for n in (1, 2, 5, 13, 50, 125, 500, 1_488, 10_000) for k in {0, 1, 2, 3, n // 3, n // 2, n} if k <= n]
CASES += [(0, 10**6), (2, 10**6), (10_000, 10**6), (500_000, 10**6)]
CONFIDENCES = (0.5, 0.9, 0.95, 0.99, 0.999)
SEEN = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
CONFIDENCE = st.floats(0.01, 0.999)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I: 95 %, method 3 (score) by case
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_figures(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        # the same table, method 5 (Clopper-Pearson)
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_clopper_pearson_gives_the_published_figures(k: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(k, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("k", "percent"), [(0, 0.60), (1, 0.95)])
def test_500_judged_items_are_a_floor_and_no_proof(k: int, percent: float) -> None:
    """With no error in 500 the rate may still be 0.60 %, with one 0.95 %: one-sided, 95 %."""
    assert clopper_pearson(k, 500, 0.95, sides=1)[1] * 100 == pytest.approx(percent, abs=0.005)


# --- against SciPy ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scipy_stats() -> ModuleType:
    return pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize(("k", "n"), CASES)
def test_clopper_pearson_is_scipys(scipy_stats: ModuleType, k: int, n: int, confidence: float) -> None:
    beta, tail = scipy_stats.beta, (1 - confidence) / 2
    low = beta.ppf(tail, k, n - k + 1) if k else 0.0
    high = beta.isf(tail, k + 1, n - k) if k < n else 1.0

    assert clopper_pearson(k, n, confidence) == pytest.approx((low, high), rel=1e-8, abs=1e-15)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize(("k", "n"), CASES)
def test_wilson_is_scipys(scipy_stats: ModuleType, k: int, n: int, confidence: float) -> None:
    theirs = scipy_stats.binomtest(k, n).proportion_ci(confidence, "wilson")

    assert wilson(k, n, confidence) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 20), (20, 20), (5, 500)])
def test_one_side_is_what_scipy_tests_against_one_side(scipy_stats: ModuleType, interval: type, k: int, n: int) -> None:
    method = "wilson" if interval is wilson else "exact"
    low = scipy_stats.binomtest(k, n, alternative="greater").proportion_ci(0.95, method).low
    high = scipy_stats.binomtest(k, n, alternative="less").proportion_ci(0.95, method).high

    assert interval(k, n, 0.95, sides=1) == pytest.approx((low, high), abs=1e-9)


@settings(deadline=None)
@given(a=st.floats(0.1, 1e5), b=st.floats(0.1, 1e5), x=st.floats(0, 1))
def test_the_incomplete_beta_function_is_scipys(scipy_stats: ModuleType, a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(scipy_stats.beta.cdf(x, a, b), abs=2e-9)


# --- laws -------------------------------------------------------------------------------------------------------------


def chances(n: int, p: float) -> list[float]:
    """Return the chance of each k from 0 to n."""
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("n", [1, 13, 50])
def test_clopper_pearson_covers_at_least_what_it_says(n: int, confidence: float, sides: Sides) -> None:
    bounds = [clopper_pearson(k, n, confidence, sides) for k in range(n + 1)]
    for percent in range(1, 100):
        p = percent / 100
        chance = chances(n, p)
        over = sum(chance[k] for k in range(n + 1) if bounds[k][0] > p)
        under = sum(chance[k] for k in range(n + 1) if bounds[k][1] < p)
        allowed = (1 - confidence) / sides + 1e-12
        assert over <= allowed
        assert under <= allowed


@settings(deadline=None)
@given(seen=SEEN, confidence=CONFIDENCE)
def test_both_intervals_hold_what_was_seen(seen: tuple[int, int], confidence: float) -> None:
    k, n = seen
    low, high = wilson(k, n, confidence)
    exact_low, exact_high = clopper_pearson(k, n, confidence)

    assert 0 <= low <= k / n <= high <= 1
    assert 0 <= exact_low <= k / n <= exact_high <= 1


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@settings(deadline=None)
@given(seen=SEEN, confidence=CONFIDENCE)
def test_errors_are_to_hits_what_hits_are_to_errors(interval: type, seen: tuple[int, int], confidence: float) -> None:
    k, n = seen
    low, high = interval(k, n, confidence)

    assert interval(n - k, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@settings(deadline=None)
@given(seen=SEEN, one=CONFIDENCE, other=CONFIDENCE)
def test_more_confidence_takes_more_room(interval: type, seen: tuple[int, int], one: float, other: float) -> None:
    less, more = interval(*seen, min(one, other)), interval(*seen, max(one, other))

    assert more[0] <= less[0] + 1e-12
    assert more[1] >= less[1] - 1e-12


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_of_nothing_nothing_is_known(interval: type) -> None:
    assert interval(0, 0, 0.95) == (0.0, 1.0)


@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
@pytest.mark.parametrize(
    ("k", "n", "confidence", "message"),
    [
        (-1, 5, 0.9, "-1 of 5 is no share"),
        (6, 5, 0.9, "6 of 5 is no share"),
        (1, 5, 0.0, "a confidence of 0.0 is not between"),
        (1, 5, 1.0, "a confidence of 1.0 is not between"),
        (1, 5, 95.0, "a confidence of 95.0 is not between"),
        (1, 5, float("nan"), "a confidence of nan is not between"),
    ],
)
def test_what_is_no_share_is_refused(interval: type, k: int, n: int, confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interval(k, n, confidence)


# --- error rates ------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D1", "D4")
def test_an_error_rate_comes_with_its_interval() -> None:
    """Three errors in a sample of 125: 2.4 %, and with 95 % somewhere from 0.5 to 6.9 %."""
    found = error_rate(3, 125, 0.95)

    assert (found.bad, found.n, found.rate) == (3, 125, 0.024)
    assert (found.low, found.high) == pytest.approx((0.004976, 0.068536), abs=1e-6)


def test_what_reviewers_miss_is_added() -> None:
    """Of people who find 80 % of what is wrong, 4 errors mean 5."""
    plain, found = error_rate(4, 100, 0.9), error_rate(4, 100, 0.9, hit_rate=0.8)

    assert found.rate == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((plain.low / 0.8, plain.high / 0.8))


def test_no_error_rate_goes_over_1() -> None:
    assert error_rate(9, 10, 0.9, hit_rate=0.5) == Rate(bad=9, n=10, rate=1.0, low=1.0, high=1.0)


def test_nothing_judged_has_no_rate() -> None:
    assert error_rate(0, 0, 0.95) == Rate(bad=0, n=0, rate=None, low=0.0, high=1.0)


@pytest.mark.parametrize("hit_rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_hit_rate_that_nobody_can_have_is_refused(hit_rate: float) -> None:
    with pytest.raises(ValueError, match="is not over 0 and at most 1"):
        error_rate(1, 10, 0.95, hit_rate)
