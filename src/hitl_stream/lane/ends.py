"""Where partitions end, asked on connections of their own: on a reader's, an answer waits behind the open fetch.

The *high* end covers whatever was written. The *stable* one has reached it once every transaction in between is
settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from hitl_stream.lane.clients import stop_quietly

ANSWER_S_MAX = 2.0

# aiokafka has no types; as Any its calls pass under strict.
_Consumer: Any = AIOKafkaConsumer


class Ends:
    """Two readers without a group that read nothing."""

    def __init__(self, client: Mapping[str, Any]) -> None:
        self._client = client
        self._high: Any = None
        self._stable: Any = None

    async def start(self) -> None:
        """Connect. Raises `KafkaError` where that fails."""
        self._high = self._reader("read_uncommitted")
        self._stable = self._reader("read_committed")
        await self._high.start()
        await self._stable.start()

    async def stop(self) -> None:
        """Disconnect."""
        await stop_quietly(self._high, self._stable)

    async def high(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermarks, as of some time after this was asked.

        Raises `KafkaError`, or `TimeoutError` after `ANSWER_S_MAX`.
        """
        return await _ends(self._high, partitions)

    async def stable(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the last stable offsets; raises the same."""
        return await _ends(self._stable, partitions)

    def _reader(self, isolation: str) -> Any:
        return _Consumer(**self._client, group_id=None, isolation_level=isolation, retry_backoff_ms=20)


async def _ends(reader: Any, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
    async with asyncio.timeout(ANSWER_S_MAX):
        found: dict[TopicPartition, int] = await reader.end_offsets(list(partitions))
        return found
