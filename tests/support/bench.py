"""A slice at work without a broker: logs in memory, a consumer and a producer that behave as aiokafka's do.

Real are the lane's own parts: `Slice` from its opening to its loss, and `Batches`. A transaction leaves a marker in
every partition that it wrote to, an aborted one its dead records too, as in a real log; readers pass over both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError

from hitl_stream.lane import batches as batches_module
from hitl_stream.lane import slice as slice_module
from hitl_stream.lane.batches import batches
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.restore import Followed
from hitl_stream.lane.slice import Slice
from hitl_stream.lane.step import Header, Output
from support.toy import Hand, Toy, ToyState, Witness

NUMBER = 3
TURNS_MAX = 20_000
IDLE_POLLS = 6
"""So many empty polls in a row mean that everything there was is done."""


@dataclass
class Rec:
    """A record as Kafka hands it out."""

    offset: int
    value: bytes | None = b"{}"
    key: bytes | None = b"k"
    timestamp: int = 1_763_709_000_000
    topic: str = "in"
    partition: int = NUMBER
    headers: Sequence[Header] = field(default_factory=tuple)


class Log:
    """One partition. None stands for what no reader is given: a marker, or a record that was aborted."""

    def __init__(self) -> None:
        self.records: list[Rec | None] = []
        self.hidden_from: int | None = None
        """Where an open transaction begins: the last stable offset."""

    @property
    def end(self) -> int:
        return len(self.records)

    @property
    def stable(self) -> int:
        return self.end if self.hidden_from is None else self.hidden_from

    def values(self) -> list[bytes]:
        return [record.value or b"" for record in self.records if record is not None]


class BenchConsumer:
    """The group's member, with one partition of each topic."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.assigned = True
        self.idle = 0
        assignment = SimpleNamespace(state_value=self._state)
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))

    def _state(self, tp: TopicPartition) -> Any:
        known = tp in self.positions
        lso = self.bench.log(tp.topic).stable
        return SimpleNamespace(has_valid_position=known, position=self.positions.get(tp), lso=lso)

    def _ask(self, tps: Iterable[TopicPartition]) -> None:
        if not self.assigned:
            raise IllegalStateError(f"No current assignment for partition {tps}")

    def pause(self, *tps: TopicPartition) -> None:
        self._ask(tps)
        self.paused |= set(tps)

    def resume(self, *tps: TopicPartition) -> None:
        self._ask(tps)
        self.paused -= set(tps)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._ask([tp])
        self.positions[tp] = offset

    async def seek_to_beginning(self, *tps: TopicPartition) -> None:
        for tp in tps:
            self.seek(tp, 0)

    async def position(self, tp: TopicPartition) -> int:
        self._ask([tp])
        return self.positions[tp]

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Rec]]:
        await asyncio.sleep(0)
        found: dict[TopicPartition, list[Rec]] = {}
        for tp in tps or self.positions:  # none named: all of them
            if tp in self.paused or not max_records:
                continue
            taken = self._take(tp, max_records)
            max_records -= len(taken)
            if taken:
                found[tp] = taken
        self.idle = 0 if found else self.idle + 1
        return found

    def _take(self, tp: TopicPartition, most: int) -> list[Rec]:
        """Move on past what is returned, and past markers behind it only where there was room for more, as aiokafka."""
        log, taken = self.bench.log(tp.topic), []
        position = self.positions[tp]
        while position < log.stable and len(taken) < most:
            record = log.records[position]
            position += 1
            if record is not None:
                taken.append(record)
        self.positions[tp] = position
        return taken


