"""The router: every action in, exactly one answer out.

A plain function over a batch of one partition. For each record, in this order: read it (else a dead letter), ask who
sent it, send it home, ask whether it is in time and new, route it, write one record. It touches nothing: what it learns
goes into a draft of the window, which the lane applies after a known commit.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from hitl_stream.core.action import Action, Entity, entity_of
from hitl_stream.core.events import End, Level, Outcome, Purpose, RouterTally, Why
from hitl_stream.core.fields import ABSENT, NO_FACTS, FieldError
from hitl_stream.core.history import recall
from hitl_stream.core.policy.compile import LATENESS_MS, Compiled, compile_policy
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import NO_VERDICTS, Route, route, unrouted
from hitl_stream.core.validators import Fault, Verdict, Verdicts
from hitl_stream.core.window import Draft, IdBudget, Window
from hitl_stream.lane.step import Header, Moment, Output, Record, Result
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, Undecodable, decode
from hitl_stream.wire.dead_letter import dead_letter
from hitl_stream.wire.home import home, home_of, key_of
from hitl_stream.wire.records import milliseconds
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, Draw, Lot, SealKey, sealed, sealer
from hitl_stream.wire.topics import TABLE, TopicSet
from hitl_stream.wire.writer import NAMES, Writer

IDENTITY_BYTES = 16
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, version 00; anything else is not carried on."""
STAMP_BYTES = 8
"""A claim remembers its offset in so many bytes, then the beginning of the action hash."""
DESTINATIONS = {
    Outcome.EXECUTE: "execute",
    Outcome.REVIEW: "review",
    Outcome.ESCALATE: "escalation",
    Outcome.HOLD: "held",
}
STAMP_DIGEST_BYTES = 16
DECISION_TYPE: Header = (TYPE_HEADER, records.DECISION.encode())
RECOMMEND = "RECOMMEND"
"""How a level-1 action is counted: the route it would have had stands in its record, but it never ran."""
EXECUTE, REFUSE, RECOMMENDED = Outcome.EXECUTE, Outcome.REFUSE, Level.RECOMMEND
CLOSED_TYPE: Header = (TYPE_HEADER, records.CLOSED.encode())


class Judge(Protocol):
    """Runs plugins: one verdict per (plugin, text), in order, within its time; it never raises."""

    def __call__(self, jobs: Sequence[tuple[str, str]]) -> Sequence[Verdict]: ...


def no_plugins(jobs: Sequence[tuple[str, str]]) -> Sequence[Verdict]:
    """Judge nothing: whatever needs a plugin is escalated."""
    return [Fault("no plugins are running") for _ in jobs]


@dataclass(frozen=True)
class Source:
    """Who may publish on one action topic; empty means anyone."""

    tenants: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RouterSettings:
    """What one installation says of its router."""

    topics: TopicSet
    seal_keys: Mapping[str, SealKey]
    sample_key: SealKey
    instance: str = "local/router/0"
    tenant: str = ""
    sources: Mapping[str, Source] = field(default_factory=dict)
    proposers: Mapping[str, Mapping[str, SealKey]] = field(default_factory=dict)
    """Seal keys of the other roles that write to action topics (desk, console), by role."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the Kafka names of the action topics."""
        return tuple(sorted({self.topics.name("actions"), *self.sources}))


class Policies:
    """The policy in force, compiled for the moment; gates begin and end at midnight."""

    def __init__(self, policy: Policy, digest: str) -> None:
        self.policy = policy
        self.digest = digest
        self._compiled: Compiled | None = None

    def at(self, now_ms: int) -> Compiled:
        """Return the policy as it stands at `now_ms`."""
        compiled = self._compiled
        if compiled is None or not compiled.since_ms <= now_ms < compiled.until_ms:
            compiled = self._compiled = compile_policy(self.policy, self.digest, now_ms)
        return compiled


class RouterState:
    """The window of one partition, as the lane keeps it."""

    def __init__(self, router: Router, budget: IdBudget) -> None:
        self.router = router
        self.window = Window(router.policies.at(0).reach, budget)

    def apply(self, changes: Draft) -> None:
        """Take in what a committed batch added to the window."""
        self.window.apply(changes)

    def replay(self, past: Sequence[Record]) -> None:
        """Rebuild the window from records of the past: their bytes and append times only."""
        self.window.apply(self.router.remember(past, self.window))

    def next_timer_ms(self) -> int | None:
        """Return None: the router does nothing without a record."""
        return None

    def size(self) -> int:
        """Return how many ids are remembered."""
        return self.window.count()

    def discard(self) -> None:
        """Give the window's room back to the process."""
        self.window.clear()


