"""The control role: hears every ack, says so in signed heartbeats, and brings engagements to EFFECTIVE.

A heartbeat is made in this order:
1. note the number of the last ack read from every instance;
2. ask where `control` and `control.acks` end;
3. fold `control` to that end, then sign and append.
So whoever earns a lease by an ack has applied, when it takes that lease, everything that was appended before it sent
the ack, whichever of several control roles repeats it: an instance that was silent, and missed a command, gets no lease
without it.

`control.acks` is read from its beginning to a high watermark before the first heartbeat. Two control roles may run:
each proves for itself, and what one has called EFFECTIVE the other finds so, too. Nothing here stops when Kafka does;
leases end by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from mode import Service

from hitl_stream.core.commands import Engage, Heartbeat, milliseconds
from hitl_stream.core.control import Control
from hitl_stream.core.effective import Effective, Id
from hitl_stream.core.errors import RefusedError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.core.switches import KINDS, Switch, parsed
from hitl_stream.core.tripwires import Tripped
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.admin import cluster_id, reaching
from hitl_stream.lane.clients import control_consumer, stop_quietly
from hitl_stream.lane.clock import ControlClock, steady_ms
from hitl_stream.lane.commander import append
from hitl_stream.lane.control_reader import beheaded
from hitl_stream.lane.ends import Ends
from hitl_stream.lane.fencing import fence
from hitl_stream.lane.step import Record
from hitl_stream.roles.prover import Prover
from hitl_stream.roles.tripwires import ended, scope_of
from hitl_stream.wire.acks import Seals, ack_reader
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.signing import SigningKey, sign
from hitl_stream.wire.topics import TopicSet

HEARTBEAT = "heartbeat"
DRILL = "drill"
BEAT_EVERY_S = 0.25
BEAT_REST_S = 0.01
"""Between two heartbeats, however much happens."""
BEAT_TIMEOUT_S = 1.0
"""For each of a heartbeat's steps: one that takes longer repeats acks that are worth nothing any more."""
ALIVE_S = 60
"""A heartbeat is good for so long by its own word; what it is worth ends much sooner."""
SILENT_MS = 1_000
"""Without a delivered heartbeat for so long this role is not ready."""
POLL_MS = 200
RECORDS_MAX = 500
"""Taken in one turn: 50 ms, if all are commands, whose signatures are checked."""
MARKS_MAX = 64
"""So many ends of `control.acks` may wait to be reached; a newer one stands for those before."""
START_TIMEOUT_S = 60.0
GLOBAL_KIND = "global"

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer


class ControlObserver(Protocol):
    """Whoever watches the control role. A call must not block and must not raise."""

    def beat(self) -> None:
        """A heartbeat was delivered."""

    def rejected(self, why: str) -> None:
        """A record on a control topic counts for nothing; `why` is a `core.events.Rejection`."""

    def engaged(self, now: Mapping[tuple[str, str], int]) -> None:
        """So many switches are engaged now, by (mode, kind of scope)."""

    def changed(self, mode: str, scope_kind: str, at_s: float) -> None:
        """A switch was engaged or released then, in seconds since 1970."""

    def effective(self, mode: str, scope_kind: str, seconds: float) -> None:
        """A switch became EFFECTIVE so long after its command was appended."""

    def unacknowledged(self, instances: int, contained_calls: int) -> None:
        """So many instances stand in the way of an engagement; of them, executors that do not answer had so many calls
        open."""

    def fenced(self, role: str) -> None:
        """A transactional id of that role was fenced."""

    def tripped(self, wire: str, action: str) -> None:
        """A tripwire has tripped; `action` is observe or engage."""

    def drilled(self, at_s: float) -> None:
        """A drill was over then, in seconds since 1970."""


class Unobserved:
    """A `ControlObserver` that listens to nothing."""

    def beat(self) -> None:
        """Ignore it."""

    def rejected(self, why: str) -> None:
        """Ignore it."""

    def engaged(self, now: Mapping[tuple[str, str], int]) -> None:
        """Ignore it."""

    def changed(self, mode: str, scope_kind: str, at_s: float) -> None:
        """Ignore it."""

    def effective(self, mode: str, scope_kind: str, seconds: float) -> None:
        """Ignore it."""

    def unacknowledged(self, instances: int, contained_calls: int) -> None:
        """Ignore it."""

    def fenced(self, role: str) -> None:
        """Ignore it."""

    def tripped(self, wire: str, action: str) -> None:
        """Ignore it."""

    def drilled(self, at_s: float) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class ControlSpec:
    """What a control role is told: `groups` are those of the roles that write by transactions (core.effective).

    `seals`: role → its seal keys. `signing`: the private keys here; the log says which of them may sign heartbeats.
    """

    client: Mapping[str, Any]
    topics: TopicSet
    trust: str
    instance: str
    groups: Mapping[str, str]
    seals: Seals
    signing: Mapping[str, SigningKey] = field(repr=False)


