"""Reading `control` from outside: from offset 0 to a high watermark taken now, checked and folded.

What is not committed is read, too: a transaction that hangs there must not hide what follows it. A log whose beginning
is gone is not read at all: nobody can tell from the rest which switches are engaged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from hitl_stream.core.errors import BrokenError, UnreachableError, UsageError
from hitl_stream.lane.admin import Client, reaching
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.topics import TopicSet

SLICE_RECORDS = 200
"""Folded in one turn of the event loop: 25 ms."""
POLL_MS = 200
STALLED_SECONDS_MAX = 10.0
"""So long nothing may come while records are known to be there."""


class ControlReader:
    """Reads one cluster's `control` into a `ControlLog`."""

    def __init__(self, client: Client, consumer: Any, part: TopicPartition, log: ControlLog) -> None:
        self.log = log
        self._client = client
        self._consumer = consumer
        self._part = part

    async def catch_up(self) -> ControlLog:
        """Fold on to a high watermark taken now.

        Raises:
            UnreachableError: Kafka does not answer, or gives nothing for `STALLED_SECONDS_MAX`.
            BrokenError: the log does not start at offset 0 (any more).
        """
        with reaching(self._client):
            end = (await self._consumer.end_offsets([self._part]))[self._part]
            loop = asyncio.get_running_loop()
            progress = loop.time()
            while (position := await self._consumer.position(self._part)) < end:
                try:
                    got = await self._consumer.getmany(self._part, timeout_ms=POLL_MS, max_records=SLICE_RECORDS)
                except OffsetOutOfRangeError:
                    raise beheaded(self._part.topic, f"behind offset {position}") from None
                self._fold(got.get(self._part, ()))
                if await self._consumer.position(self._part) > position:
                    progress = loop.time()
                elif loop.time() - progress > STALLED_SECONDS_MAX:
                    place = f"{self._part.topic}/0/{position}"
                    raise UnreachableError(
                        f"Kafka at {self._client['bootstrap_servers']}: nothing to read at {place} for "
                        f"{STALLED_SECONDS_MAX:g} s, expected records up to {end}; try again"
                    )
        return self.log

    def _fold(self, records: Any) -> None:
        for record in records:
            if self.log.control.epoch < 0 < record.offset:
                raise beheaded(self._part.topic, f"at offset {record.offset}")
            self.log.take(record.offset, record.timestamp, record.value)


@asynccontextmanager
async def reading_control(client: Client, topics: TopicSet, trust: str, audience: str) -> AsyncIterator[ControlReader]:
    """Give a reader that stands at offset 0. Raises `BrokenError` for a log that does not start there."""
    topic = topics.name("control")
    async with started(client, committed=False, auto_offset_reset="none") as consumer:
        parts = await partitions_of(consumer, [topic])
        if not parts:
            raise UsageError(
                f"Kafka at {client['bootstrap_servers']} has no topic {topic}; create it: hitl topics apply"
            )
        if len(parts) > 1:
            raise BrokenError(f"{topic} has {len(parts)} partitions, expected one: commands would have no order")
        first = (await consumer.beginning_offsets(parts))[parts[0]]
        if first:
            raise beheaded(topic, f"at offset {first}")
        consumer.assign(parts)
        consumer.seek(parts[0], 0)
        yield ControlReader(client, consumer, parts[0], ControlLog(audience, trust))


async def read_control(client: Client, topics: TopicSet, trust: str, audience: str) -> ControlLog:
    """Fold `control` from offset 0 to its high watermark; `audience` is the cluster's id. Raises as a reader does."""
    async with reading_control(client, topics, trust, audience) as reader:
        return await reader.catch_up()


def beheaded(topic: str, where: str) -> BrokenError:
    """Return the error for a log whose beginning is gone."""
    return BrokenError(
        f"{topic} begins {where}, expected 0: commands were deleted, and nobody can tell which switches are "
        "engaged. Everything stays stopped; restore the topic from a copy"
    )
