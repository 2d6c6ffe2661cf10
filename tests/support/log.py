"""The log of a `Workplace`, as those who look at it from outside read it: every record, with its time and place."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from hitl_stream.core.events import Status
from hitl_stream.lane.exports import Checked
from hitl_stream.lane.step import Output, Record, Result
from hitl_stream.wire.executed import result_value
from hitl_stream.wire.records import RESULT, PlatformRow, decode_approved, decode_held, head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, sealer
from hitl_stream.wire.topics import TopicSet
from support.desk import EXECUTOR_KEY, PREFIX, Workplace
from support.make import DESK_KEY, SEAL_KEY, FakeRecord

KEYS = {
    "router": {SEAL_KEY.key_id: SEAL_KEY},
    "desk": {DESK_KEY.key_id: DESK_KEY},
    "executor": {EXECUTOR_KEY.key_id: EXECUTOR_KEY},
}


class FakeLog:
    """Topics in memory, one partition each."""

    def __init__(self) -> None:
        self.topics = TopicSet(PREFIX, 1)
        self.there: dict[str, list[FakeRecord]] = defaultdict(list)
        self._offsets: dict[str, Iterator[int]] = defaultdict(itertools.count)

    def append(self, name: str, value: bytes | None, key: bytes | None, at_ms: int, headers: Any = ()) -> FakeRecord:
        """Append a record to a topic by its name in the table."""
        offset = next(self._offsets[name])
        record = FakeRecord(value, offset, 0, at_ms, PREFIX + name, key, tuple(headers))
        self.there[name].append(record)
        return record

    async def read(self, name: str, since_ms: int | None = None) -> AsyncIterator[Sequence[Record]]:
        """Yield what there is, in twos."""
        found = [one for one in self.there[name] if since_ms is None or one.timestamp >= since_ms]
        for start in range(0, len(found), 2):
            yield found[start : start + 2]

    async def read_many(self, names: Sequence[str]) -> AsyncIterator[tuple[str, Sequence[Record]]]:
        """Yield what there is of several topics."""
        for name in names:
            async for found in self.read(name):
                yield name, found

    def read_topic(
        self, topic: str, since_ms: int | None = None, partition: int | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """Yield what there is of a topic by its Kafka name."""
        assert partition in (None, 0)
        return self.read(topic.removeprefix(PREFIX), since_ms)


class Recorded(Workplace):
    """A workplace whose records all stand in `log`; `carry_out` is its executor."""

    def __init__(self, policy: Any = None) -> None:
        super().__init__(policy)
        self.log = FakeLog()
        self._executed = 0

    def route(self, *batch: FakeRecord) -> list[Output]:
        """Let the router decide these records, and write them all down."""
        for record in batch:
            self.log.append("actions", record.value, record.key, record.timestamp, record.headers)
        outputs = super().route(*batch)
        self._write(outputs)
        return outputs

    def append(self, name: str, value: bytes | None, key: bytes | None = None, headers: Any = ()) -> FakeRecord:
        """Append to an input of the desk; what the router wrote stands there already."""
        if name == "verdicts":
            self.log.append(name, value, key, self.now_ms, headers)
        return super().append(name, value, key, headers)

    def commit(self, result: Result) -> list[Output]:
        """Write what the desk decided."""
        outputs = super().commit(result)
        self._write(outputs)
        return outputs

    def carry_out(self, status: Status = Status.EXECUTED, present: dict[str, Any] | None = None) -> None:
        """Let the executor carry out what stands on `execute` by now."""
        waiting = self.log.there["execute"][self._executed :]
        self._executed += len(waiting)
        for record in waiting:
            assert record.value is not None
            read = decode_approved if b',"routed":' in head_of(record.value) else decode_held
            decision = read(record.value)
            value = result_value(
                decision, bytes(decision.action), status, "key", present=present or {}, called_ms=self.now_ms,
                answered_ms=self.now_ms, platform=PlatformRow(200),
            )  # fmt: skip
            seal = sealer(EXECUTOR_KEY, PREFIX + "results", RESULT)(head_of(value))
            headers = [(TYPE_HEADER, RESULT.encode()), (SEAL_HEADER, seal)]
            self.log.append("results", value, record.key, self.now_ms, headers)

    def checked(self, **parts: Any) -> Checked:
        """Return the log as whoever has every key reads it."""
        return Checked(self.log, parts.pop("keys", KEYS), **parts)

    def _write(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            self.log.append(output.topic.removeprefix(PREFIX), output.value, output.key, self.now_ms, output.headers)
