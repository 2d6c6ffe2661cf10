"""How `hitl demo` looks: one calm screen on a terminal, a line every five seconds elsewhere, a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.style import Style
from rich.table import Table
from rich.text import Text

from hitl_stream.core.escape import escaped
from hitl_stream.dev.guest import Guest
from hitl_stream.dev.people_tally import WORDS, Alarm, Pace, People
from hitl_stream.dev.stops import Stop
from hitl_stream.dev.tally import DEAD, NOTICES_MAX, OUTCOMES, RECOMMEND, Numbers, Tally

LINE_SECONDS = 5.0
NOTICE_SECONDS = 1.0
"""A new line a second can be read."""
NOTICES_AT_FIRST = 3
REFRESH_SECONDS = 0.5
WIDTH_MAX = 110
"""Wider lines are harder to read."""
HEIGHT_FIXED = 9
"""Lines beside classes, people and notices: title, switches, three rules, the table's head and total, two commands."""
HEIGHT_OF_GUEST = 2
NOTICES_MIN = 3
HEIGHT_WITH_PEOPLE = 20
"""A lower screen has no room for people."""
STYLES: Mapping[str, str] = {
    "EXECUTE": "green",
    "REVIEW": "yellow",
    "ESCALATE": "magenta",
    "HOLD": "blue",
    "REFUSE": "red",
    RECOMMEND: "cyan",
    DEAD: "bright_red",
}
TITLE = ": agents propose; the router runs it, asks a person, or refuses"
KILL = "hitl kill --scope agent:bidder-1"
FIGURES_WIDTH = 30
NARROW = 100
"""Below so many columns the figures have no rates, and the title is short."""
FIGURES_WIDTH_NARROW = 21
PEOPLE_LINES = 4
"""What people decided, what is open, who is asleep, who they are; with more room each of them has a line."""
PACES_MAX = 7
FIGURES = (("approved", "approved"), ("hurried", "unread"), ("hit_rate", "of canaries caught"))
"""What is said of a rubber stamp: shares of an alarm's figures, and their words."""
WORD_STYLES: Mapping[str, str] = {
    "approve": "green",
    "reject": "red",
    "change": "yellow",
    "escalate": "magenta",
    "release": "cyan",
}


class Place(Struct, frozen=True):
    """Where the demo runs, for the header and the commands."""

    broker: str
    bootstrap: str
    actions: str
    metrics: str
    partitions: int
    scenario: str
    rate: float
    seconds: float
    haste: float = 0.0
    """How many times as fast as people the robots are who stand for them; 0: there are none."""
    guest: Guest | None = None
    """How whoever watches gets to the console; None: there is none."""


class View(Struct, frozen=True):
    """One moment of the demo. `phase` says what is under way."""

    place: Place
    tally: Tally
    numbers: Numbers
    elapsed_s: float
    phase: str
    stops: tuple[Stop, ...] = ()
    silent: bool = False
    now_ms: int = 0


class Watcher(Protocol):
    """Who is told of the demo's progress."""

    def said(self, text: str) -> None: ...

    def shown(self, view: View) -> None: ...


