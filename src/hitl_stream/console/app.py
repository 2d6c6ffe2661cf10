"""The console's web application and the service that serves it.

In this order, before any route is looked at:
1. the Host header is one of ours: a page elsewhere cannot reach us under a name of its own (DNS rebinding);
2. a cookie comes from our own pages only, and never beside a token (`browser`);
3. the body is read, up to a limit.

Nothing is answered to other origins: there is no CORS header at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection, Iterator
from typing import Any, cast

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from mode import Service
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hitl_stream import __version__
from hitl_stream.client import Action
from hitl_stream.console import browser
from hitl_stream.console.api import PREFIX, router
from hitl_stream.console.auth import Failures
from hitl_stream.console.bodies import ProblemBody
from hitl_stream.console.office import Office
from hitl_stream.console.pages import pages, static_files
from hitl_stream.console.problems import MEDIA_TYPE, ProblemError, problem_of
from hitl_stream.core.errors import HitlError, SettingsError
from hitl_stream.wire.records import encode

BODY_BYTES_MAX = 256 * 1024
"""An action of 64 KiB, a text that replaces one of it, a password: everything but a policy fits."""
COMMAND_BYTES_MAX = 1024 * 1024 + 4096
WHERE_MAX = 5
"""Slips of a request that are told; how many more there are is said."""
CONCURRENT_MAX = 256
BACKLOG = 128
IDLE_S = 30
STOP_S = 3
START_S_MAX = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
"""Of every answer; a page has a policy of its own for what it may load (`pages`)."""


def application(office: Office, hosts: Collection[str] = LOOPBACK) -> FastAPI:
    """Return the application over an office; `hosts` are the names under which it is reached."""
    app = FastAPI(
        title="hitl-stream console",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,
    )
    failures = Failures()
    app.include_router(router(office, failures))
    app.include_router(pages(office, failures))
    app.mount("/static", static_files())
    app.add_exception_handler(HitlError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Door, hosts=frozenset(host.lower() for host in hosts))
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


# --- problems ---------------------------------------------------------------------------------------------------------


def answered(problem: ProblemError, path: str) -> Response:
    """Return a problem as a response."""
    return Response(encode(problem.body(path)), problem.status, problem.headers, media_type=MEDIA_TYPE)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HitlError)
    problem = problem_of(error)
    if problem.status >= 500:
        structlog.get_logger().warning("a request failed", path=request.url.path, error=str(error))
    return answered(problem, request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    slips = error.errors()
    told = "; ".join(f"{'.'.join(map(str, slip['loc']))}: {slip['msg']}" for slip in slips[:WHERE_MAX])
    more = f"; and {len(slips) - WHERE_MAX} more" if len(slips) > WHERE_MAX else ""
    problem = ProblemError(
        "invalid",
        "the request is not what this route takes",
        where=_printable(told + more)[:2_000],
        todo=f"See {PREFIX}/openapi.json.",
    )
    return answered(problem, request.url.path)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            problem = ProblemError("not_found", "there is no such route", todo=f"See {PREFIX}/openapi.json.")
        case 405:
            problem = ProblemError(
                "method",
                f"{request.method} is not taken here",
                todo=f"See {PREFIX}/openapi.json.",
                headers=dict(error.headers or {}),
            )
        case _:
            problem = ProblemError("malformed", "the request cannot be read", where=_printable(str(error.detail))[:500])
    return answered(problem, request.url.path)


async def _broken(request: Request, error: Exception) -> Response:
    structlog.get_logger().error("a request broke", path=request.url.path, exc_info=error)
    problem = ProblemError("internal", "an error of hitl itself; its log says more", todo="Report it with that log.")
    return answered(problem, request.url.path)


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


# --- the door ---------------------------------------------------------------------------------------------------------


class Door:
    """What every request passes first."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            return  # nothing else is served

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in HEADERS if one[0] not in given)]
            await send(message)

        try:
            self._look(scope)
            body = await _body(scope, receive)
        except ProblemError as problem:
            await answered(problem, scope["path"])(scope, receive, sending)
            return
        await self.app(scope, _given(body, receive), sending)

    def _look(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if _name_of(host) not in self.hosts:
            raise ProblemError(
                "host",
                f"the request is for host {host[:100]!r}, which is not this console's name",
                where="header Host",
                todo="Use its own name; further ones are the setting console_hosts.",
            )
        if scope["path"].startswith(PREFIX):
            browser.check(headers, scope["method"])


def _name_of(host: str) -> str:
    """Return a Host header without its port.

    >>> _name_of("[::1]:8080"), _name_of("localhost:8080"), _name_of("localhost")
    ('::1', 'localhost', 'localhost')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _body(scope: Scope, receive: Receive) -> bytes:
    limit = COMMAND_BYTES_MAX if scope["path"] == f"{PREFIX}/commands" else BODY_BYTES_MAX
    parts: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""  # the client has gone away
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > limit:
            raise ProblemError(
                "too_large",
                f"the body is longer than {limit} bytes",
                todo="Say less; large content is referred to by URI and digest.",
            )
        if not message.get("more_body", False):
            return b"".join(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


# --- the document -----------------------------------------------------------------------------------------------------


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document as `docs/openapi.json` has it."""
    return document(application(cast("Office", None)))  # no route is called


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the problem's and the action's schemas, which no route's signature names."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(
        title=app.title,
        version=app.version,
        routes=app.routes,
        summary="Propose actions, review them, stop them; and read what became of them.",
        description="Every change is appended to Kafka before it is answered; what it did is read back.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "http://localhost:8080"}],
    )
    schemas = found["components"]["schemas"]
    schemas["ProblemBody"] = ProblemBody.model_json_schema()
    action = Action.model_json_schema(ref_template="#/components/schemas/Action{model}")
    schemas |= {f"Action{name}": part for name, part in action.pop("$defs").items()}
    schemas["ProposedAction"] = action
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    app.openapi_schema = found
    return found


# --- the service ------------------------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `process`, which stops every service."""
        yield


class Web(Service):
    """Serves the application on `host:port` (port 0: any free one; read `port` after the start)."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        super().__init__()
        self.app, self.host, self.port = app, host, port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def on_start(self) -> None:
        """Listen. Raises `SettingsError`: the port cannot be had."""
        listening = self._listen()
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=STOP_S,
            ws="none",
            limit_concurrency=CONCURRENT_MAX,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listening]))
        async with asyncio.timeout(START_S_MAX):
            while not self._server.started and not self._serving.done():  # noqa: ASYNC110 - uvicorn tells it so only
                await asyncio.sleep(0.01)
        structlog.get_logger().info("the console listens", url=self.url)

    def _listen(self) -> socket.socket:
        try:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            return socket.create_server((self.host, self.port), family=family, backlog=BACKLOG)
        except OSError as error:
            raise SettingsError(
                f"console_port: cannot listen on {self.host}:{self.port} ({error.strerror or error}); stop what "
                "listens there, or choose another with --console-port or HITL_CONSOLE_PORT (0: any free one)"
            ) from error

    async def on_stop(self) -> None:
        """Answer what is under way, and stop listening."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
