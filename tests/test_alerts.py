"""The alerts: each can fire and stays silent nearby, has a page that says what to do, and asks for what there is."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from dashboards import GRAFANA
from hitl_stream.core.switches import KINDS
from hitl_stream.core.tripwires import WIRES
from hitl_stream.metrics import ControlMetrics, DeskMetrics, ExecutorMetrics, LaneMetrics, Metrics, MonitorMetrics
from prometheus_server import FIGURES, feed_all, needs_tool
from support.docs import unknown_in
from test_grafana import selectors

ROOT = GRAFANA.parent
RULES = sorted((GRAFANA / "prometheus" / "rules").glob("*.yml"))
UNIT_TESTS = sorted((ROOT / "tests" / "promtool").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
HEADINGS = ["## What it means", "## How to see it", "## What to do", "## How to undo it"]


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text("utf-8"))


def every_rule() -> list[dict[str, Any]]:
    return [rule for path in RULES for group in read_yaml(path)["groups"] for rule in group["rules"]]


ALERTS = [rule for rule in every_rule() if "alert" in rule]
EACH = pytest.mark.parametrize("alert", ALERTS, ids=lambda rule: rule["alert"])


@cache
def known() -> frozenset[str]:
    """Return every series that there is: our processes', the recorded ones, and Prometheus' own."""
    metrics = Metrics("0.1.0")
    feed_all(metrics)
    ours = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    return frozenset(ours | {rule["record"] for rule in every_rule() if "record" in rule} | {"up"})


@pytest.mark.parametrize("rule", every_rule(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_asks_for_series_that_there_are(rule: dict[str, Any]) -> None:
    found = {selector.name for selector in selectors(promql_parser.parse(rule["expr"]))}
    assert found
    assert found <= known()


@EACH
def test_an_alert_says_how_urgent_it_is_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket", "info")
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["description"].endswith(".")
    assert page_of(alert).is_file()


@EACH
def test_its_page_says_what_it_means_how_to_see_it_what_to_do_and_how_to_undo_that(alert: dict[str, Any]) -> None:
    text = page_of(alert).read_text("utf-8")
    assert text.startswith(f"# {alert['alert']}\n\nSeverity: {alert['labels']['severity']}:")
    assert re.findall(r"^## .*$", text, re.MULTILINE) == HEADINGS
    assert all(part.strip() for part in re.split(r"^## .*$", text, flags=re.MULTILINE))


GROWING = re.compile(r"increase\((\w+)[{\[]")


def test_whatever_an_alert_sees_grow_is_there_before_it_grows() -> None:
    """Prometheus sees no growth in a series that begins with its first event, and the first one is the worst."""
    metrics = Metrics("0.1.0")
    DeskMetrics(metrics).watch("trading", list, lambda: 0, "eva")
    ExecutorMetrics(metrics)
    ControlMetrics(metrics, WIRES, KINDS)
    MonitorMetrics(metrics).queues({"trading": FIGURES})
    LaneMetrics("router", metrics)
    there = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    grow = {name for alert in ALERTS for name in GROWING.findall(alert["expr"])}
    assert len(grow) > 5
    assert grow <= there


def test_there_is_no_page_without_an_alert() -> None:
    assert {page.name for page in RUNBOOKS.glob("*.md")} == {page_of(alert).name for alert in ALERTS} | {"README.md"}
    index = (RUNBOOKS / "README.md").read_text("utf-8")
    assert all(f"[{alert['alert']}]({page_of(alert).name})" in index for alert in ALERTS)


def page_of(alert: dict[str, Any]) -> Path:
    return RUNBOOKS / f"{alert['annotations']['runbook_url'].rstrip('/').rpartition('/')[2]}.md"


def commands() -> list[str]:
    found = {
        command
        for page in RUNBOOKS.glob("*.md")
        for command in re.findall(r"`hitl ([a-z][^`]*)`", page.read_text("utf-8").replace("\n", " "))
    }
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_every_command_on_the_pages_exists(command: str) -> None:
    """Every verb, and every flag of it: nobody has time to guess at night."""
    assert unknown_in(command, groups=False) == ""


def test_every_alert_is_tried_both_ways() -> None:
    names = [test["name"] for path in UNIT_TESTS for test in read_yaml(path)["tests"]]
    assert sorted(names) == sorted(f"{rule['alert']} {how}" for rule in ALERTS for how in ("fires", "does not"))
    for path in UNIT_TESTS:
        for test in read_yaml(path)["tests"]:
            (tried,) = test["alert_rule_test"]
            assert f"{tried['alertname']} {'fires' if tried['exp_alerts'] else 'does not'}" == test["name"]


@needs_tool("promtool")
@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.name)
def test_alerts_fire_and_stay_silent_as_they_should(path: Path) -> None:
    run("promtool", "test", "rules", str(path))


@needs_tool("promtool")
def test_prometheus_takes_the_configuration_with_all_its_rules() -> None:
    said = run("promtool", "check", "config", str(GRAFANA / "prometheus" / "prometheus.yml"))
    assert said.count("rules found") == len(RULES)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- who is told ------------------------------------------------------------------------------------------------------

ALERTMANAGER = read_yaml(GRAFANA / "alertmanager" / "alertmanager.yml")


def test_whatever_wakes_somebody_goes_where_somebody_is_woken() -> None:
    routes = {tuple(route["matchers"]): route["receiver"] for route in ALERTMANAGER["route"]["routes"]}
    assert routes == {('severity="page"',): "pages", ('severity="info"',): "nobody"}
    assert ALERTMANAGER["route"]["receiver"] == "tickets"
    assert {one["name"] for one in ALERTMANAGER["receivers"]} == {"pages", "tickets", "nobody"}


def test_what_is_silenced_and_by_what_are_alerts_that_there_are() -> None:
    names = {rule["alert"] for rule in ALERTS}
    for rule in ALERTMANAGER["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            wanted = re.fullmatch(r'alertname=~?"([\w|]+)"', matcher)
            assert wanted is not None, matcher
            assert set(wanted[1].split("|")) <= names


def test_throughput_and_approvals_are_silent_while_a_switch_is_engaged() -> None:
    silenced = [
        rule["target_matchers"]
        for rule in ALERTMANAGER["inhibit_rules"]
        if rule["source_matchers"] == ['alertname="HitlKillEngaged"']
    ]
    assert silenced == [['alertname=~"HitlThroughputDropped|HitlApprovalShifted"']]
