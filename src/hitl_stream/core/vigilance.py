"""Is somebody still looking? What is kept of one reviewer, and what each of its figures means.

An approval rate near 100 % proves nothing: if agents are right 99 % of the time, 99 % is right. Only items whose answer
is known (canaries) and the time that reading takes tell trust from sleep; no level depends on the approval rate.

Rows, as reports and alerts number them:
1. hit rate on canaries: the upper bound of a 90 % Wilson interval over the last 100 of them is under 0.85;
2. a change of it: a Bernoulli CUSUM (Page, Biometrika 41, 1954) of misses, from one in ten to three in ten;
3. faster than anybody reads: the share of approvals under the floor of `core.dwell`, or within a second after it. Time
   counts from when an item was on the screen and this person's last decision in the queue was made, whichever came
   later: ten cards in ten tabs are looked at one after another;
4. objections that grow rare or frequent, against the queue's own share: two CUSUMs;
5. agreement of blind second judgements, where half of them repeat an objection: of a queue, and of nobody's level.

Levels: 1 by rows 3 and 4; 2 by a warning of 1 or 2; 3 by a page of 2. A level lasts until somebody has qualified anew.

Everything is a pure fold over what one person did, in the order in which they did it. Shares are from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from enum import IntEnum, StrEnum
from statistics import NormalDist

import msgspec
from msgspec import Struct

from hitl_stream.core.intervals import wilson

CANARIES_KEPT = 100
CANARIES_MIN = 10
"""Fewer say nothing: a rule on the lower bound would flag everybody after ten."""
HIT_RATE_MIN = 0.85
CONFIDENCE = 0.90

MISS_SHARE, MISS_SHARE_BAD = 0.10, 0.30
MISSES_WARN, MISSES_PAGE = 3.5, 7.0

APPROVALS_KEPT = 50
APPROVALS_MIN = 20
"""Of fewer the share of hurried ones is chance."""
HURRIED_AFTER_S = 1.0
"""An approval within a second after the floor is as hurried as one before it: who knows the floor waits for it."""
HURRIED_WARN, HURRIED_PAGE = 0.16, 0.25
HURRIED_TIMES_MEDIAN = 2.0

OBJECTIONS_H = 5.0
RARER, OFTENER = 0.25, 3.0
ITEMS_MIN = 500
"""Of a queue in 30 days, before its share of objections is anything to compare with."""

VERDICTS_KEPT = 100
VERDICTS_MIN = 30
APPROVING = 0.90

PAIRS_MIN = 50
AGREEMENT_MIN = 0.75
"""Two who would toss a coin on what the first one objects to agree on half of it."""

CANARY_RATES = ((20, 0.10), (100, 0.05))
CANARY_RATE = 0.02
"""Of a person's items: 10 % until 20 canaries were seen, 5 % until 100, then 2 %."""
CANARY_RATE_WATCHED = 0.05
CAUGHT_AGAIN = 20
"""So many caught in a row after a miss, and the rate falls again."""

BREAK_AFTER_MS = 20 * 60_000
BREAK_AFTER_ITEMS = 35
GAP_MS = 5 * 60_000
"""Whoever does nothing for so long has had a break."""


class Level(IntEnum):
    """How closely somebody is watched, and what their approvals are worth."""

    NONE = 0
    WATCHED = 1
    SECONDED = 2
    """Their items get a second reviewer."""
    ESCALATED = 3
    """Their tier 3 goes to escalation; their approvals since the change began go to another person."""


class Sign(StrEnum):
    """What was seen of somebody."""

    HIT_RATE = "hit_rate"
    MISSES_WARN = "misses_warn"
    MISSES_PAGE = "misses_page"
    HURRIED_WARN = "hurried_warn"
    HURRIED_PAGE = "hurried_page"
    OBJECTS_LESS = "objects_less"
    OBJECTS_MORE = "objects_more"


ROWS = {
    Sign.HIT_RATE: 1,
    Sign.MISSES_WARN: 2,
    Sign.MISSES_PAGE: 2,
    Sign.HURRIED_WARN: 3,
    Sign.HURRIED_PAGE: 3,
    Sign.OBJECTS_LESS: 4,
    Sign.OBJECTS_MORE: 4,
}
LEVELS = {
    Sign.HIT_RATE: Level.SECONDED,
    Sign.MISSES_WARN: Level.SECONDED,
    Sign.MISSES_PAGE: Level.ESCALATED,
    Sign.HURRIED_WARN: Level.WATCHED,
    Sign.HURRIED_PAGE: Level.WATCHED,
    Sign.OBJECTS_LESS: Level.WATCHED,
    Sign.OBJECTS_MORE: Level.WATCHED,
}


