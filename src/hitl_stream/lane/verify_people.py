"""What records around people say, for `hitl verify`: `verdicts`, `decisions` and `reviews`, and of others the desk's.

Each record is read once and told to `core.judgements`; approvals inside an execute record are checked at once, as an
executor checks them, by what control had recorded at the epoch of the record (`wire.trust_at`). Nothing raises on any
bytes.
"""

from __future__ import annotations

import hashlib
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.action import Entity, Time
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.judgements import BATCH, Due, Ended, Judgement, Judgements, Place, Running, Spoken, subject_of
from hitl_stream.core.ledger import Ledger
from hitl_stream.core.review import ENDS
from hitl_stream.core.standing import Where
from hitl_stream.core.switches import Switches, reduces, stops, target_of
from hitl_stream.lane.step import Record
from hitl_stream.wire.approved import VERDICTS_MAX, Vouching, doubt
from hitl_stream.wire.codec import Undecodable, decode_bytes
from hitl_stream.wire.decided import decided_action
from hitl_stream.wire.desk_records import HUMAN_DECISION, REVIEW, NeedRow, is_lot, ms_of
from hitl_stream.wire.records import VIA, decode_approved, head_of, header
from hitl_stream.wire.seal import SEAL_HEADER, sealed
from hitl_stream.wire.trust_at import TrustAt
from hitl_stream.wire.via import vouched
from hitl_stream.wire.whose import Seals

VERDICTS, DECISIONS, REVIEWS = "verdicts", "decisions", "reviews"
PEOPLE = (VERDICTS, DECISIONS, REVIEWS)
"""Topics that are read for people's sake alone."""
DESK = "desk"
UNRECORDED_MAX = 20
"""Digests remembered of policies that nothing records."""
_ENDED = frozenset(state.value for state in ENDS)

Asked = tuple[str, str, str, str]
"""Tenant, action id, hash and moment of a decision that asked people."""
SealedBy = Callable[[Record, Place, str, bytes, Sequence[str]], str]
"""Says which of some roles sealed a record; nothing where it is forged."""


class _Claims(Struct):
    """What is looked at of what somebody signed."""

    typ: str
    jti: str
    item: str = ""
    batch: str = ""


class _Verdict(Struct):
    jws: str


class _Judged(Struct):
    """What is looked at of a record on `decisions`."""

    item: str
    hash: str
    by: str
    verdict: str
    effect: str
    source: str
    jws: str
    appended: Time
    tenant: str = ""
    action_id: str = ""
    routed: str | None = None
    purpose: str | None = None


class _Routed(Struct):
    head: str


class _State(Struct):
    state: str


class _Review(Struct):
    """What is looked at of an item that has ended."""

    item: str
    state: str
    purpose: str
    execute_by: Time
    routed: _Routed
    approvals: tuple[NeedRow, ...] = ()
    batch: str | None = None
    action: Raw = msgspec.field(default_factory=Raw)


class _Head(Struct):
    """What the router says of the decision that people were asked about."""

    tenant: str
    action_id: str
    hash: str
    moment: str
    entity: Entity = Entity()
    ce: dict[str, str] = {}


class _Named(Struct):
    action_id: str


_claims = msgspec.json.Decoder(_Claims)
_verdicts = msgspec.json.Decoder(_Verdict)
_judged = msgspec.json.Decoder(_Judged)
_states = msgspec.json.Decoder(_State)
_reviews = msgspec.json.Decoder(_Review)
_heads = msgspec.json.Decoder(_Head)
_named = msgspec.json.Decoder(_Named)


