"""Calls that a kill switch should have stopped: counting them, and what follows where that must never happen.

| when the call began | how it can be | what follows |
|---|---|---|
| after the append of the switch, before it was read here | a command takes a while to come | it is counted |
| after it was applied here | the last gate is broken | it is counted, and said |
| after control had said EFFECTIVE | the same | besides, everything is stopped: a global HALT, as a host signs it |

Whether the gate is broken is asked of each call at its beginning, apart from the gate.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog
from aiokafka.errors import KafkaError
from mode import Service
from msgspec import Struct

from hitl_stream.core.action import Action, Value
from hitl_stream.core.control import Control
from hitl_stream.core.errors import HitlError, RefusedError
from hitl_stream.core.events import After
from hitl_stream.core.gate import Permit, permits
from hitl_stream.core.switches import Switch, Target

REMEMBER_MS = 5_000
"""A command is read far sooner; whoever reads it later has no lease meanwhile, and begins nothing."""
CALLS_MAX = 10_000
RETRY_S = 1.0
REFUSED_S = 60.0
"""Each try that is refused may leave a record for ever."""
TRIES_MAX = 100
"""Of one alarm; the next offending call gives another one."""
NEVER = -1
"""The epoch up to which engagements are EFFECTIVE, before control has said any."""


class Begun(Struct, frozen=True):
    """A call, as it was when it began. `at_ms` is control time."""

    at_ms: int
    epoch: int
    permit: Permit
    action: Action
    target: Target
    present: Sequence[Value | None] | None


class Offence(Struct, frozen=True):
    """That a call was begun under a switch that was applied here: the newest one, and after what of it."""

    switch: Switch
    after: After


class Offences:
    """The calls of the last seconds, compared with each switch that comes to be known.

    `effective` returns the newest epoch up to which control has said that every engagement is EFFECTIVE.
    """

    def __init__(self, control: Control, effective: Callable[[], int] = lambda: NEVER) -> None:
        self._control = control
        self._effective = effective
        self._looked_at = control.epoch
        self._calls: deque[Begun] = deque(maxlen=CALLS_MAX)

    def begun(self, call: Begun) -> Offence | None:
        """Take in a call at its beginning; say whether the gate should have stopped it."""
        wrong = [switch for switch in self._control.switches.covering(call.target) if not _permits(call, [switch])]
        if not wrong:
            self._calls.append(call)
            return None
        effective = [switch for switch in wrong if switch.epoch <= self._effective()]
        # It is counted now, so it is not compared with later switches any more: each call counts once.
        return Offence(effective[-1], After.EFFECTIVE) if effective else Offence(wrong[-1], After.APPEND)

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
        return not _permits(call, [switch for switch in switches if switch.at_ms < call.at_ms])


def _permits(call: Begun, switches: Sequence[Switch]) -> bool:
    return permits(call.permit, call.action, switches, call.present)


class Alarm(Service):
    """Stops everything once it is rung: engages a global HALT, which two people release like any other.

    `engage` appends it under the given id, and returns its epoch (`lane.halt.engage_on`). While that switch holds, or
    is being appended, ringing again does nothing.
    """

    def __init__(self, engage: Callable[[str], Awaitable[int]], control: Control) -> None:
        super().__init__()
        self._engage = engage
        self._control = control
        self._rung = asyncio.Event()
        self.engaged: int | None = None
        """The epoch of the switch that it has engaged last."""
        self.log = structlog.get_logger()

    def ring(self) -> None:
        """Ask for the HALT; it is engaged as soon as Kafka takes it."""
        if not self._holds():
            self._rung.set()

    def _holds(self) -> bool:
        """Say whether what it has engaged holds still, or was not read here yet."""
        epoch, control = self.engaged, self._control
        return epoch is not None and (epoch > control.epoch or epoch in control.switches.engaged)

    async def on_start(self) -> None:
        """Begin to listen."""
        self.add_future(self._listen())

    async def _listen(self) -> None:
        while not self.should_stop:
            await self._rung.wait()
            await self._halt(f"offence-{uuid.uuid4().hex}")
            self._rung.clear()

    async def _halt(self, jti: str) -> None:
        """Engage it; under one id, so that a try whose answer was lost counts once."""
        for _ in range(TRIES_MAX):
            try:
                self.engaged = await self._engage(jti)
            except (HitlError, KafkaError, TimeoutError, OSError) as error:
                self.log.error("global HALT cannot be engaged; touch HALT on the hosts", why=str(error) or repr(error))
                await asyncio.sleep(REFUSED_S if isinstance(error, RefusedError) else RETRY_S)
            else:
                self.log.critical("global HALT engaged: a call began under an effective switch", epoch=self.engaged)
                return
