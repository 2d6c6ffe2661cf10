"""The sampling plans against the standard's tables, band by band, and what they let through."""

from __future__ import annotations

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.sampling import AQL_1_0, Plan, draw, letter, plan

BANDS = [
    # from, to, code letter, sample size, acceptance number: ISO 2859-1:1999, tables 1 (level II) and 2-A (AQL 1.0)
    (2, 8, "A", 13, 0),
    (9, 15, "B", 13, 0),
    (16, 25, "C", 13, 0),
    (26, 50, "D", 13, 0),
    (51, 90, "E", 13, 0),
    (91, 150, "F", 13, 0),
    (151, 280, "G", 50, 1),
    (281, 500, "H", 50, 1),
    (501, 1_200, "J", 80, 2),
    (1_201, 3_200, "K", 125, 3),
    (3_201, 10_000, "L", 200, 5),
    (10_001, 35_000, "M", 315, 7),
    (35_001, 150_000, "N", 500, 10),
    (150_001, 500_000, "P", 800, 14),
    (500_001, 10_000_000, "Q", 1_250, 21),
]


@pytest.mark.parametrize(("smallest", "largest", "code", "size", "accept"), BANDS)
def test_each_band_of_lot_sizes_has_its_letter_and_plan(
    smallest: int, largest: int, code: str, size: int, accept: int
) -> None:
    for lot_size in {smallest, (smallest + largest) // 2, largest}:
        assert letter(lot_size) == code
        assert plan(lot_size) == Plan(min(size, lot_size), accept, whole=size >= lot_size)


@pytest.mark.parametrize(
    ("code", "size", "arrow"),
    [
        ("A", 2, "down"),
        ("B", 3, "down"),
        ("C", 5, "down"),
        ("D", 8, "down"),
        ("F", 20, "up"),
        ("G", 32, "down"),
        ("R", 2_000, "up"),
    ],
)
def test_the_column_has_arrows_where_the_standard_has_them(code: str, size: int, arrow: str) -> None:
    assert AQL_1_0[code] == (size, arrow)


def test_every_other_letter_has_a_plan_of_its_own() -> None:
    assert "".join(code for code, (_, found) in AQL_1_0.items() if isinstance(found, int)) == "EHJKLMNPQ"


@pytest.mark.parametrize(("lot_size", "whole"), [(1, True), (12, True), (13, True), (14, False), (151, False)])
def test_a_lot_no_larger_than_its_sample_is_inspected_whole(lot_size: int, whole: bool) -> None:
    found = plan(lot_size)

    assert found.whole is whole
    assert found.size == (lot_size if whole else {14: 13, 151: 50}[lot_size])


@pytest.mark.parametrize("lot_size", [0, -1])
def test_a_lot_of_nothing_has_no_plan(lot_size: int) -> None:
    with pytest.raises(ValueError, match=f"a lot of {lot_size} items cannot be sampled; a lot has at least 1"):
        plan(lot_size)


@pytest.mark.parametrize(
    ("code", "passes"),
    # Chances of acceptance of a lot at the AQL, from the binomial distribution: 0.99^13 = 0.8775, and so on.
    [("E", 0.8775), ("H", 0.9106), ("J", 0.9534), ("K", 0.9626), ("L", 0.9840), ("M", 0.9850), ("N", 0.9868)],
)
def test_a_lot_at_the_limit_passes_as_often_as_the_standard_wants(code: str, passes: float) -> None:
    size, accept = AQL_1_0[code]
    assert isinstance(accept, int)
    chance = sum(comb(size, bad) * 0.01**bad * 0.99 ** (size - bad) for bad in range(accept + 1))

    assert chance == pytest.approx(passes, abs=5e-5)


def test_the_smallest_scores_are_drawn() -> None:
    assert draw([b"\x05", b"\x01", b"\x09", b"\x00", b"\x07"], 2) == (1, 3)


def test_equal_scores_are_drawn_in_order_of_place() -> None:
    assert draw([b"b", b"a", b"a", b"a"], 2) == (1, 2)


@given(scores=st.lists(st.binary(min_size=1, max_size=3), max_size=40), n=st.integers(0, 50))
def test_a_draw_takes_so_many_and_leaves_none_that_is_smaller(scores: list[bytes], n: int) -> None:
    drawn = draw(scores, n)
    left = [score for place, score in enumerate(scores) if place not in drawn]

    assert len(drawn) == min(n, len(scores))
    assert list(drawn) == sorted(set(drawn))
    assert not drawn or not left or max(scores[place] for place in drawn) <= min(left)
