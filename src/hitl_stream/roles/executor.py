"""The executor: the last gate, the platform's API, and one end for each execute record.

What happens to a record, in order:
1. read it: type, seal, hash, home; what is none of ours is a dead letter and never runs;
2. where a process that is gone may have called for it, ask the platform what became of that, before anything else;
3. ask the gate (`core.gate`), in the same turn in which the call begins;
4. call, with an idempotency key that is the same for every attempt at these bytes;
5. no answer, or one that leaves it open: ask the platform until it says; not applied means: from 3 again.
Its end, what the platform holds now, what people must look at and what the executor remembers are written in the
transaction that commits its offset (`lane.calls`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import msgspec
import structlog
from mode import Service
from msgspec import structs

from hitl_stream.core.action import Action, Value
from hitl_stream.core.canaries import is_planted
from hitl_stream.core.events import After, ErrorClass, ExecutorTally, Mode, Outcome, Purpose, Status, Why
from hitl_stream.core.events import End as EndName
from hitl_stream.core.gate import Answer, Close, Look, Past, Permit, Run, SendBack, Skip, Wait, gate, permits
from hitl_stream.core.parking import Keys, keys_of
from hitl_stream.core.switches import Target, target_of
from hitl_stream.core.window import IdBudget
from hitl_stream.execute import Adapter, Applied, Applying, Failed, NotApplied, ReadingBack, Unknown, traceparent
from hitl_stream.lane.calls import CALL_S_MAX, Caller, Cut, Errand, Finished, Line, NotBegun, Standing
from hitl_stream.lane.control_view import LEASE_MS
from hitl_stream.lane.step import Header, Output, Record
from hitl_stream.roles.bursts import Bursts
from hitl_stream.roles.executor_state import KEEP_MS, End, ExecutorState, identity_of
from hitl_stream.roles.offences import NEVER, Begun, Offence, Offences
from hitl_stream.roles.policies import Policies
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, Undecodable
from hitl_stream.wire.dead_letter import dead_letter
from hitl_stream.wire.decided import decided_action, read_decided, routed_value
from hitl_stream.wire.executed import (
    Carried,
    approvers,
    closed_value,
    cut,
    exceptional_value,
    fact_value,
    result_value,
)
from hitl_stream.wire.home import home, key_of
from hitl_stream.wire.records import ACTION_MARK, ROUTED_MARK, PlatformRow, execute_by_ms
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TABLE, TopicSet

PAUSE_FIRST_S = 0.1
PAUSE_S_MAX = 5.0
"""Between two questions to a platform that does not know, or cannot say, or has said "not now"."""
EPOCH_POLL_S = 0.02
SETTLED_S = LEASE_MS / 1000
"""A call that was cut off may arrive until its `not_after_ms`, the end of a lease; until then "not applied" is only
enough to call again with the same key, not to say that it never happened."""
ASK_MS_MIN = 60_000
"""The platform is asked for so long at least, also about what is overdue."""
ASK_MS_MAX = 900_000
"""Longer nobody waits for an answer: the record keeps its entity and its window standing."""
ENTER_S_MAX = 30.0
LEAVE_S_MAX = 2.0
ROLE = "executor"


class ExecutorObserver(Protocol):
    """Whoever watches an executor. A call must not block and must not raise."""

    def unknown(self) -> None:
        """Nobody knows what became of a call."""

    def offending(self, calls: int, after: After) -> None:
        """So many calls began after a switch over them was appended, or even EFFECTIVE."""


class Unwatched:
    """An `ExecutorObserver` that listens to nothing."""

    def unknown(self) -> None:
        """Ignore it."""

    def offending(self, calls: int, after: After) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class Vouched:
    """A record that people approved. `unsealed` says why their approvals do not hold; empty: they do."""

    decision: records.Approved
    decoded: Decoded
    unsealed: str


class Approvals(Protocol):
    """Checks what people approved: the desk's seal, the router's inside it, and each signed verdict, for this hash."""

    def read(self, record: Record) -> Vouched | Undecodable:
        """Read a record on `execute` whose head holds `routed`; `Undecodable` for what is none of ours."""


class NoApprovals:
    """Nobody can approve anything: there is no desk whose seal is known here. Everything is closed as `unsealed`."""

    def read(self, record: Record) -> Vouched | Undecodable:
        """Read it, and say that it does not hold."""
        value = record.value or b""
        try:
            decision = records.decode_approved(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return Undecodable(ErrorClass.SCHEMA, str(error))
        decoded = decided_action(value, decision)
        if isinstance(decoded, Undecodable):
            return decoded
        return Vouched(decision, decoded, "people's approvals cannot be checked here: no desk is known")


@dataclass(frozen=True)
class ExecutorSettings:
    """What one installation says of its executor. Keys are by id, the newest last."""

    topics: TopicSet
    router_keys: Mapping[str, SealKey]
    own_keys: Mapping[str, SealKey]
    instance: str = "local/executor/0"
    call_s_max: float = CALL_S_MAX


class Executor(Caller):
    """What serves all partitions of a process. It keeps nothing of a record but the calls of the last seconds."""

    def __init__(
        self,
        settings: ExecutorSettings,
        policies: Policies,
        adapter: Adapter,
        approvals: Approvals | None = None,
        observer: ExecutorObserver | None = None,
        effective: Callable[[], int] = lambda: NEVER,
        alarm: Callable[[], None] = lambda: None,
    ) -> None:
        """Take what it works with. `effective`: see `Offences`; `alarm` stops everything (`Alarm.ring`)."""
        self.settings = settings
        self.policies = policies
        self.control = policies.control
        self.adapter = adapter
        self.approvals = approvals or NoApprovals()
        self.observer = observer or Unwatched()
        self.offences = Offences(self.control, effective)
        self.alarm = alarm
        self.bursts = Bursts()
        self.log = structlog.get_logger(role=ROLE, instance=settings.instance)
        topics = settings.topics
        self.key = list(settings.own_keys.values())[-1]
        kinds = {
            "results": records.RESULT,
            "closed": records.CLOSED,
            "held": records.DECISION,
            "escalation": records.DECISION,
            "facts": records.FACT,
        }
        self._seals = {name: sealer(self.key, topics.name(name), kind) for name, kind in kinds.items()}
        self._types = {name: kind.encode() for name, kind in kinds.items()}

    def state(self, budget: IdBudget) -> ExecutorState:
        """Return the empty state of one partition."""
        topics = self.settings.topics
        name, held = topics.name("executor.state"), topics.name("held")
        return ExecutorState(name, held, self.key, self.settings.own_keys, budget)

    def errand(self, record: Record, state: ExecutorState) -> Errand:
        """Read a record: to be carried out, or none of ours."""
        found = self.read(record)
        if isinstance(found, Undecodable):
            return _Stray(self, record, found)
        return _Errand(self, record, found, state)

    def merged(self, tallies: Sequence[ExecutorTally]) -> ExecutorTally:
        """Return what one commit holds."""
        whole = ExecutorTally()
        for tally in tallies:
            whole.add(tally)
        return whole

    def read(self, record: Record) -> Carry | Undecodable:
        """Read a record of `execute`, and everything that can be known of it without asking anybody."""
        value = record.value or b""
        head = value[: max(0, value.find(ACTION_MARK))]
        if ROUTED_MARK in head:
            vouched = self.approvals.read(record)
            if isinstance(vouched, Undecodable):
                return vouched
            approved = vouched.decision
            routed = routed_value(approved, vouched.decoded.raw)
            unsealed = vouched.unsealed or ("" if routed else "what the router had decided is not what people approved")
            return self._carry(record, approved, vouched.decoded, unsealed, routed or b"")
        decided = read_decided(record.topic, record.value, record.headers, self.settings.router_keys)
        if isinstance(decided, Undecodable):
            return decided
        return self._carry(record, decided.decision, decided.decoded, "", value)

    def _carry(
        self, record: Record, decision: Carried, decoded: Decoded, unsealed: str, routed: bytes
    ) -> Carry | Undecodable:
        if decision.purpose != Purpose.DECIDE:
            return Undecodable(ErrorClass.UNKNOWN_TYPE, f"purpose {decision.purpose!r:.60} never runs")
        if is_planted(decision.action_id):
            return Undecodable(ErrorClass.UNKNOWN_TYPE, f"the id {decision.action_id!r:.60} is a planted action's")
        place = decision.entity.account or decision.agent.id
        at_home = home(decision.tenant, place, self.settings.topics.partitions)
        if at_home != record.partition:
            # Its seal fits in every partition; only at home it is known whether it has run.
            return Undecodable(ErrorClass.SEAL, f"it belongs to partition {at_home}: somebody copied it here")
        action = structs.replace(decoded.action, tenant=decision.tenant)
        people = isinstance(decision, records.Approved)
        try:
            until_ms = execute_by_ms(decision)
        except (ValueError, OverflowError) as error:
            return Undecodable(ErrorClass.SCHEMA, f"execute_by: {error}")
        permit = Permit(
            epoch=decision.epoch,
            policy=decision.policy,
            execute_by_ms=until_ms,
            outcome=Outcome[decision.outcome],
            attempt=decision.attempt,
            held=decision.held,
            by=approvers(decision) if people else None,
            unsealed=unsealed,
        )
        identity = identity_of(decision.tenant, place, decision.action_id, decision.hash)
        return Carry(
            decision=decision,
            raw=decoded.raw,
            routed=routed,
            action=action,
            permit=permit,
            target=target_of(action, decision.tenant, decision.entity),
            keys=keys_of(action, decision.tenant, decision.entity),
            identity=identity,
            idempotency_key=f"{decision.tenant}/{decision.action_id}/{decision.hash}",
            headers=records.traces(record.headers),
        )

    def output(self, name: str, partition: int, key: bytes | None, value: bytes, headers: Sequence[Header]) -> Output:
        """Return one record of a topic of ours, sealed."""
        # A fact has no action; of the others the head is sealed.
        sealed = value if name == "facts" else records.head_of(value)
        own = [(TYPE_HEADER, self._types[name]), (SEAL_HEADER, self._seals[name](sealed))]
        return Output(self.settings.topics.name(name), partition, key, value, [*own, *headers])


class AdapterService(Service):
    """Enters the adapter before the lane's first call, and leaves it after the last."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    async def on_start(self) -> None:
        """Open its connections; raises what it raises, `TimeoutError` after `ENTER_S_MAX`."""
        async with asyncio.timeout(ENTER_S_MAX):
            await self.adapter.__aenter__()

    async def on_stop(self) -> None:
        """Close them; what goes wrong then concerns nobody any more."""
        with suppress(Exception):
            async with asyncio.timeout(LEAVE_S_MAX):
                await self.adapter.__aexit__(None, None, None)


