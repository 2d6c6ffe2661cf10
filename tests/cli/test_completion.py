"""`hitl completion`: what it prints is a script of the shell that was asked for, and knows the verbs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it


def printed(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert sys.modules["hitl_stream.cli.main"].run(["completion", shell]) == 0
    return capsys.readouterr().out


def test_bash_completes_a_verb_and_then_its_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    script = tmp_path / "hitl.bash"
    script.write_text(printed("bash", capsys))
    subprocess.run(["bash", "-n", str(script)], check=True)

    def offered(*words: str) -> set[str]:
        asks = f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _hitl"
        done = subprocess.run(
            ["bash", "--norc", "-c", asks + '; printf "%s\\n" "${COMPREPLY[@]}"'],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return set(done.stdout.split())

    assert offered("hitl", "ki") == {"kill"}
    assert {"--mode", "--scope", "--reason"} <= offered("hitl", "kill", "--")


@pytest.mark.parametrize(("shell", "begins"), [("zsh", "#compdef hitl"), ("fish", "complete")])
def test_the_other_shells_have_a_script_of_their_own(shell: str, begins: str, capsys: pytest.CaptureFixture[str]):
    script = printed(shell, capsys)

    assert begins in script
    assert "kill" in script
