"""`make bench-kill`: how long a kill switch takes, from the append of its command to the last effect of what it stops.

Three routers, two executors, one control role and a platform over HTTP, every one a process of its own, on a real
Kafka, under 1,000 actions a second. 200 switches of all scope kinds and modes are engaged one after another, each over
actions that no earlier one covers, and never released. For each it prints, by the broker's clock:
- append → the last commit of an execute record in its scope that was decided without it (the time of the transaction's
  marker, not of the record);
- append → the last mutating platform call in its scope that began (the platform's clock, on the same machine);
- append → EFFECTIVE;
- mutating calls in its scope that began after EFFECTIVE: must be none.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from aiokafka import TopicPartition
from figures import machine, quantile

from hitl_stream import wiring
from hitl_stream.client import Placed, Publisher
from hitl_stream.core.commands import Engage
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Target, covers, target_of
from hitl_stream.dev import broker
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.commander import commanding
from hitl_stream.lane.commits import commit_times
from hitl_stream.lane.control_reader import read_control
from hitl_stream.lane.heartbeats import listening, standing
from hitl_stream.lane.reader import read, spans
from hitl_stream.settings import Settings, load
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.home import home
from hitl_stream.wire.records import decode_decision
from hitl_stream.wire.signing import read_signing_key

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "kill.md"
PARTITIONS = 6
UNITS = 400
"""Accounts, each with an agent, a destination and four campaigns of its own."""
TENANTS = 20
RATE = 1_000
EFFECTIVE_S_MAX = 10.0
REST_S = (0.05, 0.3)
TARGETS_MS = {"commit": (150, 500, 1_000), "call": (None, None, None), "effective": (None, 1_000, None)}
POLICY = """\
policy: bench-kill
currency: EUR
defaults: {queue: triage, audit_sample: 0.01, max_age: 60s}
queues: {triage: {roles: [senior], sla: 1h, owner: ops}}
classes:
%s
"""
CLASS = "  %s: {level: 4, consequence: [internal], queue: triage}\n"
"""No limit on the size of a change, so that the platform's present value is read under REDUCE_ONLY only."""
NOTE = "  note.only: {level: 1, queue: triage}\n"
EXECUTED = 0.2
"""Share of the actions that run; the rest are recommendations. A call costs executor and platform 5 ms of CPU."""
TYPES = tuple(f"bid.adjust.{n}" for n in range(20))


@dataclass
class Pull:
    """One switch: what it covers, when its command was appended, when it was EFFECTIVE, and what came late."""

    scope: tuple[str, ...]
    mode: Mode
    epoch: int = -1
    appended_ms: int = 0
    effective_ms: int | None = None
    press_ms: float = 0.0
    commits_ms: list[int] = field(default_factory=list)
    calls_ms: list[int] = field(default_factory=list)
    after: int = 0

    @property
    def kind(self) -> str:
        return "+".join(selector.partition(":")[0] for selector in self.scope)


def pulls(count: int, rng: random.Random) -> list[Pull]:
    """Return switches over disjoint actions, of every kind of scope and every mode; one over everything comes last."""
    modes = list(Mode)
    found = []
    for n in range(count - 1):
        unit, campaign = n % (UNITS - 40), f"cmp-{n % (UNITS - 40)}-{rng.randrange(4)}"
        scope = {
            0: (f"campaign:{campaign}",),
            1: (f"account:acc-{unit}",),
            2: (f"agent:bidder-{unit}",),
            3: (f"agent-version:bidder-{unit}@7",),
            4: (f"destination:net-{unit}",),
            5: (f"campaign:{campaign}", f"tenant:t{unit % TENANTS}"),
            6: (f"campaign:cmp-{unit}-0", f"campaign:cmp-{unit}-1"),
        }[n % 7]
        found.append(Pull(scope, modes[n % 3]))
    # Wide ones at the end, since what they cover is gone for the others.
    for back, scope in enumerate((("type:bid.adjust.19",), ("tenant:t19",), ("type:bid.adjust.18", "tenant:t18"))):
        found[-1 - back] = Pull(scope, modes[back])
    return [*found, Pull(("global:*",), Mode.HALT)]


