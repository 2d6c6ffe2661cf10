"""A drill: load of the reserved tenant `drill`, a HALT over it, and how long that took, measured from the log alone.

In this order:
1. where `execute` ends now;
2. load, until it is seen to run and for a while longer; each action expires soon after it was proposed;
3. HALT over the tenant, signed by a service and marked as a drill: the one switch that a service may release;
4. the heartbeat that proves it EFFECTIVE, and load for a while longer, so that something could offend;
5. whatever lies parked expires; then the release, whatever went wrong before;
6. the time of every commit on `execute` since 1, by its marker (`lane.commits`).

Actions of the tenant carry `hitl-via` with role `control`, sealed under that role's key: routers refuse them from
anybody else.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import msgspec
import orjson
from aiokafka import AIOKafkaProducer, TopicPartition
from msgspec import Struct

from hitl_stream.core.commands import Engage, ReleaseRequest
from hitl_stream.core.control import DRILL
from hitl_stream.core.errors import BrokenError, HitlError, RefusedError, UsageError
from hitl_stream.core.events import Mode
from hitl_stream.core.switches import Switch, parsed
from hitl_stream.lane.admin import Client, reaching
from hitl_stream.lane.clock import steady_ms
from hitl_stream.lane.commander import Appended, Commander, commanding
from hitl_stream.lane.commits import CommitTimes, commit_times
from hitl_stream.lane.control_reader import ControlReader, reading_control
from hitl_stream.lane.heartbeats import Heartbeats, listening
from hitl_stream.lane.reader import Span, Spans, read, spans
from hitl_stream.lane.step import Header
from hitl_stream.wire.codec import Decoded, decode
from hitl_stream.wire.home import home
from hitl_stream.wire.records import VIA, Via, time_text
from hitl_stream.wire.seal import SealKey, sealer
from hitl_stream.wire.signing import SigningKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.via import via_headers

TENANT = DRILL[0].partition(":")[2]
TICK_S = 0.01
POLL_S = 0.1
FLOW_SECONDS_MAX = 15.0
"""So long the first action may take to run: a router that has just started restores its window first."""
ALIVE_S = 5.0
"""An action of a drill expires so long after it was proposed, so that no release lets it run."""
EXPIRED_S = 1.0
"""So much longer the release waits, for clocks."""
SETTLE_SECONDS = 20.0
"""A transaction that is open at the end is ended by the broker by then."""
ACCOUNTS_EACH = 4
"""Accounts for each partition."""

# aiokafka has no types; as Any its calls pass under strict.
_Producer: Any = AIOKafkaProducer
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is published, and for how long before the HALT and after its proof. `template` is an action that runs alone.

    `timeout_s` is how long to wait until it is EFFECTIVE.
    """

    template: Mapping[str, Any]
    rate: float = 1_000.0
    before_s: float = 3.0
    after_s: float = 3.0
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Place:
    """Where to drill, and with whose keys: a service's that may engage and release, and the control role's seal."""

    client: Client
    topics: TopicSet
    trust: str
    signer: SigningKey
    seal: SealKey


@dataclass(frozen=True)
class Figures:
    """What one drill came to. Times are in milliseconds after the command's append, by the broker's clock.

    `last_ms` is that of the last offending commit on `execute`, None where nothing offended; `effective_ms` None: it
    was not proved in time. `ran` counts all commits of the drill's actions; `open` are batches that nobody had ended
    yet. `append_ms` is how long the append took. `released` None: two people must.
    """

    epoch: int
    append_ms: int
    effective_ms: int | None
    published: int
    ran: int
    offending: int
    last_ms: int | None
    after_effective: int
    open: int
    released: int | None


async def drill(place: Place, plan: Plan, tell: Tell) -> Figures:
    """Run one drill.

    Raises `UsageError` where no action comes to run, `RefusedError` where the key may not engage or release, and
    `UnreachableError`. Whatever is raised, a HALT that was engaged is released first, if that is possible at all.
    """
    client, topics = place.client, place.topics
    starts = await spans(client, [topics.name("execute")], high=True)
    run = uuid.uuid4().hex[:12]
    async with AsyncExitStack() as stack:
        commander = await stack.enter_async_context(commanding(client, topics, place.signer))
        reader = await stack.enter_async_context(reading_control(client, topics, place.trust, commander.audience))
        log = await reader.catch_up()
        refuse_what_would_hold(log.control.switches.engaged.values())
        beats = await stack.enter_async_context(listening(client, topics, commander.audience, lambda: log.control.keys))
        load = await stack.enter_async_context(loading(place, plan, run, commander.now_ms))
        tell(f"publishing {plan.rate:g} actions a second of tenant {TENANT}")
        await _flowing(client, starts, run)
        await asyncio.sleep(plan.before_s)
        halted = await _halted(commander, reader, beats, load, plan, tell)
    return await _figures(client, starts, run, halted, load.published)


