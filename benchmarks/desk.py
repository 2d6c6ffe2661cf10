"""`make bench-desk`: one desk with 100,000 open items: how long it takes to open, how many verdicts a second it judges.

The items are real decisions of a real router, each of which asks a person. Nothing but a desk, control and Kafka runs:
1. the desk opens all items;
2. it is killed and started again: from the start of the process to every partition open;
3. verdicts, signed beforehand, are appended all at once: from the first append to the last one judged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from figures import machine
from run import PARTITIONS, _controlled, _installation

from hitl_stream import wiring
from hitl_stream.core.verdicts import Verdict
from hitl_stream.core.window import IdBudget
from hitl_stream.dev import broker
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.step import Moment
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Router, RouterSettings
from hitl_stream.settings import Settings
from hitl_stream.wire.desk_records import decode_review
from hitl_stream.wire.home import home
from hitl_stream.wire.signing import read_signing_keys
from hitl_stream.wire.topics import DESK_TOPICS
from hitl_stream.wire.verdicts import claims_by, verdict_value, view_of

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "desk.md"
ROLE = "trader"
PORT = 19_464
WAIT_S_MAX = 600.0
REACH = {"restore_s": 10.0, "verdicts_per_s": 1_000.0}


class Row:
    """A record as the router's step takes it."""

    def __init__(self, value: bytes, offset: int, partition: int, at_ms: int, topic: str) -> None:
        self.value, self.offset, self.partition, self.timestamp, self.topic = value, offset, partition, at_ms, topic
        self.key, self.headers = None, ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--verdicts", type=int, default=20_000)
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    choice = broker.find("jar")
    if isinstance(choice, broker.Absent):
        sys.exit(f"a benchmark needs a real Kafka: {choice.reason}")
    with choice.broker(jvm="full") as running, tempfile.TemporaryDirectory() as directory:
        settings = _installation(running.bootstrap, Path(directory), "desk.")
        with _controlled(settings):
            found = asyncio.run(measured(settings, a.items, a.verdicts))
    text = table(found, a)
    print(text)
    if a.write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(text)


async def measured(settings: Settings, items: int, verdicts: int) -> dict[str, float]:
    """Measure it all, in order."""
    client, topics = wiring.kafka_client(settings), wiring.topic_set(settings)
    await apply(client, topics, DESK_TOPICS)
    await append(client, asked(settings, items))
    desk = start(settings)
    began = time.perf_counter()
    try:
        states = await read(client, topics.name("reviews"), items)
        opened_s = time.perf_counter() - began
        desk.kill()
        desk.wait()
        await asyncio.sleep(11)  # until the group has forgotten it; a restart within its session costs less
        began = time.perf_counter()
        desk = start(settings)
        await ready(desk)
        restore_s = time.perf_counter() - began
        rss_mb = resident_mb(desk)
        values = await signed(settings, client, states[:verdicts])
        began = time.perf_counter()
        await append(client, values)
        await read(client, topics.name("decisions"), len(values))
        judged_s = time.perf_counter() - began
        executed = len(await read(client, topics.name("execute"), len(values)))
    finally:
        desk.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            desk.wait(20)
        desk.kill()
    return {
        "opened_per_s": items / opened_s,
        "restore_s": restore_s,
        "rss_mb": rss_mb,
        "verdicts_per_s": len(values) / judged_s,
        "executed": executed,
    }


def asked(settings: Settings, count: int) -> list[tuple[str, int, bytes, list[tuple[str, bytes]]]]:
    """Return decisions of a real router that ask a person, as (topic, partition, value, headers)."""
    keys, loaded = wiring.read_router_keys(settings), wiring.load_policy(settings)
    topics = wiring.topic_set(settings)
    router = Router(
        RouterSettings(topics=topics, seal_keys=keys.seal, sample_key=keys.sample),
        Policies(loaded.policy, loaded.digest),
    )
    states = [router.state(IdBudget(10**9)) for _ in range(PARTITIONS)]
    now_ms = int(time.time() * 1000)
    stamp = datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds")
    expires = datetime.fromtimestamp(now_ms / 1000 + 86_400, UTC).isoformat(timespec="milliseconds")
    found = []
    batches: list[list[Row]] = [[] for _ in range(PARTITIONS)]
    for number in range(count):
        account = f"acc-{number % 997}"
        value = json.dumps({
            "action_id": f"act-{number:08}", "tenant": "acme", "agent": {"id": "bidder-1", "version": "1"},
            "type": "bid.adjust", "proposed_at": stamp, "expires_at": expires, "confidence": 0.1,
            "changes": [{"entity": {"account": account, "campaign": f"cmp-{number}"}, "field": "bid",
                         "before": "1.20", "after": "1.25", "unit": "EUR"}],
            "evidence": [{"signal": "cpa_7d", "value": 12.31, "before": 13.02, "better": "down", "ref": "perf"}],
            "rationale": "CPA under target for seven days.",
        }, separators=(",", ":")).encode()  # fmt: skip
        partition = home("acme", account, PARTITIONS)
        batches[partition].append(Row(value, number, partition, now_ms, topics.name("actions")))
    for number, batch in enumerate(batches):
        for first in range(0, len(batch), 2_000):
            result = router(batch[first : first + 2_000], states[number], Moment(now_ms, 0))
            states[number].apply(result.changes)
            found += [(one.topic, one.partition, one.value, list(one.headers)) for one in result.outputs]
    elsewhere = {topic for topic, *_ in found} - {topics.name("review"), topics.name("escalation")}
    assert not elsewhere, f"the policy of the benchmark sends some of them to {elsewhere}"
    return found


