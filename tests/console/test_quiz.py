"""The quiz by which somebody qualifies anew: what it is made of, what it tells and when, and what passing it writes."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.console.people import DAY_MS
from hitl_stream.console.quiz import ITEMS, OPEN_MS, QUALIFIED_MS, REST_MS, RIGHT, SPOILT
from hitl_stream.core.errors import UnreachableError
from hitl_stream.core.verdicts import Qualified, has_passed
from hitl_stream.wire.records import encode, time_text
from hitl_stream.wire.verdicts import Given, read_verdict
from support.console import Front, front, run
from support.make import NOW_MS, FakeRecord, change
from support.people import CLUSTER
from support.view import approval

Scenario = Callable[[Front], Awaitable[Any]]
QUIZ = "/quiz/bid.adjust"
BEFORE, AFTER = "1.20", "1.30"


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """Run a scenario over a console that knows old approvals; chance is always the same."""

    def asked(scenario: Scenario, *records: FakeRecord, names: tuple[str, ...] = ("ana", "ben")) -> Any:
        async def go() -> Any:
            async with front(tmp_path, *records, names=names) as found:
                found.office.chance = random.Random(7)
                return await scenario(found)

        return run(go())

    return asked


def olds(count: int = ITEMS, **parts: Any) -> list[FakeRecord]:
    """Return so many old approvals of ben's, each of its own bid."""
    of_action = {name: parts.pop(name) for name in ("expires_at",) if name in parts}
    bids = [{"changes": [change(BEFORE, f"1.{30 + n:02}", campaign=f"cmp-{n}")], **of_action} for n in range(count)]
    return [approval(n, action=bid, **parts) for n, bid in enumerate(bids)]


def is_spoilt(state: dict[str, Any]) -> bool:
    """Say whether a question shows something that nobody approved: what ben approved was from 1.30 to 1.69."""
    after = float(json.loads(state["card"])["changes"][0]["after"])
    return not 1.30 <= after < 1.30 + ITEMS / 100


async def taken(found: Front, wrongly: int = 0, start: dict[str, Any] | None = None) -> dict[str, Any]:
    """Take the quiz, that many answers wrong, and return its result."""
    state = start or (await found.ask("POST", QUIZ)).json()
    while state["state"] == "open":
        approve = not is_spoilt(state)
        body = {"quiz": state["quiz"], "at": state["at"], "approve": approve != (state["at"] < wrongly)}
        state = (await found.ask("POST", f"{QUIZ}/answer", body=body)).json()
    return dict(state)


def said(found: Front) -> list[Qualified]:
    """Return what was said of quizzes on `verdicts`; each signature is good to a desk."""
    given = [read_verdict(encode(one), NOW_MS, found.watch.control.keys, CLUSTER) for one in found.log.verdicts()]
    return [one.claims for one in given if isinstance(one, Given) and isinstance(one.claims, Qualified)]


# --- taking it --------------------------------------------------------------------------------------------------------


