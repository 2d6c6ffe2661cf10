"""The desk: people decide, exactly once, on the bytes that they saw.

A plain function over a batch of one partition, like the router. Its inputs come merged by append time:
- a decision that asks people opens an item; one that a monitor asks for opens one item, however often it is said;
- a verdict is judged by `core.review`: its signature, its time, who may decide, which approvals are missing;
- a result makes older items on the same field stale; an AI reviewer's opinion is noted on the item.
What is due by the clock runs only after everything that was appended before has been read, so a verdict that was given
in time counts, however late the desk reads it.

What follows is written in one transaction with the item's new state: the execute record (the router's sealed record and
the verdicts inside the desk's seal), the end, a new action, and the records that auditors, the monitor and agents read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import structlog
from msgspec import structs

from hitl_stream.core.action import Value
from hitl_stream.core.dwell import floor_ms
from hitl_stream.core.edits import editable, edited, proposed_anew
from hitl_stream.core.events import Effect, ErrorClass, Purpose, Refusal, Rejection, Status
from hitl_stream.core.policy.compile import EXECUTE_BY_MAX_MS, Compiled
from hitl_stream.core.review import (
    ENDS,
    OUT_OF_TIME,
    Asked,
    Review,
    State,
    due,
    judge,
    lapsed,
    needs_of,
    next_ms,
    overtaken,
)
from hitl_stream.core.tier import tier_of
from hitl_stream.core.verdicts import BatchRelease, PairChoice, Qualified, Skipped, Verdict, has_passed
from hitl_stream.lane.step import Moment, Record, Result, Step
from hitl_stream.roles.desk_card import Card, exception_of, fields_of, held_of
from hitl_stream.roles.desk_lots import AGAIN_MS, ASKS, Lots
from hitl_stream.roles.desk_state import KEEP_ENDED_MS, DeskDraft, DeskState, Ended, Item
from hitl_stream.roles.desk_writing import Papers, Writing
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router_state import Origin
from hitl_stream.wire import desk_records, judged, records
from hitl_stream.wire.approved import owners_of
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.decided import Decided, read_decided, unsubmitted
from hitl_stream.wire.desk_records import GivenRow, OpinionRow, is_lot, ms_of, read_lot, review_of, state_of
from hitl_stream.wire.home import home
from hitl_stream.wire.items import item_id, second_of, seeded_item
from hitl_stream.wire.records import Decision, First, Held, Routed, time_text
from hitl_stream.wire.results import read_result
from hitl_stream.wire.seal import SEAL_HEADER, Draw, SealKey, sealed
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.verdicts import Given, read_signed, refusal_of
from hitl_stream.wire.watched import pseudonym

EXECUTOR = "executor"
TURNS_MAX = 500
"""Items that one transaction brings to what is due; more wait for the next one, at once."""
OPINIONS_MAX = 8
"""Opinions noted on one item; a further one is counted and left."""
LABELLER = "labeller"
"""The role that compares pairs; it decides nothing else, and nobody else compares."""
JUDGE_MS_MAX = 7 * 86_400_000
"""What is only judged has no deadline of its own; so long it waits at most."""
INPUTS = ("review", "escalation", "review.seeded", "verdicts", "results", "opinions")
FOLLOWED = ("pairs", "preferences")
MONITOR = "monitor"
SEEDED = "review.seeded"
PURPOSES: Mapping[tuple[str, str], tuple[Purpose, ...]] = MappingProxyType(
    {
        ("review", "router"): (Purpose.DECIDE,),
        ("escalation", "router"): (Purpose.DECIDE,),
        ("escalation", EXECUTOR): (Purpose.EXCEPTION,),
        (SEEDED, "router"): (Purpose.AUDIT,),
        (SEEDED, MONITOR): (Purpose.CANARY, Purpose.SECOND),
    }
)
"""What each role may ask people for, and where: a canary in the router's place must never come to run."""
SECOND_REVIEW = 0.05
"""The share of judgements that somebody else repeats without knowing of the first, where a class says no other."""


