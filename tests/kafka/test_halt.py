"""The file HALT on a real log: signed with the host's key, appended once, released by two people."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hitl_stream.core.commands import Confirm, ReleaseRequest
from hitl_stream.core.control import Control
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.commander import append
from hitl_stream.lane.control_reader import ControlReader, reading_control
from hitl_stream.lane.halt import HALT, LATCH, HaltFile, engage_on
from hitl_stream.roles.offences import Alarm
from support.kafka import Topics, within
from support.oncall import OnCall

pytestmark = pytest.mark.kafka
HOST = "host-1"


@pytest.fixture
def place(kafka: str, topics: Topics, tmp_path: Path) -> OnCall:
    return OnCall(kafka, topics.prefix, tmp_path).begin(("control", "control.heartbeat"))


def watcher(place: OnCall, reader: ControlReader, bootstrap: str | None = None) -> HaltFile:
    """Return what one process of the host watches with, beside its own fold of control."""
    client = {"bootstrap_servers": bootstrap or place.bootstrap}
    engage = engage_on(client, place.topics, place.trust, place.keys_dir, HOST)
    return HaltFile(place.state_dir, HOST, reader.log.control, engage)


async def until(files: list[HaltFile], reader: ControlReader, ready: Callable[[], bool]) -> None:
    while not ready():
        for file in files:
            await file.step()
        await reader.catch_up()
        await asyncio.sleep(0.02)


def test_two_processes_of_a_host_append_one_switch_over_everything(place: OnCall):
    async def scenario() -> Control:
        audience = await cluster_id(place.client)
        async with reading_control(place.client, place.topics, place.trust, audience) as reader:
            files = [watcher(place, reader), watcher(place, reader)]
            assert not any(file.halted() for file in files)
            (place.state_dir / HALT).touch()
            await asyncio.gather(*(file.step() for file in files))  # both at once: neither knows of the other
            (place.state_dir / HALT).unlink()
            await until(files, reader, lambda: not any(file.halted() for file in files))
            return (await reader.catch_up()).control

    control = within(scenario())

    (switch,) = control.switches.all.values()
    assert (switch.scope, switch.mode, switch.by, switch.source) == (("global:*",), Mode.HALT, "host", "host")
    assert switch.reason == f"file HALT on {HOST}"
    assert set(place.log().rejected) <= {Rejection.REPLAYED}


def test_it_is_released_by_two_people_like_any_other(place: OnCall, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hitl_stream.core.control.RELEASE_MS_MIN", 0)

    async def scenario() -> None:
        audience = await cluster_id(place.client)
        async with reading_control(place.client, place.topics, place.trust, audience) as reader:
            file = watcher(place, reader)
            (place.state_dir / HALT).touch()
            control = reader.log.control
            await until([file], reader, lambda: bool(control.switches.engaged))
            await file.step()
            (epoch,) = control.switches.engaged
            asked = await append(
                place.client, place.topics, place.keys["ana"], partial(ReleaseRequest, epochs=(epoch,), reason="over")
            )
            await append(place.client, place.topics, place.keys["ben"], partial(Confirm, of=asked.epoch))
            await until([file], reader, lambda: not control.switches.engaged)
            await file.step()
            assert file.halted()  # the file is still there
            assert control.switches.engaged == {}  # and is no new command
            (place.state_dir / HALT).unlink()
            await file.step()
            await asyncio.sleep(0.3)
            assert not file.halted()

    within(scenario())


def test_without_kafka_the_host_stays_stopped_and_says_why(place: OnCall):
    async def scenario() -> str:
        async with reading_control(place.client, place.topics, place.trust, "any") as reader:
            file = watcher(place, reader, "127.0.0.1:1")
            (place.state_dir / HALT).touch()
            await file.step()
            (place.state_dir / HALT).unlink()
            await file.step()
            return file.missing()

    assert "Kafka at 127.0.0.1:1 was not reached" in within(scenario())
    assert (place.state_dir / LATCH).exists()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda place: (place.keys_dir / "host-1.jwk").unlink(), "has no service key of 'host'"),
        (lambda place: setattr(place, "trust", "0" * 64), "control does not list the key host-1 for engage"),
    ],
    ids=["no key", "another trust"],
)
def test_a_command_that_cannot_count_leaves_the_host_stopped(
    place: OnCall, spoil: Callable[[OnCall], object], words: str
):
    spoil(place)

    async def scenario() -> tuple[bool, str]:
        async with reading_control(place.client, place.topics, place.trust, "any") as reader:
            file = watcher(place, reader)
            (place.state_dir / HALT).touch()
            await file.step()
            return file.halted(), file.missing()

    before = place.log().control.epoch
    halted, why = within(scenario())
    assert halted
    assert words in why
    assert place.log().control.epoch == before  # no record that nobody could ever remove


@pytest.mark.behaviour("C2")
def test_an_executor_that_sees_a_breach_engages_a_halt_over_everything_once_with_the_hosts_key(place: OnCall):
    reason = "host-1/executor/0: a platform call began under an effective switch"

    async def scenario() -> Control:
        audience = await cluster_id(place.client)
        async with reading_control(place.client, place.topics, place.trust, audience) as reader:
            engage = engage_on(place.client, place.topics, place.trust, place.keys_dir, HOST, reason)
            alarm = Alarm(engage, reader.log.control)
            await alarm.start()
            alarm.ring()
            while not reader.log.control.switches.engaged:
                await reader.catch_up()
                alarm.ring()
                await asyncio.sleep(0.02)
            assert await engage("the same id") != await engage("another id")
            again = await engage("another id")
            await alarm.stop()
            assert again == max((await reader.catch_up()).control.switches.all), "of a repeat the first one counts"
            return reader.log.control

    control = within(scenario())

    switch, *_ = control.switches.all.values()
    assert (switch.scope, switch.mode, switch.by, switch.source) == (("global:*",), Mode.HALT, "host", "host")
    assert {one.reason for one in control.switches.all.values()} == {reason}
    assert len(control.switches.all) == 3
