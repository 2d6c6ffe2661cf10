"""The publisher's model and the router's reader agree, and the publisher never loses or misplaces an action."""

from __future__ import annotations

import asyncio
import hashlib
import json
import string
from collections.abc import Collection
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, UnknownTopicOrPartitionError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hitl_stream import client
from hitl_stream.client import Action, Placed, Publisher, Receipt, UnconfirmedError, explain, place
from hitl_stream.core import action as core
from hitl_stream.core.action import ACTION_BYTES_MAX, DEPTH_MAX, NUMBER
from hitl_stream.core.errors import UnreachableError, UsageError
from hitl_stream.core.quantity import as_decimal
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.home import home
from hitl_stream.wire.records import Closed, Decision, Result, encode
from support.make import FakeRecord

MINIMAL: dict[str, Any] = {
    "action_id": "act-1",
    "type": "bid.adjust",
    "agent": {"id": "bidder-7"},
    "proposed_at": "2026-11-21T07:10:00.123Z",
}
LEG = {
    "entity": {"account": "acc-17", "campaign": "cmp-204"},
    "field": "bid",
    "before": "1.20",
    "after": "1.32",
    "unit": "EUR",
}


def make(**fields: Any) -> Action:
    return Action.model_validate({**MINIMAL, **fields})


def router_takes(fields: dict[str, Any]) -> bool:
    return isinstance(decode_bytes(json.dumps(fields).encode()), Decoded)


def model_takes(fields: dict[str, Any]) -> bool:
    try:
        Action.model_validate_json(json.dumps(fields))
    except ValidationError:
        return False
    return True


# --- strategies ---

