"""The last gate: each row of its table, what comes before what, and that no switch ever loosens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.action import Action, entity_of
from hitl_stream.core.control import Control
from hitl_stream.core.events import End, Mode, Outcome, SentBackWhy, Why
from hitl_stream.core.gate import (
    ATTEMPTS_MAX,
    LOOK,
    RUN,
    SKIP,
    Answer,
    Close,
    Past,
    Permit,
    Run,
    SendBack,
    Wait,
    alone,
    gate,
    permits,
    same,
)
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.switches import Target, target_of
from support.guard import Commands
from support.make import NOW_MS, change, compiled, make_action, make_policy, post

DRAFT = {"type": "draft.internal", **post(), "agent": {"id": "copy-2"}}
"""No class limit: nothing has to be looked at."""
BY_ANA = ("ana",)
LATER_MS = NOW_MS + 60_000


def permit(**parts: Any) -> Permit:
    """Return a permit of the machine, decided under everything there is, for a minute from now."""
    return Permit(**{"epoch": 0, "policy": "d" * 64, "execute_by_ms": LATER_MS} | parts)


def target(action: Action) -> Target:
    return target_of(action, action.tenant, entity_of(action))


def ask(
    action: Action | None = None,
    control: Control | None = None,
    under: Policy | None = None,
    *,
    now_ms: int = NOW_MS,
    past: Past | None = None,
    present: Any = None,
    waited: bool = False,
    **parts: Any,
) -> Answer:
    """Ask the gate about a draft, or another action; `parts` are the permit's."""
    action = make_action(**DRAFT) if action is None else action
    known = Commands().control if control is None else control
    return gate(
        permit(**parts), action, target(action), known, compiled(under), now_ms,
        past if past is not None else Past(), present, waited=waited,
    )  # fmt: skip


# --- each row ---------------------------------------------------------------------------------------------------------


def test_what_nothing_speaks_against_runs() -> None:
    assert ask() is RUN


def test_a_decision_from_an_epoch_that_we_have_not_reached_waits_for_it() -> None:
    assert ask(epoch=7) == Wait(7)


def test_an_epoch_that_does_not_come_sends_the_decision_back() -> None:
    answer = ask(epoch=7, waited=True)

    assert isinstance(answer, SendBack)
    assert (answer.why, answer.switches) == (SentBackWhy.EPOCH, ())


def test_what_is_done_already_is_skipped() -> None:
    assert ask(past=Past(done=True)) is SKIP


@pytest.mark.parametrize(("now_ms", "over"), [(LATER_MS - 1, False), (LATER_MS, True), (LATER_MS + 1, True)])
@pytest.mark.behaviour("I11")
def test_a_decision_runs_until_just_before_its_time_is_over(now_ms: int, over: bool) -> None:
    answer = ask(now_ms=now_ms)

    assert (isinstance(answer, Close) and (answer.end, answer.why) == (End.EXPIRED, Why.EXECUTE_BY)) is over
    assert (answer is RUN) is not over


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.EXECUTE])
def test_an_outcome_that_does_not_execute_is_refused(outcome: Outcome) -> None:
    answer = ask(outcome=outcome)

    assert isinstance(answer, Close)
    assert (answer.end, answer.why) == (End.REFUSED, Why.POLICY)


@pytest.mark.behaviour("A2", "E3")
def test_approvals_that_do_not_hold_are_refused_and_say_why() -> None:
    answer = ask(by=(), unsealed="no desk is known")

    assert isinstance(answer, Close)
    assert (answer.end, answer.why, answer.reason.saw) == (End.REFUSED, Why.UNSEALED, "no desk is known")


@pytest.mark.parametrize("mode", [Mode.HALT, Mode.REVIEW_ALL, Mode.REDUCE_ONLY])
@pytest.mark.parametrize("released", [False, True])
@pytest.mark.behaviour("A4")
def test_a_switch_engaged_after_the_decision_sends_it_back_released_or_not(mode: Mode, released: bool) -> None:
    commands = Commands()
    engaged = commands.engage("tenant:acme", mode=mode)
    if released:
        commands.release(engaged)
    action = make_action(changes=[change("1.20", "1.21")])

    answer = ask(action, commands.control, present=("1.20",))

    assert isinstance(answer, SendBack)
    assert answer.why is SentBackWhy.SWITCH
    assert answer.reason.rule == f"switch.{engaged}"
    holding = () if released or mode is Mode.REVIEW_ALL else (engaged,)
    assert answer.switches == holding, "under REVIEW_ALL it goes to review at once"


def test_a_switch_that_was_known_when_it_was_decided_and_is_released_stops_nothing() -> None:
    commands = Commands()
    commands.release(commands.engage("tenant:acme"))

    assert ask(control=commands.control, epoch=commands.control.epoch) is RUN


