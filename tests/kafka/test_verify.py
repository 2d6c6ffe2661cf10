"""`hitl verify` on a real log: a good one passes; what was planted is found where it was planted, and nothing else."""

from __future__ import annotations

import asyncio
import itertools
import time
from base64 import urlsafe_b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from hitl_stream.core.errors import UnreachableError, UsageError
from hitl_stream.core.ledger import Report
from hitl_stream.core.switches import Switches
from hitl_stream.lane import reader
from hitl_stream.lane import verify as lane_verify
from hitl_stream.lane.step import Moment, Output
from hitl_stream.lane.verify import verify
from hitl_stream.wire.records import VIA_HEADER
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.signing import create_signing_key
from hitl_stream.wire.topics import CONTROL_TOPICS, ROUTER_TOPICS
from support.history import Installation, action
from support.kafka import Topics, producing, read, send, within
from support.make import FakeRecord
from support.oncall import FakeControl, OnCall

pytestmark = pytest.mark.kafka
HOME, AWAY = 1, 0
"""Where account acc-1 lives with two partitions, and where it does not."""
OF_PEOPLE = {"I6", "I7", "I13"}
"""What needs a desk, and a view."""
NO_TRUST = "switches (I4, I5) were not checked: `trust`, the digest of the first keys record, is not set (HITL_TRUST)"


@pytest.fixture
def place(kafka: str, topics: Topics) -> Installation:
    installation = Installation(kafka, topics.prefix)
    within(installation.create())
    return installation


def found(report: Report) -> dict[str, int]:
    return {row.invariant: row.violations for row in report.rows if row.violations}


def checked(report: Report) -> dict[str, int]:
    return {row.invariant: row.checked for row in report.rows}


def counted(report: Report) -> dict[str, int]:
    return {name: number for name, number in report.counts.items() if number}


def test_a_good_history_passes_and_every_input_is_counted_once(place: Installation):
    async def scenario() -> Report:
        await place.publish(AWAY, [action(1)])
        await place.route(AWAY)  # moved: it lives elsewhere
        values = [action(2), action(3, after="9.00"), b"{", b"", action(4)]
        await place.publish(HOME, [*values, values[0], action(4, rationale="other bytes")])
        await place.route(HOME)
        await place.publish(HOME, [action(5)])
        return await verify(place.verifying())

    report = within(scenario())

    assert found(report) == {}
    assert report.ok
    assert report.conservation == "ok"
    assert report.notes == (NO_TRUST,)
    assert counted(report) == {
        "inputs": 10, "moved": 1, "dead": 2, "refused.duplicate": 1, "refused.conflict": 1, "pending": 5,
        "pending.unanswered": 1, "pending.execute": 3, "pending.review": 1,
    }  # fmt: skip
    assert checked(report) == {
        "I1": 10, "I2": 3, "I3": 3, "I4": 0, "I5": 0, "I6": 0, "I7": 0, "I8": 3, "I11": 0, "I13": 0, "I14": 10,
        "form": 8, "seal": 6, "hash": 5,
    }  # fmt: skip
    assert {row.invariant for row in report.rows if row.verdict == "not checked"} == {"I4", "I5", *OF_PEOPLE}


def test_exactly_the_lost_the_doubled_and_the_overtaken_are_found(place: Installation):
    def spoil(outputs: list[Output]) -> list[Output]:
        # One in a hundred is drawn for audit besides.
        lost, second, third, fourth, doubled = [o for o in outputs if o.topic == place.topics.name("execute")]
        assert b"act-9" in (lost.value or b"")
        return [second, fourth, third, doubled, doubled]

    async def scenario() -> Report:
        await place.publish(AWAY, [action(9)])
        await place.route(AWAY)
        await place.publish(HOME, [action(n, campaign="cmp-1") for n in range(4)])
        await place.route(HOME, lambda outputs: spoil(outputs))
        return await verify(place.verifying())

    report = within(scenario())

    actions, execute = place.actions, place.topics.name("execute")
    # offset 0 came from the other partition, 1 to 4 were published here
    assert {(v.invariant, v.places) for v in report.violations} == {
        ("I1", (f"{actions}/1/0",)),
        ("I14", (f"{actions}/1/0",)),
        ("I8", (f"{actions}/1/2", f"{execute}/1/2")),
        ("I1", (f"{actions}/1/4", f"{execute}/1/4")),
        ("I2", (f"{actions}/1/4", f"{actions}/1/4", f"{execute}/1/4")),
    }
    assert counted(report) == {"inputs": 6, "moved": 1, "pending": 4, "pending.execute": 4, "lost": 1}
    assert report.conservation == "6 inputs, 1 ended once, 4 pending: 1 doubled, 1 lost"


