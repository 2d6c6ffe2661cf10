"""EFFECTIVE as a value: who has acknowledged, who is fenced, who is waited for, and when nothing can leave any more.

The law stands at the end: whatever instances, a broker and two control roles do, in any order, no transaction that was
decided before an EFFECTIVE engagement is ever committed after it.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hitl_stream.core.effective import (
    CALL_MS_MAX,
    FENCE_AFTER_MS,
    FRESH_MS,
    IDLE_AFTER_MS,
    IDLE_AT_ONCE,
    LEASE_MS,
    REPEAT_MS,
    Acknowledgement,
    Effective,
    Id,
)
from hitl_stream.wire.records import Ack

N = 3
PAST = 10**6
_n = itertools.count(1)


def make_ack(instance: str = "a/router/0", epoch: int = -1, **fields: Any) -> Ack:
    """Return an ack; what is not given of `claims` is what it has open."""
    fields.setdefault("claims", fields.get("partitions", ()))
    role = instance.split("/")[1]
    return Ack(n=next(_n), instance=instance, role=role, version="1", epoch=epoch, **fields)


class World:
    """An `Effective` whose ids have all been heard of, with a clock that a test turns."""

    def __init__(self, *acks: Ack, desks: bool = True) -> None:
        self.effective = Effective(N)
        self.now = 1_000
        self.offset = 0
        if desks:
            self.hear(make_ack("d/desk/0", PAST, partitions=(0, 1, 2)))
        for ack in acks:
            self.hear(ack)
        self.read()

    def hear(self, ack: Ack, append_ms: int | None = None, **options: Any) -> bool:
        self.offset += 1
        return self.effective.heard(self.offset, ack, append_ms or self.now, self.now, **options)

    def engage(self, *epochs: int) -> None:
        self.effective.folded(epochs[-1], epochs, self.now)
        self.read()

    def read(self) -> None:
        """Read the acks to an end taken now."""
        self.effective.read(self.effective._epoch, self.now)

    def later(self, ms: int) -> None:
        self.now += ms
        self.read()

    def provable(self) -> int:
        return self.effective.look(self.now).provable

    def fence(self) -> set[tuple[str, int]]:
        return {(one.role, one.partition) for one in self.effective.look(self.now).fence}

    def fence_all(self) -> set[tuple[str, int]]:
        """Fence whatever is to be fenced."""
        found = self.fence()
        for role, number in found:
            self.effective.fenced(Id(role, number), self.effective._epoch, self.now)
        return found

    def waiting(self) -> list[str]:
        return [one.instance for one in self.effective.look(self.now).unanswered]

    def contained(self) -> list[tuple[str, int]]:
        return [(one.instance, one.calls) for one in self.effective.look(self.now).contained]


# --- who has acknowledged ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instance", "fields", "acknowledged"),
    [
        ("a/router/0", {"epoch": 7}, True),
        ("a/router/0", {"epoch": 8}, True),
        ("a/router/0", {"epoch": 6}, False),
        ("a/router/0", {"epoch": 8, "open_epoch": 7}, True),
        ("a/router/0", {"epoch": 8, "open_epoch": 6}, False),
        ("a/desk/0", {"epoch": 6}, False),
        ("a/executor/0", {"epoch": 7}, True),
        ("a/executor/0", {"epoch": 6}, False),
        ("a/executor/0", {"epoch": 8, "calls": 1, "calls_epoch": 7}, True),
        ("a/executor/0", {"epoch": 8, "calls": 1, "calls_epoch": 6}, False),
        ("a/executor/0", {"epoch": 8, "open_epoch": 6}, True),  # what it writes are results
    ],
)
def test_an_epoch_is_acknowledged_once_applied_and_nothing_older_is_open(
    instance: str, fields: dict[str, Any], acknowledged: bool
):
    world = World(make_ack("r/router/9", PAST, partitions=(0, 1, 2)))
    world.hear(make_ack(instance, **fields, claims=(1,)))
    world.engage(7)

    assert (world.provable() == 7) is acknowledged
    assert world.waiting() == ([] if acknowledged else [instance])


def test_several_engagements_are_proved_in_order_each_as_soon_as_it_is():
    world = World(make_ack(epoch=2, partitions=(0, 1, 2)))
    world.engage(2, 4, 9)

    assert world.provable() == 2
    assert world.effective.effective == 1
    assert world.effective.settle(2) == [2]
    assert world.effective.effective == 3
    world.hear(make_ack(epoch=20, partitions=(0, 1, 2)))
    assert world.provable() == 9
    assert world.effective.settle(9) == [4, 9]
    assert world.effective.effective == 9


def test_without_an_engagement_everything_is_effective_that_was_folded():
    world = World(make_ack(epoch=0, partitions=(0, 1, 2)))
    world.effective.folded(41, [], world.now)

    assert world.effective.effective == 41
    assert world.provable() == -1


def test_nothing_is_proved_before_acks_are_read_to_an_end_taken_after_the_engagement_was_folded():
    world = World(make_ack(epoch=PAST, partitions=(0, 1, 2)))
    world.effective.folded(5, [5], world.now)

    assert world.provable() == -1
    world.read()
    assert world.provable() == 5


@pytest.mark.parametrize("role", ["router", "desk", "executor"])
def test_whoever_said_goodbye_is_not_waited_for(role: str):
    world = World(make_ack("r/router/9", PAST, partitions=(0, 1, 2)))
    world.hear(make_ack(f"x/{role}/0", 3, partitions=(1,)))
    world.hear(make_ack(f"x/{role}/0", 3, goodbye=True))
    world.engage(7)

    assert world.provable() == 7
    assert world.waiting() == []


def test_an_ack_that_is_repeated_counts_for_nothing():
    goodbye, alive = make_ack("x/router/0", 3, goodbye=True), make_ack("x/router/0", 3, partitions=(1,))
    world = World(make_ack("r/router/9", PAST, partitions=(0, 1, 2)))
    assert world.hear(goodbye)
    assert world.hear(alive)
    assert not world.hear(goodbye)
    assert not world.hear(alive)
    world.engage(7)

    assert world.waiting() == ["x/router/0"]


def test_numbers_are_repeated_of_those_who_may_earn_a_lease():
    old, left = make_ack("old/router/0", 1), make_ack("left/router/0", 1, goodbye=True)
    world = World(old, left, desks=False)
    world.later(REPEAT_MS)
    new = make_ack("new/router/0", 1)
    world.hear(new)

    assert world.effective.numbers(world.now) == {"new/router/0": new.n}


# --- fencing ----------------------------------------------------------------------------------------------------------


def test_what_a_silent_instance_holds_is_fenced_after_half_a_second_and_nothing_else():
    world = World(make_ack("a/router/0", 5, partitions=(0, 1)), make_ack("b/router/0", 5, partitions=(2,)))
    world.engage(7)
    world.hear(make_ack("b/router/0", 7, partitions=(2,)))

    world.later(FENCE_AFTER_MS - 1)
    assert world.fence() == set()
    world.later(1)
    assert world.fence_all() == {("router", 0), ("router", 1)}
    assert world.fence() == set()
    assert world.provable() == 7
    assert world.waiting() == []


def test_a_partition_that_a_newer_owner_has_opened_is_not_fenced():
    """Its start has fenced the silent one: that one had it open by its last ack, and the owner's claim is later."""
    world = World(make_ack("dead/router/0", 5, partitions=(0, 1, 2)))
    world.hear(make_ack("live/router/0", 5, claims=(0, 1)))
    world.hear(make_ack("live/router/0", 5, partitions=(0, 1)))
    world.engage(7)
    world.hear(make_ack("live/router/0", 7, partitions=(0, 1)))
    world.later(FENCE_AFTER_MS)

    assert world.fence() == {("router", 2)}


