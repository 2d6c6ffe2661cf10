"""Reading from outside: what goes wrong with a consumer's end does not hide what went wrong before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hitl_stream.core.errors import UnreachableError
from hitl_stream.lane import reader

CLIENT = {"bootstrap_servers": "nowhere:1"}


class Consumer:
    """A consumer whose broker goes away: as aiokafka's, its `stop` ends as cancelled by a fetch of its own."""

    def __init__(self, **_: Any) -> None:
        self.stopping = 0

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopping += 1
        raise asyncio.CancelledError


def test_an_error_is_told_although_the_consumer_ends_as_cancelled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "_Consumer", Consumer)

    async def use() -> None:
        async with reader.started(CLIENT, committed=True):
            raise UnreachableError("nothing to read")

    with pytest.raises(UnreachableError, match="nothing to read"):
        asyncio.run(use())


def test_whoever_is_cancelled_while_it_reads_stays_cancelled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "_Consumer", Consumer)
    used: list[Any] = []

    async def use(begun: asyncio.Event) -> None:
        async with reader.started(CLIENT, committed=True) as consumer:
            used.append(consumer)
            begun.set()
            await asyncio.sleep(3_600)

    async def cancel() -> None:
        begun = asyncio.Event()
        task = asyncio.ensure_future(use(begun))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert used[0].stopping == 1
