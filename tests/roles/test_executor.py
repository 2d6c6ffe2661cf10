"""The executor over decisions of a real router, with a platform in memory, in virtual time.

What must hold: each execute record has one end; the platform is called only in the turn in which the gate says so; what
nobody knows is asked about until it is known; nothing of an entity overtakes what came before it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hitl_stream.core.events import Mode
from hitl_stream.core.gate import LOOK, RUN, Run
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.calls import CALL_S_MAX, HALT_CUT_S, WATCH_S
from hitl_stream.lane.step import Moment, Output
from hitl_stream.roles.bursts import EVERY_S
from hitl_stream.roles.executor import ASK_MS_MAX, ASK_MS_MIN, SETTLED_S, AdapterService, NoApprovals, Vouched
from hitl_stream.wire import records
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.facts import read_fact
from hitl_stream.wire.records import ACTION_MARK
from hitl_stream.wire.schemas import MESSAGES, json_schema
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from support.execution import EXECUTOR_KEY, Execution, FakeAdapter, execution
from support.kafka import within
from support.make import SEAL_KEY, FakeRecord, change, make_policy, make_router, post
from support.virtual import now_s

GRACE_S = 15 * 60
"""How long a decision may run that names no end."""
TRACE = ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


def bid(campaign: str, before: str = "1.20", after: str = "1.21") -> list[dict[str, Any]]:
    return [change(before, after, campaign=campaign)]


def resealed(output: Output, key: SealKey = SEAL_KEY, **changes: Any) -> Output:
    """Return a decision with other members in its head, sealed anew."""
    cut = (output.value or b"").find(ACTION_MARK)
    head = json.loads((output.value or b"")[:cut] + b"}") | changes
    sealed = msgspec.json.encode(head)[:-1]
    headers = [(TYPE_HEADER, b"decision/1"), (SEAL_HEADER, sealer(key, output.topic, "decision/1")(sealed))]
    return msgspec.structs.replace(output, value=sealed + (output.value or b"")[cut:], headers=headers)


# --- one end for each -------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A3", "A4", "C1")
@pytest.mark.parametrize("level", [3, 4])
def test_a_decision_of_level_three_or_four_is_carried_out_once_and_says_so(level: int):
    async def scenario(here: Execution) -> None:
        name = here.execute(type="draft.internal", **post(), agent={"id": "copy-2"})
        here.open()
        await here.settled()
        (result,) = here.said("results")
        assert (result["status"], result["action_id"], result["level"]) == ("executed", name, level)
        assert here.adapter.times == {name: 1}

    execution(scenario, policy=make_policy(classes={"draft.internal": {"level": level}}))


def test_a_result_holds_the_decision_the_platforms_answer_and_the_very_bytes():
    async def scenario(here: Execution) -> None:
        output = here.decide(headers=[TRACE], changes=bid("cmp-1"))
        here.put(output)
        here.open()
        await here.settled()
        (result,) = here.said("results")
        decision = json.loads(output.value or b"")
        shared = {name for name in decision if name in result} - {"by"}
        assert {name: result[name] for name in shared} == {name: decision[name] for name in shared}
        assert shared >= {"id", "tenant", "hash", "reasons", "policy", "epoch", "moment", "trace", "score", "action"}
        assert result["key"] == f"acme/{decision['action_id']}/{decision['hash']}"
        assert result["present"] == {"/changes/0": "1.20"}
        assert result["platform"] == {"code": 200, "ref": f"ref-{decision['action_id']}", "text": None}
        assert decision["moment"] < result["called"] < result["answered"]
        assert result["by"] == []
        (written,) = here.written["hitl.results"]
        assert (written.value or b"").endswith((output.value or b"").partition(ACTION_MARK)[2])
        assert TRACE in written.headers
        assert here.adapter.traces[decision["action_id"]] == TRACE[1].decode()

    execution(scenario)


def test_what_stands_on_the_platform_becomes_a_fact_that_the_router_reads():
    async def scenario(here: Execution) -> None:
        here.execute(changes=bid("cmp-1", "1.20", "1.30"))
        here.open()
        await here.settled()
        (output,) = here.written["hitl.facts"]
        fact = read_fact("hitl.facts", output.value, output.headers, {EXECUTOR_KEY.key_id: EXECUTOR_KEY})
        assert fact is not None
        assert output.key == b"acme/acc-17/cmp-1#bid"
        assert (fact.tenant, fact.entity.campaign, fact.field, fact.value, fact.unit, fact.source) == (
            "acme", "cmp-1", "bid", "1.30", "EUR", "executor",
        )  # fmt: skip

    execution(scenario)


def test_many_decisions_have_one_result_each_and_each_was_called_once():
    async def scenario(here: Execution) -> None:
        names = [here.execute(changes=bid(f"cmp-{n}")) for n in range(300)]
        here.open()
        await here.settled()
        assert set(here.ends()) == set(names)
        assert all(len(end) == 1 for end in here.ends().values())
        assert set(here.adapter.times.values()) == {1}

    execution(scenario)


def test_what_the_platform_refuses_has_failed_and_people_are_asked():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["fail"]
        here.open()
        await here.settled()
        (result,) = here.said("results")
        assert result["status"] == "failed"
        assert result["platform"] == {"code": 422, "ref": None, "text": "the budget is frozen"}
        (question,) = here.said("escalation")
        assert (question["purpose"], question["outcome"], question["id"]) == ("exception", "ESCALATE", result["id"])
        assert question["exception"] == {"type": "platform", "text": "failed: the budget is frozen"}
        assert [row["queue"] for row in question["approvals"]] == ["trading"]
        assert here.adapter.calls == [name], "what was refused is not tried again"
        assert here.said("facts") == []

    execution(scenario)


def test_the_platform_is_told_until_when_and_under_which_epoch():
    async def scenario(here: Execution) -> None:
        here.guard.left_ms = 700
        name = here.execute(epoch=0, changes=bid("cmp-1"))
        soon = here.guard.now_ms() + 400
        other = here.execute(changes=bid("cmp-2"), expires_at=_at(soon))
        here.commands.engage("tenant:elsewhere")
        here.open()
        await here.settled()
        begun = here.guard.now_ms() - int((now_s() - here.adapter.begun[name]) * 1000)
        assert here.adapter.limits[name] == (begun + 700, here.guard.epoch)
        assert here.adapter.limits[other] == (soon, here.guard.epoch)

    execution(scenario)


def _at(ms: int) -> str:
    return records.time_text(ms)


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"00-x", TRACE[1] + b"\n"])
def test_a_header_that_is_no_trace_is_not_carried_on(content: Any):
    """Headers are not sealed: whoever may write to the topic can put anything into them."""

    async def scenario(here: Execution) -> None:
        output = here.decide()
        here.put(msgspec.structs.replace(output, headers=[("traceparent", content), *output.headers]))
        here.open()
        await here.settled()
        (written,) = here.written["hitl.results"]
        assert "traceparent" not in dict(written.headers)

    execution(scenario)


def test_what_is_written_fits_the_schemas_that_readers_get():
    async def scenario(here: Execution) -> None:
        names = [here.execute(changes=bid(f"cmp-{n}")) for n in range(4)]
        here.adapter.script[names[0]] = ["fail"]
        here.adapter.values["acc-17/cmp-1/bid"] = "7"
        here.commands.engage("campaign:cmp-2")
        here.open()
        await here.settled()
        topics = {"results": 2, "closed": 1, "held": 1, "escalation": 1, "facts": 2}
        for topic, count in topics.items():
            values = here.said(topic)
            name = "exception" if topic == "escalation" else MESSAGES[topic]
            schema = json_schema(name)
            if "action" in schema["properties"]:
                schema["properties"]["action"] = {"type": "object"}
            assert len(values) == count, topic
            for value in values:
                jsonschema.validate(value, schema)

    execution(scenario)


# --- what is none of ours ---------------------------------------------------------------------------------------------


def _unsealed(output: Output) -> Output:
    return msgspec.structs.replace(output, headers=[output.headers[0]])


def _strange_key(output: Output) -> Output:
    return resealed(output, SealKey("r1", b"\x09" * 32))


def _own_key(output: Output) -> Output:
    return resealed(output, EXECUTOR_KEY)


def _other_action(output: Output) -> Output:
    return msgspec.structs.replace(output, value=(output.value or b"").replace(b'"after":"1.30"', b'"after":"9.90"'))


def _appended_members(output: Output) -> Output:
    value = (output.value or b"")[:-1] + b',"epoch":-1,"execute_by":"2099-01-01T00:00:00.000Z"}'
    return msgspec.structs.replace(output, value=value)


def _second_action(output: Output) -> Output:
    raw = (output.value or b"").partition(ACTION_MARK)[2][:-1]
    value = (output.value or b"")[:-1] + ACTION_MARK + raw.replace(b"1.30", b"9.90") + b"}"
    return msgspec.structs.replace(output, value=value)


def _other_topic(output: Output) -> Output:
    return msgspec.structs.replace(resealed(msgspec.structs.replace(output, topic="hitl.review")), topic=output.topic)


def _other_type(output: Output) -> Output:
    return msgspec.structs.replace(output, headers=[(TYPE_HEADER, b"decision/2"), output.headers[1]])


def _audit_copy(output: Output) -> Output:
    return resealed(output, purpose="audit")


def _canary(output: Output) -> Output:
    return resealed(output, purpose="canary")


def _other_ce(output: Output) -> Output:
    return resealed(output, ce={"ce_id": "x"})


@pytest.mark.parametrize(
    ("forge", "error"),
    [
        (_unsealed, "seal"), (_strange_key, "seal"), (_own_key, "seal"), (_other_action, "seal"),
        (_appended_members, "schema"), (_second_action, "seal"), (_other_topic, "seal"), (_other_type, "unknown_type"),
        (_audit_copy, "unknown_type"), (_canary, "unknown_type"), (_other_ce, "seal"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.strip("_"),
)  # fmt: skip
@pytest.mark.behaviour("I3", "I16", "A2", "E3")
def test_what_is_not_exactly_what_the_router_sealed_never_runs_and_is_put_aside_as_it_came(forge: Any, error: str):
    async def scenario(here: Execution) -> None:
        forged = forge(here.decide())
        here.put(forged)
        name = here.execute(changes=bid("cmp-9"))
        here.open()
        await here.settled()
        assert here.adapter.calls == [name]
        (dead,) = here.written["hitl.dlq"]
        headers = dict(dead.headers)
        assert (headers["hitl-error"].decode(), dead.value) == (error, forged.value)
        assert headers["hitl-source"] == b"hitl.execute/0/0"
        assert here.committed == 2

    execution(scenario)


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff", b"[1]", b'{"a":1,"action":{}}', b'{"id":"x","action":'])
def test_anything_else_is_put_aside_too(value: bytes):
    async def scenario(here: Execution) -> None:
        here.append(value)
        here.append(value, headers=[(TYPE_HEADER, b"decision/1"), (SEAL_HEADER, b"r1:x")])
        here.open()
        await here.settled()
        assert len(here.written["hitl.dlq"]) == 2
        assert here.adapter.calls == []

    execution(scenario)


def test_a_decision_that_somebody_copied_to_another_partition_never_runs_there():
    """Its seal fits there too; but only at home it is known that it has run."""

    async def scenario(here: Execution) -> None:
        output = Execution(partitions=4, number=_home()).decide()
        here.put(output)
        here.open()
        await here.settled()
        (dead,) = here.written["hitl.dlq"]
        assert b"somebody copied it here" in dict(dead.headers)["hitl-why"]
        assert here.adapter.calls == []

    execution(scenario, partitions=4, number=(_home() + 1) % 4)


def _home() -> int:
    from support.make import home, make_action

    return home(make_action(), 4)


def test_a_dead_letter_has_its_end_also_after_a_crash():
    async def scenario(here: Execution) -> None:
        slow = here.execute(changes=bid("cmp-1"))
        here.adapter.script[slow] = ["hang"]
        here.put(_unsealed(here.decide(changes=bid("cmp-2"))))
        here.open()
        await here.settled()
        assert here.committed == 0
        await here.crash()
        here.open()
        await here.settled()
        assert len(here.written["hitl.dlq"]) == 1
        assert here.ends() == {slow: ["executed"]}

    execution(scenario)


@pytest.mark.behaviour("A2", "B7", "E3")
def test_what_people_approved_is_refused_as_long_as_nobody_can_check_it():
    async def scenario(here: Execution) -> None:
        output = here.decide()
        routed = {"topic": "hitl.review", "head": "{}", "seal": "r1:x"}
        here.put(resealed(output, by=["ana"], routed=routed, verdicts=["x"]))
        here.commands.engage("global:*")
        here.open()
        await here.settled()
        (closed,) = here.said("closed")
        assert (closed["end"], closed["why"], closed["by"]) == ("refused", "unsealed", ["ana"])
        assert closed["reasons"][-1]["rule"] == "executor.unsealed"
        assert (here.adapter.calls, here.said("held")) == ([], []), "nothing unsealed is parked under our seal"

    execution(scenario)


def test_a_forged_approval_does_not_end_the_decision_whose_name_it_bears():
    async def scenario(here: Execution) -> None:
        output = here.decide()
        routed = {"topic": "hitl.review", "head": "{}", "seal": "r1:x"}
        here.put(resealed(output, SealKey("r1", b"\x09" * 32), by=["ana"], routed=routed, verdicts=["x"]))
        here.put(output)
        here.open()
        await here.settled()
        assert [end[-1] for end in here.ends().values()] == ["unsealed"]
        assert [result["status"] for result in here.said("results")] == ["executed"]

    execution(scenario)


# --- what people approved ---------------------------------------------------------------------------------------------


class Trusting(NoApprovals):
    """Takes every approval for good."""

    def read(self, record: Any) -> Vouched | Undecodable:
        found = super().read(record)
        return found if isinstance(found, Undecodable) else replace(found, unsealed="")


def asked(here: Execution, **parts: Any) -> Output:
    """Let the router decide something that people must approve."""
    output = here.decide(changes=[change("1.20", "1.60", campaign="cmp-1")], **parts)
    assert output.topic == "hitl.review"
    return output


def approved(review: Output, head: str | None = None, **changes: Any) -> Output:
    """Return what the desk makes of it once people have approved it; `head`: another one than the router's."""
    value = review.value or b""
    routed = {
        "topic": review.topic,
        "head": records.head_of(value).decode() if head is None else head,
        "seal": dict(review.headers)[SEAL_HEADER].decode(),
    }
    output = resealed(review, outcome="EXECUTE", by=["ana"], routed=routed, verdicts=["x"], **changes)
    return msgspec.structs.replace(output, topic="hitl.execute")


