"""When switches were EFFECTIVE: what heartbeats tell, what they cannot tell any more, and which bound holds."""

from __future__ import annotations

import pytest

from hitl_stream.core.commands import Contained, Heartbeat, Waiting
from hitl_stream.core.effects import CUT_OFF_MS, WITHIN_MS, Effects, figure_of
from hitl_stream.core.events import Mode
from hitl_stream.core.ledger import Figure
from hitl_stream.core.switches import Switch

AT_MS = 100_000
"""Append time of switch 7."""


def switch(epoch: int = 7, at_ms: int = AT_MS) -> Switch:
    return Switch(epoch, ("global:*",), Mode.HALT, "ana", at_ms)


def beat(effective: int, waiting_s: float | None = None, contained: bool = False) -> Heartbeat:
    return Heartbeat(
        aud="c", kid="control-1", iss="control", jti="j", iat=1, exp=2, seq=1, control="h/control/0", epoch=9,
        digest="0" * 64, acks={}, effective=effective,
        waiting=() if waiting_s is None else (Waiting(instance="h/router/0", since_s=waiting_s),),
        contained=(Contained(epoch=7, instance="h/executor/0", calls=1),) if contained else (),
    )  # fmt: skip


def heard(*beats: tuple[int, Heartbeat], complete: bool = False, switches: tuple[Switch, ...] = (switch(),)) -> Effects:
    """Return the fold of heartbeats, given as (milliseconds after the append, heartbeat)."""
    effects = Effects(switches, complete=complete)
    for after_ms, one in beats:
        effects.heard(AT_MS + after_ms, one)
    return effects


def every(until_ms: int, effective: int = 6, **parts: object) -> list[tuple[int, Heartbeat]]:
    """Return a heartbeat each 250 ms, from before the append until then."""
    return [(ms, beat(effective, **parts)) for ms in range(-250, until_ms, 250)]  # type: ignore[arg-type]


def faults(effects: Effects) -> list[str]:
    return [fault for _, fault in effects.judged() if fault is not None]


def test_a_switch_is_effective_with_the_first_heartbeat_that_says_so():
    effects = heard((-250, beat(6)), (100, beat(6)), (350, beat(7)), (600, beat(9)))
    (effect,) = effects.all()
    assert (effect.at_ms, effect.exact, effect.took_ms) == (AT_MS + 350, True, 350)
    assert effects.figure() == Figure(1, 350, 350, 350)


def test_of_a_switch_older_than_the_heartbeats_only_the_latest_time_is_known():
    effects = heard((50_000, beat(9)))
    (effect,) = effects.all()
    assert (effect.at_ms, effect.exact, effect.took_ms) == (AT_MS + 50_000, False, None)
    assert effects.judged() == []
    assert effects.figure() is None


def test_where_no_heartbeat_was_deleted_the_first_one_is_exact():
    (effect,) = heard((400, beat(9)), complete=True).all()
    assert effect.took_ms == 400


def test_each_of_several_switches_has_its_own_time():
    effects = heard(*every(600), (600, beat(7)), (850, beat(8)), switches=(switch(7), switch(8, AT_MS + 500)))
    assert [effect.took_ms for effect in effects.all()] == [600, 350]


@pytest.mark.parametrize(
    ("took_ms", "parts", "broken"),
    [
        (WITHIN_MS, {}, False),
        (WITHIN_MS + 250, {}, True),
        (WITHIN_MS + 250, {"waiting_s": 0.2}, True),
        (WITHIN_MS + 250, {"waiting_s": 0.6}, False),
        (CUT_OFF_MS, {"waiting_s": 0.6}, False),
        (CUT_OFF_MS + 250, {"waiting_s": 0.6}, True),
        (60_000, {"contained": True}, False),
    ],
)
def test_its_bound_is_longer_where_somebody_was_cut_off_and_none_while_contained(
    took_ms: int, parts: dict[str, object], broken: bool
):
    effects = heard(*every(took_ms, **parts), (took_ms, beat(7)))
    assert bool(faults(effects)) is broken


@pytest.mark.parametrize(("until_ms", "broken"), [(WITHIN_MS, False), (WITHIN_MS + 500, True)])
def test_one_that_is_not_effective_yet_breaks_its_bound_when_its_time_is_over(until_ms: int, broken: bool):
    assert bool(faults(heard(*every(until_ms)))) is broken


def test_while_control_was_silent_no_lease_held_and_no_bound_holds():
    effects = heard((-250, beat(6)), (60_000, beat(6)), (60_250, beat(7)))
    assert faults(effects) == []
    (effect,) = effects.all()
    assert effect.silent
    assert heard((400_000, beat(7)), complete=True).judged()[0][0].silent


def test_a_switch_that_no_heartbeat_followed_is_not_judged():
    assert heard((-250, beat(6))).judged() == []
    assert heard().judged() == []


def test_only_heartbeats_that_can_tell_something_are_wanted():
    effects = Effects((switch(),))
    assert not effects.wants(AT_MS - 1)
    effects.passed_over(AT_MS - 250)
    assert effects.wants(AT_MS)
    effects.heard(AT_MS + 250, beat(7))
    assert not effects.wants(AT_MS + 500)
    assert [effect.took_ms for effect in effects.all()] == [250]


def test_a_figure_is_of_real_times():
    assert figure_of([]) is None
    assert figure_of([30, 10, 20]) == Figure(3, 20, 30, 30)
    assert figure_of(range(1, 1001)) == Figure(1000, 500, 990, 1000)
