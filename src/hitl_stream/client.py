"""The publisher's side: write an action, send it to its home partition, know where it landed and what became of it.

```python
async with Publisher("localhost:9092") as publisher:
    receipt = await publisher.send(action)
    outcome = await publisher.wait(action)
```

Rules of this module:
- The model refuses at home what the router would refuse later, with a message a person can act on. Unknown fields are
  kept, as everywhere.
- What is sent is decoded once more by the router's own codec, so the two can never read an action differently.
- After a failure in the middle, sending the same bytes again is safe: the router drops a repeated id with equal bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice
from types import TracebackType
from typing import Annotated, Any, Protocol, Self

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from msgspec import Struct
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, ValidationError

from hitl_stream.core import action as core
from hitl_stream.core.action import (
    ACTION_BYTES_MAX,
    DEPTH_MAX,
    EVIDENCE_MAX,
    FLAGS_MAX,
    LEGS_MAX,
    NUMBER,
    entity_of,
)
from hitl_stream.core.errors import BrokenError, UnreachableError, UsageError
from hitl_stream.core.events import ErrorClass, Why
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.home import home_of, key_of
from hitl_stream.wire.records import Closed, Result, decode_closed, decode_decision, decode_result

TOPIC = "hitl.actions"
TIMEOUT_SECONDS = 10.0
"""Connecting, and one delivery, may take so long; a healthy cluster answers in milliseconds."""
STOP_SECONDS_MAX = 5.0
"""Closing flushes; an idempotent producer would flush for ever at a broker that is gone."""
CHUNK_MAX = 10_000
"""Records handed to the producer before their delivery is awaited: some 6 MB of usual actions."""
BATCH_BYTES = 256 * 1024
REQUEST_BYTES_MAX = 1024 * 1024
ENDS = ("closed", "results", "recommendations")
"""Where actions end."""
UNRESOLVED = "unresolved"
RECOMMENDED = "recommended"
WAIT_SECONDS = 60.0
WAIT_POLL_MS = 200
WAIT_BACK = timedelta(days=1)
CLOCK_SLACK_MS = 600_000
"""A publisher's clock may be ahead of the broker's by so much."""


def _number(value: object) -> float | str:
    """Take a number as the router will read it: a float, or a string for a string or a Decimal."""
    match value:
        case str() | Decimal() if NUMBER.match(text := str(value)):
            return text
        case bool():
            pass
        case int() | float() if abs(value) <= sys.float_info.max:
            return float(value)
    raise ValueError(f"{value!r:.100} is not a finite decimal; write one such as '1.20'")


def _value(value: object) -> float | str | bool:
    """Take one side of a change: a text or a flag as it is, else a number."""
    return value if isinstance(value, str | bool) else _number(value)


def _time(value: object) -> datetime:
    """Read a time with the router's own reader, or take an aware datetime; return it in UTC."""
    try:
        time = msgspec.convert(value, core.Time)
        return time.astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        wanted = "a time with an offset, such as '2026-11-21T07:10:00Z' or datetime.now(UTC)"
        raise ValueError(f"{value!r} is not {wanted}") from None


def _tenant(text: str) -> str:
    if "/" in text:
        raise ValueError(f"{text!r} holds a slash; `tenant/action_id` must name one action only")
    return text


def _publishers_id(text: str) -> str:
    if "~" in text:
        raise ValueError(f"{text!r} holds a ~, which marks an action that a person changed")
    return text


def _json(value: object) -> object:
    _check_json(value, depth=2)
    return value


