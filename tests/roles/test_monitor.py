"""The monitor's edge, without Kafka: what is done with one judgement, in which order, and when it is acknowledged."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hitl_stream.core.commands import DAY_MS, ReviewerChange
from hitl_stream.core.control import Control
from hitl_stream.core.errors import SettingsError, UnknownOutcomeError
from hitl_stream.core.vigilance import Level, Queue
from hitl_stream.metrics import MonitorMetrics
from hitl_stream.roles import monitor as module
from hitl_stream.roles import monitor_app
from hitl_stream.roles.monitor import Monitor, MonitorSpec, monitor_key
from hitl_stream.roles.monitor_app import Acks
from hitl_stream.roles.monitor_pool import Pool
from hitl_stream.roles.monitor_seeds import At, Seeds
from hitl_stream.roles.monitor_state import Figures, decode_kept, figures_of, parts_of
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.desk_records import HumanDecision, Observation, ms_of
from hitl_stream.wire.home import home, partition_of
from hitl_stream.wire.records import First, time_text
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import new_signing_key
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import Alert, Observed, asked_in, pseudonym, read_alert
from support.make import DESK_KEY, FakeRecord, make_policy
from support.watching import START_MS, Offline, asking, judged, judgement, observation, written

NAMES, SEAL = SealKey("p1", b"\x06" * 32), SealKey("m1", b"\x05" * 32)
SIGNING = new_signing_key("monitor-1", "monitor", "service")
TOPICS = TopicSet(partitions=2)


@dataclass
class Message:
    """What Faust says of a record."""

    partition: int
    offset: int
    headers: list[tuple[str, bytes]]
    timestamp: float = START_MS / 1000


@dataclass
class Event:
    """A record in Faust's hands, and what was done before it was acknowledged."""

    message: Message
    value: bytes | None
    world: World
    acked: bool = False

    def ack(self) -> None:
        self.acked = True
        self.world.done.append(f"ack {self.message.offset}")


class Table(UserDict[bytes, bytes]):
    """A table whose changelog answers when it is told to."""

    def __init__(self, world: World) -> None:
        self.world, self.newest = world, asyncio.get_running_loop().create_future()
        super().__init__()

    def __setitem__(self, key: bytes, value: bytes) -> None:
        super().__setitem__(key, value)
        self.newest = asyncio.get_running_loop().create_future()
        self.world.writes.append(self.newest)
        if parts_of(key)[2] is None:
            self.world.done.append(f"table {decode_kept(value).offset}")


class Topic:
    """`alerts`, or `review.seeded`."""

    def __init__(self, world: World, there: list[dict[str, Any]], word: str) -> None:
        self.world, self.there, self.word = world, there, word

    async def send(self, **record: Any) -> asyncio.Future[None]:
        self.there.append(record)
        self.world.done.append(self.word)
        sent = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent


class Quiet:
    """A picture of no days before, and of what queues are like now."""

    def __init__(self, now: Mapping[str, Figures] | None = None) -> None:
        self.ready, self.now = asyncio.Event(), dict(now or {})
        self.ready.set()

    def usual(self, queue: str, day: int) -> Queue:
        return Queue()

    def figures(self, day: int) -> dict[str, Figures]:
        return self.now


