"""What the desk keeps of a partition: the items that are open, and for a while those that have ended.

It is the fold of `reviews`, written in the same transactions as what follows from each verdict. Of an open item the
record's own bytes are kept, and beside them only what timers, switches and later results are compared with: a hundred
thousand items fit, and a card is decoded when somebody judges it.

Timers are a heap with entries that may be out of date: one counts only while the item still says so. Whoever looks at
what is due leaves the heap as it was; only a known commit moves anything on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar

from msgspec import Struct, structs

from hitl_stream.core.batch import Lot, Member
from hitl_stream.core.batch import next_ms as next_of
from hitl_stream.core.parking import Order
from hitl_stream.core.review import Review, State, next_ms
from hitl_stream.core.switches import Target
from hitl_stream.lane.step import Record
from hitl_stream.lane.step import State as LaneState
from hitl_stream.wire.desk_records import GivenRow, Pair, decode_pair

KEEP_ENDED_MS = 86_400_000
"""So long a verdict on an ended item is told what became of it; then a null takes the item out of the log."""
PAIRS_MAX = 100_000
"""Pairs that wait to be compared, per partition; of further ones nobody is asked until some are done."""
TIMERS_MIN = 1_000
"""The heap is swept when it holds twice as many entries as there are items, and at least so many."""
Field = tuple[str, str | None, str | None, str]
"""Tenant, account, campaign, field: what two actions may both want to change."""
Subject = tuple[str, str, str]
"""Tenant, action id, hash."""


class Item(Struct, frozen=True, kw_only=True):
    """One item that is open. `value` is its record on `reviews`, `key` that of the records about its entity.

    `passes`: it only lowers, as its agent says. `order` is where its action stands among the others of the partition.
    """

    review: Review
    value: bytes
    key: bytes
    target: Target
    passes: bool
    fields: frozenset[Field]
    order: Order
    subject: Subject
    queue: str
    lot: str | None = None
    """The batch that its action names, whether or not it is a member."""
    index: int = 0


class Ended(Struct, frozen=True):
    """One item that has ended, until it is forgotten. `lot` and `member` where it was one of a batch."""

    state: State
    seen: tuple[str, ...]
    partition: int
    forget_ms: int
    lot: str | None = None
    member: Member | None = None


class Held(Struct, frozen=True, kw_only=True):
    """A batch, the signed releases of it, and how many of its members are written out."""

    lot: Lot
    partition: int
    given: tuple[GivenRow, ...] = ()
    after: int = 0
    forget_ms: int | None = None


Kept = Item | Ended
_K = TypeVar("_K")


class DeskDraft:
    """One batch's view of the state, and what the batch changes. An item that is None is forgotten."""

    def __init__(self, state: DeskState) -> None:
        self._state = state
        self.items: dict[str, Kept | None] = {}
        self.again: dict[str, int] = {}
        """Items of which nothing changed, to be looked at again at that time."""
        self.lots: dict[str, Held | None] = {}
        self.new_labels: set[str] = set()

    def get(self, item: str) -> Kept | None:
        """Return an item as it stands within the batch."""
        return self.items[item] if item in self.items else self._state.items.get(item)

    def put(self, item: str, kept: Kept | None) -> None:
        """Change an item."""
        self.items[item] = kept

    def lot(self, key: str) -> Held | None:
        """Return a batch as it stands within the batch of records."""
        return self.lots[key] if key in self.lots else self._state.lot(key)

    def pair(self, name: str) -> Pair | None:
        """Return a pair of outputs that waits to be compared."""
        return self._state.pairs.get(name)

    def is_labelled(self, name: str) -> bool:
        """Say whether a pair has been compared."""
        return name in self.new_labels or name in self._state.labelled

    def touching(self, field: Field) -> Iterator[tuple[str, Item]]:
        """Return the open items that would change a field."""
        names = dict.fromkeys((*self._state.by_field.get(field, ()), *self.items))
        for name in names:
            kept = self.get(name)
            if isinstance(kept, Item) and field in kept.fields:
                yield name, kept

    def about(self, subject: Subject) -> Iterator[tuple[str, Item]]:
        """Return the open items of one action."""
        names = dict.fromkeys((*self._state.by_subject.get(subject, ()), *self.items))
        for name in names:
            kept = self.get(name)
            if isinstance(kept, Item) and kept.subject == subject:
                yield name, kept


