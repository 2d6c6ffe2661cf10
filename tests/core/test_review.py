"""The life of a review item: silence never approves, one no closes, an end is an end, and the log's order decides."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs

from hitl_stream.core.edits import editable
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Effect, End, Purpose, Refusal, Why
from hitl_stream.core.policy.compile import GRACE_MS
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.review import (
    ENDS,
    ESCALATED_MAX,
    OUT_OF_TIME,
    TABLE,
    Asked,
    Deed,
    Event,
    Need,
    Review,
    State,
    Turn,
    after,
    distinct,
    drawn,
    due,
    full,
    gathered,
    judge,
    lapsed,
    may_decide,
    needs_of,
    next_ms,
    overtaken,
    released,
)
from hitl_stream.core.verdicts import Edit, Verdict, Word
from support.make import NOW_MS, make_action, make_policy

MINUTE = 60_000
HOUR = 60 * MINUTE
HASH = "9f" * 32
WORDS: tuple[Word, ...] = get_args(Word)
JUDGED = (Purpose.AUDIT, Purpose.SECOND, Purpose.CANARY)
"""Purposes of what is only judged: the action has run already, or never will."""
EDIT = Edit("/changes/0/after", "1.25")
EDITABLE = editable(make_action())
POLICY = make_policy(
    queues={
        "east": {"roles": ["guard"], "sla": "1h", "owner": "o", "next": "west"},
        "west": {"roles": ["guard"], "sla": "1h", "owner": "o", "next": "east"},
        "self": {"roles": ["guard"], "sla": "1h", "owner": "o", "next": "self"},
    }
)
"""trading (trader, 15 min) and brand (editor, 4 h) escalate to manager, who have no next; client has none either."""
UNEXPLAINED = POLICY.model_copy(update={"reasons": {}})
_numbers = count()


def verdict(word: Word = "approve", by: str = "tom", role: str = "trader", **parts: Any) -> Verdict:
    """Return a verdict on the item of `review`, with what its word needs; each has an id of its own."""
    sound = {"code": "too_large"} if word in ("reject", "change") else {}
    if word == "change":
        sound["changes"] = (EDIT,)
    dwell_ms = parts.pop("dwell_ms", 10_000)
    painted = datetime.fromtimestamp(NOW_MS / 1000, UTC)
    fixed: dict[str, Any] = {
        "aud": "c", "kid": "console-1", "iss": "console", "jti": f"v{next(_numbers)}", "iat": 0, "exp": 900,
        "item": "r7k2", "hash": HASH, "verdict": word, "by": by, "role": role, "view": "77" * 32, "policy": "3c" * 32,
        "epoch": 5, "painted": painted, "decided": painted + timedelta(milliseconds=dwell_ms),
    }  # fmt: skip
    return Verdict(**{**fixed, **sound, **parts})


def review(*asked: tuple[str, int], state: State = State.OPEN, execute_ms: int = 9 * HOUR, **parts: Any) -> Review:
    """Return an item of the trading queue, opened now, that may run for nine hours."""
    wanted = asked or (("trading", 1),)
    known: dict[str, Any] = {
        "item": "r7k2", "purpose": Purpose.DECIDE, "hash": HASH, "state": state, "opened_ms": NOW_MS,
        "needs": needs_of(wanted, POLICY, NOW_MS, NOW_MS + execute_ms), "barred": ("dana",),
        "execute_by_ms": NOW_MS + execute_ms,
    }  # fmt: skip
    return Review(**{**known, **parts})


def at(ms: int = 1_000, **parts: Any) -> Asked:
    """Return what is known of a verdict that was appended so long after the item was opened."""
    return Asked(NOW_MS + ms, **{"editable": EDITABLE, **parts})


def said(
    item: Review, word: Word = "approve", by: str = "tom", role: str = "trader", ms: int = 1_000, **parts: Any
) -> Turn:
    return judge(item, verdict(word, by, role, **parts), at(ms), POLICY)


def summary(turn: Turn | None) -> tuple[Any, ...]:
    assert turn is not None
    return turn.review.state, turn.effect, turn.refusal, turn.deed, turn.end, turn.why


def refused(turn: Turn) -> Refusal | None:
    assert turn.effect is Effect.REFUSED
    assert turn.deed is Deed.NOTHING
    return turn.refusal


def queues(item: Review) -> list[tuple[str, int, tuple[str, ...]]]:
    return [(need.queue, need.people, need.by) for need in item.needs]


def due_all(item: Review, ms: int, stopped_ms: int = 0, policy: Policy = POLICY) -> Iterator[Turn]:
    """Yield every turn that time makes of an item by so long after it was opened."""
    turn = due(item, NOW_MS + ms, policy, stopped_ms)
    while turn is not None:
        yield turn
        turn = due(turn.review, NOW_MS + ms, policy, stopped_ms)


# --- the table --------------------------------------------------------------------------------------------------------


REACHED: dict[tuple[State, Event], State] = {
    (State.GATHERING, Event.DRAWN): State.OPEN,
    (State.GATHERING, Event.UNDRAWN): State.LOT,
    (State.GATHERING, Event.FULL): State.OPEN,
    (State.GATHERING, Event.EXECUTE_BY): State.EXPIRED,
    (State.GATHERING, Event.OVERTAKEN): State.STALE,
    (State.LOT, Event.RELEASE): State.APPROVED,
    (State.LOT, Event.PARK): State.PARKED,
    (State.LOT, Event.FULL): State.OPEN,
    (State.LOT, Event.DECIDE_BY): State.EXPIRED,
    (State.LOT, Event.EXECUTE_BY): State.EXPIRED,
    (State.LOT, Event.OVERTAKEN): State.STALE,
    (State.OPEN, Event.APPROVE): State.APPROVED,
    (State.OPEN, Event.PASS): State.PASSED,
    (State.OPEN, Event.PARK): State.PARKED,
    (State.OPEN, Event.REJECT): State.REJECTED,
    (State.OPEN, Event.CHANGE): State.CHANGED,
    (State.OPEN, Event.ESCALATE): State.OPEN,
    (State.OPEN, Event.HALF_SLA): State.OPEN,
    (State.OPEN, Event.FULL): State.OPEN,
    (State.OPEN, Event.DECIDE_BY): State.EXPIRED,
    (State.OPEN, Event.EXECUTE_BY): State.EXPIRED,
    (State.OPEN, Event.OVERTAKEN): State.STALE,
    (State.PASSED, Event.RELEASE): State.APPROVED,
    (State.PASSED, Event.PARK): State.PARKED,
    (State.PASSED, Event.FULL): State.APPROVED,
    (State.PASSED, Event.EXECUTE_BY): State.EXPIRED,
    (State.PASSED, Event.OVERTAKEN): State.STALE,
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_an_event_moves_an_item_as_the_table_says_or_is_refused_by_name(state: State, event: Event) -> None:
    if (state, event) in REACHED:
        assert after(state, event) is REACHED[state, event]
        return
    with pytest.raises(BrokenError) as error:
        after(state, event)
    assert f"a review that is {state} cannot take {event}" in str(error.value)


def test_the_table_names_every_state_and_only_ends_take_nothing() -> None:
    assert set(TABLE) == set(State)
    assert {state for state in State if not TABLE[state]} == ENDS
    assert {state for state in State if review(state=state).ended} == ENDS


def test_no_time_leads_to_an_approval() -> None:
    for events in TABLE.values():
        for event in (Event.HALF_SLA, Event.DECIDE_BY, Event.EXECUTE_BY):
            assert events.get(event) in (None, State.OPEN, State.EXPIRED)


# --- what a verdict does ----------------------------------------------------------------------------------------------

CLOSED = (Deed.CLOSE, End.REJECTED, Why.REJECTED)
SUPERSEDED = (Deed.PROPOSE, End.SUPERSEDED, Why.CHANGED)
NOTHING = (Deed.NOTHING, None, None)
DONE: dict[tuple[Purpose, Word], tuple[State, tuple[Any, ...]]] = {
    (Purpose.DECIDE, "approve"): (State.APPROVED, (Deed.EXECUTE, None, None)),
    (Purpose.DECIDE, "reject"): (State.REJECTED, CLOSED),
    (Purpose.DECIDE, "change"): (State.CHANGED, SUPERSEDED),
    (Purpose.DECIDE, "escalate"): (State.OPEN, NOTHING),
    # an exception proposes anew, and the old action has its end already
    (Purpose.EXCEPTION, "approve"): (State.APPROVED, (Deed.PROPOSE, None, None)),
    (Purpose.EXCEPTION, "reject"): (State.REJECTED, NOTHING),
    (Purpose.EXCEPTION, "change"): (State.CHANGED, (Deed.PROPOSE, None, None)),
    (Purpose.EXCEPTION, "escalate"): (State.OPEN, NOTHING),
    **{(purpose, "approve"): (State.APPROVED, NOTHING) for purpose in JUDGED},
    **{(purpose, "reject"): (State.REJECTED, NOTHING) for purpose in JUDGED},
    **{(purpose, "change"): (State.CHANGED, NOTHING) for purpose in JUDGED},
    (Purpose.AUDIT, "escalate"): (State.OPEN, NOTHING),
    (Purpose.SECOND, "escalate"): (State.OPEN, NOTHING),
    # a canary is put to one person, so that it ends with his escalation
    (Purpose.CANARY, "escalate"): (State.REJECTED, NOTHING),
}


@pytest.mark.behaviour("A2", "C5")
@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("word", WORDS)
def test_each_verdict_does_what_the_purpose_allows(purpose: Purpose, word: Word) -> None:
    state, left = DONE[purpose, word]
    turn = said(review(purpose=purpose), word)
    assert summary(turn) == (state, Effect.APPLIED, None, *left)


@pytest.mark.behaviour("E3")
@pytest.mark.parametrize("purpose", JUDGED)
@pytest.mark.parametrize("covered", [False, True])
def test_what_is_only_judged_neither_runs_nor_is_parked(purpose: Purpose, covered: bool) -> None:
    turn = judge(review(purpose=purpose), verdict(), at(covered=covered), POLICY)
    assert summary(turn) == (State.APPROVED, Effect.APPLIED, None, *NOTHING)


def test_what_is_approved_while_a_switch_covers_it_is_parked() -> None:
    turn = judge(review(), verdict(), at(covered=True), POLICY)
    assert summary(turn) == (State.PARKED, Effect.APPLIED, None, Deed.PARK, None, None)
    assert turn.review.by == ("tom",)


@pytest.mark.parametrize("word", ["reject", "change", "escalate"])
def test_only_an_approval_is_held_by_a_switch(word: Word) -> None:
    assert judge(review(), verdict(word), at(covered=True), POLICY).deed is said(review(), word).deed


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], Refusal]] = [
    ("other bytes", {}, {"hash": "00" * 32}, Refusal.HASH),
    ("the submitter", {"barred": ("sam", "tom")}, {}, Refusal.BARRED),
    ("the submitter in another spelling", {"barred": (" TOM",)}, {}, Refusal.BARRED),
    ("put to another", {"for_": "ana"}, {}, Refusal.NOT_ASKED),
    ("another queue's role", {}, {"role": "editor"}, Refusal.ROLE),
    ("no role", {}, {"role": "viewer"}, Refusal.ROLE),
    ("no code", {}, {"word": "reject", "code": None}, Refusal.REASON),
    ("a note instead of a code", {}, {"word": "reject", "code": None, "note": "too dear"}, Refusal.REASON),
    ("a code that nobody knows", {}, {"word": "reject", "code": "because"}, Refusal.REASON),
    ("a change without a code", {}, {"word": "change", "code": None}, Refusal.REASON),
    ("no change", {}, {"word": "change", "changes": ()}, Refusal.CHANGE),
    ("a path twice", {}, {"word": "change", "changes": (EDIT, EDIT)}, Refusal.CHANGE),
    ("a path that may not be changed", {}, {"word": "change", "changes": (Edit("/tenant", "x"),)}, Refusal.CHANGE),
    ("a number for one in quotes", {}, {"word": "change", "changes": (Edit(EDIT.path, 1.25),)}, Refusal.CHANGE),
    ("the same value", {}, {"word": "change", "changes": (Edit(EDIT.path, "1.30"),)}, Refusal.CHANGE),
    ("the same value, longer", {}, {"word": "change", "changes": (Edit(EDIT.path, "1.300"),)}, Refusal.CHANGE),
    ("an approval of something else", {}, {"changes": (EDIT,)}, Refusal.CHANGE),
    ("a rejection that changes", {}, {"word": "reject", "changes": (EDIT,)}, Refusal.CHANGE),
    ("an escalation that changes", {}, {"word": "escalate", "changes": (EDIT,)}, Refusal.CHANGE),
    ("tier 3 not read", {"tier": 3, "floor_ms": 10_001}, {}, Refusal.TOO_FAST),
    ("tier 3 decided before it was painted", {"tier": 3, "floor_ms": 0}, {"dwell_ms": -1}, Refusal.TOO_FAST),
    ("too far escalated", {"escalated": ESCALATED_MAX}, {"word": "escalate"}, Refusal.NO_NEXT),
]


@pytest.mark.behaviour("A2", "B7")
@pytest.mark.parametrize(("parts", "words", "why"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_verdict_that_may_not_count_changes_nothing_and_says_why(
    parts: dict[str, Any], words: dict[str, Any], why: Refusal
) -> None:
    item = review(**parts)
    turn = said(item, **words)
    assert refused(turn) is why
    assert turn.review == item


@pytest.mark.behaviour("B7")
@pytest.mark.parametrize("word", WORDS)
def test_a_service_decides_nothing(word: Word) -> None:
    item = review()
    turn = judge(item, verdict(word), at(service=True), POLICY)
    assert refused(turn) is Refusal.SERVICE
    assert turn.review == item


@pytest.mark.behaviour("C5")
@pytest.mark.parametrize("word", ["reject", "change"])
@pytest.mark.parametrize(("note", "good"), [(None, False), ("", False), (" \n", False), ("too dear", True)])
def test_under_a_policy_without_codes_a_no_must_be_explained_in_words(word: Word, note: str | None, good: bool) -> None:
    turn = judge(review(), verdict(word, code=None, note=note), at(), UNEXPLAINED)
    assert turn.refusal is (None if good else Refusal.REASON)


@pytest.mark.parametrize(("tier", "refusal"), [(1, None), (2, None), (3, Refusal.TOO_FAST)])
def test_only_the_highest_tier_is_held_to_the_time_that_reading_takes(tier: int, refusal: Refusal | None) -> None:
    item = review(tier=tier, floor_ms=10_000)
    assert said(item, dwell_ms=9_999).refusal is refusal
    assert said(item, dwell_ms=10_000).refusal is None
    assert said(item, "reject", dwell_ms=0).refusal is None


def test_what_was_not_asked_yet_cannot_be_decided() -> None:
    for state in (State.GATHERING, State.LOT, State.PASSED):
        # also after the time that it would have, had its clock begun to run
        late = 16 * MINUTE if state is State.GATHERING else 1_000
        assert refused(said(review(state=state), ms=late)) is Refusal.NOT_OPEN


# --- several people ---------------------------------------------------------------------------------------------------


def test_two_people_are_two_whatever_their_names_look_like() -> None:
    first = said(review(("manager", 2)), by="mia", role="marketing_manager")
    assert summary(first) == (State.OPEN, Effect.WAITING, None, *NOTHING)
    for same in ("mia", "MIA", " mia "):
        assert refused(said(first.review, by=same, role="marketing_manager")) is Refusal.SAME_PERSON
    second = said(first.review, by="max", role="marketing_manager")
    assert summary(second) == (State.APPROVED, Effect.APPLIED, None, Deed.EXECUTE, None, None)
    assert second.review.by == ("mia", "max")


@pytest.mark.behaviour("C8")
@pytest.mark.parametrize("first", [0, 1])
def test_a_claim_needs_the_editor_and_the_client_in_either_order(first: int) -> None:
    people = [("eva", "editor"), ("carl", "client")]
    item = review(("brand", 1), ("client", 1), execute_ms=48 * HOUR)
    by, role = people[first]
    turn = said(item, by=by, role=role)
    assert turn.effect is Effect.WAITING
    assert refused(said(turn.review, by="ed", role=role)) is Refusal.ROLE  # that queue has approved
    by, role = people[1 - first]
    assert summary(said(turn.review, by=by, role=role))[3] is Deed.EXECUTE


@pytest.mark.behaviour("C8")
@pytest.mark.parametrize("role", ["editor", "client"])
@pytest.mark.parametrize("word", ["reject", "change"])
@pytest.mark.parametrize("before", [[], [("eva", "editor")], [("carl", "client")]])
def test_either_of_two_queues_stops_it_also_after_it_has_approved(
    role: str, word: Word, before: list[tuple[str, str]]
) -> None:
    item = review(("brand", 1), ("client", 1), execute_ms=48 * HOUR)
    for by, given_as in before:
        item = said(item, by=by, role=given_as).review
    for by in ("paul", *(by for by, given_as in before if given_as == role)):
        assert said(item, word, by=by, role=role).review.state is (
            State.REJECTED if word == "reject" else State.CHANGED
        )


def test_one_person_with_two_roles_is_not_two_people() -> None:
    item = said(review(("brand", 1), ("client", 1)), by="eva", role="editor").review
    assert refused(said(item, by="eva", role="client")) is Refusal.SAME_PERSON


def test_each_queue_is_asked_once_with_the_most_people_and_an_unknown_one_is_the_default() -> None:
    asked = [("trading", 1), ("gone", 1), ("trading", 2), ("lost", 2), ("trading", 1)]
    found = needs_of(asked, POLICY, NOW_MS, NOW_MS + HOUR)
    assert [(need.queue, need.people) for need in found] == [("trading", 2), ("triage", 2)]
    assert [need.queue for need in needs_of([], POLICY, NOW_MS, NOW_MS + HOUR)] == ["triage"]


def test_an_approval_has_the_queues_time_at_most_until_the_deadline_and_half_of_it_before_anybody_else_hears() -> None:
    found = needs_of([("trading", 1), ("manager", 1), ("self", 1)], POLICY, NOW_MS, NOW_MS + 2 * HOUR)
    assert [(need.decide_by_ms - NOW_MS, need.escalate_ms) for need in found] == [
        (15 * MINUTE, NOW_MS + 15 * MINUTE // 2),
        (2 * HOUR, NOW_MS + 2 * HOUR),  # no next: half of its four hours
        (HOUR, NOW_MS + HOUR // 2),  # itself is none
    ]


def test_a_queue_that_the_policy_has_no_longer_is_decided_by_the_default_one() -> None:
    item = structs.replace(review(), needs=(Need("gone", 1, NOW_MS + HOUR, NOW_MS + HOUR // 2),))
    assert refused(said(item)) is Refusal.ROLE
    assert said(item, role="senior").deed is Deed.EXECUTE
    assert queues(said(item, "escalate", role="senior").review) == [("triage", 1, ())]
    other = make_policy(defaults={"queue": "manager"})
    assert judge(item, verdict(role="senior"), at(), other).refusal is Refusal.ROLE
    assert judge(item, verdict(role="marketing_manager"), at(), other).deed is Deed.EXECUTE


def test_a_queue_hands_out_only_what_a_person_could_decide() -> None:
    asked = {"item": review(), "person": "tom", "roles": ["viewer", "trader"], "policy": POLICY}
    assert may_decide(*asked.values())
    waiting = said(review(("trading", 2)), by="tom").review
    for parts in (
        {"roles": ["viewer"]}, {"roles": []}, {"person": "dana"}, {"person": "DANA"}, {"item": review(for_="ana")},
        {"item": review(state=State.LOT)}, {"item": said(review()).review}, {"item": waiting},
    ):  # fmt: skip
        assert not may_decide(*{**asked, **parts}.values()), parts
    assert may_decide(*{**asked, "item": review(for_="tom")}.values())
    assert may_decide(*{**asked, "item": waiting, "person": "tim"}.values())


@given(st.lists(st.sampled_from(["ana", "Ana", " ana", "ben", "BEN"])))
def test_people_are_counted_once(people: list[str]) -> None:
    assert len(distinct(people)) == len({name.strip().lower() for name in people})


# --- the order of the log ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["approve", "reject", "change"])
@pytest.mark.parametrize("second", WORDS)
def test_the_first_verdict_wins_and_a_later_one_is_in_conflict(first: Word, second: Word) -> None:
    ended = said(review(), first).review
    turn = said(ended, second, by="tim")
    assert turn.effect is Effect.CONFLICT
    assert turn.review == ended
    assert turn.deed is Deed.NOTHING


@pytest.mark.parametrize("state", sorted(ENDS))
def test_after_its_time_a_verdict_is_late_and_after_another_end_in_conflict(state: State) -> None:
    item = review(state=state)
    turn = said(item)
    assert turn.effect is (Effect.LATE if state in OUT_OF_TIME else Effect.CONFLICT)
    assert turn.review == item


@pytest.mark.parametrize("word", WORDS)
def test_the_same_verdict_counts_once(word: Word) -> None:
    once = verdict(word)
    turn = judge(review(("trading", 2)), once, at(), POLICY)
    again = judge(turn.review, once, at(), POLICY)
    assert refused(again) is Refusal.REPLAYED
    assert again.review == turn.review


def test_a_verdict_that_was_refused_has_not_counted() -> None:
    item = said(review(), role="viewer").review
    assert item.seen == ()


@given(ms=st.integers(0, 20 * MINUTE), stopped=st.integers(0, 20 * MINUTE), word=st.sampled_from(WORDS))
def test_a_verdict_counts_if_it_was_appended_before_its_time_was_over_whatever_timer_has_run(
    ms: int, stopped: int, word: Word
) -> None:
    """Nobody has run a timer here: only the append time decides."""
    turn = judge(review(), verdict(word), at(ms, stopped_ms=stopped), POLICY)
    assert (turn.effect is Effect.LATE) is (ms >= 15 * MINUTE + stopped)
    assert turn.effect in (Effect.LATE, Effect.APPLIED)


@given(ms=st.integers(0, 20 * MINUTE), stopped=st.integers(0, 20 * MINUTE), execute=st.integers(1, 20 * MINUTE))
def test_a_verdict_and_a_timer_at_the_same_time_agree(ms: int, stopped: int, execute: int) -> None:
    item = review(execute_ms=execute)
    turn = judge(item, verdict(), at(ms, stopped_ms=stopped), POLICY)
    timed = due(item, NOW_MS + ms, POLICY, stopped)
    expired = timed is not None and timed.review.state is State.EXPIRED
    assert (turn.effect is Effect.LATE) is expired


def test_the_time_of_the_first_approval_that_is_missing_ends_it() -> None:
    item = said(review(("trading", 1), ("client", 1), execute_ms=48 * HOUR), by="carl", role="client").review
    assert said(item, ms=15 * MINUTE).effect is Effect.LATE
    item = said(review(("trading", 1), ("client", 1), execute_ms=48 * HOUR)).review
    assert said(item, by="carl", role="client", ms=23 * HOUR).deed is Deed.EXECUTE


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E1")
@pytest.mark.parametrize("purpose", Purpose)
def test_an_item_that_nobody_decides_goes_up_at_half_its_time_and_then_expires(purpose: Purpose) -> None:
    item = review(purpose=purpose)
    half = 15 * MINUTE // 2
    assert due(item, NOW_MS + half - 1, POLICY) is None
    (turn,) = due_all(item, half)
    assert summary(turn) == (State.OPEN, Effect.APPLIED, None, *NOTHING)
    assert queues(turn.review) == [("manager", 1, ())]
    assert turn.review.needs[0].decide_by_ms == NOW_MS + half + 4 * HOUR
    assert next_ms(turn.review) == NOW_MS + half + 2 * HOUR
    (told,) = due_all(turn.review, half + 2 * HOUR)
    assert lapsed(turn.review, told.review) == ("manager",)
    assert next_ms(told.review) == NOW_MS + half + 4 * HOUR
    assert due(told.review, NOW_MS + half + 4 * HOUR - 1, POLICY) is None
    (over,) = due_all(told.review, half + 4 * HOUR)
    decides = purpose is Purpose.DECIDE
    assert summary(over)[:4] == (State.EXPIRED, Effect.APPLIED, None, Deed.CLOSE if decides else Deed.NOTHING)
    assert (over.end, over.why) == ((End.EXPIRED, Why.DECIDE_BY) if decides else (None, None))


@pytest.mark.behaviour("E1")
@pytest.mark.parametrize("state", [State.GATHERING, State.LOT, State.OPEN, State.PASSED])
def test_at_its_deadline_an_item_expires_wherever_it_is(state: State) -> None:
    item = review(("client", 1), state=state, batch="b")
    assert due(item, NOW_MS + 9 * HOUR - 1, POLICY) is None
    assert summary(due(item, NOW_MS + 9 * HOUR, POLICY)) == (
        State.EXPIRED, Effect.APPLIED, None, Deed.CLOSE, End.EXPIRED, Why.EXECUTE_BY,
    )  # fmt: skip
    assert next_ms(item) == NOW_MS + 9 * HOUR


@pytest.mark.parametrize("state", sorted(ENDS))
def test_time_makes_nothing_of_an_item_that_has_ended(state: State) -> None:
    assert due(review(state=state), NOW_MS + 100 * HOUR, POLICY) is None


def test_an_item_whose_time_is_over_expires_rather_than_to_be_escalated_late() -> None:
    (turn,) = due_all(review(), 15 * MINUTE)
    assert turn.review.state is State.EXPIRED


def test_a_queue_without_a_next_one_keeps_its_items_and_says_once_that_half_of_their_time_has_passed() -> None:
    item = review(("manager", 1))
    assert due(item, NOW_MS + 2 * HOUR - 1, POLICY) is None
    (turn,) = due_all(item, 2 * HOUR)
    assert (queues(turn.review), turn.review.state, turn.review.escalated) == (queues(item), State.OPEN, 0)
    assert lapsed(item, turn.review) == ("manager",)
    assert due(turn.review, NOW_MS + 4 * HOUR - 1, POLICY) is None
    assert refused(said(item, "escalate", role="marketing_manager")) is Refusal.NO_NEXT


@pytest.mark.parametrize("following", [None, "gone", "trading"])
def test_an_item_that_should_go_where_the_policy_has_no_queue_any_more_stays(following: str | None) -> None:
    item = review()
    gone = make_policy(queues={"trading": {"next": following}})
    (turn,) = due_all(item, 8 * MINUTE, policy=gone)
    assert queues(turn.review) == queues(item)
    assert turn.review.needs[0].escalate_ms is None
    assert turn.review.escalated == 0


def test_queues_that_lead_in_a_circle_do_not_send_an_item_round_for_ever() -> None:
    item = review(("east", 1), execute_ms=1_000 * HOUR)
    ms, moved = 0, 0
    while (turn := due(item, next_ms(item), POLICY)) is not None and not turn.review.ended:
        item, ms, moved = turn.review, next_ms(item) - NOW_MS, moved + 1
        assert moved <= ESCALATED_MAX + 1
    assert item.escalated == ESCALATED_MAX
    assert ms == (ESCALATED_MAX + 1) * HOUR // 2
    assert turn is not None
    assert turn.review.state is State.EXPIRED
    assert refused(said(item, "escalate", role="guard", ms=ms)) is Refusal.NO_NEXT


def test_by_verdict_an_approval_goes_up_with_the_next_queues_time_from_then() -> None:
    turn = said(review(), "escalate", ms=MINUTE)
    assert turn.effect is Effect.APPLIED
    assert queues(turn.review) == [("manager", 1, ())]
    assert turn.review.needs[0].decide_by_ms == NOW_MS + MINUTE + 4 * HOUR
    assert turn.review.escalated == 1
    assert refused(said(turn.review, "approve")) is Refusal.ROLE
    assert said(turn.review, by="mia", role="marketing_manager").deed is Deed.EXECUTE


def test_who_has_approved_before_an_escalation_keeps_counting() -> None:
    item = said(review(("trading", 2)), by="tom").review
    item = said(item, "escalate", by="tim").review
    assert queues(item) == [("manager", 2, ("tom",))]
    assert refused(said(item, by="tom", role="marketing_manager")) is Refusal.SAME_PERSON
    assert said(item, by="mia", role="marketing_manager").deed is Deed.EXECUTE


MERGED: list[tuple[str, Need, Need, tuple[int, tuple[str, ...]]]] = [
    ("both missing", Need("trading", 1, 0), Need("manager", 1, 0), (1, ())),
    ("the stricter one", Need("trading", 2, 0), Need("manager", 1, 0), (2, ())),
    ("the stricter one is there", Need("trading", 1, 0), Need("manager", 2, 0), (2, ())),
    ("it has approved", Need("trading", 1, 0), Need("manager", 1, 0, None, ("mia",)), (2, ("mia",))),
    ("half here", Need("trading", 2, 0, None, ("tom",)), Need("manager", 1, 0), (2, ("tom",))),
    ("half here, two there", Need("trading", 2, 0, None, ("tom",)), Need("manager", 2, 0), (3, ("tom",))),
    ("half there", Need("trading", 1, 0), Need("manager", 2, 0, None, ("mia",)), (2, ("mia",))),
]


@pytest.mark.parametrize("by_time", [False, True])
@pytest.mark.parametrize(("need", "there", "wanted"), [row[1:] for row in MERGED], ids=[row[0] for row in MERGED])
def test_two_approvals_of_one_queue_become_one_that_is_still_missing(
    by_time: bool, need: Need, there: Need, wanted: tuple[int, tuple[str, ...]]
) -> None:
    times = {"decide_by_ms": NOW_MS + HOUR, "escalate_ms": NOW_MS + MINUTE}
    needs = structs.replace(need, **times), structs.replace(there, decide_by_ms=NOW_MS + 2 * HOUR)
    item = structs.replace(review(), needs=needs)
    turn = due(item, NOW_MS + MINUTE, POLICY) if by_time else said(item, "escalate", by="tess", ms=MINUTE)
    assert turn is not None
    assert (turn.deed, turn.review.state) == (Deed.NOTHING, State.OPEN)
    assert queues(turn.review) == [("manager", *wanted)]
    # a queue that is still asked keeps its time, one that had approved is asked anew
    from_then = NOW_MS + MINUTE + 4 * HOUR
    assert turn.review.needs[0].decide_by_ms == (from_then if there.met else NOW_MS + 2 * HOUR)


def test_an_item_that_is_put_to_one_person_goes_to_others_when_he_sends_it_up() -> None:
    item = review(for_="tom", purpose=Purpose.SECOND)
    assert said(item, "escalate").review.for_ is None
    (turn,) = due_all(review(for_="tom", purpose=Purpose.CANARY), 8 * MINUTE)
    assert turn.review.for_ == "tom"


# --- the deadline -----------------------------------------------------------------------------------------------------

SOON = 30 * MINUTE
"""The router's deadline of the trading queue: its quarter of an hour, and the grace of another."""


