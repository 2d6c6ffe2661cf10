"""Working a slice record by record toward something that no transaction of ours can reach.

A call outside cannot be taken back, and its answer can be lost. So:
- The committed offset is the one below which every record is finished; ends above it stand in the state.
- A record is taken up only within `WINDOW` offsets above the committed offset. Whoever opens the partition next thereby
  knows what may have been called before: what lies within that window and is not finished by the restored state. It is
  *doubtful*, and its errand asks what became of it before it does anything else.
- Records that touch the same thing go one after another, and the next one begins only when the end of the one before is
  *committed*. Otherwise a crash could let the first run after the second.
- A mutating call begins only in the very turn in which the guard allows it, and is known as open from that turn on.
- Ends are facts, not emissions: they are committed whatever was engaged meanwhile, also when the lease is gone.
- One transaction holds everything that ended while the one before was under way.
- When an epoch is applied, each open call is judged again. One that is still right counts as begun under the new epoch,
  one that must not go on is cut after `HALT_CUT_S`, and the others stay what the acks tell: open, and old.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, Protocol, TypeVar, cast

from aiokafka import TopicPartition

from hitl_stream.core.errors import BrokenError
from hitl_stream.core.parking import Keys
from hitl_stream.core.turns import Turns
from hitl_stream.lane.batches import fitting
from hitl_stream.lane.slice import Slice, Work
from hitl_stream.lane.step import Output, Record, State
from hitl_stream.lane.transaction import Offsets

WINDOW = 256
"""Offsets above the committed one within which calls may be open: what a successor must ask about, at most."""
CALL_S_MAX = 10.0
"""A mutating call without an answer for so long is given up, and asked about."""
CALLS_MAX = 64
"""Calls that one process has open at once."""
HALT_CUT_S = 0.5
"""What HALT leaves to an open call in its scope."""
WATCH_S = 0.02
"""How often the epoch is looked at while a call is open."""
LEAVE_S = 0.7
"""How long a slice that leaves waits for its open calls: less than the lane's grace, so that ends can be committed."""
IDLE_POLL_MS = 1_000

T = TypeVar("T")


class Standing(Enum):
    """What a newer epoch means for a call that is open."""

    RIGHT = auto()
    """It would be begun today too."""
    OLD = auto()
    """It would not be begun any more, and may end by itself."""
    WRONG = auto()
    """It must not go on."""


class NotBegun(Enum):
    """Why there is no answer: nothing was called."""

    NO_LEASE = auto()


class Cut(Enum):
    """Why there is no answer: the call was cut off, and nobody knows what became of it."""

    HALTED = auto()
    TOO_LONG = auto()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of one record: what is written of it, what the state learns of it, and what is counted."""

    outputs: Sequence[Output]
    change: Any = None
    tally: Any = None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a commit means for the state: the changes of its records, where its outputs stand, and what lies behind."""

    changes: Sequence[Any]
    written: Mapping[tuple[str, int], int]
    """The highest offset written to each topic and partition."""
    below: int
    """Every record below this offset is finished."""
    now_ms: int
    partition: int


class Errand(Protocol):
    """One record on its way, as the role sees it."""

    keys: Keys
    """What it touches."""

    async def run(self, line: Line) -> Finished:
        """Bring the record to its end. What this raises is a bug."""

    def standing(self, epoch: int) -> Standing:
        """Say what commands after `epoch` mean for its open call."""


class CallState(State, Protocol):
    """A state that knows which records are finished."""

    def finished(self, offset: int) -> bool:
        """Say whether the record at this offset had its end before the partition was opened."""

    def room(self) -> bool:
        """Say whether another record can be remembered."""

    def overdue(self, now_ms: int) -> bool:
        """Say whether it holds what need not be remembered any more; a commit takes some of that out of it."""

    def closing(self, settled: Settled) -> Sequence[Output]:
        """Return what else the same transaction writes, now that it is known where its outputs stand."""


class Caller(Protocol):
    """The role: it knows actions and the platform, and nothing about Kafka."""

    def errand(self, record: Record, state: Any) -> Errand:
        """Read a record."""

    def merged(self, tallies: Sequence[Any]) -> Any:
        """Return one tally for what one commit holds."""


