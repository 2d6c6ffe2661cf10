"""`hitl demo`: a broker, the roles, agents and people that never were, in one process tree; watched, drained, counted.

In this order, and taken down in the reverse:
1. a directory of its own for state, keys and logs, and a guard that removes it should this process be killed;
2. a broker (or somebody's Kafka, under a prefix that goes afterwards), topics, keys, the first record of control;
3. router, desk, executor, control and, where its extra is installed, the console, a child process each, so that one can
   be killed alone; an account at the console and a link to it; `demo.json`, so that `hitl` in a second terminal finds
   all this; then the monitor, for which nobody waits: it reads what it has missed;
4. a reader of every topic, then robots for the people, and the agents, until their time is up or a signal comes;
5. silence: the robots go home, every action has its answer and every verdict too, or `DRAIN_SECONDS_MAX` are over. What
   people have not decided stays open, and is said;
6. monitor, console, desk, router, executor and control stop, and what the topics hold is verified.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from msgspec import structs

from hitl_stream.client import Publisher
from hitl_stream.core.errors import BrokenError, UnreachableError, UsageError
from hitl_stream.core.ledger import Report as Ledger
from hitl_stream.core.policy.compile import compile_policy
from hitl_stream.core.policy.model import Policy
from hitl_stream.dev.broker import BrokerChoice, Kind, _start_guard, find, free_ports, ready
from hitl_stream.dev.guest import INSTALL, Guest, console_port, invite
from hitl_stream.dev.guest import missing as missing_for_console
from hitl_stream.dev.pairs import publish_pairs
from hitl_stream.dev.people_tally import WORDS
from hitl_stream.dev.platform import Platform
from hitl_stream.dev.reviewers import Reviewers, Temper, crew
from hitl_stream.dev.screen import Place, View, Watcher
from hitl_stream.dev.simulator import Scenario, Simulation, Summary, drive
from hitl_stream.dev.site import begin_trust
from hitl_stream.dev.stops import Stops, following
from hitl_stream.dev.tally import Tally
from hitl_stream.lane import admin
from hitl_stream.lane.instances import seals_at
from hitl_stream.lane.verify import Verifying, verify
from hitl_stream.wire import seal
from hitl_stream.wire.policy_file import LoadedPolicy, parse
from hitl_stream.wire.signing import read_signing_keys
from hitl_stream.wire.topics import (
    CONTROL_TOPICS,
    DESK_TOPICS,
    EXECUTOR_TOPICS,
    MONITOR_TOPICS,
    ROUTER_TOPICS,
    TopicSet,
)
from hitl_stream.wire.watched import PSEUDONYM, pseudonym

PARTITIONS = 4
SECOND = "ben"
"""Who confirms what `ana` asks for, such as a release."""
ADAPTER = {"adapter": "hitl_stream.dev.platform:agreeing_adapter"}
CONSOLE_KEY = "console-1"
TOPICS = tuple(dict.fromkeys((*ROUTER_TOPICS, *CONTROL_TOPICS, *EXECUTOR_TOPICS, *DESK_TOPICS, *MONITOR_TOPICS)))
PEOPLE_TOPICS = ("reviews", "verdicts", "decisions", "observations", "alerts")
COUNTED = (*(name for name in ROUTER_TOPICS if name != "facts"), "results", *PEOPLE_TOPICS)
"""The topics whose records are counted: actions in, answers out, what became of calls, and what people did."""
LEFT = 0.5
"""The share of the items and of the releases of batches that robots leave to whoever watches."""
CAREFUL = 20
"""Careful robots in each role: who reads takes seconds, and whoever were faster would not have read."""
CANARY_AGE_S = 5.0
"""What people approved may become a canary after so long, not after a day: nobody would see one."""
MONITOR = "monitor"
METRICS_PORT = 9464
"""The usual one if it is free: Prometheus as we configure it looks there."""
KINDS: tuple[Kind, ...] = ("noida", "jar")
"""The one that starts in a tenth of a second first."""
KAFKA_SECONDS_MAX = 10.0
"""A cluster that runs answers in one; ours are given longer, since they start."""
LOOK_SECONDS = 0.1
READY_SECONDS_MAX = 60.0
"""Python starts, joins the group and opens its partitions in two, on two idle cores; some machines are busy."""
DRAIN_SECONDS_MAX = 30.0
HOME_SECONDS_MAX = 5.0
"""Robots that cannot say what they wanted to say are left behind."""
HEARD_SECONDS_MAX = 5.0
"""Verdicts are answered in well under one; nobody waits longer for those of people who have gone home."""
STOP_SECONDS_MAX = 30.0
POLL_MS = 50
LOG_LINES_SHOWN = 12
CONSERVED = "ok"
NOTHING: Mapping[str, str] = MappingProxyType({})
CANARIES: Mapping[str, str] = MappingProxyType({"HITL_CANARY_AGE_S": f"{CANARY_AGE_S:g}"})
POLICY = resources.files("hitl_stream.dev") / "policies" / "demo.yaml"

# aiokafka has no types; as Any its calls pass under strict.
_Consumer: Any = AIOKafkaConsumer
_Admin: Any = AIOKafkaAdminClient


@dataclass(frozen=True)
class Plan:
    """What to run. `kafka` names a cluster of somebody else's; `state_dir` is where a second terminal looks.

    `prefix` and `groups`, by role, are those that router, desk and executor will use: ones that nobody else has, where
    the cluster is not ours. `reviewers` are the tempers of the robots who decide; with none of them everything waits.
    """

    seconds: float
    rate: float
    scenario: Scenario
    seed: int
    state_dir: Path
    prefix: str
    groups: Mapping[str, str]
    kafka: str | None = None
    kind: Kind | None = None
    reviewers: tuple[Temper, ...] = ("careful", "lazy")
    policy: LoadedPolicy | None = None
    """Of one's own; None: the demo's."""


@dataclass(frozen=True)
class Report:
    """What was seen, and whether every action has exactly one answer."""

    tally: Tally
    sent: int
    seconds: float
    broker: str
    conservation: str
    pending: int = 0
    """Actions that wait still, for people mostly."""
    checked: tuple[str, ...] = ()
    """The invariants that were looked at."""

    @property
    def rate(self) -> float:
        """Return actions published a second."""
        return self.sent / self.seconds if self.seconds else 0.0

    def data(self) -> dict[str, Any]:
        """Return the report as plain data, for `--json`."""
        tally = self.tally
        outcomes = tally.of_outcome()
        return {
            "seconds": round(self.seconds, 3),
            "broker": self.broker,
            "rate": round(self.rate, 1),
            "actions": tally.arrived,
            "answered": tally.answered,
            "outcomes": {name: n for name, n in outcomes.items() if name != "RECOMMEND"},
            "classes": {name: counts for name, counts in tally.of_class().items() if counts},
            "recommended": outcomes["RECOMMEND"],
            "closed": dict(tally.closed),
            "dead": dict(tally.dead),
            "moved": tally.moved,
            "audit": tally.audit,
            "exceptions": tally.exceptions,
            "executed": tally.results["executed"],
            "people": self._people(),
            "latency": {"p50_ms": tally.latency.quantile(0.50), "p99_ms": tally.latency.quantile(0.99)},
            "pending": self.pending,
            "checked": list(self.checked),
            "conservation": self.conservation,
        }

    def _people(self) -> dict[str, Any]:
        people = self.tally.people
        return {
            "verdicts": {word: people.words[word] for word in WORDS},
            "effects": dict(people.effects),
            "refused": dict(people.refusals),
            "approved": people.approved,
            "executed": people.executed,
            "proposed": people.proposed,
            "open": {name: queue.items for name, queue in people.queues().items()},
            "in_batches": people.in_batches,
            "canaries": {"seen": people.canaries, "caught": people.caught},
            "alarms": [
                {
                    "person": people.names.get(person, person),
                    "queue": alarm.queue,
                    "row": alarm.row,
                    "level": alarm.level,
                    "page": alarm.page,
                }
                for (person, _), alarm in people.alarms.items()
            ],
            "reviewers": {
                name: {
                    "items": pace.items,
                    "dwell_s": round(pace.dwell_mean_s, 1),
                    "floor_s": round(pace.floor_mean_s, 1),
                    "canaries": pace.canaries,
                    "caught": pace.caught,
                }
                for name, pace in people.paces.items()
            },
        }


async def demo(plan: Plan, watcher: Watcher) -> Report:
    """Run it all, tell `watcher`, and return the report. SIGINT and SIGTERM end the run early; a second one, at once.

    Raises:
        UnreachableError: no broker can be had, or the given one is not there.
        BrokenError: the router did not start, or ended by itself; its log is kept and named.
    """
    with _directory() as home, _announcing(plan.state_dir) as announce:
        async with _broker(plan, watcher) as (kind, bootstrap):
            topics = TopicSet(plan.prefix, PARTITIONS)
            async with _topics(bootstrap, topics, keep=plan.kafka is None):
                return await _run(plan, watcher, home, kind, bootstrap, topics, announce)


async def _run(
    plan: Plan, watcher: Watcher, home: Path, kind: str, bootstrap: str, topics: TopicSet, announce: _Announcement
) -> Report:
    policy = plan.policy or parse(POLICY.read_text("utf-8"), "demo.yaml")
    settings = await _settings(home, bootstrap, topics, policy)
    tally = Tally(policy.policy.classes)
    metrics = _metrics_of(settings)
    place = Place(
        kind,
        bootstrap,
        topics.name("actions"),
        f"{metrics}/metrics",
        PARTITIONS,
        plan.scenario,
        plan.rate,
        plan.seconds,
        1.0 if plan.reviewers else 0.0,
    )
    client = {"bootstrap_servers": bootstrap}
    started = time.monotonic()
    ports = [{"metrics_port": port} for port in free_ports(5)]
    urls = [f"{url}/metrics" for url in (*map(_metrics_of, ports), metrics)]
    lacks = missing_for_console()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        ads = await enter(Platform(adopt=True))
        router = await enter(_child("router", settings, home))
        control = await enter(_child("control", settings | ports[0], home))
        options = {"HITL_ADAPTER_OPTIONS": orjson.dumps({"base_url": ads.url}).decode()}
        executor = await enter(_child("executor", settings | ports[1] | ADAPTER, home, options))
        desk = await enter(_child("desk", settings | ports[2], home))
        children = [desk, router, executor, control]
        asked = {router: metrics, desk: _metrics_of(ports[2])}
        if not lacks:
            scrape = {"HITL_CONSOLE_SCRAPE": ",".join(urls[:3] + urls[4:])}  # not itself
            children.insert(0, console := await enter(_child("console", settings | ports[3], home, scrape)))
            asked[console] = _metrics_of(ports[3])
        guest = None if lacks else await _guest(settings, policy.policy)  # while they start
        await publish_pairs(client, topics, plan.seed)
        await _ready(children, asked)
        children.insert(0, await enter(_child(MONITOR, settings | ports[4], home, CANARIES)))
        watcher.said(f"roles      ready after {time.monotonic() - started:.1f} s, {place.metrics}")
        announce.write(settings | {"console_scrape": urls})
        place = structs.replace(place, guest=guest)
        for text in _invitation(guest, lacks):
            watcher.said(text)
        stops = await enter(following(client, topics, settings["trust"]))
        reviewers = await _reviewers(plan, client, topics, Path(settings["keys_dir"]), policy.policy)
        tally.people.names = _names(Path(settings["keys_dir"]), reviewers, guest)
        with _stopping() as stop:
            async with _reading(bootstrap, topics, tally) as reader:
                sent = await _watch(plan, watcher, place, tally, reader, children, stops, stop, reviewers)
        for child in children:
            await _end(child)
    watcher.said("verifying  what the topics hold")
    found = await verify(_what(plan, client, topics, settings, policy))
    return Report(
        tally,
        sent.sent,
        sent.seconds,
        kind,
        _judged(found, tally),
        found.counts["pending"],
        tuple(row.invariant for row in found.rows),
    )


def _what(
    plan: Plan, client: dict[str, str], topics: TopicSet, settings: Mapping[str, Any], policy: LoadedPolicy
) -> Verifying:
    """Return what is verified at the end: everything that `hitl verify --deep` looks at."""
    keys = seals_at(Path(settings["keys_dir"]))
    return Verifying(
        client,
        topics,
        plan.groups["router"],
        (topics.name("actions"),),
        keys=keys.pop("router"),
        deep=True,
        window_ms=compile_policy(policy.policy, policy.digest, time.time_ns() // 1_000_000).reach.ids_ms,
        others=keys,
        executors=plan.groups["executor"],
        trust=settings["trust"],
        policy=policy.digest,
        rules=policy.policy,
        desks=plan.groups["desk"],
    )


async def _reviewers(
    plan: Plan, client: dict[str, str], topics: TopicSet, keys: Path, policy: Policy
) -> Reviewers | None:
    """Return the robots who stand for the people, if there shall be any."""
    if not plan.reviewers:
        return None
    key, audience = read_signing_keys(keys)[CONSOLE_KEY], await admin.cluster_id(client)
    robots = crew(policy, plan.reviewers, CAREFUL)
    return Reviewers(client, topics, key, audience, policy, robots, plan.seed, leaves=LEFT)


def _names(keys: Path, reviewers: Reviewers | None, guest: Guest | None) -> dict[str, str]:
    """Return the names of those whom the demo has put there, by the pseudonyms that the monitor gives them."""
    (key,) = seal.read_keys(keys, PSEUDONYM).values()
    names = [robot.name for robot in reviewers.robots] if reviewers is not None else []
    return {pseudonym(key, name): name for name in (*names, *([guest.name] if guest is not None else []))}


def _metrics_of(settings: Mapping[str, Any]) -> str:
    return f"http://127.0.0.1:{settings['metrics_port']}"


async def _guest(settings: Mapping[str, Any], policy: Policy) -> Guest:
    return await invite(settings["people"], policy, settings["console_port"], time.time_ns() // 1_000_000)


def _invitation(guest: Guest | None, lacks: str) -> list[str]:
    """Say how whoever watches gets to the console."""
    if guest is None:
        return [f"console    not here, {lacks} is missing; run: {INSTALL}"]
    return [
        f"console    {guest.link} (once, within ten minutes)",
        f"           later: {guest.url}, {guest.name}, password {guest.password}; or: hitl user link {guest.name}",
    ]


async def _watch(
    plan: Plan,
    watcher: Watcher,
    place: Place,
    tally: Tally,
    reader: _Reader,
    children: Sequence[_Child],
    stops: Stops,
    stop: asyncio.Event,
    reviewers: Reviewers | None,
) -> Summary:
    """Let the agents act and people decide, show it, then wait until everything is answered."""
    started = time.monotonic()
    tally.start(started)

    def show(phase: str) -> None:
        _still_there(children, reader)
        now, now_ms = time.monotonic(), time.time_ns() // 1_000_000
        watcher.shown(View(place, tally, tally.look(now), now - started, phase, stops.engaged, stops.silent, now_ms))

    agents = asyncio.ensure_future(_agents(plan, place))
    async with _at_work(reviewers) as people:
        try:
            while not agents.done() and not stop.is_set():
                show("running")
                if people is not None and people.done():
                    raise BrokenError(f"the robots who review ended by themselves: {people.exception()!r:.400}")
                await asyncio.wait((agents,), timeout=LOOK_SECONDS)
        finally:
            agents.cancel()
            with suppress(asyncio.CancelledError):
                sent = await agents
    ended = time.monotonic()

    def quiet() -> bool:
        heard = not tally.people.unheard or time.monotonic() > ended + HEARD_SECONDS_MAX
        return heard and not tally.waiting and not tally.running

    # The end first: what is read while it is asked for may be an action that still waits.
    while time.monotonic() < ended + DRAIN_SECONDS_MAX and not (await reader.at_the_end() and quiet()):
        show("draining")
        await asyncio.sleep(LOOK_SECONDS)
    return sent


@asynccontextmanager
async def _at_work(reviewers: Reviewers | None) -> AsyncIterator[asyncio.Task[None] | None]:
    """Let people decide until their work is over; what they have begun they leave, and nobody waits for them."""
    if reviewers is None:
        yield None
        return
    people = asyncio.ensure_future(reviewers.run())
    try:
        yield people
    finally:
        people.cancel()
        await asyncio.wait((people,), timeout=HOME_SECONDS_MAX)
        if people.done() and not people.cancelled():
            people.exception()  # what ended them was said, or comes too late to matter


async def _agents(plan: Plan, place: Place) -> Summary:
    async with Publisher(place.bootstrap, topic=place.actions) as publisher:
        now_ms = time.time_ns() // 1_000_000
        stream = Simulation(
            plan.seed, plan.scenario, plan.rate, now_ms, seconds=plan.seconds, partitions=publisher.partitions
        )
        latest: list[Summary] = []
        try:
            return await drive(stream, publisher, seed=plan.seed, on_progress=latest.append)
        except asyncio.CancelledError:
            return latest[-1] if latest else Summary(0, {}, 0.0, 0.0)


# --- 1. a directory, and word of it -----------------------------------------------------------------------------------


@contextmanager
def _directory() -> Iterator[Path]:
    """Give a directory that goes with the demo, however that ends; one that failed leaves its logs."""
    home = Path(tempfile.mkdtemp(prefix="hitl-demo-"))
    guard = _start_guard(str(home))
    failed = False
    try:
        yield home
    except BrokenError:
        failed = True
        raise
    finally:
        if guard.stdin is not None:
            with suppress(BrokenPipeError):
                guard.stdin.write(b"done\n")
                guard.stdin.close()
        guard.wait()
        if not failed:
            shutil.rmtree(home, ignore_errors=True)


class _Announcement:
    """`demo.json`: the process and its settings, as `settings` reads them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = False

    def write(self, settings: dict[str, Any]) -> None:
        """Write it in one step: a reader finds it whole or not at all."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.write_bytes(orjson.dumps({"pid": os.getpid(), "settings": settings}))
        part.replace(self.path)
        self.written = True

    def remove(self) -> None:
        """Take it back, if it is still ours."""
        if self.written and _pid_in(self.path) == os.getpid():
            self.path.unlink(missing_ok=True)


@contextmanager
def _announcing(state_dir: Path) -> Iterator[_Announcement]:
    path = state_dir / "demo.json"
    other = _pid_in(path)
    if other and _alive(other):
        raise UsageError(
            f"a demo runs already (process {other}, {path}); end it with Ctrl-C in its terminal, "
            "or give this one another HITL_STATE_DIR"
        )
    announcement = _Announcement(path)
    try:
        yield announcement
    finally:
        announcement.remove()


def _pid_in(path: Path) -> int:
    try:
        return int(orjson.loads(path.read_bytes())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError, OverflowError):
        return False
    return pid > 0


# --- 2. broker, topics, keys ------------------------------------------------------------------------------------------


@asynccontextmanager
async def _broker(plan: Plan, watcher: Watcher) -> AsyncIterator[tuple[str, str]]:
    if plan.kafka is not None:
        await ready(plan.kafka, seconds_max=KAFKA_SECONDS_MAX)
        watcher.said(f"broker     yours at {plan.kafka}, topics {plan.prefix}*")
        yield "external", plan.kafka
        return
    choice = _choose(plan.kind)
    broker, started = choice.broker(), time.monotonic()
    watcher.said(f"broker     {choice.kind}, starting …")
    async with broker:
        watcher.said(f"broker     {choice.kind} at {broker.bootstrap} after {time.monotonic() - started:.1f} s")
        yield choice.kind, broker.bootstrap


def _choose(wanted: Kind | None) -> BrokerChoice:
    reasons = []
    for kind in (wanted,) if wanted else KINDS:
        found = find(kind)
        if isinstance(found, BrokerChoice):
            return found
        reasons.append(found.reason)
    raise UnreachableError(
        f"no broker can be started here: {'; '.join(reasons)}. Install one, or name yours with --kafka HOST:PORT"
    )


@asynccontextmanager
async def _topics(bootstrap: str, topics: TopicSet, *, keep: bool) -> AsyncIterator[None]:
    """Make the topics; in somebody else's cluster, take them away afterwards."""
    client = {"bootstrap_servers": bootstrap}
    await admin.apply(client, topics, TOPICS)
    try:
        yield
    finally:
        if not keep:
            remover = _Admin(**client)
            try:
                await remover.start()
                await remover.delete_topics([topics.name(name) for name in TOPICS])
            finally:
                await remover.close()


