"""Brokers for the session, each started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.kafka import Topics, running


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap of a real Kafka: the one that HITL_KAFKA names, else one from the jars."""
    with running("external", "jar") as broker:
        yield broker.bootstrap


@pytest.fixture(scope="session")
def noida() -> Iterator[str]:
    """Bootstrap of a noida-db."""
    with running("noida") as broker:
        yield broker.bootstrap


@pytest.fixture
def topics(kafka: str) -> Topics:
    """Makes topics on `kafka` under a prefix of this test's own."""
    return Topics(kafka)
