"""What the example policy answers, case by case, and what each answer says of its reasons."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.events import Level, Outcome
from hitl_stream.core.history import NOTHING, recall
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import UNSCORED, Approval, recommends, route, unrouted
from support.make import (
    FAULT,
    NOW_MS,
    change,
    compiled,
    decide,
    first_line,
    make_action,
    make_policy,
    make_window,
    post,
    queues,
    rules,
)

EXECUTE, REVIEW, ESCALATE, REFUSE = Outcome.EXECUTE, Outcome.REVIEW, Outcome.ESCALATE, Outcome.REFUSE
MOVE: dict[str, Any] = {"type": "budget.reallocate"}


def budget(before: Any, after: Any, **parts: Any) -> dict[str, Any]:
    return change(before, after, field="daily_budget", **parts)


def move(percent: int) -> dict[str, Any]:
    legs = [budget("100.00", f"{100 - percent}.00"), budget("100.00", f"{100 + percent}.00", campaign="cmp-311")]
    return {**MOVE, "changes": legs}


@pytest.mark.parametrize(
    ("parts", "outcome", "fired", "asked"),
    [
        ({}, EXECUTE, [], []),
        # sizes
        ({"changes": [change("1.00", "1.20")]}, EXECUTE, [], []),
        ({"changes": [change("1.00", "1.21")]}, REVIEW, ["class.auto_max_change"], ["trading"]),
        ({"changes": [change("1.00", "0.79")]}, REVIEW, ["class.auto_max_change"], ["trading"]),
        ({"changes": [change("0", "1")]}, ESCALATE, ["magnitude.undefined"], ["manager"]),
        ({"changes": [change(None, "1")]}, ESCALATE, ["magnitude.undefined", "amount.undefined"], ["manager"]),
        ({"changes": [change("on", "off")]}, ESCALATE, ["magnitude.undefined", "amount.undefined"], ["manager"]),
        ({"changes": []}, ESCALATE, ["magnitude.undefined"], ["manager"]),
        ({"changes": [change("100", "105.01")]}, REVIEW, ["class.auto_max_amount"], ["trading"]),
        ({"changes": [change("100", "105.00")]}, EXECUTE, [], []),
        ({"changes": [change(unit=None)]}, ESCALATE, ["amount.undefined"], ["manager"]),
        # confidence
        ({"confidence": 0.60}, EXECUTE, [], []),
        ({"confidence": "0.6"}, EXECUTE, [], []),
        ({"confidence": 1}, EXECUTE, [], []),
        ({"confidence": 0.9999999998231234}, EXECUTE, [], []),
        ({"confidence": 0.9999999999999998}, EXECUTE, [], []),
        ({"confidence": 0.599}, REVIEW, ["class.auto_min_confidence"], ["trading"]),
        ({"confidence": "0.59999999999999999"}, REVIEW, ["class.auto_min_confidence"], ["trading"]),
        ({"confidence": 0}, REVIEW, ["class.auto_min_confidence"], ["trading"]),
        ({"confidence": ...}, ESCALATE, ["missing.confidence"], ["manager"]),
        ({"confidence": 1.0001}, ESCALATE, ["confidence.undefined"], ["manager"]),
        ({"confidence": 93}, ESCALATE, ["confidence.undefined"], ["manager"]),
        ({"confidence": -0.1}, ESCALATE, ["confidence.undefined"], ["manager"]),
        # moves
        (move(10), EXECUTE, [], []),
        (move(28), REVIEW, ["class.auto_max_change", "class.auto_max_change_per"], ["trading"]),
        ({**move(10), "evidence": []}, ESCALATE, ["missing.evidence"], ["manager"]),
        ({**MOVE, "changes": [budget("100", "90"), budget("100", "109", campaign="c")]}, ESCALATE,
         ["move.unbalanced"], ["manager"]),
        ({**MOVE, "changes": [budget("100", "90"), budget("100", "110", account="acc-9")]}, ESCALATE,
         ["legs.accounts"], ["manager"]),
        # who, what kind
        ({"agent": {"id": "stranger"}}, ESCALATE, ["agent.unknown"], ["manager"]),
        ({"type": "no.such.type"}, ESCALATE, ["class.undefined"], ["triage"]),
        ({"type": "strategy.change"}, REVIEW, ["class.level"], ["manager"]),
        # flags
        ({"flags": ["brand_flag"]}, ESCALATE, ["flag.brand_flag"], ["brand"]),
        ({"flags": ["negative"]}, ESCALATE, ["flag.negative"], ["manager"]),
        ({"flags": ["never heard of"]}, ESCALATE, ["flag.unknown"], ["triage"]),
        ({"flags": ["data_quality", "platform"]}, ESCALATE, ["flag.data_quality", "flag.platform"],
         ["trading", "triage"]),
        ({"flags": ["platform", "platform"]}, ESCALATE, ["flag.platform"], ["trading"]),
        # content
        (post(type="draft.internal"), EXECUTE, [], []),
        (post("We don't.", type="post.publish"), REVIEW, ["class.level", "validator.brand_voice"], ["brand"]),
        (post("clinically proven", type="post.publish"), ESCALATE, ["class.level", "validator.claims"],
         ["brand", "client"]),
        ({**post(type="post.own"), "context": {"campaign_budget": {"amount": "10000.00", "currency": "EUR"}}}, EXECUTE,
         [], []),
        ({**post(type="post.own"), "context": {"campaign_budget": {"amount": "10000.01", "currency": "EUR"}}}, ESCALATE,
         ["rule.big-campaign"], ["manager"]),
        (post(type="post.own"), ESCALATE, ["missing.context.campaign_budget"], ["triage"]),
        ({**post(type="post.own"), "context": {"campaign_budget": "10000.01"}}, ESCALATE,
         ["missing.context.campaign_budget", "rule.big-campaign"], ["manager", "triage"]),
        (first_line(), EXECUTE, [], []),
    ],
)  # fmt: skip
def test_the_example_policy_answers(
    parts: dict[str, Any], outcome: Outcome, fired: list[str], asked: list[str]
) -> None:
    found = decide(make_action(**parts))
    assert (found.outcome, sorted(rules(found)), queues(found)) == (outcome, sorted(fired), sorted(asked))


@pytest.mark.behaviour("B1")
def test_a_reallocation_of_28_percent_says_what_was_seen_and_what_is_allowed() -> None:
    found = decide(make_action(**move(28)))
    (reason,) = [each for each in found.reasons if each.rule == "class.auto_max_change"]
    assert reason == Reason("class.auto_max_change", "0.28", "0.10", REVIEW, "trading")


@pytest.mark.behaviour("B1", "B3")
def test_the_largest_leg_is_the_one_that_is_shown() -> None:
    legs = [budget("100", "115"), budget("100", "71", campaign="b"), budget("100", "114", campaign="c")]
    found = decide(make_action(**MOVE, changes=legs))
    assert found.reasons[0].saw == "0.29"


@pytest.mark.behaviour("C4")
@pytest.mark.parametrize("flag", sorted(make_policy().exceptions))
def test_every_exception_type_has_a_queue_with_an_owner_and_a_time(flag: str) -> None:
    policy = make_policy()
    found = decide(make_action(flags=[flag]))
    assert found.outcome is ESCALATE
    assert policy.exceptions[flag] in queues(found)
    assert all(approval.sla_ms > 0 for approval in found.approvals)
    assert policy.queues[policy.exceptions[flag]].owner


@pytest.mark.behaviour("B4")
@given(st.floats(0, 1), st.integers(-100, 100))
def test_a_strategy_change_always_goes_to_two_people(confidence: float, percent: int) -> None:
    action = make_action(type="strategy.change", confidence=confidence, changes=[change("100", str(100 + percent))])
    found = decide(action)
    assert found.outcome >= REVIEW
    assert Approval("manager", 2, 14_400_000) in found.approvals


def test_an_external_queue_is_asked_for_one_person_even_where_the_class_asks_for_two() -> None:
    policy = make_policy(classes={"post.publish": {"people": 2}})
    found = decide(make_action(**post("clinically proven", type="post.publish")), policy)
    assert {each.queue: each.people for each in found.approvals} == {"brand": 2, "client": 1}


@pytest.mark.behaviour("A1")
def test_level_one_gets_the_route_it_would_have_had_and_is_only_recommended() -> None:
    policy = make_policy(classes={"bid.adjust": {"level": 1}})
    for parts in ({}, {"confidence": 0.1}, {"flags": ["ethical"]}):
        found = decide(make_action(**parts), policy)
        assert found.outcome is decide(make_action(**parts)).outcome
        assert recommends(found)
    assert not recommends(decide(make_action()))


@pytest.mark.behaviour("D8")
def test_an_internal_draft_runs_past_limits_but_not_past_validators() -> None:
    policy = make_policy(gates={"drafts": {"classes": ["draft.internal"], "validators": ["short"], "state": "enforce",
                                           "owner": "o", "from": "2026-11-01"}})  # fmt: skip
    assert decide(make_action(**post("x" * 119, type="draft.internal", confidence=...)), policy).outcome is EXECUTE
    assert decide(make_action(**post("x" * 120, type="draft.internal")), policy).outcome is REVIEW


@pytest.mark.behaviour("D1", "D2")
def test_an_observing_gate_lists_every_failure_and_stops_nothing() -> None:
    found = decide(make_action(**first_line("x" * 120)), verdicts={"tone": 0.1})
    assert found.outcome is EXECUTE
    assert [(each.rule, each.counts) for each in found.reasons] == [
        ("validator.short", False),
        ("validator.names_company", False),
        ("validator.tone", False),
    ]
    assert {each.error for each in found.reasons} == {"compliance", "factual", "tone"}


@pytest.mark.behaviour("D2")
def test_any_failure_under_an_enforced_gate_diverts_and_all_failures_are_listed() -> None:
    policy = make_policy(gates={"first_line": {"state": "enforce"}})
    found = decide(make_action(**first_line("x" * 120)), policy, verdicts={"tone": 0.1})
    assert found.outcome is REVIEW
    assert rules(found) == ["validator.short", "validator.names_company", "validator.tone"]
    assert {each.gate for each in found.reasons} == {"first_line"}


@pytest.mark.parametrize(("state", "outcome"), [("enforce", ESCALATE), ("observe", EXECUTE)])
@pytest.mark.parametrize("verdicts", [{}, {"tone": FAULT}])
def test_a_plugin_without_a_verdict_escalates_unless_its_gate_only_observes(
    state: str, outcome: Outcome, verdicts: Any
) -> None:
    policy = make_policy(gates={"first_line": {"state": state}})
    found = decide(make_action(**first_line()), policy, verdicts=verdicts)
    assert found.outcome is outcome
    assert [each.rule for each in found.reasons] == ["plugin.tone"]


@pytest.mark.behaviour("C8")
def test_a_post_that_breaks_the_style_and_makes_a_claim_asks_the_editor_and_the_client() -> None:
    found = decide(make_action(**post("We don't doubt it: clinically proven.", type="post.publish")))
    assert queues(found) == ["brand", "client"]


# --- cumulative limits ------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("B3")
def test_steps_that_each_pass_do_not_pass_together() -> None:
    window = make_window()
    policy = compiled()
    seen = []
    for step in range(4):
        draft = window.draft()
        draft.at(NOW_MS + step)
        action = make_action(changes=[change("10", "11.90")])
        seen.append(route(action, recall(action, "acme", draft), policy).outcome)
        window.apply(draft)
    assert seen == [EXECUTE, EXECUTE, REVIEW, REVIEW]


@pytest.mark.parametrize(("ratio", "steps"), [("0.05", 10), ("0.10", 5), ("0.02", 25)])
def test_running_sums_may_reach_their_limit_exactly(ratio: str, steps: int) -> None:
    window = make_window()
    draft = window.draft()
    draft.at(NOW_MS)
    action = make_action(changes=[change("1", str(1 + float(ratio)))])
    outcomes = [route(action, recall(action, "acme", draft), compiled()).outcome for _ in range(steps + 1)]
    assert outcomes == [EXECUTE] * steps + [REVIEW]


def test_what_is_undefined_escalates_where_only_a_cumulative_limit_is_set() -> None:
    spec = {"level": 3, "consequence": ["own_content"], "auto_max_change_per": {"1h": "0.5"}}
    policy = make_policy(classes={"t": spec})
    for changes in ([change("0", "5")], [change("on", "off")], []):
        assert decide(make_action(type="t", changes=changes), policy).outcome is ESCALATE


def test_a_class_without_limits_does_not_measure() -> None:
    spec = {"level": 3, "consequence": ["own_content"]}
    assert (
        decide(make_action(type="t", changes=[change("on", "off")]), make_policy(classes={"t": spec})).outcome
        is EXECUTE
    )


# --- the score --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bands", "rule", "outcome", "asked"),
    [
        ({"review": "0.15", "escalate": "0.80"}, None, EXECUTE, []),
        ({"review": "0.14", "escalate": "0.80"}, "band.review", REVIEW, ["trading"]),
        ({"review": "0.10", "escalate": "0.14"}, "band.escalate", ESCALATE, ["manager"]),
    ],
)
def test_a_score_from_a_band_on_is_reviewed_or_escalated(
    bands: dict[str, str], rule: str | None, outcome: Outcome, asked: list[str]
) -> None:
    found = decide(make_action(), make_policy(bands=bands))
    assert 0.14 <= found.score.total < 0.15
    assert (found.outcome, rules(found), queues(found)) == (outcome, [rule] if rule else [], asked)


def test_what_is_not_admitted_is_never_scored_and_asks_nobody() -> None:
    reason = Reason("admission.late", "x", None, REFUSE)
    found = unrouted(compiled().of("bid.adjust"), reason)
    assert (found.outcome, found.reasons, found.approvals, found.score) == (REFUSE, (reason,), (), UNSCORED)


def test_an_action_without_a_past_is_routed_by_itself() -> None:
    action = make_action(**post(type="draft.internal"))
    assert route(action, NOTHING, compiled()).cls.level is Level.LOG


# --- ten thousand bids ------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("B5")
def test_ten_thousand_in_limit_bids_make_no_review_item() -> None:
    window, policy = make_window(), compiled()
    outcomes = set()
    for batch in range(100):
        draft = window.draft()
        draft.at(NOW_MS + batch * 30_000)
        for item in range(100):
            number = batch * 100 + item
            step = (number * 7919 % 401 - 200) / 1000  # from −20 % to +20 %
            legs = [change("1.000", f"{1 + step:.3f}", account=f"a{number % 50}", campaign=f"c{number}")]
            action = make_action(action_id=f"b-{number}", changes=legs, confidence=0.6 + number % 40 / 100)
            outcomes.add(route(action, recall(action, "acme", draft), policy).outcome)
        window.apply(draft)
    assert outcomes == {EXECUTE}


@given(st.sampled_from(sorted(make_policy().classes)), st.data())
def test_nothing_a_publisher_writes_makes_routing_raise(kind: str, data: st.DataObject) -> None:
    number = st.one_of(
        st.none(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["0", "1e99", "1e-99", "-1", "0." + "1" * 30, "9" * 30, "text", True]),
    )
    sides = data.draw(st.lists(st.tuples(number, number, st.sampled_from(["EUR", "USD", "CHF", None])), max_size=3))
    changes = [
        change(before, after, unit=unit, field=data.draw(st.sampled_from(["bid", "budget"])))
        for before, after, unit in sides
    ]
    action = make_action(type=kind, changes=changes, confidence=data.draw(st.none() | st.floats(-2, 2)))
    found = decide(action)
    assert found.outcome in (EXECUTE, REVIEW, ESCALATE)
    assert 0 <= found.score.total <= 1 + 1e-9
