"""The records around people: reviews, verdicts, and what the desk leaves of each. See `records` for the rest.

A review carries the router's sealed head as a string and the action's bytes as its last member, so that what is shown,
approved and executed is the same bytes at every step. What is read back is what was written, to the millisecond: the
desk has no other memory. Reading raises on no bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct, structs

from hitl_stream.core.action import Agent, Value
from hitl_stream.core.batch import Lot, Member, Stage
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.events import ErrorClass, Purpose
from hitl_stream.core.review import Need, Review, State
from hitl_stream.wire.codec import Decoded, Undecodable
from hitl_stream.wire.decided import decided_action, unsealed, unsubmitted
from hitl_stream.wire.records import (
    ACTION_MARK,
    First,
    Held,
    Routed,
    decode_held,
    encode,
    time_text,
)
from hitl_stream.wire.seal import SealKey

EffectName = Literal["applied", "waiting", "conflict", "late", "refused"]
VerdictName = Literal["approve", "reject", "change", "escalate"]


class NeedRow(Struct, frozen=True, kw_only=True):
    """An approval that an item needs, and who has given it. `escalate_at` is null where it goes nowhere from here."""

    queue: str
    people: int
    by: tuple[str, ...] = ()
    decide_by: str
    escalate_at: str | None = None


class GivenRow(Struct, frozen=True):
    """A signed approval that counts, as it was appended."""

    jws: str
    appended: str


class OpinionRow(Struct, frozen=True, kw_only=True):
    """What an AI reviewer says of an action; it orders a queue, and satisfies nothing."""

    reviewer: str
    verdict: str
    confidence: float | None = None
    note: str | None = None


class ReviewState(Struct, frozen=True, kw_only=True):
    """One item on `reviews`, by its key, as the desk has it. Written anew at each change; the desk's changelog.

    `not_`: who may not decide it. `first`: the judgement that it asks for again. `hash` is the action's, `execute_by`
    the deadline, which no switch stops, `latest` how far it may move (null: it stays). `queue`: where it waits.
    `covered`: switches that held it when it was written. `source`: topic/partition/offset of the record that opened it.
    `given`: the approvals so far. `seen`: the `jti` of the verdicts that have counted.
    """

    item: str
    state: str
    purpose: str
    for_: str | None = msgspec.field(default=None, name="for")
    not_: tuple[str, ...] = msgspec.field(default=(), name="not")
    first: First | None = None
    hash: str
    queue: str
    opened: str
    execute_by: str
    latest: str | None = None
    covered: tuple[int, ...] = ()
    batch: str | None = None
    flagged: bool = False
    approvals: tuple[NeedRow, ...] = ()
    escalated: int = 0
    end: str | None = None
    source: str
    tier: int = 1
    floor_s: float = 0.0
    seen: tuple[str, ...] = ()
    given: tuple[GivenRow, ...] = ()
    opinions: tuple[OpinionRow, ...] = ()
    exception: str | None = None
    routed: Routed
    action: Raw = msgspec.field(default_factory=Raw)


class LotState(Struct, frozen=True, kw_only=True):
    """One batch on `reviews`, by its key `batch/<tenant>/<place>/<id>`. Its members are the items that name it.

    `wanted` is the size that its publisher says, `size` how many members its tree has. `people`: how many must sign its
    release, the most of any member; `approvals` the same with its clock, once it is complete. `drawn` are the items of
    the sample, `waiting` those of it, and flagged ones, that are not judged yet, `beside` the indexes of what came and
    is no member. `good` and `bad` count the judged sample, of which `accept` may be bad. `given` are the signed
    releases, `after` how many members of a released batch are written out: a large one takes several transactions.
    """

    lot: str
    state: str
    queue: str
    wanted: int
    size: int = 0
    opened: str
    close_at: str
    execute_by: str
    people: int = 1
    approvals: tuple[NeedRow, ...] = ()
    not_: tuple[str, ...] = msgspec.field(default=(), name="not")
    beside: tuple[int, ...] = ()
    flagged: int = 0
    waiting: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    root: str | None = None
    accept: int | None = None
    good: int = 0
    bad: int = 0
    escalated: int = 0
    seen: tuple[str, ...] = ()
    given: tuple[GivenRow, ...] = ()
    after: int = 0


class VerdictRecord(Struct, frozen=True):
    """A record on `verdicts`: the signed claims, and the card that was shown, whose digest they hold."""

    jws: str
    shown: str


class HumanDecision(Struct, frozen=True, kw_only=True):
    """One judgement on `decisions`, with the original bytes and what was shown. Key: `<item>/<n>`.

    `n` is the offset of its record on `verdicts`, `source` the whole place of that. `asked` is the head of the decision
    that asked, as it was sealed; null where nobody knows the item.
    """

    item: str
    n: int
    tenant: str = ""
    action_id: str = ""
    hash: str
    purpose: str | None = None
    queue: str | None = None
    by: str
    role: str
    verdict: str
    code: str | None = None
    errors: tuple[str, ...] = ()
    note: str | None = None
    effect: EffectName
    why: str | None = None
    routed: str | None = None
    painted: str
    decided: str
    appended: str
    latency_s: float | None = None
    source: str
    jws: str
    shown: str
    asked: str | None = None
    action: Raw = msgspec.field(default_factory=Raw)


class Observation(Struct, frozen=True, kw_only=True):
    """How one person judged one item: `observations` (key: reviewer), and `evidence` (key: gate) of audit copies.

    `gates` are those that look at it, whatever their state; `again`: somebody had approved the same item before, so
    that it is no output more. `planted` is the type of a canary's error, `caught` whether it was seen; `first` is whom
    and what a blind second judgement repeats. `verdict` is a word of `core.verdicts`, skip or lapse. A quiz that was
    passed is one, too (purpose quiz, verdict passed), of no item and no agent, for every queue.
    """

    item: str
    reviewer: str
    tenant: str
    queue: str
    class_: str = msgspec.field(name="class")
    agent: Agent | None = None
    purpose: str
    verdict: str
    code: str | None = None
    errors: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    again: bool = False
    planted: str | None = None
    caught: bool | None = None
    first: First | None = None
    shown_at: str
    decided_at: str
    dwell_s: float
    floor_s: float
    words: int
    assets: int
    score: float | None = None
    p: float | None = None
    policy: str


class DiffRow(Struct, frozen=True):
    """One field that a person changed."""

    path: str
    before: Any
    after: Value


class Feedback(Struct, frozen=True, kw_only=True):
    """What an agent can learn of a rejection or a change. Key as on `decisions`."""

    item: str
    tenant: str
    action_id: str
    agent: Agent
    verdict: str
    code: str | None = None
    errors: tuple[str, ...] = ()
    note: str | None = None
    diff: tuple[DiffRow, ...] = ()
    by: str
    at: str


class Preference(Struct, frozen=True, kw_only=True):
    """Which of two outputs a labeller preferred; null for both where neither was better."""

    pair: str
    tenant: str
    prompt: str
    chosen: str | None
    rejected: str | None
    choice: Literal["left", "right", "tie", "both_bad"]
    left: Literal["a", "b"]
    by: str
    at: str


class Opinion(Struct, frozen=True, kw_only=True):
    """On `opinions`: what an AI reviewer says of an action."""

    tenant: str
    action_id: str
    hash: str
    reviewer: str
    verdict: str
    confidence: float | None = None
    note: str | None = None


class Pair(Struct, frozen=True, kw_only=True):
    """On `pairs`: two outputs for one prompt, to be compared."""

    pair: str
    tenant: str
    account: str | None = None
    prompt: str
    a: str
    b: str


decode_review = msgspec.json.Decoder(ReviewState).decode
decode_lot = msgspec.json.Decoder(LotState).decode
decode_verdict_record = msgspec.json.Decoder(VerdictRecord).decode
decode_human_decision = msgspec.json.Decoder(HumanDecision).decode
decode_observation = msgspec.json.Decoder(Observation).decode
decode_feedback = msgspec.json.Decoder(Feedback).decode
decode_preference = msgspec.json.Decoder(Preference).decode
decode_opinion = msgspec.json.Decoder(Opinion).decode
decode_pair = msgspec.json.Decoder(Pair).decode

REVIEW = "review/1"
LOT = "lot/1"
HUMAN_DECISION = "human_decision/1"
OBSERVATION = "observation/1"
FEEDBACK = "feedback/1"
PREFERENCE = "preference/1"
WRITER = "hitl-seal is not a desk's, which alone writes to {}"
LOT_KEY = "batch/"
"""What the key of a batch on `reviews` begins with; no item id holds a slash."""


# --- items ------------------------------------------------------------------------------------------------------------


class Stored(Struct, frozen=True):
    """An item as it stands on `reviews`: the record, what it is to `core.review`, the router's decision, the action."""

    state: ReviewState
    review: Review
    decision: Held
    decoded: Decoded