class Mark(NamedTuple):
    """An end of `control.acks`: asked for at `at_ms`, when `epoch` was folded."""

    end: int
    epoch: int
    at_ms: int


class ControlRole(Service):
    """Heartbeats and proofs. What it knows is rebuilt from the topics at each start."""

    def __init__(
        self,
        spec: ControlSpec,
        observer: ControlObserver | None = None,
        *,
        steady: Callable[[], int] = steady_ms,
        fencing: Callable[[Id], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.observer = observer or Unobserved()
        self.control = Control()
        self.clock = ControlClock(steady)
        topics = spec.topics
        self.effective = Effective(topics.partitions)
        self._steady = steady
        self._log = ControlLog("", spec.trust, self.control)
        self._commands = TopicPartition(topics.name("control"), 0)
        self._acks = TopicPartition(topics.name("control.acks"), 0)
        self._beats = topics.name("control.heartbeat")
        self._read_ack = ack_reader(self._acks.topic, spec.seals)
        self._ends = Ends(spec.client)
        self.prover = Prover(
            self.effective,
            self._ends,
            [TopicPartition(topics.name("execute"), n) for n in range(topics.partitions)],
            fencing or self._fence,
            self._proved,
            lambda: self.control.epoch,
            steady,
        )
        self._positions: dict[TopicPartition, int] = {self._commands: 0, self._acks: 0}
        self._moved = asyncio.Event()
        self._marks: deque[Mark] = deque(maxlen=MARKS_MAX)
        self._news = asyncio.Event()
        self._seq = 0
        self._repeated: Mapping[str, int] = {}
        """What the newest heartbeat repeats."""
        self._beat_ms: int | None = None
        self._consumer: Any = None
        self._producer: Any = None
        self._work: list[asyncio.Future[Any]] = []
        self.log = structlog.get_logger(role="control", instance=spec.instance)

    @property
    def audience(self) -> str:
        """Return the cluster's id, which commands are addressed to."""
        return self._log.audience

    def missing(self) -> str:
        """Say why no lease comes from here, for `/readyz`; an empty string: heartbeats are delivered."""
        if not self.control.keys:
            return "control holds no keys record that `trust` names; run: hitl keys init"
        if self._key() is None:
            return "none of the keys here may sign heartbeats, says control; see hitl keys"
        if self._beat_ms is None:
            return "no heartbeat was delivered yet"
        silent_ms = self._steady() - self._beat_ms
        return f"the last heartbeat was delivered {silent_ms / 1000:.1f} s ago" if silent_ms > SILENT_MS else ""

    # --- its life -----------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Read both topics to their ends."""
        with reaching(self.spec.client):
            async with asyncio.timeout(START_TIMEOUT_S):
                self._log.audience = await cluster_id(self.spec.client)
                await self._ends.start()
                await self._start_reading()
                self._producer = _Producer(
                    **self.spec.client, acks="all", linger_ms=0, request_timeout_ms=int(BEAT_TIMEOUT_S * 1000),
                    retry_backoff_ms=20,
                )  # fmt: skip
                await self._producer.start()
        self._work = [self.add_future(work) for work in (self._read(), self._keep_beating(), self.prover.run())]
        if why := self._unable():
            self.log.error("no heartbeats", why=why)

    async def on_stop(self) -> None:
        """Close what is open; leases end by themselves."""
        await ended(self._work)
        await self._ends.stop()
        await stop_quietly(self._producer, self._consumer)

    def _unable(self) -> str:
        return self.missing() if self._key() is None else ""

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _start_reading(self) -> None:
        self._consumer = consumer = control_consumer(self.spec.client)
        await consumer.start()
        both = [self._commands, self._acks]
        consumer.assign(both)
        begins = await consumer.beginning_offsets(both)
        if begins[self._commands]:
            raise beheaded(self._commands.topic, f"at offset {begins[self._commands]}")
        ends = await consumer.end_offsets(both)
        for tp in both:
            consumer.seek(tp, begins[tp])
        self._positions = dict(begins)
        # Commands first: what is engaged, and which keys hold.
        for tp in both:
            while self._positions[tp] < ends[tp]:
                await self._take(await consumer.getmany(tp, timeout_ms=POLL_MS, max_records=RECORDS_MAX), old=True)
        self.effective.read(self.control.epoch, self._steady())

    async def _read(self) -> None:
        while not self.should_stop:
            try:
                got = await self._consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            except OffsetOutOfRangeError as error:
                raise beheaded(self._commands.topic, f"elsewhere, or {self._acks.topic} does ({error})") from error
            except KafkaError as error:
                self.log.warning("control cannot be read", error=repr(error))
                await self.sleep(0.1)
                continue
            await self._take(got)

    async def _take(self, got: Mapping[TopicPartition, Sequence[Record]], old: bool = False) -> None:
        commands, acks = got.get(self._commands, ()), got.get(self._acks, ())
        if commands:
            self._fold(commands, old)
        for record in acks:
            self._hear(record, old)
        for tp in self._positions:
            self._positions[tp] = await self._consumer.position(tp)
        self._reach_marks()
        self._moved.set()
        if commands or acks:
            self.prover.stirred()
        if commands:
            self._news.set()
        await asyncio.sleep(0)

    def _fold(self, records: Sequence[Record], old: bool) -> None:
        control, engaged = self.control, []
        before = dict(control.switches.engaged)
        for record in records:
            why = self._log.take(record.offset, record.timestamp, record.value)
            if why is not None:
                self.observer.rejected(why)
            elif control.engaged_at == record.offset:
                engaged.append(record.offset)
        appended = {record.offset: record.timestamp for record in records}
        for instance, epoch in control.farewells.items():
            if epoch in appended:
                self.effective.farewell(instance, appended[epoch])
        self.clock.observe(records[-1].timestamp)
        self.effective.folded(control.epoch, engaged, self._steady(), old=old)
        self._tell_changes(before, engaged, old)

    def _hear(self, record: Record, old: bool) -> None:
        if record.value is None:
            return  # a null says nothing of an instance
        ack = self._read_ack(record.key, record.value, record.headers)
        if isinstance(ack, Rejection):
            self.observer.rejected(ack)
        elif not self.effective.heard(record.offset, ack, record.timestamp, self._steady(), old=old):
            self.observer.rejected(Rejection.REPLAYED)
        else:
            self.clock.observe(record.timestamp)
            if ack.instance not in self._repeated:
                self._news.set()  # it waits for its first lease

    def _reach_marks(self) -> None:
        while self._marks and self._marks[0].end <= self._positions[self._acks]:
            mark = self._marks.popleft()
            self.effective.read(mark.epoch, mark.at_ms)
            self.prover.stirred()

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    async def _keep_beating(self) -> None:
        while not self.should_stop:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_EVERY_S):
                    await self._news.wait()
            self._news.clear()
            try:
                await self._beat()
            except (KafkaError, TimeoutError, OSError) as error:
                # Then nothing is repeated, and leases run out.
                self.log.debug("heartbeat not delivered", error=repr(error))
            await asyncio.sleep(BEAT_REST_S)

    async def _beat(self) -> None:
        now = self._steady()
        numbers, epoch = self.effective.numbers(now), self.control.epoch
        async with asyncio.timeout(BEAT_TIMEOUT_S):
            ends = await self._ends.high([self._commands, self._acks])
            self._marks.append(Mark(ends[self._acks], epoch, now))
            self._reach_marks()
            await self._reached(self._commands, ends[self._commands])
        key = self._key()
        if key is None:
            return
        async with asyncio.timeout(BEAT_TIMEOUT_S):
            sent = await self._producer.send_and_wait(self._beats, self._sign(key, numbers), partition=0)
        self.prover.stirred()
        self._repeated = numbers
        self.clock.observe(sent.timestamp)
        if self._beat_ms is None:
            self._news.set()  # what was known of the time may have been old, and the heartbeat expired when it came
        self._beat_ms = self._steady()
        self.observer.beat()
        outlook = self.prover.outlook
        self.observer.unacknowledged(
            len(outlook.unanswered) + len(outlook.contained), sum(one.calls for one in outlook.contained)
        )

    async def _reached(self, tp: TopicPartition, end: int) -> None:
        while self._positions[tp] < end:
            self._moved.clear()
            await self._moved.wait()

    def _sign(self, key: SigningKey, numbers: Mapping[str, int]) -> bytes:
        """Return the next heartbeat; it repeats the numbers."""
        self._seq += 1
        issued = self.clock.now_ms() // 1000
        outlook = self.prover.outlook
        beat = Heartbeat(
            aud=self._log.audience,
            kid=key.key_id,
            iss=key.holder,
            jti=secrets.token_hex(16),
            iat=issued,
            exp=issued + ALIVE_S,
            seq=self._seq,
            control=self.spec.instance,
            epoch=self.control.epoch,
            digest=self.control.digest.hex(),
            acks=dict(numbers),
            effective=self.effective.effective,
            waiting=outlook.unanswered,
            contained=outlook.contained,
        )
        return sign(key, beat)

    def _key(self, typ: str = HEARTBEAT) -> SigningKey | None:
        """Return the newest key here that control lists for heartbeats, and for commands of a type, for now."""
        now = self.clock.now_ms()
        listed = [
            (key, entry)
            for key in self.spec.signing.values()
            if (entry := self.control.keys.get(key.key_id)) is not None
            and {HEARTBEAT, typ} <= set(entry.types)  # other services' keys may lie here, too
            and entry.holder == key.holder
        ]
        good = [key for key, entry in listed if milliseconds(entry.from_) <= now < milliseconds(entry.until)]
        if not good and self._beat_ms is None:
            good = [key for key, _ in listed]  # the answer to it tells the time, whatever the heartbeat is worth
        return good[-1] if good else None

    async def engage(self, tripped: Tripped) -> None:
        """Append a HALT over the publisher that tripped a wire, and no wider.

        Its id is the same from whichever control role, so that of two only one counts. Raises as `commander.append`
        does, and RefusedError where no key here may sign it.
        """
        named, key = tripped.publisher, self._key("engage")
        if named is None or key is None:
            raise RefusedError(f"tripwire {tripped.wire}: nobody to name, or no key in keys_dir that may sign engage")
        scope = scope_of(named)
        earlier = sum(one.source == "tripwire" and one.scope == scope for one in self.control.switches.all.values())
        jti = hashlib.blake2b("\0".join((*scope, str(earlier))).encode(), digest_size=16).hexdigest()
        reason = f"{tripped.wire}: {tripped.what} {tripped.saw:.3g}, limit {tripped.limit:.3g}"

        def halt(**claims: Any) -> Engage:
            claims["jti"] = jti
            return Engage(**claims, scope=scope, mode=Mode.HALT, reason=reason, source="tripwire")

        await append(self.spec.client, self.spec.topics, key, halt)

    # --- what is proved -----------------------------------------------------------------------------------------------

    async def _fence(self, one: Id) -> None:
        await fence(self.spec.client, self.spec.groups[one.role], one.partition)
        self.observer.fenced(one.role)

    def _proved(self, epochs: Sequence[int]) -> None:
        now_ms = self.clock.now_ms()
        again = [epoch for epoch in epochs if self.effective.is_old(epoch)]
        if again:
            self.log.info("EFFECTIVE as before", epoch=again[-1], engagements=len(again))
        for epoch in epochs:
            if self.effective.is_old(epoch):
                continue
            switch = self.control.switches.all[epoch]
            seconds = max(0, now_ms - switch.at_ms) / 1000
            self.log.warning(
                "EFFECTIVE", epoch=epoch, mode=switch.mode, scope=list(switch.scope), seconds=round(seconds, 3)
            )
            self.observer.effective(switch.mode, kind_of(switch.scope), seconds)
        self._news.set()

    def _tell_changes(self, before: Mapping[int, Switch], engaged: Sequence[int], old: bool) -> None:
        switches, at_ms = self.control.switches, self.control.at_ms
        released = [switches.all[epoch] for epoch in before if epoch not in switches.engaged]
        for switch in (*released, *(switches.all[epoch] for epoch in engaged)):
            self.observer.changed(switch.mode, kind_of(switch.scope), at_ms / 1000)
            if switch.source == DRILL and switch.released is not None:
                self.observer.drilled(at_ms / 1000)
            if not old:
                self.log.warning(
                    "engaged" if switch.released is None else "released",
                    epoch=switch.epoch, mode=switch.mode, scope=list(switch.scope), source=switch.source,
                )  # fmt: skip
        if released or engaged:
            self.observer.engaged(counted(switches.engaged.values()))


def counted(switches: Iterable[Switch]) -> dict[tuple[str, str], int]:
    """Return how many switches there are by (mode, kind of scope)."""
    return Counter((switch.mode.value, kind_of(switch.scope)) for switch in switches)


def kind_of(scope: tuple[str, ...]) -> str:
    """Return the most selective kind in a scope; `global` for one that covers everything.

    >>> kind_of(("tenant:acme", "campaign:cmp-7")), kind_of(("global:*",))
    ('campaign', 'global')
    """
    kinds = parsed(scope)
    return next((kind for kind in KINDS if kind in kinds), GLOBAL_KIND)