@given(st.integers(0, 7 * MINUTE), st.integers(0, HOUR), st.booleans())
def test_where_the_action_has_no_end_of_its_own_its_deadline_leaves_the_next_queue_its_time(
    before: int, stopped: int, by_time: bool
) -> None:
    item, at_ms = review(execute_ms=20 * HOUR, latest_ms=NOW_MS + 300 * HOUR), before + stopped
    item = structs.replace(item, execute_by_ms=NOW_MS + SOON + 2 * HOUR)
    if by_time:
        at_ms = 15 * MINUTE // 2 + stopped
        (turn,) = due_all(item, at_ms, stopped)
    else:
        turn = judge(item, verdict("escalate"), at(at_ms, stopped_ms=stopped), POLICY)
    assert turn.review.needs[0].decide_by_ms == NOW_MS + at_ms - stopped + 4 * HOUR
    assert turn.review.execute_by_ms == NOW_MS + at_ms + 4 * HOUR + GRACE_MS


@pytest.mark.parametrize(
    ("latest", "decide_by", "execute_by"),
    [
        (None, SOON, SOON),  # it is the action's own
        (SOON, SOON, SOON),
        (HOUR, HOUR, HOUR),
        (4 * HOUR + MINUTE, 4 * HOUR + MINUTE, 4 * HOUR + MINUTE),
        (9 * HOUR, 4 * HOUR + MINUTE, 4 * HOUR + MINUTE + GRACE_MS),
    ],
)
def test_a_deadline_moves_only_so_far(latest: int | None, decide_by: int, execute_by: int) -> None:
    item = review(execute_ms=SOON, latest_ms=None if latest is None else NOW_MS + latest)
    found = said(item, "escalate", ms=MINUTE).review
    assert (found.needs[0].decide_by_ms - NOW_MS, found.execute_by_ms - NOW_MS) == (decide_by, execute_by)


