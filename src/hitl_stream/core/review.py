"""The life of one review item: what a verdict, a timer or an event makes of it.

`TABLE` says which event may end or move an item in which state; what it lacks is refused by name. The laws, each a
property test:
- nothing but approvals of distinct people, each in a role of its queue, none of them the submitter or the agent's
  owner, lets an action run; time never does;
- one rejection closes; the last missing approval releases; the first by log order wins;
- an item that has ended never changes;
- only purpose `decide` can lead to an execute record.

Times are milliseconds since 1970. While a switch covers an item its approvals' clocks stand still, and its deadline does
not: `stopped_ms` says for how long they have stood by now (`core.switches.stopped_ms`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, structs

from hitl_stream.core.commands import milliseconds
from hitl_stream.core.events import Effect, End, Purpose, Refusal, Why
from hitl_stream.core.policy.model import Policy, Queue
from hitl_stream.core.verdicts import Verdict

ESCALATED_MAX = 16
"""Queues whose `next` lead in a circle must not send an item round for ever."""
HALF = 2
"""Of its SLA an approval may take one in so many parts before it is escalated."""
TIER_MAX = 3
"""The highest tier: decided by Shift and a typed amount, and never faster than its content can be read."""


class State(StrEnum):
    """Where an item is. The last six are ends."""

    GATHERING = "GATHERING"
    """A member of a batch that is not complete yet."""
    LOT = "LOT"
    """A member of a complete batch, not drawn: it waits for the sample and the release."""
    OPEN = "OPEN"
    PASSED = "PASSED"
    """Drawn and approved; it waits for the release of its batch."""
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
    CHANGED = "CHANGED"
    EXPIRED = "EXPIRED"
    STALE = "STALE"
    PARKED = "PARKED"
    """Approved while a switch covered it: on `held`, to be decided anew."""


class Event(StrEnum):
    """What may happen to an item."""

    APPROVE = "approve"
    REJECT = "reject"
    CHANGE = "change"
    ESCALATE = "escalate"
    HALF_SLA = "half_sla"
    DECIDE_BY = "decide_by"
    EXECUTE_BY = "execute_by"
    OVERTAKEN = "overtaken"
    """A newer action on what it would change was executed, or the value is not what it starts from any more."""
    DRAWN = "drawn"
    UNDRAWN = "undrawn"
    RELEASE = "release"
    """Its batch was released by a person."""
    FULL = "full"
    """Its batch's sample failed: everything is looked at."""


ENDS = frozenset({State.APPROVED, State.REJECTED, State.CHANGED, State.EXPIRED, State.STALE, State.PARKED})
OUT_OF_TIME = frozenset({State.EXPIRED, State.STALE})
"""After these a verdict is late; after the other ends it is in conflict."""
_GONE: Mapping[Event, State] = {
    Event.EXECUTE_BY: State.EXPIRED,
    Event.OVERTAKEN: State.STALE,
}
TABLE: Mapping[State, Mapping[Event, State]] = MappingProxyType({
    State.GATHERING: {Event.DRAWN: State.OPEN, Event.UNDRAWN: State.LOT, Event.FULL: State.OPEN, **_GONE},
    State.LOT: {
        Event.RELEASE: State.APPROVED,
        Event.FULL: State.OPEN,
        Event.DECIDE_BY: State.EXPIRED,
        **_GONE,
    },
    State.OPEN: {
        Event.APPROVE: State.APPROVED,
        Event.REJECT: State.REJECTED,
        Event.CHANGE: State.CHANGED,
        Event.ESCALATE: State.OPEN,
        Event.HALF_SLA: State.OPEN,
        Event.DECIDE_BY: State.EXPIRED,
        Event.FULL: State.OPEN,
        **_GONE,
    },
    State.PASSED: {
        Event.RELEASE: State.APPROVED,
        Event.FULL: State.APPROVED,  # it has its own approval
        Event.DECIDE_BY: State.EXPIRED,
        **_GONE,
    },
    **{end: {} for end in ENDS},
})  # fmt: skip


class Deed(StrEnum):
    """What must be written besides the item's new state."""

    NOTHING = "nothing"
    EXECUTE = "execute"
    PARK = "park"
    CLOSE = "close"
    PROPOSE = "propose"
    """A new action, by the person, and the old one superseded (of an exception: left as it ended)."""


