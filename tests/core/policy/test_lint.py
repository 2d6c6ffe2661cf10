"""The laws of a policy: every ceiling, reference and dead end, each by the name it is reported under."""

from __future__ import annotations

from decimal import Decimal
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.errors import Problem
from hitl_stream.core.policy.lint import (
    AUDIT_FLOOR,
    CEILINGS,
    PROTECTED,
    audit_floor,
    ceiling,
    dotted,
    is_protected,
    lint,
)
from hitl_stream.core.policy.model import Policy
from hitl_stream.wire.policy_file import parse

LEVELS = st.integers(min_value=1, max_value=4)
CONSEQUENCES = st.lists(st.sampled_from(sorted(CEILINGS)), unique=True, max_size=4)
QUEUE = {"roles": ["senior"], "sla": "1h", "owner": "ops"}
GATE = {"classes": ["bid"], "validators": ["short"], "state": "enforce", "owner": "o", "from": "2026-11-01"}
SHORT = {"kind": "length", "field": "content.text", "under": 120, "error": "compliance"}
FIELDS = {
    "content.text": "text",
    "context.sum": "money",
    "facts.sum": "money",
    "context.n": "number",
    "context.ok": "flag",
    "context.tags": "list",
}


def make_policy(**parts: Any) -> Policy:
    """Return a policy without problems, with some parts replaced; `bid` changes only the class."""
    bid = {"level": 2, "consequence": ["financial"], "queue": "triage", **parts.pop("bid", {})}
    base = {
        "policy": "test",
        "agents": {"*": {"owner": "dana"}},
        "defaults": {"queue": "triage"},
        "fields": FIELDS,
        "queues": {"triage": QUEUE},
        "classes": {"bid": bid},
    }
    return Policy.model_validate({**base, **parts})


def rule(**parts: Any) -> dict[str, Any]:
    return {"id": "r", "classes": ["bid"], "match": {"content.text": {"is": "x"}}, "then": "review", **parts}


def queues(**more: Any) -> dict[str, Any]:
    return {"triage": QUEUE, **more}


def rules_of(policy: Policy, severity: str = "error") -> set[str]:
    return {problem.rule for problem in lint(policy) if problem.severity == severity}


def test_a_sound_policy_has_no_problem() -> None:
    assert lint(make_policy()) == ()


def test_the_example_of_the_specification_has_no_error() -> None:
    text = files("hitl_stream.dev").joinpath("policies/acme.yaml").read_text("utf-8")

    problems = lint(parse(text, "acme.yaml").policy)

    assert [problem for problem in problems if problem.severity == "error"] == []
    assert [problem.rule for problem in problems] == ["claim.money"]


@pytest.mark.behaviour("C3", "D7", "E14")
@pytest.mark.parametrize(
    ("consequence", "highest"),
    [
        ([], 2),
        (["client_content"], 2),
        (["high_risk"], 2),
        (["prospect"], 3),
        (["client_reply"], 3),
        (["own_content"], 3),
        (["record"], 3),
        (["financial"], 3),
        (["contractual"], 3),
        (["irreversible"], 3),
        (["internal"], 4),
        (["internal", "financial"], 3),
        (["internal", "client_content", "financial"], 2),
    ],
)
def test_a_class_stays_at_or_below_the_lowest_of_its_ceilings(consequence: list[str], highest: int) -> None:
    assert ceiling(consequence) == highest
    for level in (1, 2, 3, 4):
        found = rules_of(make_policy(bid={"level": level, "consequence": consequence}))
        assert any(name.startswith("ceiling.") for name in found) == (level > highest)


@pytest.mark.behaviour("C3")
@pytest.mark.parametrize("level", [3, 4])
def test_client_content_above_level_2_fails_and_the_rule_is_named(level: int) -> None:
    policy = make_policy(bid={"level": level, "consequence": ["client_content"]})

    assert lint(policy) == (
        Problem(
            "ceiling.client_content",
            f"client_content stays at level 2 or below, found {level}; no file can lift this",
            "classes.bid.level",
            at=("classes", "bid", "level"),
        ),
    )


@pytest.mark.behaviour("C3", "D7", "E14")
@given(
    level=LEVELS,
    consequence=CONSEQUENCES,
    sample=st.none() | st.decimals(min_value=0, max_value=1, places=3),
    default=st.decimals(min_value=0, max_value=1, places=3),
    review=st.sampled_from([None, "all", "above_risk", "edge_cases", "sample", "periodic"]),
)
def test_no_combination_of_keys_lifts_a_ceiling(
    level: int, consequence: list[str], sample: Decimal | None, default: Decimal, review: str | None
) -> None:
    """Whatever a file says, what passes has a person before it, or a share of it looked at afterwards."""
    policy = make_policy(
        bid={"level": level, "consequence": consequence, "audit_sample": sample, "review": review},
        defaults={"queue": "triage", "audit_sample": default},
    )
    if rules_of(policy):
        return

    assert level <= ceiling(consequence)
    assert level <= min([CEILINGS[each] for each in consequence], default=2)
    if level == 2:
        assert review in (None, "all")
    if level >= 3 and set(consequence) != {"internal"}:
        assert (default if sample is None else sample) >= AUDIT_FLOOR
        assert review != "periodic"


