"""How many actions a scope has covered lately, and what was there instead where it covered none.

It reads what was decided, newest first where there is too much of it, and ends within a time: whoever stops something
waits for it. Nothing is checked but that it can be read: what it says is a hint, and decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from difflib import get_close_matches

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.action import Action, Entity
from hitl_stream.core.switches import KINDS, covers, folded, target_of
from hitl_stream.lane.admin import Client
from hitl_stream.lane.reader import Span, Spans, read, spans
from hitl_stream.lane.step import Record
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.topics import TopicSet

DECIDED = ("execute", "review", "escalation", "held")
LATELY_MS = 15 * 60_000
SECONDS_MAX = 3.0
RECORDS_MAX = 200_000
SLICE_RECORDS = 1_000
"""Looked at in one turn: 10 ms."""
IDS_MAX = 5_000
"""Remembered of each kind, to name the nearest."""
NEAREST = 3


class _Seen(Struct):
    tenant: str
    action_id: str
    entity: Entity
    action: Raw
    ce: dict[str, str] = {}


_decode = msgspec.json.Decoder(_Seen).decode


@dataclass(frozen=True)
class Coverage:
    """How many of the actions that were `read` the scope covers; `at_least`: there are more than could be read.

    `nearest` names, for each selector that no action had, ids of its kind that were seen, most similar first.
    """

    actions: int
    read: int
    at_least: bool
    nearest: Mapping[str, tuple[str, ...]]


class Count:
    """What was seen so far, of what a scope is about."""

    def __init__(self, scope: tuple[str, ...]) -> None:
        self.scope = scope
        self._wanted = [(selector, *split(selector)) for selector in scope]
        self._ids: dict[str, dict[str, str]] = {kind: {} for _, kind, _ in self._wanted}
        """By kind: each id as it is compared, and as it was written."""
        self._covered: set[tuple[str, str]] = set()
        self._seen: set[tuple[str, str]] = set()

    def take(self, records: Sequence[Record]) -> None:
        """Look at records; one that cannot be read is passed over."""
        for record in records:
            found = _decided(record.value)
            if found is None:
                continue
            seen, action = found
            identity = seen.tenant, seen.action_id
            self._seen.add(identity)
            if covers(self.scope, target_of(action, seen.tenant, seen.entity)):
                self._covered.add(identity)
            for kind, written in _ids(action, seen.tenant, seen.entity):
                ids = self._ids.get(kind)
                if ids is not None and len(ids) < IDS_MAX:
                    ids[folded(written)] = written

    def result(self, at_least: bool) -> Coverage:
        """Return what it comes to."""
        nearest = {}
        for selector, kind, value in self._wanted:
            ids = self._ids[kind]
            if kind in KINDS and value not in ids:
                close = get_close_matches(value, sorted(ids), NEAREST, cutoff=0.0)
                nearest[selector] = tuple(ids[one] for one in close)
        return Coverage(len(self._covered), len(self._seen), at_least, nearest)


def split(selector: str) -> tuple[str, str]:
    """Return a selector's kind and value as they are compared."""
    kind, _, value = selector.partition(":")
    return folded(kind), folded(value)


def _ids(action: Action, tenant: str, entity: Entity) -> Iterator[tuple[str, str]]:
    yield "tenant", tenant
    yield "type", action.type
    yield "agent", action.agent.id
    yield "agent-version", f"{action.agent.id}@{action.agent.version}"
    if action.destination:
        yield "destination", action.destination
    for one in dict.fromkeys((entity, *(change.entity for change in action.changes))):
        if one.account:
            yield "account", one.account
        if one.campaign:
            yield "campaign", one.campaign


async def coverage(
    client: Client, topics: TopicSet, scope: tuple[str, ...], now_ms: int, *, seconds_max: float = SECONDS_MAX
) -> Coverage:
    """Count the actions decided in the last quarter of an hour that a scope covers.

    `now_ms` is the broker's time. Raises `UnreachableError` when Kafka does not answer.
    """
    count = Count(scope)
    at_least = False
    try:
        async with asyncio.timeout(seconds_max):
            names = [topics.name(name) for name in DECIDED]
            wanted, at_least = newest(await spans(client, names, since_ms=now_ms - LATELY_MS))
            async with aclosing(read(client, wanted)) as batches:
                async for _, _, records in batches:
                    for start in range(0, len(records), SLICE_RECORDS):
                        count.take(records[start : start + SLICE_RECORDS])
                        await asyncio.sleep(0)
    except TimeoutError:
        at_least = True
    return count.result(at_least)


def newest(found: Spans, records_max: int = RECORDS_MAX) -> tuple[Spans, bool]:
    """Return the newest part of each stretch, and whether anything was cut; each gives by its own length."""
    total = sum(span.end - span.start for span in found.values())
    if total <= records_max:
        return found, False
    share = records_max / total
    return {tp: Span(at.first, at.end - int((at.end - at.start) * share), at.end) for tp, at in found.items()}, True


def _decided(value: bytes | None) -> tuple[_Seen, Action] | None:
    try:
        seen = _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    decoded = decode_bytes(bytes(seen.action), seen.ce)
    return None if isinstance(decoded, Undecodable) else (seen, decoded.action)
