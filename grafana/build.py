#!/usr/bin/env python3
"""Writes the dashboards of `grafana/dashboards/`; run it after a change and commit what it wrote.

Rules: every panel says in its description what it answers and what to do when it looks wrong; every unit is set; rates
use `$__rate_interval`; links keep time and variables. Grafana shows and links: nothing here can act.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

DASHBOARDS = Path(__file__).parent / "dashboards"
SCHEMA_VERSION = 41
"""Grafana 12; older ones from 11.5 on read it, newer ones migrate it."""
WIDTH = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WHERE = 'job=~"$job",instance=~"$instance"'
ROUTER, EXECUTED = 'role="router"', 'outcome="EXECUTE"'
CONSOLE = "${console}"
GREEN, YELLOW, ORANGE, RED, BLUE = "green", "yellow", "orange", "red", "blue"

Json = dict[str, Any]
Steps = Sequence[tuple[float | None, str]]


class Query(NamedTuple):
    """An expression and what its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """What a panel shows. `width` is in 24ths of the screen, `height` in Grafana's rows of 30 pixels."""

    kind: str
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int
    height: int
    steps: Steps = ((None, GREEN),)
    options: Json = field(default_factory=dict)
    custom: Json = field(default_factory=dict)
    overrides: tuple[Json, ...] = ()
    mappings: tuple[Json, ...] = ()
    decimals: int | None = None
    low: float | None = 0
    high: float | None = None


def select(metric: str, *more: str) -> str:
    """Return a selector of the chosen processes: `metric{job=~"$job",instance=~"$instance",more}`."""
    return f"{metric}{{{','.join((WHERE, *more))}}}"


def rate(metric: str, *more: str) -> str:
    """Return the rate of a counter over Grafana's own interval."""
    return f"rate({select(metric, *more)}[$__rate_interval])"


def quantile(q: float, metric: str, *more: str) -> str:
    """Return a quantile of a histogram over all chosen processes."""
    return f"histogram_quantile({q}, sum by (le) ({rate(metric + '_bucket', *more)}))"


def stat(
    title: str, description: str, unit: str, expr: str, steps: Steps, mappings: tuple[Json, ...] = (), **more: Any
) -> Panel:
    """Return one number, coloured."""
    options = {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    panel = Panel("stat", title, description, unit, (Query(expr),), 4, 4, steps, options, mappings=mappings)
    return replace(panel, **more)


def graph(
    title: str, description: str, unit: str, *queries: Query, stacked: bool = False, steps: Steps = (), **more: Any
) -> Panel:
    """Return lines over time; stacked areas where the sum means something."""
    custom = {
        "drawStyle": "line",
        "fillOpacity": 60 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed" if steps else "off"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    panel = Panel("timeseries", title, description, unit, queries, 8, 8, ((None, GREEN), *steps), options, custom)
    return replace(panel, **more)


def colour(series: str, value: str) -> Json:
    """Return an override that gives a series its colour: a word has the same colour in every panel."""
    return {
        "matcher": {"id": "byName", "options": series},
        "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": value}}],
    }


def words(texts: dict[str, tuple[str, str]]) -> Json:
    """Return a mapping from values to (text, colour)."""
    options = {value: {"text": text, "color": col, "index": i} for i, (value, (text, col)) in enumerate(texts.items())}
    return {"type": "value", "options": options}


OUTCOMES = tuple(
    colour(name, value)
    for name, value in (
        ("EXECUTE", GREEN), ("REVIEW", BLUE), ("ESCALATE", ORANGE), ("HOLD", "purple"), ("REFUSE", RED),
        ("RECOMMEND", "gray"),
    )
)  # fmt: skip


