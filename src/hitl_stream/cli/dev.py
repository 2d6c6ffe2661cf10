"""`hitl simulate`, `hitl publish`, `hitl demo`, `hitl broker`: things to try and to measure with."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Literal, Self, TypeVar

import uvloop
from cyclopts import App
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from hitl_stream import logs
from hitl_stream import settings as values
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, err, out, say
from hitl_stream.client import Publisher
from hitl_stream.core.errors import UnreachableError, UsageError
from hitl_stream.dev.broker import Absent, fetch_jars, find
from hitl_stream.dev.demo import CONSERVED, Plan, Report, demo
from hitl_stream.dev.people_tally import WORDS, People
from hitl_stream.dev.publish import Published, publish_file
from hitl_stream.dev.reviewers import TEMPERS, Temper
from hitl_stream.dev.screen import InLines, OnTerminal, summary
from hitl_stream.dev.simulator import Scenario, Simulation, Source, Summary, drive, from_csv
from hitl_stream.logs import escaped
from hitl_stream.settings import Settings
from hitl_stream.wiring import DESK, EXECUTOR, ROUTER, group_of, load_policy, topic_set

T = TypeVar("T")
FOUND = 1
REFUSALS_SHOWN_MAX = 20
PLAIN_SECONDS = 5.0


def register(app: App) -> None:
    """Add the verbs."""
    for verb in (simulate, publish):
        app.command(verb)
    app.command(run_demo, name="demo")
    app.command(run_broker, name="broker")


# --- simulate ---------------------------------------------------------------------------------------------------------


def simulate(
    *,
    rate: float = 100.0,
    seconds: float = 60.0,
    scenario: Scenario = "normal",
    seed: int = 0,
    from_csv: Path | None = None,
    time_column: str = "timestamp",
    value_column: str = "value",
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Publish what simulated agents would propose.

    Parameters
    ----------
    rate
        Actions a second.
    seconds
        How long.
    scenario
        What happens: normal, demo (as normal, with more of what is rare), runaway-agent, flood, posts-week (batches of
        120 captions), first-lines (rounds of 500, of which 130 fail the gate of the demo's policy).
    seed
        The same seed gives the same actions.
    from_csv
        Replay a metric series instead: bids that follow it, `rate` rows a second.
    time_column
        Its column with the time.
    value_column
        Its column with the value.
    json
        One object on stdout: {sent, seconds, rate, by_kind, behind_ms_max}.
    """
    settings = flags.load()
    logs.configure("auto", "warning", stream=sys.stderr)
    done = _run(_simulate(settings, rate, seconds, scenario, seed, from_csv, time_column, value_column))
    if json:
        emit(
            {
                "sent": done.sent,
                "seconds": round(done.seconds, 3),
                "rate": round(done.rate, 1),
                "by_kind": dict(done.by_kind),
                "behind_ms_max": round(done.behind_ms_max, 1),
            }
        )
        return 0
    behind = f"at most {done.behind_ms_max:,.0f} ms behind"
    out.print(f"{done.sent:,} actions in {done.seconds:.1f} s, {done.rate:,.0f}/s, {behind}")
    for kind, n in sorted(done.by_kind.items(), key=lambda item: -item[1]):
        out.print(f"  {kind:<18} {n:>10,}")
    return 0


async def _simulate(
    settings: Settings,
    rate: float,
    seconds: float,
    scenario: Scenario,
    seed: int,
    csv: Path | None,
    time_column: str,
    value_column: str,
) -> Summary:
    async with _publisher(settings) as publisher:
        now_ms, partitions = time.time_ns() // 1_000_000, publisher.partitions
        source: Source
        if csv is None:
            source, total = Simulation(seed, scenario, rate, now_ms, seconds=seconds, partitions=partitions), seconds
        else:
            source = from_csv_file(csv, time_column, value_column, rate=rate, start_ms=now_ms, partitions=partitions)
            total = len(source) / rate
        with _Shown(total) as shown:
            return await drive(
                source,
                publisher,
                seed=seed,
                on_progress=lambda so_far: shown.show(so_far.seconds, so_far.sent, so_far.rate),
            )


from_csv_file = from_csv
"""The parameter of `simulate` has the name of the function."""


def _publisher(settings: Settings) -> Publisher:
    security = settings.kafka_security.options()
    return Publisher(
        settings.kafka, topic=topic_set(settings).name("actions"), tenant=settings.tenant, security=security
    )