def test_a_partition_that_is_claimed_but_not_open_yet_proves_nothing():
    world = World(make_ack("dead/router/0", 5, partitions=(0,)))
    world.hear(make_ack("live/router/0", 7, partitions=(1, 2), claims=(0, 1, 2)))
    world.engage(7)
    world.later(FENCE_AFTER_MS)

    assert world.fence() == {("router", 0)}


def test_an_owner_that_has_not_heard_of_a_rebalance_proves_nothing_of_what_a_newer_one_holds():
    """Both list it as open; the silent one has claimed it later."""
    world = World(make_ack("old/router/0", 5, partitions=(0, 1, 2)))
    world.hear(make_ack("new/router/0", 5, claims=(0,)))
    world.hear(make_ack("new/router/0", 5, partitions=(0,)))
    world.engage(7)
    world.hear(make_ack("old/router/0", 7, partitions=(0, 1, 2)))
    world.later(FENCE_AFTER_MS)

    assert world.fence() == {("router", 0)}


def test_after_a_restart_nobody_can_say_who_claimed_first():
    """Of each instance compaction has left the last ack: the owner's claim may be older than the silent one's."""
    effective = Effective(N)
    effective.folded(5, [], 1_000, old=True)
    for offset, ack in enumerate(
        [
            make_ack("d/desk/0", PAST, partitions=(0, 1, 2)),
            make_ack("silent/router/0", 5, partitions=(0,)),
            make_ack("owner/router/0", 5, partitions=(0, 1, 2)),
        ]
    ):
        effective.heard(offset, ack, 1_000, 1_000, old=True)
    effective.heard(3, make_ack("d/desk/0", PAST, partitions=(0, 1, 2)), 1_000, 1_000)
    effective.heard(4, make_ack("owner/router/0", 7, partitions=(0, 1, 2)), 1_000, 1_000)
    effective.folded(7, [7], 1_000)
    effective.read(7, 1_000)

    assert effective.look(1_000).provable == -1
    assert effective.look(1_000 + FENCE_AFTER_MS).fence == {Id("router", 0)}


