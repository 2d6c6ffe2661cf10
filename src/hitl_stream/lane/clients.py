"""Kafka clients that several services make, and stop, in the same way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer

STOP_SECONDS_MAX = 2.0

# aiokafka has no types; as Any its calls pass under strict.
_Consumer: Any = AIOKafkaConsumer


def control_consumer(client: Mapping[str, Any]) -> Any:
    """Return a reader of the control topics, not started: without a group, and never from where nobody said.

    It does not go on behind records that were deleted: `OffsetOutOfRangeError` is raised instead.
    """
    return _Consumer(
        **client,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_uncommitted",  # nothing on them is transactional
        fetch_max_wait_ms=100,
        retry_backoff_ms=20,
    )


async def stop_quietly(*clients: Any, seconds: float = STOP_SECONDS_MAX) -> None:
    """Stop clients one after another, each within a limit; None stands for one that was never made."""
    for client in clients:
        if client is not None:
            # Nothing waits for what a client that goes away still says, and the next one must be stopped all the same.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(seconds):
                    await client.stop()
