"""Writing what an executor leaves of a decision: its result, its end without a call, a question to people, facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from msgspec import Raw

from hitl_stream.core.action import Change, Value
from hitl_stream.core.events import End, Outcome, Purpose, Status, Why
from hitl_stream.core.reasons import Reason
from hitl_stream.wire.records import (
    ApprovalRow,
    Approved,
    Closed,
    Exceptional,
    ExceptionRow,
    Fact,
    Held,
    PlatformRow,
    Result,
    encode,
    shared,
    time_text,
)
from hitl_stream.wire.writer import reason_row

Carried: TypeAlias = Held | Approved
"""A decision on `execute`: the router's own, or one that people approved."""
FACT_SOURCE = "executor"
TEXT_LENGTH_MAX = 500
"""Of what a platform says in words, or as the name of what it did."""


def result_value(
    decision: Carried,
    raw: bytes,
    status: Status,
    key: str,
    *,
    present: Mapping[str, Value | None],
    called_ms: int | None,
    answered_ms: int | None,
    platform: PlatformRow,
) -> bytes:
    """Return the value of a result; times are control time."""
    return encode(
        Result(
            **shared(decision),
            status=status.value,
            by=approvers(decision),
            key=key,
            present=dict(present),
            called=None if called_ms is None else time_text(called_ms),
            answered=None if answered_ms is None else time_text(answered_ms),
            platform=platform,
            action=Raw(raw),
        )
    )


def closed_value(decision: Carried, raw: bytes, end: End, why: Why, reason: Reason) -> bytes:
    """Return the value of an end without a call; what the gate saw stands behind the decision's own reasons."""
    members = shared(decision)
    members["reasons"] = (*decision.reasons, reason_row(reason))
    return encode(Closed(**members, end=end.value, why=why.value, by=approvers(decision), action=Raw(raw)))


def exceptional_value(decision: Carried, raw: bytes, text: str, queue: str, decide_by_ms: int) -> bytes:
    """Return the value of a question to people: what the platform would not do, or would not tell."""
    members = shared(decision)
    saw = cut(text)
    kind: Literal["platform"] = "platform"
    members |= {
        "outcome": Outcome.ESCALATE.name,
        "purpose": Purpose.EXCEPTION.value,
        "reasons": (*decision.reasons, reason_row(Reason(f"exception.{kind}", saw, None, Outcome.ESCALATE, queue))),
        "approvals": (ApprovalRow(queue, 1, time_text(decide_by_ms)),),
    }
    return encode(
        Exceptional(
            **members,
            origin=decision.origin,
            attempt=decision.attempt,
            held=decision.held,
            by=approvers(decision),
            supersedes=decision.supersedes,
            exception=ExceptionRow(kind, saw),
            action=Raw(raw),
        )
    )


def fact_value(tenant: str, change: Change, value: Value, at_ms: int) -> bytes:
    """Return the value of a fact: what one leg's field holds."""
    fact = Fact(
        tenant=tenant,
        entity=change.entity,
        field=change.field,
        value=value,
        unit=change.unit,
        as_of=time_text(at_ms),
        source=FACT_SOURCE,
    )
    return encode(fact)


def approvers(decision: Carried) -> tuple[str, ...]:
    """Return the people who approved it; of the router's own decisions nobody did, whoever proposed them."""
    return decision.by if isinstance(decision, Approved) else ()


def cut(text: object) -> str:
    """Return what of a platform's words is kept; adapters are anybody's code, so that they may be anything."""
    text = str(text)
    return text if len(text) <= TEXT_LENGTH_MAX else text[: TEXT_LENGTH_MAX - 1] + "…"
