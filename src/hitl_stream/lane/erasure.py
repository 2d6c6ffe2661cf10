"""Taking a person's data out of the log: a null for each key that carries it, where Kafka compacts a topic by key.

- Erased are `reviews` of items that have ended, `decisions`, `feedback` and `preferences`. Every other topic lets go of
  its records by retention; the plan says of how many, and when the last of them ends.
- Nothing of what is open is taken from under the people who judge it: then nothing at all is erased. The same for
  members of a batch that has not ended: its tree is built of them.
- What stays are digests: action hashes in ends and results until retention, the leaves of `audit` for ever.
- A plan is of the log as it stood; what is written later about the same person takes another plan.
- No seal is asked of what is erased: a forged copy of a person's data is that person's data.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from msgspec import Struct

from hitl_stream.core.action import Action
from hitl_stream.core.batch import ENDS as LOT_ENDS
from hitl_stream.core.batch import Stage
from hitl_stream.core.errors import UnknownOutcomeError
from hitl_stream.core.fields import ABSENT, NO_FACTS, raw_reader
from hitl_stream.core.review import ENDS, State
from hitl_stream.lane.admin import Client, reaching
from hitl_stream.lane.exports import Checked, Log
from hitl_stream.lane.step import Record
from hitl_stream.lane.transaction import drop_producer
from hitl_stream.wire.codec import Undecodable, decode, decode_bytes
from hitl_stream.wire.desk_records import (
    LotState,
    ReviewState,
    decision_of,
    decode_feedback,
    decode_human_decision,
    decode_lot,
    decode_preference,
    decode_review,
    decode_verdict_record,
    is_lot,
)
from hitl_stream.wire.records import ACTION_MARK

ERASED = ("reviews", "decisions", "feedback", "preferences")
WITH_ACTION = ("execute", "review", "escalation", "review.seeded", "recommendations", "held", "closed", "results")
ABOUT_ITEM = ("observations", "evidence")
RETAINED = ("actions", *WITH_ACTION, *ABOUT_ITEM, "verdicts", "dlq")
SEND_SECONDS_MAX = 60.0
OPEN_SHOWN_MAX = 20
"""Open items named in a refusal; the others are counted."""
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError)

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer


class Wanted(Struct, frozen=True):
    """What is to be erased, of one tenant: an action by its id, or all whose `field` is `value`."""

    tenant: str
    action_id: str | None = None
    field: str | None = None
    value: str | None = None


class Obstacle(Struct, frozen=True):
    """One item that stands in the way, and why."""

    item: str
    why: str


class Ending(Struct, frozen=True):
    """So many records of a topic that end by retention, the last of them at `until_ms`; None: the topic keeps them."""

    topic: str
    count: int
    until_ms: int | None


@dataclass
class Plan:
    """What would be erased, what stands in the way, and what ends by itself."""

    actions: int = 0
    keys: dict[str, set[tuple[int, bytes]]] = field(default_factory=dict)
    """By topic: partition and key."""
    open: list[Obstacle] = field(default_factory=list)
    ending: list[Ending] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """Return how many records would be erased, by topic."""
        return {name: len(self.keys.get(name, ())) for name in ERASED}


async def plan(log: Log, checked: Checked, wanted: Wanted, retentions: Mapping[str, int | None]) -> Plan:
    """Look at the whole log. `retentions` are those of the topics of the table, in milliseconds; None: for ever."""
    search = _Search(checked, wanted)
    async for name, batch in log.read_many(ERASED):
        for record in batch:
            search.take(name, record)
    search.settle()
    async for name, batch in log.read_many(RETAINED):
        for record in batch:
            search.see(name, record)
    made = Plan(len(search.subjects), search.keys, search.obstacles())
    made.ending = [
        Ending(name, count, None if retentions.get(name) is None else search.newest[name] + (retentions[name] or 0))
        for name, count in sorted(search.seen.items(), key=lambda each: RETAINED.index(each[0]))
    ]
    return made


async def erase(client: Client, names: Callable[[str], str], keys: Mapping[str, Iterable[tuple[int, bytes]]]) -> None:
    """Write a null for each key. `names` says what Kafka calls a topic.

    Raises `UnknownOutcomeError` where some may not be written: erasing again does no harm.
    """
    producer = _Producer(**client, enable_idempotence=True, acks="all", linger_ms=5, retry_backoff_ms=20)
    try:
        with reaching(client):
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await producer.start()
        try:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                sent = [
                    await producer.send(names(topic), None, key=key, partition=partition)
                    for topic, each in keys.items()
                    for partition, key in sorted(each)
                ]
                await asyncio.gather(*sent)
        except (KafkaError, TimeoutError, OSError) as error:
            raise UnknownOutcomeError(
                f"Kafka at {client['bootstrap_servers']}: {error!r} while nulls were written; some may stand there "
                "and some not. Say it again: what is erased twice does no harm"
            ) from None
    finally:
        await drop_producer(producer)


class _Search:
    """Collects what is about the wanted subject: first what can be erased, then what ends by itself."""

    def __init__(self, checked: Checked, wanted: Wanted) -> None:
        self.checked = checked
        self.wanted = wanted
        self.subjects: set[tuple[str, str]] = set()
        self.keys: dict[str, set[tuple[int, bytes]]] = {name: set() for name in ERASED}
        self.seen: Counter[str] = Counter()
        self.newest: dict[str, int] = {}
        self._hashes: set[str] = set()
        self._items: set[str] = set()
        self._states: dict[str, ReviewState] = {}
        self._lots: dict[str, LotState] = {}
        self._later: list[tuple[str, Record]] = []
        self._read = None if wanted.field is None else raw_reader(wanted.field)
        self._text = None if wanted.value is None else wanted.value.casefold()

    # --- what can be erased ---

    def take(self, name: str, record: Record) -> None:
        """Look at a record of a compacted topic; a null ends what its key had."""
        if record.key is None:
            return
        if record.value is None:
            self._forget(name, record)
            return
        try:
            found = self._about(name, record)
        except _BROKEN:
            return
        if found:
            self.keys[name].add((record.partition, record.key))
        elif name in ("decisions", "feedback"):
            self._later.append((name, record))

    def settle(self) -> None:
        """Take what belongs to an action or item that was found only after it."""
        for name, record in self._later:
            assert record.key is not None
            assert record.value is not None
            if self._belongs(name, record.value):
                self.keys[name].add((record.partition, record.key))
        self._later.clear()

    def obstacles(self) -> list[Obstacle]:
        """Return the items that have not ended, or are of a batch that has not."""
        found = []
        for _, key in sorted(self.keys["reviews"]):
            why = self._open(key.decode("utf-8", "replace"))
            if why is not None:
                found.append(Obstacle(key.decode("utf-8", "replace"), why))
        return found

    def _forget(self, name: str, record: Record) -> None:
        assert record.key is not None
        self.keys[name].discard((record.partition, record.key))
        self._later = [each for each in self._later if each[0] != name or each[1].key != record.key]

    def _about(self, name: str, record: Record) -> bool:
        value = record.value or b""
        match name:
            case "reviews" if is_lot(record.key):
                if self.checked.is_good(name, record):
                    lot = decode_lot(value)
                    self._lots[lot.lot] = lot
                return False
            case "reviews":
                return self._review(record)
            case "decisions":
                one = decode_human_decision(value)
                if not one.tenant:  # of an item that nobody knew: there is no action, but what was shown
                    return self._quotes("", value)
                found = self._is_wanted(one.tenant, one.action_id, bytes(one.action))
                if found:
                    self._note(one.tenant, one.action_id, one.hash, one.item)
                return found
            case "feedback":
                learned = decode_feedback(value)
                return self._named(learned.tenant, learned.action_id) or self._quotes(learned.tenant, value)
            case _:
                return self._quotes(decode_preference(value).tenant, value)

    def _review(self, record: Record) -> bool:
        state = decode_review(record.value or b"")
        if self.checked.is_good("reviews", record):
            self._states[state.item] = state
        raw = bytes(state.action)
        decision = decision_of(state.routed, raw)
        found = self._is_wanted(decision.tenant, decision.action_id, raw, decision.ce)
        if found:
            self._note(decision.tenant, decision.action_id, decision.hash, state.item)
        return found

    def _belongs(self, name: str, value: bytes) -> bool:
        try:
            if name == "decisions":
                one = decode_human_decision(value)
                return one.item in self._items or one.hash in self._hashes
            learned = decode_feedback(value)
            return learned.item in self._items or (learned.tenant, learned.action_id) in self.subjects
        except _BROKEN:
            return False

    def _open(self, item: str) -> str | None:
        state = self._states.get(item)
        if state is None:
            return None
        if State(state.state) not in ENDS:
            return f"it is {state.state} in queue {state.queue}"
        lot = None if state.batch is None else self._lots.get(state.batch)
        if lot is None:
            return None
        stage = Stage(lot.state)
        written = stage is not Stage.RELEASED or lot.after >= lot.size
        return None if stage in LOT_ENDS and written else f"its batch {lot.lot} is {lot.state}"

    # --- what ends by itself ---

    def see(self, name: str, record: Record) -> None:
        """Look at a record of a topic that only retention empties."""
        try:
            found = record.value is not None and self._ends(name, record)
        except _BROKEN:
            found = False
        if found:
            self.seen[name] += 1
            self.newest[name] = max(self.newest.get(name, 0), record.timestamp)

    def _ends(self, name: str, record: Record) -> bool:
        value = record.value or b""
        if name == "actions":
            decoded = decode(value, record.headers)
            if isinstance(decoded, Undecodable):
                return False
            tenant = decoded.action.tenant or self.wanted.tenant
            found = decoded.hash in self._hashes or self._is_action(tenant, decoded.action.action_id, decoded.action)
            if found:
                self.subjects.add((tenant, decoded.action.action_id))
            return found
        if name in WITH_ACTION:
            head = _head(value)
            cut = value.find(ACTION_MARK)
            raw = b"" if cut < 0 else value[cut + len(ACTION_MARK) : -1]
            return self._is_wanted(head.tenant, head.action_id, raw, head.ce)
        if name in ABOUT_ITEM:
            return _item(value).item in self._items
        if name == "verdicts":
            claims = _claims(decode_verdict_record(value).jws)
            return claims.item in self._items or claims.hash in self._hashes
        # What could not be read is only looked through.
        text = self.wanted.value if self.wanted.value is not None else f'"{self.wanted.action_id}"'
        return text.encode() in value

    # --- whether it is about what is wanted ---

    def _note(self, tenant: str, action_id: str, hash_: str, item: str) -> None:
        self.subjects.add((tenant, action_id))
        self._hashes.add(hash_)
        self._items.add(item)

    def _named(self, tenant: str, action_id: str) -> bool:
        return tenant == self.wanted.tenant and action_id == self.wanted.action_id

    def _is_wanted(self, tenant: str, action_id: str, raw: bytes, ce: Mapping[str, str] | None = None) -> bool:
        if self.wanted.action_id is not None:
            return self._named(tenant, action_id)
        decoded = decode_bytes(raw, ce or {})
        return not isinstance(decoded, Undecodable) and self._is_action(tenant, action_id, decoded.action)

    def _is_action(self, tenant: str, action_id: str, action: Action) -> bool:
        if self._read is None:
            return self._named(tenant, action_id)
        if tenant != self.wanted.tenant:
            return False
        value = self._read(action, NO_FACTS)
        each = value if isinstance(value, list | tuple) else [value]
        return value is not ABSENT and any(str(one).casefold() == self._text for one in each)

    def _quotes(self, tenant: str, value: bytes) -> bool:
        """Say whether a text of a record holds the subject's value; ids are never looked for in texts."""
        if self._text is None or tenant not in (self.wanted.tenant, ""):
            return False
        return any(self._text in text.casefold() for text in _texts(msgspec.json.decode(value)))


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


class _Head(Struct, frozen=True):
    tenant: str
    action_id: str
    ce: dict[str, str] = {}


class _Item(Struct, frozen=True):
    item: str


class _Claims(Struct, frozen=True):
    item: str | None = None
    hash: str | None = None


_head = msgspec.json.Decoder(_Head).decode
_item = msgspec.json.Decoder(_Item).decode
_claims_of = msgspec.json.Decoder(_Claims).decode


def _claims(jws: str) -> _Claims:
    """Return what a signed verdict claims to be about; whether it is true does not matter to whoever erases it."""
    body = jws.split(".")[1] if jws.count(".") == 2 else ""
    try:
        return _claims_of(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except binascii.Error:
        return _Claims()
