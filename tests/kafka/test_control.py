"""The control role on a real Kafka: leases, EFFECTIVE, fencing, and whoever tries to be believed without a right to it.

Producers, transactions and clocks are real; what is paused is an instance's acks and its reading, as after SIGSTOP.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from msgspec import structs

from faults.harness import Dose, Load, Site
from hitl_stream.core.commands import Engage, Farewell, Heartbeat
from hitl_stream.core.effective import LEASE_MS
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.core.tripwires import REPEATS
from hitl_stream.dev.site import begin_trust
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.commander import Commander, commanding
from hitl_stream.lane.control_view import ControlView, Member
from hitl_stream.lane.fencing import transactional_id
from hitl_stream.lane.guard import Doing
from hitl_stream.lane.transaction import Transactions
from hitl_stream.roles.control import ControlRole, ControlSpec, Unobserved
from hitl_stream.roles.tripwires import Tripwires, TripwireSpec
from hitl_stream.wire.records import ACK, DECISION, Ack, encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, create_key, sealer
from hitl_stream.wire.signing import SigningKey, new_signing_key, read_signing_keys, sign
from hitl_stream.wire.topics import CONTROL_TOPICS, ROUTER_TOPICS, TopicSet
from support.cli import controlled
from support.kafka import POLL_SECONDS, Topics, producing, read_values, within
from support.toy import until as until_true

pytestmark = pytest.mark.kafka
N = 4
FORGED = 10_000
EFFECTIVE_S_MAX = 1.0
SILENT_S_MAX = 2.5


class Seen(Unobserved):
    """Keeps what the role tells."""

    def __init__(self) -> None:
        self.fences: Counter[str] = Counter()
        self.why: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.beats = 0

    def fenced(self, role: str) -> None:
        self.fences[role] += 1

    def rejected(self, why: str) -> None:
        self.why[str(why)] += 1

    def effective(self, mode: str, scope_kind: str, seconds: float) -> None:
        self.seconds.append(seconds)

    def beat(self) -> None:
        self.beats += 1


class View(ControlView):
    """A view that can fall silent: its acks do not arrive any more."""

    silent = False

    async def _acknowledge(self, goodbye: bool = False) -> None:
        if self.silent:
            raise TimeoutError("cut off")
        await super()._acknowledge(goodbye)


@dataclass
class Owner:
    """What holds partitions as a lane does: it announces, starts producers, and opens."""

    here: Here
    view: View
    role: str
    claims: set[int] = field(default_factory=set)
    open: set[int] = field(default_factory=set)
    producers: dict[int, Transactions] = field(default_factory=dict)
    calls: tuple[int, int | None] = (0, None)
    fence: bool = False

    def doing(self) -> Doing:
        return Doing(tuple(self.open), None, *self.calls, tuple(self.claims), self.fence)

    async def take(self, *numbers: int) -> Owner:
        for number in numbers:
            self.claims.add(number)
            await self.view.announce()
            group = self.here.groups[self.role]
            self.producers[number] = await Transactions.start(self.here.client, transactional_id(group, number), group)
            await self.view.catch_up()
            self.open.add(number)
        await self.view.announce()
        return self

    async def begin(self, number: int, value: bytes = b"{}") -> None:
        """Write to `execute` in a transaction, and leave it open."""
        producer = self.producers[number]._producer
        await producer.begin_transaction()
        await producer.send_and_wait(self.here.topics.name("execute"), value, partition=number)

    async def commit(self, number: int) -> None:
        await self.producers[number]._producer.commit_transaction()


@dataclass
class Here:
    """One installation's control topics and keys."""

    client: dict[str, Any]
    topics: TopicSet
    directory: Path
    trust: str = ""
    seals: dict[str, SealKey] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, str]:
        return {role: f"{self.topics.prefix}{role}" for role in ("router", "desk")}

    @property
    def keys(self) -> dict[str, SigningKey]:
        return read_signing_keys(self.directory)

    @asynccontextmanager
    async def control(self, slot: int = 0) -> AsyncIterator[tuple[ControlRole, Seen]]:
        seen = Seen()
        seals = {role: {key.key_id: key} for role, key in self.seals.items()}
        keys = {key.key_id: key for key in self.keys.values() if key.kind == "service"}
        spec = ControlSpec(self.client, self.topics, self.trust, f"h/control/{slot}", self.groups, seals, keys)
        role = ControlRole(spec, seen)
        await role.start()
        try:
            yield role, seen
        finally:
            await role.stop()

    @asynccontextmanager
    async def owner(self, role: str = "router", slot: int = 0) -> AsyncIterator[Owner]:
        view = View(self.client, self.topics, self.trust, Member(f"h/{role}/{slot}", role, "1", self.seals[role]))
        owner = Owner(self, view, role)
        view.watch(owner.doing)
        await view.start()
        try:
            yield owner
        finally:
            for producer in owner.producers.values():
                await producer.drop()
            view.silent = False
            owner.claims, owner.open = set(), set()
            await view.stop()

    @asynccontextmanager
    async def everybody(self) -> AsyncIterator[tuple[Owner, Owner]]:
        """Run a router and a desk that hold every partition."""
        async with self.owner("router") as router, self.owner("desk") as desk:
            await router.take(*range(N))
            await desk.take(*range(N))
            yield router, desk

    @asynccontextmanager
    async def commander(self, key: str = "ana-1") -> AsyncIterator[Commander]:
        async with commanding(self.client, self.topics, self.keys[key]) as commander:
            yield commander


