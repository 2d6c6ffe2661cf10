"""The monitor role: a Faust app that watches whether people still look. It reads `observations`, and judges no action.

Of each judgement, in this order, so that a crash at any point loses nothing and counts nothing twice:
1. it is read under the desk's seal; what cannot be read is counted and left;
2. one that is in the table already, by its offset, is left;
3. the pure fold (`roles.monitor_state`) says what is kept of the person now;
4. what somebody must be told of is told, and acknowledged by Kafka: which approvals another person has to judge again,
   on `review.seeded`, a `reviewer` command on `control`, then an alert; told twice after a crash, each has the same id
   and counts once;
5. where a keyed lot says so, a canary for this person goes to `review.seeded`, and is acknowledged (`monitor_seeds`);
6. the table is written, whose changelog is a topic;
7. once the changelog has it, and everything before it in its partition, the judgement is acknowledged.

Whoever has passed a quiz has qualified anew: level 0 goes to `control`, and an alert of row 0, which wakes nobody, says
of each queue that what was said of them there has ended.

What is said of a queue as such follows from all its people, who lie in several partitions. So one worker looks every
few seconds, the one that has the partition in which the queue's name lies; alerts of a queue are numbered, so that two
workers in a moment of change say the same one.

A failure of any of these ends the process; whoever starts it again goes on from the changelogs. Several workers share
the partitions.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import structlog
from mode import Service

from hitl_stream.core.canaries import AGE_MS_MIN
from hitl_stream.core.commands import DAY_MS, ReviewerChange
from hitl_stream.core.errors import BrokenError, RefusedError, SettingsError
from hitl_stream.core.events import Purpose
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.review import TIER_MAX
from hitl_stream.core.vigilance import Level, Queue, canary_rate
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.commander import append
from hitl_stream.lane.control_reader import read_control
from hitl_stream.roles.monitor_app import RAW, WRITES_MAX, Acks, new_app, new_table
from hitl_stream.roles.monitor_gates import GateKeeping, both
from hitl_stream.roles.monitor_picture import Picture
from hitl_stream.roles.monitor_pool import Pool
from hitl_stream.roles.monitor_seeds import DRAWN_LATE_MS_MAX, Drawn, Seeded, second_of
from hitl_stream.roles.monitor_state import (
    APART,
    CHUNKS,
    LETS_GO,
    LEVELS_ROW,
    PEOPLE_MAX,
    Chunk,
    Figures,
    Kept,
    News,
    Place,
    decode_chunk,
    decode_kept,
    encode,
    filled,
    forgotten,
    key_of,
    newest,
    news,
    parts_of,
    qualified_anew,
    queue_news,
    taken,
)
from hitl_stream.roles.monitor_unwatched import everybody, taken_together, watched_before, without_people
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.home import home, partition_of
from hitl_stream.wire.home import key_of as key_in
from hitl_stream.wire.judged import QUIZ
from hitl_stream.wire.records import DECISION, head_of, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.signing import SigningKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import ALERT, Alert, Observed, alert_value, pseudonym, read_observation, seeded_value

MONITOR = "monitor"
TABLE = "monitor.people"
REVIEWER = "reviewer"
SHOW_EVERY_S = 5.0
RESTORE_LOOK_S = 5.0
RESTORE_STILL_S_MAX = 60.0


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

    def paged(self, queue: str, page: str) -> None:
        """It is one that somebody is woken for; `page` is a `core.vigilance.Page`."""

    def rechecked(self, queue: str, found: int, lost: int) -> None:
        """So many approvals go to another person; of `lost` nobody can find what was asked."""

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

    def paged(self, queue: str, page: str) -> None:
        """Ignore it."""

    def rechecked(self, queue: str, found: int, lost: int) -> None:
        """Ignore it."""

    def queues(self, now: Mapping[str, Figures]) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class MonitorSpec:
    """What a monitor is told: `member` is its name in the group, `directory` a place for Faust's own files.

    `desk_keys` are those that observations are sealed with, `seal_key` is the monitor's own for alerts and canaries,
    `signing` the one that commands are signed with, `names` the one that pseudonyms are made with. People must have
    approved `canary_age_ms` ago what a canary is made from.
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
    policies: Mapping[str, Policy] = field(default_factory=dict, repr=False)
    """By digest, what routers run with although control has promoted none."""
    canary_age_ms: int = AGE_MS_MIN
    watch_people: bool = True
    """False: see `roles.monitor_unwatched`."""


