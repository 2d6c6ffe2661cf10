"""A real Prometheus scrapes our server, and every query of every dashboard returns data."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dashboards import FILES, asked, load
from hitl_stream.health import Health
from hitl_stream.metrics import Metrics
from prometheus_server import Prometheus, feed_all, needs_tool, prometheus, until

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

    with serving(metrics) as health, prometheus(tmp_path, f"127.0.0.1:{health.port}") as server:
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
