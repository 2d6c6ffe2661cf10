"""Tripwires: what looks so unlike the last minutes that somebody should look, or that an agent is stopped before.

Each wire is fed one `Interval` after another, of a few seconds each, and returns what it has just tripped on: once when
that begins, and again only after it had ended. A tripwire never decides about an action, and what it goes by are
*estimates* from a sample (`weight`: how many records one of the sample stands for), so it starts by observing.

| wire | trips when | formula, source |
|---|---|---|
| rate | a publisher's decided actions a second > `FACTOR` × its baseline | EWMA chart (Roberts 1959), winsorised |
| spend | the same of what its executed actions add to budgets and bids a second, in one unit | the same |
| refusals | its share of refused actions: `Z` deviations above its baseline, and twice that | p chart (Shewhart 1931) |
| poison | dead letters a second from one topic > `FACTOR` × baseline | as rate, without a warm-up |
| repeats | a publisher executes `REPEATS` actions on one entity within a minute | a count |
| mismatch | actions come in, and for half a minute nothing at all comes out | a count |

What is new has no baseline and trips nothing but `poison` and `repeats` for its first minute. More out than in is not
judged here: what people approve, and what a release sets free, comes out long after it came in (`hitl verify` counts
exactly). Nothing here is wider than a publisher: one agent of one tenant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from math import sqrt
from typing import Generic, NamedTuple, Protocol, TypeVar

FACTOR = 5.0
LEARNING = 1 / 60
"""Weight of one interval: with 5 s, what is normal follows a change with a time constant of five minutes."""
WARM = 12
"""Intervals before a baseline counts: a minute."""
RATE_FLOOR = 1.0
"""Actions a second below which nobody's baseline lies: 5 a second never trip."""
SPEND_FLOOR = 1.0
POISON_FLOOR = 2.0
REFUSED_FLOOR = 0.01
Z = 4.0
SAMPLE_MIN = 30
"""Sampled decisions that a share is taken of; slow publishers gather them over several intervals."""
REPEATS = 120
"""Two a second on one campaign, for a minute."""
REPEATS_SAMPLED_MIN = 10
"""Actually seen: an estimate from two records of a sample proves no repeat."""
MINUTE = 12
"""Intervals in a minute."""
MISMATCH_INPUTS_MIN = 50
KEYS_MAX = 10_000
"""Publishers, topics or entities that a wire remembers; the one not seen for longest goes first."""

WIRES = ("rate", "spend", "refusals", "mismatch", "poison", "repeats")
K = TypeVar("K", bound=Hashable)


class Publisher(NamedTuple):
    """An agent, whatever its version, and for whom it acts."""

    tenant: str
    agent: str


class Tripped(NamedTuple):
    """A wire that has just tripped; `publisher` None: nobody can be named."""

    wire: str
    publisher: Publisher | None
    what: str
    saw: float
    limit: float


class Count:
    """What one publisher did in an interval, estimated; `sampled` and `sampled_refused` were really seen."""

    __slots__ = ("decided", "refused", "sampled", "sampled_refused", "spend")

    def __init__(self) -> None:
        self.decided = 0.0
        self.refused = 0.0
        self.sampled = 0
        self.sampled_refused = 0
        self.spend: dict[str, float] = {}


