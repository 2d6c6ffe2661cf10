"""What a lane asks before anything leaves it: how far control is applied, what time it is, and whether it may emit.

The real one is `lane.control_view`: the folded control log, a lease and acks. `Unguarded` is for what never emits to
anybody who could be hurt: toy steps and benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from hitl_stream.lane.clock import ControlClock

FOR_EVER_MS = 10 * 365 * 86_400_000


class Doing(NamedTuple):
    """What an instance has open, as its acks tell it."""

    partitions: tuple[int, ...] = ()
    open_epoch: int | None = None
    """Under which epoch its oldest open transaction was decided."""
    calls: int = 0
    calls_epoch: int | None = None
    claims: tuple[int, ...] = ()
    """Of which partitions it has a producer, or is about to start one: from before its start until it is dropped."""
    fence: bool = False
    """Whether the platform refuses calls once the lease is over."""


class Guard(Protocol):
    """The control log as this process has applied it, and the lease that control gives it."""

    @property
    def epoch(self) -> int:
        """Return the offset of the last command applied, −1 before there is one."""

    def now_ms(self) -> int:
        """Return control time in milliseconds since 1970."""

    def observe(self, append_ms: int) -> None:
        """Take in the append time of a record that was read."""

    async def catch_up(self) -> None:
        """Read `control` to a high watermark taken now.

        Raises `TimeoutError` when that does not come to pass.
        """

    def may_emit(self) -> bool:
        """Say whether the lease holds. Asked in the same turn as a commit, and as the last thing before a call."""

    def lease_left_ms(self) -> int:
        """Return for how long the lease holds from now on; negative: for how long it has not."""

    async def allowed(self) -> None:
        """Return once `may_emit`."""

    def stops(self, epoch: int) -> bool:
        """Say whether a command since then could change what was decided at `epoch`."""

    def watch(self, doing: Callable[[], Doing]) -> None:
        """Ask `doing` from now on for what the acks tell."""

    def stirred(self) -> None:
        """Hear that what `doing` tells has changed."""

    async def announce(self) -> None:
        """Tell what `doing` tells now, and return once it is delivered: before a producer starts.

        Raises `KafkaError` or `TimeoutError` when it cannot be delivered.
        """


class Unguarded:
    """A guard where there is no control: nothing is ever stopped, and time is that of the newest record."""

    epoch = -1

    def __init__(self, clock: ControlClock | None = None) -> None:
        self._clock = clock or ControlClock()

    def now_ms(self) -> int:
        """Return the newest append time, carried forward."""
        return self._clock.now_ms()

    def observe(self, append_ms: int) -> None:
        """Let records stand in for heartbeats."""
        self._clock.observe(append_ms)

    async def catch_up(self) -> None:
        """Have nothing to read."""

    def may_emit(self) -> bool:
        """Allow everything."""
        return True

    def lease_left_ms(self) -> int:
        """Have as much time as anybody needs."""
        return FOR_EVER_MS

    async def allowed(self) -> None:
        """Wait for nothing."""

    def stops(self, epoch: int) -> bool:
        """Stop nothing."""
        return False

    def watch(self, doing: Callable[[], Doing]) -> None:
        """Tell nobody."""

    def stirred(self) -> None:
        """Tell nobody."""

    async def announce(self) -> None:
        """Tell nobody."""
