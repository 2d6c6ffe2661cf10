"""Items and samples go by keyed digests: the same for whoever has the key, and nothing to anybody else."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.wire.items import ITEM_BYTES, SCORE_BYTES, item_id, score, second_of
from hitl_stream.wire.seal import SealKey

KEY, OTHER = SealKey("d1", b"\x03" * 32), SealKey("d2", b"\x04" * 32)
ROOT = b"\x11" * 32
NAME = re.compile(r"[a-z2-7]{16}")
PLACE = b"hitl.review/3/512"


def letters(digest: hashlib.blake2b) -> str:
    return base64.b32encode(digest.digest()).decode().lower()


def test_an_item_has_one_name_for_ever() -> None:
    """A fixed case: a name that changed with a version would open every item a second time."""
    assert item_id(KEY, "hitl.review", 3, 512) == "oh3loxqyhzalfaa4"


@given(st.text(max_size=30), st.integers(0, 1_000), st.integers(0, 2**63 - 1))
def test_a_name_is_sixteen_letters_of_base32(topic: str, partition: int, offset: int) -> None:
    assert NAME.fullmatch(item_id(KEY, topic, partition, offset))


@pytest.mark.parametrize(
    ("topic", "partition", "offset"),
    [("hitl.review", 3, 513), ("hitl.review", 4, 512), ("hitl.escalation", 3, 512), ("hitl.review/3", 5, 12)],
)
def test_another_place_is_another_item(topic: str, partition: int, offset: int) -> None:
    assert item_id(KEY, topic, partition, offset) != item_id(KEY, "hitl.review", 3, 512)


def test_without_the_key_nobody_can_tell_a_name() -> None:
    name = item_id(KEY, "hitl.review", 3, 512)

    assert item_id(OTHER, "hitl.review", 3, 512) != name
    assert letters(hashlib.blake2b(PLACE, digest_size=ITEM_BYTES, person=b"hitl-item")) != name
    assert letters(hashlib.blake2b(PLACE, key=KEY.key, digest_size=ITEM_BYTES, person=b"hitl-item")) == name


def test_a_second_is_no_item_of_a_first_kind() -> None:
    item = item_id(KEY, "hitl.review", 3, 512)

    assert NAME.fullmatch(second_of(KEY, item)), "it looks like any other"
    assert second_of(KEY, item) not in (item, second_of(KEY, second_of(KEY, item)))


def test_a_score_is_fixed_by_key_root_and_index() -> None:
    assert score(KEY, ROOT, 7).hex() == "60acd4970726a3088d3f1a59d8893b1d"
    assert len(score(KEY, ROOT, 7)) == SCORE_BYTES


@pytest.mark.parametrize(("key", "root", "index"), [(OTHER, ROOT, 7), (KEY, b"\x12" * 32, 7), (KEY, ROOT, 8)])
def test_another_key_root_or_index_is_another_score(key: SealKey, root: bytes, index: int) -> None:
    assert score(key, root, index) != score(KEY, ROOT, 7)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 300))
def test_the_scores_of_a_batch_are_all_different(root: bytes, size: int) -> None:
    assert len({score(KEY, root, index) for index in range(size)}) == size


def test_every_place_of_a_batch_is_drawn_as_often_as_any_other() -> None:
    """The smallest tenth of 100 over 2,000 roots: each place 200 times, give or take five standard deviations."""
    drawn = [0] * 100
    for number in range(2_000):
        root = hashlib.sha256(b"%d" % number).digest()
        for index in sorted(range(100), key=lambda at, root=root: score(KEY, root, at))[:10]:  # type: ignore[misc]
            drawn[index] += 1

    assert sum(drawn) == 20_000
    assert all(133 < times < 267 for times in drawn)


def test_a_key_that_serves_for_something_else_too_gives_nothing_away() -> None:
    """Each digest is personal to its use (RFC 7693, section 2.5): what seals and draws under one key names no item."""
    name = item_id(KEY, "hitl.review", 3, 512)

    for person in (b"", b"hitl-sample", b"hitl-score"):
        assert letters(hashlib.blake2b(PLACE, key=KEY.key, digest_size=ITEM_BYTES, person=person)) != name