class BenchTransactions:
    """A producer of the partition: the newest one started is the only one that can commit."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.owner = self

    async def commit(
        self, outputs: Sequence[Output], offsets: Mapping[TopicPartition, int], stopped: Callable[[], bool]
    ) -> bool:
        bench = self.bench
        await asyncio.sleep(0)
        fault = bench.faults.pop(0) if bench.faults else None
        try:
            # What happens between the delivery of the outputs and their commit.
            after = fault() if fault is not None else None
            if asyncio.iscoroutine(after):
                after = await after
        except BaseException:
            bench.written(outputs, committed=False)
            raise
        if stopped():
            bench.written(outputs, committed=False)
            return False
        bench.written(outputs, committed=True)
        bench.committed |= offsets
        if after is not None:
            raise after
        return True

    async def drop(self) -> None:
        await self.bench.dropping()


class Bench:
    """The logs, and one slice over them. `faults` are called one for each commit, None: nothing.

    A fault that raises leaves the transaction uncommitted; one that returns an exception has it raised after a commit.
    """

    def __init__(
        self,
        toy: Toy | None = None,
        inputs: tuple[str, ...] = ("in",),
        followed: tuple[str, ...] = (),
        parked: str | None = None,
        **changes: Any,
    ) -> None:
        self.toy = toy or Toy("out", parked=parked)
        self.guard = Hand()
        self.witness = Witness()
        self.logs: dict[str, Log] = {}
        self.committed: dict[TopicPartition, int] = {}
        self.faults: list[Callable[[], Any] | None] = []
        self.owner: BenchTransactions | None = None
        self.now_ms = 1_763_709_000_000
        common: dict[str, Any] = {
            "role": "toy", "group": "g", "member": "m", "instance": "host/toy/0", "inputs": inputs, "client": {},
            "dlq": "dlq", "followed": followed, "parked": parked, "heartbeat_ms": 0,
        }  # fmt: skip
        self.spec = LaneSpec(**common | changes)
        self.lane = Lane(self.spec, batches(self.toy), self.toy.state, self.witness, self.guard)
        self.consumer = BenchConsumer(self)
        self.lane._consumer = self.consumer  # type: ignore[assignment]

    def log(self, topic: str) -> Log:
        return self.logs.setdefault(topic, Log())

    def append(self, topic: str, *values: bytes) -> None:
        """Append records outside of any transaction."""
        for value in values:
            self.now_ms += 1
            log = self.log(topic)
            log.records.append(Rec(log.end, value, b"k", self.now_ms, topic))

    def mark(self, topic: str, count: int = 1) -> None:
        """Append what no reader is given."""
        self.log(topic).records += [None] * count

    def written(self, outputs: Sequence[Output], committed: bool) -> None:
        """Append a transaction's outputs and its markers."""
        for output in outputs:
            if committed:
                self.append(output.topic, output.value or b"")
            else:
                self.mark(output.topic)
        for topic in {output.topic for output in outputs}:
            self.mark(topic)

    async def high_watermarks(self, of: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return where the logs end."""
        await asyncio.sleep(0)
        return {tp: self.log(tp.topic).end for tp in of}

    async def dropping(self) -> None:
        """Take as long as dropping a producer takes."""

    @asynccontextmanager
    async def working(self) -> AsyncIterator[Slice]:
        """Assign the partition and run its slice; at the end it is revoked, and its task has raised nothing."""
        with pytest.MonkeyPatch.context() as patch:
            self._patch(patch)
            piece = self.assign()
            try:
                yield piece
            finally:
                await self.lane._revoke()
                await asyncio.gather(*self.lane._crashing)
                if self.lane.crash_reason is not None:
                    raise self.lane.crash_reason

    def assign(self) -> Slice:
        """Give the partition to the lane, as its listener does."""
        tps = [TopicPartition(topic, NUMBER) for topic in self.spec.reads]
        self.consumer.positions = {}
        self.consumer.paused = set()
        self.lane._assign(tps)
        return self.lane.slices[NUMBER]

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        bench = self

        class Started:
            @staticmethod
            async def start(*_: Any) -> BenchTransactions:
                return BenchTransactions(bench)

        async def stable_offsets(_: Any, __: Any, tps: Iterable[TopicPartition], ___: float) -> dict[Any, int | None]:
            return {tp: bench.committed.get(tp) for tp in tps}

        async def restore(_: Any, state: ToyState, *__: Any) -> int:
            state.count = len([value for value in bench.log("out").values() if not value.startswith(b"timer")])
            return 0

        async def follow(
            state: ToyState, _: Any, committed: Mapping[TopicPartition, int | None]
        ) -> dict[Any, Followed]:
            read = {}
            for tp, offset in committed.items():
                log, begin = bench.log(tp.topic), offset or 0
                found = [record for record in log.records[begin:] if record is not None]
                if found:
                    state.follow(found)
                read[tp] = Followed(len(found), begin, max(begin, log.end))
            return read

        async def high_watermarks(_: Any, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
            return await bench.high_watermarks(tps)

        patch.setattr(slice_module, "Transactions", Started)
        for function in (stable_offsets, restore, follow):
            patch.setattr(slice_module, function.__name__, function)
        patch.setattr(slice_module, "REOPEN_FIRST_S", 0.0)
        patch.setattr(batches_module, "high_watermarks", high_watermarks)

    async def turns(self, count: int) -> None:
        """Let the loop turn."""
        for _ in range(count):
            await asyncio.sleep(0)

    async def until(self, true: Callable[[], Any]) -> None:
        """Let the loop turn until it is."""
        for _ in range(TURNS_MAX):
            if true() or self.lane.crashed or self.lane._crashing:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"not so after {TURNS_MAX} turns of the loop")

    async def settled(self) -> None:
        """Wait until everything there was is done."""
        self.consumer.idle = 0
        await self.until(lambda: self.lane.ready and self.consumer.idle >= IDLE_POLLS)

    def answers(self, topic: str) -> list[int]:
        """Return the offsets of a topic that were answered, in the order of the answers."""
        parts = [value.split(b"|") for value in self.log("out").values() if not value.startswith(b"timer")]
        return [int(part[2]) for part in parts if part[1] == topic.encode()]

    def counts(self) -> list[int]:
        """Return the running numbers of the answers."""
        return [int(v.split(b"|")[0]) for v in self.log("out").values() if not v.startswith(b"timer")]
