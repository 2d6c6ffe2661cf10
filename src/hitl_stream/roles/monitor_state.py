"""What the monitor keeps of people, and what one more judgement makes of it: a pure fold over `observations`.

Of each person, by a pseudonym, and queue there is one value, `Kept`. It says which judgement was the last in it, so one
that is read twice counts once. All that a person did lies in one partition, so the order is that of the log.

Rules:
- What a person is compared with is their queue as it was until the day before; it is written down at the first
  judgement of a day. So the fold is the same whoever repeats it, and nobody is compared with what they do now.
- A canary that was let go is put to the same person again, and the second time it is missed.
- The newest approvals are remembered by their items, for whoever has to look at them again.
- Shares are from 0 to 1, days are counted since 1970 by append time, in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.events import Purpose
from hitl_stream.core.vigilance import (
    LEVELS,
    ROWS,
    Level,
    Looked,
    Page,
    Queue,
    Sign,
    Watch,
    hurried_share,
    looked,
    page,
    queue_level,
    recheck,
)
from hitl_stream.wire.watched import Observed

DAYS_KEPT = 30
LET_GO_MAX = 100
"""Canaries of one person that wait to be put to them again."""
CHUNK = 50
"""Approvals in one value: about a kilobyte, written anew with each of them."""
CHUNKS = 10
APPROVALS_MAX = CHUNK * CHUNKS
"""Of one person and queue. Who approves more before anybody notices is judged again by these."""
PEOPLE_MAX = 500
"""In one partition. Then whoever has not judged for longest is forgotten; the watched ones come last."""
FORGET_DAYS = 90
ACTIVE_DAYS = 1
"""Whoever has judged today or yesterday is one of the reviewers of a queue."""
OBJECTS = ("reject", "change", "escalate")
LETS_GO = ("skip", "lapse")
APART = "\0"
"""Between the parts of a key; no name of ours holds one."""


class Place(NamedTuple):
    """Where a judgement stands on `observations`, and when it was appended there, in milliseconds since 1970."""

    partition: int
    offset: int
    at_ms: int

    @property
    def day(self) -> int:
        """Return the day, counted since 1970."""
        return self.at_ms // DAY_MS


class Day(NamedTuple):
    """How many real items somebody judged in a day, and to how many of them they objected."""

    day: int
    items: int
    objections: int


class Kept(Struct, frozen=True, kw_only=True):
    """What is kept of one person in one queue. `offset` and `partition`: of the last judgement that is in it.

    `usual` is what they are compared with since `day`, `days` what they did in each, newest last, `hurried` their share
    of hurried approvals before `day`. `approved` counts real approvals, `let_go` names canaries that were skipped once,
    `paged` what somebody was woken for already.
    """

    partition: int
    offset: int = -1
    day: int = 0
    usual: Queue = Queue()
    days: tuple[Day, ...] = ()
    hurried: float | None = None
    approved: int = 0
    let_go: tuple[str, ...] = ()
    paged: tuple[Page, ...] = ()
    watch: Watch = Watch()


class Chunk(Struct, frozen=True):
    """Some of the newest approvals: their items in order, and the offset of the judgement that is the last in it."""

    offset: int
    items: tuple[str, ...] = ()


class News(Struct, frozen=True, kw_only=True):
    """What somebody must be told of. `level` is the person's over all queues, None where that is as before.

    `row` and `sign` say by what it was seen; `again` is how many of the newest approvals go to another person.
    """

    in_queue: Level
    level: Level | None
    row: int
    sign: Sign
    page: Page | None
    again: int
    figures: dict[str, float]


encode = msgspec.msgpack.Encoder().encode
decode_kept = msgspec.msgpack.Decoder(Kept).decode
decode_chunk = msgspec.msgpack.Decoder(Chunk).decode


# --- the fold ---------------------------------------------------------------------------------------------------------


def taken(kept: Kept, observed: Observed, place: Place, usual: Callable[[], Queue]) -> Kept:
    """Return what is kept after one more judgement. `usual` tells what the queue was like until the day before."""
    after = replace(kept, partition=place.partition, offset=place.offset)
    if place.day > kept.day:
        share, days = hurried_share(kept.watch.hurried), _recent(kept.days, place.day)
        after = replace(after, day=place.day, usual=usual(), days=days, hurried=share)
    seen = observed.observation
    if seen.purpose == Purpose.CANARY:
        return _canary(after, observed)
    if seen.verdict in LETS_GO:
        return after
    approved = seen.verdict not in OBJECTS
    today = after.days[-1] if after.days and after.days[-1].day == after.day else Day(after.day, 0, 0)
    before = after.days[:-1] if after.days and after.days[-1].day == after.day else after.days
    days = (*before, Day(today.day, today.items + 1, today.objections + (not approved)))
    after = replace(after, days=days, approved=after.approved + approved)
    return _watched(after, observed, approved, None)


def slot(kept: Kept) -> int:
    """Return in which chunk the next approval is remembered."""
    return kept.approved // CHUNK % CHUNKS


def remembered(chunk: Chunk | None, kept: Kept, item: str, place: Place) -> Chunk:
    """Return the chunk with one more approval; `kept` is what was kept before it. Done twice it is the same."""
    there = kept.approved % CHUNK
    items = chunk.items[:there] if chunk is not None else ()
    return Chunk(place.offset, (*items, item))


def newest(kept: Kept, chunks: Mapping[int, Chunk], count: int) -> tuple[str, ...]:
    """Return the items of the newest approvals, the newest first: so many of them, or as many as are remembered."""
    items: list[str] = []
    for back in range(CHUNKS):
        number = (kept.approved - 1) // CHUNK - back
        if number < 0 or len(items) >= count:
            break
        chunk = chunks.get(number % CHUNKS, Chunk(-1))
        length = kept.approved - number * CHUNK if back == 0 else CHUNK
        items += reversed(chunk.items[:length])
    return tuple(dict.fromkeys(items[:count]))


def news(before: Kept, after: Kept, elsewhere: Callable[[], Level]) -> News | None:
    """Say what somebody must be told of; None: nothing. `elsewhere` tells the person's highest level elsewhere."""
    new = after.watch.signs[len(before.watch.signs) :]
    pages = after.paged[len(before.paged) :]
    risen = after.watch.level > before.watch.level
    if not risen and not pages:
        return None
    sign = max(new or after.watch.signs, key=LEVELS.__getitem__)
    others = elsewhere()
    was, now = max(before.watch.level, others), max(after.watch.level, others)
    again = min(recheck(after.watch), APPROVALS_MAX) if Sign.MISSES_PAGE in new else 0
    return News(
        in_queue=after.watch.level,
        level=now if now > was or again else None,
        row=ROWS[sign],
        sign=sign,
        page=pages[-1] if pages else None,
        again=again,
        figures=figures(after.watch),
    )


