"""The compose file: it is one by the specification, and what its containers run does run, outside of containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from hitl_stream.dev.broker import free_ports
from support.kafka import Topics

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).parents[1] / "support" / "compose-spec.json"
"""Of github.com/compose-spec/compose-spec, schema/compose-spec.json at 170098b (2026-06-23), Apache-2.0."""
VALIDATOR = jsonschema.Draft7Validator(json.loads(SCHEMA.read_text("utf-8")))
IMAGE = "hitl-stream:local"
STATE, POLICIES, METRICS = "/var/lib/hitl/state", "/policies", "9464"
ROLES = ("control", "router", "desk", "executor", "monitor", "console")
READY_S_MAX = 120.0
PUBLISHES_S = 3.0


def compose() -> dict[str, Any]:
    return dict(YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text("utf-8")))


OURS = {name: one for name, one in compose()["services"].items() if one["image"] == IMAGE}


def test_it_is_a_compose_file_by_the_specification() -> None:
    VALIDATOR.validate(compose())


def test_a_mistake_in_it_would_be_seen() -> None:
    wrong = compose()
    wrong["services"]["router"]["comand"] = ["run", "router"]
    with pytest.raises(jsonschema.ValidationError, match="comand"):
        VALIDATOR.validate(wrong)


class Host:
    """This machine in the place of the containers': their commands, settings and health checks, with its own paths."""

    def __init__(self, directory: Path, kafka: str, prefix: str) -> None:
        self.directory = directory
        self.more = {"HITL_KAFKA": kafka, "HITL_PREFIX": prefix, "HITL_PARTITIONS": "2", "HITL_BIND": "127.0.0.1"}
        self.ports = dict(zip(OURS, free_ports(len(OURS)), strict=True))
        (self.console_port,) = free_ports(1)
        (directory / "state").mkdir()

    def here(self, text: str) -> str:
        """Return a path or a command with this machine's places."""
        ours = ROOT / "src" / "hitl_stream" / "dev" / "policies"
        return text.replace(STATE, str(self.directory / "state")).replace(POLICIES, str(ours))

    def environ(self, name: str) -> dict[str, str]:
        """Return the environment of a service: its own settings, this Kafka, and nothing of the tests'."""
        bare = {key: value for key, value in os.environ.items() if not key.startswith("HITL_")}
        bare["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{bare['PATH']}"
        own = {key: self.here(str(value)) for key, value in OURS[name].get("environment", {}).items()}
        ports = {"HITL_METRICS_PORT": str(self.ports[name]), "HITL_CONSOLE_PORT": str(self.console_port)}
        return {**bare, "HITL_STATE_DIR": str(self.directory / "state"), **own, **self.more, **ports}

    def command(self, name: str) -> list[str]:
        """Return what a container runs."""
        service = OURS[name]
        words = [self.here(word).replace("$$", "$") for word in service["command"]]
        return [*service["entrypoint"], *words] if "entrypoint" in service else ["hitl", *words]

    def once(self, name: str) -> None:
        """Run what ends by itself."""
        done = subprocess.run(
            self.command(name), cwd=self.directory, env=self.environ(name),
            capture_output=True, text=True, timeout=READY_S_MAX, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run what runs for good."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.command(name), cwd=self.directory, env=self.environ(name), stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def healthy(self, name: str) -> bool:
        """Ask as its health check does."""
        kind, program, *words = OURS[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "python")
        asked = [sys.executable, *(word.replace(METRICS, str(self.ports[name])) for word in words)]
        return subprocess.run(asked, capture_output=True, timeout=30, check=False).returncode == 0


def later(services: Mapping[str, Any]) -> set[str]:
    """Return what waits for what, so that the order below is the file's."""
    return {f"{first} before {name}" for name, one in services.items() for first in one.get("depends_on", {})}


def test_what_is_started_first_below_is_what_the_file_waits_for() -> None:
    assert {"keys before topics", "topics before trust", "router before simulator"} <= later(OURS)
    assert {f"trust before {role}" for role in ROLES} <= later(OURS)
    assert set(OURS) == {"keys", "topics", "trust", "simulator", *ROLES}


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_container_s_command_runs_and_its_health_check_says_so(
    kafka: str, topics: Topics, tmp_path: Path
) -> None:
    host = Host(tmp_path, kafka, topics.prefix)
    for name in ("keys", "topics", "trust", "trust"):  # the last one once more: it begins trust only once
        host.once(name)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    with ExitStack() as stack:
        for name in ROLES:
            processes[name] = stack.enter_context(host.running(name))
        waiting, until = set(ROLES), time.monotonic() + READY_S_MAX
        while waiting:
            for name in sorted(waiting):
                log = (tmp_path / f"{name}.log").read_text()[-3_000:]
                assert processes[name].poll() is None, f"{name} ended\n{log}"
                assert time.monotonic() < until, f"{name} is not healthy\n{log}"
                if host.healthy(name):
                    waiting.discard(name)
            time.sleep(0.2)
        simulator = stack.enter_context(host.running("simulator"))
        with pytest.raises(subprocess.TimeoutExpired):
            simulator.wait(PUBLISHES_S)
