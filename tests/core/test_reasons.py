"""A reason as a person reads it."""

from __future__ import annotations

import pytest

from hitl_stream.core.events import Outcome
from hitl_stream.core.reasons import Reason


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (Reason("magnitude", "0.28", "0.10", Outcome.REVIEW), "magnitude 0.28 > 0.10"),
        (Reason("agent.unknown", "x-1", None, Outcome.ESCALATE), "agent.unknown x-1"),
        (Reason("tone", "0.4", "0.7", Outcome.REVIEW, counts=False), "tone 0.4 > 0.7 (observed only)"),
    ],
)
def test_a_reason_reads_as_rule_seen_and_limit(reason: Reason, text: str) -> None:
    assert str(reason) == text
