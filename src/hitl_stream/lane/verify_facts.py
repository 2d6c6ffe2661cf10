"""What each record says, for the ledger behind `hitl verify`: whose it is, what it is about, what it claims.

A record counts as its role's only if its seal says so, or if that role's keys are not here: what is forged is found and
otherwise as if it were not there. Nothing raises on any bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.action import Action, Agent, Entity, Time, Value
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.ledger import Book, Called, Ledger, Place, Ran
from hitl_stream.core.obeyed import COMMIT_MS_MAX, Obeyed, Recorded
from hitl_stream.core.parking import keys_of
from hitl_stream.core.standing import Copy, Invariant, Where
from hitl_stream.core.switches import target_of
from hitl_stream.lane.step import Record
from hitl_stream.lane.verify_people import DESK, VERDICTS, Asked, People
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.records import (
    ACTION_MARK,
    CLOSED,
    DECISION,
    ERROR_HEADER,
    RESULT,
    SOURCE_HEADER,
    VIA_HEADER,
    Parked,
    Routed,
    decode_via,
    head_of,
    header,
)
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.whose import Seals

DECISIONS: Mapping[str, Where] = {
    "execute": Where.EXECUTE,
    "review": Where.REVIEW,
    "escalation": Where.ESCALATION,
    "recommendations": Where.RECOMMENDED,
    "held": Where.HELD,
}
ANSWERS = (*DECISIONS, "closed", "dlq")
RESULTS = "results"
CANDIDATES_MAX = 200_000
"""Execute records of which the time of the commit is looked up; about 250 bytes each."""

Batch: TypeAlias = Callable[[str, int, Sequence[Record]], None]
_REFUSED = {"late": Where.LATE, "duplicate": Where.DUPLICATE, "conflict": Where.CONFLICT, "identity": Where.IDENTITY,
            "policy": Where.POLICY, "unsealed": Where.UNSEALED}  # fmt: skip
_ENDS = {"rejected": Where.REJECTED, "expired": Where.EXPIRED, "stale": Where.STALE, "superseded": Where.SUPERSEDED}
_STATUS = {"executed": Where.EXECUTED, "failed": Where.FAILED, "unresolved": Where.UNRESOLVED}
PEOPLE_END = frozenset(_ENDS.values())
"""How the desk closes actions."""
_EXPIRED_AT_ROUTER = frozenset({"admission.expired", "held.expired"})
_FORGED_RULE = "identity.seal"
_EXECUTORS = "executor."
"""What the rules of an executor's ends begin with."""
_NOT_OURS = frozenset({b"seal", b"unknown_type"})
_ORIGIN = re.compile(r"(.{1,249}/[0-9]{1,10})/([0-9]{1,19})#([0-9]{1,9})", re.DOTALL)
_PLACE = re.compile(r"((.{1,249})/[0-9]{1,10})/([0-9]{1,19})", re.DOTALL)


class _Rule(Struct):
    rule: str = ""


class _Head(Struct):
    """What is looked at of a record between roles."""

    id: str
    tenant: str
    action_id: str
    hash: str
    entity: Entity = Entity()
    agent: Agent | None = None
    outcome: str = ""
    purpose: str = "decide"
    policy: str = ""
    epoch: int = -1
    execute_by: Time | None = None
    moment: str = ""
    ce: dict[str, str] = {}
    action: Raw = msgspec.field(default_factory=Raw)


class _Decision(_Head):
    parked: Parked | None = None
    routed: Routed | None = None


class _Closed(_Head):
    end: str = ""
    why: str = ""
    reasons: tuple[_Rule, ...] = ()


class _Result(_Head):
    status: str = ""
    by: tuple[str, ...] = ()
    present: dict[str, Value | None] = {}
    called: Time | None = None


_H = TypeVar("_H", bound=_Head)
_decisions = msgspec.json.Decoder(_Decision)
_closed = msgspec.json.Decoder(_Closed)
_results = msgspec.json.Decoder(_Result)


class Origin(NamedTuple):
    """Where an action stands at home (`topic/partition`, offset), and of which attempt a record speaks."""

    place: str
    offset: int
    attempt: int


class _Found(NamedTuple):
    """A record that could be read: its book (None: of a topic that is no input), what it says, and what is sealed."""

    book: Book | None
    origin: Origin
    head: bytes


