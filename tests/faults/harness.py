"""A bench for faults: a real Kafka, control, routers, a load that shows what goes wrong, faults by a seed, a reader.

The reader here is written for its purpose and shares nothing with `hitl verify` but the bytes: both must agree.
What the load makes visible:
- each action carries a sequence number of its campaign, so that one that overtook another shows;
- 10 % are sent again later, byte for byte: to their home, to another partition, or with a null key;
- 1 % are sent again with the same id and other bytes;
- 5 % (each with an account of its own) are sent to a wrong partition in the first place.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

import orjson
from aiokafka import AIOKafkaProducer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from hitl_stream import wiring
from hitl_stream.dev.broker import free_ports
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply
from hitl_stream.lane.instances import seals_at
from hitl_stream.lane.stable_offsets import stable_offsets
from hitl_stream.lane.verify import Verifying, verify
from hitl_stream.settings import Settings, load
from hitl_stream.wire.home import home
from hitl_stream.wire.topics import CONTROL_TOPICS, ROUTER_TOPICS
from support.kafka import consuming

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results" / "faults.md"
TENANT = "acme"
ACCOUNTS = 40
CAMPAIGNS = 3
PARTITIONS = 6
TICK_S = 0.02
DONE_S_MAX = 120.0
"""How long the routers may take to catch up once the faults have ended; a stalled partition fails by name."""
OPEN_S_MAX = 60.0
STABLE_S = 30.0
GET_S_MAX = 5.0
DECISIONS = ("execute", "review", "escalation", "recommendations", "held")


# --- doses ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dose:
    """How much of what. `pauses` last `pause_s[0]` to `pause_s[1]` seconds, kills and pauses come `gap_s` apart."""

    actions: int
    rate: int
    kills: int = 0
    pauses: int = 0
    pause_s: tuple[float, float] = (0.5, 14.0)
    gap_s: tuple[float, float] = (1.0, 5.0)
    repeats: float = 0.10
    changed: float = 0.01
    strays: float = 0.05
    reviewed: float = 0.05
    routers: int = 3
    repeat_s: tuple[float, float] = (0.05, 4.0)


# --- the installation -------------------------------------------------------------------------------------------------


class Site:
    """Topics, keys and policy of one run, its control role, and its router processes by slot.

    Faults hit routers; what hits control is asked for by name.
    """

    def __init__(self, bootstrap: str, directory: Path, partitions: int = PARTITIONS, **environment: str) -> None:
        self.directory = directory
        self.environment = environment
        self.settings: Settings = load(
            kafka=bootstrap,
            prefix=f"f{os.urandom(3).hex()}.",
            partitions=partitions,
            state_dir=directory,
            policy=HERE / "policy.yaml",
            metrics_port=0,
            log_format="json",
        )
        self.topics = wiring.topic_set(self.settings)
        self.group = wiring.group_of(self.settings, wiring.ROUTER)
        self.routers: dict[int, Router] = {}
        self.ended: list[Router] = []
        self.controls: list[Process] = []
        wiring.make_router_keys(self.settings)

    @property
    def bootstrap(self) -> str:
        return self.settings.kafka

    @property
    def client(self) -> dict[str, Any]:
        return {"bootstrap_servers": self.bootstrap}

    def name(self, topic: str) -> str:
        return self.topics.name(topic)

    def inputs(self) -> list[TopicPartition]:
        return [TopicPartition(self.name("actions"), n) for n in range(self.settings.partitions)]

    async def begin(self) -> None:
        """Make the topics and the first record of control, and start a control role."""
        await apply(self.client, self.topics, (*ROUTER_TOPICS, *CONTROL_TOPICS))
        self.settings = self.settings.model_copy(update={"trust": await make_control_keys(self.settings)})
        self.control()

    def control(self, slot: int = 0) -> Process:
        """Start the control role of a slot and return at once."""
        launch = HERE / "launch.py" if self.environment else None
        process = Process(self, wiring.CONTROL, slot, len(self.controls), launch)
        self.controls.append(process)
        return process

    def start(self, slot: int) -> Router:
        """Start the router of a slot and return at once."""
        before = self.routers.get(slot)
        if before is not None:
            self.ended.append(before)
        self.routers[slot] = router = Router(self, slot, len(self.ended))
        return router

    def all(self) -> list[Router]:
        """Return every process there was, in the order of their starts."""
        return [*self.ended, *self.routers.values()]

    def stop(self) -> None:
        for process in (*self.routers.values(), *self.controls):
            process.end()

    async def opened(self, *slots: int) -> None:
        """Wait until every partition is open, at these routers together."""
        deadline = time.monotonic() + OPEN_S_MAX
        while True:
            routers = [self.routers[slot] for slot in slots or self.routers]
            if sum(len(router.open_now()) for router in routers) >= self.settings.partitions:
                return
            ended = [router for router in routers if router.process.poll() is not None]
            if ended or time.monotonic() > deadline:
                why = "a router ended" if ended else f"not every partition is open after {OPEN_S_MAX:g} s"
                raise AssertionError(f"{why}\n" + "\n".join(router.tail() for router in routers))
            await asyncio.sleep(0.05)


class Process:
    """One process of `hitl run`, or of `launch`, a script in its place."""

    def __init__(
        self, site: Site, role: str, slot: int, number: int, launch: Path | None = None, **environment_: str
    ) -> None:
        self.slot = slot
        self.log = site.directory / f"{role}-{slot}-{number}.log"
        (self.port,) = free_ports(1)
        settings = site.settings
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HITL_")} | {
            "HITL_KAFKA": settings.kafka,
            "HITL_PREFIX": settings.prefix,
            "HITL_PARTITIONS": str(settings.partitions),
            "HITL_STATE_DIR": str(settings.state_dir),
            "HITL_TRUST": settings.trust,
            "HITL_POLICY": str(settings.policy),
            "HITL_METRICS_PORT": str(self.port),
            "HITL_LOG_FORMAT": "json",
            "HITL_SLOT": str(slot),
            **(site.environment if launch else {}),
            **environment_,
        }
        command = [str(launch), role] if launch else ["-m", "hitl_stream", "run", role]
        self.started = time.time()
        self.killed = False
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=site.directory,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL."""
        self.killed = True
        self._signal(signal.SIGKILL)
        self.process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM; return the exit code."""
        self.resume()
        self._signal(signal.SIGTERM)
        return self.process.wait(40)

    def end(self) -> None:
        """End it, whatever its state."""
        if self.process.poll() is None:
            self.kill()

    def asleep(self) -> bool:
        """Say whether it is stopped by a signal."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    async def get(self, path: str) -> tuple[int, str]:
        """Ask its port; return status and body, (0, "") while nobody listens there."""
        return await asyncio.to_thread(_get, f"http://127.0.0.1:{self.port}{path}")

    async def metric(self, name: str, label: str) -> dict[str, float]:
        """Return a metric by the values of one of its labels; others are added up."""
        found: Counter[str] = Counter()
        _, text = await self.get("/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name:
                    found[sample.labels[label]] += sample.value  # type: ignore[assignment]
        return dict(found)

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield the log's lines; what is not JSON comes as `{"raw": line}`."""
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                yield {"raw": line}

    def said(self, *texts: str) -> Iterator[dict[str, Any]]:
        for event in self.events():
            if event.get("event") in texts:
                yield event

    def trouble(self) -> list[str]:
        """Return what a healthy process does not say: crashes, tracebacks."""
        return [
            f"{self.log.name}: {json.dumps(event)[:2_000]}"
            for event in self.events()
            if event.get("level") == "critical"
            or "Traceback" in event.get("raw", "")
            or event.get("event") == "Crashed"
        ]

    def tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        code = self.process.poll()
        return "\n".join([f"{self.log.name} (exit {code}):", *(f"  {line[:400]}" for line in lines)])


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=GET_S_MAX) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


