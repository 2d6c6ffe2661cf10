"""`python benchmarks/monitor.py`: one worker of the monitor: how far it is behind at a rate, its memory, its restoring.

Nothing but a monitor and Kafka runs, on judgements of so many people, a tenth of them canaries that they catch:
1. a backlog is judged: from the first table write to the last one;
2. judgements come at a steady rate: the time from the append of one to its acknowledgement;
3. the monitor is killed and started again: from the start of the process to its tables restored.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from figures import machine
from run import PARTITIONS, _installation

from hitl_stream import wiring
from hitl_stream.core.action import Agent
from hitl_stream.dev import broker
from hitl_stream.roles.monitor import TABLE
from hitl_stream.settings import Settings
from hitl_stream.wire.desk_records import OBSERVATION, Observation
from hitl_stream.wire.home import partition_of
from hitl_stream.wire.records import encode, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, read_keys, sealer

PORT = 19_466
WAIT_S_MAX = 300.0
SEED = 7
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "monitor.md"
REACH = {"lag_s_p99": 2.5, "restore_s": 30.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backlog", type=int, default=20_000)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--people", type=int, default=500)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    a = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    choice = broker.find("external")
    if isinstance(choice, broker.Absent):
        choice = broker.find("jar")
    if isinstance(choice, broker.Absent):
        sys.exit(f"a benchmark needs a real Kafka: {choice.reason}")
    with choice.broker() as running, tempfile.TemporaryDirectory() as directory:
        settings = _installation(running.bootstrap, Path(directory), f"monitor-{time.time_ns()}.")
        wiring.make_monitor_keys(settings)
        found = asyncio.run(measured(settings, a.backlog, a.rate, a.seconds, a.people))
    text = table(found, a)
    print(text)
    if a.write:
        RESULTS.write_text(text)


async def measured(settings: Settings, backlog: int, rate: int, seconds: int, people: int) -> dict[str, float]:
    """Measure it all, in order."""
    judge = Judge(settings, people)
    await judge.begin()
    await judge.send(backlog)
    monitor = start(settings)
    try:
        await ready(monitor)
        began, first, cpu_s = time.perf_counter(), await seen(), processor_s(monitor)
        await until_seen(monitor, backlog)
        backlog_s, cpu_s = time.perf_counter() - began, processor_s(monitor) - cpu_s
        before = ages()
        for _ in range(seconds * 10):
            began_turn = time.perf_counter()
            await judge.send(rate // 10)
            await asyncio.sleep(max(0.0, 0.1 - (time.perf_counter() - began_turn)))
        behind = judge.sent - await seen()
        await until_seen(monitor, judge.sent)
        lags = {bound: count - before.get(bound, 0.0) for bound, count in ages().items()}
        rss_mb = resident_mb(monitor)
        monitor.kill()
        monitor.wait()
        began = time.perf_counter()
        monitor = start(settings)
        await ready(monitor)
        restore_s = time.perf_counter() - began
    finally:
        await judge.end()
        monitor.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            monitor.wait(20)
        monitor.kill()
    return {
        "backlog_per_s": (backlog - first) / backlog_s,
        "backlog_per_cpu_s": (backlog - first) / cpu_s,
        "behind": behind,
        "lag_s_p50": at(lags, 0.50),
        "lag_s_p99": at(lags, 0.99),
        "rss_mb": rss_mb,
        "restore_s": restore_s,
        "changelog": await judge.ends(TABLE),
    }


class Judge:
    """People who judge: what the desk writes of them."""

    def __init__(self, settings: Settings, people: int) -> None:
        self.sent = 0
        self._client, self._topics = wiring.kafka_client(settings), wiring.topic_set(settings)
        self._topic = self._topics.name("observations")
        (key,) = read_keys(settings.keys_dir, "seal-desk").values()
        self._seal = sealer(key, self._topic, OBSERVATION)
        self._random, self._people = random.Random(SEED), people
        self._producer: Any = None

    async def begin(self) -> None:
        self._producer = AIOKafkaProducer(**self._client, acks="all", linger_ms=5, max_batch_size=512 * 1024)
        await self._producer.start()

    async def end(self) -> None:
        await self._producer.stop()

    async def send(self, count: int) -> None:
        """Append so many judgements, and wait until they stand there."""
        sent = [await self._send(self.sent + n) for n in range(count)]
        await asyncio.gather(*sent)
        self.sent += count

    async def _send(self, number: int) -> Any:
        now_ms = time.time_ns() // 1_000_000
        name, canary = f"person-{self._random.randrange(self._people)}", number % 10 == 0
        value = encode(Observation(
            item=f"item{number:012d}", reviewer=name, tenant="acme", queue="trading", class_="bid.adjust",
            agent=Agent(id="bidder-7"), purpose="canary" if canary else "decide",
            verdict="reject" if canary or number % 19 == 0 else "approve", shown_at=time_text(now_ms - 30_000),
            decided_at=time_text(now_ms), dwell_s=30.0, floor_s=4.0, words=60, assets=0, policy="d" * 64,
        ))  # fmt: skip
        headers = [(TYPE_HEADER, OBSERVATION.encode()), (SEAL_HEADER, self._seal(value))]
        partition = partition_of(name.encode(), PARTITIONS)
        return await self._producer.send(self._topic, value, name.encode(), partition, headers=headers)

    async def ends(self, name: str) -> int:
        """Return how many records a topic has."""
        consumer = AIOKafkaConsumer(**self._client)
        await consumer.start()
        try:
            ends = await consumer.end_offsets([TopicPartition(self._topics.name(name), n) for n in range(PARTITIONS)])
            return sum(ends.values())
        finally:
            await consumer.stop()


def start(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a monitor process."""
    flags = ["--kafka", settings.kafka, "--prefix", settings.prefix, "--partitions", str(settings.partitions),
             "--state-dir", str(settings.state_dir), "--trust", settings.trust, "--metrics-port", str(PORT),
             "--log-level", "error"]  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "hitl_stream", "run", "monitor", *flags])


