"""What an action changed can be put back only where somebody read what stood there, and all of it or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from hitl_stream.core.action import Change, Entity, Value
from hitl_stream.core.gate import same
from hitl_stream.core.reversal import Irreversible, inverse
from support.make import change, make_action, post

Present = Mapping[str, Value | None]


def steps(found: tuple[Change, ...] | Irreversible) -> list[tuple[Any, ...]]:
    assert isinstance(found, tuple), found
    return [(one.entity.campaign, one.field, one.before, one.after, one.unit) for one in found]


def bid(after: Any, campaign: str = "cmp-1", **parts: Any) -> dict[str, Any]:
    return change("0.99", after, campaign=campaign, **parts)


@pytest.mark.behaviour("E16")
@pytest.mark.parametrize(
    ("changes", "present", "back"),
    [
        # what was read counts, not what the agent claimed
        ([bid("1.30")], {"/changes/0": "1.20"}, [("cmp-1", "bid", "1.30", "1.20", "EUR")]),
        ([bid(1.3, unit=None)], {"/changes/0": 1.2}, [("cmp-1", "bid", 1.3, 1.2, None)]),
        ([bid("paused", field="status")], {"/changes/0": "on"}, [("cmp-1", "status", "paused", "on", "EUR")]),
        ([bid(False, field="enabled")], {"/changes/0": True}, [("cmp-1", "enabled", False, True, "EUR")]),
        # a move goes back to where it came from
        (
            [bid("90", field="budget"), bid("110", "cmp-2", field="budget")],
            {"/changes/0": "100", "/changes/1": "100"},
            [("cmp-1", "budget", "90", "100", "EUR"), ("cmp-2", "budget", "110", "100", "EUR")],
        ),
        # two legs of one field: from the last to the first
        (
            [bid("1.30"), bid("2.00", "cmp-2"), bid("1.40")],
            {"/changes/0": "1.20", "/changes/1": "1.90", "/changes/2": "1.20"},
            [("cmp-1", "bid", "1.40", "1.20", "EUR"), ("cmp-2", "bid", "2.00", "1.90", "EUR")],
        ),
        # a leg that set what stood there needs nothing
        ([bid("1.20"), bid("2", "cmp-2")], {"/changes/0": 1.2, "/changes/1": "1"}, [("cmp-2", "bid", "2", "1", "EUR")]),
        # what nobody's change names is not looked at
        ([bid("1.30")], {"/changes/0": "1.20", "/changes/1": None}, [("cmp-1", "bid", "1.30", "1.20", "EUR")]),
    ],
)
def test_the_inverse_puts_back_what_was_read_before(
    changes: list[dict[str, Any]], present: Present, back: list[tuple[Any, ...]]
) -> None:
    assert steps(inverse(make_action(changes=changes), present)) == back


@pytest.mark.behaviour("E16")
@pytest.mark.parametrize(
    ("parts", "present", "path", "why"),
    [
        (post(), {}, "/content", "it was published"),
        (post(changes=[bid("1.30")]), {"/changes/0": "1.20"}, "/content", "it was published"),
        ({"changes": ...}, {}, "", "it changed nothing"),
        ({"changes": [bid("1.30")]}, {}, "/changes/0", "nobody read what bid was before"),
        ({"changes": [bid("1.30")]}, {"/changes/1": "1.20"}, "/changes/0", "nobody read"),
        ({"changes": [bid("1.30")]}, {"/changes/0": None}, "/changes/0", "bid was not there before; it was created"),
        ({"changes": [bid(None)]}, {"/changes/0": "1.20"}, "/changes/0", "it does not say to what bid was set"),
        (
            {"changes": [bid("1.30"), bid("2", "cmp-2")]}, {"/changes/0": "1.20"}, "/changes/1", "nobody read",
        ),
        (
            {"changes": [bid("1.30"), bid("140", unit="cents")]}, {"/changes/0": "1.20", "/changes/1": "120"},
            "/changes/1", "bid was set in EUR and in cents",
        ),
        ({"changes": [bid("1.20")]}, {"/changes/0": "1.2"}, "", "there is nothing to put back"),
    ],
)  # fmt: skip
def test_what_cannot_be_undone_is_refused_with_the_reason(
    parts: dict[str, Any], present: Present, path: str, why: str
) -> None:
    found = inverse(make_action(**parts), present)
    assert isinstance(found, Irreversible), found
    assert found.path == path
    assert why in found.why


# --- the law ----------------------------------------------------------------------------------------------------------

PLACES = st.tuples(st.sampled_from(["c1", "c2"]), st.sampled_from(["bid", "budget", "status"]))
VALUES = st.integers(0, 3).map(str) | st.integers(0, 3).map(float) | st.sampled_from(["on", "off"]) | st.booleans()


def carried_out(values: Mapping[Any, Value], changes: tuple[Change, ...]) -> dict[Any, Value]:
    stands = dict(values)
    for one in changes:
        assert one.after is not None
        stands[one.entity.campaign, one.field] = one.after
    return stands


@given(st.dictionaries(PLACES, VALUES, max_size=6), st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=6))
def test_an_action_and_its_inverse_leave_the_platform_as_it_was(
    platform: dict[tuple[str, str], Value], legs: list[tuple[tuple[str, str], Value]]
) -> None:
    changes = tuple(Change(Entity("a", campaign), field, "x", after) for (campaign, field), after in legs)
    action = structs.replace(make_action(), changes=changes)
    present = {f"/changes/{number}": platform.get(place) for number, (place, _) in enumerate(legs)}
    found = inverse(action, present)
    after = carried_out(platform, changes)
    if any(place not in platform for place, _ in legs):
        assert isinstance(found, Irreversible)
        return
    if isinstance(found, Irreversible):
        assert all(same(platform[place], after[place]) for place in platform)
        return
    # It starts from what stands there now, place by place: the executor would not find it stale.
    assert all(one.before == after[one.entity.campaign, one.field] for one in found)
    assert len({(one.entity, one.field) for one in found}) == len(found)
    restored = carried_out(after, found)
    assert all(same(platform[place], restored[place]) for place in platform)
