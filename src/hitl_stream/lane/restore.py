"""Restoring a partition's state from the log, in one of two ways.

*Window replay* (router): read the last stretch of the input again, without output. *Changelog* (desk, executor): read a
compacted topic, written in the same transactions, to its high watermark; the stable offset must reach it, otherwise the
state would be silently incomplete. Both go in slices, so that the loop keeps turning.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.step import Record, State

SLICE_RECORDS = 1_000
"""About 15 ms of replay: far below the 100 ms that a heartbeat may wait."""
LOOK_BACK = (1, 64, 4_096, 262_144)
"""How far before the committed offset the last record is looked for: markers of transactions lie between."""
READ_TIMEOUT_MS = 1_000
STALLED_S = 30.0


@dataclass(frozen=True)
class WindowReplay:
    """Re-read the records of the inputs that were appended in the last `reach_ms` before the committed offset."""

    reach_ms: int


@dataclass(frozen=True)
class Changelog:
    """Read a compacted topic, partition by partition, to its end."""

    topic: str


Restore = WindowReplay | Changelog | None


async def restore(
    how: Restore,
    state: State,
    client: Mapping[str, Any],
    committed: Mapping[TopicPartition, int | None],
    partition: int,
) -> int:
    """Fold the past into `state`; return how many records were read.

    Raises `TimeoutError` when the log does not answer for `STALLED_S`.
    """
    match how:
        case None:
            return 0
        case WindowReplay(reach_ms):
            return await _replay(state, client, committed, reach_ms)
        case Changelog(topic):
            return await _changelog(state, client, TopicPartition(topic, partition))


async def _replay(
    state: State, client: Mapping[str, Any], committed: Mapping[TopicPartition, int | None], reach_ms: int
) -> int:
    ends = {tp: offset for tp, offset in committed.items() if offset}
    if not ends:
        return 0
    consumer = _reader(client, "read_committed")
    await consumer.start()
    try:
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
    finally:
        await consumer.stop()


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
    count = 0
    if len(starts) == 1:
        async for batch in _read(consumer, starts, ends):
            for i in range(0, len(batch), SLICE_RECORDS):
                state.replay(batch[i : i + SLICE_RECORDS])
                await asyncio.sleep(0)
            count += len(batch)
        return count
    everything: list[Record] = []
    async for batch in _read(consumer, starts, ends):
        everything.extend(batch)
    everything.sort(key=lambda record: (record.timestamp, record.topic, record.offset))
    for i in range(0, len(everything), SLICE_RECORDS):
        state.replay(everything[i : i + SLICE_RECORDS])
        await asyncio.sleep(0)
    return len(everything)


async def _changelog(state: State, client: Mapping[str, Any], tp: TopicPartition) -> int:
    watermarks = _reader(client, "read_uncommitted")
    await watermarks.start()
    try:
        # Under read_committed the "end" is the last stable offset: what a pending transaction hides would be missed.
        end = (await watermarks.end_offsets([tp]))[tp]
        begin = (await watermarks.beginning_offsets([tp]))[tp]
    finally:
        await watermarks.stop()
    if begin >= end:
        return 0
    consumer = _reader(client, "read_committed")
    await consumer.start()
    try:
        consumer.assign([tp])
        return await _fold(consumer, state, {tp: begin}, {tp: end})
    finally:
        await consumer.stop()


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


def _reader(client: Mapping[str, Any], isolation: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=isolation,
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=50,
    )
