"""How many actions a scope has covered: counted from what was decided, whatever lies there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.lane.coverage import IDS_MAX, Count, Coverage, newest
from hitl_stream.lane.reader import Span
from support.make import FakeRecord, Partition, action_bytes, change, make_router


def decided(*parts: dict[str, Any]) -> list[FakeRecord]:
    """Return decisions as a router has written them."""
    partition = Partition(make_router())
    values = [action_bytes(action_id=f"act-{number}", **part) for number, part in enumerate(parts)]
    outputs = partition.run(*(FakeRecord(value, number) for number, value in enumerate(values)))
    return [FakeRecord(output.value) for output in outputs if not output.topic.endswith("seeded")]


def on(campaign: str, **parts: Any) -> dict[str, Any]:
    return {"changes": [change(campaign=campaign)], **parts}


def counted(records: Iterable[FakeRecord], *scope: str) -> Coverage:
    count = Count(scope)
    count.take(list(records))
    return count.result(False)


THREE = [on("cmp-1"), on("cmp-2"), on("cmp-3", agent={"id": "copy-2", "version": "1"})]


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        (("campaign:cmp-2",), 1),
        (("campaign:CMP-2",), 1),
        (("campaign:cmp-1", "campaign:cmp-2"), 2),
        (("campaign:cmp-1", "agent:copy-2"), 0),
        (("tenant:acme",), 3),
        (("tenant:acme", "agent:bidder-7"), 2),
        (("global:*",), 3),
        (("type:bid.adjust", "account:acc-17"), 3),
        (("agent-version:copy-2@1",), 1),
    ],
    ids=str,
)
def test_each_action_that_a_scope_covers_is_counted_once(scope: tuple[str, ...], covered: int):
    records = decided(*THREE)
    found = counted([*records, *records], *scope)

    assert (found.actions, found.read) == (covered, 3)
    assert found.nearest == {}


def test_what_was_not_seen_names_the_nearest_of_its_kind_as_they_are_written():
    found = counted(decided(on("CMP-11"), on("cmp-71"), on("cmp-9"), on("other")), "campaign:cmp-17", "tenant:acme")

    assert found.actions == 0
    assert list(found.nearest) == ["campaign:cmp-17"]
    assert set(found.nearest["campaign:cmp-17"]) == {"CMP-11", "cmp-71", "cmp-9"}


def test_an_action_that_names_no_destination_may_have_any_and_is_no_destination_seen():
    found = counted(decided(on("cmp-1")), "destination:google_ads")
    assert found.actions == 1
    assert found.nearest == {"destination:google_ads": ()}


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{", b"[]", b'{"tenant":1}', b'{"tenant":"a","action_id":"b","entity":{},"action":{}}', b"\xff" * 50],
)
def test_what_cannot_be_read_is_passed_over(value: bytes | None):
    found = counted([FakeRecord(value), *decided(on("cmp-1"))], "campaign:cmp-1")
    assert (found.actions, found.read) == (1, 1)


def test_ids_are_remembered_up_to_a_limit():
    count = Count(("campaign:x",))
    for start in range(0, IDS_MAX + 200, 100):
        count.take(decided(*(on(f"cmp-{start + n}") for n in range(100))))
    assert len(count._ids["campaign"]) == IDS_MAX


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=20), st.integers(1, 5_000))
def test_of_too_much_the_newest_of_each_partition_is_read(lengths: list[int], most: int):
    found = {TopicPartition("t", n): Span(5, 10, 10 + length) for n, length in enumerate(lengths)}
    wanted, cut = newest(found, most)

    assert cut == (sum(lengths) > most)
    assert sum(span.end - span.start for span in wanted.values()) <= max(most, 0)
    for tp, span in wanted.items():
        assert (span.first, span.end) == (found[tp].first, found[tp].end)
        assert found[tp].start <= span.start <= span.end
