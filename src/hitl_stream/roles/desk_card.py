"""An item as its record has it: the card that a person is shown, and what the desk's state keeps of it."""

from __future__ import annotations

from hashlib import blake2b

from msgspec import Struct, structs

from hitl_stream.core import batch as lots
from hitl_stream.core.action import Action
from hitl_stream.core.batch import Member, Stage
from hitl_stream.core.review import Review, State
from hitl_stream.core.switches import reduces, target_of
from hitl_stream.lane.step import Header
from hitl_stream.roles.desk_state import KEEP_ENDED_MS, Ended, Field, Held, Item
from hitl_stream.roles.router_state import Origin
from hitl_stream.wire import desk_records, records
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import LotState, ReviewState, decision_of, decode_review, lot_of
from hitl_stream.wire.home import key_of


class Card(Struct, frozen=True):
    """What stands in an item's record: its state, the router's decision, and the action as the router read it."""

    state: ReviewState
    decision: records.Held
    decoded: Decoded

    @classmethod
    def read(cls, value: bytes) -> Card:
        """Read a record of our own."""
        state = decode_review(value)
        raw = bytes(state.action)
        decision = decision_of(state.routed, raw)
        decoded = decode_bytes(raw, decision.ce)
        assert isinstance(decoded, Decoded)  # it was when we wrote it
        return cls(state, decision, decoded)

    @property
    def raw(self) -> bytes:
        """Return the action's bytes."""
        return self.decoded.raw

    @property
    def action(self) -> Action:
        """Return the action with its tenant."""
        return structs.replace(self.decoded.action, tenant=self.decision.tenant)

    @property
    def lot(self) -> str | None:
        """Return the key of the batch that its action names."""
        batch, decision = self.decoded.action.batch, self.decision
        if batch is None:
            return None
        return lots.key_of(decision.tenant, decision.entity.account or decision.agent.id, batch.id)

    @property
    def index(self) -> int:
        """Return its index there."""
        return 0 if self.decoded.action.batch is None else self.decoded.action.batch.index

    def ended(self, partition: int, forget_ms: int) -> Ended:
        """Return what the state keeps of it once it has ended."""
        state = self.state
        member = None if state.batch is None else Member(self.index, state.item, state.hash)
        return Ended(State(state.state), state.seen, partition, forget_ms, self.lot, member)

    @property
    def partition(self) -> int:
        """Return its partition: that of the record which opened it."""
        return Origin.of(self.state.source).partition

    def item(self, value: bytes, review: Review) -> Item:
        """Return what the state keeps of it; `value` is its record, which holds `review`."""
        decision, action = self.decision, self.action
        return Item(
            review=review,
            value=value,
            key=key_of(decision.tenant, decision.entity, decision.agent.id),
            target=target_of(action, decision.tenant, decision.entity),
            passes=reduces(action),
            fields=fields_of(action, decision.tenant),
            order=Origin.of(decision.origin).order,
            subject=(decision.tenant, decision.action_id, decision.hash),
            queue=self.state.queue,
            lot=self.lot,
            index=self.index,
        )


def fields_of(action: Action, tenant: str) -> frozenset[Field]:
    """Return what an action would change."""
    return frozenset((tenant, change.entity.account, change.entity.campaign, change.field) for change in action.changes)


def lot_name(key: str) -> str:
    """Return what a batch is called among the items: its key on `reviews`."""
    return desk_records.LOT_KEY + key


def held_of(found: LotState, partition: int, at_ms: int) -> Held:
    """Return what the state keeps of a batch's record that was written then."""
    lot = lot_of(found)
    done = lot.ended and not (lot.state is Stage.RELEASED and found.after < found.size)
    forget_ms = at_ms + KEEP_ENDED_MS if done else None
    return Held(lot=lot, partition=partition, given=found.given, after=found.after, forget_ms=forget_ms)


def traces(card: Card) -> list[Header]:
    """Return the header that carries the trace on; the item stands for the step between."""
    trace = card.decision.trace
    if trace is None:
        return []
    span = blake2b(card.state.item.encode(), digest_size=8).hexdigest()
    return [(records.TRACE_HEADER, f"00-{trace}-{span}-01".encode())]


def exception_of(value: bytes) -> str:
    """Return of which type the trouble is that an executor hands to people."""
    return records.decode_exceptional(value).exception.type