@dataclass(frozen=True)
class Carry:
    """A record that is a decision of ours, and what follows from it."""

    decision: Carried
    raw: bytes
    routed: bytes
    """The router's own decision, also where people approved it: what is sent back, and decided again."""
    action: Action
    """As adapters get it: with its tenant."""
    permit: Permit
    target: Target
    keys: Keys
    identity: bytes
    idempotency_key: str
    headers: list[Header]


class _Stray(Errand):
    """A record that is none of ours: a dead letter, in its place among the others of the partition."""

    keys: Keys = frozenset()

    def __init__(self, executor: Executor, record: Record, why: Undecodable) -> None:
        self.executor = executor
        self.record = record
        self.why = why

    def standing(self, epoch: int) -> Standing:
        """Have no call."""
        return Standing.RIGHT

    async def run(self, line: Line) -> Finished:
        """Put it aside, as it came."""
        record, settings = self.record, self.executor.settings
        limit = TABLE["dlq"].bytes_max - 4_096
        value, headers = dead_letter(record, self.why.error, self.why.why, settings.instance, limit)
        place = f"{record.topic}/{record.partition}/{record.offset}"
        end = End(
            identity=_identity_of_place(record),
            id=place,
            end="dead",
            partition=record.partition,
            offset=record.offset,
            keep_ms=line.guard.now_ms() + KEEP_MS,
        )
        tally = ExecutorTally()
        tally.dead[self.why.error] = 1
        self.executor.log.warning("not a decision of ours", place=place, error=self.why.error, why=self.why.why)
        output = Output(settings.topics.name("dlq"), record.partition, record.key, value, headers)
        return Finished([output], end, tally)


