"""`hitl release request` and `hitl release confirm`: what is stopped goes on only when two people say so."""

from __future__ import annotations

import asyncio
import math
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Annotated, Any

from cyclopts import App, Parameter

from hitl_stream.cli.appending import Desk, KeyFlag, at_desk, checked_reason, foreseen, signing_key
from hitl_stream.cli.confirm import _say_more, _why_not_there, foreseen_for
from hitl_stream.cli.control_words import WORDS, switch_line, told
from hitl_stream.cli.live import Telling, silence_lines
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags, Timeout, Toggle
from hitl_stream.cli.terminal import emit
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import EPOCHS_MAX, Confirm, ReleaseRequest
from hitl_stream.core.control import CONFIRM_MS_MAX, RELEASE_MS_MIN, Control, Pending
from hitl_stream.core.errors import HitlError, RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.events import Rejection
from hitl_stream.lane.commander import Appended
from hitl_stream.lane.heartbeats import Beat, listening
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.records import time_text
from hitl_stream.wire.signing import SigningKey

DONE, NOT_IN_TIME = 0, 3


def register(app: App) -> None:
    """Add the verbs."""
    release = App(name="release", help="Release what is stopped: one person asks, another confirms a minute later.")
    release.command(request)
    release.command(confirm)
    app.command(release)


# --- request ----------------------------------------------------------------------------------------------------------