class DeskState(LaneState):
    """The state of one partition, as the lane keeps it.

    `recall` reads a record of `reviews` into it; `followed` are the topics of pairs and preferences, by Kafka name.
    """

    def __init__(self, recall: Callable[[DeskState, Record], None], followed: Mapping[str, str]) -> None:
        self._recall = recall
        self._followed = followed
        self.items: dict[str, Kept] = {}
        self.by_field: dict[Field, dict[str, None]] = {}
        self.by_subject: dict[Subject, dict[str, None]] = {}
        self.open: dict[str, dict[str, int]] = {}
        """Queue → the items that are open in it, and since when."""
        self.lots: dict[str, Held] = {}
        self._members: dict[str, dict[str, Member]] = {}
        """Batch → item → member, of what the log says is one."""
        self.pairs: dict[str, Pair] = {}
        self.labelled: set[str] = set()
        """Pairs of which the log holds a preference; they are few, and kept as long as that is."""
        self._bare: set[str] = set()
        """Batches whose members are still to be put in: they come from the log in any order."""
        self._timers: list[tuple[int, str]] = []
        self._at: dict[str, int] = {}
        """Item → the time of the one entry of the heap that counts."""

    def draft(self) -> DeskDraft:
        """Begin to look at the state for one batch."""
        return DeskDraft(self)

    def apply(self, changes: DeskDraft) -> None:
        """Take in what a committed batch changed."""
        for item, kept in changes.items.items():
            self._set(item, kept)
        for key, held in changes.lots.items():
            self._set_lot(key, held)
        self._label(changes.new_labels)
        for item, at_ms in changes.again.items():
            if (item in self.items and item not in changes.items) or (item in self.lots and item not in changes.lots):
                self._arm(item, at_ms)

    def replay(self, records: Sequence[Record]) -> None:
        """Fold records of `reviews`."""
        for record in records:
            self._recall(self, record)

    def follow(self, records: Sequence[Record]) -> None:
        """Take in pairs to be compared, and the preferences that were written down."""
        known = self._followed[records[0].topic]
        for record in records:
            if known == "preferences":
                self._label([(record.key or b"").decode("utf-8", "replace")])
            elif len(self.pairs) < PAIRS_MAX:
                self._add_pair(record)

    def _add_pair(self, record: Record) -> None:
        try:
            pair = decode_pair(record.value or b"")
        except (ValueError, RecursionError):
            return  # a publisher's slip: there is nobody to send it back to, and nothing waits for it
        if pair.pair not in self.labelled:
            self.pairs.setdefault(pair.pair, pair)

    def _label(self, names: Iterable[str]) -> None:
        for name in names:
            self.labelled.add(name)
            self.pairs.pop(name, None)

    def recall(self, item: str, kept: Kept | None) -> None:
        """Take in an item as the log has it."""
        self._set(item, kept)

    def recall_lot(self, key: str, held: Held | None) -> None:
        """Take in a batch as the log has it: without its members."""
        self._set_lot(key, held)
        if held is not None:
            self._bare.add(key)

    def lot(self, key: str) -> Held | None:
        """Return a batch, with its members."""
        held = self.lots.get(key)
        if held is None or key not in self._bare:
            return held
        self._bare.discard(key)
        gone = set(held.lot.beside)
        found = [member for member in self._members.get(held.lot.key, {}).values() if member.index not in gone]
        members = tuple(sorted(found, key=lambda member: member.index))
        held = self.lots[key] = structs.replace(held, lot=structs.replace(held.lot, members=members))
        return held

    def next_timer_ms(self) -> int | None:
        """Return when the next item is due."""
        self._drop_outdated()
        return self._timers[0][0] if self._timers else None

    def overdue(self, now_ms: int, count: int) -> list[str]:
        """Return up to `count` items that are due by now, the most urgent first; nothing is taken away."""
        taken: list[tuple[int, str]] = []
        while self._timers and self._timers[0][0] <= now_ms and len(taken) < count:
            entry = heappop(self._timers)
            if self._at.get(entry[1]) == entry[0]:
                taken.append(entry)
        for entry in taken:
            heappush(self._timers, entry)
        return [item for _, item in taken]

    def size(self) -> int:
        """Return how many items are kept."""
        return len(self.items)

    def discard(self) -> None:
        """Let go of everything."""
        self.items, self.by_field, self.by_subject, self.open = {}, {}, {}, {}
        self.lots, self._members, self._bare = {}, {}, set()
        self._timers, self._at = [], {}

    def _set(self, item: str, kept: Kept | None) -> None:
        before = self.items.get(item)
        if isinstance(before, Item):
            self._unlist(item, before)
        if kept is None:
            self.items.pop(item, None)
            self._at.pop(item, None)
            if isinstance(before, Ended) and before.member is not None and before.lot is not None:
                _leave(self._members, before.lot, item)
            return
        self.items[item] = kept
        if isinstance(kept, Item):
            self._list(item, kept)
            self._arm(item, next_ms(kept.review))
        else:
            self._arm(item, kept.forget_ms)
        member = _member_of(kept)
        if member is not None and kept.lot is not None:
            self._members.setdefault(kept.lot, {})[item] = member

    def _set_lot(self, key: str, held: Held | None) -> None:
        self._bare.discard(key)
        if held is None:
            self.lots.pop(key, None)
            self._at.pop(key, None)
            return
        self.lots[key] = held
        due = held.forget_ms if held.forget_ms is not None else next_of(held.lot)
        self._arm(key, 0 if due is None else due)

    def _list(self, item: str, kept: Item) -> None:
        self.open.setdefault(kept.queue, {})[item] = kept.review.opened_ms
        for field in kept.fields:
            self.by_field.setdefault(field, {})[item] = None
        self.by_subject.setdefault(kept.subject, {})[item] = None

    def _unlist(self, item: str, kept: Item) -> None:
        _leave(self.open, kept.queue, item)
        for field in kept.fields:
            _leave(self.by_field, field, item)
        _leave(self.by_subject, kept.subject, item)

    def _arm(self, item: str, at_ms: int) -> None:
        if self._at.get(item) == at_ms:
            return
        self._at[item] = at_ms
        heappush(self._timers, (at_ms, item))
        if len(self._timers) > max(TIMERS_MIN, 2 * len(self.items)):
            self._timers = [entry for entry in self._timers if self._at.get(entry[1]) == entry[0]]
            heapify(self._timers)

    def _drop_outdated(self) -> None:
        while self._timers and self._at.get(self._timers[0][1]) != self._timers[0][0]:
            heappop(self._timers)


def _leave(index: dict[_K, dict[str, Any]], key: _K, item: str) -> None:
    names = index[key]
    del names[item]
    if not names:
        del index[key]


def _member_of(kept: Kept) -> Member | None:
    if isinstance(kept, Ended):
        return kept.member
    review = kept.review
    return None if review.batch is None else Member(kept.index, review.item, review.hash)
