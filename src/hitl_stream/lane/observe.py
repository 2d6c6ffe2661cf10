"""What a lane tells whoever watches it: plain calls in the past tense, once per batch or rarer, never once per event.

The lane knows nothing about metrics and the metrics know nothing about the lane; they meet in `LaneObserver`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class LaneObserver(Protocol):
    """A lane's listener. A call must not block and must not raise; seconds are measured on a monotonic clock."""

    def committed(
        self, partition: int, records: int, decide_s: float, commit_s: float, ages_ms: Sequence[int], tally: Any
    ) -> None:
        """A batch is known to be committed. `ages_ms`: control time at commit minus each event's append time."""

    def aborted(self, partition: int, why: str) -> None:
        """A batch was not committed, or nobody knows; `why` is a `core.events.Abort`."""

    def opening(self, partition: int) -> None:
        """The partition was assigned; its state is being restored."""

    def opened(self, partition: int, seconds: float, restored: int) -> None:
        """The partition decides from now on; `restored` records were read back for its state."""

    def closed(self, partition: int) -> None:
        """The partition is no longer ours, or is to be opened anew."""

    def lagged(self, partition: int, records: int, seconds: float) -> None:
        """So many committed inputs wait; the oldest of them for so long."""

    def window(self, partition: int, ids: int) -> None:
        """The de-duplication window of the partition remembers so many ids."""


class Silent:
    """A `LaneObserver` that listens to nothing."""

    def committed(
        self, partition: int, records: int, decide_s: float, commit_s: float, ages_ms: Sequence[int], tally: Any
    ) -> None:
        """Ignore it."""

    def aborted(self, partition: int, why: str) -> None:
        """Ignore it."""

    def opening(self, partition: int) -> None:
        """Ignore it."""

    def opened(self, partition: int, seconds: float, restored: int) -> None:
        """Ignore it."""

    def closed(self, partition: int) -> None:
        """Ignore it."""

    def lagged(self, partition: int, records: int, seconds: float) -> None:
        """Ignore it."""

    def window(self, partition: int, ids: int) -> None:
        """Ignore it."""
