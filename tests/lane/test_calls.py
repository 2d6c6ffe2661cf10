"""Working a slice call by call: what is committed when, in which order, and what may begin, end and be cut off.

In virtual time, with a platform and a state that know nothing of actions.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from hitl_stream.core.errors import BrokenError
from hitl_stream.core.parking import Keys
from hitl_stream.lane.calls import (
    CALL_S_MAX,
    CALLS_MAX,
    HALT_CUT_S,
    LEAVE_S,
    WATCH_S,
    WINDOW,
    Cut,
    Errand,
    Finished,
    Line,
    NotBegun,
    Settled,
    Standing,
)
from hitl_stream.lane.step import Output, Record
from support.call_bench import CallBench
from support.virtual import now_s, virtually

FAST_S = 0.01


class ToyState:
    """Which offsets have their end."""

    def __init__(self) -> None:
        self.ends: set[int] = set()
        self.settled: list[Settled] = []
        self.has_room = True
        self.overdue_ms = 2**62

    def replay(self, records: Sequence[Any]) -> None:
        self.ends |= {int(record.value) for record in records}

    def finished(self, offset: int) -> bool:
        return offset in self.ends

    def room(self) -> bool:
        return self.has_room

    def overdue(self, now_ms: int) -> bool:
        return now_ms >= self.overdue_ms

    def closing(self, settled: Settled) -> Sequence[Output]:
        return [Output("state", 0, b"k", b"%d" % offset) for offset in settled.changes]

    def apply(self, settled: Settled) -> None:
        self.settled.append(settled)
        self.ends |= set(settled.changes)

    def size(self) -> int:
        return len(self.ends)

    def discard(self) -> None:
        pass


class Toy:
    """Caller and platform: a record `acc/cmp` is called about; what happened is noted with its time."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.asked: list[int] = []
        self.answers: dict[int, Any] = {}
        self.times: dict[tuple[str, int], float] = {}
        self.seconds: dict[int, float] = {}
        self.standings: dict[int, Standing] = {}
        self.judged: list[tuple[int, int]] = []
        self.open = 0
        self.open_max = 0
        self.raising: dict[int, Exception] = {}
        self.states: list[ToyState] = []

    def state(self) -> ToyState:
        self.states.append(ToyState())
        return self.states[-1]

    def errand(self, record: Record, state: Any) -> Errand:
        return ToyErrand(self, record)

    def merged(self, tallies: Sequence[Any]) -> Any:
        return sum(tallies)

    async def apply(self, offset: int) -> str:
        self.begun.append(offset)
        self.times["begun", offset] = now_s()
        self.open += 1
        self.open_max = max(self.open_max, self.open)
        try:
            await asyncio.sleep(self.seconds.get(offset, FAST_S))
            if offset in self.raising:
                raise self.raising[offset]
            self.ended.append(offset)
        finally:
            self.open -= 1
            self.times["ended", offset] = now_s()
        return "ok"


class ToyErrand(Errand):
    def __init__(self, toy: Toy, record: Record) -> None:
        self.toy, self.offset = toy, record.offset
        account, _, campaign = (record.value or b"").decode().partition("/")
        self.keys: Keys = frozenset({("t", account, campaign or None)}) if account != "free" else frozenset()

    def standing(self, epoch: int) -> Standing:
        self.toy.judged.append((self.offset, epoch))
        return self.toy.standings.get(self.offset, Standing.RIGHT)

    async def run(self, line: Line) -> Finished:
        toy, offset = self.toy, self.offset
        if line.doubtful:
            toy.asked.append(offset)
        answer: Any = NotBegun.NO_LEASE
        while isinstance(answer, NotBegun):
            await line.allowed()
            async with line.slots:
                answer = await line.call(lambda: toy.apply(offset))
        toy.answers[offset] = answer
        return Finished([Output("results", 0, b"k", b"%d" % offset)], offset, 1)


