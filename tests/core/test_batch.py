"""A batch: what it takes in, what is drawn, who releases it, and what no release can ever let through."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b, sha256
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs

from hitl_stream.core import batch, merkle, review
from hitl_stream.core.batch import Event, Lot, Stage, Unjoined
from hitl_stream.core.events import Effect, Purpose, Refusal
from hitl_stream.core.review import Asked, Deed, Need, Review, State
from hitl_stream.core.verdicts import LOT_MAX, BatchRelease, Verdict
from support.make import make_policy

POLICY = make_policy()
HOUR = 3_600_000
SLA = 4 * HOUR
"""Of the queues `brand` (role `editor`, next `manager`) and `manager` (role `marketing_manager`)."""
NOW = 1_000_000_000_000
DAY = 24 * HOUR
KEY = batch.key_of("acme", "acc-17", "b-7")
ZERO = "0" * 64


def item(name: str, purpose: Purpose = Purpose.DECIDE, **parts: Any) -> Review:
    """Return a member as it waits for its batch; the brand's editor is asked."""
    parts.setdefault("state", State.GATHERING)
    parts.setdefault("needs", (Need("brand", 1, NOW + SLA),))
    parts.setdefault("execute_by_ms", NOW + 10 * DAY)
    digest = sha256(name.encode()).hexdigest()
    return Review(item=name, purpose=purpose, hash=digest, opened_ms=NOW, batch=KEY, **parts)


def score(root: bytes, place: int, leaf: bytes) -> bytes:
    """Return a keyed digest, as the desk makes it."""
    return blake2b(b"%b%d" % (root, place) + leaf, key=b"k" * 32, digest_size=16).digest()


def gathering(wanted: int) -> Lot:
    return batch.opened(KEY, "brand", wanted, NOW, DAY)


def must(found: Lot | Unjoined) -> Lot:
    assert isinstance(found, Lot), found
    return found


def taken(lot: Lot, one: Review, index: int, *, flagged: bool = False) -> Lot:
    return must(batch.joined(lot, one, index, lot.wanted, flagged=flagged))


def lot_of(size: int, flagged: Sequence[int] = (), **parts: Any) -> Lot:
    """Return a batch that has everything it wants; the items at the indexes `flagged` are."""
    lot = gathering(size)
    for index in range(size):
        lot = taken(lot, item(f"i{index}", **parts), index, flagged=index in flagged)
    return lot


def complete(lot: Lot, now_ms: int = NOW) -> Lot:
    return batch.completed(lot, score, POLICY, now_ms)


def judged(lot: Lot, items: Sequence[str], bad: int = 0) -> Lot:
    """Judge these in order, the first `bad` of them as bad."""
    for place, one in enumerate(items):
        lot = batch.judged(lot, one, good=place >= bad)
    return lot


def ready(size: int = 100, **parts: Any) -> Lot:
    lot = complete(lot_of(size, **parts))
    return judged(lot, lot.waiting)


def claims(lot: Lot, by: str = "eva", role: str = "editor", **parts: Any) -> BatchRelease:
    """Return a release of this batch, signed by a person in a role."""
    at = datetime(2026, 11, 21, tzinfo=UTC)
    shared = {"aud": "c", "kid": "k", "iss": "console", "iat": 1, "exp": 2, "policy": ZERO, "view": ZERO, "epoch": 1}
    fixed = {"painted": at, "decided": at + timedelta(minutes=1), "jti": f"{by}-{role}", "batch": lot.key}
    mine = {"size": len(lot.members), "root": lot.root or ZERO}
    return BatchRelease(**{**shared, **fixed, **mine, "by": by, "role": role, **parts})


def release(lot: Lot, at_ms: int = NOW + HOUR, asked: Asked | None = None, **parts: Any) -> batch.LotTurn:
    return batch.release(lot, claims(lot, **parts), asked or Asked(at_ms), POLICY)


# --- gathering --------------------------------------------------------------------------------------------------------


def test_members_stand_in_order_of_their_index_whatever_the_order_they_came_in() -> None:
    lot = gathering(4)
    for index in (2, 0, 3, 1):
        lot = taken(lot, item(f"i{index}"), index)

    assert [(member.index, member.item) for member in lot.members] == [(0, "i0"), (1, "i1"), (2, "i2"), (3, "i3")]


def test_a_flagged_item_is_no_member_and_is_waited_for() -> None:
    lot = taken(taken(gathering(3), item("a"), 0), item("b"), 1, flagged=True)

    assert [member.item for member in lot.members] == ["a"]
    assert (lot.flagged, lot.waiting) == (1, ("b",))


