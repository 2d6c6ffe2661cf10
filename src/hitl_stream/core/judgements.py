"""What people said, what the desk made of it, and what followed: the part of `hitl verify`'s fold that is about people.

It is told of records in any order, and judges at the end:

| invariant | holds when |
|---|---|
| I6 | each verdict below the desk's committed offset is answered once on `decisions`, or is a dead letter, or repeats one that has counted; an item is ended by one verdict at most; what ended so is followed by just what it means, once; what runs by people's word rests on verdicts that counted, on that item and those bytes |
| I7 | those who approved one item are distinct people (who *may* approve is `wire.approved`'s to say) |
| I11 | a verdict that counted was appended before its item's deadline, and before the time of its approval was over |

What follows from a verdict stands in the same transaction. So what lies below `settled`, where everything committed
ended before any reading began, has all that belongs to it in what was read; of what came later nothing is demanded. Of
what is older than its partition's horizon neither: it may have been deleted.

Memory: about 150 bytes a verdict, 600 a judgement that counted, 300 an item that ended.
"""  # noqa: E501  a table's row is one line

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from hitl_stream.core.control import is_same_holder
from hitl_stream.core.events import Effect, Purpose
from hitl_stream.core.review import State
from hitl_stream.core.standing import Invariant, Where

BATCH = "batch/"
"""What the subject of a release begins with; no item's name holds a slash."""
FINAL = frozenset({"approve", "reject", "change", "release"})
"""Verdicts that end their subject once they are applied."""
COUNTS = frozenset({Effect.APPLIED.value, Effect.WAITING.value})
_ENDS: Mapping[str, Where] = {
    State.REJECTED: Where.REJECTED,
    State.CHANGED: Where.SUPERSEDED,
    State.EXPIRED: Where.EXPIRED,
    State.STALE: Where.STALE,
}
_AFTER: Mapping[str, str] = {"reject": State.REJECTED, "change": State.CHANGED}

Place = tuple[str, int, int]
"""Topic, partition, offset of a record."""
Passed = Callable[[Invariant, str | None, tuple[str, ...]], None]
"""Told of each thing that was looked at: for which invariant, what is wrong, if anything is, and where it shows."""


class Spoken(NamedTuple):
    """A verdict as it stands on `verdicts`, its signature not looked at.

    `subject` is its item or batch; empty: it asks for no answer. None: it cannot be read.
    """

    jws: str
    subject: str | None
    jti: str = ""


class Judgement(Struct, frozen=True, kw_only=True):
    """A record on `decisions`. `of` is the decision that it is about (`subject_of`), `source` the verdict's place."""

    item: str
    jti: str
    jws: str
    effect: str
    verdict: str
    by: str
    hash: str
    purpose: str | None
    of: int
    source: str
    appended_ms: int


class Running(Struct, frozen=True, kw_only=True):
    """An execute record that people approved; `jws` are their verdicts, `given_ms` when those were appended."""

    of: int
    hash: str
    jws: tuple[str, ...]
    given_ms: tuple[int, ...]


class Due(NamedTuple):
    """An approval that an item needed, who gave it, and until when it could be given."""

    people: int
    by: tuple[str, ...]
    decide_by_ms: int


class Ended(Struct, frozen=True, kw_only=True):
    """An item as it ended on `reviews`. `stopped`: a switch may have stopped its clocks; None: nobody knows."""

    item: str
    state: str
    purpose: str
    of: int
    dues: tuple[Due, ...]
    execute_by_ms: int
    ended_ms: int
    batch: str | None = None
    stopped: bool | None = False


@dataclass(slots=True)
class _Counted:
    """A judgement that counted, and where it stands."""

    one: Judgement
    place: str
    founded: bool


@dataclass(slots=True)
class _Left:
    """What the desk left about one decision: where it runs, where it lies parked, and how it was closed."""

    runs: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    ends: list[tuple[Where, str]] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.runs, *self.held, *(place for _, place in self.ends)]

    def of(self, where: Where) -> list[str]:
        return [place for end, place in self.ends if end is where]


_NOTHING = _Left()
SILENT, UNREADABLE = 0, -1
"""Instead of what a verdict says: it asks for no answer; it can only be a dead letter."""


