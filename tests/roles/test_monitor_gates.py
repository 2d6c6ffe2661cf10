"""Gates at the monitor's edge, without Kafka: what is written before what, and what is said when a gate comes back."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import structs

from hitl_stream.core.commands import GateChange
from hitl_stream.core.errors import UnknownOutcomeError
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import terms_of
from hitl_stream.roles import monitor_gates as module
from hitl_stream.roles.gate_keeping import day_of, decode_gate, decode_watched, gate_of
from hitl_stream.roles.gate_table import gathered
from hitl_stream.roles.monitor_gates import GateKeeping, both
from hitl_stream.roles.monitor_state import Place
from hitl_stream.wire.desk_records import Observation
from hitl_stream.wire.gate_past import Removal
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import SigningKey, new_signing_key
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import Alert, read_alert
from support.gates import GATE, POLICY, SDR, OfflineGates, at_gate, expired, looking, removal
from support.make import DESK_KEY, acme
from support.watching import START_MS, written

SEAL = SealKey("m1", b"\x05" * 32)
SIGNING = new_signing_key("monitor-1", "monitor", "service")
TOPICS = TopicSet(partitions=2)


@dataclass
class Spec:
    """What the gates' part asks of a monitor."""

    client: Mapping[str, Any] = field(default_factory=dict)
    topics: TopicSet = TOPICS
    trust: str = ""
    desk_keys: Mapping[str, SealKey] = field(default_factory=lambda: {DESK_KEY.key_id: DESK_KEY})
    seal_key: SealKey = SEAL
    signing: SigningKey = SIGNING
    watch_people: bool = True
    policies: Mapping[str, Policy] = field(default_factory=lambda: {POLICY: acme().policy})


@dataclass
class Message:
    """What Faust says of a record."""

    partition: int
    offset: int
    headers: list[tuple[str, bytes]]
    timestamp: float = START_MS / 1000


@dataclass
class Event:
    """A record in Faust's hands."""

    message: Message
    key: bytes | None
    value: bytes | None
    done: list[str]

    def ack(self) -> None:
        self.done.append(f"ack {self.message.offset}")


class Table(UserDict[bytes, bytes]):
    """A table whose changelog answers when it is told to."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name, self.done = name, done
        self.writes: list[asyncio.Future[None]] = []
        super().__init__()

    @property
    def newest(self) -> asyncio.Future[None]:
        return self.writes[-1]

    def __setitem__(self, key: bytes, value: bytes) -> None:
        super().__setitem__(key, value)
        self.writes.append(asyncio.get_running_loop().create_future())
        self.done.append(self.name)

    async def settle(self) -> None:
        """Let the changelog have everything."""
        for write in self.writes:
            if not write.done():
                write.set_result(None)
        await asyncio.sleep(0)


class Alerts:
    """`alerts`."""

    def __init__(self, done: list[str]) -> None:
        self.sent: list[dict[str, Any]] = []
        self.done = done

    async def send(self, **record: Any) -> asyncio.Future[None]:
        self.sent.append(record)
        self.done.append("alert")
        sent = asyncio.get_running_loop().create_future()
        sent.set_result(None)
        return sent


class World:
    """The gates' part of a monitor without Kafka, and what it has done, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *removals: Removal) -> None:
        self.done: list[str] = []
        self.failed: list[BaseException] = []
        self.commands: list[GateChange] = []
        self.lost: Exception | None = None
        self.keeping = GateKeeping(Spec(), self.failed.append, lambda: START_MS / 1000)
        self.keeping.past.removals = list(removals)
        self.gates, self.relapse = Table("gates", self.done), Table("relapse", self.done)
        self.alerts = Alerts(self.done)
        self.keeping._gates, self.keeping._relapse, self.keeping._alerts = self.gates, self.relapse, self.alerts
        monkeypatch.setattr(module, "append", self._append)

    async def _append(self, client: Any, topics: Any, key: Any, make: Callable[..., GateChange]) -> Any:
        if self.lost is not None:
            raise self.lost
        self.commands.append(make(aud="c", kid=key.key_id, iss=key.holder, jti=f"x{len(self.commands)}", iat=0, exp=1))
        self.done.append("command")
        return Appended()

    async def audit(self, offset: int, one: Observation, gate: bytes = GATE.encode()) -> None:
        """Let it take one audit."""
        _, value, headers = written(TOPICS.name("evidence"), DESK_KEY, one)
        await self.keeping.audit(Event(Message(0, offset, headers), gate, value, self.done))


class Appended:
    """Where a command stands."""

    epoch = 9


def audit(verdict: str = "approve", error: str = "compliance") -> Observation:
    return at_gate("ana", verdict, purpose="audit", errors=() if verdict == "approve" else (error,))


# --- evidence ---------------------------------------------------------------------------------------------------------


