"""An executor at work without a broker: decisions of a real router, a platform in memory, virtual time."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from hitl_stream.core.action import Action, Change, Value
from hitl_stream.core.events import After
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.window import IdBudget
from hitl_stream.execute import Adapter, Applied, Applying, Failed, NotApplied, ReadingBack, Unknown, traceparent
from hitl_stream.lane.calls import CALL_S_MAX, WINDOW
from hitl_stream.lane.clock import ControlClock
from hitl_stream.lane.step import Header, Moment, Output
from hitl_stream.roles.executor import Approvals, Executor, ExecutorSettings
from hitl_stream.roles.policies import Policies
from hitl_stream.wire import records
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed
from hitl_stream.wire.topics import TopicSet
from support.call_bench import INPUT, CallBench
from support.guard import Commands, TestGuard
from support.make import SEAL_KEY, FakeRecord, Partition, acme, action_bytes, iso, make_router
from support.virtual import now_s, virtually

EXECUTOR_KEY = SealKey("e1", b"\x04" * 32)
APPLY_S = 0.02


class FakeAdapter(Adapter):
    """A platform that holds values and applies a key once. `script` says by action id how the next calls go."""

    fence = False

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.applied: dict[str, str] = {}
        """Idempotency key → action id."""
        self.order: list[str] = []
        self.times: Counter[str] = Counter()
        """Action id → how often it took effect."""
        self.calls: list[str] = []
        self.begun: dict[str, float] = {}
        self.limits: dict[str, tuple[int, int]] = {}
        """Action id → not-after and epoch of its last call."""
        self.traces: dict[str, str] = {}
        self.read_backs: list[str] = []
        self.reads: Counter[str] = Counter()
        self.script: defaultdict[str, list[str]] = defaultdict(list)
        self.deaf: Counter[str] = Counter()
        """Action id → so many read-backs cannot say."""
        self.unreadable = 0
        self.open = 0
        self._late: set[asyncio.Task[None]] = set()

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        name = action.action_id
        self.calls.append(name)
        self.begun[name] = now_s()
        self.limits[name] = not_after_ms, epoch
        self.traces[name] = traceparent.get()
        how = self.script[name].pop(0) if self.script[name] else "ok"
        self.open += 1
        try:
            await asyncio.sleep(APPLY_S)
            match how:
                case "fail":
                    return Failed(422, "the budget is frozen")
                case "raise":
                    raise OSError("no route")
                case "not now":
                    return Unknown("429")
                case "hang":
                    await asyncio.sleep(3_600)
                case "hang until late" | "hang until very late":
                    # What was sent arrives, although nobody listens any more.
                    seconds = 1.0 if how == "hang until late" else CALL_S_MAX + 1.0
                    task = asyncio.ensure_future(self._later(action, idempotency_key, seconds))
                    self._late.add(task)
                    await asyncio.sleep(3_600)
                case "nonsense":
                    return None  # type: ignore[return-value]
            self._apply(action, idempotency_key)
            if how == "lose":
                raise ConnectionResetError("cut")
            if how == "apply and hang":
                await asyncio.sleep(3_600)
            return Applied(f"ref-{name}", 200, self._stands(action))
        finally:
            self.open -= 1

    async def _later(self, action: Action, key: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._apply(action, key)

    def _apply(self, action: Action, key: str) -> None:
        if key in self.applied:
            return
        self.applied[key] = action.action_id
        self.order.append(action.action_id)
        self.times[action.action_id] += 1
        for change in action.changes:
            if change.after is not None:
                self.values[_place(change)] = change.after

    def _stands(self, action: Action) -> Mapping[str, Value]:
        return {f"/changes/{n}": self.values[_place(change)] for n, change in enumerate(action.changes)}

    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        name = action.action_id
        self.read_backs.append(name)
        await asyncio.sleep(APPLY_S / 2)
        if self.deaf[name]:
            self.deaf[name] -= 1
            if self.deaf[name] % 2:
                raise TimeoutError("no answer")
            return Unknown("409")
        if idempotency_key in self.applied:
            return Applied(f"ref-{name}", 200, self._stands(action))
        return NotApplied()

    async def present(self, change: Change, action: Action) -> Value | None:
        self.reads[action.action_id] += 1
        await asyncio.sleep(APPLY_S / 4)
        if self.unreadable:
            self.unreadable -= 1
            raise ConnectionResetError("cut")
        return self.values.get(_place(change), change.before)


def _place(change: Change) -> str:
    return f"{change.entity.account}/{change.entity.campaign}/{change.field}"


class Seen:
    """An observer that counts."""

    def __init__(self) -> None:
        self.unknowns = 0
        self.offences = 0
        self.breaches = 0

    def unknown(self) -> None:
        self.unknowns += 1

    def offending(self, calls: int, after: After) -> None:
        if after is After.APPEND:
            self.offences += calls
        else:
            self.breaches += calls


class Execution(CallBench):
    """An executor over one partition of decisions. Make it inside of a loop."""

    def __init__(
        self, policy: Policy | None = None, approvals: Approvals | None = None, partitions: int = 1, number: int = 0
    ) -> None:
        commands = Commands()
        self.topics = TopicSet(partitions=partitions)
        self.policies = Policies(policy if policy is not None else acme().policy, "d" * 64, commands.control)
        self.adapter = FakeAdapter()
        self.seen = Seen()
        self.settings = ExecutorSettings(self.topics, {SEAL_KEY.key_id: SEAL_KEY}, {EXECUTOR_KEY.key_id: EXECUTOR_KEY})
        self.effective = -1
        """Up to which epoch control has said that engagements are EFFECTIVE."""
        self.alarms = 0
        self.executor = Executor(
            self.settings, self.policies, self.adapter, approvals, self.seen, lambda: self.effective, self._alarmed
        )
        self.budget = IdBudget()
        clock = ControlClock(lambda: int(now_s() * 1000))
        super().__init__(self.executor, lambda: self.executor.state(self.budget), TestGuard(clock, commands))
        self.state_topic = self.topics.name("executor.state")
        self.number = number
        self.commands = commands
        self._router = make_router(policy, partitions=partitions)
        self._router_partition = Partition(self._router)
        self._proposed = 0
        self.held_read = -1

    def _alarmed(self) -> None:
        self.alarms += 1

    async def settled(self, idle_s: float = 3.0) -> None:
        """Wait until nothing more is committed for longer than what was cut off may still arrive."""
        await super().settled(idle_s)

    def begin_behind(self) -> None:
        """Let the log begin with markers, so that of the next records nobody can have called any before."""
        assert not self.log
        self.append(*[None] * WINDOW)

    # --- in -----------------------------------------------------------------------------------------------------------

    def decide(self, epoch: int | None = None, headers: Sequence[Header] = (), **parts: Any) -> Output:
        """Let the router decide an action now, at what control says now (or at `epoch`); return its record."""
        now_ms = self.guard.now_ms()
        self._proposed += 1
        parts = {"action_id": f"act-{self._proposed}", "proposed_at": iso(now_ms - 100)} | parts
        record = FakeRecord(action_bytes(**parts), self._proposed, self.number, now_ms, headers=headers)
        self._router_partition.state.held = self.held_read
        moment = Moment(now_ms, self.guard.epoch if epoch is None else epoch)
        result = self._router([record], self._router_partition.state, moment)
        self._router_partition.state.apply(result.changes)
        outputs = [output for output in result.outputs if output.topic != "hitl.review.seeded"]
        (output,) = outputs
        return output

    def execute(self, epoch: int | None = None, **parts: Any) -> str:
        """Decide an action and append the decision to `execute`; return its id."""
        output = self.decide(epoch, **parts)
        assert output.topic == INPUT, f"it went to {output.topic}"
        self.put(output)
        decision = records.decode_decision(output.value or b"")
        return decision.action_id

    def put(self, output: Output) -> None:
        """Append a record to `execute` as it is."""
        self.append(output.value, headers=output.headers)

    # --- out ----------------------------------------------------------------------------------------------------------

    def said(self, topic: str) -> list[dict[str, Any]]:
        """Return the values on a topic of ours, each sealed by the executor, with its action as it came."""
        name = self.topics.name(topic)
        found = []
        for output in self.written[name]:
            value, headers = output.value or b"", dict(output.headers)
            kind = headers[TYPE_HEADER].decode()
            head = value if kind == records.FACT else records.head_of(value)
            assert sealed({EXECUTOR_KEY.key_id: EXECUTOR_KEY}, name, kind, head, headers[SEAL_HEADER]), topic
            found.append(json.loads(value))
        return found

    def ends(self) -> dict[str, list[str]]:
        """Return what became of each action id: its results, ends and parkings, in their order."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for topic, word in (("results", "status"), ("closed", "why"), ("held", "parked")):
            for value in self.said(topic):
                found[value["action_id"]].append("held" if topic == "held" else value[word])
        return dict(found)


def execution(scenario: Callable[[Execution], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run a scenario in virtual time; nothing may go on after it."""

    async def whole() -> None:
        bench = Execution(**options)
        try:
            await scenario(bench)
        finally:
            if hasattr(bench, "task") and not bench.task.done():
                await bench.crash()

    virtually(whole())
