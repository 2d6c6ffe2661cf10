"""What the monitor reads and writes: observations under the desk's seal, alerts under its own, people by pseudonyms.

Whoever watches people does so under another name than theirs: a keyed digest, which only whoever has the monitor's key
can make. Tables, alerts and commands hold nothing else of them. Reading raises on no bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.decided import opened
from hitl_stream.wire.desk_records import OBSERVATION, WRITER, Observation, decode_observation, ms_of
from hitl_stream.wire.records import encode
from hitl_stream.wire.seal import SealKey

ALERT = "alert/1"
ALERT_WRITER = "hitl-seal is not a monitor's, which alone writes to {}"
PSEUDONYM = "pseudonym"
"""What the names of the files begin with that hold the key of pseudonyms."""
PSEUDONYM_BYTES = 8
"""Two of 10,000 people share one in a case of 10^11."""


class Alert(Struct, frozen=True, kw_only=True):
    """What was seen of one person in one queue: on `alerts`, by the queue. `id` is the place of the judgement it is by.

    `row` is that of `core.vigilance`; `level` how closely this person is watched from now on, in this queue; `page`
    what somebody is woken for, null: nobody is. `figures` are shares from 0 to 1 and numbers. One that says the same
    `id` once more is no second alert.
    """

    id: str
    queue: str
    person: str
    row: int
    level: int
    page: Literal["rubber_stamp", "reviewer_unreliable"] | None = None
    figures: dict[str, float] = {}
    at: str


class Observed(Struct, frozen=True):
    """An observation whose seal is good, and when it was decided, in milliseconds since 1970."""

    observation: Observation
    decided_ms: int


decode_alert = msgspec.json.Decoder(Alert).decode


def read_observation(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> Observed | Undecodable:
    """Read one record of `observations` or `evidence`, sealed under one of the desk's `keys`."""
    return opened(topic, OBSERVATION, value, headers, keys, WRITER.format(topic), _observed)


def alert_value(alert: Alert) -> bytes:
    """Return the value of an alert, all of which is sealed."""
    return encode(alert)


def read_alert(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> Alert | Undecodable:
    """Read one record of `alerts`, sealed under one of the monitor's `keys`."""
    return opened(topic, ALERT, value, headers, keys, ALERT_WRITER.format(topic), decode_alert)


def _observed(value: bytes) -> Observed:
    found = decode_observation(value)
    return Observed(found, ms_of(found.decided_at))


def pseudonym(key: SealKey, name: str) -> str:
    """Return what a person is called where only the monitor knows who that is.

    >>> pseudonym(SealKey("p1", bytes(32)), "ana")
    'p-bcf6f521578803c6'
    """
    digest = hashlib.blake2b(name.encode(), key=key.key, digest_size=PSEUDONYM_BYTES, person=b"hitl-pseudonym")
    return f"p-{digest.hexdigest()}"
