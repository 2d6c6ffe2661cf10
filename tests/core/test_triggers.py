"""The built-in triggers: each forces an escalation with its own code, at any level and any confidence."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.events import Outcome
from hitl_stream.core.history import recall
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.route import Route
from hitl_stream.core.window import NORM_VALUES_MIN
from support.make import NOW_MS, change, decide, make_action, make_policy, make_window, post, queues, rules

EUR = "EUR"
UP = {"signal": "roas", "value": 3.0, "before": 2.0, "better": "up"}


def money(amount: str, currency: str = EUR) -> dict[str, str]:
    return {"amount": amount, "currency": currency}


def budget_policy(*needs: str, root: str = "context", **parts: Any) -> Policy:
    fields = {f"{root}.budget": "money", f"{root}.spend": "money"}
    return make_policy(fields=fields, classes={"bid.adjust": {"needs": list(needs)}}, **parts)


def spend(budget: str, spent: str, *changes: dict[str, Any], currency: str = EUR, **parts: Any) -> Route:
    context = {"budget": money(budget), "spend": money(spent, currency)}
    action = make_action(changes=list(changes or [change()]), context=context, **parts)
    return decide(action, budget_policy())


# --- budget overrun ---------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A5")
@pytest.mark.parametrize(
    ("budget", "spent", "sides", "fires"),
    [
        ("100.00", "99.90", ("1.20", "1.30"), False),
        ("100.00", "99.91", ("1.20", "1.30"), True),
        ("100.00", "100.00", ("1.30", "1.20"), False),
        ("100.00", "100.01", ("1.30", "1.20"), True),
        ("0.30", "0.10", ("1.00", "1.20"), False),
    ],
)
def test_spend_plus_this_change_over_the_budget_escalates(
    budget: str, spent: str, sides: tuple[str, str], fires: bool
) -> None:
    found = spend(budget, spent, change(*sides))
    assert ("budget_overrun" in rules(found)) is fires
    assert not fires or found.outcome is Outcome.ESCALATE


def test_only_what_goes_up_adds_to_the_spend() -> None:
    down_and_up = [change("50", "10", campaign="a"), change("10", "11", campaign="b")]
    assert "budget_overrun" not in rules(spend("101", "100", *down_and_up))
    assert "budget_overrun" in rules(spend("100.99", "100", *down_and_up))


def test_the_overrun_is_exact_whatever_the_size_of_the_numbers() -> None:
    big = "9" * 18
    for after, fires in (("1.00000000001", False), ("1.000000000011", True)):
        assert ("budget_overrun" in rules(spend(f"{big}.00000000001", big, change("1", after)))) is fires


def test_the_rate_used_is_recorded() -> None:
    (reason,) = [each for each in spend("100", "200", currency="USD").reasons if each.rule == "budget_overrun"]
    assert reason.rate == "0.92"


@pytest.mark.parametrize("context", [{}, {"budget": money("1")}, {"spend": money("1")}])
@pytest.mark.parametrize(("needs", "fires"), [((), False), (("budget",), True), (("spend",), True)])
def test_an_unknown_budget_or_spend_escalates_where_the_class_needs_it(
    context: dict[str, Any], needs: tuple[str, ...], fires: bool
) -> None:
    found = decide(make_action(context=context), budget_policy(*needs))
    assert ("budget_overrun" in rules(found)) is fires


def test_a_class_that_needs_a_budget_that_no_field_declares_escalates() -> None:
    policy = make_policy(classes={"bid.adjust": {"needs": ["budget"]}})
    assert "budget_overrun" in rules(decide(make_action(), policy))


@pytest.mark.parametrize(
    ("context", "parts"),
    [
        ({"budget": "lots", "spend": money("1")}, {}),
        ({"budget": money("1", "CHF"), "spend": money("1")}, {}),
        ({"budget": money("1"), "spend": money("1")}, {"changes": [change(unit="CHF")]}),
        ({"budget": money("1"), "spend": money("1")}, {"changes": [change(None, "2")]}),
        ({"budget": money("1"), "spend": money("1")}, {"changes": [change("old", "new")]}),
    ],
)
def test_a_budget_that_cannot_be_computed_escalates(context: dict[str, Any], parts: dict[str, Any]) -> None:
    assert "budget_overrun" in rules(decide(make_action(context=context, **parts), budget_policy()))


def test_the_platforms_word_counts_where_the_policy_declares_it() -> None:
    policy = budget_policy(root="facts")
    claims = {"budget": money("1000"), "spend": money("0")}
    facts = {"budget": money("100"), "spend": money("100")}
    assert "budget_overrun" in rules(decide(make_action(context=claims), policy, facts=facts))


# --- ethical ----------------------------------------------------------------------------------------------------------

ETHICAL = make_policy(ethical={"terms": ["lose weight fast", "minors"]})


@pytest.mark.behaviour("A5")
@pytest.mark.parametrize(
    "parts",
    [
        {"flags": ["ethical"]},
        {"rationale": "Targets MINORS."},
        post("Lose weight fast!", type="draft.internal"),
        post("For minors", type="bid.adjust"),
    ],
)
@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
def test_an_ethical_concern_escalates_at_any_level_and_confidence(parts: dict[str, Any], confidence: float) -> None:
    found = decide(make_action(**{**parts, "confidence": confidence}), ETHICAL)
    assert found.outcome is Outcome.ESCALATE
    assert "ethical" in rules(found)
    assert "triage" in queues(found)


@pytest.mark.parametrize("text", ["minority report", "lose weight", "A quiet day."])
def test_a_denied_term_counts_as_whole_words_only(text: str) -> None:
    assert "ethical" not in rules(decide(make_action(**post(text, type="draft.internal")), ETHICAL))


# --- wrong signal -----------------------------------------------------------------------------------------------------

GOAL = make_policy(classes={"bid.adjust": {"goal": "cpa_7d"}})


def signal(name: str, value: Any, before: Any, better: str | None = "down") -> dict[str, Any]:
    return {"signal": name, "value": value, "before": before, "better": better}


@pytest.mark.behaviour("B6")
@pytest.mark.parametrize(
    ("evidence", "fires"),
    [
        ([signal("cpa_7d", 12, 13)], False),
        ([signal("cpa_7d", 14, 13)], False),
        ([signal("cpa_7d", 12, 13), signal("ctr", 2, 1, "up")], False),
        ([signal("cpa_7d", 14, 13), signal("ctr", 2, 1, "up")], True),
        ([signal("cpa_7d", 14, 13), signal("ctr", 1, 2, "up")], False),
        ([signal("cpa_7d", 14, 13), signal("ctr", 2, 1, "up"), signal("cvr", 1, 2, "up")], False),
        ([signal("cpa_7d", "14", "13"), signal("ctr", "2", "1", "up")], True),
        ([signal("cpa_7d", None, None), signal("ctr", 2, 1, "up")], False),
        ([signal("cpa_7d", 14, 13, None), signal("ctr", 2, 1, "up")], False),
        ([signal("ctr", 2, 1, "up")], True),
        ([], True),
    ],
)
def test_a_goal_that_is_not_cited_or_got_worse_while_the_rest_gained_escalates(
    evidence: list[dict[str, Any]], fires: bool
) -> None:
    found = decide(make_action(evidence=evidence), GOAL)
    assert ("wrong_signal" in rules(found)) is fires
    assert not fires or found.outcome is Outcome.ESCALATE


def test_a_class_without_a_goal_asks_for_no_signal() -> None:
    assert "wrong_signal" not in rules(decide(make_action(evidence=[])))


# --- unusual ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A5", "E4")
@pytest.mark.parametrize(("after", "unusual"), [("100.5", False), ("104", False), ("105", True), ("96", True)])
def test_a_result_far_from_what_the_agent_usually_does_escalates(after: str, unusual: bool) -> None:
    window = make_window()
    draft = window.draft()
    draft.at(NOW_MS - 300_000)
    for number in range(NORM_VALUES_MIN + 1):
        action = make_action(changes=[change("100", "101", campaign=f"c{number}")])
        recall(action, "acme", draft)
    window.apply(draft)
    found = decide(make_action(changes=[change("100", after)], confidence=1.0), window=window)
    assert ("unusual" in rules(found)) is unusual
    assert not unusual or found.outcome is Outcome.ESCALATE


@pytest.mark.behaviour("E4")
def test_a_low_confidence_is_another_trigger_than_an_unusual_result() -> None:
    found = decide(make_action(confidence=0.59))
    assert rules(found) == ["class.auto_min_confidence"]
    assert found.outcome is Outcome.REVIEW
