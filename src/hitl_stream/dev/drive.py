"""A stream of records and the clock that paces it to a publisher.

A `Source` makes records as they fall due; `drive` asks it for them on an absolute schedule and publishes them.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from hitl_stream.client import Placed
from hitl_stream.core.errors import UsageError

TICK_SECONDS = 0.01
"""Records due within ten milliseconds go out together."""
BACKLOG_MAX = 10_000
"""Records generated at once when the stream is behind its clock."""
PROGRESS_SECONDS = 1.0


class Sent(Struct, frozen=True, gc=False):
    """One record of the stream, due `due_ms` after its start. Without a partition it goes to any."""

    due_ms: int
    value: bytes
    key: bytes | None
    partition: int | None
    kind: str


class Source(Protocol):
    """A stream that a clock paces."""

    @property
    def done(self) -> bool: ...

    def until(self, due_ms: float, now_ms: int, limit: int) -> list[Sent]:
        """Return what is due by `due_ms`, at most `limit` records, stamped as proposed at `now_ms` (Unix time)."""
        ...


@dataclass(frozen=True)
class Summary:
    """What was published: records by kind, in how many seconds, and how far the stream fell behind its clock."""

    sent: int
    by_kind: Mapping[str, int]
    seconds: float
    behind_ms_max: float

    @property
    def rate(self) -> float:
        """Return records a second."""
        return self.sent / self.seconds if self.seconds else 0.0


Progress = Callable[[Summary], None]


class Sink(Protocol):
    """Where a stream goes: a `Publisher`, or a test's fake."""

    partitions: int

    async def publish(self, records: Iterable[Placed]) -> int: ...


async def drive(
    source: Source,
    sink: Sink,
    *,
    seed: int = 0,
    on_progress: Progress | None = None,
    clock: Callable[[], float] = time.monotonic,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Summary:
    """Publish a stream as its records fall due.

    The schedule is absolute: a slow delivery is caught up with, never added to, so the rate holds on average. The
    clocks and `sleep` are parameters for tests.
    """
    rng = random.Random(seed)
    by_kind: Counter[str] = Counter()
    behind_ms_max = 0.0
    started = reported = clock()

    def summary() -> Summary:
        return Summary(by_kind.total(), dict(by_kind), clock() - started, behind_ms_max)

    try:
        while not source.done:
            elapsed_ms = (clock() - started) * 1_000
            due = source.until(elapsed_ms, now_ms(), BACKLOG_MAX)
            if due:
                behind_ms_max = max(behind_ms_max, elapsed_ms - due[0].due_ms)
                await sink.publish(
                    Placed(
                        sent.value,
                        sent.key,
                        rng.randrange(sink.partitions) if sent.partition is None else sent.partition,
                    )
                    for sent in due
                )
                by_kind.update(sent.kind for sent in due)
            if on_progress is not None and clock() - reported >= PROGRESS_SECONDS:
                reported = clock()
                on_progress(summary())
            if len(due) < BACKLOG_MAX and not source.done:
                await sleep(TICK_SECONDS)
    finally:
        if on_progress is not None:
            on_progress(summary())
    return summary()


def over_zero(**values: float) -> None:
    """Raise `UsageError` for the first value that is not a finite number over zero."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} must be over zero, not {value}")


@lru_cache(maxsize=256)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def stamp(ms: int) -> str:
    """Write Unix milliseconds as RFC 3339."""
    return "%s.%03dZ" % (_second(ms // 1_000), ms % 1_000)  # noqa: UP031 - a third of the time of an f-string's parts
