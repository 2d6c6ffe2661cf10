"""Starting clients that may be cancelled meanwhile: aiokafka forgets the connection that it bootstraps through.

An opening is cancelled whenever its partition is revoked. Where that hits the wait for the first metadata, the
connection stays open, with a task that reads from it, until the garbage collector complains about both. Importing this
module makes aiokafka close it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import client

_aiokafka: Any = client
_create_conn, _bootstrap = _aiokafka.create_conn, _aiokafka.AIOKafkaClient.bootstrap
_making: dict[asyncio.Task[Any] | None, list[Any]] = {}
"""The connections made by each task that is bootstrapping a client."""


async def _noting(*arguments: Any, **named: Any) -> Any:
    connection = await _create_conn(*arguments, **named)
    if (made := _making.get(asyncio.current_task())) is not None:
        made.append(connection)
    return connection


async def _closing(self: Any) -> None:
    task = asyncio.current_task()
    made = _making[task] = []
    try:
        await _bootstrap(self)
    except asyncio.CancelledError:
        for connection in made:
            connection.close()
        raise
    finally:
        del _making[task]


_aiokafka.create_conn = _noting
_aiokafka.AIOKafkaClient.bootstrap = _closing
