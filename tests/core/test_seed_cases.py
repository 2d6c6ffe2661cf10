"""The cases beside the example policy hold, and they reach every part of it that a single case can reach."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from ruamel.yaml import YAML

from hitl_stream.core.action import Action
from hitl_stream.core.events import Outcome
from hitl_stream.core.policy.cases import Case, Report, read_cases, run
from hitl_stream.wire.codec import Decoded, decode_bytes
from support.make import acme, action_bytes, compiled, decide, first_line, make_action, make_policy, queues, rules

NOW = datetime(2026, 11, 21, 7, 10, tzinfo=UTC)
SHOWS = {
    "28 %": ["B1"],
    "exactly": ["B3"],
    "one cent over": ["B3"],
    "one unit over": ["B3"],
    "10,000": ["A6"],
    "10,869": ["A6"],
    "negative": ["A6"],
    "without evidence is escalated": ["B1"],
    "strategy change": ["B4"],
    "creative batch": ["B4"],
    "ethical": ["A5"],
    "flag that": ["C4"],
    "brand flag": ["C4", "B6"],
    "contraction": ["B6", "C7"],
    "claim": ["C8"],
    "119": ["D2"],
    "120": ["D2", "D1"],
    "everything at once": ["D2"],
    "internal draft": ["D8"],
    "a type that nobody": ["D7"],
}
"""Which behaviours a case shows, by words of its name."""


@cache
def cases() -> tuple[Case, ...]:
    text = files("hitl_stream.dev.policies").joinpath("acme.test.yaml").read_text("utf-8")
    return read_cases(_plain(YAML(typ="rt", pure=True).load(text)), acme().policy)


def _plain(value: Any) -> Any:
    """Return YAML 1.2's plain data, times as the text that was written."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC).isoformat()
    if isinstance(value, float):
        return float(value)
    return (
        int(value)
        if isinstance(value, int) and not isinstance(value, bool)
        else value
        if value is None
        else _text(value)
    )


def _text(value: Any) -> Any:
    return value if isinstance(value, bool) else str(value)


def read(fields: Any) -> Action | str:
    decoded = decode_bytes(action_bytes(**{"changes": ..., "confidence": ..., "evidence": ..., **fields}))
    return decoded.action if isinstance(decoded, Decoded) else decoded.why


def report(*some: Case) -> Report:
    return run(some or cases(), acme().policy, acme().digest, read, NOW)


def _param(case: Case) -> Any:
    ids = sorted({each for words, shows in SHOWS.items() if words in case.name for each in shows})
    return pytest.param(case, id=case.name, marks=[pytest.mark.behaviour(*ids)] if ids else [])


@pytest.mark.parametrize("case", [_param(case) for case in cases()])
def test_the_example_policy_answers_as_its_owner_expects(case: Case) -> None:
    (result,) = report(case).results
    assert result.differences == ()


def test_the_words_that_tie_cases_to_behaviours_are_all_in_use() -> None:
    unused = [words for words in SHOWS if not any(words in case.name for case in cases())]
    assert unused == []


def test_every_part_of_the_policy_that_one_case_can_reach_is_reached() -> None:
    unreached = [(each.part, each.name) for each in report().coverage if not each.cases]
    # The band for escalation takes an unusual result besides, and so a past.
    assert unreached == [("band", "escalate")]


@pytest.mark.behaviour("A6")
@pytest.mark.parametrize(("amount", "rate"), [("10869.57", "0.92")])
def test_the_rate_at_which_another_currency_was_converted_is_in_the_decision(amount: str, rate: str) -> None:
    budget = {"amount": amount, "currency": "USD"}
    action = make_action(type="post.own", changes=..., entity={"account": "a"}, content={"text": "Fine."},
                         context={"campaign_budget": budget})  # fmt: skip
    (reason,) = decide(action).reasons
    assert (reason.rule, reason.rate) == ("rule.big-campaign", rate)


# --- five hundred first lines -----------------------------------------------------------------------------------------

GOOD = "Hello {name}, we saw that {company} is hiring. Shall we talk about your ads on Tuesday?"


def five_hundred() -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Return 500 first lines with what the tone plugin says of each: 130 fail, each of six ways and of two at once."""
    found = []
    for number in range(500):
        company, text, tone = f"Company {number}", GOOD, 0.7 + number % 30 / 100
        place = number * 37 % 500
        if place < 60:
            text = text + " " + "x" * 120
        elif place < 100:
            text = text.replace("{company}", "your company")
        elif place < 125:
            tone = place / 200
        elif place < 130:
            text, tone = "y" * 120, 0.1
        line = text.format(name=f"N{number}", company=company)
        parts = first_line(line, action_id=f"fl-{number}", context={"company": company}, agent={"id": "copy-2"})
        found.append((parts, {"tone": tone}))
    return found


@pytest.mark.behaviour("D3")
def test_of_500_first_lines_under_an_enforced_gate_370_run_and_130_are_queued() -> None:
    policy = make_policy(gates={"first_line": {"state": "enforce"}})
    answers = [decide(make_action(**parts), policy, verdicts=verdicts) for parts, verdicts in five_hundred()]
    outcomes = [answer.outcome for answer in answers]
    assert (outcomes.count(Outcome.EXECUTE), outcomes.count(Outcome.REVIEW)) == (370, 130)
    assert {tuple(queues(answer)) for answer in answers} == {(), ("sdr",)}
    assert {rule for answer in answers for rule in rules(answer)} == {
        "validator.short", "validator.names_company", "validator.tone",
    }  # fmt: skip


@pytest.mark.behaviour("D1")
def test_the_same_500_under_a_gate_that_observes_all_run_and_130_are_labelled() -> None:
    answers = [decide(make_action(**parts), verdicts=verdicts) for parts, verdicts in five_hundred()]
    assert {answer.outcome for answer in answers} == {Outcome.EXECUTE}
    assert sum(bool(answer.reasons) for answer in answers) == 130


def test_the_example_policy_compiles_to_every_class_that_it_writes() -> None:
    assert set(compiled().classes) == set(acme().policy.classes)
