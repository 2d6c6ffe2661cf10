"""The HTTP server of every role, over real sockets on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import pytest

from hitl_stream.core.errors import SettingsError
from hitl_stream.health import Check, Health
from hitl_stream.metrics import Metrics

Answer = tuple[int, Mapping[str, str], bytes]
Get = Callable[..., Awaitable[Answer]]


def served(checks: Mapping[str, Check], ask: Callable[[Get], Awaitable[Any]]) -> Any:
    """Run a `Health` with these checks for as long as `ask` runs."""

    async def run() -> Any:
        health = Health(Metrics("0.1.0"), checks, {"version": "0.1.0"}, port=0)
        async with health, aiohttp.ClientSession(health.url) as session:

            async def get(path: str, method: str = "GET", **headers: str) -> Answer:
                async with session.request(method, path, headers=headers) as answer:
                    return answer.status, answer.headers, await answer.read()

            return await ask(get)

    return asyncio.run(run())


def answer(path: str, checks: Mapping[str, Check] | None = None, **more: str) -> Answer:
    said: Answer = served(checks or {}, lambda get: get(path, **more))
    return said


def test_metrics_come_as_text_for_those_who_do_not_ask():
    status, headers, body = answer("/metrics")

    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"# TYPE hitl_ready gauge\nhitl_ready 1.0\n" in body


def test_metrics_come_as_openmetrics_for_those_who_do():
    status, headers, body = answer("/metrics", Accept="application/openmetrics-text; version=1.0.0")

    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")


def test_ready_when_every_check_is_passed():
    status, _, body = answer("/readyz", {"assigned": lambda: "", "policy": lambda: ""})

    assert status == 200
    assert json.loads(body) == {"ready": True, "checks": {"assigned": "ok", "policy": "ok"}}


def test_not_ready_while_one_check_fails_and_all_are_listed():
    status, _, body = answer("/readyz", {"assigned": lambda: "", "policy": lambda: "no policy was loaded"})

    assert status == 503
    assert json.loads(body) == {"ready": False, "checks": {"assigned": "ok", "policy": "no policy was loaded"}}


def test_a_check_that_raises_is_not_passed_and_keeps_its_message_to_itself():
    def broken() -> str:
        raise RuntimeError("hush")

    status, _, body = answer("/readyz", {"control": broken})

    assert status == 503
    assert json.loads(body)["checks"] == {"control": "the check itself failed: RuntimeError"}


def test_the_ready_gauge_follows_the_checks():
    missing = ["not yet"]

    async def ask(get: Get) -> list[bool]:
        seen = []
        for why in ("not yet", ""):
            missing[0] = why
            _, _, body = await get("/metrics")
            seen.append(b"\nhitl_ready 1.0\n" in body)
        return seen

    assert served({"assigned": lambda: missing[0]}, ask) == [False, True]


def test_live_does_not_ask_the_checks():
    status, _, body = answer("/livez", {"kafka": lambda: "not reached"})

    said = json.loads(body)
    assert (status, said["live"]) == (200, True)
    assert said["turn_s"] >= 0
    assert said["up_s"] >= 0


def test_the_version_is_told():
    status, _, body = answer("/version")

    assert (status, json.loads(body)) == (200, {"version": "0.1.0"})


def test_nothing_can_be_done_through_it():
    async def ask(get: Get) -> list[int]:
        paths = ("/metrics", "/livez", "/readyz", "/version")
        return [(await get(path, method))[0] for path in paths for method in ("POST", "PUT", "DELETE", "PATCH")]

    assert set(served({}, ask)) == {405}
    assert answer("/")[0] == 404


def test_answers_say_little_of_the_server_and_are_not_kept():
    _, headers, _ = answer("/livez")

    assert headers["Server"] == "hitl"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_it_listens_on_this_machine_only_unless_told_otherwise():
    assert Health(Metrics(), {}, {}).host == "127.0.0.1"
    assert Health(Metrics(), {}, {}, host="::1", port=1).url == "http://[::1]:1"


def test_a_port_that_is_taken_is_refused_with_the_way_out(caplog: pytest.LogCaptureFixture):
    async def run(port: int) -> None:
        await Health(Metrics(), {}, {}, port=port).start()

    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.CRITICAL):
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as found:
            asyncio.run(run(port))

    assert str(found.value).startswith(f"metrics_port: cannot listen on 127.0.0.1:{port} (")
    assert str(found.value).endswith("or choose another with --metrics-port or HITL_METRICS_PORT (0: any free one)")


def test_a_service_that_never_started_stops_quietly():
    asyncio.run(Health(Metrics(), {}, {}).on_stop())


def test_the_port_is_free_again_after_the_stop():
    async def run() -> int:
        health = Health(Metrics(), {}, {}, port=0)
        async with health:
            return health.port

    with socket.create_server(("127.0.0.1", asyncio.run(run())), reuse_port=False):
        pass
