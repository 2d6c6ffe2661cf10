"""`make bench`: the full router and a plain Faust agent on one broker in one run; then latency; then a profile.

Prints a table, and with `--write` keeps it under docs/results/ with machine, versions, command and date.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import pstats
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import policy
from fill import Bids, fill
from latency import latency

from hitl_stream import wiring
from hitl_stream.dev import broker
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply
from hitl_stream.settings import Settings, load

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results" / "bench.md"
PARTITIONS = 4
SEED = 7
PAIR_COUNT = 200_000
REACH = {"per_s_wall": 50_000, "per_s_cpu": 65_000, "rss_mb": 300, "faust_ratio": 15, "p50_ms": 25, "p99_ms": 80}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500_000, help="events of one router run")
    parser.add_argument("--faust", type=int, default=30_000, help="events of one Faust run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=int, nargs="*", default=[1_000, 10_000])
    parser.add_argument("--control-pairs", type=int, default=0, help="paired runs with and without the control view")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--write", action="store_true")
    a = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    choice = broker.find("jar")
    if isinstance(choice, broker.Absent):
        choice = broker.find("external")
    if isinstance(choice, broker.Absent):
        sys.exit(f"a benchmark needs a real Kafka: {choice.reason}")
    with choice.broker(jvm="full") as running, tempfile.TemporaryDirectory() as directory:
        rows = [_round(running.bootstrap, Path(directory), a.count, a.faust, i) for i in range(a.rounds)]
        found: dict[str, Any] = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        found["latency"] = [_latency(running.bootstrap, Path(directory), rate) for rate in a.rates]
        text = _table(found, rows, a)
        if a.control_pairs:
            text += "\n" + _control(running.bootstrap, Path(directory), PAIR_COUNT, a.control_pairs)
        if a.profile:
            text += "\n" + _profile(running.bootstrap, Path(directory), min(a.count, 200_000))
    print(text)
    if a.write:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(text)


def _installation(bootstrap: str, directory: Path, prefix: str) -> Settings:
    home = directory / prefix
    home.mkdir()
    (home / "policy.yaml").write_text(policy.text())
    settings = load(kafka=bootstrap, state_dir=str(home), policy=str(home / "policy.yaml"), partitions=PARTITIONS,
                    prefix=prefix, metrics_port=0)  # fmt: skip
    wiring.make_router_keys(settings)
    asyncio.run(apply(wiring.kafka_client(settings), wiring.topic_set(settings)))
    return settings.model_copy(update={"trust": asyncio.run(make_control_keys(settings))})


@contextmanager
def _controlled(settings: Settings) -> Iterator[None]:
    """Run a control role for as long as the block lasts: without one no router decides anything."""
    flags = ["--kafka", settings.kafka, "--prefix", settings.prefix, "--partitions", str(settings.partitions),
             "--state-dir", str(settings.state_dir), "--trust", settings.trust, "--metrics-port", "0",
             "--log-level", "error"]  # fmt: skip
    with subprocess.Popen([sys.executable, "-m", "hitl_stream", "run", "control", *flags]) as process:
        try:
            yield
        finally:
            process.terminate()


def _round(bootstrap: str, directory: Path, count: int, faust: int, number: int) -> dict[str, float]:
    prefix = f"bench-{number}."
    settings = _installation(bootstrap, directory, prefix)
    filled = asyncio.run(fill(bootstrap, f"{prefix}actions", Bids(PARTITIONS, SEED), count))
    ours = _router(settings, directory / prefix, count)
    # Faust makes a data directory, by default where it was started, and leaves it there.
    data = directory / f"{prefix}faust"
    environment = {**os.environ, "KAFKA": bootstrap, "COUNT": str(faust), "PREFIX": prefix, "DATA": str(data)}
    theirs = json.loads(_run([sys.executable, str(HERE / "faust_process.py")], environment))
    return {
        "fill_per_s": filled,
        **ours,
        "faust_per_s_wall": theirs["per_s_wall"],
        "faust_per_s_cpu": theirs["per_s_cpu"],
        "faust_ratio": ours["per_s_cpu"] / theirs["per_s_cpu"],
    }


def _control(bootstrap: str, directory: Path, count: int, pairs: int) -> str:
    """Measure what the control view costs: pairs of runs, with and without it, each first in every other pair."""
    ratios = []
    for i in range(pairs):
        per_s: dict[str, float] = {}
        for options in ([(), ("--without-control",)], [("--without-control",), ()])[i % 2]:
            prefix = f"pair-{i}-{len(options)}."
            settings = _installation(bootstrap, directory, prefix)
            asyncio.run(fill(bootstrap, f"{prefix}actions", Bids(PARTITIONS, SEED), count))
            per_s["".join(options)] = _router(settings, directory / prefix, count, *options)["per_s_cpu"]
        ratios.append(per_s[""] / per_s["--without-control"])
    each = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
    return (
        f"With the control view ÷ without it, events a CPU second, {pairs} paired runs of {count:,}: median "
        f"**{statistics.median(ratios):.3f}** (reach ≥ 0.95); all: {each}.\n"
    )


def _router(settings: Settings, home: Path, count: int, *options: str) -> dict[str, float]:
    command = [sys.executable, str(HERE / "router_process.py"), settings.kafka, str(home), "--prefix", settings.prefix,
               "--partitions", str(PARTITIONS), "--trust", settings.trust, "--count", str(count), *options]  # fmt: skip
    controlled = settings
    if "--without-control" in options:
        # Its own control role would fence a router of which it hears nothing; a stranger's takes the same share of the
        # machine.
        controlled = _installation(settings.kafka, home, f"beside-{settings.prefix}")
    with _controlled(controlled):
        report: dict[str, float] = json.loads(_run(command, dict(os.environ)))
    return report


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
    if not found:
        sys.exit(f"{' '.join(command)} ended without a report:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return found


def _latency(bootstrap: str, directory: Path, rate: int) -> dict[str, float]:
    prefix = f"latency-{rate}."
    settings = _installation(bootstrap, directory, prefix)
    with _serving(settings, directory / prefix):
        return latency(bootstrap, prefix, PARTITIONS, rate)


@contextmanager
def _serving(settings: Settings, home: Path) -> Iterator[None]:
    """Run a router for as long as the block lasts."""
    command = [sys.executable, str(HERE / "router_process.py"), settings.kafka, str(home), "--prefix", settings.prefix,
               "--partitions", str(PARTITIONS), "--trust", settings.trust, "--serve"]  # fmt: skip
    with _controlled(settings), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ready":
            if process.poll() is not None:
                sys.exit("the router did not start")
        try:
            yield
        finally:
            process.terminate()


def _profile(bootstrap: str, directory: Path, count: int) -> str:
    prefix = "profile."
    settings = _installation(bootstrap, directory, prefix)
    asyncio.run(fill(bootstrap, f"{prefix}actions", Bids(PARTITIONS, SEED), count))
    target = directory / "profile.out"
    _router(settings, directory / prefix, count, "--profile", str(target))
    out = StringIO()
    stats = pstats.Stats(str(target), stream=out)
    stats.strip_dirs().sort_stats("tottime").print_stats(25)
    lines = [line for line in out.getvalue().splitlines() if line.strip()]
    start = next(i for i, line in enumerate(lines) if "ncalls" in line)
    return "## Where the time goes (cProfile, own time)\n\n```\n" + "\n".join(lines[start:]) + "\n```\n"


def _table(found: dict[str, Any], rows: list[dict[str, float]], a: argparse.Namespace) -> str:
    lines = [
        "# The router's speed",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {_machine()}, Python {platform.python_version()}, "
        f"aiokafka {version('aiokafka')}, faust-streaming {version('faust-streaming')}, "
        f"Kafka {broker.kafka_version()} on the same cores. "
        f"`python benchmarks/run.py --count {a.count} --rounds {a.rounds}`, seed {SEED}, {PARTITIONS} partitions, "
        "20 classes and 40 rules, score, window, hash, seal, audit draw, exactly once. Medians of the rounds.",
        "",
        "| figure | measured | reach | rounds |",
        "|---|---|---|---|",
    ]
    names = {
        "per_s_wall": "events a second, wall",
        "per_s_cpu": "events a CPU second of the router",
        "decide_us": "µs to decide one event, wall, within a batch",
        "rss_mb": "memory, MB (max RSS)",
        "faust_per_s_wall": "plain Faust agent, events a second, wall",
        "faust_per_s_cpu": "plain Faust agent, events a CPU second",
        "faust_ratio": "router ÷ Faust, per CPU second",
        "fill_per_s": "appended a second before (not part of it)",
    }
    for name, text in names.items():
        each = ", ".join(f"{row[name]:,.4g}" if row[name] < 1_000 else f"{row[name]:,.0f}" for row in rows)
        measured = f"{found[name]:,.1f}" if found[name] < 1_000 else f"{found[name]:,.0f}"
        lines.append(f"| {text} | {measured} | {REACH.get(name, '')} | {each} |")
    lines += ["", "| rate | events | p50 ms | p99 ms | max ms | lost |", "|---|---|---|---|---|---|"]
    for row in found["latency"]:
        lines.append(
            f"| {row['rate']:,}/s | {row['events']:,} | {row['p50_ms']:.1f} (reach {REACH['p50_ms']}) | "
            f"{row['p99_ms']:.1f} (reach {REACH['p99_ms']}) | {row['max_ms']:.1f} | {row['lost']} |"
        )
    return "\n".join([*lines, ""])


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}"


if __name__ == "__main__":
    main()