text = st.text(st.characters(codec="utf-8"), max_size=40)
names = st.text(st.characters(codec="utf-8", exclude_characters="~"), min_size=1, max_size=40)
tenants = st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=20)
decimals = st.decimals(-(10**18), 10**18, allow_nan=False, allow_infinity=False).filter(
    lambda number: NUMBER.match(str(number)) is not None
)
numbers = (
    decimals | st.from_regex(NUMBER) | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
)
values = numbers | text | st.booleans()
times = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
words = st.text(string.ascii_letters, min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
entities = st.builds(client.Entity, account=st.none() | names, campaign=st.none() | names)
changes = st.builds(
    client.Change,
    entity=entities,
    field=names,
    before=st.none() | values,
    after=st.none() | values,
    unit=st.none() | words,
)
evidence = st.builds(
    client.Evidence, signal=names, value=st.none() | numbers, before=st.none() | numbers, ref=st.none() | text
)
assets = st.builds(
    client.Asset, sha256=st.text("0123456789abcdef", min_size=64, max_size=64), media_type=text, uri=text
)
contents = st.builds(
    client.Content, text=st.none() | text, platform=st.none() | words, assets=st.lists(assets, max_size=2).map(tuple)
)
batches = st.builds(client.Batch, id=names, size=st.integers(1, 10_000), index=st.integers(0, 9_999))
actions = st.builds(
    Action,
    action_id=names,
    type=names,
    agent=st.builds(client.Agent, id=names, version=text),
    proposed_at=times,
    tenant=tenants,
    changes=st.lists(changes, max_size=3).map(tuple),
    confidence=st.none() | numbers,
    expires_at=st.none() | times,
    flags=st.lists(names, max_size=3).map(tuple),
    entity=st.none() | entities,
    destination=st.none() | text,
    evidence=st.lists(evidence, max_size=3).map(tuple),
    content=st.none() | contents,
    context=st.none() | st.dictionaries(text, json_values, max_size=3),
    rationale=st.none() | text,
    batch=st.none() | batches,
)


@given(actions)
def test_the_router_reads_exactly_what_the_publisher_wrote(action: Action) -> None:
    found = decode_bytes(action.to_bytes())

    assert isinstance(found, Decoded), found
    assert found.action == msgspec.convert(action.model_dump(), core.Action)


@given(actions)
def test_the_model_reads_its_own_bytes_back(action: Action) -> None:
    assert Action.model_validate_json(action.to_bytes()) == action


@given(decimals, decimals)
def test_a_decimal_keeps_every_digit(before: Decimal, after: Decimal) -> None:
    leg = {**LEG, "before": before, "after": str(after)}
    found = decode_bytes(make(changes=[leg], confidence=before).to_bytes())

    assert isinstance(found, Decoded), found
    (change,) = found.action.changes
    written = (change.before, change.after, found.action.confidence)
    assert written == (str(before), str(after), str(before))
    assert [as_decimal(value, "it") for value in written] == [before, after, before]


def test_both_models_have_the_same_fields_defaults_and_limits() -> None:
    """A limit that is changed in one place only would let through at home what the router refuses, or the reverse."""
    pairs = [
        (getattr(client, name), getattr(core, name))
        for name in ("Agent", "Entity", "Change", "Evidence", "Asset", "Content", "Batch", "Action")
    ]
    for model, struct in pairs:
        fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
        assert set(model.model_fields) == set(fields), model
        for name, field in model.model_fields.items():
            assert field.is_required() == fields[name].required, (model, name)
            if not field.is_required():
                assert field.default == fields[name].default, (model, name)
        limits = {name: limits_of(schema) for name, schema in model.model_json_schema()["properties"].items()}
        _, definitions = msgspec.json.schema_components([struct])
        wanted = {name: limits_of(schema) for name, schema in definitions[struct.__name__]["properties"].items()}
        assert limits == wanted, model


def limits_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Collect the limits of a schema, whichever branch of `anyOf` they stand in. Numbers' patterns are not limits."""
    kept = ("minLength", "maxLength", "maxItems", "minimum", "maximum", "exclusiveMaximum")
    found = {key: schema[key] for key in kept if key in schema}
    if "sha" in schema.get("title", "").lower() or schema.get("pattern") == "^[0-9a-f]{64}$":
        found["pattern"] = schema["pattern"]
    for branch in schema.get("anyOf", []):
        found |= limits_of(branch)
    return found


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [
        ("action_id", "x" * 200, True),
        ("action_id", "x" * 201, False),
        ("action_id", "", False),
        ("action_id", 7, False),
        ("action_id", "é" * 200, True),
        ("tenant", "a/b", False),
        ("tenant", None, False),
        ("proposed_at", "2026-11-21T07:10:00+02:00", True),
        ("proposed_at", "2026-11-21 07:10:00Z", True),
        ("proposed_at", "2026-11-21T07:10:00", False),
        ("proposed_at", "2026-11-21T07:10Z", False),
        ("proposed_at", "2026-11-21T07:10:60Z", False),
        ("proposed_at", 1_795_000_000, False),
        ("proposed_at", "1795000000", False),
        ("confidence", "0.93", True),
        ("confidence", 0.93, True),
        ("confidence", 1, True),
        ("confidence", "1E+5", True),
        ("confidence", "-1e99", True),
        ("confidence", "1e100", False),
        ("confidence", "1" * 30, True),
        ("confidence", "1" * 31, False),
        ("confidence", "0.93\n", False),
        ("confidence", 1e300, True),
        ("confidence", 10**31, True),
        ("confidence", 10**309, False),
        ("confidence", float("nan"), False),
        ("confidence", float("inf"), False),
        ("evidence", [{"signal": "s", "value": "12.31", "before": 13}], True),
        ("evidence", [{"signal": "s", "value": "many"}], False),
        ("evidence", [{"signal": "s", "before": True}], False),
        ("confidence", "NaN", False),
        ("confidence", "Infinity", False),
        ("confidence", True, False),
        ("confidence", "high", False),
        ("changes", [LEG] * 1_000, False),  # over the 64 KiB, though not over the legs
        ("changes", [{"entity": {}, "field": "f"}] * 1_000, True),
        ("changes", [{"entity": {}, "field": "f"}] * 1_001, False),
        ("changes", [{"field": "f"}], False),
        ("changes", None, False),
        ("changes", [{**LEG, "before": "PAUSED", "after": "ENABLED"}], True),
        ("changes", [{**LEG, "before": False, "after": True}], True),
        ("changes", [{**LEG, "after": "NaN"}], True),  # a text, as any string that is no number
        ("changes", [{**LEG, "after": "1e400"}], True),
        ("changes", [{**LEG, "before": 0.1, "after": 10**31}], True),
        ("changes", [{**LEG, "after": 10**309}], False),
        ("changes", [{**LEG, "after": float("nan")}], False),
        ("changes", [{**LEG, "after": ["1"]}], False),
        ("flags", ["f"] * 32, True),
        ("flags", ["f"] * 33, False),
        ("flags", [""], False),
        ("evidence", [{"signal": "s"}] * 100, True),
        ("evidence", [{"signal": "s"}] * 101, False),
        ("content", {"assets": [{"sha256": "A" * 64, "media_type": "image/png", "uri": "u"}]}, False),
        ("batch", {"id": "b", "size": 0}, False),
        ("batch", {"id": "b", "size": 10_000, "index": 9_999}, True),
        ("batch", {"id": "b", "size": 2, "index": 10_000}, False),
        ("batch", {"id": "b", "size": "2"}, False),
        ("batch", {"id": "b", "size": True}, False),
        ("context", [], False),
        ("context", {"a": 2**64}, True),
        ("context", {"a": float("nan")}, False),
        ("unheard_of", {"a": 1}, True),
        ("unheard_of", 10**31, True),
        ("unheard_of", {"a": float("nan")}, False),
        ("agent", {"id": "x", "unheard_of": float("inf")}, False),
    ],
)
def test_model_and_router_take_and_refuse_the_same(field: str, value: object, taken: bool) -> None:
    """And what is taken reads the same, whether the model wrote it or not."""
    line = json.dumps({**MINIMAL, field: value})
    router = decode_bytes(line.encode())

    assert isinstance(router, Decoded) == taken
    try:
        written = place(Action.model_validate_json(line).to_bytes(), "", 12).value
    except (ValidationError, UsageError):
        assert not taken
    else:
        assert taken
        again = decode_bytes(written)
        assert isinstance(again, Decoded)
        assert isinstance(router, Decoded)
        assert again.action == router.action