def test_what_people_approved_runs_once_it_is_vouched_for():
    async def scenario(here: Execution) -> None:
        here.put(approved(asked(here)))
        here.open()
        await here.settled()
        assert [(result["status"], result["by"]) for result in here.said("results")] == [("executed", ["ana"])]

    execution(scenario, approvals=Trusting())


@pytest.mark.behaviour("C1", "C3")
def test_what_people_approved_goes_back_as_the_router_had_decided_it_and_they_are_asked_again():
    async def scenario(here: Execution) -> None:
        review = asked(here, headers=[TRACE])
        output = approved(review, epoch=here.guard.epoch)
        here.put(msgspec.structs.replace(output, headers=[TRACE, *output.headers]))
        halt = here.commands.engage("campaign:cmp-1")
        here.open()
        await here.settled()

        assert here.adapter.calls == []
        (held,) = here.written["hitl.held"]
        found = read_decided("hitl.held", held.value, held.headers, {EXECUTOR_KEY.key_id: EXECUTOR_KEY})
        assert isinstance(found, Decided)
        parked = records.Parked(by="executor", epoch=here.guard.epoch, switches=(halt,))
        assert held.value == records.held_value(review.value or b"", parked)
        assert (found.decision.outcome, found.decision.attempt, found.decision.parked) == ("REVIEW", 0, parked)
        assert found.decision.by is None, "whoever approved it has no part in what is decided anew"

        router = make_router(parkers={EXECUTOR_KEY.key_id: EXECUTOR_KEY})
        record = FakeRecord(held.value, 0, 0, here.guard.now_ms(), "hitl.held", held.key, held.headers)
        state = router.state(IdBudget())
        state.follow([record])
        result = router.again([record], state, Moment(here.guard.now_ms(), halt + 2))
        (again,) = result.outputs
        decision = records.decode_decision(again.value or b"")
        assert (again.topic, decision.attempt) == ("hitl.review", 1)
        assert "approval.again" in [row.rule for row in decision.reasons]
        assert [row.queue for row in decision.approvals] == ["trading"]
        assert TRACE in again.headers

    execution(scenario, approvals=Trusting())