class Need(Struct, frozen=True):
    """One approval that is missing or given: `people` distinct people of a queue, until `decide_by_ms`.

    `escalate_ms` is when it goes to the queue's next one; None: it has none, or went there already as far as it can.
    """

    queue: str
    people: int
    decide_by_ms: int
    escalate_ms: int | None = None
    by: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Say whether enough people have approved."""
        return len(self.by) >= self.people


class Review(Struct, frozen=True, kw_only=True):
    """One item. `barred` may not decide it: the submitter, the agent's owner, the first reviewer of a second.

    `seen` are the ids (`jti`) of the verdicts that have counted: the same one once more changes nothing.
    `execute_by_ms` is the deadline, which no switch stops. `floor_ms` is how long reading it takes at least.
    """

    item: str
    purpose: Purpose
    hash: str
    state: State
    needs: tuple[Need, ...]
    barred: tuple[str, ...] = ()
    for_: str | None = None
    opened_ms: int
    execute_by_ms: int
    tier: int = 1
    floor_ms: int = 0
    batch: str | None = None
    escalated: int = 0
    seen: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Say whether nothing can happen to it any more."""
        return self.state in ENDS

    @property
    def by(self) -> tuple[str, ...]:
        """Return who has approved, in the order of the needs."""
        return tuple(person for need in self.needs for person in need.by)


class Asked(Struct, frozen=True):
    """What is known of a verdict besides its words.

    `appended_ms` is its append time, which decides whether it came in time. `service`: whoever it names is no person.
    `editable`: the paths that a change may name, with what stands there now. `covered`: a switch holds the item.
    """

    appended_ms: int
    service: bool = False
    covered: bool = False
    stopped_ms: int = 0
    editable: Mapping[str, object] = MappingProxyType({})


class Turn(Struct, frozen=True, kw_only=True):
    """What became of an item: its next value, and what must be written.

    `effect` and `refusal` answer a verdict. `end` and `why` are set where the action is closed.
    """

    review: Review
    effect: Effect = Effect.APPLIED
    refusal: Refusal | None = None
    deed: Deed = Deed.NOTHING
    end: End | None = None
    why: Why | None = None


def needs_of(asked: Sequence[tuple[str, int]], policy: Policy, routed_ms: int, execute_by_ms: int) -> tuple[Need, ...]:
    """Return the approvals of (queue, people), each queue once with the most people that anybody asks of it.

    A queue that this policy does not have is its default queue. Without any, the default queue is asked.
    """
    people: dict[str, int] = {}
    for queue, count in asked or ((policy.defaults.queue, 1),):
        known = queue if queue in policy.queues else policy.defaults.queue
        people[known] = max(people.get(known, 1), count)
    return tuple(_need(queue, count, policy, routed_ms, execute_by_ms) for queue, count in people.items())


def _need(queue: str, people: int, policy: Policy, from_ms: int, execute_by_ms: int) -> Need:
    spec = policy.queues[queue]
    half = from_ms + spec.sla // HALF if _next(queue, policy) is not None else None
    return Need(queue, people, min(from_ms + spec.sla, execute_by_ms), half)


def _next(queue: str, policy: Policy) -> str | None:
    """Return where a queue's items escalate to, if that is another queue."""
    following = policy.queues[queue].next if queue in policy.queues else policy.defaults.queue
    return following if following is not None and following != queue and following in policy.queues else None


