"""What the router keeps of a partition: the window of the recent past, what lies parked, and facts of the platform.

`held` is followed from the group's committed offset, so whoever opens the partition knows what is parked. A pass is
wanted when a release was appended since the last one, when something lies there that nothing holds back, and when a
parked action's time is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hitl_stream.core.action import Action, Entity
from hitl_stream.core.events import Mode
from hitl_stream.core.fields import NO_FACTS, Facts
from hitl_stream.core.parking import Entry, Keys, Order, ParkingLot, keys_of
from hitl_stream.core.policy.compile import Compiled
from hitl_stream.core.switches import target_of
from hitl_stream.core.window import Draft, Glance, IdBudget, Window
from hitl_stream.lane.step import Moment, Record, State
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.decided import read_decided
from hitl_stream.wire.facts import read_fact
from hitl_stream.wire.records import Parked, execute_by_ms

if TYPE_CHECKING:
    from hitl_stream.roles.router import Router

REST_MS = 250
"""Between two passes, whatever comes."""
SWEEP_MS = 5_000
"""Between two looks for overdue actions: closing them is not urgent."""
WHOLE_MS = 60_000
"""An action that is overdue for so long lies behind others that are not: then everything is looked at."""
FACTS_MAX = 200_000
"""Entities of which facts are kept, per partition; of a further one nothing is known, which is stricter."""

FactEntity = tuple[str, str | None, str | None]
"""Tenant, account, campaign."""


class Origin(Struct):
    """Where an action stands at home, in the parts of a record that an answer is made of."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def of(cls, place: str) -> Origin:
        """Read `topic/partition/offset`."""
        topic, partition, offset = place.rsplit("/", 2)
        return cls(topic, int(partition), int(offset))

    @property
    def order(self) -> Order:
        """Return what parked actions are ordered by. Between two action topics it is arbitrary, but always the same."""
        return self.offset, self.topic


def entry_of(
    origin: str, action: Action, tenant: str, entity: Entity, execute_by_ms: int, at: int | None = None
) -> Entry:
    """Return a parked action as the lot keeps it; `at` is its offset on `held`, None until it is read there."""
    keys = keys_of(action, tenant, entity)
    return Entry(origin, keys, Origin.of(origin).order, at, execute_by_ms, target_of(action, tenant, entity))


def _reads_facts(compiled: Compiled) -> bool:
    return any(path.startswith("facts.") for path in compiled.policy.fields)


class RouterDraft:
    """One batch's view of the state, and what the batch adds to it and takes away."""

    def __init__(self, window: Draft, state: RouterState | None = None) -> None:
        self.window = window
        self.held = -1 if state is None else state.held
        self.facts: Mapping[FactEntity, Mapping[str, Any]] = {} if state is None else state.facts
        self.parked = ParkingLot()
        self.left: dict[str, int] = {}
        self._lot = ParkingLot() if state is None else state.lot

    def parks(self) -> bool:
        """Say whether anything is parked."""
        return bool(self._lot.count() or self.parked.count())

    def park(self, entry: Entry) -> None:
        """Say that an action goes to `held`."""
        self.parked.park(entry)

    def leave(self, origin: str, at: int) -> None:
        """Say that the copy at offset `at` on `held` is consumed."""
        self.left[origin] = at

    def blocker(self, keys: Keys, order: Order | None = None) -> str | None:
        """Return a parked action that one with these keys must wait behind: any, or one older than `order`."""
        for entry in self._lot.conflicting(keys):
            if order is not None and entry.order >= order:
                break
            if entry.origin not in self.left:
                return entry.origin
        for entry in self.parked.conflicting(keys):
            if order is None or entry.order < order:
                return entry.origin
            break
        return None

    def facts_of(self, tenant: str, entity: Entity) -> Facts:
        """Return what is known of an entity on the platform."""
        return self.facts.get((tenant, entity.account, entity.campaign), NO_FACTS)


