"""Executors killed at any time, before a platform that loses answers: what it applied is what they say, once each.

Decisions come from a router in this process, so that nothing but executors and the platform can go wrong. Each changes
a bid from what the one before it in its campaign left: where one is lost or overtaken, those after it are stale.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from faults.harness import HERE, TENANT, Fleet, Process, Site, explained, site
from faults.test_control import is_ready, keys_of, trusted, until
from hitl_stream import wiring
from hitl_stream.core.action import Value
from hitl_stream.core.commands import Contained, Engage
from hitl_stream.core.events import Mode
from hitl_stream.core.window import IdBudget
from hitl_stream.dev.platform import Faults, Place, Platform
from hitl_stream.lane.admin import apply
from hitl_stream.lane.commander import commanding
from hitl_stream.lane.heartbeats import listening
from hitl_stream.lane.step import Moment, Output
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Router, RouterSettings
from hitl_stream.wire.home import home
from hitl_stream.wire.topics import EXECUTOR_TOPICS
from support.kafka import producing, read, within
from support.make import FakeRecord, action_bytes, change, iso

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(1_800)]

SECONDS_MAX = 1_700.0
FIRST = "1.00000"
STEP = "0.00001"
ACCOUNTS, CAMPAIGNS = 12, 4
DONE_S_MAX = 300.0
CONTAINED_S_MAX = 20.0
TICK_S = 0.05


@dataclass(frozen=True)
class Dose:
    """How many executions, at which rate, while how many kills come `gap_s` apart.

    Calls that the platform carries out late are open whenever a kill comes.
    """

    executions: int
    rate: int
    kills: int
    gap_s: tuple[float, float]
    faults: Faults
    executors: int = 2


class Executor(Process):
    """One process of `hitl run executor`, or of `launch` in its place."""

    def __init__(
        self, site_: Site, platform: Platform, slot: int, number: int, call_s: float = 1.0, **more: str
    ) -> None:
        options = json.dumps({"base_url": platform.url, "fence": True, "call_s": call_s})
        launch = HERE / "launch.py" if more else None
        super().__init__(
            site_, wiring.EXECUTOR, slot, number, launch, HITL_ADAPTER="http", HITL_ADAPTER_OPTIONS=options, **more
        )


@dataclass
class Run(Fleet[Executor]):
    """The executors of one run, and what was decided for them."""

    platform: Platform = field(kw_only=True)
    dose: Dose = field(kw_only=True)
    sent: list[str] = field(default_factory=list)
    """Action ids in the order of their records, over all campaigns."""

    def made(self, slot: int, number: int) -> Executor:
        return Executor(self.site, self.platform, slot, number)

    async def feed(self) -> None:
        """Decide, and append the decisions to `execute`, at a rate."""
        outputs = decisions(self.site, self.dose.executions)
        started = time.monotonic()
        async with producing(self.site.bootstrap, acks="all") as producer:
            acked: list[Any] = []
            while len(self.sent) < len(outputs):
                due = min(len(outputs), int((time.monotonic() - started) * self.dose.rate) + 1)
                for name, one in outputs[len(self.sent) : due]:
                    sending = producer.send(
                        one.topic, one.value, one.key, partition=one.partition, headers=list(one.headers)
                    )
                    acked.append(await sending)
                    self.sent.append(name)
                await asyncio.sleep(TICK_S)
            await asyncio.gather(*acked)

    async def finish(self) -> None:
        """Wait until everything has its end."""
        deadline = time.monotonic() + DONE_S_MAX
        while len(await self.ends()) < len(self.sent):
            self.expect_alive()
            assert time.monotonic() < deadline, "not everything has its end"
            await asyncio.sleep(1.0)

    async def ends(self) -> dict[str, list[str]]:
        """Return what became of each action id, by what is committed."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for topic, word in (("results", "status"), ("closed", "why"), ("held", "id")):
            for partition in range(self.site.settings.partitions):
                for record in await read(self.site.bootstrap, self.site.name(topic), partition):
                    value = json.loads(record.value)
                    found[value["action_id"]].append(value[word] if topic != "held" else "held")
        return dict(found)

    async def dead(self) -> list[Any]:
        """Return all dead letters."""
        parts = range(self.site.settings.partitions)
        return [one for p in parts for one in await read(self.site.bootstrap, self.site.name("dlq"), p)]

    def line(self) -> str:
        counts = self.platform.counts()
        said = {name: counts[name] for name in ("calls", "applied", "repeats", "lose", "late", "read_backs")}
        head = f"executors (seed {self.platform.seed}): {len(self.sent)} executions"
        return f"{head}, {self.dose.kills} kills; platform {said}"


