"""The control log as one instance has applied it, its lease, and the acks by which it earns that.

Every router, desk and executor *assigns itself* `control` and `control.heartbeat` (a group would give each record to
one member only) and folds `control` to the high watermark before its first record.

The lease: each heartbeat repeats the number of the last ack that control read from every instance. An instance may
emit until `LEASE_MS` after it *sent* the newest ack so repeated, in a heartbeat whose epoch it has applied itself. A
heartbeat that comes late, from a buffer or after a sleep, repeats an old ack and proves nothing. The clock goes on
while the machine sleeps.

An ack says what is true when it is sent: an epoch counts as acknowledged once it is applied and nothing decided before
it is open any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from mode import Service

from hitl_stream.core.commands import Heartbeat
from hitl_stream.core.control import Control
from hitl_stream.core.effective import LEASE_MS as LEASE_MS
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Rejection
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.clients import STOP_SECONDS_MAX, control_consumer, stop_quietly
from hitl_stream.lane.clock import ControlClock, steady_ms
from hitl_stream.lane.control_reader import beheaded
from hitl_stream.lane.guard import Doing
from hitl_stream.lane.step import Record
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.records import ACK, Ack, encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.signing import read_heartbeat
from hitl_stream.wire.topics import TopicSet

ACK_EVERY_S = 0.25
ACK_REST_S = 0.005
"""Between two acks, however much is stirred."""
ACK_TIMEOUT_S = 1.0
ACKS_KEPT = 1_024
"""Send times of so many acks are remembered: 5 s even where every rest is used, a lease is shorter."""
HEARTBEATS_KEPT = 16
"""So many may wait for the epoch that they name."""
RUN_BITS = 24
"""An ack's number is that of the newest heartbeat known, and so many bits below it."""
POLL_MS = 200
RECORDS_MAX = 200
"""Folded in one turn: 30 ms of checking signatures."""
CATCH_UP_TIMEOUT_S = 10.0
START_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Member:
    """Who acknowledges: host/role/slot, its role, its version, and the key that its role seals with."""

    instance: str
    role: str
    version: str
    key: SealKey


