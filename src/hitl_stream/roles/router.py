"""The router: every action in, exactly one answer out.

A plain function over a batch of one partition. For each record, in this order: read it (else a dead letter), ask who
sent it, send it home, ask whether it is in time and new, route it, write one record. It touches nothing: what it learns
goes into drafts, which the lane applies after a known commit.

What a kill switch covers, and what must wait behind it, is parked on `held`. A pass decides it again, from scratch:
close it, park it again, or answer it like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from hitl_stream.core.action import Action, Entity, entity_of
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.control import DRILL
from hitl_stream.core.events import End, Level, Mode, Outcome, Purpose, RouterTally, Why
from hitl_stream.core.fields import ABSENT, NO_FACTS, FieldError
from hitl_stream.core.history import recall
from hitl_stream.core.parking import keys_of
from hitl_stream.core.policy.compile import LATENESS_MS, Compiled, CompiledClass
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import NO_VERDICTS, Route, route, unrouted
from hitl_stream.core.switches import folded, reason_of, reasons_of, target_of
from hitl_stream.core.trace import trace_of
from hitl_stream.core.validators import Fault, Verdict, Verdicts
from hitl_stream.core.window import Draft, IdBudget, Window
from hitl_stream.lane.step import Header, Moment, Output, Record, Result, Step
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router_state import Origin, RouterDraft, RouterState, entry_of
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, Undecodable, decode
from hitl_stream.wire.dead_letter import dead_letter
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.home import home, home_of, key_of
from hitl_stream.wire.records import execute_by_ms
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, Draw, Lot, SealKey, sealed, sealer
from hitl_stream.wire.topics import TABLE, TopicSet
from hitl_stream.wire.via import via_headers, vouched
from hitl_stream.wire.writer import NAMES, Writer

IDENTITY_BYTES = 16
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
EXECUTE, HOLD, REFUSE, RECOMMENDED = Outcome.EXECUTE, Outcome.HOLD, Outcome.REFUSE, Level.RECOMMEND
SWITCH = "switch."
"""What the rule of a reason begins with that a kill switch gives; its epoch follows."""
NO_REASONS: tuple[Reason, ...] = ()
CONTROL = "control"
"""The role that may propose actions of the drills' tenant."""
DRILL_TENANT = folded(DRILL[0].partition(":")[2])
TENANTS_MAX = 10_000
CLOSED_TYPE: Header = (TYPE_HEADER, records.CLOSED.encode())


class Place(Protocol):
    """Where an action stands at home: its record, or what a decision says of it."""

    topic: str
    partition: int
    offset: int


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
    """Seal keys of the other roles that write to action topics (desk, console, control), by role."""
    parkers: Mapping[str, SealKey] = field(default_factory=dict)
    """Seal keys of the other roles that write to `held` (desk, executor), by key id."""
    reporters: Mapping[str, SealKey] = field(default_factory=dict)
    """Seal keys of those that write to `facts` (executor, connectors), by key id."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the Kafka names of the action topics."""
        return tuple(sorted({self.topics.name("actions"), *self.sources}))


@dataclass(frozen=True, slots=True)
class _Sender:
    """Where an action comes from, besides its own bytes."""

    by: str | None = None
    supersedes: str | None = None
    trace: str | None = None
    headers: tuple[Header, ...] = ()
    forged: bool = False
    own: bool = False
    role: str = ""


_PUBLISHER = _Sender()