class Router(Process):
    """One process of `hitl run router`, or of the launcher that plants a bug in it."""

    def __init__(self, site: Site, slot: int, number: int) -> None:
        super().__init__(site, wiring.ROUTER, slot, number, HERE / "launch.py" if site.environment else None)

    async def joined(self) -> None:
        """Wait until the group has given it partitions for the first time."""
        deadline = time.monotonic() + OPEN_S_MAX
        while not any(event["partitions"] for event in self.said("partitions assigned")):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError(f"no partitions after {OPEN_S_MAX:g} s\n{self.tail()}")
            await asyncio.sleep(0.1)

    def open_now(self) -> set[int]:
        """Return the partitions that its log says are open since the last assignment."""
        found: set[int] = set()
        for event in self.said("partitions assigned", "partition open", "partition reopens"):
            match event["event"]:
                case "partitions assigned":
                    found.clear()
                case "partition open":
                    found.add(event["partition"])
                case _:
                    found.discard(event["partition"])
        return found

    def resumed_s(self) -> float | None:
        """Return how long from its start until every partition of its first assignment was open, if it was."""
        waiting: set[int] | None = None
        for event in self.said("partitions assigned", "partition open"):
            if event["event"] == "partitions assigned":
                if waiting is not None:
                    return None  # assigned anew before it was done
                waiting = set(event["partitions"])
            elif waiting is not None:
                waiting.discard(event["partition"])
                if not waiting:
                    return float(_seconds(event["at"]) - self.started)
        return None


