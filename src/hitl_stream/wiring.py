"""Joining settings, keys, policy and roles into services: the only module that knows them all."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mode.types import ServiceT

from hitl_stream import __version__
from hitl_stream import settings as values
from hitl_stream.adapters import load_adapter
from hitl_stream.console.people import open_people
from hitl_stream.console.sign import console_key
from hitl_stream.console.view import open_view
from hitl_stream.core.effective import FENCED_ROLES, LEASE_MS
from hitl_stream.core.errors import PolicyError, SettingsError
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.switches import KINDS
from hitl_stream.core.tripwires import WIRES, Publisher
from hitl_stream.core.validators import plugin_of
from hitl_stream.core.window import IdBudget
from hitl_stream.health import Health
from hitl_stream.lane.batches import batches
from hitl_stream.lane.calls import calls
from hitl_stream.lane.control_view import ControlView, Member
from hitl_stream.lane.halt import HaltFile, engage_on
from hitl_stream.lane.instances import seals_at
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.restore import Changelog, Restore, WindowReplay
from hitl_stream.lane.slot import Slot, take_slot
from hitl_stream.metrics import ControlMetrics, DeskMetrics, ExecutorMetrics, LaneMetrics, Metrics, MonitorMetrics
from hitl_stream.roles.approvals import HumanApprovals
from hitl_stream.roles.control import ControlRole, ControlSpec
from hitl_stream.roles.desk import Desk, DeskSettings
from hitl_stream.roles.desk_state import DeskState
from hitl_stream.roles.executor import AdapterService, Approvals, Executor, ExecutorSettings, NoApprovals
from hitl_stream.roles.offences import Alarm
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.rehearsal import Rehearsed
from hitl_stream.roles.router import Judge, Router, RouterSettings, Source, no_plugins
from hitl_stream.roles.tripwires import ANSWERS, Tripwires, TripwireSpec
from hitl_stream.settings import Settings
from hitl_stream.settings import kafka_client as kafka_client
from hitl_stream.settings import topic_set as topic_set
from hitl_stream.wire import seal
from hitl_stream.wire.policy_file import LoadedPolicy, lint_file, parse
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import read_signing_keys
from hitl_stream.wire.topics import DESK_TOPICS, EXECUTOR_TOPICS, ROUTER_TOPICS, TABLE, TopicSet
from hitl_stream.wire.watched import PSEUDONYM

APP = "hitl"
ROUTER = "router"
CONTROL = "control"
CONTROL_READS = ("actions", *ANSWERS)
"""The topics whose ends the control role asks for, and whose tails its tripwires look at."""
EXECUTOR = "executor"
DESK = "desk"
CONSOLE = "console"
MONITOR = "monitor"
ROUTER_KEYS: Mapping[str, str] = {
    "seal-router": "r1",
    "seal-executor": "e1",
    "seal-control": "c1",
    "seal-desk": "d1",
    "seal-console": "w1",
    "sample": "s1",
    PSEUDONYM: "p1",
}
"""The key files that a router or a desk needs, and the id of the first one of each. They read what executors and desks
park, what desks and consoles propose, drills, and how closely whom the monitor watches."""
MONITOR_KEYS: Mapping[str, str] = {"seal-monitor": "m1", PSEUDONYM: "p1"}
"""The key files that a monitor needs besides the desk's, and the id of the first one of each."""


@dataclass(frozen=True)
class Keys:
    """The keys that a router needs, read from the keys directory."""

    seal: Mapping[str, SealKey]
    sample: SealKey


def group_of(settings: Settings, role: str) -> str:
    """Return a role's consumer group: it carries the prefix, so that two installations share a cluster."""
    prefix = settings.prefix.rstrip(".-_")
    return f"{prefix or APP}-{role}"


def load_policy(settings: Settings) -> LoadedPolicy:
    """Read the policy file of the settings; refuse one that breaks a law."""
    path = settings.policy
    if path is None:
        raise SettingsError("no policy: give one with --policy FILE, HITL_POLICY or `policy` in hitl.toml")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"policy: cannot read {path}: {error}") from None
    loaded = parse(text, str(path))
    errors = tuple(problem for problem in lint_file(loaded) if problem.severity == "error")
    if errors:
        raise PolicyError(str(path), errors)
    return loaded


