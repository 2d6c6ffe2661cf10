"""Whose seal a record carries, for a reader who may not have every role's keys."""

from __future__ import annotations

import pytest

from hitl_stream.wire.records import DECISION
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.whose import NOT_KNOWN, Seals, Whose

ROUTER, EXECUTOR = SealKey("r1", b"\x01" * 32), SealKey("e1", b"\x02" * 32)
SAME_ID = SealKey("r1", b"\x03" * 32)
"""Another role's key under the id of the router's."""
HEAD = b'{"id":"a/0/1#0"'
TOPIC = "hitl.held"
BOTH = ("executor", "router")


def headers(key: SealKey = ROUTER, topic: str = TOPIC, kind: str = DECISION, head: bytes = HEAD) -> list[tuple]:
    return [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, sealer(key, topic, kind)(head))]


def whose(given: list[tuple], roles: tuple[str, ...] = BOTH, **keys: SealKey) -> Whose:
    known = {role: {key.key_id: key} for role, key in (keys or {"router": ROUTER, "executor": EXECUTOR}).items()}
    return Seals(known).whose(TOPIC, DECISION, given, HEAD, roles)


@pytest.mark.parametrize(("key", "role"), [(ROUTER, "router"), (EXECUTOR, "executor")])
def test_a_seal_tells_the_role(key: SealKey, role: str):
    assert whose(headers(key)) == Whose(role)


def test_two_roles_may_have_keys_of_one_id():
    assert whose(headers(SAME_ID), router=ROUTER, executor=SAME_ID) == Whose("executor")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (headers(head=b"other"), "the seal does not fit"),
        (headers(topic="hitl.execute"), "the seal does not fit"),
        (headers(EXECUTOR), "sealed under a key id that is not one of router"),
        (headers()[:1], "no seal"),
        (headers()[1:], "hitl-type is not decision/1"),
        ([], "hitl-type is not decision/1"),
        ([(TYPE_HEADER, b"closed/1"), *headers()[1:]], "hitl-type is not decision/1"),
        ([headers()[0], (SEAL_HEADER, b"r1:\xff\xfe")], "the seal does not fit"),
    ],
)
def test_what_no_role_sealed_has_a_fault(given: list[tuple], fault: str):
    assert whose(given, ("router",)) == Whose(fault=fault)


def test_what_a_role_without_keys_here_may_have_sealed_is_not_known():
    assert whose(headers(EXECUTOR), router=ROUTER) == NOT_KNOWN
    assert whose(headers(ROUTER), ("executor",), router=ROUTER) == NOT_KNOWN
    assert whose(headers(head=b"other"), router=ROUTER) == Whose(fault="the seal does not fit")
    assert whose([headers()[0]], router=ROUTER) == Whose(fault="no seal")