def refuse_what_would_hold(engaged: Iterable[Switch]) -> None:
    """Refuse to drill while everything, or the tenant, is stopped: nothing would run that could be stopped."""
    for switch in engaged:
        kinds = parsed(switch.scope)
        if not kinds or (kinds.keys() == {"tenant"} and not kinds["tenant"].isdisjoint(DRILL)):
            scope = " ".join(switch.scope) or "everything"
            raise UsageError(
                f"switch {switch.epoch} ({scope}) holds the drill's actions, so nothing could be measured; "
                f"release it first: hitl release request {switch.epoch} --reason …"
            )


# --- the switch -------------------------------------------------------------------------------------------------------


class Halted(NamedTuple):
    """A HALT that was engaged: how long its append took, when it was proved, and the epoch of its release."""

    engaged: Appended
    append_ms: int
    effective_ms: int | None
    released: int | None


async def _halted(
    commander: Commander, reader: ControlReader, beats: Heartbeats, load: Load, plan: Plan, tell: Tell
) -> Halted:
    """Engage, wait for the proof, and release: also where this fails or is cancelled."""
    before_ms = steady_ms()
    engaged = await commander.append(partial(Engage, scope=DRILL, mode=Mode.HALT, reason="drill", source="drill"))
    append_ms = steady_ms() - before_ms
    try:
        await _counted(reader, engaged)
        tell(f"APPENDED({engaged.epoch}): HALT over {DRILL[0]}")
        effective_ms = await _effective(beats, engaged, plan, tell)
        await asyncio.sleep(plan.after_s)
    finally:
        # Whatever has happened, nobody should have to release a drill by hand.
        released = await asyncio.shield(_release(commander, reader, engaged.epoch, load, tell))
    return Halted(engaged, append_ms, effective_ms, released)


async def _counted(reader: ControlReader, appended: Appended) -> None:
    why = (await reader.catch_up()).rejection_at(appended.epoch)
    if why is not None:
        raise RefusedError(f"command {appended.epoch} of the drill counts for nothing ({why}); see hitl keys show")


async def _effective(beats: Heartbeats, engaged: Appended, plan: Plan, tell: Tell) -> int | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + plan.timeout_s
    while (left := deadline - loop.time()) > 0:
        for beat in await beats.hear(min(left, POLL_S)):
            if beat.heartbeat.effective >= engaged.epoch:
                after_ms = max(0, beat.at_ms - engaged.at_ms)
                tell(f"EFFECTIVE({engaged.epoch}) after {after_ms} ms")
                return after_ms
    tell(f"NOT EFFECTIVE within {plan.timeout_s:g} s")
    return None


async def _release(commander: Commander, reader: ControlReader, epoch: int, load: Load, tell: Tell) -> int | None:
    """Release once everything parked has expired; None where that is not possible."""
    await load.stop()
    tell(f"waiting {ALIVE_S + EXPIRED_S:g} s, until what lies parked has expired")
    await asyncio.sleep(ALIVE_S + EXPIRED_S)
    try:
        appended = await commander.append(partial(ReleaseRequest, epochs=(epoch,), reason="the drill is over"))
        await _counted(reader, appended)
    except HitlError as error:
        tell(f"NOT RELEASED: {error}. Two people can: hitl release request {epoch}")
        return None
    tell(f"RELEASED({appended.epoch})")
    return appended.epoch


# --- load -------------------------------------------------------------------------------------------------------------


class Load:
    """Publishes actions at a rate, from `begin` until it is stopped."""

    def __init__(self, producer: Any, place: Place, plan: Plan, run: str, now_ms: Callable[[], int]) -> None:
        self.published = 0
        self._producer, self._plan, self._run, self._now_ms = producer, plan, run, now_ms
        self._topic = place.topics.name("actions")
        self._partitions = place.topics.partitions
        self._accounts = accounts(place.topics.partitions)
        self._headers = vouching(place.seal, self._topic, run)
        self._stopped = asyncio.Event()
        self._publishing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Start publishing."""
        self._publishing = asyncio.create_task(self._publish())

    async def stop(self) -> None:
        """Publish no more, and wait for what was sent; raise what publishing failed of."""
        self._stopped.set()
        if self._publishing is not None:
            await self._publishing
            self._publishing = None
            await self._producer.flush()

    async def _publish(self) -> None:
        """Publish tick by tick; one that came late publishes what it missed."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        while not self._stopped.is_set():
            due = int((loop.time() - started) * self._plan.rate)
            while self.published < due:
                await self._send(self.published)
                self.published += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._stopped.wait()

    async def _send(self, number: int) -> None:
        account = self._accounts[number % len(self._accounts)]
        value = action(self._plan.template, self._run, number, account, self._now_ms())
        sent = await self._producer.send(
            self._topic, value, partition=home(TENANT, account, self._partitions), headers=self._headers(value)
        )
        sent.add_done_callback(_take_up)


def _take_up(sent: asyncio.Future[Any]) -> None:
    """Take up what a delivery raised: an action that did not come is one less to measure."""
    if not sent.cancelled():
        sent.exception()


