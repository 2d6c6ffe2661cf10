"""What the router remembers of a partition's recent past: ids, running sums, and what is normal.

Rules of the window:
- It is a fold over records and their append times only, never over past decisions, so whoever replays the same stretch
  of the log gets the same window.
- A step reads it through a `Draft`, which collects what the batch adds. The draft is applied after a known commit and
  thrown away on abort: an aborted batch, decided again, must not find its own ids.
- Time is cut into slots at absolute multiples, so that a replay that starts earlier or later builds equal slots.
- Every part has a limit, and at a limit nothing is forgotten: what cannot be remembered is not let through.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

ID_SLOTS = 4
"""A window of ids is kept in this many slots and a current one: forgetting drops a whole slot at once."""
SUM_SLOTS = 12
"""A running sum reaches back its window and at most one twelfth more: the stricter side."""
NORM_SLOTS = 4
NORM_VALUES_MAX = 64
"""Values remembered per agent, class and slot: 256 in all give a median and a MAD that are steady enough."""
NORM_VALUES_MIN = 20
"""Below so many values nothing is called unusual."""
NORM_SCALE_MIN = 0.005
"""Half a percent of relative change: smaller spreads are rounding, and any step would look unusual beside them."""
MAD_TO_SIGMA = 1.4826
"""Scales the median absolute deviation to a normal distribution's sigma (Rousseeuw & Croux 1993)."""
ENTITIES_MAX = 200_000
"""Entities with a running sum per partition, about 60 MB."""

EntityField = tuple[str, str | None, str | None, str]
"""Tenant, account, campaign, field."""
AgentClass = tuple[str, str, str]
"""Tenant, agent, action type."""


@dataclass
class IdBudget:
    """How many ids all windows of this process may hold together; 195 bytes each."""

    limit: int = 1_000_000
    used: int = 0

    @property
    def full(self) -> bool:
        """Say whether another id would be over the limit."""
        return self.used >= self.limit


