"""Bytes in, bytes out through the router as a lane would run it: every record gets exactly one answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.events import Why
from hitl_stream.core.policy.compile import GRACE_MS
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.step import Header, Moment, Output
from hitl_stream.roles.router import Router, Source
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, decode, decode_bytes
from hitl_stream.wire.records import Closed, Decision, decode_closed, decode_decision, head_of
from hitl_stream.wire.seal import Draw, SealKey, sealed, sealer
from hitl_stream.wire.topics import TABLE
from support.make import (
    ACTIONS,
    DESK_KEY,
    FAULT,
    NOW_MS,
    SAMPLE_KEY,
    SEAL_KEY,
    FakeRecord,
    Partition,
    action_bytes,
    change,
    first_line,
    home,
    iso,
    judged,
    make_action,
    make_policy,
    make_router,
    post,
)

PARTITIONS = 12
LEVEL_ONE = make_policy(classes={"bid.adjust": {"level": 1}})
AUDITED = make_policy(classes={"bid.adjust": {"audit_sample": 1}})
NOT_AUDITED = make_policy(classes={"draft.internal": {"audit_sample": 0}})
NOT_AUDITED_BIDS = make_policy(classes={"bid.adjust": {"audit_sample": 0}})
KEYS = {SEAL_KEY.key_id: SEAL_KEY}
MINUTE = 60_000


def header(output: Output, name: str) -> bytes:
    (found,) = [content for key, content in output.headers if key == name]
    return found


def opened(output: Output) -> Decision | Closed:
    """Read an output as the desk or the executor would: seal, type, action hash, then the fields."""
    assert output.value is not None
    kind = header(output, "hitl-type").decode()
    head = head_of(output.value)
    assert sealed(KEYS, output.topic, kind, head, header(output, "hitl-seal")), output
    read = decode_decision(output.value) if kind == records.DECISION else decode_closed(output.value)
    if read.action:
        action = decode_bytes(bytes(read.action), read.ce)
        assert isinstance(action, Decoded)
        assert action.hash == read.hash
    return read


def decided(output: Output) -> Decision:
    read = opened(output)
    assert isinstance(read, Decision)
    return read


def closed(output: Output) -> Closed:
    read = opened(output)
    assert isinstance(read, Closed)
    assert output.topic == "hitl.closed"
    return read


def run(value: bytes | None = None, router: Router | None = None, **parts: Any) -> Output:
    """Send one record through a new partition and return its only answer."""
    record = FakeRecord(action_bytes() if value is None else value, **parts)
    (output,) = [
        each
        for each in Partition(router if router is not None else make_router()).run(record)
        if each.topic != "hitl.review.seeded"
    ]
    assert output.index == 0
    return output


def via(value: bytes, key: SealKey, role: str, topic: str = ACTIONS, **parts: Any) -> list[Header]:
    """Return the headers with which a role vouches for an action."""
    text = orjson.dumps({"role": role, "from": "hitl.review/0/1", "by": None, "supersedes": None, **parts})
    found = decode(value)
    assert isinstance(found, Decoded)
    seal = sealer(key, topic, records.VIA)(text + b"\0" + found.hash.encode())
    return [(records.VIA_HEADER, text), ("hitl-seal", seal)]


# --- a decision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "topic", "outcome"),
    [
        ({}, "hitl.execute", "EXECUTE"),
        ({"changes": [change("1", "2")]}, "hitl.review", "REVIEW"),
        ({"type": "no.such.type"}, "hitl.escalation", "ESCALATE"),
        (post(type="draft.internal"), "hitl.execute", "EXECUTE"),
    ],
)
def test_an_action_goes_to_the_topic_of_its_outcome(parts: dict[str, Any], topic: str, outcome: str) -> None:
    output = run(action_bytes(**parts))
    assert output.topic == topic
    assert decided(output).outcome == outcome


@pytest.mark.behaviour("B1")
def test_a_decision_says_everything_that_was_compared() -> None:
    legs = [
        change("100.00", "72.00", field="daily_budget"),
        change("50.00", "78.00", field="daily_budget", campaign="c2"),
    ]
    value = action_bytes(type="budget.reallocate", changes=legs)
    output = run(value, offset=88_121)
    read = decided(output)
    assert read.id == "hitl.actions/0/88121#0"
    assert (read.origin, read.attempt) == ("hitl.actions/0/88121", 0)
    assert (read.tenant, read.action_id, read.type, read.level) == ("acme", "act-1", "budget.reallocate", 3)
    assert (read.agent.id, read.agent.version) == ("bidder-7", "1")
    assert (read.entity.account, read.entity.campaign) == ("acc-17", None)
    assert read.hash == hashlib.sha256(value).hexdigest()
    assert (read.purpose, read.for_, read.by, read.supersedes, read.trace) == ("decide", None, None, None, None)
    assert (read.policy, read.epoch, read.held) == ("d" * 64, 5, -1)
    assert read.moment == "2026-11-21T07:10:00.140Z"
    assert next((each.rule, each.saw, each.limit) for each in read.reasons) == ("class.auto_max_change", "0.56", "0.10")
    (approval,) = read.approvals
    assert (approval.queue, approval.people, approval.decide_by) == ("trading", 1, "2026-11-21T07:25:00.140Z")
    assert read.execute_by == "2026-11-21T07:40:00.140Z"
    assert read.audit is not None
    assert read.audit.p == 0.01
    assert bytes(read.action) == value
    assert output.partition == 0
    assert output.key == b"acme/acc-17"


def test_a_head_is_json_with_the_members_of_the_specification_in_every_decision() -> None:
    members = {"id", "origin", "attempt", "tenant", "action_id", "hash", "ce", "type", "level", "agent", "entity",
               "outcome", "purpose", "for", "reasons", "approvals", "execute_by", "score", "audit", "policy", "epoch",
               "held", "moment", "trace", "by", "supersedes", "action"}  # fmt: skip
    output = run(action_bytes(changes=[change("1", "2")]))
    assert output.value is not None
    found = json.loads(output.value)
    assert set(found) == members
    assert list(found)[-1] == "action"
    assert set(found["reasons"][0]) == {"rule", "saw", "limit", "rate", "outcome", "queue", "gate", "error", "counts"}


def test_an_action_that_names_its_end_keeps_it() -> None:
    read = decided(run(action_bytes(expires_at="2026-11-21T08:10:00Z")))
    assert read.execute_by == "2026-11-21T08:10:00.000Z"


def test_an_action_that_nobody_is_asked_about_may_run_for_the_grace_time() -> None:
    assert decided(run()).execute_by == iso(NOW_MS + GRACE_MS).replace("140000Z", "140Z")


def test_no_action_may_run_later_than_half_of_what_held_keeps() -> None:
    read = decided(run(action_bytes(expires_at="2099-01-01T00:00:00Z")))
    assert read.execute_by == "2026-12-06T07:10:00.140Z"


def test_the_bytes_of_an_action_are_kept_as_they_came() -> None:
    value = json.dumps(json.loads(action_bytes(unheard_of={"x": "\u2019"})), indent=3).encode()
    assert bytes(decided(run(b"\n " + value + b" \n")).action) == value


TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_trace_is_carried_on_and_its_id_stands_in_the_record() -> None:
    output = run(headers=[("traceparent", TRACE), ("x-mine", b"1")])

    assert header(output, "traceparent") == TRACE
    assert decided(output).trace == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert {name for name, _ in output.headers} == {"hitl-type", "hitl-seal", "traceparent"}


@pytest.mark.parametrize("trace", [b"", b"00-1", b"\xe9", b"x" * 100_000, TRACE + b"\n"])
def test_what_is_no_trace_is_not_carried_on(trace: bytes) -> None:
    output = run(headers=[("traceparent", trace)])

    assert decided(output).trace is None
    assert {name for name, _ in output.headers} == {"hitl-type", "hitl-seal"}


def test_a_tenant_that_an_action_leaves_out_is_the_installations_own() -> None:
    output = run(action_bytes(tenant=""), make_router(tenant="solo"))
    assert decided(output).tenant == "solo"
    assert output.key == b"solo/acc-17/cmp-204"


@pytest.mark.behaviour("A1")
@pytest.mark.parametrize("parts", [{}, {"confidence": 0.1}, {"flags": ["ethical"]}, {"agent": {"id": "stranger"}}])
def test_level_one_only_ever_recommends_with_the_route_it_would_have_had(parts: dict[str, Any]) -> None:
    value = action_bytes(**parts)
    output = run(value, make_router(LEVEL_ONE))
    assert output.topic == "hitl.recommendations"
    read = decided(output)
    assert read.level == 1
    assert read.outcome == decided(run(value)).outcome


@pytest.mark.behaviour("A2", "E3")
def test_level_two_never_reaches_execute_at_the_router() -> None:
    policy = make_policy(classes={name: {"level": 2, "review": "all"} for name in make_policy().classes})
    for kind in sorted(policy.classes):
        assert run(action_bytes(**{**first_line(), "type": kind}), make_router(policy)).topic != "hitl.execute"


def test_a_rule_that_refuses_closes_the_action() -> None:
    rule = {
        "id": "never",
        "classes": ["draft.internal"],
        "match": {"content.text": {"contains": "a"}},
        "then": "refuse",
    }
    read = closed(run(action_bytes(**post(type="draft.internal")), make_router(make_policy(rules=[rule]))))
    assert (read.end, read.why, read.outcome) == ("refused", "policy", "REFUSE")
    assert [each.rule for each in read.reasons] == ["rule.never"]
    assert read.approvals == ()


# --- home -------------------------------------------------------------------------------------------------------------


def away(value: bytes) -> tuple[int, int]:
    found = decode(value)
    assert isinstance(found, Decoded)
    place = home(found.action, PARTITIONS)
    return place, (place + 5) % PARTITIONS


def test_an_action_found_elsewhere_is_moved_home_and_decided_there() -> None:
    value, router = action_bytes(), make_router(partitions=PARTITIONS)
    there, here = away(value)
    record = FakeRecord(
        b" " + value, offset=812, partition=here, key=b"odd", headers=[("traceparent", TRACE), ("x", b"y")]
    )
    (moved,) = Partition(router).run(record)
    assert (moved.topic, moved.partition, moved.value) == (ACTIONS, there, record.value)
    assert moved.key == b"acme/acc-17/cmp-204"
    assert json.loads(header(moved, "hitl-via")) == {
        "role": "router", "from": f"hitl.actions/{here}/812", "by": None, "supersedes": None,
    }  # fmt: skip
    assert header(moved, "x") == b"y"

    landed = FakeRecord(moved.value, offset=7, partition=there, key=moved.key, headers=moved.headers)
    (output, *_) = Partition(router).run(landed)
    read = decided(output)
    assert output.topic == "hitl.execute"
    assert read.origin == f"hitl.actions/{there}/7"
    assert (read.trace, read.by) == ("4bf92f3577b34da6a3ce929d0e0e4736", None)
    assert bytes(read.action) == value


def test_legs_in_two_accounts_are_escalated_at_the_first_ones_home() -> None:
    value = action_bytes(changes=[change(), change(account="acc-99")])
    there, _ = away(value)
    output = run(value, make_router(partitions=PARTITIONS), partition=there)
    assert output.topic == "hitl.escalation"
    assert "legs.accounts" in [each.rule for each in decided(output).reasons]


@pytest.mark.parametrize("partitions", [1, 2, 12])
def test_the_copies_of_one_action_meet_wherever_they_were_sent(partitions: int) -> None:
    router = make_router(partitions=partitions)
    value = action_bytes()
    lanes = [Partition(router) for _ in range(partitions)]
    finals = []
    for number, lane in enumerate(lanes):
        (output, *_) = lane.run(FakeRecord(value, offset=number, partition=number))
        if output.topic == ACTIONS:
            record = FakeRecord(output.value, 100 + number, output.partition, headers=output.headers)
            (output, *_) = lanes[output.partition].run(record)
        finals.append(output.topic)
    assert sorted(finals) == ["hitl.closed"] * (partitions - 1) + ["hitl.execute"]


# --- who may propose --------------------------------------------------------------------------------------------------


def refused(output: Output, why: Why, rule: str) -> Closed:
    read = closed(output)
    assert (read.end, read.why) == ("expired" if why is Why.EXECUTE_BY else "refused", why)
    assert [each.rule for each in read.reasons] == [rule]
    assert (read.approvals, read.outcome) == ((), "REFUSE")
    return read


Forge = Callable[[bytes], list[Header]]


@pytest.mark.parametrize(
    "forge",
    [
        lambda value: [("hitl-via", b'{"role":"desk","from":"x","by":"ana"}')],
        lambda value: [("hitl-via", b'{"role":"desk","from":"x","by":"ana"}'), ("hitl-seal", b"d1:AAAA")],
        lambda value: [("hitl-via", b""), ("hitl-seal", b"")],
        lambda value: [("hitl-via", b'{"role":"desk","from":"x","y":' + b"[" * 9_000 + b"]" * 9_000 + b"}")],
        lambda value: [("hitl-via", b'{"role":"desk","from":"\xff"}')],
        lambda value: [("hitl-via", b"\xff"), ("hitl-seal", b"\xff")],
        lambda value: [("hitl-via", None), ("hitl-seal", None)],
        lambda value: via(value, DESK_KEY, "router"),
        lambda value: via(value, SEAL_KEY, "desk"),
        lambda value: via(value, DESK_KEY, "console"),
        lambda value: via(value, DESK_KEY, "nobody"),
        lambda value: via(value, SealKey("d1", b"x" * 32), "desk"),
        lambda value: via(value, DESK_KEY, "desk", topic="hitl.other"),
        lambda value: via(action_bytes(action_id="another"), DESK_KEY, "desk"),
        lambda value: [*via(value, DESK_KEY, "desk"), ("hitl-via", b'{"role":"desk","from":"x","by":"eve"}')],
        lambda value: [("hitl-via", b'{"role":"router","from":"x","by":"eve"}'), *via(value, SEAL_KEY, "router")],
        lambda value: [("hitl-via", b"not json"), *via(value, SEAL_KEY, "router")],
    ],
)
@pytest.mark.parametrize("partitions", [1, PARTITIONS])
def test_a_via_without_a_good_seal_is_refused_wherever_it_lands(forge: Forge, partitions: int) -> None:
    value = action_bytes()
    partition = 0 if partitions == 1 else away(value)[1]
    output = run(value, make_router(partitions=partitions), headers=forge(value), partition=partition)
    refused(output, Why.IDENTITY, "identity.seal")


def test_a_persons_change_is_the_desks_word_and_carries_who_made_it() -> None:
    value = action_bytes(action_id="act-1~r7k2m4q")
    output = run(value, headers=via(value, DESK_KEY, "desk", by="ana", supersedes="hitl.actions/0/1#0"))
    read = decided(output)
    assert (read.by, read.supersedes, read.action_id) == ("ana", "hitl.actions/0/1#0", "act-1~r7k2m4q")
    assert {name for name, _ in output.headers} == {"hitl-type", "hitl-seal"}


def test_a_persons_change_keeps_its_maker_on_the_way_home() -> None:
    value = action_bytes(action_id="act-1~r7k2m4q")
    there, here = away(value)
    router = make_router(partitions=PARTITIONS)
    (moved,) = Partition(router).run(
        FakeRecord(value, partition=here, headers=via(value, DESK_KEY, "desk", by="ana", supersedes="x"))
    )
    (output, *_) = Partition(router).run(FakeRecord(moved.value, 9, there, headers=moved.headers))
    assert (moved.partition, decided(output).by, decided(output).supersedes) == (there, "ana", "x")


def test_an_id_with_a_tilde_is_a_persons_and_no_publishers() -> None:
    refused(run(action_bytes(action_id="act-1~r7")), Why.IDENTITY, "identity.action_id")
    value = action_bytes(action_id="act-1~r7")
    refused(run(value, headers=via(value, SEAL_KEY, "router")), Why.IDENTITY, "identity.action_id")


def test_an_action_without_a_tenant_is_refused_where_the_installation_has_none() -> None:
    refused(run(action_bytes(tenant="")), Why.IDENTITY, "identity.tenant")


SOURCES = {
    "hitl.actions": Source(frozenset({"acme"}), frozenset()),
    "bids": Source(frozenset({"acme", "globex"}), frozenset({"bidder-7"})),
    "open": Source(),
}


@pytest.mark.parametrize(
    ("topic", "parts", "rule"),
    [
        ("hitl.actions", {}, None),
        ("hitl.actions", {"tenant": "globex"}, "identity.tenant"),
        ("hitl.actions", {"agent": {"id": "copy-2"}}, None),
        ("bids", {"tenant": "globex"}, None),
        ("bids", {"agent": {"id": "copy-2"}}, "identity.agent"),
        ("bids", {"tenant": "umbra"}, "identity.tenant"),
        ("open", {"tenant": "umbra"}, None),
    ],
)
def test_a_source_binds_who_may_publish_on_it(topic: str, parts: dict[str, Any], rule: str | None) -> None:
    output = run(action_bytes(**parts), make_router(sources=SOURCES), topic=topic)
    if rule is None:
        assert decided(output).origin == f"{topic}/0/0"
    else:
        refused(output, Why.IDENTITY, rule)


def test_what_is_moved_stays_on_its_own_topic_and_its_source_still_counts() -> None:
    value, router = action_bytes(), make_router(partitions=PARTITIONS, sources=SOURCES)
    there, here = away(value)
    (moved,) = Partition(router).run(FakeRecord(value, partition=here, topic="bids"))
    assert (moved.topic, moved.partition) == ("bids", there)
    (output, *_) = Partition(router).run(FakeRecord(moved.value, 3, there, topic="bids", headers=moved.headers))
    assert decided(output).origin == f"bids/{there}/3"
    refused(
        run(moved.value, router, partition=there, topic="hitl.actions", headers=moved.headers),
        Why.IDENTITY,
        "identity.seal",
    )


# --- in time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "why", "rule"),
    [
        ({"proposed_at": iso(NOW_MS - MINUTE)}, None, ""),
        ({"proposed_at": iso(NOW_MS - MINUTE - 1)}, Why.LATE, "admission.late"),
        ({"proposed_at": iso(NOW_MS - 15 * MINUTE), **post(type="draft.internal")}, None, ""),
        ({"proposed_at": iso(NOW_MS - 15 * MINUTE - 1), **post(type="draft.internal")}, Why.LATE, "admission.late"),
        ({"proposed_at": iso(NOW_MS + 5_000)}, None, ""),
        ({"proposed_at": iso(NOW_MS + 5_001)}, Why.POLICY, "admission.ahead"),
        ({"expires_at": iso(NOW_MS + 1)}, None, ""),
        ({"expires_at": iso(NOW_MS)}, Why.EXECUTE_BY, "admission.expired"),
        ({"proposed_at": "0001-01-01T00:00:00+14:00"}, Why.LATE, "admission.late"),
        ({"expires_at": "0001-01-01T00:00:00+14:00"}, Why.EXECUTE_BY, "admission.expired"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, None, ""),
        ({"proposed_at": "9999-12-31T23:59:59-14:00"}, Why.POLICY, "admission.ahead"),
    ],
)
def test_an_action_is_in_time_by_the_brokers_clock(parts: dict[str, Any], why: Why | None, rule: str) -> None:
    output = run(action_bytes(**parts))
    if why is None:
        assert output.topic == "hitl.execute"
    else:
        refused(output, why, rule)


def test_the_routers_own_clock_does_not_make_an_action_late() -> None:
    outputs = Partition(make_router()).run(FakeRecord(action_bytes()), now_ms=NOW_MS + 86_400_000)
    assert outputs[0].topic == "hitl.execute"


@pytest.mark.parametrize(("lag_ms", "topic"), [(999, "hitl.execute"), (1_000, "hitl.closed"), (60_000, "hitl.closed")])
def test_what_expires_before_a_router_that_lags_gets_to_it_is_closed(lag_ms: int, topic: str) -> None:
    value = action_bytes(expires_at=iso(NOW_MS + 1_000))
    (output,) = Partition(make_router(NOT_AUDITED_BIDS)).run(FakeRecord(value), now_ms=NOW_MS + lag_ms)
    assert output.topic == topic
    if topic == "hitl.closed":
        read = refused(output, Why.EXECUTE_BY, "admission.expired")
        assert (read.end, bytes(read.action)) == ("expired", value)


def test_an_action_that_expired_before_it_was_decided_has_been_seen_like_any_other() -> None:
    partition = Partition(make_router())
    value = action_bytes(expires_at=iso(NOW_MS + 1_000))
    late = NOW_MS + 1_000
    partition.run(record(0, value), now_ms=late)
    (again,) = partition.run(record(1, value, NOW_MS + 1), now_ms=late)
    refused(again, Why.DUPLICATE, "admission.duplicate")
    (other,) = partition.run(record(2, at_ms=NOW_MS + 2), now_ms=late)
    refused(other, Why.CONFLICT, "admission.conflict")


def test_a_window_that_is_replayed_is_the_one_of_a_router_that_closed_what_had_expired() -> None:
    """Whoever replays the log does not know when it was decided, only when it was appended."""
    changes = [change("1.00", "1.10")]
    came = [record(n, action_bytes(action_id=f"a{n}", changes=changes, expires_at=iso(NOW_MS + 1))) for n in range(3)]
    router = make_router(NOT_AUDITED)
    lagging, restored = Partition(router), Partition(router)
    outputs = lagging.run(*came, now_ms=NOW_MS + 1)
    assert {output.topic for output in outputs} == {"hitl.closed"}
    restored.state.replay(came)
    windows = [partition.state.window for partition in (lagging, restored)]
    assert any(windows[0].sums)
    assert windows[0].sums == windows[1].sums
    assert (windows[0].ids, windows[0].norms) == (windows[1].ids, windows[1].norms)


# --- once -------------------------------------------------------------------------------------------------------------


def record(number: int, value: bytes | None = None, at_ms: int = NOW_MS) -> FakeRecord:
    return FakeRecord(action_bytes() if value is None else value, offset=number, timestamp=at_ms)


@pytest.mark.parametrize("batches", [[2], [1, 1]])
def test_the_same_bytes_again_are_a_duplicate_in_the_same_batch_and_in_a_later_one(batches: list[int]) -> None:
    partition = Partition(make_router(NOT_AUDITED))
    value = action_bytes(**post(type="draft.internal"))
    outputs, number = [], 0
    for size in batches:
        outputs += partition.run(*(record(number + place, value, NOW_MS + number + place) for place in range(size)))
        number += size
    assert [each.topic for each in outputs] == ["hitl.execute", "hitl.closed"]
    read = refused(outputs[1], Why.DUPLICATE, "admission.duplicate")
    assert not read.action
    assert read.hash == hashlib.sha256(value).hexdigest()
    assert read.id == "hitl.actions/0/1#0"
    assert "offset 0" in read.reasons[0].saw


@pytest.mark.parametrize("batches", [1, 2])
def test_other_bytes_under_the_same_id_are_a_conflict_and_are_kept(batches: int) -> None:
    partition = Partition(make_router(NOT_AUDITED))
    first = record(0, action_bytes(**post(type="draft.internal")))
    other = record(1, action_bytes(**post("other", type="draft.internal")))
    outputs = partition.run(first, other) if batches == 1 else partition.run(first) + partition.run(other)
    read = refused(outputs[1], Why.CONFLICT, "admission.conflict")
    assert bytes(read.action) == other.value


def test_white_space_around_the_same_bytes_makes_no_conflict() -> None:
    partition = Partition(make_router(NOT_AUDITED))
    value = action_bytes(**post(type="draft.internal"))
    outputs = partition.run(record(0, value), record(1, value + b"\n"))
    refused(outputs[1], Why.DUPLICATE, "admission.duplicate")


def test_the_same_id_of_another_tenant_is_another_action() -> None:
    outputs = Partition(make_router(NOT_AUDITED)).run(
        *(
            record(n, action_bytes(**post(type="draft.internal", tenant=name)))
            for n, name in enumerate(["acme", "globex"])
        )
    )
    assert [each.topic for each in outputs] == ["hitl.execute"] * 2


def test_after_an_abort_nothing_is_a_duplicate_of_itself() -> None:
    partition = Partition(make_router())
    aborted = partition.abort([record(0)]).outputs
    assert list(aborted) == partition.run(record(0))


def test_a_repeat_is_a_duplicate_until_it_is_late_and_never_in_between() -> None:
    partition = Partition(make_router())
    value = action_bytes(proposed_at=iso(NOW_MS))
    partition.run(record(0, value))
    for number, after_ms in enumerate([1, 20_000, 40_000, MINUTE, MINUTE + 1, 10 * MINUTE], 1):
        (output,) = partition.run(record(number, value, NOW_MS + after_ms))
        assert closed(output).why == ("duplicate" if after_ms <= MINUTE else "late")


def test_a_refused_record_takes_no_id() -> None:
    partition = Partition(make_router())
    value = action_bytes(proposed_at=iso(NOW_MS))
    partition.run(record(0, value, NOW_MS + 2 * MINUTE))
    (output, *_) = partition.run(record(1, value, NOW_MS + 2 * MINUTE))
    assert closed(output).why == "late"
    assert partition.state.size() == 0


def test_where_no_id_can_be_remembered_none_is_let_through() -> None:
    partition = Partition(make_router(NOT_AUDITED), IdBudget(1))
    drafts = [action_bytes(**post(type="draft.internal", action_id=f"d{n}")) for n in range(2)]
    outputs = partition.run(*(record(n, value) for n, value in enumerate(drafts)))
    refused(outputs[1], Why.POLICY, "window.full")
    refused(partition.run(record(2, drafts[0]))[0], Why.DUPLICATE, "admission.duplicate")
    assert partition.state.size() == 1


def test_a_partition_that_moves_to_a_full_process_still_knows_its_ids() -> None:
    router, budget = make_router(NOT_AUDITED), IdBudget(1)
    busy = Partition(router, budget)
    busy.run(record(0, action_bytes(**post(type="draft.internal", action_id="other"))))
    moved_in = Partition(router, budget)
    moved_in.state.replay([record(0)])
    busy.state.discard()
    refused(moved_in.run(record(1))[0], Why.DUPLICATE, "admission.duplicate")


def test_a_discarded_state_gives_its_room_back() -> None:
    budget = IdBudget(1)
    first = Partition(make_router(), budget)
    first.run(record(0))
    first.state.discard()
    assert budget.used == 0


# --- audit copies -----------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A4", "C2")
def test_an_audit_copy_can_only_be_judged_and_differs_in_nothing_but_its_purpose() -> None:
    value = action_bytes(rationale='"purpose":"decide" \\"purpose\\":\\"decide\\"', action_id='"purpose":"decide"')
    outputs = Partition(make_router(AUDITED)).run(FakeRecord(value, headers=[("traceparent", TRACE)]))
    assert [each.topic for each in outputs] == ["hitl.execute", "hitl.review.seeded"]
    run_, copy = outputs
    assert run_.value is not None
    assert copy.value is not None
    assert (decided(run_).purpose, decided(copy).purpose) == ("decide", "audit")
    assert copy.value == run_.value.replace(b'"purpose":"decide","for"', b'"purpose":"audit","for"')
    assert (copy.key, copy.partition, copy.index) == (run_.key, run_.partition, run_.index)
    assert header(copy, "hitl-seal") != header(run_, "hitl-seal")
    assert header(copy, "traceparent") == TRACE


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        (AUDITED, {"confidence": 0.1}),
        (AUDITED, {"proposed_at": iso(NOW_MS - 2 * MINUTE)}),
        (make_policy(classes={"bid.adjust": {"level": 1, "audit_sample": 1}}), {}),
        (NOT_AUDITED, post(type="draft.internal")),
    ],
)
def test_only_what_runs_by_itself_is_audited(policy: Any, parts: dict[str, Any]) -> None:
    assert len(Partition(make_router(policy)).run(FakeRecord(action_bytes(**parts)))) == 1


@pytest.mark.behaviour("C2")
def test_the_share_that_is_audited_is_the_one_that_the_policy_says() -> None:
    policy = make_policy(classes={"draft.internal": {"audit_sample": "0.25"}})
    values = [action_bytes(**post(type="draft.internal", action_id=f"d{n}")) for n in range(2_000)]
    outputs = Partition(make_router(policy)).run(*(record(n, value) for n, value in enumerate(values)))
    drawn = sum(each.topic == "hitl.review.seeded" for each in outputs)
    assert 400 < drawn < 600


def test_the_draw_of_a_record_is_the_same_again_and_needs_the_key() -> None:
    mine, theirs = (Draw(key).lot(ACTIONS, 3) for key in (SAMPLE_KEY, SealKey("s2", b"\x09" * 32)))
    again = Draw(SAMPLE_KEY).lot(ACTIONS, 3)
    lots = [(lot(offset, b"h", 0.5)) for lot in (mine, again, theirs) for offset in range(200)]
    assert lots[:200] == lots[200:400] != lots[400:]


# --- plugins ----------------------------------------------------------------------------------------------------------

ENFORCED = make_policy(gates={"first_line": {"state": "enforce"}})


@pytest.mark.parametrize(
    ("verdict", "topic"), [(0.9, "hitl.execute"), (0.1, "hitl.review"), (FAULT, "hitl.escalation")]
)
def test_what_a_plugin_says_of_a_text_counts(verdict: Any, topic: str) -> None:
    assert run(action_bytes(**first_line()), make_router(ENFORCED, judge=judged(verdict))).topic == topic


def test_without_plugins_what_needs_one_is_escalated() -> None:
    assert run(action_bytes(**first_line()), make_router(ENFORCED)).topic == "hitl.escalation"


@pytest.mark.parametrize("how", ["header", "escape"])
def test_a_type_that_is_not_spelled_out_in_the_bytes_is_judged_too(how: str) -> None:
    value, headers = action_bytes(**first_line()), []
    if how == "header":
        value, headers = action_bytes(**{**first_line(), "type": ...}), [("ce_type", b"firstline.send")]
    else:
        value = value.replace(b"firstline.send", b"firstline\\u002esend")
    assert run(value, make_router(ENFORCED, judge=judged(0.9)), headers=headers).topic == "hitl.execute"


def test_all_texts_of_a_batch_are_judged_at_once_and_each_verdict_finds_its_action() -> None:
    calls = []

    def judge(jobs: Any) -> Any:
        calls.append(list(jobs))
        return [0.9 if "good" in text else 0.1 for _, text in jobs]

    texts = ["Acme is good", "Acme is bad", "Acme: good again"]
    values = [action_bytes(**first_line(text, action_id=f"f{n}")) for n, text in enumerate(texts)]
    batch = [record(0), record(1, values[0]), record(2, b"junk"), *(record(3 + n, v) for n, v in enumerate(values[1:]))]
    outputs = Partition(make_router(ENFORCED, judge=judge)).run(*batch)
    topics = {each.index: each.topic for each in outputs if each.topic != "hitl.review.seeded"}
    assert calls == [[("tone", text) for text in texts]]
    assert [topics[place] for place in (1, 3, 4)] == ["hitl.execute", "hitl.review", "hitl.execute"]


# --- dead letters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"junk", b"{}", b"\xff", b"", None, b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_kept_as_it_came(value: bytes | None) -> None:
    came = FakeRecord(value, offset=9, key=b"k", headers=[("x", b"1"), ("hitl-error", b"lie"), ("traceparent", TRACE)])
    (output,) = Partition(make_router()).run(came)
    assert (output.topic, output.partition, output.key, output.value) == ("hitl.dlq", 0, b"k", value)
    found = dict(output.headers)
    assert (found["x"], found["traceparent"], found["hitl-source"]) == (b"1", TRACE, b"hitl.actions/0/9")
    assert found["hitl-error"] != b"lie"
    assert found["hitl-appended"] == b"2026-11-21T07:10:00.140Z"


def test_a_number_out_of_any_range_is_no_reason_to_stop() -> None:
    """A record that raises would be read again for ever."""
    for value in (b"1e9999999999999999999999", b"1e400", b"5e-324", b"9" * 400):
        for place in (b"0.93", b'"1.20"', b'"1.30"', b"12.31"):
            (output, *_) = Partition(make_router()).run(FakeRecord(action_bytes().replace(place, value)))
            assert output.topic


# --- laws -------------------------------------------------------------------------------------------------------------

IDS = st.integers(0, 5).map(lambda number: f"a-{number}")
VALUES = st.one_of(
    st.builds(lambda name, after: action_bytes(action_id=name, changes=[change("1.00", after)]), IDS,
              st.sampled_from(["1.01", "1.5", "x"])),
    st.builds(lambda name, age: action_bytes(action_id=name, proposed_at=iso(NOW_MS - age)), IDS,
              st.sampled_from([-10_000, 0, 120_000])),
    st.builds(lambda name, kind: action_bytes(**first_line(action_id=name, type=kind)), IDS,
              st.sampled_from(["firstline.send", "draft.internal", "post.publish", "odd"])),
    st.builds(lambda name, account: action_bytes(action_id=name, changes=[change(account=account)]), IDS,
              st.sampled_from(["acc-1", "acc-2", None])),
    st.sampled_from([b"", b"junk", b"{}", None, b"\xff"]),
    st.binary(max_size=20),
)  # fmt: skip
HEADERS = st.lists(
    st.sampled_from([
        ("traceparent", TRACE), ("hitl-via", b"{}"), ("ce_id", b"c"), ("ce_type", b"draft.internal"), ("x", b""),
        ("content-type", b"application/cloudevents+json"), ("hitl-seal", b"r1:x"),
    ]),
    max_size=3,
)  # fmt: skip
BATCHES = st.lists(st.tuples(VALUES, HEADERS, st.sampled_from([0, 1, 5_000, 70_000])), max_size=25)


def stream(batch: list[tuple[bytes | None, list[Header], int]], partition: int = 0) -> list[FakeRecord]:
    found, now = [], NOW_MS
    for offset, (value, headers, wait) in enumerate(batch):
        now += wait
        found.append(FakeRecord(value, offset, partition, now, headers=headers))
    return found


@pytest.mark.behaviour("I1")
@given(BATCHES, st.sampled_from([1, 2, 12]), st.sampled_from([1_000_000, 3]))
@settings(max_examples=150, deadline=None)
def test_every_record_gets_exactly_one_answer(batch: Any, partitions: int, ids: int) -> None:
    came = stream(batch)
    router = make_router(AUDITED, partitions=partitions, judge=judged(0.9))
    result = router(came, router.state(IdBudget(ids)), Moment(NOW_MS, 5))
    answers = [each for each in result.outputs if each.topic != "hitl.review.seeded"]
    assert [each.index for each in answers] == list(range(len(came)))
    tally = result.tally
    assert sum(tally.routed.values()) + sum(tally.dead.values()) + tally.moved == len(came)
    assert sum(tally.closed.values()) == sum(each.topic == "hitl.closed" for each in answers)
    assert tally.audit == len(result.outputs) - len(answers)
    for output in result.outputs:
        assert len(output.value or b"") <= TABLE[output.topic.removeprefix("hitl.")].bytes_max
        if output.topic not in (ACTIONS, "hitl.dlq"):
            opened(output)
            assert output.partition == 0


@given(BATCHES, st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_where_batches_end_changes_no_answer(batch: Any, size: int) -> None:
    came = stream(batch)
    router = make_router(AUDITED, judge=judged(0.9))
    whole = Partition(router).run(*came)
    partition = Partition(router)
    parts = [each for start in range(0, len(came), size) for each in partition.run(*came[start : start + size])]
    assert [(each.topic, each.key, each.value, each.headers) for each in parts] == [
        (each.topic, each.key, each.value, each.headers) for each in whole
    ]


@given(BATCHES)
@settings(max_examples=100, deadline=None)
def test_deciding_a_batch_again_after_an_abort_gives_the_same_bytes(batch: Any) -> None:
    came = stream(batch)
    partition = Partition(make_router(AUDITED, judge=judged(0.9)))
    first = list(partition.abort(came).outputs)
    assert partition.run(*came) == first


def admitted(outputs: Any) -> set[tuple[str, str | None, str]]:
    """Return the identities that were routed."""
    routed = [decided(each) for each in outputs if each.topic not in ("hitl.closed", "hitl.dlq")]
    return {(each.tenant, each.entity.account or each.agent.id, each.action_id) for each in routed}


@given(BATCHES)
@settings(max_examples=100, deadline=None)
def test_after_a_batch_is_applied_nothing_of_it_runs_a_second_time(batch: Any) -> None:
    came = stream(batch)
    partition = Partition(make_router(AUDITED, judge=judged(0.9)))
    first = partition.run(*came)
    newest = came[-1].timestamp if came else NOW_MS
    again = [FakeRecord(each.value, 1_000 + each.offset, 0, newest, headers=each.headers) for each in came]
    second = partition.run(*again)
    # What was ahead of its time the first time was never let in; nothing else gets in a second time.
    assert not admitted(first) & admitted(second)
    for output in second:
        if output.topic == "hitl.closed":
            assert closed(output).why in ("duplicate", "conflict", "late", "identity", "policy", "execute_by")
    ran = {decided(each).id for each in first if each.topic == "hitl.execute"}
    assert len(ran) == sum(each.topic == "hitl.execute" for each in first)


@given(BATCHES, st.integers(0, 25), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_a_restored_partition_answers_as_the_one_that_went_on(batch: Any, cut: int, slice_: int) -> None:
    came = stream(batch)
    past, rest = came[:cut], came[cut:]
    router = make_router(AUDITED, judge=judged(0.9))
    lived, restored = Partition(router), Partition(router)
    lived.run(*past)
    for start in range(0, len(past), slice_):
        restored.state.replay(past[start : start + slice_])
    assert restored.state.size() == lived.state.size()
    assert restored.run(*rest) == lived.run(*rest)


def test_the_decoder_and_the_decision_agree_on_the_action() -> None:
    value = action_bytes()
    assert decode_bytes(bytes(decided(run(value)).action)) == decode_bytes(value)
    assert make_action() == decode_bytes(value).action  # type: ignore[union-attr]


@pytest.mark.parametrize("tenant", ["drill", "Drill", " drill"])
def test_the_tenant_of_drills_is_refused_from_whoever_is_not_control(tenant: str) -> None:
    end = closed(run(action_bytes(tenant=tenant)))

    assert (end.end, end.why, end.reasons[0].rule) == ("refused", "identity", "identity.tenant")


def test_control_may_propose_a_drill() -> None:
    router = make_router()
    router.settings.proposers["control"] = {DESK_KEY.key_id: DESK_KEY}  # type: ignore[index]
    value = action_bytes(tenant="drill")

    assert run(value, router, headers=via(value, DESK_KEY, "control")).topic == "hitl.execute"
    assert run(value, router, headers=via(value, DESK_KEY, "desk")).topic == "hitl.closed"
