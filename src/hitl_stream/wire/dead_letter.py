"""Dead letters: a record that could not be read, kept as it came, with the reason beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire import records

Header = tuple[str, bytes]
WHY_LENGTH_MAX = 500
OWN_HEADERS = frozenset({
    records.ERROR_HEADER, records.WHY_HEADER, records.SOURCE_HEADER, records.APPENDED_HEADER, records.BY_HEADER,
    records.LENGTH_HEADER, records.SHA256_HEADER,
})  # fmt: skip


class _Source(Protocol):
    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[Header]: ...


def dead_letter(
    record: _Source, error: ErrorClass, why: str, instance: str, bytes_max: int
) -> tuple[bytes | None, list[Header]]:
    """Return value and headers of a dead letter.

    The value is the original; where it cannot fit into `bytes_max` it is empty and its length and SHA-256 stand in the
    headers. Headers of the same names that came with the record are dropped, so that a publisher cannot forge ours.
    """
    value = record.value
    kept = tuple((name, content or b"") for name, content in record.headers if name not in OWN_HEADERS)
    size = len(value or b"") + sum(len(name) + len(content) for name, content in kept) + 1_024
    extra: tuple[Header, ...] = ()
    if value is not None and size > bytes_max:
        extra = (
            (records.LENGTH_HEADER, str(len(value)).encode()),
            (records.SHA256_HEADER, hashlib.sha256(value).hexdigest().encode()),
        )
        value = b""
        kept = kept if size - len(record.value or b"") <= bytes_max else ()
    place = f"{record.topic}/{record.partition}/{record.offset}"
    own = (
        (records.ERROR_HEADER, error.encode()),
        (records.WHY_HEADER, why[:WHY_LENGTH_MAX].encode("utf-8", "replace")),
        (records.SOURCE_HEADER, place.encode()),
        (records.APPENDED_HEADER, records.time_text(record.timestamp).encode()),
        (records.BY_HEADER, instance.encode()),
    )
    return value, [*kept, *own, *extra]
