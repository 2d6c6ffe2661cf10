"""`hitl run ROLE…`: one process with these roles, until a signal ends it or the first crash does.

In this order, so that what is missing here is said before anybody waits for Kafka:
1. settings, then the log;
2. policy, keys and a slot, which building the services needs;
3. Kafka, for up to `KAFKA_SECONDS_MAX`;
4. the topics, each with its number of partitions;
5. the services, until the end.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import structlog
import uvloop
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from cyclopts import App, Parameter
from mode.types import ServiceT

from hitl_stream import logs
from hitl_stream.cli.settings import NO_FLAGS, SettingsFlags
from hitl_stream.core.errors import BrokenError, HitlError, SettingsError, UnreachableError, UsageError
from hitl_stream.metrics import Metrics
from hitl_stream.process import serve
from hitl_stream.roles.plugins import Plugins
from hitl_stream.roles.router import Judge
from hitl_stream.settings import Settings
from hitl_stream.wire.topics import (
    CONSOLE_TOPICS,
    CONTROL_TOPICS,
    DESK_TOPICS,
    EXECUTOR_TOPICS,
    MONITOR_TOPICS,
    ROUTER_TOPICS,
    TopicSet,
)
from hitl_stream.wiring import (
    CONSOLE,
    CONTROL,
    CONTROL_READS,
    DESK,
    EXECUTOR,
    MONITOR,
    ROUTER,
    console_services,
    control_services,
    desk_services,
    executor_services,
    kafka_client,
    monitor_services,
    new_metrics,
    router_services,
    together,
    topic_set,
)

KAFKA_SECONDS_MAX = 15.0
"""A broker that restarts is back sooner; whoever supervises us starts us again."""
PATIENCE_SECONDS = 1.0
"""So long nothing is said of the waiting."""
POLL_SECONDS = 0.25
ANSWER_SECONDS_MAX = 5.0
"""One attempt to connect, or one question to a broker that took the connection."""

ROLES: Mapping[str, Callable[[Settings, Judge, Metrics], list[ServiceT]]] = {
    ROUTER: router_services,
    DESK: desk_services,
    EXECUTOR: executor_services,
    CONTROL: control_services,
    CONSOLE: console_services,
    MONITOR: monitor_services,
}
TOPICS: Mapping[str, tuple[str, ...]] = {
    ROUTER: (*ROUTER_TOPICS, *CONTROL_TOPICS),
    DESK: (*DESK_TOPICS, *CONTROL_TOPICS),
    EXECUTOR: (*EXECUTOR_TOPICS, *CONTROL_TOPICS),
    CONTROL: (*CONTROL_TOPICS, *CONTROL_READS),
    CONSOLE: (*CONSOLE_TOPICS, *CONTROL_TOPICS),
    MONITOR: (*MONITOR_TOPICS, *CONTROL_TOPICS),
}


def register(app: App) -> None:
    """Add the verb."""
    app.command(run)


def run(*roles: Annotated[str, Parameter(name="ROLE")], flags: SettingsFlags = NO_FLAGS) -> int:
    """Run roles in this process until a signal ends it: `hitl run router`.

    Nothing leaves a router or an executor while no control role runs.

    Parameters
    ----------
    roles
        Which: router, desk, executor, console, control, monitor.
    """
    _known(roles)
    settings = flags.load()
    logs.configure(settings.log_format, settings.log_level)
    log = structlog.get_logger()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until `serve` takes both signals
    with Plugins() as judge:
        try:
            metrics = new_metrics(settings)
            services = together(
                [service for role in dict.fromkeys(roles) for service in ROLES[role](settings, judge, metrics)]
            )
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_preflight(settings, roles))
        except KeyboardInterrupt:
            log.info("stopped before it started")
            return 0
        log.info("starting", roles=list(dict.fromkeys(roles)), kafka=settings.kafka, prefix=settings.prefix)
        _serve(services)
    log.info("stopped")
    return 0


def _serve(services: list[ServiceT]) -> None:
    log = structlog.get_logger()
    try:
        serve(services)
    except BrokenError as error:
        log.critical("crashed; the log replays what was under way", exc_info=error.__cause__ or error)
        raise
    except HitlError:
        raise
    except Exception as error:
        log.critical("crashed; the log replays what was under way", exc_info=error)
        raise BrokenError(f"{type(error).__name__}: {error}") from error


def _known(roles: tuple[str, ...]) -> None:
    there_are = f"the roles are: {', '.join(ROLES)}"
    if not roles:
        raise UsageError(f"no role given; {there_are}. Try: hitl run router")
    for role in roles:
        if role not in ROLES:
            raise UsageError(f"no role {role!r}; {there_are}")


async def _preflight(settings: Settings, roles: tuple[str, ...]) -> None:
    """Wait for Kafka, then look whether the roles' topics are as they must be."""
    topics = topic_set(settings)
    needed = {topics.name(name): topics.count(name) for role in roles for name in TOPICS[role]}
    needed |= dict.fromkeys(settings.sources, topics.partitions)
    found = await _partitions(settings, list(needed))
    wrong = [_differs(name, count, found.get(name)) for name, count in needed.items() if found.get(name) != count]
    if wrong:
        raise SettingsError("\n".join([*wrong, _remedy(settings, topics, found)]))


