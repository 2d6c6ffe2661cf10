"""`hitl report digest | queues | yield | pilot | errors | monthly | reviewer-load`: figures from the log.

Each says what it rests on. Nothing is claimed that was not measured: where there was nothing to count there is a dash,
and where an interval is too wide to tell two figures apart, the table says so. With `--html` a page is written besides,
with charts.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.report_page import Page, Section, write_page
from hitl_stream.cli.report_sections import (
    DASH,
    FIGURES,
    LOAD_NOTES,
    MONTHLY_NOTES,
    PILOT_NOTES,
    figure,
    load_sections,
    measured,
    monthly_sections,
    pilot_sections,
    rate,
    saved,
)
from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import WEEK, Until, checked_log, duration, now_ms, policy_in_force, say_seals, stretch
from hitl_stream.cli.terminal import emit, out, say
from hitl_stream.cli.topics import reading
from hitl_stream.core.digest import DigestRow
from hitl_stream.core.escape import escaped
from hitl_stream.core.intervals import Rate
from hitl_stream.core.pilot import Pilot
from hitl_stream.core.waiting import Spread, WaitingRow
from hitl_stream.core.yields import Yield
from hitl_stream.lane.exports import Checked
from hitl_stream.lane.reports import Errors, Reports
from hitl_stream.settings import Settings
from hitl_stream.wire.records import time_text

T = TypeVar("T")
Since = Annotated[str, Parameter(name="--since", help="Only what was appended since: 7d ago, or a time.")]
Html = Annotated[Path | None, Parameter(name="--html", help="Also write a page with charts to this file.")]
MONTHS = "90d"


def register(app: App) -> None:
    """Add the verbs."""
    report = App(name="report", help="Figures from the log: what ran alone, what waits, what was wrong.")
    for verb in (digest, queues, pilot, errors, monthly):
        report.command(verb)
    report.command(yield_, name="yield")
    report.command(reviewer_load, name="reviewer-load")
    app.command(report)


# --- digest -----------------------------------------------------------------------------------------------------------


def digest(*, since: Since = WEEK, until: Until = None, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """What was done without anybody: by class and agent, how often, how much money, the largest, the audited share.

    Parameters
    ----------
    json
        One object on stdout: {currency, rows}.
    """
    rows, reports = _reported(flags.load(), since, until, lambda reports: reports.digest())
    currency = reports.policy.currency
    if json:
        emit({"currency": currency, "rows": [_plain(row) | {"audit_share": row.audit_share} for row in rows]})
    else:
        _show_digest(rows, currency)
    return _done(reports)


def _show_digest(rows: Sequence[DigestRow], currency: str) -> None:
    titles = ("class", "level", "agent", "actions", f"moved {currency}", f"largest {currency}", "largest", "audited")
    table = _table(titles, left=("class", "agent", "largest"))
    for row in rows:
        table.add_row(
            _text(row.cls), str(row.level), _text(row.agent), f"{row.count:,}",
            _amount(row.money, row.unpriced, row.count),
            DASH if row.largest_money is None else _money(row.largest_money), _text(row.largest or DASH),
            f"{row.audit_share:.1%}",
        )  # fmt: skip
    total = sum(row.count for row in rows)
    _show(table, rows, f"{total:,} actions ran alone")
    _note_unpriced(sum(row.unpriced for row in rows))


# --- queues -----------------------------------------------------------------------------------------------------------


def queues(*, since: Since = WEEK, until: Until = None, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """How long people let things wait and how long they take, and what waits for them now, with its money.

    Parameters
    ----------
    json
        One object on stdout: {currency, rows}; times in milliseconds.
    """
    rows, reports = _reported(flags.load(), since, until, lambda reports: reports.queues(now_ms()))
    if json:
        emit({"currency": reports.policy.currency, "rows": [_plain(row) for row in rows]})
    else:
        _show_queues(rows, reports.policy.currency)
    return _done(reports)


def _show_queues(rows: Sequence[WaitingRow], currency: str) -> None:
    titles = ("queue", "class", "judged", "wait p50", "p95", "handling p50", "p95", "open", "age p50", "oldest",
              f"waiting {currency}")  # fmt: skip
    table = _table(titles, left=("queue", "class"))
    for row in rows:
        oldest = duration(row.oldest_ms)
        age = DASH if row.age is None else duration(row.age.p50)
        table.add_row(
            _text(row.queue), _text(row.cls), f"{row.judged:,}", *_spread(row.wait), *_spread(row.handling),
            f"{row.open:,}", age, oldest, _amount(row.money, row.unpriced, row.open),
        )  # fmt: skip
    _show(table, rows, f"{sum(row.open for row in rows):,} items wait")
    _note_unpriced(sum(row.unpriced for row in rows))


def _spread(found: Spread | None) -> tuple[str, str]:
    return (DASH, DASH) if found is None else (duration(found.p50), duration(found.p95))


# --- yield ------------------------------------------------------------------------------------------------------------


def yield_(*, since: Since = "30d", until: Until = None, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """How many corrections the first items hold if the most uncertain come first, against random order.

    Computed from judgements that were given in whatever order; it assumes that they do not depend on it.

    Parameters
    ----------
    json
        One object on stdout: {n, corrected, rows}.
    """
    found, reports = _reported(flags.load(), since, until, lambda reports: reports.yields())
    if json:
        rows = [_plain(row) | {"beyond_chance": row.beyond_chance} for row in found.rows]
        emit({"n": found.n, "corrected": found.corrected, "rows": rows})
    else:
        _show_yield(found)
    return _done(reports)


def _show_yield(found: Yield) -> None:
    table = _table(("first items", "uncertain first", "random order", "90 % of shuffles", ""), left=("",))
    for row in found.rows:
        word = "more than chance" if row.beyond_chance else "less than chance" if row.uncertain < row.low else ""
        table.add_row(f"{row.k:,}", f"{row.uncertain:.1f}", f"{row.random:.1f}", f"{row.low:,} – {row.high:,}", word)
    _show(table, found.rows, f"{found.corrected:,} corrections among {found.n:,} judged items with a score")


# --- pilot ------------------------------------------------------------------------------------------------------------


def pilot(
    *, since: Since = "30d", until: Until = None, json: Json = False, html: Html = None, flags: SettingsFlags = NO_FLAGS
) -> int:
    """Time, cost and outcome of each gate that has a recorded baseline, against that, each with its interval.

    Parameters
    ----------
    json
        One object on stdout: {gates: [{gate, items, reviewed, rows, hours_saved}]}.
    """
    found, reports = _reported(flags.load(), since, until, lambda reports: reports.pilots())
    _write(html, "Pilots against their baselines", reports, pilot_sections(found), PILOT_NOTES)
    if json:
        emit({"gates": [_plain(one) for one in found]})
        return _done(reports)
    if not found:
        say("no gate of the policy has a baseline, so that there is nothing to compare with")
    for one in found:
        _show_pilot(one)
    return _done(reports)


def _show_pilot(one: Pilot) -> None:
    left_out = f"; {one.left_out:,} wait or expired, and are left out" if one.left_out else ""
    counts = f"{one.items:,} items, {one.reviewed:,} looked at by people{left_out}"
    _print(Text(escaped(f"{one.gate}: {counts}"), "bold"))
    table = _table(("figure", "measured", "95 % interval", "baseline", ""), left=("figure", ""))
    for row in one.rows:
        table.add_row(FIGURES[row.name], *measured(row), DASH if row.baseline is None else figure(row, row.baseline),
                      row.verdict)  # fmt: skip
    out.print(table)
    _print(f"hours saved: {saved(one)}")
    out.print()


# --- errors -----------------------------------------------------------------------------------------------------------


def errors(*, since: Since = MONTHS, until: Until = None, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """What observing gates would have done, how much of what was sent was wrong, and errors by type, month by month.

    Parameters
    ----------
    json
        One object on stdout: {observing, sent, months}.
    """
    found, reports = _reported(flags.load(), since, until, lambda reports: reports.errors())
    if json:
        emit({
            "observing": [_plain(row) for row in found.watched],
            "sent": [_plain(row) for row in found.sent],
            "months": [_plain(row) for row in found.months],
        })  # fmt: skip
    else:
        _show_errors(found)
    return _done(reports)


def _show_errors(found: Errors) -> None:
    _print(Text("Gates that only observe", "bold"))
    table = _table(("gate", "actions", "would divert", "95 % interval", "of judged: alarms", "misses", "by type"),
                   left=("gate", "by type"))  # fmt: skip
    for gate in found.watched:
        types = ", ".join(f"{name} {count:,}" for name, count in gate.by_error.items())
        table.add_row(_text(gate.gate), f"{gate.diverted.n:,}", *rate(gate.diverted), _of(gate.alarms),
                      _of(gate.misses), _text(types or DASH))  # fmt: skip
    _show(table, found.watched)
    _print(Text("Errors among what was sent, from random samples judged blind", "bold"))
    table = _table(("of", "name", "wrong", "judged", "error rate", "95 % interval", "people find", ""),
                   left=("of", "name", ""))  # fmt: skip
    for row in found.sent:
        hits = DASH if row.hit_rate is None else f"{row.hit_rate:.0%}"
        table.add_row(row.what, _text(row.name), f"{row.rate.bad:,}", f"{row.rate.n:,}", *rate(row.rate), hits,
                      "weighted" if row.weighted else "")  # fmt: skip
    _show(table, found.sent)
    if any(row.hit_rate is None for row in found.sent):
        say("where it is not known what share of errors people find, the rate is of the errors that were found")
    _print(Text("Errors that people found, by month", "bold"))
    table = _table(("month", "type", "found", "judged", "share", "95 % interval", ""), left=("month", "type", ""))
    for month in found.months:
        table.add_row(month.month, _text(month.error), f"{month.rate.bad:,}", f"{month.rate.n:,}", *rate(month.rate),
                      month.direction or "")  # fmt: skip
    _show(table, found.months)


def _of(found: Rate) -> str:
    return f"{found.bad:,} of {found.n:,}" if found.n else DASH


# --- monthly, reviewer-load -------------------------------------------------------------------------------------------


def monthly(
    *,
    since: Since = "365d",
    until: Until = None,
    json: Json = False,
    html: Html = None,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Errors by type, month by month, with direction; planted errors that were missed; what of the sent was wrong.

    Parameters
    ----------
    json
        One object on stdout: {months, missed, sent}.
    """
    found, reports = _reported(flags.load(), since, until, lambda reports: reports.monthly())
    sections = monthly_sections(found)
    _write(html, "Errors by type and month", reports, sections, MONTHLY_NOTES)
    if json:
        emit(_plain(found))
    else:
        _show_sections(sections)
    return _done(reports)


