"""The fold behind `hitl verify`: facts about a log in, a verdict on each invariant out.

It is told what the log holds (an input at a place, an answer to a place, a copy on `held`, an execute record, a result),
in any order but two: the records of one partition come in its order, and results come after all execute records. It
knows no bytes and no Kafka.

| invariant | holds when |
|---|---|
| I1 | each input stands in exactly one place, and once it has ended it stays there (`core.standing`) |
| I2 | one execute record per (tenant, action id, hash, attempt); a further attempt only after an executor sent the one before back; one result that applied; within the window, no id runs with other bytes too |
| I3 | each execute record was still in time when it was committed, under a recorded policy, approved only where people had been asked; each result has its execute record, with the same hash |
| I8 | what the machine decided runs in the order of its inputs, entity by entity: first attempts as they stand on `execute`, and calls as they stand on `results` |
| I11 | each call began before the action's time was over; for verdicts see there |
| I14 | what lies below a committed offset has its answer, and nothing at or after it has one: actions, `held`, `execute` |

What people say (I6, I7) is `core.judgements`'s to fold, by way of `looked`; a view (I13) is compared by whoever has one.

What people approved runs when they did: it is not judged by I8, but what the machine decided may not run after it.

**A live log moves.** The committed offsets are read before everything (`first`) and after everything (`last`). Below
`first`, an answer must be there. From `last` on, none may be. Between the two the router worked while we read. And what
caused a record may have been read before it was there: a record that is not yet in `settled`, where the topics ended
before any reading began, is counted, and of what it is about nothing is called missing.

**Retention.** An input from before `judged` may have lost its answer to deletion, and an answer to an offset before the
stretch that was read has no input here: both are counted as `unjudged`, not as violations.

Memory: two bytes an input offset, about 500 a chain (what was parked, or has anything else out of the ordinary), 24 a
move, about 200 an execute record. Ids are compared by 64 bits of a digest and 64 of the hash: at a million records the
chance of one false alarm is 3 in 10⁸.
"""  # noqa: E501  a table's row is one line

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from msgspec import Struct

from hitl_stream.core.overtaking import Overtaking
from hitl_stream.core.parking import Keys
from hitl_stream.core.standing import (
    NAMES,
    SETTLES,
    WAITING,
    Chain,
    Copy,
    Fault,
    Invariant,
    Judged,
    Told,
    Where,
    judge,
)

SHOWN_MAX = 20
"""Violations kept for each invariant; the rest are only counted."""
ACCURACY_MS = 10_000
"""Append times of inputs are remembered this exactly: enough to say whether two ids were surely inside one window."""
BEYOND_MAX = 100_000
"""Answers kept that lie beyond the inputs that were read, and ids that ran with other bytes: few in a sound log."""

Place = tuple[str, int, int]
"""Topic, partition, offset of a record."""
UNANSWERED = "pending.unanswered"
WHAT: Mapping[Invariant, str] = {
    "I1": "each input offset ends exactly once",
    "I2": "at most one execute record per action, hash and attempt",
    "I3": "nothing runs without a valid, unexpired decision",
    "I4": "nothing leaves against a switch that is EFFECTIVE",
    "I5": "every switch is EFFECTIVE within its bound",
    "I6": "each verdict that counts is applied exactly once",
    "I7": "who approves is asked, somebody else, and as many people as it takes",
    "I8": "what runs follows the order of its inputs",
    "I11": "nothing is decided or called after its time",
    "I13": "the console's view is what the topics say",
    "I14": "offsets and answers commit together",
    "form": "every record on an output topic is one of ours",
    "seal": "every record between roles is sealed by its role",
    "hash": "the hash in the head is that of the action behind it",
}
ALWAYS: tuple[Invariant, ...] = ("I1", "I2", "I3", "I8", "I11", "I14")
"""What needs no key and no control log; the others are looked at where somebody says so."""


_WHERE = 0x1F
"""In an offset's first byte: the router's first answer. In its second: how desk or executor ended the first attempt."""
_SEEN, _FORGED, _CHAINED = 0x20, 0x40, 0x80
"""Bits of the first byte."""
_APPROVED, _OWED, _MOVING = 0x20, 0x40, 0x80
"""Bits of the second one. Moving: something of it was not settled when reading began."""
_ANSWER = _WHERE | _CHAINED
_LOST = bytes(1 if mark & (_SEEN | _ANSWER) == _SEEN else 0 for mark in range(256))
_ANSWERED = bytes(1 if mark & _ANSWER else 0 for mark in range(256))
_UNFOUNDED = bytes(1 if mark & _ANSWER and not mark & _SEEN else 0 for mark in range(256))


