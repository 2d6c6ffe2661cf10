"""Everything of an account lives in one partition, the one that Kafka's own partitioner would choose."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as kafkas_murmur2
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.action import Entity, entity_of
from hitl_stream.wire.home import home, home_of, key_of, murmur2, partition_of
from support.make import change, make_action


@given(st.binary(max_size=64))
def test_murmur2_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == kafkas_murmur2(data) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("text", "hashed"),
    [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536),
     ("a-little-bit-longer-string", -1486304829), ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971)],
)  # fmt: skip
def test_murmur2_gives_what_kafkas_own_tests_expect(text: str, hashed: int) -> None:
    """The values of `UtilsTest.testMurmur2` in Apache Kafka."""
    assert murmur2(text.encode()) == hashed & 0xFFFFFFFF


@given(st.binary(max_size=64), st.integers(1, 1_000))
def test_a_partition_lies_between_zero_and_the_count(place: bytes, partitions: int) -> None:
    assert 0 <= partition_of(place, partitions) < partitions
    assert partition_of(place, partitions) == (kafkas_murmur2(place) & 0x7FFFFFFF) % partitions


@given(st.text(max_size=20), st.text(max_size=20), st.integers(1, 64))
def test_home_is_the_partition_of_tenant_and_account(tenant: str, account: str, partitions: int) -> None:
    assert home(tenant, account, partitions) == partition_of(f"{tenant}/{account}".encode(), partitions)


def test_two_campaigns_of_an_account_and_a_move_between_them_meet() -> None:
    one, other = make_action(), make_action(changes=[change(campaign="c2")])
    both = make_action(changes=[change(), change(campaign="c2")])
    places = {home_of(each, "acme", entity_of(each), 97) for each in (one, other, both)}
    assert len(places) == 1


def test_without_an_account_an_action_lives_with_its_agent() -> None:
    action = make_action(changes=...)
    assert home_of(action, "acme", Entity(), 97) == home("acme", "bidder-7", 97)


@pytest.mark.parametrize(
    ("entity", "key"),
    [
        (Entity("acc-17", "cmp-204"), b"acme/acc-17/cmp-204"),
        (Entity("acc-17"), b"acme/acc-17"),
        (Entity(), b"acme/bidder-7"),
        (Entity(None, "cmp-204"), b"acme/bidder-7"),
        (Entity("ü"), "acme/ü".encode()),
    ],
)
def test_a_key_is_tenant_account_and_campaign(entity: Entity, key: bytes) -> None:
    assert key_of("acme", entity, "bidder-7") == key