def operate_now() -> Json:
    """Return *Operate now*: is it working, how fast, and does anything wait or fail? On one screen."""
    return dashboard(
        "hitl-operate-now",
        "hitl: Operate now",
        "Is it working, how fast, and does anything wait or fail? Left to right: state, flow, backlog, trouble.",
        (
            stat(
                "Ready",
                "Whether every chosen process passes all its readiness checks. If not: open /readyz of the instance "
                "that shows 0 under Ready by instance; it names the check.",
                "none",
                f"min({select('hitl_ready')})",
                ((None, RED), (1, GREEN)),
                (words({"0": ("not ready", RED), "1": ("ready", GREEN)}),),
            ),
            stat(
                "Actions per second",
                "Input records in batches that are known to be committed. Zero while agents publish: look at Lag and "
                "at Partitions.",
                "ops",
                f"sum({rate('hitl_records_total', ROUTER)})",
                ((None, BLUE),),
                decimals=0,
            ),
            stat(
                "Executed without a person",
                "Share of routed actions that went straight to execution. A jump in either direction means that the "
                "policy, the agents or the switches changed.",
                "percentunit",
                f"sum({rate('hitl_actions_total', EXECUTED)}) / sum({rate('hitl_actions_total')})",
                ((None, BLUE),),
                decimals=1,
                high=1,
            ),
            stat(
                "Event age, 99 of 100",
                "From the broker's append of an action to the commit of its decision. Target: 150 ms, no more than "
                "500 ms at 1,000 a second. Over it: see Batches and Lag.",
                "s",
                quantile(0.99, "hitl_event_age_seconds", ROUTER),
                ((None, GREEN), (0.5, YELLOW), (1, RED)),
            ),
            stat(
                "Longest wait",
                "How long the oldest undecided input of any partition has waited. It grows while a partition is "
                "closed, stuck or overloaded.",
                "s",
                f"max({select('hitl_lag_seconds')})",
                ((None, GREEN), (5, YELLOW), (30, RED)),
            ),
            stat(
                "Fullest window",
                "Ids remembered against duplicates, as a share of what a process may remember. At 100 % new "
                "actions are refused, none is forgotten: raise window_ids_max, lower max_age, or start another one.",
                "percentunit",
                f"max(sum by (job, instance) ({select('hitl_window_ids')}) / "
                f"sum by (job, instance) ({select('hitl_window_ids_max')}))",
                ((None, GREEN), (0.8, YELLOW), (0.95, RED)),
                decimals=1,
                high=1,
            ),
            graph(
                "Route mix",
                "What the router answered, by outcome. EXECUTE acts at once; REVIEW and ESCALATE wait for people; HOLD "
                "is parked by a switch; REFUSE is closed; RECOMMEND never runs.",
                "ops",
                Query(f"sum by (outcome) ({rate('hitl_actions_total')})", "{{outcome}}"),
                stacked=True,
                overrides=OUTCOMES,
            ),
            graph(
                "Execute rate by class",
                "Actions that run without a person, by the policy's class. A class that grows alone points at one kind "
                "of agent; stop it with a switch on the console's kill page.",
                "ops",
                Query(f"sum by (class) ({rate('hitl_actions_total', EXECUTED)})", "{{class}}"),
                stacked=True,
            ),
            graph(
                "Event age",
                "From append to commit. The dashed line is the most that 99 of 100 may take at 1,000 a second.",
                "s",
                Query(quantile(0.5, "hitl_event_age_seconds", ROUTER), "50 of 100"),
                Query(quantile(0.99, "hitl_event_age_seconds", ROUTER), "99 of 100"),
                steps=((0.5, RED),),
            ),
            graph(
                "Lag in records",
                "Committed inputs that wait for a decision, by role and partition. One partition alone: a hot account, "
                "or a step that fails there. All of them: too few processes, or a switch that holds.",
                "short",
                Query(f"sum by (role, partition) ({select('hitl_lag_records')})", "{{role}}/{{partition}}"),
            ),
            graph(
                "Since last progress",
                "Time since a partition last committed. It also grows where nothing arrives; together with lag it "
                "means that a partition is stuck.",
                "s",
                Query(
                    f"time() - max by (role, partition) ({select('hitl_last_progress_timestamp_seconds')})",
                    "{{role}}/{{partition}}",
                ),
            ),
            graph(
                "Partitions",
                "Partitions that decide, and those being restored. Their sum over all processes must be the "
                "topic's count; opening for more than seconds: see the instance's log.",
                "short",
                Query(f"sum by (role) ({select('hitl_partitions_open')})", "{{role}} open"),
                Query(f"sum by (role) ({select('hitl_partitions_opening')})", "{{role}} opening"),
            ),
            graph(
                "Ended early",
                "Actions that ended without execution, by why. duplicate and late: an agent repeats itself or is slow; "
                "conflict and identity: an agent misbehaves; policy: the policy refused.",
                "ops",
                Query(f"sum by (why) ({rate('hitl_closed_total')})", "{{why}}"),
                stacked=True,
            ),
            graph(
                "Dead letters and aborts",
                "Records that could not be read, by error, and batches that did not commit, by why. `unknown` aborts "
                "are reopened by themselves; many in a row mean that Kafka's transaction coordinator is in trouble.",
                "ops",
                Query(f"sum by (error) ({rate('hitl_dead_letters_total')})", "dead: {{error}}"),
                Query(f"sum by (why) ({rate('hitl_aborts_total')})", "abort: {{why}}"),
            ),
            graph(
                "Batches",
                "Time to decide and time to commit a batch, 99 of 100, and how many records a batch holds on average "
                "(right axis). Deciding slow: a rule or a validator; committing slow: Kafka.",
                "s",
                Query(quantile(0.99, "hitl_decide_seconds"), "decide, 99 of 100"),
                Query(quantile(0.99, "hitl_commit_seconds"), "commit, 99 of 100"),
                Query(
                    f"sum({rate('hitl_batch_records_sum')}) / sum({rate('hitl_batch_records_count')})",
                    "records, average",
                ),
                overrides=(right_axis("records, average", "short"),),
            ),
            graph(
                "Ready by instance",
                "1 while an instance passes all its readiness checks.",
                "none",
                Query(f"min by (instance) ({select('hitl_ready')})", "{{instance}}"),
                width=6,
                height=5,
                high=1,
            ),
            graph(
                "Memory",
                "Resident memory of each process. It rises with the window: about 195 MB a million ids.",
                "bytes",
                Query(select("process_resident_memory_bytes"), "{{instance}}"),
                width=6,
                height=5,
            ),
            graph(
                "Processor",
                "Cores in use. A process runs on one; near 1 it is full and more processes are needed.",
                "short",
                Query(rate("process_cpu_seconds_total"), "{{instance}}"),
                width=6,
                height=5,
                steps=((0.9, ORANGE),),
            ),
            graph(
                "Beside the route",
                "Actions moved to their home partition (publishers that use another partitioner), recommendations of "
                "level 1, and copies for audit.",
                "ops",
                Query(f"sum({rate('hitl_moved_total')})", "moved"),
                Query(f"sum({rate('hitl_recommendations_total')})", "recommended"),
                Query(f"sum({rate('hitl_audit_copies_total')})", "audit copies"),
                width=6,
                height=5,
            ),
        ),
    )


