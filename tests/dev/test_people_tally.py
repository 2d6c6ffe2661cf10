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
    record = {"reviewer": reviewer, "dwell_s": dwell_s, "floor_s": floor_s}
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
