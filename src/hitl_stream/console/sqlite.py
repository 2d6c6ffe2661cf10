"""SQLite: one host, nothing to install. A write-ahead log, one thread that writes and one that reads.

The standard library's module in two threads of our own: what a wrapper would add is the same two threads.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from hitl_stream.console.database import DatabaseError, Row, Tx

T = TypeVar("T")
BUSY_S = 10.0
"""How long a write waits for another process's, such as `hitl user` beside a running console."""
PRAGMAS = ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = NORMAL", "PRAGMA foreign_keys = ON")
"""With WAL, NORMAL can lose the last transactions with the power, and never harms the file: the log replays them."""
DURABLE = "PRAGMA synchronous = FULL"
"""For what no log could bring back."""
FILE_MODE = 0o600


class SqliteDatabase:
    """A file. `durable`: each commit is on the disk before it counts. The threads start with the first use."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._writer = _Connection(path, durable=durable)
        self._reader = _Connection(path, durable=durable)

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run work that only looks, beside whatever is being written."""
        return await self._reader.run(work, "BEGIN")

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run work that may change something, after the work before it."""
        return await self._writer.run(work, "BEGIN IMMEDIATE")

    async def close(self) -> None:
        """Let go of the file."""
        await self._reader.close()
        await self._writer.close()


class _Connection:
    """A connection, and the one thread that uses it."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self.path = path
        self.durable = durable
        self.connection: sqlite3.Connection | None = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"sqlite {path.name}")

    async def run(self, work: Callable[[Tx], T], begin: str) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, self._run, work, begin)

    def _run(self, work: Callable[[Tx], T], begin: str) -> T:
        try:
            if self.connection is None:
                self.connection = self._open()
            self.connection.execute(begin)
            try:
                result = work(SqliteTx(self.connection))
                self.connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # it was undone by what went wrong
                    self.connection.execute("ROLLBACK")
                raise
        except (sqlite3.OperationalError, sqlite3.DatabaseError, OSError) as error:
            if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
                raise
            raise DatabaseError(
                f"{self.path}: {error}; expected an SQLite file that this user may write to, on a disk of this host"
            ) from error
        return result

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=FILE_MODE)
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        for pragma in (*PRAGMAS, *((DURABLE,) if self.durable else ())):
            connection.execute(pragma)
        return connection

    async def close(self) -> None:
        if self.connection is not None:
            await asyncio.get_running_loop().run_in_executor(self.thread, self.connection.close)
            self.connection = None
        self.thread.shutdown()


class SqliteTx:
    """One transaction. Whoever writes has the whole file: nothing needs a lock besides."""

    skip_locked = ""
    lock = ""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return what it returns."""
        return self._connection.execute(sql, tuple(values)).fetchall()

    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement once for each row of values."""
        self._connection.executemany(sql, [tuple(row) for row in values])

    def alone(self, name: str) -> None:
        """Do nothing: whoever writes is alone."""

    def explain(self, sql: str, values: Sequence[object] = ()) -> str:
        """Return the query plan, a step a line."""
        return "\n".join(str(row[3]) for row in self.rows(f"EXPLAIN QUERY PLAN {sql}", values))
