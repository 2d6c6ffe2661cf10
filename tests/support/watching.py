"""Judgements for the monitor to look at, as the desk writes them, and what must come of them by the pure fold alone."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw

from hitl_stream.core.action import Agent, entity_of
from hitl_stream.core.vigilance import Level, Queue
from hitl_stream.roles.monitor_state import (
    Chunk,
    Kept,
    News,
    Place,
    filled,
    key_of,
    newest,
    news,
    parts_of,
    qualified_anew,
    taken,
)  # fmt: skip
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import HUMAN_DECISION, OBSERVATION, HumanDecision, Observation, ms_of
from hitl_stream.wire.judged import QUIZ
from hitl_stream.wire.records import (
    ACTION_MARK,
    ApprovalRow,
    AuditRow,
    Held,
    ReasonRow,
    ScoreRow,
    encode,
    head_of,
    time_text,
)
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.watched import Observed, pseudonym, read_observation, seeded_value
from support.make import action_bytes, change, iso

START_MS = 1_790_000_000_000
APART_MS = 31_000
"""Between one item and the next, unless a test says when: longer than anybody here looks."""
FLOOR_S = 4.0
QUEUES = ("trading", "content")


def observation(
    reviewer: str = "ana", verdict: str = "approve", *, n: int = 0, purpose: str = "decide", dwell_s: float = 30.0,
    queue: str = "trading", at_ms: int | None = None, **more: Any,
) -> Observation:  # fmt: skip
    """Return one, of item number `n`; each follows on the one before."""
    at_ms = START_MS + n * APART_MS if at_ms is None else at_ms
    fields = {
        "item": f"item{n:012d}", "tenant": "acme", "class_": "bid.adjust", "agent": Agent(id="bidder-7"),
        "floor_s": FLOOR_S, "words": 60, "assets": 0, "policy": "d" * 64,
        "shown_at": time_text(at_ms - int(dwell_s * 1000)), "decided_at": time_text(at_ms),
    }  # fmt: skip
    return Observation(
        reviewer=reviewer, verdict=verdict, purpose=purpose, dwell_s=dwell_s, queue=queue, **fields | more
    )


def observed(*arguments: Any, **more: Any) -> Observed:
    """Return one as the monitor reads it."""
    one = observation(*arguments, **more)
    return Observed(one, ms_of(one.decided_at))


def asking(
    number: int = 0, *, agent: str = "bidder-7", queue: str = "trading", at_ms: int = START_MS, **parts: Any
) -> Held:
    """Return what a router asked people about a bid, number `number`."""
    raw = action_bytes(
        action_id=f"act-{number}", agent={"id": agent, "version": "1"}, proposed_at=iso(at_ms - 100),
        changes=[change("1.20", f"1.{300 + number}", campaign=f"cmp-{number % 50}")], **parts,
    )  # fmt: skip
    decoded = decode_bytes(raw)
    assert isinstance(decoded, Decoded), decoded
    action, place = decoded.action, f"hitl.actions/0/{number}"
    return Held(
        id=f"{place}#0", tenant=action.tenant, action_id=action.action_id, hash=decoded.hash, type=action.type, level=2,
        agent=action.agent, entity=entity_of(action), outcome="REVIEW", policy="d" * 64, moment=time_text(at_ms),
        reasons=(ReasonRow(rule="level", saw="2", outcome="REVIEW", queue=queue),), origin=place,
        approvals=(ApprovalRow(queue, 1, time_text(at_ms + 3_600_000)),), score=ScoreRow(0.4),
        execute_by=time_text(at_ms + 7_200_000), trace="4b" * 16, audit=AuditRow(0.05), action=Raw(raw),
    )  # fmt: skip


def judgement(
    held: Held, by: str = "ben", verdict: str = "approve", *, later_ms: int = 30_000, **parts: Any
) -> HumanDecision:
    """Return how the desk writes down what a person said of that."""
    raw = bytes(held.action)
    decided = time_text(ms_of(held.moment) + later_ms)
    fields = {
        "item": f"item-{held.action_id}", "purpose": held.purpose, "effect": "applied", "role": "trader",
        "queue": held.approvals[0].queue if held.approvals else None,
        "asked": seeded_value(held, raw)[: -len(ACTION_MARK) - len(raw) - 1].decode(),
    }  # fmt: skip
    return HumanDecision(
        n=0, tenant=held.tenant, action_id=held.action_id, hash=held.hash, by=by, verdict=verdict,
        routed=held.moment, painted=decided, decided=decided, appended=decided, source="hitl.verdicts/0/0",
        jws="a.b.c", shown="{}", action=Raw(raw), **fields | parts,
    )  # fmt: skip


def judged(topic: str, key: SealKey, one: HumanDecision) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Return key, value and headers of its record on `decisions`, as the desk writes it."""
    value = encode(one)
    seal = sealer(key, topic, HUMAN_DECISION)(head_of(value))
    return f"{one.item}/{one.n}".encode(), value, [(TYPE_HEADER, HUMAN_DECISION.encode()), (SEAL_HEADER, seal)]