def test_a_move_whose_copy_never_came_is_lost(place: Installation):
    async def scenario() -> Report:
        await place.publish(AWAY, [action(1)])
        await place.route(AWAY, lambda _: [])
        return await verify(place.verifying())

    assert found(within(scenario())) == {"I1": 1, "I14": 1}


def test_an_output_without_its_offset_is_found(place: Installation):
    async def scenario() -> Report:
        await place.publish(HOME, [action(1), action(2)])
        await place.route(HOME, commit=False)
        await place.commit(HOME, 1)
        return await verify(place.verifying())

    report = within(scenario())
    assert found(report) == {"I14": 1}
    assert report.violations[0].places == (f"{place.actions}/1/1",)


def _changed(part: bytes, other: bytes) -> Callable[[list[Output]], list[Output]]:
    def change(outputs: list[Output]) -> list[Output]:
        assert all(part in (output.value or b"") for output in outputs)
        return [msgspec.structs.replace(output, value=(output.value or b"").replace(part, other)) for output in outputs]

    return change


@pytest.mark.parametrize(
    ("part", "other", "expected"),
    [
        (b'"level":', b'"level": ', {"seal": 1, "I1": 1, "I14": 1}),  # the head is sealed, so this is no answer
        (b'"rationale":"CPA', b'"rationale":"cpa', {"hash": 1}),  # the action is hashed
        (b'"campaign_budget"', b'"campaign_budget" ', {"hash": 1}),
    ],
)
def test_a_changed_record_is_found(place: Installation, part: bytes, other: bytes, expected: dict[str, int]):
    async def scenario() -> tuple[Report, Report]:
        await place.publish(HOME, [action(1)])
        await place.route(HOME, _changed(part, other))
        return await verify(place.verifying()), await verify(place.verifying(keys=None, deep=False, window_ms=None))

    looked, blind = within(scenario())
    assert found(looked) == expected
    assert blind.ok
    assert len(blind.notes) == 3


def test_a_stranger_on_an_output_topic_is_found(place: Installation):
    async def scenario() -> Report:
        await place.publish(HOME, [action(1)])
        await place.route(HOME)
        for name in ("execute", "closed", "dlq"):
            await send(place.bootstrap, place.topics.name(name), [b'{"id":7}'], HOME)
        return await verify(place.verifying())

    assert found(within(scenario())) == {"form": 3}


def test_a_publisher_who_claims_a_move_masks_nothing_and_doubles_nothing(place: Installation):
    claim = b'{"role":"router","from":"%s/1/0","by":null,"supersedes":null}' % place.actions.encode()

    async def scenario() -> Report:
        await place.publish(HOME, [action(1)])
        await place.route(HOME)
        await place.publish(HOME, [action(2)], [(VIA_HEADER, claim)])
        before = await verify(place.verifying())
        assert before.ok  # not looked at by the router yet
        await place.route(HOME)
        return await verify(place.verifying())

    report = within(scenario())
    assert found(report) == {}
    assert report.counts["refused.identity"] == 1


def test_two_actions_under_one_id_may_not_both_run(place: Installation):
    async def scenario() -> Report:
        await place.publish(HOME, [action(1)])
        await place.route(HOME)
        place.states[HOME] = place.router.state(place.states[HOME].window.budget)  # the window forgets
        await place.publish(HOME, [action(1, rationale="other bytes")])
        await place.route(HOME)
        return await verify(place.verifying(window_ms=3_600_000))

    assert found(within(scenario())) == {"I2": 1}


@pytest.mark.parametrize("keeps", [{"retention.ms": "1000"}, {"retention.bytes": "1000000"}])
def test_what_retention_has_deleted_is_not_called_lost(place: Installation, keeps: dict[str, str]):
    async def scenario() -> Report:
        await place.publish(HOME, [action(n) for n in range(3)])
        await place.route(HOME)
        execute = TopicPartition(place.topics.name("execute"), HOME)
        admin = AIOKafkaAdminClient(bootstrap_servers=place.bootstrap)
        await admin.start()
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, execute.topic, configs=keeps)])
        await admin.delete_records({execute: RecordsToDelete(3)})  # the broker itself looks every five minutes
        await admin.close()
        await place.publish(HOME, [action(9)])
        await place.route(HOME)
        return await verify(place.verifying())

    report = within(scenario())
    assert found(report) == {}
    assert report.counts["unjudged"] == 3
    assert report.counts["pending.execute"] == 1


