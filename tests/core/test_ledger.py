"""The ledger: clean histories pass, and every planted fault is found where it was planted."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.ledger import BEYOND_MAX, Called, Ledger, Ran, Report, Taken
from hitl_stream.core.parking import Keys
from hitl_stream.core.standing import NAMES, WAITING, Copy, Parker, Where

PLACES = P0, P1 = ("hitl.actions/0", "hitl.actions/1")
TOPICS = {Where.EXECUTE: "hitl.execute", Where.REVIEW: "hitl.review", Where.DEAD: "hitl.dlq"}
ENTITIES = A1, A2, WHOLE = (("acme", "a", "1"), ("acme", "a", "2"), ("acme", "a", None))
FIRST = b"hitl.actions/0/0"
"""The id of what stands there."""
BY_MS = 1_000_000
"""Until when everything may run."""
ALL = 10**9
ROUTERS = tuple(where for where in Where if where < Where.REJECTED and where not in (Where.HELD, Where.UNSEALED))
"""What a router can answer."""


@dataclass(frozen=True)
class Input:
    """A record of an action topic; `source` is where it says it was moved from."""

    place: str
    offset: int
    append_ms: int = 0
    source: tuple[str, int] | None = None


@dataclass(frozen=True)
class About:
    """A record that speaks of an input."""

    place: str
    offset: int
    attempt: int = 0
    key: tuple[str, str, str | None] = A1
    id: bytes = b""
    hash: str = ""

    @property
    def identity(self) -> bytes:
        return self.id or f"{self.place}/{self.offset}".encode()

    @property
    def digest(self) -> str:
        return self.hash or self.identity.hex().ljust(64, "0")[-64:]

    @property
    def keys(self) -> Keys:
        return frozenset({self.key})


@dataclass(frozen=True)
class Answer(About):
    """A decision or an end of the router."""

    where: Where = Where.EXECUTE
    forged: bool = False
    append_ms: int = 0
    owed: bool = False
    execute_by_ms: int | None = BY_MS


@dataclass(frozen=True)
class Approval(About):
    """An execute record of the desk."""

    owed: bool = False


@dataclass(frozen=True)
class Parking(About):
    """A copy on `held`; its offset there is its place among them."""

    by: Parker = "router"
    again: bool | None = True


@dataclass(frozen=True)
class Ending(About):
    """What desk or executor closed."""

    where: Where = Where.REJECTED


@dataclass(frozen=True)
class Result(About):
    """What came of a call."""

    where: Where = Where.EXECUTED
    called_ms: int | None = 0
    machine: bool = True
    execute_by_ms: int | None = BY_MS


@dataclass(frozen=True)
class History:
    inputs: tuple[Input, ...]
    records: tuple[About, ...]
    committed: dict[str, int]
    last: dict[str, int] = field(default_factory=dict)
    held: int = ALL
    """Up to where the router has committed `held`."""
    judged: dict[str, int] = field(default_factory=dict)
    settled: dict[tuple[str, int], int] = field(default_factory=dict)
    start: int = 0
    window_ms: int | None = None


def judge(history: History, shown_max: int = 20, answers_first: bool = False) -> Report:
    ledger = Ledger(window_ms=history.window_ms, shown_max=shown_max, settled=history.settled)
    for place in PLACES:
        end = max((i.offset for i in history.inputs if i.place == place), default=-1) + 1
        ledger.open(place, history.start, max(end, history.start))
    feeds = (_feed_inputs, _feed_records)
    for feed in reversed(feeds) if answers_first else feeds:
        feed(ledger, history)
    held = {number: Taken(history.held, history.held) for number in (0, 1)}
    return ledger.close(history.committed, history.committed | history.last, held=held, judged=history.judged)


def _feed_inputs(ledger: Ledger, history: History) -> None:
    for one in history.inputs:
        ledger.books[one.place].input(one.offset, one.append_ms)
        if one.source is not None:
            ledger.moved(ledger.books[one.source[0]], one.source[1], ledger.books[one.place], one.offset)


def _feed_records(ledger: Ledger, history: History) -> None:
    """Feed each topic in its order, results last."""
    at: dict[tuple[str, int], int] = {}
    for one in (*(r for r in history.records if not isinstance(r, Result)), *results(history)):
        topic, number = topic_of(one), int(one.place[-1])
        offset = at[topic, number] = at.get((topic, number), -1) + 1
        _feed(ledger, ledger.books[one.place], one, (topic, number, offset))


def results(history: History) -> list[Result]:
    return [one for one in history.records if isinstance(one, Result)]


def topic_of(one: About) -> str:
    match one:
        case Answer():
            return TOPICS.get(one.where, "hitl.closed")
        case Approval():
            return "hitl.execute"
        case Parking():
            return "hitl.held"
        case Result():
            return "hitl.results"
    return "hitl.closed"


def _feed(ledger: Ledger, book: Any, one: About, at: tuple[str, int, int]) -> None:
    match one:
        case Answer():
            ledger.answered(book, one.offset, one.where, at, one.attempt, forged=one.forged)
            if one.where is Where.EXECUTE:
                ledger.ran(book, one.offset, one.attempt, _ran(one, True), at)
        case Approval():
            ledger.ran(book, one.offset, one.attempt, _ran(one, False), at)
        case Parking():
            ledger.parked(book, one.offset, Copy(at[2], one.attempt, one.by, one.again), at)
        case Ending():
            ledger.ended(book, one.offset, one.attempt, one.where, at)
        case Result():
            called = Called(
                one.where, one.identity, one.digest, one.keys, one.machine, one.called_ms, one.execute_by_ms
            )
            ledger.resulted(book, one.offset, one.attempt, called, at)


def _ran(one: Answer | Approval, machine: bool) -> Ran:
    append_ms, by_ms = (one.append_ms, one.execute_by_ms) if isinstance(one, Answer) else (0, BY_MS)
    return Ran(one.identity, one.digest, one.keys, machine, append_ms, by_ms, one.owed)


def found(report: Report) -> dict[str, int]:
    return {row.invariant: row.violations for row in report.rows if row.violations}


def counted(report: Report) -> dict[str, int]:
    return {name: number for name, number in report.counts.items() if number}


def plain(*records: About, inputs: int = 4, committed: int = 4, **more: object) -> History:
    """Return a history of `inputs` records in each partition, of which the second is quiet."""
    every = tuple(Input(place, offset) for place in PLACES for offset in range(inputs))
    return replace(History(every, records, {P0: committed, P1: 0}), **more)


def executed(*offsets: int, **parts: Any) -> tuple[Answer, ...]:
    return tuple(Answer(P0, offset, **parts) for offset in offsets)


def resulted(*offsets: int, **parts: Any) -> tuple[Result, ...]:
    return tuple(Result(P0, offset, **parts) for offset in offsets)


FOUR = executed(0, 1, 2, 3)
RUN = (*FOUR, *resulted(0, 1, 2, 3))
BACK = (*executed(0, 1, 2, 3), Parking(P0, 1, by="executor", again=False))
"""All were to run, and the second was sent back."""

CASES: dict[str, tuple[History, dict[str, int]]] = {
    "every input has its answer": (plain(*FOUR), {}),
    "an input after the committed offset is pending": (plain(*executed(0, 1), committed=2), {}),
    "a committed input has no answer": (plain(*executed(0, 1, 3)), {"I1": 1, "I14": 1}),
    "nothing was ever committed, and nothing answered": (plain(committed=0), {}),
    "an answer stands at the committed offset": (plain(*executed(0, 1, 2), committed=2), {"I14": 1}),
    "the router worked while we read": (plain(*executed(0, 1, 2), committed=2, last={P0: 3}), {}),
    "an input is executed twice": (plain(*executed(0, 1, 2, 3, 3)), {"I1": 1, "I2": 1}),
    "an input is executed and reviewed": (plain(*FOUR, Answer(P0, 1, where=Where.REVIEW)), {"I1": 1}),
    "an input is executed again, after a later one": (plain(*executed(0, 1, 2, 3, 1)), {"I1": 1, "I2": 1, "I8": 1}),
    "one of two of an entity is overtaken": (plain(*executed(0, 2, 1, 3)), {"I8": 1}),
    "campaigns of an account do not wait for each other": (
        plain(*executed(0, 2), *executed(1, key=A2), *executed(3)),
        {},
    ),
    "the whole account waits for its campaigns": (
        plain(*executed(0, 2), *executed(1, key=WHOLE), *executed(3)),
        {"I8": 1},
    ),
    "a campaign waits for the whole account": (
        plain(*executed(0), *executed(2, key=WHOLE), *executed(1), *executed(3)),
        {"I8": 1},
    ),
    "the same action runs from another place": (
        plain(*executed(0, 1, 2), *executed(3, id=FIRST)),
        {"I2": 1},
    ),
    "an answer names an offset that holds no record": (
        replace(plain(*FOUR), inputs=tuple(Input(P0, o) for o in (0, 1, 3))),
        {"I1": 1},
    ),
    "an answer lies far beyond": (plain(*FOUR, *executed(10**15)), {"I14": 1}),
    "an answer came while the inputs were no longer read": (plain(*executed(0, 1, 2, 3, 4), last={P0: 5}), {}),
    "what retention may have deleted is not judged": (plain(*executed(2, 3), judged={P0: 2}), {}),
    "an answer to an input from before the stretch": (
        replace(plain(*executed(1, 2, 3), start=2), inputs=(Input(P0, 2), Input(P0, 3))),
        {},
    ),
    # parked, and sent back
    "another attempt, and nobody had sent the first one back": (
        plain(*FOUR, *executed(1, attempt=1)),
        {"I2": 1},
    ),
    "another attempt, after the executor sent the first one back": (plain(*BACK, *executed(1, attempt=1)), {}),
    "the same attempt comes twice": (
        plain(*BACK, *executed(1, attempt=1), *executed(1, attempt=1)),
        {"I1": 1, "I2": 1},
    ),
    "what was sent back lies on held": (plain(*BACK, held=0), {}),
    "what was sent back vanishes in a pass": (plain(*BACK), {"I1": 1, "I14": 1}),
    "what was parked vanishes in a pass": (plain(*executed(0, 2, 3), Parking(P0, 1)), {"I1": 1, "I14": 1}),
    "what lies on held is decided all the same": (plain(*FOUR, Parking(P0, 1), held=0), {"I14": 1}),
    "a copy of an input that is not committed": (
        plain(*executed(0, 1, 2), Parking(P0, 3), committed=3, held=0),
        {"I14": 1},
    ),
    "a copy of what retention may have deleted": (plain(*executed(2, 3), Parking(P0, 1), judged={P0: 2}), {}),
    # what comes of it
    "everything was executed": (plain(*RUN), {}),
    "a result without an execute record": (
        plain(*FOUR, *resulted(0, attempt=1)),
        {"I3": 1},
    ),
    "a result whose execute record retention may have deleted": (
        plain(*executed(2, 3), *resulted(0), judged={P0: 2}),
        {},
    ),
    "a result that came while we read": (
        plain(*FOUR, *resulted(0, attempt=1), settled={("hitl.results", 0): 0}),
        {},
    ),
    "a result of other bytes": (plain(*FOUR, *resulted(0, hash="9" * 64)), {"I3": 1}),
    "executed twice": (plain(*RUN, *resulted(1)), {"I1": 1, "I2": 1, "I8": 1}),
    "the same action is applied from two places": (
        plain(*executed(0, 1, 2), *executed(3, id=FIRST), *resulted(0), *resulted(3, id=FIRST)),
        {"I2": 2},
    ),
    "executed, and sent back as not called": (plain(*BACK, *executed(1, attempt=1), *resulted(1)), {"I2": 1}),
    "a call overtakes another": (plain(*FOUR, *resulted(0, 2, 1, 3)), {"I8": 1}),
    "calls of two campaigns": (
        plain(*executed(0, 1), *executed(2, key=A2), *executed(3), *resulted(0), *resulted(2, key=A2), *resulted(1)),
        {},
    ),
    "what failed changed nothing": (
        plain(*FOUR, *resulted(0, 2), *resulted(1, where=Where.FAILED), *resulted(3)),
        {},
    ),
    "an unresolved call counts from when it was made": (
        plain(*FOUR, *resulted(0), *resulted(1, where=Where.UNRESOLVED), *resulted(2, 1, 3)),
        {},
    ),
    "what people approved runs when they did": (
        plain(
            Answer(P0, 0, where=Where.REVIEW), *executed(1, 2, 3), Approval(P0, 0), *resulted(1, 2),
            *resulted(0, machine=False), *resulted(3),
        ),
        {},
    ),
    "the machine runs what was overtaken by what people approved": (
        plain(
            *executed(0, 1, 2), Answer(P0, 3, where=Where.REVIEW), Approval(P0, 3), *resulted(0, 1),
            *resulted(3, machine=False), *resulted(2),
        ),
        {"I8": 1},
    ),
    "approved, and never sent to people": (plain(*FOUR, Approval(P0, 1, id=b"x")), {"I3": 1}),
    "approved twice": (
        plain(*executed(0, 2, 3), Answer(P0, 1, where=Where.REVIEW), Approval(P0, 1), Approval(P0, 1)),
        {"I1": 1, "I2": 1},
    ),
    "called in time": (plain(*FOUR, *resulted(1, called_ms=BY_MS)), {}),
    "called after its deadline": (plain(*FOUR, *resulted(1, called_ms=BY_MS + 1)), {"I11": 1}),
    "nobody knows when it was called": (plain(*FOUR, *resulted(1, called_ms=None)), {}),
    "decided after its deadline": (plain(*executed(0, 1, 2), *executed(3, append_ms=BY_MS)), {"I3": 1}),
    "rejected, and executed": (
        plain(*executed(0, 2, 3), Answer(P0, 1, where=Where.REVIEW), Ending(P0, 1), Approval(P0, 1),
              *resulted(1, machine=False)),
        {"I1": 1},
    ),
    "the executor is done with it, and it has no end": (
        plain(*executed(0, 1, owed=True), *executed(2, 3), *resulted(0)),
        {"I1": 1, "I14": 1},
    ),
    "the executor is done with the second attempt, and it has no end": (
        plain(*BACK, *executed(1, attempt=1, owed=True)),
        {"I1": 1, "I14": 1},
    ),
    "the executor is done with an approval, and it has no end": (
        plain(*executed(0, 2, 3), Answer(P0, 1, where=Where.REVIEW), Approval(P0, 1, owed=True)),
        {"I1": 1, "I14": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("answers_first", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_a_history_is_judged_as_its_name_says(name: str, answers_first: bool):
    history, expected = CASES[name]

    report = judge(history, answers_first=answers_first)

    assert found(report) == expected
    if not expected:
        assert report.conservation == "ok"


@pytest.mark.parametrize("name", CASES)
def test_every_input_is_counted_once(name: str):
    history, _ = CASES[name]

    report = judge(history)

    within = sum(report.counts[NAMES[where]] for where in Where if where not in WAITING)
    beyond = sum(one.offset < history.start for one in history.records)
    total = within + sum(report.counts[name] for name in ("pending", "lost", "unjudged")) - beyond
    assert report.counts["inputs"] == len(history.inputs) == total


def test_what_is_pending_says_where_it_waits():
    history = plain(
        *executed(0, 1), *resulted(0), Answer(P0, 2, where=Where.LATE), Parking(P0, 3),
        Answer(P0, 4, where=Where.REVIEW), Answer(P0, 5, where=Where.ESCALATION), Approval(P0, 5),
        inputs=7, committed=6, held=0,
    )  # fmt: skip

    assert counted(judge(history)) == {
        "inputs": 14, "executed": 1, "refused.late": 1, "pending": 12, "pending.execute": 2, "pending.review": 1,
        "pending.held": 1, "pending.unanswered": 8,
    }  # fmt: skip


def test_each_partition_is_counted_by_itself():
    report = judge(plain(*RUN))
    assert report.partitions[P0] == {"inputs": 4, "executed": 4, "pending": 0, "lost": 0, "unjudged": 0}
    assert report.partitions[P1]["pending.unanswered"] == 4


def moves(*records: About, forged: bool = False, committed: tuple[int, int] = (1, 1)) -> History:
    """Return: the record at partition 0 claims to have been moved there from partition 1."""
    inputs = (Input(P0, 0, source=(P1, 0)), Input(P1, 0))
    return History(inputs, records, {P0: committed[0], P1: committed[1]})


def test_a_move_is_the_answer_to_where_it_came_from():
    report = judge(moves(*executed(0)))
    assert found(report) == {}
    assert counted(report) == {"inputs": 2, "moved": 1, "pending": 1, "pending.execute": 1}


def test_a_move_and_another_answer_are_two():
    assert found(judge(moves(*executed(0), Answer(P1, 0, where=Where.REVIEW)))) == {"I1": 1}


def test_a_claim_to_have_been_moved_that_the_router_refused_answers_nothing():
    refused = Answer(P0, 0, where=Where.IDENTITY, forged=True)
    assert found(judge(moves(refused, Answer(P1, 0, where=Where.REVIEW)))) == {}
    assert found(judge(moves(refused))) == {"I1": 1, "I14": 1}


def test_a_claim_that_the_router_has_not_seen_yet_doubles_nothing():
    assert found(judge(moves(Answer(P1, 0, where=Where.REVIEW), committed=(0, 1)))) == {}
    parked = moves(Parking(P1, 0), committed=(0, 1))
    assert found(judge(replace(parked, held=0))) == {}


@pytest.mark.parametrize(
    ("apart_ms", "expected"),
    [(0, {"I2": 1}), (900_000 - 10_001, {"I2": 1}), (900_000, {}), (2_000_000, {})],
)
def test_an_id_runs_with_other_bytes_only_after_its_window(apart_ms: int, expected: dict[str, int]):
    inputs = (Input(P0, 0), Input(P0, 1, append_ms=apart_ms))
    records = tuple(Answer(P0, n, id=b"same", hash=f"{n}" * 64) for n in (0, 1))
    history = History(inputs, records, {P0: 2, P1: 0}, window_ms=900_000)

    assert found(judge(history)) == expected
    assert found(judge(history, answers_first=True)) == expected
    assert found(judge(replace(history, window_ms=None))) == {}


def test_the_same_id_in_another_partition_is_another_action():
    inputs = (Input(P0, 0), Input(P1, 0))
    records = tuple(Answer(p, 0, id=b"same", hash=p[-1] * 64) for p in PLACES)
    assert found(judge(History(inputs, records, {P0: 1, P1: 1}, window_ms=900_000))) == {}


def test_violations_carry_their_places():
    report = judge(plain(*executed(0, 2, 1, 2)))
    assert {(v.invariant, v.places) for v in report.violations} == {
        ("I1", ("hitl.actions/0/2", "hitl.execute/0/3")),
        ("I1", ("hitl.actions/0/3",)),
        ("I2", ("hitl.actions/0/2", "hitl.actions/0/2", "hitl.execute/0/3")),
        ("I8", ("hitl.actions/0/1", "hitl.execute/0/2")),
        ("I14", ("hitl.actions/0/3",)),
    }
    assert report.conservation == "8 inputs, 0 ended once, 7 pending: 1 doubled, 1 lost"


def test_many_violations_are_counted_and_few_are_shown():
    report = judge(plain(inputs=1_000, committed=1_000), shown_max=5)
    assert found(report) == {"I1": 1_000, "I14": 1_000}
    assert len(report.violations) == 10
    assert report.counts["lost"] == 1_000
    report = judge(plain(*executed(*range(1_000), owed=True), inputs=1_000, committed=1_000), shown_max=5)
    assert found(report) == {"I1": 1_000, "I14": 1_000}
    assert len(report.violations) == 10


def test_what_still_moves_is_counted_and_nothing_of_it_is_called_missing():
    """The executor sent it back, and the router took it up, after the ends of the topics were first looked at."""
    half = plain(*FOUR, *executed(1, attempt=1))
    assert found(judge(half)) == {"I2": 1}
    report = judge(replace(half, settled={("hitl.execute", 0): 4}))
    assert found(report) == {}
    assert report.counts["pending.execute"] == 4


def test_what_lies_beyond_the_inputs_takes_no_more_than_so_much_memory():
    ledger = Ledger()
    book = ledger.open(P0, 0, 1)
    for offset in range(BEYOND_MAX + 10):
        ledger.answered(book, 1 + offset, Where.REVIEW, ("hitl.review", 0, offset))
    assert len(book.beyond) == BEYOND_MAX


def test_records_that_were_looked_at_one_by_one_are_counted():
    ledger = Ledger()
    ledger.passed("seal", None, ("t", 0, 0))
    ledger.passed("seal", "no seal", ("t", 0, 1))
    report = ledger.close({}, {}, checks=("seal",))
    rows = {row.invariant: row for row in report.rows}
    assert (rows["seal"].checked, rows["seal"].violations, rows["seal"].verdict) == (2, 1, "violated")
    assert rows["hash"].verdict == "not checked"
    assert rows["I4"].verdict == "not checked"


# --- check the check --------------------------------------------------------------------------------------------------


@st.composite
def clean(draw: st.DrawFn) -> History:
    """Return a history as good roles leave it: gaps, moves, every kind of end, parked ones, a pending rest.

    The router answers each partition in its order; what it parks, or an executor sends back, is decided in the end,
    also in its order, or lies there still. Then executors run what they were given.
    """
    inputs: list[Input] = []
    records: list[About] = []
    committed = {}
    moved: list[tuple[str, int]] = []
    lies = draw(st.booleans())
    for place in PLACES:
        offset = 0
        count = draw(st.integers(2, 12))
        pending = draw(st.integers(0, 2))
        arriving: list[tuple[str, int] | None] = [None] * count
        if place == P1:
            arriving += moved
        parked: list[About] = []
        for n, source in enumerate(arriving):
            offset += draw(st.sampled_from((0, 0, 0, 1, 3)))
            inputs.append(Input(place, offset, n, source))
            one = About(place, offset, key=draw(st.sampled_from(ENTITIES)))
            if n >= len(arriving) - pending:
                committed.setdefault(place, offset)
            elif place == P0 and draw(st.integers(0, 4)) == 0:
                moved.append((place, offset))
            elif parked or draw(st.integers(0, 5)) == 0:
                parked.append(one)  # everything behind it waits, too: its entity may be any
            else:
                kind = draw(st.sampled_from((Where.EXECUTE, Where.EXECUTE, *ROUTERS)))
                kind = Where.LATE if kind is Where.MOVED else kind
                records.append(Answer(place, offset, key=one.key, where=kind))
            offset += 1
        committed.setdefault(place, offset)
        records += _ended(draw, [r for r in records if isinstance(r, Answer) and r.place == place])
        records += _parked(draw, parked, lies)
    return History(tuple(inputs), tuple(records), committed, held=0 if lies else ALL)


def _ended(draw: st.DrawFn, answers: list[Answer]) -> list[About]:
    """Return what executors make of a partition, from its beginning: ends, then one that is sent back, then nothing."""
    found: list[About] = []
    for one in answers:
        if one.where is Where.REVIEW and draw(st.booleans()):
            found.append(Ending(one.place, one.offset))
        if one.where is not Where.EXECUTE:
            continue
        step = draw(st.sampled_from((*STEPS, None)))
        if step is None:
            break
        if step is Where.STALE:
            found.append(Ending(one.place, one.offset, where=step))
            continue
        found.append(Result(one.place, one.offset, key=one.key, where=step))
        if step is Where.UNRESOLVED and draw(st.booleans()):
            found.append(Result(one.place, one.offset, key=one.key))
    return found


def _parked(draw: st.DrawFn, parked: list[About], lies: bool) -> list[About]:
    found: list[About] = []
    for one in parked:
        found.append(Parking(one.place, one.offset))
        if not lies:
            found.append(Answer(one.place, one.offset, key=one.key))
            if draw(st.booleans()):
                found.append(Parking(one.place, one.offset, by="executor", again=False))
                found.append(Answer(one.place, one.offset, 1, one.key))
    return found


STEPS = (Where.EXECUTED, Where.EXECUTED, Where.FAILED, Where.UNRESOLVED, Where.STALE)
Plant = Callable[[History, random.Random], tuple[History, str] | None]


def of(history: History, kind: Any, **parts: Any) -> list[Any]:
    """Return the records of one kind."""
    every = [one for one in history.records if type(one) is kind]
    return [one for one in every if all(getattr(one, name) == part for name, part in parts.items())]


def without(history: History, *gone: About) -> History:
    return replace(history, records=tuple(one for one in history.records if one not in gone))


def lose(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Commit an offset without its answer."""
    answers = of(history, Answer)
    return (without(history, lot.choice(answers)), "I1") if answers else None


