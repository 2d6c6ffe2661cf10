"""Without control, nothing is stopped."""

from __future__ import annotations

import asyncio

from hitl_stream.lane.guard import Guard, Unguarded


def test_without_control_the_epoch_is_none_and_nothing_is_stopped():
    guard: Guard = Unguarded()
    asyncio.run(guard.catch_up())
    asyncio.run(guard.allowed())

    assert guard.epoch == -1
    assert guard.may_emit()
    assert not guard.stops(-1)


def test_without_control_the_time_is_that_of_the_newest_record():
    guard = Unguarded()
    assert guard.now_ms() == 0

    guard.observe(5_000_000)

    assert guard.now_ms() >= 5_000_000
