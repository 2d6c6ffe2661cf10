"""Filling an action topic with realistic bids, as fast as one process can."""

from __future__ import annotations

import asyncio
import random
import time
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer

from hitl_stream.wire.home import home

AGENTS, ACCOUNTS, CAMPAIGNS, TENANTS = 37, 211, 100_003, 5
"""So many campaigns that each moves a few times a minute: with fewer, running sums send most bids to review."""
BATCH = 500
TYPES = ("bid.adjust",) * 18 + ("budget.reallocate", "creative.publish")


class Bids:
    """Bids of about 570 bytes: 18 in 20 adjust a bid, changes are N(0, 6 %), one in fifty six times as large."""

    def __init__(self, partitions: int, seed: int = 7) -> None:
        self.random = random.Random(seed)
        self.partitions = partitions
        self.count = 0

    def next(self, stamp: str) -> tuple[int, bytes, bytes]:
        """Return (partition, key, value) of the next bid, proposed at `stamp`."""
        r, i = self.random, self.count
        self.count += 1
        before = round(r.uniform(0.2, 9), 2)
        change = r.gauss(0, 0.06) * (6 if r.random() < 0.02 else 1)
        # A campaign belongs to one account, and an account to one tenant.
        place = i % CAMPAIGNS
        tenant, account, campaign = f"t{place % ACCOUNTS % TENANTS}", f"acc-{place % ACCOUNTS}", f"cmp-{place}"
        value = (
            f'{{"action_id":"act-{i:09d}","tenant":"{tenant}",'
            f'"agent":{{"id":"bidder-{i % AGENTS}","version":"2026.11.3"}},"type":"{r.choice(TYPES)}",'
            f'"changes":[{{"entity":{{"account":"{account}","campaign":"{campaign}"}},"field":"bid",'
            f'"before":"{before:.2f}","after":"{before * (1 + change):.4f}","unit":"EUR"}}],'
            f'"confidence":{r.betavariate(9, 1.2):.4f},"proposed_at":"{stamp}","destination":"google_ads",'
            f'"evidence":[{{"signal":"cpa_7d","value":12.31,"before":13.02,"better":"down","ref":"perf/2026-11-20"}}],'
            '"rationale":"CPA under target for seven days; raise bid to win more of the evening auctions."}'
        )
        return home(tenant, account, self.partitions), f"{tenant}/{account}/{campaign}".encode(), value.encode()


def now_text() -> str:
    """Return the wall clock as an action's `proposed_at`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


async def fill(bootstrap: str, topic: str, bids: Bids, count: int) -> float:
    """Append `count` bids; return how many a second."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, max_batch_size=1 << 20, acks=1, linger_ms=5)
    await producer.start()
    started = time.perf_counter()
    try:
        for start in range(0, count, BATCH * bids.partitions):
            stamp = now_text()
            batches: dict[int, list[tuple[bytes, bytes]]] = {}
            for _ in range(min(BATCH * bids.partitions, count - start)):
                partition, key, value = bids.next(stamp)
                batches.setdefault(partition, []).append((key, value))
            deliveries = []
            for partition, rows in batches.items():
                batch = producer.create_batch()
                for key, value in rows:
                    if batch.append(key=key, value=value, timestamp=None) is None:
                        batch.close()
                        deliveries.append(await producer.send_batch(batch, topic, partition=partition))
                        batch = producer.create_batch()
                        batch.append(key=key, value=value, timestamp=None)
                batch.close()
                deliveries.append(await producer.send_batch(batch, topic, partition=partition))
            await asyncio.gather(*deliveries)
    finally:
        await producer.stop()
    return count / (time.perf_counter() - started)
