"""What is listed as a candidate for going without its gate, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from hitl_stream.core.action import Agent
from hitl_stream.core.candidates import HARMLESS, UNDONE, Seen, ranked
from hitl_stream.core.policy.lint import CEILINGS, PROTECTED

CLEAN = {"items": 700, "days": 70.0, "errors": {"tone": 0.01}, "borne": {"tone": 0.05}, "caught": {"tone": 9}}


def seen(gate: str = "g", *consequences: tuple[str, ...], **more: Any) -> Seen:
    return Seen(gate=gate, agent=Agent("a", "1"), consequences=consequences or (("record",),), **CLEAN | more)


@pytest.mark.behaviour("E13")
def test_candidates_are_ranked_by_volume_times_low_consequence_times_reversibility():
    found = ranked([
        seen("sent", ("prospect",)), seen("own", ("own_content",)), seen("entry", ("record",)),
        seen("draft", ("internal",), items=7_000), seen("rare", ("internal",), items=10),
    ])  # fmt: skip
    assert [one.gate for one in found] == ["draft", "entry", "own", "sent", "rare"]
    for one in found:
        assert one.score == one.per_week * one.harmless * one.undone


@pytest.mark.behaviour("A8")
@pytest.mark.behaviour("E12")
@pytest.mark.parametrize(
    "more",
    [{"caught": {}}, {"caught": {"tone": 0}}, {"errors": {"tone": 0.06}}, {"items": 0, "errors": {}}],
    ids=["no canary", "none caught", "more errors than borne", "nothing judged"],
)
def test_only_what_was_looked_at_and_found_right_is_listed(more: dict[str, Any]):
    assert len(ranked([seen()])) == 1
    assert ranked([seen(**more)]) == ()


def test_every_type_of_error_must_have_been_looked_for():
    borne = {"tone": 0.05, "factual": 0.05}
    assert ranked([seen(borne=borne)]) == ()
    assert len(ranked([seen(borne=borne, caught={"tone": 1, "factual": 1})])) == 1


@pytest.mark.behaviour("E14")
@pytest.mark.parametrize("consequence", [(), *[(one,) for one in sorted(PROTECTED)], ("record", "financial")])
def test_a_protected_class_is_never_a_candidate(consequence: tuple[str, ...]):
    assert ranked([seen("g", consequence)]) == ()


def test_of_several_classes_the_worst_that_may_lose_the_gate_counts():
    (one,) = ranked([seen("g", ("record",), ("prospect",), ("financial",))])
    assert (one.harmless, one.undone) == (HARMLESS["prospect"], UNDONE["prospect"])


def test_a_week_is_the_least_that_volume_is_taken_over():
    (one,) = ranked([seen(items=100, days=1.0)])
    assert one.per_week == 100


def test_every_consequence_that_is_not_protected_has_its_place():
    free = {one for one in CEILINGS if one not in PROTECTED}
    assert free == set(HARMLESS) == set(UNDONE)
