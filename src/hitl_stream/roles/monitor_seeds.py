"""What canaries are made from, and what the monitor asks people for: pure, for one worker.

What must not betray a canary:
- it is a real action, which people of the same queue approved, with one thing changed; all that stands around it, its
  reasons, score, approvals and time to run, is what stood there, moved to now, under the policy of now;
- it waits in the queue that its person works in, among real items, and is drawn by a keyed digest of the place of one
  of their judgements, which nobody without the key of pseudonyms can tell or try out;
- its action id, which begins with `~`, and its origin, the place of that judgement, stand on `review.seeded`, which
  only the desk reads, and on what it keeps; no page shows either while the item is undecided;
- who has seen what it is made from, approved or not, never gets it, and nothing becomes a canary twice;
- its person has no other that is undecided, so a burst of odd items is none of ours;
- what an external client looks at, and classes whose policy says `canaries: false`, have none.

What is kept is bounded by the limits below. What is forgotten can become no canary: of a source of which nobody knows
any more who saw it, there is none.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from typing import NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from hitl_stream.core.canaries import MARK, Judged, chosen, is_planted, may_become, planted
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.events import Effect, Purpose
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.tier import tier_of
from hitl_stream.wire.approved import owners_of
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from hitl_stream.wire.decided import Decided
from hitl_stream.wire.desk_records import HumanDecision, ms_of
from hitl_stream.wire.records import ApprovalRow, First, Held, time_text
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.watched import asked_in

K = TypeVar("K")
V = TypeVar("V")

HORIZON_MS = 8 * DAY_MS
"""So far back judgements are read. What was routed before may have been judged by somebody who was not read."""
HOUR_MS = 3_600_000
CANDIDATES_MAX = 500
"""In one queue, spread over its hours and their agents."""
QUEUES_MAX = 32
CANDIDATE_BYTES_MAX = 16 * 1024
"""Of a decision and its action. A longer one becomes no canary: a pool of such would fill the memory."""
SEEN_MAX = 100_000
"""Actions of which it is known who judged them."""
SEEN_BY_MAX = 64
"""Whom one action is known to have been judged by; what more have seen becomes no canary."""
APPROVALS_PLACED_MAX = 100_000
"""Newest approvals of which it is known where they stand, in case they have to be judged again."""
USED_MAX = 100_000
WAITING_MS_MAX = 7 * DAY_MS
"""After that an item that is only judged is closed by the desk, and nobody judges it any more."""
DRAWN_LATE_MS_MAX = 900_000
"""Whoever judged longer ago gets no canary for it: a monitor that comes back must not plant what it missed at once."""
TRIES_MAX = 20
"""Candidates looked at closely for one canary; each has to be decoded."""
SOURCE_BYTES = 15
TRACE_BYTES = 16
ASKS_NOBODY = ("skip", "lapse")
COUNTS = (Effect.APPLIED, Effect.WAITING)


class At(NamedTuple):
    """Where a record stands on its topic."""

    partition: int
    offset: int


class Source(Struct, frozen=True):
    """An approval that a canary could be made from: its decision's head and its action's bytes, as they were.

    `id` is that of the one canary that is ever made from it; being keyed, it is also the lot by which some are dropped
    where there are too many.
    """

    id: str
    hash: str
    agent: str
    judged: Judged
    asked: str
    raw: bytes


class Drawn(Struct, frozen=True):
    """For whom a canary is to be made, in which queue, from the judgement at `origin`, appended at `at_ms`.

    `tier_max` is the highest tier it may have, `partition` that of the judgement.
    """

    person: str
    queue: str
    origin: str
    partition: int
    at_ms: int
    tier_max: int
    age_ms: int


class Seeded(Struct, frozen=True):
    """What is asked: the decision, and its action, whose bytes are the last member of its record."""

    held: Held
    decoded: Decoded


class Seeds:
    """What one worker knows of what people approved, and of what was planted already. `key` is that of pseudonyms."""

    def __init__(self, key: SealKey, partitions: int) -> None:
        self.placed: OrderedDict[str, At] = OrderedDict()
        """Item → where an approval of it stands on `decisions`."""
        self._key, self._partitions = key.key, partitions
        self._shelves: dict[str, _Shelf] = {}
        self._seen: OrderedDict[str, set[str]] = OrderedDict()
        """Action hash → who has judged it."""
        self._used: OrderedDict[str, str] = OrderedDict()
        """Id of a canary → whose it is."""
        self._drawn: OrderedDict[str, None] = OrderedDict()
        """Origins of canaries."""
        self._waiting: dict[str, tuple[str, int]] = {}
        """Person → their newest undecided canary, and until when it waits."""

    # --- what is read -------------------------------------------------------------------------------------------------

    def judged(self, found: HumanDecision, at: At, since_ms: int) -> None:
        """Take in one judgement. Of what was routed before `since_ms` there may be others that nobody read."""
        if found.asked is None or not found.hash:
            return
        if is_planted(found.action_id):
            self._answered(found)
            return
        seen = self._seen.pop(found.hash, None) or set()
        if len(seen) <= SEEN_BY_MAX:  # one more than the limit says that there are more
            seen.add(found.by)
        _put(self._seen, found.hash, seen, SEEN_MAX)
        if found.verdict != "approve" or found.effect not in COUNTS:
            return
        _put(self.placed, found.item, at, APPROVALS_PLACED_MAX)
        source = self._source(found, since_ms)
        if source is not None and found.queue is not None:
            self._shelve(found.queue, source)

    def seeded(self, held: Held) -> None:
        """Take in one canary, our own or another worker's. Of two with one id the first on the log is one."""
        if held.purpose != Purpose.CANARY or held.for_ is None:
            return
        _put(self._drawn, held.origin, None, USED_MAX)
        owner = self._used.get(held.action_id, held.for_)
        _put(self._used, held.action_id, owner, USED_MAX)
        for shelf in self._shelves.values():
            shelf.take_out(held.action_id)
        if owner == held.for_:
            self._waiting[held.for_] = held.action_id, ms_of(held.moment) + WAITING_MS_MAX
        elif self._waiting.get(held.for_, ("", 0))[0] == held.action_id:
            del self._waiting[held.for_]

    def _answered(self, found: HumanDecision) -> None:
        waiting, _ = self._waiting.get(found.by, ("", 0))
        if waiting == found.action_id and found.verdict not in ASKS_NOBODY and found.effect in COUNTS:
            del self._waiting[found.by]

    def _source(self, found: HumanDecision, since_ms: int) -> Source | None:
        """Return what a canary might be made from; whether it is old enough, and for whom, is asked later."""
        judged = Judged(found.by, found.purpose or "", found.verdict, found.effect, ms_of(found.decided))
        raw = bytes(found.action)
        routed_ms = 0 if found.routed is None else ms_of(found.routed)
        if (
            judged.purpose != Purpose.DECIDE
            or routed_ms < since_ms
            or len(found.asked or "") + len(raw) > CANDIDATE_BYTES_MAX
        ):
            return None
        decided = asked_in(found.asked, raw)
        if isinstance(decided, Undecodable):
            return None
        held = decided.decision
        first = held.approvals[0].queue if held.approvals else None
        again = held.by is not None or held.supersedes is not None
        if first != found.queue or again or "ce_time" in held.ce or chosen(decided.decoded.action, 0) is None:
            return None
        made = self._id_of(found.hash)
        return None if made in self._used else Source(made, found.hash, held.agent.id, judged, found.asked or "", raw)

    def _shelve(self, queue: str, source: Source) -> None:
        if queue not in self._shelves and len(self._shelves) >= QUEUES_MAX:
            return
        self._shelves.setdefault(queue, _Shelf()).put(source)

    # --- what is drawn ------------------------------------------------------------------------------------------------

    def is_drawn(self, origin: str, rate: float) -> bool:
        """Say whether the judgement at a place brings a canary with it, of so many of which one does."""
        return int.from_bytes(self._digest("draw", origin)[:8]) < rate * 2.0**64

    def may_get(self, person: str, origin: str, at_ms: int) -> bool:
        """Say whether a person has no canary that is undecided, and none came from this place yet."""
        _, until_ms = self._waiting.get(person, ("", 0))
        return origin not in self._drawn and until_ms <= at_ms

    def canary(self, drawn: Drawn, policy: Policy, digest: str, epoch: int) -> Seeded | None:
        """Return a canary; None: there is nothing that it could be made from, or the policy wants none there.

        From the same approvals it is the same, to the byte.
        """
        queue = policy.queues.get(drawn.queue)
        if queue is None or queue.external:
            return None
        for source in self._ranked(drawn)[:TRIES_MAX]:
            decided = _read(source)
            held = decided.decision
            spec = policy.classes.get(held.type)
            if spec is None or not spec.canaries or drawn.person in owners_of(policy, held.agent.id):
                continue
            made = self._made(source, decided, drawn)
            if made is None or tier_of(replace(made.decoded.action, tenant=held.tenant), policy) > drawn.tier_max:
                continue
            return Seeded(replace(made.held, policy=digest, epoch=epoch), made.decoded)
        return None

    def _id_of(self, hash_: str) -> str:
        return MARK + base64.b32encode(self._digest("source", hash_)[:SOURCE_BYTES]).decode().lower()

    def _ranked(self, drawn: Drawn) -> list[Source]:
        """Return who may become a canary for a person, in the order of a keyed lot.

        Those of this partition come first, so that two workers seldom take the same; where they do, the log decides.
        """
        shelf = self._shelves.get(drawn.queue)
        found = [source for source in shelf or () if self._fits(source, drawn)]
        lots = [self._digest("lot", f"{drawn.origin}\0{source.hash}") for source in found]
        mine = [int(source.hash[:8], 16) % self._partitions == drawn.partition for source in found]
        order = sorted(range(len(found)), key=lambda n: (not mine[n], lots[n]))
        return [found[n] for n in order]

    def _fits(self, source: Source, drawn: Drawn) -> bool:
        seen: Collection[str] = self._seen.get(source.hash, ())
        known = 0 < len(seen) <= SEEN_BY_MAX
        old = may_become(source.judged, seen, drawn.person, drawn.at_ms, drawn.age_ms)
        return known and old

    def _made(self, source: Source, decided: Decided, drawn: Drawn) -> Seeded | None:
        held, action = decided.decision, decided.decoded.action
        way = chosen(action, int.from_bytes(self._digest("way", f"{drawn.origin}\0{source.hash}")[:8]))
        if way is None:
            return None
        mutation, edit = way
        later_ms = drawn.at_ms - ms_of(held.moment)
        try:
            raw = planted(source.raw, edit, source.id, _later(action.proposed_at.isoformat(), later_ms), held.ce)
        except ValueError:
            return None  # with what was added it would be too long
        decoded = decode_bytes(raw)
        if isinstance(decoded, Undecodable):
            return None
        trace = None if held.trace is None else self._digest("trace", drawn.origin)[:TRACE_BYTES].hex()
        return Seeded(
            replace(
                _moved(held, later_ms), id=f"{drawn.origin}#0", action_id=source.id, hash=decoded.hash, ce={},
                purpose=Purpose.CANARY.value, for_=drawn.person, planted=mutation.error, first=None, trace=trace,
                origin=drawn.origin, attempt=0, held=-1, parked=None,
            ),
            decoded,
        )  # fmt: skip

    def _digest(self, what: str, text: str) -> bytes:
        return hashlib.blake2b(
            f"{what}\0{text}".encode(), key=self._key, digest_size=20, person=b"hitl-canary"
        ).digest()


