"""What the demo shows of kill switches: which are engaged, and how long each took to be proved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from msgspec import Struct

from hitl_stream.core.errors import HitlError
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.control_reader import reading_control
from hitl_stream.lane.heartbeats import SILENT_MS, listening, standing
from hitl_stream.wire.topics import TopicSet

LOOK_SECONDS = 0.2


class Stop(Struct, frozen=True):
    """An engaged switch. `after_ms` is from its append to the heartbeat that proves it, None until then."""

    epoch: int
    mode: str
    scope: str
    after_ms: int | None = None


class Stops:
    """The engaged switches, newest last, and whether control is heard."""

    def __init__(self) -> None:
        self.engaged: tuple[Stop, ...] = ()
        self.proved: dict[int, int] = {}
        """Epoch → milliseconds from append to EFFECTIVE, of all switches that there were."""
        self.silent = False

    async def follow(self, client: Mapping[str, Any], topics: TopicSet, trust: str) -> None:
        """Keep up with control for ever."""
        audience = await cluster_id(client)
        async with AsyncExitStack() as stack:
            reader = await stack.enter_async_context(reading_control(client, topics, trust, audience))
            log = await reader.catch_up()
            beats = await stack.enter_async_context(listening(client, topics, audience, lambda: log.control.keys))
            while True:
                for beat in await beats.hear(LOOK_SECONDS):
                    for switch in log.control.switches.all.values():
                        found = standing(switch.epoch, switch.at_ms, beat)
                        if found.after_ms is not None:
                            self.proved.setdefault(switch.epoch, found.after_ms)
                log = await reader.catch_up()
                self.silent = beats.silent_ms() > SILENT_MS
                self.engaged = tuple(
                    Stop(switch.epoch, switch.mode.value, " ".join(switch.scope), self.proved.get(switch.epoch))
                    for switch in log.control.switches.engaged.values()
                )


@asynccontextmanager
async def following(client: Mapping[str, Any], topics: TopicSet, trust: str) -> AsyncIterator[Stops]:
    """Give the switches of an installation, kept up to date. Without Kafka they stay as they were."""
    stops = Stops()

    async def follow() -> None:
        with suppress(HitlError, OSError):
            await stops.follow(client, topics, trust)

    task = asyncio.ensure_future(follow())
    try:
        yield stops
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
