"""The records between roles, one definition each: what readers decode to, and where the JSON Schema comes from.

Where a record carries an action it is one object whose *last* member is `action`, with the original bytes. The *head*
is every byte before `,"action":`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.action import Agent, Entity, Value
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.trace import trace_of

ACTION_MARK = b',"action":'
PARKED_MARK = b',"parked":'
ROUTED_MARK = b',"routed":'
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


def shared(decision: Common) -> dict[str, Any]:
    """Return what results and ends repeat of a decision, by member: `tenant` to `epoch`."""
    return {name: getattr(decision, name) for name in Common.__struct_fields__}


class Decision(Common, frozen=True, kw_only=True):
    """A routed action: `execute`, `review`, `escalation`, `review.seeded`, `recommendations`."""

    origin: str
    attempt: int = 0
    held: int = -1
    by: str | None = None
    supersedes: str | None = None
    action: Raw = msgspec.field(default_factory=Raw)


class Parked(Struct, frozen=True, kw_only=True):
    """Who parked a decision, at which epoch, and the switches that covered it then: none means it was sent back."""

    by: Literal["router", "desk", "executor"]
    epoch: int
    switches: tuple[int, ...] = ()


class First(Struct, frozen=True):
    """The judgement that a blind second one repeats."""

    by: str
    verdict: str


class Held(Decision, frozen=True, kw_only=True):
    """A decision with what a role other than the router has put before its action, which stays its last member.

    `parked`: on `held` (`held_value`). On `review.seeded`, from the monitor (`seeded_value`): `planted` is the type of
    the error that a canary has, `first` the judgement that is asked for again.
    """

    parked: Parked | None = None
    planted: str | None = None
    first: First | None = None


class Closed(Common, frozen=True, kw_only=True):
    """An end without execution. `by` are the people who decided; a duplicate carries no action, only its hash."""

    end: Literal["rejected", "expired", "stale", "superseded", "refused"]
    why: str
    by: tuple[str, ...] = ()
    code: str | None = None
    note: str | None = None
    action: Raw = msgspec.field(default_factory=Raw)


class Routed(Struct, frozen=True, kw_only=True):
    """The router's record that people approved: its topic, its head as a string, and the router's seal over that."""

    topic: str
    head: str
    seal: str


class Proof(Struct, frozen=True, kw_only=True):
    """That an action hash is one of a batch (RFC 9162): its place among `size`, and the path to the root, in hex."""

    size: int
    index: int
    path: tuple[str, ...] = ()


class Approved(Common, frozen=True, kw_only=True):
    """A record on `execute` that people approved: the desk's, around what the router had sealed.

    `verdicts` are their signed words, and `given` says when each was appended: by that time it is judged. `proof` leads
    from this action to the root that the release of a batch names.
    """

    origin: str
    attempt: int = 0
    held: int = -1
    by: tuple[str, ...] = ()
    supersedes: str | None = None
    routed: Routed
    verdicts: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    proof: Proof | None = None
    action: Raw = msgspec.field(default_factory=Raw)


class ExceptionRow(Struct, frozen=True):
    """What went wrong, by type, in the platform's words."""

    type: Literal["platform"]
    text: str


class Exceptional(Common, frozen=True, kw_only=True):
    """On `escalation`, `purpose` exception: what an executor cannot settle and hands to people. It can never run."""

    origin: str
    attempt: int = 0
    held: int = -1
    by: tuple[str, ...] = ()
    supersedes: str | None = None
    exception: ExceptionRow
    action: Raw = msgspec.field(default_factory=Raw)


class PlatformRow(Struct, frozen=True):
    """What the platform said: its status code, its own name for what it did, and its words where it refused."""

    code: int | None = None
    ref: str | None = None
    text: str | None = None


class Result(Common, frozen=True, kw_only=True):
    """What became of an execute record whose platform call began.

    `by` are the people who approved it, nobody where the machine did. `key` is the idempotency key, `present` what was
    read on the platform before, by JSON pointer. `called` and `answered` are control time; None: the call was made by
    an instance that is gone, or was never answered.
    """

    status: Literal["executed", "failed", "unresolved"]
    by: tuple[str, ...] = ()
    key: str
    present: dict[str, Value | None] = {}
    called: str | None = None
    answered: str | None = None
    platform: PlatformRow = PlatformRow()
    action: Raw = msgspec.field(default_factory=Raw)


class Fact(Struct, frozen=True, kw_only=True):
    """What stands on the platform, in one field of one entity."""

    tenant: str
    entity: Entity
    field: str
    value: Value
    unit: str | None = None
    as_of: str
    source: str