def test_what_people_approve_once_more_runs_as_the_next_attempt():
    async def scenario(here: Execution) -> None:
        review = asked(here)
        here.put(approved(review, epoch=here.guard.epoch))
        here.commands.release(here.commands.engage("campaign:cmp-1"))
        here.open()
        await here.settled()
        again = resealed(review, attempt=1, held=0)
        here.put(approved(again, epoch=here.guard.epoch))
        await here.settled()
        assert list(here.ends().values()) == [["executed", "held"]]

    execution(scenario, approvals=Trusting())


def _head(review: Output, **changes: Any) -> str:
    return records.head_of(resealed(review, **changes).value or b"").decode()


@pytest.mark.parametrize("engaged", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda review: "{}",
        lambda review: "",
        lambda review: (review.value or b"").decode(),
        lambda review: _head(review, hash="0" * 64),
        lambda review: _head(review, origin="hitl.actions/0/77"),
        lambda review: _head(review, attempt=5),
        lambda review: _head(review, purpose="audit"),
        lambda review: _head(review, parked={"by": "executor", "epoch": 1, "switches": []}),
    ],
)
def test_an_approval_around_another_decision_of_the_router_neither_runs_nor_comes_back(spoil: Any, engaged: bool):
    async def scenario(here: Execution) -> None:
        review = asked(here)
        here.put(approved(review, spoil(review)))
        if engaged:
            here.commands.engage("global:*")
        here.open()
        await here.settled()
        (closed,) = here.said("closed")
        assert (closed["end"], closed["why"]) == ("refused", "unsealed")
        assert (here.adapter.calls, here.said("held")) == ([], [])

    execution(scenario, approvals=Trusting())