def test_who_sees_what_is_wrong_is_qualified_for_longer_and_the_desk_hears_of_it(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        await found.people.qualify("ana", "bid.adjust", NOW_MS - 1)
        result = await taken(found)

        assert (result["state"], result["right"], result["of"], result["missed"]) == ("passed", ITEMS, ITEMS, [])
        assert result["until"] == time_text(NOW_MS + QUALIFIED_MS)
        (claims,) = said(found)
        assert (claims.by, claims.class_, claims.right, claims.of) == ("ana", "bid.adjust", ITEMS, ITEMS)
        assert has_passed(claims)
        account = await found.people.account("ana")
        assert account is not None
        assert account.is_qualified("bid.adjust", NOW_MS + QUALIFIED_MS - 1)

    ask(scenario, *olds())


@pytest.mark.parametrize(("wrongly", "state"), [(ITEMS - RIGHT, "passed"), (ITEMS - RIGHT + 1, "failed")])
def test_so_many_right_answers_pass_and_one_less_does_not(ask: Callable[..., Any], wrongly: int, state: str):
    async def scenario(found: Front) -> None:
        result = await taken(found, wrongly)

        assert (result["state"], result["right"]) == (state, ITEMS - wrongly)
        assert [one["at"] for one in result["missed"]] == list(range(wrongly))
        assert len(said(found)) == (state == "passed")

    ask(scenario, *olds())


def test_half_of_the_items_are_spoilt_and_the_rest_is_what_people_approved(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        state, spoilt = (await found.ask("POST", QUIZ)).json(), []
        while state["state"] == "open":
            spoilt.append(is_spoilt(state))
            body = {"quiz": state["quiz"], "at": state["at"], "approve": True}
            state = (await found.ask("POST", f"{QUIZ}/answer", body=body)).json()

        assert sum(spoilt) == SPOILT
        assert spoilt != sorted(spoilt)
        assert spoilt != sorted(spoilt, reverse=True)
        assert [one["at"] for one in state["missed"]] == [at for at, wrong in enumerate(spoilt) if wrong]
        for one in state["missed"]:
            (place,) = one["wrong"]["places"]
            assert (place["path"], place["field"], place["before"]) == ("/changes/0/after", "bid", BEFORE)
            assert 1.30 <= float(place["proposed"]) < 1.70
            assert place["shown"] != place["proposed"]

    ask(scenario, *olds())


def test_which_items_are_spoilt_is_drawn_anew_each_time(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        patterns = []
        for seed in range(3):
            found.office.chance = random.Random(seed)
            found.now_ms += REST_MS
            result = await taken(found, ITEMS)  # what was wrong is told of every question that was missed
            patterns.append(tuple(one["wrong"] is not None for one in result["missed"]))

        assert {sum(one) for one in patterns} == {SPOILT}
        assert len(set(patterns)) == len(patterns)

    ask(scenario, *olds())


def test_no_question_tells_the_answer(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        states = [(await found.ask("POST", QUIZ)).json()]
        while states[-1]["state"] == "open" and len(states) < ITEMS:
            body = {"quiz": states[-1]["quiz"], "at": states[-1]["at"], "approve": True}
            states.append((await found.ask("POST", f"{QUIZ}/answer", body=body)).json())

        for state in states:
            assert state["missed"] == []
            assert state["right"] is None
            card = json.loads(state["card"])
            assert card["opened"] == time_text(NOW_MS)
            assert card["deadlines"]["expires_at"] is None
            assert "~quiz" not in state["card"]
            assert "old-" not in state["card"]
        assert len({tuple(json.loads(state["card"])) for state in states}) == 1

    ask(scenario, *olds(expires_at="2026-12-01T00:00:00Z"))


# --- what it is made of -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"at_ms": NOW_MS - DAY_MS + 1}, "younger than a day"),
        ({"by": "ana"}, "her own"),
        ({"verdict": "reject"}, "rejected"),
        ({"purpose": "canary"}, "planted"),
        ({"effect": "conflict"}, "did not count"),
        ({"queue": "brand"}, "another queue's"),
        ({"asked": None}, "nobody knows why it was asked"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_only_old_actions_that_others_approved_in_ones_own_queues_count(
    ask: Callable[..., Any], parts: dict[str, Any], why: str
):
    async def scenario(found: Front) -> None:
        (row,) = [one for one in (await found.ask("GET", "/quiz")).json()["classes"] if one["class"] == "bid.adjust"]
        assert (row["known"], row["needed"]) == (1, ITEMS)

    ask(scenario, *olds(1), approval(1, **parts))


def test_where_too_few_are_known_it_says_how_many(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        refused = await found.ask("POST", QUIZ)

        assert refused.status_code == 409
        assert f"{ITEMS} old approved actions of bid.adjust" in refused.json()["title"]
        assert f"and {ITEMS - 1} are known" in refused.json()["title"]
        assert "hitl user qualify ana bid.adjust" in refused.json()["todo"]

    ask(scenario, *olds(ITEMS - 1))


def test_nobody_qualifies_by_a_quiz_for_a_class_that_they_were_never_qualified_for(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        await found.people.qualify("ana", "bid.adjust", None)
        refused = await found.ask("POST", QUIZ)

        assert (refused.status_code, refused.json()["type"]) == (403, "urn:hitl:not_qualified")

    ask(scenario, *olds())


# --- tabs, reloads, rests ---------------------------------------------------------------------------------------------


def test_an_answer_counts_once_whichever_tab_gives_it(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        first = (await found.ask("POST", QUIZ)).json()
        again = (await found.ask("POST", QUIZ)).json()
        assert again == first

        body = {"quiz": first["quiz"], "at": 0, "approve": not is_spoilt(first)}
        one = (await found.ask("POST", f"{QUIZ}/answer", body=body)).json()
        other = (await found.ask("POST", f"{QUIZ}/answer", body={**body, "approve": is_spoilt(first)})).json()
        assert one == other
        assert one["at"] == 1
        assert (await taken(found, start=one))["right"] == ITEMS

    ask(scenario, *olds())


def test_a_quiz_is_gone_on_with_for_a_day_and_then_begun_anew(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        first = (await found.ask("POST", QUIZ)).json()
        found.now_ms = NOW_MS + OPEN_MS - 1
        assert (await found.ask("POST", QUIZ)).json()["quiz"] == first["quiz"]
        found.now_ms = NOW_MS + OPEN_MS
        later = (await found.ask("POST", QUIZ)).json()
        assert later["quiz"] != first["quiz"]

        old = {"quiz": first["quiz"], "at": 0, "approve": True}
        refused = await found.ask("POST", f"{QUIZ}/answer", body=old)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:hitl:changed")

    ask(scenario, *olds())


def test_who_fails_tries_again_after_a_rest(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        result = await taken(found, ITEMS)
        assert result["again_at"] == time_text(NOW_MS + REST_MS)

        found.now_ms = NOW_MS + REST_MS - 1
        refused = await found.ask("POST", QUIZ)
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:hitl:not_ready")
        found.now_ms = NOW_MS + REST_MS
        assert (await found.ask("POST", QUIZ)).json()["at"] == 0

    ask(scenario, *olds())


def test_a_pass_that_could_not_be_written_is_written_when_it_is_asked_for_again(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        await found.people.qualify("ana", "bid.adjust", NOW_MS - 1)
        state = (await found.ask("POST", QUIZ)).json()
        found.log.error = UnreachableError("Nothing was written: Kafka is away")
        while state.get("state") == "open":
            body = {"quiz": state["quiz"], "at": state["at"], "approve": not is_spoilt(state)}
            response = await found.ask("POST", f"{QUIZ}/answer", body=body)
            state = response.json()
        assert response.status_code == 503
        account = await found.people.account("ana")
        assert account is not None
        assert not account.is_qualified("bid.adjust", NOW_MS)

        found.log.error = None
        assert (await found.ask("POST", QUIZ)).json()["state"] == "passed"
        assert len(said(found)) == 1

    ask(scenario, *olds())