def request(
    *epochs: Annotated[int, Parameter(name="EPOCH")],
    reason: str,
    timeout: Timeout = timedelta(seconds=10),
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Ask that switches be released, each named by its epoch. They hold until another holder confirms it.

    Parameters
    ----------
    epochs
        Of the switches, as `hitl switches` shows them.
    reason
        Why they may go; it stays on record.
    timeout
        How long to wait until control has applied it.
    json
        One object on stdout: {epoch, at, epochs, reason, confirm, not_before, not_after, heard}.
    """
    wanted = tuple(dict.fromkeys(epochs))
    _check_request(wanted, reason)
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    appended, beat = reading(_request(settings, signer, wanted, reason, timeout.total_seconds(), telling))
    command = f"hitl release confirm {appended.epoch}"
    first, last = time_text(appended.at_ms + RELEASE_MS_MIN), time_text(appended.at_ms + CONFIRM_MS_MAX)
    telling.line(
        f"ASKED({appended.epoch}) at {time_text(appended.at_ms)}: nothing is released yet. Another holder confirms it "
        f"from {first} until {last}: {command}",
        "bold",
    )
    if json:
        emit({
            "epoch": appended.epoch, "at": time_text(appended.at_ms), "epochs": wanted, "reason": reason,
            "confirm": command, "not_before": first, "not_after": last, "heard": beat is not None,
        })  # fmt: skip
    return DONE


def _check_request(epochs: tuple[int, ...], reason: str) -> None:
    if not epochs:
        raise UsageError("no switch is named; `hitl switches` shows the epoch of each: hitl release request EPOCH…")
    if len(epochs) > EPOCHS_MAX:
        raise UsageError(f"{len(epochs)} epochs, at most {EPOCHS_MAX} fit one request; say it in several")
    checked_reason(reason)


async def _request(
    settings: Settings, signer: SigningKey, epochs: tuple[int, ...], reason: str, timeout_s: float, telling: Telling
) -> tuple[Appended, Beat | None]:
    async with at_desk(settings, signer) as desk:
        _refuse_what_is_not_engaged(desk.log.control, epochs)
        _refuse(foreseen(desk.log.control.keys, signer, "release_request"))
        for epoch in epochs:
            telling.line(f"  would release {switch_line(desk.log.control.switches.engaged[epoch])}")
        appended = await desk.append(partial(ReleaseRequest, epochs=epochs, reason=reason))
        return appended, await _heard(settings, desk, appended.epoch, timeout_s, telling)


def _refuse_what_is_not_engaged(control: Control, epochs: tuple[int, ...]) -> None:
    engaged = control.switches.engaged
    for epoch in epochs:
        if epoch in engaged:
            continue
        was = control.switches.all.get(epoch)
        why = f"was released by command {was.released}" if was is not None else "is no switch"
        there = ", ".join(map(str, list(engaged)[:20])) or "none"
        raise RefusedError(f"not appended, since it would be refused: {epoch} {why}; engaged are: {there}")


# --- confirm ----------------------------------------------------------------------------------------------------------


def confirm(
    epoch: Annotated[int, Parameter(name="EPOCH")],
    *,
    wait: Toggle = False,
    timeout: Timeout = timedelta(seconds=10),
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Confirm another holder's request, a minute or more after it: then what it names goes on.

    What will be released is printed first. Exit 3 if control has not applied it in time, 5 if it is refused.

    Parameters
    ----------
    epoch
        Of the request.
    wait
        Wait for what is left of the minute, instead of being refused.
    timeout
        How long to wait until control has applied it.
    json
        One object on stdout: {state, epoch, at, of, released, engaged}; what is confirmed goes to stderr.
    """
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    row = reading(_confirm(settings, signer, epoch, wait, timeout.total_seconds(), telling))
    if json:
        emit(row)
    return DONE if row["state"] == "RELEASED" else NOT_IN_TIME


async def _confirm(
    settings: Settings, signer: SigningKey, epoch: int, wait: bool, timeout_s: float, telling: Telling
) -> dict[str, Any]:
    async with at_desk(settings, signer) as desk:
        pending = _pending(desk, epoch)
        request = pending.command
        assert isinstance(request, ReleaseRequest)  # `_pending` refuses any other
        for line in told(desk.log.control, pending):
            telling.line(line)
        appended = await _append(desk, pending, wait, telling)
        telling.line(f"CONFIRMED({appended.epoch}) at {time_text(appended.at_ms)}.", "bold")
        beat = await _heard(settings, desk, appended.epoch, timeout_s, telling)
        engaged = list(desk.log.control.switches.engaged)
        released = [one for one in request.epochs if desk.log.control.switches.all[one].released == appended.epoch]
        if beat is not None:
            names = ", ".join(map(str, released)) or "nothing (somebody was faster)"
            telling.line(f"RELEASED {names}: control has applied it; what lay parked is decided anew.", "bold green")
        telling.line(_still(desk.log.control))
        return {
            "state": "RELEASED" if beat is not None else "APPENDED",
            "epoch": appended.epoch,
            "at": time_text(appended.at_ms),
            "of": epoch,
            "released": released,
            "engaged": engaged,
        }


def _pending(desk: Desk, epoch: int) -> Pending:
    pending = desk.log.control.pending.get(epoch)
    if pending is None:
        raise RefusedError(_why_not_there(desk.log, epoch))
    if not isinstance(pending.command, ReleaseRequest):
        raise UsageError(f"command {epoch} asks for no release; what it asks for is confirmed by: hitl confirm {epoch}")
    return pending


async def _append(desk: Desk, pending: Pending, wait: bool, telling: Telling) -> Appended:
    """Confirm, in time: what is left of the minute is waited for, or said."""
    keys = desk.log.control.keys
    _refuse(foreseen(keys, desk.key, "confirm") or foreseen(keys, desk.key, "release_request"))
    waited_ms = desk.commander.now_ms() - pending.at_ms
    why = foreseen_for(pending, desk.key, (waited_ms,))
    if why is not Rejection.TOO_SOON:
        _refuse(why)
    elif not wait:
        left_s = math.ceil((RELEASE_MS_MIN - waited_ms) / 1000)
        raise RefusedError(
            f"not appended, since it would be refused: {WORDS[why]}; {left_s} s are left (--wait waits for them)"
        )
    else:
        await _wait(RELEASE_MS_MIN - waited_ms, telling)
    confirm = partial(Confirm, of=pending.epoch)
    if wait:
        appended = await desk.commander.append(confirm)
        log = await desk.reader.catch_up()
        if log.rejection_at(appended.epoch) is not Rejection.TOO_SOON:
            _refuse(log.rejection_at(appended.epoch), f"appended at {appended.epoch}, but refused: ")
            return appended
        # This host's clock was ahead; the answer says by how much.
        await _wait(RELEASE_MS_MIN - (appended.at_ms - pending.at_ms), telling)
    return await desk.append(confirm, partial(_say_more, pending))


async def _wait(left_ms: int, telling: Telling) -> None:
    seconds = max(0, math.ceil(left_ms / 1000))
    telling.line(f"Waiting {seconds} s: a release is confirmed {RELEASE_MS_MIN // 1000} s after it was asked for.")
    await asyncio.sleep(seconds)


# --- both -------------------------------------------------------------------------------------------------------------


def _refuse(why: Rejection | None, what: str = "not appended, since it would be refused: ") -> None:
    if why is not None:
        raise RefusedError(f"{what}{WORDS[why]}")


async def _heard(settings: Settings, desk: Desk, epoch: int, timeout_s: float, telling: Telling) -> Beat | None:
    """Wait until a control role says that it has applied a command; say so where none does."""
    log = desk.log
    try:
        async with AsyncExitStack() as stack:
            beats = await stack.enter_async_context(
                listening(kafka_client(settings), topic_set(settings), log.audience, lambda: log.control.keys)
            )
            beat = await beats.heard_of(epoch, timeout_s)
            if beat is None:
                behind = f"Control has not read command {epoch} yet: {timeout_s:g} s are over."
                for line in (behind,) if beats.alive() else silence_lines(beats):
                    telling.line(line, "bold red")
            return beat
    except HitlError as error:
        telling.line(f"It is appended, but control cannot be heard: {error}", "bold red")
        return None


def _still(control: Control) -> str:
    engaged = control.switches.engaged
    if not engaged:
        return "No switch is engaged any more."
    named = ", ".join(f"{epoch} ({escaped(' '.join(switch.scope))})" for epoch, switch in list(engaged.items())[:20])
    return f"Still engaged: {len(engaged)}: {named}{', …' if len(engaged) > 20 else ''}"
