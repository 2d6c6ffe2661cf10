"""What the monitor reads and writes: judgements under the desk's seal, its own alerts, and what it asks people for.

Whoever watches people does so under another name than theirs: a keyed digest, which only whoever has the monitor's key
can make. Tables, alerts and commands hold nothing else of them; only what it asks people for, which nobody but the
desk reads, says a name. Reading raises on no bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.events import ErrorClass
from hitl_stream.wire.codec import Decoded, Undecodable
from hitl_stream.wire.decided import Decided, decided_action, opened
from hitl_stream.wire.desk_records import (
    HUMAN_DECISION,
    OBSERVATION,
    WRITER,
    HumanDecision,
    Observation,
    decision_of,
    decode_human_decision,
    decode_observation,
    ms_of,
)
from hitl_stream.wire.records import ACTION_MARK, Held, Routed, encode
from hitl_stream.wire.seal import SealKey

ALERT = "alert/1"
ALERT_WRITER = "hitl-seal is not a monitor's, which alone writes to {}"
PSEUDONYM = "pseudonym"
"""What the names of the files begin with that hold the key of pseudonyms."""
PSEUDONYM_BYTES = 8
"""Two of 10,000 people share one in a case of 10^11."""


class Alert(Struct, frozen=True, kw_only=True):
    """What was seen of one person in one queue, or, where `person` is null, of the queue: on `alerts`, by the queue.

    `row` is that of `core.vigilance`, 0 where levels changed by no row: somebody has qualified anew, or so many of a
    queue are watched that all of it is, or no longer. `level` says how closely this person, or this queue, is watched
    from now on; `page` what somebody is woken for, null: nobody is. `figures` are shares from 0 to 1 and numbers;
    `text` says what can be done; `ended`: what was said before holds no longer. Where `gate` is not null it is about
    that gate alone, which was put back, by the gate, and there is neither queue nor person. `id` is the place of the
    judgement it is by, of a queue its own number. One that says the same `id` once more is no second alert.
    """

    id: str
    queue: str
    person: str | None = None
    row: int
    level: int
    page: Literal["rubber_stamp", "reviewer_unreliable"] | None = None
    gate: str | None = None
    figures: dict[str, float] = {}
    text: str | None = None
    ended: bool = False
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


def read_judgement(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> HumanDecision | Undecodable:
    """Read one record of `decisions`, sealed under one of the desk's `keys`; what was asked is read by `asked_in`."""
    return opened(topic, HUMAN_DECISION, value, headers, keys, WRITER.format(topic), decode_human_decision)


def asked_in(head: str | None, raw: bytes) -> Decided | Undecodable:
    """Return the decision that asked people for a judgement, by its head and the action's bytes (`HumanDecision`)."""
    if head is None:
        return Undecodable(ErrorClass.SCHEMA, "a judgement that does not say what was asked")
    try:
        held = decision_of(Routed(topic="", head=head, seal=""), raw)
    except (ValueError, RecursionError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))
    sealed = head.encode()
    decoded = decided_action(sealed + ACTION_MARK + raw + b"}", held)
    return Decided(held, decoded, sealed) if isinstance(decoded, Decoded) else decoded


def seeded_value(asking: Held, raw: bytes) -> bytes:
    """Return the value of what a monitor asks people for; `raw`, the action's bytes, are its last member, untouched."""
    members: dict[str, Raw] = _members(encode(msgspec.structs.replace(asking, parked=None, action=Raw(b"null"))))
    del members["action"], members["parked"]
    return encode(members | {"action": Raw(raw)})


_members = msgspec.json.Decoder(dict[str, Raw]).decode


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
