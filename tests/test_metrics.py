"""Metrics: what is counted, under closed labels, and what it costs."""

from __future__ import annotations

import ast
import math
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import hitl_stream.metrics
from hitl_stream.core.events import Abort, ErrorClass, Rejection, RouterTally, Why
from hitl_stream.lane.observe import LaneObserver, Silent
from hitl_stream.metrics import (
    AGE_SECONDS,
    CLASSES_MAX,
    OTHER,
    ROLES,
    BulkHistogram,
    ControlMetrics,
    LaneMetrics,
    Metrics,
)
from hitl_stream.roles.control import ControlObserver
from prometheus_server import feed, needs_tool


def value(metrics: Metrics, name: str, labels: Mapping[str, str] | None = None) -> float | None:
    return metrics.registry.get_sample_value(name, dict(labels or {}))


def tally(**counts: object) -> RouterTally:
    made = RouterTally()
    for name, count in counts.items():
        setattr(made, name, count)
    return made


@pytest.mark.parametrize("observer", [LaneMetrics("router"), Silent()])
def test_a_lane_may_talk_to_it(observer: LaneObserver):
    observer.opening(0)
    observer.opened(0, 0.2, 5)
    observer.committed(0, 2, 0.001, 0.002, [5, 7], None)
    observer.aborted(0, "epoch")
    observer.lagged(0, 3, 0.5)
    observer.window(0, 7)
    observer.closed(0)


def test_a_committed_batch_is_counted_once():
    lane = LaneMetrics("router")

    lane.committed(3, 100, 0.002, 0.02, [20] * 100, RouterTally())

    m = lane.metrics
    assert value(m, "hitl_commits_total", {"role": "router"}) == 1
    assert value(m, "hitl_records_total", {"role": "router"}) == 100
    assert value(m, "hitl_decide_seconds_bucket", {"role": "router", "le": "0.0025"}) == 1
    assert value(m, "hitl_decide_seconds_bucket", {"role": "router", "le": "0.001"}) == 0
    assert value(m, "hitl_commit_seconds_sum", {"role": "router"}) == 0.02
    assert value(m, "hitl_batch_records_bucket", {"role": "router", "le": "250.0"}) == 1
    assert value(m, "hitl_event_age_seconds_count", {"role": "router"}) == 100
    assert value(m, "hitl_event_age_seconds_sum", {"role": "router"}) == pytest.approx(2.0)


def test_what_the_router_counted_is_added_up():
    lane = LaneMetrics("router")
    counted = tally(
        routed={("bid.adjust", "EXECUTE"): 5, ("none", "REFUSE"): 1}, closed={"duplicate": 1}, dead={"seal": 2},
        moved=3, audit=4, recommended=6, again={("bid.adjust", "HOLD"): 7, ("bid.adjust", "EXECUTE"): 8},
    )  # fmt: skip

    lane.committed(0, 11, 0.001, 0.001, [], counted)
    lane.committed(0, 11, 0.001, 0.001, [], counted)

    m = lane.metrics
    assert value(m, "hitl_actions_total", {"class": "bid.adjust", "outcome": "EXECUTE"}) == 10
    assert value(m, "hitl_actions_total", {"class": "none", "outcome": "REFUSE"}) == 2
    assert value(m, "hitl_parked_actions_total", {"class": "bid.adjust", "outcome": "HOLD"}) == 14
    assert value(m, "hitl_parked_actions_total", {"class": "bid.adjust", "outcome": "EXECUTE"}) == 16
    assert value(m, "hitl_closed_total", {"role": "router", "why": "duplicate"}) == 2
    assert value(m, "hitl_dead_letters_total", {"role": "router", "error": "seal"}) == 4
    assert [value(m, f"hitl_{n}_total") for n in ("moved", "audit_copies", "recommendations")] == [6, 8, 12]


def test_closed_sets_are_there_before_anything_happens():
    m = LaneMetrics("desk").metrics

    for why in Abort:
        assert value(m, "hitl_aborts_total", {"role": "desk", "why": why}) == 0
    for why in Why:
        assert value(m, "hitl_closed_total", {"role": "desk", "why": why}) == 0
    for error in ErrorClass:
        assert value(m, "hitl_dead_letters_total", {"role": "desk", "error": error}) == 0


def test_a_word_outside_a_closed_set_is_counted_as_other():
    lane = LaneMetrics("router")

    lane.aborted(0, "act-1\n")
    lane.committed(0, 1, 0, 0, [], tally(closed={"made up": 1}, dead={"made up": 2}))

    assert value(lane.metrics, "hitl_aborts_total", {"role": "router", "why": OTHER}) == 1
    assert value(lane.metrics, "hitl_closed_total", {"role": "router", "why": OTHER}) == 1
    assert value(lane.metrics, "hitl_dead_letters_total", {"role": "router", "error": OTHER}) == 2


