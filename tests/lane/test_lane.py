"""Parts of the lane that need no broker: what fits, in which order inputs merge, when a consumer counts as stalled."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from hitl_stream.core.errors import BrokenError
from hitl_stream.lane import batches as batches_module
from hitl_stream.lane import slice as slice_module
from hitl_stream.lane.batches import ENVELOPE_BYTES, Batches, batches
from hitl_stream.lane.batches import fitting as fit
from hitl_stream.lane.clock import ControlClock
from hitl_stream.lane.guard import Unguarded
from hitl_stream.lane.lane import STALLED_S, Lane, LaneSpec
from hitl_stream.lane.restore import SLICE_RECORDS, _hand_over, merged
from hitl_stream.lane.slice import Slice
from hitl_stream.lane.step import Moment, Output, Result
from support.bench import Rec
from support.toy import Hand, Toy, ToyState, Witness

LIMIT = 10_000
DLQ_LIMIT = 60_000


class Consumer:
    """What a lane asks of its consumer: batches that a test put there, and positions."""

    def __init__(self, *batches: list[Rec]) -> None:
        self.batches = list(batches)
        self.states: dict[TopicPartition, Any] = {}
        assignment = SimpleNamespace(state_value=self.states.get)
        self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))

    async def getmany(self, *tps: TopicPartition, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[Rec]]:
        found = {}
        for tp in tps:
            batch = [record for record in self.batches.pop(0) if record.topic == tp.topic] if self.batches else []
            if batch:
                found[tp] = batch
        return found

    def stands(self, tp: TopicPartition, position: int, lso: int | None, highwater: int | None = None) -> None:
        self.states[tp] = SimpleNamespace(
            has_valid_position=True, position=position, lso=lso, highwater=lso if highwater is None else highwater
        )


def make_lane(toy: Any = None, inputs: tuple[str, ...] = ("in",), guard: Any = None, **limits: int) -> Lane:
    spec = LaneSpec(
        role="toy", group="g", member="m", instance="host/toy/0", inputs=inputs, client={}, dlq="dlq",
        limits={"out": LIMIT, "dlq": DLQ_LIMIT} | limits,
    )  # fmt: skip
    toy = toy or Toy("out")
    return Lane(spec, batches(toy), ToyState, Witness(), guard)


def make_slice(lane: Lane, *topics: str) -> Slice:
    return Slice(lane, 3, [TopicPartition(topic, 3) for topic in topics or lane.spec.inputs], lane.incarnation)


def working(piece: Slice, toy: Toy | None = None, state: ToyState | None = None) -> Batches:
    """Return the work of a slice, as if it were open."""
    piece._state = state or ToyState()
    return Batches(piece, toy or Toy("out"))


def headers_of(output: Output) -> dict[str, bytes]:
    return dict(output.headers)


# --- what fits --------------------------------------------------------------------------------------------------------


def fitting(outputs: Sequence[Output], batch: Sequence[Rec], **limits: int) -> list[Output]:
    async def inside() -> list[Output]:
        return list(fit(make_slice(make_lane(**limits)), outputs, list(batch)))

    return asyncio.run(inside())


def test_outputs_that_fit_are_passed_on_as_they_are():
    outputs = [Output("out", 3, b"k", b"x" * 100, [], 0), Output("unlimited", 3, b"k", b"x" * LIMIT * 2, [], 0)]

    assert fitting(outputs, [Rec(0)]) == outputs


def test_an_output_that_does_not_fit_becomes_a_dead_letter_of_the_record_behind_it():
    record = Rec(41, b'{"small": 1}', b"acme/acc-1", headers=(("trace", b"t"),))
    good = Output("out", 3, b"k", b"fine", [], 0)
    big = Output("out", 3, b"k", b"x" * LIMIT, [], 1)

    first, dead = fitting([good, big], [Rec(40), record])

    assert first == good
    assert (dead.topic, dead.partition, dead.key, dead.value) == ("dlq", 3, b"acme/acc-1", b'{"small": 1}')
    headers = headers_of(dead)
    assert headers["hitl-error"] == b"too_large"
    assert headers["hitl-source"] == b"in/3/41"
    assert headers["trace"] == b"t"
    assert b"does not fit into out (10000)" in headers["hitl-why"]


def test_a_record_that_does_not_even_fit_into_the_dlq_leaves_offset_length_and_digest():
    value = b"x" * DLQ_LIMIT
    (dead,) = fitting([Output("out", 3, b"k", value, [], 0)], [Rec(41, value)])

    assert dead.value == b""
    headers = headers_of(dead)
    assert headers["hitl-source"] == b"in/3/41"
    assert headers["hitl-length"] == b"%d" % DLQ_LIMIT
    assert headers["hitl-sha256"] == hashlib.sha256(value).hexdigest().encode()


@pytest.mark.parametrize(
    "output",
    [
        Output("out", 3, b"k", b"x", [("traceparent", b"x" * LIMIT)], 0),
        Output("out", 3, b"k", b"x", [("h" * LIMIT, b"")], 0),
        Output("out", 3, b"k", b"x", [("ж" * (LIMIT // 2), b"")], 0),
        Output("out", 3, b"k", b"x", [("h", b"")] * (LIMIT // 5), 0),
        Output("out", 3, b"k" * LIMIT, b"x", [], 0),
        Output("out", 3, b"k" * LIMIT, None, [], 0),
    ],
    ids=["header value", "header name", "header name in UTF-8", "many headers", "key", "key without a value"],
)
def test_keys_and_headers_count_too(output: Output):
    """A record that Kafka refuses for its headers would be decided again for ever."""
    (dead,) = fitting([output], [Rec(0)])

    assert dead.topic == "dlq"


def test_a_record_whose_copy_does_not_fit_ends_once_as_a_dead_letter_and_not_twice():
    """Otherwise an input would end both as an answer and as a dead letter."""
    copies = [Output("narrow", 3, b"k", b"x" * 500, [], 0) for _ in range(2)]
    outputs = [Output("out", 3, b"k", b"x", [], 0), *copies, Output("out", 3, b"k", b"y", [], 1)]

    found = fitting(outputs, [Rec(0), Rec(1)], narrow=1_200)

    assert [(output.topic, output.index) for output in found] == [("dlq", 0), ("out", 1)]


def test_a_dead_letter_stays_in_the_partition_of_its_record():
    (dead,) = fitting([Output("out", 7, b"k", b"x" * LIMIT, [], 0)], [Rec(0)])

    assert dead.partition == 3


def test_an_output_without_a_record_that_does_not_fit_is_a_bug():
    with pytest.raises(BrokenError, match="has no record behind it"):
        fitting([Output("out", 3, b"k", b"x" * LIMIT)], [Rec(0)])


def test_the_limit_itself_still_fits():
    value = b"x" * (LIMIT - ENVELOPE_BYTES - 1)

    assert [o.topic for o in fitting([Output("out", 3, b"k", value, [], 0)], [Rec(0)])] == ["out"]


# --- merging ----------------------------------------------------------------------------------------------------------


def test_a_batch_of_two_inputs_is_merged_by_append_time_topic_and_offset():
    a = [Rec(0, timestamp=10, topic="a"), Rec(1, timestamp=30, topic="a"), Rec(2, timestamp=30, topic="a")]
    b = [Rec(5, timestamp=10, topic="b"), Rec(6, timestamp=20, topic="b"), Rec(7, timestamp=30, topic="b")]

    async def inside() -> list[tuple[int, str, int]]:
        lane = make_lane(inputs=("a", "b"))
        lane._consumer = Consumer(a, b)  # type: ignore[assignment]
        batch = await working(make_slice(lane))._next(10)
        return [(record.timestamp, record.topic, record.offset) for record in batch]

    assert asyncio.run(inside()) == [(10, "a", 0), (10, "b", 5), (20, "b", 6), (30, "a", 1), (30, "a", 2), (30, "b", 7)]


def test_what_is_consumed_is_each_inputs_last_offset_wherever_it_stands_in_the_batch():
    a, b = TopicPartition("a", 3), TopicPartition("b", 3)
    batch = [Rec(7, topic="a"), Rec(6, topic="a"), Rec(9, topic="b"), Rec(5, topic="a")]

    assert batches_module._after(batch) == {a: 8, b: 10}
    assert batches_module._first(batch) == {a: 5, b: 9}
    assert batches_module._after([]) == batches_module._first([]) == {}


def test_records_of_one_input_stay_in_their_order_where_the_brokers_clock_was_set_back():
    """What is committed is one offset per input: nothing may be decided before what stands before it."""
    a = [Rec(0, timestamp=50, topic="a"), Rec(1, timestamp=10, topic="a"), Rec(2, timestamp=60, topic="a")]
    b = [Rec(0, timestamp=20, topic="b"), Rec(1, timestamp=55, topic="b")]

    found = [(record.topic, record.offset) for record in merged([a, b])]

    assert found == [("b", 0), ("a", 0), ("a", 1), ("b", 1), ("a", 2)]


def test_a_slice_that_leaves_does_not_wait_for_records():
    class Blocked(Consumer):
        async def getmany(self, *tps: TopicPartition, **_: Any) -> dict[TopicPartition, list[Rec]]:
            await asyncio.Event().wait()
            raise AssertionError

    async def inside() -> list[Any]:
        lane = make_lane()
        lane._consumer = Blocked()  # type: ignore[assignment]
        piece = make_slice(lane)
        waiting = asyncio.ensure_future(working(piece)._next(60_000))
        await asyncio.sleep(0)
        piece.leave()
        return await waiting

    assert asyncio.run(inside()) == []


# --- a step that fails ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("no"), OSError("no")])
def test_whatever_a_step_raises_is_a_bug_and_not_trouble_with_kafka(error: Exception):
    """After a TimeoutError of Kafka's a partition opens anew; after a step's it would do so for ever."""

    def fail(*_: Any) -> None:
        raise error

    async def inside() -> None:
        toy = Toy("out", before=fail)
        await working(make_slice(make_lane(toy)), toy)._decide([Rec(0)])  # type: ignore[list-item]

    with pytest.raises(BrokenError, match=f"partition 3: .*raised {type(error).__name__}: no"):
        asyncio.run(inside())


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("no"), OSError("no")])
def test_whatever_a_state_raises_while_it_is_restored_is_a_bug_too(error: Exception):
    def fail(_: Any) -> None:
        raise error

    records: list[Any] = [Rec(41), Rec(42)]
    with pytest.raises(BrokenError, match=rf"fail raised {type(error).__name__} from in/3/41 on: no"):
        asyncio.run(_hand_over(fail, records))


def test_a_state_is_handed_the_past_in_slices():
    """So that the loop turns in between, for heartbeats."""
    sizes: list[int] = []
    records: list[Any] = [Rec(n) for n in range(2 * SLICE_RECORDS + 1)]

    assert asyncio.run(_hand_over(lambda slice_: sizes.append(len(slice_)), records)) == 2 * SLICE_RECORDS + 1
    assert sizes == [SLICE_RECORDS, SLICE_RECORDS, 1]


def test_a_slice_whose_task_ends_by_itself_crashes_the_process():
    """A stray cancellation from a client's depths must not leave a partition without a worker."""

    async def inside() -> BaseException | None:
        lane = make_lane()
        piece = make_slice(lane)

        async def cancelled() -> None:
            raise asyncio.CancelledError

        task = asyncio.ensure_future(cancelled())
        await asyncio.wait([task])
        lane._ended(piece, task)
        await asyncio.gather(*lane._crashing)
        return lane.crash_reason

    reason = asyncio.run(inside())
    assert isinstance(reason, BrokenError)
    assert "partition 3: its task ended" in str(reason)


