"""What a switch covers and what it says: in doubt more, never less; engaging never loosens; releasing hides nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hitl_stream.core import switches as module
from hitl_stream.core.action import Action, Entity, entity_of
from hitl_stream.core.events import Mode, Outcome
from hitl_stream.core.switches import (
    OUTCOMES,
    ROWS_MAX,
    Switch,
    Switches,
    Target,
    covers,
    folded,
    lowers,
    reasons_of,
    reduces,
    stopped_ms,
    stops,
    target_of,
)
from support.make import change, make_action, post

NONE, HOLD, REVIEW = None, Outcome.HOLD, Outcome.REVIEW
HALT, REVIEW_ALL, REDUCE_ONLY = Mode.HALT, Mode.REVIEW_ALL, Mode.REDUCE_ONLY


def seen(action: Action, tenant: str = "acme") -> Target:
    return target_of(action, tenant, entity_of(action))


def target(**parts: Any) -> Target:
    """Return the target of a bid in acme's campaign cmp-204 of account acc-17 by bidder-7, version 1."""
    return seen(make_action(**parts))


def switch(epoch: int, *scope: str, mode: Mode = HALT) -> Switch:
    return Switch(epoch, scope, mode, "ana", 0)


def engaged(*found: Switch) -> Switches:
    all_ = Switches()
    for one in found:
        all_.engage(one)
    return all_


def epochs(found: Any) -> list[int]:
    return [one.epoch for one in found]


# --- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        # one kind
        (["global:*"], True),
        (["tenant:acme"], True),
        (["tenant:other"], False),
        (["account:acc-17"], True),
        (["account:acc-1"], False),
        (["campaign:cmp-204"], True),
        (["campaign:cmp-20"], False),
        (["agent:bidder-7"], True),
        (["agent:bidder"], False),
        (["agent-version:bidder-7@1"], True),
        (["agent-version:bidder-7@2"], False),
        (["agent-version:bidder-7"], True),
        (["agent-version:bidder"], False),
        (["type:bid.adjust"], True),
        (["type:bid"], False),
        (["destination:google_ads"], True),
        (["destination:meta"], False),
        # the same kind twice means either, different kinds mean both
        (["campaign:cmp-1", "campaign:cmp-204"], True),
        (["campaign:cmp-204", "tenant:acme"], True),
        (["campaign:cmp-204", "tenant:other"], False),
        (["campaign:cmp-1", "tenant:acme"], False),
        (["campaign:cmp-1", "campaign:cmp-204", "tenant:acme", "tenant:other"], True),
        # what is in doubt covers everything
        ([], True),
        ([""], True),
        (["campaign"], True),
        (["campaign:"], True),
        (["campaign: "], True),
        (["campaign:\u200b"], True),
        (["brand:nike"], True),
        (["global:*", "campaign:cmp-1"], True),
        (["campaign:cmp-1", "brand:nike"], True),
        # as it is typed
        (["Campaign:CMP-204"], True),
        ([" campaign : cmp-204 "], True),
        (["campaign:cmp\u2011204"], False),
        (["campaign:\uff43mp-204\u200b"], True),
    ],
)
def test_a_scope_covers_what_it_names_and_what_is_in_doubt(scope: list[str], covered: bool) -> None:
    assert covers(tuple(scope), target(destination="google_ads")) is covered


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("CMP-7", "cmp-7"),
        (" cmp-7\n", "cmp-7"),
        ("cmp\u200b-\u202e7", "cmp-7"),
        ("\uff43\uff4dp-\uff17", "cmp-7"),
        ("STRASSE", "straße"),
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u200d\u0301", "CAFÉ"),
        ("brand campaign", "BrandCampaign"),
        ("ﬁt", "fit"),
        ("\u00a0x", "x"),
        ("\x00x\x7f", "x"),
    ],
)
def test_two_spellings_that_look_alike_are_one_id(written: str, meant: str) -> None:
    """An agent cannot slip past a switch by a spelling that the platform reads as the same id."""
    assert folded(written) == folded(meant)
    legs = [change(campaign=written)]
    assert covers((f"campaign:{meant}",), target(changes=legs))


@given(st.text())
def test_folding_twice_changes_nothing(text: str) -> None:
    assert folded(folded(text)) == folded(text)


