"""From bytes to a verdict: what the roles really write verifies clean, whatever happens; what they must not write does not."""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from hitl_stream.core.events import End, Mode, Status, Why
from hitl_stream.core.ledger import Report
from hitl_stream.lane import verify_facts
from hitl_stream.wire import records
from hitl_stream.wire.records import Parked, held_value
from hitl_stream.wire.seal import SealKey
from support.make import NOW_MS, SEAL_KEY, FakeRecord, action_bytes, change, iso
from support.whole import DESK_KEY, EXECUTOR_KEY, KEYS, Whole, carried

STRANGER = SealKey("e1", b"\x66" * 32)
"""A key that nobody knows, under the executor's key id."""
EXECUTED: Callable[[], str] = lambda: "executed"  # noqa: E731


def bid(number: int, campaign: str | None = "cmp-7", after: str = "1.30", **parts: Any) -> bytes:
    """Return a bid that runs alone; one to 1.60 goes to people."""
    return action_bytes(action_id=f"act-{number}", changes=[change("1.20", after, campaign=campaign)], **parts)


def found(report: Report) -> dict[str, int]:
    return {row.invariant: row.violations for row in report.rows if row.violations}


def counted(report: Report) -> dict[str, int]:
    return {name: number for name, number in report.counts.items() if number}


def site(*values: bytes) -> Whole:
    """Return an installation in which these actions were decided."""
    whole = Whole()
    whole.publish(*values)
    whole.route()
    return whole


# --- every way --------------------------------------------------------------------------------------------------------


def test_everything_that_can_become_of_an_action_is_counted_once():
    whole = site(bid(1), bid(2), bid(3), bid(4), bid(5, after="1.60"), bid(6, after="1.60"), bid(7, after="1.60"))
    whole.publish(b"{", bid(1))
    whole.route()
    for how in ("executed", "failed", "unresolved", "stale"):
        whole.execute(lambda how=how: how)  # type: ignore[misc]
    whole.review("approve")
    whole.review("reject")
    epoch = whole.engage("campaign:cmp-7")
    whole.publish(bid(8), bid(9, "cmp-8"), b"{")
    whole.route()

    report = whole.verify()

    assert found(report) == {}
    assert report.conservation == "ok"
    assert counted(report) == {
        "inputs": 12, "executed": 1, "failed": 1, "unresolved": 1, "stale": 1, "rejected": 1, "dead": 2,
        "refused.duplicate": 1, "pending": 4, "pending.execute": 2, "pending.review": 1, "pending.held": 1, "later": 2,
    }  # fmt: skip
    assert {row.invariant: row.verdict for row in report.rows} == {
        "I1": "ok", "I2": "ok", "I3": "ok", "I4": "not checked", "I5": "not checked", "I6": "not checked",
        "I7": "not checked", "I8": "ok", "I11": "ok", "I13": "not checked", "I14": "ok",
        "form": "ok", "seal": "ok", "hash": "ok",
    }  # fmt: skip
    assert epoch == whole.control.epoch


def test_what_was_parked_sent_back_and_parked_again_ends_once():
    whole = site(bid(1), bid(2, "cmp-8"))
    one, two = whole.engage("campaign:cmp-7"), whole.engage("tenant:acme")
    whole.execute(EXECUTED)
    whole.execute(EXECUTED)
    whole.publish(bid(3))
    whole.route()
    whole.release(one)
    whole.pass_()  # all of them are parked again, by the other switch
    whole.release(two)
    whole.pass_()
    for _ in range(3):
        whole.execute(EXECUTED)

    report = whole.verify()

    assert found(report) == {}
    assert counted(report) == {"inputs": 3, "executed": 3}
    assert [record.value.count(b'"attempt":1') for record in whole.logs["results"] if record.value] == [0, 0, 0]
    assert len(whole.logs["held"]) == 6


def test_what_was_approved_and_sent_back_is_a_dead_letter_until_routers_can_read_it():
    """A router reads one proposer where an approved record names several people."""
    whole = site(bid(1, after="1.60"))
    whole.review("approve")
    epoch = whole.engage("campaign:cmp-7")
    whole.execute(EXECUTED)
    whole.release(epoch)
    whole.pass_()

    report = whole.verify()

    assert found(report) == {}
    assert report.counts["dead"] + report.counts["pending.review"] == 1


