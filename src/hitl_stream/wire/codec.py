"""From a record's bytes to an action, or to the exact reason why not.

An action comes as bare JSON, as a structured CloudEvent, or as a binary one with `ce_*` headers (CloudEvents 1.0.2,
Kafka binding). The action's own bytes are kept untouched: the hash is over them, and they are what is shown, approved
and executed. Nothing here raises on any input.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec
import orjson
from msgspec import Struct

from hitl_stream.core.action import (
    ACTION_BYTES_MAX,
    DEPTH_MAX,
    Action,
    Name,
    Time,
)
from hitl_stream.core.events import ErrorClass

Header = tuple[str, bytes]

CE_FIELDS = {"ce_id": "action_id", "ce_type": "type", "ce_time": "proposed_at"}
"""Which CloudEvents attribute stands in for which field, where the data leaves that field out."""
STRUCTURED = b"application/cloudevents+json"
_MAGIC = 0
_WHITE = b" \t\r\n"
NOT_OPENING = bytes(byte for byte in range(256) if byte not in b"{[")
"""What is left without these is at least as many as the levels of nesting: one pass in C."""


class Decoded(Struct, frozen=True, gc=False):
    """An action, its bytes, its hash (SHA-256, in hexadecimal and as bytes), and the `ce_*` values that were used."""

    action: Action
    raw: bytes
    hash: str
    digest: bytes
    ce: tuple[tuple[str, str], ...] = ()


class Undecodable(Struct, frozen=True):
    """Why a record is no action."""

    error: ErrorClass
    why: str


def _leaving_out(names: Collection[str]) -> type[Struct]:
    """Return `Action` with some fields made optional: what CloudEvents attributes may say instead."""
    rows: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(Action):
        if field.name in names:
            rows.append((field.name, field.type | None, None))
        else:
            rows.append((field.name, field.type, field.default))
    # A field without a default cannot follow one with a default.
    rows.sort(key=lambda row: row[2] is not msgspec.NODEFAULT)
    return msgspec.defstruct("LooseAction", [row[:2] if row[2] is msgspec.NODEFAULT else row for row in rows])


class _Event(Struct, frozen=True):
    specversion: str
    id: str
    source: str
    type: str
    time: str | None = None
    data: msgspec.Raw = msgspec.Raw()


_strict = msgspec.json.Decoder(Action)
_loose: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_leaving_out(CE_FIELDS.values()))
_event = msgspec.json.Decoder(_Event)
_time = msgspec.json.Decoder(Time)
_name = msgspec.json.Decoder(Name)


def decode(value: bytes | None, headers: Sequence[Header] = ()) -> Decoded | Undecodable:
    """Decode one record of an action topic."""
    if not value or not headers:
        return decode_bytes(value)
    found = _cloud_event(value, headers)
    return found if isinstance(found, Undecodable) else decode_bytes(*found)


def decode_bytes(value: bytes | None, ce: Mapping[str, str] | None = None) -> Decoded | Undecodable:
    """Decode the bytes of one action; `ce` are the CloudEvents values that may fill what the bytes leave out."""
    if not value:
        return Undecodable(ErrorClass.EMPTY, "the record has no value")
    if value[0] != 0x7B or value[-1] != 0x7D:
        value = value.strip(_WHITE)
        if not value:
            return Undecodable(ErrorClass.EMPTY, "the value is only white space")
    if len(value) > ACTION_BYTES_MAX:
        return Undecodable(ErrorClass.TOO_LARGE, f"{len(value)} bytes; an action has at most {ACTION_BYTES_MAX}")
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError as error:
            if value[0] == _MAGIC:
                return Undecodable(ErrorClass.NOT_JSON, _not_json(value, str(error)))
            return Undecodable(ErrorClass.ENCODING, f"not UTF-8: {error.reason} at byte {error.start}")
    if len(value.translate(None, NOT_OPENING)) > DEPTH_MAX and nesting(value) > DEPTH_MAX:
        return Undecodable(ErrorClass.TOO_DEEP, f"nested deeper than {DEPTH_MAX}")
    used: tuple[tuple[str, str], ...] = ()
    try:
        action = _strict.decode(value)
    except msgspec.ValidationError as error:
        found = _fill(value, ce, str(error)) if ce else Undecodable(ErrorClass.SCHEMA, str(error))
        if isinstance(found, Undecodable):
            return found
        action, used = found
    except msgspec.DecodeError as error:
        return Undecodable(ErrorClass.NOT_JSON, _not_json(value, str(error)))
    except RecursionError:
        return Undecodable(ErrorClass.TOO_DEEP, f"nested deeper than {DEPTH_MAX}")
    if "/" in action.tenant:
        # So that `tenant/action_id` names one action only.
        return Undecodable(ErrorClass.SCHEMA, "a tenant holds no '/' - at `$.tenant`")
    hashed = sha256(value)
    if used:
        for name, text in used:
            hashed.update(b"\0" + name.encode() + b"\0" + text.encode())
    digest = hashed.digest()
    return Decoded(action, value, digest.hex(), digest, used)


def _fill(value: bytes, ce: Mapping[str, str], strict: str) -> tuple[Action, tuple[tuple[str, str], ...]] | Undecodable:
    """Decode an action that leaves out what its CloudEvents attributes say."""
    used = []
    try:
        loose = _loose.decode(value)
        fields = {name: getattr(loose, name) for name in loose.__struct_fields__}
        for header, field in sorted(CE_FIELDS.items()):
            if fields[field] is None:
                if header not in ce:
                    return Undecodable(ErrorClass.SCHEMA, strict)
                text = orjson.dumps(ce[header])
                fields[field] = (_time if field == "proposed_at" else _name).decode(text)
                used.append((header, ce[header]))
    except (msgspec.DecodeError, ValueError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))
    return Action(**fields), tuple(used)


def _cloud_event(value: bytes, headers: Sequence[Header]) -> tuple[bytes, Mapping[str, str] | None] | Undecodable:
    """Return the action's bytes and the CloudEvents attributes beside them."""
    ce: dict[str, str] = {}
    content_type = b""
    for name, content in headers:
        if name == "content-type":
            content_type = content or b""
        elif name.startswith("ce_"):
            try:
                ce[name] = (content or b"").decode()
            except UnicodeDecodeError:
                return Undecodable(ErrorClass.ENCODING, f"header {name} is not UTF-8")
    if content_type.partition(b";")[0].strip().lower() != STRUCTURED:
        return value, ce or None
    try:
        event = _event.decode(value)
    except msgspec.ValidationError as error:
        return Undecodable(ErrorClass.SCHEMA, f"CloudEvent: {error}")
    except msgspec.DecodeError as error:
        return Undecodable(ErrorClass.NOT_JSON, f"CloudEvent: {error}")
    except RecursionError:
        return Undecodable(ErrorClass.TOO_DEEP, f"CloudEvent: nested deeper than {DEPTH_MAX}")
    except UnicodeDecodeError as error:
        return Undecodable(ErrorClass.ENCODING, f"CloudEvent: not UTF-8: {error.reason}")
    if event.specversion != "1.0":
        return Undecodable(ErrorClass.UNKNOWN_TYPE, f"CloudEvents specversion {event.specversion!r}; 1.0 is known")
    data = bytes(event.data)
    if not data:
        return Undecodable(ErrorClass.EMPTY, "the CloudEvent has no data (data_base64 is not read)")
    attributes = {"ce_id": event.id, "ce_type": event.type}
    if event.time is not None:
        attributes["ce_time"] = event.time
    return data, attributes


def _not_json(value: bytes, error: str) -> str:
    if value[0] == _MAGIC and len(value) > 5:
        schema = int.from_bytes(value[1:5], "big")
        return f"a schema-registry frame (magic byte 0, schema id {schema}); publish plain JSON instead"
    if value.startswith(b"\xef\xbb\xbf"):
        return "a byte order mark before the JSON; publish UTF-8 without it"
    return error


def nesting(value: bytes) -> int:
    """Return how deep objects and arrays nest outside of strings."""
    depth = deepest = 0
    inside = escaped = False
    for byte in value:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"{[":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"}]":
            depth -= 1
    return deepest
