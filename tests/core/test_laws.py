"""The laws of routing, for any policy and any action.

The strictest answer wins; adding can only make it stricter; order does not matter; what cannot be told is stricter;
who only observes changes nothing.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.action import Action, entity_of
from hitl_stream.core.events import Mode, Outcome
from hitl_stream.core.history import recall
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import Route, route
from hitl_stream.core.switches import OUTCOMES, Switch, Switches, reasons_of, target_of
from support.make import NOW_MS, change, compiled, decide, gate, make_action, make_policy, make_window

KINDS = (
    "bid.adjust",
    "budget.reallocate",
    "post.own",
    "post.publish",
    "firstline.send",
    "draft.internal",
    "email.reply",
)
FIELDS = {"context.n": "number", "context.ok": "flag", "context.tags": "list", "context.sum": "money"}
NO_GATES: dict[str, None] = dict.fromkeys(make_policy().gates)

SPECS = st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True)
MATCHES = st.sampled_from([
    {"context.n": {"over": 3}},
    {"context.n": {"under": 3}, "context.ok": {"is": True}},
    {"context.tags": {"contains": "a"}},
    {"context.sum": {"over": {"EUR": "10"}}},
    {"context.segment": {"not_in": ["smb"]}},
    {"content.text": {"contains": "proven"}},
])  # fmt: skip
QUEUES = st.sampled_from([None, "brand", "manager", "client"])
THENS = st.sampled_from(["review", "escalate"])
RULES = st.lists(st.tuples(SPECS, MATCHES, st.sampled_from(["review", "escalate", "refuse"]), QUEUES), max_size=4).map(
    lambda found: [
        {"id": f"r{place}", "classes": kinds, "match": match, "then": then, **({"queue": queue} if queue else {})}
        for place, (kinds, match, then, queue) in enumerate(found)
    ]
)
VALIDATORS = ("short", "names_company", "tone", "negative", "caption", "brand_voice", "claims")
GATES = st.dictionaries(
    st.sampled_from(["g1", "g2", "g3"]),
    st.builds(
        lambda kinds, names, state, segment: gate(*kinds, validators=names, state=state, segment=segment),
        SPECS,
        st.lists(st.sampled_from(VALIDATORS), min_size=1, max_size=4, unique=True),
        st.sampled_from(["enforce", "observe"]),
        st.sampled_from([{}, {"context.segment": {"in": ["mid-saas"]}}]),
    ),
    max_size=3,
)
MONEY = {"amount": "12", "currency": "USD"}
CONTEXTS = st.fixed_dictionaries(
    {},
    optional={
        "n": st.sampled_from([1, "5", "many", None]),
        "ok": st.sampled_from([True, False, 1]),
        "tags": st.sampled_from([["a"], [], "a"]),
        "sum": st.sampled_from([MONEY, {"amount": "3", "currency": "EUR"}, "12", {}]),
        "segment": st.sampled_from(["mid-saas", "smb", 7]),
        "company": st.sampled_from(["Acme", 5]),
        "campaign_budget": st.just(MONEY),
    },
)
ACTIONS = st.fixed_dictionaries(
    {
        "type": st.sampled_from([*KINDS, "no.such.type"]),
        "agent": st.sampled_from([{"id": "bidder-7"}, {"id": "stranger"}]),
        "changes": st.lists(
            st.builds(change, st.sampled_from(["1", "0", None]), st.sampled_from(["1.1", "1.5", "text"])), max_size=2
        ),
        "confidence": st.sampled_from([0.99, 0.7, 0.1, None, 7]),
        "flags": st.lists(st.sampled_from(["negative", "brand_flag", "unheard"]), max_size=2),
        "context": CONTEXTS,
        "content": st.sampled_from([
            None, {"text": "Hello Acme", "platform": "x"}, {"text": "It isn't clinically proven", "platform": "y"},
        ]),
    }
)  # fmt: skip
VERDICTS = st.fixed_dictionaries({}, optional={"tone": st.floats(0, 1), "negative": st.floats(-1, 1)})


def built(rules: list[dict[str, Any]], gates: dict[str, Any], **parts: Any) -> Policy:
    fields = {**FIELDS, **parts.pop("fields", {})}
    return make_policy(fields=fields, rules=rules, gates={**NO_GATES, **gates}, **parts)


def assert_not_looser(before: Route, after: Route) -> None:
    assert after.outcome >= before.outcome
    assert set(before.reasons) <= set(after.reasons)
    if after.outcome < Outcome.HOLD:
        kept = {each.queue: each for each in after.approvals}
        assert all(kept[each.queue].people >= each.people for each in before.approvals)


def answers(found: Route) -> Any:
    return found.outcome, set(found.reasons), found.approvals, found.score


def counting(found: Route) -> Any:
    return found.outcome, {each for each in found.reasons if each.counts}, found.approvals, found.score


@given(RULES, GATES, ACTIONS, VERDICTS, st.data())
@settings(max_examples=60, deadline=None)
def test_another_rule_never_loosens_the_answer(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, data: st.DataObject
) -> None:
    more = data.draw(RULES.filter(bool))
    for place, each in enumerate(more):
        each["id"] = f"more{place}"
    action = make_action(**parts)
    before = decide(action, built(rules, gates), verdicts=verdicts)
    assert_not_looser(before, decide(action, built(rules + more, gates), verdicts=verdicts))


@given(RULES, GATES, ACTIONS, VERDICTS, SPECS, st.sampled_from(VALIDATORS))
@settings(max_examples=60, deadline=None)
def test_another_gate_never_loosens_the_answer(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, kinds: Any, name: str
) -> None:
    action = make_action(**parts)
    before = decide(action, built(rules, gates), verdicts=verdicts)
    more = {**gates, "more": gate(*kinds, validators=[name])}
    assert_not_looser(before, decide(action, built(rules, more), verdicts=verdicts))


@given(RULES, GATES.filter(bool), ACTIONS, VERDICTS, st.data())
@settings(max_examples=60, deadline=None)
def test_another_validator_in_a_gate_never_loosens_the_answer(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(gates)))
    more = {**gates, name: {**gates[name], "validators": list(VALIDATORS)}}
    action = make_action(**parts)
    before = decide(action, built(rules, gates), verdicts=verdicts)
    assert_not_looser(before, decide(action, built(rules, more), verdicts=verdicts))


@pytest.mark.behaviour("A5", "C4")
@given(RULES, GATES, ACTIONS, VERDICTS, st.sampled_from(["ethical", "negative", "brand_flag", "unheard of"]))
@settings(max_examples=60, deadline=None)
def test_a_flag_never_loosens_the_answer_and_always_escalates(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, flag: str
) -> None:
    policy = built(rules, gates)
    before = decide(make_action(**parts), policy, verdicts=verdicts)
    after = decide(make_action(**{**parts, "flags": [*parts["flags"], flag]}), policy, verdicts=verdicts)
    assert_not_looser(before, after)
    assert after.outcome >= Outcome.ESCALATE


@given(RULES, GATES, ACTIONS, VERDICTS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_order_of_rules_gates_and_validators_does_not_matter(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, chance: Any
) -> None:
    def shuffled(items: Any) -> Any:
        items = list(items)
        chance.shuffle(items)
        return items

    other = {name: {**spec, "validators": shuffled(spec["validators"])} for name, spec in shuffled(gates.items())}
    action = make_action(**parts)
    one = decide(action, built(rules, gates), verdicts=verdicts)
    assert answers(decide(action, built(shuffled(rules), other), verdicts=verdicts)) == answers(one)


@given(
    RULES,
    GATES,
    ACTIONS,
    VERDICTS,
    st.sampled_from(["n", "ok", "tags", "sum", "segment", "company", "campaign_budget"]),
    st.sampled_from([{"odd": 1}, [1, 2], [["a"]]]),
)
@settings(max_examples=100, deadline=None)
def test_a_field_of_the_wrong_type_is_never_looser_than_none_at_all(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, name: str, wrong: Any
) -> None:
    policy = built(rules, gates)
    absent = {key: value for key, value in parts["context"].items() if key != name}
    before = decide(make_action(**{**parts, "context": absent}), policy, verdicts=verdicts)
    after = decide(make_action(**{**parts, "context": {**absent, name: wrong}}), policy, verdicts=verdicts)
    assert after.outcome >= before.outcome


@pytest.mark.behaviour("D1")
@given(RULES, GATES, ACTIONS, VERDICTS, SPECS)
@settings(max_examples=60, deadline=None)
def test_a_gate_that_observes_never_changes_the_answer(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, kinds: Any
) -> None:
    watching = gate(*kinds, validators=VALIDATORS, state="observe", segment={"context.n": {"over": 0}})
    action = make_action(**parts)
    before = decide(action, built(rules, gates), verdicts=verdicts)
    after = decide(action, built(rules, {**gates, "watching": watching}), verdicts=verdicts)
    assert counting(after) == counting(before)


@given(RULES, GATES, ACTIONS, VERDICTS)
@settings(max_examples=60, deadline=None)
def test_the_outcome_is_the_strictest_counting_reason_and_the_approvals_are_a_union(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any
) -> None:
    found = decide(make_action(**parts), built(rules, gates), verdicts=verdicts)
    counts = [each for each in found.reasons if each.counts]
    assert found.outcome is max((each.outcome for each in counts), default=Outcome.EXECUTE)
    asked = {each.queue for each in counts if each.queue is not None}
    assert {each.queue for each in found.approvals} == (asked if found.outcome < Outcome.HOLD else set())
    assert found.outcome in (Outcome.EXECUTE, Outcome.HOLD, Outcome.REFUSE) or found.approvals


@pytest.mark.behaviour("E3", "A2")
@given(RULES, GATES, ACTIONS, VERDICTS)
@settings(max_examples=60, deadline=None)
def test_client_content_never_runs_without_a_person(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any
) -> None:
    found = decide(make_action(**{**parts, "type": "post.publish"}), built(rules, gates), verdicts=verdicts)
    assert found.outcome >= Outcome.REVIEW


# --- kill switches, and what lies beside the policy -------------------------------------------------------------------

SCOPES = st.lists(
    st.sampled_from([
        "tenant:acme", "tenant:other", "account:acc-17", "campaign:cmp-204", "campaign:cmp-1", "agent:bidder-7",
        "agent-version:bidder-7@1", "type:bid.adjust", "type:post.own", "destination:meta", "global:*", "brand:x",
    ]),
    max_size=3,
).map(tuple)  # fmt: skip
ENGAGED = st.lists(st.tuples(SCOPES, st.sampled_from(list(Mode))), max_size=5)
BESIDE = st.lists(
    st.builds(
        lambda rule, outcome, queue, counts: Reason(
            rule, "x", None, outcome, queue if outcome in (Outcome.REVIEW, Outcome.ESCALATE) else None, counts=counts
        ),
        st.sampled_from(["parked.behind", "switch.7", "approval.again"]),
        st.sampled_from(list(Outcome)),
        st.sampled_from(["trading", "client"]),
        st.booleans(),
    ),
    max_size=4,
)


def beside(action: Action, policy: Policy, reasons: list[Reason], verdicts: Any) -> Route:
    ready, draft = compiled(policy), make_window(compiled(policy).reach).draft()
    draft.at(NOW_MS)
    return route(action, recall(action, "acme", draft), ready, {}, verdicts, reasons)


def stopped(action: Action, policy: Policy, engaged: list[Any], verdicts: Any) -> Route:
    """Route as the router does while switches are engaged."""
    switches = Switches()
    for epoch, (scope, mode) in enumerate(engaged):
        switches.engage(Switch(epoch, scope, mode, "ana", 0))
    covering = switches.covering(target_of(action, "acme", entity_of(action)))
    cls = compiled(policy).of(action.type)
    return beside(action, policy, reasons_of(covering, action, cls.queue), verdicts)


@pytest.mark.behaviour("E15", "A4")
@given(RULES, GATES, ACTIONS, VERDICTS, ENGAGED, SCOPES, st.sampled_from(list(Mode)))
@settings(max_examples=100, deadline=None)
def test_engaging_a_switch_never_loosens_the_answer(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, engaged: Any, scope: Any,
    mode: Mode,
) -> None:  # fmt: skip
    policy, action = built(rules, gates), make_action(**parts)
    before = stopped(action, policy, engaged, verdicts)
    assert_not_looser(before, stopped(action, policy, [*engaged, (scope, mode)], verdicts))
    assert_not_looser(decide(action, policy, verdicts=verdicts), before)


@pytest.mark.behaviour("E15", "A4")
@given(RULES, GATES, ACTIONS, VERDICTS, ENGAGED, st.sampled_from(list(Mode)))
@settings(max_examples=60, deadline=None)
def test_under_a_switch_over_everything_nothing_runs_that_its_mode_stops(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, engaged: Any, mode: Mode
) -> None:
    found = stopped(make_action(**parts), built(rules, gates), [*engaged, ((), mode)], verdicts)
    # Of these actions all raise what they change, so REDUCE_ONLY stops them like HALT.
    assert found.outcome >= OUTCOMES[mode]


@given(RULES, GATES, ACTIONS, VERDICTS, BESIDE, BESIDE)
@settings(max_examples=100, deadline=None)
def test_more_reasons_beside_the_policy_never_loosen_the_answer(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, some: Any, more: Any
) -> None:
    policy, action = built(rules, gates), make_action(**parts)
    before = beside(action, policy, some, verdicts)
    after = beside(action, policy, [*some, *more], verdicts)
    assert_not_looser(before, after)
    assert_not_looser(decide(action, policy, verdicts=verdicts), before)
    assert after.outcome >= max((each.outcome for each in more if each.counts), default=Outcome.EXECUTE)
    assert before.score == after.score


@given(RULES, GATES, ACTIONS, VERDICTS, BESIDE)
@settings(max_examples=60, deadline=None)
def test_what_is_held_or_refused_asks_nobody(
    rules: list[dict[str, Any]], gates: dict[str, Any], parts: dict[str, Any], verdicts: Any, some: Any
) -> None:
    held = Reason("switch.1", "HALT", "tenant:acme", Outcome.HOLD)
    found = beside(make_action(**parts), built(rules, gates), [*some, held], verdicts)
    assert found.outcome >= Outcome.HOLD
    assert found.approvals == ()
