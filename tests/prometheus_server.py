"""A real Prometheus of Debian's package for tests, and made-up lane events to fill it with."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hitl_stream.core.events import (
    Abort,
    After,
    DeskTally,
    ErrorClass,
    ExecutorTally,
    Mode,
    Outcome,
    Refusal,
    Rejection,
    RouterTally,
    SentBackWhy,
    Status,
    Why,
)
from hitl_stream.metrics import ControlMetrics, DeskMetrics, ExecutorMetrics, LaneMetrics, Metrics, MonitorMetrics

READY_SECONDS_MAX = 30.0


def needs_tool(name: str) -> pytest.MarkDecorator:
    """Skip a test where a program of Debian's `prometheus` package is missing; in CI that is a failure."""
    missing = shutil.which(name) is None and os.environ.get("CI") != "true"
    return pytest.mark.skipif(missing, reason=f"{name} is not installed: apt-get install prometheus")


def feed(lane: LaneMetrics, rounds: int) -> None:
    """Tell a lane's observer of `rounds` rounds of everything that can happen, on four partitions."""
    for partition in range(4):
        lane.opening(partition)
        lane.opened(partition, 0.4, 1_000)
    for _ in range(rounds):
        for partition in range(4):
            counted = RouterTally()
            counted.routed = {(c, o.name): 5 for c in ("bid.adjust", "post.own", "none") for o in Outcome}
            counted.again = {("bid.adjust", "HOLD"): 1, ("bid.adjust", "EXECUTE"): 2}
            counted.closed = {str(why): 1 for why in Why}
            counted.dead = {str(error): 1 for error in ErrorClass}
            counted.moved, counted.audit, counted.recommended = 2, 1, 3
            lane.committed(partition, 100, 0.004, 0.02, list(range(60, 10, -1)), counted)
            lane.lagged(partition, 10 * partition, 0.1 * partition)
            lane.window(partition, 100)
        for why in Abort:
            lane.aborted(0, why)


def feed_all(metrics: Metrics) -> Callable[[], None]:
    """Tell the observers of every role of everything that can happen; return what does it once more."""
    lanes = LaneMetrics("router", metrics), DeskMetrics(metrics), ExecutorMetrics(metrics)
    control, monitor = ControlMetrics(metrics), MonitorMetrics(metrics)
    metrics.lease_age.labels("router").set(0.3)
    lanes[1].watch("trading", lambda: [1_000], lambda: 5_000)

    def again() -> None:
        router, desk, executor = lanes
        feed(router, 1)
        executor.committed(0, 5, 0.004, 0.02, [20] * 5, carried_out())
        desk.committed(0, 5, 0.004, 0.02, [20] * 5, decided())
        executor.unknown()
        executor.offending(1, After.EFFECTIVE)
        for mode in Mode:
            control.engaged({(mode.value, "agent"): 1})
            control.changed(mode.value, "agent", time.time())
            control.effective(mode.value, "agent", 0.4)
        control.beat()
        control.rejected(Rejection.SIGNATURE.value)
        control.unacknowledged(1, 2)
        control.fenced("router")
        control.tripped("burst", "engage")
        control.drilled(time.time() - 60)
        monitor.observed("trading", 0.2)
        monitor.repeated()
        monitor.alerted("trading", 2, 3)
        monitor.paged("trading", "rubber_stamp")
        monitor.rechecked("trading", 3, 1)
        monitor.queues({"trading": FIGURES})

    again()
    return again


FIGURES = SimpleNamespace(
    level=2, reviewers=3, hit_rate=0.9, hurried=0.1, approved=0.95, agreement=0.9, escaped=0.02
)  # fmt: skip


def carried_out() -> ExecutorTally:
    tally = ExecutorTally()
    tally.results = Counter({("bid.adjust", status.value): 1 for status in Status})
    tally.sent_back = Counter({why.value: 1 for why in SentBackWhy})
    tally.repeated = 1
    tally.seconds = [0.02, 0.4]
    return tally


def decided() -> DeskTally:
    tally = DeskTally()
    tally.opened["trading"] = 3
    tally.verdicts = Counter({("trading", word, "applied"): 1 for word in ("approve", "reject", "change", "escalate")})
    tally.refused = Counter({why.value: 1 for why in Refusal})
    tally.rejected = Counter({why.value: 1 for why in Rejection})
    tally.timed = Counter({("trading", state): 1 for state in ("OPEN", "EXPIRED", "STALE")})
    tally.lapsed["trading", "eva"] = 1
    tally.executed, tally.parked, tally.proposed, tally.repeated = 2, 1, 1, 1
    tally.wait_s = [30.0, 90.0]
    tally.diverted["claims"], tally.gate_ms["claims"] = 2, 40_000
    return tally


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Prometheus:
    """Its HTTP API, as much of it as tests ask."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **parameters: str) -> Any:
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self.url}{path}{query}", timeout=5) as answer:
            return json.load(answer)["data"] if path.startswith("/api") else answer.read()

    def range(self, expr: str, seconds: float = 30.0) -> list[Any]:
        now = time.time()
        data = self.get("/api/v1/query_range", query=expr, start=str(now - seconds), end=str(now), step="1")
        return list(data["result"])


@contextmanager
def prometheus(directory: Path, *targets: str, rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `targets` twice a second, and goes by `rules`."""
    port = free_port()
    config = directory / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 1s}\n"
        f"rule_files: {json.dumps([str(path) for path in rules])}\n"
        f"scrape_configs: [{{job_name: hitl, static_configs: [{{targets: {json.dumps(targets)}}}]}}]\n"
    )
    command = [
        shutil.which("prometheus") or "prometheus", f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    log = directory / "prometheus.log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            server = Prometheus(port)
            until(lambda: process.poll() is not None or _ready(server), f"prometheus did not start: see {log}")
            assert process.poll() is None, log.read_text()
            yield server
        finally:
            process.terminate()
            process.wait(timeout=20)


def until(condition: Any, otherwise: str, seconds: float = READY_SECONDS_MAX) -> None:
    """Ask until it is so, at most for `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise AssertionError(otherwise)
        time.sleep(0.1)


def _ready(server: Prometheus) -> bool:
    try:
        server.get("/-/ready")
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True
