"""Making and checking the topics: what a cluster lacks or has otherwise, and how it is brought in line.

Rules:
- `plan` only looks. `apply` creates what is absent and sets configuration that differs, key by key, so that what
  somebody else set on a topic stays. Neither ever changes partitions or replicas: growing N is a drained migration.
- `check` is `plan` and the arithmetic of sizes: whatever comes in must fit, with our envelope, into what goes out.
- Every call ends within a limit, with `UnreachableError` naming the bootstrap.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.types import Array, Boolean, Int8, Int16, Int32, Schema, String

from hitl_stream.core.action import ACTION_BYTES_MAX
from hitl_stream.core.errors import BrokenError, HitlError, Problem, RefusedError, UnreachableError, UsageError
from hitl_stream.wire.topics import ENVELOPE_BYTES_MAX, TABLE, Topic, TopicSet

REACH_SECONDS_MAX = 10.0
"""A broker that is there answers within one; two brokers of three may be gone first."""
REQUEST_TIMEOUT_MS = 30_000
LEADERS_SECONDS_MAX = 30.0
LEADERS_POLL_SECONDS = 0.05
REPLICATION_WANTED = 3
IN_SYNC_WANTED = 2
"""With three replicas: one may be down, and what is acknowledged still stands on two."""
BYTES_KEY = "max.message.bytes"
PARTITIONS_KEY = "partitions"
REPLICATION_KEY = "replication.factor"
ROUTER_OUTPUTS = ("actions", "execute", "review", "escalation", "review.seeded", "recommendations", "held", "closed")
REFUSALS = (
    AuthenticationFailedError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

State = Literal["absent", "ok", "differs"]
Client: TypeAlias = Mapping[str, Any]
"""What every Kafka client of this process is made with; `bootstrap_servers` is among it."""

# aiokafka has no types; as Any its calls pass under strict.
_Admin: Any = AIOKafkaAdminClient


@dataclass(frozen=True)
class Difference:
    """One thing about a topic that is not as it should be. `settable` ones `apply` mends; the others say what would."""

    key: str
    found: str
    wanted: str
    settable: bool = True
    remedy: str = ""


@dataclass(frozen=True)
class TopicPlan:
    """One topic: as it should be, and what differs. `name` is ours, `topic` is Kafka's."""

    name: str
    topic: str
    state: State
    partitions: int
    replication: int
    config: Mapping[str, str]
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True)
class Applied:
    """What `apply` did, by Kafka's names, and what is left that it does not do."""

    created: tuple[str, ...]
    altered: tuple[str, ...]
    left: tuple[TopicPlan, ...]


async def plan(
    client: Client,
    topics: TopicSet,
    names: Iterable[str] | None = None,
    *,
    sources: Iterable[str] = (),
    replication: int | None = None,
) -> tuple[TopicPlan, ...]:
    """Compare the topics of the table (or `names` of it) with what the cluster has.

    `sources` are further action topics, by their Kafka names. `replication` None means as many replicas as there are
    brokers, at most three.
    """
    async with _admin(client) as admin:
        return await _plan(admin, topics, names, sources, replication)


async def apply(
    client: Client,
    topics: TopicSet,
    names: Iterable[str] | None = None,
    *,
    sources: Iterable[str] = (),
    replication: int | None = None,
) -> Applied:
    """Create what is absent and set what differs; return once every new partition has a leader.

    Raises `UsageError` for a replication factor that the cluster cannot give, `RefusedError` without the right.
    """
    async with _admin(client) as admin:
        plans = await _plan(admin, topics, names, sources, replication)
        created = await _create(admin, [one for one in plans if one.state == "absent"])
        altered = await _alter(admin, [one for one in plans if any(d.settable for d in one.differences)])
        await _led(admin, created)
        left = tuple(one for one in plans if any(not d.settable for d in one.differences))
        return Applied(created, altered, left)


async def check(
    client: Client,
    topics: TopicSet,
    names: Iterable[str] | None = None,
    *,
    sources: Iterable[str] = (),
    replication: int | None = None,
) -> tuple[Problem, ...]:
    """Say what is wrong with the topics; `path` is the topic. Nothing is changed."""
    async with _admin(client) as admin:
        plans = await _plan(admin, topics, names, sources, replication)
        limits = await _limits(admin, [one for one in plans if one.state != "absent"])
    return (*_problems(plans), *_too_small(plans, limits))


