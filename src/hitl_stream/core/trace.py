"""Whose trace an action belongs to: the `traceparent` of W3C Trace Context, and nothing that only looks like one."""

from __future__ import annotations

import re

TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def trace_of(traceparent: bytes | None) -> str | None:
    r"""Return the trace id that a `traceparent` names; None for anything else, which is not carried on.

    >>> trace_of(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    '4bf92f3577b34da6a3ce929d0e0e4736'
    >>> trace_of(b"00-x"), trace_of(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\n"), trace_of(None)
    (None, None, None)
    """
    found = TRACEPARENT.fullmatch(traceparent or b"")
    return None if found is None else found[1].decode()
