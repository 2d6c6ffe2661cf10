"""`hitl verify`: reads an installation's topics from outside and lets the ledger judge them.

The order of reading makes a live log judgeable:
1. `control` and its heartbeats: what was decided under commands that came later is not compared with them;
2. the committed offsets of router, executor and desk, once no transaction can change them; and where the topics that
   the desk writes to end, as far as it is *committed*: what lies below has all of its transaction below the ends of 4;
3. where every topic ends, as *high* watermarks: what lies below had its causes by then, so that 4 covers them;
4. the ends again, to which everything is read: whatever was committed by 2 is below them (a commit shows in the offsets
   before its markers stand in every output);
5. the ends of the inputs, later than those of the answers, so that an answer's input is read;
6. everything up to those ends, results last, since they are compared with execute records;
7. when the transactions were committed that stand close to a switch or a deadline;
8. the router's committed offsets again, and where the logs begin by now.
Nothing is written, and no group is joined.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from aiokafka import TopicPartition

from hitl_stream.core.effects import Effect, Effects
from hitl_stream.core.errors import UsageError
from hitl_stream.core.ledger import Figure, Ledger, Report, Taken
from hitl_stream.core.obeyed import Obeyed, Recorded
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.standing import Invariant
from hitl_stream.lane.admin import Client, retentions
from hitl_stream.lane.commits import stretches
from hitl_stream.lane.past import Past, read_past
from hitl_stream.lane.reader import Span, Spans, committed, read, spans
from hitl_stream.lane.verify_facts import ANSWERS, RESULTS, Against, Candidate, Facts, checks
from hitl_stream.lane.verify_people import DECISIONS, PEOPLE, REVIEWS, VERDICTS, People
from hitl_stream.wire.approved import ASKING
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.trust_at import TrustAt
from hitl_stream.wire.whose import Seals

SKEW_MS = 600_000
"""Brokers' clocks may differ by so much: answers are read from this long before the inputs."""
RETENTION_SLACK_MS = 3_600_000
"""What may be deleted at any moment is not judged."""
LEFT = ("actions", "execute", "held", "closed", DECISIONS, REVIEWS)
"""What one transaction of the desk's may write to, of what is looked at here."""
ASIDE = (REVIEWS, "review", "escalation", "recommendations")
"""Of these nothing about people needs what was deleted."""

Offsets = dict[TopicPartition, int | None]
Horizons = dict[TopicPartition, int]
"""Times in milliseconds since 1970."""


@dataclass(frozen=True)
class Verifying:
    """What to verify: one installation's topics, judged by its router's group.

    `inputs` are the Kafka names of the action topics. `keys` are the router's seal keys (None: its seals are not
    checked), `others` those of desk and executor, by role. `deep` also computes each action's hash again. `window_ms`
    is how long an id is surely remembered. `executors` is the executors' group. `trust` names the first record of
    `control` that counts (empty: what control says is not looked at), `policy` is the digest of the policy file.
    """

    client: Client
    topics: TopicSet
    group: str
    inputs: tuple[str, ...]
    keys: Mapping[str, SealKey] | None = None
    deep: bool = False
    since_ms: int | None = None
    window_ms: int | None = None
    others: Mapping[str, Mapping[str, SealKey]] = field(default_factory=dict)
    executors: str | None = None
    trust: str = ""
    policy: str | None = None
    rules: Policy | None = None
    desks: str | None = None

    @property
    def seals(self) -> Seals:
        """Return what seals are checked with."""
        return Seals({**self.others, **({} if self.keys is None else {"router": self.keys})})


