"""`hitl init` beside a Kafka: what it makes stands by itself, from the first look to a demo by its own policy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hitl_stream.dev.broker import free_ports
from support.cli import environ
from support.kafka import Topics, require

SECONDS_MAX = 240.0


@pytest.mark.slow
@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_what_it_makes_is_well_and_its_demo_runs_by_its_own_policy(kafka: str, topics: Topics, tmp_path: Path):
    require("noida")
    metrics, console = free_ports(2)
    env = environ(
        tmp_path, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", HITL_PREFIX=topics.prefix,
        HITL_PARTITIONS="2", HITL_METRICS_PORT=str(metrics), HITL_CONSOLE_PORT=str(console),
    )  # fmt: skip
    del env["HITL_STATE_DIR"]  # as its own settings say
    home = tmp_path / "mine"

    def run(*command: str, cwd: Path = home) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run("hitl", "init", "mine", "--kafka", kafka, cwd=tmp_path)
    run("hitl", "doctor")
    run("make", "check")
    said = run("make", "demo", "DEMO_SECONDS=5")

    assert "every action has exactly one answer" in said
    assert "other types" in said, "the policy is its own, and does not know everything that the agents try"
