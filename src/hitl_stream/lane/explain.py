"""`hitl explain`: everything the log holds about one action, in the order of time.

Records are found by the bytes of the action's id, then decoded, so that an id which merely occurs in another record's
text does not count. Dead letters could not be decoded: whatever mentions the id is shown. Canaries are left out. What
held it back stands among its records: when each of those switches was engaged, by whom, and how it was released.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from difflib import get_close_matches
from heapq import heappop, heappush
from typing import Any

import orjson
from aiokafka import TopicPartition

from hitl_stream.core.action import entity_of
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.errors import UsageError
from hitl_stream.lane.admin import Client
from hitl_stream.lane.past import Past, read_past
from hitl_stream.lane.reader import Span, read, record_at, spans
from hitl_stream.lane.step import Record
from hitl_stream.wire.codec import Undecodable, decode
from hitl_stream.wire.control_past import ControlPast
from hitl_stream.wire.home import home
from hitl_stream.wire.records import (
    ERROR_HEADER,
    SOURCE_HEADER,
    VIA_HEADER,
    WHY_HEADER,
    decode_via,
    head_of,
    header,
    time_text,
)
from hitl_stream.wire.topics import TopicSet

OUTPUTS = (
    "execute",
    "review",
    "escalation",
    "review.seeded",
    "recommendations",
    "held",
    "decisions",
    "closed",
    "results",
    "dlq",
)
"""Where something about an action may stand besides the action topics, in the order in which it would happen."""
ENTRIES_MAX = 200
"""An id that is repeated for ever must not fill the memory; the newest ones are kept."""
SWITCHES_MAX = 100
"""Switches told about: an action that was parked again and again can name many."""
ORIGINS_MAX = 20
"""Places looked up one by one, where the log names an origin that was not read."""
NEAR_MAX = 500
"""Ids remembered that begin and end most like the one asked for; of these the nearest are named."""
NEAREST_MAX = 5
NEAREST_RATIO = 0.6
CONTROL = "control"
"""How entries are called that are no record of the action, but of a switch that held it."""
_SWITCH = re.compile(r"switch\.([0-9]{1,19})")
"""The rule of a reason that a switch gives, and its epoch."""
_TENANT = re.compile(rb'"tenant":\s*("(?:[^"\\]|\\.){0,200}")')
_ACTION_ID = re.compile(rb'"action_id":\s*("(?:[^"\\]|\\.){0,200}")')


@dataclass(frozen=True)
class Entry:
    """One record of the story. `what` is our name of the topic it stands on, `says` its fields without the action."""

    at_ms: int
    place: str
    what: str
    says: Mapping[str, Any]
    action: str | None = None
    """The action's bytes as text, where the record is a proposal."""


@dataclass(frozen=True)
class Story:
    """What the log holds about one action; without entries it was not found, and `nearest` are ids that look alike.

    `untold` says why switches that are named are only named; empty: they are told about, or there are none.
    """

    tenant: str
    action_id: str
    entries: tuple[Entry, ...]
    nearest: tuple[str, ...] = ()
    left_out: int = 0
    untold: str = ""


@dataclass(frozen=True)
class Asked:
    """Which action; with its account, one partition is read instead of all."""

    tenant: str
    action_id: str
    account: str | None = None
    since_ms: int | None = None


def asked(text: str, tenant: str = "", entity: str | None = None, since_ms: int | None = None) -> Asked:
    """Read an id of the command line; `tenant` stands in where the id names none.

    >>> asked("acme/act-7", entity="acc-17/cmp-2")
    Asked(tenant='acme', action_id='act-7', account='acc-17', since_ms=None)
    """
    named, slash, action_id = text.partition("/")
    if not slash:
        named, action_id = tenant, text
    if not named or not action_id:
        raise UsageError(f"{text!r} is no id; write tenant/action_id, or set a tenant (HITL_TENANT)")
    return Asked(named, action_id, entity.partition("/")[0] if entity else None, since_ms)