async def verify(what: Verifying) -> Report:
    """Read everything and judge it.

    Raises `UsageError` where there is no action topic, `UnreachableError` when Kafka does not answer.
    """
    client, topics = what.client, what.topics
    parts = [*await spans(client, what.inputs)]
    if not parts:
        raise UsageError(f"none of {', '.join(what.inputs)} exists here; is the prefix right (--prefix)?")
    past = await read_past(client, topics, what.trust)
    held = [*await spans(client, [topics.name("held")])]
    first = await committed(client, what.group, [*parts, *held])
    owed = await _owed(what)
    heard = await _heard(what)
    kept = await spans(client, [topics.name(name) for name in LEFT])
    names = [topics.name(name) for name in (*ANSWERS, *PEOPLE, RESULTS)]
    settled = await spans(client, names, high=True)
    before = None if what.since_ms is None else what.since_ms - SKEW_MS
    answers = await spans(client, names, since_ms=before, high=True)
    inputs = await spans(client, what.inputs, since_ms=what.since_ms, high=True)
    wanted = {**await _moves(client, inputs, before), **answers}
    ledger = Ledger(
        window_ms=what.window_ms, settled={(tp.topic, tp.partition): span.end for tp, span in settled.items()}
    )
    for tp, span in inputs.items():
        ledger.open(_place(tp), span.start, span.end)
    against = _against(what, past, owed)
    people = _people(what, past, ledger, kept)
    facts = Facts(topics, what.inputs, ledger, against, people)
    oldest = await _read(client, wanted, facts, topics.name(RESULTS))
    await _look_up_commits(client, topics.name("execute"), facts)
    last = await committed(client, what.group, [*parts, *held])
    horizons = await _horizons(client, wanted, oldest)
    people.judgements.close(heard, _since(what, _without(horizons, topics, (*ASIDE, RESULTS))))
    asked = any(tp.topic == topics.name(DECISIONS) for tp in answers)
    said = _Said(what, past, facts, people, asked)
    said.of_heartbeats()
    return ledger.close(
        {_place(tp): first.get(tp) or 0 for tp in inputs},
        {_place(tp): last.get(tp) or 0 for tp in inputs},
        held={tp.partition: Taken(first.get(tp) or 0, last.get(tp) or 0) for tp in held},
        judged=await _judged(client, inputs, _without(horizons, topics, PEOPLE)),
        checks=(*checks(against), *said.checks()),
        notes=[*said.notes(), *_never(what, first, inputs)],
        figures=said.figures(),
    )


def _against(what: Verifying, past: Past, owed: Mapping[int, int]) -> Against:
    log, effects = past.log, past.effects
    recorded = Recorded(() if log is None else log.policies, what.policy)
    if log is None:
        return Against(what.seals, what.deep, owed, None, recorded)
    switches, epoch = log.control.switches, log.control.epoch
    obeyed = Obeyed(switches, epoch, effects.of) if switches.all and effects is not None else None
    return Against(what.seals, what.deep, owed, obeyed, recorded, epoch)


async def _owed(what: Verifying) -> dict[int, int]:
    """Return up to where executors have committed `execute`, by partition: what lies below has its end."""
    if what.executors is None:
        return {}
    parts = [*await spans(what.client, [what.topics.name("execute")])]
    found = await committed(what.client, what.executors, parts) if parts else {}
    return {tp.partition: offset for tp, offset in found.items() if offset is not None}


async def _heard(what: Verifying) -> dict[int, int]:
    """Return up to where the desk has committed `verdicts`, by partition: what lies below has its answer."""
    parts = [*await spans(what.client, [what.topics.name(VERDICTS)])] if what.desks is not None else []
    found = await committed(what.client, what.desks or "", parts) if parts else {}
    return {tp.partition: offset for tp, offset in found.items() if offset is not None}


def _people(what: Verifying, past: Past, ledger: Ledger, kept: Spans) -> People:
    """Return what takes in records about people."""
    log, trust = past.log, None
    if log is not None and what.keys is not None:
        asking = [what.topics.name(name) for name in ASKING]
        file = None if what.rules is None or what.policy is None else (what.rules, what.policy)
        trust = TrustAt(log, asking, what.keys, file)
    return People(
        ledger,
        what.seals,
        trust=trust,
        switches=None if log is None else log.control.switches,
        epoch=-1 if log is None else log.control.epoch,
        settled={(tp.topic, tp.partition): span.end for tp, span in kept.items()},
    )


async def _moves(client: Client, inputs: Spans, before_ms: int | None) -> Spans:
    """Return the inputs from a little earlier on: by another broker's clock, a move may be older than its source."""
    if before_ms is None:
        return inputs
    earlier = await spans(client, {tp.topic for tp in inputs}, since_ms=before_ms)
    return {tp: Span(at.first, min(at.start, earlier[tp].start), at.end) for tp, at in inputs.items()}


async def _read(client: Client, wanted: Spans, facts: Facts, results: str) -> dict[TopicPartition, int]:
    """Read it all; return the append time of each partition's first record."""
    oldest: dict[TopicPartition, int] = {}
    for last in (False, True):
        part = {tp: span for tp, span in wanted.items() if (tp.topic == results) is last}
        async with aclosing(read(client, part)) as batches:
            async for topic, partition, records in batches:
                oldest.setdefault(TopicPartition(topic, partition), records[0].timestamp)
                facts.take(topic, partition, records)
    return oldest