def test_classes_are_bounded():
    lane = LaneMetrics("router")

    for i in range(CLASSES_MAX + 50):
        lane.committed(0, 1, 0, 0, [], tally(routed={(f"class-{i}", "EXECUTE"): 1}))

    assert value(lane.metrics, "hitl_actions_total", {"class": "class-0", "outcome": "EXECUTE"}) == 1
    assert value(lane.metrics, "hitl_actions_total", {"class": OTHER, "outcome": "EXECUTE"}) == 50

    lane.committed(0, 1, 0, 0, [], tally(again={("class-x", "HOLD"): 2, ("class-0", "HOLD"): 1}))
    assert value(lane.metrics, "hitl_parked_actions_total", {"class": OTHER, "outcome": "HOLD"}) == 2
    assert value(lane.metrics, "hitl_parked_actions_total", {"class": "class-0", "outcome": "HOLD"}) == 1


def test_partitions_are_counted_through_their_life():
    lane, role = LaneMetrics("router"), {"role": "router"}

    def now() -> tuple[float | None, float | None]:
        return value(lane.metrics, "hitl_partitions_opening", role), value(lane.metrics, "hitl_partitions_open", role)

    seen = [now()]
    for change in (
        lambda: lane.opening(1), lambda: lane.opening(1), lambda: lane.opening(2), lambda: lane.opened(1, 0.3, 40),
        lambda: lane.opening(1), lambda: lane.closed(2), lambda: lane.closed(2), lambda: lane.opened(1, 2, 2),
    ):  # fmt: skip
        change()
        seen.append(now())

    assert seen == [(0, 0), (1, 0), (1, 0), (2, 0), (1, 1), (2, 0), (1, 0), (1, 0), (0, 1)]
    assert value(lane.metrics, "hitl_restored_records_total", role) == 42
    assert value(lane.metrics, "hitl_opening_seconds_bucket", {**role, "le": "0.5"}) == 1
    assert value(lane.metrics, "hitl_opening_seconds_count", role) == 2


def test_a_partition_that_is_gone_says_nothing_any_more():
    lane, labels = LaneMetrics("router"), {"role": "router", "partition": "4"}
    names = ("hitl_lag_records", "hitl_lag_seconds", "hitl_window_ids", "hitl_last_progress_timestamp_seconds")

    lane.opened(4, 1, 1)
    lane.lagged(4, 3, 0.5)
    lane.window(4, 7)
    assert [value(lane.metrics, name, labels) for name in names[:3]] == [3, 0.5, 7]

    lane.closed(4)
    assert [value(lane.metrics, name, labels) for name in names] == [None] * 4

    lane.opened(4, 1, 1)
    assert value(lane.metrics, names[3], labels) is not None


def test_progress_is_the_time_of_the_last_commit():
    times = iter((100.0, 200.0))
    lane = LaneMetrics("router", Metrics(clock=lambda: next(times)))

    lane.opened(0, 1, 1)
    lane.committed(0, 1, 0, 0, [], None)

    assert value(lane.metrics, "hitl_last_progress_timestamp_seconds", {"role": "router", "partition": "0"}) == 200


def test_lanes_of_one_process_share_their_metrics():
    m = Metrics("0.1.0", window_ids_max=1_000)
    LaneMetrics("router", m).committed(0, 5, 0, 0, [1], None)
    LaneMetrics("desk", m).committed(0, 7, 0, 0, [1], None)

    assert value(m, "hitl_records_total", {"role": "router"}) == 5
    assert value(m, "hitl_records_total", {"role": "desk"}) == 7
    assert value(m, "hitl_window_ids_max") == 1_000


def test_a_role_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'act-1' is not a role; roles are router, desk"):
        LaneMetrics("act-1")


def test_the_process_itself_is_measured():
    text = generate_latest(Metrics("0.1.0").registry).decode()

    assert 'hitl_build_info{python="3.' in text
    assert 'version="0.1.0"' in text
    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text


# ── the histogram ───────────────────────────────────────────────────────────────────────────────────────────────────

VALUES = st.lists(st.integers(-1_000, 5_000_000), max_size=200)


@given(st.lists(VALUES, max_size=4))
def test_a_bulk_observation_counts_like_one_by_one(batches: list[list[int]]):
    registry = CollectorRegistry()
    child = BulkHistogram("h_seconds", "text", (), AGE_SECONDS, registry, 1_000).child()

    for batch in batches:
        child.observe_many(batch)

    flat = [max(value, 0) for batch in batches for value in batch]
    for bound in AGE_SECONDS:
        expected = sum(value <= bound * 1_000 for value in flat)
        assert registry.get_sample_value("h_seconds_bucket", {"le": str(float(bound))}) == expected
    assert registry.get_sample_value("h_seconds_bucket", {"le": "+Inf"}) == len(flat)
    assert registry.get_sample_value("h_seconds_count") == len(flat)
    assert math.isclose(registry.get_sample_value("h_seconds_sum") or 0, sum(flat) / 1_000)


