"""The executor on a real Kafka, before a platform that speaks HTTP, loses answers, and counts what it applies.

The rules in all their cases: tests/roles/test_executor.py. Here is what only a real log and real connections show.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from hitl_stream.core.events import Mode
from hitl_stream.dev.platform import Faults
from hitl_stream.dev.platform import Place as PlatformPlace
from hitl_stream.lane.transaction import Transactions
from hitl_stream.roles import executor_state
from hitl_stream.wire.records import ACTION_MARK
from support.executing import Executing, executing
from support.kafka import Topics, read
from support.make import change, iso
from support.toy import until

pytestmark = pytest.mark.kafka


def bid(campaign: str, before: str = "1.20", after: str = "1.21", account: str = "acc-17") -> list[dict[str, Any]]:
    return [change(before, after, account=account, campaign=campaign)]


class Stuck:
    """Lets calls end and holds every commit, until it is opened: that is when a process is killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: str = "before") -> None:
        self.waiting = 0
        self.open = False
        commit = Transactions.commit
        stuck = self

        async def held(self: Transactions, *arguments: Any, **named: Any) -> bool:
            if not stuck.open and where == "before":
                stuck.waiting += 1
                await asyncio.sleep(3_600)
            done = await commit(self, *arguments, **named)
            if not stuck.open:
                stuck.waiting += 1
                await asyncio.sleep(3_600)
            return done

        monkeypatch.setattr(Transactions, "commit", held)


@pytest.mark.behaviour("A3", "A4", "C1")
def test_each_execute_record_is_carried_out_once_and_has_one_result(topics: Topics):
    async def scenario(here: Executing) -> None:
        outputs = [here.decide(changes=bid(f"cmp-{n}", account=f"acc-{n % 9}")) for n in range(200)]
        await here.put(*outputs[:120])
        async with here.running():
            await here.put(*outputs[120:])
            ends = await here.ended(200)
        assert Counter(map(tuple, ends.values())) == {("executed",): 200}
        assert here.applied() == Counter(dict.fromkeys(ends, 1))
        results = await here.said("results")
        assert all(result["platform"]["code"] == 200 for result in results)
        facts = await here.said("facts")
        assert len(facts) == 200
        assert {fact["value"] for fact in facts} == {"1.21"}
        assert await here.said("dlq") == []

    executing(topics, scenario, partitions=3)


def test_a_restart_does_nothing_again(topics: Topics):
    async def scenario(here: Executing) -> None:
        await here.put(*[here.decide(changes=bid(f"cmp-{n}")) for n in range(40)])
        for _ in range(3):
            async with here.running():
                await here.ended(40)
                await asyncio.sleep(0.3)
        assert Counter(map(tuple, (await here.ends()).values())) == {("executed",): 40}
        assert here.platform.counts()["calls"] == 40

    executing(topics, scenario)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.behaviour("I2", "I8")
def test_a_process_killed_between_call_and_commit_is_followed_by_one_that_asks_and_does_not_call_again(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, where: str
):
    async def scenario(here: Executing) -> None:
        async with here.running():
            for n in range(20):
                await here.execute(changes=bid(f"cmp-{n}"))
            await here.ended(20)
            stuck = Stuck(monkeypatch, where)
            await here.put(*[here.decide(changes=bid(f"cmp-{n % 12}", "1.21", "1.22")) for n in range(12)])
            await until(lambda: stuck.waiting and len(here.applied()) == 32)
            here.kill()
            await asyncio.sleep(0.1)
        stuck.open = True
        async with here.running():
            ends = await here.ended(32)
        assert Counter(map(tuple, ends.values())) == {("executed",): 32}
        assert set(here.applied().values()) == {1}
        assert here.platform.counts()["calls"] == 32, "asked about, not called again"
        assert here.platform.counts()["repeats"] == 0

    executing(topics, scenario)


def test_answers_that_are_lost_are_asked_about_and_nothing_is_applied_twice(topics: Topics):
    async def scenario(here: Executing) -> None:
        outputs = [here.decide(changes=bid(f"cmp-{n}")) for n in range(300)]
        await here.put(*outputs)
        async with here.running(call_s=0.5):
            ends = await here.ended(300)
        assert Counter(map(tuple, ends.values())) == {("executed",): 300}
        assert here.applied() == Counter(dict.fromkeys(ends, 1))
        assert here.seen.unknowns >= 20
        assert here.platform.counts()["lose"] + here.platform.counts()["drop"] >= 20

    executing(
        topics, scenario, seed=3, faults=Faults(lose=0.08, drop=0.05, late=0.05, late_s=0.2, stall=0.02, hang_s=1)
    )


