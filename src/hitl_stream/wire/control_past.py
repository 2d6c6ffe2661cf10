"""What the control log has said, and when: the fold of `control_log`, and what of it is forgotten there.

Of policies, rules, keys and releases it keeps what was in force before, by the epoch that put it there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

from hitl_stream.core.commands import Command, Confirm, KeyEntry, ReleaseRequest
from hitl_stream.core.control import InForce
from hitl_stream.core.events import Rejection
from hitl_stream.core.policy.rules import NO_RULES, Rules, rules_of
from hitl_stream.wire.control_log import ControlLog

T = TypeVar("T")


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
        self.promoted: list[tuple[int, InForce]] = []
        """The same policies with their texts."""
        self.rules: list[tuple[int, Rules]] = []
        """What levels, gates and pins were, from the epoch on that changed them or the policy."""
        self.keys: list[tuple[int, Mapping[str, KeyEntry]]] = []
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
            self.promoted.append((control.policy.epoch, control.policy))
        if control.rules_at == offset:
            self.rules.append((offset, rules_of(control)))
        if not self.keys or control.keys != self.keys[-1][1]:
            self.keys.append((offset, dict(control.keys)))
        if control.released_at == offset and self._release is not None:
            for switch in control.switches.all.values():
                if switch.released == offset:
                    self.releases[switch.epoch] = self._release
        return found

    def policy_at(self, epoch: int) -> InForce | None:
        """Return the policy that was promoted by an epoch, if any was."""
        return _at(self.promoted, epoch)

    def rules_at(self, epoch: int) -> tuple[int, Rules]:
        """Return which levels, gates and pins held at an epoch, and since which one."""
        place = bisect_right(self.rules, epoch, key=_epoch)
        return self.rules[place - 1] if place else (-1, NO_RULES)

    def keys_at(self, epoch: int) -> Mapping[str, KeyEntry]:
        """Return the keys that were listed at an epoch."""
        return _at(self.keys, epoch) or {}

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


def _epoch(row: tuple[int, object]) -> int:
    return row[0]


def _at(rows: Sequence[tuple[int, T]], epoch: int) -> T | None:
    """Return what the newest row says that is not newer than an epoch."""
    place = bisect_right(rows, epoch, key=_epoch)
    return rows[place - 1][1] if place else None
