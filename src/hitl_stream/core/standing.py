"""Where an action stands, from everything that the log says of its attempts, and what of that cannot be.

Its answers form a chain. The router owes the first one, and one more for each copy on `held` that it takes up again:

| what lies on `held` | then the router's next answer is of attempt |
|---|---|
| parked by the router, or by the desk (attempt n) | n |
| sent back by an executor (attempt n), uncalled | n + 1 |

An answer is a decision, an end, or another copy on `held`, which keeps what the copy before it said of itself. What was
decided to run, or was approved, ends by an executor, once; what went to people, by the desk. Copies come in the order
of their offsets; nothing else here depends on an order between topics, which brokers' clocks could not give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple

Parker = Literal["router", "desk", "executor"]
Invariant = Literal["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I11", "I13", "I14", "form", "seal", "hash"]
Kind = Literal["doubled", "lost", "ended twice", "out of turn"]
"""What a fault does to the sum of inputs; the last one does nothing to it."""


class Where(IntEnum):
    """Where an input stands, or stood: first where it waits, then the ends."""

    EXECUTE, REVIEW, ESCALATION, HELD = range(1, 5)
    RECOMMENDED, MOVED, DEAD = range(5, 8)
    LATE, DUPLICATE, CONFLICT, IDENTITY, POLICY, UNSEALED = range(8, 14)
    REJECTED, EXPIRED, STALE, SUPERSEDED = range(14, 18)
    EXECUTED, FAILED, UNRESOLVED = range(18, 21)


WAITING = frozenset({Where.EXECUTE, Where.REVIEW, Where.ESCALATION, Where.HELD})
ASKED = frozenset({Where.REVIEW, Where.ESCALATION})
SETTLES = frozenset({Where.EXECUTED, Where.FAILED})
"""What `UNRESOLVED` may become; every other end stays."""


def name_of(where: Where) -> str:
    """Return how a report calls it.

    >>> name_of(Where.EXECUTED), name_of(Where.LATE), name_of(Where.HELD)
    ('executed', 'refused.late', 'pending.held')
    """
    if where in WAITING:
        return f"pending.{where.name.lower()}"
    return f"refused.{where.name.lower()}" if Where.LATE <= where <= Where.UNSEALED else where.name.lower()


class Copy(NamedTuple):
    """A copy on `held`: its offset, which attempt was parked and by whom.

    `again`: the router wrote it, instead of another answer. None: not known, since no seal was checked.
    """

    offset: int
    attempt: int
    by: Parker
    again: bool | None = None


class Told(NamedTuple):
    """A record that says where an attempt went, and where it stands itself (empty: not remembered)."""

    attempt: int
    where: Where
    place: str = ""


class Fault(NamedTuple):
    """One thing that must not be: which invariants it breaks, and the place of the record that shows it, if known."""

    kind: Kind
    invariants: tuple[Invariant, ...]
    what: str
    place: str = ""


@dataclass(slots=True)
class Chain:
    """What the log says of one input.

    `answers` are the router's, but for the copies; `ends` those of executor and desk, in the order of their topic.
    `approved` are attempts that the desk let run; `owed` are those of which an executor has committed the offset.
    """

    answers: list[Told] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    approved: list[int] = field(default_factory=list)
    ends: list[Told] = field(default_factory=list)
    owed: set[int] = field(default_factory=set)

    def park(self, copy: Copy) -> None:
        """Take in the next copy; of copies that the router wrote one after the other the newest stands for all."""
        last = self.copies[-1] if self.copies else None
        if last is not None and _is_again(copy, last) and (copy.again or copy.by != "desk"):
            self.copies[-1] = copy._replace(again=last.again)
        else:
            self.copies.append(copy)


class Judged(NamedTuple):
    """Where an input stands (None: nowhere, it is lost), and what is wrong with how it came there."""

    where: Where | None
    faults: tuple[Fault, ...]


def judge(chain: Chain, first: int, last: int) -> Judged:
    """Say where an input stands; the router had committed `held` up to `first` before all was read, `last` after."""
    slots, due, faults = _walk(chain.copies)
    answers = _renumbered(chain, slots, due)
    newest = chain.copies[-1] if chain.copies else None
    taken_up = _taken_up(newest, answers, slots, due, first, last)
    faults += _count(chain, answers, slots, due if taken_up else None)
    faults += _approvals(chain.approved, answers)
    ends = list(_settled([told for told in chain.ends if _counts(told, chain)]))
    faults += _ends(chain, answers, ends, slots)
    unended = _unended(chain, ends)
    faults += unended
    where = None if unended else _where(chain, answers, ends, taken_up)
    if ends and not taken_up and ends[-1].attempt not in _sent_back(chain):
        what = f"ended as {name_of(ends[-1].where)}, and lies parked"
        faults.append(Fault("ended twice", ("I1",), what, ends[-1].place))
    return Judged(where, tuple(faults))


# --- the router's answers ---------------------------------------------------------------------------------------------


def _is_again(copy: Copy, before: Copy | None) -> bool:
    """Say whether a copy is the router's answer; where no seal tells, as far as it must be."""
    if copy.again is not None:
        return copy.again
    return copy.by == "router" or (before is not None and (before.by, before.attempt) == (copy.by, copy.attempt))