@pytest.mark.behaviour("I2")
def test_a_decision_that_is_written_again_has_no_second_end(topics: Topics):
    async def scenario(here: Executing) -> None:
        outputs = [here.decide(changes=bid(f"cmp-{n}")) for n in range(10)]
        await here.put(*outputs, *outputs)
        async with here.running():
            await here.ended(10)
            await here.put(*outputs)
            marker = await here.execute(changes=bid("cmp-marker"))
            await until(lambda: marker in here.applied())
            await here.ended(11)
        async with here.running():
            await here.put(*outputs)
            marker = await here.execute(changes=bid("cmp-another"))
            ends = await here.ended(12)
        assert Counter(map(tuple, ends.values())) == {("executed",): 12}
        assert here.platform.counts()["calls"] == 12

    executing(topics, scenario)


@pytest.mark.behaviour("I11")
def test_a_deadline_is_kept_by_the_brokers_clock(topics: Topics):
    async def scenario(here: Executing) -> None:
        late = here.decide(changes=bid("cmp-1"), expires_at=iso(_now_ms() + 700))
        good = here.decide(changes=bid("cmp-2"))
        await asyncio.sleep(1.0)
        await here.put(late, good)
        async with here.running():
            await here.ended(1)
            here.guard.observe(_now_ms())
            ends = await here.ended(2)
        assert sorted(map(tuple, ends.values())) == [("execute_by",), ("executed",)]
        assert here.platform.counts()["calls"] == 1

    executing(topics, scenario)


def _now_ms() -> int:
    return int(time.time() * 1000)


def test_a_value_that_somebody_changed_meanwhile_is_not_overwritten(topics: Topics):
    async def scenario(here: Executing) -> None:
        here.platform.books.put(PlatformPlace("acme", "acc-17", "cmp-1", "bid"), "7.00", "EUR")
        stale = await here.execute(changes=bid("cmp-1"))
        good = await here.execute(changes=bid("cmp-2"))
        async with here.running():
            ends = await here.ended(2)
        assert ends == {stale: ["stale"], good: ["executed"]}
        assert here.platform.counts()["calls"] == 1
        (fact,) = [fact for fact in await here.said("facts") if fact["entity"]["campaign"] == "cmp-1"]
        assert fact["value"] == "7.00"

    executing(topics, scenario)


@pytest.mark.behaviour("A2", "E3", "I3")
def test_what_the_router_did_not_seal_never_runs(topics: Topics):
    async def scenario(here: Executing) -> None:
        good = here.decide(changes=bid("cmp-1"))
        head, _, raw = (good.value or b"").partition(ACTION_MARK)
        forged = [
            msgspec.structs.replace(good, headers=[]),
            msgspec.structs.replace(good, headers=[good.headers[0], ("hitl-seal", b"r1:AAAA")]),
            msgspec.structs.replace(good, value=head + ACTION_MARK + raw.replace(b"1.21", b"9.99")),
            msgspec.structs.replace(good, value=head.replace(b'"EXECUTE"', b'"REVIEW"') + ACTION_MARK + raw),
            msgspec.structs.replace(good, value=raw[:-1]),
            msgspec.structs.replace(good, value=b"not json"),
        ]
        await here.put(*forged, good)
        async with here.running():
            ends = await here.ended(1)
        assert list(ends.values()) == [["executed"]]
        assert here.platform.counts()["calls"] == 1
        dead = await read(here.bootstrap, here.topics.name("dlq"))
        assert [record.value for record in dead] == [one.value for one in forged]

    executing(topics, scenario)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.behaviour("A4", "E15")
def test_a_switch_engaged_between_decision_and_call_parks_it(topics: Topics, mode: Mode):
    async def scenario(here: Executing) -> None:
        covered, free = here.decide(changes=bid("cmp-1")), here.decide(changes=bid("cmp-2"))
        engaged = here.commands.engage("campaign:cmp-1", mode=mode)
        await here.put(covered, free)
        async with here.running():
            await here.ended(2)
        (held,) = await here.said("held")
        holding = [] if mode is Mode.REVIEW_ALL else [engaged]
        assert held["parked"] == {"by": "executor", "epoch": here.commands.control.epoch, "switches": holding}
        assert here.platform.counts()["calls"] == 1

    executing(topics, scenario)