def _seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


@asynccontextmanager
async def site(bootstrap: str, routers: int, **options: Any) -> AsyncIterator[Site]:
    """Make topics, start control and routers; end them whatever happens."""
    with tempfile.TemporaryDirectory(prefix="hitl-faults-") as directory:
        found = Site(bootstrap, Path(directory), **options)
        try:
            await found.begin()
            for slot in range(routers):
                found.start(slot)
            if routers:
                await found.opened()
            yield found
        finally:
            found.stop()


# --- processes that are killed and started again ----------------------------------------------------------------------


P = TypeVar("P", bound=Process)


@dataclass
class Fleet(ABC, Generic[P]):
    """The processes of one role by slot, under whatever `rng` does to them."""

    site: Site
    rng: random.Random
    living: dict[int, P] = field(default_factory=dict)
    ended: list[P] = field(default_factory=list)

    @abstractmethod
    def made(self, slot: int, number: int) -> P:
        """Start the process of a slot; `number` is that of its log."""

    def start(self, slot: int) -> None:
        """Start the process of a slot, in the place of the one before it."""
        if slot in self.living:
            self.ended.append(self.living[slot])
        self.living[slot] = self.made(slot, len(self.ended))

    def all(self) -> list[P]:
        """Return every process there was, in the order of their starts."""
        return [*self.ended, *self.living.values()]

    async def kill(self, kills_: int, gap_s: tuple[float, float]) -> None:
        """SIGKILL one every so often, and start it again at once."""
        for _ in range(kills_):
            await asyncio.sleep(self.rng.uniform(*gap_s))
            slot = self.rng.choice(sorted(self.living))
            self.living[slot].kill()
            await asyncio.sleep(self.rng.uniform(0.0, 0.3))
            self.start(slot)

    def expect_alive(self) -> None:
        """Fail, with its last words, if one has ended by itself."""
        dead = [one for one in self.living.values() if one.process.poll() is not None]
        assert not dead, "\n".join(one.tail() for one in dead)

    def trouble(self) -> list[str]:
        """Return what none of them should have said."""
        return [line for one in self.all() for line in one.trouble()]

    def stop(self) -> None:
        """End all of them."""
        for one in self.living.values():
            one.end()


