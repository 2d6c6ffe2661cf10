"""What control has said until now, read from outside: the log, folded from its beginning, and its heartbeats.

Nothing of it is needed to read everything else: where it cannot be had, `Past` says why.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass

from hitl_stream.core.effects import Effects
from hitl_stream.core.errors import BrokenError, UsageError
from hitl_stream.core.events import Rejection
from hitl_stream.lane.admin import Client, cluster_id
from hitl_stream.lane.control_reader import reading_control
from hitl_stream.lane.reader import read, spans
from hitl_stream.wire.control_past import ControlPast
from hitl_stream.wire.signing import read_heartbeat
from hitl_stream.wire.topics import TopicSet


@dataclass(frozen=True)
class Past:
    """The fold of `control`, and when its switches were EFFECTIVE; or `why` it could not be read."""

    log: ControlPast | None
    effects: Effects | None = None
    why: str = ""


async def read_past(client: Client, topics: TopicSet, trust: str, *, heartbeats: bool = True) -> Past:
    """Read `control`, and then the heartbeats, if they are asked for. Raises `UnreachableError` without Kafka."""
    if not trust:
        return Past(None, why="`trust`, the digest of the first keys record, is not set (HITL_TRUST)")
    try:
        audience = await cluster_id(client)
        async with reading_control(client, topics, trust, audience) as reader:
            log = reader.log = ControlPast(audience, trust)
            await reader.catch_up()
    except (UsageError, BrokenError) as error:
        return Past(None, why=str(error))
    if not log.control.keys:
        return Past(None, why=f"{topics.name('control')} holds no record that `trust` names, so nothing on it counts")
    return Past(log, await _effects(client, topics, log) if heartbeats else None)


async def _effects(client: Client, topics: TopicSet, log: ControlPast) -> Effects:
    """Fold the heartbeats that are kept; only those are verified of which something can be learned."""
    switches = log.control.switches.all.values()
    wanted = await spans(client, [topics.name("control.heartbeat")]) if switches else {}
    effects = Effects(switches, complete=all(span.first == 0 for span in wanted.values()))
    async with aclosing(read(client, wanted)) as batches:
        async for _, _, records in batches:
            for record in records:
                if not effects.wants(record.timestamp):
                    effects.passed_over(record.timestamp)
                    continue
                found = read_heartbeat(record.value, record.timestamp, log.control.keys, log.audience)
                if not isinstance(found, Rejection):
                    effects.heard(record.timestamp, found)
    return effects
