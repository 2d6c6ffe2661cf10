"""When the transactions of a partition were committed: consumers drop the broker's markers, so batches are read raw.

Rules:
- A record of a transaction counts from the time of its *marker*, a control batch: its append time was seen 3 s earlier.
- Only the headers of batches are read: no record is decompressed or decoded but the markers.
- A batch outside any transaction is committed when it is appended.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal, NamedTuple, assert_never

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.record.control_record import ABORT_MARKER, COMMIT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

from hitl_stream.core.errors import UnreachableError, UsageError
from hitl_stream.lane.admin import REACH_SECONDS_MAX, Client, reaching

FETCH_BYTES = 4 * 1024 * 1024
FETCH_WAIT_MS = 50
REQUEST_TIMEOUT_MS = 20_000
STALLED_SECONDS = 45.0
"""So long a partition may be without a leader, or give nothing that it has."""
RETRY_SECONDS = 0.1
PATIENCE_SECONDS = 20.0
"""A dead owner's transaction is ended by the broker after its 10 s and up to 10 more."""
UNCOMMITTED = 0
"""Kafka's number of the isolation level that shows everything."""

# aiokafka has no types; as Any its calls pass under strict.
_Client: Any = AIOKafkaClient
_MemoryRecords: Any = MemoryRecords


class Stretch(NamedTuple):
    """The records of one batch, `first` to `last` offset, and what became of them.

    `at_ms` is when that was settled, by the broker's clock; None while their transaction is open.
    """

    first: int
    last: int
    committed: bool
    at_ms: int | None


class CommitTimes:
    """The stretches of one partition, found by offset."""

    def __init__(self, stretches: Iterable[Stretch]) -> None:
        self.stretches = sorted(stretches)
        self._firsts = [stretch.first for stretch in self.stretches]

    def of(self, offset: int) -> Stretch | None:
        """Return the stretch of a record, or None where there is none (a marker, or not read)."""
        place = bisect_right(self._firsts, offset) - 1
        if place < 0 or offset > self.stretches[place].last:
            return None
        return self.stretches[place]


async def commit_times(
    client: Client, topic: str, partition: int, from_offset: int, *, patience_s: float = PATIENCE_SECONDS
) -> CommitTimes:
    """Read a partition from an offset to its high watermark and return when each record was committed.

    Open transactions are awaited for `patience_s`; those still open then have no time.
    """
    async with aclosing(stretches(client, topic, partition, from_offset, patience_s=patience_s)) as reading:
        return CommitTimes([stretch async for stretch in reading])


async def stretches(
    client: Client, topic: str, partition: int, from_offset: int, *, patience_s: float = PATIENCE_SECONDS
) -> AsyncGenerator[Stretch, None]:
    """Yield each batch up to the high watermark of the start, as soon as its marker is read: not in order of offset.

    Raises `UnreachableError` when Kafka does not answer, `UsageError` where there is no such partition.
    """
    fold = Fold()
    loop = asyncio.get_running_loop()
    end: int | None = None
    position, progress = from_offset, loop.time()
    async with _fetching(client, topic, partition) as fetch:
        while True:
            content, high = await fetch(position)
            end = high if end is None else end
            before = position
            for batch in batches(content):
                for stretch in fold.take(batch):
                    if from_offset <= stretch.last < end:
                        yield stretch
                position = batch.next_offset
            now = loop.time()
            if position != before:
                progress = now
            if position >= end:
                if not fold.open_before(end) or now - progress >= patience_s:
                    break
            elif now - progress > STALLED_SECONDS:
                raise _stalled(client, topic, partition, position, end)
        for stretch in fold.open_before(end):
            if stretch.last >= from_offset:
                yield stretch


# --- what batches say -------------------------------------------------------------------------------------------------


Kind = Literal["plain", "transactional", "commit", "abort", "other"]
_MARKERS: Mapping[int, Kind] = {ABORT_MARKER.type_: "abort", COMMIT_MARKER.type_: "commit"}


