"""What a desk shows Prometheus of items that time has something to say about."""

from __future__ import annotations

import pytest

from hitl_stream.core.events import DeskTally
from hitl_stream.metrics import OTHER, QUEUES_MAX, DeskMetrics


def value(metrics: DeskMetrics, name: str, **labels: str) -> float | None:
    return metrics.metrics.registry.get_sample_value(name, labels)


def committed(metrics: DeskMetrics, tally: DeskTally) -> None:
    metrics.committed(0, 1, 0.001, 0.02, [10], tally)


def test_an_item_that_waits_too_long_where_it_goes_nowhere_else_counts_for_the_queues_owner():
    metrics, tally = DeskMetrics(), DeskTally()
    tally.lapsed["manager", "marketing"] = 3
    tally.timed["trading", "OPEN"] = 2

    committed(metrics, tally)

    assert value(metrics, "hitl_reviews_lapsed_total", queue="manager", owner="marketing") == 3
    assert value(metrics, "hitl_reviews_timed_total", queue="trading", state="OPEN") == 2
    assert value(metrics, "hitl_reviews_lapsed_total", queue="trading", owner="") is None


def test_queues_without_end_make_no_labels_without_end():
    metrics, tally = DeskMetrics(), DeskTally()
    for number in range(QUEUES_MAX + 5):
        tally.lapsed[f"queue-{number}", f"owner-{number}"] = 1

    committed(metrics, tally)

    assert value(metrics, "hitl_reviews_lapsed_total", queue=OTHER, owner=OTHER) == 5


@pytest.mark.behaviour("A8")
def test_what_a_gate_puts_to_people_and_how_long_they_look_is_counted_from_nought() -> None:
    metrics, tally = DeskMetrics(), DeskTally()
    metrics.gates(["claims", "tone"])
    tally.diverted["claims"] = 3
    tally.gate_ms["claims"] = 90_500

    committed(metrics, tally)

    assert value(metrics, "hitl_gate_diverted_total", gate="claims") == 3
    assert value(metrics, "hitl_gate_diverted_total", gate="tone") == 0
    assert value(metrics, "hitl_gate_review_seconds_total", gate="claims") == 90.5