def run(scenario: Callable[[CallBench, Toy], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        toy = Toy()
        bench = CallBench(toy, toy.state)
        try:
            await scenario(bench, toy)
        finally:
            if hasattr(bench, "task") and not bench.task.done():
                await bench.crash()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == [], "nothing may go on after its slice"

    virtually(whole())


def results(bench: CallBench) -> list[int]:
    return [int(output.value or b"") for output in bench.written["results"]]


def entities(count: int) -> list[bytes]:
    """Return records of so many entities."""
    return [b"acc/cmp-%d" % n for n in range(count)]


# --- what is committed ------------------------------------------------------------------------------------------------


def test_each_record_has_one_result_and_the_offset_moves_past_them_all():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.append(*entities(100), None, *entities(50))
        bench.open()
        await bench.settled()
        assert sorted(results(bench)) == [n for n in range(151) if n != 100]
        assert bench.committed == 151
        assert (bench.piece.calls, bench.piece.calls_epoch) == (0, None)

    run(scenario)


def test_the_committed_offset_is_the_one_below_which_every_record_is_finished():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {3: 2.0}
        bench.append(*entities(10))
        bench.open()
        await bench.settled()
        assert (bench.committed, sorted(results(bench))) == (3, [0, 1, 2, 4, 5, 6, 7, 8, 9])
        await asyncio.sleep(2.0)
        assert bench.committed == 10

    run(scenario)


def test_what_ends_while_a_commit_is_under_way_is_committed_together_with_the_next():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        async def slow() -> None:
            await asyncio.sleep(1.0)

        bench.before_commit = slow
        toy.seconds = {n: 0.1 * (n + 1) for n in range(8)}
        bench.append(*entities(8))
        bench.open()
        await bench.settled(3.0)
        assert bench.commits == [1, 7]

    run(scenario)


def test_the_state_hears_where_the_outputs_stand_and_what_lies_behind():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.append(*entities(3))
        bench.open()
        await bench.settled()
        (state,) = toy.states
        (settled,) = state.settled
        assert sorted(settled.changes) == [0, 1, 2]
        assert (settled.written, settled.below) == ({("results", 0): 2}, 3)
        assert settled.now_ms == bench.guard.now_ms() - 50 or settled.now_ms <= bench.guard.now_ms()
        assert bench.witness.batches == [(0, 3)]

    run(scenario)


def test_a_commit_that_fails_ends_the_work_and_leaves_nothing_running():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        async def lost() -> None:
            raise KafkaError("the answer was lost")

        toy.seconds = {1: 60.0}
        bench.before_commit = lost
        bench.append(*entities(3))
        bench.open()
        with pytest.raises(KafkaError, match="lost"):
            await bench.task
        assert toy.open == 0
        assert (bench.piece.calls, bench.piece.calls_epoch) == (0, None)

    run(scenario)


def test_an_error_in_an_errand_is_a_bug_and_says_where():
    """Also a TimeoutError, after which the slice would only open anew, again and again."""

    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.raising = {1: TimeoutError("of a library")}
        bench.append(*entities(3))
        bench.open()
        with pytest.raises(BrokenError, match=r"hitl\.execute/0/1: Toy raised TimeoutError: of a library"):
            await bench.task

    run(scenario)


# --- the window -------------------------------------------------------------------------------------------------------


def test_nothing_is_begun_beyond_the_window_above_the_committed_offset():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {10: 5.0}
        bench.append(*entities(10), *entities(WINDOW + 50))
        bench.open()
        await bench.settled()
        assert bench.committed == 10
        assert max(toy.begun) == 10 + WINDOW - 1
        assert bench.piece.resting, "a consumer that stands still on purpose has not stalled"
        await asyncio.sleep(5.0)
        assert sorted(results(bench)) == list(range(10 + WINDOW + 50))
        assert not bench.piece.resting

    run(scenario)


def test_markers_count_as_offsets_of_the_window():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 5.0}
        for entity in entities(WINDOW):
            bench.append(entity, None)
        bench.open()
        await bench.settled()
        assert max(toy.begun) == WINDOW - 2

    run(scenario)


@pytest.mark.parametrize("gap", [WINDOW - 1, WINDOW, WINDOW + 1, 5 * WINDOW])
@pytest.mark.parametrize("before", [0, 1])
def test_a_gap_of_markers_and_aborted_records_is_passed_over_however_long_it_is(gap: int, before: int):
    """And that is committed before anything behind it begins: a successor must know what to doubt."""

    async def scenario(bench: CallBench, toy: Toy) -> None:
        committed: list[int | None] = []
        apply = toy.apply

        async def noting(offset: int) -> str:
            committed.append(bench.committed)
            return await apply(offset)

        toy.apply = noting  # type: ignore[method-assign]
        bench.append(*entities(before), *[None] * gap, b"acc/x")
        bench.open()
        await bench.settled()
        assert results(bench) == [*range(before), before + gap]
        assert bench.committed == before + gap + 1
        assert before + gap < (committed[-1] or 0) + WINDOW

    run(scenario)


def test_nothing_is_taken_up_that_the_state_has_no_room_for():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.open()
        toy.states[0].has_room = False
        bench.append(*entities(3))
        await bench.settled(5.0)
        assert toy.begun == []
        toy.states[0].has_room = True
        await bench.settled(2.0)
        assert toy.begun == [0, 1, 2], "room that others gave back is found, too"

    run(scenario)


@pytest.mark.parametrize("full", [False, True])
def test_a_state_gets_rid_of_what_is_overdue_also_where_nothing_ends(full: bool):
    """Else a process whose memory is full of what is overdue would wait for ever."""

    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.open()
        (state,) = toy.states
        state.has_room = not full
        if full:
            bench.append(*entities(2))

        def forget(settled: Settled) -> None:
            ToyState.apply(state, settled)
            state.overdue_ms, state.has_room = 2**62, True

        state.overdue_ms, state.apply = bench.guard.now_ms() + 5_000, forget  # type: ignore[method-assign]
        await asyncio.sleep(4.0)
        assert bench.commits == []
        await bench.settled(3.0)
        assert bench.commits == [0, *([2] if full else [])]
        assert state.settled[0].partition == 0

    run(scenario)


@pytest.mark.behaviour("I2")
def test_a_successor_doubts_what_may_have_been_called_and_leaves_alone_what_has_its_end():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {5: 60.0, 9: 60.0}
        bench.append(*entities(300))
        bench.open()
        await bench.settled()
        assert bench.committed == 5
        await bench.crash()
        before = sorted(results(bench))
        toy.begun.clear()
        toy.seconds = {}
        bench.open()
        await bench.settled()
        assert toy.asked[:WINDOW] == list(range(WINDOW)), "the first owner knew no more"
        assert toy.asked[WINDOW:] == [5, 9], "all others within the window had their end"
        assert set(toy.begun) == {5, 9, *range(300)} - set(before)
        assert sorted(results(bench)) == list(range(300))
        assert bench.committed == 300

    run(scenario)


def test_what_lies_beyond_the_window_of_the_committed_offset_is_not_doubted():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.append(*entities(WINDOW + 5))
        bench.open()
        await bench.settled()
        assert max(toy.asked) == WINDOW - 1
        bench.append(b"acc/late")
        await bench.settled()
        assert max(toy.asked) == WINDOW - 1

    run(scenario)


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("I8")
def test_records_of_one_entity_go_one_after_another_and_others_do_not_wait():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = dict.fromkeys(range(6), 1.0)
        bench.append(b"a/1", b"a/2", b"a/1", b"a", b"a/1", b"b/1")
        bench.open()
        await bench.settled(10.0)
        at = {offset: toy.times["begun", offset] - toy.times["begun", 0] for offset in range(6)}
        assert at == pytest.approx({0: 0.0, 1: 0.0, 2: 1.0, 3: 2.0, 4: 3.0, 5: 0.0}, abs=0.01)

    run(scenario)


def test_the_next_one_of_an_entity_begins_only_when_the_end_of_the_one_before_is_committed():
    """After a crash in between, the first would be called again, after the second."""

    async def scenario(bench: CallBench, toy: Toy) -> None:
        async def slow() -> None:
            await asyncio.sleep(1.0)

        bench.before_commit = slow
        bench.append(b"a/1", b"a/1")
        bench.open()
        await bench.settled(5.0)
        assert toy.times["begun", 1] >= toy.times["ended", 0] + 1.0

    run(scenario)


# --- the lease --------------------------------------------------------------------------------------------------------


def test_nothing_begins_without_a_lease_and_all_of_it_begins_with_one():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.guard.lease = False
        bench.append(*entities(20))
        bench.open()
        await bench.settled(5.0)
        assert (toy.begun, bench.commits) == ([], [])
        bench.guard.lease = True
        await bench.settled()
        assert sorted(results(bench)) == list(range(20))

    run(scenario)


def test_a_lease_that_ends_while_one_waits_for_room_lets_nothing_begin():
    """The guard is asked in the turn of the call, not when its turn was promised."""

    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = dict.fromkeys(range(200), 1.0)
        bench.append(*entities(CALLS_MAX + 40))
        bench.open()
        await asyncio.sleep(0.5)
        bench.guard.lease = False
        await bench.settled(5.0)
        assert len(toy.begun) == CALLS_MAX

    run(scenario)


def test_an_end_is_committed_also_when_the_lease_has_gone_and_a_switch_was_engaged_meanwhile():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 1.0}
        bench.append(b"a/1")
        bench.open()
        await asyncio.sleep(0.5)
        bench.guard.lease = False
        bench.guard.commands.engage("global:*")
        await bench.settled(5.0)
        assert results(bench) == [0]

    run(scenario)


