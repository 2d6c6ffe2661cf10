"""What the lane asks of control: the newest epoch applied, and whether something engaged since stops a batch.

A seam: kill switches put the folded control log behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hitl_stream.lane.step import Output


class ControlView(Protocol):
    """The control log as this process has applied it."""

    @property
    def epoch(self) -> int:
        """Return the offset of the last command applied, −1 before there is one."""

    async def catch_up(self) -> None:
        """Read `control` to a high watermark taken now."""

    def stops(self, epoch: int, outputs: Sequence[Output]) -> bool:
        """Say whether anything engaged after `epoch` covers one of these outputs."""


class NoControl:
    """A view of a control log that does not exist yet: nothing is ever stopped."""

    epoch = -1

    async def catch_up(self) -> None:
        """Have nothing to read."""

    def stops(self, epoch: int, outputs: Sequence[Output]) -> bool:
        """Stop nothing."""
        return False
