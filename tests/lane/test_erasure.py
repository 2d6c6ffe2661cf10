"""Erasing from a workplace's log: what goes, what stands in the way, what ends by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hitl_stream.core.batch import Lot, key_of
from hitl_stream.lane.erasure import Plan, Wanted, plan
from hitl_stream.wire.topics import TABLE
from support.desk import MINUTE
from support.log import Recorded
from support.make import action_bytes, change, iso, post

BIG = {"changes": [change("1.00", "1.30")]}
EMAIL = "anna@example.com"
ANNA = {"context": {"email": EMAIL}}
SUBJECT = Wanted("acme", field="context.email", value=EMAIL)
ONE_MAY_BE_BAD = 300
"""Items of a batch: 50 of them are drawn, and it fails with the second error."""
KEPT = {name: None if topic.retention_ms < 0 else topic.retention_ms for name, topic in TABLE.items()}


@pytest.fixture
def work() -> Recorded:
    return Recorded()


def planned(work: Recorded, wanted: Wanted) -> Plan:
    checked = work.checked()
    return asyncio.run(plan(checked.log, checked, wanted, KEPT))


def asked(work: Recorded, number: int = 1, **action: Any) -> str:
    parts = {**BIG, "action_id": f"act-{number}", "proposed_at": iso(work.now_ms - 100), **action}
    (item,) = work.opened(action_bytes(**parts))
    return item


def judged(work: Recorded, number: int = 1, word: str = "reject", **action: Any) -> str:
    item = asked(work, number, **action)
    work.say(item, word)
    work.work()
    return item


@pytest.mark.behaviour("A12")
def test_all_about_a_subject_is_erased_by_its_keys_and_nothing_about_others(work: Recorded):
    item = judged(work, 1, **ANNA)
    judged(work, 2)
    found = planned(work, SUBJECT)
    assert found.actions == 1
    assert found.counts == {"reviews": 1, "decisions": 1, "feedback": 1, "preferences": 0}
    assert found.keys["reviews"] == {(0, item.encode())}
    (key,) = (key for _, key in found.keys["feedback"])
    assert key.startswith(item.encode())
    assert found.open == []


def test_an_action_is_erased_by_its_id(work: Recorded):
    judged(work, 1)
    judged(work, 12)
    found = planned(work, Wanted("acme", action_id="act-1"))
    assert found.counts == {"reviews": 1, "decisions": 1, "feedback": 1, "preferences": 0}


def test_another_tenants_data_stays(work: Recorded):
    judged(work, 1, **ANNA)
    for wanted in (Wanted("other", field="context.email", value=EMAIL), Wanted("other", action_id="act-1")):
        assert sum(planned(work, wanted).counts.values()) == 0


def test_what_is_open_stands_in_the_way(work: Recorded):
    judged(work, 1, **ANNA)
    item = asked(work, 2, **ANNA)
    (found,) = planned(work, SUBJECT).open
    assert (found.item, found.why) == (item, "it is OPEN in queue trading")


def batch(work: Recorded, size: int = 60) -> Lot:
    """Propose a batch of posts, each with an address of its own; return it, complete, with its sample drawn."""
    for index in range(size):
        parts = post(f"A quiet day {index}", batch={"id": "b-7", "size": size, "index": index}, type="post.publish")
        context = {"context": {"email": f"{index}@example.com"}, "agent": {"id": "copy-2"}}
        work.propose(action_bytes(**{"action_id": f"act-{index}", **parts, **context}))
    work.work()
    return work.lot(key_of("acme", "acc-17", "b-7"))


def test_a_member_that_waits_for_its_batch_stands_in_the_way(work: Recorded):
    lot = batch(work)
    waits = next(member for member in lot.members if member.item not in lot.drawn)
    found = planned(work, Wanted("acme", field="context.email", value=f"{waits.index}@example.com"))
    assert [(each.item, each.why) for each in found.open] == [(waits.item, "it is LOT in queue brand")]


def test_a_member_that_was_judged_stands_in_the_way_until_its_batch_has_ended(work: Recorded):
    """The tree is built of its members, and the desk builds it anew from `reviews` when it opens."""
    lot = batch(work, ONE_MAY_BE_BAD)
    first = next(member for member in lot.members if member.item == lot.drawn[0])
    wanted = Wanted("acme", field="context.email", value=f"{first.index}@example.com")
    work.say(first.item, "reject", by="ed", role="editor")
    work.work()
    assert work.end(first.item) == "REJECTED"
    assert [each.why for each in planned(work, wanted).open] == [f"its batch {lot.key} is SAMPLING"]
    for item in lot.drawn[1:2]:
        work.say(item, "reject", by="ed", role="editor")
    work.work()
    assert planned(work, wanted).open == [], "a second one is too many: each is decided by itself now"


def test_what_was_erased_before_is_not_erased_again(work: Recorded):
    judged(work, 1, **ANNA)
    for name, keys in planned(work, SUBJECT).keys.items():
        for _, key in keys:
            work.log.append(name, None, key, work.now_ms)
    assert sum(planned(work, SUBJECT).counts.values()) == 0


def test_what_ends_by_retention_is_told_with_its_time(work: Recorded):
    judged(work, 1, **ANNA)
    last_ms = work.now_ms
    work.now_ms += MINUTE
    judged(work, 2)
    found = {each.topic: each for each in planned(work, SUBJECT).ending}
    assert found["actions"].count == 1
    assert found["actions"].until_ms == last_ms + TABLE["actions"].retention_ms
    assert {"review", "closed", "verdicts", "observations"} <= found.keys()
    assert found["verdicts"].count == 1


def test_what_ran_without_anybody_is_told_too(work: Recorded):
    work.propose(action_bytes(**ANNA))
    work.carry_out()
    found = planned(work, SUBJECT)
    assert sum(found.counts.values()) == 0
    assert {each.topic for each in found.ending} == {"actions", "execute", "results"}


def test_a_preference_that_quotes_the_subject_is_erased(work: Recorded):
    for pair, text in (("p-1", f"write to {EMAIL.upper()}"), ("p-2", "write to nobody")):
        work.follow("pairs", b'{"pair":"%b","tenant":"acme","prompt":"%b","a":"one","b":"two"}'
                    % (pair.encode(), text.encode()), pair.encode())  # fmt: skip
        work.prefer(pair, "left", "a")
    work.work()
    found = planned(work, SUBJECT)
    assert {key for _, key in found.keys["preferences"]} == {b"p-1"}


def test_a_verdict_on_an_item_that_nobody_knew_holds_what_was_shown(work: Recorded):
    work.append("verdicts", work.verdict("nobody", shown=f'{{"to":"{EMAIL}"}}'))
    work.work()
    assert planned(work, SUBJECT).counts["decisions"] == 1