class Page(StrEnum):
    """What somebody is woken for."""

    RUBBER_STAMP = "rubber_stamp"
    REVIEWER_UNRELIABLE = "reviewer_unreliable"


class Queue(Struct, frozen=True):
    """What a person is compared with: their queue's items and objections of 30 days, and its median hurried share."""

    items: int = 0
    objections: int = 0
    hurried_median: float = 0.0


class Looked(Struct, frozen=True, kw_only=True):
    """One judgement: what it was, how long it took, and, of a canary, whether it was caught.

    `dwell_s` runs from when it was on the screen to `at_ms`, when it was decided.
    """

    approved: bool
    dwell_s: float
    floor_s: float
    at_ms: int
    caught: bool | None = None


class Watch(Struct, frozen=True, kw_only=True):
    """What is kept of one person in one queue. Tuples hold the newest last."""

    canaries: tuple[bool, ...] = ()
    seen: int = 0
    """Canaries since they qualified."""
    caught_since: int = 0
    """Caught in a row since the last miss."""
    missed: bool = False
    misses: float = 0.0
    """The CUSUM of row 2."""
    since: int = 0
    """Real approvals since that was last 0: they are looked at again after a page."""
    hurried: tuple[bool, ...] = ()
    verdicts: tuple[bool, ...] = ()
    """Of real items: whether each was approved."""
    rarer: float = 0.0
    oftener: float = 0.0
    level: Level = Level.NONE
    signs: tuple[Sign, ...] = ()
    """What has raised the level, in the order in which it was seen."""
    began_ms: int = 0
    last_ms: int = 0
    """When the last decision was made, be it to skip an item; 0: there was none."""
    items: int = 0
    """Judged since their last break."""


# --- the fold ---------------------------------------------------------------------------------------------------------


def looked(watch: Watch, one: Looked, queue: Queue) -> Watch:
    """Return what is kept after one more judgement."""
    one = msgspec.structs.replace(one, dwell_s=shown_s(watch, one))
    after = _paced(watch, one)
    after = _real(after, one, queue) if one.caught is None else _canary(after, one.caught)
    found = signs(after, queue)
    new = tuple(sign for sign in found if sign not in watch.signs)
    level = max((LEVELS[sign] for sign in new), default=Level.NONE)
    return msgspec.structs.replace(after, level=max(watch.level, level), signs=watch.signs + new)


def skipped(watch: Watch, at_ms: int) -> Watch:
    """Return what is kept after an item was skipped: no judgement, but nobody looked at another one until then."""
    rested = at_ms - watch.last_ms >= GAP_MS
    return msgspec.structs.replace(
        watch, began_ms=at_ms if rested else watch.began_ms, last_ms=at_ms, items=0 if rested else watch.items
    )


def qualified(watch: Watch) -> Watch:
    """Return what is kept of somebody who has qualified anew: their pace, and nothing that they were watched for."""
    return Watch(began_ms=watch.began_ms, last_ms=watch.last_ms, items=watch.items)


def signs(watch: Watch, queue: Queue) -> tuple[Sign, ...]:
    """Return what can be seen now."""
    found = []
    if few_hits(watch.canaries):
        found.append(Sign.HIT_RATE)
    if watch.misses >= MISSES_WARN:
        found.append(Sign.MISSES_WARN)
    if watch.misses >= MISSES_PAGE:
        found.append(Sign.MISSES_PAGE)
    share = hurried_share(watch.hurried)
    if share is not None and share > HURRIED_PAGE:
        found.append(Sign.HURRIED_PAGE)
    elif share is not None and share > HURRIED_WARN and share >= HURRIED_TIMES_MEDIAN * queue.hurried_median:
        found.append(Sign.HURRIED_WARN)
    if watch.rarer >= OBJECTIONS_H:
        found.append(Sign.OBJECTS_LESS)
    if watch.oftener >= OBJECTIONS_H:
        found.append(Sign.OBJECTS_MORE)
    return tuple(found)


def page(watch: Watch) -> Page | None:
    """Return what somebody is woken for.

    A rubber stamp approves nearly everything *and* is too fast to have read, or misses canaries; the approval rate
    alone pages nobody.
    """
    asleep = Sign.HURRIED_PAGE in watch.signs or Sign.MISSES_WARN in watch.signs
    if asleep and approves_nearly_all(watch.verdicts):
        return Page.RUBBER_STAMP
    return Page.REVIEWER_UNRELIABLE if watch.level == Level.ESCALATED else None


