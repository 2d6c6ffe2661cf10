"""What the monitor knows of people and of gates, as the console may show it: read beside it, kept in memory, bounded.

Rules:
- It is read only, from topics that the monitor keeps: `monitor.people`, its table of people, `monitor.gates`, what each
  gate has shown, and `alerts`. A site without a monitor has none of them, and the pages say so.
- People stand in it by pseudonym. The key that makes one of a name turns whoever is signed in into theirs; nobody else
  is named, but where the site says so (`console_names`).
- Whatever goes wrong here, people go on deciding: it is tried again, and what was known stays.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog
from aiokafka.errors import KafkaError
from mode import Service

from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.errors import HitlError
from hitl_stream.core.gate_evidence import lacks, log_e
from hitl_stream.core.vigilance import Level
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.roles.gate_keeping import AtGate, decode_gate, gate_of
from hitl_stream.roles.monitor_state import Kept, decode_kept, parts_of
from hitl_stream.roles.monitor_unwatched import EVERYBODY
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import Alert, pseudonym, read_alert

PEOPLE, GATES, ALERTS = "monitor.people", "monitor.gates", "alerts"
PEOPLE_MAX = 5_000
"""Pairs of a person and a queue: some 20 MB. Of more, those that were written first are forgotten."""
GATES_MAX = 10_000
"""Pieces of evidence, each of one person at one gate: some 30 MB. Of more, those written first are forgotten."""
ALERTS_MAX = 1_000
"""The newest."""
E_MAX = 1e9
"""A larger one says no more."""
POLL_MS = 200
RECORDS_MAX = 1_000
RETRY_S = 5.0
ABSENT = "this site has no monitor; hitl run monitor is one"
NOT_READ = "it was not read yet"


class Watching:
    """People by queue and pseudonym, and alerts by their id, the newest last. `key` None: nobody's pseudonym is known.

    `trouble` says why it may be out of date; an empty string: it is not.
    """

    def __init__(self, key: SealKey | None = None, *, names: bool = False) -> None:
        self.trouble = NOT_READ
        self.names = names
        self.alerts: OrderedDict[str, Alert] = OrderedDict()
        self._key = key
        self._people: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        """By person and queue, not decoded: most are never asked for."""
        self._gates: OrderedDict[bytes, bytes] = OrderedDict()
        self._evidence: dict[str, list[dict[str, Any]]] | None = None

    @property
    def known(self) -> bool:
        """Say whether people can be told by pseudonyms here."""
        return self._key is not None

    def pseudonym(self, name: str) -> str | None:
        """Return what somebody is called by the monitor; None: there is no key here."""
        return None if self._key is None else pseudonym(self._key, name)

    def take_person(self, key: bytes, value: bytes | None) -> None:
        """Take in one record of the monitor's table; what is none of a person in a queue is passed over."""
        try:
            person, queue, number = parts_of(key)
        except (ValueError, UnicodeDecodeError):
            return
        if number is not None or person.startswith(EVERYBODY):
            return
        self._people.pop((person, queue), None)
        if value is not None:
            self._people[person, queue] = value
        while len(self._people) > PEOPLE_MAX:
            self._people.popitem(last=False)

    def take_gate(self, key: bytes, value: bytes | None) -> None:
        """Take in one record of the monitor's table of gates."""
        self._gates.pop(key, None)
        if value is not None:
            self._gates[key] = value
        while len(self._gates) > GATES_MAX:
            self._gates.popitem(last=False)
        self._evidence = None

    def take_alert(self, alert: Alert) -> None:
        """Take in one alert; one of the same id is no second one."""
        self.alerts.setdefault(alert.id, alert)
        while len(self.alerts) > ALERTS_MAX:
            self.alerts.popitem(last=False)

    def evidence(self) -> dict[str, list[dict[str, Any]]]:
        """Return by gate what is known of it: one row for each definition, agent version and type of error."""
        if self._evidence is None:
            self._evidence = evidence_of(self._gates)
        return self._evidence

    def queues(self) -> dict[str, dict[str, Kept]]:
        """Return what is kept of everybody, by queue and pseudonym."""
        found: dict[str, dict[str, Kept]] = defaultdict(dict)
        for (person, queue), value in self._people.items():
            kept = _kept(value)
            if kept is not None:
                found[queue][person] = kept
        return found

    def of(self, name: str) -> dict[str, Kept]:
        """Return what is kept of somebody, by queue."""
        wanted = self.pseudonym(name)
        if wanted is None:
            return {}
        found = ((queue, _kept(value)) for (person, queue), value in self._people.items() if person == wanted)
        return {queue: kept for queue, kept in found if kept is not None}

    def level(self, name: str) -> Level:
        """Return somebody's level, which is the highest of their queues'."""
        return max((kept.watch.level for kept in self.of(name).values()), default=Level.NONE)


