"""Desks killed at any time while people decide: each item ends once, and nothing runs but what was approved, once.

Everything is real: routers, desks and control as processes, people as robots in this one, who send some verdicts twice
and contradict each other now and then.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from faults.harness import TENANT, Process, Site, all_records, explained, site, verifying
from hitl_stream import wiring
from hitl_stream.core.ledger import WHAT
from hitl_stream.core.review import ENDS, State
from hitl_stream.dev.reviewers import Reviewers, Robot
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.verify import verify
from hitl_stream.wire.desk_records import is_lot
from hitl_stream.wire.home import home
from hitl_stream.wire.signing import read_signing_keys
from hitl_stream.wire.topics import DESK_TOPICS
from support.kafka import producing, within
from support.make import action_bytes, change, iso

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(1_800)]

SECONDS_MAX = 1_700.0
DONE_S_MAX = 400.0
ACCOUNTS = 24
TICK_S = 0.05
HASTE = 40.0
"""Robots read so many times as fast as people."""

NOT_CHECKED = ("I13",)
"""There is no view."""
EXPECTED = {invariant: "not checked" if invariant in NOT_CHECKED else "ok" for invariant in WHAT}


@dataclass(frozen=True)
class Dose:
    """How many items, at which rate, while how many kills come `gap_s` apart."""

    items: int
    rate: int
    kills: int
    gap_s: tuple[float, float]
    people: int = 6
    desks: int = 2


@dataclass
class Run:
    """The desks of one run, and the people who work there."""

    site: Site
    dose: Dose
    rng: random.Random
    living: dict[int, Process] = field(default_factory=dict)
    ended: list[Process] = field(default_factory=list)
    proposed: list[str] = field(default_factory=list)

    def start(self, slot: int) -> None:
        if slot in self.living:
            self.ended.append(self.living[slot])
        self.living[slot] = Process(self.site, wiring.DESK, slot, len(self.ended))

    def all(self) -> list[Process]:
        return [*self.ended, *self.living.values()]

    async def propose(self) -> None:
        """Let an agent propose, without the confidence to run alone, changes of 5 to 60 %."""
        partitions = self.site.settings.partitions
        started = time.monotonic()
        async with producing(self.site.bootstrap, acks="all") as producer:
            while len(self.proposed) < self.dose.items:
                due = min(self.dose.items, int((time.monotonic() - started) * self.dose.rate) + 1)
                for number in range(len(self.proposed), due):
                    account = f"acc-{self.rng.randrange(ACCOUNTS)}"
                    # A campaign of its own: none overtakes another.
                    after = f"{1 + self.rng.uniform(0.05, 0.6):.2f}"
                    leg = change("1.00", after, account=account, campaign=f"c-{number}")
                    now_ms = int(time.time() * 1000)
                    value = action_bytes(
                        action_id=f"act-{number:05}", tenant=TENANT, agent={"id": "bidder-1", "version": "1"},
                        confidence=0.2, changes=[leg], proposed_at=iso(now_ms), expires_at=iso(now_ms + 3_600_000),
                    )  # fmt: skip
                    topic = self.site.name("actions")
                    await producer.send(topic, value, partition=home(TENANT, account, partitions))
                    self.proposed.append(f"act-{number:05}")
                await asyncio.sleep(TICK_S)

    async def kill(self) -> None:
        """SIGKILL a desk every so often, and start it again."""
        for _ in range(self.dose.kills):
            await asyncio.sleep(self.rng.uniform(*self.dose.gap_s))
            slot = self.rng.choice(sorted(self.living))
            self.living[slot].kill()
            await asyncio.sleep(self.rng.uniform(0.0, 0.3))
            self.start(slot)

    async def finish(self) -> None:
        """Wait until every item has its end, also those of what people proposed themselves."""
        deadline = time.monotonic() + DONE_S_MAX
        quiet = 0
        while quiet < 3:
            states = await items(self.site)
            opened = sum(state not in ENDS for state in states.values())
            quiet = quiet + 1 if len(states) >= len(self.proposed) and not opened else 0
            dead = [one for one in self.living.values() if one.process.poll() is not None]
            assert not dead, "\n".join(one.tail() for one in dead)
            assert time.monotonic() < deadline, f"{opened} of {len(states)} items are open still"
            await asyncio.sleep(1.0)

    def stop(self) -> None:
        for one in self.living.values():
            one.end()


async def items(site_: Site) -> dict[str, State]:
    """Return every item's state, as the log has it."""
    found: dict[str, State] = {}
    async for record in all_records(site_, "reviews"):
        if not is_lot(record.key):
            found[record.key.decode()] = State(json.loads(record.value)["state"])
    return found


