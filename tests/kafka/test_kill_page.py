"""docs/kill-switches.md: every command on it does what the page says, in the order of the page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hitl_stream.cli.drill import APPEND, EFFECTIVE, LAST_COMMIT, _targets
from support.kafka import Topics
from support.oncall import FakeControl, OnCall

pytestmark = pytest.mark.kafka
PAGE = (Path(__file__).parents[2] / "docs" / "kill-switches.md").read_text(encoding="utf-8")
COMMANDS = [
    (who, command)
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for who, command in re.findall(r"^(\w+)\$ (.*)$", block, re.MULTILINE)
]
COMMAND_SECONDS_MAX = 90.0
ASKED = ("813", "816", "818")
"""What waits for a second holder, by the numbers that the page gives it."""
GONE = "host-2/executor/0"
"""The executor that the page says farewell to; control has heard of it."""


@pytest.fixture
def place(kafka: str, topics: Topics, tmp_path: Path) -> Iterator[OnCall]:
    made = OnCall(kafka, topics.prefix, tmp_path).begin()
    for name in ("ana", "ben"):
        own = tmp_path / name
        own.mkdir(mode=0o700)
        shutil.copy2(made.keys_dir / f"{name}-1.jwk", own)
    control = FakeControl(made)
    control.acks = {GONE: 1}
    with control:
        yield made


def run(place: OnCall, who: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a line of the page as that person would, with only their own key at hand."""
    if command.startswith("hitl "):
        command = f"{shlex.quote(sys.executable)} -m hitl_stream {command.removeprefix('hitl ')}"
    mine = {"HITL_KEYS_DIR": str(place.state_dir / who), "COLUMNS": "200"}
    return subprocess.run(
        command, shell=True, env={**os.environ, **place.environ(), **mine}, cwd=place.state_dir, check=False,
        capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX,
    )  # fmt: skip


def test_the_page_shows_every_verb_and_nothing_else():
    shown = {" ".join(command.split()[:2]) for _, command in COMMANDS if command.startswith("hitl ")}
    assert shown == {f"hitl {verb}" for verb in ("kill", "switches", "farewell", "release", "keys", "confirm", "drill")}


@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(place: OnCall):
    """The release takes its minute; the drill has a test of its own (test_drill)."""
    numbers = {"812": 0, **dict.fromkeys(ASKED, 0)}
    for who, line in COMMANDS:
        if line.startswith("hitl drill"):
            continue
        for shown, real in numbers.items():
            line = line.replace(f" {shown}", f" {real}")
        done = run(place, who, line)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        log = place.log()
        numbers["812"] = max(log.control.switches.all, default=0)
        asked = max(log.control.pending, default=numbers["813"])
        numbers |= dict.fromkeys(ASKED, asked)

    control = place.log().control
    assert control.switches.engaged == {}
    (switch,) = control.switches.all.values()
    assert (switch.scope, switch.reason, switch.by) == (("campaign:cmp-7", "tenant:acme"), "wrong landing page", "ana")
    assert (place.state_dir / "HALT").exists()
    assert GONE in control.farewells
    assert control.keys["cem-1"].until < control.keys["ana-1"].until


def test_what_the_page_shows_is_what_is_printed(place: OnCall):
    who, line = COMMANDS[0]
    printed = re.sub(r"\d[\d,.:TZ-]*", "#", run(place, who, line).stdout)
    block = PAGE.split("```console\n")[1].split("```")[0].splitlines()[1:]
    for shown in block[:2]:
        assert re.sub(r"\d[\d,.:TZ-]*", "#", shown) in printed


def test_the_promised_numbers_are_those_that_a_drill_is_held_against():
    for measure, limit in (
        ("last offending execute commit", LAST_COMMIT),
        ("append → EFFECTIVE |", EFFECTIVE),
        ("command →", APPEND),
    ):
        (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and measure in line]
        said = row.replace("1 s", "1000 ms").replace("2 s", "2000 ms")
        assert _targets(limit) in said
        assert f"> {limit.alarm_ms} ms" in said