async def _settings(home: Path, bootstrap: str, topics: TopicSet, policy: LoadedPolicy) -> dict[str, Any]:
    keys = home / "keys"
    seal.create_key(keys, "seal-router", "r1")
    seal.create_key(keys, "seal-executor", "e1")
    seal.create_key(keys, "seal-control", "c1")
    seal.create_key(keys, "seal-desk", "d1")
    seal.create_key(keys, "seal-console", "w1")
    seal.create_key(keys, "seal-monitor", "m1")
    seal.create_key(keys, PSEUDONYM, "p1")
    seal.create_key(keys, "sample", "s1")
    seal.create_key(keys, "pseudonym", "p1")
    copy = home / "demo.yaml"
    copy.write_text(policy.text, "utf-8")
    return {
        "kafka": bootstrap,
        "prefix": topics.prefix,
        "partitions": topics.partitions,
        "policy": str(copy),
        "state_dir": str(home / "state"),
        "keys_dir": str(keys),
        "trust": await _trust(bootstrap, topics, keys),
        "people": str(home / "state" / "people.db"),
        "metrics_port": _free(METRICS_PORT),
        "console_port": console_port(),
    }


async def _trust(bootstrap: str, topics: TopicSet, keys: Path) -> str:
    """Begin the control log. The second person's key lies apart, so that `hitl kill` has one to sign with."""
    trust = await begin_trust({"bootstrap_servers": bootstrap}, topics, keys)
    apart = keys / SECOND
    apart.mkdir(mode=0o700)
    (keys / f"{SECOND}-1.jwk").rename(apart / f"{SECOND}-1.jwk")
    return trust


