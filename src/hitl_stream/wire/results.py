"""Reading what an executor says became of a call: its seal, its action, or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.decided import opened
from hitl_stream.wire.records import RESULT, Result, decode_result
from hitl_stream.wire.seal import SealKey


def read_result(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> Result | Undecodable:
    """Read one record of `results`, sealed under one of the executor's `keys`. Nothing raises on any input."""
    return opened(topic, RESULT, value, headers, keys, "hitl-seal is not an executor's", decode_result)
