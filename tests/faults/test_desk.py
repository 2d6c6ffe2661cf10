"""Desks killed at any time while people decide: each item ends once, and nothing runs but what was approved, once.

Everything is real: routers, desks and control as processes, people as robots in this one, who send some verdicts twice
and contradict each other now and then, and the console's view, which follows the desks all the time.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from faults.harness import TENANT, Findings, Fleet, Process, Site, all_records, explained, site, verifying
from faults.harness import Run as Figures
from hitl_stream import wiring
from hitl_stream.cli.logs import compared_too
from hitl_stream.console.compare import compare
from hitl_stream.console.feed import Feed
from hitl_stream.console.fold import TOPICS
from hitl_stream.console.pairs import Pairs
from hitl_stream.console.reviewing import id_of
from hitl_stream.console.serve import WRITERS
from hitl_stream.console.view import TABLES, SqlStore, open_view
from hitl_stream.core.events import Purpose
from hitl_stream.core.ledger import WHAT, Report
from hitl_stream.core.review import ENDS, State
from hitl_stream.dev.reviewers import Reviewers, Robot
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.instances import seals_at
from hitl_stream.lane.verify import verify
from hitl_stream.wire.desk_records import is_lot
from hitl_stream.wire.home import home
from hitl_stream.wire.seal import SealKey
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

VIEW_S_MAX = 60.0
EXPECTED = dict.fromkeys(WHAT, "ok")
LOOKED_AT = ("I3", "I6", "I7", "I11", "I13")


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
class Run(Fleet[Process]):
    """The desks of one run, and the people who work there."""

    dose: Dose = field(kw_only=True)
    proposed: list[str] = field(default_factory=list)

    def made(self, slot: int, number: int) -> Process:
        return Process(self.site, wiring.DESK, slot, number)

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

    async def finish(self) -> None:
        """Wait until every item has its end, also those of what people proposed themselves."""
        deadline = time.monotonic() + DONE_S_MAX
        quiet = 0
        while quiet < 3:
            states = await items(self.site)
            seconds = await blind_seconds(self.site)  # nothing waits for them, and for some nobody may be left
            opened = sum(state not in ENDS for item, state in states.items() if item not in seconds)
            quiet = quiet + 1 if len(states) >= len(self.proposed) and not opened else 0
            self.expect_alive()
            assert time.monotonic() < deadline, f"{opened} of {len(states)} items are open still"
            await asyncio.sleep(1.0)


async def items(site_: Site) -> dict[str, State]:
    """Return every item's state, as the log has it."""
    found: dict[str, State] = {}
    async for record in all_records(site_, "reviews"):
        if not is_lot(record.key):
            found[record.key.decode()] = State(json.loads(record.value)["state"])
    return found


async def blind_seconds(site_: Site) -> set[str]:
    """Return the items that ask for a judgement once more."""
    return {
        record.key.decode()
        async for record in all_records(site_, "reviews")
        if not is_lot(record.key) and json.loads(record.value)["purpose"] == Purpose.SECOND
    }


async def judge(site_: Site) -> tuple[Findings, Counter[str]]:
    """Return everything that must not be, and how items ended. What is waited for is the answer to a verdict."""
    found = Findings()
    wrong = found.wrong
    states, seconds = await items(site_), await blind_seconds(site_)
    routed: dict[str, str] = {}
    decision_of: dict[str, str] = {}
    for topic in ("review", "escalation"):
        async for record in all_records(site_, topic):
            decision = json.loads(record.value)
            routed[f"{record.topic}/{record.partition}/{record.offset}"] = decision["id"]
    async for record in all_records(site_, "reviews"):
        if record.key.decode() not in seconds:
            decision_of[record.key.decode()] = routed[json.loads(record.value)["source"]]
    opened = set(decision_of.values())
    found.lost = [f"decision {decision} asked people, and no item was opened" for decision in routed.values()
                  if decision not in opened]  # fmt: skip
    found.doubled = [f"decision {one} opened items twice" for one, n in Counter(decision_of.values()).items() if n > 1]
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
    said: dict[str, tuple[str, int]] = {}
    async for record in all_records(site_, "verdicts"):
        place = f"{record.topic}/{record.partition}/{record.offset}"
        said[place] = id_of(json.loads(record.value)["jws"]), record.timestamp
    found.inputs = len(said)
    applied: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    answered: set[str] = set()
    async for record in all_records(site_, "decisions"):
        value = json.loads(record.value)
        sources[value["source"]] += 1
        verdict, at_ms = said[value["source"]]
        answered.add(verdict)
        found.waits_ms.append(record.timestamp - at_ms)
        if value["effect"] == "applied" and value["verdict"] != "escalate":
            applied[value["item"]] += 1
    for item in seconds:
        if written[item] or applied[item] > 1:
            wrong.append(f"{item}, a second: {written[item]} actions written, {applied[item]} verdicts applied")
    for item, state in states.items():
        if item in seconds:
            continue
        decision = decision_of[item]
        expected = {
            State.APPROVED: (1, [], 0),
            State.REJECTED: (0, ["rejected"], 0),
            State.CHANGED: (0, ["superseded"], 1),
        }.get(state)
        there = (executed[decision], closed.get(decision, []), written[item])
        if there != expected:
            wrong.append(f"{item} {state}: executed, closed, written are {there}")
        if applied[item] != 1:
            wrong.append(f"{item} {state}: {applied[item]} verdicts were applied")
    found.executed_twice = [decision for decision, times in executed.items() if times > 1]
    found.doubled += [f"verdict {source} was answered {times} times" for source, times in sources.items() if times > 1]
    found.lost += [f"verdict {place} has no answer" for place, (verdict, _) in said.items() if verdict not in answered]
    async for record in all_records(site_, "dlq"):
        wrong.append(f"dead letter: {dict(record.headers)}")
    return found, Counter(str(state) for state in states.values() if state in ENDS)