def test_no_more_calls_are_open_than_the_process_may_have():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.append(*entities(WINDOW))
        bench.open()
        await bench.settled()
        assert toy.open_max == CALLS_MAX
        assert len(results(bench)) == WINDOW

    run(scenario)


# --- what a command means for open calls ------------------------------------------------------------------------------


@pytest.mark.behaviour("E15")
def test_a_call_that_must_not_go_on_is_cut_off_half_a_second_after_the_epoch_was_applied():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 60.0, 1: 60.0}
        toy.standings = {0: Standing.WRONG}
        bench.append(*entities(2))
        bench.open()
        await asyncio.sleep(1.0)
        began = bench.guard.epoch
        assert bench.guard.doing()[2:4] == (2, began)
        bench.guard.commands.engage("global:*")
        applied = now_s()
        await asyncio.sleep(HALT_CUT_S - 0.001)
        assert toy.open == 2
        await asyncio.sleep(WATCH_S + 0.002)
        assert toy.open == 1
        assert toy.times["ended", 0] - applied == pytest.approx(HALT_CUT_S, abs=WATCH_S + 0.001)
        assert toy.answers == {0: Cut.HALTED}
        assert bench.guard.doing()[2:4] == (1, began + 1)

    run(scenario)


def test_a_call_that_is_cut_off_ends_once_however_many_commands_come():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 60.0}
        toy.standings = {0: Standing.WRONG}
        bench.append(*entities(1))
        bench.open()
        await asyncio.sleep(1.0)
        applied = now_s()
        for _ in range(8):
            bench.guard.commands.engage("global:*")
            await asyncio.sleep(0.1)
        assert toy.times["ended", 0] - applied == pytest.approx(HALT_CUT_S, abs=WATCH_S + 0.001)

    run(scenario)