def test_an_item_of_the_highest_tier_is_decided_singly_flagged_or_not() -> None:
    """It runs only after its content was read; a release reads a sample."""
    lot = taken(gathering(3), item("a", tier=3), 0)

    assert batch.is_single(lot, item("a", tier=3), flagged=False)
    assert (lot.members, lot.waiting) == ((), ("a",))


@pytest.mark.parametrize("queues", [["manager"], ["brand", "client"], ["client", "brand"], []])
def test_an_item_that_needs_more_than_the_queue_of_its_batch_is_decided_singly(queues: list[str]) -> None:
    """Who may speak for one queue cannot release what another one is asked about."""
    lot = taken(gathering(3), item("a", needs=tuple(Need(queue, 1, NOW) for queue in queues)), 0)

    assert (lot.members, lot.waiting) == ((), ("a",))


@pytest.mark.parametrize(
    ("index", "size", "why"),
    [
        (0, 3, Unjoined.REPEATED),  # a member's
        (1, 3, Unjoined.REPEATED),  # a flagged one's
        (2, 4, Unjoined.SIZE),
        (3, 3, Unjoined.BEYOND),
        (-1, 3, Unjoined.BEYOND),
    ],
)
@pytest.mark.parametrize("flagged", [False, True])
def test_a_batch_refuses_what_does_not_belong_to_it_by_name(
    index: int, size: int, why: Unjoined, flagged: bool
) -> None:
    lot = taken(taken(gathering(3), item("a"), 0), item("b"), 1, flagged=True)

    assert batch.joined(lot, item("c"), index, size, flagged=flagged) is why


@pytest.mark.parametrize("flagged", [False, True])
def test_a_batch_takes_no_more_than_it_wants_and_nothing_after_that(flagged: bool) -> None:
    full = lot_of(3, flagged=[1])

    for lot in (full, complete(full), complete(taken(gathering(9), item("a"), 0))):
        assert batch.joined(lot, item("x"), 2, lot.wanted, flagged=flagged) is Unjoined.COMPLETE


@pytest.mark.parametrize("purpose", [purpose for purpose in Purpose if purpose is not Purpose.DECIDE])
def test_what_is_only_judged_joins_no_batch(purpose: Purpose) -> None:
    assert batch.joined(gathering(3), item("a", purpose), 0, 3, flagged=False) is Unjoined.PURPOSE


@pytest.mark.parametrize("size", [0, -1, LOT_MAX + 1])
def test_a_size_that_no_batch_has_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=rf"acme/acc-17/b-7 says a size of {size}; a batch has 1 to 10000 items"):
        gathering(size)


@pytest.mark.behaviour("E5")
def test_a_batch_is_complete_when_members_and_flagged_ones_are_as_many_as_wanted() -> None:
    lot = taken(taken(gathering(3), item("a"), 0), item("b"), 1, flagged=True)

    assert not batch.is_complete(lot, NOW)
    assert batch.is_complete(taken(lot, item("c"), 2), NOW)


def test_a_batch_is_complete_when_its_time_is_over_however_few_there_are() -> None:
    lot = taken(gathering(1_000), item("a"), 0)

    assert batch.next_ms(lot) == NOW + DAY
    assert not batch.is_complete(lot, NOW + DAY - 1)
    assert batch.is_complete(lot, NOW + DAY)


def test_a_complete_batch_is_not_completed_again() -> None:
    lot = complete(lot_of(100))

    assert not batch.is_complete(lot, NOW + DAY)
    assert complete(lot, NOW + HOUR) is lot


# --- the sample -------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E5")
def test_of_1500_items_with_12_flagged_ones_the_fourth_error_is_full_review() -> None:
    """ISO 2859-1 says for 1,488: 125 are looked at, and 3 may be bad."""
    flagged = [f"i{index}" for index in range(7, 1_500, 125)]
    lot = complete(lot_of(1_500, flagged=range(7, 1_500, 125)))

    assert (lot.flagged, len(lot.members), len(lot.drawn), lot.accept) == (12, 1_488, 125, 3)
    assert not set(lot.drawn) & set(flagged)
    assert set(lot.waiting) == {*flagged, *lot.drawn}

    lot = judged(lot, flagged, bad=12)  # each is decided by itself, and says nothing of the rest
    assert (lot.state, lot.bad) == (Stage.SAMPLING, 0)
    third = judged(lot, lot.drawn[:50], bad=3)
    assert (third.state, third.good, third.bad) == (Stage.SAMPLING, 47, 3)
    assert judged(third, lot.drawn[50:]).state is Stage.READY
    fourth = judged(third, lot.drawn[50:51], bad=1)
    assert (fourth.state, fourth.bad) == (Stage.FULL, 4)
    assert release(fourth).refusal is Refusal.SAMPLE


