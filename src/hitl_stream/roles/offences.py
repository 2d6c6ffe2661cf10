"""Counting what a kill switch did not stop in time: calls begun after it was appended and before we had read it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from hitl_stream.core.action import Action, Value
from hitl_stream.core.control import Control
from hitl_stream.core.gate import Permit, permits
from hitl_stream.core.switches import Target

REMEMBER_MS = 5_000
"""A command is read far sooner; whoever reads it later has no lease meanwhile, and begins nothing."""
CALLS_MAX = 10_000


class Begun(Struct, frozen=True):
    """A call, as it was when it began. `at_ms` is control time."""

    at_ms: int
    epoch: int
    permit: Permit
    action: Action
    target: Target
    present: Sequence[Value | None] | None


class Offences:
    """The calls of the last seconds, compared with each switch that comes to be known."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._looked_at = control.epoch
        self._calls: deque[Begun] = deque(maxlen=CALLS_MAX)

    def begun(self, call: Begun) -> None:
        """Take in a call."""
        self._calls.append(call)

    def found(self, now_ms: int) -> int:
        """Return how many calls were begun after the append of a switch that would have stopped them; each once."""
        if self._control.epoch == self._looked_at:
            return 0
        self._looked_at = self._control.epoch
        calls = [call for call in self._calls if call.at_ms > now_ms - REMEMBER_MS]
        rightful = [call for call in calls if not self._offends(call)]
        self._calls = deque(rightful, maxlen=CALLS_MAX)
        return len(calls) - len(rightful)

    def _offends(self, call: Begun) -> bool:
        switches = self._control.switches.blocking(call.target, call.epoch)
        return not permits(
            call.permit, call.action, [switch for switch in switches if switch.at_ms < call.at_ms], call.present
        )
