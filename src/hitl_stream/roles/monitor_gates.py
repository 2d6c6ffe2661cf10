"""Gates in the monitor: evidence about each is kept, and one that was removed too soon is put back.

Beside what the monitor does with a judgement of its own:
1. what it says of the gates that it was put under is written to `monitor.gates`, before it is acknowledged; and so is
   what the desk has closed on `closed` because nobody judged it in time, as an error;
2. each audit on `evidence` of what a removed gate let through is held against the share of errors that was signed with
   its removal (`monitor.relapse`). Where that has grown, a signed `enforce` goes to `control`, which holds at once, and
   an alert to `alerts`; then the table is written, and then the audit acknowledged. Said twice after a crash, the
   command has the same id and counts once, and so has the alert.

What gates were, and since when which of them is gone for whom, is read from `control`: on to its end wherever a record
is younger than what was read of it. Of a policy that neither control nor the settings know, nothing is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Protocol

import structlog
from mode import Service
from msgspec.structs import replace

from hitl_stream.core.commands import GateChange
from hitl_stream.core.errors import RefusedError
from hitl_stream.core.events import End, Rejection
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import Terms
from hitl_stream.lane.admin import cluster_id
from hitl_stream.lane.commander import append
from hitl_stream.lane.control_reader import ControlReader, reading_control
from hitl_stream.roles.gate_keeping import (
    COUNTS,
    Watched,
    day_of,
    decode_watched,
    encode,
    expired_after,
    forgotten,
    kept_after,
    returns,
    watched_after,
    watched_key,
)
from hitl_stream.roles.monitor_app import RAW, Acks, new_table
from hitl_stream.roles.monitor_state import APART, Place
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.decided import opened
from hitl_stream.wire.desk_records import Observation, ms_of
from hitl_stream.wire.gate_past import GatePast, Removal
from hitl_stream.wire.home import partition_of
from hitl_stream.wire.records import CLOSED, Closed, decode_closed, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.signing import SigningKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.watched import ALERT, Alert, alert_value, read_observation

EVIDENCE = "monitor.gates"
RELAPSE = "monitor.relapse"
GATE = "gate"
NOT_THE_DESKS = "no end that a desk has written"
LOOK_EVERY_S = 1.0
"""For a policy that is not known: no judgement follows a promotion sooner than a person can read."""


class Spec(Protocol):
    """What is needed of `monitor.MonitorSpec`."""

    @property
    def client(self) -> Mapping[str, Any]:
        """How Kafka is reached."""

    @property
    def topics(self) -> TopicSet:
        """The installation's topics."""

    @property
    def trust(self) -> str:
        """Digest of the first keys record."""

    @property
    def desk_keys(self) -> Mapping[str, SealKey]:
        """What observations are sealed with."""

    @property
    def seal_key(self) -> SealKey:
        """The monitor's own, for alerts."""

    @property
    def signing(self) -> SigningKey:
        """The one that commands are signed with."""

    @property
    def watch_people(self) -> bool:
        """Whether anything is kept of people at all."""

    @property
    def policies(self) -> Mapping[str, Policy]:
        """Policies that routers run with although control has promoted none, by digest."""


