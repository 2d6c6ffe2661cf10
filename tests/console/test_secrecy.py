"""Nobody can tell a planted item, a blind second or an audit copy from any other by what the API answers.

Two consoles are asked the same, one of them with a real item, the other with one of these in its place; every answer is
compared byte by byte, with its status and headers. Only digests and random ids differ, and are as long as each other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.console.office import HELD_MAX
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.events import Purpose
from hitl_stream.core.review import State
from support.console import Front, front, run
from support.make import NOW_MS, FakeRecord, change
from support.view import judged, result, review

Answer = tuple[str, int, dict[str, str], str]
World = Callable[[], list[FakeRecord]]
OPAQUE = re.compile(r"(?<![0-9a-z])(?:c-)?[0-9a-f]{32,64}(?![0-9a-z])")
ACTION = {"changes": [change()], "flags": ["brand_flag"]}
BY = ("ana", "ben", "mia")
CHANGES = [{"path": "/changes/0/after", "value": "0.50"}]


def real() -> list[FakeRecord]:
    """An item that anybody of the queue may decide."""
    return [review("i1", 0, people=1, **ACTION), after_it()]


def canary() -> list[FakeRecord]:
    """A planted one, for ana alone."""
    return [review("i1", 0, people=1, purpose=Purpose.CANARY, for_="ana", action_id="~c-1", **ACTION), after_it()]


def second() -> list[FakeRecord]:
    """An action that ben had approved and that ran, asked of ana once more."""
    return [
        judged("i0", 0, by="ben", action=ACTION),
        result(0, by=("ben",), **ACTION),
        review("i0", 0, state=State.APPROVED, people=1, queues={"trading": ("ben",)}, **ACTION),
        review("i1", 1, people=1, purpose=Purpose.SECOND, barred=("ben",), **ACTION),
        after_it(2),
    ]


def audit() -> list[FakeRecord]:
    """A copy of an action that ran without being looked at."""
    return [
        result(0, by=(), **ACTION),
        review("i1", 0, people=1, purpose=Purpose.AUDIT, **ACTION),
        after_it(1),
    ]


def after_it(offset: int = 1) -> FakeRecord:
    """The item that comes next."""
    return review("i2", offset, people=1, action_id="act-2", decide_by_ms=NOW_MS + 2 * DAY_MS)


UNLIKE = (canary, second, audit)
Script = Callable[[Front, list[Answer]], Awaitable[None]]


async def asked(found: Front, answers: list[Answer], method: str, path: str, body: Any = None, **more: Any) -> Any:
    """Ask, note the answer whole, and return it."""
    response = await found.ask(method, path, more.pop("by", "ana"), body, **more)
    answers.append((f"{method} {path}", response.status_code, dict(response.headers), response.text))
    return response


# --- what somebody can ask --------------------------------------------------------------------------------------------


async def looks(found: Front, answers: list[Answer]) -> None:
    """Ask for everything that there is to be looked at before anything is decided."""
    for by in BY:
        for path in ("/queues", "/exceptions", "/batches", "/me", "/feedback", "/switches"):
            await asked(found, answers, "GET", path, by=by)
    await asked(found, answers, "GET", "/me/figures")
    await asked(found, answers, "GET", "/quiz")
    for query in ({"account": "acc-17"}, {"campaign": "cmp-204"}, {"reviewer": "ana"}, {"action_id": "act-0"}):
        await asked(found, answers, "GET", "/search", **query)
    await asked(found, answers, "GET", "/actions/acme/act-0")
    await asked(found, answers, "GET", "/items/i1")
    await asked(found, answers, "GET", "/items/i9")


async def claims(found: Front, answers: list[Answer]) -> None:
    """Be given items, keep one, ask what a change would come to, and give it back."""
    await asked(found, answers, "GET", "/queues/trading/next", count=4)
    await asked(found, answers, "GET", "/queues/trading/next", count=1, order="uncertain", without=["i2"])
    await asked(found, answers, "POST", "/items/i1/claim")
    given = (await asked(found, answers, "GET", "/items/i1")).json()
    await asked(found, answers, "POST", "/items/i1/claim", by="ben")  # ana holds it
    painted = (await asked(found, answers, "POST", "/items/i1/painted", {"view": given["view"]})).json()
    await asked(found, answers, "POST", "/items/i1/painted", {"view": "0" * 64})
    await asked(found, answers, "POST", "/items/i1/check", {"changes": CHANGES})
    await asked(found, answers, "POST", "/items/i1/check", {"changes": []})
    seen = {"view": given["view"], "painted": painted["receipt"]}
    await asked(found, answers, "DELETE", "/items/i1/claim", **seen)
    await asked(found, answers, "GET", "/queues/trading/next", count=4, without=["i1"])
    await looks(found, answers)


def decides(verdict: str, **more: Any) -> Script:
    """Return what decides the item by this word, and looks around before anybody has read it, and after."""

    async def script(found: Front, answers: list[Answer]) -> None:
        given = (await asked(found, answers, "GET", "/queues/trading/next")).json()["items"][0]
        painted = (await asked(found, answers, "POST", "/items/i1/painted", {"view": given["view"]})).json()
        body = {"verdict": verdict, "view": given["view"], "painted": painted["receipt"], "id": "chosen-01", **more}
        await asked(found, answers, "POST", "/items/i1/verdict", {**body, "view": "0" * 64})
        await asked(found, answers, "POST", "/items/i1/verdict", body)
        await asked(found, answers, "POST", "/items/i1/verdict", body)  # the answer was lost
        await asked(found, answers, "GET", "/queues/trading/next", count=4)
        await looks(found, answers)

    return script


SCRIPTS: dict[str, Script] = {
    "looking": looks,
    "claiming": claims,
    "approving": decides("approve"),
    "rejecting": decides("reject", code="too_large", note="too much"),
    "rejecting without a reason": decides("reject"),
    "changing": decides("change", code="too_large", changes=CHANGES),
    "changing nothing": decides("change", code="too_large", changes=[]),
    "escalating": decides("escalate"),
}


def answers_of(directory: Path, records: Sequence[FakeRecord], script: Script) -> tuple[list[Answer], int]:
    """Return every answer that a console gives to a script, and how much was written."""

    async def scenario() -> tuple[list[Answer], int]:
        answers: list[Answer] = []
        async with front(directory, names=BY) as found:
            await found.fold(*records, as_of_ms=NOW_MS)
            await script(found, answers)
            return answers, len(found.log.written)

    got = run(scenario())
    assert isinstance(got, tuple)
    return got


def plain(answers: Sequence[Answer]) -> list[Answer]:
    """Return answers in which everything opaque is made the same, and stays as long as it is."""
    return [
        (asked_, status, headers, OPAQUE.sub(lambda found: "#" * len(found[0]), text))
        for asked_, status, headers, text in answers
    ]


@pytest.mark.behaviour("A9")
@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("world", UNLIKE, ids=lambda world: world.__name__)
def test_every_answer_is_that_of_a_real_item(tmp_path: Path, world: World, name: str):
    expected, written = answers_of(tmp_path / "real", real(), SCRIPTS[name])
    found, also = answers_of(tmp_path / "other", world(), SCRIPTS[name])

    assert len(expected) == len(found) > 10
    for one, other in zip(plain(expected), plain(found), strict=True):
        assert one == other
        assert len(one[3].encode()) == len(other[3].encode())
    assert also == written


def test_the_scripts_reach_what_they_are_about(tmp_path: Path):
    for name, script in SCRIPTS.items():
        answers, written = answers_of(tmp_path / name, real(), script)
        told = [status for path, status, *_ in answers if path.startswith(("GET /queues/", "POST /items/i1/claim"))]
        assert name == "looking" or 200 in told
        assert written == (
            2 if name in ("approving", "rejecting", "changing", "escalating") else 1 if name == "claiming" else 0
        )
    assert HELD_MAX > 2  # else the second item would not be given


@pytest.mark.parametrize(
    ("world", "told"),
    [(canary, "canary"), (second, "second"), (audit, "audit")],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_the_purpose_stands_in_what_was_read_and_in_no_answer(tmp_path: Path, world: World, told: str):
    assert any(f'"purpose":"{told}"'.encode() in (one.value or b"") for one in world())

    for name, script in SCRIPTS.items():
        answers, _ = answers_of(tmp_path / name, world(), script)
        whole = json.dumps(answers)
        for secret in (told, "purpose", "~c-1", "seeded", "planted"):
            assert secret not in whole.replace(": trading", "")


# --- after the decision -----------------------------------------------------------------------------------------------


def read_back(world: World, purpose: Purpose, verdict: str) -> Script:
    """Return what lets a judgement of the item be read, and looks around afterwards."""

    async def script(found: Front, answers: list[Answer]) -> None:
        action = {**ACTION, "action_id": "~c-1"} if purpose is Purpose.CANARY else ACTION
        ended = State.REJECTED if verdict == "reject" else State.APPROVED
        parts = {"people": 1, "purpose": purpose, "queues": {"trading": ("ana",)}}
        count = len(world())
        await found.fold(
            judged("i1", 9, by="ana", verdict=verdict, purpose=purpose.value, action=action),
            review("i1", count, state=ended, for_="ana" if purpose is Purpose.CANARY else None, **parts, **action),
        )
        await asked(found, answers, "GET", "/queues/trading/next", count=4)
        await asked(found, answers, "GET", "/me/figures")
        await asked(found, answers, "GET", "/queues")
        await asked(found, answers, "GET", "/exceptions")
        await asked(found, answers, "GET", "/items/i2")

    return script


@pytest.mark.behaviour("A9")
@pytest.mark.parametrize("verdict", ["approve", "reject"])
def test_a_judged_one_counts_like_any_other_for_a_day_and_delays_nothing(tmp_path: Path, verdict: str):
    expected, _ = answers_of(tmp_path / "real", real(), read_back(real, Purpose.DECIDE, verdict))
    found, _ = answers_of(tmp_path / "other", canary(), read_back(canary, Purpose.CANARY, verdict))

    assert plain(expected) == plain(found)
    figures = json.loads(expected[1][3])
    assert figures["items"] == 1
    assert figures["days"][-1] == {"day": figures["days"][-1]["day"], "items": 1, "approved": int(verdict == "approve")}
    assert figures["canaries"]["seen"] == 0
