"""The OpenAPI document against the application: whatever is sent, what comes back is documented, and nothing breaks.

Requests are made up by schemathesis from the document, seeded, so many for each route as one run of the tests bears.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import jsonschema
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what its own dependencies have outlived is not ours to mend
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from hitl_stream.console.app import openapi
from hitl_stream.console.office import Office
from support.console import API, Front, front, pair
from support.view import closed, judged, lot, raised, result, review

EXAMPLES = 12
SEED = 20261121
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
REAL = {
    "item": "i1",
    "tenant": "acme",
    "action_id": "act-1",
    "queue": "trading",
    "batch": "acme/acc-17/b-7",
    "pair": "p-1",
    "class": "bid.adjust",
}
DOCUMENT = openapi()
OPERATIONS = [(path, method) for path, item in DOCUMENT["paths"].items() for method in item]
BY = ("ana", "lea", "kim", "uma", "bidder-7")


class Standing:
    """One console for the module, in an event loop of its own, since its databases bind to none."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.stack = AsyncExitStack()
        records = (
            review(), review("i2", 1), lot(offset=2), closed(action_id="act-9"), judged("i9", 3),
            raised(offset=4, action_id="act-8"), result(1, action_id="act-1", present={"/changes/0": "1.20"}),
        )  # fmt: skip
        self.found: Front = self.run(self.stack.enter_async_context(front(directory, *records, names=BY)))
        self.found.office.pairs.take("pairs", pair())
        self.tokens = {name: self.run(self.found.token(name)) for name in BY}

    def run(self, scenario: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(scenario, 60))

    def end(self) -> None:
        self.run(self.stack.aclose())
        self.loop.close()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """A console with something in it."""
    one = Standing(tmp_path_factory.mktemp("console"))
    yield one
    one.end()


def _schema() -> Any:
    return schemathesis.openapi.from_dict(DOCUMENT)


SCHEMA = _schema()


def test_the_document_is_valid_and_every_operation_is_complete():
    for path, method in OPERATIONS:
        operation = DOCUMENT["paths"][path][method]
        assert operation["summary"], path
        assert operation["description"], path
        assert {"400", "413", "421", "422", "429", "500", "503"} <= operation["responses"].keys(), path
        assert (path == f"{API}/sessions" and method == "post") or operation["security"] == [{"bearer": []}], path
        for name, response in operation["responses"].items():
            assert response["description"], (path, name)


def test_every_schema_of_the_document_is_one():
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema.get("description") or name.startswith("Action") or name == "Mode", name


@pytest.mark.parametrize(("path", "method"), OPERATIONS, ids=lambda part: str(part))
@pytest.mark.parametrize("by", ["somebody", "nobody"])
def test_whatever_is_sent_comes_back_as_documented(standing: Standing, path: str, method: str, by: str):
    operation = SCHEMA[path][method.upper()]

    @seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy(), name=st.sampled_from(BY), real=st.booleans())
    def hold(case: Any, name: str, real: bool) -> None:
        if real:
            for parameter in case.path_parameters or {}:
                case.path_parameters[parameter] = REAL[parameter]
        sent = case.as_transport_kwargs(base_url="http://localhost")
        sent["headers"] = {**dict(sent.get("headers") or {}), "Content-Type": "application/json"}
        sent["headers"].pop("Authorization", None)
        if by == "somebody":
            sent["headers"]["Authorization"] = f"Bearer {standing.tokens[name]}"
        office: Office = standing.found.office
        written = len(standing.found.log.written)
        standing.found.now_ms += 60_000 if by == "nobody" else 0  # so that wrong secrets are forgotten
        response = standing.run(_send(standing.found, sent))
        case.validate_response(_as_known(response), checks=CHECKS)
        if by == "nobody" and path != f"{API}/sessions":
            assert response.status_code in (400, 401), response.text
            assert len(standing.found.log.written) == written
        assert "purpose" not in response.text
        office.recent.clear()

    hold()


async def _send(found: Front, sent: dict[str, Any]) -> Any:
    known = {
        name: part for name, part in sent.items() if name in ("method", "url", "headers", "params", "data", "json")
    }
    data = known.pop("data", None)
    content = data if isinstance(data, str | bytes) else None
    cookies_free = {name: value for name, value in known["headers"].items() if name.lower() != "cookie"}
    return await found.client.request(**{**known, "headers": cookies_free}, content=content)


def _as_known(response: Any) -> Any:
    from schemathesis.core.transport import Response

    return Response.from_httpx(response, verify=False) if hasattr(Response, "from_httpx") else response