def reviewer_load(
    *, since: Since = "30d", until: Until = None, json: Json = False, html: Html = None, flags: SettingsFlags = NO_FLAGS
) -> int:
    """What reviewing costs people: minutes for 1,000 actions and by gate, hours against baselines, by session and hour.

    Parameters
    ----------
    json
        One object on stdout: {everything, gates, planted_minutes, pilots, sessions, hours, yields}.
    """
    found, reports = _reported(flags.load(), since, until, lambda reports: reports.load())
    sections = load_sections(found)
    _write(html, "What reviewing costs", reports, sections, LOAD_NOTES)
    if json:
        gates = [_plain(gate) | {"per_1000": gate.per_1000} for gate in found.gates]
        every = _plain(found.everything) | {"per_1000": found.everything.per_1000}
        emit(_plain(found) | {"everything": every, "gates": gates})
    else:
        _show_sections(sections)
    return _done(reports)


def _show_sections(sections: Sequence[Section]) -> None:
    for section in sections:
        _print(Text(section.title, "bold"))
        for text in section.texts:
            _print(escaped(text))
        if section.titles:
            table = _table(section.titles, left=[section.titles[at] for at in section.left])
            for row in section.rows:
                table.add_row(*map(_text, row))
            _show(table, section.rows)
        else:
            out.print()


