"""What the control log has said, and when: the fold of `control_log`, and the policies and releases that it forgets."""

from __future__ import annotations

from msgspec import Struct

from hitl_stream.core.commands import Command, Confirm, ReleaseRequest
from hitl_stream.core.events import Rejection
from hitl_stream.wire.control_log import ControlLog


class Release(Struct, frozen=True):
    """How a switch was released: asked for at `asked_ms` by `asked_by`, in force at `epoch` by the word of `by`."""

    epoch: int
    at_ms: int
    by: str
    asked_by: str
    asked_ms: int
    reason: str


class ControlPast(ControlLog):
    """A fold of `control` that keeps what was in force before."""

    def __init__(self, audience: str, trust: str) -> None:
        super().__init__(audience, trust)
        self.policies: list[tuple[int, str]] = []
        """Epoch and digest of every policy that was promoted, oldest first."""
        self.releases: dict[int, Release] = {}
        """By epoch of the switch."""
        self._release: Release | None = None
        self._offset = -1

    def take(self, offset: int, at_ms: int, value: bytes | None) -> Rejection | None:
        """Fold the record at `offset`, as `ControlLog` does, and remember what it changed."""
        control = self.control
        policy = control.policy
        self._offset = offset
        found = super().take(offset, at_ms, value)
        if control.policy is not None and control.policy is not policy:
            self.policies.append((control.policy.epoch, control.policy.digest))
        if control.released_at == offset and self._release is not None:
            for switch in control.switches.all.values():
                if switch.released == offset:
                    self.releases[switch.epoch] = self._release
        return found

    def _read(self, at_ms: int, value: bytes | None) -> Command | Rejection:
        read = super()._read(at_ms, value)
        self._release = None if isinstance(read, Rejection) else self._released_by(read, at_ms)
        return read

    def _released_by(self, command: Command, at_ms: int) -> Release | None:
        """Return the release that a command would bring about; a drill is released at once, by a service."""
        if isinstance(command, ReleaseRequest):
            return Release(self._offset, at_ms, command.iss, command.iss, at_ms, command.reason)
        pending = self.control.pending.get(command.of) if isinstance(command, Confirm) else None
        if pending is None or not isinstance(pending.command, ReleaseRequest):
            return None
        return Release(self._offset, at_ms, command.iss, pending.holder, pending.at_ms, pending.command.reason)
