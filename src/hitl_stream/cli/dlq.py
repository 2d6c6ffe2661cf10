"""`hitl dlq list`, `show` and `replay`: records that could not be read, and publishing again what can be now."""

from __future__ import annotations

import asyncio
import base64
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Annotated, Any

from aiokafka import AIOKafkaProducer
from cyclopts import App, Parameter
from cyclopts.types import PositiveInt
from msgspec import Struct

from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import Ago, since_ms_of
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.errors import UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.events import ErrorClass
from hitl_stream.lane.admin import Client, reaching
from hitl_stream.lane.reader import read, record_at, spans
from hitl_stream.lane.step import Record
from hitl_stream.settings import Settings
from hitl_stream.wire import records
from hitl_stream.wire.dead_letter import OWN_HEADERS
from hitl_stream.wire.records import header, time_text
from hitl_stream.wiring import kafka_client, topic_set

LETTERS_MAX = 50
"""Dead letters listed unless told otherwise; the newest ones."""
VALUE_SHOWN_MAX = 64 * 1024
"""Of a dead letter's value on a terminal; `--json` gives all of it."""
UNACKED_MAX = 500
"""Letters on their way back at once."""
OURS = "hitl-"

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer


def register(app: App) -> None:
    """Add the verbs."""
    dlq = App(name="dlq", help="Look at dead letters, records that could not be read, and publish them again.")
    dlq.command(dlq_list, name="list")
    dlq.command(dlq_show, name="show")
    dlq.command(dlq_replay, name="replay")
    app.command(dlq)


