"""What people are told of how they review: lessons, own figures, a break; what a queue's owner sees; and the gates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.console.figures import own_figures
from hitl_stream.console.gates import rows
from hitl_stream.console.lessons import lesson
from hitl_stream.console.pace import GRACE_ITEMS, MORE_ITEMS, Pace
from hitl_stream.console.watching import ALERTS_MAX, GATES_MAX, PEOPLE_MAX, Watching
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.control import Control
from hitl_stream.core.events import Purpose
from hitl_stream.core.policy.rules import gate_digest
from hitl_stream.core.review import State
from hitl_stream.core.vigilance import APPROVALS_MIN, BREAK_AFTER_ITEMS, BREAK_AFTER_MS, GAP_MS, Level, Sign
from hitl_stream.roles.monitor_state import Kept, encode, key_of
from hitl_stream.wire.desk_records import HumanDecision, decode_human_decision
from hitl_stream.wire.records import encode as encoded
from hitl_stream.wire.records import head_of, time_text
from support.console import Front, front, run
from support.make import NOW_MS, FakeRecord, acme, action_bytes, change, post
from support.view import decision, judged, review
from support.vigilant import KEY, alarm, evidence, heard, know

Scenario = Callable[[Front], Awaitable[Any]]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Any]:
    """Run a scenario over a console into which records were folded."""

    def asked(scenario: Scenario, *records: FakeRecord, names: tuple[str, ...] = ("ana", "ben", "uma", "vic")) -> Any:
        async def go() -> Any:
            async with front(tmp_path, *records, names=names) as found:
                return await scenario(found)

        return run(go())

    return asked


def said(verdict: str = "approve", *, ago_ms: int = 0, dwell_s: float = 30.0, **parts: Any) -> HumanDecision:
    """Return that somebody judged an item, which took them so long."""
    at_ms = NOW_MS - ago_ms
    times = {"painted": time_text(at_ms - int(dwell_s * 1000)), "decided": time_text(at_ms)}
    record = judged(at_ms=at_ms, verdict=verdict, shown='{"floor_s":4.0}', **times, **parts)
    return decode_human_decision(record.value or b"")


def planted(verdict: str, error: str | None, **parts: Any) -> HumanDecision:
    """Return that somebody judged a canary with an error of that type."""
    raw = action_bytes(action_id="~c-1", **parts)
    head = head_of(encoded(decision(raw, purpose="canary"))).decode()
    head = f'{head},"planted":"{error}"' if error is not None else None
    return said(verdict, purpose="canary", asked=head, action={"action_id": "~c-1", **parts})


# --- lessons ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A10")
@pytest.mark.parametrize(
    ("verdict", "caught"), [("approve", False), ("reject", True), ("change", True), ("escalate", True)]
)
def test_whoever_objects_has_seen_it(verdict: str, caught: bool):
    found = lesson([planted(verdict, "limit")])

    assert found is not None
    assert (found["caught"], found["error"], found["type"]) == (caught, "limit", "bid.adjust")


def test_a_lesson_names_the_number_that_is_far_from_what_stood_there():
    legs = [change(), change("1.20", "130", field="cap"), change("5", "5.5", field="floor")]
    found = lesson([planted("approve", "limit", changes=legs)])

    assert found is not None
    (place,) = found["places"]
    assert (place["path"], place["field"], place["before"], place["shown"]) == (
        "/changes/1/after",
        "cap",
        "1.20",
        "130",
    )


def test_a_lesson_on_a_text_shows_the_text():
    found = lesson([planted("approve", "tone", **post("Only an idiot would say no to this."), type="post.own")])

    assert found is not None
    assert [(one["path"], one["shown"]) for one in found["places"]] == [
        ("/content/text", "Only an idiot would say no to this.")
    ]


@pytest.mark.parametrize(
    "one",
    [
        said(),
        said(purpose="second"),
        said(purpose="audit"),
        said(purpose="canary", effect="refused"),
        said(purpose="canary", effect="conflict"),
        said("skip", purpose="canary"),
    ],
    ids=["real", "second", "audit", "refused", "conflict", "skipped"],
)
def test_nothing_else_teaches_anything(one: HumanDecision):
    assert lesson([one]) is None


def test_a_lesson_is_for_whoever_judged_it_and_nobody_else(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        assert (await found.ask("GET", "/items/i1")).json()["lesson"]["caught"] is False
        other = await found.ask("GET", "/items/i1", "ben")
        assert "canary" not in other.text
        assert other.status_code == 404 or other.json()["lesson"] is None

    parts = {"purpose": Purpose.CANARY, "for_": "ana", "people": 1, "state": State.APPROVED}
    ask(
        scenario,
        review(queues={"trading": ("ana",)}, **parts, action_id="~c-1"),
        judged(purpose="canary", action={"action_id": "~c-1"}),
    )


# --- one's own figures ------------------------------------------------------------------------------------------------


def test_a_planted_item_counts_as_any_other_for_a_day_and_then_as_what_it_was():
    younger = own_figures([said(purpose="canary", ago_ms=DAY_MS - 1), said()], NOW_MS)
    older = own_figures([said(purpose="canary", ago_ms=DAY_MS), said()], NOW_MS)

    assert (younger["items"], younger["canaries"]["seen"]) == (2, 0)
    assert (older["items"], older["canaries"]["seen"], older["canaries"]["caught"]) == (1, 1, 0)
    assert sum(day["items"] for day in younger["days"]) == 2
    assert sum(day["items"] for day in older["days"]) == 1


def test_today_a_planted_item_changes_no_figure():
    real = own_figures([said("reject"), said(dwell_s=1.0)] * 15, NOW_MS)
    mixed = own_figures([said("reject", purpose="canary"), said(dwell_s=1.0, purpose="canary")] * 15, NOW_MS)

    assert mixed == real
    assert real["hurried"] is None


def test_hurried_is_an_approval_faster_than_the_card_can_be_read():
    slow, fast = [said(dwell_s=5.1)] * APPROVALS_MIN, [said(dwell_s=4.9)] * APPROVALS_MIN

    assert own_figures(slow, NOW_MS)["hurried"] == 0.0
    assert own_figures(fast, NOW_MS)["hurried"] == 1.0
    assert own_figures([*slow, *fast], NOW_MS)["hurried"] == 0.5
    assert own_figures([said("reject", dwell_s=0.5)] * 30, NOW_MS)["hurried"] is None


@pytest.mark.parametrize(
    "one", [said("skip"), said(effect="conflict"), said(effect="refused")], ids=["skip", "conflict", "refused"]
)
def test_what_did_not_count_is_not_counted(one: HumanDecision):
    assert own_figures([one], NOW_MS)["items"] == 0


def test_somebody_is_told_of_themselves_only(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        heard(found)
        know(found, "ben", level=Level.ESCALATED)
        assert (await found.ask("GET", "/me/figures")).json()["level"] == 0
        ben = (await found.ask("GET", "/me/figures", "ben")).json()
        assert (ben["level"], ben["items"], ben["watched"]) == (3, 1, True)
        assert (await found.ask("GET", "/me/figures", "vic")).status_code == 403

    ask(scenario, judged(by="ben"))


def test_without_a_monitor_nobody_says_a_level(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        own = (await found.ask("GET", "/me/figures")).json()
        assert (own["watched"], own["level"]) == (False, 0)

    ask(scenario)


# --- a queue's owner --------------------------------------------------------------------------------------------------


def test_an_owner_sees_pseudonyms_and_no_name(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        heard(found)
        ana = know(found, level=Level.SECONDED, signs=(Sign.HIT_RATE,))
        know(found, "ben", "manager")
        alarm(found, ana, page="reviewer_unreliable")
        answer = await found.ask("GET", "/watch", "uma")
        trading = next(one for one in answer.json()["queues"] if one["queue"] == "trading")

        assert (trading["level"], trading["at_levels"], trading["reviewers"]) == (2, [0, 0, 1, 0], 1)
        (person,) = trading["people"]
        assert (person["person"], person["name"], person["hit_rate"]) == (ana, None, 0.9)
        assert person["signs"] == [{"row": 1, "sign": "hit_rate"}]
        assert [one["page"] for one in trading["alerts"]] == ["reviewer_unreliable"]
        assert '"ana"' not in answer.text

    ask(scenario)


def test_names_are_told_where_the_site_says_so(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        heard(found, names=True)
        know(found)
        queues = (await found.ask("GET", "/watch", "uma")).json()["queues"]
        assert [one["name"] for queue in queues for one in queue["people"]] == ["ana"]

    ask(scenario)


@pytest.mark.parametrize("name", ["ana", "vic"])
def test_who_owns_no_queue_sees_nobody(ask: Callable[..., Any], name: str):
    async def scenario(found: Front) -> None:
        heard(found)
        know(found, "ben")
        refused = await found.ask("GET", "/watch", name)
        assert (refused.status_code, refused.json()["type"]) == (403, "urn:hitl:role")
        assert (await found.ask("GET", "/me", name)).json()["watches"] == []

    ask(scenario)


def test_whoever_has_the_owner_s_role_sees_that_queue_alone(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        heard(found)
        owner = found.office.policy().policy.queues["trading"].owner
        await found.people.set_roles("vic", add=(owner,))
        queues = (await found.ask("GET", "/watch", "vic")).json()["queues"]
        assert [one["queue"] for one in queues] == [
            name for name, queue in found.office.policy().policy.queues.items() if queue.owner == owner
        ]

    ask(scenario)


def test_who_has_not_judged_since_yesterday_is_no_reviewer_of_a_queue(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        heard(found)
        know(found, level=Level.ESCALATED, day=NOW_MS // DAY_MS - 2)
        queues = (await found.ask("GET", "/watch", "uma")).json()["queues"]
        assert {(one["level"], one["reviewers"]) for one in queues} == {(0, 0)}

    ask(scenario)


def test_what_is_kept_of_the_monitor_is_bounded():
    known = Watching(KEY)
    value = encode(Kept(partition=0))
    for n in range(PEOPLE_MAX + 3):
        known.take_person(key_of(f"p-{n}", "trading"), value)
    for n in range(GATES_MAX + 3):
        known.take_gate(str(n).encode(), b"")
    assert len(known._people) == PEOPLE_MAX
    assert ("p-0", "trading") not in known._people
    assert len(known._gates) == GATES_MAX
    assert ALERTS_MAX > 0


@pytest.mark.parametrize("key", [b"", b"\xff", b"one", b"p-1\0trading\0chunk"])
def test_a_key_that_is_no_person_s_is_passed_over(key: bytes):
    known = Watching(KEY)
    known.take_person(key, b"x")
    assert known.queues() == {}


def test_a_value_of_another_version_is_passed_over():
    known = Watching(KEY)
    known.take_person(key_of("p-1", "trading"), b"\xc1")
    assert known.queues() == {}
    assert known.level("ana") is Level.NONE


# --- gates ------------------------------------------------------------------------------------------------------------


def test_evidence_counts_for_a_gate_as_it_is_defined_now(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        heard(found)
        policy = found.office.policy().policy
        evidence(found, "first_line", gate_digest(policy, "first_line"), items=600, canaries=60)
        evidence(found, "first_line", gate_digest(policy, "first_line"), items=300, canaries=60, name="ben")
        evidence(found, "first_line", "0" * 64, "copy-9@1")
        told = {one["gate"]: one for one in (await found.ask("GET", "/gates")).json()["gates"]}
        (row,) = told["first_line"]["evidence"]

        assert (row["agent"], row["error"], row["items"], row["people"]) == ("copy-2@1", "factual", 900, 2)
        assert row["missing"] == []
        assert row["e"] > 40
        assert told["claims"]["evidence"] is None
        assert told["claims"]["protected"] == ["post.publish"]

    ask(scenario)


def test_a_client_is_told_of_no_gate(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        assert (await found.ask("GET", "/gates", "carl")).status_code == 403

    ask(scenario, names=("carl",))


def test_every_gate_of_the_policy_has_a_state_for_each_of_its_classes():
    policy = acme().policy
    for row in rows(policy, Control()):
        assert {one["class"] for one in row["states"]} == set(policy.gates[row["gate"]].classes)
        assert {one["state"] for one in row["states"]} == {policy.gates[row["gate"]].state}


# --- breaks -----------------------------------------------------------------------------------------------------------


def working(items: int, step_ms: int = 20_000, start_ms: int = NOW_MS) -> tuple[Pace, int]:
    """Return the pace of somebody who has judged so many items, one each 20 seconds, and when the last one was."""
    pace, at_ms = Pace(), start_ms
    for n in range(items):
        at_ms = start_ms + n * step_ms
        pace.judged("ana", start_ms, at_ms)
    return pace, at_ms


@pytest.mark.parametrize(
    ("items", "due", "paused"),
    [
        (BREAK_AFTER_ITEMS - 1, False, False),
        (BREAK_AFTER_ITEMS, True, False),
        (BREAK_AFTER_ITEMS + GRACE_ITEMS - 1, True, False),
        (BREAK_AFTER_ITEMS + GRACE_ITEMS, True, True),
    ],
)
def test_after_so_many_items_a_break_is_suggested_and_then_nothing_is_given(items: int, due: bool, paused: bool):
    pace, at_ms = working(items)
    found = pace.rest("ana", at_ms)

    assert (found is not None, found is not None and found.paused) == (due, paused)
    assert pace.rest("ben", at_ms) is None


def test_after_twenty_minutes_a_break_is_suggested_too():
    pace, at_ms = working(6, BREAK_AFTER_MS // 5)
    found = pace.rest("ana", at_ms)

    assert found is not None
    assert (found.items, found.began_ms) == (6, NOW_MS)


def test_five_minutes_without_a_judgement_are_a_break():
    pace, at_ms = working(BREAK_AFTER_ITEMS + GRACE_ITEMS)

    assert pace.rest("ana", at_ms + GAP_MS - 1) is not None
    assert pace.rest("ana", at_ms + GAP_MS) is None
    pace.judged("ana", at_ms + GAP_MS, at_ms + GAP_MS)
    assert pace.rest("ana", at_ms + GAP_MS) is None


def test_who_goes_on_is_given_some_more_and_is_stopped_again():
    pace, at_ms = working(BREAK_AFTER_ITEMS + GRACE_ITEMS)
    assert pace.go_on("ana", at_ms)
    for n in range(MORE_ITEMS):
        found = pace.rest("ana", at_ms + n)
        assert found is not None
        assert not found.paused
        pace.judged("ana", at_ms, at_ms + n)
    found = pace.rest("ana", at_ms + MORE_ITEMS)
    assert found is not None
    assert found.paused
    assert not pace.go_on("ben", at_ms)


def test_while_somebody_should_rest_nothing_is_handed_out_to_them(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        found.office.pace, _ = working(BREAK_AFTER_ITEMS + GRACE_ITEMS, 1_000, NOW_MS - 45_000)
        told = (await found.ask("GET", "/queues/trading/next")).json()
        assert told["items"] == []
        assert (told["rest"]["items"], told["rest"]["paused"]) == (BREAK_AFTER_ITEMS + GRACE_ITEMS, True)
        assert len((await found.ask("GET", "/queues/trading/next", "ben")).json()["items"]) == 1

        assert (await found.ask("DELETE", "/rest")).status_code == 204
        told = (await found.ask("GET", "/queues/trading/next")).json()
        assert (len(told["items"]), told["rest"]["paused"]) == (1, False)

    ask(scenario, review(), review("i2", 1, action_id="act-2"))


def test_each_judgement_counts_once(ask: Callable[..., Any]):
    async def scenario(found: Front) -> None:
        assert (await found.say("i1")).status_code == 202
        assert found.office.pace._spells["ana"].items == 1

    ask(scenario, review())


# --- qualifications ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left_ms", "soon"), [(14 * DAY_MS, True), (14 * DAY_MS + 1, False), (0, False)])
def test_a_qualification_that_ends_within_two_weeks_is_announced(ask: Callable[..., Any], left_ms: int, soon: bool):
    async def scenario(found: Front) -> None:
        await found.people.qualify("ana", "bid.adjust", NOW_MS + left_ms)
        assert (await found.ask("GET", "/me")).json()["soon"] == (["bid.adjust"] if soon else [])

    ask(scenario)
