"""Appending commands to `control`: signed, acknowledged by every replica in sync, in time by the broker's clock.

Rules:
- No host's clock decides: a command is dated by the newest heartbeat, and by this host's clock only where there is
  none. The answer to the write says what time it is at the broker. A command that was off is a record that counts for
  nothing, to every reader; it is signed anew with the right time and appended once more, under another id.
- No transaction: one that hangs would hide what follows it. The producer is idempotent, so that a repeat after a lost
  answer is no second record.
- An error says whether something was written, or that nobody can tell.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from hitl_stream.core.commands import Command
from hitl_stream.core.control import ALIVE_MS_MAX
from hitl_stream.core.errors import HitlError, RefusedError, UnknownOutcomeError, UnreachableError, UsageError
from hitl_stream.lane.admin import REFUSALS, Client, described, reaching
from hitl_stream.lane.clock import steady_ms
from hitl_stream.lane.reader import newest_append_ms
from hitl_stream.lane.transaction import drop_producer
from hitl_stream.wire.signing import COMMAND_BYTES_MAX, SigningKey, judge_time, sign
from hitl_stream.wire.topics import TopicSet

APPEND_SECONDS_MAX = 10.0
"""For reaching Kafka, and again for each append. Who stops something must know soon that another way is needed."""
REQUEST_TIMEOUT_MS = 3_000
"""One broker's answer: two silent ones of three leave time for the third."""
CLOCK_SECONDS_MAX = 0.5
"""For the newest heartbeat. Without it the command may have to be appended twice."""
RETRY_BACKOFF_MS = 20
TRIES_MAX = 2
"""The second one knows the broker's time."""
VALUE_BYTES_MAX = COMMAND_BYTES_MAX - 1024
"""Key, offsets and the batch around a record count against the topic's limit, too."""
_REFUSED = (*REFUSALS, InvalidTopicError, MessageSizeTooLargeError, RecordListTooLargeError)
"""Answers after which nothing was written; after any other one it may have been."""

Make = Callable[..., Command]
"""A command's class with what it says filled in, such as `partial(Confirm, of=815)`; called with the common claims."""

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer


@dataclass(frozen=True)
class Appended:
    """A command that stands on `control`: at which offset, since when by the broker's clock, and its record's value.

    Whether it counts for anything is what the fold says of it (`ControlLog.rejection_at`).
    """

    epoch: int
    at_ms: int
    command: Command
    value: bytes = field(repr=False)


