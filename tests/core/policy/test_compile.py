"""A compiled policy holds for a stretch of time, never over a ceiling, and knows its agents."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.events import Level, Outcome
from hitl_stream.core.policy.compile import AGENTS_CACHED_MAX, LATENESS_MS, AgentBook, Compiled
from hitl_stream.core.policy.lint import CEILINGS, ceiling
from hitl_stream.core.policy.model import Policy
from support.make import NOW_MS, compiled, decide, first_line, gate, make_action, make_policy, post, queues, rules

DAY = 86_400_000
LONG = "x" * 200


def ms(zone: str, *parts: int) -> int:
    return int(datetime(*parts, tzinfo=ZoneInfo(zone)).timestamp() * 1000)  # type: ignore[misc,arg-type]


def gated(zone: str = "Europe/Berlin", **parts: Any) -> Policy:
    """Return a policy with one gate, over internal drafts; a text of 200 characters fails it."""
    return make_policy(time_zone=zone, gates={**_none(), "g": gate("draft.internal", validators=["short"], **parts)})


def _none() -> dict[str, None]:
    return dict.fromkeys(make_policy().gates)


def fires(policy: Policy, now_ms: int) -> bool:
    return "validator.short" in rules(decide(make_action(**post(LONG, type="draft.internal")), policy, now_ms=now_ms))


# --- gates in time ----------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D11")
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York", "Pacific/Auckland"])
def test_a_gate_begins_and_ends_at_midnight_of_the_policys_time_zone_and_its_last_day_counts(zone: str) -> None:
    policy = gated(zone, **{"from": "2026-11-10", "until": "2026-11-20"})
    start, end = ms(zone, 2026, 11, 10), ms(zone, 2026, 11, 21)
    assert [fires(policy, now) for now in (start - 1, start, end - 1, end)] == [False, True, True, False]


def test_a_gate_of_one_day_holds_all_day_also_when_the_clock_changes() -> None:
    policy = gated(**{"from": "2026-10-25", "until": "2026-10-25"})
    start = ms("Europe/Berlin", 2026, 10, 25)
    assert [fires(policy, start + hours * 3_600_000) for hours in (-1, 0, 24, 25)] == [False, True, True, False]


@pytest.mark.parametrize("until", [None, "9999-12-31"])
def test_a_gate_without_a_last_day_goes_on(until: str | None) -> None:
    policy = gated(**({"until": until} if until else {}))
    assert fires(policy, ms("UTC", 2300, 1, 1))


@pytest.mark.parametrize("zone", ["Pacific/Auckland", "America/New_York"])
def test_a_gate_may_have_begun_on_the_first_day_there_is(zone: str) -> None:
    assert fires(gated(zone, **{"from": "0001-01-01"}), NOW_MS)


def test_a_compiled_policy_says_for_how_long_it_is_good() -> None:
    policy = gated(**{"from": "2026-11-10", "until": "2026-11-20"})
    start, end = ms("Europe/Berlin", 2026, 11, 10), ms("Europe/Berlin", 2026, 11, 21)
    stretches = [compiled(policy, now) for now in (start - 1, start, end - 1, end)]
    assert [(each.since_ms, each.until_ms) for each in stretches] == [
        (0, start), (start, end), (start, end), (end, 2**62)
    ]  # fmt: skip


@given(st.integers(ms("UTC", 2026, 10, 1), ms("UTC", 2027, 2, 1)), st.integers(0, DAY))
def test_within_its_stretch_a_policy_compiles_to_the_same_gates(now: int, later: int) -> None:
    policy = make_policy()
    first = compiled(policy, now)
    assert first.since_ms <= now < first.until_ms

    def extras(found: Compiled) -> dict[str, int]:
        return {name: len(cls.extras) for name, cls in found.classes.items()}

    if now + later < first.until_ms:
        assert extras(compiled(policy, now + later)) == extras(first)


@pytest.mark.behaviour("I17")
def test_a_file_removes_no_gate_by_itself() -> None:
    """Lint refuses such a file; whatever way it came here, only a signed record with its evidence removes a gate."""
    assert fires(gated(state="removed"), NOW_MS)


def test_only_active_gates_ask_for_plugins() -> None:
    later = make_policy(gates={"first_line": {"from": "2026-12-01"}})
    assert [job.validator for job in compiled().of("firstline.send").plugins] == ["tone"]
    assert compiled(later).of("firstline.send").plugins == ()
    assert compiled(later).plugin_types == (b"post.own",)


# --- ceilings ---------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("C3", "E14")
@given(
    st.integers(1, 4),
    st.lists(st.sampled_from(sorted(CEILINGS)), unique=True, max_size=3),
    st.sampled_from([None, "all", "above_risk", "edge_cases", "sample", "periodic"]),
    st.sampled_from([None, 0, "0.001", "0.5"]),
)
def test_no_class_compiles_over_its_ceiling_nor_without_a_human_path(
    level: int, consequence: list[str], review: str | None, sample: Any
) -> None:
    spec = {"level": level, "consequence": consequence, "review": review, "audit_sample": sample}
    spec = {name: part for name, part in spec.items() if part is not None}
    policy = make_policy(classes={"t": spec}, defaults={"audit_sample": 0})
    cls = compiled(policy).of("t")
    assert cls.level <= ceiling(consequence)
    assert cls.level <= level
    if cls.level is Level.CONFIRM:
        assert cls.baseline is not None
    if cls.level >= Level.REPORT and set(consequence) != {"internal"}:
        assert cls.audit_p >= 0.01


@pytest.mark.behaviour("C3", "E3", "A2")
def test_client_content_at_level_four_still_waits_for_a_person() -> None:
    policy = make_policy(classes={"post.publish": {"level": 4, "review": "periodic"}})
    found = decide(make_action(**post(type="post.publish")), policy)
    assert found.outcome >= Outcome.REVIEW
    assert queues(found)


@pytest.mark.behaviour("D7")
@pytest.mark.parametrize("consequence", [[], ["client_content"], ["high_risk"]])
def test_an_unclassified_class_and_a_client_facing_one_always_ask(consequence: list[str]) -> None:
    policy = make_policy(classes={"t": {"level": 4, "consequence": consequence}})
    assert rules(decide(make_action(type="t", confidence=1.0), policy)) == ["class.level"]


@pytest.mark.behaviour("D7")
def test_a_financial_class_without_a_limit_has_the_default_of_ten_percent() -> None:
    policy = make_policy(classes={"t": {"level": 3, "consequence": ["financial"]}})
    assert compiled(policy).of("t").limit == Decimal("0.10")


# --- what a class is made of ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "asks"),
    [
        ({"review": "all"}, ["class.review"]),
        ({"review": "above_risk"}, ["class.auto_max_change", "class.auto_min_confidence"]),
        ({"review": "edge_cases"}, ["class.auto_min_confidence"]),
        ({"review": "sample"}, []),
        ({"level": 4, "review": "periodic"}, []),
        ({"level": 4}, []),
        ({}, ["class.auto_max_change", "class.auto_min_confidence"]),
    ],
)
@pytest.mark.behaviour("C1", "E1")
def test_one_key_selects_what_people_see(spec: dict[str, Any], asks: list[str]) -> None:
    base = {"level": 3, "consequence": ["internal"], "auto_max_change": "0.10", "auto_min_confidence": "0.80"}
    policy = make_policy(classes={"t": {**base, **spec}})
    action = make_action(
        type="t", confidence=0.7, changes=[{"entity": {"account": "a"}, "field": "f", "before": 1, "after": 2}]
    )
    assert set(asks) <= set(rules(decide(action, policy)))
    if not asks:
        assert decide(action, policy).outcome is Outcome.EXECUTE


def test_an_unclassified_type_goes_to_the_default_queue() -> None:
    cls = compiled().of("no.such.type")
    assert cls.baseline is not None
    assert (cls.baseline.rule, cls.baseline.queue, cls.baseline.outcome) == (
        "class.undefined",
        "triage",
        Outcome.ESCALATE,
    )
    assert cls.label == "none"


def test_an_action_type_named_none_is_not_the_undefined_class() -> None:
    found = compiled(make_policy(classes={"none": {"level": 4, "consequence": ["internal"]}}))
    assert found.of("none").baseline is None
    assert found.of("other").baseline is not None


def test_the_window_reaches_as_far_as_the_classes_ask() -> None:
    reach = compiled().reach
    assert reach.ids_ms == 15 * 60_000 + LATENESS_MS
    assert reach.sums_ms == (3_600_000,)
    assert compiled(make_policy(classes={"bid.adjust": {"max_age": "2h"}})).reach.ids_ms == 2 * 3_600_000 + LATENESS_MS


def test_equal_windows_written_differently_are_one() -> None:
    policy = make_policy(classes={"bid.adjust": {"auto_max_change_per": {"60m": "0.5", "1h": None}}})
    assert compiled(policy).reach.sums_ms == (3_600_000,)


def test_a_cap_in_another_currency_is_converted() -> None:
    policy = make_policy(classes={"bid.adjust": {"auto_max_amount": {"USD": "100", "EUR": None}}})
    assert compiled(policy).of("bid.adjust").cap == Decimal(92)


# --- agents -----------------------------------------------------------------------------------------------------------


def book(*names: str) -> AgentBook:
    agents = {**dict.fromkeys(make_policy().agents), **{name: {"owner": "dana"} for name in names}}
    return AgentBook(make_policy(agents=agents))


@pytest.mark.parametrize(
    ("names", "agent", "known"),
    [
        ((), "anyone", True),
        (("*",), "anyone", True),
        (("bidder-7",), "bidder-7", True),
        (("bidder-7",), "bidder-77", False),
        (("bidder-7",), "bidder", False),
        (("bidder-*",), "bidder-7", True),
        (("bidder-*",), "bidder-", True),
        (("bidder-*",), "bidder", False),
        (("bidder-*",), "my-bidder-7", False),
        (("bidder-*", "copy-2"), "copy-2", True),
        (("bidder-*", "copy-2"), "copy-3", False),
    ],
)
def test_a_trailing_star_stands_for_any_rest_of_an_agents_id(names: tuple[str, ...], agent: str, known: bool) -> None:
    found = book(*names)
    assert (agent in found) is known
    assert (agent in found) is known


def test_strangers_do_not_fill_the_memory() -> None:
    found = book("bidder-7")
    for number in range(AGENTS_CACHED_MAX + 10):
        assert f"x-{number}" not in found
    assert len(found.known) == AGENTS_CACHED_MAX
    assert "bidder-7" in found


# --- rules and segments -----------------------------------------------------------------------------------------------

FIELDS = {"context.n": "number", "context.ok": "flag", "context.tags": "list", "context.sum": "money"}


def rule(match: dict[str, Any], **parts: Any) -> Policy:
    spec = {"id": "r", "classes": ["draft.internal"], "match": match, "then": "review", **parts}
    return make_policy(fields=FIELDS, rules=[spec])


@pytest.mark.parametrize(
    ("match", "context", "fires"),
    [
        ({"context.n": {"over": 5}}, {"n": 5}, False),
        ({"context.n": {"over": 5}}, {"n": "5.000000000000000001"}, True),
        ({"context.n": {"under": 5}}, {"n": 5}, False),
        ({"context.n": {"under": 5}}, {"n": 4.99}, True),
        ({"context.n": {"over": 1, "under": 5}}, {"n": 3}, True),
        ({"context.n": {"over": 1, "under": 5}}, {"n": 7}, False),
        ({"context.n": {"is": 5}}, {"n": "5.0"}, True),
        ({"context.n": {"over": 5}}, {}, False),
        ({"context.n": {"over": 5}}, {"n": "many"}, True),
        ({"context.ok": {"is": True}}, {"ok": True}, True),
        ({"context.ok": {"is": True}}, {"ok": False}, False),
        ({"context.ok": {"is": False}}, {"ok": False}, True),
        ({"context.ok": {"is": True}}, {"ok": 1}, True),
        ({"context.segment": {"is": "smb"}}, {"segment": "smb"}, True),
        ({"context.segment": {"in": ["smb", "ent"]}}, {"segment": "ent"}, True),
        ({"context.segment": {"in": ["smb", "ent"]}}, {"segment": "mid"}, False),
        ({"context.segment": {"not_in": ["smb"]}}, {"segment": "mid"}, True),
        ({"context.segment": {"not_in": ["smb"]}}, {"segment": "smb"}, False),
        ({"context.segment": {"contains": "SAAS"}}, {"segment": "mid-saas"}, True),
        ({"context.tags": {"contains": "a"}}, {"tags": ["b", "a"]}, True),
        ({"context.tags": {"contains": "a"}}, {"tags": ["ab"]}, False),
        ({"context.sum": {"over": {"EUR": "92"}}}, {"sum": {"amount": 100, "currency": "USD"}}, False),
        ({"context.sum": {"over": {"EUR": "92"}}}, {"sum": {"amount": "100.01", "currency": "USD"}}, True),
        ({"context.sum": {"over": {"USD": "100"}}}, {"sum": {"amount": "92", "currency": "EUR"}}, False),
        ({"context.sum": {"over": {"USD": "100"}}}, {"sum": {"amount": "92.01", "currency": "EUR"}}, True),
        ({"context.n": {"over": 1}, "context.ok": {"is": True}}, {"n": 2, "ok": False}, False),
        ({"context.n": {"over": 1}, "context.ok": {"is": True}}, {"n": 2, "ok": True}, True),
        ({"context.n": {"over": 1}, "context.ok": {"is": True}}, {"n": 2}, False),
    ],
)
def test_a_rule_fires_where_all_of_its_match_holds_or_cannot_be_told(
    match: dict[str, Any], context: dict[str, Any], fires: bool
) -> None:
    action = make_action(**post(type="draft.internal", context=context))
    assert ("rule.r" in rules(decide(action, rule(match)))) is fires


@pytest.mark.parametrize(
    ("then", "outcome", "asked"),
    [
        ("review", Outcome.REVIEW, ["triage"]),
        ("escalate", Outcome.ESCALATE, ["triage"]),
        ("refuse", Outcome.REFUSE, []),
    ],
)
def test_a_rule_says_what_happens_then(then: str, outcome: Outcome, asked: list[str]) -> None:
    found = decide(make_action(**post(type="draft.internal")), rule({"content.text": {"contains": "park"}}, then=then))
    assert (found.outcome, queues(found)) == (outcome, asked)


def test_a_rule_may_name_its_queue() -> None:
    found = decide(make_action(**post(type="draft.internal")), rule({"content.text": {"contains": "a"}}, queue="brand"))
    assert queues(found) == ["brand"]


def test_a_rule_for_another_class_is_not_asked() -> None:
    assert decide(make_action(), rule({"context.n": {"over": 0}})).outcome is Outcome.EXECUTE


@pytest.mark.behaviour("D11")
@pytest.mark.parametrize(("segment", "judged"), [("mid-saas", True), ("enterprise", False), (None, False), (7, True)])
def test_a_gate_judges_its_segment_and_what_cannot_be_told(segment: Any, judged: bool) -> None:
    policy = make_policy(gates={"first_line": {"state": "enforce"}})
    found = decide(make_action(**first_line("Dear Acme " + LONG, context={"segment": segment})), policy)
    assert (found.outcome is not Outcome.EXECUTE) is judged
