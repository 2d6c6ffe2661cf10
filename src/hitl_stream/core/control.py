"""The control log as a value: what a reader knows after folding every record from offset 0 to its epoch.

The epoch is the offset of the last record folded, accepted or not. Two readers at the same epoch hold the same value,
and their digests say so. The rules:
- Whatever tightens takes one holder and holds at once: engage, pin, a lower level, a gate put back to `enforce`. It
  also ends what waits to loosen the same thing.
- Whatever loosens takes two holders of persons' keys: the command waits until another one's `confirm`, at most
  `CONFIRM_MS_MAX`; a release waits at least `RELEASE_MS_MIN`. A holder with two keys is one holder; the second one's
  key must be allowed to ask for the same; the first one's must still be good by then.
- A record that is not accepted changes nothing but the digest, and that its id is used up: a `confirm` that was refused
  cannot be played again when what it names has come to be.
- Whether a record is accepted rests on no table of Unicode: two interpreters may have different ones.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from typing import Generic, TypeVar

from msgspec import Struct

from hitl_stream.core.action import Agent
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
    milliseconds,
    type_of,
)
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Rejection
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.switches import Switch, Switches, parsed

RELEASE_MS_MIN = 60_000
"""Between asking for a release and its confirmation: time to object."""
CONFIRM_MS_MAX = 24 * 3_600_000
"""What nobody confirmed for a day is asked for anew."""
ALIVE_MS_MAX = 15 * 60_000
"""A command may be good for so long; a repeat of it later is expired by itself."""
AHEAD_MS_MAX = 60_000
"""A signer's clock may be so far ahead of the broker's."""
KEPT_MS = 24 * 3_600_000
"""Ids and pins are remembered for so long after their end, because brokers' clocks can be hours apart."""
DRILL = ("tenant:drill",)
"""The scope of exercises, a reserved tenant: only what is engaged within it may a service release."""
NOTHING = bytes(32)
LEVEL_MAX = 4
SEEN_MIN = 1_000
"""Ids of commands are swept when there are twice as many as the last sweep left, and at least so many."""
PENDING_MAX = 20
"""Commands of one holder that wait; each may hold a policy of 900 kB."""
PINS_MAX = 1_000
"""Pins of one holder that hold."""

ALIKE = str.maketrans(string.ascii_uppercase, string.ascii_lowercase, string.whitespace)
"""What does not tell two holders apart."""

_C = TypeVar("_C", bound=Command)


class Pending(Struct, frozen=True):
    """A command that waits for its second holder; `holder` is the first one."""

    epoch: int
    at_ms: int
    command: Command
    holder: str


class InForce(Struct, frozen=True):
    """A policy in force: the epoch that put it there, its text and digest."""

    epoch: int
    text: str
    digest: str