@asynccontextmanager
async def loading(place: Place, plan: Plan, run: str, now_ms: Callable[[], int]) -> AsyncIterator[Load]:
    """Give a load that publishes."""
    producer = _Producer(**place.client, acks=1, linger_ms=5, retry_backoff_ms=20)
    with reaching(place.client):
        await producer.start()
        load = Load(producer, place, plan, run, now_ms)
        try:
            load.begin()
            yield load
        finally:
            try:
                await load.stop()
            finally:
                await producer.stop()


def accounts(partitions: int) -> tuple[str, ...]:
    """Return accounts of the tenant, as many at home in each partition."""
    found: dict[int, list[str]] = {number: [] for number in range(partitions)}
    number = 0
    while any(len(of) < ACCOUNTS_EACH for of in found.values()):
        account = f"{TENANT}-{number}"
        of = found[home(TENANT, account, partitions)]
        if len(of) < ACCOUNTS_EACH:
            of.append(account)
        number += 1
    return tuple(of[place] for place in range(ACCOUNTS_EACH) for of in found.values())


def action(template: Mapping[str, Any], run: str, number: int, account: str, now_ms: int) -> bytes:
    """Return an action of the drill: the template's, of an id and a campaign of its own, which expires soon."""
    entity = {"account": account, "campaign": f"{TENANT}-{run}-{number}"}
    made = dict(template) | {
        "action_id": f"{TENANT}-{run}-{number}",
        "tenant": TENANT,
        "proposed_at": time_text(now_ms),
        "expires_at": time_text(now_ms + int(ALIVE_S * 1000)),
    }
    if made.get("changes"):
        made["changes"] = [dict(change) | {"entity": entity} for change in made["changes"]]
    else:
        made["entity"] = entity
    return orjson.dumps(made)


def vouching(seal: SealKey, topic: str, run: str) -> Callable[[bytes], list[Header]]:
    """Return a function that gives an action the headers by which routers know that control wrote it."""
    sealed = sealer(seal, topic, VIA)
    via = Via(role="control", from_=f"{TENANT}/{run}", by=TENANT)

    def headers(value: bytes) -> list[Header]:
        decoded = decode(value)
        if not isinstance(decoded, Decoded):
            raise BrokenError(f"the drill's action cannot be read: {decoded.error}: {decoded.why}")
        return via_headers(sealed, via, decoded.hash)

    return headers


# --- measuring --------------------------------------------------------------------------------------------------------


class _Ran(Struct):
    tenant: str
    action_id: str


_decode = msgspec.json.Decoder(_Ran).decode


def is_of(run: str, value: bytes | None) -> bool:
    """Say whether a record of `execute` is an action of this drill."""
    try:
        found = _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return found.tenant == TENANT and found.action_id.startswith(f"{TENANT}-{run}-")


async def _flowing(client: Client, starts: Spans, run: str) -> None:
    """Return once an action of the drill came to run."""
    topic = next(iter(starts)).topic if starts else "execute"
    try:
        async with asyncio.timeout(FLOW_SECONDS_MAX):
            while True:
                now = await spans(client, [topic])
                wanted = {tp: Span(at.first, starts[tp].end, now[tp].end) for tp, at in starts.items() if tp in now}
                async with aclosing(read(client, wanted)) as batches:
                    async for _, _, records in batches:
                        if any(is_of(run, record.value) for record in records):
                            return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise UsageError(
            f"no action of the drill came to run within {FLOW_SECONDS_MAX:g} s: is a router up, does it know the seal "
            "key of control, and does the policy in force let this action run alone?"
        ) from None


async def _figures(client: Client, starts: Spans, run: str, halted: Halted, published: int) -> Figures:
    times = {
        tp: await commit_times(client, tp.topic, tp.partition, at.end, patience_s=SETTLE_SECONDS)
        for tp, at in starts.items()
    }
    ran: list[int] = []
    ends = await spans(client, {tp.topic for tp in starts}, high=True)
    wanted = {tp: Span(at.first, at.end, ends[tp].end) for tp, at in starts.items()}
    async with aclosing(read(client, wanted)) as batches:
        async for topic, partition, records in batches:
            of = times[TopicPartition(topic, partition)]
            ran += [
                at for record in records if is_of(run, record.value) and (at := _at_ms(of, record.offset)) is not None
            ]
    return judged(halted, published, ran, sum(s.at_ms is None for of in times.values() for s in of.stretches))


def _at_ms(times: CommitTimes, offset: int) -> int | None:
    stretch = times.of(offset)
    return None if stretch is None else stretch.at_ms


def judged(halted: Halted, published: int, ran: list[int], open_: int) -> Figures:
    """Return the figures of a drill whose actions were committed to `execute` at these times."""
    appended_ms, effective_ms = halted.engaged.at_ms, halted.effective_ms
    late = [at - appended_ms for at in ran if at > appended_ms]
    return Figures(
        epoch=halted.engaged.epoch,
        append_ms=halted.append_ms,
        effective_ms=effective_ms,
        published=published,
        ran=len(ran),
        offending=len(late),
        last_ms=max(late, default=None),
        after_effective=0 if effective_ms is None else sum(at > effective_ms for at in late),
        open=open_,
        released=halted.released,
    )
