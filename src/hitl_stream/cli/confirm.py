"""`hitl confirm EPOCH`: the second holder's word, which puts a command in force that waits for it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from hitl_stream.cli.appending import Desk, KeyFlag, at_desk, foreseen, signing_key
from hitl_stream.cli.control_words import WORDS, told
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, out, say
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import Confirm, ReleaseRequest, type_of
from hitl_stream.core.control import CONFIRM_MS_MAX, RELEASE_MS_MIN, Pending, is_same_holder
from hitl_stream.core.errors import RefusedError
from hitl_stream.core.events import Rejection
from hitl_stream.lane.commander import Appended
from hitl_stream.settings import Settings
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.records import time_text
from hitl_stream.wire.signing import SigningKey

Epoch = Annotated[int, Parameter(name="EPOCH")]


def register(app: App) -> None:
    """Add the verb."""
    app.command(confirm)


def confirm(epoch: Epoch, *, key: KeyFlag = None, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Confirm another holder's command, named by its epoch: a release, a policy, keys, or whatever else loosens.

    What it would do is printed in full first. Exit 5 if it is refused.

    Parameters
    ----------
    epoch
        Of the command that waits.
    json
        One object on stdout: {epoch, at, of, command}; what is confirmed goes to stderr.
    """
    settings = flags.load()
    signer = signing_key(settings, key)
    pending, appended = reading(_confirm(settings, signer, epoch, json))
    if json:
        command = msgspec.to_builtins(pending.command)
        emit({"epoch": appended.epoch, "at": time_text(appended.at_ms), "of": epoch, "command": command})
        return 0
    _print(f"Confirmed at {appended.epoch}: command {epoch} is in force.")
    return 0


async def _confirm(settings: Settings, signer: SigningKey, epoch: int, json: bool) -> tuple[Pending, Appended]:
    async with at_desk(settings, signer) as desk:
        pending = desk.log.control.pending.get(epoch)
        if pending is None:
            raise RefusedError(_why_not_there(desk.log, epoch))
        for line in told(desk.log.control, pending):
            say(line) if json else _print(line)
        _refuse_what_is_foreseen(desk, pending)
        return pending, await desk.append(partial(Confirm, of=epoch), partial(_say_more, pending))


def _why_not_there(log: ControlLog, epoch: int) -> str:
    newest = log.control.epoch
    if epoch > newest:
        return f"refused: there is no command {epoch} yet; control ends at {newest}"
    try:
        why = log.rejection_at(epoch)
    except KeyError:
        return f"refused: no record has the offset {epoch}"
    if why is not None:
        return f"refused: command {epoch} counts for nothing itself: {WORDS[why]}"
    return f"refused: nothing waits at {epoch}: it is confirmed already, needs no second holder, or is too old"


def _refuse_what_is_foreseen(desk: Desk, pending: Pending) -> None:
    clocks = (desk.commander.now_ms(), time.time_ns() // 1_000_000)
    keys = desk.log.control.keys
    why = (
        foreseen(keys, desk.key, "confirm")
        or foreseen(keys, desk.key, type_of(pending.command))
        or foreseen_for(pending, desk.key, [now_ms - pending.at_ms for now_ms in clocks])
    )
    if why is None:
        return
    left_s = math.ceil(max(RELEASE_MS_MIN - now_ms + pending.at_ms for now_ms in clocks) / 1000)
    more = f"; {left_s} s are left" if why is Rejection.TOO_SOON else ""
    raise RefusedError(f"not appended, since it would be refused: {WORDS[why]}{more}")


def foreseen_for(pending: Pending, key: SigningKey, waited_ms: Sequence[int]) -> Rejection | None:
    """Say why a confirmation would be refused, if that is sure; `waited_ms` is what each clock at hand says.

    No clock here is the broker's, and each can be off: time speaks against it only where all of them say so, and none
    of them puts the present before the request. The fold has the last word.
    """
    if key.kind == "service":
        return Rejection.SERVICE
    if is_same_holder(key.holder, pending.holder):
        return Rejection.SAME_HOLDER
    if min(waited_ms) > CONFIRM_MS_MAX:
        return Rejection.TOO_LATE
    if isinstance(pending.command, ReleaseRequest) and min(waited_ms) >= 0 and max(waited_ms) < RELEASE_MS_MIN:
        return Rejection.TOO_SOON
    return None


def _say_more(pending: Pending, why: Rejection, appended: Appended) -> str:
    left_s = math.ceil((RELEASE_MS_MIN - appended.at_ms + pending.at_ms) / 1000)
    return f"; {left_s} s are left" if why is Rejection.TOO_SOON else ""


def _print(text: Any) -> None:
    out.print(text, markup=False, soft_wrap=True)