async def _look_up_commits(client: Client, execute: str, facts: Facts) -> None:
    """Judge the candidates by the time at which their transactions were committed."""
    for partition, candidates in facts.candidates.items():
        pending = {candidate.at[2]: candidate for candidate in candidates}
        if not pending:
            continue
        async with aclosing(stretches(client, execute, partition, min(pending), patience_s=0.0)) as reading:
            async for stretch in reading:
                if stretch.committed and stretch.at_ms is not None:
                    for offset in _within(pending, stretch.first, stretch.last):
                        facts.committed(pending.pop(offset), stretch.at_ms)
                if not pending:
                    break


def _within(pending: Mapping[int, Candidate], first: int, last: int) -> list[int]:
    if last - first < len(pending):
        return [offset for offset in range(first, last + 1) if offset in pending]
    return [offset for offset in pending if first <= offset <= last]


async def _horizons(client: Client, wanted: Spans, oldest: Horizons) -> Horizons:
    """Return since when nothing can have been deleted, for each partition of which something was.

    A log that begins above 0 has lost records: those older than its retention, or where no time bounds it, all before
    its first. What somebody deleted by hand before its time counts as lost.
    """
    begins = {tp: span.first for tp, span in (await spans(client, {tp.topic for tp in wanted})).items()}
    cut = [tp for tp, span in wanted.items() if 0 < begins.get(tp, 0) >= span.start]
    kept = await retentions(client, {tp.topic for tp in cut}) if cut else {}
    now = int(time.time() * 1000)
    horizons: dict[TopicPartition, int] = {}
    for tp in cut:
        age = kept.get(tp.topic)
        horizons[tp] = min(now if age is None else now - age + RETENTION_SLACK_MS, oldest.get(tp, now))
    return horizons


def _without(horizons: Horizons, topics: TopicSet, names: Iterable[str]) -> Horizons:
    beside = {topics.name(name) for name in names}
    return {tp: at for tp, at in horizons.items() if tp.topic not in beside}


def _since(what: Verifying, horizons: Horizons) -> dict[int, int]:
    """Return since when everything about people is here, for each partition by number."""
    since = dict.fromkeys(range(what.topics.partitions), what.since_ms or 0)
    for tp, horizon in horizons.items():
        since[tp.partition] = max(since.get(tp.partition, 0), horizon)
    return since


async def _judged(client: Client, inputs: Spans, horizons: Horizons) -> dict[str, int]:
    """Return from which input offset on nothing can have been deleted, for each input partition.

    Moves are answers too, in any partition; what people alone are about is none.
    """
    begins = {tp: span.first for tp, span in (await spans(client, {tp.topic for tp in inputs})).items()}
    since: dict[int, int] = {}
    for tp, horizon in horizons.items():
        for number in {one.partition for one in inputs} if tp in inputs else (tp.partition,):
            since[number] = max(since.get(number, 0), horizon)
    judged = {_place(tp): max(span.start, begins.get(tp, 0)) for tp, span in inputs.items()}
    for number, horizon in since.items():
        for tp, at in (await spans(client, {tp.topic for tp in inputs}, since_ms=horizon, partition=number)).items():
            judged[_place(tp)] = max(judged.get(_place(tp), 0), at.start)
    return judged


def _place(tp: TopicPartition) -> str:
    return f"{tp.topic}/{tp.partition}"


def _never(what: Verifying, first: Offsets, inputs: Spans) -> Iterator[str]:
    if all(first.get(tp) is None for tp in inputs) and any(span.end > span.start for span in inputs.values()):
        yield f"the group {what.group} has never committed; is it the router's (--group)?"


