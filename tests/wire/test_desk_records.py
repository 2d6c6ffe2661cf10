"""What the desk writes of an item is what it reads back: to the millisecond, with the very bytes, and only its own."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hitl_stream.core.batch import Lot, Member, Stage
from hitl_stream.core.events import ErrorClass, Purpose
from hitl_stream.core.review import Need, Review, State
from hitl_stream.wire import desk_records
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.desk_records import (
    LOT,
    LOT_KEY,
    REVIEW,
    GivenRow,
    LotState,
    OpinionRow,
    ReviewState,
    Stored,
    decision_of,
    is_lot,
    lot_key,
    lot_of,
    lot_state,
    lot_value,
    ms_of,
    queue_of,
    read_lot,
    read_review,
    review_of,
    review_value,
    state_of,
    state_with,
)
from hitl_stream.wire.executed import exceptional_value
from hitl_stream.wire.records import Routed, decode_held, head_of, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from support.make import DESK_KEY, NOW_MS, SEAL_KEY
from support.people import Case

REVIEWS = "hitl.reviews"
KEYS = {DESK_KEY.key_id: DESK_KEY}
OTHER_KEY = SealKey("d1", b"\x09" * 32)
CASE = Case(parts={"context": {"price": 1.2000, "note": "⚠️ \u2028"}})
ITEM = "r7k2m4qabcdefghi"
LOT_STATE = LotState(
    lot="acme/acc-17/b-7", state="GATHERING", queue="brand", wanted=20, opened=time_text(NOW_MS),
    close_at=time_text(NOW_MS + 86_400_000), execute_by=time_text(NOW_MS + 172_800_000), waiting=(ITEM,),
)  # fmt: skip


def make_review(**parts: Any) -> Review:
    needs = (Need("trading", 1, NOW_MS + 900_000, NOW_MS + 450_000),)
    whole = {"item": ITEM, "purpose": Purpose.DECIDE, "hash": CASE.hash, "state": State.OPEN, "needs": needs,
             "opened_ms": NOW_MS, "execute_by_ms": NOW_MS + 1_800_000}  # fmt: skip
    return Review(**whole | parts)


def make_state(review: Review | None = None, **beside: Any) -> ReviewState:
    source = beside.pop("source", "hitl.review/3/512")
    return state_of(review or make_review(), source=source, routed=beside.pop("routed", CASE.routed), **beside)


def headers_of(value: bytes, kind: str = REVIEW, key: SealKey = DESK_KEY) -> list[tuple[str, bytes]]:
    return [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, sealer(key, REVIEWS, kind)(head_of(value)))]


def read(value: bytes | None, key: bytes | None = ITEM.encode(), **others: Any) -> Stored | Undecodable:
    headers = others.pop("headers", None)
    return read_review(REVIEWS, key, value, headers_of(value or b"") if headers is None else headers, KEYS)


def stored(value: bytes, key: bytes = ITEM.encode()) -> Stored:
    found = read(value, key)
    assert isinstance(found, Stored), found
    return found


VALUE = review_value(make_state(), CASE.raw)

# --- there and back ---------------------------------------------------------------------------------------------------

_names = st.text(min_size=1, max_size=12)
_times = st.integers(0, 253_402_300_799_999)
_needs = st.builds(
    Need,
    queue=_names,
    people=st.integers(1, 2),
    decide_by_ms=_times,
    escalate_ms=st.none() | _times,
    by=st.lists(_names, max_size=2).map(tuple),
)
_reviews = st.builds(
    Review,
    item=_names,
    purpose=st.sampled_from(Purpose),
    hash=st.just(CASE.hash),
    state=st.sampled_from(State),
    needs=st.lists(_needs, max_size=3).map(tuple),
    barred=st.lists(_names, max_size=3).map(tuple),
    for_=st.none() | _names,
    opened_ms=_times,
    execute_by_ms=_times,
    latest_ms=st.none() | _times,
    tier=st.integers(1, 3),
    floor_ms=st.integers(0, 10_000_000),
    batch=st.none() | _names,
    escalated=st.integers(0, 16),
    seen=st.lists(_names, max_size=3).map(tuple),
)


@given(_reviews)
@example(make_review(floor_ms=1_001))  # in seconds, a float that lies below it
def test_an_item_that_is_read_is_the_item_that_was_written(review: Review) -> None:
    state = make_state(review)
    value = review_value(state, CASE.raw)
    found = stored(value, review.item.encode())

    assert found.review == review
    assert review_of(found.state) == review
    assert msgspec.structs.replace(found.state, action=state.action) == state
    assert found.decoded.raw == CASE.raw


def test_every_member_of_an_item_is_tried_above() -> None:
    """A member that the lifecycle gets later must come to the record, or the desk forgets it at its next start."""
    tried = {"item", "purpose", "hash", "state", "needs", "barred", "for_", "opened_ms", "execute_by_ms",
             "latest_ms", "tier", "floor_ms", "batch", "escalated", "seen"}  # fmt: skip

    assert set(Review.__struct_fields__) == tried
    assert set(Need.__struct_fields__) == {"queue", "people", "decide_by_ms", "escalate_ms", "by"}


def test_what_only_the_desk_knows_is_kept_too() -> None:
    state = make_state(
        covered=(3, 8),
        flagged=True,
        end="rejected",
        given=(GivenRow("a.b.c", time_text(NOW_MS)),),
        opinions=(OpinionRow(reviewer="r-1", verdict="approve", confidence=0.9),),
        exception="platform",
    )

    found = stored(review_value(state, CASE.raw)).state
    assert msgspec.structs.replace(found, action=state.action) == state


def test_an_item_that_changed_keeps_what_nobody_named() -> None:
    first = make_state(given=(GivenRow("a.b.c", time_text(NOW_MS)),), exception="platform")
    ended = make_review(state=State.EXPIRED, seen=("v-1",))

    second = state_with(first, ended, "expired", [4])
    assert (second.state, second.end, second.covered, second.seen) == ("EXPIRED", "expired", (4,), ("v-1",))
    assert (second.given, second.exception, second.routed, second.source) == (
        first.given, first.exception, first.routed, first.source,
    )  # fmt: skip
    assert review_of(second) == ended
    assert state_with(first, ended, None, [], flagged=True).flagged


def test_the_actions_bytes_are_the_last_member_and_the_routers_head_is_untouched() -> None:
    assert VALUE.endswith(b',"action":' + CASE.raw + b"}")
    assert stored(VALUE).state.routed == CASE.routed
    assert stored(VALUE).decision == decode_held(CASE.asked.value or b"")


def test_the_record_is_as_the_specification_has_it() -> None:
    members = json.loads(VALUE)

    assert {"item", "state", "purpose", "for", "not", "queue", "opened", "covered", "batch", "approvals", "escalated",
            "end", "source", "routed", "action"} < set(members)  # fmt: skip
    assert members["approvals"] == [
        {"queue": "trading", "people": 1, "by": [], "decide_by": "2026-11-21T07:25:00.140Z",
         "escalate_at": "2026-11-21T07:17:30.140Z"}
    ]  # fmt: skip
    assert (members["state"], members["purpose"], members["queue"]) == ("OPEN", "decide", "trading")


@pytest.mark.parametrize(
    ("needs", "queue"),
    [
        ((Need("trading", 1, 0), Need("client", 1, 0)), "trading"),
        ((Need("trading", 1, 0, by=("tess",)), Need("client", 1, 0)), "client"),
        ((Need("trading", 2, 0, by=("tess",)), Need("client", 1, 0)), "trading"),
        ((Need("trading", 1, 0, by=("tess",)), Need("client", 1, 0, by=("carl",))), "client"),
        ((), ""),
    ],
)
def test_an_item_waits_in_the_queue_of_its_first_missing_approval(needs: tuple[Need, ...], queue: str) -> None:
    assert queue_of(make_review(needs=needs)) == queue
    assert make_state(make_review(needs=needs)).queue == queue


# --- only the desk's own ----------------------------------------------------------------------------------------------


def test_any_byte_flipped_anywhere_is_refused() -> None:
    headers = headers_of(VALUE)
    for place, byte in enumerate(VALUE):
        for other in {byte ^ 1, byte ^ 0x80, 0x20} - {byte}:
            found = read(VALUE[:place] + bytes([other]) + VALUE[place + 1 :], headers=headers)
            assert isinstance(found, Undecodable), place


@pytest.mark.parametrize(
    ("value", "headers", "error"),
    [
        (None, [], ErrorClass.EMPTY),
        (b"", [], ErrorClass.EMPTY),
        (VALUE, [], ErrorClass.UNKNOWN_TYPE),
        (VALUE, [(TYPE_HEADER, b"review/2")], ErrorClass.UNKNOWN_TYPE),
        (VALUE, headers_of(VALUE, LOT), ErrorClass.UNKNOWN_TYPE),
        (VALUE, [(TYPE_HEADER, b"review/1")], ErrorClass.SEAL),
        (VALUE, headers_of(VALUE, key=OTHER_KEY), ErrorClass.SEAL),
        (VALUE, headers_of(VALUE, key=SEAL_KEY), ErrorClass.SEAL),
        (head_of(VALUE) + b"}", None, ErrorClass.SCHEMA),
        (VALUE[:-1], None, ErrorClass.SCHEMA),
        (VALUE + b" ", None, ErrorClass.SCHEMA),
        (VALUE[:-1] + b',"state":"APPROVED"}', None, ErrorClass.SCHEMA),
        (b'{"item":' + b"[" * 100_000 + b',"action":{}}', None, ErrorClass.SCHEMA),
        (b'{"item":"\xff","action":{}}', None, ErrorClass.SCHEMA),
        (b"x", None, ErrorClass.SCHEMA),
    ],
    ids=lambda part: repr(part)[:50],
)
def test_what_is_no_item_of_the_desks_is_none(value: bytes | None, headers: Any, error: ErrorClass) -> None:
    found = read(value, headers=headers)

    assert isinstance(found, Undecodable)
    assert found.error is error


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"state": "WON"}, ErrorClass.SCHEMA),
        ({"purpose": "fun"}, ErrorClass.SCHEMA),
        ({"opened": "yesterday"}, ErrorClass.SCHEMA),
        ({"opened": "2026-11-21T07:10:00"}, ErrorClass.SCHEMA),
        ({"execute_by": ""}, ErrorClass.SCHEMA),
        ({"approvals": [{"queue": "q", "people": 1, "decide_by": "x"}]}, ErrorClass.SCHEMA),
        ({"approvals": [{"queue": "q", "people": 1, "decide_by": "2026-11-21T07:10:00Z", "escalate_at": "x"}]},
         ErrorClass.SCHEMA),
        ({"floor_s": 1e400}, ErrorClass.SCHEMA),
        ({"routed": {"topic": "hitl.review", "head": "{", "seal": ""}}, ErrorClass.SCHEMA),
        ({"routed": {"topic": "hitl.review", "head": "", "seal": ""}}, ErrorClass.SCHEMA),
        ({"hash": "0" * 64}, ErrorClass.SEAL),
        ({"item": "another"}, ErrorClass.SEAL),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_desk_itself_could_not_have_written_is_found(members: dict[str, Any], error: ErrorClass) -> None:
    head = head_of(VALUE)
    changed = json.dumps(json.loads(head + b"}") | members).encode()[:-1]
    found = read(changed + VALUE[len(head) :])

    assert isinstance(found, Undecodable)
    assert found.error is error


@pytest.mark.parametrize("key", [None, b"", b"another", ITEM.encode() + b"+2", b"\xff"])
def test_an_item_under_another_key_is_refused(key: bytes | None) -> None:
    """Compaction keeps the newest of each key: a good record under a foreign one would take another item's place."""
    found = read(VALUE, key)

    assert isinstance(found, Undecodable)
    assert found.error is ErrorClass.SEAL


