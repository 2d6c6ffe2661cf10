"""The seam to control: without one, nothing is stopped."""

from __future__ import annotations

import asyncio

from hitl_stream.lane.control_view import ControlView, NoControl
from hitl_stream.lane.step import Output


def test_without_control_the_epoch_is_none_and_nothing_is_stopped():
    view: ControlView = NoControl()
    asyncio.run(view.catch_up())

    assert view.epoch == -1
    assert not view.stops(-1, [Output("execute", 0, b"k", b"v")])