def test_without_any_executor_what_is_to_run_is_pending():
    report = site(bid(1), bid(2)).verify(keys={"router": KEYS["router"]})
    assert (found(report), counted(report)) == ({}, {"inputs": 2, "pending": 2, "pending.execute": 2})


@pytest.mark.parametrize(
    ("end", "why", "name"),
    [
        (End.REFUSED, Why.POLICY, "refused.policy"),
        (End.EXPIRED, Why.EXECUTE_BY, "expired"),
        (End.STALE, Why.STALE, "stale"),
    ],
)
@pytest.mark.parametrize("keys", [KEYS, {}])
def test_what_the_last_gate_closes_is_an_end_and_no_second_answer(end: End, why: Why, name: str, keys: Any):
    whole = site(bid(1))
    decision, decoded = carried(whole.logs["execute"][0].value or b"")
    whole.close(decision, decoded, end, why)

    report = whole.verify(keys=keys)

    assert found(report) == {}
    assert counted(report) == {"inputs": 1, name: 1}


def test_what_an_executor_is_done_with_has_an_end():
    whole = site(bid(1))
    whole.execute(EXECUTED)
    whole.logs["results"].clear()

    report = whole.verify()

    assert found(report) == {"I1": 1, "I14": 1}
    assert report.conservation == "1 inputs, 0 ended once, 0 pending: 1 lost"


# --- forged -----------------------------------------------------------------------------------------------------------


def forge_result(whole: Whole) -> None:
    decision, decoded = carried(whole.logs["execute"][0].value or b"")
    whole.result(decision, decoded.raw, Status.EXECUTED, NOW_MS)
    _reseal(whole, "results")


def forge_parking(whole: Whole) -> None:
    value = held_value(whole.logs["execute"][0].value or b"", Parked(by="executor", epoch=0))
    whole.sealed("held", records.DECISION, value, STRANGER)


def forge_execute(whole: Whole) -> None:
    value = (whole.logs["execute"][0].value or b"").replace(b"#0", b"#1").replace(b'"attempt":0', b'"attempt":1')
    whole.sealed("execute", records.DECISION, value, STRANGER)


def forge_approval(whole: Whole) -> None:
    value = (whole.logs["execute"][0].value or b"").replace(b'"by":null', b'"by":["ana"]', 1)
    routed = b',"routed":{"topic":"hitl.review","head":"","seal":""},"action":{'
    value = value.replace(b',"action":{', routed, 1)
    whole.sealed("execute", records.DECISION, value, STRANGER)


def forge_end(whole: Whole) -> None:
    decision, decoded = carried(whole.logs["execute"][0].value or b"")
    whole.close(decision, decoded, End.STALE, Why.STALE)
    _reseal(whole, "closed")


def _reseal(whole: Whole, topic: str) -> None:
    last = whole.logs[topic].pop()
    whole.append(topic, last.value, [(name, b"e1:AAAA" if name == "hitl-seal" else one) for name, one in last.headers])


FORGERIES = [forge_result, forge_parking, forge_execute, forge_approval, forge_end]


@pytest.mark.parametrize("forge", FORGERIES)
def test_what_is_forged_is_found_and_ends_nothing(forge: Callable[[Whole], None]):
    whole = site(bid(1))
    forge(whole)

    report = whole.verify()

    assert found(report) == {"seal": 1}
    assert counted(report) == {"inputs": 1, "pending": 1, "pending.execute": 1}


def test_a_forged_approval_that_an_executor_refused_does_not_end_what_it_named():
    whole = site(bid(1))
    whole.execute(EXECUTED)
    forge_approval(whole)
    decision, decoded = carried(whole.logs["execute"][1].value or b"")
    whole.close(decision, decoded, End.REFUSED, Why.UNSEALED)

    assert counted(whole.verify()) == {"inputs": 1, "executed": 1}