def test_a_switch_that_is_engaged_stops_also_what_was_decided_after_it() -> None:
    commands = Commands()
    commands.engage("tenant:acme")

    assert isinstance(ask(control=commands.control, epoch=commands.control.epoch), SendBack)


@pytest.mark.parametrize("scope", ["tenant:other", "type:bid.adjust", "agent:bidder-7", "campaign:cmp-1"])
def test_a_switch_that_covers_something_else_stops_nothing(scope: str) -> None:
    commands = Commands()
    commands.engage(scope)

    assert ask(control=commands.control) is RUN


@pytest.mark.parametrize("mode", [Mode.HALT, Mode.REVIEW_ALL])
def test_review_all_lets_through_what_a_person_approved_and_halt_does_not(mode: Mode) -> None:
    commands = Commands()
    commands.engage("global:*", mode=mode)

    assert isinstance(ask(control=commands.control, by=BY_ANA), SendBack if mode is Mode.HALT else Run)


@pytest.mark.parametrize(
    ("before", "after", "present", "runs"),
    [
        ("1.20", "1.10", "1.20", True),
        ("1.20", "1.21", "1.20", False),
        ("1.20", "1.20", "1.20", False),
    ],
)
def test_reduce_only_lets_through_what_lowers_the_value_that_stands_there(
    before: str, after: str, present: str, runs: bool
) -> None:
    commands = Commands()
    commands.engage("global:*", mode=Mode.REDUCE_ONLY)
    action = make_action(changes=[change(before, after)])

    assert isinstance(ask(action, commands.control, present=(present,)), Run if runs else SendBack)


def test_reduce_only_does_not_believe_the_agent() -> None:
    """The router does, and would let it out again and again: what does not start from the present is stale."""
    commands = Commands()
    commands.engage("global:*", mode=Mode.REDUCE_ONLY)
    action = make_action(changes=[change("1.20", "1.10")])

    answer = ask(action, commands.control, present=("1.00",))

    assert isinstance(answer, Close)
    assert answer.end is End.STALE


def test_what_reduces_is_not_named_as_held_by_reduce_only_when_another_switch_stops_it() -> None:
    """The router keeps parked what is named."""
    commands = Commands()
    commands.engage("global:*", mode=Mode.REDUCE_ONLY)
    halt = commands.engage("global:*")
    action = make_action(changes=[change("1.20", "1.10")])

    answer = ask(action, commands.control)

    assert isinstance(answer, SendBack)
    assert answer.switches == (halt,)


@pytest.mark.parametrize(("held", "sent_back", "behind"), [(4, 5, True), (5, 5, False), (-1, -1, False), (-1, 0, True)])
@pytest.mark.behaviour("I8")
def test_what_was_decided_before_the_router_knew_what_was_sent_back_goes_back_too(
    held: int, sent_back: int, behind: bool
) -> None:
    answer = ask(past=Past(sent_back=sent_back), held=held)

    assert (isinstance(answer, SendBack) and answer.why is SentBackWhy.BEHIND) is behind


@pytest.mark.parametrize(
    ("decided_under", "attempt", "refused"),
    [("d" * 64, 0, True), ("e" * 64, 0, False), ("e" * 64, ATTEMPTS_MAX, True)],
    ids=["the same policy", "another policy", "another policy again and again"],
)
@pytest.mark.behaviour("A2", "E3")
def test_what_our_own_policy_does_not_let_run_alone_is_refused_or_decided_again_under_it(
    decided_under: str, attempt: int, refused: bool
) -> None:
    answer = ask(make_action(changes=[change("1.20", "1.80")]), policy=decided_under, attempt=attempt)

    if refused:
        assert isinstance(answer, Close)
        assert (answer.end, answer.why) == (End.REFUSED, Why.POLICY)
    else:
        assert isinstance(answer, SendBack)
        assert (answer.why, answer.switches) == (SentBackWhy.POLICY, ())
    assert "class.auto_max_change 0.50 > 0.20" in answer.reason.saw


@pytest.mark.behaviour("D11")
def test_what_was_decided_before_a_rule_changed_is_decided_again() -> None:
    """A level, a gate or a pin changes what the same file says."""
    commands = Commands()
    commands.level("bid.adjust", 2)
    policy = make_policy(classes={"bid.adjust": {"level": 2}})

    before = ask(make_action(), commands.control, policy, epoch=commands.control.epoch - 1)
    after = ask(make_action(), commands.control, policy, epoch=commands.control.epoch)

    assert isinstance(before, SendBack)
    assert isinstance(after, Close)