def test_a_silent_instance_that_was_about_to_start_a_producer_is_fenced_though_another_has_opened_since():
    """Nobody can say which of the two has started last."""
    world = World(make_ack("slow/router/0", 5, claims=(0,)))
    world.hear(make_ack("live/router/0", 5, claims=(0, 1, 2)))
    world.hear(make_ack("live/router/0", 7, partitions=(0, 1, 2)))
    world.engage(7)
    world.later(FENCE_AFTER_MS)

    assert world.fence() == {("router", 0)}


def test_of_an_instance_that_does_not_say_what_it_claims_everything_is_fenced():
    world = World(make_ack("r/router/9", PAST, partitions=(0, 1, 2)), make_ack("mute/router/0", 5, claims=None))
    world.engage(7)
    world.later(FENCE_AFTER_MS)

    assert world.fence_all() == {("router", n) for n in range(N)}
    assert world.provable() == 7


def test_an_instance_that_claims_nothing_is_not_in_the_way():
    world = World(make_ack("r/router/9", PAST, partitions=(0, 1, 2)), make_ack("spare/router/0", 5))
    world.engage(7)

    assert world.provable() == 7
    assert world.waiting() == []


def test_a_fence_that_began_before_the_engagement_was_folded_proves_nothing_for_it():
    world = World(make_ack(epoch=5, partitions=(0, 1, 2)))
    world.engage(7)
    for number in range(N):
        world.effective.fenced(Id("router", number), 6, world.now)
    world.later(FENCE_AFTER_MS)

    assert world.provable() == -1
    assert world.fence_all() == {("router", n) for n in range(N)}
    assert world.provable() == 7


def test_an_instance_that_answers_late_ends_the_fencing():
    world = World(make_ack(epoch=5, partitions=(0, 1, 2)))
    world.engage(7)
    world.later(FENCE_AFTER_MS)
    world.effective.fenced(Id("router", 0), 7, world.now)
    world.hear(make_ack(epoch=7, partitions=(1, 2)))

    assert world.fence() == set()
    assert world.provable() == 7


def test_a_fenced_instance_that_opens_anew_without_acknowledging_is_not_fenced_for_ever():
    """Its new producer has read control to an end after the fence."""
    world = World(make_ack(epoch=5, partitions=(0, 1, 2)))
    world.engage(7)
    world.later(FENCE_AFTER_MS)
    world.fence_all()
    world.effective.settle(world.provable())
    for _ in range(5):
        world.later(FENCE_AFTER_MS)
        world.hear(make_ack(epoch=5, partitions=(0, 1, 2)))
        assert world.fence() == set()


