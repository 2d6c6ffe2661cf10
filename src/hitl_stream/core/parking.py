"""Which actions hold back which others: those of one entity keep their order, parked or running.

Two actions conflict if they touch the same campaign of a place (an account, or an agent where there is none), or if one
of them touches the place as a whole and the other anything of it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heapify, heappop, heappush, merge

from msgspec import Struct

from hitl_stream.core.action import Action, Entity
from hitl_stream.core.switches import Target

EntityKey = tuple[str, str, str | None]
"""Tenant, place, campaign (None: the place as a whole)."""
Keys = frozenset[EntityKey]
Order = tuple[int, str]
"""Where an action stands among the others of its partition: older ones compare less."""
DEADLINES_MIN = 1_000
"""Deadlines are swept when there are twice as many as parked actions, and at least so many."""
PARKED_MAX = 200_000
"""Per partition, about 320 MB. Nothing is forgotten there: whoever parks takes up nothing new until there is room, and
only what others send back still comes in."""


def keys_of(action: Action, tenant: str, entity: Entity) -> Keys:
    """Return what an action touches, leg by leg; one without changes is about the entity that it names."""
    entities = [change.entity for change in action.changes] or [entity]
    return frozenset((tenant, one.account or action.agent.id, one.campaign) for one in entities)


class Entry(Struct, frozen=True, eq=False):
    """A parked action. `at` is its offset on `held`, None while it was written but not read there yet."""

    origin: str
    keys: Keys
    order: Order
    at: int | None
    execute_by_ms: int
    target: Target


_Line = list[tuple[Order, str]]
"""Entries, oldest first: order and origin."""


class _Place:
    """What lies parked of one place: everything, and campaign by campaign (None: the place as a whole)."""

    __slots__ = ("by_campaign", "every")

    def __init__(self) -> None:
        self.every: _Line = []
        self.by_campaign: dict[str | None, _Line] = {}


class ParkingLot:
    """What lies parked, by origin and by what it touches. What is added and taken away comes in from outside.

    About 1.6 kB an entry; there are as many as actions that a switch holds and whose time is not over. Each operation
    looks a place up and moves within its lines, but for `conflicting`, which is as long as what it yields.
    """

    def __init__(self, limit: int = PARKED_MAX) -> None:
        self.limit = limit
        self._entries: dict[str, Entry] = {}
        self._places: dict[tuple[str, str], _Place] = {}
        self._deadlines: list[tuple[int, str]] = []
        """A heap; entries that are gone leave theirs behind until it is looked at or swept."""

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def count(self) -> int:
        """Return how many actions are parked."""
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Say whether nothing new should be taken up. What is parked all the same is kept."""
        return len(self._entries) >= self.limit

    def park(self, entry: Entry) -> None:
        """Take in a parked action; a newer copy of one that is there takes its place.

        What a batch consumes and parks again must `leave` first: a copy that was not read yet is newer than any.
        """
        if entry.origin in self._entries:
            self._remove(entry.origin)
        self._entries[entry.origin] = entry
        item = entry.order, entry.origin
        for tenant, place, campaign in entry.keys:
            found = self._places.setdefault((tenant, place), _Place())
            insort(found.by_campaign.setdefault(campaign, []), item)
        for key in _places(entry):
            insort(self._places[key].every, item)
        heappush(self._deadlines, (entry.execute_by_ms, entry.origin))
        if len(self._deadlines) > max(DEADLINES_MIN, 2 * len(self._entries)):
            self._deadlines = [(one.execute_by_ms, origin) for origin, one in self._entries.items()]
            heapify(self._deadlines)

    def leave(self, origin: str, at: int) -> None:
        """Say that the copy at offset `at` was consumed: it is gone, unless a newer one was read."""
        entry = self._entries.get(origin)
        if entry is not None and (entry.at is None or entry.at <= at):
            self._remove(origin)

    def _remove(self, origin: str) -> None:
        entry = self._entries.pop(origin)
        item = entry.order, origin
        for tenant, place, campaign in entry.keys:
            lines = self._places[tenant, place].by_campaign
            _take(lines[campaign], item)
            if not lines[campaign]:
                del lines[campaign]
        for key in _places(entry):
            every = self._places[key].every
            _take(every, item)
            if not every:
                del self._places[key]

    def conflicting(self, keys: Keys) -> Iterator[Entry]:
        """Yield what conflicts with these keys, oldest first; do not change the lot meanwhile."""
        found: list[_Line] = []
        for tenant, place, campaign in keys:
            there = self._places.get((tenant, place))
            if there is None:
                continue
            if campaign is None:
                found.append(there.every)
            else:
                found.extend(there.by_campaign[one] for one in (campaign, None) if one in there.by_campaign)
        seen = None
        for _, origin in merge(*found) if len(found) > 1 else found[0] if found else ():
            if origin != seen:
                seen = origin
                yield self._entries[origin]

    def earliest_deadline_ms(self) -> int | None:
        """Return when the first parked action's time is over, or None."""
        deadlines = self._deadlines
        while deadlines:
            due, origin = deadlines[0]
            entry = self._entries.get(origin)
            if entry is not None and entry.execute_by_ms == due:
                return due
            heappop(deadlines)
        return None


def _places(entry: Entry) -> set[tuple[str, str]]:
    return {(tenant, place) for tenant, place, _ in entry.keys}


def _take(line: _Line, item: tuple[Order, str]) -> None:
    """Take one entry out of a line."""
    del line[bisect_left(line, item)]
