"""The control log as the console knows it: keys, switches and policy, and the broker's time by its heartbeats.

It acknowledges nothing: no switch waits for a console, which lets nothing run. When Kafka goes away it keeps what it
knew, says so, and reads anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
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
from hitl_stream.lane.heartbeats import listening
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.policy_file import LoadedPolicy
from hitl_stream.wire.topics import TopicSet

HEAR_S = 0.25
LOOK_S_MAX = 5.0
RETRY_S = 1.0
OLD_MS_MAX = 5_000
"""What was read longer ago may have changed: nothing is signed then."""


class ControlWatch(Service):
    """Folds `control`, and listens to heartbeats. `key_id` is the key that verdicts are signed with."""

    def __init__(
        self, client: Mapping[str, Any], topics: TopicSet, trust: str, loaded: LoadedPolicy, key_id: str
    ) -> None:
        super().__init__()
        self.control = Control()
        self.audience = ""
        self.effective = -1
        self._client, self._topics, self._trust = client, topics, trust
        self._loaded, self._key_id = loaded, key_id
        self._policies = Policies(loaded.policy, loaded.digest, self.control)
        self._clock = ControlClock()
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

    async def on_start(self) -> None:
        """Begin to read."""
        self.add_future(self._run())

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
            self.audience, self.control = audience, control
            self._policies = Policies(self._loaded.policy, self._loaded.digest, control)
            while not self.should_stop:
                async with asyncio.timeout(LOOK_S_MAX):
                    await beats.hear(HEAR_S)
                    await reader.catch_up()
                for beat in beats.alive().values():
                    self._clock.observe(beat.at_ms)
                    self.effective = max(self.effective, beat.heartbeat.effective)
                self._looked_ms, self._trouble = steady_ms(), ""