def test_whoever_is_fenced_and_without_a_lease_is_not_waited_for_again_until_it_comes_back():
    world = World(make_ack("dead/router/0", 5, partitions=(0,)), make_ack("r/router/9", PAST, partitions=(1, 2)))
    world.engage(7)
    world.later(FENCE_AFTER_MS)
    world.fence_all()
    world.effective.settle(world.provable())
    world.later(LEASE_MS)

    world.engage(8)
    assert world.provable() == 8
    world.effective.settle(8)
    world.hear(make_ack("dead/router/0", 5, partitions=(0,)))
    world.engage(9)
    assert world.provable() == -1
    assert world.waiting() == ["dead/router/0"]


def test_without_a_lease_alone_nobody_is_out_of_the_way():
    """A process that slept between its check and its commit needs no lease any more, only its producer."""
    world = World(make_ack("asleep/router/0", 5, partitions=(0,)), make_ack("r/router/9", PAST, partitions=(1, 2)))
    world.later(10 * LEASE_MS)
    world.engage(7)

    assert world.provable() == -1
    world.later(FENCE_AFTER_MS)
    assert world.fence() == {("router", 0)}


def test_while_a_fenced_instance_may_hold_its_lease_it_is_fenced_for_the_next_engagement_too():
    """It may have opened anew under the one before, and its acks may be lost."""
    world = World(make_ack("mute/router/0", 5, partitions=(0,)), make_ack("r/router/9", PAST, partitions=(1, 2)))
    world.engage(7)
    world.later(FENCE_AFTER_MS)
    world.fence_all()
    world.effective.settle(world.provable())
    world.engage(8)

    assert world.provable() == -1
    world.later(FENCE_AFTER_MS)
    assert world.fence() == {("router", 0)}


def test_a_lease_is_over_only_when_acks_were_read_to_an_end_two_seconds_after_the_last_one():
    world = World(make_ack("dead/router/0", 5, partitions=(0,)), make_ack("r/router/9", PAST, partitions=(1, 2)))
    world.engage(7)
    world.later(FENCE_AFTER_MS)
    world.fence_all()
    world.effective.settle(world.provable())
    world.now += 10 * LEASE_MS  # time passes; what is in the log by now was not read

    world.effective.folded(8, [8], world.now)
    world.effective.read(8, world.now - 10 * LEASE_MS)
    assert world.provable() == -1


def test_ids_of_which_no_owner_was_ever_heard_are_fenced_once():
    """Acks may have been lost with a compaction."""
    world = World(make_ack(epoch=PAST, partitions=(0, 1)))
    world.engage(7)

    assert world.provable() == -1
    assert world.fence() == set()
    world.later(FENCE_AFTER_MS)
    assert world.fence_all() == {("router", 2)}
    assert world.provable() == 7
    world.effective.settle(7)
    world.engage(8)
    assert world.provable() == 8


def test_where_nobody_of_a_role_runs_its_ids_are_fenced_at_once():
    world = World(make_ack(epoch=PAST, partitions=(0, 1, 2)), desks=False)
    world.engage(7)

    assert world.fence_all() == {("desk", n) for n in range(N)}
    assert world.provable() == 7


def test_where_nobody_of_a_role_runs_its_ids_are_fenced_some_seconds_after_the_start_a_few_at_a_time():
    effective = Effective(6)
    effective.heard(1, make_ack(epoch=0), 1_000, 1_000)
    effective.read(0, 1_000)

    assert effective.look(1_000 + IDLE_AFTER_MS - 1).fence == frozenset()
    first = effective.look(1_000 + IDLE_AFTER_MS).fence
    assert first == {Id("desk", n) for n in range(IDLE_AT_ONCE)}
    for one in first:
        effective.fenced(one, 0, 7_000)
    assert effective.look(7_000).fence == {Id("desk", 4), Id("desk", 5)}
    effective.heard(2, make_ack("d/desk/0", 0), 7_000, 7_000)
    assert effective.look(7_000).fence == frozenset(), "somebody has announced itself"


def test_what_was_engaged_before_control_started_is_proved_by_acks_alone():
    world = World(desks=False)
    world.effective.folded(9, [3, 9], world.now, old=True)
    world.hear(make_ack(epoch=9, partitions=(0,)), old=True)
    world.read()

    assert world.fence() == set()
    assert world.provable() == 9
    assert world.effective.is_old(9)


