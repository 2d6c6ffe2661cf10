"""May a gate go, and has it to come back? Tests that stay honest although somebody looks after every item.

A gate has a threshold T per error type: a larger share of wrong outputs is not borne. People find only a part of what
is wrong, so that a share of T means T * kappa * H findings: H is the hit rate of whoever judged on canaries of that
type, and kappa says how much harder real errors are than canaries. Evidence is kept per (gate, error type, person),
since persons differ; node sums of the logarithms add over persons.

Removing: E is the likelihood of what was found, averaged over all shares of errors under the threshold, against that at
the threshold: an e-process (Ville's inequality; Shafer, JRSS A 184, 2021; Ramdas et al., Statistical Science 38, 2023).
If the gate were needed, E would ever reach 40 in at most one case of 40; and the lower bound of H fails in another.

Putting back: the mirror image, a CUSUM of e-values against the share that was signed (Shin, Ramdas and Rinaldo 2024).

Shares are from 0 to 1; x is True for an error, and what was skipped, expired or lapsed counts as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from hitl_stream.core.intervals import incomplete_beta

NODES = 64
OFFER = 40.0
"""Each of the two ways of being wrong has 2.5 %."""
ITEMS_MIN = 500
DAYS_MIN = 14
KAPPA = 0.8
"""How many of real errors are found of those that would be found were they canaries, until that was measured."""
KAPPA_ERRORS_MIN = 50
HALVINGS = 60
WORSE = (1.5, 2.0, 3.0, 5.0, 10.0)
RESTORE = 1_000.0
SHARE_MAX = 0.99
SHARE_MIN = 0.01
"""Of a smaller share no audit sample could tell anything."""


class Evidence(Struct, frozen=True, kw_only=True):
    """What one person's judgements say about one error type at one gate.

    `sums` are the logarithms of the likelihood ratio at each node; `caught` of `canaries` of this type were found.
    """

    items: int = 0
    errors: int = 0
    caught: int = 0
    canaries: int = 0
    sums: tuple[float, ...] = (0.0,) * NODES


def canary(evidence: Evidence, caught: bool) -> Evidence:
    """Return the evidence after one more canary of this error type."""
    return msgspec.structs.replace(evidence, caught=evidence.caught + caught, canaries=evidence.canaries + 1)


def judged(evidence: Evidence, error: bool, threshold: float, kappa: float = KAPPA) -> Evidence:
    """Return the evidence after one more judged item. It counts by the hit rate that was known before it."""
    p = threshold * kappa * hit_rate_low(evidence.caught, evidence.canaries)
    return msgspec.structs.replace(
        evidence,
        items=evidence.items + 1,
        errors=evidence.errors + error,
        sums=tuple(map(float.__add__, evidence.sums, steps(error, p))),
    )


def log_e(evidence: Iterable[Evidence]) -> float:
    """Return the logarithm of E over several persons' evidence for one error type at one gate."""
    weights = [math.log(weight) for _, weight in nodes()]
    sums = [sum(column) for column in zip(*(one.sums for one in evidence), strict=True)] or [0.0] * NODES
    return _log_sum([weight + total for weight, total in zip(weights, sums, strict=True)])


def lacks(evidence: Sequence[Evidence], days: float) -> tuple[str, ...]:
    """Return what is missing before the removal of a gate can be offered for one error type; nothing: it can."""
    items, found = sum(one.items for one in evidence), math.exp(min(log_e(evidence), 700.0))
    missing = []
    if items < ITEMS_MIN:
        missing.append(f"{items} judged outputs, expected at least {ITEMS_MIN}")
    if found < OFFER:
        missing.append(f"E is {found:.3g}, expected at least {OFFER:g}")
    if days < DAYS_MIN:
        missing.append(f"{days:.1f} days, expected at least {DAYS_MIN}")
    if not any(one.caught for one in evidence):
        missing.append("no canary was caught: nobody knows whether anybody looks")
    return tuple(missing)


def kappa_of(found: int, errors: int, hit_rate: float) -> float:
    """Return how much harder real errors are than canaries: `found` of `errors` known from seconds and outcomes.

    >>> kappa_of(10, 20, 0.9), kappa_of(36, 60, 0.9)
    (0.8, 0.6666666666666666)
    """
    if errors < KAPPA_ERRORS_MIN or hit_rate <= 0.0:
        return KAPPA
    return min(1.0, found / errors / hit_rate)


