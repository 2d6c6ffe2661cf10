"""A monitor that watches nobody: what it keeps of a queue, and that nothing of a person is kept, told or asked."""

from __future__ import annotations

import asyncio
from collections import UserDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.commands import ReviewerChange
from hitl_stream.core.vigilance import Level, Queue, Watch
from hitl_stream.metrics import MonitorMetrics
from hitl_stream.roles import monitor as module
from hitl_stream.roles.monitor import Monitor, MonitorSpec
from hitl_stream.roles.monitor_state import Kept, decode_kept, encode, figures_of, parts_of
from hitl_stream.roles.monitor_unwatched import EVERYBODY, without_people
from hitl_stream.wire.desk_records import Observation
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import new_signing_key
from hitl_stream.wire.topics import TopicSet
from support.make import DESK_KEY
from support.watching import START_MS, observation, written

TOPICS = TopicSet(partitions=2)
SPEC = MonitorSpec(
    {}, TOPICS, "", "g", "m", Path(), {DESK_KEY.key_id: DESK_KEY}, SealKey("m1", b"\x05" * 32),
    new_signing_key("monitor-1", "monitor", "service"), SealKey("p1", b"\x06" * 32),
)  # fmt: skip


class Message:
    """What Faust says of a record."""

    def __init__(self, partition: int, offset: int, headers: list[tuple[str, bytes]]) -> None:
        self.partition, self.offset, self.headers, self.timestamp = partition, offset, headers, START_MS / 1000


class Event:
    """A record in Faust's hands."""

    def __init__(self, message: Message, value: bytes) -> None:
        self.message, self.value, self.acked = message, value, False

    def ack(self) -> None:
        self.acked = True


class Table(UserDict[bytes, bytes]):
    """A table that is written as soon as it is told to."""

    newest: asyncio.Future[None]

    def __setitem__(self, key: bytes, value: bytes) -> None:
        super().__setitem__(key, value)
        self.newest = asyncio.get_running_loop().create_future()
        self.newest.set_result(None)


class Usual:
    """A picture of no days before."""

    def usual(self, queue: str, day: int) -> Queue:
        return Queue()


class Site:
    """A monitor without Kafka, on one table, that begins to watch or stops."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.table, self.commands, self.alerts = Table(), list[ReviewerChange](), list[Any]()
        self.metrics = MonitorMetrics()
        monkeypatch.setattr(module, "append", self._append)

    def monitor(self, *, watching: bool) -> Monitor:
        monitor = Monitor(replace(SPEC, watch_people=watching), self.metrics, lambda: START_MS / 1000)
        monitor._table, monitor._alerts, monitor.picture = self.table, self, Usual()  # type: ignore[assignment]
        return monitor

    async def send(self, **record: Any) -> asyncio.Future[None]:
        self.alerts.append(record)
        sent = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent

    async def _append(self, client: Any, topics: Any, key: Any, make: Any) -> None:
        self.commands.append(make(aud="c", kid=key.key_id, iss=key.holder, jti="x", iat=0, exp=1))

    def people(self) -> set[str]:
        return {parts_of(key)[0] for key in self.table}


async def judge(monitor: Monitor, *found: Observation, partition: int = 0, begin: int = 0) -> list[Event]:
    events = []
    for offset, one in enumerate(found, begin):
        _, value, headers = written(TOPICS.name("observations"), DESK_KEY, one)
        events.append(Event(Message(partition, offset, headers), value))
        await monitor._take(events[-1])
    await asyncio.sleep(0)
    return events


def asleep(count: int = 60, name: str = "ana") -> list[Observation]:
    return [observation(name, "approve", n=n, dwell_s=0.5) for n in range(count)]


def test_of_a_rubber_stamp_nothing_is_kept_or_told_but_the_share_of_its_queue(monkeypatch: pytest.MonkeyPatch):
    site = Site(monkeypatch)

    events = asyncio.run(_all(site, asleep()))

    assert all(event.acked for event in events)
    assert site.people() == {f"{EVERYBODY}0"}
    assert (site.commands, site.alerts) == ([], [])
    (kept,) = map(decode_kept, site.table.values())
    figures = without_people(figures_of([kept], kept.day))
    assert (figures.level, figures.reviewers, figures.hurried, figures.approved) == (Level.NONE, None, 1.0, 1.0)


async def _all(site: Site, found: list[Observation]) -> list[Event]:
    return await judge(site.monitor(watching=False), *found)


def test_all_who_judge_in_a_queue_are_one(monkeypatch: pytest.MonkeyPatch):
    site = Site(monkeypatch)
    found = [observation("ana"), observation("bo", "reject", n=1), observation("cy", queue="content", n=2)]

    asyncio.run(_all(site, found))

    kept = {parts_of(key)[1]: decode_kept(value) for key, value in site.table.items()}
    assert {queue: len(one.watch.verdicts) for queue, one in kept.items()} == {"trading": 2, "content": 1}


def test_nobody_is_hurried_because_somebody_else_decided_just_before(monkeypatch: pytest.MonkeyPatch):
    site = Site(monkeypatch)

    asyncio.run(_all(site, [observation(name, n=n, at_ms=START_MS) for n, name in enumerate(("ana", "bo", "cy"))]))

    (kept,) = map(decode_kept, site.table.values())
    assert kept.watch.hurried == (False,) * 3


def test_a_judgement_that_is_read_again_counts_once(monkeypatch: pytest.MonkeyPatch):
    site = Site(monkeypatch)

    async def scenario() -> list[Event]:
        monitor = site.monitor(watching=False)
        return [*await judge(monitor, observation("ana")), *await judge(monitor, observation("ana"))]

    assert all(event.acked for event in asyncio.run(scenario()))
    (kept,) = map(decode_kept, site.table.values())
    assert kept.watch.verdicts == (True,)
    assert site.metrics.metrics.registry.get_sample_value("hitl_observations_repeated_total") == 1


def test_who_was_watched_before_is_forgotten_and_their_level_taken_back(monkeypatch: pytest.MonkeyPatch):
    site = Site(monkeypatch)

    async def scenario() -> None:
        site.table[b"p-1\0trading"] = before(0, Level.ESCALATED)
        site.table[b"p-1\0trading\x003"] = b"\x80"
        site.table[b"p-2\0trading"] = before(0, Level.NONE)
        site.table[b"p-3\0trading"] = before(1, Level.SECONDED)
        await judge(site.monitor(watching=False), observation("ana"))

    asyncio.run(scenario())
    assert site.people() == {"p-3", f"{EVERYBODY}0"}, "another partition's are another worker's to forget"
    assert [(one.person, one.level) for one in site.commands] == [("p-1", 0)]


def before(partition: int, level: Level) -> bytes:
    return encode(Kept(partition=partition, watch=Watch(level=level)))


def test_a_quiz_is_nobodys(monkeypatch: pytest.MonkeyPatch):
    site = Site(monkeypatch)

    events = asyncio.run(_all(site, [observation("ana", "passed", purpose="quiz", item="")]))

    assert events[0].acked
    assert site.table == {}
