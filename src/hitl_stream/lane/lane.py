"""The lane: partitions of the log in, through a step, partitions of the log out, exactly once.

It knows nothing about actions; the step knows nothing about Kafka. Each partition number that the group assigns has a
`Slice` and one task that opens it, works it batch by batch, and opens it anew when anything about a commit is in doubt.

Opening a partition, in its own task, never in the rebalance listener (no group heartbeat is sent while that runs):
1. raise the lane's incarnation; cancel and await the old incarnation's work (`_revoke`);
2. start a new transactional producer: this fences a zombie and settles its transaction;
3. read the committed offset with `require_stable`;
4. seek;
5. read `control` to a high watermark taken after step 2;
6. restore the state, in slices;
7. open, if the incarnation still holds.
The order is the safety: a committed offset read before step 2, or a producer kept across assignments, doubles records.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError, ProducerFenced
from mode import Service

from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Abort, ErrorClass
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.clock import ControlClock
from hitl_stream.lane.control_view import ControlView, NoControl
from hitl_stream.lane.observe import LaneObserver, Silent
from hitl_stream.lane.restore import Restore, restore
from hitl_stream.lane.stable_offsets import stable_offsets
from hitl_stream.lane.step import Moment, Output, Record, Result, State, Step
from hitl_stream.lane.transaction import Transactions
from hitl_stream.wire.dead_letter import dead_letter

SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_MS = 1_000
REBALANCE_TIMEOUT_MS = 10_000
POLL_INTERVAL_MAX_MS = 10**12
"""For ever: aiokafka counts time in which nothing is polled, so a member without a partition would leave for good."""
REVOKE_GRACE_S = 1.0
"""How long a commit under way may take when its partition is revoked; then it is cancelled and its outcome unknown."""
IDLE_POLL_MS = 1_000
CATCH_UP_POLL_MS = 50
STABLE_TIMEOUT_S = 30.0
REOPEN_FIRST_S = 0.1
REOPEN_MAX_S = 5.0
OPENINGS_AT_ONCE = 4
STALLED_S = 120.0
"""An open partition with lag and no record for so long means that the consumer has silently stopped: exit, restart."""
FETCH_BYTES = 2 * 1024 * 1024
ENVELOPE_BYTES = 1_024
"""What Kafka's framing may add to a record."""
HEADER_BYTES = 10
"""What it may add to a header."""


@dataclass(frozen=True)
class LaneSpec:
    """What one lane reads and writes. Inputs share their partition count; limits are `max.message.bytes` by topic."""

    role: str
    group: str
    member: str
    instance: str
    inputs: tuple[str, ...]
    client: Mapping[str, Any]
    dlq: str
    limits: Mapping[str, int] = field(default_factory=dict)
    restore: Restore = None
    batch_records_max: int = 4_000
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    heartbeat_ms: int = HEARTBEAT_MS

    def transactional_id(self, partition: int) -> str:
        """Return the id that fences: one per role and partition, whoever owns it."""
        return f"{self.group}-{partition}"


