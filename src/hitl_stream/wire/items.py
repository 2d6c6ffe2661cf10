"""Names of review items, and the scores that a batch's sample is drawn by: keyed, so that nobody outside can tell them.

An item is named after the place of the record that opened it, so that whoever opens it again gives it the same name;
the name says nothing of the place, nor of what was asked there.
"""

from __future__ import annotations

import base64
import hashlib

from hitl_stream.wire.seal import SealKey

ITEM_BYTES = 10
"""Eighty bits: 16 letters of base32. Of a billion items two share a name with a probability of 4e-7."""
SCORE_BYTES = 16


def item_id(key: SealKey, topic: str, partition: int, offset: int) -> str:
    """Return the name of the item that the record at a place opens: 16 of a-z and 2-7."""
    return _name(key, f"{topic}/{partition}/{offset}", b"hitl-item")


def second_of(key: SealKey, item: str) -> str:
    """Return the name of the blind second of an item. It looks like any other."""
    return _name(key, item, b"hitl-second")


def seeded_item(key: SealKey, tenant: str, action_id: str, purpose: str) -> str:
    """Return the name of the item that a monitor's record asks for, however often it is said: it opens one item."""
    return _name(key, "\0".join((tenant, action_id, purpose)), b"hitl-seeded")


def _name(key: SealKey, text: str, person: bytes) -> str:
    digest = hashlib.blake2b(text.encode(), key=key.key, digest_size=ITEM_BYTES, person=person).digest()
    return base64.b32encode(digest).decode().lower()


def score(key: SealKey, root: bytes, index: int) -> bytes:
    """Return by what the member at `index` is drawn: the smallest of a batch are its sample.

    `root` is the Merkle root over all members (32 bytes), so that no order of arrival and no choice of members can be
    tried out beforehand.
    """
    return hashlib.blake2b(
        root + index.to_bytes(8), key=key.key, digest_size=SCORE_BYTES, person=b"hitl-score"
    ).digest()
