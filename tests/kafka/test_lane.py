"""The lane against a real Kafka, with a step that knows nothing of actions.

What must hold: each input is answered exactly once, in order, with the state that was committed before it, whatever
happens between a batch's decision and its commit.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerFenced

from hitl_stream.core.errors import BrokenError
from hitl_stream.lane import batches as batches_module
from hitl_stream.lane import slice as slice_module
from hitl_stream.lane.restore import Changelog, WindowReplay, restore
from hitl_stream.lane.stable_offsets import stable_offsets
from hitl_stream.lane.step import Output, Record
from hitl_stream.lane.transaction import Transactions
from support.kafka import Topics, consuming, producing, read, send, within
from support.toy import (
    MIB,
    Hand,
    Place,
    Toy,
    ToyState,
    Witness,
    answers,
    counted,
    hosted,
    offsets,
    place,
    until,
)

pytestmark = pytest.mark.kafka

STABLE_SECONDS = 20.0


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


async def committed(here: Place, partition: int = 0) -> int | None:
    """Return the group's stable offset on the first input."""
    spec = here.spec()
    async with consuming(here.bootstrap, group_id=spec.group) as consumer:
        tp = here.input(partition)
        return (await stable_offsets(consumer, spec.group, [tp], STABLE_SECONDS))[tp]