def _walk(copies: Sequence[Copy]) -> tuple[list[int], int, list[Fault]]:
    """Return of which attempts an answer was parked by others, and of which the next one is due."""
    slots: list[int] = []
    faults: list[Fault] = []
    due, before = 0, None
    for copy in copies:
        if _is_again(copy, before):
            expected = 0 if before is None else before.attempt
        else:
            expected = due
            slots.append(copy.attempt)
        if copy.attempt != expected:
            what = f"attempt {copy.attempt} was parked by the {copy.by}, and {expected} was the one to be parked"
            faults.append(Fault("out of turn", ("I2",), what))
        due = copy.attempt + (copy.by == "executor")
        before = copy
    return slots, due, faults


def _renumbered(chain: Chain, slots: Sequence[int], due: int) -> list[Told]:
    """Return the answers, each of the attempt that was due: what ends a parked action names the attempt it lay with."""
    if not chain.copies or chain.copies[-1].attempt == due:
        return chain.answers
    parked = chain.copies[-1].attempt
    over = sum(told.attempt == parked for told in chain.answers) - slots.count(parked)
    found = []
    for told in reversed(chain.answers):
        if over > 0 and told.attempt == parked and told.where not in WAITING:
            told = told._replace(attempt=due)
            over -= 1
        found.append(told)
    return found[::-1]


def _taken_up(
    newest: Copy | None, answers: Sequence[Told], slots: Sequence[int], due: int, first: int, last: int
) -> bool:
    """Say whether the router took up the newest copy; while we were reading, its answer tells."""
    if newest is None or newest.offset < first:
        return True
    if newest.offset >= last:
        return False
    return sum(told.attempt == due for told in answers) > slots.count(due)


def _count(chain: Chain, answers: Sequence[Told], slots: Sequence[int], due: int | None) -> Iterator[Fault]:
    """Compare the answers that are there with those that were due."""
    expected = Counter(slots)
    if due is not None:
        expected[due] += 1
    have = Counter(told.attempt for told in answers)
    sent_back = _sent_back(chain)
    for attempt in sorted(expected.keys() | have.keys()):
        allowed = sum(copy.by == "desk" and copy.attempt == attempt and copy.again is None for copy in chain.copies)
        over = have[attempt] - expected[attempt]
        if over < 0:
            yield _missing(attempt, bool(chain.copies) and attempt == due)
        elif over > allowed:
            of = [told for told in answers if told.attempt == attempt]
            for told in of[-over:]:
                yield _surplus(told, of, expected[attempt], attempt == 0 or attempt - 1 in sent_back)


def _missing(attempt: int, taken_up: bool) -> Fault:
    if taken_up:
        return Fault("lost", ("I1", "I14"), "was parked, is taken up again, and has no answer")
    if attempt == 0:
        return Fault("lost", ("I1", "I14"), "has no answer")
    return Fault("lost", ("I1",), f"attempt {attempt} was parked, and never decided")


