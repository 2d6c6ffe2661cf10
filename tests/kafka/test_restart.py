"""A restart with a large window: how long until its partitions are open again, and that nobody else notices."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer

from faults.harness import TENANT, Site, action_bytes, finished
from hitl_stream.wire.home import home
from support.kafka import running, within

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(900)]

ACCOUNTS = 200
OTHERS_WAIT_S_MAX = 1.5
"""How old the newest answer beside a restart may become; a rebalance would stop everybody for the session's length."""


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    with running("external", "jar", jvm="full") as broker:
        yield broker.bootstrap


def test_a_restart_with_a_large_window_disturbs_nobody(
    broker: str, full: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    ids = 1_000_000 if full else 100_000

    async def scenario() -> tuple[float, float, int, float]:
        here = Site(broker, tmp_path, partitions=4)
        try:
            await here.begin()
            await fill(here, ids)
            for slot in (0, 1):
                here.start(slot)
            await here.opened()
            await finished(here, 300.0)
            both(here)
            victim, other = here.routers[0], here.routers[1]
            beating = asyncio.ensure_future(beat(here, sorted(other.open_now())))
            await asyncio.sleep(2.0)
            assignments = len(list(other.said("partitions assigned")))
            victim.kill()
            killed = time.time()
            again = here.start(0)
            await until_open(again)
            down_s = time.time() - killed
            await asyncio.sleep(1.0)
            beating.cancel()
            restored = sum(event["restored"] for event in again.said("partition open"))
            assert len(list(other.said("partitions assigned"))) == assignments, "the other member was rebalanced"
            await finished(here, 60.0)
            worst = await slowest(here, sorted(other.open_now()), killed)
            resumed = again.resumed_s()
            assert resumed is not None
            return resumed, down_s, restored, worst
        finally:
            here.stop()

    resumed, down_s, restored, worst = within(scenario(), 850.0)
    with capsys.disabled():
        print(
            f"\n  restart with {ids} ids: open {resumed:.1f} s after its start ({down_s:.1f} s after the kill), "
            f"{restored} records replayed; the other member's slowest answer meanwhile {worst:.3f} s"
        )
    assert restored > ids / 4
    assert worst < OTHERS_WAIT_S_MAX


def both(here: Site) -> None:
    """See to it that each member has partitions, whoever came first."""
    assert all(router.open_now() for router in here.routers.values())


async def until_open(router: object) -> None:
    resumed: Callable[[], float | None] = router.resumed_s  # type: ignore[attr-defined]
    async with asyncio.timeout(120):
        while resumed() is None:  # noqa: ASYNC110  a process sets no event
            await asyncio.sleep(0.1)


async def fill(here: Site, ids: int) -> None:
    """Put so many distinct actions into the log."""
    partitions, topic = here.settings.partitions, here.name("actions")
    producer = AIOKafkaProducer(bootstrap_servers=here.bootstrap, acks=1, max_batch_size=512 * 1024, linger_ms=5)
    await producer.start()
    template = action_bytes("act-NUMBER", "acc-NAME", "cmp-0")
    homes = {n: home(TENANT, f"acc-{n}", partitions) for n in range(ACCOUNTS)}
    try:
        last: dict[int, object] = {}
        for n in range(ids):
            account = n % ACCOUNTS
            value = template.replace(b"NUMBER", b"%d" % n).replace(b"NAME", b"%d" % account)
            last[homes[account]] = await producer.send(topic, value, partition=homes[account])
        await producer.flush()
    finally:
        await producer.stop()


async def beat(here: Site, partitions: list[int]) -> None:
    """Send an action to each of these partitions every 50 ms."""
    count, topic = here.settings.partitions, here.name("actions")
    accounts = {}
    for n in range(ACCOUNTS):
        accounts.setdefault(home(TENANT, f"beat-{n}", count), f"beat-{n}")
    producer = AIOKafkaProducer(bootstrap_servers=here.bootstrap)
    await producer.start()
    n = 0
    try:
        while True:
            for partition in partitions:
                n += 1
                value = action_bytes(f"beat-{n}", accounts[partition], "cmp-0")
                await producer.send(topic, value, partition=partition)
            await asyncio.sleep(0.05)
    finally:
        await producer.stop()


async def slowest(here: Site, partitions: list[int], since: float) -> float:
    """Return the longest time from an input to its answer in these partitions, of what was appended since then."""
    from faults.harness import all_records

    appended = {}
    async for record in all_records(here, "actions"):
        if record.partition in partitions and record.timestamp / 1000 >= since and b'"beat-' in record.value:
            appended[f"{record.topic}/{record.partition}/{record.offset}".encode()] = record.timestamp
    worst = 0
    for topic in ("execute", "review", "escalation", "closed"):
        async for record in all_records(here, topic):
            place = record.value[7 : record.value.index(b"#")]
            if place in appended:
                worst = max(worst, record.timestamp - appended[place])
    assert len(appended) > 20
    return worst / 1000