class Monitor(Service):
    """One worker. Its app is made when it starts, in the loop that it runs in."""

    def __init__(
        self, spec: MonitorSpec, observer: MonitorObserver | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.spec = spec
        self.observer = observer or Unobserved()
        self.picture: Picture | None = None
        self.pool: Pool | None = None
        self.app: Any = None
        self._clock = clock
        self._table: Any = None
        self._alerts: Any = None
        self._seeded: Any = None
        self._acks = Acks(self._failed)
        self._gates: GateKeeping | None = None
        self._swept: dict[int, int] = {}
        """Partition → day when whoever has not been seen for long was last forgotten there."""
        self._observations = spec.topics.name("observations")
        self._seal = sealer(spec.seal_key, spec.topics.name("alerts"), ALERT)
        self._seal_asked = sealer(spec.seal_key, spec.topics.name("review.seeded"), DECISION)
        self.log = structlog.get_logger(role=MONITOR, instance=spec.member)

    def missing(self) -> str:
        """Say what is not ready yet, for `/readyz`; an empty string: everything is."""
        if self.picture is None or not self.picture.ready.is_set():
            return "the changelog has not been read to its end yet"
        if self.pool is None or not self.pool.ready.is_set():
            return "what people decided has not been read to its end yet"
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
        spec = self.spec
        self.picture = Picture(spec.client, topics.name(TABLE))
        self.pool = Pool(
            spec.client, topics, spec.trust, spec.desk_keys, spec.seal_key, spec.names, spec.policies, self._clock
        )
        self.app = app = new_app(spec.client, spec.group, spec.member, spec.directory, topics.partitions)
        self._table = new_table(app, "people", topics.name(TABLE), topics.count(TABLE))
        self._alerts = app.topic(topics.name("alerts"), **RAW)
        self._seeded = app.topic(topics.name("review.seeded"), **RAW)
        self._gates = GateKeeping(spec, self._failed, self._clock)
        self._gates.begin(app)
        await self.add_runtime_dependency(self._gates)
        # Judgements come one after another: with two at once Faust could commit past one that is under way.
        app.agent(app.topic(self._observations, **RAW), name="watch", concurrency=1)(self._watch)
        app.timer(SHOW_EVERY_S)(self._show)
        await self.add_runtime_dependency(self.picture)
        await self.add_runtime_dependency(self.pool)
        # What is under way is limited by `UNACKED_MAX`; Faust would stop after a hundred writes, and look ten times a
        # second whether some have left.
        app.producer.buffer.max_messages = WRITES_MAX
        await self.add_runtime_dependency(app)
        self.add_future(self._restores())

    async def _restores(self) -> None:
        """End where restoring stands still, so that whoever starts us again begins it anew.

        After a worker has died Faust sometimes waits for ever for a changelog that it does not read.
        """
        seen: dict[Any, int] = {}
        since = time.monotonic()
        while not self.should_stop:
            await self.sleep(RESTORE_LOOK_S)
            there = dict(self.app.tables.recovery.active_offsets)
            if self.app.tables.actives_ready or there != seen:
                seen, since = there, time.monotonic()
            elif time.monotonic() - since > RESTORE_STILL_S_MAX:
                await self.crash(BrokenError(f"restoring has stood still for {RESTORE_STILL_S_MAX:g} s; begin anew"))
                return

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
        assert self.pool is not None
        await self.picture.ready.wait()  # what a queue was like until yesterday is asked of it
        await self.pool.ready.wait()  # and of this, what was planted before
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
        if not self.spec.watch_people:
            if self._gates is not None:
                self._gates.forget(place.partition)
            written = await self._unwatched(found, place)
            aged = found.observation.queue, self._clock() - place.at_ms / 1000
            await self._acks.after(event, written, None if written is None else lambda: self.observer.observed(*aged))
            return
        person, queue = pseudonym(self.spec.names, found.observation.reviewer), found.observation.queue
        if found.observation.purpose == QUIZ:
            await self._acks.after(event, await self._qualified(person, place))
            return
        # By its own offset: what one table has of a judgement, the other may not have yet.
        gates = None if self._gates is None else await self._gates.take(found.observation, place, person)
        before = self._kept(key_of(person, queue))
        if before is not None and place.offset <= before.offset:
            self.observer.repeated()
            await self._acks.after(event, gates)
            return
        self._sweep(place, person if before is None else None)
        written = await self._judged(person, queue, before or Kept(partition=place.partition), found, place)
        await self._acks.after(
            event, both(gates, written), lambda: self.observer.observed(queue, self._clock() - place.at_ms / 1000)
        )

    async def _judged(self, person: str, queue: str, before: Kept, found: Observed, place: Place) -> Any:
        """Fold one judgement, tell what there is to tell, and write; return the future of the last write."""
        after = taken(before, found, place, lambda: self._usual(queue, place.day))
        full = filled(before, after, found.observation.item, place)
        if full is not None:
            self._table[key_of(person, queue, full[0])] = encode(full[1])
        said = news(before, after, lambda: self._elsewhere(person, queue))
        if said is not None:
            await self._tell(person, found.observation.reviewer, queue, after, said, place)
        if found.observation.purpose != Purpose.CANARY and found.observation.verdict not in LETS_GO:
            await self._draw(person, found.observation.reviewer, queue, after, place)
        # After the chunk, in the same partition of the same topic: whoever reads this has read that.
        self._table[key_of(person, queue)] = encode(after)
        return self._table.newest

    async def _qualified(self, person: str, place: Place) -> Any:
        """Take in that somebody has passed a quiz; return the future of the last write, None: all have it already."""
        late = {key: kept for key, kept in self._queues_of(person) if kept.offset < place.offset}
        if not late:
            self.observer.repeated()
            return None
        where = self._where(place)
        if any(kept.watch.level for kept in late.values()):
            await self._command(person, Level.NONE, (), "has passed the quiz", where)
        for key, kept in late.items():
            if kept.watch.level:
                queue = parts_of(key)[1]
                await self._alert(Alert(
                    id=f"{where}/{queue}", queue=queue, person=person, row=LEVELS_ROW, level=Level.NONE, ended=True,
                    at=time_text(place.at_ms),
                ))  # fmt: skip
            self._table[key] = encode(qualified_anew(kept, place))
        return self._table.newest

    async def _unwatched(self, found: Observed, place: Place) -> Any:
        """Take in one judgement of nobody in particular; return the future of the last write, None: nothing is new."""
        for person, level in watched_before(self._everybody(), place.partition).items():
            if level:
                await self._command(person, Level.NONE, (), "people are not watched any more", self._where(place))
            for key in [key for key in list(self._table.keys()) if parts_of(key)[0] == person]:
                del self._table[key]
        queue = found.observation.queue
        if found.observation.purpose == QUIZ:
            return None
        key = key_of(everybody(place.partition), queue)
        before = self._kept(key) or Kept(partition=place.partition)
        if place.offset <= before.offset:
            self.observer.repeated()
            return None
        self._table[key] = encode(taken_together(before, found, place, lambda: self._usual(queue, place.day)))
        return self._table.newest

    def _where(self, place: Place) -> str:
        return f"{self._observations}/{place.partition}/{place.offset}"

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
        others = (kept.watch.level for key, kept in self._queues_of(person) if parts_of(key)[1] != queue)
        return max(others, default=Level.NONE)

    def _queues_of(self, person: str) -> Iterable[tuple[bytes, Kept]]:
        """Yield what is kept of one person; what is kept of others is not even decoded."""
        begins = f"{person}{APART}".encode()
        for key, value in list(self._table.items()):
            if key.startswith(begins) and parts_of(key)[2] is None:
                yield key, decode_kept(value)

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

    async def _tell(self, person: str, name: str, queue: str, after: Kept, said: News, place: Place) -> None:
        """Ask others to judge again, say it on `control`, then on `alerts`; return once all of it stands there.

        Raises as `commander.append` does.
        """
        where = self._where(place)
        if said.level is not None:
            again = newest(after, self._chunks(person, queue), said.again)
            if again:
                await self._ask_again(name, queue, again, place)
            await self._command(person, said.level, again, f"row {said.row}: {said.sign} in {queue}", where)
        alert = Alert(
            id=where, queue=queue, person=person, row=said.row, level=said.in_queue,
            page=None if said.page is None else said.page.value, figures=said.figures, at=time_text(place.at_ms),
        )  # fmt: skip
        await self._alert(alert)
        if said.page is not None:
            self.observer.paged(queue, said.page.value)

    async def _alert(self, alert: Alert) -> None:
        """Write it to `alerts`, and return once it stands there."""
        value, key = alert_value(alert), alert.queue.encode()
        headers = [(TYPE_HEADER, ALERT.encode()), (SEAL_HEADER, self._seal(value))]
        partition = partition_of(key, self.spec.topics.count("alerts"))
        sent = await self._alerts.send(key=key, value=value, partition=partition, headers=headers)
        await sent
        self.observer.alerted(alert.queue, alert.row, alert.level)
        said = {"row": alert.row, "watched": int(alert.level), "page": alert.page, "ended": alert.ended}
        self.log.warning("alert", queue=alert.queue, **said)

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
        """Show what each queue is like, and say what is new of those that are ours to speak of."""
        if self.picture is None or self.pool is None or not (self.picture.ready.is_set() and self.pool.ready.is_set()):
            return
        now_ms = int(self._clock() * 1000)
        figures = self.picture.figures(now_ms // DAY_MS)
        if not self.spec.watch_people:
            self.observer.queues({queue: without_people(now) for queue, now in figures.items()})
            return
        self.observer.queues(figures)
        ours = self._partitions()
        for queue, now in figures.items():
            if partition_of(queue.encode(), self.spec.topics.partitions) in ours:
                await self._tell_of(queue, now, now_ms)

    async def _tell_of(self, queue: str, now: Figures, now_ms: int) -> None:
        assert self.pool is not None
        for one in queue_news(now, self.pool.said_of(queue)):
            alert = Alert(
                id=f"{queue}/{one.row}/{one.number}", queue=queue, row=one.row, level=one.level, figures=one.figures,
                text=one.text, ended=one.ended, at=time_text(now_ms),
            )  # fmt: skip
            await self._alert(alert)
            self.pool.heard(alert)

    def _partitions(self) -> set[int]:
        """Return which partitions of `observations` this worker has."""
        return {tp.partition for tp in self.app.consumer.assignment() if tp.topic == self._observations}

    # --- what people are asked for ------------------------------------------------------------------------------------

    async def _draw(self, person: str, name: str, queue: str, after: Kept, place: Place) -> None:
        """Plant a canary for somebody, if the lot of this judgement says so and there is one for them."""
        origin = self._where(place)
        if self.pool is None or not self.pool.seeds.is_drawn(origin, canary_rate(after.watch)):
            return
        late = self._clock() * 1000 - place.at_ms > DRAWN_LATE_MS_MAX
        rules = None if late or not self.pool.seeds.may_get(name, origin, place.at_ms) else self.pool.rules(place.at_ms)
        if rules is None:
            return
        level = max(after.watch.level, self._elsewhere(person, queue))
        drawn = Drawn(
            person=name, queue=queue, origin=origin, partition=place.partition, at_ms=place.at_ms,
            tier_max=TIER_MAX - (level >= Level.ESCALATED), age_ms=self.spec.canary_age_ms,
        )  # fmt: skip
        canary = self.pool.seeds.canary(drawn, rules.policy, rules.digest, rules.epoch)
        if canary is not None:
            await self._ask([canary])
            self.pool.seeds.seeded(canary.held)

    async def _ask_again(self, name: str, queue: str, items: Sequence[str], place: Place) -> None:
        """Ask others to judge again what somebody approved. What cannot be found is counted, and logged."""
        found = {} if self.pool is None else await self.pool.read_back(items)
        asked = [one for decided in found.values() if (one := second_of(decided, name, place.at_ms)) is not None]
        await self._ask(asked)
        lost = len(items) - len(asked)
        self.observer.rechecked(queue, len(asked), lost)
        if lost:
            self.log.error("approvals cannot be judged again: nobody can find them", queue=queue, lost=lost,
                           expected=len(items))  # fmt: skip

    async def _ask(self, asked: Iterable[Seeded]) -> None:
        """Write questions to `review.seeded`, and return once all stand there."""
        count, sent = self.spec.topics.count("review.seeded"), []
        for one in asked:
            held, raw = one.held, one.decoded.raw
            value = seeded_value(held, raw)
            headers = [(TYPE_HEADER, DECISION.encode()), (SEAL_HEADER, self._seal_asked(head_of(value)))]
            place = held.entity.account or held.agent.id
            key = key_in(held.tenant, held.entity, held.agent.id)
            partition = home(held.tenant, place, count)
            sent.append(await self._seeded.send(key=key, value=value, partition=partition, headers=headers))
        for one_sent in sent:
            await one_sent

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