class Judgements:
    """Collects what is said of people; `close` judges it.

    `passed` takes what is found. `settled` is where each partition (topic, number) ended, as far as it was committed,
    before any reading began; one that is not there: all of it. `since_ms` is the horizon of each partition by number.
    """

    def __init__(self, passed: Passed, *, settled: Mapping[tuple[str, int], int] | None = None) -> None:
        self._passed = passed
        self._settled = settled or {}
        self._since_ms: Mapping[int, int] = {}
        self.unsure = 0
        """Verdicts that came after their approval's time, and a switch may have stopped its clock."""
        self._spoken: dict[tuple[int, int], tuple[str, int, bytes, int]] = {}
        """By partition and offset on `verdicts`: topic, append time, digest of the JWS, and what it says."""
        self._dead: set[tuple[int, int]] = set()
        self._answers: dict[tuple[int, int], list[str]] = {}
        self._answered_jws: dict[bytes, str] = {}
        """Digest of a JWS → the effect of the last judgement that repeats it."""
        self._counted: dict[str, list[_Counted]] = {}
        self._by_jws: dict[bytes, list[_Counted]] = {}
        self._sources: list[tuple[tuple[int, int], bytes, str]] = []
        self._left: dict[int, _Left] = {}
        self._proposed: dict[str, list[str]] = {}
        self._runs: list[tuple[Running, Place]] = []
        self._ended: dict[str, tuple[Ended, Place]] = {}
        self._told: set[int] = set()
        """Decisions of which what followed was found wrong: once is enough."""

    # --- what there is ------------------------------------------------------------------------------------------------

    def spoke(self, one: Spoken, at: Place, appended_ms: int) -> None:
        """Say that a verdict stands on `verdicts`."""
        says = UNREADABLE if one.subject is None else _number(one.subject, one.jti) if one.subject else SILENT
        self._spoken[at[1:]] = at[0], appended_ms, _digest(one.jws), says

    def dead(self, partition: int, offset: int) -> None:
        """Say that what stands there on `verdicts` is a dead letter."""
        self._dead.add((partition, offset))

    def decided(self, one: Judgement, at: Place) -> None:
        """Say that the record `at` on `decisions` answers a verdict."""
        place, digest = text(at), _digest(one.jws)
        source = _placed(one.source)
        if source is None:
            self._passed("I6", f"names {one.source:.80} as its verdict, which is no place", (place,))
            return
        earlier = self._answers.setdefault(source, [])
        earlier.append(place)
        fault = None if len(earlier) == 1 else "a verdict was answered twice"
        self._passed("I6", fault, (one.source, *earlier) if fault else (place,))
        self._sources.append((source, digest, place))
        self._answered_jws[digest] = one.effect
        if one.effect in COUNTS:
            counted = _Counted(one, place, self._is_settled(at))
            self._counted.setdefault(one.item, []).append(counted)
            self._by_jws.setdefault(digest, []).append(counted)

    def runs(self, one: Running, at: Place) -> None:
        """Say that the execute record `at` runs by people's word."""
        self._of(one.of).runs.append(text(at))
        self._runs.append((one, at))

    def parked(self, of: int, at: Place, *, sure: bool = True) -> None:
        """Say that the desk parked what people had approved; not `sure`: it may be the router's copy of that."""
        held = self._of(of).held
        if sure or not held:
            held.append(text(at))

    def closed(self, of: int, where: Where, at: Place) -> None:
        """Say that the desk closed an action."""
        self._of(of).ends.append((where, text(at)))

    def proposed(self, item: str, at: Place) -> None:
        """Say that the desk wrote a person's action in place of the one that an item was about."""
        self._proposed.setdefault(item, []).append(text(at))

    def ended(self, one: Ended, at: Place) -> None:
        """Say that an item has ended; what it was before need not be told."""
        before = self._ended.get(one.item)
        if before is not None and before[0].state != one.state:
            what = f"item {one.item} ended as {before[0].state} and again as {one.state}"
            self._passed("I6", what, (text(before[1]), text(at)))
        self._ended[one.item] = one, at

    # --- judging ------------------------------------------------------------------------------------------------------

    def close(self, committed: Mapping[int, int], since_ms: Mapping[int, int] | None = None) -> None:
        """Judge everything: `committed` is the desk's offset on each partition of `verdicts`, read before all else."""
        self._since_ms = since_ms or {}
        self._answer(committed)
        for source, digest, place in self._sources:
            spoken = self._spoken.get(source)
            if spoken is not None and spoken[2] != digest:
                self._passed("I6", "answers another verdict than stands at its source", (_at(spoken[0], source), place))
        for item, counted in self._counted.items():
            self._one_end(item, counted)
            self._distinct(item, counted)
            self._in_time(item, counted)
        for one, at in self._runs:
            self._rests(one, at)
        for one_left in self._left.values():
            self._one_way(one_left)
        for counted in self._counted.values():
            for judged in counted:
                self._followed(judged)
        for ended, at in self._ended.values():
            self._stands(ended, at)

    def _answer(self, committed: Mapping[int, int]) -> None:
        """Find verdicts that the desk has passed and nobody answered."""
        known = {_number(item, judged.one.jti) for item, some in self._counted.items() for judged in some}
        for (partition, offset), (topic, appended_ms, _, says) in self._spoken.items():
            if offset >= committed.get(partition, 0) or appended_ms < self._since_ms.get(partition, 0):
                continue
            place = (partition, offset)
            if says != SILENT:
                answered = place in self._answers or place in self._dead or says in known
                fault = None if answered else "a verdict that the desk has passed has no answer"
                self._passed("I6", fault, (_at(topic, place),))

    def _one_end(self, item: str, counted: Sequence[_Counted]) -> None:
        """Compare the verdicts that counted for one item: none twice, and only one that ends it."""
        final = [judged for judged in counted if judged.one.effect == Effect.APPLIED and judged.one.verdict in FINAL]
        if len(final) > 1:
            words = " and ".join(judged.one.verdict for judged in final[:3])
            self._passed("I6", f"item {item}: {words} were both applied", tuple(judged.place for judged in final))
        first: dict[str, _Counted] = {}
        for judged in counted:
            other = first.setdefault(judged.one.jti, judged)
            if other is not judged:
                self._passed("I6", f"item {item}: the same verdict counted twice", (other.place, judged.place))

    def _distinct(self, item: str, counted: Sequence[_Counted]) -> None:
        """Two people means two."""
        approvals = [judged for judged in counted if judged.one.verdict in ("approve", "release")]
        seen: list[_Counted] = []
        for judged in approvals:
            twice = next((one for one in seen if is_same_holder(one.one.by, judged.one.by)), None)
            fault = None if twice is None else f"item {item}: {judged.one.by:.80} approved twice"
            self._passed("I7", fault, (judged.place,) if twice is None else (twice.place, judged.place))
            seen.append(judged)

    def _in_time(self, item: str, counted: Sequence[_Counted]) -> None:
        """Compare when verdicts came with the item's times, as it ended with them."""
        found = self._ended.get(item)
        if found is None:
            return
        ended, at = found
        for judged in counted:
            late_ms = judged.one.appended_ms - ended.execute_by_ms
            over_ms = judged.one.appended_ms - _until_ms(judged.one, ended)
            fault = None
            if late_ms >= 0:
                fault = f"item {item}: a verdict came {late_ms} ms after its deadline, and counted"
            elif over_ms >= 0 and ended.stopped is not False:
                self.unsure += 1
            elif over_ms >= 0:
                fault = f"item {item}: a verdict came {over_ms} ms after the time to decide was over, and counted"
            self._passed("I11", fault, (judged.place, text(at)) if fault else (judged.place,))

    def _rests(self, one: Running, at: Place) -> None:
        """Compare what runs with the verdicts inside it."""
        if not self._is_settled(at):
            return
        items: set[str] = set()
        since_ms = self._since_ms.get(at[1], 0)
        for jws, given_ms in zip(one.jws, one.given_ms, strict=False):
            digest = _digest(jws)
            judged = self._by_jws.get(digest, [])
            if not judged:
                if given_ms >= since_ms:
                    self._passed("I6", self._baseless(digest), (text(at),))
                continue
            released = [found for found in judged if found.one.item.startswith(BATCH)]
            fits = released or [found for found in judged if found.one.hash == one.hash]
            self._passed("I6", None, (text(at),))
            if not fits:
                self._passed("I3", "runs by a verdict on other bytes", (judged[0].place, text(at)))
            items.update(found.one.item for found in fits if found not in released)
        if len(items) > 1:
            self._passed("I6", f"runs by verdicts on {len(items)} items", (text(at),))

    def _baseless(self, digest: bytes) -> str:
        effect = self._answered_jws.get(digest)
        if effect is None:
            return "runs by a verdict that nobody has judged"
        return f"runs by a verdict that did not count ({effect})"

    def _one_way(self, left: _Left) -> None:
        """A decision that asked people goes one way: it runs, or is parked, or is closed."""
        every = left.all()
        if len(every) < 2:
            return
        ways = [*("runs" for _ in left.runs), *("is parked" for _ in left.held)]
        ways += [f"is closed as {where.name.lower()}" for where, _ in left.ends]
        self._passed("I6", f"what people decided once goes {len(every)} ways: {', '.join(ways[:4])}", tuple(every[:4]))

    def _followed(self, judged: _Counted) -> None:
        """Compare a verdict that ended its item with what the desk left."""
        one = judged.one
        partition = (_placed(one.source) or (0, 0))[0]
        late = one.appended_ms < self._since_ms.get(partition, 0)
        if one.effect != Effect.APPLIED or not judged.founded or late or one.verdict not in FINAL:
            return
        left = self._left.get(one.of, _NOTHING)
        wrong: str | None = None
        if one.purpose == Purpose.DECIDE and one.verdict == "approve":
            if not left.runs and not left.held:
                wrong = "is approved, and neither runs nor lies parked"
        elif one.purpose == Purpose.DECIDE and one.verdict in _AFTER:
            where = _ENDS[_AFTER[one.verdict]]
            if not left.of(where):
                wrong = f"was to be closed as {where.name.lower()}, and is not"
        proposes = one.purpose in (Purpose.DECIDE, Purpose.EXCEPTION) and one.verdict == "change"
        if wrong is None and (proposes or (one.purpose == Purpose.EXCEPTION and one.verdict == "approve")):
            wrong = self._not_proposed(one.item)
        if wrong is not None:
            self._told.add(one.of)
        self._passed("I6", None if wrong is None else f"item {one.item} {wrong}", (judged.place,))

    def _not_proposed(self, item: str) -> str | None:
        written = self._proposed.get(item, [])
        return None if len(written) == 1 else f"is changed, and {len(written)} actions stand in its place"

    def _stands(self, ended: Ended, at: Place) -> None:
        """Compare how an item ended with what the desk left of its decision."""
        recent = ended.ended_ms >= self._since_ms.get(at[1], 0)
        if ended.purpose != Purpose.DECIDE or ended.of in self._told or not self._is_settled(at) or not recent:
            return
        left = self._left.get(ended.of, _NOTHING)
        if ended.state == State.APPROVED:
            there = left.runs
        elif ended.state == State.PARKED:
            there = left.held
        else:
            there = left.of(_ENDS[ended.state])
        if not there:
            self._passed("I6", f"item {ended.item} ended as {ended.state}, and nothing came of it", (text(at),))
        elif ended.state == State.CHANGED and (fault := self._not_proposed(ended.item)) is not None:
            self._passed("I6", f"item {ended.item} {fault}", (text(at),))
        else:
            self._passed("I6", None, (text(at),))

    def _of(self, of: int) -> _Left:
        return self._left.setdefault(of, _Left())

    def _is_settled(self, at: Place) -> bool:
        end = self._settled.get(at[:2])
        return end is None or at[2] < end