def test_a_pending_transaction_is_waited_for(place: Installation, monkeypatch: pytest.MonkeyPatch):
    """The committed offset may show before the answer's marker: a stable end would call that answer lost."""
    monkeypatch.setattr(reader, "POLL_MS", 50)

    async def scenario() -> tuple[Report, str]:
        await place.publish(HOME, [action(1)])
        await place.route(HOME)
        async with producing(place.bootstrap, transactional_id=place.group) as producer:
            await producer.begin_transaction()
            await producer.send_and_wait(place.topics.name("execute"), b"pending", partition=HOME)
            monkeypatch.setattr(reader, "STALLED_SECONDS", 0.3)
            with pytest.raises(UnreachableError) as stalled:
                await verify(place.verifying())
            await producer.abort_transaction()
        monkeypatch.setattr(reader, "STALLED_SECONDS", 20.0)
        return await verify(place.verifying()), str(stalled.value)

    report, said = within(scenario())
    assert report.ok
    assert "a transaction there was never ended" in said


def test_only_what_was_asked_for_is_read(place: Installation):
    async def scenario() -> Report:
        await place.publish(HOME, [action(1), action(2)])
        await place.route(HOME, lambda outputs: outputs[1:])  # one lost, before the cut
        cut = (await read(place.bootstrap, place.actions, HOME))[-1].timestamp + 1
        await place.publish(HOME, [action(3)])
        await place.route(HOME)
        return await verify(place.verifying(since_ms=cut))

    report = within(scenario())
    assert found(report) == {}
    assert counted(report) == {"inputs": 1, "pending": 1, "pending.execute": 1, "unjudged": 1}


def test_a_group_that_never_committed_is_named(place: Installation):
    async def scenario() -> Report:
        await place.publish(HOME, [action(1)])
        await place.route(HOME, commit=False)
        return await verify(place.verifying())

    report = within(scenario())
    assert found(report) == {"I14": 1}
    assert any(place.group in note for note in report.notes)


# --- parked, sent back, executed --------------------------------------------------------------------------------------


@pytest.fixture
def working(place: Installation) -> Installation:
    """An installation with executors."""
    within(place.create("results"))
    return place


async def sent_back(place: Installation) -> None:
    """Let two of three actions be executed, and the first one be sent back."""
    await place.publish(HOME, [action(n) for n in range(3)])
    await place.route(HOME)
    first, *others = await place.to_execute(HOME)
    await place.send_back(first)
    await place.executed(*others)
    await place.commit(HOME, 3, "execute", place.executors)


def test_what_was_sent_back_and_decided_again_ends_once(working: Installation):
    async def scenario() -> tuple[Report, Report, Report]:
        await sent_back(working)
        parked = await verify(working.verifying())
        await working.pass_(HOME)
        decided = await verify(working.verifying())
        await working.executed((await working.to_execute(HOME))[3])
        await working.commit(HOME, 4, "execute", working.executors)
        return parked, decided, await verify(working.verifying())

    parked, decided, done = within(scenario())

    assert [found(report) for report in (parked, decided, done)] == [{}, {}, {}]
    assert counted(parked) == {"inputs": 3, "executed": 2, "pending": 1, "pending.held": 1}
    assert counted(decided) == {"inputs": 3, "executed": 2, "pending": 1, "pending.execute": 1}
    assert counted(done) == {"inputs": 3, "executed": 3}
    assert checked(done)["I11"] == 3


def test_what_vanishes_in_a_pass_is_found(working: Installation):
    async def scenario() -> Report:
        await sent_back(working)
        await working.pass_(HOME, lambda _: [])
        return await verify(working.verifying())

    report = within(scenario())
    assert found(report) == {"I1": 1, "I14": 1}
    assert {violation.places for violation in report.violations} == {(f"{working.actions}/1/0",)}