def test_a_forged_record_on_held_that_became_a_dead_letter_ends_nothing():
    whole = site(bid(1))
    forge_parking(whole)
    whole.follow()
    whole.pass_()
    assert len(whole.logs["dlq"]) == 1

    report = whole.verify()

    assert found(report) == {"seal": 1}
    assert counted(report) == {"inputs": 1, "pending": 1, "pending.execute": 1, "later": 1}


@pytest.mark.parametrize("topic", ["execute", "held"])
def test_what_a_role_could_not_read_ends_as_dead(topic: str):
    whole = Whole()
    epoch = whole.engage("campaign:cmp-7") if topic == "held" else -1
    whole.publish(bid(1))
    whole.route()
    (record,) = whole.logs[topic]
    headers = [*record.headers, ("hitl-error", b"schema"), ("hitl-source", f"hitl.{topic}/0/0".encode())]
    whole.append("dlq", record.value, headers)
    whole.consumed = whole.executed = 1

    report = whole.verify()

    assert found(report) == {}
    assert report.counts["dead"] == 1, epoch


@pytest.mark.parametrize("role", ["executor", "desk"])
def test_records_of_a_role_whose_keys_are_not_here_count_and_are_named(role: str):
    whole = site(bid(1), bid(2, after="1.60"))
    whole.execute(EXECUTED)
    whole.review("approve")
    whole.execute(EXECUTED)

    report, facts = whole.looked_at(keys={name: keys for name, keys in KEYS.items() if name != role})

    assert found(report) == {}
    assert counted(report) == {"inputs": 2, "executed": 2}
    assert facts.unchecked == ({"executor": 2} if role == "executor" else {"desk": 1})


def test_a_record_that_somebody_copied_into_another_partition_counts_for_nothing():
    whole = site(bid(1))
    copied = replace(whole.logs["execute"][0], partition=1)
    whole.logs["execute"].append(copied)

    report = whole.verify()

    assert found(report) == {"form": 1}
    assert counted(report)["pending.execute"] == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.replace(b'"id":"hitl.actions/0/0#0"', b'"id":"nonsense"'),
        lambda value: value.replace(b'"hash":"', b'"hash":"x'),
        lambda value: value + b" ",
        lambda value: b"\xff" + value,
        lambda _: None,
        lambda _: b"[" * 100_000,
    ],
)
def test_bytes_that_are_none_of_ours_raise_nothing(spoil: Callable[[bytes], bytes | None]):
    whole = site(bid(1))
    whole.execute(EXECUTED)
    for topic in ("execute", "results"):
        for record in whole.logs[topic]:
            record.value = spoil(record.value or b"")

    report = whole.verify()

    assert found(report)["form"] == 2
    assert report.counts["executed"] == 0


# --- not valid --------------------------------------------------------------------------------------------------------


def test_an_approval_stands_around_what_the_router_had_sent_to_people():
    whole = site(bid(1, after="1.60"))
    value = whole.approved("review", whole.logs["review"][0])
    whole.sealed("execute", records.DECISION, value.replace(b'"head":"{', b'"head":"{ '), DESK_KEY)

    report = whole.verify()

    assert found(report) == {"I3": 1}
    assert "the seal does not fit" in report.violations[0].what


def test_what_was_approved_is_what_was_sent_to_people():
    whole = site(bid(1, after="1.60"), bid(2, after="1.60"))
    sent, other = whole.logs["review"]
    approved = records.decode_approved(whole.approved("review", sent))
    routed = records.decode_approved(whole.approved("review", other)).routed
    value = records.encode(msgspec.structs.replace(approved, routed=routed))
    whole.sealed("execute", records.DECISION, value, DESK_KEY)

    report = whole.verify()

    assert found(report) == {"I3": 1}
    assert "another action" in report.violations[0].what


@pytest.mark.parametrize(
    "change_",
    [(b'"outcome":"EXECUTE"', b'"outcome":"REVIEW"'), (b'"purpose":"decide"', b'"purpose":"canary"')],
)
def test_what_was_not_decided_to_run_may_not_lie_on_execute(change_: tuple[bytes, bytes]):
    whole = site(bid(1))
    value = (whole.logs["execute"].pop().value or b"").replace(*change_, 1)
    whole.sealed("execute", records.DECISION, value, SEAL_KEY)

    assert found(whole.verify()) == {"I3": 1}


