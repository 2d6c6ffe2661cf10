"""Signatures of commands, heartbeats and verdicts: compact JWS (RFC 7515) with Ed25519, and the files that keys lie in.

Rules:
- One algorithm, by the name that RFC 9864 gives it. The header holds `alg` and `kid` and nothing else: no key, no
  address of one, nothing critical. Of what a token says only `kid` chooses a key, among those that the log lists.
- Time is the append time of the record, never the reader's: a reader that comes a year later judges the same.
- What is read depends on the bytes alone. Base64 is the canonical one; depth and sizes of numbers have limits of their
  own, since those of a decoder or an interpreter differ between two hosts, and their folds would.
- Nothing here raises on any bytes.
"""

from __future__ import annotations

import binascii
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry
from joserfc.registry import HeaderParameter
from msgspec import Struct

from hitl_stream.core.action import DEPTH_MAX
from hitl_stream.core.commands import (
    INT_MAX,
    AnyCommand,
    Command,
    GateChange,
    Heartbeat,
    KeyEntry,
    Keys,
    LevelChange,
    milliseconds,
    type_of,
)
from hitl_stream.core.control import AHEAD_MS_MAX, ALIVE_MS_MAX
from hitl_stream.core.errors import SettingsError
from hitl_stream.core.events import Rejection
from hitl_stream.core.verdicts import AnyVerdict, Judged
from hitl_stream.wire.codec import NOT_OPENING, nesting
from hitl_stream.wire.seal import by_age

ALGORITHM = "Ed25519"
CURVE: Literal["Ed25519"] = "Ed25519"
COMMAND_BYTES_MAX = 1024 * 1024
"""What the topic takes in one record."""
HEARTBEAT_BYTES_MAX = 64 * 1024
"""A thousand instances in one heartbeat; four come a second."""
VERDICT_BYTES_MAX = 64 * 1024
"""A hundred changed fields of 500 characters, and a note."""
HEADER_BYTES_MAX = 512
SIGNATURE_BYTES = 64
KEY_FILE_BYTES_MAX = 64 * 1024
PUBLIC_KEYS_CACHED = 1024
SUFFIX = ".jwk"
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A key id is the name of a file, too."""

Kind = Literal["person", "service"]
_C = TypeVar("_C", bound=Command)
_SHAPE = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]*)")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_URLSAFE = bytes.maketrans(b"+/", b"-_")


class _Registry(JWSRegistry):
    """One algorithm, two header parameters, and records as long as the topic takes."""

    default_header_registry = {  # noqa: RUF012  as the base class has it
        "alg": HeaderParameter("Algorithm", "str", required=True),
        "kid": HeaderParameter("Key ID", "str", required=True),
    }
    max_payload_length = COMMAND_BYTES_MAX


_REGISTRY = _Registry(algorithms=[ALGORITHM])


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    alg: str
    kid: str


_decode_header = msgspec.json.Decoder(_Header).decode
_commands: msgspec.json.Decoder[Command] = msgspec.json.Decoder(AnyCommand)
_heartbeats = msgspec.json.Decoder(Heartbeat)
_verdicts: msgspec.json.Decoder[Judged] = msgspec.json.Decoder(AnyVerdict)
_encode = msgspec.json.Encoder().encode


# --- keys -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SigningKey:
    """A private key: its id, and the holder and kind that the log lists it under."""

    key_id: str
    holder: str
    kind: Kind
    private: OKPKey = field(repr=False)


def new_signing_key(key_id: str, holder: str, kind: Kind = "person") -> SigningKey:
    """Make a key; raise SettingsError for an id that cannot be a file's name."""
    if not KEY_ID.fullmatch(key_id):
        raise SettingsError(f"{key_id!r} is no key id; expected 1 to 64 of A-Z a-z 0-9 . _ -, such as ana-1")
    return SigningKey(key_id, holder, kind, OKPKey.generate_key(CURVE, private=True))


def public_jwk(key: SigningKey) -> dict[str, str]:
    """Return what the log lists of a key (RFC 8037)."""
    # From the private part: an imported key repeats whatever public part its file claimed.
    return {"kty": "OKP", **OKPKey.binding.export_public_key(key.private.public_key)}


def key_entry(key: SigningKey, types: tuple[str, ...], from_: datetime, until: datetime) -> KeyEntry:
    """Return the entry by which a `keys` command lists this key: it may sign `types` from then until before then."""
    return KeyEntry(
        holder=key.holder, kind=key.kind, key_id=key.key_id, jwk=public_jwk(key), types=types, from_=from_, until=until
    )


# --- signing ----------------------------------------------------------------------------------------------------------


