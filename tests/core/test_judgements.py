"""The fold over what people said: whatever order it comes in, and only what can be known is called wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from hitl_stream.core.judgements import Due, Ended, Judgement, Judgements, Running, Spoken, subject_of
from hitl_stream.core.review import State
from hitl_stream.core.standing import Invariant, Where

OF = subject_of("acme", "act-1", "9f", "2026-11-21T07:10:00.140Z")
MINUTE = 60_000


class Found:
    """What a fold finds."""

    def __init__(self, **options: object) -> None:
        self.wrong: list[tuple[str, str]] = []
        self.judgements = Judgements(self.passed, **options)  # type: ignore[arg-type]

    def passed(self, invariant: Invariant, fault: str | None, places: Sequence[str]) -> None:
        assert places
        if fault is not None:
            self.wrong.append((invariant, fault))


def judgement(number: int = 0, **parts: object) -> Judgement:
    fields: dict[str, object] = {
        "item": "i1", "jti": f"v-{number}", "jws": f"jws-{number}", "effect": "applied", "verdict": "approve",
        "by": "tess", "hash": "9f", "purpose": "decide", "of": OF, "source": f"hitl.verdicts/0/{number}",
        "appended_ms": MINUTE,
    }  # fmt: skip
    return Judgement(**fields | parts)  # type: ignore[arg-type]


def ended(state: State = State.APPROVED, **parts: object) -> Ended:
    fields: dict[str, object] = {
        "item": "i1", "state": state.value, "purpose": "decide", "of": OF, "dues": (Due(1, ("tess",), 2 * MINUTE),),
        "execute_by_ms": 9 * MINUTE, "ended_ms": MINUTE,
    }  # fmt: skip
    return Ended(**fields | parts)  # type: ignore[arg-type]


def running(*numbers: int) -> Running:
    return Running(of=OF, hash="9f", jws=tuple(f"jws-{n}" for n in numbers), given_ms=(MINUTE,) * len(numbers))


STEPS: tuple[Callable[[Judgements], None], ...] = (
    lambda fold: fold.spoke(Spoken("jws-0", "i1", "v-0"), ("hitl.verdicts", 0, 0), MINUTE),
    lambda fold: fold.decided(judgement(), ("hitl.decisions", 0, 0)),
    lambda fold: fold.runs(running(0), ("hitl.execute", 0, 0)),
    lambda fold: fold.ended(ended(), ("hitl.reviews", 0, 1)),
)


@pytest.mark.parametrize("order", [*itertools.permutations(range(4))])
def test_topics_may_be_read_in_any_order(order: tuple[int, ...]):
    found = Found()
    for number in order:
        STEPS[number](found.judgements)
    found.judgements.close({0: 1})
    assert found.wrong == []


@pytest.mark.parametrize(
    ("missing", "wrong"),
    [
        (0, []),  # past its retention, or not yet there: the others say it all
        (1, ["has no answer", "nobody has judged"]),
        (2, ["neither runs nor lies parked"]),
        (3, []),
    ],
)
def test_what_is_missing_is_named(missing: int, wrong: list[str]):
    found = Found()
    for number, step in enumerate(STEPS):
        if number != missing:
            step(found.judgements)
    found.judgements.close({0: 1})
    assert len(found.wrong) == len(wrong)
    assert all(words in what for (_, what), words in zip(found.wrong, wrong, strict=True))


def test_an_item_that_ended_without_a_verdict_of_its_own_is_followed_all_the_same():
    for state, expected in ((State.APPROVED, 1), (State.EXPIRED, 0)):
        found = Found()
        found.judgements.closed(OF, Where.EXPIRED, ("hitl.closed", 0, 0))
        found.judgements.ended(ended(state), ("hitl.reviews", 0, 1))
        found.judgements.close({})
        assert len(found.wrong) == expected, state


@pytest.mark.parametrize("effect", ["conflict", "late", "refused"])
def test_a_verdict_that_did_not_count_has_no_follow_and_carries_nothing(effect: str):
    found = Found()
    found.judgements.decided(judgement(effect=effect), ("hitl.decisions", 0, 0))
    found.judgements.close({})
    assert found.wrong == []
    found.judgements.runs(running(0), ("hitl.execute", 0, 0))
    found.judgements.close({})
    assert [what for _, what in found.wrong] == [f"runs by a verdict that did not count ({effect})"]


@pytest.mark.parametrize(
    ("dues", "by", "word", "appended_ms", "late"),
    [
        ((Due(1, ("tess",), 2 * MINUTE),), "tess", "approve", 2 * MINUTE - 1, False),
        ((Due(1, ("tess",), 2 * MINUTE),), "tess", "approve", 2 * MINUTE, True),
        # Two queues: each by its own time.
        ((Due(1, ("tess",), MINUTE), Due(1, ("mia",), 5 * MINUTE)), "mia", "approve", 4 * MINUTE, False),
        ((Due(1, ("tess",), MINUTE), Due(1, ("mia",), 5 * MINUTE)), "Tess ", "approve", 4 * MINUTE, True),
        # A rejection comes in time while nothing that is missing is over.
        ((Due(1, ("tess",), MINUTE), Due(1, (), 5 * MINUTE)), "mia", "reject", 4 * MINUTE, False),
        ((Due(1, (), MINUTE), Due(1, (), 5 * MINUTE)), "mia", "reject", 4 * MINUTE, True),
        ((), "tess", "approve", 9 * MINUTE - 1, False),
        ((), "tess", "approve", 9 * MINUTE, True),
    ],
)
def test_a_verdict_comes_before_the_time_of_its_approval_is_over(
    dues: tuple[Due, ...], by: str, word: str, appended_ms: int, late: bool
):
    found = Found()
    one = judgement(by=by, verdict=word, appended_ms=appended_ms, effect="waiting")
    found.judgements.decided(one, ("hitl.decisions", 0, 0))
    found.judgements.ended(ended(State.PARKED, dues=dues, purpose="audit"), ("hitl.reviews", 0, 0))
    found.judgements.close({})
    assert [invariant for invariant, _ in found.wrong] == (["I11"] if late else [])


def test_one_verdict_that_stands_in_two_places_counts_once():
    found = Found()
    for number in range(2):
        one = judgement(number, jti="v-0", effect="waiting", verdict="escalate")
        found.judgements.decided(one, ("hitl.decisions", 0, number))
    found.judgements.close({})
    assert found.wrong == [("I6", "item i1: the same verdict counted twice")]


def test_what_runs_rests_on_verdicts_about_one_item():
    found = Found()
    for number, item in enumerate(("i1", "i2")):
        one = judgement(number, item=item, by=item, effect="waiting")
        found.judgements.decided(one, ("hitl.decisions", 0, number))
    found.judgements.runs(running(0, 1), ("hitl.execute", 0, 0))
    found.judgements.close({})
    assert found.wrong == [("I6", "runs by verdicts on 2 items")]


def test_what_may_have_been_deleted_is_not_demanded():
    found = Found()
    for step in (STEPS[0], STEPS[2], STEPS[3]):
        step(found.judgements)
    found.judgements.close({0: 1}, {0: MINUTE + 1})
    assert found.wrong == []


def test_copies_that_may_be_the_routers_are_one():
    found = Found()
    found.judgements.decided(judgement(), ("hitl.decisions", 0, 0))
    found.judgements.parked(OF, ("hitl.held", 0, 0), sure=False)
    found.judgements.parked(OF, ("hitl.held", 0, 1), sure=False)
    found.judgements.close({})
    assert found.wrong == []
    found.judgements.parked(OF, ("hitl.held", 0, 2))
    found.judgements.close({})
    assert [what for _, what in found.wrong] == ["what people decided once goes 2 ways: is parked, is parked"]


@pytest.mark.parametrize("source", ["", "x", "x/1", "x/1/", "x//1", "x/a/1", "x/1/²"])
def test_a_source_that_is_no_place_is_named(source: str):
    found = Found()
    found.judgements.decided(judgement(source=source), ("hitl.decisions", 0, 0))
    assert [what for _, what in found.wrong] == [f"names {source} as its verdict, which is no place"]
