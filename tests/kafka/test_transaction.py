"""A partition's transactions on a real Kafka: where their records come to stand, and what is written of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from aiokafka import TopicPartition

from hitl_stream.lane.step import Output
from hitl_stream.lane.transaction import Transactions
from support.kafka import Topics, create_topics, read, send, within

pytestmark = pytest.mark.kafka


def never() -> bool:
    return False


def test_a_transaction_knows_the_highest_offset_that_it_wrote_to_each_partition_and_can_write_it_down(topics: Topics):
    async def scenario() -> None:
        out, notes = f"{topics.prefix}out", f"{topics.prefix}notes"
        await create_topics(topics.bootstrap, {out: 2, notes: 1})
        await send(topics.bootstrap, out, [b"before"] * 4)
        producer = await Transactions.start({"bootstrap_servers": topics.bootstrap}, topics.prefix, topics.prefix)
        seen: list[dict[TopicPartition, int]] = []

        def then(written: Mapping[TopicPartition, int]) -> Sequence[Output]:
            seen.append(dict(written))
            return [Output(notes, 0, None, b"%d" % written[TopicPartition(out, 0)])]

        try:
            # Several batches on the wire: each is full after four of these.
            large = [Output(out, 0, None, bytes(250_000)) for _ in range(11)]
            assert await producer.commit([*large, Output(out, 1, None, b"x")], {}, never, then)
            assert seen == [{TopicPartition(out, 0): 14, TopicPartition(out, 1): 0}]
            assert producer.last_offsets == {**seen[0], TopicPartition(notes, 0): 0}
            assert await producer.commit([Output(out, 0, None, b"y")], {}, never)
            assert producer.last_offsets == {TopicPartition(out, 0): 16}, "a marker lies between"
        finally:
            await producer.drop()
        assert [record.offset for record in await read(topics.bootstrap, out)] == [*range(15), 16]
        assert [record.value for record in await read(topics.bootstrap, notes)] == [b"14"]

    within(scenario())


def test_what_is_written_of_the_offsets_is_gone_with_the_transaction(topics: Topics):
    async def scenario() -> None:
        out = f"{topics.prefix}out"
        await create_topics(topics.bootstrap, {out: 1})
        producer = await Transactions.start({"bootstrap_servers": topics.bootstrap}, topics.prefix, topics.prefix)
        try:
            written = [Output(out, 0, None, b"x")]
            assert not await producer.commit(written, {}, lambda: True, lambda _: [Output(out, 0, None, b"y")])
            assert await producer.commit(written, {}, never)
        finally:
            await producer.drop()
        assert [record.value for record in await read(topics.bootstrap, out)] == [b"x"]

    within(scenario())