def queue_level(levels: Collection[Level]) -> Level:
    """Return the level of a queue by those of its active reviewers.

    >>> queue_level([Level.SECONDED] * 2 + [Level.NONE] * 6), queue_level([Level.SECONDED] + [Level.NONE] * 3)
    (<Level.ESCALATED: 3>, <Level.SECONDED: 2>)
    """
    return Level.ESCALATED if many_seconded(levels) else max(levels, default=Level.NONE)


def many_seconded(levels: Collection[Level]) -> bool:
    """Say whether a quarter of a queue's active reviewers, and two at least, are at level 2 or more at once."""
    return sum(level >= Level.SECONDED for level in levels) >= max(2, math.ceil(len(levels) / 4))


def recheck(watch: Watch, least: int = APPROVALS_KEPT) -> int:
    """Return how many of their newest approvals go to another person after a page of row 2: at least 50."""
    return max(watch.since, least)


# --- rows -------------------------------------------------------------------------------------------------------------


def few_hits(canaries: Sequence[bool]) -> bool:
    """Say whether so many canaries were missed that a hit rate of 0.85 cannot be believed (row 1).

    >>> few_hits((True,) * 6 + (False,) * 4), few_hits((True,) * 7 + (False,) * 3), few_hits((False,) * 9)
    (True, False, False)
    """
    n = len(canaries)
    return n >= CANARIES_MIN and wilson(sum(canaries), n, CONFIDENCE)[1] < HIT_RATE_MIN


def cusum(s: float, seen: bool, p0: float, p1: float) -> float:
    """Return the next value of a Bernoulli CUSUM that tells a share of `p1` from one of `p0`, from 0 upwards.

    Each step adds the logarithm of the likelihood ratio of what was seen, and never falls under 0.

    >>> round(cusum(0.0, True, 0.10, 0.30), 3), round(cusum(1.0, False, 0.10, 0.30), 3)
    (1.099, 0.749)
    """
    return max(0.0, s + (math.log(p1 / p0) if seen else math.log((1.0 - p1) / (1.0 - p0))))


def shown_s(watch: Watch, one: Looked) -> float:
    """Return for how long somebody can have looked at that: since it was on the screen and they were free to look.

    A decision that was made before the last one, by the consoles' clocks, got no time at all.

    >>> one = Looked(approved=True, dwell_s=30.0, floor_s=4.0, at_ms=100_000)
    >>> [shown_s(Watch(last_ms=last_ms), one) for last_ms in (0, 60_000, 99_500, 100_500)]
    [30.0, 30.0, 0.5, 0.0]
    """
    return one.dwell_s if not watch.last_ms else max(0.0, min(one.dwell_s, (one.at_ms - watch.last_ms) / 1000))


def hurried(one: Looked) -> bool:
    """Say whether an approval came before anybody can have read what was shown, or just when they could have."""
    return one.approved and one.dwell_s < one.floor_s + HURRIED_AFTER_S


def hurried_share(flags: Sequence[bool]) -> float | None:
    """Return the share of hurried ones among somebody's last approvals (row 3); None: too few to tell."""
    return sum(flags) / len(flags) if len(flags) >= APPROVALS_MIN else None


def approves_nearly_all(verdicts: Sequence[bool]) -> bool:
    """Say whether more than nine of ten are approved, by the lower bound of a 90 % Wilson interval.

    >>> approves_nearly_all((True,) * 29), approves_nearly_all((True,) * 30), approves_nearly_all((True,) * 20)
    (False, True, False)
    """
    n = len(verdicts)
    return n >= VERDICTS_MIN and wilson(sum(verdicts), n, CONFIDENCE)[0] > APPROVING


def canary_rate(watch: Watch) -> float:
    """Return with which probability the next item of this person is a canary."""
    new = next((rate for seen, rate in CANARY_RATES if watch.seen < seen), CANARY_RATE)
    watched = watch.level >= Level.WATCHED or (watch.missed and watch.caught_since < CAUGHT_AGAIN)
    return max(new, CANARY_RATE_WATCHED) if watched else new


def needs_break(watch: Watch) -> bool:
    """Say whether somebody has reviewed for 20 minutes or 35 items without a break (row 8)."""
    return watch.items >= BREAK_AFTER_ITEMS or watch.last_ms - watch.began_ms >= BREAK_AFTER_MS