# --- the load ---------------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """What was sent for one id: how often as it is, and how often with other bytes."""

    entity: str
    seq: int
    same: int = 1
    changed: int = 0


@dataclass
class Load:
    """Publishes actions at a rate, and remembers what it sent; everything is acknowledged before `run` returns."""

    site: Site
    dose: Dose
    seed: int
    sent: dict[str, Sent] = field(default_factory=dict)
    inputs: int = 0
    seconds: float = 0.0
    done: bool = False
    running: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.seqs: Counter[str] = Counter()
        self._due: list[tuple[float, int, str, bytes, bool]] = []

    async def run(self) -> None:
        partitions = self.site.settings.partitions
        producer = AIOKafkaProducer(
            bootstrap_servers=self.site.bootstrap, enable_idempotence=True, linger_ms=2, max_batch_size=256 * 1024
        )
        await producer.start()
        started = time.monotonic()
        acked: list[Any] = []
        try:
            while len(self.sent) < self.dose.actions or self._due:
                elapsed = time.monotonic() - started
                while len(self.sent) < min(self.dose.actions, int(elapsed * self.dose.rate) + 1):
                    acked.append(await self._new(producer, partitions, elapsed))
                while self._due and self._due[0][0] <= elapsed:
                    acked.append(await self._again(producer, partitions))
                if len(self.sent) >= self.dose.actions and self._due and self._due[0][0] > elapsed + TICK_S:
                    await asyncio.sleep(TICK_S)
                if len(acked) > 1_000:
                    await asyncio.gather(*acked)
                    acked.clear()
                await asyncio.sleep(TICK_S)
            await asyncio.gather(*acked)
        finally:
            await producer.stop()
            self.seconds = time.monotonic() - started
            self.done = True

    async def _new(self, producer: AIOKafkaProducer, partitions: int, elapsed: float) -> Any:
        rng, number = self.rng, len(self.sent)
        action_id = f"act-{number:07d}"
        stray = rng.random() < self.dose.strays
        account = f"stray-{number}" if stray else f"acc-{rng.randrange(ACCOUNTS)}"
        campaign = f"cmp-{rng.randrange(CAMPAIGNS)}"
        entity = f"{account}/{campaign}"
        self.seqs[entity] += 1
        self.sent[action_id] = Sent(entity, self.seqs[entity])
        confidence = 0.5 if rng.random() < self.dose.reviewed else 0.95
        value = action_bytes(action_id, account, campaign, self.seqs[entity], confidence)
        place = home(TENANT, account, partitions)
        if stray:
            place = (place + rng.randrange(1, partitions)) % partitions if partitions > 1 else place
        else:
            for share, changed in ((self.dose.repeats, False), (self.dose.changed, True)):
                if rng.random() < share:
                    due = elapsed + rng.uniform(*self.dose.repeat_s)
                    heapq.heappush(self._due, (due, self.inputs, action_id, value, changed))
        self.inputs += 1
        return await producer.send(self.site.name("actions"), value, entity.encode(), partition=place)

    async def _again(self, producer: AIOKafkaProducer, partitions: int) -> Any:
        """Send again what was sent a moment ago. An earlier one of the same partition is in the log before it."""
        _, _, action_id, value, changed = heapq.heappop(self._due)
        sent = self.sent[action_id]
        account = sent.entity.split("/")[0]
        if changed:
            sent.changed += 1
            value = value.replace(b'"after":"1.05"', b'"after":"1.06"')
        else:
            sent.same += 1
        place, key = home(TENANT, account, partitions), sent.entity.encode()
        match self.rng.randrange(3):
            case 1:
                place = self.rng.randrange(partitions)
            case 2:
                place, key = self.rng.randrange(partitions), None  # type: ignore[assignment]
        self.inputs += 1
        return await producer.send(self.site.name("actions"), value, key, partition=place)