def test_a_head_about_another_action_is_refused() -> None:
    other = Case()
    state = make_state(routed=other.routed)

    assert isinstance(read(review_value(state, CASE.raw)), Undecodable)


def test_an_exceptions_head_is_read_though_people_stand_in_it() -> None:
    """`by` is a list there: who had approved what then failed. None of them proposed it."""
    decision = decode_held(CASE.asked.value or b"")
    value = exceptional_value(decision, CASE.raw, "the budget is frozen", "trading", NOW_MS + 60_000)
    asked = json.loads(head_of(value) + b"}") | {"by": ["tess"]}
    head = msgspec.json.encode(asked)[:-1].decode()
    routed = Routed(topic="hitl.escalation", head=head, seal="e1:x")
    state = make_state(make_review(purpose=Purpose.EXCEPTION), routed=routed, exception="platform")

    found = stored(review_value(state, CASE.raw))
    assert (found.decision.purpose, found.decision.by, found.decision.hash) == ("exception", None, CASE.hash)
    assert decision_of(routed, CASE.raw) == found.decision


# --- batches ----------------------------------------------------------------------------------------------------------


def lot(value: bytes | None, key: bytes | None = None, headers: Any = None) -> LotState | Undecodable:
    key = lot_key(LOT_STATE.lot) if key is None else key
    return read_lot(REVIEWS, key, value, headers_of(value or b"", LOT) if headers is None else headers, KEYS)


