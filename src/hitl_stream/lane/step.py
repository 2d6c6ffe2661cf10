"""What a lane hosts: a step that decides a batch, and the state that it reads and never touches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from hitl_stream.core.errors import BrokenError

Header = tuple[str, bytes]


class Record(Protocol):
    """A record as Kafka hands it out. `timestamp` is its append time in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class Output(Struct, frozen=True, gc=False):
    """One record to be written in the batch's transaction, to a partition that the step names.

    `headers` is a list because aiokafka's record builder takes nothing else. `index` is the place in the batch of the
    record that caused it (−1: none, such as a timer).
    """

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[Header] = []
    index: int = -1


class Moment(Struct, frozen=True, gc=False):
    """What a batch is decided under: control time in milliseconds, and the last control offset applied (−1: none)."""

    now_ms: int
    epoch: int = -1


S = TypeVar("S", contravariant=True)


@dataclass(frozen=True, slots=True)
class Result:
    """What a step answers for a batch. `changes` reach the state, and `tally` the metrics, after a *known* commit.

    `taken`: how many records of the batch a pass answers (None: all); with the rest the pass ends.
    """

    outputs: Sequence[Output]
    changes: Any = None
    tally: Any = field(default=None)
    taken: int | None = None


class State(Protocol):
    """A fold over one partition of the log."""

    def size(self) -> int:
        """Return how many things are remembered, for the metrics."""

    def discard(self) -> None:
        """Give back what the process shares; the state is not used afterwards."""

    def apply(self, changes: Any) -> None:
        """Take in the changes of a batch that is known to be committed."""

    def replay(self, records: Sequence[Record]) -> None:
        """Take in records of the past without deciding them: only their bytes and append times count."""

    def next_timer_ms(self) -> int | None:
        """Say when the step wants to be called without a record (control time), or None."""

    def follows(self, topic: str) -> bool:
        """Say whether a followed topic's past is of any use; what grows is handed over in any case."""
        return True

    def follow(self, records: Sequence[Record]) -> None:
        """Take in committed records of one followed topic, or of the parked one, in their order.

        Only a lane with `followed` topics or a `parked` one calls it.
        """
        raise BrokenError(f"{type(self).__name__} does not follow {records[0].topic}")

    def outdated(self) -> bool:
        """Say whether the state must be restored anew before the next batch, since what it keeps has changed."""
        return False

    def room(self) -> bool:
        """Say whether more records may be decided. Without room the inputs wait, unread, and nothing is forgotten; what
        is followed and what lies parked goes on, so only a lane with a `parked` topic gets room again by itself."""
        return True

    def wants_pass(self, moment: Moment) -> bool:
        """Say whether what lies parked is to be looked at now."""
        return False

    def passed(self, epoch: int) -> None:
        """Hear that a pass that began at this epoch has looked at everything. Only who `wants_pass` hears it."""
        raise BrokenError(f"{type(self).__name__} wants passes and does not hear of them")


class Step(Protocol, Generic[S]):
    """A plain function over a batch of one partition. It returns outputs and changes, and touches nothing."""

    def __call__(self, batch: Sequence[Record], state: S, moment: Moment) -> Result:
        """Decide a batch; records of several inputs come merged by (append time, topic, offset)."""

    def on_timer(self, state: S, moment: Moment) -> Result:
        """Decide what is due at `moment`; every input has been read to a high watermark taken at or after it."""

    def again(self, batch: Sequence[Record], state: S, moment: Moment) -> Result:
        """Decide what lay parked. Only a lane with a `parked` topic calls it."""
        raise BrokenError(f"{type(self).__name__} does not decide what lay parked")
