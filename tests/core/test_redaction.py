"""What is hidden is gone from every place in which a record holds it, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.redaction import (
    HIDDEN,
    decision_without,
    feedback_without,
    hidden_fields,
    preference_without,
)
from support.make import acme, make_policy

ANNA = "anna@example.com"
GONE = {HIDDEN: True}


def decision(**action: Any) -> dict[str, Any]:
    return {
        "item": "i", "tenant": "acme", "note": None, "shown": f'{{"to":"{ANNA}"}}', "jws": "a.b.c",
        "action": {"agent": {"id": "copy-2"}, "context": {"email": ANNA, "segment": "saas"}, **action},
    }  # fmt: skip


def test_the_policy_says_which_fields_are_hidden():
    assert hidden_fields(acme().policy) == {"context.email"}
    assert hidden_fields(make_policy(fields={"context.email": "text"})) == frozenset()
    both = hidden_fields(acme().policy, make_policy(fields={"content.text": {"type": "text", "redact": True}}))
    assert both == {"context.email", "content.text"}


@pytest.mark.behaviour("A12")
def test_a_hidden_field_is_replaced_and_so_are_the_copies_of_the_action():
    hidden = decision_without(decision(), ["context.email"])
    assert hidden.record["action"]["context"] == {"email": GONE, "segment": "saas"}
    assert (hidden.record["shown"], hidden.record["jws"]) == (GONE, GONE)
    assert set(hidden.paths) == {"/action/context/email", "/shown", "/jws"}


def test_where_the_action_is_not_known_nobody_can_say_what_was_shown():
    record = {**decision(), "action": None}
    hidden = decision_without(record, ["context.email"])
    assert hidden.paths == ("/shown", "/jws")
    assert decision_without(record, []).paths == ()


def test_a_record_that_holds_nothing_hidden_stays_as_it_is():
    record = decision(context={"segment": "saas"})
    hidden = decision_without(record, ["context.email"])
    assert hidden.record == record
    assert hidden.paths == ()


@pytest.mark.parametrize(
    ("text", "is_hidden"),
    [(f"I wrote to {ANNA} already", True), (f"{ANNA.upper()} is wrong", True), ("the segment is wrong", False)],
)
def test_a_text_that_quotes_a_hidden_value_is_hidden_too(text: str, is_hidden: bool):
    record = {**decision(rationale=text), "note": text}
    hidden = decision_without(record, ["context.email"]).record
    assert (hidden["note"] == GONE) is is_hidden
    assert (hidden["action"]["rationale"] == GONE) is is_hidden


def test_a_value_too_short_to_look_for_is_hidden_in_its_own_place_alone():
    record = {**decision(context={"email": "at"}), "note": "that was bad"}
    hidden = decision_without(record, ["context.email"]).record
    assert hidden["action"]["context"]["email"] == GONE
    assert hidden["note"] == "that was bad"


def test_an_account_is_hidden_wherever_an_action_names_it():
    change = {"entity": {"account": "acc-17", "campaign": "cmp-1"}, "field": "bid"}
    record = decision(entity={"account": "acc-17"}, changes=[change, change])
    hidden = decision_without(record, ["entity.account"]).record["action"]
    assert hidden["entity"]["account"] == GONE
    assert [each["entity"] for each in hidden["changes"]] == [{"account": GONE, "campaign": "cmp-1"}] * 2
    assert hidden["changes"][0]["field"] == "bid"


def test_a_hidden_name_is_hidden_where_the_record_repeats_it():
    record = {**decision(agent={"id": "copy-2"}), "agent": {"id": "copy-2", "version": "1"}}
    hidden = decision_without(record, ["agent.id", "tenant"]).record
    assert hidden["agent"] == {"id": GONE, "version": "1"}
    assert hidden["tenant"] == GONE


def feedback() -> dict[str, Any]:
    return {
        "tenant": "acme", "agent": {"id": "copy-2"}, "note": "half of Hello Anna would do",
        "diff": [
            {"path": "/content/text", "before": "Hello Anna", "after": "Hello"},
            {"path": "/changes/0/after", "before": "1.30", "after": "1.10"},
        ],
    }  # fmt: skip


def test_in_feedback_a_hidden_text_is_hashed_where_there_is_a_key():
    hidden = feedback_without(feedback(), ["content.text"], lambda text: f"#{len(text)}")
    assert hidden.record["diff"][0] == {
        "path": "/content/text",
        "before": {HIDDEN: True, "digest": "#10"},
        "after": {HIDDEN: True, "digest": "#5"},
    }
    assert hidden.record["diff"][1] == feedback()["diff"][1]
    assert hidden.record["note"] == GONE


def test_in_feedback_without_a_key_a_hidden_text_is_gone():
    hidden = feedback_without(feedback(), ["content.text"], None)
    assert (hidden.record["diff"][0]["before"], hidden.record["diff"][0]["after"]) == (GONE, GONE)


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ([], set()),
        (["content.text"], {"chosen", "rejected"}),
        (["content.source"], {"prompt"}),
        (["tenant"], {"tenant"}),
    ],
)
def test_of_a_preference_both_outputs_are_texts_and_the_prompt_is_their_source(fields: list[str], gone: set[str]):
    record = {"tenant": "acme", "prompt": "write", "chosen": "one word", "rejected": "two words", "choice": "left"}
    hidden = preference_without(record, fields).record
    assert {name for name, value in hidden.items() if value == GONE} == gone


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=3, max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(secret=TEXT, before=st.text(max_size=5), after=st.text(max_size=5), rest=PLAIN)
def test_no_text_of_the_record_holds_the_secret_any_more(secret: str, before: str, after: str, rest: Any):
    record = {
        "item": "i", "note": before + secret + after, "shown": secret, "jws": secret,
        "action": {"context": {"email": secret}, "rationale": before + secret, "evidence": rest},
    }  # fmt: skip
    hidden = decision_without(record, ["context.email"])

    def texts(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [text for part in parts for text in texts(part)]

    assert not any(secret.casefold() in text.casefold() for text in texts(hidden.record))
    assert json.dumps(hidden.record)