class Load:
    """Bids at a steady rate over all units, half of them up and half down; counts what it sent."""

    def __init__(self, publisher: Publisher, seed: int) -> None:
        self.publisher, self.rng, self.sent, self.stop = publisher, random.Random(seed), 0, False
        self.proposed: dict[str, tuple[Target, bool]] = {}
        """Action id → what scopes are compared with, and whether it raises a bid."""

    def one(self, stamp: str) -> Placed:
        rng, n = self.rng, self.sent
        self.sent += 1
        unit = rng.randrange(UNITS)
        tenant, account, campaign = f"t{unit % TENANTS}", f"acc-{unit}", f"cmp-{unit}-{rng.randrange(4)}"
        kind, up = rng.choice(TYPES) if rng.random() < EXECUTED else "note.only", rng.random() < 0.5
        after = 1.0 + (0.05 if up else -0.05)
        self.proposed[f"act-{n:07d}"] = (
            Target(
                frozenset({f"tenant:{tenant}", f"agent:bidder-{unit}", f"agent-version:bidder-{unit}@7", f"type:{kind}",
                           f"destination:net-{unit}"}),
                (frozenset({f"account:{account}", f"campaign:{campaign}"}),),
            ),
            up,
        )  # fmt: skip
        value = orjson.dumps(
            {
                "action_id": f"act-{n:07d}",
                "tenant": tenant,
                "agent": {"id": f"bidder-{unit}", "version": "7"},
                "type": kind,
                "changes": [
                    {
                        "entity": {"account": account, "campaign": campaign},
                        "field": "bid",
                        "before": "1.00",
                        "after": f"{after:.2f}",
                        "unit": "EUR",
                    }
                ],
                "confidence": 0.9,
                "proposed_at": stamp,
                "destination": f"net-{unit}",
            }
        )
        return Placed(value, f"{tenant}/{account}/{campaign}".encode(), home(tenant, account, PARTITIONS))

    async def run(self, rate: int) -> None:
        started = time.monotonic()
        while not self.stop:
            due = int((time.monotonic() - started) * rate) - self.sent
            if due > 0:
                stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
                await self.publisher.publish([self.one(stamp) for _ in range(min(due, 2_000))])
            await asyncio.sleep(0.01)


