"""From bytes to an action or to the exact reason why not; and nothing raises, whatever the bytes."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hitl_stream.core.action import ACTION_BYTES_MAX, DEPTH_MAX
from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.codec import Decoded, Header, Undecodable, decode, decode_bytes
from support.make import action_bytes, action_dict, change, make_action, post

GOOD = action_bytes()
STRUCTURED: list[Header] = [("content-type", b"application/cloudevents+json; charset=utf-8")]


def good(value: bytes | None, headers: list[Header] | None = None) -> Decoded:
    found = decode(value, headers or [])
    assert isinstance(found, Decoded), found
    return found


def bad(value: bytes | None, headers: list[Header] | None = None) -> tuple[ErrorClass, str]:
    found = decode(value, headers or [])
    assert isinstance(found, Undecodable), found
    return found.error, found.why


def nested(depth: int) -> bytes:
    """Return an action whose deepest object lies `depth` deep: the action itself, its context, and what is in it."""
    inner = depth - 2
    return action_bytes(context={"x": "HERE"}).replace(b'"HERE"', b"[" * inner + b"]" * inner)


# --- why not ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "error", "why"),
    [
        (None, ErrorClass.EMPTY, "the record has no value"),
        (b"", ErrorClass.EMPTY, "the record has no value"),
        (b" \t\r\n", ErrorClass.EMPTY, "the value is only white space"),
        (b"null", ErrorClass.SCHEMA, "Expected `object`, got `null`"),
        (b"[]", ErrorClass.SCHEMA, "Expected `object`, got `array`"),
        (b"{}", ErrorClass.SCHEMA, "Object missing required field `action_id`"),
        (b"nonsense", ErrorClass.NOT_JSON, "JSON is malformed"),
        (b'{"action_id": "a"', ErrorClass.NOT_JSON, "Input data was truncated"),
        (GOOD + b"}", ErrorClass.NOT_JSON, "trailing characters"),
        (GOOD + GOOD, ErrorClass.NOT_JSON, "trailing characters"),
        (b"\xef\xbb\xbf" + GOOD, ErrorClass.NOT_JSON, "a byte order mark before the JSON"),
        (b"\x00\x00\x00\x01\x2a" + GOOD, ErrorClass.NOT_JSON, "a schema-registry frame (magic byte 0, schema id 298)"),
        (b"\x00\x00\x00\x00\xff" + GOOD, ErrorClass.NOT_JSON, "a schema-registry frame (magic byte 0, schema id 255)"),
        (b"\xff\xfe" + GOOD, ErrorClass.ENCODING, "not UTF-8: invalid start byte at byte 0"),
        (GOOD.decode().encode("utf-16"), ErrorClass.ENCODING, "not UTF-8"),
        (action_bytes(rationale="caf\u00e9").decode().encode("latin-1"), ErrorClass.ENCODING, "not UTF-8"),
        (action_bytes(rationale="x" * ACTION_BYTES_MAX), ErrorClass.TOO_LARGE, f"at most {ACTION_BYTES_MAX}"),
        (nested(DEPTH_MAX + 1), ErrorClass.TOO_DEEP, f"nested deeper than {DEPTH_MAX}"),
        (b"[" * 50_000, ErrorClass.TOO_DEEP, f"nested deeper than {DEPTH_MAX}"),
        (action_bytes(action_id=""), ErrorClass.SCHEMA, "$.action_id"),
        (action_bytes(action_id="x" * 201), ErrorClass.SCHEMA, "$.action_id"),
        (action_bytes(action_id=5), ErrorClass.SCHEMA, "$.action_id"),
        (action_bytes(agent={}), ErrorClass.SCHEMA, "Object missing required field `id` - at `$.agent`"),
        (action_bytes(tenant="a/b"), ErrorClass.SCHEMA, "a tenant holds no '/'"),
        (action_bytes(proposed_at="2026-11-21T07:10:00"), ErrorClass.SCHEMA, "$.proposed_at"),
        (action_bytes(proposed_at="yesterday"), ErrorClass.SCHEMA, "$.proposed_at"),
        (action_bytes(confidence="high"), ErrorClass.SCHEMA, "$.confidence"),
        (action_bytes(confidence=True), ErrorClass.SCHEMA, "$.confidence"),
        (action_bytes(changes=[{"field": "f"}]), ErrorClass.SCHEMA, "missing required field `entity`"),
        (action_bytes(changes=[change({"amount": 1}, 2)]), ErrorClass.SCHEMA, "$.changes[0].before"),
        (action_bytes(batch={"id": "b", "size": 0}), ErrorClass.SCHEMA, "$.batch.size"),
        (action_bytes(content={"assets": [{"sha256": "x", "media_type": "m", "uri": "u"}]}), ErrorClass.SCHEMA,
         "sha256"),
        (GOOD.replace(b"0.93", b"1e400"), ErrorClass.SCHEMA, "$.confidence"),
        (GOOD.replace(b"0.93", b"NaN"), ErrorClass.NOT_JSON, "malformed"),
        (GOOD.replace(b"bidder-7", b"\\ud800"), ErrorClass.NOT_JSON, ""),
        (GOOD.replace(b"bidder-7", b"a\x01b"), ErrorClass.NOT_JSON, ""),
    ],
)  # fmt: skip
def test_a_record_that_is_no_action_says_why(value: bytes | None, error: ErrorClass, why: str) -> None:
    found = bad(value)
    assert found[0] is error
    assert why in found[1]


@pytest.mark.parametrize("depth", [DEPTH_MAX - 1, DEPTH_MAX])
def test_an_action_may_nest_as_deep_as_the_limit(depth: int) -> None:
    assert good(nested(depth))


def test_braces_in_texts_are_no_depth() -> None:
    assert good(action_bytes(rationale='{["\\' * 100))


def test_an_action_may_be_exactly_as_long_as_the_limit() -> None:
    room = ACTION_BYTES_MAX - len(action_bytes(rationale=""))
    assert len(good(action_bytes(rationale="x" * room)).raw) == ACTION_BYTES_MAX
    assert bad(action_bytes(rationale="x" * (room + 1)))[0] is ErrorClass.TOO_LARGE


# --- the bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [(b"", b""), (b" \n", b"\t\r\n"), (b"", b"\n")])
def test_white_space_around_an_action_does_not_count(around: tuple[bytes, bytes]) -> None:
    found = good(around[0] + GOOD + around[1])
    assert found.raw == GOOD
    assert found.hash == hashlib.sha256(GOOD).hexdigest() == found.digest.hex()


def test_white_space_within_an_action_counts() -> None:
    spaced = json.dumps(action_dict(), indent=1).encode()
    found = good(spaced)
    assert found.action == good(GOOD).action
    assert found.hash != good(GOOD).hash


def test_a_doubled_key_means_its_last_value_as_it_does_to_the_json_module() -> None:
    value = GOOD[:-1] + b',"type":"draft.internal"}'
    assert good(value).action.type == json.loads(value)["type"] == "draft.internal"


@pytest.mark.parametrize(
    ("before", "after", "read"),
    [
        ("Old headline", "New headline", ("Old headline", "New headline")),
        (True, False, (True, False)),
        (None, "paused", (None, "paused")),
        ("007", "a", ("007", "a")),
        ("1.20", 1.5, ("1.20", 1.5)),
        (2, 3, (2.0, 3.0)),
    ],
)
def test_a_change_may_be_of_numbers_texts_or_flags(before: Any, after: Any, read: tuple[Any, Any]) -> None:
    (found,) = make_action(changes=[change(before, after)]).changes
    assert (found.before, found.after) == read


# --- CloudEvents ------------------------------------------------------------------------------------------------------


def event(**parts: Any) -> bytes:
    base = {"specversion": "1.0", "id": "e-1", "source": "/bidders", "type": "bid.adjust", "data": action_dict()}
    return json.dumps({**base, **parts}, separators=(",", ":")).encode()


def test_a_structured_event_is_unpacked_and_its_data_is_what_is_hashed() -> None:
    found = good(event(), STRUCTURED)
    assert found.raw == GOOD
    assert found.hash == hashlib.sha256(GOOD).hexdigest()
    assert found.ce == ()


@pytest.mark.parametrize("content_type", [b"application/cloudevents+json", b"Application/CloudEvents+JSON ; x=y"])
def test_a_structured_event_is_known_by_its_content_type(content_type: bytes) -> None:
    assert good(event(), [("content-type", content_type)]).raw == GOOD


def test_an_event_without_that_content_type_is_read_as_an_action() -> None:
    assert bad(event())[0] is ErrorClass.SCHEMA


def test_attributes_of_a_structured_event_fill_what_its_data_leaves_out() -> None:
    bare = action_dict(action_id=..., type=..., proposed_at=...)
    found = good(event(data=bare, time="2026-11-21T07:10:00Z"), STRUCTURED)
    assert (found.action.action_id, found.action.type) == ("e-1", "bid.adjust")
    assert found.ce == (("ce_id", "e-1"), ("ce_time", "2026-11-21T07:10:00Z"), ("ce_type", "bid.adjust"))


def test_used_attributes_are_part_of_the_hash_and_others_are_not() -> None:
    bare = action_bytes(action_id=...)
    one = good(bare, [("ce_id", b"a-1"), ("ce_source", b"x")])
    assert one.hash == hashlib.sha256(bare + b"\0ce_id\0a-1").hexdigest()
    assert one.ce == (("ce_id", "a-1"),)
    assert good(bare, [("ce_id", b"a-2")]).hash != one.hash
    assert good(bare, [("ce_id", b"a-1")]).hash == one.hash


def test_the_data_wins_over_an_attribute() -> None:
    found = good(GOOD, [("ce_id", b"other"), ("ce_type", b"other")])
    assert found.action.action_id == "act-1"
    assert found.ce == ()


@pytest.mark.parametrize(
    ("value", "headers", "error", "why"),
    [
        (event(specversion="0.3"), STRUCTURED, ErrorClass.UNKNOWN_TYPE, "0.3"),
        (b'{"specversion":"1.0","id":"i","source":"s","type":"t"}',
         STRUCTURED, ErrorClass.EMPTY, "no data"),
        (b'{"specversion":"1.0","id":"i","source":"s","type":"t","data_base64":"eA=="}', STRUCTURED, ErrorClass.EMPTY,
         "data_base64"),
        (event(data=None), STRUCTURED, ErrorClass.SCHEMA, "null"),
        (event(data="{}"), STRUCTURED, ErrorClass.SCHEMA, "str"),
        (b"{}", STRUCTURED, ErrorClass.SCHEMA, "CloudEvent"),
        (event(type="HERE").replace(b"HERE", b"\xa0"), STRUCTURED, ErrorClass.ENCODING, "CloudEvent"),
        (event(data={"x": "HERE"}).replace(b"HERE", b"\xa0"), STRUCTURED, ErrorClass.ENCODING, "not UTF-8"),
        (b'{"odd":' + b"[" * 9_000 + b"]" * 9_000 + b"," + event()[1:], STRUCTURED, ErrorClass.TOO_DEEP, "CloudEvent"),
        (b"not json", STRUCTURED, ErrorClass.NOT_JSON, "CloudEvent"),
        (b"[" * 50_000, STRUCTURED, ErrorClass.SCHEMA, "CloudEvent"),
        (event(data="HERE").replace(b'"HERE"', b"[" * 40 + b"]" * 40), STRUCTURED, ErrorClass.TOO_DEEP, "nested"),
        (event(data="HERE").replace(b'"HERE"', b"[" * 9_000 + b"]" * 9_000), STRUCTURED, ErrorClass.TOO_DEEP, "nested"),
        (action_bytes(action_id=...), [("ce_id", b"\xff")], ErrorClass.ENCODING, "ce_id"),
        (action_bytes(action_id=...), [("ce_type", b"t")], ErrorClass.SCHEMA, "action_id"),
        (action_bytes(action_id=...), [("ce_id", b"")], ErrorClass.SCHEMA, ""),
        (action_bytes(action_id=...), [("ce_id", b"x" * 201)], ErrorClass.SCHEMA, ""),
        (action_bytes(proposed_at=...), [("ce_time", b"soon")], ErrorClass.SCHEMA, ""),
        (action_bytes(tenant=7), [("ce_id", b"a")], ErrorClass.SCHEMA, "$.tenant"),
    ],
)  # fmt: skip
def test_an_event_that_cannot_be_read_says_why(
    value: bytes, headers: list[Header], error: ErrorClass, why: str
) -> None:
    found = bad(value, headers)
    assert found[0] is error
    assert why in found[1]


def test_a_header_without_content_is_an_empty_one() -> None:
    assert bad(action_bytes(action_id=...), [("ce_id", None)])[0] is ErrorClass.SCHEMA  # type: ignore[list-item]
    assert good(GOOD, [("content-type", None)])  # type: ignore[list-item]


# --- laws -------------------------------------------------------------------------------------------------------------

CORPUS = (
    GOOD,
    action_bytes(**post('quotes " and \\ and \u2019 and 🙂')),
    action_bytes(context={"a": 1.5, "b": [1, {"c": None}], "d": "x" * 50, "e": 12345678901234567890123}),
    action_bytes(
        changes=[change("a text", "another"), change(True, None)], flags=["ethical"], batch={"id": "b", "size": 3}
    ),
)
ODDITIES = (
    b"1e9999999999999999999999", b"-", b"1.", b".5", b"01", b"+1", b"NaN", b"Infinity", b"-0", b"1e400", b"9" * 5_000,
    b'"\\ud800"', b'"\\u12"', b'"\\q"', b'"\x01"', b'"\x7f"', b'"\xff"', b"tru", b"nul", b"{}", b"[]", b"[1,]", b"'x'",
    b'{"a":1,}', b"null", b"true", b'""', b"\x00", b"/*x*/", b"//", b"\xc2\x85", b"\xa0", b"\x0b", b"\xef\xbb\xbf",
)  # fmt: skip


def same_again(found: Decoded) -> None:
    again = decode_bytes(found.raw, dict(found.ce))
    assert again == found
    # The digits are kept as text: the module refuses to count 4,300 of them, which is its own limit and not JSON's.
    json.loads(found.raw, parse_int=str, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


@given(
    st.binary(max_size=300),
    st.lists(st.tuples(st.sampled_from(["ce_id", "content-type", "x"]), st.binary()), max_size=3),
)
def test_no_bytes_make_decoding_raise(value: bytes, headers: list[Header]) -> None:
    found = decode(value, headers)
    assert isinstance(found, Decoded | Undecodable)


@given(
    st.sampled_from(CORPUS),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.sampled_from(ODDITIES)), max_size=3),
)
@example(GOOD, [(GOOD.index(b"0.93"), 0, b"1e9999999999999999999999")])
@settings(max_examples=1_500, deadline=None)
def test_a_mangled_action_is_refused_or_is_strict_json_that_reads_the_same_again(
    value: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for place, cut, insert in edits:
        place %= len(value) + 1
        value = value[:place] + insert + value[place + cut :]
    for headers in ([], STRUCTURED, [("ce_id", b"i"), ("ce_type", b"t"), ("ce_time", b"2026-11-21T07:10:00Z")]):
        found = decode(value, headers)
        if isinstance(found, Decoded):
            same_again(found)


TOKENS = (b"{", b"}", b"[", b"]", b",", b":", b'"a"', b'"', b" ", b"\\", *ODDITIES)


@pytest.mark.parametrize(
    "place",
    [
        b'"tenant":',
        b'"rationale":',
        b'"unknown":',
        b'"context":{"x":',
        b'"confidence":',
        b'"evidence":[{"signal":"s","value":',
    ],
)
def test_whatever_stands_in_the_place_of_a_value_is_refused_or_strict_json(place: bytes) -> None:
    chance = random.Random(7)
    ends = b"}]" if b"[" in place else b"}" * place.count(b"{")
    base = GOOD.replace(b'"tenant":"acme",', b"")[:-1]
    for _ in range(1_500):
        middle = b"".join(chance.choice(TOKENS) for _ in range(chance.randint(1, 5)))
        found = decode(base + b"," + place + middle + ends + b"}")
        if isinstance(found, Decoded):
            same_again(found)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
PARTS = ("action_id", "type", "agent", "proposed_at", "tenant", "changes", "confidence", "expires_at", "flags",
         "entity", "destination", "evidence", "content", "context", "rationale", "batch", "unheard_of")  # fmt: skip


@given(st.dictionaries(st.sampled_from(PARTS), JSON, max_size=4))
@settings(max_examples=400)
def test_an_action_with_any_values_is_refused_or_reads_the_same_again(parts: dict[str, Any]) -> None:
    value = json.dumps({**action_dict(), **parts}).encode()
    found = decode(value)
    assert isinstance(found, Decoded) or found.error in (
        ErrorClass.SCHEMA, ErrorClass.NOT_JSON, ErrorClass.TOO_LARGE, ErrorClass.TOO_DEEP,
    )  # fmt: skip
    if isinstance(found, Decoded):
        same_again(found)
