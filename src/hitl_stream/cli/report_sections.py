"""The parts of reports that stand on a page and on the terminal alike: their sentences, charts and tables."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from hitl_stream.cli.report_page import Bar, Chart, Section, shares
from hitl_stream.cli.stretch import duration
from hitl_stream.core.intervals import Rate
from hitl_stream.core.load import GateLoad, LoadRow
from hitl_stream.core.mistakes import MonthRow, SentRow
from hitl_stream.core.pilot import Figure, Pilot, Row
from hitl_stream.core.yields import At, Yield
from hitl_stream.lane.reports import Load, Monthly

DASH = "–"
FIGURES = {
    "minutes_per_item": "minutes an item",
    "cost_per_item": "cost an item",
    "error_ratio": "errors among the sent",
}
INTERVALS = "Intervals are 95 %: Clopper-Pearson for shares, normal for means. Where two meet, nothing is told apart."
FOUND_ONLY = (
    "Where it is not known what share of errors people find, since fewer than 20 were planted, the rate is of the "
    "errors that were found."
)
MONTHLY_NOTES = (
    INTERVALS,
    "An error is what a person rejected or changed, by the type of the reason given. What they were asked about "
    "because a rule fired is no random sample: shares by month tell the direction, not the rate of everything.",
    "Errors among what was sent rest on random samples judged blind: audit copies, and what was drawn from batches. "
    "Items drawn with different probabilities are weighted, and the rate is divided by the share of planted errors "
    "that people find.",
    FOUND_ONLY,
    "A planted error that was let go twice counts as missed.",
)
PILOT_NOTES = (
    INTERVALS,
    "Minutes are people's, over all items: what went out alone took none. What still waits, or expired unseen, is left "
    "out, and counted beside.",
    "Below 30 items, or 10 that anybody looked at, nothing is said to have been measured.",
    "The baseline is taken as its owner recorded it; how certain it was is not known here.",
    FOUND_ONLY,
)
LOAD_NOTES = (
    INTERVALS,
    "Time is from when an item was painted to when it was decided. A tab that was left open counts as work, thinking "
    "about an item that was left for later does not.",
    "What still waits, or expired unseen, has no time yet and is left out of the minutes for 1,000 actions.",
    "A session is what one person judges without a gap of five minutes; hours are those of the policy's time zone. "
    "Nobody is named: each row is of everybody.",
    "Whether people still look is told by planted errors alone. What comes late or at night may be harder or easier: "
    "objections and times differ for that reason, too.",
    "Uncertain first is computed from judgements that were given in whatever order; it assumes that they do not depend "
    "on it.",
)


# --- monthly ----------------------------------------------------------------------------------------------------------


def monthly_sections(found: Monthly) -> tuple[Section, ...]:
    """Return errors by month, planted errors that were missed, and the error rate of what was sent.

    Batches are left to `hitl report errors`: a year has thousands.
    """
    return (
        Section(
            title="Errors that people found, by month",
            charts=tuple(_months_of(error, found.months) for error in dict.fromkeys(row.error for row in found.months)),
            titles=("month", "type", "found", "judged", "share", "95 % interval", "direction"),
            rows=tuple(
                (row.month, row.error, f"{row.rate.bad:,}", f"{row.rate.n:,}", *rate(row.rate), row.direction or DASH)
                for row in found.months
            ),
            left=(0, 1, 6),
        ),
        Section(
            title="Planted errors that nobody objected to, by type",
            texts=("Each is an action that was made plainly wrong, put to one person, and can never run.",),
            charts=(_chart("Share that was missed", [(error, each) for error, each in found.missed.items()]),),
            titles=("type", "missed", "planted", "share", "95 % interval"),
            rows=tuple((error, f"{each.bad:,}", f"{each.n:,}", *rate(each)) for error, each in found.missed.items()),
        ),
        sent_section([row for row in found.sent if row.what != "batch"]),
    )


def sent_section(rows: Sequence[SentRow]) -> Section:
    """Return the error rate of what was sent."""
    charted = [(f"{row.what} {row.name}" if row.what != "all" else "all", row.rate) for row in rows]
    return Section(
        title="Errors among what was sent, from random samples judged blind",
        charts=(_chart("Error rate", charted),),
        titles=("of", "name", "wrong", "judged", "error rate", "95 % interval", "people find", ""),
        rows=tuple(
            (row.what, row.name, f"{row.rate.bad:,}", f"{row.rate.n:,}", *rate(row.rate),
             DASH if row.hit_rate is None else f"{row.hit_rate:.0%}", "weighted" if row.weighted else "")
            for row in rows
        ),
        left=(0, 1, 7),
    )  # fmt: skip


def _months_of(error: str, months: Sequence[MonthRow]) -> Chart:
    rows = [(row.month, row.rate) for row in months if row.error == error]
    return _chart(f"{error}: share of judged items", rows)


# --- pilot ------------------------------------------------------------------------------------------------------------


def pilot_sections(found: Sequence[Pilot]) -> tuple[Section, ...]:
    """Return a section for each gate that has a baseline."""
    if not found:
        return (Section(title="Pilots", texts=(NO_BASELINE,)),)
    return tuple(_pilot(one) for one in found)


NO_BASELINE = "No gate of the policy has a baseline, so that there is nothing to compare with."


def _pilot(one: Pilot) -> Section:
    left_out = f" {one.left_out:,} wait or expired, and are left out." if one.left_out else ""
    return Section(
        title=one.gate,
        texts=(f"{one.items:,} items, {one.reviewed:,} looked at by people.{left_out}", f"Hours saved: {saved(one)}."),
        charts=tuple(
            Chart(title=FIGURES[row.name].capitalize(), bars=(_measured(row),), legend=COMPARED,
                  says=partial(figure, row))
            for row in one.rows
            if row.measured is not None
        ),
        titles=("figure", "measured", "95 % interval", "baseline", "verdict"),
        rows=tuple(
            (FIGURES[row.name], *measured(row), DASH if row.baseline is None else figure(row, row.baseline),
             row.verdict)
            for row in one.rows
        ),
        left=(0, 4),
    )  # fmt: skip


def _measured(row: Row) -> Bar:
    found = row.measured
    assert found is not None  # the caller has looked
    return Bar(
        label="measured", value=found.value, low=found.low, high=found.high, mark=row.baseline,
        text=" ".join(measured(row)),
    )  # fmt: skip


def measured(row: Row) -> tuple[str, str]:
    """Return what was measured and its interval; dashes where nothing was."""
    found: Figure | None = row.measured
    if found is None:
        return DASH, DASH
    return figure(row, found.value), f"{figure(row, found.low)} – {figure(row, found.high)}"


def figure(row: Row, value: float) -> str:
    """Write one value of a row."""
    return f"{value:.2%}" if row.name == "error_ratio" else f"{value:,.2f}"


def saved(one: Pilot) -> str:
    """Say how many hours were saved, or why nobody knows."""
    hours = one.hours_saved
    if hours is None:
        return "not known, since time or its baseline is missing"
    return f"{hours.value:,.1f} ({hours.low:,.1f} to {hours.high:,.1f}), against the recorded baseline"


# --- reviewer load ----------------------------------------------------------------------------------------------------


def load_sections(found: Load) -> tuple[Section, ...]:
    """Return minutes for 1,000 actions, hours against baselines, by session, by hour, and the yield of an order."""
    return (
        _minutes(found),
        _baselines(found.pilots),
        _parts("By length of session", found.sessions),
        _parts("By time of day", found.hours),
        yield_section(found.yields),
    )


def _minutes(found: Load) -> Section:
    rows = (found.everything, *found.gates)
    return Section(
        title="Minutes of people for 1,000 actions",
        texts=(f"Besides, {found.planted_minutes:,.1f} minutes went into planted errors, which tell who still looks.",),
        charts=(
            Chart(
                title="Minutes for 1,000 actions",
                bars=tuple(Bar(label=_of(row), value=row.per_1000, text=_per_1000(row)) for row in rows),
                says="{:,g}".format,
            ),
        ),
        titles=("of", "actions", "looked at", "minutes", "for 1,000", "left out: waiting"),
        rows=tuple(
            (_of(row), f"{row.items:,}", f"{row.reviewed:,}", f"{row.minutes:,.1f}", _per_1000(row),
             f"{row.left_out:,}")
            for row in rows
        ),
    )  # fmt: skip


def _of(row: GateLoad) -> str:
    return f"gate {row.gate}" if row.gate else "all actions"


def _per_1000(row: GateLoad) -> str:
    return DASH if row.per_1000 is None else f"{row.per_1000:,.1f}"


def _baselines(pilots: Sequence[Pilot]) -> Section:
    minutes = [(one, next(row for row in one.rows if row.name == "minutes_per_item")) for one in pilots]
    return Section(
        title="Hours against the recorded baseline",
        texts=() if pilots else (NO_BASELINE,),
        charts=(
            Chart(
                title="Minutes an item",
                legend=COMPARED,
                bars=tuple(
                    Bar(label=one.gate, value=row.measured.value, low=row.measured.low, high=row.measured.high,
                        mark=row.baseline, text=measured(row)[0])
                    for one, row in minutes
                    if row.measured is not None
                ),
            ),
        ),
        titles=("gate", "minutes an item", "95 % interval", "baseline", "verdict", "hours saved") if pilots else (),
        rows=tuple(
            (one.gate, *measured(row), DASH if row.baseline is None else figure(row, row.baseline), row.verdict,
             saved(one))
            for one, row in minutes
        ),
        left=(0, 4, 5),
    )  # fmt: skip


def _parts(title: str, rows: Sequence[LoadRow]) -> Section:
    seen = [row for row in rows if row.items]
    return Section(
        title=title,
        charts=(_chart("Planted errors that were missed", [(row.name, row.missed) for row in seen]),),
        titles=("when", "items", "minutes", "handling p50", "p95", "objected", "too fast", "missed", "of planted",
                "share missed", "95 % interval"),
        rows=tuple(
            (row.name, f"{row.items:,}", f"{row.minutes:,.1f}",
             *(map(duration, (None, None) if row.handling is None else (row.handling.p50, row.handling.p95))),
             rate(row.objected)[0], rate(row.hurried)[0], f"{row.missed.bad:,}", f"{row.missed.n:,}", *rate(row.missed))
            for row in seen
        ),
    )  # fmt: skip


def yield_section(found: Yield) -> Section:
    """Return how many corrections the first items hold, most uncertain first, against random order."""
    return Section(
        title="Most uncertain first, against random order",
        texts=(f"{found.corrected:,} corrections among {found.n:,} judged items with a score.",),
        charts=(
            Chart(
                title="Corrections in the first items",
                legend="bar: uncertain first; band: 90 of 100 shuffles; line: random order",
                bars=tuple(
                    Bar(label=f"first {row.k:,}", value=row.uncertain, low=row.low, high=row.high, mark=row.random,
                        text=f"{row.uncertain:.1f}, random {row.random:.1f}")
                    for row in found.rows
                ),
            ),
        ),
        titles=("first items", "uncertain first", "random order", "90 % of shuffles", "verdict"),
        rows=tuple(
            (f"{row.k:,}", f"{row.uncertain:.1f}", f"{row.random:.1f}", f"{row.low:,} – {row.high:,}",
             _verdict(row))
            for row in found.rows
        ),
        left=(4,),
    )  # fmt: skip


def _verdict(row: At) -> str:
    if row.beyond_chance:
        return "more than chance"
    return "less than chance" if row.uncertain < row.low else "not told apart"


# --- small things -----------------------------------------------------------------------------------------------------

COMPARED = "bar: measured; band: 95 % interval; line: baseline"


def rate(found: Rate) -> tuple[str, str]:
    """Write a share and its interval; dashes where nothing was counted."""
    share = DASH if found.rate is None else f"{found.rate:.2%}"
    return share, f"{found.low:.2%} – {found.high:.2%}" if found.n else DASH


def _chart(title: str, rows: Sequence[tuple[str, Rate]]) -> Chart:
    """Return a chart of shares."""
    bars = shares([(label, each.rate, each.low, each.high, f"{rate(each)[0]} of {each.n:,}") for label, each in rows])
    return Chart(title=title, bars=bars, legend="bar: share; band: 95 % interval", says="{:.0%}".format)
