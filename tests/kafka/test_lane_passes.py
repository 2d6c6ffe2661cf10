"""What a lane follows, what it consumes in passes, and its lease, against a real Kafka.

In more cases, and without a broker: tests/lane/test_batches.py.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from hitl_stream.lane.lane import LaneSpec
from hitl_stream.lane.restore import Changelog, follow, high_watermarks
from hitl_stream.lane.stable_offsets import stable_offsets
from hitl_stream.lane.transaction import Transactions
from support.kafka import Topics, consuming, producing, read, read_values, send, within
from support.toy import Hand, Place, Toy, ToyState, Witness, answers, counted, hosted, place, until

pytestmark = pytest.mark.kafka

STABLE_SECONDS = 20.0
COMMIT = Transactions.commit


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


def passing(here: Place, member: str = "a", **changes: Any) -> LaneSpec:
    """Return the spec of a lane that follows, and consumes in passes; its count is kept."""
    common = {"followed": (here.followed,), "parked": here.parked, "restore": Changelog(here.changelog)}
    return here.spec(member, **common | changes)


def toy_of(here: Place) -> Toy:
    return Toy(here.out, here.changelog, parked=here.parked)


def answered(values: list[bytes], topic: str) -> list[int]:
    """Return which offsets of a topic were answered, in the order of the answers."""
    parts = [value.split(b"|") for value in values]
    return [int(part[2]) for part in parts if part[1] == topic.encode()]


async def committed(here: Place, *topics: str) -> list[int | None]:
    spec = here.spec()
    async with consuming(here.bootstrap, group_id=spec.group) as consumer:
        tps = [TopicPartition(topic, 0) for topic in topics]
        found = await stable_offsets(consumer, spec.group, tps, STABLE_SECONDS)
        return [found[tp] for tp in tps]


async def lead_out(lane: Any) -> None:
    """Wait until everything that the lane reads has been read to its end."""
    tps = [TopicPartition(topic, number) for topic in lane.spec.reads for number in lane.slices]
    ends = await high_watermarks(lane.spec.client, tps)
    async with asyncio.timeout(20):
        while True:
            positions = [await lane.consumer.position(tp) for tp in tps]
            if all(position >= ends[tp] for tp, position in zip(tps, positions, strict=True)):
                return
            await asyncio.sleep(0.02)


# --- following --------------------------------------------------------------------------------------------------------


def test_a_followed_topic_is_read_from_its_beginning_and_as_it_grows_and_gets_no_answer(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        await send(here.bootstrap, here.followed, numbers(30))
        await send(here.bootstrap, here.inputs[0], numbers(5))
        toy = toy_of(here)
        async with hosted(passing(here, batch_records_max=7), toy) as lane:
            assert toy.states[-1].offsets_followed(here.followed) == list(range(30))
            await send(here.bootstrap, here.followed, numbers(20, 30))
            await send(here.bootstrap, here.inputs[0], numbers(5, 5))
            await lead_out(lane)
        assert toy.states[-1].offsets_followed(here.followed) == list(range(50))
        assert answered(await answers(here.bootstrap, here.out, 10), here.inputs[0]) == list(range(10))
        assert await committed(here, here.followed, here.inputs[0]) == [None, 10]

    within(scenario())


def test_a_followed_topic_is_read_anew_by_whoever_opens_the_partition_after_a_rebalance(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, partitions=2)
        for number in range(2):
            await send(here.bootstrap, here.followed, numbers(10), number)
        toys = toy_of(here), toy_of(here)
        async with hosted(passing(here, "a"), toys[0]) as a:
            await until(lambda: len(a.slices) == 2 and a.ready)
            async with hosted(passing(here, "b"), toys[1]) as b:
                await until(lambda: a.ready and b.ready and len(a.slices) == len(b.slices) == 1)
                for number in range(2):
                    await send(here.bootstrap, here.followed, numbers(10, 10), number)
                    await send(here.bootstrap, here.inputs[0], numbers(5), number)
                await lead_out(a)
                await lead_out(b)
                for lane, toy in ((a, toys[0]), (b, toys[1])):
                    (piece,) = lane.slices.values()
                    assert piece.state is toy.states[-1]
                    assert toy.states[-1].offsets_followed(here.followed) == list(range(20))
        for number in range(2):
            found = await answers(here.bootstrap, here.out, 5, number)
            assert answered(found, here.inputs[0]) == list(range(5))
        assert await committed(here, here.followed) == [None]

    within(scenario())


@pytest.mark.parametrize("which", ["followed", "parked"])
def test_opening_waits_for_a_transaction_that_is_pending_on_what_it_follows(topics: Topics, which: str):
    """The last stable offset would leave out what a commit under way adds."""

    async def scenario() -> None:
        here = await place(topics)
        topic: str = getattr(here, which)
        toy = toy_of(here)
        async with producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"pending", partition=0)
            async with hosted(passing(here), toy, open_=False) as lane:
                await until(lambda: toy.states)
                await asyncio.sleep(1.0)
                assert not lane.ready
                await producer.commit_transaction()
                await until(lambda: lane.ready)
                assert toy.states[-1].followed == [(topic, 0, b"pending")]

    within(scenario())


def test_following_from_behind_the_last_record_does_not_wait_for_another_one(topics: Topics):
    """Behind what the last pass took stand markers only: so every opening finds it."""

    async def scenario() -> tuple[Any, float]:
        here = await place(topics)
        async with (
            producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer,
            producer.transaction(),
        ):
            await producer.send_and_wait(here.parked, b"taken", partition=0)
        tp = TopicPartition(here.parked, 0)
        started = time.monotonic()
        read = await follow(ToyState(), here.spec().client, {tp: 1})
        return read[tp], time.monotonic() - started

    read, seconds = within(scenario())
    assert read == (0, 1, 2)
    assert seconds < 0.9


# --- passes -----------------------------------------------------------------------------------------------------------


def test_a_pass_takes_everything_once_and_in_order_beside_inputs_that_keep_coming(topics: Topics):
    """What is parked again, and what comes meanwhile, waits for the next pass; no input is lost for it."""

    async def scenario() -> None:
        here = await place(topics)
        toy = toy_of(here)
        parked = [b"keep %d" % n if n % 10 == 0 else b"%d" % n for n in range(200)]
        await send(here.bootstrap, here.parked, parked)
        async with hosted(passing(here, batch_records_max=16), toy) as lane:
            toy.wanted = 1

            async def keep_coming() -> None:
                async with producing(here.bootstrap) as producer:
                    for n in range(200):
                        await producer.send(here.inputs[0], b"%d" % n, partition=0)
                        if n % 4 == 0:
                            await producer.send(here.parked, b"late %d" % n, partition=0)
                        await asyncio.sleep(0.005)

            coming = asyncio.ensure_future(keep_coming())
            state = toy.states[-1]
            while not coming.done():
                await asyncio.sleep(0.1)
                toy.wanted = len(state.passes) + 1
            await coming
            await lead_out(lane)
            toy.wanted = len(state.passes) + 1
            await until(lambda: len(state.passes) == toy.wanted)
            await lead_out(lane)
            assert not lane.crashed
            assert toy.states == [state]
        log = await read(here.bootstrap, here.parked)
        free = [record.offset for record in log if not (record.value or b"").startswith(b"keep")]
        found = await answers(here.bootstrap, here.out, len(free) + 200)
        assert answered(found, here.inputs[0]) == list(range(200))
        assert answered(found, here.parked) == free
        assert counted(found) == list(range(1, len(found) + 1))
        assert sorted(state.parked.values()) == sorted(value for value in parked if value.startswith(b"keep"))
        assert state.offsets_followed(here.parked) == [record.offset for record in log]
        assert len(state.passes) > 2

    within(scenario())


def test_what_was_parked_is_followed_from_the_committed_offset_after_a_restart(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        await send(here.bootstrap, here.parked, numbers(10))
        first, second = toy_of(here), toy_of(here)
        async with hosted(passing(here), first):
            first.parts = [4, 0, 0, 0, 0, 0]
            first.wanted = 1
            await until(lambda: len(first.again_offsets) > 1)
            first.wanted = 0
        assert await committed(here, here.parked) == [4]
        async with hosted(passing(here), second):
            assert second.states[-1].offsets_followed(here.parked) == list(range(4, 10))
            second.wanted = 1
            await until(lambda: second.states[-1].passes)
        assert answered(await answers(here.bootstrap, here.out, 10), here.parked) == list(range(10))
        assert await committed(here, here.parked) == [10]

    within(scenario())


class Trouble:
    """Lets the second commit fail between the delivery of its outputs and its end, in one of several ways."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, here: Place, what: str, guard: Hand) -> None:
        self.here = here
        self.what = what
        self.guard = guard
        self.commits = 0
        self.hangs = asyncio.Event()
        self.others: list[Transactions] = []
        trouble = self

        async def commit(transactions: Transactions, outputs: Any, offsets: Any, stopped: Any) -> bool:
            trouble.commits += 1
            if trouble.commits != 2:
                return await COMMIT(transactions, outputs, offsets, stopped)
            producer = transactions._producer
            await producer.begin_transaction()
            await asyncio.gather(*await transactions._write(outputs))
            await producer.send_offsets_to_transaction(dict(offsets), transactions._group)
            await trouble.happen()
            if stopped():
                await producer.abort_transaction()
                return False
            await producer.commit_transaction()
            if trouble.what == "answer lost":
                raise KafkaError("the answer was lost")
            return True

        monkeypatch.setattr(Transactions, "commit", commit)

    async def happen(self) -> None:
        match self.what:
            case "error":
                raise KafkaError("planted")
            case "fenced":
                self.others.append(await self.here.producer())
            case "killed":
                self.hangs.set()
                await asyncio.Event().wait()
            case "epoch":
                self.guard.move()
            case "lease":
                self.guard.lose()
                asyncio.get_running_loop().call_later(0.3, self.guard.gain)


