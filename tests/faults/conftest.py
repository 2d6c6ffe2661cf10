"""A broker for the fault tests, and what each of them does with its figures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from faults.harness import Run
from support.kafka import running


@pytest.fixture(scope="module")
def kafka(request: pytest.FixtureRequest) -> Iterator[str]:
    """Bootstrap of a real Kafka of this module's own: what earlier runs left does not slow it down."""
    jvm = "full" if request.config.getoption("--dose") == "full" else "quick"
    with running("external", "jar", jvm=jvm) as broker:
        yield broker.bootstrap


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run: a new one each time, or the one asked for."""
    given = request.config.getoption("--fault-seed")
    return random.SystemRandom().randrange(1_000_000) if given is None else int(given)


@pytest.fixture
def report(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[Run], None]:
    """Print a run's figures, and write them down if --results was given."""

    def tell(run: Run) -> None:
        with capsys.disabled():
            print(f"\n  {run.line()}")
        if request.config.getoption("--results"):
            run.write()

    return tell
