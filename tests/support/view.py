"""Records as a desk, an executor or a router would have written them, for what is folded from them: the console's view.

Each gives a good one about action `act-1` of tenant `acme`; a test changes what it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Raw

from hitl_stream.console.fold import Keys, fold
from hitl_stream.console.store import Change, Partition
from hitl_stream.core.action import entity_of
from hitl_stream.core.events import Purpose
from hitl_stream.core.review import Need, Review, State
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import (
    HUMAN_DECISION,
    LOT,
    REVIEW,
    HumanDecision,
    LotState,
    lot_key,
    lot_value,
    review_value,
    state_of,
)
from hitl_stream.wire.records import (
    CLOSED,
    RESULT,
    Closed,
    Decision,
    Exceptional,
    ExceptionRow,
    ReasonRow,
    Result,
    Routed,
    ScoreRow,
    encode,
    head_of,
    time_text,
)
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, sealer
from support.make import DESK_KEY, NOW_MS, FakeRecord, action_bytes, iso

KEYS: Keys = {
    topic: {DESK_KEY.key_id: DESK_KEY} for topic in ("reviews", "decisions", "closed", "results")
}  # fmt: skip
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
SECRETS = ("purpose", "for", "not", "source", "act-secret")


def record(topic: str, kind: str, key: str, value: bytes, offset: int = 0, partition: int = 0) -> FakeRecord:
    """Return a sealed record of a topic of the table."""
    name = f"hitl.{topic}"
    seal = sealer(DESK_KEY, name, kind)(head_of(value))
    headers = [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, seal)]
    return FakeRecord(value, offset, partition, NOW_MS, name, key.encode(), headers)


def gone(key: str, offset: int = 0, topic: str = "reviews") -> FakeRecord:
    """Return the null that ends a key."""
    return FakeRecord(None, offset, 0, NOW_MS, f"hitl.{topic}", key.encode())


def decision(raw: bytes, score: float = 0.4, **parts: Any) -> Decision:
    """Return what a router made of an action."""
    decoded = decode_bytes(raw)
    assert isinstance(decoded, Decoded), decoded
    action = decoded.action
    reason = ReasonRow(rule="class.auto_max_change", saw="0.28", limit="0.10", outcome="REVIEW", queue="trading")
    shared: dict[str, Any] = {
        "id": "hitl.actions/0/1#0", "origin": "hitl.actions/0/1", "tenant": action.tenant,
        "action_id": action.action_id,
        "hash": decoded.hash, "type": action.type, "level": 3, "agent": action.agent,
        "entity": entity_of(action), "outcome": "REVIEW", "reasons": (reason,), "score": ScoreRow(score),
        "policy": "3c" * 32, "moment": iso(NOW_MS), "execute_by": iso(NOW_MS + HOUR_MS), "action": Raw(raw),
    }  # fmt: skip
    return Decision(**shared | parts)


def review(
    item: str = "i1",
    offset: int = 0,
    *,
    queues: Sequence[str] | Mapping[str, Sequence[str]] = ("trading",),
    state: State = State.OPEN,
    decide_by_ms: int = NOW_MS + HOUR_MS,
    purpose: Purpose = Purpose.DECIDE,
    for_: str | None = None,
    barred: tuple[str, ...] = (),
    score: float = 0.4,
    people: int = 2,
    partition: int = 0,
    opened_ms: int = NOW_MS,
    beside: Mapping[str, Any] | None = None,
    reasons: Sequence[ReasonRow] | None = None,
    **action: Any,
) -> FakeRecord:
    """Return an item's record on `reviews`. `queues`: which it waits for, or who has approved in each."""
    raw = action_bytes(**action)
    given_reasons = {} if reasons is None else {"reasons": tuple(reasons)}
    routed = decision(raw, score, purpose=purpose.value, for_=for_, **given_reasons)
    by = queues if isinstance(queues, Mapping) else dict.fromkeys(queues, ())
    needs = tuple(Need(queue, people, decide_by_ms, None, tuple(who)) for queue, who in by.items())
    found = Review(
        item=item, purpose=purpose, hash=routed.hash, state=state, needs=needs, barred=barred, for_=for_,
        opened_ms=opened_ms, execute_by_ms=NOW_MS + HOUR_MS,
    )  # fmt: skip
    head = head_of(encode(_exceptional(routed) if purpose is Purpose.EXCEPTION else routed)).decode()
    sealed = Routed(topic="hitl.review", head=head, seal="r1:x")
    given = state_of(found, source=f"hitl.review/0/{offset}", routed=sealed, **beside or {})
    return record("reviews", REVIEW, item, review_value(given, raw), offset, partition)


