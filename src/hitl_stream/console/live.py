"""The live charts: what the roles show Prometheus, read by the console itself, for the last fifteen minutes.

The same metrics and the same definitions as the dashboards of `grafana/`, so that whoever has neither Prometheus nor
Grafana sees the same. Rules:
- A counter counts by how much it grew between two looks at the same process; one that fell has begun anew.
- It is kept in memory only, so many points of so many series; nothing here decides anything.
- A process that does not answer is named, and leaves a gap rather than a zero where nobody else answers.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import structlog
from mode import Service
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

STEP_S = 2.0
TIMEOUT_S = 1.0
KEPT_S = 15 * 60
POINTS_MAX = int(KEPT_S / STEP_S)
SERIES_MAX = 200
"""Over all charts; what comes beyond is `other`."""
COUNTERS_MAX = 5_000
"""Series of one process whose last value is remembered; a policy of twenty classes makes some hundred."""
OTHER = "other"
RATE_MS = 10_000
"""A rate is that of the last ten seconds: five looks, as Prometheus would have it."""
RATIO_MS = 5 * 60_000
"""People say little in ten seconds; what share they approve is told of five minutes."""
BYTES_MAX = 4 * 1024 * 1024
"""Of one process's metrics; the largest of ours have 100 kB."""
COUNTED = ("applied", "waiting")
"""Effects of judgements that counted."""
DIGITS = 4
PAGES = ("rubber_stamp", "reviewer_unreliable")
"""What a monitor pages somebody for."""

_ALERTS = "hitl_pages_total"
_WATCHED = {
    "hitl_queue_vigilance_level": "level",
    "hitl_queue_reviewers": "reviewers",
    "hitl_queue_canary_hit_ratio": "caught",
    "hitl_queue_hurried_ratio": "hurried",
    "hitl_queue_approval_ratio": "approved",
}
"""What a monitor says of a queue, and how it is told; of no person there is a series."""
ROUTES, JUDGED, OPEN, OLDEST, LAG = "routes", "judged", "open", "oldest", "lag"
_APPROVED, _ALL = (JUDGED, "approve"), (JUDGED, "all")
_NAMES = ("hitl_actions_total", "hitl_verdicts_total", "hitl_queue_items", "hitl_queue_oldest_seconds",
          "hitl_lag_seconds", _ALERTS, *_WATCHED)  # fmt: skip

Key = tuple[str, str]
"""A chart and a series of it."""
Labels = Mapping[str, str]


class Point(Struct, frozen=True):
    """What one look found: counters as totals since we look; None: nobody answered."""

    at_ms: int
    values: Mapping[Key, float] | None


class Target(Struct):
    """A process that is asked: its name, what is wrong with it, and the counters of the last look."""

    name: str
    trouble: str = "was not asked yet"
    counters: dict[tuple[str, tuple[tuple[str, str], ...]], float] | None = None


