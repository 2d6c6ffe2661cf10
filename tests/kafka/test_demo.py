"""`hitl demo` on a real Kafka: people decide, and what they approve runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.cli import hitl

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


@pytest.mark.slow
def test_people_approve_and_the_platform_executes_what_they_approved(kafka: str, tmp_path: Path):
    options = ("--seconds", "15", "--rate", "60", "--seed", "3", "--kafka", kafka, "--json")
    done = hitl(tmp_path, "demo", *options)

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    people = report["people"]
    assert report["conservation"] == "ok"
    assert {"I3", "I4", "I5", "I11"} <= set(report["checked"])
    assert people["verdicts"]["approve"] > 0
    assert people["approved"] >= people["executed"] > 0, people
    assert report["executed"] > people["executed"]
    lazy = [looked for name, looked in people["reviewers"].items() if name.startswith("lazy-")]
    assert lazy
    assert all(looked["dwell_s"] < looked["floor_s"] for looked in lazy)