@pytest.mark.behaviour("E15")
def test_a_halt_resets_an_open_call_and_finds_out_what_became_of_it(topics: Topics):
    """One platform call hangs without effect, one takes effect and does not answer."""

    async def scenario(here: Executing) -> None:
        names = [await here.execute(changes=bid(f"cmp-{n}")) for n in range(2)]
        async with here.running(call_s=9.0):
            await until(lambda: here.lane.doing().calls == 2)
            began = here.lane.doing().calls_epoch
            here.commands.engage("global:*")
            await until(lambda: here.lane.doing().calls == 0)
            assert began == here.commands.control.epoch - 1
            ends = await here.ended(2)
        applied = set(here.applied())
        assert len(applied) == 1
        assert ends == {name: ["executed" if name in applied else "held"] for name in names}

    executing(topics, scenario, faults=Faults(next=("hang", "stall"), hang_s=20))


def test_no_call_begins_without_a_lease_and_all_of_them_begin_with_one(topics: Topics):
    async def scenario(here: Executing) -> None:
        async with here.running():
            here.guard.lease = False
            await here.put(*[here.decide(changes=bid(f"cmp-{n}")) for n in range(30)])
            await asyncio.sleep(1.0)
            assert here.platform.counts()["calls"] == 0
            here.guard.lease = True
            ends = await here.ended(30)
        assert Counter(map(tuple, ends.values())) == {("executed",): 30}

    executing(topics, scenario)


@pytest.mark.behaviour("I8")
def test_decisions_of_one_entity_take_effect_in_their_order_whatever_fails(topics: Topics):
    async def scenario(here: Executing) -> None:
        values = [f"1.2{n:02}" for n in range(13)]
        outputs = [
            here.decide(action_id=f"a{n:02}-{c}", changes=bid(f"cmp-{c}", values[n], values[n + 1]))
            for n in range(12)
            for c in range(5)
        ]
        await here.put(*outputs)
        for _ in range(3):
            async with here.running(call_s=0.4):
                await asyncio.sleep(0.7)
                here.kill()
                await asyncio.sleep(0.05)
        async with here.running(call_s=0.4):
            ends = await here.ended(60)
        assert Counter(map(tuple, ends.values())) == {("executed",): 60}
        assert set(here.applied().values()) == {1}
        for c in range(5):
            mine = [name for name in here.order() if name.endswith(f"-{c}")]
            assert mine == sorted(mine)

    executing(topics, scenario, seed=5, faults=Faults(lose=0.1, drop=0.1, stall=0.03, hang_s=1, busy=0.05))


def test_what_is_overdue_leaves_the_log_of_the_state_too(topics: Topics, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executor_state, "SLOT_MS", 200)
    monkeypatch.setattr("hitl_stream.roles.executor.KEEP_MS", 0)

    async def scenario(here: Executing) -> None:
        soon = iso(_now_ms() + 2_500)
        await here.put(*[here.decide(changes=bid(f"cmp-{n}"), expires_at=soon) for n in range(20)])
        async with here.running() as lane:
            await here.ended(20)
            assert lane.slices[0].size() == 20
            await until(lambda: lane.slices[0].size() == 0)
        state = await read(here.bootstrap, here.topics.name("executor.state"))
        ends = [record.key for record in state if record.value is not None]
        nulls = [record.key for record in state if record.value is None]
        assert (len(ends), sorted(ends)) == (20, sorted(nulls))
        async with here.running() as lane:
            assert lane.slices[0].size() == 0

    executing(topics, scenario)


def test_a_sent_back_entity_is_known_to_the_next_owner_with_its_offset(topics: Topics):
    async def scenario(here: Executing) -> None:
        first, second = here.decide(changes=bid("cmp-1")), here.decide(changes=bid("cmp-1", "1.20", "1.22"))
        here.commands.release(here.commands.engage("campaign:cmp-1"))
        await here.put(first)
        async with here.running():
            await here.ended(1)
        here.state.held = 10**6
        third = here.decide(changes=bid("cmp-1", "1.20", "1.23"))
        await here.put(second, third)
        async with here.running():
            await here.ended(3)
        here.state.held = -1
        ends = await here.ends()
        assert sorted(map(tuple, ends.values())) == [("executed",), ("held",), ("held",)]
        (record, _) = await read(here.bootstrap, here.topics.name("held"))
        state = [value for value in await here.said("executor.state") if "held" in value]
        assert state[0] == {"held": record.offset, "tenant": "acme", "place": "acc-17", "campaign": "cmp-1"}

    executing(topics, scenario)