class Gate:
    """Holds a lane between the delivery of its outputs and its commit, where zombies are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.closed = True
        commit = Transactions.commit
        gate = self

        async def held(transactions: Transactions, outputs: Any, offsets: Any, stopped: Any) -> bool:
            # The producer's own order, with a wait before its last step.
            if not gate.closed:
                return await commit(transactions, outputs, offsets, stopped)
            gate.closed = False
            producer = transactions._producer
            await producer.begin_transaction()
            await asyncio.gather(*await transactions._write(outputs))
            await producer.send_offsets_to_transaction(dict(offsets), transactions._group)
            gate.reached.set()
            await gate.go_on.wait()
            await producer.commit_transaction()
            return True

        monkeypatch.setattr(Transactions, "commit", held)


# --- exactly once -----------------------------------------------------------------------------------------------------


def test_each_input_is_answered_once_and_in_order(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, partitions=3)
        await asyncio.gather(*(send(here.bootstrap, here.inputs[0], numbers(500), p) for p in range(3)))
        async with hosted(here.spec(batch_records_max=64), Toy(here.out)):
            await asyncio.gather(*(send(here.bootstrap, here.inputs[0], numbers(200, 500), p) for p in range(3)))
            for partition in range(3):
                found = await answers(here.bootstrap, here.out, 700, partition)
                assert counted(found) == list(range(1, 701))
                assert [value.split(b"|")[3] for value in found] == numbers(700)

    within(scenario())


def test_a_restart_goes_on_where_the_last_commit_was(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        for round_ in range(3):
            await send(here.bootstrap, here.inputs[0], numbers(50, 50 * round_))
            async with hosted(here.spec(), Toy(here.out)):
                await answers(here.bootstrap, here.out, 50 * (round_ + 1))
        assert offsets(await answers(here.bootstrap, here.out, 150)) == list(range(150))

    within(scenario())


def test_a_step_that_raises_crashes_the_lane_and_commits_nothing(topics: Topics):
    def refuse(batch: Sequence[Record], state: ToyState) -> None:
        if any(record.value == b"7" for record in batch):
            raise TimeoutError("a bug")

    async def scenario() -> None:
        here = await place(topics)
        await send(here.bootstrap, here.inputs[0], numbers(7))
        async with hosted(here.spec(), Toy(here.out, before=refuse)) as lane:
            await answers(here.bootstrap, here.out, 7)
            await send(here.bootstrap, here.inputs[0], numbers(5, 7))
            await until(lambda: lane.crashed)
            assert isinstance(lane.crash_reason, BrokenError)
            assert "raised TimeoutError: a bug" in str(lane.crash_reason)
        assert offsets(await answers(here.bootstrap, here.out, 7)) == list(range(7))
        assert await committed(here) == 7

    within(scenario())


# --- state and commit -------------------------------------------------------------------------------------------------


class Stop(Hand):
    """A guard whose epoch moves, and covers everything, while the first batches are on their way."""

    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.times = times

    def engage(self, *_: Any) -> None:
        if self.times:
            self.times -= 1
            self.move()


def test_a_batch_that_control_stops_is_aborted_and_decided_again_with_the_state_of_before(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, inputs=2)
        control, witness = Stop(times=2), Witness()
        toy = Toy(here.out, before=control.engage)
        for which in range(2):
            await send(here.bootstrap, here.inputs[which], numbers(20))
        async with hosted(here.spec(), toy, witness, control):
            found = await answers(here.bootstrap, here.out, 40)
        assert counted(found) == list(range(1, 41))
        assert toy.seen[:3] == [0, 0, 0]  # decided three times, always with the committed state
        assert witness.aborts == ["epoch", "epoch"]
        assert sum(state.applied for state in toy.states) == len(witness.batches)
        assert control.caught_up == 1

    within(scenario())


def test_an_epoch_that_moves_without_covering_the_batch_stops_nothing(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        control, witness = Stop(times=3), Witness()
        control.stopping = False
        toy = Toy(here.out, before=control.engage)
        await send(here.bootstrap, here.inputs[0], numbers(5))
        async with hosted(here.spec(), toy, witness, control):
            await answers(here.bootstrap, here.out, 5)
        assert (witness.aborts, control.asked > 0) == ([], True)

    within(scenario())


def test_after_an_unknown_outcome_the_partition_opens_anew_and_nothing_is_lost_or_doubled(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
):
    """The first commit reaches the broker and its answer does not reach us; the second one is never sent."""
    commit = Transactions.commit
    trouble = ["answer lost", "not sent"]

    async def unsure(transactions: Transactions, outputs: Any, offsets: Any, stopped: Any) -> bool:
        what = trouble.pop(0) if trouble else ""
        if what == "not sent":
            await transactions._producer.begin_transaction()
            await asyncio.gather(*await transactions._write(outputs))
            raise TimeoutError
        done = await commit(transactions, outputs, offsets, stopped)
        if what == "answer lost":
            raise KafkaError("the answer was lost")
        return done

    async def scenario() -> None:
        here = await place(topics)
        witness = Witness()
        toy = Toy(here.out, here.changelog)
        monkeypatch.setattr(Transactions, "commit", unsure)
        await send(here.bootstrap, here.inputs[0], numbers(30))
        spec = here.spec(restore=Changelog(here.changelog), batch_records_max=10)
        async with hosted(spec, toy, witness):
            found = await answers(here.bootstrap, here.out, 30)
        assert counted(found) == list(range(1, 31))
        assert witness.aborts == ["unknown", "unknown"]
        assert len(witness.openings) == 3
        assert all(state.discarded for state in toy.states)

    within(scenario())


def test_a_batch_whose_delivery_fails_is_not_committed(topics: Topics, monkeypatch: pytest.MonkeyPatch):
    """An output that the broker refuses: every delivery is awaited, so the offset does not pass it."""
    monkeypatch.setattr(slice_module, "REOPEN_MAX_S", 0.1)

    async def scenario() -> None:
        here = await place(topics)
        witness = Witness()
        refused = Toy(here.out, answer=lambda value: value * 2_000_000)  # over the topic's megabyte, limit unknown
        await send(here.bootstrap, here.inputs[0], [b"x"])
        async with hosted(here.spec(), refused, witness) as lane:
            await until(lambda: len(witness.aborts) >= 3)
            assert not lane.crashed
        assert set(witness.aborts) == {"unknown"}
        assert await committed(here) is None
        assert await read(here.bootstrap, here.out) == []
        async with hosted(here.spec(), Toy(here.out)):
            assert offsets(await answers(here.bootstrap, here.out, 1)) == [0]

    within(scenario())


def test_an_output_over_the_topics_limit_becomes_a_dead_letter_in_the_same_transaction(topics: Topics):
    """In value, headers or key: nothing that a publisher sends may stop a partition."""
    headers = {b"by header": [("traceparent", b"x" * MIB)]}

    async def scenario() -> None:
        here = await place(topics)
        values = [b"before", b"big", b"by header", b"after"]
        async with producing(here.bootstrap, max_request_size=8 * MIB) as producer:
            for value in values:
                await producer.send_and_wait(
                    here.inputs[0], value, key=b"k", partition=0, headers=headers.get(value, [])
                )
        toy = Toy(here.out, answer=lambda value: b"x" * MIB if value == b"big" else value)
        async with hosted(here.spec(limits={here.out: MIB, here.dlq: 6 * MIB}), toy):
            found = await answers(here.bootstrap, here.out, 2)
            dead = await read(here.bootstrap, here.dlq)
        assert offsets(found) == [0, 3]
        assert [(record.key, record.value) for record in dead] == [(b"k", b"big"), (b"k", b"by header")]
        assert [dict(record.headers)["hitl-source"] for record in dead] == [
            f"{here.inputs[0]}/0/{n}".encode() for n in (1, 2)
        ]

    within(scenario())


# --- restoring --------------------------------------------------------------------------------------------------------


def test_a_state_restored_from_its_changelog_equals_the_live_one(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        spec = here.spec(restore=Changelog(here.changelog), batch_records_max=7)
        first, second = Toy(here.out, here.changelog), Toy(here.out, here.changelog)
        await send(here.bootstrap, here.inputs[0], numbers(40))
        async with hosted(spec, first):
            await answers(here.bootstrap, here.out, 40)
        live = first.states[-1].count
        async with hosted(spec, second):
            assert second.states[-1].count == live == 40
            await send(here.bootstrap, here.inputs[0], numbers(10, 40))
            assert counted(await answers(here.bootstrap, here.out, 50)) == list(range(1, 51))

    within(scenario())


def test_restoring_a_changelog_waits_while_a_transaction_is_pending_at_its_end(topics: Topics):
    """The stable end would leave out what a commit under way adds."""

    async def scenario() -> None:
        here = await place(topics)
        client = here.spec().client
        async with producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer:
            async with producer.transaction():
                await producer.send_and_wait(here.changelog, b"5", key=b"count", partition=0)
            await producer.begin_transaction()
            await producer.send_and_wait(here.changelog, b"9", key=b"count", partition=0)
            state = ToyState()
            restoring = asyncio.ensure_future(restore(Changelog(here.changelog), state, client, {}, 0))
            done, _ = await asyncio.wait([restoring], timeout=1.5)
            assert not done
            await producer.commit_transaction()
            assert await restoring == 2
            assert state.count == 9

    within(scenario())


def test_restoring_a_changelog_passes_over_what_was_aborted_at_its_end(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        async with producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer:
            async with producer.transaction():
                await producer.send_and_wait(here.changelog, b"5", key=b"count", partition=0)
            await producer.begin_transaction()
            await producer.send_and_wait(here.changelog, b"9", key=b"count", partition=0)
            await producer.abort_transaction()
        state = ToyState()
        assert await restore(Changelog(here.changelog), state, here.spec().client, {}, 0) == 1
        assert state.count == 5

    within(scenario())


def test_a_window_replays_only_what_was_appended_within_its_reach(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        await send(here.bootstrap, here.inputs[0], numbers(20))
        await asyncio.sleep(1.2)
        await send(here.bootstrap, here.inputs[0], numbers(10, 20))
        async with hosted(here.spec(), Toy(here.out)):
            await answers(here.bootstrap, here.out, 30)
        witness, toy = Witness(), Toy(here.out)
        async with hosted(here.spec(restore=WindowReplay(600)), toy, witness):
            assert toy.states[-1].values == numbers(10, 20)
            assert witness.opens == [(0, 10)]
            await send(here.bootstrap, here.inputs[0], numbers(5, 30))
            await answers(here.bootstrap, here.out, 35)
        everything = Toy(here.out)
        async with hosted(here.spec(restore=WindowReplay(600_000)), everything):
            assert everything.states[-1].values == numbers(35)

    within(scenario())


def test_a_window_stops_at_the_committed_offset_and_passes_over_what_was_aborted(topics: Topics):
    """What lies behind the committed offset will be decided; replaying it too would call it a repeat of itself."""

    async def scenario() -> None:
        here = await place(topics)
        async with producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer:
            for value in (b"a", b"b"):
                async with producer.transaction():
                    await producer.send_and_wait(here.inputs[0], value, partition=0)
                await producer.begin_transaction()
                await producer.send_and_wait(here.inputs[0], b"aborted", partition=0)
                await producer.abort_transaction()
        async with hosted(here.spec(), Toy(here.out)):
            await answers(here.bootstrap, here.out, 2)
        await send(here.bootstrap, here.inputs[0], [b"new"])
        state = ToyState()
        end = await committed(here)
        client = here.spec().client
        assert await restore(WindowReplay(600_000), state, client, {here.input(): end}, 0) == 2
        assert state.values == [b"a", b"b"]

    within(scenario())


def test_a_window_over_two_inputs_replays_them_merged(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, inputs=2)
        for n in range(5):
            for which in (1, 0):
                await send(here.bootstrap, here.inputs[which], [b"%d.%d" % (n, which)])
        state = ToyState()
        ends: dict[Any, int | None] = {here.input(0, 0): 5, here.input(0, 1): 5}
        assert await restore(WindowReplay(600_000), state, here.spec().client, ends, 0) == 10
        assert state.values == [b"%d.%d" % (n, which) for n in range(5) for which in (1, 0)]

    within(scenario())


def test_a_committed_offset_that_is_not_stable_is_waited_for(topics: Topics):
    """A commit of somebody else is under way: the lane opens after it, at what it committed."""

    async def scenario() -> None:
        here = await place(topics)
        spec = here.spec()
        await send(here.bootstrap, here.inputs[0], numbers(10))
        async with producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer:
            await producer.begin_transaction()
            await producer.send_offsets_to_transaction({here.input(): 6}, spec.group)
            async with hosted(spec, Toy(here.out), open_=False) as lane:
                await until(lambda: lane.slices)
                await asyncio.sleep(1.0)
                assert not lane.ready
                await producer.commit_transaction()
                await until(lambda: lane.ready)
                assert offsets(await answers(here.bootstrap, here.out, 4)) == [6, 7, 8, 9]

    within(scenario())


# --- timers and inputs ------------------------------------------------------------------------------------------------


def test_a_timer_runs_once_it_is_due_and_its_changes_are_kept(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        witness, toy = Witness(), Toy(here.out)
        async with hosted(here.spec(), toy, witness):
            started = time.monotonic()
            await send(here.bootstrap, here.inputs[0], [b"in 700"])
            found = await answers(here.bootstrap, here.out, 2)
            assert 0.5 < time.monotonic() - started < 5.0
            await send(here.bootstrap, here.inputs[0], [b"after"])
            found = await answers(here.bootstrap, here.out, 3)
        assert [value.split(b"|")[0] for value in found] == [b"1", b"timer", b"2"]
        assert witness.aborts == []

    within(scenario())


def test_a_timer_waits_for_records_that_were_appended_before_it_was_due(topics: Topics):
    """A verdict that came in time wins over the expiry, also when it is read late."""

    async def scenario() -> None:
        here = await place(topics)
        toy = Toy(here.out)
        async with hosted(here.spec(), toy) as lane:
            await send(here.bootstrap, here.inputs[0], [b"in 800"])
            await answers(here.bootstrap, here.out, 1)
            lane.consumer.pause(here.input())  # the consumer hears nothing until the timer is overdue
            await send(here.bootstrap, here.inputs[0], [b"early", b"early too"])
            await asyncio.sleep(1.5)
            assert len(await read(here.bootstrap, here.out)) == 1
            lane.consumer.resume(here.input())
            found = await answers(here.bootstrap, here.out, 4)
        assert [value.split(b"|")[0] for value in found] == [b"1", b"2", b"3", b"timer"]

    within(scenario())


def test_a_timer_that_control_stops_runs_again(topics: Topics):
    class Timed(Toy):
        def on_timer(self, state: Any, moment: Any) -> Any:
            control.engage()
            return super().on_timer(state, moment)

    control = Stop(times=1)

    async def scenario() -> None:
        here = await place(topics)
        witness = Witness()
        async with hosted(here.spec(), Timed(here.out), witness, control):
            await send(here.bootstrap, here.inputs[0], [b"in 100"])
            await answers(here.bootstrap, here.out, 2)
            await asyncio.sleep(0.5)
            found = await answers(here.bootstrap, here.out, 2)
        assert [value.split(b"|")[0] for value in found] == [b"1", b"timer"]
        assert witness.aborts == ["epoch"]

    within(scenario())


def test_two_inputs_are_merged_by_append_time_topic_and_offset(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, inputs=2)
        for n in range(6):
            await send(here.bootstrap, here.inputs[n % 2], numbers(2, 2 * n))
        async with hosted(here.spec(), Toy(here.out)):
            found = await answers(here.bootstrap, here.out, 12)
        appended = {}
        for name in here.inputs:
            for record in await read(here.bootstrap, name):
                appended[name.encode(), record.offset] = (record.timestamp, name, record.offset)
        decided = [appended[value.split(b"|")[1], int(value.split(b"|")[2])] for value in found]
        assert decided == sorted(decided)
        assert counted(found) == list(range(1, 13))

    within(scenario())


# --- membership and fencing -------------------------------------------------------------------------------------------


def test_a_second_member_takes_over_partitions_and_everything_is_answered_once(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, partitions=4)
        spec_a = here.spec("a", restore=Changelog(here.changelog))
        spec_b = here.spec("b", restore=Changelog(here.changelog))
        sending = asyncio.ensure_future(trickle(here, 4, 300))
        async with hosted(spec_a, Toy(here.out, here.changelog)) as a:
            await until(lambda: a.ready and len(a.slices) == 4)
            async with hosted(spec_b, Toy(here.out, here.changelog)) as b:
                await until(lambda: a.ready and b.ready and len(a.slices) == len(b.slices) == 2)
                assert set(a.slices) | set(b.slices) == set(range(4))
                await sending
                for partition in range(4):
                    assert counted(await answers(here.bootstrap, here.out, 300, partition)) == list(range(1, 301))

    within(scenario())


async def trickle(here: Place, partitions: int, count: int) -> None:
    """Send `count` records to each partition over some seconds."""
    async with producing(here.bootstrap) as producer:
        for n in range(count):
            for partition in range(partitions):
                await producer.send(here.inputs[0], b"%d" % n, partition=partition)
            await asyncio.sleep(0.01)


def test_rebalances_while_partitions_open_lose_and_double_nothing(topics: Topics):
    """Members come and go while the others still restore."""

    class Slow(ToyState):
        def replay(self, records: Sequence[Record]) -> None:
            time.sleep(0.05)
            super().replay(records)

    class SlowToy(Toy):
        def state(self) -> ToyState:
            self.states.append(Slow())
            return self.states[-1]

    async def scenario() -> None:
        here = await place(topics, partitions=4)

        def spec(member: str) -> Any:
            return here.spec(member, restore=WindowReplay(600_000), session_timeout_ms=6_000)

        sending = asyncio.ensure_future(trickle(here, 4, 400))
        async with hosted(spec("a"), SlowToy(here.out)) as a:
            for member in ("b", "c"):
                async with hosted(spec(member), SlowToy(here.out), open_=False) as other:
                    await until(lambda other=other: other.slices)
            await sending
            await until(lambda: a.ready and len(a.slices) == 4, 40.0)
            for partition in range(4):
                found = await answers(here.bootstrap, here.out, 400, partition)
                assert offsets(found) == list(range(400))
                assert counted(found) == list(range(1, 401))

    within(scenario(), 90.0)


def test_a_zombies_commit_fails_and_nothing_doubles(topics: Topics, monkeypatch: pytest.MonkeyPatch):
    """Between delivery and commit the next owner starts its producer: that settles the transaction, ours is refused."""

    async def scenario() -> None:
        here = await place(topics)
        gate, witness = Gate(monkeypatch), Witness()
        spec = here.spec(restore=Changelog(here.changelog))
        await send(here.bootstrap, here.inputs[0], numbers(10))
        async with hosted(spec, Toy(here.out, here.changelog), witness, open_=False) as lane:
            await gate.reached.wait()
            owner = await here.producer()
            assert await committed(here) is None
            gate.go_on.set()
            await until(lambda: "fenced" in witness.aborts)
            assert await read(here.bootstrap, here.out) == []
            await owner.drop()
            # It is still assigned: after two heartbeats it opens anew and answers everything, once.
            await until(lambda: lane.ready)
            assert counted(await answers(here.bootstrap, here.out, 10)) == list(range(1, 11))
            assert len(witness.openings) == 2

    within(scenario())


def test_a_fenced_slice_opens_anew_only_if_it_is_still_assigned(topics: Topics, monkeypatch: pytest.MonkeyPatch):
    """The zombie finds the rebalance when it wakes: it must not fence the new owner in its turn."""

    async def scenario() -> None:
        here = await place(topics)
        gate, witness = Gate(monkeypatch), Witness()
        spec = here.spec("b", restore=Changelog(here.changelog))
        await send(here.bootstrap, here.inputs[0], numbers(10))
        async with hosted(spec, Toy(here.out, here.changelog), witness, open_=False) as b:
            await gate.reached.wait()
            (piece,) = b.slices.values()
            # Member a sorts before b, so that it gets the only partition.
            other = Witness()
            spec_a = here.spec("a", restore=Changelog(here.changelog))
            async with hosted(spec_a, Toy(here.out, here.changelog), other, open_=False) as a:
                await until(lambda: a.ready)
                gate.go_on.set()
                assert counted(await answers(here.bootstrap, here.out, 10)) == list(range(1, 11))
                await asyncio.sleep(1.5)
                assert not b.slices
                assert piece.task is not None
                assert piece.task.done()
                assert len(witness.openings) == 1
                assert other.aborts == []

    within(scenario())


async def zombie(here: Place, count: int) -> Transactions:
    """Return an older owner's producer in the middle of a transaction: all written, nothing committed."""
    owner: Transactions = await here.producer()
    await owner._producer.begin_transaction()
    outputs = [Output(here.out, 0, None, b"%d|in|%d|" % (n + 1, n)) for n in range(count)]
    await asyncio.gather(*await owner._write(outputs))
    await owner._producer.send_offsets_to_transaction({here.input(): count}, here.spec().group)
    return owner