def action_bytes(action_id: str, account: str, campaign: str, seq: int = 0, confidence: float = 0.95) -> bytes:
    """Return an action proposed now; `seq` is a field that the model does not know and the bytes keep."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return (
        f'{{"action_id":"{action_id}","tenant":"{TENANT}","agent":{{"id":"bidder-1","version":"1"}},'
        f'"type":"bid.adjust","changes":[{{"entity":{{"account":"{account}","campaign":"{campaign}"}},'
        f'"field":"bid","before":"1.00","after":"1.05","unit":"EUR"}}],"confidence":{confidence},'
        f'"proposed_at":"{now}","seq":{seq}}}'
    ).encode()


# --- faults -----------------------------------------------------------------------------------------------------------


async def kills(site_: Site, load_: Load, dose: Dose, rng: random.Random) -> int:
    """SIGKILL a router every so often, and start it again at once; return how many were killed."""
    for n in range(dose.kills):
        await asyncio.sleep(rng.uniform(*dose.gap_s))
        if load_.done:
            return n
        slot = rng.choice(sorted(site_.routers))
        site_.routers[slot].kill()
        await asyncio.sleep(rng.uniform(0.0, 0.5))
        site_.start(slot)
    return dose.kills


async def pauses(site_: Site, load_: Load, dose: Dose, rng: random.Random) -> list[float]:
    """SIGSTOP a router now and then; return for how long. Short and long ones are spread evenly, in random order."""
    low, high = dose.pause_s
    width = (high - low) / max(1, dose.pauses)
    lengths = [low + width * (n + rng.random()) for n in range(dose.pauses)]
    rng.shuffle(lengths)
    held = []
    for length in lengths:
        await asyncio.sleep(rng.uniform(*dose.gap_s))
        if load_.done:
            break
        router = site_.routers[rng.choice(sorted(site_.routers))]
        router.pause()
        held.append(length)
        await asyncio.sleep(length)
        router.resume()
    return held


# --- waiting for the end ----------------------------------------------------------------------------------------------


async def finished(site_: Site, seconds_max: float = DONE_S_MAX) -> None:
    """Return once the group has committed past every record of the inputs; else name what stands still."""
    deadline = time.monotonic() + seconds_max
    while True:
        waiting = await _waiting(site_)
        if not waiting:
            return
        dead = [r for r in site_.routers.values() if r.process.poll() is not None]
        if dead or time.monotonic() > deadline:
            stalled = ", ".join(f"{tp.topic}/{tp.partition} at {at} of {end}" for tp, (at, end) in waiting.items())
            why = "a router ended" if dead else f"stalled for {seconds_max:g} s"
            tails = "\n".join(router.tail() for router in site_.routers.values())
            raise AssertionError(f"{why}: {stalled}\n{tails}")
        await asyncio.sleep(0.3)


async def _waiting(site_: Site) -> dict[TopicPartition, tuple[int, int]]:
    parts = site_.inputs()
    async with consuming(site_.bootstrap, group_id=site_.group) as consumer:
        try:
            done = await stable_offsets(consumer, site_.group, parts, STABLE_S)
        except TimeoutError:
            return dict.fromkeys(parts, (-1, -1))
    async with consuming(site_.bootstrap, isolation_level="read_uncommitted") as consumer:
        ends = await consumer.end_offsets(parts)
        behind = {tp: done[tp] or 0 for tp in parts if (done[tp] or 0) < ends[tp]}
        if not behind:
            return {}
        # Markers of transactions lie at the end of a partition that others move actions to: look for records.
        consumer.assign(list(behind))
        for tp, offset in behind.items():
            consumer.seek(tp, offset)
        found: dict[TopicPartition, tuple[int, int]] = {}
        until = time.monotonic() + 5.0
        while time.monotonic() < until:
            for tp in await consumer.getmany(timeout_ms=100):
                found.setdefault(tp, (behind[tp], ends[tp]))
            reached = [tp in found or await consumer.position(tp) >= ends[tp] for tp in behind]
            if all(reached):
                break
        return found


# --- the reader -------------------------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What the topics say. Lists hold places or ids, to look at; an empty one is what must be."""

    inputs: int = 0
    moved: int = 0
    taken: int = 0
    """Copies on `held` that passes have consumed."""
    parked: dict[str, int] = field(default_factory=dict)
    """Ids that lie on `held`, and at which offset."""
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unfounded: list[str] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)
    executed_twice: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    waits_ms: list[int] = field(default_factory=list)
    verify: str = ""
    broken: str = ""
    """The invariants that `hitl verify` found violated."""

    @property
    def ok(self) -> bool:
        broken = (self.lost, self.doubled, self.unfounded, self.overtaken, self.executed_twice, self.wrong)
        return not any(broken) and not self.verify

    def text(self) -> str:
        names = ("lost", "doubled", "unfounded", "overtaken", "executed_twice", "wrong")
        rows = [
            f"{name}: {len(found)} {found[:5] if found else ''}" for name in names if (found := getattr(self, name))
        ]
        return "; ".join([*rows, self.verify] if self.verify else rows) or "nothing lost, doubled, overtaken"

    def wait_s(self, share: float) -> float:
        waits = sorted(self.waits_ms)
        return waits[min(len(waits) - 1, int(len(waits) * share))] / 1000 if waits else 0.0


