"""`hitl demo`, from outside: one command, a whole pipeline, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from support.cli import POLL_SECONDS, hitl, processes_of, start
from support.kafka import require, within
from support.kafka import running as running_broker

RATE = 300
GONE_SECONDS_MAX = 10.0
START_SECONDS_MAX = 90.0
ALARM_SECONDS_MAX = 120.0
"""What the demo promises; thirty approvals, with a second's look at each, take forty."""
ITEM_SECONDS_MAX = 120.0
"""Something waits within seconds; each look at it starts a process of its own beside a demo."""


@pytest.fixture(autouse=True)
def noida() -> None:
    require("noida")


def until(done: Callable[[], object], seconds_max: float) -> None:
    deadline = time.monotonic() + seconds_max
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds_max:g} s"
        time.sleep(POLL_SECONDS)


def announced(state: Path) -> Path:
    return state / "state" / "demo.json"


def running(state: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a demo and wait until a second terminal would find it."""
    process = start(state, "demo", "--seconds", "300", "--broker", "noida", *arguments)
    until(lambda: announced(state).exists() or process.poll() is not None, START_SECONDS_MAX)
    assert process.poll() is None, process.communicate()
    return process


def assert_nothing_left(state: Path) -> None:
    until(lambda: not processes_of(state), GONE_SECONDS_MAX)
    until(lambda: not list((state / "tmp").glob("hitl-*")), GONE_SECONDS_MAX)
    assert not announced(state).exists()


@pytest.mark.slow
def test_a_stranger_sees_every_answer_within_seconds_and_nothing_is_lost(tmp_path: Path):
    done = hitl(tmp_path, "demo", "--seconds", "8", "--rate", str(RATE), "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["conservation"] == "ok"
    assert report["rate"] >= 200
    assert report["answered"] == report["actions"] == RATE * 8 + report["people"]["proposed"]
    assert all(report["outcomes"][name] for name in ("EXECUTE", "REVIEW", "ESCALATE", "REFUSE"))
    assert report["recommended"]
    assert report["dead"]
    assert report["moved"]
    assert re.search(r"console    http://localhost:\d+/link#[\w-]{43} \(once, within ten minutes\)", done.stderr)
    assert 0 < report["latency"]["p50_ms"] <= report["latency"]["p99_ms"]
    assert report["broker"] == "noida"
    assert 8 <= report["seconds"] < 12, "eight, and what a busy machine adds to the last batch"
    by_class = sum(sum(counts.values()) for counts in report["classes"].values())
    assert by_class + sum(report["dead"].values()) == report["answered"]
    assert {"I1", "I2", "I3", "I4", "I5", "I11"} <= set(report["checked"])
    assert_nothing_left(tmp_path)


@pytest.mark.slow
def test_nobody_reviews_where_nobody_shall_and_what_waits_is_said(tmp_path: Path):
    done = hitl(tmp_path, "demo", "--seconds", "3", "--reviewers", "none", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["conservation"] == "ok"
    assert not any(report["people"]["verdicts"].values())
    assert sum(report["people"]["open"].values()) + report["people"]["in_batches"] >= report["pending"] > 0


@pytest.mark.slow
def test_ctrl_c_ends_it_with_a_summary_and_nothing_left(tmp_path: Path):
    process = running(tmp_path, "--json")
    settings = json.loads(announced(tmp_path).read_text())["settings"]
    assert json.loads(announced(tmp_path).read_text())["pid"] == process.pid
    time.sleep(2)  # let some actions through: what is drained must be more than nothing

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["conservation"] == "ok"
    assert report["answered"] == report["actions"] > 0
    assert not Path(settings["state_dir"]).exists()
    assert_nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.behaviour("E9")
def test_the_robots_who_look_at_nothing_trip_the_alarm_and_those_who_read_do_not(tmp_path: Path):
    process = running(tmp_path, "--json")
    assert process.stderr is not None
    deadline = time.monotonic() + ALARM_SECONDS_MAX
    while "RUBBER STAMP lazy-" not in (said := process.stderr.readline()):
        assert said, "the demo ended before anybody was found"
        assert time.monotonic() < deadline, f"nobody was found within {ALARM_SECONDS_MAX:g} s"

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)

    assert process.returncode == 0, err
    report = json.loads(out.splitlines()[-1])
    assert report["conservation"] == "ok"
    alarms = report["people"]["alarms"]
    assert any(one["page"] == "rubber_stamp" for one in alarms)
    assert all(one["person"].startswith("lazy-") for one in alarms), alarms
    assert_nothing_left(tmp_path)


@pytest.mark.slow
def test_a_second_terminal_finds_it_and_its_console_and_a_second_demo_is_refused(tmp_path: Path):
    process = running(tmp_path, "--rate", "60")
    try:
        shown = json.loads(hitl(tmp_path, "config", "show", "--json").stdout)
        assert shown["kafka"]["source"] == f"demo {announced(tmp_path)}"
        second = hitl(tmp_path, "demo")
        scopes = ("--scope", "queues:read", "--scope", "items:decide")
        token = hitl(tmp_path, "user", "token", "you", *scopes).stdout.strip()
        until(lambda: _given_an_item(tmp_path, token), ITEM_SECONDS_MAX)
        assert second.returncode == 2
        assert "a demo runs already" in second.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    for name in ("people", "still open", "conservation"):
        assert any(line.startswith(name) for line in out.splitlines()), out
    assert_nothing_left(tmp_path)


@pytest.mark.slow
def test_it_takes_everything_with_it_when_it_is_killed(tmp_path: Path):
    process = running(tmp_path)

    process.kill()
    process.communicate()

    until(lambda: not processes_of(tmp_path), GONE_SECONDS_MAX)
    until(lambda: not list((tmp_path / "tmp").glob("hitl-*")), GONE_SECONDS_MAX)
    found = json.loads(hitl(tmp_path, "config", "show", "--json").stdout)
    assert found["kafka"]["source"] == "default", "a demo.json whose process is gone is ignored"


@pytest.mark.slow
def test_a_router_that_dies_ends_the_demo_with_its_log(tmp_path: Path):
    process = running(tmp_path)
    (router,) = (pid for pid, line in _pids(tmp_path) if "run router" in line)

    os.kill(router, signal.SIGKILL)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 6
    assert "the router ended by itself (exit -9)" in err
    log = next(word.rstrip(",") for word in err.split() if word.endswith("router.log,"))
    assert Path(log).is_file()
    until(lambda: not processes_of(tmp_path), GONE_SECONDS_MAX)
    assert not announced(tmp_path).exists()


def test_without_a_broker_it_says_which_ones_there_could_be(tmp_path: Path):
    done = hitl(tmp_path, "demo", "--broker", "jar", env={"PATH": "/nonexistent"})

    assert done.returncode == 4
    assert "no broker can be started here: jar: no java" in done.stderr
    assert "--kafka HOST:PORT" in done.stderr


@pytest.mark.slow
def test_without_the_consoles_extra_it_runs_all_the_same_and_says_how_to_get_it(tmp_path: Path):
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text("import sys\nsys.modules['fastapi'] = None\n")
    hidden = {"PYTHONPATH": str(tmp_path / "hidden")}

    done = hitl(tmp_path, "demo", "--seconds", "1", "--json", env=hidden)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["conservation"] == "ok"
    assert "console    not here, fastapi is missing; run: pip install 'hitl-stream[console]'" in done.stderr


@pytest.mark.slow
def test_on_somebodys_cluster_it_takes_its_topics_away_again(tmp_path: Path):
    with running_broker("noida") as broker:
        done = hitl(tmp_path, "demo", "--seconds", "2", "--kafka", broker.bootstrap, "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout.splitlines()[-1])
        assert (report["broker"], report["conservation"]) == ("external", "ok")
        left = json.loads(hitl(tmp_path, "topics", "plan", "--kafka", broker.bootstrap, "--json").stdout)["topics"]
        assert {row["state"] for row in left} == {"absent"}
        assert not within(all_topics(broker.bootstrap))


def _given_an_item(state: Path, token: str) -> bool:
    """Say whether `hitl review` in a second terminal is given something."""
    found = hitl(state, "review", "next", "trading", "--json", env={"HITL_CONSOLE_TOKEN": token})
    assert found.returncode in (0, 1), found.stderr
    return found.returncode == 0


async def all_topics(bootstrap: str) -> list[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return [name for name in await admin.list_topics() if not name.startswith("__")]
    finally:
        await admin.close()


def _pids(directory: Path) -> list[tuple[int, str]]:
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    lines = [line.strip().partition(" ") for line in listed.splitlines()[1:]]
    return [(int(pid), text) for pid, _, text in lines if str(directory) in text]
