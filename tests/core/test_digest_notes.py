"""What people are told of: few messages, each once, and nothing lost between one and the next."""

from __future__ import annotations

import pytest
from msgspec import structs

from hitl_stream.core import digest_notes
from hitl_stream.core.digest_notes import LINES_MAX, MINUTE_MS, TEXT_MAX, Item, Kind, Message, Notes
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Switch

HOUR_MS = 60 * MINUTE_MS
NOW_MS = 1_790_000_000_000
EVERY_MS = 15 * MINUTE_MS
SWITCH = Switch(epoch=7, scope=("tenant:acme", "agent:bidder-7"), mode=Mode.HALT, by="ana", at_ms=NOW_MS, reason="odd")


def item(queue: str = "trading", old_ms: int = 2 * HOUR_MS) -> Item:
    """Return one that is at half of its time just now."""
    return Item(queue, NOW_MS - old_ms, NOW_MS)


def said(notes: Notes, now_ms: int = NOW_MS) -> dict[Kind, str]:
    """Return what is said now, and let it be delivered."""
    found = list(notes.due(now_ms))
    for message in found:
        notes.sent(message)
    return {message.kind: message.body for message in found}


def test_many_items_are_one_line_for_each_queue():
    notes = Notes(EVERY_MS)
    for n in range(14):
        notes.opened(f"i{n}", item())
    for n in range(3):
        notes.ended(f"gone{n}", "trading", expired=True)
    notes.opened("other", item("brand", 50 * HOUR_MS))
    notes.opened("early", structs.replace(item("manager"), half_ms=NOW_MS + 1))

    assert said(notes) == {
        Kind.WAITING: (
            "brand: 1 item past half of their time; oldest 2 d\n"
            "trading: 14 items past half of their time, 3 expired; oldest 2 h"
        )
    }


def test_what_was_said_is_not_said_again_and_what_is_new_waits_for_the_next_message():
    notes = Notes(EVERY_MS)
    notes.opened("i1", item())
    assert Kind.WAITING in said(notes)
    assert said(notes, NOW_MS + EVERY_MS) == {}, "nothing is new"

    notes.opened("i2", structs.replace(item(), half_ms=NOW_MS + 1))
    notes.ended("i3", "brand", expired=True)
    assert said(notes, NOW_MS + EVERY_MS - 1) == {}
    assert said(notes, NOW_MS + EVERY_MS) == {
        Kind.WAITING: "brand: 1 expired\ntrading: 2 items past half of their time; oldest 2 h"
    }


def test_what_is_decided_or_moved_to_another_queue_waits_there_no_more():
    notes = Notes(EVERY_MS)
    notes.opened("i1", item())
    notes.opened("i2", item())
    notes.opened("i2", item("manager"))
    notes.ended("i1", "trading", expired=False)

    assert said(notes) == {Kind.WAITING: "manager: 1 item past half of their time; oldest 2 h"}


def test_an_item_that_is_written_anew_is_not_new():
    notes = Notes(EVERY_MS)
    notes.opened("i1", item())
    said(notes)

    notes.opened("i1", structs.replace(item(), half_ms=NOW_MS + MINUTE_MS))

    assert said(notes, NOW_MS + EVERY_MS) == {}


def test_a_message_that_was_not_delivered_comes_again_with_what_came_meanwhile():
    notes = Notes(EVERY_MS)
    notes.engaged(SWITCH)
    notes.ended("i1", "trading", expired=True)
    assert {message.kind for message in notes.due(NOW_MS)} == {Kind.SWITCHES, Kind.WAITING}

    notes.released(SWITCH)
    notes.ended("i2", "trading", expired=True)

    assert said(notes) == {
        Kind.SWITCHES: (
            "switch 7, HALT tenant:acme agent:bidder-7 engaged: odd\nswitch 7, HALT tenant:acme agent:bidder-7 released"
        ),
        Kind.WAITING: "trading: 2 expired",
    }


def test_switches_and_pages_are_said_at_once_but_once_a_minute_each():
    notes = Notes(EVERY_MS)
    notes.engaged(SWITCH)
    assert Kind.SWITCHES in said(notes)
    notes.released(SWITCH)
    notes.paged("rubber_stamp", "trading", 3)

    assert said(notes, NOW_MS + 1) == {Kind.PAGES: "trading: rubber_stamp (row 3); runbook: hitl-rubber-stamp"}
    assert said(notes, NOW_MS + MINUTE_MS - 1) == {}
    assert said(notes, NOW_MS + MINUTE_MS) == {Kind.SWITCHES: "switch 7, HALT tenant:acme agent:bidder-7 released"}


def test_that_a_switch_is_effective_is_said_once_also_after_a_restart():
    notes = Notes(EVERY_MS, effective=6)
    notes.proved(structs.replace(SWITCH, epoch=6), 100)
    assert said(notes) == {}
    notes.proved(SWITCH, 820)
    notes.proved(SWITCH, 990)
    assert notes.effective == 6, "not before it was delivered"

    assert said(notes)[Kind.SWITCHES] == "switch 7, HALT tenant:acme agent:bidder-7 EFFECTIVE after 0.8 s"
    assert notes.effective == 7


def test_nobody_is_named_and_a_long_reason_is_cut():
    notes = Notes(EVERY_MS)
    notes.engaged(structs.replace(SWITCH, reason="x" * 5_000))

    (message,) = notes.due(NOW_MS)
    assert "ana" not in message.body
    assert len(message.body) < TEXT_MAX + 60


def test_a_message_has_an_end_and_says_how_much_there_is_more():
    notes = Notes(EVERY_MS)
    for epoch in range(LINES_MAX + 5):
        notes.engaged(structs.replace(SWITCH, epoch=epoch))

    lines = said(notes)[Kind.SWITCHES].splitlines()
    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == "and 5 more"


def test_items_that_are_too_many_to_remember_are_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digest_notes, "ITEMS_MAX", 2)
    notes = Notes(EVERY_MS)
    for n in range(4):
        notes.opened(f"i{n}", item())
    notes.opened("i1", item("brand"))

    assert said(notes)[Kind.WAITING].splitlines()[1].startswith("trading: 1 item ")


def test_there_is_something_to_say_until_it_was_delivered():
    notes = Notes(EVERY_MS)
    assert all(notes.quiet(kind) for kind in Kind)
    notes.engaged(SWITCH)
    notes.ended("i1", "trading", expired=True)
    notes.paged("rubber_stamp", "trading", 3)
    assert not any(notes.quiet(kind) for kind in Kind)
    notes.sent(Message(Kind.PAGES, "", "", NOW_MS))
    assert [kind for kind in Kind if notes.quiet(kind)] == [Kind.PAGES]
