"""Which dead letters can be published again, and what a record looks like in a line."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.cli.dlq import Back, back_of
from hitl_stream.cli.tail import line_of, row_of
from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.dead_letter import dead_letter
from support.make import FakeRecord

INPUTS = frozenset({"hitl.actions"})
HEADERS = (("traceparent", b"00-1"), ("ce_id", b"a-1"))


def letter(topic: str = "hitl.actions", value: bytes | None = b"{broken", headers: Any = HEADERS) -> FakeRecord:
    """Return what a router leaves of a record that it cannot read."""
    came = FakeRecord(value, 7, 3, topic=topic, key=b"k", headers=headers)
    kept, named = dead_letter(came, ErrorClass.SCHEMA, "no field", "local/router/0", 4_000)
    return FakeRecord(kept, 0, 0, topic="hitl.dlq", key=b"k", headers=tuple(named))


def test_an_agents_letter_goes_back_as_it_came() -> None:
    assert back_of(letter(), INPUTS) == Back("hitl.actions", 3, b"k", b"{broken", HEADERS)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (letter("hitl.verdicts"), "no agent's: it came from hitl.verdicts"),
        (letter(value=b"x" * 5_000), "too long to have been kept: its publisher has to send it again"),
        (letter(value=b""), "it is empty"),
        (letter(value=None), "it is empty"),
        (letter(headers=(("hitl-seal", b"r1:x"),)), "it carries headers of ours, which no agent may write"),
        (FakeRecord(b"{}", topic="hitl.dlq", headers=(("hitl-source", b"hitl.actions/\xc2\xb2/1"),)),
         "no agent's: it came from hitl.actions"),
        (FakeRecord(b"{}", topic="hitl.dlq"), "no agent's: it came from nowhere"),
    ],
)  # fmt: skip
def test_what_is_not_an_agents_or_not_whole_is_left_and_says_why(found: FakeRecord, why: str) -> None:
    assert back_of(found, INPUTS) == why


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b'{"outcome":"HOLD","tenant":"acme","action_id":"a-1","reasons":[{"rule":"switch:3"},{"rule":"pin"}],"by":[]}',
         "outcome=HOLD  tenant=acme  action_id=a-1  rules=switch:3,pin"),
        (b'{"verdict":"approve","by":"\\u001b[31mana"}', "verdict=approve  by=\\x1b[31mana"),
        (b'{"type":"' + b"x" * 100 + b'"}', "type=" + "x" * 59 + "\u2026"),
        (b"[1]", "3 bytes, no JSON"),
        (b"\xff", "1 bytes, no JSON"),
        (None, "erased"),
    ],
)  # fmt: skip
def test_a_line_says_what_people_look_for(value: bytes | None, says: str) -> None:
    text, _ = line_of(FakeRecord(value, 5, 2, 1_763_709_000_140), "closed")
    assert text.rstrip() == f"2025-11-21T07:10:00.140Z  closed/2/5  {says}"


def test_a_row_has_the_whole_record() -> None:
    record = FakeRecord(b"{}", 5, 2, 1_763_709_000_140, key=b"k", headers=(("hitl-type", b"closed/1"),))
    assert row_of(record, "closed") == {
        "topic": "closed", "partition": 2, "offset": 5, "at": "2025-11-21T07:10:00.140Z", "key": "k",
        "type": "closed/1", "value": {},
    }  # fmt: skip