class Router(Step[RouterState]):
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
        self.reserved: dict[str, bool] = {}
        """Tenant → whether it is the drills'."""
        self.held = topics.name("held")
        self.facts = topics.name("facts")
        self.parkers = {**settings.parkers, **settings.seal_keys}
        self._seals = {name: sealer(key, name, records.DECISION) for name in decided}
        self._seal_closed = sealer(key, self._closed, records.CLOSED)
        self._seal_via = {name: sealer(key, name, records.VIA) for name in settings.inputs}

    def state(self, budget: IdBudget) -> RouterState:
        """Return the empty state of one partition."""
        return RouterState(self, budget)

    def __call__(self, batch: Sequence[Record], state: RouterState, moment: Moment) -> Result:
        """Answer every record of a batch, in order."""
        run = _Batch(self, self.policies.at(moment.now_ms), state.draft(), moment)
        verdicts = run.judge(batch)
        for index, record in enumerate(batch):
            run.take(index, record, verdicts.get(index, NO_VERDICTS) if verdicts else NO_VERDICTS)
        return Result(run.outputs, run.draft, run.tally)

    def again(self, batch: Sequence[Record], state: RouterState, moment: Moment) -> Result:
        """Decide once more what lay parked, in the order of the pass."""
        run = _Batch(self, self.policies.at(moment.now_ms), state.draft(past=True), moment)
        run.counted = run.tally.again
        found = [read_decided(record.topic, record.value, record.headers, self.parkers) for record in batch]
        verdicts = run.judge_again(found)
        for index, (record, decided) in enumerate(zip(batch, found, strict=True)):
            if isinstance(decided, Undecodable):
                run.dead(index, record, decided)
            elif not run.again(index, record, decided, verdicts.get(index, NO_VERDICTS), state.sweeping):
                return Result(run.outputs, run.draft, run.tally, taken=index)
        return Result(run.outputs, run.draft, run.tally)

    def on_timer(self, state: RouterState, moment: Moment) -> Result:
        """Do nothing: the router has no timers of its own."""
        return Result(())

    def remember(self, past: Sequence[Record], window: Window) -> Draft:
        """Return what records of the past add to a window, without deciding them."""
        draft = window.draft()
        policy = self.policies.at(0 if not past else past[-1].timestamp)
        run = _Batch(self, policy, RouterDraft(draft), Moment(0))
        for record in past:
            run.remember(record)
        return draft


