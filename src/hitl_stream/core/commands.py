"""The commands on the `control` topic: what people, and a few services, tell the whole installation.

Each is the payload of a compact JWS; `typ` says which. Claims that all of them share follow RFC 7519: `aud` is the
Kafka cluster's id, `iat` and `exp` are seconds since 1970.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from hitl_stream.core.action import Agent, Name, Time
from hitl_stream.core.events import Mode

SELECTORS_MAX = 100
EPOCHS_MAX = 10_000
INT_MAX = 2**63 - 1
"""What Kafka counts offsets with. A larger number is refused as no command, also by a reader in another language."""
SECONDS_MAX = 253_402_300_799
"""The end of the year 9999."""
Text = Annotated[str, Meta(max_length=2_000)]
Why = Annotated[str, Meta(max_length=2_000, pattern=r"[^\x00-\x20\x7f]")]
"""A reason that must be given: not empty, not only white space."""
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Selectors = Annotated[tuple[Annotated[str, Meta(max_length=500)], ...], Meta(max_length=SELECTORS_MAX)]
Epoch = Annotated[int, Meta(ge=0, le=INT_MAX)]
Reached = Annotated[int, Meta(ge=-1, le=INT_MAX)]
"""An epoch, or −1 before there is one."""
Count = Annotated[int, Meta(ge=0, le=INT_MAX)]
Seconds = Annotated[int, Meta(ge=0, le=SECONDS_MAX)]


class Command(Struct, frozen=True, kw_only=True, tag_field="typ"):
    """What every command claims: for which cluster, by which key of whom, once, from when until when."""

    aud: Name
    kid: Name
    iss: Name
    jti: Name
    iat: Seconds
    exp: Seconds


class Engage(Command, frozen=True, kw_only=True, tag="engage"):
    """Engage a kill switch. Its id is the offset of its record."""

    scope: Selectors
    mode: Mode
    reason: Text | None = None
    source: Literal["person", "tripwire", "host", "drill"] = "person"


class ReleaseRequest(Command, frozen=True, kw_only=True, tag="release_request"):
    """Ask that engaged switches be released; another holder must confirm it."""

    epochs: Annotated[tuple[Epoch, ...], Meta(min_length=1, max_length=EPOCHS_MAX)]
    reason: Why


class Confirm(Command, frozen=True, kw_only=True, tag="confirm"):
    """Confirm another holder's command, named by its epoch."""

    of: Epoch


class PolicyChange(Command, frozen=True, kw_only=True, tag="policy"):
    """Put a policy in force."""

    text: Annotated[str, Meta(max_length=900_000)]
    digest: Digest
    reason: Why


class GateChange(Command, frozen=True, kw_only=True, tag="gate"):
    """Set a gate's state, for its own definition and one agent version."""

    gate: Name
    definition: Annotated[str, Meta(max_length=64)]
    state: Literal["observe", "enforce", "removed"]
    agent: Agent | None = None
    p: dict[str, float] = {}
    evidence: dict[str, Any] = {}
    reason: Text | None = None


class LevelChange(Command, frozen=True, kw_only=True, tag="level"):
    """Say how far a class may go alone. It can only tighten what the policy says."""

    class_: Name = field(name="class")
    level: Annotated[int, Meta(ge=1, le=4)]
    reason: Why
    evidence: dict[str, Any] = {}


class ReviewerChange(Command, frozen=True, kw_only=True, tag="reviewer"):
    """Say how closely a reviewer, named by a pseudonym, is watched; written by the monitor."""

    person: Name
    level: Annotated[int, Meta(ge=0, le=3)]
    recheck: tuple[Name, ...] = ()
    reason: Text


class Pin(Command, frozen=True, kw_only=True, tag="pin"):
    """A person's strategy decision: what contradicts it until then is escalated.

    `direction` is the way that the field goes; `range` is the lowest and the highest value that it may be set to, each
    null where there is none. `unit`, where it is given, is the one that a change must be in.
    """

    scope: Selectors
    field: Name
    direction: Literal["up", "down"] | None = None
    range: tuple[str | None, str | None] | None = None
    unit: Annotated[str, Meta(max_length=32)] | None = None
    until: Time
    reason: Why


class KeyEntry(Struct, frozen=True, kw_only=True):
    """A public key: whose it is, what it may sign, from when until when."""

    holder: Name
    kind: Literal["person", "service"]
    key_id: Name
    jwk: dict[str, str]
    types: tuple[Name, ...]
    from_: Time = field(name="from")
    until: Time


class Keys(Command, frozen=True, kw_only=True, tag="keys"):
    """Add keys, or end them: an entry replaces the one of the same key id."""

    keys: Annotated[tuple[KeyEntry, ...], Meta(min_length=1, max_length=1_000)]


class Farewell(Command, frozen=True, kw_only=True, tag="farewell"):
    """State that an instance's process has ended."""

    instance: Name
    reason: Text


class Waiting(Struct, frozen=True, kw_only=True):
    """An instance that has not answered for the newest engagement yet."""

    instance: str
    since_s: float


class Contained(Struct, frozen=True, kw_only=True):
    """An executor that cannot be asked: so many of its calls may still take effect."""

    epoch: Reached
    instance: str
    calls: Count


class Heartbeat(Command, frozen=True, kw_only=True, tag="heartbeat"):
    """What a control role says every 250 ms on `control.heartbeat`.

    `digest` is that of its fold at `epoch`. `acks` repeats the number of the last ack that it read from every instance.
    `effective` is the newest epoch up to which every engagement is EFFECTIVE.
    """

    seq: Count
    control: str
    epoch: Reached
    digest: Digest
    acks: dict[str, Count]
    effective: Reached
    waiting: tuple[Waiting, ...] = ()
    contained: tuple[Contained, ...] = ()


AnyCommand = (
    Engage | ReleaseRequest | Confirm | PolicyChange | GateChange | LevelChange | ReviewerChange | Pin | Keys | Farewell
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000


def type_of(command: Command) -> str:
    """Return a command's `typ`."""
    return str(command.__struct_config__.tag)


def milliseconds(time: datetime) -> int:
    """Return a time as milliseconds since 1970, cut, not rounded."""
    since = time - _EPOCH
    return since.days * DAY_MS + since.seconds * 1000 + since.microseconds // 1000


TYPES = ("engage", "release_request", "confirm", "policy", "gate", "level", "reviewer", "pin", "keys", "farewell")
"""Every `typ` of a command; a key lists those it may sign."""