class GateKeeping(Service):
    """The gates' part of one worker. `failed` is told what must end the process."""

    def __init__(
        self, spec: Spec, failed: Callable[[BaseException], None], clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.spec = spec
        self.past = GatePast("", spec.trust, spec.policies)
        self._clock = clock
        self._reader: ControlReader | None = None
        self._read_ms = 0
        """Up to this time control has been read for certain."""
        self._opened = AsyncExitStack()
        self._gates: Any = None
        self._relapse: Any = None
        self._alerts: Any = None
        self._acks, self._acks_of_ends = Acks(failed), Acks(failed)
        self._swept: dict[int, int] = {}
        self._emptied: set[int] = set()
        self._evidence, self._closed = spec.topics.name("evidence"), spec.topics.name("closed")
        self._seal = sealer(spec.seal_key, spec.topics.name("alerts"), ALERT)
        self.log = structlog.get_logger(role="monitor")

    # --- its life -----------------------------------------------------------------------------------------------------

    def begin(self, app: Any) -> None:
        """Give the app its tables and the agent that reads audits; call it before the app starts."""
        topics = self.spec.topics
        self._gates = new_table(app, "gates", topics.name(EVIDENCE), topics.count(EVIDENCE))
        self._relapse = new_table(app, "relapse", topics.name(RELAPSE), topics.count(RELAPSE))
        self._alerts = app.topic(topics.name("alerts"), **RAW)
        app.agent(app.topic(self._evidence, **RAW), name="audits", concurrency=1)(self._audits)
        app.agent(app.topic(self._closed, **RAW), name="ends", concurrency=1)(self._ends)

    async def on_start(self) -> None:
        """Read control to its end.

        Raises:
            RefusedError: control would not believe us if we put a gate back.
        """
        spec = self.spec
        audience = await cluster_id(spec.client)
        reading = reading_control(spec.client, spec.topics, spec.trust, audience)
        self._reader = await self._opened.enter_async_context(reading)
        self._reader.log = self.past
        self.past.audience = audience
        await self._catch_up()
        entry = self.past.control.keys.get(spec.signing.key_id)
        if entry is None or GATE not in entry.types:
            raise RefusedError(
                f"control does not list the key {spec.signing.key_id} as one that may sign {GATE} commands, so that "
                "the monitor could put no gate back; list it: hitl keys add --service monitor"
            )

    async def on_stop(self) -> None:
        """Close what was opened."""
        await self._opened.aclose()

    async def _catch_up(self) -> None:
        if self._reader is not None:
            now_ms = int(self._clock() * 1000)
            await self._reader.catch_up()
            self._read_ms = now_ms

    # --- judgements ---------------------------------------------------------------------------------------------------

    async def take(self, seen: Observation, place: Place, person: str) -> asyncio.Future[Any] | None:
        """Write what a judgement says of gates; return the future of the last write, None: there is nothing to write.

        What has it already is left. One worker takes judgements one after another.
        """
        self._sweep(place)
        if seen.gates and not self.past.knows(seen.policy):
            await self._look(place)
        written = None
        for key, kept in kept_after(seen, place, person, self.past.terms, self._gates.get).items():
            self._gates[key] = encode(kept)
            written = self._gates.newest
        return written

    def forget(self, partition: int) -> None:
        """Forget what is kept of people in a partition: where nobody is watched, no gate has evidence."""
        if partition in self._emptied:
            return
        self._emptied.add(partition)
        for key, value in list(self._gates.items()):
            if day_of(value)[0] == partition:
                del self._gates[key]

    async def _look(self, place: Place) -> None:
        """Look whether control has said more since, for something that it has not said so far."""
        if self._read_ms < place.at_ms and self._clock() * 1000 - self._read_ms >= LOOK_EVERY_S * 1000:
            await self._catch_up()

    def _sweep(self, place: Place) -> None:
        """Forget what the limits say, at the first judgement of a day."""
        if self._swept.get(place.partition) == place.day:
            return
        self._swept[place.partition] = place.day
        found = {key: day_of(value) for key, value in list(self._gates.items())}
        here = {key: day for key, (partition, day) in found.items() if partition == place.partition}
        for key in forgotten(here, place.day):
            del self._gates[key]

    # --- what nobody judged -------------------------------------------------------------------------------------------

    async def _ends(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self.end(event)

    async def end(self, event: Any) -> None:
        """Take in one end: an error at its gates where the desk let an output expire; else nothing."""
        message = event.message
        place = Place(message.partition, message.offset, int(message.timestamp * 1000))
        keys, headers = self.spec.desk_keys, message.headers or ()
        found = opened(self._closed, CLOSED, event.value, headers, keys, NOT_THE_DESKS, decode_closed)
        written = None
        # Most ends are other roles' and none of ours: what cannot be read is theirs to count.
        if isinstance(found, Closed) and found.end == End.EXPIRED.value and found.purpose in COUNTS:
            written = await self._expired(found, place)
        await self._acks_of_ends.after(event, written)

    async def _expired(self, found: Closed, place: Place) -> Any:
        action = decode_bytes(bytes(found.action), found.ce)
        if not self.spec.watch_people or isinstance(action, Undecodable):
            return None
        if not self.past.knows(found.policy):
            await self._look(place)
        gates = self.past.under(found.policy, action.action, ms_of(found.moment))

        def terms(gate: str) -> Terms | None:
            return self.past.terms(found.policy, gate)

        written = None
        for key, kept in expired_after(gates, found.agent, place, terms, self._gates.get).items():
            self._gates[key] = encode(kept)
            written = self._gates.newest
        return written

    # --- audits -------------------------------------------------------------------------------------------------------

    async def _audits(self, stream: Any) -> None:
        async for event in stream.noack().events():
            await self.audit(event)

    async def audit(self, event: Any) -> None:
        """Take in one audit of a gate; see the order above."""
        message = event.message
        place = Place(message.partition, message.offset, int(message.timestamp * 1000))
        found = read_observation(self._evidence, event.value, message.headers or (), self.spec.desk_keys)
        if isinstance(found, Undecodable):
            self.log.warning("evidence cannot be read", place=list(place[:2]), error=found.error, why=found.why)
            await self._acks.after(event, None)
            return
        if self._read_ms < place.at_ms:
            await self._catch_up()
        written = await self._audited((event.key or b"").decode(errors="replace"), found.observation, place)
        await self._acks.after(event, written)

    async def _audited(self, gate: str, seen: Observation, place: Place) -> Any:
        """Hold an audit against the removal that let it through; return the future of what is written of it."""
        removal = None if seen.agent is None else self.past.removal(gate, seen.agent, place.at_ms)
        terms = self.past.terms(seen.policy, gate)
        if removal is None or terms is None or terms.definition != removal.change.definition:
            return None
        key = watched_key(gate, removal.agent, removal.epoch)
        value = self._relapse.get(key)
        before: Watched | None = None if value is None else decode_watched(value)
        if before is not None and place.offset <= before.offset:
            return None
        after = watched_after(before, seen, place, removal, terms)
        errors = returns(before, after)
        if errors:
            await self._put_back(removal, after, errors, place)
            after = replace(after, returned=True)
        self._relapse[key] = encode(after)
        return self._relapse.newest

    async def _put_back(self, removal: Removal, after: Watched, errors: tuple[str, ...], place: Place) -> None:
        """Say it on `control`, then on `alerts`; return once both stand there. Raises as `commander.append` does."""
        gate, agent = removal.change.gate, removal.agent
        where = f"{self._evidence}/{place.partition}/{place.offset}"
        # The same id however often it is said: after a crash the second one is refused as a repeat.
        name = APART.join((gate, agent.id, agent.version, str(removal.epoch)))
        jti = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        items = after.relapse[errors[0]].items
        reason = (
            f"put back by the monitor: of {items} audited outputs of {agent.id}@{agent.version} more were wrong "
            f"({', '.join(errors)}) than the removal at {removal.epoch} was signed for"
        )

        def change(**claims: Any) -> GateChange:
            claims["jti"] = jti
            definition = removal.change.definition
            return GateChange(**claims, gate=gate, definition=definition, state="enforce", agent=agent, reason=reason)

        appended = await append(self.spec.client, self.spec.topics, self.spec.signing, change)
        await self._must_count(appended.epoch)
        await self._alert(gate, after, where, reason, place)
        self.log.warning("gate put back", gate=gate, agent=f"{agent.id}@{agent.version}", errors=list(errors))

    async def _must_count(self, epoch: int) -> None:
        if self._reader is None:
            return
        await self._catch_up()
        why = self.past.rejection_at(epoch)
        if why not in (None, Rejection.REPLAYED):
            raise RefusedError(
                f"control refuses to put a gate back ({why}, at {epoch}), and it must not stay gone: look whether the "
                "monitor's key is listed for gate commands (hitl keys show), or put it back: hitl gates restore"
            )

    async def _alert(self, gate: str, after: Watched, where: str, text: str, place: Place) -> None:
        figures = {error: float(one.items) for error, one in after.relapse.items()}
        alert = Alert(
            id=where, queue="", row=0, level=0, gate=gate, figures=figures, text=text, at=time_text(place.at_ms),
        )  # fmt: skip
        value, key = alert_value(alert), gate.encode()
        headers = [(TYPE_HEADER, ALERT.encode()), (SEAL_HEADER, self._seal(value))]
        partition = partition_of(key, self.spec.topics.count("alerts"))
        sent = await self._alerts.send(key=key, value=value, partition=partition, headers=headers)
        await sent


def both(first: Any, second: Any) -> Any:
    """Return what is done once two writes are, and fails or is cancelled with either; None where there is neither."""
    if first is None or second is None:
        return second if first is None else first
    whole = asyncio.get_running_loop().create_future()

    def done(_: Any) -> None:
        if whole.done():
            return
        for one in (first, second):
            if one.done() and one.cancelled():
                whole.cancel()
                return
            if one.done() and one.exception() is not None:
                whole.set_exception(one.exception())
                return
        if first.done() and second.done():
            whole.set_result(None)

    first.add_done_callback(done)
    second.add_done_callback(done)
    return whole