class _Shown:
    """Progress on stderr: a bar with rate and remaining time on a terminal, elsewhere a line every few seconds."""

    def __init__(self, total: float | None) -> None:
        columns = (
            TextColumn("{task.fields[sent]:,} sent  {task.fields[rate]:,.0f}/s"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=err, transient=True) if err.is_terminal else None
        self._task = self._bar.add_task("", total=total, sent=0, rate=0.0) if self._bar else None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float, sent: int, rate: float) -> None:
        """Say how far it is, in the unit of the total, and how much was sent."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, sent=sent, rate=rate)
        elif time.monotonic() - self._last >= PLAIN_SECONDS:
            self._last = time.monotonic()
            say(f"{sent:,} sent  {rate:,.0f}/s")


# --- publish ----------------------------------------------------------------------------------------------------------


def publish(
    file: Path,
    *,
    strict: bool = False,
    rate: float | None = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Publish a file of actions, one JSON object a line, each to its home. Exit 1 if any line was refused.

    Parameters
    ----------
    file
        The file; the bytes of a line are sent as they are.
    strict
        Read the whole file first, and send nothing if any line is bad.
    rate
        At most so many a second.
    json
        One object on stdout: {lines, sent, refused, seconds, rate, refusals: [{line, reason}]}.
    """
    settings = flags.load()
    logs.configure("auto", "warning", stream=sys.stderr)
    done = _run(_publish(settings, file, strict, rate))
    if json:
        refusals = [{"line": refusal.line, "reason": refusal.reason} for refusal in done.refusals]
        counts = {"lines": done.lines, "sent": done.sent, "refused": done.refused}
        emit({**counts, "seconds": round(done.seconds, 3), "rate": round(done.rate, 1), "refusals": refusals})
    else:
        for refusal in done.refusals[:REFUSALS_SHOWN_MAX]:
            say(escaped(f"{file}: {refusal}"))
        if done.refused > REFUSALS_SHOWN_MAX:
            say(f"… and {done.refused - REFUSALS_SHOWN_MAX:,} more")
        refused = f", {done.refused:,} refused" if done.refused else ""
        out.print(f"{done.sent:,} sent{refused}, in {done.seconds:.1f} s, {done.rate:,.0f}/s", highlight=False)
    return FOUND if done.refused else 0


async def _publish(settings: Settings, file: Path, strict: bool, rate: float | None) -> Published:
    lines = await asyncio.to_thread(_lines_in, file)
    async with _publisher(settings) as publisher:
        with _Shown(lines) as shown:
            return await publish_file(
                file,
                publisher,
                strict=strict,
                rate=rate,
                on_progress=lambda so_far: shown.show(so_far.lines, so_far.sent, so_far.rate),
            )


def _lines_in(file: Path) -> int:
    """Count the lines with something on them, before anybody is asked to connect."""
    try:
        with file.open("rb") as lines:
            return sum(bool(line.strip()) for line in lines)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); give a file with an action a line") from None


# --- demo -------------------------------------------------------------------------------------------------------------


def run_demo(
    *,
    seconds: float = 60.0,
    rate: float = 300.0,
    scenario: Scenario = "demo",
    seed: int = 0,
    kafka: str | None = None,
    broker: Literal["noida", "jar"] | None = None,
    reviewers: str = "careful,lazy",
    policy: Path | None = None,
    json: Json = False,
) -> int:
    """Run everything on this machine, with nothing to install: a broker, every role, simulated agents and people.

    Exit 0 only if every action got exactly one answer; what people have not decided by then waits, and is said. Ctrl-C
    ends it early.

    Parameters
    ----------
    seconds
        How long the agents act.
    rate
        Actions a second.
    scenario
        What they do: demo (a bit of everything), normal, runaway-agent, flood, posts-week (batches of 120 captions; a
        rate of 10 is one in 12 s), first-lines (rounds of 500, of which 130 ask people).
    seed
        The same seed gives the same actions.
    kafka
        Use this Kafka, HOST:PORT, under a prefix that is removed afterwards.
    broker
        Which broker to start: noida (the default where installed) or jar (Apache Kafka).
    reviewers
        Who decides what waits for people: robots that are careful (they read, and say no to what is too much), lazy
        (they approve within two seconds), both, or none.
    policy
        One of your own in the place of the demo's; what no class of it names goes to people, as everywhere.
    json
        One object on stdout at the end.
    """
    tempers = _tempers(reviewers)
    own = None if policy is None else load_policy(values.load(policy=policy))
    # On somebody's cluster it takes topics that nobody else has. With `kafka` given, a running demo is not looked for.
    prefix = "hitl." if kafka is None else f"hitl-demo-{os.getpid()}."
    settings = values.load(kafka=kafka or "127.0.0.1:9092", prefix=prefix)
    groups = {role: group_of(settings, role) for role in (ROUTER, DESK, EXECUTOR)}
    plan = Plan(seconds, rate, scenario, seed, settings.state_dir, prefix, groups, kafka, broker, tempers, own)
    logs.configure("auto", "error", stream=sys.stderr)
    with OnTerminal(err) if err.is_terminal else InLines(err) as watcher:
        report = _run(demo(plan, watcher))
    if json:
        emit(report.data())
    else:
        out.print(summary("hitl demo: what the topics hold", report.tally, _said(report)))
    return 0 if report.conservation == CONSERVED else FOUND


