"""What the demo counts, and how it words what it saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from hitl_stream.dev.tally import LATENCY_MS_MAX, OTHER, Latency, Tally, in_words

AT = "2026-11-21T07:10:00.000Z"
AT_MS = 1_795_245_000_000


@dataclass(frozen=True)
class Seen:
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    key: bytes | None = None


def answer(outcome: str = "EXECUTE", type_: str = "bid.adjust", **fields: object) -> Seen:
    record = {
        "tenant": "acme",
        "action_id": "act-1",
        "type": type_,
        "outcome": outcome,
        "entity": {"account": "acc-1", "campaign": "cmp-1"},
        "action": {"proposed_at": AT},
    }
    return Seen(json.dumps(record | fields).encode())


def reason(rule: str, outcome: str = "REVIEW", saw: str = "0.28", limit: str | None = "0.10", **more: object) -> object:
    return {"rule": rule, "saw": saw, "limit": limit, "outcome": outcome, "queue": "trading"} | more


def tally() -> Tally:
    return Tally(["bid.adjust", "budget.reallocate"])


def test_an_action_waits_until_its_answer_is_seen():
    seen = tally()
    seen.take("actions", [Seen(b"{}")] * 3, AT_MS)
    seen.take("execute", [answer()], AT_MS)
    seen.take("dlq", [Seen(b"", [("hitl-error", b"not_json"), ("hitl-why", b"cut")])], AT_MS)

    assert (seen.arrived, seen.answered, seen.waiting) == (3, 2, 1)
    assert seen.dead == {"not_json": 1}


def test_a_move_is_no_new_action():
    seen = tally()
    seen.take("actions", [Seen(b"{}"), Seen(b"{}", [("hitl-via", b"{}")])], AT_MS)

    assert (seen.arrived, seen.moved) == (1, 1)


@pytest.mark.parametrize(
    ("via", "counts"),
    [
        (b'{"role": "desk"}', (1, 0, 1)),
        (b'{"role": "router"}', (0, 1, 0)),
        (b"not json", (0, 1, 0)),
        (b"[]", (0, 1, 0)),
    ],
)
def test_what_a_person_proposes_is_an_action_and_what_comes_home_is_none(via: bytes, counts: tuple[int, int, int]):
    seen = tally()
    seen.take("actions", [Seen(b"{}", [("hitl-via", via)])], AT_MS)

    assert (seen.arrived, seen.moved, seen.people.proposed) == counts


def test_a_dead_letter_answers_an_action_only_if_it_was_one():
    seen = tally()
    seen.take("actions", [Seen(b"{}")], AT_MS)
    for topic in ("hitl.verdicts", "hitl.reviews"):
        seen.take("dlq", [Seen(b"", [("hitl-error", b"seal"), ("hitl-source", f"{topic}/0/7".encode())])], AT_MS)
    assert (seen.waiting, seen.unread, seen.people.heard) == (1, 2, 1)

    seen.take("dlq", [Seen(b"", [("hitl-error", b"seal"), ("hitl-source", b"hitl.actions/0/0")])], AT_MS)
    assert (seen.waiting, seen.dead.total()) == (0, 1)


def test_what_people_approve_is_no_second_answer_and_is_seen_to_run():
    seen = tally()
    seen.take("review", [answer("REVIEW", id=at("1#0"))], AT_MS)
    seen.take("execute", [answer("REVIEW", id=at("1#0"), verdicts=["jws"], by=["tess"])], AT_MS)
    assert (seen.answered, seen.running, seen.people.approved, seen.resumed) == (1, 1, 1, 0)

    done = {"id": at("1#0"), "status": "executed", "by": ["tess"]}
    seen.take("results", [Seen(json.dumps(done).encode()), Seen(b'{"id": "x/0/2#0", "status": "executed"}')], AT_MS)

    assert (seen.running, seen.people.executed, seen.results["executed"]) == (0, 1, 2)


def test_an_exception_is_neither_an_answer_nor_an_audit_copy():
    seen = tally()
    seen.take("escalation", [answer("ESCALATE", purpose="exception")], AT_MS)

    assert (seen.answered, seen.audit, seen.exceptions) == (0, 0, 1)


def test_an_audit_copy_is_no_answer():
    seen = tally()
    seen.take("review.seeded", [answer(purpose="audit")], AT_MS)

    assert (seen.audit, seen.answered) == (1, 0)


def test_answers_are_counted_by_class_and_outcome_and_strange_types_together():
    seen = tally()
    seen.take("execute", [answer()] * 2, AT_MS)
    seen.take("recommendations", [answer()], AT_MS)
    seen.take("escalation", [answer("ESCALATE", "what.an.agent.likes\n")], AT_MS)
    seen.take("closed", [answer("REFUSE", why="late", action=None)], AT_MS)

    assert seen.of_class() == {
        "bid.adjust": {"EXECUTE": 2, "RECOMMEND": 1, "REFUSE": 1},
        "budget.reallocate": {},
        OTHER: {"ESCALATE": 1},
    }
    assert seen.of_outcome() == {"EXECUTE": 2, "REVIEW": 0, "ESCALATE": 1, "HOLD": 0, "REFUSE": 1, "RECOMMEND": 1}
    assert seen.closed == {"late": 1}


def test_latency_is_from_proposal_to_sight_of_what_was_decided():
    seen = tally()
    seen.take("execute", [answer()], AT_MS + 40)
    seen.take("closed", [answer("REFUSE", why="late")], AT_MS + 7_200_000)

    assert (seen.latency.n, seen.latency.quantile(0.5)) == (1, 40)


@pytest.mark.parametrize(("q", "ms"), [(0.0, 0), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_quantile_is_what_a_share_did_not_exceed(q: float, ms: int):
    latency = Latency()
    for value in range(1, 101):
        latency.add(value)

    assert latency.quantile(q) == ms


def test_latency_has_bounds_and_none_without_answers():
    latency = Latency()
    assert latency.quantile(0.5) is None
    latency.add(-5)
    latency.add(10**9)
    assert (latency.quantile(0.5), latency.quantile(1.0)) == (0, LATENCY_MS_MAX)


def test_rates_are_those_of_the_last_seconds():
    seen = tally()
    seen.start(0.0)
    for second in range(1, 11):
        seen.take("actions", [Seen(b"{}")] * 100 * second, AT_MS)
        numbers = seen.look(float(second))

    assert numbers.in_per_s == pytest.approx((8 + 9 + 10) * 100 / 3)


def test_a_notice_says_what_where_and_why():
    seen = tally()
    legs = [{"entity": {"account": "acc-1", "campaign": name}} for name in ("cmp-204", "cmp-311")]
    action = {"proposed_at": AT, "changes": legs}
    rows = [
        reason("unusual", counts=False),
        reason("class.auto_max_change"),
        reason("missing.evidence", "ESCALATE", queue="manager"),
    ]
    seen.take("escalation", [answer("ESCALATE", "budget.reallocate", reasons=rows, action=action)], AT_MS)
    seen.notice()

    (notice,) = seen.notices
    assert (notice.type, notice.place, notice.outcome) == ("budget.reallocate", "cmp-204→cmp-311", "ESCALATE")
    assert notice.why == "no evidence given → manager (+2)", "the strictest first, what only observes last"
    assert notice.id == "acme/act-1"


def test_kinds_seldom_shown_come_first_and_what_simply_ran_never():
    seen = tally()
    often = answer("REVIEW", reasons=[reason("class.auto_max_change")])
    seldom = answer("ESCALATE", reasons=[reason("unusual", "ESCALATE")])
    for batch in ([often] * 5, [often, seldom, answer()], [often, seldom]):
        seen.take("review", batch, AT_MS)
        seen.notice()

    assert [notice.outcome for notice in seen.notices] == ["REVIEW", "ESCALATE", "REVIEW"]


def test_a_dead_letter_says_first_where_it_went_wrong():
    seen = tally()
    why = b"Expected `str` matching regex '^[0-9]+$' - at `$.confidence`"
    seen.take("dlq", [Seen(b"", [("hitl-error", b"schema"), ("hitl-why", why)])], AT_MS)
    seen.notice()

    assert seen.notices[0].why.startswith("schema at $.confidence: Expected `str`")


def test_what_an_agent_or_its_bytes_say_cannot_move_the_cursor():
    seen = tally()
    seen.take("dlq", [Seen(b"", [("hitl-error", b"schema"), ("hitl-why", b"\x1b[2J\n")])], AT_MS)
    seen.take("escalation", [answer("ESCALATE", "\x1b[31m", reasons=[reason("unusual", saw="\r")])], AT_MS)
    seen.notice(10)

    text = "".join(notice.type + notice.place + notice.why for notice in seen.notices)
    assert len(seen.notices) == 2
    assert not set(text) & {"\x1b", "\n", "\r"}


@pytest.mark.parametrize(
    ("rule", "saw", "limit", "words"),
    [
        ("class.auto_max_change", "0.28", "0.10", "magnitude 0.28 > 0.10"),
        ("class.auto_min_confidence", "0.55", "at least 0.60", "confidence 0.55, needs at least 0.60"),
        ("admission.late", "7200124 ms old", "60000 ms", "late: 2 h old, at most 1 min"),
        ("flag.brand_flag", "brand_flag", None, "the agent flagged brand_flag"),
        ("missing.context.campaign_budget", "absent", None, "context.campaign_budget is missing"),
        ("validator.short", "121 characters", "under 120", "short: 121 characters, allowed under 120"),
        ("rule.big-campaign", "context.budget 10000.01", "over 10000", "big-campaign: budget 10000.01, over 10000"),
        ("some.rule.of.tomorrow", "7", "6", "rule.of.tomorrow: 7 > 6"),
        ("new", "7", None, "new: 7"),
    ],
)
def test_reasons_are_said_in_plain_words(rule: str, saw: str, limit: str | None, words: str):
    assert in_words(rule, saw, limit) == words


def at(place: str) -> str:
    return f"hitl.actions/0/{place}"


def test_what_is_parked_is_answered_once_and_seen_to_go_on():
    seen = tally()
    seen.take("held", [answer("HOLD", id=at("1#0"), parked={"by": "router"})], AT_MS)
    seen.take("held", [answer("HOLD", id=at("1#0"), parked={"by": "router"})], AT_MS)
    assert (seen.answered, seen.parked) == (1, 1)

    seen.take("execute", [answer(id=at("1#0"))], AT_MS)

    assert (seen.answered, seen.parked, seen.resumed, seen.running) == (1, 0, 1, 1)


def test_what_the_executor_sends_back_is_parked_and_no_second_answer():
    seen = tally()
    seen.take("execute", [answer(id=at("1#0"))], AT_MS)
    seen.take("held", [answer(id=at("1#0"), parked={"by": "executor"})], AT_MS)

    assert (seen.answered, seen.parked, seen.running) == (1, 1, 0)


def test_an_end_after_the_answer_is_counted_apart():
    seen = tally()
    seen.take("execute", [answer(id=at("1#0"))], AT_MS)
    seen.take("closed", [answer(id=at("1#0"), why="stale")], AT_MS)

    assert (seen.answered, seen.running, dict(seen.closed), dict(seen.ended)) == (1, 0, {}, {"stale": 1})


def test_a_result_that_is_seen_before_its_decision_does_not_leave_it_running():
    seen = tally()
    seen.take("results", [Seen(b'{"id": "hitl.actions/0/1#0", "status": "executed"}')], AT_MS)
    seen.take("execute", [answer(id=at("1#0"))], AT_MS)

    assert (seen.results["executed"], seen.running) == (1, 0)