@pytest.mark.parametrize("execute_by", ["2099-01-01T00:00:00", "soon", "0001-01-01T00:00:00+14:00"])
def test_a_time_that_is_none_does_not_end_the_executor(execute_by: str):
    async def scenario(here: Execution) -> None:
        here.put(approved(asked(here), execute_by=execute_by))
        name = here.execute(changes=bid("cmp-9"))
        here.open()
        await here.settled()
        assert here.adapter.calls == [name]

    execution(scenario)


# --- the gate at work -------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("I11")
def test_a_decision_whose_time_is_over_is_closed_and_not_called():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        await asyncio.sleep(GRACE_S)
        here.open()
        await here.settled()
        assert here.ends() == {name: ["execute_by"]}
        (closed,) = here.said("closed")
        assert (closed["end"], closed["reasons"][-1]["rule"]) == ("expired", "executor.execute_by")
        assert here.adapter.calls == []

    execution(scenario)


def test_a_decision_whose_value_has_changed_meanwhile_is_stale_and_the_true_value_becomes_a_fact():
    async def scenario(here: Execution) -> None:
        name = here.execute(changes=bid("cmp-1"))
        here.adapter.values["acc-17/cmp-1/bid"] = "1.25"
        here.open()
        await here.settled()
        assert here.ends() == {name: ["stale"]}
        (closed,), (fact,) = here.said("closed"), here.said("facts")
        assert (closed["end"], closed["reasons"][-1]["saw"]) == ("stale", "/changes/0 is 1.25")
        assert fact["value"] == "1.25"
        assert here.adapter.calls == []

    execution(scenario)


def test_a_present_value_that_cannot_be_read_is_read_again_before_anything_is_called():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.unreadable = 3
        here.open()
        await here.settled()
        assert here.ends() == {name: ["executed"]}
        assert here.adapter.reads[name] == 4

    execution(scenario)


def test_a_present_value_that_stays_unreadable_lets_the_decision_expire_uncalled():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.unreadable = 10**9
        here.open()
        await here.settled(GRACE_S + 10)
        assert here.ends() == {name: ["execute_by"]}
        assert here.adapter.calls == []
        assert here.adapter.reads[name] < 200, "less and less often"

    execution(scenario)


def test_a_reading_that_hangs_is_given_up_and_tried_again():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        present = here.adapter.present

        async def hanging(*arguments: Any) -> Any:
            here.adapter.present = present  # type: ignore[method-assign]
            await asyncio.sleep(3_600)

        here.adapter.present = hanging  # type: ignore[method-assign]
        here.open()
        await here.settled(CALL_S_MAX + 2)
        assert here.ends() == {name: ["executed"]}

    execution(scenario)


def test_the_present_value_is_read_again_before_each_call():
    async def scenario(here: Execution) -> None:
        name = here.execute(changes=bid("cmp-1"))
        here.adapter.script[name] = ["hang"]
        here.open()
        await asyncio.sleep(5.0)
        here.adapter.values["acc-17/cmp-1/bid"] = "1.25"
        await here.settled(CALL_S_MAX)
        assert here.ends() == {name: ["stale"]}
        assert (here.adapter.calls, here.adapter.times) == ([name], {})

    execution(scenario)


def test_a_class_without_a_limit_is_not_looked_up():
    async def scenario(here: Execution) -> None:
        name = here.execute(type="draft.internal", **post(), agent={"id": "copy-2"})
        here.open()
        await here.settled()
        assert (here.ends(), here.adapter.reads) == ({name: ["executed"]}, {})

    execution(scenario)


@pytest.mark.behaviour("A4", "E15")
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("level", [3, 4])
def test_a_switch_engaged_between_decision_and_call_parks_it_with_the_decision_as_it_was(mode: Mode, level: int):
    async def scenario(here: Execution) -> None:
        output = here.decide(type="bid.adjust", changes=bid("cmp-1"))
        here.put(output)
        engaged = here.commands.engage("campaign:cmp-1", mode=mode)
        other = here.execute(changes=bid("cmp-2"))
        here.open()
        await here.settled()
        (parked,) = here.written["hitl.held"]
        found = read_decided("hitl.held", parked.value, parked.headers, {EXECUTOR_KEY.key_id: EXECUTOR_KEY})
        assert isinstance(found, Decided)
        holding = () if mode is Mode.REVIEW_ALL else (engaged,)
        assert found.decision.parked == records.Parked(by="executor", epoch=here.guard.epoch, switches=holding)
        before = json.loads(output.value or b"")
        after = json.loads(parked.value or b"")
        assert {name: after[name] for name in before} == before
        assert parked.key == output.key
        assert here.adapter.calls == [other]

    execution(scenario, policy=make_policy(classes={"bid.adjust": {"level": min(level, 3)}}))