def _check_json(value: object, depth: int) -> None:
    """Refuse what would nest too deep, or change on its way through JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} cannot be written in JSON")
    if isinstance(value, Mapping | list | tuple):
        if depth > DEPTH_MAX:
            raise ValueError(f"nests deeper than {DEPTH_MAX}")
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_json(item, depth + 1)
        if isinstance(value, Mapping) and not all(isinstance(key, str) for key in value):
            raise ValueError("a key that is no string cannot be written in JSON")


Name = Annotated[str, Field(min_length=1, max_length=200)]
Number = Annotated[float | str | Decimal, BeforeValidator(_number)]
Value = Annotated[float | str | bool | Decimal, BeforeValidator(_value)]
Time = Annotated[datetime, BeforeValidator(_time)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_json)]]


class Agent(_Model):
    """Who proposes: a new version is a new agent as far as trust goes."""

    id: Name
    version: Annotated[str, Field(max_length=200)] = ""


class Entity(_Model):
    """What is acted upon; the account decides the partition."""

    account: Name | None = None
    campaign: Name | None = None


class Change(_Model):
    """One leg: a field of an entity goes from `before` to `after`, in `unit` (a currency for money).

    A string that reads as a number is one; any other text, and a flag, has no size, so a person decides about it.
    """

    entity: Entity
    field: Name
    before: Value | None = None
    after: Value | None = None
    unit: Annotated[str, Field(max_length=32)] | None = None


class Evidence(_Model):
    """A signal the agent cites. `better` says which direction is good: "up" or "down"."""

    signal: Name
    value: Number | None = None
    before: Number | None = None
    better: Annotated[str, Field(max_length=16)] | None = None
    ref: Annotated[str, Field(max_length=2_000)] | None = None


class Asset(_Model):
    """A picture or a film, named by the SHA-256 of its bytes in lower-case hex."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    media_type: Annotated[str, Field(max_length=200)]
    uri: Annotated[str, Field(max_length=2_000)]


class Content(_Model):
    """What would be published, and the source it was made from."""

    text: str | None = None
    language: Annotated[str, Field(max_length=64)] | None = None
    platform: Annotated[str, Field(max_length=64)] | None = None
    source: str | None = None
    assets: Annotated[tuple[Asset, ...], Field(max_length=100)] = ()


class Batch(_Model):
    """The lot that an action belongs to, of one account, `size` items long; `index` starts at 0."""

    id: Name
    size: Annotated[StrictInt, Field(ge=1, le=10_000)]
    index: Annotated[StrictInt, Field(ge=0, lt=10_000)] = 0


class Action(_Model):
    """A proposed action, as `core.action.Action` reads it. Invalid input raises pydantic's `ValidationError`.

    Numbers are best given as `Decimal` or as strings, which keep every digit; times carry an offset.
    """

    action_id: Annotated[Name, AfterValidator(_publishers_id)]
    type: Name
    agent: Agent
    proposed_at: Time
    tenant: Annotated[str, Field(max_length=200), AfterValidator(_tenant)] = ""
    changes: Annotated[tuple[Change, ...], Field(max_length=LEGS_MAX)] = ()
    confidence: Number | None = None
    expires_at: Time | None = None
    flags: Annotated[tuple[Name, ...], Field(max_length=FLAGS_MAX)] = ()
    entity: Entity | None = None
    destination: Annotated[str, Field(max_length=200)] | None = None
    evidence: Annotated[tuple[Evidence, ...], Field(max_length=EVIDENCE_MAX)] = ()
    content: Content | None = None
    context: Annotated[dict[str, Any], AfterValidator(_json)] | None = None
    rationale: str | None = None
    batch: Batch | None = None

    def to_bytes(self) -> bytes:
        """Return the action as compact JSON; raise `UsageError` if it is too long."""
        try:
            value = msgspec.json.encode(self.model_dump(exclude_defaults=True))
        except (TypeError, ValueError) as error:
            raise UsageError(f"action {self.action_id!r} cannot be written as JSON: {error}") from None
        if len(value) > ACTION_BYTES_MAX:
            raise UsageError(
                f"action {self.action_id!r} is {len(value)} bytes, at most {ACTION_BYTES_MAX} are taken; "
                "refer to large content by URI and digest (content.assets)"
            )
        return value


def explain(error: ValidationError) -> str:
    """Say in one line where a model was wrong: `changes.0.after: 'x' is not a number; …`."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'action'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_context=False)
    )


class Placed(Struct, frozen=True, gc=False):
    """One record and the partition it goes to."""

    value: bytes
    key: bytes | None
    partition: int


def place(value: bytes, tenant: str, partitions: int) -> Placed:
    """Find the key and home partition of an action's bytes; `tenant` holds for an action that names none.

    Raises `UsageError` where the router would not read the bytes as an action.
    """
    found = decode_bytes(value) if value else Undecodable(ErrorClass.EMPTY, "there are no bytes")
    if isinstance(found, Undecodable):
        raise UsageError(f"not an action ({found.error.value}): {found.why}")
    action = found.action
    if "~" in action.action_id:
        raise UsageError(f"not a publisher's id: {action.action_id!r} holds a ~, which marks a person's change")
    owner = action.tenant or tenant
    entity = entity_of(action)
    return Placed(found.raw, key_of(owner, entity, action.agent.id), home_of(action, owner, entity, partitions))


class Receipt(Struct, frozen=True):
    """Where an action stands in the log."""

    topic: str
    partition: int
    offset: int


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of an action.

    `end`: executed, failed or unresolved (nobody knows yet what the platform did); rejected, expired, stale, superseded
    or refused; recommended (its class only recommends, and `route` is where it would have gone). `code` and `note` are
    what a person gave as reason, `by` who they were. `text` is what the platform said.
    """

    tenant: str
    action_id: str
    hash: str
    end: str
    why: str | None = None
    by: tuple[str, ...] = ()
    code: str | None = None
    note: str | None = None
    text: str | None = None
    route: str