def figures(watch: Watch) -> dict[str, float]:
    """Return what is known of one person: numbers, and shares where there is anything to share."""
    found: dict[str, float] = {"canaries": len(watch.canaries), "items": len(watch.verdicts)}
    if watch.canaries:
        found["hit_rate"] = sum(watch.canaries) / len(watch.canaries)
    share = hurried_share(watch.hurried)
    if share is not None:
        found["hurried"] = share
    if watch.verdicts:
        found["approved"] = sum(watch.verdicts) / len(watch.verdicts)
    return found


# --- queues -----------------------------------------------------------------------------------------------------------


class Figures(Struct, frozen=True, kw_only=True):
    """What is known of a queue, over its active reviewers. A share is None where there is nothing to share."""

    level: Level
    reviewers: int
    hit_rate: float | None
    hurried: float | None
    approved: float | None


def usual_of(people: Iterable[Kept], day: int) -> Queue:
    """Return what a queue was like in the thirty days before `day`."""
    there = [kept for kept in people if kept.day >= day - DAYS_KEPT]
    days = [one for kept in there for one in kept.days if day - DAYS_KEPT <= one.day < day]
    shares = [share for kept in there if (share := _hurried_before(kept, day)) is not None]
    return Queue(sum(one.items for one in days), sum(one.objections for one in days), median(shares) if shares else 0.0)