def test_a_slice_that_was_revoked_may_end():
    async def inside() -> bool:
        lane = make_lane()
        piece = make_slice(lane)
        task = asyncio.ensure_future(asyncio.sleep(0))
        await asyncio.wait([task])
        lane.incarnation += 1
        lane._ended(piece, task)
        return lane.crashed

    assert asyncio.run(inside()) is False


# --- a consumer that stands still -------------------------------------------------------------------------------------


@dataclass
class Now:
    """`time.monotonic` under a test's hand."""

    seconds: float = 1_000.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(slice_module, "time", now)
    return now


def opened(now: Now, guard: Hand | None = None) -> tuple[Slice, Consumer]:
    async def inside() -> tuple[Slice, Consumer]:
        lane = make_lane(guard=guard)
        consumer = Consumer()
        lane._consumer = consumer  # type: ignore[assignment]
        piece = make_slice(lane)
        piece.open = True
        return piece, consumer

    return asyncio.run(inside())


TP = TopicPartition("in", 3)


def stalled_after(piece: Slice, now: Now, seconds: float) -> float:
    now.seconds += seconds
    return piece.stalled_s(piece.lag())


def test_a_partition_that_gets_a_record_after_a_long_idle_time_is_not_stalled(now: Now):
    """Idle for an hour, then a record that is fetched and not yet decided when the watch looks."""
    piece, consumer = opened(now)
    consumer.stands(TP, 10, 10)
    assert stalled_after(piece, now, 3_600.0) == 0
    consumer.stands(TP, 10, 11)

    assert stalled_after(piece, now, 1.0) <= 1.0


