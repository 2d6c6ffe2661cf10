"""When a kill switch is EFFECTIVE: nothing that was decided before it can leave any more, and who stands in the way.

An instance has acknowledged epoch k once it has applied k and has nothing open that was decided, or called, before k.

**Router and desk** emit by transactions, so the proof is per transactional id, one for each role and partition. Only an
instance that has not acknowledged k can hold a producer that commits what was decided before k. Whoever starts a
producer first says so, *delivered* (its ack's `claims`), and afterwards reads `control` to a high watermark taken after
the start. From the order of records on `control.acks` follows:
1. A producer started before k was appended stands in the claims of an ack that is in the log by then. Acks are read to
   an end taken after k was folded, so every instance that can matter is known, and so is what it can hold.
2. An id that it claims is proved by fencing it, begun after k was folded: its producer is dead, and a later one decides
   by k.
3. An id is *not* fenced where another instance holds it: that one lists it as open in an ack, and had claimed it by an
   ack that comes after the silent one's last, which lists it as open too. The silent one's producer had started before
   its last ack, the other's after it, and starting fences: it is dead already. (Open alone does not tell that: an owner
   that has not heard of a rebalance still lists what a newer one has taken over.)
4. An id of which this control has never heard an owner, nor fenced it, is fenced once: acks may have been lost with a
   compaction that somebody provoked. Where nobody of a role runs that is done beforehand, `IDLE_AFTER_MS` after the
   start, so that the first kill does not wait for it.
Fencing waits `FENCE_AFTER_MS`, since it costs a healthy instance two seconds.

Whose lease is over, and whose claims were fenced after its last ack, holds nothing any more. A newer ack revives it. A
lease is over only once acks were read to an end taken `LEASE_MS` after the last one was heard.

**Executors** have no transaction toward the platform: one that does not answer cannot be fenced. It is CONTAINED with
its open calls, until a goodbye, a newer ack, or a person's farewell; where its adapter enforces the lease's end at the
platform (`fence`), until lease and call limit are over.

The caller waits for the stable offsets of `execute` (`provable`) before it calls anything EFFECTIVE (`settle`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Protocol

from hitl_stream.core.commands import Contained, Waiting

FENCED_ROLES = ("router", "desk")
EXECUTOR = "executor"
ROLES = (*FENCED_ROLES, EXECUTOR)
FENCE_AFTER_MS = 500
"""How long an instance may take to acknowledge; a commit under way takes 50."""
LEASE_MS = 2_000
"""For so long after it sent an ack an instance may emit, once a heartbeat repeats that ack."""
CALL_MS_MAX = 30_000
"""What a platform call is given, at most; with `fence` its effect is over by then."""
FRESH_MS = 1_000
"""Whose ack is younger is there, and ends its transactions itself: four acks come a second."""
IDLE_AFTER_MS = 5_000
"""By then whoever runs has announced itself."""
IDLE_AT_ONCE = 4
REPEAT_MS = 10_000
"""Acks that are older are not repeated in heartbeats: no lease comes of them."""


class Acknowledgement(Protocol):
    """What is asked of an ack; see `wire.records.Ack`."""

    @property
    def n(self) -> int:
        """Its number: an instance's later acks have larger ones, also over restarts."""

    @property
    def instance(self) -> str:
        """Who sent it."""

    @property
    def role(self) -> str:
        """One of `ROLES`."""

    @property
    def partitions(self) -> tuple[int, ...]:
        """The partitions that it has open."""

    @property
    def claims(self) -> tuple[int, ...] | None:
        """Those of which it has a producer, or is about to start one; None: it does not say, so it may be any."""

    @property
    def epoch(self) -> int:
        """The newest epoch applied."""

    @property
    def open_epoch(self) -> int | None:
        """By which epoch its oldest open transaction was decided."""

    @property
    def calls(self) -> int:
        """How many platform calls are open."""

    @property
    def calls_epoch(self) -> int | None:
        """By which epoch the oldest of them was begun."""

    @property
    def fence(self) -> bool:
        """Whether the platform refuses its calls once its lease is over."""

    @property
    def goodbye(self) -> bool:
        """Whether it has ended in order: it holds nothing, and sends nothing more."""


