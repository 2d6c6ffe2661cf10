"""Commands on a real log: appended in the broker's time, whatever this host's clock says, and read from offset 0."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from hitl_stream.core.commands import TYPES, Command, Engage, Keys, PolicyChange, ReleaseRequest
from hitl_stream.core.control import ALIVE_MS_MAX
from hitl_stream.core.errors import BrokenError, UnknownOutcomeError, UnreachableError, UsageError
from hitl_stream.core.events import Mode, Rejection
from hitl_stream.dev.broker import Broker, free_ports
from hitl_stream.lane import commander, control_reader
from hitl_stream.lane.admin import apply, cluster_id
from hitl_stream.lane.commander import Appended, append, commanding
from hitl_stream.lane.control_reader import read_control, reading_control
from hitl_stream.wire.control_log import ControlLog
from hitl_stream.wire.signing import SigningKey, key_entry, new_signing_key, read_command
from hitl_stream.wire.topics import TABLE, TopicSet
from support.kafka import Topics, create_topics, producing, read, running, send, within

pytestmark = pytest.mark.kafka
NAMES = ("control", "control.heartbeat")
HOUR_S = 3_600
ANA = new_signing_key("ana-1", "ana")
HALT = partial(Engage, scope=("campaign:cmp-7",), mode=Mode.HALT)


@pytest.fixture
def client(kafka: str) -> dict[str, str]:
    return {"bootstrap_servers": kafka}


@pytest.fixture
def ours(client: dict[str, str], topics: Topics) -> TopicSet:
    made = TopicSet(topics.prefix, 1)
    within(apply(client, made, NAMES))
    return made


def first_keys(*keys: SigningKey, **claims: Any) -> Command:
    from_ = datetime.fromtimestamp(claims["iat"] - 300, UTC)
    until = datetime.fromtimestamp(claims["iat"] + 86_400, UTC)
    return Keys(keys=tuple(key_entry(key, TYPES, from_, until) for key in keys), **claims)


async def begin(client: dict[str, str], ours: TopicSet) -> str:
    """Append the first keys; return the digest to trust."""
    return hashlib.sha256((await append(client, ours, ANA, partial(first_keys, ANA))).value).hexdigest()


async def folded(client: dict[str, str], ours: TopicSet, trust: str) -> ControlLog:
    return await read_control(client, ours, trust, await cluster_id(client))


def shifted(monkeypatch: pytest.MonkeyPatch, by_s: float) -> None:
    """Set this host's clock off, for who dates commands."""
    real = time.time_ns
    monkeypatch.setattr(commander.time, "time_ns", lambda: real() + int(by_s * 1e9))


# --- appending --------------------------------------------------------------------------------------------------------


def test_a_command_is_appended_with_the_broker_s_word_for_where_and_when(client: dict[str, str], ours: TopicSet):
    async def scenario() -> tuple[Appended, ControlLog]:
        trust = await begin(client, ours)
        appended = await append(client, ours, ANA, HALT)
        return appended, await folded(client, ours, trust)

    appended, log = within(scenario())
    _, record = within(read(client["bootstrap_servers"], ours.name("control")))

    assert (record.offset, record.timestamp, record.value) == (appended.epoch, appended.at_ms, appended.value)
    assert record.key == appended.command.jti.encode()
    assert log.rejection_at(appended.epoch) is None
    (switch,) = log.control.switches.engaged.values()
    assert (switch.epoch, switch.at_ms, switch.by, switch.mode) == (appended.epoch, appended.at_ms, "ana", Mode.HALT)
    assert appended.command.exp - appended.command.iat == ALIVE_MS_MAX // 1000