def review_value(state: ReviewState, raw: bytes) -> bytes:
    """Return the value of an item; `raw`, the action's bytes, are its last member, untouched."""
    return encode(structs.replace(state, action=Raw(raw)))


def read_review(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    keys: Mapping[str, SealKey],
) -> Stored | Undecodable:
    """Read an item, sealed under one of the desk's `keys`. The router's seal inside is not looked at again."""
    fault = unsealed(topic, REVIEW, value, headers, keys, WRITER.format(topic))
    if fault is not None:
        return fault
    assert value is not None  # it has a seal
    if ACTION_MARK not in value:
        return Undecodable(ErrorClass.SCHEMA, "an item without an action")
    try:
        state = decode_review(value)
        review, decision = review_of(state), decision_of(state.routed, bytes(state.action))
    except (ValueError, OverflowError, RecursionError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))
    if key != state.item.encode():
        return Undecodable(ErrorClass.SEAL, f"key {key!r:.60}, expected that of the item, {state.item:.60}")
    decoded = decided_action(value, decision)
    if isinstance(decoded, Undecodable):
        return decoded
    if decoded.hash != state.hash:
        return Undecodable(ErrorClass.SEAL, "the item is about another action than the one inside")
    return Stored(state, review, decision, decoded)


def state_of(review: Review, *, source: str, routed: Routed, **beside: Any) -> ReviewState:
    """Return the record of an item, without its action's bytes.

    `source` is the place of the record that opened it, `beside` what `core.review` does not know of: covered, flagged,
    end, given, opinions, exception.
    """
    return ReviewState(source=source, routed=routed, **_shared(review), **beside)