class Live:
    """The points of the last fifteen minutes, over all targets."""

    def __init__(self, urls: Sequence[str] = ()) -> None:
        self.targets = [Target(urlsplit(url).netloc) for url in urls]
        self.points: deque[Point] = deque(maxlen=POINTS_MAX)
        self._totals: dict[Key, float] = {}
        self._known: set[Key] = set()

    def take(self, at_ms: int, found: Sequence[str | Exception]) -> None:
        """Take in one look: for each target its metrics as text, or why there are none."""
        gauges: dict[Key, float] = {}
        answered = False
        for target, text in zip(self.targets, found, strict=True):
            try:
                if isinstance(text, Exception):
                    raise text
                rows = list(_samples(text))
            except (ValueError, OSError, aiohttp.ClientError) as error:  # TimeoutError is an OSError
                target.trouble = (str(error) or f"no answer within {TIMEOUT_S:g} s")[:200]
                continue
            target.trouble, answered = "", True
            self._count(target, rows)
            self._gauge(gauges, rows)
        self.points.append(Point(at_ms, {**self._totals, **gauges} if answered else None))

    def _count(self, target: Target, rows: Sequence[tuple[str, Labels, float]]) -> None:
        """Add by how much a target's counters grew; its first look is where they begin."""
        before, now = target.counters, {}
        for name, labels, value in rows:
            keys = _counters(name, labels)
            if not keys:
                continue
            series = (name, tuple(sorted(labels.items())))
            now[series] = value
            was = 0.0 if before is None else before.get(series, 0.0)
            grown = 0.0 if before is None else value - was if value >= was else value
            for key in keys:
                known = self._key(key)
                self._totals[known] = self._totals.get(known, 0.0) + grown
        # A series that is missing once, behind a proxy's page, is not new when it comes back.
        target.counters = now if before is None or len(before) >= COUNTERS_MAX else before | now

    def _gauge(self, gauges: dict[Key, float], rows: Sequence[tuple[str, Labels, float]]) -> None:
        for name, labels, value in rows:
            match name:
                case "hitl_queue_items":
                    key = self._key((OPEN, labels.get("queue", OTHER)))
                    gauges[key] = gauges.get(key, 0.0) + value
                case "hitl_queue_oldest_seconds":
                    key = self._key((OLDEST, labels.get("queue", OTHER)))
                    gauges[key] = max(gauges.get(key, 0.0), value)
                case "hitl_lag_seconds":
                    key = self._key((LAG, labels.get("role", OTHER)))
                    gauges[key] = max(gauges.get(key, 0.0), value)
                case _ if name == _ALERTS:
                    key = self._key((labels.get("page", OTHER), labels.get("queue", OTHER)))
                    gauges[key] = gauges.get(key, 0.0) + value
                case _ if name in _WATCHED:
                    # Every monitor knows every queue, from the changelog: they say the same, or one is a little behind.
                    key = self._key((_WATCHED[name], labels.get("queue", OTHER)))
                    gauges[key] = max(gauges.get(key, 0.0), value)

    def _key(self, key: Key) -> Key:
        if key not in self._known and len(self._known) >= SERIES_MAX:
            return key[0], OTHER
        self._known.add(key)
        return key

    # --- what is told -------------------------------------------------------------------------------------------------

    def told(self, after_ms: int = -1) -> dict[str, Any]:
        """Return the points after a time: `at` in milliseconds, and of each chart its series, null where nobody knows.

        Rates are per second, `approved` is a share in [0, 1], `oldest` and `lag` are seconds.
        """
        points = list(self.points)
        wanted = [index for index, point in enumerate(points) if point.at_ms > after_ms]
        last: Mapping[Key, float] = next((point.values for point in reversed(points) if point.values is not None), {})

        def chart(name: str, at: Callable[[int, Key], float | None]) -> dict[str, list[float | None]]:
            keys = sorted({key for key in (*self._totals, *last) if key[0] == name})
            return {key[1]: [_short(at(index, key)) for index in wanted] for key in keys}

        def gauge(index: int, key: Key) -> float | None:
            values = points[index].values
            return None if values is None else values.get(key)

        return {
            "at": [points[index].at_ms for index in wanted],
            ROUTES: chart(ROUTES, lambda index, key: _rate(points, index, key)),
            "approved": [_short(_ratio(points, index)) for index in wanted],
            OPEN: chart(OPEN, gauge),
            OLDEST: chart(OLDEST, gauge),
            LAG: chart(LAG, gauge),
            "watched": _watched(points[-1].values if points else None),
        }

    def grown(self, chart: str, series: str) -> float | None:
        """Return by how much a counter grew in all that is kept; None: nobody looks."""
        known = [point.values for point in self.points if point.values is not None]
        if not known:
            return None
        return known[-1].get((chart, series), 0.0) - known[0].get((chart, series), 0.0)


