"""House rules as tests: imports go one way, the core stays pure, files stay readable."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "hitl_stream"
FILES = sorted(SOURCE.rglob("*.py"))

LAYERS = {
    "core": 0, "wire": 1, "execute": 1, "lane": 2, "metrics": 2, "settings": 2, "health": 3, "logs": 3, "client": 2,
    "adapters": 2, "roles": 3, "process": 3, "console": 3, "dev": 5, "wiring": 4, "cli": 6, "testing": 7,
}  # fmt: skip
"""A module imports from its own layer and lower ones only; so nothing of the product imports `testing`."""
ONLY = {
    "core": {"core"},
    "wire": {"core", "wire"},
    "client": {"core", "wire"},
    "metrics": {"core.events"},
    "execute": {"core"},
    "adapters": {"core", "execute", "adapters"},
    "testing": {"core", "execute"},
}
PURE = {"core": {"asyncio", "aiokafka", "time", "random", "logging", "os", "socket", "structlog", "orjson", "pathlib"}}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def part(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    here = part(path)
    if here in ("__init__", "__main__"):
        return
    for name in imports(path):
        if not name.startswith("hitl_stream."):
            continue
        there = name.split(".")[1]
        if there not in LAYERS:
            continue
        assert LAYERS[there] <= LAYERS[here], f"{here} imports {name}"
        if here in ONLY:
            assert any(name.removeprefix("hitl_stream.").startswith(allowed) for allowed in ONLY[here]), name


@pytest.mark.parametrize("path", sorted((SOURCE / "core").rglob("*.py")), ids=lambda path: path.stem)
def test_the_core_has_no_clock_no_chance_and_no_network(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & PURE["core"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))

    assert docstring
    assert docstring.split("\n")[0].endswith((".", ":", "?")), "the first line is a sentence"


def test_the_project_names_no_machine_and_no_registry() -> None:
    for path in FILES:
        text = path.read_text()
        assert "/home/" not in text
        assert "pypi.org" not in text