@pytest.mark.behaviour("C7")
def test_of_a_week_of_posts_the_flagged_ones_are_decided_singly_and_one_person_releases_the_rest() -> None:
    """30 posts on 4 platforms: of 120 actions 12 are flagged, 13 of the others looked at, and 95 never one by one."""
    lot = complete(lot_of(120, flagged=range(0, 120, 10)))
    judgements = len(lot.waiting)
    lot = judged(lot, lot.waiting)
    turn = release(lot)

    assert (turn.effect, turn.lot.state, turn.lot.by) == (Effect.APPLIED, Stage.RELEASED, ("eva",))
    assert judgements + 1 == 12 + 13 + 1
    assert judgements + 1 <= 120 * 0.4


def test_the_root_is_that_of_the_action_hashes_and_proves_each_member() -> None:
    lot = complete(lot_of(30, flagged=[4]))
    leaves = [bytes.fromhex(member.hash) for member in lot.members]
    tree = merkle.Tree(leaves)

    assert lot.root == tree.root.hex()
    assert batch.leaves_of(lot) == leaves
    assert all(merkle.verify(tree.root, 29, place, leaf, tree.path(place)) for place, leaf in enumerate(leaves))


def test_the_draw_hangs_on_the_key_and_on_every_member() -> None:
    """So nobody can tell which are drawn before the last one has come."""
    lot = lot_of(400)
    other = lot_of(399)
    other = taken(structs.replace(other, wanted=400), item("another"), 399)
    another_key = batch.completed(lot, lambda root, place, leaf: score(root, place, leaf)[::-1], POLICY, NOW)

    assert complete(lot).drawn == complete(lot).drawn
    assert complete(lot).drawn != complete(other).drawn
    assert complete(lot).drawn != another_key.drawn


