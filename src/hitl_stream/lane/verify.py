"""`hitl verify`: reads an installation's topics from outside and lets the ledger judge them.

The order of reading makes a live log judgeable:
1. the group's committed offsets, once no transaction can change them;
2. the ends of the answers, as *high* watermarks, so that whatever was committed by 1 is read (a commit shows in the
   offsets before its markers stand in every output);
3. the ends of the inputs, later than those of the answers, so that an answer's input is read;
4. everything up to those ends;
5. the committed offsets again, and where the logs begin by now.
Nothing is written, and no group is joined.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeAlias

import orjson
from aiokafka import TopicPartition

from hitl_stream.core.errors import UsageError
from hitl_stream.core.ledger import Answer, Book, Invariant, Ledger, Report
from hitl_stream.lane.admin import Client, retentions
from hitl_stream.lane.reader import Span, Spans, committed, read, spans
from hitl_stream.lane.step import Record
from hitl_stream.wire.records import (
    ACTION_MARK,
    CLOSED,
    DECISION,
    SOURCE_HEADER,
    VIA_HEADER,
    decode_via,
    header,
)
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet

SKEW_MS = 600_000
"""Brokers' clocks may differ by so much: answers are read from this long before the inputs."""
RETENTION_SLACK_MS = 3_600_000
"""What may be deleted at any moment is not judged."""
ID_BYTES_MAX = 300
"""A topic's name has at most 249, then partition, offset and attempt."""

DECISIONS: Mapping[str, Answer] = {
    "execute": Answer.EXECUTE,
    "review": Answer.REVIEW,
    "escalation": Answer.ESCALATION,
    "recommendations": Answer.RECOMMENDED,
    "held": Answer.HELD,
}
ANSWERS = (*DECISIONS, "closed", "dlq")
_LATER: Mapping[str, bytes] = {
    "execute": b'"routed":{',  # approved by a person: the desk's, around the router's
    "held": b'"parked":{',  # parked, or sent back, by the executor
    "escalation": b'"purpose":"exception"',  # the executor's question to people
}
_REFUSED: Mapping[bytes, Answer] = {
    b"late": Answer.LATE,
    b"duplicate": Answer.DUPLICATE,
    b"conflict": Answer.CONFLICT,
    b"identity": Answer.IDENTITY,
    b"policy": Answer.POLICY,
}
_AT_ADMISSION = b'"rule":"admission.expired"'
_FORGED = b'"rule":"identity.seal"'

Place: TypeAlias = tuple[str, int, int]
Batch: TypeAlias = Callable[[str, int, Sequence[Record]], None]


@dataclass(frozen=True)
class Verifying:
    """What to verify: one installation's topics, judged by its router's group.

    `inputs` are the Kafka names of the action topics. `keys` are the router's seal keys (None: seals are not checked).
    `deep` also computes each action's hash again. `window_ms` is how long an id is surely remembered.
    """

    client: Client
    topics: TopicSet
    group: str
    inputs: tuple[str, ...]
    keys: Mapping[str, SealKey] | None = None
    deep: bool = False
    since_ms: int | None = None
    window_ms: int | None = None


async def verify(what: Verifying) -> Report:
    """Read everything and judge it.

    Raises `UsageError` where there is no action topic, `UnreachableError` when Kafka does not answer.
    """
    client, topics = what.client, what.topics
    parts = [*await spans(client, what.inputs)]
    if not parts:
        raise UsageError(f"none of {', '.join(what.inputs)} exists here; is the prefix right (--prefix)?")
    first = await committed(client, what.group, parts)
    before = None if what.since_ms is None else what.since_ms - SKEW_MS
    answers = await spans(client, [topics.name(name) for name in ANSWERS], since_ms=before, high=True)
    inputs = await spans(client, what.inputs, since_ms=what.since_ms, high=True)
    wanted = {**await _moves(client, inputs, before), **answers}
    reading = _Reading(what, Ledger(window_ms=what.window_ms), inputs)
    oldest = await _read(client, wanted, reading)
    last = await committed(client, what.group, parts)
    notes = list(reading.notes())
    if all(offset is None for offset in first.values()) and any(span.end > span.start for span in inputs.values()):
        notes.append(f"the group {what.group} has never committed; is it the router's (--group)?")
    return reading.ledger.close(
        {_place(tp): first.get(tp) or 0 for tp in inputs},
        {_place(tp): last.get(tp) or 0 for tp in inputs},
        judged=await _judged(client, inputs, wanted, oldest),
        checks=reading.checks,
        notes=notes,
    )


