"""`hitl decide`: what a policy makes of a file of actions, with no broker: JSON lines out, a summary to stderr.

The lines go through the router's own step, as if each had been appended at the moment it says it was proposed: so
admission, duplicates, windows and plugins count as they would on Kafka. The keys are throwaway, so the audit sample is
not the one that production draws. Memory is bounded by the window's limit, however long the file is.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
from cyclopts import App, Parameter
from msgspec import UNSET, Raw, Struct, UnsetType
from rich.table import Table
from rich.text import Text

from hitl_stream import settings as values
from hitl_stream.cli.settings import Json
from hitl_stream.cli.terminal import err, out
from hitl_stream.core.action import ACTION_BYTES_MAX, entity_of
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.errors import SettingsError, UsageError
from hitl_stream.core.window import ENTITIES_MAX, IdBudget
from hitl_stream.lane.step import Header, Moment, Output
from hitl_stream.logs import escaped
from hitl_stream.roles.plugins import PATIENT, Plugins
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Judge, Router, RouterSettings, no_plugins
from hitl_stream.roles.router_state import RouterState
from hitl_stream.settings import Settings
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, decode
from hitl_stream.wire.home import home_of
from hitl_stream.wire.policy_file import LoadedPolicy
from hitl_stream.wire.records import ReasonRow
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wiring import load_policy

BATCH_LINES_MAX = 2_000
BATCH_SPAN_MS_MAX = 1_000
"""Lines of one batch are decided under one moment, so `decide_by` and `execute_by` are exact to a second."""
READ_BYTES_MAX = 1024 * 1024
LINE_BYTES_MAX = 16 * ACTION_BYTES_MAX
"""Of a longer line only so much is kept: it is no action anyhow."""
APPENDED_MS_MAX = 4_102_444_800_000
"""The year 2100: a later append time is a slip of a unit, and RFC 3339 ends at 9999."""
PARTITIONS_MAX = 10_000
REASONS_SHOWN = 10
THROWAWAY = SealKey("throwaway", bytes(32))
DEAD = "DEAD"
STDIN = "-"
OrStdin = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A file, or `-`."""
_WHITE = b" \t\r\n"
_STYLES = {"EXECUTE": "green", "RECOMMEND": "cyan", "REVIEW": "yellow", "ESCALATE": "red", "REFUSE": "dim"}


def register(app: App) -> None:
    """Add the verb."""
    app.command(decide)


def decide(
    file: OrStdin,
    /,
    *,
    policy: Path | None = None,
    json: Json = False,
    tenant: str | None = None,
    partitions: int = 1,
    now: Annotated[str | None, Parameter(show_default=False)] = None,
) -> int:
    """Decide a file of actions with no broker: JSON lines to stdout, a summary to stderr.

    Parameters
    ----------
    file
        JSON Lines, one action a line; `-` reads stdin.
    policy
        Policy file; else the one of the settings.
    json
        JSON lines also on a terminal.
    tenant
        Tenant of an action that names none.
    partitions
        Decide as with so many partitions: an id is new, and sums begin at zero, in each.
    now
        Append time of every line, such as 2026-11-21T07:10:00Z; else what the line says as proposed_at.
    """
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise UsageError(f"--partitions is 1 to {PARTITIONS_MAX}, not {partitions}")
    settings = values.load(policy=policy, tenant=tenant)
    loaded = the_policy(settings)
    appended_ms = None if now is None else milliseconds(moment_of(now))
    pretty = sys.stdout.isatty() and not json
    with ExitStack() as open_things:
        stream = open_things.enter_context(open_lines(file))
        judge = open_things.enter_context(Plugins(PATIENT))
        decider = Decider(loaded, settings.tenant, partitions, settings.window_ids_max, judge, appended_ms)
        started = time.perf_counter()
        for lines in read_lines(stream, file):
            answers = decider.decide(lines)
            if pretty:
                for answer in answers:
                    out.print(_shown(answer), soft_wrap=True)
            else:
                sys.stdout.buffer.write(_encoder.encode_lines(answers))
                sys.stdout.flush()
        _summarize(decider, loaded, time.perf_counter() - started)
    return 0


