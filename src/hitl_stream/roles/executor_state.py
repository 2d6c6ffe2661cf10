"""What an executor remembers of a partition: which records have their end, and which entities were sent something back.

It is the fold of `executor.state`, written in the transactions that end the records:
- *Ends*, by what an action is (tenant, place, id, hash): a repeat of a record is not carried out twice. They count
  until a while after the action's time is over, when the gate refuses it anyway; a null then takes them out of the log.
- *Ends above the committed offset*, by their own offset: whoever opens the partition leaves these alone and asks about
  the others.
- *Sent back*, by entity: the offset on `held` of the newest one. Whatever was decided before the router had read that
  far did not know of it, and would overtake it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice

import msgspec
from msgspec import Struct

from hitl_stream.core.gate import NOT_SENT_BACK, Past
from hitl_stream.core.parking import EntityKey, Keys
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.calls import WINDOW, Settled
from hitl_stream.lane.step import Output, Record, State
from hitl_stream.wire import records
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed, sealer

KEEP_MS = 60_000
"""An end is remembered for so long after the action's time is over: clocks and lag cannot bring it back by then."""
SLOT_MS = 60_000
FORGOTTEN_MAX = 500
"""Nulls written in one transaction, at most."""
ENTITIES_MAX = 100_000
"""Entities remembered one by one; beyond them the newest offset of those forgotten counts for every entity."""
IDENTITY_BYTES = 16
ATTEMPT_BITS = 16
_KEY = re.compile(rb"[0-9a-f]{32}")


class End(Struct, frozen=True):
    """That one record has its end. `sent_back`: its entities, where it went to `held`; `attempt` is then its own."""

    identity: bytes
    id: str
    end: str
    partition: int
    offset: int
    keep_ms: int
    attempt: int | None = None
    sent_back: Keys = frozenset()


def identity_of(tenant: str, place: str, action_id: str, action_hash: str) -> bytes:
    """Return the digest of what an action is; attempts of it share it."""
    text = f"{len(tenant)}/{len(place)}/{tenant}/{place}/{action_hash}/{action_id}"
    return hashlib.blake2b(text.encode(), digest_size=IDENTITY_BYTES).digest()


