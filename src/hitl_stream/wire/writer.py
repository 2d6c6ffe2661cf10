"""Writing decisions and ends: a template instead of an encoder, because every action passes here once.

`tests/wire/test_writer.py` holds the template against the definitions in `records`: whatever is written decodes to the
same values.
"""

from __future__ import annotations

import json.encoder
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from hitl_stream.core.action import Action, Entity
from hitl_stream.core.events import End, Outcome, Why
from hitl_stream.core.policy.compile import EXECUTE_BY_MAX_MS, GRACE_MS, Compiled
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import Route
from hitl_stream.core.score import PARTS, Scale, Score
from hitl_stream.wire.records import ACTION_MARK, milliseconds, time_text

quoted = json.encoder.encode_basestring
"""A JSON string with its quotes, in C; non-ASCII stays as it is."""

SHARES = tuple(f"{i / 100:g}}}," for i in range(102))
"""The end of a score's part, by hundredths; one more than needed, for what rounding adds to a whole."""
LEAST_SHOWN = 0.00005
NAMES = ("", *(outcome.name for outcome in Outcome))
"""By number: an enum's own `name` costs more than a head's every other field."""


class Writer:
    """Writes the heads of one batch: what all its records share is formatted once."""

    def __init__(self, policy: Compiled, now_ms: int, epoch: int, held: int) -> None:
        self.now_ms = now_ms
        self.policy = policy
        self._size, self._doubt, self._unusual, self._missing, self._money = _starts(policy.scale)
        self._moment = time_text(now_ms)
        self._epoch = f'"policy":"{policy.digest}","epoch":{epoch}'
        self._held = f'"held":{held},"moment":"{self._moment}"'
        self._grace = time_text(now_ms + GRACE_MS)
        self._sla: dict[int, str] = {}

    def common(
        self,
        action: Action,
        tenant: str,
        entity: Entity,
        digest: str,
        ce: Sequence[tuple[str, str]],
        route: Route,
        purpose: str,
    ) -> str:
        """Write `tenant` to `epoch`."""
        agent, cls = action.agent, route.cls
        account, campaign = entity.account, entity.campaign
        reasons = _reasons(route.reasons) if route.reasons else "[]"
        approvals = self._approvals(route) if route.approvals else "[]"
        until = self._grace if action.expires_at is None and not route.approvals else self._execute_by(action, route)
        return (
            f'"tenant":{quoted(tenant)},"action_id":{quoted(action.action_id)},"hash":"{digest}",'
            f'"ce":{orjson.dumps(dict(ce)).decode() if ce else "{}"},'
            f'"type":{quoted(action.type)},"level":{cls.level_text},'
            f'"agent":{{"id":{quoted(agent.id)},"version":{quoted(agent.version)}}},"entity":{{'
            f'"account":{"null" if account is None else quoted(account)},'
            f'"campaign":{"null" if campaign is None else quoted(campaign)}}},"outcome":"{NAMES[route.outcome]}",'
            f'"purpose":"{purpose}","for":null,"reasons":{reasons},"approvals":{approvals},'
            f'"execute_by":"{until}","score":{self._score(route.score)},"audit":{{"p":{cls.audit_text}}},{self._epoch}'
        )

    def decision(
        self,
        origin: str,
        common: str,
        trace: str | None,
        by: str | None,
        supersedes: str | None,
    ) -> bytes:
        """Write the head of a decision: everything before the action."""
        return (
            f'{{"id":"{origin}#0","origin":"{origin}","attempt":0,{common},{self._held},'
            f'"trace":{_text(trace)},"by":{_text(by)},"supersedes":{_text(supersedes)}'
        ).encode()

    def closed(self, origin: str, end: End, why: Why, common: str, trace: str | None) -> bytes:
        """Write the head of an end without execution."""
        return (
            f'{{"id":"{origin}#0","end":"{end}","why":"{why}",{common},"by":[],"code":null,"note":null,'
            f'"moment":"{self._moment}","trace":{_text(trace)}'
        ).encode()

    def execute_by_ms(self, action: Action, route: Route) -> int:
        """Return until when the action may run: its own end, else the last decision's plus the grace time."""
        latest = self.now_ms + EXECUTE_BY_MAX_MS
        if action.expires_at is not None:
            # Not before 1970: what ended then is closed all the same, and year 0 cannot be written.
            return min(max(milliseconds(action.expires_at), 0), latest)
        last = max((approval.sla_ms for approval in route.approvals), default=0)
        return min(self.now_ms + last + GRACE_MS, latest)

    def _execute_by(self, action: Action, route: Route) -> str:
        return time_text(self.execute_by_ms(action, route))

    def _approvals(self, route: Route) -> str:
        rows: list[dict[str, Any]] = []
        for approval in route.approvals:
            decide_by = self._sla.get(approval.sla_ms)
            if decide_by is None:
                decide_by = self._sla[approval.sla_ms] = time_text(self.now_ms + approval.sla_ms)
            rows.append({"queue": approval.queue, "people": approval.people, "decide_by": decide_by})
        return orjson.dumps(rows).decode()

    def _score(self, score: Score) -> str:
        """Write the total and the parts that added to it, each to a hundredth."""
        total = score.total
        if total < LEAST_SHOWN:
            return '{"total":0.0,"parts":[]}'
        scale = self.policy.scale
        percent = 100.0 / total
        text = ""
        if (x := score.size) >= LEAST_SHOWN:
            text = f"{self._size[int(x * 100.0 + 0.5)]}{SHARES[int(x * scale.size * percent + 0.5)]}"
        if (x := score.doubt) >= LEAST_SHOWN:
            text += f"{self._doubt[int(x * 100.0 + 0.5)]}{SHARES[int(x * scale.doubt * percent + 0.5)]}"
        if (x := score.unusual) >= LEAST_SHOWN:
            text += f"{self._unusual[int(x * 100.0 + 0.5)]}{SHARES[int(x * scale.unusual * percent + 0.5)]}"
        if (x := score.missing) >= LEAST_SHOWN:
            text += f"{self._missing[int(x * 100.0 + 0.5)]}{SHARES[int(x * scale.missing * percent + 0.5)]}"
        if (x := score.money) >= LEAST_SHOWN:
            text += f"{self._money[int(x * 100.0 + 0.5)]}{SHARES[int(x * scale.money * percent + 0.5)]}"
        return f'{{"total":{total:.4f},"parts":[{text[:-1]}]}}'


@lru_cache(maxsize=16)
def _starts(scale: Scale) -> tuple[tuple[str, ...], ...]:
    """Return the beginning of each part of a score, by hundredths of its x."""
    return tuple(
        tuple(f'{{"name":"{name}","x":{i / 100:g},"w":{weight:g},"share":' for i in range(101))
        for name, weight in zip(PARTS, scale.weights, strict=True)
    )


def with_action(head: bytes, raw: bytes) -> bytes:
    """Put the original bytes behind a head."""
    return b"".join((head, ACTION_MARK, raw, b"}"))


def _text(value: str | None) -> str:
    return "null" if value is None else quoted(value)


def _reasons(reasons: Sequence[Reason]) -> str:
    rows = [
        {
            "rule": reason.rule,
            "saw": reason.saw,
            "limit": reason.limit,
            "rate": reason.rate,
            "outcome": NAMES[reason.outcome],
            "queue": reason.queue,
            "gate": reason.gate,
            "error": reason.error,
            "counts": reason.counts,
        }
        for reason in reasons
    ]
    return orjson.dumps(rows).decode()
