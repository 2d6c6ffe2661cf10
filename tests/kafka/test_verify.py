"""`hitl verify` on a real log: a good one passes; what was planted is found where it was planted, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from hitl_stream.core.errors import UnreachableError, UsageError
from hitl_stream.core.ledger import Report
from hitl_stream.lane import reader
from hitl_stream.lane.step import Output
from hitl_stream.lane.verify import verify
from hitl_stream.wire.records import VIA_HEADER
from support.history import Installation, action
from support.kafka import Topics, producing, read, send, within

pytestmark = pytest.mark.kafka
HOME, AWAY = 1, 0
"""Where account acc-1 lives with two partitions, and where it does not."""


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
    assert report.notes == ()
    assert counted(report) == {
        "inputs": 10, "moved": 1, "execute": 3, "review": 1, "dead": 2, "refused.duplicate": 1, "refused.conflict": 1,
        "pending": 1,
    }  # fmt: skip
    assert checked(report) == {"I1": 10, "I2": 3, "I8": 3, "I14": 10, "form": 8, "seal": 6, "hash": 5}


def test_exactly_the_lost_the_doubled_and_the_overtaken_are_found(place: Installation):
    def spoil(outputs: list[Output]) -> list[Output]:
        lost, second, third, fourth, doubled = outputs
        assert lost.topic == place.topics.name("execute")
        return [second, fourth, third, doubled, doubled]

    async def scenario() -> Report:
        await place.publish(AWAY, [action(9)])
        await place.route(AWAY)
        await place.publish(HOME, [action(n) for n in range(4)])
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
    assert counted(report) == {"inputs": 6, "moved": 1, "execute": 4, "lost": 1}
    assert report.conservation == "6 inputs, 5 ended once, 0 pending: 1 doubled, 1 lost"


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
        (b'"level":', b'"level": ', {"seal": 1}),  # the head is sealed
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
    assert len(blind.notes) == 2


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
    assert report.counts["execute"] == 1


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
    assert counted(report) == {"inputs": 1, "execute": 1, "unjudged": 1}


def test_a_group_that_never_committed_is_named(place: Installation):
    async def scenario() -> Report:
        await place.publish(HOME, [action(1)])
        await place.route(HOME, commit=False)
        return await verify(place.verifying())

    report = within(scenario())
    assert found(report) == {"I14": 1}
    assert any(place.group in note for note in report.notes)


def test_a_prefix_without_topics_is_refused(kafka: str):
    nowhere = Installation(kafka, "nowhere.")
    with pytest.raises(UsageError, match=r"nowhere\.actions"):
        within(verify(nowhere.verifying()))
