"""Faults against three routers under load: nothing lost, doubled or overtaken, and nothing stalls.

Numbers are those of the reliability design: F1 kills, F2 pauses, F10 repeats (they are part of every load), F15 growth.
Each run prints its seed; `--fault-seed N` runs it again, `--dose=full` is the long one of `make faults`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from faults.harness import (
    Dose,
    Load,
    Run,
    Site,
    explained,
    finished,
    judge,
    kills,
    longest_resume_s,
    pauses,
    resumed,
    site,
    troubles,
)
from hitl_stream.dev.broker import ProcessBroker
from support.kafka import consuming, running, within

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(1_800)]

Report = Callable[[Run], None]
RESUME_S_MAX = 10.0
BROKER_S_MAX = 30.0
SECONDS_MAX = 1_700.0


def test_f1_routers_killed_at_any_time_lose_and_double_nothing_and_resume(
    kafka: str, full: bool, seed: int, report: Report
):
    dose = Dose(100_000, 600, kills=60, gap_s=(0.5, 3.0)) if full else Dose(4_000, 350, kills=6, gap_s=(0.5, 2.0))

    async def scenario() -> None:
        async with site(kafka, dose.routers) as here:
            load = Load(here, dose, seed)
            with explained(here):
                _, killed = await asyncio.gather(load.run(), kills(here, load, dose, random.Random(seed)))
                await finished(here)
                found = await judge(here, load.sent)
                run = Run(
                    "F1 kill -9", word(full), seed, {"actions": dose.actions, "kills": killed} | resumed(here), found
                )
                report(run)
                assert found.ok, found.text()
                assert troubles(here) == []
                assert killed >= (60 if full else 5)
                assert longest_resume_s(here) <= RESUME_S_MAX

    within(scenario(), SECONDS_MAX)


def test_f2_routers_paused_past_lease_and_session_lose_and_double_nothing(
    kafka: str, full: bool, seed: int, report: Report
):
    """A router that wakes after its partitions have gone to another must not commit what it had begun."""
    dose = (
        Dose(100_000, 200, pauses=20, pause_s=(0.5, 45.0), gap_s=(0.2, 4.0))
        if full
        else Dose(4_200, 150, pauses=3, pause_s=(0.5, 15.0), gap_s=(0.2, 1.0))
    )

    async def scenario() -> None:
        async with site(kafka, dose.routers) as here:
            load = Load(here, dose, seed)
            with explained(here):
                _, held = await asyncio.gather(load.run(), pauses(here, load, dose, random.Random(seed)))
                await finished(here)
                found = await judge(here, load.sent)
                seconds = f"{len(held)} of {min(held):.1f}–{max(held):.1f} s"
                report(Run("F2 SIGSTOP", word(full), seed, {"actions": dose.actions, "pauses": seconds}, found))
                assert found.ok, found.text()
                assert troubles(here) == []
                assert len(held) >= (10 if full else 2)

    within(scenario(), SECONDS_MAX)


def test_kills_and_pauses_and_stopped_batches_at_once_lose_and_double_nothing(
    kafka: str, full: bool, seed: int, report: Report
):
    """And control stops one batch in twenty between its decision and its commit."""
    dose = (
        Dose(100_000, 500, kills=30, pauses=15, pause_s=(0.5, 30.0), gap_s=(1.0, 6.0))
        if full
        else Dose(2_500, 200, kills=3, pauses=2, pause_s=(0.5, 6.0), gap_s=(0.5, 3.0))
    )

    async def scenario() -> None:
        async with site(kafka, dose.routers, HITL_STOPS="0.05") as here:
            load = Load(here, dose, seed)
            with explained(here):
                _, killed, held = await asyncio.gather(
                    load.run(),
                    kills(here, load, dose, random.Random(seed)),
                    pauses(here, load, dose, random.Random(seed + 1)),
                )
                await finished(here)
                found = await judge(here, load.sent)
                facts = {"actions": dose.actions, "kills": killed, "pauses": len(held), "batches stopped": "5 %"}
                report(Run("F1+F2+stops", word(full), seed, facts | resumed(here), found))
                assert found.ok, found.text()
                assert troubles(here) == []

    within(scenario(), SECONDS_MAX)


def test_f15_growing_from_one_to_three_and_back_under_load_loses_and_doubles_nothing(
    kafka: str, full: bool, seed: int, report: Report
):
    dose = Dose(100_000, 500, routers=1) if full else Dose(3_500, 250, routers=1)
    rounds, stay_s = (10, 6.0) if full else (1, 2.5)

    async def grow(load: Load) -> int:
        changes = 0
        here = load.site
        for turn in range(rounds):
            for step in ((1, "start"), (2, "start"), (2, "stop"), (1, "stop")):
                await asyncio.sleep(stay_s)
                # The first turn is made in any case: on a slow machine joining may outlast the load.
                if load.done and turn:
                    return changes
                slot, what = step
                if what == "start":
                    await here.start(slot).joined()
                else:
                    assert await asyncio.to_thread(here.routers[slot].terminate) == 0
                    here.ended.append(here.routers.pop(slot))
                changes += 1
        return changes

    async def scenario() -> None:
        async with site(kafka, 1) as here:
            load = Load(here, dose, seed)
            with explained(here):
                _, changes = await asyncio.gather(load.run(), grow(load))
                await finished(here)
                found = await judge(here, load.sent)
                facts = {"actions": dose.actions, "members joined or left": changes}
                report(Run("F15 1→3→1", word(full), seed, facts | resumed(here), found))
                assert found.ok, found.text()
                assert troubles(here) == []
                assert changes >= 4

    within(scenario(), SECONDS_MAX)


def test_f10_repeats_and_changed_bytes_under_kills_run_once_and_are_refused(
    kafka: str, full: bool, seed: int, report: Report
):
    """Half of the actions come again, one in ten with other bytes; the window must outlive the process."""
    amounts = (50_000, 500, 10) if full else (1_500, 200, 3)
    dose = Dose(amounts[0], amounts[1], kills=amounts[2], gap_s=(1.0, 3.0), repeats=0.5, changed=0.1)

    async def scenario() -> None:
        async with site(kafka, dose.routers) as here:
            load = Load(here, dose, seed)
            with explained(here):
                _, killed = await asyncio.gather(load.run(), kills(here, load, dose, random.Random(seed)))
                await finished(here)
                found = await judge(here, load.sent)
                report(Run("F10 repeats", word(full), seed, {"actions": dose.actions, "kills": killed}, found))
                assert found.ok, found.text()
                assert troubles(here) == []
                assert found.ends["conflict"] == sum(sent.changed for sent in load.sent.values()) > 0

    within(scenario(), SECONDS_MAX)


def test_f3_rolling_restarts_lose_and_double_nothing(kafka: str, full: bool, seed: int, report: Report):
    """SIGTERM and a new process, one router after the other, as an upgrade does it."""
    dose, rounds = (Dose(60_000, 500), 10) if full else (Dose(2_500, 200), 1)

    async def roll(load: Load) -> int:
        here = load.site
        for n in range(rounds * dose.routers):
            if load.done:
                return n
            await asyncio.sleep(0.5)
            router = here.routers[n % dose.routers]
            assert await asyncio.to_thread(router.terminate) == 0
            await here.start(n % dose.routers).joined()
        return rounds * dose.routers

    async def scenario() -> None:
        async with site(kafka, dose.routers) as here:
            load = Load(here, dose, seed)
            with explained(here):
                _, restarts = await asyncio.gather(load.run(), roll(load))
                await finished(here)
                found = await judge(here, load.sent)
                facts = {"actions": dose.actions, "restarts": restarts} | resumed(here)
                report(Run("F3 rolling restart", word(full), seed, facts, found))
                assert found.ok, found.text()
                assert troubles(here) == []
                assert restarts >= dose.routers
                assert longest_resume_s(here) <= RESUME_S_MAX

    within(scenario(), SECONDS_MAX)


def test_f4_a_broker_killed_under_load_comes_back_and_nothing_is_lost_or_doubled(full: bool, seed: int, report: Report):
    """One broker, so everything stands still until it is back; then it must go on by itself."""
    dose, times = (Dose(30_000, 300), 5) if full else (Dose(1_600, 160), 1)
    rng = random.Random(seed)

    async def scenario(broker: ProcessBroker) -> None:
        async with site(broker.bootstrap, dose.routers) as here:
            load = Load(here, dose, seed)
            back: list[float] = []

            async def break_it() -> None:
                for _ in range(times):
                    await asyncio.sleep(rng.uniform(2.0, 5.0))
                    await asyncio.to_thread(broker.kill)
                    await asyncio.sleep(rng.uniform(0.0, 2.0))
                    await asyncio.to_thread(broker.restart)
                    back.append(await recovered_s(here))

            with explained(here):
                await asyncio.gather(load.run(), break_it())
                await finished(here)
                found = await judge(here, load.sent)
                facts = {"actions": dose.actions, "broker kills": times, "recovered after": f"max {max(back):.1f} s"}
                report(Run("F4 broker kill -9", word(full), seed, facts, found))
                assert found.ok, found.text()
                assert troubles(here) == []
                assert max(back) <= BROKER_S_MAX

    with running("jar", jvm="full" if full else "quick") as broker:
        assert isinstance(broker, ProcessBroker)
        within(scenario(broker), SECONDS_MAX)


async def recovered_s(here: Site) -> float:
    """Return how long until every partition commits again past what is in the log now."""
    started = time.monotonic()
    async with consuming(here.bootstrap, group_id=here.group) as consumer:
        ends = await consumer.end_offsets(here.inputs())
        async with asyncio.timeout(4 * BROKER_S_MAX):
            for tp, end in ends.items():
                # The load goes on, so that each partition gets past its end of now, markers included.
                while (await consumer.committed(tp) or 0) < end:  # noqa: ASYNC110  a broker sets no event
                    await asyncio.sleep(0.1)
    return time.monotonic() - started


def word(full: bool) -> str:
    return "full" if full else "short"
