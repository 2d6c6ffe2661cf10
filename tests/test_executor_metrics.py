"""What an executor shows Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import generate_latest

from hitl_stream.core.events import After, ErrorClass, ExecutorTally, SentBackWhy, Status, Why
from hitl_stream.metrics import CLASSES_MAX, ExecutorMetrics, LaneMetrics, Metrics


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in metrics.registry.collect():
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(metrics: ExecutorMetrics, name: str, **labels: str) -> float:
    (found,) = [v for n, said, v in samples(metrics.metrics) if n == name and labels.items() <= said.items()]
    return found


def tally(**parts: object) -> ExecutorTally:
    made = ExecutorTally()
    for name, part in parts.items():
        attribute = getattr(made, name)
        attribute.update(part) if hasattr(attribute, "update") else setattr(made, name, part)
    return made


def test_a_commit_is_counted_by_what_became_of_its_records():
    metrics = ExecutorMetrics()
    results = {("bid.adjust", "executed"): 3, ("bid.adjust", "failed"): 1, ("none", "unresolved"): 2}
    found = tally(
        results=results, closed={"stale": 4, "execute_by": 5}, sent_back={"switch": 6}, dead={"seal": 7}, repeated=8,
        seconds=[0.02, 0.3],
    )  # fmt: skip

    metrics.committed(0, 36, 0.001, 0.02, [10, 20], found)

    assert {
        key: value(metrics, "hitl_execute_total", **{"class": key[0], "status": key[1]}) for key in results
    } == results
    assert value(metrics, "hitl_closed_total", role="executor", why="stale") == 4
    assert value(metrics, "hitl_closed_total", role="executor", why="execute_by") == 5
    assert value(metrics, "hitl_executor_sent_back_total", why="switch") == 6
    assert value(metrics, "hitl_dead_letters_total", role="executor", error="seal") == 7
    assert value(metrics, "hitl_executor_repeated_total") == 8
    assert value(metrics, "hitl_executor_unresolved_total") == 2
    assert value(metrics, "hitl_execute_seconds_count") == 2
    assert value(metrics, "hitl_execute_seconds_sum") == pytest.approx(0.32)
    assert value(metrics, "hitl_commits_total", role="executor") == 1


def test_what_is_seen_at_once_is_counted_at_once():
    metrics = ExecutorMetrics()

    metrics.unknown()
    metrics.offending(3, After.APPEND)
    metrics.offending(1, After.EFFECTIVE)
    metrics.in_flight.set_function(lambda: 5.0)

    assert value(metrics, "hitl_executor_unknown_total") == 1
    assert value(metrics, "hitl_kill_offending_total", after="append") == 3
    assert value(metrics, "hitl_kill_offending_total", after="effective") == 1
    assert value(metrics, "hitl_executor_calls_in_flight") == 5


def test_a_router_and_an_executor_of_one_process_share_their_metrics():
    shared = Metrics()
    LaneMetrics("router", shared)
    ExecutorMetrics(shared).unknown()

    assert b"hitl_executor_unknown_total 1.0" in generate_latest(shared.registry)


def test_every_label_is_from_a_closed_set_also_where_policies_change_for_ever():
    metrics = ExecutorMetrics()
    for n in range(CLASSES_MAX + 20):
        metrics.committed(0, 1, 0.0, 0.0, [1], tally(results={(f"class-{n}", "executed"): 1}))
    metrics.offending(1, After.APPEND)
    known = {
        "why": {*SentBackWhy, *Why}, "error": set(ErrorClass), "status": set(Status), "after": set(After),
    }  # fmt: skip
    classes = set()

    for name, labels, _ in samples(metrics.metrics):
        for label, said in labels.items():
            if label in known and name.startswith(("hitl_execut", "hitl_kill")):
                assert said in known[label]
            if label == "class":
                classes.add(said)
    assert len(classes) == CLASSES_MAX + 1
    assert value(metrics, "hitl_execute_total", **{"class": "other"}) == 20


def test_a_tally_adds_up():
    whole = tally(results={("a", "executed"): 1}, closed={"stale": 1}, repeated=1, seconds=[1.0])
    whole.add(tally(results={("a", "executed"): 2, ("b", "failed"): 1}, dead={"seal": 2}, sent_back={"switch": 3}))
    whole.add(tally(closed={"stale": 4}, repeated=5, seconds=[2.0]))

    assert whole.results == {("a", "executed"): 3, ("b", "failed"): 1}
    assert (whole.closed, whole.dead, whole.sent_back) == ({"stale": 5}, {"seal": 2}, {"switch": 3})
    assert (whole.repeated, whole.seconds) == (6, [1.0, 2.0])
