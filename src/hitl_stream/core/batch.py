"""The life of one batch: many actions, of which a sample and everything flagged are judged, and one person releases it.

`TABLE` says what may happen in which stage; what it lacks is refused by name. The laws, each a property test:
- nothing but people releases a batch: as many distinct ones as any member needs, each in a role of its queue, none of
  them barred from any member, over the root of the very bytes that run; time never does;
- before that, every item that was drawn and every flagged one has been judged, and at most `accept` of the drawn ones
  were bad; one more, and everything is looked at;
- which members are drawn cannot be told, or ground, before the batch is complete: they hang on its root and on a key;
- a batch that has ended never changes.

What was found bad ended as an item of its own: no release brings it back. Everything that is in doubt is looked at:
- A drawn or flagged item that ended unjudged (expired, stale) can be judged no more: full review.
- A lot no larger than its sample is full review from the start.
- What needs more than its batch's one queue, or must be read before it runs, is decided by itself, like a flagged one.
- What a batch cannot take is decided by itself, outside of it.

The members' own lives are `core.review`'s; `followed` tells a batch what became of one. Times are milliseconds since
1970. A batch of 10,000 members takes about 2.5 MB, and 60 µs for each that joins.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, structs

from hitl_stream.core import merkle, review, sampling
from hitl_stream.core.events import Effect, Purpose, Refusal
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.review import TIER_MAX, Asked, Need, Review, State
from hitl_stream.core.verdicts import LOT_MAX, BatchRelease, Verdict
from hitl_stream.core.vigilance import Level

Score = Callable[[bytes, int, bytes], bytes]
"""A keyed digest of (root, place in the tree, action hash). The members with the smallest ones are drawn."""


class Stage(StrEnum):
    """Where a batch is. The last three are ends."""

    GATHERING = "GATHERING"
    SAMPLING = "SAMPLING"
    """Complete: what was drawn and flagged is being judged."""
    READY = "READY"
    """All of that is judged and within plan: it waits for its release."""
    RELEASED = "RELEASED"
    FULL = "FULL"
    """Each member is decided by itself."""
    ENDED = "ENDED"
    """It had no members, or nobody released it in time."""


class Event(StrEnum):
    """What may happen to a batch."""

    DRAWN = "drawn"
    WHOLE = "whole"
    """It is complete, and no larger than its sample."""
    EMPTY = "empty"
    """It is complete, and has no members: everything was flagged, or is gone."""
    PASSED = "passed"
    FAILED = "failed"
    RELEASE = "release"
    DECIDE_BY = "decide_by"


class Unjoined(StrEnum):
    """Why a batch does not take an item: it is decided singly, outside of it."""

    COMPLETE = "complete"
    """The batch does not gather any more."""
    SIZE = "size"
    """It says another size than the first one of its batch did."""
    BEYOND = "beyond"
    """Its index is not below the size."""
    REPEATED = "repeated"
    """Another one came with that index."""
    PURPOSE = "purpose"
    """It is only judged, and would never run."""


ENDS = frozenset({Stage.RELEASED, Stage.FULL, Stage.ENDED})
TABLE: Mapping[Stage, Mapping[Event, Stage]] = MappingProxyType({
    Stage.GATHERING: {
        Event.DRAWN: Stage.SAMPLING,
        Event.WHOLE: Stage.FULL,
        Event.EMPTY: Stage.ENDED,
        Event.FAILED: Stage.FULL,  # a flagged item ended unjudged
    },
    Stage.SAMPLING: {Event.PASSED: Stage.READY, Event.FAILED: Stage.FULL, Event.DECIDE_BY: Stage.ENDED},
    Stage.READY: {Event.RELEASE: Stage.RELEASED, Event.DECIDE_BY: Stage.ENDED},
    **{end: {} for end in ENDS},
})  # fmt: skip
_AS_ITEM: Mapping[Stage, State] = MappingProxyType({
    Stage.SAMPLING: State.LOT,
    Stage.READY: State.OPEN,
    Stage.RELEASED: State.APPROVED,
    Stage.ENDED: State.EXPIRED,
})  # fmt: skip
"""How the release stands as a review item. While the sample is judged its clock runs, and it goes to no other queue."""
_WAITS = frozenset({State.GATHERING, State.LOT, State.OPEN})
_UNJUDGED = review.OUT_OF_TIME
_GOOD = frozenset({State.PASSED, State.APPROVED, State.PARKED})


class Member(Struct, frozen=True, gc=False):
    """An item that a release would let run. `index` is what its action says, `hash` its action hash in hexadecimal."""

    index: int
    item: str
    hash: str


class Lot(Struct, frozen=True, kw_only=True):
    """One batch, by its key `tenant/place/id`, of one queue.

    `members` are in order of index, which is the order of the tree. `beside` are the indexes, in order, of what came
    and is no member: decided by itself, or gone before the batch was complete. `waiting` are the flagged and drawn ones
    that are not judged yet. `people`: how many must sign its release, the most of any member; `needs` says the same
    with its clock, from completion on. `barred` may not: whoever may not decide some member. `execute_by_ms` is the
    latest deadline of a member. `seen` are the ids (`jti`) of the releases that have counted.
    """

    key: str
    queue: str
    wanted: int
    opened_ms: int
    close_ms: int
    state: Stage = Stage.GATHERING
    members: tuple[Member, ...] = ()
    beside: tuple[int, ...] = ()
    flagged: int = 0
    waiting: tuple[str, ...] = ()
    people: int = 1
    barred: tuple[str, ...] = ()
    execute_by_ms: int = 0
    root: str | None = None
    accept: int | None = None
    drawn: tuple[str, ...] = ()
    good: int = 0
    bad: int = 0
    needs: tuple[Need, ...] = ()
    escalated: int = 0
    seen: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Say whether nothing can happen to it any more."""
        return self.state in ENDS

    @property
    def by(self) -> tuple[str, ...]:
        """Return who has signed its release, in the order of the needs."""
        return tuple(person for need in self.needs for person in need.by)


