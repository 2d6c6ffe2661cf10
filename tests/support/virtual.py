"""An event loop whose time passes only when nothing else is to be done; then it jumps to what comes next.

So a test waits for ten minutes in no time, and half a second is exactly that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS_MAX = 100_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Begins at 1,000 s. There is no network in it, and no other thread."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise AssertionError("everybody waits, and nothing will ever happen")
            self.now = max(self.now, scheduled[0]._when)
            if self.now > SECONDS_MAX:
                raise AssertionError(f"it takes longer than {SECONDS_MAX:g} s")
        super()._run_once()  # type: ignore[misc]


def virtually(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario)


def now_s() -> float:
    """Return the running loop's time."""
    return asyncio.get_running_loop().time()
