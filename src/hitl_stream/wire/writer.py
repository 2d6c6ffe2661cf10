"""Writing decisions and ends, by the definitions in `records`: every action passes here once."""

from __future__ import annotations

from typing import Any, cast

from msgspec import Raw

from hitl_stream.core.action import Action, Entity
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.events import End, Outcome, Purpose, Why
from hitl_stream.core.policy.compile import EXECUTE_BY_MAX_MS, GRACE_MS, Compiled
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import Approval, Route
from hitl_stream.core.score import PARTS, Score
from hitl_stream.wire.codec import Decoded
from hitl_stream.wire.records import (
    ACTION_MARK,
    ApprovalRow,
    AuditRow,
    Closed,
    Decision,
    OutcomeName,
    ReasonRow,
    ScorePart,
    ScoreRow,
    by_position,
    encode,
    time_text,
)

_ALL = cast("tuple[OutcomeName, ...]", tuple(outcome.name for outcome in Outcome))
NAMES: tuple[OutcomeName, ...] = ("EXECUTE", *_ALL)
"""By number, from 1; an enum's own `name` is slow."""
HUNDREDTHS = tuple(i / 100 for i in range(102))
"""Numbers with two digits, by hundredths; one more than needed, for what rounding adds to a whole."""
LEAST_SHOWN = 0.00005
NO_SCORE = ScoreRow(0.0)
NO_CE: dict[str, str] = {}
TAIL_BYTES = len(ACTION_MARK) + 1
"""What stands around the action at the end of a value."""
_decision = by_position(Decision)
_closed = by_position(Closed)


class Writer:
    """Writes the records of one batch: what they all share is made once."""

    def __init__(self, policy: Compiled, now_ms: int, epoch: int, held: int) -> None:
        self.now_ms = now_ms
        self.policy = policy
        self._weights = policy.scale.weights
        self._weights_sum = policy.scale.sum
        self._epoch = epoch
        self._held = held
        self._moment = time_text(now_ms)
        self._digest = policy.digest
        self._grace = time_text(now_ms + GRACE_MS)
        self._audits: dict[float, AuditRow] = {}
        self._times: dict[int, str] = {}
        self.attempt = 0
        """Which attempt of its action the next record is: it rises when the executor sent the one before back."""

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
        common = self._common(place, decoded, tenant, entity, route, trace, purpose)
        raw = decoded.raw
        value = encode(_decision(*common, place, self.attempt, self._held, by, supersedes, Raw(raw)))
        return value[: -(TAIL_BYTES + len(raw))], value

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
        raw = decoded.raw
        value = encode(_closed(*common, end.value, why.value, (), None, None, Raw(raw)))
        head = value[: -(TAIL_BYTES + len(raw))]
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
    ) -> tuple[Any, ...]:
        """Return the members of `records.Common`, in their order."""
        action, cls, reasons, approvals = decoded.action, route.cls, route.reasons, route.approvals
        plain = action.expires_at is None and not approvals
        return (
            f"{place}#{self.attempt}",
            tenant,
            action.action_id,
            decoded.hash,
            dict(decoded.ce) if decoded.ce else NO_CE,
            action.type,
            cls.level_number,
            action.agent,
            entity,
            NAMES[route.outcome],
            purpose,
            None,
            [reason_row(reason) for reason in reasons] if reasons else (),
            [self._approval(approval) for approval in approvals] if approvals else (),
            self._grace if plain else time_text(self.execute_by_ms(action, route)),
            self._score(route.score),
            self._audits.get(cls.audit_p) or self._audit(cls.audit_p),
            self._digest,
            self._epoch,
            self._moment,
            trace,
        )

    def _audit(self, p: float) -> AuditRow:
        audit = self._audits[p] = AuditRow(p)
        return audit

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
        percent = 100.0 / (total * self._weights_sum)
        parts = []
        xs = (score.size, score.doubt, score.unusual, score.missing, score.money)
        for name, x, weight in zip(PARTS, xs, self._weights):  # noqa: B905 - strict costs, five each
            if x >= LEAST_SHOWN:
                share = HUNDREDTHS[int(x * weight * percent + 0.5)]
                parts.append(ScorePart(name, HUNDREDTHS[int(x * 100.0 + 0.5)], weight, share))
        return ScoreRow(int(total * 10_000.0 + 0.5) / 10_000.0, tuple(parts))


def reason_row(reason: Reason) -> ReasonRow:
    """Return a reason as explanations show it."""
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