def judge(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Turn:
    """Say what a verdict does. Its signature, its time to live and what was shown are good already."""
    if verdict.jti in review.seen:
        return Turn(review=review, effect=Effect.REFUSED, refusal=Refusal.REPLAYED)
    effect = _too_late(review, asked)
    if effect is not None:
        return Turn(review=review, effect=effect)
    refusal = _refusal(review, verdict, asked, policy)
    if refusal is not None:
        return Turn(review=review, effect=Effect.REFUSED, refusal=refusal)
    counted = structs.replace(review, seen=(*review.seen, verdict.jti))
    match verdict.verdict:
        case "approve":
            return _approved(counted, verdict, asked, policy)
        case "reject":
            return _ended(counted, Event.REJECT, Deed.CLOSE, End.REJECTED, Why.REJECTED)
        case "change":
            return _changed(counted)
        case "escalate":
            return _escalated(
                counted, _need_of(counted, verdict.role, policy), Event.ESCALATE, policy, asked.appended_ms
            )


def due(review: Review, now_ms: int, policy: Policy, stopped_ms: int = 0) -> Turn | None:
    """Say what time makes of an item by now: an end, or an escalation; None: nothing yet.

    Asked again after each turn, since one may follow at once on another. What was due before a switch covered the item
    is due while it does.
    """
    if review.ended:
        return None
    if now_ms >= review.execute_by_ms:
        return _ended(review, Event.EXECUTE_BY, Deed.CLOSE, End.EXPIRED, Why.EXECUTE_BY)
    for need in _missing(review):
        if Event.DECIDE_BY in TABLE[review.state] and now_ms >= need.decide_by_ms + stopped_ms:
            return _ended(review, Event.DECIDE_BY, Deed.CLOSE, End.EXPIRED, Why.DECIDE_BY)
    for need in _missing(review):
        late = need.escalate_ms is not None and now_ms >= need.escalate_ms + stopped_ms
        if late and Event.HALF_SLA in TABLE[review.state]:
            return _escalated(review, need, Event.HALF_SLA, policy, now_ms - stopped_ms)
    return None


def next_ms(review: Review, stopped_ms: int = 0) -> int:
    """Return when `due` is to be asked next, at the earliest: a switch may yet stop its clocks."""
    times = [review.execute_by_ms]
    for need in _missing(review):
        if Event.DECIDE_BY in TABLE[review.state]:
            times.append(need.decide_by_ms + stopped_ms)
        if need.escalate_ms is not None and Event.HALF_SLA in TABLE[review.state]:
            times.append(need.escalate_ms + stopped_ms)
    return min(times)


def overtaken(review: Review) -> Turn | None:
    """Say what it means that an action which came later has been executed on what this one would change."""
    if review.ended or review.purpose is not Purpose.DECIDE:
        return None
    return _ended(review, Event.OVERTAKEN, Deed.CLOSE, End.STALE, Why.STALE)


def drawn(review: Review, is_drawn: bool, policy: Policy, now_ms: int) -> Review:
    """Return a member of a batch that is complete now: its clocks begin."""
    return _moved(_restarted(review, policy, now_ms), Event.DRAWN if is_drawn else Event.UNDRAWN)


def full(review: Review, policy: Policy, now_ms: int, *, covered: bool = False) -> Turn | None:
    """Say what becomes of a member of a batch of which everything is to be looked at; None: it has its end."""
    if Event.FULL not in TABLE[review.state]:
        return None
    if review.state is State.PASSED:
        return _released(review, Event.FULL, covered=covered)
    if review.state is State.OPEN:
        return Turn(review=review)
    return Turn(review=_moved(_restarted(review, policy, now_ms), Event.FULL))


def released(review: Review, *, covered: bool = False) -> Turn | None:
    """Say what becomes of a member of a batch that a person has released; None: it has its end, or is looked at."""
    if Event.RELEASE not in TABLE[review.state]:
        return None
    return _released(review, Event.RELEASE, covered=covered)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _too_late(review: Review, asked: Asked) -> Effect | None:
    """Compare with the item's end, and with the clocks: an expiry that was due, and not done yet, has happened."""
    if review.state in OUT_OF_TIME:
        return Effect.LATE
    if review.ended:
        return Effect.CONFLICT
    if asked.appended_ms >= review.execute_by_ms:
        return Effect.LATE
    late = any(asked.appended_ms >= need.decide_by_ms + asked.stopped_ms for need in _missing(review))
    return Effect.LATE if late else None


def _refusal(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Refusal | None:
    if review.state is not State.OPEN:
        return Refusal.NOT_OPEN
    if verdict.hash != review.hash:
        return Refusal.HASH
    if asked.service:
        return Refusal.SERVICE
    if review.for_ is not None and verdict.by != review.for_:
        return Refusal.NOT_ASKED
    if verdict.by in review.barred:
        return Refusal.BARRED
    if _need_of(review, verdict.role, policy) is None:
        return Refusal.ROLE
    if verdict.verdict == "approve":
        if verdict.by in review.by:
            return Refusal.SAME_PERSON
        if review.tier >= TIER_MAX and _dwell_ms(verdict) < review.floor_ms:
            return Refusal.TOO_FAST
    if verdict.verdict in ("reject", "change") and not _explained(verdict, policy):
        return Refusal.REASON
    if verdict.verdict == "change" and not _changes(verdict, asked.editable):
        return Refusal.CHANGE
    if verdict.verdict == "escalate" and (
        review.escalated >= ESCALATED_MAX or _next(_of(review, verdict.role, policy).queue, policy) is None
    ):
        return Refusal.NO_NEXT
    return None


def _dwell_ms(verdict: Verdict) -> int:
    return milliseconds(verdict.decided) - milliseconds(verdict.painted)


def _explained(verdict: Verdict, policy: Policy) -> bool:
    """Say whether it names a reason that the policy knows; where that has none, a note in words."""
    if policy.reasons:
        return verdict.code in policy.reasons
    return bool(verdict.note and verdict.note.strip())


def _changes(verdict: Verdict, editable: Mapping[str, object]) -> bool:
    """Say whether it sets something, each path once, to another value than stands there."""
    paths = [edit.path for edit in verdict.changes]
    return (
        bool(paths)
        and len(set(paths)) == len(paths)
        and all(edit.path in editable and editable[edit.path] != edit.value for edit in verdict.changes)
    )


def _approved(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Turn:
    need = _of(review, verdict.role, policy)
    given = structs.replace(need, by=(*need.by, verdict.by))
    review = _with(review, need, given)
    if any(True for _ in _missing(review)):
        return Turn(review=review, effect=Effect.WAITING)
    if review.batch is not None:
        return Turn(review=structs.replace(review, state=State.PASSED), effect=Effect.WAITING)
    return _released(review, Event.APPROVE, covered=asked.covered)


def _released(review: Review, event: Event, *, covered: bool) -> Turn:
    """Let it run, if that is what it is for and no switch holds it."""
    if review.purpose is Purpose.DECIDE:
        if covered:
            return Turn(review=structs.replace(review, state=State.PARKED), deed=Deed.PARK)
        return Turn(review=_moved(review, event), deed=Deed.EXECUTE)
    deed = Deed.PROPOSE if review.purpose is Purpose.EXCEPTION else Deed.NOTHING
    return Turn(review=_moved(review, event), deed=deed)


def _changed(review: Review) -> Turn:
    proposes = review.purpose in (Purpose.DECIDE, Purpose.EXCEPTION)
    decides = review.purpose is Purpose.DECIDE
    return Turn(
        review=_moved(review, Event.CHANGE),
        deed=Deed.PROPOSE if proposes else Deed.NOTHING,
        end=End.SUPERSEDED if decides else None,
        why=Why.CHANGED if decides else None,
    )


def _ended(review: Review, event: Event, deed: Deed, end: End, why: Why) -> Turn:
    """End it. What is only judged was never to run: its action is not closed a second time."""
    moved = _moved(review, event)
    if review.purpose is not Purpose.DECIDE:
        return Turn(review=moved)
    return Turn(review=moved, deed=deed, end=end, why=why)


def _escalated(review: Review, need: Need | None, event: Event, policy: Policy, from_ms: int) -> Turn:
    """Send an approval to the next queue, with that one's time from now. Who has approved already keeps counting."""
    assert need is not None  # `_refusal` has seen that there is one
    moved = _moved(review, event)
    queue = _next(need.queue, policy)
    if queue is None:  # the policy has changed since
        return Turn(review=_with(moved, need, structs.replace(need, escalate_ms=None)))
    following = _need(queue, need.people, policy, from_ms, review.execute_by_ms)
    already = next((one for one in review.needs if one.queue == queue and one is not need), None)
    if already is not None:
        # That queue is asked anyway: it says yes for both, with as many people as the stricter one wants.
        merged = structs.replace(already, people=max(already.people, need.people))
        kept = tuple(merged if one is already else one for one in moved.needs if one is not need)
        return Turn(review=structs.replace(moved, needs=kept, escalated=review.escalated + 1))
    given = structs.replace(following, by=need.by)
    return Turn(review=structs.replace(_with(moved, need, given), escalated=review.escalated + 1))


# --- small things -----------------------------------------------------------------------------------------------------


def _moved(review: Review, event: Event) -> Review:
    return structs.replace(review, state=TABLE[review.state][event])


def _with(review: Review, old: Need, new: Need) -> Review:
    return structs.replace(review, needs=tuple(new if need is old else need for need in review.needs))


def _missing(review: Review) -> list[Need]:
    return [need for need in review.needs if not need.met]


def _need_of(review: Review, role: str, policy: Policy) -> Need | None:
    """Return the first missing approval that a role may give."""
    for need in _missing(review):
        queue: Queue | None = policy.queues.get(need.queue)
        if queue is not None and role in queue.roles:
            return need
    return None


def _of(review: Review, role: str, policy: Policy) -> Need:
    need = _need_of(review, role, policy)
    assert need is not None  # `_refusal` has seen that there is one
    return need


def _restarted(review: Review, policy: Policy, now_ms: int) -> Review:
    """Return it with the clocks of its approvals beginning now."""
    needs = tuple(_need(need.queue, need.people, policy, now_ms, review.execute_by_ms) for need in review.needs)
    return structs.replace(review, needs=needs)


def may_decide(review: Review, person: str, roles: Collection[str], policy: Policy) -> bool:
    """Say whether an item may be put to a person: what the queue hands out, before anybody clicks."""
    return (
        review.state is State.OPEN
        and (review.for_ is None or review.for_ == person)
        and person not in review.barred
        and person not in review.by
        and any(_need_of(review, role, policy) is not None for role in roles)
    )