@dataclass(frozen=True)
class Violation:
    """One thing that must not be, and the places (`topic/partition/offset`) where it shows."""

    invariant: Invariant
    what: str
    places: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One invariant's result; `checked` counts what was looked at."""

    invariant: Invariant
    what: str
    checked: int
    violations: int
    verdict: Literal["ok", "violated", "not checked"]


@dataclass(frozen=True)
class Figure:
    """How long something took, in milliseconds, over `count` times."""

    count: int
    p50_ms: int
    p99_ms: int
    max_ms: int


@dataclass(frozen=True)
class Report:
    """What `hitl verify` found.

    `counts` holds the inputs, where they stand (each kind of end; what is pending, and where it waits), and what is no
    input. `figures` are times that are not judged one by one.
    """

    rows: tuple[Row, ...]
    counts: Mapping[str, int]
    partitions: Mapping[str, Mapping[str, int]]
    violations: tuple[Violation, ...]
    conservation: str
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Say whether nothing was violated."""
        return not any(row.violations for row in self.rows)

    def also(
        self, invariant: Invariant, checked: int, violations: Sequence[Violation], notes: Iterable[str] = ()
    ) -> Report:
        """Return this with what was looked at besides, for an invariant of which it says nothing."""
        verdict: Literal["ok", "violated"] = "violated" if violations else "ok"
        row = Row(invariant, WHAT[invariant], checked, len(violations), verdict)
        rows = tuple(row if one.invariant == invariant else one for one in self.rows)
        shown = (*self.violations, *violations[:SHOWN_MAX])
        return replace(self, rows=rows, violations=shown, notes=(*self.notes, *notes))


class Ran(Struct, frozen=True):
    """An execute record: what it runs, what that touches, and until when.

    `identity` is the tenant and the action id, `hash` hexadecimal. `machine`: nobody approved it. `owed`: an executor
    has committed its offset.
    """

    identity: bytes
    hash: str
    keys: Keys
    machine: bool
    append_ms: int
    execute_by_ms: int | None = None
    owed: bool = False


class Called(Struct, frozen=True):
    """A result: what became of which action, and when the call began (None: nobody knows)."""

    status: Where
    identity: bytes
    hash: str
    keys: Keys
    machine: bool
    called_ms: int | None = None
    execute_by_ms: int | None = None


class Taken(NamedTuple):
    """Up to which offset the router had committed a partition of `held`, before all else was read and after it."""

    first: int
    last: int


NEVER = Taken(0, 0)


class Book:
    """One input partition from `start` to before `end`: two bytes an offset, and a chain where those do not do."""

    __slots__ = (
        "beyond", "called", "chains", "end", "index", "later", "marks", "place", "ran", "start", "times", "unjudged",
    )  # fmt: skip

    def __init__(self, index: int, place: str, start: int, end: int) -> None:
        self.index = index
        self.place = place
        self.start = start
        self.end = end
        self.marks = bytearray(end - start)
        self.later = bytearray(end - start)
        self.chains: dict[int, Chain] = {}
        """By offset: what the two bytes do not hold; they hold the rest."""
        self.beyond: list[int] = []
        self.ran = Overtaking()
        self.called = Overtaking()
        self.times = (array("q"), array("q"))
        self.unjudged = 0

    def input(self, offset: int, append_ms: int) -> None:
        """Say that a record stands at `offset`, which lies in the stretch; offsets come in order."""
        self.marks[offset - self.start] |= _SEEN
        offsets, times = self.times
        if not times or append_ms >= times[-1] + ACCURACY_MS:
            offsets.append(offset)
            times.append(append_ms)

    def mark(self, offset: int) -> int:
        """Return what is known of an offset; 0 outside the stretch."""
        return self.marks[offset - self.start] if self.start <= offset < self.end else 0

    def appended_ms(self, offset: int) -> int | None:
        """Return when an input was appended, at most `ACCURACY_MS` too early, or None where it was not read."""
        offsets, times = self.times
        at = bisect_right(offsets, offset) - 1
        return times[at] if at >= 0 and offset < self.end else None

    def is_unresolved(self, offset: int) -> bool:
        """Say whether nobody knows yet what became of a call for this input."""
        if not self.start <= offset < self.end:
            return False
        ends = [told.where for told in self.chains[offset].ends] if offset in self.chains else []
        ends.append(Where(self.later[offset - self.start] & _WHERE or Where.EXECUTE))
        return Where.UNRESOLVED in ends

    def at(self, offset: int) -> str:
        """Return the place of an offset."""
        return f"{self.place}/{offset}"

    def number(self) -> int:
        """Return the number of the partition."""
        return int(self.place.rpartition("/")[2])

    def chain(self, offset: int) -> Chain:
        """Return what the two bytes of an offset do not hold."""
        self.marks[offset - self.start] |= _CHAINED
        return self.chains.setdefault(offset, Chain())

    def whole(self, offset: int) -> Chain:
        """Return everything that is known of an offset."""
        index = offset - self.start
        plain, more = _unpacked(self.marks[index], self.later[index]), self.chains.get(offset)
        if more is None:
            return plain
        return Chain(
            plain.answers + more.answers,
            more.copies,
            plain.approved + more.approved,
            plain.ends + more.ends,
            plain.owed | more.owed,
        )


def _unpacked(mark: int, later: int) -> Chain:
    """Return what two bytes hold: an answer, an approval and an end of the first attempt."""
    chain = Chain()
    if mark & _WHERE:
        chain.answers.append(Told(0, Where(mark & _WHERE)))
    if later & _APPROVED:
        chain.approved.append(0)
    if later & _OWED:
        chain.owed.add(0)
    if later & _WHERE:
        chain.ends.append(Told(0, Where(later & _WHERE)))
    return chain


class Ledger:
    """Collects facts; `close` judges them.

    `window_ms` is how long an id is surely remembered (None: not known), `settled` where each partition ended before
    any reading began (one that is not there: all of it was there).
    """

    def __init__(
        self,
        *,
        window_ms: int | None = None,
        settled: Mapping[tuple[str, int], int] | None = None,
        shown_max: int = SHOWN_MAX,
    ) -> None:
        self.window_ms = window_ms
        self.books: dict[str, Book] = {}
        self.later = 0
        """Records about an action that are no answer: what an executor asks people, and others' dead letters."""
        self.foreign = 0
        """Answers to topics that are not among the inputs (any more)."""
        self._settled = settled or {}
        self._shown_max = shown_max
        self._by_index: list[Book] = []
        self._found: Counter[Invariant] = Counter()
        self._checked: Counter[Invariant] = Counter()
        self._shown: list[Violation] = []
        self._moves = (array("q"), array("q"), array("q"), array("q"))
        self._executed: dict[int, int] = {}
        """Digest of an identity → the number of the first execute record of it; the further ones are in `_more`."""
        self._more: dict[int, list[int]] = {}
        self._hashes = array("Q")
        self._attempts = array("q")
        self._applied = bytearray()
        self._origins = (array("q"), array("q"))
        self._claims: list[tuple[Book, int, Book, int, str]] = []
        self._unfounded_results: list[tuple[Book, int, str]] = []

    def open(self, place: str, start: int, end: int) -> Book:
        """Begin with the input partition `place` (`topic/partition`), of which [start, end) is read."""
        book = self.books[place] = Book(len(self._by_index), place, start, max(start, end))
        self._by_index.append(book)
        return book

    # --- what the router says -----------------------------------------------------------------------------------------

    def answered(
        self, book: Book, offset: int, where: Where, at: Place, attempt: int = 0, *, forged: bool = False
    ) -> None:
        """Say that the record `at` is the router's answer to an input; copies on `held` are `parked`.

        `forged`: it refuses the input for a `hitl-via` without a good seal, so what that header claims is void.
        """
        if not self._is_within(book, offset):
            return
        index = offset - book.start
        mark = book.marks[index]
        if attempt == 0 and not mark & _WHERE:
            book.marks[index] = mark | where | (_FORGED if forged else 0)
        else:
            book.chain(offset).answers.append(Told(attempt, where, _text(at)))
        self._notice(book, index, at)

    def parked(self, book: Book, offset: int, copy: Copy, at: Place) -> None:
        """Say that the record `at` is a copy of an input's decision on `held`."""
        if self._is_within(book, offset):
            book.chain(offset).park(copy)
            self._notice(book, offset - book.start, at)

    def _is_within(self, book: Book, offset: int) -> bool:
        """Say whether an input lies in the stretch; count or keep what is about another one."""
        if offset < book.start:
            book.unjudged += 1
            return False
        if offset >= book.end:
            if len(book.beyond) < BEYOND_MAX:
                book.beyond.append(offset)
            return False
        return True

    def _notice(self, book: Book, index: int, at: Place) -> None:
        if not self._is_settled(at):
            book.later[index] |= _MOVING

    def _is_settled(self, at: Place) -> bool:
        end = self._settled.get(at[:2])
        return end is None or at[2] < end

    def moved(self, source: Book, offset: int, target: Book, at: int) -> None:
        """Say that the input `at` in `target` claims to have been moved there from `offset` in `source`."""
        for column, value in zip(self._moves, (source.index, offset, target.index, at), strict=True):
            column.append(value)

    # --- what runs ----------------------------------------------------------------------------------------------------

    def ran(self, book: Book, offset: int, attempt: int, ran: Ran, at: Place) -> None:
        """Say that the execute record `at` exists; where the machine decided, `answered` says so too."""
        if ran.machine and attempt == 0:
            self._checked["I8"] += 1
            before = book.ran.take(ran.keys, offset)
            if before is not None:
                what = f"executed after {book.at(before)} of the same entity"
                self._violated("I8", what, book.at(offset), _text(at))
        self._checked["I3"] += 1
        if ran.execute_by_ms is not None and ran.append_ms >= ran.execute_by_ms:
            what = f"was appended {ran.append_ms - ran.execute_by_ms} ms after its time was over"
            self._violated("I3", what, book.at(offset), _text(at))
        self._compare(book, offset, attempt, ran, at)
        if book.start <= offset < book.end:
            self._note_run(book, offset, attempt, ran, at)

    def _note_run(self, book: Book, offset: int, attempt: int, ran: Ran, at: Place) -> None:
        index = offset - book.start
        if attempt == 0:
            twice = not ran.machine and book.later[index] & _APPROVED
            book.later[index] |= (_OWED if ran.owed else 0) | (0 if ran.machine else _APPROVED)
            if twice:
                book.chain(offset).approved.append(0)
        else:
            chain = book.chain(offset)
            if not ran.machine:
                chain.approved.append(attempt)
            if ran.owed:
                chain.owed.add(attempt)
        self._notice(book, index, at)

    def _compare(self, book: Book, offset: int, attempt: int, ran: Ran, at: Place) -> None:
        """Compare an execute record with the others of the same id."""
        self._checked["I2"] += 1
        digest, short = _digest(ran.identity), int(ran.hash[:16], 16)
        number = len(self._hashes)
        first = self._executed.setdefault(digest, number)
        if first != number:
            others = self._more.setdefault(digest, [])
            for other in (first, *others):
                if self._clashes(other, book, offset, attempt, short, at):
                    break
            others.append(number)
        self._hashes.append(short)
        self._attempts.append(attempt)
        self._applied.append(0)
        self._origins[0].append(book.index)
        self._origins[1].append(offset)

    def _clashes(self, other: int, book: Book, offset: int, attempt: int, hash_: int, at: Place) -> bool:
        earlier, origin = self._by_index[self._origins[0][other]], self._origins[1][other]
        if self._hashes[other] == hash_:
            if self._attempts[other] != attempt:
                return False
            self._violated("I2", "executed twice", earlier.at(origin), book.at(offset), _text(at))
            return True
        # In another partition it is another account's, and by the router's own rule another action.
        if self.window_ms is not None and earlier.number() == book.number() and len(self._claims) < BEYOND_MAX:
            self._claims.append((earlier, origin, book, offset, _text(at)))
        return False

    # --- what came of it ----------------------------------------------------------------------------------------------

    def ended(self, book: Book, offset: int, attempt: int, where: Where, at: Place) -> None:
        """Say that the record `at`, of the desk or an executor, ends an attempt."""
        if not book.start <= offset < book.end:
            return
        index = offset - book.start
        before = book.later[index] & _WHERE
        settles = before == Where.UNRESOLVED and where in SETTLES
        if attempt == 0 and offset not in book.chains and (not before or settles):
            book.later[index] = book.later[index] & ~_WHERE | where
        else:
            book.chain(offset).ends.append(Told(attempt, where, _text(at)))
        self._notice(book, index, at)

    def resulted(self, book: Book, offset: int, attempt: int, called: Called, at: Place) -> None:
        """Say that the result `at` exists; all execute records are known by now."""
        self._checked["I3"] += 1
        number = self._record_of(book, offset, attempt, called)
        if number is None:
            if self._is_settled(at) and offset >= book.start and len(self._unfounded_results) < BEYOND_MAX:
                self._unfounded_results.append((book, offset, _text(at)))
        elif self._hashes[number] != int(called.hash[:16], 16):
            self._violated("I3", "a result of other bytes than were decided", book.at(offset), _text(at))
        elif called.status is Where.EXECUTED:
            self._apply(number, called, book, offset, at)
        self._keep_order(book, offset, called, at)
        if called.called_ms is not None and called.execute_by_ms is not None:
            self._checked["I11"] += 1
            late = called.called_ms - called.execute_by_ms
            if late > 0:
                self._violated("I11", f"called {late} ms after its time was over", book.at(offset), _text(at))
        self.ended(book, offset, attempt, called.status, at)

    def _record_of(self, book: Book, offset: int, attempt: int, called: Called) -> int | None:
        """Return the number of a result's execute record."""
        for number in self._records(called.identity):
            origin = self._origins[0][number], self._origins[1][number]
            if origin == (book.index, offset) and self._attempts[number] == attempt:
                return number
        return None

    def _records(self, identity: bytes) -> Iterator[int]:
        digest = _digest(identity)
        first = self._executed.get(digest)
        if first is not None:
            yield first
            yield from self._more.get(digest, ())

    def _apply(self, number: int, called: Called, book: Book, offset: int, at: Place) -> None:
        for other in self._records(called.identity):
            if self._applied[other] and self._hashes[other] == self._hashes[number]:
                earlier = self._by_index[self._origins[0][other]].at(self._origins[1][other])
                self._violated("I2", "applied twice", earlier, book.at(offset), _text(at))
                break
        self._applied[number] = 1

    def _keep_order(self, book: Book, offset: int, called: Called, at: Place) -> None:
        """Judge when an action was called by its first result: what settles an unresolved one comes later."""
        if called.status is Where.FAILED or (called.status in SETTLES and book.is_unresolved(offset)):
            return
        before = book.called.take(called.keys, offset)
        if called.machine:
            self._checked["I8"] += 1
            if before is not None:
                what = f"called after {book.at(before)} of the same entity"
                self._violated("I8", what, book.at(offset), _text(at))

    # --- single records -----------------------------------------------------------------------------------------------

    def passed(self, invariant: Invariant, fault: str | None, at: Place) -> None:
        """Say that one record was looked at for `invariant`, and what is wrong with it, if anything is."""
        self._checked[invariant] += 1
        if fault is not None:
            self.violated(invariant, fault, at)

    def looked(self, invariant: Invariant, fault: str | None, places: Sequence[str]) -> None:
        """Do as `passed` for what shows in several records."""
        self._checked[invariant] += 1
        if fault is not None:
            self._violated(invariant, fault, *places)

    def violated(self, invariant: Invariant, what: str, at: Place) -> None:
        """Say what is wrong with a record that was counted as looked at."""
        self._violated(invariant, what, _text(at))

    # --- judging ------------------------------------------------------------------------------------------------------

    def close(
        self,
        first: Mapping[str, int],
        last: Mapping[str, int],
        *,
        held: Mapping[int, Taken] | None = None,
        judged: Mapping[str, int] | None = None,
        checks: Iterable[Invariant] = (),
        notes: Iterable[str] = (),
        figures: Mapping[str, Figure] | None = None,
    ) -> Report:
        """Judge everything; the ledger is not used afterwards.

        `first` and `last` are the committed offsets of each input partition, read before and after all else; `held`, by
        number, those of the partitions of `held`; `judged` is from where on nothing can have been deleted; `checks`
        names which of the others were looked at.
        """
        since = {place: max(book.start, (judged or {}).get(place, 0)) for place, book in self.books.items()}
        self._apply_moves()
        if self.window_ms is not None:
            self._apply_claims(self.window_ms)
        self._apply_results(since)
        counts: Counter[str] = Counter()
        partitions: dict[str, Mapping[str, int]] = {}
        broken: Counter[str] = Counter()
        for place, book in self.books.items():
            taken = (held or {}).get(book.number(), NEVER)
            closing = _Closing(self, book, first[place], last[place], since[place], taken)
            partitions[place] = closing.counted()
            counts.update(partitions[place])
            broken.update(closing.broken)
        for invariant in ("I1", "I14"):
            self._checked[invariant] = counts["inputs"]
        names = ("inputs", *(NAMES[where] for where in Where if where not in WAITING), "pending", UNANSWERED)
        waiting = (NAMES[where] for where in Where if where in WAITING)
        listed = dict.fromkeys((*names, *waiting, "lost", "unjudged"), 0) | counts
        listed |= {"later": self.later, "foreign": self.foreign}
        rows = tuple(self._row(invariant, (*ALWAYS, *checks)) for invariant in WHAT)
        conserved = _conservation(listed, broken)
        return Report(rows, listed, partitions, tuple(self._shown), conserved, tuple(notes), dict(figures or {}))

    def _apply_moves(self) -> None:
        """Count each move as the answer to where it came from, unless the router found the claim forged."""
        for source, offset, target, at in zip(*self._moves, strict=True):
            book, home = self._by_index[source], self._by_index[target]
            mark = home.mark(at)
            if mark & _FORGED:
                continue
            if at >= home.start and not mark & _ANSWER and book.mark(offset) & _ANSWER:
                continue  # not yet looked at by the router, and the place already has its answer: a claim, no fact
            topic, _, number = home.place.rpartition("/")
            self.answered(book, offset, Where.MOVED, (topic, int(number), at))

    def _apply_claims(self, window_ms: int) -> None:
        """Compare the append times of inputs that ran under one id with different bytes; all inputs are read by now."""
        for earlier, origin, book, offset, at in self._claims:
            times = earlier.appended_ms(origin), book.appended_ms(offset)
            if times[0] is None or times[1] is None or abs(times[1] - times[0]) + ACCURACY_MS >= window_ms:
                continue
            what = "executed under an id that other bytes had claimed within the window"
            self._violated("I2", what, earlier.at(origin), book.at(offset), at)

    def _apply_results(self, since: Mapping[str, int]) -> None:
        for book, offset, at in self._unfounded_results:
            if offset >= since[book.place]:
                self._violated("I3", "a result without an execute record", book.at(offset), at)

    def _violated(self, invariant: Invariant, what: str, *places: str) -> None:
        self._found[invariant] += 1
        if self._found[invariant] <= self._shown_max:
            self._shown.append(Violation(invariant, what, places))

    def _count(self, invariants: Iterable[Invariant], more: int) -> None:
        for invariant in invariants:
            self._found[invariant] += more

    def _row(self, invariant: Invariant, looked_at: Iterable[Invariant]) -> Row:
        found = self._found[invariant]
        verdict: Literal["ok", "violated", "not checked"]
        verdict = "violated" if found else "ok" if invariant in looked_at else "not checked"
        return Row(invariant, WHAT[invariant], self._checked[invariant], found, verdict)


