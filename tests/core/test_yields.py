"""Uncertain first against random order: exact for hand-counted cases, and the laws of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.yields import Scored, chance, found_first, yields

ITEMS = st.lists(st.builds(Scored, st.floats(0, 1), st.booleans()), max_size=60)


@pytest.mark.behaviour("C6")
def test_a_score_that_knows_what_it_does_not_know_finds_the_corrections_first():
    sure = [Scored(0.05, False)] * 40 + [Scored(0.95, False)] * 40
    unsure = [Scored(0.5 + n / 1000, True) for n in range(20)]
    found = yields([*sure, *unsure], (0.1, 0.2, 0.5))
    assert (found.n, found.corrected) == (100, 20)
    assert [(row.k, row.uncertain, row.random) for row in found.rows] == [(10, 10, 2), (20, 20, 4), (50, 20, 10)]
    assert [row.beyond_chance for row in found.rows] == [True, True, True]


def test_where_the_score_says_nothing_both_orders_find_the_same():
    found = yields([Scored(0.3, n % 4 == 0) for n in range(100)], (0.2,))
    assert found.rows[0].uncertain == pytest.approx(found.rows[0].random) == 5.0
    assert not found.rows[0].beyond_chance


def test_of_nothing_there_is_nothing_to_say():
    assert yields([]).rows == ()


@given(ITEMS, st.floats(0.01, 1.0))
def test_all_corrections_are_found_at_the_end_and_none_is_found_twice(items: list[Scored], share: float):
    found = yields(items, (share, 1.0))
    assert found.corrected == sum(item.corrected for item in items)
    for row in found.rows:
        assert 0 <= row.low <= row.high <= min(row.k, found.corrected)
        assert 0 <= row.uncertain <= min(row.k, found.corrected) + 1e-9
    if items:
        assert found.rows[-1].uncertain == pytest.approx(found.corrected)
        assert found.rows[-1].random == pytest.approx(found.corrected)


@given(ITEMS, st.integers(1, 60), st.randoms())
def test_the_order_of_the_log_does_not_matter(items: list[Scored], k: int, random: object):
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    by_sureness = sorted(items, key=lambda item: abs(item.score - 0.5))
    again = sorted(shuffled, key=lambda item: abs(item.score - 0.5))
    assert found_first(by_sureness, k) == pytest.approx(found_first(again, k))


@pytest.mark.parametrize(("n", "corrected", "k"), [(100, 20, 10), (500, 7, 50), (40, 39, 8), (10, 0, 5), (10, 10, 5)])
def test_the_range_of_chance_is_that_of_scipy(n: int, corrected: int, k: int):
    stats = pytest.importorskip("scipy.stats")
    low, high = chance(n, corrected, k)
    assert (low, high) == tuple(int(x) for x in stats.hypergeom.ppf([0.05 + 1e-12, 0.95 - 1e-12], n, corrected, k))