async def judge(
    site_: Site, sent: dict[str, Sent], dead_expected: bool = False, aside: Collection[str] = ("I5",)
) -> Findings:
    """Read everything that is committed and compare it with what was sent; ask `hitl verify` too.

    What it says of the invariants in `aside` is not looked at: each test has its own bound for how soon a switch is
    EFFECTIVE (I5), by what it does to control meanwhile.
    """
    found = Findings()
    appended: dict[str, int] = {}
    ids: dict[str, str] = {}
    answers: defaultdict[str, list[str]] = defaultdict(list)
    by_id: defaultdict[str, Counter[str]] = defaultdict(Counter)
    executed: Counter[str] = Counter()
    last: dict[tuple[str, str], int] = {}
    passed = await passed_to(site_)

    def answer(place: str, what: str, at: int) -> None:
        answers[place].append(what)
        found.ends[what] += 1
        if place in appended:
            found.waits_ms.append(at - appended[place])

    async for record in all_records(site_, "actions"):
        place = f"{record.topic}/{record.partition}/{record.offset}"
        appended[place] = record.timestamp
        found.inputs += 1
        with suppress(ValueError, TypeError, KeyError):
            ids[place] = orjson.loads(record.value)["action_id"]
        via = dict(record.headers).get("hitl-via")
        if via is not None:
            found.moved += 1
            answer(orjson.loads(via)["from"], "moved", record.timestamp)
    for topic in DECISIONS:
        async for record in all_records(site_, topic):
            if topic == "held" and record.offset < passed[record.partition]:
                found.taken += 1
                continue  # a pass has consumed this copy: what it wrote instead is the answer
            head = orjson.loads(record.value)
            answer(head["origin"], topic, record.timestamp)
            by_id[head["action_id"]]["decided"] += 1
            if topic == "execute":
                executed[f"{head['tenant']}/{head['action_id']}"] += 1
            if topic == "held":
                found.parked[head["action_id"]] = record.offset
                continue  # what is parked again goes behind what came meanwhile; its order is that of its origins
            entity, seq = f"{record.partition}/{record.key.decode()}", head["action"].get("seq", 0)
            if seq <= last.get((topic, entity), 0):
                found.overtaken.append(f"{head['action_id']} ({entity} {seq})")
            last[topic, entity] = seq
    async for record in all_records(site_, "closed"):
        head = orjson.loads(record.value)
        answer(head["id"].rpartition("#")[0], head["why"], record.timestamp)
        by_id[head["action_id"]][head["why"]] += 1
    async for record in all_records(site_, "dlq"):
        answer(dict(record.headers)["hitl-source"].decode(), "dead", record.timestamp)

    found.lost = [f"{place} {ids.get(place, '')}" for place in appended if not answers[place]]
    found.doubled = [f"{place} {kinds}" for place, kinds in answers.items() if len(kinds) > 1]
    found.unfounded = [place for place in answers if place not in appended]
    found.executed_twice = [who for who, times in executed.items() if times > 1]
    for action_id, one in sent.items():
        expected = Counter({"decided": 1, "duplicate": one.same - 1, "conflict": one.changed})
        if by_id[action_id] != +expected:
            found.wrong.append(f"{action_id}: {dict(by_id[action_id])}, expected {dict(+expected)}")
    found.wrong += [f"{action_id}: never sent" for action_id in by_id if action_id not in sent]
    if found.ends["dead"] and not dead_expected:
        found.wrong.append(f"{found.ends['dead']} dead letters")
    report = await verify(verifying(site_))
    wrong = [violation for violation in report.violations if violation.invariant not in aside]
    if wrong:
        found.broken = "violated: " + ", ".join(dict.fromkeys(violation.invariant for violation in wrong))
        found.verify = "hitl verify: " + "; ".join(f"{v.invariant} {v.what} {v.places}" for v in wrong[:5])
    return found


