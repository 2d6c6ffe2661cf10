"""The committed offset of a group, as it stands once no transaction can change it any more.

aiokafka's `committed()` speaks OffsetFetch v3 and may answer an old value while a transaction is pending. Version 7
with `require_stable` (KIP-447) refuses instead; here it is spoken through aiokafka's own wire types.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

UNSTABLE = 88
RETRY_S = 0.02


class _OffsetFetchResponse(Response):
    API_KEY = 9
    API_VERSION = 7
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("topics", CompactArray(
            ("name", CompactString("utf-8")),
            ("partitions", CompactArray(
                ("partition", Int32), ("offset", Int64), ("leader_epoch", Int32), ("metadata", CompactString("utf-8")),
                ("error_code", Int16), ("tags", TaggedFields))),
            ("tags", TaggedFields))),
        ("error_code", Int16),
        ("tags", TaggedFields),
    )  # fmt: skip


class _OffsetFetchRequest(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 9
    API_VERSION = 7
    RESPONSE_TYPE = _OffsetFetchResponse
    SCHEMA = Schema(
        ("group", CompactString("utf-8")),
        ("topics", CompactArray(
            ("name", CompactString("utf-8")), ("partitions", CompactArray(Int32)), ("tags", TaggedFields))),
        ("require_stable", Boolean),
        ("tags", TaggedFields),
    )  # fmt: skip


_RequestT: TypeAlias = _OffsetFetchRequest


class _StableOffsets(Request[_RequestT]):
    API_KEY = 9

    def __init__(self, group: str, topics: list[tuple[str, list[int], dict[str, Any]]]) -> None:
        self.group = group
        self.topics = topics

    def build(self, request_struct_class: type[_RequestT]) -> _RequestT:
        return request_struct_class(self.group, self.topics, True, {})


async def stable_offsets(
    consumer: AIOKafkaConsumer, group: str, partitions: Iterable[TopicPartition], timeout_s: float
) -> dict[TopicPartition, int | None]:
    """Return the committed offset of each partition (None: never committed); wait while a transaction is pending.

    Raises `TimeoutError` when one is still pending after `timeout_s`, `KafkaError` for any other answer.
    """
    wanted = sorted(partitions)
    by_topic: dict[str, list[int]] = {}
    for tp in wanted:
        by_topic.setdefault(tp.topic, []).append(tp.partition)
    coordinator: Any = consumer._coordinator
    async with asyncio.timeout(timeout_s):
        while True:
            await coordinator.ensure_coordinator_known()
            request = _StableOffsets(group, [(topic, numbers, {}) for topic, numbers in by_topic.items()])
            try:
                response = await coordinator._send_req(request)
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            found = _read(response)
            if found is not None:
                return {tp: found.get(tp) for tp in wanted}
            await asyncio.sleep(RETRY_S)


def _read(response: Any) -> dict[TopicPartition, int | None] | None:
    """Return the offsets, or None when the answer is to ask again."""
    _raise_for(response.error_code)
    found: dict[TopicPartition, int | None] = {}
    for topic, partitions, _ in response.topics:
        for number, offset, _epoch, _metadata, error, _tags in partitions:
            if error == UNSTABLE:
                return None
            _raise_for(error)
            found[TopicPartition(topic, number)] = offset if offset >= 0 else None
    return found if not response.error_code else None


def _raise_for(code: int) -> None:
    if code and code != UNSTABLE:
        error = for_code(code)
        if not error.retriable:
            raise error(f"OffsetFetch v7 answered {code}")