def test_a_switch_that_was_released_before_we_looked_sends_it_back_all_the_same():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.commands.release(here.commands.engage("global:*"))
        here.open()
        await here.settled()
        assert here.ends() == {name: ["held"]}
        (held,) = here.said("held")
        assert held["parked"]["switches"] == []

    execution(scenario)


def test_what_was_sent_back_runs_when_it_is_decided_again():
    async def scenario(here: Execution) -> None:
        output = here.decide(changes=bid("cmp-1"))
        here.put(output)
        here.commands.release(here.commands.engage("global:*"))
        here.open()
        await here.settled()
        here.put(resealed(output, attempt=1, id="x#1", held=0, epoch=here.guard.epoch))
        await here.settled()
        assert list(here.ends().values()) == [["executed", "held"]]
        assert [result["id"] for result in here.said("results")] == ["x#1"]

    execution(scenario)


@pytest.mark.behaviour("I8")
def test_later_decisions_of_an_entity_go_back_too_until_the_router_has_read_what_was_sent_back():
    async def scenario(here: Execution) -> None:
        first = here.decide(changes=bid("cmp-1"))
        here.put(first)
        here.commands.release(here.commands.engage("campaign:cmp-1"))
        now = here.guard.epoch
        second = here.execute(changes=bid("cmp-1"))  # decided after the release, without knowing of the first
        elsewhere = here.execute(changes=bid("cmp-2"))
        whole = here.execute(changes=[change("1.20", "1.21", campaign=None)])
        here.open()
        await here.settled()
        assert here.adapter.order == [elsewhere], "and what touches the account as a whole waits as well"
        why = [value["parked"]["switches"] for value in here.said("held")]
        assert (len(why), here.ends()[second], here.ends()[whole]) == (3, ["held"], ["held"])
        here.held_read = 1
        third = here.execute(changes=bid("cmp-1"))
        await here.settled()
        assert here.ends()[third] == ["held"], "the router had read the first only"
        here.held_read = len(here.written["hitl.held"]) - 1
        here.put(resealed(first, attempt=1, held=here.held_read, epoch=now))
        fourth = here.execute(changes=bid("cmp-1", "1.21", "1.22"))
        await here.settled()
        assert here.adapter.order == [elsewhere, "act-1", fourth]

    execution(scenario)


@pytest.mark.behaviour("I8")
def test_an_entity_that_was_sent_back_is_remembered_after_a_crash():
    async def scenario(here: Execution) -> None:
        here.execute(changes=bid("cmp-1"))
        here.commands.release(here.commands.engage("campaign:cmp-1"))
        here.open()
        await here.settled()
        await here.crash()
        second = here.execute(changes=bid("cmp-1"))
        here.open()
        await here.settled()
        here.held_read = 1
        third = here.execute(changes=bid("cmp-1"))
        await here.settled()
        assert (here.ends()[second], here.ends()[third]) == (["held"], ["executed"])

    execution(scenario)


def test_our_own_policy_refuses_what_the_router_should_not_have_let_run():
    """A router with a bug, or with a key that somebody stole, is not enough."""

    async def scenario(here: Execution) -> None:
        output = here.decide(changes=[change("1.20", "9.00")])
        assert output.topic == "hitl.review"
        here.put(resealed(msgspec.structs.replace(output, topic="hitl.execute"), outcome="EXECUTE", approvals=[]))
        here.open()
        await here.settled()
        (closed,) = here.said("closed")
        assert (closed["end"], closed["why"]) == ("refused", "policy")
        assert closed["reasons"][-1]["rule"] == "executor.policy"
        assert here.adapter.calls == []

    execution(scenario)


def test_a_decision_under_another_policy_that_ours_disagrees_with_is_made_again():
    async def scenario(here: Execution) -> None:
        output = here.decide(changes=[change("1.20", "9.00")])
        sealed = resealed(
            msgspec.structs.replace(output, topic="hitl.execute"), outcome="EXECUTE", approvals=[], policy="e" * 64
        )
        here.put(sealed)
        here.open()
        await here.settled()
        assert list(here.ends().values()) == [["held"]]

    execution(scenario)


def test_a_decision_from_an_epoch_that_we_have_not_reached_waits_for_it():
    async def scenario(here: Execution) -> None:
        name = here.execute(epoch=here.guard.epoch + 2)
        here.open()
        await asyncio.sleep(1.0)
        assert here.adapter.calls == []
        here.commands.nothing()
        await here.settled()
        assert here.ends() == {name: ["executed"]}

    execution(scenario)


def test_an_epoch_that_does_not_come_within_a_lease_sends_the_decision_back():
    async def scenario(here: Execution) -> None:
        name = here.execute(epoch=here.guard.epoch + 2)
        here.open()
        await here.settled(5.0)
        assert here.ends() == {name: ["held"]}
        assert here.adapter.calls == []

    execution(scenario)


@pytest.mark.behaviour("I2")
@pytest.mark.parametrize("gap", [0, 5], ids=["at once", "after other records"])
def test_a_decision_that_comes_twice_runs_once_and_has_one_end(gap: int):
    async def scenario(here: Execution) -> None:
        output = here.decide()
        here.put(output)
        others = [here.execute(changes=bid(f"cmp-{n}")) for n in range(gap)]
        here.put(output)
        here.open()
        await here.settled()
        here.put(output)
        await here.settled()
        assert len(here.said("results")) == 1 + len(others)
        assert (here.said("closed"), here.said("held")) == ([], [])
        assert here.committed == 3 + gap

    execution(scenario)


