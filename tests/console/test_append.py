"""Appending from the console: an error says that nothing was written, or that nobody can tell; then it goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, TopicAuthorizationFailedError

from hitl_stream.console import append as append_module
from hitl_stream.console.append import KafkaWriter
from hitl_stream.console.office import Place
from hitl_stream.core.errors import RefusedError, UnknownOutcomeError, UnreachableError
from hitl_stream.wire.topics import TopicSet
from support.console import run
from support.make import NOW_MS


class FakeMetadata:
    offset = 7
    timestamp = NOW_MS


class FakeProducer:
    """One producer; a test says what it does."""

    def __init__(self, world: World) -> None:
        self.world = world

    async def start(self) -> None:
        if self.world.away is not None:
            raise self.world.away

    async def stop(self) -> None:
        self.world.stopped += 1

    async def send(self, topic: str, value: bytes, **parts: Any) -> asyncio.Future[Any]:
        if self.world.refuses_to_send is not None:
            raise self.world.refuses_to_send
        self.world.sent.append((topic, parts["partition"], value))
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.world.answer is not None:
            future.set_exception(self.world.answer)
        elif not self.world.silent:
            future.set_result(FakeMetadata())
        return future


class World:
    """What the producers of one test meet."""

    def __init__(self) -> None:
        self.away: Exception | None = None
        self.refuses_to_send: Exception | None = None
        self.answer: Exception | None = None
        self.silent = False
        self.sent: list[tuple[str, int, bytes]] = []
        self.made: list[dict[str, Any]] = []
        self.stopped = 0

    def __call__(self, **settings: Any) -> FakeProducer:
        self.made.append(settings)
        return FakeProducer(self)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Producers that are fakes, and limits that no test waits for."""
    found = World()
    monkeypatch.setattr(append_module, "_Producer", found)
    monkeypatch.setattr(append_module, "APPEND_S_MAX", 0.05)
    return found


def writer() -> KafkaWriter:
    return KafkaWriter({"bootstrap_servers": "nowhere:9092"}, TopicSet())


def test_a_record_is_acknowledged_by_every_replica_before_it_is_said_to_stand(world: World):
    place = run(writer().append("verdicts", 3, b"v"))

    assert place == Place("hitl.verdicts", 3, 7, NOW_MS)
    assert world.sent == [("hitl.verdicts", 3, b"v")]
    (settings,) = world.made
    assert (settings["acks"], settings["enable_idempotence"]) == ("all", True)


@pytest.mark.parametrize("fault", ["start", "send"])
def test_what_was_never_sent_is_said_to_be_not_written(world: World, fault: str):
    error = KafkaConnectionError("no broker")
    world.away, world.refuses_to_send = (error, None) if fault == "start" else (None, error)
    with pytest.raises(UnreachableError, match=r"^Nothing was written") as found:
        run(writer().append("verdicts", 0, b"v"))
    assert not isinstance(found.value, UnknownOutcomeError)


@pytest.mark.parametrize("fault", ["silence", "error"])
def test_what_was_sent_and_not_acknowledged_is_unknown_and_the_next_one_takes_a_new_producer(world: World, fault: str):
    async def scenario() -> None:
        one = writer()
        world.silent, world.answer = fault == "silence", KafkaTimeoutError("late") if fault == "error" else None
        with pytest.raises(UnknownOutcomeError):
            await one.append("verdicts", 0, b"v")
        world.silent, world.answer = False, None
        await one.append("verdicts", 0, b"v")
        assert (len(world.made), world.stopped) == (2, 1)

    run(scenario())


def test_a_right_that_is_missing_is_said(world: World):
    world.answer = TopicAuthorizationFailedError("verdicts")
    with pytest.raises(RefusedError, match="ACLs"):
        run(writer().append("verdicts", 0, b"v"))


def test_one_producer_serves_many(world: World):
    async def scenario() -> None:
        one = writer()
        await asyncio.gather(*(one.append("verdicts", 0, b"v") for _ in range(5)))
        assert len(world.made) == 1

    run(scenario())