@pytest.mark.parametrize("campaign", ["urn:c:7", "a:b", ":", "c:*", "global:*"])
def test_an_id_may_hold_a_colon(campaign: str) -> None:
    found = target(changes=[change(campaign=campaign)])
    assert covers((f"campaign:{campaign}",), found)
    assert not covers((f"campaign:x{campaign}",), found)


@pytest.mark.parametrize(
    ("agent", "selector", "covered"),
    [
        ({"id": "bot@acme.com", "version": "4"}, "bot@acme.com@4", True),
        ({"id": "bot@acme.com", "version": "4"}, "bot@acme.com", True),
        ({"id": "bot@acme.com", "version": "4"}, "bot@acme.com@5", False),
        ({"id": "bot", "version": "2026@11"}, "bot@2026@11", True),
        ({"id": "bot", "version": "2026@11"}, "bot@2026", False),
        # who does not say his version may be any
        ({"id": "bot"}, "bot@4", True),
        ({"id": "bot"}, "bot@2026@11", True),
        ({"id": "bot@acme.com"}, "bot@acme.com@4", True),
        ({"id": "bot"}, "bot@", True),
        ({"id": "bot", "version": "1"}, "bot@", False),
        ({"id": "bot"}, "bo@4", False),
    ],
)
def test_an_agents_version_is_told_apart_and_one_that_is_not_said_may_be_any(
    agent: dict[str, str], selector: str, covered: bool
) -> None:
    assert covers((f"agent-version:{selector}",), target(agent=agent)) is covered


def leg(account: str | None, campaign: str | None) -> dict[str, Any]:
    return {"entity": {"account": account, "campaign": campaign}, "field": "bid", "before": "1", "after": "2"}


@pytest.mark.parametrize(
    ("scope", "covered"),
    [
        (["account:a"], True),
        (["account:b"], True),
        (["campaign:1"], True),
        (["account:a", "campaign:1"], True),
        (["account:b", "campaign:2"], True),
        (["account:a", "campaign:2"], False),
        (["account:b", "campaign:1"], False),
        (["account:a", "account:c", "campaign:1", "campaign:9"], True),
        (["account:a", "campaign:2", "campaign:3"], False),
    ],
)
def test_account_and_campaign_must_be_those_of_one_change(scope: list[str], covered: bool) -> None:
    assert covers(tuple(scope), target(changes=[leg("a", "1"), leg("b", "2")])) is covered


@pytest.mark.parametrize(
    ("parts", "scope", "covered"),
    [
        # where an action goes, and what it is about, cannot be hidden by leaving it out
        ({}, "destination:google_ads", True),
        ({"destination": ""}, "destination:google_ads", True),
        ({"destination": "meta"}, "destination:google_ads", False),
        ({"changes": [leg(None, "c")]}, "account:anything", True),
        ({"changes": [leg(None, "c")]}, "campaign:other", False),
        ({"changes": [leg("a", None)]}, "campaign:c", False),
        ({"changes": [leg(None, None)]}, "account:a", False),
        # without changes it is about the entity that it names, and that counts beside changes, too
        (post(), "account:acc-17", True),
        (post(), "account:acc-1", False),
        (post(entity={"account": "a", "campaign": "c"}), "campaign:c", True),
        ({"changes": ...}, "account:acc-17", False),
        ({"changes": ...}, "tenant:acme", True),
        ({"entity": {"account": "z", "campaign": "y"}}, "campaign:y", True),
        ({"entity": {"account": "z", "campaign": "y"}}, "campaign:cmp-204", True),
    ],
)
def test_what_an_action_does_not_say_is_in_doubt(parts: dict[str, Any], scope: str, covered: bool) -> None:
    assert covers((scope,), target(**parts)) is covered


def test_who_has_no_tenant_may_be_anybodys() -> None:
    assert covers(("tenant:acme",), seen(make_action(tenant=""), ""))


def test_a_target_without_parts_is_still_covered_by_what_all_its_changes_share() -> None:
    empty = Target(frozenset({"tenant:acme"}), ())
    assert covers((), empty)
    assert covers(("tenant:acme",), empty)
    assert not covers(("campaign:c",), empty)


