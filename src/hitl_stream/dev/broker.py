"""A broker to test and try things against: Apache Kafka from its jars, noida-db, or one that already runs.

`find()` says which one this machine can have, or why it can have none; `choice.broker()` is it, stopped::

    choice = find()
    if isinstance(choice, BrokerChoice):
        with choice.broker() as broker:        # or: async with
            connect(broker.bootstrap)

| kind | what it is | missing when |
|---|---|---|
| external | the cluster that `HITL_KAFKA` names; it is used, never stopped | `HITL_KAFKA` is not set |
| jar | Apache Kafka, one node as broker and controller; the truth | no Java 17, or no jars: `fetch` gets them |
| noida | noida-db, a wheel; starts in a tenth of a second, one member a group | the extra `demo` is not installed |

Rules: loopback only. A broker has its own process group. It does not outlive the process that started it, however that
one ends: a guard (a shell on a pipe) kills the group and removes the data. Data live in a temporary directory
that goes with `stop()`, unless the caller gave a directory. Linux and macOS.

From a shell: `python -m hitl_stream.dev.broker fetch` and `… run [--kind jar|noida] [--port N]`.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, NoReturn, Protocol, Self, get_args
from xml.etree import ElementTree

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from hitl_stream.core.errors import BrokenError, HitlError, UnreachableError

Kind = Literal["external", "jar", "noida"]
Jvm = Literal["quick", "full"]
"""`quick` compiles little and starts in 3 s: tests. `full` takes 5 s and then runs as in production: benchmarks."""

HOST = "127.0.0.1"
PORTS = range(20_000, 30_000)
"""Below the range that Linux and macOS take outgoing connections from: a port stays free while its broker is down."""
PORT_TRIES_MAX = 200
START_TRIES_MAX = 3
"""A port found free can be gone when the broker binds it, some seconds later."""
READY_SECONDS_MAX = 60.0
"""A start takes 4 s on two idle cores."""
READY_POLL_SECONDS = 0.05
STOP_SECONDS_MAX = 10.0
FORMAT_SECONDS_MAX = 60.0
FETCH_SECONDS_MAX = 600.0
LOG_LINES_SHOWN = 20
LOG_BYTES_SHOWN = 16 * 1024
JAVA_VERSION_MIN = 17
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""The largest topic limit is 6 MiB (`dlq`); a broker must take what a topic allows."""

# aiokafka has no types; as Any its calls pass under strict.
_Admin: Any = AIOKafkaAdminClient
_Consumer: Any = AIOKafkaConsumer
_Producer: Any = AIOKafkaProducer

_GUARD = """
while read -r line; do [ "$line" = done ] && exit 0; group=$line; done
if [ -n "$group" ]; then
  kill -9 "-$group" 2>/dev/null
  for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "-$group" 2>/dev/null || break; sleep 0.1; done
fi
[ -z "$1" ] || rm -rf -- "$1"
"""
"""Told the process group to kill, line by line; acts when its input ends, which is when its parent is gone."""


# --- which broker -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Absent:
    """No broker can be had here; `reason` says why, kind by kind, and what would help."""

    reason: str


@dataclass(frozen=True)
class BrokerChoice:
    """A broker that can be had. `passed_over` says why each kind before it in the order cannot."""

    engine: External | Engine
    passed_over: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return self.engine.kind

    def broker(
        self,
        *,
        port: int = 0,
        directory: Path | None = None,
        jvm: Jvm = "quick",
        settings: Mapping[str, str] | None = None,
    ) -> Broker:
        """Return the broker, not yet started.

        `port` 0 takes any free one. Data stay in `directory` if one is given. `jvm` and `settings` (server properties
        that win over ours) concern the jars only.
        """
        if isinstance(self.engine, External):
            return ExternalBroker(self.engine.bootstrap)
        engine = self.engine
        if isinstance(engine, Jars):
            engine = replace(engine, jvm=jvm, settings=tuple((settings or {}).items()))
        return ProcessBroker(engine, port=port, directory=directory)


