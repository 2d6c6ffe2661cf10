"""What the monitor reads beside judgements: what people approved and what was planted already, from days back.

Each worker reads all partitions of it, and of `alerts` what was said of queues; and it folds `control` for the policy
in force, since a queue may be an external client's and a class may want no canaries. What is read here is a little
behind; what this worker writes itself it knows at once.

What cannot be read is counted by nobody here: whoever reads the same topics for their own sake does.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError
from mode import Service

from hitl_stream.core.control import Control
from hitl_stream.core.errors import BrokenError, PolicyError, UnreachableError
from hitl_stream.core.policy.model import Policy
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.control_reader import ControlReader, reading_control
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.roles.monitor_seeds import HORIZON_MS, At, Seeds
from hitl_stream.roles.monitor_state import Said
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.policy_file import parse
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import Alert, asked_in, read_alert, read_judgement

POLL_MS = 500
RECORDS_MAX = 500
RULES_EVERY_S = 1.0
"""Whoever promotes a policy waits longer than that for its first decision."""
READ_BACK_S_MAX = 30.0
"""For all of a person's approvals together; what was not found by then is lost, and said to be."""


class Rules(NamedTuple):
    """The policy in force, its digest, and the epoch of control that it was asked for at."""

    policy: Policy
    digest: str
    epoch: int


