"""The risk score is a weighted mean of five parts, and each part's share adds up to the whole."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.policy.model import Weights
from hitl_stream.core.score import PARTS, Scale, shares

SCALE = Scale(Weights())
SIZES = st.floats(min_value=0, allow_nan=False)
UNITS = st.floats(min_value=0, max_value=1)


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ((0, 0, 0, 0, 0), 0.0),
        ((1, 1, 1, 1, 1), 1.0),
        ((1, 0, 0, 0, 0), 0.3),
        ((0, 1, 0, 0, 0), 0.2),
        ((0, 0, 1, 0, 0), 0.3),
        ((0, 0, 0, 1, 0), 0.1),
        ((0, 0, 0, 0, 1), 0.1),
        ((7, 0, 0, 0, 0), 0.3),
        ((0, 0, 9, 0, 9), 0.4),
    ],
)
def test_the_total_is_the_weighted_mean_of_parts_cut_at_one(parts: tuple[float, ...], total: float) -> None:
    assert SCALE.score(*parts).total == pytest.approx(total)


@pytest.mark.parametrize(("doubt", "x"), [(-0.5, 0.0), (0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (3.0, 1.0)])
def test_doubt_is_cut_to_between_zero_and_one(doubt: float, x: float) -> None:
    assert SCALE.score(0, doubt, 0, 0, 0).doubt == x


@given(SIZES, st.floats(allow_nan=False), SIZES, UNITS, SIZES)
def test_the_total_lies_between_zero_and_one_and_the_shares_add_up(
    size: float, doubt: float, unusual: float, missing: float, money: float
) -> None:
    score = SCALE.score(size, doubt, unusual, missing, money)
    assert 0 <= score.total <= 1 + 1e-12
    rows = shares(score, SCALE)
    assert {name for name, *_ in rows} <= set(PARTS)
    if rows:
        assert sum(share for *_, share in rows) == pytest.approx(1)


@given(UNITS, UNITS, UNITS, UNITS, UNITS, UNITS)
def test_a_larger_part_never_makes_the_score_smaller(
    a: float, b: float, c: float, d: float, e: float, more: float
) -> None:
    total = SCALE.score(a, b, c, d, e).total
    assert SCALE.score(max(a, more), b, c, d, e).total >= total - 1e-12
    assert SCALE.score(a, max(b, more), c, d, e).total >= total - 1e-12
    assert SCALE.score(a, b, max(c, more), d, e).total >= total - 1e-12
    assert SCALE.score(a, b, c, d, max(e, more)).total >= total - 1e-12


@given(st.lists(st.decimals(0, 1000, places=3), min_size=5, max_size=5).filter(any))
def test_weights_count_by_their_proportion_only(weights: list) -> None:  # type: ignore[type-arg]
    named = dict(zip(PARTS, weights, strict=True))
    once, twice = Scale(Weights(**named)), Scale(Weights(**{name: 2 * weight for name, weight in named.items()}))
    assert math.isclose(
        once.score(0.3, 0.4, 0.5, 1, 0.2).total, twice.score(0.3, 0.4, 0.5, 1, 0.2).total, abs_tol=1e-12
    )