async def explain(
    client: Client, topics: TopicSet, inputs: Iterable[str], about: Asked, tenant: str = "", trust: str = ""
) -> Story:
    """Read the log for one action.

    `inputs` are the action topics, `tenant` is that of actions which name none, `trust` names the first record of
    `control` that counts. Raises `UnreachableError` without Kafka.
    """
    names = {**dict.fromkeys(inputs, "actions"), **{topics.name(name): name for name in OUTPUTS}}
    partition = None if about.account is None else home(about.tenant, about.account, topics.partitions)
    wanted = await spans(client, names, since_ms=about.since_ms, partition=partition)
    found = _Found(about, tenant)
    async with aclosing(read(client, wanted)) as reading:
        async for topic, _, records in reading:
            for record in records:
                found.look(names[topic], record)
    for place in tuple(found.origins)[:ORIGINS_MAX]:
        await _fetch(client, place, wanted, names, found)
    switches = sorted(_switches(found.entries))[:SWITCHES_MAX]
    past = await read_past(client, topics, trust, heartbeats=False) if switches else Past(None)
    told = [] if past.log is None else _told(past.log, topics.name(CONTROL), switches)
    entries = sorted((*found.entries, *told), key=lambda entry: (entry.at_ms, _rank(entry.what), entry.place))
    nearest = () if entries else found.nearest()
    return Story(about.tenant, about.action_id, tuple(entries), nearest, found.left_out, past.why)


def _switches(entries: Iterable[Entry]) -> set[int]:
    """Return the epochs of the switches that held an action back."""
    epochs: set[int] = set()
    for entry in entries:
        parked, reasons = entry.says.get("parked"), entry.says.get("reasons")
        named = parked.get("switches") if isinstance(parked, dict) else None
        epochs.update(epoch for epoch in (named if isinstance(named, list) else ()) if isinstance(epoch, int))
        for row in reasons if isinstance(reasons, list) else ():
            rule = _SWITCH.fullmatch(str(row.get("rule"))) if isinstance(row, dict) else None
            if rule is not None:
                epochs.add(int(rule[1]))
    return epochs


def _told(log: ControlPast, topic: str, epochs: Iterable[int]) -> Iterator[Entry]:
    """Yield when each switch was engaged and released, and by whom."""
    for epoch in epochs:
        switch, release = log.control.switches.all.get(epoch), log.releases.get(epoch)
        if switch is None:
            continue
        says: dict[str, Any] = {
            "typ": "engage", "switch": epoch, "mode": switch.mode.value, "scope": list(switch.scope), "by": switch.by,
            "reason": switch.reason, "source": switch.source,
        }  # fmt: skip
        yield Entry(switch.at_ms, f"{topic}/0/{epoch}", CONTROL, says)
        if release is not None:
            says = {
                "typ": "release", "switch": epoch, "by": release.by, "asked_by": release.asked_by,
                "asked": time_text(release.asked_ms), "reason": release.reason,
            }  # fmt: skip
            yield Entry(release.at_ms, f"{topic}/0/{release.epoch}", CONTROL, says)


async def _fetch(
    client: Client, place: str, wanted: Mapping[TopicPartition, Span], names: Mapping[str, str], found: _Found
) -> None:
    """Take in a record that others name as their origin and that was not read: moved from elsewhere, or older."""
    parts = place.rsplit("/", 2)
    if len(parts) != 3 or parts[0] not in names or not (parts[1].isdigit() and parts[2].isdigit()):
        return
    topic, partition, offset = parts[0], int(parts[1]), int(parts[2])
    span = wanted.get(TopicPartition(topic, partition))
    if span is not None and span.start <= offset < span.end:
        return
    record = await record_at(client, topic, partition, offset)
    if record is not None:
        found.look(names[topic], record)


def _rank(what: str) -> int:
    return OUTPUTS.index(what) if what in OUTPUTS else -1


