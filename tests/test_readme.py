"""What the README shows is what happens."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
run = importlib.import_module("hitl_stream.cli.main").run


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("policy.yaml").write_text(block("yaml"), encoding="utf-8")
    Path("action.json").write_text(block("json"), encoding="utf-8")
    Path("actions.jsonl").write_text(block("json"), encoding="utf-8")
    return tmp_path


def test_the_first_policy_breaks_no_law(here: Path) -> None:
    assert run(["policy", "lint", "policy.yaml"]) == 0


def test_the_example_is_decided_as_it_says(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["decide", "actions.jsonl", "--policy", "policy.yaml", "--json"]) == 0
    said = capfd.readouterr().out
    assert '"outcome":"REVIEW"' in said
    assert '"rule":"class.auto_max_change","saw":"0.28","limit":"0.20"' in said


def test_the_example_is_explained(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "explain", "policy.yaml", "action.json"]) == 0
    assert "0.28" in capfd.readouterr().out


def test_every_command_exists(capfd: pytest.CaptureFixture[str]) -> None:
    shown = set(re.findall(r"`?(?:\$ )?(hitl [a-z]+(?: (?:lint|explain|apply|seal|plan))?)", README))
    assert len(shown) >= 8
    for command in sorted(shown):
        assert run([*command.split()[1:], "--help"]) == 0, command


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"make\s+([a-z-]+[a-z])", README)) <= targets


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_it_stays_short() -> None:
    assert README.count("\n") <= 150
