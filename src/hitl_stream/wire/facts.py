"""Reading what executor and connectors saw on the platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hitl_stream.wire.records import FACT, Fact, decode_fact, header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed


def read_fact(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> Fact | None:
    """Return a fact that is sealed under one of `keys`; None for anything else. Nothing raises on any input."""
    if not value or header(headers, TYPE_HEADER) != FACT.encode():
        return None
    if not sealed(keys, topic, FACT, value, header(headers, SEAL_HEADER) or b""):
        return None
    try:
        return decode_fact(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
