"""What a switch did not stop: which calls offend, each once, and the alarm that stops everything."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from structlog.testing import capture_logs

from hitl_stream.core.action import entity_of
from hitl_stream.core.errors import RefusedError, UnreachableError
from hitl_stream.core.events import After, Mode
from hitl_stream.core.gate import Permit
from hitl_stream.core.switches import target_of
from hitl_stream.roles.offences import REFUSED_S, RETRY_S, TRIES_MAX, Alarm, Begun, Offences
from support.guard import Commands
from support.make import NOW_MS, change, make_action
from support.virtual import now_s, virtually


def call(epoch: int = 0, at_ms: int = NOW_MS, campaign: str = "cmp-7", by: tuple[str, ...] | None = None) -> Begun:
    action = make_action(changes=[change(campaign=campaign)])
    permit = Permit(epoch=0, policy="d" * 64, execute_by_ms=NOW_MS + 60_000, by=by)
    return Begun(at_ms, epoch, permit, action, target_of(action, "acme", entity_of(action)), ("1.20",))


# --- which calls offend -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("behind", "after"), [(0, After.EFFECTIVE), (1, After.APPEND)])
def test_a_call_under_a_switch_that_is_known_here_offends_at_once(behind: int, after: After) -> None:
    commands = Commands()
    epoch = commands.engage("campaign:cmp-7")
    offences = Offences(commands.control, lambda: epoch - behind)

    found = offences.begun(call())

    assert found is not None
    assert (found.switch.epoch, found.after) == (epoch, after)
    commands.engage("global:*")
    assert offences.found(NOW_MS) == 0, "it was counted already"


def test_of_several_switches_the_one_that_is_effective_counts() -> None:
    commands = Commands()
    effective = commands.engage("campaign:cmp-7")
    commands.engage("global:*")
    found = Offences(commands.control, lambda: effective).begun(call())
    assert found is not None
    assert (found.switch.epoch, found.after) == (effective, After.EFFECTIVE)


def test_what_no_switch_stops_any_more_does_not_offend() -> None:
    commands = Commands()
    epoch = commands.engage("campaign:cmp-7")
    commands.engage("campaign:cmp-8")
    commands.engage("campaign:cmp-7", mode=Mode.REVIEW_ALL)
    commands.release(epoch)
    offences = Offences(commands.control, lambda: commands.control.epoch)
    assert offences.begun(call(by=("ana",))) is None
    assert offences.begun(call()) is not None


def test_without_a_word_of_control_nothing_is_effective() -> None:
    commands = Commands()
    commands.engage("campaign:cmp-7")
    found = Offences(commands.control).begun(call())
    assert found is not None
    assert found.after is After.APPEND


# --- the alarm --------------------------------------------------------------------------------------------------------


class Host:
    """Appends a HALT, unless it is in trouble."""

    def __init__(self) -> None:
        self.commands = Commands()
        self.tries: list[tuple[str, float]] = []
        self.trouble: list[Exception] = []

    async def __call__(self, jti: str) -> int:
        self.tries.append((jti, now_s()))
        await asyncio.sleep(0.01)
        if self.trouble:
            raise self.trouble.pop(0)
        return self.commands.engage("global:*")


def ringing(scenario: Callable[[Host, Alarm], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        host = Host()
        alarm = Alarm(host, host.commands.control)
        await alarm.start()
        try:
            await scenario(host, alarm)
        finally:
            await alarm.stop()

    virtually(whole())


@pytest.mark.behaviour("C2")
def test_the_alarm_engages_one_halt_however_often_it_is_rung() -> None:
    async def scenario(host: Host, alarm: Alarm) -> None:
        with capture_logs() as logs:
            for _ in range(5):
                alarm.ring()
                await asyncio.sleep(0.005)
            await asyncio.sleep(60.0)
            alarm.ring()
            await asyncio.sleep(60.0)
        assert [one.scope for one in host.commands.control.switches.engaged.values()] == [("global:*",)]
        assert len(host.tries) == 1
        assert [line["log_level"] for line in logs] == ["critical"]

    ringing(scenario)


def test_nothing_is_engaged_while_nobody_rings() -> None:
    async def scenario(host: Host, alarm: Alarm) -> None:
        await asyncio.sleep(60.0)
        assert host.tries == []

    ringing(scenario)


def test_it_tries_again_under_the_same_id_until_the_halt_is_appended() -> None:
    async def scenario(host: Host, alarm: Alarm) -> None:
        host.trouble = [UnreachableError("no broker"), RefusedError("no key"), TimeoutError()]
        with capture_logs() as logs:
            alarm.ring()
            await asyncio.sleep(REFUSED_S + 10 * RETRY_S)
        assert len({jti for jti, _ in host.tries}) == 1
        times = [at for _, at in host.tries]
        waits = [round(later - earlier, 1) for earlier, later in itertools.pairwise(times)]
        assert waits == [RETRY_S, REFUSED_S, RETRY_S]
        assert [line["log_level"] for line in logs] == ["error"] * 3 + ["critical"]
        assert len(host.commands.control.switches.engaged) == 1

    ringing(scenario)


def test_it_gives_up_one_alarm_at_last_and_answers_the_next() -> None:
    async def scenario(host: Host, alarm: Alarm) -> None:
        host.trouble = [UnreachableError("no broker") for _ in range(TRIES_MAX)]
        alarm.ring()
        await asyncio.sleep(TRIES_MAX * (RETRY_S + 1))
        assert (len(host.tries), alarm.engaged) == (TRIES_MAX, None)
        alarm.ring()
        await asyncio.sleep(RETRY_S)
        assert alarm.engaged is not None

    ringing(scenario)


def test_once_people_have_released_its_halt_it_engages_another_under_another_id() -> None:
    async def scenario(host: Host, alarm: Alarm) -> None:
        alarm.ring()
        await asyncio.sleep(RETRY_S)
        assert alarm.engaged is not None
        host.commands.release(alarm.engaged)
        alarm.ring()
        await asyncio.sleep(RETRY_S)
        assert len({jti for jti, _ in host.tries}) == 2
        assert len(host.commands.control.switches.engaged) == 1

    ringing(scenario)