class Interval:
    """What was seen of a few seconds.

    `inputs` and `outputs`: offsets by which the action topics and the topics of answers have grown. `dead`: dead
    letters by the topic they came from, and by whom, where that topic is bound to one publisher.
    """

    def __init__(self, seconds: float, inputs: int = 0, outputs: int = 0) -> None:
        self.seconds = seconds
        self.inputs = inputs
        self.outputs = outputs
        self.publishers: dict[Publisher, Count] = {}
        self.entities: dict[tuple[Publisher, str], tuple[float, int]] = {}
        self.dead: dict[tuple[str, Publisher | None], float] = {}

    def executed(self, publisher: Publisher, entity: str, spend: Mapping[str, float], weight: float) -> None:
        """Count an execute record: its entity, and what it adds by unit."""
        count = self._of(publisher)
        count.decided += weight
        count.sampled += 1
        for unit, amount in spend.items():
            count.spend[unit] = count.spend.get(unit, 0.0) + amount * weight
        estimated, seen = self.entities.get((publisher, entity), (0.0, 0))
        self.entities[publisher, entity] = (estimated + weight, seen + 1)

    def refused(self, publisher: Publisher, weight: float) -> None:
        """Count an action that was closed as refused."""
        count = self._of(publisher)
        count.decided += weight
        count.refused += weight
        count.sampled += 1
        count.sampled_refused += 1

    def died(self, topic: str, publisher: Publisher | None, weight: float) -> None:
        """Count a dead letter."""
        self.dead[topic, publisher] = self.dead.get((topic, publisher), 0.0) + weight

    def _of(self, publisher: Publisher) -> Count:
        return self.publishers.setdefault(publisher, Count())


class Wire(Protocol):
    """One tripwire."""

    def judge(self, interval: Interval) -> Iterator[Tripped]:
        """Take in an interval, and yield what has just tripped."""


def wires() -> dict[str, Wire]:
    """Return a fresh set of all of them, by name."""
    return {
        "rate": Rate(),
        "spend": Spend(),
        "refusals": Refusals(),
        "mismatch": Mismatch(),
        "poison": Poison(),
        "repeats": Repeats(),
    }


class Surges(Generic[K]):
    """Values a second, by key, each against its own baseline b ← b + LEARNING · (min(x, FACTOR · b) − b).

    A surge is learned slowly: what lasts is normal one day, and is reported once.
    """

    def __init__(self, floor: float, warm: int = WARM) -> None:
        self.floor = floor
        self.warm = warm
        self._baselines: dict[K, tuple[float, int]] = {}
        self._tripped: set[K] = set()

    def judge(self, values: Mapping[K, float]) -> Iterator[tuple[K, float, float]]:
        """Take in the values of an interval, zero where there is none; yield (key, value, limit) of what begins."""
        for key in [*(one for one in self._baselines if one not in values), *values]:
            value = values.get(key, 0.0)
            baseline, seen = self._baselines.pop(key, (value, 0))
            limit = FACTOR * max(baseline, self.floor)
            if self.warm == 0 and seen == 0:
                baseline, limit = 0.0, FACTOR * self.floor
            above = seen >= self.warm and value > limit
            self._baselines[key] = (baseline + LEARNING * (min(value, limit) - baseline), seen + 1)
            if above and key not in self._tripped:
                yield key, value, limit
            (self._tripped.add if above else self._tripped.discard)(key)
        while len(self._baselines) > KEYS_MAX:
            gone = next(iter(self._baselines))
            del self._baselines[gone]
            self._tripped.discard(gone)


class Rate:
    """A publisher's actions a second."""

    def __init__(self) -> None:
        self._surges: Surges[Publisher] = Surges(RATE_FLOOR)

    def judge(self, interval: Interval) -> Iterator[Tripped]:
        """Compare each publisher with itself."""
        values = {one: count.decided / interval.seconds for one, count in interval.publishers.items()}
        for one, value, limit in self._surges.judge(values):
            yield Tripped("rate", one, "actions a second", value, limit)


class Spend:
    """What a publisher's executed actions add a second, in each unit by itself."""

    def __init__(self) -> None:
        self._surges: Surges[tuple[Publisher, str]] = Surges(SPEND_FLOOR)

    def judge(self, interval: Interval) -> Iterator[Tripped]:
        """Compare each publisher with itself."""
        values = {
            (one, unit): amount / interval.seconds
            for one, count in interval.publishers.items()
            for unit, amount in count.spend.items()
        }
        for (one, unit), value, limit in self._surges.judge(values):
            yield Tripped("spend", one, f"{unit or 'units'} added a second", value, limit)


