"""The checks are checked: routers with a known bug planted in them must be found out.

Each bug is one that the lane was built to exclude. The launcher plants it; product code knows nothing of it. The same
load and faults without a plant must find nothing, or the findings would prove nothing. One more bug is too rare for
a load to show and is planted step by step in tests/kafka/test_lane.py.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from faults.harness import Dose, Findings, Load, Run, finished, judge, kills, pauses, site
from support.kafka import within

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(600)]

KILLED = Dose(1_000, 125, kills=4, gap_s=(0.5, 1.5), repeats=0.6, repeat_s=(0.5, 4.0))
LOSING = Dose(1_000, 100, kills=4, gap_s=(1.5, 2.5), repeats=0.0)
"""No repeats, which would bring a lost action back, and time between the kills for a router to be at work again."""
STOPPED = Dose(500, 200, repeats=0.3, repeat_s=(0.05, 2.0))

Broken = Callable[[Findings], list[str]]
PLANTS: dict[str, tuple[Dose, dict[str, str], Broken]] = {
    # Offsets pass actions whose answers a kill then takes away.
    "commit_early": (LOSING, {}, lambda found: found.lost),
    # What an aborted batch left in the window makes the batch a repeat of itself.
    "state_early": (STOPPED, {"HITL_STOPS": "0.3"}, lambda found: found.wrong),
    # After a restart a repeat is taken for new, and runs again.
    "no_restore": (KILLED, {}, lambda found: found.executed_twice),
    # A commit is good although a batch of outputs never arrived.
    "delivery_unawaited": (STOPPED, {}, lambda found: found.lost),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found_out(kafka: str, seed: int, plant: str, report: Callable[[Run], None]):
    dose, environment, broken = PLANTS[plant]
    found = within(_run(kafka, dose, seed, HITL_PLANT=plant, **environment), 200.0)
    report(Run(f"planted {plant}", "short", seed, {"actions": dose.actions}, found))

    assert broken(found), f"{plant} was not found out: {found.text()}"
    assert "hitl verify" in found.verify or plant == "state_early", "hitl verify did not see it"


@pytest.mark.parametrize(
    ("dose", "environment"), [(KILLED, {}), (STOPPED, {"HITL_STOPS": "0.3"})], ids=["kills", "stops"]
)
def test_the_same_run_without_a_planted_bug_finds_nothing(
    kafka: str, full: bool, seed: int, dose: Dose, environment: dict[str, str]
):
    if not full:
        pytest.skip("test_faults.py runs the like; --dose=full")
    found = within(_run(kafka, dose, seed, **environment), 200.0)

    assert found.ok, found.text()


async def _run(kafka: str, dose: Dose, seed: int, **environment: str) -> Findings:
    async with site(kafka, 3 if dose.kills else 1, **environment) as here:
        load = Load(here, dose, seed)
        rng = random.Random(seed)
        await asyncio.gather(load.run(), kills(here, load, dose, rng), pauses(here, load, dose, rng))
        await finished(here)
        return await judge(here, load.sent)