@pytest.mark.behaviour("I2")
def test_a_decision_that_was_sent_back_comes_again_and_is_sent_back_once():
    async def scenario(here: Execution) -> None:
        output = here.decide()
        here.put(output)
        here.commands.release(here.commands.engage("global:*"))
        here.open()
        await here.settled()
        await here.crash()
        here.put(output)
        here.open()
        await here.settled()
        assert list(here.ends().values()) == [["held"]]

    execution(scenario)


# --- doubt ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["lose", "apply and hang"])
def test_a_call_whose_answer_is_lost_is_asked_about_and_not_made_again(how: str):
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = [how]
        here.open()
        await here.settled(CALL_S_MAX + 1)
        assert here.ends() == {name: ["executed"]}
        assert (here.adapter.calls, here.adapter.times) == ([name], {name: 1})
        assert here.seen.unknowns == 1

    execution(scenario)


@pytest.mark.parametrize("how", ["raise", "not now", "hang"])
def test_a_call_that_did_not_arrive_goes_through_the_gate_again_and_is_made_again(how: str):
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = [how, how]
        here.open()
        await here.settled(2 * CALL_S_MAX + 2)
        assert here.ends() == {name: ["executed"]}
        assert (here.adapter.calls, here.adapter.times) == ([name] * 3, {name: 1})

    execution(scenario)


def test_a_refusal_is_not_the_last_word_while_an_earlier_call_may_still_arrive():
    async def scenario(here: Execution) -> None:
        here.begin_behind()
        late, never = (here.execute(changes=bid(f"cmp-{n}")) for n in range(2))
        here.adapter.script[late] = ["hang until very late", "fail"]
        here.adapter.script[never] = ["hang", "fail"]
        here.open()
        await here.settled(CALL_S_MAX + 5)
        assert here.ends() == {late: ["executed"], never: ["failed"]}
        assert here.adapter.times == {late: 1}

    execution(scenario)


def test_an_adapter_that_answers_nonsense_is_not_believed():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["nonsense"]
        here.open()
        await here.settled()
        assert here.ends() == {name: ["executed"]}
        assert here.adapter.calls == [name, name]

    execution(scenario)


def test_a_call_that_did_not_begin_is_no_offence_and_leaves_no_trace():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        present = here.adapter.present

        async def losing(*arguments: Any) -> Any:
            here.guard.lease = False
            return await present(*arguments)

        here.adapter.present = losing  # type: ignore[method-assign]
        here.open()
        await asyncio.sleep(5.0)
        here.adapter.present = present  # type: ignore[method-assign]
        here.commands.at_ms = here.guard.now_ms() - 5_000
        here.commands.release(here.commands.engage("global:*"))
        here.guard.lease = True
        await here.settled()
        assert (here.ends(), here.adapter.calls, here.seen.offences) == ({name: ["held"]}, [], 0)

    execution(scenario)


def test_a_platform_that_says_not_now_is_not_hammered():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["not now"] * 10**6
        here.open()
        await here.settled(GRACE_S + 60)
        assert here.ends() == {name: ["execute_by"]}
        assert len(here.adapter.calls) < GRACE_S / 4
        assert here.adapter.times == {}

    execution(scenario)


def test_a_platform_that_does_not_know_yet_is_asked_less_and_less_often_until_it_does():
    async def scenario(here: Execution) -> None:
        here.begin_behind()
        name = here.execute()
        here.adapter.script[name] = ["lose"]
        here.adapter.deaf[name] = 12
        here.open()
        await here.settled(60.0)
        assert here.ends() == {name: ["executed"]}
        assert len(here.adapter.read_backs) == 13

    execution(scenario)


def test_what_stays_unknown_is_called_unresolved_and_people_are_asked():
    async def scenario(here: Execution) -> None:
        here.begin_behind()
        name = here.execute(expires_at=_at(here.guard.now_ms() + 10_000))
        after = here.execute(changes=bid("cmp-204"))
        here.adapter.script[name] = ["lose"]
        here.adapter.deaf[name] = 10**6
        here.adapter.values["acc-17/cmp-204/bid"] = "1.20"
        here.open()
        began = now_s()
        while not here.said("results"):  # noqa: ASYNC110  virtual time
            await asyncio.sleep(1.0)
        waited = now_s() - began
        assert 10 + ASK_MS_MIN / 1000 <= waited <= 10 + ASK_MS_MIN / 1000 + 10
        (result,) = here.said("results")
        assert (result["status"], result["action_id"], result["answered"]) == ("unresolved", name, None)
        assert result["called"] is not None
        (question,) = here.said("escalation")
        assert question["exception"]["text"].startswith("unresolved: ")
        await here.settled()
        assert here.ends()[after] == ["stale"], "the entity goes on: what it finds is what the lost call left"

    execution(scenario)


def test_nobody_waits_for_an_answer_for_ever_however_far_the_deadline_is():
    async def scenario(here: Execution) -> None:
        here.begin_behind()
        name = here.execute(expires_at=_at(here.guard.now_ms() + 10 * 86_400_000))
        here.adapter.script[name] = ["lose"]
        here.adapter.deaf[name] = 10**6
        here.open()
        await asyncio.sleep(ASK_MS_MAX / 1000 - 10)
        assert here.said("results") == []
        await asyncio.sleep(30)
        assert here.ends() == {name: ["unresolved"]}

    execution(scenario)