@pytest.mark.parametrize("right", [True, False], ids=["the lane's order", "committed offset first (planted)"])
def test_what_the_old_owner_commits_until_it_is_fenced_is_not_decided_again(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, right: bool
):
    """Only an offset that is read after the fence counts what the old owner committed just before it."""
    start = Transactions.start

    async def scenario() -> list[int]:
        here = await place(topics)
        await send(here.bootstrap, here.inputs[0], numbers(10))
        old = await zombie(here, 10)
        early: dict[Any, int | None] = {}

        async def commit_then_start(client: Any, transactional_id: str, group: str) -> Transactions:
            if not right:
                async with consuming(here.bootstrap, group_id=group) as consumer:
                    early[here.input()] = await consumer.committed(here.input())
            await old._producer.commit_transaction()
            return await start(client, transactional_id, group)

        monkeypatch.setattr(Transactions, "start", commit_then_start)
        if not right:

            async def remembered(*_: Any) -> dict[Any, int | None]:
                return early

            monkeypatch.setattr(slice_module, "stable_offsets", remembered)
        async with hosted(here.spec(), Toy(here.out)) as lane:
            await send(here.bootstrap, here.inputs[0], [b"last"])
            await until(lambda: lane.ready and lane.consumer.highwater(here.input()) == 11)
            await answers(here.bootstrap, here.out, 11)
            await asyncio.sleep(0.5)
            found = offsets(await answers(here.bootstrap, here.out, 11))
        await old.drop()
        return found

    found = within(scenario())
    assert (found == list(range(11))) is right


