"""The life of one review item: what a verdict, a timer or an event makes of it.

`TABLE` says which event may end or move an item in which state; what it lacks is refused by name. The laws, each a
property test:
- Nothing but approvals of distinct people, each in a role of its queue, none of them the submitter or the agent's
  owner, lets an action run. Time never does, nor does an escalation.
- One rejection closes, by whoever any of its queues asks; the last missing approval releases; the first by log order
  wins.
- An item that has ended never changes.
- Only purpose `decide` can lead to an execute record.
- Who is watched closely can stop anything, and let run less than others: levels only ever ask for more people.
- A verdict appended before a time is over counts, although the timer has not run; one at that time or after it is late,
  although the timer has not run either.

Times are milliseconds since 1970. While a switch holds an item the clocks of its approvals stand still, its deadline
does not. A need's times are those of a clock that never stood: `stopped_ms`, how long it has stood since the item was
opened (`core.switches.stopped_ms`), is added wherever they are compared, and taken off wherever a clock begins.
Where the action has no end of its own, its deadline follows the last of these times, and goes on with an escalation.
Two names that differ in case or white space only are one person's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType

from msgspec import Struct, structs

from hitl_stream.core.action import Value
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.control import is_same_holder
from hitl_stream.core.edits import fault
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Effect, End, Purpose, Refusal, Why
from hitl_stream.core.policy.compile import GRACE_MS
from hitl_stream.core.policy.model import Policy, Queue
from hitl_stream.core.verdicts import Verdict
from hitl_stream.core.vigilance import Level

ESCALATED_MAX = 16
"""Queues whose `next` lead in a circle must not send an item round for ever."""
HALF = 2
"""Of its SLA an approval may take one in so many parts before it is escalated."""
PEOPLE_SECONDED = 2
"""Who must approve where one of them is watched that closely."""
TIER_MAX = 3
"""The highest tier: decided by Shift and a typed amount, and never faster than its content can be read."""


class State(StrEnum):
    """Where an item is. The last six are ends."""

    GATHERING = "GATHERING"
    """A member of a batch that is not complete yet."""
    LOT = "LOT"
    """A member of a complete batch, not drawn: it waits for the sample and the release."""
    OPEN = "OPEN"
    """It waits for a person. Also after an escalation, and while a switch covers it."""
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
    """The last approval that was missing. An earlier one is no event: nothing moves."""
    PASS = "pass"
    """The last approval that was missing, of what was drawn from a batch."""
    PARK = "park"
    """The same, or its batch's release, while a switch holds it."""
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
TABLE: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.GATHERING: {Event.DRAWN: State.OPEN, Event.UNDRAWN: State.LOT, Event.FULL: State.OPEN, **_GONE},
        State.LOT: {
            Event.RELEASE: State.APPROVED,
            Event.PARK: State.PARKED,
            Event.FULL: State.OPEN,
            Event.DECIDE_BY: State.EXPIRED,
            **_GONE,
        },
        State.OPEN: {
            Event.APPROVE: State.APPROVED,
            Event.PASS: State.PASSED,
            Event.PARK: State.PARKED,
            Event.REJECT: State.REJECTED,
            Event.CHANGE: State.CHANGED,
            Event.ESCALATE: State.OPEN,
            Event.HALF_SLA: State.OPEN,
            Event.FULL: State.OPEN,
            Event.DECIDE_BY: State.EXPIRED,
            **_GONE,
        },
        State.PASSED: {  # nobody is missing, so that only the deadline ends its wait
            Event.RELEASE: State.APPROVED,
            Event.FULL: State.APPROVED,  # it has its own approval
            Event.PARK: State.PARKED,
            **_GONE,
        },
        **{end: MappingProxyType({}) for end in ENDS},
    }
)


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

    `escalate_ms` is when half of its time has passed: it goes to the queue's next one, or, where there is none, its
    owner is told (`lapsed`); None: that has happened, and it goes nowhere from here.
    `by` have approved, also those who did in the queue that it was escalated from.
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

    `for_` is the one person to whom it is put, None: anybody of its queues. `batch` is where it waits for the others;
    None: it is decided by itself. `seen` are the ids (`jti`) of the verdicts that have counted: the same one once more
    changes nothing. `execute_by_ms` is the deadline, which no switch stops; `latest_ms` is how far it may move where a
    clock begins anew, None: it is the action's own, and stays. `floor_ms` is how long reading takes (`core.dwell`).
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
    latest_ms: int | None = None
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

    `appended_ms` is its append time, which decides whether it came in time; `stopped_ms` is how long the item's clocks
    had stood by then. `level` is how closely whoever it names is watched (`core.vigilance.Level`): from 2 on their
    approval needs another person's, at 3 they approve nothing of the highest tier. `service`: they are no person.
    `covered`: a switch holds the item, as `core.switches.stops` says. `editable`: what `core.edits.editable` says of
    the action; empty where the changed one would be no action, because it is too long.
    """

    appended_ms: int
    service: bool = False
    covered: bool = False
    stopped_ms: int = 0
    level: int = 0
    editable: Mapping[str, Value] = MappingProxyType({})


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


def after(state: State, event: Event) -> State:
    """Return the state that an event leads to; raise `BrokenError` for what the table lacks."""
    following = TABLE[state].get(event)
    if following is None:
        taken = ", ".join(TABLE[state]) or "nothing any more"
        raise BrokenError(f"a review that is {state} cannot take {event}; it takes {taken}")
    return following


def judge(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Turn:
    """Say what a verdict does. Its signature, its time to live and what was shown are good already.

    One that is refused as `level` sends the item on: the turn's review has moved.
    """
    if verdict.jti in review.seen:
        return Turn(review=review, effect=Effect.REFUSED, refusal=Refusal.REPLAYED)
    effect = _too_late(review, asked)
    if effect is not None:
        return Turn(review=review, effect=effect)
    refusal = _refusal(review, verdict, asked, policy)
    if refusal is Refusal.LEVEL and review.purpose is Purpose.DECIDE:
        sent_on = _escalated(
            review, _of(review, verdict.role, policy), Event.ESCALATE, policy, asked.appended_ms, asked.stopped_ms
        )
        return structs.replace(sent_on, effect=Effect.REFUSED, refusal=refusal)
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
        case "escalate" if counted.purpose is Purpose.CANARY:
            # He has seen through it, and it is put to nobody else; to him it looks like any other.
            return _ended(counted, Event.REJECT, Deed.CLOSE, End.REJECTED, Why.REJECTED)
        case "escalate":
            need = _of(counted, verdict.role, policy)
            return _escalated(counted, need, Event.ESCALATE, policy, asked.appended_ms, asked.stopped_ms)


def due(review: Review, now_ms: int, policy: Policy, stopped_ms: int = 0) -> Turn | None:
    """Say what time makes of an item by now: an end, or an escalation; None: nothing yet.

    Asked again after each turn, since one may follow at once on another. An end that is due comes before an escalation,
    as it does for verdicts. What was due before a switch covered the item is due while it does.
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
            return _escalated(review, need, Event.HALF_SLA, policy, now_ms, stopped_ms)
    return None


