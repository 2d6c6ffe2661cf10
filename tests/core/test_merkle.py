"""Merkle trees against the published vectors of Certificate Transparency, and against the definition in RFC 9162."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hitl_stream.core.merkle import Tree, path, root, verify

LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
"""The eight leaves of the reference tree of Certificate Transparency (merkle_tree_test.cc)."""
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Its root at each size from 0 to 8."""
PATHS: list[tuple[int, int, list[str]]] = [
    (1, 0, []),
    (8, 0, [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]),
    (8, 5, [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]),
    (3, 2, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
    (5, 1, [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]),
]  # fmt: skip
"""Its published inclusion proofs: size, index from 0, path."""


def defined(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 9162, section 2.1.1, defines it, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + defined(leaves[:k]) + defined(leaves[k:])).digest()


def defined_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """Return the inclusion proof as RFC 9162, section 2.1.3.1, defines it."""
    if len(leaves) == 1:
        return []
    k = 1 << (len(leaves) - 1).bit_length() - 1
    if index < k:
        return [*defined_path(index, leaves[:k]), defined(leaves[k:])]
    return [*defined_path(index - k, leaves[k:]), defined(leaves[:k])]


@pytest.mark.parametrize("size", range(9))
def test_the_root_of_each_published_tree_is_the_published_one(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("size", "index", "found"), PATHS)
def test_each_published_path_is_found_and_verified(size: int, index: int, found: list[str]) -> None:
    assert [one.hex() for one in path(LEAVES[:size], index)] == found
    assert verify(bytes.fromhex(ROOTS[size]), size, index, LEAVES[index], [bytes.fromhex(one) for one in found])


@pytest.mark.parametrize("size", range(1, 70))
def test_the_tree_is_the_defined_one_and_each_leaf_is_proved_in_its_place_alone(size: int) -> None:
    leaves = [b"%d" % place for place in range(size)]
    tree = Tree(leaves)

    assert tree.root == defined(leaves)
    for index, leaf in enumerate(leaves):
        found = tree.path(index)
        assert found == defined_path(index, leaves)
        proved = [at for at in range(-1, size + 2) if verify(tree.root, size, at, leaf, found)]
        assert proved == [index]


SIZES = st.integers(1, 200)


@settings(deadline=None)
@given(size=SIZES, data=st.data())
def test_a_proof_with_any_bit_flipped_is_wrong(size: int, data: st.DataObject) -> None:
    leaves = [b"%d" % place for place in range(size)]
    index = data.draw(st.integers(0, size - 1))
    tree = Tree(leaves)
    found = tree.path(index)
    parts = [tree.root, leaves[index], *found]
    which = data.draw(st.integers(0, len(parts) - 1))
    bit = data.draw(st.integers(0, len(parts[which]) * 8 - 1))
    changed = bytearray(parts[which])
    changed[bit // 8] ^= 1 << bit % 8
    parts[which] = bytes(changed)

    assert verify(tree.root, size, index, leaves[index], found)
    assert not verify(parts[0], size, index, parts[1], parts[2:])


@settings(deadline=None)
@given(size=SIZES, data=st.data())
def test_a_path_that_lost_a_step_or_has_one_too_many_is_wrong(size: int, data: st.DataObject) -> None:
    leaves = [b"%d" % place for place in range(size)]
    index = data.draw(st.integers(0, size - 1))
    tree = Tree(leaves)
    found = tree.path(index)
    at = data.draw(st.integers(0, len(found)))

    assert not verify(tree.root, size, index, leaves[index], [*found[:at], tree.root, *found[at:]])
    if at < len(found):
        assert not verify(tree.root, size, index, leaves[index], [*found[:at], *found[at + 1 :]])


@settings(deadline=None)
@given(
    root=st.binary(max_size=40),
    size=st.integers(-3, 1 << 40),
    index=st.integers(-3, 1 << 40),
    path=st.lists(st.binary(max_size=33), max_size=50),
)
@example(root=b"", size=0, index=0, path=[])
def test_nothing_raises_on_any_proof_and_none_of_them_is_right(
    root: bytes, size: int, index: int, path: list[bytes]
) -> None:
    assert not verify(root, size, index, b"leaf", path)


def test_a_node_cannot_be_shown_as_a_leaf() -> None:
    """Without the two prefixes the tree over the inner nodes would have the same root."""
    nodes = [sha256(b"\x00" + leaf).digest() for leaf in LEAVES]
    inner = [nodes[at] + nodes[at + 1] for at in range(0, 8, 2)]

    assert root(inner) != root(LEAVES)


@pytest.mark.parametrize("size", range(1, 34))
def test_a_proof_is_right_for_no_tree_in_which_its_way_would_be_longer_or_shorter(size: int) -> None:
    """Without the size nobody could say whether the root of some leaves is shown, or a node above a part of them."""
    leaves = [b"%d" % place for place in range(size)]
    tree = Tree(leaves)
    claims = [(other, at) for other in range(1, 36) for at in range(other)]
    steps = {(other, at): len(path([b""] * other, at)) for other, at in claims}
    for index, leaf in enumerate(leaves):
        found = tree.path(index)
        proved = [claim for claim in claims if verify(tree.root, *claim, leaf, found)]
        assert (size, index) in proved
        assert {steps[claim] for claim in proved} == {len(found)}


@pytest.mark.parametrize("index", [-1, 8])
def test_a_leaf_that_is_not_there_has_no_path(index: int) -> None:
    with pytest.raises(IndexError, match=f"no leaf {index} in a tree of 8"):
        path(LEAVES, index)