def test_what_was_called_and_sent_back_as_not_called_is_found(working: Installation):
    async def scenario() -> Report:
        await sent_back(working)
        await working.executed((await working.to_execute(HOME))[0])
        return await verify(working.verifying())

    assert found(within(scenario())) == {"I2": 1}


def test_what_an_executor_is_done_with_has_an_end(working: Installation):
    async def scenario() -> tuple[Report, Report]:
        await sent_back(working)
        await working.publish(HOME, [action(7)])
        await working.route(HOME)
        before = await verify(working.verifying())
        await working.commit(HOME, 4, "execute", working.executors)
        return before, await verify(working.verifying())

    before, after = within(scenario())
    assert found(before) == {}
    assert found(after) == {"I1": 1, "I14": 1}
    assert after.counts["lost"] == 1
    assert after.violations[0].places == (f"{working.actions}/1/3",)


def test_a_forged_result_ends_nothing(working: Installation):
    async def scenario() -> tuple[Report, Report]:
        await working.publish(HOME, [action(1)])
        await working.route(HOME)
        await working.executed(*await working.to_execute(HOME))
        others = {"executor": {"e1": SealKey("e1", b"x" * 32)}}
        return await verify(working.verifying(others=others)), await verify(working.verifying(others={}))

    forged, unknown = within(scenario())
    assert found(forged) == {"seal": 1}
    assert counted(forged) == {"inputs": 1, "pending": 1, "pending.execute": 1}
    assert counted(unknown) == {"inputs": 1, "executed": 1}
    assert any("the seals of 1 records of the executor were not checked" in note for note in unknown.notes)


def test_calls_come_in_the_order_of_their_inputs(working: Installation):
    async def scenario() -> Report:
        await working.publish(HOME, [action(n, campaign="cmp-1") for n in range(3)])
        await working.route(HOME)
        one, two, three = await working.to_execute(HOME)
        await working.executed(two, one, three)
        return await verify(working.verifying())

    report = within(scenario())
    assert found(report) == {"I8": 1}
    assert report.violations[0].places == (f"{working.actions}/1/0", f"{working.topics.name('results')}/1/1")


async def working_on(place: Installation, rounds: int) -> None:
    """Be a router and an executor that sends every third one back, each with transactions of its own."""
    execute, held = place.topics.name("execute"), place.topics.name("held")
    state, numbers = place.states[HOME], itertools.count()
    async with (
        producing(place.bootstrap, transactional_id=f"{place.prefix}r") as router,
        producing(place.bootstrap, transactional_id=f"{place.prefix}e") as executor,
    ):
        offset, done = 0, 0
        for _ in range(rounds):
            values = [action(next(numbers)) for _ in range(7)]
            await place.publish(HOME, values)
            now_ms = int(time.time() * 1000)
            batch = [FakeRecord(value, offset + n, HOME, now_ms, place.actions, b"k") for n, value in enumerate(values)]
            offset += len(batch)
            result = place.router(batch, state, Moment(now_ms))
            state.apply(result.changes)
            decided = await place.transact(router, result.outputs, {"actions": offset}, HOME, place.group)
            for sends_back in (True, False):  # what is sent back is decided again, and then executed
                given = [record for record in decided if record.topic == execute]
                ends = [place.parked(r) if sends_back and r.offset % 3 == 0 else place.result(r) for r in given]
                done = max([done, *(record.offset + 1 for record in given)])
                written = await place.transact(executor, ends, {"execute": done}, HOME, place.executors)
                back = [record for record in written if record.topic == held]
                if not back:
                    break
                state.follow(back)
                again = place.router.again(back, state, Moment(now_ms))
                state.apply(again.changes)
                offsets = {"held": back[-1].offset + 1}
                decided = await place.transact(router, again.outputs, offsets, HOME, place.group)


def test_a_log_that_moves_is_judged_all_the_same(working: Installation):
    async def scenario() -> list[Report]:
        task, reports = asyncio.create_task(working_on(working, 40)), []
        while not task.done():
            reports.append(await verify(working.verifying()))
        await task
        return [*reports, await verify(working.verifying())]

    *during, after = within(scenario())

    assert len(during) > 2
    assert [report.violations for report in during if not report.ok] == []
    assert {report.conservation for report in during} == {"ok"}
    assert found(after) == {}
    assert after.counts["inputs"] == after.counts["executed"] + after.counts["pending.execute"] == 280
    assert after.counts["executed"] > 200


