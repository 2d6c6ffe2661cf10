"""Two policies side by side: what changed, and which way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.policy.diff import Difference, diff, raises_level_by_more_than_one
from hitl_stream.core.policy.model import Policy
from hitl_stream.wire.policy_file import digest_of

BASE: dict[str, Any] = {
    "policy": "test",
    "rates": {"USD": "0.9"},
    "defaults": {"queue": "triage", "audit_sample": "0.02", "tier3_amount": {"EUR": 100}},
    "fields": {"content.text": "text", "context.n": "number", "context.s": {"type": "text", "redact": True}},
    "queues": {
        "triage": {"roles": ["senior", "lead"], "sla": "1h", "owner": "ops"},
        "client": {"roles": ["client"], "sla": "1d", "owner": "ops", "external": True},
    },
    "classes": {
        "bid": {
            "level": 3, "consequence": ["financial"], "queue": "triage", "auto_max_change": "0.2",
            "auto_min_confidence": "0.6", "auto_max_amount": {"EUR": 5}, "auto_max_change_per": {"1h": "0.5"},
            "max_age": "60s", "needs": ["context.n"], "evidence": "required", "people": 2, "tier": 2, "goal": "cpa",
        },
        "post": {"consequence": ["client_content"], "queue": "triage", "batch": {"close_after": "1d"}},
        "note": {"level": 1},
    },
    "rules": [
        {"id": "big", "classes": ["bid", "post"], "match": {"context.n": {"over": 10}}, "then": "escalate"},
        {"id": "word", "classes": ["bid"], "match": {"content.text": {"in": ["a", "b"]}}, "then": "review"},
    ],
    "validators": {
        "short": {"kind": "length", "field": "content.text", "under": 120, "error": "tone",
                  "max_by": {"context.s": {"x": 280, "y": 300}}},
        "terms": {"kind": "mentions", "field": "content.text", "terms": ["a", "b"], "error": "tone"},
    },
    "gates": {
        "on": {"classes": ["post"], "validators": ["short", "terms"], "segment": {"context.s": {"not_in": ["a"]}},
               "state": "enforce", "owner": "o", "from": "2026-11-01", "until": "2026-12-01",
               "max_error_ratio": {"compliance": "0.05"}},
        "off": {"classes": ["post"], "validators": ["short"], "state": "observe", "owner": "o", "from": "2026-11-01"},
    },
    "ethical": {"terms": ["x"]},
}  # fmt: skip

GONE = object()


def make_policy(*changes: tuple[str, Any]) -> Policy:
    """Return the base policy with values set (or taken out, `GONE`) at paths such as `classes/bid/level`."""
    content = copy.deepcopy(BASE)
    for path, value in changes:
        *way, last = [int(step) if step.isdigit() else step for step in path.split("/")]
        place: Any = content
        for step in way:
            place = place[step] if isinstance(step, int) else place.setdefault(step, {})
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return Policy.model_validate(content)


KNOBS: list[tuple[str, Any, str, str]] = [
    ("classes/bid/level", 4, "looser", "classes.bid.level"),
    ("classes/bid/auto_max_change", "0.21", "looser", "classes.bid.auto_max_change"),
    ("classes/bid/auto_max_change", "0.20", "other", "classes.bid.auto_max_change"),
    ("classes/bid/auto_max_change", GONE, "looser", "classes.bid.auto_max_change"),
    ("classes/post/auto_max_change", "0.1", "stricter", "classes.post.auto_max_change"),
    ("classes/bid/auto_min_confidence", "0.61", "stricter", "classes.bid.auto_min_confidence"),
    ("classes/bid/auto_min_confidence", GONE, "looser", "classes.bid.auto_min_confidence"),
    ("classes/bid/auto_max_amount", {"USD": 5}, "stricter", "classes.bid.auto_max_amount"),
    ("classes/bid/auto_max_amount", {"USD": 6}, "looser", "classes.bid.auto_max_amount"),
    ("classes/bid/auto_max_amount", {"GBP": 6}, "other", "classes.bid.auto_max_amount"),
    ("classes/bid/auto_max_change_per/1h", "0.6", "looser", "classes.bid.auto_max_change_per.1h"),
    ("classes/bid/auto_max_change_per/1d", "0.6", "stricter", "classes.bid.auto_max_change_per.1d"),
    ("classes/bid/auto_max_change_per/1h", GONE, "looser", "classes.bid.auto_max_change_per.1h"),
    ("classes/bid/max_age", "61s", "looser", "classes.bid.max_age"),
    ("classes/bid/max_age", GONE, "looser", "classes.bid.max_age"),
    ("classes/bid/audit_sample", "0.01", "looser", "classes.bid.audit_sample"),
    ("classes/bid/audit_sample", "0.02", "other", "classes.bid.audit_sample"),
    ("classes/bid/second_review", "0.1", "stricter", "classes.bid.second_review"),
    ("classes/bid/needs", [], "looser", "classes.bid.needs"),
    ("classes/bid/needs", ["context.n", "evidence"], "stricter", "classes.bid.needs"),
    ("classes/bid/needs", ["evidence"], "other", "classes.bid.needs"),
    ("classes/bid/evidence", "optional", "looser", "classes.bid.evidence"),
    ("classes/bid/people", 1, "looser", "classes.bid.people"),
    ("classes/bid/tier", 3, "stricter", "classes.bid.tier"),
    ("classes/bid/goal", GONE, "looser", "classes.bid.goal"),
    ("classes/bid/canaries", False, "looser", "classes.bid.canaries"),
    ("classes/bid/hide_score", True, "stricter", "classes.bid.hide_score"),
    ("classes/bid/review", "all", "stricter", "classes.bid.review"),
    ("classes/bid/review", "above_risk", "other", "classes.bid.review"),
    ("classes/bid/review", "sample", "looser", "classes.bid.review"),
    ("classes/bid/consequence", ["internal"], "looser", "classes.bid.consequence"),
    ("classes/bid/consequence", [], "stricter", "classes.bid.consequence"),
    ("classes/bid/consequence", ["financial", "record"], "other", "classes.bid.consequence"),
    ("classes/bid/consequence", ["record"], "looser", "classes.bid.consequence"),
    ("classes/bid/queue", "client", "other", "classes.bid.queue"),
    ("classes/post/batch", GONE, "stricter", "classes.post.batch"),
    ("classes/bid", GONE, "stricter", "classes.bid"),
    ("classes/note", GONE, "looser", "classes.note"),
    ("classes/new", {"level": 1}, "stricter", "classes.new"),
    ("classes/new", {"level": 2}, "looser", "classes.new"),
    ("defaults/audit_sample", "0.03", "stricter", "defaults.audit_sample"),
    ("defaults/max_age", "1h", "looser", "defaults.max_age"),
    ("defaults/unusual_over", 7, "looser", "defaults.unusual_over"),
    ("defaults/tier3_amount", {"EUR": 101}, "looser", "defaults.tier3_amount"),
    ("defaults/tier3_amount", GONE, "looser", "defaults.tier3_amount"),
    ("queues/triage/roles", ["senior"], "stricter", "queues.triage.roles"),
    ("queues/triage/sla", "2h", "other", "queues.triage.sla"),
    ("queues/client/external", False, "stricter", "queues.client.external"),
    ("fields/context.s", "text", "looser", "fields.context.s.redact"),
    ("rates/USD", "0.8", "other", "rates.USD"),
    ("rules/1", GONE, "looser", "rules.word"),
    ("rules/0/classes", ["bid"], "looser", "rules.big.classes"),
    ("rules/0/then", "refuse", "stricter", "rules.big.then"),
    ("rules/0/match/context.n/over", 11, "looser", "rules.big.match.context.n.over"),
    ("rules/0/match/context.n/under", 20, "looser", "rules.big.match.context.n.under"),
    ("rules/0/match/content.text", {"is": "x"}, "looser", "rules.big.match.content.text"),
    ("rules/1/match/content.text/in", ["a"], "looser", "rules.word.match.content.text.in"),
    ("rules/1/match/content.text/contains", "a", "looser", "rules.word.match.content.text.contains"),
    ("validators/short/under", 121, "looser", "validators.short.under"),
    ("validators/short/min", 1, "stricter", "validators.short.min"),
    ("validators/short/max_by/context.s/x", 279, "stricter", "validators.short.max_by.context.s.x"),
    ("validators/short/max_by/context.s/y", GONE, "looser", "validators.short.max_by.context.s.y"),
    ("validators/terms/terms", ["a"], "looser", "validators.terms.terms"),
    ("validators/terms/then", "refuse", "stricter", "validators.terms.then"),
    ("validators/terms/kind", "contains", "other", "validators.terms"),
    ("gates/on", GONE, "looser", "gates.on"),
    ("gates/on/state", "observe", "looser", "gates.on.state"),
    ("gates/on/validators", ["short"], "looser", "gates.on.validators"),
    ("gates/on/segment/context.s/not_in", ["a", "b"], "looser", "gates.on.segment.context.s.not_in"),
    ("gates/on/segment/context.s", GONE, "stricter", "gates.on.segment.context.s"),
    ("gates/on/until", GONE, "stricter", "gates.on.until"),
    ("gates/on/until", "2026-11-30", "looser", "gates.on.until"),
    ("gates/on/from", "2026-11-02", "looser", "gates.on.from"),
    ("gates/on/owner", "someone", "other", "gates.on.owner"),
    ("gates/on/max_error_ratio", {"compliance": "0.04"}, "stricter", "gates.on.max_error_ratio.compliance"),
    ("gates/on/max_error_ratio", {"compliance": "0.06"}, "looser", "gates.on.max_error_ratio.compliance"),
    ("gates/on/max_error_ratio", {}, "other", "gates.on.max_error_ratio.compliance"),
    ("gates/off", GONE, "other", "gates.off"),
    ("gates/off/state", "enforce", "stricter", "gates.off.state"),
    ("gates/off/validators", ["short", "terms"], "other", "gates.off.validators"),
    ("bands/review", "0.4", "stricter", "bands.review"),
    ("bands/escalate", "0.9", "looser", "bands.escalate"),
    ("weights/size", 4, "other", "weights.size"),
    ("ethical/terms", [], "looser", "ethical.terms"),
    ("policy", "renamed", "other", "policy"),
]


@pytest.mark.parametrize(("path", "value", "direction", "shown"), KNOBS)
def test_a_knob_is_judged_by_its_own_direction(path: str, value: Any, direction: str, shown: str) -> None:
    found = diff(make_policy(), make_policy((path, value)))

    assert [(each.path, each.direction) for each in found] == [(shown, direction)]


@pytest.mark.parametrize(("path", "value", "direction", "shown"), KNOBS)
def test_the_way_back_is_the_opposite(path: str, value: Any, direction: str, shown: str) -> None:
    back = {"stricter": "looser", "looser": "stricter", "other": "other"}[direction]

    found = diff(make_policy((path, value)), make_policy())

    assert [(each.path, each.direction) for each in found] == [(shown, back)]


def test_a_difference_shows_both_values_in_one_line() -> None:
    (found,) = diff(make_policy(), make_policy(("classes/bid/auto_max_change", "0.3")))

    assert found == Difference(
        "classes.bid.auto_max_change", "0.2", "0.3", "looser", ("classes", "bid", "auto_max_change")
    )
    assert str(found) == 'looser classes.bid.auto_max_change: "0.2" → "0.3"'


def test_a_new_order_of_rules_is_one_difference() -> None:
    found = diff(make_policy(), make_policy(("rules", BASE["rules"][::-1])))

    assert [(each.path, each.direction) for each in found] == [("rules", "other")]


def test_a_class_named_like_a_currency_is_still_compared_by_its_knobs() -> None:
    old, new = make_policy(("classes", {"EUR": {"level": 1}})), make_policy(("classes", {"EUR": {"level": 2}}))

    assert [each.path for each in diff(old, new)] == ["classes.EUR.level"]


@given(st.lists(st.sampled_from(KNOBS), max_size=4, unique_by=lambda knob: knob[0].split("/")[:3][-1]))
def test_policies_differ_exactly_where_their_digests_do(knobs: list[tuple[str, Any, str, str]]) -> None:
    sure = [(path, value) for path, value, _, _ in knobs if value is not GONE and not path.startswith("rules/")]
    old, new = make_policy(), make_policy(*sure)

    assert (diff(old, new) == ()) == (digest_of(old) == digest_of(new))


@pytest.mark.behaviour("E2")
@pytest.mark.parametrize(
    ("level", "refused"),
    [(1, ()), (2, ()), (3, ()), (4, ("post",))],
)
def test_a_class_rises_one_level_at_a_time(level: int, refused: tuple[str, ...]) -> None:
    assert raises_level_by_more_than_one(make_policy(), make_policy(("classes/post/level", level))) == refused


@pytest.mark.behaviour("E2")
def test_a_class_that_was_not_there_counts_as_level_2() -> None:
    without = make_policy(("classes/bid", GONE))

    assert raises_level_by_more_than_one(without, make_policy()) == ()
    assert raises_level_by_more_than_one(without, make_policy(("classes/bid/level", 4))) == ("bid",)


@pytest.mark.behaviour("E2")
def test_any_fall_is_free() -> None:
    assert raises_level_by_more_than_one(make_policy(), make_policy(("classes/bid/level", 1))) == ()
