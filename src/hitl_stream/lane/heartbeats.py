"""What the control roles say, heard from outside: the newest heartbeats, checked, and what they mean for a command.

Rules:
- Only one that was appended since we listen says that control is alive: no clock of this host is asked how old one is.
- Two control roles may run. What either has proved is proved.
- One that cannot be verified is counted, and otherwise not heard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

from aiokafka import TopicPartition

from hitl_stream.core.commands import Contained, Heartbeat, KeyEntry, Waiting
from hitl_stream.core.errors import UsageError
from hitl_stream.core.events import Rejection
from hitl_stream.lane.admin import Client
from hitl_stream.lane.clock import steady_ms
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.lane.step import Record
from hitl_stream.wire.signing import read_heartbeat
from hitl_stream.wire.topics import TopicSet

BACK = 8
"""So many heartbeats from before are read: the last second of two control roles."""
RECORDS_MAX = 500
SILENT_MS = 2_000
"""Control writes four a second. After so long without one, no lease holds any more."""


class Beat(NamedTuple):
    """A verified heartbeat: its append time, and whether it was appended since we listen."""

    heartbeat: Heartbeat
    at_ms: int
    fresh: bool


class Heartbeats:
    """The heartbeats of one cluster. `keys` are those that the control log lists now."""

    def __init__(
        self,
        consumer: Any,
        part: TopicPartition,
        audience: str,
        keys: Callable[[], Mapping[str, KeyEntry]],
        end: int,
        steady: Callable[[], int] = steady_ms,
    ) -> None:
        self.latest: dict[str, Beat] = {}
        """By control role."""
        self.rejected: Counter[Rejection] = Counter()
        self._consumer, self._part, self._audience, self._keys, self._end = consumer, part, audience, keys, end
        self._steady = steady
        self._since_ms = steady()
        self._heard_ms: int | None = None

    async def hear(self, within_s: float) -> tuple[Beat, ...]:
        """Return the heartbeats that came, waiting for the first one; none where none came in time."""
        got = await self._consumer.getmany(self._part, timeout_ms=max(0, int(within_s * 1000)), max_records=RECORDS_MAX)
        return tuple(beat for record in got.get(self._part, ()) if (beat := self.take(record)) is not None)

    async def heard_of(self, epoch: int, within_s: float) -> Beat | None:
        """Wait for a heartbeat of a control role that has applied `epoch`; None where none comes in time."""
        deadline_ms = self._steady() + int(within_s * 1000)
        while (left_ms := deadline_ms - self._steady()) > 0:
            for beat in await self.hear(left_ms / 1000):
                if beat.heartbeat.epoch >= epoch:
                    return beat
        return None

    def take(self, record: Record) -> Beat | None:
        """Check one record; None for one that cannot be verified."""
        found = read_heartbeat(record.value, record.timestamp, self._keys(), self._audience)
        if isinstance(found, Rejection):
            self.rejected[found] += 1
            return None
        beat = Beat(found, record.timestamp, record.offset >= self._end)
        if beat.fresh:
            self._heard_ms = self._steady()
        self.latest[found.control] = beat
        return beat

    def alive(self) -> dict[str, Beat]:
        """Return the newest heartbeat of each control role that has spoken since we listen and lately."""
        newest_ms = max((beat.at_ms for beat in self.latest.values()), default=0)
        return {name: beat for name, beat in self.latest.items() if beat.fresh and newest_ms - beat.at_ms <= SILENT_MS}

    def silent_ms(self) -> int:
        """Return for how long none was heard, since we listen."""
        return self._steady() - (self._since_ms if self._heard_ms is None else self._heard_ms)


@asynccontextmanager
async def listening(
    client: Client, topics: TopicSet, audience: str, keys: Callable[[], Mapping[str, KeyEntry]]
) -> AsyncIterator[Heartbeats]:
    """Listen to `control.heartbeat`, beginning with the last few there are.

    Raises `UnreachableError` when Kafka does not answer, `UsageError` where there is no such topic.
    """
    topic = topics.name("control.heartbeat")
    async with started(client, committed=False) as consumer:
        parts = await partitions_of(consumer, [topic])
        if not parts:
            raise UsageError(
                f"Kafka at {client['bootstrap_servers']} has no topic {topic}; create it: hitl topics apply"
            )
        part = parts[0]
        end = (await consumer.end_offsets([part]))[part]
        first = (await consumer.beginning_offsets([part]))[part]
        consumer.assign([part])
        consumer.seek(part, max(first, end - BACK))
        yield Heartbeats(consumer, part, audience, keys, end)


# --- what they mean for a command -------------------------------------------------------------------------------------

State = Literal["appended", "waiting", "contained", "effective"]


class Standing(NamedTuple):
    """Where a command stands: who is waited for, and which calls nobody can prove to be over.

    `after_ms` is from its append to the heartbeat that proves it, both by the broker's clock.
    """

    state: State
    waiting: tuple[Waiting, ...] = ()
    contained: tuple[Contained, ...] = ()
    after_ms: int | None = None


APPENDED = Standing("appended")


def standing(epoch: int, appended_ms: int, beat: Beat) -> Standing:
    """Say where the command at `epoch` stands by one heartbeat. `appended`: control has not read it yet."""
    said = beat.heartbeat
    if said.effective >= epoch:
        return Standing("effective", after_ms=max(0, beat.at_ms - appended_ms))
    if said.epoch < epoch:
        return APPENDED
    if said.contained and not said.waiting:
        return Standing("contained", contained=said.contained)
    return Standing("waiting", said.waiting, said.contained)
