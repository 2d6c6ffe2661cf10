"""Looking at tails: so many records and no more, each by its weight, and a switch where the settings say so."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from structlog.testing import capture_logs

from hitl_stream.core.errors import RefusedError
from hitl_stream.core.tripwires import REPEATS, Interval, Publisher, Tripped
from hitl_stream.roles import tripwires as module
from hitl_stream.roles.tripwires import Tripwires, TripwireSpec, added, is_engaged, scope_of
from hitl_stream.wire.records import CLOSED, DECISION, head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet
from support.guard import Commands
from support.make import FakeRecord

TOPICS = TopicSet(partitions=2)
ROUTER = SealKey("r1", b"r" * 32)
EXECUTOR = SealKey("e1", b"e" * 32)
SEALS = {"router": {"r1": ROUTER}, "executor": {"e1": EXECUTOR}}
BOUND = Publisher("acme", "feeder-1")
INPUTS = {"hitl.actions": None, "feed": BOUND}
BIDDER = Publisher("acme", "bidder-7")


class Log:
    """Topics in memory: a consumer that is paused and sought as aiokafka's, and ends."""

    def __init__(self) -> None:
        self.records: dict[TopicPartition, list[FakeRecord | None]] = {}
        self.positions: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.read = 0

    def append(self, topic: str, record: FakeRecord | None, partition: int = 0) -> None:
        log = self.records.setdefault(TopicPartition(topic, partition), [])
        if record is not None:
            record.topic, record.partition, record.offset = topic, partition, len(log)
        log.append(record)

    async def high(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: len(self.records.get(tp, ())) for tp in partitions}

    stable = high

    def pause(self, *partitions: TopicPartition) -> None:
        self.paused |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.paused -= set(partitions)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.positions[tp] = offset

    async def position(self, tp: TopicPartition) -> int:
        return self.positions[tp]

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> Mapping[TopicPartition, list[FakeRecord]]:
        found: dict[TopicPartition, list[FakeRecord]] = {}
        for tp in partitions:
            assert tp not in self.paused
            taken = self.records[tp][self.positions[tp] :][:max_records]
            self.positions[tp] += len(taken)
            self.read += len(taken)
            found[tp] = [record for record in taken if record is not None]
        return found


class Seen:
    def __init__(self) -> None:
        self.count: Counter[tuple[str, str]] = Counter()

    def tripped(self, wire: str, action: str) -> None:
        self.count[wire, action] += 1


class Bench:
    """Tripwires over such a log, on a clock that a test turns."""

    def __init__(self, **actions: str) -> None:
        self.log = Log()
        self.seen = Seen()
        self.commands = Commands()
        self.engaged: list[Tripped] = []
        self.ms = 0
        spec = TripwireSpec({}, TOPICS, INPUTS, SEALS, actions)
        self.tripwires = Tripwires(spec, self.commands.control, self.engage, self.seen, steady=lambda: self.ms)
        self.tripwires._ends = self.log  # type: ignore[assignment]
        self.tripwires._consumer = self.log

    async def engage(self, tripped: Tripped) -> None:
        self.engaged.append(tripped)

    def look(self) -> None:
        self.ms += 5_000
        asyncio.run(self.tripwires.look())

    def interval(self) -> Interval:
        """Look, and return what the wires would have been asked."""
        found: list[Interval] = []
        wire = self.tripwires.wires["rate"]
        judge = wire.judge
        wire.judge = lambda interval: (found.append(interval), judge(interval))[1]  # type: ignore[method-assign]
        self.look()
        wire.judge = judge  # type: ignore[method-assign]
        return found[0]


def executed(agent: str = "bidder-7", campaign: str = "cmp-1", key: SealKey = ROUTER, **action: Any) -> FakeRecord:
    head = {"tenant": "acme", "agent": {"id": agent}, "entity": {"account": "acc-1", "campaign": campaign}}
    return sealed("hitl.execute", DECISION, head | {"action": action}, key)


