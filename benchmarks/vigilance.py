"""`make vigilance-proof`: simulated reviewers and gates, judged by the code that judges real ones, figure by figure.

Each row is a claim of the specification, with what was found in `--runs` seeded runs of it. Two ways that look just as
reasonable and are wrong stand beside: a Clopper-Pearson interval looked at after every item, and one hit rate pooled
over everybody. The last line says how many claims hold, of how many.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hitl_stream.core import gate_evidence as gates
from hitl_stream.core.intervals import incomplete_beta
from hitl_stream.core.vigilance import Level, Looked, Queue, Watch, looked

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "vigilance.md"
GATE_ITEMS = 5_000
RUNS = 1_000
APART_MS = 10 * 60_000
"""Between two judgements: nobody here is tired."""
T = 0.05
KAPPA = 0.8
CANARIES = 0.05
TOLERANCE = 1.1
"""The specification's medians came from fewer runs: so far above them is still the same figure."""
FIXED_OFFER = 20.0
"""Where the share is known there is one way of being wrong, and it may have all of the 5 %."""


@dataclass(frozen=True)
class Claim:
    """A claim, and the share of runs in which what it speaks of was seen; `bound` None: nothing is claimed."""

    name: str
    seen: float
    bound: float | None
    at_least: bool

    @property
    def holds(self) -> bool | None:
        """Say whether it holds."""
        if self.bound is None:
            return None
        return self.seen >= self.bound if self.at_least else self.seen <= self.bound

    def cells(self) -> tuple[str, str, str, str]:
        """Return the row's cells."""
        sign = "at least" if self.at_least else "at most"
        said = "" if self.bound is None else f"{sign} {self.bound:.1%}"
        return self.name, f"{self.seen:.1%}", said, {True: "ok", False: "MISSED", None: "for comparison"}[self.holds]


