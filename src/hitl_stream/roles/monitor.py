"""The monitor role: a Faust app that watches whether people still look. It reads `observations`, and judges no action.

Of each judgement, in this order, so that a crash at any point loses nothing and counts nothing twice:
1. it is read under the desk's seal; what cannot be read is counted and left;
2. one that is in the table already, by its offset, is left;
3. the pure fold (`roles.monitor_state`) says what is kept of the person now;
4. what somebody must be told of is told, and acknowledged by Kafka: a `reviewer` command on `control`, then an alert;
   told twice after a crash, it has the same id and counts once;
5. the table is written, whose changelog is a topic;
6. once the changelog has it, and everything before it in its partition, the judgement is acknowledged.

A failure of any of these ends the process; whoever starts it again goes on from the changelogs. Several workers share
the partitions.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
from mode import Service

from hitl_stream.core.commands import DAY_MS, ReviewerChange
from hitl_stream.core.errors import RefusedError, SettingsError
from hitl_stream.core.vigilance import Level, Queue
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.commander import append
from hitl_stream.lane.control_reader import read_control
from hitl_stream.roles.monitor_app import RAW, WRITES_MAX, Acks, new_app, new_table
from hitl_stream.roles.monitor_picture import Picture
from hitl_stream.roles.monitor_state import (
    APART,
    CHUNKS,
    PEOPLE_MAX,
    Chunk,
    Figures,
    Kept,
    News,
    Place,
    decode_chunk,
    decode_kept,
    encode,
    forgotten,
    key_of,
    newest,
    news,
    parts_of,
    remembered,
    slot,
    taken,
)
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.home import partition_of
from hitl_stream.wire.records import time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.signing import SigningKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import ALERT, Alert, Observed, alert_value, pseudonym, read_observation

MONITOR = "monitor"
TABLE = "monitor.people"
REVIEWER = "reviewer"
SHOW_EVERY_S = 5.0


class MonitorObserver(Protocol):
    """Whoever watches the monitor. A call must not block and must not raise, and is told of no person."""

    def observed(self, queue: str, age_s: float) -> None:
        """A judgement is in the table for good, so long after it was appended."""

    def repeated(self) -> None:
        """A judgement was read once more."""

    def unread(self, error: str) -> None:
        """A record could not be read; `error` is a `core.events.ErrorClass`."""

    def alerted(self, queue: str, row: int, level: int) -> None:
        """An alert was written."""

    def queues(self, now: Mapping[str, Figures]) -> None:
        """Each queue is like that now."""


class Unobserved:
    """A `MonitorObserver` that listens to nothing."""

    def observed(self, queue: str, age_s: float) -> None:
        """Ignore it."""

    def repeated(self) -> None:
        """Ignore it."""

    def unread(self, error: str) -> None:
        """Ignore it."""

    def alerted(self, queue: str, row: int, level: int) -> None:
        """Ignore it."""

    def queues(self, now: Mapping[str, Figures]) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class MonitorSpec:
    """What a monitor is told: `member` is its name in the group, `directory` a place for Faust's own files.

    `desk_keys` are those that observations are sealed with, `seal_key` is the monitor's own for alerts, `signing` the
    one that commands are signed with, `names` the one that pseudonyms are made with.
    """

    client: Mapping[str, Any]
    topics: TopicSet
    trust: str
    group: str
    member: str
    directory: Path
    desk_keys: Mapping[str, SealKey] = field(repr=False)
    seal_key: SealKey = field(repr=False)
    signing: SigningKey = field(repr=False)
    names: SealKey = field(repr=False)


class Monitor(Service):
    """One worker. Its app is made when it starts, in the loop that it runs in."""

    def __init__(
        self, spec: MonitorSpec, observer: MonitorObserver | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.spec = spec
        self.observer = observer or Unobserved()
        self.picture: Picture | None = None
        self.app: Any = None
        self._clock = clock
        self._table: Any = None
        self._alerts: Any = None
        self._acks = Acks(self._failed)
        self._swept: dict[int, int] = {}
        """Partition → day when whoever has not been seen for long was last forgotten there."""
        self._observations = spec.topics.name("observations")
        self._seal = sealer(spec.seal_key, spec.topics.name("alerts"), ALERT)
        self.log = structlog.get_logger(role=MONITOR, instance=spec.member)

    def missing(self) -> str:
        """Say what is not ready yet, for `/readyz`; an empty string: everything is."""
        if self.picture is None or not self.picture.ready.is_set():
            return "the changelog has not been read to its end yet"
        if self.app is None or self.app.rebalancing or not self.app.tables.actives_ready:
            return "partitions are being assigned, or their tables restored"
        return ""

    # --- its life -----------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Look whether our word counts on `control`, then make the app and start it.

        Raises:
            RefusedError: no command of ours would count.
        """
        await self._look_for_our_key()
        topics = self.spec.topics
        self.picture = Picture(self.spec.client, topics.name(TABLE))
        spec = self.spec
        self.app = app = new_app(spec.client, spec.group, spec.member, spec.directory, topics.partitions)
        self._table = new_table(app, "people", topics.name(TABLE), topics.count(TABLE))
        self._alerts = app.topic(topics.name("alerts"), **RAW)
        # Judgements come one after another: with two at once Faust could commit past one that is under way.
        app.agent(app.topic(self._observations, **RAW), name="watch", concurrency=1)(self._watch)
        app.timer(SHOW_EVERY_S)(self._show)
        await self.add_runtime_dependency(self.picture)
        # What is under way is limited by `UNACKED_MAX`; Faust would stop after a hundred writes, and look ten times a
        # second whether some have left.
        app.producer.buffer.max_messages = WRITES_MAX
        await self.add_runtime_dependency(app)

    async def _look_for_our_key(self) -> None:
        spec = self.spec
        log = await read_control(spec.client, spec.topics, spec.trust, await cluster_id(spec.client))
        entry = log.control.keys.get(spec.signing.key_id)
        if entry is None or REVIEWER not in entry.types or entry.kind != "service":
            raise RefusedError(
                f"control does not list the key {spec.signing.key_id} as a service's that may sign {REVIEWER} "
                "commands, so that no level would ever hold; list it: hitl keys add --service monitor"
            )

    # --- judgements ---------------------------------------------------------------------------------------------------

    async def _watch(self, stream: Any) -> None:
        assert self.picture is not None
        await self.picture.ready.wait()  # what a queue was like until yesterday is asked of it
        async for event in stream.noack().events():
            await self._take(event)

    async def _take(self, event: Any) -> None:
        """Take in one judgement; see the order above."""
        message = event.message
        place = Place(message.partition, message.offset, int(message.timestamp * 1000))
        found = read_observation(self._observations, event.value, message.headers or (), self.spec.desk_keys)
        if isinstance(found, Undecodable):
            self.observer.unread(found.error)
            self.log.warning("observation cannot be read", place=list(place[:2]), error=found.error, why=found.why)
            await self._acks.after(event, None)
            return
        person, queue = pseudonym(self.spec.names, found.observation.reviewer), found.observation.queue
        before = self._kept(key_of(person, queue))
        if before is not None and place.offset <= before.offset:
            self.observer.repeated()
            await self._acks.after(event, None)
            return
        self._sweep(place, person if before is None else None)
        written = await self._judged(person, queue, before or Kept(partition=place.partition), found, place)
        await self._acks.after(
            event, written, lambda: self.observer.observed(queue, self._clock() - place.at_ms / 1000)
        )

    async def _judged(self, person: str, queue: str, before: Kept, found: Observed, place: Place) -> Any:
        """Fold one judgement, tell what there is to tell, and write; return the future of the last write."""
        after = taken(before, found, place, lambda: self._usual(queue, place.day))
        if after.approved > before.approved:
            key = key_of(person, queue, slot(before))
            self._table[key] = encode(remembered(self._chunk(key), before, found.observation.item, place))
        said = news(before, after, lambda: self._elsewhere(person, queue))
        if said is not None:
            await self._tell(person, queue, after, said, place)
        # After the chunk, in the same partition of the same topic: whoever reads this has read that.
        self._table[key_of(person, queue)] = encode(after)
        return self._table.newest

    def _usual(self, queue: str, day: int) -> Queue:
        assert self.picture is not None
        return self.picture.usual(queue, day)

    def _kept(self, key: bytes) -> Kept | None:
        value = self._table.get(key)
        return None if value is None else decode_kept(value)

    def _chunk(self, key: bytes) -> Chunk | None:
        value = self._table.get(key)
        return None if value is None else decode_chunk(value)

    def _elsewhere(self, person: str, queue: str) -> Level:
        """Return a person's highest level in other queues; all of a person lies in one partition, and so here."""
        others = (kept for key, kept in self._everybody() if parts_of(key)[0] == person and parts_of(key)[1] != queue)
        return max((kept.watch.level for kept in others), default=Level.NONE)

    def _everybody(self) -> Iterable[tuple[bytes, Kept]]:
        for key, value in list(self._table.items()):
            if parts_of(key)[2] is None:
                yield key, decode_kept(value)

    def _sweep(self, place: Place, coming: str | None) -> None:
        """Forget whom the limits say, at the first judgement of a day and where somebody new comes."""
        crowded = coming is not None and len(self._table) >= PEOPLE_MAX
        if not crowded and self._swept.get(place.partition) == place.day:
            return
        self._swept[place.partition] = place.day
        gone = forgotten(dict(self._everybody()), place.partition, place.day, coming)
        for key in list(self._table.keys()) if gone else ():
            if parts_of(key)[0] in gone:
                del self._table[key]

    # --- what is told -------------------------------------------------------------------------------------------------

    async def _tell(self, person: str, queue: str, after: Kept, said: News, place: Place) -> None:
        """Say it on `control`, then on `alerts`; return once both stand there. Raises as `commander.append` does."""
        where = f"{self._observations}/{place.partition}/{place.offset}"
        if said.level is not None:
            again = newest(after, self._chunks(person, queue), said.again)
            await self._command(person, said.level, again, f"row {said.row}: {said.sign} in {queue}", where)
        alert = Alert(
            id=where, queue=queue, person=person, row=said.row, level=said.in_queue,
            page=None if said.page is None else said.page.value, figures=said.figures, at=time_text(place.at_ms),
        )  # fmt: skip
        value = alert_value(alert)
        headers = [(TYPE_HEADER, ALERT.encode()), (SEAL_HEADER, self._seal(value))]
        partition = partition_of(queue.encode(), self.spec.topics.count("alerts"))
        sent = await self._alerts.send(key=queue.encode(), value=value, partition=partition, headers=headers)
        await sent
        self.observer.alerted(queue, said.row, said.in_queue)
        self.log.warning("alert", queue=queue, row=said.row, level=int(said.in_queue), page=alert.page)

    async def _command(self, person: str, level: Level, again: tuple[str, ...], reason: str, where: str) -> None:
        # The same id however often it is said: after a crash the second one is refused as a repeat.
        jti = hashlib.blake2b(f"{person}{APART}{level:d}{APART}{where}".encode(), digest_size=16).hexdigest()

        def change(**claims: Any) -> ReviewerChange:
            claims["jti"] = jti
            return ReviewerChange(**claims, person=person, level=int(level), recheck=again, reason=reason)

        await append(self.spec.client, self.spec.topics, self.spec.signing, change)

    def _chunks(self, person: str, queue: str) -> dict[int, Chunk]:
        found = {number: self._chunk(key_of(person, queue, number)) for number in range(CHUNKS)}
        return {number: chunk for number, chunk in found.items() if chunk is not None}

    async def _show(self) -> None:
        if self.picture is not None and self.picture.ready.is_set():
            self.observer.queues(self.picture.figures(int(self._clock() * 1000) // DAY_MS))

    def _failed(self, error: BaseException) -> None:
        self.add_future(self.crash(error))


def monitor_key(keys: Mapping[str, SigningKey], where: str) -> SigningKey:
    """Return the newest key that the monitor signs with; say how to make one where there is none."""
    ours = [key for key in keys.values() if key.kind == "service" and key.holder == MONITOR]
    if not ours:
        raise SettingsError(
            f"{where} holds no key of the service {MONITOR}, and levels must be signed; hitl keys init makes one, "
            "monitor-1.jwk, to be copied here"
        )
    return ours[-1]
