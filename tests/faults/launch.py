"""Starts one router as `hitl run router` does, optionally with a bug planted: a check that finds nothing wrong with
these is no check. Product code never reads these variables.

HITL_STOPS=0.05   a guard that stops so large a share of the batches, for which its epoch moved
HITL_PLANT=…      one of `PLANTS`
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer

from hitl_stream.lane import batches as batches_module
from hitl_stream.lane.guard import Guard, Unguarded
from hitl_stream.lane.lane import Lane
from hitl_stream.lane.step import Output, Result
from hitl_stream.lane.transaction import Transactions
from hitl_stream.roles import router as router_module

EARLY_S = 0.2
"""What a planted bug waits where the right code would not: so that kills and pauses fall into the gap."""


class RandomStops:
    """Another guard, but that its epoch seems to move, every so often, between a batch's decision and its commit."""

    def __init__(self, guard: Guard, share: float) -> None:
        self._guard = guard
        self._share = share
        self._moved: set[Any] = set()
        """The tasks, one for each partition, for which it seems so."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guard, name)

    @property
    def epoch(self) -> int:
        return self._guard.epoch + (asyncio.current_task() in self._moved)

    def stops(self, epoch: int) -> bool:
        task = asyncio.current_task()
        moved = task in self._moved
        self._moved.discard(task)
        return moved or self._guard.stops(epoch)

    def maybe_move(self) -> None:
        if random.random() < self._share:
            self._moved.add(asyncio.current_task())


def stop_at_random(share: float) -> None:
    """Give every lane such a guard."""
    create, fitting = Lane.__init__, batches_module.fitting

    def with_stops(self: Lane, *arguments: Any, **named: Any) -> None:
        given = inspect.signature(create).bind(self, *arguments, **named).arguments
        given["guard"] = RandomStops(given.get("guard") or Unguarded(), share)
        create(**given)

    def move(piece: Any, outputs: Any, batch: Any) -> Any:
        piece.lane.guard.maybe_move()
        return fitting(piece, outputs, batch)

    Lane.__init__ = with_stops  # type: ignore[method-assign]
    batches_module.fitting = move


def _consumers() -> list[AIOKafkaConsumer]:
    """Keep every lane's consumer within reach."""
    found: list[AIOKafkaConsumer] = []
    start = Lane.on_start

    async def started(self: Lane) -> None:
        await start(self)
        found.append(self.consumer)

    Lane.on_start = started  # type: ignore[method-assign]
    return found


def commit_early() -> None:
    """Commit the offsets before the transaction, outside of it."""
    consumers = _consumers()
    commit = Transactions.commit

    async def early(self: Transactions, outputs: Any, offsets: Any, stopped: Callable[[], bool]) -> bool:
        (consumer,) = consumers
        await consumer.commit(offsets)
        await asyncio.sleep(EARLY_S)
        return await commit(self, outputs, offsets, stopped)

    Transactions.commit = early  # type: ignore[method-assign]


def state_early() -> None:
    """Touch the state while deciding, instead of after a known commit."""
    decide = router_module.Router.__call__

    def touching(self: Any, batch: Any, state: Any, moment: Any) -> Result:
        result = decide(self, batch, state, moment)
        state.apply(result.changes)
        return replace(result, changes=state.draft())

    router_module.Router.__call__ = touching  # type: ignore[method-assign]


def no_restore() -> None:
    """Open with an empty window."""
    create = Lane.__init__

    def without(self: Lane, spec: Any, *arguments: Any, **named: Any) -> None:
        create(self, replace(spec, restore=None), *arguments, **named)

    Lane.__init__ = without  # type: ignore[method-assign]


def delivery_unawaited() -> None:
    """Commit without waiting for every delivery, and lose one record batch in ten on the way."""
    write = Transactions._write

    async def careless(self: Transactions, outputs: Sequence[Output]) -> list[Any]:
        if outputs and random.random() < 0.1:
            await write(self, outputs[1:])
        else:
            await write(self, outputs)
        return []

    Transactions._write = careless  # type: ignore[method-assign]


PLANTS: Mapping[str, Callable[[], None]] = {
    function.__name__: function for function in (commit_early, state_early, no_restore, delivery_unawaited)
}


def main() -> None:
    """Plant what is asked for, then be `hitl run router`."""
    share = float(os.environ.pop("HITL_STOPS", "0"))
    if share:
        stop_at_random(share)
    plant = os.environ.pop("HITL_PLANT", "")
    if plant:
        PLANTS[plant]()
    from hitl_stream.cli.main import main as cli

    sys.argv[1:] = ["run", "router"]
    sys.exit(cli())


if __name__ == "__main__":
    main()
