"""What lies parked, against a plain list; and that what touches one entity is never at work twice, nor out of order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from hitl_stream.core.action import entity_of
from hitl_stream.core.parking import DEADLINES_MIN, Entry, Keys, ParkingLot, keys_of
from hitl_stream.core.switches import Target
from hitl_stream.core.turns import Turns
from support.make import change, make_action, post

NOWHERE = Target(frozenset(), ())
Key = tuple[str, str, str | None]


def keys(*found: str) -> Keys:
    """Return keys of tenant t: "a/1" is campaign 1 of place a, "a" the place as a whole."""
    return frozenset(("t", one.partition("/")[0], one.partition("/")[2] or None) for one in found)


def entry(origin: str, *touched: str, order: int = 0, at: int | None = None, due: int = 1_000) -> Entry:
    return Entry(origin, keys(*touched), (order, "hitl.actions"), at, due, NOWHERE)


def lot(*entries: Entry) -> ParkingLot:
    found = ParkingLot()
    for one in entries:
        found.park(one)
    return found


def origins(found: Any) -> list[str]:
    return [one.origin for one in found]


def conflict(mine: Keys, theirs: Keys) -> bool:
    """Say whether two actions conflict, pair by pair."""
    return any(
        one[:2] == other[:2] and (one[2] == other[2] or one[2] is None or other[2] is None)
        for one in mine
        for other in theirs
    )


# --- what an action touches -------------------------------------------------------------------------------------------


def leg(account: str | None, campaign: str | None) -> dict[str, Any]:
    return change(account=account, campaign=campaign)


@pytest.mark.parametrize(
    ("parts", "touched"),
    [
        ({"changes": [leg("a", "1")]}, {("acme", "a", "1")}),
        ({"changes": [leg("a", "1"), leg("a", "2"), leg("a", "1")]}, {("acme", "a", "1"), ("acme", "a", "2")}),
        ({"changes": [leg("a", None)]}, {("acme", "a", None)}),
        ({"changes": [leg("a", "1"), leg("b", None)]}, {("acme", "a", "1"), ("acme", "b", None)}),
        # without an account it is the agent's
        ({"changes": [leg(None, "1")]}, {("acme", "bidder-7", "1")}),
        ({"changes": ...}, {("acme", "bidder-7", None)}),
        # without changes it is about the entity that it names
        (post(), {("acme", "acc-17", None)}),
        (post(entity={"account": "a", "campaign": "1"}), {("acme", "a", "1")}),
        (post(entity={"account": "a"}, changes=[leg("b", "1")]), {("acme", "b", "1")}),
    ],
)
def test_an_action_touches_what_its_changes_touch(parts: dict[str, Any], touched: set[Key]) -> None:
    action = make_action(**parts)
    assert keys_of(action, "acme", entity_of(action)) == touched


# --- what lies parked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parked", "new", "conflicts"),
    [
        ("a/1", "a/1", True),
        ("a/1", "a/2", False),
        ("a/1", "b/1", False),
        ("a", "a/1", True),
        ("a/1", "a", True),
        ("a", "a", True),
        ("a", "b", False),
    ],
)
def test_a_campaign_conflicts_with_itself_and_with_its_account_as_a_whole(
    parked: str, new: str, conflicts: bool
) -> None:
    found = lot(entry("x", parked))
    assert origins(found.conflicting(keys(new))) == (["x"] if conflicts else [])
    assert conflict(keys(parked), keys(new)) is conflicts


def test_the_same_names_of_another_tenant_do_not_conflict() -> None:
    found = lot(entry("x", "a/1"))
    assert origins(found.conflicting(frozenset({("other", "a", "1")}))) == []


def test_what_conflicts_comes_oldest_first_and_once_whatever_the_order_in_which_it_was_parked() -> None:
    found = lot(
        entry("c", "a/1", "a/2", order=3),
        entry("a", "a", order=1),
        entry("d", "a/3", order=4),
        entry("b", "a/2", order=2),
    )
    assert origins(found.conflicting(keys("a"))) == ["a", "b", "c", "d"]
    assert origins(found.conflicting(keys("a/1", "a/2"))) == ["a", "b", "c"]
    assert origins(found.conflicting(keys("a/3", "b"))) == ["a", "d"]


def test_a_newer_copy_takes_the_place_of_the_one_that_is_there() -> None:
    found = lot(entry("x", "a/1", at=5), entry("x", "a/1", at=9))
    assert found.count() == 1
    assert [one.at for one in found] == [9]
    found.leave("x", 5)
    assert found.count() == 1
    found.leave("x", 9)
    assert found.count() == 0
    assert origins(found.conflicting(keys("a"))) == []


def test_what_a_pass_parks_again_stands_without_its_offset_until_it_is_read_there() -> None:
    found = lot(entry("x", "a/1", at=5))
    found.leave("x", 5)
    found.park(entry("x", "a/1"))
    assert origins(found.conflicting(keys("a/1"))) == ["x"]
    found.park(entry("x", "a/1", at=9))
    found.leave("x", 9)
    assert found.count() == 0


def test_a_copy_that_was_consumed_before_its_offset_was_read_does_not_stay_for_ever() -> None:
    found = lot(entry("x", "a/1"))
    found.leave("x", 9)
    assert found.count() == 0


def test_a_full_lot_says_so_and_forgets_nothing() -> None:
    found = ParkingLot(limit=2)
    found.park(entry("x", "a/1", order=1, at=1))
    assert not found.full
    for n, origin in enumerate(("y", "z"), 2):
        found.park(entry(origin, "a/1", order=n, at=n))
    assert (found.full, found.count()) == (True, 3)
    assert origins(found.conflicting(keys("a/1"))) == ["x", "y", "z"]
    found.leave("x", 9)
    assert found.full
    found.leave("y", 9)
    assert not found.full


def test_what_is_not_there_can_leave() -> None:
    found = lot()
    found.leave("x", 1)
    assert found.count() == 0


def test_the_earliest_deadline_is_that_of_what_lies_there_now() -> None:
    found = lot(entry("x", "a", due=10, at=1), entry("y", "a", due=20, at=2), entry("z", "a", due=15, at=3))
    seen = [found.earliest_deadline_ms()]
    for origin, at in (("x", 1), ("z", 3), ("y", 2)):
        found.leave(origin, at)
        seen.append(found.earliest_deadline_ms())
    assert seen == [10, 15, 20, None]


def test_parking_again_and_again_leaves_nothing_behind() -> None:
    found = lot(*(entry(f"o{n}", f"a/{n % 3}", order=n, at=n, due=n) for n in range(20)))
    for again in range(1, 500):
        for n in range(20):
            found.leave(f"o{n}", again * 20 + n)
            found.park(entry(f"o{n}", f"a/{n % 3}", order=n, at=again * 20 + n + 20, due=n))
    assert len(found._deadlines) <= 2 * DEADLINES_MIN
    assert found.earliest_deadline_ms() == 0
    for n in range(20):
        found.leave(f"o{n}", 10**6)
    assert not found._places
    assert found.earliest_deadline_ms() is None


TOUCHED = st.lists(st.sampled_from(["a", "a/1", "a/2", "b/1", "b"]), min_size=1, max_size=3, unique=True)


class Parked(RuleBasedStateMachine):
    """A lot beside a plain dict of what lies there."""

    seen = Bundle("seen")

    def __init__(self) -> None:
        super().__init__()
        self.lot = ParkingLot()
        self.there: dict[str, Entry] = {}
        self.offset = 0

    def _park(self, one: Entry) -> None:
        self.lot.park(one)
        self.there[one.origin] = one

    @rule(target=seen, touched=TOUCHED, order=st.integers(0, 20), due=st.integers(0, 5), known=st.booleans())
    def park(self, touched: list[str], order: int, due: int, known: bool) -> Entry:
        self.offset += 1
        one = entry(f"o{self.offset % 15}", *touched, order=order, at=self.offset if known else None, due=due)
        self._park(one)
        return one

    @rule(one=seen, due=st.integers(0, 5), known=st.booleans())
    def park_again(self, one: Entry, due: int, known: bool) -> None:
        self.offset += 1
        at = self.offset if known else None
        self._park(Entry(one.origin, one.keys, one.order, at, due, one.target))

    @rule(one=seen, ago=st.integers(0, 3))
    def leave(self, one: Entry, ago: int) -> None:
        at = self.offset - ago
        self.lot.leave(one.origin, at)
        there = self.there.get(one.origin)
        if there is not None and (there.at is None or there.at <= at):
            del self.there[one.origin]

    @rule(touched=TOUCHED)
    def ask(self, touched: list[str]) -> None:
        wanted = keys(*touched)
        found = [one for one in self.there.values() if conflict(one.keys, wanted)]
        expected = sorted(found, key=lambda one: (one.order, one.origin))
        assert origins(self.lot.conflicting(wanted)) == origins(expected)

    @invariant()
    def holds_the_same(self) -> None:
        assert {one.origin: one for one in self.lot} == self.there
        assert self.lot.count() == len(self.there)
        assert self.lot.earliest_deadline_ms() == min((one.execute_by_ms for one in self.there.values()), default=None)


TestParked = Parked.TestCase
TestParked.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


# --- whose turn it is -------------------------------------------------------------------------------------------------


@given(st.lists(TOUCHED, min_size=1, max_size=25), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_nothing_runs_beside_what_conflicts_with_it_nor_before_an_older_one_and_everything_else_runs(
    items: list[list[str]], chance: Any
) -> None:
    turns, touched = Turns(), [keys(*one) for one in items]
    waiting, running, done = list(range(len(items))), set(), set()
    entered: list[int] = []
    while len(done) < len(items):
        if waiting and (not running or chance.random() < 0.6):
            number = waiting.pop(0)
            entered.append(number)
            started = [number] if turns.add(number, touched[number]) else []
        else:
            number = chance.choice(sorted(running))
            running.discard(number)
            done.add(number)
            started = turns.done(number)
        running.update(started)
        # Exactly those run that conflict with nothing older that has not ended.
        for one in entered:
            older = [o for o in entered if o < one and o not in done and conflict(touched[o], touched[one])]
            assert (one in running) is (not older and one not in done)
        assert started == sorted(started)
    assert not turns._keys
    assert not turns._lines
