"""Logs: one line an event, whatever stands in it."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import unicodedata
from typing import Any

import pytest
import structlog

from hitl_stream.logs import (
    HARMLESS,
    HIDDEN,
    ITEMS_MAX,
    KEYS,
    PAYLOADS,
    TEXT_LENGTH_MAX,
    Format,
    ToStructlog,
    configure,
    escaped,
)

CORPUS = (
    "line\nbreak",
    '\n{"event": "forged", "level": "info"}',
    "\r2026-11-21 [info] forged",
    "\r\n",
    "\x1b[2J\x1b[1;31mred",
    "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m",
    "\x08\x08\x08overwritten",
    "\x00nul",
    "\x7fdel",
    "\u2028line\u2029paragraph\x85next\x0bvertical\x0cform",
    "\u202eoverride\u2066isolate\u200f",
    "zero\u200bwidth\ufeff",
    "tag\U000e0041",
    "half\ud800",
    '=cmd|"/c calc"!A1',
    "'; DROP TABLE logs; --",
    "%s %d %(x)s {0} ${jndi:ldap://x}",
    'quote" back\\slash',
    "x event=forged offset=5",
)
"""New lines, escape sequences, direction and invisible characters, CSV and format strings."""


class Lines(io.StringIO):
    """A stream that remembers what was written."""

    def lines(self) -> list[str]:
        text = self.getvalue()
        assert text.endswith("\n")
        return text[:-1].split("\n")

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines()]


def logged(fmt: Format = "json", level: Any = "info") -> Lines:
    stream = Lines()
    configure(fmt, level, stream)
    return stream


def harmless_looking(line: str) -> bool:
    """Say that a line holds no character that moves a cursor, hides another or ends a line."""
    return not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in line)


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("text", CORPUS)
def test_a_value_stays_in_its_line(fmt: Format, text: str):
    out = logged(fmt)

    structlog.get_logger().info(text, action_id=text, **{f"k{text}": [text, {text: text}]})

    (line,) = out.lines()
    assert harmless_looking(line)


@pytest.mark.parametrize("text", CORPUS)
def test_a_json_line_is_one_object_with_its_event_and_level(text: str):
    out = logged()

    structlog.get_logger().warning("partition opened", action_id=text)

    (record,) = out.records()
    assert (record["event"], record["level"]) == ("partition opened", "warning")
    assert record["action_id"] == escaped(text)


@pytest.mark.parametrize("fmt", ["json", "console"])
@pytest.mark.parametrize("text", CORPUS)
def test_a_line_of_the_standard_library_stays_in_its_line(fmt: Format, text: str):
    out = logged(fmt)

    logging.getLogger("aiokafka.conn").warning("connection lost: %s", text)

    (line,) = out.lines()
    assert harmless_looking(line)


@pytest.mark.parametrize("text", CORPUS)
def test_the_message_of_an_exception_stays_behind_a_bar_on_a_terminal(text: str):
    out = logged("console")

    try:
        raise ValueError(text)
    except ValueError:
        structlog.get_logger().exception("step failed")

    first, *rest = out.lines()
    assert first.split(" [")[1].startswith("error    ] step failed")
    assert rest
    assert all(line.startswith("| ") and harmless_looking(line) for line in rest)


def test_an_exception_is_one_line_of_json_without_the_values_of_variables():
    out = logged()
    secret = "hush"

    try:
        raise ValueError(str(len(secret)))
    except ValueError:
        structlog.get_logger().exception("step failed", offset=5)

    (record,) = out.records()
    assert "| ValueError: 4" in record["exception"]
    assert "hush\n" not in record["exception"]


def test_a_value_cannot_pass_for_another_key_on_a_terminal():
    out = logged("console")

    structlog.get_logger().info("opened", topic="x offset=5")

    assert "topic='x offset=5'" in out.lines()[0]


def test_the_fixed_keys_come_first_and_in_their_order():
    out = logged()

    structlog.get_logger().info("opened", zebra=1, trace_id="t", epoch=3, offset=2, partition=1, topic="x")

    (record,) = out.records()
    assert list(record) == ["at", "level", "event", "topic", "partition", "offset", "epoch", "trace_id", "zebra"]
    assert KEYS[:3] == ("event", "action_id", "decision_id")


def test_what_is_bound_to_the_context_stands_in_every_line():
    out = logged()

    with structlog.contextvars.bound_contextvars(partition=7):
        structlog.get_logger().info("opened")

    assert out.records()[0]["partition"] == 7


@pytest.mark.parametrize("name", sorted(PAYLOADS))
def test_a_payload_is_never_written(name: str):
    out = logged()

    structlog.get_logger().info("decided", **{name: "hush"}, inner={name: "hush"})

    (record,) = out.records()
    assert record[name] == HIDDEN
    assert record["inner"] == {name: HIDDEN}


def test_bytes_are_counted_and_not_written():
    out = logged()

    structlog.get_logger().info("decided", head=b"hush", view=memoryview(b"hush"), many=[bytearray(b"hush!")])

    (record,) = out.records()
    assert (record["head"], record["view"], record["many"]) == ("<4 bytes>", "<4 bytes>", ["<5 bytes>"])


class Mute:
    """Cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, None), (True, True), (1.5, 1.5), (-7, -7), (2**80, str(2**80)), (float("nan"), None),
        ({3: 4}, {"3": 4}), ((1, "a"), [1, "a"]), ({5}, [5]), (Mute(), "<Mute: RuntimeError in str()>"),
        (list(range(1_000)), list(range(ITEMS_MAX))), ([[[["deep"]]]], [[[["deep"]]]]), ([[[[[7]]]]], [[[["[7]"]]]]),
        ("x" * (TEXT_LENGTH_MAX + 5), "x" * TEXT_LENGTH_MAX + "… (+5 characters)"),
    ],
)  # fmt: skip
def test_any_value_can_be_logged_and_none_is_long(value: object, written: object):
    out = logged()

    structlog.get_logger().info("decided", saw=value)

    assert out.records()[0]["saw"] == written