@pytest.mark.behaviour("E14")
@given(CONSEQUENCES, CONSEQUENCES)
def test_a_further_consequence_never_loosens(some: list[str], more: list[str]) -> None:
    if some:
        assert ceiling([*some, *more]) <= ceiling(some)
        assert audit_floor([*some, *more]) >= audit_floor(some)
        assert is_protected([*some, *more]) >= is_protected(some)


def test_the_protected_are_those_of_the_specification_and_the_unclassified() -> None:
    assert {
        "client_content", "client_reply", "high_risk", "financial", "contractual", "irreversible",
    } == PROTECTED  # fmt: skip
    assert is_protected([])
    assert not is_protected(["internal", "prospect"])


def test_an_unknown_consequence_has_the_lowest_ceiling() -> None:
    assert ceiling(["from_the_future"]) == 1
    assert audit_floor(["from_the_future"]) == AUDIT_FLOOR


ERRORS: list[tuple[str, dict[str, Any], str]] = [
    ("ceiling.unclassified", {"bid": {"level": 3, "consequence": []}}, "classes.bid.level"),
    ("ceiling.audit_sample", {"bid": {"level": 3, "audit_sample": "0.0099"}}, "classes.bid.audit_sample"),
    ("ceiling.audit_sample", {"bid": {"level": 3}, "defaults": {"queue": "triage", "audit_sample": 0}},
     "defaults.audit_sample"),
    ("review.level_2", {"bid": {"review": "above_risk"}}, "classes.bid.review"),
    ("review.no_human_path", {"bid": {"level": 3, "review": "periodic"}}, "classes.bid.review"),
    ("reference.queue", {"defaults": {"queue": "nowhere"}}, "defaults.queue"),
    ("reference.queue", {"exceptions": {"platform": "nowhere"}}, "exceptions.platform"),
    ("reference.queue", {"queues": queues(triage={**QUEUE, "next": "nowhere"})}, "queues.triage.next"),
    ("reference.queue", {"bid": {"queue": "nowhere"}}, "classes.bid.queue"),
    ("reference.queue", {"rules": [rule(queue="nowhere")]}, "rules[0].queue"),
    ("reference.queue", {"validators": {"short": {**SHORT, "queue": "nowhere"}}}, "validators.short.queue"),
    ("reference.class", {"rules": [rule(classes=["bid", "bud"])]}, "rules[0].classes[1]"),
    ("reference.class", {"gates": {"g": {**GATE, "classes": ["bud"]}}}, "gates.g.classes[0]"),
    ("reference.validator", {"gates": {"g": GATE}}, "gates.g.validators[0]"),
    ("reference.field", {"bid": {"needs": ["context.none"]}}, "classes.bid.needs[0]"),
    ("reference.field", {"rules": [rule(match={"context.none": {"is": "x"}})]}, "rules[0].match.context.none"),
    ("reference.field", {"gates": {"g": {**GATE, "segment": {"context.none": {"is": "x"}}}}},
     "gates.g.segment.context.none"),
    ("reference.field", {"validators": {"short": {**SHORT, "field": "context.none"}}}, "validators.short.field"),
    ("reference.field", {"validators": {"short": {**SHORT, "max_by": {"context.none": {"x": 1}}}}},
     "validators.short.max_by.context.none"),
    ("reference.field", {"validators": {"v": {"kind": "contains", "field": "content.text", "error": "tone",
                                              "value_of": "context.none"}}}, "validators.v.value_of"),
    ("field.path", {"fields": {**FIELDS, "budget": "money"}}, "fields.budget"),
    ("field.path", {"fields": {**FIELDS, "context.": "money"}}, "fields.context."),
    ("field.path", {"fields": {**FIELDS, "facts": "money"}}, "fields.facts"),
    ("field.type", {"fields": {**FIELDS, "confidence": "text"}}, "fields.confidence"),
    ("match.type", {"rules": [rule(match={"content.text": {"over": 1}})]}, "rules[0].match.content.text.over"),
    ("match.type", {"rules": [rule(match={"context.sum": {"over": 1}})]}, "rules[0].match.context.sum.over"),
    ("match.type", {"rules": [rule(match={"context.n": {"over": {"EUR": 1}}})]}, "rules[0].match.context.n.over"),
    ("match.type", {"rules": [rule(match={"context.n": {"is": "1"}})]}, "rules[0].match.context.n.is"),
    ("match.type", {"rules": [rule(match={"context.ok": {"is": 1}})]}, "rules[0].match.context.ok.is"),
    ("match.type", {"rules": [rule(match={"context.ok": {"in": ["x"]}})]}, "rules[0].match.context.ok.in"),
    ("match.type", {"rules": [rule(match={"content.text": {"is": True}})]}, "rules[0].match.content.text.is"),
    ("match.type", {"gates": {"g": {**GATE, "segment": {"context.tags": {"is": "x"}}}}},
     "gates.g.segment.context.tags.is"),
    ("validator.type", {"validators": {"short": {**SHORT, "field": "context.n"}}}, "validators.short.field"),
    ("validator.never", {"validators": {"short": {**SHORT, "under": 5, "min": 5}}}, "validators.short.min"),
    ("money.rate", {"bid": {"auto_max_amount": {"USD": 1}}}, "classes.bid.auto_max_amount"),
    ("money.rate", {"defaults": {"queue": "triage", "tier3_amount": {"USD": 1}}}, "defaults.tier3_amount"),
    ("money.rate", {"rules": [rule(match={"context.sum": {"under": {"USD": 1}}})]},
     "rules[0].match.context.sum.under"),
    ("money.rate", {"gates": {"g": {**GATE, "baseline": {"cost_per_hour": {"USD": 1}}}}},
     "gates.g.baseline.cost_per_hour"),
    ("money.own_rate", {"rates": {"EUR": "1.1"}}, "rates.EUR"),
    ("class.queue", {"bid": {"queue": None}}, "classes.bid"),
    ("class.queue", {"bid": {"queue": None, "level": 4, "consequence": ["internal"], "auto_min_confidence": 0.5}},
     "classes.bid"),
    ("class.queue", {"bid": {"queue": None, "level": 4, "consequence": ["internal"]}, "rules": [rule()]},
     "classes.bid"),
    ("class.queue", {"bid": {"queue": None, "level": 4, "consequence": ["internal"]},
                     "validators": {"short": SHORT}, "gates": {"g": GATE}}, "classes.bid"),
    ("queue.cycle", {"queues": queues(a={**QUEUE, "next": "b"}, b={**QUEUE, "next": "a"})}, "queues.a.next"),
    ("queue.cycle", {"queues": queues(triage={**QUEUE, "next": "triage"})}, "queues.triage.next"),
    ("queue.role", {"queues": queues(triage={**QUEUE, "roles": ["senior", "labeller"]})}, "queues.triage.roles[1]"),
    ("queue.external_default", {"queues": queues(triage={**QUEUE, "external": True})}, "defaults.queue"),
    ("class.execute_by", {"queues": queues(triage={**QUEUE, "sla": "15d"})}, "classes.bid"),
    ("class.execute_by", {"queues": queues(triage={**QUEUE, "sla": "8d", "next": "b"}, b={**QUEUE, "sla": "7d"})},
     "classes.bid"),
    ("class.execute_by", {"bid": {"batch": {"close_after": "15d"}}}, "classes.bid"),
    ("window.retention", {"bid": {"auto_max_change": 1, "auto_max_change_per": {"8d": 1}}},
     "classes.bid.auto_max_change_per.8d"),
    ("window.retention", {"defaults": {"queue": "triage", "unusual_window": "8d"}}, "defaults.unusual_window"),
    ("id.duplicate", {"rules": [rule(), rule()]}, "rules[1].id"),
    ("id.collision", {"rules": [rule(id="short")], "validators": {"short": SHORT}}, "rules[0].id"),
    ("id.collision", {"rules": [rule(id="g")], "validators": {"short": SHORT}, "gates": {"g": GATE}}, "rules[0].id"),
    ("gate.removed", {"gates": {"g": {**GATE, "state": "removed"}}}, "gates.g.state"),
    ("gate.until", {"gates": {"g": {**GATE, "until": "2026-10-31"}}}, "gates.g.until"),
    ("gate.max_error_ratio",
     {"validators": {"short": SHORT}, "gates": {"g": {**GATE, "max_error_ratio": {"tone": 0.05}}}},
     "gates.g.max_error_ratio.tone"),
    ("gate.max_error_ratio",
     {"validators": {"short": SHORT}, "gates": {"g": {**GATE, "max_error_ratio": {"compliance": 0}}}},
     "gates.g.max_error_ratio.compliance"),
    ("gate.max_error_ratio",
     {"validators": {"short": SHORT}, "gates": {"g": {**GATE, "max_error_ratio": {"compliance": "0.21"}}}},
     "gates.g.max_error_ratio.compliance"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parts", "path"), ERRORS)
def test_a_file_that_breaks_a_law_is_refused_at_the_place(name: str, parts: dict[str, Any], path: str) -> None:
    found = [(problem.rule, problem.path) for problem in lint(make_policy(**parts)) if problem.severity == "error"]

    assert (name, path) in found


WARNINGS: list[tuple[str, dict[str, Any], str]] = [
    ("review.protected", {"bid": {"level": 3, "auto_max_change": 1, "review": "edge_cases"}}, "classes.bid.review"),
    ("review.protected", {"bid": {"level": 3, "auto_max_change": 1, "review": "sample"}}, "classes.bid.review"),
    ("match.never", {"rules": [rule(match={"context.n": {"over": 2, "under": 2}})]}, "rules[0].match.context.n"),
    ("match.never", {"rules": [rule(match={"content.text": {"in": []}})]}, "rules[0].match.content.text.in"),
    ("queue.sla_short", {"queues": queues(triage={**QUEUE, "sla": 15})}, "queues.triage.sla"),
    ("queue.external", {"queues": queues(client={**QUEUE, "external": True}), "exceptions": {"ethical": "client"}},
     "exceptions.ethical"),
    ("max_age.memory", {"bid": {"max_age": "61m"}}, "classes.bid.max_age"),
    ("max_age.memory", {"defaults": {"queue": "triage", "max_age": "2h"}}, "defaults.max_age"),
    ("max_age.short", {"bid": {"max_age": 60}}, "classes.bid.max_age"),
    ("claim.money", {"rules": [rule(match={"context.sum": {"over": {"EUR": 1}}})]}, "rules[0].match.context.sum"),
    ("claim.limit", {"bid": {"auto_max_amount": {"EUR": 1}}}, "classes.bid.auto_max_amount"),
    ("claim.limit", {"bid": {"auto_max_change_per": {"1h": 1}}}, "classes.bid.auto_max_change_per"),
    ("limit.none", {"bid": {"level": 3}}, "classes.bid"),
    ("id.collision", {"gates": {"short": {**GATE, "validators": ["v"]}}, "validators": {"short": SHORT, "v": SHORT}},
     "gates.short"),
    ("unused.queue", {"queues": queues(spare=QUEUE)}, "queues.spare"),
    ("unused.validator", {"validators": {"short": SHORT}}, "validators.short"),
    ("agents.missing", {"agents": {}}, "agents"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parts", "path"), WARNINGS)
def test_a_doubtful_file_is_warned_of_and_can_be_used(name: str, parts: dict[str, Any], path: str) -> None:
    problems = lint(make_policy(**parts))

    assert (name, path, "warning") in [(problem.rule, problem.path, problem.severity) for problem in problems]
    assert {problem.severity for problem in problems} == {"warning"}


@pytest.mark.parametrize(
    "parts",
    [
        {"bid": {"level": 1, "queue": None}},
        {"bid": {"level": 4, "consequence": ["internal"], "queue": None}},
        {"bid": {"level": 4, "consequence": ["internal"], "queue": None}, "rules": [rule(queue="triage")]},
        {"bid": {"level": 4, "consequence": ["internal"], "audit_sample": 0}},
        {"bid": {"level": 4, "consequence": ["internal"], "review": "periodic"}},
        {"bid": {"level": 3, "auto_max_change": "0.1", "audit_sample": "0.01"}},
        {"bid": {"needs": ["confidence", "evidence", "entity", "destination", "expires_at", "content.text", "spend"]}},
        {"bid": {"auto_max_amount": {"USD": 1}, "auto_max_change": 1}, "rates": {"USD": "0.92"}},
        {"queues": queues(triage={**QUEUE, "sla": "14d"})},
        {"rules": [rule(match={"context.sum": {"over": {"EUR": 1}}, "facts.sum": {"over": {"EUR": 1}}})]},
        {"rules": [rule(match={"context.tags": {"contains": "x"}, "context.ok": {"is": False}})]},
        {"gates": {"short": {**GATE, "until": "2026-11-01"}}, "validators": {"short": SHORT}},
        {"bid": {"max_age": "1h"}},
    ],
)
def test_what_stands_right_at_a_law_passes(parts: dict[str, Any]) -> None:
    assert lint(make_policy(**parts)) == ()


def test_a_circle_of_queues_is_told_once() -> None:
    circle = queues(a={**QUEUE, "next": "b"}, b={**QUEUE, "next": "a"}, c={**QUEUE, "next": "a"})

    assert [problem.rule for problem in lint(make_policy(queues=circle))].count("queue.cycle") == 1


def test_a_path_with_dots_in_a_name_can_be_told_apart() -> None:
    classes = {"post.publish": {"level": 3, "consequence": ["client_content"], "queue": "triage"}}

    (problem,) = lint(make_policy(classes=classes))

    assert problem.at == ("classes", "post.publish", "level")
    assert problem.path == dotted(problem.at) == "classes.post.publish.level"