def refused(why: str = "late", end: str = "refused", key: SealKey = ROUTER) -> FakeRecord:
    head = {"end": end, "why": why, "tenant": "acme", "agent": {"id": "bidder-7"}, "entity": {}}
    return sealed("hitl.closed", CLOSED, head, key)


def sealed(topic: str, kind: str, value: dict[str, Any], key: SealKey) -> FakeRecord:
    text = json.dumps(value, separators=(",", ":")).encode()
    headers = [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, sealer(key, topic, kind)(head_of(text)))]
    return FakeRecord(value=text, headers=headers)


def dead(source: str) -> FakeRecord:
    return FakeRecord(value=b"x", headers=[("hitl-source", f"{source}/1/5".encode())])


# --- what is counted --------------------------------------------------------------------------------------------------


def test_the_first_look_only_notes_where_everything_ends():
    bench = Bench()
    for _ in range(50):
        bench.log.append("hitl.execute", executed())
    bench.look()

    assert bench.log.read == 0


def test_what_has_come_since_is_counted_by_publisher_and_entity():
    bench = Bench()
    bench.look()
    change = {"entity": {}, "field": "daily_budget", "before": "10", "after": "12.5", "unit": "EUR"}
    bench.log.append("hitl.execute", executed(changes=[change]))
    bench.log.append("hitl.execute", executed(campaign="cmp-2"), 1)
    bench.log.append("hitl.execute", executed("mover-1"))
    bench.log.append("hitl.closed", refused())
    bench.log.append("hitl.closed", refused("duplicate"))
    bench.log.append("hitl.closed", refused("decide_by", "expired"))
    for topic in ("feed", "hitl.actions", "strange.topic"):
        bench.log.append("hitl.dlq", dead(topic))
    for _ in range(7):
        bench.log.append("hitl.actions", FakeRecord(value=b"{}"))
    found = bench.interval()

    count = found.publishers[BIDDER]
    assert (count.decided, count.refused, count.spend) == (3.0, 1.0, {"EUR": 2.5})
    assert found.publishers[Publisher("acme", "mover-1")].decided == 1.0
    assert found.entities[BIDDER, "acc-1/cmp-1"] == (1.0, 1)
    assert found.dead == {("feed", BOUND): 1.0, ("hitl.actions", None): 1.0}
    assert (found.seconds, found.inputs, found.outputs) == (5.0, 7, 9)


@pytest.mark.parametrize(
    "record",
    [
        executed(key=SealKey("r1", b"x" * 32)),
        executed(key=EXECUTOR),
        FakeRecord(value=executed().value, headers=executed().headers[:1]),
        FakeRecord(value=executed().value, headers=executed().headers[1:]),
        FakeRecord(value=None),
        FakeRecord(value=b"{}", headers=executed().headers),
        sealed("hitl.execute", DECISION, {"tenant": 1}, ROUTER),
    ],
)
def test_what_no_role_of_ours_has_written_counts_for_nothing(record: FakeRecord):
    bench = Bench()
    bench.look()
    bench.log.append("hitl.execute", record)

    assert bench.interval().publishers == {}