def second_of(decided: Decided, person: str, at_ms: int) -> Seeded | None:
    """Return the question by which what a person approved is judged again by another; None: it was no such question."""
    held = decided.decision
    if held.purpose not in (Purpose.DECIDE, Purpose.AUDIT, Purpose.SECOND):
        return None
    again = replace(
        _moved(held, at_ms - ms_of(held.moment)), purpose=Purpose.SECOND.value, for_=None, planted=None, parked=None,
        first=First(person, "approve"),
    )  # fmt: skip
    return Seeded(again, decided.decoded)


# --- small things -----------------------------------------------------------------------------------------------------


class _Shelf:
    """What one queue's canaries are made from: by hour and agent, so that neither a burst nor one agent fills it."""

    def __init__(self) -> None:
        self._hours: dict[int, dict[str, list[Source]]] = {}
        self._counts: Counter[int] = Counter()

    def __iter__(self) -> Iterator[Source]:
        return (source for agents in self._hours.values() for sources in agents.values() for source in sources)

    def put(self, source: Source) -> None:
        """Take one in; where there are too many, the fullest hour gives one of its most frequent agent."""
        hour = source.judged.decided_ms // HOUR_MS
        there = self._hours.setdefault(hour, {}).setdefault(source.agent, [])
        if any(other.id == source.id for other in there):
            return
        there.append(source)
        self._counts[hour] += 1
        for old in [one for one in self._hours if one < max(self._hours) - HORIZON_MS // HOUR_MS]:
            del self._hours[old], self._counts[old]
        if self._counts.total() > CANDIDATES_MAX:
            self._drop()

    def take_out(self, made: str) -> None:
        """Take out what has become a canary of that id."""
        for hour, agents in self._hours.items():
            for agent, sources in agents.items():
                for source in sources:
                    if source.id == made:
                        self._remove(hour, agent, source)
                        return

    def _drop(self) -> None:
        hour = max(self._hours, key=lambda one: (self._counts[one], -one))
        agents = self._hours[hour]
        agent = max(agents, key=lambda one: (len(agents[one]), one))
        self._remove(hour, agent, max(agents[agent], key=lambda one: one.id))

    def _remove(self, hour: int, agent: str, source: Source) -> None:
        agents = self._hours[hour]
        agents[agent].remove(source)
        self._counts[hour] -= 1
        if not agents[agent]:
            del agents[agent]
        if not agents:
            del self._hours[hour], self._counts[hour]


def _read(source: Source) -> Decided:
    """Read a source again; that it can be read was seen before."""
    found = asked_in(source.asked, source.raw)
    assert isinstance(found, Decided)
    return found


def _moved(held: Held, by_ms: int) -> Held:
    """Return a decision with all its times later by that."""
    approvals = tuple(ApprovalRow(row.queue, row.people, _later(row.decide_by, by_ms)) for row in held.approvals)
    until = None if held.execute_by is None else _later(held.execute_by, by_ms)
    return replace(held, moment=_later(held.moment, by_ms), approvals=approvals, execute_by=until)


def _later(text: str, by_ms: int) -> str:
    return time_text(ms_of(text) + by_ms)


def _put(there: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """Put it in as the newest; the oldest one goes where there are too many."""
    there[key] = value
    there.move_to_end(key)
    if len(there) > most:
        there.popitem(last=False)
