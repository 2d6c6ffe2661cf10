"""Joining settings, keys, policy and roles into services: the only module that knows them all."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mode.types import ServiceT

from hitl_stream import __version__
from hitl_stream import settings as values
from hitl_stream.adapters import load_adapter
from hitl_stream.core.effective import FENCED_ROLES, LEASE_MS, ROLES
from hitl_stream.core.errors import PolicyError, SettingsError
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.tripwires import Publisher
from hitl_stream.core.validators import plugin_of
from hitl_stream.core.window import IdBudget
from hitl_stream.health import Health
from hitl_stream.lane.batches import batches
from hitl_stream.lane.calls import calls
from hitl_stream.lane.control_view import ControlView, Member
from hitl_stream.lane.halt import HaltFile, engage_on
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.restore import Changelog, WindowReplay
from hitl_stream.lane.slot import Slot, take_slot
from hitl_stream.metrics import ControlMetrics, ExecutorMetrics, LaneMetrics, Metrics
from hitl_stream.roles.control import ControlRole, ControlSpec
from hitl_stream.roles.executor import AdapterService, Executor, ExecutorSettings
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
from hitl_stream.wire.topics import EXECUTOR_TOPICS, ROUTER_TOPICS, TABLE, TopicSet

APP = "hitl"
ROUTER = "router"
CONTROL = "control"
CONTROL_READS = ("actions", *ANSWERS)
"""The topics whose ends the control role asks for, and whose tails its tripwires look at."""
EXECUTOR = "executor"
ROUTER_KEYS: Mapping[str, str] = {"seal-router": "r1", "seal-executor": "e1", "seal-control": "c1", "sample": "s1"}
"""The key files that a router needs, and the id of the first one of each. It reads what executors park, and drills."""


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
    for name, key_id in ROUTER_KEYS.items():
        if not any(settings.keys_dir.glob(f"{name}-*")):
            seal.create_key(settings.keys_dir, name, key_id)
    return read_router_keys(settings)


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
    seals = {role: seal.read_keys(settings.keys_dir, f"seal-{role}") for role in _sealing(settings)}
    signing = {one.key_id: one for one in read_signing_keys(settings.keys_dir).values() if one.kind == "service"}
    if not signing:
        raise SettingsError(
            f"{settings.keys_dir} holds no service key, and heartbeats must be signed; hitl keys init makes one, "
            "control-1.jwk, to be copied here"
        )
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), CONTROL, settings.slot)
    groups = {role: group_of(settings, role) for role in FENCED_ROLES}
    spec = ControlSpec(kafka_client(settings), topics, trust, slot.instance, groups, seals, signing)
    observer = ControlMetrics(metrics)
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


def _sealing(settings: Settings) -> list[str]:
    """Return the roles that acknowledge and whose seals can be checked here."""
    found = [role for role in ROLES if any(settings.keys_dir.glob(f"seal-{role}-*"))]
    if not found:
        raise SettingsError(
            f"{settings.keys_dir} holds no key seal-<role>-<id>, and acks are sealed; make one: hitl keys seal"
        )
    return found


def router_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the router's services: its view of control, its lane, and the port that shows how they are.

    `judge` runs the policy's plugins.
    """
    topics = topic_set(settings)
    loaded = load_policy(settings)
    keys = read_router_keys(settings)
    trust_of(settings)
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), ROUTER, settings.slot)
    metrics = metrics or new_metrics(settings)
    view, halt = control_view(settings, topics, slot, ROUTER, list(keys.seal.values())[-1], metrics)
    policies = Policies(loaded.policy, loaded.digest, view.control)
    _warm(judge, loaded.policy)
    router = Router(_router_settings(settings, topics, keys, slot), policies, judge)
    budget = IdBudget(settings.window_ids_max)
    spec = LaneSpec(
        role=ROUTER,
        group=group_of(settings, ROUTER),
        member=slot.member,
        instance=slot.instance,
        inputs=router.settings.inputs,
        client=kafka_client(settings),
        dlq=topics.name("dlq"),
        limits={topics.name(name): TABLE[name].bytes_max for name in ROUTER_TOPICS},
        restore=WindowReplay(lambda: policies.at(0).reach.longest_ms),
        followed=(topics.name("facts"),),
        parked=topics.name("held"),
        batch_records_max=settings.batch_records_max,
    )
    lane = Lane(spec, batches(router), lambda: router.state(budget), LaneMetrics(ROUTER, metrics), view)
    checks = {
        "partitions": lambda: "" if lane.ready else "not every partition is assigned and open",
        "control": view.missing,
        "halt": halt.missing,
    }
    version = {"version": __version__, "policy": loaded.digest, "instance": slot.instance, "role": ROUTER}
    health = Health(metrics, checks, version, host=settings.bind, port=settings.metrics_port)
    return [health, view, halt, lane]


