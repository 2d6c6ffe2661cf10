"""Whether what left obeyed what control said: switches by mode, scope, epoch and time; policies by epoch."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitl_stream.core.action import Action, entity_of
from hitl_stream.core.effects import Effect
from hitl_stream.core.events import Mode
from hitl_stream.core.ledger import Figure
from hitl_stream.core.obeyed import COMMIT_MS_MAX, Obeyed, Recorded
from hitl_stream.core.switches import Switch, Switches, Target, target_of
from support.make import change, make_action

AT_MS = 500_000
"""Append time of switch 5."""
EFFECTIVE_MS = AT_MS + 400
UP = make_action(changes=[change("1.20", "1.30", campaign="cmp-7")])
DOWN = make_action(changes=[change("1.30", "1.20", campaign="cmp-7")])
OTHER = make_action(changes=[change(campaign="cmp-8")])
HALT, REVIEW_ALL, REDUCE_ONLY = Mode.HALT, Mode.REVIEW_ALL, Mode.REDUCE_ONLY


def obeyed(
    mode: Mode = HALT, released: int | None = None, effective_ms: int | None = EFFECTIVE_MS, exact: bool = True
) -> Obeyed:
    """Return a comparison with switch 5 on campaign cmp-7, of a control log that was folded to 9."""
    switches = Switches()
    switches.engage(Switch(5, ("campaign:cmp-7",), mode, "ana", AT_MS))
    if released is not None:
        switches.release(5, released, AT_MS)
    effect = Effect(5, AT_MS, effective_ms, exact)
    return Obeyed(switches, 9, lambda epoch: effect if epoch == 5 else None)


def target(action: Action) -> Target:
    return target_of(action, action.tenant, entity_of(action))


def decided(found: Obeyed, epoch: int, action: Action = UP, machine: bool = True, append_ms: int = AT_MS) -> Any:
    return found.decided(epoch, target(action), action, machine, append_ms)


@pytest.mark.parametrize(
    ("mode", "action", "machine", "against"),
    [
        (HALT, UP, True, True),
        (HALT, UP, False, True),
        (HALT, DOWN, True, True),
        (HALT, OTHER, True, False),
        (REVIEW_ALL, UP, True, True),
        (REVIEW_ALL, UP, False, False),
        (REDUCE_ONLY, UP, True, True),
        (REDUCE_ONLY, UP, False, True),
        (REDUCE_ONLY, DOWN, True, False),
    ],
)
def test_what_is_decided_under_a_switch_must_not_be_against_it(
    mode: Mode, action: Action, machine: bool, against: bool
):
    assert (decided(obeyed(mode), 5, action, machine).fault is not None) is against
    assert decided(obeyed(mode), 4, action, machine) == (None, (5,) if against else ())


@pytest.mark.parametrize(
    ("epoch", "released", "fault", "waits"),
    [
        (4, None, False, (5,)),
        (5, None, True, ()),
        (6, 7, True, ()),
        (7, 7, False, ()),
        (4, 7, False, (5,)),
        (10, None, False, ()),  # decided under what came after we had read control
    ],
)
def test_it_depends_on_whether_the_switch_was_engaged_at_the_epoch_of_the_decision(
    epoch: int, released: int | None, fault: bool, waits: tuple[int, ...]
):
    found = decided(obeyed(released=released), epoch)
    assert (found.fault is not None, found.waits) == (fault, waits)


def test_of_what_was_appended_long_before_a_switch_nobody_asks_when_it_was_committed():
    assert decided(obeyed(), 4, append_ms=AT_MS - COMMIT_MS_MAX - 1).waits == ()
    assert decided(obeyed(), 4, append_ms=AT_MS - COMMIT_MS_MAX).waits == (5,)


@pytest.mark.parametrize(
    ("commit_ms", "late_ms", "fault"),
    [(AT_MS, None, False), (AT_MS + 1, 1, False), (EFFECTIVE_MS, 400, False), (EFFECTIVE_MS + 1, 401, True)],
)
@pytest.mark.parametrize("released", [None, 8])
def test_what_was_decided_before_a_switch_is_committed_before_it_is_effective(
    commit_ms: int, late_ms: int | None, fault: bool, released: int | None
):
    found = obeyed(released=released)
    assert (found.committed((5,), commit_ms) is not None) is fault
    late = {} if late_ms is None else {"offending_commits": Figure(1, late_ms, late_ms, late_ms)}
    assert found.figures() == late


def test_a_switch_that_is_not_effective_yet_forbids_nothing_and_counts_what_offends():
    found = obeyed(effective_ms=None)
    assert found.committed((5,), AT_MS + 9_000) is None
    assert found.figures() == {"offending_commits": Figure(1, 9_000, 9_000, 9_000)}


def test_where_only_the_latest_time_is_known_what_came_before_it_is_unsure():
    found = obeyed(exact=False)
    assert found.committed((5,), EFFECTIVE_MS - 100) is None
    assert found.unsure == 1
    assert found.committed((5,), EFFECTIVE_MS + 100) is not None


@pytest.mark.parametrize(
    ("mode", "epoch", "called_ms", "present", "fault"),
    [
        (HALT, 4, EFFECTIVE_MS, None, False),
        (HALT, 4, EFFECTIVE_MS + 1, None, True),
        (HALT, 5, EFFECTIVE_MS + 1, None, False),  # the execute record is at fault already
        (REDUCE_ONLY, 4, EFFECTIVE_MS + 1, [1.4], False),
        (REDUCE_ONLY, 4, EFFECTIVE_MS + 1, [1.1], True),
        (REDUCE_ONLY, 4, EFFECTIVE_MS + 1, None, False),
    ],
)
def test_nothing_is_called_against_a_switch_that_is_effective(
    mode: Mode, epoch: int, called_ms: int, present: list[Any] | None, fault: bool
):
    found = obeyed(mode).called(epoch, target(DOWN), DOWN, True, called_ms, present)
    assert (found is not None) is fault


def test_a_late_call_is_counted_with_how_late_it_was():
    found = obeyed()
    found.called(4, target(UP), UP, True, AT_MS + 30, None)
    assert found.figures() == {"offending_calls": Figure(1, 30, 30, 30)}


@given(
    mode=st.sampled_from(Mode), epoch=st.integers(-1, 9), released=st.none() | st.integers(6, 9),
    machine=st.booleans(), commit_ms=st.integers(AT_MS - 500, AT_MS + 1_000),
)  # fmt: skip
def test_halt_is_at_least_as_strict_as_every_other_mode(
    mode: Mode, epoch: int, released: int | None, machine: bool, commit_ms: int
):
    def against(of: Obeyed) -> bool:
        fault, waits = decided(of, epoch, UP, machine)
        return bool(fault) or of.committed(waits, commit_ms) is not None

    assert against(obeyed(HALT, released)) >= against(obeyed(mode, released))


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "epoch", "fault"),
    [
        ("file", 2, False),
        ("other", 2, False),  # a file of another time: nothing records that
        ("one", 3, False),
        ("file", 3, True),
        ("two", 3, True),
        ("two", 6, False),
        ("one", 6, False),
        ("three", 6, True),
    ],
)
def test_a_policy_must_be_recorded_from_the_first_promotion_on(policy: str, epoch: int, fault: bool):
    recorded = Recorded([(3, "one"), (6, "two")], "file")
    assert (recorded.fault(policy, epoch) is not None) is fault


def test_policies_that_nothing_records_are_counted():
    recorded = Recorded((), "file")
    for policy in ("file", "other", "other"):
        assert recorded.fault(policy, 0) is None
    assert recorded.unrecorded == {"other": 2}
