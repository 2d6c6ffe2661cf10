"""What the verbs of kill switches say while they wait: where a command stands, what it covers; how Ctrl-C is taken."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hitl_stream.cli.control_words import WORDS
from hitl_stream.cli.terminal import err, out
from hitl_stream.core.escape import escaped
from hitl_stream.lane.coverage import LATELY_MS, Coverage
from hitl_stream.lane.heartbeats import SILENT_MS, Heartbeats, Standing

LISTEN_SECONDS = SILENT_MS / 1000
"""Whoever looks waits so long for the first heartbeat."""
LISTEN_AGAIN_SECONDS = 0.25
SETTLE_SECONDS = 0.3
"""After it, for the other control roles'."""
NAMED_MAX = 20
"""Instances that a line names."""
SILENCE = (
    "No control role is heard, so nobody proves that anything is EFFECTIVE. Without heartbeats every lease runs out: "
    "nothing is emitted from 2 s after the last one. Start one: hitl run control"
)


class Telling:
    """Prints what happens: to stdout, or to stderr where stdout is for one object."""

    def __init__(self, json: bool) -> None:
        self._console = err if json else out

    def line(self, text: str, style: str | None = None) -> None:
        """Print a line that is safe to print."""
        self._console.print(text, style=style, markup=False, soft_wrap=True)


def standing_lines(standing: Standing, epoch: int) -> Iterator[str]:
    """Yield who is waited for, and what nobody can prove."""
    if standing.waiting:
        named = [f"{escaped(one.instance)} since {one.since_s:.1f} s" for one in standing.waiting[:NAMED_MAX]]
        more = len(standing.waiting) - NAMED_MAX
        yield f"Waiting for {', '.join(named)}{f' and {more} more' if more > 0 else ''}."
    for one in standing.contained[:NAMED_MAX]:
        calls = "1 call" if one.calls == 1 else f"{one.calls} calls"
        yield (
            f"CONTAINED({one.epoch}), unproven: {escaped(one.instance)}, {calls}. It does not answer; until its "
            "process is seen to have ended, what it has begun may still take effect."
        )
    if standing.state == "appended":
        yield f"Control has not read command {epoch} yet."


def coverage_lines(covered: Coverage) -> Iterator[tuple[str, str | None]]:
    """Yield what a scope covered lately, loudly where that is nothing; with a style each."""
    minutes = LATELY_MS // 60_000
    if covered.actions:
        at_least = "at least " if covered.at_least else ""
        actions = "1 action" if covered.actions == 1 else f"{covered.actions:,} actions"
        yield f"In the last {minutes} minutes it covered {at_least}{actions}.", None
    else:
        of = f"of the {covered.read:,} read" if covered.read else "none was read"
        all_ = "; not all could be read" if covered.at_least else ""
        yield (
            f"NO ACTION of the last {minutes} minutes is covered ({of}{all_}). It is engaged all the same.",
            "bold red",
        )
        if covered.read and not covered.nearest:
            yield "Each part of the scope was seen, but never together: different kinds mean both.", "red"
    for selector, ids in covered.nearest.items():
        kind = selector.partition(":")[0]
        nearest = f"; the nearest: {', '.join(escaped(f'{kind}:{one}') for one in ids)}" if ids else ""
        yield f"{escaped(selector)} was not seen{nearest}", "red"


def silence_lines(beats: Heartbeats) -> Iterator[str]:
    """Yield that control is not heard, and why what was heard does not count."""
    yield SILENCE
    for why, count in beats.rejected.items():
        yield f"{count} heartbeats were refused: {WORDS[why]}"


async def heard_from_all(beats: Heartbeats) -> None:
    """Wait until every control role has spoken, or for so long that none would."""
    await beats.hear(LISTEN_SECONDS)
    while not beats.alive() and beats.silent_ms() < SILENT_MS:
        await beats.hear(LISTEN_AGAIN_SECONDS)
    if beats.alive():
        await asyncio.sleep(SETTLE_SECONDS)
        await beats.hear(0)


class Presses:
    """Ctrl-C: the first press asks to leave when it is known what stands on control; the second leaves."""

    def __init__(self, tell: Callable[[str], None], task: asyncio.Task[Any] | None) -> None:
        self.count = 0
        self._tell, self._task = tell, task

    @property
    def left(self) -> bool:
        """Say whether it was pressed twice."""
        return self.count > 1

    def press(self) -> None:
        """Take a press."""
        self.count += 1
        if self.count == 1:
            self._tell("Leaving as soon as it is known what stands on control; Ctrl-C again leaves at once.")
        elif self._task is not None:
            self._task.cancel()

    @staticmethod
    @contextmanager
    def heeded(telling: Telling) -> Iterator[Presses]:
        """Take presses instead of being interrupted."""
        presses = Presses(telling.line, asyncio.current_task())
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
            loop.add_signal_handler(signal.SIGINT, presses.press)
        try:
            yield presses
        finally:
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.remove_signal_handler(signal.SIGINT)