async def append(client: dict[str, Any], records: Any) -> None:
    """Append (topic, partition, value, headers)."""
    producer = AIOKafkaProducer(**client, acks="all", linger_ms=5, max_batch_size=512 * 1024)
    await producer.start()
    sent = []
    for topic, partition, value, headers in records:
        sent.append(await producer.send(topic, value, partition=partition, headers=headers))
    await asyncio.gather(*sent)
    await producer.stop()


def start(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a desk process."""
    flags = ["--kafka", settings.kafka, "--prefix", settings.prefix, "--partitions", str(settings.partitions),
             "--state-dir", str(settings.state_dir), "--trust", settings.trust, "--policy", str(settings.policy),
             "--metrics-port", str(PORT), "--log-level", "error"]  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "hitl_stream", "run", "desk", *flags])


async def ready(desk: subprocess.Popen[bytes]) -> None:
    """Wait until every partition is open."""
    until = time.perf_counter() + WAIT_S_MAX
    while time.perf_counter() < until:
        if desk.poll() is not None:
            sys.exit("the desk ended")
        with suppress(OSError):
            if await asyncio.to_thread(_status) == 200:
                return
        await asyncio.sleep(0.05)
    sys.exit("the desk was not ready in time")


def _status() -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=2) as answer:
        return int(answer.status)


def resident_mb(desk: subprocess.Popen[bytes]) -> float:
    """Return what the desk holds in memory."""
    for line in Path(f"/proc/{desk.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


async def read(client: dict[str, Any], topic: str, count: int) -> list[Any]:
    """Read a topic until it holds so many records."""
    consumer = AIOKafkaConsumer(**client, group_id=None, auto_offset_reset="earliest", isolation_level="read_committed")
    await consumer.start()
    found: list[Any] = []
    try:
        consumer.assign([TopicPartition(topic, n) for n in range(PARTITIONS)])
        await consumer.seek_to_beginning()
        until = time.perf_counter() + WAIT_S_MAX
        while len(found) < count and time.perf_counter() < until:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += records
    finally:
        await consumer.stop()
    assert len(found) >= count, f"{len(found)} of {count} records on {topic}"
    return found


async def signed(settings: Settings, client: dict[str, Any], states: list[Any]) -> list[Any]:
    """Return an approval of each of these items."""
    key, audience = read_signing_keys(settings.keys_dir)["console-1"], await cluster_id(client)
    now = datetime.now(UTC)
    shown = json.dumps({"card": "x" * 1_500})
    topic, values = wiring.topic_set(settings).name("verdicts"), []
    for number, record in enumerate(states):
        state = decode_review(record.value)
        verdict = Verdict(
            **claims_by(key, audience, f"bench-{number}", int(now.timestamp())),
            item=state.item, hash=state.hash, verdict="approve", by=f"tess-{number % 50}", role=ROLE, painted=now,
            decided=now, view=view_of(shown), policy="0" * 64, epoch=-1,
        )  # fmt: skip
        values.append((topic, record.partition, verdict_value(key, verdict, shown), []))
    return values


def table(found: dict[str, float], a: argparse.Namespace) -> str:
    """Return what was measured."""
    return "\n".join([
        "# One desk", "",
        f"{machine()}, Kafka {broker.kafka_version()} on the same cores. "
        f"`python benchmarks/desk.py --items {a.items} --verdicts {a.verdicts}`, {PARTITIONS} partitions, one process.",
        "",
        "| figure | measured | reach |", "|---|---|---|",
        f"| items opened a second | {found['opened_per_s']:,.0f} | |",
        f"| start to open with {a.items:,} open items, s | {found['restore_s']:.1f} | {REACH['restore_s']:.0f} |",
        f"| memory with them, MB | {found['rss_mb']:,.0f} | |",
        f"| signed verdicts judged a second | {found['verdicts_per_s']:,.0f} | {REACH['verdicts_per_s']:,.0f} |",
        f"| of these approvals executed | {found['executed']:,.0f} of {a.verdicts:,} | all |", "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
