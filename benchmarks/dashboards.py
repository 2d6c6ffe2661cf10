"""`make dashboards-proof`: every query of every dashboard and rule, asked of a real Prometheus beside a demo.

The demo has in it what the dashboards are for: two kill switches, a drill, dead letters, a second router that joins and
is killed (two rebalances), robots who approve without looking, and planted errors that they miss.

- A panel, a variable or an annotation has data where its query returns a number at any time of the run.
- A recording rule has data where its series does. An alert that does not fire returns nothing, and rightly: it has data
  where every series that it asks for has.

It needs Debian's `prometheus` and the test extra. The last line says how many of how many.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import promql_parser
from aiokafka import AIOKafkaProducer
from figures import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from dashboards import FILES, GRAFANA, Asked, asked, load
from prometheus_server import Prometheus, prometheus
from support.cli import environ
from support.demo import running_demo
from test_grafana import selectors

RESULTS = GRAFANA.parent / "docs" / "results" / "dashboards.md"
INTERVAL = "30s"
SCRAPES_S = 2.0
BROKEN = 20
ANSWERS_S_MAX = 240.0
RUN_S_MAX = 900.0
"""What is asked about: the whole run."""
LOOK_S = 5.0


def main() -> int:
    """Run everything, and print a table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rate", default="150", help="actions a second")
    # A real Kafka: the small broker never gives away the partitions of a member that has left for good.
    arguments.add_argument("--broker", default="jar", choices=("noida", "jar"))
    arguments.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="hitl-dashboards-") as place:
        found = proved(Path(place), chosen.rate, chosen.broker)
    text = table(found)
    print(text)
    if chosen.write:
        command = f"make dashboards-proof BENCH_ARGS='{' '.join(sys.argv[1:])}'"
        RESULTS.write_text(f"# Dashboards and rules beside a demo\n\n{machine()}\n\n`{command}`\n\n{text}\n", "utf-8")
    return 0 if all(found.values()) else 1


def proved(place: Path, rate: str, broker: str) -> dict[Asked, bool]:
    """Return of each query whether it has data."""
    with running_demo(place, "--rate", rate, broker=broker):
        settings = json.loads(next(place.rglob("demo.json")).read_bytes())["settings"]
        targets = [url.removeprefix("http://").removesuffix("/metrics") for url in settings["console_scrape"]]
        rules = sorted((GRAFANA / "prometheus" / "rules").glob("*.yml"))
        queries = [*on_dashboards(), *in_rules(rules)]
        with prometheus(place, *targets, rules=rules) as server, happening(place, settings):
            return answered(server, queries)


def on_dashboards() -> Iterator[Asked]:
    """Yield every panel, variable and annotation."""
    for path in FILES:
        yield from asked(load(path), interval=INTERVAL)


def in_rules(paths: list[Path]) -> Iterator[Asked]:
    """Yield every recorded series, and every series that an alert asks for."""
    from ruamel.yaml import YAML

    for path in paths:
        for group in YAML(typ="safe").load(path.read_text("utf-8"))["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    yield Asked(f"rule / {rule['record']}", rule["record"])
                    continue
                names = sorted({selector.name for selector in selectors(promql_parser.parse(rule["expr"]))})
                yield from (Asked(f"alert / {rule['alert']} / {name}", name) for name in names)


# --- what happens meanwhile -------------------------------------------------------------------------------------------


@contextmanager
def happening(place: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Let switches be pulled, records be broken, a router join and die."""
    hitl(place, "kill", "--scope", "agent:bidder-1", "--reason", "dashboards-proof")
    hitl(place, "kill", "--scope", "type:post.own", "--mode", "REVIEW_ALL", "--reason", "dashboards-proof")
    asyncio.run(broken(settings))
    second = subprocess.Popen(
        [sys.executable, "-m", "hitl_stream", "run", "router", "--metrics-port", "0", "--slot", "7"],
        cwd=place, env=environ(place), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(20)
    second.kill()  # it says nothing any more: control fences it, and its partitions go back
    second.wait(60)
    drill = hitl(place, "drill", "--seconds", "5")
    print(drill[-300:], file=sys.stderr)
    yield


def hitl(place: Path, *arguments: str) -> str:
    """Run one command beside the demo, which names its settings; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "hitl_stream", *arguments],
        cwd=place, env=environ(place), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


async def broken(settings: dict[str, Any]) -> None:
    """Publish what nobody can read."""
    producer = AIOKafkaProducer(bootstrap_servers=settings["kafka"])
    await producer.start()
    try:
        for number in range(BROKEN):
            await producer.send_and_wait(f"{settings['prefix']}actions", b"{broken %d" % number)
    finally:
        await producer.stop()


# --- what Prometheus says ---------------------------------------------------------------------------------------------


def answered(server: Prometheus, queries: list[Asked]) -> dict[Asked, bool]:
    """Ask until everything has data, at most for a while."""
    found = dict.fromkeys(queries, False)
    until = time.monotonic() + ANSWERS_S_MAX
    while time.monotonic() < until and not all(found.values()):
        for one in [one for one, has in found.items() if not has]:
            found[one] = has_data(server, one.expr)
        left = [one.where for one, has in found.items() if not has]
        print(f"{len(found) - len(left)} of {len(found)} have data; not yet: {', '.join(left[:3])}", file=sys.stderr)
        time.sleep(LOOK_S if left else 0)
    return found


def has_data(server: Prometheus, expr: str) -> bool:
    """Say whether a query has a value that is a number; a division by nothing shows nothing."""
    found = server.range(expr, RUN_S_MAX)
    return any(not math.isnan(float(value)) for series in found for _, value in series["values"])


def table(found: dict[Asked, bool]) -> str:
    """Return a row for each dashboard and kind of rule, what has no data, and how many of how many."""
    groups: dict[str, list[bool]] = {}
    for one, has in found.items():
        groups.setdefault(one.where.split(" / ")[0], []).append(has)
    rows = [f"| {name} | {len(has)} | {sum(has)} |" for name, has in groups.items()]
    empty = [f"no data: {one.where}: {one.expr}" for one, has in found.items() if not has]
    head = ["| | queries | with data |", "|---|---|---|"]
    last = f"dashboards-proof: {sum(found.values())} of {len(found)} queries return data"
    return "\n".join([*head, *rows, "", *empty, last])


if __name__ == "__main__":
    sys.exit(main())
