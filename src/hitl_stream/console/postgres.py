"""Postgres: several consoles over one view. psycopg 3 with its pool; each piece of work is one transaction in a thread.

Statements run under READ COMMITTED: each sees what was committed before it began. Whatever must not meet another
console's work takes a lock, or a condition in the statement that writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import psycopg
from psycopg.abc import Params
from psycopg_pool import ConnectionPool, PoolTimeout

from hitl_stream.console.database import DatabaseError, Row, Tx

T = TypeVar("T")
CONNECTIONS_MAX = 8
"""A console serves some hundred people, of whom few ask in the same millisecond; more would only wait in the server."""
WAIT_S = 5.0
"""How long work waits for a connection before it is given up."""
RECONNECT_S = 5.0
"""The pool tries anew at ever longer intervals for so long, then with the next work: a server that was away for an hour
is used again as soon as it is back."""
CONNECT_S = 5
STATEMENT_MS_MAX = 30_000


class PostgresDatabase:
    """A database by its DSN. Connections are made with the first use, and made anew where the server left."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pool: ConnectionPool[psycopg.Connection[Row]] | None = None
        self._threads = ThreadPoolExecutor(CONNECTIONS_MAX, thread_name_prefix="postgres")
        self._opening = asyncio.Lock()

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run work that only looks."""
        return await self._run(work)

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run work that may change something."""
        return await self._run(work)

    async def _run(self, work: Callable[[Tx], T]) -> T:
        async with self._opening:
            if self._pool is None:
                self._pool = await self._in_thread(self._open)
            pool = self._pool
        return await self._in_thread(lambda: _transaction(pool, work))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _open(self) -> ConnectionPool[psycopg.Connection[Row]]:
        try:
            # The pool would try until its time is up, and not say why; one connection of its own says it at once.
            psycopg.connect(self._dsn, connect_timeout=CONNECT_S).close()
        except psycopg.ProgrammingError:
            # The driver repeats what it was given, and a password may stand in it.
            raise DatabaseError("the Postgres DSN cannot be read; expected postgresql://user@host/database") from None
        except psycopg.OperationalError as error:
            raise _unreachable(error) from error
        pool = ConnectionPool(
            self._dsn,
            min_size=1,
            max_size=CONNECTIONS_MAX,
            timeout=WAIT_S,
            reconnect_timeout=RECONNECT_S,
            open=False,
            check=ConnectionPool.check_connection,
            configure=_configure,
        )
        pool.open()
        return pool

    async def close(self) -> None:
        """Let go of every connection."""
        if self._pool is not None:
            await self._in_thread(self._pool.close)
            self._pool = None
        self._threads.shutdown()


def _transaction(pool: ConnectionPool[psycopg.Connection[Row]], work: Callable[[Tx], T]) -> T:
    try:
        with pool.connection() as connection, connection.cursor() as cursor:
            return work(PostgresTx(cursor))
    except (psycopg.OperationalError, PoolTimeout) as error:
        raise _unreachable(error) from error


def _configure(connection: psycopg.Connection[Row]) -> None:
    connection.execute(f"SET statement_timeout = {STATEMENT_MS_MAX}")
    connection.commit()


def _unreachable(error: Exception) -> DatabaseError:
    said = str(error).partition("\n")[0]  # below it, the driver guesses why
    return DatabaseError(f"Postgres: {said}; is the server up, and does the DSN name a database of ours?")


class PostgresTx:
    """One transaction."""

    skip_locked = " FOR UPDATE SKIP LOCKED"
    lock = " FOR UPDATE"

    def __init__(self, cursor: psycopg.Cursor[Row]) -> None:
        self._cursor = cursor

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return what it returns."""
        self._cursor.execute(_spelled(sql), cast(Params, values) if values else None)
        return self._cursor.fetchall() if self._cursor.description is not None else []

    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement once for each row of values, without waiting for the answer to one before the next."""
        self._cursor.executemany(_spelled(sql), [cast(Params, row) for row in values])

    def alone(self, name: str) -> None:
        """Let no other work that says the same name go on until this transaction is over."""
        self.rows("SELECT pg_advisory_xact_lock(hashtext(?))", (f"hitl {name}",))

    def explain(self, sql: str, values: Sequence[object] = ()) -> str:
        """Return the query plan, a step a line."""
        return "\n".join(str(row[0]) for row in self.rows(f"EXPLAIN {sql}", values))


def _spelled(sql: str) -> bytes:
    """Write values as psycopg does. No statement of ours holds a question mark or a percent sign besides."""
    return sql.replace("?", "%s").replace("BLOB", "BYTEA").encode()
