"""A stretch of the log on the command line, what is read of it, and durations as people say them."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from cyclopts import Parameter

from hitl_stream.cli.terminal import say
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.effective import ROLES
from hitl_stream.core.errors import BrokenError, PolicyError, SettingsError, UsageError
from hitl_stream.core.policy.model import Policy, duration_ms
from hitl_stream.lane.exports import Checked, KafkaLog, Log
from hitl_stream.lane.past import Past, read_past
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire import seal
from hitl_stream.wire.policy_file import LoadedPolicy, parse
from hitl_stream.wiring import load_policy

Since = Annotated[str | None, Parameter(name="--since", help="Only what was appended since: 7d ago, or a time.")]
Ago = Annotated[str | None, Parameter(name="--since")]
"""So long ago, such as 1h."""
Until = Annotated[str | None, Parameter(name="--until", help="Only what was appended before: 1d ago, or a time.")]
WEEK = "7d"
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000))


def now_ms() -> int:
    """Return the time of this host: for what is shown, never for what is decided."""
    return time.time_ns() // 1_000_000


def moment_ms(text: str | None, name: str, now: int) -> int | None:
    """Read a time: so long before `now`, or RFC 3339 with an offset."""
    if text is None:
        return None
    with suppress(ValueError):
        return now - duration_ms(text)
    with suppress(ValueError):
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return milliseconds(found)
    raise UsageError(
        f"{name} {text} is no time; write how long ago, such as 7d, or a time with its offset, such as "
        "2026-11-21T07:10:00Z"
    )


def since_ms_of(ago: str | None) -> int | None:
    """Return when that long ago was, in milliseconds since 1970; raise `UsageError` for what is no duration."""
    if ago is None:
        return None
    try:
        return now_ms() - duration_ms(ago)
    except ValueError as error:
        raise UsageError(f"--since: {error}") from None


def stretch(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """Return when a stretch begins and ends, in milliseconds since 1970; refuse one that ends before it begins."""
    now = now_ms()
    since_ms, until_ms = moment_ms(since, "--since", now), moment_ms(until, "--until", now)
    if since_ms is not None and until_ms is not None and until_ms <= since_ms:
        raise UsageError(f"--until {until} is not after --since {since}; nothing lies between them")
    return since_ms, until_ms


def checked_log(settings: Settings, since_ms: int | None = None, until_ms: int | None = None) -> Checked:
    """Return the installation's log, under every role's seal keys that are here; an unreadable key is an error."""
    there = [role for role in ROLES if any(settings.keys_dir.glob(f"seal-{role}-*"))]
    keys = {role: seal.read_keys(settings.keys_dir, f"seal-{role}") for role in there}
    return Checked(log_of(settings), keys, since_ms, until_ms)


def log_of(settings: Settings) -> Log:
    """Return the log that the settings name."""
    return KafkaLog(kafka_client(settings), topic_set(settings))


def say_seals(checked: Checked) -> bool:
    """Say on stderr what the seals were; return whether any did not fit."""
    for name, count in sorted(checked.bad.items()):
        say(f"left out: {count:,} of {checked.log.topics.name(name)} whose seals do not fit")
    if checked.unchecked:
        names = ", ".join(f"{count:,} of {name}" for name, count in sorted(checked.unchecked.items()))
        say(f"not checked, since their writers' seal keys are not here: {names}")
    return bool(checked.bad)


@dataclass(frozen=True)
class InForce:
    """The policies that are known: the one in force, the file's, and what control has said."""

    loaded: LoadedPolicy
    others: tuple[Policy, ...]
    """Besides, what was not taken because another one is in force."""
    past: Past


async def policy_in_force(settings: Settings) -> InForce:
    """Return the policy that control has promoted, else that of the settings. Raises `SettingsError` without any."""
    past = await read_past(kafka_client(settings), topic_set(settings), settings.trust, heartbeats=False)
    promoted = past.log.control.policy if past.log is not None else None
    if promoted is None:
        return InForce(load_policy(settings), (), past)
    try:
        loaded = parse(promoted.text, f"control/{promoted.epoch}")
    except PolicyError as error:
        raise BrokenError(f"the policy promoted at {promoted.epoch} cannot be read by this version: {error}") from None
    others = []
    if settings.policy is not None:
        with suppress(PolicyError, SettingsError):
            others.append(load_policy(settings).policy)
    return InForce(loaded, tuple(others), past)


def duration(ms: float | None) -> str:
    """Write a duration for people: two units at most.

    >>> duration(93_784_000), duration(240_000), duration(1_240), duration(None)
    ('1 d 2 h', '4 m', '1.2 s', '–')
    """
    if ms is None:
        return "–"
    if abs(ms) < 10_000:
        return f"{ms / 1000:.1f} s"
    left, parts = int(abs(ms)), []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
        if parts and len(parts) < 2 and not count:
            break
    return ("-" if ms < 0 else "") + " ".join(parts[:2])
