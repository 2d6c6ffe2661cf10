"""What a kill switch covers is parked, waits in order, and is decided again from scratch: bytes in, bytes out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hitl_stream.core.events import Mode
from hitl_stream.core.parking import keys_of
from hitl_stream.core.switches import Switch, Target, target_of
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.step import Moment, Output
from hitl_stream.roles.router import Router
from hitl_stream.wire import records
from hitl_stream.wire.decided import Decided, read_decided
from hitl_stream.wire.records import decode_closed, decode_held, head_of, held_value
from hitl_stream.wire.seal import SealKey, sealer
from support.make import NOW_MS, SEAL_KEY, FakeRecord, action_bytes, change, iso, make_policy, make_router

HELD = "hitl.held"
EXECUTE = "hitl.execute"
EXECUTOR_KEY = SealKey("e1", b"\x04" * 32)
KEYS = {SEAL_KEY.key_id: SEAL_KEY, EXECUTOR_KEY.key_id: EXECUTOR_KEY}
MINUTE = 60_000
CALM = make_policy(
    classes={"bid.adjust": {"audit_sample": 0, "auto_max_change_per": None}}, defaults={"audit_sample": 0}
)
"""No running sums, so that whatever runs alone once does so again."""


class Site:
    """One router partition over a log of its own: what a lane does, without Kafka."""

    def __init__(self, policy: Any = CALM) -> None:
        self.router: Router = make_router(policy, parkers={EXECUTOR_KEY.key_id: EXECUTOR_KEY})
        self.control = self.router.policies.control
        self.now_ms = NOW_MS
        self.inputs: list[FakeRecord] = []
        self.held: list[FakeRecord] = []
        self.consumed = 0
        """Committed offset on `held`."""
        self.followed = 0
        self.answers: list[Output] = []
        self.epoch = -1
        self.open()

    # --- the lane's part ---

    def open(self) -> None:
        """Open the partition anew: window replay, and `held` from its committed offset."""
        self.state = self.router.state(IdBudget())
        self.state.replay(self.inputs) if self.inputs else None
        self.followed = self.consumed
        self.follow()

    def follow(self) -> None:
        if self.followed < len(self.held):
            self.state.follow(self.held[self.followed :])
            self.followed = len(self.held)

    def moment(self) -> Moment:
        return Moment(self.now_ms, self.epoch)

    def propose(self, *values: bytes) -> list[Output]:
        """Let agents propose actions; return the answers."""
        batch = [FakeRecord(value, len(self.inputs) + n, timestamp=self.now_ms) for n, value in enumerate(values)]
        self.inputs += batch
        result = self.router(batch, self.state, self.moment())
        self.state.apply(result.changes)
        return self.write(result.outputs)

    def write(self, outputs: Any) -> list[Output]:
        for output in outputs:
            if output.topic == HELD:
                self.held.append(
                    FakeRecord(output.value, len(self.held), 0, self.now_ms, HELD, output.key, tuple(output.headers))
                )
            else:
                self.answers.append(output)
        return list(outputs)

    def pass_(self, batch: int = 3, abort_after: int | None = None) -> list[Output]:
        """Make a pass if the state wants one, in batches; abort the transaction after so many of them."""
        self.now_ms += 1_000
        self.follow()
        if not self.state.wants_pass(self.moment()):
            return []
        self.follow()
        epoch, watermark, outputs = self.epoch, len(self.held), []
        while self.consumed < watermark:
            if abort_after is not None and abort_after == 0:
                return outputs
            some = self.held[self.consumed : min(self.consumed + batch, watermark)]
            result = self.router.again(some, self.state, self.moment())
            taken = some if result.taken is None else some[: result.taken]
            self.consumed += len(taken)
            outputs += self.write(result.outputs)
            self.state.apply(result.changes)
            if len(taken) < len(some):
                return outputs
            abort_after = None if abort_after is None else abort_after - 1
        self.state.passed(epoch)
        self.follow()
        return outputs

    def passes(self) -> list[Output]:
        """Pass until nothing wants to."""
        outputs: list[Output] = []
        for _ in range(20):
            outputs += self.pass_()
        return outputs

    # --- people ---

    def engage(self, *scope: str, mode: Mode = Mode.HALT) -> int:
        self.epoch += 1
        self.control.epoch = self.control.decided_at = self.control.engaged_at = self.epoch
        self.control.switches.engage(Switch(self.epoch, scope, mode, "ana", self.now_ms))
        return self.epoch

    def release(self, epoch: int) -> None:
        self.epoch += 1
        self.control.epoch = self.control.decided_at = self.control.released_at = self.epoch
        self.control.switches.release(epoch, self.epoch, self.now_ms)

    # --- the executor ---

    def send_back(self, output: Output, *switches: int) -> None:
        """Let the executor park what it was to execute."""
        value = held_value(output.value or b"", records.Parked(by="executor", epoch=self.epoch, switches=switches))
        seal = sealer(EXECUTOR_KEY, HELD, records.DECISION)(head_of(value))
        headers = (("hitl-type", records.DECISION.encode()), ("hitl-seal", seal))
        self.held.append(FakeRecord(value, len(self.held), 0, self.now_ms, HELD, output.key, headers))


def bid(number: int, campaign: str | None = "cmp-7", **parts: Any) -> bytes:
    return action_bytes(action_id=f"act-{number}", changes=[change(campaign=campaign)], **parts)


def decision(output: Output) -> records.Held:
    assert output.value is not None
    return decode_held(output.value)


def ids(outputs: list[Output], topic: str = EXECUTE) -> list[str]:
    return [decision(output).action_id for output in outputs if output.topic == topic]


def ends(outputs: list[Output]) -> list[tuple[str, str, str]]:
    found = [decode_closed(o.value) for o in outputs if o.topic == "hitl.closed" and o.value is not None]
    return [(end.action_id, end.end, end.why) for end in found]


# --- parking ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("C1")
def test_a_halted_action_is_parked_and_says_by_which_switch():
    site = Site()
    epoch = site.engage("campaign:cmp-7", "tenant:acme")

    (output,) = site.propose(bid(1))

    assert output.topic == HELD
    found = read_decided(HELD, output.value, output.headers, KEYS)
    assert isinstance(found, Decided)
    assert found.decision.outcome == "HOLD"
    assert found.decision.parked == records.Parked(by="router", epoch=epoch, switches=(epoch,))
    assert [(row.rule, row.saw, row.limit) for row in found.decision.reasons] == [
        (f"switch.{epoch}", "HALT", "campaign:cmp-7 tenant:acme")
    ]
    assert found.decision.approvals == ()


def test_what_no_switch_covers_runs_on():
    site = Site()
    site.engage("campaign:cmp-7")

    assert ids(site.propose(bid(1, "cmp-8"))) == ["act-1"]


def test_under_review_all_a_person_is_asked():
    site = Site()
    site.engage("campaign:cmp-7", mode=Mode.REVIEW_ALL)

    (output,) = site.propose(bid(1))

    assert output.topic == "hitl.review"
    assert [row.queue for row in decision(output).approvals] == ["trading"]


@pytest.mark.parametrize(("before", "after", "topic"), [("1.30", "1.20", EXECUTE), ("1.20", "1.30", HELD)])
def test_under_reduce_only_what_lowers_a_bid_runs(before: str, after: str, topic: str):
    site = Site()
    site.engage("global:*", mode=Mode.REDUCE_ONLY)

    (output,) = site.propose(action_bytes(changes=[change(before, after)]))

    assert output.topic == topic


def test_a_recommendation_is_no_action_and_passes_a_switch():
    site = Site(make_policy(classes={"bid.adjust": {"level": 1}}))
    site.engage("global:*")

    assert site.propose(bid(1))[0].topic == "hitl.recommendations"


def test_what_is_refused_is_refused_under_a_switch_too():
    site = Site()
    site.propose(bid(1))
    site.engage("global:*")

    assert ends(site.propose(bid(1))) == [("act-1", "refused", "duplicate")]


def test_new_actions_of_an_entity_park_behind_what_lies_there():
    site = Site()
    epoch = site.engage("campaign:cmp-7", mode=Mode.REDUCE_ONLY)
    site.propose(bid(1))

    lowering, other = site.propose(
        action_bytes(action_id="act-2", changes=[change("1.30", "1.20", campaign="cmp-7")]), bid(3, "cmp-8")
    )

    assert (lowering.topic, other.topic) == (HELD, EXECUTE)
    assert [row.rule for row in decision(lowering).reasons] == ["parked.behind"]
    assert decision(lowering).parked == records.Parked(by="router", epoch=epoch, switches=())


def test_an_action_on_the_whole_account_waits_behind_one_of_its_campaigns_and_the_other_way_round():
    site = Site()
    site.engage("campaign:cmp-7")

    (first,) = site.propose(bid(1))
    (whole,) = site.propose(bid(2, None))
    (another,) = site.propose(bid(3, "cmp-8"))

    assert [output.topic for output in (first, whole, another)] == [HELD, HELD, HELD]


def test_a_decision_says_how_far_its_router_had_read_what_is_parked():
    site = Site()
    site.engage("campaign:cmp-7")
    site.propose(bid(1))
    site.propose(bid(2))
    site.follow()

    (output,) = site.propose(bid(3, "cmp-8"))

    assert decision(output).held == 1


# --- passes -----------------------------------------------------------------------------------------------------------


def test_after_the_release_everything_runs_in_its_order():
    site = Site()
    epoch = site.engage("campaign:cmp-7")
    site.propose(bid(1), bid(2))
    site.propose(bid(3))
    assert site.passes() == []

    site.release(epoch)

    assert ids(site.passes()) == ["act-1", "act-2", "act-3"]
    assert site.consumed == len(site.held)
    assert ids(site.propose(bid(4))) == ["act-4"]


def test_the_place_and_hash_stay_those_of_the_action_at_home():
    site = Site()
    epoch = site.engage("global:*")
    (parked,) = site.propose(bid(1))
    site.release(epoch)

    (output,) = site.passes()

    before, after = decision(parked), decision(output)
    assert (after.id, after.origin, after.hash, after.attempt) == (before.id, before.origin, before.hash, 0)
    assert bytes(after.action) == bytes(before.action)
    assert after.epoch == site.epoch


def test_what_another_switch_still_covers_is_parked_again():
    site = Site()
    one, two = site.engage("campaign:cmp-7"), site.engage("tenant:acme")
    site.propose(bid(1), bid(2, "cmp-8"))
    site.release(one)

    again = site.passes()

    assert [output.topic for output in again] == [HELD, HELD]
    assert {decision(output).parked.switches for output in again} == {(two,)}  # type: ignore[union-attr]
    site.release(two)
    assert ids(site.passes()) == ["act-1", "act-2"]


def test_while_a_pass_is_half_done_the_rest_still_holds_back_new_actions():
    site = Site()
    epoch = site.engage("campaign:cmp-7")
    site.propose(bid(1), bid(2))
    site.release(epoch)

    assert ids(site.pass_(batch=1, abort_after=1)) == ["act-1"]
    (late,) = site.propose(bid(3))

    assert late.topic == HELD
    assert ids(site.passes()) == ["act-2", "act-3"]


def test_what_lay_parked_too_long_is_closed_also_while_it_is_covered():
    site = Site()
    site.engage("global:*")
    site.propose(bid(1, expires_at=iso(NOW_MS + MINUTE)))
    site.propose(bid(2, expires_at=iso(NOW_MS + 60 * MINUTE)))

    site.now_ms += MINUTE

    assert ends(site.passes()) == [("act-1", "expired", "execute_by")]
    assert site.consumed == 1, "a sweep stops at the first that still has time"


def test_one_that_is_overdue_behind_others_is_closed_by_and_by():
    site = Site()
    site.engage("global:*")
    site.propose(bid(1, expires_at=iso(NOW_MS + 60 * MINUTE)))
    site.propose(bid(2, expires_at=iso(NOW_MS + MINUTE)))

    site.now_ms += 3 * MINUTE

    assert ends(site.passes()) == [("act-2", "expired", "execute_by")]


def test_an_action_is_decided_from_scratch_by_the_policy_of_now():
    site = Site()
    epoch = site.engage("global:*")
    site.propose(bid(1))
    site.router.policies.policy = make_policy(classes={"bid.adjust": {"level": 2}})
    site.router.policies._compiled = None
    site.release(epoch)

    (output,) = site.passes()

    assert output.topic == "hitl.review"


def test_a_pass_does_not_count_an_action_twice_in_its_running_sum():
    site = Site(make_policy(classes={"bid.adjust": {"auto_max_change_per": {"1h": "0.15"}, "audit_sample": 0}}))
    epoch = site.engage("global:*")
    site.propose(bid(1))  # 8.3 %
    site.release(epoch)

    assert ids(site.passes()) == ["act-1"]
    assert [o.topic for o in site.propose(bid(2))] == ["hitl.review"], "16.7 % within the hour"


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda r: replace(r, value=r.value.replace(b"act-1", b"act-9")), b"seal"),
        (lambda r: replace(r, headers=()), b"unknown_type"),
        (lambda r: replace(r, value=None), b"empty"),
        (lambda r: replace(r, value=b"{"), b"schema"),
    ],
)
def test_what_cannot_be_read_becomes_a_dead_letter_and_holds_nobody_back(spoil: Any, error: bytes):
    site = Site()
    epoch = site.engage("global:*")
    site.propose(bid(1))
    site.held[0] = spoil(site.held[0])
    site.open()
    site.release(epoch)

    outputs = site.passes()

    assert [output.topic for output in outputs] == ["hitl.dlq"]
    assert dict(outputs[0].headers)["hitl-error"] == error
    assert ids(site.propose(bid(2))) == ["act-2"]


# --- sent back by the executor ----------------------------------------------------------------------------------------


def test_what_the_executor_sends_back_is_decided_again_as_the_next_attempt():
    site = Site()
    (output,) = site.propose(bid(1))
    epoch = site.engage("campaign:cmp-7")
    site.send_back(output, epoch)
    assert [o.topic for o in site.passes()] == [], "it is covered, and there is no release to look for"

    site.release(epoch)
    (again,) = site.passes()

    assert (again.topic, decision(again).attempt) == (EXECUTE, 1)
    assert decision(again).id == f"{decision(output).origin}#1"
    assert decision(again).origin == decision(output).origin


def test_what_comes_back_after_the_release_is_decided_without_waiting_for_another():
    site = Site()
    (output,) = site.propose(bid(1))
    epoch = site.engage("campaign:cmp-7")
    site.release(epoch)
    site.passes()
    site.send_back(output)

    assert [decision(o).attempt for o in site.passes()] == [1]


def test_what_comes_back_under_review_all_is_asked_for():
    site = Site()
    (output,) = site.propose(bid(1))
    epoch = site.engage("campaign:cmp-7", mode=Mode.REVIEW_ALL)
    site.send_back(output, epoch)

    assert [o.topic for o in site.passes()] == ["hitl.review"]


def test_what_the_platform_says_is_an_increase_does_not_go_back_and_forth_under_reduce_only():
    site = Site()
    (output,) = site.propose(action_bytes(changes=[change("1.30", "1.20", campaign="cmp-7")]))
    epoch = site.engage("campaign:cmp-7", mode=Mode.REDUCE_ONLY)
    site.send_back(output, epoch)

    assert [o for o in site.passes() if o.topic != HELD] == []
    site.release(epoch)
    assert [decision(o).attempt for o in site.passes() if o.topic == EXECUTE] == [1]


def test_an_older_action_that_comes_back_late_still_goes_first():
    site = Site()
    one, two = site.propose(bid(1), bid(2))
    epoch = site.engage("campaign:cmp-7")
    site.send_back(two, epoch)
    site.send_back(one, epoch)
    site.release(epoch)

    assert ids(site.passes()) == ["act-1", "act-2"]


def test_those_who_had_approved_it_are_asked_again():
    site = Site()
    (asked,) = site.propose(action_bytes(action_id="act-1", changes=[change("1.20", "1.60", campaign="cmp-7")]))
    assert asked.topic == "hitl.review"
    epoch = site.engage("campaign:cmp-7")
    site.send_back(asked, epoch)
    site.router.policies.policy = make_policy(classes={"bid.adjust": {"auto_max_change": "0.9"}})
    site.router.policies._compiled = None
    site.release(epoch)

    (again,) = site.passes()

    assert again.topic == "hitl.review"
    assert "approval.again" in [row.rule for row in decision(again).reasons]
    assert [row.queue for row in decision(again).approvals] == ["trading"]


def test_what_expires_while_it_lies_parked_is_closed_by_the_pass_and_never_sent():
    site = Site()
    epoch = site.engage("campaign:cmp-7")
    site.propose(bid(1, expires_at=iso(NOW_MS + 2_500)), bid(2))
    site.release(epoch)
    site.now_ms = NOW_MS + 1_500  # the pass begins a second later

    outputs = site.pass_()

    assert (ends(outputs), ids(outputs)) == ([("act-1", "expired", "execute_by")], ["act-2"])


@pytest.mark.parametrize("header", [b"00-x", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_a_pass_carries_on_what_is_a_trace_and_nothing_else(header: bytes):
    """Headers are not sealed: whoever may write to the topic can put anything into them."""
    site = Site()
    site.release(site.engage("campaign:cmp-8"))
    (output,) = site.propose(bid(1))
    site.send_back(output)
    site.held[0] = replace(site.held[0], headers=(*site.held[0].headers, ("traceparent", header)))

    (again,) = site.passes()

    assert ("traceparent" in dict(again.headers)) is (header != b"00-x")


# --- no more room, and what is counted --------------------------------------------------------------------------------


def test_a_router_takes_up_nothing_new_while_no_more_can_be_parked():
    site = Site()
    site.state.lot.limit = 2
    epoch = site.engage("campaign:cmp-7")
    rooms = []
    for n in range(3):
        rooms.append(site.state.room())
        site.propose(bid(n))
    assert (rooms, site.state.room()) == ([True, True, False], False)

    site.release(epoch)

    assert ids(site.passes()) == ["act-0", "act-1", "act-2"], "nothing was forgotten, also of what came in all the same"
    assert site.state.room()


def test_what_a_pass_did_is_counted_apart_from_what_agents_proposed():
    site = Site()
    first, second = site.engage("campaign:cmp-7"), site.engage("campaign:cmp-8")
    site.propose(bid(1), bid(2, "cmp-8"), bid(3, "cmp-8", expires_at=iso(NOW_MS + 2_000)))
    site.held.append(FakeRecord(b"{}", len(site.held), 0, NOW_MS, HELD))
    site.release(first)
    site.now_ms += 5_000
    site.follow()

    result = site.router.again(site.held, site.state, site.moment())

    assert second in site.control.switches.engaged
    tally = result.tally
    assert tally.again == {("bid.adjust", "EXECUTE"): 1, ("bid.adjust", "HOLD"): 1, ("bid.adjust", "REFUSE"): 1}
    assert (tally.routed, tally.closed, tally.dead) == ({}, {"execute_by": 1}, {"unknown_type": 1})


def test_a_sweep_that_ends_early_counts_what_it_closed():
    site = Site()
    site.engage("global:*")
    site.propose(bid(1, expires_at=iso(NOW_MS + 1_000)), bid(2, "cmp-8"))
    site.now_ms += 10_000
    site.follow()
    assert site.state.wants_pass(site.moment())
    assert site.state.sweeping

    result = site.router.again(site.held, site.state, site.moment())

    assert (result.taken, result.tally.again) == (1, {("bid.adjust", "REFUSE"): 1})


# --- whatever happens -------------------------------------------------------------------------------------------------


class Parking(RuleBasedStateMachine):
    """Actions, switches, releases, things sent back, crashes in passes: in the end all have run, once, in order."""

    @initialize()
    def start(self) -> None:
        self.site = Site()
        self.engaged: list[int] = []
        self.number = 0
        self.done = 0
        self.executed: list[records.Held] = []
        self.final: dict[str, int] = {}
        self.sent_back: list[tuple[int, Any]] = []

    campaigns = st.sampled_from(["cmp-1", "cmp-2", None])

    @rule(picked=st.lists(campaigns, min_size=1, max_size=4))
    def propose(self, picked: list[str | None]) -> None:
        values = []
        for campaign in picked:
            self.number += 1
            values.append(bid(self.number, campaign))
        self.site.propose(*values)

    @rule(scope=st.sampled_from(["campaign:cmp-1", "campaign:cmp-2", "tenant:acme", "type:other"]))
    def engage(self, scope: str) -> None:
        if len(self.engaged) < 4:
            self.engaged.append(self.site.engage(scope))

    @precondition(lambda self: self.engaged)
    @rule(which=st.integers(0, 3))
    def release(self, which: int) -> None:
        self.site.release(self.engaged.pop(which % len(self.engaged)))

    @rule(batch=st.integers(1, 3), abort_after=st.none() | st.integers(0, 3))
    def pass_(self, batch: int, abort_after: int | None) -> None:
        self.site.pass_(batch, abort_after)

    @rule()
    def crash(self) -> None:
        self.site.open()

    @rule(count=st.integers(1, 4))
    def execute(self, count: int) -> None:
        """Be an executor: run what nothing covers, send back the rest and what it did not know of."""
        for output in self.site.answers[self.done : self.done + count]:
            self.done += 1
            if output.topic != EXECUTE:
                continue  # a copy for audit
            found = read_decided(output.topic, output.value, output.headers, KEYS)
            assert isinstance(found, Decided)
            keys = keys_of(found.decoded.action, "acme", found.decision.entity)
            covered = self.site.control.switches.blocking(_target(found), found.decision.epoch)
            marks = [at for at, theirs in self.sent_back if _conflict(keys, theirs)]
            if covered or any(found.decision.held < at for at in marks):
                engaged = [switch.epoch for switch in covered if switch.released is None]
                self.site.send_back(output, *engaged)
                self.sent_back.append((len(self.site.held) - 1, keys))
            else:
                self.executed.append(found.decision)
                self.final[found.decision.origin] = self.final.get(found.decision.origin, 0) + 1

    @invariant()
    def nothing_runs_twice_or_overtakes(self) -> None:
        if not hasattr(self, "site"):
            return
        assert all(count == 1 for count in self.final.values())
        last: dict[str, int] = {}
        for one in self.executed:
            offset = int(one.origin.rsplit("/", 1)[1])
            campaign = one.entity.campaign
            conflicting = last.values() if campaign is None else (last.get(campaign, -1), last.get("*", -1))
            assert all(offset > earlier for earlier in conflicting), (one.origin, last)
            last[campaign or "*"] = offset

    def teardown(self) -> None:
        if not hasattr(self, "site"):
            return
        while self.engaged:
            self.site.release(self.engaged.pop())
        for _ in range(30):
            self.site.passes()
            self.execute(1_000)
        self.nothing_runs_twice_or_overtakes()
        assert self.site.state.lot.count() == 0
        assert len(self.executed) == self.number


def _target(found: Decided) -> Target:
    return target_of(found.decoded.action, "acme", found.decision.entity)


def _conflict(one: Any, other: Any) -> bool:
    return any(a[:2] == b[:2] and (a[2] == b[2] or a[2] is None or b[2] is None) for a in one for b in other)


Parking.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
test_whatever_happens_everything_runs_once_and_in_order = Parking.TestCase