@pytest.mark.behaviour("B7", "A2")
def test_what_a_person_approved_needs_no_leave_of_the_policy() -> None:
    action = make_action(changes=[change("1.20", "1.80")])

    assert ask(action, by=BY_ANA, present=("1.20",)) is RUN


@pytest.mark.parametrize("by", [None, BY_ANA])
def test_a_class_with_a_limit_is_looked_up_on_the_platform_first(by: Any) -> None:
    assert ask(make_action(), by=by) is LOOK
    assert ask(make_action(), by=by, present=("1.20",)) is RUN


def test_nothing_is_looked_up_for_what_is_stopped_anyway() -> None:
    commands = Commands()
    commands.engage("global:*")

    assert isinstance(ask(make_action(), commands.control), SendBack)
    assert isinstance(ask(make_action(), now_ms=LATER_MS), Close)


@pytest.mark.parametrize("present", ["1.21", None, "", "paused", 1.19999])
def test_an_action_that_starts_from_another_value_than_the_present_one_is_stale(present: Any) -> None:
    answer = ask(make_action(), present=(present,))

    assert isinstance(answer, Close)
    assert (answer.end, answer.why) == (End.STALE, Why.STALE)
    assert answer.reason.saw.startswith("/changes/0 is ")


def test_one_leg_of_several_is_enough_to_be_stale() -> None:
    legs = [change("100", "90", field="daily_budget"), change("50", "60", field="daily_budget", campaign="cmp-9")]
    action = make_action(type="budget.reallocate", changes=legs, confidence=0.99)

    assert ask(action, present=("100", "50.00"), by=BY_ANA) is RUN
    assert isinstance(ask(action, present=("100", "51"), by=BY_ANA), Close)


def test_a_change_without_a_claim_cannot_be_stale() -> None:
    action = make_action(changes=[change(None, "1.30")])

    assert ask(action, by=BY_ANA, present=("7",)) is RUN


@pytest.mark.parametrize(
    ("before", "present", "equal"),
    [
        ("1.20", 1.2, True),
        ("1.20", "1.2000", True),
        (1.2, "1.21", False),
        ("paused", "paused", True),
        ("paused", "Paused", False),
        (True, "true", True),
        (True, False, False),
        ("1.20", None, False),
        ("None", None, False),
        ("0.1", 0.1, True),
        ("100000000000000000001", "100000000000000000000", False),
    ],
)
def test_values_are_the_same_as_numbers_or_else_as_texts(before: Any, present: Any, equal: bool) -> None:
    assert same(before, present) is equal


# --- alone ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ({}, None),
        ({"changes": [change("1.20", "1.44")]}, None),
        ({"changes": [change("1.20", "1.45")]}, "class.auto_max_change"),
        ({"changes": [change("30", "36")]}, "class.auto_max_amount"),
        ({"changes": [change("0", "1")]}, "magnitude.undefined"),
        ({"changes": [change("30", "35", unit="XYZ")]}, "amount.undefined"),
        ({"confidence": 0.5}, "class.auto_min_confidence"),
        ({"confidence": ...}, "missing.confidence"),
        ({"confidence": 7.0}, "confidence.undefined"),
        ({"agent": {"id": "stranger"}}, "agent.unknown"),
        ({"type": "no.such.type"}, "class.undefined"),
        ({"type": "strategy.change"}, "class.level"),
        ({"changes": [change(), change(account="acc-18")]}, "legs.accounts"),
        ({"flags": ["ethical"]}, None),
    ],
)
@pytest.mark.behaviour("C1")
def test_the_machine_may_do_alone_what_action_and_policy_allow_by_themselves(
    parts: dict[str, Any], rule: str | None
) -> None:
    """What rests on the window, on facts or on a plugin was the router's to see, and cannot be judged again here."""
    found = [reason.rule for reason in alone(make_action(**parts), compiled())]

    assert found == [] if rule is None else rule in found


@pytest.mark.behaviour("A1")
def test_what_may_only_be_recommended_never_runs() -> None:
    policy = make_policy(classes={"draft.internal": {"level": 1}})

    answer = ask(under=policy)

    assert isinstance(answer, Close)
    assert (answer.end, answer.why) == (End.REFUSED, Why.POLICY)


@pytest.mark.parametrize("level", [3, 4])
@pytest.mark.behaviour("A3", "A4")
def test_levels_three_and_four_run_by_themselves_and_two_does_not(level: int) -> None:
    def at(level: int) -> Answer:
        return ask(under=make_policy(classes={"draft.internal": {"level": level, "review": None}}))

    assert at(level) is RUN
    assert isinstance(at(2), Close)


