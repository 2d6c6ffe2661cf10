"""Joining the console's parts into services, from what the settings name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mode import Service
from mode.types import ServiceT

from hitl_stream.console.app import LOOPBACK, Web, application
from hitl_stream.console.append import FeedbackReader, KafkaWriter
from hitl_stream.console.feed import Feed
from hitl_stream.console.live import Live, Sampler
from hitl_stream.console.office import Office, Standing
from hitl_stream.console.pairs import Pairs
from hitl_stream.console.people import People
from hitl_stream.console.seen import Seen
from hitl_stream.console.sign import Signer
from hitl_stream.console.store import Store
from hitl_stream.console.watch import ControlWatch
from hitl_stream.console.watching import Watching, WatchingFeed
from hitl_stream.core.commands import Command
from hitl_stream.lane.commander import append
from hitl_stream.wire.policy_file import LoadedPolicy
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import SigningKey
from hitl_stream.wire.topics import TopicSet

WRITERS: Mapping[str, tuple[str, ...]] = {
    "reviews": ("desk",),
    "decisions": ("desk",),
    "closed": ("router", "desk", "executor"),
    "results": ("executor",),
}
"""Which roles' seals are good, by topic that the view is folded from."""
ANYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True)
class Console:
    """The services in the order in which they start, what `/readyz` asks, and where it listens."""

    services: list[ServiceT]
    checks: Mapping[str, Callable[[], str]]
    web: Web
    office: Office


def console(
    client: Mapping[str, Any],
    topics: TopicSet,
    trust: str,
    loaded: LoadedPolicy,
    key: SigningKey,
    store: Store,
    people: People,
    seals: Mapping[str, Mapping[str, SealKey]],
    instance: str,
    *,
    bind: str,
    port: int,
    hosts: Collection[str],
    tenant: str,
    clock_ms: Callable[[], int],
    scrape: Sequence[str] = (),
    pseudonyms: SealKey | None = None,
    names: bool = False,
) -> Console:
    """Build a console. `pseudonyms` is the monitor's key of them; `names`: reviewers are told by name to owners."""
    watch = ControlWatch(client, topics, trust, loaded, key.key_id, seals)
    pairs, writer = Pairs(), KafkaWriter(client, topics)
    live, seen, watching = Live(scrape), Seen(), Watching(pseudonyms, names=names)
    keys = {topic: _together(seals, roles) for topic, roles in WRITERS.items()}
    feed = Feed(client, topics, store, keys, pairs, clock_ms, seen.take)

    async def engage(make: Callable[..., Command]) -> Standing:
        appended = await append(client, topics, key, make)
        return Standing(appended.epoch, appended.at_ms)

    office = Office(
        store=store,
        people=people,
        signer=Signer(key),
        watched=watch,
        policies=watch.policy,
        writer=writer,
        engage=engage,
        read_feedback=FeedbackReader(client, topics, seals.get("desk", {})),
        pairs=pairs,
        topics=topics,
        clock_ms=clock_ms,
        via_key=next(reversed(list(seals.get("console", {}).values())), None),
        tenant=tenant,
        instance=instance,
        live=live,
        seen=seen,
        watching=watching,
    )
    own_names = {*LOOPBACK, *hosts} | ({bind} - set(ANYWHERE))
    web = Web(application(office, own_names), bind, port)
    monitored = WatchingFeed(client, topics, watching, seals.get("monitor", {}))
    sampler = Sampler(live, scrape, clock_ms)
    services: list[ServiceT] = [_Stores(store, people), watch, writer, feed, monitored, sampler, web]
    return Console(services, {"control": watch.missing, "view": feed.missing}, web, office)


def _together(seals: Mapping[str, Mapping[str, SealKey]], roles: Collection[str]) -> dict[str, SealKey]:
    return {key_id: key for role in roles for key_id, key in seals.get(role, {}).items()}


class _Stores(Service):
    """Closes the databases after everything that uses them has stopped."""

    def __init__(self, store: Store, people: People) -> None:
        super().__init__()
        self._store, self._people = store, people

    async def on_stop(self) -> None:
        await self._store.close()
        await self._people.close()