IDS = ["a", "b", "A ", "b@1", "b@", "x:y"]
SELECTORS = st.one_of(
    st.builds(
        "{}:{}".format,
        st.sampled_from(["campaign", "account", "agent-version", "agent", "destination", "type", "tenant", "Tenant"]),
        st.sampled_from([*IDS, "a@1", "a@1@2", "B @1"]),
    ),
    st.sampled_from(["global:*", "brand:x", "campaign", "campaign: ", ""]),
)
KNOWN = st.one_of(*[SELECTORS] * 4)
SCOPES = st.lists(KNOWN, max_size=4).map(tuple)
ENTITIES = st.builds(Entity, st.sampled_from([None, *IDS]), st.sampled_from([None, *IDS]))
ACTIONS = st.builds(
    lambda agent, version, kind, destination, legs, entity: make_action(
        agent={"id": agent, "version": version},
        type=kind,
        destination=destination,
        changes=[leg(one.account, one.campaign) for one in legs],
        entity=None if entity is None else {"account": entity.account, "campaign": entity.campaign},
    ),
    st.sampled_from(IDS),
    st.sampled_from(["", "1", "1@2"]),
    st.sampled_from(IDS),
    st.sampled_from([None, *IDS]),
    st.lists(ENTITIES, max_size=3),
    st.none() | ENTITIES,
)
TENANTS = st.sampled_from(["a", "B", "x:y"])


def plain(text: str) -> str:
    return text.replace(" ", "").lower()


def naively(scope: tuple[str, ...], action: Action, tenant: str) -> bool:
    """Say the same as `covers`, word by word as kill-switches.md has it."""
    wanted: dict[str, list[str]] = {}
    for selector in scope:
        kind, _, value = selector.partition(":")
        if plain(kind) not in module.KINDS or not plain(value):
            return True
        wanted.setdefault(plain(kind), []).append(plain(value))
    version = plain(f"{action.agent.id}@{action.agent.version}")

    def fits(kind: str, value: str, entity: Entity) -> bool:
        match kind:
            case "campaign":
                return entity.campaign is not None and value == plain(entity.campaign)
            case "account" if entity.account is None:
                return entity.campaign is not None
            case "account":
                return value == plain(entity.account or "")
            case "agent-version":
                unsaid = version.endswith("@") and value.startswith(version)
                return value in (version, plain(action.agent.id)) or unsaid
            case "destination":
                return action.destination is None or value == plain(action.destination)
        return value == plain({"agent": action.agent.id, "type": action.type, "tenant": tenant}[kind])

    about = [one.entity for one in action.changes] or [entity_of(action)]
    if action.entity is not None:
        about.append(action.entity)
    return any(
        all(any(fits(kind, value, entity) for value in values) for kind, values in wanted.items()) for entity in about
    )


@given(SCOPES, ACTIONS, TENANTS)
def test_covers_says_what_a_plain_reading_says(scope: tuple[str, ...], action: Action, tenant: str) -> None:
    assert covers(scope, seen(action, tenant)) is naively(scope, action, tenant)


@given(SCOPES, ACTIONS, TENANTS, st.data())
def test_another_selector_of_a_kind_that_is_there_never_covers_less(
    scope: tuple[str, ...], action: Action, tenant: str, data: st.DataObject
) -> None:
    more = data.draw(SELECTORS.filter(lambda one: one.partition(":")[0] in {each.partition(":")[0] for each in scope})
                     if scope else st.just("global:*"))  # fmt: skip
    found = seen(action, tenant)
    assert covers((*scope, more), found) >= covers(scope, found)


# --- switches ---------------------------------------------------------------------------------------------------------

MODES = st.sampled_from(list(Mode))
STORIES = st.lists(
    st.one_of(st.tuples(st.just("engage"), SCOPES, MODES), st.tuples(st.just("release"), st.integers(0, 20))),
    max_size=20,
)


def lived(story: list[Any]) -> Switches:
    found = Switches()
    for epoch, (what, *rest) in enumerate(story):
        if what == "engage":
            found.engage(switch(epoch, *rest[0], mode=rest[1]))
        else:
            found.release(rest[0], epoch, 1_000)
    return found


