"""Reading what people's work leaves: records whose seals are good, in a stretch of time, and exports of them.

- A record under a seal that does not fit is left out and counted. Where no key of its writers is here, nobody can tell.
- What was erased is never exported, although the log may still hold it: a null further on takes a record back. So the
  log is read twice, the first time to its end for nulls alone.
- Of a planted action nobody learns anything: its feedback is for no agent. Decisions on it are, for auditors.
- An exported decision of which nothing is hidden is the record's own bytes, so that its action hash can be computed
  again; white space that breaks a line, which no JSON text needs, becomes a space.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Literal, Protocol, TypeAlias, get_args

import msgspec

from hitl_stream.core.redaction import Digest, Hidden, decision_without, feedback_without, preference_without
from hitl_stream.lane.admin import Client
from hitl_stream.lane.reader import read, spans
from hitl_stream.lane.step import Record
from hitl_stream.wire import desk_records, records
from hitl_stream.wire.desk_records import is_lot
from hitl_stream.wire.records import head_of
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.whose import Keys, Seals

Kind: TypeAlias = Literal["feedback", "decisions", "preferences"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WRITERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "execute": (records.DECISION, ("router", "desk")),
    "review": (records.DECISION, ("router",)),
    "escalation": (records.DECISION, ("router", "executor")),
    "review.seeded": (records.DECISION, ("router", "monitor")),
    "results": (records.RESULT, ("executor",)),
    "reviews": (desk_records.REVIEW, ("desk",)),
    "decisions": (desk_records.HUMAN_DECISION, ("desk",)),
    "observations": (desk_records.OBSERVATION, ("desk",)),
    "feedback": (desk_records.FEEDBACK, ("desk",)),
    "preferences": (desk_records.PREFERENCE, ("desk",)),
}
"""The topics that are read here: the type of their records, and which roles seal them."""
DIGEST_BYTES = 16
PLANTED = "~"
"""What the id of a planted action begins with, and no publisher's."""
_decode = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder(decimal_format="number").encode
"""A number keeps every digit that the agent wrote."""
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


