"""A command that must not be lost: appended before anything is read, then found again by its bytes and judged.

Rules:
- However often it is signed, it has one id: what stands there twice is a repeat, and a repeat counts for nothing.
- Ed25519 signs the same bytes alike (RFC 8032), so a record whose acknowledgement was lost is known by its value.
- Where nobody can tell whether it was written, the log says so; where it is not there, it is appended once more.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from hitl_stream.core.commands import Command
from hitl_stream.core.errors import UnknownOutcomeError, UnreachableError
from hitl_stream.core.events import Rejection
from hitl_stream.lane.admin import Client
from hitl_stream.lane.commander import Appended, Make, append
from hitl_stream.lane.control_reader import ControlReader, reading_control
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.signing import SigningKey, sign
from hitl_stream.wire.topics import TopicSet

TRIES_MAX = 3
"""Each takes as long as the commander allows."""


class Once:
    """A command under one id: `made` are the records in which it may stand, by value."""

    def __init__(self, key: SigningKey, make: Make, jti: str | None = None) -> None:
        self.jti = jti or uuid.uuid4().hex
        self.key = key
        self.made: dict[bytes, Command] = {}
        self._make = make

    def __call__(self, **claims: Any) -> Command:
        """Make it for the common claims, but for its id."""
        command = self._make(**claims | {"jti": self.jti})
        self.made[sign(self.key, command)] = command
        return command

    @property
    def audience(self) -> str:
        """Return the cluster that it was made for; empty before it was made at all."""
        return next((command.aud for command in self.made.values()), "")


class Place(NamedTuple):
    """A record of the command: its offset, append time, and why it counts for nothing (None: it counts)."""

    epoch: int
    at_ms: int
    why: Rejection | None


class FindingLog(ControlLog):
    """A fold of `control` that also finds the records of one command."""

    def __init__(self, audience: str, trust: str, values: Collection[bytes]) -> None:
        super().__init__(audience, trust)
        self.places: list[Place] = []
        self._values = values

    def take(self, offset: int, at_ms: int, value: bytes | None) -> Rejection | None:
        """Fold a record; see `ControlLog`."""
        why = super().take(offset, at_ms, value)
        if value in self._values:
            self.places.append(Place(offset, at_ms, why))
        return why

    def verdict(self) -> Place | None:
        """Return the record that counts, else the newest one, which says why none does; None where there is none."""
        return next((place for place in self.places if place.why is None), self.places[-1] if self.places else None)


@asynccontextmanager
async def finding(client: Client, topics: TopicSet, trust: str, once: Once) -> AsyncIterator[ControlReader]:
    """Give a reader of `control` whose log is a `FindingLog`."""
    async with reading_control(client, topics, trust, once.audience) as reader:
        reader.log = FindingLog(once.audience, trust, once.made.keys())
        yield reader


async def append_once(
    client: Client, topics: TopicSet, once: Once, unknown: Callable[[UnknownOutcomeError], None]
) -> Appended:
    """Append a command; where the outcome is not known, call `unknown`, look into the log, and append it once more.

    Raises as `commander.append` does; `UnknownOutcomeError` where nobody could tell up to the end.
    """
    doubt: UnknownOutcomeError | None = None
    for _ in range(TRIES_MAX):
        try:
            return await append(client, topics, once.key, once)
        except UnknownOutcomeError as error:
            doubt = error
            unknown(error)
        except UnreachableError:
            if doubt is None:
                raise
        try:
            found = await _looked_up(client, topics, once)
        except UnreachableError:
            continue
        if found is not None:
            return found
    assert doubt is not None  # every other way out has been taken
    raise doubt


async def _looked_up(client: Client, topics: TopicSet, once: Once) -> Appended | None:
    """Return the first record of the command, whatever it counts for: that is asked of a log that is trusted."""
    async with finding(client, topics, "", once) as reader:
        log = await reader.catch_up()
    assert isinstance(log, FindingLog)  # `finding` gives no other
    if not log.places:
        return None
    place = log.places[0]
    value, command = next(iter(once.made.items()))
    return Appended(place.epoch, place.at_ms, command, value)