def _tempers(text: str) -> tuple[Temper, ...]:
    """Return the tempers that a list names, each once; `none` names nobody."""
    if text == "none":
        return ()
    names = text.split(",")
    unknown = [name for name in names if name not in TEMPERS]
    if unknown:
        raise UsageError(f"--reviewers {text}: there is no {unknown[0]!r}; give {', '.join(TEMPERS)}, both, or none")
    return tuple(temper for temper in TEMPERS if temper in names)


def _said(report: Report) -> dict[str, str]:
    tally, latency = report.tally, report.tally.latency
    ok = report.conservation == CONSERVED
    dead = ", ".join(f"{error} {n:,}" for error, n in sorted(tally.dead.items()))
    closed = ", ".join(f"{why} {n:,}" for why, n in tally.closed.most_common())
    rows = {
        "in": f"{tally.arrived:,} actions in {report.seconds:.1f} s, {report.rate:,.0f}/s, on broker {report.broker}",
        "answered": f"{tally.answered:,}, of them unreadable {tally.dead.total():,}" + (f" ({dead})" if dead else ""),
        "refused": closed,
        "sent home": f"{tally.moved:,} that came to another partition",
        "audit": f"{tally.audit:,} copies for a person to judge blind",
        **of_people(tally.people),
        "answer time": f"p50 {latency.quantile(0.5)} ms, p99 {latency.quantile(0.99)} ms, proposed to seen committed",
        "conservation": f"ok: {_answers(report)}" if ok else f"NOT OK: {report.conservation}",
    }
    return {name: text for name, text in rows.items() if text}


def _answers(report: Report) -> str:
    return f"every action has exactly one answer; checked {', '.join(report.checked)}; {report.pending:,} wait"


def of_people(people: People) -> dict[str, str]:
    """Say what people did, and what they left."""
    words = ", ".join(f"{word} {people.words[word]:,}" for word in WORDS if people.words[word])
    beside = [f"{effect} {n:,}" for effect in ("conflict", "late") if (n := people.effects[effect])]
    beside += [f"refused as {why} {n:,}" for why, n in people.refusals.most_common()]
    queues = ", ".join(f"{name} {queue.items:,}" for name, queue in people.queues().items())
    batches = f"; {people.in_batches:,} more wait for the rest of their batch" if people.in_batches else ""
    paces = (f"{name} {pace.items:,} ({pace.dwell_mean_s:.1f} s)" for name, pace in people.paces.items())
    besides = f" ({', '.join(beside)})" if beside else ""
    return {
        "people": f"{words or 'nobody decided anything'}{besides}",
        "approvals": f"{people.executed:,} of {people.approved:,} executed" if people.approved else "",
        "looked": escaped(", ".join(paces)),
        "canaries": f"{people.caught:,} of {people.canaries:,} planted errors were caught" if people.canaries else "",
        "alarms": escaped(", ".join(f"{name} rubber-stamps in {one.queue}" for name, one in people.stamps().items())),
        "still open": f"{people.open:,}{f' ({queues})' if queues else ''}{batches}",
    }


# --- broker -----------------------------------------------------------------------------------------------------------


def run_broker(*, kind: Literal["jar", "noida"] | None = None, port: int = 0, fetch: bool = False) -> int:
    """Run a broker in the foreground until Ctrl-C; the first line on stdout is its address.

    Parameters
    ----------
    kind
        jar (Apache Kafka, needs Java and its jars) or noida; not given: the first that can be had.
    port
        Its port; 0: any free one.
    fetch
        Fetch Kafka's jars with Maven first, unless they are there.
    """
    if fetch:
        say(f"jars in {fetch_jars()}")
    choice = find(kind, {name: value for name, value in os.environ.items() if name != "HITL_KAFKA"})
    if isinstance(choice, Absent):
        raise UnreachableError(f"no broker can be started here: {choice.reason}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), choice.broker(port=port, jvm="full") as broker:
        say(f"{broker.kind}, log {broker.log_path}; Ctrl-C stops it")
        say(f"In another terminal: export HITL_KAFKA={broker.bootstrap}")
        print(broker.bootstrap, flush=True)  # last: who waits for this line may signal at once
        code = broker.wait()
        raise UnreachableError(f"the {broker.kind} broker at {broker.bootstrap} ended by itself (exit {code})")
    return 0


def _run(work: Coroutine[None, None, T]) -> T:
    """Run to the end; Ctrl-C cancels, and what was under way is cleaned up first."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return runner.run(work)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