def test_a_record_is_still_in_time_when_it_is_committed():
    whole = site(bid(1, expires_at=iso(NOW_MS + 5_000)))

    assert found(whole.verify()) == {}
    report, _ = whole.looked_at(committed=NOW_MS + 5_000)
    assert found(report) == {"I3": 1}
    report, _ = whole.looked_at(committed=NOW_MS + 4_999)
    assert found(report) == {}


def test_a_changed_action_is_found():
    whole = site(bid(1))
    record = whole.logs["execute"][0]
    record.value = (record.value or b"").replace(b'"after":"1.30"', b'"after":"9.30"', 1)

    assert found(whole.verify()) == {"hash": 1}


# --- switches ---------------------------------------------------------------------------------------------------------


def test_what_is_decided_under_a_switch_that_covers_it_is_found():
    whole = site(bid(1))
    epoch = whole.engage("campaign:cmp-7")
    value = (whole.logs["execute"].pop().value or b"").replace(b'"epoch":0', f'"epoch":{epoch}'.encode(), 1)
    whole.sealed("execute", records.DECISION, value, SEAL_KEY)

    report = whole.verify()

    assert found(report) == {"I4": 1}
    assert f"switch {epoch} (HALT for campaign:cmp-7)" in report.violations[0].what


def test_what_is_committed_after_a_switch_is_effective_is_found_and_how_late_it_was_is_told():
    whole = site(bid(1), bid(2, "cmp-8"))
    whole.engage("campaign:cmp-7")

    assert found(whole.verify()) == {}
    late, facts = whole.looked_at(committed=NOW_MS + 8)
    assert found(late) == {}
    obeyed = facts.against.obeyed
    assert obeyed is not None
    assert obeyed.figures()["offending_commits"].max_ms == 8
    too_late, _ = whole.looked_at(committed=NOW_MS + 11)
    assert found(too_late) == {"I4": 1}


def test_what_is_called_after_a_switch_is_effective_is_found():
    whole = site(bid(1))
    whole.engage("campaign:cmp-7")
    decision, decoded = carried(whole.logs["execute"][0].value or b"")
    whole.result(decision, decoded.raw, Status.EXECUTED, NOW_MS + 11)

    assert found(whole.verify()) == {"I4": 1}
    assert found(whole.verify(with_control=False)) == {}


def test_commits_that_are_too_many_to_look_up_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verify_facts, "CANDIDATES_MAX", 1)
    whole = site(bid(1), bid(2), bid(3))
    whole.engage("campaign:cmp-7")

    report, facts = whole.looked_at()

    assert found(report) == {}
    assert (len(facts.candidates[0]), facts.left_out) == (1, 2)


def test_what_was_decided_before_a_switch_may_be_called_before_it():
    whole = site(bid(1))
    whole.execute(EXECUTED)
    whole.now_ms += 10_000
    whole.engage("campaign:cmp-7")
    assert found(whole.verify()) == {}


# --- whatever happens -------------------------------------------------------------------------------------------------