# --- the view ---------------------------------------------------------------------------------------------------------


@dataclass
class View:
    """A console's view in a file, and what folds into it."""

    path: Path
    store: SqlStore
    feed: Feed

    async def current(self) -> None:
        """Wait until it has read what stands on the topics by now."""
        now_ms, deadline = time.time_ns() // 1_000_000, time.monotonic() + VIEW_S_MAX
        while self.feed.as_of_ms < now_ms:
            assert time.monotonic() < deadline, f"the view is not current: {self.feed.missing()}"
            await asyncio.sleep(TICK_S)

    async def rows(self) -> dict[str, list[str]]:
        """Return every row of it."""
        found = {}
        for table in set(TABLES) - {"view_mark"}:  # which says how far it was read, and that goes on
            sql = f"SELECT * FROM {table}"
            rows = await self.store.database.read(lambda tx, sql=sql: tx.rows(sql))
            found[table] = sorted(map(repr, rows))
        return found


def seals_of(site_: Site) -> dict[str, dict[str, SealKey]]:
    """Return the seals that a view believes, by topic."""
    keys = seals_at(site_.settings.keys_dir)
    return {topic: {one: key for role in WRITERS[topic] for one, key in keys.get(role, {}).items()} for topic in TOPICS}


@asynccontextmanager
async def viewing(site_: Site) -> AsyncIterator[View]:
    """Let a console's view follow the log."""
    path = site_.directory / "view.db"
    store = open_view(path)
    feed = Feed(site_.client, site_.topics, store, seals_of(site_), Pairs(), lambda: time.time_ns() // 1_000_000)
    try:
        await feed.start()
        yield View(path, store, feed)
    finally:
        await feed.stop()
        await store.close()


# --- what was planted -------------------------------------------------------------------------------------------------


async def plant(site_: Site) -> None:
    """Write a judgement once more, as a desk would that had applied its verdict twice."""
    record = await anext(aiter(all_records(site_, "decisions")))
    async with producing(site_.bootstrap, acks="all") as producer:
        headers = list(record.headers)
        await producer.send_and_wait(
            record.topic, record.value, key=record.key, partition=record.partition, headers=headers
        )


@pytest.mark.behaviour("I3", "I6", "I7", "I11", "I13", "A2", "E1")
def test_desks_killed_at_any_time_apply_each_verdict_once(
    kafka: str, full: bool, seed: int, report: Callable[[Figures], None]
):
    dose = Dose(5_000, 40, 20, (3.0, 8.0), people=16) if full else Dose(150, 20, 3, (1.5, 3.0))

    async def scenario() -> None:
        async with site(kafka, 1) as here:
            await apply(here.client, here.topics, DESK_TOPICS)
            loaded = wiring.load_policy(here.settings)
            people = [Robot(f"trader-{n}", "trader") for n in range(dose.people)] + [
                Robot("sam", "senior"),
                Robot("sue", "senior"),
            ]
            reviewers = Reviewers(
                here.client, here.topics, read_signing_keys(here.settings.keys_dir)["console-1"],
                await cluster_id(here.client), loaded.policy, people, seed, HASTE, repeats=0.05, conflicts=0.05,
            )  # fmt: skip
            run = Run(here, random.Random(seed), dose=dose)
            working = asyncio.create_task(reviewers.run())
            try:
                async with viewing(here) as view:
                    for slot in range(dose.desks):
                        run.start(slot)
                    with explained(here):
                        await asyncio.gather(run.propose(), run.kill(dose.kills, dose.gap_s))
                        during = await verify(verifying(here))
                        assert during.ok, during.violations
                        await run.finish()
                        await view.current()
                        found, ends = await judge(here)
                        checked = await verified(here, view)
                        found.verify = "; ".join(f"{one.invariant} {one.what}" for one in checked.violations[:5])
                        found.broken = ", ".join(sorted({one.invariant for one in checked.violations}))
                        facts = {
                            "proposed": len(run.proposed), "kills": dose.kills, "ended": _told(ends),
                            "robots said": _told(reviewers.counts),
                        }  # fmt: skip
                        report(Figures("desks killed", "full" if full else "short", seed, facts, found))
                        assert found.ok, found.text()
                        assert {row.invariant: row.verdict for row in checked.rows} == EXPECTED
                        counts = {row.invariant: row.checked for row in checked.rows}
                        assert counts["I6"] > dose.items
                        assert counts["I13"] == sum(ends.values())
                        assert [note for note in checked.notes if any(one in note for one in LOOKED_AT)] == []
                        assert run.trouble() == []
                        live = await view.rows()
                        await view.store.rebuild()
                        await view.current()
                        assert await view.rows() == live
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


async def verified(site_: Site, view: View) -> Report:
    """Return what `hitl verify --deep --view` says."""
    found = await verify(verifying(site_))
    return compared_too(found, await compare(site_.client, site_.topics, seals_of(site_), view.path))


def _told(counts: Mapping[str, int]) -> str:
    return " ".join(f"{word} {count}" for word, count in sorted(counts.items()))
