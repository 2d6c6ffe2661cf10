"""JSON Schemas of the records and an AsyncAPI document of the topics, from the definitions that decode them."""

from __future__ import annotations

from typing import Any

import msgspec

from hitl_stream.core.action import ACTION_BYTES_MAX, Action
from hitl_stream.core.commands import AnyCommand, Heartbeat
from hitl_stream.core.verdicts import AnyVerdict
from hitl_stream.wire import desk_records, records, watched
from hitl_stream.wire.topics import TABLE, Topic

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "3.0.0"
DECISION_TOPICS = ("execute", "review", "escalation", "review.seeded", "recommendations", "held")
RECORDS: dict[str, Any] = {
    "action": Action,
    "decision": records.Decision,
    "held": records.Held,
    "closed": records.Closed,
    "result": records.Result,
    "exception": records.Exceptional,
    "fact": records.Fact,
    "via": records.Via,
    "command": AnyCommand,
    "heartbeat": Heartbeat,
    "ack": records.Ack,
    "approved": records.Approved,
    "review": desk_records.ReviewState,
    "lot": desk_records.LotState,
    "verdict": desk_records.VerdictRecord,
    "judgement": AnyVerdict,
    "human_decision": desk_records.HumanDecision,
    "observation": desk_records.Observation,
    "feedback": desk_records.Feedback,
    "preference": desk_records.Preference,
    "opinion": desk_records.Opinion,
    "pair": desk_records.Pair,
    "alert": watched.Alert,
}
"""The records that are written today, by the name of their schema file."""
MESSAGES = {
    "actions": "action",
    "closed": "closed",
    **dict.fromkeys(DECISION_TOPICS, "decision"),
    "held": "held",
    "results": "result",
    "facts": "fact",
    "control": "command",
    "control.heartbeat": "heartbeat",
    "control.acks": "ack",
    "verdicts": "verdict",
    "reviews": "review",
    "decisions": "human_decision",
    "observations": "observation",
    "evidence": "observation",
    "feedback": "feedback",
    "preferences": "preference",
    "opinions": "opinion",
    "pairs": "pair",
    "alerts": "alert",
}
"""Which record a topic carries."""
BESIDE = {"execute": "approved", "escalation": "exception", "reviews": "lot"}
"""Which other record a topic carries besides."""
SIGNED = ("command", "heartbeat")
"""These are the payload of a compact JWS (RFC 7515), which is the record's value."""
INSIDE = "judgement"
"""This one is the payload of the compact JWS inside a record of `verdicts`."""
SUMMARIES = {
    "command": "What people, and a few services, tell the whole installation; `typ` says which.",
    INSIDE: "What a person says of what was shown; `typ` says which.",
}
"""Of records that are one of several types."""
WITHOUT_ACTION = ("human_decision",)
"""Here the action is null where nobody knows which one it was about."""


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of one record."""
    (schema,), components = msgspec.json.schema_components([RECORDS[name]], ref_template="#/$defs/{name}")
    # One of several types, told apart by a member, has no name of its own to refer to.
    root = components.pop(schema["$ref"].rpartition("/")[2]) if "$ref" in schema else schema
    # A raw member is the action as it came; its own schema stands in a file of its own.
    if "action" in root.get("properties", {}):
        action = {"$ref": "action.json"}
        root["properties"]["action"] = {"anyOf": [action, {"type": "null"}]} if name in WITHOUT_ACTION else action
    return {"$schema": DIALECT, "$id": f"{name}.json", **root, **({"$defs": components} if components else {})}


def asyncapi(version: str, prefix: str = "hitl.") -> dict[str, Any]:
    """Return an AsyncAPI document of every topic: who writes, who reads, for how long, and which record it carries."""
    channels, operations = {}, {}
    for name, topic in TABLE.items():
        key = name.replace(".", "_")
        channels[key] = _channel(prefix, topic)
        for action, roles in (("send", topic.written_by), ("receive", topic.read_by)):
            operations[f"{action}_{key}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{key}"},
                "summary": roles,
            }
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "hitl-stream",
            "version": version,
            "license": {"name": "Apache-2.0"},
            "description": "Every proposed action is an event; each ends exactly once on one of these topics.",
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": {name: _message(name) for name in (*RECORDS, "dead")}},
    }


def _channel(prefix: str, topic: Topic) -> dict[str, Any]:
    message = MESSAGES.get(topic.name, "dead" if topic.name == "dlq" else None)
    carried = [name for name in (message, BESIDE.get(topic.name)) if name is not None]
    return {
        "address": prefix + topic.name,
        "description": f"Written by {topic.written_by}; read by {topic.read_by}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in carried},
        "bindings": {
            "kafka": {
                "topicConfiguration": {
                    "cleanup.policy": topic.cleanup.split(","),
                    "retention.ms": topic.retention_ms,
                    "max.message.bytes": topic.bytes_max,
                },
                **({"partitions": topic.partitions} if topic.partitions else {}),
            }
        },
    }


def _message(name: str) -> dict[str, Any]:
    if name == "dead":
        own = (records.ERROR_HEADER, records.WHY_HEADER, records.SOURCE_HEADER, records.APPENDED_HEADER,
               records.BY_HEADER)  # fmt: skip
        headers = {
            "type": "object",
            "required": list(own),
            "properties": {header: {"type": "string"} for header in own},
        }
        return {"summary": "A record that could not be read, as it came.", "headers": headers}
    message: dict[str, Any] = {
        "summary": SUMMARIES.get(name) or (RECORDS[name].__doc__ or "").partition("\n")[0],
        "contentType": "application/jose" if name in (*SIGNED, INSIDE) else "application/json",
        "payload": {"$ref": f"schemas/{name}.json"},
    }
    if name == "action":
        message["description"] = f"Bare JSON, or a CloudEvent; at most {ACTION_BYTES_MAX} bytes."
    if name == INSIDE:
        message["description"] = "A compact JWS with Ed25519 (RFC 9864), the member `jws` of a verdict; its payload."
    if name in SIGNED:
        message["description"] = "A compact JWS with Ed25519 (RFC 9864); the schema is that of its payload."
    return message