def state_with(
    state: ReviewState, review: Review, end: str | None, covered: Sequence[int], **beside: Any
) -> ReviewState:
    """Return the record of an item that is `review` by now; what is not named here stays as it was."""
    return structs.replace(state, end=end, covered=tuple(covered), **_shared(review), **beside)


def review_of(state: ReviewState) -> Review:
    """Return what an item is to `core.review`; raise `ValueError` for words or times that are none."""
    return Review(
        item=state.item,
        purpose=Purpose(state.purpose),
        hash=state.hash,
        state=State(state.state),
        needs=tuple(_need(row) for row in state.approvals),
        barred=state.not_,
        for_=state.for_,
        opened_ms=ms_of(state.opened),
        execute_by_ms=ms_of(state.execute_by),
        latest_ms=None if state.latest is None else ms_of(state.latest),
        tier=state.tier,
        floor_ms=round(state.floor_s * 1000),
        batch=state.batch,
        escalated=state.escalated,
        seen=state.seen,
    )


def queue_of(review: Review) -> str:
    """Return the queue that an item waits in: that of its first missing approval, else of its last one."""
    missing = (need.queue for need in review.needs if not need.met)
    return next(missing, review.needs[-1].queue if review.needs else "")


def decision_of(routed: Routed, raw: bytes) -> Held:
    """Return the decision whose head was sealed; `raw` are its action's bytes. Raises `msgspec.DecodeError`.

    An exception has nobody who submitted it: of what people had approved before, the head says `by` whom.
    """
    value = routed.head.encode() + ACTION_MARK + raw + b"}"
    if _decode_purpose(value).purpose != Purpose.EXCEPTION:
        return decode_held(value)
    return unsubmitted(value)


