"""Where an action stands: every way that it can go has one place, and every way that it cannot has a fault."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.standing import ASKED, NAMES, Chain, Copy, Fault, Parker, Told, Where, judge

ALL = 10**9
"""As if everything on `held` had been taken up."""
EXECUTE, REVIEW, ESCALATION = Where.EXECUTE, Where.REVIEW, Where.ESCALATION
EXECUTED, FAILED, UNRESOLVED, REJECTED, EXPIRED = (
    Where.EXECUTED, Where.FAILED, Where.UNRESOLVED, Where.REJECTED, Where.EXPIRED
)  # fmt: skip
Said = tuple[int, Where]


def chain(
    *answers: Said, held: tuple[tuple[object, ...], ...] = (), approved: tuple[int, ...] = (),
    ends: tuple[Said, ...] = (), owed: tuple[int, ...] = ()
) -> Chain:  # fmt: skip
    """Return a chain; `held` are (attempt, by) or (attempt, by, again), at offsets 0, 1, …"""
    found = Chain(
        [Told(*one) for one in answers], [], list(approved), [Told(*one) for one in ends], set(owed)
    )  # fmt: skip
    for offset, (attempt, by, *again) in enumerate(held):
        found.park(Copy(offset, attempt, by, *again))  # type: ignore[arg-type]
    return found


def parked(attempt: int = 0, by: Parker = "router", again: bool | None = None) -> tuple[int, Parker, bool | None]:
    return attempt, by, again


def back(attempt: int = 0) -> tuple[int, Parker, bool]:
    """Return a copy that an executor wrote."""
    return attempt, "executor", False


def again(attempt: int = 0, by: Parker = "router") -> tuple[int, Parker, bool]:
    """Return a copy that the router wrote."""
    return attempt, by, True


WAYS: dict[str, tuple[Chain, Where]] = {
    "decided to run": (chain((0, EXECUTE)), EXECUTE),
    "sent to people": (chain((0, REVIEW)), REVIEW),
    "sent to seniors": (chain((0, ESCALATION)), ESCALATION),
    "executed": (chain((0, EXECUTE), ends=((0, EXECUTED),), owed=(0,)), EXECUTED),
    "refused by the platform": (chain((0, EXECUTE), ends=((0, FAILED),)), FAILED),
    "unresolved": (chain((0, EXECUTE), ends=((0, UNRESOLVED),)), UNRESOLVED),
    "unresolved, then executed": (chain((0, EXECUTE), ends=((0, UNRESOLVED), (0, EXECUTED))), EXECUTED),
    "unresolved, then failed": (chain((0, EXECUTE), ends=((0, UNRESOLVED), (0, FAILED))), FAILED),
    "closed by an executor": (chain((0, EXECUTE), ends=((0, Where.STALE),)), Where.STALE),
    "none of an executor's": (chain((0, EXECUTE), ends=((0, Where.DEAD),), owed=(0,)), Where.DEAD),
    "refused at once": (chain((0, Where.LATE)), Where.LATE),
    "recommended": (chain((0, Where.RECOMMENDED)), Where.RECOMMENDED),
    "moved": (chain((0, Where.MOVED)), Where.MOVED),
    "rejected": (chain((0, REVIEW), ends=((0, REJECTED),)), REJECTED),
    "approved": (chain((0, REVIEW), approved=(0,)), EXECUTE),
    "approved by a senior, and executed": (chain((0, ESCALATION), approved=(0,), ends=((0, EXECUTED),)), EXECUTED),
    "parked, run": (chain((0, EXECUTE), held=(parked(),)), EXECUTE),
    "parked twice, run": (chain((0, EXECUTE), held=(parked(), parked())), EXECUTE),
    "parked, to people, approved, executed": (
        chain((0, REVIEW), held=(again(), again()), approved=(0,), ends=((0, EXECUTED),)),
        EXECUTED,
    ),
    "parked, overdue": (chain((0, EXPIRED), held=(parked(),)), EXPIRED),
    "parked, then nobody could read it": (chain((0, Where.DEAD), held=(parked(),)), Where.DEAD),
    "sent back, decided again": (chain((0, EXECUTE), (1, EXECUTE), held=(back(),), owed=(0,)), EXECUTE),
    "sent back, sent to people": (chain((0, EXECUTE), (1, REVIEW), held=(parked(0, "executor"),)), REVIEW),
    "sent back, parked again, decided, executed": (
        chain((0, EXECUTE), (1, EXECUTE), held=(back(), again(0, "executor")), ends=((1, EXECUTED),), owed=(0, 1)),
        EXECUTED,
    ),
    "sent back, parked again, and no seal tells who": (
        chain((0, EXECUTE), (1, EXECUTE), held=(parked(0, "executor"), parked(0, "executor"))),
        EXECUTE,
    ),
    "sent back, overdue": (chain((0, EXECUTE), (0, EXPIRED), held=(back(),)), EXPIRED),
    "sent back twice, executed": (
        chain((0, EXECUTE), (1, EXECUTE), (2, EXECUTE), held=(back(0), back(1)), ends=((2, EXECUTED),)),
        EXECUTED,
    ),
    "sent back twice, overdue": (chain((0, EXECUTE), (1, EXECUTE), (1, EXPIRED), held=(back(0), back(1))), EXPIRED),
    "parked, run, sent back, refused": (
        chain((0, EXECUTE), (1, Where.POLICY), held=(again(), back())),
        Where.POLICY,
    ),
    "approved, sent back, to people again": (
        chain((0, REVIEW), (1, REVIEW), held=(back(),), approved=(0,)),
        REVIEW,
    ),
    "approved while it was covered, then rejected": (
        chain((0, REVIEW), (0, REVIEW), held=(parked(0, "desk", False),), ends=((0, REJECTED),)),
        REJECTED,
    ),
    "parked by the desk twice": (
        chain((0, REVIEW), (0, REVIEW), (0, REVIEW), held=((0, "desk", False), (0, "desk", True), (0, "desk", False))),
        REVIEW,
    ),
    "parked by the desk, and no seal tells how often": (
        chain((0, REVIEW), (0, REVIEW), (0, REVIEW), held=(parked(0, "desk"), parked(0, "desk"))),
        REVIEW,
    ),
    "an approval that is forged ends nothing": (
        chain((0, EXECUTE), ends=((0, Where.UNSEALED), (0, EXECUTED))),
        EXECUTED,
    ),
    "an approval that does not hold": (
        chain((0, REVIEW), approved=(0,), ends=((0, Where.UNSEALED),)),
        Where.UNSEALED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_every_way_has_one_place_and_no_fault(name: str):
    found, where = WAYS[name]
    assert judge(found, ALL, ALL) == (where, ())


PARKED = {
    "parked": chain(held=(parked(),)),
    "sent back": chain((0, EXECUTE), held=(back(),), owed=(0,)),
    "sent back again": chain((0, EXECUTE), (1, EXECUTE), held=(back(0), back(1)), owed=(0, 1)),
    "parked by the desk": chain((0, REVIEW), held=((0, "desk", False),)),
}


@pytest.mark.parametrize("name", PARKED)
def test_what_was_not_taken_up_lies_on_held(name: str):
    assert judge(PARKED[name], 0, 0) == (Where.HELD, ())


@pytest.mark.parametrize("name", PARKED)
def test_what_was_taken_up_and_has_no_answer_is_lost(name: str):
    where, faults = judge(PARKED[name], ALL, ALL)

    assert where is not Where.HELD
    assert [(fault.kind, fault.invariants) for fault in faults] == [("lost", ("I1", "I14"))]


@pytest.mark.parametrize("name", PARKED)
def test_while_the_router_worked_its_answer_tells_whether_it_was_taken_up(name: str):
    found = PARKED[name]
    assert judge(found, 0, ALL) == (Where.HELD, ())
    due = max(told.attempt for told in found.answers) + 1 if "sent" in name else 0
    answered = replace(found, answers=[*found.answers, Told(due, EXECUTE)])
    assert judge(answered, 0, ALL) == (EXECUTE, ())


FAULTS: dict[str, tuple[Chain, set[str]]] = {
    "no answer": (chain(), {"I1", "I14"}),
    "two answers": (chain((0, EXECUTE), (0, REVIEW)), {"I1"}),
    "run twice": (chain((0, EXECUTE), (0, EXECUTE)), {"I1"}),
    "parked once, and run twice": (chain((0, EXECUTE), (0, EXECUTE), held=(parked(),)), {"I1"}),
    "an attempt without a send-back": (chain((0, EXECUTE), (1, EXECUTE)), {"I2"}),
    "an attempt after the router's own parking": (chain((1, EXECUTE), held=(parked(),)), {"I1", "I14", "I2"}),
    "an attempt is left out": (chain((0, EXECUTE), (2, EXECUTE), held=(back(),)), {"I1", "I14", "I2"}),
    "two answers after one send-back": (chain((0, EXECUTE), (1, EXECUTE), (1, EXECUTE), held=(back(),)), {"I1"}),
    "sent back, and run under the same attempt": (
        chain((0, EXECUTE), (0, EXECUTE), held=(back(),)),
        {"I1", "I14"},
    ),
    "ended twice": (chain((0, EXECUTE), ends=((0, EXECUTED), (0, FAILED))), {"I1"}),
    "executed, then unresolved": (chain((0, EXECUTE), ends=((0, EXECUTED), (0, UNRESOLVED))), {"I1"}),
    "unresolved twice": (chain((0, EXECUTE), ends=((0, UNRESOLVED), (0, UNRESOLVED))), {"I1"}),
    "unresolved, then closed": (chain((0, EXECUTE), ends=((0, UNRESOLVED), (0, Where.STALE))), {"I1"}),
    "refused, and executed": (chain((0, Where.LATE), ends=((0, EXECUTED),)), {"I1"}),
    "recommended, and executed": (chain((0, Where.RECOMMENDED), ends=((0, EXECUTED),)), {"I1"}),
    "executed, and sent back": (chain((0, EXECUTE), (1, EXECUTE), held=(back(),), ends=((0, EXECUTED),)), {"I2"}),
    "refused, and then parked": (
        chain((0, Where.LATE), (1, EXECUTE), held=(back(),)),
        {"I1"},
    ),
    "approved, and never sent to people": (chain((0, EXECUTE), approved=(0,)), {"I3"}),
    "approved twice": (chain((0, REVIEW), approved=(0, 0)), {"I1"}),
    "done with, and no end": (chain((0, EXECUTE), owed=(0,)), {"I1", "I14"}),
    "the second attempt done with, and no end": (
        chain((0, EXECUTE), (1, EXECUTE), held=(back(),), owed=(0, 1)),
        {"I1", "I14"},
    ),
    "a copy of an attempt that was never decided": (chain((0, EXECUTE), held=(back(1),)), {"I1", "I14", "I2"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_way_that_cannot_be_has_a_fault(name: str):
    found, expected = FAULTS[name]
    assert _invariants(judge(found, ALL, ALL).faults) == expected


def test_what_lies_parked_cannot_have_gone_on():
    decided = judge(chain((0, EXECUTE), held=(parked(),)), 0, 0)
    assert (decided.where, _invariants(decided.faults)) == (Where.HELD, {"I14"})
    rejected = judge(chain((0, REVIEW), held=((0, "desk", False),), ends=((0, REJECTED),)), 0, 0)
    assert _invariants(rejected.faults) == {"I1"}


def _invariants(faults: tuple[Fault, ...]) -> set[str]:
    return {invariant for fault in faults for invariant in fault.invariants}


def test_many_passes_leave_one_copy_in_memory():
    found = chain(held=((0, "executor", False), *[(0, "executor", True)] * 1_000))
    assert found.copies == [Copy(1_000, 0, "executor", False)]


def test_every_place_has_a_name_of_its_own():
    assert len(set(NAMES.values())) == len(Where)


# --- whatever happens -------------------------------------------------------------------------------------------------


@st.composite
def ways(draw: st.DrawFn, sealed: bool = True) -> tuple[Chain, Where]:
    """Return a chain as the roles write it, step by step, and where it stands."""
    known: Callable[[bool], bool | None] = (lambda is_: is_) if sealed else (lambda _: None)
    found, where, attempt, offset = Chain(), None, 0, 0
    by: Parker = "router"
    for _ in range(draw(st.integers(1, 8))):
        if where is None or where is Where.HELD:
            where = draw(st.sampled_from((EXECUTE, REVIEW, ESCALATION, Where.HELD, Where.POLICY, EXPIRED)))
            before = found.copies[-1] if found.copies else None
            if where is Where.HELD:
                found.park(Copy(offset, attempt, by, known(True) if before is not None else True))
                offset += 1
                continue
            if before is not None and by == "executor" and where is not EXPIRED:
                attempt += 1
            found.answers.append(Told(attempt, where))
        elif where is EXECUTE:
            step = draw(st.sampled_from(("back", "end", "wait")))
            if step == "back":
                found.park(Copy(offset, attempt, "executor", known(False)))
                found.owed.add(attempt)
                where, by, offset = Where.HELD, "executor", offset + 1
            elif step == "end":
                found.owed.add(attempt)
                where = draw(st.sampled_from((EXECUTED, FAILED, UNRESOLVED, Where.STALE)))
                found.ends.append(Told(attempt, where))
        elif where in (REVIEW, ESCALATION):
            step = draw(st.sampled_from(("approve", "reject", "park")))
            if step == "approve":
                found.approved.append(attempt)
                where = EXECUTE
            elif step == "reject":
                where = REJECTED
                found.ends.append(Told(attempt, where))
            else:
                found.park(Copy(offset, attempt, "desk", known(False)))
                where, by, offset = Where.HELD, "desk", offset + 1
        elif where is UNRESOLVED:
            where = draw(st.sampled_from((EXECUTED, FAILED)))
            found.ends.append(Told(attempt, where))
    assert where is not None
    return found, where


def taken_up(where: Where, found: Chain) -> int:
    """Return up to where the router has committed `held`."""
    return found.copies[-1].offset if where is Where.HELD and found.copies else ALL


@given(ways())
def test_whatever_the_roles_do_it_stands_where_they_left_it(way: tuple[Chain, Where]):
    found, where = way
    committed = taken_up(where, found)
    judged = judge(found, committed, committed)
    assert judged.faults == ()
    # Which of two queues it was sent to last, after the desk had parked it, no order between topics tells.
    assert judged.where in ASKED if where in ASKED else judged.where is where


@given(ways(sealed=False))
def test_without_seals_no_false_alarm_is_raised(way: tuple[Chain, Where]):
    found, where = way
    committed = taken_up(where, found)
    assert judge(found, committed, committed).faults == ()


@given(way=ways(), seed=st.integers(0, 2**32))
def test_one_record_more_or_less_is_found(way: tuple[Chain, Where], seed: int):
    found, where = way
    committed = taken_up(where, found)
    lot = random.Random(seed)
    plants = [_lose, _double, _end_again, _skip_ahead]
    lot.shuffle(plants)
    for plant in plants:
        spoiled = plant(found, lot)
        if spoiled is not None:
            assert judge(spoiled, committed, committed).faults, plant.__name__
            return


def _lose(found: Chain, lot: random.Random) -> Chain | None:
    if not found.answers:
        return None
    at = lot.randrange(len(found.answers))
    return replace(found, answers=found.answers[:at] + found.answers[at + 1 :])


def _double(found: Chain, lot: random.Random) -> Chain | None:
    if not found.answers:
        return None
    return replace(found, answers=[*found.answers, lot.choice(found.answers)])


def _end_again(found: Chain, lot: random.Random) -> Chain | None:
    if not found.ends:
        return None
    return replace(found, ends=[*found.ends, lot.choice((found.ends[-1], Told(found.ends[-1].attempt, UNRESOLVED)))])


def _skip_ahead(found: Chain, lot: random.Random) -> Chain | None:
    newest = max((told.attempt for told in found.answers), default=0)
    return replace(found, answers=[*found.answers, Told(newest + 1 + lot.randrange(2), EXECUTE)])
