"""Each kind of validator: what passes, what fails, and what it says it saw."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.fields import FieldError
from hitl_stream.core.policy.model import TEXT_LENGTH_MAX
from hitl_stream.core.validators import Fault, Finding, PluginError, checker, plugin_of
from support.make import FAULT, LINE, make_action, make_policy, post

FIELD = {"field": "content.text", "error": "tone"}


def check(name: str, text: str | None = LINE, verdicts: Any = None, spec: Any = None, **parts: Any) -> Finding | None:
    """Run one validator of `acme.yaml`, or one of its own, over a text."""
    policy = make_policy(validators={name: {**FIELD, **spec}}) if spec else make_policy()
    content = {"text": text, "platform": parts.pop("platform", "x")}
    action = make_action(**{**post(), "content": content, **parts})
    return checker(name, policy.validators[name], policy)(action, {}, verdicts or {})


# --- length -----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D2")
@pytest.mark.parametrize(("count", "fails"), [(1, False), (119, False), (120, True), (121, True)])
def test_a_text_under_120_characters_passes_and_120_fails(count: int, fails: bool) -> None:
    found = check("short", "x" * count)
    assert found == (Finding(f"{count} characters", "under 120") if fails else None)


@pytest.mark.parametrize("character", ["é", "漢", "🙂", "\u2019"])
def test_a_character_counts_once_however_many_bytes_it_has(character: str) -> None:
    assert check("short", character * 119) is None
    assert check("short", character * 120) is not None


@pytest.mark.parametrize(
    ("spec", "count", "fails"),
    [
        ({"max": 3}, 3, False),
        ({"max": 3}, 4, True),
        ({"min": 3}, 3, False),
        ({"min": 3}, 2, True),
        ({"min": 2, "max": 3}, 1, True),
        ({"min": 2, "max": 3}, 4, True),
        ({"min": 2, "max": 3}, 2, False),
    ],
)
def test_a_length_may_have_a_least_and_a_most(spec: dict[str, int], count: int, fails: bool) -> None:
    assert (check("l", "x" * count, spec={"kind": "length", **spec}) is not None) is fails


@pytest.mark.behaviour("C7")
@pytest.mark.parametrize(
    ("platform", "count", "fails"),
    [("x", 280, False), ("x", 281, True), ("linkedin", 3_000, False), ("linkedin", 3_001, True)],
)
def test_a_caption_is_as_long_as_its_platform_allows(platform: str, count: int, fails: bool) -> None:
    assert (check("caption", "x" * count, platform=platform) is not None) is fails


@pytest.mark.parametrize("platform", ["myspace", "X", None])
def test_a_platform_that_the_policy_does_not_know_fails(platform: str | None) -> None:
    assert check("caption", "x", platform=platform) is not None


# --- contains ---------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D2")
@pytest.mark.parametrize(
    ("text", "company", "fails"),
    [
        ("Hello Acme", "Acme", False),
        ("hello ACME!", "Acme", False),
        ("Straße", "STRASSE", False),
        ("Hello", "Acme", True),
        ("Hello Acme", "Acme Ltd", True),
        ("Hello", "", True),
        ("Hello", "  ", True),
        ("Hello", None, True),
        (None, "Acme", True),
        ("", "Acme", True),
    ],
)
def test_a_text_names_the_company_it_is_for(text: str | None, company: str | None, fails: bool) -> None:
    assert (check("names_company", text, context={"company": company}) is not None) is fails


def test_every_missing_term_is_listed() -> None:
    spec = {"kind": "contains", "terms": ["one", "two", "three"]}
    assert check("c", "Two birds", spec=spec) == Finding("not found", "one, three")
    assert check("c", "one two three", spec=spec) is None


def test_a_company_that_is_no_text_is_an_error() -> None:
    with pytest.raises(FieldError):
        check("names_company", "Acme", context={"company": 5})


# --- mentions and forbid ----------------------------------------------------------------------------------------------


@pytest.mark.behaviour("B6", "C8")
@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("It is clinically proven to help.", True),
        ("CLINICALLY PROVEN.", True),
        ("(clinically proven)", True),
        ("clinically provenance", False),
        ("unclinically proven", False),
        ("clinically  proven", False),
        ("clinically unproven", False),
        ("A nice day.", False),
        ("", False),
        (None, False),
    ],
)
def test_a_claim_is_found_as_whole_words(text: str | None, fails: bool) -> None:
    assert (check("claims", text) is not None) is fails


@pytest.mark.parametrize("term", ["c++", "$$$", "100%", "a.b", "(x)"])
def test_a_term_is_taken_literally(term: str) -> None:
    spec = {"kind": "mentions", "terms": [term]}
    assert check("m", f"we use {term} here", spec=spec) is not None
    assert check("m", "we use aXb here", spec=spec) is None


@pytest.mark.behaviour("B6")
@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("We don't like it", True),
        ("We don\u2019t like it", True),
        ("can't, won't", True),
        ("We do not like it", False),
        ("the ant's nest", False),
        ("n'tx", False),
        (None, False),
    ],
)
def test_a_contraction_is_found_with_either_apostrophe(text: str | None, fails: bool) -> None:
    assert (check("brand_voice", text) is not None) is fails


def test_each_pattern_that_was_found_is_shown() -> None:
    spec = {"kind": "forbid", "patterns": ["[0-9]+", "foo", "bar"]}
    assert check("f", "foo 42", spec=spec) == Finding("42, foo", "none of it")


@pytest.mark.parametrize("name", ["claims", "brand_voice"])
def test_a_text_too_long_to_be_searched_fails(name: str) -> None:
    assert check(name, "x" * TEXT_LENGTH_MAX) is None
    assert check(name, "x" * (TEXT_LENGTH_MAX + 1)) is not None


def test_a_pattern_that_matches_everything_does_not_make_the_reason_as_long_as_the_text() -> None:
    found = check("f", "x" * TEXT_LENGTH_MAX, spec={"kind": "forbid", "patterns": ["x+"] * 50})
    assert found is not None
    assert len(found.saw) < TEXT_LENGTH_MAX


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "verdict", "fails"),
    [
        ("negative", -0.3, False),
        ("negative", -0.31, True),
        ("negative", 1.0, False),
        ("negative", math.nan, True),
        ("tone", 0.7, False),
        ("tone", 0.69, True),
        ("tone", math.nan, True),
        ("tone", -math.inf, True),
    ],
)
def test_a_verdict_below_the_least_fails(name: str, verdict: float, fails: bool) -> None:
    assert (check(name, verdicts={name: verdict}) is not None) is fails


@pytest.mark.parametrize("name", ["negative", "tone"])
@pytest.mark.parametrize("verdicts", [{}, {"other": 1.0}, {"negative": FAULT, "tone": FAULT}])
def test_without_a_verdict_there_is_an_error_and_never_a_pass(name: str, verdicts: dict[str, float | Fault]) -> None:
    with pytest.raises(PluginError):
        check(name, verdicts=verdicts)


def test_a_fault_says_how_the_plugin_failed() -> None:
    with pytest.raises(PluginError, match="sentiment: died"):
        check("negative", verdicts={"negative": FAULT})


@pytest.mark.parametrize("name", ["negative", "tone", "short", "caption", "names_company"])
@pytest.mark.parametrize("text", [None, ""])
def test_a_text_that_is_absent_cannot_be_judged_and_fails(name: str, text: str | None) -> None:
    assert check(name, text, {name: 1.0}, context={"company": "Acme"}) is not None


def test_sentiment_and_plugins_are_judged_beforehand_and_nothing_else_is() -> None:
    validators = make_policy().validators
    assert {name: plugin_of(spec) for name, spec in validators.items() if plugin_of(spec)} == {
        "tone": "tone",
        "negative": "sentiment",
    }


@given(st.text(max_size=300), st.sampled_from(["short", "caption", "brand_voice", "claims", "names_company"]))
def test_no_text_makes_a_check_raise(text: str, name: str) -> None:
    action = make_action(**{**post(text.encode("utf-8", "replace").decode()), "context": {"company": "Acme"}})
    policy = make_policy()
    checker(name, policy.validators[name], policy)(action, {}, {})