def _problems(plans: Iterable[TopicPlan]) -> Iterator[Problem]:
    for one in plans:
        if one.state == "absent":
            yield Problem("topics.absent", "does not exist; create it: hitl topics apply", one.topic)
        for d in one.differences:
            remedy = d.remedy or "set it: hitl topics apply"
            yield Problem(f"topics.{d.key}", f"{d.key} is {d.found}, expected {d.wanted}; {remedy}", one.topic)


def _too_small(plans: Sequence[TopicPlan], limits: Mapping[str, int]) -> Iterator[Problem]:
    """Input and envelope must fit the output: an action each decision, any record the dead letters."""
    by_name = {one.name: one.topic for one in plans if one.topic in limits}
    for name in ROUTER_OUTPUTS:
        if name in by_name:
            yield from _fits(by_name[name], limits, ACTION_BYTES_MAX, "the longest action")
    if "dlq" not in by_name:
        return
    for one in plans:
        if one.topic in limits and _is_input(one.name):
            yield from _fits(by_name["dlq"], limits, limits[one.topic], f"a record of {one.topic}")


def _is_input(name: str) -> bool:
    return name != "dlq" and any(role in TABLE[name].read_by for role in ("router", "desk", "executor"))


def _fits(output: str, limits: Mapping[str, int], size: int, what: str) -> Iterator[Problem]:
    needed = size + ENVELOPE_BYTES_MAX
    if limits[output] < needed:
        found = f"{BYTES_KEY} is {limits[output]}, but {what} ({size}) and its envelope ({ENVELOPE_BYTES_MAX}) need"
        yield Problem("topics.size", f"{found} {needed}; raise it, or lower the input's", output)


# --- looking ----------------------------------------------------------------------------------------------------------


def wanted(
    topics: TopicSet, names: Iterable[str] | None = None, sources: Iterable[str] = ()
) -> tuple[tuple[str, Topic], ...]:
    """Return (Kafka name, topic of the table) of every topic asked for; raise `UsageError` for a name that is none."""
    chosen = tuple(TABLE) if names is None else tuple(names)
    unknown = [name for name in chosen if name not in TABLE]
    if unknown:
        raise UsageError(f"{', '.join(unknown)}: no topic of ours; they are {', '.join(TABLE)}")
    found = {topics.name(name): TABLE[name] for name in chosen}
    if "actions" in chosen:
        found |= {source: TABLE["actions"] for source in sources if source not in found}
    return tuple(found.items())


async def _plan(
    admin: Any, topics: TopicSet, names: Iterable[str] | None, sources: Iterable[str], replication: int | None
) -> tuple[TopicPlan, ...]:
    asked = wanted(topics, names, sources)
    # All of them, since asking for one by name can create it where the broker allows that.
    metadata = (await admin._get_cluster_metadata()).to_object()
    replicas = replication or min(REPLICATION_WANTED, len(metadata["brokers"]))
    there = {found["topic"]: found["partitions"] for found in metadata["topics"]}
    configs = await _configs(admin, {topic: _config(ours, replicas) for topic, ours in asked if topic in there})
    plans = []
    for topic, ours in asked:
        config, partitions = _config(ours, replicas), topics.count(ours.name)
        if topic not in there:
            plans.append(TopicPlan(ours.name, topic, "absent", partitions, replicas, config))
            continue
        differences = (*_shape(there[topic], partitions, replicas), *_settings(config, configs[topic]))
        state: State = "differs" if differences else "ok"
        plans.append(TopicPlan(ours.name, topic, state, partitions, replicas, config, differences))
    return tuple(plans)


def _config(topic: Topic, replicas: int) -> dict[str, str]:
    config = topic.config()
    if replicas >= REPLICATION_WANTED:
        config["min.insync.replicas"] = str(IN_SYNC_WANTED)
    return config