@pytest.mark.parametrize("commit", ["before", "after"])
@pytest.mark.behaviour("I2", "I8")
def test_a_crash_between_the_call_and_the_commit_is_asked_about_and_not_called_twice(commit: str):
    async def scenario(here: Execution) -> None:
        here.begin_behind()
        first = here.execute(changes=bid("cmp-1"))
        second = here.execute(changes=bid("cmp-1", "1.21", "1.22"))

        async def stuck() -> None:
            await asyncio.sleep(3_600)

        here.open()
        while not here.commits:  # noqa: ASYNC110  the markers are passed over
            await asyncio.sleep(0)
        if commit == "before":
            here.before_commit = stuck
        else:
            here.after_commit = stuck
        await asyncio.sleep(1.0)
        await here.crash()
        here.before_commit = here.after_commit = _nothing
        here.open()
        await here.settled()
        assert here.ends() == {first: ["executed"], second: ["executed"]}
        assert here.adapter.times == {first: 1, second: 1}
        assert here.adapter.calls == [first, second]
        assert here.adapter.read_backs[:1] == ([first] if commit == "before" else [second])

    execution(scenario)


async def _nothing() -> None:
    pass


def test_what_a_predecessor_may_have_called_is_asked_about_before_it_is_refused_for_anything_else():
    """It ran, and its time was over, and a switch covers it now: it ran all the same."""

    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["apply and hang"]
        here.open()
        await asyncio.sleep(1.0)
        await here.crash()
        here.commands.engage("global:*")
        await asyncio.sleep(GRACE_S)
        here.open()
        await here.settled()
        assert here.ends() == {name: ["executed"]}
        (result,) = here.said("results")
        assert result["called"] is None, "nobody knows when it was called"

    execution(scenario)


# --- kill switches and open calls -------------------------------------------------------------------------------------


@pytest.mark.behaviour("E15")
def test_a_halt_cuts_an_open_call_off_and_parks_it_when_it_is_sure_that_it_did_not_arrive():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["hang"]
        here.open()
        await asyncio.sleep(1.0)
        assert here.guard.doing().calls == 1
        engaged = here.commands.engage("global:*")
        applied = now_s()
        await asyncio.sleep(HALT_CUT_S + WATCH_S + 0.001)
        assert (here.adapter.open, here.guard.doing().calls_epoch) == (0, None)
        assert here.said("held") == [], "what was sent may still arrive"
        await here.settled(5.0)
        assert here.ends() == {name: ["held"]}
        (held,) = here.said("held")
        assert held["parked"]["switches"] == [engaged]
        assert now_s() - applied > SETTLED_S

    execution(scenario)


def test_a_call_that_was_cut_off_and_arrives_after_all_is_found_out():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["hang until late"]
        here.open()
        await asyncio.sleep(0.1)
        here.commands.engage("global:*")
        await here.settled(5.0)
        assert here.ends() == {name: ["executed"]}
        assert here.adapter.times == {name: 1}

    execution(scenario)


@pytest.mark.parametrize(
    ("mode", "after", "epoch_moves"),
    [
        (Mode.REVIEW_ALL, "1.21", False),
        (Mode.REDUCE_ONLY, "1.21", False),
        (Mode.REDUCE_ONLY, "1.19", True),
    ],
)
@pytest.mark.behaviour("E15")
def test_other_modes_let_an_open_call_end_and_the_acks_tell_whether_it_stands_in_the_way(
    mode: Mode, after: str, epoch_moves: bool
):
    async def scenario(here: Execution) -> None:
        name = here.execute(changes=bid("cmp-1", "1.20", after))
        here.adapter.script[name] = ["apply and hang"]
        here.open()
        await asyncio.sleep(1.0)
        began = here.guard.epoch
        engaged = here.commands.engage("global:*", mode=mode)
        await asyncio.sleep(1.0)
        assert here.guard.doing()[2:4] == (1, engaged if epoch_moves else began)
        await here.settled(CALL_S_MAX)
        assert here.ends() == {name: ["executed"]}

    execution(scenario)


def test_a_call_elsewhere_does_not_stand_in_the_way_of_a_halt():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["apply and hang"]
        here.open()
        await asyncio.sleep(1.0)
        engaged = here.commands.engage("tenant:other")
        await asyncio.sleep(2 * WATCH_S)
        assert here.guard.doing()[2:4] == (1, engaged)
        assert here.adapter.open == 1

    execution(scenario)


def test_calls_that_began_between_a_switchs_append_and_its_arrival_are_counted_once():
    async def scenario(here: Execution) -> None:
        for n in range(4):
            name = here.execute(changes=bid(f"cmp-{n}"))
            here.adapter.script[name] = ["apply and hang"]
        here.open()
        await asyncio.sleep(0.5)
        here.commands.at_ms = here.guard.now_ms() - 5_000  # appended before they began, and read only now
        here.commands.engage("campaign:cmp-0", "campaign:cmp-1")
        await here.settled(CALL_S_MAX + 5)
        assert here.seen.offences == 2

    execution(scenario)


def test_calls_that_began_before_a_switch_are_no_offence():
    async def scenario(here: Execution) -> None:
        name = here.execute()
        here.adapter.script[name] = ["apply and hang"]
        here.open()
        await asyncio.sleep(0.5)
        here.commands.at_ms = here.guard.now_ms()
        here.commands.engage("global:*")
        await here.settled(CALL_S_MAX + 5)
        assert here.seen.offences == 0

    execution(scenario)


BROKEN = "hitl_stream.roles.executor.gate"


def _lets_everything_run(*arguments: Any, **options: Any) -> Run:
    return RUN


