"""What reviewing costs, and when: sessions and hours by hand, and the rows that come of them."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.load import GateLoad, Look, by_hour, by_session
from hitl_stream.core.vigilance import GAP_MS

SECOND, MINUTE = 1_000, 60_000


def look(at_min: float = 0.0, *, reviewer: str = "ana", took_s: float = 30.0, hour: int = 9, **parts: Any) -> Look:
    """Return one judgement that was shown at a minute and decided `took_s` later."""
    shown_ms = round(at_min * MINUTE)
    fields: dict[str, Any] = {"approved": True, "floor_ms": 4 * SECOND} | parts
    return Look(reviewer=reviewer, shown_ms=shown_ms, decided_ms=shown_ms + round(took_s * SECOND), hour=hour, **fields)


def items(*looks: Look) -> dict[str, int]:
    return {row.name: row.items for row in by_session(looks) if row.items}


@pytest.mark.parametrize(
    ("at_min", "name"),
    [(4, "0–5 min"), (4.5, "0–5 min"), (4.6, "5–10 min"), (19, "10–20 min"), (20, "20–40 min"), (41, "over 40 min")],
)
def test_an_item_is_in_the_part_of_the_session_in_which_it_was_decided(at_min: float, name: str):
    on_the_way = [look(n, took_s=59.0) for n in range(int(at_min))]

    assert items(*on_the_way, look(at_min))[name] == items(*on_the_way).get(name, 0) + 1


def test_a_gap_of_five_minutes_begins_a_new_session_and_reading_for_long_is_no_gap():
    pause_min = GAP_MS / MINUTE

    assert items(look(0), look(4), look(4.5 + pause_min)) == {"0–5 min": 3}
    assert items(look(0), look(4, took_s=7 * 60)) == {"0–5 min": 1, "10–20 min": 1}


def test_each_person_has_sessions_of_their_own_and_the_order_of_the_log_does_not_matter():
    found = [look(minute, reviewer=name, took_s=60.0) for name in ("ana", "bo") for minute in range(0, 12, 4)]

    assert items(*found) == items(*reversed(found)) == {"0–5 min": 4, "5–10 min": 2}


def test_what_was_planted_tells_what_is_missed_and_is_no_real_item():
    rows = by_session([
        look(0), look(1, approved=False), look(2, took_s=4.9),
        look(3, caught=True, approved=False), look(3.5, caught=False, took_s=1.0),
    ])  # fmt: skip

    (row,) = (row for row in rows if row.items)
    assert (row.items, row.minutes) == (5, pytest.approx((30 + 30 + 4.9 + 30 + 1) / 60))
    assert (row.objected.bad, row.objected.n) == (1, 3)
    assert (row.hurried.bad, row.hurried.n) == (1, 2), "of approvals, within a second after the time that reading takes"
    assert (row.missed.bad, row.missed.n) == (1, 2)
    assert row.handling is not None
    assert (row.handling.p50, row.handling.p95) == (30 * SECOND, 30 * SECOND)


def test_the_hours_of_a_day_are_eight_rows():
    rows = by_hour([look(0, hour=hour) for hour in (0, 2, 3, 23)])

    assert len(rows) == 8
    assert {row.name: row.items for row in rows if row.items} == {
        "00:00–03:00": 2, "03:00–06:00": 1, "21:00–24:00": 1,
    }  # fmt: skip


def test_nothing_judged_has_no_handling_and_no_rate():
    rows = by_session([])

    assert all(row.handling is None and row.missed.rate is None and row.minutes == 0.0 for row in rows)


def test_minutes_for_a_thousand_actions_are_of_all_that_went_through_a_gate():
    assert GateLoad(gate="g", items=400, reviewed=10, left_out=3, minutes=20.0).per_1000 == 50.0
    assert GateLoad(gate="g", items=0, reviewed=0, left_out=3, minutes=0.0).per_1000 is None