def lapsed(before: Review, after_: Review) -> tuple[str, ...]:
    """Return the queues in which half the time of an approval has passed, and from which it goes nowhere else."""
    stand = {need.queue: need for need in after_.needs}
    return tuple(
        need.queue
        for need in before.needs
        if need.escalate_ms is not None and need.queue in stand and stand[need.queue].escalate_ms is None
    )


def next_ms(review: Review, stopped_ms: int = 0, *, standing: bool = False) -> int:
    """Return when `due` is to be asked next, at the earliest: a switch may yet stop its clocks.

    `standing`: a switch holds them now, so that only the deadline can come before its release.
    """
    times = [review.execute_by_ms]
    for need in () if standing else _missing(review):
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


def gathered(review: Review, batch: str, close_ms: int, policy: Policy) -> Review:
    """Return an item that was just opened as a member of a batch, which is complete at `close_ms` at the latest.

    Its clocks begin then, so that its deadline, unless it is the action's own, leaves them their time.
    """
    waiting = structs.replace(review, state=State.GATHERING, batch=batch)
    return _restarted(waiting, policy, close_ms)


def drawn(review: Review, is_drawn: bool, policy: Policy, now_ms: int, stopped_ms: int = 0) -> Review:
    """Return a member of a batch that is complete now: the clocks of its approvals begin."""
    moved = _moved(review, Event.DRAWN if is_drawn else Event.UNDRAWN)
    return _restarted(moved, policy, now_ms, stopped_ms)


