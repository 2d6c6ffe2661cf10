"""One partition's transactional producer: a batch's outputs and offsets, all or nothing.

The order of a commit:
1. begin the transaction;
2. write every output, and await *every* delivery: a batch whose future nobody awaits can be lost under a good commit;
   where the outputs' own offsets belong into the log too, write what `then` says of them in the same way;
3. add the consumed offsets;
4. ask the control view again, and abort if something engaged meanwhile covers the batch;
5. commit.
All under one time limit. An exception after step 5 began leaves the outcome unknown: the caller drops this producer
and opens the partition anew, whose first act fences whatever is left of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation

from hitl_stream.lane import tidy as _tidy  # noqa: F401  imported for what it does to aiokafka
from hitl_stream.lane.clients import stop_quietly
from hitl_stream.lane.step import Output

Offsets = Mapping[TopicPartition, int]
COMMIT_TIMEOUT_S = 15.0
START_TIMEOUT_S = 30.0
TRANSACTION_TIMEOUT_MS = 10_000
BATCH_BYTES = 1024 * 1024
"""One record batch on the wire; the topics' limit is above it."""
RETRY_BACKOFF_MS = 5
"""Paid inside a transaction while the last commit's markers are written: 100 ms made p99 212 ms, 5 ms makes it 56."""


class Transactions:
    """A started transactional producer of one partition."""

    def __init__(self, producer: AIOKafkaProducer, group: str) -> None:
        self._producer = producer
        self._group = group
        self.last_offsets: dict[TopicPartition, int] = {}
        """The highest offset that the newest transaction wrote to each partition; it counts once that is committed."""
        self._counts: dict[asyncio.Future[Any], int] = {}
        """How many records stand in each batch on its way."""

    @classmethod
    async def start(cls, client: Mapping[str, Any], transactional_id: str, group: str) -> Transactions:
        """Start a new producer. This fences every older one of the same id and settles its open transaction."""
        producer = AIOKafkaProducer(
            **client,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            max_batch_size=BATCH_BYTES,
            max_request_size=8 * 1024 * 1024,
            linger_ms=0,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await producer.start()
        except BaseException:
            await drop_producer(producer)
            raise
        return cls(producer, group)

    async def commit(
        self,
        outputs: Sequence[Output],
        offsets: Offsets,
        stopped: Callable[[], bool],
        then: Callable[[Offsets], Sequence[Output]] | None = None,
    ) -> bool:
        """Write a batch and commit it; return False if it was aborted because `stopped` said so.

        `then` is given `last_offsets` of `outputs`, and says what else is written in this transaction.

        Raises `ProducerFenced` when a newer producer of this id was started; any other `KafkaError` or `TimeoutError`
        leaves the outcome unknown.
        """
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                return await self._commit(outputs, offsets, stopped, then)
        except (IllegalOperation, AssertionError):
            # aiokafka's words for a call that comes after the background sender has failed: say what it failed of.
            reason = self._failure()
            if reason is None:
                raise
            raise reason from None

    async def _commit(
        self,
        outputs: Sequence[Output],
        offsets: Offsets,
        stopped: Callable[[], bool],
        then: Callable[[Offsets], Sequence[Output]] | None,
    ) -> bool:
        producer = self._producer
        self.last_offsets = {}
        await producer.begin_transaction()
        await self._deliver(outputs)
        if then is not None:
            await self._deliver(then(self.last_offsets))
        if offsets:  # a timer's batch consumes nothing
            await producer.send_offsets_to_transaction(dict(offsets), self._group)
        if stopped():
            await producer.abort_transaction()
            return False
        await producer.commit_transaction()
        return True

    def _failure(self) -> BaseException | None:
        """Return what the background sender has failed of, if it has."""
        waiter = self._producer._txn_manager._transaction_waiter
        if waiter is None or not waiter.done() or waiter.cancelled():
            return None
        failure: BaseException | None = waiter.exception()
        return failure

    async def _deliver(self, outputs: Sequence[Output]) -> None:
        """Write outputs, await every delivery, and note where they came to stand."""
        self._counts = {}
        deliveries = await self._write(outputs)
        if deliveries:
            await asyncio.gather(*deliveries)
        for delivery in deliveries:
            first = delivery.result()
            last = first.offset + self._counts[delivery] - 1
            self.last_offsets[first.topic_partition] = max(self.last_offsets.get(first.topic_partition, -1), last)

    async def _write(self, outputs: Sequence[Output]) -> list[asyncio.Future[Any]]:
        """Hand the outputs to the producer, a record batch at a time, in their order per partition."""
        producer = self._producer
        deliveries: list[asyncio.Future[Any]] = []
        places: dict[tuple[str, int], list[Output]] = {}
        for output in outputs:
            place = (output.topic, output.partition)
            if place in places:
                places[place].append(output)
            else:
                places[place] = [output]
        for (topic, partition), group in places.items():
            batch = producer.create_batch()
            append = batch.append
            for output in group:
                if append(key=output.key, value=output.value, timestamp=None, headers=output.headers) is None:
                    deliveries.append(await self._send(batch, topic, partition))
                    batch = producer.create_batch()
                    append = batch.append
                    if append(key=output.key, value=output.value, timestamp=None, headers=output.headers) is None:
                        raise AssertionError(f"a record for {topic} does not fit into an empty batch")
            deliveries.append(await self._send(batch, topic, partition))
        return deliveries

    async def _send(self, batch: Any, topic: str, partition: int) -> asyncio.Future[Any]:
        batch.close()
        delivery: asyncio.Future[Any] = await self._producer.send_batch(batch, topic, partition=partition)
        self._counts[delivery] = batch.record_count()
        return delivery

    async def drop(self) -> None:
        """Stop under a limit. Whoever awaited this producer must have been cancelled before."""
        await drop_producer(self._producer)


async def drop_producer(producer: AIOKafkaProducer) -> None:
    """Stop a producer under a limit, whatever state it is in."""
    # Whatever a dying producer still says is settled by the next one's start, so nothing it raises matters here.
    await stop_quietly(producer)
    with contextlib.suppress(Exception):
        await producer.client.close()
    _reap(producer)
    _hush(producer)


def _reap(producer: AIOKafkaProducer) -> None:
    """Cancel what a `stop` that did not end in time leaves behind: its sender would try for ever, on no connection."""
    owners = (producer._sender, producer._message_accumulator)
    for task in asyncio.all_tasks():
        frame = getattr(task.get_coro(), "cr_frame", None)
        if frame is not None and any(frame.f_locals.get("self") is owner for owner in owners):
            task.cancel()


def _hush(producer: AIOKafkaProducer) -> None:
    """Take up the exceptions that nobody awaited: fencing leaves some behind, each a log line when it is collected."""
    accumulator: Any = producer._message_accumulator
    batches = [batch for group in (*accumulator._batches.values(), accumulator._pending_batches) for batch in group]
    futures = [future for batch in batches for future in (batch.future, batch._drain_waiter)]
    for future in (*futures, producer._txn_manager._transaction_waiter):
        if future is not None and future.done() and not future.cancelled():
            future.exception()