def test_a_zombie_that_is_fenced_while_it_still_hands_over_outputs_is_fenced_and_no_bug(
    topics: Topics, monkeypatch: pytest.MonkeyPatch
):
    """Between two record batches the sender fails; what aiokafka then says of the next one is no reason to crash."""
    send_batch = AIOKafkaProducer.send_batch
    newer: list[Transactions] = []

    async def scenario() -> None:
        here = await place(topics)
        witness = Witness()

        async def fenced_between(producer: Any, batch: Any, topic: str, *, partition: int) -> Any:
            first = not newer
            if first:
                newer.append(await here.producer())
            delivery = await send_batch(producer, batch, topic, partition=partition)
            if first:
                await asyncio.wait([producer._sender.sender_task])
            return delivery

        monkeypatch.setattr(AIOKafkaProducer, "send_batch", fenced_between)
        await send(here.bootstrap, here.inputs[0], numbers(5))
        async with hosted(here.spec(), Toy(here.out, here.changelog), witness) as lane:
            found = await answers(here.bootstrap, here.out, 5)
            assert not lane.crashed
        await newer[0].drop()
        assert offsets(found) == list(range(5))
        assert witness.aborts == ["fenced"]

    within(scenario())


def test_a_rebalance_while_the_lane_stops_opens_nothing(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        async with hosted(here.spec(), Toy(here.out)) as lane:
            await lane.stop()
            lane._assign([here.input()])
            assert lane.slices == {}

    within(scenario())


def test_an_older_producer_of_a_partition_can_commit_nothing_more(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        old = await here.producer()
        new = await here.producer()
        output = [Output(here.out, 0, None, b"zombie")]
        with pytest.raises(ProducerFenced):
            await old.commit(output, {here.input(): 1}, lambda: False)
        assert await new.commit([Output(here.out, 0, None, b"owner")], {here.input(): 1}, lambda: False)
        assert await answers(here.bootstrap, here.out, 1) == [b"owner"]
        await old.drop()
        await new.drop()

    within(scenario())


def test_a_static_member_that_restarts_gets_its_partitions_back_without_disturbing_the_other(
    topics: Topics, capsys: pytest.CaptureFixture[str]
):
    async def scenario() -> tuple[float, float, int]:
        here = await place(topics, partitions=4)
        spec = {member: here.spec(member, restore=Changelog(here.changelog)) for member in "ab"}
        quiet = Witness()
        async with hosted(spec["b"], Toy(here.out, here.changelog), quiet) as b:
            async with hosted(spec["a"], Toy(here.out, here.changelog)) as a:
                await until(lambda: a.ready and b.ready and len(a.slices) == len(b.slices) == 2)
                openings = len(quiet.openings)
                sending = asyncio.ensure_future(trickle(here, 4, 400))
                await asyncio.sleep(0.5)
            times: list[float] = []
            stopped = time.monotonic()
            batches = len(quiet.batches)
            async with hosted(spec["a"], Toy(here.out, here.changelog), open_=False) as a:
                await until(lambda: len(a.slices) == 2)
                times.append(time.monotonic() - stopped)
                await until(lambda: a.ready)
                times.append(time.monotonic() - stopped)
                assert len(quiet.openings) == openings  # b was not rebalanced
                assert len(quiet.batches) > batches  # and went on committing
                await sending
                for partition in range(4):
                    assert counted(await answers(here.bootstrap, here.out, 400, partition)) == list(range(1, 401))
            return times[0], times[1], len(quiet.batches) - batches

    assigned_s, open_s, batches = within(scenario())
    with capsys.disabled():
        print(f"\n  restart: assigned after {assigned_s:.3f} s, open after {open_s:.3f} s, beside {batches} batches")
    assert assigned_s < 1.0


def test_a_member_without_a_partition_stays_a_member(topics: Topics):
    """A spare that polls nothing must take over when the owner goes, however long it waited."""

    async def scenario() -> None:
        here = await place(topics)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches_module, "IDLE_POLL_MS", 100)
            async with hosted(here.spec("spare"), Toy(here.out), open_=False) as spare:
                async with hosted(here.spec("a"), Toy(here.out), open_=False) as owner:
                    await until(lambda: owner.ready and not spare.slices)
                    # As if eleven minutes had passed since it last polled.
                    spare.consumer._subscription._last_fetch_ended -= 660
                    spare.consumer._subscription._fetch_count = 0
                    await asyncio.sleep(1.0)
                await until(lambda: spare.ready)
                await send(here.bootstrap, here.inputs[0], numbers(3))
                assert offsets(await answers(here.bootstrap, here.out, 3)) == [0, 1, 2]

    within(scenario())


# --- Kafka in trouble -------------------------------------------------------------------------------------------------


def test_dropping_a_producer_in_the_middle_of_a_transaction_leaves_no_task_behind(topics: Topics):
    """Its sender would try for ever, one more with every reopening while Kafka is away."""

    async def scenario() -> None:
        here = await place(topics)
        before = asyncio.all_tasks()
        transactions = await here.producer()
        producer = transactions._producer
        await producer.begin_transaction()

        async def never(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        producer.client.send = never  # the broker answers nothing any more
        writing = asyncio.ensure_future(transactions._write([Output(here.out, 0, None, b"x")]))
        await asyncio.wait([writing], timeout=0.3)
        writing.cancel()
        await asyncio.wait([writing])
        started = time.monotonic()
        await transactions.drop()
        assert time.monotonic() - started < 4.0
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() - before == set()

    within(scenario())


def test_a_consumer_whose_group_task_has_ended_crashes_the_process(topics: Topics):
    """It would never rejoin, and nobody would notice."""

    async def scenario() -> None:
        here = await place(topics)
        async with hosted(here.spec(), Toy(here.out)) as lane:
            lane.consumer._coordinator._coordination_task.cancel()
            await until(lambda: lane.crashed, 5.0)
            assert isinstance(lane.crash_reason, BrokenError)

    within(scenario())