class Refusals:
    """A publisher's share of refused actions: z = (r − n·p) / √(n·p·(1 − p)) over what was really seen."""

    def __init__(self) -> None:
        self._gathered: dict[Publisher, tuple[int, int]] = {}
        self._baselines: dict[Publisher, tuple[float, int]] = {}
        self._tripped: set[Publisher] = set()

    def judge(self, interval: Interval) -> Iterator[Tripped]:
        """Gather, and compare whoever has enough."""
        for one, count in interval.publishers.items():
            seen, refused = self._gathered.pop(one, (0, 0))
            seen, refused = seen + count.sampled, refused + count.sampled_refused
            if seen < SAMPLE_MIN:
                self._gathered[one] = (seen, refused)
            else:
                yield from self._compare(one, seen, refused)
        for known in (self._gathered, self._baselines):
            while len(known) > KEYS_MAX:
                known.pop(next(iter(known)))
        self._tripped &= self._baselines.keys()

    def _compare(self, one: Publisher, seen: int, refused: int) -> Iterator[Tripped]:
        share = refused / seen
        baseline, times = self._baselines.pop(one, (share, 0))
        expected = min(max(baseline, REFUSED_FLOOR), 1 - REFUSED_FLOOR)
        z = (refused - seen * expected) / sqrt(seen * expected * (1 - expected))
        above = times >= WARM and z > Z and share > 2 * expected
        self._baselines[one] = (baseline + LEARNING * (min(share, 2 * expected) - baseline), times + 1)
        if above and one not in self._tripped:
            yield Tripped("refusals", one, "share refused", share, 2 * expected)
        (self._tripped.add if above else self._tripped.discard)(one)


class Poison:
    """Dead letters a second, by the topic they came from."""

    def __init__(self) -> None:
        self._surges: Surges[tuple[str, Publisher | None]] = Surges(POISON_FLOOR, warm=0)

    def judge(self, interval: Interval) -> Iterator[Tripped]:
        """Compare each topic with itself."""
        values = {key: dead / interval.seconds for key, dead in interval.dead.items()}
        for (topic, one), value, limit in self._surges.judge(values):
            yield Tripped("poison", one, f"dead letters a second from {topic}", value, limit)


class Repeats:
    """A publisher's executed actions on one entity within a minute."""

    def __init__(self) -> None:
        self._minute: deque[Mapping[tuple[Publisher, str], tuple[float, int]]] = deque(maxlen=MINUTE)
        self._tripped: set[tuple[Publisher, str]] = set()

    def judge(self, interval: Interval) -> Iterator[Tripped]:
        """Count the last minute."""
        busiest = sorted(interval.entities.items(), key=lambda item: -item[1][0])[:KEYS_MAX]
        self._minute.append(dict(busiest))
        sums: dict[tuple[Publisher, str], tuple[float, int]] = {}
        for one in self._minute:
            for key, (estimated, seen) in one.items():
                before = sums.get(key, (0.0, 0))
                sums[key] = (before[0] + estimated, before[1] + seen)
        above = {key for key, (n, seen) in sums.items() if n >= REPEATS and seen >= REPEATS_SAMPLED_MIN}
        for publisher, entity in sorted(above - self._tripped):
            yield Tripped("repeats", publisher, f"actions on {entity}", sums[publisher, entity][0], REPEATS)
        self._tripped = above


class Mismatch:
    """Whether anything comes out while actions come in."""

    def __init__(self) -> None:
        self._last: deque[tuple[int, int]] = deque(maxlen=MINUTE)
        self._tripped = False

    def judge(self, interval: Interval) -> Iterator[Tripped]:
        """Compare the half minute before the last one with the last one: what comes in now may still be on its way."""
        self._last.append((interval.inputs, interval.outputs))
        if len(self._last) < MINUTE:
            return
        before, now = list(self._last)[: MINUTE // 2], list(self._last)[MINUTE // 2 :]
        inputs = sum(one for one, _ in before)
        silent = inputs >= MISMATCH_INPUTS_MIN and not any(outputs for _, outputs in now)
        if silent and not self._tripped:
            yield Tripped(
                "mismatch", None, "actions in, and nothing out for half a minute", inputs, MISMATCH_INPUTS_MIN
            )
        self._tripped = silent
