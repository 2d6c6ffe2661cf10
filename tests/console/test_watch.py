"""The control log as the console knows it: it says why nothing can be signed."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.console import watch as watch_module
from hitl_stream.console.watch import OLD_MS_MAX, TOOK_MAX, ControlWatch
from hitl_stream.core.commands import Heartbeat
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Switch
from hitl_stream.lane.heartbeats import Beat
from hitl_stream.wire.topics import TopicSet
from support.console import keys
from support.make import NOW_MS, acme
from support.signed import CONTROL, claims

START_MS = 1_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A steady clock that a test sets."""
    now = [START_MS]
    monkeypatch.setattr(watch_module, "steady_ms", lambda: now[0])
    return now


def watching(key_id: str = "console-1") -> ControlWatch:
    return ControlWatch({}, TopicSet(), "0" * 64, acme(), key_id)


def test_before_control_was_read_nothing_can_be_signed(clock: list[int]):
    assert watching().missing() == "control was not read yet"


@pytest.mark.parametrize(("later_ms", "missing"), [(OLD_MS_MAX, False), (OLD_MS_MAX + 1, True)])
def test_what_was_read_too_long_ago_may_have_changed(clock: list[int], later_ms: int, missing: bool):
    watch = watching()
    watch.control.keys = keys()
    watch._looked_ms, watch._trouble = START_MS, ""
    clock[0] += later_ms

    assert bool(watch.missing()) is missing


def test_a_key_that_control_does_not_list_signs_nothing(clock: list[int]):
    watch = watching("console-2")
    watch.control.keys = keys()
    watch._looked_ms = START_MS

    assert "does not list the key console-2" in watch.missing()


def test_the_policy_is_that_of_the_file_until_one_is_promoted(clock: list[int]):
    assert watching().policy(0).digest == acme().digest


# --- how long a switch took -------------------------------------------------------------------------------------------


def beat(effective: int, at_ms: int) -> Beat:
    said: dict[str, Any] = {"seq": 1, "control": "c", "epoch": effective, "digest": "0" * 64, "acks": {}}
    return Beat(Heartbeat(**claims(CONTROL), **said, effective=effective), at_ms, True)


def engaged(watch: ControlWatch, epoch: int, at_ms: int = NOW_MS) -> None:
    watch.control.switches.engage(Switch(epoch, ("tenant:acme",), Mode.HALT, "ana", at_ms))


def test_a_switch_took_until_the_first_heartbeat_that_proves_it():
    watch = watching()
    watch._note([beat(4, NOW_MS - 250)])
    engaged(watch, 5, NOW_MS)
    engaged(watch, 6, NOW_MS + 100)
    watch._note([beat(4, NOW_MS + 50), beat(5, NOW_MS + 300), beat(6, NOW_MS + 550), beat(6, NOW_MS + 800)])

    assert (watch.took_ms(5), watch.took_ms(6), watch.took_ms(4)) == (300, 450, None)


def test_of_a_switch_that_was_proved_before_nobody_can_tell_how_long_it_took():
    watch = watching()
    engaged(watch, 5)
    watch._note([beat(5, NOW_MS + 60_000)])

    assert watch.took_ms(5) is None


def test_it_remembers_so_many_the_newest():
    watch = watching()
    watch._note([beat(0, NOW_MS)])
    for epoch in range(1, TOOK_MAX + 3):
        engaged(watch, epoch)
    watch._note([beat(TOOK_MAX + 2, NOW_MS + 90)])

    assert (watch.took_ms(2), watch.took_ms(3)) == (None, 90)


def test_before_anything_was_heard_the_picture_says_that_nobody_speaks(clock: list[int]):
    watch = watching()
    clock[0] += 2_500
    picture = watch.picture()

    assert (picture.heard, picture.silent_ms, dict(picture.instances.latest)) == (False, 2_500, {})
