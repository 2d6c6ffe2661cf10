"""From a Kafka record to what it changes in the view: `reviews`, `decisions`, `closed` and `results`.

Pure, and nothing raises on any input: what cannot be read is `Unreadable`. A record whose seal is not that of a role
which may write to its topic is not shown to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, DecimalException

import msgspec

from hitl_stream.console.store import (
    MICROS,
    MONEY_MICROS_MAX,
    Change,
    ItemGone,
    ItemPut,
    LotGone,
    LotPut,
    Source,
    StoryKind,
    StoryPut,
    Unreadable,
    Waiting,
)
from hitl_stream.core.action import Action, Entity, entity_of
from hitl_stream.core.quantity import EXACT, UndefinedError, as_decimal
from hitl_stream.core.review import State
from hitl_stream.lane.step import Record
from hitl_stream.wire.codec import Decoded, Undecodable, decode_bytes
from hitl_stream.wire.desk_records import (
    HUMAN_DECISION,
    LOT_KEY,
    HumanDecision,
    LotState,
    OpinionRow,
    Stored,
    decode_human_decision,
    is_lot,
    ms_of,
    read_lot,
    read_review,
)
from hitl_stream.wire.records import CLOSED, RESULT, Closed, Result, decode_closed, decode_result, head_of, header
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed

TOPICS = ("reviews", "decisions", "closed", "results")
"""What the view is folded from."""
CURRENCY_LETTERS = 3
FLAG, ETHICAL = "flag.", "ethical"
"""Rules that send an action to the queue of an exception type; the type of the former stands behind the dot."""
NO_DOUBT_KNOWN = 0.5
"""An opinion without a confidence says nothing."""

Keys = Mapping[str, Mapping[str, SealKey]]
"""Which seals are good, by topic of the table and key id."""


def fold(record: Record, topic: str, keys: Keys) -> Change:
    """Return what one record changes. `topic` is its topic's name in the table of topics."""
    source = Source(topic, record.partition, record.offset)
    try:
        if topic == "reviews":
            return _review(record, source, keys)
        return _STORIES[topic](record, source, keys)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        return Unreadable(source, f"{type(error).__name__}: {error}"[:500])


def _sealed(record: Record, source: Source, keys: Keys, kind: str) -> bytes:
    """Return the value of a record of that type under a good seal; raise `ValueError` for any other."""
    found = header(record.headers, TYPE_HEADER)
    if found != kind.encode():
        raise ValueError(f"hitl-type is {found!r:.60}, expected {kind}")
    value = record.value or b""
    seal = header(record.headers, SEAL_HEADER) or b""
    if not sealed(keys.get(source.topic, {}), record.topic, kind, head_of(value), seal):
        raise ValueError(f"hitl-seal is not that of a role which may write to {source.topic}")
    return value


# --- reviews ----------------------------------------------------------------------------------------------------------


def _review(record: Record, source: Source, keys: Keys) -> Change:
    own = keys.get(source.topic, {})
    if not record.value:
        key = (record.key or b"").decode()
        return LotGone(source, key.removeprefix(LOT_KEY)) if is_lot(record.key) else ItemGone(source, key)
    if is_lot(record.key):
        lot = read_lot(record.topic, record.key, record.value, record.headers, own)
        return Unreadable(source, lot.why) if isinstance(lot, Undecodable) else _lot(lot, source, record.value)
    stored = read_review(record.topic, record.key, record.value, record.headers, own)
    return Unreadable(source, stored.why) if isinstance(stored, Undecodable) else _item(stored, source, record.value)


def _item(stored: Stored, source: Source, value: bytes) -> ItemPut:
    review, decision = stored.review, stored.decision
    money, unit = money_of(stored.decoded.action)
    total = decision.score.total if decision.score is not None else 0.0
    is_open = review.state is State.OPEN
    missing = tuple(Waiting(need.queue, need.decide_by_ms) for need in review.needs if not need.met)
    return ItemPut(
        source=source,
        item=review.item,
        tenant=decision.tenant,
        action_id=decision.action_id,
        open=is_open,
        ended=review.ended,
        waiting=missing if is_open else (),
        barred=tuple(sorted({*review.barred, *review.by})),
        for_person=review.for_,
        opened_ms=review.opened_ms,
        loss=total * float(money),
        uncertainty=uncertainty(total, stored.state.opinions),
        money_micros=int(min(money * MICROS, Decimal(MONEY_MICROS_MAX))),
        unit=unit,
        value=value,
        kinds=kinds_of(stored),
        raised=stored.state.exception is not None,
    )


