"""Reports on a workplace's log: each figure against the handful of actions that made it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from hitl_stream.core.batch import key_of
from hitl_stream.core.events import Status
from hitl_stream.core.pilot import ITEMS_MIN, REVIEWED_MIN
from hitl_stream.core.policy.model import Policy
from hitl_stream.lane.reports import Reports
from hitl_stream.wire.executed import exceptional_value
from hitl_stream.wire.records import decode_approved, head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, sealer
from support.desk import EXECUTOR_KEY, MINUTE, SECOND
from support.log import Recorded
from support.make import DESK_KEY, acme, action_bytes, change, first_line, gate, iso, make_policy, post
from support.observed import plant

BIG = {"changes": [change("1.00", "1.30")]}
ALL_AUDITED = make_policy(classes={"bid.adjust": {"audit_sample": "1"}})


def reports(work: Recorded, policy: Policy | None = None, **parts: Any) -> Reports:
    return Reports(work.checked(**parts), policy if policy is not None else acme().policy)


def proposed(work: Recorded, number: int = 1, **action: Any) -> bytes:
    return action_bytes(**{"action_id": f"act-{number}", "proposed_at": iso(work.now_ms - 100), **action})


def asked(work: Recorded, number: int = 1, **action: Any) -> str:
    (item,) = work.opened(proposed(work, number, **{**BIG, **action}))
    return item


def judge(work: Recorded, item: str, word: str = "approve", **parts: Any) -> None:
    work.say(item, word, **parts)
    work.work()


# --- digest -----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A3")
def test_what_was_executed_and_approved_by_nobody_is_in_the_digest():
    work = Recorded()
    work.propose(proposed(work, 1), proposed(work, 2, changes=[change("1.20", "1.25", campaign="cmp-9")]))
    judge(work, asked(work, 3))
    work.carry_out()
    (row,) = asyncio.run(reports(work).digest())
    assert (row.cls, row.level, row.agent, row.count) == ("bid.adjust", 3, "bidder-7", 2)
    assert (row.money, row.largest, row.largest_money) == (Decimal("0.15"), "acme/act-1", Decimal("0.10"))


def test_what_the_platform_refused_was_not_done():
    work = Recorded()
    work.propose(proposed(work))
    work.carry_out(Status.FAILED)
    assert asyncio.run(reports(work).digest()) == ()


def test_the_digest_says_which_share_is_audited():
    work = Recorded(ALL_AUDITED)
    work.propose(proposed(work))
    work.carry_out()
    (row,) = asyncio.run(reports(work).digest())
    assert row.audit_share == 1.0


def test_a_result_that_no_executor_sealed_is_in_no_figure():
    work = Recorded()
    work.propose(proposed(work))
    work.carry_out()
    (record,) = work.log.there["results"]
    work.log.there["results"] = [replace(record, headers=[])]
    found = reports(work)
    assert asyncio.run(found.digest()) == ()
    assert dict(found.log.bad) == {"results": 1}


# --- queues -----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E11")
def test_queues_tell_wait_handling_age_and_the_money_that_waits():
    work = Recorded()
    first = asked(work, 1)
    asked(work, 2, changes=[change("1.00", "1.50", campaign="cmp-9")])
    work.now_ms += 4 * MINUTE
    judge(work, first, read_s=30.0)
    (row,) = asyncio.run(reports(work).queues(work.now_ms + MINUTE))
    assert (row.queue, row.cls, row.judged, row.open) == ("trading", "bid.adjust", 1, 1)
    assert row.wait is not None
    assert row.wait.p50 == 4 * MINUTE - 30 * SECOND
    assert row.handling is not None
    assert row.handling.p50 == 30 * SECOND
    assert (row.oldest_ms, row.money) == (5 * MINUTE, Decimal("0.50"))


def test_what_has_ended_or_was_forgotten_waits_no_more():
    work = Recorded()
    judge(work, asked(work, 1))
    asked(work, 2)
    work.later(20 * MINUTE)
    assert work.open_items() == []
    found = asyncio.run(reports(work).queues(work.now_ms))
    assert sum(row.open for row in found) == 0


def test_a_judgement_that_was_refused_or_came_too_late_is_no_judgement():
    work = Recorded()
    item = asked(work)
    judge(work, item, by="ed", role="editor")
    assert work.take("decisions")[0]["effect"] == "refused"
    work.later(20 * MINUTE)
    judge(work, item)
    found = asyncio.run(reports(work).queues(work.now_ms))
    assert sum(row.judged for row in found) == 0


# --- yield ------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("C6")
def test_the_yield_is_computed_from_scores_and_corrections():
    work = Recorded()
    for number in range(4):
        item = asked(work, number, changes=[change("1.00", "1.30", campaign=f"cmp-{number}")])
        judge(work, item, "reject" if number == 0 else "approve", **({"code": "too_large"} if number == 0 else {}))
    found = asyncio.run(reports(work).yields())
    assert (found.n, found.corrected) == (4, 1)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D4")
def test_the_error_rate_of_what_was_sent_rests_on_blind_audits_alone():
    work = Recorded(ALL_AUDITED)
    for number in range(4):
        work.propose(proposed(work, number, changes=[change("1.00", "1.01", campaign=f"cmp-{number}")]))
    work.work()
    for number, item in enumerate(work.open_items()):
        judge(work, item, "reject" if number == 0 else "approve", **({"code": "wrong_fact"} if number == 0 else {}))
    judge(work, asked(work, 9, changes=[change("1.00", "1.40", campaign="cmp-9")]), "reject", code="too_large")
    found = asyncio.run(reports(work, ALL_AUDITED).errors())
    rows = {(row.what, row.name): (row.rate.bad, row.rate.n) for row in found.sent}
    assert rows == {("all", "all"): (1, 4), ("class", "bid.adjust"): (1, 4)}


def test_the_sample_of_a_batch_tells_the_rate_of_that_batch():
    work = Recorded()
    batch = {"id": "b-7", "size": 60}
    for index in range(60):
        parts = post(f"A quiet day {index}", batch={**batch, "index": index}, type="post.publish")
        work.propose(proposed(work, index, agent={"id": "copy-2"}, **parts))
    work.work()
    lot = work.lot(key_of("acme", "acc-17", "b-7"))
    for number, item in enumerate(lot.drawn):
        judge(work, item, "approve" if number else "reject", by="ed", role="editor")
    found = asyncio.run(reports(work).errors())
    rows = {row.what: row for row in found.sent if row.what in ("batch", "gate")}
    assert rows["batch"].name == lot.key
    assert (rows["batch"].rate.bad, rows["batch"].rate.n) == (1, len(lot.drawn))


@pytest.mark.behaviour("D1")
def test_an_observing_gate_is_shown_with_what_it_would_have_diverted():
    policy = make_policy(
        classes={"post.own": {"needs": [], "audit_sample": "1"}}, gates={"own": gate("post.own", validators=["caption"],
                                                                                   state="observe"), "tone_own": None},
    )  # fmt: skip
    work = Recorded(policy)
    agent = {"id": "copy-2"}
    for number, text in enumerate(["short", "x" * 300, "fine"]):
        work.propose(proposed(work, number, agent=agent, type="post.own", **post(text)))
    found = asyncio.run(reports(work, policy).errors())
    (row,) = (each for each in found.watched if each.gate == "own")
    assert (row.diverted.bad, row.diverted.n) == (1, 3)
    assert row.by_error == {"compliance": 1}


@pytest.mark.behaviour("D10")
def test_errors_by_type_and_month_take_the_type_of_the_reason():
    work = Recorded()
    judge(work, asked(work, 1), "reject", code="too_large")
    judge(work, asked(work, 2), "reject", code="wrong_fact", errors=("factual", "tone"))
    judge(work, asked(work, 3))
    found = asyncio.run(reports(work).errors())
    assert {(row.month, row.error, row.rate.bad, row.rate.n) for row in found.months} == {
        ("2026-11", "limit", 1, 3), ("2026-11", "factual", 1, 3), ("2026-11", "tone", 1, 3),
    }  # fmt: skip


def test_planted_errors_tell_what_share_people_find():
    work = Recorded(ALL_AUDITED)
    work.propose(proposed(work))
    work.work()
    (item,) = work.open_items()
    judge(work, item, "reject", code="wrong_fact")
    for number in range(20):
        plant(work, number, caught=number < 10)
    found = asyncio.run(reports(work, ALL_AUDITED).errors())
    assert {row.hit_rate for row in found.sent} == {0.5}


# --- pilot ------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A10", "A11")
def test_a_pilot_counts_every_item_of_its_segment_and_the_time_that_people_took():
    policy = make_policy(
        gates={"first_line": {"state": "enforce", "validators": ["short", "names_company"]}},
    )  # fmt: skip
    work = Recorded(policy)
    count = ITEMS_MIN + 10
    for number in range(count):
        line = first_line() if number % 3 else first_line("A line that names nobody at all.")
        work.propose(proposed(work, number, **line))
    work.propose(proposed(work, 99, **first_line(context={"segment": "enterprise"})))
    work.work()
    items = [item for item in work.open_items() if work.review(item).purpose == "decide"]
    assert len(items) > REVIEWED_MIN
    for item in items[1:]:
        judge(work, item, by="sue", role="sdr", read_s=120.0)
    (found,) = asyncio.run(reports(work, policy).pilots())
    assert (found.gate, found.items) == ("first_line", count - 1), "the other segment is not its pilot"
    assert (found.left_out, found.reviewed) == (1, len(items) - 1), "what waits has taken no time yet"
    minutes = found.rows[0].measured
    assert minutes is not None
    assert minutes.value == pytest.approx(2.0 * found.reviewed / found.items)
    assert found.rows[2].verdict == "not measured", "nothing was drawn and judged blind"


def test_what_cannot_be_read_is_counted_and_in_no_figure():
    work = Recorded()
    judge(work, asked(work))
    (record,) = work.log.there["decisions"]
    seal = sealer(DESK_KEY, "hitl.decisions", "human_decision/1")(b'{"item":1}')
    headers = [(TYPE_HEADER, b"human_decision/1"), (SEAL_HEADER, seal)]
    work.log.there["decisions"].append(replace(record, value=b'{"item":1}', offset=1, headers=headers))
    found = reports(work)
    assert len(asyncio.run(found.queues(work.now_ms))) == 1
    assert dict(found.unreadable) == {"decisions": 1}


WATCHING = make_policy(gates={"all_bids": gate("bid.adjust", validators=["brand_voice"], state="observe")})


def watched(work: Recorded, **parts: Any) -> int:
    found = asyncio.run(reports(work, WATCHING, **parts).errors())
    (row,) = (each for each in found.watched if each.gate == "all_bids")
    return row.diverted.n


def test_what_people_approved_is_routed_once():
    work = Recorded(WATCHING)
    judge(work, asked(work))
    assert len(work.log.there["review"]) == len(work.log.there["execute"]) == 1
    assert watched(work) == 1


def test_a_gate_that_enforced_in_the_stretch_did_not_only_observe():
    spec = gate("bid.adjust", "post.own", validators=["brand_voice"])
    work = Recorded(make_policy(gates={"all_bids": spec}))
    work.propose(proposed(work, 1))
    parts = post("It isn't so", type="post.own", agent={"id": "copy-2"})
    work.propose(proposed(work, 2, **parts, context={"campaign_budget": {"amount": "1.00", "currency": "EUR"}}))
    watched_as = make_policy(gates={"all_bids": {**spec, "state": "observe"}})
    found = asyncio.run(reports(work, watched_as).errors())
    assert "all_bids" not in [row.gate for row in found.watched]
    work.log.there["review"].clear()
    work.log.there["escalation"].clear()
    found = asyncio.run(reports(work, watched_as).errors())
    assert "all_bids" in [row.gate for row in found.watched], "it was the diverted one that told"


def test_what_was_decided_again_is_routed_once():
    work = Recorded(WATCHING)
    work.propose(proposed(work))
    (record,) = work.log.there["execute"]
    assert record.value is not None
    again = replace(record, value=record.value.replace(b'"attempt":0', b'"attempt":1'), offset=1)
    assert again.value != record.value
    work.log.there["execute"].append(again)
    assert watched(work, keys={}) == 1


def test_a_state_that_no_desk_sealed_does_not_hide_what_waits():
    work = Recorded()
    asked(work)
    (record,) = work.log.there["reviews"]
    assert record.value is not None
    forged = record.value.replace(b'"state":"OPEN"', b'"state":"APPROVED"')
    work.log.there["reviews"].append(replace(record, value=forged, offset=1))
    (row,) = asyncio.run(reports(work).queues(work.now_ms))
    assert row.open == 1


def test_an_executors_question_is_no_record_that_cannot_be_read():
    work = Recorded()
    judge(work, asked(work))
    (record,) = work.log.there["execute"]
    assert record.value is not None
    decision = decode_approved(record.value)
    value = exceptional_value(decision, bytes(decision.action), "409", "trading", work.now_ms)
    headers = [(TYPE_HEADER, b"decision/1"), (SEAL_HEADER, sealer(EXECUTOR_KEY, "hitl.escalation", "decision/1")(
        head_of(value)))]  # fmt: skip
    work.log.append("escalation", value, record.key, work.now_ms, headers)
    found = reports(work)
    asyncio.run(found.pilots())
    assert not found.unreadable


# --- monthly ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("D10")
def test_the_monthly_report_tells_errors_by_type_and_which_planted_ones_are_missed():
    work = Recorded()
    judge(work, asked(work, 1), "reject", code="too_large")
    judge(work, asked(work, 2))
    for number in range(10):
        plant(work, number, caught=number < 8)
    plant(work, 10, caught=True, planted="tone")
    found = asyncio.run(reports(work).monthly())
    assert [(row.month, row.error, row.rate.bad, row.rate.n) for row in found.months] == [("2026-11", "limit", 1, 2)]
    assert {name: (rate.bad, rate.n) for name, rate in found.missed.items()} == {"limit": (2, 10), "tone": (0, 1)}


def test_a_planted_error_that_is_let_go_counts_once_it_was_let_go_twice():
    work = Recorded()
    for number, times in ((1, 1), (2, 2)):
        for _ in range(times):
            plant(work, number, caught=None)
    plant(work, 1, caught=None, reviewer="tim")
    missed = asyncio.run(reports(work).monthly()).missed
    assert (missed["limit"].bad, missed["limit"].n) == (1, 1)


# --- reviewer load ----------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A11")
def test_minutes_are_told_for_a_thousand_actions_and_by_gate():
    work = Recorded()
    for number in range(3):
        work.propose(proposed(work, number, changes=[change("1.00", "1.01", campaign=f"cmp-{number}")]))
    judge(work, asked(work, 8, changes=[change("1.00", "1.40", campaign="cmp-8")]), read_s=30.0)
    asked(work, 9, changes=[change("1.00", "1.40", campaign="cmp-9")])
    plant(work, 1, caught=True)
    found = asyncio.run(reports(work).load())
    every = found.everything
    assert (every.items, every.reviewed, every.left_out, every.minutes, every.per_1000) == (4, 1, 1, 0.5, 125.0)
    assert {gate.gate: gate.items for gate in found.gates} == dict.fromkeys(acme().policy.gates, 0)
    assert found.planted_minutes == 1.0


def test_what_was_judged_is_told_by_length_of_session_and_by_the_clock_of_the_policy():
    work = Recorded(make_policy(time_zone="Asia/Tokyo"))
    plant(work, 1, caught=True)  # shown a minute ago
    for number in range(3):
        work.now_ms += 4 * MINUTE
        plant(work, 2 + number, caught=False)
    judge(work, asked(work, 1), by="tim")
    found = asyncio.run(reports(work, make_policy(time_zone="Asia/Tokyo")).load())
    sessions = {row.name: (row.items, row.missed.bad, row.missed.n) for row in found.sessions if row.items}
    assert sessions == {"0–5 min": (3, 1, 2), "5–10 min": (1, 1, 1), "10–20 min": (1, 1, 1)}
    (hour,) = (row for row in found.hours if row.items)
    assert hour.name == "15:00–18:00"


@pytest.mark.parametrize("parts", [{"item": "", "purpose": "quiz", "verdict": "passed"}, {"verdict": "lapse"}])
def test_a_quiz_is_no_work_and_what_was_let_go_says_nothing_of_time(parts: dict[str, str]):
    work = Recorded()
    plant(work, 1, caught=None, planted=None, **parts)
    assert sum(row.items for row in asyncio.run(reports(work).load()).sessions) == 0


def test_an_observation_whose_times_are_none_is_counted_and_left():
    work = Recorded()
    plant(work, 1, caught=True, decided_at="yesterday")
    found = reports(work)
    asyncio.run(found.load())
    assert dict(found.unreadable) == {"observations": 1}
