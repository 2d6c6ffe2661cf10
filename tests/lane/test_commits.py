"""Which record counts from when: batches and the broker's markers brought together, without a broker."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.lane.commits import Batch, CommitTimes, Fold, Kind, Stretch, batches

GZIP = 1
ATTRIBUTES_AT = 21
CONTROL_BIT = 0x20
MARKERS = {"abort": 0, "commit": 1, "other": 4}


def batch(first: int, count: int, at_ms: int, producer: int = -1, kind: Kind = "plain", compression: int = 0) -> bytes:
    """Return a batch as it stands in a log; a marker is a control batch of one record."""
    builder = DefaultRecordBatchBuilder(2, compression, kind != "plain", producer, 0, 0, 1_000_000)
    key = struct.pack(">HH", 0, MARKERS[kind]) if kind in MARKERS else b"k"
    for number in range(count):
        builder.append(number, at_ms, key, b"value", [])
    built = bytearray(builder.build())
    built[:8] = first.to_bytes(8, "big")
    if kind in MARKERS:
        built[ATTRIBUTES_AT + 1] |= CONTROL_BIT
    return bytes(built)


def settled(headers: Iterable[Batch]) -> list[Stretch]:
    fold = Fold()
    return [stretch for header in headers for stretch in fold.take(header)]


@pytest.mark.parametrize("kind", ["plain", "transactional", "commit", "abort", "other"])
def test_the_header_of_a_batch_says_its_kind_offsets_producer_and_time(kind: Kind):
    content = batch(7, 1, 1_000, 55, kind) if kind != "plain" else batch(7, 1, 1_000)

    assert list(batches(content)) == [Batch(7, 8, 1_000, -1 if kind == "plain" else 55, kind)]


def test_compressed_batches_are_read_by_their_headers_and_a_cut_one_is_left_for_the_next_fetch():
    content = batch(0, 3, 10, 5, "transactional", GZIP) + batch(3, 1, 20, 5, "commit")

    assert [one.next_offset for one in batches(content)] == [3, 4]
    assert [one.next_offset for one in batches(content[:-1])] == [3]
    assert list(batches(b"")) == []


def test_a_record_counts_from_the_time_of_its_marker_not_of_its_append():
    content = batch(0, 2, 1_000, 5, "transactional") + batch(2, 1, 4_000, 5, "commit")

    assert settled(batches(content)) == [Stretch(0, 1, True, 4_000)]


def test_a_marker_ends_the_transaction_of_its_own_producer_alone():
    log = [
        Batch(0, 1, 10, 5, "transactional"),
        Batch(1, 2, 11, 6, "transactional"),
        Batch(2, 3, 12, 5, "transactional"),
        Batch(3, 4, 13, 6, "abort"),
        Batch(4, 5, 14, 5, "commit"),
    ]

    assert settled(log) == [Stretch(1, 1, False, 13), Stretch(0, 0, True, 14), Stretch(2, 2, True, 14)]


def test_a_marker_of_an_unknown_kind_ends_nothing():
    fold = Fold()

    assert list(fold.take(Batch(0, 1, 10, 5, "transactional"))) == []
    assert list(fold.take(Batch(1, 2, 11, 5, "other"))) == []
    assert fold.open_before(2) == [Stretch(0, 0, False, None)]


def test_what_is_open_has_no_time_and_counts_up_to_the_end_only():
    fold = Fold()
    for header in (Batch(0, 3, 10, 5, "transactional"), Batch(3, 4, 11, 6, "transactional")):
        assert list(fold.take(header)) == []

    assert fold.open_before(3) == [Stretch(0, 2, False, None)]


def test_an_offset_finds_its_stretch_and_a_marker_has_none():
    times = CommitTimes([Stretch(3, 5, True, 30), Stretch(0, 1, False, 20)])

    assert [times.of(offset) for offset in range(7)] == [
        *2 * [Stretch(0, 1, False, 20)], None, *3 * [Stretch(3, 5, True, 30)], None,
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["transactional", "commit", "abort", "plain"]))))
def test_every_record_is_settled_once_or_open(steps: list[tuple[int, Kind]]):
    log = [Batch(at, at + 1, at, producer, kind) for at, (producer, kind) in enumerate(steps)]
    fold = Fold()
    done = [stretch for header in log for stretch in fold.take(header)]

    offsets = sorted(stretch.first for stretch in (*done, *fold.open_before(len(log))))
    assert offsets == [one.first for one in log if one.kind in ("plain", "transactional")]
    for stretch in done:
        ends = [one for one in log if one.kind in ("commit", "abort") and one.producer == log[stretch.first].producer]
        if log[stretch.first].kind == "transactional":
            following = next(one for one in ends if one.first > stretch.first)
            assert (stretch.committed, stretch.at_ms) == (following.kind == "commit", following.at_ms)
