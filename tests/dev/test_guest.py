"""Whoever watches a demo comes to its console as a person, and as one who may do everything but release."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hitl_stream.console.people import DAY_MS, LINK_MS, RELEASER, Kind, open_people
from hitl_stream.core.policy.model import Policy
from hitl_stream.dev import guest
from hitl_stream.dev.broker import free_ports
from hitl_stream.dev.guest import console_port, invite, missing
from support.kafka import within
from support.make import NOW_MS
from support.staff import demo_policy


def invited(place: Path, policy: Policy) -> guest.Guest:
    return within(invite(str(place), policy, 8080, NOW_MS))


def test_a_guest_decides_in_every_queue_and_class_and_stops_but_never_releases(tmp_path: Path):
    policy = demo_policy()
    found = invited(tmp_path / "people.db", policy)

    async def look() -> None:
        people = open_people(tmp_path / "people.db")
        account = await people.account(found.name)
        await people.close()
        assert account is not None
        assert (account.kind, account.tenants) == (Kind.PERSON, None)
        assert {role for queue in policy.queues.values() for role in queue.roles} < set(account.queue_roles)
        assert all(account.has(role) for role in ("viewer", "kill-operator", "auditor", "labeller"))
        assert not account.has(RELEASER)
        assert all(account.is_qualified(name, NOW_MS + DAY_MS - 1) for name in policy.classes)

    within(look())


def test_a_guest_comes_in_by_the_link_once_and_by_the_password(tmp_path: Path):
    found = invited(tmp_path / "people.db", demo_policy())
    address, _, secret = found.link.partition("#")

    async def come_in() -> None:
        people = open_people(tmp_path / "people.db")
        assert await people.sign_in_by_link(secret, NOW_MS) is not None
        assert await people.sign_in_by_link(secret, NOW_MS) is None
        assert await people.sign_in(found.name, found.password, NOW_MS) is not None
        await people.close()

    within(come_in())
    assert (address, found.url) == ("http://localhost:8080/link", "http://localhost:8080/")
    assert found.until_ms == NOW_MS + LINK_MS


def test_secrets_are_new_each_time(tmp_path: Path):
    first, second = (invited(tmp_path / f"{n}.db", demo_policy()) for n in range(2))

    assert not {first.link, first.password} & {second.link, second.password}


def test_what_the_console_lacks_is_named(monkeypatch: pytest.MonkeyPatch):
    assert missing() == ""
    monkeypatch.setattr(guest, "NEEDS", ("json", "no_such_module", "fastapi"))
    assert missing() == "no_such_module"


@pytest.fixture
def usual(monkeypatch: pytest.MonkeyPatch) -> int:
    """A port that nobody has, as the usual one."""
    (port,) = free_ports(1)
    monkeypatch.setattr(guest, "PORT", port)
    return port


@pytest.fixture
def taken(usual: int) -> Iterator[int]:
    """Somebody listens on the usual port."""
    with socket.create_server(("127.0.0.1", usual)):
        yield usual


def test_the_usual_port_is_taken_where_it_is_free(usual: int):
    assert console_port() == usual


def test_where_somebody_has_the_usual_port_another_one_is_taken(taken: int):
    assert console_port() != taken
