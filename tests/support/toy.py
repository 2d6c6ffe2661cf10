"""A step that knows nothing of actions, and lanes that host it: what the lane's own tests run.

Each input is answered with `count|topic|offset|value`, where `count` is the running number that the state remembers: a
record that is lost, doubled or overtaken shows in it, and so does a state that is not what was committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from hitl_stream.lane.control_view import ControlView
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.observe import Silent
from hitl_stream.lane.step import Moment, Output, Record, Result
from hitl_stream.lane.transaction import Transactions
from support.kafka import POLL_SECONDS, Topics, create_topics, read_values

COUNT_KEY = b"count"
WAIT_SECONDS_MAX = 30.0
MIB = 1024 * 1024
APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
COMPACT = {"cleanup.policy": "compact", **APPEND_TIME}


@dataclass
class ToyState:
    """How many records were answered, and which; `due_ms` is a timer that a record `in <ms>` sets."""

    count: int = 0
    values: list[bytes] = field(default_factory=list)
    applied: int = 0
    partition: int = 0
    due_ms: int | None = None
    discarded: bool = False

    def size(self) -> int:
        return self.count

    def discard(self) -> None:
        self.discarded = True

    def apply(self, changes: Callable[[ToyState], None]) -> None:
        self.applied += 1
        changes(self)

    def replay(self, records: Sequence[Record]) -> None:
        """A changelog's records carry the count; an input's are counted again."""
        for record in records:
            if record.key == COUNT_KEY:
                self.count = int(record.value or b"0")
            else:
                take(self, record)

    def next_timer_ms(self) -> int | None:
        return self.due_ms


def take(state: ToyState, record: Record) -> None:
    """Count one record; `in <ms>` sets the timer so long after its append time."""
    state.count += 1
    state.partition = record.partition
    value = record.value or b""
    state.values.append(value)
    if value.startswith(b"in "):
        state.due_ms = record.timestamp + int(value[3:])


class Toy:
    """The step. `before` may raise or look; `seen` keeps the count each batch was decided with."""

    def __init__(
        self,
        out: str,
        changelog: str | None = None,
        before: Callable[[Sequence[Record], ToyState], None] | None = None,
        answer: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.out = out
        self.changelog = changelog
        self.before = before
        self.answer = answer
        self.states: list[ToyState] = []
        self.seen: list[int] = []

    def state(self) -> ToyState:
        self.states.append(ToyState())
        return self.states[-1]

    def __call__(self, batch: Sequence[Record], state: ToyState, moment: Moment) -> Result:
        if self.before is not None:
            self.before(batch, state)
        self.seen.append(state.count)
        outputs = []
        for index, record in enumerate(batch):
            place = b"%d|%s|%d|" % (state.count + index + 1, record.topic.encode(), record.offset)
            value = place + self.answer(record.value or b"")
            outputs.append(Output(self.out, record.partition, record.key, value, list(record.headers), index))
        if self.changelog is not None:
            count = b"%d" % (state.count + len(batch))
            outputs.append(Output(self.changelog, batch[0].partition, COUNT_KEY, count))

        def change(state: ToyState) -> None:
            for record in batch:
                take(state, record)

        return Result(outputs, change)

    def on_timer(self, state: ToyState, moment: Moment) -> Result:
        def clear(state: ToyState) -> None:
            state.due_ms = None

        return Result([Output(self.out, state.partition, None, b"timer|%d" % state.count)], clear)


class Witness(Silent):
    """Keeps what the lane tells."""

    def __init__(self) -> None:
        self.aborts: list[str] = []
        self.openings: list[int] = []
        self.opens: list[tuple[int, int]] = []
        self.batches: list[tuple[int, int]] = []

    def opening(self, partition: int) -> None:
        self.openings.append(partition)

    def opened(self, partition: int, seconds: float, restored: int) -> None:
        self.opens.append((partition, restored))

    def committed(
        self, partition: int, records: int, decide_s: float, commit_s: float, ages_ms: Sequence[int], tally: Any
    ) -> None:
        self.batches.append((partition, records))

    def aborted(self, partition: int, why: str) -> None:
        self.aborts.append(str(why))


@dataclass
class Place:
    """Topics of one test and the spec of a lane over them."""

    bootstrap: str
    prefix: str
    inputs: tuple[str, ...]
    out: str
    dlq: str
    changelog: str

    def spec(self, member: str = "a", **changes: Any) -> LaneSpec:
        common: dict[str, Any] = {
            "role": "toy",
            "group": f"{self.prefix}toy",
            "member": f"{self.prefix}{member}",
            "instance": f"test/toy/{member}",
            "inputs": self.inputs,
            "client": {"bootstrap_servers": self.bootstrap},
            "dlq": self.dlq,
            "session_timeout_ms": 6_000,
            "heartbeat_ms": 300,
        }
        return LaneSpec(**common | changes)

    def producer(self, partition: int = 0) -> Any:
        """Start a producer with the transactional id of a partition, as its next owner would."""
        spec = self.spec()
        return Transactions.start(spec.client, spec.transactional_id(partition), spec.group)

    def input(self, partition: int = 0, which: int = 0) -> TopicPartition:
        return TopicPartition(self.inputs[which], partition)


async def place(topics: Topics, partitions: int = 1, inputs: int = 1) -> Place:
    """Make the topics of one test."""
    names = tuple(f"{topics.prefix}in{n}" for n in range(inputs))
    out, dlq, changelog = f"{topics.prefix}out", f"{topics.prefix}dlq", f"{topics.prefix}changelog"
    mib = dict.fromkeys(names, 4) | {out: 1, dlq: 6}
    wanted = {name: (partitions, APPEND_TIME | {"max.message.bytes": str(n * MIB)}) for name, n in mib.items()}
    await create_topics(topics.bootstrap, wanted | {changelog: (partitions, COMPACT)})
    return Place(topics.bootstrap, topics.prefix, names, out, dlq, changelog)


@asynccontextmanager
async def hosted(
    spec: LaneSpec, toy: Toy, witness: Witness | None = None, control: ControlView | None = None, open_: bool = True
) -> AsyncIterator[Lane]:
    """Run a lane, open unless told otherwise."""
    lane = Lane(spec, toy, toy.state, witness, control)
    await lane.start()
    try:
        if open_:
            await until(lambda: lane.ready or lane.crashed)
        yield lane
    finally:
        await lane.stop()


async def until(true: Callable[[], Any], seconds_max: float = WAIT_SECONDS_MAX) -> None:
    """Wait until it is."""
    async with asyncio.timeout(seconds_max):
        while not true():  # noqa: ASYNC110  a broker sets no event
            await asyncio.sleep(POLL_SECONDS)


async def answers(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[bytes]:
    """Return what stands committed in a partition once there are at least `count` records."""
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while True:
            values = [value or b"" for value in await read_values(bootstrap, topic, partition)]
            if len(values) >= count:
                return values
            await asyncio.sleep(POLL_SECONDS)


def counted(values: Sequence[bytes]) -> list[int]:
    """Return the running numbers of answers."""
    return [int(value.split(b"|")[0]) for value in values]


def offsets(values: Sequence[bytes]) -> list[int]:
    """Return the input offsets of answers."""
    return [int(value.split(b"|")[2]) for value in values]
