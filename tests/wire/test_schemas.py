"""The schemas that publishers and readers get are those that the code decodes with."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import orjson
import pytest

from hitl_stream.core.window import IdBudget
from hitl_stream.dev.schemas import files
from hitl_stream.lane.step import Moment
from hitl_stream.wire.schemas import asyncapi, json_schema
from hitl_stream.wire.topics import TABLE
from support.make import FakeRecord, action_bytes, make_router

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("path", "content"), list(files()), ids=[path for path, _ in files()])
def test_the_committed_file_is_what_the_code_generates(path: str, content: bytes) -> None:
    assert (DOCS / path).read_bytes() == content, "run: python -m hitl_stream.dev.schemas docs"


@pytest.mark.parametrize(
    "name",
    [
        "action",
        "decision",
        "held",
        "closed",
        "result",
        "exception",
        "fact",
        "via",
        "command",
        "heartbeat",
        "ack",
        "policy",
    ],
)
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


def test_every_topic_is_a_channel_with_its_writers_and_readers() -> None:
    document = asyncapi("1.0")

    assert {channel["address"] for channel in document["channels"].values()} == {f"hitl.{name}" for name in TABLE}
    assert len(document["operations"]) == 2 * len(TABLE)