@dataclass(frozen=True)
class DeskSettings:
    """What one installation says of its desk.

    `own_keys` are the desk's, by id, the newest last; `asking` are those of the roles that may open an item. By the
    `sample_key`, which only routers and desks have, samples of batches and blind seconds are drawn. By `names` the
    monitor calls people in its commands.
    """

    topics: TopicSet
    own_keys: Mapping[str, SealKey]
    asking: Mapping[str, Mapping[str, SealKey]]
    sample_key: SealKey
    names: SealKey
    instance: str = "local/desk/0"


class Desk(Step[DeskState]):
    """The step. One instance serves all partitions of a process; it keeps nothing between batches.

    `audience` tells the id of the cluster, which verdicts are addressed to.
    """

    def __init__(self, settings: DeskSettings, policies: Policies, audience: Callable[[], str]) -> None:
        self.settings = settings
        self.policies = policies
        self.control = policies.control
        self.audience = audience
        topics = settings.topics
        routers = settings.asking.get("router", {})
        self.papers = Papers(topics, list(settings.own_keys.values())[-1], settings.instance, routers)
        self.draw = Draw(settings.sample_key)
        self.inputs = {topics.name(name): name for name in INPUTS}
        self.followed = {topics.name(name): name for name in FOLLOWED}

    def state(self) -> DeskState:
        """Return the empty state of one partition."""
        return DeskState(self.recall, self.followed)

    def __call__(self, batch: Sequence[Record], state: DeskState, moment: Moment) -> Result:
        """Take in every record of a batch, in order."""
        run = _Batch(self, state.draft(), moment)
        for index, record in enumerate(batch):
            run.take(index, record)
        return run.result()

    def on_timer(self, state: DeskState, moment: Moment) -> Result:
        """Escalate, expire and forget what is due."""
        run = _Batch(self, state.draft(), moment)
        for name in state.overdue(moment.now_ms, TURNS_MAX):
            run.due(name)
        return run.result()

    def level(self, name: str) -> int:
        """Return how closely a person is watched, as the monitor has signed it (`core.vigilance.Level`)."""
        reviewers = self.control.reviewers
        if not reviewers:
            return 0
        said = reviewers.get(pseudonym(self.settings.names, name))
        return 0 if said is None else said.command.level

    def recall(self, state: DeskState, record: Record) -> None:
        """Fold one record of `reviews`. What is not ours is as if it were not there."""
        if record.key is None:
            return
        if is_lot(record.key):
            self._recall_lot(state, record)
            return
        name = record.key.decode("utf-8", "replace")
        if record.value is None:
            state.recall(name, None)
            return
        seal = records.header(record.headers, SEAL_HEADER) or b""
        head = records.head_of(record.value)
        if sealed(self.settings.own_keys, record.topic, desk_records.REVIEW, head, seal):
            card = Card.read(record.value)
            if State(card.state.state) in ENDS:
                state.recall(name, card.ended(record.partition, record.timestamp + KEEP_ENDED_MS))
            else:
                state.recall(name, card.item(record.value, review_of(card.state)))

    def _recall_lot(self, state: DeskState, record: Record) -> None:
        assert record.key is not None  # it begins as a batch's does
        key = record.key.decode("utf-8", "replace")
        if record.value is None:
            state.recall_lot(key, None)
            return
        found = read_lot(record.topic, record.key, record.value, record.headers, self.settings.own_keys)
        if not isinstance(found, Undecodable):
            state.recall_lot(key, held_of(found, record.partition, record.timestamp))


def purpose_of(name: str, role: str, decision: Held) -> Purpose | None:
    """Return what a role asks people for by a decision; None: it may not ask that there."""
    return next((purpose for purpose in PURPOSES[name, role] if purpose == decision.purpose), None)


