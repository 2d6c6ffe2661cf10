"""The ledger: clean histories pass, and every planted fault is found where it was planted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.ledger import Answer, Ledger, Report

PLACES = ("hitl.actions/0", "hitl.actions/1")
TOPICS = {Answer.EXECUTE: "hitl.execute", Answer.REVIEW: "hitl.review", Answer.DEAD: "hitl.dlq"}
ACCOUNTS = (b"acme/a", b"acme/b")


@dataclass(frozen=True)
class Input:
    """A record of an action topic; `source` is where it says it was moved from."""

    place: str
    offset: int
    append_ms: int = 0
    source: tuple[str, int] | None = None


@dataclass(frozen=True)
class Given:
    """One answer, as it stands on its topic."""

    place: str
    offset: int
    answer: Answer
    who: bytes = ACCOUNTS[0]
    id: bytes = b""
    hash: str = ""
    attempt: int = 0
    forged: bool = False

    @property
    def identity(self) -> bytes:
        return self.id or f"{self.place}/{self.offset}".encode()

    @property
    def digest(self) -> str:
        return self.hash or self.identity.hex().ljust(64, "0")[-64:]


@dataclass(frozen=True)
class History:
    inputs: tuple[Input, ...]
    answers: tuple[Given, ...]
    committed: dict[str, int]
    last: dict[str, int] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    start: int = 0
    window_ms: int | None = None


def judge(history: History, shown_max: int = 20, answers_first: bool = False) -> Report:
    ledger = Ledger(window_ms=history.window_ms, shown_max=shown_max)
    for place in PLACES:
        end = max((i.offset for i in history.inputs if i.place == place), default=-1) + 1
        ledger.open(place, history.start, max(end, history.start))
    feeds = (_feed_inputs, _feed_answers)
    for feed in reversed(feeds) if answers_first else feeds:
        feed(ledger, history)
    return ledger.close(history.committed, history.committed | history.last, judged=history.judged)


def _feed_inputs(ledger: Ledger, history: History) -> None:
    for one in history.inputs:
        ledger.books[one.place].input(one.offset, one.append_ms)
        if one.source is not None:
            ledger.moved(ledger.books[one.source[0]], one.source[1], ledger.books[one.place], one.offset)


def _feed_answers(ledger: Ledger, history: History) -> None:
    at: dict[tuple[str, int], int] = {}
    for given_ in history.answers:
        topic, number = TOPICS.get(given_.answer, "hitl.closed"), int(given_.place[-1])
        offset = at[topic, number] = at.get((topic, number), -1) + 1
        book, where = ledger.books[given_.place], (topic, number, offset)
        if given_.attempt == 0:
            ledger.answered(book, given_.offset, given_.answer, where, given_.forged)
        if given_.answer is Answer.EXECUTE:
            ledger.executed(book, given_.offset, given_.attempt, given_.who, given_.identity, given_.digest, where)


def found(report: Report) -> dict[str, int]:
    return {row.invariant: row.violations for row in report.rows if row.violations}


P0, P1 = PLACES


def plain(*answers: Given, inputs: int = 4, committed: int = 4, **more: object) -> History:
    """Return a history of `inputs` records in each partition, of which the second is quiet."""
    records = tuple(Input(place, offset) for place in PLACES for offset in range(inputs))
    return replace(History(records, answers, {P0: committed, P1: 0}), **more)


def executed(*offsets: int) -> tuple[Given, ...]:
    return tuple(Given(P0, offset, Answer.EXECUTE) for offset in offsets)


CASES: dict[str, tuple[History, dict[str, int]]] = {
    "every input has its answer": (plain(*executed(0, 1, 2, 3)), {}),
    "an input after the committed offset is pending": (plain(*executed(0, 1), committed=2), {}),
    "a committed input has no answer": (plain(*executed(0, 1, 3)), {"I1": 1, "I14": 1}),
    "nothing was ever committed, and nothing answered": (plain(committed=0), {}),
    "an answer stands at the committed offset": (plain(*executed(0, 1, 2), committed=2), {"I14": 1}),
    "the router worked while we read": (plain(*executed(0, 1, 2), committed=2, last={P0: 3}), {}),
    "an input is executed twice": (plain(*executed(0, 1, 2, 3, 3)), {"I1": 1, "I2": 1}),
    "an input is executed and reviewed": (plain(*executed(0, 1, 2, 3), Given(P0, 1, Answer.REVIEW)), {"I1": 1}),
    "an input is executed again, after a later one": (plain(*executed(0, 1, 2, 3, 1)), {"I1": 1, "I2": 1, "I8": 1}),
    "one of two of an account is overtaken": (plain(*executed(0, 2, 1, 3)), {"I8": 1}),
    "accounts do not wait for each other": (
        plain(*executed(0, 2), Given(P0, 1, Answer.EXECUTE, ACCOUNTS[1]), *executed(3)),
        {},
    ),
    "another attempt of the same action comes late": (
        plain(*executed(0, 1, 2, 3), replace(*executed(1), attempt=1)),
        {},
    ),
    "the same attempt comes twice": (
        plain(*executed(0, 1, 2, 3), replace(*executed(1), attempt=1), replace(*executed(1), attempt=1)),
        {"I2": 1},
    ),
    "the same action runs from another place": (
        plain(*executed(0, 1, 2), replace(*executed(3), id=f"{P0}/0".encode())),
        {"I2": 1},
    ),
    "an answer names an offset that holds no record": (
        replace(plain(*executed(0, 1, 2, 3)), inputs=tuple(Input(P0, o) for o in (0, 1, 3))),
        {"I1": 1},
    ),
    "an answer lies far beyond": (plain(*executed(0, 1, 2, 3, 10**15)), {"I14": 1}),
    "an answer came while the inputs were no longer read": (plain(*executed(0, 1, 2, 3, 4), last={P0: 5}), {}),
    "what retention may have deleted is not judged": (plain(*executed(2, 3), judged={P0: 2}), {}),
    "an answer to an input from before the stretch": (
        replace(plain(*executed(1, 2, 3), start=2), inputs=(Input(P0, 2), Input(P0, 3))),
        {},
    ),
}


@pytest.mark.parametrize("answers_first", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_history_is_judged_as_its_name_says(name: str, answers_first: bool):
    history, expected = CASES[name]

    report = judge(history, answers_first=answers_first)

    assert found(report) == expected
    assert (report.conservation == "ok") == ("I1" not in expected)


def test_every_input_is_in_exactly_one_count():
    history = plain(*executed(0, 1), Given(P0, 2, Answer.LATE), committed=3)

    counts = judge(history).counts

    assert {name: n for name, n in counts.items() if n} == {
        "inputs": 8, "execute": 2, "refused.late": 1, "pending": 5
    }  # fmt: skip


def moves(*answers: Given, forged: bool = False, committed: tuple[int, int] = (1, 1)) -> History:
    """Return: the record at partition 0 claims to have been moved there from partition 1."""
    inputs = (Input(P0, 0, source=(P1, 0)), Input(P1, 0))
    return History(inputs, answers, {P0: committed[0], P1: committed[1]})


def test_a_move_is_the_answer_to_where_it_came_from():
    report = judge(moves(*executed(0)))
    assert found(report) == {}
    assert report.counts["moved"] == 1
    assert report.counts["execute"] == 1


def test_a_move_and_another_answer_are_two():
    assert found(judge(moves(*executed(0), Given(P1, 0, Answer.REVIEW)))) == {"I1": 1}


def test_a_claim_to_have_been_moved_that_the_router_refused_answers_nothing():
    refused = Given(P0, 0, Answer.IDENTITY, forged=True)
    assert found(judge(moves(refused, Given(P1, 0, Answer.REVIEW)))) == {}
    assert found(judge(moves(refused))) == {"I1": 1, "I14": 1}


def test_a_claim_that_the_router_has_not_seen_yet_doubles_nothing():
    assert found(judge(moves(Given(P1, 0, Answer.REVIEW), committed=(0, 1)))) == {}


@pytest.mark.parametrize(
    ("apart_ms", "expected"),
    [(0, {"I2": 1}), (900_000 - 10_001, {"I2": 1}), (900_000, {}), (2_000_000, {})],
)
def test_an_id_runs_with_other_bytes_only_after_its_window(apart_ms: int, expected: dict[str, int]):
    inputs = (Input(P0, 0), Input(P0, 1, append_ms=apart_ms))
    answers = tuple(Given(P0, n, Answer.EXECUTE, id=b"same", hash=f"{n}" * 64) for n in (0, 1))
    history = History(inputs, answers, {P0: 2, P1: 0}, window_ms=900_000)

    assert found(judge(history)) == expected
    assert found(judge(history, answers_first=True)) == expected
    assert found(judge(replace(history, window_ms=None))) == {}


def test_the_same_id_in_another_partition_is_another_action():
    inputs = (Input(P0, 0), Input(P1, 0))
    answers = tuple(Given(p, 0, Answer.EXECUTE, id=b"same", hash=p[-1] * 64) for p in PLACES)
    assert found(judge(History(inputs, answers, {P0: 1, P1: 1}, window_ms=900_000))) == {}


def test_violations_carry_their_places():
    report = judge(plain(*executed(0, 2, 1, 2)))
    assert {(v.invariant, v.places) for v in report.violations} == {
        ("I1", ("hitl.actions/0/2", "hitl.execute/0/3")),
        ("I1", ("hitl.actions/0/3",)),
        ("I2", ("hitl.actions/0/2", "hitl.actions/0/2", "hitl.execute/0/3")),
        ("I8", ("hitl.actions/0/1", "hitl.execute/0/2")),
        ("I14", ("hitl.actions/0/3",)),
    }
    assert report.conservation == "8 inputs, 3 ended once, 4 pending: 1 doubled, 1 lost"


def test_many_violations_are_counted_and_few_are_shown():
    report = judge(plain(inputs=1_000, committed=1_000), shown_max=5)
    assert found(report) == {"I1": 1_000, "I14": 1_000}
    assert len(report.violations) == 10
    assert report.counts["lost"] == 1_000


def test_records_that_were_looked_at_one_by_one_are_counted():
    ledger = Ledger()
    ledger.passed("seal", None, ("t", 0, 0))
    ledger.passed("seal", "no seal", ("t", 0, 1))
    report = ledger.close({}, {}, checks=("seal",))
    rows = {row.invariant: row for row in report.rows}
    assert (rows["seal"].checked, rows["seal"].violations, rows["seal"].verdict) == (2, 1, "violated")
    assert rows["hash"].verdict == "not checked"


# --- check the check --------------------------------------------------------------------------------------------------


@st.composite
def clean(draw: st.DrawFn) -> History:
    """Return a history as a good router leaves it: gaps, moves, every kind of end, a pending rest."""
    inputs: list[Input] = []
    answers: list[Given] = []
    committed = {}
    moved: list[tuple[str, int]] = []
    for place in PLACES:
        offset = 0
        count = draw(st.integers(2, 12))
        pending = draw(st.integers(0, 2))
        arriving: list[tuple[str, int] | None] = [None] * count
        if place == P1:
            arriving += moved
        for n, source in enumerate(arriving):
            offset += draw(st.sampled_from((0, 0, 0, 1, 3)))
            inputs.append(Input(place, offset, n, source))
            if n >= len(arriving) - pending:
                committed.setdefault(place, offset)
            elif place == P0 and draw(st.integers(0, 4)) == 0:
                moved.append((place, offset))
            else:
                kinds = [kind for kind in Answer if kind is not Answer.MOVED]
                kind = draw(st.sampled_from((Answer.EXECUTE, Answer.EXECUTE, *kinds)))
                answers.append(Given(place, offset, kind, draw(st.sampled_from(ACCOUNTS))))
            offset += 1
        committed.setdefault(place, offset)
    return History(tuple(inputs), tuple(answers), committed)


Plant = Callable[[History, random.Random], tuple[History, str] | None]


def lose(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Commit an offset without its answer."""
    if not history.answers:
        return None
    gone = lot.choice(history.answers)
    return replace(history, answers=tuple(a for a in history.answers if a != gone)), "I14"


