"""What an action is about, and how large one may be."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.action import EVIDENCE_MAX, FLAGS_MAX, LEGS_MAX, NOWHERE, NUMBER, Entity, accounts_of, entity_of
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from support.make import action_bytes, change, make_action


@pytest.mark.parametrize(
    ("parts", "entity"),
    [
        ({"changes": [change()]}, Entity("acc-17", "cmp-204")),
        ({"changes": [change(), change(field="budget")]}, Entity("acc-17", "cmp-204")),
        ({"changes": [change(), change(campaign="cmp-311")]}, Entity("acc-17")),
        ({"changes": [change(), change(account="acc-18")]}, Entity("acc-17")),
        ({"changes": [change(campaign=None), change()]}, Entity("acc-17")),
        ({"changes": [change(account=None, campaign=None)]}, NOWHERE),
        ({"changes": ..., "entity": {"account": "acc-1"}}, Entity("acc-1")),
        ({"changes": [], "entity": {"account": "acc-1", "campaign": "c"}}, Entity("acc-1", "c")),
        ({"changes": ...}, NOWHERE),
        ({"changes": [change()], "entity": {"account": "elsewhere"}}, Entity("acc-17", "cmp-204")),
    ],
)
def test_the_entity_is_the_campaign_all_legs_share_else_the_first_legs_account(
    parts: dict[str, Any], entity: Entity
) -> None:
    assert entity_of(make_action(**parts)) == entity


def test_every_account_that_a_leg_touches_is_named() -> None:
    action = make_action(changes=[change(), change(account="acc-18"), change(account=None)])
    assert accounts_of(action) == {"acc-17", "acc-18", None}


@pytest.mark.parametrize(
    ("part", "most"),
    [
        ({"flags": ["f"]}, FLAGS_MAX),
        ({"evidence": [{"signal": "s"}]}, EVIDENCE_MAX),
        ({"changes": [{"entity": {}, "field": "f"}]}, LEGS_MAX),
    ],
)
def test_an_action_has_at_most_so_many_of_each(part: dict[str, list[Any]], most: int) -> None:
    ((name, (one,)),) = part.items()
    assert isinstance(decode_bytes(action_bytes(**{name: [one] * most})), Decoded)
    assert isinstance(decode_bytes(action_bytes(**{name: [one] * (most + 1)})), Undecodable)


@pytest.mark.parametrize("text", ["0", "-1", "1.20", "007", "1e5", "-1.5E-10", "9" * 18])
def test_a_string_of_plain_digits_is_a_number(text: str) -> None:
    assert NUMBER.fullmatch(text)


@pytest.mark.parametrize(
    "text", ["", " 1", "1 ", "1_000", "NaN", "Infinity", "1.", ".5", "+1", "0x1", "１", "1\n", "9" * 31, "1e100"]
)
def test_a_string_that_merely_resembles_a_number_is_none(text: str) -> None:
    assert not NUMBER.fullmatch(text)


def test_unknown_fields_are_ignored_and_kept_in_the_bytes() -> None:
    decoded = decode_bytes(action_bytes(autonomy=4, risk="none"))
    assert isinstance(decoded, Decoded)
    assert decoded.action == make_action()
    assert b'"risk":"none"' in decoded.raw
