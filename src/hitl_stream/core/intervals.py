"""What a share of so many says about the share of all: confidence intervals for k of n.

- `clopper_pearson` never covers less than it says (Clopper and Pearson, Biometrika 26, 1934): for what is claimed.
- `wilson` covers about what it says, on average over all shares (Wilson, JASA 22, 1927): for what is watched.

Two sides: the interval misses in (1 - confidence) / 2 of all cases on each side. One side: each of the two bounds holds
by itself with the confidence, and the pair of them with less. Of nothing at all (n = 0) the interval is 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Literal

from msgspec import Struct

from hitl_stream.core.errors import BrokenError

Sides = Literal[1, 2]
TERMS_MAX = 100_000
"""Terms of the continued fraction. It needs about as many as the square root of n: this is enough for 10^9."""
HALVINGS_MAX = 200
"""From 1 down to the smallest float of any use; what is left after 60 or so does not change the middle any more."""
CLOSE = 1e-15
TINY = 1e-300
"""Stands in for a zero divisor (Lentz's method)."""


class Rate(Struct, frozen=True, kw_only=True):
    """How often there was an error, and within which bounds that leaves the truth. `rate` is None where `n` is 0."""

    bad: int
    n: int
    rate: float | None
    low: float
    high: float


def error_rate(bad: int, n: int, confidence: float, hit_rate: float = 1.0) -> Rate:
    """Return the error rate behind `bad` of `n` judged items, with its two-sided Clopper-Pearson interval.

    Reviewers find `hit_rate` of the errors that there are (0 to 1, from canaries): all three figures are divided by it,
    and none goes over 1. The uncertainty of `hit_rate` itself is not in the interval.
    """
    if not 0.0 < hit_rate <= 1.0:
        raise ValueError(f"a hit rate of {hit_rate} is not over 0 and at most 1; without any canaries say 1")
    low, high = (min(1.0, bound / hit_rate) for bound in clopper_pearson(bad, n, confidence))
    return Rate(bad=bad, n=n, rate=min(1.0, bad / n / hit_rate) if n else None, low=low, high=high)


def wilson(k: int, n: int, confidence: float, sides: Sides = 2) -> tuple[float, float]:
    """Return the lower and the upper Wilson bound of a share of which k in n were seen."""
    tail = _tail(k, n, confidence, sides)
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(1.0 - tail)
    share = k / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1.0 - share) / n + z * z / (4 * n * n))
    whole = 1.0 + z * z / n
    low = 0.0 if k == 0 else max(0.0, (middle - half) / whole)
    high = 1.0 if k == n else min(1.0, (middle + half) / whole)
    return low, high


def clopper_pearson(k: int, n: int, confidence: float, sides: Sides = 2) -> tuple[float, float]:
    """Return the lower and the upper Clopper-Pearson bound of a share of which k in n were seen.

    The lower one is the share at which k or more would be seen in only so many cases as the confidence leaves; the
    upper one that at which k or fewer would.
    """
    tail = _tail(k, n, confidence, sides)
    low = 0.0 if k == 0 else _solved(lambda p: incomplete_beta(k, n - k + 1, p) < tail)
    high = 1.0 if k == n else _solved(lambda p: incomplete_beta(n - k, k + 1, 1.0 - p) > tail)
    return low, high


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), for a and b over 0 and x from 0 to 1.

    NIST DLMF 8.17: the continued fraction 8.17.22 with the coefficients 8.17.23, on the side where it converges fast,
    and the reflection 8.17.4 for the other side.
    """
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) * _fraction(a, b, x) / a


# --- small things -----------------------------------------------------------------------------------------------------


def _tail(k: int, n: int, confidence: float, sides: Sides) -> float:
    """Return how often each bound may be wrong; refuse what is no share of anything."""
    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no share; expected 0 <= k <= n")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence of {confidence} is not between 0 and 1; write 0.95 for 95 %")
    return (1.0 - confidence) / sides


def _solved(below: Callable[[float], bool]) -> float:
    """Return the share from 0 to 1 up to which `below` holds, to the last bit."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS_MAX):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def _fraction(a: float, b: float, x: float) -> float:
    """Evaluate the continued fraction by Lentz's method, as modified by Thompson and Barnett (J. Comput. Phys. 64)."""
    c = 1.0
    d = 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    found = d
    for m in range(1, TERMS_MAX):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        d = 1.0 / _not_zero(1.0 + even * d)
        c = _not_zero(1.0 + even / c)
        found *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        d = 1.0 / _not_zero(1.0 + odd * d)
        c = _not_zero(1.0 + odd / c)
        found *= d * c
        if abs(d * c - 1.0) < CLOSE:
            return found
    raise BrokenError(f"the incomplete beta function did not converge in {TERMS_MAX} terms at {a=}, {b=}, {x=}")


def _not_zero(value: float) -> float:
    return value if abs(value) > TINY else TINY