class LotTurn(Struct, frozen=True, kw_only=True):
    """What a signed release did to a batch."""

    lot: Lot
    effect: Effect = Effect.APPLIED
    refusal: Refusal | None = None


def key_of(tenant: str, place: str, batch_id: str) -> str:
    """Return a batch's key. A place is an account, or an agent where there is none."""
    return f"{tenant}/{place}/{batch_id}"


def opened(key: str, queue: str, wanted: int, now_ms: int, close_after_ms: int) -> Lot:
    """Return a batch that has nothing yet, of its class's queue; raise `ValueError` for a size that no batch has."""
    if not 1 <= wanted <= LOT_MAX:
        raise ValueError(f"batch {key} says a size of {wanted}; a batch has 1 to {LOT_MAX} items")
    return Lot(key=key, queue=queue, wanted=wanted, opened_ms=now_ms, close_ms=now_ms + close_after_ms)


def is_single(lot: Lot, item: Review, *, flagged: bool) -> bool:
    """Say whether an item of a batch is decided by itself.

    It is flagged, or of the tier that must be read before it runs, or it needs more than the approval of the batch's
    queue: a release speaks for that one only.
    """
    return flagged or item.tier >= TIER_MAX or [need.queue for need in item.needs] != [lot.queue]


def joined(lot: Lot, item: Review, index: int, size: int, *, flagged: bool) -> Lot | Unjoined:
    """Take an item in, with the index and the size that its action says; or say why not.

    What is decided by itself (`is_single`) never becomes a member, and is waited for.
    """
    refusal = _unjoined(lot, item, index, size)
    if refusal is not None:
        return refusal
    if is_single(lot, item, flagged=flagged):
        beside = _inserted(lot.beside, index)
        return structs.replace(lot, beside=beside, flagged=lot.flagged + 1, waiting=(*lot.waiting, item.item))
    at = _place(lot.members, index)
    return structs.replace(
        lot,
        members=(*lot.members[:at], Member(index, item.item, item.hash), *lot.members[at:]),
        people=max(lot.people, item.needs[0].people),
        barred=lot.barred + tuple(person for person in item.barred if person not in lot.barred),
        execute_by_ms=max(lot.execute_by_ms, item.execute_by_ms),
    )


def is_complete(lot: Lot, now_ms: int) -> bool:
    """Say whether a batch that gathers is to be completed now: as many as wanted were seen, or its time is over."""
    return lot.state is Stage.GATHERING and (_seen(lot) >= lot.wanted or now_ms >= lot.close_ms)