def test_a_call_that_is_still_right_counts_as_begun_under_the_new_epoch():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 5.0}
        bench.append(*entities(1))
        bench.open()
        await asyncio.sleep(1.0)
        stirs = bench.guard.stirs
        epoch = bench.guard.commands.engage("tenant:elsewhere")
        await asyncio.sleep(2 * WATCH_S)
        assert bench.guard.doing()[2:4] == (1, epoch)
        assert bench.guard.stirs > stirs, "the acks say so at once"
        assert toy.judged == [(0, epoch - 1)]
        await bench.settled(5.0)
        assert toy.answers == {0: "ok"}

    run(scenario)


def test_a_call_that_may_end_by_itself_stays_old_until_it_does_and_then_the_acks_tell_at_once():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 3.0, 1: 4.0}
        toy.standings = {0: Standing.OLD, 1: Standing.OLD}
        bench.append(*entities(2))
        bench.open()
        await asyncio.sleep(1.0)
        began = bench.guard.epoch
        bench.guard.commands.engage("global:*")
        await asyncio.sleep(1.5)
        assert bench.guard.doing()[2:4] == (2, began)
        stirs = bench.guard.stirs
        await asyncio.sleep(1.0)
        assert bench.guard.doing()[2:4] == (1, began)
        assert bench.guard.stirs == stirs, "another old one is open"
        await asyncio.sleep(1.0)
        assert bench.guard.doing()[2:4] == (0, None)
        assert bench.guard.stirs > stirs
        assert toy.answers == {0: "ok", 1: "ok"}

    run(scenario)