class People:
    """Reads what people said and what the desk left of it; one for each reading.

    `trust` tells what approvals are checked against (None: they are not), `switches` which were ever engaged (None: not
    known), `epoch` what `control` was folded to. `settled` is where each partition ended, as far as it was committed,
    before any reading began.
    """

    def __init__(
        self,
        ledger: Ledger,
        seals: Seals,
        *,
        trust: TrustAt | None = None,
        switches: Switches | None = None,
        epoch: int = -1,
        settled: Mapping[tuple[str, int], int] | None = None,
    ) -> None:
        self.ledger = ledger
        self.seals = seals
        self.trust = trust
        self.switches = switches
        self.epoch = epoch
        self.judgements = Judgements(ledger.looked, settled=settled)
        self.unrecorded: Counter[str] = Counter()
        """Policies that nothing records → execute records of which nobody knows who may have approved them."""

    def takers(self, sealed_by: SealedBy) -> dict[str, Callable[[Record, Place], None]]:
        """Return what takes in one record of each topic in `PEOPLE`."""
        return {
            VERDICTS: self._take_verdict,
            DECISIONS: lambda record, at: self._take_decision(record, at, sealed_by),
            REVIEWS: lambda record, at: self._take_review(record, at, sealed_by),
        }

    # --- what was said ------------------------------------------------------------------------------------------------

    def _take_verdict(self, record: Record, at: Place) -> None:
        """Take in what anybody who may write there has written; the desk says whether it counts."""
        try:
            jws = _verdicts.decode(record.value or b"").jws
        except (ValueError, RecursionError):
            self.judgements.spoke(Spoken("", None), at, record.timestamp)
            return
        claims = _claims_of(jws)
        if claims is None:
            spoken = Spoken(jws, None)
        elif claims.typ == "batch":
            spoken = Spoken(jws, BATCH + claims.batch, claims.jti)
        else:
            spoken = Spoken(jws, claims.item if claims.typ == "verdict" else "", claims.jti)
        self.judgements.spoke(spoken, at, record.timestamp)

    # --- what the desk made of it -------------------------------------------------------------------------------------

    def _take_decision(self, record: Record, at: Place, sealed_by: SealedBy) -> None:
        value = record.value
        if value is None:
            return  # past its retention
        try:
            one = _judged.decode(value)
        except (ValueError, RecursionError):
            self.ledger.passed("form", "not a judgement", at)
            return
        self.ledger.passed("form", None, at)
        if not sealed_by(record, at, HUMAN_DECISION, head_of(value), (DESK,)):
            return
        claims = _claims_of(one.jws)
        self.judgements.decided(
            Judgement(
                item=one.item,
                jti=one.jws if claims is None else claims.jti,
                jws=one.jws,
                effect=one.effect,
                verdict=one.verdict,
                by=one.by,
                hash=one.hash,
                purpose=one.purpose,
                of=subject_of(one.tenant, one.action_id, one.hash, one.routed or ""),
                source=one.source,
                appended_ms=milliseconds(one.appended),
            ),
            at,
        )

    def _take_review(self, record: Record, at: Place, sealed_by: SealedBy) -> None:
        """Take in how an item ended; all that it was before is said elsewhere."""
        value = record.value
        if value is None or is_lot(record.key):
            return
        try:
            one = _reviews.decode(value) if _states.decode(value).state in _ENDED else None
            ended = None if one is None else self._ended(one, record.timestamp)
        except (ValueError, OverflowError, RecursionError):
            self.ledger.passed("form", "not an item", at)
            return
        if ended is None:
            return
        self.ledger.passed("form", None, at)
        if sealed_by(record, at, REVIEW, head_of(value), (DESK,)):
            self.judgements.ended(ended, at)

    def _ended(self, one: _Review, at_ms: int) -> Ended:
        head = _heads.decode(one.routed.head.encode() + b"}")
        return Ended(
            item=one.item,
            state=one.state,
            purpose=one.purpose,
            of=subject_of(head.tenant, head.action_id, head.hash, head.moment),
            dues=tuple(Due(row.people, row.by, ms_of(row.decide_by)) for row in one.approvals),
            execute_by_ms=milliseconds(one.execute_by),
            ended_ms=at_ms,
            batch=one.batch,
            stopped=self._stopped(one, head),
        )

    def _stopped(self, one: _Review, head: _Head) -> bool | None:
        """Say whether any switch was ever engaged that would have stopped the clocks of an item."""
        if self.switches is None:
            return None
        if not self.switches.all:
            return False
        decoded = decode_bytes(bytes(one.action), head.ce)
        if isinstance(decoded, Undecodable):
            return None
        passes = reduces(decoded.action)
        ever = self.switches.ever(target_of(decoded.action, head.tenant, head.entity))
        return any(stops(switch, passes) for switch in ever)

    def dead(self, at: tuple[int, int]) -> None:
        """Take in that what stands at a partition and offset of `verdicts` could not be read."""
        self.judgements.dead(*at)

    # --- what followed ------------------------------------------------------------------------------------------------

    def approved(self, value: bytes, sent: bytes, at: Place, *, sound: bool) -> None:
        """Take in an execute record of the desk's; `sent` is the head of the router's record that stands in it.

        Of one that is not `sound` it was said already why it may not run.
        """
        try:
            decision = decode_approved(value)
            head = _heads.decode(sent + b"}")
            moment_ms = ms_of(head.moment)
        except (ValueError, OverflowError, RecursionError):
            self.ledger.passed("form", "not a decision that people approved", at)
            return
        running = Running(
            of=subject_of(head.tenant, head.action_id, head.hash, head.moment),
            hash=decision.hash,
            jws=decision.verdicts[:VERDICTS_MAX],
            given_ms=tuple(_ms(given) for given in decision.given[:VERDICTS_MAX]),
        )
        self.judgements.runs(running, at)
        if self.trust is None or not sound or decision.epoch > self.epoch:
            return
        trust = self.trust.at(decision.epoch, moment_ms, decision.policy)
        if trust is None:
            if decision.policy in self.unrecorded or len(self.unrecorded) < UNRECORDED_MAX:
                self.unrecorded[decision.policy] += 1
            return
        decoded = decided_action(value, decision)
        fault = decoded.why if isinstance(decoded, Undecodable) else doubt(Vouching(decision, decoded), trust)
        self.ledger.passed("I7", f"approved, and that does not hold: {fault}" if fault else None, at)

    def parked(self, of: Asked, at: Place, *, sure: bool) -> None:
        """Take in a copy on `held` that the desk wrote; not `sure`: as far as one can tell without its key."""
        self.judgements.parked(subject_of(*of), at, sure=sure)

    def closed(self, of: Asked, where: Where, at: Place) -> None:
        """Take in an end that the desk wrote."""
        self.judgements.closed(subject_of(*of), where, at)

    def proposed(self, record: Record, via: bytes, at: Place) -> None:
        """Take in an action that says of itself that the desk wrote it; a publisher may say so, too."""
        value = record.value or b""
        keys = self.seals.keys.get(DESK)
        if keys is not None:
            head = vouched(via, hashlib.sha256(value).hexdigest())
            if not sealed(keys, record.topic, VIA, head, header(record.headers, SEAL_HEADER) or b""):
                return
        try:
            name = _named.decode(value).action_id
        except (ValueError, RecursionError):
            return  # a publisher's: the desk writes none that cannot be read
        self.judgements.proposed(name.rpartition("~")[2], at)


def _claims_of(jws: str) -> _Claims | None:
    """Return what a JWS claims, its signature not looked at."""
    parts = jws.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = a2b_base64(parts[1].translate(_STANDARD) + "=" * (-len(parts[1]) % 4))
        return _claims.decode(payload)
    except (Base64Error, ValueError, RecursionError):
        return None


_STANDARD = str.maketrans("-_", "+/")


def _ms(text: str) -> int:
    """Return a time in milliseconds; what is none lies before every horizon, and is the executor's to refuse."""
    try:
        return milliseconds(datetime.fromisoformat(text))
    except (ValueError, OverflowError, TypeError):
        return -1
