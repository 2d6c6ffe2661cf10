"""The proposal that would undo an action: an action like any other, which the router takes from a console alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hitl_stream.core.reversal import Irreversible
from hitl_stream.wire.records import Result, decode_result
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.undoing import ID_LENGTH_MAX, Undo, undo, undo_id, via_headers
from support.log import Recorded
from support.make import FakeRecord, action_bytes, change, iso, post

CONSOLE = SealKey("w1", b"\x0b" * 32)
LATER = 5_000


def executed(present: dict[str, Any] | None = None, **parts: Any) -> tuple[Recorded, Result]:
    work = Recorded()
    work.propose(action_bytes(**parts))
    work.carry_out(present={"/changes/0": "1.20"} if present is None else present)
    (record,) = work.log.there["results"]
    return work, decode_result(record.value)


def undone(result: Result, at_ms: int) -> Undo:
    found = undo(result, iso(at_ms), "wrong landing page")
    assert isinstance(found, Undo), found
    return found


@pytest.mark.behaviour("E16")
def test_the_inverse_starts_from_what_was_set_and_ends_at_what_was_read():
    work, result = executed()
    found = undone(result, work.now_ms)
    action = found.decoded.action
    assert [(c.before, c.after, c.field) for c in action.changes] == [("1.30", "1.20", "bid")]
    assert (action.type, action.tenant, action.agent.id) == ("bid.adjust", "acme", "bidder-7")
    assert action.rationale == "wrong landing page"
    assert (action.confidence, action.evidence, action.expires_at) == (None, (), None), "nothing is claimed for it"


@pytest.mark.parametrize(
    ("what", "present", "parts"),
    [
        ("nobody read it", {}, {}),
        ("it was not there", {"/changes/0": None}, {}),
    ],
)
def test_what_cannot_be_undone_is_refused_with_the_reason(what: str, present: dict[str, Any], parts: dict[str, Any]):
    work, result = executed(present, **parts)
    found = undo(result, iso(work.now_ms), "why")
    assert isinstance(found, Irreversible), what
    assert found.why


def test_its_id_follows_from_the_old_one_so_that_a_second_proposal_repeats_it():
    work, result = executed()
    first, second = undone(result, work.now_ms), undone(result, work.now_ms + LATER)
    assert first.decoded.action.action_id == second.decoded.action.action_id
    assert first.decoded.action.action_id.startswith("act-1~undo-")
    assert len(undo_id("a" * ID_LENGTH_MAX, "9f" * 32)) == ID_LENGTH_MAX


def routed(found: Undo, headers: list[tuple[str, bytes]], at_ms: int) -> dict[str, Any]:
    work = Recorded()
    work.router.settings.proposers["console"] = {CONSOLE.key_id: CONSOLE}  # type: ignore[index]
    record = FakeRecord(found.value, 0, timestamp=at_ms, headers=headers)
    work.now_ms = at_ms
    (output,) = work.route(record)
    assert output.value is not None
    head: dict[str, Any] = json.loads(output.value)
    return head


def test_the_router_takes_it_from_a_console_in_the_name_of_a_person():
    work, result = executed()
    found = undone(result, work.now_ms)
    headers = via_headers("hitl.actions", CONSOLE, found, "hitl.results/0/0", "dana")
    head = routed(found, headers, work.now_ms)
    assert head["by"] == "dana"
    assert head["outcome"] in ("REVIEW", "ESCALATE"), "nothing is claimed for it, so that people are asked"


def test_without_the_consoles_seal_the_router_refuses_it():
    work, result = executed()
    found = undone(result, work.now_ms)
    headers = via_headers("hitl.actions", SealKey("w1", b"\x00" * 32), found, "hitl.results/0/0", "dana")
    head = routed(found, headers, work.now_ms)
    assert (head["end"], head["why"]) == ("refused", "identity")


def test_what_was_published_has_been_seen():
    work = Recorded()
    parts = {"type": "draft.internal", "agent": {"id": "copy-2"}, **post("A line")}
    work.propose(action_bytes(**parts))
    work.carry_out()
    (record,) = work.log.there["results"]
    found = undo(decode_result(record.value), iso(work.now_ms), "why")
    assert isinstance(found, Irreversible)
    assert found.path == "/content"


def test_a_move_is_put_back_as_a_move():
    legs = [
        change("100.00", "95.00", field="daily_budget"),
        change("50.00", "55.00", field="daily_budget", campaign="cmp-311"),
    ]
    work, result = executed({"/changes/0": "100.00", "/changes/1": "50.00"}, type="budget.reallocate", changes=legs)
    back = undone(result, work.now_ms).decoded.action.changes
    assert [(c.before, c.after) for c in back] == [("95.00", "100.00"), ("55.00", "50.00")]
