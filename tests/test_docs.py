"""The documentation: links lead somewhere, commands and tests exist, what is made from code is up to date."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from hitl_stream.cli.main import build
from hitl_stream.cli.reference import pages
from hitl_stream.metrics import Metrics
from hitl_stream.settings import NAMES
from hitl_stream.wire.topics import TABLE
from prometheus_server import feed_all
from support.docs import DOCS, ROOT, Block, blocks, commands, not_shown, spoken_of, unknown_in

PAGES = sorted(DOCS.rglob("*.md"))
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
BUILD_SECONDS_MAX = 240


# --- what is made from code -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "text"), list(pages()), ids=[path for path, _ in pages()])
def test_a_reference_page_is_what_the_code_makes(path: str, text: str) -> None:
    assert (DOCS / path).read_text("utf-8") == text, "run: python -m hitl_stream.cli.reference docs"


def test_the_reference_has_every_setting_topic_metric_and_verb() -> None:
    made = dict(pages())
    metrics = Metrics("0.1.0")
    feed_all(metrics)
    ours = {family.name for family in metrics.registry.collect() if family.name.startswith("hitl_")}
    assert all(f"| `{name}` |" in made["reference/configuration.md"] for name in NAMES)
    assert all(f"| `{name}` |" in made["reference/topics.md"] for name in TABLE)
    assert {name for name in ours if not re.search(rf"\| `{name}(_total)?` \|", made["reference/metrics.md"])} == set()
    verbs = {name for name in build() if not name.startswith("-")}
    assert {verb for verb in verbs if f"## `hitl {verb}" not in made["reference/cli.md"]} == set()


# --- what the pages say -----------------------------------------------------------------------------------------------


@EACH_PAGE
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    lost = [target for target in targets if not (page.parent / target.partition("#")[0]).exists()]
    assert lost == []


@EACH_PAGE
def test_every_command_exists_with_its_flags(page: Path) -> None:
    faults = {command: why for command in spoken_of(page.read_text("utf-8")) if (why := unknown_in(command))}
    assert faults == {}


@EACH_PAGE
def test_every_test_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page.read_text("utf-8"))
    lost = [f"{path}::{name}" for path, name in named if not _has(path, name)]
    assert lost == []


def _has(path: str, name: str) -> bool:
    return (ROOT / path).is_file() and (not name or name in _tests_of(ROOT / path))


@cache
def _tests_of(path: Path) -> frozenset[str]:
    return frozenset(node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, _FUNCTIONS))


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_promises_and_articles_name_tests() -> None:
    for page, at_least in (("guarantees", 15), ("article-14", 15)):
        text = (DOCS / "explanation" / f"{page}.md").read_text("utf-8")
        assert len(re.findall(r"`tests/[\w/]+\.py::test_\w+`", text)) >= at_least


def test_figures_that_a_page_takes_from_a_result_stand_there() -> None:
    rows = re.findall(
        r"^\| .* \| (.*) \| \[.*\]\(\.\./results/(\w+)\.md\) \|$",
        (DOCS / "how-to" / "scale.md").read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(rows) >= 5
    for said, result in rows:
        figures = re.findall(r"\d[\d,.]*\d|\d", said)
        text = (DOCS / "results" / f"{result}.md").read_text("utf-8")
        assert [figure for figure in figures if figure not in text] == [], f"measured anew? {result}.md"


# --- the site ---------------------------------------------------------------------------------------------------------


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if find_spec("mkdocs") is None or find_spec("material") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI=true, and yet no mkdocs-material; it is in the extra `docs`")
        pytest.skip("no mkdocs-material; install the extra `docs`")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS_MAX,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    home = (tmp_path / "site" / "index.html").read_text("utf-8")
    fetched = re.findall(r"<(?:link|script|img)[^>]+(?:href|src)=\"?(https?://[^\"\s>]+)", home)
    assert fetched == [], "the site loads nothing from elsewhere"
    assert (tmp_path / "site" / "runbooks" / "hitl-instance-down" / "index.html").is_file(), "where alerts link to"


# --- the helpers ------------------------------------------------------------------------------------------------------


def test_a_block_knows_its_language_its_file_and_the_comment_above() -> None:
    text = '<!-- until it shows -->\n```console\n$ a\nb\n```\n\n```yaml title="p.yaml"\nx: 1\n```\n'
    assert list(blocks(text)) == [
        Block("console", "", "until it shows", "$ a\nb\n"),
        Block("yaml", "p.yaml", "", "x: 1\n"),
    ]
    assert [(one.line, one.shown) for one in commands(next(blocks(text)))] == [("a", ("b",))]


@pytest.mark.parametrize(
    ("shown", "output", "missing"),
    [
        (("a … c",), "a b c\n", []),
        (("a", "b"), "a\nx\nb\n", []),
        (("b", "a"), "a\nb\n", ["a"]),
        (("a.c",), "abc\n", ["a.c"]),
        (("…", ""), "anything\n", []),
    ],
)
def test_what_is_shown_must_come_in_order(shown: tuple[str, ...], output: str, missing: list[str]) -> None:
    assert not_shown(shown, output) == missing


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("kill --scope campaign:cmp-7", True),
        ("kill --skope campaign:cmp-7", False),
        ("destroy everything", False),
        ("keys", True),
        ("keys seal", True),
        ("keys sael", False),
        ("run router --kafka x:1", True),
    ],
)
def test_a_command_that_does_not_exist_is_found_out(command: str, known: bool) -> None:
    assert (unknown_in(command) == "") is known


def test_commands_are_found_in_prose_and_in_blocks() -> None:
    text = "Say `hitl keys\nseal` first.\n```console\nana$ export T=$(hitl user token you)\n```\n"
    assert spoken_of(text) == {"keys seal", "user token you"}