def decisions(site_: Site, count: int) -> list[tuple[str, Output]]:
    """Return decisions of a real router, sealed with this site's key, by action id."""
    keys, loaded = wiring.read_router_keys(site_.settings), wiring.load_policy(site_.settings)
    settings = RouterSettings(topics=site_.topics, seal_keys=keys.seal, sample_key=keys.sample)
    router = Router(settings, Policies(loaded.policy, loaded.digest))
    partitions = site_.settings.partitions
    states = [router.state(IdBudget()) for _ in range(partitions)]
    stands: Counter[tuple[str, str]] = Counter()
    found: list[tuple[str, Output]] = []
    rng = random.Random(count)
    for n in range(count):
        name, account, campaign = f"act-{n:06}", f"acc-{rng.randrange(ACCOUNTS)}", f"cmp-{rng.randrange(CAMPAIGNS)}"
        before, after = (
            f"{1 + k * float(STEP):.5f}" for k in (stands[account, campaign], stands[account, campaign] + 1)
        )
        stands[account, campaign] += 1
        now_ms, number = int(time.time() * 1000), home(TENANT, account, partitions)
        value = action_bytes(
            action_id=name, agent={"id": "bidder-1"}, proposed_at=iso(now_ms),
            changes=[change(before, after, account=account, campaign=campaign)],
        )  # fmt: skip
        record = FakeRecord(value, n, number, now_ms, site_.name("actions"))
        result = router([record], states[number], Moment(now_ms, 0))
        states[number].apply(result.changes)
        (output,) = [one for one in result.outputs if one.topic == site_.name("execute")]
        found.append((name, output))
    return found


def first_value(place: Place) -> Value:
    return FIRST


def judge(run: Run, ends: dict[str, list[str]], dlq: Sequence[Any]) -> list[str]:
    """Return everything that must not be."""
    wrong = [f"{name} ended as {end}" for name, end in ends.items() if end != ["executed"]]
    wrong += [f"{name} has no end" for name in run.sent if name not in ends]
    entries = {entry.action_id: entry for entry in run.platform.books.actions.values()}
    executed = {name for name, end in ends.items() if end == ["executed"]}
    wrong += [f"{name} was applied {entry.applied} times" for name, entry in entries.items() if entry.applied != 1]
    wrong += [f"{name} was applied, and nobody says so" for name in entries if name not in executed]
    wrong += [f"{name} is called executed, and was not applied" for name in executed if name not in entries]
    wrong += [f"{len(dlq)} dead letters"] if dlq else []
    wrong += overtaken(run, entries)
    return wrong


def overtaken(run: Run, entries: dict[str, Any]) -> list[str]:
    """Return the campaigns in which something took effect before what had been decided earlier."""
    orders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for call in run.platform.calls_since(-1):
        if call.outcome == "applied":
            orders[call.campaigns].append(int(call.action_id[4:]))
    return [f"{campaign}: not in order" for campaign, order in orders.items() if order != sorted(order)]


@pytest.mark.behaviour("I2", "I8", "F1")
def test_executors_killed_at_any_time_apply_each_decision_once_and_say_so(
    kafka: str, full: bool, seed: int, capsys: pytest.CaptureFixture[str]
):
    dose = (
        Dose(20_000, 220, 20, (2.0, 5.0), Faults(lose=0.01, late=0.1, late_s=0.3))
        if full
        else Dose(600, 100, 3, (1.0, 2.5), Faults(lose=0.01, late=0.5, late_s=0.25))
    )

    async def scenario() -> None:
        async with site(kafka, 0) as here, Platform(seed=seed, faults=dose.faults, provider=first_value) as platform:
            await apply(here.client, here.topics, EXECUTOR_TOPICS)
            run = Run(here, random.Random(seed), platform=platform, dose=dose)
            try:
                for slot in range(dose.executors):
                    run.start(slot)
                with explained(here):
                    await asyncio.gather(run.feed(), run.kill(dose.kills, dose.gap_s))
                    await run.finish()
                    wrong = judge(run, await run.ends(), await run.dead())
                    with capsys.disabled():
                        print(f"\n  {run.line()}; {len(wrong)} wrong")
                    assert wrong == [], wrong[:20]
                    assert run.trouble() == []
                    assert platform.counts()["lose"] > 0
            finally:
                run.stop()

    within(scenario(), SECONDS_MAX)


