"""What the lane stands on, asked of every broker we start: the same contract for Apache Kafka and noida-db."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from aiokafka import TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import ProducerFenced

from hitl_stream.dev.broker import HOST, Kind
from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  for what it does to aiokafka
from hitl_stream.lane.stable_offsets import stable_offsets
from support.kafka import (
    POLL_SECONDS,
    Topics,
    consuming,
    create_topics,
    producing,
    read,
    read_values,
    require,
    running,
    send,
    within,
)

SESSION_SECONDS = 30
APPEND_TIME = {"message.timestamp.type": "LogAppendTime"}
GONE_SECONDS_MAX = 10.0
KINDS = [pytest.param("jar", marks=pytest.mark.kafka), "noida"]


@pytest.fixture(params=[pytest.param("kafka", marks=pytest.mark.kafka), "noida"])
def bootstrap(request: pytest.FixtureRequest) -> str:
    """Each broker in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def topics(bootstrap: str) -> Topics:
    return Topics(bootstrap)


# --- every broker -----------------------------------------------------------------------------------------------------


def test_what_was_produced_is_consumed_in_order_with_its_key_and_headers(bootstrap: str, topics: Topics):
    topic = topics({"t": 4})["t"]

    async def scenario():
        async with producing(bootstrap, acks="all") as producer:
            for n in range(100):
                await producer.send(topic, b"%d" % n, key=b"k", headers=[("trace", b"%d" % n)], partition=2)
        return await read(bootstrap, topic, 2)

    records = within(scenario())
    assert [(r.offset, r.key, r.value, r.headers) for r in records] == [
        (n, b"k", b"%d" % n, (("trace", b"%d" % n),)) for n in range(100)
    ]


def test_what_is_committed_after_an_abort_is_read_from_wherever_one_starts(bootstrap: str, topics: Topics):
    topic = topics({"t": 1})["t"]
    tp = TopicPartition(topic, 0)

    async def scenario():
        async with producing(bootstrap, transactional_id=topic) as producer:
            for value in (b"a", b"b", b"c", b"d"):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, value, partition=0)
                await (producer.abort_transaction() if value == b"b" else producer.commit_transaction())
        found = []
        for start in range(6):
            async with consuming(bootstrap, isolation_level="read_committed") as consumer:
                consumer.assign([tp])
                consumer.seek(tp, start)
                got: list[bytes] = []
                while await consumer.position(tp) < 7:
                    got += [r.value for r in (await consumer.getmany(tp, timeout_ms=200)).get(tp, [])]
                found.append(b"".join(got))
        return found

    assert within(scenario()) == [b"acd", b"cd", b"cd", b"cd", b"cd", b"d"]


def test_a_transaction_is_visible_once_committed_and_not_before(bootstrap: str, topics: Topics):
    topic = topics({"t": 1})["t"]

    async def scenario():
        async with producing(bootstrap, transactional_id=topic) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"paid", partition=0)
            before = await read_values(bootstrap, topic), await read_values(bootstrap, topic, committed=False)
            await producer.commit_transaction()
        return before, await _first_values(bootstrap, topic, 1)

    assert within(scenario()) == (([], [b"paid"]), [b"paid"])


def test_what_was_aborted_is_filtered_under_read_committed(bootstrap: str, topics: Topics):
    topic = topics({"t": 1})["t"]

    async def scenario():
        async with producing(bootstrap, transactional_id=topic) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"aborted", partition=0)
            await producer.abort_transaction()
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"kept", partition=0)
            await producer.commit_transaction()
        committed = await _first_values(bootstrap, topic, 1)
        return committed, await read_values(bootstrap, topic, committed=False)

    assert within(scenario()) == ([b"kept"], [b"aborted", b"kept"])


def test_offsets_sent_to_a_transaction_count_once_it_is_committed(bootstrap: str, topics: Topics):
    topic = topics({"t": 1})["t"]
    tp = TopicPartition(topic, 0)

    async def scenario():
        async with producing(bootstrap, transactional_id=topic) as producer:
            await producer.begin_transaction()
            await producer.send_offsets_to_transaction({tp: 7}, topic)
            await producer.commit_transaction()
        async with consuming(bootstrap, group_id=topic) as consumer:
            return await stable_offsets(consumer, topic, [tp], SESSION_SECONDS)

    assert within(scenario()) == {tp: 7}


def test_a_newer_producer_fences_the_older_one_with_its_transactional_id(bootstrap: str, topics: Topics):
    topic = topics({"t": 1})["t"]

    async def scenario():
        async with producing(bootstrap, transactional_id=topic) as old:
            await old.begin_transaction()
            await old.send_and_wait(topic, b"zombie", partition=0)
            async with producing(bootstrap, transactional_id=topic) as new:
                with pytest.raises(ProducerFenced):
                    await old.commit_transaction()
                await new.begin_transaction()
                await new.send_and_wait(topic, b"owner", partition=0)
                await new.commit_transaction()
        return await _first_values(bootstrap, topic, 1)

    assert within(scenario()) == [b"owner"]


def test_a_log_append_time_topic_ignores_the_clock_of_the_producer(bootstrap: str, topics: Topics):
    topic = topics({"t": (1, APPEND_TIME)})["t"]

    async def scenario():
        async with producing(bootstrap) as producer:
            told = await producer.send_and_wait(topic, b"1970", partition=0, timestamp_ms=1_000)
        return told, await read(bootstrap, topic)

    told, (record,) = within(scenario())
    assert (record.timestamp_type, record.timestamp) == (1, told.timestamp)
    assert record.timestamp > 1_700_000_000_000


