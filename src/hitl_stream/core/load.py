"""What reviewing costs people, and when they do it worse: minutes for 1,000 actions, by length of session, by hour.

- A session is what one person judges without a gap of five minutes. It begins when its first item was shown.
- What tells is whether planted errors are caught; minutes and objections are beside it, for hard items come at some
  hours more than at others. A share of caught ones has an interval; where two meet, the rows are not told apart.
- No row is of a person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from hitl_stream.core.intervals import Rate, error_rate
from hitl_stream.core.vigilance import GAP_MS, HURRIED_AFTER_S
from hitl_stream.core.waiting import Spread, spread

CONFIDENCE = 0.95
MINUTE_MS = 60_000
SESSION_MINUTES = (5, 10, 20, 40)
"""After so many minutes of a session the next row begins; at twenty, people are asked for a break."""
HOURS_TOGETHER = 3
"""Eight rows for a day: an hour has too few canaries to say anything."""


class Look(Struct, frozen=True, kw_only=True):
    """One person judging one item. `hour` is the clock's where they work, `caught` of planted errors only."""

    reviewer: str
    shown_ms: int
    decided_ms: int
    floor_ms: int
    hour: int
    approved: bool
    caught: bool | None = None


class LoadRow(Struct, frozen=True, kw_only=True):
    """What was judged in one part of sessions, or of days.

    `handling` is in milliseconds, None where nothing was judged. `objected` and `hurried` are of real items, `missed`
    of planted errors; `hurried` counts the approvals that came before anybody can have read, or within a second after.
    """

    name: str
    items: int
    minutes: float
    handling: Spread | None
    objected: Rate
    hurried: Rate
    missed: Rate


class GateLoad(Struct, frozen=True, kw_only=True):
    """What one gate costs: `minutes` of people over `items`, of which `reviewed` took any. `left_out` still wait."""

    gate: str
    items: int
    reviewed: int
    left_out: int
    minutes: float

    @property
    def per_1000(self) -> float | None:
        """Return minutes for 1,000 actions; None where there was none."""
        return self.minutes * 1_000 / self.items if self.items else None


def by_session(looks: Iterable[Look]) -> tuple[LoadRow, ...]:
    """Return a row for each part of a session, by how long it had lasted when the item was decided."""
    bounds = (0, *SESSION_MINUTES)
    names = [f"{low}–{high} min" for low, high in zip(bounds, SESSION_MINUTES, strict=False)]
    names.append(f"over {bounds[-1]} min")
    parts: list[list[Look]] = [[] for _ in names]
    for look, lasted_ms in _in_session(looks):
        parts[sum(lasted_ms > minutes * MINUTE_MS for minutes in SESSION_MINUTES)].append(look)
    return tuple(_row(name, part) for name, part in zip(names, parts, strict=True))


def by_hour(looks: Iterable[Look]) -> tuple[LoadRow, ...]:
    """Return a row for each three hours of the day, by when the item was decided."""
    seen = list(looks)
    rows = []
    for first in range(0, 24, HOURS_TOGETHER):
        name = f"{first:02d}:00–{first + HOURS_TOGETHER:02d}:00"
        rows.append(_row(name, [look for look in seen if first <= look.hour < first + HOURS_TOGETHER]))
    return tuple(rows)


def _in_session(looks: Iterable[Look]) -> Iterable[tuple[Look, int]]:
    """Yield each with how long its person's session had lasted then, in milliseconds."""
    began: dict[str, int] = {}
    last: dict[str, int] = {}
    for look in sorted(looks, key=lambda look: (look.reviewer, look.decided_ms)):
        who = look.reviewer
        if who not in last or look.shown_ms - last[who] >= GAP_MS:
            began[who] = look.shown_ms
        last[who] = look.decided_ms
        yield look, max(0, look.decided_ms - began[who])


def _row(name: str, looks: Sequence[Look]) -> LoadRow:
    took = [max(0, look.decided_ms - look.shown_ms) for look in looks]
    real = [look for look in looks if look.caught is None]
    planted = [look for look in looks if look.caught is not None]
    approved = [look for look in real if look.approved]
    return LoadRow(
        name=name,
        items=len(looks),
        minutes=sum(took) / MINUTE_MS,
        handling=spread(took),
        objected=_share(real, lambda look: not look.approved),
        hurried=_share(approved, _is_hurried),
        missed=_share(planted, lambda look: not look.caught),
    )


def _share(looks: Sequence[Look], counts: Callable[[Look], bool]) -> Rate:
    return error_rate(sum(map(counts, looks)), len(looks), CONFIDENCE)


def _is_hurried(look: Look) -> bool:
    return look.decided_ms - look.shown_ms < look.floor_ms + HURRIED_AFTER_S * 1_000