def _until_ms(one: Judgement, ended: Ended) -> int:
    """Return until when a verdict could count: by the need that it meets, or where it stops, by all that was missing.

    What was escalated later got a later time than any verdict that had counted by then.
    """
    if one.verdict in ("reject", "change"):
        missing = [due.decide_by_ms for due in ended.dues if len(due.by) < due.people]
        return min(missing, default=ended.execute_by_ms)
    mine = [due.decide_by_ms for due in ended.dues if any(is_same_holder(one.by, person) for person in due.by)]
    return max(mine, default=ended.execute_by_ms)


def subject_of(tenant: str, action_id: str, hash_: str, moment: str) -> int:
    """Return what names one decision that asked people: the action, its bytes, and when the router decided."""
    return _number(tenant, action_id, hash_, moment)


def text(at: Place) -> str:
    """Return a place as reports have it."""
    return f"{at[0]}/{at[1]}/{at[2]}"


def _at(topic: str, place: tuple[int, int]) -> str:
    return f"{topic}/{place[0]}/{place[1]}"


def _placed(source: str) -> tuple[int, int] | None:
    """Read `topic/partition/offset`."""
    _, _, rest = source.rpartition("/")
    number = source[: -len(rest) - 1].rpartition("/")[2] if rest else ""
    if not (rest.isdecimal() and number.isdecimal() and rest.isascii() and number.isascii()):
        return None
    return int(number), int(rest)


def _digest(jws: str) -> bytes:
    return hashlib.blake2b(jws.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _number(*parts: str) -> int:
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(joined, digest_size=8).digest(), "big") or 1