@pytest.mark.parametrize("review", ["all", "above_risk", "edge_cases", "sample", "periodic"])
@pytest.mark.behaviour("C1")
def test_the_mode_of_review_that_the_policy_names_holds_at_the_last_gate_too(review: str) -> None:
    policy = make_policy(classes={"draft.internal": {"review": review}})

    assert (ask(under=policy) is RUN) is (review != "all")


# --- what comes before what -------------------------------------------------------------------------------------------


def test_what_is_done_stays_done_whatever_else_is_true() -> None:
    """A second end would be a lie about the first."""
    commands = Commands()
    commands.engage("global:*")

    done = Past(done=True, sent_back=10**9)
    assert ask(control=commands.control, past=done, now_ms=LATER_MS, outcome=Outcome.REVIEW, unsealed="no") is SKIP


def test_what_is_too_late_is_closed_and_not_parked() -> None:
    commands = Commands()
    commands.engage("global:*")

    assert isinstance(ask(control=commands.control, now_ms=LATER_MS, past=Past(sent_back=9)), Close)


# --- a call under way -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "by", "present", "right"),
    [
        (Mode.HALT, BY_ANA, ("1.20",), False),
        (Mode.REVIEW_ALL, None, ("1.20",), False),
        (Mode.REVIEW_ALL, BY_ANA, ("1.20",), True),
        (Mode.REDUCE_ONLY, BY_ANA, ("1.20",), True),
        (Mode.REDUCE_ONLY, BY_ANA, ("1.00",), False),
        (Mode.REDUCE_ONLY, BY_ANA, None, False),
    ],
)
def test_a_call_under_way_is_right_while_it_would_be_begun_today_too(
    mode: Mode, by: Any, present: Any, right: bool
) -> None:
    commands = Commands()
    commands.engage("tenant:acme", mode=mode)
    action = make_action(changes=[change("1.20", "1.10")])
    switches = commands.control.switches.blocking(target(action), 0)

    assert permits(permit(by=by), action, switches, present) is right


# --- no switch loosens ------------------------------------------------------------------------------------------------

SELECTORS = st.lists(
    st.sampled_from(["global:*", "tenant:acme", "tenant:other", "type:bid.adjust", "type:draft.internal",
                     "campaign:cmp-204", "agent:bidder-7", "nonsense"]),
    min_size=1, max_size=2,
)  # fmt: skip
SWITCHES = st.lists(st.tuples(SELECTORS, st.sampled_from(Mode), st.booleans()), max_size=4)
ACTIONS = st.sampled_from([
    DRAFT, {}, {"changes": [change("1.20", "1.10")]}, {"changes": [change("1.20", "9")]},
    {"changes": [change(field="status", before="on", after="paused")]},
])  # fmt: skip
PERMITS = st.fixed_dictionaries({
    "epoch": st.integers(-1, 6),
    "held": st.integers(-1, 3),
    "policy": st.sampled_from(["d" * 64, "e" * 64]),
    "by": st.sampled_from([None, BY_ANA]),
    "execute_by_ms": st.sampled_from([NOW_MS, LATER_MS]),
})  # fmt: skip
PRESENTS = st.sampled_from([None, ("1.20",), ("1.00",), ("on",)])


def folded(switches: Any) -> Commands:
    commands = Commands()
    for scope, mode, released in switches:
        epoch = commands.engage(*scope, mode=mode)
        if released:
            commands.release(epoch)
    return commands


@given(SWITCHES, SELECTORS, st.sampled_from(Mode), ACTIONS, PERMITS, PRESENTS, st.integers(-1, 3))
@settings(max_examples=400, deadline=None)
@pytest.mark.behaviour("E15")
def test_engaging_anything_never_lets_run_what_did_not_run_before(
    switches: Any, scope: list[str], mode: Mode, parts: dict[str, Any], said: dict[str, Any], present: Any, sent: int
) -> None:
    commands = folded(switches)
    action = make_action(**parts)
    shown = present if present is None or len(present) == len(action.changes) else None

    def answer() -> Answer:
        return ask(action, commands.control, present=shown, past=Past(sent_back=sent), **said)

    before = answer()
    commands.engage(*scope, mode=mode)
    after = answer()

    if isinstance(before, Wait):  # the command itself may be the epoch that was waited for
        return
    assert after is not RUN or before is RUN


@given(SWITCHES, ACTIONS, PERMITS, PRESENTS)
@settings(max_examples=200, deadline=None)
@pytest.mark.behaviour("E15")
def test_nothing_runs_under_a_halt_that_covers_it(
    switches: Any, parts: dict[str, Any], said: dict[str, Any], present: Any
) -> None:
    commands = folded(switches)
    commands.engage("tenant:acme")
    action = make_action(**parts)
    shown = present if present is None or len(present) == len(action.changes) else None

    assert ask(action, commands.control, present=shown, **said) not in (RUN, LOOK)
