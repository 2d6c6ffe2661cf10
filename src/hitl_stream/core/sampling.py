"""How many of a lot are looked at, how many errors it may show, and which ones are drawn.

ISO 2859-1:1999, single sampling, normal inspection, general inspection level II, AQL 1.0 % nonconforming: table 1 gives
a lot's code letter, table 2-A that letter's plan. Where table 2-A has an arrow, the whole plan of the first letter in
its direction that has one is used, its sample size too. A sample as large as the lot is the lot: everything is
inspected.

Up to 10,000 items the plans are 13/0, 50/1, 80/2, 125/3 and 200/5: sample size and acceptance number. A lot with 1 %
of errors passes in 87.8 to 98.4 % of all draws (13/0 and 200/5).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from types import MappingProxyType
from typing import Literal

from msgspec import Struct

Arrow = Literal["up", "down"]
LEVEL_II: tuple[tuple[int, str], ...] = (
    (8, "A"),
    (15, "B"),
    (25, "C"),
    (50, "D"),
    (90, "E"),
    (150, "F"),
    (280, "G"),
    (500, "H"),
    (1_200, "J"),
    (3_200, "K"),
    (10_000, "L"),
    (35_000, "M"),
    (150_000, "N"),
    (500_000, "P"),
)
"""Table 1, general inspection level II: the largest lot of each code letter. There are no I and no O."""
LARGEST = "Q"
"""The letter of every larger lot. (R is reached at level III only.)"""
AQL_1_0: Mapping[str, tuple[int, int | Arrow]] = MappingProxyType({
    "A": (2, "down"),
    "B": (3, "down"),
    "C": (5, "down"),
    "D": (8, "down"),
    "E": (13, 0),
    "F": (20, "up"),
    "G": (32, "down"),
    "H": (50, 1),
    "J": (80, 2),
    "K": (125, 3),
    "L": (200, 5),
    "M": (315, 7),
    "N": (500, 10),
    "P": (800, 14),
    "Q": (1_250, 21),
    "R": (2_000, "up"),
})  # fmt: skip
"""Table 2-A, column AQL 1.0: sample size and acceptance number by letter, or where the plan to use stands instead."""


class Plan(Struct, frozen=True):
    """How a lot is inspected: so many of it, and it passes with at most so many errors.

    `whole`: the sample is the lot, `size` of it; each item is decided by itself, and nothing is released unseen.
    """

    size: int
    accept: int
    whole: bool


def letter(lot_size: int) -> str:
    """Return a lot's code letter; raise `ValueError` for one without items."""
    if lot_size < 1:
        raise ValueError(f"a lot of {lot_size} items cannot be sampled; a lot has at least 1")
    at = bisect_left(LEVEL_II, (lot_size, ""))
    return LEVEL_II[at][1] if at < len(LEVEL_II) else LARGEST


def plan(lot_size: int) -> Plan:
    """Return how a lot of so many items is inspected; raise `ValueError` for one without items."""
    size, accept = _followed(letter(lot_size))
    if size >= lot_size:
        return Plan(lot_size, accept, whole=True)
    return Plan(size, accept, whole=False)


def draw(scores: Sequence[bytes], n: int) -> tuple[int, ...]:
    """Return where the `n` smallest scores stand, in order of place: a random sample, if the scores are keyed digests.

    Equal scores are drawn in order of place. Fewer than `n` scores are all drawn.
    """
    smallest = nsmallest(n, range(len(scores)), key=lambda place: (scores[place], place))
    return tuple(sorted(smallest))


def _followed(code: str) -> tuple[int, int]:
    """Return a letter's sample size and acceptance number, along the arrows."""
    letters = list(AQL_1_0)
    size, found = AQL_1_0[code]
    step = 1 if found == "down" else -1
    while not isinstance(found, int):
        code = letters[letters.index(code) + step]
        size, found = AQL_1_0[code]
    return size, found
