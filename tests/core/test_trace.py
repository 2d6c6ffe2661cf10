"""What is carried on as a trace, and what is not."""

from __future__ import annotations

import pytest

from hitl_stream.core.trace import trace_of

TRACE = b"4bf92f3577b34da6a3ce929d0e0e4736"
GOOD = b"00-" + TRACE + b"-00f067aa0ba902b7-01"


def test_a_traceparent_names_its_trace() -> None:
    assert trace_of(GOOD) == TRACE.decode()


@pytest.mark.parametrize("content", [None, b"", b"00-x", GOOD + b"\n", GOOD.upper(), b" " + GOOD, GOOD[:-1], b"\xff"])
def test_whatever_else_stands_there_names_none(content: bytes | None) -> None:
    assert trace_of(content) is None
