"""`make bench` at a tiny dose: that it still runs. What it measures is judged on a quiet machine, never here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kafka
ROOT = Path(__file__).parents[2]


def test_the_benchmark_runs_and_prints_its_table(kafka: str):
    # It starts a broker of its own; the fixture says where none can be had.
    command = [sys.executable, "benchmarks/run.py", "--count", "60000", "--faust", "2000", "--rounds", "1", "--rates"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]
    assert "| router ÷ Faust, per CPU second |" in done.stdout