class Batch(NamedTuple):
    """The header of a record batch; `commit` and `abort` are markers, which end their producer's transaction."""

    first: int
    next_offset: int
    at_ms: int
    producer: int
    kind: Kind


class Fold:
    """Brings batches and markers of one partition together."""

    def __init__(self) -> None:
        self._open: dict[int, list[Batch]] = {}

    def take(self, batch: Batch) -> Iterator[Stretch]:
        """Take the next batch; yield what it settles."""
        match batch.kind:
            case "plain":
                yield _stretch(batch, True, batch.at_ms)
            case "transactional":
                self._open.setdefault(batch.producer, []).append(batch)
            case "commit" | "abort":
                for one in self._open.pop(batch.producer, ()):
                    yield _stretch(one, batch.kind == "commit", batch.at_ms)
            case "other":
                pass
            case _ as never:
                assert_never(never)

    def open_before(self, end: int) -> list[Stretch]:
        """Return what lies before an offset and is not settled."""
        return [_stretch(one, False, None) for group in self._open.values() for one in group if one.first < end]


def _stretch(batch: Batch, committed: bool, at_ms: int | None) -> Stretch:
    return Stretch(batch.first, batch.next_offset - 1, committed, at_ms)


def batches(content: bytes) -> Iterator[Batch]:
    """Yield the headers of the batches in a stretch of a log; one that is cut off at the end is left out."""
    found = _MemoryRecords(content)
    while (raw := found.next_batch()) is not None:
        yield Batch(raw.base_offset, raw.next_offset, raw.max_timestamp, raw.producer_id, _kind(raw))


def _kind(raw: Any) -> Kind:
    if raw.is_control_batch:
        return _MARKERS.get(ControlRecord.parse(next(iter(raw)).key).type_, "other")
    return "transactional" if raw.is_transactional else "plain"


# --- reading ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _fetching(client: Client, topic: str, partition: int) -> AsyncIterator[Any]:
    """Give a function from an offset to (bytes, high watermark) of the partition, from its leader."""
    tp = TopicPartition(topic, partition)
    with reaching(client):
        kafka = _Client(**{"request_timeout_ms": REQUEST_TIMEOUT_MS} | dict(client))
        try:
            async with asyncio.timeout(REACH_SECONDS_MAX):
                await kafka.bootstrap()
                # All topics: asking for one by name can create it where the broker allows that.
                there = (await kafka.fetch_all_metadata()).partitions_for_topic(topic) or ()
                if partition not in there:
                    raise UsageError(f"there is no {topic}/{partition} here; is the prefix right (--prefix)?")
                await kafka.set_topics([topic])

            async def fetch(offset: int) -> tuple[bytes, int]:
                async with asyncio.timeout(STALLED_SECONDS):
                    return await _fetch(kafka, tp, offset)

            yield fetch
        finally:
            await kafka.close()


async def _fetch(kafka: Any, tp: TopicPartition, offset: int) -> tuple[bytes, int]:
    """Ask until the leader has answered."""
    while True:
        leader = kafka.cluster.leader_for_partition(tp)
        if leader is not None and leader >= 0:
            wanted = [(tp.topic, [(tp.partition, offset, FETCH_BYTES)])]
            try:
                answer = await kafka.send(leader, FetchRequest(FETCH_WAIT_MS, 1, FETCH_BYTES, UNCOMMITTED, wanted))
                # The layout grew by version: what we read stands first and last in all of them.
                _, code, high, *_, content = answer.topics[0][1][0]
                if not code:
                    return bytes(content or b""), high
                raise for_code(code)(f"{tp.topic}/{tp.partition}/{offset}")
            except KafkaError as error:
                if not error.retriable:
                    raise
        await asyncio.sleep(RETRY_SECONDS)
        await kafka.force_metadata_update()


def _stalled(client: Client, topic: str, partition: int, position: int, end: int) -> UnreachableError:
    return UnreachableError(
        f"Kafka at {client['bootstrap_servers']}: nothing to read at {topic}/{partition}/{position} for "
        f"{STALLED_SECONDS:g} s, expected records up to {end}; is the broker there?"
    )