def test_below_its_level_nothing_is_written():
    out = logged(level="warning")

    structlog.get_logger().info("opened")

    assert out.getvalue() == ""


def test_other_peoples_loggers_speak_from_warning_on_in_our_shape():
    out = logged(level="debug")

    logging.getLogger("aiokafka.consumer").info("joining group")
    logging.getLogger("mode.worker").critical("crashed")
    logging.getLogger("faust").log(35, "between two levels")

    assert [(r["logger"], r["level"], r["event"]) for r in out.records()] == [
        ("mode.worker", "critical", "crashed"),
        ("faust", "warning", "between two levels"),
    ]


def test_at_level_error_other_peoples_warnings_are_dropped_too():
    out = logged(level="error")

    logging.getLogger("aiokafka.consumer").warning("slow")

    assert out.getvalue() == ""


def test_arguments_that_do_not_fit_their_format_do_no_harm():
    out = logged()

    ToStructlog().emit(logging.LogRecord("mode", logging.ERROR, "", 0, "%d of %d", (1,), None))

    assert out.records()[0]["event"] == "%d of %d"


@pytest.mark.parametrize("line", HARMLESS, ids=lambda line: line.begins)
def test_a_line_known_to_be_harmless_is_dropped_and_the_same_words_of_another_logger_are_not(line: Any):
    out = logged()
    error = type(line.error, (Exception,), {})("x") if line.error else None

    logging.getLogger(line.logger).warning(line.begins, *["x"] * line.begins.count("%s"), exc_info=error)
    assert out.getvalue() == ""

    logging.getLogger("other").warning(line.begins, *["x"] * line.begins.count("%s"), exc_info=error)
    assert len(out.records()) == 1


def test_a_future_that_failed_for_another_reason_is_not_dropped():
    out = logged()

    logging.getLogger("asyncio").error("Future exception was never retrieved", exc_info=ValueError("x"))

    assert "ValueError" in out.records()[0]["exception"]


def test_configuring_twice_does_not_write_twice():
    logged()
    out = logged()

    logging.getLogger("mode").warning("once")

    assert len(out.lines()) == 1


def test_auto_is_json_where_there_is_no_terminal():
    out = logged("auto")

    structlog.get_logger().info("opened")

    assert out.records()[0]["event"] == "opened"


@pytest.mark.parametrize("no_color", ["", "1"])
def test_auto_is_coloured_on_a_terminal_unless_no_color_says_otherwise(monkeypatch: pytest.MonkeyPatch, no_color: str):
    monkeypatch.setenv("NO_COLOR", no_color)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        configure("auto", "info", terminal)
        structlog.get_logger().info("opened", topic="\x1b[2Jx")
        written = os.read(ours, 65_536).decode()
    os.close(ours)

    assert "opened" in written
    assert "\x1b[2J" not in written
    assert ("\x1b[" in written) is not bool(no_color)
