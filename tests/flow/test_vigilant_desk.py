"""What the desk does for vigilance: blind seconds, people who are watched, quizzes, and canaries that never run."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from hitl_stream.core.canaries import planted, ways
from hitl_stream.core.events import Purpose
from hitl_stream.core.review import State
from hitl_stream.lane.step import Output
from hitl_stream.roles import approvals as approvals_module
from hitl_stream.roles import desk as desk_module
from hitl_stream.roles import desk_writing
from hitl_stream.roles import executor as executor_module
from hitl_stream.roles.approvals import HumanApprovals
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import decode_observation
from hitl_stream.wire.records import First, time_text
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from support.desk import ANA, CLUSTER, MONITOR_KEY, Workplace
from support.execution import Execution, execution
from support.make import DESK_KEY, SEAL_KEY, action_bytes, change, make_policy

BIG = {"changes": [change("1.00", "1.30")]}
"""A bid that asks one trader."""
ALWAYS = make_policy(classes={"bid.adjust": {"second_review": 1}})
NEVER = make_policy(classes={"bid.adjust": {"second_review": 0}})
TOP_TIER = make_policy(classes={"bid.adjust": {"tier": 3, "second_review": 0}})


def opened(work: Workplace, **parts: Any) -> str:
    (item,) = work.opened(action_bytes(**{**BIG, **parts}))
    return item


def decided(work: Workplace, item: str, word: str = "approve", by: str = "tess", **parts: Any) -> None:
    work.say(item, word, by, **parts)
    work.work()


# --- blind seconds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_a_second_is_put_to_somebody_else_who_does_not_know_of_the_first(word: str) -> None:
    work = Workplace(ALWAYS)
    first = opened(work)
    decided(work, first, word)
    (second,) = work.open_items()

    review, state = work.review(second), work.card(second).state
    assert (review.purpose, review.for_, review.state) == (Purpose.SECOND, None, State.OPEN)
    assert "tess" in review.barred
    assert state.first == First("tess", word)
    assert len(second) == len(first)
    assert [need.people for need in review.needs] == [1]

    decided(work, second, by="tess")
    assert work.take("decisions")[-1]["why"] == "barred", "not by who has judged it"
    executed = len(work.left["execute"])
    decided(work, second, by="theo")
    assert work.end(second) == "APPROVED"
    assert len(work.left["execute"]) == executed, "nothing runs by a second look"
    seen = decode_observation(work.left["observations"][-1].value)
    assert (seen.purpose, seen.first, seen.reviewer) == ("second", First("tess", word), "theo")
    assert work.open_items() == [], "no third one"


def test_a_second_that_says_no_closes_nothing() -> None:
    work = Workplace(ALWAYS)
    decided(work, opened(work))
    (second,) = work.open_items()
    decided(work, second, "reject", by="theo")
    assert work.left["closed"] == []
    assert len(work.left["execute"]) == 1


def test_a_share_is_drawn_as_the_class_says_or_one_in_twenty() -> None:
    def drawn(policy: Any) -> int:
        work = Workplace(policy)
        actions = [action_bytes(**{**BIG, "action_id": f"a-{n}"}) for n in range(400)]
        for item in work.opened(*actions):
            work.say(item)
        work.work()
        return len(work.open_items())

    assert (drawn(NEVER), drawn(ALWAYS)) == (0, 400)
    assert 8 <= drawn(None) <= 36, "5 % of 400: these bounds are wrong once in 2,000 keys"


def test_whoever_restores_the_desk_has_the_same_second() -> None:
    work = Workplace(ALWAYS)
    decided(work, opened(work))
    (second,) = work.open_items()
    before = work.review(second), work.card(second)
    work.reopen()
    assert (work.review(second), work.card(second)) == before


# --- people who are watched -------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A10")
def test_whoever_is_at_level_two_needs_another_person() -> None:
    work = Workplace(NEVER)
    work.watch("lazy", 2)
    item = opened(work)
    decided(work, item, by="lazy")
    assert work.take("decisions")[-1]["effect"] == "waiting"
    assert work.left["execute"] == []
    decided(work, item, by="tess")
    assert len(work.left["execute"]) == 1


def test_whoever_is_at_level_two_can_stop_things_as_before() -> None:
    work = Workplace(NEVER)
    work.watch("lazy", 2)
    item = opened(work)
    decided(work, item, "reject", by="lazy")
    assert work.end(item) == "REJECTED"


@pytest.mark.parametrize(("level", "runs"), [(0, 1), (1, 1), (2, 0), (3, 0)])
def test_levels_ask_for_more_people_and_never_for_fewer(level: int, runs: int) -> None:
    work = Workplace(NEVER)
    work.watch("lazy", level)
    decided(work, opened(work), by="lazy")
    assert len(work.left["execute"]) == runs


@pytest.mark.behaviour("A10")
def test_the_highest_tier_of_whoever_is_at_level_three_goes_to_escalation() -> None:
    work = Workplace(TOP_TIER)
    work.watch("lazy", 3)
    item = opened(work)
    queue = work.review(item).needs[0].queue
    decided(work, item, by="lazy")
    (said,) = work.take("decisions")
    assert (said["effect"], said["why"]) == ("refused", "level")
    assert work.left["observations"] == [], "what does not count says nothing of anybody"
    review = work.review(item)
    assert review.needs[0].queue != queue
    assert review.needs[0].by == ()


def test_a_level_that_falls_again_is_forgotten() -> None:
    work = Workplace(NEVER)
    work.watch("lazy", 3)
    work.watch("lazy", 0)
    decided(work, opened(work), by="lazy")
    assert len(work.left["execute"]) == 1


def test_a_canary_looks_the_same_to_whoever_is_watched() -> None:
    work = Workplace(NEVER)
    work.watch("lazy", 2)
    real, canary = opened(work), plant(work, "lazy")
    decided(work, real, by="lazy")
    decided(work, canary, by="lazy")
    assert [said["effect"] for said in work.take("decisions")][-2:] == ["waiting", "waiting"]


# --- quizzes ----------------------------------------------------------------------------------------------------------


def test_a_quiz_that_was_passed_is_observed() -> None:
    work = Workplace()
    work.qualify("lazy", right=35, of=40)
    work.work()
    (output,) = work.left["observations"]
    seen = decode_observation(output.value)
    assert output.key == b"lazy"
    assert (seen.purpose, seen.verdict, seen.reviewer, seen.class_) == ("quiz", "passed", "lazy", "bid.adjust")
    assert (seen.item, seen.queue, seen.agent) == ("", "", None)


@pytest.mark.parametrize(("right", "of"), [(34, 40), (20, 20), (43, 50), (0, 1)])
def test_a_quiz_that_was_not_passed_counts_for_nothing(right: int, of: int) -> None:
    work = Workplace()
    work.qualify("lazy", right, of)
    work.work()
    assert work.left["observations"] == []
    assert work.tally.refused["quiz"] == 1


def test_nobody_qualifies_themselves_by_their_own_key() -> None:
    work = Workplace()
    work.qualify("ana", key=ANA)
    work.work()
    assert work.left["observations"] == []
    assert work.tally.refused["person"] == 1


# --- canaries ---------------------------------------------------------------------------------------------------------


def plant(work: Workplace, person: str, *, times: int = 1, **lies: Any) -> str:
    """Let people approve something, and put a canary that is made of it to a person; return its item."""
    item = opened(work, action_id="source")
    decided(work, item)
    source = work.take("decisions")[-1]
    raw = json.dumps(source["action"]).encode()
    decoded = decode_bytes(raw, {})
    assert isinstance(decoded, Decoded)
    mutation, edit = ways(decoded.action)[0]
    spoilt = planted(raw, edit, "~c-0", time_text(work.now_ms))
    before = set(work.open_items())
    for _ in range(times):
        asked = {"purpose": "canary", "for_": person, "planted": mutation.error}
        work.seed(source["asked"], spoilt, **(asked | lies))
        work.work()
    (canary,) = set(work.open_items()) - before
    work.left["execute"].clear()
    return canary


def test_a_canary_that_is_asked_for_again_after_a_crash_is_the_same_item() -> None:
    work = Workplace(NEVER)
    canary = plant(work, "theo", times=3)
    assert work.open_items() == [canary]
    assert work.tally.repeated == 1
    decided(work, canary, "reject", by="theo")
    assert work.open_items() == [], "nor does it come back once it is judged"


@pytest.mark.parametrize(
    ("word", "caught"), [("approve", False), ("reject", True), ("change", True), ("escalate", True)]
)
def test_what_became_of_a_canary_is_observed_and_nothing_else_comes_of_it(word: str, caught: bool) -> None:
    work = Workplace(NEVER)
    canary = plant(work, "theo")
    work.left.clear()
    edits = [("/changes/0/after", "1.05")] if word == "change" else []
    decided(work, canary, word, by="theo", edits=edits)
    seen = decode_observation(work.left["observations"][-1].value)
    assert (seen.purpose, seen.caught, seen.planted, seen.item) == ("canary", caught, "limit", canary)
    assert not {"execute", "closed", "actions", "held"} & {name for name, found in work.left.items() if found}


def test_a_canary_is_one_persons() -> None:
    work = Workplace(NEVER)
    canary = plant(work, "theo")
    decided(work, canary, by="tess")
    assert work.take("decisions")[-1]["why"] == "not_asked"


def test_a_canary_that_is_left_waits_for_the_same_person() -> None:
    work = Workplace(NEVER)
    canary = plant(work, "theo")
    work.skip(canary, by="theo")
    work.work()
    seen = decode_observation(work.left["observations"][-1].value)
    assert (seen.verdict, seen.caught) == ("skip", None)
    assert work.review(canary).for_ == "theo"


# --- three guards -----------------------------------------------------------------------------------------------------

GUARDS = ("the desk knows it", "no router sealed it", "its id is no action's")
TOPICS = ("review", "escalation", "review.seeded")


def without(guards_off: Collection[str], work: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take some of the three reasons away for which a canary cannot run, wherever the product looks at them."""
    if GUARDS[0] in guards_off:
        # Whatever a monitor asks for is to be decided, as if a router had asked.
        monkeypatch.setattr(desk_module, "purpose_of", lambda name, role, decision: Purpose.DECIDE)
    if GUARDS[1] in guards_off:
        for module in (desk_writing, approvals_module):
            monkeypatch.setattr(module, "ASKING", TOPICS)
        work.desk.papers.router_keys = routers(guards_off)
    if GUARDS[2] in guards_off:
        for module in (desk_writing, executor_module):
            monkeypatch.setattr(module, "is_planted", lambda action_id: False)


