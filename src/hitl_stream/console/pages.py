"""The pages: shells without anything secret, which ask `/api/v1` for what they show, and the session of a browser.

Rules:
- A page is the same for everybody. So a link from a chart or a chat opens it although no cookie comes along with it;
  who is signed in, and what they may see, is asked by the page's own script.
- A page loads nothing but its own style and scripts, each named with a nonce of this answer; nothing that an agent has
  written can become HTML or script, since the browser itself refuses to make it so (Trusted Types).
- Nothing is done on GET.
"""

# No `from __future__ import annotations`: FastAPI reads annotations that name what a function around them was given.

import secrets
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson
import structlog
from fastapi import APIRouter, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from hitl_stream import __version__
from hitl_stream.console import browser, events
from hitl_stream.console.auth import Failures, address_of, begin_by_link, begin_session, identify_browser
from hitl_stream.console.bodies import SignIn, Word
from hitl_stream.console.office import Office
from hitl_stream.console.people import SignedIn
from hitl_stream.console.problems import ProblemError

LOOPBACK = ("127.0.0.1", "::1")
NONCE_BYTES = 18
REPORT_BYTES_MAX = 16 * 1024
REPORTS_MAX = 100
"""Reports of broken policies that are logged; a page that breaks it breaks it again and again."""
GZIP_BYTES_MIN = 512
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'; report-uri /csp-report"
)


class Page(NamedTuple):
    """A page: its path, the template and script of its name, and its title."""

    path: str
    name: str
    title: str


PAGES = (
    Page("/", "home", "Home"),
    Page("/sign-in", "sign-in", "Sign in"),
    Page("/link", "link", "Sign in"),
    Page("/review", "queues", "Review"),
    Page("/review/{queue}", "review", "Review"),
    Page("/batches", "batches", "Batches"),
    Page("/pairs", "pairs", "Pairs"),
    Page("/exceptions", "exceptions", "Exceptions"),
    Page("/me", "me", "Your figures"),
    Page("/quiz", "quiz", "Quiz"),
    Page("/watch", "watch", "Reviewers"),
    Page("/gates", "gates", "Gates"),
    Page("/kill", "kill", "Kill switches"),
    Page("/live", "live", "Live"),
    Page("/audit", "audit", "Audit"),
)


def pages(office: Office, failures: Failures) -> APIRouter:
    """Return the routes of the pages, and of a browser's session."""
    routes = APIRouter(include_in_schema=False)
    environment = Environment(
        loader=PackageLoader("hitl_stream.console", "templates"), autoescape=True, undefined=StrictUndefined
    )
    for page in PAGES:
        _page(routes, environment, page)
    _session(routes, office, failures)
    _events(routes, office, failures)
    _reports(routes)
    return routes


def _page(routes: APIRouter, environment: Environment, page: Page) -> None:
    @routes.get(page.path, name=page.name)
    async def show() -> Response:
        nonce = secrets.token_urlsafe(NONCE_BYTES)
        html = environment.get_template(f"{page.name}.html").render(page=page, nonce=nonce, version=__version__)
        return HTMLResponse(html, headers={"content-security-policy": POLICY.format(nonce=nonce)})


# --- sessions ---------------------------------------------------------------------------------------------------------


class Link(BaseModel):
    """The secret of a one-time link."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    link: Word


def _session(routes: APIRouter, office: Office, failures: Failures) -> None:
    @routes.post("/session")
    async def sign_in(request: Request, ask: SignIn | Link) -> Response:
        """Begin a session, by name and password or by a one-time link, and give its secret in a cookie."""
        headers = headers_of(request)
        _ours(headers)
        address = address_of(request)
        match ask:
            case Link():
                _local(address)
                begun = await begin_by_link(office, failures, address, ask.link)
            case SignIn():
                begun = await begin_session(office, failures, address, ask.name, ask.password)
        return _begun(begun, headers)

    @routes.delete("/session")
    async def sign_out(request: Request) -> Response:
        """End the browser's session."""
        headers = headers_of(request)
        _ours(headers)
        secret = request.cookies.get(browser.COOKIE)
        if secret:
            await office.people.sign_out(secret)
        return Response(status_code=204, headers={"set-cookie": browser.set_cookie("", 0, headers)})


def headers_of(request: Request) -> Mapping[bytes, bytes]:
    """Return the headers of a request, names in lower case."""
    return dict(request.scope["headers"])


def _ours(headers: Mapping[bytes, bytes]) -> None:
    browser.check_origin(headers)
    if browser.HEADER not in headers:
        raise ProblemError("origin", "the header X-Hitl-Console did not come", todo="Do it at the console's own page.")


def _local(address: str) -> None:
    if address not in LOOPBACK:
        raise ProblemError(
            "not_local",
            f"a one-time link is taken from this machine only, and the request comes from {address}",
            todo="Sign in with name and password; hitl user password NAME sets one.",
        )


def _begun(begun: SignedIn, headers: Mapping[bytes, bytes]) -> Response:
    session = begun.session
    cookie = browser.set_cookie(begun.secret, (session.until_ms - session.begun_ms) // 1_000, headers)
    body = orjson.dumps({"name": session.account.name})
    return Response(body, 201, {"set-cookie": cookie}, media_type="application/json")


# --- events, reports, files -------------------------------------------------------------------------------------------


def _events(routes: APIRouter, office: Office, failures: Failures) -> None:
    streams = events.Streams(office)

    @routes.get("/events")
    async def stream(request: Request) -> Response:
        """Tell a browser how things stand, whenever it changes: one stream for all its tabs."""

        async def who() -> Any:
            return await identify_browser(office, failures, request)

        told = await streams.begin(who)
        return StreamingResponse(told, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _reports(routes: APIRouter) -> None:
    log = structlog.get_logger(role="console")
    seen = 0

    @routes.post("/csp-report")
    async def report(request: Request) -> Response:
        """Take a browser's report that a page has tried what its policy forbids."""
        nonlocal seen
        seen += 1
        if seen <= REPORTS_MAX:
            log.warning("a page broke its content security policy", report=(await request.body())[:REPORT_BYTES_MAX])
        return Response(status_code=204)


class _Files(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Let a browser keep a file, and ask each time whether it has changed."""
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def static_files() -> ASGIApp:
    """Return what serves style and scripts, compressed."""
    return GZipMiddleware(_Files(packages=[("hitl_stream.console", "static")]), GZIP_BYTES_MIN)
