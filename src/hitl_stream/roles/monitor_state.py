"""What the monitor keeps of people, and what one more judgement makes of it: a pure fold over `observations`.

Of each person, by a pseudonym, and queue there is one value, `Kept`. It says which judgement was the last in it, so one
that is read twice counts once. All that a person did lies in one partition, so the order is that of the log.

Rules:
- What a person is compared with is their queue as it was until the day before; it is written down at the first
  judgement of a day. So the fold is the same whoever repeats it, and nobody is compared with what they do now.
- Somebody looks at one item after another: what they decide of the next one, they have seen since they decided the last
  one at most, be it a canary or one that they skipped. What lapsed they did not decide.
- A canary that was let go is put to the same person again, and the second time it is missed.
- The newest approvals are remembered by their items, for whoever has to look at them again.
- Whoever passes a quiz has qualified anew in every queue: what they were watched for is forgotten there.
- Shares are from 0 to 1, days are counted since 1970 by append time, in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.events import Purpose
from hitl_stream.core.vigilance import (
    CANARIES_MIN,
    LEVELS,
    ROWS,
    Level,
    Looked,
    Page,
    Queue,
    Sign,
    Watch,
    auc,
    d_prime,
    disagrees,
    hurried_share,
    looked,
    many_seconded,
    page,
    qualified,
    queue_level,
    recheck,
    skipped,
)
from hitl_stream.wire.desk_records import Observation
from hitl_stream.wire.watched import Observed

DAYS_KEPT = 30
LET_GO_MAX = 100
"""Canaries of one person that wait to be put to them again."""
CHUNK = 50
"""Approvals in one value: about a kilobyte."""
CHUNKS = 10
APPROVALS_MAX = CHUNK * CHUNKS
"""Of one person and queue. Who approves more before anybody notices is judged again by these."""
PEOPLE_MAX = 500
"""In one partition. Then whoever has not judged for longest is forgotten; the watched ones come last."""
FORGET_DAYS = 90
ACTIVE_DAYS = 1
"""Whoever has judged today or yesterday is one of the reviewers of a queue."""
OBJECTS = ("reject", "change", "escalate")
SKIP = "skip"
LETS_GO = (SKIP, "lapse")
SCORES_KEPT = 50
"""Of each kind; two bytes a score."""
D_PRIME_CANARIES_MIN, C_CANARIES_MIN, AUC_OBJECTIONS_MIN = 20, 40, 10
LEVELS_ROW, AGREEMENT_ROW = 0, 5
MANY = (
    "a quarter of this queue's active reviewers, or more, miss planted errors; until they have qualified anew "
    "REVIEW_ALL is offered for what they decide: hitl kill --mode REVIEW_ALL --scope type:CLASS",
    "fewer of this queue's reviewers miss planted errors; REVIEW_ALL is no longer needed for what they decide",
)
DISAGREE = (
    "two people judge the same items of this queue differently; look at its rubric, and let a senior decide what they "
    "disagree on",
    "two people judge the same items of this queue alike again",
)
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
    """How many real items somebody judged in a day, and to how many of them they objected.

    Of `pairs` of these they were the blind second; they and the first said the same of `agreed`, and the first had
    objected to `objected`. Audits they did of what ran without being looked at stand for `audited` of it, `wrong` of
    these being errors: each for 1 / p, p being with what probability it was drawn.
    """

    day: int
    items: int = 0
    objections: int = 0
    pairs: int = 0
    agreed: int = 0
    objected: int = 0
    audited: float = 0.0
    wrong: float = 0.0


class Kept(Struct, frozen=True, kw_only=True):
    """What is kept of one person in one queue. `offset` and `partition`: of the last judgement that is in it.

    `usual` is what they are compared with since `day`, `days` what they did in each, newest last, `hurried` their share
    of hurried approvals before `day`. `approved` counts real approvals, `recent` are the items
    of the newest ones, which are in no chunk yet; `let_go` names canaries that were skipped once,
    `paged` what somebody was woken for already. `objected` and `cleared` are risk scores, in thousandths, of the newest
    real items that they objected to and approved.
    """

    partition: int
    offset: int = -1
    day: int = 0
    usual: Queue = Queue()
    days: tuple[Day, ...] = ()
    hurried: float | None = None
    approved: int = 0
    recent: tuple[str, ...] = ()
    let_go: tuple[str, ...] = ()
    paged: tuple[Page, ...] = ()
    objected: tuple[int, ...] = ()
    cleared: tuple[int, ...] = ()
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
        return _let_go(after, observed)
    approved = seen.verdict not in OBJECTS
    today = after.days[-1] if after.days and after.days[-1].day == after.day else Day(after.day)
    before = after.days[:-1] if after.days and after.days[-1].day == after.day else after.days
    after = replace(after, days=(*before, _with(today, seen, approved)))
    if approved:
        recent = (*kept.recent, seen.item) if len(kept.recent) < CHUNK - 1 else ()  # the chunk is full: `filled`
        after = replace(after, approved=after.approved + 1, recent=recent)
    return _watched(_scored(after, seen.score, approved), observed, approved, None)


def qualified_anew(kept: Kept, place: Place) -> Kept:
    """Return what is kept of somebody who has passed a quiz, in one of their queues."""
    return replace(
        kept, partition=place.partition, offset=place.offset, watch=qualified(kept.watch), paged=(), let_go=()
    )


def filled(before: Kept, after: Kept, item: str, place: Place) -> tuple[int, Chunk] | None:
    """Return the chunk that the approval of `item` has filled, and its number; None: it has filled none.

    One write for each judgement is half the work of two, so what is not full stands with the person.
    """
    if after.approved == before.approved or after.recent:
        return None
    return before.approved // CHUNK % CHUNKS, Chunk(place.offset, (*before.recent, item))


def newest(kept: Kept, chunks: Mapping[int, Chunk], count: int) -> tuple[str, ...]:
    """Return the items of the newest approvals, the newest first: so many of them, or as many as are remembered."""
    items = list(reversed(kept.recent))
    for number in range(kept.approved // CHUNK - 1, max(-1, kept.approved // CHUNK - 1 - CHUNKS), -1):
        if len(items) >= count:
            break
        items += reversed(chunks.get(number % CHUNKS, Chunk(-1)).items)
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


def sight(kept: Kept) -> dict[str, float]:
    """Return how well one person tells wrong from right (row 7), for whoever leads them; nothing of what is too little.

    `d_prime` and `c` by their last canaries and real items, `auc` by the risk scores of what they objected to.
    """
    watch, found = kept.watch, dict[str, float]()
    canaries, items = len(watch.canaries), len(watch.verdicts)
    if items and canaries >= D_PRIME_CANARIES_MIN:
        found["d_prime"], c = d_prime(sum(watch.canaries), canaries, items - sum(watch.verdicts), items)
        if canaries >= C_CANARIES_MIN:
            found["c"] = c
    area = auc(kept.objected, kept.cleared) if len(kept.objected) >= AUC_OBJECTIONS_MIN else None
    if area is not None:
        found["auc"] = area
    return found


# --- queues -----------------------------------------------------------------------------------------------------------


class Figures(Struct, frozen=True, kw_only=True):
    """What is known of a queue, over its active reviewers. A share is None where there is nothing to share.

    `seconded` of them are at level 2 or more; `many`: so many that the queue is at 3. Of `pairs` of blind second
    judgements in thirty days `agreement` said the same, and to `objected` of them the first one had objected;
    `disagrees`: so few that somebody must be told. `escaped` is the share of errors among what ran without being looked
    at, by audits of thirty days.
    """

    level: Level
    reviewers: int | None
    hit_rate: float | None
    hurried: float | None
    approved: float | None
    seconded: int = 0
    many: bool = False
    pairs: int = 0
    objected: int = 0
    agreement: float | None = None
    disagrees: bool = False
    escaped: float | None = None


def usual_of(people: Iterable[Kept], day: int) -> Queue:
    """Return what a queue was like in the thirty days before `day`."""
    there = [kept for kept in people if kept.day >= day - DAYS_KEPT]
    days = [one for kept in there for one in kept.days if day - DAYS_KEPT <= one.day < day]
    shares = [share for kept in there if (share := _hurried_before(kept, day)) is not None]
    return Queue(sum(one.items for one in days), sum(one.objections for one in days), median(shares) if shares else 0.0)


def figures_of(people: Iterable[Kept], day: int) -> Figures:
    """Return what is known of a queue on that day."""
    everybody = list(people)
    watches = [kept.watch for kept in everybody if kept.day >= day - ACTIVE_DAYS]
    levels = [watch.level for watch in watches]
    days = [one for kept in everybody for one in kept.days if day - DAYS_KEPT <= one.day]
    pairs, agreed = sum(one.pairs for one in days), sum(one.agreed for one in days)
    objected = sum(one.objected for one in days)
    canaries = [flag for watch in watches for flag in watch.canaries]
    return Figures(
        level=queue_level(levels),
        seconded=sum(level >= Level.SECONDED for level in levels),
        many=many_seconded(levels),
        pairs=pairs,
        objected=objected,
        agreement=agreed / pairs if pairs else None,
        disagrees=disagrees(pairs, agreed, objected),
        escaped=_escaped(days, canaries),
        reviewers=len(watches),
        hit_rate=_share(canaries),
        hurried=_share(flag for watch in watches for flag in watch.hurried),
        approved=_share(flag for watch in watches for flag in watch.verdicts),
    )


class Said(NamedTuple):
    """What was last said of a queue, as such, under one row: the number of that alert, and whether it held then."""

    number: int = 0
    holds: bool = False


class QueueNews(Struct, frozen=True, kw_only=True):
    """What somebody must be told of a queue. `number` is that of the alert among those of this queue and row."""

    row: int
    number: int
    level: Level
    figures: dict[str, float]
    text: str
    ended: bool


def queue_news(figures: Figures, said: Mapping[int, Said]) -> list[QueueNews]:
    """Return what must be told of a queue now; `said` is what was last said of it, by row. Each change is told once."""
    found = []
    for row, holds, texts in ((LEVELS_ROW, figures.many, MANY), (AGREEMENT_ROW, figures.disagrees, DISAGREE)):
        last = said.get(row, Said())
        if holds != last.holds:
            text = texts[0 if holds else 1]
            number = last.number + 1
            found.append(QueueNews(
                row=row, number=number, level=figures.level, figures=_told(figures), text=text, ended=not holds
            ))  # fmt: skip
    return found


def _told(figures: Figures) -> dict[str, float]:
    found = {"seconded": figures.seconded, "pairs": figures.pairs}
    known = {"reviewers": figures.reviewers, "hit_rate": figures.hit_rate, "agreement": figures.agreement}
    return found | {name: figure for name, figure in known.items() if figure is not None}


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
        return _let_go(replace(kept, let_go=(*kept.let_go, seen.item)[-LET_GO_MAX:]), observed)
    left = tuple(item for item in kept.let_go if item != seen.item)
    return _watched(replace(kept, let_go=left), observed, seen.verdict not in OBJECTS, caught)


def _let_go(kept: Kept, observed: Observed) -> Kept:
    is_decided = observed.observation.verdict == SKIP
    return replace(kept, watch=skipped(kept.watch, observed.decided_ms)) if is_decided else kept


def _watched(kept: Kept, observed: Observed, approved: bool, caught: bool | None) -> Kept:
    seen = observed.observation
    one = Looked(
        approved=approved, dwell_s=seen.dwell_s, floor_s=seen.floor_s, at_ms=observed.decided_ms, caught=caught
    )
    watch = looked(kept.watch, one, kept.usual)
    due = page(watch)
    paged = kept.paged if due is None or due in kept.paged else (*kept.paged, due)
    return replace(kept, watch=watch, paged=paged)


def _with(day: Day, seen: Observation, approved: bool) -> Day:
    """Return a day with one more judgement of a real item."""
    day = day._replace(items=day.items + 1, objections=day.objections + (not approved))
    if seen.first is not None:
        first = seen.first.verdict in OBJECTS
        same = first is not approved
        day = day._replace(pairs=day.pairs + 1, agreed=day.agreed + same, objected=day.objected + first)
    if seen.purpose == Purpose.AUDIT and seen.p:
        weight = 1.0 / seen.p
        day = day._replace(audited=day.audited + weight, wrong=day.wrong + (0.0 if approved else weight))
    return day


def _scored(kept: Kept, score: float | None, approved: bool) -> Kept:
    if score is None:
        return kept
    whole = round(score * 1_000)
    if approved:
        return replace(kept, cleared=(*kept.cleared, whole)[-SCORES_KEPT:])
    return replace(kept, objected=(*kept.objected, whole)[-SCORES_KEPT:])


def _escaped(days: Iterable[Day], canaries: Sequence[bool]) -> float | None:
    """Return row 6 by the sums of its weights: what was drawn tells by them, too, how much there was (Hajek 1971)."""
    audited, wrong = 0.0, 0.0
    for day in days:
        audited, wrong = audited + day.audited, wrong + day.wrong
    if not audited:
        return None
    found = sum(canaries) / len(canaries) if len(canaries) >= CANARIES_MIN and any(canaries) else 1.0
    return min(1.0, wrong / audited / found)


def _recent(days: tuple[Day, ...], day: int) -> tuple[Day, ...]:
    return tuple(one for one in days if one.day >= day - DAYS_KEPT)


def _hurried_before(kept: Kept, day: int) -> float | None:
    return kept.hurried if kept.day >= day else hurried_share(kept.watch.hurried)


def _share(flags: Iterable[bool]) -> float | None:
    all_of = list(flags)
    return sum(all_of) / len(all_of) if all_of else None