class Pool(Service):
    """What canaries and rechecks are made from. `ready` is set once all of it that was there at the start was read.

    `desk_keys` seal what people decided, `own` what monitors ask for and say, `names` is the key of pseudonyms;
    `policies` is what routers run with although control has promoted none, by digest.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        topics: TopicSet,
        trust: str,
        desk_keys: Mapping[str, SealKey],
        own: SealKey,
        names: SealKey,
        policies: Mapping[str, Policy],
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.ready = asyncio.Event()
        self.seeds = Seeds(names, topics.partitions)
        self._client, self._topics, self._trust = client, topics, trust
        self._desk_keys, self._own, self._policies = desk_keys, {own.key_id: own}, policies
        self._clock = clock
        self._since_ms = 0
        self._said: dict[str, dict[int, Said]] = defaultdict(dict)
        self._rules: Policies | None = None
        self._opened = AsyncExitStack()
        self._decisions, self._seeded = topics.name("decisions"), topics.name("review.seeded")
        self._alerts = topics.name("alerts")
        self.log = structlog.get_logger(role="monitor")

    # --- what is asked of it ------------------------------------------------------------------------------------------

    def rules(self, now_ms: int) -> Rules | None:
        """Return the policy in force; None: nobody knows one, and nothing may be planted."""
        if self._rules is None:
            return None
        try:
            compiled = self._rules.at(now_ms)
        except BrokenError as error:
            self.log.warning("no canary is planted", why=str(error))
            return None
        return Rules(compiled.policy, compiled.digest, self._rules.control.epoch)

    def said_of(self, queue: str) -> Mapping[int, Said]:
        """Return what was last said of a queue as such, by row."""
        return self._said.get(queue, {})

    def heard(self, alert: Alert) -> None:
        """Take in what was said of a queue; what was said of a person is passed over."""
        _, _, number = alert.id.rpartition("/")
        if alert.person is None and alert.queue and number.isdecimal():
            last = self._said[alert.queue].get(alert.row, Said())
            if int(number) > last.number:
                self._said[alert.queue][alert.row] = Said(int(number), not alert.ended)

    async def read_back(self, items: Collection[str]) -> dict[str, Decided]:
        """Return what was asked where these items were approved, by item; without those that cannot be found."""
        places = {item: at for item in items if (at := self.seeds.placed.get(item)) is not None}
        found: dict[str, Decided] = {}
        if not places:
            return found
        try:
            async with asyncio.timeout(READ_BACK_S_MAX), started(self._client, committed=True) as consumer:
                parts = {at: TopicPartition(self._decisions, at.partition) for at in places.values()}
                consumer.assign(list(set(parts.values())))
                firsts = await consumer.beginning_offsets(list(set(parts.values())))
                for item, at in sorted(places.items(), key=lambda one: one[1]):
                    if at.offset >= firsts[parts[at]]:
                        decided = await self._read_at(consumer, parts[at], at)
                        found |= {} if decided is None else {item: decided}
        except TimeoutError:
            self.log.warning("approvals could not be read back in time", found=len(found), expected=len(places))
        return found

    async def _read_at(self, consumer: Any, part: TopicPartition, at: At) -> Decided | None:
        consumer.seek(part, at.offset)
        record = await consumer.getone(part)
        if record.offset != at.offset:
            return None  # it was compacted away
        found = read_judgement(record.topic, record.value, record.headers, self._desk_keys)
        if isinstance(found, Undecodable):
            return None
        decided = asked_in(found.asked, bytes(found.action))
        return None if isinstance(decided, Undecodable) else decided

    # --- its life -----------------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Read control to its end, and begin to read the rest."""
        self._since_ms = int(self._clock() * 1000) - HORIZON_MS
        audience = await cluster_id(self._client)
        reader = await self._opened.enter_async_context(
            reading_control(self._client, self._topics, self._trust, audience)
        )
        control = (await reader.catch_up()).control
        self._know(control)
        if self._rules is None:
            self.log.warning("no policy is known, so that no canary is planted; give one: --policy FILE")
        self.add_future(self._follow(reader))
        self.add_future(self._read())

    async def on_stop(self) -> None:
        """Leave control."""
        await self._opened.aclose()

    async def _follow(self, reader: ControlReader) -> None:
        while not self.should_stop:
            await self.sleep(RULES_EVERY_S)
            try:
                self._know((await reader.catch_up()).control)
            except ConsumerStoppedError:
                return  # nothing but our stop closes it while we read
            except UnreachableError as error:
                self.log.warning("control cannot be read, its policy may be an old one", why=str(error))

    def _know(self, control: Control) -> None:
        """Begin with the policy of the settings, or with the first one that control promotes."""
        if self._rules is not None:
            return
        for digest, policy in self._policies.items():
            self._rules = Policies(policy, digest, control)
            return
        if control.policy is not None:
            try:
                loaded = parse(control.policy.text, f"control/{control.policy.epoch}")
            except PolicyError as error:
                self.log.warning("no canary is planted", why=str(error))
                return
            self._rules = Policies(loaded.policy, loaded.digest, control)

    async def _read(self) -> None:
        async with started(self._client, committed=True) as consumer:
            parts = await partitions_of(consumer, [self._decisions, self._seeded, self._alerts])
            consumer.assign(parts)
            ends = await consumer.end_offsets(parts)
            recent = [tp for tp in parts if tp.topic != self._alerts]
            begins = await consumer.offsets_for_times(dict.fromkeys(recent, max(0, self._since_ms)))
            for tp in parts:
                at = begins.get(tp)
                if at is not None:
                    consumer.seek(tp, at.offset)
                elif tp in begins:
                    consumer.seek(tp, ends[tp])
                else:
                    await consumer.seek_to_beginning(tp)
            behind = {tp for tp in parts if await consumer.position(tp) < ends[tp]}
            while not self.should_stop:
                if not behind:
                    self.ready.set()
                got = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
                for records in got.values():
                    for record in records:
                        self.take(record)
                behind = {tp for tp in behind if await consumer.position(tp) < ends[tp]}
                await asyncio.sleep(0)

    def take(self, record: Any) -> None:
        """Take in one record of any of these topics; one that is not sealed as it must be is passed over."""
        headers = record.headers or ()
        if record.topic == self._decisions:
            judged = read_judgement(record.topic, record.value, headers, self._desk_keys)
            if not isinstance(judged, Undecodable):
                self._judged(judged, At(record.partition, record.offset))
        elif record.topic == self._seeded:
            seeded = read_decided(record.topic, record.value, headers, self._own)
            if isinstance(seeded, Decided):
                self.seeds.seeded(seeded.decision)
        else:
            alert = read_alert(record.topic, record.value, headers, self._own)
            if isinstance(alert, Alert):
                self.heard(alert)

    def _judged(self, judged: Any, at: At) -> None:
        try:
            self.seeds.judged(judged, at, self._since_ms)
        except (ValueError, OverflowError) as error:
            self.log.warning("a judgement holds a time that is none", place=list(at), why=str(error))