def _free(port: int) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            return port
        except OSError:
            return free_ports(1)[0]


# --- 3. the roles -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Child:
    """A role in a process of its own, and where it logs."""

    role: str
    process: asyncio.subprocess.Process
    log: Path

    def failed(self, what: str) -> BrokenError:
        """Return the error that says so, with the end of the log."""
        return BrokenError(f"the {self.role} {what}\n{_log_end(self.log)}")


@asynccontextmanager
async def _child(
    role: str, settings: dict[str, Any], home: Path, more: Mapping[str, str] = NOTHING
) -> AsyncIterator[_Child]:
    """Run a role; `more` are settings that have no flag, as variables of its environment."""
    flags = [part for name, value in settings.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    # Nothing else may speak to it: neither HITL_ variables nor a hitl.toml where the demo was called.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HITL_")}
    environ |= more
    path = home / f"{role}.log"
    with path.open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hitl_stream", "run", role, *flags, "--log-format", "json"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=home,
            env=environ,
            start_new_session=True,  # Ctrl-C is for us: they stop when everything is answered
        )
    guard = _start_guard("")
    assert guard.stdin is not None
    guard.stdin.write(b"%d\n" % process.pid)
    guard.stdin.flush()
    try:
        yield _Child(role, process, path)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        guard.stdin.write(b"done\n")
        guard.stdin.close()
        guard.wait()


