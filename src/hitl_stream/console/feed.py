"""What keeps the view up to date: reads what the desk and the ends leave, and folds it into the store.

Rules:
- It belongs to no group: where it reads on stands in the store, in the transaction with what was read, so that a
  console which comes back, or a second one on the same store, goes on where the store is.
- Only what is committed is read.
- It says how far behind it is by the ends of the partitions, asked for again and again: silence of a broker that is
  gone is not taken for being up to date.
- When Kafka or the database goes away it tries again, for ever, and says so. The pages go on showing what was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from mode import Service

from hitl_stream.console.database import DatabaseError
from hitl_stream.console.fold import TOPICS, Keys, fold
from hitl_stream.console.pairs import Pairs
from hitl_stream.console.store import Change, Partition, Store, StoryPut, Unreadable
from hitl_stream.core.errors import HitlError, SettingsError, UsageError
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.lane.step import Record
from hitl_stream.wire.topics import TABLE, TopicSet

BESIDE = ("pairs", "preferences")
"""Read from their beginning into memory: which outputs wait to be compared."""
RECORDS_MAX = 500
"""Folded in one go: some 20 ms, in which requests wait."""
POLL_MS = 100
LOOK_S = 1.0
"""So often the ends are asked for."""
LOOK_S_MAX = 5.0
RETRY_S = 1.0
STALE_MS_MAX = 10_000
"""Behind by more, and the console is not ready: a load balancer sends people to another one."""
FORGET_EVERY_S = 3_600.0
FORGET_EVERY = 2_000
"""Or after so many records of stories: to drop as many takes less time than to fold a batch."""


class _RebuiltError(Exception):
    """Somebody has dropped the view: it is read anew."""


class Feed(Service):
    """Folds `reviews`, `decisions`, `closed` and `results` into a store, and pairs into memory.

    `noted` is told what was folded, once it is stored.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        topics: TopicSet,
        store: Store,
        keys: Keys,
        pairs: Pairs,
        clock_ms: Callable[[], int],
        noted: Callable[[Sequence[Change]], None] | None = None,
    ) -> None:
        super().__init__()
        self.trouble = "nothing was read yet"
        self.as_of_ms = 0
        self._client, self._topics, self._store, self._keys = client, topics, store, keys
        self._pairs, self._clock_ms, self._noted = pairs, clock_ms, noted
        self._names = {topics.name(name): name for name in (*TOPICS, *BESIDE)}
        self._forgot_ms = 0
        self._stories = 0
        """Records of stories folded since the view last forgot."""
        self._unreadable = 0
        self.log = structlog.get_logger(role="console")

    def missing(self) -> str:
        """Say why the view is out of date; an empty string: it is not."""
        behind_ms = self._clock_ms() - self.as_of_ms
        if behind_ms <= STALE_MS_MAX:
            return ""
        return self.trouble or f"the view is {behind_ms / 1000:.0f} s behind"

    async def on_start(self) -> None:
        """Begin to read."""
        self.add_future(self._run())

    async def _run(self) -> None:
        while not self.should_stop:
            try:
                await self._follow()
            except _RebuiltError:
                self.log.info("the view was rebuilt, and is read anew")
            except SettingsError:
                raise
            except (HitlError, KafkaError, DatabaseError, OSError) as error:  # TimeoutError is an OSError
                self.trouble = str(error) or type(error).__name__
                self.log.warning("the view cannot be kept up to date", error=self.trouble, retry_s=RETRY_S)
                await self.sleep(RETRY_S)

    async def _follow(self) -> None:
        """Read until something goes away, or this service stops."""
        read = await self._store.offsets()
        async with started(self._client, committed=True) as consumer:
            parts = await self._assign(consumer, read)
            looked_s = 0.0
            loop = asyncio.get_running_loop()
            while not self.should_stop:
                got = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
                if got:
                    await self._take(got)
                if loop.time() - looked_s >= LOOK_S:
                    await self._look(consumer, parts)
                    looked_s = loop.time()

    async def _assign(self, consumer: Any, read: Mapping[Partition, int]) -> list[TopicPartition]:
        parts = await partitions_of(consumer, self._names)
        absent = sorted(set(self._names) - {part.topic for part in parts})
        if absent:
            raise UsageError(f"topics {', '.join(absent)} are not there; create them: hitl topics apply")
        firsts = await consumer.beginning_offsets(parts)
        ends = await consumer.end_offsets(parts)
        nexts = {part: read.get((self._names[part.topic], part.partition), -1) + 1 for part in parts}
        if any(nexts[part] > ends[part] for part in parts):
            # Another cluster's view, or topics that were made anew under the old names.
            self.log.error("the view knows of records that are not there any more; it is dropped and read anew")
            await self._store.rebuild()
            raise _RebuiltError
        consumer.assign(parts)
        for part in parts:
            consumer.seek(part, max(firsts[part], nexts[part]))
        return parts

    async def _take(self, got: Mapping[TopicPartition, Sequence[Record]]) -> None:
        """Fold records, and store them with how far each partition was read."""
        changes, offsets = [], {}
        for part, records in got.items():
            name = self._names[part.topic]
            if name in BESIDE:
                for record in records:
                    self._pairs.take(name, record)
                continue
            changes += [fold(record, name, self._keys) for record in records]
            offsets[name, part.partition] = records[-1].offset
        for change in changes:
            if isinstance(change, Unreadable):
                self._unreadable += 1
                self.log.warning("a record is not shown", source=str(change.source), why=change.why)
        if offsets and not await self._store.apply(changes, offsets):
            raise _RebuiltError
        self._stories += sum(isinstance(change, StoryPut) for change in changes)
        if self._noted is not None:
            self._noted(changes)

    async def _look(self, consumer: Any, parts: Sequence[TopicPartition]) -> None:
        """Note how far the view is up to date, where it is."""
        at_ms = self._clock_ms()
        async with asyncio.timeout(LOOK_S_MAX):
            ends = await consumer.end_offsets(parts)
            places = {part: await consumer.position(part) for part in parts}
        if all(places[part] >= ends[part] for part in parts):
            # The last record of a partition may be a transaction's mark, which nobody is given: the place says so, too.
            seen = {(self._names[part.topic], part.partition): places[part] - 1 for part in parts}
            stored = {one: place for one, place in seen.items() if one[0] in TOPICS}
            if not await self._store.apply((), stored, as_of_ms=at_ms):
                raise _RebuiltError
            self.as_of_ms, self.trouble = at_ms, ""
        if at_ms - self._forgot_ms >= FORGET_EVERY_S * 1000 or self._stories >= FORGET_EVERY:
            await self._store.forget(at_ms - max(TABLE[name].retention_ms for name in TOPICS))
            self._forgot_ms, self._stories = at_ms, 0
