"""What it is worth to look at the uncertain ones first: corrections found in the first k items, against random order.

Nobody worked through the log twice, so that this is computed from judgements that were given in whatever order: it
assumes that a person would have said the same of an item earlier or later in the day.

- Uncertain first: by distance of the score from a half, as the console orders. Items that are equally uncertain have
  no order; of such a group, the share that is looked at finds its share of the group's corrections.
- Random order: of N items with K corrections the first k hold a hypergeometric number of them: its mean is k·K/N, and
  the range is where it falls in 90 of 100 shuffles (at least; it is a whole number).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import exp, lgamma

from msgspec import Struct

SHARES = (0.05, 0.10, 0.20, 0.30, 0.50)
CONFIDENCE = 0.90


class Scored(Struct, frozen=True):
    """One item that was judged: its risk score from 0 to 1, and whether a person corrected it."""

    score: float
    corrected: bool


class At(Struct, frozen=True):
    """What the first `k` items hold: in order of uncertainty, and at random (mean, and where 90 of 100 fall)."""

    k: int
    uncertain: float
    random: float
    low: int
    high: int

    @property
    def beyond_chance(self) -> bool:
        """Say whether the order finds more than a shuffle would in 95 of 100 cases."""
        return self.uncertain > self.high


class Yield(Struct, frozen=True):
    """Of `n` items `corrected` were; `rows` are growing."""

    n: int
    corrected: int
    rows: tuple[At, ...]


def yields(items: Iterable[Scored], shares: Sequence[float] = SHARES) -> Yield:
    """Compare both orders after each share of the items."""
    ordered = sorted(items, key=_sureness)
    n, corrected = len(ordered), sum(item.corrected for item in ordered)
    ks = sorted({max(1, round(share * n)) for share in shares}) if n else []
    rows = [At(k, found_first(ordered, k), k * corrected / n, *chance(n, corrected, k)) for k in ks]
    return Yield(n, corrected, tuple(rows))


def found_first(ordered: Sequence[Scored], k: int) -> float:
    """Return how many corrections the first `k` of these hold, on average over the order of equals."""
    found, seen = 0.0, 0
    for _, group in groupby(ordered, key=_sureness):
        equals = list(group)
        taken = min(len(equals), k - seen)
        found += sum(item.corrected for item in equals) * taken / len(equals)
        seen += taken
        if seen >= k:
            break
    return found


def chance(n: int, corrected: int, k: int, confidence: float = CONFIDENCE) -> tuple[int, int]:
    """Return the central range of the corrections in `k` of `n` items drawn at random."""
    tail = (1.0 - confidence) / 2
    least, most = max(0, k - (n - corrected)), min(k, corrected)
    cumulative, low, high = 0.0, least, most
    found_low = False
    for x in range(least, most + 1):
        cumulative += exp(_log_choose(corrected, x) + _log_choose(n - corrected, k - x) - _log_choose(n, k))
        if not found_low and cumulative > tail:
            low, found_low = x, True
        if cumulative >= 1.0 - tail:
            high = x
            break
    return low, high


def _sureness(item: Scored) -> float:
    return abs(item.score - 0.5)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
