"""What policy owners sign, on a real log: what holds at once, what waits, and what is refused before it is written."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.action import Agent
from hitl_stream.core.commands import DAY_MS, PolicyChange
from hitl_stream.core.control import Control
from hitl_stream.lane.admin import apply
from hitl_stream.wire.policy_file import parse
from support.gates import OfflineGates, at_gate, looking
from support.kafka import Topics, producing, within
from support.make import acme
from support.oncall import OnCall, hitl

pytestmark = pytest.mark.kafka
ANA, BEN = ("--key", "ana-1"), ("--key", "ben-1")
WHY = ("--reason", "it did well")


@pytest.fixture
def place(kafka: str, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnCall:
    made = OnCall(kafka, topics.prefix, tmp_path).begin(("control", "control.heartbeat")).settle(monkeypatch)
    file = tmp_path / "acme.yaml"
    file.write_text(acme().text)
    monkeypatch.setenv("HITL_POLICY", str(file))
    return made


def written(place: OnCall, *replacements: tuple[str, str]) -> Path:
    """Write the example policy with some text replaced."""
    text = acme().text
    for before, after in replacements:
        assert before in text
        text = text.replace(before, after)
    file = place.state_dir / "next.yaml"
    file.write_text(text)
    return file


def control(place: OnCall) -> Control:
    return place.log().control


def printed(capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    found = capfd.readouterr()
    return " ".join(found.out.split()), " ".join(found.err.split())


LOOSER = ("auto_min_confidence: 0.60", "auto_min_confidence: 0.50")
LEVEL_2_TO_3 = ("draft.internal:    {level: 4", "draft.internal:    {level: 3")


def name(value: Any) -> str:
    """Name a case by its arguments."""
    return " ".join(value) if isinstance(value, tuple) and all(isinstance(one, str) for one in value) else str(value)


# --- promote ----------------------------------------------------------------------------------------------------------


def test_a_policy_is_in_force_once_another_holder_confirms_it(place: OnCall, capfd: pytest.CaptureFixture[str]):
    file = written(place, LOOSER)
    assert hitl("policy", "promote", str(file), *WHY, *ANA) == 0
    said, _ = printed(capfd)

    assert "1 looser" in said
    assert "classes.bid.adjust.auto_min_confidence" in said
    assert "nothing changes yet" in said
    assert "hitl confirm 1" in said
    assert control(place).policy is None

    assert hitl("confirm", "1", *BEN) == 0
    now = control(place).policy
    assert now is not None
    assert now.digest == parse(file.read_text(), "next").digest
    assert now.text == file.read_text()


def test_json_says_what_changes_and_how_to_confirm_it(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("policy", "promote", str(written(place, LOOSER)), *WHY, *ANA, "--json") == 0
    row = json.loads(capfd.readouterr().out)

    assert (row["state"], row["epoch"], row["confirm"]) == ("ASKED", 1, "hitl confirm 1")
    assert row["before"]["digest"] == acme().digest
    assert [(one["path"], one["direction"]) for one in row["differences"]] == [
        ("classes.bid.adjust.auto_min_confidence", "looser")
    ]


def test_a_class_may_not_rise_by_two_levels_at_once(place: OnCall, capfd: pytest.CaptureFixture[str]):
    lower = written(place, ("draft.internal:    {level: 4", "draft.internal:    {level: 2"))
    assert hitl("policy", "promote", str(lower), *WHY, *ANA) == 0
    assert hitl("confirm", "1", *BEN) == 0
    capfd.readouterr()

    assert hitl("policy", "promote", str(place.state_dir / "acme.yaml"), *WHY, *ANA) == 5
    _, said = printed(capfd)
    assert "draft.internal to 4" in said
    assert "control/1" in said or "control/2" in said  # against the promoted one, not the settings' file
    assert control(place).epoch == 2

    between = written(place, ("draft.internal:    {level: 4", "draft.internal:    {level: 3"))
    assert hitl("policy", "promote", str(between), *WHY, *ANA) == 0


@pytest.mark.parametrize(
    ("replacement", "code", "words"),
    [
        (("currency: EUR", "currency: XX"), 2, "currency"),
        (("queue: triage, ", "queue: nowhere, "), 2, "nowhere"),
        (("# a", "# a"), 2, "in force already"),
    ],
    ids=["does not validate", "breaks a law", "the same"],
)
def test_what_cannot_be_promoted_is_refused_before_anything_is_written(
    place: OnCall, replacement: tuple[str, str], code: int, words: str, capfd: pytest.CaptureFixture[str]
):
    file = place.state_dir / "next.yaml"
    file.write_text(acme().text.replace(*replacement))
    assert hitl("policy", "promote", str(file), *WHY, *ANA) == code
    assert words in printed(capfd)[1]
    assert control(place).epoch == 0


def test_without_knowing_what_is_in_force_nothing_is_promoted(
    place: OnCall, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("HITL_POLICY")
    assert hitl("policy", "promote", str(written(place, LOOSER)), *WHY, *ANA) == 2
    assert "which policy is in force is not known here" in printed(capfd)[1]
    assert control(place).epoch == 0


# --- gates ------------------------------------------------------------------------------------------------------------


def states(capfd: pytest.CaptureFixture[str]) -> dict[str, list[tuple[Any, str]]]:
    capfd.readouterr()
    assert hitl("gates", "list", "--json") == 0
    rows = json.loads(capfd.readouterr().out)["gates"]
    return {row["gate"]: [(one["agent"], one["state"]) for one in row["states"]] for row in rows}


def test_a_gate_is_enforced_at_once_and_loosened_by_two(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert states(capfd)["first_line"] == [(None, "observe")]

    assert hitl("gates", "set", "first_line", "enforce", *WHY, *ANA) == 0
    assert "IN FORCE(1)" in printed(capfd)[0]
    assert states(capfd)["first_line"] == [(None, "enforce")]

    assert hitl("gates", "set", "first_line", "observe", *WHY, *ANA) == 0
    assert "nothing changes yet" in printed(capfd)[0]
    assert states(capfd)["first_line"] == [(None, "enforce")]
    assert hitl("confirm", "2", *BEN) == 0
    assert states(capfd)["first_line"] == [(None, "observe")]


@pytest.mark.behaviour("D5")
def test_a_gate_is_removed_for_one_version_of_one_agent_on_its_evidence_by_two_people(
    place: OnCall, capfd: pytest.CaptureFixture[str]
):
    known(place, 500)
    assert hitl("gates", "remove", "first_line", "--agent", "sdr-1@4", *WHY, *ANA, "--json") == 0
    row = json.loads(capfd.readouterr().out)
    assert (row["state"], row["p"]) == ("ASKED", dict.fromkeys(("compliance", "factual", "tone"), 0.01))
    assert control(place).gates == {}
    assert hitl("confirm", "1", *BEN) == 0

    said = control(place).gates["first_line", Agent("sdr-1", "4")].command
    assert (said.p, said.definition) == (row["p"], row["definition"])
    assert {error: said.evidence[error]["items"] for error in said.p} == dict.fromkeys(said.p, 500)
    assert states(capfd)["first_line"] == [
        (None, "observe"), ("sdr-1@4", "removed"), ("sdr-1@(any other version)", "enforce")
    ]  # fmt: skip

    assert hitl("gates", "remove", "first_line", "--agent", "sdr-1@4", *WHY, *ANA) == 2
    assert hitl("gates", "restore", "first_line", "--agent", "sdr-1@4", *WHY, *BEN) == 0
    assert states(capfd)["first_line"] == [(None, "observe"), ("sdr-1@4", "enforce")]


@pytest.mark.behaviour("D5")
def test_a_gate_with_one_judged_output_too_few_stays_and_what_is_missing_is_said(
    place: OnCall, capfd: pytest.CaptureFixture[str]
):
    known(place, 499)
    assert hitl("gates", "remove", "first_line", "--agent", "sdr-1@4", *WHY, *ANA) == 5
    assert "tone: 499 judged outputs, expected at least 500" in printed(capfd)[1]
    assert control(place).epoch == 0

    assert hitl("gates", "evidence", "first_line", "--json") == 0
    (row,) = json.loads(capfd.readouterr().out)["gates"]
    assert (row["gate"], row["agent"], row["items"], row["persons"]) == (
        "first_line",
        {"id": "sdr-1", "version": "4"},
        499,
        1,
    )
    assert [(one["error"], one["errors"], one["caught"], one["canaries"]) for one in row["types"]] == [
        (error, 0, 60, 60) for error in ("compliance", "factual", "tone")
    ]
    assert hitl("gates", "evidence") == 0
    assert "missing: tone: 499 judged outputs, expected at least 500" in printed(capfd)[0]


@pytest.mark.behaviour("E13")
def test_candidates_and_the_report_are_read_from_the_same_tables(place: OnCall, capfd: pytest.CaptureFixture[str]):
    known(place, 500)
    assert hitl("gates", "candidates", "--json") == 0
    (row,) = json.loads(capfd.readouterr().out)["candidates"]
    assert (row["gate"], row["missing"]) == ("first_line", [])
    assert hitl("gates", "candidates") == 0
    assert "first_line sdr-1@4" in printed(capfd)[0]

    assert hitl("report", "gates", "--json") == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["watched"], report["removed"], report["wrong_removals_max"]) == (1, 0, 0.05)
    assert [len(one["evidence"]) for one in report["gates"] if one["gate"] == "first_line"] == [1]
    assert hitl("report", "gates") == 0
    said, _ = printed(capfd)
    assert "at most 0.05 wrong removals are to be expected over all of them" in said
    assert "removal can be asked for: hitl gates remove first_line --agent sdr-1@4" in said


def known(place: OnCall, outputs: int) -> None:
    """Let a monitor have seen so many clean outputs at the gate, and planted errors that were caught."""
    start_ms = time.time_ns() // 1_000_000 - 30 * DAY_MS
    found = OfflineGates(acme().policy, start_ms=start_ms).each(looking())
    found.each(at_gate(n=n) for n in range(outputs))

    async def write() -> None:
        async with producing(place.bootstrap) as producer:
            for key, value in found.kept.items():
                await producer.send_and_wait(place.topics.name("monitor.gates"), value, key, 0)

    within(apply(place.client, place.topics, ("monitor.gates", "monitor.relapse")))
    within(write())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("first_lin", "enforce"), 2, "the nearest: first_line"),
        (("first_line", "removed"), 2, "removed"),
        (("first_line", "observe", "--agent", "sdr-1"), 2, "names no version"),
        (("first_line", "gone"), 2, "gone"),
        (("style", "observe"), 5, "never loses a gate"),
    ],
    ids=name,
)
def test_a_gate_that_cannot_be_set_so_is_refused_before_anything_is_written(
    place: OnCall, arguments: tuple[str, ...], code: int, words: str, capfd: pytest.CaptureFixture[str]
):
    assert hitl("gates", "set", *arguments, *WHY, *ANA) == code
    assert words in printed(capfd)[1]
    assert control(place).epoch == 0


def test_gates_are_listed_for_people(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("gates", "list") == 0
    said, _ = printed(capfd)
    assert "first_line" in said
    assert "every" in said


# --- levels -----------------------------------------------------------------------------------------------------------


def test_a_lower_level_holds_at_once_and_a_higher_one_waits(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("level", "bid.adjust", "2", *WHY, *ANA) == 0
    assert "IN FORCE(1)" in printed(capfd)[0]
    assert control(place).levels == {"bid.adjust": 2}

    assert hitl("level", "bid.adjust", "3", *WHY, *ANA, "--json") == 0
    row = json.loads(capfd.readouterr().out)
    assert (row["state"], row["level"], row["file"], row["confirm"]) == ("ASKED", 3, 3, "hitl confirm 2")
    assert control(place).levels == {"bid.adjust": 2}
    assert hitl("confirm", "2", *BEN) == 0
    assert control(place).levels == {"bid.adjust": 3}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("bid.adjust", "4"), 5, "rises by one at a time: hitl level bid.adjust 3"),
        (("bid.adjust", "5"), 2, "level 5 is none"),
        (("bid.adjus", "1"), 2, "the nearest: bid.adjust"),
    ],
    ids=name,
)
def test_a_level_that_cannot_be_is_refused_before_anything_is_written(
    place: OnCall, arguments: tuple[str, ...], code: int, words: str, capfd: pytest.CaptureFixture[str]
):
    assert hitl("level", "bid.adjust", "2", *WHY, *ANA) == 0
    capfd.readouterr()
    assert hitl("level", *arguments, *WHY, *ANA) == code
    assert words in printed(capfd)[1]
    assert control(place).epoch == 1


def test_a_level_can_be_lowered_where_the_policy_is_not_known(place: OnCall, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HITL_POLICY")
    assert hitl("level", "bid.adjust", "1", *WHY, *ANA) == 0
    assert control(place).levels == {"bid.adjust": 1}


# --- pins -------------------------------------------------------------------------------------------------------------

PIN = ("pin", "--scope", "campaign:cmp-204", "--field", "daily_budget")


@pytest.mark.parametrize(
    ("arguments", "direction", "bounds", "until"),
    [
        (("--down", "--until", "2099-12-01"), "down", None, "2099-12-01T00:00:00+00:00"),
        (("--up", "--until", "2099-12-01T18:00:00+01:00"), "up", None, "2099-12-01T17:00:00+00:00"),
        (
            ("--range", "1.00..2.50", "--unit", "EUR", "--until", "2099-12-01"),
            None,
            ("1.00", "2.50"),
            "2099-12-01T00:00:00+00:00",
        ),
        (("--range", "..2.50", "--down", "--until", "2099-12-01"), "down", (None, "2.50"), "2099-12-01T00:00:00+00:00"),
    ],
    ids=name,
)
def test_a_pin_holds_at_once(place: OnCall, arguments: tuple[str, ...], direction: str | None, bounds: Any, until: str):
    assert hitl(*PIN, *arguments, *WHY, *ANA) == 0
    (pin,) = control(place).pins.values()
    assert (pin.scope, pin.field, pin.direction, pin.range) == (
        ("campaign:cmp-204",), "daily_budget", direction, bounds
    )  # fmt: skip
    assert pin.until.isoformat() == until


def test_a_pin_for_some_days_ends_by_the_broker_s_time(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl(*PIN, "--down", "--until", "7d", *WHY, *ANA, "--json") == 0
    row = json.loads(capfd.readouterr().out)
    (pin,) = control(place).pins.values()
    assert abs(pin.until.timestamp() - control(place).at_ms / 1000 - 7 * 86_400) < 5
    assert (row["state"], row["direction"], row["confirm"]) == ("IN FORCE", "down", None)
    assert row["notes"] == ["campaign without a tenant covers every tenant's campaign of that name"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--until", "7d"), "say what is pinned"),
        (("--up", "--down", "--until", "7d"), "contradict"),
        (("--range", "5", "--until", "7d"), "no range"),
        (("--range", "5..x", "--until", "7d"), "no range"),
        (("--range", "..", "--until", "7d"), "no range"),
        (("--range", "5..1", "--until", "7d"), "5 is more than 1"),
        (("--down", "--until", "soon"), "no time"),
        (("--down", "--until", "2099-12-01T18:00:00"), "no offset"),
        (("--down", "--until", "2001-12-01"), "over already"),
        (("--down",), "--until"),
    ],
    ids=name,
)
def test_a_pin_that_says_nothing_is_refused_before_anything_is_written(
    place: OnCall, arguments: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
):
    assert hitl(*PIN, *arguments, *WHY, *ANA) == 2
    assert words in printed(capfd)[1]
    assert control(place).epoch == 0


# --- who may ----------------------------------------------------------------------------------------------------------


def test_a_service_signs_none_of_these(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("level", "bid.adjust", "2", *WHY, "--key", "control-1") == 5
    assert "may not sign this type" in printed(capfd)[1]
    assert control(place).epoch == 0


def test_the_text_that_is_promoted_is_the_file_byte_for_byte(place: OnCall):
    """What people read in `hitl confirm` is what routers compile."""
    file = written(place, LOOSER, ("currency: EUR", "currency: EUR  # ünïcode, and  white space"))
    assert hitl("policy", "promote", str(file), *WHY, *ANA) == 0
    (pending,) = control(place).pending.values()
    assert isinstance(pending.command, PolicyChange)
    assert pending.command.text == file.read_text()