def test_the_table_is_what_the_pure_fold_makes_of_the_same_judgements(monkeypatch: pytest.MonkeyPatch):
    seen = [*looking("p-1"), *(at_gate("p-1", n=n) for n in range(30))]
    wanted = OfflineGates(acme().policy).each(seen).kept

    async def each() -> dict[bytes, bytes]:
        world = World(monkeypatch)
        offline = OfflineGates(acme().policy)
        for n, one in enumerate(seen):
            at_ms = START_MS + n * 86_400_000 // 40
            assert await world.keeping.take(one, Place(0, n, at_ms), one.reviewer) is world.gates.newest
        assert offline.kept == {}
        return dict(world.gates)

    assert asyncio.run(each()) == wanted


def test_what_is_in_the_table_already_is_not_written_again(monkeypatch: pytest.MonkeyPatch):
    async def twice() -> list[str]:
        world = World(monkeypatch)
        for _ in range(2):
            written = await world.keeping.take(at_gate(), Place(0, 5, START_MS), "p-1")
        assert written is None
        return world.done

    assert asyncio.run(twice()) == ["gates"]


def test_of_a_policy_that_nobody_knows_nothing_is_kept_and_control_is_asked_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
):
    async def strange() -> tuple[list[str], int]:
        world, looked = World(monkeypatch), 0

        async def catch_up() -> None:
            nonlocal looked
            looked += 1
            world.keeping._read_ms = START_MS

        monkeypatch.setattr(world.keeping, "_catch_up", catch_up)
        for n in range(20):
            await world.keeping.take(at_gate(policy="e" * 64), Place(0, n, START_MS + n), "p-1")
        return world.done, looked

    assert asyncio.run(strange()) == ([], 1)


def test_where_nobody_is_watched_what_was_kept_of_a_partition_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    async def forget() -> list[int]:
        world = World(monkeypatch)
        for partition in (0, 1):
            await world.keeping.take(at_gate(), Place(partition, 5, START_MS), f"p-{partition}")
        world.keeping.forget(0)
        return [day_of(value)[0] for value in world.gates.values()]

    assert asyncio.run(forget()) == [1]


# --- what nobody judged -----------------------------------------------------------------------------------------------


def closed(key: SealKey = DESK_KEY, **more: Any) -> tuple[bytes, list[Any]]:
    """Return an end of one output at the gate, as the desk writes it."""
    return expired(TOPICS.name("closed"), key, POLICY, **more)


def ended(monkeypatch: pytest.MonkeyPatch, *records: tuple[bytes, list[Any]], **spec: Any) -> World:
    """Return a monitor that has read these ends, in two partitions, twice."""

    async def read() -> World:
        world = World(monkeypatch)
        for name, value in spec.items():
            setattr(world.keeping.spec, name, value)
        for offset, (value, headers) in [*enumerate(records)] * 2:
            for partition in (0, 1):
                await world.keeping.end(Event(Message(partition, offset, headers), b"k", value, world.done))
        await world.gates.settle()
        return world

    return asyncio.run(read())


def test_an_output_that_expired_with_nobody_is_an_error_of_every_type_and_no_person(monkeypatch: pytest.MonkeyPatch):
    world = ended(monkeypatch, closed(), closed(purpose="audit"))
    kept = {key: decode_gate(value) for key, value in world.gates.items()}
    assert [gate_of(key).person for key in kept] == ["nobody-0", "nobody-1"]  # type: ignore[union-attr]

    figures = gathered(kept, {}).of(acme().policy, GATE, SDR, START_MS)
    assert (figures.persons, figures.items) == (0, 4)
    assert [(one.items, one.errors) for one in figures.types] == [(4, 4)] * 3
    assert [one.e for one in figures.types] == [pytest.approx(1 / 5)] * 3, "the integral of u⁴"
    assert sum(one.startswith("ack") for one in world.done) == 8


@pytest.mark.parametrize(
    ("record", "spec"),
    [
        (closed(end="rejected"), {}),
        (closed(purpose="canary"), {}),
        (closed(key=SealKey("r1", b"\x01" * 32)), {}),
        (closed(context={"segment": "smb"}), {}),
        (closed(), {"watch_people": False}),
        ((b"{}", []), {}),
    ],
    ids=["judged", "planted", "another role's", "outside of the segment", "nobody is watched", "cannot be read"],
)
def test_every_other_end_is_only_acknowledged(
    monkeypatch: pytest.MonkeyPatch, record: tuple[bytes, list[Any]], spec: dict[str, Any]
):
    assert ended(monkeypatch, record, **spec).done == ["ack 0"] * 4


# --- putting back -----------------------------------------------------------------------------------------------------