def test_one_connection_appends_command_after_command(client: dict[str, str], ours: TopicSet):
    async def scenario() -> tuple[list[Appended], ControlLog]:
        trust = await begin(client, ours)
        async with commanding(client, ours, ANA) as connected:
            done = [await connected.append(HALT) for _ in range(5)]
        return done, await folded(client, ours, trust)

    done, log = within(scenario())

    assert [one.epoch for one in done] == [1, 2, 3, 4, 5]
    assert len({one.command.jti for one in done}) == 5
    assert set(log.control.switches.engaged) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("off_s", [2 * HOUR_S, -2 * HOUR_S, 90, -ALIVE_MS_MAX / 1000 - 30])
def test_a_host_with_a_wrong_clock_can_still_stop_something(
    client: dict[str, str], ours: TopicSet, monkeypatch: pytest.MonkeyPatch, off_s: float
):
    """Without a heartbeat the first try is off; the broker's answer says what time it is, and the second one counts."""
    trust = within(begin(client, ours))
    shifted(monkeypatch, off_s)

    appended = within(append(client, ours, ANA, HALT))

    log = within(folded(client, ours, trust))
    assert log.rejected == {Rejection.EARLY if off_s > 0 else Rejection.EXPIRED: 1}
    assert log.rejection_at(appended.epoch) is None
    assert set(log.control.switches.engaged) == {appended.epoch}


def test_where_control_is_heard_a_wrong_clock_leaves_no_trace(
    client: dict[str, str], ours: TopicSet, monkeypatch: pytest.MonkeyPatch
):
    trust = within(begin(client, ours))
    within(send(client["bootstrap_servers"], ours.name("control.heartbeat"), [b"a", b"b"]))
    shifted(monkeypatch, 2 * HOUR_S)

    appended = within(append(client, ours, ANA, HALT))

    log = within(folded(client, ours, trust))
    assert (appended.epoch, dict(log.rejected)) == (1, {})


def test_a_heartbeat_of_an_hour_ago_stops_nobody_from_stopping(
    client: dict[str, str], topics: Topics, monkeypatch: pytest.MonkeyPatch
):
    """The control role has been gone for most of an hour, which is when somebody wants to stop things."""
    ours = TopicSet(topics.prefix, 1)
    own_time = TABLE["control.heartbeat"].config() | {"message.timestamp.type": "CreateTime"}
    topics({"control": (1, TABLE["control"].config()), "control.heartbeat": (1, own_time)})
    trust = within(begin(client, ours))

    async def old() -> None:
        async with producing(client["bootstrap_servers"]) as producer:
            then_ms = int((time.time() - 50 * 60) * 1000)
            await producer.send_and_wait(ours.name("control.heartbeat"), b"a", partition=0, timestamp_ms=then_ms)

    within(old())

    appended = within(append(client, ours, ANA, HALT))

    log = within(folded(client, ours, trust))
    assert log.rejected == {Rejection.EXPIRED: 1}
    assert log.rejection_at(appended.epoch) is None


def test_a_connection_knows_the_broker_s_time_from_its_first_append_on(
    client: dict[str, str], ours: TopicSet, monkeypatch: pytest.MonkeyPatch
):
    async def scenario() -> list[int]:
        await begin(client, ours)
        shifted(monkeypatch, 2 * HOUR_S)
        async with commanding(client, ours, ANA) as connected:
            return [(await connected.append(HALT)).epoch for _ in range(3)]

    assert within(scenario()) == [2, 3, 4]


def test_a_policy_of_700_kilobytes_can_be_appended_and_one_that_is_too_long_is_not(
    client: dict[str, str], ours: TopicSet
):
    policy = partial(PolicyChange, digest="3c" * 32, reason="large")

    async def scenario() -> ControlLog:
        trust = await begin(client, ours)
        await append(client, ours, ANA, partial(policy, text="a: [12345678901234]\n" * 33_000))
        with pytest.raises(UsageError, match="nothing was written"):
            await append(client, ours, ANA, partial(policy, text="a: [12345678901234]\n" * 40_000))
        return await folded(client, ours, trust)

    log = within(scenario())

    assert (log.control.epoch, set(log.control.pending)) == (1, {1})


