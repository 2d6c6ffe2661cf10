"""Starts one role as `hitl run ROLE` does, in a world that is worse. Product code never reads these variables.

HITL_RELEASE_MS_MIN=500   how long a release must wait, in the place of a minute
For control alone:
HITL_FENCES=no            believe that every id is fenced, and fence none
For a router alone:
HITL_STOPS=0.05           a guard that stops so large a share of the batches, for which its epoch moved
HITL_PLANT=…              one of `PLANTS`: a check that finds nothing wrong with these bugs is no check
HITL_VIA_PORT=9092:4711   whatever Kafka's port is asked for, go to the other one, where a proxy listens
HITL_SLEEP_IF=…           if this file is there, fall asleep (SIGSTOP) before a commit whose last check has passed
HITL_DIE_IN_PASS=…        if this file is there, die (SIGKILL) in the middle of a pass
For an executor alone:
HITL_SLEEP_IN_CALL=…      if this file is there, fall asleep (SIGSTOP) as a platform call's request goes to the socket
"""

from __future__ import annotations

import asyncio
import inspect
import os
import random
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp.http_writer import StreamWriter
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection

from hitl_stream.core import control as control_module
from hitl_stream.lane import batches as batches_module
from hitl_stream.lane.control_view import ControlView
from hitl_stream.lane.guard import Guard, Unguarded
from hitl_stream.lane.lane import Lane
from hitl_stream.lane.step import Output, Result
from hitl_stream.lane.transaction import Transactions
from hitl_stream.roles import control as control_role
from hitl_stream.roles import router as router_module
from hitl_stream.roles.router_state import RouterDraft

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


def no_lease() -> None:
    """Emit for ever on the first lease."""
    ControlView.may_emit = lambda self: bool(self._lease_until_ms)  # type: ignore[method-assign]


def no_order() -> None:
    """Let what comes go past what lies parked."""
    RouterDraft.blocker = lambda self, keys, order=None: None  # type: ignore[method-assign]


PLANTS: Mapping[str, Callable[[], None]] = {
    function.__name__: function
    for function in (commit_early, state_early, no_restore, delivery_unawaited, no_lease, no_order)
}


def via(ports: str) -> None:
    """Connect to another port than Kafka says."""
    real, proxy = map(int, ports.split(":"))
    create = AIOKafkaConnection.__init__

    def elsewhere(self: AIOKafkaConnection, host: str, port: int, **options: Any) -> None:
        create(self, *(("127.0.0.1", proxy) if port == real else (host, port)), **options)

    AIOKafkaConnection.__init__ = elsewhere


def _happens(file: Path, number: signal.Signals) -> None:
    """Send this process a signal if the file is there, once."""
    if file.exists():
        file.unlink()
        os.kill(os.getpid(), number)


def sleep_before_commit(file: Path) -> None:
    """Fall asleep where a commit has been decided on and not been sent."""
    commit = AIOKafkaProducer.commit_transaction

    async def sleeping(self: AIOKafkaProducer) -> None:
        _happens(file, signal.SIGSTOP)
        await commit(self)

    AIOKafkaProducer.commit_transaction = sleeping


def die_in_pass(file: Path) -> None:
    """Die after the first batch of a pass is committed and before its second."""
    again = batches_module.Batches._again

    async def dying(self: Any, batch: Any) -> bool:
        done = await again(self, batch)
        _happens(file, signal.SIGKILL)
        return done

    batches_module.Batches._again = dying  # type: ignore[method-assign]


def sleep_in_call(file: Path) -> None:
    """Fall asleep where a call's request has left for the socket, and no timer and no switch can stop it any more."""
    write, writelines = StreamWriter._write, StreamWriter._writelines

    def written(self: StreamWriter, chunk: Any) -> None:
        if bytes(chunk[:4]) == b"POST":
            _happens(file, signal.SIGSTOP)
        write(self, chunk)

    def lines(self: StreamWriter, chunks: Any) -> None:
        if bytes(chunks[0][:4]) == b"POST":
            _happens(file, signal.SIGSTOP)
        writelines(self, chunks)

    StreamWriter._write = written  # type: ignore[method-assign]
    StreamWriter._writelines = lines  # type: ignore[method-assign]


def fence_nothing() -> None:
    """Take every fence for done."""

    async def nothing(*arguments: Any) -> None:
        pass

    control_role.fence = nothing  # type: ignore[assignment]


def worsen_router() -> None:
    """Do to a router what is asked for."""
    take = os.environ.pop
    share = float(take("HITL_STOPS", "0"))
    if share:
        stop_at_random(share)
    if plant := take("HITL_PLANT", ""):
        PLANTS[plant]()
    if ports := take("HITL_VIA_PORT", ""):
        via(ports)
    if file := take("HITL_SLEEP_IF", ""):
        sleep_before_commit(Path(file))
    if file := take("HITL_DIE_IN_PASS", ""):
        die_in_pass(Path(file))


def main() -> None:
    """Do what is asked for, then be `hitl run ROLE`."""
    role = sys.argv[1]
    if milliseconds := os.environ.pop("HITL_RELEASE_MS_MIN", ""):
        control_module.RELEASE_MS_MIN = int(milliseconds)
    if role == "router":
        worsen_router()
    elif file := os.environ.pop("HITL_SLEEP_IN_CALL", ""):
        sleep_in_call(Path(file))
    elif os.environ.pop("HITL_FENCES", "") == "no":
        fence_nothing()
    from hitl_stream.cli.main import main as cli

    sys.argv[1:] = ["run", role]
    sys.exit(cli())


if __name__ == "__main__":
    main()
