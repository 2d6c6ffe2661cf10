"""What a process says: one line an event, JSON to stdout or coloured on a terminal; no value can pass for another line.

Rules: the fixed keys in `KEYS` always mean the same; bytes and the names in `PAYLOADS` are never written, whatever a
caller passes; control and direction characters come out as escapes, in names as in values; a line has a longest length.
Other people's loggers (aiokafka, mode, faust, aiohttp, asyncio) run through the same lines from WARNING on.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from hitl_stream.core.escape import escaped as escaped

KEYS = ("event", "action_id", "decision_id", "topic", "partition", "offset", "epoch", "trace_id")
"""Keys that mean the same wherever they stand, in the order they are written."""
PAYLOADS = frozenset(
    {"action", "authorization", "body", "content", "cookie", "headers", "jws", "key", "note", "password", "payload"}
    | {"rationale", "raw", "seal", "secret", "shown", "text", "token", "value"}
)
"""What a record, a request or a person said, and secrets: topics hold those, under their own access rules."""
HIDDEN = "<not logged>"
TEXT_LENGTH_MAX = 2_000
"""Of one value: an id, a name or a message fits many times over."""
TRACEBACK_LENGTH_MAX = 20_000
ITEMS_MAX = 100
"""Of a list or table in a value; DEPTH_MAX tables may nest."""
DEPTH_MAX = 4


@dataclass(frozen=True, slots=True)
class Harmless:
    """A line of somebody else's that alarms people for nothing."""

    logger: str
    begins: str
    why: str
    error: str = ""
    """The exception's class, where the message alone says too little."""


HARMLESS = (
    Harmless(
        "aiokafka.consumer.group_coordinator",
        "Heartbeat failed for group %s because it is rebalancing",
        "how a member learns of every rebalance; partitions closing and opening are logged by the lane",
    ),
    Harmless(
        "aiokafka.cluster",
        "Topic %s is not available during auto-create initialization",
        "the first look at a topic that was created a moment ago; the client asks again",
    ),
    Harmless(
        "asyncio",
        "Future exception was never retrieved",
        "a fenced producer leaves a future behind (kafka-facts.md); the lane has logged and counted the fencing",
        error="ProducerFenced",
    ),
)

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]


def configure(fmt: Format = "auto", level: Level = "info", stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (stdout), in one shape.

    The stream is taken now: mode redirects `print` into logging later, and a handler that looked stdout up again would
    write into itself.
    """
    out = sys.stdout if stream is None else stream
    on_terminal = out.isatty()
    render = _console(colors=on_terminal and not os.environ.get("NO_COLOR"))
    if fmt == "json" or (fmt == "auto" and not on_terminal):
        render = [_json]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            _safe,
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    _route_stdlib(level)


def _route_stdlib(level: Level) -> None:
    handler = ToStructlog()
    handler.addFilter(worth_saying)
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, ToStructlog)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.ERROR if level == "error" else logging.WARNING)


class ToStructlog(logging.Handler):
    """Hands a record of the standard library's logging on, so that every line of a process has one shape."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's message under its own level, with its logger's name."""
        try:
            event = record.getMessage()
        except Exception:  # arguments that do not fit the format: the message alone is better than a crash
            event = str(record.msg)
        log = structlog.get_logger().bind(logger=record.name)
        if record.exc_info:
            log = log.bind(exc_info=record.exc_info)
        log.log(_known_level(record.levelno), event)


def worth_saying(record: logging.LogRecord) -> bool:
    """Say whether a record is none of the `HARMLESS` ones."""
    return not any(_is(record, line) for line in HARMLESS)


def _is(record: logging.LogRecord, line: Harmless) -> bool:
    if record.name != line.logger or not str(record.msg).startswith(line.begins):
        return False
    kind = record.exc_info[0] if record.exc_info else None
    return not line.error or (kind is not None and kind.__name__ == line.error)


def _known_level(number: int) -> int:
    levels = (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO)
    return next((level for level in levels if number >= level), logging.DEBUG)


def _safe(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Order the keys, drop payloads, and turn every value into plain, escaped, bounded data."""
    safe: EventDict = {}
    for name in _ordered(event):
        value = event[name]
        if name == "exception":
            safe[name] = _traceback(str(value))
        elif name in PAYLOADS:
            safe[name] = HIDDEN
        else:
            safe[escaped(str(name))] = _plain(value)
    return safe


def _ordered(event: Mapping[str, Any]) -> Iterable[str]:
    first = ("at", "level", *KEYS)
    yield from (name for name in first if name in event)
    yield from (name for name in event if name not in first)


def _plain(value: object, depth: int = 0) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 2**53 else str(int(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth < DEPTH_MAX and isinstance(value, Mapping):
        items = list(value.items())[:ITEMS_MAX]
        return {escaped(str(k)): HIDDEN if k in PAYLOADS else _plain(v, depth + 1) for k, v in items}
    if depth < DEPTH_MAX and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth + 1) for item in list(value)[:ITEMS_MAX]]
    return _cut(escaped(_text(value)), TEXT_LENGTH_MAX)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # a log line must not be what stops a process
        return f"<{type(value).__name__}: {type(error).__name__} in str()>"


def _traceback(text: str) -> str:
    """Return a traceback, each line behind a bar: a message of several lines cannot pass for a log line."""
    return "\n".join(f"| {escaped(line)}" for line in _cut(text, TRACEBACK_LENGTH_MAX).split("\n"))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… (+{len(text) - length} characters)"


def _json(_: WrappedLogger, __: str, event: EventDict) -> str:
    return orjson.dumps(event).decode()


def _console(colors: bool) -> list[Processor]:
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors,
        sort_keys=False,
        repr_native_str=True,  # quoted: a value with a space and a `=` cannot pass for another key
        timestamp_key="at",
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [renderer]
