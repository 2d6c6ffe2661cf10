"""What keeps drills off the platform: actions of the reserved tenant go through every gate, and then nothing is called.

Who writes such an action is the control role, under its own seal (`lane.drill`); routers refuse it from anybody else.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from hitl_stream.core.action import Action, Change, Value
from hitl_stream.core.control import DRILL
from hitl_stream.core.switches import folded
from hitl_stream.execute import Adapter, Applied, Applying, ReadingBack

REF = "drill"
_TENANT = folded(DRILL[0].partition(":")[2])


class Rehearsed(Adapter):
    """An adapter that answers for drills itself, and asks another one about everything else."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.fence = adapter.fence

    async def __aenter__(self) -> Self:
        """Open the other's connections."""
        await self.adapter.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""
        await self.adapter.__aexit__(kind, error, trace)

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        """Carry out an action, a drill's on paper only."""
        if is_drill(action):
            return Applied(REF)
        return await self.adapter.apply(action, idempotency_key, not_after_ms, epoch)

    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        """Say what became of a key; whatever a drill has called for has happened."""
        return Applied(REF) if is_drill(action) else await self.adapter.read_back(action, idempotency_key)

    async def present(self, change: Change, action: Action) -> Value | None:
        """Return the value that stands on the platform; of a drill, the one that it starts from."""
        return change.before if is_drill(action) else await self.adapter.present(change, action)


def is_drill(action: Action) -> bool:
    """Say whether an action is a drill's."""
    return folded(action.tenant) == _TENANT
