"""What is read for one target: where it goes on, what is new to it, and what a failure does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from aiokafka import TopicPartition

from hitl_stream.core.control import Control
from hitl_stream.core.digest_notes import Kind, Message, Notes
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Switch
from hitl_stream.lane.notifying import RETRY_S_MAX, Ears, Hearing, _until_sent
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.records import time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import ALERT, Alert, alert_value
from support.desk import Workplace
from support.make import DESK_KEY, NOW_MS, FakeRecord, action_bytes, change, iso
from support.staff import demo_policy

MONITOR = SealKey("m1", b"\x05" * 32)
TOPICS = TopicSet(partitions=1)
REVIEWS, ALERTS, CONTROL = (TopicPartition(TOPICS.name(name), 0) for name in ("reviews", "alerts", "control"))
LATE_MS = NOW_MS + 3_600_000


class Commits:
    """A consumer that keeps what is committed."""

    def __init__(self) -> None:
        self.kept: dict[TopicPartition, tuple[int, str]] = {}

    async def commit(self, places: dict[TopicPartition, Any]) -> None:
        self.kept |= {tp: (at.offset, at.metadata) for tp, at in places.items()}


def ears(reviews: int = 0, alerts: int = 0, control: int = 0, **notes: int) -> Ears:
    spec = Hearing({"bootstrap_servers": "nobody:1"}, TOPICS, "", 900_000, {DESK_KEY.key_id: DESK_KEY}, {"m1": MONITOR})
    return Ears(spec, Notes(900_000, **notes), {REVIEWS: reviews, ALERTS: alerts, CONTROL: control}, CONTROL)


def bid(number: int) -> bytes:
    leg = change("1.20", "1.60", campaign=f"cmp-{number}")
    return action_bytes(action_id=f"act-{number}", changes=[leg], proposed_at=iso(NOW_MS - 100))


def changelog(work: Workplace) -> list[FakeRecord]:
    return [
        FakeRecord(record.value, n, 0, record.timestamp, REVIEWS.topic, key, tuple(record.headers))
        for n, (key, record) in enumerate(work.changelog.items())
    ]


@pytest.fixture
def work() -> Workplace:
    return Workplace(demo_policy())


def bodies(heard: Ears, now_ms: int = LATE_MS) -> dict[Kind, str]:
    return {message.kind: message.body for message in heard.notes.due(now_ms)}


def test_what_is_open_is_known_by_half_of_its_time_and_of_what_expired_only_the_new_is_said(work: Workplace):
    work.opened(bid(1), bid(2), bid(3))
    records, heard = changelog(work), ears(reviews=5)
    heard.take(REVIEWS, records)
    assert bodies(heard, NOW_MS) == {}
    assert bodies(heard, NOW_MS + 8 * 60_000) == {
        Kind.WAITING: "trading: 3 items past half of their time; oldest 8 min"
    }

    work.later(LATE_MS + 24 * 3_600_000)
    over = changelog(work)
    for said_before, line in ((0, "3 expired"), (2, "1 expired"), (3, None)):
        heard = ears(reviews=said_before)
        heard.take(REVIEWS, over)
        assert bodies(heard).get(Kind.WAITING, "").partition(": ")[2] == (line or "")


def alert(offset: int, **parts: Any) -> FakeRecord:
    one = Alert(id=f"a{offset}", queue="trading", person="p-1", row=2, level=3, at=time_text(NOW_MS), **parts)
    value = alert_value(one)
    seal = sealer(MONITOR, ALERTS.topic, ALERT)(value)
    return FakeRecord(
        value, offset, 0, NOW_MS, ALERTS.topic, b"trading", ((TYPE_HEADER, ALERT.encode()), (SEAL_HEADER, seal))
    )


def test_of_alerts_only_new_pages_under_a_monitors_seal_are_said():
    heard = ears(alerts=1)
    forged = FakeRecord(b"{}", 4, 0, NOW_MS, ALERTS.topic, b"trading", ())
    pages = [alert(n, page="reviewer_unreliable") for n in range(2)]
    heard.take(ALERTS, [*pages, alert(2), alert(3, page="rubber_stamp", ended=True), forged])

    assert bodies(heard) == {Kind.PAGES: "trading: reviewer_unreliable (row 2); runbook: hitl-reviewer-unreliable"}
    assert heard.read[ALERTS] == 5


def stopped(*switches: Switch, epoch: int) -> ControlLog:
    control = Control()
    for one in switches:
        control.switches.engage(one)
        if one.released is not None:
            control.switches.release(one.epoch, one.released, one.released_ms or 0)
    control.epoch = epoch
    return ControlLog("", "", control)


def switch(epoch: int, released: int | None = None) -> Switch:
    return Switch(epoch, ("tenant:acme",), Mode.HALT, "ana", NOW_MS, released=released, released_ms=released and NOW_MS)


def test_of_control_what_happened_since_is_said_in_its_order():
    heard = ears(control=4)
    log = stopped(switch(2, 5), switch(3), switch(4, 6), epoch=6)
    for _ in range(2):
        heard.stopped(log)

    assert bodies(heard)[Kind.SWITCHES].splitlines() == [
        "switch 4, HALT tenant:acme engaged", "switch 2, HALT tenant:acme released",
        "switch 4, HALT tenant:acme released",
    ]  # fmt: skip


def test_a_place_is_kept_only_of_what_was_said(work: Workplace):
    work.opened(bid(1))
    heard, kept = ears(alerts=1), Commits()
    heard.take(REVIEWS, changelog(work))
    heard.take(ALERTS, [alert(1, page="rubber_stamp")])
    heard.stopped(stopped(switch(0), epoch=0))

    asyncio.run(heard.commit(kept, at_once=True))
    found = list(heard.notes.due(LATE_MS))
    assert {tp: at for tp, (at, _) in kept.kept.items()} == {REVIEWS: 1, ALERTS: 1, CONTROL: 0}
    assert {message.kind for message in found} == set(Kind)

    for message in found:
        heard.notes.sent(message)
    asyncio.run(heard.commit(kept, at_once=True))
    assert kept.kept == {
        REVIEWS: (1, ""), ALERTS: (2, ""), CONTROL: (1, f'{{"told_ms":{LATE_MS},"effective":-1}}'),
    }  # fmt: skip


def test_a_message_that_does_not_get_through_is_tried_until_it_does_and_the_log_says_so():
    rests, tries = list[float](), list[Message]()
    message = Message(Kind.PAGES, "t", "b", NOW_MS)

    async def send(one: Message) -> bool:
        tries.append(one)
        return len(tries) == 10

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    with structlog.testing.capture_logs() as logs:
        asyncio.run(_until_sent(message, send, structlog.get_logger(), rest))

    assert tries == [message] * 10
    assert rests[:3] == [1, 2, 4]
    assert max(rests) == RETRY_S_MAX
    assert [line["log_level"] for line in logs] == ["error"] * 9 + ["info"]
