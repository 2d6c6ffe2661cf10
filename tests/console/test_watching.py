"""What the console reads of the monitor's: its tables and alerts, from their beginning, as long as they are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition

from hitl_stream.console import watching as module
from hitl_stream.console.watching import ABSENT, NOT_READ, Watching, WatchingFeed
from hitl_stream.core.errors import UnreachableError
from hitl_stream.core.vigilance import Level, Watch
from hitl_stream.roles.monitor_state import Kept, encode, key_of
from hitl_stream.wire.records import time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import ALERT, Alert, alert_value, pseudonym
from support.console import run
from support.make import NOW_MS, FakeRecord
from support.vigilant import KEY

TOPICS = ("hitl.monitor.people", "hitl.monitor.gates", "hitl.alerts")
MONITOR, OTHER = SealKey("m1", b"\x05" * 32), SealKey("m1", b"\x06" * 32)
TURNS_MAX = 2_000


class FakeLog:
    """Topics of one partition each, as a consumer reads them; `fails` is raised once."""

    def __init__(self, *records: FakeRecord) -> None:
        self.records = {name: [one for one in records if one.topic == name] for name in TOPICS}
        self.there: tuple[str, ...] = TOPICS
        self.fails: Exception | None = None
        self._places: dict[TopicPartition, int] = {}

    @asynccontextmanager
    async def started(self, client: Any, *, committed: bool) -> AsyncIterator[FakeLog]:
        assert committed
        if self.fails is not None:
            fails, self.fails = self.fails, None
            raise fails
        yield self

    async def partitions_of(self, consumer: Any, topics: Any) -> list[TopicPartition]:
        return [TopicPartition(topic, 0) for topic in topics if topic in self.there]

    async def end_offsets(self, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {part: len(self.records[part.topic]) for part in parts}

    def assign(self, parts: list[TopicPartition]) -> None:
        self._places = {}

    async def seek_to_beginning(self, *parts: TopicPartition) -> None:
        self._places = dict.fromkeys(parts, 0)

    async def position(self, part: TopicPartition) -> int:
        return self._places[part]

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[FakeRecord]]:
        got = {part: self.records[part.topic][place:] for part, place in self._places.items()}
        self._places = {part: len(self.records[part.topic]) for part in self._places}
        return {part: records for part, records in got.items() if records}


def person(level: Level | None, name: str = "ana") -> FakeRecord:
    """Return a record of the table of people; None: somebody is forgotten."""
    value = None if level is None else encode(Kept(partition=0, watch=Watch(level=level)))
    key = key_of(pseudonym(KEY, name), "trading")
    return FakeRecord(value, 0, 0, NOW_MS, "hitl.monitor.people", key, [])


def alert(id_: str, key: SealKey = MONITOR) -> FakeRecord:
    """Return an alert under a seal."""
    value = alert_value(Alert(id=id_, queue="trading", person="p-1", row=2, level=3, at=time_text(NOW_MS)))
    seal = sealer(key, "hitl.alerts", ALERT)(value)
    headers = [(TYPE_HEADER, ALERT.encode()), (SEAL_HEADER, seal)]
    return FakeRecord(value, 0, 0, NOW_MS, "hitl.alerts", b"trading", headers)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a console read a log until a scenario is done with what it knows."""

    def read(log: FakeLog, scenario: Callable[[Watching], Awaitable[None]]) -> None:
        monkeypatch.setattr(module, "started", log.started)
        monkeypatch.setattr(module, "partitions_of", log.partitions_of)
        monkeypatch.setattr(module, "RETRY_S", 0.0)

        async def go() -> None:
            known = Watching(KEY)
            feed = WatchingFeed({}, TopicSet(partitions=1), known, {MONITOR.key_id: MONITOR})
            async with feed:
                await scenario(known)

        run(go())

    return read


async def until(holds: Callable[[], bool]) -> None:
    """Let others work until something holds."""
    for _ in range(TURNS_MAX):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")


def test_people_and_alerts_are_known_once_all_was_read(reading: Callable[..., None]):
    async def scenario(known: Watching) -> None:
        assert known.trouble == NOT_READ
        await until(lambda: known.trouble == "")
        assert known.level("ana") is Level.SECONDED
        assert known.level("ben") is Level.NONE
        assert list(known.alerts) == ["a", "b"]

    records = [person(Level.WATCHED), person(Level.SECONDED), person(Level.ESCALATED, "ben"), person(None, "ben")]
    reading(FakeLog(*records, alert("a"), alert("b"), alert("a")), scenario)


def test_an_alert_that_no_monitor_sealed_is_passed_over(reading: Callable[..., None]):
    async def scenario(known: Watching) -> None:
        await until(lambda: known.trouble == "")
        assert list(known.alerts) == ["b"]

    reading(FakeLog(alert("a", OTHER), alert("b")), scenario)


def test_a_site_without_a_monitor_is_told_apart_from_one_that_is_away(reading: Callable[..., None]):
    log = FakeLog(person(Level.WATCHED))
    log.there = TOPICS[:1]

    async def scenario(known: Watching) -> None:
        await until(lambda: known.trouble == ABSENT)
        log.there = TOPICS
        await until(lambda: known.trouble == "")

    reading(log, scenario)


def test_what_was_away_is_read_when_it_comes_back(reading: Callable[..., None]):
    log = FakeLog(person(Level.WATCHED))
    log.fails = UnreachableError("no broker at 127.0.0.1:9092")

    async def scenario(known: Watching) -> None:
        await until(lambda: known.trouble == "")
        assert known.level("ana") is Level.WATCHED

    reading(log, scenario)


def test_without_the_key_of_pseudonyms_nobody_is_anybody():
    known = Watching()
    known.take_person(person(Level.ESCALATED).key or b"", person(Level.ESCALATED).value)

    assert not known.known
    assert known.pseudonym("ana") is None
    assert known.level("ana") is Level.NONE
