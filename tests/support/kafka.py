"""What tests that speak to a broker share: brokers or the reason to skip, topics of their own, short ways in and out.

A scenario is a coroutine that a test gives to `within`, so that no broker trouble can hang the suite.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from hitl_stream.dev.broker import Absent, Broker, BrokerChoice, Kind, find

T = TypeVar("T")
TopicConfig = int | tuple[int, Mapping[str, str]]
"""The number of partitions, with or without a configuration."""

SCENARIO_SECONDS_MAX = 60.0
POLL_SECONDS = 0.02


def within(scenario: Coroutine[Any, Any, T], seconds_max: float = SCENARIO_SECONDS_MAX) -> T:
    """Run a scenario in an event loop of its own, under a time limit."""

    async def limited() -> T:
        async with asyncio.timeout(seconds_max):
            return await scenario

    return asyncio.run(limited())


# --- brokers ----------------------------------------------------------------------------------------------------------


def require(*kinds: Kind) -> BrokerChoice:
    """Return the first of `kinds` that can be had; else skip the test, or fail it where CI=true promises a broker."""
    found = [find(kind) for kind in kinds]
    for choice in found:
        if isinstance(choice, BrokerChoice):
            return choice
    reasons = "; ".join(absent.reason for absent in found if isinstance(absent, Absent))
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true, and yet no broker: {reasons}")
    pytest.skip(f"no broker: {reasons}")


@contextmanager
def running(*kinds: Kind, **options: Any) -> Iterator[Broker]:
    """Give the first of `kinds`, started with `options` (see `BrokerChoice.broker`)."""
    with require(*kinds).broker(**options) as broker:
        yield broker


# --- topics -----------------------------------------------------------------------------------------------------------


class Topics:
    """Makes topics that no other test knows: `topics({"actions": 4})["actions"]` is the full name.

    `prefix` is what a product setting of that name takes.
    """

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.prefix = f"t{uuid.uuid4().hex[:8]}."

    def __call__(self, wanted: Mapping[str, TopicConfig]) -> dict[str, str]:
        names = {name: self.prefix + name for name in wanted}
        within(create_topics(self.bootstrap, {names[name]: config for name, config in wanted.items()}))
        return names


async def create_topics(bootstrap: str, wanted: Mapping[str, TopicConfig], *, replication: int = 1) -> None:
    """Create topics and wait until every partition has a leader; a topic that is already there stays as it is."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        new = [_new_topic(name, config, replication) for name, config in wanted.items()]
        response = await admin.create_topics(new)
        for name, code, *message in response.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise for_code(code)(f"{name}: {message}")
        while not all(map(_led, await admin.describe_topics(list(wanted)))):  # noqa: ASYNC110  a broker sets no event
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await admin.close()


def _new_topic(name: str, config: TopicConfig, replication: int) -> NewTopic:
    partitions, settings = (config, {}) if isinstance(config, int) else config
    return NewTopic(name, partitions, replication, topic_configs=dict(settings))


def _led(topic: dict[str, Any]) -> bool:
    return topic["error_code"] == 0 and all(p["error_code"] == 0 and p["leader"] >= 0 for p in topic["partitions"])


# --- in and out -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def producing(bootstrap: str, **options: Any) -> AsyncIterator[AIOKafkaProducer]:
    """Give a started producer; `retry_backoff_ms` is short as in the product."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, **{"retry_backoff_ms": 5} | options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@asynccontextmanager
async def consuming(bootstrap: str, *topics: str, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """Give a started consumer that commits nothing by itself and reads from the start."""
    defaults = {"enable_auto_commit": False, "auto_offset_reset": "earliest"}
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=bootstrap, **defaults | options)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def send(bootstrap: str, topic: str, values: Iterable[bytes], partition: int = 0, **options: Any) -> None:
    """Append values to one partition, acknowledged."""
    async with producing(bootstrap, **{"acks": "all"} | options) as producer:
        sent = [await producer.send(topic, value, partition=partition) for value in values]
        await asyncio.gather(*sent)


async def read(bootstrap: str, topic: str, partition: int = 0, *, committed: bool = True) -> list[ConsumerRecord]:
    """Return all there is in one partition, up to its end: the stable one, or the high watermark if not `committed`."""
    isolation = "read_committed" if committed else "read_uncommitted"
    async with consuming(bootstrap, isolation_level=isolation) as consumer:
        tp = TopicPartition(topic, partition)
        consumer.assign([tp])
        await consumer.seek_to_beginning(tp)
        end = (await consumer.end_offsets([tp]))[tp]
        found: list[ConsumerRecord] = []
        while await consumer.position(tp) < end:
            for records in (await consumer.getmany(tp, timeout_ms=100)).values():
                found += records
        return found


async def read_values(bootstrap: str, topic: str, partition: int = 0, *, committed: bool = True) -> list[bytes | None]:
    """As `read`, the values alone."""
    return [record.value for record in await read(bootstrap, topic, partition, committed=committed)]
