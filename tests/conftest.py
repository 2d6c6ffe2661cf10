"""Options of the whole suite: how much of the fault tests, whether their figures are written down; `--behaviours`."""

from __future__ import annotations

import os

import pytest

pytest_plugins = ["behaviours"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --dose and --results."""
    group = parser.getgroup("faults", "fault tests")
    dose = os.environ.get("HITL_FAULTS", "short")
    group.addoption("--dose", choices=("short", "full"), default=dose, help="short (default; HITL_FAULTS) or full")
    group.addoption("--results", action="store_true", help="append the figures to docs/results/faults.md")
    group.addoption("--fault-seed", type=int, default=None, help="replay a run: its seed, as it was printed")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Say whether the long dose is wanted: `make faults`, HITL_FAULTS=full."""
    return bool(request.config.getoption("--dose") == "full")
