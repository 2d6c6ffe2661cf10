"""`hitl doctor`: what is well with this installation, seen from this machine, and what mends the rest.

A line for each thing that a role needs, in the order in which it needs them: settings, policy, broker, encryption,
topics, keys, trust, control, clock. What cannot be looked at because of what came before is not looked at. Nothing is
written.
"""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Literal

import msgspec
from cyclopts import App
from msgspec import Struct

from hitl_stream.cli.rules import in_force
from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags, problems_of
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import DAY_MS, KeyEntry, milliseconds
from hitl_stream.core.control import Control
from hitl_stream.core.errors import HitlError
from hitl_stream.core.escape import escaped
from hitl_stream.lane import admin
from hitl_stream.lane.control_reader import read_control
from hitl_stream.lane.heartbeats import SILENT_MS, Beat, listening
from hitl_stream.settings import Settings
from hitl_stream.wiring import MONITOR_KEYS, ROUTER_KEYS, kafka_client, topic_set, trust_of

LISTEN_S = 1.5 * SILENT_MS / 1000
CLOCK_MS_MAX = 1_000
"""Verdicts and commands are judged by the broker's time; leases by nobody's. A clock that is off by more gets records
refused as issued too late or too early."""
KEY_DAYS_MIN = 30
PORTS = "settings.ports"
ASK_S = 1.0
ANSWER_BYTES_MAX = 10_000
CONSOLE_MARK = b"/api/v1"
HOLDERS_MIN = 2
BEGIN = "hitl keys init --holder NAME --holder NAME; then tell every role HITL_TRUST"
LOCAL = ("127.0.0.1", "localhost", "[::1]")
State = Literal["ok", "note", "bad"]
STYLES = {"ok": "green", "note": "yellow", "bad": "bold red"}


class Line(Struct, frozen=True):
    """One thing that was looked at: how it is, what was seen, and the command that mends it."""

    about: str
    state: State
    found: str
    fix: str = ""


def register(app: App) -> None:
    """Add the verb."""
    app.command(doctor)


