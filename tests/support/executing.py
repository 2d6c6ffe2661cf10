"""An executor on a real Kafka, before a fake platform that speaks HTTP: topics, decisions, lanes to start and to break.

Decisions are made by a real router in this process and written to `execute` as its lane would. Control is a fold under
the test's hand; time is that of the broker.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hitl_stream.adapters.http import HttpAdapter, http_options
from hitl_stream.core.action import Value, entity_of
from hitl_stream.core.window import IdBudget
from hitl_stream.dev.platform import Place as PlatformPlace
from hitl_stream.dev.platform import Platform
from hitl_stream.lane.admin import apply
from hitl_stream.lane.calls import CALLS_MAX, calls
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.restore import Changelog
from hitl_stream.lane.step import Header, Moment, Output
from hitl_stream.roles.executor import Executor, ExecutorSettings
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Router, RouterSettings
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.home import home_of
from hitl_stream.wire.topics import EXECUTOR_TOPICS, TABLE, TopicSet
from support.execution import EXECUTOR_KEY, Seen
from support.guard import Commands, TestGuard
from support.kafka import Topics, producing, read, within
from support.make import SAMPLE_KEY, SEAL_KEY, FakeRecord, Partition, acme, action_bytes, iso
from support.toy import Witness, until

FIRST = "1.20"
"""What stands on the platform before anybody changes it."""
WAIT_S_MAX = 40.0


def starts_at(place: PlatformPlace) -> Value:
    return FIRST


class Executing:
    """The installation of one test. `lane` is the newest one started."""

    def __init__(self, topics: Topics, partitions: int = 1, **platform: Any) -> None:
        self.bootstrap = topics.bootstrap
        self.client = {"bootstrap_servers": topics.bootstrap}
        self.topics = TopicSet(topics.prefix, partitions)
        self.platform = Platform(provider=starts_at, **platform)
        self.commands = Commands(at_ms=int(time.time() * 1000))
        self.policies = Policies(acme().policy, "d" * 64, self.commands.control)
        self.guard: TestGuard
        self.lane: Lane
        self.seen = Seen()
        self.witness = Witness()
        self.fence = True
        self.router = Router(
            RouterSettings(topics=self.topics, seal_keys={SEAL_KEY.key_id: SEAL_KEY}, sample_key=SAMPLE_KEY),
            Policies(acme().policy, "d" * 64),
        )
        self.state = Partition(self.router).state
        self.decided = 0

    @property
    def execute_topic(self) -> str:
        return self.topics.name("execute")

    # --- lanes --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Lane]:
        """Run an executor; it is ended in order unless it crashed before."""
        guard = self.guard = TestGuard(commands=self.commands)
        guard.observe(int(time.time() * 1000))
        adapter = HttpAdapter(
            http_options({"base_url": self.platform.url, "fence": self.fence, **options}), guard.now_ms
        )
        settings = ExecutorSettings(
            self.topics, {SEAL_KEY.key_id: SEAL_KEY}, {EXECUTOR_KEY.key_id: EXECUTOR_KEY}, "test/executor/0"
        )
        executor = Executor(settings, self.policies, adapter, observer=self.seen)
        budget = IdBudget()
        name = self.topics.name
        spec = LaneSpec(
            role="executor",
            group=f"{self.topics.prefix}executor",
            member=f"{self.topics.prefix}a",
            instance="test/executor/0",
            inputs=(self.execute_topic,),
            client=self.client,
            dlq=name("dlq"),
            limits={name(topic): TABLE[topic].bytes_max for topic in EXECUTOR_TOPICS},
            restore=Changelog(name("executor.state")),
            session_timeout_ms=6_000,
            heartbeat_ms=300,
            fence=self.fence,
        )
        slots = asyncio.Semaphore(CALLS_MAX)
        async with adapter:
            lane = self.lane = Lane(spec, calls(executor, slots), lambda: executor.state(budget), self.witness, guard)
            await lane.start()
            try:
                await until(lambda: lane.ready or lane.crashed)
                yield lane
            finally:
                await lane.stop()

    def kill(self) -> None:
        """End every slice at once, in the middle of what it does, as SIGKILL would: nothing is waited for."""
        self.lane.incarnation += 1
        for piece in self.lane.slices.values():
            if piece.task is not None:
                piece.task.cancel()

    # --- in -----------------------------------------------------------------------------------------------------------

    def decide(self, epoch: int | None = None, headers: Sequence[Header] = (), **parts: Any) -> Output:
        """Let the router decide an action now."""
        now_ms = int(time.time() * 1000)
        self.decided += 1
        parts = {"action_id": f"act-{self.decided}", "proposed_at": iso(now_ms - 100)} | parts
        value = action_bytes(**parts)
        partition = self._home(value)
        record = FakeRecord(value, self.decided, partition, now_ms, self.topics.name("actions"), headers=headers)
        moment = Moment(now_ms, self.commands.control.epoch if epoch is None else epoch)
        result = self.router([record], self.state, moment)
        self.state.apply(result.changes)
        (output,) = [one for one in result.outputs if one.topic != self.topics.name("review.seeded")]
        assert output.topic == self.execute_topic, output.topic
        return output

    def _home(self, value: bytes) -> int:
        decoded = decode_bytes(value)
        assert isinstance(decoded, Decoded)
        action = decoded.action
        return home_of(action, action.tenant, entity_of(action), self.topics.partitions)

    async def put(self, *outputs: Output) -> None:
        """Append records to `execute`, each to its partition, in order."""
        async with producing(self.bootstrap, acks="all") as producer:
            sent = [
                await producer.send(
                    self.execute_topic, one.value, one.key, partition=one.partition, headers=list(one.headers)
                )
                for one in outputs
            ]
            await asyncio.gather(*sent)

    async def execute(self, **parts: Any) -> str:
        """Decide an action and append the decision; return its id."""
        output = self.decide(**parts)
        await self.put(output)
        return str(json.loads(output.value or b"")["action_id"])

    # --- out ----------------------------------------------------------------------------------------------------------

    async def said(self, topic: str) -> list[dict[str, Any]]:
        """Return what stands committed on a topic, in all partitions."""
        found = []
        for partition in range(self.topics.partitions):
            found += [
                json.loads(record.value) for record in await read(self.bootstrap, self.topics.name(topic), partition)
            ]
        return found

    async def ends(self) -> dict[str, list[str]]:
        """Return what became of each action id."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for topic, word in (("results", "status"), ("closed", "why"), ("held", "")):
            for value in await self.said(topic):
                found[value["action_id"]].append(value[word] if word else "held")
        return dict(found)

    async def ended(self, count: int, seconds_max: float = WAIT_S_MAX) -> dict[str, list[str]]:
        """Return the ends once there are at least so many."""
        async with asyncio.timeout(seconds_max):
            while True:
                ends = await self.ends()
                if sum(map(len, ends.values())) >= count or self.lane.crashed:
                    assert not self.lane.crashed, self.lane.crash_reason
                    return ends
                await asyncio.sleep(0.05)

    def applied(self) -> Counter[str]:
        """Return how often the platform applied each action."""
        return Counter({entry.action_id: entry.applied for entry in self.platform.books.actions.values()})

    def order(self) -> list[str]:
        """Return the actions in the order in which they took effect."""
        entries = sorted(self.platform.books.actions.values(), key=lambda entry: entry.order[0])
        return [entry.action_id for entry in entries]


def executing(
    topics: Topics, scenario: Callable[[Executing], Coroutine[Any, Any, None]], partitions: int = 1, **platform: Any
) -> None:
    """Run a scenario with topics and a platform of its own."""

    async def whole() -> None:
        here = Executing(topics, partitions, **platform)
        await apply(here.client, here.topics, EXECUTOR_TOPICS)
        async with here.platform:
            await scenario(here)

    within(whole())
