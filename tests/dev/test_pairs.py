"""Pairs for the demo's labeller."""

from __future__ import annotations

from hitl_stream.dev.pairs import PAIRS, pairs
from hitl_stream.wire.desk_records import decode_pair
from hitl_stream.wire.records import encode


def test_pairs_are_the_same_with_the_same_seed_and_others_with_another():
    assert [*pairs(7)] == [*pairs(7)]
    assert [one.prompt + one.a for one in pairs(7)] != [one.prompt + one.a for one in pairs(8)]


def test_each_pair_has_a_name_and_two_outputs_that_differ():
    found = [*pairs(1)]

    assert len({one.pair for one in found}) == len(found) == PAIRS
    assert all(one.a != one.b and one.prompt for one in found)


def test_a_desk_can_read_them():
    (pair,) = pairs(1, 1)

    assert decode_pair(encode(pair)) == pair