@dataclass(frozen=True, slots=True)
class _Sender:
    """Where an action comes from, besides its own bytes."""

    by: str | None = None
    supersedes: str | None = None
    trace: str | None = None
    headers: tuple[Header, ...] = ()
    forged: bool = False
    own: bool = False


_PUBLISHER = _Sender()


class Router:
    """The step. One instance serves all partitions of a process; it keeps nothing between batches."""

    def __init__(self, settings: RouterSettings, policies: Policies, judge: Judge = no_plugins) -> None:
        self.settings = settings
        self.policies = policies
        self.judge = judge
        topics = settings.topics
        key = list(settings.seal_keys.values())[-1]
        self._partitions = topics.partitions
        self._draw = Draw(settings.sample_key)
        names = {outcome: topics.name(name) for outcome, name in DESTINATIONS.items()}
        self._names = tuple(names.get(Outcome(number), "") if number else "" for number in range(1 + max(Outcome)))
        self._recommendations = topics.name("recommendations")
        self._closed = topics.name("closed")
        self._seeded = topics.name("review.seeded")
        self._dlq = topics.name("dlq")
        decided = [*names.values(), self._recommendations, self._seeded]
        self._seals = {name: sealer(key, name, records.DECISION) for name in decided}
        self._seal_closed = sealer(key, self._closed, records.CLOSED)
        self._seal_via = {name: sealer(key, name, records.VIA) for name in settings.inputs}
        self._writer: Writer | None = None

    def state(self, budget: IdBudget) -> RouterState:
        """Return the empty state of one partition."""
        return RouterState(self, budget)

    def __call__(self, batch: Sequence[Record], state: RouterState, moment: Moment) -> Result:
        """Answer every record of a batch, in order."""
        run = _Batch(self, self.policies.at(moment.now_ms), state.window.draft(), moment)
        verdicts = run.judge(batch)
        for index, record in enumerate(batch):
            run.take(index, record, verdicts.get(index, NO_VERDICTS) if verdicts else NO_VERDICTS)
        return Result(run.outputs, run.draft, run.tally)

    def on_timer(self, state: RouterState, moment: Moment) -> Result:
        """Do nothing: the router has no timers of its own."""
        return Result(())

    def remember(self, past: Sequence[Record], window: Window) -> Draft:
        """Return what records of the past add to a window, without deciding them."""
        draft = window.draft()
        policy = self.policies.at(0 if not past else past[-1].timestamp)
        run = _Batch(self, policy, draft, Moment(0))
        for record in past:
            run.remember(record)
        return draft