def main() -> int:
    """Run all claims, print the table, and say how many hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="simulated reviewers and gates of each kind")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    given = parser.parse_args()
    started = time.monotonic()
    found = []
    for claim in claims(given.runs, given.seed):
        found.append(claim)
        print(" | ".join(claim.cells()), flush=True)
    judged = [claim for claim in found if claim.holds is not None]
    last = f"{sum(bool(claim.holds) for claim in judged)} of {len(judged)} claims hold"
    if given.write:
        RESULTS.write_text(_page(found, last, given.runs, given.seed, time.monotonic() - started), "utf-8")
    print(last)
    return 0 if all(claim.holds for claim in judged) else 1


def claims(runs: int, seed: int) -> Iterable[Claim]:
    """Yield every claim, with what was found."""
    yield from reviewers(runs, seed)
    yield from removals(runs, seed)
    yield from relapses(runs, seed)


# --- reviewers --------------------------------------------------------------------------------------------------------


def tiring(n: int) -> float:
    """Return the hit rate of somebody who falls from 0.95 to 0.50 within 40 canaries."""
    return 0.95 - 0.45 * min(n, 40) / 40


def reviewers(runs: int, seed: int) -> Iterable[Claim]:
    """Yield the claims about people: when each kind reaches a level, counted in canaries."""
    kinds: tuple[tuple[str, Callable[[int], float], Level, int, float, bool], ...] = (
        ("always yes: level 3 within 10 canaries", lambda n: 0.0, Level.ESCALATED, 10, 0.99, True),
        ("random (0.50): level 3 within 30", lambda n: 0.5, Level.ESCALATED, 30, 0.95, True),
        ("tiring (0.95 to 0.50 over 40): level 2 by 40", tiring, Level.SECONDED, 40, 0.90, True),
        ("tiring: level 3 by 60", tiring, Level.ESCALATED, 60, 0.95, True),
        ("careful (0.92): falsely at 3 within 50", lambda n: 0.92, Level.ESCALATED, 50, 0.005, False),
        ("careful: falsely at 2 or over within 50", lambda n: 0.92, Level.SECONDED, 50, 0.07, False),
    )
    for number, (name, hit_rate, level, within, bound, at_least) in enumerate(kinds):
        chance = random.Random(f"{seed}/{number}")
        reached = sum(_reaches(hit_rate, level, within, chance) for _ in range(runs))
        yield Claim(name, reached / runs, bound, at_least)


def _reaches(hit_rate: Callable[[int], float], level: Level, within: int, chance: random.Random) -> bool:
    watch = Watch()
    for n in range(1, within + 1):
        caught = chance.random() < hit_rate(n)
        one = Looked(approved=not caught, dwell_s=30.0, floor_s=2.0, at_ms=n * APART_MS, caught=caught)
        watch = looked(watch, one, Queue())
        if watch.level >= level:
            return True
    return False


# --- gates that are removed although they are needed ------------------------------------------------------------------


def removals(runs: int, seed: int) -> Iterable[Claim]:
    """Yield the claims about gates whose errors stand exactly at the threshold: how often they would be removed."""
    chance = random.Random(f"{seed}/fixed")
    both = [_fixed(chance) for _ in range(runs)]
    yield Claim("needed gate removed, share of findings known", sum(e for e, _ in both) / runs, 0.05, False)
    yield Claim("the same by a Clopper-Pearson interval at every item", sum(cp for _, cp in both) / runs, None, False)
    chance = random.Random(f"{seed}/people")
    both = [_two_people(chance) for _ in range(runs)]
    yield Claim("needed gate removed, hit rates differ by person", sum(e for e, _ in both) / runs, 0.05, False)
    yield Claim("the same with one hit rate pooled over both", sum(pooled for _, pooled in both) / runs, None, False)


def _fixed(chance: random.Random) -> tuple[bool, bool]:
    """Look after every item at a gate whose findings are at the threshold; return who would have removed it."""
    errors, by_e, by_interval = 0, False, False
    for n in range(1, GATE_ITEMS + 1):
        errors += chance.random() < T
        if not by_e:
            by_e = gates.log_e_fixed(errors, n, T) >= math.log(FIXED_OFFER)
        if not by_interval and n >= gates.ITEMS_MIN:
            # The upper one-sided bound of 95 % is under T just where so few errors are that rare at T.
            by_interval = incomplete_beta(n - errors, errors + 1, 1.0 - T) < 0.05 if errors < n else False
        if by_e and by_interval:
            break
    return by_e, by_interval


def _two_people(chance: random.Random) -> tuple[bool, bool]:
    """One looks (0.95) and judges a fifth; the other hardly does (0.40), judges the rest, and sees fewer canaries."""
    people = (0.95, 0.40)
    evidence = [gates.Evidence(), gates.Evidence()]
    errors = caught = canaries = 0
    by_e = by_pooled = False
    for n in range(1, GATE_ITEMS + 1):
        who = 0 if chance.random() < 0.2 else 1
        if chance.random() < (CANARIES * 4 if who == 0 else CANARIES):
            hit = chance.random() < people[who]
            caught, canaries = caught + hit, canaries + 1
            evidence[who] = gates.canary(evidence[who], hit)
        error = chance.random() < T and chance.random() < KAPPA * people[who]
        errors += error
        evidence[who] = gates.judged(evidence[who], error, T)
        if not by_e:
            by_e = gates.log_e(evidence) >= math.log(gates.OFFER)
        if not by_pooled and n >= gates.ITEMS_MIN and canaries:
            by_pooled = gates.log_e_fixed(errors, n, T * KAPPA * caught / canaries) >= math.log(gates.OFFER)
        if by_e and by_pooled:
            break
    return by_e, by_pooled


# --- gates that have to come back -------------------------------------------------------------------------------------


def relapses(runs: int, seed: int) -> Iterable[Claim]:
    """Yield the claims about gates that were removed: how soon three times as many errors put them back."""
    for p, about, false_about in ((0.05, 78, 0.05), (0.02, 214, 0.02), (0.01, 441, 0.013)):
        chance = random.Random(f"{seed}/back/{p}")
        items = sorted(_returns(3 * p, p, 20_000, chance) for _ in range(runs))
        name = f"put back at 3 times {p:.0%}: median {items[runs // 2]}, 9 of 10 within {items[runs * 9 // 10]} items"
        within = round(about * TOLERANCE)
        yield Claim(f"{name}; within {within}", sum(n <= within for n in items) / runs, 0.50, True)
        chance = random.Random(f"{seed}/stays/{p}")
        false = sum(_returns(p, p, 1_000, chance) < 1_000 for _ in range(runs))
        yield Claim(f"falsely put back within 1,000 items at {p:.0%}", false / runs, false_about + 0.015, False)


def _returns(share: float, p: float, most: int, chance: random.Random) -> int:
    """Return after how many audited items the gate comes back; `most` where it does not."""
    relapse = gates.Relapse(p)
    for n in range(1, most + 1):
        relapse = gates.audited(relapse, chance.random() < share)
        if gates.must_return(relapse):
            return n
    return most


# --- the page ---------------------------------------------------------------------------------------------------------


def _page(found: list[Claim], last: str, runs: int, seed: int, seconds: float) -> str:
    rows = "\n".join("| " + " | ".join(claim.cells()) + " |" for claim in found)
    day = datetime.now(UTC).date()
    return (
        "# Are the people still looking? The proof\n\n"
        f"`make vigilance-proof` on {day}, {runs} seeded runs of each kind (seed {seed}), Python "
        f"{sys.version.split()[0]}, {seconds:.0f} s. The code is that of the monitor: `core/vigilance.py` and "
        "`core/gate_evidence.py`.\n\n| claim | seen in | claimed | |\n|---|---|---|---|\n"
        f"{rows}\n\n{last}.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