@pytest.mark.parametrize("depth", [DEPTH_MAX, DEPTH_MAX + 1])
def test_nesting_ends_at_the_same_depth(depth: int) -> None:
    """The action is the first level, `context` the second."""
    context: dict[str, Any] = {}
    for _ in range(depth - 2):
        context = {"a": context}

    assert (
        model_takes({**MINIMAL, "context": context})
        == router_takes({**MINIMAL, "context": context})
        == (depth <= DEPTH_MAX)
    )


@pytest.mark.parametrize("number", ["1_000", " 1 ", "٣", "1,5"])
def test_the_model_refuses_numbers_that_only_python_reads(number: str) -> None:
    with pytest.raises(ValidationError, match="is not a finite decimal"):
        make(confidence=number)


@pytest.mark.parametrize("number", [Decimal("NaN"), Decimal("1E+100"), float("inf"), 10**400, [1], b"1"])
def test_what_is_neither_number_nor_text_nor_flag_is_no_side_of_a_change(number: object) -> None:
    with pytest.raises(ValidationError, match="is not a finite decimal"):
        make(changes=[{**LEG, "after": number}])


@pytest.mark.parametrize("value", ["NaN", "1e400", " 1 ", "٣", "", "PAUSED", True])
def test_a_text_or_a_flag_stays_what_it_was(value: object) -> None:
    (change,) = make(changes=[{**LEG, "after": value}]).changes

    assert change.after == value
    assert type(change.after) is type(value)