def the_policy(settings: Settings) -> LoadedPolicy:
    """Read the policy of the settings, or say where one could come from."""
    if settings.policy is None:
        examples = files("hitl_stream.dev").joinpath("policies")
        raise SettingsError(
            "no policy: give one with --policy FILE, HITL_POLICY or `policy` in hitl.toml; "
            f"examples are {examples / 'acme.yaml'} and {examples / 'demo.yaml'}"
        )
    return load_policy(settings)


def moment_of(text: str) -> datetime:
    """Read a time given on the command line."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(f"--now {text} is no time; write one with its offset, such as 2026-11-21T07:10:00Z")
    return moment


# ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Line = tuple[int, bytes]
"""The number of a line, from 1, and its bytes without the white space around them."""


def open_lines(file: str) -> BinaryIO:
    """Open a file, or stdin for `-`."""
    if file == STDIN:
        # Not `sys.stdin.buffer`: it is closed with the stack, and stdin is not ours to close.
        return open(sys.stdin.fileno(), "rb", closefd=False)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise unreadable(file, error) from None


def unreadable(file: str, error: OSError) -> UsageError:
    """Say that a file cannot be read, and what else could be given."""
    return UsageError(f"{file}: cannot be read: {error.strerror or error}; give a file, or - for stdin")


def read_lines(stream: BinaryIO, name: str) -> Iterator[list[Line]]:
    """Yield the lines that came in one go, numbered, without blank ones: what arrives slowly is answered at once."""
    number, rest = 0, b""
    try:
        while chunk := stream.read1(READ_BYTES_MAX):  # type: ignore[attr-defined]  # both kinds of stream have it
            *whole, rest = (rest + chunk).split(b"\n")
            rest = rest[:LINE_BYTES_MAX]
            found = [(number + place, line.strip(_WHITE)) for place, line in enumerate(whole, 1)]
            number += len(whole)
            yield [entry for entry in found if entry[1]]
    except OSError as error:
        raise unreadable(name, error) from None
    if last := rest.strip(_WHITE):
        yield [(number + 1, last)]


# ── Deciding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Row(Struct, frozen=True, gc=False):
    """A line as Kafka would hand it to the router."""

    value: bytes
    offset: int
    partition: int
    timestamp: int
    topic: str
    key: bytes | None = None
    headers: tuple[Header, ...] = ()


class _Proposed(Struct, frozen=True, gc=False):
    proposed_at: datetime


class _Head(Struct, frozen=True, gc=False):
    """What of a decision or an end is passed on as it is."""

    tenant: str
    action_id: str
    type: str
    level: int
    outcome: str
    reasons: Raw
    approvals: Raw
    score: Raw
    execute_by: Raw
    audit: Raw
    end: str | None = None
    why: str | None = None


class _Queue(Struct, frozen=True, gc=False):
    queue: str


class Answer(Struct, frozen=True, gc=False, omit_defaults=True):
    """What became of one line. `outcome` is the router's, `DEAD` for what is no action."""

    line: int
    outcome: str
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    level: int | UnsetType = UNSET
    recommended: bool = False
    """Level 1: the outcome is the route it would have had."""
    end: str | None = None
    error: str | None = None
    why: str | None = None
    queues: tuple[str, ...] | UnsetType = UNSET
    reasons: Raw | UnsetType = UNSET
    score: Raw | UnsetType = UNSET
    approvals: Raw | UnsetType = UNSET
    execute_by: Raw | UnsetType = UNSET
    audit: Raw | UnsetType = UNSET


_proposed = msgspec.json.Decoder(_Proposed)
_head = msgspec.json.Decoder(_Head)
_queues = msgspec.json.Decoder(list[_Queue])
_reasons = msgspec.json.Decoder(tuple[ReasonRow, ...])
_encoder = msgspec.json.Encoder()
_NONE = b"[]"


@dataclass
class Tallies:
    """What the whole file came to."""

    lines: int = 0
    routed: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    earlier: int = 0
    """Lines proposed a second and more before a line that stands above them."""