# --- asleep in a call -------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("F2", "E15")
def test_an_executor_asleep_in_a_call_is_named_as_contained_and_the_platform_refuses_its_late_call(
    kafka: str, seed: int, tmp_path: Path
):
    file = tmp_path / "sleep"

    async def scenario() -> None:
        async with site(kafka, 0) as here, Platform(seed=seed, provider=first_value) as platform:
            await apply(here.client, here.topics, EXECUTOR_TOPICS)
            executor = Executor(here, platform, 0, 0, call_s=10.0, HITL_SLEEP_IN_CALL=str(file))
            try:
                await until(lambda: is_ready(executor), "the executor is ready")
                file.touch()
                await feed(here, decisions(here, 1))
                await until(executor.asleep, "the executor sleeps in its call")
                halt, contained = await contained_under(here, ("global:*",))
                executor.resume()
                await until(lambda: bool(platform.calls_since(-1)), "the late call reaches the platform")
                await until(lambda: platform.calls_since(-1)[0].end_ms is not None, "it is answered")
                (call, *again) = platform.calls_since(-1)
                effective_ms = await effective(here, halt)
            finally:
                executor.end()
            # By its name; how many calls it had open nobody can know: it fell asleep before its next ack.
            assert [one.instance.partition("/")[2] for one in contained] == ["executor/0"]
            assert call.outcome == "too_late"
            assert call.not_after_ms is not None
            assert call.begin_ms > call.not_after_ms
            assert [one.begin_ms for one in again if one.begin_ms > effective_ms] == []
            assert platform.counts()["applied"] == 0
            assert executor.trouble() == []

    within(scenario(), 120.0)


async def feed(here: Site, outputs: Sequence[tuple[str, Output]]) -> None:
    """Append decisions to `execute`."""
    async with producing(here.bootstrap, acks="all") as producer:
        for _, one in outputs:
            await producer.send_and_wait(
                one.topic, one.value, one.key, partition=one.partition, headers=list(one.headers)
            )


async def contained_under(here: Site, scope: tuple[str, ...]) -> tuple[int, tuple[Contained, ...]]:
    """Engage a HALT; return its epoch, and what the first heartbeat after it says that contains anything."""
    make = partial(Engage, scope=scope, mode=Mode.HALT, reason="fault")
    async with (
        commanding(here.client, here.topics, keys_of(here)["ana"]) as commander,
        listening(here.client, here.topics, *await trusted(here)) as beats,
    ):
        appended = await commander.append(make)
        deadline = time.monotonic() + CONTAINED_S_MAX
        while time.monotonic() < deadline:
            for beat in await beats.hear(0.2):
                assert beat.heartbeat.effective < appended.epoch, "nobody has answered for its call"
                if beat.heartbeat.contained:
                    return appended.epoch, beat.heartbeat.contained
    raise AssertionError(f"no executor is CONTAINED after {CONTAINED_S_MAX:g} s")


async def effective(here: Site, epoch: int) -> int:
    """Return when a heartbeat says that an engagement is EFFECTIVE."""
    async with listening(here.client, here.topics, *await trusted(here)) as beats:
        deadline = time.monotonic() + CONTAINED_S_MAX
        while time.monotonic() < deadline:
            for beat in await beats.hear(0.2):
                if beat.heartbeat.effective >= epoch:
                    return beat.at_ms
    raise AssertionError(f"the HALT at {epoch} is not EFFECTIVE after {CONTAINED_S_MAX:g} s")
