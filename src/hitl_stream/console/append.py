"""Appending what is signed here: acknowledged by every replica in sync, or an error that says what is known.

Rules:
- The producer is idempotent: a repeat after a lost answer is no second record.
- An error says that nothing was written, or that nobody can tell. After the latter a new producer is made.
- Reading `feedback` on demand is here, too: it is kept for ever, and no view holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)
from mode import Service

from hitl_stream.console.office import Page, Place
from hitl_stream.core.errors import RefusedError, UnknownOutcomeError, UnreachableError
from hitl_stream.lane.admin import REFUSALS, reaching
from hitl_stream.lane.clients import stop_quietly
from hitl_stream.lane.reader import Span, read, spans
from hitl_stream.lane.step import Header
from hitl_stream.wire.desk_records import FEEDBACK
from hitl_stream.wire.records import head_of, header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed
from hitl_stream.wire.topics import TopicSet

REACH_S_MAX = 5.0
APPEND_S_MAX = 10.0
"""For one record to be acknowledged; a healthy cluster takes milliseconds."""
REQUEST_TIMEOUT_MS = 3_000
REQUEST_BYTES_MAX = 2 * 1024 * 1024
READERS_MAX = 4
"""Requests for feedback at once; further ones wait."""
_REFUSED = (*REFUSALS, InvalidTopicError, MessageSizeTooLargeError, RecordListTooLargeError)

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer


class KafkaWriter(Service):
    """The console's way into Kafka; the producer is made with the first record, and anew after trouble."""

    def __init__(self, client: Mapping[str, Any], topics: TopicSet) -> None:
        super().__init__()
        self._client, self._topics = client, topics
        self._producer: Any = None
        self._making = asyncio.Lock()

    async def append(
        self, topic: str, partition: int, value: bytes, *, key: bytes | None = None, headers: Sequence[Header] = ()
    ) -> Place:
        """Append one record to a topic of the table; return where it stands."""
        name = self._topics.name(topic)
        producer = await self._made()
        try:
            with reaching(self._client):
                async with asyncio.timeout(REACH_S_MAX):
                    sent = await producer.send(name, value, key=key, partition=partition, headers=list(headers))
        except UnreachableError as error:
            await self._drop(producer)
            raise UnreachableError(f"Nothing was written: {error}") from None
        # From here on it may be written, whatever happens. `wait` leaves the producer's future alone.
        done, _ = await asyncio.wait([sent], timeout=APPEND_S_MAX)
        if not done:
            sent.add_done_callback(_retrieve)
            await self._drop(producer)
            raise _unknown(name, f"no acknowledgement within {APPEND_S_MAX:g} s")
        try:
            found = sent.result()
        except _REFUSED as error:
            raise RefusedError(f"Kafka refuses to write to {name}: {error!r}; check the ACLs") from None
        except (KafkaError, TimeoutError, OSError) as error:
            await self._drop(producer)
            raise _unknown(name, repr(error)) from None
        return Place(name, partition, found.offset, found.timestamp)

    async def on_stop(self) -> None:
        """Let go of the producer, after what is under way."""
        await stop_quietly(self._producer)

    async def _made(self) -> Any:
        async with self._making:
            if self._producer is None:
                producer = _Producer(
                    **self._client, enable_idempotence=True, acks="all", linger_ms=0,
                    max_request_size=REQUEST_BYTES_MAX, request_timeout_ms=REQUEST_TIMEOUT_MS, retry_backoff_ms=20,
                )  # fmt: skip
                try:
                    with reaching(self._client):
                        async with asyncio.timeout(REACH_S_MAX):
                            await producer.start()
                except UnreachableError as error:
                    await stop_quietly(producer)
                    raise UnreachableError(f"Nothing was written: {error}") from None
                self._producer = producer
            return self._producer

    async def _drop(self, producer: Any) -> None:
        if self._producer is producer:
            self._producer = None
        await stop_quietly(producer)


def _unknown(topic: str, found: str) -> UnknownOutcomeError:
    return UnknownOutcomeError(f"{found} for the record sent to {topic}: whether it was written is not known")


def _retrieve(sent: asyncio.Future[Any]) -> None:
    """Look at a late failure, which was told as unknown already, so that asyncio does not log it."""
    if not sent.cancelled():
        sent.exception()


class FeedbackReader:
    """Reads `feedback` on from where a client stands. What is not under a desk's seal is passed over."""

    def __init__(self, client: Mapping[str, Any], topics: TopicSet, keys: Mapping[str, SealKey]) -> None:
        self._client, self._topics, self._keys = client, topics, keys
        self._free = asyncio.Semaphore(READERS_MAX)

    async def __call__(self, after: Mapping[int, int], limit: int) -> Page:
        """Return up to `limit` records, and how far each partition was read."""
        topic = self._topics.name("feedback")
        async with self._free:
            there = await spans(self._client, [topic])
            wanted = {part: _from(span, after.get(part.partition, 0)) for part, span in there.items()}
            places = {part.partition: span.start for part, span in wanted.items()}
            rows: list[bytes] = []
            async with aclosing(read(self._client, wanted)) as reading:
                async for _, partition, records in reading:
                    for record in records:
                        if len(rows) == limit:
                            break
                        places[partition] = record.offset + 1
                        if record.value is not None and self._is_good(topic, record):
                            rows.append(record.value)
                    else:
                        continue
                    break
            full = len(rows) == limit
            if not full:  # what ends a partition may be a mark of a transaction, which nobody is given
                places = {part.partition: span.end for part, span in wanted.items()}
            more = full and any(places[part.partition] < span.end for part, span in wanted.items())
            return Page(tuple(rows), places, more)

    def _is_good(self, topic: str, record: Any) -> bool:
        found = header(record.headers, SEAL_HEADER) or b""
        kind = header(record.headers, TYPE_HEADER)
        return kind == FEEDBACK.encode() and sealed(self._keys, topic, FEEDBACK, head_of(record.value), found)


def _from(span: Span, place: int) -> Span:
    return Span(span.first, min(max(span.first, place), span.end), span.end)
