"""`hitl farewell` before it asks Kafka for anything: what names no executor, and what gives no reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitl_stream.cli.main import run


@pytest.mark.parametrize(
    ("instance", "reason", "says"),
    [
        ("host-2", "seen", "names no executor"),
        ("host-2/executor", "seen", "names no executor"),
        ("host-2/executor/", "seen", "names no executor"),
        ("host-2/executor/one", "seen", "names no executor"),
        ("host-2/router/0", "seen", "they are fenced"),
        ("host-2/executor/0", " ", "--reason"),
        ("host-2/executor/0", "x" * 2_001, "--reason"),
    ],
)
def test_what_says_nothing_is_refused(
    instance: str, reason: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    assert run(["farewell", instance, "--reason", reason, "--kafka", "127.0.0.1:1"]) == 2
    assert says in capfd.readouterr().err


def test_a_reason_must_be_given(capfd: pytest.CaptureFixture[str]):
    assert run(["farewell", "host-2/executor/0"]) == 2
    assert "--reason" in capfd.readouterr().err
