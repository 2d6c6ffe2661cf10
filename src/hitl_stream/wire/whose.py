"""Whose seal a record carries, among the roles that may have written it; for a reader who does not have every key."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hitl_stream.wire.records import header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer

Keys = Mapping[str, Mapping[str, SealKey]]
"""Role → its seal keys by id; a role of which there is no key here is not among them."""


class Whose(NamedTuple):
    """The role that sealed a record; or the `fault` for which no role did. Neither: its keys are not here."""

    role: str | None = None
    fault: str | None = None


NOT_KNOWN = Whose()


class Seals:
    """Checks seals under the keys that are here; a sealer is made once for each topic, type and key."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self._sealers: dict[tuple[str, str], dict[bytes, list[tuple[str, Callable[[bytes], bytes]]]]] = {}

    def whose(
        self, topic: str, kind: str, headers: Sequence[tuple[str, bytes]], head: bytes, roles: Sequence[str]
    ) -> Whose:
        """Say which of `roles` sealed a record of `topic`; `head` is what is sealed."""
        if not any(role in self.keys for role in roles):
            return NOT_KNOWN
        if header(headers, TYPE_HEADER) != kind.encode():
            return Whose(fault=f"{TYPE_HEADER} is not {kind}")
        seal = header(headers, SEAL_HEADER) or b""
        known = self._of(topic, kind).get(seal.partition(b":")[0], ())
        mine = [(role, seal_of) for role, seal_of in known if role in roles]
        for role, seal_of in mine:
            if hmac.compare_digest(seal_of(head), seal):
                return Whose(role)
        if mine:
            return Whose(fault="the seal does not fit")
        if not seal:
            return Whose(fault="no seal")
        if all(role in self.keys for role in roles):
            return Whose(fault=f"sealed under a key id that is not one of {' or '.join(roles)}")
        return NOT_KNOWN

    def _of(self, topic: str, kind: str) -> dict[bytes, list[tuple[str, Callable[[bytes], bytes]]]]:
        found = self._sealers.get((topic, kind))
        if found is None:
            found = self._sealers[topic, kind] = {}
            for role, keys in self.keys.items():
                for key_id, key in keys.items():
                    found.setdefault(key_id.encode(), []).append((role, sealer(key, topic, kind)))
        return found
