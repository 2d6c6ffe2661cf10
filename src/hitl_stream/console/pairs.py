"""Pairs of outputs that wait to be compared: a fold over `pairs` and `preferences`, in memory.

Both topics are small and read from their beginning at each start. Which of two outputs is better runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from msgspec import Struct

from hitl_stream.console.card import VERSION, Shown, shown
from hitl_stream.lane.step import Record
from hitl_stream.wire.desk_records import Pair, decode_pair

WAITING_MAX = 100_000
"""Pairs that wait; of further ones nobody is asked until some are done. As many as a desk keeps of a partition."""


class Waiting(Struct, frozen=True):
    """A pair, and the partition that it stands in."""

    pair: Pair
    partition: int


class Pairs:
    """What waits to be compared."""

    def __init__(self) -> None:
        self.waiting: dict[str, Waiting] = {}
        self._labelled: set[str] = set()

    def take(self, topic: str, record: Record) -> None:
        """Take in a record of `pairs` or of `preferences`, by its topic's name in the table."""
        if topic == "preferences":
            name = (record.key or b"").decode("utf-8", "replace")
            self._labelled.add(name)
            self.waiting.pop(name, None)
            return
        try:
            pair = decode_pair(record.value or b"")
        except (ValueError, RecursionError):
            return  # a publisher's slip: nothing waits for it
        if pair.pair not in self._labelled and len(self.waiting) < WAITING_MAX:
            self.waiting.setdefault(pair.pair, Waiting(pair, record.partition))

    def next(self, sees: Callable[[str], bool], without: Collection[str]) -> Waiting | None:
        """Return the oldest pair that somebody may compare."""
        skip = set(without)
        return next((one for one in self.waiting.values() if sees(one.pair.tenant) and one.pair.pair not in skip), None)


def pair_card(pair: Pair, left: str) -> Shown:
    """Return what a labeller is shown: which is which is not said."""
    sides: dict[str, Any] = {"left": pair.a, "right": pair.b} if left == "a" else {"left": pair.b, "right": pair.a}
    return shown({"card": VERSION, "pair": pair.pair, "tenant": pair.tenant, "prompt": pair.prompt, **sides})
