"""Kill switches beside real roles: a control role and a router, each a process of its own, under load, in trouble."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hitl_stream.core.control import DRILL
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import parsed
from hitl_stream.wire.home import home
from hitl_stream.wire.records import decode_closed, decode_decision, time_text
from hitl_stream.wire.seal import create_key
from hitl_stream.wire.topics import TABLE
from support.cli import free_port, until_ready
from support.history import action
from support.kafka import Topics, producing, read, within
from support.make import acme
from support.oncall import OnCall

pytestmark = [pytest.mark.kafka, pytest.mark.slow]
COMMAND_SECONDS_MAX = 90.0
ANA = ("--key", "ana-1")
STOP_SECONDS_MAX = 2.0
EFFECTIVE_MS_MAX = 3_000
"""The alarm with one router cut off or paused; machines that run tests are busy."""


@dataclass
class Roles:
    """An installation with its processes."""

    place: OnCall
    environ: dict[str, str]
    processes: dict[str, subprocess.Popen[str]]
    ports: dict[str, int] = field(default_factory=dict)

    def start(self, role: str, *arguments: str) -> None:
        """Start a role and wait until it is ready."""
        port = free_port()
        process = self.command("run", role, "--metrics-port", str(port), *arguments)
        self.processes[role] = process
        self.ports[role] = port
        until_ready(process, port)

    def command(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `hitl`."""
        return subprocess.Popen(
            [sys.executable, "-m", "hitl_stream", *arguments],
            env=self.environ, cwd=self.place.state_dir, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def hitl(self, *arguments: str) -> tuple[int, str, str]:
        """Run `hitl` to its end; return exit code and what it printed."""
        process = self.command(*arguments)
        try:
            out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)
        finally:
            process.kill()
        return process.returncode, out, err

    @contextmanager
    def paused(self, role: str) -> Iterator[None]:
        """Let a role's process sleep."""
        process = self.processes[role]
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def roles(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Roles]:
    directory: Path = tmp_path_factory.mktemp("roles")
    place = OnCall(kafka, Topics(kafka).prefix, directory).begin(tuple(TABLE))
    (directory / "acme.yaml").write_text(acme().text)
    for name, key_id in (("seal-router", "r1"), ("seal-executor", "e1"), ("sample", "s1"), ("seal-control", "c1")):
        create_key(place.keys_dir, name, key_id)
    mine = {"HITL_POLICY": str(directory / "acme.yaml"), "HITL_LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1"}
    made = Roles(place, {**os.environ, **place.environ(), **mine}, {})
    try:
        for role in ("control", "router"):
            made.start(role)
        yield made
    finally:
        for process in made.processes.values():
            process.terminate()
        for process in made.processes.values():
            process.communicate(timeout=COMMAND_SECONDS_MAX)


def engaged_drills(roles: Roles) -> list[int]:
    switches = roles.place.log().control.switches.engaged
    return [epoch for epoch, switch in switches.items() if parsed(switch.scope) == parsed(DRILL)]


def values(place: OnCall, name: str) -> list[bytes]:
    """Return all there is in a topic."""
    topic = place.topics.name(name)
    return [record.value for n in range(place.partitions) for record in within(read(place.bootstrap, topic, n))]


@pytest.mark.behaviour("I5")
def test_a_drill_measures_what_a_halt_does_under_load_and_releases_it(roles: Roles):
    code, out, err = roles.hitl("drill", "--rate", "300", "--seconds", "4", "--json")
    assert code in (0, 1), err
    (found,) = json.loads(out)["drills"]

    assert found["published"] >= 300
    assert 0 < found["ran"] < found["published"]
    assert found["after_effective"] == 0
    assert found["open"] == 0
    assert found["effective_ms"] <= EFFECTIVE_MS_MAX
    assert found["last_ms"] is None or found["last_ms"] <= found["effective_ms"]
    assert engaged_drills(roles) == []
    assert roles.place.log().control.switches.all[found["epoch"]].released == found["released"]

    # Nothing that lay parked runs after the release: it has expired.
    place = roles.place
    time.sleep(2)
    execute = [decode_decision(value) for value in values(place, "execute")]
    closed = [decode_closed(value) for value in values(place, "closed")]
    assert {one.tenant for one in execute} == {"drill"}
    assert len(execute) == found["ran"]
    late = {("expired", "execute_by"), ("expired", "admit_by"), ("refused", "late")}
    assert {(one.end, one.why) for one in closed} <= late
    assert len(execute) + len(closed) == found["published"]