def _shape(found: Sequence[Mapping[str, Any]], partitions: int, replicas: int) -> Iterator[Difference]:
    if len(found) != partitions:
        remedy = (
            f"growing {len(found)} to {partitions} is a drained migration (homes move); nothing here does it"
            if len(found) < partitions
            else f"partitions never shrink; set partitions = {len(found)}, or take another prefix"
        )
        yield Difference(PARTITIONS_KEY, str(len(found)), str(partitions), False, remedy)
    fewest = min((len(partition["replicas"]) for partition in found), default=0)
    if fewest < replicas:
        remedy = "reassign the replicas with kafka-reassign-partitions.sh"
        yield Difference(REPLICATION_KEY, str(fewest), str(replicas), False, remedy)


def _settings(config: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Difference]:
    for key, value in config.items():
        is_ = found.get(key, "")
        if set(is_.replace(" ", "").split(",")) != set(value.split(",")):
            yield Difference(key, is_ or "(not told)", value)


async def _configs(admin: Any, keys: Mapping[str, Iterable[str]]) -> dict[str, dict[str, str]]:
    """Return {topic: {key: value}} of the given keys."""
    if not keys:
        return {}
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict.fromkeys(of, "")) for topic, of in keys.items()
    ]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(asked):
        for code, message, _, topic, entries in response.resources:
            _raise_for(code, message, topic)
            found[topic] = {entry[0]: entry[1] or "" for entry in entries}
    return found


async def _limits(admin: Any, plans: Iterable[TopicPlan]) -> dict[str, int]:
    configs = await _configs(admin, {one.topic: (BYTES_KEY,) for one in plans})
    return {topic: int(config[BYTES_KEY]) for topic, config in configs.items() if config.get(BYTES_KEY, "").isdigit()}


async def retentions(client: Client, topics: Iterable[str]) -> dict[str, int | None]:
    """Return for how many milliseconds each existing topic keeps a record at least; None where no time says so."""
    async with _admin(client) as admin:
        found = await _configs(admin, dict.fromkeys(topics, ("retention.ms", "retention.bytes")))
    kept: dict[str, int | None] = {}
    for topic, config in found.items():
        age = int(config.get("retention.ms") or -1)
        kept[topic] = age if age >= 0 and config.get("retention.bytes", "-1") == "-1" else None
    return kept


async def cluster_id(client: Client) -> str:
    """Return the id of the cluster, which commands are addressed to."""
    async with _admin(client) as admin:
        found, _ = await described(admin._client, ())
    return found


async def described(kafka: Any, topics: Iterable[str]) -> tuple[str, dict[str, int]]:
    """Ask a started client of aiokafka for (the cluster's id, {topic: partitions}); an absent topic is left out.

    The brokers are asked one after another until one answers, and no topic is made by asking for it.
    """
    nodes = [broker.nodeId for broker in kafka.cluster.brokers()]
    failed: KafkaError | None = None
    for node in random.sample(nodes, len(nodes)):
        try:
            answer = (await kafka.send(node, MetadataRequest(list(topics), False))).to_object()
        except KafkaError as error:
            failed = error
            continue
        if not answer["cluster_id"]:
            raise BrokenError(
                "Kafka names no cluster id, which commands are addressed to; is it Apache Kafka 4.0 or newer?"
            )
        there = [one for one in answer["topics"] if not one["error_code"]]
        return answer["cluster_id"], {one["topic"]: len(one["partitions"]) for one in there}
    raise failed or KafkaConnectionError("no broker is known")


# --- changing ---------------------------------------------------------------------------------------------------------


async def _create(admin: Any, plans: Sequence[TopicPlan]) -> tuple[str, ...]:
    if not plans:
        return ()
    new = [
        NewTopic(one.topic, one.partitions, one.replication, topic_configs=dict(one.config)) for one in plans
    ]  # fmt: skip
    response = await admin.create_topics(new)
    created = []
    for topic, code, message in response.topic_errors:
        if code == TopicAlreadyExistsError.errno:
            continue  # somebody else was faster: the next plan compares it
        if code == InvalidReplicationFactorError.errno:
            raise UsageError(
                f"{topic}: {message or 'the cluster has fewer brokers'}; choose another with --replication"
            )
        _raise_for(code, message, topic)
        created.append(topic)
    return tuple(created)


