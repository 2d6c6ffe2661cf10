"""One process: it ends on a signal, on the first crash, and in time."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
from mode import Service

from hitl_stream import process
from hitl_stream.core.errors import BrokenError, SettingsError
from hitl_stream.process import serve


class Steady(Service):
    """Runs until it is told to stop, and remembers what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.happened: list[str] = []

    async def on_start(self) -> None:
        self.happened.append("started")

    async def on_stop(self) -> None:
        self.happened.append("stopped")


class Signalling(Steady):
    """Sends its own process a signal once it runs."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number

    async def on_started(self) -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), self.number)


class Failing(Steady):
    """Crashes once it runs, as a partition's task does."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def on_started(self) -> None:
        await self.crash(self.error)


class Refusing(Steady):
    """Cannot start."""

    async def on_start(self) -> None:
        raise SettingsError("no such topic")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_every_service(number: signal.Signals):
    beside, last = Steady(), Signalling(number)
    serve([beside, last])

    assert beside.happened == last.happened == ["started", "stopped"]


def test_a_crash_of_one_service_stops_the_others_and_is_raised():
    beside = Steady()
    with pytest.raises(BrokenError, match="ValueError: a bug") as raised:
        serve([beside, Failing(ValueError("a bug"))])

    assert beside.happened == ["started", "stopped"]
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_crash_for_a_reason_of_ours_is_raised_as_it_is():
    with pytest.raises(BrokenError, match="partition 3: no"):
        serve([Failing(BrokenError("partition 3: no"))])


def test_a_service_that_cannot_start_ends_the_others():
    beside = Steady()
    with pytest.raises(SettingsError, match="no such topic"):
        serve([beside, Refusing()])

    assert beside.happened == ["started", "stopped"]


def test_a_service_that_does_not_stop_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch):
    class Stuck(Signalling):
        async def on_stop(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.2)
    started = time.monotonic()
    serve([Stuck(signal.SIGTERM)])

    assert time.monotonic() - started < 5.0
