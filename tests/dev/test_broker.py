"""Choosing a broker and writing its configuration, without one; failing starts, with processes that are none."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from hitl_stream.core.errors import BrokenError, UnreachableError
from hitl_stream.dev import broker as subject
from hitl_stream.dev.broker import (
    HOST,
    PORTS,
    START_TRIES_MAX,
    Absent,
    BrokerChoice,
    External,
    ExternalBroker,
    Jars,
    Kind,
    Node,
    ProcessBroker,
    fetch_jars,
    find,
    free_ports,
    kafka_home,
    kafka_version,
    main,
    ready,
    render,
    server_properties,
)

ONE = Node(1, 20_001, 20_002)
THREE = (ONE, Node(2, 20_003, 20_004), Node(3, 20_005, 20_006))


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """An environment with a Java 17 and Kafka's jars, all of them fakes."""
    libs = tmp_path / "kafka" / "libs"
    libs.mkdir(parents=True)
    (libs / "kafka_2.13-4.1.1.jar").touch()
    _script(tmp_path / "bin" / "java", """echo 'openjdk version "17.0.15" 2025-04-15' >&2""")
    return {"PATH": str(tmp_path / "bin"), "HITL_KAFKA_HOME": str(tmp_path / "kafka")}


# --- find -------------------------------------------------------------------------------------------------------------


def test_a_cluster_named_by_the_environment_comes_first(machine: dict[str, str]):
    assert find(env=machine | {"HITL_KAFKA": "kafka-1:9092"}) == BrokerChoice(External("kafka-1:9092"))


def test_the_jars_come_next_and_say_why_the_first_was_passed_over(machine: dict[str, str], tmp_path: Path):
    jars = Jars(tmp_path / "bin" / "java", tmp_path / "kafka" / "libs")
    assert find(env=machine) == BrokerChoice(jars, ("external: HITL_KAFKA is not set",))


def test_noida_is_taken_when_there_is_no_java(tmp_path: Path):
    pytest.importorskip("noida_db")
    choice = find(env={"PATH": str(tmp_path)})
    assert isinstance(choice, BrokerChoice)
    assert choice.kind == "noida"
    assert choice.passed_over[1] == "jar: no java in PATH; expected a JDK 17 or newer"


def test_a_kind_asked_for_is_the_only_one_looked_for(machine: dict[str, str]):
    assert find("external", machine) == Absent("external: HITL_KAFKA is not set")
    choice = find("jar", machine | {"HITL_KAFKA": "kafka-1:9092"})
    assert isinstance(choice, BrokerChoice)
    assert choice.kind == "jar"


def test_without_any_broker_every_kind_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subject, "find_spec", lambda name: None)
    absent = find(env={"PATH": str(tmp_path)})
    assert isinstance(absent, Absent)
    assert [part.split(":")[0] for part in absent.reason.split("; ") if ":" in part] == ["external", "jar", "noida"]


@pytest.mark.parametrize(
    ("said", "reason"),
    [('openjdk version "11.0.2"', "is Java 11"), ('java version "1.8.0_392"', "is Java 8"), ("no JDK", "(unknown)")],
)
def test_an_old_java_is_no_java(said: str, reason: str, machine: dict[str, str], tmp_path: Path):
    _script(tmp_path / "old" / "bin" / "java", f"echo '{said}' >&2")
    absent = find("jar", machine | {"JAVA_HOME": str(tmp_path / "old")})
    assert isinstance(absent, Absent)
    assert reason in absent.reason


def test_without_jars_the_reason_says_how_to_get_them(machine: dict[str, str], tmp_path: Path):
    absent = find("jar", machine | {"HITL_KAFKA_HOME": str(tmp_path / "empty")})
    assert isinstance(absent, Absent)
    assert "hitl_stream.dev.broker fetch" in absent.reason


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_single_node_replicates_nothing_and_listens_on_loopback_only():
    properties = server_properties(ONE, (ONE,), Path("/data"))
    assert properties["listeners"] == f"PLAINTEXT://{HOST}:20001,CONTROLLER://{HOST}:20002"
    assert properties["controller.quorum.voters"] == f"1@{HOST}:20002"
    assert {v for k, v in properties.items() if "replication.factor" in k or "min.isr" in k} == {"1"}


def test_three_nodes_keep_three_copies_and_wait_for_two():
    properties = server_properties(THREE[1], THREE, Path("/data"))
    assert properties["node.id"] == "2"
    assert properties["controller.quorum.voters"] == f"1@{HOST}:20002,2@{HOST}:20004,3@{HOST}:20006"
    assert {v for k, v in properties.items() if "replication.factor" in k} == {"3"}
    assert {v for k, v in properties.items() if "min.isr" in k or "min.insync" in k} == {"2"}


def test_properties_are_ascii_with_the_escapes_of_java():
    assert render({"log.dirs": "/tmp/für\\x"}) == "log.dirs=/tmp/f\\u00fcr\\\\x\n"


