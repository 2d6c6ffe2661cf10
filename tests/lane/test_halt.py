"""The file HALT: whatever ends a process and wherever, its host is stopped by the file, by the latch or by control."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.commands import Command, Engage, Heartbeat, KeyEntry, Keys
from hitl_stream.core.control import Control
from hitl_stream.core.errors import RefusedError, SettingsError, UnreachableError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.core.switches import GLOBAL
from hitl_stream.lane import halt
from hitl_stream.lane.control_view import ControlView, Member
from hitl_stream.lane.halt import (
    HALT,
    LATCH,
    LATCH_KEPT_MS,
    LOOK_EVERY_MS,
    REFUSED_MS,
    RETRY_MS,
    HaltFile,
    host_key,
    reason_of,
)
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import create_signing_key
from hitl_stream.wire.topics import TopicSet

HOST = "host-1"


class Clock:
    """A steady clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


class Log:
    """The control log, to which hosts append and from which each process folds on its own."""

    def __init__(self) -> None:
        self.records: list[Command] = [Keys(**claims("keys"), keys=(HOST_KEY,))]
        self.away: str | None = None

    @property
    def commands(self) -> list[Engage]:
        return [record for record in self.records if isinstance(record, Engage)]

    async def engage(self, jti: str) -> int:
        """Append; return the epoch of the switch: its own, or that of the first command with this id."""
        if self.away is not None:
            raise UnreachableError(self.away)
        command = Engage(**claims(jti), scope=(GLOBAL,), mode=Mode.HALT, reason=reason_of(HOST), source="host")
        self.records.append(command)
        return next(epoch for epoch, record in enumerate(self.records) if record.jti == jti)

    def fold(self, control: Control) -> list[Rejection | None]:
        start = control.epoch + 1
        return [control.fold(start + n, 0, b"", command) for n, command in enumerate(self.records[start:])]


def claims(jti: str) -> dict[str, Any]:
    return {"aud": "cluster", "kid": "host-1", "iss": "host", "jti": jti, "iat": 0, "exp": 900}


HOST_KEY = KeyEntry(
    holder="host", kind="service", key_id="host-1", jwk={}, types=("engage",),
    from_=datetime(2020, 1, 1, tzinfo=UTC), until=datetime(2099, 1, 1, tzinfo=UTC),
)  # fmt: skip


class Process:
    """One process of the host: its watcher and its own fold."""

    def __init__(self, directory: Path, log: Log, clock: Clock, engage: Callable[[str], Any] | None = None) -> None:
        self.log, self.clock = log, clock
        self.control = Control()
        self.file = HaltFile(directory, HOST, self.control, engage or log.engage, steady=clock)

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            asyncio.run(self.file.step())
            self.clock.ms += LOOK_EVERY_MS

    def catch_up(self) -> None:
        self.log.fold(self.control)

    def release(self) -> None:
        for epoch in list(self.control.switches.engaged):
            self.control.switches.release(epoch, self.control.epoch, self.control.at_ms)

    @property
    def stopped(self) -> bool:
        return self.file.halted() or bool(self.control.switches.engaged)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def process(tmp_path: Path, log: Log, clock: Clock) -> Process:
    return Process(tmp_path, log, clock)


def touch(directory: Path, at_ns: int = 1_000_000_000) -> None:
    (directory / HALT).touch()
    os.utime(directory / HALT, ns=(at_ns, at_ns))


def test_without_the_file_nothing_is_stopped(process: Process, log: Log):
    process.step(3)

    assert not process.file.halted()
    assert process.file.missing() == ""
    assert log.commands == []


def test_it_stops_within_one_look_even_where_nothing_watches(process: Process, tmp_path: Path, clock: Clock):
    assert not process.file.halted()
    touch(tmp_path)
    clock.ms += LOOK_EVERY_MS

    assert process.file.halted()
    assert "not known to be on control yet" in process.file.missing()


