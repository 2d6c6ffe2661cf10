"""What a browser is told without asking: switches, whether the console is up to date, and how full the queues are.

Rules:
- Every event is the whole state, so that a browser that was away knows everything with the first one it gets.
- What stands in memory is looked at four times a second: a switch is on every page within half a second of its being
  read. The queues are asked for every two seconds.
- Who it is for is asked anew now and then: who was signed out, or lost a role, is told no more.
- There are at most `STREAMS_MAX` streams; a browser's tabs share one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from hitl_stream.console import proposing, reviewing, stopping
from hitl_stream.console.database import DatabaseError
from hitl_stream.console.office import Office, Who
from hitl_stream.console.people import Scope
from hitl_stream.console.problems import ProblemError
from hitl_stream.core.errors import HitlError

STREAMS_MAX = 200
"""Fewer than the requests that the server takes at once: there is always room for a verdict."""
LOOK_S = 0.25
QUEUES_S = 2.0
ALIVE_S = 10.0
"""After so long without an event a comment is sent, so that a proxy does not take the stream for dead."""
IDENTIFY_S = 30.0
RETRY_MS = 1_000
"""So long a browser waits before it comes back."""

Identify = Callable[[], Awaitable[Who]]


class Streams:
    """The streams of all browsers of one console."""

    def __init__(self, office: Office, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.open = 0
        self._office, self._sleep = office, sleep

    async def begin(self, identify: Identify) -> AsyncIterator[bytes]:
        """Return a stream for who asks; refuse one more than there may be."""
        who = await identify()
        if self.open >= STREAMS_MAX:
            raise ProblemError(
                "unavailable",
                f"{self.open} browsers are listening, expected fewer than {STREAMS_MAX}",
                todo="Close tabs that nobody looks at; the pages work without, and say that they are not told.",
            )
        return self._told(who, identify)

    async def _told(self, who: Who, identify: Identify) -> AsyncIterator[bytes]:
        self.open += 1
        try:
            yield f"retry: {RETRY_MS}\n\n".encode()
            async for part in self._states(who, identify):
                yield part
        finally:
            self.open -= 1

    async def _states(self, who: Who, identify: Identify) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        state, last = await self._state(who), b""
        told_s = counted_s = asked_s = loop.time()
        while True:
            now_s = loop.time()
            if now_s - asked_s >= IDENTIFY_S:
                try:
                    who, asked_s = await identify(), now_s
                except ProblemError:
                    yield b"event: signed-out\ndata: {}\n\n"
                    return
                except HitlError:
                    asked_s = now_s  # the database is away: it is told what is in memory
            if now_s - counted_s >= QUEUES_S:
                state, counted_s = await self._state(who), now_s
            else:
                state |= self._control(who)
            data = orjson.dumps(state)
            if data != last:
                yield b"event: state\ndata: " + data + b"\n\n"
                last, told_s = data, now_s
            elif now_s - told_s >= ALIVE_S:
                yield b": still here\n\n"
                told_s = now_s
            await self._sleep(LOOK_S)

    async def _state(self, who: Who) -> dict[str, Any]:
        return self._control(who) | await self._queues(who)

    def _control(self, who: Who) -> dict[str, Any]:
        """Return what is known in memory of the control log."""
        watched = self._office.watched
        may = Scope.SWITCHES in who.scopes
        return {
            "epoch": watched.control.epoch,
            "effective": watched.effective,
            "missing": watched.missing(),
            "heard": watched.picture().heard,
            "switches": stopping.switches(self._office, who) if may else [],
        }

    async def _queues(self, who: Who) -> dict[str, Any]:
        """Return how full the queues are, and how far behind that is; null where the database is away."""
        try:
            stale_s = await reviewing.stale_s(self._office)
            queues = await proposing.queues(self._office, who) if Scope.QUEUES in who.scopes else []
        except (HitlError, DatabaseError) as error:
            return {"stale_s": None, "queues": None, "view": str(error)[:500]}
        # Rounded: it grows all the time, and each event would be a new one.
        return {"stale_s": None if stale_s is None else round(stale_s), "queues": queues, "view": ""}
