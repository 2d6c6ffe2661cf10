"""What tests of signed commands share: two people, a service, their first keys, and a log to fold.

Every time is fixed and lies far from the present: whatever read the clock of this machine would fail.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from hitl_stream.core.commands import TYPES, Command, KeyEntry, Keys
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.signing import SigningKey, key_entry, new_signing_key, sign

CLUSTER = "cluster-1"
NOW_S = 1_000_000_000
"""September 2001."""
NOW_MS = NOW_S * 1000
DAY_S = 86_400
ALIVE_S = 900

ANA = new_signing_key("ana-1", "ana")
BEN = new_signing_key("ben-1", "ben")
CONTROL = new_signing_key("control-1", "control", "service")
MALLORY = new_signing_key("mallory-1", "mallory")
_numbers = itertools.count()


def claims(key: SigningKey, **others: Any) -> dict[str, Any]:
    """Return what every command claims; `others` take the place of single ones."""
    mine = {"aud": CLUSTER, "kid": key.key_id, "iss": key.holder, "jti": f"c-{next(_numbers)}", "iat": NOW_S}
    return mine | {"exp": others.get("iat", NOW_S) + ALIVE_S} | others


def signed(key: SigningKey, make: Any, **fields: Any) -> bytes:
    """Return the signed command `make(…)`; fields that are claims take the place of the usual ones."""
    common = {name: fields.pop(name) for name in list(fields) if name in Command.__struct_fields__}
    return sign(key, make(**claims(key, **common), **fields))


def entry(key: SigningKey, *types: str, from_s: int = NOW_S - DAY_S, until_s: int = NOW_S + 400 * DAY_S) -> KeyEntry:
    """Return the entry that lists a key; without `types`, for all of them."""
    every = (*TYPES, "heartbeat")
    return key_entry(key, types or every, datetime.fromtimestamp(from_s, UTC), datetime.fromtimestamp(until_s, UTC))


KEYS = {key.key_id: entry(key) for key in (ANA, BEN, CONTROL)}
"""By key id, as the log lists them."""
FIRST = signed(ANA, Keys, keys=tuple(KEYS.values()))
TRUST = hashlib.sha256(FIRST).hexdigest()


def begun(*values: bytes | None, at_ms: int = NOW_MS) -> ControlLog:
    """Return a log that holds the first keys and then these records, all of them accepted."""
    log = ControlLog(CLUSTER, TRUST)
    for offset, value in enumerate((FIRST, *values)):
        assert log.take(offset, at_ms, value) is None
    return log


def places(text: bytes) -> Iterator[bytes]:
    """Yield a text with each byte changed in turn, to something of every kind, taken out, and doubled."""
    for place, byte in enumerate(text):
        before, after = text[:place], text[place + 1 :]
        others = {b"A", b"b", b"_", b".", b"=", b"+", b" ", b"\0", b"\x80", bytes([byte ^ 1]), bytes([byte ^ 0x20])}
        yield from (before + other + after for other in others if other[0] != byte)
        yield before + after
        yield before + bytes([byte]) + text[place:]