def test_removing_it_resumes_nothing(process: Process, tmp_path: Path, clock: Clock, log: Log):
    touch(tmp_path)
    assert process.file.halted()
    (tmp_path / HALT).unlink()
    clock.ms += LOOK_EVERY_MS
    assert process.file.halted()

    process.step()
    assert [command.scope for command in log.commands] == [(GLOBAL,)]
    assert process.file.halted()  # until it has folded what was appended

    process.catch_up()
    assert not process.file.halted()
    assert [switch.mode for switch in process.control.switches.engaged.values()] == [Mode.HALT]


def test_a_process_that_starts_later_is_stopped_by_the_latch(process: Process, tmp_path: Path, clock: Clock, log: Log):
    touch(tmp_path)
    log.away = "Kafka is away"
    process.step()
    (tmp_path / HALT).unlink()

    later = Process(tmp_path, log, clock)
    assert later.file.halted()
    log.away = None
    later.step()
    later.catch_up()

    assert not later.file.halted()
    assert len(log.commands) == 1


def test_several_processes_append_the_same_command(tmp_path: Path, clock: Clock, log: Log):
    processes = [Process(tmp_path, log, clock) for _ in range(3)]
    touch(tmp_path)
    for process in processes:
        assert process.file.halted()  # each has seen it before any has written the latch
    for process in processes:
        process.step()

    # all but the first know its epoch from the latch; even if they had not, a repeat would count for nothing
    assert len({command.jti for command in log.commands}) == 1
    for process in processes:
        process.catch_up()
        assert len(process.control.switches.all) == 1
        process.step()
        assert process.file.halted()  # the file is still there
    (tmp_path / HALT).unlink()
    for process in processes:
        process.step()
        assert not process.file.halted()
        assert process.control.switches.engaged


def test_a_repeat_of_the_command_counts_for_nothing(tmp_path: Path, clock: Clock, log: Log):
    touch(tmp_path)
    for _ in range(2):
        process = Process(tmp_path, log, clock)
        process.step()
        (tmp_path / LATCH).unlink()  # as if the process had ended before it wrote it

    control = Control()
    assert log.fold(control) == [None, None, Rejection.REPLAYED]


def test_an_epoch_at_which_nothing_was_engaged_ends_nothing(tmp_path: Path, log: Log, clock: Clock):
    """Whatever was appended there: what counts is what this process has folded."""

    async def refused(jti: str) -> int:
        log.records.append(Keys(**claims(jti) | {"kid": "nobody"}, keys=(HOST_KEY,)))
        return len(log.records) - 1

    process = Process(tmp_path, log, clock, refused)
    touch(tmp_path)
    process.step()
    process.catch_up()
    (tmp_path / HALT).unlink()
    process.step()
    assert process.control.epoch == 1
    assert process.file.halted()


