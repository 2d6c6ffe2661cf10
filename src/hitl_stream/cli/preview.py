"""`hitl policy preview FILE --since 7d`: how queues and routes would change if another policy had been in force.

Every action of the stretch goes through the router's own step twice, in time order, once under the policy in force and
once under the file. Each has a window of its own, which is filled first from what came before the stretch, so that
limits over time count as they would have. Nothing is written. What the log does not hold is the same for both: facts
as they were then, and switches; levels, gates and pins count as they stand now.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.decide import DEAD, THROWAWAY, Answer, Decider, Row, _batches
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import Until, log_of, now_ms, policy_in_force, stretch
from hitl_stream.cli.terminal import emit, out, say
from hitl_stream.cli.topics import reading
from hitl_stream.core import preview as previews
from hitl_stream.core.control import Control
from hitl_stream.core.escape import escaped
from hitl_stream.core.policy.compile import compile_policy
from hitl_stream.core.preview import Compared, Preview
from hitl_stream.core.switches import Switches
from hitl_stream.lane.exports import Log
from hitl_stream.lane.step import Moment, Record
from hitl_stream.roles.plugins import PATIENT, Plugins
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Judge, Router
from hitl_stream.settings import Settings
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, decode
from hitl_stream.wire.policy_file import LoadedPolicy
from hitl_stream.wire.seal import sealer
from hitl_stream.wire.via import resealed
from hitl_stream.wiring import load_policy

CONTROL = "control"
DAY_MS = 86_400_000
CLOUD_EVENT = "ce_"
CONTENT_TYPE = "content-type"
RECOMMENDED = "RECOMMEND"
PEOPLES = ("desk", "console")
"""Roles that propose in a person's name."""
Since = Annotated[str, Parameter(name="--since", help="Decide again what was appended since: 7d ago, or a time.")]


def preview(
    file: Path, /, *, since: Since = "7d", until: Until = None, json: Json = False, flags: SettingsFlags = NO_FLAGS
) -> int:
    """Decide the log's actions again under a file and under the policy in force: queues, routes, the largest movers.

    Nothing is written. To put it in force: hitl policy promote FILE --reason ….

    Parameters
    ----------
    file
        Policy file that would follow the one in force.
    json
        One object on stdout: {actions, moved, days, queues, routes, movers, before, after}.
    """
    settings = flags.load()
    new = load_policy(settings.model_copy(update={"policy": file}))
    since_ms, until_ms = stretch(since, until)
    assert since_ms is not None  # it has a default
    until_ms = until_ms or now_ms()
    found, old = reading(_previewed(settings, new, since_ms, until_ms))
    days = (until_ms - since_ms) / DAY_MS
    if json:
        plain: dict[str, Any] = msgspec.to_builtins(found)
        emit({**plain, "days": round(days, 3), "before": old.digest, "after": new.digest})
    else:
        _show(found, days)
        say(f"from {escaped(old.policy.policy)} {old.digest[:12]} to {escaped(new.policy.policy)} {new.digest[:12]}")
    return 0


async def _previewed(
    settings: Settings, new: LoadedPolicy, since_ms: int, until_ms: int
) -> tuple[Preview, LoadedPolicy]:
    force = await policy_in_force(settings)
    control = Control() if force.past.log is None else force.past.log.control
    with ExitStack() as open_things:
        judge = open_things.enter_context(Plugins(PATIENT))
        both = (replaying(settings, force.loaded, control, judge), replaying(settings, new, control, judge))
        found = await compare(log_of(settings), settings.sources, both, since_ms, until_ms)
    return found, force.loaded


def replaying(settings: Settings, loaded: LoadedPolicy, control: Control, judge: Judge) -> Replaying:
    """Return a router that decides the log's records again under a policy, with the levels and gates of control."""
    return Replaying(loaded, control, settings.tenant, settings.partitions, settings.window_ids_max, judge)


class Replaying(Decider):
    """A router without Kafka whose records come from the log, at home and at their append times."""

    def __init__(
        self, loaded: LoadedPolicy, control: Control, tenant: str, partitions: int, ids_max: int, judge: Judge
    ) -> None:
        super().__init__(loaded, tenant, partitions, ids_max, judge)
        rules = copy.copy(control)
        rules.policy, rules.switches = None, Switches()  # the policy is this one, and no switch holds anything
        self.loaded = loaded
        proposers = {role: {THROWAWAY.key_id: THROWAWAY} for role in PEOPLES}
        settings = replace(self._router.settings, proposers=proposers)
        self._router = Router(settings, Policies(loaded.policy, loaded.digest, rules), judge)
        self._seal_via = sealer(THROWAWAY, self._topic, records.VIA)

    def answers(self, batch: Sequence[Row]) -> dict[int, Answer | None]:
        """Decide records of one partition; return what became of each by its offset, None for what moved away."""
        found: dict[int, Answer | None] = {row.offset: None for row in batch}
        for rows in _batches(batch):
            now = Moment(max(row.timestamp for row in rows))
            for output in self.outputs(rows, now):
                if output.topic not in (self._seeded, self._topic):
                    offset = rows[output.index].offset
                    found[offset] = self._answer(offset, output)
        return found

    def at_home(self, record: Record, topics: Sequence[str]) -> Row:
        """Return a record as it stands, its `hitl-via` sealed anew: whose word it is does not matter to the figures."""
        headers = [(name, value) for name, value in record.headers if _is_described(name)]
        via = records.header(record.headers, records.VIA_HEADER)
        if via is not None:
            decoded = decode(record.value, headers)
            action_hash = decoded.hash if isinstance(decoded, Decoded) else ""
            headers += resealed(self._seal_via, via, action_hash)
        offset = record.offset * len(topics) + topics.index(record.topic)  # the offsets of two topics may be the same
        return Row(record.value or b"", offset, record.partition, record.timestamp, self._topic, headers=tuple(headers))


