"""Input to committed output, as a read_committed reader sees it, at a steady rate."""

from __future__ import annotations

import asyncio
import time

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from fill import Bids, now_text

TICK_S = 0.002
SETTLE_S = 2.0
MARK = b'"action_id":"act-'
OUTPUTS = ("execute", "review", "escalation", "recommendations", "closed", "dlq")


async def _latency(bootstrap: str, prefix: str, partitions: int, rate: int, seconds: float) -> dict[str, float]:
    reader = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", auto_offset_reset="latest", fetch_max_wait_ms=20
    )
    await reader.start()
    reader.assign([TopicPartition(prefix + name, p) for name in OUTPUTS for p in range(partitions)])
    await reader.seek_to_end()
    writer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=1, acks=1)
    await writer.start()
    bids, sent, got = Bids(partitions, seed=rate), {}, []
    bids.count = time.time_ns() // 1_000_000 % 100_000_000
    total = int(rate * seconds)

    async def send() -> None:
        start, done = time.perf_counter(), 0
        while done < total:
            due = min(total, int((time.perf_counter() - start) * rate))
            stamp = now_text()
            while done < due:
                number = bids.count
                partition, key, value = bids.next(stamp)
                sent[b"%09d" % number] = time.perf_counter()
                await writer.send(prefix + "actions", value, key=key, partition=partition)
                done += 1
            await asyncio.sleep(TICK_S)
        await writer.flush()

    async def receive() -> None:
        quiet = time.perf_counter()
        while len(got) < total and time.perf_counter() - quiet < 10:
            for batch in (await reader.getmany(timeout_ms=200)).values():
                now = quiet = time.perf_counter()
                for record in batch:
                    at = record.value.find(MARK) + len(MARK)
                    started = sent.pop(record.value[at : record.value.index(b'"', at)], None)
                    if started is not None:
                        got.append((now - started) * 1e3)

    await asyncio.gather(send(), receive())
    await writer.stop()
    await reader.stop()
    skip = int(len(got) * SETTLE_S / seconds)
    measured = sorted(got[skip:])
    return {
        "rate": rate,
        "events": len(measured),
        "lost": total - len(got),
        "p50_ms": measured[len(measured) // 2],
        "p99_ms": measured[int(len(measured) * 0.99)],
        "max_ms": measured[-1],
    }


def latency(bootstrap: str, prefix: str, partitions: int, rate: int, seconds: float = 12.0) -> dict[str, float]:
    """Send `rate` bids a second for so long; return percentiles in milliseconds, without the first two seconds."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_latency(bootstrap, prefix, partitions, rate, seconds))