class UnconfirmedError(BrokenError):
    """Kafka did not confirm in time: whether the actions were written is unknown. Sending the same bytes is safe."""


class BatchBuilder(Protocol):
    """What the publisher needs of `aiokafka`'s batch: `append` returns None when it is full."""

    def append(self, *, timestamp: int | None, key: bytes | None, value: bytes) -> object | None: ...


class Metadata(Protocol):
    """Where Kafka put a record, or the first one of a batch."""

    @property
    def offset(self) -> int: ...


class Producer(Protocol):
    """What the publisher needs of `AIOKafkaProducer`, and what a test's fake offers."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def partitions_for(self, topic: str) -> Collection[int]: ...
    def create_batch(self) -> BatchBuilder: ...
    async def send(self, topic: str, value: bytes, key: bytes | None, partition: int) -> asyncio.Future[Metadata]: ...
    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Metadata]: ...


class Consumer(Protocol):
    """What waiting needs of `AIOKafkaConsumer`, and what a test's fake offers."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    def assign(self, partitions: list[TopicPartition]) -> None: ...
    def seek(self, partition: TopicPartition, offset: int) -> None: ...
    async def end_offsets(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]: ...
    async def offsets_for_times(self, times: dict[TopicPartition, int]) -> Mapping[TopicPartition, Any]: ...
    async def getmany(self, *, timeout_ms: int) -> Mapping[TopicPartition, Iterable[Any]]: ...


