"""Options of the whole suite: how much of the fault tests, whether figures and pictures are kept; `--behaviours`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

pytest_plugins = ["behaviours"]
os.environ.pop("COLUMNS", None)  # a worker of pytest-xdist has one, and rich would keep it for good
TOGETHER = ("adapters", "browser", "console", "core", "flow", "lane", "roles", "wire", "test_architecture.py")
"""Tests that start no broker and no role, and may run beside anything: with `-n 2` on the other core."""
DEMOS = ("test_demo_console.py", "test_demo_batches.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --dose and --results."""
    group = parser.getgroup("faults", "fault tests")
    dose = os.environ.get("HITL_FAULTS", "short")
    group.addoption("--dose", choices=("short", "full"), default=dose, help="short (default; HITL_FAULTS) or full")
    group.addoption("--results", action="store_true", help="append the figures to docs/results/faults.md")
    pictures = "write pictures of the console's pages to docs/img"
    parser.getgroup("browser", "browser tests").addoption("--screenshots", action="store_true", help=pictures)
    group.addoption("--fault-seed", type=int, default=None, help="replay a run: its seed, as it was printed")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 2`: what starts brokers and roles runs on one worker, one test after the other, the rest on the other.

    Such tests watch how long things take, and look for ports that are free. (Groups by mark would say the same, but
    pytest-xdist 3.8 cannot tell them with this pytest: it writes them where nodeid is no longer read from.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = Path(nodeid.partition("::")[0])
            alone = file.parts[1] not in TOGETHER or file.name in DEMOS
            return "processes" if alone else str(file)

    return ByPlace(config, log)


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    """Say whether the long dose is wanted: `make faults`, HITL_FAULTS=full."""
    return bool(request.config.getoption("--dose") == "full")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Take back what a test, or a command that it called, configured: its stream is closed by then."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