class OnTerminal:
    """The live screen. Use as a context: it takes the terminal's other screen and gives it back."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False)
        self._started = False
        self._noticed = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        if self._started:
            self._started = False
            self._live.stop()

    def said(self, text: str) -> None:
        """Print a line, while the screen is not up."""
        if not self._started:
            self._console.print(text, style="dim", markup=False, soft_wrap=True)

    def shown(self, view: View) -> None:
        """Draw the screen anew."""
        if not self._started:
            self._started = True
            self._live.start()
        now = time.monotonic()
        if now - self._noticed >= NOTICE_SECONDS:
            self._noticed = now
            view.tally.notice(NOTICES_AT_FIRST if len(view.tally.notices) < NOTICES_MAX else 1)
        self._live.update(screen(view, self._console.width, self._console.height), refresh=True)


class InLines:
    """A line every few seconds: for logs, pipes and CI."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing: lines need no end."""

    def said(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def shown(self, view: View) -> None:
        """Print a line, if the last one was long enough ago."""
        if view.elapsed_s - self._last >= LINE_SECONDS:
            self._last = view.elapsed_s
            self._console.print(line(view), markup=False, soft_wrap=True)


def line(view: View) -> str:
    """Say one moment in a line."""
    numbers, tally = view.numbers, view.tally
    counts = "  ".join(f"{name.lower()} {n:,}" for name, n in tally.of_outcome().items() if n)
    return (
        f"{clock(view.elapsed_s)}  in {tally.arrived:,} ({numbers.in_per_s:,.0f}/s)  "
        f"out {tally.answered:,} ({numbers.out_per_s:,.0f}/s)  waiting {tally.waiting:,}  "
        f"executed {tally.results['executed']:,}  parked {tally.parked:,}  "
        f"people decided {tally.people.words.total():,}, open {tally.people.open:,}{_asleep(tally.people)}  "
        f"p50 {_ms(numbers.p50_ms)}  p99 {_ms(numbers.p99_ms)}  {counts}  dead {tally.dead.total():,}"
    )


def _asleep(people: People) -> str:
    stamps = people.stamps()
    return f"  RUBBER STAMP {', '.join(map(escaped, stamps))}" if stamps else ""


def screen(view: View, width: int, height: int) -> RenderableType:
    """Draw everything within `width` × `height`: what does not fit is left out of the list of notices first."""
    width = min(width, WIDTH_MAX)
    narrow = width < NARROW
    classes = len(view.tally.of_class())
    people = PEOPLE_LINES if height >= HEIGHT_WITH_PEOPLE else 0
    guest = view.place.guest
    left = height - HEIGHT_FIXED - people - bool(people) - (HEIGHT_OF_GUEST if guest else 0)
    rows_max = max(3, left - NOTICES_MIN)
    left -= min(classes, rows_max)
    notices = max(0, min(NOTICES_MAX, left))
    if people:
        people += max(0, min(len(view.tally.people.paces) - 1, PACES_MAX - 1, left - notices))
    body = Table.grid(expand=True)
    body.add_column(ratio=1)
    body.add_column(width=FIGURES_WIDTH_NARROW if narrow else FIGURES_WIDTH)
    body.add_row(answers(view.tally, rows_max, narrow=narrow), _figures(view, min(classes, rows_max) + 2, narrow))
    parts: list[RenderableType] = [
        _title(view, narrow), _stops(view), _rule("every action gets exactly one answer"), body,
    ]  # fmt: skip
    if people:
        parts += [_rule(_who(view.place)), _people(view, people)]
    if notices:
        parts += [_rule("some that did not simply run, newest first"), _notices(view.tally, notices)]
    if guest:
        parts += [_rule(f"in a browser, as {guest.name} with password {guest.password}"), _way(guest, view.now_ms)]
    parts += [_rule("in a second terminal"), _commands(view, narrow)]
    frame = Table.grid(expand=False, padding=(0, 0))
    frame.add_column(width=width)
    frame.add_row(Group(*parts))
    return frame


def _title(view: View, narrow: bool) -> RenderableType:
    place = view.place
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    grid.add_column(justify="right", no_wrap=True)
    text = ": agents propose; it runs, or people decide" if narrow else TITLE
    what = Text.assemble(("hitl demo", "bold"), text)
    grid.add_row(what, f"{view.phase}  {clock(view.elapsed_s)} of {clock(place.seconds)}")
    return grid


def _stops(view: View) -> RenderableType:
    """Say which switches are engaged, the newest first."""
    if view.silent:
        return Text("control is not heard: nothing leaves routers and executors", style="bold red")
    if not view.stops:
        return Text("no kill switch is engaged", style="dim")
    newest, more = view.stops[-1], len(view.stops) - 1
    proved = "not proved yet" if newest.after_ms is None else f"EFFECTIVE after {newest.after_ms:,} ms"
    others = f"; and {more} more: hitl switches" if more else ""
    text = f"switch {newest.epoch}: {newest.mode} on {escaped(newest.scope)}, {proved}{others}"
    return Text(text, style="bold red" if newest.after_ms is None else "bold blue", no_wrap=True, overflow="ellipsis")


def _rule(text: str) -> Rule:
    return Rule(Text(text, style="dim"), align="left", style="dim", characters="─")


def answers(tally: Tally, rows_max: int, *, narrow: bool = False) -> Table:
    """Return answers by class and outcome; the smallest classes are put together where there are too many.

    `narrow`: in 58 columns, so that what was parked takes the place of what was only recommended.
    """
    by_outcome = tally.of_outcome()
    rest_of_it = RECOMMEND if narrow and by_outcome["HOLD"] else "HOLD"
    shown = [name for name in OUTCOMES if name != rest_of_it or (by_outcome[name] and not narrow)]
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    table.add_column(Text("type of action", style="dim"), no_wrap=True, min_width=17)
    for name in shown:
        width = len(name) if narrow else 8
        table.add_column(Text(name, style=STYLES[name]), justify="right", no_wrap=True, min_width=width)
    classes = list(tally.of_class().items())
    kept, rest = (classes, []) if len(classes) <= rows_max else (classes[: rows_max - 1], classes[rows_max - 1 :])
    if rest:
        merged = {name: sum(counts.get(name, 0) for _, counts in rest) for name in OUTCOMES}
        kept.append((f"{len(rest)} others", merged))
    for name, counts in kept:
        table.add_row(name, *(_count(counts.get(outcome, 0)) for outcome in shown))
    table.add_row(Text("all", style="bold"), *(_count(by_outcome[name], f"bold {STYLES[name]}") for name in shown))
    return table


def _count(n: int, style: str = "") -> Text:
    return Text(f"{n:,}", style=style) if n else Text("·", style="dim")


def _figures(view: View, most: int, narrow: bool) -> Table:
    tally, numbers, place = view.tally, view.numbers, view.place
    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(style="dim", no_wrap=True, width=12 if narrow else 13)
    table.add_column(justify="right", no_wrap=True, width=8 if narrow else 9)
    if not narrow:
        table.add_column(justify="right", no_wrap=True, style="dim", width=6)
    dead = tally.dead.total()
    rows: list[tuple[RenderableType, ...]] = [
        (),
        ("in", f"{tally.arrived:,}", f"{numbers.in_per_s:,.0f}/s"),
        ("answered", f"{tally.answered:,}", f"{numbers.out_per_s:,.0f}/s"),
        ("waiting", f"{tally.waiting:,}"),
        (),
        ("answer p50", _ms(numbers.p50_ms)),
        ("answer p99", _ms(numbers.p99_ms)),
        (),
        ("executed", f"{tally.results['executed']:,}"),
        ("parked", Text(f"{tally.parked:,}", style=STYLES["HOLD"] if tally.parked else "")),
        (),
        ("sent home", f"{tally.moved:,}"),
        ("audit copies", f"{tally.audit:,}"),
        ("unreadable", Text(f"{dead:,}", style=STYLES[DEAD] if dead else "")),
        (),
        ("partitions", f"{place.partitions}"),
        ("broker", place.broker),
    ]
    if len(rows) > most:
        rows = [row for row in rows if row][:most]
    columns = len(table.columns)
    for row in rows:
        table.add_row(*[*row, "", "", ""][:columns])
    return table


def _who(place: Place) -> str:
    if not place.haste:
        return "what waits for you" if place.guest else "what waits for people; nobody is here to decide"
    if place.haste == 1.0:
        return f"people decide ({'you, and robots' if place.guest else 'robots here'})"
    who = "you, and robots" if place.guest else "robots here,"
    return f"people decide ({who} {place.haste:g} times as fast)"


def _people(view: View, lines: int) -> RenderableType:
    """Say in so many lines what people decided, what is open, and who they are, in one line or in one each."""
    people = view.tally.people
    grid = Table.grid(padding=(0, 1, 0, 0), expand=True)
    grid.add_column(style="dim", no_wrap=True, width=9)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_row("decided", _decided(people))
    grid.add_row("open", _open(people, view.now_ms))
    grid.add_row("canaries", _canaries(people))
    own = lines - PEOPLE_LINES + 1
    texts = [_pace(name, pace, view.elapsed_s) for name, pace in islice(people.paces.items(), own)]
    if own == 1:
        texts = [Text("   ").join(_pace(name, pace) for name, pace in _two(people))]
    for number in range(own):
        grid.add_row("" if number else "reviewers", texts[number] if number < len(texts) else "")
    return grid


def _decided(people: People) -> Text:
    parts = [Text.assemble(f"{word} ", (f"{people.words[word]:,}", WORD_STYLES[word])) for word in WORDS]
    parts.append(Text(f"ran {people.executed:,}"))
    unheeded = ((effect, people.effects[effect]) for effect in ("refused", "late", "conflict"))
    parts += [Text(f"{effect} {n:,}", style="dim") for effect, n in unheeded if n]
    return Text("  ").join(parts)


def _open(people: People, now_ms: int) -> Text:
    parts = [Text(f"{people.open:,}", style="bold")]
    for name, queue in people.queues().items():
        waits = Text(f" {clock(max(0, now_ms - queue.since_ms) / 1_000)}", style="dim")
        parts.append(Text.assemble(escaped(name), f" {queue.items:,}", waits))
    if people.in_batches:
        parts.append(Text(f"in batches {people.in_batches:,}", style="dim"))
    return Text("  ").join(parts)


def _canaries(people: People) -> Text:
    """Say how many planted errors were caught, and who rubber-stamps."""
    seen = f"{people.caught:,} of {people.canaries:,} caught" if people.canaries else "none judged yet"
    stamps = people.stamps()
    if not stamps:
        return Text.assemble(seen, ("   nobody rubber-stamps, as far as is known", "dim"))
    said = [
        f"{escaped(name)} ({', '.join(_figure(alarm, *one) for one in FIGURES if one[0] in alarm.figures)})"
        for name, alarm in stamps.items()
    ]
    return Text.assemble(seen, "   ", ("RUBBER STAMP", "bold reverse red"), (f" {'; '.join(said)}", "bold red"))


def _figure(alarm: Alarm, name: str, words: str) -> str:
    return f"{alarm.figures[name]:.0%} {words}"


def _two(people: People) -> list[tuple[str, Pace]]:
    """Return the busiest of those who do not look long enough to read, and of those who do."""
    found = []
    for looks in (False, True):
        paces = [(name, pace) for name, pace in people.paces.items() if pace.looks is looks]
        found += sorted(paces, key=lambda row: -row[1].items)[:1]
    return found


def _pace(name: str, pace: Pace, elapsed_s: float = 0.0) -> Text:
    """Say how somebody works, in columns where a time is given; red where the looks do not do for reading."""
    looked = (f"looks {pace.dwell_mean_s:.1f} s", "" if pace.looks else "red")
    if not elapsed_s:
        return Text.assemble(f"{escaped(name)} {pace.items:,} ", looked)
    rate = pace.items / elapsed_s * 60
    least = f", reading takes {pace.floor_mean_s:.1f} s"
    return Text.assemble(f"{escaped(name):<26}{pace.items:>6,} {rate:>6,.0f}/min  ", looked, least)


def _notices(tally: Tally, most: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), show_header=False, expand=True)
    table.add_column(no_wrap=True, width=17, overflow="ellipsis")
    table.add_column(no_wrap=True, width=20, overflow="ellipsis", style="dim")
    table.add_column(no_wrap=True, width=9)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    notices = list(tally.notices)[:most]
    for notice in notices:
        table.add_row(
            Text(notice.type), Text(notice.place), Text(notice.outcome, style=STYLES[notice.outcome]), Text(notice.why)
        )
    for _ in range(most - len(notices)):
        table.add_row("", "", "", "")
    return table