def full(review: Review, policy: Policy, now_ms: int, stopped_ms: int = 0, *, covered: bool = False) -> Turn | None:
    """Say what becomes of a member of a batch of which everything is looked at; None: it has its end.

    From now on it is decided by itself and waits for no release. What was not asked before begins its clocks now.
    """
    if Event.FULL not in TABLE[review.state]:
        return None
    alone = structs.replace(review, batch=None)
    if review.state is State.PASSED:
        return _released(alone, Event.FULL, covered=covered)
    moved = _moved(alone, Event.FULL)
    return Turn(review=moved if review.state is State.OPEN else _restarted(moved, policy, now_ms, stopped_ms))


def released(review: Review, by: Sequence[str], *, covered: bool = False) -> Turn | None:
    """Say what becomes of a member of a batch that people have released; None: it has its end, or is looked at.

    `by` are those whose signed releases count for the batch, each in a role of its queue. For what was not drawn they
    are its approvals: where one of them is barred from it, or it needs more people or another queue too, it stays as it
    is (`Effect.REFUSED`).
    """
    if Event.RELEASE not in TABLE[review.state]:
        return None
    if review.state is State.PASSED:
        return _released(review, Event.RELEASE, covered=covered)
    people = distinct(by)
    refusal = _not_released(review, people)
    if refusal is not None:
        return Turn(review=review, effect=Effect.REFUSED, refusal=refusal)
    needs = tuple(structs.replace(need, by=people) for need in review.needs)
    return _released(structs.replace(review, needs=needs), Event.RELEASE, covered=covered)


def _not_released(review: Review, people: Sequence[str]) -> Refusal | None:
    if any(_is_among(person, review.barred) for person in people):
        return Refusal.BARRED
    if len(review.needs) != 1:
        return Refusal.ROLE  # one queue cannot speak for two
    return Refusal.SAME_PERSON if len(people) < review.needs[0].people else None


def may_decide(review: Review, person: str, roles: Collection[str], policy: Policy) -> bool:
    """Say whether an item may be put to a person: what the queue hands out, before anybody clicks."""
    return (
        review.state is State.OPEN
        and (review.for_ is None or is_same_holder(review.for_, person))
        and not _is_among(person, review.barred)
        and not _is_among(person, review.by)
        and any(_need_of(_missing(review), role, policy) is not None for role in roles)
    )


def distinct(people: Iterable[str]) -> tuple[str, ...]:
    """Return each person once, in the order in which they came.

    >>> distinct(["ana", "ben", " Ana"])
    ('ana', 'ben')
    """
    found: list[str] = []
    for person in people:
        if not _is_among(person, found):
            found.append(person)
    return tuple(found)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def _too_late(review: Review, asked: Asked) -> Effect | None:
    """Compare with the item's end, and with the clocks: an expiry that was due, and not done yet, has happened."""
    if review.state in OUT_OF_TIME:
        return Effect.LATE
    if review.ended:
        return Effect.CONFLICT
    if asked.appended_ms >= review.execute_by_ms:
        return Effect.LATE
    if Event.DECIDE_BY not in TABLE[review.state]:
        return None  # nobody is asked yet, or nobody is missing any more
    late = any(asked.appended_ms >= need.decide_by_ms + asked.stopped_ms for need in _missing(review))
    return Effect.LATE if late else None