def calls(caller: Caller, slots: asyncio.Semaphore, call_s_max: float = CALL_S_MAX) -> Callable[[Slice], Work]:
    """Return what a lane is given to work its slices call by call; `slots` limits the calls of the whole process."""
    return lambda piece: Calls(piece, caller, slots, call_s_max)


@dataclass(eq=False, slots=True)
class _Call:
    """A mutating call that is open."""

    errand: Errand
    epoch: int
    task: asyncio.Task[Any]
    cutting: asyncio.TimerHandle | None = None
    cut: bool = False

    def stop(self) -> None:
        self.cut = True
        self.task.cancel()


@dataclass(eq=False, slots=True)
class _Job:
    """A record that was taken up, until its end is committed."""

    record: Record
    free: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    end: Finished = field(default_factory=lambda: Finished(()))


class Line:
    """What an errand may do through the slice that it belongs to."""

    def __init__(self, work: Calls, errand: Errand, doubtful: bool) -> None:
        self._work = work
        self._errand = errand
        self.guard = work.guard
        self.slots = work.slots
        self.doubtful = doubtful
        """A process that is gone may have called for this record."""
        self.opened_at = work.opened_at
        """When the slice was opened, by the loop's clock: no predecessor began anything much later."""

    async def allowed(self) -> None:
        """Return once the lease holds and the slice is ours."""
        await self._work.still_ours()
        await self.guard.allowed()

    async def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T | NotBegun | Cut:
        """Make a mutating call and return its answer, or why there is none.

        Nothing is awaited between the caller's own last look and the guard's answer here. Raises what the call raises.
        """
        return await self._work.call(self._errand, make)