class Id(NamedTuple):
    """What a transactional id stands for."""

    role: str
    partition: int


class Outlook(NamedTuple):
    """How things stand.

    `provable`: the newest engagement of which nothing can leave but what `execute` already holds; −1: none. `fence`:
    ids to fence now. `unanswered`: who holds up the newest engagement, apart from the contained.
    """

    provable: int
    fence: frozenset[Id]
    unanswered: tuple[Waiting, ...] = ()
    contained: tuple[Contained, ...] = ()


@dataclass(slots=True)
class _Instance:
    """What the last ack of an instance says, and what has become of it since.

    `claims`: the partitions by whose ids it may still commit; None: any. `since`: partition → offset of the first of
    the acks in a row that claim it; `LONG_AGO`: compaction may have taken that one.
    """

    name: str
    role: str
    n: int
    offset: int
    append_ms: int
    heard_ms: int
    acked: int
    open: frozenset[int] = frozenset()
    claims: set[int] | None = field(default_factory=set)
    since: dict[int, int] = field(default_factory=dict)
    calls: int = 0
    fence: bool = False
    goodbye: bool = False


class _Fence(NamedTuple):
    """A fence that has worked: the epoch that was folded when it began, and when that was."""

    epoch: int
    at_ms: int


_NEVER = _Fence(-1, -1)
LONG_AGO = -1