def test_a_call_without_an_answer_is_given_up_after_its_limit():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 600.0}
        bench.append(*entities(1))
        bench.open()
        await bench.settled(CALL_S_MAX + 1)
        assert toy.answers == {0: Cut.TOO_LONG}
        assert toy.times["ended", 0] - toy.times["begun", 0] == pytest.approx(CALL_S_MAX)

    run(scenario)


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_slice_that_leaves_waits_a_moment_for_open_calls_commits_their_ends_and_begins_nothing():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {0: 0.5, 1: LEAVE_S + 5}
        bench.append(b"a/1", b"a/2", b"a/1")
        bench.open()
        await asyncio.sleep(0.1)
        left = now_s()
        await bench.leave()
        assert now_s() - left == pytest.approx(LEAVE_S, abs=0.01)
        assert (results(bench), toy.begun, bench.committed) == ([0], [0, 1], 1)
        assert (bench.piece.calls, toy.open) == (0, 0)

    run(scenario)


def test_what_waits_for_room_does_not_begin_when_its_slice_leaves():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.slots = asyncio.Semaphore(1)
        toy.seconds = {0: 0.3, 1: 0.3}
        bench.append(*entities(2))
        bench.open()
        await asyncio.sleep(0.1)
        await bench.leave()
        assert (results(bench), toy.begun) == ([0], [0])

    run(scenario)


def test_a_slice_that_leaves_waits_for_the_commit_under_way():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        async def slow() -> None:
            await asyncio.sleep(0.2)

        bench.before_commit = slow
        bench.append(*entities(2))
        toy.seconds = {0: 0.1, 1: 0.15}
        bench.open()
        await asyncio.sleep(0.2)
        await bench.leave()
        assert (results(bench), bench.committed) == ([0, 1], 2)

    run(scenario)


def test_a_slice_with_nothing_open_leaves_at_once():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        bench.append(*entities(3))
        bench.open()
        await bench.settled()
        left = now_s()
        await bench.leave()
        assert now_s() == left

    run(scenario)


def test_a_crash_at_any_moment_gives_each_record_one_result_and_keeps_the_order_of_entities():
    async def scenario(bench: CallBench, toy: Toy) -> None:
        toy.seconds = {n: 0.02 + 0.01 * (n % 7) for n in range(400)}
        bench.append(*[b"acc-%d/cmp-%d" % (n % 5, n % 3) for n in range(400)])
        for crash in range(40):
            bench.open()
            await asyncio.sleep(0.03 + 0.013 * crash)
            await bench.crash()
        bench.open()
        await bench.settled(1.0)
        counted = Counter(results(bench))
        assert counted == Counter(dict.fromkeys(range(400), 1))
        for entity in {(n % 5, n % 3) for n in range(400)}:
            mine = [n for n in results(bench) if (n % 5, n % 3) == entity]
            assert mine == sorted(mine)

    run(scenario)