def outcome(found: Switches, action: Action, tenant: str = "acme") -> int:
    reasons = reasons_of(found.covering(seen(action, tenant)), action, "q")
    return max((one.outcome for one in reasons), default=Outcome.EXECUTE)


@given(STORIES, ACTIONS, TENANTS, st.integers(-1, 20))
def test_switches_are_found_as_if_each_were_looked_at(
    story: list[Any], action: Action, tenant: str, since: int
) -> None:
    found, at = lived(story), seen(action, tenant)
    engaged_, released = [], {}
    for epoch, (what, *rest) in enumerate(story):
        if what == "engage":
            engaged_.append((epoch, rest[0]))
        elif rest[0] in [one for one, _ in engaged_] and rest[0] not in released:
            released[rest[0]] = epoch
    covering = [one for one, scope in engaged_ if naively(scope, action, tenant)]
    assert epochs(found.covering(at)) == [one for one in covering if one not in released]
    assert epochs(found.blocking(at, since)) == [one for one in covering if one > since]
    assert epochs(found.ever(at)) == covering
    assert {one.epoch: one.released for one in found.all.values() if one.released is not None} == released


@pytest.mark.behaviour("E15")
@given(STORIES, SCOPES, MODES, ACTIONS, TENANTS)
def test_engaging_anything_never_loosens(
    story: list[Any], scope: tuple[str, ...], mode: Mode, action: Action, tenant: str
) -> None:
    found = lived(story)
    before, held = outcome(found, action, tenant), epochs(found.covering(seen(action, tenant)))
    found.engage(switch(len(story), *scope, mode=mode))
    assert outcome(found, action, tenant) >= before
    assert epochs(found.covering(seen(action, tenant)))[: len(held)] == held


def test_what_is_engaged_holds_whatever_else_is_released() -> None:
    found = engaged(switch(1, "campaign:cmp-204"), switch(2, "campaign:cmp-204"), switch(3, "tenant:acme"))
    found.release(1, 4, 1_000)
    assert epochs(found.covering(target())) == [2, 3]
    found.release(2, 5, 1_000)
    found.release(3, 6, 1_000)
    assert found.covering(target()) == ()
    assert not found.engaged


def test_a_released_switch_still_blocks_what_was_decided_before_it() -> None:
    """Between the decision and the release it was stopped; nobody has decided it again since."""
    found = engaged(switch(5, "campaign:cmp-204"))
    found.release(5, 9, 1_000)
    assert found.ever(target()) == (structs.replace(switch(5, "campaign:cmp-204"), released=9, released_ms=1_000),)
    assert [epochs(found.blocking(target(), since)) for since in (-1, 4, 5, 9)] == [[5], [5], [], []]
    assert found.blocking(target(), 4)[0].released == 9


def test_releasing_twice_or_what_is_not_there_changes_nothing() -> None:
    found = engaged(switch(1, "tenant:acme"))
    found.release(1, 2, 1_000)
    found.release(1, 3, 2_000)
    found.release(7, 4, 3_000)
    assert (found.all[1].released, found.all[1].released_ms) == (2, 1_000)
    assert list(found.all) == [1]


# --- how long a review has stood --------------------------------------------------------------------------------------


def held(from_ms: int, until_ms: int | None, mode: Mode = HALT) -> Switch:
    return Switch(from_ms, ("global:*",), mode, "ana", from_ms, released=until_ms, released_ms=until_ms)


@pytest.mark.parametrize(
    ("mode", "passes", "stopping"),
    [
        (HALT, False, True),
        (HALT, True, True),
        (REDUCE_ONLY, False, True),
        (REDUCE_ONLY, True, False),
        (REVIEW_ALL, False, False),
        (REVIEW_ALL, True, False),
    ],
)
def test_an_open_review_is_held_by_what_would_hold_the_action_once_it_is_approved(
    mode: Mode, passes: bool, stopping: bool
) -> None:
    assert stops(held(0, None, mode), passes) is stopping
    assert stopped_ms([held(10, 20, mode)], passes, 0, 30) == (10 if stopping else 0)
    found = reasons_of([held(0, None, mode)], make_action(changes=[change("1.30", "1.20" if passes else "1.40")]), "q")
    assert stopping is any(reason.outcome is HOLD for reason in found)


