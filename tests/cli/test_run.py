"""`hitl run`: what is missing is said before anything starts, and a signal ends it in time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from hitl_stream.cli.run import KAFKA_SECONDS_MAX, ROLES
from hitl_stream.lane import admin
from hitl_stream.wire.topics import CONTROL_TOPICS, ROUTER_TOPICS, TopicSet
from support.cli import (
    POLICY,
    POLL_SECONDS,
    READY_SECONDS_MAX,
    controlled,
    environ,
    free_port,
    hitl,
    start,
    until_ready,
)
from support.kafka import running, within

STOP_SECONDS_MAX = 5.0
TRUSTING = ("--trust", "0" * 64)
"""For what ends before anything has to be believed."""


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with running("noida") as broker:
        yield broker.bootstrap


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The state directory with keys in it."""
    assert hitl(tmp_path, "keys", "seal").returncode == 0
    return tmp_path


def make_topics(kafka: str, prefix: str, partitions: int) -> None:
    names = (*ROUTER_TOPICS, *CONTROL_TOPICS)
    within(admin.apply({"bootstrap_servers": kafka}, TopicSet(prefix, partitions), names))


@pytest.mark.parametrize(
    ("roles", "said"), [(("chef",), "no role 'chef'"), ((), "no role given"), (("router", "x"), "'x'")]
)
def test_a_role_that_there_is_not_is_refused_with_the_list(tmp_path: Path, roles: tuple[str, ...], said: str):
    done = hitl(tmp_path, "run", *roles)

    assert done.returncode == 2
    assert said in done.stderr
    assert f"the roles are: {', '.join(ROLES)}" in done.stderr


def test_without_trust_it_says_how_to_begin(keys: Path):
    for role in ("router", "control"):
        done = hitl(keys, "run", role, "--policy", str(POLICY))

        assert done.returncode == 2
        assert "run: hitl keys init" in done.stderr


def test_without_a_service_key_control_says_how_to_make_one(keys: Path):
    done = hitl(keys, "run", "control", *TRUSTING)

    assert done.returncode == 2
    assert "holds no service key" in done.stderr
    assert "hitl keys init" in done.stderr


def test_without_a_seal_key_control_says_how_to_make_one(tmp_path: Path):
    done = hitl(tmp_path, "run", "control", *TRUSTING)

    assert done.returncode == 2
    assert "hitl keys seal" in done.stderr


def test_without_a_policy_it_says_how_to_give_one(keys: Path):
    done = hitl(keys, "run", "router")

    assert done.returncode == 2
    assert "--policy FILE" in done.stderr


def test_without_keys_it_says_how_to_make_them(tmp_path: Path):
    done = hitl(tmp_path, "run", "router", "--policy", str(POLICY))

    assert done.returncode == 2
    assert "hitl keys seal" in done.stderr


@pytest.mark.slow
def test_a_kafka_that_does_not_answer_ends_it_soon_with_what_to_try(keys: Path):
    nobody = f"127.0.0.1:{free_port()}"
    flags = ("--kafka", nobody, "--log-format", "json", *TRUSTING)
    done = hitl(keys, "run", "router", "--policy", str(POLICY), *flags)
    ended = datetime.now(UTC)

    assert done.returncode == 4
    assert f"Kafka was not reached at {nobody}" in done.stderr
    assert "HITL_KAFKA" in done.stderr
    (waiting,) = [row for row in map(json.loads, done.stdout.splitlines()) if row["event"] == "waiting for kafka"]
    assert waiting["kafka"] == nobody, "it says early what it waits for"
    waited_s = (ended - datetime.fromisoformat(waiting["at"])).total_seconds()
    assert KAFKA_SECONDS_MAX - 1 < waited_s < KAFKA_SECONDS_MAX + 6


def test_a_signal_ends_the_waiting_too(keys: Path):
    nobody = f"127.0.0.1:{free_port()}"
    process = start(keys, "run", "router", "--policy", str(POLICY), "--kafka", nobody, *TRUSTING)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["event"] == "waiting for kafka"

    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=STOP_SECONDS_MAX)

    assert process.returncode == 0
    assert json.loads(out)["event"] == "stopped before it started"


CRASHING = """
import sys
from mode import Service
from hitl_stream.cli import run
from hitl_stream.cli.main import run as hitl

class Broken(Service):
    @Service.task
    async def fail(self):
        raise RuntimeError("a step that fails")

async def passed(*_):
    pass

run.ROLES, run._preflight = {"router": lambda settings, judge, metrics: [Broken()]}, passed
sys.exit(hitl(["run", "router"]))
"""


