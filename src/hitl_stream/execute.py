"""What a platform adapter is: the one place where a decision leaves us and something happens in the world.

```python
class Mine(Adapter):
    async def apply(self, action, idempotency_key, not_after_ms, epoch): ...
    async def read_back(self, action, idempotency_key): ...
    async def present(self, change, action): ...
```

Rules of an adapter:
1. The platform carries out one idempotency key at most once. The same bytes of an action always have the same key, so a
   call that is made again, by this process or the next one, changes nothing.
2. What cannot be known is `Unknown`, never a guess. `Failed` and `NotApplied` say that nothing has happened.
3. It never calls again by itself after a mutating request may have left this machine. Before that, and after a clear
   "not accepted", it may, as long as `not_after_ms` has not come.
4. It lets `CancelledError` through at once: a HALT cuts open calls off, half a second after it was seen.
5. It keeps nothing that it could not lose: a process may end at any moment, and another asks `read_back`.

Rules of the caller (the executor):
- What `apply` raises counts as `Unknown`, what `read_back` raises too, and what `present` raises as "cannot be read":
  there is no call then.
- `Unknown` is followed by `read_back` until that says what happened. `NotApplied` sends the action through the last
  gate again, with the same key; so `Unknown` is also the answer for "not now": a rate limit, a platform that is away.
- Methods are called concurrently, for different actions; for one entity one after another.
- `hitl_stream.testing.check_adapter` tries most of this out on an adapter of yours; docs/adapters.md shows one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from msgspec import Struct

from hitl_stream.core.action import Action, Agent, Asset, Change, Content, Entity, Value

__all__ = [
    "Action",
    "Adapter",
    "Agent",
    "Applied",
    "Applying",
    "Asset",
    "Change",
    "Content",
    "Entity",
    "Failed",
    "NotApplied",
    "ReadingBack",
    "Unknown",
    "Value",
    "traceparent",
]

traceparent: ContextVar[str] = ContextVar("traceparent", default="")
"""The W3C `traceparent` of the action that is being carried out; empty where it has none. Set by the caller."""


class Applied(Struct, frozen=True):
    """It has happened.

    `ref`: the platform's own name for it. `code`: the platform's status. `present`: what stands there now, by change,
    as far as the platform says it: `{"/changes/0": "1.30"}`.
    """

    ref: str | None = None
    code: int | None = None
    present: Mapping[str, Value] = {}


class Failed(Struct, frozen=True):
    """The platform said no, nothing has happened, and asking again would not help: final.

    `text` is shown to people: what the platform said, without secrets.
    """

    code: int | None
    text: str


class NotApplied(Struct, frozen=True):
    """It has not happened.

    Of a call that was cut off this is true for now only: it may still arrive until its `not_after_ms`, and later where
    nothing enforces that. Who can see that it is under way answers `Unknown`.
    """


class Unknown(Struct, frozen=True):
    """Nobody can say whether it has happened; or it has not, and may be tried again. `text` says why."""

    text: str


Applying: TypeAlias = Applied | Failed | Unknown
"""What `apply` answers."""
ReadingBack: TypeAlias = Applied | NotApplied | Unknown
"""What `read_back` answers."""


class Adapter(Protocol):
    """Speaks with one platform. Entered once before the first call, left once after the last (`async with`).

    `action.tenant` is always filled in by the caller, also where the action's bytes name none.
    """

    fence: bool = False
    """True: the platform, or an egress gateway before it, refuses a call that arrives, or would take effect, after its
    `not_after_ms`, and one with a lower `epoch` than it was told of. Only then is a process that hangs in a call known
    to do no harm once its lease is over; claiming it falsely takes the safety out of a kill switch."""

    async def __aenter__(self) -> Self:
        """Open connections; raise `SettingsError` for what a person must mend."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them."""

    @abstractmethod
    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        """Carry the action out, all of its changes or none.

        `idempotency_key`: up to some 470 characters of any kind. `not_after_ms`: control time, in milliseconds since
        1970, after which the platform must not carry it out any more (the end of our lease). `epoch`: offset of the
        last control command that the decision to call was based on.
        """

    @abstractmethod
    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        """Say what became of a key, whoever used it. It changes nothing, however often it is asked."""

    @abstractmethod
    async def present(self, change: Change, action: Action) -> Value | None:
        """Return the value that stands on the platform now, in the change's unit; None: there is no such thing.

        Read from the platform, never from `change.before`, which is only what the agent claims.
        """