class ExecutorState(State):
    """The state of one partition. `topic` and `held` are the Kafka names of `executor.state` and `held`."""

    def __init__(self, topic: str, held: str, key: SealKey, keys: Mapping[str, SealKey], budget: IdBudget) -> None:
        self.topic = topic
        self.held = held
        self.budget = budget
        self._keys = keys
        self._seal_finished = sealer(key, topic, records.FINISHED)
        self._seal_sent_back = sealer(key, topic, records.SENT_BACK)
        self._done: dict[bytes, int] = {}
        """Identity → until which minute it counts, and the attempt that was sent back, in one number; see `_packed`."""
        self._slots: dict[int, set[bytes]] = {}
        """Minute → the identities that count until then."""
        self._offsets: dict[int, bytes] = {}
        """The ends at and above the committed offset."""
        self._sent: dict[EntityKey, int] = {}
        self._places: dict[tuple[str, str], int] = {}
        self._floor = NOT_SENT_BACK

    # --- what an errand asks ------------------------------------------------------------------------------------------

    def past(self, identity: bytes, attempt: int, keys: Keys) -> Past:
        """Return what is remembered of a record."""
        known = self._done.get(identity)
        if known is None:
            return Past(False, self.sent_back(keys))
        _, sent = _unpacked(known)
        return Past(sent is None or attempt <= sent, self.sent_back(keys))

    def sent_back(self, keys: Keys) -> int:
        """Return the newest offset on `held` of what was sent back of any of these, or of what conflicts with them."""
        found = self._floor
        for tenant, place, campaign in keys:
            if campaign is None:
                found = max(found, self._places.get((tenant, place), found))
            else:
                whole = self._sent.get((tenant, place, None), found)
                found = max(found, whole, self._sent.get((tenant, place, campaign), found))
        return found

    def finished(self, offset: int) -> bool:
        """Say whether the record at this offset had its end before the partition was opened."""
        return offset in self._offsets

    def room(self) -> bool:
        """Say whether another end can be remembered."""
        return not self.budget.full

    def overdue(self, now_ms: int) -> bool:
        """Say whether there are ends to forget."""
        return any(True for _ in self._due(now_ms, set(self._offsets.values())))

    # --- what a commit means ------------------------------------------------------------------------------------------

    def closing(self, settled: Settled) -> Sequence[Output]:
        """Return what is written of it: the ends, how far `held` reaches now, and what is out of date."""
        outputs: list[Output] = []
        for end in settled.changes:
            outputs.append(self._finished(end))
            held = self._held(settled, end)
            outputs += [self._sent_back(end.partition, key, held) for key in end.sent_back]
        outputs += [Output(self.topic, settled.partition, _key(one), None) for one in self._out_of_date(settled)]
        return outputs

    def apply(self, settled: Settled) -> None:
        """Take in what is known to be committed."""
        for identity in self._out_of_date(settled):
            self._forget(identity)
        for end in settled.changes:
            self._remember(end.identity, end.offset, end.keep_ms, end.attempt)
            for key in end.sent_back:
                self._note(key, self._held(settled, end))
        for offset in [offset for offset in self._offsets if offset < settled.below]:
            del self._offsets[offset]

    def replay(self, records_: Sequence[Record]) -> None:
        """Take in what was written before; what is not sealed by an executor counts for nothing."""
        for record in records_:
            key, value = record.key or b"", record.value
            if value is None:
                if _KEY.fullmatch(key):
                    self._forget(bytes.fromhex(key.decode()))
                continue
            kind = (records.header(record.headers, TYPE_HEADER) or b"").decode("ascii", "replace")
            seal = records.header(record.headers, SEAL_HEADER) or b""
            if sealed(self._keys, self.topic, kind, value, seal):
                self._replay(kind, key, value)

    def _replay(self, kind: str, key: bytes, value: bytes) -> None:
        if kind == records.FINISHED and _KEY.fullmatch(key):
            end = records.decode_finished(value)
            self._remember(bytes.fromhex(key.decode()), end.offset, end.keep_ms, end.attempt)
            if len(self._offsets) > 4 * WINDOW:
                newest = max(self._offsets)
                self._offsets = {offset: one for offset, one in self._offsets.items() if offset > newest - WINDOW}
        elif kind == records.SENT_BACK:
            sent = records.decode_sent_back(value)
            self._note((sent.tenant, sent.place, sent.campaign), sent.held)

    def _held(self, settled: Settled, end: End) -> int:
        """Return how far `held` reaches with this commit."""
        return settled.written.get((self.held, end.partition), NOT_SENT_BACK)

    def _remember(self, identity: bytes, offset: int, keep_ms: int, attempt: int | None) -> None:
        self._forget(identity)
        slot = keep_ms // SLOT_MS + 1
        self._done[identity] = _packed(slot, attempt)
        self._slots.setdefault(slot, set()).add(identity)
        self._offsets[offset] = identity
        self.budget.used += 1

    def _forget(self, identity: bytes) -> None:
        known = self._done.pop(identity, None)
        if known is None:
            return
        self.budget.used -= 1
        slot, _ = _unpacked(known)
        self._slots[slot].discard(identity)
        if not self._slots[slot]:
            del self._slots[slot]

    def _out_of_date(self, settled: Settled) -> list[bytes]:
        """Return ends that need not be remembered any more."""
        needed = {one for offset, one in self._offsets.items() if offset >= settled.below}
        needed.update(end.identity for end in settled.changes)
        return list(islice(self._due(settled.now_ms, needed), FORGOTTEN_MAX))

    def _due(self, now_ms: int, needed: Collection[bytes]) -> Iterator[bytes]:
        """Yield the ends whose time is over, the oldest first, without those that are needed all the same."""
        for slot in sorted(slot for slot in self._slots if slot <= now_ms // SLOT_MS):
            yield from (one for one in self._slots[slot] if one not in needed)

    def _note(self, key: EntityKey, held: int) -> None:
        """Remember where the newest one of an entity lies; the entity moves to the end of those to be forgotten."""
        held = max(held, self._sent.pop(key, held))
        self._sent[key] = held
        place = key[0], key[1]
        self._places[place] = max(held, self._places.pop(place, held))
        if len(self._sent) > ENTITIES_MAX:
            self._floor = max(self._floor, self._sent.pop(next(iter(self._sent))))
        if len(self._places) > ENTITIES_MAX:
            self._floor = max(self._floor, self._places.pop(next(iter(self._places))))

    def _finished(self, end: End) -> Output:
        value = records.encode(
            records.Finished(id=end.id, end=end.end, offset=end.offset, keep_ms=end.keep_ms, attempt=end.attempt)
        )
        headers = [(TYPE_HEADER, records.FINISHED.encode()), (SEAL_HEADER, self._seal_finished(value))]
        return Output(self.topic, end.partition, _key(end.identity), value, headers)

    def _sent_back(self, partition: int, key: EntityKey, held: int) -> Output:
        tenant, place, campaign = key
        value = records.encode(records.SentBack(held=held, tenant=tenant, place=place, campaign=campaign))
        headers = [(TYPE_HEADER, records.SENT_BACK.encode()), (SEAL_HEADER, self._seal_sent_back(value))]
        return Output(self.topic, partition, msgspec.json.encode(key), value, headers)

    def next_timer_ms(self) -> int | None:
        """Return None: errands keep their own time."""
        return None

    def size(self) -> int:
        """Return how many ends are remembered."""
        return len(self._done)

    def discard(self) -> None:
        """Give the room back to the process."""
        self.budget.used -= len(self._done)
        self._done = {}
        self._slots = {}


def _key(identity: bytes) -> bytes:
    return identity.hex().encode()


def _packed(slot: int, attempt: int | None) -> int:
    """Return both as one number: a million tuples would take 100 MB more. 0 stands for every attempt."""
    return slot << ATTEMPT_BITS | (0 if attempt is None else min(attempt, 2**ATTEMPT_BITS - 2) + 1)


def _unpacked(number: int) -> tuple[int, int | None]:
    attempt = number & (2**ATTEMPT_BITS - 1)
    return number >> ATTEMPT_BITS, attempt - 1 if attempt else None