class ControlView(Service):
    """A `Guard` that rests on the control log. A lane asks it; it never asks back but for what the acks tell."""

    def __init__(
        self,
        client: Mapping[str, Any],
        topics: TopicSet,
        trust: str,
        member: Member,
        *,
        rejected: Callable[[Rejection], None] = lambda why: None,
        halted: Callable[[], bool] = lambda: False,
        steady: Callable[[], int] = steady_ms,
    ) -> None:
        super().__init__()
        self.member = member
        self.control = Control()
        self._client = client
        self._log = ControlLog("", trust, self.control)
        self._commands = TopicPartition(topics.name("control"), 0)
        self._beats = TopicPartition(topics.name("control.heartbeat"), 0)
        self._acks_topic = topics.name("control.acks")
        self._seal = sealer(member.key, self._acks_topic, ACK)
        self._rejected = rejected
        self._halted = halted
        self._steady = steady
        self._clock = ControlClock(steady)
        self._doing: Callable[[], Doing] = Doing
        self._position = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._pending: deque[Heartbeat] = deque(maxlen=HEARTBEATS_KEPT)
        self._sent: dict[int, int] = {}
        self._n = 0
        """Never used twice under this instance's name: an old heartbeat must not repeat a number of a new process. It
        rises over restarts, too, as heartbeats go on: an ack that somebody repeats is an old one."""
        self._lease_until_ms = 0
        self.effective = -1
        """Up to this epoch every engagement is EFFECTIVE, as heartbeats have said so far."""
        self._renewed = asyncio.Event()
        self._stirred = asyncio.Event()
        self._consumer: AIOKafkaConsumer | None = None
        self._producer: AIOKafkaProducer | None = None
        self.log = structlog.get_logger(role=member.role, instance=member.instance)

    # --- what a lane asks ---------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Return the offset of the last command applied, −1 before there is one."""
        return self.control.epoch

    @property
    def audience(self) -> str:
        """Return the cluster's id, which commands and verdicts are addressed to; empty before the start."""
        return self._log.audience

    def now_ms(self) -> int:
        """Return control time: the newest heartbeat's append time, carried forward."""
        return self._clock.now_ms()

    def observe(self, append_ms: int) -> None:
        """Ignore it: only heartbeats tell the time."""

    def may_emit(self) -> bool:
        """Say whether the lease holds, and no file stops this host (`lane.halt`)."""
        return self._steady() < self._lease_until_ms and not self._halted()

    def lease_left_ms(self) -> int:
        """Return for how long it holds; negative: for how long it has not."""
        return self._lease_until_ms - self._steady()

    async def allowed(self) -> None:
        """Return once it may emit; each heartbeat that renews the lease is a reason to look again."""
        while not self.may_emit():
            self._renewed.clear()
            await self._renewed.wait()

    def stops(self, epoch: int) -> bool:
        """Say whether a command since then could change a decision. Commands are rare: any of them does, not only
        one that covers something of the batch."""
        return self.control.decided_at > epoch

    def watch(self, doing: Callable[[], Doing]) -> None:
        """Ask `doing` from now on for what the acks tell."""
        self._doing = doing

    def stirred(self) -> None:
        """Send an ack soon."""
        self._stirred.set()

    async def announce(self) -> None:
        """Deliver an ack now."""
        await self._acknowledge()

    async def catch_up(self) -> None:
        """Read `control` to a high watermark taken now.

        Raises `TimeoutError` when it is not reached within `CATCH_UP_TIMEOUT_S`.
        """
        async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
            end = (await self._reader.end_offsets([self._commands]))[self._commands]
            if self._position < end:
                reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append((end, reached))
                await reached

    def missing(self) -> str:
        """Say why nothing may leave, for `/readyz`; an empty string: it may."""
        if self.may_emit():
            return ""
        if self._halted():
            return "this host is stopped by its file HALT"
        if not self.control.keys:
            return "control holds no keys record that `trust` names; run: hitl keys init"
        if not self._lease_until_ms:
            return "no heartbeat of a control role has confirmed this instance yet; does one run? hitl run control"
        return f"the lease of control ran out {-self.lease_left_ms() / 1000:.1f} s ago"

    # --- its own life -------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Fold `control` to its end, and announce this instance before its first producer starts."""
        async with asyncio.timeout(START_TIMEOUT_S):
            self._log.audience = await cluster_id(self._client)
            await self._start_reading()
            self._producer = AIOKafkaProducer(
                **self._client, acks="all", linger_ms=0, request_timeout_ms=int(ACK_TIMEOUT_S * 1000),
                retry_backoff_ms=20,
            )  # fmt: skip
            await self._producer.start()
            await self._acknowledge()
        self.add_future(self._read())
        self.add_future(self._keep_acknowledging())
        if not self.control.keys:
            self.log.error("staying stopped", why=self.missing())

    async def on_stop(self) -> None:
        """Say goodbye: the lane has ended before."""
        if self._producer is not None:
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await self._acknowledge(goodbye=True)
        await stop_quietly(self._producer, self._consumer)

    @property
    def _reader(self) -> AIOKafkaConsumer:
        assert self._consumer is not None  # there is one from `on_start` on
        return self._consumer

    async def _start_reading(self) -> None:
        self._consumer = consumer = control_consumer(self._client)
        await consumer.start()
        commands, beats = self._commands, self._beats
        consumer.assign([commands, beats])
        begin = (await consumer.beginning_offsets([commands]))[commands]
        if begin:
            raise beheaded(commands.topic, f"at offset {begin}")
        ends = await consumer.end_offsets([commands, beats])
        consumer.seek(commands, 0)
        consumer.seek(beats, ends[beats])  # what was said before this process began says nothing of it
        self._n = (ends[beats] << RUN_BITS) + secrets.randbits(RUN_BITS - 1)
        while self._position < ends[commands]:
            await self._take(await consumer.getmany(commands, timeout_ms=POLL_MS, max_records=RECORDS_MAX))

    async def _read(self) -> None:
        while not self.should_stop:
            try:
                got = await self._reader.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            except KafkaError as error:
                self.log.warning("control cannot be read", error=repr(error))
                await self.sleep(0.1)
                continue
            await self._take(got)

    async def _take(self, got: Mapping[TopicPartition, Sequence[Record]]) -> None:
        """Fold commands, then hear heartbeats, which may name an epoch among these commands."""
        before = self.epoch
        for record in got.get(self._commands, ()):
            self._count(self._log.take(record.offset, record.timestamp, record.value))
        self._position = await self._reader.position(self._commands)
        if self.epoch != before:
            self.stirred()
        for record in got.get(self._beats, ()):
            self._hear(record)
        while self._pending and self._pending[0].epoch <= self.epoch:
            self._renew(self._pending.popleft())
        for end, reached in self._waiting:
            if self._position >= end and not reached.done():
                reached.set_result(None)
        self._waiting = [one for one in self._waiting if not one[1].done()]
        await asyncio.sleep(0)

    def _count(self, why: Rejection | None) -> None:
        if why is not None:
            self._rejected(why)

    def _hear(self, record: Record) -> None:
        heartbeat = read_heartbeat(record.value, record.timestamp, self.control.keys, self._log.audience)
        if isinstance(heartbeat, Rejection):
            self._rejected(heartbeat)
            return
        self._clock.observe(record.timestamp)
        self._n = max(self._n, record.offset + 1 << RUN_BITS)
        self._pending.append(heartbeat)

    def _renew(self, heartbeat: Heartbeat) -> None:
        """Take the lease that a heartbeat gives; its epoch is applied here."""
        mine = self._log.digest_at(heartbeat.epoch)
        if mine is None or mine.hex() != heartbeat.digest:
            raise BrokenError(
                f"at control epoch {heartbeat.epoch} the fold of {heartbeat.control} is {heartbeat.digest[:16]}…, ours "
                f"is {mine.hex()[:16] if mine else 'none'}…: not the same log, or not the same version of hitl-stream. "
                "This instance stops; run one version, and look whether `control` was written over"
            )
        self.effective = max(self.effective, heartbeat.effective)
        sent_ms = self._sent.get(heartbeat.acks.get(self.member.instance, -1))
        if sent_ms is not None and sent_ms + LEASE_MS > self._lease_until_ms:
            self._lease_until_ms = sent_ms + LEASE_MS
            self._renewed.set()

    async def _keep_acknowledging(self) -> None:
        while not self.should_stop:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACK_EVERY_S):
                    await self._stirred.wait()
            self._stirred.clear()
            try:
                await self._acknowledge()
            except (KafkaError, TimeoutError) as error:
                # Then no heartbeat repeats it, and the lease runs out.
                self.log.debug("ack not delivered", error=repr(error))
            await asyncio.sleep(ACK_REST_S)

    async def _acknowledge(self, goodbye: bool = False) -> None:
        assert self._producer is not None  # there is one from `on_start` on
        self._n += 1
        doing = self._doing()
        ack = Ack(
            n=self._n,
            instance=self.member.instance,
            role=self.member.role,
            version=self.member.version,
            partitions=doing.partitions,
            epoch=self.epoch,
            open_epoch=doing.open_epoch,
            calls=doing.calls,
            calls_epoch=doing.calls_epoch,
            claims=doing.claims,
            fence=doing.fence,
            goodbye=goodbye,
        )
        value = encode(ack)
        headers = [(TYPE_HEADER, ACK.encode()), (SEAL_HEADER, self._seal(value))]
        self._sent[self._n] = self._steady()
        if len(self._sent) > ACKS_KEPT:
            del self._sent[next(iter(self._sent))]
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await self._producer.send_and_wait(
                self._acks_topic, value, key=self.member.instance.encode(), partition=0, headers=headers
            )