def double(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Answer once more."""
    answers = of(history, Answer, attempt=0)
    if not answers:
        return None
    again = replace(lot.choice(answers), where=lot.choice((Where.EXECUTE, Where.REVIEW, Where.DEAD)))
    return replace(history, records=(*history.records, again)), "I1"


def run_twice(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Forget that an id has run."""
    ran = of(history, Answer, where=Where.EXECUTE, attempt=0)
    if len(ran) < 2:
        return None
    first, second = lot.sample(ran, 2)
    copy = replace(second, id=first.identity, hash=first.digest)
    return replace(history, records=tuple(copy if one == second else one for one in history.records)), "I2"


def overtake(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Let a later action of an entity be decided first."""
    return _swap(history, lot, of(history, Answer, where=Where.EXECUTE, attempt=0))


def call_first(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Let a later action of an entity be called first."""
    return _swap(history, lot, of(history, Result, where=Where.EXECUTED))


def _swap(history: History, lot: random.Random, among: list[Any]) -> tuple[History, str] | None:
    pairs = [(a, b) for a in among for b in among if a.place == b.place and a.key == b.key and a.offset < b.offset]
    # What settles an unresolved call is no call: it may come at any time.
    settled = {one.offset for one in of(history, Result, where=Where.UNRESOLVED)}
    pairs = [(a, b) for a, b in pairs if not settled & {a.offset, b.offset}]
    if not pairs:
        return None
    a, b = lot.choice(pairs)
    swapped = {a: b, b: a}
    return replace(history, records=tuple(swapped.get(x, x) for x in history.records)), "I8"


def run_ahead(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Answer what was not committed: outputs outside of the transaction of their offsets."""
    waiting = [i for i in history.inputs if i.offset >= history.committed[i.place]]
    if not waiting:
        return None
    one = lot.choice(waiting)
    return replace(history, records=(*history.records, Answer(one.place, one.offset, where=Where.REVIEW))), "I14"


def invent(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Answer an offset that holds no record."""
    there = {(i.place, i.offset) for i in history.inputs}
    gaps = [(p, o) for p in PLACES for o in range(history.committed[p]) if (p, o) not in there]
    if not gaps:
        return None
    place, offset = lot.choice(gaps)
    return replace(history, records=(*history.records, Answer(place, offset, where=Where.REVIEW))), "I1"


def drop_what_was_sent_back(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Decide again what nobody sent back: its copy was never written."""
    copies = of(history, Parking, by="executor")
    return (without(history, lot.choice(copies)), "I2") if copies else None


def lose_in_a_pass(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Commit `held` past a copy without an answer to it."""
    parked = {(one.place, one.offset) for one in of(history, Parking)} if history.held else set()
    answers = [one for one in of(history, Answer) if (one.place, one.offset) in parked]
    newest = [a for a in answers if a.attempt == max(b.attempt for b in answers if b.offset == a.offset)]
    return (without(history, lot.choice(newest)), "I14") if newest else None


def call_what_was_sent_back(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Call the platform for an attempt, and send it back as not called."""
    copies = of(history, Parking, by="executor")
    if not copies:
        return None
    one = lot.choice(copies)
    return replace(history, records=(*history.records, Result(one.place, one.offset))), "I2"


def end_again(history: History, lot: random.Random) -> tuple[History, str] | None:
    """End what has its end."""
    ends = [*of(history, Ending), *of(history, Result, where=Where.EXECUTED)]
    if not ends:
        return None
    one = lot.choice(ends)
    again = Ending(one.place, one.offset, where=lot.choice((Where.REJECTED, Where.STALE)))
    return replace(history, records=(*history.records, again)), "I1"


def call_late(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Call after the deadline."""
    calls = of(history, Result)
    if not calls:
        return None
    one = lot.choice(calls)
    late = replace(one, called_ms=BY_MS + 1)
    return replace(history, records=tuple(late if x == one else x for x in history.records)), "I11"


def call_without_a_decision(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Call the platform for what was only sent to people."""
    asked = of(history, Answer, where=Where.REVIEW)
    if not asked:
        return None
    one = lot.choice(asked)
    return replace(history, records=(*history.records, Result(one.place, one.offset))), "I3"


def lose_at_the_executor(history: History, lot: random.Random) -> tuple[History, str] | None:
    """Commit the offset of an execute record without its end."""
    ended = {(one.place, one.offset) for one in history.records if isinstance(one, Ending | Result | Parking)}
    ran = [one for one in of(history, Answer, where=Where.EXECUTE) if (one.place, one.offset) not in ended]
    if not ran:
        return None
    one = lot.choice(ran)
    owed = replace(one, owed=True)
    return replace(history, records=tuple(owed if x == one else x for x in history.records)), "I14"


PLANTS: list[Plant] = [
    lose, double, run_twice, overtake, call_first, run_ahead, invent, drop_what_was_sent_back, lose_in_a_pass,
    call_what_was_sent_back, end_again, call_late, call_without_a_decision, lose_at_the_executor,
]  # fmt: skip


@given(clean(), st.booleans())
def test_a_clean_history_passes(history: History, answers_first: bool):
    report = judge(history, answers_first=answers_first)
    assert report.ok, report.violations
    assert report.conservation == "ok"
    assert report.counts["inputs"] == len(history.inputs)
    ended = sum(report.counts[NAMES[where]] for where in Where if where not in WAITING)
    assert ended + report.counts["pending"] == len(history.inputs)


@pytest.mark.parametrize("plant", PLANTS)
@given(history=clean(), seed=st.integers(0, 2**32))
def test_a_planted_fault_is_found(plant: Plant, history: History, seed: int):
    planted = plant(history, random.Random(seed))
    if planted is None:
        return
    broken, invariant = planted
    assert found(judge(broken)).get(invariant, 0) >= 1
