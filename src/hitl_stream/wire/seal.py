"""Seals: a keyed digest that says which role wrote a record between roles.

BLAKE2b-256 (RFC 7693), keyed, over topic, type and head. Whoever can check a seal could forge it: it keeps strangers
out, not a role that went bad, which is why people's verdicts carry signatures besides. Two key ids are valid at once.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import re
import secrets
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hitl_stream.core.errors import SettingsError

KEY_BYTES = 32
SEAL_HEADER = "hitl-seal"
TYPE_HEADER = "hitl-type"
_URLSAFE = bytes.maketrans(b"+/", b"-_")


@dataclass(frozen=True)
class SealKey:
    """A role's key and its id."""

    key_id: str
    key: bytes


def sealer(key: SealKey, topic: str, kind: str) -> Callable[[bytes], bytes]:
    """Return a function that seals the heads of one type of record on one topic, as a header value."""
    start = hashlib.blake2b(topic.encode() + b"\0" + kind.encode() + b"\0", key=key.key, digest_size=32)
    prefix = key.key_id.encode() + b":"
    text = binascii.b2a_base64

    def seal(head: bytes) -> bytes:
        digest = start.copy()
        digest.update(head)
        return prefix + text(digest.digest(), newline=False).translate(_URLSAFE, b"=")

    return seal


def sealed(keys: Mapping[str, SealKey], topic: str, kind: str, head: bytes, seal: bytes) -> bool:
    """Say whether `seal` is the seal of this head under one of `keys` (by key id)."""
    key = keys.get(seal.partition(b":")[0].decode("ascii", "replace"))
    return key is not None and hmac.compare_digest(sealer(key, topic, kind)(head), seal)


def create_key(directory: Path, name: str, key_id: str) -> SealKey:
    """Make a key file `<name>-<key id>`, readable by its owner alone; an existing one is left as it is."""
    path = directory / f"{name}-{key_id}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_key(path, name)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_bytes(KEY_BYTES).hex() + "\n")
    return read_key(path, name)


def read_key(path: Path, name: str) -> SealKey:
    """Read one key file; refuse one that others can read."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise SettingsError(f"{path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{path} holds no key of {KEY_BYTES} bytes in hexadecimal; make one: hitl keys seal")
    return SealKey(path.name.removeprefix(f"{name}-"), key)


def read_keys(directory: Path, name: str) -> dict[str, SealKey]:
    """Read every key of that name, newest id last (r10 after r9); say how to make one where there is none."""
    found = sorted(directory.glob(f"{name}-*"), key=by_age) if directory.is_dir() else []
    if not found:
        raise SettingsError(f"no key {name}-<id> in {directory}; make one: hitl keys seal")
    keys = [read_key(path, name) for path in found]
    return {key.key_id: key for key in keys}


def by_age(path: Path) -> list[tuple[int, str]]:
    """Order key files by the numbers in their names: text by text, number by number."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split("([0-9]+)", path.name)]


Lot = Callable[[int, bytes, float], bool]


class Draw:
    """A keyed lot: whether a place in the log is drawn cannot be told, or ground, without the key."""

    def __init__(self, key: SealKey) -> None:
        self._key = key.key

    def lot(self, topic: str, partition: int) -> Lot:
        """Return a function that says of an offset and an action hash whether it is drawn with probability p."""
        start = hashlib.blake2b(f"{topic}/{partition}/".encode(), key=self._key, digest_size=8, person=b"hitl-sample")
        read = struct.Struct(">Q").unpack

        def drawn(offset: int, action_hash: bytes, p: float) -> bool:
            digest = start.copy()
            digest.update(b"%d\0%b" % (offset, action_hash))
            number: int = read(digest.digest())[0]
            return number < p * 2.0**64

        return drawn
