"""The control log as a value: what a reader knows after folding every record from offset 0 to its epoch.

The epoch is the offset of the last record folded, accepted or not. Two readers at the same epoch hold the same value,
and their digests say so. The rules:
- Whatever tightens takes one person (or a service whose key allows it) and holds at once: engage, pin, a lower level,
  a gate put back to `enforce`.
- Whatever loosens takes two holders of persons' keys: the command waits until another one's `confirm`, at most
  `CONFIRM_MS_MAX`; a release waits at least `RELEASE_MS_MIN`.
- A record that is not accepted changes nothing but the digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from hitl_stream.core.commands import (
    Command,
    Confirm,
    Engage,
    Farewell,
    GateChange,
    KeyEntry,
    Keys,
    LevelChange,
    Pin,
    PolicyChange,
    ReleaseRequest,
    ReviewerChange,
)
from hitl_stream.core.events import Rejection
from hitl_stream.core.switches import Switch, Switches, parsed

RELEASE_MS_MIN = 60_000
"""Between asking for a release and its confirmation: time to object."""
CONFIRM_MS_MAX = 24 * 3_600_000
"""What nobody confirmed for a day is asked for anew."""
ALIVE_MS_MAX = 15 * 60_000
"""A command may be good for so long; a repeat of it later is expired by itself."""
AHEAD_MS_MAX = 60_000
"""A signer's clock may be so far ahead of the broker's."""
DRILL = "tenant:drill"
"""The reserved tenant of exercises: the only one whose switches a service may release."""
NOTHING = bytes(32)
LEVEL_MAX = 4
SEEN_MIN = 1_000
"""Ids of commands are swept when there are twice as many as the last sweep left, and at least so many."""


class Pending(Struct, frozen=True):
    """A command that waits for its second holder."""

    epoch: int
    at_ms: int
    command: Command


class InForce(Struct, frozen=True):
    """A policy in force: the epoch that put it there, its text and digest."""

    epoch: int
    text: str
    digest: str


class Said(Struct, frozen=True):
    """A command that holds, and since which epoch."""

    epoch: int
    command: Command


class Control:
    """What the control log says. Only `fold` changes it."""

    def __init__(self) -> None:
        self.epoch = -1
        self.digest = NOTHING
        self.at_ms = 0
        """Newest append time; it never runs backwards."""
        self.switches = Switches()
        self.keys: dict[str, KeyEntry] = {}
        self.pending: dict[int, Pending] = {}
        self.policy: InForce | None = None
        self.levels: dict[str, int] = {}
        self.gates: dict[str, Said] = {}
        self.pins: dict[int, Pin] = {}
        self.reviewers: dict[str, Said] = {}
        self.farewells: dict[str, int] = {}
        """Instance → epoch of its newest farewell."""
        self.decided_at = -1
        """Epoch of the newest command that can change how an action is decided."""
        self.rules_at = -1
        """Epoch of the newest one that changed policy, gates, levels or pins."""
        self.engaged_at = -1
        self.released_at = -1
        self._seen: dict[str, int] = {}
        self._sweep_at = SEEN_MIN

    def fold(self, epoch: int, at_ms: int, value: bytes, read: Command | Rejection) -> Rejection | None:
        """Take in the record at offset `epoch`; return why it counts for nothing, or None.

        `read` is what its signature and its key say of it, judged at append time (`wire.signing`).
        """
        self.at_ms = max(self.at_ms, at_ms)
        found = read if isinstance(read, Rejection) else self._judge(epoch, read)
        accepted = b"\0" if found is not None else b"\1"
        self.digest = hashlib.sha256(self.digest + accepted + hashlib.sha256(value).digest()).digest()
        self.epoch = epoch
        return found

    def person(self, command: Command) -> bool:
        """Say whether a person's key signed this."""
        entry = self.keys.get(command.kid)
        return entry is not None and entry.kind == "person"

    def _judge(self, epoch: int, command: Command) -> Rejection | None:
        if command.jti in self._seen:
            return Rejection.REPLAYED
        found = self._apply(epoch, command)
        if found is None:
            self._remember(command)
        return found

    def _remember(self, command: Command) -> None:
        self._seen[command.jti] = command.exp
        if len(self._seen) >= self._sweep_at:
            # After its end a repeat is refused as expired; until then its id is remembered.
            self._seen = {jti: exp for jti, exp in self._seen.items() if exp * 1000 >= self.at_ms}
            self._sweep_at = max(SEEN_MIN, 2 * len(self._seen))

    def _apply(self, epoch: int, command: Command) -> Rejection | None:
        match command:
            case Engage():
                self._engage(epoch, command)
            case ReleaseRequest():
                return self._ask_release(epoch, command)
            case Confirm():
                return self._confirm(epoch, command)
            case Keys() if not self.keys:
                self._add_keys(command)  # the first: its digest stands in every host's settings
            case PolicyChange() | Keys():
                return self._wait(epoch, command)
            case GateChange():
                if command.state != "enforce":
                    return self._wait(epoch, command)
                self._rule(epoch)
                self.gates[command.gate] = Said(epoch, command)
            case LevelChange():
                if command.level > self.levels.get(command.class_, LEVEL_MAX):
                    return self._wait(epoch, command)
                self._rule(epoch)
                self.levels[command.class_] = command.level
            case Pin():
                if not self.person(command):
                    return Rejection.SERVICE
                self._rule(epoch)
                self.pins[epoch] = command
            case ReviewerChange():
                self.reviewers[command.person] = Said(epoch, command)
            case Farewell():
                if not self.person(command):
                    return Rejection.SERVICE
                self.farewells[command.instance] = epoch
            case _:
                return Rejection.TYPE
        return None

    def _engage(self, epoch: int, command: Engage) -> None:
        self.switches.engage(
            Switch(epoch, command.scope, command.mode, command.iss, self.at_ms, command.reason, command.source)
        )
        self.decided_at = self.engaged_at = epoch

    def _ask_release(self, epoch: int, command: ReleaseRequest) -> Rejection | None:
        if any(wanted not in self.switches.engaged for wanted in command.epochs):
            return Rejection.UNKNOWN
        if self.person(command):
            self._hold(epoch, command)
            return None
        if all(self._is_drill(wanted) for wanted in command.epochs):
            self._release(epoch, command.epochs)
            return None
        return Rejection.SERVICE

    def _is_drill(self, epoch: int) -> bool:
        switch = self.switches.engaged[epoch]
        return switch.source == "drill" and parsed(switch.scope).get("tenant") == frozenset({DRILL})

    def _wait(self, epoch: int, command: Command) -> Rejection | None:
        if not self.person(command):
            return Rejection.SERVICE
        self._hold(epoch, command)
        return None

    def _hold(self, epoch: int, command: Command) -> None:
        self.pending = {number: one for number, one in self.pending.items() if self.at_ms - one.at_ms <= CONFIRM_MS_MAX}
        self.pending[epoch] = Pending(epoch, self.at_ms, command)

    def _confirm(self, epoch: int, command: Confirm) -> Rejection | None:
        pending = self.pending.get(command.of)
        if pending is None:
            return Rejection.UNKNOWN
        if not self.person(command):
            return Rejection.SERVICE
        if command.iss == pending.command.iss:
            return Rejection.SAME_HOLDER
        waited = self.at_ms - pending.at_ms
        if waited > CONFIRM_MS_MAX:
            return Rejection.TOO_LATE
        asked = pending.command
        if isinstance(asked, ReleaseRequest) and waited < RELEASE_MS_MIN:
            return Rejection.TOO_SOON
        del self.pending[command.of]
        match asked:
            case ReleaseRequest():
                self._release(epoch, asked.epochs)
            case Keys():
                self._add_keys(asked)
            case PolicyChange():
                self._rule(epoch)
                self.policy = InForce(epoch, asked.text, asked.digest)
            case GateChange():
                self._rule(epoch)
                self.gates[asked.gate] = Said(epoch, asked)
            case LevelChange():
                self._rule(epoch)
                self.levels[asked.class_] = asked.level
        return None

    def _release(self, epoch: int, epochs: Sequence[int]) -> None:
        for one in epochs:
            self.switches.release(one, epoch)
        self.decided_at = self.released_at = epoch

    def _add_keys(self, command: Keys) -> None:
        self.keys.update((entry.key_id, entry) for entry in command.keys)

    def _rule(self, epoch: int) -> None:
        self.decided_at = self.rules_at = epoch