async def _ready(children: Sequence[_Child], asked: Mapping[_Child, str]) -> None:
    """Wait until those `asked`, by where they say so, are ready: not before control has given them a lease."""
    until = time.monotonic() + READY_SECONDS_MAX
    waiting = dict(asked)
    async with aiohttp.ClientSession() as session:
        while waiting and time.monotonic() < until:
            for child in children:
                if child.process.returncode is not None:
                    raise child.failed(f"did not start (exit {child.process.returncode})")
            for child, url in list(waiting.items()):
                with suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with session.get(f"{url}/readyz", timeout=aiohttp.ClientTimeout(total=1)) as answer:
                        if answer.status == 200:
                            del waiting[child]
            if waiting:
                await asyncio.sleep(LOOK_SECONDS)
    for child in waiting:
        raise child.failed(f"was not ready within {READY_SECONDS_MAX:g} s")


def _still_there(children: Sequence[_Child], reader: _Reader) -> None:
    for child in children:
        if child.process.returncode is not None:
            raise child.failed(f"ended by itself (exit {child.process.returncode})")
    if reader.task is not None and reader.task.done():
        reader.task.result()


async def _end(child: _Child) -> None:
    process = child.process
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS_MAX):
            code = await process.wait()
    except TimeoutError:
        process.kill()
        code = await process.wait()
    # For the monitor nobody waited: in a demo of seconds it may still be starting, and no signal handler is there yet.
    if code and not (child.role == MONITOR and code == -signal.SIGTERM):
        raise child.failed(f"ended with exit code {code}")


