"""A guard that holds a real fold of control commands, which a test writes into it; lease and time are in its hands."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime

from hitl_stream.core.commands import TYPES, Command, Confirm, Engage, KeyEntry, Keys, LevelChange, ReleaseRequest
from hitl_stream.core.control import RELEASE_MS_MIN, Control
from hitl_stream.core.events import Mode
from hitl_stream.lane.clock import ControlClock
from hitl_stream.lane.guard import Doing, Unguarded
from support.make import NOW_MS

_START = datetime(2020, 1, 1, tzinfo=UTC)
_END = datetime(2099, 1, 1, tzinfo=UTC)
EXP_S = 4_000_000_000


class Commands:
    """Writes commands of ana and bob into a fold, each at the next offset."""

    def __init__(self, control: Control | None = None, at_ms: int = NOW_MS) -> None:
        self.control = control if control is not None else Control()
        self.at_ms = at_ms
        self._jti = itertools.count()
        entries = [
            KeyEntry(holder=name, kind="person", key_id=f"{name}-1", jwk={}, types=TYPES, from_=_START, until=_END)
            for name in ("ana", "bob")
        ]
        self.fold(Keys(**self._claims("ana"), keys=tuple(entries)))

    def _claims(self, who: str) -> dict[str, object]:
        number = next(self._jti)
        return {"aud": "c", "kid": f"{who}-1", "iss": who, "jti": f"j{number}", "iat": 1, "exp": EXP_S}

    def fold(self, command: Command) -> int:
        """Fold a command; return its epoch."""
        epoch = self.control.epoch + 1
        found = self.control.fold(epoch, self.at_ms, str(epoch).encode(), command)
        assert found is None, found
        return epoch

    def engage(self, *scope: str, mode: Mode = Mode.HALT) -> int:
        """Engage a switch; return its epoch."""
        return self.fold(Engage(**self._claims("ana"), scope=scope, mode=mode))

    def release(self, *epochs: int) -> int:
        """Release switches, by two people; return the epoch of the second one's word."""
        asked = self.fold(ReleaseRequest(**self._claims("ana"), epochs=epochs, reason="mended"))
        self.at_ms += RELEASE_MS_MIN
        return self.fold(Confirm(**self._claims("bob"), of=asked))

    def level(self, name: str, level: int) -> int:
        """Lower a class's level."""
        return self.fold(LevelChange(**self._claims("ana"), class_=name, level=level, reason="r"))

    def nothing(self) -> int:
        """Let the epoch move without any effect."""
        return self.fold(ReleaseRequest(**self._claims("ana"), epochs=(self.engage("tenant:nobody"),), reason="r"))


class TestGuard(Unguarded):
    """A `Guard` over such a fold. `held` is the lease; `left_ms` what is left of it."""

    __test__ = False

    def __init__(self, clock: ControlClock | None = None, commands: Commands | None = None) -> None:
        super().__init__(clock)
        self.commands = commands if commands is not None else Commands()
        self.control = self.commands.control
        self.left_ms = 2_000
        self.stirs = 0
        self.doing: Callable[[], Doing] = Doing
        self._lease = True
        self._renewed = asyncio.Event()

    @property
    def epoch(self) -> int:  # type: ignore[override]
        return self.control.epoch

    @property
    def lease(self) -> bool:
        return self._lease

    @lease.setter
    def lease(self, holds: bool) -> None:
        self._lease = holds
        self._renewed.set()

    def may_emit(self) -> bool:
        return self._lease

    def lease_left_ms(self) -> int:
        return self.left_ms

    async def allowed(self) -> None:
        while not self._lease:
            self._renewed.clear()
            await self._renewed.wait()

    def watch(self, doing: Callable[[], Doing]) -> None:
        self.doing = doing

    def stirred(self) -> None:
        self.stirs += 1
