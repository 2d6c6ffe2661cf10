"""Publishing without any code of ours: one line typed into kcat."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiokafka import ConsumerRecord

from support.cli import POLICY, controlled, free_port, hitl, start, until_ready
from support.kafka import POLL_SECONDS, Topics, read, within

pytestmark = pytest.mark.kafka
PARTITIONS = 4
DECIDED_MS_MAX = 1_000
SEEN_SECONDS_MAX = 20.0


@pytest.fixture(scope="module")
def kcat() -> str:
    found = shutil.which("kcat") or shutil.which("kafkacat")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI=true, and yet no kcat in PATH")
        pytest.skip("no kcat in PATH")
    return found


@pytest.fixture
def flags(tmp_path: Path, kafka: str, topics: Topics) -> Iterator[tuple[str, ...]]:
    with controlled(tmp_path, kafka, topics.prefix, PARTITIONS) as trust:
        yield ("--kafka", kafka, "--prefix", topics.prefix, "--partitions", str(PARTITIONS), "--trust", trust)


@pytest.fixture
def router(tmp_path: Path, flags: tuple[str, ...]) -> Iterator[None]:
    port = free_port()
    process = start(tmp_path, "run", "router", "--policy", str(POLICY), "--metrics-port", str(port), *flags)
    try:
        until_ready(process, port)
        yield
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()


def everything(kafka: str, topic: str) -> list[ConsumerRecord]:
    return [record for n in range(PARTITIONS) for record in within(read(kafka, topic, n))]


@pytest.mark.usefixtures("router")
@pytest.mark.behaviour("B1")
def test_a_line_typed_into_kcat_is_decided_within_a_second_and_explained(
    kcat: str,
    kafka: str,
    topics: Topics,
    tmp_path: Path,
    flags: tuple[str, ...],
    record_property: Callable[[str, object], None],
):
    """No key and any partition: the router brings it home. Both times are the broker's, so no clock of ours counts."""
    proposed = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = (
        '{"action_id": "typed-1", "tenant": "acme", "agent": {"id": "mover-1"}, "type": "budget.reallocate",'
        ' "changes": [{"entity": {"account": "acc-17", "campaign": "cmp-204"}, "field": "daily_budget",'
        ' "before": 100, "after": 72, "unit": "EUR"}], "confidence": 0.93, "evidence": [{"signal": "cpa_7d"}],'
        f' "proposed_at": "{proposed}"}}\n'
    )

    command = [kcat, "-P", "-b", kafka, "-t", f"{topics.prefix}actions"]
    subprocess.run(command, input=line.encode(), check=True, timeout=30)

    deadline = time.monotonic() + SEEN_SECONDS_MAX
    while not (
        decided := [*everything(kafka, f"{topics.prefix}review"), *everything(kafka, f"{topics.prefix}escalation")]
    ):
        assert time.monotonic() < deadline, "no decision"
        time.sleep(POLL_SECONDS)
    arrived = min(record.timestamp for record in everything(kafka, f"{topics.prefix}actions"))
    (decision,) = decided
    record_property("decided_ms", decision.timestamp - arrived)
    assert decision.timestamp - arrived <= DECIDED_MS_MAX

    explained = hitl(tmp_path, "explain", "acme/typed-1", "--json", *flags)
    assert explained.returncode == 0, explained.stderr
    (entry,) = [entry for entry in json.loads(explained.stdout)["entries"] if entry["what"] != "actions"]
    reasons = [row for row in entry["says"]["reasons"] if row["rule"] == "class.auto_max_change"]
    assert [(row["saw"], row["limit"], row["queue"]) for row in reasons] == [("0.28", "0.10", "trading")]
