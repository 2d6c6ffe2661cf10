"""The card: what a person sees is what will run, the same bytes each time; and no look is told from another."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from hitl_stream.console.card import REASONS_MAX, card
from hitl_stream.console.store import OpenItem
from hitl_stream.console.view import open_item
from hitl_stream.core.events import Purpose
from hitl_stream.wire.desk_records import OpinionRow, decode_review
from hitl_stream.wire.verdicts import view_of
from support.make import acme, change, make_policy, post
from support.view import review


def item(**parts: Any) -> OpenItem:
    """Return an item as the view hands it out."""
    return open_item(decode_review(review(**parts).value))


def parts(**fields: Any) -> Any:
    """Return the card of an item, decoded."""
    policy = fields.pop("policy", acme().policy)
    return json.loads(card(item(**fields), policy).text)


def test_the_view_is_the_digest_of_the_bytes_that_are_shown():
    shown = card(item(), acme().policy)

    assert shown.view == view_of(shown.text)


def test_the_same_item_gives_the_same_bytes():
    assert card(item(), acme().policy) == card(item(), acme().policy)


def test_another_value_gives_another_view():
    assert card(item(), acme().policy).view != card(item(changes=[change("1.20", "1.31")]), acme().policy).view


def test_a_change_stands_there_from_and_to_and_by_how_much():
    (leg,) = parts(changes=[change("1.20", "1.80")])["changes"]

    assert (leg["field"], leg["before"], leg["after"], leg["unit"]) == ("bid", "1.20", "1.80", "EUR")
    assert (leg["delta"], leg["ratio"]) == ("+0.60", "+0.5000")


@pytest.mark.parametrize(("before", "after"), [("0", "1.00"), ("quiet", "loud"), (None, "1.00"), (True, False)])
def test_a_change_without_a_relative_size_has_none(before: Any, after: Any):
    (leg,) = parts(changes=[change(before, after)])["changes"]

    assert leg["ratio"] is None
    assert leg["after"] == after


def test_what_the_model_does_not_know_is_shown_beside():
    hidden = {"force": True, "changes": [{**change(), "silent": {"raise": 9}}], "content": {"text": "x", "pixel": "u"}}

    assert parts(**hidden)["beside"] == {"/force": True, "/changes/0/silent": {"raise": 9}, "/content/pixel": "u"}


def test_the_agents_words_stand_apart_as_text():
    shown = parts(rationale="<b>Trust me</b>", confidence=0.99)

    assert shown["agent_says"] == {"rationale": "<b>Trust me</b>", "confidence": 0.99}
    assert "rationale" not in shown


@pytest.mark.behaviour("D9")
def test_output_stands_beside_its_source():
    shown = parts(
        **post("New text.", account="acc-17")
        | {"content": {"text": "New text.", "source": "Old text."}, "changes": [change()]}
    )

    assert (shown["publishes"]["text"], shown["source"]) == ("New text.", "Old text.")


def test_a_score_that_its_class_hides_comes_after_the_first_judgement():
    policy = make_policy(classes={"bid.adjust": {"hide_score": True}})
    first, second = parts(policy=policy), parts(policy=policy, queues={"trading": ("ben",)})

    assert (first["score"], first["score_hidden"]) == (None, True)
    assert (second["score"]["total"], second["score_hidden"]) == (0.4, False)


def test_opinions_come_after_the_first_judgement():
    opinions = {"opinions": (OpinionRow(reviewer="ai", verdict="approve", confidence=0.9),)}

    assert parts(beside=opinions)["opinions"] is None
    assert parts(beside=opinions, queues={"trading": ("ben",)})["opinions"][0]["reviewer"] == "ai"


@pytest.mark.behaviour("E16")
def test_what_the_agent_may_do_alone_stands_there():
    limits = parts()["limits"]

    assert (limits["level"], limits["auto_max_change"], limits["auto_max_amount"]) == (3, "0.20", {"EUR": "5.00"})


def test_a_class_that_the_policy_does_not_have_is_said_to_be_unknown():
    assert parts(type="unheard.of")["limits"] == {"known": False, "level": 2}


def test_the_strictest_reasons_come_first_and_the_rest_is_counted():
    one = item()
    rows = tuple(
        msgspec.structs.replace(one.reasons[0], rule=f"r{n}", outcome="ESCALATE" if n == 6 else "REVIEW")
        for n in range(8)
    )
    shown = json.loads(card(msgspec.structs.replace(one, reasons=rows), acme().policy).text)

    assert shown["reasons"][0]["rule"] == "r6"
    assert (len(shown["reasons"]), shown["reasons_more"]) == (REASONS_MAX, 8 - REASONS_MAX)


def test_what_can_be_changed_is_listed_with_its_value():
    assert parts(changes=[change("1.20", "1.80")])["can_change"] == {"/changes/0/after": "1.80"}


@pytest.mark.parametrize("purpose", [Purpose.CANARY, Purpose.AUDIT, Purpose.SECOND])
def test_no_card_tells_a_second_look_from_a_first_one(purpose: Purpose):
    first, other = card(item(), acme().policy), card(item(purpose=purpose, for_="ana", barred=("ben",)), acme().policy)

    assert first == other


def test_no_card_says_the_actions_id():
    assert "act-secret" not in card(item(action_id="act-secret"), acme().policy).text