def verifying(site_: Site) -> Verifying:
    """Return what is verified of a site: everything that `hitl verify --deep` looks at."""
    settings, loaded = site_.settings, wiring.load_policy(site_.settings)
    keys = seals_at(settings.keys_dir)
    return Verifying(
        client=site_.client,
        topics=site_.topics,
        group=site_.group,
        inputs=(site_.name("actions"),),
        keys=keys.pop(wiring.ROUTER),
        deep=True,
        window_ms=600_000,
        others=keys,
        executors=wiring.group_of(settings, wiring.EXECUTOR),
        trust=settings.trust,
        policy=loaded.digest,
        rules=loaded.policy,
        desks=wiring.group_of(settings, wiring.DESK),
    )


async def passed_to(site_: Site) -> dict[int, int]:
    """Return up to where the router has consumed each partition of `held`."""
    parts = [TopicPartition(site_.name("held"), n) for n in range(site_.settings.partitions)]
    async with consuming(site_.bootstrap, group_id=site_.group) as consumer:
        done = await stable_offsets(consumer, site_.group, parts, STABLE_S)
    return {tp.partition: done[tp] or 0 for tp in parts}


async def parked_left(site_: Site, campaign: str) -> int:
    """Return how many actions of a campaign lie on `held`, not consumed."""
    passed = await passed_to(site_)
    return sum(
        [
            record.key.decode().endswith(campaign)
            async for record in all_records(site_, "held")
            if record.offset >= passed[record.partition]
        ]
    )


async def all_records(site_: Site, topic: str) -> AsyncIterator[Any]:
    """Yield every committed record of a topic, also those that a pending transaction hides for now."""
    parts = [TopicPartition(site_.name(topic), n) for n in range(site_.settings.partitions)]
    async with consuming(site_.bootstrap, isolation_level="read_uncommitted") as consumer:
        ends = await consumer.end_offsets(parts)
    left = {tp for tp in parts if ends[tp]}
    if not left:
        return
    async with consuming(site_.bootstrap, isolation_level="read_committed", fetch_max_wait_ms=20) as consumer:
        consumer.assign(list(left))
        await consumer.seek_to_beginning(*left)
        async with asyncio.timeout(180):
            while left:
                for tp, records in (await consumer.getmany(timeout_ms=200, max_records=5_000)).items():
                    for record in records:
                        if record.offset < ends[tp]:
                            yield record
                for tp in list(left):
                    if await consumer.position(tp) >= ends[tp]:
                        left.discard(tp)
                        consumer.pause(tp)