def routers(guards_off: Collection[str]) -> dict[str, SealKey]:
    """Return whose seals count as a router's: the monitor's, too, where that guard is off."""
    both = {SEAL_KEY.key_id: SEAL_KEY, MONITOR_KEY.key_id: MONITOR_KEY}
    return both if GUARDS[1] in guards_off else {SEAL_KEY.key_id: SEAL_KEY}


def approved(work: Workplace, guards_off: Collection[str]) -> list[Output]:
    """Put a canary to somebody, let them approve it, and return what the desk lets run.

    A monitor that lies says that it is to be decided; without the first guard the desk would believe it.
    """
    lies = {"purpose": "decide", "for_": None} if GUARDS[0] in guards_off else {}
    canary = plant(work, "theo", **lies)
    work.say(canary, by="theo")
    work.work()
    assert work.take("decisions")[-1]["effect"] == "applied"
    return work.left["execute"]


def called(work: Workplace, outputs: Sequence[Output], guards_off: Collection[str]) -> list[str]:
    """Hand an executor what the desk lets run; return what it calls the platform for."""
    trusting = HumanApprovals(
        TopicSet(partitions=1), {DESK_KEY.key_id: DESK_KEY}, routers(guards_off),
        Policies(NEVER, "d" * 64, work.control), lambda: CLUSTER, lambda: work.now_ms,
    )  # fmt: skip
    found: list[str] = []

    async def scenario(bench: Execution) -> None:
        for output in outputs:
            bench.put(output)
        bench.open()
        await bench.settled()
        found.extend(bench.adapter.calls)

    execution(scenario, policy=NEVER, approvals=trusting)
    return found


