"""The monitor over a real Kafka: whatever dies in between, its tables are what the pure fold makes of the topic."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from hitl_stream.core.control import Control
from hitl_stream.dev.broker import free_ports
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.control_reader import read_control
from hitl_stream.roles.monitor import TABLE
from hitl_stream.roles.monitor_state import Place, decode_chunk, decode_kept, parts_of
from hitl_stream.settings import Settings, load
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.desk_records import HumanDecision, Observation
from hitl_stream.wire.home import partition_of
from hitl_stream.wire.records import First, Held
from hitl_stream.wire.seal import SealKey, read_keys
from hitl_stream.wire.topics import CONTROL_TOPICS, MONITOR_TOPICS, TopicSet
from hitl_stream.wire.watched import Alert, read_alert
from hitl_stream.wiring import make_monitor_keys, make_router_keys
from support import dying_monitor
from support.cli import environ, until_ready
from support.kafka import Topics, consuming, create_topics, producing, read, within
from support.watching import START_MS, Offline, asking, judged, judgement, judgements, observation, written

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PARTITIONS = 3
SECONDS_MAX = 180.0
"""So long only on a machine that is busy with much else; then something is wrong."""
POLL_S = 0.1
# Its own times: nobody is compared with a day before, however late in the day this runs.
OWN_TIME = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}


@dataclass
class Site:
    """An installation with a monitor."""

    state: Path
    settings: Settings
    env: dict[str, str]
    topics: TopicSet
    logs: list[Path] = field(default_factory=list)

    @property
    def client(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.settings.kafka}

    def keys(self, name: str) -> dict[str, SealKey]:
        return read_keys(self.settings.keys_dir, name)

    @contextmanager
    def monitor(self, *arguments: str, slot: int = 0, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """Run one; it is killed where it still runs afterwards."""
        (port,) = free_ports(1)
        self.logs.append(self.state / f"log-{len(self.logs)}")
        more = {"HITL_METRICS_PORT": str(port), "HITL_SLOT": str(slot)}
        with self.logs[-1].open("wb") as log:
            command = [sys.executable, *(arguments or ("-m", "hitl_stream", "run", "monitor"))]
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.state, env=environ(self.state, **self.env, **more, **env)
            )
        try:
            yield process, port
        finally:
            process.kill()
            process.wait()

    def log(self) -> str:
        return self.logs[-1].read_text()[-3_000:]

    def judge(self, found: Sequence[Observation], at_ms: int = START_MS) -> None:
        """Let the desk write down what people did."""
        within(self._judge(found, at_ms))

    async def _judge(self, found: Sequence[Observation], at_ms: int) -> None:
        topic, (key,) = self.topics.name("observations"), self.keys("seal-desk").values()
        async with producing(self.settings.kafka, acks="all", linger_ms=5) as producer:
            sent = []
            for one in found:
                name, value, headers = written(topic, key, one)
                sent.append(
                    await producer.send(
                        topic, value, name, partition_of(name, PARTITIONS), at_ms, headers=headers
                    )
                )  # fmt: skip
            await asyncio.gather(*sent)

    def decide(self, found: Sequence[HumanDecision]) -> None:
        """Let the desk write down what people said of items."""
        within(self._decide(found))

    async def _decide(self, found: Sequence[HumanDecision]) -> None:
        topic, (key,) = self.topics.name("decisions"), self.keys("seal-desk").values()
        async with producing(self.settings.kafka, acks="all") as producer:
            for one in found:
                name, value, headers = judged(topic, key, one)
                await producer.send_and_wait(topic, value, name, 1, headers=headers)

    def asked(self) -> list[Held]:
        """Return what the monitor has asked people for."""
        topic, found = self.topics.name("review.seeded"), []
        for n in range(PARTITIONS):
            for record in within(read(self.settings.kafka, topic, n)):
                one = read_decided(topic, record.value, record.headers, self.keys("seal-monitor"))
                assert isinstance(one, Decided), one
                found.append(one.decision)
        return found

    def where(self, place: Place) -> str:
        return f"{self.topics.name('observations')}/{place.partition}/{place.offset}"

    def commands(self) -> list[str]:
        """Return the ids of all `reviewer` commands on control, repeated ones, too."""
        records = within(read(self.settings.kafka, self.topics.name("control"), 0))
        claims = [json.loads(base64.urlsafe_b64decode(record.value.split(b".")[1] + b"==")) for record in records]
        return [one["jti"] for one in claims if one["typ"] == "reviewer"]

    def ends(self, name: str) -> int:
        """Return how many records a topic has."""

        async def ends() -> int:
            async with consuming(self.settings.kafka) as consumer:
                parts = [TopicPartition(self.topics.name(name), n) for n in range(PARTITIONS)]
                return sum((await consumer.end_offsets(parts)).values())

        return within(ends())

    def offline(self) -> Offline:
        """Compute from the topic what the monitor must have made of it."""
        topic, found = self.topics.name("observations"), Offline(*self.keys("pseudonym").values())
        for n in range(PARTITIONS):
            found.read(topic, self.keys("seal-desk"), within(read(self.settings.kafka, topic, n)))
        return found

    def tables(self) -> Offline:
        """Return what stands in the changelog."""
        found = Offline(*self.keys("pseudonym").values())
        for n in range(PARTITIONS):
            for record in within(read(self.settings.kafka, self.topics.name(TABLE), n)):
                if parts_of(record.key)[2] is None:
                    found.people[record.key] = decode_kept(record.value)
                else:
                    found.chunks[record.key] = decode_chunk(record.value)
        return found

    def alerts(self) -> list[Alert]:
        """Return what was said on `alerts`, each once."""
        topic, found = self.topics.name("alerts"), {}
        for n in range(PARTITIONS):
            for record in within(read(self.settings.kafka, topic, n)):
                alert = read_alert(topic, record.value, record.headers, self.keys("seal-monitor"))
                assert isinstance(alert, Alert)
                found[alert.id] = alert
        return list(found.values())

    def control(self) -> Control:
        async def control() -> Control:
            audience = await cluster_id(self.client)
            return (await read_control(self.client, self.topics, self.settings.trust, audience)).control

        return within(control())


@pytest.fixture
def site(kafka: str, topics: Topics, tmp_path: Path) -> Site:
    settings = load(kafka=kafka, prefix=topics.prefix, partitions=PARTITIONS, state_dir=tmp_path / "state")
    ours = TopicSet(topics.prefix, PARTITIONS)
    within(create_topics(kafka, {ours.name("observations"): (PARTITIONS, OWN_TIME)}))
    others = [name for name in (*MONITOR_TOPICS, *CONTROL_TOPICS) if name != "observations"]
    within(apply({"bootstrap_servers": kafka}, ours, others))
    make_router_keys(settings)
    make_monitor_keys(settings)
    settings = settings.model_copy(update={"trust": within(make_control_keys(settings))})
    env = {
        "HITL_KAFKA": kafka, "HITL_PREFIX": topics.prefix, "HITL_PARTITIONS": str(PARTITIONS),
        "HITL_TRUST": settings.trust, "HITL_STATE_DIR": str(tmp_path / "state"),
    }  # fmt: skip
    return Site(tmp_path, settings, env, ours)


def until(
    site: Site, process: subprocess.Popen[bytes], holds: Any, what: str, seconds_max: float = SECONDS_MAX
) -> None:
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert process.poll() is None, f"ended with {process.returncode}\n{site.log()}"
        assert time.monotonic() < deadline, f"{what}: not within {seconds_max:g} s\n{site.log()}"
        time.sleep(POLL_S)


def watched_over(site: Site, process: subprocess.Popen[bytes], holds: Any) -> None:
    """Wait until that holds, as whoever runs a worker does: one that ends because it cannot go on is started again."""
    deadline = time.monotonic() + SECONDS_MAX
    with ExitStack() as stack:
        while not holds():
            if process.poll() is not None:
                assert "stood still" in site.log(), site.log()
                process, _ = stack.enter_context(site.monitor(slot=1))
            assert time.monotonic() < deadline, f"what the first one left: not within {SECONDS_MAX:g} s\n{site.log()}"
            time.sleep(POLL_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_MAX) == 0, site.log()


def caught_up(site: Site, wanted: Offline) -> bool:
    found = site.tables().people
    return {key: kept.offset for key, kept in found.items()} == {
        key: kept.offset for key, kept in wanted.people.items()
    }


@pytest.mark.timeout(1_200)
def test_a_monitor_that_is_killed_has_the_tables_that_the_topic_says(site: Site, full: bool):
    kills, each = (20, 2_500) if full else (2, 1_500)
    rng = random.Random(7)
    people = with_quizzes(list(judgements(kills * each, seed=7)), kills * each)
    for n in range(kills):
        site.judge(people[n * each : (n + 1) * each])
        if n % 2:
            # Nothing of its table leaves any more, while its commits go on; then it dies.
            with site.monitor(dying_monitor.__file__, HITL_DIE_AT=str(rng.randrange(2, each))) as (process, _):
                assert process.wait(SECONDS_MAX) == -signal.SIGKILL, site.log()
        else:
            there = site.ends(TABLE)
            with site.monitor(dying_monitor.__file__, HITL_SEEK_AFTER_S="0.3") as (process, _):
                until(site, process, lambda there=there: site.ends(TABLE) > there + each // 4, "the first writes")
                process.send_signal(signal.SIGKILL)
    with site.monitor() as (process, port):
        until_ready(process, port)  # type: ignore[arg-type]
        wanted = site.offline()
        seconds_max = 600.0 if full else SECONDS_MAX
        until(site, process, lambda: caught_up(site, wanted), "the last judgement in the table", seconds_max)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_MAX) == 0, site.log()

    found = site.tables()
    assert found.people == wanted.people
    assert found.chunks == wanted.chunks
    told = {site.where(place) for place, *_ in wanted.told}
    assert {alert.id for alert in site.alerts() if alert.person is not None} == told | {
        f"{site.where(place)}/{queue}" for place, _, queue in wanted.ended
    }
    said = [
        (place, person, said.level, again) for place, person, _, said, again in wanted.told if said.level is not None
    ]
    said = sorted(said + list({(place, person, 0, ()) for place, person, _ in wanted.ended}))
    newest = {person: (level, again) for _, person, level, again in said}
    assert len({level for level, _ in newest.values()}) > 2, "some are watched, and some no longer"
    commands = {name: one.command for name, one in site.control().reviewers.items()}
    assert {name: (one.level, one.recheck) for name, one in commands.items()} == newest
    # What was said twice is the same command: the second one is refused as a repeat, and no later one is undone.
    assert set(site.commands()) == {command_id(person, level, site.where(place)) for place, person, level, _ in said}


def test_two_workers_share_the_partitions_and_one_that_dies_leaves_them_to_the_other(site: Site):
    people = list(judgements(1_800, seed=8))
    site.judge(people[:600])
    within(aborted(site, people[:50]))
    with site.monitor() as (first, _):
        until(site, first, lambda: site.ends(TABLE) > 100, "the first writes")
        with site.monitor(slot=1) as (second, port):
            until_ready(second, port)  # type: ignore[arg-type]
            site.judge(people[600:1_200])
            until(site, first, lambda: caught_up(site, site.offline()), "the last judgement in the tables")
            assert shared(port) > 0, "the second one has partitions, too"
            site.judge(people[1_200:])
            first.send_signal(signal.SIGKILL)
            wanted = site.offline()
            watched_over(site, second, lambda: caught_up(site, wanted))

    found = site.tables()
    assert sum(len(kept.watch.verdicts) for kept in wanted.people.values()) > 1_200
    assert found.people == wanted.people
    assert found.chunks == wanted.chunks


@pytest.mark.behaviour("A9")
def test_a_canary_is_planted_of_what_people_decided_and_the_next_one_once_it_is_decided(site: Site):
    now_ms = time.time_ns() // 1_000_000
    sources = [judgement(asking(n, at_ms=now_ms - 60_000)) for n in range(20)]
    site.decide(sources)
    policy = str(files("hitl_stream.dev.policies").joinpath("acme.yaml"))
    with site.monitor(HITL_POLICY=policy, HITL_CANARY_AGE_S="0") as (process, port):
        until_ready(process, port)  # type: ignore[arg-type]
        site.judge([observation(n=n) for n in range(200)], now_ms)
        until(site, process, lambda: caught_up(site, site.offline()), "the last judgement in the table")
        (first,) = site.asked()
        site.decide([judgement(first, "ana", "reject", item="item-of-a-canary")])

        def judged_on() -> bool:
            site.judge([observation(n=n) for n in range(50)], time.time_ns() // 1_000_000)
            return len(site.asked()) > 1

        until(site, process, judged_on, "the next canary")
        # Whoever approved all of that no longer looks: others are asked for it again.
        site.judge([observation("ben", item=one.item) for one in sources], now_ms)
        site.judge([observation("ben", n=n, purpose="canary") for n in range(900, 907)], now_ms)
        until(site, process, lambda: len(seconds(site)) >= len(sources), "what others must judge again")
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS_MAX) == 0, site.log()

    canaries = [one for one in site.asked() if one.purpose == "canary"]
    assert {one.for_ for one in canaries} == {"ana"}
    assert all(one.action_id.startswith("~") for one in canaries)
    assert len({one.action_id for one in canaries}) == len(canaries) > 1, "each of another source"
    assert {one.action_id: bytes(one.action) for one in seconds(site)} == {
        one.action_id: bytes(one.action) for one in sources
    }
    assert {one.first for one in seconds(site)} == {First("ben", "approve")}
    assert not {"ana", "ben"} & set(re.findall("[a-z]+", site.log())), "no log names a person"


async def aborted(site: Site, found: Sequence[Observation]) -> None:
    """Let the desk write something down and take it back."""
    topic, (key,) = site.topics.name("observations"), site.keys("seal-desk").values()
    async with producing(site.settings.kafka, transactional_id=site.topics.prefix + "desk") as producer:
        await producer.begin_transaction()
        for one in found:
            name, value, headers = written(topic, key, one)
            await producer.send(topic, value, name, partition_of(name, PARTITIONS), START_MS, headers=headers)
        await producer.abort_transaction()


def with_quizzes(found: list[Observation], count: int) -> list[Observation]:
    """Let three people pass a quiz in between, one of them twice; so many remain."""
    for n, person in ((700, 2), (1_300, 6), (1_900, 2), (2_300, 10)):
        quiz = observation(f"person-{person}", "passed", purpose="quiz", queue="", item="", agent=None)
        found.insert(n, quiz)
    return found[:count]


def seconds(site: Site) -> list[Held]:
    return [one for one in site.asked() if one.purpose == "second"]


def command_id(person: str, level: int, where: str) -> str:
    """Return the id of the command that says a level by the judgement at a place."""
    return hashlib.blake2b(f"{person}\0{level}\0{where}".encode(), digest_size=16).hexdigest()


def shared(port: int) -> float:
    """Return how many judgements a worker has looked at."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("hitl_observations_total"))
