"""`python -m hitl_stream.dev.schemas DIR` writes the schema files; a test holds the committed ones against the code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import orjson

from hitl_stream import __version__
from hitl_stream.console.app import openapi
from hitl_stream.wire.policy_file import json_schema as policy_schema
from hitl_stream.wire.schemas import RECORDS, asyncapi, json_schema


def files() -> Iterator[tuple[str, bytes]]:
    """Yield (path, content) of every generated file."""
    for name in RECORDS:
        yield f"schemas/{name}.json", _pretty(json_schema(name))
    yield "schemas/policy.json", _pretty(policy_schema())
    yield "asyncapi.json", _pretty(asyncapi(__version__))
    yield "openapi.json", _pretty(openapi())


def write(directory: Path) -> None:
    """Write the files below `directory`."""
    for path, content in files():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _pretty(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