def read_router_keys(settings: Settings) -> Keys:
    """Read the router's seal keys and the newest sample key; say how to make them where they are missing."""
    samples = seal.read_keys(settings.keys_dir, "sample")
    return Keys(seal.read_keys(settings.keys_dir, "seal-router"), list(samples.values())[-1])


def make_router_keys(settings: Settings) -> Keys:
    """Make each of the router's keys of which there is none yet, under any id."""
    _make_keys(settings, ROUTER_KEYS)
    return read_router_keys(settings)


def make_monitor_keys(settings: Settings) -> None:
    """Make each of the monitor's keys of which there is none yet, under any id."""
    _make_keys(settings, MONITOR_KEYS)


def _make_keys(settings: Settings, names: Mapping[str, str]) -> None:
    for name, key_id in names.items():
        if not any(settings.keys_dir.glob(f"{name}-*")):
            seal.create_key(settings.keys_dir, name, key_id)


def new_metrics(settings: Settings) -> Metrics:
    """Return the metrics of a process; its roles share them."""
    return Metrics(__version__, settings.window_ids_max)


def together(services: Sequence[ServiceT]) -> list[ServiceT]:
    """Return the services of several roles as those of one process: one port shows how all of them are."""
    healths = [service for service in services if isinstance(service, Health)]
    for other in healths[1:]:
        healths[0].absorb(other)
    return [service for service in services if service not in healths[1:]]


def control_view(
    settings: Settings, topics: TopicSet, slot: Slot, role: str, key: SealKey, metrics: Metrics
) -> tuple[ControlView, HaltFile]:
    """Return what a router, desk or executor is stopped by: control, and the file of its host.

    `key` is the newest that its role seals with.
    """
    client, trust, host = kafka_client(settings), trust_of(settings), socket.gethostname()
    view = ControlView(
        client,
        topics,
        trust,
        Member(slot.instance, role, __version__, key),
        rejected=lambda why: metrics.control_rejected.labels(why).inc(),
        halted=lambda: halt.halted(),
    )
    halt = HaltFile(settings.state_dir, host, view.control, engage_on(client, topics, trust, settings.keys_dir, host))
    metrics.lease_age.labels(role).set_function(lambda: (LEASE_MS - view.lease_left_ms()) / 1000)
    return view, halt


def trust_of(settings: Settings) -> str:
    """Return the digest that all trust in commands begins with."""
    if not settings.trust:
        raise SettingsError(
            "trust is not set, so no command and no heartbeat can be believed, and nothing would ever leave; "
            "run: hitl keys init, and set HITL_TRUST to the digest that it prints"
        )
    return settings.trust


def control_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the control role's services. Of plugins it has none."""
    topics, trust = topic_set(settings), trust_of(settings)
    metrics = metrics or new_metrics(settings)
    seals = seals_at(settings.keys_dir)
    if not seals:
        raise SettingsError(
            f"{settings.keys_dir} holds no key seal-<role>-<id>, and acks are sealed; make one: hitl keys seal"
        )
    signing = {one.key_id: one for one in read_signing_keys(settings.keys_dir).values() if one.kind == "service"}
    if not signing:
        raise SettingsError(
            f"{settings.keys_dir} holds no service key, and heartbeats must be signed; hitl keys init makes one, "
            "control-1.jwk, to be copied here"
        )
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), CONTROL, settings.slot)
    groups = {role: group_of(settings, role) for role in FENCED_ROLES}
    spec = ControlSpec(kafka_client(settings), topics, trust, slot.instance, groups, seals, signing)
    observer = ControlMetrics(metrics, WIRES, (*KINDS, "global"))
    role = ControlRole(spec, observer)
    inputs = {topics.name("actions"): None, **{topic: _bound_to(source) for topic, source in settings.sources.items()}}
    looks = TripwireSpec(spec.client, topics, inputs, seals, settings.tripwires)
    tripwires = Tripwires(looks, role.control, role.engage, observer)
    version = {"version": __version__, "instance": slot.instance, "role": CONTROL}
    health = Health(metrics, {"heartbeats": role.missing}, version, host=settings.bind, port=settings.metrics_port)
    return [health, role, tripwires]


