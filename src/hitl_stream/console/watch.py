"""The control log as the console knows it: keys, switches and policy, the broker's time, and who acknowledges.

It acknowledges nothing: no switch waits for a console, which lets nothing run. When Kafka goes away it keeps what it
knew, says so, and reads anew. Who acknowledges is only shown: where that cannot be read, everything else goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from mode import Service

from hitl_stream.core.control import Control
from hitl_stream.core.errors import BrokenError, HitlError
from hitl_stream.core.policy.compile import Compiled
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.clock import ControlClock, steady_ms
from hitl_stream.lane.control_reader import reading_control
from hitl_stream.lane.heartbeats import Beat, Heartbeats, listening
from hitl_stream.lane.instances import Instances, hearing_acks
from hitl_stream.lane.picture import Picture
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.policy_file import LoadedPolicy
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet

HEAR_S = 0.25
LOOK_S_MAX = 5.0
RETRY_S = 1.0
OLD_MS_MAX = 5_000
"""What was read longer ago may have changed: nothing is signed then."""
ACKS_S = 0.5
"""So often acks are read; an instance sends four a second."""
GONE_MS = 10 * 60_000
"""Who has not acknowledged for so long is not shown any more."""
TOOK_MAX = 1_000
"""Switches of which it is remembered how long they took, the newest."""


class ControlWatch(Service):
    """Folds `control`, and listens to heartbeats and acks.

    `key_id` is the key that verdicts are signed with; `seals` are the seal keys at hand by role, to check acks with.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        topics: TopicSet,
        trust: str,
        loaded: LoadedPolicy,
        key_id: str,
        seals: Mapping[str, Mapping[str, SealKey]] | None = None,
    ) -> None:
        super().__init__()
        self.control = Control()
        self.audience = ""
        self.effective = -1
        self._client, self._topics, self._trust = client, topics, trust
        self._loaded, self._key_id = loaded, key_id
        self._policies = Policies(loaded.policy, loaded.digest, self.control)
        self._clock = ControlClock()
        self._seals = seals or {}
        self._instances = Instances(topics.name("control.acks"), self._seals)
        self._beats: Heartbeats | None = None
        self._began_ms = steady_ms()
        self._took: dict[int, int] = {}
        self._heard = False
        self._looked_ms: int | None = None
        self._trouble = "control was not read yet"
        self.log = structlog.get_logger(role="console")

    def now_ms(self) -> int:
        """Return control time; 0 before a heartbeat was heard."""
        return self._clock.now_ms()

    def policy(self, now_ms: int) -> Compiled:
        """Return the policy in force."""
        return self._policies.at(now_ms)

    def missing(self) -> str:
        """Say why nothing can be signed; an empty string: it can."""
        if self._looked_ms is None or steady_ms() - self._looked_ms > OLD_MS_MAX:
            return self._trouble or "control was not read lately"
        if self._key_id not in self.control.keys:
            return f"control does not list the key {self._key_id} that this console signs with; see: hitl keys"
        return ""

    def picture(self) -> Picture:
        """Return how everything stands by what was read so far."""
        beats = self._beats
        if beats is None:
            return Picture(self.control, {}, steady_ms() - self._began_ms, self._instances)
        return Picture(self.control, beats.alive(), beats.silent_ms(), self._instances, dict(beats.rejected))

    def took_ms(self, epoch: int) -> int | None:
        """Return how long a switch took until it was EFFECTIVE; None where this console did not see it."""
        return self._took.get(epoch)

    async def on_start(self) -> None:
        """Begin to read."""
        self.add_future(self._run())
        self.add_future(self._hear_acks())

    async def _run(self) -> None:
        while not self.should_stop:
            try:
                await self._follow()
            except BrokenError:
                raise
            except (HitlError, KafkaError, OSError) as error:  # TimeoutError is an OSError
                self._trouble = str(error) or type(error).__name__
                self.log.warning("control cannot be read", error=self._trouble, retry_s=RETRY_S)
                await self.sleep(RETRY_S)

    async def _follow(self) -> None:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(LOOK_S_MAX):
                audience = await cluster_id(self._client)
            entering = reading_control(self._client, self._topics, self._trust, audience)
            reader = await stack.enter_async_context(entering)
            control = (await reader.catch_up()).control
            beats = await stack.enter_async_context(
                listening(self._client, self._topics, audience, lambda: control.keys)
            )
            self.audience, self.control, self._beats = audience, control, beats
            self._policies = Policies(self._loaded.policy, self._loaded.digest, control)
            while not self.should_stop:
                async with asyncio.timeout(LOOK_S_MAX):
                    heard = await beats.hear(HEAR_S)
                    await reader.catch_up()
                self._note(heard)
                for beat in beats.alive().values():
                    self._clock.observe(beat.at_ms)
                    self.effective = max(self.effective, beat.heartbeat.effective)
                self._looked_ms, self._trouble = steady_ms(), ""

    def _note(self, heard: Iterable[Beat]) -> None:
        """Note how long those switches took that these heartbeats are the first to prove."""
        for beat in heard:
            before, proved = self.effective, beat.heartbeat.effective
            if proved > before and self._heard:  # before the first one nobody can tell when it was proved
                for epoch, switch in reversed(self.control.switches.all.items()):
                    if epoch <= before:
                        break
                    if epoch <= proved:
                        self._took[epoch] = max(0, beat.at_ms - switch.at_ms)
            self._heard = True
            self.effective = max(before, proved)
        while len(self._took) > TOOK_MAX:
            del self._took[min(self._took)]

    async def _hear_acks(self) -> None:
        """Keep up with who acknowledges; it only shows, so that its trouble is no reason to sign nothing."""
        told = ""
        while not self.should_stop:
            try:
                async with hearing_acks(self._client, self._topics, self._seals) as acks:
                    self._instances, told = acks.instances, ""
                    while not self.should_stop:
                        await acks.catch_up()
                        newest_ms = max((seen.at_ms for seen in self._instances.latest.values()), default=0)
                        self._instances.forget(max(newest_ms, self.now_ms()) - GONE_MS)
                        await self.sleep(ACKS_S)
            except (HitlError, KafkaError, OSError) as error:
                trouble = str(error) or type(error).__name__
                if trouble != told:  # control says the same each second
                    self.log.warning("acks cannot be read", error=trouble, retry_s=RETRY_S)
                told = trouble
                await self.sleep(RETRY_S)