class Commander:
    """Appends commands to one cluster's `control`, signed with one key. After an error, make a new one."""

    def __init__(self, client: Client, topic: str, key: SigningKey, audience: str, producer: Any, now_ms: int) -> None:
        self.audience = audience
        """Id of the cluster."""
        self._client = client
        self._topic = topic
        self._key = key
        self._producer = producer
        self._learn(now_ms)

    def now_ms(self) -> int:
        """Return the broker's time as far as it is known."""
        return self._told_ms + steady_ms() - self._heard_ms

    def _learn(self, now_ms: int) -> None:
        self._told_ms, self._heard_ms = now_ms, steady_ms()

    async def append(self, make: Make) -> Appended:
        """Append the command that `make` returns for the common claims; it is called again if they were out of time.

        Raises:
            UnreachableError: nothing was written.
            UnknownOutcomeError: it was not acknowledged in time; nobody can tell whether it was written.
            RefusedError: Kafka refuses it; nothing was written.
            UsageError: it is too long.
        """
        for _ in range(TRIES_MAX):
            command = make(**self._claims())
            value = sign(self._key, command)
            if len(value) > VALUE_BYTES_MAX:
                raise UsageError(
                    f"the signed command has {len(value)} bytes, {self._topic} takes {VALUE_BYTES_MAX}; nothing was "
                    "written. Say it shorter"
                )
            epoch, at_ms = await self._write(command.jti.encode(), value)
            self._learn(at_ms)
            if judge_time(command, at_ms) is None:
                break
        return Appended(epoch, at_ms, command, value)

    def _claims(self) -> dict[str, Any]:
        issued = self.now_ms() // 1000
        return {
            "aud": self.audience,
            "kid": self._key.key_id,
            "iss": self._key.holder,
            "jti": uuid.uuid4().hex,
            "iat": issued,
            "exp": issued + ALIVE_MS_MAX // 1000,
        }

    async def _write(self, key: bytes, value: bytes) -> tuple[int, int]:
        """Write a record; return its offset and append time."""
        with _nothing_written(), reaching(self._client):
            async with asyncio.timeout(APPEND_SECONDS_MAX):
                sent = await self._producer.send(self._topic, value, key=key, partition=0)
        # From here on it may be written, whatever happens. `wait` leaves the producer's future alone.
        done, _ = await asyncio.wait([sent], timeout=APPEND_SECONDS_MAX)
        if not done:
            raise self._unknown(f"no acknowledgement within {APPEND_SECONDS_MAX:g} s")
        try:
            metadata = sent.result()
        except _REFUSED as error:
            raise RefusedError(
                f"Kafka at {self._client['bootstrap_servers']} refuses to write to {self._topic}: {error!r}; "
                "nothing was written. Check kafka_security and the ACLs"
            ) from None
        except (KafkaError, TimeoutError, OSError) as error:
            raise self._unknown(repr(error)) from None
        if metadata.offset < 0:  # an answer to a repeat, from a broker that has forgotten the first one's
            raise self._unknown("an acknowledgement without an offset")
        return metadata.offset, metadata.timestamp

    def _unknown(self, found: str) -> UnknownOutcomeError:
        return UnknownOutcomeError(
            f"Kafka at {self._client['bootstrap_servers']}: {found} for the command sent to {self._topic}. Whether it "
            "was written is not known. Say it again: what stands there twice does no harm"
        )


@asynccontextmanager
async def commanding(client: Client, topics: TopicSet, key: SigningKey) -> AsyncIterator[Commander]:
    """Give a commander, connected. Raises as `Commander.append` does; then nothing was written."""
    topic = topics.name("control")
    producer = _Producer(
        **client,
        enable_idempotence=True,
        acks="all",
        linger_ms=0,
        max_request_size=2 * COMMAND_BYTES_MAX,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
        retry_backoff_ms=RETRY_BACKOFF_MS,
    )
    clock = asyncio.create_task(_newest_heartbeat_ms(client, topics))
    try:
        with _nothing_written(), reaching(client):
            async with asyncio.timeout(APPEND_SECONDS_MAX):
                await producer.start()
                audience, there = await described(producer.client, [topic])
        if topic not in there:
            raise UsageError(
                f"Kafka at {client['bootstrap_servers']} has no topic {topic}; create it: hitl topics apply"
            )
        now_ms = await clock or time.time_ns() // 1_000_000
        yield Commander(client, topic, key, audience, producer, now_ms)
    finally:
        clock.cancel()
        await asyncio.wait([clock], timeout=CLOCK_SECONDS_MAX)
        await drop_producer(producer)


async def append(client: Client, topics: TopicSet, key: SigningKey, make: Make) -> Appended:
    """Append one command to `control`; see `Commander.append`."""
    async with commanding(client, topics, key) as commander:
        return await commander.append(make)


async def _newest_heartbeat_ms(client: Client, topics: TopicSet) -> int | None:
    """Return when control was last heard; None where it was not, or cannot be found out soon."""
    try:
        async with asyncio.timeout(CLOCK_SECONDS_MAX):
            return await newest_append_ms(client, topics.name("control.heartbeat"))
    except (HitlError, TimeoutError):
        return None


@contextmanager
def _nothing_written() -> Iterator[None]:
    try:
        yield
    except UnreachableError as error:
        raise UnreachableError(f"Nothing was written: {error}") from None
