"""What a process shows Prometheus: names `hitl_…`, base units, and labels from closed sets only.

Rules: ids, agents, accounts and types that an agent wrote never become a label (they belong in logs). The hot path
calls once per batch, on children looked up before. This module sees only `core.events`; it matches
`lane.observe.LaneObserver` by its shape.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, ProcessCollector, disable_created_metrics
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from hitl_stream.core.events import (
    Abort,
    After,
    DeskTally,
    ErrorClass,
    ExecutorTally,
    Mode,
    Refusal,
    Rejection,
    RouterTally,
    SentBackWhy,
    Status,
    Why,
)

ROLES = ("router", "desk", "executor", "control", "monitor", "console")
CLASSES_MAX = 200
"""A policy of 20 classes is large; past ten times that, over all policies a process has seen, they are counted as
`other`, so that a series per class stays bounded however often policies change."""
OTHER = "other"

BATCH_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""From half a millisecond, a batch of a few hundred at 6 µs each, to the limit that a commit is given."""
AGE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
"""Dense around the targets (p50 20 ms, p99 150 and 500 ms), then the admission windows up to an hour of backlog."""
BATCH_RECORDS = (1, 4, 16, 64, 250, 500, 1000, 2000, 4000, 8000)
EFFECT_SECONDS = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 5, 10, 30, 60)
"""Around the targets: 1 s, 2.5 with one instance cut off or paused; alarms at 2 and 3."""
CALL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Up to the limit of a call."""
WAIT_SECONDS = (1, 5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400, 259200)
"""From a look at once to three days."""
QUEUES_MAX = 100
FENCED = ("router", "desk", "executor")
PAGES = ("rubber_stamp", "reviewer_unreliable")
OPENING_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Child:
    """One series of a `BulkHistogram`. Not for several threads: a lane and its scrapes share one loop."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.observe_many((value,))

    def observe_many(self, values: Sequence[float]) -> None:
        """Count many values at once: sort them, then look each *bound* up among them, not each value among the bounds.

        Ages in a batch come in nearly sorted, so the sort is close to one pass: 4,000 ages cost 0.05 to 0.15 ms (0.4 in
        random order). Values below zero (our clock runs behind the broker's) count as zero: a sum must never fall.
        """
        ordered = sorted(values)
        if not ordered:
            return
        if ordered[0] < 0:
            ordered = sorted(max(value, 0) for value in ordered)
        self.total += sum(ordered)
        below, largest, counts = 0, ordered[-1], self.counts
        for i, bound in enumerate(self.bounds):
            if largest <= bound:
                counts[i] += len(ordered) - below
                return
            upto = bisect_right(ordered, bound, below)
            counts[i] += upto - below
            below = upto
        counts[-1] += len(ordered) - below


class BulkHistogram(Collector):
    """A Prometheus histogram that takes many observations in one call.

    `per_unit` is how many of the observed unit make one of the exposed: 1000 for milliseconds shown as seconds.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        bounds: Sequence[float],
        registry: CollectorRegistry,
        per_unit: int = 1,
    ) -> None:
        if list(bounds) != sorted(set(bounds)) or not bounds:
            raise ValueError(f"{name}: bounds must rise and there must be one at least, found {list(bounds)}")
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._shown = [_shown(bound) for bound in bounds] + ["+Inf"]
        self._bounds = tuple(bound * per_unit for bound in bounds)
        self._per_unit = per_unit
        self._children: dict[tuple[str, ...], Child] = {}
        registry.register(self)

    def child(self, *values: str) -> Child:
        """Return the series with these label values; keep it, so that the hot path does not look it up."""
        if len(values) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}, found {values}")
        return self._children.setdefault(values, Child(self._bounds))

    def describe(self) -> Iterable[Metric]:
        """Return the empty family: the registry refuses a second metric of that name."""
        return [HistogramMetricFamily(self._name, self._documentation, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """Return what was counted, cumulative, as Prometheus wants it."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, child in self._children.items():
            upto, buckets = 0, []
            for shown, count in zip(self._shown, child.counts, strict=True):
                upto += count
                buckets.append((shown, float(upto)))
            family.add_metric(values, buckets, sum_value=child.total / self._per_unit)
        return [family]


