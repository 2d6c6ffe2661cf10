"""A drill's parts, without a broker: its actions, who vouches for them, and what its figures count."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from hitl_stream.core.commands import Engage, milliseconds
from hitl_stream.core.control import DRILL
from hitl_stream.core.errors import BrokenError, UsageError
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Switch, parsed
from hitl_stream.lane.commander import Appended
from hitl_stream.lane.drill import (
    ACCOUNTS_EACH,
    ALIVE_S,
    TENANT,
    Halted,
    accounts,
    action,
    is_of,
    judged,
    refuse_what_would_hold,
    vouching,
)
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.home import home
from hitl_stream.wire.records import VIA, decode_via, header
from hitl_stream.wire.seal import SEAL_HEADER, SealKey, sealed
from support.make import NOW_MS, FakeRecord, Partition, action_dict, make_router
from support.signed import CONTROL, claims

KEY = SealKey("c1", b"c" * 32)
TOPIC = "hitl.actions"
TEMPLATE = {name: action_dict()[name] for name in ("type", "agent", "changes", "confidence", "evidence")}


def made(number: int = 3, **parts: Any) -> bytes:
    return action(TEMPLATE | parts, "run1", number, "drill-7", NOW_MS)


def test_the_tenant_is_the_one_whose_switches_a_service_may_release():
    assert parsed((f"tenant:{TENANT}",)) == parsed(DRILL)


def test_an_action_has_an_id_a_campaign_and_an_end_of_its_own():
    decoded = decode_bytes(made())
    assert isinstance(decoded, Decoded)
    found = decoded.action
    assert (found.action_id, found.tenant) == ("drill-run1-3", "drill")
    assert [(change.entity.account, change.entity.campaign) for change in found.changes] == [
        ("drill-7", "drill-run1-3")
    ]
    assert found.expires_at is not None
    assert milliseconds(found.proposed_at) == NOW_MS
    assert milliseconds(found.expires_at) == NOW_MS + ALIVE_S * 1000


def test_one_without_changes_is_about_its_entity():
    value = json.loads(made(changes=[], content={"text": "drill"}))
    assert value["entity"] == {"account": "drill-7", "campaign": "drill-run1-3"}


@pytest.mark.parametrize("partitions", [1, 2, 7, 12])
def test_every_partition_gets_as_many_accounts(partitions: int):
    found = accounts(partitions)
    homes = [home(TENANT, account, partitions) for account in found]
    assert len(set(found)) == len(found) == partitions * ACCOUNTS_EACH
    assert {homes.count(number) for number in range(partitions)} == {ACCOUNTS_EACH}


def test_control_vouches_for_each_action_by_its_seal():
    value = made()
    headers = vouching(KEY, TOPIC, "run1")(value)
    via, seal = header(headers, "hitl-via") or b"", header(headers, SEAL_HEADER) or b""
    decoded = decode_bytes(value)
    assert isinstance(decoded, Decoded)

    assert decode_via(via).role == "control"
    assert sealed({"c1": KEY}, TOPIC, VIA, via + b"\0" + decoded.hash.encode(), seal)
    other = decode_bytes(made(4))
    assert isinstance(other, Decoded)
    assert not sealed({"c1": KEY}, TOPIC, VIA, via + b"\0" + other.hash.encode(), seal)


def test_a_router_that_knows_the_key_lets_it_run_and_one_that_does_not_refuses_it():
    headers = tuple(vouching(KEY, TOPIC, "run1")(made()))
    record = FakeRecord(made(), headers=headers)
    knowing = make_router()
    object.__setattr__(knowing.settings, "proposers", {"control": {"c1": KEY}})

    assert Partition(knowing).run(record)[0].topic == "hitl.execute"
    (refused,) = Partition(make_router()).run(record)
    assert refused.topic == "hitl.closed"
    assert b"identity.seal" in (refused.value or b"")


def test_what_cannot_be_read_is_not_published():
    with pytest.raises(BrokenError, match="cannot be read"):
        vouching(KEY, TOPIC, "run1")(b"{}")


@pytest.mark.parametrize(
    ("value", "is_"),
    [
        (b'{"tenant":"drill","action_id":"drill-run1-3"}', True),
        (b'{"tenant":"drill","action_id":"drill-run2-3"}', False),
        (b'{"tenant":"acme","action_id":"drill-run1-3"}', False),
        (b"{", False),
        (None, False),
    ],
)
def test_only_this_drill_s_records_count(value: bytes | None, is_: bool):
    assert is_of("run1", value) is is_


@pytest.mark.parametrize(
    ("scope", "holds"),
    [
        (("global:*",), True),
        ((), True),
        (("tenant:drill",), True),
        (("tenant:acme", "tenant:Drill"), True),
        (("tenant:acme",), False),
        (("tenant:drill", "campaign:c"), False),
        (("campaign:c",), False),
    ],
    ids=str,
)
def test_no_drill_is_run_while_something_holds_it_anyway(scope: tuple[str, ...], holds: bool):
    switch = Switch(7, scope, Mode.HALT, "ana", NOW_MS)
    if holds:
        with pytest.raises(UsageError, match="hitl release request 7"):
            refuse_what_would_hold([switch])
    else:
        refuse_what_would_hold([switch])


def halted(effective_ms: int | None = 90) -> Halted:
    command = partial(Engage, scope=DRILL, mode=Mode.HALT, source="drill")(**claims(CONTROL))
    return Halted(Appended(7, 1_000, command, b""), 4, effective_ms, 9)


@pytest.mark.parametrize(
    ("ran", "effective_ms", "found"),
    [
        ([900, 1_000], 90, (2, 0, None, 0)),
        ([900, 1_000, 1_001, 1_090], 90, (4, 2, 90, 0)),
        ([1_091, 1_090], 90, (2, 2, 91, 1)),
        ([1_500], None, (1, 1, 500, 0)),
        ([], 90, (0, 0, None, 0)),
    ],
    ids=["nothing after", "before it was proved", "after it was proved", "never proved", "nothing ran"],
)
def test_what_was_committed_after_the_append_offends(ran: list[int], effective_ms: int | None, found: Any):
    figures = judged(halted(effective_ms), 100, ran, 0)
    assert (figures.ran, figures.offending, figures.last_ms, figures.after_effective) == found
    assert (figures.epoch, figures.released, figures.append_ms) == (7, 9, 4)