def test_a_topic_that_is_not_there_is_said_and_not_made(client: dict[str, str], topics: Topics):
    ours = TopicSet(topics.prefix, 1)
    with pytest.raises(UsageError, match="hitl topics apply"):
        within(append(client, ours, ANA, HALT))
    with pytest.raises(UsageError, match="hitl topics apply"):
        within(read_control(client, ours, "0" * 64, "any"))

    async def listed() -> list[str]:
        admin: Any = AIOKafkaAdminClient(**client)
        await admin.start()
        try:
            return list(await admin.list_topics())
        finally:
            await admin.close()

    assert not [topic for topic in within(listed()) if topic.startswith(ours.prefix)]


# --- Kafka fails ------------------------------------------------------------------------------------------------------


@pytest.fixture
def frail() -> Iterator[Broker]:
    """A broker of this test's own, with the topics."""
    with running("noida") as broker:
        topics = TopicSet("f.", 1)
        config = {topics.name(name): (1, TABLE[name].config()) for name in NAMES}
        within(create_topics(broker.bootstrap, config))
        yield broker


def test_where_nobody_answers_nothing_was_written():
    (port,) = free_ports(1)
    with pytest.raises(UnreachableError, match="Nothing was written"):
        within(append({"bootstrap_servers": f"127.0.0.1:{port}"}, TopicSet("f."), ANA, HALT))


async def until_silent(broker: Broker) -> None:
    """Stop the broker's process, and wait until that has taken hold of it."""
    broker.pause()
    while True:
        try:
            async with asyncio.timeout(0.1):
                await cluster_id({"bootstrap_servers": broker.bootstrap})
        except (TimeoutError, UnreachableError):
            return


def test_where_a_broker_falls_silent_before_the_command_nothing_was_written(
    frail: Broker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(commander, "APPEND_SECONDS_MAX", 0.5)
    within(until_silent(frail))
    try:
        with pytest.raises(UnreachableError, match="Nothing was written"):
            within(append({"bootstrap_servers": frail.bootstrap}, TopicSet("f."), ANA, HALT))
    finally:
        frail.resume()


def test_where_a_broker_falls_silent_during_the_command_nobody_claims_to_know(
    frail: Broker, monkeypatch: pytest.MonkeyPatch
):
    """The request lies in the broker's socket: it is written as soon as the broker goes on."""
    client, ours = {"bootstrap_servers": frail.bootstrap}, TopicSet("f.")

    async def scenario() -> None:
        async with commanding(client, ours, ANA) as connected:
            await connected.append(partial(first_keys, ANA))
            monkeypatch.setattr(commander, "APPEND_SECONDS_MAX", 0.5)
            await until_silent(frail)
            try:
                with pytest.raises(UnknownOutcomeError, match="not known") as found:
                    await connected.append(HALT)
                assert "nothing was written" not in str(found.value).lower()
            finally:
                frail.resume()

    within(scenario())
    assert len(within(read(frail.bootstrap, ours.name("control")))) == 2


def test_giving_up_leaves_nothing_running():
    (port,) = free_ports(1)

    async def scenario() -> int:
        with pytest.raises(UnreachableError):
            await append({"bootstrap_servers": f"127.0.0.1:{port}"}, TopicSet("f."), ANA, HALT)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert within(scenario()) == 1  # the scenario itself


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_log_whose_beginning_was_deleted_is_not_read(client: dict[str, str], ours: TopicSet):
    async def scenario() -> None:
        trust = await begin(client, ours)
        await append(client, ours, ANA, HALT)
        admin: Any = AIOKafkaAdminClient(**client)
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(ours.name("control"), 0): RecordsToDelete(1)})
        finally:
            await admin.close()
        with pytest.raises(BrokenError, match=r"begins at offset 1, expected 0.*stays stopped"):
            await folded(client, ours, trust)

    within(scenario())


