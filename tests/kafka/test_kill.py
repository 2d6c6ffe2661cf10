"""`hitl kill`, `hitl release` and `hitl switches` on a real log, beside a control role that says what it is told."""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from hitl_stream.cli import confirm, release, switches
from hitl_stream.core import control as core_control
from hitl_stream.core.commands import Contained, ReleaseRequest, Waiting
from hitl_stream.core.errors import UnknownOutcomeError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.dev.broker import Broker
from hitl_stream.lane import commander, once
from hitl_stream.settings import Settings, load
from hitl_stream.wire.records import Ack, encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, create_key, sealer
from hitl_stream.wire.signing import create_signing_key
from support.history import KEY, Installation, action
from support.kafka import Topics, producing, running, within
from support.oncall import FakeControl, OnCall, hitl

pytestmark = pytest.mark.kafka
SCOPE = ("--scope", "campaign:cmp-7", "--scope", "tenant:acme")
ANA, BEN = ("--key", "ana-1"), ("--key", "ben-1")
HOUR_S = 3_600
APPEND_SECONDS_MAX = 2.0
"""From the start of the process; the target is 1 s."""
COMMAND_SECONDS_MAX = 40.0


@pytest.fixture
def place(kafka: str, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnCall:
    return OnCall(kafka, topics.prefix, tmp_path).begin().settle(monkeypatch)


@contextmanager
def started(place: OnCall, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Give `hitl` as a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hitl_stream", *arguments],
        env={**os.environ, **place.environ(), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
        cwd=place.state_dir,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], mark: str) -> str:
    """Read stdout until a line holds `mark`; return it."""
    assert process.stdout is not None
    for line in process.stdout:
        if mark in line:
            return line
    raise AssertionError(f"ended without {mark!r}: {process.communicate()}")


def flat(capfd: pytest.CaptureFixture[str]) -> str:
    """Return what was printed to stdout, without line breaks."""
    return " ".join(capfd.readouterr().out.split())


def only_switch(place: OnCall) -> Any:
    (switch,) = place.log().control.switches.engaged.values()
    return switch


# --- kill -------------------------------------------------------------------------------------------------------------


def test_it_ends_with_0_when_control_has_proved_it(place: OnCall, capfd: pytest.CaptureFixture[str]):
    with FakeControl(place):
        assert hitl("kill", *SCOPE, *ANA, "--reason", "wrong landing page") == 0

    switch = only_switch(place)
    assert (switch.scope, switch.mode, switch.by) == (("campaign:cmp-7", "tenant:acme"), Mode.HALT, "ana")
    assert (switch.reason, switch.source) == ("wrong landing page", "person")
    said = flat(capfd)
    assert f"APPENDED({switch.epoch})" in said
    assert f"EFFECTIVE({switch.epoch}) after " in said
    assert "without a tenant" not in said


def test_json_is_one_object_on_stdout_and_the_story_goes_to_stderr(place: OnCall, capfd: pytest.CaptureFixture[str]):
    with FakeControl(place):
        assert hitl("kill", "--scope", "account:acc-1", "--mode", "REDUCE_ONLY", *ANA, "--json") == 0
    printed = capfd.readouterr()
    row = json.loads(printed.out)

    assert (row["state"], row["mode"], row["scope"]) == ("EFFECTIVE", "REDUCE_ONLY", ["account:acc-1"])
    assert row["epoch"] == only_switch(place).epoch
    assert row["effective_ms"] >= 0
    assert row["notes"] == ["account without a tenant covers every tenant's account of that name"]
    assert "APPENDED" in printed.err


def test_it_ends_with_3_and_names_whoever_is_waited_for(place: OnCall, capfd: pytest.CaptureFixture[str]):
    with FakeControl(place) as control:
        control.effective = 0
        control.waiting = (Waiting(instance="host-3/router/0", since_s=0.4),)
        assert hitl("kill", *SCOPE, *ANA, "--timeout", "1s") == 3
    said = flat(capfd)

    assert "Waiting for host-3/router/0 since 0.4 s." in said
    assert "Not EFFECTIVE within 1 s. It stays engaged" in said
    assert only_switch(place)


def test_it_ends_with_3_and_says_which_calls_nobody_can_prove_to_be_over(
    place: OnCall, capfd: pytest.CaptureFixture[str]
):
    with FakeControl(place) as control:
        control.effective = 0
        control.contained = (Contained(epoch=1, instance="host-2/executor/0", calls=3),)
        assert hitl("kill", *SCOPE, *ANA, "--timeout", "1s") == 3
    assert "CONTAINED(1), unproven: host-2/executor/0, 3 calls." in flat(capfd)


def test_without_a_control_role_it_ends_with_3_and_says_so_loudly(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("kill", *SCOPE, *ANA, "--timeout", "2.5s") == 3
    said = flat(capfd)

    assert "No control role is heard" in said
    assert "Control has not read command 1 yet." in said
    assert only_switch(place)


def test_heartbeats_that_nobody_of_ours_signed_prove_nothing(place: OnCall, capfd: pytest.CaptureFixture[str]):
    forged = FakeControl(place)
    forged.key = create_signing_key(place.state_dir / "others", "control-1", "control", "service")
    with forged:
        assert hitl("kill", *SCOPE, *ANA, "--timeout", "2.5s") == 3
    said = flat(capfd)
    assert "EFFECTIVE(" not in said
    assert "heartbeats were refused: its signature does not fit" in said


def test_without_kafka_it_ends_with_4_and_says_what_stops_everything(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("kill", *SCOPE, *ANA, "--kafka", "127.0.0.1:1") == 4
    printed = capfd.readouterr()

    assert printed.out == ""
    assert "NOTHING is engaged by this" in printed.err
    assert f"touch {place.state_dir / 'HALT'} on each host" in printed.err.replace("\n", "")
    assert place.log().control.switches.all == {}


def test_a_key_that_control_does_not_list_ends_with_5(place: OnCall, capfd: pytest.CaptureFixture[str]):
    create_signing_key(place.keys_dir, "eve-1", "eve")
    assert hitl("kill", *SCOPE, "--key", "eve-1") == 5
    said = capfd.readouterr().err

    assert "refused: the log does not list the key that signed it" in said
    assert "NOTHING is engaged" in said
    assert place.log().rejected == {Rejection.UNKNOWN_KEY: 1}


def test_without_trust_it_is_appended_all_the_same(
    place: OnCall, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HITL_TRUST")
    assert hitl("kill", *SCOPE, *ANA) == 3

    assert "cannot be read back: trust is not set" in flat(capfd)
    assert only_switch(place)


@pytest.mark.parametrize("off_s", [2 * HOUR_S, -2 * HOUR_S])
@pytest.mark.parametrize("heard", [True, False])
def test_a_host_whose_clock_is_two_hours_off_still_stops_things(
    place: OnCall, monkeypatch: pytest.MonkeyPatch, off_s: int, heard: bool
):
    real = time.time_ns
    if heard:
        with FakeControl(place):
            monkeypatch.setattr(commander.time, "time_ns", lambda: real() + off_s * 1_000_000_000)
            assert hitl("kill", *SCOPE, *ANA) == 0
    else:
        monkeypatch.setattr(commander.time, "time_ns", lambda: real() + off_s * 1_000_000_000)
        assert hitl("kill", *SCOPE, *ANA, "--timeout", "0.1s") == 3
    assert only_switch(place)


def test_from_the_start_of_the_process_to_the_append_it_takes_a_second(place: OnCall):
    taken, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    with FakeControl(place):
        for _ in range(3):
            started_at = time.time()
            with started(place, "kill", *SCOPE, *ANA) as process:
                assert process.wait(COMMAND_SECONDS_MAX) == 0
            switches = place.log().control.switches.engaged
            taken.append(switches[max(switches)].at_ms / 1000 - started_at)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    print(
        f"append after {', '.join(f'{seconds:.2f} s' for seconds in taken)}; {worked / 3:.2f} s of CPU each, to the end"
    )
    assert worked / 3 <= APPEND_SECONDS_MAX
    if os.getloadavg()[0] < 1:  # else it says more of what else runs here
        assert min(taken) <= APPEND_SECONDS_MAX


# --- what it covers ---------------------------------------------------------------------------------------------------


def decided(place: OnCall, *actions: bytes) -> None:
    """Let a router decide actions."""
    installation = Installation(place.bootstrap, place.prefix)
    within(installation.create())

    async def run() -> None:
        await installation.publish(1, list(actions))
        await installation.route(1)

    within(run())


def test_it_says_how_many_actions_it_covered_lately(place: OnCall, capfd: pytest.CaptureFixture[str]):
    decided(place, *(action(n) for n in (1, 2, 3)), action(4, after="9.00"))
    with FakeControl(place):
        assert hitl("kill", "--scope", "campaign:CMP-2", "--scope", "campaign:cmp-4", *ANA) == 0
        assert "In the last 15 minutes it covered 2 actions." in flat(capfd)
        assert hitl("kill", "--scope", "global:*", *ANA) == 0
        assert "it covered 4 actions." in flat(capfd)


def test_one_that_covers_nothing_is_engaged_loudly_and_names_the_nearest(
    place: OnCall, capfd: pytest.CaptureFixture[str]
):
    decided(place, *(action(n) for n in (11, 12, 71, 172, 9)))
    with FakeControl(place):
        assert hitl("kill", "--scope", "campaign:cmp-17", "--scope", "tenant:acme", *ANA) == 0
    said = flat(capfd)

    assert "NO ACTION of the last 15 minutes is covered (of the 5 read). It is engaged all the same." in said
    assert "campaign:cmp-17 was not seen; the nearest: campaign:cmp-172, campaign:cmp-71, campaign:cmp-1" in said
    assert "tenant:acme was not seen" not in said
    assert only_switch(place)


def test_parts_that_were_never_seen_together_are_told_apart_from_typing_errors(
    place: OnCall, capfd: pytest.CaptureFixture[str]
):
    decided(place, action(1), action(2, agent={"id": "copy-2", "version": "1"}))
    with FakeControl(place):
        assert hitl("kill", "--scope", "campaign:cmp-1", "--scope", "agent:copy-2", *ANA) == 0
    assert "Each part of the scope was seen, but never together" in flat(capfd)


# --- an outcome that nobody knows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "tries"), [((True,), 1), ((False,), 2), ((False, True), 2), ((False, False), 3)], ids=str
)
def test_an_append_whose_outcome_is_unknown_is_found_or_said_again_under_the_same_id(
    place: OnCall,
    written: tuple[bool, ...],
    tries: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """The answer is lost; the command itself was written, or was not."""
    real, made, audience = once.append, [], place.log().audience

    async def unsure(client: Any, topics: Any, key: Any, make: Any) -> Any:
        made.append(make)
        if len(made) > len(written):
            return await real(client, topics, key, make)
        if written[len(made) - 1]:
            await real(client, topics, key, make)
        else:
            make(aud=audience, kid=key.key_id, iss=key.holder, jti="x", iat=1, exp=2)
        raise UnknownOutcomeError("no acknowledgement; whether it was written is not known")

    monkeypatch.setattr(once, "append", unsure)
    with FakeControl(place):
        assert hitl("kill", *SCOPE, *ANA) == 0

    assert len(made) == tries
    assert only_switch(place)
    assert "not known" in flat(capfd)


def test_a_command_that_stands_there_twice_is_one_switch(
    place: OnCall, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """The first record comes late: after the log was looked into, before it is said again."""
    real, made, audience = once.append, [], place.log().audience

    async def late(client: Any, topics: Any, key: Any, make: Any) -> Any:
        made.append(make)
        if len(made) == 1:
            make(aud=audience, kid=key.key_id, iss=key.holder, jti="x", iat=1, exp=2)
            raise UnknownOutcomeError("no acknowledgement; whether it was written is not known")
        await real(client, topics, key, make)
        return await real(client, topics, key, make)

    monkeypatch.setattr(once, "append", late)
    with FakeControl(place):
        assert hitl("kill", *SCOPE, *ANA) == 0

    log = place.log()
    assert log.rejected == {Rejection.REPLAYED: 1}
    assert list(log.control.switches.engaged) == [1]
    assert "EFFECTIVE(1)" in flat(capfd)  # the one that counts, not the one that was acknowledged


def test_where_nobody_can_tell_to_the_end_it_says_so(
    place: OnCall, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    async def silent(client: Any, topics: Any, key: Any, make: Any) -> Any:
        make(aud="elsewhere", kid=key.key_id, iss=key.holder, jti="x", iat=1, exp=2)
        raise UnknownOutcomeError("no acknowledgement")

    monkeypatch.setattr(once, "append", silent)
    assert hitl("kill", *SCOPE, *ANA) == 4

    said = capfd.readouterr().err
    assert "Whether it is engaged is NOT known" in said
    assert "NOTHING is engaged" not in said
    assert "touch" in said


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


def test_ctrl_c_while_it_waits_leaves_it_engaged(place: OnCall):
    with started(place, "kill", *SCOPE, *ANA, "--timeout", "30s") as process:
        until(process, "APPENDED(1)")
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=COMMAND_SECONDS_MAX)

    assert process.returncode == 130
    assert "Left. It stays engaged" in out
    assert only_switch(place)


def test_ctrl_c_twice_leaves_at_once(place: OnCall):
    with started(place, "kill", *SCOPE, *ANA, "--timeout", "30s") as process:
        until(process, "APPENDED(1)")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=COMMAND_SECONDS_MAX)

    assert process.returncode == 130
    assert only_switch(place)


# --- release ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute that lasts a second."""
    for module in (core_control, confirm, release):
        monkeypatch.setattr(module, "RELEASE_MS_MIN", 1_000)


def test_two_people_release_what_one_has_stopped(place: OnCall, soon: None, capfd: pytest.CaptureFixture[str]):
    epoch = place.engage("campaign:cmp-7", reason="wrong landing page")
    other = place.engage("account:acc-1")
    with FakeControl(place):
        assert hitl("release", "request", str(epoch), "--reason", "page mended", *ANA) == 0
        said = flat(capfd)
        assert f"would release {epoch}: HALT for campaign:cmp-7, engaged by ana" in said
        assert "nothing is released yet" in said
        assert f"hitl release confirm {other + 1}" in said
        assert list(place.log().control.switches.engaged) == [epoch, other]

        assert hitl("release", "confirm", str(other + 1), *BEN, "--wait") == 0
    said = flat(capfd)
    assert said.index(f"releases {epoch}: HALT for campaign:cmp-7") < said.index("CONFIRMED(")
    assert f"RELEASED {epoch}: control has applied it" in said
    assert f"Still engaged: 1: {other} (account:acc-1)" in said
    assert list(place.log().control.switches.engaged) == [other]


def test_confirmed_too_soon_it_tells_the_seconds_that_are_left(place: OnCall, capfd: pytest.CaptureFixture[str]):
    epoch = place.engage("campaign:cmp-7")
    with FakeControl(place):
        assert hitl("release", "request", str(epoch), "--reason", "mended", *ANA) == 0
        capfd.readouterr()
        assert hitl("release", "confirm", str(epoch + 1), *BEN) == 5
    said = capfd.readouterr().err
    left = int(said.split(" s are left")[0].rsplit(" ", 1)[-1])
    assert 30 < left <= 60
    assert place.log().control.epoch == epoch + 1  # nothing was appended


def test_who_asked_cannot_confirm(place: OnCall, soon: None, capfd: pytest.CaptureFixture[str]):
    epoch = place.engage("campaign:cmp-7")
    with FakeControl(place):
        assert hitl("release", "request", str(epoch), "--reason", "mended", *ANA) == 0
        assert hitl("release", "confirm", str(epoch + 1), *ANA, "--wait") == 5
    assert "another holder of a person's key must" in capfd.readouterr().err
    assert list(place.log().control.switches.engaged) == [epoch]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("request", "99", "--reason", "x"), 5, "99 is no switch; engaged are: 1"),
        (("request", "1", "--reason", " "), 2, "say why"),
        (("request", "--reason", "x"), 2, "no switch is named"),
        (("request", "1"), 2, "--reason"),
        (("confirm", "1"), 5, "nothing waits at 1"),
        (("confirm", "77"), 5, "there is no command 77 yet"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_released_is_refused_before_anything_is_appended(
    place: OnCall, arguments: tuple[str, ...], code: int, words: str, capfd: pytest.CaptureFixture[str]
):
    place.engage("campaign:cmp-7")
    assert hitl("release", *arguments, *ANA) == code
    assert words in " ".join(capfd.readouterr().err.split())
    assert place.log().control.epoch == 1


def test_a_clock_that_is_ahead_costs_a_second_confirmation_and_nothing_else(
    place: OnCall, soon: None, monkeypatch: pytest.MonkeyPatch
):
    """Without a heartbeat this host's clock dates the confirmation; the log says TOO_SOON, and --wait waits on."""
    epoch = place.engage("campaign:cmp-7")
    assert hitl("release", "request", str(epoch), "--reason", "mended", *ANA, "--timeout", "0.1s") == 0
    real = time.time_ns
    monkeypatch.setattr(commander.time, "time_ns", lambda: real() + 20_000_000_000)
    monkeypatch.setattr(core_control, "RELEASE_MS_MIN", 4_000)
    monkeypatch.setattr(release, "RELEASE_MS_MIN", 4_000)

    assert hitl("release", "confirm", str(epoch + 1), *BEN, "--wait", "--timeout", "0.1s") == 3  # nobody is heard
    assert place.log().control.switches.engaged == {}
    assert place.log().rejected == {Rejection.TOO_SOON: 1}


# --- switches ---------------------------------------------------------------------------------------------------------


def acknowledge(place: OnCall, number: int, **fields: Any) -> None:
    """Append an ack of host-1/router/0, sealed."""
    topic = place.topics.name("control.acks")
    fields = {"instance": "host-1/router/0", "role": "router", "version": "0.2.0", "partitions": (0, 1)} | fields
    value = encode(Ack(n=number, **fields))
    headers = [(TYPE_HEADER, b"ack/1"), (SEAL_HEADER, sealer(KEY, topic, "ack/1")(value))]

    async def send() -> None:
        async with producing(place.bootstrap, acks="all") as producer:
            await producer.send_and_wait(topic, value, key=fields["instance"].encode(), partition=0, headers=headers)

    within(send())


def test_it_shows_what_is_engaged_and_who_is_heard(place: OnCall, capfd: pytest.CaptureFixture[str]):
    epoch = place.engage("campaign:cmp-7", "tenant:acme", reason="wrong landing page")
    acknowledge(place, 7, epoch=epoch)
    with FakeControl(place) as control:
        control.acks = {"host-1/router/0": 7}
        assert hitl("release", "request", str(epoch), "--reason", "mended", *ANA) == 0
        newer = place.engage("account:acc-1", mode=Mode.REVIEW_ALL)
        capfd.readouterr()
        control.effective = epoch
        control.waiting = (Waiting(instance="host-3/router/0", since_s=0.4),)
        assert hitl("switches", "--json") == 0
    found = json.loads(capfd.readouterr().out)

    assert (found["heard"], found["effective"], found["epoch"]) == (True, epoch, newer)
    assert [one["instance"] for one in found["control"]] == ["host-1/control/0"]
    assert [(one["epoch"], one["state"], one["asked"], one["by"]) for one in found["switches"]] == [
        (epoch, "EFFECTIVE", [epoch + 1], "ana"),
        (newer, "not proved", [], "ana"),
    ]
    assert found["waiting"] == [{"instance": "host-3/router/0", "since_s": 0.4}]
    (pending,) = found["pending"]
    assert (pending["epoch"], pending["typ"], pending["epochs"]) == (epoch + 1, "release_request", [epoch])
    (instance,) = found["instances"]
    assert (instance["instance"], instance["epoch"], instance["partitions"]) == ("host-1/router/0", epoch, [0, 1])
    assert instance["checked"] is False  # no seal key of the router lies here
    assert isinstance(instance["lease_left_ms"], int)


def test_where_the_seal_key_lies_here_a_forged_ack_is_not_shown(place: OnCall, capfd: pytest.CaptureFixture[str]):
    create_key(place.keys_dir, "seal-router", "r1")
    acknowledge(place, 7)
    with FakeControl(place):
        assert hitl("switches", "--json") == 0
    assert json.loads(capfd.readouterr().out)["instances"] == []


def test_without_a_heartbeat_it_says_so_first(place: OnCall, capfd: pytest.CaptureFixture[str]):
    place.engage("campaign:cmp-7")
    with FakeControl(place) as control:
        control.silent = True
        time.sleep(0.2)
        assert hitl("switches") == 0
    said = flat(capfd)

    assert said.startswith("NO HEARTBEAT for 2.")
    assert "unknown" in said
    assert "EFFECTIVE" not in said.replace("anything is EFFECTIVE", "")


def test_released_ones_are_shown_when_they_are_asked_for(place: OnCall, capfd: pytest.CaptureFixture[str]):
    with FakeControl(place):
        assert hitl("switches") == 0
        assert "nothing is engaged" in flat(capfd)
        place.engage("tenant:drill", who="control", source="drill")
        place.command("control", partial(ReleaseRequest, epochs=(1,), reason="drill over"))
        assert hitl("switches", "--json") == 0
        assert json.loads(capfd.readouterr().out)["switches"] == []
        assert hitl("switches", "--json", "--all") == 0
    (switch,) = json.loads(capfd.readouterr().out)["switches"]
    assert (switch["epoch"], switch["state"], switch["released"]) == (1, "released", 2)


def test_watching_goes_on_until_ctrl_c(place: OnCall):
    with FakeControl(place), started(place, "switches", "--watch") as process:
        time.sleep(2.5)
        epoch = place.engage("campaign:cmp-7")
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=COMMAND_SECONDS_MAX)

    assert process.returncode == 130, err
    assert f"{epoch}" in out
    assert "campaign:cmp-7" in out


@pytest.mark.timeout(120)
def test_watching_survives_that_kafka_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown: list[str] = []

    def show(what: RenderableType) -> None:
        console = Console(file=io.StringIO(), width=200)
        console.print(what)
        shown.append(console.file.getvalue())  # type: ignore[attr-defined]

    async def until_shown(mark: str) -> None:
        async with asyncio.timeout(30):
            while not shown or mark not in shown[-1]:  # noqa: ASYNC110  a list has no event
                await asyncio.sleep(0.05)

    async def watch(settings: Settings) -> None:
        watching = switches.Watching(partial(switches.Looking.begin, settings), show)
        while True:
            await watching.once()

    async def scenario(broker: Broker, place: OnCall) -> None:
        task = asyncio.create_task(watch(load()))
        try:
            await until_shown("nothing is engaged")
            await asyncio.to_thread(broker.pause)
            await until_shown("KAFKA DOES NOT ANSWER")
            assert not task.done()
            await asyncio.to_thread(broker.resume)
            await asyncio.to_thread(place.engage, "campaign:cmp-7")
            await until_shown("campaign:cmp-7")
            assert "KAFKA DOES NOT ANSWER" not in shown[-1]
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=10)

    with running("noida", "jar") as broker:
        place = OnCall(broker.bootstrap, "watch.", tmp_path).begin().settle(monkeypatch)
        within(scenario(broker, place), 100)


def test_watching_ends_with_4_where_kafka_was_never_reached(place: OnCall, capfd: pytest.CaptureFixture[str]):
    assert hitl("switches", "--watch", "--kafka", "127.0.0.1:1") == 4
    assert "127.0.0.1:1" in capfd.readouterr().err
