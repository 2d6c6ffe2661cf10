"""The work of a slice against logs in memory: what is followed, what lies parked, the lease, and what the acks tell.

The same on a real Kafka, in fewer cases: tests/kafka/test_lane_passes.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.errors import BrokenError
from hitl_stream.lane import lane as lane_module
from hitl_stream.lane.guard import Doing
from hitl_stream.lane.step import State, Step
from support.bench import NUMBER, Bench
from support.toy import Toy

T = TypeVar("T")
LIMIT_S = 20.0
IN, PARKED = TopicPartition("in", NUMBER), TopicPartition("parked", NUMBER)


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


def run(scenario: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(LIMIT_S):
            return await scenario()

    return asyncio.run(limited())


def raising(error: BaseException) -> Callable[[], Any]:
    """Return a fault: the outputs are written, and then this."""

    def fault() -> Any:
        raise error

    return fault


def lost_answer() -> Exception:
    """A fault: the broker commits, and its answer does not reach us."""
    return KafkaError("the answer was lost")


# --- following --------------------------------------------------------------------------------------------------------


def test_a_followed_topic_is_read_from_its_beginning_and_then_as_it_grows_without_any_output():
    async def scenario() -> None:
        bench = Bench(followed=("facts",))
        bench.append("facts", *numbers(3))
        bench.append("in", *numbers(2))
        async with bench.working():
            await bench.settled()
            bench.append("facts", *numbers(2, 3))
            bench.mark("facts")
            bench.append("in", *numbers(2, 2))
            await bench.settled()
        (state,) = bench.toy.states
        assert state.offsets_followed("facts") == [0, 1, 2, 3, 4]
        assert bench.answers("in") == [0, 1, 2, 3]
        assert bench.answers("facts") == []
        assert bench.committed == {IN: 4}

    run(scenario)


def test_what_is_followed_is_not_followed_twice_when_the_batch_beside_it_is_aborted():
    """The batch comes again; what was fetched with it was taken in already."""

    async def scenario() -> None:
        bench = Bench(followed=("facts",), parked="parked")
        bench.faults = [bench.guard.move, None]
        async with bench.working():
            await bench.settled()
            bench.append("facts", *numbers(3))
            bench.append("parked", *numbers(2))
            bench.append("in", *numbers(3))
            await bench.settled()
        (state,) = bench.toy.states
        assert bench.witness.aborts == ["epoch"]
        assert (state.offsets_followed("facts"), state.offsets_followed("parked")) == ([0, 1, 2], [0, 1])
        assert bench.counts() == [1, 2, 3]

    run(scenario)


def test_a_state_that_cannot_follow_crashes_the_lane_and_says_why():
    class Deaf(Toy):
        def state(self) -> Any:
            state = super().state()
            state.follow = lambda records: State.follow(state, records)  # type: ignore[method-assign]
            return state

    async def scenario() -> None:
        bench = Bench(Deaf("out"), followed=("facts",))
        async with bench.working():
            await bench.settled()
            bench.append("facts", b"x")
            await bench.until(lambda: bench.lane.crashed)

    with pytest.raises(BrokenError, match="ToyState does not follow facts"):
        run(scenario)


def test_a_partition_without_that_of_every_topic_does_not_open():
    """Otherwise what lies parked would be passed over, or the state be silently incomplete."""

    async def scenario() -> tuple[bool, bool]:
        bench = Bench(parked="parked")
        async with bench.working() as piece:
            await bench.settled()
            await bench.lane._revoke()
            bench.lane._assign([IN])
            await bench.turns(50)
            opened = bench.lane.ready
            await bench.lane._revoke()
            bench.assign()
            await bench.settled()
            assert piece is not bench.lane.slices[NUMBER]
            return opened, bench.lane.ready

    assert run(scenario) == (False, True)


# --- no room ----------------------------------------------------------------------------------------------------------


def test_without_room_inputs_wait_unread_and_what_is_followed_and_parked_goes_on():
    async def scenario() -> None:
        bench = Bench(followed=("facts",), parked="parked")
        async with bench.working() as piece:
            await bench.settled()
            (state,) = bench.toy.states
            state.has_room = lambda state: len(state.parked) < 2
            bench.append("parked", *numbers(2))
            await bench.settled()
            bench.append("in", *numbers(3))
            bench.append("facts", *numbers(2))
            bench.append("parked", *numbers(1, 2))
            await bench.settled()
            assert (bench.answers("in"), bench.consumer.positions[IN], piece.resting) == ([], 0, True)
            assert (state.offsets_followed("facts"), state.offsets_followed("parked")) == ([0, 1], [0, 1, 2])
            bench.toy.wanted = 1
            await bench.settled()
            assert (bench.answers("parked"), bench.answers("in"), piece.resting) == ([0, 1, 2], [0, 1, 2], False)
        assert bench.committed == {IN: 3, PARKED: 3}

    run(scenario)


def test_a_slice_without_room_and_without_anything_to_follow_leaves_at_once():
    async def scenario() -> None:
        bench = Bench()
        async with bench.working() as piece:
            await bench.settled()
            (state,) = bench.toy.states
            state.has_room = lambda state: False
            bench.append("in", *numbers(1))
            await bench.until(lambda: piece.resting)
        assert bench.answers("in") == []

    run(scenario)


# --- passes -----------------------------------------------------------------------------------------------------------


def test_a_pass_takes_each_parked_record_once_and_in_order():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=4)
        bench.append("parked", *numbers(10))
        async with bench.working():
            await bench.settled()
            assert bench.answers("parked") == []
            bench.toy.wanted = 1
            await bench.settled()
        (state,) = bench.toy.states
        assert bench.answers("parked") == list(range(10))
        assert bench.committed == {PARKED: 10}
        assert (state.parked, state.offsets_followed("parked")) == ({}, list(range(10)))

    run(scenario)


def test_without_a_wish_nothing_parked_is_touched():
    async def scenario() -> None:
        bench = Bench(parked="parked")
        bench.append("parked", *numbers(10))
        bench.append("in", *numbers(3))
        async with bench.working():
            await bench.settled()
        assert bench.toy.again_offsets == []
        assert bench.committed == {IN: 3}

    run(scenario)


def test_what_is_parked_again_goes_to_the_end_and_is_not_taken_in_the_same_pass():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=2)
        bench.append("parked", b"keep a", b"1", b"keep b", b"3")
        async with bench.working():
            await bench.settled()
            bench.toy.wanted = 1
            await bench.settled()
            assert bench.answers("parked") == [1, 3]
            assert list(bench.toy.states[0].parked.values()) == [b"keep a", b"keep b"]
            assert bench.committed == {PARKED: 4}
            first = sum(map(len, bench.toy.again_offsets))
            bench.toy.wanted = 2
            await bench.settled()
        assert first == 4
        assert sum(map(len, bench.toy.again_offsets)) == 4 + 2
        assert bench.log("parked").values() == [b"keep a", b"1", b"keep b", b"3", *[b"keep a", b"keep b"] * 2]

    run(scenario)


def test_what_is_parked_during_a_pass_is_followed_once_afterwards_and_waits_for_the_next():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=3)
        bench.append("parked", *numbers(6))
        async with bench.working():
            await bench.settled()
            bench.faults = [lambda: bench.append("parked", b"new"), None]
            bench.toy.wanted = 1
            await bench.settled()
            (state,) = bench.toy.states
            assert bench.answers("parked") == list(range(6))
            assert state.offsets_followed("parked") == [*range(6), 6]
            assert list(state.parked) == [6]
            bench.toy.wanted = 2
            await bench.settled()
        assert bench.answers("parked") == [*range(6), 6]

    run(scenario)


def test_when_a_whole_pass_ends_it_has_looked_at_all_that_the_state_was_told_of():
    """Also at what was fetched together with the last record below the watermark: the state takes that for done."""
    left: list[list[int]] = []

    async def scenario() -> None:
        bench = Bench(parked="parked")
        bench.append("parked", *numbers(2))
        watermarks = bench.high_watermarks

        async def then_two_more(of: Any) -> Any:
            found = await watermarks(of)
            bench.append("parked", *numbers(2, 2))
            await bench.until(lambda: bench.consumer.positions[PARKED] == 2)
            return found | {PARKED: 3}

        async with bench.working():
            await bench.settled()
            (state,) = bench.toy.states
            passed = state.passed
            state.passed = lambda epoch: (left.append(sorted(state.parked)), passed(epoch))  # type: ignore[method-assign]
            bench.high_watermarks = then_two_more  # type: ignore[method-assign]
            bench.toy.wanted = 1
            await bench.settled()
        assert bench.answers("parked") == [0, 1, 2, 3]

    run(scenario)
    assert left == [[]]


def test_a_pass_that_takes_only_a_part_commits_that_part_and_ends():
    async def scenario() -> None:
        bench = Bench(parked="parked")
        bench.append("parked", *numbers(5))
        seen: list[tuple[Any, ...]] = []

        def look(*_: Any) -> None:
            seen.append((bench.committed.get(PARKED), piece.parked_from, sorted(state.parked), list(state.passes)))
            if len(seen) == 2:
                bench.append("parked", b"5")

        bench.toy.before_again = look
        async with bench.working() as piece:
            await bench.settled()
            (state,) = bench.toy.states
            bench.toy.parts = [2, 0]
            bench.toy.wanted = 1
            await bench.settled()
        assert seen == [
            (None, 0, [0, 1, 2, 3, 4], []),
            (2, 2, [2, 3, 4], []),
            (2, 2, [2, 3, 4, 5], []),
        ]
        assert bench.toy.again_offsets == [[0, 1, 2, 3, 4], [2, 3, 4], [2, 3, 4, 5]]
        assert bench.answers("parked") == list(range(6))
        assert (state.offsets_followed("parked"), state.passes) == (list(range(6)), [0])

    run(scenario)


def test_a_pass_over_nothing_but_markers_ends():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=2)
        bench.append("parked", b"0", b"1")
        bench.mark("parked", 5)
        async with bench.working():
            await bench.settled()
            bench.toy.wanted = 1
            await bench.settled()
            assert bench.toy.states[0].passes == [0]
            bench.mark("parked", 3)
            bench.toy.wanted = 2
            await bench.settled()
        assert bench.toy.states[0].passes == [0, 0]
        assert bench.answers("parked") == [0, 1]

    run(scenario)


def test_inputs_are_decided_while_a_pass_waits_for_somebodys_open_transaction():
    async def scenario() -> None:
        bench = Bench(parked="parked")
        bench.append("parked", *numbers(2))
        async with bench.working():
            await bench.settled()
            log = bench.log("parked")
            log.hidden_from = log.end
            bench.append("parked", b"2")
            bench.toy.wanted = 1
            await bench.turns(50)
            bench.append("in", *numbers(3))
            await bench.until(lambda: bench.answers("in") == [0, 1, 2])
            assert bench.answers("parked") == []
            log.hidden_from = None
            await bench.settled()
        assert bench.answers("parked") == [0, 1, 2]

    run(scenario)


def test_inputs_that_come_during_a_pass_are_decided_after_it():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=2)
        bench.append("parked", *numbers(6))
        async with bench.working():
            await bench.settled()
            bench.faults = [None, lambda: bench.append("in", *numbers(5))]
            bench.toy.wanted = 1
            await bench.settled()
        assert (bench.answers("parked"), bench.answers("in")) == (list(range(6)), list(range(5)))
        assert bench.counts() == list(range(1, 12))

    run(scenario)


def test_a_pass_that_control_stops_ends_and_the_next_one_does_the_rest():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=3)
        bench.append("parked", *numbers(6))
        async with bench.working() as piece:
            await bench.settled()
            seen: list[tuple[int, int]] = []

            def stop() -> None:
                bench.guard.move()
                bench.append("in", b"between")

            def look() -> None:
                seen.append((piece.parked_from, bench.consumer.positions[IN]))

            bench.faults = [None, stop, look]
            bench.toy.wanted = 1
            await bench.settled()
            assert bench.consumer.positions[PARKED] == bench.log("parked").end
        assert bench.witness.aborts == ["epoch"]
        assert seen == [(3, 1)]  # the input came before the next pass, which goes on at the fourth record
        assert bench.toy.again_offsets == [[0, 1, 2], [3, 4, 5], [3, 4, 5]]
        assert bench.answers("parked") == list(range(6))
        assert bench.toy.states[0].offsets_followed("parked") == list(range(6))
        assert bench.toy.states[0].passes == [1]

    run(scenario)


def test_a_pass_whose_lease_runs_out_goes_on_when_it_is_back():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=3)
        bench.append("parked", *numbers(6))
        async with bench.working():
            await bench.settled()
            bench.faults = [bench.guard.lose]
            bench.toy.wanted = 1
            await bench.until(lambda: bench.consumer.paused)
            await bench.turns(50)
            assert bench.log("out").values() == []
            bench.append("parked", b"6")
            bench.guard.gain()
            await bench.settled()
        assert bench.witness.aborts == ["lease"]
        assert bench.answers("parked") == list(range(7))
        assert bench.toy.states[0].offsets_followed("parked") == list(range(7))

    run(scenario)


@pytest.mark.parametrize(
    "fault",
    [raising(ProducerFenced()), raising(KafkaError()), raising(TimeoutError()), lost_answer],
    ids=["fenced", "error before the commit", "time limit", "answer lost"],
)
def test_a_pass_that_fails_between_writing_and_committing_loses_and_doubles_nothing(fault: Callable[[], Any]):
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=3)
        bench.append("parked", b"0", b"keep", *numbers(6, 2))
        bench.append("in", *numbers(2))
        async with bench.working():
            await bench.settled()
            bench.faults = [None, fault]
            bench.toy.wanted = 1
            await bench.settled()
        assert len(bench.toy.states) == 2
        assert bench.answers("parked") == [0, 2, 3, 4, 5, 6, 7]
        assert list(bench.toy.states[1].parked.values()) == [b"keep"]
        assert bench.counts() == list(range(1, 10))

    run(scenario)


def test_a_partition_that_is_taken_away_in_the_middle_of_a_pass_goes_on_with_its_next_owner():
    async def scenario() -> None:
        bench = Bench(parked="parked", batch_records_max=2)
        bench.append("parked", *numbers(6))
        never: list[asyncio.Event] = []

        async def hang() -> None:
            never.append(asyncio.Event())
            await never[0].wait()

        async with bench.working():
            await bench.settled()
            bench.faults = [None, hang]
            bench.toy.wanted = 1
            await bench.until(lambda: never)
            await bench.lane._revoke()  # cancels the commit after its moment of grace
            assert bench.witness.aborts == ["revoked"]
            bench.assign()
            await bench.settled()
        assert bench.answers("parked") == list(range(6))
        assert bench.toy.states[0].discarded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane_module, "REVOKE_GRACE_S", 0.05)
        run(scenario)


def test_what_a_pass_decides_is_counted_but_its_ages_are_not():
    """How long a record lay parked says nothing of how fast the lane is."""
    told: list[tuple[int, list[int]]] = []

    async def scenario() -> None:
        bench = Bench(parked="parked")
        bench.witness.committed = lambda *said: told.append((said[1], list(said[4])))  # type: ignore[method-assign]
        bench.append("parked", *numbers(3))
        async with bench.working():
            await bench.settled()
            bench.toy.wanted = 1
            await bench.settled()

    run(scenario)
    assert told == [(3, [])]


def test_a_step_that_knows_no_passes_says_so():
    class Plain(Toy):
        again = Step.again

    async def scenario() -> None:
        bench = Bench(Plain("out"), parked="parked")
        bench.append("parked", b"x")
        async with bench.working():
            await bench.settled()
            bench.toy.wanted = 1
            await bench.settled()

    with pytest.raises(BrokenError, match="Plain does not decide what lay parked"):
        run(scenario)


# --- the law ----------------------------------------------------------------------------------------------------------

FAULTS = ("none", "stop", "lease", "fenced", "error", "answer lost", "input", "park", "fact", "wish", "part")


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(FAULTS), max_size=25), st.integers(1, 5))
def test_whatever_happens_each_input_and_each_parked_record_is_answered_once_and_in_order(script: list[str], most: int):
    """And the state is told of each record of what it follows exactly once, from where it was opened."""

    async def scenario() -> None:
        bench = Bench(followed=("facts",), parked="parked", batch_records_max=most)
        guard = bench.guard

        def arrive(topic: str, *values: bytes) -> None:
            bench.append(topic, *values)

        def part() -> None:
            bench.toy.parts.append(1)

        def wish() -> None:
            bench.toy.wanted += 1

        async def lose() -> None:
            guard.lose()
            asyncio.get_running_loop().call_later(0.001, guard.gain)

        happenings: dict[str, Callable[[], Any] | None] = {
            "none": None,
            "stop": guard.move,
            "lease": lose,
            "fenced": raising(ProducerFenced()),
            "error": raising(KafkaError()),
            "answer lost": lost_answer,
            "input": lambda: arrive("in", b"a", b"b", b"c"),
            "park": lambda: arrive("parked", b"p", b"keep", b"q"),
            "fact": lambda: arrive("facts", b"f", b"g"),
            "wish": wish,
            "part": part,
        }
        bench.append("in", *numbers(6))
        bench.append("parked", b"0", b"keep", b"2")
        bench.append("facts", *numbers(3))
        bench.toy.wanted = 1
        bench.faults = [happenings[name] for name in script]
        async with bench.working():
            await bench.settled()
            while bench.faults:
                bench.append("in", b"more")  # another commit, for the next fault
                await bench.settled()
            bench.toy.wanted = len(bench.toy.states[-1].passes) + 1
            await bench.settled()

        inputs = bench.log("in").end
        assert bench.answers("in") == list(range(inputs))
        assert bench.counts() == list(range(1, len(bench.counts()) + 1))
        free = [record.offset for record in bench.log("parked").records if record and record.value != b"keep"]
        assert bench.answers("parked") == free
        state = bench.toy.states[-1]
        parked = [record.value for record in bench.log("parked").records if record and record.offset in state.parked]
        assert parked == [b"keep"] * (1 + script.count("park"))
        for one in bench.toy.states:
            told = one.offsets_followed("facts")
            assert told == list(range(len(told)))
            heard = one.offsets_followed("parked")
            there = [record.offset for record in bench.log("parked").records if record]
            assert heard == [offset for offset in there if heard and heard[0] <= offset <= heard[-1]]

    run(scenario)


# --- the lease --------------------------------------------------------------------------------------------------------


def test_a_batch_whose_lease_runs_out_before_its_commit_is_decided_again_when_it_is_back():
    async def scenario() -> None:
        bench = Bench(inputs=("in", "on"))
        bench.faults = [bench.guard.lose]
        bench.append("in", *numbers(3))
        bench.append("on", *numbers(2))
        async with bench.working():
            await bench.until(lambda: bench.consumer.paused and bench.witness.aborts)
            await bench.turns(100)
            assert bench.log("out").values() == []
            assert bench.committed == {}
            assert bench.consumer.paused == {IN, TopicPartition("on", NUMBER)}
            bench.guard.gain()
            await bench.settled()
            assert bench.consumer.paused == set()
        assert bench.witness.aborts == ["lease"]
        assert bench.toy.seen == [0, 0]  # each time with the committed state
        assert bench.counts() == [1, 2, 3, 4, 5]

    run(scenario)


def test_a_lane_without_a_lease_opens_and_decides_nothing():
    """Starting while control is unreachable is staying stopped."""

    async def scenario() -> None:
        bench = Bench()
        bench.guard.lose()
        bench.append("in", *numbers(3))
        async with bench.working():
            await bench.until(lambda: bench.lane.ready)
            await bench.turns(100)
            assert bench.toy.seen == []
            bench.guard.gain()
            await bench.settled()
            assert bench.answers("in") == [0, 1, 2]
        assert bench.witness.aborts == []

    run(scenario)


@pytest.mark.parametrize("what", ["timer", "pass"])
def test_nothing_is_decided_over_and_over_while_the_lease_is_gone_and_something_is_due(what: str):
    """A timer or a pass first reads the inputs to their end; without a lease it would not get there."""

    async def scenario() -> int:
        bench = Bench(parked="parked")
        async with bench.working():
            await bench.settled()
            log = bench.log("in" if what == "timer" else "parked")
            log.hidden_from = log.end + 1  # somebody's open transaction, so that the end is not reached
            bench.append("in", b"0")
            bench.append("parked", b"0")
            log.records.append(None)
            bench.faults = [bench.guard.lose]
            if what == "timer":
                bench.toy.states[0].due_ms = 1
            else:
                bench.toy.wanted = 1
            await bench.until(lambda: bench.consumer.paused)
            await bench.turns(200)
            return len(bench.witness.aborts)

    assert run(scenario) == 1


def test_a_slice_that_waits_for_the_lease_leaves_at_once():
    async def scenario() -> None:
        bench = Bench()
        bench.guard.lose()
        async with bench.working() as piece:
            await bench.until(lambda: bench.consumer.paused and bench.lane.ready)
            await bench.turns(10)
            piece.leave()
            for _ in range(10):
                await asyncio.sleep(0)
            assert piece.task is not None
            assert piece.task.done()
            assert bench.consumer.paused == {IN}  # what is not ours any more is not touched

            bench.lane.incarnation += 1  # as `_revoke` does: the task may end

    run(scenario)


def test_a_guard_that_fails_while_it_is_waited_for_crashes_the_lane():
    """It must not be asked again for ever."""

    async def scenario() -> None:
        bench = Bench()
        bench.guard.lose()

        async def allowed() -> None:
            raise ValueError("no")

        bench.guard.allowed = allowed  # type: ignore[method-assign]
        async with bench.working():
            await bench.until(lambda: bench.lane.crashed)

    with pytest.raises(ValueError, match="no"):
        run(scenario)


# --- what the acks tell -----------------------------------------------------------------------------------------------


def test_the_acks_tell_what_is_open_and_under_which_epoch_a_commit_was_decided():
    async def scenario() -> None:
        bench = Bench()
        seen: list[Doing] = []
        bench.guard.epoch = 7

        def look() -> None:
            seen.append(bench.guard.doing())
            bench.guard.epoch = 9
            bench.guard.stopping = False
            seen.append(bench.guard.doing())

        bench.faults = [look]
        async with bench.working():
            assert bench.guard.doing().partitions == ()
            await bench.settled()
            assert bench.guard.doing()[:4] == ((NUMBER,), None, 0, None)
            bench.append("in", b"0")
            await bench.settled()
            assert bench.guard.doing()[:4] == ((NUMBER,), None, 0, None)
        assert [doing[:2] for doing in seen] == [((NUMBER,), 7)] * 2
        assert bench.guard.doing()[:4] == ((), None, 0, None)

    run(scenario)


def test_the_guard_is_stirred_when_a_slice_opens_or_closes_and_after_a_commit_during_which_the_epoch_moved():
    async def scenario() -> None:
        bench = Bench()
        guard = bench.guard
        guard.stopping = False
        async with bench.working():
            await bench.settled()
            assert [doing[:2] for doing in guard.told] == [((NUMBER,), None)]
            bench.append("in", b"0")
            await bench.settled()
            assert guard.stirs == 1
            bench.faults = [guard.move]
            bench.append("in", b"1")
            await bench.settled()
            assert guard.stirs == 2
            assert guard.told[-1].open_epoch is None
        assert guard.stirs == 3
        assert guard.told[-1][:2] == ((), None)

    run(scenario)


@pytest.mark.parametrize("stops", [True, False], ids=["aborted", "committed"])
def test_the_epoch_of_a_commit_is_told_until_it_is_over_whatever_becomes_of_it(stops: bool):
    async def scenario() -> list[int | None]:
        bench = Bench()
        told: list[int | None] = []
        bench.guard.epoch = 3
        bench.guard.stopping = stops

        async def move() -> None:
            bench.guard.move()
            for _ in range(3):
                told.append(bench.guard.doing().open_epoch)
                await asyncio.sleep(0)

        bench.faults = [move]
        bench.append("in", b"0")
        async with bench.working():
            await bench.settled()
            told.append(bench.guard.doing().open_epoch)
        return told

    assert run(scenario) == [3, 3, 3, None]


def test_what_a_revoked_slice_has_open_is_told_until_its_producer_is_dropped():
    """It may be committed until then: the acks must not say that nothing decided before is open any more."""

    async def scenario() -> None:
        bench = Bench()
        hanging, dropped = asyncio.Event(), asyncio.Event()
        bench.guard.epoch = 5

        async def hang() -> None:
            hanging.set()
            await asyncio.Event().wait()

        async def dropping() -> None:
            await dropped.wait()

        bench.faults = [hang]
        bench.append("in", b"0")
        async with bench.working():
            await hanging.wait()
            bench.dropping = dropping  # type: ignore[method-assign]
            await bench.lane._revoke()
            assert bench.lane.slices == {}
            assert bench.guard.doing()[:2] == ((), 5)
            bench.guard.epoch = 6
            bench.assign()
            await bench.settled()
            assert bench.guard.doing()[:2] == ((NUMBER,), 5)
            stirs = bench.guard.stirs
            dropped.set()
            await bench.turns(5)
            assert bench.guard.doing()[:2] == ((NUMBER,), None)
            assert bench.guard.stirs == stirs + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane_module, "REVOKE_GRACE_S", 0.05)
        run(scenario)


def test_a_doubtful_transaction_is_told_until_its_producer_is_dropped_and_not_through_the_rest_before_reopening():
    async def scenario() -> None:
        bench = Bench(heartbeat_ms=60_000)
        bench.guard.epoch = 5
        bench.faults = [raising(ProducerFenced())]
        bench.append("in", b"0")
        async with bench.working() as piece:
            await bench.until(lambda: bench.witness.aborts == ["fenced"] and bench.guard.told)
            await bench.turns(20)
            assert bench.guard.doing()[:2] == ((), None)  # closed; only two heartbeats' rest is left
            assert piece.task is not None
            assert not piece.task.done()

    run(scenario)
