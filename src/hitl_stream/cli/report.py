"""`hitl report digest | queues | yield | pilot | errors`: figures from the log, each with what it rests on.

Nothing is claimed that was not measured: where there was nothing to count there is a dash, and where an interval is too
wide to tell two figures apart, the table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import msgspec
from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import WEEK, Until, checked_log, duration, now_ms, policy_in_force, say_seals, stretch
from hitl_stream.cli.terminal import emit, out, say
from hitl_stream.cli.topics import reading
from hitl_stream.core.digest import DigestRow
from hitl_stream.core.escape import escaped
from hitl_stream.core.intervals import Rate
from hitl_stream.core.pilot import Figure, Pilot, Row
from hitl_stream.core.waiting import Spread, WaitingRow
from hitl_stream.core.yields import Yield
from hitl_stream.lane.exports import Checked
from hitl_stream.lane.reports import Errors, Reports
from hitl_stream.settings import Settings

T = TypeVar("T")
Since = Annotated[str, Parameter(name="--since", help="Only what was appended since: 7d ago, or a time.")]
DASH = "–"
MONTHS = "90d"
FIGURES = {
    "minutes_per_item": "minutes an item",
    "cost_per_item": "cost an item",
    "error_ratio": "errors among the sent",
}


def register(app: App) -> None:
    """Add the verbs."""
    report = App(name="report", help="Figures from the log: what ran alone, what waits, what was wrong.")
    for verb in (digest, queues, pilot, errors):
        report.command(verb)
    report.command(yield_, name="yield")
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


def pilot(*, since: Since = "30d", until: Until = None, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Time, cost and outcome of each gate that has a recorded baseline, against that, each with its interval.

    Parameters
    ----------
    json
        One object on stdout: {gates: [{gate, items, reviewed, rows, hours_saved}]}.
    """
    found, reports = _reported(flags.load(), since, until, lambda reports: reports.pilots())
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
        table.add_row(FIGURES[row.name], *_measured(row), DASH if row.baseline is None else _value(row, row.baseline),
                      row.verdict)  # fmt: skip
    out.print(table)
    saved = one.hours_saved
    if saved is None:
        _print("hours saved: not known, since time or its baseline is missing")
    else:
        _print(
            f"hours saved: {saved.value:,.1f} ({saved.low:,.1f} to {saved.high:,.1f}), against the recorded baseline"
        )
    out.print()


def _measured(row: Row) -> tuple[str, str]:
    found: Figure | None = row.measured
    if found is None:
        return DASH, DASH
    return _value(row, found.value), f"{_value(row, found.low)} – {_value(row, found.high)}"


def _value(row: Row, value: float) -> str:
    return f"{value:.2%}" if row.name == "error_ratio" else f"{value:,.2f}"


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
        table.add_row(_text(gate.gate), f"{gate.diverted.n:,}", *_rate(gate.diverted), _of(gate.alarms),
                      _of(gate.misses), _text(types or DASH))  # fmt: skip
    _show(table, found.watched)
    _print(Text("Errors among what was sent, from random samples judged blind", "bold"))
    table = _table(("of", "name", "wrong", "judged", "error rate", "95 % interval", "people find", ""),
                   left=("of", "name", ""))  # fmt: skip
    for row in found.sent:
        hits = DASH if row.hit_rate is None else f"{row.hit_rate:.0%}"
        table.add_row(row.what, _text(row.name), f"{row.rate.bad:,}", f"{row.rate.n:,}", *_rate(row.rate), hits,
                      "weighted" if row.weighted else "")  # fmt: skip
    _show(table, found.sent)
    if any(row.hit_rate is None for row in found.sent):
        say("where it is not known what share of errors people find, the rate is of the errors that were found")
    _print(Text("Errors that people found, by month", "bold"))
    table = _table(("month", "type", "found", "judged", "share", "95 % interval", ""), left=("month", "type", ""))
    for month in found.months:
        table.add_row(month.month, _text(month.error), f"{month.rate.bad:,}", f"{month.rate.n:,}", *_rate(month.rate),
                      month.direction or "")  # fmt: skip
    _show(table, found.months)


def _rate(rate: Rate) -> tuple[str, str]:
    share = DASH if rate.rate is None else f"{rate.rate:.2%}"
    return share, f"{rate.low:.2%} – {rate.high:.2%}" if rate.n else DASH


def _of(rate: Rate) -> str:
    return f"{rate.bad:,} of {rate.n:,}" if rate.n else DASH


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
