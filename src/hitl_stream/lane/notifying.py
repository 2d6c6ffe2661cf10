"""Telling one target what people should hear of: what waits too long, switches, and whom the monitor wakes.

Nothing is missed over a restart:
- the place in each topic is a consumer group's, one for each target, and is committed once what was read is said;
- `reviews` is read from its beginning each time, for what is open; records before the place say nothing new;
- when the last message about what waits was composed, and which switch was said to be EFFECTIVE, stand with the place
  on `control`, as its metadata.
A message that does not get through is tried again for ever, at most a minute apart, and the log says so each time; then
nothing more is read for that target, and what happens meanwhile comes in one message afterwards. A crash between the
two may say one twice. Whoever is new hears of what waits, and of nothing that is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata

from hitl_stream.core.digest_notes import Item, Kind, Message, Notes
from hitl_stream.core.errors import UsageError
from hitl_stream.core.review import Review, State
from hitl_stream.lane.admin import Client, cluster_id, reaching
from hitl_stream.lane.control_reader import reading_control
from hitl_stream.lane.heartbeats import listening, standing
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.lane.step import Record
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.desk_records import is_lot, queue_of, read_review
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import read_alert

NOTIFY_TOPICS = ("reviews", "alerts")
"""What is read besides `control` and its heartbeats."""
POLL_MS = 500
RECORDS_MAX = 1_000
COMMIT_EVERY_S = 5.0
RETRY_S, RETRY_S_MAX = 1.0, 60.0
_Admin: Any = AIOKafkaAdminClient

Send = Callable[[Message], Awaitable[bool]]
"""Says whether it got through."""


@dataclass(frozen=True)
class Hearing:
    """What is read, and how: `desk` and `monitor` are the keys that their records are sealed with."""

    client: Client
    topics: TopicSet
    trust: str
    every_ms: int
    desk: Mapping[str, SealKey] = field(repr=False)
    monitor: Mapping[str, SealKey] = field(repr=False)


class Saved(msgspec.Struct, frozen=True):
    """What stands with the place on `control`."""

    told_ms: int = 0
    effective: int = -1


async def notify(
    spec: Hearing,
    group: str,
    send: Send,
    clock: Callable[[], float] = time.time,
    rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Tell one target for ever; `group` is its own.

    Raises:
        UnreachableError: Kafka does not answer.
        UsageError: a topic is not there.
    """
    audience = await cluster_id(spec.client)
    log = structlog.get_logger(role="notify", group=group)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        reader = await enter(reading_control(spec.client, spec.topics, spec.trust, audience))
        control = await reader.catch_up()
        beats = await enter(listening(spec.client, spec.topics, audience, lambda: control.control.keys))
        consumer = await enter(started(spec.client, committed=True, group_id=group, enable_auto_commit=False))
        ears = await _ears(spec, consumer, group, control)
        log.info("listening", told_ms=ears.notes.told_ms, places=len(ears.said))
        while True:
            with reaching(spec.client):
                found = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            for tp, records in found.items():
                ears.take(tp, records)
            ears.stopped(await reader.catch_up())
            for beat in await beats.hear(0):
                for switch in control.control.switches.engaged.values():
                    if (after_ms := standing(switch.epoch, switch.at_ms, beat).after_ms) is not None:
                        ears.notes.proved(switch, after_ms)
            if not await ears.caught_up(consumer):
                continue  # what is open is not known yet
            for message in ears.notes.due(int(clock() * 1000)):
                await _until_sent(message, send, log, rest)
                ears.notes.sent(message)
                await ears.commit(consumer, at_once=True)
            await ears.commit(consumer)


async def _until_sent(message: Message, send: Send, log: Any, rest: Callable[[float], Awaitable[None]]) -> None:
    wait_s, tries = RETRY_S, 1
    while not await send(message):
        log.error("message not delivered; it is tried again", kind=message.kind.value, tries=tries, wait_s=wait_s)
        await rest(wait_s)
        wait_s, tries = min(2 * wait_s, RETRY_S_MAX), tries + 1
    log.info("message delivered", kind=message.kind.value, tries=tries)


# --- what was read ----------------------------------------------------------------------------------------------------


