"""Where a site watches nobody: queues as a whole, and of people nothing.

All who judge in one partition are folded together, under a name that is nobody's. No level comes of it, no alarm, no
canary is drawn and nothing is judged again; what is left are shares of a queue. Whoever was watched before is forgotten
as soon as their partition is read, and their level taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from hitl_stream.core.vigilance import Level, Queue
from hitl_stream.roles.monitor_state import Figures, Kept, Place, parts_of, taken
from hitl_stream.wire.watched import Observed

EVERYBODY = "everybody-"
"""No pseudonym begins so; the number of the partition follows, since each has a table of its own."""


def everybody(partition: int) -> str:
    """Return the name under which all who judge in a partition are kept."""
    return f"{EVERYBODY}{partition}"


def taken_together(kept: Kept, observed: Observed, place: Place, usual: Callable[[], Queue]) -> Kept:
    """Return what is kept of everybody after one more judgement: shares, and never a level.

    Nobody's last decision is known here, so an item was looked at since it was on the screen.
    """
    after = taken(replace(kept, watch=replace(kept.watch, last_ms=0)), observed, place, usual)
    return replace(after, let_go=(), paged=(), watch=replace(after.watch, level=Level.NONE, signs=()))


def watched_before(people: Iterable[tuple[bytes, Kept]], partition: int) -> dict[str, Level]:
    """Return who is kept by a pseudonym in a partition, and the highest level of each."""
    found: dict[str, Level] = {}
    for key, kept in people:
        person = parts_of(key)[0]
        if kept.partition == partition and not person.startswith(EVERYBODY):
            found[person] = max(found.get(person, Level.NONE), kept.watch.level)
    return found


def without_people(figures: Figures) -> Figures:
    """Return what is known of a queue without how many people that is: nobody counts them."""
    return replace(figures, reviewers=None)