class _Batch:
    """One batch on its way through the router."""

    def __init__(self, router: Router, policy: Compiled, draft: RouterDraft, moment: Moment) -> None:
        self.router = router
        self.policy = policy
        self.draft = draft
        self.window = draft.window
        self.moment = moment
        self.outputs: list[Output] = []
        self.tally = RouterTally()
        self.counted = self.tally.routed
        """Where it is counted how each action was decided."""
        self.writer = Writer(policy, moment.now_ms, moment.epoch, draft.held)
        self._switches = router.policies.control.switches
        self._watchful = bool(self._switches.engaged) or draft.parks()
        """Whether an action must be compared with switches and with what lies parked."""
        self._with_facts = bool(draft.facts)
        self._tenant = router.settings.tenant
        self._sources = router.settings.sources
        self._partitions = router._partitions
        self._lots: dict[str, Lot] = {}

    def judge(self, batch: Sequence[Record]) -> dict[int, dict[str, Verdict]]:
        """Ask the plugins about every text of the batch at once; return verdicts by place and validator."""
        wanting = self.policy.plugin_types
        if not wanting:
            return {}
        actions: list[tuple[int, Action]] = []
        for index, record in enumerate(batch):
            value = record.value
            # A cheap look for the type's name saves decoding what no plugin judges.
            # A type may also be written with escapes, or stand in a header (CloudEvents, binary).
            if not value or not (
                any(mark in value for mark in wanting) or b"\\u" in value or records.header(record.headers, "ce_type")
            ):
                continue
            decoded = decode(value, record.headers)
            if not isinstance(decoded, Undecodable):
                actions.append((index, decoded.action))
        return self._judged(actions)

    def judge_again(self, found: Sequence[Decided | Undecodable]) -> dict[int, dict[str, Verdict]]:
        """Ask the plugins about what lay parked."""
        return self._judged([(n, one.decoded.action) for n, one in enumerate(found) if isinstance(one, Decided)])

    def _judged(self, actions: Sequence[tuple[int, Action]]) -> dict[int, dict[str, Verdict]]:
        asked: list[tuple[int, str]] = []
        jobs: list[tuple[str, str]] = []
        for index, action in actions:
            for job in self.policy.of(action.type).plugins:
                try:
                    text = job.read(action, NO_FACTS)
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
            self.dead(index, record, decoded)
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
        draft = self.window
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
        extra = self._held_back(action, tenant, entity, cls) if self._watchful else NO_REASONS
        facts = self.draft.facts_of(tenant, entity) if self._with_facts else NO_FACTS
        if action.expires_at is not None and milliseconds(action.expires_at) <= self.moment.now_ms:
            # It came in time, but was not decided in time. The window holds it, as it does after a replay.
            recall(action, tenant, draft)
            late = Reason("admission.expired", "expires_at was past when it was decided", None, REFUSE)
            self._refuse(index, record, decoded, tenant, entity, Why.EXECUTE_BY, unrouted(cls, late), sender)
            return
        answer = route(action, recall(action, tenant, draft), self.policy, facts, verdicts, extra)
        if answer.outcome is REFUSE:
            self._refuse(index, record, decoded, tenant, entity, Why.POLICY, answer, sender)
        elif answer.outcome is HOLD and cls.level is not RECOMMENDED:
            self._park(index, record, decoded, tenant, entity, answer, sender)
        else:
            self._send(index, record, decoded, tenant, entity, answer, sender)

    def _held_back(
        self, action: Action, tenant: str, entity: Entity, cls: CompiledClass, origin: Origin | None = None
    ) -> list[Reason]:
        """Return what switches say of an action, and what it must wait behind: if it lay parked itself, older ones."""
        target = target_of(action, tenant, entity)
        reasons = reasons_of(self._switches.covering(target), action, cls.queue)
        keys = keys_of(action, tenant, entity)
        behind = self.draft.blocker(keys, None if origin is None else origin.order)
        if behind is not None:
            reasons.append(Reason("parked.behind", behind, None, HOLD))
        return reasons

    def _park(
        self,
        index: int,
        record: Place,
        decoded: Decoded,
        tenant: str,
        entity: Entity,
        answer: Route,
        sender: _Sender,
    ) -> None:
        """Write an action to `held`, with the switches that cover it."""
        action = decoded.action
        place = f"{record.topic}/{record.partition}/{record.offset}"
        _, value = self.writer.decision(
            place, decoded, tenant, entity, answer, sender.trace, sender.by, sender.supersedes
        )
        epochs = tuple(_epochs(answer))
        parked = records.Parked(by="router", epoch=self.moment.epoch, switches=epochs)
        self._hold(index, value, parked, record.partition, key_of(tenant, entity, action.agent.id), sender.headers)
        self.draft.park(entry_of(place, action, tenant, entity, self.writer.execute_by_ms(action, answer)))
        self._watchful = True
        self._count(answer.cls.label, NAMES[HOLD])

    def _count(self, label: str, outcome: str) -> None:
        key = (label, outcome)
        self.counted[key] = self.counted.get(key, 0) + 1

    def _hold(
        self,
        index: int,
        value: bytes,
        parked: records.Parked,
        partition: int,
        key: bytes | None,
        headers: Sequence[Header],
    ) -> None:
        router = self.router
        value = records.held_value(value, parked)
        seal = router._seals[router.held](records.head_of(value))
        self.outputs.append(
            Output(router.held, partition, key, value, [DECISION_TYPE, (SEAL_HEADER, seal), *headers], index)
        )

    def again(self, index: int, record: Record, found: Decided, verdicts: Verdicts, sweeping: bool) -> bool:
        """Answer one parked record, or park it again; return False where a sweep of overdue ones ends before it."""
        decision, action, now_ms = found.decision, found.decoded.action, self.moment.now_ms
        overdue = execute_by_ms(decision) <= now_ms
        if sweeping and not overdue:
            return False
        tenant, entity = decision.tenant, decision.entity
        cls = self.policy.of(action.type)
        origin = Origin.of(decision.origin)
        parked = decision.parked
        sender = _Sender(decision.by, decision.supersedes, decision.trace, tuple(records.traces(record.headers)))
        self.draft.leave(decision.origin, record.offset)
        self.writer.attempt = decision.attempt
        try:
            if overdue:
                late = Reason("held.expired", decision.execute_by or "", None, REFUSE)
                self._refuse(index, origin, found.decoded, tenant, entity, Why.EXECUTE_BY, unrouted(cls, late), sender)
                return True
            extra = self._held_back(action, tenant, entity, cls, origin)
            extra += self._still_named(parked)
            extra += self._asked_again(decision, cls)
            self.window.at(now_ms)
            facts = self.draft.facts_of(tenant, entity) if self.draft.facts else NO_FACTS
            answer = route(action, recall(action, tenant, self.window), self.policy, facts, verdicts, extra)
            if answer.outcome is HOLD:
                self._park_again(index, record, found, answer)
                return True
            if parked is not None and parked.by == "executor":
                self.writer.attempt += 1  # the one before was sent back uncalled
            if answer.outcome is REFUSE:
                self._refuse(index, origin, found.decoded, tenant, entity, Why.POLICY, answer, sender)
            else:
                self._send(index, origin, found.decoded, tenant, entity, answer, sender)
        finally:
            self.writer.attempt = 0
        return True

    def _park_again(self, index: int, record: Record, found: Decided, answer: Route) -> None:
        decision, before = found.decision, found.decision.parked
        epochs = tuple(_epochs(answer))
        parked = records.Parked(
            by=before.by if before is not None else "router", epoch=self.moment.epoch, switches=epochs
        )
        assert record.value is not None  # it was read
        self._hold(index, record.value, parked, record.partition, record.key, records.traces(record.headers))
        action = found.decoded.action
        self.draft.park(entry_of(decision.origin, action, decision.tenant, decision.entity, execute_by_ms(decision)))
        self._count(answer.cls.label, NAMES[HOLD])

    def _still_named(self, parked: records.Parked | None) -> list[Reason]:
        """Hold what the executor sent back for a switch that is engaged still.

        It judged by what stands on the platform; judged here by the agent's word, the action would go back and forth.
        """
        if parked is None or parked.by != "executor":
            return []
        engaged = [self._switches.engaged[epoch] for epoch in parked.switches if epoch in self._switches.engaged]
        return [reason_of(switch) for switch in engaged if switch.mode is Mode.REDUCE_ONLY]

    def _asked_again(self, decision: records.Decision, cls: CompiledClass) -> list[Reason]:
        """Ask those again who had approved it: a yes does not outlive a kill switch."""
        queues = self.policy.policy.queues
        return [
            Reason("approval.again", row.queue, None, Outcome.REVIEW, row.queue if row.queue in queues else cls.senior)
            for row in decision.approvals
        ]

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
        self.window.at(record.timestamp)
        identity = identity_of(tenant, entity.account or action.agent.id, action.action_id)
        if self.window.earlier(identity) is None:
            self.window.remember(identity, stamp_of(record.offset, decoded.digest))
            recall(action, tenant, self.window)

    def _sender(self, record: Record, decoded: Decoded) -> _Sender:
        """Read the headers: who moved or wrote this action, and whose trace it belongs to."""
        trace: str | None = None
        via: bytes | None = None
        seal = b""
        kept: list[Header] = []
        doubled = sum(name == records.VIA_HEADER for name, _ in record.headers) > 1
        for name, content in record.headers:
            if name == records.TRACE_HEADER:
                found = trace_of(content)
                if found is not None:
                    trace = found
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
        if not sealed(keys, topic, records.VIA, vouched(via, decoded.hash), seal):
            return _Sender(trace=trace, headers=kept, forged=True)
        return _Sender(
            read.by, read.supersedes, trace, kept, own=read.role != "router" or read.by is not None, role=read.role
        )

    def _stranger(self, topic: str, action: Action, tenant: str, sender: _Sender) -> Reason | None:
        """Say why this sender may not propose this action, or None."""
        if sender.forged:
            return Reason("identity.seal", "hitl-via without a good seal", None, Outcome.REFUSE)
        if not tenant:
            return Reason("identity.tenant", "no tenant", "a tenant", Outcome.REFUSE)
        if "/" in tenant:
            return Reason("identity.tenant", tenant, "a tenant without '/'", Outcome.REFUSE)
        if self._reserved(tenant) and sender.role != CONTROL:
            return Reason("identity.tenant", tenant, "a tenant that is not reserved for drills", Outcome.REFUSE)
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

    def _reserved(self, tenant: str) -> bool:
        """Say whether a tenant is the one of drills, however it is written."""
        known = self.router.reserved.get(tenant)
        if known is None:
            known = folded(tenant) == DRILL_TENANT
            if len(self.router.reserved) < TENANTS_MAX:
                self.router.reserved[tenant] = known
        return known

    def dead(self, index: int, record: Record, found: Undecodable) -> None:
        limit = TABLE["dlq"].bytes_max - 4_096
        value, headers = dead_letter(record, found.error, found.why, self.router.settings.instance, limit)
        self.outputs.append(Output(self.router._dlq, record.partition, record.key, value, headers, index))
        self.tally.dead[found.error] = self.tally.dead.get(found.error, 0) + 1

    def _move(self, index: int, record: Record, decoded: Decoded, home: int, key: bytes, sender: _Sender) -> None:
        """Send an action to its home partition, bytes untouched, in the same transaction."""
        place = f"{record.topic}/{record.partition}/{record.offset}"
        # Whose seal vouched for the sender was checked; from here on it is ours, so that the place can be ours too.
        via = records.Via(role="router", from_=place, by=sender.by, supersedes=sender.supersedes)
        headers = [
            (name, content or b"") for name, content in record.headers if name not in (records.VIA_HEADER, SEAL_HEADER)
        ]
        headers += via_headers(self.router._seal_via[record.topic], via, decoded.hash)
        self.outputs.append(Output(record.topic, home, key, record.value, headers, index))
        self.tally.moved += 1

    def _refuse(
        self,
        index: int,
        record: Place,
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
        self._count(answer.cls.label, NAMES[answer.outcome])

    def _send(
        self,
        index: int,
        record: Place,
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
        routed = self.counted
        label = (cls.label, RECOMMEND if recommended else NAMES[outcome])
        routed[label] = routed.get(label, 0) + 1
        if recommended:
            self.tally.recommended += 1
        elif outcome is EXECUTE:
            drawn = self._lots.get(record.topic) or self._lot(record)
            if drawn(record.offset, decoded.digest, cls.audit_p):
                self._audit(index, record, decoded, tenant, entity, answer, sender)

    def _lot(self, record: Place) -> Lot:
        """Return the lot of a topic; the partition is the same for the whole batch."""
        lot = self._lots[record.topic] = self.router._draw.lot(record.topic, record.partition)
        return lot

    def _audit(
        self,
        index: int,
        record: Place,
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


def _epochs(answer: Route) -> Iterator[int]:
    """Return the epochs of the switches that hold an action back."""
    for reason in answer.reasons:
        if reason.outcome is HOLD and reason.rule.startswith(SWITCH):
            yield int(reason.rule.removeprefix(SWITCH))


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
    return blake2b(f"{tenant}\0{place}\0{action_id}".encode(), digest_size=IDENTITY_BYTES).digest()


def stamp_of(offset: int, digest: bytes) -> bytes:
    """Return what the window remembers of an id: where it was claimed, and by which bytes."""
    return offset.to_bytes(STAMP_BYTES, "big") + digest[:STAMP_DIGEST_BYTES]


def _repeat(earlier: bytes, digest: bytes) -> tuple[Why, Reason]:
    offset = int.from_bytes(earlier[:STAMP_BYTES], "big")
    if earlier[STAMP_BYTES:] == digest[:STAMP_DIGEST_BYTES]:
        return Why.DUPLICATE, Reason("admission.duplicate", f"seen at offset {offset}", None, Outcome.REFUSE)
    return Why.CONFLICT, Reason("admission.conflict", f"other bytes at offset {offset}", None, Outcome.REFUSE)