def find(kind: Kind | None = None, env: Mapping[str, str] = os.environ) -> BrokerChoice | Absent:
    """Return the first broker to be had in the order external, jar, noida; or only `kind` if that is given."""
    passed_over: list[str] = []
    for name in (kind,) if kind else get_args(Kind):
        found = _FINDERS[name](env)
        if not isinstance(found, Absent):
            return BrokerChoice(found, tuple(passed_over))
        passed_over.append(f"{name}: {found.reason}")
    return Absent("; ".join(passed_over))


def _find_external(env: Mapping[str, str]) -> External | Absent:
    bootstrap = env.get("HITL_KAFKA", "").strip()
    return External(bootstrap) if bootstrap else Absent("HITL_KAFKA is not set")


def _find_jars(env: Mapping[str, str]) -> Jars | Absent:
    java = _find_java(env)
    if isinstance(java, Absent):
        return java
    libs = kafka_home(env) / "libs"
    if not _holds_kafka(libs):
        return Absent(f"no Kafka jars in {libs}; `python -m hitl_stream.dev.broker fetch` gets them (needs Maven)")
    return Jars(java, libs)


def _find_java(env: Mapping[str, str]) -> Path | Absent:
    home = env.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else env.get("PATH", os.defpath))
    if found is None:
        return Absent(f"no java in {'JAVA_HOME' if home else 'PATH'}; expected a JDK {JAVA_VERSION_MIN} or newer")
    version = _java_version(found)
    if version < JAVA_VERSION_MIN:
        return Absent(f"{found} is Java {version or '(unknown)'}; expected {JAVA_VERSION_MIN} or newer")
    return Path(found)


def _find_noida(_env: Mapping[str, str]) -> Noida | Absent:
    spec = find_spec("noida_db")
    if spec is None or spec.origin is None:
        return Absent("the wheel noida-db is not installed; `pip install 'hitl-stream[demo]'`")
    binary = Path(spec.origin).with_name("noida-db")
    return Noida(binary) if binary.is_file() else Absent(f"{binary} is missing: a wheel without its binary")


_FINDERS: Mapping[Kind, Callable[[Mapping[str, str]], External | Engine | Absent]] = {
    "external": _find_external,
    "jar": _find_jars,
    "noida": _find_noida,
}


@cache
def _java_version(java: str) -> int:
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(match[1]) if match else 0


# --- engines: what to run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class External:
    """A cluster that someone else runs; `bootstrap` is a list of host:port, divided by commas."""

    bootstrap: str
    kind: ClassVar[Kind] = "external"


class Engine(Protocol):
    """How a broker process is started: `ports` of them are its own, the first one serves clients."""

    kind: ClassVar[Kind]
    ports: ClassVar[int]

    def prepare(self, home: Path, ports: Sequence[int]) -> None: ...

    def command(self, home: Path, ports: Sequence[int]) -> list[str]: ...


@dataclass(frozen=True)
class Noida:
    """noida-db: one native binary. Its process keeps everything in memory."""

    binary: Path
    kind: ClassVar[Kind] = "noida"
    ports: ClassVar[int] = 1

    def prepare(self, home: Path, ports: Sequence[int]) -> None:
        """Make the binary executable, as the wheel's own launcher does: wheels lose that bit."""
        if not os.access(self.binary, os.X_OK):
            self.binary.chmod(0o755)

    def command(self, home: Path, ports: Sequence[int]) -> list[str]:
        options = ["--data-dir", str(home / "data"), "--host", HOST, "--only", "kafka", "--kafka-port", str(ports[0])]
        return [str(self.binary), "start", *options]


@dataclass(frozen=True)
class Jars:
    """Apache Kafka: a JVM over the jars in `libs`."""

    java: Path
    libs: Path
    jvm: Jvm = "quick"
    settings: tuple[tuple[str, str], ...] = ()
    kind: ClassVar[Kind] = "jar"
    ports: ClassVar[int] = 2

    def prepare(self, home: Path, ports: Sequence[int]) -> None:
        """Write the properties; format the storage unless an earlier start did."""
        node = Node(1, *ports)
        properties = server_properties(node, (node,), home / "data") | dict(self.settings)
        (home / "server.properties").write_text(render(properties), encoding="ascii")
        if not (home / "data" / "meta.properties").exists():
            format_storage(self, home, new_cluster_id())

    def command(self, home: Path, ports: Sequence[int]) -> list[str]:
        return self.jvm_command("kafka.Kafka", str(home / "server.properties"))

    def jvm_command(self, main: str, *arguments: str) -> list[str]:
        return [str(self.java), *_JVM[self.jvm], *_JVM_LOG, "-cp", f"{self.libs}/*", main, *arguments]


