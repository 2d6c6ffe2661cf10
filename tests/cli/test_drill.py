"""How a drill is judged and shown, and what it needs before it begins; without a broker."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import hitl_stream.cli.main
from hitl_stream.cli.drill import candidates, judge, notes, percentile, runs_alone, table
from hitl_stream.lane.drill import Figures
from hitl_stream.wire.policy_file import parse
from support.make import acme, action_dict

GOOD = Figures(
    epoch=7, append_ms=5, effective_ms=92, published=6_000, ran=3_000, offending=3, last_ms=40, after_effective=0,
    open=0, released=8,
)  # fmt: skip


def figures(**changed: Any) -> Figures:
    return Figures(**{**{name: getattr(GOOD, name) for name in Figures.__dataclass_fields__}, **changed})


def verdicts(*found: Figures) -> dict[str, str]:
    return {row.measure: row.verdict for row in judge(found)}


@pytest.mark.parametrize(
    ("changed", "measure", "verdict"),
    [
        ({}, "append → last offending execute commit", "ok"),
        ({"last_ms": None, "offending": 0}, "append → last offending execute commit", "ok"),
        ({"last_ms": 150}, "append → last offending execute commit", "ok"),
        ({"last_ms": 151}, "append → last offending execute commit", "over target"),
        ({"last_ms": 1_001}, "append → last offending execute commit", "ALARM"),
        ({"effective_ms": 1_000}, "append → EFFECTIVE", "ok"),
        ({"effective_ms": 1_001}, "append → EFFECTIVE", "over target"),
        ({"effective_ms": 2_001}, "append → EFFECTIVE", "ALARM"),
        ({"effective_ms": None}, "append → EFFECTIVE", "ALARM"),
        ({"after_effective": 1}, "execute commits after EFFECTIVE", "ALARM"),
        ({"append_ms": 1_001}, "this command → append", "over target"),
        ({"append_ms": 2_001}, "this command → append", "ALARM"),
        ({"released": None}, "released", "ALARM"),
    ],
    ids=str,
)
def test_each_measure_is_held_against_its_target_and_its_alarm(changed: dict[str, Any], measure: str, verdict: str):
    found = verdicts(figures(**changed))
    assert found[measure] == verdict
    assert {name for name, said in found.items() if said != "ok"} <= {measure}


def test_of_many_drills_the_percentiles_and_the_worst_count():
    many = [figures(last_ms=ms) for ms in [10] * 98 + [400, 900]]
    rows = {row.measure: row for row in judge(many)}
    row = rows["append → last offending execute commit"]
    assert (row.found, row.verdict) == ("p50 10 ms, p99 400 ms, max 900 ms", "ok")
    assert verdicts(*many, figures(last_ms=1_001))["append → last offending execute commit"] == "ALARM"


@pytest.mark.parametrize(("values", "share", "found"), [([5], 0.5, 5), ([1, 2, 3, 4], 0.5, 2), ([1, 2, 3], 0.99, 3)])
def test_percentiles_are_values_that_were_measured(values: list[int], share: float, found: int):
    assert percentile(values, share) == found


def test_the_table_has_the_numbers_that_are_promised():
    console = Console(file=io.StringIO(), width=160, highlight=False)
    console.print(table(list(judge([GOOD]))))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "40 ms p50 ≤ 150 ms, p99 ≤ 500 ms, max ≤ 1000 ms > 1 s ok" in " ".join(text.split())
    assert "0, ever" in text


def test_what_the_figures_rest_on_is_said():
    assert list(notes([GOOD, GOOD])) == ["12,000 actions published, 6,000 ran, 6 of them committed after the append"]
    assert "still open" in list(notes([figures(open=1)]))[1]
    assert "no figure means anything" in list(notes([figures(ran=0)]))[-1]


# --- an action that runs alone ----------------------------------------------------------------------------------------


def test_an_action_that_the_policy_lets_run_is_found():
    assert next(one for one in candidates(acme()) if runs_alone(acme(), one))["type"] == "bid.adjust"


def test_of_a_policy_that_lets_nothing_run_none_is_found():
    text = acme().text
    for level in (3, 4):
        text = text.replace(f"{{level: {level}", "{level: 2")
    strict = parse(text, "strict")
    assert not any(runs_alone(strict, one) for one in candidates(strict))
    assert not runs_alone(strict, {name: action_dict()[name] for name in ("type", "agent", "changes", "confidence")})


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--rate", "0"), 2, "rate"),
        (("--rate", "100000"), 2, "more than 20000"),
        (("--seconds", "10000"), 2, "more than 600"),
        (("--times", "1000"), 2, "more than 100"),
        ((), 2, "trust is not set"),
    ],
    ids=str,
)
def test_what_cannot_be_drilled_is_said_first(
    arguments: tuple[str, ...], code: int, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    for name in [name for name in os.environ if name.startswith("HITL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert hitl_stream.cli.main.run(["drill", "--kafka", "127.0.0.1:1", *arguments]) == code
    printed = capfd.readouterr()
    assert words in " ".join(printed.err.split())
    with pytest.raises(ValueError):
        json.loads(printed.out)