async def _moves(client: Client, inputs: Spans, before_ms: int | None) -> Spans:
    """Return the inputs from a little earlier on: by another broker's clock, a move may be older than its source."""
    if before_ms is None:
        return inputs
    earlier = await spans(client, {tp.topic for tp in inputs}, since_ms=before_ms)
    return {tp: Span(at.first, min(at.start, earlier[tp].start), at.end) for tp, at in inputs.items()}


async def _read(client: Client, wanted: Spans, reading: _Reading) -> dict[TopicPartition, int]:
    """Read it all; return the append time of each partition's first record."""
    oldest: dict[TopicPartition, int] = {}
    async with aclosing(read(client, wanted)) as batches:
        async for topic, partition, records in batches:
            oldest.setdefault(TopicPartition(topic, partition), records[0].timestamp)
            reading.take(topic, partition, records)
    return oldest


async def _judged(client: Client, inputs: Spans, wanted: Spans, oldest: Mapping[TopicPartition, int]) -> dict[str, int]:
    """Return from which input offset on nothing can have been deleted, for each input partition.

    A log that begins above 0 has lost records: those older than its retention, or where no time bounds it, all before
    its first. What somebody deleted by hand before its time counts as lost. Moves are answers too, in any partition.
    """
    topics = {tp.topic for tp in wanted}
    begins = {tp: span.first for tp, span in (await spans(client, topics)).items()}
    cut = [tp for tp, span in wanted.items() if 0 < begins.get(tp, 0) >= span.start]
    kept = await retentions(client, {tp.topic for tp in cut}) if cut else {}
    now = int(time.time() * 1000)
    horizons: dict[int, int] = {}
    for tp in cut:
        age = kept.get(tp.topic)
        horizon = min(now if age is None else now - age + RETENTION_SLACK_MS, oldest.get(tp, now))
        for number in {one.partition for one in inputs} if tp in inputs else (tp.partition,):
            horizons[number] = max(horizons.get(number, 0), horizon)
    judged = {_place(tp): max(span.start, begins.get(tp, 0)) for tp, span in inputs.items()}
    for number, horizon in horizons.items():
        for tp, at in (await spans(client, {tp.topic for tp in inputs}, since_ms=horizon, partition=number)).items():
            judged[_place(tp)] = max(judged.get(_place(tp), 0), at.start)
    return judged


def _place(tp: TopicPartition) -> str:
    return f"{tp.topic}/{tp.partition}"


