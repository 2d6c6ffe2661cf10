"""Reading records whose header names are not UTF-8, which Kafka stores and aiokafka raises `UnicodeDecodeError` at.

A publisher in another language may name a header with any bytes. One such record would stop its partition for ever, and
every reader of it. Importing this module puts a reader into aiokafka's fetcher that reads such a batch once more, in
Python, with U+FFFD for what is no UTF-8; key, value and header values stay as they came. Others cost 50 ns a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

from hitl_stream.lane import aborted as _aborted  # noqa: F401  for what it does to aiokafka, wherever this is imported

_LENGTH_AT = 8
_LENGTH_ENDS = 12
"""A batch begins with its first offset (8 bytes) and the length of what follows (4 bytes)."""


class _Name(bytes):
    """The bytes of a header name, decoded without complaint."""

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:
        return super().decode(encoding, errors)


class _Buffer(bytearray):
    """A batch whose stretches decode without complaint; aiokafka decodes nothing but header names."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _Name(found) if isinstance(at, slice) else found


class _Lenient(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        if not isinstance(self._buffer, _Buffer):
            self._buffer = _Buffer(self._buffer)


class _Batch:
    """A batch as aiokafka reads it, and once more leniently if it cannot.

    The second reading starts at the batch's beginning: the fetcher passes over offsets that it has had.
    """

    __slots__ = ("_bytes", "_strict")

    def __init__(self, strict: Any, content: memoryview) -> None:
        self._strict = strict
        self._bytes = content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strict, name)

    def __next__(self) -> Any:
        return next(self._strict)

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._strict
        except UnicodeDecodeError:
            yield from _Lenient(bytearray(self._bytes))


class ForgivingRecords:
    """What the fetcher makes of a fetched stretch of one partition."""

    __slots__ = ("_at", "_bytes", "_strict")

    def __init__(self, content: bytes) -> None:
        self._strict = MemoryRecords(content)
        self._bytes = memoryview(content)
        self._at = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strict, name)

    @property
    def content(self) -> bytes:
        """Return the bytes as they were fetched."""
        return bytes(self._bytes)

    def next_batch(self) -> _Batch | None:
        """Return the next batch, or None behind the last."""
        strict = self._strict.next_batch()
        if strict is None:
            return None
        start = self._at
        length = int.from_bytes(self._bytes[start + _LENGTH_AT : start + _LENGTH_ENDS], "big")
        self._at = start + _LENGTH_ENDS + length
        return _Batch(strict, self._bytes[start : self._at])


_fetcher: Any = fetcher
_fetcher.MemoryRecords = ForgivingRecords
