"""`hitl config show`, `hitl config check`, `hitl keys seal`."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hitl_stream.cli.main import run
from hitl_stream.settings import MASK, NAMES
from support.cli import POLICY, free_port

Json = dict[str, object]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from this machine's settings."""
    for name in [name for name in os.environ if name.startswith("HITL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HITL_METRICS_PORT", str(free_port()))
    monkeypatch.setenv("HITL_CONSOLE_PORT", "0")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def answer(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, object]]]:
    """Run a command with --json; return its exit code and object."""

    def ask(*arguments: str) -> tuple[int, dict[str, object]]:
        code = run([*arguments, "--json"])
        return code, json.loads(capfd.readouterr().out)

    return ask


def test_show_says_every_setting_and_where_it_comes_from(answer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "hitl.toml").write_text('prefix = "mine."\n')
    monkeypatch.setenv("HITL_KAFKA", "kafka-1:9092")

    code, shown = answer("config", "show", "--partitions", "3")

    assert (code, set(shown)) == (0, set(NAMES))
    assert shown["kafka"] == {"value": "kafka-1:9092", "source": "environment HITL_KAFKA"}
    assert shown["prefix"] == {"value": "mine.", "source": "hitl.toml"}
    assert shown["partitions"] == {"value": 3, "source": "flag --partitions"}
    assert shown["slot"] == {"value": None, "source": "default"}


@pytest.mark.parametrize("json_", [True, False])
def test_show_masks_secrets(json_: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    security = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "ana",
        "sasl_plain_password": "hunter2",
    }
    monkeypatch.setenv("HITL_KAFKA_SECURITY", json.dumps(security))
    monkeypatch.setenv("HITL_STORE", "postgres://hitl:hunter2@db/hitl")

    assert run(["config", "show", *(["--json"] if json_ else [])]) == 0

    out = capfd.readouterr().out
    assert "hunter2" not in out
    assert out.count(MASK) == 2
    assert "ana" in out


def test_a_flag_that_cannot_be_used_names_itself(capfd: pytest.CaptureFixture[str]):
    assert run(["config", "show", "--kafka", "nowhere"]) == 2
    assert "flag --kafka" in capfd.readouterr().err


def test_check_finds_nothing_once_keys_and_policy_are_there(answer):
    answer("keys", "seal")

    code, found = answer("config", "check", "--policy", str(POLICY))

    assert (code, found["ok"]) == (0, True)
    assert [row["severity"] for row in found["problems"]] == ["note"]


def test_check_without_keys_is_an_error(answer):
    code, found = answer("config", "check", "--policy", str(POLICY))

    assert (code, found["ok"]) == (1, False)
    assert [row["rule"] for row in found["problems"] if row["severity"] == "error"] == ["settings.keys"]


def test_check_without_a_policy_warns(answer):
    answer("keys", "seal")
    code, found = answer("config", "check")

    assert (code, [row["severity"] for row in found["problems"]]) == (0, ["warning"])


def test_check_points_at_the_policy_check_for_a_policy_that_does_not_validate(answer, tmp_path: Path):
    answer("keys", "seal")
    (tmp_path / "policy.yaml").write_text("policy: broken\nclasses: 7\n")

    code, found = answer("config", "check", "--policy", str(tmp_path / "policy.yaml"))

    assert code == 1
    assert "hitl policy lint" in found["problems"][-1]["message"]


def test_check_weighs_the_expected_rate_against_the_window(answer):
    answer("keys", "seal")

    code, found = answer("config", "check", "--policy", str(POLICY), "--expected-rate", "1e6")

    assert code == 1
    assert "window_ids_max" in [row["setting"] for row in found["problems"]]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ('{"base_url": "http://ads.example"}', []),
        ('{"base_url": "http://ads.example", "call_s": 0}', ["adapter_options.call_s: found 0: "]),
        ("{}", ["adapter_options.base_url: Field required"]),
    ],
)
def test_check_makes_the_adapter(answer, monkeypatch: pytest.MonkeyPatch, options: str, found: list[str]):
    answer("keys", "seal")
    monkeypatch.setenv("HITL_ADAPTER_OPTIONS", options)

    code, said = answer("config", "check", "--policy", str(POLICY), "--adapter", "http")

    problems = [row["message"] for row in said["problems"] if row["rule"] == "settings.adapter"]
    assert (code, len(problems)) == (bool(found), len(found))
    assert all(problem.startswith(start) for problem, start in zip(problems, found, strict=True))


def test_keys_are_made_once_for_their_owner_alone(answer, tmp_path: Path):
    code, made = answer("keys", "seal")
    before = {row["path"]: Path(row["path"]).read_bytes() for row in made["keys"]}
    _, kept = answer("keys", "seal")

    assert code == 0
    made_now = sorted(Path(path).name for path in before)
    assert made_now == [
        "pseudonym-p1", "sample-s1", "seal-console-w1", "seal-control-c1", "seal-desk-d1", "seal-executor-e1",
        "seal-monitor-m1", "seal-router-r1",
    ]  # fmt: skip
    assert [row["mode"] for row in made["keys"]] == ["0600"] * 8
    assert ([row["made"] for row in made["keys"]], [row["made"] for row in kept["keys"]]) == ([True] * 8, [False] * 8)
    assert {path: Path(path).read_bytes() for path in before} == before
    assert stat.S_IMODE((tmp_path / "state" / "keys").stat().st_mode) == 0o700


def test_a_key_under_another_id_is_enough(answer, tmp_path: Path):
    """Who has turned a key to r2 and removed r1 does not want r1 back."""
    answer("keys", "seal")
    keys = tmp_path / "state" / "keys"
    (keys / "seal-router-r1").rename(keys / "seal-router-r2")

    _, kept = answer("keys", "seal")

    names = [Path(row["path"]).name for row in kept["keys"]]
    assert sorted(names) == [
        "pseudonym-p1", "sample-s1", "seal-console-w1", "seal-control-c1", "seal-desk-d1", "seal-executor-e1",
        "seal-monitor-m1", "seal-router-r2",
    ]  # fmt: skip


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()

    assert run(["keys", "seal", "--keys-dir", str(tmp_path / "file" / "keys")]) == 2
    assert "keys_dir: cannot write keys" in capfd.readouterr().err
