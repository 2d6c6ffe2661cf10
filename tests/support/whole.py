"""A whole installation of one partition in memory: the real router, an executor and a desk that write as theirs do.

Nothing here runs by itself. What they write stands in `logs`, by our own names of the topics, and `verify` gives it to
the ledger as `hitl verify` would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hitl_stream.core.control import Control
from hitl_stream.core.effects import Effect
from hitl_stream.core.events import End, Outcome, Status, Why
from hitl_stream.core.ledger import Ledger, Report, Taken
from hitl_stream.core.obeyed import Obeyed, Recorded
from hitl_stream.core.parking import Keys, keys_of
from hitl_stream.core.reasons import Reason
from hitl_stream.core.switches import Target, target_of
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.step import Moment, Output
from hitl_stream.lane.verify_facts import ANSWERS, RESULTS, Against, Facts, checks
from hitl_stream.roles.router import Router
from hitl_stream.wire import records
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.decided import routed_value
from hitl_stream.wire.executed import Carried, closed_value, exceptional_value, result_value
from hitl_stream.wire.records import Approved, Parked, Routed, execute_by_ms, head_of, held_value
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.whose import Seals
from support.guard import Commands
from support.make import NOW_MS, SEAL_KEY, FakeRecord, make_policy, make_router

TOPICS = TopicSet(partitions=1)
ACTIONS = TOPICS.name("actions")
EXECUTOR_KEY = SealKey("e1", b"\x04" * 32)
DESK_KEY = SealKey("d1", b"\x03" * 32)
KEYS = {
    "router": {SEAL_KEY.key_id: SEAL_KEY},
    "executor": {EXECUTOR_KEY.key_id: EXECUTOR_KEY},
    "desk": {DESK_KEY.key_id: DESK_KEY},
}
CALM = make_policy(
    classes={"bid.adjust": {"audit_sample": 0, "auto_max_change_per": None}}, defaults={"audit_sample": 0}
)
"""No running sums, so that whatever runs alone once does so again."""
ASKED = ("review", "escalation")


class Whole:
    """One partition of an installation."""

    def __init__(self, policy: Any = CALM) -> None:
        parkers = {key.key_id: key for key in (EXECUTOR_KEY, DESK_KEY)}
        self.router: Router = make_router(policy, parkers=parkers)
        self.control: Control = self.router.policies.control
        self.commands = Commands(self.control)
        self.logs: dict[str, list[FakeRecord]] = {name: [] for name in ("actions", *ANSWERS, RESULTS)}
        self.now_ms = NOW_MS
        self.routed = 0
        """Committed offset on actions."""
        self.consumed = 0
        """The router's committed offset on `held`."""
        self.executed = 0
        """The executor's on `execute`."""
        self.followed = 0
        self.sent_back: list[tuple[int, Keys]] = []
        self.unresolved: list[tuple[Carried, bytes]] = []
        self.settled_reviews: set[tuple[str, int]] = set()
        self.open()

    # --- the log ------------------------------------------------------------------------------------------------------

    def append(self, topic: str, value: bytes | None, headers: Iterable[Any] = (), key: bytes | None = None) -> None:
        """Append a record to a topic of ours."""
        log = self.logs[topic]
        log.append(FakeRecord(value, len(log), 0, self.now_ms, TOPICS.name(topic), key, tuple(headers)))

    def write(self, outputs: Iterable[Output]) -> None:
        """Append what a role answered; what is no topic of the ledger's is left out."""
        names = {TOPICS.name(name): name for name in self.logs}
        for output in outputs:
            if output.topic in names:
                self.append(names[output.topic], output.value, output.headers, output.key)

    def sealed(self, topic: str, kind: str, value: bytes, key: SealKey) -> None:
        """Append a record under a role's seal."""
        seal = sealer(key, TOPICS.name(topic), kind)(head_of(value))
        self.append(topic, value, ((TYPE_HEADER, kind.encode()), (SEAL_HEADER, seal)))

    # --- agents and people --------------------------------------------------------------------------------------------

    def publish(self, *values: bytes) -> None:
        """Let agents propose."""
        for value in values:
            self.append("actions", value)

    def engage(self, *scope: str, **options: Any) -> int:
        """Engage a switch; it is EFFECTIVE at once, as everybody here reads it before anything else."""
        self.commands.at_ms = self.now_ms
        return self.commands.engage(*scope, **options)

    def release(self, *epochs: int) -> None:
        """Release switches; that takes a minute."""
        self.commands.at_ms = self.now_ms
        self.commands.release(*epochs)
        self.now_ms = self.commands.at_ms

    # --- the router ---------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the partition anew."""
        self.state = self.router.state(IdBudget())
        past = self.logs["actions"][: self.routed]
        if past:
            self.state.replay(past)
        self.followed = self.consumed
        self.follow()

    def follow(self) -> None:
        """Read what came to `held`."""
        held = self.logs["held"]
        if self.followed < len(held):
            self.state.follow(held[self.followed :])
            self.followed = len(held)

    def moment(self) -> Moment:
        """Return what a batch is decided under."""
        return Moment(self.now_ms, self.control.epoch)

    def route(self) -> None:
        """Decide what is there."""
        batch = self.logs["actions"][self.routed :]
        if not batch:
            return
        result = self.router(batch, self.state, self.moment())
        self.state.apply(result.changes)
        self.write(result.outputs)
        self.routed += len(batch)

    def pass_(self, batch: int = 3, abort_after: int | None = None) -> None:
        """Make a pass if the state wants one; abort it after so many batches."""
        self.now_ms += 1_000
        self.follow()
        if not self.state.wants_pass(self.moment()):
            return
        epoch, watermark = self.control.epoch, len(self.logs["held"])
        while self.consumed < watermark:
            if abort_after == 0:
                return
            some = self.logs["held"][self.consumed : min(self.consumed + batch, watermark)]
            result = self.router.again(some, self.state, self.moment())
            taken = some if result.taken is None else some[: result.taken]
            self.consumed += len(taken)
            self.write(result.outputs)
            self.state.apply(result.changes)
            if len(taken) < len(some):
                return
            abort_after = None if abort_after is None else abort_after - 1
        self.state.passed(epoch)
        self.follow()

    # --- the executor -------------------------------------------------------------------------------------------------

    def execute(self, end: Callable[[], str]) -> None:
        """Take up the next execute record: call (`end` says how that ends), send it back, or close it."""
        log = self.logs["execute"]
        if self.executed == len(log):
            return
        record = log[self.executed]
        self.executed += 1
        decision, decoded = carried(record.value or b"")
        keys, target = touched(decision, decoded)
        switches = self.control.switches
        covered = switches.blocking(target, decision.epoch)
        behind = any(decision.held < at and conflict(keys, theirs) for at, theirs in self.sent_back)
        if execute_by_ms(decision) <= self.now_ms:
            self.close(decision, decoded, End.EXPIRED, Why.EXECUTE_BY)
        elif covered or behind:
            engaged = tuple(switch.epoch for switch in switches.covering(target))
            self.send_back(record, engaged)
            self.sent_back.append((len(self.logs["held"]) - 1, keys))
        else:
            self.end(decision, decoded, end())

    def end(self, decision: Carried, decoded: Decoded, how: str) -> None:
        """End a decision: by a result, or as stale."""
        if how == "stale":
            self.close(decision, decoded, End.STALE, Why.STALE)
            return
        status = Status(how)
        self.result(decision, decoded.raw, status, self.now_ms)
        if status is Status.UNRESOLVED:
            self.unresolved.append((decision, decoded.raw))
        if status is not Status.EXECUTED:
            value = exceptional_value(decision, decoded.raw, "it would not", "trading", self.now_ms)
            self.sealed("escalation", records.DECISION, value, EXECUTOR_KEY)

    def result(self, decision: Carried, raw: bytes, status: Status, called_ms: int | None, **parts: Any) -> None:
        """Write a result."""
        value = result_value(
            decision, raw, status, "key", present={}, called_ms=called_ms, answered_ms=called_ms,
            platform=records.PlatformRow(code=200), **parts,
        )  # fmt: skip
        self.sealed("results", records.RESULT, value, EXECUTOR_KEY)

    def close(self, decision: Carried, decoded: Decoded, end: End, why: Why) -> None:
        """Close a decision at the last gate."""
        reason = Reason(f"executor.{why}", "", None, Outcome.REFUSE)
        self.sealed("closed", records.CLOSED, closed_value(decision, decoded.raw, end, why, reason), EXECUTOR_KEY)

    def settle(self, status: Status) -> None:
        """Find out what became of an unresolved call."""
        if self.unresolved:
            decision, raw = self.unresolved.pop(0)
            self.result(decision, raw, status, None)

    def send_back(self, record: FakeRecord, switches: tuple[int, ...] = ()) -> None:
        """Park an execute record: of what people approved, the router's own decision."""
        value, parked = record.value or b"", Parked(by="executor", epoch=self.control.epoch, switches=switches)
        decision, decoded = carried(value)
        if isinstance(decision, Approved):
            routed = routed_value(decision, decoded.raw)
            assert routed is not None
            value = routed
        self.sealed("held", records.DECISION, held_value(value, parked), EXECUTOR_KEY)

    # --- the desk -----------------------------------------------------------------------------------------------------

    def review(self, verdict: str) -> None:
        """Let people decide the oldest open review: approve or reject."""
        for topic in ASKED:
            for record in self.logs[topic]:
                place = topic, record.offset
                if place in self.settled_reviews or b'"purpose":"decide"' not in head_of(record.value or b""):
                    continue
                self.settled_reviews.add(place)
                self._decide(topic, record, records.decode_held(record.value or b""), verdict)
                return

    def _decide(self, topic: str, record: FakeRecord, decision: records.Held, verdict: str) -> None:
        value = record.value or b""
        decoded = decode_bytes(bytes(decision.action), decision.ce)
        assert isinstance(decoded, Decoded)
        _, target = touched(decision, decoded)
        if verdict == "reject":
            reason = Reason("verdict", "reject", None, Outcome.REFUSE)
            end = closed_value(decision, decoded.raw, End.REJECTED, Why.POLICY, reason)
            self.sealed("closed", records.CLOSED, end, DESK_KEY)
        elif self.control.switches.covering(target):
            parked = Parked(by="desk", epoch=self.control.epoch)
            self.sealed("held", records.DECISION, held_value(value, parked), DESK_KEY)
        else:
            self.sealed("execute", records.DECISION, self.approved(topic, record), DESK_KEY)

    def approved(self, topic: str, record: FakeRecord) -> bytes:
        """Return a review record as the desk writes it once people have approved it."""
        value = record.value or b""
        decision = records.decode_decision(value)
        seal = dict(record.headers)[SEAL_HEADER].decode()
        shared = {name: getattr(decision, name) for name in records.Common.__struct_fields__}
        approved = Approved(
            **shared | {"outcome": "EXECUTE", "epoch": self.control.epoch},
            origin=decision.origin, attempt=decision.attempt, held=decision.held, by=("ana",),
            routed=Routed(topic=TOPICS.name(topic), head=head_of(value).decode(), seal=seal), verdicts=("jws",),
            action=decision.action,
        )  # fmt: skip
        return records.encode(approved)

    # --- the verdict --------------------------------------------------------------------------------------------------

    def verify(
        self,
        *,
        keys: Mapping[str, Mapping[str, SealKey]] = KEYS,
        order: Sequence[str] = ("actions", *ANSWERS),
        with_control: bool = True,
        committed: int | None = None,
    ) -> Report:
        """Give everything to the ledger, topic by topic, results last."""
        report, _ = self.looked_at(keys=keys, order=order, with_control=with_control, committed=committed)
        return report

    def looked_at(
        self,
        *,
        keys: Mapping[str, Mapping[str, SealKey]] = KEYS,
        order: Sequence[str] = ("actions", *ANSWERS),
        with_control: bool = True,
        committed: int | None = None,
    ) -> tuple[Report, Facts]:
        """Do as `verify`, and return what was read, too. `committed`: when execute records were, if not at once."""
        ledger = Ledger(window_ms=900_000)
        book = ledger.open(f"{ACTIONS}/0", 0, len(self.logs["actions"]))
        switches, epoch = self.control.switches, self.control.epoch
        effects = {one.epoch: Effect(one.epoch, one.at_ms, one.at_ms + 10) for one in switches.all.values()}
        obeyed = Obeyed(switches, epoch, effects.get) if with_control and switches.all else None
        against = Against(Seals(keys), True, {0: self.executed}, obeyed, Recorded((), "d" * 64), epoch)
        facts = Facts(TOPICS, [ACTIONS], ledger, against)
        for name in (*order, RESULTS):
            if self.logs[name]:
                facts.take(TOPICS.name(name), 0, self.logs[name])
        for candidate in facts.candidates.get(0, ()):
            facts.committed(candidate, candidate.append_ms if committed is None else committed)
        offsets = {book.place: self.routed}
        held = {0: Taken(self.consumed, self.consumed)}
        return ledger.close(offsets, offsets, held=held, checks=checks(against)), facts


def carried(value: bytes) -> tuple[Carried, Decoded]:
    """Read an execute record."""
    decision = (records.decode_approved if records.ROUTED_MARK in head_of(value) else records.decode_held)(value)
    decoded = decode_bytes(bytes(decision.action), decision.ce)
    assert isinstance(decoded, Decoded)
    return decision, decoded


def touched(decision: records.Common, decoded: Decoded) -> tuple[Keys, Target]:
    """Return what a decision touches, and what scopes are compared with."""
    action = decoded.action
    keys = keys_of(action, decision.tenant, decision.entity)
    return keys, target_of(action, decision.tenant, decision.entity)


def conflict(one: Keys, other: Keys) -> bool:
    """Say whether two actions may not run at the same time."""
    return any(a[:2] == b[:2] and (a[2] == b[2] or a[2] is None or b[2] is None) for a in one for b in other)
