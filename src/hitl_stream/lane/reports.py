"""From records to the figures of `hitl report`: what each fold of `core` is fed with, read from the log.

- A judgement counts where it moved something: `applied`, or `waiting` for another one. Of an action, the first
  judgement by log order says whether it was wrong; later ones had seen it.
- A rejection or a change says that it was wrong. An escalation says nothing of it.
- Canaries are no work of an agent's: they count for what share of planted errors people find, and for people's time.
  One that somebody let go comes back to them; let go twice it is missed.
- What cannot be read is counted, and is in no figure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TypeAlias, TypeVar
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from hitl_stream.core import batch as lots
from hitl_stream.core import waiting as waits
from hitl_stream.core.action import Action, entity_of
from hitl_stream.core.digest import DigestRow, Taken, digest, moved
from hitl_stream.core.events import Effect, Outcome, Purpose, Status
from hitl_stream.core.intervals import Rate
from hitl_stream.core.load import GateLoad, LoadRow, Look, by_hour, by_session
from hitl_stream.core.mistakes import (
    UNTYPED,
    MonthRow,
    Planted,
    Sampled,
    SentRow,
    Verdict,
    Watched,
    WatchedRow,
    Watching,
    by_month,
    estimate,
    hit_rates,
    misses_by_error,
    sent,
)
from hitl_stream.core.pilot import Pilot, Recorded, Spent, pilot
from hitl_stream.core.policy.compile import looks
from hitl_stream.core.policy.model import Baseline, Policy
from hitl_stream.core.review import ENDS, State
from hitl_stream.core.waiting import WaitingRow, waiting
from hitl_stream.core.yields import Scored, Yield, yields
from hitl_stream.lane.exports import Checked
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.desk_records import (
    HumanDecision,
    Observation,
    ReviewState,
    decision_of,
    decode_human_decision,
    decode_lot,
    decode_observation,
    decode_review,
    is_lot,
    ms_of,
)
from hitl_stream.wire.records import ROUTED_MARK, Common, Decision, decode_decision, decode_result, head_of

_T = TypeVar("_T")
Subject: TypeAlias = tuple[str, str, str]
"""Tenant, action id, hash."""
MOVED = frozenset({Effect.APPLIED.value, Effect.WAITING.value})
BAD = frozenset({"reject", "change"})
JUDGED = frozenset({"approve", *BAD})
WORDS = frozenset({*JUDGED, "escalate"})
MINUTE_MS = 60_000
WORK = frozenset({Purpose.DECIDE.value, Purpose.EXCEPTION.value})
"""Of these purposes something waits for the answer."""
AUDIT_LEAD_MS = 86_400_000
"""An audit copy is written when the action is routed; what is executed now may have been routed so long ago."""
EXCEPTION_MARK = b',"exception":'
"""What only an executor's question has; in a text of the router's head the quotes would be escaped."""
ROUTED = ("execute", "review", "escalation")
_BROKEN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError)


class Judgement(Struct, frozen=True):
    """What people said of one action, and how long they took over it together. `bad` None: only escalated so far."""

    handling_ms: int
    bad: bool | None


class Monthly(Struct, frozen=True):
    """Errors by month and type; of the whole stretch, the share of planted ones that people missed, by type, and how
    much of what was sent was wrong."""

    months: tuple[MonthRow, ...]
    missed: Mapping[str, Rate]
    sent: tuple[SentRow, ...]


class Load(Struct, frozen=True, kw_only=True):
    """What reviewing costs: all actions and each gate, pilots against their baselines, by session and hour, yield.

    `planted_minutes` went into canaries: they are in no gate's figure, and are the price of knowing who looks.
    """

    everything: GateLoad
    gates: tuple[GateLoad, ...]
    planted_minutes: float
    pilots: tuple[Pilot, ...]
    sessions: tuple[LoadRow, ...]
    hours: tuple[LoadRow, ...]
    yields: Yield


class Errors(Struct, frozen=True):
    """The three parts of the report on errors."""

    watched: tuple[WatchedRow, ...]
    sent: tuple[SentRow, ...]
    months: tuple[MonthRow, ...]


@dataclass
class Reports:
    """Reports on one log under one policy. `unreadable` counts what could not be read, by topic."""

    log: Checked
    policy: Policy
    unreadable: Counter[str] = field(default_factory=Counter)

    # --- the reports ---

    async def digest(self) -> tuple[DigestRow, ...]:
        """Return what was executed and approved by nobody."""
        audited: set[Subject] = set()
        since_ms = None if self.log.since_ms is None else self.log.since_ms - AUDIT_LEAD_MS
        async for decision in self._decisions_on("review.seeded", since_ms):
            if decision.purpose == Purpose.AUDIT:
                audited.add(_subject(decision))
        return digest([one async for one in self._taken(audited)])

    async def queues(self, now_ms: int) -> tuple[WaitingRow, ...]:
        """Return how long people let things wait, and what waits now."""
        judged = [one async for one in self._handled()]
        return waiting(judged, await self._open(), now_ms)

    async def yields(self) -> Yield:
        """Return what it would have been worth to look at the uncertain ones first."""
        first: dict[str, Scored] = {}
        async for record in self.log.records("observations"):
            one = self._read("observations", decode_observation, record.value)
            if one is None or one.purpose != Purpose.DECIDE or one.verdict not in JUDGED or one.score is None:
                continue
            first.setdefault(one.item, Scored(one.score, one.verdict in BAD))
        return yields(first.values())

    async def pilots(self) -> tuple[Pilot, ...]:
        """Return a report on each gate that has a baseline."""
        gates = {name: spec.baseline for name, spec in self.policy.gates.items() if spec.baseline is not None}
        judged = await self._judgements()
        spent = {name: Spent() for name in gates}
        under = self._looking(gates)
        async for decision, action, at_ms in self._routed():
            found = judged.get(_subject(decision))
            minutes = 0.0 if found is None else found.handling_ms / 60_000
            is_alone = decision.outcome == Outcome.EXECUTE.name
            for name in under(action, at_ms):
                if found is None and not is_alone:
                    spent[name].leave_out()
                else:
                    spent[name].add(minutes, reviewed=found is not None)
        sampled, planted = await self._sampled(), await self._planted()
        hits = hit_rates(planted).get("")
        reports = []
        for name, baseline in gates.items():
            mine = [one for one in sampled if name in one.gates]
            rate = estimate(mine, hits)[0] if mine else None
            reports.append(pilot(name, spent[name], rate, _recorded(baseline)))
        return tuple(reports)

    async def monthly(self) -> Monthly:
        """Return errors by month and type, which share of planted ones is missed, and what of the sent was wrong."""
        months, planted = [one async for one in self._months()], await self._planted()
        return Monthly(by_month(months), misses_by_error(planted), sent(await self._sampled(), planted))

    async def load(self) -> Load:
        """Return what reviewing costs, and when people do it worse."""
        judged = await self._judgements()
        gates: dict[str, Spent] = {name: Spent() for name in self.policy.gates}
        every, under = Spent(), self._looking(self.policy.gates)
        async for decision, action, at_ms in self._routed():
            found = judged.get(_subject(decision))
            minutes = 0.0 if found is None else found.handling_ms / MINUTE_MS
            waits = found is None and decision.outcome != Outcome.EXECUTE.name
            for spent in (every, *(gates[name] for name in under(action, at_ms))):
                if waits:
                    spent.leave_out()
                else:
                    spent.add(minutes, reviewed=found is not None)
        looks = [one async for one in self._looks()]
        return Load(
            everything=_gate_load("", every),
            gates=tuple(_gate_load(name, spent) for name, spent in sorted(gates.items())),
            planted_minutes=sum(one.decided_ms - one.shown_ms for one in looks if one.caught is not None) / MINUTE_MS,
            pilots=await self.pilots(),
            sessions=by_session(looks),
            hours=by_hour(looks),
            yields=await self.yields(),
        )

    async def errors(self) -> Errors:
        """Return what an observing gate would have done, the error rate of what was sent, and errors by month."""
        months = [one async for one in self._months()]
        return Errors(await self._watched(), sent(await self._sampled(), await self._planted()), by_month(months))

    # --- what was done alone, what waits ---

    async def _taken(self, audited: set[Subject]) -> AsyncIterator[Taken]:
        async for record in self.log.records("results"):
            result = self._read("results", decode_result, record.value)
            if result is None or result.status != Status.EXECUTED.value or result.by:
                continue
            action = self._action("results", bytes(result.action), result.ce)
            if action is None:
                continue
            name = f"{result.tenant}/{result.action_id}"
            yield Taken(
                name, result.type, result.level, result.agent.id, self._money(action), _subject(result) in audited
            )

    async def _handled(self) -> AsyncIterator[waits.Judged]:
        async for one in self._human():
            if one.purpose not in WORK or one.routed is None:
                continue
            action = self._action("decisions", bytes(one.action))
            if action is not None:
                routed, painted, decided = (ms_of(text) for text in (one.routed, one.painted, one.decided))
                yield waits.Judged(
                    one.queue or "none", action.type, max(0, painted - routed), max(0, decided - painted)
                )

    async def _open(self) -> list[waits.Open]:
        """Return the items that wait. All of `reviews` is read: an item may have been opened at any time."""
        left: dict[bytes, waits.Open] = {}
        async for batch in self.log.log.read("reviews"):
            for record in batch:
                if record.key is None or is_lot(record.key):
                    continue
                if record.value is None:
                    left.pop(record.key, None)
                elif self.log.is_good("reviews", record):
                    state = self._read("reviews", decode_review, record.value)
                    left.pop(record.key, None)
                    item = None if state is None else self._open_item(state)
                    if item is not None:
                        left[record.key] = item
        return list(left.values())

    def _open_item(self, state: ReviewState) -> waits.Open | None:
        if State(state.state) in ENDS or state.purpose not in WORK:
            return None
        raw = bytes(state.action)
        decision = self._read("reviews", lambda value: decision_of(state.routed, value), raw)
        action = None if decision is None else self._action("reviews", raw, decision.ce)
        if decision is None or action is None:
            return None
        return waits.Open(state.queue, decision.type, ms_of(state.opened), self._money(action))

    # --- what people said ---

    async def _human(self) -> AsyncIterator[HumanDecision]:
        """Yield the judgements that moved something, in the order of each partition's log."""
        async for record in self.log.records("decisions"):
            one = self._read("decisions", decode_human_decision, record.value)
            if one is not None and one.effect in MOVED:
                yield one

    async def _judgements(self) -> dict[Subject, Judgement]:
        """Return what people said of each action; of what was planted nothing."""
        found: dict[Subject, Judgement] = {}
        async for one in self._human():
            if one.purpose == Purpose.CANARY or not one.tenant:
                continue
            subject = (one.tenant, one.action_id, one.hash)
            took_ms = max(0, ms_of(one.decided) - ms_of(one.painted))
            before = found.get(subject) or Judgement(0, None)
            bad = before.bad if before.bad is not None or one.verdict not in JUDGED else one.verdict in BAD
            found[subject] = Judgement(before.handling_ms + took_ms, bad)
        return found

    async def _months(self) -> AsyncIterator[Verdict]:
        zone = ZoneInfo(self.policy.time_zone)
        seen: set[str] = set()
        async for one in self._human():
            if one.purpose in (Purpose.CANARY, Purpose.SECOND) or one.verdict not in JUDGED or one.item in seen:
                continue
            seen.add(one.item)
            month = datetime.fromtimestamp(ms_of(one.appended) / 1000, UTC).astimezone(zone)
            yield Verdict(f"{month:%Y-%m}", self._types(one))

    def _types(self, one: HumanDecision) -> tuple[str, ...]:
        """Return the types of error that a judgement found."""
        if one.verdict not in BAD:
            return ()
        return one.errors or (self.policy.reasons.get(one.code or "", UNTYPED),)

    async def _planted(self) -> list[Planted]:
        return [Planted(one.class_, caught, one.planted or "") async for one, caught in self._canaries()]

    async def _canaries(self) -> AsyncIterator[tuple[Observation, bool]]:
        """Yield each planted error that somebody judged, or let go for the second time, and whether it was caught."""
        let_go: set[tuple[str, str]] = set()
        async for record in self.log.records("observations"):
            one = self._read("observations", decode_observation, record.value)
            if one is None or one.planted is None:
                continue
            at = one.reviewer, one.item
            if one.caught is not None:
                yield one, one.caught
            elif at in let_go:
                yield one, False
            else:
                let_go.add(at)

    async def _looks(self) -> AsyncIterator[Look]:
        """Yield what people judged one by one, whatever for; what they skipped took time, too, but nobody says how."""
        zone = ZoneInfo(self.policy.time_zone)
        async for record in self.log.records("observations"):
            one = self._read("observations", _observed, record.value)
            if one is None or not one.item or one.verdict not in WORDS:
                continue
            decided_ms = ms_of(one.decided_at)
            yield Look(
                reviewer=one.reviewer,
                shown_ms=min(decided_ms, ms_of(one.shown_at)),
                decided_ms=decided_ms,
                floor_ms=round(one.floor_s * 1_000),
                hour=datetime.fromtimestamp(decided_ms / 1_000, UTC).astimezone(zone).hour,
                approved=one.verdict == "approve",
                caught=one.caught if one.purpose == Purpose.CANARY else None,
            )

    async def _sampled(self) -> list[Sampled]:
        """Return what was drawn at random and judged: audit copies, and the samples of batches."""
        odds = await self._odds()
        drawn = await self._drawn()
        under = self._looking(self.policy.gates)
        seen: set[str] = set()
        found = []
        async for one in self._human():
            is_audit, share = one.purpose == Purpose.AUDIT, drawn.get(one.item)
            if not (is_audit or share is not None) or one.verdict not in JUDGED or one.item in seen:
                continue
            action = self._action("decisions", bytes(one.action))
            if action is None:
                continue
            seen.add(one.item)
            p = odds.get(one.item) if is_audit else share
            at_ms = ms_of(one.routed or one.appended)
            found.append(
                Sampled(action.type, one.verdict in BAD, p, tuple(under(action, at_ms)), _lot_of(one.tenant, action))
            )
        return found

    async def _odds(self) -> dict[str, float]:
        """Return with what probability each judged audit copy was drawn."""
        found: dict[str, float] = {}
        async for record in self.log.records("observations"):
            one = self._read("observations", decode_observation, record.value)
            if one is not None and one.purpose == Purpose.AUDIT and one.p:
                found[one.item] = one.p
        return found

    async def _drawn(self) -> dict[str, float]:
        """Return the items of batches' samples, each with the share of its batch that was drawn."""
        found: dict[str, float] = {}
        async for record in self.log.records("reviews", whole=True):
            if is_lot(record.key):
                lot = self._read("reviews", decode_lot, record.value)
                if lot is not None and lot.drawn and lot.size:
                    found |= dict.fromkeys(lot.drawn, min(1.0, len(lot.drawn) / lot.size))
        return found

    # --- what gates saw ---

    async def _watched(self) -> tuple[WatchedRow, ...]:
        """Return what gates would have done that only observed; one that enforced in the stretch too is left out, since
        what it diverted was no observation."""
        observing = [name for name, spec in self.policy.gates.items() if spec.state == "observe"]
        watching, judged = Watching(), await self._judgements()
        under, enforced = self._looking(observing), set[str]()
        async for decision, action, at_ms in self._routed():
            rows = {row: row.gate for row in decision.reasons if row.gate is not None}
            enforced |= {gate for row, gate in rows.items() if row.counts}
            names = {*under(action, at_ms), *rows.values()} - enforced
            found = judged.get(_subject(decision)) if names else None
            for name in names:
                errors = tuple(row.error or UNTYPED for row, gate in rows.items() if gate == name)
                watching.add(Watched(name, errors, None if found is None else found.bad))
        return tuple(row for row in watching.rows() if row.gate not in enforced)

    async def _routed(self) -> AsyncIterator[tuple[Decision, Action, int]]:
        """Yield each action that the router let run or put to people, once, and when."""
        for name in ROUTED:
            async for decision in self._decisions_on(name):
                if decision.purpose != Purpose.DECIDE or decision.attempt:
                    continue
                action = self._action(name, bytes(decision.action), decision.ce)
                if action is not None:
                    yield decision, action, ms_of(decision.moment)

    async def _decisions_on(self, name: str, since_ms: int | None = None) -> AsyncIterator[Decision]:
        """Yield the router's own decisions, without what people approved of them, and what executors ask."""
        async for record in self.log.records(name, since_ms=since_ms):
            head = head_of(record.value or b"")
            if ROUTED_MARK in head or EXCEPTION_MARK in head:
                continue
            decision = self._read(name, _decision, record.value)
            if decision is not None:
                yield decision

    def _looking(self, names: Mapping[str, object] | list[str]) -> Callable[[Action, int], list[str]]:
        each = {name: looks(self.policy, name) for name in names}
        return lambda action, at_ms: [name for name, looks_at in each.items() if looks_at(action, at_ms)]

    # --- small things ---

    def _read(self, name: str, decode: Callable[[bytes], _T], value: bytes | None) -> _T | None:
        try:
            return decode(value or b"")
        except _BROKEN:
            self.unreadable[name] += 1
            return None

    def _action(self, name: str, raw: bytes, ce: Mapping[str, str] | None = None) -> Action | None:
        decoded = decode_bytes(raw, ce or {})
        if isinstance(decoded, Undecodable):
            self.unreadable[name] += 1
            return None
        return decoded.action

    def _money(self, action: Action) -> Decimal | None:
        return moved(action, self.policy.currency, self.policy.rates)


def _gate_load(gate: str, spent: Spent) -> GateLoad:
    return GateLoad(
        gate=gate, items=spent.items, reviewed=spent.reviewed, left_out=spent.left_out, minutes=spent.minutes
    )


def _observed(value: bytes) -> Observation:
    """Read an observation whose times are times."""
    found = decode_observation(value)
    ms_of(found.shown_at), ms_of(found.decided_at)
    return found


def _decision(value: bytes) -> Decision:
    """Read a decision whose moment is a time."""
    decision = decode_decision(value)
    ms_of(decision.moment)
    return decision


def _subject(one: Common) -> Subject:
    return one.tenant, one.action_id, one.hash


def _lot_of(tenant: str, action: Action) -> str | None:
    if action.batch is None:
        return None
    return lots.key_of(tenant, entity_of(action).account or action.agent.id, action.batch.id)


def _recorded(baseline: Baseline) -> Recorded:
    (wage,) = baseline.cost_per_hour.values() if baseline.cost_per_hour else (None,)
    minutes, errors = baseline.minutes_per_item, baseline.error_ratio
    return Recorded(
        minutes_per_item=None if minutes is None else float(minutes),
        error_ratio=None if errors is None else float(errors),
        cost_per_hour=None if wage is None else float(wage),
    )