class Lane(Service):
    """A running lane. A bug in the step crashes the process; nothing is skipped."""

    def __init__(
        self,
        spec: LaneSpec,
        step: Step[Any],
        new_state: Callable[[], State],
        observer: LaneObserver | None = None,
        control: ControlView | None = None,
        clock: ControlClock | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.step = step
        self.new_state = new_state
        self.observer = observer or Silent()
        self.control = control or NoControl()
        self.clock = clock or ControlClock()
        self.log = structlog.get_logger(role=spec.role, instance=spec.instance)
        self.incarnation = 0
        self.slices: dict[int, Slice] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self.openings = asyncio.Semaphore(OPENINGS_AT_ONCE)
        self._crashing: set[asyncio.Task[None]] = set()

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """Return the group's member; there is one from `on_start` on."""
        assert self._consumer is not None
        return self._consumer

    @property
    def ready(self) -> bool:
        """Say whether every assigned partition is open."""
        return bool(self.slices) and all(piece.open for piece in self.slices.values())

    async def on_start(self) -> None:
        """Join the group. Partitions open as they are assigned."""
        spec = self.spec
        self._consumer = AIOKafkaConsumer(
            **spec.client,
            group_id=spec.group,
            group_instance_id=spec.member,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=spec.session_timeout_ms,
            heartbeat_interval_ms=spec.heartbeat_ms,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=POLL_INTERVAL_MAX_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_bytes=16 * FETCH_BYTES,
            fetch_max_wait_ms=100,
            retry_backoff_ms=20,
        )
        await self.consumer.start()
        self.consumer.subscribe(list(spec.inputs), listener=_Listener(self))
        self.add_future(self._watch())

    async def on_stop(self) -> None:
        """Let each batch under way commit, then leave. Partitions come back to this member if it restarts in time."""
        await self._revoke()
        if self._consumer is not None:
            with contextlib.suppress(asyncio.TimeoutError, KafkaError):
                async with asyncio.timeout(5.0):
                    await self._consumer.stop()

    async def _revoke(self) -> None:
        """Raise the incarnation and end the old one's work; a commit under way is worth a moment."""
        self.incarnation += 1
        tasks = [piece.task for piece in self.slices.values() if piece.task is not None]
        if tasks:
            for piece in self.slices.values():
                piece.leave()
                if not piece.open and piece.task is not None:
                    piece.task.cancel()  # an opening commits nothing worth waiting for
            _, late = await asyncio.wait(tasks, timeout=REVOKE_GRACE_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=REVOKE_GRACE_S)
        self.slices.clear()

    def _assign(self, assigned: Collection[TopicPartition]) -> None:
        if self.should_stop:
            return  # a rebalance while we leave
        numbers = sorted({tp.partition for tp in assigned})
        for number in numbers:
            inputs = [tp for tp in assigned if tp.partition == number]
            self.consumer.pause(*inputs)
            piece = self.slices[number] = Slice(self, number, inputs, self.incarnation)
            piece.task = asyncio.ensure_future(piece.run())
            piece.task.add_done_callback(partial(self._ended, piece))
        self.log.info("partitions assigned", partitions=numbers)

    def _ended(self, piece: Slice, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.spawn_crash(error)
        elif piece.ours():
            # A cancellation that was not ours, out of a client's depths: nobody would work this partition any more.
            self.spawn_crash(BrokenError(f"partition {piece.number}: its task ended while the partition is ours"))

    def spawn_crash(self, error: BaseException) -> None:
        """Stop the process for an error in our own code: the log replays, nothing is skipped."""
        task = asyncio.ensure_future(self.crash(error))
        self._crashing.add(task)
        task.add_done_callback(self._crashing.discard)

    async def _watch(self) -> None:
        """Report lag once a second, and end a process whose consumer has silently stopped."""
        while not self.should_stop:
            await self.sleep(1.0)
            self._ask_consumer()
            for piece in list(self.slices.values()):
                lag = piece.lag()
                self.observer.lagged(piece.number, lag, piece.waiting_s() if lag else 0.0)
                if piece.open and piece.state is not None:
                    self.observer.window(piece.number, piece.state.size())
                if piece.stalled_s(lag) > STALLED_S:
                    raise BrokenError(
                        f"partition {piece.number}: {lag} records wait and none came for {STALLED_S:g} s; "
                        "the consumer has stopped, the process must restart"
                    )

    def _ask_consumer(self) -> None:
        """Take up what the consumer's own tasks have to say: while nobody does, it does not rejoin its group."""
        consumer: Any = self.consumer
        coordinator = consumer._coordinator
        for task in (coordinator._coordination_task, consumer._fetcher._fetch_task):
            if task.done() and not self.should_stop:
                why = "cancelled" if task.cancelled() else repr(task.exception())
                raise BrokenError(f"the consumer's {task.get_coro().__qualname__} has ended ({why})")
        try:
            coordinator.check_errors()
        except KafkaError as error:
            self.log.warning("trouble in the group", group=self.spec.group, member=self.spec.member, error=repr(error))


class _Listener(ConsumerRebalanceListener):
    """Hands assignments to the lane and returns at once: no heartbeat is sent while it runs."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """End the work on everything: assignment is eager."""
        await self._guarded(self.lane._revoke())

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Begin to open what was assigned."""
        # aiokafka does not call `revoked` before the first assignment, nor after some errors.
        await self._guarded(self.lane._revoke())
        self.lane._assign(assigned)

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except Exception as error:
            # aiokafka would log and go on; an error of ours must end the process.
            self.lane.spawn_crash(error)
            raise


class Slice:
    """One partition number of all inputs, from its opening to its loss."""

    def __init__(self, lane: Lane, number: int, inputs: list[TopicPartition], incarnation: int) -> None:
        self.lane = lane
        self.number = number
        self.inputs = inputs
        self.incarnation = incarnation
        self.open = False
        self.state: State | None = None
        self.task: asyncio.Task[None] | None = None
        self._transactions: Transactions | None = None
        self._leaving = asyncio.Event()
        self._stood_at: list[int] = []
        self._stood_since = time.monotonic()
        self._last_append_ms = 0

    def ours(self) -> bool:
        """Say whether the incarnation that this slice belongs to still holds."""
        return self.incarnation == self.lane.incarnation and not self._leaving.is_set()

    def leave(self) -> None:
        """End after the batch under way."""
        self._leaving.set()

    def lag(self) -> int:
        """Return how many offsets lie between what was decided and the newest that is known."""
        # What an open transaction hides is not waiting yet: a publisher may keep one open for minutes.
        return sum(max(0, stable - position) for position, stable in self._positions())

    def _positions(self) -> list[tuple[int, int]]:
        """Return position and last stable offset of each input that has both."""
        with contextlib.suppress(Exception):
            assignment = self.lane.consumer._subscription.subscription.assignment
            states = [assignment.state_value(tp) for tp in self.inputs]
            return [(s.position, s.lso) for s in states if s is not None and s.has_valid_position and s.lso is not None]
        return []

    def stalled_s(self, lag: int) -> float:
        """Return for how long records have waited while the consumer's position stood still."""
        positions = [position for position, _ in self._positions()]
        if not lag or not self.open or positions != self._stood_at:
            self._stood_at = positions
            self._stood_since = time.monotonic()
        return time.monotonic() - self._stood_since

    def waiting_s(self) -> float:
        """Return how old the newest decided record is, in control time."""
        return max(0, self.lane.clock.now_ms() - self._last_append_ms) / 1000 if self._last_append_ms else 0.0

    async def run(self) -> None:
        """Open and work; after a doubtful commit, open anew. Ends when the incarnation does."""
        lane, pause = self.lane, REOPEN_FIRST_S
        try:
            while self.ours():
                try:
                    await self._open()
                    if not self.ours():
                        return
                    pause = REOPEN_FIRST_S
                    await self._work()
                except ProducerFenced:
                    # Somebody else opened this partition. Two heartbeats tell whether the group still says it is ours.
                    self._aborted(Abort.FENCED)
                    await self._rest(2 * lane.spec.heartbeat_ms / 1000)
                except (KafkaError, TimeoutError, OSError) as error:
                    self._aborted(Abort.UNKNOWN)
                    lane.log.warning("partition reopens", partition=self.number, error=repr(error), pause_s=pause)
                    await self._rest(pause)
                    pause = min(pause * 2, REOPEN_MAX_S)
                finally:
                    await self._close()
        except asyncio.CancelledError:
            if self.open:
                lane.observer.aborted(self.number, Abort.REVOKED)
            raise

    def _aborted(self, why: Abort) -> None:
        if self.open:
            self.lane.observer.aborted(self.number, why)

    async def _rest(self, seconds: float) -> None:
        self.open = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()

    async def _close(self) -> None:
        self.open = False
        if self.state is not None:
            self.state.discard()
            self.state = None
        # Told before the drop takes its time: the next slice of this number may open meanwhile.
        self.lane.observer.closed(self.number)
        transactions, self._transactions = self._transactions, None
        if transactions is not None:
            await asyncio.shield(asyncio.ensure_future(transactions.drop()))

    async def _open(self) -> None:
        """Steps 2 to 7 of the module's list."""
        lane, spec = self.lane, self.lane.spec
        lane.observer.opening(self.number)
        started = time.monotonic()
        async with lane.openings:
            lane.consumer.pause(*self.inputs)
            transactional_id = spec.transactional_id(self.number)
            self._transactions = await Transactions.start(spec.client, transactional_id, spec.group)
            committed = await stable_offsets(lane.consumer, spec.group, self.inputs, STABLE_TIMEOUT_S)
            if not self.ours():
                return
            for tp, offset in committed.items():
                if offset is not None:
                    lane.consumer.seek(tp, offset)
                else:
                    await lane.consumer.seek_to_beginning(tp)
            await lane.control.catch_up()
            self.state = lane.new_state()
            restored = await restore(spec.restore, self.state, spec.client, committed, self.number)
        if not self.ours():
            return
        lane.consumer.resume(*self.inputs)
        self.open = True
        seconds = time.monotonic() - started
        lane.observer.opened(self.number, seconds, restored)
        lane.log.info("partition open", partition=self.number, seconds=round(seconds, 3), restored=restored)

    async def _work(self) -> None:
        while self.ours():
            batch = await self._next(self._patience_ms())
            if batch:
                await self._decide(batch)
            await self._timers()

    async def _next(self, patience_ms: int) -> list[Record]:
        """Return the next batch, merged by (append time, topic, offset) where it comes from several inputs."""
        lane = self.lane
        fetching = asyncio.ensure_future(
            lane.consumer.getmany(*self.inputs, timeout_ms=patience_ms, max_records=lane.spec.batch_records_max)
        )
        leaving = asyncio.ensure_future(self._leaving.wait())
        try:
            await asyncio.wait((fetching, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                return []
            got = fetching.result()
        finally:
            fetching.cancel()
            leaving.cancel()
        if not got:
            return []
        if len(got) == 1:
            (batch,) = got.values()
            return list(batch)
        merged: list[Record] = [record for batch in got.values() for record in batch]
        merged.sort(key=lambda record: (record.timestamp, record.topic, record.offset))
        return merged

    def _patience_ms(self) -> int:
        due = self.state.next_timer_ms() if self.state is not None else None
        if due is None:
            return IDLE_POLL_MS
        return max(1, min(IDLE_POLL_MS, due - self.lane.clock.now_ms()))

    async def _decide(self, batch: list[Record]) -> None:
        """Decide a batch and commit it; its changes reach the state only after a known commit."""
        lane, state = self.lane, self.state
        assert state is not None  # an open slice has one
        newest = batch[-1].timestamp
        lane.clock.observe(newest)
        moment = Moment(lane.clock.now_ms(), lane.control.epoch)
        started = time.perf_counter()
        result: Result = self._call(lane.step, batch, state, moment)
        decided = time.perf_counter()
        offsets: dict[TopicPartition, int] = {}
        for tp in self.inputs:
            last = max((record.offset for record in batch if record.topic == tp.topic), default=None)
            if last is not None:
                offsets[tp] = last + 1
        if not await self._commit(result, offsets, batch, moment):
            return
        now = lane.clock.now_ms()
        self._last_append_ms = newest
        lane.observer.committed(
            self.number,
            len(batch),
            decided - started,
            time.perf_counter() - decided,
            [now - record.timestamp for record in batch],
            result.tally,
        )

    async def _commit(
        self, result: Result, offsets: Mapping[TopicPartition, int], batch: list[Record], moment: Moment
    ) -> bool:
        lane = self.lane
        assert self._transactions is not None  # an open slice has both
        assert self.state is not None
        outputs = self._fitting(result.outputs, batch)

        def stopped() -> bool:
            return lane.control.epoch != moment.epoch and lane.control.stops(moment.epoch, outputs)

        if not await self._transactions.commit(outputs, offsets, stopped):
            lane.observer.aborted(self.number, Abort.EPOCH)
            for tp in offsets:
                first = min(record.offset for record in batch if record.topic == tp.topic)
                lane.consumer.seek(tp, first)
            return False
        self._call(self.state.apply, result.changes)
        return True

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the step or its state. What it raises is a bug, also a TimeoutError, which Kafka raises too."""
        try:
            return function(*arguments)
        except Exception as error:
            name = getattr(function, "__qualname__", type(function).__qualname__)
            raise BrokenError(f"partition {self.number}: {name} raised {type(error).__name__}: {error}") from error

    def _fitting(self, outputs: Any, batch: list[Record]) -> Any:
        """Replace the outputs of each record of which a topic would refuse one with a single dead letter of it."""
        limits = self.lane.spec.limits
        refused: dict[int, Output] = {}
        for output in outputs:
            limit = limits.get(output.topic)
            if limit is not None and _size(output) > limit:
                if output.index < 0:
                    raise BrokenError(f"an output of {_size(output)} bytes to {output.topic} has no record behind it")
                refused.setdefault(output.index, output)
        if not refused:
            return outputs
        kept: list[Output] = []
        for output in outputs:
            if output.index not in refused:
                kept.append(output)
            elif output is refused[output.index]:
                kept.append(self._too_large(output, batch[output.index]))
        return kept

    def _too_large(self, output: Output, record: Record) -> Output:
        spec = self.lane.spec
        limit = spec.limits[output.topic]
        why = f"its output of {_size(output)} bytes does not fit into {output.topic} ({limit})"
        room = spec.limits.get(spec.dlq, limit) - 4 * ENVELOPE_BYTES - len(record.key or b"")
        value, headers = dead_letter(record, ErrorClass.TOO_LARGE, why, spec.instance, room)
        return Output(spec.dlq, record.partition, record.key, value, headers, output.index)

    async def _timers(self) -> None:
        """Run what is due at T, once the inputs were read to a high watermark taken at or after T."""
        lane, state = self.lane, self.state
        if state is None:
            return
        due = state.next_timer_ms()
        if due is None or lane.clock.now_ms() < due:
            return
        moment = Moment(lane.clock.now_ms(), lane.control.epoch)
        watermarks = await self._watermarks()
        while self.ours() and not await self._reached(watermarks):
            batch = await self._next(CATCH_UP_POLL_MS)
            if batch:
                await self._decide(batch)
        if not self.ours():
            return
        result: Result = self._call(lane.step.on_timer, state, moment)
        if result.outputs or result.changes is not None:
            await self._commit(result, {}, [], moment)

    async def _watermarks(self) -> dict[TopicPartition, int]:
        """Ask for the high watermarks now; under read_committed our own consumer would get the stable end."""
        reader = AIOKafkaConsumer(**self.lane.spec.client, group_id=None, isolation_level="read_uncommitted")
        await reader.start()
        try:
            ends: dict[TopicPartition, int] = await reader.end_offsets(self.inputs)
            return ends
        finally:
            await reader.stop()

    async def _reached(self, watermarks: Mapping[TopicPartition, int]) -> bool:
        for tp, end in watermarks.items():
            if await self.lane.consumer.position(tp) < end:
                return False
        return True


def _size(output: Output) -> int:
    """Return how long the record can become on the wire, at most."""
    size = ENVELOPE_BYTES + len(output.key or b"") + len(output.value or b"")
    for name, content in output.headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else len(name.encode())) + len(content)
    return size