def _write(path: Path | None, title: str, reports: Reports, sections: Sequence[Section], notes: Sequence[str]) -> None:
    """Write a page, if one is wanted: with what it is of, and what was left out of it."""
    if path is None:
        return
    log, policy = reports.log, reports.policy
    begin = "the beginning" if log.since_ms is None else time_text(log.since_ms)
    end = "now" if log.until_ms is None else time_text(log.until_ms)
    about = (
        ("Of", f"policy {policy.policy}, topics {log.log.topics.prefix}*"),
        ("Appended", f"from {begin} until {end}"),
        ("Made", time_text(now_ms())),
    )
    page = Page(title=title, about=about, sections=tuple(sections), notes=(*notes, *_left_out(reports)))
    write_page(page, path)
    say(f"page: {path}")


def _left_out(reports: Reports) -> tuple[str, ...]:
    log = reports.log
    said = [f"Left out: {count:,} of {name} that cannot be read." for name, count in sorted(reports.unreadable.items())]
    said += [f"Left out: {count:,} of {name} whose seals do not fit." for name, count in sorted(log.bad.items())]
    said += [
        f"Not checked, since their writer's seal keys were not here: {count:,} of {name}."
        for name, count in sorted(log.unchecked.items())
    ]
    return tuple(said) or ("Nothing was left out: every record was read, and its seal was good.",)


# --- what all share ---------------------------------------------------------------------------------------------------


def _reported(
    settings: Settings, since: str, until: str | None, make: Callable[[Reports], Coroutine[Any, Any, T]]
) -> tuple[T, Reports]:
    checked = checked_log(settings, *stretch(since, until))
    return reading(_made(settings, checked, make))


async def _made(
    settings: Settings, checked: Checked, make: Callable[[Reports], Coroutine[Any, Any, T]]
) -> tuple[T, Reports]:
    force = await policy_in_force(settings)
    reports = Reports(checked, force.loaded.policy)
    return await make(reports), reports


def _done(reports: Reports) -> int:
    """Say what was left out, and return the exit code."""
    for name, count in sorted(reports.unreadable.items()):
        say(f"left out: {count:,} of {reports.log.log.topics.name(name)} that cannot be read")
    return FOUND if say_seals(reports.log) or reports.unreadable else 0


def _plain(row: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(row)
    return plain


def _table(titles: Iterable[str], left: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in left else "right", overflow="fold")
    return table


def _show(table: Table, rows: Sequence[object], more: str = "") -> None:
    if rows:
        out.print(table)
    else:
        _print("nothing yet")
    if more:
        _print(more)
    out.print()


def _note_unpriced(count: int) -> None:
    if count:
        say(f"{count:,} actions have no amount in a currency that the policy knows; they are in no sum")


def _money(amount: Decimal) -> str:
    return f"{amount:,.2f}"


def _amount(amount: Decimal, unpriced: int, count: int) -> str:
    return DASH if unpriced == count else _money(amount)


def _text(value: str) -> Text:
    return Text(escaped(value))


def _print(line: str | Text) -> None:
    out.print(line, markup=False, soft_wrap=True)
