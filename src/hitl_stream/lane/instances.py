"""Who acknowledges commands, seen from outside: the newest ack of every instance that spoke lately.

Only the end of `control.acks` is read. Where this host has no seal key of a role, its acks are shown as they are, and
said to be unchecked: whoever only looks needs no key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from aiokafka import TopicPartition

from hitl_stream.core.effective import LEASE_MS, ROLES
from hitl_stream.core.events import Rejection
from hitl_stream.lane.admin import Client
from hitl_stream.lane.heartbeats import Beat
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.lane.step import Record
from hitl_stream.wire.acks import ack_reader
from hitl_stream.wire.records import Ack, decode_ack
from hitl_stream.wire.seal import SealKey, read_keys
from hitl_stream.wire.topics import TopicSet

BACK = 2_000
"""So many acks are read: those of the last 25 s with twenty instances."""
RECORDS_MAX = 2_000
READ_SECONDS_MAX = 10.0
POLL_MS = 200
NUMBERS_MAX = 64
"""Acks remembered of one instance, to tell its lease by: 16 s."""
INSTANCES_MAX = 1_000


class Seen(NamedTuple):
    """An instance's newest ack, when it was appended, and whether its seal was checked."""

    ack: Ack
    at_ms: int
    checked: bool


class Instances:
    """What the acks say. `seals` are the seal keys at hand, by role."""

    def __init__(self, topic: str, seals: Mapping[str, Mapping[str, SealKey]]) -> None:
        self.latest: dict[str, Seen] = {}
        """By instance; one that said goodbye is not there."""
        self._seals = seals
        self._read = ack_reader(topic, seals)
        self._numbers: dict[str, deque[tuple[int, int]]] = {}

    def take(self, record: Record) -> None:
        """Take a record; one that is no good ack is passed over."""
        found = self._checked(record)
        if found is None or (found.ack.instance not in self.latest and len(self.latest) >= INSTANCES_MAX):
            return
        name = found.ack.instance
        if found.ack.goodbye:
            self.latest.pop(name, None)
            self._numbers.pop(name, None)
            return
        self.latest[name] = found
        self._numbers.setdefault(name, deque(maxlen=NUMBERS_MAX)).append((found.ack.n, found.at_ms))

    def _checked(self, record: Record) -> Seen | None:
        ack = self._read(record.key, record.value, record.headers)
        if not isinstance(ack, Rejection):
            return Seen(ack, record.timestamp, True)
        if ack is not Rejection.SEAL:
            return None
        try:
            unchecked = decode_ack(record.value or b"")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return None if self._seals.get(unchecked.role) else Seen(unchecked, record.timestamp, False)

    def forget(self, before_ms: int) -> None:
        """Forget who has not spoken since then; whoever looks for long would else be shown everyone who ever ran."""
        for name in [name for name, seen in self.latest.items() if seen.at_ms < before_ms]:
            del self.latest[name]
            self._numbers.pop(name, None)

    def lease_left_ms(self, name: str, beats: Sequence[Beat]) -> int | None:
        """Return for how long an instance's lease held when control last spoke; None where nobody can tell.

        It runs from the sending of the newest ack that a heartbeat repeats; the append time stands in for that.
        """
        sent = dict(self._numbers.get(name, ()))
        now_ms = max((beat.at_ms for beat in beats), default=0)
        repeated = [sent[n] for beat in beats if (n := beat.heartbeat.acks.get(name, -1)) in sent]
        return max(repeated) + LEASE_MS - now_ms if repeated else None


def seals_at(keys_dir: Path, roles: Iterable[str] = ROLES) -> dict[str, dict[str, SealKey]]:
    """Return the seal keys that lie here by role; a role that has none here is left out: nothing of it counts."""
    return {role: read_keys(keys_dir, f"seal-{role}") for role in roles if any(keys_dir.glob(f"seal-{role}-*"))}


class Acks:
    """A reader of the end of `control.acks`."""

    def __init__(self, consumer: Any, part: TopicPartition | None, instances: Instances) -> None:
        self.instances = instances
        self._consumer, self._part = consumer, part

    async def catch_up(self) -> Instances:
        """Take what has come by now; raises `TimeoutError` where it cannot be read."""
        if self._part is not None:
            async with asyncio.timeout(READ_SECONDS_MAX):
                end = (await self._consumer.end_offsets([self._part]))[self._part]
                await _read_to(self._consumer, self._part, end, self.instances)
        return self.instances


@asynccontextmanager
async def hearing_acks(
    client: Client, topics: TopicSet, seals: Mapping[str, Mapping[str, SealKey]]
) -> AsyncIterator[Acks]:
    """Give a reader that has read the end of `control.acks`; without that topic it hears nobody.

    `seals` are the seal keys at hand, by role.
    """
    topic = topics.name("control.acks")
    async with started(client, committed=False) as consumer:
        parts = await partitions_of(consumer, [topic])
        acks = Acks(consumer, parts[0] if parts else None, Instances(topic, seals))
        if parts:
            end = (await consumer.end_offsets(parts))[parts[0]]
            first = (await consumer.beginning_offsets(parts))[parts[0]]
            consumer.assign(parts)
            consumer.seek(parts[0], max(first, end - BACK))
            await acks.catch_up()
        yield acks


async def _read_to(consumer: Any, part: TopicPartition, end: int, instances: Instances) -> None:
    while await consumer.position(part) < end:
        got = await consumer.getmany(part, timeout_ms=POLL_MS, max_records=RECORDS_MAX)
        for record in got.get(part, ()):
            instances.take(record)
