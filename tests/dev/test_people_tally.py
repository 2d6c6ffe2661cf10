"""What the demo counts of people."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hitl_stream.dev.people_tally import PEOPLE_MAX, People, Waiting

AT = "2026-11-21T07:10:00.000Z"
AT_MS = 1_795_245_000_000


def item(people: People, name: str, state: str = "OPEN", queue: str = "trading", opened: str = AT) -> None:
    record = {"item": name, "state": state, "queue": queue, "opened": opened, "purpose": "decide"}
    people.take("reviews", name.encode(), json.dumps(record).encode())


def judgement(people: People, verdict: str = "approve", effect: str = "applied", **parts: Any) -> None:
    people.take("decisions", b"i/1", json.dumps({"verdict": verdict, "effect": effect, **parts}).encode())


def look(people: People, reviewer: str, dwell_s: float, floor_s: float = 2.0) -> None:
    record = {"item": "i", "reviewer": reviewer, "dwell_s": dwell_s, "floor_s": floor_s}
    people.take("observations", reviewer.encode(), json.dumps(record).encode())


def test_queues_say_how_many_are_open_and_since_when_the_oldest_the_fullest_first():
    people = People()
    item(people, "a", queue="brand")
    item(people, "b", opened="2026-11-21T07:10:05.000Z")
    item(people, "c", opened="2026-11-21T07:10:03.000Z")

    assert people.open == 3
    assert list(people.queues().items()) == [("trading", Waiting(2, AT_MS + 3_000)), ("brand", Waiting(1, AT_MS))]


@pytest.mark.parametrize("state", ["APPROVED", "REJECTED", "CHANGED", "EXPIRED", "STALE", "PARKED"])
def test_what_has_ended_is_open_no_more(state: str):
    people = People()
    item(people, "a")
    item(people, "a", state)

    assert (people.open, people.queues()) == (0, {})


def test_an_item_that_is_written_again_is_one_and_moves_with_its_escalation():
    people = People()
    item(people, "a")
    item(people, "a", queue="manager")

    assert people.queues() == {"manager": Waiting(1, AT_MS)}


def test_an_item_that_is_erased_is_gone():
    people = People()
    item(people, "a")
    people.take("reviews", b"a", None)

    assert people.open == 0


def test_members_of_a_batch_that_nobody_is_asked_about_are_counted_apart():
    people = People()
    for number, state in enumerate(("GATHERING", "LOT", "PASSED")):
        item(people, f"m{number}", state)
    people.take("reviews", b"batch/acme/acc-1/b-7", b'{"lot": "acme/acc-1/b-7"}')
    assert (people.open, people.in_batches) == (0, 3)

    item(people, "m0", "OPEN")
    item(people, "m1", "APPROVED")

    assert (people.open, people.in_batches) == (1, 1)


def test_only_what_counts_is_counted_by_word_and_the_rest_by_what_became_of_it():
    people = People()
    judgement(people)
    judgement(people, effect="waiting")
    judgement(people, "reject")
    judgement(people, "release")
    judgement(people, effect="conflict")
    judgement(people, effect="late")
    judgement(people, effect="refused", why="too_fast")

    assert people.words == {"approve": 2, "reject": 1, "release": 1}
    assert people.effects == {"applied": 3, "waiting": 1, "conflict": 1, "late": 1, "refused": 1}
    assert people.refusals == {"too_fast": 1}


def test_a_verdict_is_unheard_until_the_desk_has_answered_it():
    people = People()
    people.take("verdicts", None, b"{}")
    people.take("verdicts", None, b"{}")
    assert people.unheard == 2

    judgement(people, effect="refused", why="role")
    assert people.unheard == 1

    judgement(people)
    judgement(people)
    assert people.unheard == 0, "a decision may be seen before its verdict: topics are read side by side"


def test_how_long_somebody_looks_is_compared_with_what_reading_takes():
    people = People()
    for dwell_s in (1.0, 1.4):
        look(people, "lazy", dwell_s)
    look(people, "careful", 8.0, floor_s=3.0)

    lazy, careful = people.paces["lazy"], people.paces["careful"]
    assert (lazy.items, lazy.dwell_mean_s, lazy.floor_mean_s, lazy.looks) == (2, 1.2, 2.0, False)
    assert (careful.items, careful.dwell_mean_s, careful.floor_mean_s, careful.looks) == (1, 8.0, 3.0, True)


def test_only_so_many_people_are_told_apart():
    people = People()
    for number in range(PEOPLE_MAX + 5):
        look(people, f"p{number}", 2.0)
    look(people, "p0", 2.0)

    assert len(people.paces) == PEOPLE_MAX
    assert people.paces["p0"].items == 2


def alert(people: People, person: str | None, row: int = 3, level: int = 1, **parts: Any) -> None:
    record = {"id": "o/0/1", "queue": "trading", "person": person, "row": row, "level": level, "at": AT, **parts}
    people.take("alerts", b"trading", json.dumps(record).encode())


def test_a_canary_counts_where_it_was_judged_and_as_caught_where_it_was_objected_to():
    people = People()
    look(people, "ana", 5.0)
    for caught in (True, False, None):
        record = {"item": "i", "reviewer": "ana", "dwell_s": 5.0, "floor_s": 2.0, "purpose": "canary", "caught": caught}
        people.take("observations", b"ana", json.dumps(record).encode())

    assert (people.canaries, people.caught) == (2, 1)
    assert people.paces["ana"].items == 4


def test_a_quiz_is_no_look_at_an_item():
    people = People()
    record = {"item": "", "reviewer": "ana", "dwell_s": 0.0, "floor_s": 0.0, "purpose": "quiz"}
    people.take("observations", b"ana", json.dumps(record).encode())

    assert people.paces == {}


def test_only_what_somebody_is_woken_for_makes_a_rubber_stamp_and_it_stays_one():
    people = People()
    people.names = {"p-1": "lazy-trader"}
    alert(people, "p-2")
    alert(people, "p-1", page="rubber_stamp")
    alert(people, "p-1", row=2, level=3)
    alert(people, "p-3", page="reviewer_unreliable")

    assert list(people.stamps()) == ["lazy-trader"]
    stamp = people.stamps()["lazy-trader"]
    assert (stamp.row, stamp.level) == (3, 3), "why they were found, and how closely they are watched now"


def test_who_has_qualified_anew_rubber_stamps_no_more():
    people = People()
    alert(people, "p-1", page="rubber_stamp")
    alert(people, "p-1", row=0, level=0, ended=True)

    assert people.alarms == {}


@pytest.mark.parametrize("person", [None, ""])
def test_an_alert_about_a_whole_queue_is_about_nobody(person: str | None):
    people = People()
    alert(people, person, row=5)

    assert people.alarms == {}


def test_a_pseudonym_that_is_nobodys_is_shown_as_it_is():
    people = People()
    alert(people, "p-9", page="rubber_stamp")

    assert list(people.stamps()) == ["p-9"]
