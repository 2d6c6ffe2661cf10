"""A pilot: what a gate costs and lets through, against the baseline that its owner recorded before it began.

- Nothing is claimed that was not measured. With fewer than `ITEMS_MIN` items, or `REVIEWED_MIN` that took anybody's
  time, there is no mean, without judged samples no error rate, without a baseline nothing to compare with, and so no
  hours saved.
- Minutes are people's, over *all* items: what went out alone took nobody's time, what was audited took the auditor's.
  What still waits for people, or expired unseen, has no time yet and is left out.
- A figure is lower or higher than the baseline only where its whole interval is.
- The interval of a mean is the normal one, 95 %: mean ± 1.96 s/√n. The baseline is taken as it was recorded; its own
  uncertainty is not known here.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Literal, TypeAlias

from msgspec import Struct

from hitl_stream.core.intervals import Rate

ITEMS_MIN = 30
"""Below this many the mean of anything so skewed says too little."""
REVIEWED_MIN = 10
"""Where nearly every item took no time, the spread of the few that did is not known: the interval would be a point."""
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf(1.0 - (1.0 - CONFIDENCE) / 2)
Verdict: TypeAlias = Literal["lower", "higher", "not told apart", "not measured", "no baseline"]


class Figure(Struct, frozen=True):
    """A measured value between two bounds."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Figure:
        """Return it in another unit; `factor` is not negative."""
        return Figure(self.value * factor, self.low * factor, self.high * factor)


class Recorded(Struct, frozen=True):
    """The baseline: what was written down before the pilot began; None: it was not."""

    minutes_per_item: float | None = None
    error_ratio: float | None = None
    cost_per_hour: float | None = None


class Row(Struct, frozen=True):
    """One figure: measured (None: it was not), recorded before, and what may be said of the two."""

    name: str
    measured: Figure | None
    baseline: float | None
    verdict: Verdict


class Pilot(Struct, frozen=True, kw_only=True):
    """A gate's report. `hours_saved` is None unless time and baseline are both there; it may be negative."""

    gate: str
    items: int
    reviewed: int
    left_out: int
    rows: tuple[Row, ...]
    hours_saved: Figure | None


class Spent:
    """Sums up people's minutes over the items of one gate, without keeping them."""

    def __init__(self) -> None:
        self.items = self.reviewed = self.left_out = 0
        self._sum = self._squares = 0.0

    def add(self, minutes: float, *, reviewed: bool) -> None:
        """Count one item that took people so long: 0.0 where it went out alone."""
        self.items += 1
        self.reviewed += reviewed
        self._sum += minutes
        self._squares += minutes * minutes

    def leave_out(self) -> None:
        """Count one item of which nobody knows yet how long it will take."""
        self.left_out += 1

    @property
    def minutes(self) -> float:
        """Return the minutes of all items together."""
        return self._sum

    @property
    def mean(self) -> Figure | None:
        """Return minutes per item; None where too little was measured. A mean of durations is never below zero."""
        n = self.items
        if n < ITEMS_MIN or self.reviewed < REVIEWED_MIN:
            return None
        mean = self._sum / n
        half = _Z * math.sqrt(max(0.0, self._squares - n * mean * mean) / (n - 1) / n)
        return Figure(mean, max(0.0, mean - half), mean + half)


def pilot(gate: str, spent: Spent, errors: Rate | None, baseline: Recorded) -> Pilot:
    """Compare what was measured with what was recorded. `errors`: of what was sent (`core.mistakes.estimate`)."""
    minutes, before, wage = spent.mean, baseline.minutes_per_item, baseline.cost_per_hour
    cost = None if minutes is None or wage is None else minutes.times(wage / 60)
    cost_before = None if before is None or wage is None else before * wage / 60
    wrong = None if errors is None or errors.rate is None else Figure(errors.rate, errors.low, errors.high)
    rows = (
        _row("minutes_per_item", minutes, before),
        _row("cost_per_item", cost, cost_before),
        _row("error_ratio", wrong, baseline.error_ratio),
    )
    return Pilot(
        gate=gate,
        items=spent.items,
        reviewed=spent.reviewed,
        left_out=spent.left_out,
        rows=rows,
        hours_saved=_saved(minutes, before, spent.items),
    )


def _row(name: str, measured: Figure | None, baseline: float | None) -> Row:
    if measured is None:
        return Row(name, None, baseline, "not measured")
    if baseline is None:
        return Row(name, measured, None, "no baseline")
    if measured.high < baseline:
        return Row(name, measured, baseline, "lower")
    return Row(name, measured, baseline, "higher" if measured.low > baseline else "not told apart")


def _saved(minutes: Figure | None, before: float | None, items: int) -> Figure | None:
    if minutes is None or before is None:
        return None
    return Figure(*((before - each) * items / 60 for each in (minutes.value, minutes.high, minutes.low)))
