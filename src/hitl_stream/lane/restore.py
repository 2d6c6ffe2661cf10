"""Restoring a partition's state from the log, in one of two ways.

*Window replay* (router): read the last stretch of the input again, without output. *Changelog* (desk, executor): read a
compacted topic, written in the same transactions, to its high watermark; the stable offset must reach it, otherwise the
state would be silently incomplete. Both go in slices, so that the loop keeps turning.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from hitl_stream.core.errors import BrokenError
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane import tidy as _tidy  # noqa: F401  likewise
from hitl_stream.lane.step import Record, State

SLICE_RECORDS = 1_000
"""About 15 ms of replay: far below the 100 ms that a heartbeat may wait."""
LOOK_BACK = (1, 64, 4_096, 262_144)
"""How far before the committed offset the last record is looked for: markers of transactions lie between."""
READ_TIMEOUT_MS = 100
"""Waited out where only markers are left to read, as behind everything that a pass has taken."""
STALLED_S = 30.0


@dataclass(frozen=True)
class WindowReplay:
    """Re-read the records of the inputs that were appended in the last `reach_ms` before the committed offset.

    A function is asked at each opening, since the policy may change how far that is.
    """

    reach_ms: int | Callable[[], int]


@dataclass(frozen=True)
class Changelog:
    """Read a compacted topic, partition by partition, to its end."""

    topic: str


Restore = WindowReplay | Changelog | None


class Followed(NamedTuple):
    """What was read of a followed topic: `records` of them from offset `begin` on; the rest comes from `end` on."""

    records: int
    begin: int
    end: int


async def restore(
    how: Restore,
    state: State,
    client: Mapping[str, Any],
    committed: Mapping[TopicPartition, int | None],
    partition: int,
) -> int:
    """Fold the past into `state`; return how many records were read.

    Raises `TimeoutError` when the log does not answer for `STALLED_S`, `BrokenError` when the state cannot take it in.
    """
    match how:
        case None:
            return 0
        case WindowReplay(reach_ms):
            return await _replay(state, client, committed, reach_ms() if callable(reach_ms) else reach_ms)
        case Changelog(topic):
            return await _changelog(state, client, TopicPartition(topic, partition))


async def follow(
    state: State, client: Mapping[str, Any], committed: Mapping[TopicPartition, int | None]
) -> dict[TopicPartition, Followed]:
    """Fold what lies on each of these from its committed offset (None: its beginning) to its high watermark.

    Raises as `restore` does.
    """
    if not committed:
        return {}
    bounds = await _bounds(client, committed)
    starts = {tp: max(bounds[tp][0], offset or 0) for tp, offset in committed.items()}
    ends = {tp: max(starts[tp], end) for tp, (_, end) in bounds.items()}
    counts = dict.fromkeys(committed, 0)
    if starts != ends:
        async with _reader(client, "read_committed") as consumer:
            consumer.assign(list(committed))
            async for batch in _read(consumer, starts, ends):
                counts[TopicPartition(batch[0].topic, batch[0].partition)] += await _hand_over(state.follow, batch)
    return {tp: Followed(counts[tp], starts[tp], ends[tp]) for tp in committed}


async def high_watermarks(client: Mapping[str, Any], of: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    """Ask for the high watermarks now; under read_committed a consumer would get the last stable offset instead."""
    async with _reader(client, "read_uncommitted") as reader:
        ends: dict[TopicPartition, int] = await reader.end_offsets(list(of))
        return ends


def merged(batches: Iterable[Sequence[Record]]) -> Iterable[Record]:
    """Merge the records of several topics by append time, then topic.

    Those of one topic stay in their order, also where its broker's clock was set back: what is committed is one offset.
    """
    return heapq.merge(*batches, key=lambda record: (record.timestamp, record.topic))


async def _replay(
    state: State, client: Mapping[str, Any], committed: Mapping[TopicPartition, int | None], reach_ms: int
) -> int:
    ends = {tp: offset for tp, offset in committed.items() if offset}
    if not ends:
        return 0
    async with _reader(client, "read_committed") as consumer:
        consumer.assign(list(ends))
        begins = await consumer.beginning_offsets(list(ends))
        starts: dict[TopicPartition, int] = {}
        for tp, end in ends.items():
            newest = await _append_time_before(consumer, tp, end, begins[tp])
            if newest is None:
                continue
            found = (await consumer.offsets_for_times({tp: max(0, newest - reach_ms)})).get(tp)
            starts[tp] = found.offset if found is not None else end
        return await _fold(consumer, state, starts, ends)


async def _append_time_before(consumer: AIOKafkaConsumer, tp: TopicPartition, end: int, begin: int) -> int | None:
    """Return the append time of the last record before `end`, or None where there is none."""
    for back in LOOK_BACK:
        start = max(begin, end - back)
        if start >= end:
            return None
        newest: int | None = None
        consumer.seek(tp, start)
        async for batch in _read(consumer, {tp: start}, {tp: end}):
            newest = batch[-1].timestamp
        if newest is not None or start == begin:
            return newest
    return None


async def _fold(
    consumer: AIOKafkaConsumer,
    state: State,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> int:
    """Replay several inputs in the order in which they were decided: append time, topic, offset."""
    if len(starts) == 1:
        count = 0
        async for batch in _read(consumer, starts, ends):
            count += await _hand_over(state.replay, batch)
        return count
    everything: dict[str, list[Record]] = {}
    async for batch in _read(consumer, starts, ends):
        everything.setdefault(batch[0].topic, []).extend(batch)
    return await _hand_over(state.replay, list(merged(everything.values())))


async def _hand_over(take: Callable[[Sequence[Record]], None], records: Sequence[Record]) -> int:
    """Let a state take records in, a slice at a time; what it raises is a bug, also a TimeoutError."""
    for i in range(0, len(records), SLICE_RECORDS):
        try:
            take(records[i : i + SLICE_RECORDS])
        except Exception as error:
            place = f"{records[i].topic}/{records[i].partition}/{records[i].offset}"
            name = getattr(take, "__qualname__", type(take).__qualname__)
            raise BrokenError(f"{name} raised {type(error).__name__} from {place} on: {error}") from error
        await asyncio.sleep(0)
    return len(records)


async def _changelog(state: State, client: Mapping[str, Any], tp: TopicPartition) -> int:
    begin, end = (await _bounds(client, [tp]))[tp]
    if begin >= end:
        return 0
    async with _reader(client, "read_committed") as consumer:
        consumer.assign([tp])
        return await _fold(consumer, state, {tp: begin}, {tp: end})


async def _bounds(client: Mapping[str, Any], of: Iterable[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    wanted = list(of)
    async with _reader(client, "read_uncommitted") as watermarks:
        # Under read_committed the "end" is the last stable offset: what a pending transaction hides would be missed.
        ends = await watermarks.end_offsets(wanted)
        begins = await watermarks.beginning_offsets(wanted)
    return {tp: (begins[tp], ends[tp]) for tp in wanted}


async def _read(
    consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> AsyncIterator[Sequence[Record]]:
    """Yield the records of each partition from its start to before its end; markers at the end count as reached."""
    open_ = {tp for tp, start in starts.items() if start < ends[tp]}
    for tp in ends:
        if tp in open_:
            consumer.seek(tp, starts[tp])
        else:
            consumer.pause(tp)
    loop = asyncio.get_running_loop()
    progress = loop.time()
    try:
        while open_:
            got = await consumer.getmany(*open_, timeout_ms=READ_TIMEOUT_MS)
            for tp, batch in got.items():
                progress = loop.time()
                wanted = [record for record in batch if record.offset < ends[tp]]
                if wanted:
                    yield wanted
            for tp in list(open_):
                if await consumer.position(tp) >= ends[tp]:
                    open_.discard(tp)
                    consumer.pause(tp)
            if loop.time() - progress > STALLED_S:
                raise TimeoutError(f"no record of {sorted(open_)} for {STALLED_S:g} s while restoring")
    finally:
        consumer.resume(*ends)


@asynccontextmanager
async def _reader(client: Mapping[str, Any], isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation,
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=50,
    )
    try:
        # Inside: an opening is cancelled at any point, and a client that is half started keeps its tasks for ever.
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()