class Decider:
    """A router without Kafka: lines in, answers out, in order."""

    def __init__(
        self,
        loaded: LoadedPolicy,
        tenant: str = "",
        partitions: int = 1,
        ids_max: int = IdBudget.limit,
        judge: Judge = no_plugins,
        appended_ms: int | None = None,
    ) -> None:
        topics = TopicSet(partitions=partitions)
        keys = {THROWAWAY.key_id: THROWAWAY}
        settings = RouterSettings(topics, keys, THROWAWAY, instance="local/decide/0", tenant=tenant)
        self.tallies = Tallies()
        self._router = Router(settings, Policies(loaded.policy, loaded.digest), judge)
        self._budget = IdBudget(ids_max)
        self._states: dict[int, RouterState] = {}
        self._partitions = partitions
        self._tenant = tenant
        self._appended_ms = appended_ms
        self._newest_ms = 0
        self._topic = topics.name("actions")
        self._recommendations = topics.name("recommendations")
        self._seeded = topics.name("review.seeded")
        self._dlq = topics.name("dlq")

    def decide(self, lines: Sequence[Line]) -> list[Answer]:
        """Answer each line, in order."""
        rows = [self.row(number, line) for number, line in lines]
        answers: list[Answer] = []
        for batch in _batches(rows):
            found: dict[int, Answer] = {}
            now = Moment(max(row.timestamp for row in batch))
            for _, group in groupby(sorted(batch, key=_partition), key=_partition):
                self._step(list(group), now, found)
            answers += [found[row.offset] for row in batch]
        self.tallies.lines += len(answers)
        return answers

    def outputs(self, rows: Sequence[Row], now: Moment) -> Sequence[Output]:
        """Run the router's step on rows of one partition, as a lane does, and count what it counted."""
        partition = rows[0].partition
        state = self._states.get(partition)
        if state is None:
            state = self._states[partition] = self._router.state(self._budget)
        result = self._router(rows, state, now)  # type: ignore[arg-type]  # a frozen row is a record to read
        state.apply(result.changes)
        self.tallies.routed.update(result.tally.routed)
        self.tallies.dead.update(result.tally.dead)
        return result.outputs

    def _step(self, rows: Sequence[Row], now: Moment, found: dict[int, Answer]) -> None:
        for output in self.outputs(rows, now):
            if output.topic != self._seeded:
                number = rows[output.index].offset
                found[number] = self._answer(number, output)

    def row(self, number: int, line: bytes) -> Row:
        """Return a line as the router sees it: in its home partition, appended when it was proposed."""
        partition = 0
        if self._partitions > 1:
            decoded = decode(line)
            if isinstance(decoded, Decoded):
                action = decoded.action
                tenant = action.tenant or self._tenant
                partition = home_of(action, tenant, entity_of(action), self._partitions)
        if self._appended_ms is not None:
            return Row(line, number, partition, self._appended_ms, self._topic)
        proposed_ms = _proposed_ms(line)
        if proposed_ms is None:
            proposed_ms = self._newest_ms  # The router says what is wrong with it.
        if proposed_ms < self._newest_ms - BATCH_SPAN_MS_MAX:
            self.tallies.earlier += 1
        self._newest_ms = max(self._newest_ms, proposed_ms)
        return Row(line, number, partition, proposed_ms, self._topic)

    def _answer(self, number: int, output: Output) -> Answer:
        if output.topic == self._dlq:
            error, why = (
                records.header(output.headers, name) or b"" for name in (records.ERROR_HEADER, records.WHY_HEADER)
            )
            return Answer(number, DEAD, error=error.decode(), why=why.decode("utf-8", "replace"))
        head = _head.decode(output.value or b"")
        if bytes(head.reasons) != _NONE:
            self.tallies.rules.update(reason.rule for reason in _reasons.decode(head.reasons) if reason.counts)
        queues = tuple(row.queue for row in _queues.decode(head.approvals)) if bytes(head.approvals) != _NONE else ()
        return Answer(
            number,
            head.outcome,
            f"{head.tenant}/{head.action_id}",
            head.type,
            head.level,
            recommended=output.topic == self._recommendations,
            end=head.end,
            why=head.why,
            queues=queues,
            reasons=head.reasons,
            score=head.score,
            approvals=head.approvals,
            execute_by=head.execute_by,
            audit=head.audit,
        )