class Finished(Struct, frozen=True, kw_only=True):
    """On `executor.state`: an execute record that needs nothing more. `offset` is its own.

    It counts until `keep_ms`. `attempt` is set only where it was sent back: the next attempt may run.
    """

    id: str
    end: str
    offset: int
    keep_ms: int
    attempt: int | None = None


class SentBack(Struct, frozen=True, kw_only=True):
    """On `executor.state`: `held` is the offset there of the newest record of this entity that was sent back."""

    held: int
    tenant: str
    place: str
    campaign: str | None = None


class Via(Struct, frozen=True, kw_only=True):
    """Header `hitl-via`: how an action that no publisher wrote came to an action topic."""

    role: Literal["router", "desk", "console", "control"]
    from_: str = msgspec.field(name="from")
    by: str | None = None
    supersedes: str | None = None


class Ack(Struct, frozen=True, kw_only=True):
    """What an instance says on `control.acks`, sealed: which commands it has applied, and what it still has open.

    `n` rises, for an instance name also over restarts: an ack that is repeated later counts for nothing. `open_epoch`
    is its oldest open transaction's, `calls_epoch` its oldest open platform call's. `partitions` are those that it has
    open, `claims` those of which it has a transactional producer, or is about to start one; None: it does not say.
    `fence`: the platform refuses its calls once its lease is over.
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
    claims: tuple[int, ...] | None = None
    fence: bool = False


def by_position(record: type[Struct]) -> Callable[..., Struct]:
    """Return a struct of the same members in the same order, given by position: only to be encoded, never decoded.

    Twenty-six keywords cost nearly as much as encoding the record does; by position they cost a tenth of it.
    """
    members = msgspec.structs.fields(record)
    rows = [(member.name, Any, msgspec.field(name=member.encode_name)) for member in members]
    return msgspec.defstruct(f"{record.__name__}ByPosition", rows, frozen=True, gc=False)


encode = msgspec.json.Encoder().encode
decode_decision = msgspec.json.Decoder(Decision).decode
decode_held = msgspec.json.Decoder(Held).decode
decode_approved = msgspec.json.Decoder(Approved).decode
decode_closed = msgspec.json.Decoder(Closed).decode
decode_result = msgspec.json.Decoder(Result).decode
decode_exceptional = msgspec.json.Decoder(Exceptional).decode
decode_fact = msgspec.json.Decoder(Fact).decode
decode_finished = msgspec.json.Decoder(Finished).decode
decode_sent_back = msgspec.json.Decoder(SentBack).decode
decode_ack = msgspec.json.Decoder(Ack).decode
decode_via = msgspec.json.Decoder(Via).decode

VIA_HEADER = "hitl-via"
TRACE_HEADER = "traceparent"
DECISION = "decision/1"
CLOSED = "closed/1"
RESULT = "result/1"
FACT = "fact/1"
FINISHED = "finished/1"
SENT_BACK = "sent_back/1"
VIA = "via/1"
ACK = "ack/1"

ERROR_HEADER = "hitl-error"
WHY_HEADER = "hitl-why"
SOURCE_HEADER = "hitl-source"
APPENDED_HEADER = "hitl-appended"
BY_HEADER = "hitl-by"
LENGTH_HEADER = "hitl-length"
SHA256_HEADER = "hitl-sha256"


def held_value(decision: bytes, parked: Parked) -> bytes:
    """Return the value of a decision that is parked: its own bytes, with `parked` before the action.

    A decision that was parked before loses what it said of that. Raises `ValueError` where it carries no action.
    """
    cut = decision.find(ACTION_MARK)
    if cut < 0:
        raise ValueError("a decision without an action cannot be parked")
    head = decision[:cut]
    earlier = head.rfind(PARKED_MARK)
    if earlier >= 0 and head.endswith(b"}") and _is_parked(head[earlier + len(PARKED_MARK) :]):
        head = head[:earlier]
    return head + PARKED_MARK + encode(parked) + decision[cut:]


def _is_parked(tail: bytes) -> bool:
    try:
        msgspec.json.decode(tail, type=Parked)
    except msgspec.DecodeError:
        return False
    return True


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
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=4_096)
def _second(seconds: int) -> str:
    """Write a second; the times in a record, and in records side by side, share few of them."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def execute_by_ms(decision: Common) -> int:
    """Return until when a decision may run, in milliseconds since 1970; 0 where it does not say.

    Raises `ValueError` or `OverflowError` for what is no time with an offset.
    """
    if not decision.execute_by:
        return 0
    until = datetime.fromisoformat(decision.execute_by)
    if until.tzinfo is None:
        raise ValueError(f"{decision.execute_by!r:.60} has no offset from UTC")
    return milliseconds(until)


def traces(headers: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """Return the header that carries the trace on; headers are not sealed, so anything may stand in them."""
    return [(name, content) for name, content in headers if name == TRACE_HEADER and trace_of(content) is not None][:1]