async def judge(site_: Site) -> tuple[list[str], Counter[str]]:
    """Return everything that must not be, and how items ended."""
    wrong: list[str] = []
    states = await items(site_)
    routed: dict[str, str] = {}
    decision_of: dict[str, str] = {}
    for topic in ("review", "escalation"):
        async for record in all_records(site_, topic):
            decision = json.loads(record.value)
            routed[f"{record.topic}/{record.partition}/{record.offset}"] = decision["id"]
    async for record in all_records(site_, "reviews"):
        decision_of[record.key.decode()] = routed[json.loads(record.value)["source"]]
    if len(decision_of) != len(routed):
        wrong.append(f"{len(routed)} decisions asked people, {len(decision_of)} items were opened")
    executed: Counter[str] = Counter()
    async for record in all_records(site_, "execute"):
        value = json.loads(record.value)
        if "routed" in value:
            executed[value["id"]] += 1
    closed: dict[str, list[str]] = defaultdict(list)
    async for record in all_records(site_, "closed"):
        value = json.loads(record.value)
        closed[value["id"]].append(value["end"])
    written: Counter[str] = Counter()
    async for record in all_records(site_, "actions"):
        via = dict(record.headers).get("hitl-via")
        if via is not None and json.loads(via)["role"] == "desk":
            written[json.loads(record.value)["action_id"].rpartition("~")[2]] += 1
    applied: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    async for record in all_records(site_, "decisions"):
        value = json.loads(record.value)
        sources[value["source"]] += 1
        if value["effect"] == "applied" and value["verdict"] != "escalate":
            applied[value["item"]] += 1
    for item, state in states.items():
        decision = decision_of[item]
        expected = {
            State.APPROVED: (1, [], 0),
            State.REJECTED: (0, ["rejected"], 0),
            State.CHANGED: (0, ["superseded"], 1),
        }.get(state)
        found = (executed[decision], closed.get(decision, []), written[item])
        if found != expected:
            wrong.append(f"{item} {state}: executed, closed, written are {found}")
        if applied[item] != 1:
            wrong.append(f"{item} {state}: {applied[item]} verdicts were applied")
    wrong += [f"verdict {source} was answered {times} times" for source, times in sources.items() if times > 1]
    async for record in all_records(site_, "dlq"):
        wrong.append(f"dead letter: {dict(record.headers)}")
    return wrong, Counter(str(state) for state in states.values())


async def plant(site_: Site) -> None:
    """Write a judgement once more, as a desk would that had applied its verdict twice."""
    record = await anext(aiter(all_records(site_, "decisions")))
    async with producing(site_.bootstrap, acks="all") as producer:
        headers = list(record.headers)
        await producer.send_and_wait(
            record.topic, record.value, key=record.key, partition=record.partition, headers=headers
        )


@pytest.mark.behaviour("I6", "I7", "A2", "E1")
def test_desks_killed_at_any_time_apply_each_verdict_once(
    kafka: str, full: bool, seed: int, capsys: pytest.CaptureFixture[str]
):
    dose = Dose(5_000, 40, 20, (3.0, 8.0), people=16) if full else Dose(150, 20, 3, (1.5, 3.0))

    async def scenario() -> None:
        async with site(kafka, 1) as here:
            await apply(here.client, here.topics, DESK_TOPICS)
            loaded = wiring.load_policy(here.settings)
            people = [Robot(f"trader-{n}", "trader") for n in range(dose.people)] + [Robot("sam", "senior")]
            reviewers = Reviewers(
                here.client, here.topics, read_signing_keys(here.settings.keys_dir)["console-1"],
                await cluster_id(here.client), loaded.policy, people, seed, HASTE, repeats=0.05, conflicts=0.05,
            )  # fmt: skip
            run = Run(here, dose, random.Random(seed))
            working = asyncio.create_task(reviewers.run())
            try:
                for slot in range(dose.desks):
                    run.start(slot)
                with explained(here):
                    await asyncio.gather(run.propose(), run.kill())
                    during = await verify(verifying(here))
                    assert during.ok, during.violations
                    await run.finish()
                    wrong, ends = await judge(here)
                    report = await verify(verifying(here))
                    with capsys.disabled():
                        print(f"\n  desks (seed {seed}): {len(run.proposed)} proposed, {dose.kills} kills; ended "
                              f"{dict(ends)}; robots said {dict(reviewers.counts)}; {len(wrong)} wrong")  # fmt: skip
                    assert wrong == [], wrong[:20]
                    assert report.ok, report.violations
                    assert {row.invariant: row.verdict for row in report.rows} == EXPECTED
                    assert {row.invariant: row.checked for row in report.rows}["I6"] > dose.items
                    assert [note for note in report.notes if "I6" in note or "I7" in note or "I11" in note] == []
                    assert [line for one in run.all() for line in one.trouble()] == []
                    await plant(here)
                    assert "a verdict was answered twice" in [
                        violation.what for violation in (await verify(verifying(here))).violations
                    ]
                    assert reviewers.counts["repeated"]
                    assert reviewers.counts["contradicted"]
            finally:
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working
                run.stop()

    within(scenario(), SECONDS_MAX)
