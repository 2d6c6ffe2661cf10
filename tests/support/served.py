"""A console of `support.console` that listens on a port, in a thread of its own, for a browser to look at."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hitl_stream.console.app import Web
from hitl_stream.console.browser import COOKIE
from support.console import PASSWORD, Front, front
from support.make import FakeRecord

T = TypeVar("T")
START_S_MAX = 30


class Served:
    """What a browser sees at `url`; `front` is what stands behind it, and is touched in its own thread only: `do`."""

    def __init__(self, url: str, found: Front, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.front, self._loop = url, found, loop

    def do(self, work: Callable[[Front], Awaitable[T]]) -> T:
        """Do something with the console, where it runs."""

        async def doing() -> T:
            return await work(self.front)

        return asyncio.run_coroutine_threadsafe(doing(), self._loop).result(START_S_MAX)

    def fold(self, *records: FakeRecord) -> None:
        """Let records be read."""
        self.do(lambda found: found.fold(*records))

    def session(self, name: str) -> str:
        """Sign somebody in, and return the secret of the session."""

        async def begin(found: Front) -> str:
            begun = await found.people.sign_in(name, PASSWORD, found.now_ms)
            assert begun is not None, name
            return begun.secret

        return self.do(begin)

    def sign_in(self, context: Any, name: str) -> None:
        """Give a browser's context the session of somebody."""
        context.add_cookies([{"name": COOKIE, "value": self.session(name), "url": self.url, "sameSite": "Strict"}])


@contextlib.contextmanager
def served(directory: Path, *records: FakeRecord, **parts: Any) -> Iterator[Served]:
    """Serve a console into which records were folded, with the accounts of `support.console.PEOPLE`."""
    ready: list[Served] = []
    started, stop = threading.Event(), asyncio.Event()
    failed: list[BaseException] = []

    async def serve() -> None:
        async with front(directory, *records, **parts) as found:
            web = Web(found.app, "127.0.0.1", 0)
            await web.on_start()
            ready.append(Served(web.url, found, asyncio.get_running_loop()))
            started.set()
            await stop.wait()
            await web.on_stop()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # the test's own thread says it
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(START_S_MAX)
    try:
        if ready:
            yield ready[0]
            ready[0]._loop.call_soon_threadsafe(stop.set)
    finally:
        if ready and not stop.is_set():
            ready[0]._loop.call_soon_threadsafe(stop.set)
        thread.join(START_S_MAX)
    if failed:
        raise failed[0]