class Metrics:
    """Every metric of one process, in a registry of its own."""

    def __init__(
        self, version: str = "unknown", window_ids_max: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more per series, and nothing reads it
        self.registry = registry = CollectorRegistry()
        self.clock = clock
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def histogram(name: str, text: str, bounds: Sequence[float], per_unit: int = 1) -> BulkHistogram:
            return BulkHistogram(name, text, ("role",), bounds, registry, per_unit)

        build = gauge("hitl_build_info", "Always 1; the version that runs.", "version", "python")
        build.labels(version, platform.python_version()).set(1)
        self.ready = gauge("hitl_ready", "1 if every readiness check passes, else 0; /readyz names them.")

        self.actions = counter("hitl_actions", "Actions decided by the router.", "class", "outcome")
        self.again = counter(
            "hitl_parked_actions", "Parked actions decided again by a pass; HOLD: parked again.", "class", "outcome"
        )
        self.closed = counter("hitl_closed", "Actions ended without execution or result.", "role", "why")
        self.dead = counter("hitl_dead_letters", "Records that could not be read.", "role", "error")
        self.moved = counter("hitl_moved", "Actions sent on to their home partition.")
        self.audit = counter("hitl_audit_copies", "Executed actions copied for audit by a person.")
        self.recommended = counter("hitl_recommendations", "Actions of level 1, which end as a recommendation.")

        self.commits = counter("hitl_commits", "Batches known to be committed.", "role")
        self.records = counter("hitl_records", "Input records in batches known to be committed.", "role")
        self.aborts = counter("hitl_aborts", "Batches not committed; unknown: nobody can say.", "role", "why")
        self.decide = histogram("hitl_decide_seconds", "Time to decide a batch.", BATCH_SECONDS)
        self.commit = histogram("hitl_commit_seconds", "Time from sending a batch to its commit.", BATCH_SECONDS)
        self.batch = histogram("hitl_batch_records", "Input records in a batch.", BATCH_RECORDS)
        self.age = histogram("hitl_event_age_seconds", "Commit minus the broker's append time.", AGE_SECONDS, 1_000)

        self.opening = gauge("hitl_partitions_opening", "Partitions assigned and being restored.", "role")
        self.open = gauge("hitl_partitions_open", "Partitions that decide.", "role")
        self.opening_time = histogram("hitl_opening_seconds", "Time from assignment to open.", OPENING_SECONDS)
        self.restored = counter("hitl_restored_records", "Records read back to restore state.", "role")
        self.lag_records = gauge("hitl_lag_records", "Committed inputs not yet decided.", "role", "partition")
        self.lag_seconds = gauge("hitl_lag_seconds", "How long the oldest of them waits.", "role", "partition")
        self.window_ids = gauge("hitl_window_ids", "Ids remembered against duplicates.", "role", "partition")
        self.lease_age = gauge(
            "hitl_control_lease_age_seconds",
            "Time since the ack was sent that the lease rests on; 2 is the end.",
            "role",
        )
        self.control_rejected = counter(
            "hitl_control_rejected", "Records on the control topics that count for nothing.", "reason"
        )
        self.window_ids_max = gauge("hitl_window_ids_max", "How many ids this process may remember.")
        self.window_ids_max.set(window_ids_max)
        self.progress = gauge(
            "hitl_last_progress_timestamp_seconds", "When a partition last committed or opened.", "role", "partition"
        )


class LaneMetrics:
    """A `LaneObserver` that counts for Prometheus. Lanes of one process share one `Metrics`."""

    def __init__(self, role: str, metrics: Metrics | None = None) -> None:
        if role not in ROLES:
            raise ValueError(f"{role!r} is not a role; roles are {', '.join(ROLES)}")
        self.role = role
        self.metrics = m = metrics or Metrics()
        self._commits, self._records = m.commits.labels(role), m.records.labels(role)
        self._decide, self._commit = m.decide.child(role), m.commit.child(role)
        self._batch, self._age = m.batch.child(role), m.age.child(role)
        self._opening_time, self._restored = m.opening_time.child(role), m.restored.labels(role)
        self._aborts = _Closed(m.aborts, role, Abort)
        self._closed = _Closed(m.closed, role, Why)
        self._dead = _Closed(m.dead, role, ErrorClass)
        self._actions: dict[tuple[str, str], Counter] = {}
        self._again: dict[tuple[str, str], Counter] = {}
        self._classes: set[str] = set()
        self._progress: dict[int, Gauge] = {}
        self._opening: set[int] = set()
        self._open: set[int] = set()
        self._show_partitions()

    def committed(
        self, partition: int, records: int, decide_s: float, commit_s: float, ages_ms: Sequence[int], tally: Any
    ) -> None:
        """Count a batch that is known to be committed."""
        self._commits.inc()
        self._records.inc(records)
        self._decide.observe(decide_s)
        self._commit.observe(commit_s)
        self._batch.observe(records)
        self._age.observe_many(ages_ms)
        if isinstance(tally, RouterTally):
            self._routed(tally)
        self._progressed(partition)

    def aborted(self, partition: int, why: str) -> None:
        """Count a batch that was not committed, or of which nobody knows."""
        self._aborts[why].inc()

    def opening(self, partition: int) -> None:
        """Note that a partition is being restored."""
        self._open.discard(partition)
        self._opening.add(partition)
        self._show_partitions()

    def opened(self, partition: int, seconds: float, restored: int) -> None:
        """Note that a partition decides from now on."""
        self._opening.discard(partition)
        self._open.add(partition)
        self._show_partitions()
        self._opening_time.observe(seconds)
        self._restored.inc(restored)
        self._progressed(partition)

    def closed(self, partition: int) -> None:
        """Forget what is said of one partition: a number that nobody updates any more would raise alarms for ever."""
        self._opening.discard(partition)
        self._open.discard(partition)
        self._show_partitions()
        self._progress.pop(partition, None)
        m = self.metrics
        for family in (m.lag_records, m.lag_seconds, m.window_ids, m.progress):
            with suppress(KeyError):
                family.remove(self.role, str(partition))

    def lagged(self, partition: int, records: int, seconds: float) -> None:
        """Show how far a partition is behind."""
        self.metrics.lag_records.labels(self.role, str(partition)).set(records)
        self.metrics.lag_seconds.labels(self.role, str(partition)).set(seconds)

    def window(self, partition: int, ids: int) -> None:
        """Show how full a partition's window is."""
        self.metrics.window_ids.labels(self.role, str(partition)).set(ids)

    def _routed(self, tally: RouterTally) -> None:
        m = self.metrics
        for key, n in tally.routed.items():
            (self._actions.get(key) or self._action(m.actions, self._actions, *key)).inc(n)
        for key, n in tally.again.items():
            (self._again.get(key) or self._action(m.again, self._again, *key)).inc(n)
        self._closed.add(tally.closed)
        self._dead.add(tally.dead)
        m.moved.inc(tally.moved)
        m.audit.inc(tally.audit)
        m.recommended.inc(tally.recommended)

    def _action(self, family: Counter, known: dict[tuple[str, str], Counter], name: str, outcome: str) -> Counter:
        if name not in self._classes and len(self._classes) >= CLASSES_MAX:
            return family.labels(OTHER, outcome)
        self._classes.add(name)
        known[name, outcome] = child = family.labels(name, outcome)
        return child

    def _progressed(self, partition: int) -> None:
        child = self._progress.get(partition)
        if child is None:
            child = self._progress[partition] = self.metrics.progress.labels(self.role, str(partition))
        child.set(self.metrics.clock())

    def _show_partitions(self) -> None:
        self.metrics.opening.labels(self.role).set(len(self._opening))
        self.metrics.open.labels(self.role).set(len(self._open))


class ControlMetrics:
    """A `roles.control.ControlObserver` that counts for Prometheus.

    `wires` are the tripwires that there are, `kinds` the kinds of scope. Every series is there from the start: an alert
    on the growth of a counter does not see the first event of one that begins with it.
    """

    def __init__(self, metrics: Metrics | None = None, wires: Iterable[str] = (), kinds: Iterable[str] = ()) -> None:
        self.metrics = m = metrics or Metrics()
        switch = ("mode", "scope_kind")
        registry = m.registry
        self._beats = Counter("hitl_control_heartbeats", "Heartbeats that were delivered.", registry=registry)
        self._engaged = Gauge("hitl_kill_engaged", "Switches engaged now.", switch, registry=registry)
        self._changed = Gauge(
            "hitl_kill_changed_timestamp_seconds", "When a switch was last engaged or released.", switch,
            registry=registry,
        )  # fmt: skip
        self._effect = BulkHistogram(
            "hitl_kill_time_to_effect_seconds", "From the append of a command to EFFECTIVE.", switch, EFFECT_SECONDS,
            registry,
        )  # fmt: skip
        self._unacked = Gauge(
            "hitl_kill_unacked_instances", "Instances that stand in the way of an engagement.", registry=registry
        )
        self._contained = Gauge(
            "hitl_control_contained_calls", "Open calls of executors that do not answer.", registry=registry
        )
        self._fences = Counter(
            "hitl_control_fences",
            "Transactional ids fenced since somebody did not answer.",
            ("role",),
            registry=registry,
        )
        self._tripped = Counter("hitl_tripwire", "Tripwires that tripped.", ("wire", "action"), registry=registry)
        for reason in Rejection:
            m.control_rejected.labels(reason.value)
        for role in FENCED:
            self._fences.labels(role)
        for wire in wires:
            for action in ("observe", "engage"):
                self._tripped.labels(wire, action)
        for kind in kinds:
            for mode in Mode:
                self._effect.child(mode.value, kind)
        self._shown: set[tuple[str, str]] = set()
        self._drill_age: Gauge | None = None
        self._drilled_s = 0.0

    def beat(self) -> None:
        """Count a delivered heartbeat."""
        self._beats.inc()

    def rejected(self, why: str) -> None:
        """Count a record that counts for nothing."""
        self.metrics.control_rejected.labels(why).inc()

    def engaged(self, now: Mapping[tuple[str, str], int]) -> None:
        """Show how many switches are engaged; a kind that there was stays, at 0."""
        self._shown.update(now)
        for mode, scope_kind in self._shown:
            self._engaged.labels(mode, scope_kind).set(now.get((mode, scope_kind), 0))

    def changed(self, mode: str, scope_kind: str, at_s: float) -> None:
        """Note when a switch was engaged or released."""
        self._changed.labels(mode, scope_kind).set(at_s)

    def effective(self, mode: str, scope_kind: str, seconds: float) -> None:
        """Count how long one took."""
        self._effect.child(mode, scope_kind).observe(seconds)

    def unacknowledged(self, instances: int, contained_calls: int) -> None:
        """Show who stands in the way."""
        self._unacked.set(instances)
        self._contained.set(contained_calls)

    def fenced(self, role: str) -> None:
        """Count one fenced id."""
        self._fences.labels(role).inc()

    def tripped(self, wire: str, action: str) -> None:
        """Count a tripwire that has tripped; `action` is observe or engage."""
        self._tripped.labels(wire, action).inc()

    def drilled(self, at_s: float) -> None:
        """Show how long ago the newest drill was over; before there was one there is no such series."""
        self._drilled_s = max(self._drilled_s, at_s)
        if self._drill_age is None:
            self._drill_age = Gauge(
                "hitl_kill_drill_age_seconds", "Time since a drill of the kill switches was over.",
                registry=self.metrics.registry,
            )  # fmt: skip
            self._drill_age.set_function(lambda: max(0.0, self.metrics.clock() - self._drilled_s))


class DeskMetrics(LaneMetrics):
    """Counts for Prometheus what a desk's lane tells."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        super().__init__("desk", metrics)
        registry = self.metrics.registry
        self._open_items = Gauge("hitl_queue_items", "Items open in a queue.", ("queue",), registry=registry)
        self._oldest = Gauge(
            "hitl_queue_oldest_seconds", "Wait of the oldest open item of a queue.", ("queue",), registry=registry
        )
        self._opened = Counter("hitl_reviews_opened", "Items put to people.", ("queue",), registry=registry)
        self._verdicts = Counter(
            "hitl_verdicts", "Judgements of people; applied: it counted, and was the last one needed.",
            ("queue", "verdict", "effect"), registry=registry,
        )  # fmt: skip
        refused = Counter(
            "hitl_verdicts_refused", "Judgements that count for nothing, by why.", ("why",), registry=registry
        )
        self._refused = {why.value: refused.labels(why.value) for why in Refusal}
        rejected = Counter(
            "hitl_verdicts_rejected", "Records on verdicts of which nobody can say who wrote them.", ("reason",),
            registry=registry,
        )  # fmt: skip
        self._rejected = {why.value: rejected.labels(why.value) for why in Rejection}
        self._repeated = Counter("hitl_verdicts_repeated", "Verdicts that had counted already.", registry=registry)
        self._timed = Counter(
            "hitl_reviews_timed", "What time or a newer action made of items; OPEN: escalated.", ("queue", "state"),
            registry=registry,
        )  # fmt: skip
        self._lapsed = Counter(
            "hitl_reviews_lapsed",
            "Items past half of their time in a queue that they go nowhere from: its owner is to be told.",
            ("queue", "owner"), registry=registry,
        )  # fmt: skip
        gate = ("gate",)
        self._diverted = Counter("hitl_gate_diverted", "Items that a gate put to people.", gate, registry=registry)
        self._gate_seconds = Counter(
            "hitl_gate_review_seconds", "Time that people looked at what a gate put to them.", gate, registry=registry
        )
        self._executed = Counter("hitl_reviews_executed", "Actions that people let run.", registry=registry)
        self._parked = Counter("hitl_reviews_parked", "Approvals that a kill switch holds.", registry=registry)
        self._proposed = Counter("hitl_reviews_proposed", "Actions that people wrote.", registry=registry)
        self._wait = BulkHistogram(
            "hitl_review_wait_seconds", "From routing to a judgement.", (), WAIT_SECONDS, registry
        ).child()
        self._gates: set[str] = set()
        self._queues: set[str] = set()

    def committed(
        self, partition: int, records: int, decide_s: float, commit_s: float, ages_ms: Sequence[int], tally: Any
    ) -> None:
        """Count a commit."""
        super().committed(partition, records, decide_s, commit_s, ages_ms, tally)
        if isinstance(tally, DeskTally):
            self._decided(tally)

    def watch(
        self, queue: str, since_ms: Callable[[], Sequence[int]], now_ms: Callable[[], int], owner: str = ""
    ) -> None:
        """Show at each scrape how many items a queue has, and how long its oldest one waits.

        What time does to them is counted from 0: an alert on a counter's growth sees no first event without that.
        """
        for state in ("OPEN", "EXPIRED", "STALE"):
            self._timed.labels(self._queue(queue), state)
        self._lapsed.labels(self._queue(queue), owner)
        self._open_items.labels(queue).set_function(lambda: float(len(since_ms())))
        self._oldest.labels(queue).set_function(lambda: max(0.0, (now_ms() - min(since_ms(), default=now_ms())) / 1000))

    def _decided(self, tally: DeskTally) -> None:
        for queue, n in tally.opened.items():
            self._opened.labels(self._queue(queue)).inc(n)
        for (queue, verdict, effect), n in tally.verdicts.items():
            self._verdicts.labels(self._queue(queue), verdict, effect).inc(n)
        for (queue, state), n in tally.timed.items():
            self._timed.labels(self._queue(queue), state).inc(n)
        for (queue, owner), n in tally.lapsed.items():
            label = self._queue(queue)
            self._lapsed.labels(label, owner if label == queue else OTHER).inc(n)
        for gate, n in tally.diverted.items():
            self._diverted.labels(self._gate(gate)).inc(n)
        for gate, ms in tally.gate_ms.items():
            self._gate_seconds.labels(self._gate(gate)).inc(ms / 1000)
        for why, n in tally.refused.items():
            self._refused[why].inc(n)
        for reason, n in tally.rejected.items():
            self._rejected[reason].inc(n)
        self._repeated.inc(tally.repeated)
        self._executed.inc(tally.executed)
        self._parked.inc(tally.parked)
        self._proposed.inc(tally.proposed)
        self._closed.add(tally.closed)
        self._dead.add(tally.dead)
        self._wait.observe_many(tally.wait_s)

    def gates(self, names: Iterable[str]) -> None:
        """Show each gate of the policy from nought."""
        for name in names:
            self._diverted.labels(self._gate(name))
            self._gate_seconds.labels(self._gate(name))

    def _gate(self, gate: str) -> str:
        if gate not in self._gates and len(self._gates) >= QUEUES_MAX:
            return OTHER
        self._gates.add(gate)
        return gate

    def _queue(self, queue: str) -> str:
        """Return a label: queues are the policy's, and over all policies of a process they stay few."""
        if queue not in self._queues and len(self._queues) >= QUEUES_MAX:
            return OTHER
        self._queues.add(queue)
        return queue


class MonitorMetrics:
    """A `roles.monitor.MonitorObserver` that counts for Prometheus. No series names a person."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = m = metrics or Metrics()
        registry, queue = m.registry, ("queue",)
        self._age, self._records = m.age.child("monitor"), m.records.labels("monitor")
        self._observed = Counter("hitl_observations", "Judgements of people that were looked at.", queue,
                                 registry=registry)  # fmt: skip
        self._repeated = Counter("hitl_observations_repeated", "Judgements read once more, and left.",
                                 registry=registry)  # fmt: skip
        self._unread = _Closed(m.dead, "monitor", ErrorClass)
        self._alerts = Counter(
            "hitl_alerts", "Alerts about reviewers, by the row that raised them and the level since.",
            ("queue", "row", "level"), registry=registry,
        )  # fmt: skip
        self._pages = Counter(
            "hitl_pages", "Reviewers over whom somebody is to be woken: rubber_stamp, reviewer_unreliable.",
            ("queue", "page"), registry=registry,
        )  # fmt: skip
        self._rechecked = Counter(
            "hitl_rechecks", "Approvals of somebody who missed planted errors, by whether others judge them again: "
            "asked, lost.", ("queue", "became"), registry=registry,
        )  # fmt: skip
        self._figures = {
            "level": Gauge("hitl_queue_vigilance_level", "How closely a queue's reviewers are watched: 0 to 3.", queue,
                           registry=registry),
            "reviewers": Gauge("hitl_queue_reviewers", "People who judged in a queue today or yesterday.", queue,
                               registry=registry),
            "hit_rate": Gauge("hitl_queue_canary_hit_ratio", "Of planted wrong items so many were caught.", queue,
                              registry=registry),
            "hurried": Gauge("hitl_queue_hurried_ratio", "Of approvals so many came too fast to have read.", queue,
                             registry=registry),
            "approved": Gauge("hitl_queue_approval_ratio", "Of judgements so many are approvals; alone it says "
                              "nothing.", queue, registry=registry),
            "agreement": Gauge("hitl_queue_agreement_ratio", "Of blind second judgements in thirty days so many said "
                               "the same as the first.", queue, registry=registry),
            "escaped": Gauge("hitl_escaped_error_ratio", "Share of errors among what ran without being looked at, by "
                             "blind audits of thirty days.", queue, registry=registry),
        }  # fmt: skip
        self._queues: set[str] = set()

    def observed(self, queue: str, age_s: float) -> None:
        """Count a judgement."""
        self._observed.labels(self._queue(queue)).inc()
        self._records.inc()
        self._age.observe(age_s * 1000)

    def repeated(self) -> None:
        """Count a judgement that was read once more."""
        self._repeated.inc()

    def unread(self, error: str) -> None:
        """Count a record that cannot be read."""
        self._unread[error].inc()

    def alerted(self, queue: str, row: int, level: int) -> None:
        """Count an alert."""
        self._alerts.labels(self._queue(queue), str(row), str(level)).inc()

    def paged(self, queue: str, page: str) -> None:
        """Count an alert that somebody is woken for."""
        self._pages.labels(self._queue(queue), page).inc()

    def rechecked(self, queue: str, found: int, lost: int) -> None:
        """Count approvals that go to another person, and those that cannot be found."""
        self._rechecked.labels(self._queue(queue), "asked").inc(found)
        self._rechecked.labels(self._queue(queue), "lost").inc(lost)

    def queues(self, now: Mapping[str, Any]) -> None:
        """Show what each queue is like: a `roles.monitor_state.Figures` each. What is not known is not shown."""
        for queue, figures in now.items():
            for page in PAGES:
                self._pages.labels(self._queue(queue), page)  # from 0, so that the first one is seen
            self.rechecked(queue, 0, 0)
            for name, gauge in self._figures.items():
                value = getattr(figures, name)
                if value is not None:
                    gauge.labels(self._queue(queue)).set(float(value))

    def _queue(self, queue: str) -> str:
        if queue not in self._queues and len(self._queues) >= QUEUES_MAX:
            return OTHER
        self._queues.add(queue)
        return queue


class ExecutorMetrics(LaneMetrics):
    """Counts for Prometheus what an executor's lane tells, and the executor itself (`roles.executor`)."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        super().__init__("executor", metrics)
        registry = self.metrics.registry
        self._execute = Counter(
            "hitl_execute", "Execute records with a result; unresolved: nobody could find out.", ("class", "status"),
            registry=registry,
        )  # fmt: skip
        self._seconds = BulkHistogram(
            "hitl_execute_seconds", "From the beginning of a platform call to its answer.", (), CALL_SECONDS, registry
        ).child()
        self.in_flight = Gauge("hitl_executor_calls_in_flight", "Platform calls open now.", registry=registry)
        self._unknown = Counter(
            "hitl_executor_unknown", "Calls of which nobody knew what became of them, for a while.", registry=registry
        )
        self._unresolved = Counter("hitl_executor_unresolved", "Calls of which nobody ever will.", registry=registry)
        sent_back = Counter(
            "hitl_executor_sent_back", "Decisions written to held, to be made again.", ("why",), registry=registry
        )
        self._sent_back = {why.value: sent_back.labels(why.value) for why in SentBackWhy}
        self._repeated = Counter("hitl_executor_repeated", "Execute records that were done already.", registry=registry)
        offending = Counter(
            "hitl_kill_offending", "Platform calls that began after a switch over them, by after which moment of it.",
            ("after",), registry=registry,
        )  # fmt: skip
        self._offending = {after: offending.labels(after.value) for after in After}
        self._results: dict[tuple[str, str], Counter] = {}

    def committed(
        self, partition: int, records: int, decide_s: float, commit_s: float, ages_ms: Sequence[int], tally: Any
    ) -> None:
        """Count a commit of ends."""
        super().committed(partition, records, decide_s, commit_s, ages_ms, tally)
        if isinstance(tally, ExecutorTally):
            self._carried_out(tally)

    def unknown(self) -> None:
        """Count a call of which nobody knows what became of it."""
        self._unknown.inc()

    def offending(self, calls: int, after: After) -> None:
        """Count calls that began after the append of a switch over them, or after it was EFFECTIVE."""
        self._offending[after].inc(calls)

    def _carried_out(self, tally: ExecutorTally) -> None:
        for (name, status), n in tally.results.items():
            self._result(name, status).inc(n)
            if status == Status.UNRESOLVED:
                self._unresolved.inc(n)
        for why, n in tally.sent_back.items():
            self._sent_back[why].inc(n)
        self._closed.add(tally.closed)
        self._dead.add(tally.dead)
        self._repeated.inc(tally.repeated)
        self._seconds.observe_many(tally.seconds)

    def _result(self, name: str, status: str) -> Counter:
        known = self._results.get((name, status))
        if known is None:
            names = {label for label, _ in self._results}
            if name not in names and len(names) >= CLASSES_MAX:
                return self._execute.labels(OTHER, status)
            known = self._results[name, status] = self._execute.labels(name, status)
        return known


class _Closed(dict[str, Counter]):
    """The children of a closed set of words, all at 0 from the start; a word outside it is counted as `other`."""

    def __init__(self, family: Counter, role: str, words: Iterable[str]) -> None:
        super().__init__({str(word): family.labels(role, str(word)) for word in words})
        self._family, self._role = family, role

    def __missing__(self, word: str) -> Counter:
        return self._family.labels(self._role, OTHER)

    def add(self, counts: Mapping[str, int]) -> None:
        for word, n in counts.items():
            self[word].inc(n)


def _shown(bound: float) -> str:
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]  # the library's own way to write `le`
