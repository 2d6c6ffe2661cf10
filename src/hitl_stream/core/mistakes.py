"""What was wrong: how often among what was sent, what an observing gate would have caught, and month by month by type.

- The error rate of what was sent rests on what was drawn at random and judged blind: audit copies and the samples of
  batches. What people were asked about because a rule fired is no sample of anything, and never enters it.
- Items drawn with different probabilities are weighted by 1/p (Hajek), and the interval is that of as many items as
  the weights are worth (Kish, Survey Sampling, 1965), rounded to the side of more errors.
- It is divided by the share of planted errors that people find, where enough were planted to know it.
- An interval is two-sided Clopper-Pearson, 95 %: it never covers less than it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct, structs

from hitl_stream.core.intervals import Rate, error_rate

CONFIDENCE = 0.95
CANARIES_MIN = 20
"""With fewer planted errors nobody knows what share of them is found."""
UNTYPED = "other"
Direction: TypeAlias = Literal["rising", "falling", "not told apart"]
What: TypeAlias = Literal["all", "class", "gate", "batch"]


# --- what was sent ----------------------------------------------------------------------------------------------------


class Sampled(Struct, frozen=True):
    """One output that was drawn at random and judged. `p`: with what probability; None: it is not known."""

    cls: str
    bad: bool
    p: float | None = None
    gates: tuple[str, ...] = ()
    batch: str | None = None


class Planted(Struct, frozen=True):
    """One planted error that a person was shown. `error` is its type; empty: it is not known."""

    cls: str
    caught: bool
    error: str = ""


class SentRow(Struct, frozen=True, kw_only=True):
    """The error rate of one class, gate or batch. `hit_rate` None: not known, and the rate is not divided by it."""

    what: What
    name: str
    rate: Rate
    hit_rate: float | None
    weighted: bool


def sent(sampled: Iterable[Sampled], planted: Iterable[Planted] = ()) -> tuple[SentRow, ...]:
    """Return the error rate of all, of each class, each gate and each batch of which something was drawn."""
    found: dict[tuple[What, str], list[Sampled]] = {}
    for one in sampled:
        for key in _keys(one):
            found.setdefault(key, []).append(one)
    hits = hit_rates(planted)
    order: tuple[What, ...] = ("all", "class", "gate", "batch")
    keys = sorted(found, key=lambda key: (order.index(key[0]), key[1]))
    return tuple(_sent_row(what, name, found[what, name], hits) for what, name in keys)


def hit_rates(planted: Iterable[Planted]) -> Mapping[str, float]:
    """Return by class which share of the planted errors was found, and under "" that of all; only where it is known."""
    seen: dict[str, list[bool]] = {}
    for one in planted:
        for name in (one.cls, ""):
            seen.setdefault(name, []).append(one.caught)
    return {name: sum(caught) / len(caught) for name, caught in seen.items() if len(caught) >= CANARIES_MIN}


def misses_by_error(planted: Iterable[Planted]) -> Mapping[str, Rate]:
    """Return by type of error, in order of names, which share of what was planted nobody objected to."""
    seen: dict[str, list[bool]] = {}
    for one in planted:
        if one.error:
            seen.setdefault(one.error, []).append(one.caught)
    return {name: error_rate(caught.count(False), len(caught), CONFIDENCE) for name, caught in sorted(seen.items())}


def estimate(sampled: Sequence[Sampled], hit_rate: float | None = None) -> tuple[Rate, bool]:
    """Return the error rate behind a sample, and whether its items had to be weighted."""
    known = [one for one in sampled if one.p]
    weighted = len(known) == len(sampled) and len({one.p for one in known}) > 1
    if not weighted:
        return _rate(sum(one.bad for one in sampled), len(sampled), hit_rate), False
    weights = [1.0 / one.p for one in known if one.p]
    share = math.fsum(w for w, one in zip(weights, known, strict=True) if one.bad) / math.fsum(weights)
    worth = max(1, math.floor(math.fsum(weights) ** 2 / math.fsum(w * w for w in weights) + 1e-9))
    bounds = _rate(min(worth, math.ceil(share * worth - 1e-9)), worth, hit_rate)
    counted = structs.replace(bounds, bad=sum(one.bad for one in known), n=len(known))
    divided = min(1.0, share / hit_rate) if hit_rate else None if hit_rate == 0.0 else share
    return structs.replace(counted, rate=divided), True


def _rate(bad: int, n: int, hit_rate: float | None) -> Rate:
    if hit_rate == 0.0:  # nobody finds anything, so that what is found says nothing of what there is
        return Rate(bad=bad, n=n, rate=None, low=error_rate(bad, n, CONFIDENCE).low, high=1.0)
    return error_rate(bad, n, CONFIDENCE, 1.0 if hit_rate is None else hit_rate)


def _keys(one: Sampled) -> Iterable[tuple[What, str]]:
    yield "all", "all"
    yield "class", one.cls
    for gate in dict.fromkeys(one.gates):
        yield "gate", gate
    if one.batch is not None:
        yield "batch", one.batch


def _sent_row(what: What, name: str, sampled: Sequence[Sampled], hits: Mapping[str, float]) -> SentRow:
    classes = {one.cls for one in sampled}
    hit_rate = hits.get(next(iter(classes))) if len(classes) == 1 else None
    hit_rate = hits.get("") if hit_rate is None else hit_rate
    rate, weighted = estimate(sampled, hit_rate)
    return SentRow(what=what, name=name, rate=rate, hit_rate=hit_rate, weighted=weighted)


# --- what an observing gate would have done ---------------------------------------------------------------------------


class Watched(Struct, frozen=True):
    """One action that an observing gate looked at. `errors`: the types that it found, empty: it would have passed it.

    `bad`: what a person said of it since; None: nobody was asked.
    """

    gate: str
    errors: tuple[str, ...] = ()
    bad: bool | None = None


class WatchedRow(Struct, frozen=True, kw_only=True):
    """What one gate would have diverted. `alarms` is how often it was wrong about what it would have diverted, `misses`
    about what it would have passed: of those that people judged, which are no random sample where nobody drew them."""

    gate: str
    diverted: Rate
    by_error: Mapping[str, int]
    alarms: Rate
    misses: Rate


class Watching:
    """Counts what observing gates would have done, without keeping what they looked at."""

    def __init__(self) -> None:
        self._seen: dict[str, _Counts] = {}

    def add(self, one: Watched) -> None:
        """Count one more."""
        self._seen.setdefault(one.gate, _Counts()).add(one)

    def rows(self) -> tuple[WatchedRow, ...]:
        """Return a row for each gate, in order of names."""
        return tuple(self._seen[gate].row(gate) for gate in sorted(self._seen))


class _Counts:
    def __init__(self) -> None:
        self.n = self.diverted = 0
        self.errors: dict[str, int] = {}
        self.judged = {True: 0, False: 0}
        self.wrong = {True: 0, False: 0}

    def add(self, one: Watched) -> None:
        fired = bool(one.errors)
        self.n += 1
        self.diverted += fired
        for error in dict.fromkeys(one.errors):
            self.errors[error] = self.errors.get(error, 0) + 1
        if one.bad is not None:
            self.judged[fired] += 1
            self.wrong[fired] += one.bad is not fired

    def row(self, gate: str) -> WatchedRow:
        return WatchedRow(
            gate=gate,
            diverted=error_rate(self.diverted, self.n, CONFIDENCE),
            by_error=dict(sorted(self.errors.items())),
            alarms=error_rate(self.wrong[True], self.judged[True], CONFIDENCE),
            misses=error_rate(self.wrong[False], self.judged[False], CONFIDENCE),
        )


# --- month by month ---------------------------------------------------------------------------------------------------


class Verdict(Struct, frozen=True):
    """One judged item: in which month (`2026-11`), and the types of error found, empty where it was approved."""

    month: str
    errors: tuple[str, ...] = ()


class MonthRow(Struct, frozen=True, kw_only=True):
    """How often one type of error was found in one month. `direction` compares with the last month that has any
    judgements, by whether the intervals meet; None: there is no earlier one."""

    month: str
    error: str
    rate: Rate
    direction: Direction | None


def by_month(verdicts: Iterable[Verdict]) -> tuple[MonthRow, ...]:
    """Return a row for each month and each type of error that occurs in any of them, in order of time."""
    judged: dict[str, int] = {}
    found: dict[tuple[str, str], int] = {}
    for one in verdicts:
        judged[one.month] = judged.get(one.month, 0) + 1
        for error in dict.fromkeys(one.errors):
            found[one.month, error] = found.get((one.month, error), 0) + 1
    types = sorted({error for _, error in found})
    rows: list[MonthRow] = []
    last: dict[str, Rate] = {}
    for month in sorted(judged):
        for error in types:
            rate = error_rate(found.get((month, error), 0), judged[month], CONFIDENCE)
            rows.append(MonthRow(month=month, error=error, rate=rate, direction=direction(last.get(error), rate)))
            last[error] = rate
    return tuple(rows)


def direction(before: Rate | None, after: Rate) -> Direction | None:
    """Say which way a rate went; two intervals that meet say nothing."""
    if before is None:
        return None
    if after.low > before.high:
        return "rising"
    return "falling" if after.high < before.low else "not told apart"
