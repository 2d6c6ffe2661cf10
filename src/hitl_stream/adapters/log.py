"""The adapter that does nothing: it logs what it would have done, for a first look and for shadow running.

It answers `Applied` and remembers the keys of this process, so that everything around it runs as it will. Nothing is
read either: `present` answers what the agent claims, so nothing is ever stale, and no fact can be learned from it.
"""

from __future__ import annotations

from collections import OrderedDict

import structlog

from hitl_stream.adapters import Clock
from hitl_stream.core.action import NUMBER, Action, Change, Entity, Value
from hitl_stream.execute import Adapter, Applied, Applying, NotApplied, ReadingBack, Unknown

KEYS_MAX = 100_000
"""Keys remembered, some 30 MB; an older one is as if it had never been."""
CHANGES_SHOWN = 20


class LogAdapter(Adapter):
    """Logs one line, `would have been carried out`, for each action."""

    fence = True
    """Nothing ever takes effect, so nothing does so late."""

    def __init__(self, now_ms: Clock, keys_max: int = KEYS_MAX) -> None:
        self._now_ms = now_ms
        self._keys_max = int(keys_max)
        self._keys: OrderedDict[str, str] = OrderedDict()
        self._log = structlog.get_logger()
        self._count = 0

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        """Log it, once for each key."""
        if idempotency_key in self._keys:
            return Applied(self._keys[idempotency_key])
        if self._now_ms() > not_after_ms:
            return Unknown("not_after was over; nothing was logged as done")
        self._count += 1
        ref = self._keys[idempotency_key] = f"log-{self._count}"
        while len(self._keys) > self._keys_max:
            self._keys.popitem(last=False)
        self._log.info(
            "would have been carried out",
            action_id=f"{action.tenant}/{action.action_id}",
            type=action.type,
            destination=action.destination,
            changes=[_change(change) for change in action.changes[:CHANGES_SHOWN]],
            changes_count=len(action.changes),
            epoch=epoch,
            ref=ref,
        )
        return Applied(ref)

    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        """Look among the keys of this process."""
        ref = self._keys.get(idempotency_key)
        return NotApplied() if ref is None else Applied(ref)

    async def present(self, change: Change, action: Action) -> Value | None:
        """Return what the agent claims: nothing is read."""
        return change.before


def _change(change: Change) -> str:
    unit = f" {change.unit}" if change.unit else ""
    return f"{_place(change.entity)} {change.field}: {_value(change.before)} → {_value(change.after)}{unit}"


def _place(entity: Entity) -> str:
    return "/".join(part for part in (entity.account, entity.campaign) if part is not None) or "–"


def _value(value: Value | None) -> str:
    """Write a number or a flag; a text may be somebody's content, which logs do not hold."""
    if isinstance(value, str) and NUMBER.match(value) is None:
        return f"<{len(value)} characters>"
    return "–" if value is None else str(value)
