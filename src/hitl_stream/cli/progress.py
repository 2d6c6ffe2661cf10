"""How far a command is that reads the log: a bar with the time that is left, on a terminal, once it takes long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from hitl_stream.cli.terminal import err
from hitl_stream.lane.reader import WATCHER

AFTER_S = 1.0
"""Whatever is done sooner needs no bar."""


class HowFar:
    """A bar on a console, which appears when reading has taken `AFTER_S`."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._began = clock()
        self._bar: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that so many records of so many are read."""
        if self._bar is None:
            if self._clock() - self._began < AFTER_S or done >= total:
                return
            columns = (
                TextColumn("{task.completed:,.0f} of {task.total:,.0f} records"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def how_far(console: Console = err) -> Iterator[None]:
    """Show how far reading is while this lasts; nothing where nobody looks."""
    if not console.is_terminal:
        yield
        return
    shown = HowFar(console)
    token = WATCHER.set(shown)
    try:
        yield
    finally:
        WATCHER.reset(token)
        shown.end()
