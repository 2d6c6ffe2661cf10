"""Commit times as a real broker writes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer

from hitl_stream.core.errors import UnreachableError, UsageError
from hitl_stream.lane.commits import CommitTimes, commit_times
from support.kafka import Topics, producing, read, within

pytestmark = pytest.mark.kafka
PAUSE_S = 0.4
LOG_APPEND = {"message.timestamp.type": "LogAppendTime"}


@pytest.fixture
def topic(topics: Topics) -> str:
    return topics({"execute": (2, LOG_APPEND)})["execute"]


@asynccontextmanager
async def transacting(bootstrap: str, name: str) -> AsyncIterator[AIOKafkaProducer]:
    async with producing(bootstrap, transactional_id=f"{name}-{time.monotonic_ns()}") as producer:
        yield producer


async def write(producer: AIOKafkaProducer, topic: str, count: int = 1) -> list[int]:
    sent = [await producer.send_and_wait(topic, b"x" * 100, partition=1) for _ in range(count)]
    return [metadata.offset for metadata in sent]


async def times(kafka: str, topic: str, start: int = 0, **options: float) -> CommitTimes:
    return await commit_times({"bootstrap_servers": kafka}, topic, 1, start, **options)


def test_a_record_counts_from_its_commit_which_may_be_long_after_its_append(kafka: str, topic: str):
    async def scenario() -> None:
        async with transacting(kafka, "slow") as producer:
            await producer.begin_transaction()
            (offset,) = await write(producer, topic)
            await asyncio.sleep(PAUSE_S)
            before_ms = time.time() * 1000
            await producer.commit_transaction()
        stretch = (await times(kafka, topic)).of(offset)
        (record,) = await read(kafka, topic, 1)
        assert stretch is not None
        assert stretch.committed
        assert stretch.at_ms is not None
        assert stretch.at_ms - record.timestamp >= PAUSE_S * 1000 * 0.9
        assert stretch.at_ms >= before_ms - 1

    within(scenario())


def test_what_is_said_to_be_committed_is_what_a_reader_of_committed_records_gets(kafka: str, topic: str):
    async def scenario() -> None:
        async with transacting(kafka, "a") as a, transacting(kafka, "b") as b, producing(kafka, acks="all") as plain:
            for round_ in range(6):
                await a.begin_transaction()
                await b.begin_transaction()
                await write(a, topic, 2)
                await write(plain, topic)
                await write(b, topic)
                await write(a, topic)
                await (a.abort_transaction() if round_ % 3 == 0 else a.commit_transaction())
                await (b.abort_transaction() if round_ % 2 else b.commit_transaction())
        everything = [record.offset for record in await read(kafka, topic, 1, committed=False)]
        committed = [record.offset for record in await read(kafka, topic, 1)]
        found = await times(kafka, topic)
        said = {offset: found.of(offset) for offset in everything}
        assert [offset for offset, one in said.items() if one is not None and one.committed] == committed
        assert len(committed) not in (0, len(everything))
        assert all(one is not None and one.at_ms is not None for one in said.values())
        settled = {stretch.at_ms for stretch in found.stretches}
        assert max(settled) <= time.time() * 1000 + 1  # type: ignore[type-var]
        # from the middle of a transaction on: the same answers
        middle = await times(kafka, topic, 1)
        assert [middle.of(offset) for offset in everything[1:]] == [said[offset] for offset in everything[1:]]

    within(scenario())


def test_an_open_transaction_has_no_time_until_it_ends(kafka: str, topic: str):
    async def scenario() -> None:
        async with transacting(kafka, "open") as producer:
            await producer.begin_transaction()
            (offset,) = await write(producer, topic)
            pending = (await times(kafka, topic, patience_s=0.1)).of(offset)
            assert pending is not None
            assert (pending.committed, pending.at_ms) == (False, None)
            waiting = asyncio.create_task(times(kafka, topic))
            await asyncio.sleep(PAUSE_S)
            assert not waiting.done()
            await producer.commit_transaction()
            ended = (await waiting).of(offset)
            assert ended is not None
            assert ended.committed

    within(scenario())


def test_an_empty_partition_has_none_and_a_missing_one_is_named(kafka: str, topic: str):
    async def scenario() -> None:
        assert (await times(kafka, topic)).stretches == []
        with pytest.raises(UsageError, match=r"no-such-topic/1"):
            await times(kafka, f"{topic}-no-such-topic")

    within(scenario())


def test_without_kafka_it_says_so(topic: str):
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        within(times("127.0.0.1:1", topic))