def test_a_tilde_in_an_id_is_refused_because_it_marks_a_changed_action() -> None:
    with pytest.raises(ValidationError, match="marks an action that a person changed"):
        make(action_id="act-1~r7k2m4q")
    with pytest.raises(UsageError, match="~"):
        place(json.dumps({**MINIMAL, "action_id": "a~b"}).encode(), "", 12)


def test_an_error_says_where_and_what_to_write() -> None:
    with pytest.raises(ValidationError) as caught:
        make(confidence="high", changes=[{**LEG, "entity": None}])

    assert "confidence: 'high' is not a finite decimal; write one such as '1.20'" in explain(caught.value)
    assert "changes.0.entity:" in explain(caught.value)


def test_bytes_are_compact_decimals_are_strings_and_unknown_fields_stay() -> None:
    value = make(confidence=Decimal("0.930"), priority={"a": 1}).to_bytes()

    assert value == (
        b'{"action_id":"act-1","type":"bid.adjust","agent":{"id":"bidder-7"},"proposed_at":"2026-11-21T07:10:00.123000Z",'
        b'"confidence":"0.930","priority":{"a":1}}'
    )


def test_a_null_inside_the_context_survives() -> None:
    assert json.loads(make(context={"a": None}).to_bytes())["context"] == {"a": None}


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ValidationError, match="cannot be written in JSON"):
        make(context={"a": float("nan")})
    with pytest.raises(ValidationError, match="cannot be written in JSON"):
        make(context={"a": {1: 2}})
    with pytest.raises(ValidationError, match="cannot be written in JSON"):
        make(priority=float("inf"))
    for value in (object(), "\ud800"):
        with pytest.raises(UsageError, match="cannot be written as JSON"):
            make(context={"a": value}).to_bytes()


def test_an_action_over_the_limit_says_how_long_it_is() -> None:
    with pytest.raises(UsageError, match=f"at most {ACTION_BYTES_MAX} are taken; refer to large content"):
        make(rationale="x" * ACTION_BYTES_MAX).to_bytes()


@pytest.mark.parametrize(
    ("fields", "key", "account"),
    [
        ({"changes": [LEG]}, b"acme/acc-17/cmp-204", "acc-17"),
        ({"changes": [LEG, {**LEG, "entity": {"account": "acc-17", "campaign": "cmp-9"}}]}, b"acme/acc-17", "acc-17"),
        ({"changes": [LEG, {**LEG, "entity": {"account": "acc-9"}}]}, b"acme/acc-17", "acc-17"),
        ({"entity": {"account": "acc-3"}}, b"acme/acc-3", "acc-3"),
        ({}, b"acme/bidder-7", "bidder-7"),
    ],
)
def test_an_action_is_placed_by_its_account_or_its_agent(fields: dict[str, Any], key: bytes, account: str) -> None:
    placed = place(make(tenant="acme", **fields).to_bytes(), "other", 12)

    assert (placed.key, placed.partition) == (key, home("acme", account, 12))


def test_an_action_without_a_tenant_is_placed_under_the_configured_one() -> None:
    assert place(make().to_bytes(), "acme", 12).key == b"acme/bidder-7"


def test_white_space_around_an_action_is_left_out() -> None:
    value = make().to_bytes()

    assert place(b"  " + value + b"\r\n", "", 12).value == value


# --- the publisher, against a producer that keeps what it is given ---


class FakeBatch:
    def __init__(self, room: int) -> None:
        self.records: list[tuple[bytes | None, bytes]] = []
        self.room = room

    def append(self, *, timestamp: int | None, key: bytes | None, value: bytes) -> object | None:
        if len(self.records) == self.room:
            return None
        self.records.append((key, value))
        return self


class FakeMetadata:
    def __init__(self, offset: int) -> None:
        self.offset = offset