def test_a_batch_that_is_read_is_the_batch_that_was_written() -> None:
    assert lot(lot_value(LOT_STATE)) == LOT_STATE


_members = st.builds(Member, index=st.integers(0, 9), item=_names, hash=st.just(CASE.hash))
_several = st.lists(_names, max_size=3).map(tuple)
LOT_PARTS: dict[str, st.SearchStrategy[Any]] = {
    "key": _names,
    "queue": _names,
    "wanted": st.integers(1, 10_000),
    "opened_ms": _times,
    "close_ms": _times,
    "state": st.sampled_from(Stage),
    "members": st.lists(_members, max_size=3).map(tuple),
    "beside": st.lists(st.integers(0, 9_999), max_size=3).map(tuple),
    "flagged": st.integers(0, 10_000),
    "waiting": _several,
    "people": st.integers(1, 2),
    "barred": _several,
    "execute_by_ms": _times,
    "root": st.none() | st.just("3c" * 32),
    "accept": st.none() | st.integers(0, 21),
    "drawn": _several,
    "good": st.integers(0, 500),
    "bad": st.integers(0, 500),
    "needs": st.lists(_needs, max_size=2).map(tuple),
    "escalated": st.integers(0, 16),
    "seen": _several,
}


@given(st.data())
def test_a_batch_that_is_restored_is_the_batch_that_was_kept(data: st.DataObject) -> None:
    parts: dict[str, Any] = {name: data.draw(strategy) for name, strategy in LOT_PARTS.items()}
    whole = Lot(**parts)

    state = lot_state(whole, given=(GivenRow("a.b.c", time_text(NOW_MS)),), after=3)
    found = lot(lot_value(state), lot_key(whole.key))
    assert found == state
    assert isinstance(found, LotState)
    assert lot_of(found, whole.members) == whole
    assert (found.given, found.after) == ((GivenRow("a.b.c", time_text(NOW_MS)),), 3)