def lot(batch: str = "acme/acc-17/b-7", offset: int = 0, **parts: Any) -> FakeRecord:
    """Return a batch's record on `reviews`."""
    times = dict.fromkeys(("opened", "close_at", "execute_by"), iso(NOW_MS))
    fields = {"state": "GATHERING", "queue": "trading", "wanted": 3, **times}
    value = lot_value(LotState(lot=batch, **fields | parts))
    return record("reviews", LOT, lot_key(batch).decode(), value, offset)


def judged(item: str = "i1", offset: int = 0, at_ms: int = NOW_MS, **parts: Any) -> FakeRecord:
    """Return a judgement on `decisions`."""
    raw = action_bytes(**parts.pop("action", {}))
    decoded = decode_bytes(raw)
    assert isinstance(decoded, Decoded)
    fields: dict[str, Any] = {
        "item": item, "n": offset, "tenant": decoded.action.tenant, "action_id": decoded.action.action_id,
        "hash": decoded.hash, "purpose": "decide", "by": "ana", "role": "trader", "verdict": "approve",
        "effect": "applied", "painted": iso(NOW_MS), "decided": iso(NOW_MS), "appended": time_text(at_ms),
        "source": f"hitl.verdicts/0/{offset}", "jws": "j", "shown": "{}", "action": Raw(raw),
    }  # fmt: skip
    return record("decisions", HUMAN_DECISION, f"{item}/{offset}", encode(HumanDecision(**fields | parts)), offset)


def approval(
    number: int, offset: int | None = None, *, at_ms: int = NOW_MS - 2 * DAY_MS, by: str = "ben", **parts: Any
) -> FakeRecord:
    """Return on `decisions` that somebody approved action `old-<number>`, two days ago, with what had asked for it."""
    action = {"action_id": f"old-{number}", **parts.pop("action", {})}
    asked = head_of(encode(decision(action_bytes(**action)))).decode()
    fields = {"queue": "trading", "asked": asked, **parts}
    return judged(f"o{number}", number if offset is None else offset, at_ms, by=by, action=action, **fields)


def raised(item: str = "x1", offset: int = 0, text: str = "409: campaign ended", **parts: Any) -> FakeRecord:
    """Return an item on `reviews` of what an executor could not carry out."""
    why = ReasonRow(rule="exception.platform", saw=text, outcome="ESCALATE", queue="trading")
    return review(item, offset, purpose=Purpose.EXCEPTION, reasons=(why,), beside={"exception": "platform"}, **parts)


def _exceptional(routed: Decision) -> Exceptional:
    names = set(Exceptional.__struct_fields__) & set(Decision.__struct_fields__) - {"by"}
    text = next((row.saw for row in routed.reasons if row.rule.startswith("exception.")), "")
    return Exceptional(**{name: getattr(routed, name) for name in names}, exception=ExceptionRow("platform", text))


def flagged(item: str = "f1", offset: int = 0, flag: str = "brand_flag", **parts: Any) -> FakeRecord:
    """Return an item on `reviews` of what an agent flagged."""
    why = ReasonRow(rule=f"flag.{flag}", saw=flag, outcome="ESCALATE", queue="trading")
    return review(item, offset, reasons=(why,), flags=[flag], **parts)


def result(
    offset: int = 0,
    at_ms: int = NOW_MS,
    status: Literal["executed", "failed", "unresolved"] = "executed",
    present: Mapping[str, Any] | None = None,
    by: tuple[str, ...] = ("ana",),
    **action: Any,
) -> FakeRecord:
    """Return an action on `results`; `present` is what the executor had read before."""
    made = _shared(decision(action_bytes(**action)))
    value = encode(Result(**made, status=status, key="k", by=by, present=dict(present or {})))
    found = record("results", RESULT, "acme/acc-17", value, offset)
    found.timestamp = at_ms
    return found


def closed(offset: int = 0, at_ms: int = NOW_MS, **action: Any) -> FakeRecord:
    """Return a rejected action on `closed`."""
    made = _shared(decision(action_bytes(**action)))
    value = encode(Closed(**made, end="rejected", why="rejected", by=("ben",)))
    found = record("closed", CLOSED, "acme/acc-17", value, offset)
    found.timestamp = at_ms
    return found


def _shared(made: Decision) -> dict[str, Any]:
    names = set(Result.__struct_fields__) & set(Closed.__struct_fields__) & set(Decision.__struct_fields__)
    return {name: getattr(made, name) for name in names - {"by"}}


def folded(*records: FakeRecord) -> list[Change]:
    """Return what records change, by the product's own fold."""
    return [fold(one, one.topic.removeprefix("hitl."), KEYS) for one in records]


def ends(changes: Iterable[Change]) -> dict[Partition, int]:
    """Return how far the log was read with these changes."""
    return {(one.source.topic, one.source.partition): one.source.offset for one in changes}
