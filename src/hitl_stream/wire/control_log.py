"""The control log as it comes out of Kafka, record by record: checked once, folded, and remembered by epoch.

What starts it is the `keys` record whose SHA-256 stands in every host's settings (`trust`): it lists the key that it is
signed with. Nothing before it counts for anything, nor does anything if that record is not there.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter

from hitl_stream.core.commands import Command, KeyEntry
from hitl_stream.core.control import NOTHING, Control
from hitl_stream.core.events import Rejection
from hitl_stream.wire.signing import claimed_keys, read_command


class ControlLog:
    """A fold of `control` under one trust, for one cluster."""

    def __init__(self, audience: str, trust: str, control: Control | None = None) -> None:
        self.audience = audience
        """Id of the Kafka cluster: whom commands must be meant for."""
        self.trust = trust
        self.control = control or Control()
        self.rejected: Counter[Rejection] = Counter()
        self._offsets: list[int] = []
        self._digests: list[bytes] = []
        self._found: list[Rejection | None] = []

    def take(self, offset: int, at_ms: int, value: bytes | None) -> Rejection | None:
        """Fold the record at `offset`, appended at `at_ms`; return why it counts for nothing, or None.

        Raises `BrokenError` for one that is not newer than the last.
        """
        control = self.control
        found = control.fold(offset, at_ms, value or b"", self._read(at_ms, value))
        if found is not None:
            self.rejected[found] += 1
        self._offsets.append(offset)
        self._digests.append(control.digest)
        self._found.append(found)
        return found

    def digest_at(self, epoch: int) -> bytes | None:
        """Return the digest of the fold when it stood at an epoch; None for one that it has not reached.

        Where no record has that offset, it is that of the newest record before; zeros before the first.
        """
        if epoch > self.control.epoch:
            return None
        place = bisect_right(self._offsets, epoch)
        return self._digests[place - 1] if place else NOTHING

    def rejection_at(self, epoch: int) -> Rejection | None:
        """Return why the record at an epoch counts for nothing, None if it was accepted.

        Raises KeyError where there is no record.
        """
        place = bisect_right(self._offsets, epoch)
        if not place or self._offsets[place - 1] != epoch:
            raise KeyError(epoch)
        return self._found[place - 1]

    def _read(self, at_ms: int, value: bytes | None) -> Command | Rejection:
        return read_command(value, at_ms, self.control.keys or self._first_keys(value), self.audience)

    def _first_keys(self, value: bytes | None) -> dict[str, KeyEntry]:
        """Return the keys that a record lists, if it is the one that `trust` names."""
        if not value or hashlib.sha256(value).hexdigest() != self.trust:
            return {}
        return claimed_keys(value)
