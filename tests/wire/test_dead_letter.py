"""A dead letter is what came, with the reason beside it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.dead_letter import OWN_HEADERS, WHY_LENGTH_MAX, dead_letter
from hitl_stream.wire.topics import MIB
from support.make import FakeRecord

RECORD = FakeRecord(b"junk", offset=812, partition=5, key=b"k", headers=[("x", b"1"), ("x", b"2"), ("empty", b"")])


def letter(record: FakeRecord = RECORD, why: str = "no", limit: int = MIB) -> tuple[bytes | None, dict[str, bytes]]:
    value, headers = dead_letter(record, ErrorClass.SCHEMA, why, "local/router/0", limit)
    return value, dict(headers)


def test_value_and_headers_stay_and_the_reason_stands_beside_them() -> None:
    value, headers = dead_letter(RECORD, ErrorClass.NOT_JSON, "malformed", "local/router/0", MIB)
    assert value == b"junk"
    assert headers == [
        ("x", b"1"), ("x", b"2"), ("empty", b""),
        ("hitl-error", b"not_json"), ("hitl-why", b"malformed"), ("hitl-source", b"hitl.actions/5/812"),
        ("hitl-appended", b"2026-11-21T07:10:00.140Z"), ("hitl-by", b"local/router/0"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, b"", b"\x00\xff"])
def test_whatever_came_stays_as_it_was(value: bytes | None) -> None:
    assert letter(FakeRecord(value))[0] == value


@pytest.mark.parametrize("name", sorted(OWN_HEADERS))
def test_a_publisher_cannot_write_our_headers(name: str) -> None:
    _, headers = letter(FakeRecord(b"junk", headers=[(name, b"lie")]))
    assert headers.get(name) != b"lie"


def test_a_header_without_content_becomes_an_empty_one() -> None:
    assert letter(FakeRecord(b"", headers=[("x", None)]))[1]["x"] == b""  # type: ignore[list-item]


def test_a_value_that_cannot_fit_leaves_its_length_and_digest() -> None:
    big = b"x" * 10_000
    value, headers = letter(FakeRecord(big, headers=[("x", b"1")]), limit=9_000)
    assert value == b""
    assert headers["hitl-length"] == b"10000"
    assert headers["hitl-sha256"] == hashlib.sha256(big).hexdigest().encode()
    assert headers["x"] == b"1"


def test_headers_that_cannot_fit_are_dropped_with_the_value() -> None:
    value, headers = letter(FakeRecord(b"v", headers=[("x", b"y" * 10_000)]), limit=9_000)
    assert value == b""
    assert "x" not in headers
    assert headers["hitl-length"] == b"1"


def test_a_reason_is_cut() -> None:
    assert letter(why="é" * 5_000)[1]["hitl-why"].decode() == "é" * WHY_LENGTH_MAX


def test_a_reason_that_is_no_unicode_is_written_all_the_same() -> None:
    assert letter(why="a\ud800b")[1]["hitl-why"] == b"a?b"


@given(
    st.none() | st.binary(max_size=3_000),
    st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=500)), max_size=5),
    st.text(max_size=700),
)
def test_a_dead_letter_always_fits(value: bytes | None, headers: list[tuple[str, bytes]], why: str) -> None:
    limit = 6_000
    kept, found = dead_letter(FakeRecord(value, headers=headers), ErrorClass.SCHEMA, why[:100], "i", limit)
    size = len(kept or b"") + sum(len(name.encode("utf-8", "replace")) + len(content) for name, content in found)
    assert size <= limit + 1_024