class _Errand(Errand):
    """One decision on its way to its end."""

    def __init__(self, executor: Executor, record: Record, carry: Carry, state: ExecutorState) -> None:
        self.executor = executor
        self.record = record
        self.carry = carry
        self.keys = carry.keys
        self._state = state
        self._present: tuple[Value | None, ...] | None = None
        self._class = "none"
        self._waited = False
        self._called_ms: int | None = None
        self._pause_s = PAUSE_FIRST_S
        self._doubt_since_ms: int | None = None
        """Since when nobody knows whether it was applied; None: it was not."""
        self._settled_at = 0.0
        """From when on, by the loop's clock, "not applied" is the last word."""
        self._refusal: Failed | None = None
        """What the platform refused while an earlier call might still arrive."""
        self._tally = ExecutorTally()
        self._log = executor.log.bind(
            decision_id=carry.decision.id, action_id=carry.decision.action_id, trace_id=carry.decision.trace
        )

    async def run(self, line: Line) -> Finished:
        """Bring it to its end."""
        traceparent.set(next((content.decode() for _, content in self.carry.headers), ""))
        if self._past().done:
            return self._repeat()
        self._class = self.executor.policies.at(line.guard.now_ms()).of(self.carry.action.type).label
        if line.doubtful:
            # A process that is gone may have called.
            self._doubt_since_ms = line.guard.now_ms()
            self._settled_at = line.opened_at + SETTLED_S
        while True:
            end = await (self._step(line) if self._doubt_since_ms is None else self._resolve(line))
            if end is not None:
                self._count_offences(line)
                self._say_the_rest()
                return end

    def standing(self, epoch: int) -> Standing:
        """Say what switches engaged after `epoch` mean for the call that is open."""
        carry = self.carry
        switches = self.executor.control.switches.blocking(carry.target, epoch)
        if any(switch.mode is Mode.HALT for switch in switches):
            return Standing.WRONG
        return Standing.RIGHT if permits(carry.permit, carry.action, switches, self._present) else Standing.OLD

    # --- the gate, and the call ---------------------------------------------------------------------------------------

    async def _step(self, line: Line) -> Finished | None:
        """Ask the gate and do what it says; return None where it is to be asked again."""
        await line.allowed()
        if self._is_behind(line):
            await self._await_epoch(line, self.carry.permit.epoch)
            self._read_anew()
            return None
        self._present = None
        async with line.slots:
            answer = self._ask(line)
            if isinstance(answer, Look):
                self._present = await self._look()
                if self._present is not None:
                    answer = self._ask(line)
            if isinstance(answer, Run):
                called = await self._call(line)
                return None if isinstance(called, NotBegun) else self._take(line, called)
        return await self._without_a_call(line, answer)

    async def _without_a_call(self, line: Line, answer: Answer) -> Finished | None:
        match answer:
            case Run() | Look():
                await self._rest()  # it could not be read
                return None
            case Wait(epoch):
                await self._await_epoch(line, epoch)
                return None
            case Skip():
                return self._repeat()
            case SendBack() | Close():
                if not self._settled():
                    # What was cut off may still arrive: only when it cannot any more, "not applied" is an end.
                    await asyncio.sleep(self._settled_at - _clock())
                    self._doubt_since_ms = line.guard.now_ms()
                    return None
                return self._closed(line, answer) if isinstance(answer, Close) else self._sent_back(line, answer)
            case _:
                assert_never(answer)

    def _is_behind(self, line: Line) -> bool:
        """Say whether what people approved may not hold here only since the desk has read more of control than we."""
        permit = self.carry.permit
        is_checked = not isinstance(self.executor.approvals, NoApprovals)
        return bool(permit.unsealed) and is_checked and permit.epoch > line.guard.epoch and not self._waited

    def _read_anew(self) -> None:
        """Look again at what people approved, by the keys and rules that stand now."""
        found = self.executor.read(self.record)
        if isinstance(found, Carry):
            self.carry = found

    def _ask(self, line: Line) -> Answer:
        carry, now_ms = self.carry, line.guard.now_ms()
        policy = self.executor.policies.at(now_ms)
        return gate(
            carry.permit, carry.action, carry.target, self.executor.control, policy, now_ms, self._past(),
            self._present, waited=self._waited,
        )  # fmt: skip

    async def _call(self, line: Line) -> Applying | Cut | NotBegun:
        """Call the platform: nothing is awaited between the gate's answer and the beginning of the call."""
        began = _clock()
        answer: Any  # adapters are anybody's code
        try:
            answer = await line.call(lambda: self._begin(line))
        except Exception as error:
            self._warn("adapter raised", error=repr(error))
            return Unknown(f"the adapter raised {error!r:.200}")
        if isinstance(answer, Applied | Failed):
            self._tally.seconds.append(_clock() - began)
        if isinstance(answer, Applied | Failed | Unknown | Cut | NotBegun):
            return answer
        return Unknown(f"the adapter answered {answer!r:.200}")

    def _begin(self, line: Line) -> Coroutine[Any, Any, Applying]:
        """Return the call, when it is certain that it begins."""
        guard, carry = line.guard, self.carry
        now_ms, epoch = guard.now_ms(), guard.epoch
        not_after_ms = min(now_ms + guard.lease_left_ms(), carry.permit.execute_by_ms)
        self._called_ms = now_ms
        begun = Begun(now_ms, epoch, carry.permit, carry.action, carry.target, self._present)
        offence = self.executor.offences.begun(begun)
        if offence is not None:
            self._offend(offence)
        return self.executor.adapter.apply(carry.action, carry.idempotency_key, not_after_ms, epoch)

    def _take(self, line: Line, answer: Applying | Cut) -> Finished | None:
        """Take up what the platform said; return None where it said nothing that ends it."""
        match answer:
            case Applied():
                return self._executed(line, answer)
            case Failed():
                if self._settled():
                    return self._refused(line, answer)
                # This call did nothing; one before it that was cut off may still arrive.
                self._refusal = answer
                self._doubt_since_ms = line.guard.now_ms()
            case Unknown(text):
                self._doubt(line, text)
            case Cut():
                self._doubt(line, "halted" if answer is Cut.HALTED else "no answer in time")
            case _:
                assert_never(answer)
        return None

    async def _look(self) -> tuple[Value | None, ...] | None:
        """Read what stands on the platform, leg by leg; None where one cannot be read."""
        adapter, action = self.executor.adapter, self.carry.action
        values: list[Value | None] = []
        for change in action.changes:
            try:
                async with asyncio.timeout(self.executor.settings.call_s_max):
                    values.append(await adapter.present(change, action))
            except Exception as error:
                self._warn("present value cannot be read", field=change.field, error=repr(error))
                return None
        return tuple(values)

    async def _await_epoch(self, line: Line, epoch: int) -> None:
        """Wait for a control epoch as long as a lease lasts: a healthy view has it by then, another has no lease."""
        until = _clock() + LEASE_MS / 1000
        while line.guard.epoch < epoch and _clock() < until:  # noqa: ASYNC110  a guard sets no event
            await asyncio.sleep(EPOCH_POLL_S)
        self._waited = line.guard.epoch < epoch

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, PAUSE_S_MAX)

    def _past(self) -> Past:
        carry = self.carry
        return self._state.past(carry.identity, carry.permit.attempt, carry.keys)

    # --- doubt --------------------------------------------------------------------------------------------------------

    def _doubt(self, line: Line, why: str) -> None:
        self._doubt_since_ms = line.guard.now_ms()
        self._settled_at = _clock() + SETTLED_S
        self.executor.observer.unknown()
        self._warn("outcome unknown", why=why, called_ms=self._called_ms)

    def _settled(self) -> bool:
        return _clock() >= self._settled_at

    async def _resolve(self, line: Line) -> Finished | None:
        """Ask the platform what became of the call; return None where that is still open, or it was not applied."""
        async with line.slots:
            answer = await self._read_back()
        match answer:
            case Applied():
                return self._executed(line, answer)
            case NotApplied():
                return await self._not_applied(line)
            case Unknown(text):
                if line.guard.now_ms() >= self._ask_until_ms():
                    return self._failed(line, Status.UNRESOLVED, PlatformRow(text=cut(text)))
                await self._rest()
                return None
            case _:
                assert_never(answer)

    async def _not_applied(self, line: Line) -> Finished | None:
        """Take up that nothing has happened so far: the last word, once nothing can arrive any more."""
        if self._refusal is not None:
            if self._settled():
                return self._refused(line, self._refusal)
            await asyncio.sleep(self._settled_at - _clock())
            return None
        if self._called_ms is not None:
            await self._rest()  # it may be that the platform said "not now"
        self._doubt_since_ms = None
        return None

    async def _read_back(self) -> ReadingBack:
        carry = self.carry
        answer: Any
        try:
            async with asyncio.timeout(self.executor.settings.call_s_max):
                answer = await self.executor.adapter.read_back(carry.action, carry.idempotency_key)
        except Exception as error:
            return Unknown(f"the adapter raised {error!r:.200}")
        if isinstance(answer, Applied | NotApplied | Unknown):
            return answer
        return Unknown(f"the adapter answered {answer!r:.200}")

    def _ask_until_ms(self) -> int:
        since = self._doubt_since_ms
        assert since is not None  # it is in doubt
        return min(max(self.carry.permit.execute_by_ms + ASK_MS_MIN, since + ASK_MS_MIN), since + ASK_MS_MAX)

    # --- ends ---------------------------------------------------------------------------------------------------------

    def _executed(self, line: Line, applied: Applied) -> Finished:
        platform = PlatformRow(code=applied.code, ref=None if applied.ref is None else cut(applied.ref))
        # What stands there now is what the platform says, not what we asked for.
        stands = [applied.present.get(f"/changes/{n}") for n in range(len(self.carry.action.changes))]
        outputs = [self._result(line, Status.EXECUTED, platform), *self._facts(line, stands)]
        return self._finished(outputs, Status.EXECUTED)

    def _refused(self, line: Line, failed: Failed) -> Finished:
        return self._failed(line, Status.FAILED, PlatformRow(code=failed.code, text=cut(failed.text)))

    def _failed(self, line: Line, status: Status, platform: PlatformRow) -> Finished:
        """End what the platform refused, or would not tell of; people are asked to look at it."""
        if status is Status.UNRESOLVED:
            self._log.error("unresolved: nobody knows whether it was applied", why=platform.text)
        text = platform.text or ""
        outputs = [self._result(line, status, platform), self._question(line, f"{status.value}: {text}")]
        return self._finished(outputs, status)

    def _finished(self, outputs: list[Output], status: Status) -> Finished:
        self._tally.results[self._class, status.value] = 1
        return Finished(outputs, self._end(status.value), self._tally)

    def _closed(self, line: Line, answer: Close) -> Finished:
        carry = self.carry
        value = closed_value(carry.decision, carry.raw, answer.end, answer.why, answer.reason)
        outputs = [self._output("closed", value)]
        if answer.end is EndName.STALE and self._present is not None:
            outputs += self._facts(line, self._present)
        self._tally.closed[answer.why] = 1
        end = self._end(answer.end.value)
        if answer.why is Why.UNSEALED:
            # Whoever wrote this must not end what a good record of the same name begins.
            end = structs.replace(end, identity=_identity_of_place(self.record))
        return Finished(outputs, end, self._tally)

    def _sent_back(self, line: Line, answer: SendBack) -> Finished:
        carry = self.carry
        parked = records.Parked(by="executor", epoch=line.guard.epoch, switches=answer.switches)
        output = self._output("held", records.held_value(carry.routed, parked))
        self._tally.sent_back[answer.why] = 1
        end = structs.replace(self._end("sent_back"), attempt=carry.permit.attempt, sent_back=carry.keys)
        return Finished([output], end, self._tally)

    def _repeat(self) -> Finished:
        self._tally.repeated = 1
        return Finished((), None, self._tally)

    def _end(self, end: str) -> End:
        carry, record = self.carry, self.record
        keep_ms = carry.permit.execute_by_ms + KEEP_MS
        return End(carry.identity, carry.decision.id, end, record.partition, record.offset, keep_ms)

    def _result(self, line: Line, status: Status, platform: PlatformRow) -> Output:
        carry = self.carry
        present = {f"/changes/{n}": value for n, value in enumerate(self._present or ())}
        value = result_value(
            carry.decision, carry.raw, status, carry.idempotency_key,
            present=present,
            called_ms=self._called_ms,
            answered_ms=None if status is Status.UNRESOLVED else line.guard.now_ms(),
            platform=platform,
        )  # fmt: skip
        return self._output("results", value)

    def _question(self, line: Line, text: str) -> Output:
        now_ms = line.guard.now_ms()
        policy = self.executor.policies.at(now_ms)
        queue = policy.exceptions.get("platform", policy.policy.defaults.queue)
        decide_by_ms = now_ms + policy.queues[queue].sla_ms
        value = exceptional_value(self.carry.decision, self.carry.raw, text, queue, decide_by_ms)
        return self._output("escalation", value)

    def _facts(self, line: Line, values: Sequence[Value | None]) -> list[Output]:
        carry, partitions = self.carry, self.executor.settings.topics.partitions
        tenant, agent, now_ms = carry.decision.tenant, carry.decision.agent.id, line.guard.now_ms()
        outputs = []
        for change, value in zip(carry.action.changes, values, strict=True):
            if value is not None:
                key = key_of(tenant, change.entity, agent) + b"#" + change.field.encode()
                place = home(tenant, change.entity.account or agent, partitions)
                fact = fact_value(tenant, change, value, now_ms)
                outputs.append(self.executor.output("facts", place, key, fact, carry.headers))
        return outputs

    def _output(self, name: str, value: bytes) -> Output:
        carry, record = self.carry, self.record
        key = key_of(carry.decision.tenant, carry.decision.entity, carry.decision.agent.id)
        return self.executor.output(name, record.partition, key, value, carry.headers)

    def _count_offences(self, line: Line) -> None:
        found = self.executor.offences.found(line.guard.now_ms())
        if found:
            self.executor.observer.offending(found, After.APPEND)

    def _offend(self, offence: Offence) -> None:
        """Take up what must never happen: the last gate let through what a switch that is known here stops."""
        executor, switch = self.executor, offence.switch
        executor.observer.offending(1, offence.after)
        self._log.error(
            "a call began under a switch that was applied here: the last gate is broken",
            after=offence.after.value, switch=switch.epoch, mode=switch.mode.value, scope=" ".join(switch.scope),
        )  # fmt: skip
        if offence.after is After.EFFECTIVE:
            executor.alarm()

    def _warn(self, event: str, **facts: Any) -> None:
        """Say what happens to many records at once: the first in full, then how many."""
        times = self.executor.bursts.count(event, _clock())
        if times:
            self._log.warning(event, times=times, **facts)

    def _say_the_rest(self) -> None:
        for event, times in self.executor.bursts.due(_clock()):
            self.executor.log.warning(event, times=times)


def _identity_of_place(record: Record) -> bytes:
    return identity_of("", f"{record.topic}/{record.partition}/{record.offset}", "", "")


def _clock() -> float:
    return asyncio.get_running_loop().time()
