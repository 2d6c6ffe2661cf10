"""The schemas that publishers and readers get are those that the code decodes with."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import orjson
import pytest

from hitl_stream.core.events import Purpose
from hitl_stream.core.review import Need, Review, State
from hitl_stream.core.window import IdBudget
from hitl_stream.dev.schemas import files
from hitl_stream.lane.step import Moment
from hitl_stream.wire.desk_records import Observation, review_value, state_of
from hitl_stream.wire.records import encode
from hitl_stream.wire.schemas import MESSAGES, RECORDS, asyncapi, json_schema
from hitl_stream.wire.topics import TABLE
from hitl_stream.wire.verdicts import verdict_value
from support.make import FakeRecord, action_bytes, make_router
from support.people import CONSOLE_KEY, SHOWN, Case, words

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("path", "content"), list(files()), ids=[path for path, _ in files()])
def test_the_committed_file_is_what_the_code_generates(path: str, content: bytes) -> None:
    assert (DOCS / path).read_bytes() == content, "run: python -m hitl_stream.dev.schemas docs"


@pytest.mark.parametrize("name", [*RECORDS, "policy"])
def test_each_schema_is_a_valid_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(orjson.loads((DOCS / f"schemas/{name}.json").read_bytes()))


def test_an_action_and_the_decision_on_it_fit_their_schemas() -> None:
    value = action_bytes()
    router = make_router(partitions=1)
    record = FakeRecord(value=value)
    (output, *_) = router([record], router.state(IdBudget()), Moment(record.timestamp)).outputs

    jsonschema.validate(orjson.loads(value), json_schema("action"))
    decision = orjson.loads(output.value)
    schema = json_schema("decision")
    schema["properties"]["action"] = {"type": "object"}
    jsonschema.validate(decision, schema)


def test_what_people_say_and_what_the_desk_makes_of_it_fit_their_schemas() -> None:
    case = Case()
    needs = (Need("trading", 1, 1_000, 500, by=("tess",)),)
    review = Review(item="r7k2m4qabcdefghi", purpose=Purpose.DECIDE, hash=case.hash, state=State.OPEN, needs=needs,
                    opened_ms=0, execute_by_ms=2_000)  # fmt: skip
    said = words(hash=case.hash)
    values = {
        "approved": case.value(),
        "review": review_value(state_of(review, source="hitl.review/0/0", routed=case.routed), case.raw),
        "verdict": verdict_value(CONSOLE_KEY, said, SHOWN),
        "judgement": encode(said),
        "decision": case.asked.value,
    }

    for name, value in values.items():
        schema = json_schema(name)
        if "action" in schema.get("properties", {}):
            schema["properties"]["action"] = {"type": "object"}
        jsonschema.validate(orjson.loads(value or b""), schema)


def test_a_judgement_of_an_item_that_nobody_knows_has_no_action() -> None:
    assert {"type": "null"} in json_schema("human_decision")["properties"]["action"]["anyOf"]
    assert json_schema("approved")["properties"]["action"] == {"$ref": "action.json"}


def test_the_schema_says_a_members_name_as_it_stands_in_the_record() -> None:
    assert {"class", "reviewer"} <= set(json_schema("observation")["properties"])
    assert "class_" in Observation.__struct_fields__


@pytest.mark.parametrize(
    ("name", "payload", "fits"),
    [
        ("command", {"typ": "confirm", "of": 815}, True),
        ("command", {"typ": "engage", "scope": ["campaign:cmp-7"], "mode": "HALT"}, True),
        ("command", {"typ": "confirm"}, False),
        ("command", {"typ": "shout"}, False),
        ("heartbeat", {"typ": "heartbeat", "seq": 1, "control": "h/control/0", "epoch": -1, "digest": "0" * 64,
                       "acks": {}, "effective": -1}, True),
        ("heartbeat", {"typ": "heartbeat", "seq": 1}, False),
    ],
)  # fmt: skip
def test_what_is_signed_fits_the_schema_of_its_payload(name: str, payload: dict[str, object], fits: bool) -> None:
    claims = {"aud": "c", "kid": "ana-1", "iss": "ana", "jti": "j", "iat": 1, "exp": 2}

    assert jsonschema.Draft202012Validator(json_schema(name)).is_valid(claims | payload) is fits


@pytest.mark.parametrize(
    ("topic", "carried"),
    [
        ("execute", {"decision", "approved"}),
        ("escalation", {"decision", "exception"}),
        ("reviews", {"review", "lot"}),
        ("verdicts", {"verdict"}),
        ("evidence", {"observation"}),
        ("dlq", {"dead"}),
        ("audit", set()),
    ],
)
def test_a_channel_lists_every_record_that_its_topic_carries(topic: str, carried: set[str]) -> None:
    messages = asyncapi("1.0")["channels"][topic.replace(".", "_")]["messages"]

    assert set(messages) == carried


def test_every_topic_names_a_record_that_has_a_schema() -> None:
    assert set(MESSAGES) <= set(TABLE)
    assert set(MESSAGES.values()) <= set(RECORDS)


def test_every_topic_is_a_channel_with_its_writers_and_readers() -> None:
    document = asyncapi("1.0")

    assert {channel["address"] for channel in document["channels"].values()} == {f"hitl.{name}" for name in TABLE}
    assert len(document["operations"]) == 2 * len(TABLE)