_JVM_BASE = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:-UsePerfData", "-Djava.awt.headless=true")
_JVM: Mapping[Jvm, tuple[str, ...]] = {"quick": (*_JVM_BASE, "-XX:TieredStopAtLevel=1"), "full": _JVM_BASE}
_JVM_LOG = tuple(
    f"-Dorg.slf4j.simpleLogger.{name}"
    for name in (
        "showDateTime=true",
        "dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        "log.org.apache.kafka.common.config=warn",  # 300 lines of defaults at every start
    )
)


def format_storage(jars: Jars, home: Path, cluster_id: str) -> None:
    """Write a node's identity into its empty data directory; every node of a cluster gets the same `cluster_id`."""
    tool = replace(jars, jvm="quick").jvm_command("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}")
    command = [*tool, "-c", str(home / "server.properties")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FORMAT_SECONDS_MAX, check=False)
    if done.returncode:
        said = _last_lines(done.stderr)
        raise BrokenError(f"Kafka's storage in {home} was not formatted (exit {done.returncode}):\n{said}")


def new_cluster_id() -> str:
    """Return an id as Kafka wants it: 16 bytes in URL-safe base 64 without padding."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


@dataclass(frozen=True)
class Node:
    """One Kafka process, broker and controller in one."""

    id: int
    port: int
    controller_port: int


def server_properties(node: Node, cluster: Sequence[Node], data: Path) -> dict[str, str]:
    """Return the properties of `node` in a cluster of those nodes (itself among them): three of them replicate."""
    replicas = min(3, len(cluster))
    in_sync = max(1, replicas - 1)
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.id),
        "listeners": f"PLAINTEXT://{HOST}:{node.port},CONTROLLER://{HOST}:{node.controller_port}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{node.port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": ",".join(f"{n.id}@{HOST}:{n.controller_port}" for n in cluster),
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "unclean.leader.election.enable": "false",
        "message.max.bytes": str(MESSAGE_BYTES_MAX),
        "replica.fetch.max.bytes": str(MESSAGE_BYTES_MAX),
        # A group of one starts at once, and four partitions are loaded sooner than fifty.
        "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
        # After a SIGKILL the controller refuses the broker until its old session ends: 9 s by default, with 2 s a beat.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # What a client may ask for: ours ask for 10 s. The broker looks for expired ones every 10 s, as in production.
        "transaction.max.timeout.ms": "900000",
        # The default takes 128 MiB of a heap of 512.
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
    }


def render(properties: Mapping[str, str]) -> str:
    """Return the text of a Java properties file, ASCII with escapes, as `java.util.Properties` reads it."""
    return "".join(f"{name}={json.dumps(value)[1:-1]}\n" for name, value in properties.items())


# --- brokers: start, stop, break --------------------------------------------------------------------------------------


class Broker(ABC):
    """A broker under our hand. A `with` or `async with` block starts it and stops it."""

    kind: Kind

    @property
    @abstractmethod
    def bootstrap(self) -> str:
        """Where clients connect: "127.0.0.1:port"."""

    @property
    @abstractmethod
    def log_path(self) -> Path | None:
        """What the process writes; None for an external broker, which writes elsewhere."""

    @abstractmethod
    def start(self) -> None:
        """Return once clients, groups and transactions are served; raise `UnreachableError` with the log's end."""

    @abstractmethod
    def stop(self) -> None:
        """End the process and remove its temporary data; harmless when nothing runs."""

    @abstractmethod
    def kill(self) -> None:
        """SIGKILL: what a crash looks like. The data stay for `restart`."""

    @abstractmethod
    def pause(self) -> None:
        """SIGSTOP: what a stall looks like. Connections stay open and nothing answers."""

    @abstractmethod
    def resume(self) -> None:
        """SIGCONT after `pause`."""

    @abstractmethod
    def restart(self) -> None:
        """Start again on the same data and port, after `kill` or from running."""

    @abstractmethod
    def wait(self) -> int:
        """Block until the process ends; return its exit code."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:  # a thread cannot be cancelled: let it finish, then undo what it did
            await asyncio.gather(starting, return_exceptions=True)
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


class ExternalBroker(Broker):
    """A cluster of someone else: it can be waited for and used, and nothing more."""

    kind: Kind = "external"

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    @property
    def bootstrap(self) -> str:
        return self._bootstrap

    @property
    def log_path(self) -> None:
        return None

    def start(self) -> None:
        _run(ready(self._bootstrap))

    def stop(self) -> None:
        pass

    def kill(self) -> None:
        self._refuse("kill")

    def pause(self) -> None:
        self._refuse("pause")

    def resume(self) -> None:
        self._refuse("resume")

    def restart(self) -> None:
        self._refuse("restart")

    def wait(self) -> NoReturn:
        self._refuse("wait for the end of")

    def _refuse(self, verb: str) -> NoReturn:
        raise BrokenError(f"cannot {verb} the external broker at {self._bootstrap}: it is not ours; use the kind jar")


class ProcessBroker(Broker):
    """A broker in a child process."""

    def __init__(self, engine: Engine, *, port: int = 0, directory: Path | None = None) -> None:
        self.kind = engine.kind
        self._engine = engine
        self._port = port
        self._directory = directory
        self._home: Path | None = None
        self._ports: tuple[int, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        if not self._ports:
            raise BrokenError(f"the {self.kind} broker has no address before it is started")
        return f"{HOST}:{self._ports[0]}"

    @property
    def log_path(self) -> Path:
        return self._started_home() / "broker.log"

    @property
    def pid(self) -> int:
        """The process, which leads a group of its own."""
        return self._running().pid

    def start(self) -> None:
        if self._home is not None:
            raise BrokenError(f"the {self.kind} broker at {self.bootstrap} is already started; restart() or stop() it")
        try:
            self._open_home()
            self._start_on_free_ports()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._end(politely=self._directory is not None)
        self._dismiss_guard()
        if self._home is not None and self._directory is None:
            shutil.rmtree(self._home, ignore_errors=True)
        self._home = None
        atexit.unregister(self.stop)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._end(politely=False)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        self._started_home()
        self._end(politely=True)
        self._spawn()
        self._await_ready()

    def wait(self) -> int:
        return self._running().wait()

    def _open_home(self) -> None:
        if self._directory is None:
            self._home = Path(tempfile.mkdtemp(prefix="hitl-broker-"))
        else:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._home = self._directory
        atexit.register(self.stop)
        self._guard = _start_guard("" if self._directory else str(self._home))

    def _start_on_free_ports(self) -> None:
        for remaining in reversed(range(START_TRIES_MAX)):
            self._ports = free_ports(self._engine.ports, first=self._port)
            self._engine.prepare(self._started_home(), self._ports)
            self._spawn()
            try:
                return self._await_ready()
            except UnreachableError:
                if not (remaining and self._lost_a_port()):
                    raise
                self._end(politely=False)
        return None

    def _spawn(self) -> None:
        home = self._started_home()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._engine.command(home, self._ports),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=home,
                start_new_session=True,
            )
        self._tell_guard(str(self._process.pid))

    def _await_ready(self) -> None:
        process = self._running()
        try:
            _run(ready(self.bootstrap, alive=lambda: process.poll() is None))
        except UnreachableError as error:
            ended = f", exit {process.returncode}" if process.poll() is not None else ""
            raise UnreachableError(f"{error} (kind {self.kind}{ended}). Its log ends:\n{self._log_end()}") from error

    def _lost_a_port(self) -> bool:
        return self._running().poll() is not None and "address already in use" in self._log_end().lower()

    def _log_end(self) -> str:
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - LOG_BYTES_SHOWN))
            return _last_lines(log.read().decode(errors="replace"))

    def _end(self, *, politely: bool) -> None:
        """End the whole group. Politely it may close its files first; data that go anyway need no care."""
        process, self._process = self._process, None
        if process is None:
            return
        if politely and process.poll() is None:
            _signal_group(process.pid, signal.SIGTERM)
            _signal_group(process.pid, signal.SIGCONT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS_MAX)
        if process.poll() is None:
            _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        self._tell_guard("")

    def _signal(self, number: signal.Signals) -> None:
        process = self._running()
        if process.poll() is not None:
            raise BrokenError(
                f"the {self.kind} broker at {self.bootstrap} has already ended (exit {process.returncode}). "
                f"Its log ends:\n{self._log_end()}"
            )
        _signal_group(process.pid, number)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BrokenError(f"the {self.kind} broker is not running; start() or restart() it first")
        return self._process

    def _started_home(self) -> Path:
        if self._home is None:
            raise BrokenError(f"the {self.kind} broker is not started")
        return self._home

    def _tell_guard(self, line: str) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(BrokenPipeError):
                self._guard.stdin.write(f"{line}\n".encode())
                self._guard.stdin.flush()

    def _dismiss_guard(self) -> None:
        self._tell_guard("done")
        guard, self._guard = self._guard, None
        if guard is not None and guard.stdin is not None:
            with suppress(BrokenPipeError):
                guard.stdin.close()
            guard.wait()


def free_ports(count: int, *, first: int = 0) -> tuple[int, ...]:
    """Return `count` ports that were free on loopback just now; `first`, unless 0, is taken as it is."""
    chosen = [first] if first else []
    draw = random.SystemRandom()
    for _ in range(PORT_TRIES_MAX):
        if len(chosen) == count:
            return tuple(chosen)
        port = draw.choice(PORTS)
        if port not in chosen and _is_free(port):
            chosen.append(port)
    raise BrokenError(f"no {count} free ports on {HOST} among {PORT_TRIES_MAX} drawn from {PORTS}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _start_guard(directory: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, "hitl-broker-guard", directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _last_lines(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[-LOG_LINES_SHOWN:]) or "  (empty)"


def _run(work: Coroutine[None, None, None]) -> None:
    """Run to the end from a plain function, also one that a running event loop called."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


