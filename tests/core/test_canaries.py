"""Canaries: what they are made from, and that nothing of them can run or be passed over."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from decimal import Decimal

import pytest

from hitl_stream.core.canaries import AGE_MS_MIN, FAR, LIBRARY, Judged, chosen, may_become, planted, ways
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Effect, Purpose
from support.make import NOW_MS, action_bytes, change, first_line, iso, make_action

NOW = iso(NOW_MS)
LATER = iso(NOW_MS + 5 * 86_400_000)
APPROVED = Judged("ana", Purpose.DECIDE, "approve", Effect.APPLIED, NOW_MS - AGE_MS_MIN)


def test_the_library_has_forty_mutations_of_several_kinds_each_by_one_name():
    assert len({mutation.name for mutation in LIBRARY}) == len(LIBRARY) >= 40
    assert min(Counter(mutation.error for mutation in LIBRARY).values()) >= 5
    assert {mutation.error for mutation in LIBRARY} == {"limit", "factual", "tone", "compliance", "other"}


@pytest.mark.parametrize(
    ("before", "after"), [("1.20", "1.30"), (1.2, 1.3), (100, 72), ("100", "72"), ("0.00", "5.00")]
)
def test_a_spoilt_number_is_far_from_all_that_stood_there_and_written_as_that_was(before: object, after: object):
    action = make_action(changes=[change(before, after)])
    found = ways(action)

    assert len(found) >= 8
    for mutation, edit in found:
        worse = Decimal(str(edit.value))
        assert isinstance(edit.value, str) is isinstance(after, str)
        assert worse <= 0 or all(
            worse >= FAR * value or FAR * worse <= value for value in (Decimal(str(before)), Decimal(str(after)))
        ), mutation.name  # fmt: skip
        assert edit.value != after


@pytest.mark.parametrize(
    ("before", "after"), [(True, False), ("Old headline", "New headline"), ("0", "0"), (None, "1")]
)
def test_what_is_no_number_is_spoilt_by_no_factor(before: object, after: object):
    action = make_action(changes=[change(before, after)])

    assert ways(action) == ()
    assert chosen(action, 7) is None


def test_a_text_is_spoilt_in_every_way_of_the_library_and_each_reads_otherwise():
    action = make_action(**first_line())
    texts = [edit.value for _, edit in ways(action)]

    assert len(set(texts)) == sum(mutation.of_text for mutation in LIBRARY)
    assert ways(make_action(**first_line("Too short"))) == ()


def test_every_kind_of_error_is_as_likely_as_another():
    action = make_action(**first_line())
    drawn = Counter(way[0].error for n in range(600) if (way := chosen(action, n)) is not None)

    assert len(drawn) == len({mutation.error for mutation, _ in ways(action)})
    assert set(drawn.values()) == {600 // len(drawn)}
    names = {way[0].name for n in range(6_000) if (way := chosen(action, n)) is not None}
    assert names == {mutation.name for mutation, _ in ways(action)}, "and each of its mutations comes"


def test_a_canary_is_the_action_with_one_thing_changed_and_the_dates_of_now():
    raw = action_bytes(proposed_at=iso(NOW_MS), expires_at=iso(NOW_MS + 3_600_000), odd={"kept": "1.20"})
    action = make_action(proposed_at=iso(NOW_MS))
    way = chosen(action, 11)
    assert way is not None

    made = json.loads(planted(raw, way[1], "~k7m2", LATER))

    was = json.loads(raw)
    differs = {name for name in was if made[name] != was[name]}
    assert differs == {"action_id", "proposed_at", "expires_at", "changes"}
    assert made["action_id"] == "~k7m2"
    spans = [
        datetime.fromisoformat(one["expires_at"]) - datetime.fromisoformat(one["proposed_at"]) for one in (was, made)
    ]
    assert spans[0] == spans[1]
    assert list(made) == list(was), "nothing tells it by the order of its fields"


def test_a_canary_never_has_an_id_that_a_router_would_take():
    way = chosen(make_action(), 0)
    assert way is not None
    with pytest.raises(BrokenError, match="begins with ~"):
        planted(action_bytes(), way[1], "act-1", NOW)


@pytest.mark.parametrize(
    ("judged", "seen_by", "may"),
    [
        (APPROVED, {"ana"}, True),
        (APPROVED, {"ana", "ben"}, False),
        (Judged("ben", Purpose.DECIDE, "approve", Effect.APPLIED, 0), set(), False),
        (Judged("ana", Purpose.DECIDE, "approve", Effect.APPLIED, NOW_MS - AGE_MS_MIN + 1), {"ana"}, False),
        (Judged("ana", Purpose.DECIDE, "reject", Effect.APPLIED, 0), {"ana"}, False),
        (Judged("ana", Purpose.CANARY, "approve", Effect.APPLIED, 0), {"ana"}, False),
        (Judged("ana", Purpose.DECIDE, "approve", Effect.LATE, 0), {"ana"}, False),
    ],
)
def test_a_canary_is_made_from_what_others_approved_a_day_ago(judged: Judged, seen_by: set[str], may: bool):
    assert may_become(judged, frozenset(seen_by), "ben", NOW_MS) is may