@dataclass(frozen=True)
class Reach:
    """How far each part looks back, in milliseconds: what a policy asks of the window."""

    ids_ms: int
    norms_ms: int
    sums_ms: tuple[int, ...] = ()

    @property
    def longest_ms(self) -> int:
        """Return how much of the log a replay must read so that every slot in use is whole."""
        slots = [self.ids_ms + self.ids_ms // ID_SLOTS, self.norms_ms + self.norms_ms // NORM_SLOTS]
        slots += [window + window // SUM_SLOTS for window in self.sums_ms]
        return max(slots) + max(self.ids_ms // ID_SLOTS, self.norms_ms // NORM_SLOTS, *self.sums_ms, 1) + 1


Slots = tuple[tuple[int, float, float], ...]
Sum = tuple[int, float, float, float, float, Slots]
"""One entity field's changes within one window: the slot it is in, what that slot adds up to (absolute, signed), what
the slots before it add up to, and those slots. A new change makes a new value, so a batch's sums can simply replace the
committed ones."""
NO_SUM: Sum = (-1, 0.0, 0.0, 0.0, 0.0, ())


def rolled(total: Sum, slot: int) -> Sum:
    """Return a sum moved on to a later slot, without what has left the window."""
    last, absolute, signed, _, _, slots = total
    oldest = slot - SUM_SLOTS
    if last >= oldest:
        slots = (*slots, (last, absolute, signed))
    if slots and slots[0][0] < oldest:
        slots = tuple([entry for entry in slots if entry[0] >= oldest])
    # Added up anew, not subtracted from, so that floating error cannot pile up over days.
    past_absolute = past_signed = 0.0
    for _, absolute, signed in slots:
        past_absolute += absolute
        past_signed += signed
    return slot, 0.0, 0.0, past_absolute, past_signed, slots


Ids = dict[int, dict[bytes, bytes]]
Norms = dict[int, dict[AgentClass, list[float]]]
Sums = dict[EntityField, Sum]
Normal = tuple[float, float]
"""Median and scale of what an agent usually does."""
_Known = tuple[list[float], int, Normal | None]
"""Of an agent in the current slot: what the batch adds, how many values there may be of it, and what is normal."""


class Window:
    """The committed past of one partition. Only `apply` changes it."""

    def __init__(self, reach: Reach, budget: IdBudget | None = None) -> None:
        self.reach = reach
        self.budget = budget if budget is not None else IdBudget()
        self.id_slot_ms = max(1, -(-reach.ids_ms // ID_SLOTS))
        self.norm_slot_ms = max(1, -(-reach.norms_ms // NORM_SLOTS))
        self.sum_slot_ms = tuple(max(1, -(-window // SUM_SLOTS)) for window in reach.sums_ms)
        self.ids: Ids = {}
        self.norms: Norms = {}
        self.sums: tuple[Sums, ...] = tuple({} for _ in reach.sums_ms)
        self.normals: dict[tuple[int, AgentClass], Normal | None] = {}
        self.newest_ms = -1
        self._swept = -1

    def draft(self) -> Draft:
        """Begin to look at the window for one batch."""
        return Draft(self)

    def count(self) -> int:
        """Return how many ids are remembered."""
        return sum(map(len, self.ids.values()))

    def clear(self) -> None:
        """Give the ids back to the process's budget; the window is of no use afterwards."""
        self.budget.used -= self.count()
        self.ids = {}

    def apply(self, draft: Draft) -> None:
        """Take in what a batch added, and drop the slots that no later record can ask for."""
        for slot, ids in draft.ids.items():
            known = self.ids.setdefault(slot, ids)
            if known is not ids:
                known.update(ids)
            self.budget.used += len(ids)
        for slot, agents in draft.norms.items():
            mine = self.norms.setdefault(slot, {})
            for who, values in agents.items():
                mine.setdefault(who, []).extend(values)
        for sums, changed in zip(self.sums, draft.sums, strict=True):
            sums.update(changed)
        if draft.append_ms >= 0:
            self.newest_ms = draft.append_ms
            self._forget(draft.append_ms)

    def _forget(self, append_ms: int) -> None:
        newest = append_ms // self.id_slot_ms
        for slot in [slot for slot in self.ids if slot < newest - ID_SLOTS]:
            self.budget.used -= len(self.ids.pop(slot))
        newest = append_ms // self.norm_slot_ms
        if newest != self._swept:
            self._swept = newest
            for slot in [slot for slot in self.norms if slot < newest - NORM_SLOTS]:
                del self.norms[slot]
            self.normals = {key: normal for key, normal in self.normals.items() if key[0] >= newest}
            for width, sums in zip(self.sum_slot_ms, self.sums, strict=True):
                oldest = append_ms // width - SUM_SLOTS
                for entity in [entity for entity, total in sums.items() if total[0] < oldest]:
                    del sums[entity]


class Draft:
    """One batch's view of a window: what is committed, and what the batch itself has added so far."""

    __slots__ = (
        "_committed_values", "_id_slot", "_known", "_live", "_norm_slot", "_now", "_sum_slots", "_values",
        "added", "append_ms", "ids", "norms", "sums", "window",
    )  # fmt: skip

    def __init__(self, window: Window) -> None:
        self.window = window
        self.ids: Ids = {}
        self.norms: Norms = {}
        self.sums: tuple[Sums, ...] = tuple({} for _ in window.sums)
        self.append_ms = -1
        self.added = 0
        self._id_slot = self._norm_slot = -1
        self._live: tuple[dict[bytes, bytes], ...] = ()
        self._now: dict[bytes, bytes] = {}
        self._values: dict[AgentClass, list[float]] = {}
        self._committed_values: dict[AgentClass, list[float]] = {}
        self._known: dict[AgentClass, _Known] = {}
        self._sum_slots: list[int] = []

    def at(self, append_ms: int) -> None:
        """Move to the append time of the next record.

        The window's time never runs backwards, although append times may: inputs are merged one batch at a time, and
        the clock of a partition's new leader may be behind.
        """
        if append_ms <= self.append_ms:
            return
        window = self.window
        append_ms = self.append_ms = max(append_ms, window.newest_ms)
        slot = append_ms // window.id_slot_ms
        if slot != self._id_slot:
            self._id_slot = slot
            self._now = self.ids.setdefault(slot, {})
            reach = range(slot - ID_SLOTS, slot + 1)
            self._live = tuple(pool[s] for pool in (window.ids, self.ids) for s in reach if s in pool)
        slot = append_ms // window.norm_slot_ms
        if slot != self._norm_slot:
            self._norm_slot = slot
            self._known = {}
            self._values = self.norms.setdefault(slot, {})
            self._committed_values = window.norms.get(slot, {})
        self._sum_slots = [append_ms // width for width in window.sum_slot_ms]

    def earlier(self, identity: bytes) -> bytes | None:
        """Return the stamp under which this id was claimed within the window, or None."""
        for ids in self._live:
            if identity in ids:
                return ids[identity]
        return None

    def claim(self, identity: bytes, stamp: bytes) -> bool:
        """Remember an id that `earlier` did not find; return False where there is no room for another."""
        budget = self.window.budget
        if budget.used + self.added >= budget.limit:
            return False
        self._now[identity] = stamp
        self.added += 1
        return True

    def remember(self, identity: bytes, stamp: bytes) -> None:
        """Remember an id of the past, whether there is room or not: what was admitted once is never forgotten."""
        self._now[identity] = stamp
        self.added += 1

    def deviation(self, who: AgentClass, value: float) -> float | None:
        """Return the robust z-score of what an agent does now, None where too little is known; and remember it.

        What is normal rests on the slots before the current one, so it is the same for every record of a slot.
        """
        known = self._known.get(who)
        if known is None:
            known = self._known[who] = self._look_up(who)
        values, room, normal = known
        if len(values) < room:
            values.append(value)
        return None if normal is None else (value - normal[0]) / normal[1]

    def _look_up(self, who: AgentClass) -> _Known:
        room = NORM_VALUES_MAX - len(self._committed_values.get(who, ()))
        return self._values.setdefault(who, []), room, self._normal(who)

    def _normal(self, who: AgentClass) -> Normal | None:
        slot, window = self._norm_slot, self.window
        key = (slot, who)
        if key in window.normals:
            return window.normals[key]
        past = range(slot - NORM_SLOTS, slot)
        mine = [self.norms[s][who] for s in past if s in self.norms and who in self.norms[s]]
        committed = [window.norms[s][who] for s in past if s in window.norms and who in window.norms[s]]
        result = normal_of(value for values in (*committed, *mine) for value in values)
        if not mine:
            # Nothing of this batch is in it, so it holds for the whole slot, whatever becomes of the batch.
            window.normals[key] = result
        return result

    def add(self, which: int, entity: EntityField, ratio: float) -> tuple[float, float] | None:
        """Add a change to a running sum; return its (absolute, signed) total with it, or None without room."""
        changed, slot = self.sums[which], self._sum_slots[which]
        total = changed.get(entity)
        if total is None:
            committed = self.window.sums[which]
            total = committed.get(entity)
            if total is None:
                if len(changed) + len(committed) >= ENTITIES_MAX:
                    return None
                total = NO_SUM
        _, absolute, signed, past_absolute, past_signed, slots = total if total[0] == slot else rolled(total, slot)
        absolute += ratio if ratio >= 0.0 else -ratio
        signed += ratio
        changed[entity] = (slot, absolute, signed, past_absolute, past_signed, slots)
        return absolute + past_absolute, signed + past_signed


class Glance(Draft):
    """A draft for what the window remembers already, to be thrown away: it measures an action without adding it."""

    __slots__ = ()

    def add(self, which: int, entity: EntityField, ratio: float) -> tuple[float, float] | None:
        """Return the running sum as it stands, at least this change alone: its own slot may have left the window."""
        total = super().add(which, entity, 0.0)
        if total is None:
            return None
        absolute, signed = total
        return max(absolute, abs(ratio)), signed or ratio


def normal_of(values: Iterable[float]) -> Normal | None:
    """Return the median and the robust scale of `values`, or None below `NORM_VALUES_MIN` of them.

    The scale is 1.4826 × MAD, at least `NORM_SCALE_MIN`.

    >>> normal_of([0.0] * 10 + [0.02] * 10)
    (0.01, 0.014826)
    """
    seen = sorted(values)
    if len(seen) < NORM_VALUES_MIN:
        return None
    median = statistics.median(seen)
    mad = statistics.median(abs(value - median) for value in seen)
    return median, max(MAD_TO_SIGMA * mad, NORM_SCALE_MIN)