def _refusal(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Refusal | None:
    return _not_allowed(review, verdict, asked, policy) or _not_sound(review, verdict, asked, policy)


def _not_allowed(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Refusal | None:
    """Say why these bytes are not this person's to decide now."""
    if review.state is not State.OPEN:
        return Refusal.NOT_OPEN
    if verdict.hash != review.hash:
        return Refusal.HASH
    if asked.service:
        return Refusal.SERVICE
    if review.for_ is not None and not is_same_holder(verdict.by, review.for_):
        return Refusal.NOT_ASKED
    if _is_among(verdict.by, review.barred):
        return Refusal.BARRED
    # Whoever is asked may stop it, also after his own queue has approved; only what is missing can be given or sent on.
    open_to = review.needs if verdict.verdict in ("reject", "change") else _missing(review)
    return Refusal.ROLE if _need_of(open_to, verdict.role, policy) is None else None


def _not_sound(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Refusal | None:
    """Say why this verdict cannot count, whoever of its queues gives it."""
    if verdict.changes and verdict.verdict != "change":
        return Refusal.CHANGE  # what is approved runs as it is: did he think that it would be changed?
    match verdict.verdict:
        case "approve":
            if _is_among(verdict.by, review.by):
                return Refusal.SAME_PERSON
            if review.tier >= TIER_MAX and asked.level >= Level.ESCALATED:
                return Refusal.LEVEL
            if review.tier >= TIER_MAX and _dwell_ms(verdict) < review.floor_ms:
                return Refusal.TOO_FAST
        case "reject":
            return None if _explained(verdict, policy) else Refusal.REASON
        case "change":
            if not _explained(verdict, policy):
                return Refusal.REASON
            return None if fault(verdict.changes, asked.editable) is None else Refusal.CHANGE
        case "escalate":
            nowhere = _next(_of(review, verdict.role, policy).queue, policy) is None
            return Refusal.NO_NEXT if nowhere or review.escalated >= ESCALATED_MAX else None
    return None


def _dwell_ms(verdict: Verdict) -> int:
    return milliseconds(verdict.decided) - milliseconds(verdict.painted)


def _explained(verdict: Verdict, policy: Policy) -> bool:
    """Say whether it names a reason that the policy knows; where that has none, a note in words."""
    if policy.reasons:
        return verdict.code in policy.reasons
    return bool(verdict.note and verdict.note.strip())


def _approved(review: Review, verdict: Verdict, asked: Asked, policy: Policy) -> Turn:
    need = _of(review, verdict.role, policy)
    people = need.people if asked.level < Level.SECONDED else max(need.people, PEOPLE_SECONDED)
    review = _with(review, need, structs.replace(need, by=(*need.by, verdict.by), people=people))
    if _missing(review):
        return Turn(review=review, effect=Effect.WAITING)
    if review.batch is not None:
        return Turn(review=_moved(review, Event.PASS), effect=Effect.WAITING)
    return _released(review, Event.APPROVE, covered=asked.covered)


def _released(review: Review, event: Event, *, covered: bool) -> Turn:
    """Let it run, if that is what it is for and no switch holds it."""
    if review.purpose is Purpose.DECIDE:
        if covered:
            return Turn(review=_moved(review, Event.PARK), deed=Deed.PARK)
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


def _escalated(review: Review, need: Need, event: Event, policy: Policy, now_ms: int, stopped_ms: int) -> Turn:
    """Send an approval to the next queue, with that one's time from now. Who has approved already keeps counting."""
    moved = _moved(review, event)
    queue = _next(need.queue, policy)
    if queue is None or review.escalated >= ESCALATED_MAX:  # it goes nowhere from there, or went far enough
        return Turn(review=_with(moved, need, structs.replace(need, escalate_ms=None)))
    kept = review.for_ if review.purpose is Purpose.CANARY else None  # the next queue's people are others
    moved = structs.replace(moved, escalated=review.escalated + 1, for_=kept)
    following = structs.replace(_need(queue, need.people, policy, now_ms - stopped_ms, _limit(review)), by=need.by)
    there = next((one for one in review.needs if one.queue == queue and one is not need), None)
    if there is None:
        return Turn(review=_extended(_with(moved, need, following), stopped_ms))
    merged = _with(moved, there, _merged(there, following))
    kept_needs = tuple(one for one in merged.needs if one is not need)
    return Turn(review=_extended(structs.replace(merged, needs=kept_needs), stopped_ms))


def _merged(there: Need, following: Need) -> Need:
    """Return one approval for two of the same queue: as many people more as the stricter one is missing.

    So it is missing afterwards, also where that queue has approved before: an escalation releases nothing. While that
    queue was still asked its time goes on; otherwise it begins anew.
    """
    by = (*there.by, *following.by)
    missing = max(there.people - len(there.by), following.people - len(following.by))
    clock = following if there.met else there
    return structs.replace(clock, people=len(by) + missing, by=by)


# --- small things -----------------------------------------------------------------------------------------------------


def _moved(review: Review, event: Event) -> Review:
    return structs.replace(review, state=after(review.state, event))


def _with(review: Review, old: Need, new: Need) -> Review:
    return structs.replace(review, needs=tuple(new if need is old else need for need in review.needs))


def _missing(review: Review) -> list[Need]:
    return [need for need in review.needs if not need.met]


def _need(queue: str, people: int, policy: Policy, from_ms: int, execute_by_ms: int) -> Need:
    spec = _spec(queue, policy)
    return Need(queue, people, min(from_ms + spec.sla, execute_by_ms), from_ms + spec.sla // HALF)


def _spec(queue: str, policy: Policy) -> Queue:
    """Return a queue; one that the policy in force does not have any more is its default queue."""
    return policy.queues.get(queue) or policy.queues[policy.defaults.queue]


def _next(queue: str, policy: Policy) -> str | None:
    """Return where a queue's items escalate to, if that is another queue."""
    following = policy.queues[queue].next if queue in policy.queues else policy.defaults.queue
    return following if following is not None and following != queue and following in policy.queues else None


def _need_of(needs: Iterable[Need], role: str, policy: Policy) -> Need | None:
    """Return the first of these approvals that a role may give."""
    return next((need for need in needs if role in _spec(need.queue, policy).roles), None)


def _of(review: Review, role: str, policy: Policy) -> Need:
    """Return the first missing approval that a role may give; `_not_allowed` has seen that there is one."""
    need = _need_of(_missing(review), role, policy)
    assert need is not None
    return need


def _is_among(person: str, people: Iterable[str]) -> bool:
    return any(is_same_holder(person, other) for other in people)


def _restarted(review: Review, policy: Policy, now_ms: int, stopped_ms: int = 0) -> Review:
    """Return it with the clocks of its approvals beginning anew."""
    from_ms, limit = now_ms - stopped_ms, _limit(review)
    needs = tuple(
        structs.replace(_need(need.queue, need.people, policy, from_ms, limit), by=need.by) for need in review.needs
    )
    return _extended(structs.replace(review, needs=needs), stopped_ms)


def _limit(review: Review) -> int:
    return review.execute_by_ms if review.latest_ms is None else review.latest_ms


def _extended(review: Review, stopped_ms: int) -> Review:
    """Return it with its deadline as long after the last time of its approvals as the router leaves; never sooner."""
    last_ms = max((need.decide_by_ms + stopped_ms + GRACE_MS for need in review.needs), default=0)
    return structs.replace(review, execute_by_ms=max(review.execute_by_ms, min(last_ms, _limit(review))))
