"""A person changes how much and which words, and nothing else of an action's bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.action import ACTION_BYTES_MAX, Action
from hitl_stream.core.edits import TEXT, diff, editable, edited, fault
from hitl_stream.core.verdicts import Edit
from hitl_stream.wire.codec import Decoded, decode_bytes
from support.make import NOW_MS, action_bytes, action_dict, change, iso, make_action, post

LATER = iso(NOW_MS + 60_000)
NEW_ID = "act-1~r7k2m4q"
AFTER = "/changes/0/after"


def made(raw: bytes, *edits: Edit, **parts: Any) -> Action:
    """Return the edited action, read by the decoder that will read it."""
    decoded = decode_bytes(edited(raw, NEW_ID, edits, LATER, **parts))
    assert isinstance(decoded, Decoded), decoded
    return decoded.action


# --- what can be changed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "paths"),
    [
        ({}, {AFTER: "1.30"}),
        ({"changes": [change(), change(after=2.5)]}, {AFTER: "1.30", "/changes/1/after": 2.5}),
        ({"changes": [change(after=None), change(after=True)]}, {"/changes/1/after": True}),
        ({"changes": ...}, {}),
        (post("Hello."), {TEXT: "Hello."}),
        (post("Hello.", changes=[change()]), {AFTER: "1.30", TEXT: "Hello."}),
        ({"content": {"source": "the brief", "platform": "x"}}, {AFTER: "1.30"}),
    ],
)
def test_a_person_may_change_what_is_set_and_the_text(parts: dict[str, Any], paths: dict[str, Any]) -> None:
    assert dict(editable(make_action(**parts))) == paths


EVERY: tuple[str, ...] = Action.__struct_fields__


@pytest.mark.parametrize(
    "path",
    [
        *(f"/{name}" for name in EVERY),
        "/", "//", "/agent/id", "/changes/0", "/changes/0/before", "/changes/0/field", "/changes/0/unit",
        "/changes/0/entity/campaign", "/changes/1/after", "/changes/00/after", "/changes/-1/after", "/changes/0/after/",
        "/content/source", "/content/platform", "/content/assets/0/uri", "/evidence/0/value",
        "/context/campaign_budget", "/entity/account", "/nothing", "/changes/ 0/after", "/Changes/0/after",
    ],
)  # fmt: skip
def test_nothing_else_can_be_changed(path: str) -> None:
    raw = action_bytes(**post(changes=[change()], context={"campaign_budget": 5}))
    with pytest.raises(ValueError, match=r"is not there, or cannot be changed"):
        edited(raw, NEW_ID, [Edit(path, "x")], LATER)


FAULTS: list[tuple[str, Any, Any, str | None]] = [
    ("a number in quotes", "1.30", "1.25", None),
    ("a larger exponent", "1.30", "1e3", None),
    ("a number for one in quotes", "1.30", 1.25, "is a number; expected a number in quotes"),
    ("a text for a number in quotes", "1.30", "cheap", "is text; expected a number in quotes"),
    ("nearly a number", "1.30", " 1.25", "is text; expected a number in quotes"),
    ("no number", "1.30", "NaN", "is text; expected a number in quotes"),
    ("a flag for a number in quotes", "1.30", True, "is a flag; expected a number in quotes"),
    ("a number", 1.3, 1.25, None),
    ("a number in quotes for a number", 1.3, "1.25", "is a number in quotes; expected a number"),
    ("a flag for a number", 1.0, True, "is a flag; expected a number"),
    ("infinity", 1.3, float("inf"), "is inf; expected a finite number"),
    ("not a number", 1.3, float("nan"), "is nan; expected a finite number"),
    ("a flag", True, False, None),
    ("a text for a flag", True, "false", "is text; expected a flag"),
    ("a number for a flag", True, 0.0, "is a number; expected a flag"),
    ("a text", "paused", "enabled", None),
    ("a text that is a number", "paused", "7", None),
    ("a number for a text", "paused", 7.0, "is a number; expected text"),
    ("the same number in quotes", "1.30", "1.3", "stays what it is"),
    ("the same number", 1.3, 1.3, "stays what it is"),
    ("the same text", "paused", "paused", "stays what it is"),
    ("the same flag", False, False, "stays what it is"),
    ("half a character", "paused", "\ud83d", "lone surrogate"),
]


@pytest.mark.parametrize(("there", "value", "why"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_value_stays_of_its_kind(there: Any, value: Any, why: str | None) -> None:
    raw = action_bytes(changes=[change(after=there)])
    if why is None:
        assert made(raw, Edit(AFTER, value)).changes[0].after == value
        return
    with pytest.raises(ValueError, match=f"{AFTER} .*{why}"):
        edited(raw, NEW_ID, [Edit(AFTER, value)], LATER)


def test_a_text_that_looks_like_a_number_is_a_text() -> None:
    raw = action_bytes(**post("2026"))
    for text in ("Happy new year", "2026.0"):
        assert made(raw, Edit(TEXT, text)).content == msgspec.structs.replace(make_action(**post()).content, text=text)


def test_each_path_is_set_once_and_something_is() -> None:
    standing = editable(make_action())
    assert fault([], standing) == "nothing is changed; name at least one path and its new value"
    assert fault([Edit(AFTER, "1.1"), Edit(AFTER, "1.2")], standing) == f"{AFTER} is set twice; name each path once"
    assert fault([Edit(AFTER, "1.1")], standing) is None


# --- the bytes --------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("C5")
def test_what_nobody_touched_stays_as_it_was_written() -> None:
    raw = (
        b'{"z_unknown": {"k": [1.20, 1e2,  "\\u00e9"]}, "action_id":"act-1","type":"bid.adjust",'
        b'"agent":{"version":"1","id":"bidder-7", "mood":0.10},"batch":{"id":"b","size":3},'
        b'"changes":[{"unit":"EUR","entity":{"account":"acc-17"},"field":"bid","before":1.20,"after":1.30,"x":0.50},'
        b'{"entity":{"account":"acc-17"},"field":"budget","before":7.00,"after":8.00}],'
        b'"confidence":0.930,"proposed_at":"2026-11-21T07:10:00Z","tail":1.000}'
    )
    assert edited(raw, NEW_ID, [Edit(AFTER, 1.25)], LATER) == (
        b'{"z_unknown":{"k": [1.20, 1e2,  "\\u00e9"]},"action_id":"act-1~r7k2m4q","type":"bid.adjust",'
        b'"agent":{"version":"1","id":"bidder-7", "mood":0.10},'
        b'"changes":[{"unit":"EUR","entity":{"account":"acc-17"},"field":"bid","before":1.20,"after":1.25,"x":0.50},'
        b'{"entity":{"account":"acc-17"},"field":"budget","before":7.00,"after":8.00}],'
        b'"confidence":0.930,"proposed_at":"' + LATER.encode() + b'","tail":1.000}'
    )


def test_a_changed_text_leaves_the_changes_and_the_rest_of_the_content_as_they_were_written() -> None:
    raw = action_bytes(**post("Old.", changes=[change(1.20, 1.30)])).replace(b'"after":1.3', b'"after": 1.300')
    new = edited(raw, NEW_ID, [Edit(TEXT, 'New: "é" \n')], LATER)
    assert b'"after": 1.300' in new
    assert b'"content":{"text":"New: \\"\xc3\xa9\\" \\n","platform":"x"}' in new


def test_the_new_action_has_its_own_id_and_time_and_no_batch() -> None:
    old = make_action(batch={"id": "b", "size": 3}, expires_at=iso(NOW_MS + 10**9))
    new = made(action_bytes(batch={"id": "b", "size": 3}, expires_at=iso(NOW_MS + 10**9)), Edit(AFTER, "1.25"))
    fields = {name for name in Action.__struct_fields__ if getattr(old, name) != getattr(new, name)}
    assert fields == {"action_id", "proposed_at", "batch", "changes"}
    assert (new.action_id, iso(int(new.proposed_at.timestamp() * 1000)), new.batch) == (NEW_ID, LATER, None)


def test_what_cloud_events_headers_said_stands_in_the_new_bytes() -> None:
    raw = action_bytes(action_id=..., type=..., proposed_at=...)
    ce = {"ce_id": "act-1", "ce_type": "bid.adjust", "ce_time": iso(NOW_MS)}
    assert isinstance(decode_bytes(raw, ce), Decoded)
    new = made(raw, Edit(AFTER, "1.25"), ce=ce)
    assert (new.action_id, new.type) == (NEW_ID, "bid.adjust")
    null = action_bytes(type=None)
    assert made(null, Edit(AFTER, "1.25"), ce=ce).type == "bid.adjust"
    assert made(action_bytes(type="own"), Edit(AFTER, "1.25"), ce=ce).type == "own"
    with pytest.raises(ValueError, match="type"):
        edited(raw, NEW_ID, [Edit(AFTER, "1.25")], LATER)


def test_an_action_that_would_become_too_long_is_refused() -> None:
    raw = action_bytes(**post("x"))
    room = ACTION_BYTES_MAX - len(edited(raw, NEW_ID, [Edit(TEXT, "")], LATER))
    assert len(edited(raw, NEW_ID, [Edit(TEXT, "y" * room)], LATER)) == ACTION_BYTES_MAX
    with pytest.raises(ValueError, match=f"{TEXT}: the changed action has {ACTION_BYTES_MAX + 1} bytes"):
        edited(raw, NEW_ID, [Edit(TEXT, "y" * (room + 1))], LATER)


@pytest.mark.parametrize(
    ("raw", "action_id", "proposed_at"),
    [
        (b"", NEW_ID, LATER),
        (b"[]", NEW_ID, LATER),
        (b'{"action_id":1}', NEW_ID, LATER),
        (action_bytes() + b"{", NEW_ID, LATER),
        (action_bytes(changes=None), NEW_ID, LATER),
        (action_bytes(), "x" * 201, LATER),
        (action_bytes(), "", LATER),
        (action_bytes(), NEW_ID, "now"),
        (action_bytes(), NEW_ID, "2026-11-21T07:10:00"),
    ],
)
def test_what_is_no_action_is_refused_before_anything_is_made_of_it(
    raw: bytes, action_id: str, proposed_at: str
) -> None:
    with pytest.raises(ValueError):
        edited(raw, action_id, [Edit(AFTER, "1.25")], proposed_at)


def test_a_member_that_is_written_twice_counts_as_the_decoder_reads_it() -> None:
    raw = action_bytes()[:-1] + b',"tenant":"other"}'
    assert made(raw, Edit(AFTER, "1.25")).tenant == "other"


def test_a_difference_shows_what_the_agent_wanted_and_what_the_person_wants() -> None:
    action = make_action(**post("Old.", changes=[change(), change(after=False)]))
    edits = [Edit(TEXT, "New."), Edit("/changes/1/after", True), Edit("/tenant", "x")]
    assert diff(action, edits) == ((TEXT, "Old.", "New."), ("/changes/1/after", False, True))


# --- properties -------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)
NUMBERS = st.decimals(-(10**9), 10**9, places=4).map(str)
FLOATS = st.floats(-1e12, 1e12)
VALUES = NUMBERS | FLOATS | TEXTS | st.booleans()
EXTRA = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda name: name not in EVERY),
    st.recursive(st.none() | st.booleans() | FLOATS | TEXTS, lambda one: st.lists(one, max_size=3), max_leaves=5),
    max_size=3,
)  # fmt: skip


@given(
    st.lists(VALUES | st.none(), max_size=4), st.none() | TEXTS, EXTRA, st.lists(st.tuples(st.integers(), VALUES)),
    st.booleans(),
)  # fmt: skip
@settings(deadline=None)
def test_an_edited_action_says_exactly_what_the_person_wants_and_otherwise_what_it_said(
    afters: list[Any], text: str | None, extra: dict[str, Any], wanted: list[tuple[int, Any]], unicode: bool
) -> None:
    plain = {
        **extra, **action_dict(changes=[{**change(after=after), "note": 1.5} for after in afters]),
        **({} if text is None else {"content": {"text": text, "platform": "x", "tone": "dry"}}),
    }  # fmt: skip
    raw = json.dumps(plain, ensure_ascii=not unicode).encode()
    action = make_action(**plain)
    paths = list(editable(action))
    edits = [Edit(paths[number % len(paths)], value) for number, value in wanted if paths]
    if fault(edits, editable(action)) is not None:
        with pytest.raises(ValueError):
            edited(raw, NEW_ID, edits, LATER)
        return
    new = made(raw, *edits)
    assert dict(editable(new)) == {**editable(action), **{edit.path: edit.value for edit in edits}}
    expected = json.loads(raw)
    expected.update(action_id=NEW_ID, proposed_at=LATER)
    for edit in edits:
        if edit.path == TEXT:
            expected["content"]["text"] = edit.value
        else:
            expected["changes"][int(edit.path.split("/")[2])]["after"] = edit.value
    found = json.loads(edited(raw, NEW_ID, edits, LATER))
    assert found == expected
    assert list(found) == list(expected)


@given(st.binary(max_size=60), st.binary(max_size=10))
@settings(deadline=None)
def test_whatever_the_bytes_are_only_a_value_error_comes_out(start: bytes, end: bytes) -> None:
    for raw in (start, action_bytes()[:-1] + start, action_bytes() + end):
        try:
            edited(raw, NEW_ID, [Edit(AFTER, "1.25")], LATER)
        except ValueError:
            continue