# --- readiness --------------------------------------------------------------------------------------------------------


async def ready(
    bootstrap: str,
    *,
    seconds_max: float = READY_SECONDS_MAX,
    alive: Callable[[], bool] = lambda: True,
) -> None:
    """Return once the broker gives a transactional producer its id and a group its offsets.

    Raises `UnreachableError` when that takes longer than `seconds_max` or `alive` turns false.
    """
    answers = asyncio.ensure_future(_answers(bootstrap))
    ended = asyncio.ensure_future(_ended(alive))
    try:
        await asyncio.wait((answers, ended), timeout=seconds_max, return_when=asyncio.FIRST_COMPLETED)
        if answers.done():
            return answers.result()
        why = "the process ended" if ended.done() else f"no answer within {seconds_max:g} s"
        raise UnreachableError(f"the broker at {bootstrap} did not get ready: {why}")
    finally:
        answers.cancel()
        ended.cancel()
        await asyncio.gather(answers, ended, return_exceptions=True)


async def _ended(alive: Callable[[], bool]) -> None:
    while alive():  # noqa: ASYNC110  a process sets no event
        await asyncio.sleep(READY_POLL_SECONDS)


async def _answers(bootstrap: str) -> None:
    await _until_done(lambda: _listens(bootstrap))
    await _until_done(lambda: _coordinates_transactions(bootstrap))
    await _until_done(lambda: _knows_coordinator(bootstrap))
    await _until_done(lambda: _coordinates_groups(bootstrap))