def test_where_two_approvals_become_one_the_deadline_leaves_it_its_time() -> None:
    asked = [("trading", 1), ("manager", 1)]
    item = said(review(*asked, latest_ms=NOW_MS + 99 * HOUR), by="mia", role="marketing_manager").review
    item = structs.replace(item, execute_by_ms=NOW_MS + 4 * HOUR + GRACE_MS)
    found = said(item, "escalate", ms=10 * MINUTE).review
    assert found.execute_by_ms == NOW_MS + 10 * MINUTE + 4 * HOUR + GRACE_MS


def test_a_deadline_never_moves_nearer() -> None:
    item = review(latest_ms=NOW_MS + 300 * HOUR, execute_ms=50 * HOUR)
    assert said(item, "escalate").review.execute_by_ms == NOW_MS + 50 * HOUR


def test_while_a_batch_gathers_the_deadline_leaves_its_members_their_time() -> None:
    item = review(("brand", 1), execute_ms=4 * HOUR + GRACE_MS, latest_ms=NOW_MS + 360 * HOUR)
    found = gathered(item, "acme/acc-17/b-7", NOW_MS + 24 * HOUR, POLICY)
    assert (found.state, found.batch) == (State.GATHERING, "acme/acc-17/b-7")
    assert found.execute_by_ms == NOW_MS + 28 * HOUR + GRACE_MS
    assert due(found, NOW_MS + 24 * HOUR, POLICY) is None
    assert next_ms(found) == found.execute_by_ms
    fixed = gathered(structs.replace(item, latest_ms=None), "acme/acc-17/b-7", NOW_MS + 24 * HOUR, POLICY)
    assert fixed.execute_by_ms == item.execute_by_ms


