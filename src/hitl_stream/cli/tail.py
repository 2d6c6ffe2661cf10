"""`hitl tail TOPIC ...`: what is being written, a line a record, until Ctrl-C.

A line says when, where, and what stands in the record that people look for; what is in no such place is not shown:
`--json` gives the whole record. Nothing is checked here: a forged record is shown like any other, and `hitl explain`
and `hitl verify` say what counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from cyclopts.types import PositiveInt

from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import Ago, since_ms_of
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.errors import RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.lane.admin import Client
from hitl_stream.lane.reader import partitions_of, started
from hitl_stream.lane.step import Record
from hitl_stream.wire.records import header, time_text
from hitl_stream.wire.seal import TYPE_HEADER
from hitl_stream.wire.topics import TABLE
from hitl_stream.wiring import kafka_client, topic_set

POLL_MS = 500
RECORDS_MAX = 500
TEXT_MAX = 60
"""Of one part of a line."""
SAYS = (
    "outcome", "end", "status", "verdict", "state", "effect", "why", "tenant", "action_id", "type", "queue", "by",
    "reviewer", "gate", "row", "level",
)  # fmt: skip
"""Members that a line shows, in this order, where a record has them."""
STYLES = {"EXECUTE": "green", "REFUSE": "red", "HOLD": "magenta", "ESCALATE": "yellow", "REVIEW": "blue"}
FEW = ("execute", "review", "escalation", "held", "results", "closed")
"""What is shown where no topic is named: every action goes through one of them."""


def register(app: App) -> None:
    """Add the verb."""
    app.command(tail)


def tail(
    *topics: Annotated[str, Parameter(name="TOPIC")],
    since: Ago = None,
    count: PositiveInt | None = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Show what is written from now on, a line a record, until Ctrl-C: hitl tail execute results.

    Parameters
    ----------
    topics
        Names as `hitl topics` has them, without the prefix. None: where routed actions go and end.
    since
        Also what was appended since so long ago, such as 10m.
    count
        End after so many records.
    json
        One object a line on stdout: {topic, partition, offset, at, key, type, value}; `value` is text where it is no
        JSON, null where there is none.
    """
    unknown = [name for name in topics if name not in TABLE]
    if unknown:
        raise UsageError(f"no topic {escaped(unknown[0])}; topics are {', '.join(sorted(TABLE))}")
    settings = flags.load()
    names = topic_set(settings)
    wanted = {names.name(name): name for name in topics or FEW}
    try:
        reading(_show(kafka_client(settings), wanted, since_ms_of(since), count, json))
    except KeyboardInterrupt:
        return 0
    return 0


async def _show(client: Client, wanted: Mapping[str, str], since_ms: int | None, count: int | None, json: bool) -> None:
    left = count
    async for record in _following(client, list(wanted), since_ms):
        name = wanted[record.topic]
        if json:
            emit(row_of(record, name))
        else:
            text, style = line_of(record, name)
            out.print(text, style=style, markup=False, soft_wrap=True)
        if left is not None:
            left -= 1
            if not left:
                return


async def _following(client: Client, topics: Sequence[str], since_ms: int | None) -> AsyncIterator[Record]:
    async with started(client, committed=True) as consumer:
        parts = await partitions_of(consumer, topics)
        if not parts:
            raise RefusedError(f"none of {', '.join(map(escaped, topics))} exists; make them: hitl topics apply")
        consumer.assign(parts)
        await consumer.seek_to_end(*parts)
        if since_ms is not None:
            for tp, at in (await consumer.offsets_for_times(dict.fromkeys(parts, max(0, since_ms)))).items():
                if at is not None:
                    consumer.seek(tp, at.offset)
        while True:
            found = await consumer.getmany(timeout_ms=POLL_MS, max_records=RECORDS_MAX)
            for record in sorted((r for some in found.values() for r in some), key=lambda r: r.timestamp):
                yield record
            await asyncio.sleep(0)


def line_of(record: Record, name: str) -> tuple[str, str | None]:
    """Return the line of a record, safe to print, and its colour."""
    place = f"{name}/{record.partition}/{record.offset}"
    value = _read(record.value)
    if isinstance(value, Mapping):
        says = [f"{member}={_short(value[member])}" for member in SAYS if value.get(member) not in (None, "", [], {})]
        reasons = value.get("reasons")
        rules = [row.get("rule") for row in reasons if isinstance(row, dict)] if isinstance(reasons, list) else []
        says += [f"rules={_short(rules)}"] if rules else []
    else:
        says = ["erased" if record.value is None else f"{len(record.value)} bytes, no JSON"]
    outcome = value.get("outcome") if isinstance(value, Mapping) else None
    return "  ".join((time_text(record.timestamp), place, *says)), STYLES.get(str(outcome))


def row_of(record: Record, name: str) -> dict[str, Any]:
    """Return a record as data."""
    kind = header(record.headers, TYPE_HEADER)
    value = _read(record.value)
    return {
        "topic": name,
        "partition": record.partition,
        "offset": record.offset,
        "at": time_text(record.timestamp),
        "key": None if record.key is None else record.key.decode("utf-8", "replace"),
        "type": None if kind is None else kind.decode("utf-8", "replace"),
        "value": record.value.decode("utf-8", "replace") if value is None and record.value is not None else value,
    }


def _read(value: bytes | None) -> Any:
    """Return what JSON stands there, None where none does."""
    try:
        return None if value is None else msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _short(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return escaped(text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…")