@pytest.mark.parametrize("guards_off", [(), *itertools.combinations(GUARDS, 1), *itertools.combinations(GUARDS, 2)])
def test_with_any_two_guards_off_a_canary_that_was_approved_reaches_neither_execute_nor_the_platform(
    guards_off: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Workplace(NEVER)
    without(guards_off, work, monkeypatch)
    outputs = approved(work, guards_off)
    assert outputs == []
    assert called(work, outputs, guards_off) == []


def test_without_all_three_it_would_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what holds it back above is the guards, and not the way in which this is tried."""
    work = Workplace(NEVER)
    without(GUARDS, work, monkeypatch)
    outputs = approved(work, GUARDS)
    assert len(outputs) == 1
    assert called(work, outputs, GUARDS) == ["~c-0"]


@pytest.mark.parametrize("guard", GUARDS[1:])
def test_an_executor_refuses_it_by_itself_whatever_a_desk_lets_run(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk that checks nothing, and of the executor's own two guards only one."""
    work = Workplace(NEVER)
    guards_off = [one for one in GUARDS if one != guard]
    without(guards_off, work, monkeypatch)
    monkeypatch.setattr(desk_writing.Writing, "_never_runs", lambda self, card: None)
    outputs = approved(work, guards_off)
    assert len(outputs) == 1
    assert called(work, outputs, guards_off) == []


@pytest.mark.parametrize("purpose", ["second", "decide"])
def test_what_is_only_judged_and_expires_wakes_nobody(purpose: str) -> None:
    work = Workplace(ALWAYS)
    opened(work)
    if purpose == "second":
        decided(work, work.open_items()[0])
    told = 0
    for _ in range(40):
        work.later(6 * 3_600_000)
        told += sum(work.tally.timed.values()) + sum(work.tally.lapsed.values())
    assert not any(work.review(name).state is State.OPEN for name in work.open_items())
    assert bool(told) == (purpose == "decide")