def completed(lot: Lot, score: Score, policy: Policy, now_ms: int, stopped_ms: int = 0) -> Lot:
    """Return a batch with its tree built and its sample drawn; the clock of its release begins.

    In stage FULL all of it is drawn. What is drawn is opened for review (`review.drawn`), and the rest waits. One that
    does not gather any more stays as it is.
    """
    if lot.state is not Stage.GATHERING:
        return lot
    if not lot.members:
        return _moved(lot, Event.EMPTY)
    leaves = leaves_of(lot)
    root = merkle.root(leaves)
    plan = sampling.plan(len(leaves))
    needs = review.needs_of([(lot.queue, lot.people)], policy, now_ms - stopped_ms, lot.execute_by_ms)
    complete = structs.replace(lot, root=root.hex(), accept=plan.accept, needs=needs)
    if plan.whole:
        everything = tuple(member.item for member in lot.members)
        return _moved(structs.replace(complete, drawn=everything), Event.WHOLE)
    scores = [score(root, place, leaf) for place, leaf in enumerate(leaves)]
    drawn = tuple(lot.members[place].item for place in sampling.draw(scores, plan.size))
    return _moved(structs.replace(complete, drawn=drawn, waiting=(*lot.waiting, *drawn)), Event.DRAWN)


def judged(lot: Lot, item: str, good: bool) -> Lot:
    """Return a batch after one item was judged. What it does not wait for changes nothing: again, undrawn, too late."""
    if lot.ended or item not in lot.waiting:
        return lot
    waiting = tuple(one for one in lot.waiting if one != item)
    counts = item in lot.drawn
    found_good, found_bad = int(counts and good), int(counts and not good)
    lot = structs.replace(lot, waiting=waiting, good=lot.good + found_good, bad=lot.bad + found_bad)
    if lot.accept is not None and lot.bad > lot.accept:
        return _moved(lot, Event.FAILED)
    if lot.state is Stage.SAMPLING and not waiting:
        return _moved(lot, Event.PASSED)
    return lot


def lapsed(lot: Lot, item: str) -> Lot:
    """Return a batch after an item of it ended without a judgement: expired, or stale.

    If it was to be judged, nobody can say any more what the sample says: full review. A member that goes before the
    batch is complete leaves it; after that its place in the tree stays, and a release finds it ended. Ask `due` first:
    where the batch's own time is over too, that is its end.
    """
    if lot.ended:
        return lot
    if item in lot.waiting:
        waiting = tuple(one for one in lot.waiting if one != item)
        return _moved(structs.replace(lot, waiting=waiting), Event.FAILED)
    if lot.state is not Stage.GATHERING:
        return lot
    gone = next((member for member in lot.members if member.item == item), None)
    if gone is None:
        return lot
    members = tuple(member for member in lot.members if member is not gone)
    return structs.replace(lot, members=members, beside=_inserted(lot.beside, gone.index))


def followed(lot: Lot, item: Review) -> Lot:
    """Return a batch after something happened to an item of it, flagged, drawn or not."""
    if item.state in _WAITS:
        return lot
    if item.state in _UNJUDGED:
        return lapsed(lot, item.item)
    return judged(lot, item.item, good=item.state in _GOOD)


def release(lot: Lot, claims: BatchRelease, asked: Asked, policy: Policy) -> LotTurn:
    """Say what a signed release does. Its signature, its time to live and what was shown are good already.

    Who may give it, and until when, is what `review.judge` says of an approval of any other item. Whether a switch
    covers a member is asked when that one is written out.
    """
    if lot.state not in (Stage.READY, Stage.RELEASED, Stage.ENDED):
        return LotTurn(lot=lot, effect=Effect.REFUSED, refusal=Refusal.SAMPLE)
    if claims.batch != lot.key or claims.size != len(lot.members):
        return LotTurn(lot=lot, effect=Effect.REFUSED, refusal=Refusal.ROOT)
    if asked.level >= Level.ESCALATED:
        return LotTurn(lot=lot, effect=Effect.REFUSED, refusal=Refusal.LEVEL)  # any member may be of the highest tier
    turn = review.judge(_as_item(lot), _as_verdict(claims), asked, policy)
    if turn.effect is Effect.REFUSED:
        refusal = Refusal.ROOT if turn.refusal is Refusal.HASH else turn.refusal
        return LotTurn(lot=lot, effect=turn.effect, refusal=refusal)
    if turn.effect not in (Effect.APPLIED, Effect.WAITING):
        return LotTurn(lot=lot, effect=turn.effect)
    signed = structs.replace(lot, needs=turn.review.needs, seen=turn.review.seen)
    if turn.effect is Effect.APPLIED:
        signed = _moved(signed, Event.RELEASE)
    return LotTurn(lot=signed, effect=turn.effect)