def test_an_ack_that_was_read_back_does_not_show_that_an_id_is_held():
    world = World(make_ack(epoch=PAST, partitions=(0, 1)))
    world.hear(make_ack("r/router/1", PAST, partitions=(2,)), old=True)
    world.engage(7)
    world.later(FENCE_AFTER_MS)

    assert world.fence() == {("router", 2)}


def test_a_transaction_that_nobody_ends_is_fenced_where_its_owner_is_not_there():
    world = World(make_ack("a/router/0", 7, partitions=(0, 1, 2)))
    world.engage(7)
    assert world.provable() == 7

    world.later(FRESH_MS - 1)
    world.hear(make_ack("d/desk/0", PAST, partitions=(0, 1, 2)))
    assert {*world.effective.look(world.now, stuck=(1,)).fence} == set()
    world.later(1)
    assert {*world.effective.look(world.now, stuck=(1,)).fence} == {Id("router", 1)}
    world.effective.fenced(Id("router", 1), 7, world.now)
    assert {*world.effective.look(world.now, stuck=(1,)).fence} == set()


# --- executors --------------------------------------------------------------------------------------------------------


def executor_in_the_way(**fields: Any) -> World:
    """Return a world in which an executor with three open calls falls silent, and its lease is over."""
    world = World(make_ack("r/router/9", PAST, partitions=(0, 1, 2)))
    world.hear(make_ack("x/executor/0", 5, calls=3, calls_epoch=4, **fields), append_ms=5_000)
    world.engage(7)
    assert world.waiting() == ["x/executor/0"]
    assert world.contained() == []
    world.later(LEASE_MS)
    return world


def test_an_executor_that_does_not_answer_is_contained_with_its_calls_however_long():
    world = executor_in_the_way()

    for _ in range(3):
        assert world.contained() == [("x/executor/0", 3)]
        assert world.waiting() == []
        assert world.provable() == -1
        world.later(10 * CALL_MS_MAX)


@pytest.mark.parametrize(
    ("ack", "ended"),
    [
        (make_ack("x/executor/0", 7), True),
        (make_ack("x/executor/0", 7, calls=2, calls_epoch=7), True),
        (make_ack("x/executor/0", 3, goodbye=True), True),
        (make_ack("x/executor/0", 7, calls=1, calls_epoch=6), False),
        (make_ack("x/executor/0", 6), False),
    ],
)
def test_containment_ends_with_a_goodbye_or_an_ack_without_an_older_call(ack: Ack, ended: bool):
    world = executor_in_the_way()
    world.hear(msg := Ack(**{name: getattr(ack, name) for name in ack.__struct_fields__} | {"n": next(_n)}))

    assert msg.n > ack.n
    assert (world.provable() == 7) is ended
    assert world.contained() == []


@pytest.mark.parametrize(("append_ms", "ended"), [(4_999, False), (5_000, False), (5_001, True)])
def test_a_persons_farewell_ends_it_if_it_is_newer_than_the_ack(append_ms: int, ended: bool):
    world = executor_in_the_way()
    world.effective.farewell("x/executor/0", append_ms)

    assert (world.provable() == 7) is ended


def test_an_ack_after_the_farewell_shows_that_it_was_wrong():
    world = executor_in_the_way()
    world.effective.farewell("x/executor/0", 6_000)
    assert world.provable() == 7
    world.hear(make_ack("x/executor/0", 5, calls=3, calls_epoch=4), append_ms=6_001)

    assert world.provable() == -1
    assert world.waiting() == ["x/executor/0"]


def test_a_farewell_is_no_proof_for_a_router():
    world = World(make_ack("a/router/0", 5, partitions=(0, 1, 2)))
    world.engage(7)
    world.effective.farewell("a/router/0", 10**12)

    assert world.provable() == -1


def test_where_the_platform_enforces_the_lease_containment_ends_with_lease_and_call_limit():
    world = executor_in_the_way(fence=True)

    assert world.contained() == [("x/executor/0", 3)]
    world.later(CALL_MS_MAX - 1)
    assert world.provable() == -1
    world.later(1)
    assert world.provable() == 7


def test_a_contained_executor_names_the_oldest_engagement_that_it_has_not_acknowledged():
    world = World(make_ack("r/router/9", PAST, partitions=(0, 1, 2)), make_ack("x/executor/0", 6, calls=1))
    world.engage(4, 7, 9)
    world.later(LEASE_MS)

    (one,) = world.effective.look(world.now).contained
    assert (one.epoch, one.calls) == (7, 1)
    assert world.provable() == 4