def test_of_much_only_the_newest_part_is_read_and_stands_for_the_whole(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAMPLE_MAX", 100)
    bench = Bench()
    bench.look()
    for n in range(800):
        bench.log.append("hitl.execute", executed("old" if n < 600 else "bidder-7"), n % 2)
    for _ in range(200):
        bench.log.append("hitl.closed", None)  # markers take offsets, too
    found = bench.interval()

    assert bench.log.read <= 100
    assert set(found.publishers) == {BIDDER}
    assert found.publishers[BIDDER].decided == pytest.approx(800)
    assert found.publishers[BIDDER].sampled == 80


def test_where_nothing_came_nothing_is_read():
    bench = Bench()
    bench.look()
    bench.log.append("hitl.execute", executed())
    bench.look()
    read = bench.log.read
    bench.look()

    assert bench.log.read == read
    assert len(bench.log.paused) == 6


def test_a_topic_that_begins_anew_counts_for_nothing_once():
    bench = Bench()
    for _ in range(9):
        bench.log.append("hitl.execute", executed())
    bench.look()
    bench.log.records.clear()
    bench.log.append("hitl.execute", executed())
    assert bench.interval().publishers == {}


@pytest.mark.parametrize(
    ("changes", "sums"),
    [
        ([{"entity": {}, "field": "bid", "before": 1, "after": 3}], {"": 2.0}),
        ([{"entity": {}, "field": "bid", "before": 3, "after": 1}], {}),
        ([{"entity": {}, "field": "headline", "before": "1", "after": "9"}], {}),
        ([{"entity": {}, "field": "budget", "before": "one", "after": "9"}], {}),
        ([{"entity": {}, "field": "budget", "after": "9"}], {}),
        ("no list", {}),
    ],
)
def test_what_an_action_adds_is_what_its_budgets_and_bids_go_up_by(changes: Any, sums: dict[str, float]):
    assert added(json.dumps({"changes": changes}).encode()) == sums  # type: ignore[arg-type]


# --- what comes of it -------------------------------------------------------------------------------------------------


def repeated(bench: Bench) -> None:
    bench.look()
    for _ in range(REPEATS + 1):
        bench.log.append("hitl.execute", executed())
    bench.look()


def test_a_wire_that_trips_is_logged_and_counted_and_nothing_else():
    bench = Bench()
    with capture_logs() as logs:
        repeated(bench)

    (said,) = [line for line in logs if line["event"] == "tripwire"]
    assert (said["wire"], said["agent"], said["tenant"], said["does"]) == ("repeats", "bidder-7", "acme", "observe")
    assert (said["saw"], said["limit"]) == (REPEATS + 1, REPEATS)
    assert bench.seen.count == {("repeats", "observe"): 1}
    assert bench.engaged == []


def test_where_the_settings_say_so_it_engages():
    bench = Bench(repeats="engage")
    repeated(bench)

    assert [one.publisher for one in bench.engaged] == [BIDDER]
    assert bench.seen.count == {("repeats", "engage"): 1}


def test_it_does_not_engage_twice_while_that_holds():
    bench = Bench(repeats="engage")
    control = bench.commands.control
    epoch = bench.commands.engage(*scope_of(BIDDER))
    control.switches.engaged[epoch] = type(control.switches.engaged[epoch])(
        epoch, scope_of(BIDDER), control.switches.engaged[epoch].mode, "control", 0, None, "tripwire"
    )
    assert is_engaged(control, BIDDER)
    repeated(bench)

    assert bench.engaged == []
    assert bench.seen.count == {("repeats", "observe"): 1}


def test_a_persons_switch_over_the_same_does_not_hold_it_back():
    """That one may be released for reasons of its own."""
    bench = Bench(repeats="engage")
    bench.commands.engage(*scope_of(BIDDER))
    repeated(bench)

    assert len(bench.engaged) == 1


def test_a_wire_that_is_off_is_not_asked():
    bench = Bench(repeats="off")
    repeated(bench)

    assert bench.seen.count == {}
    assert "repeats" not in bench.tripwires.wires


def test_without_anybody_to_name_it_only_observes():
    bench = Bench(poison="engage")
    bench.look()
    for _ in range(100):
        bench.log.append("hitl.dlq", dead("hitl.actions"))
    bench.look()

    assert bench.seen.count == {("poison", "observe"): 1}
    assert bench.engaged == []


def test_an_engagement_that_is_refused_is_said_and_stops_nothing():
    bench = Bench(repeats="engage")

    async def refuse(tripped: Tripped) -> None:
        raise RefusedError("no key")

    bench.tripwires._engage = refuse
    with capture_logs() as logs:
        repeated(bench)

    assert [line["why"] for line in logs if line["event"] == "tripwire not engaged"] == ["no key"]