class Publisher:
    """Sends actions, each to the home partition of its account, in the order they are given.

    `tenant` is assumed for actions that name none (as the router's setting of that name), `security` goes to aiokafka
    as it is, `timeout_seconds` bounds connecting and each delivery. `prefix` is that of the installation's topics, for
    `wait`; not given, it is what stands before `actions` in the topic.
    """

    def __init__(
        self,
        bootstrap: str = "localhost:9092",
        *,
        topic: str = TOPIC,
        tenant: str = "",
        security: Mapping[str, Any] | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        prefix: str | None = None,
        producer: Callable[..., Producer] = AIOKafkaProducer,
        consumer: Callable[..., Consumer] = AIOKafkaConsumer,
    ) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self.tenant = tenant
        self.partitions = 0
        self._security = dict(security or {})
        self._timeout = timeout_seconds
        self._make = producer
        self._prefix = prefix
        self._make_consumer = consumer
        self._producer: Producer | None = None

    async def __aenter__(self) -> Self:
        # Made here because aiokafka binds a producer to the loop that is running.
        producer = self._make(
            bootstrap_servers=self.bootstrap,
            enable_idempotence=True,
            acks="all",
            compression_type=None,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES_MAX,
            request_timeout_ms=int(self._timeout * 1_000),
            **self._security,
        )
        try:
            async with asyncio.timeout(self._timeout):
                await producer.start()
                self.partitions = len(await producer.partitions_for(self.topic))
        except UnknownTopicOrPartitionError:
            await _stop(producer)
            raise UsageError(f"no topic {self.topic} at {self.bootstrap}; `hitl topics apply` makes it") from None
        except (KafkaError, OSError, TimeoutError) as error:
            await _stop(producer)
            why = str(error) or f"no answer within {self._timeout:g} s"
            raise UnreachableError(
                f"Kafka was not reached at {self.bootstrap}: {why}. Nothing was written. "
                "Check the address and that the broker runs."
            ) from error
        except BaseException:
            await _stop(producer)
            raise
        self._producer = producer
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await _stop(producer)

    async def send(self, action: Action | bytes) -> Receipt:
        """Publish one action and wait until Kafka has it."""
        placed = self.place(action)
        future = await self._limited(self._started.send(self.topic, placed.value, placed.key, placed.partition))
        (metadata,) = await self._delivered([future])
        return Receipt(self.topic, placed.partition, metadata.offset)

    async def publish_many(self, actions: Iterable[Action | bytes]) -> int:
        """Publish actions in batches, order kept within a partition; return how many, all of them confirmed.

        An action that cannot be placed raises `UsageError` with its number (from 0). Those before it may have been
        written.
        """
        return await self.publish(self._place_all(actions))

    async def publish(self, records: Iterable[Placed]) -> int:
        """Publish records to the partitions that they name; return how many, all of them confirmed."""
        rest = iter(records)
        count = 0
        while chunk := list(islice(rest, CHUNK_MAX)):
            by_partition: dict[int, list[Placed]] = {}
            for record in chunk:
                by_partition.setdefault(record.partition, []).append(record)
            futures: list[asyncio.Future[Metadata]] = []
            for partition, mine in by_partition.items():
                for batch in _batches(self._started, mine):
                    sending = self._started.send_batch(batch, self.topic, partition=partition)
                    futures.append(await self._limited(sending))
            await self._delivered(futures)
            count += len(chunk)
        return count

    async def wait(
        self,
        action: Action | str,
        *,
        tenant: str | None = None,
        since: datetime | None = None,
        timeout_seconds: float = WAIT_SECONDS,
    ) -> Outcome | None:
        """Wait until an action has ended, given as it was sent or by its id; None: it has not in time.

        It is looked for in what was appended since it was proposed, or since `since` (an id: the last day). What
        `unresolved` becomes is waited for. Seals are not checked: that takes keys which no publisher has.
        """
        self._started  # noqa: B018 - the number of partitions is known only once connected
        wanted = _wanted(action, tenant or self.tenant)
        from_ms = int((since or _since(action)).timestamp() * 1_000) - CLOCK_SLACK_MS
        found: Outcome | None = None
        async with self._reading(from_ms) as consumer:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    while found is None or found.end == UNRESOLVED:
                        got = await consumer.getmany(timeout_ms=WAIT_POLL_MS)
                        for part, records in got.items():
                            for record in records:
                                found = _ended(part.topic, record.value, wanted) or found
        return found

    @contextlib.asynccontextmanager
    async def _reading(self, from_ms: int) -> AsyncIterator[Consumer]:
        """Give a consumer of the topics on which actions end, from that time on."""
        prefix = self._prefix if self._prefix is not None else self.topic.removesuffix("actions")
        if prefix == self.topic:
            raise UsageError(
                f"topic {self.topic} does not end in `actions`; give the prefix of the installation's topics"
            )
        consumer = self._make_consumer(
            bootstrap_servers=self.bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest",
            isolation_level="read_committed", **self._security,
        )  # fmt: skip
        try:
            try:
                async with asyncio.timeout(self._timeout):
                    await consumer.start()
                    await _seek(consumer, [prefix + name for name in ENDS], self.partitions, from_ms)
            except (KafkaError, OSError, TimeoutError) as error:
                why = str(error) or f"no answer within {self._timeout:g} s"
                raise UnreachableError(f"Kafka was not reached at {self.bootstrap}: {why}") from error
            yield consumer
        finally:
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(consumer.stop(), STOP_SECONDS_MAX)

    def place(self, action: Action | bytes) -> Placed:
        """Find the key and home partition of an action in this topic."""
        value = action.to_bytes() if isinstance(action, Action) else action
        self._started  # noqa: B018 - the number of partitions is known only once connected
        return place(value, self.tenant, self.partitions)

    def _place_all(self, actions: Iterable[Action | bytes]) -> Iterator[Placed]:
        for number, action in enumerate(actions):
            try:
                yield self.place(action)
            except UsageError as error:
                raise UsageError(f"action number {number}: {error}") from None

    @property
    def _started(self) -> Producer:
        if self._producer is None:
            raise UsageError("the publisher is not connected; use `async with Publisher(...) as publisher:`")
        return self._producer

    async def _limited(self, sending: Any) -> asyncio.Future[Metadata]:
        """Hand over one record or batch, which waits while its partition has another in flight."""
        try:
            async with asyncio.timeout(self._timeout):
                future: asyncio.Future[Metadata] = await sending
                return future
        except (KafkaError, TimeoutError) as error:
            raise self._unconfirmed(error) from error

    async def _delivered(self, futures: list[asyncio.Future[Metadata]]) -> list[Metadata]:
        # `wait`, not `wait_for`: giving up must not cancel a future that the producer will still resolve.
        done, pending = await asyncio.wait(futures, timeout=self._timeout)
        failed = [error for future in done if (error := future.exception()) is not None]
        for future in pending:
            future.add_done_callback(_retrieve)
        if failed or pending:
            error = failed[0] if failed else TimeoutError(f"no answer within {self._timeout:g} s")
            raise self._unconfirmed(error) from error
        return [future.result() for future in futures]

    def _unconfirmed(self, error: BaseException) -> UnconfirmedError:
        return UnconfirmedError(
            f"Kafka at {self.bootstrap} did not confirm: {error or type(error).__name__}. "
            "Some actions may have been written; send the same bytes again, the router drops what it has seen."
        )


