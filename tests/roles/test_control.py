"""The control role without a broker: what it makes of records, what its heartbeats say, how the prover goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from hitl_stream.core.commands import Engage, Farewell
from hitl_stream.core.control import RELEASE_MS_MIN
from hitl_stream.core.effective import FENCE_AFTER_MS, LEASE_MS, Effective, Id
from hitl_stream.core.errors import RefusedError
from hitl_stream.core.events import Mode
from hitl_stream.core.tripwires import Publisher, Tripped
from hitl_stream.lane.fencing import transactional_id
from hitl_stream.lane.lane import LaneSpec
from hitl_stream.roles import prover as prover_module
from hitl_stream.roles.control import ControlRole, ControlSpec, Unobserved, counted, kind_of
from hitl_stream.roles.prover import Prover
from hitl_stream.wire.records import ACK, Ack, encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.signing import SigningKey, new_signing_key, read_heartbeat
from hitl_stream.wire.topics import TopicSet
from support.guard import Commands
from support.make import FakeRecord
from support.signed import ANA, CLUSTER, CONTROL, FIRST, NOW_MS, NOW_S, TRUST, entry, signed

N = 2
TOPICS = TopicSet(partitions=N)
SEAL = SealKey("r1", b"k" * 32)
TURNS = 200


class Seen(Unobserved):
    """Keeps what the role tells."""

    def __init__(self) -> None:
        self.why: Counter[str] = Counter()
        self.now: Mapping[tuple[str, str], int] = {}
        self.changes: list[tuple[str, str, float]] = []
        self.took: list[tuple[str, str, float]] = []

    def rejected(self, why: str) -> None:
        self.why[str(why)] += 1

    def engaged(self, now: Mapping[tuple[str, str], int]) -> None:
        self.now = now

    def changed(self, mode: str, scope_kind: str, at_s: float) -> None:
        self.changes.append((mode, scope_kind, at_s))

    def effective(self, mode: str, scope_kind: str, seconds: float) -> None:
        self.took.append((mode, scope_kind, seconds))


class Clock:
    """A steady clock that a test turns."""

    def __init__(self) -> None:
        self.ms = 50_000

    def __call__(self) -> int:
        return self.ms


def make_role(*keys: SigningKey, clock: Clock | None = None) -> tuple[ControlRole, Seen]:
    """Return a role that has folded the first keys, and what it tells."""
    signing = {key.key_id: key for key in keys or (CONTROL,)}
    groups = {"router": "hitl-router", "desk": "hitl-desk"}
    spec = ControlSpec({}, TOPICS, TRUST, "h/control/0", groups, {"router": {"r1": SEAL}}, signing)
    seen = Seen()
    role = ControlRole(spec, seen, steady=clock or Clock())
    role._log.audience = CLUSTER
    fold(role, FIRST)
    return role, seen


def fold(role: ControlRole, *values: bytes, at_ms: int = NOW_MS, old: bool = False) -> None:
    first = role.control.epoch + 1
    records = [
        FakeRecord(topic="hitl.control", partition=0, offset=first + n, timestamp=at_ms, value=value)
        for n, value in enumerate(values)
    ]
    role._fold(records, old)


def hear(role: ControlRole, instance: str = "h/router/0", n: int = 1, **fields: Any) -> None:
    ack = Ack(n=n, instance=instance, role="router", version="1", **{"epoch": role.control.epoch} | fields)
    value = encode(ack)
    headers = [(TYPE_HEADER, ACK.encode()), (SEAL_HEADER, sealer(SEAL, "hitl.control.acks", ACK)(value))]
    offset = role.effective._instances[instance].offset + 1 if instance in role.effective._instances else n
    key = instance.encode()
    record = FakeRecord(topic="hitl.control.acks", partition=0, offset=offset, timestamp=NOW_MS, key=key, value=value)
    record.headers = headers
    role._hear(record, False)


def engage(*scope: str, mode: Mode = Mode.HALT, **fields: Any) -> bytes:
    return signed(ANA, Engage, scope=scope, mode=mode, **fields)


# --- what it makes of records -----------------------------------------------------------------------------------------


def test_switches_are_counted_by_mode_and_by_their_most_selective_kind():
    role, seen = make_role()
    fold(
        role, engage("campaign:c", "tenant:t"), engage("global:*"), engage("agent:a", mode=Mode.REVIEW_ALL), b"rubbish"
    )

    assert seen.now == {("HALT", "campaign"): 1, ("HALT", "global"): 1, ("REVIEW_ALL", "agent"): 1}
    assert seen.changes[-3:] == [
        ("HALT", "campaign", NOW_S),
        ("HALT", "global", NOW_S),
        ("REVIEW_ALL", "agent", NOW_S),
    ]
    assert seen.why == {"malformed": 1}
    assert role.effective.pending == [1, 2, 3]


def test_a_release_is_a_change_and_leaves_a_zero():
    commands = Commands()
    epoch = commands.engage("campaign:c")
    assert counted(commands.control.switches.engaged.values()) == {("HALT", "campaign"): 1}
    commands.release(epoch)

    assert counted(commands.control.switches.engaged.values()) == {}
    assert commands.at_ms >= RELEASE_MS_MIN


@pytest.mark.parametrize(
    ("scope", "kind"),
    [
        (("global:*",), "global"),
        ((), "global"),
        (("nonsense:x", "tenant:t"), "global"),
        (("tenant:t",), "tenant"),
        (("tenant:t", "account:a"), "account"),
        (("type:bid", "agent:a"), "agent"),
    ],
)
def test_the_kind_of_a_scope_is_its_most_selective_one(scope: tuple[str, ...], kind: str):
    assert kind_of(scope) == kind


def test_acks_are_heard_and_what_is_none_is_counted():
    role, seen = make_role()
    hear(role, n=5)
    hear(role, n=5)
    hear(role, n=4)
    role._hear(FakeRecord(topic="hitl.control.acks", partition=0, offset=9, key=b"h/router/0", value=None), False)
    role._hear(FakeRecord(topic="hitl.control.acks", partition=0, offset=10, key=b"h/router/0", value=b"{}"), False)

    assert role.effective.numbers(role._steady()) == {"h/router/0": 5}
    assert seen.why == {"replayed": 2, "malformed": 1}


def test_a_farewell_is_taken_in_with_its_append_time():
    role, _ = make_role()
    fold(role, signed(ANA, Farewell, instance="h/executor/0", reason="seen"), at_ms=NOW_MS + 5)

    assert role.effective._farewells == {"h/executor/0": NOW_MS + 5}


# --- heartbeats -------------------------------------------------------------------------------------------------------


def test_a_heartbeat_is_believed_and_says_what_is_folded_heard_and_effective():
    role, _ = make_role()
    hear(role, n=5)
    fold(role, engage("global:*"))
    value = role._sign(CONTROL, {"h/router/0": 5})
    beat = read_heartbeat(value, NOW_MS, role.control.keys, CLUSTER)

    assert (beat.epoch, beat.digest, beat.acks) == (1, role.control.digest.hex(), {"h/router/0": 5})
    assert beat.effective == 0
    assert beat.control == "h/control/0"
    assert (beat.iat, beat.exp) == (NOW_S, NOW_S + 60)


def test_every_heartbeat_has_an_id_and_a_number_of_its_own():
    role, _ = make_role()
    beats = [read_heartbeat(role._sign(CONTROL, {}), NOW_MS, role.control.keys, CLUSTER) for _ in range(3)]

    assert [beat.seq for beat in beats] == [1, 2, 3]
    assert len({beat.jti for beat in beats}) == 3


def test_time_goes_on_from_the_newest_append_time():
    clock = Clock()
    role, _ = make_role(clock=clock)
    clock.ms += 7_000
    beat = read_heartbeat(role._sign(CONTROL, {}), NOW_MS + 7_000, role.control.keys, CLUSTER)

    assert beat.iat == NOW_S + 7


@pytest.mark.parametrize(
    ("keys", "found"),
    [((CONTROL,), CONTROL.key_id), ((ANA, CONTROL), CONTROL.key_id), ((), None)],
)
def test_it_signs_with_a_key_that_control_lists_for_heartbeats(keys: tuple[SigningKey, ...], found: str | None):
    role, _ = make_role()
    role.spec.signing.clear()  # type: ignore[attr-defined]
    role.spec.signing.update({key.key_id: key for key in keys})  # type: ignore[attr-defined]
    role.control.keys["ana-1"] = entry(ANA, "engage")

    key = role._key()
    assert (key.key_id if key else None) == found
    assert bool(role.missing()) is True
    if found is None:
        assert "hitl keys" in role.missing()


def test_it_does_not_sign_with_another_services_key_that_lies_beside_its_own():
    host = new_signing_key("host-1", "host", "service")
    role, _ = make_role(CONTROL, host)
    role.control.keys["host-1"] = entry(host, "engage")

    assert role._key("engage") is CONTROL


def test_a_key_out_of_its_time_is_used_only_to_learn_the_time():
    role, _ = make_role()
    role.control.keys["control-1"] = entry(CONTROL, until_s=NOW_S - 1)
    assert role._key() is CONTROL

    role._beat_ms = role._steady()
    assert role._key() is None


def test_it_is_ready_while_heartbeats_are_delivered():
    clock = Clock()
    role, _ = make_role(clock=clock)
    assert role.missing() == "no heartbeat was delivered yet"
    role._beat_ms = clock.ms
    assert role.missing() == ""
    clock.ms += 1_500
    assert role.missing() == "the last heartbeat was delivered 1.5 s ago"


def test_without_the_record_that_trust_names_it_says_what_to_do():
    role = ControlRole(ControlSpec({}, TOPICS, TRUST, "h/control/0", {}, {}, {}))

    assert "hitl keys init" in role.missing()


def test_it_fences_by_the_ids_that_lanes_write_with():
    spec = LaneSpec("router", "hitl-router", "m", "h/router/0", (), {}, "dlq")

    assert spec.transactional_id(3) == transactional_id("hitl-router", 3)


# --- tripwires --------------------------------------------------------------------------------------------------------


def test_a_tripwire_engages_no_wider_than_its_publisher_and_under_the_same_id_from_every_control(
    monkeypatch: pytest.MonkeyPatch,
):
    sent: list[Engage] = []

    async def append(client: Any, topics: Any, key: SigningKey, make: Callable[..., Engage]) -> None:
        claims = {"aud": CLUSTER, "kid": key.key_id, "iss": key.holder, "jti": "random", "iat": NOW_S, "exp": NOW_S}
        sent.append(make(**claims))

    monkeypatch.setattr("hitl_stream.roles.control.append", append)
    tripped = Tripped("rate", Publisher("acme", "bidder-7"), "actions a second", 61.0, 50.0)
    for _ in range(2):
        role, _ = make_role()
        asyncio.run(role.engage(tripped))

    assert sent[0].scope == ("agent:bidder-7", "tenant:acme")
    assert (sent[0].mode, sent[0].source) == (Mode.HALT, "tripwire")
    assert "actions a second 61" in (sent[0].reason or "")
    assert sent[0].jti == sent[1].jti
    fold(role, engage("agent:bidder-7", "tenant:acme", source="tripwire"))
    asyncio.run(role.engage(tripped))
    assert sent[2].jti != sent[0].jti, "another time is another command"


def test_a_tripwire_that_names_nobody_engages_nothing():
    role, _ = make_role()
    with pytest.raises(RefusedError, match="nobody to name"):
        asyncio.run(role.engage(Tripped("poison", None, "dead letters", 9, 1)))


# --- the prover -------------------------------------------------------------------------------------------------------


class FakeEnds:
    """Ends of `execute` that a test sets; `trouble` is raised first."""

    def __init__(self) -> None:
        self.highs = [10] * N
        self.stables = [10] * N
        self.trouble: list[Exception] = []
        self.asked: list[str] = []

    async def high(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self.answer("high", self.highs, partitions)

    async def stable(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return self.answer("stable", self.stables, partitions)

    def answer(self, what: str, ends: list[int], partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        self.asked.append(what)
        if self.trouble:
            raise self.trouble.pop()
        return {tp: ends[tp.partition] for tp in partitions}


class Bench:
    """A prover at work, on a clock that a test turns; waiting costs no time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("LOOK_EVERY_S", "STABLE_EVERY_S", "FENCE_AGAIN_S"):
            monkeypatch.setattr(prover_module, name, 0.0)
        self.clock = Clock()
        self.effective = Effective(N)
        self.ends = FakeEnds()
        self.epoch = -1
        self.offset = 0
        self.done: list[list[int]] = []
        self.fenced: list[Id] = []
        self.failing = 0
        self.gate: asyncio.Event | None = None
        self.prover = Prover(
            self.effective,
            self.ends,
            [TopicPartition("execute", n) for n in range(N)],
            self.fence,
            lambda epochs: self.done.append(list(epochs)),
            lambda: self.epoch,
            self.clock,
        )

    async def fence(self, one: Id) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.failing:
            self.failing -= 1
            raise KafkaError("no answer")
        self.fenced.append(one)

    def hear(self, instance: str = "h/router/0", **fields: Any) -> None:
        self.offset += 1
        fields.setdefault("claims", fields.get("partitions", ()))
        role = instance.split("/")[1]
        ack = Ack(n=self.offset, instance=instance, role=role, version="1", **fields)
        self.effective.heard(self.offset, ack, 0, self.clock.ms)
        self.prover.stirred()

    def engage(self, *epochs: int) -> None:
        self.epoch = epochs[-1]
        self.effective.folded(self.epoch, epochs, self.clock.ms)
        self.read()

    def read(self) -> None:
        self.effective.read(self.epoch, self.clock.ms)
        self.prover.stirred()

    async def turns(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    @asynccontextmanager
    async def working(self) -> Any:
        task = asyncio.create_task(self.prover.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench(monkeypatch)
    found.hear("d/desk/0", epoch=1_000, partitions=(0, 1))
    found.hear(epoch=1, partitions=(0, 1))
    return found


def test_what_is_acknowledged_is_effective_once_the_stable_offsets_have_reached_the_high_ones(bench: Bench):
    async def scenario() -> None:
        async with bench.working():
            bench.engage(7)
            bench.ends.stables = [10, 9]
            bench.hear(epoch=7, partitions=(0, 1))
            await bench.turns()
            assert bench.done == []
            bench.ends.highs = [99, 99]  # what comes later was decided later
            bench.ends.stables = [10, 10]
            await bench.turns()
            assert bench.done == [[7]]
            assert bench.effective.effective == 7

    asyncio.run(scenario())


def test_watermarks_are_asked_for_only_after_everybody_has_acknowledged(bench: Bench):
    async def scenario() -> None:
        async with bench.working():
            bench.engage(7)
            await bench.turns()
            assert bench.ends.asked == []
            bench.hear(epoch=7, partitions=(0, 1))
            await bench.turns()
            assert bench.ends.asked[0] == "high"

    asyncio.run(scenario())


def test_a_broker_that_does_not_answer_is_asked_again(bench: Bench):
    async def scenario() -> None:
        bench.ends.trouble = [TimeoutError(), KafkaError("gone"), OSError("cut")]
        async with bench.working():
            bench.engage(1)
            await bench.turns()
            assert bench.done == [[1]]

    asyncio.run(scenario())


def test_a_silent_instance_is_fenced_after_its_time_and_again_until_it_works(bench: Bench):
    async def scenario() -> None:
        bench.failing = 3
        async with bench.working():
            bench.engage(7)
            await bench.turns()
            assert bench.fenced == []
            bench.clock.ms += FENCE_AFTER_MS
            await bench.turns()
            assert sorted(bench.fenced) == [Id("router", 0), Id("router", 1)]
            assert bench.done == [[7]]
            assert bench.prover.fences == 2

    asyncio.run(scenario())


def test_a_fence_that_hangs_holds_up_neither_another_one_nor_an_older_engagement(bench: Bench):
    async def scenario() -> None:
        bench.gate = asyncio.Event()
        async with bench.working():
            bench.engage(1)
            bench.engage(7)
            bench.clock.ms += FENCE_AFTER_MS
            await bench.turns()
            assert bench.done == [[1]]
            bench.hear(epoch=7, partitions=(0, 1))
            await bench.turns()
            assert bench.done == [[1], [7]]
            assert bench.fenced == []

    asyncio.run(scenario())


def test_a_fence_proves_only_what_was_folded_when_it_began(bench: Bench):
    async def scenario() -> None:
        bench.gate = asyncio.Event()
        async with bench.working():
            bench.engage(7)
            bench.clock.ms += FENCE_AFTER_MS
            await bench.turns()
            bench.engage(8)
            bench.gate.set()
            await bench.turns()
            assert bench.done == [[7]]
            bench.clock.ms += FENCE_AFTER_MS
            bench.read()
            await bench.turns()
            assert bench.done == [[7], [8]]

    asyncio.run(scenario())


def test_several_engagements_in_flight_become_effective_in_order(bench: Bench):
    async def scenario() -> None:
        async with bench.working():
            bench.engage(2, 5, 9)
            bench.hear(epoch=5, partitions=(0, 1))
            await bench.turns()
            bench.hear(epoch=9, partitions=(0, 1))
            await bench.turns()
            assert bench.done == [[2, 5], [9]]

    asyncio.run(scenario())


def test_a_transaction_of_nobody_that_hides_execute_is_fenced_and_said(bench: Bench):
    async def scenario() -> None:
        bench.ends.stables = [10, 4]
        async with bench.working():
            bench.engage(1)
            await bench.turns()
            bench.clock.ms += prover_module.STUCK_MS
            bench.hear("d/desk/0", epoch=1_000, partitions=(0, 1))
            await bench.turns()
            assert bench.fenced == [Id("router", 1)]
            assert bench.done == []
            bench.ends.stables = [10, 10]
            await bench.turns()
            assert bench.done == [[1]]

    with capture_logs() as logs:
        asyncio.run(scenario())
    (said,) = [line for line in logs if line["event"] == "waiting for transactions on execute"]
    assert said["partitions"] == [1]


def test_containment_is_said_with_instance_and_calls_once(bench: Bench):
    async def scenario() -> None:
        bench.hear("x/executor/0", epoch=1, calls=3, calls_epoch=0)
        async with bench.working():
            bench.engage(7)
            bench.hear(epoch=7, partitions=(0, 1))
            bench.clock.ms += LEASE_MS
            bench.read()
            await bench.turns()
            assert bench.done == []
            assert [one.instance for one in bench.prover.outlook.contained] == ["x/executor/0"]

    with capture_logs() as logs:
        asyncio.run(scenario())
    (said,) = [line for line in logs if line["event"].startswith("CONTAINED")]
    assert (said["log_level"], said["instance"], said["calls"], said["epoch"]) == ("warning", "x/executor/0", 3, 7)


def test_when_it_ends_it_takes_its_fences_with_it(bench: Bench):
    async def scenario() -> None:
        bench.gate = asyncio.Event()
        async with bench.working():
            bench.engage(7)
            bench.clock.ms += FENCE_AFTER_MS
            await bench.turns()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
