"""Control time: the broker's append time carried forward by a clock that no one sets.

A host's wall clock decides nothing. Until heartbeats of the control role arrive, the newest append time that was read
stands in for them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", None)


def steady_ms() -> int:
    """Return milliseconds of a clock that only runs forward, also while the machine sleeps (where there is one)."""
    if _BOOTTIME is not None:
        return time.clock_gettime_ns(_BOOTTIME) // 1_000_000
    return time.monotonic_ns() // 1_000_000


class ControlClock:
    """Newest append time seen + steady time since it was seen. It never runs backwards."""

    def __init__(self, steady: Callable[[], int] = steady_ms) -> None:
        self._steady = steady
        self._append_ms = 0
        self._seen_ms = 0

    def observe(self, append_ms: int) -> None:
        """Take in an append time; one that is behind our own reckoning changes nothing."""
        if append_ms > self.now_ms():
            self._append_ms = append_ms
            self._seen_ms = self._steady()

    def now_ms(self) -> int:
        """Return control time in milliseconds since the epoch; 0 before anything was observed."""
        return self._append_ms + self._steady() - self._seen_ms if self._append_ms else 0
