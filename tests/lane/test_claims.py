"""Control is told of a producer before it starts, and until it is dropped: what EFFECTIVE rests on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka.errors import KafkaError, ProducerFenced

from support.bench import NUMBER, Bench
from support.toy import Hand


class Told(Hand):
    """Keeps, for each announcement, what was claimed and whether a producer was there; some of them fail."""

    def __init__(self, started: Callable[[], bool], failures: int = 0) -> None:
        super().__init__()
        self.started = started
        self.failures = failures
        self.announced: list[tuple[tuple[int, ...], bool]] = []

    async def announce(self) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise KafkaError("not delivered")
        self.announced.append((self.doing().claims, self.started()))


def watched(failures: int = 0) -> tuple[Bench, Told]:
    bench = Bench()
    guard = Told(lambda: bench.owner is not None, failures)
    bench.guard = bench.lane.guard = guard
    guard.watch(bench.lane.doing)
    return bench, guard


def test_a_partition_is_claimed_delivered_before_its_producer_starts():
    async def scenario() -> None:
        bench, guard = watched()
        async with bench.working():
            await bench.settled()
            assert guard.announced == [((NUMBER,), False)]
            assert bench.lane.doing().claims == bench.lane.doing().partitions == (NUMBER,)

    asyncio.run(scenario())


def test_no_producer_starts_while_the_claim_cannot_be_delivered():
    async def scenario() -> None:
        bench, guard = watched(failures=2)
        async with bench.working():
            await bench.settled()
            assert guard.announced == [((NUMBER,), False)]
            assert guard.failures == 0

    asyncio.run(scenario())


def test_it_is_claimed_until_the_producer_is_dropped():
    async def scenario() -> None:
        bench, guard = watched()
        claimed: list[tuple[int, ...]] = []

        async def dropping() -> None:
            claimed.append(bench.lane.doing().claims)

        bench.dropping = dropping  # type: ignore[method-assign]
        async with bench.working():
            await bench.settled()
        assert claimed == [(NUMBER,)]
        assert bench.lane.doing().claims == ()
        assert guard.told[-1].claims == (), "and that is told at once"

    asyncio.run(scenario())


def test_whoever_is_fenced_claims_anew_before_it_opens_again():
    async def scenario() -> None:
        bench, guard = watched()

        def fenced() -> None:
            bench.owner = None
            raise ProducerFenced

        bench.faults = [fenced]
        async with bench.working():
            bench.append("in", b"one")
            await bench.until(lambda: len(guard.announced) == 2)
            await bench.settled()
            assert guard.announced == [((NUMBER,), False)] * 2
            assert bench.answers("in") == [0]

    asyncio.run(scenario())