class _Batch:
    """One batch on its way through the router."""

    def __init__(self, router: Router, policy: Compiled, draft: Draft, moment: Moment) -> None:
        self.router = router
        self.policy = policy
        self.draft = draft
        self.outputs: list[Output] = []
        self.tally = RouterTally()
        self.writer = Writer(policy, moment.now_ms, moment.epoch, -1)
        self._tenant = router.settings.tenant
        self._sources = router.settings.sources
        self._partitions = router._partitions
        self._lots: dict[tuple[str, int], Lot] = {}

    def judge(self, batch: Sequence[Record]) -> dict[int, dict[str, Verdict]]:
        """Ask the plugins about every text of the batch at once; return verdicts by place and validator."""
        wanting = self.policy.plugin_types
        if not wanting:
            return {}
        asked: list[tuple[int, str]] = []
        jobs: list[tuple[str, str]] = []
        for index, record in enumerate(batch):
            value = record.value
            # A cheap look for the type's name saves decoding what no plugin judges.
            # A type may also be written with escapes, or stand in a header (CloudEvents, binary).
            if not value or not (
                any(mark in value for mark in wanting) or b"\\u" in value or records.header(record.headers, "ce_type")
            ):
                continue
            decoded = decode(value, record.headers)
            if isinstance(decoded, Undecodable):
                continue
            for job in self.policy.of(decoded.action.type).plugins:
                try:
                    text = job.read(decoded.action, NO_FACTS)
                except FieldError:
                    continue
                if text is not ABSENT:
                    asked.append((index, job.validator))
                    jobs.append((job.plugin, text))
        verdicts: dict[int, dict[str, Verdict]] = {}
        if jobs:
            for (index, validator), verdict in zip(asked, self.router.judge(jobs), strict=True):
                verdicts.setdefault(index, {})[validator] = verdict
        return verdicts

    def take(self, index: int, record: Record, verdicts: Verdicts) -> None:
        """Answer one record."""
        decoded = decode(record.value, record.headers)
        if isinstance(decoded, Undecodable):
            self._dead(index, record, decoded)
            return
        action, append_ms = decoded.action, record.timestamp
        sender = self._sender(record, decoded) if record.headers else _PUBLISHER
        tenant = action.tenant or self._tenant
        changes = action.changes
        entity = changes[0].entity if len(changes) == 1 else entity_of(action)
        place = entity.account or action.agent.id
        cls = self.policy.classes.get(action.type) or self.policy.undefined
        stranger = self._stranger(record.topic, action, tenant, sender)
        if stranger is not None:
            self._refuse(index, record, decoded, tenant, entity, Why.IDENTITY, unrouted(cls, stranger), sender)
            return
        at_home = home(tenant, place, self._partitions)
        if at_home != record.partition:
            self._move(index, record, decoded, at_home, key_of(tenant, entity, action.agent.id), sender)
            return
        age_ms = append_ms - milliseconds(action.proposed_at)
        if not -LATENESS_MS <= age_ms <= cls.max_age_ms or action.expires_at is not None:
            untimely = _untimely(action, append_ms, age_ms, cls.max_age_ms)
            if untimely is not None:
                why, reason = untimely
                self._refuse(index, record, decoded, tenant, entity, why, unrouted(cls, reason), sender)
                return
        draft = self.draft
        if append_ms > draft.append_ms:
            draft.at(append_ms)
        identity = identity_of(tenant, place, action.action_id)
        earlier = draft.earlier(identity)
        if earlier is not None:
            why, reason = _repeat(earlier, decoded.digest)
            self._refuse(index, record, decoded, tenant, entity, why, unrouted(cls, reason), sender)
            return
        if not draft.claim(identity, stamp_of(record.offset, decoded.digest)):
            reason = Reason("window.full", "no room for another id", None, REFUSE)
            self._refuse(index, record, decoded, tenant, entity, Why.POLICY, unrouted(cls, reason), sender)
            return
        answer = route(action, recall(action, tenant, draft), self.policy, NO_FACTS, verdicts)
        if answer.outcome is REFUSE:
            self._refuse(index, record, decoded, tenant, entity, Why.POLICY, answer, sender)
        else:
            self._send(index, record, decoded, tenant, entity, answer, sender)

    def remember(self, record: Record) -> None:
        """Add one record of the past to the window, if it was admitted then."""
        decoded = decode(record.value, record.headers)
        if isinstance(decoded, Undecodable):
            return
        action = decoded.action
        tenant = action.tenant or self._tenant
        sender = self._sender(record, decoded) if record.headers else _PUBLISHER
        if self._stranger(record.topic, action, tenant, sender) is not None:
            return
        entity = entity_of(action)
        if home_of(action, tenant, entity, self._partitions) != record.partition:
            return
        age_ms = record.timestamp - milliseconds(action.proposed_at)
        if _untimely(action, record.timestamp, age_ms, self.policy.of(action.type).max_age_ms) is not None:
            return
        self.draft.at(record.timestamp)
        identity = identity_of(tenant, entity.account or action.agent.id, action.action_id)
        if self.draft.earlier(identity) is None:
            self.draft.remember(identity, stamp_of(record.offset, decoded.digest))
            recall(action, tenant, self.draft)

    def _sender(self, record: Record, decoded: Decoded) -> _Sender:
        """Read the headers: who moved or wrote this action, and whose trace it belongs to."""
        trace: str | None = None
        via: bytes | None = None
        seal = b""
        kept: list[Header] = []
        doubled = sum(name == records.VIA_HEADER for name, _ in record.headers) > 1
        for name, content in record.headers:
            if name == records.TRACE_HEADER:
                found = TRACEPARENT.fullmatch(content or b"")
                if found is not None:
                    trace = found[1].decode()
                    kept.append((name, content))
            elif name == records.VIA_HEADER:
                via = content or b""
            elif name == SEAL_HEADER:
                seal = content or b""
        if via is None:
            return _Sender(trace=trace, headers=tuple(kept))
        if doubled:
            # Only one of them can be the one that is sealed, and whoever reads the other would be told a lie.
            return _Sender(trace=trace, headers=tuple(kept), forged=True)
        return self._via(record.topic, decoded, via, seal, trace, tuple(kept))

    def _via(
        self, topic: str, decoded: Decoded, via: bytes, seal: bytes, trace: str | None, kept: tuple[Header, ...]
    ) -> _Sender:
        settings = self.router.settings
        try:
            read = records.decode_via(via)
        except (ValueError, RecursionError):
            return _Sender(trace=trace, headers=kept, forged=True)
        keys = settings.seal_keys if read.role == "router" else settings.proposers.get(read.role, {})
        if not sealed(keys, topic, records.VIA, via + b"\0" + decoded.hash.encode(), seal):
            return _Sender(trace=trace, headers=kept, forged=True)
        return _Sender(read.by, read.supersedes, trace, kept, own=read.role != "router" or read.by is not None)

    def _stranger(self, topic: str, action: Action, tenant: str, sender: _Sender) -> Reason | None:
        """Say why this sender may not propose this action, or None."""
        if sender.forged:
            return Reason("identity.seal", "hitl-via without a good seal", None, Outcome.REFUSE)
        if not tenant:
            return Reason("identity.tenant", "no tenant", "a tenant", Outcome.REFUSE)
        if "/" in tenant:
            return Reason("identity.tenant", tenant, "a tenant without '/'", Outcome.REFUSE)
        if "~" in action.action_id and not sender.own:
            return Reason("identity.action_id", action.action_id, "an id without '~'", Outcome.REFUSE)
        if not self._sources or sender.own:
            return None
        source = self._sources.get(topic)
        if source is None:
            return None
        if source.tenants and tenant not in source.tenants:
            return Reason("identity.tenant", tenant, f"the tenants of {topic}", Outcome.REFUSE)
        if source.agents and action.agent.id not in source.agents:
            return Reason("identity.agent", action.agent.id, f"the agents of {topic}", Outcome.REFUSE)
        return None

    def _dead(self, index: int, record: Record, found: Undecodable) -> None:
        limit = TABLE["dlq"].bytes_max - 4_096
        value, headers = dead_letter(record, found.error, found.why, self.router.settings.instance, limit)
        self.outputs.append(Output(self.router._dlq, record.partition, record.key, value, headers, index))
        self.tally.dead[found.error] = self.tally.dead.get(found.error, 0) + 1

    def _move(self, index: int, record: Record, decoded: Decoded, home: int, key: bytes, sender: _Sender) -> None:
        """Send an action to its home partition, bytes untouched, in the same transaction."""
        place = f"{record.topic}/{record.partition}/{record.offset}"
        # Whose seal vouched for the sender was checked; from here on it is ours, so that the place can be ours too.
        via = orjson.dumps({"role": "router", "from": place, "by": sender.by, "supersedes": sender.supersedes})
        seal = self.router._seal_via[record.topic](via + b"\0" + decoded.hash.encode())
        headers = [
            (name, content or b"") for name, content in record.headers if name not in (records.VIA_HEADER, SEAL_HEADER)
        ]
        headers += [(records.VIA_HEADER, via), (SEAL_HEADER, seal)]
        self.outputs.append(Output(record.topic, home, key, record.value, headers, index))
        self.tally.moved += 1

    def _refuse(
        self,
        index: int,
        record: Record,
        decoded: Decoded,
        tenant: str,
        entity: Entity,
        why: Why,
        answer: Route,
        sender: _Sender,
    ) -> None:
        action = decoded.action
        end = End.EXPIRED if why is Why.EXECUTE_BY else End.REFUSED
        place = f"{record.topic}/{record.partition}/{record.offset}"
        head, value = self.writer.closed(place, end, why, decoded, tenant, entity, answer, sender.trace)
        headers = [CLOSED_TYPE, (SEAL_HEADER, self.router._seal_closed(head)), *sender.headers]
        key = key_of(tenant, entity, action.agent.id)
        self.outputs.append(Output(self.router._closed, record.partition, key, value, headers, index))
        tally = self.tally
        tally.closed[why] = tally.closed.get(why, 0) + 1
        label = (answer.cls.label, NAMES[answer.outcome])
        tally.routed[label] = tally.routed.get(label, 0) + 1

    def _send(
        self,
        index: int,
        record: Record,
        decoded: Decoded,
        tenant: str,
        entity: Entity,
        answer: Route,
        sender: _Sender,
    ) -> None:
        action, cls, router = decoded.action, answer.cls, self.router
        partition = record.partition
        place = f"{record.topic}/{partition}/{record.offset}"
        head, value = self.writer.decision(
            place, decoded, tenant, entity, answer, sender.trace, sender.by, sender.supersedes
        )
        outcome = answer.outcome
        recommended = cls.level is RECOMMENDED
        topic = router._recommendations if recommended else router._names[outcome]
        key = key_of(tenant, entity, action.agent.id)
        headers = [DECISION_TYPE, (SEAL_HEADER, router._seals[topic](head))]
        if sender.headers:
            headers += sender.headers
        self.outputs.append(Output(topic, partition, key, value, headers, index))
        routed = self.tally.routed
        label = (cls.label, RECOMMEND if recommended else NAMES[outcome])
        routed[label] = routed.get(label, 0) + 1
        if recommended:
            self.tally.recommended += 1
        elif outcome is EXECUTE and self._lot(record)(record.offset, decoded.digest, cls.audit_p):
            self._audit(index, record, decoded, tenant, entity, answer, sender)

    def _lot(self, record: Record) -> Lot:
        place = (record.topic, record.partition)
        lot = self._lots.get(place)
        if lot is None:
            lot = self._lots[place] = self.router._draw.lot(*place)
        return lot

    def _audit(
        self,
        index: int,
        record: Record,
        decoded: Decoded,
        tenant: str,
        entity: Entity,
        answer: Route,
        sender: _Sender,
    ) -> None:
        """Send a copy to be judged blind; it can never run."""
        place = f"{record.topic}/{record.partition}/{record.offset}"
        head, value = self.writer.decision(
            place, decoded, tenant, entity, answer, sender.trace, sender.by, sender.supersedes, Purpose.AUDIT
        )
        topic = self.router._seeded
        headers = [DECISION_TYPE, (SEAL_HEADER, self.router._seals[topic](head)), *sender.headers]
        key = key_of(tenant, entity, decoded.action.agent.id)
        self.outputs.append(Output(topic, record.partition, key, value, headers, index))
        self.tally.audit += 1