def _proposed_ms(line: bytes) -> int | None:
    """Return when a line says it was proposed, or None where it says nothing that a broker's clock could show."""
    try:
        proposed_ms = milliseconds(_proposed.decode(line).proposed_at)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return None
    return proposed_ms if 0 <= proposed_ms <= APPENDED_MS_MAX else None


def _partition(row: Row) -> int:
    return row.partition


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Cut rows where a moment ends: after so many lines, or where the time moves on, or back."""
    start = 0
    for end in range(1, len(rows) + 1):
        first = rows[start].timestamp
        if (
            end == len(rows)
            or end - start == BATCH_LINES_MAX
            or not 0 <= rows[end].timestamp - first < BATCH_SPAN_MS_MAX
        ):
            yield rows[start:end]
            start = end


# ── Showing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shown(answer: Answer) -> Text:
    """Write an answer as one line for people. An agent's words cannot steer the terminal."""
    outcome = "RECOMMEND" if answer.recommended else answer.outcome
    line = Text(f"{answer.line:>7}  ").append(f"{outcome:<9}", _STYLES.get(outcome, "bold red"))
    if answer.outcome == DEAD:
        return line.append(escaped(f"  {answer.error}: {answer.why}"))
    line.append(escaped(f"  {answer.id}  {answer.type}"))
    reasons = _reasons.decode(answer.reasons) if isinstance(answer.reasons, Raw) else ()
    line.append(escaped("".join(f"  {reason_text(row)}" for row in reasons)), "dim")
    if answer.queues:
        line.append(f"  → {', '.join(answer.queues)}")
    return line


def reason_text(row: ReasonRow) -> str:
    """Write a reason short: the rule and what it compared."""
    limit = f" (limit {row.limit})" if row.limit is not None else ""
    return f"{row.rule} {row.saw}{limit}{'' if row.counts else ' (observed)'}"


def _summarize(decider: Decider, loaded: LoadedPolicy, seconds: float) -> None:
    tallies = decider.tallies
    if not tallies.lines:
        err.print("no actions: every line was blank, or there was none", markup=False, soft_wrap=True)
        return
    outcomes = sorted({outcome for _, outcome in tallies.routed}, key=list(_STYLES).index)
    table = Table("class", *outcomes, box=None, pad_edge=False, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in sorted({name for name, _ in tallies.routed}):
        table.add_row(name, *(_count(tallies.routed[name, outcome]) for outcome in outcomes))
    totals = (sum(n for (_, o), n in tallies.routed.items() if o == outcome) for outcome in outcomes)
    table.add_row("all", *map(_count, totals), style="bold")
    err.print(table)
    if tallies.dead:
        err.print(f"no actions: {_counts(tallies.dead.most_common())}", markup=False, soft_wrap=True)
    if tallies.rules:
        more = len(tallies.rules) - REASONS_SHOWN
        shown = _counts(tallies.rules.most_common(REASONS_SHOWN))
        err.print(f"reasons: {shown}{f' and {more} more' if more > 0 else ''}", markup=False, soft_wrap=True)
    for advice in _advice(tallies):
        err.print(advice, markup=False, soft_wrap=True)
    rate = tallies.lines / seconds if seconds else 0.0
    policy = f"{escaped(loaded.policy.policy)} {loaded.digest[:12]}"
    err.print(
        f"{tallies.lines:,} lines in {seconds:.1f} s ({rate:,.0f} a second) under {policy}",
        markup=False,
        soft_wrap=True,
    )


def _advice(tallies: Tallies) -> Iterator[str]:
    if tallies.earlier:
        yield f"{tallies.earlier:,} lines are older than one above them; sort by proposed_at for exact windows"
    if tallies.rules["identity.tenant"]:
        yield "some actions name no tenant; give them one with --tenant"
    if tallies.rules["window.full"]:
        yield (
            "the window is full, as it would be on Kafka: too many ids within max_age (HITL_WINDOW_IDS_MAX gives room "
            f"for more), or over {ENTITIES_MAX:,} entities with running sums in a partition (--partitions spreads them)"
        )
    if tallies.rules["admission.late"]:
        yield "some actions were late at their append time; without --now each counts as appended when proposed"


def _count(number: int) -> str:
    return f"{number:,}" if number else "·"


def _counts(found: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in found)