async def _led(admin: Any, created: Sequence[str]) -> None:
    """Wait until each new partition has a leader: before that, the first write to it would fail."""
    waiting = set(created)
    async with asyncio.timeout(LEADERS_SECONDS_MAX):
        while waiting:
            for found in (await admin._get_cluster_metadata()).to_object()["topics"]:
                if found["partitions"] and all(p["leader"] >= 0 for p in found["partitions"]):
                    waiting.discard(found["topic"])
            if waiting:
                await asyncio.sleep(LEADERS_POLL_SECONDS)


async def _alter(admin: Any, plans: Sequence[TopicPlan]) -> tuple[str, ...]:
    if not plans:
        return ()
    resources = [(_TOPIC, one.topic, [(d.key, _SET, d.wanted) for d in one.differences if d.settable]) for one in plans]
    response = await admin._send_request(_AlterConfigs(resources))
    for code, message, _, topic in response.resources:
        _raise_for(code, message, topic)
    return tuple(one.topic for one in plans)


_TOPIC = 2
_SET = 0


class _AlterConfigsResponse(Response):
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("resources", Array(
            ("error_code", Int16), ("error_message", String("utf-8")), ("type", Int8), ("name", String("utf-8")))),
    )  # fmt: skip


class _AlterConfigsRequest(RequestStruct):
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _AlterConfigsResponse
    SCHEMA = Schema(
        ("resources", Array(
            ("type", Int8), ("name", String("utf-8")),
            ("configs", Array(("key", String("utf-8")), ("operation", Int8), ("value", String("utf-8")))))),
        ("validate_only", Boolean),
    )  # fmt: skip


_RequestT: TypeAlias = _AlterConfigsRequest


class _AlterConfigs(Request[_RequestT]):
    """IncrementalAlterConfigs (KIP-339), which aiokafka lacks: its AlterConfigs would drop every key not named."""

    API_KEY = 44

    def __init__(self, resources: list[tuple[int, str, list[tuple[str, int, str]]]]) -> None:
        self.resources = resources

    def build(self, request_struct_class: type[_RequestT]) -> _RequestT:
        return request_struct_class(self.resources, False)


# --- reaching ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _admin(client: Client) -> AsyncIterator[Any]:
    with reaching(client):
        admin = _Admin(**{"request_timeout_ms": REQUEST_TIMEOUT_MS} | dict(client))
        try:
            async with asyncio.timeout(REACH_SECONDS_MAX):
                await admin.start()
            yield admin
        finally:
            await admin.close()


@contextmanager
def reaching(client: Client) -> Iterator[None]:
    """Turn what a Kafka client raises into our own errors: not reached, no right, or broken.

    An `OSError` is none of Kafka's: aiokafka says in errors of its own what its sockets do. A `TimeoutError` is that of
    the limit around a call.
    """
    bootstrap = client["bootstrap_servers"]
    try:
        yield
    except HitlError:
        raise
    except REFUSALS as error:
        raise RefusedError(f"Kafka at {bootstrap} refuses: {_said(error)}; check kafka_security and the ACLs") from None
    except (KafkaConnectionError, KafkaTimeoutError, TimeoutError) as error:
        raise UnreachableError(f"Kafka at {bootstrap} was not reached: {_said(error)}; {_ADVICE}") from None
    except KafkaError as error:
        if error.retriable or str(error).endswith(_NOBODY):
            raise UnreachableError(f"Kafka at {bootstrap} does not answer: {_said(error)}; try again") from None
        raise BrokenError(f"Kafka at {bootstrap}: {_said(error)}") from error


_NOBODY = "Unable to get cluster metadata over all known brokers"
"""What aiokafka says, in an error of no class of its own, where a connection stands and nobody answers."""
_ADVICE = "is it running, and is the address right (--kafka, HITL_KAFKA)?"


def _said(error: BaseException) -> str:
    name = type(error).__name__
    text = str(error).removeprefix(f"{name}: ")
    if isinstance(error, KafkaConnectionError) and text.startswith("Unable to bootstrap"):
        return "nobody answers there"
    if isinstance(error, TimeoutError):
        return f"no answer within {REACH_SECONDS_MAX:g} s"
    return f"{name}: {text}" if text else name


def _raise_for(code: int, message: str | None, topic: str) -> None:
    if code:
        raise for_code(code)(f"{topic}: {message or 'no reason given'}")