class _Found:
    """Collects the entries of one action, and the ids that come by."""

    def __init__(self, about: Asked, tenant: str) -> None:
        self.about = about
        self.tenant = tenant
        self.entries: list[Entry] = []
        self.origins: dict[str, None] = {}
        self.left_out = 0
        self._near: list[tuple[int, str]] = []
        self._known: set[str] = set()
        # As our own heads write it, and as a publisher may who escapes all but ASCII.
        self._marks = tuple({json.dumps(about.action_id, ensure_ascii=ascii_).encode() for ascii_ in (True, False)})
        self._asked = about.action_id.encode()
        self._header = ("ce_id", about.action_id.encode())

    def look(self, what: str, record: Record) -> None:
        """Take a record in if it is about the action."""
        value = record.value or b""
        entry = self._entry(what, record, value) if self._mentions(value, record) else None
        if entry is not None:
            if len(self.entries) == ENTRIES_MAX:
                self.left_out += 1
                self.entries.pop(0)
            self.entries.append(entry)
        elif not self.entries:
            self._remember(value)

    def nearest(self) -> tuple[str, ...]:
        """Return the ids that look most like the one that was asked for, as `tenant/action_id`."""
        wanted = f"{self.about.tenant}/{self.about.action_id}"
        return tuple(get_close_matches(wanted, sorted(self._known), NEAREST_MAX, NEAREST_RATIO))

    def _remember(self, value: bytes) -> None:
        found = _ACTION_ID.search(value)
        if found is None:
            return
        likeness = _likeness(found[1][1:-1], self._asked)
        if len(self._near) == NEAR_MAX and likeness <= self._near[0][0]:
            return
        text = _id_text(found[1], _TENANT.search(value), self.tenant)
        if text is None or text in self._known:
            return
        self._known.add(text)
        heappush(self._near, (likeness, text))
        if len(self._near) > NEAR_MAX:
            self._known.discard(heappop(self._near)[1])

    def _mentions(self, value: bytes, record: Record) -> bool:
        for mark in self._marks:
            if mark in value:
                return True
        return bool(record.headers) and self._header in record.headers

    def _entry(self, what: str, record: Record, value: bytes) -> Entry | None:
        place = f"{record.topic}/{record.partition}/{record.offset}"
        if what == "dlq":
            return Entry(record.timestamp, place, what, dict(_dead(record)))
        if what == "actions":
            return self._proposal(record, place)
        says = _fields(value)
        if says.get("tenant") != self.about.tenant or says.get("action_id") != self.about.action_id:
            return None
        if says.get("purpose") == "canary":
            return None
        if isinstance(origin := says.get("id"), str):
            self.origins[origin.partition("#")[0]] = None
        return Entry(record.timestamp, place, what, says)

    def _proposal(self, record: Record, place: str) -> Entry | None:
        decoded = decode(record.value, record.headers)
        if isinstance(decoded, Undecodable):
            return None  # it stands in the dlq, with the reason
        action = decoded.action
        if (action.tenant or self.tenant) != self.about.tenant or action.action_id != self.about.action_id:
            return None
        entity = entity_of(action)
        says: dict[str, Any] = {
            "agent": {"id": action.agent.id, "version": action.agent.version},
            "type": action.type,
            "entity": {"account": entity.account, "campaign": entity.campaign},
            "proposed_at": time_text(milliseconds(action.proposed_at)),
            "hash": decoded.hash,
        }
        via = header(record.headers, VIA_HEADER)
        if via is not None:
            says["via"] = _via(via)
            if isinstance(source := says["via"].get("from"), str):
                self.origins[source] = None
        return Entry(record.timestamp, place, "actions", says, decoded.raw.decode())


def _fields(value: bytes) -> dict[str, Any]:
    head = head_of(value)
    try:
        found = orjson.loads(head if len(head) == len(value) else head + b"}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _via(value: bytes) -> dict[str, Any]:
    try:
        via = decode_via(value)
    except ValueError:
        return {"unreadable": value.decode("utf-8", "replace")}
    return {"role": via.role, "from": via.from_, "by": via.by, "supersedes": via.supersedes}


def _dead(record: Record) -> Iterator[tuple[str, str]]:
    for name in (ERROR_HEADER, WHY_HEADER, SOURCE_HEADER):
        content = header(record.headers, name)
        if content is not None:
            yield name.removeprefix("hitl-"), content.decode("utf-8", "replace")


def _likeness(one: bytes, other: bytes) -> int:
    """Return how many bytes two ids share at their begin and their end, less what one is longer."""
    return _shared(one, other) + _shared(one[::-1], other[::-1]) - abs(len(one) - len(other))


def _shared(one: bytes, other: bytes) -> int:
    for at, (mine, theirs) in enumerate(zip(one, other, strict=False)):
        if mine != theirs:
            return at
    return min(len(one), len(other))


def _id_text(action_id: bytes, tenant: re.Match[bytes] | None, default: str) -> str | None:
    try:
        named = str(orjson.loads(tenant[1])) if tenant else ""
        return f"{named or default}/{orjson.loads(action_id)}"
    except ValueError:
        return None