async def installed(topics: Topics, directory: Path) -> Here:
    here = Here({"bootstrap_servers": topics.bootstrap}, TopicSet(topics.prefix, N), directory)
    await apply(here.client, here.topics, (*ROUTER_TOPICS, *CONTROL_TOPICS))
    here.trust = await begin_trust(here.client, here.topics, directory)
    for role in ("router", "desk", "executor"):
        here.seals[role] = create_key(directory, f"seal-{role}", f"{role}-1")
    return here


async def halt(commander: Commander, scope: str = "campaign:cmp-7") -> int:
    return (await commander.append(partial(Engage, scope=(scope,), mode=Mode.HALT))).epoch


async def effective(role: ControlRole, epoch: int, seconds_max: float = 20.0) -> float:
    """Wait until an epoch is EFFECTIVE; return how long that took from here."""
    started = time.monotonic()
    async with asyncio.timeout(seconds_max):
        while role.effective.effective < epoch:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    return time.monotonic() - started


async def warmed(role: ControlRole, commander: Commander) -> None:
    """Engage once: every id is known from then on."""
    await effective(role, await halt(commander))


def run(topics: Topics, directory: Path, scenario: Callable[[Here], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario(await installed(topics, directory))

    within(whole(), 120.0)


# --- leases -----------------------------------------------------------------------------------------------------------


def test_heartbeats_give_an_instance_its_lease_and_keep_it(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.owner() as router:
            assert not router.view.may_emit()
            assert "hitl run control" in router.view.missing()
            async with here.control() as (role, seen):
                await asyncio.wait_for(router.view.allowed(), 2.0)
                assert role.missing() == ""
                for _ in range(40):
                    await asyncio.sleep(0.05)
                    assert router.view.lease_left_ms() > LEASE_MS / 2
                assert seen.beats >= 6
                assert set(seen.why) <= {"replayed"}  # a producer's own retries, on a slow day

    run(topics, tmp_path, scenario)


def test_without_control_leases_run_out_after_two_seconds_and_come_back_with_a_new_one(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.owner() as router:
            async with here.control():
                await router.view.allowed()
            gone = time.monotonic()
            await until_true(lambda: not router.view.may_emit())
            assert time.monotonic() - gone <= LEASE_MS / 1000 + 0.1
            await asyncio.sleep(0.5)
            assert not router.view.may_emit()
            assert "ran out" in router.view.missing()
            async with here.control():
                await asyncio.wait_for(router.view.allowed(), 2.0)

    run(topics, tmp_path, scenario)


def test_an_instance_whose_acks_do_not_arrive_loses_its_lease_though_heartbeats_come(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.control() as (_, seen), here.owner() as router:
            await router.view.allowed()
            router.view.silent = True
            silent = time.monotonic()
            await until_true(lambda: not router.view.may_emit())
            assert time.monotonic() - silent <= LEASE_MS / 1000 + 0.1
            before = seen.beats
            await asyncio.sleep(1.0)
            assert seen.beats > before + 2
            assert not router.view.may_emit()

    run(topics, tmp_path, scenario)


def test_heartbeats_that_lay_in_a_buffer_while_a_process_slept_give_no_lease(
    kafka: str, topics: Topics, tmp_path: Path
):
    """Control has a process of its own; this one stands still, as under SIGSTOP, and its acks are cut off from then."""
    (tmp_path / "state").mkdir()
    with controlled(tmp_path, kafka, topics.prefix, N) as trust:
        here = Here({"bootstrap_servers": kafka}, TopicSet(topics.prefix, N), tmp_path / "state" / "keys", trust)
        here.seals["router"] = create_key(here.directory, "seal-router", "r1")

        async def scenario() -> None:
            async with here.owner() as router:
                await router.view.allowed()
                router.view.silent = True
                time.sleep(LEASE_MS / 1000 + 1.0)  # noqa: ASYNC251  the whole process stands still
                assert not router.view.may_emit()
                for _ in range(60):
                    await asyncio.sleep(0.02)
                    assert not router.view.may_emit()
                router.view.silent = False
                await asyncio.wait_for(router.view.allowed(), 2.0)

        within(scenario())


def test_no_heartbeat_goes_out_while_control_has_not_applied_what_stands_on_its_topic(topics: Topics, tmp_path: Path):
    """So that a lease never comes from an ack that is newer than a command which its heartbeat does not know."""

    async def scenario(here: Here) -> None:
        async with here.control() as (role, seen), here.owner() as router, here.commander() as commander:
            await router.view.allowed()
            role._consumer.pause(role._commands)
            await asyncio.sleep(0.3)
            epoch = await halt(commander)
            await asyncio.sleep(0.1)
            before = seen.beats
            await until_true(lambda: not router.view.may_emit())
            assert role.control.epoch < epoch
            assert seen.beats == before
            role._consumer.resume(role._commands)
            await asyncio.wait_for(router.view.allowed(), 2.0)
            assert router.view.epoch == epoch

    run(topics, tmp_path, scenario)


# --- effective --------------------------------------------------------------------------------------------------------


def test_a_switch_is_effective_as_soon_as_everybody_has_acknowledged_it(
    topics: Topics, tmp_path: Path, record_property: Callable[[str, object], None]
):
    async def scenario(here: Here) -> None:
        async with here.control() as (role, seen), here.everybody() as (router, _), here.commander() as commander:
            await warmed(role, commander)
            seconds = []
            for _ in range(30):
                epoch = await halt(commander)
                seconds.append(await effective(role, epoch))
                assert router.view.epoch >= epoch
            record_property("effective_p50_s", round(statistics.median(seconds), 3))
            record_property("effective_max_s", round(max(seconds), 3))
            print(f"\n  append → EFFECTIVE: p50 {statistics.median(seconds):.3f} s, max {max(seconds):.3f} s")
            assert max(seconds) <= EFFECTIVE_S_MAX
            assert max(seen.seconds[1:]) <= EFFECTIVE_S_MAX
            assert not seen.fences

    run(topics, tmp_path, scenario)


def test_the_readers_of_heartbeats_learn_of_it(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.control(), here.everybody() as (router, _), here.commander() as commander:
            heard: list[Heartbeat] = []
            renew = router.view._renew
            router.view._renew = lambda beat: (heard.append(beat), renew(beat))[1]  # type: ignore[method-assign]
            epoch = await halt(commander)
            await until_true(lambda: heard and heard[-1].effective >= epoch)
            assert heard[-1].epoch >= epoch
            assert set(heard[-1].acks) == {"h/router/0", "h/desk/0"}

    run(topics, tmp_path, scenario)


def test_many_engagements_at_once_become_effective_together(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.control() as (role, seen), here.everybody(), here.commander() as commander:
            await warmed(role, commander)
            epochs = [await halt(commander, f"campaign:cmp-{n}") for n in range(50)]
            await effective(role, epochs[-1], 2.0)
            assert len(seen.seconds) == 51
            assert max(seen.seconds[1:]) <= EFFECTIVE_S_MAX

    run(topics, tmp_path, scenario)


# --- fencing ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E15")
def test_a_silent_instance_with_an_open_transaction_is_fenced_and_cannot_commit(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with (
            here.control() as (role, seen),
            here.owner("router", 0) as sleeper,
            here.owner("router", 1) as awake,
            here.owner("desk") as desk,
            here.commander() as commander,
        ):
            await desk.take(*range(N))
            await sleeper.take(0, 1)
            await awake.take(2, 3)
            await warmed(role, commander)
            await sleeper.begin(0, b"offending")
            sleeper.view.silent = True
            epoch = await halt(commander)
            took = await effective(role, epoch)
            print(f"\n  append → EFFECTIVE with a silent router: {took:.3f} s")
            assert 0.5 <= took <= SILENT_S_MAX
            assert seen.fences == {"router": 2}
            with pytest.raises(ProducerFenced):
                await sleeper.commit(0)
            assert await read_values(topics.bootstrap, here.topics.name("execute"), 0) == []

            # Those that answered were left alone.
            for owner, number in ((awake, 2), (awake, 3), (desk, 0)):
                await owner.begin(number, b"good")
                await owner.commit(number)

    run(topics, tmp_path, scenario)


def test_what_a_dead_instance_held_is_not_fenced_once_others_have_opened_it(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with (
            here.control() as (role, seen),
            here.owner("router", 0) as dead,
            here.owner("router", 1) as heir,
            here.owner("desk") as desk,
            here.commander() as commander,
        ):
            await desk.take(*range(N))
            await dead.take(*range(N))
            await warmed(role, commander)
            dead.view.silent = True
            await heir.take(*range(N))
            for _ in range(3):
                took = await effective(role, await halt(commander))
                assert took <= 0.45, "nobody is waited for"
            assert not seen.fences
            await heir.begin(1)
            await heir.commit(1)

    run(topics, tmp_path, scenario)


def test_a_fence_that_fails_is_tried_again(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with (
            here.control() as (role, seen),
            here.owner("router") as router,
            here.owner("desk") as desk,
            here.commander() as commander,
        ):
            await desk.take(*range(N))
            await router.take(*range(N))
            await warmed(role, commander)
            router.view.silent = True
            works, failures = role.prover._fence, itertools.count()

            async def fails_first(one: Any) -> None:
                if next(failures) < 6:
                    raise KafkaError("no answer")
                await works(one)

            role.prover._fence = fails_first
            await effective(role, await halt(commander))
            assert seen.fences == {"router": N}

    run(topics, tmp_path, scenario)


def test_a_pending_transaction_on_execute_is_waited_for_whoevers_it_is(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with (
            here.control() as (role, seen),
            here.everybody(),
            here.commander() as commander,
            producing(topics.bootstrap, transactional_id=f"{topics.prefix}stranger") as stranger,
        ):
            await warmed(role, commander)
            await stranger.begin_transaction()
            await stranger.send_and_wait(here.topics.name("execute"), b"pending", partition=2)
            epoch = await halt(commander)
            with pytest.raises(TimeoutError):
                await effective(role, epoch, 2.0)
            await stranger.commit_transaction()
            assert await effective(role, epoch) <= 0.5
            assert not seen.fences, "those that are there end their own"

    run(topics, tmp_path, scenario)


def test_the_transaction_of_somebody_who_acknowledged_and_died_is_ended_for_it(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.control() as (role, seen), here.everybody() as (router, _), here.commander() as commander:
            await warmed(role, commander)
            epoch = await halt(commander)
            await effective(role, epoch)
            await router.begin(1)
            epoch = await halt(commander)
            await until_true(lambda: role.effective._instances["h/router/0"].acked >= epoch)
            router.view.silent = True
            assert await effective(role, epoch) <= SILENT_S_MAX
            await until_true(lambda: seen.fences == {"router": 1})
            with pytest.raises(ProducerFenced):
                await router.commit(1)

    run(topics, tmp_path, scenario)


# --- executors --------------------------------------------------------------------------------------------------------


def test_an_executor_that_does_not_answer_is_contained_until_a_person_says_that_it_has_ended(
    topics: Topics, tmp_path: Path
):
    async def scenario(here: Here) -> None:
        async with (
            here.control() as (role, _),
            here.everybody(),
            here.owner("executor") as executor,
            here.commander() as commander,
        ):
            await warmed(role, commander)
            executor.calls = (3, role.control.epoch)
            await executor.view.announce()
            executor.view.silent = True
            epoch = await halt(commander)
            await until_true(lambda: role.prover.outlook.contained)
            (one,) = role.prover.outlook.contained
            assert (one.epoch, one.instance, one.calls) == (epoch, "h/executor/0", 3)
            with pytest.raises(TimeoutError):
                await effective(role, epoch, 1.0)
            await commander.append(partial(Farewell, instance="h/executor/0", reason="seen to have ended"))
            assert await effective(role, epoch) <= 1.0
            assert role.prover.outlook.contained == ()

    run(topics, tmp_path, scenario)


# --- two, and anew ----------------------------------------------------------------------------------------------------


def test_two_control_roles_do_not_disturb_each_other(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with (
            here.control(0) as (one, seen),
            here.everybody() as (router, _),
            here.owner("router", 1) as sleeper,
            here.commander() as commander,
        ):
            async with here.control(1) as (other, other_seen):
                await warmed(one, commander)
                await effective(other, one.control.epoch)
                sleeper.view.silent = True
                epoch = await halt(commander)
                assert await effective(one, epoch) <= EFFECTIVE_S_MAX
                assert await effective(other, epoch) <= EFFECTIVE_S_MAX
                assert one.control.digest == other.control.digest
            for _ in range(25):
                await asyncio.sleep(0.1)
                assert router.view.may_emit()
            assert seen.fences == other_seen.fences == {}

    run(topics, tmp_path, scenario)


def test_a_router_that_two_of_them_fence_opens_again_and_stays(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with (
            here.control(0) as (one, seen),
            here.control(1) as (other, other_seen),
            here.everybody() as (router, _),
            here.commander() as commander,
        ):
            await warmed(one, commander)
            router.view.silent = True
            epoch = await halt(commander)
            await effective(one, epoch)
            await effective(other, epoch)
            router.view.silent = False
            for number in range(N):
                await router.producers[number].drop()
            await router.take(*range(N))
            await asyncio.sleep(2.0)
            for number in range(N):
                await router.begin(number)
                await router.commit(number)
            assert seen.fences == other_seen.fences == {"router": N}

    run(topics, tmp_path, scenario)


def test_a_new_control_role_finds_effective_what_everybody_has_acknowledged(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.everybody() as (router, _), here.commander() as commander:
            async with here.control() as (role, _):
                epochs = [await halt(commander, f"campaign:cmp-{n}") for n in range(5)]
                await effective(role, epochs[-1])
            async with here.control() as (role, seen):
                await effective(role, epochs[-1], 2.0)
                assert not seen.fences
                assert not seen.seconds, "they took their time long ago"
                epoch = await halt(commander)
                await effective(role, epoch)
                assert len(seen.seconds) == 1
                await router.begin(0)
                await router.commit(0)

    run(topics, tmp_path, scenario)


# --- who is not believed ----------------------------------------------------------------------------------------------


@pytest.mark.behaviour("F21")
def test_of_ten_thousand_forged_acks_none_counts_and_each_is_counted_by_its_reason(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with (
            here.control() as (role, seen),
            here.everybody() as (router, _),
            here.owner("router", 1) as sleeper,
            here.commander() as commander,
        ):
            await warmed(role, commander)
            await sleeper.take()
            sleeper.claims = {0}
            await sleeper.view.announce()
            sleeper.view.silent = True
            captured = [one for one in await acks(here) if one[0] == b"h/router/1"]
            epoch = await halt(commander)
            forged = Forger(here, epoch, captured)
            wanted: Counter[str] = Counter()
            async with producing(topics.bootstrap, acks="all", linger_ms=5) as producer:
                sent = []
                for key, value, headers, why in itertools.islice(forged.all(), FORGED):
                    wanted[why] += 1
                    topic = here.topics.name("control.acks")
                    sent.append(await producer.send(topic, value, key=key, headers=headers, partition=0))
                await asyncio.gather(*sent)
            await until_true(lambda: all(seen.why[why] >= count for why, count in wanted.items()))
            own = seen.why["replayed"] - wanted["replayed"]  # a producer's own retries, on a slow day
            assert seen.why == wanted + Counter(replayed=own)
            assert set(wanted) == {"malformed", "seal", "issuer", "replayed", "invalid"}
            await effective(role, epoch)  # on a quiet machine all are read before a fence is due
            assert seen.fences == {"router": 1}, "no forged ack has spoken for the silent one"
            assert set(role.effective.numbers(role._steady())) <= {"h/router/0", "h/router/1", "h/desk/0"}
            await asyncio.wait_for(router.view.allowed(), 5.0)

    run(topics, tmp_path, scenario)


async def acks(here: Here) -> list[tuple[bytes, bytes, Any]]:
    """Return what stands on `control.acks`."""
    tp = TopicPartition(here.topics.name("control.acks"), 0)
    consumer = AIOKafkaConsumer(**here.client, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([tp])
        end = (await consumer.end_offsets([tp]))[tp]
        found: list[Any] = []
        while not found or found[-1].offset < end - 1:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += records
        return [(record.key, record.value, record.headers) for record in found if record.offset < end]
    finally:
        await consumer.stop()


@dataclass
class Forger:
    """Makes acks that must not count, each with the reason why."""

    here: Here
    epoch: int
    captured: list[tuple[bytes, bytes, Any]]

    def all(self) -> Iterator[tuple[bytes | None, bytes | None, list[tuple[str, bytes]], str]]:
        key = self.here.seals["router"]
        stranger = SealKey(key.key_id, bytes(32))
        ack = Ack(n=2**62, instance="h/router/1", role="router", version="1", epoch=self.epoch, claims=())
        for n in itertools.count():
            one = structs.replace(ack, n=ack.n + n)
            name = one.instance.encode()
            yield name, *self.sealed(one, stranger), "seal"
            yield name, *self.sealed(one, SealKey("r9", key.key)), "seal"
            yield name, *self.sealed(structs.replace(one, role="monitor"), key), "seal"
            yield name, *self.sealed(structs.replace(one, role="desk"), self.here.seals["desk"]), "issuer"
            yield b"h/router/9", *self.sealed(one, key), "issuer"
            yield name, *self.sealed(structs.replace(one, n=2**63), key), "invalid"
            value, headers = self.sealed(one, key)
            yield name, value.replace(b'"epoch":', b'"epoch": '), headers, "seal"
            yield name, value, headers[:1], "seal"
            yield name, value, headers[1:], "malformed"
            yield name, value[:-1], headers, "malformed"
            yield name, b"[" * 2_000, headers, "malformed"
            name, value, old = self.captured[n % len(self.captured)]
            yield name, value, list(old), "replayed"

    def sealed(self, ack: Ack, key: SealKey) -> tuple[bytes, list[tuple[str, bytes]]]:
        value = encode(ack)
        seal = sealer(key, self.here.topics.name("control.acks"), ACK)(value)
        return value, [(TYPE_HEADER, ACK.encode()), (SEAL_HEADER, seal)]


@pytest.mark.behaviour("F21")
def test_of_ten_thousand_forged_heartbeats_none_gives_a_lease_and_each_is_counted_by_its_reason(
    topics: Topics, tmp_path: Path
):
    async def scenario(here: Here) -> None:
        why: Counter[Rejection] = Counter()
        view = View(
            here.client,
            here.topics,
            here.trust,
            Member("h/router/0", "router", "1", here.seals["router"]),
            rejected=lambda reason: why.update([reason]),
        )
        await view.start()
        topic, audience = here.topics.name("control.heartbeat"), await cluster_id(here.client)
        wanted: Counter[Rejection] = Counter()
        async with producing(topics.bootstrap, acks="all", linger_ms=5) as producer:
            sent = []
            for value, reason in itertools.islice(false_heartbeats(here, view, audience), FORGED):
                wanted[reason] += 1
                sent.append(await producer.send(topic, value, partition=0))
                if len(sent) % 50 == 0:
                    await asyncio.sleep(0)
                    assert not view.may_emit()
            await asyncio.gather(*sent)
        while sum(why.values()) < FORGED:
            await asyncio.sleep(POLL_SECONDS)
            assert not view.may_emit()
        assert why == wanted
        assert not view.may_emit()
        await view.stop()

    run(topics, tmp_path, scenario)


def false_heartbeats(here: Here, view: ControlView, audience: str) -> Iterator[tuple[bytes, Rejection]]:
    """Yield heartbeats that must not count. All repeat the newest ack, and the right digest."""
    control, person = here.keys["control-1"], here.keys["ana-1"]
    stranger = new_signing_key("control-1", "control", "service")
    unlisted = new_signing_key("control-9", "control", "service")
    now = time.time_ns() // 1_000_000_000

    def beat(key: SigningKey, **others: Any) -> bytes:
        claims: dict[str, Any] = {
            "aud": audience, "kid": key.key_id, "iss": key.holder, "jti": "j", "iat": now, "exp": now + 60,
            "seq": 1, "control": "h/control/0", "epoch": view.epoch, "digest": view.control.digest.hex(),
            "acks": {view.member.instance: view._n}, "effective": view.epoch,
        }  # fmt: skip
        return sign(key, Heartbeat(**claims | others))

    while True:
        yield beat(stranger), Rejection.SIGNATURE
        yield beat(unlisted), Rejection.UNKNOWN_KEY
        yield beat(person), Rejection.TYPE
        yield beat(control, iat=now - 7200, exp=now - 3600), Rejection.EXPIRED
        yield beat(control, aud="another cluster"), Rejection.AUDIENCE
        good = beat(control)
        header, payload, signature = good.split(b".")
        yield b".".join((header, payload[:-4] + b"AAAA", signature)), Rejection.SIGNATURE
        yield good[:-10], Rejection.SIGNATURE
        for _ in range(60):
            yield b"not a heartbeat", Rejection.MALFORMED
            yield b"", Rejection.MALFORMED


def test_a_heartbeat_that_is_repeated_gives_no_new_lease(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.owner() as router:
            async with here.control():
                await router.view.allowed()
                await asyncio.sleep(0.5)
            beats = await read_values(topics.bootstrap, here.topics.name("control.heartbeat"))
            await until_true(lambda: not router.view.may_emit())
            async with producing(topics.bootstrap) as producer:
                for beat in beats:
                    await producer.send_and_wait(here.topics.name("control.heartbeat"), beat, partition=0)
            for _ in range(50):
                await asyncio.sleep(0.02)
                assert not router.view.may_emit()

    run(topics, tmp_path, scenario)


# --- tripwires --------------------------------------------------------------------------------------------------------


def test_a_tripwire_that_may_engage_stops_the_agent_once_whichever_control_sees_it(topics: Topics, tmp_path: Path):
    async def scenario(here: Here) -> None:
        async with here.control(0) as (one, _), here.control(1) as (other, _), here.everybody() as (router, _):
            inputs = {here.topics.name("actions"): None}
            seals = {"router": {here.seals["router"].key_id: here.seals["router"]}}
            spec = TripwireSpec(here.client, here.topics, inputs, seals, {"repeats": "engage"})
            looking = [Tripwires(spec, role.control, role.engage, Unobserved()) for role in (one, other)]
            for wires in looking:
                await wires._connect()
                await wires.look()
            execute = here.topics.name("execute")
            seal = sealer(here.seals["router"], execute, DECISION)
            head = b'{"tenant":"acme","agent":{"id":"bidder-7"},"entity":{"account":"acc-1","campaign":"cmp-7"}'
            headers = [(TYPE_HEADER, DECISION.encode()), (SEAL_HEADER, seal(head))]
            async with producing(topics.bootstrap, acks="all") as producer:
                sent = [
                    await producer.send(execute, head + b',"action":{}}', partition=n % N, headers=headers)
                    for n in range(REPEATS)
                ]
                await asyncio.gather(*sent)
            await asyncio.gather(*(wires.look() for wires in looking))
            await until_true(lambda: router.view.control.switches.engaged)
            await asyncio.sleep(0.3)
            (switch,) = router.view.control.switches.engaged.values()
            assert (switch.scope, switch.mode) == (("agent:bidder-7", "tenant:acme"), Mode.HALT)
            assert (switch.source, switch.by) == ("tripwire", "control")
            for wires in looking:
                await wires.on_stop()

    run(topics, tmp_path, scenario)


# --- whole processes --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.behaviour("E15")
def test_a_router_process_that_is_stopped_in_the_middle_of_its_work_is_fenced_in_time(kafka: str, tmp_path: Path):
    """Under load; SIGSTOP one of two, engage over everything, and look when the log says EFFECTIVE."""

    async def scenario() -> tuple[float, float]:
        here = Site(kafka, tmp_path, partitions=N)
        try:
            await here.begin()
            for slot in (0, 1):
                here.start(slot)
            await here.opened()
            load = Load(here, Dose(6_000, 400, repeats=0, changed=0, strays=0), 1)
            running = asyncio.ensure_future(load.run())
            took = []
            client, keys = here.client, read_signing_keys(here.settings.keys_dir)
            async with commanding(client, here.topics, keys["ana-1"]) as commander:
                await asyncio.sleep(5.0)
                for paused in (False, True):
                    await asyncio.sleep(2.0)
                    if paused:
                        here.routers[0].pause()
                    epoch = await halt(commander, "tenant:nobody")
                    took.append(await said_effective(here, epoch))
            here.routers[0].resume()
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            return took[0], took[1]
        finally:
            here.stop()

    healthy, paused = within(scenario(), 120.0)
    print(f"\n  append → EFFECTIVE under load: {healthy:.3f} s, one of two routers stopped: {paused:.3f} s")
    assert healthy <= EFFECTIVE_S_MAX
    assert paused <= SILENT_S_MAX


async def said_effective(here: Site, epoch: int) -> float:
    async with asyncio.timeout(20):
        while True:
            for event in here.controls[0].said("EFFECTIVE"):
                if event["epoch"] == epoch:
                    return float(event["seconds"])
            await asyncio.sleep(0.05)
