"""The records between roles, one definition each: what readers decode to, and where the JSON Schema comes from.

Where a record carries an action it is one object whose *last* member is `action`, with the original bytes. The *head*
is every byte before `,"action":`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.action import Agent, Entity

ACTION_MARK = b',"action":'
OutcomeName = Literal["EXECUTE", "REVIEW", "ESCALATE", "HOLD", "REFUSE"]


class ReasonRow(Struct, frozen=True, kw_only=True, gc=False):
    """One row of an explanation; see `core.reasons.Reason`."""

    rule: str
    saw: str
    limit: str | None = None
    rate: str | None = None
    outcome: OutcomeName
    queue: str | None = None
    gate: str | None = None
    error: str | None = None
    counts: bool = True


class ApprovalRow(Struct, frozen=True, gc=False):
    """A queue that must approve, how many of its people, and until when."""

    queue: str
    people: int
    decide_by: str


class ScorePart(Struct, frozen=True, gc=False):
    """One part of the score: its x in [0, 1], its weight, and its share of the total."""

    name: str
    x: float
    w: float
    share: float


class ScoreRow(Struct, frozen=True, gc=False):
    """The risk score and the parts that added to it."""

    total: float
    parts: tuple[ScorePart, ...] = ()


class AuditRow(Struct, frozen=True, gc=False):
    """With what probability the action is drawn for a blind audit."""

    p: float


class Common(Struct, frozen=True, kw_only=True):
    """What decisions, results and ends share: `tenant` to `epoch`."""

    id: str
    tenant: str
    action_id: str
    hash: str
    ce: dict[str, str] = {}
    type: str
    level: int
    agent: Agent
    entity: Entity
    outcome: OutcomeName
    purpose: str = "decide"
    for_: str | None = msgspec.field(default=None, name="for")
    reasons: tuple[ReasonRow, ...] = ()
    approvals: tuple[ApprovalRow, ...] = ()
    execute_by: str | None = None
    score: ScoreRow | None = None
    audit: AuditRow | None = None
    policy: str
    epoch: int = -1
    moment: str
    trace: str | None = None


class Decision(Common, frozen=True, kw_only=True):
    """A routed action: `execute`, `review`, `escalation`, `review.seeded`, `recommendations`."""

    origin: str
    attempt: int = 0
    held: int = -1
    by: str | None = None
    supersedes: str | None = None
    action: Raw = msgspec.field(default_factory=Raw)


class Closed(Common, frozen=True, kw_only=True):
    """An end without execution. `by` are the people who decided; a duplicate carries no action, only its hash."""

    end: Literal["rejected", "expired", "stale", "superseded", "refused"]
    why: str
    by: tuple[str, ...] = ()
    code: str | None = None
    note: str | None = None
    action: Raw = msgspec.field(default_factory=Raw)


class Via(Struct, frozen=True, kw_only=True):
    """Header `hitl-via`: how an action that no publisher wrote came to an action topic."""

    role: Literal["router", "desk", "console"]
    from_: str = msgspec.field(name="from")
    by: str | None = None
    supersedes: str | None = None


class Ack(Struct, frozen=True, kw_only=True):
    """What an instance says on `control.acks`, sealed: which commands it has applied, and what it still has open.

    `n` is never used twice by an instance name, also over restarts. `open_epoch` is its oldest open transaction's,
    `calls_epoch` its oldest open platform call's. `partitions` are those that it has open.
    """

    n: int
    instance: str
    role: str
    version: str
    partitions: tuple[int, ...] = ()
    epoch: int = -1
    open_epoch: int | None = None
    calls: int = 0
    calls_epoch: int | None = None
    audit: dict[str, str] = {}
    goodbye: bool = False


def by_position(record: type[Struct]) -> Callable[..., Struct]:
    """Return a struct of the same members in the same order, given by position: only to be encoded, never decoded.

    Twenty-six keywords cost nearly as much as encoding the record does; by position they cost a tenth of it.
    """
    members = msgspec.structs.fields(record)
    rows = [(member.name, Any, msgspec.field(name=member.encode_name)) for member in members]
    return msgspec.defstruct(f"{record.__name__}ByPosition", rows, frozen=True, gc=False)


encode = msgspec.json.Encoder().encode
decode_decision = msgspec.json.Decoder(Decision).decode
decode_closed = msgspec.json.Decoder(Closed).decode
decode_ack = msgspec.json.Decoder(Ack).decode
decode_via = msgspec.json.Decoder(Via).decode

VIA_HEADER = "hitl-via"
TRACE_HEADER = "traceparent"
DECISION = "decision/1"
CLOSED = "closed/1"
VIA = "via/1"
ACK = "ack/1"

ERROR_HEADER = "hitl-error"
WHY_HEADER = "hitl-why"
SOURCE_HEADER = "hitl-source"
APPENDED_HEADER = "hitl-appended"
BY_HEADER = "hitl-by"
LENGTH_HEADER = "hitl-length"
SHA256_HEADER = "hitl-sha256"


def head_of(value: bytes) -> bytes:
    """Return the sealed part of a value: all before the action, or the whole where there is none."""
    cut = value.find(ACTION_MARK)
    return value if cut < 0 else value[:cut]


def header(headers: Sequence[tuple[str, bytes]], name: str) -> bytes | None:
    """Return the first header of that name, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def time_text(ms: int) -> str:
    """Write milliseconds since the epoch as RFC 3339 in UTC.

    >>> time_text(1763709000140)
    '2025-11-21T07:10:00.140Z'
    """
    seconds, rest = divmod(ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def milliseconds(moment: datetime) -> int:
    """Return a time as milliseconds since the epoch, cut, not rounded."""
    return int(moment.timestamp() * 1000)