def test_an_observation_does_not_touch_what_it_was_given():
    registry = CollectorRegistry()
    ages = [5, -3, 9]

    BulkHistogram("h", "text", (), (1, 10), registry).child().observe_many(ages)

    assert ages == [5, -3, 9]


@pytest.mark.parametrize("bounds", [(), (2, 1), (1, 1)])
def test_bounds_that_do_not_rise_are_refused(bounds: tuple[int, ...]):
    with pytest.raises(ValueError, match="bounds must rise"):
        BulkHistogram("h", "text", (), bounds, CollectorRegistry())


def test_a_series_needs_all_its_labels():
    histogram = BulkHistogram("h", "text", ("role",), (1,), CollectorRegistry())

    with pytest.raises(ValueError, match=r"h has the labels \('role',\), found \(\)"):
        histogram.child()
    assert histogram.child("router") is histogram.child("router")


def test_two_metrics_cannot_have_one_name():
    registry = CollectorRegistry()
    BulkHistogram("h", "text", (), (1,), registry)

    with pytest.raises(ValueError, match="Duplicated"):
        BulkHistogram("h", "text", (), (1,), registry)


# ── house rules ─────────────────────────────────────────────────────────────────────────────────────────────────────

LABELS = {
    "role": set(ROLES),
    "outcome": {"EXECUTE", "REVIEW", "ESCALATE", "HOLD", "REFUSE", "RECOMMEND"}, "why": {*Abort, *Why},
    "error": set(ErrorClass), "class": {"bid.adjust", "post.own", "none"}, "partition": {"0", "1", "2", "3"},
}  # fmt: skip


def test_every_name_is_ours_and_every_label_is_from_a_closed_set():
    lane = LaneMetrics("router")
    feed(lane, 1)

    for family in lane.metrics.registry.collect():
        assert family.name.startswith(("hitl_", "process_", "python_"))
        assert family.documentation.endswith(".") or not family.name.startswith("hitl_")
        for sample in family.samples:
            for label, said in sample.labels.items():
                assert label in ("le", "version", "python", "generation") or said in LABELS[label]


def test_the_exposition_is_valid_openmetrics():
    lane = LaneMetrics("router")
    feed(lane, 1)

    names = {
        family.name for family in text_string_to_metric_families(generate_openmetrics(lane.metrics.registry).decode())
    }

    assert {"hitl_actions", "hitl_event_age_seconds", "hitl_ready"} <= names


@needs_tool("promtool")
def test_promtool_has_no_complaint():
    lane = LaneMetrics("router", Metrics("0.1.0", 1_000))
    feed(lane, 1)

    checked = subprocess.run(
        [shutil.which("promtool") or "promtool", "check", "metrics"],
        input=generate_latest(lane.metrics.registry), capture_output=True, timeout=30, check=False,
    )  # fmt: skip

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_metrics_see_nothing_of_ours_but_the_vocabularies():
    tree = ast.parse(Path(hitl_stream.metrics.__file__).read_text())

    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m for m in modules if m and m.startswith("hitl_stream")} == {"hitl_stream.core.events"}


def test_the_control_role_may_talk_to_it():
    observer: ControlObserver = ControlMetrics()
    observer.beat()
    observer.rejected(Rejection.SEAL)
    observer.engaged({("HALT", "campaign"): 2})
    observer.engaged({})
    observer.changed("HALT", "campaign", 1_000.5)
    observer.effective("HALT", "campaign", 0.08)
    observer.unacknowledged(2, 3)
    observer.fenced("router")
    observer.tripped("rate", "observe")

    assert isinstance(observer, ControlMetrics)
    m, switch = observer.metrics, {"mode": "HALT", "scope_kind": "campaign"}
    assert value(m, "hitl_control_heartbeats_total") == 1
    assert value(m, "hitl_control_rejected_total", {"reason": "seal"}) == 1
    assert value(m, "hitl_kill_engaged", switch) == 0, "what was released stays as a zero"
    assert value(m, "hitl_kill_changed_timestamp_seconds", switch) == 1_000.5
    assert value(m, "hitl_kill_time_to_effect_seconds_bucket", switch | {"le": "0.1"}) == 1
    assert value(m, "hitl_kill_time_to_effect_seconds_bucket", switch | {"le": "0.05"}) == 0
    assert value(m, "hitl_kill_unacked_instances") == 2
    assert value(m, "hitl_control_contained_calls") == 3
    assert value(m, "hitl_control_fences_total", {"role": "router"}) == 1
    assert value(m, "hitl_tripwire_total", {"wire": "rate", "action": "observe"}) == 1


@needs_tool("promtool")
def test_promtool_finds_nothing_wrong_with_the_metrics_of_control():
    observer = ControlMetrics(Metrics("0.1.0"))
    observer.effective("HALT", "global", 0.08)
    observer.metrics.lease_age.labels("router").set(0.2)
    text = generate_latest(observer.metrics.registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
