"""Joining settings, keys, policy and roles into services: the only module that knows them all."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mode.types import ServiceT

from hitl_stream import __version__
from hitl_stream.core.errors import PolicyError, SettingsError
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.validators import plugin_of
from hitl_stream.core.window import IdBudget
from hitl_stream.health import Health
from hitl_stream.lane.lane import Lane, LaneSpec
from hitl_stream.lane.restore import WindowReplay
from hitl_stream.lane.slot import Slot, take_slot
from hitl_stream.metrics import LaneMetrics, Metrics
from hitl_stream.roles.router import Judge, Policies, Router, RouterSettings, Source, no_plugins
from hitl_stream.settings import Settings
from hitl_stream.wire import seal
from hitl_stream.wire.policy_file import LoadedPolicy, lint_file, parse
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import ROUTER_TOPICS, TABLE, TopicSet

APP = "hitl"
ROUTER = "router"
ROUTER_KEYS: Mapping[str, str] = {"seal-router": "r1", "sample": "s1"}
"""The key files that a router needs, and the id of the first one of each."""


@dataclass(frozen=True)
class Keys:
    """The keys that a router needs, read from the keys directory."""

    seal: Mapping[str, SealKey]
    sample: SealKey


def topic_set(settings: Settings) -> TopicSet:
    """Return the names and the partition count of this installation's topics."""
    return TopicSet(settings.prefix, settings.partitions, dict(settings.topics))


def kafka_client(settings: Settings) -> dict[str, Any]:
    """Return what every Kafka client of this process is made with."""
    return {
        "bootstrap_servers": settings.kafka,
        "client_id": f"hitl-{__version__}",
        **settings.kafka_security.options(),
    }


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


def router_services(settings: Settings, judge: Judge = no_plugins) -> list[ServiceT]:
    """Build the router's services: its lane, and the port that shows how it is. `judge` runs the policy's plugins."""
    topics = topic_set(settings)
    loaded = load_policy(settings)
    keys = read_router_keys(settings)
    slot = take_slot(settings.state_dir / "slots", socket.gethostname(), ROUTER, settings.slot)
    policies = Policies(loaded.policy, loaded.digest)
    _warm(judge, loaded.policy)
    router = Router(_router_settings(settings, topics, keys, slot), policies, judge)
    budget = IdBudget(settings.window_ids_max)
    metrics = Metrics(__version__, settings.window_ids_max)
    spec = LaneSpec(
        role=ROUTER,
        group=group_of(settings, ROUTER),
        member=slot.member,
        instance=slot.instance,
        inputs=router.settings.inputs,
        client=kafka_client(settings),
        dlq=topics.name("dlq"),
        limits={topics.name(name): TABLE[name].bytes_max for name in ROUTER_TOPICS},
        restore=WindowReplay(policies.at(0).reach.longest_ms),
        batch_records_max=settings.batch_records_max,
    )
    lane = Lane(spec, router, lambda: router.state(budget), LaneMetrics(ROUTER, metrics))
    checks = {"partitions": lambda: "" if lane.ready else "not every partition is assigned and open"}
    version = {"version": __version__, "policy": loaded.digest, "instance": slot.instance}
    return [Health(metrics, checks, version, host=settings.bind, port=settings.metrics_port), lane]


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
    )