def dlq_list(
    *,
    since: Ago = None,
    error: ErrorClass | None = None,
    limit: PositiveInt = LETTERS_MAX,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """List the newest dead letters: where they stand, where they came from, and why they could not be read.

    Parameters
    ----------
    since
        Only from so long ago on, such as 1h.
    error
        Only of this class.
    limit
        At most so many.
    json
        One object on stdout: {matched, letters: [{place, at, error, why, source, by, key, bytes}]}.
    """
    settings = flags.load()
    topic = topic_set(settings).name("dlq")
    matched, letters = reading(_letters(kafka_client(settings), topic, since_ms_of(since), error, limit))
    if json:
        emit({"matched": matched, "letters": letters})
        return 0
    widths = {name: max((len(row[name]) for row in letters), default=0) for name in ("place", "error", "source")}
    for row in letters:
        cells = (f"{escaped(row[name]):<{widths[name]}}" for name in widths)
        _print("  ".join((row["at"], *cells, escaped(row["why"]))))
    _print(f"{len(letters)} of {matched} dead letters; look at one: hitl dlq show PLACE", "dim")
    return 0


async def _letters(
    client: Client, topic: str, since_ms: int | None, error: ErrorClass | None, limit: int
) -> tuple[int, list[dict[str, Any]]]:
    """Return how many dead letters match, and the newest of them."""
    newest: dict[int, deque[Record]] = {}
    matched = 0
    async with aclosing(read(client, await spans(client, [topic], since_ms=since_ms))) as batches:
        async for _, partition, found in batches:
            wanted = [r for r in found if error is None or header(r.headers, records.ERROR_HEADER) == error.encode()]
            matched += len(wanted)
            newest.setdefault(partition, deque(maxlen=limit)).extend(wanted)
    every = sorted((r for some in newest.values() for r in some), key=lambda r: (r.timestamp, r.partition, r.offset))
    return matched, [_letter(record) for record in every[-limit:]]


def _letter(record: Record) -> dict[str, Any]:
    def text(name: str) -> str:
        return (header(record.headers, name) or b"").decode("utf-8", "replace")

    return {
        "place": f"{record.topic}/{record.partition}/{record.offset}",
        "at": time_text(record.timestamp),
        "error": text(records.ERROR_HEADER),
        "why": text(records.WHY_HEADER),
        "source": text(records.SOURCE_HEADER),
        "by": text(records.BY_HEADER),
        "key": None if record.key is None else record.key.decode("utf-8", "replace"),
        "bytes": len(record.value or b""),
    }


def dlq_show(
    place: Annotated[str, Parameter(name="PLACE")], /, *, json: Json = False, flags: SettingsFlags = NO_FLAGS
) -> int:
    r"""Print one dead letter: headers, then the value as it came, with everything unprintable as `\x…`. Exit 1 if gone.

    Parameters
    ----------
    place
        topic/partition/offset, as `hitl dlq list` prints it; or partition/offset.
    json
        One object on stdout: {place, at, …, headers, text, base64}; `text` is null where the value is not UTF-8.
    """
    settings = flags.load()
    topic, partition, offset = _place(place, topic_set(settings).name("dlq"))
    record = reading(record_at(kafka_client(settings), topic, partition, offset))
    if record is None:
        _print(f"{topic}/{partition}/{offset}: no dead letter there (any more); list them: hitl dlq list", "red")
        return FOUND
    value = record.value or b""
    headers = [(name, (content or b"").decode("utf-8", "backslashreplace")) for name, content in record.headers]
    if json:
        text: str | None = None
        with suppress(UnicodeDecodeError):
            text = value.decode()
        emit({**_letter(record), "headers": headers, "text": text, "base64": base64.b64encode(value).decode()})
        return 0
    _print(f"{topic}/{partition}/{offset}  {time_text(record.timestamp)}", "bold")
    key = "none" if record.key is None else record.key.decode("utf-8", "backslashreplace")
    for name, content in (("key", key), *headers):
        _print(f"{escaped(name)}: {escaped(content)}", "dim")
    shown = value[:VALUE_SHOWN_MAX].decode("utf-8", "backslashreplace")
    _print("\n" + "\n".join(escaped(line) for line in shown.split("\n")))
    if len(value) > VALUE_SHOWN_MAX:
        _print(f"… and {len(value) - VALUE_SHOWN_MAX} more bytes; --json gives them all", "dim")
    return 0


def _place(text: str, topic: str) -> tuple[str, int, int]:
    parts = text.rsplit("/", 2)
    if len(parts) == 2:
        parts = [topic, *parts]
    if len(parts) != 3 or not all(part.isdigit() and part.isascii() for part in parts[1:]):
        raise UsageError(f"{text!r} is no place; write topic/partition/offset, or partition/offset")
    if parts[0] != topic:
        raise UsageError(f"{text!r} is no dead letter; they stand on {topic}")
    return topic, int(parts[1]), int(parts[2])


# --- replay -----------------------------------------------------------------------------------------------------------


class Back(Struct, frozen=True):
    """A dead letter that can be published again: where it stood, and what came then."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


Send = Callable[[Sequence[Back]], Awaitable[None]]


def dlq_replay(
    *,
    since: Ago = None,
    error: ErrorClass | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Publish dead letters of agents again, as they came, where they came. An id that was decided since stays one.

    What roles of ours wrote is not among them: it is sealed for its place, and whoever wrote it writes it again.

    Parameters
    ----------
    since
        Only from so long ago on, such as 1h.
    error
        Only of this class.
    dry_run
        Say what would be published, and publish nothing.
    json
        One object on stdout: {matched, published, left: {why: count}}.
    """
    settings = flags.load()
    matched, published, left = reading(_replay(settings, since_ms_of(since), error, dry_run))
    if json:
        emit({"matched": matched, "published": published, "left": dict(left)})
        return 0
    word = "would be published" if dry_run else "published"
    _print(f"{published} of {matched} dead letters {word} again")
    for why, count in left.most_common():
        _print(f"  {count} left: {why}", "yellow")
    return 0


async def _replay(
    settings: Settings, since_ms: int | None, error: ErrorClass | None, dry_run: bool
) -> tuple[int, int, Counter[str]]:
    client, topics = kafka_client(settings), topic_set(settings)
    inputs = frozenset({topics.name("actions"), *settings.sources})
    left, backs = Counter[str](), list[Back]()
    matched = published = 0
    async with AsyncExitStack() as stack:
        send: Send | None = None
        async for record in _matching(client, topics.name("dlq"), since_ms, error):
            matched += 1
            back = back_of(record, inputs)
            if isinstance(back, str):
                left[back] += 1
                continue
            published += 1
            if dry_run:
                continue
            if send is None:
                send = await stack.enter_async_context(_sending(client))
            backs.append(back)
            if len(backs) >= UNACKED_MAX:
                await send(backs)
                backs = []
        if send is not None:
            await send(backs)
    return matched, published, left


@asynccontextmanager
async def _sending(client: Client) -> AsyncIterator[Send]:
    """Give what publishes some, and returns once Kafka has all of them."""
    producer = _Producer(**client, acks="all", enable_idempotence=True)
    try:
        with reaching(client):
            await producer.start()

        async def send(backs: Sequence[Back]) -> None:
            sent = [
                await producer.send(one.topic, one.value, one.key, partition=one.partition, headers=list(one.headers))
                for one in backs
            ]
            await asyncio.gather(*sent)

        yield send
    finally:
        await producer.stop()


async def _matching(
    client: Client, topic: str, since_ms: int | None, error: ErrorClass | None
) -> AsyncIterator[Record]:
    async with aclosing(read(client, await spans(client, [topic], since_ms=since_ms))) as batches:
        async for _, _, found in batches:
            for record in found:
                if error is None or header(record.headers, records.ERROR_HEADER) == error.encode():
                    yield record


def back_of(record: Record, inputs: frozenset[str]) -> Back | str:
    """Return what is to be published again of a dead letter, or why it is left; `inputs` are agents' topics."""
    source = (header(record.headers, records.SOURCE_HEADER) or b"").decode("utf-8", "replace")
    topic, _, place = source.partition("/") if source.count("/") == 2 else ("", "", "")
    partition = place.partition("/")[0]
    if topic not in inputs or not (partition.isdigit() and partition.isascii()):
        return f"no agent's: it came from {escaped(topic or source)[:200] or 'nowhere'}"
    if header(record.headers, records.LENGTH_HEADER) is not None:
        return "too long to have been kept: its publisher has to send it again"
    if not record.value:
        return "it is empty"
    headers = tuple((name, content or b"") for name, content in record.headers if name not in OWN_HEADERS)
    if any(name.startswith(OURS) for name, _ in headers):
        return "it carries headers of ours, which no agent may write"
    return Back(topic, int(partition), record.key, record.value, headers)


def _print(text: str, style: str | None = None) -> None:
    out.print(text, style=style, markup=False, soft_wrap=True)