class Effective:
    """What is known of every instance, and so of every engagement. Times are milliseconds of one steady clock."""

    def __init__(self, partitions: int, call_ms_max: int = CALL_MS_MAX) -> None:
        self._numbers = range(partitions)
        self._call_ms_max = call_ms_max
        self._instances: dict[str, _Instance] = {}
        self._epoch = -1
        self._old = -1
        """Epochs up to here were folded before we began: they are proved once more, but nobody is in their way who has
        acknowledged them, and unknown owners are let be."""
        self._pending: list[int] = []
        self._since_ms: dict[int, int] = {}
        self._fences: dict[Id, _Fence] = {}
        self._owned: set[Id] = set()
        """Ids of which we have heard an owner ourselves: whoever held them before is fenced."""
        self._farewells: dict[str, int] = {}
        self._read_epoch = -1
        self._read_ms = -1
        self._began_ms: int | None = None

    # --- what happened ------------------------------------------------------------------------------------------------

    def folded(self, epoch: int, engaged: Iterable[int], now_ms: int, *, old: bool = False) -> None:
        """Take in that `control` is folded to `epoch`, and which engagements that brought, in their order."""
        self._epoch = epoch
        if old:
            self._old = epoch
        for one in engaged:
            self._pending.append(one)
            self._since_ms[one] = now_ms

    def heard(self, offset: int, ack: Acknowledgement, append_ms: int, now_ms: int, *, old: bool = False) -> bool:
        """Take in the ack at an offset of `control.acks`; return False for one that was heard before.

        `old`: it is read back, so it does not tell who holds what by now.
        """
        before = self._instances.get(ack.instance)
        if before is not None and ack.n <= before.n:
            return False
        since = before.since if before is not None else {}
        busy = ack.calls_epoch if ack.role == EXECUTOR else ack.open_epoch
        self._instances[ack.instance] = one = _Instance(
            name=ack.instance,
            role=ack.role,
            n=ack.n,
            offset=offset,
            append_ms=append_ms,
            heard_ms=now_ms,
            acked=ack.epoch if busy is None else min(ack.epoch, busy),
            open=frozenset(ack.partitions),
            claims=set() if ack.goodbye else None if ack.claims is None else set(ack.claims),
            since={number: since.get(number, LONG_AGO if old else offset) for number in ack.claims or ()},
            calls=ack.calls,
            fence=ack.fence,
            goodbye=ack.goodbye,
        )
        self._take_over(one)
        if not old:
            self._owned.update(Id(one.role, number) for number in one.open)
        return True

    def read(self, epoch: int, at_ms: int) -> None:
        """Take in that all acks were heard that were in the log at `at_ms`, when `epoch` had been folded."""
        self._read_epoch = max(self._read_epoch, epoch)
        self._read_ms = max(self._read_ms, at_ms)
        if self._began_ms is None:
            self._began_ms = at_ms

    def fenced(self, one: Id, epoch: int, at_ms: int) -> None:
        """Take in that an id was fenced; `epoch` was folded when that began, at `at_ms`."""
        self._fences[one] = _Fence(max(epoch, self._fences.get(one, _NEVER).epoch), at_ms)
        self._owned.add(one)

    def farewell(self, instance: str, append_ms: int) -> None:
        """Take in a person's word, appended then, that the process of an executor has ended."""
        self._farewells[instance] = append_ms

    def settle(self, epoch: int) -> list[int]:
        """Call everything up to a provable epoch EFFECTIVE, the stable offsets being reached; return what is new."""
        count = bisect_right(self._pending, epoch)
        done, self._pending = self._pending[:count], self._pending[count:]
        for one in done:
            del self._since_ms[one]
        return done

    # --- what follows -------------------------------------------------------------------------------------------------

    @property
    def effective(self) -> int:
        """Return the newest epoch up to which every engagement is EFFECTIVE."""
        return self._pending[0] - 1 if self._pending else self._epoch

    @property
    def pending(self) -> Sequence[int]:
        """Return the engagements that are not EFFECTIVE yet, oldest first."""
        return self._pending

    def is_old(self, epoch: int) -> bool:
        """Say whether an epoch was folded before we began."""
        return epoch <= self._old

    def numbers(self, now_ms: int) -> dict[str, int]:
        """Return the number of the last ack of every instance that may still earn a lease by it."""
        return {
            one.name: one.n for one in self._instances.values() if not one.goodbye and now_ms - one.heard_ms < REPEAT_MS
        }

    def look(self, now_ms: int, stuck: Collection[int] = ()) -> Outlook:
        """Say how things stand. `stuck`: partitions of `execute` whose stable offset does not move on."""
        if not self._pending:
            idle = self._began_ms is not None and now_ms - self._began_ms >= IDLE_AFTER_MS
            return Outlook(-1, frozenset(islice(self._nobodys(), IDLE_AT_ONCE if idle else 0)))
        self._let_go()
        proved = self._proved()
        provable = self._pending[proved - 1] if proved else -1
        due = self._due(now_ms)
        fence = frozenset(self._lacking(due)) if due >= 0 else frozenset()
        if not self.is_old(self._pending[-1]):
            fence |= frozenset(self._nobodys())
        fence |= frozenset(self._abandoned(stuck, now_ms))
        newest = self._pending[-1]
        contained = tuple(
            Contained(epoch=self._first_missed(one), instance=one.name, calls=one.calls)
            for one in self._executors(newest)
            if self._is_silent(one)
        )
        return Outlook(provable, fence, tuple(self._unanswered(newest, now_ms)), contained)

    # --- instances ----------------------------------------------------------------------------------------------------

    def _take_over(self, owner: _Instance) -> None:
        """End the claims that others made on what this one has opened after their last ack (3)."""
        for number in owner.open & owner.since.keys():
            for other in self._instances.values():
                if other is owner or other.role != owner.role or not other.claims:
                    continue
                if number in other.open and other.offset < owner.since[number]:
                    other.claims.discard(number)

    def _let_go(self) -> None:
        """End the claims of those whose lease is over, on what was fenced after their last ack."""
        for one in self._instances.values():
            if not one.goodbye and one.role in FENCED_ROLES and self._is_silent(one):
                held = self._numbers if one.claims is None else one.claims
                left = {n for n in held if self._fences.get(Id(one.role, n), _NEVER).at_ms <= one.heard_ms}
                if not left or one.claims is not None:
                    one.claims = left

    def _is_silent(self, one: _Instance) -> bool:
        """Say whether its lease is over."""
        return self._read_ms - one.heard_ms >= LEASE_MS

    def _behind(self, role: str, epoch: int) -> Iterator[_Instance]:
        for one in self._instances.values():
            if one.role == role and not one.goodbye and one.acked < epoch:
                yield one

    def _executors(self, epoch: int) -> Iterator[_Instance]:
        """Yield the executors of which a call begun before an epoch may still take effect."""
        for one in self._behind(EXECUTOR, epoch):
            if self._farewells.get(one.name, -1) > one.append_ms:
                continue
            if one.fence and self._read_ms - one.heard_ms >= LEASE_MS + self._call_ms_max:
                continue
            yield one

    def _unanswered(self, epoch: int, now_ms: int) -> Iterator[Waiting]:
        routing = [
            one
            for role in FENCED_ROLES
            for one in self._behind(role, epoch)
            if any(True for _ in self._held(one, epoch))
        ]
        for one in (*routing, *(one for one in self._executors(epoch) if not self._is_silent(one))):
            since_ms = self._since_ms[self._first_missed(one)]
            yield Waiting(instance=one.name, since_s=max(0, now_ms - since_ms) / 1000)

    def _first_missed(self, one: _Instance) -> int:
        return self._pending[min(bisect_right(self._pending, one.acked), len(self._pending) - 1)]

    # --- ids ----------------------------------------------------------------------------------------------------------

    def _held(self, one: _Instance, epoch: int) -> Iterator[Id]:
        """Yield the ids by which an instance that is behind may still commit what was decided before an epoch."""
        for number in self._numbers if one.claims is None else one.claims:
            found = Id(one.role, number)
            if self._fences.get(found, _NEVER).epoch < epoch:
                yield found

    def _lacking(self, epoch: int) -> Iterator[Id]:
        """Yield the ids that are not proved for an epoch."""
        for role in FENCED_ROLES:
            for one in self._behind(role, epoch):
                yield from self._held(one, epoch)
        if not self.is_old(epoch):
            yield from self._unheard_of(FENCED_ROLES)

    def _unheard_of(self, roles: Iterable[str]) -> Iterator[Id]:
        for role in roles:
            for number in self._numbers:
                if Id(role, number) not in self._owned:
                    yield Id(role, number)

    def _nobodys(self) -> Iterator[Id]:
        """Yield the unknown ids of roles of which nobody runs: there is nobody to wait for."""
        there = {one.role for one in self._instances.values() if not one.goodbye}
        return self._unheard_of(role for role in FENCED_ROLES if role not in there)

    def _abandoned(self, stuck: Collection[int], now_ms: int) -> Iterator[Id]:
        """Yield the ids that may hold up stable offsets with a transaction that nobody is there to end."""
        for number in stuck:
            for role in FENCED_ROLES:
                one = Id(role, number)
                if self._fences.get(one, _NEVER).epoch < self._pending[0] and not self._is_held(one, now_ms):
                    yield one

    def _is_held(self, one: Id, now_ms: int) -> bool:
        return any(
            other.role == one.role
            and now_ms - other.heard_ms < FRESH_MS
            and (other.claims is None or one.partition in other.claims)
            for other in self._instances.values()
            if not other.goodbye
        )

    # --- epochs -------------------------------------------------------------------------------------------------------

    def _proved(self) -> int:
        """Return how many of the pending epochs are proved; whatever proves one proves those before it."""
        return bisect_left(self._pending, True, key=lambda epoch: not self._is_proved(epoch))

    def _is_proved(self, epoch: int) -> bool:
        if epoch > self._read_epoch:
            return False
        return not any(True for _ in self._lacking(epoch)) and not any(True for _ in self._executors(epoch))

    def _due(self, now_ms: int) -> int:
        """Return the newest epoch that had its time to be acknowledged; −1: none."""
        # An old one was engaged when we began: all have the same time.
        count = bisect_right(self._pending, now_ms - FENCE_AFTER_MS, key=lambda epoch: self._since_ms[epoch])
        return self._pending[count - 1] if count else -1
