"""A step that knows nothing of actions, and lanes that host it: what the lane's own tests run.

Each input is answered with `count|topic|offset|value`, where `count` is the running number that the state remembers: a
record that is lost, doubled or overtaken shows in it, and so does a state that is not what was committed. What lies
parked is answered in the same way once a pass takes it, or parked again as it was if its value says `keep`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import TopicPartition

from hitl_stream.lane.batches import batches
from hitl_stream.lane.clock import ControlClock
from hitl_stream.lane.guard import Doing, Guard, Unguarded
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.observe import Silent
from hitl_stream.lane.step import Moment, Output, Record, Result, State, Step
from hitl_stream.lane.transaction import Transactions
from support.kafka import POLL_SECONDS, Topics, create_topics, read_values

COUNT_KEY = b"count"
WAIT_SECONDS_MAX = 30.0
MIB = 1024 * 1024
APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
COMPACT = {"cleanup.policy": "compact", **APPEND_TIME}


@dataclass
class ToyState(State):
    """How many records were answered, and which; `due_ms` is a timer that a record `in <ms>` sets.

    `followed` holds every record that was handed over, in its order; `parked`, what no pass has taken yet.
    """

    count: int = 0
    values: list[bytes] = field(default_factory=list)
    applied: int = 0
    partition: int = 0
    due_ms: int | None = None
    discarded: bool = False
    parked_topic: str | None = None
    followed: list[tuple[str, int, bytes]] = field(default_factory=list)
    parked: dict[int, bytes] = field(default_factory=dict)
    wants: Callable[[ToyState, Moment], bool] = lambda state, moment: False
    has_room: Callable[[ToyState], bool] = lambda state: True
    passes: list[int] = field(default_factory=list)
    """The epochs at which those passes began that looked at everything."""

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

    def follow(self, records: Sequence[Record]) -> None:
        for record in records:
            self.followed.append((record.topic, record.offset, record.value or b""))
            if record.topic == self.parked_topic:
                self.parked[record.offset] = record.value or b""

    def room(self) -> bool:
        return self.has_room(self)

    def wants_pass(self, moment: Moment) -> bool:
        return self.wants(self, moment)

    def passed(self, epoch: int) -> None:
        self.passes.append(epoch)

    def offsets_followed(self, topic: str) -> list[int]:
        """Return which offsets of a topic were handed over, in their order."""
        return [offset for name, offset, _ in self.followed if name == topic]


def take(state: ToyState, record: Record) -> None:
    """Count one record; `in <ms>` sets the timer so long after its append time."""
    state.count += 1
    state.partition = record.partition
    value = record.value or b""
    state.values.append(value)
    if value.startswith(b"in "):
        state.due_ms = record.timestamp + int(value[3:])


class Toy(Step[ToyState]):
    """The step. `before` may raise or look; `seen` keeps the count each batch was decided with.

    A pass over `parked` is wanted until there were as many whole ones as `wanted` says. It takes as many records of its
    next batches as `parts` says, then all.
    """

    def __init__(
        self,
        out: str,
        changelog: str | None = None,
        before: Callable[[Sequence[Record], ToyState], None] | None = None,
        answer: Callable[[bytes], bytes] = bytes,
        parked: str | None = None,
        before_again: Callable[[Sequence[Record], ToyState], None] | None = None,
    ) -> None:
        self.out = out
        self.changelog = changelog
        self.before = before
        self.answer = answer
        self.parked = parked
        self.before_again = before_again
        self.wanted = 0
        self.parts: list[int] = []
        self.states: list[ToyState] = []
        self.seen: list[int] = []
        self.again_offsets: list[list[int]] = []
        """The parked offsets of each batch of a pass, also of those that were not committed."""

    def state(self) -> ToyState:
        state = ToyState(parked_topic=self.parked, wants=lambda state, moment: len(state.passes) < self.wanted)
        self.states.append(state)
        return state

    def __call__(self, batch: Sequence[Record], state: ToyState, moment: Moment) -> Result:
        if self.before is not None:
            self.before(batch, state)
        self.seen.append(state.count)
        outputs = self._answers(batch, state)

        def change(state: ToyState) -> None:
            for record in batch:
                take(state, record)

        return Result(outputs, change)

    def on_timer(self, state: ToyState, moment: Moment) -> Result:
        def clear(state: ToyState) -> None:
            state.due_ms = None

        return Result([Output(self.out, state.partition, None, b"timer|%d" % state.count)], clear)

    def again(self, batch: Sequence[Record], state: ToyState, moment: Moment) -> Result:
        self.again_offsets.append([record.offset for record in batch])
        if self.before_again is not None:
            self.before_again(batch, state)
        part = self.parts.pop(0) if self.parts else None
        taken = batch[:part]
        unknown = [record.offset for record in taken if record.offset not in state.parked]
        if unknown:
            raise ValueError(f"a pass takes {unknown}, which the state was never told of, or took before")
        kept = [record for record in taken if (record.value or b"").startswith(b"keep")]
        free = [record for record in taken if record not in kept]
        outputs = self._answers(free, state)
        outputs += [Output(record.topic, record.partition, record.key, record.value) for record in kept]

        def change(state: ToyState) -> None:
            for record in taken:
                del state.parked[record.offset]
            for record in free:
                take(state, record)

        return Result(outputs, change, taken=part)

    def _answers(self, batch: Sequence[Record], state: ToyState) -> list[Output]:
        outputs = []
        for index, record in enumerate(batch):
            place = b"%d|%s|%d|" % (state.count + index + 1, record.topic.encode(), record.offset)
            value = place + self.answer(record.value or b"")
            outputs.append(Output(self.out, record.partition, record.key, value, list(record.headers), index))
        if self.changelog is not None and batch:
            count = b"%d" % (state.count + len(batch))
            outputs.append(Output(self.changelog, batch[0].partition, COUNT_KEY, count))
        return outputs


class Hand(Unguarded):
    """A guard under a test's hand: an epoch that moves and stops, and a lease that goes and comes."""

    def __init__(self, clock: ControlClock | None = None) -> None:
        super().__init__(clock)
        self.epoch = 0
        self.stopping = True
        """Whether a moved epoch stops what was decided before."""
        self.asked = 0
        self.caught_up = 0
        self.stirs = 0
        self.told: list[Doing] = []
        """What was doing at each stir."""
        self.doing: Callable[[], Doing] = Doing
        self._lease = asyncio.Event()
        self._lease.set()

    async def catch_up(self) -> None:
        self.caught_up += 1

    def may_emit(self) -> bool:
        return self._lease.is_set()

    async def allowed(self) -> None:
        await self._lease.wait()

    def stops(self, epoch: int) -> bool:
        self.asked += 1
        return self.stopping and epoch < self.epoch

    def watch(self, doing: Callable[[], Doing]) -> None:
        self.doing = doing

    def stirred(self) -> None:
        self.stirs += 1
        self.told.append(self.doing())

    def move(self) -> None:
        """Apply one more command."""
        self.epoch += 1

    def lose(self) -> None:
        """Let the lease run out."""
        self._lease.clear()

    def gain(self) -> None:
        """Give the lease back."""
        self._lease.set()


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
    followed: str
    parked: str

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
    followed, parked = f"{topics.prefix}facts", f"{topics.prefix}parked"
    mib = dict.fromkeys(names, 4) | {out: 1, dlq: 6, followed: 1, parked: 1}
    wanted = {name: (partitions, APPEND_TIME | {"max.message.bytes": str(n * MIB)}) for name, n in mib.items()}
    await create_topics(topics.bootstrap, wanted | {changelog: (partitions, COMPACT)})
    return Place(topics.bootstrap, topics.prefix, names, out, dlq, changelog, followed, parked)


@asynccontextmanager
async def hosted(
    spec: LaneSpec, toy: Toy, witness: Witness | None = None, guard: Guard | None = None, open_: bool = True
) -> AsyncIterator[Lane]:
    """Run a lane, open unless told otherwise."""
    lane = Lane(spec, batches(toy), toy.state, witness, guard)
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