@pytest.mark.parametrize("what", ["error", "answer lost", "fenced", "killed", "epoch", "lease"])
def test_a_pass_that_is_broken_off_in_the_middle_loses_and_doubles_nothing(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, what: str
):
    """Killed: nothing is tidied up, the transaction stays open until the next owner fences it."""

    async def scenario() -> None:
        here = await place(topics)
        toy, witness, guard = toy_of(here), Witness(), Hand()
        trouble = Trouble(monkeypatch, here, what, guard)
        await send(here.bootstrap, here.parked, [b"0", b"keep", *numbers(8, 2)])
        spec = passing(here, batch_records_max=4)

        async def finish(toy: Toy, lane: Any) -> None:
            await until(lambda: toy.states and toy.states[-1].passes)
            await send(here.bootstrap, here.inputs[0], [b"after"])
            await lead_out(lane)
            assert not lane.crashed

        toy.wanted = 1
        async with hosted(spec, toy, witness, guard, open_=False) as lane:
            if what == "killed":
                await trouble.hangs.wait()
            else:
                await finish(toy, lane)
        if what == "killed":
            toy = toy_of(here)
            toy.wanted = 1
            async with hosted(spec, toy, None, guard) as lane:
                await finish(toy, lane)
        for other in trouble.others:
            await other.drop()

        found = await answers(here.bootstrap, here.out, 10)
        assert answered(found, here.parked) == [0, *range(2, 10)]
        assert answered(found, here.inputs[0]) == [0]
        assert counted(found) == list(range(1, 11))
        state = toy.states[-1]
        assert list(state.parked.values()) == [b"keep"]
        log = await read(here.bootstrap, here.parked)
        heard = state.offsets_followed(here.parked)
        assert heard == [record.offset for record in log if record.offset >= heard[0]]
        (next_,) = await committed(here, here.parked)
        assert next_ is not None
        assert [record.value for record in log if record.offset >= next_] == [b"keep"]
        word = {"error": "unknown", "answer lost": "unknown", "killed": "revoked"}.get(what, what)
        assert witness.aborts == [word]

    within(scenario())