def test_settings_and_the_jvm_reach_the_jars(machine: dict[str, str], tmp_path: Path):
    choice = find("jar", machine)
    assert isinstance(choice, BrokerChoice)
    quick, full = choice.broker(), choice.broker(jvm="full", settings={"num.io.threads": "2"})
    assert isinstance(quick, ProcessBroker)
    assert isinstance(full, ProcessBroker)
    assert "-XX:TieredStopAtLevel=1" in quick._engine.command(Path("/h"), (1, 2))
    assert "-XX:TieredStopAtLevel=1" not in full._engine.command(Path("/h"), (1, 2))
    libs = tmp_path / "kafka" / "libs"
    assert full._engine == Jars(tmp_path / "bin" / "java", libs, "full", (("num.io.threads", "2"),))


def test_free_ports_are_distinct_and_outside_the_range_of_outgoing_connections():
    ports = free_ports(3)
    assert len(set(ports)) == 3
    assert set(ports) <= set(PORTS)


def test_a_port_asked_for_is_taken_as_it_is():
    assert free_ports(1, first=9092) == (9092,)


# --- fetch ------------------------------------------------------------------------------------------------------------


def test_jars_that_are_there_are_not_fetched(machine: dict[str, str], tmp_path: Path):
    assert fetch_jars(machine) == tmp_path / "kafka" / "libs"


def test_fetched_jars_appear_whole(tmp_path: Path):
    _script(tmp_path / "bin" / "mvn", 'd="${6#-DoutputDirectory=}"; /bin/mkdir -p "$d"; : > "$d/kafka_2.13-4.1.1.jar"')
    env = {"PATH": str(tmp_path / "bin"), "HITL_KAFKA_HOME": str(tmp_path / "home")}
    libs = fetch_jars(env)
    assert [path.name for path in libs.iterdir()] == ["kafka_2.13-4.1.1.jar"]
    assert [path.name for path in libs.parent.iterdir()] == ["libs"]


def test_a_failing_maven_leaves_nothing_and_its_words_are_told(tmp_path: Path):
    _script(tmp_path / "bin" / "mvn", "echo 'Could not resolve'; exit 1")
    env = {"PATH": str(tmp_path / "bin"), "HITL_KAFKA_HOME": str(tmp_path / "home")}
    with pytest.raises(BrokenError, match="Could not resolve"):
        fetch_jars(env)
    assert list((tmp_path / "home").iterdir()) == []


def test_without_maven_the_error_names_the_other_way(tmp_path: Path):
    with pytest.raises(BrokenError, match="HITL_KAFKA_HOME"):
        fetch_jars({"PATH": str(tmp_path), "HITL_KAFKA_HOME": str(tmp_path / "home")})


def test_the_version_of_kafka_stands_in_the_pom_and_names_the_cache():
    assert kafka_version().startswith("4.1.")
    assert kafka_home({}).name == f"kafka-{kafka_version()}"


# --- starts that fail -------------------------------------------------------------------------------------------------


@dataclass
class Fake:
    """An engine whose process is this Python running `code`."""

    code: str
    kind: ClassVar[Kind] = "jar"
    ports: ClassVar[int] = 1
    tried: list[tuple[int, ...]] = field(default_factory=list)

    def prepare(self, home: Path, ports: Sequence[int]) -> None:
        self.tried.append(tuple(ports))

    def command(self, home: Path, ports: Sequence[int]) -> list[str]:
        return [sys.executable, "-c", self.code]


def test_a_broker_that_ends_while_starting_is_reported_with_the_end_of_its_log():
    engine = Fake("print('disk full'); raise SystemExit(3)")
    with pytest.raises(
        UnreachableError, match=r"(?s)the process ended \(kind jar, exit 3\)\. Its log ends:.*disk full"
    ):
        ProcessBroker(engine).start()
    assert len(engine.tried) == 1


def test_a_port_lost_between_choosing_and_binding_is_chosen_again():
    engine = Fake("raise SystemExit('Address already in use')")
    with pytest.raises(UnreachableError, match="Address already in use"):
        ProcessBroker(engine).start()
    assert len(set(engine.tried)) == START_TRIES_MAX


def test_a_failed_start_leaves_no_directory_of_ours_and_keeps_yours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(subject.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    for directory in (None, tmp_path / "kept"):
        with pytest.raises(UnreachableError):
            ProcessBroker(Fake("print('no')"), directory=directory).start()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / "kept" / "broker.log").read_text() == "no\n"


def test_a_silent_listener_is_given_up_after_the_limit():
    with socket.socket() as deaf:
        deaf.bind((HOST, 0))
        address = f"{HOST}:{deaf.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"did not get ready: no answer within 0\.1 s"):
            asyncio.run(ready(address, seconds_max=0.1))


def test_a_broker_of_someone_else_is_never_broken():
    external = ExternalBroker("kafka-1:9092")
    for verb in (external.kill, external.pause, external.resume, external.restart, external.wait):
        with pytest.raises(BrokenError, match="it is not ours"):
            verb()
    external.stop()


def test_a_broker_that_was_never_started_says_so_and_stops_quietly():
    broker = ProcessBroker(Fake(""))
    for verb in (broker.kill, broker.pause, broker.restart, lambda: broker.bootstrap, lambda: broker.log_path):
        with pytest.raises(BrokenError, match=r"not running|not started|before it is started"):
            verb()
    broker.stop()


def test_the_shell_says_why_nothing_can_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    monkeypatch.setenv("HITL_KAFKA_HOME", str(tmp_path))
    assert main(["run", "--kind", "jar"]) == 4
    assert "no broker can be started here: jar: " in capsys.readouterr().err


def _script(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
