"""`hitl farewell INSTANCE`: a person has seen that an executor's process has ended, and says so.

An executor that does not answer may still carry out the calls that it had begun, so what was engaged meanwhile stays
CONTAINED, unproven. No machine can tell a process that has ended from one that cannot be reached. Control believes a
person; an ack that comes later takes it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from typing import Annotated, Any

from cyclopts import App, Parameter

from hitl_stream.cli.appending import Desk, KeyFlag, Reason, at_desk, checked_reason, foreseen, signing_key
from hitl_stream.cli.control_words import WORDS
from hitl_stream.cli.live import Telling, heard_from_all, silence_lines
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags, Timeout
from hitl_stream.cli.terminal import emit
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import Contained, Farewell
from hitl_stream.core.effective import EXECUTOR
from hitl_stream.core.errors import RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.events import Rejection
from hitl_stream.lane.commander import Appended
from hitl_stream.lane.heartbeats import Beat, Heartbeats, listening
from hitl_stream.lane.instances import Instances, hearing_acks, seals_at
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.records import time_text
from hitl_stream.wire.signing import SigningKey

DONE, NOT_IN_TIME = 0, 3
NEAR_MAX = 3


def register(app: App) -> None:
    """Add the verb."""
    app.command(farewell)


def farewell(
    instance: Annotated[str, Parameter(name="INSTANCE")],
    /,
    *,
    reason: Reason,
    timeout: Timeout = timedelta(seconds=10),
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """State that an executor's process has ended. Look first: if it runs, what it has begun may still take effect.

    What is CONTAINED because of it ends. Exit 3 if control has not applied it in time, 5 if it is refused.

    Parameters
    ----------
    instance
        The executor, host/executor/slot, as `hitl switches` shows it.
    timeout
        How long to wait until control has applied it.
    json
        One object on stdout: {state, epoch, at, instance, reason, ended, contained, effective}.
    """
    _check(instance)
    checked_reason(reason)
    settings = flags.load()
    telling = Telling(json)
    saying = Saying(instance, reason, timeout.total_seconds(), settings, signing_key(settings, key), telling)
    told = reading(saying.run())
    if json:
        emit(_row(told, saying))
    return DONE if told.beat is not None else NOT_IN_TIME


def _check(instance: str) -> None:
    _, _, rest = instance.partition("/")
    role, _, slot = rest.partition("/")
    if role != EXECUTOR or not slot.isdecimal():
        raise UsageError(
            f"{escaped(instance)!r} names no executor; expected HOST/{EXECUTOR}/SLOT, as `hitl switches` shows it. Of "
            "other roles nobody need say so: they are fenced"
        )


@dataclass(frozen=True)
class Told:
    """What came of it. `ended` is what was CONTAINED because of the instance; `beat` None: not applied in time."""

    appended: Appended
    ended: tuple[Contained, ...]
    beat: Beat | None


@dataclass(frozen=True)
class Saying:
    """One farewell, from a look at what it would end to control's word that it has."""

    instance: str
    reason: str
    timeout_s: float
    settings: Settings
    signer: SigningKey
    telling: Telling

    async def run(self) -> Told:
        """Append it, and wait until control has applied it.

        Raises as `Desk.append` does, and UsageError for an instance that nobody has heard of.
        """
        client, topics = kafka_client(self.settings), topic_set(self.settings)
        async with at_desk(self.settings, self.signer) as desk, AsyncExitStack() as stack:
            self._refuse_what_is_foreseen(desk)
            log = desk.log
            beats = await stack.enter_async_context(listening(client, topics, log.audience, lambda: log.control.keys))
            acks = await stack.enter_async_context(hearing_acks(client, topics, seals_at(self.settings.keys_dir)))
            await heard_from_all(beats)
            self._look(beats, acks.instances)
            ended = _contained(beats.alive().values(), self.instance)
            appended = await desk.append(partial(Farewell, instance=self.instance, reason=self.reason))
            self._say_appended(appended, ended)
            beat = await self._applied(beats, appended.epoch)
            self._say_applied(beats, beat)
            return Told(appended, ended, beat)

    def _refuse_what_is_foreseen(self, desk: Desk) -> None:
        why = foreseen(desk.log.control.keys, self.signer, "farewell")
        if why is None and self.signer.kind == "service":
            why = Rejection.SERVICE
        if why is not None:
            raise RefusedError(f"not appended, since it would be refused: {WORDS[why]}")

    def _look(self, beats: Heartbeats, instances: Instances) -> None:
        """Refuse an instance that nobody has heard of; say so where control still hears it."""
        alive = list(beats.alive().values())
        if not alive:
            for line in silence_lines(beats):
                self.telling.line(line, "bold red")
            return
        known = {*instances.latest, *(name for beat in alive for name in _names(beat))}
        if self.instance not in known:
            near = get_close_matches(self.instance, sorted(known), NEAR_MAX, cutoff=0.0)
            nearest = f"the nearest: {', '.join(map(escaped, near))}" if near else "no instance is heard"
            raise UsageError(
                f"nobody has heard of {escaped(self.instance)} lately, and control waits for nothing of it; nothing is "
                f"appended; {nearest}"
            )
        left_ms = instances.lease_left_ms(self.instance, alive)
        if left_ms is not None and left_ms > 0:
            self.telling.line(
                f"Note: {escaped(self.instance)} has acknowledged within the last 2 s. If it does so again, this says "
                "nothing any more.",
                "yellow",
            )

    async def _applied(self, beats: Heartbeats, epoch: int) -> Beat | None:
        """Wait for a control role that has applied the command, and waits for the instance no longer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout_s
        while (left_s := deadline - loop.time()) > 0:
            beat = await beats.heard_of(epoch, left_s)
            if beat is None or not _contained((beat,), self.instance):
                return beat
        return None

    def _say_appended(self, appended: Appended, ended: Iterable[Contained]) -> None:
        name = escaped(self.instance)
        self.telling.line(
            f"FAREWELL({appended.epoch}) at {time_text(appended.at_ms)}: {escaped(self.signer.holder)} states that the "
            f"process of {name} has ended.",
            "bold",
        )
        for one in ended:
            self.telling.line(f"It ends CONTAINED({one.epoch}): {_calls(one)} of {name}.")
        if not ended:
            self.telling.line(f"Nothing was CONTAINED because of {name}.")

    def _say_applied(self, beats: Heartbeats, beat: Beat | None) -> None:
        if beat is None:
            lines = (
                ("It is appended, but control has not applied it: the time is over.",)
                if beats.alive()
                else silence_lines(beats)
            )
            for line in lines:
                self.telling.line(line, "bold red")
            return
        self.telling.line(f"Control has applied it: all up to {beat.heartbeat.effective} is EFFECTIVE.", "bold green")
        for one in beat.heartbeat.contained:
            self.telling.line(
                f"Still CONTAINED({one.epoch}), unproven: {escaped(one.instance)}, {_calls(one)}.", "yellow"
            )


def _contained(beats: Iterable[Beat], instance: str) -> tuple[Contained, ...]:
    """Return what is CONTAINED because of an instance, as any of the control roles says."""
    found = {one.epoch: one for beat in beats for one in beat.heartbeat.contained if one.instance == instance}
    return tuple(found[epoch] for epoch in sorted(found))


def _names(beat: Beat) -> Iterable[str]:
    said = beat.heartbeat
    return (*said.acks, *(one.instance for one in said.waiting), *(one.instance for one in said.contained))


def _calls(one: Contained) -> str:
    return "1 call" if one.calls == 1 else f"{one.calls} calls"


def _row(told: Told, saying: Saying) -> dict[str, Any]:
    said = told.beat.heartbeat if told.beat is not None else None
    return {
        "state": "APPLIED" if said is not None else "APPENDED",
        "epoch": told.appended.epoch,
        "at": time_text(told.appended.at_ms),
        "instance": saying.instance,
        "reason": saying.reason,
        "ended": [{"epoch": one.epoch, "calls": one.calls} for one in told.ended],
        "contained": [
            {"epoch": one.epoch, "instance": one.instance, "calls": one.calls} for one in said.contained
        ] if said is not None else None,
        "effective": said.effective if said is not None else None,
    }  # fmt: skip
