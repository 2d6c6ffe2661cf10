"""An executor lets run what people approved, closes what they did not, and knows nobody but the desk who may say so."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from hitl_stream.core.events import Mode
from hitl_stream.lane.step import Output
from hitl_stream.roles.approvals import HumanApprovals
from hitl_stream.wire import records
from hitl_stream.wire.approved import approved_value
from hitl_stream.wire.desk_records import GivenRow
from hitl_stream.wire.records import Routed, head_of, time_text
from hitl_stream.wire.seal import SEAL_HEADER, SealKey
from hitl_stream.wire.signing import sign
from support.execution import Execution, execution
from support.make import DESK_KEY, SEAL_KEY, change
from support.people import CLUSTER, CONSOLE_KEY, KEYS, sealed_record, words

OTHER_KEY = SealKey("d1", b"\x09" * 32)


def staffed(here: Execution) -> Execution:
    """Let the executor know the desk's key and the people whose keys control lists."""
    here.commands.control.keys.update(KEYS)
    here.executor.approvals = HumanApprovals(
        here.topics,
        {DESK_KEY.key_id: DESK_KEY},
        {SEAL_KEY.key_id: SEAL_KEY},
        here.policies,
        lambda: CLUSTER,
        here.guard.now_ms,
    )
    return here


def approved(
    here: Execution, by: str = "tess", key: SealKey = DESK_KEY, *, ahead: int = 0, **parts: Any
) -> tuple[Output, str]:
    """Let the router ask for a bid that is too much for the machine, and a trader approve it; return record and id.

    `ahead`: by so many epochs the desk has read on in control.
    """
    output = here.decide(**{"changes": [change("1.20", "1.80")]} | parts)
    assert output.topic == "hitl.review"
    assert output.value is not None
    decision = records.decode_decision(output.value)
    now_ms = here.guard.now_ms()
    time = datetime.fromtimestamp(now_ms / 1000, UTC)
    times = {"iat": now_ms // 1000, "exp": now_ms // 1000 + 900, "painted": time, "decided": time}
    said = words(by=by, hash=decision.hash, **times)
    value = approved_value(
        Routed(
            topic=output.topic, head=head_of(output.value).decode(), seal=dict(output.headers)[SEAL_HEADER].decode()
        ),
        decision,
        bytes(decision.action),
        by=[by],
        given=[GivenRow(sign(CONSOLE_KEY, said).decode(), time_text(now_ms))],
        moment_ms=now_ms,
        epoch=here.guard.epoch + ahead,
        execute_by_ms=records.execute_by_ms(decision),
    )
    sealed = sealed_record(value, key)
    return msgspec.structs.replace(output, value=value, headers=list(sealed.headers)), decision.action_id


@pytest.mark.behaviour("A2")
def test_what_a_trader_approved_is_carried_out_once_and_names_the_trader() -> None:
    async def scenario(here: Execution) -> None:
        output, name = approved(staffed(here))
        here.put(output)
        here.put(output)
        here.open()
        await here.settled()
        (result,) = here.said("results")
        assert (result["status"], result["by"]) == ("executed", ["tess"])
        assert here.adapter.times == {name: 1}

    execution(scenario)


@pytest.mark.behaviour("A2", "E3")
@pytest.mark.parametrize("by", ["dana", "monitor"])
def test_what_nobody_who_may_has_approved_is_closed_without_a_call(by: str) -> None:
    """Dana answers for the agent; the monitor is no person."""

    async def scenario(here: Execution) -> None:
        output, name = approved(staffed(here), by)
        here.put(output)
        here.open()
        await here.settled()
        (closed,) = here.said("closed")
        assert (closed["action_id"], closed["end"], closed["why"]) == (name, "refused", "unsealed")
        assert closed["reasons"][-1]["saw"].count(by) == 1
        assert here.adapter.calls == []

    execution(scenario)


@pytest.mark.parametrize(("comes", "ends"), [(True, ["executed"]), (False, ["unsealed"])])
def test_an_approval_by_a_key_that_is_listed_since_is_read_anew_once_control_is_read_so_far(
    comes: bool, ends: list[str]
) -> None:
    async def scenario(here: Execution) -> None:
        output, name = approved(staffed(here), ahead=2)
        here.commands.control.keys.clear()
        here.put(output)
        here.open()
        await asyncio.sleep(1.0)
        assert (here.adapter.calls, here.ends()) == ([], {})
        if comes:
            here.commands.control.keys.update(KEYS)
            here.commands.nothing()
        await here.settled(5.0)
        assert here.ends() == {name: ends}

    execution(scenario)


def test_a_forged_approval_does_not_end_the_good_one_behind_it() -> None:
    async def scenario(here: Execution) -> None:
        output, name = approved(staffed(here))
        value = (output.value or b"").replace(b'"by":["tess"]', b'"by":["tosh"]')
        here.put(msgspec.structs.replace(output, value=value, headers=list(sealed_record(value).headers)))
        here.put(output)
        here.open()
        await here.settled()
        assert here.ends() == {name: ["executed", "unsealed"]}

    execution(scenario)


def test_what_no_desk_has_sealed_is_a_dead_letter() -> None:
    async def scenario(here: Execution) -> None:
        output, _ = approved(staffed(here), key=OTHER_KEY)
        here.put(output)
        here.open()
        await here.settled()
        (letter,) = here.written["hitl.dlq"]
        assert dict(letter.headers)["hitl-error"] == b"seal"
        assert here.ends() == {}
        assert here.adapter.calls == []

    execution(scenario)


@pytest.mark.parametrize(("mode", "end"), [(Mode.HALT, ["held"]), (Mode.REVIEW_ALL, ["executed"])])
def test_a_switch_that_stops_everything_stops_what_people_approved_too(mode: Mode, end: list[str]) -> None:
    """Engaged between approval and call. Under REVIEW_ALL a person has looked at it already."""

    async def scenario(here: Execution) -> None:
        output, name = approved(staffed(here))
        here.commands.engage("campaign:cmp-204", mode=mode)
        here.put(output)
        here.open()
        await here.settled()
        assert here.ends() == {name: end}

    execution(scenario)


def test_a_key_that_control_lists_only_later_is_known_by_then() -> None:
    """Keys are those of the moment at which the record is read."""

    async def scenario(here: Execution) -> None:
        output, name = approved(staffed(here))
        del here.commands.control.keys["console-1"]
        here.open()
        here.commands.control.keys.update(KEYS)
        here.put(output)
        await here.settled()
        assert here.ends() == {name: ["executed"]}

    execution(scenario)
