"""Header `hitl-via`: who of us wrote an action, or moved it here, and the seal that vouches for that."""

from __future__ import annotations

from collections.abc import Callable

from hitl_stream.wire.records import VIA_HEADER, Via, encode
from hitl_stream.wire.seal import SEAL_HEADER


def via_headers(seal: Callable[[bytes], bytes], via: Via, action_hash: str) -> list[tuple[str, bytes]]:
    """Return the headers of an action with that hash; `seal` is the writer's, for the topic and this type."""
    return resealed(seal, encode(via), action_hash)


def resealed(seal: Callable[[bytes], bytes], via: bytes, action_hash: str) -> list[tuple[str, bytes]]:
    """Return the headers for a `hitl-via` as it stands."""
    return [(VIA_HEADER, via), (SEAL_HEADER, seal(vouched(via, action_hash)))]


def vouched(via: bytes, action_hash: str) -> bytes:
    """Return what is sealed: the header, and the bytes that it speaks for."""
    return via + b"\0" + action_hash.encode()
