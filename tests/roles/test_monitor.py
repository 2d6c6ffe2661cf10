"""The monitor's edge, without Kafka: what is done with one judgement, in which order, and when it is acknowledged."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.commands import ReviewerChange
from hitl_stream.core.errors import SettingsError, UnknownOutcomeError
from hitl_stream.core.vigilance import Queue
from hitl_stream.metrics import MonitorMetrics
from hitl_stream.roles import monitor as module
from hitl_stream.roles import monitor_app
from hitl_stream.roles.monitor import Monitor, MonitorSpec, monitor_key
from hitl_stream.roles.monitor_app import Acks
from hitl_stream.roles.monitor_state import decode_kept, parts_of
from hitl_stream.wire.desk_records import Observation
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import new_signing_key
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import Alert, pseudonym, read_alert
from support.make import DESK_KEY
from support.watching import START_MS, observation, written

NAMES, SEAL = SealKey("p1", b"\x06" * 32), SealKey("m1", b"\x05" * 32)
SIGNING = new_signing_key("monitor-1", "monitor", "service")
TOPICS = TopicSet(partitions=2)


@dataclass
class Message:
    """What Faust says of a record."""

    partition: int
    offset: int
    headers: list[tuple[str, bytes]]
    timestamp: float = START_MS / 1000


@dataclass
class Event:
    """A record in Faust's hands, and what was done before it was acknowledged."""

    message: Message
    value: bytes | None
    world: World
    acked: bool = False

    def ack(self) -> None:
        self.acked = True
        self.world.done.append(f"ack {self.message.offset}")


class Table(UserDict[bytes, bytes]):
    """A table whose changelog answers when it is told to."""

    def __init__(self, world: World) -> None:
        self.world, self.newest = world, asyncio.get_running_loop().create_future()
        super().__init__()

    def __setitem__(self, key: bytes, value: bytes) -> None:
        super().__setitem__(key, value)
        self.newest = asyncio.get_running_loop().create_future()
        self.world.writes.append(self.newest)
        if parts_of(key)[2] is None:
            self.world.done.append(f"table {decode_kept(value).offset}")