@contextmanager
def process(settings: Settings, home_: Path, role: str, slot: int, extra: Mapping[str, str]) -> Iterator[None]:
    """Run one role in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HITL_")} | {
        "HITL_KAFKA": settings.kafka, "HITL_PREFIX": settings.prefix, "HITL_PARTITIONS": str(PARTITIONS),
        "HITL_STATE_DIR": str(settings.state_dir), "HITL_POLICY": str(settings.policy), "HITL_METRICS_PORT": "0",
        "HITL_LOG_FORMAT": "json", "HITL_SLOT": str(slot), "HITL_TRUST": settings.trust, **extra,
    }  # fmt: skip
    with (home_ / f"{role}-{slot}.log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "hitl_stream", "run", role], stdout=log, stderr=log, env=environment, cwd=home_
        )
    try:
        yield
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()


@contextmanager
def platform_process(home_: Path) -> Iterator[str]:
    """Run the fake ad platform; yields its URL, which is the first line that it prints."""
    with (home_ / "platform.log").open("wb") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "hitl_stream.dev.platform", "--adopt"], stdout=subprocess.PIPE, stderr=log
        )
    assert running.stdout is not None
    try:
        yield running.stdout.readline().decode().split()[-1]
    finally:
        running.terminate()
        running.wait(10)


async def site(bootstrap: str, home_: Path) -> Settings:
    """Make policy, topics and keys."""
    (home_ / "policy.yaml").write_text(POLICY % "".join([*(CLASS % kind for kind in TYPES), NOTE]))
    flags: dict[str, Any] = {"kafka": bootstrap, "prefix": "kill.", "partitions": PARTITIONS, "metrics_port": 0,
                             "state_dir": home_, "policy": home_ / "policy.yaml"}  # fmt: skip
    settings = load(**flags)
    wiring.make_router_keys(settings)
    await apply(wiring.kafka_client(settings), wiring.topic_set(settings))
    return load(**flags, trust=await make_control_keys(settings))


async def measure(settings: Settings, platform_url: str, wanted: list[Pull], rate: int, seed: int) -> int:
    """Engage every switch under load and fill in what was seen; return how many actions were sent."""
    calls = Calls(platform_url)
    client, topics = wiring.kafka_client(settings), wiring.topic_set(settings)
    log = await read_control(client, topics, settings.trust, await cluster_id(client))
    key = read_signing_key(settings.keys_dir / "ana-1.jwk")
    rng = random.Random(seed)
    async with (
        Publisher(settings.kafka, topic=topics.name("actions")) as publisher,
        commanding(client, topics, key) as commander,
        listening(client, topics, commander.audience, lambda: log.control.keys) as beats,
    ):
        load_ = Load(publisher, seed)
        sending = asyncio.create_task(load_.run(rate))
        await _executing(platform_url)
        for pull in wanted:
            await _pull(pull, commander, beats)
            await asyncio.sleep(rng.uniform(*REST_S))
            await calls.read()
        await asyncio.sleep(2.0)
        load_.stop = True
        await sending
    await asyncio.sleep(3.0)
    await calls.read()
    await _commits(client, topics, wanted)
    calls.judge(wanted, load_.proposed)
    return load_.sent


async def _pull(pull: Pull, commander: Any, beats: Any) -> None:
    pressed = time.perf_counter()
    appended = await commander.append(partial(Engage, scope=pull.scope, mode=pull.mode, reason="a measurement"))
    pull.press_ms = (time.perf_counter() - pressed) * 1_000
    pull.epoch, pull.appended_ms = appended.epoch, appended.at_ms
    until = time.monotonic() + EFFECTIVE_S_MAX
    while pull.effective_ms is None and time.monotonic() < until:
        for beat in await beats.hear(0.1):
            found = standing(pull.epoch, pull.appended_ms, beat)
            if found.state == "effective" and pull.effective_ms is None:
                pull.effective_ms = beat.at_ms


async def _executing(url: str) -> None:
    """Wait until the platform is called, and caught up with."""
    async with aiohttp.ClientSession() as session:
        until = time.monotonic() + 60
        while (await _get(session, f"{url}/counts"))["applied"] < RATE / 5:
            if time.monotonic() > until:
                raise SystemExit(f"the executors do not call the platform: {await _get(session, f'{url}/counts')}")
            await asyncio.sleep(0.2)


async def _get(session: aiohttp.ClientSession, url: str) -> Any:
    async with session.get(url) as response:
        return await response.json()


async def _commits(client: Any, topics: Any, wanted: list[Pull]) -> None:
    """Find execute records that were decided without a switch that covers them, and committed after its append."""
    parts = await spans(client, [topics.name("execute")])
    times = {tp: await commit_times(client, tp.topic, tp.partition, span.start) for tp, span in parts.items()}
    async for topic, number, records in read(client, parts):
        for record in records:
            decision = decode_decision(record.value)
            found = decode_bytes(bytes(decision.action), decision.ce)
            assert isinstance(found, Decoded)
            stretch = times[TopicPartition(topic, number)].of(record.offset)
            if stretch is None or stretch.at_ms is None or not stretch.committed:
                continue
            target = target_of(found.action, decision.tenant, decision.entity)
            up = float(found.action.changes[0].after) > float(found.action.changes[0].before)  # type: ignore[arg-type]
            for pull in _covering(wanted, target, up):
                if decision.epoch < pull.epoch and stretch.at_ms > pull.appended_ms:
                    pull.commits_ms.append(stretch.at_ms - pull.appended_ms)


def _covering(wanted: list[Pull], target: Target, up: bool) -> Iterator[Pull]:
    for pull in wanted:
        if covers(pull.scope, target) and (up or pull.mode is not Mode.REDUCE_ONLY):
            yield pull


class Calls:
    """The mutating calls that the platform saw begin."""

    def __init__(self, url: str) -> None:
        self.url, self.since_ms, self.begun = url, 0, {}  # type: ignore[var-annotated]

    async def read(self) -> None:
        """Read the newest ones: the platform remembers only so many."""
        async with aiohttp.ClientSession() as session:
            found = await _get(session, f"{self.url}/calls?since={max(0, self.since_ms - 1)}")
        for call in found["calls"]:
            self.begun[call["n"]] = (call["begin_ms"], call["action_id"])
            self.since_ms = max(self.since_ms, call["begin_ms"])

    def judge(self, wanted: list[Pull], proposed: Mapping[str, tuple[Target, bool]]) -> None:
        """Compare each call with the switches that cover its action."""
        for begin_ms, action_id in self.begun.values():
            target, up = proposed[action_id]
            for pull in _covering(wanted, target, up):
                if begin_ms > pull.appended_ms:
                    pull.calls_ms.append(begin_ms - pull.appended_ms)
                    pull.after += pull.effective_ms is not None and begin_ms > pull.effective_ms


def report(wanted: list[Pull], sent: int, command: str, kafka: str) -> str:
    """Write the table."""
    done = [pull for pull in wanted if pull.effective_ms is not None]
    rows = {
        "append → last offending execute commit": ([max(p.commits_ms, default=0) for p in wanted], "commit"),
        "append → last offending call begun": ([max(p.calls_ms, default=0) for p in wanted], "call"),
        "append → EFFECTIVE": ([(p.effective_ms or 0) - p.appended_ms for p in done], "effective"),
    }
    lines = [
        "# How long a kill switch takes",
        "",
        f"{machine()}, Kafka {kafka}, aiokafka {version('aiokafka')}. `{command}`. {len(wanted)} switches, "
        f"{sent:,} actions, {PARTITIONS} partitions; 3 routers, 2 executors, 1 control role, a platform over HTTP, "
        "all on one machine. Milliseconds by the broker's clock.",
        "",
        "| measure | p50 | p99 | max | target (p50, p99, max) |",
        "|---|---|---|---|---|",
    ]
    for name, (values, target) in rows.items():
        shown = ", ".join("–" if bound is None else f"≤ {bound:,}" for bound in TARGETS_MS[target])
        figures = " | ".join(
            f"{figure:,.0f}" for figure in (quantile(values, 0.5), quantile(values, 0.99), max(values))
        )
        lines.append(f"| {name} | {figures} | {shown} |")
    press = [pull.press_ms for pull in wanted]
    lines += [
        f"| command → append acknowledged, on an open connection | {quantile(press, 0.5):,.0f} | "
        f"{quantile(press, 0.99):,.0f} | {max(press):,.0f} | – |",
        "",
        f"- mutating calls in scope begun after EFFECTIVE: **{sum(p.after for p in wanted)}** (target 0)",
        f"- switches EFFECTIVE within {EFFECTIVE_S_MAX:g} s: {len(done)} of {len(wanted)}",
        f"- switches with an execute record committed after the append: {sum(bool(p.commits_ms) for p in wanted)}",
        "",
        "| scope | mode | switches | EFFECTIVE p50 | max | last commit max | last call max |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, mode in sorted({(p.kind, p.mode.value) for p in wanted}):
        some = [p for p in wanted if (p.kind, p.mode.value) == (kind, mode)]
        proved = [p.effective_ms - p.appended_ms for p in some if p.effective_ms is not None] or [0]
        commit = max((late for pull in some for late in pull.commits_ms), default=0)
        call = max((late for pull in some for late in pull.calls_ms), default=0)
        figures = f"{quantile(proved, 0.5):,.0f} | {max(proved):,} | {commit:,} | {call:,}"
        lines.append(f"| {kind} | {mode} | {len(some)} | {figures} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=int, default=200)
    parser.add_argument("--rate", type=int, default=RATE)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--json", action="store_true")
    a = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    choice = broker.find("jar")
    if isinstance(choice, broker.Absent):
        choice = broker.find("external")
    if isinstance(choice, broker.Absent):
        sys.exit(f"a benchmark needs a real Kafka: {choice.reason}")
    wanted = pulls(a.switches, random.Random(a.seed))
    with choice.broker(jvm="full") as running, tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        home_ = Path(directory)
        settings = asyncio.run(site(running.bootstrap, home_))
        url = stack.enter_context(platform_process(home_))
        stack.enter_context(process(settings, home_, "control", 0, {}))
        executor = {
            "HITL_ADAPTER": "hitl_stream.dev.platform:claiming_adapter",
            "HITL_ADAPTER_OPTIONS": json.dumps({"base_url": url, "fence": True}),
        }
        for slot in range(3):
            stack.enter_context(process(settings, home_, "router", slot, {}))
        for slot in range(2):
            stack.enter_context(process(settings, home_, "executor", slot, executor))
        try:
            sent = asyncio.run(measure(settings, url, wanted, a.rate, a.seed))
        except BaseException:
            for path in sorted(home_.glob("*.log")):
                sys.stderr.write(f"--- {path.name}\n{path.read_text()[-1_500:]}\n")
            raise
    command = f"python benchmarks/kill.py --switches {a.switches} --rate {a.rate} --seed {a.seed}"
    text = report(wanted, sent, command, "4.1.1")
    print(text)
    if a.write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
