"""Merkle trees of SHA-256 (RFC 9162, section 2.1): one digest for many leaves, and short proofs that one is among them.

A leaf is hashed behind 00 and a node behind 01, so that no node can be shown as a leaf. The left side of a node is the
largest full tree that leaves something for the right one; an odd node at the end of a level goes up as it is, which is
the same tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

LEAF = b"\x00"
NODE = b"\x01"


class Tree:
    """The whole tree over some leaves: its root, and each leaf's path, without hashing anything twice.

    Two digests a leaf are kept. Building it takes two hashes a leaf, and a path as many steps as the tree is high.
    """

    __slots__ = ("_levels",)

    def __init__(self, leaves: Sequence[bytes]) -> None:
        level = [_leaf(leaf) for leaf in leaves]
        self._levels = [level]
        while len(level) > 1:
            level = _above(level)
            self._levels.append(level)

    def __len__(self) -> int:
        return len(self._levels[0])

    @property
    def root(self) -> bytes:
        """Return the root, 32 bytes; that of no leaves is the digest of nothing."""
        top = self._levels[-1]
        return top[0] if top else sha256(b"").digest()

    def path(self, index: int) -> list[bytes]:
        """Return the inclusion proof of the leaf at `index` (from 0): the digests beside its way up, lowest first."""
        if not 0 <= index < len(self):
            raise IndexError(f"there is no leaf {index} in a tree of {len(self)}; they count from 0")
        found: list[bytes] = []
        for level in self._levels:
            beside = index ^ 1
            if beside < len(level):
                found.append(level[beside])
            index >>= 1
        return found


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over some leaves, 32 bytes."""
    return Tree(leaves).root


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return one leaf's inclusion proof. Whoever wants many of them builds a `Tree` once."""
    return Tree(leaves).path(index)


def verify(root: bytes, size: int, index: int, leaf: bytes, path: Sequence[bytes]) -> bool:
    """Say whether `path` leads from a leaf at `index` of a tree of `size` leaves to `root` (RFC 9162, 2.1.3.2).

    Nothing raises on any path: one that is too short, too long, or not of digests is a wrong one. It shows the place
    among so many leaves, not that there are so many: the size must come from where the root comes from, signed with it.
    """
    if not 0 <= index < size:
        return False
    at, last = index, size - 1
    digest = _leaf(leaf)
    for beside in path:
        if not last:
            return False  # it is at the top already
        if at & 1 or at == last:
            digest = _node(beside, digest)
            while not at & 1 and at:  # it went up by itself so far: nothing stood beside it
                at, last = at >> 1, last >> 1
        else:
            digest = _node(digest, beside)
        at, last = at >> 1, last >> 1
    return not last and digest == root


def _leaf(leaf: bytes) -> bytes:
    return sha256(LEAF + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(NODE + left + right).digest()


def _above(level: list[bytes]) -> list[bytes]:
    """Return the next level: pairs joined, an odd last one as it is."""
    joined = [_node(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        joined.append(level[-1])
    return joined
