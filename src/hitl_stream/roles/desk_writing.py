"""What the desk writes: records of its topics under its seal, and for each turn of an item everything that follows.

One `Writing` serves one batch of records. What it writes goes into one transaction, what it changes into the draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import structlog
from msgspec import structs

from hitl_stream.core.canaries import is_planted
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.edits import diff
from hitl_stream.core.events import DeskTally, Effect, ErrorClass, Purpose, Refusal
from hitl_stream.core.policy.compile import Compiled
from hitl_stream.core.review import Deed, Review, Turn
from hitl_stream.core.switches import Switch, Switches, Target, reduces, stopped_ms, stops, target_of
from hitl_stream.core.verdicts import Qualified, Skipped, Verdict
from hitl_stream.lane.step import Header, Moment, Output, Record
from hitl_stream.roles.desk_card import Card, traces
from hitl_stream.roles.desk_state import KEEP_ENDED_MS, DeskDraft, Item
from hitl_stream.wire import desk_records, judged, records
from hitl_stream.wire.approved import ASKING, approved_value
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from hitl_stream.wire.dead_letter import dead_letter
from hitl_stream.wire.desk_records import ms_of, review_value, state_with
from hitl_stream.wire.home import partition_of
from hitl_stream.wire.records import Proof
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed, sealer
from hitl_stream.wire.topics import TABLE, TopicSet
from hitl_stream.wire.verdicts import Given
from hitl_stream.wire.via import via_headers

ROLE: Final = "desk"
WRITES = {
    "reviews": desk_records.REVIEW,
    "execute": records.DECISION,
    "held": records.DECISION,
    "closed": records.CLOSED,
    "decisions": desk_records.HUMAN_DECISION,
    "observations": desk_records.OBSERVATION,
    "evidence": desk_records.OBSERVATION,
    "feedback": desk_records.FEEDBACK,
    "preferences": desk_records.PREFERENCE,
}
"""The topics that the desk seals records for, and their types."""
ACTIONS = "actions"
LOOKED_MS_MAX = 900_000
"""Of one look at one item: whoever leaves a page open over lunch has not read for an hour."""
NOBODY: Mapping[str, SealKey] = MappingProxyType({})


class Papers:
    """The desk's topics and its seal, and the routers', whose decisions alone may come to run."""

    def __init__(
        self, topics: TopicSet, key: SealKey, instance: str, router_keys: Mapping[str, SealKey] = NOBODY
    ) -> None:
        self.topics = topics
        self.key = key
        self.instance = instance
        self.router_keys = router_keys
        self.names = {name: topics.name(name) for name in (*WRITES, ACTIONS, "dlq")}
        self._seals = {name: sealer(key, self.names[name], kind) for name, kind in WRITES.items()}
        self._types = {name: (TYPE_HEADER, kind.encode()) for name, kind in WRITES.items()}
        self._seal_lot = sealer(key, self.names["reviews"], desk_records.LOT)
        self.seal_via = sealer(key, self.names[ACTIONS], records.VIA)

    def output(
        self, name: str, partition: int, key: bytes, value: bytes, headers: Sequence[Header] = (), index: int = -1
    ) -> Output:
        """Return one record of a topic of ours, sealed."""
        own = [self._types[name], (SEAL_HEADER, self._seals[name](records.head_of(value)))]
        return Output(self.names[name], partition, key, value, [*own, *headers], index)

    def lot(self, partition: int, name: str, value: bytes, index: int) -> Output:
        """Return the record of a batch, sealed."""
        headers = [(TYPE_HEADER, desk_records.LOT.encode()), (SEAL_HEADER, self._seal_lot(value))]
        return Output(self.names["reviews"], partition, name.encode(), value, headers, index)


class Writing:
    """What one batch of records leaves. `followed` is told of each item of a batch that has changed."""

    def __init__(
        self,
        papers: Papers,
        draft: DeskDraft,
        moment: Moment,
        policy: Compiled,
        switches: Switches,
        followed: Callable[[int, str, Review], None],
    ) -> None:
        self.papers = papers
        self.draft = draft
        self.moment = moment
        self.policy = policy
        self.switches = switches
        self.followed = followed
        self.outputs: list[Output] = []
        self.lots: dict[str, Output] = {}
        """The newest record of each batch: one is written, however many of its items came."""
        self.tally = DeskTally()

    def follow(
        self,
        index: int,
        partition: int,
        card: Card,
        turn: Turn,
        kept: Item,
        verdict: Verdict | None = None,
        proposal: bytes | None = None,
        proof: Proof | None = None,
    ) -> None:
        """Write what a turn means: an execute record, an end, a new action, and the item's new state."""
        headers = traces(card)
        match turn.deed:
            case Deed.EXECUTE:
                self._execute(index, partition, card, turn.review, kept, proof)
            case Deed.PARK:
                self._park(index, partition, card, kept)
            case Deed.PROPOSE:
                assert proposal is not None
                assert verdict is not None
                self._propose(index, partition, card, verdict, proposal, kept)
            case Deed.CLOSE | Deed.NOTHING:
                pass
        if turn.end is not None and turn.why is not None:
            by = () if verdict is None else (verdict.by,)
            code, note = (None, None) if verdict is None else (verdict.code, verdict.note)
            value = judged.closed_value(card.decision, card.raw, turn.end, turn.why, by, code, note)
            self.emit("closed", partition, kept.key, value, headers, index)
            self.tally.closed[turn.why] += 1
        self.write(index, partition, card, turn.review, None if turn.end is None else turn.end.value)

    def _execute(self, index: int, partition: int, card: Card, review: Review, kept: Item, proof: Proof | None) -> None:
        """Let it run. What `core.review` would never let come here, a planted action, is stopped here all the same."""
        fault = self._never_runs(card)
        if fault is not None:
            self.tally.dead[ErrorClass.SEAL] += 1
            structlog.get_logger(role=ROLE).error("nothing was let run", item=review.item, why=fault)
            return
        value = approved_value(
            card.state.routed, card.decision, card.raw,
            by=review.by,
            given=card.state.given,
            execute_by_ms=review.execute_by_ms,
            epoch=self.moment.epoch,
            moment_ms=self.moment.now_ms,
            proof=proof,
        )  # fmt: skip
        self.emit("execute", partition, kept.key, value, traces(card), index)
        self.tally.executed += 1

    def _never_runs(self, card: Card) -> str | None:
        """Say why an action must not come to run, whatever people said of it; each reason is enough by itself."""
        routed = card.state.routed
        if is_planted(card.decision.action_id):
            return f"its id, {card.decision.action_id:.60}, is that of a planted action"
        asked = routed.topic in (self.papers.topics.name(name) for name in ASKING)
        keys = self.papers.router_keys
        if not asked or not sealed(keys, routed.topic, records.DECISION, routed.head.encode(), routed.seal.encode()):
            return f"no router has asked for it on {routed.topic:.80}"
        return None

    def _park(self, index: int, partition: int, card: Card, kept: Item) -> None:
        """Send it to `held` as the router had it: once nothing holds it any more, everybody is asked again."""
        covering = tuple(switch.epoch for switch in self.covering(kept.target, kept.passes))
        parked = records.Parked(by="desk", epoch=self.moment.epoch, switches=covering)
        value = records.held_value(card.state.routed.head.encode() + records.ACTION_MARK + card.raw + b"}", parked)
        self.emit("held", partition, kept.key, value, traces(card), index)
        self.tally.parked += 1

    def _propose(self, index: int, partition: int, card: Card, verdict: Verdict, proposal: bytes, kept: Item) -> None:
        """Write a person's action in place of the old one, to be routed like any other."""
        decoded = decode_bytes(proposal, {})
        assert isinstance(decoded, Decoded)  # the edits were looked at
        supersedes = card.decision.action_id
        via = records.Via(role=ROLE, from_=card.state.source, by=verdict.by, supersedes=supersedes)
        headers = [*via_headers(self.papers.seal_via, via, decoded.hash), *traces(card)]
        self.outputs.append(Output(self.papers.names[ACTIONS], partition, kept.key, proposal, headers, index))
        self.tally.proposed += 1

    def write(self, index: int, partition: int, card: Card, review: Review, end: str | None = None) -> None:
        """Write an item's new state, and take it into the draft."""
        state = state_with(card.state, review, end, self._epochs(card))
        card = structs.replace(card, state=state)
        value = review_value(state, card.raw)
        self.emit("reviews", partition, review.item.encode(), value, index=index)
        if review.ended:
            self.draft.put(review.item, card.ended(partition, self.moment.now_ms + KEEP_ENDED_MS))
        else:
            self.draft.put(review.item, card.item(value, review))
        if card.lot is not None:
            self.followed(index, card.lot, review)

    def erase(self, name: str, partition: int) -> None:
        """Take a record of `reviews` out of the log."""
        self.outputs.append(Output(self.papers.names["reviews"], partition, name.encode(), None, [], -1))

    def forget(self, name: str, partition: int) -> None:
        """Take an item out of the log: whoever asks for it from now on is told that it is unknown."""
        self.draft.put(name, None)
        self.erase(name, partition)

    def decided(
        self,
        index: int,
        record: Record,
        given: Given,
        verdict: Verdict,
        effect: Effect,
        refusal: Refusal | None,
        card: Card | None = None,
        kept: Item | None = None,
    ) -> None:
        """Write down a judgement, whatever it did; one that counts as a judgement is observed, too."""
        key = f"{verdict.item}/{record.offset}".encode()
        value = judged.decision_value(
            verdict,
            item=verdict.item,
            n=record.offset,
            action_hash=verdict.hash,
            effect=effect,
            why=None if refusal is None else refusal.value,
            appended_ms=record.timestamp,
            source=f"{record.topic}/{record.partition}/{record.offset}",
            jws=given.jws,
            shown=given.shown,
            asked=card.state.routed.head if card is not None else None,
            review=kept.review if kept is not None else None,
            queue=kept.queue if kept is not None else None,
            decision=card.decision if card is not None else None,
            raw=card.raw if card is not None else None,
        )
        self.emit("decisions", record.partition, key, value, index=index)
        queue = kept.queue if kept is not None else "none"
        self.tally.verdicts[queue, verdict.verdict, effect] += 1
        if refusal is not None:
            self.tally.refused[refusal] += 1
        if card is not None and kept is not None and effect is not Effect.REFUSED:
            self.observe(index, record, verdict, card, kept)
            self.tally.wait_s.append((record.timestamp - kept.review.opened_ms) / 1000)

    def observe(self, index: int, record: Record, claims: Verdict | Skipped, card: Card, kept: Item) -> None:
        decision, action = card.decision, card.action
        under = self.policy.under(action, ms_of(decision.moment))
        value = judged.observation_value(claims, kept.review, kept.queue, decision, action, card.state.first, under)
        topics = self.papers.topics
        by_person = partition_of(claims.by.encode(), topics.count("observations"))
        self.emit("observations", by_person, claims.by.encode(), value, index=index)
        looked_ms = milliseconds(claims.decided) - milliseconds(claims.painted)
        for gate in judged.asking_gates(decision) if kept.review.purpose is Purpose.DECIDE else ():
            self.tally.gate_ms[gate] += min(max(looked_ms, 0), LOOKED_MS_MAX)
        if kept.review.purpose is Purpose.AUDIT:
            for gate in judged.gates_of(decision, under):
                where = partition_of(gate.encode(), topics.count("evidence"))
                self.emit("evidence", where, gate.encode(), value, index=index)

    def qualified(self, index: int, claims: Qualified) -> None:
        """Tell the monitor that somebody has qualified anew."""
        by_person = partition_of(claims.by.encode(), self.papers.topics.count("observations"))
        self.emit("observations", by_person, claims.by.encode(), judged.qualified_value(claims), index=index)

    def feedback(self, index: int, record: Record, card: Card, verdict: Verdict) -> None:
        key = f"{verdict.item}/{record.offset}".encode()
        changed = diff(card.action, verdict.changes) if verdict.changes else ()
        value = judged.feedback_value(verdict, card.decision, changed, record.timestamp)
        self.emit("feedback", record.partition, key, value, index=index)

    def dead(self, index: int, record: Record, found: Undecodable) -> None:
        limit = TABLE["dlq"].bytes_max - 4_096
        value, headers = dead_letter(record, found.error, found.why, self.papers.instance, limit)
        self.outputs.append(Output(self.papers.names["dlq"], record.partition, record.key, value, headers, index))
        self.tally.dead[found.error] += 1

    def emit(
        self, name: str, partition: int, key: bytes, value: bytes, headers: Sequence[Header] = (), index: int = -1
    ) -> None:
        self.outputs.append(self.papers.output(name, partition, key, value, headers, index))

    def covering(self, target: Target, passes: bool) -> list[Switch]:
        """Return the switches that hold an open item; one that only reduces passes REDUCE_ONLY."""
        return [switch for switch in self.switches.covering(target) if stops(switch, passes)]

    def _epochs(self, card: Card) -> tuple[int, ...]:
        if not self.switches.engaged:
            return ()
        action = card.action
        target = target_of(action, card.decision.tenant, card.decision.entity)
        return tuple(switch.epoch for switch in self.covering(target, reduces(action)))

    def stopped_ms(self, kept: Item, now_ms: int) -> int:
        if not self.switches.all:
            return 0
        return stopped_ms(self.switches.ever(kept.target), kept.passes, kept.review.opened_ms, now_ms)
