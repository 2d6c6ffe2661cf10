"""The lane: partitions of the log in, through a step, partitions of the log out, exactly once.

It knows nothing about actions; the step knows nothing about Kafka. This module is the member of the group: for each
partition number that the group assigns, a `Slice` opens it, works it, and opens it anew when anything about a commit is
in doubt.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from mode import Service

from hitl_stream.core.errors import BrokenError
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.fencing import transactional_id
from hitl_stream.lane.guard import Doing, Guard, Unguarded
from hitl_stream.lane.observe import LaneObserver, Silent
from hitl_stream.lane.restore import Restore
from hitl_stream.lane.slice import Slice, Work
from hitl_stream.lane.step import State

SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_MS = 1_000
REBALANCE_TIMEOUT_MS = 10_000
POLL_INTERVAL_MAX_MS = 10**12
"""For ever: aiokafka counts time in which nothing is polled, so a member without a partition would leave for good."""
REVOKE_GRACE_S = 1.0
"""How long a commit under way may take when its partition is revoked; then it is cancelled and its outcome unknown."""
OPENINGS_AT_ONCE = 4
STALLED_S = 120.0
"""An open partition with lag and no record for so long means that the consumer has silently stopped: exit, restart."""
FETCH_BYTES = 2 * 1024 * 1024


@dataclass(frozen=True)
class LaneSpec:
    """What one lane reads and writes. All it reads share their partition count.

    `inputs` are consumed. `followed` topics are folded into the state from their beginning; `parked` too, but from the
    committed offset, and it is consumed in passes. `limits` are `max.message.bytes` by topic.
    """

    role: str
    group: str
    member: str
    instance: str
    inputs: tuple[str, ...]
    client: Mapping[str, Any]
    dlq: str
    limits: Mapping[str, int] = field(default_factory=dict)
    restore: Restore = None
    followed: tuple[str, ...] = ()
    parked: str | None = None
    batch_records_max: int = 4_000
    session_timeout_ms: int = SESSION_TIMEOUT_MS
    heartbeat_ms: int = HEARTBEAT_MS
    fence: bool = False
    """Whether what its work calls refuses a call once our lease is over."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Return every topic that a slice has one partition of."""
        return (*self.inputs, *self.followed, *(() if self.parked is None else (self.parked,)))

    def transactional_id(self, partition: int) -> str:
        """Return the id that fences: one per role and partition, whoever owns it."""
        return transactional_id(self.group, partition)


class Lane(Service):
    """A running lane. A bug in what it works with crashes the process; nothing is skipped."""

    def __init__(
        self,
        spec: LaneSpec,
        work: Callable[[Slice], Work],
        new_state: Callable[[], State],
        observer: LaneObserver | None = None,
        guard: Guard | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.work = work
        self.new_state = new_state
        self.observer = observer or Silent()
        self.guard = guard or Unguarded()
        self.guard.watch(self.doing)
        self.log = structlog.get_logger(role=spec.role, instance=spec.instance)
        self.incarnation = 0
        self.slices: dict[int, Slice] = {}
        self._lost: list[Slice] = []
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

    def doing(self) -> Doing:
        """Return what this member has open, for its acks."""
        pieces = [*self.slices.values(), *self._lost]
        open_epochs = [piece.open_epoch for piece in pieces if piece.open_epoch is not None]
        calls_epochs = [piece.calls_epoch for piece in pieces if piece.calls_epoch is not None]
        return Doing(
            tuple(sorted(number for number, piece in self.slices.items() if piece.open)),
            min(open_epochs, default=None),
            sum(piece.calls for piece in pieces),
            min(calls_epochs, default=None),
            tuple(sorted({piece.number for piece in pieces if piece.claimed})),
            self.spec.fence,
        )

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
        self.consumer.subscribe(list(spec.reads), listener=_Listener(self))
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
        # What one of them still has open is told in the acks until it is closed.
        self._lost = [piece for piece in (*self._lost, *self.slices.values()) if piece.busy()]
        self.slices.clear()

    def _assign(self, assigned: Collection[TopicPartition]) -> None:
        if self.should_stop:
            return  # a rebalance while we leave
        numbers = sorted({tp.partition for tp in assigned})
        for number in numbers:
            mine = [tp for tp in assigned if tp.partition == number]
            self.consumer.pause(*mine)
            piece = self.slices[number] = Slice(self, number, mine, self.incarnation)
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
                if piece.open:
                    self.observer.window(piece.number, piece.size())
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