def _kept(value: bytes) -> Kept | None:
    """Return what stands in a value; None: it is of another version of hitl."""
    try:
        return decode_kept(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def evidence_of(table: Mapping[bytes, bytes]) -> dict[str, list[dict[str, Any]]]:
    """Return what a table of evidence says, added over persons; whoever stands in it is not told."""
    whole: dict[tuple[str, str, str, str], list[AtGate]] = defaultdict(list)
    for key, value in table.items():
        try:
            whose = gate_of(key)
            if whose is not None:
                whole[whose.gate, whose.definition, whose.agent, whose.version].append(decode_gate(value))
        except (ValueError, msgspec.DecodeError):
            continue  # of another version of hitl
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for (gate, definition, agent, version), parts in sorted(whole.items()):
        since_ms = min(one.since_ms for one in parts)
        last_ms = max(one.day for one in parts) * DAY_MS
        days = max(0.0, (last_ms - since_ms) / DAY_MS)
        for error in sorted({error for one in parts for error in one.evidence}):
            pieces = [one.evidence[error] for one in parts if error in one.evidence]
            missing = lacks(pieces, days)
            found[gate].append(
                {
                    "definition": definition,
                    "agent": f"{agent}@{version}",
                    "error": error,
                    "borne": max(one.borne.get(error, 0.0) for one in parts),
                    "items": sum(one.items for one in pieces),
                    "errors": sum(one.errors for one in pieces),
                    "canaries": sum(one.canaries for one in pieces),
                    "caught": sum(one.caught for one in pieces),
                    "people": len(pieces),
                    "e": min(E_MAX, math.exp(min(log_e(pieces), 700.0))),
                    "days": round(days, 1),
                    "missing": missing,
                }
            )
    return found


class WatchingFeed(Service):
    """Reads the monitor's topics into a `Watching`, from their beginning, and follows them."""

    def __init__(
        self, client: Mapping[str, Any], topics: TopicSet, watching: Watching, keys: Mapping[str, SealKey]
    ) -> None:
        super().__init__()
        self._client, self._watching, self._keys = client, watching, keys
        self._takes: dict[str, Callable[[Any], None]] = {
            topics.name(PEOPLE): self._person,
            topics.name(GATES): self._gate,
            topics.name(ALERTS): self._alert,
        }
        self.log = structlog.get_logger(role="console")

    async def on_start(self) -> None:
        """Begin to read."""
        self.add_future(self._run())

    async def _run(self) -> None:
        while not self.should_stop:
            try:
                await self._follow()
            except (HitlError, KafkaError, OSError) as error:  # TimeoutError is an OSError
                self._watching.trouble = str(error) or type(error).__name__
                self.log.warning("what the monitor knows cannot be read", error=self._watching.trouble)
            await self.sleep(RETRY_S)

    async def _follow(self) -> None:
        async with started(self._client, committed=True) as consumer:
            parts = await partitions_of(consumer, self._takes)
            if {part.topic for part in parts} != set(self._takes):
                self._watching.trouble = ABSENT
                return
            ends = await consumer.end_offsets(parts)
            consumer.assign(parts)
            await consumer.seek_to_beginning(*parts)
            behind = {part for part, end in ends.items() if await consumer.position(part) < end}
            while not self.should_stop:
                if not behind:
                    self._watching.trouble = ""
                got = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
                for part, records in got.items():
                    for record in records:
                        self._takes[part.topic](record)
                behind = {part for part in behind if await consumer.position(part) < ends[part]}
                await asyncio.sleep(0)

    def _person(self, record: Any) -> None:
        self._watching.take_person(record.key or b"", record.value)

    def _gate(self, record: Any) -> None:
        self._watching.take_gate(record.key or b"", record.value)

    def _alert(self, record: Any) -> None:
        found = read_alert(record.topic, record.value, record.headers, self._keys)
        if not isinstance(found, Undecodable):
            self._watching.take_alert(found)
