"""The control log as the console knows it: it says why nothing can be signed."""

from __future__ import annotations

import pytest

from hitl_stream.console import watch as watch_module
from hitl_stream.console.watch import OLD_MS_MAX, ControlWatch
from hitl_stream.wire.topics import TopicSet
from support.console import keys
from support.make import acme

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