def right_axis(series: str, unit: str) -> Json:
    """Return an override that gives a series a scale of its own."""
    return {
        "matcher": {"id": "byName", "options": series},
        "properties": [{"id": "unit", "value": unit}, {"id": "custom.axisPlacement", "value": "right"}],
    }


def dashboard(uid: str, title: str, description: str, panels: Sequence[Panel]) -> Json:
    """Return a dashboard in Grafana's Classic JSON."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["hitl"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "utc",
        "links": [
            {
                "type": "dashboards", "title": "hitl", "tags": ["hitl"], "asDropdown": True, "includeVars": True,
                "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": "",
            },
            {
                "type": "link", "title": "Kill page", "url": f"{CONSOLE}/kill", "targetBlank": True, "icon": "bolt",
                "tooltip": "Opens the console, where a person can stop things", "tags": [], "asDropdown": False,
                "includeVars": False, "keepTime": False,
            },
        ],
        "templating": {"list": variables()},
        "annotations": {"list": []},
        "panels": laid_out(panels),
    }  # fmt: skip


def variables() -> list[Json]:
    """Return what a viewer may choose: the data source, jobs and instances, and where the console is."""

    def of_label(name: str, label: str, metric: str) -> Json:
        query = f"label_values({metric}, {label})"
        return {
            "type": "query", "name": name, "label": label, "datasource": SOURCE, "definition": query,
            "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
            "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".*", "hide": 0, "regex": "",
            "current": {"text": ["All"], "value": ["$__all"]}, "options": [],
        }  # fmt: skip

    return [
        {
            "type": "datasource", "name": "datasource", "label": "data source", "query": "prometheus", "hide": 0,
            "current": {}, "options": [], "regex": "", "refresh": 1, "multi": False, "includeAll": False,
        },
        of_label("job", "job", "hitl_build_info"),
        of_label("instance", "instance", 'hitl_build_info{job=~"$job"}'),
        {
            "type": "textbox", "name": "console", "label": "console", "query": "http://127.0.0.1:8080", "hide": 2,
            "current": {"text": "http://127.0.0.1:8080", "value": "http://127.0.0.1:8080"},
            "options": [{"text": "http://127.0.0.1:8080", "value": "http://127.0.0.1:8080", "selected": True}],
        },
    ]  # fmt: skip


def laid_out(panels: Sequence[Panel]) -> list[Json]:
    """Place panels from left to right, row by row; a row is as high as its highest panel."""
    placed, x, y, row = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y, row = 0, y + row, 0
        placed.append(_panel(number, panel, x, y))
        x, row = x + panel.width, max(row, panel.height)
    return placed


def _panel(number: int, panel: Panel, x: int, y: int) -> Json:
    defaults: Json = {
        "unit": panel.unit,
        "custom": panel.custom,
        "mappings": list(panel.mappings),
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [{"value": value, "color": c} for value, c in panel.steps]},
    }
    for name, value in (("decimals", panel.decimals), ("min", panel.low), ("max", panel.high)):
        if value is not None:
            defaults[name] = value
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": defaults, "overrides": list(panel.overrides)},
        "options": panel.options,
        "targets": [_target(panel, i, query) for i, query in enumerate(panel.queries)],
    }


def _target(panel: Panel, i: int, query: Query) -> Json:
    return {
        "refId": chr(ord("A") + i),
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": panel.kind != "stat",
        "instant": panel.kind == "stat",
        "editorMode": "code",
    }


def built() -> dict[str, str]:
    """Return what each file of `dashboards/` must hold."""
    return {"operate-now.json": json.dumps(operate_now(), indent=2, ensure_ascii=False) + "\n"}


def main() -> int:
    """Write the dashboards."""
    for name, text in built().items():
        (DASHBOARDS / name).write_text(text, "utf-8")
        print(f"wrote {DASHBOARDS / name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
