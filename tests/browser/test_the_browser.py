"""The browser of the tests notices what goes wrong: a test that sees nothing would be worth nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page

from support.browser import Seen, faults_of

pytestmark = pytest.mark.browser
STRICT = (
    "default-src 'none'; script-src 'nonce-abc'; connect-src 'self'; require-trusted-types-for 'script'; "
    "trusted-types 'none'; report-uri /csp-report"
)
HEAD = "<!doctype html><html lang='en'><head><title>x</title></head><body><main><h1>x</h1>"
BODIES = {
    "/good": "<p>Nothing is wrong here.</p>",
    "/logs": "<script nonce='abc'>console.error('so wrong')</script>",
    "/throws": "<script nonce='abc'>null.x</script>",
    "/inline": "<script>1</script>",
    "/html": "<script nonce='abc'>document.body.innerHTML = '<b>x</b>'</script>",
    "/absent": "<script nonce='abc'>fetch('/nothing')</script>",
    "/elsewhere": "<script nonce='abc'>fetch('http://localhost:9/').catch(() => 0)</script>",
    "/unnamed": "<input type='text'>",
}


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = BODIES.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("content-type", "text/html")
        if self.path != "/elsewhere":
            self.send_header("content-security-policy", STRICT)
        self.end_headers()
        self.wfile.write(f"{HEAD}{body or ''}".encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A site with pages on which one thing each is wrong."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_good_page_passes_and_axe_looks_at_it_under_the_strictest_policy(page: Page, url: str, seen: Seen):
    seen.allow("404 GET .*/favicon.ico")
    page.goto(f"{url}/good")

    assert faults_of(page) == []
    assert seen.unexpected == []


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/logs", "error: so wrong"),
        ("/throws", "error: Cannot read properties of null"),
        ("/inline", "a content security policy was broken: script-src"),
        ("/html", "a content security policy was broken: require-trusted-types-for"),
        ("/absent", "answer: 404 GET .*/nothing"),
        ("/elsewhere", "foreign: GET http://localhost:9/"),
    ],
)
def test_what_goes_wrong_is_noted(page: Page, url: str, seen: Seen, path: str, told: str):
    page.goto(f"{url}{path}", wait_until="networkidle")

    before = list(seen.unexpected)
    seen.allow(told)
    assert before != seen.unexpected, before
    seen.allow(".*")  # all of it: this test's window is not to fail


def test_axe_finds_what_somebody_who_cannot_see_would_miss(page: Page, url: str, seen: Seen):
    seen.allow("404 GET .*/favicon.ico")
    page.goto(f"{url}/unnamed")

    assert [fault.partition(" ")[0] for fault in faults_of(page)] == ["label"]


async def _nothing() -> int:
    return 1


def test_a_test_after_a_browsers_has_its_event_loop(browser: object):
    assert asyncio.run(_nothing()) == 1