class Topic:
    """`alerts`."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def send(self, **record: Any) -> asyncio.Future[None]:
        self.world.alerts.append(record)
        self.world.done.append("alert")
        sent = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent


class Quiet:
    """A picture of no days before."""

    def usual(self, queue: str, day: int) -> Queue:
        return Queue()


@dataclass
class World:
    """A monitor without Kafka."""

    done: list[str] = field(default_factory=list)
    writes: list[asyncio.Future[None]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    commands: list[ReviewerChange] = field(default_factory=list)
    metrics: MonitorMetrics = field(default_factory=MonitorMetrics)
    lost: Exception | None = None

    def begin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = MonitorSpec(
            {}, TOPICS, "", "g", "m", Path(), {DESK_KEY.key_id: DESK_KEY}, SEAL, SIGNING, NAMES
        )  # fmt: skip
        self.monitor = Monitor(spec, self.metrics, lambda: START_MS / 1000)
        self.monitor._table, self.monitor._alerts = Table(self), Topic(self)
        self.monitor.picture = Quiet()  # type: ignore[assignment]
        monkeypatch.setattr(module, "append", self._append)

    async def _append(self, client: Any, topics: Any, key: Any, make: Callable[..., ReviewerChange]) -> None:
        if self.lost is not None:
            raise self.lost
        self.commands.append(make(aud="c", kid=key.key_id, iss=key.holder, jti=f"x{len(self.commands)}", iat=0, exp=1))
        self.done.append("command")

    async def judge(self, offset: int, one: Observation | None = None, partition: int = 0) -> Event:
        """Let the monitor take one judgement."""
        topic = TOPICS.name("observations")
        _, value, headers = written(topic, DESK_KEY, one or observation(n=offset))
        event = Event(Message(partition, offset, headers), value, self)
        await self.monitor._take(event)
        return event

    async def settle(self) -> None:
        """Let the changelog have everything."""
        for write in self.writes:
            if not write.done():
                write.set_result(None)
        await asyncio.sleep(0)

    def kept(self) -> dict[bytes, Any]:
        table = self.monitor._table
        return {key: decode_kept(value) for key, value in table.items() if parts_of(key)[2] is None}


@pytest.fixture
def world() -> World:
    return World()


def value(metrics: MonitorMetrics, name: str, **labels: str) -> float | None:
    return metrics.metrics.registry.get_sample_value(name, labels)


def test_a_judgement_is_acknowledged_when_its_changelog_has_it(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        event = await world.judge(0)
        assert not event.acked
        await world.settle()
        assert event.acked

    asyncio.run(scenario())


def test_acknowledgements_keep_the_order_of_their_partition(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        first, second = await world.judge(0), await world.judge(1)
        broken = await world.judge(2, observation(floor_s="x"))
        other = await world.judge(0, observation("ben"), partition=1)
        for write in world.writes[2:]:
            write.set_result(None)
        await asyncio.sleep(0)
        assert [event.acked for event in (first, second, broken)] == [False] * 3, "the first is not written yet"
        assert other.acked, "another partition waits for nobody"
        await world.settle()

    asyncio.run(scenario())
    assert [word for word in world.done if word.startswith("ack")] == ["ack 0", "ack 0", "ack 1", "ack 2"]
    assert value(world.metrics, "hitl_dead_letters_total", role="monitor", error="schema") == 1


def test_a_write_that_failed_ends_the_process_and_acknowledges_nothing_after_it():
    failed: list[BaseException] = []

    async def scenario() -> list[Event]:
        world = World()
        acks, loop = Acks(failed.append), asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(3)]
        events = [Event(Message(0, n, []), None, world) for n in range(3)]
        for event, future in zip(events, futures, strict=True):
            await acks.after(event, future)
        futures[0].set_result(None)
        futures[2].set_result(None)
        futures[1].set_exception(OSError("gone"))
        await asyncio.sleep(0)
        return events

    assert [event.acked for event in asyncio.run(scenario())] == [True, False, False]
    assert {str(error) for error in failed} == {"gone"}


def test_what_is_under_way_is_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor_app, "UNACKED_MAX", 2)

    async def scenario() -> None:
        acks, future = Acks(lambda error: None), asyncio.get_running_loop().create_future()
        await acks.after(Event(Message(0, 0, []), None, World()), future)
        waiting = asyncio.ensure_future(acks.after(Event(Message(0, 1, []), None, World()), future))
        await asyncio.sleep(0)
        assert not waiting.done()
        future.set_result(None)
        await waiting

    asyncio.run(scenario())


def test_a_judgement_that_is_read_twice_counts_once(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        await world.judge(0)
        before = world.kept()
        again = await world.judge(0)
        assert world.kept() == before
        assert not again.acked, "the first one is not written yet"
        await world.settle()
        assert again.acked

    asyncio.run(scenario())
    assert value(world.metrics, "hitl_observations_repeated_total") == 1


def test_what_is_not_the_desks_counts_for_nothing(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        _, text, _ = written("t", DESK_KEY, observation())
        event = Event(Message(0, 0, []), text, world)
        await world.monitor._take(event)
        assert event.acked
        assert world.kept() == {}

    asyncio.run(scenario())


def sleeper(offset: int) -> Observation:
    """Return a canary that was approved."""
    return observation("ana", "approve", n=offset, purpose="canary")


@pytest.mark.behaviour("E9")
def test_an_alarm_stands_on_control_and_on_alerts_before_the_table_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def scenario() -> None:
        world.begin(monkeypatch)
        for n in range(60):
            await world.judge(n)
        for n in range(60, 67):
            await world.judge(n, sleeper(n))
        await world.settle()

    asyncio.run(scenario())
    at = [world.done.index("table 63"), world.done.index("table 66")]
    assert all(world.done[n - 2 : n] == ["command", "alert"] for n in at)
    person = pseudonym(NAMES, "ana")
    assert [(one.person, one.level) for one in world.commands] == [(person, 2), (person, 3)]
    assert world.commands[0].recheck == ()
    assert world.commands[1].recheck == tuple(f"item{n:012d}" for n in reversed(range(60)))
    found = [
        read_alert(TOPICS.name("alerts"), one["value"], one["headers"], {SEAL.key_id: SEAL}) for one in world.alerts
    ]
    assert all(isinstance(one, Alert) and one.person == person for one in found)
    assert value(world.metrics, "hitl_alerts_total", queue="trading", row="2", level="3") == 1


def test_what_is_told_twice_has_the_same_id(world: World, monkeypatch: pytest.MonkeyPatch):
    """The alarm was told, and the table was not written when the process died."""

    async def scenario() -> None:
        world.begin(monkeypatch)
        for n in range(3):
            await world.judge(n, sleeper(n))
        there = dict(world.monitor._table)
        await world.judge(3, sleeper(3))
        world.monitor._table.data = there
        await world.judge(3, sleeper(3))

    asyncio.run(scenario())
    assert world.commands[0] == world.commands[1]
    assert len(world.commands) == 2
    assert world.alerts[0] == world.alerts[1]


def test_what_cannot_be_told_is_not_written_down(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> Event:
        world.begin(monkeypatch)
        for n in range(3):
            await world.judge(n, sleeper(n))
        world.lost = UnknownOutcomeError("no answer")
        before = world.kept()
        with pytest.raises(UnknownOutcomeError):
            await world.judge(3, sleeper(3))
        assert world.kept() == before
        return await world.judge(4, observation("ben", queue="content"))

    assert not asyncio.run(scenario()).acked


def test_no_public_series_names_a_person(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        for n in range(8):
            await world.judge(n, sleeper(n))

    asyncio.run(scenario())
    shown = [sample for family in world.metrics.metrics.registry.collect() for sample in family.samples]
    text = " ".join(f"{sample.name}{sample.labels}" for sample in shown)
    assert "hitl_alerts_total" in text
    assert "ana" not in text.replace("approval", "").replace("canary", "")
    assert pseudonym(NAMES, "ana") not in text


def test_the_monitors_own_key_signs():
    keys = {key.key_id: key for key in (SIGNING, new_signing_key("ana-1", "ana"), new_signing_key("monitor-2", "eve"))}

    assert monitor_key(keys, "keys") is SIGNING
    with pytest.raises(SettingsError, match="no key of the service monitor"):
        monitor_key({"ana-1": keys["ana-1"]}, "keys")