def executor_services(settings: Settings, judge: Judge = no_plugins, metrics: Metrics | None = None) -> list[ServiceT]:
    """Build the executor's services: its view of control, its adapter, its lane, and the port that shows how they are.

    Of plugins it has none: what they say was the router's to hear.
    """
    topics = topic_set(settings)
    loaded = load_policy(settings)
    router_keys = seal.read_keys(settings.keys_dir, "seal-router")
    own_keys = seal.read_keys(settings.keys_dir, "seal-executor")
    trust_of(settings)
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), EXECUTOR, settings.slot)
    metrics = metrics or new_metrics(settings)
    view, halt = control_view(settings, topics, slot, EXECUTOR, list(own_keys.values())[-1], metrics)
    policies = Policies(loaded.policy, loaded.digest, view.control)
    adapter = Rehearsed(load_adapter(settings.adapter, settings.adapter_options, view.now_ms))
    observer = ExecutorMetrics(metrics)
    executor = Executor(
        ExecutorSettings(topics, router_keys, own_keys, slot.instance, settings.call_s_max),
        policies,
        adapter,
        observer=observer,
    )
    budget, slots = IdBudget(settings.window_ids_max), asyncio.Semaphore(settings.calls_max)
    spec = LaneSpec(
        role=EXECUTOR,
        group=group_of(settings, EXECUTOR),
        member=slot.member,
        instance=slot.instance,
        inputs=(topics.name("execute"),),
        client=kafka_client(settings),
        dlq=topics.name("dlq"),
        limits={topics.name(name): TABLE[name].bytes_max for name in EXECUTOR_TOPICS},
        restore=Changelog(topics.name("executor.state")),
        fence=adapter.fence,
    )
    work = calls(executor, slots, settings.call_s_max)
    lane = Lane(spec, work, lambda: executor.state(budget), observer, view)
    observer.in_flight.set_function(lambda: float(lane.doing().calls))
    checks = {
        "partitions": lambda: "" if lane.ready else "not every partition is assigned and open",
        "control": view.missing,
        "halt": halt.missing,
    }
    version = {"version": __version__, "policy": loaded.digest, "instance": slot.instance, "role": EXECUTOR}
    health = Health(metrics, checks, version, host=settings.bind, port=settings.metrics_port)
    return [health, view, halt, AdapterService(adapter), lane]


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
        proposers={role: known for role in PROPOSERS if (known := _seals_of(settings, role))},
        parkers={key_id: key for role in PARKERS for key_id, key in _seals_of(settings, role).items()},
        reporters={key_id: key for role in REPORTERS for key_id, key in _seals_of(settings, role).items()},
    )


PROPOSERS = ("desk", "console", "control")
PARKERS = ("desk", "executor")
REPORTERS = ("executor", "connector")


def _seals_of(settings: Settings, role: str) -> Mapping[str, SealKey]:
    """Return the seal keys of another role, none where this host has none: then nothing of that role counts here."""
    if not any(settings.keys_dir.glob(f"seal-{role}-*")):
        return {}
    return seal.read_keys(settings.keys_dir, f"seal-{role}")