def test_a_crash_ends_it_with_one_line_and_the_traceback_in_the_log(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", CRASHING],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ(tmp_path),
        timeout=60,
    )

    assert done.returncode == 6
    assert done.stderr == "RuntimeError: a step that fails\n"
    (crash,) = [row for row in map(json.loads, done.stdout.splitlines()) if row["level"] == "critical"]
    assert "in fail" in crash["exception"]


def test_without_topics_it_names_the_command_that_makes_them(keys: Path, kafka: str):
    flags = ("--kafka", kafka, "--prefix", "absent.", "--partitions", "2", *TRUSTING)
    done = hitl(keys, "run", "router", "--policy", str(POLICY), *flags)

    assert done.returncode == 2
    assert "topic absent.actions is not there, expected 2 partitions" in done.stderr
    assert f"hitl topics apply --kafka {kafka} --prefix absent. --partitions 2" in done.stderr


def test_the_named_command_makes_what_was_missing(keys: Path, kafka: str):
    flags = ("--kafka", kafka, "--prefix", "made.", "--partitions", "2")
    assert hitl(keys, "topics", "apply", *flags).returncode == 0

    with controlled(keys, kafka, "made.", 2) as trust:
        run = (*flags, "--trust", trust, "--policy", str(POLICY), "--metrics-port", port := str(free_port()))
        process = start(keys, "run", "router", *run)
        until_ready(process, int(port))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_another_number_of_partitions_is_refused(keys: Path, kafka: str):
    make_topics(kafka, "three.", 3)
    flags = ("--kafka", kafka, "--prefix", "three.", "--partitions", "4", *TRUSTING)
    done = hitl(keys, "run", "router", "--policy", str(POLICY), *flags)

    assert done.returncode == 2
    assert "topic three.actions has 3 partitions, expected 4" in done.stderr
    assert "--partitions 3" in done.stderr


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_time_and_in_order(keys: Path, kafka: str, told: signal.Signals):
    prefix, port = f"ends-{told.name.lower()}.", free_port()
    flags = ("--kafka", kafka, "--prefix", prefix, "--partitions", "2", "--metrics-port", str(port))
    with controlled(keys, kafka, prefix, 2) as trust:
        process = start(keys, "run", "router", "--policy", str(POLICY), "--trust", trust, *flags)
        until_ready(process, port)

        started = time.monotonic()
        process.send_signal(told)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 0, (out, err)
    assert time.monotonic() - started < STOP_SECONDS_MAX
    assert json.loads(out.splitlines()[-1])["event"] == "stopped"


def test_a_router_without_control_is_not_ready_and_says_what_is_missing(keys: Path, kafka: str):
    prefix, port = "alone.", free_port()
    with controlled(keys, kafka, prefix, 2) as trust:
        pass  # it has run, and is gone
    flags = ("--kafka", kafka, "--prefix", prefix, "--partitions", "2", "--metrics-port", str(port), "--trust", trust)
    process = start(keys, "run", "router", "--policy", str(POLICY), *flags)
    try:
        missing = until_only_missing(process, port, "control")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)

    assert "hitl run control" in missing


def test_router_and_control_can_share_a_process(keys: Path, kafka: str):
    prefix, port = "both.", free_port()
    with controlled(keys, kafka, prefix, 2) as trust:
        pass
    flags = ("--kafka", kafka, "--prefix", prefix, "--partitions", "2", "--metrics-port", str(port), "--trust", trust)
    process = start(keys, "run", "control", "router", "--policy", str(POLICY), *flags)
    until_ready(process, port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        metrics = answer.read().decode()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)

    assert process.returncode == 0, (out, err)
    assert "hitl_control_heartbeats_total" in metrics
    assert 'hitl_partitions_open{role="router"} 2.0' in metrics
    assert 'hitl_control_lease_age_seconds{role="router"}' in metrics


def until_only_missing(process: subprocess.Popen[str], port: int, name: str) -> str:
    """Wait until nothing else is missing for this to be ready; return what is said of it."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1).close()
        except urllib.error.HTTPError as answer:
            with answer:
                checks = json.loads(answer.read())["checks"]
            if [one for one, said in checks.items() if said != "ok"] == [name]:
                return str(checks[name])
        except OSError:
            pass
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"more than {name} is missing")


def test_a_port_that_is_taken_is_a_setting_to_mend(keys: Path, kafka: str):
    make_topics(kafka, "port.", 1)
    port = kafka.rpartition(":")[2]
    flags = ("--kafka", kafka, "--prefix", "port.", "--partitions", "1", "--metrics-port", port, *TRUSTING)
    done = hitl(keys, "run", "router", "--policy", str(POLICY), *flags)

    assert done.returncode == 2
    assert "--metrics-port" in done.stderr