def doctor(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Say of everything that roles need whether it is well here, and how to mend what is not. Exit 1 if anything is.

    Parameters
    ----------
    json
        One object on stdout: {ok, lines: [{about, state, found, fix}]}.
    """
    settings = flags.load()
    lines = list(examined(settings))
    ok = not any(line.state == "bad" for line in lines)
    if json:
        rows = [{"about": one.about, "state": one.state, "found": one.found, "fix": one.fix} for one in lines]
        emit({"ok": ok, "lines": rows})
        return 0 if ok else FOUND
    wide = max(len(line.about) for line in lines)
    for line in lines:
        out.print(f"{line.state:<4}  ", style=STYLES[line.state], end="", markup=False)
        out.print(f"{line.about:<{wide}}  {escaped(line.found)}", markup=False, soft_wrap=True)
        if line.fix:
            out.print(f"{'':<{wide + 6}}  → {escaped(line.fix)}", style="bold", markup=False, soft_wrap=True)
    return 0 if ok else FOUND


def examined(settings: Settings) -> Iterator[Line]:
    """Look at one thing after the other."""
    yield from _settings(settings)
    yield from _encryption(settings)
    try:
        cluster = reading(admin.cluster_id(kafka_client(settings)))
    except HitlError as error:
        yield Line("broker", "bad", str(error), "to try out: hitl broker, or docker compose up -d kafka")
        return
    yield Line("broker", "ok", f"{settings.kafka} answers; cluster {cluster}")
    yield from _topics(settings)
    yield from _seals(settings)
    yield from _control(settings, cluster)


# --- on this machine --------------------------------------------------------------------------------------------------


def _settings(settings: Settings) -> Iterator[Line]:
    states: Mapping[str, State] = {"error": "bad", "warning": "note"}
    found = [problem for problem in problems_of(settings) if problem.severity in states]
    for problem in found:
        if problem.rule == PORTS and (role := _answering(settings.bind, getattr(settings, problem.path, 0))):
            yield Line("ports", "ok", f"{problem.path}: {role} of ours answers there")
            continue
        fix = "hitl keys seal" if problem.rule == "settings.keys" else "hitl config show"
        yield Line("settings", states[problem.severity], str(problem), fix)
    if not found:
        yield Line("settings", "ok", "each has a value that can be used; ports are free, the policy validates")


def _answering(host: str, port: int) -> str:
    """Return which of our roles answers at a port; nothing where none does."""
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    with suppress(OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return str(msgspec.json.decode(_asked(f"{where}/version"))["role"])
    with suppress(OSError, ValueError, http.client.HTTPException):
        return "a console" if CONSOLE_MARK in _asked(f"{where}/static/hitl.js") else ""
    return ""


def _asked(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=ASK_S) as answer:
        return bytes(answer.read(ANSWER_BYTES_MAX))


def _encryption(settings: Settings) -> Iterator[Line]:
    protocol = str(kafka_client(settings).get("security_protocol", "PLAINTEXT"))
    here = all(server.strip().rpartition(":")[0] in LOCAL for server in settings.kafka.split(","))
    if protocol in ("SSL", "SASL_SSL"):
        yield Line("encryption", "ok", protocol)
    elif here:
        yield Line("encryption", "note", f"{protocol}: nothing is encrypted, and Kafka is on this machine")
    else:
        found = f"{protocol} to {settings.kafka}: whoever is on the way reads and changes everything"
        yield Line("encryption", "bad", found, "HITL_KAFKA_SECURITY__SECURITY_PROTOCOL=SASL_SSL")


def _seals(settings: Settings) -> Iterator[Line]:
    lacking = [name for name in {**ROUTER_KEYS, **MONITOR_KEYS} if not any(settings.keys_dir.glob(f"{name}-*"))]
    if lacking:
        found = f"{settings.keys_dir} holds no {', no '.join(lacking)}"
        yield Line("seals", "bad", found, "hitl keys seal, or copy them from where they were made")
    else:
        yield Line("seals", "ok", f"{settings.keys_dir} holds one of each")


# --- in Kafka ---------------------------------------------------------------------------------------------------------


def _topics(settings: Settings) -> Iterator[Line]:
    try:
        problems = reading(admin.check(kafka_client(settings), topic_set(settings), sources=settings.sources))
    except HitlError as error:
        yield Line("topics", "bad", str(error))
        return
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        yield Line("topics", "bad", f"{problems[0]}{more}", "hitl topics apply; hitl topics check says the rest")
    else:
        yield Line("topics", "ok", f"all are there under {settings.prefix}, as they should be")


def _control(settings: Settings, cluster: str) -> Iterator[Line]:
    try:
        trust = trust_of(settings)
        log = reading(read_control(kafka_client(settings), topic_set(settings), trust, cluster))
    except HitlError as error:
        yield Line("trust", "bad", str(error), BEGIN)
        return
    yield from keys_lines(log.control, _now_ms())
    yield from _policy(settings, log.control)
    yield from _alive(settings, cluster, lambda: log.control.keys)


def keys_lines(control: Control, now_ms: int) -> Iterator[Line]:
    """Say who may sign, whether two people can, and which keys end soon."""
    valid = [key for key in control.keys.values() if milliseconds(key.from_) <= now_ms < milliseconds(key.until)]
    people = sorted({key.holder for key in valid if key.kind == "person"})
    if len(people) < HOLDERS_MIN:
        found = f"{', '.join(people) or 'nobody'} can sign now; whatever loosens takes two people"
        yield Line("trust", "bad", found, "hitl keys add --holder NAME")
    else:
        yield Line("trust", "ok", f"{len(valid)} keys count; {', '.join(people)} can sign")
    for key in valid:
        days = (milliseconds(key.until) - now_ms) // DAY_MS
        if days < KEY_DAYS_MIN:
            until = datetime.fromtimestamp(milliseconds(key.until) / 1000, UTC)
            yield Line(
                "keys",
                "note",
                f"{key.key_id} of {key.holder} ends on {until:%Y-%m-%d}",
                f"hitl keys rotate {key.key_id}",
            )


def _policy(settings: Settings, control: Control) -> Iterator[Line]:
    found = in_force(settings, control)
    if found is None:
        yield Line("policy", "note", "none was promoted; each router goes by its own file", "hitl policy promote FILE")
    else:
        yield Line("policy", "ok", f"in force: {found.place}")


def _alive(settings: Settings, cluster: str, keys: Callable[[], Mapping[str, KeyEntry]]) -> Iterator[Line]:
    try:
        beats = reading(_heard(settings, cluster, keys))
    except HitlError as error:
        yield Line("control", "bad", str(error))
        return
    if not beats:
        found = f"no heartbeat within {LISTEN_S:g} s: every lease has ended, and nothing runs"
        yield Line("control", "note", found, "hitl run control")
        return
    yield Line("control", "ok", f"{', '.join(sorted(beats))} heard")
    off_ms = _now_ms() - max(beat.at_ms for beat in beats.values())
    if abs(off_ms) > CLOCK_MS_MAX:
        found = f"this machine's clock is {off_ms / 1000:+.1f} s from the broker's; verdicts and commands get refused"
        yield Line("clock", "bad", found, "set it by NTP: chronyc tracking")
    else:
        yield Line("clock", "ok", f"within {CLOCK_MS_MAX / 1000:g} s of the broker's")


async def _heard(settings: Settings, cluster: str, keys: Callable[[], Mapping[str, KeyEntry]]) -> dict[str, Beat]:
    async with listening(kafka_client(settings), topic_set(settings), cluster, keys) as heartbeats:
        deadline = time.monotonic() + LISTEN_S
        while not heartbeats.alive() and (left := deadline - time.monotonic()) > 0:
            await heartbeats.hear(left)
        return heartbeats.alive()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
