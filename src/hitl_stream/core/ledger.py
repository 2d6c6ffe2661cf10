"""The fold behind `hitl verify`: facts about a log in, a verdict on each invariant out.

It is told what the log holds (an input at a place, an answer to a place, an execute record), in any order but one:
the answers of one partition come in the order of that partition. It knows no bytes and no Kafka.

| invariant | holds when |
|---|---|
| I1 | each input offset has exactly one answer of the router, or is pending; every answer has an input |
| I2 | one execute record per (tenant, action id, hash, attempt); within the window, no id runs with other bytes too |
| I8 | a partition's machine-decided execute records follow the order of its input offsets, account by account |
| I14 | no input below the committed offset is without an answer, none at or after it has one |

**A live log moves.** The committed offsets are read before everything (`first`) and after everything (`last`). Below
`first`, an answer must be there. From `last` on, none may be. Between the two the router worked while we read: an
answer that is there is counted, an input without one is pending.

**Retention.** An input from before `judged` may have lost its answer to deletion, and an answer to an offset before the
stretch that was read has no input here: both are counted as `unjudged`, not as violations.

Memory: one byte an input offset, 24 bytes a move, about 200 bytes an execute record. Ids are compared by 64 bits of a
digest and 64 of the hash: at a million records the chance of one false alarm is 3 in 10⁸.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

SHOWN_MAX = 20
"""Violations kept for each invariant; the rest are only counted."""
ACCURACY_MS = 10_000
"""Append times of inputs are remembered this exactly: enough to say whether two ids were surely inside one window."""
BEYOND_MAX = 100_000
"""Answers kept that lie beyond the inputs that were read, and ids that ran with other bytes: few in a sound log."""


class Answer(IntEnum):
    """How the router ended with an input offset. The closed ones are told apart by why."""

    EXECUTE, REVIEW, ESCALATION, RECOMMENDED, HELD, MOVED, DEAD = range(1, 8)
    LATE, DUPLICATE, CONFLICT, IDENTITY, POLICY, EXPIRED = range(8, 14)


NAMES: Mapping[Answer, str] = {
    answer: f"refused.{answer.name.lower()}" if Answer.LATE <= answer <= Answer.POLICY else answer.name.lower()
    for answer in Answer
}
Invariant = Literal["I1", "I2", "I8", "I14", "seal", "hash", "form"]
WHAT: Mapping[Invariant, str] = {
    "I1": "each input offset ends exactly once",
    "I2": "at most one execute record per action, hash and attempt",
    "I8": "execute records follow the order of their inputs",
    "I14": "offsets and answers commit together",
    "form": "every record on an output topic is one of ours",
    "seal": "every record between roles is sealed by its role",
    "hash": "the hash in the head is that of the action behind it",
}
_ANSWER = 0x0F
_SEEN = 0x10
_FORGED = 0x20
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
class Report:
    """What `hitl verify` found. `counts` holds the inputs, each kind of end, and what is not an end."""

    rows: tuple[Row, ...]
    counts: Mapping[str, int]
    partitions: Mapping[str, Mapping[str, int]]
    violations: tuple[Violation, ...]
    conservation: str
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Say whether nothing was violated."""
        return not any(row.violations for row in self.rows)


class Book:
    """One input partition from `start` to before `end`: a byte for each offset."""

    __slots__ = ("beyond", "end", "entities", "index", "marks", "place", "start", "times", "unjudged")

    def __init__(self, index: int, place: str, start: int, end: int) -> None:
        self.index = index
        self.place = place
        self.start = start
        self.end = end
        self.marks = bytearray(end - start)
        self.beyond: list[int] = []
        self.entities: dict[bytes, int] = {}
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

    def at(self, offset: int) -> str:
        """Return the place of an offset."""
        return f"{self.place}/{offset}"