def _way(guest: Guest, now_ms: int) -> Text:
    """Say how they get in: by the link, as long as it works; afterwards by name and password."""
    if now_ms < guest.until_ms:
        return Text(guest.link, style=Style(bold=True, link=guest.link), no_wrap=True)
    again = f"   a link: hitl user link {guest.name}"
    return Text.assemble((guest.url, Style(bold=True, link=guest.url)), (again, "dim"), no_wrap=True)


def _commands(view: View, narrow: bool) -> RenderableType:
    place = view.place
    explain = f"hitl explain {view.tally.example}" if view.tally.example else "hitl explain ID"
    publish, look = f"kcat -P -b {place.bootstrap} -t {place.actions} -l FILE.jsonl", f"curl {place.metrics}"
    if narrow:
        return Text(f"{explain}   {KILL}\n{publish}", no_wrap=True, overflow="ellipsis")
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_row(explain, KILL)
    grid.add_row(publish, look)
    return grid


def summary(title: str, tally: Tally, rows: Mapping[str, str]) -> RenderableType:
    """Return the table at the end, and one line for each of `rows`."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column()
    for name, text in rows.items():
        lines.add_row(name, text)
    table = answers(tally, len(tally.of_class()))
    table.box, table.show_edge = box.SIMPLE_HEAD, False
    return Group(Text(title, style="bold"), "", table, "", lines)


def clock(seconds: float) -> str:
    """Write seconds as minutes and seconds: 01:05."""
    return "{:02d}:{:02d}".format(*divmod(int(seconds), 60))


def _ms(value: int | None) -> str:
    return "–" if value is None else f"{value:,} ms"