def judgements(count: int, seed: int, people: int = 20) -> Iterator[Observation]:
    """Yield what people of four kinds do, a tenth of it with canaries: careful, hasty, asleep, and those who tire."""
    rng = random.Random(seed)
    for n in range(count):
        person = rng.randrange(people)
        kind = person % 4
        canary = rng.random() < 0.1
        asleep = kind == 2 or (kind == 3 and n > count // 2)
        word = "reject" if rng.random() < (0.05 if not canary else 0.1 if asleep else 0.92) else "approve"
        if rng.random() < 0.02:
            word = "skip"
        dwell_s = rng.uniform(0.5, 2.0) if kind in (1, 2) else rng.uniform(6.0, 60.0)
        yield observation(
            f"person-{person}", word, n=n, purpose="canary" if canary else "decide", dwell_s=dwell_s,
            queue=QUEUES[rng.random() < 0.2], at_ms=START_MS + n * 1_000,
        )  # fmt: skip


def written(topic: str, key: SealKey, one: Observation) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Return key, value and headers of its record, as the desk writes it."""
    value = encode(one)
    headers = [(TYPE_HEADER, OBSERVATION.encode()), (SEAL_HEADER, sealer(key, topic, OBSERVATION)(value))]
    return one.reviewer.encode(), value, headers


@dataclass
class Offline:
    """The monitor's tables, computed by the fold from records alone, and what must have been told of them."""

    names: SealKey
    usual: Queue = field(default_factory=Queue)
    people: dict[bytes, Kept] = field(default_factory=dict)
    chunks: dict[bytes, Chunk] = field(default_factory=dict)
    told: list[tuple[Place, str, str, News, tuple[str, ...]]] = field(default_factory=list)
    """Where, person, queue, the news, and which items are to be judged again."""
    ended: list[tuple[Place, str, str]] = field(default_factory=list)
    """Where somebody who was watched has qualified anew, person and queue."""

    def read(self, topic: str, keys: dict[str, SealKey], records: Iterable[Any]) -> None:
        """Take in the records of one partition, in order."""
        for record in records:
            found = read_observation(topic, record.value, record.headers, keys)
            if isinstance(found, Observed):
                self.take(found, Place(record.partition, record.offset, record.timestamp))

    def take(self, found: Observed, place: Place) -> News | None:
        """Take in one."""
        person, queue = pseudonym(self.names, found.observation.reviewer), found.observation.queue
        if found.observation.purpose == QUIZ:
            return self._qualified(person, place)
        key = key_of(person, queue)
        before = self.people.get(key) or Kept(partition=place.partition)
        after = taken(before, found, place, lambda: self.usual)
        full = filled(before, after, found.observation.item, place)
        if full is not None:
            self.chunks[key_of(person, queue, full[0])] = full[1]
        elsewhere = [
            kept.watch.level for other, kept in self.people.items() if other != key and parts_of(other)[0] == person
        ]
        said = news(before, after, lambda: max(elsewhere, default=Level.NONE))
        self.people[key] = after
        if said is not None:
            mine = {number: chunk for number in range(10) if (chunk := self.chunks.get(key_of(person, queue, number)))}
            self.told.append((place, person, queue, said, newest(after, mine, said.again)))
        return said

    def _qualified(self, person: str, place: Place) -> None:
        mine = {key: kept for key, kept in self.people.items() if parts_of(key)[0] == person}
        self.ended += [(place, person, parts_of(key)[1]) for key, kept in mine.items() if kept.watch.level]
        self.people |= {key: qualified_anew(kept, place) for key, kept in mine.items()}

    def each(self, found: Sequence[Observed]) -> list[News]:
        """Take in several, all in partition 0, and return what was told."""
        first = max((kept.offset for kept in self.people.values()), default=-1) + 1
        said = [self.take(one, Place(0, first + n, one.decided_ms)) for n, one in enumerate(found)]
        return [one for one in said if one is not None]
