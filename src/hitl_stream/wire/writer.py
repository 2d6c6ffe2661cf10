"""Writing decisions and ends, by the definitions in `records`: every action passes here once."""

from __future__ import annotations

from typing import Any, cast

from msgspec import Raw

from hitl_stream.core.action import Action, Entity
from hitl_stream.core.events import End, Outcome, Purpose, Why
from hitl_stream.core.policy.compile import EXECUTE_BY_MAX_MS, GRACE_MS, Compiled
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import Approval, Route
from hitl_stream.core.score import PARTS, Score
from hitl_stream.wire.codec import Decoded
from hitl_stream.wire.records import (
    ApprovalRow,
    AuditRow,
    Closed,
    Decision,
    OutcomeName,
    ReasonRow,
    ScorePart,
    ScoreRow,
    encode,
    head_before,
    milliseconds,
    time_text,
)

_ALL = cast("tuple[OutcomeName, ...]", tuple(outcome.name for outcome in Outcome))
NAMES: tuple[OutcomeName, ...] = ("EXECUTE", *_ALL)
"""By number, from 1; an enum's own `name` is slow."""
HUNDREDTHS = tuple(i / 100 for i in range(102))
"""Numbers with two digits, by hundredths; one more than needed, for what rounding adds to a whole."""
LEAST_SHOWN = 0.00005
NO_SCORE = ScoreRow(0.0)


class Writer:
    """Writes the records of one batch: what they all share is made once."""

    def __init__(self, policy: Compiled, now_ms: int, epoch: int, held: int) -> None:
        self.now_ms = now_ms
        self.policy = policy
        self._epoch = epoch
        self._held = held
        self._moment = time_text(now_ms)
        self._grace = time_text(now_ms + GRACE_MS)
        self._audits: dict[float, AuditRow] = {}
        self._times: dict[int, str] = {}

    def decision(
        self,
        place: str,
        decoded: Decoded,
        tenant: str,
        entity: Entity,
        route: Route,
        trace: str | None = None,
        by: str | None = None,
        supersedes: str | None = None,
        purpose: Purpose = Purpose.DECIDE,
    ) -> tuple[bytes, bytes]:
        """Return (head, value) of a decision."""
        value = encode(
            Decision(
                **self._common(place, decoded, tenant, entity, route, trace, purpose),
                origin=place,
                held=self._held,
                by=by,
                supersedes=supersedes,
                action=Raw(decoded.raw),
            )
        )
        return head_before(value, decoded.raw), value

    def closed(
        self,
        place: str,
        end: End,
        why: Why,
        decoded: Decoded,
        tenant: str,
        entity: Entity,
        route: Route,
        trace: str | None = None,
    ) -> tuple[bytes, bytes]:
        """Return (head, value) of an end without execution; a duplicate carries no action, so its value is its head."""
        common = self._common(place, decoded, tenant, entity, route, trace, Purpose.DECIDE)
        value = encode(Closed(**common, end=end.value, why=why.value, action=Raw(decoded.raw)))
        head = head_before(value, decoded.raw)
        return (head + b"}", head + b"}") if why is Why.DUPLICATE else (head, value)

    def execute_by_ms(self, action: Action, route: Route) -> int:
        """Return until when the action may run: its own end, else the last decision's plus the grace time."""
        latest = self.now_ms + EXECUTE_BY_MAX_MS
        if action.expires_at is not None:
            # Not before 1970: what ended then is closed all the same, and year 0 cannot be written.
            return min(max(milliseconds(action.expires_at), 0), latest)
        last = max((approval.sla_ms for approval in route.approvals), default=0)
        return min(self.now_ms + last + GRACE_MS, latest)

    def _common(
        self,
        place: str,
        decoded: Decoded,
        tenant: str,
        entity: Entity,
        route: Route,
        trace: str | None,
        purpose: Purpose,
    ) -> dict[str, Any]:
        action, cls = decoded.action, route.cls
        audit = self._audits.get(cls.audit_p)
        if audit is None:
            audit = self._audits[cls.audit_p] = AuditRow(cls.audit_p)
        plain = action.expires_at is None and not route.approvals
        return {
            "id": f"{place}#0",
            "tenant": tenant,
            "action_id": action.action_id,
            "hash": decoded.hash,
            "ce": dict(decoded.ce),
            "type": action.type,
            "level": cls.level_number,
            "agent": action.agent,
            "entity": entity,
            "outcome": NAMES[route.outcome],
            "purpose": purpose,
            "reasons": [_reason(reason) for reason in route.reasons] if route.reasons else (),
            "approvals": [self._approval(approval) for approval in route.approvals] if route.approvals else (),
            "execute_by": self._grace if plain else time_text(self.execute_by_ms(action, route)),
            "score": self._score(route.score),
            "audit": audit,
            "policy": self.policy.digest,
            "epoch": self._epoch,
            "moment": self._moment,
            "trace": trace,
        }

    def _approval(self, approval: Approval) -> ApprovalRow:
        decide_by = self._times.get(approval.sla_ms)
        if decide_by is None:
            decide_by = self._times[approval.sla_ms] = time_text(self.now_ms + approval.sla_ms)
        return ApprovalRow(approval.queue, approval.people, decide_by)

    def _score(self, score: Score) -> ScoreRow:
        """Return the total, and the parts that added to it, each to a hundredth."""
        total = score.total
        if total < LEAST_SHOWN:
            return NO_SCORE
        percent = 100.0 / (total * self.policy.scale.sum)
        parts = []
        xs = (score.size, score.doubt, score.unusual, score.missing, score.money)
        for name, x, weight in zip(PARTS, xs, self.policy.scale.weights):  # noqa: B905 - strict costs, five each
            if x >= LEAST_SHOWN:
                share = HUNDREDTHS[int(x * weight * percent + 0.5)]
                parts.append(ScorePart(name, HUNDREDTHS[int(x * 100.0 + 0.5)], weight, share))
        return ScoreRow(int(total * 10_000.0 + 0.5) / 10_000.0, tuple(parts))


def _reason(reason: Reason) -> ReasonRow:
    return ReasonRow(
        rule=reason.rule,
        saw=reason.saw,
        outcome=NAMES[reason.outcome],
        limit=reason.limit,
        rate=reason.rate,
        queue=reason.queue,
        gate=reason.gate,
        error=reason.error,
        counts=reason.counts,
    )