def _bound_to(source: values.Source) -> Publisher | None:
    """Return the one publisher that may write to an action topic, if there is only one."""
    if len(source.tenants) == 1 == len(source.agents):
        return Publisher(source.tenants[0], source.agents[0])
    return None


@dataclass(frozen=True)
class Seat:
    """What every role that decides has: its name and place, what stops it, its policy, and what it is measured by."""

    settings: Settings
    role: str
    topics: TopicSet
    slot: Slot
    loaded: LoadedPolicy
    metrics: Metrics
    view: ControlView
    halt: HaltFile
    policies: Policies

    def lane(self, inputs: tuple[str, ...], written: Sequence[str], restore: Restore, **more: Any) -> LaneSpec:
        """Return how its lane reads `inputs` and writes to the topics `written`, named as in the table."""
        return LaneSpec(
            role=self.role,
            group=group_of(self.settings, self.role),
            member=self.slot.member,
            instance=self.slot.instance,
            inputs=inputs,
            client=kafka_client(self.settings),
            dlq=self.topics.name("dlq"),
            limits={self.topics.name(name): TABLE[name].bytes_max for name in written},
            restore=restore,
            **more,
        )

    def services(self, lane: Lane, *before: ServiceT) -> list[ServiceT]:
        """Return its services in the order in which they start: `before` goes between what stops it and its lane."""
        checks = {
            "partitions": lambda: "" if lane.ready else "not every partition is assigned and open",
            "control": self.view.missing,
            "halt": self.halt.missing,
        }
        version = {
            "version": __version__,
            "policy": self.loaded.digest,
            "instance": self.slot.instance,
            "role": self.role,
        }
        settings = self.settings
        health = Health(self.metrics, checks, version, host=settings.bind, port=settings.metrics_port)
        return [health, self.view, self.halt, *before, lane]


def _seat(
    settings: Settings, role: str, loaded: LoadedPolicy, own_keys: Mapping[str, SealKey], metrics: Metrics | None
) -> Seat:
    """Take a role's slot on this host, and make what stops it; `own_keys` are those that it seals with."""
    trust_of(settings)
    topics, metrics = topic_set(settings), metrics or new_metrics(settings)
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), role, settings.slot)
    view, halt = control_view(settings, topics, slot, role, list(own_keys.values())[-1], metrics)
    policies = Policies(loaded.policy, loaded.digest, view.control)
    return Seat(settings, role, topics, slot, loaded, metrics, view, halt, policies)


def router_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the router's services: its view of control, its lane, and the port that shows how they are.

    `judge` runs the policy's plugins.
    """
    loaded, keys = load_policy(settings), read_router_keys(settings)
    seat = _seat(settings, ROUTER, loaded, keys.seal, metrics)
    topics, policies = seat.topics, seat.policies
    _warm(judge, loaded.policy)
    router = Router(_router_settings(settings, topics, keys, seat.slot), policies, judge)
    budget = IdBudget(settings.window_ids_max)
    spec = seat.lane(
        router.settings.inputs,
        ROUTER_TOPICS,
        WindowReplay(lambda: policies.at(0).reach.longest_ms),
        followed=(topics.name("facts"),),
        parked=topics.name("held"),
        batch_records_max=settings.batch_records_max,
    )
    return seat.services(
        Lane(spec, batches(router), lambda: router.state(budget), LaneMetrics(ROUTER, seat.metrics), seat.view)
    )


def executor_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the executor's services: its view of control, its adapter, its lane, and the port that shows how they are.

    Of plugins it has none: what they say was the router's to hear.
    """
    loaded = load_policy(settings)
    router_keys = seal.read_keys(settings.keys_dir, "seal-router")
    own_keys = seal.read_keys(settings.keys_dir, "seal-executor")
    seat = _seat(settings, EXECUTOR, loaded, own_keys, metrics)
    topics = seat.topics
    adapter = Rehearsed(load_adapter(settings.adapter, settings.adapter_options, seat.view.now_ms))
    observer = ExecutorMetrics(seat.metrics)
    alarm = _alarm(settings, seat)
    executor = Executor(
        ExecutorSettings(topics, router_keys, own_keys, seat.slot.instance, settings.call_s_max),
        seat.policies,
        adapter,
        observer=observer,
        approvals=_approvals(settings, seat, router_keys),
        effective=lambda: seat.view.effective,
        alarm=alarm.ring,
    )
    budget, slots = IdBudget(settings.window_ids_max), asyncio.Semaphore(settings.calls_max)
    spec = seat.lane(
        (topics.name("execute"),), EXECUTOR_TOPICS, Changelog(topics.name("executor.state")), fence=adapter.fence
    )
    work = calls(executor, slots, settings.call_s_max)
    lane = Lane(spec, work, lambda: executor.state(budget), observer, seat.view)
    observer.in_flight.set_function(lambda: float(lane.doing().calls))
    return seat.services(lane, alarm, AdapterService(adapter))


