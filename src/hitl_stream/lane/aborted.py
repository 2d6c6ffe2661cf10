"""Not passing over committed records for a transaction that ended long before them.

With a fetch a broker names the aborted transactions in what it sends. noida-db also names those that had ended before,
and aiokafka then passes over everything that their producers wrote since, up to the next abort: lost to the reader.
Importing this module lets aiokafka look first: a producer's next marker at or behind the transaction's start is its
end, so if that is a commit, the transaction ended earlier. What a broker names rightly is untouched, and where nothing
was aborted, nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords

Aborted = tuple[int, int]
"""Producer id and first offset."""


def standing(content: bytes, named: Iterable[Aborted]) -> list[Aborted]:
    """Return those of the named transactions that end with an abort in this stretch, or behind it."""
    markers: dict[int, list[tuple[int, bool]]] = {}
    records: Any = MemoryRecords(content)
    while records.has_next():
        batch = records.next_batch()
        if batch.is_control_batch:
            aborted = ControlRecord.parse(next(batch).key) == ABORT_MARKER
            markers.setdefault(batch.producer_id, []).append((batch.base_offset, aborted))
    return [(producer, first) for producer, first in named if _ends(markers.get(producer, ()), first)]


def _ends(markers: Sequence[tuple[int, bool]], first: int) -> bool:
    return next((aborted for offset, aborted in markers if offset >= first), True)


_Records: Any = fetcher.PartitionRecords


class _PartitionRecords(_Records):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, tp: Any, records: Any, aborted_transactions: Any, *rest: Any) -> None:
        if aborted_transactions:
            # As `forgiving` keeps it; there is nothing to ask a plain `MemoryRecords` for.
            content = getattr(records, "content", None)
            if content is not None:
                aborted_transactions = standing(content, aborted_transactions)
        super().__init__(tp, records, aborted_transactions, *rest)


_fetcher: Any = fetcher
_fetcher.PartitionRecords = _PartitionRecords