class _Batch:
    """One batch of records on its way through the desk."""

    def __init__(self, desk: Desk, draft: DeskDraft, moment: Moment) -> None:
        self.desk = desk
        self.policy: Compiled = desk.policies.at(moment.now_ms)
        switches = desk.control.switches
        self.writing = Writing(desk.papers, draft, moment, self.policy, switches, self._followed)
        self.lots = Lots(self.writing, desk.settings.sample_key, desk.level)

    def _followed(self, index: int, lot: str, review: Review) -> None:
        self.lots.followed(index, lot, review)

    def result(self) -> Result:
        """Return what was decided."""
        writing = self.writing
        return Result([*writing.outputs, *writing.lots.values()], writing.draft, writing.tally)

    def take(self, index: int, record: Record) -> None:
        """Take in one record of an input."""
        match self.desk.inputs[record.topic]:
            case "verdicts":
                self._verdict(index, record)
            case "results":
                self._result(index, record)
            case "opinions":
                self._opinion(index, record)
            case name:
                self._open(index, record, name)

    def _open(self, index: int, record: Record, name: str) -> None:
        """Open an item for a decision that asks people."""
        found = self._asked(record, name)
        if isinstance(found, Undecodable):
            self.writing.dead(index, record, found)
            return
        card, review = found
        if self.writing.draft.get(review.item) is not None:
            self.writing.tally.repeated += 1  # a monitor that was interrupted has said it again
            return
        self.writing.tally.opened[card.state.queue] += 1
        if review.purpose is Purpose.DECIDE:
            self.writing.tally.diverted.update(judged.asking_gates(card.decision))
        lot = self.lots.taking(record, card, review)
        if lot is None:
            self.writing.write(index, record.partition, card, review)
        else:
            self.lots.join(index, record, card, review, lot)

    def _asked(self, record: Record, name: str) -> tuple[Card, Review] | Undecodable:
        """Read a decision, and say who must answer it."""
        role, decided = self._whose(record, name)
        if isinstance(decided, Undecodable):
            return decided
        decision, decoded = decided.decision, decided.decoded
        purpose = purpose_of(name, role, decision)
        if purpose is None:
            expected = " or ".join(PURPOSES[name, role])
            return Undecodable(ErrorClass.UNKNOWN_TYPE, f"purpose {decision.purpose!r:.40} of {role}, not {expected}")
        place = decision.entity.account or decision.agent.id
        at_home = home(decision.tenant, place, self.desk.settings.topics.partitions)
        if at_home != record.partition:
            return Undecodable(ErrorClass.SEAL, f"it belongs to partition {at_home}: somebody copied it here")
        try:
            routed_ms, until_ms = ms_of(decision.moment), ms_of(decision.execute_by or decision.moment)
        except (ValueError, OverflowError) as error:
            return Undecodable(ErrorClass.SCHEMA, f"moment, execute_by: {error}")
        action = structs.replace(decoded.action, tenant=decision.tenant)
        policy = self.policy.policy
        barred = [*owners_of(policy, decision.agent.id), *([decision.by] if decision.by else [])]
        barred += [decision.first.by] if decision.first is not None else []
        only_judged = purpose is not Purpose.DECIDE
        execute_by_ms = routed_ms + JUDGE_MS_MAX if only_judged else until_ms
        moves = not only_judged and action.expires_at is None
        review = Review(
            item=self._name(record, role, decision),
            purpose=purpose,
            hash=decision.hash,
            state=State.OPEN,
            needs=needs_of(self._queues(decision), policy, routed_ms, execute_by_ms),
            barred=tuple(dict.fromkeys(barred)),
            for_=decision.for_,
            opened_ms=routed_ms,
            execute_by_ms=execute_by_ms,
            latest_ms=routed_ms + EXECUTE_BY_MAX_MS if moves else None,
            tier=tier_of(action, policy),
            floor_ms=floor_ms(action),
        )
        seal = (records.header(record.headers, SEAL_HEADER) or b"").decode("ascii", "replace")
        state = state_of(
            review,
            source=f"{record.topic}/{record.partition}/{record.offset}",
            routed=Routed(topic=record.topic, head=decided.head.decode(), seal=seal),
            exception=exception_of(record.value or b"") if role == EXECUTOR else None,
            first=decision.first,
        )
        return Card(state, decision, decoded), review

    def _name(self, record: Record, role: str, decision: Held) -> str:
        """Return what the item is called: by its record's place, or, where a monitor may repeat it, by what it asks."""
        key = self.desk.papers.key
        if role == MONITOR:
            return seeded_item(key, decision.tenant, decision.action_id, decision.purpose)
        return item_id(key, record.topic, record.partition, record.offset)

    def _whose(self, record: Record, name: str) -> tuple[str, Decided | Undecodable]:
        """Read a decision under the keys of the roles that may ask here; return whose it is."""
        found: Undecodable = Undecodable(ErrorClass.SEAL, f"nobody who may write to {name} is known here")
        for asked, role in PURPOSES:
            keys = self.desk.settings.asking.get(role)
            if asked != name or not keys:
                continue
            decode = unsubmitted if role == EXECUTOR else records.decode_held
            decided = read_decided(record.topic, record.value, record.headers, keys, decode)
            if not isinstance(decided, Undecodable):
                return role, decided
            found = decided
        return "", found

    def _queues(self, decision: Decision) -> list[tuple[str, int]]:
        """Return who must approve by our own policy copy, and by what the router asked for: both, each once."""
        cls, queues = self.policy.of(decision.type), self.policy.policy.queues
        asked = [(row.queue, row.people) for row in decision.approvals]
        for row in decision.reasons:
            if row.counts and row.outcome in ASKS and row.queue is not None:
                external = row.queue in queues and queues[row.queue].external
                asked.append((row.queue, 1 if external else cls.people))
        return asked or [(cls.queue, cls.people)]

    def _verdict(self, index: int, record: Record) -> None:
        keys = self.desk.control.keys
        found = read_signed(record.value, record.timestamp, keys, self.desk.audience())
        if isinstance(found, Rejection):
            # Nobody can say who wrote it.
            self.writing.tally.rejected[found] += 1
            self.writing.dead(index, record, Undecodable(ErrorClass.SEAL, f"no verdict that counts: {found}"))
            return
        refusal = refusal_of(found, keys)
        match found.claims:
            case Verdict():
                self._judge(index, record, found, found.claims, refusal)
            case Skipped():
                self._skipped(index, record, found.claims, refusal)
            case BatchRelease():
                self.lots.release(index, record, found, found.claims, refusal)
            case PairChoice():
                self._label(index, record, found.claims, refusal)
            case Qualified():
                self._qualified(index, found.claims, refusal)

    def _judge(self, index: int, record: Record, given: Given, verdict: Verdict, refusal: Refusal | None) -> None:
        """Say what a verdict does, and write what follows from it."""
        kept = self.writing.draft.get(verdict.item)
        if kept is None or refusal is not None:
            self.writing.decided(index, record, given, verdict, Effect.REFUSED, refusal or Refusal.UNKNOWN_ITEM)
            return
        if isinstance(kept, Ended):
            if verdict.jti in kept.seen:
                self.writing.tally.repeated += 1
                return
            late = kept.state in OUT_OF_TIME
            self.writing.decided(index, record, given, verdict, Effect.LATE if late else Effect.CONFLICT, None)
            return
        card = Card.read(kept.value)
        proposal, paths = self._proposal(card, verdict)
        stopped = self.writing.stopped_ms(kept, record.timestamp)
        covered = bool(self.writing.covering(kept.target, kept.passes))
        level = self.desk.level(verdict.by)
        asked = Asked(record.timestamp, covered=covered, stopped_ms=stopped, level=level, editable=paths)
        turn = judge(kept.review, verdict, asked, self.policy.policy)
        if turn.refusal is Refusal.REPLAYED:
            self.writing.tally.repeated += 1
            return
        self.writing.decided(index, record, given, verdict, turn.effect, turn.refusal, card, kept)
        if turn.refusal is Refusal.LEVEL and turn.review is not kept.review:
            self.writing.follow(index, record.partition, card, turn, kept)
        if turn.effect not in (Effect.APPLIED, Effect.WAITING):
            return
        if verdict.verdict == "approve":
            row = GivenRow(given.jws, time_text(record.timestamp))
            card = structs.replace(card, state=structs.replace(card.state, given=(*card.state.given, row)))
        if verdict.verdict in ("reject", "change"):
            self.writing.feedback(index, record, card, verdict)
        self.writing.follow(index, record.partition, card, turn, kept, verdict, proposal)
        if turn.review.ended:
            self._second(index, card, turn.review, verdict)

    def _second(self, index: int, card: Card, ended: Review, verdict: Verdict) -> None:
        """Put some of what was approved or rejected to somebody else, who does not know of it; nothing runs by that."""
        policy, decision = self.policy.policy, card.decision
        if ended.purpose is not Purpose.DECIDE or card.lot is not None or verdict.verdict not in ("approve", "reject"):
            return  # a batch has its own sample
        cls = policy.classes.get(decision.type)
        share = SECOND_REVIEW if cls is None or cls.second_review is None else float(cls.second_review)
        origin = Origin.of(card.state.source)
        drawn = self.desk.draw.lot(origin.topic, origin.partition)
        queue = policy.queues.get(ended.needs[0].queue)
        if (queue is not None and queue.external) or not drawn(origin.offset, card.decoded.digest, share):
            return
        now_ms = self.writing.moment.now_ms
        until_ms = now_ms + JUDGE_MS_MAX
        review = structs.replace(
            ended,
            item=second_of(self.desk.papers.key, ended.item),
            purpose=Purpose.SECOND,
            state=State.OPEN,
            needs=needs_of([(ended.needs[0].queue, 1)], policy, now_ms, until_ms),
            barred=tuple(dict.fromkeys((*ended.barred, *ended.by, verdict.by))),
            for_=None,
            opened_ms=now_ms,
            execute_by_ms=until_ms,
            latest_ms=None,
            escalated=0,
            seen=(),
        )
        first = First(verdict.by, verdict.verdict)
        state = state_of(review, source=card.state.source, routed=card.state.routed, first=first)
        self.writing.tally.opened[state.queue] += 1
        self.writing.write(index, card.partition, structs.replace(card, state=state), review)

    def _qualified(self, index: int, claims: Qualified, refusal: Refusal | None) -> None:
        """Tell the monitor that somebody has qualified anew. Only the console knows: it has the answers."""
        entry = self.desk.control.keys.get(claims.kid)
        if refusal is None and (entry is None or entry.kind != "service"):
            refusal = Refusal.PERSON
        if refusal is None and not has_passed(claims):
            refusal = Refusal.QUIZ
        if refusal is not None:
            self.writing.tally.refused[refusal] += 1
            return
        self.writing.qualified(index, claims)

    def _proposal(self, card: Card, verdict: Verdict) -> tuple[bytes | None, Mapping[str, Value]]:
        """Return the action that a person proposes in place of this one, and what may be changed of it."""
        paths = editable(card.action)
        proposes = card.state.purpose == Purpose.EXCEPTION and verdict.verdict == "approve"
        if verdict.verdict != "change" and not proposes:
            return None, paths
        now = time_text(self.writing.moment.now_ms)
        try:
            name = f"{card.decision.action_id}~{verdict.item}"
            if proposes:
                return proposed_anew(card.raw, name, now, card.decision.ce), paths
            return edited(card.raw, name, verdict.changes, now, card.decision.ce), paths
        except ValueError:
            return None, {}  # it is refused: what it names cannot be changed so

    def _skipped(self, index: int, record: Record, claims: Skipped, refusal: Refusal | None) -> None:
        """Note that a person has looked at an item and left it."""
        kept = self.writing.draft.get(claims.item)
        if refusal is not None:
            self.writing.tally.refused[refusal] += 1
        elif isinstance(kept, Item):
            self.writing.observe(index, record, claims, Card.read(kept.value), kept)
            self.writing.tally.skipped += 1

    def _label(self, index: int, record: Record, claims: PairChoice, refusal: Refusal | None) -> None:
        """Write down which of two outputs a labeller prefers; the first by log order counts. Nothing runs by it."""
        pair = self.writing.draft.pair(claims.pair)
        if refusal is None and pair is None:
            refusal = Refusal.UNKNOWN_ITEM
        if refusal is None and claims.role != LABELLER:
            refusal = Refusal.ROLE
        if refusal is None and self.writing.draft.is_labelled(claims.pair):
            refusal = Refusal.REPLAYED
        if refusal is not None or pair is None:
            self.writing.tally.refused[refusal or Refusal.UNKNOWN_ITEM] += 1
            return
        self.writing.draft.new_labels.add(claims.pair)
        value = judged.preference_value(claims, pair, record.timestamp)
        self.writing.emit("preferences", record.partition, claims.pair.encode(), value, index=index)
        self.writing.tally.labelled += 1

    def due(self, name: str) -> None:
        """Bring one item to what time makes of it."""
        held = self.writing.draft.lot(name)
        if held is not None:
            self.lots.due(name, held)
            return
        kept, now_ms = self.writing.draft.get(name), self.writing.moment.now_ms
        if kept is None:
            return
        if isinstance(kept, Ended):
            self.writing.forget(name, kept.partition)
            return
        stopped = self.writing.stopped_ms(kept, now_ms)
        turn = due(kept.review, now_ms, self.policy.policy, stopped)
        if turn is None:
            self.writing.draft.again[name] = max(next_ms(kept.review, stopped), now_ms + AGAIN_MS)
            return
        card = Card.read(kept.value)
        asks = kept.review.purpose in (Purpose.DECIDE, Purpose.EXCEPTION)
        queues = lapsed(kept.review, turn.review) if asks else ()
        for queue in queues:
            self._lapsed(name, queue)
        if not queues and asks:  # what is only judged holds nothing up, and wakes nobody
            self.writing.tally.timed[kept.queue, turn.review.state] += 1
        self.writing.follow(-1, card.partition, card, turn, kept)

    def _lapsed(self, name: str, queue: str) -> None:
        """Tell a queue's owner that an item waits there for half of its time: nobody else will be asked."""
        spec = self.policy.policy.queues.get(queue)
        owner = spec.owner if spec is not None else ""
        self.writing.tally.lapsed[queue, owner] += 1
        structlog.get_logger(role="desk").warning(
            "half of an item's time has passed, and it goes nowhere from here", item=name, queue=queue, owner=owner
        )

    def _result(self, index: int, record: Record) -> None:
        """End what a newer action has overtaken on the platform."""
        keys = self.desk.settings.asking.get(EXECUTOR, {})
        result = read_result(record.topic, record.value, record.headers, keys)
        if isinstance(result, Undecodable):
            self.writing.dead(index, record, result)
            return
        if result.status != Status.EXECUTED.value:
            return
        order = Origin.of(result.id.rpartition("#")[0]).order
        decoded = decode_bytes(bytes(result.action), result.ce)
        if isinstance(decoded, Undecodable):
            return
        older = {
            name: kept
            for field in fields_of(decoded.action, result.tenant)
            for name, kept in self.writing.draft.touching(field)
            if kept.order < order
        }
        for kept in older.values():
            turn = overtaken(kept.review)
            if turn is not None:
                self.writing.follow(index, record.partition, Card.read(kept.value), turn, kept)
                self.writing.tally.timed[kept.queue, turn.review.state] += 1

    def _opinion(self, index: int, record: Record) -> None:
        """Note an AI reviewer's opinion on the items of its action; it orders a queue, and satisfies nothing."""
        try:
            opinion = desk_records.decode_opinion(record.value or b"")
        except (ValueError, RecursionError) as error:
            self.writing.dead(index, record, Undecodable(ErrorClass.SCHEMA, str(error)))
            return
        row = OpinionRow(
            reviewer=opinion.reviewer, verdict=opinion.verdict, confidence=opinion.confidence, note=opinion.note
        )
        for _, kept in list(self.writing.draft.about((opinion.tenant, opinion.action_id, opinion.hash))):
            card = Card.read(kept.value)
            others = tuple(one for one in card.state.opinions if one.reviewer != row.reviewer)
            if len(others) < OPINIONS_MAX:
                card = structs.replace(card, state=structs.replace(card.state, opinions=(*others, row)))
                self.writing.write(index, record.partition, card, kept.review)
        self.writing.tally.opinions += 1
