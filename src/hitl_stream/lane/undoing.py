"""Finding what became of an action, and proposing its inverse: over the console's API, or straight to `actions`.

Nothing is executed here: the proposal is decided like any other action.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from hitl_stream.core.action import entity_of
from hitl_stream.core.errors import RefusedError, UnknownOutcomeError, UnreachableError
from hitl_stream.lane.admin import Client, reaching
from hitl_stream.lane.exports import Checked
from hitl_stream.lane.transaction import drop_producer
from hitl_stream.wire.home import home_of, key_of
from hitl_stream.wire.records import Result, decode_result
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.undoing import Undo

API_SECONDS_MAX = 10.0
SEND_SECONDS_MAX = 15.0
ACCEPTED = 202
ANSWER_SHOWN_MAX = 500

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer


class Found(NamedTuple):
    """The newest result of an action, and its place on `results`."""

    result: Result
    place: str


async def result_of(checked: Checked, tenant: str, action_id: str) -> Found | None:
    """Return what became of an action the last time that it was carried out; a result that succeeded comes first."""
    newest: Found | None = None
    marks = tenant.encode(), action_id.encode()
    plain = all(mark.isascii() and b'"' not in mark and b"\\" not in mark for mark in marks)
    async for record in checked.records("results", whole=True):
        value = record.value or b""
        if plain and marks[1] not in value:  # most are about others, and decoding is dear
            continue
        try:
            result = decode_result(value)
        except (ValueError, RecursionError):
            continue
        if (result.tenant, result.action_id) != (tenant, action_id):
            continue
        if newest is None or result.status == "executed" or newest.result.status != "executed":
            newest = Found(result, f"{record.topic}/{record.partition}/{record.offset}")
    return newest


async def post(url: str, token: str, undone: Undo) -> str:
    """Propose over the API of a console; return the id that it answers.

    Raises `RefusedError` where it says no, `UnreachableError` where it does not answer: the console may have got it,
    and the same proposal once more has the same id.
    """
    from aiohttp import ClientError, ClientSession, ClientTimeout  # here: every verb would wait for it

    address = f"{url.rstrip('/')}/api/v1/actions"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=API_SECONDS_MAX)) as session,
            session.post(address, data=undone.value, headers=headers, allow_redirects=False) as answer,
        ):
            body = await answer.read()
            if answer.status != ACCEPTED:
                said = body[:ANSWER_SHOWN_MAX].decode("utf-8", "replace")
                raise RefusedError(f"the console at {url} answers {answer.status}: {said}; nothing was proposed")
    except (ClientError, TimeoutError, OSError) as error:
        raise UnreachableError(
            f"the console at {url}: {error!r}. Whether it took the proposal is not known; say it again: the same "
            "proposal has the same id"
        ) from None
    return undone.decoded.action.action_id


async def append(client: Client, topics: TopicSet, tenant: str, undone: Undo, headers: list[tuple[str, bytes]]) -> str:
    """Write the proposal to its home on `actions`; return its place."""
    action = undone.decoded.action
    entity = entity_of(action)
    partition = home_of(action, tenant, entity, topics.partitions)
    key, topic = key_of(tenant, entity, action.agent.id), topics.name("actions")
    producer = _Producer(**client, enable_idempotence=True, acks="all", linger_ms=0, retry_backoff_ms=20)
    try:
        with reaching(client):
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await producer.start()
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                sent = await producer.send_and_wait(topic, undone.value, key=key, partition=partition, headers=headers)
        except (KafkaError, TimeoutError, OSError) as error:
            raise UnknownOutcomeError(
                f"Kafka at {client['bootstrap_servers']}: {error!r} while the proposal was sent; whether it stands on "
                f"{topic} is not known. Say it again: the same proposal has the same id"
            ) from None
    finally:
        await drop_producer(producer)
    return f"{topic}/{sent.partition}/{sent.offset}"