class Log(Protocol):
    """Topics of one installation, by their names in the table."""

    topics: TopicSet

    def read(self, name: str, since_ms: int | None = None) -> AsyncIterator[Sequence[Record]]:
        """Yield what is committed of a topic, each partition in its order, up to where it ended at the start."""

    def read_topic(
        self, topic: str, since_ms: int | None = None, partition: int | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """Yield the same of a topic by its Kafka name, or of one of its partitions."""

    def read_many(self, names: Sequence[str]) -> AsyncIterator[tuple[str, Sequence[Record]]]:
        """Yield the same of several topics side by side, each with its name."""


class KafkaLog:
    """The log as it stands in a cluster. A topic that is not there is empty."""

    def __init__(self, client: Client, topics: TopicSet) -> None:
        self.client = client
        self.topics = topics

    async def read(self, name: str, since_ms: int | None = None) -> AsyncIterator[Sequence[Record]]:
        """Yield what there is. Raises `UnreachableError`."""
        async for found in self.read_topic(self.topics.name(name), since_ms):
            yield found

    async def read_topic(
        self, topic: str, since_ms: int | None = None, partition: int | None = None
    ) -> AsyncIterator[Sequence[Record]]:
        """Yield what there is of a topic by its Kafka name, or of one of its partitions."""
        wanted = await spans(self.client, [topic], since_ms=since_ms, partition=partition)
        async with aclosing(read(self.client, wanted)) as batches:
            async for _, _, found in batches:
                yield found

    async def read_many(self, names: Sequence[str]) -> AsyncIterator[tuple[str, Sequence[Record]]]:
        """Yield what there is of several topics; to connect once for each of them would take longer than to read."""
        known = {self.topics.name(name): name for name in names}
        async with aclosing(read(self.client, await spans(self.client, known))) as batches:
            async for topic, _, found in batches:
                yield known[topic], found


@dataclass
class Checked:
    """A log of which only what its writers sealed is seen; `bad` and `unchecked` count the others, by topic."""

    log: Log
    keys: Keys
    since_ms: int | None = None
    until_ms: int | None = None
    bad: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._seals = Seals(self.keys)

    async def records(self, name: str, *, since_ms: int | None = None, whole: bool = False) -> AsyncIterator[Record]:
        """Yield the records with a value that were appended in the stretch of time, or in the `whole` log.

        `since_ms` begins earlier than the stretch does.
        """
        start = None if whole else self.since_ms if since_ms is None else since_ms
        async for batch in self.log.read(name, start):
            for record in batch:
                if record.value is None or not (whole or self._inside(record, start)):
                    continue
                if self.is_good(name, record):
                    yield record

    async def standing(self, name: str) -> AsyncIterator[Record]:
        """Yield the same without what was taken back since."""
        nulls: dict[tuple[int, bytes | None], int] = {}
        async for batch in self.log.read(name, self.since_ms):
            for record in batch:
                if record.value is None:
                    nulls[record.partition, record.key] = record.offset
        async for record in self.records(name):
            if record.offset > nulls.get((record.partition, record.key), -1):
                yield record

    def is_good(self, name: str, record: Record) -> bool:
        """Say whether nothing speaks against a record, and count it where something does."""
        kind, roles = WRITERS[name]
        if name == "reviews" and is_lot(record.key):
            kind = desk_records.LOT
        whose = self._seals.whose(record.topic, kind, record.headers, head_of(record.value or b""), roles)
        if whose.fault is not None:
            self.bad[name] += 1
            return False
        if whose.role is None:
            self.unchecked[name] += 1
        return True

    def _inside(self, record: Record, start: int | None) -> bool:
        late = self.until_ms is not None and record.timestamp >= self.until_ms
        return not late and (start is None or record.timestamp >= start)


@dataclass
class Exported:
    """What one export came to."""

    written: int = 0
    redacted: int = 0
    """Of these, records of which something was hidden."""
    planted: int = 0
    """Feedback on planted actions, which is left out."""
    unreadable: int = 0


async def export(
    checked: Checked, kind: Kind, fields: Collection[str], digest: Digest | None, write: Callable[[bytes], None]
) -> Exported:
    """Hand each record of one kind to `write` as a line of JSON without its end; `fields` are hidden."""
    counts = Exported()
    async for record in checked.standing(kind):
        try:
            if kind == "feedback" and desk_records.decode_feedback(record.value or b"").action_id.startswith(PLANTED):
                counts.planted += 1
                continue
            line, is_redacted = line_of(kind, record.value or b"", fields, digest)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            counts.unreadable += 1
            continue
        write(line)
        counts.written += 1
        counts.redacted += is_redacted
    return counts


def line_of(kind: Kind, value: bytes, fields: Collection[str], digest: Digest | None) -> tuple[bytes, bool]:
    """Return one line, and whether anything of it was hidden. Raises `msgspec.DecodeError` for another record."""
    _READ[kind](value)
    if fields:
        hidden = _hidden(kind, _decode(value), fields, digest)
        if hidden.paths or _is_doubled(value):
            return _encode({**hidden.record, "redacted": hidden.paths}), True
    return value.translate(_LINE_BREAKS), False


def _is_doubled(value: bytes) -> bool:
    """Say whether an object names a member twice: all but the last are seen by nobody who decodes it, and could hold
    anything."""
    found = False

    def pairs(members: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({name for name, _ in members}) < len(members)

    json.loads(value, object_pairs_hook=pairs)
    return found


def keyed(key: SealKey) -> Digest:
    """Return a function that hashes a text under a key: the same text, the same digest, wherever it stands."""

    def digest(text: str) -> str:
        return blake2b(
            text.encode("utf-8", "surrogatepass"), key=key.key, digest_size=DIGEST_BYTES, person=b"hitl-redact"
        ).hexdigest()

    return digest


_READ: Mapping[Kind, Callable[[bytes], Any]] = {
    "decisions": desk_records.decode_human_decision,
    "feedback": desk_records.decode_feedback,
    "preferences": desk_records.decode_preference,
}


def _hidden(kind: Kind, record: dict[str, Any], fields: Collection[str], digest: Digest | None) -> Hidden:
    match kind:
        case "decisions":
            return decision_without(record, fields)
        case "feedback":
            return feedback_without(record, fields, digest)
        case "preferences":
            return preference_without(record, fields)
