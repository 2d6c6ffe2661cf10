"""Looks at the tails of `execute`, `closed` and `dlq`, and asks the tripwires what they make of it.

Control must not read what routers write at tens of thousands a second. So every `LOOK_EVERY_S`:
1. the ends of the topics are asked for: what came in and went out, in offsets, markers of transactions included;
2. of what each partition has grown by, the last part is read, over all partitions `SAMPLE_MAX` offsets at most, and
   each record of it stands for as many as were passed over. What its writer's role has not sealed is ignored;
3. the wires are asked. One that trips is logged and counted; where the settings say `engage`, and somebody can be
   named, a HALT over that agent and tenant is appended, unless one of a tripwire is engaged for it already.
The sample is the newest part of each interval, not a random one: a burst that ended seconds ago may be missed when the
load is above `SAMPLE_MAX` / `LOOK_EVERY_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from mode import Service
from msgspec import Raw, Struct

from hitl_stream.core.action import Agent, Change, Entity
from hitl_stream.core.control import Control
from hitl_stream.core.effective import FENCED_ROLES
from hitl_stream.core.errors import HitlError
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.switches import LOWERED
from hitl_stream.core.tripwires import Interval, Publisher, Tripped, wires
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.clock import steady_ms
from hitl_stream.lane.ends import Ends
from hitl_stream.lane.step import Record
from hitl_stream.wire.acks import Seals
from hitl_stream.wire.records import CLOSED, DECISION, SOURCE_HEADER, head_of, header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed
from hitl_stream.wire.topics import TopicSet

LOOK_EVERY_S = 5.0
SAMPLE_MAX = 10_000
"""2,000 a second: 2 % of a core."""
READ_S_MAX = 3.0
POLL_MS = 100
RECORDS_MAX = 200
"""Taken in one turn: 2 ms, so that heartbeats go on beside it."""
STOP_TIMEOUT_S = 2.0
OBSERVE, ENGAGE, OFF = "observe", "engage", "off"
SAMPLED = ("execute", "closed", "dlq")
ANSWERS = ("execute", "review", "escalation", "recommendations", "held", "closed", "dlq")
DUPLICATE = "duplicate"
"""Who sends again what was sent before is not refused more often for it."""

# aiokafka has no types; as Any its calls pass under strict.
_Consumer: Any = AIOKafkaConsumer


class _Decided(Struct, frozen=True):
    """What is asked of an execute or closed record."""

    tenant: str
    agent: Agent
    entity: Entity
    end: str = ""
    why: str = ""
    action: Raw = msgspec.field(default_factory=Raw)


class _Changes(Struct, frozen=True):
    changes: tuple[Change, ...] = ()


_decode = msgspec.json.Decoder(_Decided).decode
_decode_changes = msgspec.json.Decoder(_Changes).decode

EngageFor = Callable[[Tripped], Awaitable[None]]
"""Appends a HALT over the publisher that tripped a wire."""


class TripwireObserver(Protocol):
    """Whoever counts. A call must not block and must not raise."""

    def tripped(self, wire: str, action: str) -> None:
        """A wire has tripped; `action` is observe or engage."""


@dataclass(frozen=True)
class TripwireSpec:
    """What to look at. `inputs`: action topic → the only publisher it is bound to, if any. `actions`: by wire."""

    client: Mapping[str, Any]
    topics: TopicSet
    inputs: Mapping[str, Publisher | None]
    seals: Seals = field(repr=False)
    actions: Mapping[str, str] = field(default_factory=dict)


class Tripwires(Service):
    """Looks, tells, and engages where it is told to. What it learned is forgotten with the process."""

    def __init__(
        self,
        spec: TripwireSpec,
        control: Control,
        engage: EngageFor,
        observer: TripwireObserver,
        *,
        steady: Callable[[], int] = steady_ms,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.control = control
        self.observer = observer
        self.wires = {name: wire for name, wire in wires().items() if spec.actions.get(name, OBSERVE) != OFF}
        self._engage = engage
        self._steady = steady
        topics = spec.topics
        self._inputs = _partitions(topics, spec.inputs)
        self._answers = _partitions(topics, map(topics.name, ANSWERS))
        self._sampled = _partitions(topics, map(topics.name, SAMPLED))
        self._execute, self._closed, self._dlq = map(topics.name, SAMPLED)
        seals = spec.seals
        self._keys: Mapping[str, Sequence[Mapping[str, SealKey]]] = {
            self._execute: [seals[role] for role in FENCED_ROLES if role in seals],
            self._closed: list(seals.values()),
        }
        self._ends = Ends(spec.client)
        self._consumer: Any = None
        self._work: list[asyncio.Future[Any]] = []
        self._before: tuple[int, dict[TopicPartition, int], dict[TopicPartition, int]] | None = None
        self.log = structlog.get_logger(role="control")

    async def on_start(self) -> None:
        """Begin to look."""
        await self._connect()
        self._work = [self.add_future(self._keep_looking())]

    async def _connect(self) -> None:
        await self._ends.start()
        self._consumer = _Consumer(
            **self.spec.client,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="latest",
            isolation_level="read_committed",
            fetch_max_wait_ms=POLL_MS,
            retry_backoff_ms=20,
        )
        await self._consumer.start()
        self._consumer.assign(self._sampled)
        self._consumer.pause(*self._sampled)

    async def on_stop(self) -> None:
        """Disconnect."""
        await ended(self._work)
        await self._ends.stop()
        if self._consumer is not None:
            with contextlib.suppress(KafkaError, TimeoutError, asyncio.TimeoutError):
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._consumer.stop()

    async def _keep_looking(self) -> None:
        while not self.should_stop:
            try:
                await self.look()
            except (KafkaError, TimeoutError, OSError) as error:
                self.log.debug("tripwires cannot look", error=repr(error))
                self._before = None
            await self.sleep(LOOK_EVERY_S)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """Look once, at what has come since the last time."""
        now = self._steady()
        high = await self._ends.high([*self._inputs, *self._answers])
        stable = await self._ends.stable(self._sampled)
        before, self._before = self._before, (now, high, stable)
        if before is None or now <= before[0]:
            return
        since, high_then, stable_then = before
        interval = Interval(
            (now - since) / 1000,
            sum(max(0, high[tp] - high_then[tp]) for tp in self._inputs),
            sum(max(0, high[tp] - high_then[tp]) for tp in self._answers),
        )
        await self._sample(interval, stable_then, stable)
        for name, wire in self.wires.items():
            for tripped in wire.judge(interval):
                await self._tell(tripped, self.spec.actions.get(name, OBSERVE))

    async def _sample(
        self, interval: Interval, since: Mapping[TopicPartition, int], until: Mapping[TopicPartition, int]
    ) -> None:
        """Read the last part of what each partition has grown by."""
        grown = {tp: until[tp] - since[tp] for tp in self._sampled if until[tp] > since[tp]}
        share = min(1.0, SAMPLE_MAX / max(1, sum(grown.values())))
        weights = {tp: count / max(1, int(count * share)) for tp, count in grown.items()}
        left = {tp: until[tp] for tp in grown}
        for tp, weight in weights.items():
            self._consumer.seek(tp, until[tp] - round(grown[tp] / weight))
        self._consumer.resume(*left)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_S_MAX):
                    await self._read(interval, weights, left)
        finally:
            self._consumer.pause(*self._sampled)

    async def _read(
        self, interval: Interval, weights: Mapping[TopicPartition, float], left: dict[TopicPartition, int]
    ) -> None:
        while left:
            found = await self._consumer.getmany(*left, timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            for tp, records in found.items():
                for record in records:
                    if record.offset < left[tp]:
                        self._count(interval, record, weights[tp])
            for tp in list(left):
                if await self._consumer.position(tp) >= left[tp]:
                    del left[tp]
            await asyncio.sleep(0)

    def _count(self, interval: Interval, record: Record, weight: float) -> None:
        if record.topic == self._dlq:
            source = (header(record.headers, SOURCE_HEADER) or b"").decode("utf-8", "replace").rsplit("/", 2)[0]
            if source in self.spec.inputs:
                interval.died(source, self.spec.inputs[source], weight)
            return
        kind = DECISION if record.topic == self._execute else CLOSED
        value, seal = record.value or b"", header(record.headers, SEAL_HEADER) or b""
        if header(record.headers, TYPE_HEADER) != kind.encode():
            return
        if not any(sealed(keys, record.topic, kind, head_of(value), seal) for keys in self._keys[record.topic]):
            return
        decided = _read_decided(value)
        if decided is None:
            return
        publisher = Publisher(decided.tenant, decided.agent.id)
        if record.topic == self._execute:
            entity = f"{decided.entity.account or ''}/{decided.entity.campaign or ''}"
            interval.executed(publisher, entity, added(decided.action), weight)
        elif decided.end == "refused" and decided.why != DUPLICATE:
            interval.refused(publisher, weight)

    # --- telling ------------------------------------------------------------------------------------------------------

    async def _tell(self, tripped: Tripped, action: str) -> None:
        named = tripped.publisher
        if action == ENGAGE and (named is None or is_engaged(self.control, named)):
            action = OBSERVE
        self.observer.tripped(tripped.wire, action)
        self.log.warning(
            "tripwire",
            wire=tripped.wire,
            agent=named.agent if named else None,
            tenant=named.tenant if named else None,
            what=tripped.what,
            saw=round(tripped.saw, 3),
            limit=round(tripped.limit, 3),
            does=action,
        )
        if action == ENGAGE:
            try:
                await self._engage(tripped)
            except HitlError as error:
                self.log.error("tripwire not engaged", wire=tripped.wire, why=str(error))


async def ended(work: Sequence[asyncio.Future[Any]]) -> None:
    """End a service's tasks, before it closes the clients that they use: a closed one would connect anew."""
    for one in work:
        one.cancel()
    await asyncio.gather(*work, return_exceptions=True)