def kinds_of(stored: Stored) -> tuple[str, ...]:
    """Return the exception types that an item was sent to people for, by the rules that sent it."""
    rules = {row.rule for row in stored.decision.reasons if row.counts}
    flagged = {rule.removeprefix(FLAG) for rule in rules if rule.startswith(FLAG)} | (rules & {ETHICAL})
    raised = {stored.state.exception} if stored.state.exception is not None else set()
    return tuple(sorted(flagged | raised))


def _lot(lot: LotState, source: Source, value: bytes) -> LotPut:
    tenant = lot.lot.partition("/")[0]
    return LotPut(source=source, lot=lot.lot, tenant=tenant, queue=lot.queue, opened_ms=ms_of(lot.opened), value=value)


def uncertainty(score: float, opinions: Sequence[OpinionRow] = ()) -> float:
    """Return how close it is to a coin toss whether an item is wrong: 1 at a half, 0 where all are sure.

    What is known of it is the mean of its score and of what each AI reviewer says.

    >>> uncertainty(0.5), uncertainty(0.0), uncertainty(1.0)
    (1.0, 0.0, 0.0)
    """
    wrong = [score, *(_wrong(one) for one in opinions)]
    return 1.0 - abs(2.0 * sum(wrong) / len(wrong) - 1.0)


def _wrong(opinion: OpinionRow) -> float:
    sure = NO_DOUBT_KNOWN if opinion.confidence is None else min(max(opinion.confidence, 0.0), 1.0)
    return 1.0 - sure if opinion.verdict == "approve" else sure


def money_of(action: Action | None) -> tuple[Decimal, str]:
    """Return how much money an action moves, in the first currency that it names; nothing where it names none.

    Of a move between two places, what one gives is what the other takes: it counts once.
    """
    ups, downs, unit = Decimal(0), Decimal(0), ""
    for change in action.changes if action is not None else ():
        found = change.unit or ""
        if not _is_currency(found) or (unit and found != unit):
            continue
        try:
            delta = EXACT.subtract(as_decimal(change.after, "after"), as_decimal(change.before, "before"))
            ups, downs = EXACT.add(ups, max(delta, Decimal(0))), EXACT.add(downs, max(-delta, Decimal(0)))
        except (UndefinedError, DecimalException):
            continue  # what cannot be measured goes to a person for just that, and has no sum
        unit = found
    return max(ups, downs), unit


def _is_currency(unit: str) -> bool:
    return len(unit) == CURRENCY_LETTERS and unit.isascii() and unit.isupper() and unit.isalpha()


# --- what became of an action -----------------------------------------------------------------------------------------


def _decision(record: Record, source: Source, keys: Keys) -> Change:
    if not record.value:
        return Unreadable(source, "a decision past its retention")
    value = _sealed(record, source, keys, HUMAN_DECISION)
    one = decode_human_decision(value)
    decoded = decode_bytes(bytes(one.action))
    entity = entity_of(decoded.action) if isinstance(decoded, Decoded) else None
    return _story(source, "decision", one, (one.by,), entity, one.appended, value)


def _closed(record: Record, source: Source, keys: Keys) -> Change:
    value = _sealed(record, source, keys, CLOSED)
    one = decode_closed(value)
    return _story(source, "closed", one, one.by, one.entity, record.timestamp, value)


def _result(record: Record, source: Source, keys: Keys) -> Change:
    value = _sealed(record, source, keys, RESULT)
    one = decode_result(value)
    return _story(source, "result", one, one.by, one.entity, record.timestamp, value)


def _story(
    source: Source,
    kind: StoryKind,
    one: HumanDecision | Closed | Result,
    by: tuple[str, ...],
    entity: Entity | None,
    at: str | int,
    value: bytes,
) -> StoryPut:
    return StoryPut(
        source=source,
        kind=kind,
        tenant=one.tenant,
        action_id=one.action_id,
        by=by,
        account=entity.account if entity is not None else None,
        campaign=entity.campaign if entity is not None else None,
        at_ms=ms_of(at) if isinstance(at, str) else at,
        value=value,
    )


_STORIES: Mapping[str, Callable[[Record, Source, Keys], Change]] = {
    "decisions": _decision,
    "closed": _closed,
    "results": _result,
}
