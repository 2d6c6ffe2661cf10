"""People decide, exactly once, on the bytes that they saw: bytes in, bytes out through a router's and a desk's step."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hitl_stream.core.events import Effect, Mode, Purpose, Refusal, Rejection
from hitl_stream.core.review import State
from hitl_stream.roles.desk import PURPOSES
from hitl_stream.roles.desk_state import KEEP_ENDED_MS
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.executed import exceptional_value
from hitl_stream.wire.items import item_id
from hitl_stream.wire.records import ACTION_MARK, decode_approved, decode_closed, decode_held
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, sealer
from hitl_stream.wire.signing import new_signing_key
from support.desk import ANA, CLUSTER, EXECUTOR_KEY, MINUTE, ROBOT, SECOND, Workplace
from support.make import DESK_KEY, NOW_MS, SEAL_KEY, FakeRecord, action_bytes, change, iso, make_policy, post

BIG = {"changes": [change("1.00", "1.30")]}
"""A bid that goes up by 30 %: over its limit of 20 %, so that a trader is asked, within 15 minutes."""
TWO = make_policy(queues={"manager": {"roles": ["marketing_manager"], "next": None}})


@pytest.fixture
def work() -> Workplace:
    return Workplace()


def asked(work: Workplace, **parts: Any) -> str:
    """Propose an action that asks people, and return its item."""
    (item,) = work.opened(action_bytes(**{**BIG, **parts}))
    return item


# --- opening ----------------------------------------------------------------------------------------------------------


def test_what_asks_people_becomes_an_item_with_the_routers_bytes_in_it(work: Workplace):
    value = action_bytes(**BIG)
    (item,) = work.opened(value)
    card = work.card(item)
    assert card.raw == value
    assert card.state.queue == "trading"
    assert card.state.approvals[0].people == 1
    assert card.state.source == "hitl.review/0/0"
    assert card.state.not_ == ("dana",), "the agent's owner may not decide"
    assert work.left["reviews"][0].value.endswith(ACTION_MARK + value + b"}")


def test_an_item_has_the_id_that_only_the_desks_key_makes_of_its_place(work: Workplace):
    first, second = asked(work, action_id="a"), asked(work, action_id="b")
    assert first != second
    assert len(first) == len(second) == 16
    again = Workplace()
    assert asked(again, action_id="a") == first, "the same place, the same id: a batch that comes again changes nothing"


@pytest.mark.parametrize(
    ("what", "headers"),
    [
        ("nobody's seal", lambda headers: [(n, b"r1:AAAA" if n == SEAL_HEADER else v) for n, v in headers]),
        ("no seal", lambda headers: [(n, v) for n, v in headers if n != SEAL_HEADER]),
        ("another type", lambda headers: [(n, b"fact/1" if n == TYPE_HEADER else v) for n, v in headers]),
    ],
)
def test_a_decision_that_no_router_sealed_is_a_dead_letter(work: Workplace, what: str, headers: Any):
    work.propose(action_bytes(**BIG))
    work.waiting = [replace(work.waiting[0], headers=headers(work.waiting[0].headers))]
    work.work()
    assert work.open_items() == [], what
    assert len(work.left["dlq"]) == 1


def test_a_copy_for_audit_in_the_place_of_a_decision_is_a_dead_letter(work: Workplace):
    work.propose(action_bytes(**BIG))
    asked_for = work.waiting[0]
    value = asked_for.value.replace(b'"purpose":"decide"', b'"purpose":"audit"')
    assert value != asked_for.value
    head = records.head_of(value)
    headers = [(TYPE_HEADER, b"decision/1"), (SEAL_HEADER, sealer(SEAL_KEY, "hitl.review", records.DECISION)(head))]
    work.waiting = [replace(asked_for, value=value, headers=headers)]
    work.work()
    assert work.open_items() == []
    assert dict(work.left["dlq"][0].headers)["hitl-error"] == b"unknown_type"


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A2", "B2", "B7")
def test_an_approval_lets_the_original_bytes_run_with_who_approved_them(work: Workplace):
    value = action_bytes(**BIG)
    (item,) = work.opened(value)
    work.now_ms += 4 * MINUTE
    work.say(item, by="tess")
    work.work()
    (output,) = work.left["execute"]
    approved = decode_approved(output.value)
    assert bytes(approved.action) == value
    assert approved.by == ("tess",)
    assert approved.outcome == "EXECUTE"
    assert len(approved.verdicts) == 1
    (decision,) = work.take("decisions")
    assert decision["latency_s"] == 240.0
    assert (decision["by"], decision["verdict"], decision["effect"]) == ("tess", "approve", "applied")
    assert decision["action"] == json.loads(value)
    assert work.end(item) == State.APPROVED
    assert len(work.take("observations")) == 1


def test_a_rejection_closes_and_tells_the_agent_why(work: Workplace):
    item = asked(work)
    work.say(item, "reject", code="too_large", note="half of it would do")
    work.work()
    (closed,) = (decode_closed(output.value) for output in work.left["closed"])
    assert (closed.end, closed.why, closed.by, closed.code) == ("rejected", "rejected", ("tess",), "too_large")
    assert closed.note == "half of it would do"
    (learned,) = work.take("feedback")
    assert (learned["verdict"], learned["code"], learned["agent"]["id"]) == ("reject", "too_large", "bidder-7")
    assert not work.left["execute"]


@pytest.mark.behaviour("C5")
def test_a_change_is_a_new_action_by_the_person_and_the_old_one_is_superseded(work: Workplace):
    item = asked(work)
    work.say(item, "change", edits=[("/changes/0/after", "1.10")], code="too_large")
    work.work()
    (written,) = work.left["actions"]
    decoded = decode_bytes(written.value)
    assert isinstance(decoded, Decoded)
    assert decoded.action.action_id == f"act-1~{item}"
    assert decoded.action.changes[0].after == "1.10"
    assert decoded.action.changes[0].before == "1.00"
    (closed,) = (decode_closed(output.value) for output in work.left["closed"])
    assert (closed.end, closed.why) == ("superseded", "changed")
    (learned,) = work.take("feedback")
    assert learned["diff"] == [{"path": "/changes/0/after", "before": "1.30", "after": "1.10"}]
    # Within its limits it runs, at the router that knows the desk's seal; it is the person's, not the agent's.
    record = FakeRecord(written.value, len(work.actions), 0, work.now_ms, written.topic, written.key, written.headers)
    (answer, *_) = work.route(record)
    assert answer.topic == "hitl.execute"
    decision = decode_held(answer.value)
    assert (decision.by, decision.supersedes) == ("tess", "act-1")


def test_what_a_person_proposes_over_a_limit_another_person_must_approve(work: Workplace):
    item = asked(work)
    work.say(item, "change", edits=[("/changes/0/after", "1.90")], code="too_large")
    work.work()
    (written,) = work.left["actions"]
    record = FakeRecord(written.value, len(work.actions), 0, work.now_ms, written.topic, written.key, written.headers)
    work.route(record)
    work.work()
    (second,) = work.open_items()
    assert "tess" in work.review(second).barred
    work.say(second, by="tess")
    work.work()
    assert not work.left["execute"]
    work.say(second, by="theo")
    work.work()
    assert len(work.left["execute"]) == 1


REFUSED = [
    (Refusal.HASH, {"hash": "1" * 64}),
    (Refusal.BARRED, {"by": "dana"}),
    (Refusal.SERVICE, {"by": "robot"}),
    (Refusal.SERVICE, {"by": "console"}),
    (Refusal.ROLE, {"role": "editor"}),
    (Refusal.VIEW, {"view": "2" * 64}),
    (Refusal.PERSON, {"key": ANA, "by": "tess"}),
    (Refusal.PERSON, {"key": ANA, "by": "ana", "role": "senior"}),
    (Refusal.REASON, {"word": "reject", "code": None}),
    (Refusal.REASON, {"word": "reject", "code": "no_such_code"}),
    (Refusal.CHANGE, {"word": "change"}),
    (Refusal.CHANGE, {"word": "change", "edits": [("/changes/0/after", "1.30")]}),
    (Refusal.CHANGE, {"word": "change", "edits": [("/agent/id", "other")]}),
    (Refusal.CHANGE, {"word": "change", "edits": [("/changes/0/after", True)]}),
]


@pytest.mark.parametrize(("why", "said"), REFUSED, ids=[f"{why}-{n}" for n, (why, _) in enumerate(REFUSED)])
def test_a_verdict_that_may_not_count_is_refused_by_name_and_written_down(
    work: Workplace, why: Refusal, said: dict[str, Any]
):
    item = asked(work)
    work.say(item, **said)
    work.work()
    (decision,) = work.take("decisions")
    assert (decision["effect"], decision["why"]) == ("refused", why)
    assert work.tally.refused == {why: 1}
    assert not work.left["execute"]
    assert not work.left["closed"]
    assert work.review(item).state is State.OPEN


def test_a_verdict_on_an_item_that_nobody_knows_is_refused_and_written_down(work: Workplace):
    work.say("nosuchitem234567")
    work.work()
    (decision,) = work.take("decisions")
    assert (decision["effect"], decision["why"], decision["action"]) == ("refused", "unknown_item", None)


def test_a_verdict_that_comes_before_its_item_is_refused_and_does_not_wait_for_it(work: Workplace):
    item = item_id(DESK_KEY, "hitl.review", 0, 0)
    work.say(item, hash=_hash_of(action_bytes(**BIG)))
    work.now_ms += 1
    assert asked(work) == item
    assert work.take("decisions")[0]["why"] == "unknown_item"
    assert work.review(item).state is State.OPEN
    assert not work.left["execute"]


def _hash_of(value: bytes) -> str:
    decoded = decode_bytes(value)
    assert isinstance(decoded, Decoded)
    return decoded.hash


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (Rejection.EXPIRED, {"issued_s": (NOW_MS - 60 * MINUTE) // 1000}),
        (Rejection.AUDIENCE, {"aud": "another cluster"}),
        (Rejection.UNKNOWN_KEY, {"key": new_signing_key("mallory-1", "mallory")}),
        (Rejection.TYPE, {"key": ROBOT}),
    ],
)
def test_a_verdict_that_nobody_vouches_for_is_a_dead_letter_and_counted(
    work: Workplace, why: Rejection, said: dict[str, Any]
):
    item = asked(work)
    work.say(item, **said)
    work.work()
    assert work.tally.rejected == {why: 1}
    assert len(work.left["dlq"]) == 1
    assert not work.left["decisions"]
    assert work.review(item).state is State.OPEN


def test_the_same_verdict_once_more_changes_nothing_and_is_only_counted(work: Workplace):
    item = asked(work)
    value = work.verdict(item)
    work.append("verdicts", value)
    work.append("verdicts", value)
    work.work()
    work.append("verdicts", value)
    work.work()
    assert len(work.left["execute"]) == 1
    assert len(work.left["decisions"]) == 1
    assert work.tally.repeated == 1


def test_of_two_verdicts_the_first_by_log_order_wins_and_the_other_is_a_conflict(work: Workplace):
    item = asked(work)
    work.say(item, "reject", by="theo")
    work.say(item, "approve", by="tess")
    work.work()
    assert [one["effect"] for one in work.take("decisions")] == ["applied", "conflict"]
    assert not work.left["execute"]


@pytest.mark.behaviour("E1", "E3")
def test_silence_never_approves(work: Workplace):
    item = asked(work, expires_at=iso(NOW_MS + 24 * 60 * MINUTE))
    for _ in range(60):
        work.later(15 * MINUTE)
    assert work.end(item) == State.EXPIRED
    assert not work.left["execute"]
    (closed,) = (decode_closed(output.value) for output in work.left["closed"])
    assert closed.end == "expired"


def test_half_of_its_time_an_item_goes_to_the_next_queue(work: Workplace):
    item = asked(work)
    work.later(7 * MINUTE + 29 * SECOND)
    assert work.review(item).needs[0].queue == "trading"
    work.later(2 * SECOND)
    assert work.review(item).needs[0].queue == "manager"
    assert work.card(item).state.queue == "manager"
    work.say(item, by="tess", role="trader")
    work.work()
    assert work.take("decisions")[0]["why"] == Refusal.ROLE
    work.say(item, by="mia", role="marketing_manager")
    work.work()
    assert len(work.left["execute"]) == 1


def test_an_item_that_goes_nowhere_else_is_its_owners_concern_at_half_of_its_time_and_once(work: Workplace):
    item = asked(work)
    work.say(item, "escalate")
    work.work()
    assert work.later(120 * MINUTE - SECOND) == []
    assert work.later(2 * SECOND)
    assert work.tally.lapsed == {("manager", "marketing"): 1}
    assert not work.tally.timed, "it was not escalated"
    assert (work.card(item).state.queue, work.review(item).needs[0].escalate_ms) == ("manager", None)
    assert work.later(60 * MINUTE) == []


def test_a_person_may_escalate_at_once(work: Workplace):
    item = asked(work)
    work.say(item, "escalate")
    work.work()
    assert work.review(item).needs[0].queue == "manager"
    assert work.take("decisions")[0]["effect"] == "applied"


def test_a_verdict_given_in_time_counts_however_late_the_desk_reads_it(work: Workplace):
    item = asked(work)
    work.now_ms += 5 * MINUTE
    work.say(item)
    # The desk is down for sixteen minutes; when it is back, the item's time is over.
    work.now_ms += 16 * MINUTE
    work.reopen()
    work.later(0)
    assert work.end(item) == State.APPROVED
    assert len(work.left["execute"]) == 1


def test_a_verdict_after_the_time_is_over_is_late_although_no_timer_has_run(work: Workplace):
    policy = make_policy(queues={"trading": {"next": None}})
    work = Workplace(policy)
    item = asked(work)
    work.now_ms += 15 * MINUTE + 1
    work.say(item)
    work.work()
    assert work.take("decisions")[0]["effect"] == "late"
    assert not work.left["execute"]
    work.later(1)
    assert work.end(item) == State.EXPIRED


@pytest.mark.behaviour("C8")
def test_a_post_with_a_style_and_a_claim_problem_waits_for_editor_and_client(work: Workplace):
    text = "It isn't magic. It is clinically proven."
    said = {**post(text), "type": "post.publish", "agent": {"id": "copy-2"}, "expires_at": iso(NOW_MS + 2 * 86_400_000)}
    (item,) = work.opened(action_bytes(**said))
    assert {need.queue for need in work.review(item).needs} == {"brand", "client"}
    work.say(item, by="eve", role="editor")
    work.work()
    assert work.take("decisions")[0]["effect"] == "waiting"
    assert not work.left["execute"]
    work.say(item, by="acme-cleo", role="client")
    work.work()
    (approved,) = (decode_approved(output.value) for output in work.left["execute"])
    assert approved.by == ("eve", "acme-cleo")
    assert len(approved.verdicts) == 2


@pytest.mark.parametrize(("first", "second"), [("editor", "client"), ("client", "editor")])
def test_either_rejection_closes_it(first: str, second: str):
    work = Workplace()
    text = "It isn't magic. It is clinically proven."
    said = {**post(text), "type": "post.publish", "agent": {"id": "copy-2"}, "expires_at": iso(NOW_MS + 2 * 86_400_000)}
    (item,) = work.opened(action_bytes(**said))
    work.say(item, by="one", role=first)
    work.say(item, "reject", by="two", role=second)
    work.work()
    assert work.end(item) == State.REJECTED
    assert not work.left["execute"]


def test_two_people_means_two(work: Workplace):
    policy = make_policy(classes={"bid.adjust": {"people": 2}})
    work = Workplace(policy)
    item = asked(work)
    work.say(item, by="tess")
    work.say(item, by="tess")
    work.work()
    assert [one["why"] or one["effect"] for one in work.take("decisions")] == ["waiting", Refusal.SAME_PERSON]
    work.say(item, by="theo")
    work.work()
    assert len(work.left["execute"]) == 1


def test_a_batch_whose_transaction_aborts_is_decided_again_to_the_same_bytes(work: Workplace):
    item = asked(work)
    work.say(item)
    first = work.work(abort=True)
    assert work.review(item).state is State.OPEN
    assert work.work() == first


# --- kill switches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "held"), [(Mode.HALT, True), (Mode.REDUCE_ONLY, True), (Mode.REVIEW_ALL, False)])
def test_an_approval_under_a_switch_is_parked_as_the_router_had_decided(mode: Mode, held: bool):
    work = Workplace()
    item = asked(work)
    epoch = work.engage("campaign:cmp-204", mode=mode)
    work.say(item)
    work.work()
    if not held:
        assert len(work.left["execute"]) == 1
        return
    assert not work.left["execute"]
    (output,) = work.left["held"]
    parked = decode_held(output.value)
    assert parked.parked is not None
    assert (parked.parked.by, parked.parked.switches) == ("desk", (epoch,))
    assert (parked.outcome, parked.by) == ("REVIEW", None), (
        "the router's own decision, so that everybody is asked again"
    )
    assert work.end(item) == State.PARKED


def test_while_a_switch_covers_an_item_its_clock_stands_and_its_deadline_does_not():
    policy = make_policy(queues={"trading": {"next": None}})
    work = Workplace(policy)
    item = asked(work, expires_at=iso(NOW_MS + 60 * MINUTE))
    work.later(10 * MINUTE)
    epoch = work.engage("campaign:cmp-204")
    work.later(20 * MINUTE)
    assert work.review(item).state is State.OPEN, "ten of its fifteen minutes are over, not thirty"
    work.release(epoch)
    work.later(4 * MINUTE)
    assert work.review(item).state is State.OPEN
    work.later(2 * MINUTE)
    assert work.end(item) == State.EXPIRED

    other = asked(work, action_id="act-2", proposed_at=iso(work.now_ms), expires_at=iso(work.now_ms + 5 * MINUTE))
    work.engage("campaign:cmp-204")
    work.later(6 * MINUTE)
    assert work.end(other) == State.EXPIRED


# --- what else happens ------------------------------------------------------------------------------------------------


def result_of(work: Workplace, action_id: str, offset: int, status: str = "executed") -> None:
    """Let the executor report that an action on the same field was carried out; it stood at `offset` on `actions`."""
    raw = action_bytes(action_id=action_id)
    decoded = decode_bytes(raw)
    assert isinstance(decoded, Decoded)
    result = records.Result(
        id=f"hitl.actions/0/{offset}#0", tenant="acme", action_id=action_id, hash=decoded.hash, type="bid.adjust",
        level=3, agent=decoded.action.agent, entity=decoded.action.changes[0].entity, outcome="EXECUTE",
        policy="d" * 64, moment=iso(work.now_ms), status=status, key="k", action=records.Raw(raw),
    )  # fmt: skip
    value = records.encode(result)
    seal = sealer(EXECUTOR_KEY, "hitl.results", records.RESULT)(records.head_of(value))
    work.append("results", value, b"acme/acc-17/cmp-204", [(TYPE_HEADER, b"result/1"), (SEAL_HEADER, seal)])


def test_an_executed_action_makes_older_open_items_on_its_field_stale(work: Workplace):
    old, other = asked(work), asked(work, action_id="act-2", changes=[change("1.00", "1.30", campaign="cmp-9")])
    result_of(work, "act-3", 7)
    work.work()
    assert work.end(old) == State.STALE
    assert work.review(other).state is State.OPEN
    (closed,) = (decode_closed(output.value) for output in work.left["closed"])
    assert (closed.end, closed.action_id) == ("stale", "act-1")


def test_neither_an_older_action_nor_a_failed_one_makes_an_item_stale(work: Workplace):
    work.opened(action_bytes(action_id="act-0"))
    item = asked(work)
    result_of(work, "act-0", 0)
    result_of(work, "act-3", 7, "failed")
    work.work()
    assert work.review(item).state is State.OPEN


@pytest.mark.behaviour("D6")
def test_an_opinion_of_a_machine_is_noted_and_satisfies_nothing(work: Workplace):
    item = asked(work)
    opinion = {"tenant": "acme", "action_id": "act-1", "hash": work.review(item).hash, "reviewer": "critic",
               "verdict": "approve", "confidence": 0.99}  # fmt: skip
    work.append("opinions", json.dumps(opinion).encode())
    work.work()
    assert work.card(item).state.opinions[0].reviewer == "critic"
    assert work.review(item).state is State.OPEN
    assert not work.left["execute"]


def test_a_skip_is_an_observation_and_changes_nothing(work: Workplace):
    item = asked(work)
    work.skip(item)
    work.work()
    (seen,) = work.take("observations")
    assert (seen["verdict"], seen["reviewer"], seen["dwell_s"]) == ("skip", "tess", 5.0)
    assert work.review(item).state is State.OPEN


def test_an_ended_item_is_forgotten_after_a_day(work: Workplace):
    item = asked(work)
    work.say(item)
    work.work()
    work.later(KEEP_ENDED_MS)
    assert item not in work.state.items
    assert work.left["reviews"][-1].value is None
    assert work.state.next_timer_ms() is None


@pytest.mark.behaviour("E1")
def test_a_desk_that_opens_anew_knows_what_the_old_one_knew(work: Workplace):
    policy = make_policy(classes={"bid.adjust": {"people": 2}})
    work = Workplace(policy)
    waiting, ended = asked(work), asked(work, action_id="act-2")
    value = work.verdict(waiting)
    work.append("verdicts", value)
    work.say(ended, "reject")
    work.work()
    before = dict(work.state.items)
    work.reopen()
    assert work.state.items == before
    work.append("verdicts", value)
    work.work()
    assert work.tally.repeated == 1, "also what it has heard before"
    work.say(waiting, by="theo")
    work.work()
    (approved,) = (decode_approved(output.value) for output in work.left["execute"])
    assert approved.by == ("tess", "theo")


def test_an_item_that_somebody_else_wrote_into_the_changelog_does_not_come_back(work: Workplace):
    item = asked(work)
    record = work.changelog[item.encode()]
    work.changelog[item.encode()] = replace(record, value=record.value.replace(b'"trading"', b'"support"'))
    work.reopen()
    assert work.open_items() == []


@pytest.mark.behaviour("E1")
@pytest.mark.parametrize("effect", list(Effect))
def test_no_effect_but_applied_lets_anything_run(effect: Effect, work: Workplace):
    """Each way that a verdict can end, and what it leaves on `execute`."""
    said: dict[Effect, list[dict[str, Any]]] = {
        Effect.APPLIED: [{}],
        Effect.WAITING: [{"by": "tess"}],
        Effect.CONFLICT: [{"word": "reject", "by": "theo"}, {}],
        Effect.LATE: [{}],
        Effect.REFUSED: [{"role": "editor"}],
    }
    people = 2 if effect is Effect.WAITING else 1
    work = Workplace(make_policy(classes={"bid.adjust": {"people": people}}, queues={"trading": {"next": None}}))
    item = asked(work)
    work.now_ms += 20 * MINUTE if effect is Effect.LATE else 0
    for one in said[effect]:
        work.say(item, **one)
    work.work()
    assert work.take("decisions")[-1]["effect"] == effect
    assert len(work.left["execute"]) == (effect is Effect.APPLIED)


def test_every_purpose_is_asked_for_by_one_role_only():
    whose = {purpose: role for (_, role), purposes in PURPOSES.items() for purpose in purposes}
    asked_by = [(purpose, role) for (_, role), purposes in PURPOSES.items() for purpose in purposes]
    assert set(whose) == set(Purpose)
    assert set(asked_by) == set(whose.items())


def test_the_cluster_is_asked_for_when_a_verdict_comes(work: Workplace):
    assert work.desk.audience() == CLUSTER


# --- batches ----------------------------------------------------------------------------------------------------------

DAY = 86_400_000
LONG = {"expires_at": iso(NOW_MS + 3 * DAY)}


def caption(number: int, size: int, text: str = "Fresh bread, every morning.", **parts: Any) -> bytes:
    """Return one post of a batch of `size`."""
    batch = {"id": "b-7", "size": size, "index": number}
    said = {**post(text), "type": "post.publish", "agent": {"id": "copy-2"}, "batch": batch, **LONG, **parts}
    return action_bytes(action_id=f"post-{number}", **said)


def in_state(work: Workplace, state: State) -> list[str]:
    return [item for item in work.open_items() if work.review(item).state is state]


def gathered(work: Workplace, size: int, flagged: int = 0) -> None:
    """Let a batch of that size come, of which the first ones are flagged."""
    texts = ["It isn't bread." if number < flagged else "Fresh bread, every morning." for number in range(size)]
    work.propose(*(caption(number, size, text) for number, text in enumerate(texts)))
    work.work()


@pytest.mark.behaviour("E5", "C7")
def test_of_a_batch_the_flagged_ones_and_a_sample_are_judged_and_one_person_releases_the_rest():
    work = Workplace()
    gathered(work, 1_500, flagged=12)
    sample = [item for item in in_state(work, State.OPEN) if work.review(item).batch is not None]
    single = [item for item in in_state(work, State.OPEN) if work.review(item).batch is None]
    assert (len(single), len(sample), len(in_state(work, State.LOT))) == (12, 125, 1_488 - 125)
    lot = work.lot("acme/acc-17/b-7")
    work.release_batch(lot, by="eve", role="editor")
    work.work()
    assert work.take("decisions")[0]["why"] == Refusal.SAMPLE, "nobody has looked yet"
    for item in (*single, *sample):
        work.say(item, by="eve", role="editor")
    work.work()
    assert len(work.left["execute"]) == 12, "only what was decided singly"
    work.release_batch(lot, by="eve", role="editor")
    work.work()
    work.later(0)
    approved = [decode_approved(output.value) for output in work.left["execute"]]
    assert len({one.id for one in approved}) == len(approved) == 1_500
    proofs = [one.proof for one in approved if one.proof is not None]
    assert sorted(proof.index for proof in proofs) == list(range(1_488))
    assert not in_state(work, State.LOT)


def test_with_one_error_more_than_allowed_everything_is_looked_at():
    work = Workplace()
    gathered(work, 1_500)
    sample = in_state(work, State.OPEN)
    for item in sample[:3]:
        work.say(item, "reject", by="eve", role="editor")
    for item in sample[3:-1]:
        work.say(item, by="eve", role="editor")
    work.work()
    assert not work.left["execute"]
    work.say(sample[-1], "reject", by="eve", role="editor")
    work.work()
    assert len(work.left["execute"]) == 125 - 4, "what was judged good has its own approval"
    assert len(in_state(work, State.OPEN)) == 1_500 - 125
    assert not in_state(work, State.LOT)


def test_a_batch_no_larger_than_its_sample_is_looked_at_whole(work: Workplace):
    gathered(work, 3)
    opened = in_state(work, State.OPEN)
    assert len(opened) == 3
    work.say(opened[0], by="eve", role="editor")
    work.work()
    assert len(work.left["execute"]) == 1


def test_a_batch_that_never_fills_is_completed_when_its_time_is_over(work: Workplace):
    work.propose(*(caption(number, 30) for number in range(20)))
    work.work()
    assert len(in_state(work, State.GATHERING)) == 20
    work.later(DAY)
    assert len(in_state(work, State.OPEN)) == 13, "level II, AQL 1.0: 13 of 20"
    assert len(in_state(work, State.LOT)) == 7


def test_a_desk_that_opens_anew_goes_on_with_its_batches():
    work = Workplace()
    work.propose(*(caption(number, 40) for number in range(25)))
    work.work()
    work.reopen()
    work.propose(*(caption(number, 40) for number in range(25, 40)))
    work.work()
    sample = in_state(work, State.OPEN)
    for item in sample[: len(sample) // 2]:
        work.say(item, by="eve", role="editor")
    work.work()
    work.reopen()
    for item in sample[len(sample) // 2 :]:
        work.say(item, by="eve", role="editor")
    work.work()
    work.reopen()
    work.release_batch(work.lot("acme/acc-17/b-7"), by="eve", role="editor")
    work.work()
    work.reopen()
    work.later(0)
    assert len({decode_approved(output.value).id for output in work.left["execute"]}) == 40
    assert len(work.left["execute"]) == 40


def test_a_release_of_another_root_is_refused(work: Workplace):
    gathered(work, 40)
    for item in in_state(work, State.OPEN):
        work.say(item, by="eve", role="editor")
    work.work()
    work.release_batch(work.lot("acme/acc-17/b-7"), by="eve", role="editor", root="3" * 64)
    work.work()
    assert work.take("decisions")[-1]["why"] == Refusal.ROOT
    assert not work.left["execute"]


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E6", "E8")
def test_a_preference_is_written_down_once_and_runs_nothing(work: Workplace):
    pair = {"pair": "p-9", "tenant": "acme", "prompt": "A headline", "a": "Bread!", "b": "Fresh bread"}
    work.follow("pairs", json.dumps(pair).encode(), b"p-9")
    work.prefer("p-9", "left", left="b")
    work.prefer("p-9", "right", left="b", by="lou")
    work.work()
    (written,) = work.take("preferences")
    assert (written["chosen"], written["rejected"], written["by"]) == ("Fresh bread", "Bread!", "lea")
    assert not work.left["execute"]
    assert work.tally.refused == {Refusal.REPLAYED: 1}


@pytest.mark.parametrize(("choice", "chosen"), [("tie", None), ("both_bad", None), ("right", "Bread!")])
def test_a_tie_and_both_bad_choose_nothing(choice: str, chosen: str | None, work: Workplace):
    pair = {"pair": "p-9", "tenant": "acme", "prompt": "A headline", "a": "Bread!", "b": "Fresh bread"}
    work.follow("pairs", json.dumps(pair).encode(), b"p-9")
    work.prefer("p-9", choice, left="b")
    work.work()
    assert work.take("preferences")[0]["chosen"] == chosen


def test_only_labellers_compare_pairs(work: Workplace):
    pair = {"pair": "p-9", "tenant": "acme", "prompt": "A headline", "a": "Bread!", "b": "Fresh bread"}
    work.follow("pairs", json.dumps(pair).encode(), b"p-9")
    work.prefer("p-9", "left", left="b", role="trader")
    work.work()
    assert not work.left["preferences"]
    assert work.tally.refused == {Refusal.ROLE: 1}


# --- exceptions -------------------------------------------------------------------------------------------------------


def trouble(work: Workplace) -> str:
    """Let an executor hand over what the platform refused, and return its item."""
    (answer,) = work.propose(action_bytes())
    decided = read_decided(answer.topic, answer.value, answer.headers, {SEAL_KEY.key_id: SEAL_KEY})
    assert isinstance(decided, Decided)
    value = exceptional_value(decided.decision, decided.decoded.raw, "budget is locked", "trading", NOW_MS + 60_000)
    seal = sealer(EXECUTOR_KEY, "hitl.escalation", records.DECISION)(records.head_of(value))
    headers = [(TYPE_HEADER, b"decision/1"), (SEAL_HEADER, seal)]
    work.append("escalation", value, b"acme/acc-17/cmp-204", headers)
    work.work()
    (item,) = work.open_items()
    return item


@pytest.mark.behaviour("C4")
def test_what_a_platform_refused_is_work_for_people_and_never_released_as_it_was(work: Workplace):
    item = trouble(work)
    review = work.review(item)
    assert (review.purpose, review.needs[0].queue) == (Purpose.EXCEPTION, "trading")
    assert work.card(item).state.exception == "platform"
    work.say(item)
    work.work()
    assert not work.left["execute"]
    (written,) = work.left["actions"]
    decoded = decode_bytes(written.value)
    assert isinstance(decoded, Decoded)
    assert decoded.action.action_id == f"act-1~{item}"
    assert not work.left["closed"], "it had its end at the executor"


def test_rejecting_an_exception_leaves_it_as_it_ended(work: Workplace):
    item = trouble(work)
    work.say(item, "reject")
    work.work()
    assert work.end(item) == State.REJECTED
    assert not work.left["actions"]
    assert not work.left["closed"]


def test_a_router_cannot_open_an_exception_nor_an_executor_a_decision(work: Workplace):
    work.propose(action_bytes(**BIG))
    asked_for = work.waiting.pop()
    assert asked_for.value is not None
    head = records.head_of(asked_for.value)
    seal = sealer(EXECUTOR_KEY, "hitl.escalation", records.DECISION)(head)
    work.append("escalation", asked_for.value, None, [(TYPE_HEADER, b"decision/1"), (SEAL_HEADER, seal)])
    work.work()
    assert work.open_items() == []
    assert len(work.left["dlq"]) == 1