def figures_of(people: Iterable[Kept], day: int) -> Figures:
    """Return what is known of a queue on that day."""
    watches = [kept.watch for kept in people if kept.day >= day - ACTIVE_DAYS]
    return Figures(
        level=queue_level([watch.level for watch in watches]),
        reviewers=len(watches),
        hit_rate=_share(flag for watch in watches for flag in watch.canaries),
        hurried=_share(flag for watch in watches for flag in watch.hurried),
        approved=_share(flag for watch in watches for flag in watch.verdicts),
    )


# --- keys -------------------------------------------------------------------------------------------------------------


def key_of(person: str, queue: str, number: int | None = None) -> bytes:
    """Return the key of a person, by their pseudonym, and a queue; with a number, of a chunk of their approvals."""
    parts = (person, queue) if number is None else (person, queue, str(number))
    return APART.join(parts).encode()


def parts_of(key: bytes) -> tuple[str, str, int | None]:
    """Return person, queue and number of a key; raise `ValueError` for what is none."""
    person, queue, *number = key.decode().split(APART)
    return person, queue, int(number[0]) if number else None


def forgotten(people: Mapping[bytes, Kept], partition: int, day: int, coming: str | None = None) -> list[str]:
    """Return who is to be forgotten in a partition: after 90 days, and where somebody new would be one too many."""
    last: dict[str, tuple[Level, int, int]] = {}
    for key, kept in people.items():
        if kept.partition == partition:
            person = parts_of(key)[0]
            level, seen, offset = last.get(person, (Level.NONE, 0, -1))
            last[person] = max(level, kept.watch.level), max(seen, kept.day), max(offset, kept.offset)
    gone = [person for person, (_, seen, _) in last.items() if seen < day - FORGET_DAYS]
    left = {person: known for person, known in last.items() if person not in gone}
    over = len(left) - PEOPLE_MAX + (coming is not None and coming not in left)
    return gone + sorted(left, key=left.__getitem__)[: max(0, over)]


# --- steps ------------------------------------------------------------------------------------------------------------


def _canary(kept: Kept, observed: Observed) -> Kept:
    seen = observed.observation
    caught = seen.verdict in OBJECTS if seen.caught is None else seen.caught
    if seen.verdict in LETS_GO and seen.item not in kept.let_go:
        return replace(kept, let_go=(*kept.let_go, seen.item)[-LET_GO_MAX:])
    left = tuple(item for item in kept.let_go if item != seen.item)
    return _watched(replace(kept, let_go=left), observed, seen.verdict not in OBJECTS, caught)


def _watched(kept: Kept, observed: Observed, approved: bool, caught: bool | None) -> Kept:
    seen = observed.observation
    one = Looked(
        approved=approved, dwell_s=seen.dwell_s, floor_s=seen.floor_s, at_ms=observed.decided_ms, caught=caught
    )
    watch = looked(kept.watch, one, kept.usual)
    due = page(watch)
    paged = kept.paged if due is None or due in kept.paged else (*kept.paged, due)
    return replace(kept, watch=watch, paged=paged)


def _recent(days: tuple[Day, ...], day: int) -> tuple[Day, ...]:
    return tuple(one for one in days if one.day >= day - DAYS_KEPT)


def _hurried_before(kept: Kept, day: int) -> float | None:
    return kept.hurried if kept.day >= day else hurried_share(kept.watch.hurried)


def _share(flags: Iterable[bool]) -> float | None:
    all_of = list(flags)
    return sum(all_of) / len(all_of) if all_of else None