class _Closing:
    """Judges one book."""

    def __init__(self, ledger: Ledger, book: Book, first: int, last: int, judged: int, held: Taken) -> None:
        self.ledger = ledger
        self.book = book
        self.first = first
        self.last = last
        self.judged = judged
        self.held = held
        self.broken: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def counted(self) -> dict[str, int]:
        """Return how many inputs stand where."""
        self._unanswered()
        self._unfounded()
        self._ahead()
        self._plain()
        for offset in self.book.chains:
            self._chained(offset)
        counts, book = self.counts, self.book
        counts["unjudged"] += book.unjudged
        waiting = (UNANSWERED, *(NAMES[where] for where in WAITING))
        counts["pending"] = sum(counts[name] for name in waiting)
        counts["inputs"] = sum(number for mark, number in Counter(book.marks).items() if mark & _SEEN)
        always = dict.fromkeys(("inputs", "pending", "lost", "unjudged"), 0)
        return always | {name: number for name, number in counts.items() if number}

    def _unanswered(self) -> None:
        """Tell apart what the router has not looked at yet, what has no answer, and what nobody can judge."""
        book, ledger = self.book, self.ledger
        unanswered = book.marks.translate(_LOST)
        below = max(0, min(self.first, book.end) - book.start)
        from_ = max(0, min(self.judged - book.start, below))
        lost = unanswered[from_:below]
        places = _places(lost, ledger._shown_max)
        for index in places:
            place = book.at(book.start + from_ + index)
            ledger._violated("I1", "has no answer", place)
            ledger._violated("I14", f"the offset is committed (up to {self.first}), the answer is missing", place)
        ledger._count(("I1", "I14"), lost.count(1) - len(places))
        self.broken["lost"] += lost.count(1)
        self.counts["lost"] += lost.count(1)
        self.counts[UNANSWERED] += unanswered.count(1, below)
        self.counts["unjudged"] += unanswered.count(1, 0, from_)

    def _unfounded(self) -> None:
        book, ledger = self.book, self.ledger
        from_ = max(0, self.judged - book.start)
        answers = book.marks[from_:].translate(_UNFOUNDED)
        places = _places(answers, ledger._shown_max)
        for index in places:
            ledger._violated("I1", "an answer to an offset that holds no record", book.at(book.start + from_ + index))
        ledger._count(("I1",), answers.count(1) - len(places))
        self.broken["unfounded"] += answers.count(1)

    def _ahead(self) -> None:
        """Find answers to offsets that were not committed when everything had been read."""
        book, ledger, last = self.book, self.ledger, self.last
        from_ = max(0, last - book.start)
        answers = book.marks[from_:].translate(_ANSWERED)
        places = [book.start + from_ + index for index in _places(answers, ledger._shown_max)]
        total = answers.count(1) + sum(1 for offset in book.beyond if offset >= last)
        places += [offset for offset in book.beyond if offset >= last][: ledger._shown_max - len(places)]
        for offset in places:
            ledger._violated("I14", f"has an answer, but the committed offset is {last}", book.at(offset))
        ledger._count(("I14",), total - len(places))

    def _plain(self) -> None:
        """Judge what two bytes hold: there are a few dozen pairs of them, however many inputs."""
        book = self.book
        for (mark, later), number in Counter(zip(book.marks, book.later, strict=True)).items():
            if not mark & _SEEN or mark & _CHAINED or not mark & _WHERE:
                continue
            found = judge(_unpacked(mark, later), 0, 0)
            faulty = found.faults and not later & _MOVING
            if not faulty and found.where is not None:
                self.counts[NAMES[found.where]] += number
                continue
            for index, pair in enumerate(zip(book.marks, book.later, strict=True)):
                if pair == (mark, later):
                    self._take(book.start + index, found, bool(later & _MOVING))

    def _chained(self, offset: int) -> None:
        book = self.book
        index = offset - book.start
        if book.marks[index] & _SEEN:
            found = judge(book.whole(offset), self.held.first, self.held.last)
            self._take(offset, found, bool(book.later[index] & _MOVING))

    def _take(self, offset: int, found: Judged, moving: bool) -> None:
        """Count where an input stands, and what is wrong with that, unless nobody can tell."""
        if offset < self.judged:
            self.counts["unjudged" if found.where is None else NAMES[found.where]] += 1
            return
        if moving:
            self.counts[UNANSWERED if found.where is None else NAMES[found.where]] += 1
            return
        self.counts["lost" if found.where is None else NAMES[found.where]] += 1
        for fault in found.faults:
            self._report(offset, fault)

    def _report(self, offset: int, fault: Fault) -> None:
        if fault.kind != "out of turn":
            self.broken[fault.kind] += 1
        places = (self.book.at(offset), fault.place) if fault.place else (self.book.at(offset),)
        for invariant in fault.invariants:
            self.ledger._violated(invariant, fault.what, *places)


def _conservation(counts: Mapping[str, int], broken: Mapping[str, int]) -> str:
    """Return "ok", or how many inputs do not add up to ends and pending ones."""
    wrong = [f"{number} {name}" for name, number in sorted(broken.items()) if number]
    if not wrong:
        return "ok"
    ended = sum(counts[NAMES[where]] for where in Where if where not in WAITING)
    return f"{counts['inputs']} inputs, {ended} ended once, {counts['pending']} pending: {', '.join(wrong)}"


def _places(flags: bytes | bytearray, most: int) -> list[int]:
    """Return the indexes of the first ones among zeros."""
    return list(_ones(flags, most))


def _ones(flags: bytes | bytearray, most: int) -> Iterator[int]:
    at = -1
    for _ in range(most):
        at = flags.find(1, at + 1)
        if at < 0:
            return
        yield at


def _digest(identity: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "big")


def _text(at: Place) -> str:
    return f"{at[0]}/{at[1]}/{at[2]}"
