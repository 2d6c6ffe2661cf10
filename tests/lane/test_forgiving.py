"""Header names that are not UTF-8: read with U+FFFD in their place, everything else untouched."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from hitl_stream.lane.forgiving import ForgivingRecords

MARK = "header-name-of-bytes"
BAD = b"\xff\xfe" + b"x" * (len(MARK) - 2)
NONE, GZIP, LZ4, ZSTD = 0, 1, 3, 4
HEADER_BYTES = 61
CODEC_AT = 22


def batch(first_offset: int, values: Sequence[bytes], name: str = "trace", compression: int = NONE) -> bytes:
    """Return a record batch as it stands in a log, each record with one header."""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 1_000_000)
    for n, value in enumerate(values):
        builder.append(n, 1_763_709_000_000 + n, b"k%d" % n, value, [(name, b"\x00\xff")])
    built = bytearray(builder.build())
    built[:8] = first_offset.to_bytes(8, "big")
    return bytes(built)


def spoiled(first_offset: int, values: Sequence[bytes]) -> bytes:
    """Return a batch whose header names are no UTF-8 (its checksum is not checked here)."""
    return batch(first_offset, values, MARK).replace(MARK.encode(), BAD)


def records(content: bytes, fetch_offset: int = 0) -> list[Any]:
    """Read a stretch as aiokafka's consumer does."""
    found = PartitionRecords(
        TopicPartition("t", 0), ForgivingRecords(content), [], fetch_offset, None, None, False, READ_COMMITTED
    )
    return list(found)


def test_a_header_name_that_is_not_utf8_is_read_with_replacements():
    found = records(spoiled(7, [b"a", b"b"]), 7)

    assert [(r.offset, r.timestamp, r.key, r.value) for r in found] == [
        (7, 1_763_709_000_000, b"k0", b"a"),
        (8, 1_763_709_000_001, b"k1", b"b"),
    ]
    name = "��" + "x" * (len(MARK) - 2)
    assert [r.headers for r in found] == [((name, b"\x00\xff"),)] * 2
    name.encode()  # what is read can be written


def test_batches_before_and_after_a_bad_one_are_read_as_ever():
    content = batch(0, [b"a", b"b"]) + spoiled(2, [b"c"]) + batch(3, [b"d"], compression=GZIP)
    found = records(content)

    assert [(r.offset, r.value) for r in found] == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]
    assert found[0].headers == (("trace", b"\x00\xff"),)


def test_records_before_the_bad_one_in_its_batch_come_once():
    good, bad = batch(0, [b"a", b"b", b"c"], MARK), BAD
    at = good.rfind(MARK.encode())
    found = records(good[:at] + bad + good[at + len(bad) :])

    assert [(r.offset, r.value) for r in found] == [(0, b"a"), (1, b"b"), (2, b"c")]
    assert found[0].headers[0][0] == MARK


def test_a_read_that_starts_in_the_middle_of_a_batch_starts_there():
    assert [r.offset for r in records(spoiled(10, [b"a", b"b", b"c"]), 11)] == [11, 12]


@pytest.mark.parametrize("compression", [NONE, GZIP, LZ4, ZSTD])
def test_good_batches_are_read_whatever_their_compression(compression: int):
    content = batch(0, [b"a" * 500, b"b" * 500], compression=compression)

    assert [r.value for r in records(content)] == [b"a" * 500, b"b" * 500]


def test_a_compressed_batch_with_a_bad_header_name_is_read_too():
    plain = bytearray(spoiled(0, [b"a", b"b"]))
    body = gzip.compress(bytes(plain[HEADER_BYTES:]))
    plain[CODEC_AT] |= GZIP
    plain[8:12] = (HEADER_BYTES - 12 + len(body)).to_bytes(4, "big")

    assert [(r.offset, r.value) for r in records(bytes(plain[:HEADER_BYTES]) + body)] == [(0, b"a"), (1, b"b")]


def test_a_stretch_cut_in_the_middle_of_a_batch_gives_what_is_whole():
    whole, cut = batch(0, [b"a"]), batch(1, [b"b"])
    content = ForgivingRecords(whole + cut[:-3])

    assert [record.value for record in content.next_batch()] == [b"a"]
    assert (content.has_next(), content.next_batch()) == (False, None)
    assert content.size_in_bytes() == len(whole) + len(cut) - 3
