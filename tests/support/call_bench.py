"""A slice whose work is calls, without a broker: one partition of `execute` in memory, commits, restarts, virtual time.

Real is `lane.calls`. What it writes lies in `written`, by topic, where an offset is a place in the list.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from hitl_stream.lane.calls import CALLS_MAX, Calls
from hitl_stream.lane.clock import ControlClock
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.slice import Slice
from hitl_stream.lane.step import Header, Output
from support.guard import TestGuard
from support.make import NOW_MS, FakeRecord
from support.toy import Witness
from support.virtual import now_s

INPUT = "hitl.execute"


class CallConsumer:
    """The group's member."""

    def __init__(self, bench: CallBench, position: int) -> None:
        self.bench = bench
        self.at = position

    async def position(self, tp: TopicPartition) -> int:
        return self.at

    async def getmany(self, tp: TopicPartition, timeout_ms: int, max_records: int) -> dict[Any, list[FakeRecord]]:
        log = self.bench.log
        while self.at >= len(log):
            self.bench.grown.clear()
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await self.bench.grown.wait()
            except TimeoutError:
                return {}
        found: list[FakeRecord] = []
        while self.at < len(log) and len(found) < max_records:
            record = log[self.at]
            self.at += 1
            if record is not None:
                found.append(record)
        return {tp: found}


class CallTransactions:
    """The partition's producer."""

    def __init__(self, bench: CallBench) -> None:
        self.bench = bench

    async def commit(
        self,
        outputs: Sequence[Output],
        offsets: Mapping[TopicPartition, int],
        stopped: Callable[[], bool],
        then: Callable[[Mapping[TopicPartition, int]], Sequence[Output]],
    ) -> bool:
        bench = self.bench
        ends = {topic: len(records) for topic, records in bench.written.items()}
        places: dict[TopicPartition, int] = {}
        for output in outputs:
            place = ends[output.topic] = ends.get(output.topic, 0) + 1
            places[TopicPartition(output.topic, output.partition)] = place - 1
        everything = [*outputs, *then(places)]
        await bench.before_commit()
        assert not stopped(), "ends are committed in any case"
        for output in everything:
            bench.written[output.topic].append(output)
        (offset,) = offsets.values()
        bench.committed = offset
        bench.commits.append(len(outputs))
        await bench.after_commit()
        return True


async def nothing() -> None:
    """Do nothing on the way."""


class CallBench:
    """The log, and whoever works it now. Make it inside of a loop."""

    def __init__(self, caller: Any, new_state: Callable[[], Any], guard: TestGuard | None = None) -> None:
        self.caller = caller
        self.new_state = new_state
        self.guard = guard or TestGuard(ControlClock(lambda: int(now_s() * 1000)))
        self.guard.observe(NOW_MS)
        self.witness = Witness()
        self.number = 0
        self.log: list[FakeRecord | None] = []
        self.grown = asyncio.Event()
        self.written: defaultdict[str, list[Output]] = defaultdict(list)
        self.committed: int | None = None
        self.commits: list[int] = []
        self.before_commit: Callable[[], Awaitable[None]] = nothing
        self.after_commit: Callable[[], Awaitable[None]] = nothing
        self.slots = asyncio.Semaphore(CALLS_MAX)
        self.spec = LaneSpec(role="executor", group="g", member="m", instance="host/executor/0", inputs=(INPUT,),
                             client={}, dlq="hitl.dlq")  # fmt: skip
        self.state_topic = "state"
        self.piece: Slice
        self.work: Calls
        self.task: asyncio.Task[None]

    def append(self, *values: bytes | None, headers: Sequence[Header] = ()) -> None:
        """Append records; None is a marker."""
        for value in values:
            offset = len(self.log)
            record = FakeRecord(value, offset, self.number, self.guard.now_ms(), INPUT, b"k", headers)
            self.log.append(None if value is None else record)
        self.grown.set()

    def open(self) -> None:
        """Open the partition as a new owner would: restored from what is written, and from the committed offset."""
        lane = Lane(self.spec, lambda piece: self.work, self.new_state, self.witness, self.guard)
        tp = TopicPartition(INPUT, self.number)
        self.piece = piece = Slice(lane, self.number, [tp], lane.incarnation)
        lane.slices[self.number] = piece
        lane._consumer = CallConsumer(self, self.committed or 0)  # type: ignore[assignment]
        piece._state = state = self.new_state()
        state.replay([self._record(output) for output in self.written[self.state_topic]])
        piece._transactions = CallTransactions(self)  # type: ignore[assignment]
        piece.open = True
        self.work = Calls(piece, self.caller, self.slots, 10.0)
        self.task = asyncio.ensure_future(self.work.run())

    def _record(self, output: Output) -> Any:
        return SimpleNamespace(
            topic=output.topic, key=output.key, value=output.value, headers=output.headers, offset=0, partition=0
        )

    async def crash(self) -> None:
        """End it as SIGKILL would: what is under way stays as it is, outside; nothing more is committed."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def leave(self) -> None:
        """Let the slice go, in order."""
        self.piece.leave()
        await self.task

    async def settled(self, idle_s: float = 0.05) -> None:
        """Wait until nothing more is committed for a while."""
        before = -1
        while before != len(self.commits):
            before = len(self.commits)
            await asyncio.sleep(idle_s)
            if self.task.done():
                await self.task
                return