class Ears:
    """What was read for one target, up to where, and up to where it was said."""

    def __init__(self, spec: Hearing, notes: Notes, said: dict[TopicPartition, int], control: TopicPartition) -> None:
        self.notes = notes
        self.said = said
        """Where the group stands: everything before it was said, or was nothing to say."""
        self.read = dict(said)
        self.ends: dict[TopicPartition, int] = {}
        """Where the topics ended when we began; what was open then is known from there on."""
        self._spec, self._control = spec, control
        self._reviews, self._alerts = (spec.topics.name(name) for name in NOTIFY_TOPICS)
        self._committed = {**said}
        self._saved = Saved(notes.told_ms, notes.effective)
        self._next_s = 0.0
        self.log = structlog.get_logger(role="notify")

    def take(self, tp: TopicPartition, records: Sequence[Record]) -> None:
        """Take in records of one partition of `reviews` or `alerts`."""
        for record in records:
            is_new = record.offset >= self.said[tp]
            if tp.topic == self._reviews:
                self._review(record, is_new)
            elif is_new:
                self._alert(record)
            self.read[tp] = max(self.read[tp], record.offset + 1)

    async def caught_up(self, consumer: Any) -> bool:
        """Say whether everything was read that stood there at the start."""
        for tp, end in list(self.ends.items()):
            if await consumer.position(tp) >= end:
                del self.ends[tp]
        return not self.ends

    def stopped(self, log: ControlLog) -> None:
        """Take in what `control` says by now."""
        known, now = self.read[self._control], log.control.epoch + 1
        if now <= known:
            return
        changes = []
        for switch in log.control.switches.all.values():
            if switch.epoch >= known:
                changes.append((switch.epoch, self.notes.engaged, switch))
            if switch.released is not None and switch.released >= known:
                changes.append((switch.released, self.notes.released, switch))
        for _, said, switch in sorted(changes, key=lambda change: change[0]):
            said(switch)
        self.read[self._control] = now

    async def commit(self, consumer: Any, *, at_once: bool = False) -> None:
        """Keep the place of everything that was said; now and then, unless something was said just now."""
        loop_s = asyncio.get_running_loop().time()
        if not at_once and loop_s < self._next_s:
            return
        self._next_s = loop_s + COMMIT_EVERY_S
        kinds = {self._reviews: Kind.WAITING, self._alerts: Kind.PAGES, self._control.topic: Kind.SWITCHES}
        self.said |= {tp: at for tp, at in self.read.items() if self.notes.quiet(kinds[tp.topic])}
        saved = Saved(self.notes.told_ms, self.notes.effective)
        if (self.said, saved) == (self._committed, self._saved):
            return
        places = {tp: OffsetAndMetadata(at, "") for tp, at in self.said.items()}
        text = msgspec.json.encode(saved).decode()
        with reaching(self._spec.client):
            await consumer.commit(places | {self._control: OffsetAndMetadata(self.said[self._control], text)})
        self._committed, self._saved = dict(self.said), saved

    def _review(self, record: Record, is_new: bool) -> None:
        if record.key is None or record.value is None or is_lot(record.key):
            if record.key is not None and record.value is None:
                self.notes.ended(record.key.decode(errors="replace"), "", expired=False)
            return
        found = read_review(self._reviews, record.key, record.value, record.headers, self._spec.desk)
        if isinstance(found, Undecodable):
            self.log.warning("item cannot be read", place=f"{record.partition}/{record.offset}", why=found.why)
            return
        review = found.review
        if review.state == State.OPEN and not found.state.covered:
            self.notes.opened(review.item, _item(review, record.timestamp))
        else:  # what a switch holds waits for nobody: its clock stands still
            expired = is_new and review.state == State.EXPIRED
            self.notes.ended(review.item, queue_of(review), expired=expired)

    def _alert(self, record: Record) -> None:
        found = read_alert(self._alerts, record.value, record.headers, self._spec.monitor)
        if isinstance(found, Undecodable):
            self.log.warning("alert cannot be read", place=f"{record.partition}/{record.offset}", why=found.why)
        elif found.page is not None and not found.ended:
            self.notes.paged(found.page, found.queue, found.row)


def _item(review: Review, at_ms: int) -> Item:
    """Return what is remembered of an open item; an approval that goes nowhere from here is past its half by now."""
    halves = [at_ms if need.escalate_ms is None else need.escalate_ms for need in review.needs if not need.met]
    return Item(queue_of(review), review.opened_ms, min(halves, default=at_ms))


async def _ears(spec: Hearing, consumer: Any, group: str, log: ControlLog) -> Ears:
    """Go to the group's place; to the end of everything, where it has none yet."""
    with reaching(spec.client):
        names = [spec.topics.name(name) for name in NOTIFY_TOPICS]
        parts = await partitions_of(consumer, names)
        if missing := sorted({*names} - {tp.topic for tp in parts}):
            raise UsageError(
                f"Kafka at {spec.client['bootstrap_servers']} has no topic {missing[0]}; create it: hitl topics apply"
            )
        control = TopicPartition(spec.topics.name("control"), 0)
        known = await _known(spec.client, group)
        ends = await consumer.end_offsets(parts)
        firsts = await consumer.beginning_offsets(parts)
        said = {tp: known[tp].offset if tp in known else ends[tp] for tp in parts}
        said[control] = known[control].offset if control in known else log.control.epoch + 1
        saved = _saved(known[control].metadata) if control in known else Saved(effective=log.control.epoch)
        consumer.assign([*parts, control])
        consumer.pause(control)  # another reader checks and folds it; a place is kept only of what is assigned
        for tp in parts:
            consumer.seek(tp, firsts[tp] if tp.topic == spec.topics.name("reviews") else max(firsts[tp], said[tp]))
    ears = Ears(spec, Notes(spec.every_ms, saved.told_ms, saved.effective), said, control)
    ears.ends = dict(ends)
    return ears


async def _known(client: Client, group: str) -> dict[TopicPartition, OffsetAndMetadata]:
    admin = _Admin(**client)
    try:
        await admin.start()
        found = await admin.list_consumer_group_offsets(group)
    finally:
        await admin.close()
    return {tp: at for tp, at in found.items() if at.offset >= 0}


def _saved(text: str) -> Saved:
    """Return what stands with a place; a place without anything is one that somebody else has set."""
    try:
        return msgspec.json.decode(text, type=Saved)
    except msgspec.DecodeError:
        return Saved()
