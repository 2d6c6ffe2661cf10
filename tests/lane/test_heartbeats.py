"""What heartbeats mean for a command, and which of them mean anything; without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition

from hitl_stream.core.commands import Contained, Heartbeat, Waiting
from hitl_stream.core.events import Rejection
from hitl_stream.lane.heartbeats import SILENT_MS, Beat, Heartbeats, Standing, standing
from support.make import FakeRecord
from support.signed import CLUSTER, CONTROL, KEYS, MALLORY, NOW_MS, claims, signed

PART = TopicPartition("hitl.control.heartbeat", 0)
END = 100
"""Where the topic ended when the test began to listen."""
ROUTER = Waiting(instance="host-3/router/0", since_s=0.4)
EXECUTOR = Contained(epoch=7, instance="host-2/executor/0", calls=3)


def heartbeat(**fields: Any) -> bytes:
    key = fields.pop("key", CONTROL)
    said = {"seq": 1, "control": "host-1/control/0", "epoch": 7, "digest": "0" * 64, "acks": {}, "effective": 7}
    return signed(key, Heartbeat, **said | fields)


def beat(epoch: int = 7, effective: int = 7, at_ms: int = 1_250, **fields: Any) -> Beat:
    said = {"seq": 1, "control": "c", "digest": "0" * 64, "acks": {}, "epoch": epoch, "effective": effective}
    return Beat(Heartbeat(**claims(CONTROL), **said | fields), at_ms, True)


@pytest.mark.parametrize(
    ("heard", "found"),
    [
        (beat(effective=7), Standing("effective", after_ms=250)),
        (beat(effective=9, epoch=9), Standing("effective", after_ms=250)),
        (beat(effective=7, at_ms=990), Standing("effective", after_ms=0)),
        (beat(epoch=6, effective=6), Standing("appended")),
        (beat(effective=6, waiting=(ROUTER,)), Standing("waiting", (ROUTER,))),
        (beat(effective=6), Standing("waiting")),
        (beat(effective=6, contained=(EXECUTOR,)), Standing("contained", contained=(EXECUTOR,))),
        (beat(effective=6, waiting=(ROUTER,), contained=(EXECUTOR,)), Standing("waiting", (ROUTER,), (EXECUTOR,))),
    ],
    ids=["proved", "proved long ago", "clocks", "not read", "waiting", "waiting for nobody", "contained", "both"],
)
def test_a_command_stands_where_the_heartbeat_says(heard: Beat, found: Standing):
    assert standing(7, 1_000, heard) == found


class Topic:
    """A consumer that gives what a test has put there."""

    def __init__(self) -> None:
        self.coming: list[list[FakeRecord]] = []

    async def getmany(self, part: TopicPartition, **_: Any) -> dict[TopicPartition, Sequence[FakeRecord]]:
        return {part: self.coming.pop(0)} if self.coming else {}


class Clock:
    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def beats(topic: Topic, clock: Clock) -> Heartbeats:
    return Heartbeats(topic, PART, CLUSTER, lambda: KEYS, END, clock)


def record(offset: int, value: bytes, at_ms: int = NOW_MS) -> FakeRecord:
    return FakeRecord(value, offset, timestamp=at_ms, topic=PART.topic)


def test_one_from_before_says_nothing_of_who_is_alive_now(beats: Heartbeats, clock: Clock):
    clock.ms = 1_500
    old = beats.take(record(END - 1, heartbeat()))

    assert old is not None
    assert not old.fresh
    assert beats.alive() == {}
    assert beats.silent_ms() == 1_500

    assert beats.take(record(END, heartbeat())) is not None
    assert list(beats.alive()) == ["host-1/control/0"]
    assert beats.silent_ms() == 0
    clock.ms += SILENT_MS
    assert beats.silent_ms() == SILENT_MS


def test_of_several_control_roles_each_is_heard_and_one_that_fell_silent_is_not(beats: Heartbeats):
    beats.take(record(END, heartbeat(control="a")))
    beats.take(record(END + 1, heartbeat(control="b"), NOW_MS + SILENT_MS))
    assert list(beats.alive()) == ["a", "b"]
    beats.take(record(END + 2, heartbeat(control="b"), NOW_MS + SILENT_MS + 1))
    assert list(beats.alive()) == ["b"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (heartbeat(key=MALLORY), Rejection.UNKNOWN_KEY),
        (heartbeat(aud="another"), Rejection.AUDIENCE),
        (b"", Rejection.MALFORMED),
        (heartbeat()[:-4] + b"AAAA", Rejection.SIGNATURE),
    ],
    ids=["stranger", "other cluster", "nothing", "changed"],
)
def test_what_cannot_be_verified_is_counted_and_says_nothing(beats: Heartbeats, value: bytes, why: Rejection):
    assert beats.take(record(END, value)) is None
    assert beats.rejected == {why: 1}
    assert beats.latest == {}


def test_it_waits_for_one_that_has_applied_an_epoch(beats: Heartbeats, topic: Topic):
    topic.coming = [[record(END, heartbeat(epoch=5, effective=5))], [record(END + 1, heartbeat(epoch=8))]]
    found = asyncio.run(beats.heard_of(7, 1.0))
    assert found is not None
    assert found.heartbeat.epoch == 8


def test_it_waits_no_longer_than_it_is_told(topic: Topic):
    """The steady clock moves with each question."""
    now = iter(range(0, 10_000, 100))
    beats = Heartbeats(topic, PART, CLUSTER, lambda: KEYS, END, lambda: next(now))
    assert asyncio.run(beats.heard_of(7, 1.0)) is None