def test_offsets_for_times_finds_the_first_record_appended_at_or_after(bootstrap: str, topics: Topics):
    topic = topics({"t": (1, APPEND_TIME)})["t"]
    tp = TopicPartition(topic, 0)

    async def scenario():
        async with producing(bootstrap) as producer:
            first = last = await producer.send_and_wait(topic, b"", partition=0)
            while last.timestamp == first.timestamp:
                last = await producer.send_and_wait(topic, b"", partition=0)
        async with consuming(bootstrap) as consumer:
            times = (first.timestamp, first.timestamp + 1, last.timestamp, last.timestamp + 1)
            found = [(await consumer.offsets_for_times({tp: t}))[tp] for t in times]
        return last.offset, [entry and entry.offset for entry in found]

    last, found = within(scenario())
    assert found == [0, last, last, None]


def test_a_static_member_gets_both_topics_by_range_and_gets_them_back_at_once(bootstrap: str, topics: Topics):
    """A restart inside the session must not cost the session's length."""
    names = topics({"a": 4, "b": 4}).values()
    member = {
        "group_id": topics.prefix,
        "group_instance_id": "host-router-0",
        "session_timeout_ms": SESSION_SECONDS * 1_000,
        "partition_assignment_strategy": (RangePartitionAssignor,),
    }

    async def assigned():
        async with consuming(bootstrap, *names, **member) as consumer:
            while not (found := consumer.assignment()):
                await consumer.getmany(timeout_ms=10)
            return found

    async def scenario():
        first = await assigned()
        async with asyncio.timeout(SESSION_SECONDS / 3):
            return first, await assigned()

    everything = {TopicPartition(name, n) for name in names for n in range(4)}
    assert within(scenario()) == (everything, everything)


def test_a_broker_starts_inside_a_running_event_loop_awaited_or_not():
    choice = require("noida")

    async def scenario():
        async with choice.broker() as awaited:
            with choice.broker() as blocking:
                return awaited.bootstrap != blocking.bootstrap

    assert within(scenario())


@pytest.mark.parametrize("kind", KINDS)
def test_a_broker_does_not_outlive_the_process_that_started_it(kind: Kind):
    with _started_from_a_shell(kind) as (process, bootstrap):
        process.kill()
        process.wait()
        deadline = time.monotonic() + GONE_SECONDS_MAX
        while _answers(bootstrap) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        assert not _answers(bootstrap)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_broker_in_the_foreground_ends_when_told_to(kind: Kind, told: signal.Signals):
    with _started_from_a_shell(kind) as (process, bootstrap):
        process.send_signal(told)
        assert process.wait(GONE_SECONDS_MAX) == 0
        assert not _answers(bootstrap)


# --- Apache Kafka -----------------------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_what_was_acknowledged_survives_a_sigkill():
    values = [b"%d" % n for n in range(1_000)]
    with running("jar") as broker:
        within(create_topics(broker.bootstrap, {"t": 1}))
        within(send(broker.bootstrap, "t", values))
        before = broker.bootstrap
        broker.kill()
        broker.restart()
        assert broker.bootstrap == before
        assert within(read_values(broker.bootstrap, "t")) == values


@pytest.mark.kafka
def test_a_paused_broker_answers_nobody_until_it_is_resumed():
    with running("jar") as broker:
        within(create_topics(broker.bootstrap, {"t": 1}))

        async def scenario():
            async with producing(broker.bootstrap) as producer:
                await producer.send_and_wait("t", b"", partition=0)
                broker.pause()
                sent = await producer.send("t", b"patience", partition=0)
                silent = not (await asyncio.wait([sent], timeout=0.5))[0]
                broker.resume()
                return silent, (await sent).offset

        assert within(scenario()) == (True, 1)


@pytest.mark.kafka
def test_a_stable_offset_is_refused_while_a_transaction_is_pending(kafka: str):
    """`committed()` answers the old offset meanwhile, from which a lane would decide again what is being committed."""
    topics = Topics(kafka)
    topic = topics({"t": 1})["t"]
    tp = TopicPartition(topic, 0)

    async def scenario():
        async with consuming(kafka, group_id=topic) as consumer, producing(kafka, transactional_id=topic) as producer:
            consumer.assign([tp])
            await consumer.commit({tp: 5})
            await producer.begin_transaction()
            await producer.send_offsets_to_transaction({tp: 9}, topic)
            committed = await consumer.committed(tp)
            with pytest.raises(TimeoutError):
                await stable_offsets(consumer, topic, [tp], 0.5)
            await producer.commit_transaction()
            return committed, await stable_offsets(consumer, topic, [tp], SESSION_SECONDS)

    assert within(scenario()) == (5, {tp: 9})


# --- helpers ----------------------------------------------------------------------------------------------------------


async def _first_values(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """Read until `count` are there: a commit returns before its markers are written."""
    while len(values := await read_values(bootstrap, topic)) < count:  # noqa: ASYNC110  a broker sets no event
        await asyncio.sleep(POLL_SECONDS)
    return values


@contextmanager
def _started_from_a_shell(kind: Kind) -> Iterator[tuple[subprocess.Popen[str], str]]:
    require(kind)
    command = [sys.executable, "-m", "hitl_stream.dev.broker", "run", "--kind", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def _answers(bootstrap: str) -> bool:
    host, port = bootstrap.split(":")
    assert host == HOST

    async def connect() -> bool:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return False
        writer.close()
        return True

    return asyncio.run(connect())