# --- figures ----------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One scenario's figures, printed and, if asked for, written to docs/results/faults.md."""

    name: str
    dose: str
    seed: int
    facts: dict[str, Any]
    found: Findings

    def line(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.found.ends.items()))
        p50, p99, longest = (self.found.wait_s(share) for share in (0.5, 0.99, 1))
        waits = f"wait p50 {p50:.3f} s, p99 {p99:.1f} s, max {longest:.1f} s"
        return f"{self.name} ({self.dose}, seed {self.seed}): {facts}; {ends}; {waits}; {self.found.text()}"

    def write(self, path: Path = RESULTS) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(HEAD, encoding="utf-8")
        found = self.found
        cells = [
            datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), self.name, self.dose, str(self.seed),
            ", ".join(f"{name} {value}" for name, value in self.facts.items()), str(found.inputs),
            str(len(found.lost)), str(len(found.doubled) + len(found.executed_twice)), str(len(found.overtaken)),
            str(len(found.wrong)), found.broken or "ok",
            f"{found.wait_s(0.5):.3f} / {found.wait_s(0.99):.1f} / {found.wait_s(1):.1f}", machine(), command(),
        ]  # fmt: skip
        with path.open("a", encoding="utf-8") as file:
            file.write("| " + " | ".join(cells) + " |\n")


HEAD = """# Results of the fault tests

Each row is one run of `tests/faults` against Apache Kafka from its jars. *Lost*: an input offset without an answer.
*Doubled*: an input with two answers, or an id executed twice. *Overtaken*: an action decided after a later one of its
campaign. *Wrong*: an id whose repeats were not all refused as `duplicate`, or its changed bytes not as `conflict`.
*Wait*: from an input's append to its answer's append, median / 99th percentile / longest, in seconds, with the time in
which a killed, paused or departed owner held the partition. *Planted*: a known bug in the router, to be found out.

| when (UTC) | scenario | dose | seed | figures | inputs | lost | doubled | overtaken | wrong | verify | wait | machine | command |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501  a table's head is one line


def machine() -> str:
    """Return cores, memory, kernel and versions."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    from importlib.metadata import version

    from hitl_stream.dev.broker import kafka_version

    return (
        f"{os.cpu_count()} cores, {gib:.0f} GiB, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, aiokafka {version('aiokafka')}, Kafka {kafka_version()}"
    )


def command() -> str:
    return "`" + " ".join(["pytest", *sys.argv[1:]]).replace("|", "/") + "`"


def resumed(site_: Site) -> dict[str, str]:
    """Return how long starts took until every partition was open: median and longest over all restarts."""
    seconds = [s for router in site_.ended + list(site_.routers.values()) if (s := router.resumed_s()) is not None]
    if not seconds:
        return {}
    return {"resumed": f"p50 {statistics.median(seconds):.1f} s, max {max(seconds):.1f} s of {len(seconds)} starts"}


def longest_resume_s(site_: Site) -> float:
    seconds = [s for router in site_.all() if (s := router.resumed_s()) is not None]
    return max(seconds, default=0.0)


def troubles(site_: Site) -> list[str]:
    """Return what routers and control said that they must not; and those that ended by themselves."""
    processes = (*site_.all(), *site_.controls)
    found = [line for process in processes for line in process.trouble()]
    found += [
        f"{process.log.name} ended by itself: {process.process.poll()}\n{process.tail()}"
        for process in processes
        if process.process.poll() not in (None, 0) and not process.killed
    ]
    return found


@contextmanager
def explained(site_: Site) -> Iterator[None]:
    """Put the routers' last words behind a failure."""
    try:
        yield
    except AssertionError as error:
        error.add_note("\n".join(process.tail() for process in (*site_.all()[-8:], *site_.controls[-2:])))
        raise