@pytest.mark.parametrize(
    ("times", "stopped"),
    [
        ([], 0),
        ([(120, 150)], 30),
        ([(120, None)], 80),
        # only what lies between since (100) and now (200)
        ([(50, 150)], 50),
        ([(150, 250)], 50),
        ([(50, 250)], 100),
        ([(50, None)], 100),
        ([(50, 100)], 0),
        ([(200, None)], 0),
        ([(0, 20), (300, None)], 0),
        # what overlaps counts once
        ([(120, 150), (130, 160)], 40),
        ([(120, 160), (130, 150)], 40),
        ([(120, 130), (130, 140)], 20),
        ([(120, 130), (150, 160)], 20),
        ([(150, 160), (120, 130)], 20),
        ([(120, None), (130, 140)], 80),
        ([(50, None), (60, None)], 100),
    ],
)
def test_the_times_in_which_switches_held_it_are_added_up(times: list[tuple[int, int | None]], stopped: int) -> None:
    assert stopped_ms([held(*one) for one in times], False, 100, 200) == stopped


TIMES = st.integers(0, 40)


@given(
    st.lists(st.tuples(TIMES, st.none() | TIMES, MODES), max_size=6), st.booleans(), TIMES, TIMES, TIMES,
)  # fmt: skip
def test_a_clock_stands_in_each_millisecond_in_which_a_switch_held_it(
    times: list[tuple[int, int | None, Mode]], passes: bool, since: int, now: int, later: int
) -> None:
    found = [held(start, None if end is None else start + end, mode) for start, end, mode in times]
    assert stopped_ms(found, passes, since, now) == sum(
        any(
            stops(one, passes) and one.at_ms <= ms and (one.released_ms is None or ms < one.released_ms)
            for one in found
        )
        for ms in range(since, now)
    )
    # A clock that stands now goes no further, and none ever goes back.
    more = stopped_ms(found, passes, since, now + later) - stopped_ms(found, passes, since, now)
    assert now < since or 0 <= more <= later


def test_of_ten_thousand_switches_a_handful_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    found = engaged(*(switch(n, f"campaign:c{n}", "tenant:acme") for n in range(10_000)))
    for n in range(0, 10_000, 2):
        found.release(n, 10_000 + n, 1_000)
    found.engage(switch(20_000, "tenant:acme", "type:bid.adjust"))
    looked = []
    plainly = module.covers
    monkeypatch.setattr(module, "covers", lambda scope, one: looked.append(scope) or plainly(scope, one))
    at = target(changes=[leg("a", "c7"), leg("a", "c8")])
    assert epochs(found.covering(at)) == [7, 20_000]
    assert epochs(found.blocking(at, -1)) == [7, 8, 20_000]
    assert epochs(found.blocking(at, 19_999)) == [20_000]
    assert len(looked) <= 6
    looked.clear()
    assert found.blocking(at, 20_000) == ()
    assert looked == []


# --- what they say ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "after", "outcome", "queue"),
    [
        (HALT, "1.30", HOLD, None),
        (HALT, "1.10", HOLD, None),
        (REVIEW_ALL, "1.30", REVIEW, "trading"),
        (REVIEW_ALL, "1.10", REVIEW, "trading"),
        (REDUCE_ONLY, "1.30", HOLD, None),
        (REDUCE_ONLY, "1.10", NONE, None),
    ],
)
def test_a_mode_says_what_becomes_of_an_action(mode: Mode, after: str, outcome: Any, queue: str | None) -> None:
    action = make_action(changes=[change("1.20", after)])
    found = reasons_of([switch(812, "tenant:acme", "campaign:cmp-204", mode=mode)], action, "trading")
    if outcome is None:
        assert found == []
        return
    (reason,) = found
    assert (reason.rule, reason.saw, reason.limit) == ("switch.812", mode.value, "tenant:acme campaign:cmp-204")
    assert (reason.outcome, reason.queue) == (outcome, queue)


def test_what_no_switch_covers_has_no_reasons() -> None:
    assert reasons_of([], make_action(), "q") == []


