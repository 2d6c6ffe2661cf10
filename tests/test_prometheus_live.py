"""A real Prometheus scrapes our server, and every query of every dashboard returns data."""

from __future__ import annotations

import asyncio
import math
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from dashboards import FILES, GRAFANA, asked, load
from hitl_stream.core.events import Outcome, RouterTally
from hitl_stream.health import Health
from hitl_stream.metrics import LaneMetrics, Metrics
from prometheus_server import Prometheus, feed_all, needs_tool, prometheus, until

RULES = sorted((GRAFANA / "prometheus" / "rules").glob("*.yml"))
pytestmark = [needs_tool("prometheus"), pytest.mark.slow]


@contextmanager
def serving(metrics: Metrics) -> Iterator[Health]:
    """Serve the metrics from a loop in a thread, as a process of ours does from its only one."""
    health = Health(metrics, {"assigned": lambda: ""}, {"version": "0.1.0"}, port=0)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(health.start(), loop).result(10)
        yield health
        asyncio.run_coroutine_threadsafe(health.stop(), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_every_dashboard_query_returns_data(tmp_path: Path):
    metrics = Metrics("0.1.0", window_ids_max=1_000)
    again = feed_all(metrics)

    with serving(metrics) as health, prometheus(tmp_path, f"127.0.0.1:{health.port}", rules=RULES) as server:
        instance = f"127.0.0.1:{health.port}"
        questions = [
            one
            for path in FILES
            for one in asked(load(path), job="hitl", instance=instance.replace(".", "\\\\."), interval="10s")
        ]
        until(lambda: server.range('sum(hitl_records_total{role="router"})'), "nothing was scraped")

        def unanswered() -> list[str]:
            again()
            return [one.where for one in questions if not has_data(server, one.expr)]

        try:
            until(lambda: not unanswered(), "no data")
        except AssertionError:
            pytest.fail(f"no data for {unanswered()}")

        assert server.range("up == 1")
        assert not server.range("scrape_samples_scraped != scrape_samples_post_metric_relabeling")


def has_data(server: Prometheus, expr: str) -> bool:
    """Say whether a query has a value that is a number: a division by nothing is an answer, but shows nothing."""
    return any(not math.isnan(float(value)) for series in server.range(expr) for _, value in series["values"])


SERIES_MAX = 10_000
"""Of an installation: six roles, twenty classes, a hundred partitions, a thousand agents, three hundred reviewers."""


def test_what_a_large_installation_shows_stays_few_series_and_names_neither_agents_nor_people() -> None:
    metrics = Metrics("0.1.0")
    again = feed_all(metrics)
    for _ in range(1_000):  # so many agents and reviewers: none of them is anything that a metric is told
        again()
    again()
    lane = LaneMetrics("router", metrics)
    for partition in range(100):
        lane.opening(partition)
        lane.opened(partition, 0.1, 10)
        lane.lagged(partition, 1, 0.1)
        lane.window(partition, 10)
    tally = RouterTally()
    tally.routed = {(f"class-{n}", outcome.name): 1 for n in range(20) for outcome in Outcome}
    lane.committed(0, 100, 0.01, 0.02, [10], tally)
    families = list(metrics.registry.collect())
    assert sum(len(family.samples) for family in families) <= SERIES_MAX / 6
    labels = {name for family in families for sample in family.samples for name in sample.labels}
    assert not labels & {"agent", "person", "reviewer", "account", "campaign", "tenant", "action_id", "item"}


@needs_tool("promtool")
def test_promtool_finds_nothing_wrong_with_what_any_role_shows() -> None:
    metrics = Metrics("0.1.0")
    feed_all(metrics)
    text = generate_latest(metrics.registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
