"""The words that dashboards are written in: panels, queries, colours, and Grafana's Classic JSON of them.

Rules: every panel says in its description what it answers and what to do when it looks wrong; every unit is set; rates
use `$__rate_interval`; links keep time and variables. Grafana shows and links: nothing here can act.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

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
    links: tuple[Json, ...] = ()


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


def right_axis(series: str, unit: str) -> Json:
    """Return an override that gives a series a scale of its own."""
    return {
        "matcher": {"id": "byName", "options": series},
        "properties": [{"id": "unit", "value": unit}, {"id": "custom.axisPlacement", "value": "right"}],
    }


SWITCHES: Json = {
    "name": "Kill switches",
    "datasource": SOURCE,
    "enable": True,
    "hide": False,
    "iconColor": RED,
    "expr": f"{select('hitl_kill_changed_timestamp_seconds')} * 1000",
    "useValueForTime": "on",
    "titleFormat": "switch changed",
    "textFormat": "{{mode}} over {{scope_kind}}",
    "step": "",
}
"""A line at each moment at which a switch was engaged or released."""


def stop(label: str, kind: str) -> Json:
    """Return a link to the console's kill page, filled in for the series that was clicked; a person presses there."""
    return {
        "title": f"Stop this {label}",
        "url": f"{CONSOLE}/kill?scope={kind}:${{__field.labels.{label}}}",
        "targetBlank": True,
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
        "annotations": {"list": [SWITCHES]},
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
        "links": list(panel.links),
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