class _Said:
    """What is said beside the counts: of control, of heartbeats, and of what was not looked at."""

    def __init__(self, what: Verifying, past: Past, facts: Facts, people: People, asked: bool) -> None:
        self.what = what
        self.past = past
        self.facts = facts
        self.people = people
        self.asked = asked
        """Whether there is a topic that the desk leaves judgements on."""

    def of_heartbeats(self) -> None:
        """Judge each switch by when it was EFFECTIVE."""
        if self.past.effects is not None:
            for effect, fault in self.past.effects.judged():
                self.facts.ledger.passed("I5", fault, (self.what.topics.name("control"), 0, effect.epoch))

    def checks(self) -> tuple[Invariant, ...]:
        """Return which of the invariants about switches and people were looked at."""
        return (*self._of_control(), *(("I6",) if self.asked else ()), *(("I7",) if self._approvals() else ()))

    def _approvals(self) -> bool:
        """Say whether approvals were checked as an executor checks them."""
        return self.asked and self.people.trust is not None

    def _of_control(self) -> tuple[Invariant, ...]:
        log, effects = self.past.log, self.past.effects
        if log is None:
            return ()
        if not log.control.switches.all:
            return ("I4", "I5")
        if effects is None or effects.newest_ms is None:
            return ()
        return ("I4", "I5") if effects.judged() else ("I4",)

    def figures(self) -> dict[str, Figure]:
        """Return times: how soon switches were EFFECTIVE, and how late what came against them."""
        obeyed, effects = self.facts.against.obeyed, self.past.effects
        found = {} if obeyed is None else obeyed.figures()
        effective = None if effects is None else effects.figure()
        return found if effective is None else {"effective": effective, **found}

    def notes(self) -> Iterator[str]:
        """Say what was not looked at, and why."""
        yield from self._of_seals()
        if self.what.window_ms is None:
            yield "ids claimed by other bytes (I2) were not checked: no policy says how long ids are remembered"
        yield from self._of_policies()
        if self.past.log is None:
            yield f"switches (I4, I5) were not checked: {self.past.why}"
        else:
            yield from self._of_switches(self.past.effects)
        yield from self._of_people()
        if self.facts.left_out:
            yield f"of {self.facts.left_out} execute records the commit was too much to look up; give --since"

    def _of_seals(self) -> Iterator[str]:
        if self.what.keys is None:
            yield "seals were not checked: no seal keys of the router here (keys_dir)"
        for role, count in sorted(self.facts.unchecked.items()):
            if role != "router":
                yield f"the seals of {count} records of the {role} were not checked: no seal keys of it here (keys_dir)"

    def _of_policies(self) -> Iterator[str]:
        recorded = self.facts.against.recorded
        if recorded is None or not recorded.unrecorded:
            return
        names = ", ".join(f"{digest:.12}… ({count})" for digest, count in recorded.unrecorded.most_common(3))
        count = sum(recorded.unrecorded.values())
        known = "no policy file is given" if self.what.policy is None else "only the file of the settings is known"
        yield f"the policy of {count} execute records was not compared: {known}, and these were in force: {names}"

    def _of_people(self) -> Iterator[str]:
        if not self.asked:
            return
        if self.what.desks is None:
            yield "verdicts without an answer (I6) were not looked for: the desk's group is not known"
        if self.past.log is None:
            yield f"who approved (I7) was not checked: {self.past.why}"
        elif self.people.trust is None:
            yield "who approved (I7) was not checked: no seal keys of the router here (keys_dir)"
        if self.people.unrecorded:
            names = ", ".join(f"{digest:.12}… ({n})" for digest, n in self.people.unrecorded.most_common(3))
            count = sum(self.people.unrecorded.values())
            yield f"who approved {count} execute records (I7) was not checked: nothing records their policy: {names}"
        if self.people.judgements.unsure:
            yield (
                f"{self.people.judgements.unsure} verdicts came after the time to decide (I11), and a switch that had "
                "covered them may have stopped it"
            )

    def _of_switches(self, effects: Effects | None) -> Iterator[str]:
        log, obeyed = self.past.log, self.facts.against.obeyed
        if log is None or effects is None or not log.control.switches.all:
            return
        if effects.newest_ms is None:
            yield "when switches were EFFECTIVE (I4, I5) was not checked: there are no heartbeats (any more)"
            return
        every = list(effects.all())
        old = [effect for effect in every if not effect.exact]
        if old:
            yield f"of {len(old)} of {len(every)} switches the heartbeats that say when they were EFFECTIVE are gone"
        if obeyed is not None and obeyed.unsure:
            yield f"{obeyed.unsure} commits and calls came after one of those, and may have come after EFFECTIVE (I4)"
        yield from _excused(every)


def _excused(effects: Sequence[Effect]) -> Iterator[str]:
    for name, found in (
        ("an executor was CONTAINED", [effect for effect in effects if effect.contained]),
        ("control was silent, so that no lease held,", [effect for effect in effects if effect.silent]),
    ):
        if found:
            which = ", ".join(str(effect.epoch) for effect in found[:5])
            yield f"{name} before {len(found)} switches were EFFECTIVE ({which}): their bound (I5) does not hold"
