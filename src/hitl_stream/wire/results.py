"""Reading what an executor says became of a call: its seal, its action, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.records import RESULT, Result, decode_result, head_of, header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed


def read_result(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> Result | Undecodable:
    """Read one record of `results`, sealed under one of the executor's `keys`. Nothing raises on any input."""
    if not value:
        return Undecodable(ErrorClass.EMPTY, "the record has no value")
    kind = header(headers, TYPE_HEADER)
    if kind != RESULT.encode():
        return Undecodable(ErrorClass.UNKNOWN_TYPE, f"hitl-type {kind!r:.60}, expected {RESULT}")
    if not sealed(keys, topic, RESULT, head_of(value), header(headers, SEAL_HEADER) or b""):
        return Undecodable(ErrorClass.SEAL, "hitl-seal is not an executor's")
    try:
        return decode_result(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))