def _untimely(action: Action, append_ms: int, age_ms: int, max_age_ms: int) -> tuple[Why, Reason] | None:
    """Compare the action's times with the broker's append time; no clock of ours or the agent's counts."""
    if age_ms > max_age_ms:
        return Why.LATE, Reason("admission.late", f"{age_ms} ms old", f"{max_age_ms} ms", Outcome.REFUSE)
    if age_ms < -LATENESS_MS:
        return Why.POLICY, Reason("admission.ahead", f"{-age_ms} ms ahead", f"{LATENESS_MS} ms", Outcome.REFUSE)
    if action.expires_at is not None and milliseconds(action.expires_at) <= append_ms:
        return Why.EXECUTE_BY, Reason("admission.expired", "expires_at is past", None, Outcome.REFUSE)
    return None


def identity_of(tenant: str, place: str, action_id: str) -> bytes:
    """Return the digest under which the window knows an action's id: per account (per agent, where there is none)."""
    return hashlib.blake2b(f"{tenant}\0{place}\0{action_id}".encode(), digest_size=IDENTITY_BYTES).digest()


def stamp_of(offset: int, digest: bytes) -> bytes:
    """Return what the window remembers of an id: where it was claimed, and by which bytes."""
    return offset.to_bytes(STAMP_BYTES, "big") + digest[:STAMP_DIGEST_BYTES]


def _repeat(earlier: bytes, digest: bytes) -> tuple[Why, Reason]:
    offset = int.from_bytes(earlier[:STAMP_BYTES], "big")
    if earlier[STAMP_BYTES:] == digest[:STAMP_DIGEST_BYTES]:
        return Why.DUPLICATE, Reason("admission.duplicate", f"seen at offset {offset}", None, Outcome.REFUSE)
    return Why.CONFLICT, Reason("admission.conflict", f"other bytes at offset {offset}", None, Outcome.REFUSE)
