"""Reading topics from outside: without a group, from a time or the beginning, up to the ends taken at the start.

Only what is committed is read. A *stable* end is where read_committed readers get to now. A *high* end also covers the
transactions that are pending now: reading waits until they are settled, which takes as long as their time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition

from hitl_stream.core.errors import UnreachableError
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.admin import REACH_SECONDS_MAX, Client, reaching
from hitl_stream.lane.stable_offsets import stable_offsets
from hitl_stream.lane.step import Record

FETCH_BYTES = 1024 * 1024
"""Buffered for each partition: 120 MiB for ten topics of twelve."""
RECORDS_MAX = 10_000
"""Handed out together, so that what lies decoded in memory is bounded."""
POLL_MS = 1_000
STALLED_SECONDS = 45.0
"""A transaction whose owner died hides what follows it for its 10 s and up to 10 more; then something is wrong."""
STABLE_SECONDS_MAX = 30.0

WATCHER: ContextVar[Callable[[int, int], None] | None] = ContextVar("watcher", default=None)
"""Whoever shows a person how far reading is is told (records read, records in all), some times a second at most."""

# aiokafka has no types; as Any its calls pass under strict.
_Consumer: Any = AIOKafkaConsumer


class Span(NamedTuple):
    """A stretch of one partition: from `start` to before `end`. `first` is where the log begins."""

    first: int
    start: int
    end: int


Spans: TypeAlias = dict[TopicPartition, Span]


async def spans(
    client: Client,
    topics: Iterable[str],
    *,
    since_ms: int | None = None,
    partition: int | None = None,
    high: bool = False,
) -> Spans:
    """Return where each partition of `topics` starts and ends now; a topic that does not exist is left out.

    `since_ms` starts at the first record appended then or later; `partition` takes only that number of each topic.
    """
    async with started(client, committed=not high) as consumer:
        parts = [tp for tp in await partitions_of(consumer, topics) if partition in (None, tp.partition)]
        if not parts:
            return {}
        firsts = await consumer.beginning_offsets(parts)
        ends = await consumer.end_offsets(parts)
        starts = dict(firsts)
        if since_ms is not None:
            found = await consumer.offsets_for_times(dict.fromkeys(parts, max(0, since_ms)))
            starts = {tp: ends[tp] if at is None else max(at.offset, firsts[tp]) for tp, at in found.items()}
        return {tp: Span(firsts[tp], min(starts[tp], ends[tp]), ends[tp]) for tp in parts}


async def read(
    client: Client, wanted: Mapping[TopicPartition, Span]
) -> AsyncGenerator[tuple[str, int, Sequence[Record]], None]:
    """Yield (topic, partition, records), each partition in its order, the partitions side by side.

    Raises `UnreachableError` when nothing comes for `STALLED_SECONDS`.
    """
    open_ = {tp for tp, span in wanted.items() if span.start < span.end}
    if not open_:
        return
    async with started(client, committed=True) as consumer:
        consumer.assign(list(open_))
        for tp in open_:
            consumer.seek(tp, wanted[tp].start)
        loop = asyncio.get_running_loop()
        progress = loop.time()
        reached: dict[TopicPartition, int] = {}
        watcher, total = WATCHER.get(), sum(wanted[tp].end - wanted[tp].start for tp in open_)
        left = {tp: wanted[tp].end - wanted[tp].start for tp in open_}
        while open_:
            for tp, records in (await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)).items():
                end = wanted[tp].end
                if records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                if records:
                    yield tp.topic, tp.partition, records
            positions = {tp: await consumer.position(tp) for tp in open_}
            for tp, position in positions.items():
                left[tp] = max(0, wanted[tp].end - position)
                if position >= wanted[tp].end:
                    open_.discard(tp)
                    consumer.pause(tp)
            if watcher is not None:
                watcher(total - sum(left.values()), total)
            if positions != reached:
                progress, reached = loop.time(), positions
            elif loop.time() - progress > STALLED_SECONDS:
                raise _stalled(client, wanted, positions, open_)


def _stalled(
    client: Client,
    wanted: Mapping[TopicPartition, Span],
    positions: Mapping[TopicPartition, int],
    open_: Iterable[TopicPartition],
) -> UnreachableError:
    tp = min(open_)
    place = f"{tp.topic}/{tp.partition}/{positions[tp]}"
    return UnreachableError(
        f"Kafka at {client['bootstrap_servers']}: nothing to read at {place} for {STALLED_SECONDS:g} s, expected "
        f"records up to {wanted[tp].end}; the broker is gone, or a transaction there was never ended"
    )


async def record_at(client: Client, topic: str, partition: int, offset: int) -> Record | None:
    """Return the record at a place, or None where there is none (any more)."""
    tp = TopicPartition(topic, partition)
    span = (await spans(client, [topic], partition=partition)).get(tp)
    if span is None or not span.first <= offset < span.end:
        return None
    async with aclosing(read(client, {tp: Span(span.first, offset, offset + 1)})) as reading:
        async for _, _, records in reading:
            return records[0]
    return None


async def newest_append_ms(client: Client, topic: str) -> int | None:
    """Return when the newest record of a topic's partition 0 was appended; None where there is none."""
    async with started(client, committed=False) as consumer:
        parts = [tp for tp in await partitions_of(consumer, [topic]) if tp.partition == 0]
        if not parts:
            return None
        (end,) = (await consumer.end_offsets(parts)).values()
        (first,) = (await consumer.beginning_offsets(parts)).values()
        if first >= end:
            return None
        consumer.assign(parts)
        consumer.seek(parts[0], end - 1)
        found = await consumer.getmany(*parts, timeout_ms=POLL_MS)
        return max((record.timestamp for record in found.get(parts[0], ())), default=None)


async def committed(client: Client, group: str, parts: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
    """Return a group's committed offsets once no transaction can change them; None where it has never committed."""
    async with started(client, committed=True, group_id=group, enable_auto_commit=False) as consumer:
        return await stable_offsets(consumer, group, parts, STABLE_SECONDS_MAX)


async def partitions_of(consumer: Any, topics: Iterable[str]) -> list[TopicPartition]:
    """Return the partitions of those topics that exist."""
    # All of them, since asking for one by name can create it where the broker allows that.
    cluster = await consumer._client.fetch_all_metadata()
    there = [topic for topic in topics if topic in cluster.topics()]
    await consumer._client.set_topics(there)
    return [TopicPartition(topic, n) for topic in there for n in sorted(cluster.partitions_for_topic(topic) or ())]


@asynccontextmanager
async def started(client: Client, *, committed: bool, **options: Any) -> AsyncIterator[Any]:
    """Give a started consumer without a group; what Kafka raises meanwhile becomes our own errors."""
    with reaching(client):
        consumer = _Consumer(
            **client,
            **{"group_id": None, "auto_offset_reset": "earliest"} | options,
            isolation_level="read_committed" if committed else "read_uncommitted",
            max_partition_fetch_bytes=FETCH_BYTES,
            fetch_max_wait_ms=50,
            request_timeout_ms=20_000,
        )
        try:
            async with asyncio.timeout(REACH_SECONDS_MAX):
                await consumer.start()
            yield consumer
        finally:
            await _stop(consumer)


async def _stop(consumer: Any) -> None:
    """Stop a consumer. Where the broker is gone it may end as cancelled, by a fetch of its own: that is no error."""
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait((stopping,))
    if not stopping.cancelled():
        stopping.result()
