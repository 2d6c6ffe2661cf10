"""Exports of a workplace's log: what was written and sealed, in the stretch, without what is hidden or was erased."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from hitl_stream.core.action import Agent
from hitl_stream.lane.exports import Exported, Kind, export, keyed, line_of
from hitl_stream.wire.desk_records import FEEDBACK, Feedback
from hitl_stream.wire.records import encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from support.desk import MINUTE
from support.log import KEYS, Recorded
from support.make import DESK_KEY, action_bytes, change, iso

BIG = {"changes": [change("1.00", "1.30")]}
EMAIL = "anna@example.com"
KEY = SealKey("p1", b"\x09" * 32)


@pytest.fixture
def work() -> Recorded:
    return Recorded()


def exported(
    work: Recorded, kind: Kind, fields: tuple[str, ...] = (), digest: Any = None, **parts: Any
) -> tuple[list[dict[str, Any]], Exported, Mapping[str, int]]:
    lines: list[bytes] = []
    checked = work.checked(**parts)
    counts = asyncio.run(export(checked, kind, fields, digest, lines.append))
    assert all(b"\n" not in line for line in lines)
    return [json.loads(line) for line in lines], counts, checked.bad


def judged(work: Recorded, word: str = "approve", **action: Any) -> str:
    (item,) = work.opened(action_bytes(**{**BIG, "proposed_at": iso(work.now_ms - 100), **action}))
    edits = [("/changes/0/after", "1.10")] if word == "change" else []
    work.say(item, word, edits=edits)
    work.work()
    return item


@pytest.mark.behaviour("A12", "D10")
def test_a_decision_leaves_with_reviewer_times_what_was_shown_and_the_original_bytes(work: Recorded):
    item = judged(work)
    ((line,), counts, _) = exported(work, "decisions")
    assert (line["item"], line["by"], line["verdict"], line["effect"]) == (item, "tess", "approve", "applied")
    assert line["shown"] == '{"card":1}'
    assert line["action"] == json.loads(action_bytes(**BIG))
    assert counts == Exported(written=1)
    (value,) = [one.value for one in work.log.there["decisions"]]
    assert line_of("decisions", value, (), None) == (value, False), "the very bytes, so that the hash can be checked"


@pytest.mark.behaviour("C5")
def test_a_change_leaves_before_after_code_and_note_as_json_lines(work: Recorded):
    judged(work, "change")
    judged(work, "approve", action_id="act-2")
    ((line,), counts, _) = exported(work, "feedback")
    assert line["diff"] == [{"path": "/changes/0/after", "before": "1.30", "after": "1.10"}]
    assert (line["verdict"], line["code"], line["agent"]["id"]) == ("change", "off_tone", "bidder-7")
    assert counts.written == 1


@pytest.mark.behaviour("A12")
def test_what_the_policy_redacts_does_not_leave(work: Recorded):
    judged(work, context={"email": EMAIL}, rationale=f"{EMAIL} asked for it")
    judged(work, action_id="act-2")
    (lines, counts, _) = exported(work, "decisions", ("context.email",))
    assert EMAIL not in json.dumps(lines)
    assert lines[0]["action"]["context"] == {"email": {"redacted": True}}
    assert "/action/context/email" in lines[0]["redacted"]
    assert "redacted" not in lines[1]
    assert (counts.written, counts.redacted) == (2, 1)


def test_what_stands_behind_a_member_of_the_same_name_does_not_leave_either(work: Recorded):
    """Whoever decodes the action sees the last one; its bytes hold both."""
    value = action_bytes(**BIG, context={"email": EMAIL})
    doubled = value[:-1] + b',"context":{}}'
    (item,) = work.opened(doubled)
    work.say(item)
    work.work()
    assert EMAIL.encode() in (work.log.there["decisions"][0].value or b"")
    lines: list[bytes] = []
    asyncio.run(export(work.checked(), "decisions", ("context.email",), None, lines.append))
    assert EMAIL.encode() not in lines[0]


def test_in_feedback_the_same_text_has_the_same_digest_and_nobody_can_guess_it_without_the_key(work: Recorded):
    text = {"path": "/content/text", "before": "Hello", "after": "Hi"}
    value = json.dumps({"item": "i", "tenant": "acme", "action_id": "a", "agent": {"id": "x"}, "verdict": "change",
                        "diff": [text, text], "by": "tess", "at": "t"}).encode()  # fmt: skip

    def digests(key: SealKey) -> list[str]:
        line, is_redacted = line_of("feedback", value, ("content.text",), keyed(key))
        assert is_redacted
        return [row["before"]["digest"] for row in json.loads(line)["diff"]]

    first, second = digests(KEY)
    assert first == second
    assert len(first) == 32
    assert digests(SealKey("p2", b"\x0a" * 32))[0] != first


def test_a_number_that_leaves_beside_something_hidden_keeps_its_digits(work: Recorded):
    judged(work, context={"email": EMAIL}, changes=[change(1.0, 1.3), change("1.00", "1.30", field="cap")])
    lines: list[bytes] = []
    asyncio.run(export(work.checked(), "decisions", ("context.email",), None, lines.append))
    assert b'"before":1.0,"after":1.3' in lines[0]
    assert b'"before":"1.00","after":"1.30"' in lines[0]


@pytest.mark.behaviour("E8")
def test_preferences_leave_by_themselves(work: Recorded):
    judged(work)
    pair = b'{"pair":"p-9","tenant":"acme","prompt":"write","a":"one","b":"two"}'
    work.follow("pairs", pair, b"p-9")
    work.prefer("p-9", "left", "b")
    work.work()
    ((line,), _, _) = exported(work, "preferences")
    assert (line["chosen"], line["rejected"]) == ("two", "one")
    assert all("choice" not in each for each in exported(work, "decisions")[0])


def test_a_record_that_somebody_else_sealed_is_left_out_and_counted(work: Recorded):
    judged(work)
    (record,) = work.log.there["decisions"]
    forged = replace(record, headers=[(n, b"d1:AAAA" if n == SEAL_HEADER else v) for n, v in record.headers])
    work.log.there["decisions"] = [record, replace(forged, offset=1)]
    lines, counts, bad = exported(work, "decisions")
    assert (len(lines), counts.written, dict(bad)) == (1, 1, {"decisions": 1})


def test_where_the_desks_key_is_not_here_nobody_can_tell(work: Recorded):
    judged(work)
    checked = work.checked(keys={role: keys for role, keys in KEYS.items() if role != "desk"})
    asyncio.run(export(checked, "decisions", (), None, lambda line: None))
    assert (dict(checked.bad), dict(checked.unchecked)) == ({}, {"decisions": 1})


def test_only_the_stretch_leaves(work: Recorded):
    start = work.now_ms
    for number in range(3):
        judged(work, action_id=f"act-{number}")
        work.now_ms += MINUTE
    (lines, _, _) = exported(work, "decisions", since_ms=start + MINUTE, until_ms=start + 2 * MINUTE)
    assert [line["action_id"] for line in lines] == ["act-1"]


@pytest.mark.behaviour("A12")
def test_what_was_erased_does_not_leave_although_the_log_still_holds_it(work: Recorded):
    judged(work)
    judged(work, action_id="act-2")
    first, _ = work.log.there["decisions"]
    work.log.append("decisions", None, first.key, work.now_ms)
    (lines, _, _) = exported(work, "decisions", until_ms=work.now_ms)
    assert lines == [], "the null came later than the stretch ends; it counts all the same"
    (lines, _, _) = exported(work, "decisions")
    assert [line["action_id"] for line in lines] == ["act-2"]


def test_what_cannot_be_read_is_counted(work: Recorded):
    judged(work)
    value, head = b'{"item":1}', b'{"item":1}'
    seal = sealer(DESK_KEY, "hitl.feedback", FEEDBACK)(head)
    work.log.append("feedback", value, b"k", work.now_ms, [(TYPE_HEADER, FEEDBACK.encode()), (SEAL_HEADER, seal)])
    lines, counts, _ = exported(work, "feedback")
    assert (lines, counts) == ([], Exported(unreadable=1))


def test_of_a_planted_action_no_agent_learns_anything(work: Recorded):
    value = encode(
        Feedback(
            item="i", tenant="acme", action_id="~c-1", agent=Agent("bidder-7"), verdict="reject", by="tess", at="t"
        )
    )
    seal = sealer(DESK_KEY, "hitl.feedback", FEEDBACK)(value)
    work.log.append("feedback", value, b"k", work.now_ms, [(TYPE_HEADER, FEEDBACK.encode()), (SEAL_HEADER, seal)])
    lines, counts, _ = exported(work, "feedback")
    assert (lines, counts) == ([], Exported(planted=1))


def test_an_action_over_several_lines_leaves_as_one(work: Recorded):
    pretty = json.dumps(json.loads(action_bytes(**BIG)), indent=1).encode()
    assert b"\n" in pretty
    (item,) = work.opened(pretty)
    work.say(item)
    work.work()
    ((line,), _, _) = exported(work, "decisions")
    assert line["action"] == json.loads(pretty)