def test_a_kill_is_proved_by_the_real_control_role(roles: Roles):
    code, out, err = roles.hitl("kill", "--scope", "campaign:cmp-7", "--scope", "tenant:acme", *ANA, "--json")
    assert code == 0, err
    assert json.loads(out)["state"] == "EFFECTIVE"

    code, out, _ = roles.hitl("switches", "--json")
    found = json.loads(out)
    assert (code, found["heard"]) == (0, True)
    assert [one["state"] for one in found["switches"]] == ["EFFECTIVE"]
    (instance,) = found["instances"]
    assert (instance["role"], instance["epoch"], instance["checked"]) == ("router", found["epoch"], True)
    assert instance["lease_left_ms"] > 0


def test_a_router_that_sleeps_is_fenced_and_the_kill_is_effective_all_the_same(roles: Roles):
    with roles.paused("router"):
        code, out, err = roles.hitl("kill", "--scope", "campaign:cmp-8", *ANA, "--json")
    assert code == 0, err
    assert json.loads(out)["effective_ms"] <= EFFECTIVE_MS_MAX


def test_with_a_control_role_that_sleeps_nothing_is_proved_and_nothing_is_claimed(roles: Roles):
    with roles.paused("control"):
        code, out, _ = roles.hitl("kill", "--scope", "campaign:cmp-9", *ANA, "--timeout", "3s")
    assert code == 3
    assert "EFFECTIVE(" not in out
    assert "No control role is heard" in " ".join(out.split())


def test_a_drill_that_is_interrupted_is_released_all_the_same(roles: Roles):
    process = roles.command("drill", "--rate", "100", "--seconds", "30")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "APPENDED(" in line:
                break
        assert engaged_drills(roles)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=COMMAND_SECONDS_MAX)
    finally:
        process.kill()
    assert process.returncode == 130
    assert engaged_drills(roles) == []


def test_while_everything_is_stopped_there_is_no_drill(roles: Roles):
    epoch = roles.place.engage("tenant:drill")
    code, _, err = roles.hitl("drill", "--seconds", "1")
    assert code == 2
    assert f"switch {epoch} (tenant:drill) holds the drill's actions" in " ".join(err.split())


# --- the file HALT, last: it stops everything -------------------------------------------------------------------------


def unready(roles: Roles) -> dict[str, str]:
    """Return what the router's `/readyz` says is missing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{roles.ports['router']}/readyz", timeout=5) as answer:
            body = answer.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    return {name: why for name, why in json.loads(body)["checks"].items() if why != "ok"}


def ran(roles: Roles) -> int:
    return len(values(roles.place, "execute"))


def publish(roles: Roles, numbers: range) -> None:
    place = roles.place

    async def run() -> None:
        async with producing(place.bootstrap, acks="all") as producer:
            for number in numbers:
                partition = home("acme", "acc-1", place.partitions)
                value = action(number, proposed_at=time_text(int(time.time() * 1000)))
                await producer.send_and_wait(place.topics.name("actions"), value, partition=partition)

    within(run())


def eventually(found: Callable[[], bool], seconds_max: float, what: str) -> float:
    """Wait until something is so; return how long that took."""
    began = time.monotonic()
    while not found():
        assert time.monotonic() - began < seconds_max, what
        time.sleep(0.05)
    return time.monotonic() - began


def test_the_file_halt_stops_a_running_router_latches_and_becomes_a_switch(roles: Roles):
    place = roles.place
    key, away = place.keys_dir / "host-1.jwk", place.state_dir / "away.jwk"
    before = ran(roles)
    publish(roles, range(10_000, 10_010))
    eventually(lambda: ran(roles) == before + 10, 20, "the router runs")

    key.rename(away)  # so that control cannot hold it yet: the file alone stops
    (place.state_dir / "HALT").touch()
    assert eventually(lambda: "halt" in unready(roles), 10, "the router has not seen HALT") < STOP_SECONDS_MAX
    publish(roles, range(10_010, 10_020))
    (place.state_dir / "HALT").unlink()
    time.sleep(3)
    assert ran(roles) == before + 10
    assert "no service key of 'host'" in unready(roles)["halt"]

    away.rename(key)
    eventually(lambda: "halt" not in unready(roles), 20, "the command was not appended")
    (switch,) = [one for one in place.log().control.switches.engaged.values() if one.source == "host"]
    assert (switch.scope, switch.mode, switch.by) == (("global:*",), Mode.HALT, "host")
    time.sleep(1)
    assert ran(roles) == before + 10  # control holds it now
    assert unready(roles) == {}