def ms_of(text: str) -> int:
    """Return an RFC 3339 time as milliseconds since 1970; raise `ValueError` for what is none with an offset."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text!r:.60} has no offset from UTC")
    return milliseconds(time)


class _Purpose(Struct, frozen=True):
    purpose: str


_decode_purpose = msgspec.json.Decoder(_Purpose).decode


def _shared(review: Review) -> dict[str, Any]:
    """Return what the record of an item repeats of it."""
    return {
        "item": review.item,
        "state": review.state.value,
        "purpose": review.purpose.value,
        "for_": review.for_,
        "not_": review.barred,
        "hash": review.hash,
        "queue": queue_of(review),
        "opened": time_text(review.opened_ms),
        "execute_by": time_text(review.execute_by_ms),
        "latest": None if review.latest_ms is None else time_text(review.latest_ms),
        "batch": review.batch,
        "approvals": tuple(_row(need) for need in review.needs),
        "escalated": review.escalated,
        "tier": review.tier,
        "floor_s": review.floor_ms / 1000,
        "seen": review.seen,
    }


def _row(need: Need) -> NeedRow:
    return NeedRow(
        queue=need.queue,
        people=need.people,
        by=need.by,
        decide_by=time_text(need.decide_by_ms),
        escalate_at=None if need.escalate_ms is None else time_text(need.escalate_ms),
    )


def _need(row: NeedRow) -> Need:
    escalate_ms = None if row.escalate_at is None else ms_of(row.escalate_at)
    return Need(row.queue, row.people, ms_of(row.decide_by), escalate_ms, row.by)


# --- batches ----------------------------------------------------------------------------------------------------------


def lot_key(batch: str) -> bytes:
    """Return the key on `reviews` of a batch that is named `<tenant>/<place>/<id>`."""
    return (LOT_KEY + batch).encode()


def is_lot(key: bytes | None) -> bool:
    """Say whether a key on `reviews` is that of a batch, and not of an item."""
    return key is not None and key.startswith(LOT_KEY.encode())


def lot_value(lot: LotState) -> bytes:
    """Return the value of a batch, all of which is sealed."""
    return encode(lot)


def read_lot(
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    keys: Mapping[str, SealKey],
) -> LotState | Undecodable:
    """Read a batch, sealed under one of the desk's `keys`."""
    fault = unsealed(topic, LOT, value, headers, keys, WRITER.format(topic))
    if fault is not None:
        return fault
    assert value is not None  # it has a seal
    try:
        lot = decode_lot(value)
        lot_of(lot)
    except (ValueError, OverflowError, RecursionError) as error:
        return Undecodable(ErrorClass.SCHEMA, str(error))
    if key != lot_key(lot.lot):
        return Undecodable(ErrorClass.SEAL, f"key {key!r:.60}, expected that of the batch {lot.lot:.60}")
    return lot


def lot_state(lot: Lot, given: Sequence[GivenRow] = (), after: int = 0) -> LotState:
    """Return the record of a batch; its members are not in it, since their own records name it."""
    return LotState(
        lot=lot.key,
        state=lot.state.value,
        queue=lot.queue,
        wanted=lot.wanted,
        size=len(lot.members),
        opened=time_text(lot.opened_ms),
        close_at=time_text(lot.close_ms),
        execute_by=time_text(lot.execute_by_ms),
        people=lot.people,
        approvals=tuple(_row(need) for need in lot.needs),
        not_=lot.barred,
        beside=lot.beside,
        flagged=lot.flagged,
        waiting=lot.waiting,
        drawn=lot.drawn,
        root=lot.root,
        accept=lot.accept,
        good=lot.good,
        bad=lot.bad,
        escalated=lot.escalated,
        seen=lot.seen,
        given=tuple(given),
        after=after,
    )


def lot_of(state: LotState, members: Sequence[Member] = ()) -> Lot:
    """Return the batch that a record holds, with the members that name it, in order of index.

    Raises `ValueError` for words or times that are none.
    """
    return Lot(
        key=state.lot,
        queue=state.queue,
        wanted=state.wanted,
        opened_ms=ms_of(state.opened),
        close_ms=ms_of(state.close_at),
        state=Stage(state.state),
        members=tuple(members),
        beside=state.beside,
        flagged=state.flagged,
        waiting=state.waiting,
        people=state.people,
        barred=state.not_,
        execute_by_ms=ms_of(state.execute_by),
        root=state.root,
        accept=state.accept,
        drawn=state.drawn,
        good=state.good,
        bad=state.bad,
        needs=tuple(_need(row) for row in state.approvals),
        escalated=state.escalated,
        seen=state.seen,
    )