def disagrees(pairs: int, agreed: int, objected: int) -> bool:
    """Say whether two people judge the same item differently so often that the rubric is at fault (row 5).

    `objected`: to so many of the pairs the first one objected. Where nearly all is approved, agreement says nothing of
    what matters (kappa and alpha fall there by themselves), so at least half of the pairs must be of such.

    >>> disagrees(60, 36, 30), disagrees(60, 57, 30), disagrees(60, 36, 29), disagrees(49, 10, 49)
    (True, False, False, False)
    """
    if pairs < PAIRS_MIN or 2 * objected < pairs:
        return False
    return wilson(agreed, pairs, CONFIDENCE)[1] < AGREEMENT_MIN


# --- figures that alarm nobody ----------------------------------------------------------------------------------------


def d_prime(hits: int, canaries: int, alarms: int, others: int) -> tuple[float, float]:
    """Return how well wrong items are told from right ones (d'), and the leaning towards "wrong" or "right" (c).

    Green and Swets (1966), with half an item added to each count and one to each number (Hautus, Behavior Research
    Methods 27, 1995). `alarms` are objections among `others`, real items; since some of these are rightly objected
    to, d' is rather too small than too large. 0 where nothing was caught.

    >>> tuple(round(value, 2) for value in d_prime(18, 20, 5, 100))
    (2.78, 0.21)
    """
    z = NormalDist().inv_cdf
    hit, alarm = z((hits + 0.5) / (canaries + 1)), z((alarms + 0.5) / (others + 1))
    return (hit - alarm if hits else 0.0), -(hit + alarm) / 2


def auc(objected: Sequence[float], approved: Sequence[float]) -> float | None:
    """Return how often an item that was objected to had a higher risk score than one that was approved.

    The area under the curve (Mann and Whitney, Ann. Math. Statist. 18, 1947), ties count half; 0.5: by chance.

    >>> auc([0.9, 0.4], [0.1, 0.4])
    0.875
    """
    if not objected or not approved:
        return None
    ranked = sorted([(score, 1) for score in objected] + [(score, 0) for score in approved])
    ranks, at = 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        middle = (at + 1 + end) / 2
        ranks += middle * sum(kind for _, kind in ranked[at:end])
        at = end
    n, m = len(objected), len(approved)
    return (ranks - n * (n + 1) / 2) / (n * m)


def escaped(drawn: Sequence[tuple[bool, float]], items: int, hit_rate: float = 1.0) -> float | None:
    """Return the share of errors among what ran without being looked at (row 6).

    Horvitz and Thompson (JASA 47, 1952): each item that was drawn stands for 1 / p others, `p` being the probability
    with which it was. `drawn` are (wrong, p) of all that were drawn from `items`; reviewers find `hit_rate` of errors.

    >>> escaped([(True, 0.05), (False, 0.05)], 400, 0.8)
    0.0625
    """
    if items == 0:
        return None
    return min(1.0, sum(1.0 / p for wrong, p in drawn if wrong) / items / hit_rate)


# --- steps ------------------------------------------------------------------------------------------------------------


def _paced(watch: Watch, one: Looked) -> Watch:
    rested = one.at_ms - watch.last_ms >= GAP_MS
    began_ms = one.at_ms - int(one.dwell_s * 1000) if rested else watch.began_ms
    items = 1 if rested else watch.items + 1
    return msgspec.structs.replace(watch, began_ms=began_ms, last_ms=one.at_ms, items=items)


def _canary(watch: Watch, caught: bool) -> Watch:
    misses = cusum(watch.misses, not caught, MISS_SHARE, MISS_SHARE_BAD)
    return msgspec.structs.replace(
        watch,
        canaries=(*watch.canaries, caught)[-CANARIES_KEPT:],
        seen=watch.seen + 1,
        caught_since=watch.caught_since + 1 if caught else 0,
        missed=watch.missed or not caught,
        misses=misses,
        since=watch.since if misses else 0,
    )


def _real(watch: Watch, one: Looked, queue: Queue) -> Watch:
    rarer, oftener = watch.rarer, watch.oftener
    share = queue.objections / queue.items if queue.items >= ITEMS_MIN else 0.0
    if 0.0 < share * OFTENER < 1.0:
        rarer = cusum(rarer, not one.approved, share, share * RARER)
        oftener = cusum(oftener, not one.approved, share, share * OFTENER)
    return msgspec.structs.replace(
        watch,
        hurried=(*watch.hurried, hurried(one))[-APPROVALS_KEPT:] if one.approved else watch.hurried,
        verdicts=(*watch.verdicts, one.approved)[-VERDICTS_KEPT:],
        since=watch.since + one.approved,
        rarer=rarer,
        oftener=oftener,
    )