def test_a_position_that_stands_still_before_records_counts_the_seconds(now: Now):
    piece, consumer = opened(now)
    consumer.stands(TP, 10, 11)
    stalled_after(piece, now, 0.0)
    for lso in range(12, 40):
        consumer.stands(TP, 10, lso)
        stalled_after(piece, now, 5.0)

    assert stalled_after(piece, now, 0.0) > STALLED_S


def test_a_position_that_moves_is_not_stalled_however_far_behind(now: Now):
    piece, consumer = opened(now)
    for position in range(100):
        consumer.stands(TP, position, 100_000)
        stalled_after(piece, now, 60.0)

    assert stalled_after(piece, now, 1.0) <= 61.0


def test_what_an_open_transaction_hides_does_not_count_as_waiting(now: Now):
    """A publisher may hold a transaction open for minutes: nobody can read past it."""
    piece, consumer = opened(now)
    consumer.stands(TP, 10, 10, highwater=500)

    assert piece.lag() == 0
    assert stalled_after(piece, now, 600.0) == 0


def test_a_partition_whose_lease_is_gone_is_not_stalled(now: Now):
    """It stands still because it must; a restart would change nothing."""
    piece, consumer = opened(now, guard := Hand())
    consumer.stands(TP, 10, 500)
    stalled_after(piece, now, 0.0)
    guard.lose()

    assert stalled_after(piece, now, 600.0) == 0
    guard.gain()
    assert stalled_after(piece, now, 5.0) == 5.0