def test_what_happens_while_the_ends_are_taken_is_no_violation(working: Installation, monkeypatch: pytest.MonkeyPatch):
    """An attempt is seen, and not what was sent back before it: brokers answer one after the other."""
    held = TopicPartition(working.topics.name("held"), HOME)
    taken: list[Any] = []

    async def spans(client: Any, topics: Any, **options: Any) -> Any:
        found = await reader.spans(client, topics, **options)
        if not options.get("high") or held not in found:
            return found
        taken.append(found)
        if len(taken) == 2:
            return {**found, held: taken[0][held]}
        await working.send_back((await working.to_execute(HOME))[0])
        await working.pass_(HOME)
        return found

    async def scenario() -> tuple[Report, Report]:
        await working.publish(HOME, [action(1)])
        await working.route(HOME)
        with monkeypatch.context() as patch:
            patch.setattr(lane_verify, "spans", spans)
            during = await verify(working.verifying())
        return during, await verify(working.verifying())

    during, after = within(scenario())
    assert len(taken) == 2
    assert found(during) == found(after) == {}
    assert counted(during) == counted(after) == {"inputs": 1, "pending": 1, "pending.execute": 1}


# --- switches ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def oncall(kafka: str, topics: Topics, tmp_path: Path) -> OnCall:
    place = OnCall(kafka, topics.prefix, tmp_path)
    return place.begin((*ROUTER_TOPICS, *CONTROL_TOPICS, "results"))


def router_of(place: OnCall) -> Installation:
    """Return a router that knows what control says by now."""
    installation = Installation(place.bootstrap, place.prefix)
    installation.under(place.log().control)
    return installation


def looked_at(place: OnCall, router: Installation, **options: Any) -> Report:
    return within(verify(router.verifying(trust=place.trust, **options)))


def decide(router: Installation, *values: bytes) -> None:
    async def scenario() -> None:
        await router.publish(HOME, values)
        await router.route(HOME)

    within(scenario())


async def committed_late(router: Installation, wait: Callable[[], Any]) -> None:
    """Decide an action now, and commit its transaction only after `wait`."""
    kept: list[Output] = []

    def keep(outputs: list[Output]) -> list[Output]:
        kept.extend(outputs)
        return []

    await router.publish(HOME, [action(1, campaign="cmp-7")])
    await router.route(HOME, keep, commit=False)
    async with producing(router.bootstrap, transactional_id=router.group) as producer:
        await producer.begin_transaction()
        for out in kept:
            headers = [*out.headers]
            await producer.send_and_wait(out.topic, out.value, key=out.key, partition=out.partition, headers=headers)
        await asyncio.to_thread(wait)
        await producer.commit_transaction()
    await router.commit(HOME, router.decided[HOME])


def beaten(place: OnCall, effective: int) -> None:
    """Wait for two heartbeats that say so."""
    topic = place.topics.name("control.heartbeat")

    async def heard() -> None:
        said = b'"effective":%d' % effective
        seen = 0
        while seen < 2:
            values = [urlsafe_b64decode((v or b"..").split(b".")[1] + b"===") for v in await read_values_(place, topic)]
            seen = sum(said in value for value in values)

    within(heard())


async def read_values_(place: OnCall, topic: str) -> list[bytes | None]:
    return [record.value for record in await read(place.bootstrap, topic)]


def test_what_was_committed_before_a_switch_was_effective_is_told_and_no_violation(oncall: OnCall):
    router = router_of(oncall)
    with FakeControl(oncall) as control:
        control.effective = 0
        beaten(oncall, 0)

        def engage() -> None:
            oncall.engage("campaign:cmp-7")

        within(committed_late(router, engage))
        control.effective = 1
        beaten(oncall, 1)
        report = looked_at(oncall, router)

    assert found(report).keys() <= {"I5"}  # this machine may be slow
    assert report.notes == ()
    assert (checked(report)["I4"], checked(report)["I5"]) == (1, 1)
    late, effective = report.figures["offending_commits"], report.figures["effective"]
    assert late.count == effective.count == 1
    assert 0 < late.max_ms <= effective.max_ms < 20_000


