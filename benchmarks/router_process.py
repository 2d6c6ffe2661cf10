"""The router of a benchmark, in a process of its own: it decides a backlog and prints what that took."""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import uvloop

from hitl_stream import logs, wiring
from hitl_stream.lane.guard import Unguarded
from hitl_stream.lane.lane import Lane
from hitl_stream.lane.observe import Silent
from hitl_stream.process import GC_THRESHOLDS
from hitl_stream.settings import load

WARM = 50_000
"""Events that are not counted: the first batches fill caches and grow buffers."""


class Meter(Silent):
    """Counts committed records, and starts its clocks after the warm-up."""

    def __init__(self, count: int) -> None:
        self.count, self.seen, self.restored, self.opening_s = count, 0, 0, 0.0
        self.batches: list[tuple[int, float, float]] = []
        self.started: tuple[int, float, float] | None = None
        self.done = asyncio.Event()

    def opened(self, partition: int, seconds: float, restored: int) -> None:
        self.restored += restored
        self.opening_s = max(self.opening_s, seconds)

    def committed(
        self, partition: int, records: int, decide_s: float, commit_s: float, ages_ms: Any, tally: Any
    ) -> None:
        self.seen += records
        self.batches.append((records, decide_s, commit_s))
        if self.started is None and self.seen >= WARM:
            self.started = (self.seen, time.perf_counter(), time.process_time())
        if self.seen >= self.count:
            self.done.set()

    def report(self) -> dict[str, float]:
        assert self.started is not None
        seen, wall, cpu = self.started
        count, wall, cpu = self.seen - seen, time.perf_counter() - wall, time.process_time() - cpu
        records = sum(batch[0] for batch in self.batches)
        return {
            "events": count,
            "per_s_wall": count / wall,
            "per_s_cpu": count / cpu,
            "cpu_share": cpu / wall,
            "decide_us": sum(batch[1] for batch in self.batches) / records * 1e6,
            "batch": records / len(self.batches),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


async def run(a: argparse.Namespace) -> dict[str, float]:
    settings = load(kafka=a.kafka, state_dir=str(a.directory), policy=str(a.directory / "policy.yaml"), prefix=a.prefix,
                    partitions=a.partitions, metrics_port=0, window_ids_max=a.window, trust=a.trust)  # fmt: skip
    _, *stops, lane = wiring.router_services(settings)
    assert isinstance(lane, Lane)
    lane.observer = meter = Meter(a.count)
    if a.without_control:
        lane.guard, stops = Unguarded(), []
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    for service in (*stops, lane):
        await service.start()
    if a.serve:
        while not lane.ready:  # noqa: ASYNC110 - a lane has no event for it, and this is a benchmark
            await asyncio.sleep(0.05)
        print("ready", flush=True)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, meter.done.set)
    await meter.done.wait()
    report = {} if a.serve else meter.report()
    for service in (lane, *reversed(stops)):
        await service.stop()
    return report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kafka")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--prefix", default="hitl.")
    parser.add_argument("--trust", required=True, help="digest of the first keys record; a control role must run")
    parser.add_argument("--count", type=int, default=2**62)
    parser.add_argument("--serve", action="store_true", help="run until SIGTERM instead of measuring")
    parser.add_argument("--window", type=int, default=1_000_000)
    parser.add_argument("--profile", type=Path)
    parser.add_argument("--without-control", action="store_true", help="no lease, no acks: what the control view costs")
    a = parser.parse_args()
    logs.configure(level="warning")
    profiler = None
    if a.profile:
        import cProfile

        profiler = cProfile.Profile()
        profiler.enable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(run(a))
    if profiler is not None:
        profiler.disable()
        profiler.dump_stats(a.profile)
    if not a.serve:
        sys.stdout.buffer.write(orjson.dumps(report) + b"\n")


if __name__ == "__main__":
    main()