async def _until_done(attempt: Callable[[], Coroutine[None, None, None]]) -> None:
    """Try again until it works; `ready` limits the time."""
    while True:
        try:
            return await attempt()
        except (KafkaError, OSError):
            await asyncio.sleep(READY_POLL_SECONDS)


async def _listens(bootstrap: str) -> None:
    """Connect once: a Kafka client would log every refusal."""
    host, _, port = bootstrap.split(",")[0].strip().rpartition(":")
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.close()
    await writer.wait_closed()


async def _coordinates_transactions(bootstrap: str) -> None:
    producer = _Producer(bootstrap_servers=bootstrap, transactional_id=f"hitl-ready-{uuid.uuid4().hex[:8]}")
    try:
        await producer.start()
    finally:
        await producer.stop()


async def _knows_coordinator(bootstrap: str) -> None:
    """Ask before a consumer does: that one would log every refusal."""
    admin = _Admin(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        await admin.find_coordinator("hitl-ready")
    finally:
        await admin.close()


async def _coordinates_groups(bootstrap: str) -> None:
    consumer = _Consumer(
        bootstrap_servers=bootstrap, group_id=f"hitl-ready-{uuid.uuid4().hex[:8]}", enable_auto_commit=False
    )
    try:
        await consumer.start()
        await consumer.committed(TopicPartition("__consumer_offsets", 0))
    finally:
        await consumer.stop()


# --- the jars ---------------------------------------------------------------------------------------------------------


@cache
def kafka_version() -> str:
    """Return the version of Kafka that the packaged `pom.xml` names; it stands nowhere else."""
    pom = ElementTree.fromstring((resources.files("hitl_stream.dev") / "kafka" / "pom.xml").read_text("utf-8"))
    version = pom.findtext("properties/kafka.version")
    if not version:
        raise BrokenError("dev/kafka/pom.xml names no kafka.version under properties")
    return version


def kafka_home(env: Mapping[str, str] = os.environ) -> Path:
    """Return the directory whose `libs` holds the jars; an unpacked Kafka distribution is one too."""
    given = env.get("HITL_KAFKA_HOME", "").strip()
    return Path(given or f"~/.cache/hitl-stream/kafka-{kafka_version()}").expanduser()


def fetch_jars(env: Mapping[str, str] = os.environ) -> Path:
    """Fetch Kafka's jars with Maven, unless they are there; return the directory that holds them.

    They arrive under another name and are renamed when complete, so `libs` is there whole or not at all.
    Raises `BrokenError` when Maven is missing or fails.
    """
    libs = kafka_home(env) / "libs"
    if _holds_kafka(libs):
        return libs
    maven = shutil.which("mvn", path=env.get("PATH", os.defpath))
    if maven is None:
        raise BrokenError("no mvn in PATH; install Maven, or point HITL_KAFKA_HOME at an unpacked Kafka distribution")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix=".fetch-") as directory:
        part = Path(directory) / "libs"
        _copy_dependencies(maven, part, env)
        with suppress(OSError):  # someone else was faster: theirs are as good
            part.rename(libs)
    if not _holds_kafka(libs):
        raise BrokenError(f"{libs} holds no Kafka although Maven succeeded; remove that directory and fetch again")
    return libs


