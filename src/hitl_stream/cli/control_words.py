"""The control log in plain words: why a command counts for nothing, and what one that waits would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import orjson

from hitl_stream.core.commands import Command, KeyEntry, Keys, PolicyChange, ReleaseRequest
from hitl_stream.core.control import (
    AHEAD_MS_MAX,
    ALIVE_MS_MAX,
    CONFIRM_MS_MAX,
    PENDING_MAX,
    PINS_MAX,
    RELEASE_MS_MIN,
    Control,
    Pending,
)
from hitl_stream.core.escape import escaped
from hitl_stream.core.events import Rejection
from hitl_stream.core.switches import Switch
from hitl_stream.wire.records import time_text

_MINUTES, _HOURS = 60_000, 3_600_000
WORDS: Mapping[Rejection, str] = {
    Rejection.MALFORMED: "it is no command: no compact JWS, no JSON, or not the fields of its type",
    Rejection.ALGORITHM: "it is not signed with Ed25519",
    Rejection.UNKNOWN_KEY: "the log does not list the key that signed it; `hitl keys show` shows those that it lists",
    Rejection.SIGNATURE: "its signature does not fit the key that the log lists under that id: another key file",
    Rejection.SEAL: "its seal is not that of its role's key",
    Rejection.AUDIENCE: "it is meant for another Kafka cluster",
    Rejection.ISSUER: "it is signed with a key that belongs to somebody else",
    Rejection.EXPIRED: f"it was appended after its end, {ALIVE_MS_MAX // _MINUTES} min after it was signed; repeat it",
    Rejection.EARLY: f"it was signed more than {AHEAD_MS_MAX // 1000} s after it was appended, or for more than "
    f"{ALIVE_MS_MAX // _MINUTES} min; compare this host's clock with the broker's",
    Rejection.KEY_TIME: "its key, or that of the command it confirms, is not valid yet, or no longer; see "
    "`hitl keys show`",
    Rejection.TYPE: "its key may not sign this type of command; `hitl keys show` shows which it may",
    Rejection.REPLAYED: "a command with this id is on control already, accepted or not",
    Rejection.SERVICE: "only a person may do this, and its key is a service's",
    Rejection.SAME_HOLDER: "who asked for it cannot confirm it; another holder of a person's key must",
    Rejection.TOO_SOON: f"a release is confirmed {RELEASE_MS_MIN // 1000} s after it was asked for, not sooner",
    Rejection.TOO_LATE: f"it was asked for more than {CONFIRM_MS_MAX // _HOURS} h before; ask for it anew",
    Rejection.UNKNOWN: "what it names is not there: nothing of that epoch is engaged, or waits to be confirmed",
    Rejection.INVALID: "it asks for what nobody may ask for",
    Rejection.FULL: f"its holder has {PENDING_MAX} commands that wait, or {PINS_MAX} pins, already; let others confirm "
    "what waits, or wait until some have lapsed",
}
"""Why a record counts for nothing, to be read after "refused: "."""
_CLAIMS = frozenset(("typ", *Command.__struct_fields__))


def told(control: Control, pending: Pending) -> Iterator[str]:
    """Yield, line by line and in full, what a command that waits would do; safe to print."""
    command = pending.command
    fields = msgspec.to_builtins(command)
    yield (
        f"Command {pending.epoch}: {fields['typ']}, asked for by {escaped(command.iss)} with the key "
        f"{escaped(command.kid)} at {time_text(pending.at_ms)}"
    )
    match command:
        case ReleaseRequest():
            yield from _told_switches(control, command)
            yield f"  reason: {escaped(command.reason)}"
        case Keys():
            for entry in command.keys:
                yield f"  {_told_key(entry, control.keys.get(entry.key_id))}"
        case PolicyChange():
            yield f"  digest: {command.digest}"
            yield f"  reason: {escaped(command.reason)}"
            yield from (f"  | {escaped(line)}" for line in command.text.splitlines())
        case _:
            yield from (f"  {name}: {_text(value)}" for name, value in fields.items() if name not in _CLAIMS)


def day_text(moment: datetime) -> str:
    """Write a time as RFC 3339 in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def switch_line(switch: Switch) -> str:
    """Return what a switch holds, since when, by whom and why; safe to print."""
    scope = escaped(" ".join(switch.scope)) or "everything"
    why = f": {escaped(switch.reason)}" if switch.reason else ""
    over = "" if switch.released is None else f" (released at {switch.released} already)"
    return (
        f"{switch.epoch}: {switch.mode} for {scope}, engaged by {escaped(switch.by)} at "
        f"{time_text(switch.at_ms)}{why}{over}"
    )


def _told_switches(control: Control, command: ReleaseRequest) -> Iterator[str]:
    for epoch in command.epochs:
        yield f"  releases {switch_line(control.switches.all[epoch])}"


def _told_key(entry: KeyEntry, before: KeyEntry | None) -> str:
    name = f"{escaped(entry.key_id)}, {entry.kind} {escaped(entry.holder)}"
    valid = f"from {day_text(entry.from_)} until {day_text(entry.until)}"
    signs = f"may sign {escaped(', '.join(entry.types))}"
    if before is None:
        return f"adds {name}: {signs}, {valid}"
    changed = [
        f"{what} {escaped(was)} becomes {escaped(is_)}"
        for what, was, is_ in (
            ("holder", before.holder, entry.holder),
            ("kind", before.kind, entry.kind),
            ("public key", before.jwk.get("x", ""), entry.jwk.get("x", "")),
            ("types", ", ".join(before.types), ", ".join(entry.types)),
            ("from", day_text(before.from_), day_text(entry.from_)),
            ("until", day_text(before.until), day_text(entry.until)),
        )
        if was != is_
    ]
    return f"changes {name}: {'; '.join(changed) or 'nothing'}"


def _text(value: Any) -> str:
    return escaped(value if isinstance(value, str) else orjson.dumps(value).decode())