@dataclass
class _Window:
    """Where the stretch lies, and from when the log is read so that the windows are full by then."""

    since_ms: int
    until_ms: int
    from_ms: int


async def compare(
    log: Log, sources: Sequence[str] | dict[str, Any], both: tuple[Replaying, Replaying], since_ms: int, until_ms: int
) -> Preview:
    """Decide every action again under both policies, and compare what was appended in the stretch."""
    reach_ms = max(_reach_ms(one.loaded, since_ms) for one in both)
    window = _Window(since_ms, until_ms, max(0, since_ms - reach_ms))
    compared = Compared()
    own = log.topics.name("actions")
    topics = sorted({own, *sources})
    async for batch in _in_time_order(log, topics, window.from_ms, log.topics.partitions):
        _take(batch, topics, both, window, compared)
    queues = {**both[0].loaded.policy.queues, **both[1].loaded.policy.queues}
    return compared.preview(list(queues))


async def _in_time_order(
    log: Log, topics: Sequence[str], from_ms: int, partitions: int
) -> AsyncIterator[Sequence[Record]]:
    """Yield the records of each partition in order of append time, whichever action topic they stand on."""
    if len(topics) == 1:
        async for batch in log.read_topic(topics[0], from_ms):
            yield batch
        return
    for partition in range(partitions):
        async for record in _merged([log.read_topic(topic, from_ms, partition) for topic in topics]):
            yield [record]


async def _merged(streams: Sequence[AsyncIterator[Sequence[Record]]]) -> AsyncIterator[Record]:
    """Merge streams, each in order of append time; of two at the same time, the first stream's goes first."""
    heads: list[tuple[int, int, Record]] = []
    records = [_each(stream) for stream in streams]

    async def step(number: int) -> None:
        with suppress(StopAsyncIteration):
            record = await anext(records[number])
            heappush(heads, (record.timestamp, number, record))

    for number in range(len(records)):
        await step(number)
    while heads:
        _, number, record = heappop(heads)
        yield record
        await step(number)


async def _each(stream: AsyncIterator[Sequence[Record]]) -> AsyncIterator[Record]:
    async for batch in stream:
        for record in batch:
            yield record


def _take(
    batch: Sequence[Record],
    topics: Sequence[str],
    both: tuple[Replaying, Replaying],
    window: _Window,
    compared: Compared,
) -> None:
    inside = [one for one in batch if window.from_ms <= one.timestamp < window.until_ms and not _is_drill(one)]
    if not inside:
        return
    rows = [both[0].at_home(record, topics) for record in inside]
    before, after = (one.answers(rows) for one in both)
    for row in rows:
        old, new = before[row.offset], after[row.offset]
        if old is None or new is None or row.timestamp < window.since_ms or DEAD in (old.outcome, new.outcome):
            continue
        compared.add(_said(old), _said(new))


def _said(answer: Answer) -> previews.Answer:
    cls = answer.type if isinstance(answer.type, str) else "none"
    queues = answer.queues if isinstance(answer.queues, tuple) else ()
    if answer.recommended:
        return previews.Answer(cls, RECOMMENDED)
    return previews.Answer(cls, answer.outcome if answer.end is None else f"{answer.outcome} {answer.why}", queues)


def _reach_ms(loaded: LoadedPolicy, now_ms: int) -> int:
    return compile_policy(loaded.policy, loaded.digest, now_ms).reach.longest_ms


def _is_drill(record: Record) -> bool:
    """Say whether control wrote a record: its exercises are nobody's work."""
    via = records.header(record.headers, records.VIA_HEADER)
    try:
        return via is not None and records.decode_via(via).role == CONTROL
    except (ValueError, RecursionError):
        return False


def _is_described(name: str) -> bool:
    """Say whether a header is a CloudEvent's; all others speak of who moved or wrote the record."""
    return name.startswith(CLOUD_EVENT) or name.lower() == CONTENT_TYPE


# --- showing ----------------------------------------------------------------------------------------------------------


def _show(found: Preview, days: float) -> None:
    table = _table(("queue", "now", "then", "change", "now a day", "then a day"), 1)
    for row in found.queues:
        table.add_row(Text(escaped(row.queue)), f"{row.before:,}", f"{row.after:,}", f"{row.change:+,}",
                      f"{row.before / days:,.1f}", f"{row.after / days:,.1f}")  # fmt: skip
    out.print(table)
    out.print()
    table = _table(("class", "route", "now", "then", "change"), 2)
    for route in found.routes:
        table.add_row(Text(escaped(route.cls)), Text(route.route), f"{route.before:,}", f"{route.after:,}",
                      f"{route.after - route.before:+,}")  # fmt: skip
    out.print(table)
    out.print()
    if found.movers:
        table = _table(("class", "from", "to", "actions"), 3)
        for mover in found.movers:
            table.add_row(Text(escaped(mover.cls)), Text(escaped(mover.before)), Text(escaped(mover.after)),
                          f"{mover.count:,}")  # fmt: skip
        out.print(table)
        out.print()
    share = f" ({found.moved / found.actions:.1%})" if found.actions else ""
    out.print(f"{found.moved:,} of {found.actions:,} actions would go another way{share}", markup=False)


def _table(titles: Sequence[str], left: int) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index < left else "right", overflow="fold")
    return table