def test_inputs_that_wait_for_a_pass_that_goes_on_are_not_stalled(now: Now):
    """A release after an hour of HALT has much to look at."""
    piece, consumer = opened(now)
    consumer.stands(TP, 10, 500)
    for offset in range(100):
        piece.parked_from = offset
        stalled_after(piece, now, 60.0)

    assert stalled_after(piece, now, 1.0) <= 61.0


def test_a_partition_that_is_being_opened_is_not_stalled(now: Now):
    piece, consumer = opened(now)
    piece.open = False
    consumer.stands(TP, 10, 500)
    stalled_after(piece, now, 0.0)

    assert stalled_after(piece, now, 600.0) == 0


# --- timers -----------------------------------------------------------------------------------------------------------


def test_without_a_timer_the_lane_polls_at_leisure_and_with_one_until_it_is_due():
    async def inside() -> list[int]:
        guard, state = Unguarded(ControlClock(lambda: 0)), ToyState()
        work = working(make_slice(make_lane(guard=guard)), state=state)
        guard.observe(1_000_000)
        found = [work._patience_ms()]
        for due in (1_000_250, 1_005_000, 999_000):
            state.due_ms = due
            found.append(work._patience_ms())
        return found

    assert asyncio.run(inside()) == [1_000, 250, 1_000, 1]


def test_a_step_gets_the_moment_of_its_batch():
    seen: list[Moment] = []

    class Asked(Toy):
        def __call__(self, batch: Any, state: Any, moment: Moment) -> Result:
            seen.append(moment)
            raise ValueError

    async def inside() -> None:
        toy = Asked("out")
        work = working(make_slice(make_lane(toy, guard=Unguarded(ControlClock(lambda: 0)))), toy)
        with pytest.raises(BrokenError):
            await work._decide([Rec(0, timestamp=5_000), Rec(1, timestamp=6_000)])  # type: ignore[list-item]

    asyncio.run(inside())
    assert seen == [Moment(6_000, -1)]
