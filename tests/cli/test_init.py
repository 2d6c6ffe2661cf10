"""`hitl init`: what it puts into a directory, and that it stands by itself."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it
from hitl_stream.cli.init import compose, shared

NOBODY = "127.0.0.1:1"


def hitl(*arguments: str) -> int:
    return int(sys.modules["hitl_stream.cli.main"].run([*arguments]))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HITL_KAFKA", "HITL_CONFIG", "HITL_POLICY", "HITL_STATE_DIR", "HITL_TRUST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine"


@pytest.fixture
def made(home: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert hitl("init", str(home), "--kafka", NOBODY, "--json") == 0
    return dict(json.loads(capfd.readouterr().out))


def test_everything_that_it_says_it_wrote_is_there(home: Path, made: dict[str, Any]) -> None:
    there = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert set(made["files"]) == {name for name in there if not name.startswith("state/")}
    assert {"policy.yaml", "policy.test.yaml", "hitl.toml", "docker-compose.yml", "Dockerfile", "Makefile"} <= there
    assert "grafana/dashboards/operate-now.json" in there
    assert "docs/runbooks/hitl-lag.md" in there
    assert made["trust"] is None, "there was no Kafka"


def test_its_policy_passes_its_own_checks(
    home: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert hitl("policy", "lint", "policy.yaml") == 0
    assert hitl("policy", "test", "policy.yaml") == 0
    assert hitl("config", "show", "--json") == 0
    settings = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert settings["kafka"] == {"value": NOBODY, "source": "hitl.toml"}


def test_keys_are_readable_by_their_owner_only(home: Path, made: dict[str, Any]) -> None:
    keys = list((home / "state" / "keys").iterdir())
    assert keys
    assert {path.stat().st_mode & 0o077 for path in keys} == {0}
    assert "state/" in (home / ".gitignore").read_text("utf-8")


def test_the_compose_file_needs_nothing_that_is_not_there(home: Path, made: dict[str, Any]) -> None:
    file = YAML(typ="safe").load((home / "docker-compose.yml").read_text("utf-8"))
    assert {"kafka", "router", "desk", "executor", "control", "monitor", "console", "grafana"} <= set(file["services"])
    assert "docs" not in file["services"]
    for service in file["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (home / source).exists() if source.startswith(".") else source in file["volumes"]
    (policy,) = {volume for volume in file["services"]["router"]["volumes"] if "policies" in volume}
    assert file["services"]["router"]["environment"]["HITL_POLICY"] == policy.split(":")[1]


def test_a_directory_that_is_not_empty_is_left_as_it_is(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "mine.txt").write_text("x")
    assert hitl("init", str(home), "--kafka", NOBODY) == 5
    assert "is not empty" in capfd.readouterr().err
    assert [path.name for path in home.iterdir()] == ["mine.txt"]


def test_one_holder_is_not_enough(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert hitl("init", str(home), "--kafka", NOBODY, "--holder", "ana") == 2
    assert "takes two people" in capfd.readouterr().err
    assert not home.exists()


def test_our_own_compose_file_is_the_one_that_is_changed() -> None:
    text = (shared() / "docker-compose.yml").read_text("utf-8")
    changed = compose(text)
    assert "src/hitl_stream" not in changed
    assert "demo.yaml" not in changed
