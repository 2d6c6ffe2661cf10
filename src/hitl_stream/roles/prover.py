"""Bringing engagements to EFFECTIVE: asks `core.effective` how things stand, fences what it names, waits for `execute`.

Of a provable epoch, in this order:
1. the high watermark of each `execute` partition: what was written by then may have been decided before the epoch;
2. the stable offset of each has reached it: whatever of that was pending is committed, and seen, or gone;
3. EFFECTIVE. `commit_transaction()` returns before its records are visible (in 54 of 200 tries), and an answer that got
   lost may have been a commit: this is where both are settled.
Nothing here waits for anything else here: fences run side by side, and heartbeats do not know of any of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from hitl_stream.core.effective import Effective, Id, Outlook
from hitl_stream.lane.clock import steady_ms

LOOK_EVERY_S = 0.05
"""While something is not EFFECTIVE yet; besides, whenever something was heard."""
STABLE_EVERY_S = 0.01
STUCK_MS = 1_000
"""A stable offset that does not move for so long waits for a transaction that nobody ends, or a slow one."""
FENCES_AT_ONCE = 64
FENCE_AGAIN_S = 0.2
NOTHING = Outlook(-1, frozenset())


class EndsOf(Protocol):
    """Ends of partitions; see `lane.ends.Ends`."""

    async def high(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermarks."""

    async def stable(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the last stable offsets."""


class Prover:
    """Works on whatever is pending in `effective`; `proved` is told the epochs that have become EFFECTIVE."""

    def __init__(
        self,
        effective: Effective,
        ends: EndsOf,
        execute: Sequence[TopicPartition],
        fence: Callable[[Id], Awaitable[None]],
        proved: Callable[[Sequence[int]], None],
        epoch: Callable[[], int],
        steady: Callable[[], int] = steady_ms,
    ) -> None:
        self.outlook = NOTHING
        self.fences = 0
        """How many have worked."""
        self._effective = effective
        self._ends = ends
        self._execute = tuple(execute)
        self._fence = fence
        self._proved = proved
        self._epoch = epoch
        self._steady = steady
        self._stirred = asyncio.Event()
        self._fencing: dict[Id, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(FENCES_AT_ONCE)
        self._settling: asyncio.Task[None] | None = None
        self._stuck: frozenset[int] = frozenset()
        self.log = structlog.get_logger(role="control")

    def stirred(self) -> None:
        """Look soon: something was heard."""
        self._stirred.set()

    async def run(self) -> None:
        """Prove for ever."""
        try:
            while True:
                await self._pause()
                self._look()
        finally:
            tasks = [*self._fencing.values(), *([self._settling] if self._settling else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pause(self) -> None:
        if self._effective.pending:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._stirred.wait()
            except TimeoutError:
                pass
        else:
            await self._stirred.wait()
        self._stirred.clear()

    def _look(self) -> None:
        before, self.outlook = self.outlook, self._effective.look(self._steady(), self._stuck)
        if self.outlook.contained != before.contained:
            self._tell_contained()
        begin = sorted(one for one in self.outlook.fence if one not in self._fencing)
        if begin:
            self._tell_fencing(begin)
            for one in begin:
                self._fencing[one] = asyncio.create_task(self._run_fence(one))
        if self._settling is not None and self._settling.done():
            self._settling.result()  # a bug ends the process
            self._settling = None
        if self._settling is None and self.outlook.provable > self._effective.effective:
            self._settling = asyncio.create_task(self._settle(self.outlook.provable))

    # --- fencing ------------------------------------------------------------------------------------------------------

    async def _run_fence(self, one: Id) -> None:
        async with self._slots:
            # What a fence proves is judged by what was folded before it began.
            epoch, at_ms = self._epoch(), self._steady()
            try:
                await self._fence(one)
            except (KafkaError, TimeoutError, OSError) as error:
                self.log.warning("not fenced; trying again", of=one.role, partition=one.partition, error=repr(error))
                await asyncio.sleep(FENCE_AGAIN_S)
            else:
                self.fences += 1
                self._effective.fenced(one, epoch, at_ms)
        del self._fencing[one]
        self.stirred()

    def _tell_fencing(self, begin: Sequence[Id]) -> None:
        if not self._effective.pending:
            self.log.debug("fencing what nobody owns", ids=begin)
            return
        numbers: dict[str, list[int]] = {}
        for one in begin:
            numbers.setdefault(one.role, []).append(one.partition)
        waiting = [one.instance for one in self.outlook.unanswered]
        self.log.warning("fencing", epoch=self._effective.pending[-1], ids=numbers, unanswered=waiting)

    def _tell_contained(self) -> None:
        for one in self.outlook.contained:
            self.log.warning("CONTAINED, unproven", epoch=one.epoch, instance=one.instance, calls=one.calls,
                             todo="a farewell, by a person who has seen that its process ended")  # fmt: skip

    # --- execute ------------------------------------------------------------------------------------------------------

    async def _settle(self, epoch: int) -> None:
        """Wait until nothing is pending of what `execute` holds, then call the epoch EFFECTIVE."""
        left = await self._asked(self._ends.high)
        started = self._steady()
        while left:
            stable = await self._asked(self._ends.stable, tuple(left))
            left = {tp: end for tp, end in left.items() if stable[tp] < end}
            if left and not self._stuck and self._steady() - started >= STUCK_MS:
                self._stuck = frozenset(tp.partition for tp in left)
                self.log.warning(
                    "waiting for transactions on execute",
                    epoch=epoch,
                    partitions=sorted(self._stuck),
                    after_ms=STUCK_MS,
                )
            if left:
                await asyncio.sleep(STABLE_EVERY_S)
        self._stuck = frozenset()
        done = self._effective.settle(epoch)
        self._proved(done)
        self.stirred()

    async def _asked(self, ask: Callable[..., Awaitable[Any]], of: Sequence[TopicPartition] | None = None) -> Any:
        """Ask until there is an answer."""
        while True:
            try:
                return await ask(self._execute if of is None else of)
            except (KafkaError, TimeoutError, OSError) as error:
                self.log.debug("execute cannot be asked for its ends", error=repr(error))
                await asyncio.sleep(STABLE_EVERY_S)
