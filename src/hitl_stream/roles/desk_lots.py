"""Batches at the desk: items gather, a sample is drawn and judged, and a person lets the rest go (`core.batch`)."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import structs

from hitl_stream.core import batch as lots
from hitl_stream.core.batch import Lot, Stage, Unjoined
from hitl_stream.core.events import Effect, Purpose, Refusal
from hitl_stream.core.merkle import Tree
from hitl_stream.core.review import Asked, Review, State, drawn, full, gathered, released
from hitl_stream.core.verdicts import BatchRelease
from hitl_stream.lane.step import Output, Record
from hitl_stream.roles.desk_card import Card, lot_name
from hitl_stream.roles.desk_state import KEEP_ENDED_MS, Held, Item
from hitl_stream.roles.desk_writing import Writing
from hitl_stream.wire import judged
from hitl_stream.wire.desk_records import GivenRow, lot_state, lot_value
from hitl_stream.wire.items import score
from hitl_stream.wire.records import Proof, time_text
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.verdicts import Given

LET_GO_MAX = 500
"""Members of a released batch that one transaction writes out."""
AGAIN_MS = 250
"""What a switch holds is not looked at more often."""
ASKS = ("REVIEW", "ESCALATE")
BASELINES = ("class.level", "class.review")
"""Rules that ask people about everything of a class; any other marks an item of a batch as flagged."""


class Lots:
    """The batches that one batch of records is about; samples are drawn by `sample_key`.

    `level` tells how closely a person is watched.
    """

    def __init__(self, writing: Writing, sample_key: SealKey, level: Callable[[str], int]) -> None:
        self.writing = writing
        self.sample_key = sample_key
        self.level = level

    def taking(self, record: Record, card: Card, review: Review) -> Held | None:
        """Return the batch that takes an item, if its class has batches and its action names one."""
        spec = self.writing.policy.policy.classes.get(card.decision.type)
        batch, key = card.decoded.action.batch, card.lot
        if spec is None or spec.batch is None or batch is None or key is None or review.purpose is not Purpose.DECIDE:
            return None
        held = self.writing.draft.lot(lot_name(key))
        if held is not None:
            return held
        lot = lots.opened(
            key, self.writing.policy.of(card.decision.type).queue, batch.size, record.timestamp, spec.batch.close_after
        )
        return Held(lot=lot, partition=record.partition)

    def join(self, index: int, record: Record, card: Card, review: Review, held: Held) -> None:
        """Take an item into its batch, or decide it by itself."""
        batch = card.decoded.action.batch
        assert batch is not None  # it was looked at
        flagged = any(row.counts and row.outcome in ASKS and row.rule not in BASELINES for row in card.decision.reasons)
        single = lots.is_single(held.lot, review, flagged=flagged)
        waits = review if single else gathered(review, held.lot.key, held.lot.close_ms, self.writing.policy.policy)
        joined = lots.joined(held.lot, waits, batch.index, batch.size, flagged=flagged)
        if isinstance(joined, Unjoined):
            self.writing.tally.unjoined[joined] += 1
            self.writing.write(index, record.partition, card, review)
            return
        card = structs.replace(card, state=structs.replace(card.state, flagged=flagged))
        self._put_lot(structs.replace(held, lot=joined), index)
        self.writing.write(index, record.partition, card, waits)
        self._complete(index, held.lot.key)

    def _complete(self, index: int, key: str) -> None:
        """Draw the sample of a batch that is complete, and open it; everything where it is no larger than that."""
        held = self.writing.draft.lot(lot_name(key))
        now_ms = self.writing.moment.now_ms
        if held is None or not lots.is_complete(held.lot, now_ms):
            return
        lot = lots.completed(held.lot, self._score, self.writing.policy.policy, now_ms)
        self._put_lot(structs.replace(held, lot=lot), index)
        if lot.state is Stage.FULL:
            self._open_all(index, lot)
        elif lot.state is Stage.SAMPLING:
            sample = set(lot.drawn)
            for member in lot.members:
                kept = self.writing.draft.get(member.item)
                if isinstance(kept, Item):
                    stopped = self.writing.stopped_ms(kept, now_ms)
                    review = drawn(kept.review, member.item in sample, self.writing.policy.policy, now_ms, stopped)
                    self.writing.write(index, held.partition, Card.read(kept.value), review)

    def _score(self, root: bytes, place: int, leaf: bytes) -> bytes:
        """Return by what a member is drawn. The root holds every leaf; the place tells them apart."""
        return score(self.sample_key, root, place)

    def followed(self, index: int, key: str, review: Review) -> None:
        """Tell a batch what became of an item of it."""
        held = self.writing.draft.lot(lot_name(key))
        if held is None or held.lot.ended:
            return
        lot = lots.followed(held.lot, review)
        if lot is held.lot:
            return
        self._put_lot(structs.replace(held, lot=lot), index)
        if lot.state is Stage.FULL:
            self._open_all(index, lot)

    def _open_all(self, index: int, lot: Lot) -> None:
        """Look at every member by itself."""
        for member in lot.members:
            kept = self.writing.draft.get(member.item)
            if not isinstance(kept, Item):
                continue
            covered = bool(self.writing.covering(kept.target, kept.passes))
            stopped = self.writing.stopped_ms(kept, self.writing.moment.now_ms)
            turn = full(kept.review, self.writing.policy.policy, self.writing.moment.now_ms, stopped, covered=covered)
            if turn is not None:
                card = Card.read(kept.value)
                self.writing.follow(index, card.partition, card, turn, kept)

    def release(self, index: int, record: Record, given: Given, claims: BatchRelease, refusal: Refusal | None) -> None:
        """Say what a signed release does; the members are written out by and by."""
        held = self.writing.draft.lot(lot_name(claims.batch))
        effect: Effect = Effect.REFUSED
        why: Refusal | None = refusal or Refusal.UNKNOWN_ITEM
        if held is not None and refusal is None:
            if claims.jti in held.lot.seen:
                self.writing.tally.repeated += 1
                return
            stopped = 0  # a release stops nothing and starts nothing: each member is compared with the switches
            asked = Asked(record.timestamp, stopped_ms=stopped, level=self.level(claims.by))
            turn = lots.release(held.lot, claims, asked, self.writing.policy.policy)
            effect, why = turn.effect, turn.refusal
            if effect in (Effect.APPLIED, Effect.WAITING):
                row = GivenRow(given.jws, time_text(record.timestamp))
                self._put_lot(structs.replace(held, lot=turn.lot, given=(*held.given, row)), index)
        self._decided_lot(index, record, given, claims, effect, why, held)

    def _decided_lot(
        self,
        index: int,
        record: Record,
        given: Given,
        claims: BatchRelease,
        effect: Effect,
        why: Refusal | None,
        held: Held | None,
    ) -> None:
        queue = "none" if held is None else held.lot.queue
        value = judged.decision_value(
            claims,
            item=lot_name(claims.batch),
            n=record.offset,
            action_hash=claims.root,
            effect=effect,
            why=None if why is None else why.value,
            appended_ms=record.timestamp,
            source=f"{record.topic}/{record.partition}/{record.offset}",
            jws=given.jws,
            shown=given.shown,
            queue=None if held is None else queue,
        )
        self.writing.emit(
            "decisions", record.partition, f"{lot_name(claims.batch)}/{record.offset}".encode(), value, index=index
        )
        self.writing.tally.verdicts[queue, "release", effect] += 1
        if why is not None:
            self.writing.tally.refused[why] += 1

    def _let_go(self, held: Held) -> None:
        """Write out some members of a released batch, each with the proof that it is one of them."""
        lot = held.lot
        tree = Tree(lots.leaves_of(lot))
        until = min(held.after + LET_GO_MAX, len(lot.members))
        for place in range(held.after, until):
            kept = self.writing.draft.get(lot.members[place].item)
            if not isinstance(kept, Item):
                continue  # it has its end
            turn = released(kept.review, lot.by, covered=bool(self.writing.covering(kept.target, kept.passes)))
            if turn is None:
                continue
            card = Card.read(kept.value)
            # What was drawn has approvals of its own, by whoever judged the sample.
            by_release = kept.review.state is State.LOT and turn.effect is not Effect.REFUSED
            if turn.effect is Effect.REFUSED:
                alone = full(
                    structs.replace(kept.review, state=State.LOT),
                    self.writing.policy.policy,
                    self.writing.moment.now_ms,
                )
                assert alone is not None  # a member that is not drawn can be opened
                turn = alone
            path = tuple(beside.hex() for beside in tree.path(place))
            if by_release:
                card = structs.replace(card, state=structs.replace(card.state, given=held.given))
            proof = Proof(size=len(lot.members), index=place, path=path)
            self.writing.follow(-1, held.partition, card, turn, kept, proof=proof)
        done = self.writing.moment.now_ms + KEEP_ENDED_MS if until == len(lot.members) else None
        self._put_lot(structs.replace(held, after=until, forget_ms=done), -1)

    def _put_lot(self, held: Held, index: int) -> None:
        """Write a batch's new state, and take it into the draft."""
        lot = held.lot
        if lot.ended and held.forget_ms is None and lot.state is not Stage.RELEASED:
            held = structs.replace(held, forget_ms=self.writing.moment.now_ms + KEEP_ENDED_MS)
        name = lot_name(lot.key)
        value = lot_value(lot_state(lot, held.given, held.after))
        self.writing.lots[name] = self.writing.papers.lot(held.partition, name, value, index)
        self.writing.draft.lots[name] = held

    def due(self, name: str, held: Held) -> None:
        """Bring a batch to what time makes of it."""
        lot, now_ms = held.lot, self.writing.moment.now_ms
        if held.forget_ms is not None:
            if now_ms >= held.forget_ms:
                self.writing.draft.lots[name] = None
                self.writing.outputs.append(
                    Output(self.writing.papers.names["reviews"], held.partition, name.encode(), None, [], -1)
                )
            return
        if lot.state is Stage.RELEASED:
            self._let_go(held)
        elif lot.state is Stage.GATHERING:
            self._complete(-1, lot.key)
        else:
            after = lots.due(lot, now_ms, self.writing.policy.policy)
            if after is None:
                following = lots.next_ms(lot)
                self.writing.draft.again[name] = (
                    now_ms + AGAIN_MS if following is None else max(following, now_ms + AGAIN_MS)
                )
            else:
                self._put_lot(structs.replace(held, lot=after), -1)