def _approvals(settings: Settings, seat: Seat, router_keys: Mapping[str, SealKey]) -> Approvals:
    """Return what checks people's approvals; where no desk's key lies here, they count for nothing."""
    desk_keys = seals_at(settings.keys_dir, (DESK,)).get(DESK)
    if not desk_keys:
        return NoApprovals()
    view = seat.view
    return HumanApprovals(seat.topics, desk_keys, router_keys, seat.policies, lambda: view.audience, view.now_ms)


def desk_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the desk's services: its view of control, its lane, and the port that shows how they are.

    Of plugins it has none: what they say was the router's to hear.
    """
    loaded = load_policy(settings)
    own_keys = seal.read_keys(settings.keys_dir, "seal-desk")
    sample_key = list(seal.read_keys(settings.keys_dir, "sample").values())[-1]
    names = list(seal.read_keys(settings.keys_dir, PSEUDONYM).values())[-1]
    seat = _seat(settings, DESK, loaded, own_keys, metrics)
    topics = seat.topics
    asking = seals_at(settings.keys_dir, ASKING)
    desk = Desk(
        DeskSettings(topics, own_keys, asking, sample_key, names, seat.slot.instance),
        seat.policies,
        lambda: seat.view.audience,
    )
    spec = seat.lane(
        tuple(desk.inputs),
        DESK_TOPICS,
        Changelog(topics.name("reviews")),
        followed=tuple(desk.followed),
    )
    observer = DeskMetrics(seat.metrics)
    lane = Lane(spec, batches(desk), desk.state, observer, seat.view)
    observer.gates(loaded.policy.gates)
    for queue, one in loaded.policy.queues.items():
        observer.watch(queue, partial(_since_ms, lane, queue), seat.view.now_ms, one.owner)
    return seat.services(lane)


def console_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the console's services: what it reads, what it appends with, its pages, and the port that shows how it is.

    It is no member of any group, and acknowledges nothing: any number of them run beside each other.
    """
    try:
        from hitl_stream.console.serve import console  # here: a router needs no web server
    except ImportError as error:
        raise SettingsError(
            f"the console's web server is missing ({error}); run: pip install 'hitl-stream[console]'"
        ) from None
    loaded, trust = load_policy(settings), trust_of(settings)
    metrics = metrics or new_metrics(settings)
    key = console_key(read_signing_keys(settings.keys_dir), str(settings.keys_dir))
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), CONSOLE, settings.slot)
    view, people = open_view(settings.store), open_people(settings.people)
    parts = console(
        kafka_client(settings), topic_set(settings), trust, loaded, key, view, people,
        seals_at(settings.keys_dir, SEALERS), slot.instance,
        bind=settings.bind, port=settings.console_port, hosts=settings.console_hosts, tenant=settings.tenant,
        clock_ms=_wall_ms, scrape=settings.console_scrape,
        pseudonyms=_pseudonyms(settings), names=settings.console_names,
    )  # fmt: skip
    version = {"version": __version__, "policy": loaded.digest, "instance": slot.instance, "role": CONSOLE}
    health = Health(metrics, parts.checks, version, host=settings.bind, port=settings.metrics_port)
    return [health, *parts.services]


