"""A week of posts and a round of first lines, through router and desk, with robots for the people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import pytest

from hitl_stream.core.dwell import floor_ms, floor_of
from hitl_stream.core.review import State
from hitl_stream.core.validators import Verdict
from hitl_stream.dev.drive import Sent
from hitl_stream.dev.reviewers import RELEASE_WORDS, Opinion, Robot, judged
from hitl_stream.dev.simulator import LINE_FAULTS, LINES, WEEK, WEEK_FAULTS, Scenario, Simulation
from hitl_stream.roles.plugins import load
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.records import decode_approved, decode_decision
from support.desk import PREFIX, Workplace
from support.make import NOW_MS
from support.staff import Staff, demo_policy

RATE = 1_000.0
LAZY, CAREFUL = Robot("lea", "editor", "lazy"), Robot("eve", "editor")
CLAIMS = sum(count for fault, count in WEEK_FAULTS.items() if "claim" in fault)
CLIENT = Robot("acme-cleo", "client", "lazy")


@cache
def tone() -> Any:
    pytest.importorskip("vaderSentiment")
    return load("sentiment")


def judge(jobs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """Judge texts as the worker process does, in this one."""
    return [tone()([text])[0] for _, text in jobs]


def first(scenario: Scenario, count: int, seed: int = 7) -> list[Sent]:
    return list(islice(Simulation(seed, scenario, RATE, NOW_MS - 500, seconds=10, partitions=1), count))


def workplace() -> Workplace:
    work = Workplace(demo_policy())
    work.router.judge = judge
    return work


def in_state(work: Workplace, state: State) -> list[str]:
    return [item for item in work.open_items() if work.review(item).state is state]


def executed(work: Workplace) -> list[Any]:
    return [decode_approved(output.value) for output in work.left["execute"] if output.value is not None]


def proposed(sent: Iterable[Sent]) -> list[Any]:
    return [json.loads(one.value) for one in sent]


# --- posts-week -------------------------------------------------------------------------------------------------------


def test_a_week_has_thirty_posts_on_each_of_four_platforms_in_one_batch():
    week = proposed(first("posts-week", WEEK + 1))
    batches = [post["batch"] for post in week]
    assert Counter(post["content"]["platform"] for post in week[:WEEK]) == dict.fromkeys(
        ("x", "linkedin", "instagram", "facebook"), 30
    )
    assert [batch["index"] for batch in batches] == [*range(WEEK), 0]
    assert {(batch["id"], batch["size"]) for batch in batches[:WEEK]} == {(batches[0]["id"], WEEK)}
    assert batches[WEEK]["id"] != batches[0]["id"], "then the next week begins"
    assert len({post["entity"]["account"] for post in week[:WEEK]}) == 1


@pytest.mark.parametrize("seed", [0, 7, 23])
@pytest.mark.behaviour("C7")
def test_of_a_weeks_posts_the_flagged_ones_and_a_sample_are_judged_and_one_person_releases_the_rest(seed: int):
    work, week = workplace(), first("posts-week", WEEK, seed)
    work.propose(*(one.value for one in week))
    work.work()
    flagged = [item for item in in_state(work, State.OPEN) if work.review(item).batch is None]
    sample = [item for item in in_state(work, State.OPEN) if work.review(item).batch is not None]
    members = WEEK - sum(WEEK_FAULTS.values())
    assert (len(flagged), len(sample), len(in_state(work, State.LOT))) == (WEEK - members, 13, members - 13)

    assert Staff(work, LAZY).decide() == {"approve": len(flagged) + 13}
    assert len(executed(work)) == len(flagged) - CLAIMS, "claims wait for the client, and the batch for them"
    assert Staff(work, CLIENT, LAZY).decide() == {"approve": CLAIMS, "release": 1}

    runs = executed(work)
    proofs = [one.proof for one in runs if one.proof is not None]
    assert len({one.id for one in runs}) == len(runs) == WEEK
    assert [one.by for one in runs if one.proof is not None] == [("lea",)] * members
    assert sorted(proof.index for proof in proofs) == list(range(members))
    assert not in_state(work, State.LOT)
    least_ms = [floor_ms(work_action(one)) for one in week]
    assert all(len(post["content"]["text"]) <= 400 for post in proposed(week)), "a week of short captions"
    looks = [json.loads(output.value or b"")["floor_s"] for output in work.left["observations"]]
    judged_s = sum(looks) + floor_of(RELEASE_WORDS, 0) / 1_000
    assert len(looks) == len(flagged) + 13 + CLAIMS
    assert judged_s <= 0.4 * sum(least_ms) / 1_000, "of the time that reading all of it takes, six tenths are saved"


@pytest.mark.behaviour("C7")
def test_an_editor_who_reads_says_no_to_what_the_style_gate_found_and_lets_the_rest_go():
    work = workplace()
    work.propose(*(one.value for one in first("posts-week", WEEK)))
    work.work()

    said = Staff(work, CAREFUL, seed=3).decide()

    assert said["reject"] == sum(WEEK_FAULTS.values())
    assert said["release"] == 1
    assert len(executed(work)) == WEEK - said["reject"] - said["escalate"]


@pytest.mark.behaviour("C8")
def test_claims_in_a_weeks_posts_wait_for_the_client_too_who_sees_nothing_else():
    work, week = workplace(), first("posts-week", WEEK)
    claims = {post["action_id"] for post in proposed(week) if "Clinically proven" in post["content"]["text"]}
    assert len(claims) == CLAIMS == 6
    work.propose(*(one.value for one in week))
    work.work()

    client = Staff(work, CLIENT)
    assert client.decide() == {"approve": CLAIMS}
    assert not work.left["execute"], "what the client has confirmed waits for an editor"
    given = [row for row in decisions(work) if row["by"] == "acme-cleo"]
    assert {row["action_id"] for row in given} == claims

    Staff(work, LAZY).decide()
    both = {one.action_id: one.by for one in executed(work) if one.action_id in claims}
    assert set(both) == claims
    assert set(map(frozenset, both.values())) == {frozenset({"lea", "acme-cleo"})}


def test_two_robots_never_look_at_the_same_item():
    work = workplace()
    work.propose(*(one.value for one in first("posts-week", WEEK)))
    work.work()
    staff = Staff(work, LAZY, CAREFUL)
    staff.read()

    taken = [staff.reviewers.next_for(robot) for _ in range(20) for robot in (LAZY, CAREFUL)]

    there = [name for name in taken if name is not None]
    assert len(there) == len(set(there)) == 29


@pytest.mark.parametrize("temper", ["careful", "lazy"])
def test_a_lazy_robot_looks_too_briefly_to_have_read_and_a_careful_one_does_not(temper: Any):
    work = workplace()
    work.propose(*(one.value for one in first("posts-week", WEEK)))
    work.work()

    Staff(work, replace(CAREFUL, temper=temper)).decide()

    looks = [json.loads(output.value or b"") for output in work.left["observations"]]
    assert len(looks) >= 29
    enough = [look["dwell_s"] >= look["floor_s"] for look in looks]
    assert all(enough) if temper == "careful" else not any(enough)


def test_a_careful_robot_gives_the_reason_that_stands_for_what_the_gate_found():
    policy = demo_policy()
    post = json.loads(first("posts-week", 1)[0].value)
    action = work_action(Sent(0, json.dumps({**post, "content": {"text": "It isn't bread."}}).encode(), None, None, ""))
    assert judged(action, policy, ["brand_voice"]) == Opinion("reject", "off_tone", "brand_voice: as the gate says")
    assert judged(action, policy) == Opinion("approve")


# --- first-lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.behaviour("D3")
def test_of_500_first_lines_370_execute_and_130_are_queued(seed: int):
    work, lines = workplace(), first("first-lines", LINES, seed)
    outputs = [one for value in lines for one in work.propose(value.value)]
    work.work()

    answers = Counter(output.topic.removeprefix(PREFIX) for output in outputs if ".seeded" not in output.topic)
    assert answers == {"execute": 370, "review": 130}
    queued = [decode_decision(one.value) for one in outputs if one.topic == PREFIX + "review" and one.value]
    fired = Counter(row.rule for one in queued for row in one.reasons if row.counts)
    assert fired == {
        "validator.short": LINE_FAULTS["long"] + LINE_FAULTS["long and unnamed"],
        "validator.names_company": LINE_FAULTS["unnamed"] + LINE_FAULTS["long and unnamed"],
        "validator.friendly": LINE_FAULTS["unfriendly"],
    }
    asked = [work.review(item) for item in in_state(work, State.OPEN)]
    assert Counter(need.queue for one in asked if one.purpose == "decide" for need in one.needs) == {"sdr": 130}


def test_rounds_of_first_lines_differ_in_order_and_not_in_number():
    lines = proposed(first("first-lines", 2 * LINES))
    long = [len(line["content"]["text"]) >= 120 for line in lines]
    assert sum(long[:LINES]) == sum(long[LINES:]) == LINE_FAULTS["long"] + LINE_FAULTS["long and unnamed"]
    assert long[:LINES] != long[LINES:]


# --- small things -----------------------------------------------------------------------------------------------------


def work_action(sent: Sent) -> Any:
    found = decode_bytes(sent.value)
    assert isinstance(found, Decoded), found
    return found.action


def decisions(work: Workplace) -> list[dict[str, Any]]:
    return [json.loads(output.value or b"") for output in work.left["decisions"]]
