"""Which actions a gate looks at: of its classes, in its segment, on its days."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.policy.compile import looks
from support.make import NOW_MS, acme, action_dict, first_line, make_action, make_policy

DAY_MS = 86_400_000


@pytest.mark.behaviour("D11")
@pytest.mark.parametrize(
    ("what", "parts", "days", "looked_at"),
    [
        ("its segment", {}, 0, True),
        ("another segment", {"context": {"segment": "enterprise"}}, 0, False),
        ("no segment", {"context": {"segment": None}}, 0, False),
        ("a segment that is no text", {"context": {"segment": 7}}, 0, True),
        ("another class", {"type": "post.own"}, 0, False),
        ("before its first day", {}, -60, False),
        ("after its last day", {}, 90, False),
    ],
)
def test_a_gate_looks_at_its_classes_segment_and_days(what: str, parts: dict[str, Any], days: int, looked_at: bool):
    looks_at = looks(acme().policy, "first_line")
    assert looks_at(make_action(**{**first_line(), **_merged(parts)}), NOW_MS + days * DAY_MS) is looked_at, what


def test_a_gate_without_a_segment_looks_at_all_of_its_class():
    policy = make_policy(gates={"all": {"classes": ["bid.adjust"], "validators": ["short"], "state": "observe",
                                        "owner": "o", "from": "2026-11-01"}})  # fmt: skip
    assert looks(policy, "all")(make_action(**action_dict()), NOW_MS)


def _merged(parts: dict[str, Any]) -> dict[str, Any]:
    context = {**first_line()["context"], **parts.get("context", {})}
    return {**parts, "context": context}