@given(size=st.integers(14, 400), seed=st.binary(min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_the_smallest_scores_of_the_root_are_drawn(size: int, seed: bytes) -> None:
    def keyed(root: bytes, place: int, leaf: bytes) -> bytes:
        return blake2b(root + leaf, key=seed, digest_size=16).digest()

    lot = batch.completed(lot_of(size), keyed, POLICY, NOW)
    root = merkle.root(batch.leaves_of(lot))
    by_score = sorted(lot.members, key=lambda member: keyed(root, 0, bytes.fromhex(member.hash)))

    assert set(lot.drawn) == {member.item for member in by_score[: len(lot.drawn)]}


@pytest.mark.parametrize("size", [1, 12, 13])
def test_a_lot_no_larger_than_its_sample_is_full_review_from_the_start(size: int) -> None:
    lot = complete(lot_of(size))

    assert (lot.state, len(lot.drawn)) == (Stage.FULL, size)
    assert release(lot).refusal is Refusal.SAMPLE


@pytest.mark.parametrize("flagged", [(), (0, 1)])
def test_a_batch_without_members_ends_when_it_is_complete(flagged: Sequence[int]) -> None:
    lot = gathering(3)
    for index in flagged:
        lot = taken(lot, item(f"i{index}"), index, flagged=True)

    assert complete(lot).state is Stage.ENDED


def test_a_batch_is_not_ready_while_a_flagged_item_is_not_judged() -> None:
    lot = complete(lot_of(100, flagged=[3]))
    sampled = judged(lot, lot.drawn)

    assert (sampled.state, sampled.waiting) == (Stage.SAMPLING, ("i3",))
    assert release(sampled).refusal is Refusal.SAMPLE
    assert judged(sampled, ["i3"], bad=1).state is Stage.READY


def test_a_flagged_item_may_be_judged_before_the_batch_is_complete() -> None:
    lot = judged(lot_of(100, flagged=[3]), ["i3"])
    drawn = complete(lot)

    assert lot.state is Stage.GATHERING
    assert judged(drawn, drawn.drawn).state is Stage.READY


def test_what_a_batch_does_not_wait_for_changes_nothing() -> None:
    lot = complete(lot_of(100))
    undrawn = next(member.item for member in lot.members if member.item not in lot.drawn)
    once = batch.judged(lot, lot.drawn[0], good=False)

    assert batch.judged(lot, undrawn, good=False) is lot
    assert batch.judged(lot, "nobody", good=False) is lot
    assert batch.judged(once, lot.drawn[0], good=False) is once


# --- what ends unjudged -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.EXPIRED, State.STALE])
@pytest.mark.parametrize("is_flagged", [False, True])
def test_a_drawn_or_flagged_item_that_ended_unjudged_is_full_review(state: State, is_flagged: bool) -> None:
    lot = complete(lot_of(100, flagged=[3]))
    gone = "i3" if is_flagged else lot.drawn[5]
    after = batch.followed(lot, item(gone, state=state))

    assert after.state is Stage.FULL
    assert release(judged(after, lot.waiting)).refusal is Refusal.SAMPLE


def test_a_flagged_item_that_ended_unjudged_before_that_is_full_review_at_once() -> None:
    lot = batch.followed(taken(gathering(9), item("a"), 0, flagged=True), item("a", state=State.EXPIRED))

    assert lot.state is Stage.FULL
    assert batch.joined(lot, item("b"), 1, 9, flagged=False) is Unjoined.COMPLETE


def test_a_member_that_ended_before_the_batch_was_complete_leaves_it_and_its_index_stays_taken() -> None:
    lot = taken(taken(gathering(3), item("a"), 0), item("b"), 1)
    left = batch.followed(lot, item("a", state=State.STALE))

    assert [member.item for member in left.members] == ["b"]
    assert batch.joined(left, item("c"), 0, 3, flagged=False) is Unjoined.REPEATED
    assert batch.is_complete(taken(left, item("c"), 2), NOW)


def test_an_undrawn_member_that_ended_keeps_its_place_in_the_tree() -> None:
    lot = complete(lot_of(100))
    undrawn = next(member.item for member in lot.members if member.item not in lot.drawn)

    assert batch.followed(lot, item(undrawn, state=State.EXPIRED)) is lot


@pytest.mark.parametrize("state", [State.GATHERING, State.LOT, State.OPEN])
def test_an_item_that_still_waits_changes_nothing(state: State) -> None:
    lot = complete(lot_of(100))

    assert batch.followed(lot, item(lot.drawn[0], state=state)) is lot


@pytest.mark.parametrize(
    ("state", "good"),
    [
        (State.PASSED, True),
        (State.APPROVED, True),
        (State.PARKED, True),
        (State.REJECTED, False),
        (State.CHANGED, False),
    ],
)
def test_an_item_counts_by_how_it_was_judged(state: State, good: bool) -> None:
    lot = complete(lot_of(300))
    after = batch.followed(lot, item(lot.drawn[0], state=state))

    assert (after.good, after.bad) == (int(good), int(not good))


def test_every_state_of_an_item_means_something_to_its_batch() -> None:
    """A state that nobody thought of would count as an error, and never as a good one."""
    lot = complete(lot_of(300))
    after = {state: batch.followed(lot, item(lot.drawn[0], state=state)) for state in State}

    assert {state for state in State if after[state].good} == {State.PASSED, State.APPROVED, State.PARKED}


# --- the release ------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E5")
def test_when_sample_and_flagged_items_are_judged_one_person_releases_the_whole() -> None:
    lot = complete(lot_of(500, flagged=[1, 2]))
    waiting = [*lot.waiting]
    assert release(lot).refusal is Refusal.SAMPLE
    for one in waiting[:-1]:
        lot = batch.judged(lot, one, good=True)
        assert release(lot).refusal is Refusal.SAMPLE
    lot = batch.judged(lot, waiting[-1], good=True)

    turn = release(lot)

    assert (turn.effect, turn.lot.state) == (Effect.APPLIED, Stage.RELEASED)


@pytest.mark.parametrize(
    ("parts", "refusal"),
    [
        ({"batch": "acme/acc-17/b-8"}, Refusal.ROOT),
        ({"size": 99}, Refusal.ROOT),
        ({"root": ZERO}, Refusal.ROOT),
        ({"role": "trader"}, Refusal.ROLE),
        ({"by": "dana"}, Refusal.BARRED),
    ],
)
def test_a_release_that_is_not_for_this_batch_or_not_for_this_person_is_refused(
    parts: dict[str, Any], refusal: Refusal
) -> None:
    lot = ready(barred=("dana",))
    turn = release(lot, **parts)

    assert (turn.effect, turn.refusal, turn.lot) == (Effect.REFUSED, refusal, lot)
    assert release(lot).lot.state is Stage.RELEASED


def test_a_service_releases_nothing() -> None:
    assert release(ready(), asked=Asked(NOW + HOUR, service=True)).refusal is Refusal.SERVICE


def test_whoever_may_not_decide_one_member_may_not_release_any() -> None:
    lot = gathering(20)
    for index in range(20):
        lot = taken(lot, item(f"i{index}", barred=("ben",) if index == 11 else ()), index)
    lot = complete(lot)
    lot = judged(lot, lot.waiting)

    assert release(lot, by="ben").refusal is Refusal.BARRED
    assert not batch.may_release(lot, "ben", ["editor"], POLICY)
    assert batch.may_release(lot, "eva", ["editor"], POLICY)
    assert not batch.may_release(lot, "eva", ["trader"], POLICY)


def test_only_a_batch_that_waits_for_its_release_is_put_to_anybody() -> None:
    drawn = complete(lot_of(20))
    others = [lot_of(20), drawn, complete(lot_of(5)), release(ready()).lot, after_time(drawn, NOW + DAY)]

    assert {lot.state for lot in others} == {*Stage} - {Stage.READY}
    assert batch.may_release(ready(), "eva", ["editor"], POLICY)
    assert not any(batch.may_release(lot, "eva", ["editor", "marketing_manager"], POLICY) for lot in others)


def test_a_release_needs_as_many_people_as_any_member() -> None:
    lot = gathering(20)
    for index in range(20):
        lot = taken(lot, item(f"i{index}", needs=(Need("brand", 2 if index == 3 else 1, NOW),)), index)
    lot = complete(lot)
    lot = judged(lot, lot.waiting)

    first = release(lot, by="eva")
    assert (first.effect, first.lot.state) == (Effect.WAITING, Stage.READY)
    assert release(first.lot, by="eva", jti="again").refusal is Refusal.SAME_PERSON
    assert release(first.lot, by="eva").refusal is Refusal.REPLAYED
    assert not batch.may_release(first.lot, "eva", ["editor"], POLICY)
    second = release(first.lot, by="fay")
    assert (second.effect, second.lot.state, second.lot.by) == (Effect.APPLIED, Stage.RELEASED, ("eva", "fay"))


def test_a_batch_that_was_released_is_not_released_again() -> None:
    lot = release(ready()).lot

    assert release(lot, by="fay").effect is Effect.CONFLICT
    assert release(lot, by="eva").refusal is Refusal.REPLAYED


def test_a_batch_that_a_switch_covers_is_released_and_its_members_are_parked() -> None:
    """Each one is asked about when it is written out: a switch may cover some of them."""
    turn = release(ready(), asked=Asked(NOW + HOUR, covered=True))

    assert (turn.effect, turn.lot.state) == (Effect.APPLIED, Stage.RELEASED)


def verdict(lot: Lot, one: Review, word: Any, by: str = "eva", role: str = "editor", **parts: Any) -> Verdict:
    """Return what a person says of one item."""
    plain = structs.asdict(claims(lot, by, role, **parts))
    shared = {name: value for name, value in plain.items() if name not in ("batch", "size", "root")}
    return Verdict(**shared, item=one.item, hash=one.hash, verdict=word, code="off_tone")


@pytest.mark.behaviour("E5")
def test_a_release_lets_all_members_run_but_those_that_were_found_bad() -> None:
    """One error in 50 is within plan: 199 of 200 run, drawn ones by their own approvals, the rest by the release."""
    lot = complete(lot_of(200))
    items = {
        member.item: review.drawn(item(member.item), member.item in lot.drawn, POLICY, NOW) for member in lot.members
    }
    for place, name in enumerate(lot.drawn):
        word = "reject" if place == 30 else "approve"
        said = verdict(lot, items[name], word, by="fay", jti=f"v{place}")
        items[name] = review.judge(items[name], said, Asked(NOW + 1), POLICY).review
        lot = batch.followed(lot, items[name])
    assert (lot.state, lot.good, lot.bad) == (Stage.READY, 49, 1)
    lot = release(lot, by="eva").lot
    turns = {name: review.released(one, lot.by) for name, one in items.items()}

    assert turns.pop(lot.drawn[30]) is None
    assert all(turn is not None and turn.deed is Deed.EXECUTE for turn in turns.values())
    assert {turn.review.by for name, turn in turns.items() if turn and name not in lot.drawn} == {("eva",)}
    assert {turn.review.by for name, turn in turns.items() if turn and name in lot.drawn} == {("fay",)}


# --- time -------------------------------------------------------------------------------------------------------------


def test_the_clock_of_a_batch_begins_when_it_is_complete() -> None:
    lot = complete(lot_of(100), NOW + DAY)

    assert [need.decide_by_ms for need in lot.needs] == [NOW + DAY + SLA]


@pytest.mark.parametrize("is_ready", [False, True])
def test_a_batch_that_nobody_released_in_time_ends_and_stays_ended(is_ready: bool) -> None:
    lot = ready() if is_ready else complete(lot_of(100))
    late = NOW + 3 * SLA
    after = after_time(lot, late)

    assert after.state is Stage.ENDED
    assert release(after, at_ms=late).effect is Effect.LATE
    assert judged(after, lot.waiting) is after


def after_time(lot: Lot, now_ms: int, stopped_ms: int = 0) -> Lot:
    """Return what time alone makes of a batch by then."""
    for _ in range(review.ESCALATED_MAX + 2):
        following = batch.due(lot, now_ms, POLICY, stopped_ms)
        if following is None:
            return lot
        lot = following
    raise AssertionError("time does not come to an end")


def test_a_release_that_was_appended_after_the_last_moment_is_late_whatever_the_timer_did() -> None:
    lot = ready()

    assert release(lot, at_ms=NOW + SLA - 1).lot.state is Stage.RELEASED
    assert release(lot, at_ms=NOW + SLA).effect is Effect.LATE


def test_a_release_goes_to_the_next_queue_at_half_its_time_once_it_can_be_given() -> None:
    half = NOW + SLA // 2
    lot = ready()

    assert batch.next_ms(lot) == half
    assert batch.due(lot, half - 1, POLICY) is None
    escalated = batch.due(lot, half, POLICY)
    assert escalated is not None
    assert [need.queue for need in escalated.needs] == ["manager"]
    assert release(escalated, at_ms=half).refusal is Refusal.ROLE
    assert release(escalated, at_ms=half, role="marketing_manager").lot.state is Stage.RELEASED


def test_an_escalated_release_has_no_more_time_than_the_members_that_it_would_let_run() -> None:
    escalated = batch.due(ready(), NOW + SLA // 2, POLICY)
    assert escalated is not None
    undrawn = review.drawn(item("i"), False, POLICY, NOW)

    assert batch.next_ms(escalated) == NOW + SLA
    assert after_time(escalated, NOW + SLA - 1).state is Stage.READY
    assert after_time(escalated, NOW + SLA).state is Stage.ENDED
    assert review.due(undrawn, NOW + SLA - 1, POLICY) is None
    assert review.due(undrawn, NOW + SLA, POLICY) is not None


def test_while_the_sample_is_judged_the_release_goes_to_nobody_else() -> None:
    lot = complete(lot_of(100))

    assert batch.next_ms(lot) == NOW + SLA
    assert batch.due(lot, NOW + SLA - 1, POLICY) is None


def test_while_a_switch_covers_a_batch_its_clock_stands_still_and_the_deadline_does_not() -> None:
    lot = complete(lot_of(100))
    late = NOW + SLA

    assert batch.due(lot, late, POLICY, stopped_ms=HOUR) is None
    assert batch.next_ms(lot, stopped_ms=HOUR) == late + HOUR
    assert batch.next_ms(lot, stopped_ms=HOUR, standing=True) == NOW + 10 * DAY
    assert release(ready(), asked=Asked(late, stopped_ms=HOUR)).effect is Effect.APPLIED
    assert [need.decide_by_ms for need in batch.completed(lot_of(100), score, POLICY, late, HOUR).needs] == [
        late + 3 * HOUR
    ]
    assert after_time(lot, NOW + 10 * DAY, stopped_ms=20 * DAY).state is Stage.ENDED


def test_a_batch_that_gathers_or_has_ended_has_nothing_due() -> None:
    for lot in (lot_of(100), complete(lot_of(5)), release(ready()).lot):
        assert batch.due(lot, NOW + 100 * DAY, POLICY) is None
    assert batch.next_ms(complete(lot_of(5))) is None


@given(jumps=st.lists(st.integers(0, 2 * DAY), max_size=12), bad=st.integers(0, 1), size=st.integers(14, 60))
@settings(max_examples=60, deadline=None)
def test_time_alone_never_releases_a_batch(jumps: list[int], bad: int, size: int) -> None:
    lot = complete(lot_of(size))
    lot = judged(lot, lot.waiting, bad)
    now_ms = NOW
    for jump in jumps:
        now_ms += jump
        lot = after_time(lot, now_ms)
        assert lot.state is not Stage.RELEASED
        assert lot.by == ()


# --- laws -------------------------------------------------------------------------------------------------------------


def test_an_end_has_no_way_out_and_every_other_stage_has_one() -> None:
    assert {stage for stage in Stage if not batch.TABLE[stage]} == batch.ENDS
    assert {event for row in batch.TABLE.values() for event in row} == set(Event)


def test_only_a_release_leads_to_released_and_only_from_ready() -> None:
    ways = [(stage, event) for stage, row in batch.TABLE.items() for event in row if row[event] is Stage.RELEASED]

    assert ways == [(Stage.READY, Event.RELEASE)]


@given(data=st.data(), size=st.integers(14, 600))
@settings(max_examples=60, deadline=None)
def test_one_error_more_than_accepted_is_full_review_at_that_very_judgement(data: st.DataObject, size: int) -> None:
    lot = complete(lot_of(size))
    assert lot.accept is not None
    errors = data.draw(st.integers(0, lot.accept + 1))
    order = data.draw(st.permutations(lot.drawn))
    bad = {*order[:errors]}
    seen = 0
    for one in data.draw(st.permutations(order)):
        assert lot.state is Stage.SAMPLING
        lot = batch.judged(lot, one, good=one not in bad)
        seen += one in bad
        if seen > (lot.accept or 0):
            break

    assert lot.state is (Stage.FULL if errors == (lot.accept or 0) + 1 else Stage.READY)


@given(order=st.permutations(range(40)), flagged=st.sets(st.integers(0, 39)))
@settings(max_examples=40, deadline=None)
def test_the_order_of_arrival_makes_no_difference(order: list[int], flagged: set[int]) -> None:
    lot = gathering(40)
    for index in order:
        lot = taken(lot, item(f"i{index}"), index, flagged=index in flagged)
    expected = lot_of(40, flagged=[*flagged])

    assert (lot.members, lot.beside, lot.flagged) == (expected.members, expected.beside, expected.flagged)
    assert all(one.index < other.index for one, other in pairwise(lot.members))
    assert complete(lot).drawn == complete(expected).drawn


PERSON = st.sampled_from([("eva", "editor"), ("fay", "editor"), ("dana", "editor"), ("max", "marketing_manager")])
PEOPLE = st.lists(PERSON, min_size=1, max_size=4, unique=True)
BARRED = "dana"
WANTED = 30
INDEXES = st.lists(st.integers(0, WANTED + 1), min_size=1, max_size=15)


class Batches(RuleBasedStateMachine):
    """A batch and its items, each with a life of its own, as a desk would lead them."""

    def __init__(self) -> None:
        super().__init__()
        self.lot = gathering(WANTED)
        self.items: dict[str, Review] = {}
        self.flagged: set[str] = set()
        self.decided: dict[str, str] = {}
        """What people have said last of each item that this ended, or let pass."""
        self.ran: set[str] = set()
        self.now_ms = NOW
        self.numbers = 0
        self.at_release: Lot | None = None

    # what happens

    @initialize(
        flagged=st.integers(0, 4), short=st.integers(0, 2), two=st.booleans(), late=st.sampled_from([0, 0, 0, 2])
    )
    def most_of_it_is_there(self, flagged: int, short: int, two: bool, late: int) -> None:
        self.join([*range(flagged)], flagged=True, short=False, two=False)
        self.join([*range(flagged, flagged + short)], flagged=False, short=True, two=False)
        self.join([*range(flagged + short, WANTED - late)], flagged=False, short=False, two=two)
        if not late:
            self.complete()

    @precondition(lambda self: self.lot.state is Stage.GATHERING)
    @rule(indexes=INDEXES, flagged=st.booleans(), short=st.booleans(), two=st.booleans())
    def join(self, indexes: list[int], flagged: bool, short: bool, two: bool) -> None:
        for index in indexes:
            name = f"i{len(self.items)}"
            deadline = self.now_ms + (HOUR if short else 3 * DAY)
            needs = (Need("brand", 2 if two else 1, self.now_ms + SLA),)
            one = item(name, needs=needs, barred=(BARRED,), execute_by_ms=deadline)
            found = batch.joined(self.lot, one, index, WANTED, flagged=flagged)
            if isinstance(found, Unjoined):
                continue
            self.lot, self.items[name] = found, one
            if flagged:
                self.flagged.add(name)
                self.items[name] = structs.replace(one, batch=None, state=State.OPEN)

    @precondition(lambda self: batch.is_complete(self.lot, self.now_ms))
    @rule()
    def complete(self) -> None:
        members = [member.item for member in self.lot.members]
        self.lot = complete(self.lot, self.now_ms)
        if self.lot.state is Stage.SAMPLING:
            for name in members:
                drawn = name in self.lot.drawn
                self.items[name] = review.drawn(self.items[name], drawn, POLICY, self.now_ms)
        self._full()

    @precondition(lambda self: self.lot.state is not Stage.GATHERING or self.flagged)
    @rule(picks=st.lists(st.integers(0, WANTED), max_size=WANTED), person=PERSON, bad=st.integers(0, 12))
    def judge(self, picks: list[int], person: tuple[str, str], bad: int) -> None:
        for pick in picks:
            self._judge(f"i{pick}", person, "reject" if bad == 0 and pick == picks[0] else "approve")

    @precondition(lambda self: self.lot.waiting)
    @rule(people=PEOPLE, bad=st.sampled_from([0, 0, 0, 0, 1, 2]))
    def judge_all_that_is_waited_for(self, people: list[tuple[str, str]], bad: int) -> None:
        for place, name in enumerate(self.lot.waiting):
            for person in people:
                self._judge(name, person, "reject" if place < bad else "approve")

    def _judge(self, name: str, person: tuple[str, str], word: Any) -> None:
        if name not in self.items:
            return
        self.numbers += 1
        said = verdict(self.lot, self.items[name], word, *person, jti=f"v{self.numbers}")
        turn = review.judge(self.items[name], said, Asked(self.now_ms), POLICY)
        if turn.effect in (Effect.APPLIED, Effect.WAITING) and turn.review.state is not State.OPEN:
            self.decided[name] = word
        self._becomes(turn)

    @rule(pick=st.integers(0, 300))
    def overtake(self, pick: int) -> None:
        one = self.items.get(f"i{pick}")
        turn = None if one is None else review.overtaken(one)
        if turn is not None:
            self._becomes(turn)

    @rule(jump=st.sampled_from([1, 1, 1, HOUR, HOUR, SLA, DAY]))
    def wait(self, jump: int) -> None:
        self.now_ms += jump
        self.lot = after_time(self.lot, self.now_ms)
        for name in self.items:
            turn = review.due(self.items[name], self.now_ms, POLICY)
            if turn is not None:
                assert turn.deed is not Deed.EXECUTE
                self._becomes(turn)

    @precondition(lambda self: self.lot.state is not Stage.GATHERING)
    @rule(people=PEOPLE, wrong=st.sampled_from([{}, {}, {}, {"root": ZERO}, {"size": 1}]))
    def release(self, people: list[tuple[str, str]], wrong: dict[str, Any]) -> None:
        for person in people:
            self._release(person, wrong)

    def _release(self, person: tuple[str, str], wrong: dict[str, Any]) -> None:
        self.numbers += 1
        before = self.lot
        signed = claims(self.lot, *person, jti=f"r{self.numbers}", **wrong)
        self.lot = batch.release(before, signed, Asked(self.now_ms), POLICY).lot
        if before.state is Stage.RELEASED or self.lot.state is not Stage.RELEASED:
            return
        assert (signed.root, signed.size) == (before.root, len(before.members))
        self.at_release = before
        for member in before.members:
            was = self.items[member.item]
            turn = review.released(was, self.lot.by)
            if turn is not None:
                assert turn.effect is Effect.APPLIED, "whoever may release the batch may release each of its members"
                self._becomes(turn)

    def _becomes(self, turn: review.Turn) -> None:
        name = turn.review.item
        self.items[name] = turn.review
        if turn.deed is Deed.EXECUTE:
            assert name not in self.ran
            self.ran.add(name)
        was = self.lot.state
        self.lot = batch.followed(self.lot, turn.review)
        if self.lot.state is not was:
            self._full()

    def _full(self) -> None:
        """Look at everything, if that is what the batch has come to."""
        if self.lot.state is not Stage.FULL:
            return
        for member in self.lot.members:
            turn = review.full(self.items[member.item], POLICY, self.now_ms)
            if turn is not None:
                self._becomes(turn)

    # what holds

    @invariant()
    def nothing_is_released_before_all_that_was_drawn_or_flagged_is_judged_and_within_plan(self) -> None:
        before = self.at_release
        assert (self.lot.state is Stage.RELEASED) == (before is not None)
        if before is None:
            return
        assert before.state is Stage.READY
        assert {*before.drawn, *self.flagged} <= {*self.decided}
        rejected = [name for name in before.drawn if self.decided[name] == "reject"]
        assert before.accept is not None
        assert len(rejected) == before.bad <= before.accept
        assert BARRED not in self.lot.by
        assert len(set(self.lot.by)) >= max(self.items[member.item].needs[0].people for member in before.members)

    @invariant()
    def what_a_person_found_bad_never_runs(self) -> None:
        assert not {name for name in self.ran if self.decided.get(name) == "reject"}

    @invariant()
    def nothing_runs_but_by_a_persons_word_on_it_or_on_its_batch(self) -> None:
        for name in self.ran:
            assert self.items[name].by
            assert self.decided.get(name) == "approve" or self.lot.state is Stage.RELEASED
            assert name not in self.flagged or name in self.decided

    @invariant()
    def one_error_too_many_is_full_review(self) -> None:
        if self.lot.accept is not None and self.lot.bad > self.lot.accept:
            assert self.lot.state is Stage.FULL

    @invariant()
    def an_end_is_an_end(self) -> None:
        if self.lot.ended:
            assert after_time(self.lot, self.now_ms + 100 * DAY) is self.lot
            assert complete(self.lot) is self.lot
            assert judged(self.lot, list(self.items), bad=1) is self.lot
            assert all(batch.lapsed(self.lot, name) is self.lot for name in self.items)

    @invariant()
    def no_more_than_wanted(self) -> None:
        indexes = [*(member.index for member in self.lot.members), *self.lot.beside]
        assert len(set(indexes)) == len(indexes) <= WANTED


TestBatches = Batches.TestCase
TestBatches.settings = settings(max_examples=150, stateful_step_count=20, deadline=None)