def sign(key: SigningKey, command: Command) -> bytes:
    """Return the record's value. The command claims this key and its holder."""
    assert (command.kid, command.iss) == (key.key_id, key.holder), "a command names the key that signs it"
    header = {"alg": ALGORITHM, "kid": key.key_id}
    return jws.serialize_compact(header, _encode(command), key.private, registry=_REGISTRY).encode()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_command(value: bytes | None, at_ms: int, keys: Mapping[str, KeyEntry], audience: str) -> Command | Rejection:
    """Return the command in a record of `control` that was appended at `at_ms`, or why it is none."""
    found = _read(value, COMMAND_BYTES_MAX, at_ms, keys, audience, _commands)
    if isinstance(found, Rejection):
        return found
    if isinstance(found, GateChange | LevelChange) and not _has_small_integers(found.evidence):
        return Rejection.MALFORMED
    if isinstance(found, Keys) and not all(_usable(entry) for entry in found.keys):
        return Rejection.INVALID
    return found


def read_heartbeat(
    value: bytes | None, at_ms: int, keys: Mapping[str, KeyEntry], audience: str
) -> Heartbeat | Rejection:
    """Return the heartbeat in a record of `control.heartbeat` that was appended at `at_ms`, or why it is none."""
    return _read(value, HEARTBEAT_BYTES_MAX, at_ms, keys, audience, _heartbeats)


def read_judgement(value: bytes | None, at_ms: int, keys: Mapping[str, KeyEntry], audience: str) -> Judged | Rejection:
    """Return the claims of a JWS on `verdicts` that was appended at `at_ms`, or why they are none.

    Whose word the key may give is another question: see `wire.verdicts`.
    """
    return _read(value, VERDICT_BYTES_MAX, at_ms, keys, audience, _verdicts)


def claimed_keys(value: bytes) -> dict[str, KeyEntry]:
    """Return the keys that a `keys` record lists, its signature *not* checked; none for any other record.

    For the one record whose digest is trusted: it is then checked with a key of its own.
    """
    shape = _SHAPE.fullmatch(value) if len(value) <= COMMAND_BYTES_MAX else None
    payload = _bytes_of(shape[2]) if shape else None
    command = _decoded(payload, _commands) if payload else None
    return {entry.key_id: entry for entry in command.keys} if isinstance(command, Keys) else {}


def judge_time(command: Command, at_ms: int) -> Rejection | None:
    """Say whether a command appended at `at_ms` came in its time: not after its end, not before it was issued."""
    if command.exp * 1000 < at_ms:
        return Rejection.EXPIRED
    if command.iat * 1000 > at_ms + AHEAD_MS_MAX or (command.exp - command.iat) * 1000 > ALIVE_MS_MAX:
        return Rejection.EARLY
    return None


def _read(
    value: bytes | None,
    bytes_max: int,
    at_ms: int,
    keys: Mapping[str, KeyEntry],
    audience: str,
    decoder: msgspec.json.Decoder[_C],
) -> _C | Rejection:
    """Judge what costs least first; the payload is not looked at before its signature is good."""
    if not value or len(value) > bytes_max:
        return Rejection.MALFORMED
    shape = _SHAPE.fullmatch(value)
    header = _header(shape[1]) if shape else None
    if shape is None or header is None:
        return Rejection.MALFORMED
    if header.alg != ALGORITHM:
        return Rejection.ALGORITHM
    entry = keys.get(header.kid)
    if entry is None:
        return Rejection.UNKNOWN_KEY
    if not milliseconds(entry.from_) <= at_ms < milliseconds(entry.until):
        return Rejection.KEY_TIME
    signature = _bytes_of(shape[3])
    if signature is None or len(signature) != SIGNATURE_BYTES or not _signed(value, entry):
        return Rejection.SIGNATURE
    payload = _bytes_of(shape[2])
    command = _decoded(payload, decoder) if payload else None
    if command is None:
        return Rejection.MALFORMED
    return _judge(command, at_ms, entry, audience) or command


def _header(segment: bytes) -> _Header | None:
    text = _bytes_of(segment) if len(segment) <= HEADER_BYTES_MAX else None
    if text is None:
        return None
    try:
        return _decode_header(text)
    except ValueError:
        return None


def _judge(command: Command, at_ms: int, entry: KeyEntry, audience: str) -> Rejection | None:
    """Judge the claims of a command that this key has signed."""
    if command.kid != entry.key_id or command.iss != entry.holder:
        return Rejection.ISSUER
    if command.aud != audience:
        return Rejection.AUDIENCE
    if type_of(command) not in entry.types:
        return Rejection.TYPE
    return judge_time(command, at_ms)


def _signed(value: bytes, entry: KeyEntry) -> bool:
    if not _usable(entry):
        return False
    try:
        jws.deserialize_compact(value, _public_key(entry.jwk["x"]), registry=_REGISTRY)
    except (JoseError, ValueError):
        return False
    return True


