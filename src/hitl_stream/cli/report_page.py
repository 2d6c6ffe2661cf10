"""A report as one page of HTML: charts, the same numbers as tables, and what they rest on.

- It stands alone: no script, nothing that is loaded, no link; a policy in its head forbids the browser both.
- It is light or dark as the reader's screen is, and prints on white.
- Every text is escaped, for HTML and for characters that nobody sees.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from hitl_stream.core.errors import SettingsError, UsageError
from hitl_stream.core.escape import escaped

WIDTH, LEFT, RIGHT = 720, 200, 570
ROW, FOOT = 24, 24
LABEL_MAX = 27
TEMPLATE = "report.html"
INSTALL = "pip install 'hitl-stream[console]'"


class Bar(Struct, frozen=True, kw_only=True):
    """One row of a chart: a value, the range around it, a mark to compare with. None is not drawn.

    `text` is what stands behind it.
    """

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    mark: float | None = None
    text: str = ""


class Chart(Struct, frozen=True, kw_only=True):
    """Rows under each other on one scale, from 0 to the nearest round number over all; `says` writes that number."""

    title: str
    bars: tuple[Bar, ...]
    legend: str = ""
    says: Callable[[float], str] = "{:g}".format


class Section(Struct, frozen=True, kw_only=True):
    """Part of a page: sentences, charts, a table. `left` are the columns that hold words."""

    title: str
    texts: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    titles: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    left: tuple[int, ...] = (0,)


class Page(Struct, frozen=True, kw_only=True):
    """A whole report. `about` says of what and when, `notes` what it assumes and what was left out."""

    title: str
    about: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...]


class Drawn(Struct, frozen=True, kw_only=True):
    """A chart in units of its picture."""

    width: int
    height: int
    left: int
    right: int
    top: str
    words: str
    rows: tuple[DrawnRow, ...]


class DrawnRow(Struct, frozen=True, kw_only=True):
    """A row of it: `range` begins at and is so wide."""

    label: str
    short: str
    text: str
    y: int
    value: float | None
    range: tuple[float, float] | None
    mark: float | None


def write_page(page: Page, path: Path) -> None:
    """Write a page to a file, in one step; what was there before is replaced.

    Raises:
        SettingsError: the template library is not installed.
        UsageError: the file cannot be written.
    """
    html = rendered(page)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(html, "utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(
            f"--html {path}: cannot be written ({error.strerror}); name a file in a directory that is there"
        ) from None


def rendered(page: Page) -> str:
    """Return a page as HTML that is well-formed XML, too."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined  # here: a router needs no templates
    except ImportError:
        raise SettingsError(f"--html needs jinja2, which is not installed; run: {INSTALL}") from None
    loader = PackageLoader("hitl_stream", "cli/templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_visible
    )
    return environment.get_template(TEMPLATE).render(page=page, draw=drawn)


def drawn(chart: Chart) -> Drawn:
    """Lay a chart out."""
    numbers = [
        number for bar in chart.bars for number in (bar.value, bar.low, bar.high, bar.mark) if number is not None
    ]
    top = round_up(max(numbers, default=0.0))

    def x(number: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * min(max(number, 0.0), top) / top, 1)

    rows = []
    for index, bar in enumerate(chart.bars):
        low, high = bar.low, bar.high
        rows.append(
            DrawnRow(
                label=bar.label,
                short=bar.label if len(bar.label) <= LABEL_MAX else f"{bar.label[: LABEL_MAX - 1]}…",
                text=bar.text,
                y=index * ROW,
                value=None if bar.value is None else x(bar.value) - 2,
                range=None if low is None or high is None else (x(low), round(x(high) - x(low), 1)),
                mark=None if bar.mark is None else x(bar.mark),
            )
        )
    words = "; ".join(f"{bar.label} {bar.text}" for bar in chart.bars)
    height = len(rows) * ROW + FOOT
    return Drawn(width=WIDTH, height=height, left=LEFT, right=RIGHT, top=chart.says(top), words=words, rows=tuple(rows))


def round_up(number: float) -> float:
    """Return the smallest of 1, 2, 5, 10, … that is no smaller, at any power of ten; 1 for nothing.

    >>> round_up(0.034), round_up(7.2), round_up(0.0), round_up(50.0)
    (0.05, 10.0, 1.0, 50.0)
    """
    if number <= 0.0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(number))
    return next(step * size for step in (1.0, 2.0, 5.0, 10.0) if number <= step * size * (1 + 1e-9))


def shares(rows: Sequence[tuple[str, float | None, float, float, str]]) -> tuple[Bar, ...]:
    """Return bars of (label, share, low, high, text); one that nobody knows has no range either."""
    return tuple(
        Bar(label=label, value=value, low=None if value is None else low, high=None if value is None else high,
            text=text)
        for label, value, low, high, text in rows
    )  # fmt: skip


def _visible(value: Any) -> Any:
    """Make what nobody could see visible; jinja escapes it for HTML afterwards."""
    return escaped(value) if type(value) is str else value
