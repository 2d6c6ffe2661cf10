"""From a Kafka record to what it changes in the view."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.console.fold import TOPICS, fold, money_of, uncertainty
from hitl_stream.console.store import (
    MICROS,
    MONEY_MICROS_MAX,
    Change,
    ItemGone,
    ItemPut,
    LotGone,
    LotPut,
    Source,
    StoryPut,
    Unreadable,
    Waiting,
)
from hitl_stream.core.review import ENDS, State
from hitl_stream.wire.desk_records import OpinionRow
from support.make import NOW_MS, FakeRecord, change, make_action
from support.view import HOUR_MS, KEYS, closed, folded, gone, judged, lot, result, review


def one(record: FakeRecord) -> Change:
    (found,) = folded(record)
    return found


def test_an_open_item_waits_for_the_approvals_that_it_lacks():
    found = one(review("i7", 12, queues={"trading": ["ana", "ben"], "client": ["eva"]}, barred=("dana",)))

    assert isinstance(found, ItemPut)
    assert (found.source, found.item, found.tenant, found.action_id) == (
        Source("reviews", 0, 12), "i7", "acme", "act-1",
    )  # fmt: skip
    assert found.open
    assert not found.ended
    assert found.waiting == (Waiting("client", NOW_MS + HOUR_MS),)
    assert found.barred == ("ana", "ben", "dana", "eva")


@pytest.mark.parametrize("state", [state for state in State if state is not State.OPEN])
def test_nobody_is_asked_about_an_item_that_is_not_open(state: State):
    found = one(review(state=state))

    assert isinstance(found, ItemPut)
    assert (found.open, found.ended, found.waiting) == (False, state in ENDS, ())


def test_what_would_be_lost_is_the_score_times_the_money():
    found = one(review(score=0.5, changes=[change("100", "160.50")]))

    assert isinstance(found, ItemPut)
    assert (found.loss, found.money_micros, found.unit) == (30.25, 60_500_000, "EUR")


@pytest.mark.parametrize(
    ("legs", "money"),
    [
        ([change("1", "3")], "2"),
        ([change("3", "1")], "2"),
        ([change("10", "4", campaign="a"), change("10", "16", campaign="b")], "6"),
        ([change("1", "3"), change("5", "6")], "3"),
        ([change("1", "3"), change("1", "9", unit="USD")], "2"),
        ([change("1", "3", unit=None)], "0"),
        ([change("1", "3", unit="clicks")], "0"),
        ([change("1", "3", unit="ΕUR")], "0"),
        ([change("old", "new")], "0"),
        ([change(None, "3")], "0"),
    ],
)
def test_money_that_goes_from_one_place_to_another_counts_once(legs: list[dict[str, object]], money: str):
    assert money_of(make_action(changes=legs))[0] == Decimal(money)


def test_an_absurd_amount_does_not_break_the_sum_of_a_queue():
    found = one(review(changes=[change("0", "9" * 30)]))

    assert isinstance(found, ItemPut)
    assert found.money_micros == MONEY_MICROS_MAX
    assert found.money_micros * 10_000 < 2**63


def test_micros_are_exact_for_a_cent():
    found = one(review(changes=[change("0", "0.01")]))

    assert isinstance(found, ItemPut)
    assert found.money_micros == MICROS // 100


def opinion(verdict: str, confidence: float | None) -> OpinionRow:
    return OpinionRow(reviewer="m", verdict=verdict, confidence=confidence)


@pytest.mark.parametrize(
    ("score", "opinions", "expected"),
    [
        (0.5, [], 1.0),
        (0.0, [], 0.0),
        (1.0, [], 0.0),
        (0.25, [], 0.5),
        (0.0, [opinion("reject", 1.0)], 1.0),
        (0.0, [opinion("approve", 1.0)], 0.0),
        (1.0, [opinion("reject", 1.0), opinion("change", 1.0)], 0.0),
        (0.0, [opinion("approve", None)], 0.5),
        (0.0, [opinion("reject", 7.0)], 1.0),
    ],
)
def test_an_item_is_uncertain_where_score_and_opinions_meet_in_the_middle(
    score: float, opinions: list[OpinionRow], expected: float
):
    assert uncertainty(score, opinions) == pytest.approx(expected)


def test_a_batch_is_known_by_its_key():
    found = one(lot("acme/acc-17/b-7", 3, queue="social"))

    assert isinstance(found, LotPut)
    assert (found.lot, found.tenant, found.queue) == ("acme/acc-17/b-7", "acme", "social")


def test_a_null_ends_an_item_or_a_batch():
    assert one(gone("i7", 4)) == ItemGone(Source("reviews", 0, 4), "i7")
    assert one(gone("batch/acme/acc-17/b-7", 5)) == LotGone(Source("reviews", 0, 5), "acme/acc-17/b-7")


@pytest.mark.parametrize(
    ("record", "kind", "by"),
    [(judged(by="eva"), "decision", ("eva",)), (closed(), "closed", ("ben",)), (result(), "result", ("ana",))],
)
def test_what_became_of_an_action_belongs_to_its_story(record: FakeRecord, kind: str, by: tuple[str, ...]):
    found = one(record)

    assert isinstance(found, StoryPut)
    assert (found.kind, found.tenant, found.action_id, found.by) == (kind, "acme", "act-1", by)
    assert (found.account, found.campaign, found.at_ms) == ("acc-17", "cmp-204", NOW_MS)
    assert found.value == record.value


@pytest.mark.parametrize("record", [review(), lot(), judged(), closed(), result()], ids=lambda record: record.topic)
def test_a_record_without_a_good_seal_is_shown_to_nobody(record: FakeRecord):
    topic = record.topic.removeprefix("hitl.")
    assert not isinstance(fold(record, topic, KEYS), Unreadable)

    assert isinstance(fold(record, topic, {}), Unreadable)
    record.value = (record.value or b"").replace(b"acme", b"acne", 1)
    assert isinstance(fold(record, topic, KEYS), Unreadable)


@given(st.sampled_from(TOPICS), st.none() | st.binary(max_size=40), st.none() | st.binary(max_size=200))
def test_nothing_raises_on_any_bytes(topic: str, key: bytes | None, value: bytes | None):
    fold(FakeRecord(value, key=key, topic=f"hitl.{topic}"), topic, KEYS)


@given(st.sampled_from([review(), lot(), judged(), closed(), result()]), st.data())
def test_nothing_raises_on_a_record_that_was_cut(record: FakeRecord, data: st.DataObject):
    value = record.value or b""
    cut = data.draw(st.integers(0, len(value)))

    found = fold(
        FakeRecord(value[:cut], key=record.key, topic=record.topic, headers=record.headers),
        record.topic.removeprefix("hitl."),
        KEYS,
    )

    assert cut == len(value) or isinstance(found, Unreadable | ItemGone | LotGone)