def test_every_member_of_a_batch_is_tried_above() -> None:
    assert set(LOT_PARTS) == set(Lot.__struct_fields__)


def test_a_batch_of_ten_thousand_fits_into_one_record() -> None:
    items = tuple(f"{n:016d}" for n in range(10_000))
    value = lot_value(msgspec.structs.replace(LOT_STATE, waiting=items, drawn=items))

    assert len(value) < 512 * 1024


def test_keys_tell_batches_from_items() -> None:
    assert is_lot(lot_key("acme/acc-17/b-7"))
    assert lot_key("acme/acc-17/b-7") == b"batch/acme/acc-17/b-7"
    assert not any(map(is_lot, [None, b"", ITEM.encode(), b"batch"]))
    assert LOT_KEY not in ITEM


@pytest.mark.parametrize("flip", [1, 0x80])
def test_any_byte_flipped_in_a_batch_is_refused(flip: int) -> None:
    value = lot_value(LOT_STATE)
    headers = headers_of(value, LOT)
    for place, byte in enumerate(value):
        assert isinstance(lot(value[:place] + bytes([byte ^ flip]) + value[place + 1 :], headers=headers), Undecodable)


@pytest.mark.parametrize(
    ("value", "key", "kind"),
    [
        (b"", None, LOT),
        (lot_value(LOT_STATE), None, REVIEW),
        (lot_value(LOT_STATE), b"batch/acme/acc-17/b-8", LOT),
        (lot_value(LOT_STATE), b"acme/acc-17/b-7", LOT),
        (lot_value(LOT_STATE) + b',"action":{}}', None, LOT),
        (b"{}", None, LOT),
        (b"[" * 100_000, None, LOT),
        (lot_value(LOT_STATE).replace(b"GATHERING", b"ASLEEP"), None, LOT),
        (lot_value(LOT_STATE).replace(b'"close_at":"2026', b'"close_at":"soon'), None, LOT),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_what_is_no_batch_of_the_desks_is_none(value: bytes, key: bytes | None, kind: str) -> None:
    assert isinstance(lot(value, key, headers_of(value, kind)), Undecodable)


# --- any bytes --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_no_bytes_at_all_raise(value: bytes) -> None:
    assert isinstance(read(value), Undecodable)
    assert isinstance(lot(value), Undecodable)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_MEMBERS = [member.encode_name for member in msgspec.structs.fields(ReviewState) if member.name != "action"]


@given(st.dictionaries(st.sampled_from(_MEMBERS), _JSON, min_size=1, max_size=3))
def test_no_member_of_any_kind_raises(members: dict[str, Any]) -> None:
    head = head_of(VALUE)
    changed = msgspec.json.encode(json.loads(head + b"}") | members)[:-1]

    assert isinstance(read(changed + VALUE[len(head) :]), Undecodable | Stored)


@given(_times)
def test_a_time_as_text_is_the_same_time(ms: int) -> None:
    assert ms_of(time_text(ms)) == ms


@pytest.mark.parametrize("name", [name for name in dir(desk_records) if name.startswith("decode_")])
def test_each_record_has_a_decoder_that_refuses_what_is_none(name: str) -> None:
    with pytest.raises(ValueError):
        getattr(desk_records, name)(b"[]")