def test_it_says_since_when_an_instance_is_waited_for():
    world = World(make_ack("a/router/0", 5, partitions=(0, 1, 2)))
    world.engage(7)
    world.later(300)
    world.engage(8)
    world.later(100)

    (one,) = world.effective.look(world.now).unanswered
    assert (one.instance, one.since_s) == ("a/router/0", 0.4)


# --- the law ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Tx:
    """A transaction: open until it is committed or aborted, by its producer, by a fence or by the broker."""

    partition: int
    token: int
    epoch: int
    checked: bool = False
    state: str = "open"


@dataclass(eq=False)
class Process:
    """One run of an instance."""

    name: str
    applied: int
    paused: bool = False
    mute: bool = False
    """Whether its acks get lost."""
    deaf: bool = False
    """Whether it hears nothing of control's commands."""
    claims: set[int] = field(default_factory=set)
    tokens: dict[int, int] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    txs: dict[int, Tx] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    lease_until: int = 0


NAMES = ("a/router/0", "b/router/0", "c/router/0")
STEPS_TO_EFFECTIVE = 150
Step = Callable[[], None]


class Simulated:
    """Routers, a broker and control, step by step, in any order. Every command is an engagement of its own.

    Partitions are claimed by anybody at any time: a group that gives one to two members at once is worse than any real.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.slow = 1.0
        """How soon what was sent to the broker arrives there; 0: not before the round's end."""
        self.ids = self.rng.choice([1, 1, 2])
        self.now = 0
        self.commands = 0
        """How many stand on `control`; their epochs are their offsets."""
        self.acks: list[tuple[Ack, int]] = []
        self.newest = dict.fromkeys(range(self.ids), 0)
        """Partition → token of the newest producer of its id."""
        self.tokens = itertools.count(1)
        self.ns = itertools.count(1)
        self.txs: list[Tx] = []
        """Those that may still be committed."""
        self.running: dict[str, Process] = {}
        self.delayed: list[tuple[dict[str, int], int]] = []
        self.declared = -1
        self.committed = 0
        self.begin_control()
        for name in NAMES[: self.rng.choice([2, 2, 3])]:
            self.begin(name)

    def run(self, rounds: int) -> None:
        """In each round somebody is in trouble, something is engaged, and later the trouble is over."""
        for _ in range(rounds):
            self.step(self.rng.randint(5, 60))
            victim = self.rng.choice(list(self.running.values()))
            self.trouble(victim)
            self.step(self.rng.choice([0, 0, 5]))
            self.engage()
            for _ in range(STEPS_TO_EFFECTIVE):
                if self.declared == self.commands - 1:
                    break
                self.step()
            victim.paused = False
            self.slow = 1.0
            self.step(self.rng.choice([0, 10, 30]), only=victim)
            victim.mute = victim.deaf = False

    def trouble(self, one: Process) -> None:
        rng = self.rng
        one.paused, one.mute, one.deaf = rng.random() < 0.5, rng.random() < 0.4, rng.random() < 0.4
        self.slow = rng.choice([0.0, 0.1, 1.0])
        if rng.random() < 0.2:
            self.begin(one.name)

    def step(self, count: int = 1, only: Process | None = None) -> None:
        for _ in range(count):
            choices = list(self.of_the_world())
            choices += [] if only is not None else self.of_control()
            for one in self.running.values():
                if not one.paused and only in (None, one):
                    choices += self.of_a_router(one)
            self.rng.choices([step for _, step in choices], [weight for weight, _ in choices])[0]()

    # --- the broker ---

    def of_the_world(self) -> Iterator[tuple[float, Step]]:
        yield 0.02, self.engage
        yield 1, self.wait
        for tx in self.txs:
            if tx.checked:
                yield 2 * self.slow, partial(self.commit_arrives, tx)
            yield 0.01, partial(self.start_producer, tx.partition)  # the broker's own limit
        for beat in self.delayed:
            yield 0.3, partial(self.deliver, *beat)

    def engage(self) -> None:
        self.commands += 1

    def wait(self) -> None:
        self.now += self.rng.choices([20, 100, FENCE_AFTER_MS, LEASE_MS], [5, 3, 2, 1])[0]

    def start_producer(self, partition: int) -> int:
        """Fence the id and settle its transaction."""
        for tx in [tx for tx in self.txs if tx.partition == partition]:
            self.end(tx, "aborted")
        self.newest[partition] = next(self.tokens)
        return self.newest[partition]

    def commit_arrives(self, tx: Tx) -> None:
        """Let a commit that was sent reach the broker, also long after its sender is gone."""
        assert tx.epoch >= self.declared, f"decided at {tx.epoch}, committed when {self.declared} was EFFECTIVE"
        self.committed += 1
        self.end(tx, "committed")

    def end(self, tx: Tx, state: str) -> None:
        tx.state = state
        self.txs.remove(tx)

    # --- routers ---

    def begin(self, name: str) -> None:
        """End the process of that name, however, and begin another one."""
        one = self.running[name] = Process(name, self.commands - 1)
        self.announce(one)

    def announce(self, one: Process, goodbye: bool = False) -> None:
        ack = Ack(
            n=next(self.ns),
            instance=one.name,
            role="router",
            version="1",
            partitions=tuple(one.open),
            claims=tuple(one.claims),
            epoch=one.applied,
            open_epoch=min((tx.epoch for tx in one.txs.values()), default=None),
            goodbye=goodbye,
        )
        one.sent[ack.n] = self.now
        if not one.mute:
            self.acks.append((ack, self.now))

    def of_a_router(self, one: Process) -> Iterator[tuple[float, Step]]:
        yield 1, partial(self.announce, one)
        yield 0.01, partial(self.begin, one.name)
        yield 0.01, partial(self.leave, one)
        if one.applied < self.commands - 1 and not one.deaf:
            yield 2, partial(self.apply, one)
        for number in range(self.ids):
            yield from self.of_a_partition(one, number)

    def of_a_partition(self, one: Process, number: int) -> Iterator[tuple[float, Step]]:
        tx = one.txs.get(number)
        if number not in one.claims:
            if not one.mute:  # it is delivered, or nothing is started
                taken = any(number in other.claims for other in self.running.values())
                yield 0.02 if taken else 1, partial(self.claim, one, number)
            return
        yield 0.02, partial(self.drop, one, number)
        if number not in one.tokens:
            yield 4, partial(self.start, one, number)
        elif number not in one.open:
            if not one.deaf:
                yield 4, partial(self.open, one, number)
        elif tx is None:
            yield 4, partial(self.decide, one, number)
        elif tx.state == "committed":
            yield 4, partial(one.txs.pop, number)
        elif tx.state == "aborted":
            yield 2, partial(self.drop, one, number)
        elif not tx.checked:
            yield 4, partial(self.check, one, number, tx)

    def leave(self, one: Process) -> None:
        """End in order. A commit that was sent last may still arrive."""
        one.claims, one.open, one.tokens, one.txs = set(), set(), {}, {}
        self.announce(one, goodbye=True)
        self.begin(one.name)

    def apply(self, one: Process) -> None:
        one.applied += 1

    def claim(self, one: Process, number: int) -> None:
        one.claims.add(number)
        self.announce(one)

    def start(self, one: Process, number: int) -> None:
        one.tokens[number] = self.start_producer(number)

    def open(self, one: Process, number: int) -> None:
        """Read control to its end, and open."""
        one.applied = self.commands - 1
        one.open.add(number)

    def decide(self, one: Process, number: int) -> None:
        """Begin a transaction, and write its outputs: refused if it is fenced."""
        if self.newest[number] != one.tokens[number]:
            self.drop(one, number)
            return
        one.txs[number] = tx = Tx(number, one.tokens[number], one.applied)
        self.txs.append(tx)

    def check(self, one: Process, number: int, tx: Tx) -> None:
        """Ask the view in the turn of the commit: the lease, and whether the epoch has moved."""
        if self.now < one.lease_until and one.applied == tx.epoch:
            tx.checked = True
        else:
            self.end(tx, "aborted")
            del one.txs[number]

    def drop(self, one: Process, number: int) -> None:
        """Drop the producer: after an error, or when the partition is revoked."""
        one.claims.discard(number)
        one.open.discard(number)
        one.tokens.pop(number, None)
        one.txs.pop(number, None)

    def deliver(self, numbers: dict[str, int], epoch: int) -> None:
        if (numbers, epoch) in self.delayed:
            self.delayed.remove((numbers, epoch))
        for one in self.running.values():
            sent = one.sent.get(numbers.get(one.name, -1))
            if not one.paused and sent is not None and one.applied >= epoch:
                one.lease_until = max(one.lease_until, sent + LEASE_MS)

    # --- control ---

    def begin_control(self) -> None:
        """Begin anew: everything is read back; of the acks, compaction has left the last of each instance."""
        self.effective = Effective(self.ids)
        self.marks: list[tuple[int, int, int]] = []
        self.settling: tuple[int, list[Tx]] | None = None
        self.folded, self.heard = self.commands, len(self.acks)
        self.effective.folded(self.folded - 1, range(self.folded), self.now, old=True)
        last = {ack.instance: offset for offset, (ack, _) in enumerate(self.acks)}
        for offset in sorted(last.values()):
            self.effective.heard(offset, *self.acks[offset], self.now, old=True)
        self.effective.read(self.folded - 1, self.now)

    def of_control(self) -> Iterator[tuple[float, Step]]:
        yield 0.02, self.begin_control
        if self.folded < self.commands:
            yield 3, self.fold
        if self.heard < len(self.acks):
            yield 3, self.hear
        yield 2, self.mark
        yield 4, partial(self.beat, 0)
        yield 1, partial(self.beat, self.rng.randrange(20))  # of another control role, which has read less
        yield 2, self.fence
        yield (1, self.settle) if self.settling else (3, self.ask_for_high_watermarks)

    def fold(self) -> None:
        self.effective.folded(self.folded, [self.folded], self.now)
        self.folded += 1

    def hear(self) -> None:
        for _ in range(self.rng.randint(1, len(self.acks) - self.heard)):
            self.effective.heard(self.heard, *self.acks[self.heard], self.now)
            self.heard += 1
        self.reach_marks()

    def mark(self) -> None:
        """Ask for the end of the acks."""
        self.marks.append((len(self.acks), self.folded - 1, self.now))
        self.reach_marks()

    def reach_marks(self) -> None:
        while self.marks and self.marks[0][0] <= self.heard:
            _, epoch, at_ms = self.marks.pop(0)
            self.effective.read(epoch, at_ms)

    def beat(self, behind: int) -> None:
        """Repeat acks, then fold to an end that was asked for after that; it is delivered now, or some time."""
        known = self.acks[: max(0, (self.heard if not behind else len(self.acks)) - behind)]
        one = {ack.instance: ack.n for ack, _ in known}, self.commands - 1
        if self.rng.random() < 0.8:
            self.deliver(*one)
        elif len(self.delayed) < 5:
            self.delayed.append(one)

    def fence(self) -> None:
        found = sorted(self.effective.look(self.now, stuck=range(self.ids) if self.settling else ()).fence)
        for one in found[: self.rng.randint(0, len(found))]:
            if one.role == "router":
                self.start_producer(one.partition)
            self.effective.fenced(one, self.folded - 1, self.now)

    def ask_for_high_watermarks(self) -> None:
        provable = self.effective.look(self.now).provable
        if provable > self.effective.effective:
            self.settling = provable, [*self.txs]

    def settle(self) -> None:
        """See that the stable offsets have reached them."""
        assert self.settling is not None
        epoch, txs = self.settling
        if all(tx.state != "open" for tx in txs):
            self.effective.settle(epoch)
            self.declared = max(self.declared, epoch)
            self.settling = None
            assert self.effective.effective >= epoch


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_no_transaction_decided_before_an_effective_engagement_is_committed_after_it(seed: int):
    world = Simulated(seed)
    world.run(8)


def test_what_the_law_is_tried_on_commits_and_becomes_effective():
    worlds = [Simulated(seed) for seed in range(20)]
    for world in worlds:
        world.run(8)

    assert sum(world.committed for world in worlds) > 100
    assert sum(world.declared + 1 for world in worlds) > 100


def test_an_ack_is_what_it_asks_for():
    ack: Acknowledgement = make_ack()
    names: Iterable[str] = (name for name in vars(Acknowledgement) if not name.startswith("_"))

    assert all(hasattr(ack, name) for name in names)