def test_a_gate_comes_back_by_a_signed_command_then_an_alert_then_the_table_then_the_ack(
    monkeypatch: pytest.MonkeyPatch,
):
    async def back() -> World:
        world = World(monkeypatch, removal(acme().policy))
        await world.audit(3, audit())
        await world.audit(4, audit("reject"))
        assert "ack 3" not in world.done
        await world.relapse.settle()
        return world

    world = asyncio.run(back())
    assert world.done == ["relapse", "command", "alert", "relapse", "ack 3", "ack 4"]
    (command,) = world.commands
    definition = terms_of(acme().policy, GATE).definition
    assert (command.gate, command.state, command.agent, command.definition) == (GATE, "enforce", SDR, definition)
    assert command.reason is not None
    assert "of 2 audited outputs of sdr-1@4 more were wrong (compliance)" in command.reason


def test_the_alert_names_the_gate_and_nobody(monkeypatch: pytest.MonkeyPatch):
    async def back() -> World:
        world = World(monkeypatch, removal(acme().policy))
        await world.audit(4, audit("reject"))
        await world.relapse.settle()
        return world

    (sent,) = asyncio.run(back()).alerts.sent
    alert = read_alert(TOPICS.name("alerts"), sent["value"], sent["headers"], {SEAL.key_id: SEAL})
    assert isinstance(alert, Alert)
    assert (alert.gate, alert.queue, alert.person, alert.page) == (GATE, "", None, None)
    assert alert.id == f"{TOPICS.name('evidence')}/0/4"
    assert b"ana" not in sent["value"]


def test_a_command_that_is_lost_leaves_the_table_as_it_was_and_is_said_with_the_same_id(
    monkeypatch: pytest.MonkeyPatch,
):
    async def crash() -> World:
        world = World(monkeypatch, removal(acme().policy))
        world.lost = UnknownOutcomeError("no answer")
        with pytest.raises(UnknownOutcomeError):
            await world.audit(4, audit("reject"))
        assert world.done == []
        world.lost = None
        await world.audit(4, audit("reject"))
        world.relapse.data.clear()  # its write was lost, too: the audit is read again
        await world.audit(4, audit("reject"))
        return world

    ids = [command.jti for command in asyncio.run(crash()).commands]
    assert len(ids) == 2
    assert len(set(ids)) == 1


def test_a_gate_that_is_put_back_is_not_put_back_again_and_a_repeat_counts_once(monkeypatch: pytest.MonkeyPatch):
    async def again() -> World:
        world = World(monkeypatch, removal(acme().policy))
        for offset in (4, 4, 5, 6):
            await world.audit(offset, audit("reject"))
        await world.relapse.settle()
        return world

    world = asyncio.run(again())
    assert len(world.commands) == 1
    (kept,) = map(decode_watched, world.relapse.values())
    assert kept.returned
    assert {one.items for one in kept.relapse.values()} == {3}
    assert [one for one in world.done if one.startswith("ack")] == ["ack 4", "ack 4", "ack 5", "ack 6"]


@pytest.mark.parametrize(
    "case", ["another gate", "another version", "no removal", "another definition", "unknown policy", "cannot be read"]
)
def test_an_audit_of_what_no_removal_let_through_is_only_acknowledged(monkeypatch: pytest.MonkeyPatch, case: str):
    gone = removal(acme().policy)
    one, gate = audit("reject"), GATE.encode()

    async def passed() -> World:
        world = World(monkeypatch, *(() if case == "no removal" else (gone,)))
        seen = one
        if case == "another version":
            seen = at_gate("ana", "reject", purpose="audit", agent=type(SDR)("sdr-1", "5"), errors=("compliance",))
        if case == "unknown policy":
            seen = at_gate("ana", "reject", purpose="audit", policy="e" * 64, errors=("compliance",))
        if case == "another definition":
            change = structs.replace(gone.change, definition="0" * 64)
            world.keeping.past.removals = [structs.replace(gone, change=change)]
        if case == "cannot be read":
            await world.keeping.audit(Event(Message(0, 4, []), gate, b"{}", world.done))
        else:
            await world.audit(4, seen, b"style" if case == "another gate" else gate)
        return world

    world = asyncio.run(passed())
    assert world.done == ["ack 4"]
    assert world.failed == []


# --- two writes -------------------------------------------------------------------------------------------------------


def test_two_writes_are_done_with_the_later_and_fail_with_either():
    async def run() -> None:
        loop = asyncio.get_running_loop()
        first, second = loop.create_future(), loop.create_future()
        whole = both(first, second)
        first.set_result(None)
        await asyncio.sleep(0)
        assert not whole.done()
        second.set_result(None)
        await asyncio.sleep(0)
        assert whole.result() is None

        first, second = loop.create_future(), loop.create_future()
        whole = both(first, second)
        second.set_exception(OSError("gone"))
        await asyncio.sleep(0)
        assert isinstance(whole.exception(), OSError)

        first, second = loop.create_future(), loop.create_future()
        whole = both(first, second)
        first.cancel()
        await asyncio.sleep(0)
        assert whole.cancelled()
        assert both(None, second) is second
        assert both(first, None) is first
        assert both(None, None) is None

    asyncio.run(run())
