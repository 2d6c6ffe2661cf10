"""What the dashboards ask of Prometheus, read from their committed JSON."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

GRAFANA = Path(__file__).parents[1] / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
_LABEL_VALUES = re.compile(r"^label_values\((.*), (\w+)\)$")


class Asked(NamedTuple):
    """One expression and where it stands."""

    where: str
    expr: str


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8")))


def builder() -> Any:
    """Import `grafana/build.py`, which is a script and not in a package."""
    spec = importlib.util.spec_from_file_location("grafana_build", GRAFANA / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked(dashboard: dict[str, Any], **chosen: str) -> Iterator[Asked]:
    """Yield every expression of panels, variables and annotations, with the variables filled in."""
    title = dashboard["title"]
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield Asked(f"{title} / {panel['title']} / {target['refId']}", filled(target["expr"], **chosen))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = _LABEL_VALUES.match(variable["definition"])
            assert found is not None, variable["definition"]
            expr = f"group by ({found[2]}) ({found[1]})"
            yield Asked(f"{title} / variable {variable['name']}", filled(expr, **chosen))
    for annotation in dashboard["annotations"]["list"]:
        yield Asked(f"{title} / annotation {annotation['name']}", filled(annotation["expr"], **chosen))


def filled(expr: str, job: str = ".*", instance: str = ".*", interval: str = "1m") -> str:
    """Return the expression as Grafana sends it."""
    expr = expr.replace("$__rate_interval", interval).replace("$job", job).replace("$instance", instance)
    assert "$" not in expr, f"an unknown variable in {expr}"
    return expr
