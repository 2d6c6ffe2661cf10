"""What tests of the command line share: `hitl` in a process of its own, away from this machine's settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hitl_stream.dev.broker import free_ports
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply
from hitl_stream.settings import load
from hitl_stream.wire.topics import CONTROL_TOPICS, ROUTER_TOPICS, TopicSet
from hitl_stream.wiring import make_router_keys
from support.kafka import within

POLL_SECONDS = 0.05
READY_SECONDS_MAX = 120.0
"""A start takes two seconds on an idle machine, and half a minute on one that runs twenty other things."""
COMMAND_SECONDS_MAX = 120.0
POLICY = Path("src/hitl_stream/dev/policies/demo.yaml").resolve()


def environ(state: Path, **more: str) -> dict[str, str]:
    """Return an environment without `HITL_` variables but these; `state` takes every file, temporary ones too."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HITL_")}
    home = {"HITL_KAFKA_HOME": os.environ["HITL_KAFKA_HOME"]} if "HITL_KAFKA_HOME" in os.environ else {}
    (state / "tmp").mkdir(parents=True, exist_ok=True)
    kept["COLUMNS"] = "1000"  # messages in one line, so that a test can look for a path
    return kept | home | {"HITL_STATE_DIR": str(state / "state"), "TMPDIR": str(state / "tmp")} | more


def start(state: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `hitl` with its streams on pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "hitl_stream", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=state,
        env=environ(state, **(env or {})),
    )


def hitl(state: Path, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `hitl` to its end."""
    process = start(state, *arguments, env=env)
    try:
        out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)
    finally:
        process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def free_port() -> int:
    """Return a port that was free just now."""
    return free_ports(1)[0]


def until_ready(process: subprocess.Popen[str], port: int) -> None:
    """Wait until the process says that it is ready; fail with what it wrote if it ends before."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(POLL_SECONDS)
    raise AssertionError(f"not ready within {READY_SECONDS_MAX:g} s")


@contextmanager
def controlled(state: Path, kafka: str, prefix: str, partitions: int) -> Iterator[str]:
    """Make every topic that a router needs, its keys, and those of control; run a control role. Give `trust`."""
    settings = load(kafka=kafka, prefix=prefix, partitions=partitions, state_dir=state / "state")
    within(apply({"bootstrap_servers": kafka}, TopicSet(prefix, partitions), (*ROUTER_TOPICS, *CONTROL_TOPICS)))
    make_router_keys(settings)
    trust = within(make_control_keys(settings))
    flags = ("--kafka", kafka, "--prefix", prefix, "--partitions", str(partitions), "--trust", trust)
    process = start(state, "run", "control", *flags, "--metrics-port", str(port := free_port()))
    try:
        until_ready(process, port)
        yield trust
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=COMMAND_SECONDS_MAX)


def processes_of(directory: Path) -> list[str]:
    """Return the command lines of processes that name a directory."""
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(directory) in line]