@pytest.mark.behaviour("C2")
def test_a_call_that_a_broken_gate_lets_begin_under_an_effective_switch_is_counted_said_and_stops_everything(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(BROKEN, _lets_everything_run)

    async def scenario(here: Execution) -> None:
        here.execute(changes=bid("cmp-1"))
        here.execute(changes=bid("cmp-2"))
        here.effective = here.commands.engage("campaign:cmp-1")
        here.open()
        with capture_logs() as logs:
            await here.settled()
        assert (here.seen.breaches, here.seen.offences, here.alarms) == (1, 0, 1)
        (said,) = [line for line in logs if "gate is broken" in line["event"]]
        assert (said["log_level"], said["after"], said["switch"]) == ("error", "effective", here.effective)
        assert (said["action_id"], said["scope"]) == ("act-1", "campaign:cmp-1")

    execution(scenario)


def test_under_a_switch_that_was_applied_but_not_yet_effective_it_is_counted_and_nothing_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(BROKEN, _lets_everything_run)

    async def scenario(here: Execution) -> None:
        here.execute(changes=bid("cmp-1"))
        here.effective = here.commands.engage("campaign:cmp-9")
        here.commands.engage("campaign:cmp-1")
        here.open()
        await here.settled()
        assert (here.seen.breaches, here.seen.offences, here.alarms) == (0, 1, 0)

    execution(scenario)


@pytest.mark.parametrize(
    ("mode", "after", "breaches"),
    [(Mode.REVIEW_ALL, "1.21", 1), (Mode.REDUCE_ONLY, "1.21", 1), (Mode.REDUCE_ONLY, "1.10", 0)],
)
def test_what_a_mode_lets_through_is_no_breach_of_it(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, after: str, breaches: int
):
    """The broken gate has looked what stands on the platform, and then lets everything run."""
    monkeypatch.setattr(BROKEN, lambda *arguments, **options: LOOK if arguments[7] is None else RUN)

    async def scenario(here: Execution) -> None:
        here.execute(changes=bid("cmp-1", "1.20", after))
        here.effective = here.commands.engage("campaign:cmp-1", mode=mode)
        here.open()
        await here.settled()
        assert (here.seen.breaches, here.alarms) == (breaches, breaches)

    execution(scenario)


@pytest.mark.parametrize("mode", list(Mode))
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_a_gate_that_is_whole_never_breaches_whatever_is_engaged_and_released(mode: Mode, data: st.DataObject):
    async def scenario(here: Execution) -> None:
        here.open()
        for _ in range(data.draw(st.integers(1, 12))):
            match data.draw(st.sampled_from(["execute", "lower", "engage", "release", "wait"])):
                case "execute":
                    here.execute(changes=bid(f"cmp-{data.draw(st.integers(1, 2))}"))
                case "lower":
                    here.execute(changes=bid(f"cmp-{data.draw(st.integers(1, 2))}", "1.20", "1.19"))
                case "engage":
                    here.commands.at_ms = max(here.commands.at_ms, here.guard.now_ms())
                    here.effective = here.commands.engage(f"campaign:cmp-{data.draw(st.integers(1, 2))}", mode=mode)
                case "release" if here.executor.control.switches.engaged:
                    here.commands.release(*here.executor.control.switches.engaged)
                case _:
                    await asyncio.sleep(data.draw(st.sampled_from([0.0, 0.01, 0.03])))
        await here.settled()
        assert (here.seen.breaches, here.alarms) == (0, 0)

    execution(scenario)


def test_a_burst_of_lost_answers_is_told_in_two_lines():
    async def scenario(here: Execution) -> None:
        names = [here.execute(changes=bid(f"cmp-{n}")) for n in range(40)]
        for name in names:
            here.adapter.script[name] = ["lose"]
        with capture_logs() as logs:
            here.open()
            await here.settled()
            await asyncio.sleep(EVERY_S)
            here.execute(changes=bid("cmp-99"))
            await here.settled()
        unknown = [line["times"] for line in logs if line["event"] == "outcome unknown"]
        raised = [line["times"] for line in logs if line["event"] == "adapter raised"]
        assert unknown == raised == [1, 39]
        assert here.seen.unknowns == 40

    execution(scenario)


# --- the adapter as a service -----------------------------------------------------------------------------------------


class Opening(FakeAdapter):
    """An adapter with something to open."""

    def __init__(self, trouble: Exception | None = None) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.trouble = trouble

    async def __aenter__(self) -> Any:
        self.seen.append("entered")
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.seen.append("left")
        if self.trouble is not None:
            raise self.trouble


@pytest.mark.parametrize("trouble", [None, OSError("gone")])
def test_an_adapter_is_entered_before_the_first_call_and_left_after_the_last(trouble: Exception | None):
    async def scenario() -> None:
        adapter = Opening(trouble)
        service = AdapterService(adapter)
        await service.start()
        assert adapter.seen == ["entered"]
        await service.stop()
        assert adapter.seen == ["entered", "left"]

    within(scenario())


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("I8")
def test_decisions_of_one_entity_take_effect_in_their_order_whatever_fails_on_the_way():
    async def scenario(here: Execution) -> None:
        names: list[str] = []
        hows: Sequence[str] = ("ok", "lose", "not now", "raise", "fail", "hang", "apply and hang")
        for n in range(70):
            value = f"1.2{n:03}"
            name = here.execute(
                type="draft.internal", agent={"id": "copy-2"}, confidence=..., changes=bid(f"cmp-{n % 5}", "1", value)
            )
            here.adapter.script[name] = [hows[n % len(hows)]]
            names.append(name)
        here.open()
        await asyncio.sleep(3.0)
        for _ in range(6):
            await here.crash()
            here.open()
            await asyncio.sleep(7.0)
        await here.settled(60.0)
        assert set(here.ends()) == set(names)
        assert {tuple(end) for end in here.ends().values()} <= {("executed",), ("failed",)}
        assert set(here.adapter.times.values()) == {1}
        for campaign in range(5):
            mine = [name for n, name in enumerate(names) if n % 5 == campaign]
            happened = [name for name in here.adapter.order if name in mine]
            assert happened == sorted(happened, key=mine.index)

    execution(scenario)