class _Reading:
    """Turns records into facts for the ledger."""

    def __init__(self, what: Verifying, ledger: Ledger, inputs: Spans) -> None:
        self.what = what
        self.ledger = ledger
        self.books: dict[bytes, Book] = {}
        self.checks: tuple[Invariant, ...] = ("form",)
        for tp, span in inputs.items():
            self.books[_place(tp).encode()] = ledger.open(_place(tp), span.start, span.end)
        if what.keys is not None:
            self.checks += ("seal",)
        if what.deep:
            self.checks += ("hash",)
        self._takers: dict[str, Batch] = dict.fromkeys(what.inputs, self._inputs)
        for name, answer in DECISIONS.items():
            topic = what.topics.name(name)
            self._takers[topic] = self._decisions(answer, _LATER.get(name), self._seal_check(topic, DECISION))
        closed = what.topics.name("closed")
        self._takers[closed] = self._closed(self._seal_check(closed, CLOSED))
        self._takers[what.topics.name("dlq")] = self._dead

    def take(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Take in the next records of one partition."""
        self._takers[topic](topic, partition, records)

    def notes(self) -> Iterable[str]:
        """Say what was not looked at."""
        if self.what.keys is None:
            yield "seals were not checked: no seal keys of the router here (keys_dir)"
        if self.what.window_ms is None:
            yield "ids claimed by other bytes (I2) were not checked: no policy says how long ids are remembered"

    def _inputs(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        book = self.books[f"{topic}/{partition}".encode()]
        for record in records:
            if record.offset >= book.start:
                book.input(record.offset, record.timestamp)
            if record.headers and (via := header(record.headers, VIA_HEADER)) is not None:
                self._moved(book, record.offset, via)

    def _moved(self, target: Book, at: int, via: bytes) -> None:
        try:
            read_ = decode_via(via)
        except ValueError:
            return  # a publisher's invention; the router refuses it
        place = _split(read_.from_.encode())
        if read_.role != "router" or place is None:
            return
        source = self.books.get(place[0])
        if source is None:
            self.ledger.foreign += 1
        else:
            self.ledger.moved(source, place[1], target, at)

    def _decisions(self, answer: Answer, later: bytes | None, check: Check) -> Batch:
        ledger, deep = self.ledger, self.what.deep
        execute = answer is Answer.EXECUTE

        def take(topic: str, partition: int, records: Sequence[Record]) -> None:
            for record in records:
                at = (topic, partition, record.offset)
                value = record.value or b""
                cut = value.find(ACTION_MARK)
                origin = _origin(value)
                if cut < 0 or origin is None:
                    ledger.passed("form", "not a decision", at)
                    continue
                ledger.passed("form", None, at)
                if deep:
                    ledger.passed("hash", _hash_fault(value, cut), at)
                book = self.books.get(origin[0])
                if book is None:
                    ledger.foreign += 1
                    continue
                by_router = later is None or value.find(later, 0, cut) < 0
                if not by_router:
                    ledger.later += 1
                else:
                    check(record, value[:cut], at)
                    if origin[2] == 0:
                        ledger.answered(book, origin[1], answer, at)
                if execute:
                    who = _who(value)
                    if who is None:
                        ledger.passed("form", "an execute record without tenant, action_id and hash", at)
                    elif by_router:
                        ledger.executed(book, origin[1], origin[2], _account(record.key), *who, at)
                    else:
                        ledger.ran(book, origin[1], origin[2], *who, at)

        return take

    def _closed(self, check: Check) -> Batch:
        ledger, deep = self.ledger, self.what.deep

        def take(topic: str, partition: int, records: Sequence[Record]) -> None:
            for record in records:
                at = (topic, partition, record.offset)
                value = record.value or b""
                cut = value.find(ACTION_MARK)
                head = value if cut < 0 else value[:cut]
                origin = _origin(value)
                if origin is None:
                    ledger.passed("form", "not an end", at)
                    continue
                ledger.passed("form", None, at)
                if deep and cut >= 0:
                    ledger.passed("hash", _hash_fault(value, cut), at)
                book = self.books.get(origin[0])
                answer = _end(head)
                if book is None:
                    ledger.foreign += 1
                elif answer is None:
                    ledger.later += 1
                else:
                    check(record, head, at)
                    forged = answer is Answer.IDENTITY and _FORGED in head
                    ledger.answered(book, origin[1], answer, at, forged)

        return take

    def _dead(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        ledger = self.ledger
        for record in records:
            at = (topic, partition, record.offset)
            source = header(record.headers, SOURCE_HEADER)
            place = None if source is None else _split(source)
            if place is None:
                ledger.passed("form", f"a dead letter without {SOURCE_HEADER}", at)
                continue
            ledger.passed("form", None, at)
            book = self.books.get(place[0])
            if book is None:
                ledger.later += 1  # of another role's input
            else:
                ledger.answered(book, place[1], Answer.DEAD, at)

    def _seal_check(self, topic: str, kind: str) -> Check:
        """Return a check of one topic's seals; the sealers are made once."""
        keys, ledger = self.what.keys, self.ledger
        if keys is None:
            return _unchecked
        sealers = {key_id.encode(): sealer(key, topic, kind) for key_id, key in keys.items()}

        def check(record: Record, head: bytes, at: Place) -> None:
            found = dict(record.headers)
            seal = found.get(SEAL_HEADER) or b""
            if found.get(TYPE_HEADER) != kind.encode():
                ledger.passed("seal", f"{TYPE_HEADER} is not {kind}", at)
                return
            seal_of = sealers.get(seal.partition(b":")[0])
            if seal_of is None:
                ledger.passed("seal", "no seal" if not seal else "sealed under a key id that is not here", at)
            else:
                ledger.passed("seal", None if seal_of(head) == seal else "the seal does not fit", at)

        return check


Check: TypeAlias = Callable[[Record, bytes, Place], None]


def _unchecked(_record: Record, _head: bytes, _at: Place) -> None:
    """Check nothing: there are no keys."""


# --- reading heads without decoding them: a head is written by a template, its fields stand in a fixed order ----------

_ID = b'{"id":"'


def _origin(value: bytes) -> tuple[bytes, int, int] | None:
    """Return (topic/partition, offset, attempt) of a head's id.

    >>> _origin(b'{"id":"hitl.actions/3/88121#0","origin":"hitl.actions/3/88121"}')
    (b'hitl.actions/3', 88121, 0)
    """
    if not value.startswith(_ID):
        return None
    end = value.find(b'"', len(_ID), len(_ID) + ID_BYTES_MAX)
    place, _, attempt = value[len(_ID) : end].partition(b"#")
    found = _split(place) if end > 0 else None
    return (*found, int(attempt)) if found is not None and attempt.isdigit() else None


def _split(place: bytes) -> tuple[bytes, int] | None:
    """Return (topic/partition, offset) of a place.

    >>> _split(b"hitl.actions/3/88121")
    (b'hitl.actions/3', 88121)
    """
    partition, _, offset = place.rpartition(b"/")
    return (partition, int(offset)) if offset.isdigit() and len(offset) < 20 else None


def _who(value: bytes) -> tuple[bytes, str] | None:
    r"""Return (tenant and action id as they stand in the head, hash); a quote inside a text is escaped there.

    >>> _who(b'{"id":"a/0/1#0","attempt":0,"tenant":"acme","action_id":"7","hash":"' + b"9f" * 32 + b'","ce":{}')
    (b'"tenant":"acme","action_id":"7"', '9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f9f')
    """
    start = value.find(b'"tenant":"')
    end = value.find(b',"hash":"', start)
    digest = value[end + 9 : end + 73]
    if start < 0 or end < 0 or len(digest) != 64:
        return None
    try:
        bytes.fromhex(digest.decode("ascii"))
    except ValueError:
        return None
    return value[start:end], digest.decode("ascii")


def _account(key: bytes | None) -> bytes:
    """Return the account's part of `tenant/account[/campaign]`: order is kept for an account as a whole."""
    parts = (key or b"").split(b"/", 2)
    return b"/".join(parts[:2])


def _end(head: bytes) -> Answer | None:
    """Return which of the router's ends this is, or None where the desk or the executor ended what had been routed."""
    start = head.find(b'"end":"')
    end, _, rest = head[start + 7 : start + 64].partition(b'","why":"')
    why = rest.partition(b'"')[0]
    if end == b"refused":
        return _REFUSED.get(why)
    return Answer.EXPIRED if why == b"execute_by" and _AT_ADMISSION in head else None


def _hash_fault(value: bytes, cut: int) -> str | None:
    """Compute an action's hash again; return what is wrong, if anything is."""
    who = _who(value)
    if who is None:
        return "the head names no hash"
    digest = hashlib.sha256(value[cut + len(ACTION_MARK) : -1])
    at = value.find(b'"ce":', 0, cut)
    if not value.startswith(b'"ce":{}', at):
        try:
            used = orjson.loads(value[:cut] + b"}")["ce"]
        except (ValueError, KeyError):
            return "the head is not JSON"
        for name, text in sorted(used.items()):
            digest.update(b"\0" + name.encode() + b"\0" + text.encode())
    found = digest.hexdigest()
    return None if found == who[1] else f"the head says {who[1]}, the action behind it has {found}"