def _log_end(path: Path) -> str:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()[-LOG_LINES_SHOWN:]
    except OSError:
        lines = []
    return "\n".join([f"its log, {path}, ends:", *(f"  {line[:400]}" for line in lines or ["(empty)"])])


# --- 4. reading -------------------------------------------------------------------------------------------------------


class _Reader:
    """Feeds every committed record of the topics that are counted to the tally."""

    def __init__(self, consumer: Any, topics: TopicSet, tally: Tally) -> None:
        self.consumer = consumer
        self.tally = tally
        self.names = {topics.name(name): name for name in COUNTED}
        self.parts = [TopicPartition(topic, n) for topic in self.names for n in range(topics.partitions)]
        self.task: asyncio.Task[None] | None = None
        self._counting = asyncio.Lock()
        """Held from the fetch to the count: the consumer's position runs ahead of what was counted in between."""

    async def run(self) -> None:
        """Read for ever."""
        while True:
            async with self._counting:
                found = await self.consumer.getmany(timeout_ms=POLL_MS)
                now_ms = time.time_ns() // 1_000_000
                for tp, records in found.items():
                    self.tally.take(self.names[tp.topic], records, now_ms)

    async def at_the_end(self) -> bool:
        """Say whether everything was counted that was committed when this was asked."""
        ends = await self.consumer.end_offsets(self.parts)
        async with self._counting:
            return all([await self.consumer.position(tp) >= end for tp, end in ends.items()])