class Calls:
    """The work of one open slice."""

    def __init__(self, piece: Slice, caller: Caller, slots: asyncio.Semaphore, call_s_max: float) -> None:
        self.piece = piece
        self.lane = piece.lane
        self.guard = piece.lane.guard
        self.caller = caller
        self.slots = slots
        self._call_s_max = call_s_max
        (self._input,) = piece.inputs
        self._below = 0
        """Every record below this offset is finished, and that is committed."""
        self._taken = 0
        """The offset after the newest record that was taken up."""
        self._doubtful_below = 0
        self._fetched: deque[Record] = deque()
        self._jobs: dict[int, _Job] = {}
        """By offset, lowest first."""
        self._turns = Turns()
        self._ended: list[_Job] = []
        self._something_ended = asyncio.Event()
        self._committing = False
        self._moved = asyncio.Event()
        self._open: set[_Call] = set()
        self._calling = asyncio.Event()
        self._judged = self.guard.epoch
        self.opened_at = asyncio.get_running_loop().time()
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def state(self) -> CallState:
        """Return the slice's state."""
        return cast(CallState, self.piece.state)

    async def run(self) -> None:
        """Take records up and commit their ends while the slice is ours."""
        self._below = self._taken = await self.lane.consumer.position(self._input)
        self._doubtful_below = self._below + WINDOW
        parts = [asyncio.ensure_future(part) for part in (self._take(), self._commit_ends(), self._watch())]
        try:
            await asyncio.wait([*parts, self._bug], return_when=asyncio.FIRST_COMPLETED)
            for part in (*parts, self._bug):
                if part.done():
                    part.result()
            await self._leave(parts)
        finally:
            await self._end(parts)

    async def _leave(self, parts: Sequence[asyncio.Future[None]]) -> None:
        """Give what is open a moment, so that its end is known and not only doubted."""
        tasks = [call.task for call in self._open]
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVE_S)
            await asyncio.sleep(0)  # their errands take the answers up
        while (self._ended or self._committing) and not any(part.done() for part in parts[1:]):
            self._moved.clear()
            await self._moved.wait()

    async def _end(self, parts: Sequence[asyncio.Future[None]]) -> None:
        tasks: list[asyncio.Future[None]] = [*parts, *(job.task for job in self._jobs.values() if job.task is not None)]
        for task in tasks:
            task.cancel()
        if not self._bug.cancel():
            self._bug.exception()  # heard, whatever else is raised
        # Whatever they still raise has been raised by one of them already, or is that they were cancelled.
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- taking records up --------------------------------------------------------------------------------------------

    async def _take(self) -> None:
        piece = self.piece
        while piece.ours():
            if self.state.overdue(self.guard.now_ms()):
                self._something_ended.set()
            while self._fetched and self._fetched[0].offset < self._below + WINDOW and self.state.room():
                self._start(self._fetched.popleft())
            if self._fetched:
                self._pass_over(self._fetched[0].offset)
                await self._rest()
            else:
                self._fetched.extend(await self._fetch())

    def _pass_over(self, offset: int) -> None:
        """Let the window begin at the next record, where nothing is open: markers and aborted records lie between."""
        if not self._jobs and offset >= self._below + WINDOW:
            self._taken = offset
            self._something_ended.set()

    def _passes_over(self) -> bool:
        return not self._jobs and self._taken > self._below

    async def _rest(self) -> None:
        """Wait until there is room in the window; the consumer stands still meanwhile, as it should."""
        self.piece.resting = True
        try:
            self._moved.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_POLL_MS / 1000):
                    await self._first(self._moved.wait())
        finally:
            self.piece.resting = False

    async def _fetch(self) -> Sequence[Record]:
        fetching = self.lane.consumer.getmany(self._input, timeout_ms=IDLE_POLL_MS, max_records=WINDOW)
        got: Mapping[TopicPartition, Sequence[Record]] | None = await self._first(fetching)
        return [record for batch in got.values() for record in batch] if got else ()

    async def _first(self, what: Coroutine[Any, Any, T]) -> T | None:
        """Return what comes of it, or None when the slice leaves before."""
        doing, leaving = asyncio.ensure_future(what), asyncio.ensure_future(self.piece.leaving.wait())
        try:
            await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
            return doing.result() if doing.done() else None
        finally:
            doing.cancel()
            leaving.cancel()

    def _start(self, record: Record) -> None:
        job = self._jobs[record.offset] = _Job(record)
        self._taken = record.offset + 1
        self.guard.observe(record.timestamp)
        if self.state.finished(record.offset):
            self._ended.append(job)
            self._something_ended.set()
            return
        try:
            errand = self.caller.errand(record, self.state)
        except Exception as error:
            raise self._broken(error, record) from error
        if self._turns.add(record.offset, errand.keys):
            job.free.set()
        line = Line(self, errand, record.offset < self._doubtful_below)
        job.task = asyncio.ensure_future(self._work(job, errand, line))
        job.task.add_done_callback(self._look_for_bugs)

    async def _work(self, job: _Job, errand: Errand, line: Line) -> None:
        await job.free.wait()
        try:
            job.end = await errand.run(line)
        except Exception as error:
            # Also a TimeoutError, which Kafka raises too, and after which the slice would only open anew.
            raise self._broken(error, job.record) from error
        self._ended.append(job)
        self._something_ended.set()

    def _broken(self, error: Exception, record: Record | None) -> BrokenError:
        where = self._input
        place = f"{where.topic}/{where.partition}" + ("" if record is None else f"/{record.offset}")
        name = type(self.caller).__qualname__
        return BrokenError(f"{place}: {name} raised {type(error).__name__}: {error}")

    def _look_for_bugs(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._bug.done():
            self._bug.set_exception(error)

    # --- committing ends ----------------------------------------------------------------------------------------------

    async def _commit_ends(self) -> None:
        while True:
            await self._something_ended.wait()
            self._something_ended.clear()
            self._committing = True
            while self._ended or self._passes_over() or self.state.overdue(self.guard.now_ms()):
                jobs, self._ended = self._ended, []
                await self._commit(jobs)
            self._committing = False
            self._moved.set()

    async def _commit(self, jobs: Sequence[_Job]) -> None:
        piece, guard, state = self.piece, self.guard, self.state
        started = time.perf_counter()
        outputs = fitting(piece, _numbered(jobs), [job.record for job in jobs])
        ended = {job.record.offset for job in jobs}
        below = next((offset for offset in self._jobs if offset not in ended), self._taken)
        changes = [job.end.change for job in jobs if job.end.change is not None]
        settled: list[Settled] = []

        def closing(written: Offsets) -> Sequence[Output]:
            places = {(tp.topic, tp.partition): offset for tp, offset in written.items()}
            settled.append(Settled(changes, places, below, guard.now_ms(), piece.number))
            return state.closing(settled[0])

        made = time.perf_counter()
        await piece.transactions.commit(outputs, {self._input: below}, _never, closing)
        try:
            state.apply(settled[0])
        except Exception as error:
            raise self._broken(error, jobs[0].record if jobs else None) from error
        self._below = below
        for job in jobs:
            del self._jobs[job.record.offset]
            for freed in self._turns.done(job.record.offset):
                self._jobs[freed].free.set()
        self._moved.set()
        self._tell_observer(jobs, made - started, time.perf_counter() - made)

    def _tell_observer(self, jobs: Sequence[_Job], made_s: float, commit_s: float) -> None:
        piece, now = self.piece, self.guard.now_ms()
        if not jobs:
            return
        piece.last_append_ms = max(piece.last_append_ms, *(job.record.timestamp for job in jobs))
        ages = [now - job.record.timestamp for job in jobs]
        tally = self.caller.merged([job.end.tally for job in jobs if job.end.tally is not None])
        self.lane.observer.committed(piece.number, len(jobs), made_s, commit_s, ages, tally)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def still_ours(self) -> None:
        """Return while the slice is ours; else wait to be cancelled with it."""
        if not self.piece.ours():
            await asyncio.get_running_loop().create_future()

    async def call(self, errand: Errand, make: Callable[[], Coroutine[Any, Any, T]]) -> T | NotBegun | Cut:
        """Make a mutating call; see `Line.call`."""
        if not self.piece.ours():
            await self.still_ours()
        if not self.guard.may_emit():
            return NotBegun.NO_LEASE
        call = _Call(errand, self.guard.epoch, asyncio.ensure_future(make()))
        self._open.add(call)
        self._calling.set()
        self._tell()
        try:
            await asyncio.wait((call.task,), timeout=self._call_s_max)
            if not call.task.done():
                call.task.cancel()
                await asyncio.wait((call.task,))
                return Cut.TOO_LONG
            if call.task.cancelled():
                return Cut.HALTED
            return cast(T, call.task.result())
        finally:
            await self._close(call)

    async def _close(self, call: _Call) -> None:
        if call.cutting is not None:
            call.cutting.cancel()
        if not call.task.done():
            call.task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await call.task
        self._open.discard(call)
        if not self._open:
            self._calling.clear()
        self._tell()

    async def _watch(self) -> None:
        """Judge open calls again whenever an epoch was applied."""
        while True:
            await self._calling.wait()
            if self.guard.epoch != self._judged:
                self._judge()
            await asyncio.sleep(WATCH_S)

    def _judge(self) -> None:
        epoch = self._judged = self.guard.epoch
        loop = asyncio.get_running_loop()
        for call in self._open:
            match call.errand.standing(call.epoch):
                case Standing.RIGHT:
                    call.epoch = epoch
                case Standing.WRONG if call.cutting is None:
                    call.cutting = loop.call_later(HALT_CUT_S, call.stop)
                case _:
                    pass
        self._tell()

    def _tell(self) -> None:
        """Say what is open, for the acks; at once, when the last old call has ended."""
        piece = self.piece
        before = piece.calls_epoch
        piece.calls = len(self._open)
        piece.calls_epoch = min((call.epoch for call in self._open), default=None)
        if before is not None and before < self.guard.epoch and piece.calls_epoch != before:
            self.guard.stirred()


def _numbered(jobs: Sequence[_Job]) -> list[Output]:
    """Return all outputs, each with the place of its record among those that are committed together."""
    return [
        Output(output.topic, output.partition, output.key, output.value, output.headers, index)
        for index, job in enumerate(jobs)
        for output in job.end.outputs
    ]


_never: Final[Callable[[], bool]] = lambda: False  # noqa: E731
"""Ends are committed in any case."""
