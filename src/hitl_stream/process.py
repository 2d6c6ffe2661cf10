"""One process: its services start together, and end together, on a signal or on the first crash.

mode's own Worker would do, but for its second of sleep at every stop, its handlers that open a debugger on SIGUSR2, and
an exit code that does not tell a crash from a bad setting. The services are mode services all the same, so a Faust app
is one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
from collections.abc import Iterable

import structlog
import uvloop
from mode import Service
from mode.types import ServiceT

from hitl_stream.core.errors import BrokenError, HitlError

STOP_TIMEOUT_S = 25.0
"""SIGTERM is answered inside the 30 s that orchestrators give."""
CRASH_POLL_S = 0.05
GC_THRESHOLDS = (50_000, 20, 100)
"""The window holds millions of live objects: at Python's default thresholds half the CPU goes into walking them."""


class _Root(Service):
    """The service that all others hang on, so that a crash of one is a crash of the process."""

    def __init__(self, services: Iterable[ServiceT]) -> None:
        super().__init__()
        self.services = tuple(services)

    def on_init_dependencies(self) -> Iterable[ServiceT]:
        return self.services


def serve(services: Iterable[ServiceT]) -> None:
    """Run services until a signal; raise what crashed one of them.

    Raises:
        HitlError: a service could not start, or crashed, for a reason of ours.
        BrokenError: it crashed for any other reason.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(services))


async def _serve(services: Iterable[ServiceT]) -> None:
    log = structlog.get_logger()
    gc.set_threshold(*GC_THRESHOLDS)
    root = _Root(services)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    crashed = loop.create_task(_crash_of(root))
    signalled = loop.create_task(stopping.wait())
    starting = loop.create_task(root.start())
    try:
        await asyncio.wait((starting, signalled, crashed), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            gc.collect()
            gc.freeze()
            await asyncio.wait((signalled, crashed), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (crashed, signalled, starting):
            task.cancel()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await root.stop()
        except TimeoutError:
            log.error("not stopped in time; the log replays what was under way", seconds=STOP_TIMEOUT_S)
        with contextlib.suppress(Exception):
            await asyncio.gather(crashed, signalled, starting, return_exceptions=True)
    reason = root.crash_reason
    if isinstance(reason, HitlError):
        raise reason
    if reason is not None:
        raise BrokenError(f"{type(reason).__name__}: {reason}") from reason


async def _crash_of(root: Service) -> None:
    while not root.crashed:  # noqa: ASYNC110 - mode tells of a crash by an attribute only
        await asyncio.sleep(CRASH_POLL_S)