class FakeProducer:
    """Four partitions in memory. `fails` is raised on start, `delivery` fails each delivery, `silent` never answers."""

    def __init__(self, room: int = 3) -> None:
        self.room = room
        self.log: dict[int, list[tuple[bytes | None, bytes]]] = {}
        self.settings: dict[str, Any] = {}
        self.batches = 0
        self.stopped = False
        self.fails: Exception | None = None
        self.unknown: Exception | None = None
        self.delivery: Exception | None = None
        self.silent = False

    def __call__(self, **settings: Any) -> FakeProducer:
        self.settings = settings
        return self

    async def start(self) -> None:
        if self.fails:
            raise self.fails

    async def stop(self) -> None:
        self.stopped = True

    async def partitions_for(self, topic: str) -> Collection[int]:
        if self.unknown:
            raise self.unknown
        return {0, 1, 2, 3}

    def create_batch(self) -> FakeBatch:
        return FakeBatch(self.room)

    async def send(self, topic: str, value: bytes, key: bytes | None, partition: int) -> asyncio.Future[Any]:
        return self.deliver(partition, [(key, value)])

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> asyncio.Future[Any]:
        self.batches += 1
        return self.deliver(partition, batch.records)

    def deliver(self, partition: int, records: list[tuple[bytes | None, bytes]]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self.delivery:
            future.set_exception(self.delivery)
        elif not self.silent:
            log = self.log.setdefault(partition, [])
            future.set_result(FakeMetadata(len(log)))
            log.extend(records)
        return future


async def published(producer: FakeProducer, actions: list[Action | bytes], **settings: Any) -> int:
    async with Publisher(producer=producer, **settings) as publisher:
        return await publisher.publish_many(actions)


def test_sending_one_says_where_it_stands() -> None:
    producer = FakeProducer()

    async def run() -> list[Receipt]:
        async with Publisher(producer=producer) as publisher:
            return [await publisher.send(make(tenant="acme", action_id=str(n))) for n in range(2)]

    at = home("acme", "bidder-7", 4)
    assert asyncio.run(run()) == [Receipt("hitl.actions", at, 0), Receipt("hitl.actions", at, 1)]
    assert producer.stopped


def test_the_producer_is_idempotent_waits_for_all_replicas_and_does_not_compress() -> None:
    producer = FakeProducer()
    asyncio.run(published(producer, []))

    assert {name: producer.settings[name] for name in ("enable_idempotence", "acks", "compression_type")} == {
        "enable_idempotence": True,
        "acks": "all",
        "compression_type": None,
    }


def test_many_go_out_in_batches_and_keep_their_order_within_a_partition() -> None:
    producer = FakeProducer(room=3)
    many = [make(tenant="acme", action_id=str(n), agent={"id": f"a{n % 5}"}).to_bytes() for n in range(50)]

    assert asyncio.run(published(producer, list(many))) == 50
    expected: dict[int, list[bytes]] = {}
    for value in many:
        expected.setdefault(place(value, "", 4).partition, []).append(value)
    assert {partition: [value for _, value in log] for partition, log in producer.log.items()} == expected
    assert producer.batches == sum(-(-len(log) // 3) for log in expected.values())


def test_models_and_bytes_may_be_mixed() -> None:
    producer = FakeProducer()

    assert asyncio.run(published(producer, [make(action_id="1"), make(action_id="2").to_bytes()])) == 2


def test_records_go_where_they_say_even_without_a_key() -> None:
    producer = FakeProducer()

    async def run() -> int:
        async with Publisher(producer=producer) as publisher:
            return await publisher.publish([Placed(b"anything", None, 3)])

    assert asyncio.run(run()) == 1
    assert producer.log == {3: [(None, b"anything")]}


def test_bytes_that_are_no_action_are_refused_with_their_number() -> None:
    with pytest.raises(UsageError, match=r"action number 1: not an action \(not_json\)"):
        asyncio.run(published(FakeProducer(), [make(), b'{"action_id":']))


@pytest.mark.parametrize("error", [KafkaConnectionError("refused"), OSError("no route"), TimeoutError()])
def test_a_kafka_that_is_not_there_is_unreachable_and_the_producer_is_closed(error: Exception) -> None:
    producer = FakeProducer()
    producer.fails = error

    with pytest.raises(UnreachableError, match=r"not reached at nowhere:1: .+ Nothing was written"):
        asyncio.run(published(producer, [], bootstrap="nowhere:1"))
    assert producer.stopped


def test_a_kafka_that_never_answers_is_unreachable_after_the_limit() -> None:
    class Silent(FakeProducer):
        async def start(self) -> None:
            await asyncio.get_running_loop().create_future()

    with pytest.raises(UnreachableError, match=r"no answer within 0\.01 s"):
        asyncio.run(published(Silent(), [], timeout_seconds=0.01))


def test_a_missing_topic_names_the_command_that_makes_it() -> None:
    producer = FakeProducer()
    producer.unknown = UnknownTopicOrPartitionError()

    with pytest.raises(UsageError, match=r"no topic hitl\.actions at .*hitl topics apply"):
        asyncio.run(published(producer, []))
    assert producer.stopped


@pytest.mark.parametrize(("delivery", "silent"), [(KafkaTimeoutError(), False), (None, True)])
def test_a_delivery_that_is_not_confirmed_says_that_repeating_is_safe(delivery: Exception | None, silent: bool) -> None:
    producer = FakeProducer()
    producer.delivery, producer.silent = delivery, silent

    with pytest.raises(UnconfirmedError, match="send the same bytes again"):
        asyncio.run(published(producer, [make()], timeout_seconds=0.01))
    assert producer.stopped


def test_a_publisher_that_is_not_open_says_how_to_open_it() -> None:
    with pytest.raises(UsageError, match="async with Publisher"):
        Publisher(producer=FakeProducer()).place(make())


# --- waiting ---


class FakeConsumer:
    """What stands on the topics where actions end; each poll hands out the next lot of (topic, value)."""

    def __init__(self, *polls: list[tuple[str, bytes]], fails: Exception | None = None) -> None:
        self.polls = list(polls)
        self.fails = fails
        self.settings: dict[str, Any] = {}
        self.sought: dict[Any, int] = {}
        self.asked_ms = 0
        self.stopped = False

    def __call__(self, **settings: Any) -> FakeConsumer:
        self.settings = settings
        return self

    async def start(self) -> None:
        if self.fails:
            raise self.fails

    async def stop(self) -> None:
        self.stopped = True

    def assign(self, partitions: list[Any]) -> None:
        self.assigned = partitions

    def seek(self, partition: Any, offset: int) -> None:
        self.sought[partition] = offset

    async def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(partitions, 7)

    async def offsets_for_times(self, times: dict[Any, int]) -> dict[Any, Any]:
        (self.asked_ms,) = set(times.values())
        return dict.fromkeys(times)

    async def getmany(self, *, timeout_ms: int) -> dict[Any, list[Any]]:
        if not self.polls:
            await asyncio.sleep(3_600)
        return {TopicPartition(topic, 0): [FakeRecord(value)] for topic, value in self.polls.pop(0)}


def shared(sent: Action, **parts: Any) -> dict[str, Any]:
    """Return what every end says of an action."""
    raw = sent.to_bytes()
    made = {
        "id": "hitl.actions/0/1#0", "tenant": "acme", "action_id": sent.action_id,
        "hash": hashlib.sha256(raw).hexdigest(),
        "type": sent.type, "level": 3, "agent": core.Agent("bidder-7"), "entity": core.Entity(), "outcome": "REVIEW",
        "policy": "3c", "moment": "2026-11-21T07:10:00.123Z", "action": msgspec.Raw(raw),
    }  # fmt: skip
    return {**made, **parts}


def closed(action: Action, **parts: Any) -> tuple[str, bytes]:
    fields = {"end": "rejected", "why": "rejected", "by": ("ana",), "code": "off_tone", "note": "too loud", **parts}
    return "hitl.closed", encode(Closed(**shared(action, **fields)))


def result(action: Action, **parts: Any) -> tuple[str, bytes]:
    return "hitl.results", encode(Result(**shared(action, **{"status": "executed", "key": "k", **parts})))


def waited(consumer: FakeConsumer, action: Action | str, seconds: float = 5.0, **options: Any) -> Any:
    async def run() -> Any:
        publisher = Publisher(tenant="acme", producer=FakeProducer(), consumer=consumer, **options.pop("publisher", {}))
        async with publisher:
            return await publisher.wait(action, timeout_seconds=seconds, **options)

    return asyncio.run(run())


def test_a_rejection_carries_reason_and_note_back_to_the_agent():
    action = make()
    outcome = waited(FakeConsumer([], [closed(action)]), action)

    assert (outcome.end, outcome.code, outcome.note, outcome.by) == ("rejected", "off_tone", "too loud", ("ana",))


@pytest.mark.parametrize("by_id", [True, False])
def test_an_executed_action_is_found_as_it_was_sent_and_by_its_id(by_id: bool):
    action = make()
    outcome = waited(FakeConsumer([result(action)]), action.action_id if by_id else action)

    assert (outcome.end, outcome.route) == ("executed", "REVIEW")


def test_what_an_unresolved_call_becomes_is_waited_for():
    action = make()
    consumer = FakeConsumer([result(action, status="unresolved")], [result(action, status="failed")])

    assert waited(consumer, action).end == "failed"
    assert waited(FakeConsumer([result(action, status="unresolved")]), action, 0.05).end == "unresolved"


def test_a_recommendation_is_an_end():
    action = make()
    value = encode(Decision(**shared(action, origin="hitl.actions/0/1")))

    assert waited(FakeConsumer([("hitl.recommendations", value)]), action).end == "recommended"


def test_repeats_other_bytes_other_tenants_and_rubbish_are_passed_over():
    action = make()
    others = [
        closed(action, end="refused", why="duplicate"),
        closed(action, hash="0" * 64, end="refused", why="conflict"),
        closed(action, tenant="other"),
        closed(make(action_id="act-2")),
        ("hitl.closed", b"no record of act-1"),
    ]

    assert waited(FakeConsumer(*([one] for one in others)), action, 0.05) is None
    assert waited(FakeConsumer(*([one] for one in others), [result(action)]), action).end == "executed"


def test_it_is_looked_for_since_it_was_proposed_on_every_partition_and_only_what_is_committed():
    action, consumer = make(), FakeConsumer([result(make())])
    waited(consumer, action)

    assert consumer.asked_ms == int(action.proposed_at.timestamp() * 1_000) - client.CLOCK_SLACK_MS
    assert {(part.topic, part.partition) for part in consumer.sought} == {
        (f"hitl.{name}", number) for name in client.ENDS for number in range(4)
    }
    assert consumer.settings["isolation_level"] == "read_committed"
    assert consumer.stopped


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"publisher": {"topic": "own"}}, UsageError),
        ({"publisher": {"topic": "own", "prefix": "hitl."}}, None),
    ],
)
def test_topics_of_another_name_want_the_prefix(options: Any, error: Any):
    action = make()
    if error is None:
        assert waited(FakeConsumer([result(action)]), action, **options).end == "executed"
    else:
        with pytest.raises(error, match="prefix"):
            waited(FakeConsumer(), action, **options)


def test_waiting_without_kafka_says_so():
    consumer = FakeConsumer(fails=KafkaConnectionError("no broker"))
    with pytest.raises(UnreachableError, match="no broker"):
        waited(consumer, make())
    assert consumer.stopped