async def ready(monitor: subprocess.Popen[bytes]) -> None:
    """Wait until its tables are restored."""
    await _until(monitor, lambda: ask("/readyz") is not None, "ready")


async def until_seen(monitor: subprocess.Popen[bytes], count: int) -> None:
    """Wait until so many judgements are acknowledged."""
    await _until(monitor, lambda: counted() >= count, f"done with {count} judgements")


async def seen() -> float:
    return await asyncio.to_thread(counted)


async def _until(monitor: subprocess.Popen[bytes], holds: Any, what: str) -> None:
    until = time.perf_counter() + WAIT_S_MAX
    while time.perf_counter() < until:
        if monitor.poll() is not None:
            sys.exit("the monitor ended")
        if await asyncio.to_thread(holds):
            return
        await asyncio.sleep(0.05)
    sys.exit(f"the monitor was not {what} in time")


def ask(path: str) -> str | None:
    """Return what it answers; None: it does not, or it is not ready."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=5) as answer:
        return str(answer.read().decode())
    return None


def counted() -> float:
    """Return how many judgements are acknowledged."""
    found = re.findall(r"^hitl_observations_total\{.*\} (\S+)$", ask("/metrics") or "", re.MULTILINE)
    return sum(map(float, found))


def ages() -> dict[float, float]:
    """Return how many judgements were acknowledged within so many seconds."""
    line = r'^hitl_event_age_seconds_bucket\{le="(\S+)",role="monitor"\} (\S+)$'
    return {float(le): float(n) for le, n in re.findall(line, ask("/metrics") or "", re.MULTILINE)}


def at(counts: dict[float, float], share: float) -> float:
    """Return the bound under which that share of them lies."""
    whole = counts[float("inf")]
    return next(bound for bound, count in sorted(counts.items()) if count >= share * whole)


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """Return what a process holds in memory."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def processor_s(process: subprocess.Popen[bytes]) -> float:
    """Return for how long a process had a processor."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(found: dict[str, float], a: argparse.Namespace) -> str:
    """Return what was measured, as a page."""
    reached = found["lag_s_p99"] <= REACH["lag_s_p99"] and found["restore_s"] <= REACH["restore_s"]
    return "\n".join((
        "# One monitor", "",
        f"{machine()}, Kafka {broker.kafka_version()} on the same cores. `python benchmarks/monitor.py --backlog "
        f"{a.backlog} --rate {a.rate} --seconds {a.seconds} --people {a.people}`, {PARTITIONS} partitions, "
        f"seed {SEED}.",
        "",
        "| figure | measured |", "|---|---|",
        f"| backlog, judgements a second | {found['backlog_per_s']:,.0f} |",
        f"| the same a second of processor time | {found['backlog_per_cpu_s']:,.0f} |",
        f"| at {a.rate:,} a second for {a.seconds} s: behind at the end, judgements | {found['behind']:,.0f} |",
        f"| from append to acknowledgement, half within | {found['lag_s_p50']:g} s |",
        f"| the same, 99 of 100 within | {found['lag_s_p99']:g} s |",
        f"| memory | {found['rss_mb']:,.0f} MiB |",
        f"| restored, from the start of the process ({found['changelog']:,} records) | {found['restore_s']:.1f} s |",
        "", "reached" if reached else f"missed: {REACH}", "",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
