"""Whose turn it is: the same as comparing everything with everything."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.parking import Keys
from hitl_stream.core.turns import Turns


def keys(*campaigns: str | None, account: str = "acc") -> Keys:
    return frozenset(("acme", account, campaign) for campaign in campaigns)


def test_what_touches_the_same_campaign_waits_for_what_came_before():
    turns = Turns()

    assert [turns.add(n, keys("cmp-1")) for n in range(3)] == [True, False, False]
    assert [turns.done(n) for n in range(3)] == [[1], [2], []]


def test_the_place_as_a_whole_conflicts_with_everything_of_it_and_nothing_else():
    turns = Turns()

    assert turns.add(1, keys("cmp-1"))
    assert turns.add(2, keys("cmp-2"))
    assert not turns.add(3, keys(None))
    assert turns.add(4, keys(None, account="other"))
    assert not turns.add(5, keys("cmp-3"))
    assert (turns.done(1), turns.done(2), turns.done(3)) == ([], [3], [5])


def test_what_has_several_legs_waits_for_all_that_they_touch():
    turns = Turns()
    turns.add(1, keys("cmp-1"))
    turns.add(2, keys("cmp-2"))

    assert not turns.add(3, keys("cmp-1", "cmp-2"))
    assert (turns.done(2), turns.done(1)) == ([], [3])


def test_what_touches_nothing_never_waits():
    turns = Turns()

    assert [turns.add(n, frozenset()) for n in range(3)] == [True, True, True]
    assert turns.done(1) == []
    assert turns.done(99) == []


def test_nothing_is_remembered_of_what_is_done():
    turns = Turns()
    for n in range(100):
        turns.add(n, keys(f"cmp-{n % 7}", None if n % 5 == 0 else "cmp-x"))
    for n in range(100):
        turns.done(n)

    assert not any((turns._keys, turns._ahead, turns._behind, turns._lines))


CAMPAIGNS = st.sampled_from([None, "a", "b", "c"])
THINGS = st.frozensets(st.tuples(st.just("acme"), st.sampled_from(["p", "q"]), CAMPAIGNS), max_size=3)


def conflict(one: Keys, other: Keys) -> bool:
    return any(
        mine[:2] == yours[:2] and (mine[2] == yours[2] or mine[2] is None or yours[2] is None)
        for mine in one
        for yours in other
    )


@given(st.lists(THINGS, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_a_thing_is_free_when_nothing_before_it_that_conflicts_is_left(things: list[Keys], rng: object):
    turns, left = Turns(), {}
    free = set()
    for n, touched in enumerate(things):
        waits = any(conflict(touched, other) for other in left.values())
        assert turns.add(n, touched) is not waits
        left[n] = touched
        if not waits:
            free.add(n)
    while left:
        done = rng.choice(sorted(free))  # type: ignore[attr-defined]
        free.discard(done)
        del left[done]
        freed = {
            n for n in left
            if n not in free and not any(m < n and conflict(left[n], left[m]) for m in left)
        }  # fmt: skip
        assert set(turns.done(done)) == freed
        free |= freed
