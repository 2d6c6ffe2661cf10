"""Writing what the desk leaves of a judgement: the end it means, the decision, what can be learned from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Raw

from hitl_stream.core.action import Action
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.dwell import assets_shown, words_shown
from hitl_stream.core.events import Effect, End, Purpose, Why
from hitl_stream.core.review import Review
from hitl_stream.core.verdicts import Judged, PairChoice, Qualified, Skipped, Verdict
from hitl_stream.wire.desk_records import (
    DiffRow,
    Feedback,
    HumanDecision,
    Observation,
    Pair,
    Preference,
    ms_of,
)
from hitl_stream.wire.records import Closed, Decision, First, Held, encode, shared, time_text


def closed_value(
    decision: Decision, raw: bytes, end: End, why: Why, by: Sequence[str], code: str | None, note: str | None
) -> bytes:
    """Return the value of an end without execution; `by` are the people who decided, nobody where time did."""
    record = Closed(
        **shared(decision), end=end.value, why=why.value, by=tuple(by), code=code, note=note, action=Raw(raw)
    )
    return encode(record)


def decision_value(
    claims: Judged,
    *,
    item: str,
    n: int,
    action_hash: str,
    effect: Effect,
    why: str | None,
    appended_ms: int,
    source: str,
    jws: str,
    shown: str,
    asked: str | None = None,
    review: Review | None = None,
    queue: str | None = None,
    decision: Decision | None = None,
    raw: bytes | None = None,
) -> bytes:
    """Return the value of one judgement on `decisions`; of an item that nobody knows there is only what it claims."""
    verdict = claims if isinstance(claims, Verdict) else None
    latency_s = None if decision is None else (appended_ms - ms_of(decision.moment)) / 1000
    record = HumanDecision(
        item=item,
        n=n,
        tenant="" if decision is None else decision.tenant,
        action_id="" if decision is None else decision.action_id,
        hash=action_hash,
        purpose=None if review is None else review.purpose.value,
        queue=queue,
        by=claims.by,
        role=claims.role,
        verdict=_word(claims),
        code=None if verdict is None else verdict.code,
        errors=() if verdict is None else verdict.errors,
        note=None if verdict is None else verdict.note,
        effect=effect.value,
        why=why,
        routed=None if decision is None else decision.moment,
        painted=time_text(milliseconds(claims.painted)),
        decided=time_text(milliseconds(claims.decided)),
        appended=time_text(appended_ms),
        latency_s=latency_s,
        source=source,
        jws=jws,
        shown=shown,
        asked=asked,
        action=Raw(b"null" if raw is None else raw),
    )
    return encode(record)


OBJECTS = ("reject", "change", "escalate")
"""The words by which somebody says that not everything is right; a canary is caught by any of them."""
ASKS = ("REVIEW", "ESCALATE")
QUIZ = "quiz"
PASSED = "passed"


def observation_value(
    claims: Judged,
    review: Review,
    queue: str,
    decision: Held,
    action: Action,
    first: First | None = None,
    under: Sequence[str] = (),
) -> bytes:
    """Return the value of an observation of one person judging, skipping or letting go of one item.

    `review` is the item as it was before, `under` names the gates that look at it, besides those that said something.
    """
    verdict = claims if isinstance(claims, Verdict) else None
    judges_canary = review.purpose is Purpose.CANARY and verdict is not None
    shown_ms, decided_ms = milliseconds(claims.painted), milliseconds(claims.decided)
    record = Observation(
        item=review.item,
        reviewer=claims.by,
        tenant=decision.tenant,
        queue=queue,
        class_=decision.type,
        agent=decision.agent,
        purpose=review.purpose.value,
        verdict=_word(claims),
        code=None if verdict is None else verdict.code,
        errors=() if verdict is None else verdict.errors,
        gates=gates_of(decision, under),
        again=bool(review.by),
        planted=decision.planted if review.purpose is Purpose.CANARY else None,
        caught=_word(claims) in OBJECTS if judges_canary else None,
        first=first,
        shown_at=time_text(shown_ms),
        decided_at=time_text(decided_ms),
        dwell_s=max(0, decided_ms - shown_ms) / 1000,
        floor_s=review.floor_ms / 1000,
        words=words_shown(action),
        assets=assets_shown(action),
        score=None if decision.score is None else decision.score.total,
        p=None if decision.audit is None else decision.audit.p,
        policy=decision.policy,
    )
    return encode(record)


def gates_of(decision: Held, under: Sequence[str]) -> tuple[str, ...]:
    """Return the gates that look at an item, each once."""
    return tuple(dict.fromkeys((*under, *(reason.gate for reason in decision.reasons if reason.gate is not None))))


def asking_gates(decision: Held) -> tuple[str, ...]:
    """Return the gates because of which people are asked, each once."""
    asking = (row.gate for row in decision.reasons if row.gate and row.counts and row.outcome in ASKS)
    return tuple(dict.fromkeys(asking))


def qualified_value(claims: Qualified) -> bytes:
    """Return the value of an observation of one person passing a quiz: of no item, in every queue."""
    record = Observation(
        item="",
        reviewer=claims.by,
        tenant="",
        queue="",
        class_=claims.class_,
        purpose=QUIZ,
        verdict=PASSED,
        shown_at=time_text(milliseconds(claims.painted)),
        decided_at=time_text(milliseconds(claims.decided)),
        dwell_s=0.0,
        floor_s=0.0,
        words=0,
        assets=0,
        policy=claims.policy,
    )
    return encode(record)


def feedback_value(
    verdict: Verdict, decision: Decision, diff: Sequence[tuple[str, Any, Any]], appended_ms: int
) -> bytes:
    """Return what the agent can learn of a rejection or a change."""
    record = Feedback(
        item=verdict.item,
        tenant=decision.tenant,
        action_id=decision.action_id,
        agent=decision.agent,
        verdict=verdict.verdict,
        code=verdict.code,
        errors=verdict.errors,
        note=verdict.note,
        diff=tuple(DiffRow(path, before, after) for path, before, after in diff),
        by=verdict.by,
        at=time_text(appended_ms),
    )
    return encode(record)


def preference_value(claims: PairChoice, pair: Pair, appended_ms: int) -> bytes:
    """Return what a labeller prefers: chosen and rejected, both null for a tie and where both are bad."""
    texts = {"left": pair.a if claims.left == "a" else pair.b, "right": pair.b if claims.left == "a" else pair.a}
    chosen = texts.get(claims.choice)
    rejected = None if chosen is None else texts["right" if claims.choice == "left" else "left"]
    record = Preference(
        pair=pair.pair,
        tenant=pair.tenant,
        prompt=pair.prompt,
        chosen=chosen,
        rejected=rejected,
        choice=claims.choice,
        left=claims.left,
        by=claims.by,
        at=time_text(appended_ms),
    )
    return encode(record)


def _word(claims: Judged) -> str:
    if isinstance(claims, Verdict):
        return claims.verdict
    return claims.how if isinstance(claims, Skipped) else "release"