# --- shares -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=100_000)
def hit_rate_low(caught: int, canaries: int) -> float:
    """Return a lower bound of a hit rate that holds at all times together but in one case of 40.

    The smallest h that 40 to 1 against it does not rule out: (1 / (1 - h)) times the integral of q^k (1 - q)^(m - k)
    over q from h to 1 is 40 h^k (1 - h)^(m - k). 0 while nothing was caught.

    >>> hit_rate_low(0, 30), round(hit_rate_low(20, 20), 3), round(hit_rate_low(95, 100), 3)
    (0.0, 0.768, 0.855)
    """
    if caught == 0:
        return 0.0
    k, missed = caught, canaries - caught
    low, high = 0.0, k / canaries
    for _ in range(HALVINGS):
        h = (low + high) / 2
        if h in (low, high):
            break
        above = _log_above(k, missed, h) - math.log1p(-h)
        here = math.log(OFFER) + k * math.log(h) + missed * math.log1p(-h)
        low, high = (h, high) if above > here else (low, h)
    return low


def steps(error: bool, p: float) -> tuple[float, ...]:
    """Return what one item adds at each node u: ln u for an error, else ln((1 - u p) / (1 - p))."""
    return _errors() if error else _fine(p)


def log_e_fixed(errors: int, items: int, p: float) -> float:
    """Return the logarithm of E for a share that is the same for every item, in closed form; for tests and reports.

    ln B(S + 1, n - S + 1) + ln I_p(S + 1, n - S + 1) - ln p - S ln p - (n - S) ln(1 - p).
    """
    a, b = errors + 1, items - errors + 1
    return (
        _log_beta(a, b)
        + math.log(incomplete_beta(a, b, p))
        - (errors + 1) * math.log(p)
        - (items - errors) * math.log1p(-p)
    )


# --- putting back -----------------------------------------------------------------------------------------------------


class Relapse(Struct, frozen=True):
    """What audits of what a removed gate let through say, against the share `p` that was found when it went."""

    p: float
    values: tuple[float, ...] = (1.0,) * len(WORSE)
    items: int = 0
    severe: bool = False


def audited(relapse: Relapse, error: bool, *, severe: bool = False) -> Relapse:
    """Return the evidence after one more audited item."""
    values = tuple(
        max(value, 1.0) * _ratio(error, relapse.p, min(SHARE_MAX, times * relapse.p))
        for value, times in zip(relapse.values, WORSE, strict=True)
    )
    return Relapse(relapse.p, values, relapse.items + 1, relapse.severe or (error and severe))


def must_return(relapse: Relapse) -> bool:
    """Say whether the gate is put back: its errors have grown, or one of them was severe."""
    return relapse.severe or sum(relapse.values) / len(relapse.values) >= RESTORE


def share_to_sign(evidence: Sequence[Evidence], threshold: float) -> float:
    """Return the share of errors that is signed with a removal, and that audits are held against from then on.

    What was found, by Laplace's rule, so that nothing found is not no share; at least `SHARE_MIN`, since no audit could
    tell a smaller one, and at most the threshold, so that a rise over that is never taken for what was signed.

    >>> share_to_sign([Evidence(items=500)], 0.05), share_to_sign([Evidence(items=598, errors=11)], 0.05)
    (0.01, 0.02)
    """
    items, errors = sum(one.items for one in evidence), sum(one.errors for one in evidence)
    return min(threshold, max(SHARE_MIN, (errors + 1) / (items + 2)))


def _ratio(error: bool, p: float, q: float) -> float:
    return q / p if error else (1.0 - q) / (1.0 - p)


# --- small things -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def nodes() -> tuple[tuple[float, float], ...]:
    """Return 64 Gauss-Legendre nodes and weights on (0, 1), by Newton's method on the Legendre polynomial.

    Abramowitz and Stegun 25.4.29, with the starting values of 22.16.6.
    """
    found = []
    for i in range(1, NODES + 1):
        x = math.cos(math.pi * (i - 0.25) / (NODES + 0.5))
        for _ in range(100):
            value, slope = _legendre(x)
            step = value / slope
            x -= step
            if abs(step) < 1e-16:
                break
        _, slope = _legendre(x)
        found.append(((1.0 - x) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope)))
    return tuple(found)


def _legendre(x: float) -> tuple[float, float]:
    """Return the Legendre polynomial of degree 64 and its slope."""
    before, value = 1.0, x
    for n in range(2, NODES + 1):
        before, value = value, ((2 * n - 1) * x * value - (n - 1) * before) / n
    return value, NODES * (x * value - before) / (x * x - 1.0)


@lru_cache(maxsize=1)
def _errors() -> tuple[float, ...]:
    return tuple(math.log(u) for u, _ in nodes())


@lru_cache(maxsize=10_000)
def _fine(p: float) -> tuple[float, ...]:
    whole = math.log1p(-p)
    return tuple(math.log1p(-u * p) - whole for u, _ in nodes())


def _log_above(k: int, missed: int, h: float) -> float:
    """Return the logarithm of the integral of q^k (1 - q)^missed over q from h to 1."""
    a, b = k + 1, missed + 1
    return _log_beta(a, b) + math.log(max(incomplete_beta(b, a, 1.0 - h), 1e-300))


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_sum(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
