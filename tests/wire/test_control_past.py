"""What control had said before: the policies that were in force, and who released which switch."""

from __future__ import annotations

from typing import Any

from hitl_stream.core.commands import Confirm, Engage, PolicyChange, ReleaseRequest
from hitl_stream.core.control import RELEASE_MS_MIN
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.wire.control_past import ControlPast, Release
from support.signed import ANA, BEN, CLUSTER, CONTROL, FIRST, NOW_MS, TRUST, signed


def past() -> ControlPast:
    log = ControlPast(CLUSTER, TRUST)
    assert log.take(0, NOW_MS, FIRST) is None
    return log


def take(log: ControlPast, offset: int, at_ms: int, *command: Any, **fields: Any) -> Rejection | None:
    return log.take(offset, at_ms, signed(*command, iat=at_ms // 1000, **fields))


def engage(log: ControlPast, offset: int, scope: str = "campaign:c", **fields: Any) -> None:
    assert take(log, offset, NOW_MS, ANA, Engage, scope=(scope,), mode=Mode.HALT, **fields) is None


def test_a_release_says_who_asked_and_who_confirmed():
    log = past()
    for epoch in (1, 2, 3):
        engage(log, epoch)
    take(log, 5, NOW_MS, ANA, ReleaseRequest, epochs=(1, 2), reason="mended")
    later = NOW_MS + RELEASE_MS_MIN
    assert take(log, 9, later, BEN, Confirm, of=5) is None

    release = Release(9, later, "ben", "ana", NOW_MS, "mended")
    assert log.releases == {1: release, 2: release}
    assert log.control.switches.all[1].released == 9


def test_a_release_that_was_refused_is_none():
    log = past()
    engage(log, 1)
    take(log, 2, NOW_MS, ANA, ReleaseRequest, epochs=(1,), reason="mended")
    assert take(log, 3, NOW_MS + 1, BEN, Confirm, of=2) is Rejection.TOO_SOON
    assert take(log, 4, NOW_MS + RELEASE_MS_MIN, ANA, Confirm, of=2) is Rejection.SAME_HOLDER
    assert log.releases == {}


def test_a_drill_is_released_by_a_service_at_once():
    log = past()
    engage(log, 1, "tenant:drill", source="drill")
    assert take(log, 2, NOW_MS, CONTROL, ReleaseRequest, epochs=(1,), reason="over") is None
    assert log.releases[1] == Release(2, NOW_MS, "control", "control", NOW_MS, "over")


def test_every_policy_that_was_promoted_is_remembered():
    log = past()
    for number, (offset, digest) in enumerate([(1, "a" * 64), (3, "b" * 64)]):
        at_ms = NOW_MS + number * 1_000
        take(log, offset, at_ms, ANA, PolicyChange, text="x", digest=digest, reason="r")
        assert log.policies == [(2, "a" * 64)][:number]
        assert take(log, offset + 1, at_ms, BEN, Confirm, of=offset) is None
    assert [digest for _, digest in log.policies] == ["a" * 64, "b" * 64]
    assert [epoch for epoch, _ in log.policies] == [2, 4]
