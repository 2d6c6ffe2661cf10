"""`hitl switches`: what is engaged, whether that is proved, who waits for a second holder, and who is heard."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.appending import believed, trust_of
from hitl_stream.cli.control_words import WORDS
from hitl_stream.cli.live import SILENCE, heard_from_all
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags, Toggle
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import ReleaseRequest
from hitl_stream.core.control import RELEASE_MS_MIN, Pending
from hitl_stream.core.errors import UnreachableError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.events import Mode
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.control_reader import reading_control
from hitl_stream.lane.heartbeats import Heartbeats, listening
from hitl_stream.lane.instances import hearing_acks, seals_at
from hitl_stream.lane.picture import Picture, asked_for, data, shown, state_of
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.records import time_text

REDRAW_SECONDS = 0.25
AWAY_SECONDS = 3.0
"""Kafka is away once a look takes longer."""
RETRY_SECONDS = 1.0
SHOWN_MAX = 200
"""Rows of a table on a terminal; `--json` gives all."""
_MODES = {Mode.HALT: "bold red", Mode.REVIEW_ALL: "bold yellow", Mode.REDUCE_ONLY: "bold yellow"}
_STATES = {"EFFECTIVE": "green", "released": "dim", "not proved": "bold yellow", "CONTAINED": "bold yellow"}


def register(app: App) -> None:
    """Add the verb."""
    app.command(switches)


def switches(
    *,
    watch: Toggle = False,
    all_: Annotated[bool, Parameter(name="--all", negative="")] = False,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Show what is engaged: by whom, since when, whether it is EFFECTIVE; who asked for a release; who is heard.

    Parameters
    ----------
    watch
        Draw it anew until Ctrl-C, also while Kafka is away for a time.
    all_
        Also what was released.
    json
        One object on stdout: {epoch, heard, control, switches, pending, instances}.
    """
    if watch and json:
        raise UsageError("--watch draws on a terminal; for a program, ask --json again and again")
    settings = flags.load()
    if watch:
        reading(_watch(settings, all_))
        return 0
    picture = reading(_look(settings))
    if json:
        emit(data(picture, all_))
    else:
        out.print(drawn(picture, all_))
    return 0


# --- looking ----------------------------------------------------------------------------------------------------------


async def _look(settings: Settings) -> Picture:
    async with AsyncExitStack() as stack:
        looking = await Looking.begin(settings, stack)
        await heard_from_all(looking.beats)
        return await looking.again()


async def _watch(settings: Settings, all_: bool) -> None:
    with Live(console=out, screen=out.is_terminal, auto_refresh=False, vertical_overflow="visible") as live:
        watching = Watching(partial(Looking.begin, settings), partial(live.update, refresh=True), all_)
        while True:
            await watching.once()


