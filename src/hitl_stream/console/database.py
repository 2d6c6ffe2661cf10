"""Two databases behind one small face: what the view and the accounts need of SQLite or Postgres.

Work on a database is a plain function of a transaction, run in a thread as a whole: a caller who goes away leaves no
half of one behind. Statements are written once, with `?` for a value; where the two differ, `Tx` says how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from hitl_stream.core.errors import HitlError, SettingsError

T = TypeVar("T")
Row = tuple[Any, ...]


class DatabaseError(HitlError):
    """A database that was not reached, or did not answer; nothing was written."""

    exit_code = 4


class Tx(Protocol):
    """One transaction: it commits when the work returns, and is undone when that raises."""

    skip_locked: str
    """Put behind a SELECT: it locks the rows it returns, and passes over those that another transaction has."""
    lock: str
    """Put behind a SELECT: it locks the rows it returns, and waits for them."""

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[Row]:
        """Run one statement and return what it returns."""

    def many(self, sql: str, values: Iterable[Sequence[object]]) -> None:
        """Run one statement once for each row of values."""

    def alone(self, name: str) -> None:
        """Let no other work that says the same name go on until this transaction is over."""

    def explain(self, sql: str, values: Sequence[object] = ()) -> str:
        """Return how the database would go about a statement."""


class Database(Protocol):
    """Where tables stand. One writer at a time in SQLite, several in Postgres."""

    async def read(self, work: Callable[[Tx], T]) -> T:
        """Run work that only looks."""

    async def write(self, work: Callable[[Tx], T]) -> T:
        """Run work that may change something."""

    async def close(self) -> None:
        """Let go of every connection, after what is under way."""


class Tables:
    """Tables in a database, which `prepare` makes, or refuses, before they are first used."""

    def __init__(self, database: Database, prepare: Callable[[Tx], None]) -> None:
        self.database = database
        self._prepare = prepare
        self._ready = False
        self._preparing = asyncio.Lock()

    async def close(self) -> None:
        """Let go of the database."""
        await self.database.close()

    async def _read(self, work: Callable[[Tx], T]) -> T:
        await self._prepared()
        return await self.database.read(work)

    async def _write(self, work: Callable[[Tx], T]) -> T:
        await self._prepared()
        return await self.database.write(work)

    async def _prepared(self) -> None:
        async with self._preparing:
            if not self._ready:
                await self.database.write(self._prepare)
                self._ready = True


def is_dsn(place: str | Path) -> bool:
    """Say whether a setting names a Postgres database; anything else is the path of an SQLite file."""
    text = str(place)
    return not isinstance(place, Path) and ("://" in text or "=" in text)


def open_database(place: str | Path, *, durable: bool = False) -> Database:
    """Open what a setting names: a Postgres DSN, or the path of an SQLite file, which is made where it is missing.

    `durable`: what is written is on the disk before it counts, as Postgres has it anyway.
    """
    if not is_dsn(place):
        from hitl_stream.console.sqlite import SqliteDatabase  # here: each loads its own driver, and one is enough

        return SqliteDatabase(Path(place), durable=durable)
    try:
        from hitl_stream.console.postgres import PostgresDatabase
    except ImportError as error:
        raise SettingsError(
            f"a Postgres DSN is set, but its driver is missing ({error}); run: pip install 'hitl-stream[postgres]'"
        ) from None
    return PostgresDatabase(str(place))


def marks(values: Sequence[object]) -> str:
    """Return `?, ?, ?` for so many values; with none, a list that nothing is in."""
    return ", ".join("?" for _ in values) or "NULL"
