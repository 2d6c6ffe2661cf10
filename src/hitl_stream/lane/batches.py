"""Working a slice batch by batch: records in, through a step, outputs and offsets out in one transaction.

A batch that control stops, or whose lease ran out, is aborted and decided again; its changes reach the state only after
a known commit. Records of followed topics go to the state as they come, and cause no output. What lies parked is
consumed in passes: from the committed offset to where it has been followed, past a high watermark taken at the start,
each record once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import TopicPartition

from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Abort, ErrorClass
from hitl_stream.lane.restore import high_watermarks, merged
from hitl_stream.lane.slice import Outdated, Slice, Work
from hitl_stream.lane.step import Moment, Output, Record, Result, State, Step
from hitl_stream.wire.dead_letter import dead_letter

IDLE_POLL_MS = 1_000
CATCH_UP_POLL_MS = 50
ENVELOPE_BYTES = 1_024
"""What Kafka's framing may add to a record."""
HEADER_BYTES = 10
"""What it may add to a header."""


def batches(step: Step[Any]) -> Callable[[Slice], Work]:
    """Return what a lane is given to work its slices with a step."""
    return lambda piece: Batches(piece, step)


class Batches:
    """The work of one open slice."""

    def __init__(self, piece: Slice, step: Step[Any]) -> None:
        self.piece = piece
        self.lane = piece.lane
        self.guard = piece.lane.guard
        self.step = step

    @property
    def state(self) -> State:
        """Return the slice's state."""
        return self.piece.state

    async def run(self) -> None:
        """Decide batches while the slice is ours and the lease holds."""
        while self.piece.ours():
            if not self.guard.may_emit():
                await self._wait_for_the_lease()
                continue
            batch = await self._next(self._patience_ms())
            if batch and not await self._decide(batch):
                continue  # it comes first again, once the lease has been looked at
            await self._timers()
            await self._pass()

    async def _wait_for_the_lease(self) -> None:
        """Pause the partition: nothing moves, nothing is lost."""
        piece, consumer = self.piece, self.lane.consumer
        consumer.pause(*piece.assigned)
        try:
            allowed = asyncio.ensure_future(self.guard.allowed())
            leaving = asyncio.ensure_future(piece.leaving.wait())
            try:
                await asyncio.wait((allowed, leaving), return_when=asyncio.FIRST_COMPLETED)
                if allowed.done():
                    allowed.result()
            finally:
                allowed.cancel()
                leaving.cancel()
        finally:
            if piece.ours():
                consumer.resume(*piece.assigned)

    async def _next(self, patience_ms: int, only: Sequence[TopicPartition] = ()) -> list[Record]:
        """Return the next batch of the inputs, merged by (append time, topic, offset) where it comes from several.

        What is followed is handed to the state on the way. `only` these partitions are returned as they are.
        """
        lane, piece = self.lane, self.piece
        wanted = only or self._wanted()
        if not wanted:
            await self._rest(patience_ms)
            return []
        fetching = asyncio.ensure_future(
            lane.consumer.getmany(*wanted, timeout_ms=patience_ms, max_records=lane.spec.batch_records_max)
        )
        leaving = asyncio.ensure_future(piece.leaving.wait())
        try:
            await asyncio.wait((fetching, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not fetching.done():
                return []
            got = fetching.result()
        finally:
            # It takes records out of the buffer in its last step only: what it is cancelled in has taken none.
            fetching.cancel()
            leaving.cancel()
        if not only:
            self._follow(got)
        if len(got) > 1:
            return list(merged(got.values()))
        return [record for batch in got.values() for record in batch]

    def _wanted(self) -> Sequence[TopicPartition]:
        """Return what is fetched: without room in the state everything but the inputs, which wait as they lie."""
        piece = self.piece
        full = not _call(piece, self.state.room)
        if full != piece.resting:
            piece.resting = full
            self.lane.log.warning("no room: inputs wait" if full else "room again", partition=piece.number)
        return [tp for tp in piece.assigned if tp not in piece.inputs] if full else piece.assigned

    async def _rest(self, patience_ms: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_ms / 1000):
                await self.piece.leaving.wait()

    def _follow(self, got: dict[TopicPartition, Any]) -> None:
        """Hand over what is followed, and take it out of the batch."""
        for tp in [tp for tp in got if tp not in self.piece.inputs]:
            _call(self.piece, self.state.follow, got.pop(tp))

    def _patience_ms(self) -> int:
        due = self.state.next_timer_ms()
        if due is None:
            return IDLE_POLL_MS
        return max(1, min(IDLE_POLL_MS, due - self.guard.now_ms()))

    def _moment(self) -> Moment:
        return Moment(self.guard.now_ms(), self.guard.epoch)

    async def _decide(self, batch: Sequence[Record]) -> bool:
        """Decide a batch of the inputs; return whether it is committed."""
        if _call(self.piece, self.state.outdated):
            raise Outdated
        newest = batch[-1].timestamp
        self.guard.observe(newest)
        moment = self._moment()
        started = time.perf_counter()
        result: Result = _call(self.piece, self.step, batch, self.state, moment)
        if not await self._commit(result, batch, moment, started):
            return False
        self.piece.last_append_ms = newest
        return True

    async def _commit(self, result: Result, batch: Sequence[Record], moment: Moment, started: float) -> bool:
        """Commit what was decided of a batch since `started`; where control stops it, seek back and return False."""
        piece, guard = self.piece, self.guard
        outputs = fitting(piece, result.outputs, batch)
        why: list[Abort] = []

        def stopped() -> bool:
            if not guard.may_emit():
                why.append(Abort.LEASE)
            elif guard.epoch != moment.epoch and guard.stops(moment.epoch):
                why.append(Abort.EPOCH)
            return bool(why)

        decided = time.perf_counter()
        piece.open_epoch = moment.epoch
        committed = await piece.transactions.commit(outputs, _after(batch), stopped)
        # Not in a `finally`: after an error the transaction may still be open, until the slice has closed.
        piece.open_epoch = None
        if guard.epoch != moment.epoch:
            guard.stirred()
        if not committed:
            self.lane.observer.aborted(piece.number, why[0])
            for tp, first in _first(batch).items():
                self.lane.consumer.seek(tp, first)
            return False
        _call(piece, self.state.apply, result.changes)
        self._tell(result, batch, decided - started, time.perf_counter() - decided)
        return True

    def _tell(self, result: Result, batch: Sequence[Record], decide_s: float, commit_s: float) -> None:
        # How long a record lay parked is not how long it took to decide.
        inputs, now = self.lane.spec.inputs, self.guard.now_ms()
        ages = [now - record.timestamp for record in batch] if batch and batch[0].topic in inputs else []
        self.lane.observer.committed(self.piece.number, len(batch), decide_s, commit_s, ages, result.tally)

    async def _timers(self) -> None:
        """Run what is due at T, once the inputs were read to a high watermark taken at or after T."""
        due = self.state.next_timer_ms()
        now = self.guard.now_ms()
        if due is None or now < due:
            return
        if not await self._read_to(await self._watermarks(self.piece.inputs)):
            return
        moment = Moment(now, self.guard.epoch)
        started = time.perf_counter()
        result: Result = _call(self.piece, self.step.on_timer, self.state, moment)
        if result.outputs or result.changes is not None:
            await self._commit(result, [], moment, started)

    async def _pass(self) -> None:
        """Consume what lies parked, if the state wants to; what is not free goes to the end again.

        A pass is not remembered: after a crash, or an abort, the next one does the rest.
        """
        piece, consumer, parked = self.piece, self.lane.consumer, self.piece.parked
        if parked is None or not piece.ours() or not _call(piece, self.state.wants_pass, self._moment()):
            return
        # The state must know of everything that the pass consumes, up to what lies there now. Somebody's open
        # transaction may hide some of it; the inputs do not wait for that.
        if not await self._read_to(await self._watermarks([parked])):
            return
        epoch, end = self.guard.epoch, await consumer.position(parked)
        consumer.seek(parked, piece.parked_from)
        whole = await self._pass_to(parked, end)
        if piece.ours():
            consumer.seek(parked, end)
        if whole:
            _call(piece, self.state.passed, epoch)

    async def _pass_to(self, parked: TopicPartition, end: int) -> bool:
        """Consume what lies parked before `end`; return whether nothing is left there.

        `end` is where following goes on, and not only the watermark: the state takes what it hears of later for new.
        """
        while await self.lane.consumer.position(parked) < end:
            if not self.piece.ours() or not self.guard.may_emit():
                return False
            found = await self._next(CATCH_UP_POLL_MS, only=[parked])
            batch = [record for record in found if record.offset < end]
            if batch and not await self._again(batch):
                return False
        return True

    async def _again(self, batch: Sequence[Record]) -> bool:
        """Decide parked records; return whether all of them are committed."""
        if _call(self.piece, self.state.outdated):
            raise Outdated
        moment = self._moment()
        started = time.perf_counter()
        result: Result = _call(self.piece, self.step.again, batch, self.state, moment)
        taken = batch if result.taken is None else batch[: result.taken]
        if taken:
            if not await self._commit(result, taken, moment, started):
                return False
            self.piece.parked_from = taken[-1].offset + 1
        return len(taken) == len(batch)

    async def _read_to(self, watermarks: Mapping[TopicPartition, int]) -> bool:
        """Go on until everything below these watermarks was read; return False if the slice or the lease is lost."""
        while not await self._reached(watermarks):
            if not self.piece.ours() or not self.guard.may_emit():
                return False
            batch = await self._next(CATCH_UP_POLL_MS)
            if batch:
                await self._decide(batch)
        return self.piece.ours()

    async def _watermarks(self, of: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return await high_watermarks(self.lane.spec.client, of)

    async def _reached(self, watermarks: Mapping[TopicPartition, int]) -> bool:
        for tp, end in watermarks.items():
            if await self.lane.consumer.position(tp) < end:
                return False
        return True


def _after(batch: Sequence[Record]) -> dict[TopicPartition, int]:
    """Return the offset after the batch's last record of each topic."""
    ends: dict[str, int] = {}
    for record in batch:
        if record.offset >= ends.get(record.topic, 0):
            ends[record.topic] = record.offset + 1
    return {TopicPartition(topic, batch[0].partition): end for topic, end in ends.items()}


def _first(batch: Sequence[Record]) -> dict[TopicPartition, int]:
    """Return the offset of the batch's first record of each topic."""
    starts: dict[str, int] = {}
    for record in batch:
        starts[record.topic] = min(record.offset, starts.get(record.topic, record.offset))
    return {TopicPartition(topic, batch[0].partition): start for topic, start in starts.items()}


def _call(piece: Slice, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the step or its state. What it raises is a bug, also a TimeoutError, which Kafka raises too."""
    try:
        return function(*arguments)
    except Exception as error:
        name = getattr(function, "__qualname__", type(function).__qualname__)
        raise BrokenError(f"partition {piece.number}: {name} raised {type(error).__name__}: {error}") from error


def fitting(piece: Slice, outputs: Sequence[Output], batch: Sequence[Record]) -> Sequence[Output]:
    """Replace the outputs of each record of which a topic would refuse one with a single dead letter of it."""
    limits = piece.lane.spec.limits
    refused: dict[int, Output] = {}
    for output in outputs:
        limit = limits.get(output.topic)
        if limit is not None and _size(output) > limit:
            if output.index < 0:
                raise BrokenError(f"an output of {_size(output)} bytes to {output.topic} has no record behind it")
            refused.setdefault(output.index, output)
    if not refused:
        return outputs
    kept: list[Output] = []
    for output in outputs:
        if output.index not in refused:
            kept.append(output)
        elif output is refused[output.index]:
            kept.append(_too_large(piece, output, batch[output.index]))
    return kept


def _too_large(piece: Slice, output: Output, record: Record) -> Output:
    spec = piece.lane.spec
    limit = spec.limits[output.topic]
    why = f"its output of {_size(output)} bytes does not fit into {output.topic} ({limit})"
    room = spec.limits.get(spec.dlq, limit) - 4 * ENVELOPE_BYTES - len(record.key or b"")
    value, headers = dead_letter(record, ErrorClass.TOO_LARGE, why, spec.instance, room)
    return Output(spec.dlq, record.partition, record.key, value, headers, output.index)


def _size(output: Output) -> int:
    """Return how long the record can become on the wire, at most."""
    size = ENVELOPE_BYTES + len(output.key or b"") + len(output.value or b"")
    for name, content in output.headers:
        size += HEADER_BYTES + (len(name) if name.isascii() else len(name.encode())) + len(content)
    return size
