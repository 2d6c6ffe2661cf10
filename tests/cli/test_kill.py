"""What on-call people type and read, without a broker: usage, words, Ctrl-C, and how little is loaded."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import hitl_stream.cli.main
from hitl_stream.cli import scopes
from hitl_stream.cli.live import Presses, Telling, coverage_lines, standing_lines
from hitl_stream.core.commands import Contained, Waiting
from hitl_stream.core.errors import UsageError
from hitl_stream.core.switches import GLOBAL, KINDS, parsed
from hitl_stream.lane.coverage import Coverage
from hitl_stream.lane.heartbeats import Standing
from hitl_stream.wire.signing import create_signing_key

HEAVY = ("faust", "mode", "structlog", "uvloop", "aiohttp", "ruamel", "prometheus_client", "hitl_stream.wiring",
         "hitl_stream.roles", "hitl_stream.core.policy", "hitl_stream.dev", "hitl_stream.console")  # fmt: skip


def hitl(*arguments: str) -> int:
    return hitl_stream.cli.main.run([*arguments])


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of this machine, and nobody to talk to."""
    for name in [name for name in os.environ if name.startswith("HITL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("HITL_KAFKA", "127.0.0.1:1")
    monkeypatch.chdir(tmp_path)


# --- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "words"),
    [
        ((), "no scope is given"),
        (("cmp-7",), "'cmp-7' is no kind of scope"),
        (("foo:bar",), "the kinds are account, agent, agent-version, campaign, destination, tenant, type"),
        (("campaign:",), "no value"),
        (("campaign",), "no value"),
        (("campaign: \u200b",), "no value"),
        (("global:acme",), "'global' is no kind"),
        (("global:",), "for everything write --scope global:*"),
        (("global:*", "tenant:acme"), "would narrow nothing"),
        (("campaign:" + "x" * 500,), "at most 500"),
        (tuple(f"campaign:{n}" for n in range(101)), "at most 100"),
        (("tenant:acme", "campain:cmp-7"), "'campain' is no kind of scope"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:40],
)
def test_what_readers_would_take_for_everything_is_refused(
    scope: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
):
    with pytest.raises(UsageError):
        scopes.checked(scope)
    flags = [part for selector in scope for part in ("--scope", selector)]
    assert hitl("kill", *flags) == 2
    printed = capfd.readouterr()
    assert words in " ".join(printed.err.split())
    assert printed.out == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_typed_and_means_what_it_says(kind: str):
    scope = scopes.checked([f"{kind}:x", f"{kind}:x", f"{kind}:y"])
    assert scope == (f"{kind}:x", f"{kind}:y")
    assert kind in parsed(scope)


def test_everything_must_be_said():
    assert scopes.checked([GLOBAL]) == (GLOBAL,)
    assert parsed((GLOBAL,)) == {}


@pytest.mark.parametrize(
    ("scope", "notes"),
    [
        (("campaign:c",), 1),
        (("account:a", "campaign:c"), 2),
        (("campaign:c", "tenant:t"), 0),
        (("Campaign:c",), 1),
        (("agent:a",), 0),
        ((GLOBAL,), 0),
    ],
    ids=str,
)
def test_a_campaign_or_account_without_a_tenant_says_that_it_is_every_tenant_s(scope: tuple[str, ...], notes: int):
    assert len(scopes.notes(scope)) == notes


# --- usage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mode", "STOP"), "STOP"),
        (("--timeout", "soon"), "soon"),
        (("--reason", "x" * 2_001), "2001 characters"),
        (("--key", "nobody"), "nobody.jwk cannot be read"),
        ((), "no person's key"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and value else "",
)
def test_what_does_not_validate_ends_with_2_before_anybody_is_asked(
    arguments: tuple[str, ...], words: str, capfd: pytest.CaptureFixture[str]
):
    assert hitl("kill", "--scope", "campaign:cmp-7", *arguments) == 2
    assert words in " ".join(capfd.readouterr().err.split())


def test_without_kafka_json_leaves_stdout_empty(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    create_signing_key(tmp_path / "keys", "ana-1", "ana")
    assert hitl("kill", "--scope", "campaign:cmp-7", "--json") == 4
    printed = capfd.readouterr()
    assert printed.out == ""
    assert f"touch {tmp_path / 'HALT'} on each host" in printed.err


@pytest.mark.parametrize("verb", ["kill", "release", "switches"])
def test_who_is_in_a_hurry_loads_little(verb: str):
    script = (
        "import sys; from hitl_stream.cli.main import build; build(sys.argv[1]); "
        "print(*sorted(name for name in sys.modules if name.startswith(tuple(sys.argv[2:]))))"
    )
    done = subprocess.run([sys.executable, "-c", script, verb, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


# --- words ------------------------------------------------------------------------------------------------------------


def test_whoever_is_waited_for_is_named_up_to_a_limit():
    many = tuple(Waiting(instance=f"host-{n}/router/0", since_s=0.44) for n in range(25))
    (line,) = standing_lines(Standing("waiting", many), 7)
    assert line.startswith("Waiting for host-0/router/0 since 0.4 s, ")
    assert line.endswith(" and 5 more.")


@pytest.mark.parametrize(("calls", "words"), [(1, "1 call."), (3, "3 calls."), (0, "0 calls.")])
def test_what_cannot_be_proved_is_said_to_be_unproven(calls: int, words: str):
    contained = (Contained(epoch=7, instance="host-2/executor/0", calls=calls),)
    (line,) = standing_lines(Standing("contained", contained=contained), 7)
    assert line.startswith(f"CONTAINED(7), unproven: host-2/executor/0, {words}")


def test_what_agents_have_named_cannot_speak_to_the_terminal():
    waiting = (Waiting(instance="x\x1b[2J\u202e", since_s=1.0),)
    (line,) = standing_lines(Standing("waiting", waiting), 7)
    assert line.isprintable()
    lines = coverage_lines(Coverage(0, 5, False, {"campaign:\x1b[2J": ("y\x1b[2J",)}))
    assert all(line.isprintable() for line, _ in lines)


@pytest.mark.parametrize(
    ("covered", "lines"),
    [
        (Coverage(1, 9, False, {}), ["In the last 15 minutes it covered 1 action."]),
        (Coverage(1_204, 9_999, True, {}), ["In the last 15 minutes it covered at least 1,204 actions."]),
        (
            Coverage(0, 0, False, {"campaign:c": ()}),
            [
                "NO ACTION of the last 15 minutes is covered (none was read). It is engaged all the same.",
                "campaign:c was not seen",
            ],
        ),
        (
            Coverage(0, 1_000, True, {}),
            [
                "NO ACTION of the last 15 minutes is covered (of the 1,000 read; not all could be read). It is engaged "
                "all the same.",
                "Each part of the scope was seen, but never together: different kinds mean both.",
            ],
        ),
        (
            Coverage(2, 9, False, {"campaign:c": ("d", "e")}),
            [
                "In the last 15 minutes it covered 2 actions.",
                "campaign:c was not seen; the nearest: campaign:d, campaign:e",
            ],
        ),
    ],
)
def test_what_was_covered_is_said_and_nothing_loudly(covered: Coverage, lines: list[str]):
    found = list(coverage_lines(covered))
    assert [line for line, _ in found] == lines
    assert (found[0][1] == "bold red") == (covered.actions == 0)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_the_first_press_asks_and_the_second_leaves(capfd: pytest.CaptureFixture[str]):
    async def scenario() -> list[str]:
        seen = []
        with Presses.heeded(Telling(False)) as presses:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.05)
            seen.append(f"{presses.count} {presses.left}")
            os.kill(os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                seen.append(f"{presses.count} {presses.left}")
        return seen

    assert asyncio.run(scenario()) == ["1 False", "2 True"]
    assert "Ctrl-C again leaves at once" in " ".join(capfd.readouterr().out.split())


def test_leaving_before_kafka_has_answered_says_that_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    create_signing_key(tmp_path / "keys", "ana-1", "ana")

    async def silent(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(0.05)  # the first press changes nothing yet
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(30)

    monkeypatch.setattr("hitl_stream.cli.kill.append_once", silent)
    assert hitl("kill", "--scope", "campaign:cmp-7", "--json") == 130
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Whether it is engaged is NOT known" in " ".join(printed.err.split())


def test_afterwards_ctrl_c_is_what_it_was():
    async def scenario() -> None:
        with Presses.heeded(Telling(False)):
            pass

    asyncio.run(scenario())
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