class Watching:
    """Draws how things stand, anew and anew, also once Kafka has gone away and come back.

    `begin` connects, given a stack for what it opens; `show` draws. A Kafka that was never reached is an error.
    """

    def __init__(
        self,
        begin: Callable[[AsyncExitStack], Awaitable[Looking]],
        show: Callable[[RenderableType], None],
        all_: bool = False,
        *,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._begin, self._show, self._all, self._rest = begin, show, all_, rest
        self._last: Picture | None = None

    async def once(self) -> None:
        """Connect, and draw until Kafka goes away; say so, and rest. Raises UnreachableError where it never came."""
        try:
            async with AsyncExitStack() as stack:
                looking = await self._begin(stack)
                while True:
                    self._last = await self._look(looking)
                    self._show(drawn(self._last, self._all))
                    await self._rest(REDRAW_SECONDS)
        except UnreachableError as error:
            if self._last is None:
                raise
            self._show(away(self._last, str(error), self._all))
            await self._rest(RETRY_SECONDS)

    async def _look(self, looking: Looking) -> Picture:
        try:
            async with asyncio.timeout(AWAY_SECONDS):
                await looking.beats.hear(REDRAW_SECONDS)
                return await looking.again()
        except TimeoutError:
            raise UnreachableError(f"no answer within {AWAY_SECONDS:g} s") from None


class Looking:
    """Everything that is read, kept open."""

    def __init__(self, reader: Any, beats: Heartbeats, acks: Any) -> None:
        self.beats = beats
        self._reader, self._acks = reader, acks

    @classmethod
    async def begin(cls, settings: Settings, stack: AsyncExitStack) -> Looking:
        """Connect, and fold the control log."""
        client, topics, trust = kafka_client(settings), topic_set(settings), trust_of(settings)
        audience = await cluster_id(client)
        reader = await stack.enter_async_context(reading_control(client, topics, trust, audience))
        log: ControlLog = believed(await reader.catch_up(), topics.name("control"))
        beats = await stack.enter_async_context(listening(client, topics, audience, lambda: log.control.keys))
        acks = await stack.enter_async_context(hearing_acks(client, topics, seals_at(settings.keys_dir)))
        return cls(reader, beats, acks)

    async def again(self) -> Picture:
        """Read on, and return how things stand."""
        log = await self._reader.catch_up()
        instances = await self._acks.catch_up()
        beats = self.beats
        return Picture(log.control, beats.alive(), beats.silent_ms(), instances, dict(beats.rejected))


# --- drawing ----------------------------------------------------------------------------------------------------------


def drawn(picture: Picture, all_: bool) -> RenderableType:
    """Return it as tables, what is wrong first."""
    parts: list[RenderableType] = []
    if not picture.heard:
        parts += [Text(f"NO HEARTBEAT for {picture.silent_ms / 1000:.1f} s. {SILENCE}", "bold white on red"), Text()]
        parts += [
            Text(f"{count} heartbeats were refused: {WORDS[why]}", "red") for why, count in picture.refused.items()
        ]
    parts += [_control_line(picture), Text(), *_switches_part(picture, all_)]
    if picture.control.pending:
        parts += [Text(), _pending_table(list(picture.control.pending.values()), picture)]
    if picture.instances.latest:
        parts += [Text(), _instances_table(picture)]
    return Group(*parts)


def away(picture: Picture, why: str, all_: bool) -> RenderableType:
    """Return that Kafka does not answer, above what was seen last."""
    return Group(
        Text(f"KAFKA DOES NOT ANSWER: {escaped(why)}", "bold white on red"),
        Text(
            f"Nobody can tell from here what holds now; it is asked again. Below, how it stood at "
            f"{time_text(picture.now_ms)}. Without heartbeats every lease runs out: nothing is emitted from 2 s after "
            "the last one.",
            "red",
        ),
        Text(),
        drawn(picture, all_),
    )


def _control_line(picture: Picture) -> Text:
    if not picture.alive:
        return Text(f"control: epoch {picture.control.epoch}, no control role heard", "red")
    roles = ", ".join(f"{escaped(name)} (epoch {beat.heartbeat.epoch})" for name, beat in sorted(picture.alive.items()))
    return Text(f"control: epoch {picture.control.epoch}, heartbeat {picture.silent_ms / 1000:.1f} s ago from {roles}")


def _switches_part(picture: Picture, all_: bool) -> list[RenderableType]:
    rows = shown(picture, all_)
    if not rows:
        return [Text("nothing is engaged" if not all_ else "nothing was ever engaged", "green")]
    table = _table("epoch", "mode", "scope", "state", "since", "by", "reason", "release asked")
    for switch in rows[-SHOWN_MAX:]:
        state = state_of(switch, picture)
        released = f"released at {switch.released}" if switch.released is not None else state
        asked = ", ".join(
            f"{one.epoch} by {escaped(one.holder)}{_left(one, picture)}"
            for one in asked_for(switch.epoch, picture.control)
        )
        who = escaped(switch.by) if switch.source == "person" else f"{escaped(switch.by)} ({switch.source})"
        table.add_row(
            str(switch.epoch),
            Text(switch.mode.value, _MODES[switch.mode] if switch.released is None else "dim"),
            Text(escaped(" ".join(switch.scope)) or "everything"),
            Text(released, _STATES.get(state, "bold yellow")),
            Text(_since(switch.at_ms, picture)),
            Text(who),
            Text(escaped(switch.reason or "–")),
            Text(asked or "–"),
        )
    parts: list[RenderableType] = [table]
    if len(rows) > SHOWN_MAX:
        parts.insert(0, Text(f"… {len(rows) - SHOWN_MAX} older ones (--json shows all)", "dim"))
    parts += [
        Text(f"waiting for {escaped(one.instance)} since {one.since_s:.1f} s", "bold yellow") for one in picture.waiting
    ]
    parts += [
        Text(f"CONTAINED({one.epoch}), unproven: {escaped(one.instance)}, {one.calls} calls", "bold yellow")
        for one in picture.contained
    ]
    return parts


def _left(pending: Pending, picture: Picture) -> str:
    left_s = math.ceil((RELEASE_MS_MIN - (picture.now_ms - pending.at_ms)) / 1000)
    return f", in {left_s} s" if left_s > 0 else ""


def _pending_table(pending: Sequence[Pending], picture: Picture) -> Table:
    table = _table("waits", "what", "by", "since", "confirm with")
    for one in pending[:SHOWN_MAX]:
        typ = str(one.command.__struct_config__.tag)
        release = isinstance(one.command, ReleaseRequest)
        what = (
            f"{typ} {', '.join(map(str, one.command.epochs[:20]))}" if isinstance(one.command, ReleaseRequest) else typ
        )
        since = _since(one.at_ms, picture)
        verb = f"hitl {'release ' if release else ''}confirm {one.epoch}"
        table.add_row(str(one.epoch), Text(what), Text(escaped(one.holder)), Text(since), Text(verb))
    return table


def _instances_table(picture: Picture) -> Table:
    table = _table("instance", "version", "partitions", "epoch", "open", "calls", "lease", "seal")
    beats = list(picture.alive.values())
    for name, seen in sorted(picture.instances.latest.items())[:SHOWN_MAX]:
        left_ms = picture.instances.lease_left_ms(name, beats)
        holds = picture.heard and left_ms is not None and left_ms > 0
        behind = seen.ack.epoch < picture.control.epoch
        table.add_row(
            Text(escaped(name)),
            Text(escaped(seen.ack.version)),
            Text(_ranges(seen.ack.partitions)),
            Text(str(seen.ack.epoch), "bold yellow" if behind else ""),
            Text("–" if seen.ack.open_epoch is None else f"since {seen.ack.open_epoch}"),
            Text(str(seen.ack.calls)),
            Text("holds" if holds else "over", "green" if holds else "bold red"),
            Text("good" if seen.checked else "unchecked", "" if seen.checked else "dim"),
        )
    return table


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _ranges(numbers: Sequence[int]) -> str:
    """Write partitions shortly.

    >>> _ranges((0, 1, 2, 5)), _ranges(())
    ('0-2 5', '–')
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) or "–"


def _since(at_ms: int, picture: Picture) -> str:
    """Write when something was, and how long ago, shortly: the date where it was not today."""
    at, now = time_text(at_ms), time_text(picture.now_ms)
    when = at[11:19] if at[:10] == now[:10] else at[:10]
    seconds = max(0, picture.now_ms - at_ms) // 1000
    ago = next((f"{seconds // size} {unit}" for size, unit in _UNITS if seconds >= size), f"{seconds} s")
    return f"{when}Z {ago}" if len(when) < 10 else f"{when} {ago}"


_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
