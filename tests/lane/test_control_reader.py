"""A log that lacks its first record is not read, though the broker says that it starts at 0: it was compacted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest
from aiokafka import TopicPartition

from hitl_stream.core.commands import Engage
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Mode
from hitl_stream.lane.control_reader import ControlReader
from hitl_stream.wire.control_log import ControlLog
from support.make import FakeRecord
from support.signed import ANA, CLUSTER, FIRST, NOW_MS, TRUST, signed

PART = TopicPartition("hitl.control", 0)
STOP = signed(ANA, Engage, scope=("global:*",), mode=Mode.HALT)


class Consumer:
    """Holds records of one partition, as a consumer hands them out."""

    def __init__(self, records: Sequence[FakeRecord]) -> None:
        self.records = list(records)
        self.at = 0

    async def end_offsets(self, parts: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return dict.fromkeys(parts, self.records[-1].offset + 1)

    async def position(self, part: TopicPartition) -> int:
        return self.at

    async def getmany(self, part: TopicPartition, **options: int) -> Mapping[TopicPartition, Sequence[FakeRecord]]:
        got = [record for record in self.records if record.offset >= self.at][: options["max_records"]]
        self.at = got[-1].offset + 1
        return {part: got}


def reader(*records: FakeRecord) -> ControlReader:
    return ControlReader({"bootstrap_servers": "b:1"}, Consumer(records), PART, ControlLog(CLUSTER, TRUST))


def record(offset: int, value: bytes | None) -> FakeRecord:
    return FakeRecord(offset=offset, value=value, timestamp=NOW_MS)


def test_a_log_is_folded_in_slices_to_its_end() -> None:
    junk = [record(offset, b"junk") for offset in range(1, 1_000)]

    log = asyncio.run(reader(record(0, FIRST), *junk, record(1_000, STOP)).catch_up())

    assert (log.control.epoch, set(log.control.switches.engaged)) == (1_000, {1_000})


def test_a_gap_after_the_first_record_is_no_harm() -> None:
    """A marker of somebody's transaction takes an offset, too."""
    log = asyncio.run(reader(record(0, FIRST), record(7, STOP)).catch_up())

    assert set(log.control.switches.engaged) == {7}


def test_a_log_without_its_first_record_is_not_read() -> None:
    with pytest.raises(BrokenError, match="begins at offset 1, expected 0"):
        asyncio.run(reader(record(1, FIRST), record(2, STOP)).catch_up())