def _surplus(told: Told, of: Sequence[Told], expected: int, regular: bool) -> Fault:
    if not regular:
        what = f"attempt {told.attempt} was decided, and no executor had sent attempt {told.attempt - 1} back"
        return Fault("doubled", ("I2",), what, told.place)
    if not expected and len(of) == 1:
        what = f"is decided again ({_answer(told)}), and still lies parked"
        return Fault("doubled", ("I14",), what, told.place)
    what = f"answered by {_answer(of[0])} and again by {_answer(told)}"
    return Fault("doubled", ("I1",), what, told.place)


def _answer(told: Told) -> str:
    return name_of(told.where).removeprefix("pending.")


def _sent_back(chain: Chain) -> frozenset[int]:
    return frozenset(copy.attempt for copy in chain.copies if copy.by == "executor")


# --- what came after --------------------------------------------------------------------------------------------------


def _approvals(approved: Sequence[int], answers: Sequence[Told]) -> Iterator[Fault]:
    asked = Counter(told.attempt for told in answers if told.where in ASKED)
    for attempt, count in sorted(Counter(approved).items()):
        if not asked[attempt]:
            yield Fault("out of turn", ("I3",), "runs as approved, and was never sent to people")
        elif count > asked[attempt]:
            yield Fault("doubled", ("I1",), f"was sent to people {asked[attempt]} times, and approved {count} times")


def _counts(told: Told, chain: Chain) -> bool:
    """Say whether an end ends this: `unsealed` ends an approval, and a forged one is not there."""
    return told.where is not Where.UNSEALED or told.attempt in chain.approved


def _settled(ends: Sequence[Told]) -> Iterator[Told]:
    """Yield the ends, but for an unresolved one that was settled later."""
    for index, told in enumerate(ends):
        if told.where is Where.UNRESOLVED and index + 1 < len(ends):
            after = ends[index + 1]
            if after.where in SETTLES and after.attempt == told.attempt:
                continue
        yield told


def _ends(chain: Chain, answers: Sequence[Told], ends: Sequence[Told], slots: Sequence[int]) -> Iterator[Fault]:
    sent_back = _sent_back(chain)
    for told in ends:
        if told.attempt in sent_back:
            what = f"ended as {name_of(told.where)} at attempt {told.attempt}, which was sent back as not called"
            yield Fault("ended twice", ("I2",), what, told.place)
    open_ = Counter(told.attempt for told in answers if told.where in WAITING)
    parked = Counter(slots)
    for attempt in sorted(parked):
        closed = [told for told in answers if told.attempt == attempt and told.where not in WAITING]
        if closed and open_[attempt] < parked[attempt]:
            what = f"ended as {name_of(closed[0].where)}, and was parked after that"
            yield Fault("ended twice", ("I1",), what, closed[0].place)
    regular = [told for told in ends if told.attempt not in sent_back]
    every = [*(told for told in answers if told.where not in WAITING), *regular]
    for told in every[1:] if regular else ():
        what = f"ended as {name_of(every[0].where)} and again as {name_of(told.where)}"
        yield Fault("ended twice", ("I1",), what, told.place)


def _unended(chain: Chain, ends: Sequence[Told]) -> list[Fault]:
    """Find what an executor is done with and has not ended."""
    over = {told.attempt for told in ends} | _sent_back(chain)
    what = "its execute record is below the executor's committed offset, and has no end"
    return [Fault("lost", ("I1", "I14"), what) for attempt in sorted(chain.owed - over)]


def _where(chain: Chain, answers: Sequence[Told], ends: Sequence[Told], taken_up: bool) -> Where | None:
    if ends:
        return ends[-1].where
    for told in answers:
        if told.where not in WAITING:
            return told.where
    if not taken_up:
        return Where.HELD
    newest = max((told.attempt for told in answers), default=-1)
    if newest in chain.approved:
        return Where.EXECUTE
    # Of one attempt there are several only where the desk had parked it. What lets it run came last; which of two
    # queues did, nothing tells, and both are people.
    return min((told.where for told in answers if told.attempt == newest), default=None)


NAMES: Mapping[Where, str] = {where: name_of(where) for where in Where}