class _Wanted(Struct, frozen=True):
    """Which action is waited for; without a hash, whichever bytes came under its id."""

    tenant: str
    action_id: str
    hash: str | None = None


def _wanted(action: Action | str, tenant: str) -> _Wanted:
    found = _Wanted(tenant, action) if isinstance(action, str) else _of(action, tenant)
    if not found.tenant:
        raise UsageError(f"action {found.action_id!r} names no tenant; give one to `wait` or to the publisher")
    return found


def _of(action: Action, tenant: str) -> _Wanted:
    return _Wanted(action.tenant or tenant, action.action_id, hashlib.sha256(action.to_bytes()).hexdigest())


def _since(action: Action | str) -> datetime:
    return action.proposed_at if isinstance(action, Action) else datetime.now(UTC) - WAIT_BACK


async def _seek(consumer: Consumer, topics: list[str], partitions: int, from_ms: int) -> None:
    """Let a consumer read on from a time; the topics have as many partitions as that of the actions."""
    parts = [TopicPartition(topic, number) for topic in topics for number in range(partitions)]
    consumer.assign(parts)
    found = await consumer.offsets_for_times(dict.fromkeys(parts, max(0, from_ms)))
    ends = await consumer.end_offsets(parts)
    for part in parts:
        at = found.get(part)
        consumer.seek(part, ends[part] if at is None else at.offset)


def _ended(topic: str, value: bytes | None, wanted: _Wanted) -> Outcome | None:
    """Return what a record says of the action that is waited for, if it says anything."""
    if not value or (wanted.action_id.encode() not in value and b"\\" not in value):
        return None
    try:
        one: Any = _DECODE[_ending(topic)](value)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if (one.tenant, one.action_id) != (wanted.tenant, wanted.action_id) or wanted.hash not in (None, one.hash):
        return None
    shared = {"tenant": one.tenant, "action_id": one.action_id, "hash": one.hash, "route": one.outcome}
    match one:
        case Closed() if one.why == Why.DUPLICATE.value:
            return None  # the same bytes came once more; the first ones go their way
        case Closed():
            return Outcome(**shared, end=one.end, why=one.why, by=one.by, code=one.code, note=one.note)
        case Result():
            return Outcome(**shared, end=one.status, by=one.by, text=one.platform.text)
    return Outcome(**shared, end=RECOMMENDED)


def _ending(topic: str) -> str:
    return next(name for name in ENDS if topic.endswith(name))


_DECODE: Mapping[str, Callable[[bytes], Any]] = {
    "closed": decode_closed,
    "results": decode_result,
    "recommendations": decode_decision,
}


def _batches(producer: Producer, records: list[Placed]) -> list[BatchBuilder]:
    """Fill as few batches as hold the records, in order."""
    batch = producer.create_batch()
    batches = [batch]
    for record in records:
        if batch.append(timestamp=None, key=record.key, value=record.value) is None:
            batch = producer.create_batch()
            batches.append(batch)
            if batch.append(timestamp=None, key=record.key, value=record.value) is None:
                raise BrokenError(f"a record of {len(record.value)} bytes does not fit an empty batch")
    return batches


def _retrieve(future: asyncio.Future[Metadata]) -> None:
    """Look at a late failure, which was reported as unconfirmed already, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


async def _stop(producer: Producer) -> None:
    with contextlib.suppress(TimeoutError, KafkaError):
        await asyncio.wait_for(producer.stop(), STOP_SECONDS_MAX)
