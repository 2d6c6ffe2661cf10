"""`hitl doctor` beside a real Kafka: what is missing, what mends it, and that nothing is missing then."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it
from hitl_stream.cli.doctor import Line, keys_lines
from hitl_stream.core.control import Control
from hitl_stream.dev.broker import free_ports
from hitl_stream.health import Health
from hitl_stream.metrics import Metrics
from hitl_stream.wire.signing import key_entry, new_signing_key
from support.kafka import Topics, within
from support.oncall import FakeControl, OnCall

POLICY = Path(__file__).parents[2] / "src" / "hitl_stream" / "dev" / "policies" / "demo.yaml"


@pytest.fixture
def examined(kafka: str, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Any:
    """Return what calls the verb: (exit code, {about: (state, found, fix)})."""
    metrics, console = free_ports(2)
    ports = {"HITL_METRICS_PORT": str(metrics), "HITL_CONSOLE_PORT": str(console)}
    site = {"HITL_KAFKA": kafka, "HITL_PREFIX": topics.prefix, "HITL_PARTITIONS": "2", "HITL_POLICY": str(POLICY)}
    for name, value in {**site, **ports, "HITL_STATE_DIR": str(tmp_path / "state")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, dict[str, tuple[str, str, str]]]:
        code = sys.modules["hitl_stream.cli.main"].run([*arguments] or ["doctor", "--json"])
        shown = capfd.readouterr().out
        if arguments:
            assert code == 0, shown
            return code, {}
        said = json.loads(shown)
        assert said["ok"] == (code == 0)
        return code, {row["about"]: (row["state"], row["found"], row["fix"]) for row in said["lines"]}

    return run


@pytest.mark.kafka
def test_what_is_missing_is_named_with_the_command_that_mends_it_until_nothing_is(
    examined: Any, kafka: str, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, lines = examined()
    assert code == 1
    assert lines["settings"][2] == lines["seals"][2].split(",")[0] == "hitl keys seal"
    assert lines["topics"][2].startswith("hitl topics apply")
    assert lines["trust"][2].startswith("hitl keys init")
    assert lines["encryption"][0] == "note"

    examined("topics", "apply")
    site = OnCall(kafka, topics.prefix, tmp_path / "state").begin(topics=())
    examined("keys", "seal")
    monkeypatch.setenv("HITL_TRUST", site.trust)
    code, lines = examined()
    assert {about: state for about, (state, *_) in lines.items() if state == "bad"} == {}
    assert code == 0
    assert lines["control"][::2] == ("note", "hitl run control")
    assert "ana, ben can sign" in lines["trust"][1]

    with FakeControl(site):
        code, lines = examined()
    assert (code, lines["control"][0], lines["clock"][0]) == (0, "ok", "ok")


@pytest.mark.kafka
def test_without_a_broker_it_looks_at_nothing_behind_it(examined: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HITL_KAFKA", "127.0.0.1:1")
    code, lines = examined()
    assert (code, lines["broker"][0]) == (1, "bad")
    assert not {"topics", "trust", "control", "clock"} & set(lines)


@pytest.fixture
def other() -> Iterator[int]:
    """A port at which something that is none of ours listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=_hang_up, args=(server,), daemon=True).start()
        yield int(server.getsockname()[1])


def _hang_up(server: socket.socket) -> None:
    try:
        while True:
            server.accept()[0].close()
    except OSError:
        return


@pytest.mark.kafka
def test_a_port_is_taken_by_a_role_of_ours_or_by_somebody_else(
    examined: Any, monkeypatch: pytest.MonkeyPatch, other: int
) -> None:
    monkeypatch.setenv("HITL_METRICS_PORT", str(other))
    _, lines = examined()
    assert "cannot listen" in lines["settings"][1]

    async def beside() -> dict[str, tuple[str, str, str]]:
        import asyncio

        health = Health(Metrics(), {}, {"role": "router"}, port=0)
        await health.start()
        monkeypatch.setenv("HITL_METRICS_PORT", str(health.port))
        try:
            return (await asyncio.to_thread(examined))[1]  # type: ignore[no-any-return]
        finally:
            await health.stop()

    assert within(beside())["ports"][:2] == ("ok", "metrics_port: router of ours answers there")


# --- keys, without Kafka ----------------------------------------------------------------------------------------------

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def said(*people: tuple[str, int]) -> list[Line]:
    """Return what is said where these people's keys end in so many days."""
    control = Control()
    for name, days in people:
        key = new_signing_key(f"{name}-1", name)
        control.keys[key.key_id] = key_entry(key, ("engage",), NOW - timedelta(days=1), NOW + timedelta(days=days))
    return list(keys_lines(control, int(NOW.timestamp() * 1000)))


def test_two_people_who_can_sign_are_enough() -> None:
    assert [line.state for line in said(("ana", 90), ("ben", 90))] == ["ok"]


@pytest.mark.parametrize("people", [(), (("ana", 90),), (("ana", 90), ("ben", -1))])
def test_fewer_are_not(people: tuple[tuple[str, int], ...]) -> None:
    first = said(*people)[0]
    assert (first.state, first.fix) == ("bad", "hitl keys add --holder NAME")


def test_a_key_that_ends_soon_is_named() -> None:
    lines = said(("ana", 90), ("ben", 12))
    assert [(line.state, line.fix) for line in lines] == [("ok", ""), ("note", "hitl keys rotate ben-1")]
    assert "ends on 2026-12-03" in lines[1].found


@pytest.mark.kafka
def test_a_new_installation_of_ones_own_is_well(
    examined: Any, kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "mine"
    examined("init", str(home), "--kafka", kafka, "--holder", "ana", "--holder", "ben")
    for name in ("HITL_KAFKA", "HITL_POLICY", "HITL_STATE_DIR"):
        monkeypatch.delenv(name)
    monkeypatch.chdir(home)
    code, lines = examined()
    assert {about: line for about, line in lines.items() if line[0] == "bad"} == {}
    assert code == 0
    assert lines["policy"][1] == f"in force: {home / 'policy.yaml'}"
    assert "ana, ben can sign" in lines["trust"][1]
