"""What is seen of reviewers: each row against its source, and the fold over what a person does."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from hitl_stream.core import vigilance
from hitl_stream.core.vigilance import (
    Level,
    Looked,
    Page,
    Queue,
    Sign,
    Watch,
    auc,
    canary_rate,
    cusum,
    d_prime,
    escaped,
    few_hits,
    looked,
    needs_break,
    page,
    qualified,
    queue_level,
    recheck,
)  # fmt: skip

MINUTE_MS = 60_000
SLOW, FAST = 30.0, 1.0
USUAL = Queue(items=1_000, objections=50, hurried_median=0.02)


def judged(watch: Watch, approved: bool = True, dwell_s: float = SLOW, queue: Queue = USUAL) -> Watch:
    """Let somebody judge a real item."""
    at_ms = watch.last_ms + 10 * MINUTE_MS
    return looked(watch, Looked(approved=approved, dwell_s=dwell_s, floor_s=4.0, at_ms=at_ms), queue)


def planted(watch: Watch, *caught: bool) -> Watch:
    """Let somebody judge canaries."""
    for hit in caught:
        at_ms = watch.last_ms + 10 * MINUTE_MS
        one = Looked(approved=not hit, dwell_s=SLOW, floor_s=4.0, at_ms=at_ms, caught=hit)
        watch = looked(watch, one, USUAL)
    return watch


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_hit_rate_is_too_low_when_even_its_upper_bound_is():
    assert not few_hits((False,) * 9), "nine say nothing"
    assert few_hits((False,) * 10)
    assert not few_hits((True,) * 92 + (False,) * 8)
    # 90 % Wilson, upper bound: 78 of 100 gives 0.840, 79 of 100 gives 0.849, 80 of 100 gives 0.858.
    assert few_hits((True,) * 79 + (False,) * 21)
    assert not few_hits((True,) * 80 + (False,) * 20)


def test_the_change_point_adds_the_logarithm_of_the_likelihood_ratio_and_never_falls_under_zero():
    assert cusum(0.0, True, 0.10, 0.30) == pytest.approx(math.log(3))
    assert cusum(2.0, False, 0.10, 0.30) == pytest.approx(2.0 + math.log(0.7 / 0.9))
    assert cusum(0.1, False, 0.10, 0.30) == 0.0


def test_who_misses_everything_is_seconded_after_four_and_escalated_after_seven():
    levels = []
    watch = Watch()
    for _ in range(7):
        watch = planted(watch, False)
        levels.append(watch.level)
    assert levels == [0, 0, 0, 2, 2, 2, 3]
    assert watch.signs == (Sign.MISSES_WARN, Sign.MISSES_PAGE)


@pytest.mark.parametrize(
    ("fast", "of", "median", "level"),
    [
        (0, 50, 0.0, 0),
        (8, 50, 0.0, 0),  # 16 % is not over 16 %
        (9, 50, 0.0, 1),
        (9, 50, 0.10, 0),  # all of the queue is fast
        (13, 50, 0.50, 1),  # over a quarter whatever the others do
        (19, 19, 0.0, 0),  # too few to tell
        (20, 20, 0.0, 1),
    ],
)
@pytest.mark.behaviour("A9")
def test_approving_faster_than_anybody_reads_is_watched(fast: int, of: int, median: float, level: int):
    watch = Watch()
    queue = Queue(hurried_median=median)
    for n in range(of):
        watch = judged(watch, dwell_s=FAST if n >= of - fast else SLOW, queue=queue)
    assert watch.level == level


def test_who_waits_for_the_floor_and_presses_at_once_is_as_hurried():
    one = Looked(approved=True, dwell_s=4.9, floor_s=4.0, at_ms=0)
    assert vigilance.hurried(one)
    assert not vigilance.hurried(msgspec.structs.replace(one, dwell_s=5.0))
    assert not vigilance.hurried(msgspec.structs.replace(one, approved=False)), "a quick no harms nobody"


def tabs(gap_ms: int, count: int = 20) -> Watch:
    """Let somebody paint so many cards at once, and approve one after the other."""
    watch = Watch(last_ms=MINUTE_MS)
    for n in range(count):
        at_ms = 10 * MINUTE_MS + n * gap_ms
        one = Looked(approved=True, dwell_s=(at_ms - 5 * MINUTE_MS) / 1000, floor_s=4.0, at_ms=at_ms)
        watch = looked(watch, one, USUAL)
    return watch


@pytest.mark.behaviour("A9")
def test_cards_that_were_painted_all_at_once_are_looked_at_one_after_another():
    assert tabs(500).hurried == (False, *[True] * 19), "the first one had all the time"
    assert Sign.HURRIED_PAGE in tabs(500).signs
    assert tabs(5_000).hurried == (False,) * 20
    assert not tabs(5_000).signs


@pytest.mark.parametrize("gap_ms", [500, -500])
def test_a_canary_and_a_skipped_item_in_between_take_their_time_too(gap_ms: int):
    """A decision that seems to be older than the last one had no time at all."""
    before, at_ms = planted(Watch(), True), 60 * MINUTE_MS
    one = Looked(approved=True, dwell_s=SLOW, floor_s=4.0, at_ms=at_ms)

    assert looked(before, one, USUAL).hurried == (False,)
    assert looked(msgspec.structs.replace(before, last_ms=at_ms - gap_ms), one, USUAL).hurried == (True,)
    assert looked(vigilance.skipped(before, at_ms - gap_ms), one, USUAL).hurried == (True,)


def test_nobody_looked_at_anything_for_less_than_no_time():
    one = Looked(approved=True, dwell_s=SLOW, floor_s=4.0, at_ms=60_000)
    seen = [vigilance.shown_s(Watch(last_ms=last_ms), one) for last_ms in (0, 1_000, 59_500, 60_500)]
    assert seen == [SLOW, SLOW, 0.5, 0.0]


def test_who_only_skips_for_twenty_minutes_needs_a_break_as_well():
    watch = Watch()
    for n in range(21):
        watch = vigilance.skipped(watch, 10_000_000 + n * MINUTE_MS)
    assert needs_break(watch)
    assert not needs_break(vigilance.skipped(watch, watch.last_ms + 5 * MINUTE_MS))


@pytest.mark.parametrize(("share", "about"), [(0.10, 63), (0.05, 130), (0.02, 330), (0.01, 663)])
def test_who_stops_objecting_is_found_by_the_queues_own_share(share: float, about: int):
    queue = Queue(items=10_000, objections=round(10_000 * share))
    watch, n = Watch(), 0
    while Sign.OBJECTS_LESS not in watch.signs:
        watch, n = judged(watch, queue=queue), n + 1
    assert n == pytest.approx(about, rel=0.05)
    assert watch.level == Level.WATCHED


def test_a_young_queue_is_nothing_to_compare_with():
    watch = Watch()
    for _ in range(400):
        watch = judged(watch, queue=Queue(items=499, objections=50))
    assert watch.signs == ()


def test_who_objects_three_times_as_often_is_seen_too():
    watch = Watch()
    for n in range(100):
        watch = judged(watch, approved=n % 4 != 0, queue=USUAL)
    assert Sign.OBJECTS_MORE in watch.signs


# --- levels and pages -------------------------------------------------------------------------------------------------


def test_a_level_lasts_until_somebody_has_qualified_anew():
    watch = planted(Watch(), *[False] * 7)
    watch = planted(watch, *[True] * 100)
    assert watch.level == Level.ESCALATED
    again = qualified(watch)
    assert (again.level, again.signs, again.seen) == (Level.NONE, (), 0)
    assert planted(again, *[True] * 40).level == Level.NONE


@pytest.mark.behaviour("E9")
def test_an_approval_rate_alone_wakes_nobody():
    watch = Watch()
    for _ in range(200):
        watch = judged(watch, queue=Queue())
    watch = planted(watch, *[True] * 50)
    assert vigilance.approves_nearly_all(watch.verdicts)
    assert (watch.level, page(watch)) == (Level.NONE, None)


@pytest.mark.behaviour("E9")
def test_a_rubber_stamp_approves_nearly_all_and_reads_nothing_or_misses_canaries():
    fast, blind = Watch(), Watch()
    for _ in range(40):
        fast, blind = judged(fast, dwell_s=FAST), judged(blind)
    assert page(fast) == Page.RUBBER_STAMP
    assert page(planted(blind, *[False] * 4)) == Page.RUBBER_STAMP
    assert page(blind) is None


def test_who_objects_often_and_misses_canaries_is_unreliable_and_no_rubber_stamp():
    watch = Watch()
    for n in range(60):
        watch = judged(watch, approved=n % 2 == 0, queue=Queue())
    assert page(planted(watch, *[False] * 7)) == Page.REVIEWER_UNRELIABLE


@given(st.lists(st.booleans(), max_size=60), st.lists(st.booleans(), max_size=60))
def test_no_level_depends_on_what_was_approved(caught: list[bool], verdicts: list[bool]):
    """Real items between canaries, slowly judged and in a queue without a share, change no level."""
    alone = planted(Watch(), *caught)
    beside = Watch()
    for n in range(max(len(caught), len(verdicts))):
        if n < len(verdicts):
            beside = judged(beside, approved=verdicts[n], queue=Queue())
        if n < len(caught):
            beside = planted(beside, caught[n])
    assert beside.level == alone.level
    assert beside.signs == alone.signs


@pytest.mark.parametrize(
    ("levels", "level"),
    [
        ([], 0),
        ([1, 1, 1], 1),
        ([2, 0, 0, 0], 2),
        ([2, 2], 3),
        ([2, 2] + [0] * 6, 3),
        ([2, 2] + [0] * 7, 2),  # a quarter of nine are three
        ([3] + [0] * 20, 3),
    ],
)
def test_a_queue_is_as_bad_as_its_worst_or_as_a_quarter_of_its_people(levels: list[int], level: int):
    assert queue_level([Level(one) for one in levels]) == level


def test_after_a_page_all_approvals_since_the_change_began_go_to_another_person():
    watch = planted(Watch(), True)
    for _ in range(30):
        watch = judged(watch)
    watch = planted(watch, True)  # up to here nothing was wrong
    for _ in range(70):
        watch = judged(planted(watch, False))
    assert watch.since == 70
    assert recheck(watch) == 70
    assert recheck(Watch(since=3)) == 50


# --- rates and breaks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seen", "rate"), [(0, 0.10), (19, 0.10), (20, 0.05), (99, 0.05), (100, 0.02)])
def test_canaries_grow_rarer_as_more_were_seen(seen: int, rate: float):
    assert canary_rate(planted(Watch(), *[True] * seen)) == rate


def test_a_miss_brings_canaries_back_until_twenty_were_caught_in_a_row():
    watch = planted(Watch(), *[True] * 150, False)
    assert canary_rate(watch) == 0.05
    assert canary_rate(planted(watch, *[True] * 19)) == 0.05
    assert canary_rate(planted(watch, *[True] * 20)) == 0.02


def test_who_is_watched_is_given_more_canaries():
    assert canary_rate(msgspec.structs.replace(planted(Watch(), *[True] * 150), level=Level.WATCHED)) == 0.05


def test_a_break_is_due_after_twenty_minutes_or_thirty_five_items():
    def pace(items: int, gap_s: float) -> Watch:
        watch = Watch()
        for n in range(items):
            at_ms = 10_000_000 + int(n * gap_s * 1000)
            watch = looked(watch, Looked(approved=True, dwell_s=10, floor_s=2, at_ms=at_ms), Queue())
        return watch

    assert not needs_break(pace(34, 15))
    assert needs_break(pace(35, 15))
    assert not needs_break(pace(10, 120))
    assert needs_break(pace(11, 120))
    assert not needs_break(pace(100, 301)), "five minutes without anything are a break"


# --- figures ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(0, 200), st.integers(0, 500), st.integers(0, 500))
def test_d_prime_is_that_of_the_normal_model(canaries: int, hits: int, alarms: int, others: int):
    hits, alarms = min(hits, canaries), min(alarms, others)
    d, c = d_prime(hits, canaries, alarms, others)
    hit, alarm = norm.ppf((hits + 0.5) / (canaries + 1)), norm.ppf((alarms + 0.5) / (others + 1))
    assert d == pytest.approx(hit - alarm if hits else 0.0, abs=1e-9)
    assert c == pytest.approx(-(hit + alarm) / 2, abs=1e-9)


@given(
    st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), max_size=30),
    st.lists(st.sampled_from([0.1, 0.2, 0.5]), max_size=30),
)
def test_the_area_under_the_curve_is_mann_and_whitneys(objected: list[float], approved: list[float]):
    found = auc(objected, approved)
    if not objected or not approved:
        assert found is None
        return
    assert found == pytest.approx(mannwhitneyu(objected, approved).statistic / (len(objected) * len(approved)))


def test_errors_that_escaped_are_weighted_by_how_they_were_drawn():
    chance = random.Random(5)
    shares = []
    for _ in range(300):
        items = [(chance.random() < 0.04, 0.8 if chance.random() < 0.3 else 0.2) for _ in range(2_000)]
        drawn = [(wrong and chance.random() < 0.8, p) for wrong, p in items if chance.random() < p]
        share = escaped(drawn, len(items), 0.8)
        assert share is not None
        shares.append(share)
    assert sum(shares) / len(shares) == pytest.approx(0.04, abs=0.002)
    assert escaped([], 0) is None