@asynccontextmanager
async def _reading(bootstrap: str, topics: TopicSet, tally: Tally) -> AsyncIterator[_Reader]:
    consumer = _Consumer(
        bootstrap_servers=bootstrap,
        group_id=None,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        fetch_max_wait_ms=POLL_MS,
    )
    await consumer.start()
    try:
        reader = _Reader(consumer, topics, tally)
        consumer.assign(reader.parts)
        await consumer.seek_to_beginning(*reader.parts)
        reader.task = asyncio.ensure_future(reader.run())
        try:
            yield reader
        finally:
            reader.task.cancel()
            with suppress(asyncio.CancelledError):
                await reader.task
    finally:
        await consumer.stop()


# --- 5. and 6. the end ------------------------------------------------------------------------------------------------


@contextmanager
def _stopping() -> Iterator[asyncio.Event]:
    """Give an event that the first signal sets; a second one cancels the task that asked."""
    loop, stop, asker = asyncio.get_running_loop(), asyncio.Event(), asyncio.current_task()

    def told() -> None:
        if stop.is_set() and asker is not None:
            asker.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, told)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _judged(found: Ledger, tally: Tally) -> str:
    """Say "ok", or what is wrong: with the topics, or between them and the screen."""
    wrong = [f"{one.invariant}: {one.what} ({', '.join(one.places)})" for one in found.violations[:3]]
    if pending := found.counts["pending.unanswered"]:
        wrong.append(f"{pending} actions have no answer")
    if found.conservation != CONSERVED:
        wrong.append(found.conservation)
    if found.counts["inputs"] != (seen := tally.arrived + tally.moved):
        wrong.append(f"{found.counts['inputs']} records are on the action topic, {seen} were seen here")
    if tally.waiting:
        wrong.append(f"{tally.waiting} answers were not seen here")
    return "; ".join(wrong) or CONSERVED