class Candidate(NamedTuple):
    """An execute record of which the time of its commit counts: for its deadline, and for switches (epochs)."""

    at: Place
    append_ms: int
    execute_by_ms: int | None
    waits: tuple[int, ...]


@dataclass(frozen=True)
class Against:
    """What records are compared with. `owed` is an executor's committed offset on `execute`, by partition."""

    seals: Seals
    deep: bool = False
    owed: Mapping[int, int] = field(default_factory=dict)
    obeyed: Obeyed | None = None
    recorded: Recorded | None = None
    epoch: int = -1
    """What `control` was folded to."""


class Facts:
    """Reads records of an installation's topics and tells the ledger; `inputs` are the Kafka names of action topics."""

    def __init__(
        self,
        topics: TopicSet,
        inputs: Sequence[str],
        ledger: Ledger,
        against: Against,
        people: People | None = None,
    ) -> None:
        self.ledger = ledger
        self.against = against
        self.people = people
        self.unchecked: Counter[str] = Counter()
        """Records by role that may have written them, of which there is no key here."""
        self.candidates: dict[int, list[Candidate]] = {}
        """By partition of `execute`, in its order."""
        self.left_out = 0
        """Execute records beyond `CANDIDATES_MAX`."""
        self._count = 0
        self._execute, self._held, self._verdicts = (topics.name(name) for name in ("execute", "held", VERDICTS))
        self._takers: dict[str, Batch] = dict.fromkeys(inputs, self._inputs)
        for name, where in DECISIONS.items():
            self._takers[topics.name(name)] = self._each(self._decision_taker(where))
        self._takers[topics.name("closed")] = self._each(self._take_closed)
        self._takers[topics.name(RESULTS)] = self._each(self._take_result)
        self._takers[topics.name("dlq")] = self._each(self._take_dead)
        for name, take in ({} if people is None else people.takers(self._sealed)).items():
            self._takers[topics.name(name)] = self._each(take)

    def take(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Take in the next records of one partition."""
        self._takers[topic](topic, partition, records)

    def _each(self, take: Callable[[Record, Place], None]) -> Batch:
        def taken(topic: str, partition: int, records: Sequence[Record]) -> None:
            for record in records:
                take(record, (topic, partition, record.offset))

        return taken

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _inputs(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        book = self.ledger.books[f"{topic}/{partition}"]
        for record in records:
            if record.offset >= book.start:
                book.input(record.offset, record.timestamp)
            if record.headers and (via := header(record.headers, VIA_HEADER)) is not None:
                self._came(book, record, via, (topic, partition, record.offset))

    def _came(self, target: Book, record: Record, via: bytes, at: Place) -> None:
        """Take in what says how it came here: moved from its place, or written by a person in another's place."""
        try:
            read = decode_via(via)
        except (ValueError, RecursionError):
            return  # a publisher's invention; the router refuses it
        place = _PLACE.fullmatch(read.from_)
        if read.role == DESK and self.people is not None:
            self.people.proposed(record, via, at)
        if read.role != "router" or place is None:
            return
        source = self.ledger.books.get(place[1])
        if source is None:
            self.ledger.foreign += 1
        else:
            self.ledger.moved(source, int(place[3]), target, record.offset)

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _decision_taker(self, where: Where) -> Callable[[Record, Place], None]:
        def take(record: Record, at: Place) -> None:
            head = self._read(_decisions, record, at, "a decision", with_action=True)
            found = self._found(head, record, at)
            if head is None or found is None:
                return
            if head.purpose == "exception":
                if self._sealed(record, at, DECISION, found.head, ("executor",)):
                    self.ledger.later += 1
            elif where is Where.HELD:
                self._take_copy(head, found, record, at)
            elif where is Where.EXECUTE:
                self._take_execute(head, found, record, at)
            elif self._sealed(record, at, DECISION, found.head, ("router",)) and found.book is not None:
                self.ledger.answered(found.book, found.origin.offset, where, at, found.origin.attempt)

        return take

    def _take_copy(self, head: _Decision, found: _Found, record: Record, at: Place) -> None:
        by = head.parked.by if head.parked is not None else "router"
        roles = ("router",) if by == "router" else (by, "router")
        role = self._sealed(record, at, DECISION, found.head, roles)
        if self.people is not None and by == DESK and role in (DESK, UNKNOWN):
            self.people.parked(_asked(head), at, sure=role == DESK)
        if role and found.book is not None:
            again = True if by == "router" else None if role == UNKNOWN else role == "router"
            copy = Copy(record.offset, found.origin.attempt, by, again)
            self.ledger.parked(found.book, found.origin.offset, copy, at)

    def _take_execute(self, head: _Decision, found: _Found, record: Record, at: Place) -> None:
        machine = head.routed is None
        if not self._sealed(record, at, DECISION, found.head, ("router",) if machine else ("desk",)):
            return
        decoded = decode_bytes(bytes(head.action), head.ce)
        if isinstance(decoded, Undecodable):
            self.ledger.passed("form", f"an execute record whose action cannot be read: {decoded.why}", at)
            return
        faults = list(self._invalid(head))
        for fault in faults:
            self.ledger.violated("I3", fault, at)
        if self.people is not None and head.routed is not None:
            self.people.approved(record.value or b"", head.routed.head.encode(), at, sound=not faults)
        book, origin, action = found.book, found.origin, decoded.action
        if book is None:
            return
        if machine:
            self.ledger.answered(book, origin.offset, Where.EXECUTE, at, origin.attempt)
        ran = Ran(
            identity=_identity(head),
            hash=head.hash,
            keys=keys_of(action, head.tenant, head.entity),
            machine=machine,
            append_ms=record.timestamp,
            execute_by_ms=_ms(head.execute_by),
            owed=record.offset < self.against.owed.get(record.partition, 0),
        )
        self.ledger.ran(book, origin.offset, origin.attempt, ran, at)
        self._compare(head, action, machine, ran, at)

    def _invalid(self, head: _Decision) -> Iterator[str]:
        """Say what of a decision does not let it run (I3)."""
        if head.outcome != "EXECUTE" or head.purpose != "decide":
            yield f"on execute with outcome {head.outcome:.20} and purpose {head.purpose:.20}"
        recorded = self.against.recorded
        if recorded is not None and head.epoch <= self.against.epoch:
            fault = recorded.fault(head.policy, head.epoch)
            if fault is not None:
                yield fault
        if head.routed is not None:
            yield from self._not_what_was_sent(head, head.routed)

    def _not_what_was_sent(self, head: _Decision, routed: Routed) -> Iterator[str]:
        """Compare what was approved with the router's record that stands in it."""
        headers = [(TYPE_HEADER, DECISION.encode()), (SEAL_HEADER, routed.seal.encode())]
        whose = self.against.seals.whose(routed.topic, DECISION, headers, routed.head.encode(), ("router",))
        if whose.fault is not None:
            yield f"approved, and what was sent to people is not the router's: {whose.fault}"
            return
        sent = _decoded(_decisions, routed.head.encode() + b"}")
        if sent is None or (sent.id, sent.hash) != (head.id, head.hash):
            yield "approved, and what was sent to people is another action"

    def _compare(self, head: _Decision, action: Action, machine: bool, ran: Ran, at: Place) -> None:
        """Compare an execute record with the switches, now or when the time of its commit is known."""
        obeyed = self.against.obeyed
        waits: tuple[int, ...] = ()
        if obeyed is not None:
            target = target_of(action, head.tenant, head.entity)
            fault, waits = obeyed.decided(head.epoch, target, action, machine, ran.append_ms)
            self.ledger.passed("I4", fault, at)
        soon = ran.execute_by_ms is not None and 0 < ran.execute_by_ms - ran.append_ms <= COMMIT_MS_MAX
        if not waits and not soon:
            return
        if self._count >= CANDIDATES_MAX:
            self.left_out += 1
            return
        self._count += 1
        candidate = Candidate(at, ran.append_ms, ran.execute_by_ms if soon else None, waits)
        self.candidates.setdefault(at[1], []).append(candidate)

    def committed(self, candidate: Candidate, commit_ms: int) -> None:
        """Say when a candidate's transaction was committed."""
        late = -1 if candidate.execute_by_ms is None else commit_ms - candidate.execute_by_ms
        if late >= 0:
            self.ledger.violated("I3", f"was committed {late} ms after its time was over", candidate.at)
        obeyed = self.against.obeyed
        fault = obeyed.committed(candidate.waits, commit_ms) if obeyed is not None and candidate.waits else None
        if fault is not None:
            self.ledger.violated("I4", fault, candidate.at)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _take_closed(self, record: Record, at: Place) -> None:
        head = self._read(_closed, record, at, "an end")
        found = self._found(head, record, at)
        if head is None or found is None:
            return
        where = _REFUSED.get(head.why) if head.end == "refused" else _ENDS.get(head.end)
        if where is None:
            self.ledger.passed("form", f"an end that there is not: {head.end:.20} {head.why:.20}", at)
            return
        roles = _closers(head)
        role = self._sealed(record, at, CLOSED, found.head, roles)
        by_desk = role == DESK or (role == UNKNOWN and roles[0] == DESK and where in PEOPLE_END)
        if self.people is not None and by_desk:
            self.people.closed(_asked(head), where, at)
        if not role or found.book is None:
            return
        origin = found.origin
        if role == "router" or (role == UNKNOWN and roles[0] == "router"):
            forged = where is Where.IDENTITY and any(one.rule == _FORGED_RULE for one in head.reasons)
            self.ledger.answered(found.book, origin.offset, where, at, origin.attempt, forged=forged)
        else:
            self.ledger.ended(found.book, origin.offset, origin.attempt, where, at)

    def _take_result(self, record: Record, at: Place) -> None:
        head = self._read(_results, record, at, "a result", with_action=True)
        found = self._found(head, record, at)
        if head is None or found is None:
            return
        status = _STATUS.get(head.status)
        decoded = decode_bytes(bytes(head.action), head.ce)
        if status is None or isinstance(decoded, Undecodable):
            self.ledger.passed(
                "form", f"a result without a status or an action that can be read: {head.status:.20}", at
            )
            return
        if not self._sealed(record, at, RESULT, found.head, ("executor",)) or found.book is None:
            return
        action, called_ms = decoded.action, _ms(head.called)
        called = Called(
            status=status,
            identity=_identity(head),
            hash=head.hash,
            keys=keys_of(action, head.tenant, head.entity),
            machine=not head.by,
            called_ms=called_ms,
            execute_by_ms=_ms(head.execute_by),
        )
        self.ledger.resulted(found.book, found.origin.offset, found.origin.attempt, called, at)
        obeyed = self.against.obeyed
        if obeyed is not None and called_ms is not None:
            target = target_of(action, head.tenant, head.entity)
            present = [head.present.get(f"/changes/{n}") for n in range(len(action.changes))] if head.present else None
            fault = obeyed.called(head.epoch, target, action, called.machine, called_ms, present)
            self.ledger.passed("I4", fault, at)

    def _take_dead(self, record: Record, at: Place) -> None:
        """Take in a dead letter: the router's answer to an input, or the end of what lay on `held` or `execute`."""
        source = header(record.headers, SOURCE_HEADER)
        place = None if source is None else _PLACE.fullmatch(source.decode("utf-8", "replace"))
        if place is None:
            self.ledger.passed("form", f"a dead letter without {SOURCE_HEADER}", at)
            return
        self.ledger.passed("form", None, at)
        book = self.ledger.books.get(place[1])
        if book is not None:
            self.ledger.answered(book, int(place[3]), Where.DEAD, at)
            return
        self.ledger.later += 1
        if place[2] == self._verdicts and self.people is not None:
            self.people.dead(at=(int(place[1].rpartition("/")[2]), int(place[3])))
        if place[2] in (self._held, self._execute):
            self._bury(record, place[2], at)

    def _bury(self, record: Record, topic: str, at: Place) -> None:
        """End what one of our own roles could not read, if it was one of ours who wrote it."""
        head = _decoded(_decisions, record.value or b"")
        origin = None if head is None else _origin_of(head.id)
        book = None if origin is None else self.ledger.books.get(origin.place)
        if head is None or origin is None or book is None:
            return
        roles = ("router", "desk") if topic == self._execute else ("router", "desk", "executor")
        sealed = head_of(record.value or b"")
        whose = self.against.seals.whose(topic, DECISION, record.headers, sealed, roles)
        if whose.role is None and (whose.fault is not None or header(record.headers, ERROR_HEADER) in _NOT_OURS):
            return
        if topic == self._held:
            self.ledger.answered(book, origin.offset, Where.DEAD, at, origin.attempt)
        else:
            self.ledger.ended(book, origin.offset, origin.attempt, Where.DEAD, at)

    # --- what all have in common --------------------------------------------------------------------------------------

    def _read(
        self, decoder: msgspec.json.Decoder[_H], record: Record, at: Place, what: str, *, with_action: bool = False
    ) -> _H | None:
        value = record.value or b""
        head = _decoded(decoder, value)
        fault = f"not {what}" if head is None or (with_action and not bytes(head.action)) else None
        self.ledger.passed("form", fault, at)
        return head if fault is None else None

    def _found(self, head: _Head | None, record: Record, at: Place) -> _Found | None:
        """Return where a record belongs; None for one that belongs nowhere, which is found to be no good form."""
        if head is None:
            return None
        value = record.value or b""
        origin = _origin_of(head.id)
        cut = value.find(ACTION_MARK)
        raw = bytes(head.action)
        if origin is None or not _is_hash(head.hash) or (raw and value[cut + len(ACTION_MARK) : -1] != raw):
            self.ledger.violated("form", "no id, no hash, or the action is not the last member", at)
            return None
        if origin.place.rpartition("/")[2] != str(record.partition):
            # Its seal fits in every partition; whoever reads it there must not believe it.
            self.ledger.violated("form", f"about {origin.place}, whose records stand in the same partition", at)
            return None
        if self.against.deep and raw:
            self.ledger.passed("hash", _hash_fault(head, raw), at)
        book = self.ledger.books.get(origin.place)
        if book is None:
            self.ledger.foreign += 1
        return _Found(book, origin, value if cut < 0 else value[:cut])

    def _sealed(self, record: Record, at: Place, kind: str, head: bytes, roles: Sequence[str]) -> str:
        """Return who sealed a record, `UNKNOWN` where that cannot be checked, nothing where it is forged."""
        role, fault = self.against.seals.whose(at[0], kind, record.headers, head, roles)
        if role is None and fault is None:
            self.unchecked[roles[0]] += 1
            return UNKNOWN
        self.ledger.passed("seal", fault, at)
        return role or ""


UNKNOWN = "unknown"


def checks(against: Against) -> tuple[Invariant, ...]:
    """Return which invariants of single records are looked at."""
    found: list[Invariant] = ["form"]
    if against.seals.keys:
        found.append("seal")
    if against.deep:
        found.append("hash")
    return tuple(found)


def _decoded(decoder: msgspec.json.Decoder[_H], value: bytes) -> _H | None:
    try:
        return decoder.decode(value)
    except (ValueError, RecursionError):
        return None


def _origin_of(text: str) -> Origin | None:
    """Read a decision id.

    >>> _origin_of("hitl.actions/3/88121#0")
    Origin(place='hitl.actions/3', offset=88121, attempt=0)
    """
    found = _ORIGIN.fullmatch(text)
    return None if found is None else Origin(found[1], int(found[2]), int(found[3]))


def _closers(head: _Closed) -> tuple[str, ...]:
    """Return which roles may have written an end, by what it says; the most likely one first."""
    rules = [one.rule for one in head.reasons]
    if any(rule.startswith(_EXECUTORS) for rule in rules):
        return ("executor",)
    if head.end == "refused" and head.why != "unsealed":
        return ("router", "desk")
    if head.end == "expired" and head.why == "execute_by" and not _EXPIRED_AT_ROUTER.isdisjoint(rules):
        return ("router",)
    return ("desk", "executor")


def _asked(head: _Head) -> Asked:
    """Return what names the decision that people were asked about."""
    return head.tenant, head.action_id, head.hash, head.moment


def _identity(head: _Head) -> bytes:
    return msgspec.json.encode((head.tenant, head.action_id))


def _is_hash(text: str) -> bool:
    return len(text) == 64 and not text.strip("0123456789abcdef")


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else milliseconds(moment)


def _hash_fault(head: _Head, raw: bytes) -> str | None:
    """Compute an action's hash again; return what is wrong, if anything is."""
    digest = hashlib.sha256(raw)
    for name, text in sorted(head.ce.items()):
        digest.update(b"\0" + name.encode() + b"\0" + text.encode())
    found = digest.hexdigest()
    return None if found == head.hash else f"the head says {head.hash}, the action behind it has {found}"
