"""What people say, record by record of `verdicts`: who signed it, for whom that key may speak, and what was shown.

In this order, the first that applies:
1. the record, its signature and its claims are good, judged at its append time (`wire.signing`);
2. a service's key speaks only as the console's, and only for a person: no service, and not the console itself;
3. a person's own key speaks for its holder alone, in a role that the key lists (`as:<role>`);
4. `view` is the SHA-256 of what was shown.
Whether it counts for its item, also whether it was said before, is the desk's to say (`core.review`). Nothing here
raises on any bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from hitl_stream.core.action import ACTION_BYTES_MAX
from hitl_stream.core.commands import SECONDS_MAX, KeyEntry, milliseconds
from hitl_stream.core.control import ALIVE_MS_MAX, is_same_holder
from hitl_stream.core.events import Refusal, Rejection
from hitl_stream.core.verdicts import AS_ROLE, Judged
from hitl_stream.wire.desk_records import VerdictRecord, decode_verdict_record
from hitl_stream.wire.records import encode
from hitl_stream.wire.signing import VERDICT_BYTES_MAX, SigningKey, read_judgement, sign
from hitl_stream.wire.topics import ENVELOPE_BYTES_MAX, TABLE

CONSOLE = "console"
"""The holder of the one service key that may speak for people: for whoever has signed in there."""
SHOWN_BYTES_MAX = 256 * 1024
"""A card: the action of at most 64 KiB, what stands beside it, and JSON's escapes."""
RECORD_BYTES_MAX = TABLE["decisions"].bytes_max - ACTION_BYTES_MAX - ENVELOPE_BYTES_MAX
"""What the desk leaves of it on `decisions` holds all of it once more, and the action."""
TIME_MS_MAX = SECONDS_MAX * 1000 + 999
"""The last moment that can be written as text, as the records that the desk leaves hold times."""


class Given(Struct, frozen=True):
    """A judgement whose signature is good: its claims, the JWS that they stand in, and the card that was shown."""

    claims: Judged
    jws: str
    shown: str


def read_verdict(
    value: bytes | None, at_ms: int, keys: Mapping[str, KeyEntry], audience: str
) -> Given | Rejection | Refusal:
    """Read a record of `verdicts` that was appended at `at_ms`; `keys` are those that `control` lists, by id."""
    given = read_signed(value, at_ms, keys, audience)
    return given if isinstance(given, Rejection) else refusal_of(given, keys) or given


def read_signed(value: bytes | None, at_ms: int, keys: Mapping[str, KeyEntry], audience: str) -> Given | Rejection:
    """Read a record whose signature is good, whatever it may say: the first half of `read_verdict`."""
    record = _record(value)
    if record is None:
        return Rejection.MALFORMED
    claims = read_judgement(record.jws.encode(), at_ms, keys, audience)
    if isinstance(claims, Rejection):
        return claims
    if not all(0 <= milliseconds(time) <= TIME_MS_MAX for time in (claims.painted, claims.decided)):
        return Rejection.INVALID
    return Given(claims, record.jws, record.shown)


def refusal_of(given: Given, keys: Mapping[str, KeyEntry]) -> Refusal | None:
    """Say why a judgement whose signature is good counts for nothing, as far as its record alone can tell."""
    refusal = authority(given.claims, keys)
    if refusal is None and given.claims.view != view_of(given.shown):
        return Refusal.VIEW
    return refusal


def authority(claims: Judged, keys: Mapping[str, KeyEntry]) -> Refusal | None:
    """Say why the key that signed these claims may not speak for whom they name; None: it may."""
    entry = keys.get(claims.kid)
    if entry is None:
        return Refusal.PERSON
    if _is_service(claims.by, keys):
        return Refusal.SERVICE
    if entry.kind == "service":
        return None if entry.holder == CONSOLE else Refusal.SERVICE
    speaks = claims.by == entry.holder and AS_ROLE + claims.role in entry.types
    return None if speaks else Refusal.PERSON


def view_of(shown: str) -> str:
    """Return the digest of a card, as the claims of a judgement name it."""
    return hashlib.sha256(shown.encode()).hexdigest()


def claims_by(key: SigningKey, audience: str, jti: str, issued_s: int) -> dict[str, Any]:
    """Return what every judgement claims, signed with this key and good for as long as any may be.

    `audience` is the Kafka cluster's id; `jti` has never been used before; `issued_s` is the broker's time.
    """
    lasts_s = ALIVE_MS_MAX // 1000
    claims = {"aud": audience, "kid": key.key_id, "iss": key.holder, "jti": jti}
    return {**claims, "iat": issued_s, "exp": issued_s + lasts_s}


def verdict_value(key: SigningKey, claims: Judged, shown: str) -> bytes:
    """Return the value of a record of `verdicts`.

    Raises `ValueError` for what no reader would take: another card than the claims name, or one that is too long.
    """
    if claims.view != view_of(shown):
        raise ValueError(f"view is {claims.view}, expected the SHA-256 of what was shown, {view_of(shown)}")
    jws = sign(key, claims)
    value = encode(VerdictRecord(jws.decode(), shown))
    for what, length, length_max in (
        ("card", len(shown.encode()), SHOWN_BYTES_MAX),
        ("signed verdict", len(jws), VERDICT_BYTES_MAX),
        ("record", len(value), RECORD_BYTES_MAX),
    ):
        if length > length_max:
            raise ValueError(f"the {what} has {length} bytes, expected at most {length_max}; say or show less")
    return value


def _record(value: bytes | None) -> VerdictRecord | None:
    if not value or len(value) > RECORD_BYTES_MAX:
        return None
    try:
        value.decode()  # the decoder passes over what it does not know, and over its encoding
        record = decode_verdict_record(value)
    except (ValueError, RecursionError):  # `msgspec.DecodeError` and `UnicodeDecodeError` are values that are wrong
        return None
    return record if len(record.shown.encode()) <= SHOWN_BYTES_MAX else None


def _is_service(name: str, keys: Mapping[str, KeyEntry]) -> bool:
    """Say whether a name is the console's, or that of a service which control lists, also by a key that has ended."""
    services = (entry.holder for entry in keys.values() if entry.kind == "service")
    return is_same_holder(name, CONSOLE) or any(is_same_holder(name, service) for service in services)
