"""What one more judgement makes of what is known of a person: the fold, what is told, who is forgotten."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.vigilance import Level, Page, Queue, Sign, Watch
from hitl_stream.dev.reviewers import Robot
from hitl_stream.roles import monitor_state
from hitl_stream.roles.monitor_state import (
    APPROVALS_MAX,
    CHUNK,
    SCORES_KEPT,
    Chunk,
    Day,
    Figures,
    Kept,
    Place,
    Said,
    decode_chunk,
    decode_kept,
    encode,
    figures_of,
    filled,
    forgotten,
    key_of,
    newest,
    parts_of,
    qualified_anew,
    queue_news,
    sight,
    taken,
    usual_of,
)  # fmt: skip
from hitl_stream.wire.records import First
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.watched import Observed, pseudonym, read_observation
from support.desk import Workplace
from support.make import DESK_KEY, NOW_MS, action_bytes, change, iso
from support.staff import Staff, demo_policy
from support.watching import START_MS, Offline, observed

NAMES = SealKey("p1", b"\x06" * 32)
WHO = pseudonym(NAMES, "ana")
USUAL = Queue(items=1_000, objections=50, hurried_median=0.02)
TODAY = START_MS // DAY_MS


def folded(*found: Observed, kept: Kept | None = None, usual: Queue = USUAL) -> Kept:
    """Return what is kept of somebody after these."""
    kept = kept or Kept(partition=0)
    for one in found:
        kept = taken(kept, one, Place(0, kept.offset + 1, one.decided_ms), lambda: usual)
    return kept


def canaries(*verdicts: str) -> list[Observed]:
    return [observed("ana", word, purpose="canary", n=n) for n, word in enumerate(verdicts)]


# --- the fold ---------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_the_same_after_it_was_written_and_read():
    kept = folded(*canaries("reject", "approve", "skip"), observed("ana", "approve", dwell_s=0.5))

    assert decode_kept(encode(kept)) == kept
    assert kept.watch.canaries == (True, False)


@pytest.mark.parametrize(
    ("verdicts", "seen"),
    [
        (("reject", "change", "escalate"), (True, True, True)),
        (("approve",), (False,)),
        (("skip",), ()),  # it is put to the same person again
        (("lapse",), ()),
    ],
)
def test_a_canary_is_caught_by_whatever_stops_it(verdicts: tuple[str, ...], seen: tuple[bool, ...]):
    assert folded(*canaries(*verdicts)).watch.canaries == seen


def test_a_canary_that_is_let_go_twice_is_missed():
    once, again = observed("ana", "skip", purpose="canary", n=3), observed("ana", "lapse", purpose="canary", n=3)
    other = observed("ana", "skip", purpose="canary", n=4)

    kept = folded(once, other, again)

    assert kept.watch.canaries == (False,)
    assert kept.let_go == (other.observation.item,)


def test_what_the_desk_says_of_a_canary_goes_before_what_the_verdict_looks_like():
    assert folded(observed("ana", "approve", purpose="canary", caught=True)).watch.canaries == (True,)


def test_a_real_item_that_is_left_is_no_judgement():
    kept = folded(observed("ana", "approve"), observed("ana", "skip"), observed("ana", "lapse"))

    assert kept.watch.verdicts == (True,)
    assert kept.offset == 2, "it was read all the same"
    assert kept.days == (Day(TODAY, 1, 0),)


@pytest.mark.parametrize(
    ("verdict", "purpose", "is_hurried"),
    [("skip", "decide", True), ("skip", "canary", True), ("reject", "canary", True), ("reject", "decide", True),
     ("lapse", "decide", False), ("lapse", "canary", False)],
)  # fmt: skip
def test_nobody_has_seen_an_item_since_before_they_decided_another_one(verdict: str, purpose: str, is_hurried: bool):
    """What lapses nobody decides, and so it takes nothing from what they look at then."""
    between = observed("ana", verdict, n=1, purpose=purpose, at_ms=START_MS + 58_000)

    kept = folded(observed("ana", at_ms=START_MS), between, observed("ana", n=2, at_ms=START_MS + 60_000))

    assert kept.watch.hurried == (False, is_hurried)


def test_a_decision_that_seems_to_be_older_than_the_last_one_got_no_time():
    kept = folded(observed("ana", at_ms=START_MS + 60_000), observed("ana", n=1, at_ms=START_MS))

    assert kept.watch.hurried == (False, True)


def test_a_person_is_compared_with_the_queue_as_it_was_until_the_day_before():
    asked: list[int] = []

    def usual() -> Queue:
        asked.append(1)
        return Queue(items=len(asked))

    kept = Kept(partition=0)
    for n, at_ms in enumerate((START_MS, START_MS + 1, START_MS + DAY_MS, START_MS + DAY_MS + 1)):
        kept = taken(kept, observed("ana", "reject", at_ms=at_ms), Place(0, n, at_ms), usual)

    assert len(asked) == 2, "once a day"
    assert kept.hurried is None, "too few approvals before"
    assert kept.usual == Queue(items=2)
    assert kept.days == (Day(TODAY, 2, 2), Day(TODAY + 1, 2, 2))


def test_a_queue_is_what_all_its_people_did_in_thirty_days_without_today():
    hasty = Watch(hurried=(True,) * 20)
    people = [
        Kept(
            partition=0,
            day=TODAY,
            days=(Day(TODAY - 31, 500, 1), Day(TODAY - 30, 10, 1), Day(TODAY, 99, 9)),
            watch=hasty,
            hurried=0.5,
        ),
        Kept(partition=1, day=TODAY - 1, days=(Day(TODAY - 1, 20, 2),), watch=hasty, hurried=0.1),
        Kept(partition=1, day=TODAY, days=(Day(TODAY, 7, 7),), watch=hasty),
        Kept(partition=1, day=TODAY - 40, days=(Day(TODAY - 40, 1_000, 9),), watch=hasty),
    ]

    assert usual_of(people, TODAY) == Queue(items=30, objections=3, hurried_median=0.75), (
        "of what somebody does today, nothing"
    )
    assert usual_of([], TODAY) == Queue()


# --- approvals that are remembered ------------------------------------------------------------------------------------


def approve(count: int) -> tuple[Kept, dict[int, Chunk]]:
    """Let somebody approve so many items; return what is kept, and the chunks."""
    kept, chunks = Kept(partition=0), dict[int, Chunk]()
    for n in range(count):
        place = Place(0, n, START_MS)
        before, found = kept, observed("ana", "approve", n=n, item=str(n))
        kept = taken(before, found, place, Queue)
        full = filled(before, kept, str(n), place)
        if full is not None:
            chunks[full[0]] = full[1]
    return kept, chunks


@pytest.mark.parametrize("count", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, APPROVALS_MAX, APPROVALS_MAX + 7, 3 * CHUNK * 10])
@pytest.mark.parametrize("wanted", [1, CHUNK, 120, APPROVALS_MAX - CHUNK])
def test_the_newest_approvals_are_remembered(count: int, wanted: int):
    kept, chunks = approve(count)

    assert newest(kept, chunks, wanted) == tuple(str(n) for n in reversed(range(max(0, count - wanted), count)))
    assert all(len(chunk.items) <= CHUNK for chunk in chunks.values())


def test_no_more_are_remembered_than_the_limit_says():
    kept, chunks = approve(2 * APPROVALS_MAX + 10)

    assert len(newest(kept, chunks, 10 * APPROVALS_MAX)) == APPROVALS_MAX + 10
    assert sum(len(chunk.items) for chunk in chunks.values()) <= APPROVALS_MAX
    assert len(kept.recent) == 10


def test_a_chunk_that_is_written_once_more_after_a_crash_is_the_same():
    """The chunk was written, what is kept of the person was not; then the judgement is read again."""
    before, _ = approve(2 * CHUNK - 1)
    place, found = Place(0, 2 * CHUNK, START_MS), observed("ana", "approve", n=2 * CHUNK, item="x")
    once, again = (filled(before, taken(before, found, place, Queue), "x", place) for _ in range(2))

    assert once is not None
    assert once == again
    assert (once[0], len(once[1].items), once[1].items[-1]) == (1, CHUNK, "x")
    assert decode_chunk(encode(once[1])) == once[1]


# --- what is told -----------------------------------------------------------------------------------------------------


def told(*found: Observed) -> Offline:
    offline = Offline(NAMES, USUAL)
    offline.each(found)
    return offline


@pytest.mark.behaviour("E9")
def test_who_approves_every_canary_is_seconded_then_escalated_and_their_approvals_go_to_others():
    real = [observed("ana", "approve", n=1_000 + n) for n in range(60)]
    offline = told(*real[:10], *canaries("reject", *["approve"] * 3), *real[10:], *canaries(*["approve"] * 4))

    _, _, _, first, _ = offline.told[0]
    _, _, _, second, again = offline.told[1]
    assert (first.level, first.row, first.sign, first.page) == (2, 2, Sign.MISSES_WARN, Page.RUBBER_STAMP)
    assert (second.level, second.row, second.sign) == (3, 2, Sign.MISSES_PAGE)
    assert again == tuple(one.observation.item for one in reversed(real[10:])), "all since the change began"
    assert len(offline.told) == 2
    assert first.figures["hit_rate"] == 0.2


def test_nothing_is_told_of_who_reads_and_catches():
    assert told(*canaries(*["reject"] * 30), *[observed("ana", "approve", n=n) for n in range(100)]).told == []


def test_a_level_is_the_highest_over_all_queues_of_a_person():
    """Level 2 in one queue, then level 1 in another: that is an alert, and no command."""
    hasty = [observed("ana", "approve", queue="content", dwell_s=0.5, n=n) for n in range(20)]
    missed = canaries(*["approve"] * 4)

    assert [said.level for said in Offline(NAMES).each([*missed, *hasty])] == [2, None]
    assert [said.level for said in Offline(NAMES).each([*hasty, *missed])] == [1, 2]


def test_somebody_is_woken_once_for_the_same_reason():
    hasty = [observed("ana", "approve", dwell_s=0.5, n=n) for n in range(40)]
    # The share of approvals falls under nine in ten, and rises again.
    objects = [observed("ana", "reject", n=n) for n in range(10)]

    said = Offline(NAMES).each([*hasty, *objects, *hasty * 4])

    assert [one.page for one in said] == [None, Page.RUBBER_STAMP]


@pytest.mark.behaviour("A9")
def test_a_robot_that_no_longer_looks_raises_the_alarm_within_a_minute_and_one_that_reads_does_not():
    work = Workplace(demo_policy())
    staff = Staff(work, Robot("careful-trader", "trader"), Robot("lazy-trader", "trader", "lazy"))
    legs = [change("1.20", "1.50", campaign=f"cmp-{n}") for n in range(80)]
    proposed = iso(NOW_MS - 100)
    work.opened(*[action_bytes(action_id=f"a-{n}", changes=[leg], proposed_at=proposed) for n, leg in enumerate(legs)])
    staff.decide()
    offline = Offline(NAMES)
    found = [
        read_observation(output.topic, output.value, output.headers, {DESK_KEY.key_id: DESK_KEY})
        for output in work.left["observations"]
    ]
    assert len(found) >= 80
    offline.each([one for one in found if isinstance(one, Observed)])

    by = {person: said for _, person, _, said, _ in offline.told}
    assert set(by) == {pseudonym(NAMES, "lazy-trader")}
    assert by[pseudonym(NAMES, "lazy-trader")].page is Page.RUBBER_STAMP
    seconds = [one.observation.dwell_s for one in found if isinstance(one, Observed)
               and one.observation.reviewer == "lazy-trader"]  # fmt: skip
    assert sum(seconds[:30]) < 60, "thirty approvals are enough"


# --- queues and people ------------------------------------------------------------------------------------------------


def test_the_figures_of_a_queue_are_those_of_who_works_there():
    caught = Watch(canaries=(True, True, False, True), verdicts=(True,) * 3 + (False,), hurried=(False,) * 2)
    people = [
        Kept(partition=0, day=TODAY, watch=caught),
        Kept(partition=1, day=TODAY - 1, watch=Watch(level=Level.SECONDED, hurried=(True,) * 2)),
        Kept(partition=1, day=TODAY - 2, watch=Watch(level=Level.ESCALATED, canaries=(False,) * 9)),
    ]

    assert figures_of(people, TODAY) == Figures(
        level=Level.SECONDED, reviewers=2, hit_rate=0.75, hurried=0.5, approved=0.75, seconded=1
    )
    nobody = figures_of([], TODAY)
    assert (nobody.level, nobody.reviewers, nobody.hit_rate) == (0, 0, None)


def test_figures_of_pairs_and_audits_are_those_of_thirty_days():
    first = {word: First("ben", word) for word in ("approve", "reject")}
    kept = folded(
        observed("ana", "approve", purpose="second", first=first["approve"]),
        observed("ana", "approve", purpose="second", first=first["reject"]),
        observed("ana", "change", purpose="second", first=first["reject"]),
        observed("ana", "skip", purpose="second", first=first["reject"]),
        observed("ana", "reject", purpose="audit", p=0.05),
        observed("ana", "approve", purpose="audit", p=0.01),
        observed("ana", "reject", p=0.05),
    )
    old = replace(kept, days=(kept.days[0]._replace(day=TODAY - 31, pairs=900, audited=9_000.0),))
    now = figures_of([kept, old], TODAY)

    assert kept.days == (Day(TODAY, 6, 3, 3, 2, 2, 120.0, 20.0),)
    assert (now.pairs, now.agreement, now.objected, now.disagrees) == (3, 2 / 3, 2, False)
    assert now.escaped == pytest.approx(1 / 6), "picked items never enter it"
    assert figures_of([], TODAY).escaped is None


def test_errors_that_escaped_are_more_than_those_that_are_found():
    caught = Watch(canaries=(True, True, True, False) * 5)
    kept = Kept(partition=0, day=TODAY, days=(Day(TODAY, audited=100.0, wrong=3.0),), watch=caught)

    assert figures_of([kept], TODAY).escaped == pytest.approx(0.04)


def test_people_who_disagree_on_what_one_of_them_rejected_are_seen():
    days = (Day(TODAY, 60, 0, pairs=60, agreed=36, objected=30),)
    apart, alike = (
        Kept(partition=0, day=TODAY, days=days),
        Kept(partition=0, day=TODAY, days=(days[0]._replace(agreed=57),)),
    )

    assert figures_of([apart], TODAY).disagrees
    assert not figures_of([alike], TODAY).disagrees


def test_a_queue_is_told_of_where_it_changes_and_only_then():
    one = figures_of([Kept(partition=0, day=TODAY, watch=Watch(level=Level.SECONDED))] * 2, TODAY)
    assert (one.level, one.seconded, one.many) == (3, 2, True)

    (said,) = queue_news(one, {})
    assert (said.row, said.number, said.level, said.ended) == (0, 1, 3, False)
    assert said.figures == {"reviewers": 2, "seconded": 2, "pairs": 0}
    assert queue_news(one, {0: Said(1, holds=True)}) == []
    (ended,) = queue_news(figures_of([], TODAY), {0: Said(1, holds=True)})
    assert (ended.number, ended.ended) == (2, True)


def test_who_qualifies_anew_is_new_but_for_their_place_and_their_days():
    kept = folded(*canaries(*["approve"] * 7), *[observed("ana", "approve", n=n) for n in range(30)])
    assert kept.paged
    after = qualified_anew(kept, Place(0, 99, START_MS))

    assert (after.watch.level, after.watch.canaries, after.watch.signs, after.paged) == (0, (), (), ())
    assert (after.offset, after.days, after.approved) == (99, kept.days, kept.approved)
    offline = Offline(NAMES, USUAL, people={key_of(WHO, "trading"): after})
    woken = offline.each(canaries(*["approve"] * 7))
    assert [one.level for one in woken] == [2, 3], "and is watched as anybody is"


def test_how_well_somebody_tells_wrong_from_right_is_known_once_there_is_enough():
    caught = canaries(*["reject"] * 18, *["approve"] * 2)
    real = [observed("ana", "approve", n=n, score=0.2) for n in range(95)]
    bad = [observed("ana", "reject", n=n, score=0.9) for n in range(5)]

    assert sight(folded(*caught[:10], *real, *bad)) == {}
    kept = folded(*caught, *real, *bad)
    assert sight(kept) == {"d_prime": pytest.approx(2.78, abs=0.01)}
    assert sight(folded(*bad, *bad, kept=kept))["auc"] == 1.0
    assert len(kept.cleared) == SCORES_KEPT
    assert "c" in sight(folded(*caught, kept=kept))


def test_a_key_says_whose_and_where_and_of_what():
    assert parts_of(key_of("p-1", "trading")) == ("p-1", "trading", None)
    assert parts_of(key_of("p-1", "trading", 3)) == ("p-1", "trading", 3)


def test_who_was_not_seen_for_ninety_days_is_forgotten_in_their_own_partition():
    old = Kept(partition=0, day=TODAY - 91)
    people = {
        key_of("p-old", "trading"): old,
        key_of("p-both", "trading"): old,
        key_of("p-both", "content"): Kept(partition=0, day=TODAY),
        key_of("p-elsewhere", "trading"): Kept(partition=1, day=TODAY - 91),
    }

    assert forgotten(people, 0, TODAY) == ["p-old"]


def test_where_one_would_be_too_many_the_watched_are_forgotten_last(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(monitor_state, "PEOPLE_MAX", 3)
    people = {
        key_of("p-watched", "trading"): Kept(partition=0, day=TODAY - 9, offset=0, watch=Watch(level=Level.WATCHED)),
        key_of("p-early", "trading"): Kept(partition=0, day=TODAY, offset=1),
        key_of("p-late", "trading"): Kept(partition=0, day=TODAY, offset=2),
    }

    assert forgotten(people, 0, TODAY, "p-new") == ["p-early"]
    assert forgotten(people, 0, TODAY, "p-late") == [], "nobody new"