def test_a_pass_ends_although_only_markers_and_aborted_records_stand_at_its_end(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        toy = toy_of(here)
        await send(here.bootstrap, here.parked, numbers(3))
        async with producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer:
            for _ in range(5):
                await producer.begin_transaction()
                await producer.send_and_wait(here.parked, b"aborted", partition=0)
                await producer.abort_transaction()
        async with hosted(passing(here, batch_records_max=3), toy):
            started = time.monotonic()
            for n in (1, 2):
                toy.wanted = n
                await until(lambda n=n: len(toy.states[-1].passes) == n, 10.0)
            assert time.monotonic() - started < 5.0
        assert answered(await answers(here.bootstrap, here.out, 3), here.parked) == [0, 1, 2]
        assert [record.value for record in await read(here.bootstrap, here.parked)] == numbers(3)

    within(scenario())


def test_a_pass_goes_on_where_retention_has_deleted_what_lay_at_its_beginning(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        toy = toy_of(here)
        await send(here.bootstrap, here.parked, numbers(10))
        async with hosted(passing(here), toy) as lane:
            admin = AIOKafkaAdminClient(bootstrap_servers=here.bootstrap)
            await admin.start()
            try:
                await admin.delete_records({TopicPartition(here.parked, 0): RecordsToDelete(before_offset=6)})
            finally:
                await admin.close()
            toy.wanted = 1
            await until(lambda: toy.states[-1].passes)
            await send(here.bootstrap, here.inputs[0], [b"after"])
            await lead_out(lane)
        found = await answers(here.bootstrap, here.out, 5)
        assert answered(found, here.parked) == [6, 7, 8, 9]
        assert toy.states[-1].offsets_followed(here.parked) == list(range(10))

    within(scenario())


def test_a_fetch_that_is_cancelled_takes_no_record_with_it(topics: Topics):
    """A lane that leaves cancels its fetch; whatever the consumer's position has passed was handed out."""

    async def scenario() -> None:
        here = await place(topics)
        async with consuming(here.bootstrap, fetch_max_wait_ms=5) as consumer:
            tp = here.input()
            consumer.assign([tp])
            await consumer.seek_to_beginning(tp)
            got: list[int] = []
            cut = 0
            sending = asyncio.ensure_future(send(here.bootstrap, here.inputs[0], numbers(3_000), linger_ms=1))
            while len(got) < 3_000:
                fetching = asyncio.ensure_future(consumer.getmany(tp, timeout_ms=50, max_records=5))
                for _ in range(random.randrange(6)):
                    await asyncio.sleep(0)
                fetching.cancel()
                await asyncio.wait([fetching])
                if fetching.cancelled():
                    cut += 1
                else:
                    got += [record.offset for batch in fetching.result().values() for record in batch]
                assert await consumer.position(tp) == len(got)
            await sending
            assert cut > 50
            assert got == list(range(3_000))

    within(scenario())


def test_inputs_are_answered_while_a_pass_waits_for_somebodys_open_transaction(topics: Topics):
    async def scenario() -> None:
        here = await place(topics)
        toy = toy_of(here)
        await send(here.bootstrap, here.parked, numbers(3))
        async with hosted(passing(here), toy) as lane:
            async with producing(here.bootstrap, transactional_id=f"{here.prefix}other") as producer:
                await producer.begin_transaction()
                await producer.send_and_wait(here.parked, b"hidden", partition=0)
                toy.wanted = 1
                await asyncio.sleep(1.2)
                await send(here.bootstrap, here.inputs[0], numbers(5))
                found = await answers(here.bootstrap, here.out, 5)
                assert answered(found, here.parked) == []
                await producer.commit_transaction()
            found = await answers(here.bootstrap, here.out, 9)
            assert answered(found, here.parked) == [0, 1, 2, 3]
            assert not lane.crashed

    within(scenario())


# --- the lease --------------------------------------------------------------------------------------------------------


def test_while_the_lease_is_gone_nothing_becomes_visible_and_afterwards_everything_does(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, inputs=2)
        guard, witness = Hand(), Witness()
        toy = Toy(here.out, before=lambda *_: guard.lose())
        for which in range(2):
            await send(here.bootstrap, here.inputs[which], numbers(20))
        async with hosted(here.spec(), toy, witness, guard) as lane:
            await until(lambda: witness.aborts)
            toy.before = None
            await until(lambda: lane.consumer.paused() == {here.input(0, 0), here.input(0, 1)})
            await asyncio.sleep(0.5)
            assert await read_values(here.bootstrap, here.out) == []
            assert await committed(here, *here.inputs) == [None, None]
            assert (witness.aborts, len(toy.seen)) == (["lease"], 1)
            guard.gain()
            assert counted(await answers(here.bootstrap, here.out, 40)) == list(range(1, 41))
            assert lane.consumer.paused() == set()
            assert witness.aborts == ["lease"]

    within(scenario())


def test_a_lane_that_waits_for_its_lease_gives_its_partitions_away_and_stops_at_once(topics: Topics):
    async def scenario() -> None:
        here = await place(topics, partitions=2)
        guard = Hand()
        guard.lose()
        async with hosted(here.spec("a"), Toy(here.out), None, guard) as a:
            await until(lambda: len(a.slices) == 2 and a.ready)
            await send(here.bootstrap, here.inputs[0], numbers(5))
            started = time.monotonic()
            a_revoking = list(a.slices.values())
            async with hosted(here.spec("b"), Toy(here.out)) as b:
                await until(lambda: b.ready and a.ready and len(a.slices) == len(b.slices) == 1)
                assert time.monotonic() - started < 5.0
                assert all(piece.task is not None and piece.task.done() for piece in a_revoking)
            started = time.monotonic()
            await a.stop()
            assert time.monotonic() - started < 2.0
        assert await committed(here, here.inputs[0]) in ([None], [5])

    within(scenario())


# --- what the acks tell -----------------------------------------------------------------------------------------------


def test_the_acks_tell_the_epoch_of_a_commit_while_it_is_under_way(topics: Topics, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        here = await place(topics)
        guard = Hand()
        guard.epoch, guard.stopping = 812, False
        told: list[Any] = []

        async def slow(transactions: Transactions, outputs: Any, offsets: Any, stopped: Callable[[], bool]) -> bool:
            def asked() -> bool:
                guard.epoch = 815
                told.append(guard.doing())
                return stopped()

            return await COMMIT(transactions, outputs, offsets, asked)

        monkeypatch.setattr(Transactions, "commit", slow)
        async with hosted(here.spec(), Toy(here.out), None, guard):
            stirs = guard.stirs
            await send(here.bootstrap, here.inputs[0], [b"x"])
            await answers(here.bootstrap, here.out, 1)
            await until(lambda: guard.stirs == stirs + 1)
            assert [doing[:2] for doing in told] == [((0,), 812)]
            assert guard.told[-1][:2] == ((0,), None)
        assert guard.doing()[:2] == ((), None)

    within(scenario())


# --- clients that are cancelled while they start ----------------------------------------------------------------------


def test_a_client_that_is_cancelled_while_it_starts_leaves_nothing_behind(topics: Topics):
    """An opening is cancelled at any point, whenever its partition is revoked."""

    async def scenario() -> None:
        here = await place(topics)
        client = here.spec().client
        makers: list[Callable[[], Any]] = [
            lambda: high_watermarks(client, [here.input()]),
            lambda: Transactions.start(client, f"{here.prefix}x", "g"),
        ]
        for make in makers:
            finished = 0
            for turns in range(0, 400, 3):
                before = asyncio.all_tasks()
                starting = asyncio.ensure_future(make())
                for _ in range(turns):
                    await asyncio.sleep(0.0005 if turns > 60 else 0)
                    if starting.done():
                        break
                finished += starting.done()
                starting.cancel()
                await asyncio.wait([starting])
                if not starting.cancelled() and isinstance(started := starting.result(), Transactions):
                    await started.drop()
                await asyncio.sleep(0.01)
                assert asyncio.all_tasks() - before == set(), turns
                if finished > 3:
                    break
            assert finished
            gc.collect()  # what was not closed warns

    within(scenario())