class Said(Struct, Generic[_C], frozen=True):
    """A command that holds, and since which epoch."""

    epoch: int
    command: _C


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
        self.gates: dict[tuple[str, Agent | None], Said[GateChange]] = {}
        """By gate and agent version. None: every agent; newer ones of single agents stand beside it."""
        self.pins: dict[int, Pin] = {}
        self.reviewers: dict[str, Said[ReviewerChange]] = {}
        self.farewells: dict[str, int] = {}
        """Instance → epoch of its newest farewell."""
        self.decided_at = -1
        """Epoch of the newest command that can change how an action is decided."""
        self.rules_at = -1
        """Epoch of the newest one that changed policy, gates, levels or pins."""
        self.engaged_at = -1
        self.released_at = -1
        self._seen: dict[tuple[str, str], int] = {}
        self._sweep_at = SEEN_MIN

    def fold(self, epoch: int, at_ms: int, value: bytes, read: Command | Rejection) -> Rejection | None:
        """Take in the record at offset `epoch`; return why it counts for nothing, or None.

        `read` is what its signature and its key say of it, judged at append time (`wire.signing`).
        """
        if epoch <= self.epoch:
            raise BrokenError(f"control record {epoch} came after {self.epoch}: each is folded once, by rising offset")
        self.at_ms = max(self.at_ms, at_ms)
        found = read if isinstance(read, Rejection) else self._judge(epoch, read)
        accepted = b"\0" if found is not None else b"\1"
        self.digest = hashlib.sha256(self.digest + accepted + hashlib.sha256(value).digest()).digest()
        self.epoch = epoch
        return found

    def person(self, command: Command) -> bool:
        """Say whether a person's key signed this."""
        return self._person(command) is not None

    def service(self, command: Command) -> bool:
        """Say whether a service's key signed this."""
        entry = self.keys.get(command.kid)
        return entry is not None and entry.kind == "service"

    def _person(self, command: Command) -> KeyEntry | None:
        entry = self.keys.get(command.kid)
        return entry if entry is not None and entry.kind == "person" else None

    def _judge(self, epoch: int, command: Command) -> Rejection | None:
        if (command.iss, command.jti) in self._seen:
            return Rejection.REPLAYED
        self._remember(command)
        return self._apply(epoch, command)

    def _remember(self, command: Command) -> None:
        self._seen[command.iss, command.jti] = command.exp
        if len(self._seen) >= self._sweep_at:
            # After its end a repeat is refused as expired; until then its id is remembered.
            self._seen = {one: exp for one, exp in self._seen.items() if exp * 1000 + KEPT_MS >= self.at_ms}
            self._sweep_at = max(SEEN_MIN, 2 * len(self._seen))

    def _apply(self, epoch: int, command: Command) -> Rejection | None:
        match command:
            case Engage():
                self._engage(epoch, command)
            case ReleaseRequest():
                return self._ask_release(epoch, command)
            case Confirm():
                return self._confirm(epoch, command)
            case Keys():
                return self._ask_keys(epoch, command)
            case PolicyChange():
                return self._wait(epoch, command)
            case GateChange():
                return self._ask_gate(epoch, command)
            case LevelChange():
                return self._ask_level(epoch, command)
            case Pin():
                return self._pin(epoch, command)
            case ReviewerChange():
                if not self.service(command):
                    return Rejection.TYPE  # the monitor's alone, so that nobody decides how closely he is watched
                self.reviewers[command.person] = Said(epoch, command)
            case Farewell():
                if not self.person(command):
                    return Rejection.SERVICE
                self.farewells[command.instance] = epoch
            case _:
                return Rejection.TYPE
        return None

    # --- what holds at once -------------------------------------------------------------------------------------------

    def _engage(self, epoch: int, command: Engage) -> None:
        self.switches.engage(
            Switch(epoch, command.scope, command.mode, command.iss, self.at_ms, command.reason, command.source)
        )
        self.decided_at = self.engaged_at = epoch

    def _pin(self, epoch: int, command: Pin) -> Rejection | None:
        if not self.person(command):
            return Rejection.SERVICE
        if not _is_sound(command):
            return Rejection.INVALID
        kept = {number: pin for number, pin in self.pins.items() if milliseconds(pin.until) + KEPT_MS >= self.at_ms}
        if sum(pin.iss == command.iss for pin in kept.values()) >= PINS_MAX:
            return Rejection.FULL
        self.pins = {**kept, epoch: command}
        self._rule(epoch)
        return None

    def _ask_level(self, epoch: int, command: LevelChange) -> Rejection | None:
        current = self.levels.get(command.class_, LEVEL_MAX)
        if command.level <= current:
            self._settle(epoch, command)
            return None
        if not self.person(command):
            return Rejection.SERVICE
        return Rejection.INVALID if command.level > current + 1 else self._wait(epoch, command)

    def _ask_gate(self, epoch: int, command: GateChange) -> Rejection | None:
        if command.state == "enforce":
            self._settle(epoch, command)
            return None
        if command.state == "removed" and (command.agent is None or not command.agent.version):
            return Rejection.INVALID  # evidence is about one version of one agent
        return self._wait(epoch, command)

    # --- what takes two -----------------------------------------------------------------------------------------------

    def _ask_keys(self, epoch: int, command: Keys) -> Rejection | None:
        if self._change_hands(command):
            return Rejection.INVALID
        if self.keys:
            return self._wait(epoch, command)
        self._add_keys(command)  # the first: its digest stands in every host's settings
        return None

    def _change_hands(self, command: Keys) -> bool:
        """Say whether a key id would get another holder, or one public key two: one person could then be two."""
        names = {name: _owner(entry) for name, entry in self.keys.items()}
        publics = {entry.jwk.get("x"): _owner(entry) for entry in self.keys.values()}
        for entry in command.keys:
            owner, public = _owner(entry), entry.jwk.get("x")
            if names.setdefault(entry.key_id, owner) != owner:
                return True
            if public is not None and publics.setdefault(public, owner) != owner:
                return True
        return False

    def _ask_release(self, epoch: int, command: ReleaseRequest) -> Rejection | None:
        if any(wanted not in self.switches.engaged for wanted in command.epochs):
            return Rejection.UNKNOWN
        if self.service(command) and all(self._is_drill(wanted) for wanted in command.epochs):
            self._release(epoch, command.epochs)
            return None
        return self._wait(epoch, command)

    def _is_drill(self, epoch: int) -> bool:
        switch = self.switches.engaged[epoch]
        within = all(map(str.isascii, switch.scope)) and parsed(switch.scope).get("tenant") == parsed(DRILL)["tenant"]
        return switch.source == "drill" and within

    def _wait(self, epoch: int, command: Command) -> Rejection | None:
        entry = self._person(command)
        if entry is None:
            return Rejection.SERVICE
        self.pending = {number: one for number, one in self.pending.items() if self.at_ms - one.at_ms <= CONFIRM_MS_MAX}
        if sum(is_same_holder(one.holder, entry.holder) for one in self.pending.values()) >= PENDING_MAX:
            return Rejection.FULL
        self.pending[epoch] = Pending(epoch, self.at_ms, command, entry.holder)
        return None

    def _confirm(self, epoch: int, command: Confirm) -> Rejection | None:
        pending = self.pending.get(command.of)
        if pending is None:
            return Rejection.UNKNOWN
        found = self._judge_second(command, pending)
        if found is not None:
            return found
        asked = pending.command
        if isinstance(asked, ReleaseRequest) and not any(one in self.switches.engaged for one in asked.epochs):
            return Rejection.UNKNOWN
        if isinstance(asked, Keys) and self._change_hands(asked):
            return Rejection.INVALID
        del self.pending[command.of]
        match asked:
            case ReleaseRequest():
                self._release(epoch, asked.epochs)
            case Keys():
                self._add_keys(asked)
            case _:
                self._settle(epoch, asked)
        return None

    def _judge_second(self, command: Confirm, pending: Pending) -> Rejection | None:
        """Judge who confirms what, and when."""
        asked, second = pending.command, self._person(command)
        if second is None:
            return Rejection.SERVICE
        if type_of(asked) not in second.types:
            return Rejection.TYPE
        if is_same_holder(second.holder, pending.holder):
            return Rejection.SAME_HOLDER
        waited = self.at_ms - pending.at_ms
        if waited > CONFIRM_MS_MAX:
            return Rejection.TOO_LATE
        if not self._still_may(pending):
            return Rejection.KEY_TIME
        if isinstance(asked, ReleaseRequest) and waited < RELEASE_MS_MIN:
            return Rejection.TOO_SOON
        return None

    def _still_may(self, pending: Pending) -> bool:
        """Say whether the first holder's key could ask for the same now: it may have been ended, or been stolen."""
        first = self._person(pending.command)
        return (
            first is not None
            and is_same_holder(first.holder, pending.holder)
            and type_of(pending.command) in first.types
            and milliseconds(first.from_) <= self.at_ms < milliseconds(first.until)
        )

    # --- taking effect ------------------------------------------------------------------------------------------------

    def _release(self, epoch: int, epochs: Sequence[int]) -> None:
        for one in epochs:
            self.switches.release(one, epoch, self.at_ms)
        self.decided_at = self.released_at = epoch

    def _add_keys(self, command: Keys) -> None:
        self.keys.update((entry.key_id, entry) for entry in command.keys)

    def _settle(self, epoch: int, command: Command) -> None:
        """Put a policy, a level or a gate's state in force, and end what waits about the same: it was asked for before.

        Otherwise a confirmation could undo what somebody tightened after the request.
        """
        subject = _subject(command)
        self.pending = {number: one for number, one in self.pending.items() if _subject(one.command) != subject}
        match command:
            case PolicyChange():
                self.policy = InForce(epoch, command.text, command.digest)
            case LevelChange():
                self.levels[command.class_] = command.level
            case GateChange():
                if command.agent is None:
                    self.gates = {key: said for key, said in self.gates.items() if key[0] != command.gate}
                self.gates[command.gate, command.agent] = Said(epoch, command)
        self._rule(epoch)

    def _rule(self, epoch: int) -> None:
        self.decided_at = self.rules_at = epoch


def _subject(command: Command) -> tuple[str, str] | None:
    """Return what a policy, a level or a gate record is about; None for other commands."""
    match command:
        case PolicyChange():
            return "policy", ""
        case LevelChange():
            return "level", command.class_
        case GateChange():
            return "gate", command.gate
    return None


def _is_sound(pin: Pin) -> bool:
    """Say whether a pin decides anything, and in numbers that can be read."""
    low, high = pin.range or (None, None)
    try:
        bounds = [as_decimal(bound, "range") for bound in (low, high) if bound is not None]
    except UndefinedError:
        return False
    return bounds == sorted(bounds) and (pin.direction is not None or bool(bounds))


def _owner(entry: KeyEntry) -> tuple[str, str]:
    return entry.holder.translate(ALIKE), entry.kind


def is_same_holder(holder: str, other: str) -> bool:
    """Say whether two names are one holder's, written with other case or white space."""
    return holder.translate(ALIKE) == other.translate(ALIKE)