def _copy_dependencies(maven: str, target: Path, env: Mapping[str, str]) -> None:
    with resources.as_file(resources.files("hitl_stream.dev") / "kafka" / "pom.xml") as pom:
        options = ["-q", "-B", "--strict-checksums", "-f", str(pom), f"-DoutputDirectory={target}"]
        try:
            done = subprocess.run(
                [maven, *options, "dependency:copy-dependencies"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=dict(env),
                timeout=FETCH_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BrokenError(f"Maven did not fetch Kafka's jars within {FETCH_SECONDS_MAX:g} s") from error
    if done.returncode:
        raise BrokenError(f"Maven could not fetch Kafka's jars (exit {done.returncode}):\n{_last_lines(done.stdout)}")


def _holds_kafka(libs: Path) -> bool:
    return any(libs.glob("kafka_2.1?-*.jar"))


# --- from a shell -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hitl_stream.dev.broker", description="A broker to try things with."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("fetch", help="fetch Kafka's jars with Maven, unless they are there")
    run = verbs.add_parser("run", help="run one until Ctrl-C; the first line printed is its address")
    run.add_argument("--kind", choices=("jar", "noida"))
    run.add_argument("--port", type=int, default=0, help="0 takes any free one (the default)")
    given = parser.parse_args(arguments)
    try:
        return _fetch() if given.verb == "fetch" else _run_until_told(given.kind, given.port)
    except HitlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def _fetch() -> int:
    print(fetch_jars())
    return 0


def _run_until_told(kind: Kind | None, port: int) -> int:
    choice = find(kind, {name: value for name, value in os.environ.items() if name != "HITL_KAFKA"})
    if isinstance(choice, Absent):
        raise UnreachableError(f"no broker can be started here: {choice.reason}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), choice.broker(port=port, jvm="full") as broker:
        print(broker.bootstrap, flush=True)
        print(f"{broker.kind}, log {broker.log_path}, Ctrl-C stops it", file=sys.stderr)
        code = broker.wait()
        raise UnreachableError(f"the {broker.kind} broker at {broker.bootstrap} ended by itself (exit {code})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