def double(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Answer once more."""
    if not history.answers:
        return None
    again = replace(lot.choice(history.answers), answer=lot.choice((Answer.EXECUTE, Answer.REVIEW, Answer.DEAD)))
    return replace(history, answers=(*history.answers, again)), "I1"


def run_twice(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Forget that an id has run."""
    ran = [a for a in history.answers if a.answer is Answer.EXECUTE]
    if len(ran) < 2:
        return None
    first, second = lot.sample(ran, 2)
    copy = replace(second, id=first.identity, hash=first.digest)
    return replace(history, answers=tuple(copy if a == second else a for a in history.answers)), "I2"


def overtake(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Let a later action of an account run first."""
    pairs = [
        (a, b)
        for a in history.answers
        for b in history.answers
        if a.answer is b.answer is Answer.EXECUTE and a.place == b.place and a.who == b.who and a.offset < b.offset
    ]
    if not pairs:
        return None
    a, b = lot.choice(pairs)
    swapped = {a: b, b: a}
    return replace(history, answers=tuple(swapped.get(x, x) for x in history.answers)), "I8"


def run_ahead(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Answer what was not committed: outputs outside of the transaction of their offsets."""
    waiting = [i for i in history.inputs if i.offset >= history.committed[i.place]]
    if not waiting:
        return None
    one = lot.choice(waiting)
    return replace(history, answers=(*history.answers, Given(one.place, one.offset, Answer.REVIEW))), "I14"


def invent(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Answer an offset that holds no record."""
    there = {(i.place, i.offset) for i in history.inputs}
    gaps = [(p, o) for p in PLACES for o in range(history.committed[p]) if (p, o) not in there]
    if not gaps:
        return None
    place, offset = lot.choice(gaps)
    return replace(history, answers=(*history.answers, Given(place, offset, Answer.REVIEW))), "I1"


@given(clean(), st.booleans())
def test_a_clean_history_passes(history: History, answers_first: bool):
    report = judge(history, answers_first=answers_first)
    assert report.ok, report.violations
    assert report.conservation == "ok"
    assert report.counts["inputs"] == len(history.inputs)
    ended = sum(report.counts[name] for name in report.counts if name not in ("inputs", "pending"))
    assert ended + report.counts["pending"] == len(history.inputs)


@pytest.mark.parametrize("plant", [lose, double, run_twice, overtake, run_ahead, invent])
@given(history=clean(), seed=st.integers(0, 2**32))
def test_a_planted_fault_is_found(plant: Plant, history: History, seed: int):
    planted = plant(history, random.Random(seed))
    if planted is None:
        return
    broken, invariant = planted
    assert found(judge(broken)).get(invariant, 0) >= 1