def _watched(values: Mapping[Key, float] | None) -> list[dict[str, Any]]:
    """Return what the last look found of each queue's reviewers: shares are null where nobody knows them."""
    now = values or {}

    def row(queue: str) -> dict[str, Any]:
        figures = {name: _short(now.get((name, queue))) for name in ("caught", "hurried", "approved")}
        counts = {name: int(now.get((name, queue), 0)) for name in ("level", *PAGES)}
        reviewers = now.get(("reviewers", queue))
        return {"queue": queue, "reviewers": None if reviewers is None else int(reviewers), **counts, **figures}

    return [row(queue) for name, queue in sorted(now) if name == "level"]


def _samples(text: str) -> Iterator[tuple[str, Labels, float]]:
    """Yield the samples that the charts are of. The others are not even parsed: that would be most of the work."""
    lines = [line for line in text.splitlines() if line.startswith(_NAMES)]
    # The parser has no types.
    for family in cast("Any", text_string_to_metric_families)("\n".join(lines) + "\n"):
        for sample in family.samples:
            if math.isfinite(sample.value):
                yield sample.name, sample.labels, float(sample.value)


def _counters(name: str, labels: Labels) -> tuple[Key, ...]:
    """Return which series a counter adds to."""
    if name == "hitl_actions_total":
        return ((ROUTES, labels.get("outcome", OTHER)),)
    if name == "hitl_verdicts_total" and labels.get("effect") in COUNTED:
        return (_ALL, _APPROVED) if labels.get("verdict") == "approve" else (_ALL,)
    return ()


def _span(points: Sequence[Point], index: int, within_ms: int) -> tuple[Mapping[Key, float], Point, int] | None:
    """Return what is known at a point, the oldest known point within a time before it, and how far that lies back."""
    here = points[index]
    if here.values is None:
        return None
    first = None
    for place in range(index - 1, -1, -1):
        if here.at_ms - points[place].at_ms > within_ms:
            break
        if points[place].values is not None:
            first = points[place]
    return None if first is None or first.at_ms >= here.at_ms else (here.values, first, here.at_ms - first.at_ms)


def _rate(points: Sequence[Point], index: int, key: Key) -> float | None:
    found = _span(points, index, RATE_MS)
    if found is None:
        return None
    now, first, span_ms = found
    return (now.get(key, 0.0) - (first.values or {}).get(key, 0.0)) * 1000 / span_ms


def _ratio(points: Sequence[Point], index: int) -> float | None:
    found = _span(points, index, RATIO_MS)
    if found is None:
        return None
    now, first, _ = found
    before = first.values or {}
    all_ = now.get(_ALL, 0.0) - before.get(_ALL, 0.0)
    return (now.get(_APPROVED, 0.0) - before.get(_APPROVED, 0.0)) / all_ if all_ > 0 else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


class Sampler(Service):
    """Asks every process for its metrics, every two seconds."""

    def __init__(self, live: Live, urls: Sequence[str], clock_ms: Callable[[], int]) -> None:
        super().__init__()
        self._live, self._urls, self._clock_ms = live, tuple(urls), clock_ms

    async def on_start(self) -> None:
        """Begin to look, where there is anything to look at."""
        if self._urls:
            self.add_future(self._run())

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        log = structlog.get_logger(role="console")
        told = ""
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=True) as session:
            while not self.should_stop:
                self._live.take(self._clock_ms(), await asyncio.gather(*(_fetch(session, url) for url in self._urls)))
                trouble = "; ".join(f"{one.name}: {one.trouble}" for one in self._live.targets if one.trouble)
                if trouble != told:
                    told = trouble
                    log.info("metrics for the live page", trouble=trouble or "none")
                await self.sleep(STEP_S)


async def _fetch(session: aiohttp.ClientSession, url: str) -> str | Exception:
    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                return ValueError(f"answered {response.status}, expected 200; is it the URL of /metrics?")
            body = bytearray()
            async for part in response.content.iter_chunked(64 * 1024):
                body += part
                if len(body) > BYTES_MAX:
                    return ValueError(f"answered more than {BYTES_MAX} bytes")
            return body.decode()
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return error
