"""One partition number of all inputs, from its opening to its loss.

Opening, in a task of its own, never in the rebalance listener (no group heartbeat is sent while that runs):
1. raise the lane's incarnation; cancel and await the old incarnation's work (`Lane._revoke`);
2. tell control, delivered, that this partition is claimed; then start a new transactional producer: this fences a
   zombie and settles its transaction (what the order of claims and starts proves: `core.effective`);
3. read the committed offset with `require_stable`;
4. seek;
5. read `control` to a high watermark taken after step 2;
6. restore the state, in slices, and what it follows;
7. open, if the incarnation still holds.
The order is the safety: a committed offset read before step 2, or a producer kept across assignments, doubles records.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Protocol

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced, UnknownTopicOrPartitionError

from hitl_stream.core.events import Abort
from hitl_stream.lane.restore import follow, restore
from hitl_stream.lane.stable_offsets import stable_offsets
from hitl_stream.lane.step import State
from hitl_stream.lane.transaction import Transactions

if TYPE_CHECKING:
    from hitl_stream.lane.lane import Lane

STABLE_TIMEOUT_S = 30.0
REOPEN_FIRST_S = 0.1
REOPEN_MAX_S = 5.0


class Outdated(Exception):  # noqa: N818 - no error: the slice opens anew
    """What the state keeps is not what is asked of it by now; nothing was decided of the batch."""


class Work(Protocol):
    """What is done with an open slice."""

    async def run(self) -> None:
        """Work until the slice is no longer ours; whatever Kafka raises makes it open anew."""


class Slice:
    """One partition number: its inputs, its state, its producer, and the task that owns them."""

    def __init__(self, lane: Lane, number: int, assigned: list[TopicPartition], incarnation: int) -> None:
        self.lane = lane
        self.number = number
        self.assigned = assigned
        self.incarnation = incarnation
        spec = lane.spec
        self.inputs = [tp for tp in assigned if tp.topic in spec.inputs]
        self.followed = [tp for tp in assigned if tp.topic in spec.followed]
        self.parked = next((tp for tp in assigned if tp.topic == spec.parked), None)
        self.parked_from = 0
        """Committed offset on `parked`: where the next pass starts."""
        self.open = False
        self.claimed = False
        """Whether it has a producer, or is about to start one."""
        self.open_epoch: int | None = None
        """Under which epoch the transaction was decided that is open now."""
        self.calls = 0
        self.calls_epoch: int | None = None
        """Under which epoch the oldest platform call was judged that is open now."""
        self.resting = False
        """Its work fetches nothing for a while, by its own choice."""
        self.task: asyncio.Task[None] | None = None
        self.leaving = asyncio.Event()
        self.last_append_ms = 0
        self._state: State | None = None
        self._transactions: Transactions | None = None
        self._stood_at: list[int] = []
        self._stood_since = time.monotonic()

    @property
    def state(self) -> State:
        """Return the state; an open slice has one."""
        assert self._state is not None
        return self._state

    @property
    def transactions(self) -> Transactions:
        """Return the producer; an open slice has one."""
        assert self._transactions is not None
        return self._transactions

    def ours(self) -> bool:
        """Say whether the incarnation that this slice belongs to still holds."""
        return self.incarnation == self.lane.incarnation and not self.leaving.is_set()

    def leave(self) -> None:
        """End after the batch under way."""
        self.leaving.set()

    def busy(self) -> bool:
        """Say whether something of it is still open: a producer, a transaction, or a call."""
        return self.claimed or self.open_epoch is not None or bool(self.calls)

    def size(self) -> int:
        """Return how much the state remembers; 0 while there is none."""
        return self._state.size() if self._state is not None else 0

    def lag(self) -> int:
        """Return how many offsets lie between what was decided and the newest that is known."""
        # What an open transaction hides is not waiting yet: a publisher may keep one open for minutes.
        return sum(max(0, stable - position) for position, stable in self._positions())

    def _positions(self) -> list[tuple[int, int]]:
        """Return position and last stable offset of each input that has both."""
        with contextlib.suppress(Exception):
            assignment = self.lane.consumer._subscription.subscription.assignment
            states = [assignment.state_value(tp) for tp in self.inputs]
            return [(s.position, s.lso) for s in states if s is not None and s.has_valid_position and s.lso is not None]
        return []

    def stalled_s(self, lag: int) -> float:
        """Return for how long records have waited while the consumer's position stood still, and it was let go on."""
        # While a pass moves, the inputs wait for it.
        positions = [*(position for position, _ in self._positions()), self.parked_from]
        rests = self.resting or not self.lane.guard.may_emit()
        if not lag or not self.open or positions != self._stood_at or rests:
            self._stood_at = positions
            self._stood_since = time.monotonic()
        return time.monotonic() - self._stood_since

    def waiting_s(self) -> float:
        """Return how old the newest decided record is, in control time."""
        return max(0, self.lane.guard.now_ms() - self.last_append_ms) / 1000 if self.last_append_ms else 0.0

    async def run(self) -> None:
        """Open and work; after a doubtful commit, open anew. Ends when the incarnation does."""
        lane, pause = self.lane, REOPEN_FIRST_S
        while self.ours():
            rest_s = 0.0
            try:
                await self._open()
                if not self.ours():
                    return
                pause = REOPEN_FIRST_S
                await lane.work(self).run()
            except Outdated:
                lane.log.info("partition reopens: what its state must keep has changed", partition=self.number)
            except ProducerFenced:
                # Somebody else opened this partition, or control fenced it. Two heartbeats tell whether the group still
                # says it is ours.
                self._aborted(Abort.FENCED)
                rest_s = 2 * lane.spec.heartbeat_ms / 1000
            except (KafkaError, TimeoutError, OSError) as error:
                self._aborted(Abort.UNKNOWN)
                lane.log.warning("partition reopens", partition=self.number, error=repr(error), pause_s=pause)
                rest_s, pause = pause, min(pause * 2, REOPEN_MAX_S)
            except asyncio.CancelledError:
                self._aborted(Abort.REVOKED)
                raise
            finally:
                await self._close()
            # Closed before it rests: acks tell of its transaction for as long as it can still be committed.
            await self._rest(rest_s)

    def _aborted(self, why: Abort) -> None:
        if self.open:
            self.lane.observer.aborted(self.number, why)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.leaving.wait()

    async def _close(self) -> None:
        self.open = False
        if self._state is not None:
            self._state.discard()
            self._state = None
        # Told before the drop takes its time: the next slice of this number may open meanwhile.
        self.lane.observer.closed(self.number)
        transactions, self._transactions = self._transactions, None
        await asyncio.shield(asyncio.ensure_future(self._drop(transactions)))

    async def _drop(self, transactions: Transactions | None) -> None:
        if transactions is not None:
            await transactions.drop()
        # Only now is its transaction surely none of ours any more.
        self.open_epoch = None
        self.claimed = False
        self.lane.guard.stirred()

    async def _open(self) -> None:
        """Steps 2 to 7 of the module's list."""
        lane, spec = self.lane, self.lane.spec
        lane.observer.opening(self.number)
        started = time.monotonic()
        self._whole()
        async with lane.openings:
            lane.consumer.pause(*self.assigned)
            self.claimed = True
            await lane.guard.announce()
            transactional_id = spec.transactional_id(self.number)
            self._transactions = await Transactions.start(spec.client, transactional_id, spec.group)
            consumed = self.inputs if self.parked is None else [*self.inputs, self.parked]
            committed = await stable_offsets(lane.consumer, spec.group, consumed, STABLE_TIMEOUT_S)
            if not self.ours():
                return
            for tp in self.inputs:
                offset = committed[tp]
                if offset is not None:
                    lane.consumer.seek(tp, offset)
                else:
                    await lane.consumer.seek_to_beginning(tp)
            await lane.guard.catch_up()
            self._state = lane.new_state()
            past = {tp: committed[tp] for tp in self.inputs}
            restored = await restore(spec.restore, self._state, spec.client, past, self.number)
            restored += await self._follow(committed)
        if not self.ours():
            return
        lane.consumer.resume(*self.assigned)
        self.open = True
        lane.guard.stirred()
        seconds = time.monotonic() - started
        lane.observer.opened(self.number, seconds, restored)
        lane.log.info("partition open", partition=self.number, seconds=round(seconds, 3), restored=restored)

    def _whole(self) -> None:
        """Refuse to open with a topic missing: its records would be passed over, or the state silently incomplete."""
        missing = set(self.lane.spec.reads) - {tp.topic for tp in self.assigned}
        if missing:
            raise UnknownTopicOrPartitionError(
                f"the group assigned partition {self.number} without that of {', '.join(sorted(missing))}; "
                "it opens once every topic has it: hitl topics check tells"
            )

    async def _follow(self, committed: dict[TopicPartition, int | None]) -> int:
        """Read what is followed to its end; from there on it comes with the inputs."""
        followed = [tp for tp in self.followed if self.state.follows(tp.topic)]
        for tp in self.followed:
            if tp not in followed:
                await self.lane.consumer.seek_to_end(tp)
        if self.parked is not None:
            followed.append(self.parked)
        read = await follow(self.state, self.lane.spec.client, {tp: committed.get(tp) for tp in followed})
        if not self.ours():
            return 0
        for tp, one in read.items():
            self.lane.consumer.seek(tp, one.end)
        if self.parked is not None:
            self.parked_from = read[self.parked].begin
        return sum(one.records for one in read.values())