def test_a_beginning_that_is_deleted_while_it_is_read_is_noticed(client: dict[str, str], ours: TopicSet):
    """Else a reader would go on behind the gap, without the switches engaged there."""

    async def scenario() -> None:
        trust = await begin(client, ours)
        async with reading_control(client, ours, trust, await cluster_id(client)) as reader:
            for _ in range(3):
                await append(client, ours, ANA, HALT)
            admin: Any = AIOKafkaAdminClient(**client)
            await admin.start()
            try:
                await admin.delete_records({TopicPartition(ours.name("control"), 0): RecordsToDelete(2)})
            finally:
                await admin.close()
            with pytest.raises(BrokenError, match="stays stopped"):
                await reader.catch_up()

    within(scenario())


def test_a_transaction_that_hangs_hides_nothing(client: dict[str, str], ours: TopicSet):
    async def scenario() -> ControlLog:
        trust = await begin(client, ours)
        producer: Any = AIOKafkaProducer(**client, transactional_id=f"{ours.prefix}hanging", linger_ms=0)
        await producer.start()
        try:
            await producer.begin_transaction()
            await producer.send_and_wait(ours.name("control"), b"never committed", partition=0)
            await append(client, ours, ANA, HALT)
            return await folded(client, ours, trust)
        finally:
            await producer.abort_transaction()
            await producer.stop()

    log = within(scenario())

    assert (log.control.epoch, set(log.control.switches.engaged)) == (2, {2})
    assert log.rejected == {Rejection.MALFORMED: 1}


def test_a_reader_goes_on_where_it_stood(client: dict[str, str], ours: TopicSet):
    async def scenario() -> list[int]:
        trust = await begin(client, ours)
        async with reading_control(client, ours, trust, await cluster_id(client)) as reader:
            epochs = [(await reader.catch_up()).control.epoch]
            appended = await append(client, ours, ANA, partial(ReleaseRequest, epochs=(0,), reason="none such"))
            epochs.append((await reader.catch_up()).control.epoch)
            assert reader.log.rejection_at(appended.epoch) is Rejection.UNKNOWN
            return [*epochs, (await reader.catch_up()).control.epoch]

    assert within(scenario()) == [0, 1, 1]


def test_an_empty_log_is_read(client: dict[str, str], ours: TopicSet):
    log = within(folded(client, ours, "0" * 64))
    assert (log.control.epoch, log.digest_at(-1)) == (-1, bytes(32))


def test_a_reader_that_gets_nothing_more_gives_up(
    client: dict[str, str], ours: TopicSet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(control_reader, "STALLED_SECONDS_MAX", 0.5)

    async def scenario() -> None:
        trust = await begin(client, ours)
        async with reading_control(client, ours, trust, await cluster_id(client)) as reader:

            async def promising(parts: Any) -> dict[Any, int]:
                return dict.fromkeys(parts, 5)

            monkeypatch.setattr(reader._consumer, "end_offsets", promising)
            with pytest.raises(UnreachableError, match=r"nothing to read at .*control/0/1 .* up to 5"):
                await reader.catch_up()

    within(scenario())


# --- both brokers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["kafka", "noida"])
def test_a_command_is_for_one_cluster_which_the_broker_names(broker: str, request: pytest.FixtureRequest):
    client = {"bootstrap_servers": request.getfixturevalue(broker)}
    topics = Topics(client["bootstrap_servers"])
    topics({name: (1, TABLE[name].config()) for name in NAMES})
    ours = TopicSet(topics.prefix, 1)

    async def scenario() -> tuple[str, Appended, ControlLog]:
        audience, trust = await cluster_id(client), await begin(client, ours)
        appended = await append(client, ours, ANA, HALT)
        return audience, appended, await folded(client, ours, trust)

    audience, appended, log = within(scenario())

    assert len(audience) > 8
    assert appended.command.aud == audience == log.audience
    assert set(log.control.switches.engaged) == {appended.epoch} == {1}
    elsewhere = read_command(appended.value, appended.at_ms, log.control.keys, "another")
    assert elsewhere is Rejection.AUDIENCE