class Ledger:
    """Collects facts; `close` judges them. `window_ms` is how long an id is surely remembered (None: not known)."""

    def __init__(self, *, window_ms: int | None = None, shown_max: int = SHOWN_MAX) -> None:
        self.window_ms = window_ms
        self.books: dict[str, Book] = {}
        self.later = 0
        """Records of the desk and the executor, which come after the router's answer and are no answers."""
        self.foreign = 0
        """Answers to topics that are not among the inputs (any more)."""
        self._shown_max = shown_max
        self._by_index: list[Book] = []
        self._found: Counter[Invariant] = Counter()
        self._checked: Counter[Invariant] = Counter()
        self._shown: list[Violation] = []
        self._moves = (array("q"), array("q"), array("q"), array("q"))
        self._executed: dict[int, int] = {}
        self._more: dict[int, list[int]] = {}
        self._claims: list[tuple[Book, int, Book, int, str]] = []
        self._hashes = array("Q")
        self._attempts = array("q")
        self._origins = (array("q"), array("q"))

    def open(self, place: str, start: int, end: int) -> Book:
        """Begin with the input partition `place` (`topic/partition`), of which [start, end) is read."""
        book = self.books[place] = Book(len(self._by_index), place, start, max(start, end))
        self._by_index.append(book)
        return book

    def answered(self, book: Book, offset: int, answer: Answer, at: tuple[str, int, int], forged: bool = False) -> None:
        """Say that the record `at` (topic, partition, offset) answers an input.

        `forged`: it refuses the input for a `hitl-via` without a good seal, so what that header claims is void.
        """
        index = offset - book.start
        if index < 0:
            book.unjudged += 1
        elif index >= len(book.marks):
            if len(book.beyond) < BEYOND_MAX:
                book.beyond.append(offset)
        else:
            mark = book.marks[index]
            if mark & _ANSWER:
                self._doubled(book, offset, Answer(mark & _ANSWER), answer, at)
            else:
                book.marks[index] = mark | answer | (_FORGED if forged else 0)

    def moved(self, source: Book, offset: int, target: Book, at: int) -> None:
        """Say that the input `at` in `target` claims to have been moved there from `offset` in `source`."""
        for column, value in zip(self._moves, (source.index, offset, target.index, at), strict=True):
            column.append(value)

    def executed(
        self, book: Book, offset: int, attempt: int, who: bytes, identity: bytes, hash_: str, at: tuple[str, int, int]
    ) -> None:
        """Say that the execute record `at` runs an action that the machine decided.

        `who` is the account in whose order it stands, `identity` the tenant and the action id, `hash_` hexadecimal.
        """
        if attempt == 0:
            self._checked["I8"] += 1
            before = book.entities.get(who, -1)
            if offset >= before:
                book.entities[who] = offset
            else:
                what = f"executed after {book.at(before)} of the same account"
                self._violated("I8", what, book.at(offset), _text(at))
        self.ran(book, offset, attempt, identity, hash_, at)

    def ran(self, book: Book, offset: int, attempt: int, identity: bytes, hash_: str, at: tuple[str, int, int]) -> None:
        """Say that an execute record `at` exists, whoever decided it."""
        self._checked["I2"] += 1
        digest = int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "big")
        short = int(hash_[:16], 16)
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
        self._origins[0].append(book.index)
        self._origins[1].append(offset)

    def _clashes(self, other: int, book: Book, offset: int, attempt: int, hash_: int, at: tuple[str, int, int]) -> bool:
        earlier, origin = self._by_index[self._origins[0][other]], self._origins[1][other]
        if self._hashes[other] == hash_:
            if self._attempts[other] != attempt:
                return False
            self._violated("I2", "executed twice", earlier.at(origin), book.at(offset), _text(at))
            return True
        # In another partition it is another account's, and by the router's own rule another action.
        if self.window_ms is not None and _number(earlier) == _number(book) and len(self._claims) < BEYOND_MAX:
            self._claims.append((earlier, origin, book, offset, _text(at)))
        return False

    def _apply_claims(self, window_ms: int) -> None:
        """Compare the append times of inputs that ran under one id with different bytes; all inputs are read by now."""
        for earlier, origin, book, offset, at in self._claims:
            times = earlier.appended_ms(origin), book.appended_ms(offset)
            if times[0] is None or times[1] is None or abs(times[1] - times[0]) + ACCURACY_MS >= window_ms:
                continue
            what = "executed under an id that other bytes had claimed within the window"
            self._violated("I2", what, earlier.at(origin), book.at(offset), at)

    def passed(self, invariant: Invariant, fault: str | None, at: tuple[str, int, int]) -> None:
        """Say that one record was looked at for `invariant`, and what is wrong with it, if anything is."""
        self._checked[invariant] += 1
        if fault is not None:
            self._violated(invariant, fault, _text(at))

    def close(
        self,
        first: Mapping[str, int],
        last: Mapping[str, int],
        *,
        judged: Mapping[str, int] | None = None,
        checks: Iterable[Invariant] = (),
        notes: Iterable[str] = (),
    ) -> Report:
        """Judge everything; the ledger is not used afterwards.

        `first` and `last` are the committed offsets of each input partition, read before and after all else; `judged`
        is from where on nothing can have been deleted; `checks` names which of the others were looked at.
        """
        self._apply_moves()
        if self.window_ms is not None:
            self._apply_claims(self.window_ms)
        counts: Counter[str] = Counter()
        partitions: dict[str, Mapping[str, int]] = {}
        broken: Counter[str] = Counter(doubled=self._found["I1"])
        for place, book in self.books.items():
            counted = self._close(book, first[place], last[place], (judged or {}).get(place, book.start), broken)
            partitions[place] = counted
            counts.update(counted)
        for invariant in ("I1", "I14"):
            self._checked[invariant] = counts["inputs"]
        listed = dict.fromkeys(("inputs", *NAMES.values(), "pending", "lost", "unjudged"), 0) | counts
        listed |= {"later": self.later, "foreign": self.foreign}
        rows = tuple(self._row(invariant, ("I1", "I2", "I8", "I14", *checks)) for invariant in WHAT)
        return Report(rows, listed, partitions, tuple(self._shown), _conservation(listed, broken), tuple(notes))

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
            self.answered(book, offset, Answer.MOVED, (topic, int(number), at))

    def _close(self, book: Book, first: int, last: int, judged: int, broken: Counter[str]) -> dict[str, int]:
        unanswered = book.marks.translate(_LOST)
        below = max(0, min(first, book.end) - book.start)
        from_ = max(0, min(judged - book.start, below))
        lost = unanswered[from_:below]
        pending, unjudged = unanswered.count(1, below), unanswered.count(1, 0, from_)
        places = _places(lost, self._shown_max)
        for index in places:
            place = book.at(book.start + from_ + index)
            self._violated("I1", "has no answer", place)
            self._violated("I14", f"the offset is committed (up to {first}), the answer is missing", place)
        self._count(("I1", "I14"), lost.count(1) - len(places))
        broken["lost"] += lost.count(1)
        self._unfounded(book, judged, broken)
        self._ahead(book, last)
        marks: Counter[int] = Counter()
        for mark in set(book.marks):
            if mark & _SEEN:
                marks[mark & _ANSWER] += book.marks.count(mark)
        counted = {NAMES[Answer(mark)]: number for mark, number in sorted(marks.items()) if mark}
        return {
            "inputs": marks.total(),
            **counted,
            "pending": pending,
            "lost": lost.count(1),
            "unjudged": unjudged + book.unjudged,
        }

    def _unfounded(self, book: Book, judged: int, broken: Counter[str]) -> None:
        from_ = max(0, judged - book.start)
        answers = book.marks[from_:].translate(_UNFOUNDED)
        places = _places(answers, self._shown_max)
        for index in places:
            self._violated("I1", "an answer to an offset that holds no record", book.at(book.start + from_ + index))
        self._count(("I1",), answers.count(1) - len(places))
        broken["unfounded"] += answers.count(1)

    def _ahead(self, book: Book, last: int) -> None:
        """Find answers to offsets that were not committed when everything had been read."""
        from_ = max(0, last - book.start)
        answers = book.marks[from_:].translate(_ANSWERED)
        places = [book.start + from_ + index for index in _places(answers, self._shown_max)]
        total = answers.count(1) + sum(1 for offset in book.beyond if offset >= last)
        places += [offset for offset in book.beyond if offset >= last][: self._shown_max - len(places)]
        for offset in places:
            self._violated("I14", f"has an answer, but the committed offset is {last}", book.at(offset))
        self._count(("I14",), total - len(places))

    def _doubled(self, book: Book, offset: int, one: Answer, other: Answer, at: tuple[str, int, int]) -> None:
        self._violated("I1", f"answered by {NAMES[one]} and again by {NAMES[other]}", book.at(offset), _text(at))

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


def _conservation(counts: Mapping[str, int], broken: Mapping[str, int]) -> str:
    """Return "ok", or how many inputs do not add up to ends and pending ones."""
    wrong = [f"{number} {name}" for name, number in sorted(broken.items()) if number]
    if not wrong:
        return "ok"
    ended = sum(counts[name] for name in NAMES.values())
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


def _number(book: Book) -> str:
    return book.place.rpartition("/")[2]


def _text(at: tuple[str, int, int]) -> str:
    return f"{at[0]}/{at[1]}/{at[2]}"