def _differs(name: str, wanted: int, found: int | None) -> str:
    there = "is not there" if found is None else f"has {found} partitions"
    return f"topic {name} {there}, expected {wanted} partitions"


def _remedy(settings: Settings, topics: TopicSet, found: Mapping[str, int]) -> str:
    actions = found.get(topics.name("actions"))
    if actions is not None and actions != topics.partitions:
        return (
            f"Their number is fixed for the life of a topic set: run with --partitions {actions}, "
            "or another --prefix and `hitl topics apply`"
        )
    return f"Run: hitl topics apply --kafka {settings.kafka} --prefix {topics.prefix} --partitions {topics.partitions}"


async def _partitions(settings: Settings, names: list[str]) -> dict[str, int]:
    """Return how many partitions each topic has, without those that are not there; wait for Kafka until then."""
    log = structlog.get_logger()
    client, started, said = kafka_client(settings), time.monotonic(), False
    while True:
        try:
            await _listens(settings.kafka)
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                return await _ask(client, names)
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            waited = time.monotonic() - started
            why = _plain(error)
            if waited > KAFKA_SECONDS_MAX - POLL_SECONDS:
                raise UnreachableError(_unreached(settings, waited, why)) from None
            if waited > PATIENCE_SECONDS and not said:
                said = True
                log.warning("waiting for kafka", kafka=settings.kafka, error=why, seconds_max=KAFKA_SECONDS_MAX)
            await asyncio.sleep(POLL_SECONDS)


def _unreached(settings: Settings, waited: float, why: str) -> str:
    protocol = settings.kafka_security.security_protocol
    return (
        f"Kafka was not reached at {settings.kafka} ({protocol}) within {waited:.0f} s: {why}. Nothing was written.\n"
        "Check that the broker runs and that this host reaches it; --kafka HOST:PORT or HITL_KAFKA names another, "
        "and `hitl broker` starts one here to try things with"
    )


def _plain(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


async def _listens(bootstrap: str) -> None:
    """Connect to any of the servers: a Kafka client would log every refusal, and say less."""
    refused: Exception = OSError("no server")
    for server in bootstrap.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except OSError as error:
            refused = error
            continue
        writer.close()
        return
    raise refused


async def _ask(client: Mapping[str, Any], names: list[str]) -> dict[str, int]:
    admin = AIOKafkaAdminClient(**client)
    try:
        await admin.start()
        # All of them, since asking for one by name can create it where the broker allows that.
        metadata = (await admin._get_cluster_metadata()).to_object()
    finally:
        await admin.close()
    return {topic["topic"]: len(topic["partitions"]) for topic in metadata["topics"] if topic["topic"] in names}
