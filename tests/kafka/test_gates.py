"""Gates over a real Kafka: tables are what the pure folds make of the topics, and a gate comes back by signed word."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.commands import Confirm, GateChange
from hitl_stream.core.control import Control
from hitl_stream.core.policy.rules import terms_of
from hitl_stream.dev.broker import free_ports
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.commander import append
from hitl_stream.lane.control_reader import read_control
from hitl_stream.lane.exports import KafkaLog
from hitl_stream.roles.gate_keeping import NOBODY, gate_of
from hitl_stream.roles.gate_table import read_table
from hitl_stream.roles.monitor_gates import EVIDENCE
from hitl_stream.roles.monitor_state import Place
from hitl_stream.settings import Settings, load
from hitl_stream.wire.desk_records import Observation
from hitl_stream.wire.home import partition_of
from hitl_stream.wire.seal import read_keys
from hitl_stream.wire.signing import read_signing_keys
from hitl_stream.wire.topics import CONTROL_TOPICS, MONITOR_TOPICS, TopicSet
from hitl_stream.wire.watched import Alert, Observed, pseudonym, read_alert, read_observation
from hitl_stream.wiring import make_monitor_keys, make_router_keys
from support.cli import environ
from support.gates import GATE, SDR, OfflineGates, at_gate, expired, looking
from support.kafka import Topics, producing, read, within
from support.make import acme
from support.watching import written

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PARTITIONS = 2
SECONDS_MAX = 60.0
POLL_S = 0.1


@dataclass
class Site:
    """An installation with a monitor, whose routers run with the example policy."""

    state: Path
    settings: Settings
    env: dict[str, str]
    topics: TopicSet
    runs: int = 0

    @property
    def client(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.settings.kafka}

    @contextmanager
    def monitor(self) -> Iterator[subprocess.Popen[bytes]]:
        (port,) = free_ports(1)
        self.runs += 1
        with (self.state / f"log-{self.runs}").open("wb") as log:
            env = environ(self.state, **self.env, HITL_METRICS_PORT=str(port))
            command = [sys.executable, "-m", "hitl_stream", "run", "monitor"]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.state, env=env)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def until(self, process: subprocess.Popen[bytes], holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not holds():
            log = (self.state / f"log-{self.runs}").read_text()[-3_000:]
            assert process.poll() is None, f"ended with {process.returncode}\n{log}"
            assert time.monotonic() < deadline, f"{what}: not within {SECONDS_MAX:g} s\n{log}"
            time.sleep(POLL_S)

    def write(self, name: str, seen: Sequence[Observation], key: bytes | None = None) -> None:
        """Let the desk write to a topic; `key` is the gate on `evidence`."""

        async def write() -> None:
            topic, (seal,) = self.topics.name(name), read_keys(self.settings.keys_dir, "seal-desk").values()
            async with producing(self.settings.kafka, acks="all", linger_ms=5) as producer:
                sent = []
                for one in seen:
                    by, value, headers = written(topic, seal, one)
                    by = key or by
                    where = partition_of(by, PARTITIONS)
                    sent.append(await producer.send(topic, value, by, where, headers=headers))
                await asyncio.gather(*sent)

        within(write())

    def expire(self, count: int) -> None:
        """Let the desk close so many outputs that nobody judged in time."""

        async def write() -> None:
            topic, (seal,) = self.topics.name("closed"), read_keys(self.settings.keys_dir, "seal-desk").values()
            value, headers = expired(topic, seal, acme().digest)
            async with producing(self.settings.kafka, acks="all") as producer:
                for n in range(count):
                    await producer.send_and_wait(topic, value, b"k", n % PARTITIONS, headers=headers)

        within(write())

    def sign(self, holder: str, make: Any) -> int:
        key = read_signing_keys(self.settings.keys_dir)[f"{holder}-1"]
        return within(append(self.client, self.topics, key, make)).epoch

    def control(self) -> Control:
        async def control() -> Control:
            audience = await cluster_id(self.client)
            return (await read_control(self.client, self.topics, self.settings.trust, audience)).control

        return within(control())

    def offline(self) -> OfflineGates:
        """Compute from `observations` what the monitor must have made of it."""
        topic, keys = self.topics.name("observations"), read_keys(self.settings.keys_dir, "seal-desk")
        (names,) = read_keys(self.settings.keys_dir, "pseudonym").values()
        found = OfflineGates(acme().policy, acme().digest, partial(pseudonym, names))
        for n in range(PARTITIONS):
            for record in within(read(self.settings.kafka, topic, n)):
                one = read_observation(topic, record.value, record.headers, keys)
                assert isinstance(one, Observed)
                found.take(one.observation, Place(n, record.offset, record.timestamp))
            for record in within(read(self.settings.kafka, self.topics.name("closed"), n)):
                found.expire(Place(n, record.offset, record.timestamp))
        return found

    def table(self) -> dict[bytes, bytes]:
        """Return what stands in the changelog."""
        topic = self.topics.name(EVIDENCE)
        records = [record for n in range(PARTITIONS) for record in within(read(self.settings.kafka, topic, n))]
        return {record.key: record.value for record in records}

    def alerts(self) -> list[Alert]:
        topic, keys = self.topics.name("alerts"), read_keys(self.settings.keys_dir, "seal-monitor")
        records = [record for n in range(PARTITIONS) for record in within(read(self.settings.kafka, topic, n))]
        found = [read_alert(topic, record.value, record.headers, keys) for record in records]
        return [one for one in found if isinstance(one, Alert)]


@pytest.fixture
def site(kafka: str, topics: Topics, tmp_path: Path) -> Site:
    settings = load(kafka=kafka, prefix=topics.prefix, partitions=PARTITIONS, state_dir=tmp_path / "state")
    ours = TopicSet(topics.prefix, PARTITIONS)
    within(apply({"bootstrap_servers": kafka}, ours, [*MONITOR_TOPICS, *CONTROL_TOPICS]))
    make_router_keys(settings)
    make_monitor_keys(settings)
    settings = settings.model_copy(update={"trust": within(make_control_keys(settings))})
    (tmp_path / "acme.yaml").write_text(acme().text)
    env = {
        "HITL_KAFKA": kafka, "HITL_PREFIX": topics.prefix, "HITL_PARTITIONS": str(PARTITIONS),
        "HITL_TRUST": settings.trust, "HITL_STATE_DIR": str(tmp_path / "state"),
        "HITL_POLICY": str(tmp_path / "acme.yaml"),
    }  # fmt: skip
    return Site(tmp_path, settings, env, ours)


def judgements(reviewer: str, count: int) -> list[Observation]:
    digest = {"policy": acme().digest}
    away = [at_gate(reviewer, "skip", n=n, **digest) for n in range(0, count, 10)]
    return [*looking(reviewer, each=20), *(at_gate(reviewer, n=n, **digest) for n in range(count)), *away]


@pytest.mark.behaviour("D5")
def test_evidence_survives_a_kill_and_growing_errors_put_the_gate_back_by_the_monitors_signed_word(site: Site):
    definition = terms_of(acme().policy, GATE).definition
    asked = site.sign("ana", partial(
        GateChange, gate=GATE, definition=definition, state="removed", agent=SDR, p={"tone": 0.05}, reason="clean",
    ))  # fmt: skip
    site.sign("ben", partial(Confirm, of=asked))
    assert site.control().gates[GATE, SDR].command.state == "removed"

    site.write("observations", judgements("ana", 200) + judgements("ben", 150))
    site.expire(7)
    with site.monitor() as process:
        site.until(process, lambda: bool(site.table()), "the first writes")
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS_MAX)
    # Thirty in a hundred are wrong, six times as many as were signed.
    audits = [
        at_gate("cleo", "reject" if n % 10 < 3 else "approve", n=n, purpose="audit", policy=acme().digest,
                errors=("tone",) if n % 10 < 3 else ())
        for n in range(60)
    ]  # fmt: skip
    site.write("evidence", audits, GATE.encode())
    site.write("observations", judgements("ana", 20))
    wanted = site.offline().kept
    with site.monitor() as process:
        back = lambda: site.control().gates[GATE, SDR].command.state == "enforce"  # noqa: E731
        site.until(process, back, "the gate is back")
        site.until(process, lambda: site.table() == wanted, "the table is what the topic says")

    command = site.control().gates[GATE, SDR].command
    assert (command.iss, command.definition) == ("monitor", definition)
    (alert,) = [one for one in site.alerts() if one.gate is not None]
    assert (alert.gate, alert.person) == (GATE, None)
    table = within(read_table(KafkaLog(site.client, site.topics)))
    (((gate, agent, _), watched),) = table.relapse.items()
    assert (gate, agent, watched.returned) == (GATE, SDR, True)
    people = {about.person for key in wanted if (about := gate_of(key))}
    assert {one for one in people if one.startswith(NOBODY)} == {f"{NOBODY}0", f"{NOBODY}1"}
    assert len(people) == 4
    assert not people & {"ana", "ben"}