def may_release(lot: Lot, person: str, roles: Collection[str], policy: Policy) -> bool:
    """Say whether a batch may be put to a person for its release."""
    return lot.state is Stage.READY and review.may_decide(_as_item(lot), person, roles, policy)


def due(lot: Lot, now_ms: int, policy: Policy, stopped_ms: int = 0) -> Lot | None:
    """Say what time makes of a complete batch by now: its end, or another queue for its release; None: nothing yet.

    Asked again after each answer, as `review.due`, and before the members are: they end with their batch.
    """
    if lot.state not in (Stage.SAMPLING, Stage.READY):
        return None
    turn = review.due(_as_item(lot), now_ms, policy, stopped_ms)
    if turn is None:
        return None
    if turn.review.ended:
        return _moved(lot, Event.DECIDE_BY)
    # Its members' clocks go on, wherever the release has gone: later there is nothing left to be released.
    latest_ms = max(need.decide_by_ms for need in lot.needs)
    needs = (structs.replace(need, decide_by_ms=min(need.decide_by_ms, latest_ms)) for need in turn.review.needs)
    return structs.replace(lot, needs=tuple(needs), escalated=turn.review.escalated)


def next_ms(lot: Lot, stopped_ms: int = 0, *, standing: bool = False) -> int | None:
    """Return when `is_complete` or `due` is to be asked next, at the earliest; None: never again.

    `standing`: a switch holds its clock now. The gathering of a batch no switch stops.
    """
    if lot.ended:
        return None
    if lot.state is Stage.GATHERING:
        return lot.close_ms
    return review.next_ms(_as_item(lot), stopped_ms, standing=standing)


def leaves_of(lot: Lot) -> list[bytes]:
    """Return the leaves of its tree: its members' action hashes, 32 bytes each, in order."""
    return [bytes.fromhex(member.hash) for member in lot.members]


# --- the release, as a review of its own ------------------------------------------------------------------------------


def _as_item(lot: Lot) -> Review:
    """Return the item that stands for the release of a batch: the same rules for the same people."""
    return Review(
        item=lot.key,
        purpose=Purpose.DECIDE,
        hash=lot.root or "",
        state=_AS_ITEM[lot.state],
        needs=lot.needs,
        barred=lot.barred,
        opened_ms=lot.opened_ms,
        execute_by_ms=lot.execute_by_ms,
        escalated=lot.escalated,
        seen=lot.seen,
    )


def _as_verdict(claims: BatchRelease) -> Verdict:
    """Return what a release says, as an approval of that item."""
    shared = {name: value for name, value in structs.asdict(claims).items() if name not in ("batch", "size", "root")}
    return Verdict(**shared, item=claims.batch, hash=claims.root, verdict="approve")


# --- small things -----------------------------------------------------------------------------------------------------


def _moved(lot: Lot, event: Event) -> Lot:
    return structs.replace(lot, state=TABLE[lot.state][event])


def _seen(lot: Lot) -> int:
    return len(lot.members) + len(lot.beside)


def _unjoined(lot: Lot, item: Review, index: int, size: int) -> Unjoined | None:
    if lot.state is not Stage.GATHERING or _seen(lot) >= lot.wanted:
        return Unjoined.COMPLETE
    if item.purpose is not Purpose.DECIDE:
        return Unjoined.PURPOSE
    if size != lot.wanted:
        return Unjoined.SIZE
    if not 0 <= index < lot.wanted:
        return Unjoined.BEYOND
    at, beside = _place(lot.members, index), bisect_left(lot.beside, index)
    if lot.members[at : at + 1] and lot.members[at].index == index:
        return Unjoined.REPEATED
    return Unjoined.REPEATED if lot.beside[beside : beside + 1] == (index,) else None


def _place(members: tuple[Member, ...], index: int) -> int:
    return bisect_left(members, index, key=lambda member: member.index)


def _inserted(indexes: tuple[int, ...], index: int) -> tuple[int, ...]:
    at = bisect_left(indexes, index)
    return (*indexes[:at], index, *indexes[at:])
