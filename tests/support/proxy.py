"""A TCP proxy between one client and a broker, that can be cut: both ways, or one.

While a way is cut its bytes vanish and the connections stay, as with a broken switch port. Healing closes what was
open, since bytes are missing from it; clients connect anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK_BYTES = 65_536


class Proxy:
    """Forwards to `host:port` of the broker. `port` is where it listens."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self.host, self.target = host, int(port)
        self.port = 0
        self.up = self.down = True
        """Whether bytes to the broker, and from it, get through."""
        self.delay_s = 0.0
        self.forwarded = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self, *, up: bool = True, down: bool = True) -> None:
        """Let bytes to the broker (`up`) and from it (`down`) vanish from now on."""
        self.up, self.down = not up, not down

    def heal(self) -> None:
        """Let everything through again, on new connections."""
        self.up = self.down = True
        for writer in list(self._writers):
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        try:
            upstream, to_broker = await asyncio.open_connection(self.host, self.target)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, to_broker}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, to_broker, up=True))
                group.create_task(self._pump(upstream, writer, up=False))
        except* OSError:
            pass
        finally:
            for one in (writer, to_broker):
                self._writers.discard(one)
                one.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, up: bool) -> None:
        while chunk := await source.read(CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            if self.up if up else self.down:
                self.forwarded += len(chunk)
                sink.write(chunk)
                await sink.drain()
        # One side has ended: so does the connection.
        raise ConnectionResetError


@asynccontextmanager
async def proxied(bootstrap: str) -> AsyncIterator[Proxy]:
    """Run a proxy before a broker."""
    proxy = Proxy(bootstrap)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.heal()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await server.wait_closed()
