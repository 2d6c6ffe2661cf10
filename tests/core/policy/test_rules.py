"""What signed records change of a policy: a level only tightens, a gate is removed for one version, a pin is heard."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core import switches
from hitl_stream.core.action import Action, Agent
from hitl_stream.core.commands import TYPES, Confirm, GateChange, KeyEntry, Keys, LevelChange, Pin, milliseconds
from hitl_stream.core.control import Control
from hitl_stream.core.events import Level, Outcome
from hitl_stream.core.history import recall
from hitl_stream.core.policy.compile import Compiled, compile_policy
from hitl_stream.core.policy.lint import PROTECTED
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import NO_RULES, GateRecord, Rules, gate_digest, gate_states, rules_of, terms_of
from hitl_stream.core.route import Route, recommends, route
from hitl_stream.core.triggers import PINS_SHOWN_MAX
from hitl_stream.core.window import Window
from support.make import NOW_MS, change, first_line, gate, make_action, make_policy, post, queues
from support.make import rules as fired

NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
COPY_2 = Agent("copy-2", "4")
OTHER = "f" * 64
CLAIMS: dict[str, Any] = {"aud": "c", "kid": "ana-1", "iss": "ana", "iat": 0, "exp": 4_000_000_000}


def ready(rules: Rules, policy: Policy | None = None, now_ms: int = NOW_MS) -> Compiled:
    return compile_policy(make_policy() if policy is None else policy, "d" * 64, now_ms, rules)


def decide(action: Action, rules: Rules = NO_RULES, policy: Policy | None = None, now_ms: int = NOW_MS) -> Route:
    compiled = ready(rules, policy, now_ms)
    draft = Window(compiled.reach).draft()
    draft.at(now_ms)
    verdicts = {job.validator: 1.0 for job in compiled.of(action.type).plugins}
    return route(action, recall(action, action.tenant, draft), compiled, {}, verdicts)


# --- levels -----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E2")
@pytest.mark.parametrize(
    ("level", "said", "outcome"),
    [(3, 1, "recommend"), (3, 2, "review"), (3, 3, "execute"), (3, 4, "execute"), (2, 3, "review"), (2, 4, "review")],
)
def test_the_level_in_force_is_the_stricter_of_the_files_and_the_records(level: int, said: int, outcome: str) -> None:
    policy = make_policy(classes={"bid.adjust": {"level": level}})
    rules = Rules(levels={"bid.adjust": said})
    found = decide(make_action(), rules, policy)
    assert found.cls.level is Level(min(level, said))
    assert recommends(found) is (outcome == "recommend")
    assert found.outcome is (Outcome.REVIEW if outcome == "review" else Outcome.EXECUTE)


@pytest.mark.behaviour("E2")
def test_a_class_travels_the_spectrum_by_signed_records_down_at_once_and_up_one_step_with_two_people() -> None:
    control = Control()
    numbers = iter(range(100))

    def sign(kind: Any, who: str = "ana", **parts: Any) -> int:
        number = next(numbers)
        command = kind(**{**CLAIMS, "kid": f"{who}-1", "iss": who, "jti": str(number)}, **parts)
        assert control.fold(number, NOW_MS, b"", command) is None
        return number

    def stands() -> tuple[Level, Outcome]:
        found = decide(make_action(), rules_of(control))
        return found.cls.level, found.outcome

    days = {"from_": NOW - timedelta(1), "until": NOW + timedelta(1)}
    people = [KeyEntry(holder=h, kind="person", key_id=f"{h}-1", jwk={}, types=TYPES, **days) for h in ("ana", "bob")]
    sign(Keys, keys=tuple(people))
    evidence = {"canaries": 40}
    assert stands() == (Level.REPORT, Outcome.EXECUTE)
    sign(LevelChange, class_="bid.adjust", level=1, reason="errors", evidence=evidence)
    assert stands() == (Level.RECOMMEND, Outcome.EXECUTE)
    for level, outcome in ((Level.CONFIRM, Outcome.REVIEW), (Level.REPORT, Outcome.EXECUTE)):
        before = stands()
        asked = sign(LevelChange, class_="bid.adjust", level=int(level), reason="none for weeks", evidence=evidence)
        assert stands() == before
        sign(Confirm, "bob", of=asked)
        assert stands() == (level, outcome)


def test_a_record_may_hold_down_a_type_that_the_file_does_not_name() -> None:
    action = make_action(type="no.such.type")
    found = decide(action, Rules(levels={"no.such.type": 1}))
    assert recommends(found)
    assert found.outcome is Outcome.ESCALATE
    assert found.cls.label == "none"
    raised = decide(action, Rules(levels={"no.such.type": 4}))
    assert (raised.outcome, raised.cls.level, fired(raised)) == (Outcome.ESCALATE, Level.CONFIRM, ["class.undefined"])


def test_no_record_lifts_a_ceiling() -> None:
    rules = Rules(levels={"post.publish": 4})
    policy = make_policy(classes={"post.publish": {"level": 4}})
    assert ready(rules, policy).of("post.publish").level is Level.CONFIRM


SPECS = st.fixed_dictionaries(
    {"level": st.integers(1, 4), "consequence": st.sampled_from([["financial"], ["internal"], ["own_content"], []])},
    optional={
        "auto_max_change": st.sampled_from(["0.05", "0.5"]),
        "auto_min_confidence": st.just("0.8"),
        "auto_max_change_per": st.just({"1h": "0.2"}),
        "review": st.sampled_from(["all", "above_risk", "edge_cases", "sample", "periodic"]),
        "evidence": st.just("required"),
    },
)
LEGS = st.lists(
    st.builds(change, st.sampled_from(["1", "0", None, "on"]), st.sampled_from(["1.01", "1.3", "9", "off"])), max_size=2
)


@pytest.mark.behaviour("E2")
@given(SPECS, LEGS, st.sampled_from([0.99, 0.5, None]), st.integers(1, 4), st.integers(1, 4), st.booleans())
@settings(deadline=None)
def test_a_lower_level_never_loosens(
    spec: dict[str, Any], legs: Any, confidence: Any, one: int, two: int, cited: bool
) -> None:
    policy = make_policy(classes={"t": spec})
    action = make_action(type="t", changes=legs, confidence=confidence, **({} if cited else {"evidence": []}))
    low, high = (decide(action, Rules(levels={"t": level}), policy) for level in sorted((one, two)))
    assert recommends(low) or not recommends(high)
    assert recommends(low) or low.outcome >= high.outcome
    kept = {each for each in high.reasons if each.rule != "class.review"}  # at level 2 it is called class.level
    assert kept <= set(low.reasons) or recommends(low)
    assert low.cls.level <= decide(action, policy=policy).cls.level


@pytest.mark.behaviour("E2")
def test_a_financial_class_that_a_record_holds_down_keeps_the_limit_that_it_had() -> None:
    """Or its undefined sizes, which escalate, would be plain reviews by being held down."""
    policy = make_policy(classes={"t": {"level": 3, "consequence": ["financial"]}})
    action = make_action(type="t", changes=[change("0", "5")])
    assert decide(action, policy=policy).outcome is Outcome.ESCALATE
    assert decide(action, Rules(levels={"t": 2}), policy).outcome is Outcome.ESCALATE


# --- gates ------------------------------------------------------------------------------------------------------------


def record(state: Any, definition: str = "", policy: Policy | None = None) -> GateRecord:
    return GateRecord(state, definition or gate_digest(policy or make_policy(), "first_line"))


def judged(records: dict[Agent | None, GateRecord], agent: Any = None, state: str = "enforce", **parts: Any) -> str:
    """Return what becomes of a first line that is too long: stopped, observed, or not looked at."""
    policy = make_policy(gates={"first_line": {"state": state}}, **parts)
    sender = {"id": COPY_2.id, "version": COPY_2.version} if agent is None else agent
    action = make_action(**first_line("Dear Acme " + "x" * 200, agent=sender))
    found = decide(action, Rules(gates={"first_line": records}), policy)
    rows = [each.counts for each in found.reasons if each.rule == "validator.short"]
    return {(True,): "enforce", (False,): "observe", (): "removed"}[tuple(rows)]


V5 = {"id": "copy-2", "version": "5"}
NEXT = {"id": "copy-2"}
BIDDER = {"id": "bidder-7", "version": "4"}


@pytest.mark.behaviour("D11", "I17")
@pytest.mark.parametrize(
    ("filed", "records", "agent", "state"),
    [
        ("observe", {}, None, "observe"),
        ("enforce", {}, None, "enforce"),
        # a removal holds for the definition and the version that it names
        ("enforce", {COPY_2: record("removed")}, None, "removed"),
        ("observe", {COPY_2: record("removed")}, None, "removed"),
        ("enforce", {COPY_2: record("removed", OTHER)}, None, "enforce"),
        ("observe", {COPY_2: record("removed", OTHER)}, None, "observe"),
        ("enforce", {COPY_2: record("removed")}, BIDDER, "enforce"),
        ("observe", {COPY_2: record("removed")}, BIDDER, "observe"),
        # a new version of an agent that is let off starts under the gate
        ("observe", {COPY_2: record("removed")}, V5, "enforce"),
        ("observe", {COPY_2: record("removed")}, NEXT, "enforce"),
        ("observe", {COPY_2: record("removed", OTHER)}, V5, "observe"),
        ("enforce", {COPY_2: record("removed"), Agent("copy-2", "5"): record("removed")}, V5, "removed"),
        # for every agent
        ("observe", {None: record("enforce")}, None, "enforce"),
        ("observe", {None: record("enforce", OTHER)}, None, "enforce"),
        ("enforce", {None: record("observe")}, None, "observe"),
        ("enforce", {None: record("observe", OTHER)}, None, "enforce"),
        # one agent beside all
        ("observe", {None: record("enforce"), COPY_2: record("removed")}, None, "removed"),
        ("observe", {None: record("enforce"), COPY_2: record("removed", OTHER)}, None, "enforce"),
        ("observe", {None: record("enforce"), COPY_2: record("removed")}, BIDDER, "enforce"),
        ("observe", {COPY_2: record("enforce")}, None, "enforce"),
        ("observe", {COPY_2: record("enforce")}, V5, "observe"),
        ("enforce", {COPY_2: record("observe")}, None, "observe"),
        ("enforce", {COPY_2: record("observe")}, BIDDER, "enforce"),
        # a file removes nothing by itself
        ("removed", {}, None, "enforce"),
        ("removed", {COPY_2: record("removed")}, None, "removed"),
    ],
)
def test_a_gates_state_is_the_records_where_it_holds_and_else_the_files(
    filed: str, records: dict[Agent | None, GateRecord], agent: Any, state: str
) -> None:
    policy_digest = record("removed", policy=make_policy(gates={"first_line": {"state": filed}})).definition
    assert policy_digest == record("removed").definition
    assert judged(records, agent, filed) == state


@pytest.mark.behaviour("I17")
@pytest.mark.parametrize("consequence", [*sorted(PROTECTED), ""])
@pytest.mark.parametrize("state", ["removed", "observe"])
@pytest.mark.parametrize("agent", [None, COPY_2])
def test_no_record_takes_a_gate_from_a_protected_class(consequence: str, state: str, agent: Agent | None) -> None:
    parts = {"classes": {"firstline.send": {"consequence": ["prospect", consequence] if consequence else []}}}
    policy = make_policy(**parts)
    assert judged({agent: record(state, policy=policy)}, **parts) == "enforce"
    assert judged({agent: record(state, policy=policy)}, V5, **parts) == "enforce"


@pytest.mark.behaviour("I17")
def test_a_gate_over_two_classes_stays_where_one_is_protected() -> None:
    policy = make_policy(gates={"g": gate("draft.internal", "bid.adjust", validators=["short"])})
    rules = Rules(gates={"g": {COPY_2: GateRecord("removed", gate_digest(policy, "g"))}})
    text = post("x" * 200, agent={"id": "copy-2", "version": "4"})
    assert "validator.short" not in fired(decide(make_action(**text, type="draft.internal"), rules, policy))
    assert "validator.short" in fired(decide(make_action(**text, type="bid.adjust"), rules, policy))


def test_a_record_about_a_protected_class_may_tighten_and_take_that_back() -> None:
    parts: dict[str, Any] = {"classes": {"firstline.send": {"consequence": ["client_content"]}}}
    assert judged({None: record("enforce")}, state="observe", **parts) == "enforce"
    assert judged({None: record("observe")}, state="observe", **parts) == "observe"


def test_a_removed_gate_asks_for_no_plugin_but_one_that_another_agent_is_held_to_does() -> None:
    removed = Rules(gates={"first_line": {None: record("removed")}})
    assert ready(removed).of("firstline.send").plugins == ()
    removed = Rules(gates={"first_line": {COPY_2: record("removed")}})
    assert [job.validator for job in ready(removed).of("firstline.send").plugins] == ["tone"]


def test_a_record_changes_no_gate_outside_of_its_days() -> None:
    rules = Rules(gates={"first_line": {None: record("enforce")}})
    policy = make_policy(gates={"first_line": {"until": "2026-11-02"}})
    action = make_action(**first_line("x" * 200))
    assert "validator.short" not in fired(decide(action, rules, policy))


STATES = st.sampled_from(["observe", "enforce", "removed"])
AGENTS = st.sampled_from([None, COPY_2, Agent("copy-2", "5"), Agent("bidder-7", "4")])
RECORDS = st.dictionaries(AGENTS, st.builds(GateRecord, STATES, st.sampled_from(["mine", "other"])))
ORDER = ["removed", "observe", "enforce"]


@pytest.mark.behaviour("I17")
@given(STATES, RECORDS, st.booleans(), AGENTS.filter(bool))
def test_nothing_but_a_record_about_this_definition_and_this_version_or_all_removes_a_gate(
    filed: Any, records: dict[Agent | None, GateRecord], protected: bool, agent: Any
) -> None:
    state = gate_states(filed, records, "mine", protected).of(agent)
    if state == "removed":
        assert not protected
        assert GateRecord("removed", "mine") in (records.get(agent), records.get(None))
    if protected:
        assert ORDER.index(state) >= ORDER.index("enforce" if filed == "removed" else filed)


@given(STATES, RECORDS, st.booleans(), AGENTS.filter(bool), AGENTS)
def test_an_enforce_record_never_loosens(
    filed: Any, records: dict[Agent | None, GateRecord], protected: bool, agent: Any, named: Agent | None
) -> None:
    before = gate_states(filed, records, "mine", protected).of(agent)
    # As the control log keeps them: one that names no agent takes the place of all.
    kept = records if named is not None else {}
    after = gate_states(filed, {**kept, named: GateRecord("enforce", "other")}, "mine", protected).of(agent)
    # Put back, version 4 is let off no more, and so version 5 is as the file or an earlier record has it.
    if named is None or named == agent or named.id != agent.id:
        assert ORDER.index(after) >= ORDER.index(before)
    else:
        assert after != "removed" or before == "removed"


def digest(**parts: Any) -> str:
    return gate_digest(make_policy(**parts), "first_line")


@pytest.mark.parametrize(
    ("parts", "same"),
    [
        ({"gates": {"first_line": {"state": "enforce"}}}, True),
        ({"gates": {"first_line": {"owner": "somebody"}}}, True),
        ({"gates": {"first_line": {"until": "2028-01-01", "from": "2026-11-02"}}}, True),
        ({"gates": {"first_line": {"baseline": None}}}, True),
        ({"gates": {"first_line": {"validators": ["tone", "short", "names_company"]}}}, True),
        ({"gates": {"style": {"owner": "somebody"}}}, True),
        ({"validators": {"caption": {"error": "tone"}}}, True),
        ({"fields": {"context.other": "text"}}, True),
        ({"gates": {"first_line": {"classes": ["firstline.send", "email.reply"]}}}, False),
        ({"gates": {"first_line": {"segment": None}}}, False),
        ({"gates": {"first_line": {"segment": {"context.segment": {"in": ["mid-saas", "smb"]}}}}}, False),
        ({"gates": {"first_line": {"validators": ["short", "tone"]}}}, False),
        ({"validators": {"short": {"under": 200}}}, False),
        ({"validators": {"tone": {"min": "0.1"}}}, False),
        ({"validators": {"short": {"then": "escalate"}}}, False),
        ({"validators": {"names_company": {"value_of": "context.segment"}}}, False),
        ({"fields": {"context.company": "list"}}, False),
        ({"fields": {"context.segment": "list"}}, False),
        ({"gates": {"first_line": {"max_error_ratio": {"tone": "0.05"}}}}, False),
    ],
)
def test_a_gates_digest_is_that_of_what_it_judges_by(parts: dict[str, Any], same: bool) -> None:
    assert (digest(**parts) == digest()) is same


def test_a_share_of_errors_is_the_same_however_it_is_written() -> None:
    written = [{"gates": {"first_line": {"max_error_ratio": {"tone": share}}}} for share in ("0.05", "0.050", 0.05)]
    assert len({digest(**parts) for parts in written}) == 1


def test_what_a_gate_bears_is_what_it_says_and_one_of_twenty_of_every_other_type_that_it_finds() -> None:
    policy = make_policy(gates={"first_line": {"max_error_ratio": {"tone": "0.02"}}})
    assert terms_of(policy, "first_line").borne == {"compliance": 0.05, "factual": 0.05, "tone": 0.02}
    assert terms_of(policy, "first_line").definition == gate_digest(policy, "first_line")


def test_a_gate_that_is_not_there_has_no_digest() -> None:
    with pytest.raises(KeyError):
        gate_digest(make_policy(), "no_such_gate")


def test_the_digest_of_the_examples_gate_is_the_one_that_records_name() -> None:
    """A new version of hitl-stream must not make evidence void that people have signed."""
    assert digest() == "5c46260542d6bd8906ec163aa17510fe40c267f7bd2451e62667e90f1790c000"


# --- pins -------------------------------------------------------------------------------------------------------------


def pin(*scope: str, field: str = "daily_budget", until: datetime = NOW + timedelta(hours=1), **parts: Any) -> Pin:
    return Pin(**CLAIMS, jti="j", scope=scope, field=field, until=until, reason="strategy", **parts)


def pinned(pins: list[Pin], *changes: dict[str, Any], now_ms: int = NOW_MS, **parts: Any) -> list[Any]:
    """Return the reasons that pins give."""
    action = make_action(type="draft.internal", changes=list(changes), **parts)
    found = decide(action, Rules(pins=dict(enumerate(pins))), now_ms=now_ms)
    reasons = [each for each in found.reasons if each.rule == "pin"]
    if reasons:
        assert found.outcome is Outcome.ESCALATE
        assert {each.queue for each in reasons} <= set(queues(found))
    else:
        assert found.outcome is Outcome.EXECUTE
    return reasons


def budget(before: Any, after: Any, **parts: Any) -> dict[str, Any]:
    return change(before, after, **{"field": "daily_budget", **parts})


@pytest.mark.behaviour("B6")
def test_contradicting_a_persons_strategy_decision_escalates_with_its_reason() -> None:
    (reason,) = pinned([pin("campaign:cmp-204", direction="down")], budget("100.00", "120.00"))
    assert (reason.rule, reason.outcome, reason.queue) == ("pin", Outcome.ESCALATE, "triage")
    assert reason.saw == "daily_budget 100.00 → 120.00"
    assert reason.limit == "only down (control/0)"


@pytest.mark.behaviour("B6")
@pytest.mark.parametrize(
    ("decided", "before", "after", "fires"),
    [
        # the way that it goes
        ({"direction": "down"}, "100", "99", False),
        ({"direction": "down"}, "100", "100", False),
        ({"direction": "down"}, "100", "100.00000000000000000001", True),
        ({"direction": "up"}, "100", "101", False),
        ({"direction": "up"}, 100, 100, False),
        ({"direction": "up"}, 100, 99.5, True),
        # what it may be set to
        ({"range": ("50", "80")}, "100", "50", False),
        ({"range": ("50", "80")}, "100", "80.00", False),
        ({"range": ("50", "80")}, "100", "49.99", True),
        ({"range": ("50", "80")}, "100", "80.01", True),
        ({"range": (None, "80")}, "100", "-5", False),
        ({"range": (None, "80")}, "100", "81", True),
        ({"range": ("50", None)}, "100", "1000", False),
        ({"range": ("50", None)}, "100", "49", True),
        ({"range": ("50", "80")}, None, "60", False),
        # both
        ({"direction": "down", "range": ("50", None)}, "100", "60", False),
        ({"direction": "down", "range": ("50", None)}, "100", "40", True),
        ({"direction": "down", "range": ("50", None)}, "100", "120", True),
        # what cannot be compared
        ({"direction": "down"}, None, "1", True),
        ({"direction": "down"}, "100", None, True),
        ({"direction": "down"}, "on", "off", True),
        ({"direction": "down"}, True, False, True),
        ({"direction": "down"}, 0.1 + 0.2, 0.1, True),
        ({"range": ("50", "80")}, "100", "sixty", True),
        ({"range": ("fifty", None)}, "100", "60", True),
        # in which unit
        ({"direction": "down", "unit": "EUR"}, "100", "90", False),
        ({"direction": "down", "unit": "USD"}, "100", "90", True),
    ],
)
def test_a_pin_is_contradicted_by_the_other_way_another_value_and_what_cannot_be_compared(
    decided: dict[str, Any], before: Any, after: Any, fires: bool
) -> None:
    assert bool(pinned([pin("campaign:cmp-204", **decided)], budget(before, after))) is fires


@pytest.mark.parametrize(
    ("scope", "fires"),
    [
        (("campaign:cmp-204",), True),
        (("campaign:CMP-204 ",), True),
        (("campaign:cmp-204", "account:acc-17", "tenant:acme"), True),
        (("tenant:acme", "agent:bidder-7"), True),
        ((), True),
        (("campaign:cmp-1",), False),
        (("campaign:cmp-204", "account:acc-1"), False),
        (("tenant:other",), False),
    ],
)
def test_a_pin_is_about_what_its_scope_covers(scope: tuple[str, ...], fires: bool) -> None:
    assert bool(pinned([pin(*scope, direction="down")], budget("1", "2"))) is fires


@pytest.mark.parametrize(("field", "fires"), [("daily_budget", True), ("Daily_Budget ", True), ("budget", False)])
def test_a_pin_is_about_one_field(field: str, fires: bool) -> None:
    assert bool(pinned([pin(direction="down")], budget("1", "2", field=field))) is fires


def test_each_change_is_compared_by_itself() -> None:
    down = pin("campaign:a", direction="down")
    legs = [budget("100", "90", campaign="a"), budget("100", "110", campaign="b")]
    assert pinned([down], *legs) == []
    (reason,) = pinned([pin(direction="down")], *legs)
    assert reason.saw == "daily_budget 100 → 110"


def test_an_action_without_a_tenant_of_its_own_may_be_about_any() -> None:
    assert pinned([pin("tenant:other", direction="down")], budget("1", "2"), tenant="")


@pytest.mark.parametrize("kind", ["bid.adjust", "strategy.change", "post.own", "no.such.type"])
def test_a_pin_is_heard_by_every_class_at_any_confidence_and_asks_the_senior(kind: str) -> None:
    rules = Rules(pins={7: pin(direction="down")})
    action = make_action(type=kind, confidence=1.0, changes=[budget("1", "1.01")])
    found = decide(action, rules)
    (reason,) = [each for each in found.reasons if each.rule == "pin"]
    assert reason.queue == found.cls.senior
    assert found.outcome is Outcome.ESCALATE


def test_a_pin_ends_when_it_says_and_the_compiled_policy_knows_when() -> None:
    end = milliseconds(NOW) + 90_000
    pins = [pin(direction="down", until=NOW + timedelta(seconds=90))]
    assert [bool(pinned(pins, budget("1", "2"), now_ms=now)) for now in (0, NOW_MS, end - 1, end, end + 1)] == [
        True, True, True, False, False
    ]  # fmt: skip
    rules = Rules(pins=dict(enumerate(pins)))
    before, after = ready(rules, now_ms=end - 1), ready(rules, now_ms=end)
    assert before.since_ms <= NOW_MS
    assert before.until_ms == end == after.since_ms


def test_every_pin_that_is_contradicted_is_named_and_of_very_many_the_first() -> None:
    pins = [pin(direction="down"), pin("campaign:x", direction="down"), pin(range=(None, "1"))]
    assert [each.limit for each in pinned(pins, budget("1", "2"), budget("1", "3"))] == [
        "only down (control/0)", "-∞ to 1 (control/2)"
    ]  # fmt: skip
    many = pinned([pin(direction="down")] * 50, budget("1", "2" * 3_000))
    assert [each.limit for each in many] == [f"only down (control/{n})" for n in range(PINS_SHOWN_MAX)]
    assert len(many[0].saw) < 100


def test_of_a_thousand_pins_a_handful_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    plainly = switches.covers
    monkeypatch.setattr(switches, "covers", lambda scope, one: looked.append(scope) or plainly(scope, one))
    pins = [pin(f"campaign:c{n}", direction="down") for n in range(1_000)]
    assert len(pinned(pins, budget("1", "2", campaign="c5"))) == 1
    assert looked == [("campaign:c5",)]


DECISIONS = st.builds(
    lambda scope, direction, low, unit: pin(*scope, direction=direction, range=(low, None), unit=unit),
    st.sampled_from([(), ("campaign:cmp-204",), ("campaign:b",)]),
    st.sampled_from([None, "up", "down"]),
    st.sampled_from([None, "1", "50", "x"]),
    st.sampled_from([None, "EUR", "USD"]),
)
VALUES = st.sampled_from([None, "1", "2", 60.0, "x", True])


@given(st.lists(DECISIONS, max_size=5), DECISIONS, st.lists(st.tuples(VALUES, VALUES), max_size=2))
@settings(deadline=None)
def test_another_pin_never_loosens(pins: list[Pin], more: Pin, sides: Any) -> None:
    legs = [budget(before, after) for before, after in sides]
    action = make_action(changes=legs)
    before = decide(action, Rules(pins=dict(enumerate(pins))))
    after = decide(action, Rules(pins=dict(enumerate([*pins, more]))))
    assert after.outcome >= before.outcome
    assert set(before.reasons) <= set(after.reasons)


# --- from the log -----------------------------------------------------------------------------------------------------


def test_rules_are_what_the_control_log_says() -> None:
    control = Control()
    assert rules_of(control) == NO_RULES
    monitor = {**CLAIMS, "kid": "m-1", "iss": "m"}
    entries = [
        KeyEntry(holder=holder, kind=kind, key_id=f"{holder}-1", jwk={}, types=TYPES,
                 from_=NOW - timedelta(1), until=NOW + timedelta(1))
        for holder, kind in (("ana", "person"), ("m", "service"))
    ]  # fmt: skip
    commands = [
        Keys(**CLAIMS, jti="0", keys=tuple(entries)),
        GateChange(**monitor, jti="1", gate="g", definition="a1", state="enforce", agent=COPY_2),
        GateChange(**monitor, jti="2", gate="h", definition="b2", state="enforce"),
        LevelChange(**monitor, jti="3", class_="bid.adjust", level=2, reason="r"),
        pin("campaign:c", direction="up"),
    ]
    for epoch, command in enumerate(commands):
        assert control.fold(epoch, NOW_MS, b"", command) is None
    found = rules_of(control)
    assert found.levels == {"bid.adjust": 2}
    assert found.gates == {"g": {COPY_2: GateRecord("enforce", "a1")}, "h": {None: GateRecord("enforce", "b2")}}
    assert found.pins == {4: commands[4]}


def test_rules_stay_what_they_were_when_the_log_goes_on() -> None:
    control = Control()
    found = rules_of(control)
    control.levels["bid.adjust"] = 1
    assert found == NO_RULES