def test_a_batch_that_becomes_complete_late_or_fails_late_leaves_its_members_their_time() -> None:
    item = member(State.GATHERING, execute_ms=HOUR, latest_ms=NOW_MS + 360 * HOUR)
    for is_drawn in (True, False):
        found = drawn(item, is_drawn, POLICY, NOW_MS + 9 * HOUR, HOUR)
        assert found.execute_by_ms == NOW_MS + 13 * HOUR + GRACE_MS
    turn = full(structs.replace(item, state=State.LOT), POLICY, NOW_MS + 9 * HOUR, HOUR)
    assert turn is not None
    assert turn.review.execute_by_ms == NOW_MS + 13 * HOUR + GRACE_MS


# --- switches ---------------------------------------------------------------------------------------------------------


def test_while_a_switch_holds_it_an_items_clock_stands_and_its_deadline_does_not() -> None:
    item = review()
    for stopped in (0, MINUTE, 3 * HOUR):
        assert due(item, NOW_MS + 15 * MINUTE // 2 + stopped - 1, POLICY, stopped) is None
        (turn,) = due_all(item, 15 * MINUTE // 2 + stopped, stopped)
        assert queues(turn.review) == [("manager", 1, ())]
    stopped = 9 * HOUR - MINUTE
    assert summary(due(item, NOW_MS + 9 * HOUR, POLICY, stopped))[-1] is Why.EXECUTE_BY


def test_what_was_due_before_a_switch_came_is_due_while_it_holds() -> None:
    late = 20 * MINUTE
    for held in (1, HOUR, 3 * HOUR):
        (turn,) = due_all(review(), late + held, stopped_ms=held)
        assert turn.review.state is State.EXPIRED


@given(
    before=st.integers(0, 7 * MINUTE), stopped=st.integers(0, HOUR), later=st.integers(0, HOUR), by_time=st.booleans()
)
def test_an_escalation_gives_the_next_queue_its_whole_time_also_where_the_clock_had_stood(
    before: int, stopped: int, later: int, by_time: bool
) -> None:
    """The clock stood for `stopped` before the escalation and for `later` after it."""
    item, at_ms = review(execute_ms=24 * HOUR), before + stopped
    if by_time:
        at_ms = 15 * MINUTE // 2 + stopped
        (turn,) = due_all(item, at_ms, stopped)
    else:
        turn = judge(item, verdict("escalate"), at(at_ms, stopped_ms=stopped), POLICY)
    end = at_ms + 4 * HOUR + later
    boss: dict[str, Any] = {"by": "mia", "role": "marketing_manager"}
    assert judge(turn.review, verdict(**boss), at(end - 1, stopped_ms=stopped + later), POLICY).deed is Deed.EXECUTE
    assert judge(turn.review, verdict(**boss), at(end, stopped_ms=stopped + later), POLICY).effect is Effect.LATE
    assert next_ms(turn.review, stopped + later) == NOW_MS + end - 2 * HOUR


def test_while_its_clock_stands_only_the_deadline_is_waited_for() -> None:
    assert next_ms(review(), MINUTE) == NOW_MS + 15 * MINUTE // 2 + MINUTE
    assert next_ms(review(), MINUTE, standing=True) == NOW_MS + 9 * HOUR


@given(st.integers(0, 10 * HOUR), st.integers(0, HOUR), st.sampled_from([State.GATHERING, State.LOT, State.OPEN]))
def test_nothing_is_due_before_the_time_that_is_waited_for_and_something_is_then(
    ms: int, stopped: int, state: State
) -> None:
    item = review(("trading", 1), ("brand", 2), state=state)
    wanted = next_ms(item, stopped)
    assert (due(item, NOW_MS + ms, POLICY, stopped) is not None) is (NOW_MS + ms >= wanted)


# --- what else ends it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
def test_a_newer_action_that_ran_makes_whatever_is_open_stale(state: State) -> None:
    turn = overtaken(review(state=state))
    if state in ENDS:
        assert turn is None
    else:
        assert summary(turn) == (State.STALE, Effect.APPLIED, None, Deed.CLOSE, End.STALE, Why.STALE)


@pytest.mark.parametrize("purpose", [*JUDGED, Purpose.EXCEPTION])
def test_what_will_not_run_is_not_overtaken(purpose: Purpose) -> None:
    assert overtaken(review(purpose=purpose)) is None


# --- batches ----------------------------------------------------------------------------------------------------------


def member(state: State, *asked: tuple[str, int], **parts: Any) -> Review:
    return review(*(asked or (("brand", 1),)), state=state, batch="acme/acc-17/b-7", **parts)


@pytest.mark.parametrize(("is_drawn", "state"), [(True, State.OPEN), (False, State.LOT)])
def test_the_clocks_of_a_member_begin_when_its_batch_is_complete(is_drawn: bool, state: State) -> None:
    item = member(State.GATHERING)
    assert due(item, NOW_MS + 8 * HOUR, POLICY) is None
    found = drawn(item, is_drawn, POLICY, NOW_MS + 3 * HOUR, stopped_ms=HOUR)
    assert found.state is state
    assert found.needs[0].decide_by_ms == NOW_MS + 2 * HOUR + 4 * HOUR
    assert found.needs[0].escalate_ms == NOW_MS + 2 * HOUR + 2 * HOUR


def test_a_batch_is_drawn_from_once() -> None:
    with pytest.raises(BrokenError, match="a review that is LOT cannot take drawn"):
        drawn(member(State.LOT), True, POLICY, NOW_MS)


def test_what_was_not_drawn_expires_with_its_time_and_is_not_sent_up_by_itself() -> None:
    item = member(State.LOT)
    assert due(item, NOW_MS + 4 * HOUR - 1, POLICY) is None
    assert summary(due(item, NOW_MS + 4 * HOUR, POLICY))[-1] is Why.DECIDE_BY


@pytest.mark.behaviour("E3")
def test_a_drawn_member_that_is_approved_waits_for_the_release() -> None:
    turn = said(member(State.OPEN), by="eva", role="editor")
    assert summary(turn) == (State.PASSED, Effect.WAITING, None, *NOTHING)
    assert due(turn.review, NOW_MS + 8 * HOUR, POLICY) is None
    freed = released(turn.review, ["ed"])
    assert summary(freed) == (State.APPROVED, Effect.APPLIED, None, Deed.EXECUTE, None, None)
    assert freed is not None
    assert freed.review.by == ("eva",)


def test_what_was_not_drawn_is_approved_by_whoever_releases_the_batch() -> None:
    turn = released(member(State.LOT), ["ed"])
    assert summary(turn) == (State.APPROVED, Effect.APPLIED, None, Deed.EXECUTE, None, None)
    assert turn is not None
    assert turn.review.by == ("ed",)


@pytest.mark.behaviour("B7")
@pytest.mark.parametrize(
    ("asked", "by", "why"),
    [
        ([("brand", 1)], ["dana"], Refusal.BARRED),
        ([("brand", 1)], ["ed", "Dana"], Refusal.BARRED),
        ([("brand", 1)], [], Refusal.SAME_PERSON),
        ([("brand", 2)], ["ed"], Refusal.SAME_PERSON),
        ([("brand", 2)], ["ed", "ED"], Refusal.SAME_PERSON),
        ([("brand", 1), ("client", 1)], ["ed"], Refusal.ROLE),
        ([("brand", 2)], ["ed", "eva"], None),
    ],
)
def test_a_release_counts_for_a_member_only_where_its_own_rules_for_people_hold(
    asked: list[tuple[str, int]], by: list[str], why: Refusal | None
) -> None:
    item = member(State.LOT, *asked)
    turn = released(item, by)
    assert turn is not None
    assert turn.refusal is why
    assert (turn.review == item) is (why is not None)
    assert turn.deed is (Deed.EXECUTE if why is None else Deed.NOTHING)


@pytest.mark.parametrize("state", [State.LOT, State.PASSED])
def test_a_member_that_is_released_while_a_switch_covers_it_is_parked(state: State) -> None:
    assert summary(released(member(state), ["ed"], covered=True))[::3] == (State.PARKED, Deed.PARK)


@pytest.mark.parametrize("state", [state for state in State if state not in (State.LOT, State.PASSED)])
def test_a_release_passes_over_what_is_looked_at_or_has_its_end(state: State) -> None:
    assert released(member(state), ["ed"]) is None


@pytest.mark.parametrize("state", [State.GATHERING, State.LOT])
def test_after_a_failed_sample_everything_is_looked_at_with_its_clocks_anew(state: State) -> None:
    turn = full(member(state), POLICY, NOW_MS + 3 * HOUR, HOUR)
    assert turn is not None
    assert (turn.review.state, turn.review.batch, turn.deed) == (State.OPEN, None, Deed.NOTHING)
    assert turn.review.needs[0].decide_by_ms == NOW_MS + 2 * HOUR + 4 * HOUR


def test_after_a_failed_sample_an_approval_waits_for_no_release() -> None:
    for item in (member(State.OPEN), member(State.LOT)):
        turn = full(item, POLICY, NOW_MS)
        assert turn is not None
        assert said(turn.review, by="eva", role="editor").deed is Deed.EXECUTE


@pytest.mark.parametrize("covered", [False, True])
def test_after_a_failed_sample_what_was_approved_by_itself_runs(covered: bool) -> None:
    passed = said(member(State.OPEN), by="eva", role="editor").review
    turn = full(passed, POLICY, NOW_MS, covered=covered)
    assert turn is not None
    assert turn.deed is (Deed.PARK if covered else Deed.EXECUTE)


@pytest.mark.parametrize("state", sorted(ENDS))
def test_a_failed_sample_changes_nothing_that_has_ended(state: State) -> None:
    assert full(member(state), POLICY, NOW_MS) is None


# --- the laws ---------------------------------------------------------------------------------------------------------

PEOPLE = ("tom", "tim", "TOM", "eva", "mia", "max", "dana")
ROLES = ("trader", "editor", "marketing_manager", "client", "guard", "viewer")
STRIDE = st.sampled_from([0, 1, MINUTE, 7 * MINUTE + 30_000, 15 * MINUTE, HOUR, 4 * HOUR, 24 * HOUR])
ASKED = st.lists(
    st.tuples(st.sampled_from(["trading", "brand", "manager", "client", "east", "gone"]), st.integers(1, 2)),
    min_size=1,
    max_size=3,
)
RUNS = (Deed.EXECUTE, Deed.PARK)


@pytest.mark.behaviour("E1", "E3")
@given(ASKED, st.sampled_from(Purpose), st.sampled_from(State), st.lists(st.tuples(STRIDE, STRIDE), max_size=30))
@settings(deadline=None)
def test_no_sequence_of_times_alone_lets_anything_run(
    asked: list[tuple[str, int]], purpose: Purpose, state: State, steps: list[tuple[int, int]]
) -> None:
    item, now_ms, stopped_ms = review(*asked, purpose=purpose, state=state), NOW_MS, 0
    for stride, stop in steps:
        now_ms, stopped_ms = now_ms + stride + stop, stopped_ms + stop
        while (turn := due(item, now_ms, POLICY, stopped_ms)) is not None:
            assert turn.deed in (Deed.NOTHING, Deed.CLOSE)
            assert turn.review.by == item.by
            assert turn.review.state in (State.OPEN, State.EXPIRED)
            item = turn.review


class Desk(RuleBasedStateMachine):
    """One item, whatever people, time, switches and batches do to it, beside a plain account of who approved what."""

    @initialize(
        asked=ASKED, purpose=st.sampled_from(Purpose), batch=st.booleans(), tier=st.sampled_from([1, 3]),
        execute=st.sampled_from([HOUR, 9 * HOUR, 60 * HOUR]), more=st.none() | st.sampled_from([0, HOUR, 90 * HOUR]),
    )  # fmt: skip
    def open(
        self, asked: list[tuple[str, int]], purpose: Purpose, batch: bool, tier: int, execute: int, more: int | None
    ) -> None:
        self.start = review(
            *asked, purpose=purpose, tier=tier, floor_ms=5_000, execute_ms=execute, batch="b" if batch else None,
            state=State.GATHERING if batch else State.OPEN,
            latest_ms=None if more is None else NOW_MS + execute + more,
        )  # fmt: skip
        self.item = self.start
        self.ms = self.stopped_ms = 0
        self.covered = False
        self.approved: list[str] = []
        self.people = sum(need.people for need in self.start.needs)
        self.last: Verdict | None = None

    def take(self, turn: Turn | None, by: list[str] | None = None) -> None:
        """Compare a turn with the laws; `by` are the people who said yes just now."""
        if turn is None:
            return
        before, self.item = self.item, turn.review
        assert not before.ended or turn.review == before
        assert turn.review.ended is (turn.review.state in ENDS)
        latest = self.start.latest_ms or self.start.execute_by_ms
        assert before.execute_by_ms <= turn.review.execute_by_ms <= latest
        assert all(need.decide_by_ms <= latest for need in turn.review.needs)
        if turn.deed in RUNS:
            assert by, "without a person's yes"
            assert turn.review.purpose is Purpose.DECIDE
            assert turn.deed is (Deed.PARK if self.covered else Deed.EXECUTE)
        if turn.review.state in (State.APPROVED, State.PARKED):
            people = distinct(self.approved)
            assert turn.review.needs
            assert all(need.met for need in turn.review.needs)
            assert sorted(turn.review.by) == sorted(self.approved) == sorted(people)
            assert not {"dana"} & {name.strip().lower() for name in people}
        if turn.effect in (Effect.REFUSED, Effect.LATE, Effect.CONFLICT):
            assert turn.review == before
            assert turn.deed is Deed.NOTHING
        if turn.deed is Deed.CLOSE or turn.end is not None:
            assert turn.review.purpose is Purpose.DECIDE

    @rule(
        word=st.sampled_from(WORDS), by=st.sampled_from(PEOPLE), role=st.sampled_from(ROLES), good=st.booleans(),
        service=st.sampled_from([False, False, False, True]), dwell=st.sampled_from([0, 5_000]),
    )  # fmt: skip
    def say(self, word: Word, by: str, role: str, good: bool, service: bool, dwell: int) -> None:
        asked = at(self.ms, covered=self.covered, stopped_ms=self.stopped_ms, service=service)
        self.last = verdict(word, by, role, dwell_ms=dwell, hash=HASH if good else "00" * 32)
        turn = judge(self.item, self.last, asked, POLICY)
        counts = turn.effect in (Effect.APPLIED, Effect.WAITING)
        if counts:
            assert good
            assert not service
            known = [POLICY.queues.get(need.queue) or POLICY.queues["triage"] for need in self.item.needs]
            assert any(role in queue.roles for queue in known)
            assert word != "approve" or dwell >= 5_000 or self.item.tier < 3
        if counts and word == "approve":
            self.approved.append(by)
        if counts and word in ("reject", "change"):
            assert turn.review.ended
            assert turn.deed not in RUNS
        if counts and word == "escalate":
            assert turn.deed is Deed.NOTHING
        self.take(turn, [by] if word == "approve" else None)

    @precondition(lambda self: self.last is not None)
    @rule()
    def say_it_again(self) -> None:
        assert self.last is not None
        counted = self.last.jti in self.item.seen
        before = self.item
        turn = judge(self.item, self.last, at(self.ms, stopped_ms=self.stopped_ms), POLICY)
        if counted:
            assert refused(turn) is Refusal.REPLAYED
            assert turn.review == before

    @rule(stride=STRIDE)
    def wait(self, stride: int) -> None:
        self.ms += stride
        self.stopped_ms += stride if self.covered else 0
        for turn in list(due_all(self.item, self.ms, self.stopped_ms)):
            self.take(turn)
        if not self.item.ended:
            wanted = next_ms(self.item, self.stopped_ms, standing=self.covered)
            assert NOW_MS + self.ms < wanted

    @rule()
    def switch(self) -> None:
        self.covered = not self.covered

    @precondition(lambda self: self.item.state is State.GATHERING)
    @rule(is_drawn=st.booleans())
    def complete(self, is_drawn: bool) -> None:
        self.item = drawn(self.item, is_drawn, POLICY, NOW_MS + self.ms, self.stopped_ms)

    @rule(by=st.lists(st.sampled_from(PEOPLE), max_size=3))
    def release(self, by: list[str]) -> None:
        before = self.item
        turn = released(self.item, by, covered=self.covered)
        if turn is not None and turn.effect is Effect.APPLIED and before.state is State.LOT:
            self.approved += distinct(by)
        self.take(turn, by or self.approved)

    @rule()
    def look_at_everything(self) -> None:
        turn = full(self.item, POLICY, NOW_MS + self.ms, self.stopped_ms, covered=self.covered)
        self.take(turn, self.approved)

    @rule()
    def overtake(self) -> None:
        self.take(overtaken(self.item))

    @invariant()
    def has_every_approval_that_counted_and_no_other(self) -> None:
        if hasattr(self, "item"):
            assert sorted(self.item.by) == sorted(self.approved)
            assert len(distinct(self.approved)) == len(self.approved)
            assert len(self.item.seen) == len(set(self.item.seen))
            assert self.item.escalated <= ESCALATED_MAX
            assert self.item.state is not State.PASSED or self.item.batch is not None
            assert bool(self.item.ended) or self.item.state is State.PASSED or any(not n.met for n in self.item.needs)


TestDesk = Desk.TestCase
TestDesk.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
