"""What the whole monitor knows: the tables of all its workers, read beside them from their changelog.

A worker's own table holds the people of its partitions only, and a queue's people lie in all of them. What is read here
is a little behind, so nothing that a judgement does depends on it but what a queue was like until the day before.

It holds as many values as the tables do, which `monitor_state` limits.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mode import Service

from hitl_stream.core.vigilance import Queue
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.roles.monitor_state import Figures, Kept, decode_kept, figures_of, parts_of, usual_of

POLL_MS = 500
RECORDS_MAX = 2_000


class Picture(Service):
    """Everybody, by queue. `ready` is set once all that was written before the start has been read."""

    def __init__(self, client: Mapping[str, Any], topic: str) -> None:
        super().__init__()
        self.ready = asyncio.Event()
        self._client, self._topic = client, topic
        self._values: dict[str, dict[str, bytes]] = defaultdict(dict)
        """By queue and person, not decoded: most are never asked for."""

    async def on_start(self) -> None:
        """Begin to read."""
        self.add_future(self._read())

    def take(self, key: bytes, value: bytes | None) -> None:
        """Take in one record of the changelog; chunks of approvals are passed over."""
        person, queue, number = parts_of(key)
        if number is not None:
            return
        if value is None:
            self._values[queue].pop(person, None)
        else:
            self._values[queue][person] = value

    def usual(self, queue: str, day: int) -> Queue:
        """Return what a queue was like in the thirty days before `day`."""
        return usual_of(self._people(queue), day)

    def figures(self, day: int) -> dict[str, Figures]:
        """Return what is known of each queue on that day."""
        return {queue: figures_of(self._people(queue), day) for queue in list(self._values)}

    def _people(self, queue: str) -> list[Kept]:
        return [decode_kept(value) for value in self._values.get(queue, {}).values()]

    async def _read(self) -> None:
        async with started(self._client, committed=False) as consumer:
            parts = await partitions_of(consumer, [self._topic])
            ends = await consumer.end_offsets(parts)
            consumer.assign(parts)
            await consumer.seek_to_beginning(*parts)
            behind = {tp for tp, end in ends.items() if await consumer.position(tp) < end}
            while not self.should_stop:
                if not behind:
                    self.ready.set()
                got = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
                for records in got.values():
                    for record in records:
                        self.take(record.key, record.value)
                behind = {tp for tp in behind if await consumer.position(tp) < ends[tp]}
                await asyncio.sleep(0)