class Verifying(RuleBasedStateMachine):
    """Agents, people, switches, crashes, in any order: at any moment the log verifies, and everything is counted."""

    campaigns = st.sampled_from(["cmp-1", "cmp-2", None])

    @initialize()
    def start(self) -> None:
        self.whole = Whole()
        self.engaged: list[int] = []
        self.number = 0

    @rule(
        picked=st.lists(st.tuples(campaigns, st.sampled_from(["1.30", "1.30", "1.60"])), min_size=1, max_size=4),
        route=st.sampled_from([True, True, True, False]),
    )
    def propose(self, picked: list[tuple[str | None, str]], route: bool) -> None:
        for campaign, after in picked:
            self.number += 1
            proposed = iso(self.whole.now_ms - 100)
            self.whole.publish(bid(self.number, campaign, after, proposed_at=proposed))
        if route:
            self.route()

    @rule(again=st.integers(0, 3))
    def publish_badly(self, again: int) -> None:
        log = self.whole.logs["actions"]
        self.whole.publish(b"{" if again >= len(log) else log[again].value or b"")

    @rule()
    def route(self) -> None:
        self.whole.now_ms += 50
        self.whole.route()

    @rule(scope=st.sampled_from(["campaign:cmp-1", "campaign:cmp-2", "tenant:acme"]), mode=st.sampled_from(Mode))
    def engage(self, scope: str, mode: Mode) -> None:
        self.whole.now_ms += 100
        if len(self.engaged) < 4:
            self.engaged.append(self.whole.engage(scope, mode=mode))

    @precondition(lambda self: self.engaged)
    @rule(which=st.integers(0, 3))
    def release(self, which: int) -> None:
        self.whole.release(self.engaged.pop(which % len(self.engaged)))

    @rule(batch=st.integers(1, 3), abort_after=st.none() | st.integers(0, 3))
    def pass_(self, batch: int, abort_after: int | None) -> None:
        self.whole.pass_(batch, abort_after)

    @rule()
    def crash(self) -> None:
        self.whole.open()

    @rule()
    def calm(self) -> None:
        """Release everything, and let what lies parked be decided."""
        if self.engaged:
            self.whole.release(*self.engaged)
            self.engaged = []
        self.whole.pass_()

    @rule(hows=st.lists(st.sampled_from(["executed", "executed", "failed", "unresolved", "stale"]), max_size=6))
    def execute(self, hows: list[str]) -> None:
        self.whole.now_ms += 50
        for how in hows:
            self.whole.execute(lambda how=how: how)  # type: ignore[misc]

    @rule(status=st.sampled_from([Status.EXECUTED, Status.FAILED]))
    def settle(self, status: Status) -> None:
        self.whole.settle(status)

    @rule(verdict=st.sampled_from(["approve", "approve", "reject"]))
    def review(self, verdict: str) -> None:
        self.whole.now_ms += 1_000
        self.whole.review(verdict)

    @rule(order=st.permutations(["actions", "execute", "review", "escalation", "held", "closed", "dlq"]))
    def verify(self, order: list[str]) -> None:
        self.judge([*order, "recommendations"])

    def judge(self, order: list[str], keys: Any = KEYS) -> None:
        report = self.whole.verify(order=order, keys=keys)
        assert report.ok, report.violations
        assert report.conservation == "ok"
        assert report.counts["lost"] == report.counts["unjudged"] == 0
        assert report.counts["inputs"] == len(self.whole.logs["actions"])

    def teardown(self) -> None:
        if hasattr(self, "whole"):
            self.judge(["actions", "execute", "review", "escalation", "recommendations", "held", "closed", "dlq"])
            self.judge(["held", "closed", "dlq", "actions", "review", "escalation", "recommendations", "execute"], {})


Verifying.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_whatever_happens_the_log_verifies = Verifying.TestCase


def test_a_gap_in_what_was_written_is_found():
    """The state machine's own check: without one of its records such a history does not verify."""
    whole = site(bid(1))
    epoch = whole.engage("campaign:cmp-7")
    whole.execute(EXECUTED)
    whole.release(epoch)
    whole.pass_()
    assert found(whole.verify()) == {}
    for topic in ("execute", "held"):
        broken: list[FakeRecord] = whole.logs[topic]
        kept = broken.pop(0)
        assert found(whole.verify()), topic
        broken.insert(0, kept)


def test_a_key_of_another_role_does_not_seal_for_the_executor():
    whole = site(bid(1))
    decision, decoded = carried(whole.logs["execute"][0].value or b"")
    whole.result(decision, decoded.raw, Status.EXECUTED, NOW_MS)
    value = whole.logs["results"].pop().value or b""
    whole.sealed("results", records.RESULT, value, DESK_KEY)
    assert found(whole.verify()) == {"seal": 1}
    whole.logs["results"].clear()
    whole.sealed("results", records.RESULT, value, EXECUTOR_KEY)
    assert found(whole.verify()) == {}