@dataclass
class World:
    """A monitor without Kafka."""

    done: list[str] = field(default_factory=list)
    writes: list[asyncio.Future[None]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    seeded: list[dict[str, Any]] = field(default_factory=list)
    commands: list[ReviewerChange] = field(default_factory=list)
    metrics: MonitorMetrics = field(default_factory=MonitorMetrics)
    lost: Exception | None = None

    def begin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = MonitorSpec(
            {}, TOPICS, "", "g", "m", Path(), {DESK_KEY.key_id: DESK_KEY}, SEAL, SIGNING, NAMES
        )  # fmt: skip
        self.monitor = Monitor(spec, self.metrics, lambda: START_MS / 1000)
        self.monitor._table, self.monitor._alerts = Table(self), Topic(self, self.alerts, "alert")
        self.monitor._seeded = Topic(self, self.seeded, "asked")
        self.monitor.picture = Quiet()  # type: ignore[assignment]
        self.monitor.pool = pool()
        monkeypatch.setattr(module, "append", self._append)

    async def _append(self, client: Any, topics: Any, key: Any, make: Callable[..., ReviewerChange]) -> None:
        if self.lost is not None:
            raise self.lost
        self.commands.append(make(aud="c", kid=key.key_id, iss=key.holder, jti=f"x{len(self.commands)}", iat=0, exp=1))
        self.done.append("command")

    async def judge(self, offset: int, one: Observation | None = None, partition: int = 0) -> Event:
        """Let the monitor take one judgement."""
        topic = TOPICS.name("observations")
        _, value, headers = written(topic, DESK_KEY, one or observation(n=offset))
        event = Event(Message(partition, offset, headers), value, self)
        await self.monitor._take(event)
        return event

    async def settle(self) -> None:
        """Let the changelog have everything."""
        for write in self.writes:
            if not write.done():
                write.set_result(None)
        await asyncio.sleep(0)

    def kept(self) -> dict[bytes, Any]:
        table = self.monitor._table
        return {key: decode_kept(value) for key, value in table.items() if parts_of(key)[2] is None}


def pool(*found: HumanDecision, **rules: Any) -> Pool:
    """Return what was read of what people decided, under the example policy."""
    keys = {DESK_KEY.key_id: DESK_KEY}
    made = Pool({}, TOPICS, "", keys, SEAL, NAMES, {"d" * 64: make_policy(**rules)}, lambda: START_MS / 1000)
    made._know(Control())
    made.ready.set()
    for n, one in enumerate(found):
        _, value, headers = judged(TOPICS.name("decisions"), DESK_KEY, one)
        made.take(FakeRecord(value, n, 0, START_MS, TOPICS.name("decisions"), b"", tuple(headers)))
    return made


@pytest.fixture
def world() -> World:
    return World()


def value(metrics: MonitorMetrics, name: str, **labels: str) -> float | None:
    return metrics.metrics.registry.get_sample_value(name, labels)


def test_a_judgement_is_acknowledged_when_its_changelog_has_it(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        event = await world.judge(0)
        assert not event.acked
        await world.settle()
        assert event.acked

    asyncio.run(scenario())


def test_a_judgement_is_acknowledged_when_the_table_of_gates_has_it_too(world: World, monkeypatch: pytest.MonkeyPatch):
    class Gates:
        async def take(self, seen: Observation, place: Any, person: str) -> asyncio.Future[None]:
            assert person == pseudonym(NAMES, seen.reviewer)
            return self.written

    async def scenario() -> None:
        world.begin(monkeypatch)
        world.monitor._gates = gates = Gates()  # type: ignore[assignment]
        for offset in (0, 0):  # read twice, it may stand in one table and not yet in the other
            gates.written = asyncio.get_running_loop().create_future()
            event = await world.judge(offset)
            await world.settle()
            assert not event.acked
            gates.written.set_result(None)
            for _ in range(3):
                await asyncio.sleep(0)
            assert event.acked

    asyncio.run(scenario())


def test_acknowledgements_keep_the_order_of_their_partition(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        first, second = await world.judge(0), await world.judge(1)
        broken = await world.judge(2, observation(floor_s="x"))
        other = await world.judge(0, observation("ben"), partition=1)
        for write in world.writes[2:]:
            write.set_result(None)
        await asyncio.sleep(0)
        assert [event.acked for event in (first, second, broken)] == [False] * 3, "the first is not written yet"
        assert other.acked, "another partition waits for nobody"
        await world.settle()

    asyncio.run(scenario())
    assert [word for word in world.done if word.startswith("ack")] == ["ack 0", "ack 0", "ack 1", "ack 2"]
    assert value(world.metrics, "hitl_dead_letters_total", role="monitor", error="schema") == 1


def test_a_write_that_failed_ends_the_process_and_acknowledges_nothing_after_it():
    failed: list[BaseException] = []

    async def scenario() -> list[Event]:
        world = World()
        acks, loop = Acks(failed.append), asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(3)]
        events = [Event(Message(0, n, []), None, world) for n in range(3)]
        for event, future in zip(events, futures, strict=True):
            await acks.after(event, future)
        futures[0].set_result(None)
        futures[2].set_result(None)
        futures[1].set_exception(OSError("gone"))
        await asyncio.sleep(0)
        return events

    assert [event.acked for event in asyncio.run(scenario())] == [True, False, False]
    assert {str(error) for error in failed} == {"gone"}


@pytest.mark.parametrize(
    ("generation", "flows", "counts"), [(2, True, True), (1, True, False), (2, False, False)],
    ids=["of this assignment", "of a former one", "in the middle of a change"],
)  # fmt: skip
def test_an_acknowledgement_of_a_former_assignment_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch, generation: int, flows: bool, counts: bool
):
    """Faust would take it for one of now: what the new owner is given again could be committed before it is written."""
    acked: list[Any] = []
    monkeypatch.setattr(monitor_app.Consumer, "ack", lambda self, message: acked.append(message) or True)
    reader = object.__new__(monitor_app._Reader)
    flow = SimpleNamespace(is_active=lambda: flows)
    reader.app = SimpleNamespace(consumer_generation_id=2, flow_control=flow)
    message = SimpleNamespace(generation_id=generation)

    assert reader.ack(message) is counts
    assert bool(acked) is counts


def test_what_is_under_way_is_limited(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor_app, "UNACKED_MAX", 2)

    async def scenario() -> None:
        acks, future = Acks(lambda error: None), asyncio.get_running_loop().create_future()
        await acks.after(Event(Message(0, 0, []), None, World()), future)
        waiting = asyncio.ensure_future(acks.after(Event(Message(0, 1, []), None, World()), future))
        await asyncio.sleep(0)
        assert not waiting.done()
        future.set_result(None)
        await waiting

    asyncio.run(scenario())


def test_a_judgement_that_is_read_twice_counts_once(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        await world.judge(0)
        before = world.kept()
        again = await world.judge(0)
        assert world.kept() == before
        assert not again.acked, "the first one is not written yet"
        await world.settle()
        assert again.acked

    asyncio.run(scenario())
    assert value(world.metrics, "hitl_observations_repeated_total") == 1


def test_what_is_not_the_desks_counts_for_nothing(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        _, text, _ = written("t", DESK_KEY, observation())
        event = Event(Message(0, 0, []), text, world)
        await world.monitor._take(event)
        assert event.acked
        assert world.kept() == {}

    asyncio.run(scenario())


def sleeper(offset: int) -> Observation:
    """Return a canary that was approved."""
    return observation("ana", "approve", n=offset, purpose="canary")


@pytest.mark.behaviour("E9")
def test_an_alarm_stands_on_control_and_on_alerts_before_the_table_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def scenario() -> None:
        world.begin(monkeypatch)
        for n in range(60):
            await world.judge(n)
        for n in range(60, 67):
            await world.judge(n, sleeper(n))
        await world.settle()

    asyncio.run(scenario())
    at = [world.done.index("table 63"), world.done.index("table 66")]
    assert all(world.done[n - 2 : n] == ["command", "alert"] for n in at)
    person = pseudonym(NAMES, "ana")
    assert [(one.person, one.level) for one in world.commands] == [(person, 2), (person, 3)]
    assert world.commands[0].recheck == ()
    assert world.commands[1].recheck == tuple(f"item{n:012d}" for n in reversed(range(60)))
    found = [
        read_alert(TOPICS.name("alerts"), one["value"], one["headers"], {SEAL.key_id: SEAL}) for one in world.alerts
    ]
    assert all(isinstance(one, Alert) and one.person == person for one in found)
    assert value(world.metrics, "hitl_alerts_total", queue="trading", row="2", level="3") == 1


def test_what_is_told_twice_has_the_same_id(world: World, monkeypatch: pytest.MonkeyPatch):
    """The alarm was told, and the table was not written when the process died."""

    async def scenario() -> None:
        world.begin(monkeypatch)
        for n in range(3):
            await world.judge(n, sleeper(n))
        there = dict(world.monitor._table)
        await world.judge(3, sleeper(3))
        world.monitor._table.data = there
        await world.judge(3, sleeper(3))

    asyncio.run(scenario())
    assert world.commands[0] == world.commands[1]
    assert len(world.commands) == 2
    assert world.alerts[0] == world.alerts[1]


def test_what_cannot_be_told_is_not_written_down(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> Event:
        world.begin(monkeypatch)
        for n in range(3):
            await world.judge(n, sleeper(n))
        world.lost = UnknownOutcomeError("no answer")
        before = world.kept()
        with pytest.raises(UnknownOutcomeError):
            await world.judge(3, sleeper(3))
        assert world.kept() == before
        return await world.judge(4, observation("ben", queue="content"))

    assert not asyncio.run(scenario()).acked


def test_no_public_series_names_a_person(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        world.monitor.pool = pool(*sources())
        monkeypatch.setattr(world.monitor, "_partitions", lambda: {0, 1})
        for n in range(60):
            await world.judge(n)
        for n in range(60, 68):
            await world.judge(n, sleeper(n))
        kept = [*world.kept().values()]
        world.monitor.picture = Quiet({"trading": figures_of([*kept, *kept], kept[0].day)})  # type: ignore[assignment]
        await world.monitor._show()
        await world.judge(68, quiz())
        await world.settle()

    asyncio.run(scenario())
    assert len(world.seeded) == 1
    assert {one.row for one in told(world)} == {0, 2}
    assert value(world.metrics, "hitl_rechecks_total", queue="trading", became="lost") == 60
    shown = [sample for family in world.metrics.metrics.registry.collect() for sample in family.samples]
    text = " ".join(f"{sample.name}{sample.labels}" for sample in shown)
    assert "hitl_alerts_total" in text
    assert "ana" not in text.replace("approval", "").replace("canary", "")
    assert pseudonym(NAMES, "ana") not in text


# --- canaries ---------------------------------------------------------------------------------------------------------


def sources(count: int = 5, first: int = 0) -> list[HumanDecision]:
    """Return what somebody else approved two days ago."""
    return [judgement(asking(n, at_ms=START_MS - 2 * DAY_MS)) for n in range(first, first + count)]


def brings_one(rate: float = 0.10, first: int = 0) -> int:
    """Return the offset of a judgement that brings a canary with it."""
    seeds, topic = Seeds(NAMES, TOPICS.partitions), TOPICS.name("observations")
    return next(n for n in range(first, first + 1_000) if seeds.is_drawn(f"{topic}/0/{n}", rate))


def asked(world: World) -> list[Decided]:
    """Return what people are asked for, as the desk reads it."""
    topic = TOPICS.name("review.seeded")
    found = [read_decided(topic, one["value"], one["headers"], {SEAL.key_id: SEAL}) for one in world.seeded]
    assert all(isinstance(one, Decided) for one in found), found
    for one, record in zip(found, world.seeded, strict=True):
        assert isinstance(one, Decided)
        held = one.decision
        assert record["partition"] == home(held.tenant, held.entity.account or held.agent.id, TOPICS.partitions)
    return [one for one in found if isinstance(one, Decided)]


@pytest.mark.behaviour("A9")
def test_a_canary_stands_on_its_topic_before_the_table_has_the_judgement_that_drew_it(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    at = brings_one()

    async def scenario() -> None:
        world.begin(monkeypatch)
        world.monitor.pool = pool(*sources())
        await world.judge(at)
        await world.settle()

    asyncio.run(scenario())
    assert world.done == ["asked", f"table {at}", f"ack {at}"]
    (one,) = asked(world)
    assert (one.decision.for_, one.decision.purpose) == ("ana", "canary")
    assert one.decision.action_id.startswith("~")
    assert one.decision.moment == time_text(START_MS)


def test_a_judgement_that_is_read_again_after_a_crash_plants_no_second_canary(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    at, topic = brings_one(), TOPICS.name("review.seeded")

    async def scenario() -> None:
        world.begin(monkeypatch)
        world.monitor.pool = pool(*sources())
        await world.judge(at)
        world.monitor._table.data = {}
        await world.judge(at)
        assert len(world.seeded) == 1, "it knows what it wrote"
        world.monitor._table.data, world.monitor.pool = {}, pool(*sources())
        first = world.seeded[0]
        world.monitor.pool.take(FakeRecord(first["value"], 0, 0, START_MS, topic, b"", tuple(first["headers"])))
        await world.judge(at)
        assert len(world.seeded) == 1, "its successor has read it"
        world.monitor._table.data, world.monitor.pool = {}, pool(*sources())
        await world.judge(at)

    asyncio.run(scenario())
    assert world.seeded == [world.seeded[0]] * 2, "who has not read it yet writes the same"


@pytest.mark.parametrize(
    ("one", "rules", "late_s"),
    [
        ({"purpose": "canary", "verdict": "reject"}, {}, 0),
        ({"verdict": "skip"}, {}, 0),
        ({"verdict": "lapse"}, {}, 0),
        ({}, {"queues": {"trading": {"external": True}}}, 0),
        ({}, {}, 901),
        ({"queue": "nobody-knows"}, {}, 0),
    ],
    ids=["a canary", "skipped", "lapsed", "an external client's", "long ago", "no queue of the policy"],
)
def test_no_canary_follows(
    world: World, monkeypatch: pytest.MonkeyPatch, one: dict[str, Any], rules: dict[str, Any], late_s: int
):
    at = brings_one()

    async def scenario() -> None:
        world.begin(monkeypatch)
        world.monitor.pool = pool(*sources(), **rules)
        world.monitor._clock = lambda: START_MS / 1000 + late_s
        await world.judge(at, observation(n=at, **one))

    asyncio.run(scenario())
    assert world.seeded == []
    assert world.kept(), "it was taken in all the same"


@pytest.mark.parametrize(("queue", "asleep"), [("trading", True), ("content", True), ("trading", False)])
def test_who_is_at_level_three_anywhere_gets_none_of_the_highest_tier(
    world: World, monkeypatch: pytest.MonkeyPatch, queue: str, asleep: bool
):
    at = brings_one(0.05, first=7)

    async def scenario() -> None:
        world.begin(monkeypatch)
        for n in range(7):
            await world.judge(
                n, observation("ana", "approve" if asleep else "reject", n=n, purpose="canary", queue=queue)
            )
        world.monitor.pool = pool(*sources(), classes={"bid.adjust": {"tier": 3}})
        await world.judge(at)

    asyncio.run(scenario())
    assert len(world.seeded) == (0 if asleep else 1)


def test_nobody_has_two_canaries_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        world.monitor.pool = pool(*sources(50))
        for n in range(100):
            await world.judge(n)

    asyncio.run(scenario())
    assert len(world.seeded) == 1


def test_a_tenth_of_what_somebody_new_judges_brings_a_canary_where_they_decide_each(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    async def scenario() -> None:
        world.begin(monkeypatch)
        world.monitor.pool = there = pool(*sources(300))
        for n in range(1_000):
            count = len(world.seeded)
            await world.judge(n)
            if len(world.seeded) > count:
                there.seeds.judged(judgement(asked(world)[-1].decision, "ana", "reject"), At(0, 0), 0)

    asyncio.run(scenario())
    assert 70 < len(world.seeded) < 130
    assert len({one.decision.action_id for one in asked(world)}) == len(world.seeded), "each from another source"


# --- judging again ----------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E9")
def test_what_somebody_approved_who_no_longer_looks_is_asked_of_others_before_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    real = [judgement(asking(n), "ana", item=f"item{n:012d}") for n in range(60)]
    decided = {one.item: asked_in(one.asked, bytes(one.action)) for one in real[:58]}

    async def read_back(items: Sequence[str]) -> dict[str, Any]:
        return {item: decided[item] for item in items if item in decided}

    async def scenario() -> None:
        world.begin(monkeypatch)
        monkeypatch.setattr(world.monitor.pool, "read_back", read_back)
        monkeypatch.setattr(world.monitor.pool.seeds, "is_drawn", lambda origin, rate: False)  # type: ignore[union-attr]
        for n in range(60):
            await world.judge(n)
        for n in range(60, 67):
            await world.judge(n, sleeper(n))

    asyncio.run(scenario())
    found = asked(world)
    assert {one.decision.first for one in found} == {First("ana", "approve")}
    assert {one.decision.action_id for one in found} == {f"act-{n}" for n in range(58)}
    assert {one.decision.purpose for one in found} == {"second"}
    at = world.done.index("table 66")
    assert world.done[at - 60 : at] == ["asked"] * 58 + ["command", "alert"]
    assert len(world.commands[1].recheck) == 60, "the command names them all"
    became = {
        word: value(world.metrics, "hitl_rechecks_total", queue="trading", became=word) for word in ("asked", "lost")
    }
    assert became == {"asked": 58, "lost": 2}


# --- qualifying anew --------------------------------------------------------------------------------------------------


def quiz(reviewer: str = "ana") -> Observation:
    """Return the observation of a quiz that was passed."""
    return observation(reviewer, "passed", purpose="quiz", queue="", item="", agent=None, floor_s=0.0)


def test_who_passes_a_quiz_has_qualified_anew_in_every_queue(world: World, monkeypatch: pytest.MonkeyPatch):
    offline, real = Offline(NAMES), [observation(n=n, queue="content") for n in range(7, 10)]

    async def scenario() -> None:
        world.begin(monkeypatch)
        found = [*[sleeper(n) for n in range(7)], *real, observation("ben", n=10), quiz(), observation(n=12)]
        for n, one in enumerate(found):
            await world.judge(n, one)
        await world.judge(11, quiz())
        offline.each([Observed(one, ms_of(one.decided_at)) for one in found])
        await world.settle()

    asyncio.run(scenario())
    assert world.kept() == offline.people
    assert [(one.level, one.recheck) for one in world.commands] == [(2, ()), (3, ()), (0, ())]
    last = read_alert(
        TOPICS.name("alerts"), world.alerts[-1]["value"], world.alerts[-1]["headers"], {SEAL.key_id: SEAL}
    )
    assert isinstance(last, Alert)
    assert (last.row, last.level, last.queue, last.ended, last.page) == (0, 0, "trading", True, None)
    assert world.done[-1] == "ack 11", "the repeat of it"
    assert value(world.metrics, "hitl_observations_repeated_total") == 1


def test_a_quiz_of_somebody_nobody_watches_is_no_news(world: World, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        world.begin(monkeypatch)
        await world.judge(0)
        await world.judge(1, quiz())
        await world.judge(2, quiz("nobody-yet"))
        await world.settle()

    asyncio.run(scenario())
    assert world.done == ["table 0", "table 1", "ack 0", "ack 1", "ack 2"]


# --- queues -----------------------------------------------------------------------------------------------------------


def figures(many: bool = False, disagrees: bool = False, level: int = 0) -> Figures:
    return Figures(
        level=Level(level), reviewers=8, hit_rate=0.5, hurried=None, approved=0.9, many=many, disagrees=disagrees
    )  # fmt: skip


def told(world: World) -> list[Alert]:
    topic = TOPICS.name("alerts")
    found = [read_alert(topic, one["value"], one["headers"], {SEAL.key_id: SEAL}) for one in world.alerts]
    return [one for one in found if isinstance(one, Alert)]


def looks(world: World, monkeypatch: pytest.MonkeyPatch, *now: Figures, ours: set[int] = frozenset({0, 1})) -> None:  # type: ignore[assignment]
    """Let the monitor look at a queue several times."""

    async def scenario() -> None:
        world.begin(monkeypatch)
        monkeypatch.setattr(world.monitor, "_partitions", lambda: ours)
        for one in now:
            world.monitor.picture = Quiet({"trading": one})  # type: ignore[assignment]
            await world.monitor._show()

    asyncio.run(scenario())


def test_a_queue_of_which_many_are_watched_is_told_of_once_and_of_nobody_in_it(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    many = figures(many=True, level=3)
    looks(world, monkeypatch, figures(), many, many, figures(level=2), figures(level=2), many)

    found = told(world)
    assert [(one.id, one.level, one.ended) for one in found] == [
        ("trading/0/1", 3, False), ("trading/0/2", 2, True), ("trading/0/3", 3, False),
    ]  # fmt: skip
    assert {one.person for one in found} == {None}
    assert "REVIEW_ALL" in (found[0].text or "")


def test_a_queue_whose_people_disagree_is_told_of_once(world: World, monkeypatch: pytest.MonkeyPatch):
    looks(world, monkeypatch, figures(disagrees=True), figures(disagrees=True))

    (one,) = told(world)
    assert (one.id, one.row, one.level) == ("trading/5/1", 5, 0)
    assert "rubric" in (one.text or "")


def test_one_worker_speaks_of_a_queue_and_after_a_restart_it_knows_what_was_said(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    mine = partition_of(b"trading", TOPICS.partitions)
    looks(world, monkeypatch, figures(many=True), ours={1 - mine})
    assert told(world) == []
    looks(world, monkeypatch, figures(many=True), ours={mine})
    first = world.alerts[0]

    async def restarted() -> None:
        monkeypatch.setattr(world.monitor, "_partitions", lambda: {mine})
        world.monitor.pool = there = pool()
        there.take(FakeRecord(first["value"], 0, 0, START_MS, TOPICS.name("alerts"), b"", tuple(first["headers"])))
        await world.monitor._show()

    asyncio.run(restarted())
    assert len(world.alerts) == 1


def test_the_monitors_own_key_signs():
    keys = {key.key_id: key for key in (SIGNING, new_signing_key("ana-1", "ana"), new_signing_key("monitor-2", "eve"))}

    assert monitor_key(keys, "keys") is SIGNING
    with pytest.raises(SettingsError, match="no key of the service monitor"):
        monitor_key({"ana-1": keys["ana-1"]}, "keys")
