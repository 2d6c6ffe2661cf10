"""The dashboards: built from the script, readable, and about metrics that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from dashboards import FILES, GRAFANA, Asked, asked, builder, load
from hitl_stream.metrics import Metrics
from prometheus_server import feed_all

ROOT = GRAFANA.parent
RULES = sorted((GRAFANA / "prometheus" / "rules").glob("*.yml"))
EVERY = [pytest.param(load(path), id=path.stem) for path in FILES]
ASKED = [one for path in FILES for one in asked(load(path))]


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text("utf-8"))


def series() -> set[str]:
    """Return the name of every series that a process of ours can expose."""
    metrics = Metrics("0.1.0")
    feed_all(metrics)
    ours = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    return ours | {rule["record"] for path in RULES for group in read_yaml(path)["groups"] for rule in group["rules"]
                   if "record" in rule}  # fmt: skip


def selectors(node: Any) -> Iterator[promql_parser.VectorSelector]:
    """Yield every selector in a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        child = getattr(node, name, None)
        if child is not None:
            yield from selectors(child)
    for argument in getattr(node, "args", ()):
        yield from selectors(argument)


def test_there_is_a_dashboard():
    assert [path.name for path in FILES] == sorted(builder().built())


def test_what_is_committed_is_what_the_script_builds():
    for name, text in builder().built().items():
        assert (GRAFANA / "dashboards" / name).read_text("utf-8") == text, "run: python grafana/build.py"


@pytest.mark.parametrize("one", ASKED, ids=lambda one: one.where)
def test_an_expression_parses_and_asks_for_metrics_that_exist(one: Asked):
    found = list(selectors(promql_parser.parse(one.expr)))

    assert found
    assert {selector.name for selector in found} <= series()


@pytest.mark.parametrize("dashboard", EVERY)
def test_every_panel_has_a_title_a_description_a_unit_and_the_chosen_source(dashboard: dict[str, Any]):
    titles = [panel["title"] for panel in dashboard["panels"]]

    assert len(set(titles)) == len(titles)
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        for target in (panel, *panel["targets"]):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("dashboard", EVERY)
def test_panels_do_not_overlap_and_leave_no_gap_at_the_top(dashboard: dict[str, Any]):
    cells: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert cells.setdefault((x, y), panel["title"]) == panel["title"]

    assert {(x, 0) for x in range(24)} <= set(cells)


@pytest.mark.parametrize("dashboard", EVERY)
def test_a_dashboard_fits_grafana_and_its_provisioning(dashboard: dict[str, Any]):
    assert 39 <= dashboard["schemaVersion"] <= 42
    assert re.fullmatch(r"[a-z0-9-]{1,40}", dashboard["uid"])
    assert "id" not in dashboard
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert dashboard["templating"]["list"][0]["type"] == "datasource"


@pytest.mark.parametrize("dashboard", EVERY)
def test_rates_use_grafanas_interval_and_counters_are_never_shown_raw(dashboard: dict[str, Any]):
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            assert not re.search(r"\[\d", target["expr"]), "a fixed range hides data or leaves holes"
            for counter in re.findall(r"\w+_total", target["expr"]):
                assert f"rate({counter}{{" in target["expr"]


@pytest.mark.parametrize("dashboard", EVERY)
def test_links_between_dashboards_keep_time_and_variables(dashboard: dict[str, Any]):
    ours = [link for link in dashboard["links"] if link["type"] == "dashboards"]

    assert ours
    assert all(link["keepTime"] and link["includeVars"] for link in ours)


@pytest.mark.parametrize("dashboard", EVERY)
def test_grafana_cannot_act(dashboard: dict[str, Any]):
    text = json.dumps(dashboard)

    assert "POST" not in text
    assert '"actions"' not in text
    assert {panel["type"] for panel in dashboard["panels"]} <= {"stat", "timeseries"}


# ── files beside the dashboards ─────────────────────────────────────────────────────────────────────────────────────


def test_the_provisioned_source_is_a_prometheus_of_the_compose_file():
    (source,) = read_yaml(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]

    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    assert "prometheus" in read_yaml(ROOT / "docker-compose.yml")["services"]


def test_the_provisioned_directory_is_where_the_compose_file_mounts_the_dashboards():
    (provider,) = read_yaml(GRAFANA / "provisioning" / "dashboards" / "hitl.yaml")["providers"]
    mounts = read_yaml(ROOT / "docker-compose.yml")["services"]["grafana"]["volumes"]

    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounts


def test_the_time_interval_of_the_source_is_the_scrape_interval():
    (source,) = read_yaml(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    scraping = read_yaml(GRAFANA / "prometheus" / "prometheus.yml")

    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]


def test_prometheus_scrapes_only_services_of_the_compose_file():
    services = read_yaml(ROOT / "docker-compose.yml")["services"]

    for job in read_yaml(GRAFANA / "prometheus" / "prometheus.yml")["scrape_configs"]:
        for config in job["static_configs"]:
            for target in config["targets"]:
                host = target.split(":")[0]
                assert host in services or host == "127.0.0.1"


def services() -> list[Any]:
    return [pytest.param(one, id=name) for name, one in read_yaml(ROOT / "docker-compose.yml")["services"].items()]


@pytest.mark.parametrize("service", services())
def test_a_service_is_pinned_checked_and_reachable_from_this_machine_only(service: dict[str, Any]):
    assert re.search(r":(v?\d+\.\d+(\.\d+)?|local)$", service["image"])
    if service.get("restart"):
        # What runs for good can be asked how it is; what prepares or publishes ends, or shows in the others.
        assert service["healthcheck"]["test"][0] == "CMD"
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert "privileged" not in service


def test_every_volume_of_the_compose_file_is_declared_or_in_the_repository():
    compose = read_yaml(ROOT / "docker-compose.yml")

    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]


def test_every_setting_in_the_compose_file_and_the_image_exists():
    from hitl_stream.settings import NAMES

    texts = [(ROOT / name).read_text("utf-8") for name in ("docker-compose.yml", "Dockerfile")]
    named = {name.lower() for text in texts for name in re.findall(r"HITL_([A-Z_]+)[:=]", text)}

    assert named
    assert {name.removesuffix("_file") for name in named} <= set(NAMES)


def test_the_image_does_not_run_as_root():
    users = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text("utf-8"), re.MULTILINE)

    assert users == ["hitl"]