def _pseudonyms(settings: Settings) -> seal.SealKey | None:
    """Return the newest key of pseudonyms; None: there is none here, and nobody is shown what the monitor knows."""
    if not any(settings.keys_dir.glob(f"{PSEUDONYM}-*")):
        return None
    return list(seal.read_keys(settings.keys_dir, PSEUDONYM).values())[-1]


def monitor_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the monitor's services: its Faust app, and the port that shows how it is. Of plugins it has none."""
    from hitl_stream.roles.monitor import Monitor, MonitorSpec, monitor_key  # here: a router needs no Faust

    trust, metrics = trust_of(settings), metrics or new_metrics(settings)
    keys_dir = settings.keys_dir
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), MONITOR, settings.slot)
    spec = MonitorSpec(
        client=kafka_client(settings),
        topics=topic_set(settings),
        trust=trust,
        group=group_of(settings, MONITOR),
        member=slot.member,
        directory=settings.state_dir / MONITOR / str(slot.number),
        desk_keys=seal.read_keys(keys_dir, "seal-desk"),
        seal_key=list(seal.read_keys(keys_dir, "seal-monitor").values())[-1],
        signing=monitor_key(read_signing_keys(keys_dir), str(keys_dir)),
        names=list(seal.read_keys(keys_dir, PSEUDONYM).values())[-1],
        policies={} if settings.policy is None else {(loaded := load_policy(settings)).digest: loaded.policy},
        canary_age_ms=round(settings.canary_age_s * 1000),
        watch_people=settings.watch_people,
    )
    monitor = Monitor(spec, MonitorMetrics(metrics))
    version = {"version": __version__, "instance": slot.instance, "role": MONITOR}
    health = Health(metrics, {MONITOR: monitor.missing}, version, host=settings.bind, port=settings.metrics_port)
    return [health, monitor]


SEALERS = ("router", "desk", "executor", "console", "monitor")
"""Whose records a console shows; and its own seal, for what is proposed there."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _since_ms(lane: Lane, queue: str) -> list[int]:
    """Return since when each open item of a queue waits, over the partitions that are open here."""
    states = [piece.state for piece in lane.slices.values() if piece.open]
    return [ms for state in states if isinstance(state, DeskState) for ms in state.open.get(queue, {}).values()]


def _alarm(settings: Settings, seat: Seat) -> Alarm:
    """Return what stops everything, as this host signs it, where a call begins that an effective switch forbids."""
    host = socket.gethostname()
    reason = f"{seat.slot.instance}: a platform call began under an effective switch"
    client = kafka_client(settings)
    engage = engage_on(client, seat.topics, trust_of(settings), settings.keys_dir, host, reason)
    return Alarm(engage, seat.view.control)


def _warm(judge: Judge, policy: Policy) -> None:
    """Ask each plugin of the policy once: else the first batch would wait a second for the worker to start."""
    plugins = {plugin_of(validator) for validator in policy.validators.values()}
    judge([(plugin, "") for plugin in sorted(plugin for plugin in plugins if plugin is not None)])


def _router_settings(settings: Settings, topics: TopicSet, keys: Keys, slot: Slot) -> RouterSettings:
    return RouterSettings(
        topics=topics,
        seal_keys=keys.seal,
        sample_key=keys.sample,
        instance=slot.instance,
        tenant=settings.tenant,
        sources={
            topic: Source(frozenset(source.tenants), frozenset(source.agents))
            for topic, source in settings.sources.items()
        },
        proposers=seals_at(settings.keys_dir, PROPOSERS),
        parkers=_by_id(seals_at(settings.keys_dir, PARKERS)),
        reporters=_by_id(seals_at(settings.keys_dir, REPORTERS)),
    )


ASKING = ("router", "executor", "monitor")
"""Who may open an item at the desk."""
PROPOSERS = ("desk", "console", "control")
PARKERS = ("desk", "executor")
REPORTERS = ("executor", "connector")


def _by_id(seals: Mapping[str, Mapping[str, SealKey]]) -> dict[str, SealKey]:
    """Return the keys of several roles together; which role sealed a record is not asked."""
    return {key_id: key for keys in seals.values() for key_id, key in keys.items()}