def scope_of(publisher: Publisher) -> tuple[str, ...]:
    """Return the scope that a tripwire engages: one agent of one tenant."""
    return f"agent:{publisher.agent}", f"tenant:{publisher.tenant}"


def is_engaged(control: Control, publisher: Publisher) -> bool:
    """Say whether a tripwire's switch over this publisher holds."""
    scope = scope_of(publisher)
    return any(one.source == "tripwire" and one.scope == scope for one in control.switches.engaged.values())


def added(action: Raw) -> dict[str, float]:
    """Return by how much an action raises budgets and bids, by unit; what cannot be told counts as nothing."""
    sums: dict[str, float] = {}
    try:
        changes: Sequence[Change] = _decode_changes(action).changes
    except (ValueError, RecursionError):
        return sums
    for change in changes:
        if any(word in change.field.lower() for word in LOWERED):
            try:
                more = float(as_decimal(change.after, "after") - as_decimal(change.before, "before"))
            except UndefinedError:
                continue
            if more > 0:
                unit = change.unit or ""
                sums[unit] = sums.get(unit, 0.0) + more
    return sums


def _read_decided(value: bytes) -> _Decided | None:
    try:
        return _decode(value)
    except (ValueError, RecursionError):
        return None


def _partitions(topics: TopicSet, names: Any) -> list[TopicPartition]:
    return [TopicPartition(name, number) for name in names for number in range(topics.partitions)]