def _usable(entry: KeyEntry) -> bool:
    """Say whether signatures can be checked with an entry. A private part, which must not stand there, is one more."""
    jwk = entry.jwk
    if jwk.keys() != {"kty", "crv", "x"} or jwk["kty"] != "OKP" or jwk["crv"] != CURVE:
        return False
    return bool(KEY_ID.fullmatch(entry.key_id)) and _public_key(jwk["x"]) is not None


@lru_cache(maxsize=PUBLIC_KEYS_CACHED)
def _public_key(x: str) -> OKPKey | None:
    if _bytes_of(x.encode("ascii", "replace")) is None:
        return None
    try:
        return OKPKey.import_key({"kty": "OKP", "crv": CURVE, "x": x})
    except (JoseError, ValueError):
        return None


def _bytes_of(segment: bytes) -> bytes | None:
    """Decode base64url without padding; None for any spelling but the one that an encoder writes."""
    try:
        found = binascii.a2b_base64(segment.translate(_STANDARD) + b"=" * (-len(segment) % 4), strict_mode=True)
    except binascii.Error:
        return None
    return found if binascii.b2a_base64(found, newline=False).translate(_URLSAFE, b"=") == segment else None


def _decoded(payload: bytes, decoder: msgspec.json.Decoder[_C]) -> _C | None:
    if len(payload.translate(None, NOT_OPENING)) > DEPTH_MAX and nesting(payload) > DEPTH_MAX:
        return None  # so that the decoder's recursion never ends at the stack of this process
    try:
        payload.decode()  # the decoder passes over what it does not know, and over its encoding
        return decoder.decode(payload)
    except ValueError:
        return None


def _has_small_integers(value: Any) -> bool:
    """Say whether every integer fits 64 bits: longer ones are read, or not, by the interpreter's settings."""
    match value:
        case dict():
            return all(map(_has_small_integers, value.values()))
        case list():
            return all(map(_has_small_integers, value))
        case int():
            return -INT_MAX <= value <= INT_MAX
    return True


# --- key files --------------------------------------------------------------------------------------------------------


class _File(Struct, frozen=True):
    """A private JWK (RFC 8037), and whose it is."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str
    d: str
    kid: str
    holder: str
    kind: Kind = "person"


_decode_file = msgspec.json.Decoder(_File).decode


def create_signing_key(directory: Path, key_id: str, holder: str, kind: Kind = "person") -> SigningKey:
    """Make the file `<key id>.jwk`, readable by its owner alone; the same holder's existing one is left as it is."""
    key = new_signing_key(key_id, holder, kind)
    path = directory / f"{key_id}{SUFFIX}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _same(read_signing_key(path), path, holder, kind)
    with os.fdopen(descriptor, "wb") as file:
        secret = str(key.private.as_dict(private=True)["d"])
        file.write(_encode({**public_jwk(key), "d": secret, "kid": key_id, "holder": holder, "kind": kind}) + b"\n")
        file.flush()
        os.fsync(file.fileno())  # the log will list it: a key that a power cut takes is a holder locked out
    return read_signing_key(path)


def read_signing_key(path: Path) -> SigningKey:
    """Read one key file; refuse one that others can read. A message never shows what stands in it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}); expected a key file, as made by hitl keys"
        ) from None
    if mode & 0o077:
        raise SettingsError(f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
    key = _parsed(content)
    if key is None:
        raise SettingsError(
            f"{path} holds no private {CURVE} key as a JWK with kid and holder; hitl keys makes such files"
        )
    if key.key_id != path.name.removesuffix(SUFFIX):
        raise SettingsError(
            f"{path} holds the key {key.key_id}; expected its name to be {key.key_id}{SUFFIX}; rename it"
        )
    return key


def read_signing_keys(directory: Path) -> dict[str, SigningKey]:
    """Read every key file there by key id, ana-10 after ana-9; none where there is no such directory."""
    found = sorted(directory.glob(f"*{SUFFIX}"), key=by_age) if directory.is_dir() else []
    keys = [read_signing_key(path) for path in found]
    return {key.key_id: key for key in keys}


def _parsed(content: bytes) -> SigningKey | None:
    try:
        file = _decode_file(content)
        private = OKPKey.import_key({"kty": file.kty, "crv": file.crv, "x": file.x, "d": file.d})
    except (JoseError, ValueError):
        return None
    key = SigningKey(file.kid, file.holder, file.kind, private)
    return key if public_jwk(key)["x"] == file.x and KEY_ID.fullmatch(file.kid) else None


def _same(key: SigningKey, path: Path, holder: str, kind: Kind) -> SigningKey:
    if (key.holder, key.kind) != (holder, kind):
        raise SettingsError(
            f"{path} is already there, the {key.kind} {key.holder}'s key, expected the {kind} {holder}'s; move it away"
        )
    return key