class RouterState(State):
    """The state of one partition, as the lane keeps it. `sweeping`: the pass under way only closes what is overdue."""

    def __init__(self, router: Router, budget: IdBudget) -> None:
        self.router = router
        self.control = router.policies.control
        compiled = router.policies.at(0)
        self.window = Window(compiled.reach, budget)
        self.lot = ParkingLot()
        self.held = -1
        """Offset of the last record that was read on `held`."""
        self.facts: dict[FactEntity, dict[str, Any]] = {}
        self.sweeping = False
        self._with_facts = _reads_facts(compiled)
        self._rules_at = self.control.rules_at
        self._passed_at = self.control.epoch
        self._free = False
        self._swept_ms = self._looked_ms = 0

    def draft(self, past: bool = False) -> RouterDraft:
        """Begin to look at the state for one batch; `past`: of actions that the window remembers already."""
        return RouterDraft(Glance(self.window) if past else self.window.draft(), self)

    def apply(self, changes: RouterDraft) -> None:
        """Take in what a committed batch added and took away."""
        if not isinstance(changes.window, Glance):
            self.window.apply(changes.window)
        for origin, at in changes.left.items():
            self.lot.leave(origin, at)
        for entry in changes.parked:
            # Its offset on `held` is known once it is read there; until then it stands all the same.
            self.lot.park(entry)

    def replay(self, past: Sequence[Record]) -> None:
        """Rebuild the window from records of the past: their bytes and append times only."""
        self.window.apply(self.router.remember(past, self.window))

    def follows(self, topic: str) -> bool:
        """Read the facts only where the policy does."""
        return topic != self.router.facts or self._with_facts

    def follow(self, records: Sequence[Record]) -> None:
        """Take in what was parked, or what was seen on the platform."""
        if records[0].topic == self.router.held:
            for record in records:
                self._parked(record)
            self.held = records[-1].offset
        elif self._with_facts:
            for record in records:
                self._seen(record)

    def _parked(self, record: Record) -> None:
        found = read_decided(record.topic, record.value, record.headers, self.router.parkers)
        if isinstance(found, Undecodable):
            self._free = True  # nothing covers it: the next pass makes it a dead letter
            return
        decision = found.decision
        entry = entry_of(
            decision.origin,
            found.decoded.action,
            decision.tenant,
            decision.entity,
            execute_by_ms(decision),
            record.offset,
        )
        self.lot.park(entry)
        if not self._free and not self._stuck(entry, decision.parked):
            older = next(iter(self.lot.conflicting(entry.keys)), None)
            self._free = older is None or older.order >= entry.order

    def _stuck(self, entry: Entry, parked: Parked | None) -> bool:
        """Say whether a switch holds this one. REVIEW_ALL does not: it is to be asked for again."""
        engaged = self.control.switches.engaged
        named = [engaged[epoch] for epoch in (parked.switches if parked is not None else ()) if epoch in engaged]
        covering = self.control.switches.covering(entry.target)
        return any(switch.mode is not Mode.REVIEW_ALL for switch in (*named, *covering))

    def _seen(self, record: Record) -> None:
        """Fold one fact; one that is unsealed or unreadable is as if it were not there, which is stricter."""
        fact = read_fact(record.topic, record.value, record.headers, self.router.settings.reporters)
        if fact is None:
            return
        entity = fact.tenant, fact.entity.account, fact.entity.campaign
        known = self.facts.get(entity)
        if known is None:
            if len(self.facts) >= FACTS_MAX:
                return
            known = self.facts[entity] = {}
        known[fact.field] = fact.value

    def next_timer_ms(self) -> int | None:
        """Return None: the router has no timers; passes look at deadlines."""
        return None

    def room(self) -> bool:
        """Say whether another action could be parked: where none could, none is taken up."""
        return not self.lot.full

    def wants_pass(self, moment: Moment) -> bool:
        """Say whether what lies parked is to be looked at now, and whether that is only to close what is overdue."""
        if moment.now_ms < self._looked_ms + REST_MS:
            return False
        self._looked_ms = moment.now_ms
        self.sweeping = False
        if self._free or (self.lot.count() and self.control.released_at > self._passed_at):
            return True
        due = self.lot.earliest_deadline_ms()
        if due is None or due > moment.now_ms or moment.now_ms < self._swept_ms + SWEEP_MS:
            return False
        self._swept_ms = moment.now_ms
        self.sweeping = due > moment.now_ms - WHOLE_MS
        return True

    def passed(self, epoch: int) -> None:
        """Remember that everything was looked at under this epoch."""
        self._passed_at = max(self._passed_at, epoch)
        self._free = False  # what came meanwhile is followed, and looked at, after this

    def outdated(self) -> bool:
        """Say whether the policy in force by now asks for another past than this window keeps."""
        if self._rules_at == self.control.rules_at:
            return False
        self._rules_at = self.control.rules_at
        compiled = self.router.policies.at(self.control.at_ms)
        return compiled.reach != self.window.reach or _reads_facts(compiled) != self._with_facts

    def size(self) -> int:
        """Return how many ids are remembered."""
        return self.window.count()

    def discard(self) -> None:
        """Give the window's room back to the process."""
        self.window.clear()