@given(st.lists(MODES, max_size=2 * ROWS_MAX + 5), st.sampled_from(["1.10", "1.30"]))
def test_however_many_switches_there_are_the_rows_are_few_and_the_answer_is_the_strictest(
    modes: list[Mode], after: str
) -> None:
    action = make_action(changes=[change("1.20", after)])
    covering = [switch(epoch, "x" * 500, mode=mode) for epoch, mode in enumerate(modes)]
    found = reasons_of(covering, action, "q")
    holding = [one for one in covering if one.mode is not REDUCE_ONLY or after == "1.30"]
    assert len(found) == min(len(holding), ROWS_MAX + 1)
    assert max((one.outcome for one in found), default=None) == max(
        (OUTCOMES[one.mode] for one in holding), default=None
    )
    assert sum(len(one.limit or "") for one in found) <= 200 * ROWS_MAX
    if len(holding) > ROWS_MAX:
        assert (found[-1].rule, found[-1].saw) == ("switches.more", f"{len(holding) - ROWS_MAX} more")


def test_the_strictest_of_very_many_has_a_row_whenever_it_was_engaged() -> None:
    covering = [switch(epoch, mode=REVIEW_ALL) for epoch in range(2 * ROWS_MAX)] + [switch(99)]
    found = reasons_of(covering, make_action(), "q")
    assert [one.rule for one in found[:2]] == ["switch.99", "switch.0"]
    assert (found[-1].outcome, found[-1].queue) == (REVIEW, "q")


@pytest.mark.parametrize(
    ("field", "before", "after", "passes"),
    [
        ("bid", "1.20", "1.10", True),
        ("bid", 1.2, 1.1, True),
        ("bid", "1.20", "0", True),
        ("bid", "1.20", "1.20", False),
        ("bid", "1.20", "1.21", False),
        ("bid", "1.20", "-1", False),
        ("bid", None, "1", False),
        ("bid", "1.20", None, False),
        ("bid", "much", "less", False),
        ("bid", True, False, False),
        ("bid", 0.30000000000000004, "0.3", False),
        ("daily_budget", "100", "99.99", True),
        ("dailyBudget", "100", "99", True),
        ("BUDGET", "100", "99", True),
        ("campaign.budget", "100", "99", True),
        ("cpc_bid_micros", "1200000", "1100000", True),
        ("budget-amount", "100", "99", True),
        # in these less is more, or something else
        ("bid_target_roas", "4", "2", False),
        ("budget_reserve", "100", "0", False),
        ("forbidden", "5", "4", False),
        ("bid_floor_exclusions", "5", "4", False),
        ("target_cpa", "5", "4", False),
        ("ébid", "5", "4", False),
        ("amount", "5", "4", False),
        ("", "5", "4", False),
        # pausing
        ("status", "enabled", "paused", True),
        ("Status", "enabled", "PAUSED", True),
        ("status", "paused", "enabled", False),
        ("paused", False, True, True),
        ("paused", True, False, False),
        ("enabled", True, False, True),
        ("enabled", "true", "false", True),
        ("enabled", True, 0, False),
        ("active", True, False, True),
        ("status", "enabled", None, False),
        ("budget_status", "on", "paused", False),
    ],
)
def test_only_less_of_a_bid_or_a_budget_and_a_pause_reduce(field: str, before: Any, after: Any, passes: bool) -> None:
    leg = change(before, after, field=field or "x")
    action = make_action(changes=[leg])
    assert lowers(action.changes[0], action.changes[0].before) is passes
    assert reduces(action) is passes


@pytest.mark.parametrize(
    ("parts", "passes"),
    [
        ({"changes": [change("2", "1"), change("3", "2", campaign="b")]}, True),
        ({"changes": [change("2", "1"), change("2", "3", campaign="b")]}, False),
        ({"changes": [change("2", "1"), change("on", "off", field="headline")]}, False),
        ({"changes": []}, False),
        ({"changes": ...}, False),
        ({"changes": [change("2", "1")], "content": {"text": "Buy now"}}, False),
    ],
)
def test_an_action_reduces_if_all_of_it_does(parts: dict[str, Any], passes: bool) -> None:
    assert reduces(make_action(**parts)) is passes


def test_what_stands_on_the_platform_decides_and_not_what_the_agent_claims() -> None:
    action = make_action(changes=[change("200", "150")])
    assert reduces(action)
    assert not reduces(action, ["100"])
    assert not reduces(action, [None])
    assert reduces(action, ["151"])
