"""Which test shows which behaviour of the specification: `make behaviours`, or `pytest --behaviours`.

A test names what it shows with `@pytest.mark.behaviour("B1", "B3")`; an id that the specification does not have is an
error. The table lists every id, those without a test too. Exit code 0: a missing test is a fact, not a failure.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

COUNTS: Final[Mapping[str, int]] = {"A": 12, "B": 7, "C": 8, "D": 11, "E": 16, "I": 17, "F": 21}
"""Levels and escalation, thresholds, modes and learning, quality gates, oversight itself; invariants and faults: so
many ids each."""
BEHAVIOURS: Final[tuple[str, ...]] = tuple(
    f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)
)
NO_TEST = "no test yet"


def shown_by(items: Iterable[pytest.Item]) -> dict[str, list[str]]:
    """Return the tests of each id, each test once however many cases it has; raise `UsageError` for an unknown id."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        for mark in item.iter_markers("behaviour"):
            for name in mark.args:
                if name not in BEHAVIOURS:
                    raise pytest.UsageError(f"{item.nodeid}: there is no behaviour {name!r}")
                test = f"{item.location[0]}::{item.nodeid.partition('::')[2].partition('[')[0]}"
                if test not in found[name]:
                    found[name].append(test)
    return dict(found)


def table(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield the lines of the table, and how many ids have a test."""
    for name in BEHAVIOURS:
        first, *others = found.get(name) or [NO_TEST]
        yield f"{name:<4} {first}"
        yield from (f"     {other}" for other in others)
    yield ""
    yield f"{len(found)} of {len(BEHAVIOURS)} behaviours have a test"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--behaviours`."""
    parser.addoption("--behaviours", action="store_true", help="print which test shows which behaviour, and run none")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Find ids that do not exist, in every run; print the table where it is wanted."""
    found = shown_by(session.items)
    if session.config.getoption("behaviours"):
        writer = session.config.get_terminal_writer()
        writer.line()
        for line in table(found):
            writer.line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Run nothing where only the table is wanted."""
    return True if session.config.getoption("behaviours") else None


def main() -> int:
    """Collect all tests and print the table."""
    root = Path(__file__).parents[1]
    return pytest.main(["--rootdir", str(root), "--behaviours", "--no-header", "-q", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