def test_the_latch_goes_once_control_holds_it_and_the_file_is_gone(
    process: Process, tmp_path: Path, clock: Clock, log: Log
):
    touch(tmp_path)
    process.step()
    process.catch_up()
    process.step(40)
    assert (tmp_path / LATCH).exists()  # as long as HALT is there
    (tmp_path / HALT).unlink()
    process.step(LATCH_KEPT_MS // LOOK_EVERY_MS)
    assert (tmp_path / LATCH).exists()
    process.step(2)
    assert not (tmp_path / LATCH).exists()
    assert len(log.commands) == 1
    assert [path.name for path in tmp_path.iterdir()] == []


def test_while_the_file_is_there_the_host_is_stopped_released_or_not(process: Process, tmp_path: Path, log: Log):
    touch(tmp_path)
    process.step()
    process.catch_up()
    process.release()
    process.step(10)

    assert process.file.halted()
    assert "Remove the file" in process.file.missing()
    assert len(log.commands) == 1

    (tmp_path / HALT).unlink()
    process.step()
    assert not process.stopped


@pytest.mark.parametrize(("released", "commands"), [(True, 2), (False, 1)], ids=["released", "still held"])
def test_touched_again_it_is_a_new_command_unless_the_last_one_holds(
    released: bool, commands: int, process: Process, tmp_path: Path, log: Log
):
    touch(tmp_path)
    process.step()
    process.catch_up()
    process.step()
    if released:
        process.release()
    touch(tmp_path, 2_000_000_000)
    process.step(2)
    process.catch_up()
    assert len({command.jti for command in log.commands}) == commands
    assert process.control.switches.engaged

    process.release()  # a touch from before the release is no command after it
    process.step(3)
    assert len(log.commands) == commands


def test_what_cannot_be_appended_is_tried_again_and_stops_meanwhile(process: Process, tmp_path: Path, log: Log):
    log.away = "Kafka at host:9092 was not reached"
    touch(tmp_path)
    process.step()
    assert log.away in process.file.missing()
    log.away = None
    process.step(RETRY_MS // LOOK_EVERY_MS - 1)
    assert log.commands == []  # not at every look
    process.step()

    assert len(log.commands) == 1
    assert process.file.halted()


def test_what_is_refused_is_not_tried_every_second(tmp_path: Path, log: Log, clock: Clock):
    tries = []

    async def refused(jti: str) -> int:
        tries.append(jti)
        raise RefusedError("control does not list the key host-1")

    process = Process(tmp_path, log, clock, refused)
    touch(tmp_path)
    process.step(2 * REFUSED_MS // LOOK_EVERY_MS)
    assert len(tries) == 2
    assert process.file.halted()
    assert "does not list" in process.file.missing()


def test_where_the_directory_cannot_be_read_the_host_is_stopped_until_it_can(
    process: Process, tmp_path: Path, clock: Clock, log: Log
):
    away = tmp_path.with_name(f"{tmp_path.name}-away")
    process.step()
    tmp_path.rename(away)
    clock.ms += LOOK_EVERY_MS
    assert process.file.halted()
    assert "cannot be read (No such file or directory)" in process.file.missing()
    away.rename(tmp_path)
    clock.ms += LOOK_EVERY_MS

    assert not process.file.halted()
    assert log.commands == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"jti": 5}', b"\xff" * 10_000])
def test_a_latch_that_says_nothing_is_a_latch(content: bytes, tmp_path: Path, log: Log, clock: Clock):
    (tmp_path / LATCH).write_bytes(content)
    ids = []
    for _ in range(2):
        process = Process(tmp_path, log, clock)
        assert process.file.halted()
        ids.append(process.file._latch)
    assert ids[0] == ids[1]  # every process appends the same command for it

    process.step()
    process.catch_up()
    assert len(log.commands) == 1
    assert not process.file.halted()
    assert process.control.switches.engaged


def test_a_full_disk_is_no_reason_not_to_stop(
    process: Process, tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(halt.os, "fsync", full)
    touch(tmp_path)
    process.step(3)

    assert len(log.commands) == 1
    process.catch_up()
    assert process.file.halted()
    assert "No space left on device" in process.file.missing() or "Remove the file" in process.file.missing()


# --- crashes ----------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process is gone."""


class Fragile:
    """Ends the process before, or after, the n-th thing that it does to the world."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
        self.left = 0
        self.log = log
        for owner, name in (
            (halt.os, "open"),
            (halt.os, "write"),
            (halt.os, "fsync"),
            (Path, "replace"),
            (Path, "unlink"),
        ):
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def fragile(*args: Any, **kwargs: Any) -> Any:
            self._maybe()
            found = real(*args, **kwargs)
            self._maybe()
            return found

        return fragile

    def _maybe(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Crash

    async def engage(self, jti: str) -> int:
        self._maybe()
        epoch = await self.log.engage(jti)
        self._maybe()
        return epoch


def run_through(directory: Path, log: Log, clock: Clock, fragile: Fragile, *, removed: bool) -> Iterator[Process]:
    """Go from the touch to the end of the latch, in as many processes as it takes; yield after each round."""
    process = Process(directory, log, clock, fragile.engage)
    for _ in range(4 * LATCH_KEPT_MS // LOOK_EVERY_MS):
        try:
            process.step()
        except Crash:
            process = Process(directory, log, clock, fragile.engage)
            process.catch_up()  # as every process does before it does anything
        if removed and (directory / LATCH).exists():
            os.rename(directory / HALT, directory / "gone") if (directory / HALT).exists() else None  # noqa: PTH104
        yield process
        process.catch_up()
        yield process


@pytest.mark.parametrize("removed", [False, True], ids=["the file stays", "the file goes"])
def test_a_crash_at_any_step_leaves_the_host_stopped_and_one_switch_engaged(
    removed: bool, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    for at in itertools.count(1):
        with monkeypatch.context() as patching:
            log = Log()
            fragile = Fragile(patching, log)
            directory = tmp_path / str(at)
            directory.mkdir()
            touch(directory)
            fragile.left = at
            for process in run_through(directory, log, clock, fragile, removed=removed):
                clock.ms += LOOK_EVERY_MS
                assert process.stopped, f"crash {at}"
            assert len(process.control.switches.engaged) == 1, f"crash {at}"
            assert process.file.halted() is not removed
            assert (directory / LATCH).exists() is not removed
            if fragile.left > 0:
                break  # this time it came to the end
    assert at > 20  # the latch is written, its command appended, the latch written again


# --- who asks ---------------------------------------------------------------------------------------------------------


def test_a_control_view_emits_nothing_while_the_host_is_halted(process: Process, tmp_path: Path, clock: Clock):
    async def scenario() -> list[tuple[bool, str]]:
        member = Member("host-1/router/0", "router", "1", SealKey("r1", b"k" * 32))
        view = ControlView({}, TopicSet(), "", member, halted=process.file.halted, steady=clock)
        view._lease_until_ms = clock.ms + 100_000
        seen = [(view.may_emit(), view.missing())]
        touch(tmp_path)
        clock.ms += LOOK_EVERY_MS
        seen.append((view.may_emit(), view.missing()))
        (tmp_path / HALT).unlink()
        clock.ms += LOOK_EVERY_MS
        seen.append((view.may_emit(), view.missing()))
        return seen

    why = "this host is stopped by its file HALT"
    assert asyncio.run(scenario()) == [(True, ""), (False, why), (False, why)]


def test_a_control_view_remembers_the_newest_epoch_that_a_heartbeat_called_effective(clock: Clock):
    async def scenario() -> list[int]:
        view = ControlView({}, TopicSet(), "", Member("host-1/executor/0", "executor", "1", SealKey("e1", b"k" * 32)))
        digest = view._log.digest_at(-1)
        assert digest is not None
        seen = [view.effective]
        for effective in (4, 9, 7):  # two control roles may run, and one of them knows less
            claims_ = {"aud": "c", "kid": "control-1", "iss": "control", "jti": f"b{effective}", "iat": 1, "exp": 2}
            view._renew(
                Heartbeat(**claims_, seq=1, control="c", epoch=-1, digest=digest.hex(), acks={}, effective=effective)
            )
            seen.append(view.effective)
        return seen

    assert asyncio.run(scenario()) == [-1, 4, 9, 9]


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_newest_service_key_of_the_host_signs(tmp_path: Path):
    with pytest.raises(SettingsError, match="has no service key of 'host'"):
        host_key(tmp_path)
    for key_id, holder, kind in (
        ("ana-1", "ana", "person"),
        ("host-9", "host", "service"),
        ("host-10", "host", "service"),
    ):
        create_signing_key(tmp_path, key_id, holder, kind)  # type: ignore[arg-type]

    assert host_key(tmp_path).key_id == "host-10"
