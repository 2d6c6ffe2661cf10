"""Starts one router as `hitl run router` does, optionally with a bug planted: a check that finds nothing wrong with
these is no check. Product code never reads these variables.

HITL_STOPS=0.05   a control view that stops so large a share of the batches, for which an epoch moved
HITL_PLANT=…      one of `PLANTS`
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from aiokafka import AIOKafkaConsumer

from hitl_stream.core.window import Draft
from hitl_stream.lane import lane as lane_module
from hitl_stream.lane.lane import Lane
from hitl_stream.lane.step import Output, Result
from hitl_stream.lane.transaction import Transactions
from hitl_stream.roles import router as router_module

EARLY_S = 0.2
"""What a planted bug waits where the right code would not: so that kills and pauses fall into the gap."""


class RandomStops:
    """A control view whose epoch moves between a batch's decision and its commit."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.epoch = 0

    async def catch_up(self) -> None:
        pass

    def stops(self, epoch: int, outputs: Sequence[Output]) -> bool:
        return True

    def maybe_move(self) -> None:
        if random.random() < self.share:
            self.epoch += 1


def stop_at_random(share: float) -> None:
    """Give every lane such a view."""
    create, decide = Lane.__init__, lane_module.Slice._fitting

    def with_view(self: Lane, *arguments: Any, **named: Any) -> None:
        create(self, *arguments, **named | {"control": RandomStops(share)})

    def move(self: Any, outputs: Any, batch: Any) -> Any:
        self.lane.control.maybe_move()
        return decide(self, outputs, batch)

    Lane.__init__ = with_view  # type: ignore[method-assign]
    lane_module.Slice._fitting = move  # type: ignore[method-assign]


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
        return replace(result, changes=Draft(state.window))

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