def test_what_is_committed_after_a_switch_is_effective_is_found(oncall: OnCall):
    """Its record was appended before the switch: only the time of the commit tells."""
    router = router_of(oncall)
    with FakeControl(oncall):
        beaten(oncall, 0)

        def engage() -> None:
            beaten(oncall, oncall.engage("campaign:cmp-7"))

        within(committed_late(router, engage))
        report = looked_at(oncall, router)

    assert found(report) == {"I4": 1}
    violation = report.violations[0]
    assert violation.places == (f"{oncall.topics.name('execute')}/1/0",)
    assert "after switch 1 (HALT) was EFFECTIVE" in violation.what


def test_a_forged_heartbeat_makes_nothing_effective(oncall: OnCall, tmp_path: Path):
    router = router_of(oncall)
    forged = FakeControl(oncall)
    forged.key = create_signing_key(tmp_path / "others", "control-1", "control", "service")
    with forged:
        beaten(oncall, 0)

        def engage() -> None:
            beaten(oncall, oncall.engage("campaign:cmp-7"))

        within(committed_late(router, engage))
        report = looked_at(oncall, router)

    assert found(report) == {}
    assert report.figures["offending_commits"].count == 1
    assert "effective" not in report.figures


def test_what_a_switch_does_not_cover_is_committed_as_before(oncall: OnCall):
    router = router_of(oncall)
    with FakeControl(oncall):
        beaten(oncall, 0)

        def engage() -> None:
            beaten(oncall, oncall.engage("campaign:cmp-8"))

        within(committed_late(router, engage))
        assert found(looked_at(oncall, router)) == {}


def test_what_is_called_after_a_switch_is_effective_is_found_too(oncall: OnCall):
    router = router_of(oncall)
    decide(router, action(1, campaign="cmp-7"))
    with FakeControl(oncall):
        beaten(oncall, 0)
        beaten(oncall, oncall.engage("campaign:cmp-7"))

    async def call() -> None:
        (record,) = await router.to_execute(HOME)
        await router.executed(record, called_ms=int(time.time() * 1000) + 1_000)

    within(call())
    assert found(looked_at(oncall, router)) == {"I4": 1}


def test_what_a_router_decides_under_a_switch_that_covers_it_is_found(oncall: OnCall):
    """A router that has read the switch and does not heed it."""
    oncall.engage("campaign:cmp-7")
    router = router_of(oncall)
    epoch, router.control.switches = router.control.epoch, Switches()
    decide(router, action(1, campaign="cmp-7"))

    report = looked_at(oncall, router)

    assert found(report) == {"I4": 1}
    assert f"decided at epoch {epoch}, under switch {epoch}" in report.violations[0].what
    assert any("there are no heartbeats" in note for note in report.notes)
    assert {row.invariant for row in report.rows if row.verdict == "not checked"} == {"I5", *OF_PEOPLE}


def test_what_is_parked_under_a_switch_verifies(oncall: OnCall):
    oncall.engage("campaign:cmp-7")
    router = router_of(oncall)
    decide(router, action(1, campaign="cmp-7"), action(2))

    report = looked_at(oncall, router)

    assert found(report) == {}
    assert counted(report) == {"inputs": 2, "pending": 2, "pending.execute": 1, "pending.held": 1}


@pytest.mark.parametrize(
    ("trust", "said"),
    [("", "is not set"), ("0" * 64, "holds no record that `trust` names")],
)
def test_without_a_control_log_that_can_be_believed_switches_are_not_checked(oncall: OnCall, trust: str, said: str):
    router = router_of(oncall)
    decide(router, action(1))
    report = within(verify(router.verifying(trust=trust)))
    assert report.ok
    assert {row.invariant for row in report.rows if row.verdict == "not checked"} == {"I4", "I5", *OF_PEOPLE}
    assert any(said in note for note in report.notes)


def test_without_a_control_topic_switches_are_not_checked(place: Installation):
    report = within(verify(place.verifying(trust="0" * 64)))
    assert any("has no topic" in note for note in report.notes)


def test_a_policy_that_nothing_records_is_named(place: Installation):
    async def scenario() -> Report:
        await place.publish(HOME, [action(1)])
        await place.route(HOME)
        return await verify(place.verifying(policy="0" * 64))

    report = within(scenario())
    assert report.ok
    assert any(f"{place.policy:.12}… (1)" in note for note in report.notes)


def test_a_prefix_without_topics_is_refused(kafka: str):
    nowhere = Installation(kafka, "nowhere.")
    with pytest.raises(UsageError, match=r"nowhere\.actions"):
        within(verify(nowhere.verifying()))
