"""A real Chromium for tests of the console's pages, Debian's or the one that HITL_CHROMIUM names.

`page` is a fresh window, as of somebody who was never here. When its test is over, the page must have logged no error,
broken no content security policy, lost no request, and asked nobody but its own console; `seen.allow` names what a test
provokes on purpose. `faults_of` is what axe finds wrong, `shoot` keeps a picture where `--screenshots` is given.

Without a browser a test is skipped and says why; where CI=true promises one, it fails.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)

GIVEN = "HITL_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1280, "height": 800}
WAIT_MS_MAX = 20_000
"""For whatever a test waits for: only a failure takes as long."""
LOAD_MS_MAX = 60_000
"""A page has loaded by then also on two busy cores."""
PICTURES = Path("docs/img")
GRAVE = ("serious", "critical")
VIOLATION = "a content security policy was broken: "
LISTEN = f"""
addEventListener("securitypolicyviolation", (event) => console.error(
  {VIOLATION!r} + event.violatedDirective + " " + event.blockedURI + " " + event.sample));
"""
LEFT = "net::ERR_ABORTED"
"""What was under way when a page was left, such as its stream of events."""


class Seen:
    """What went wrong on the pages that it watches, but for what a test has allowed."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._allowed: list[re.Pattern[str]] = []
        self._home = ""

    def watch(self, page: Page) -> None:
        """Note what goes wrong on a page from now on."""
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("request", self._asked)
        page.on("requestfailed", self._failed)
        page.on("response", self._answered)

    def allow(self, pattern: str) -> None:
        """Let what fits a regular expression pass, such as `401 .*/session`."""
        self._allowed.append(re.compile(pattern))

    @property
    def unexpected(self) -> list[str]:
        """What went wrong, and nobody had allowed."""
        return [one for one in self.wrong if not any(pattern.search(one) for pattern in self._allowed)]

    def check(self) -> None:
        """Fail with all that went wrong."""
        assert not self.unexpected, "\n".join(("the browser saw:", *self.unexpected))

    def _said(self, message: ConsoleMessage) -> None:
        # What an answer's status makes the browser say is noted with the answer, whose address it lacks.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.wrong.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("data", "blob", "about"):
            return
        self._home = self._home or f"{parts.scheme}://{parts.netloc}"
        if f"{parts.scheme}://{parts.netloc}" != self._home:
            self.wrong.append(f"foreign: {request.method} {request.url}, and the console is at {self._home}")

    def _failed(self, request: Request) -> None:
        if request.failure != LEFT:
            self.wrong.append(f"failed: {request.method} {request.url}: {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.wrong.append(f"answer: {response.status} {response.request.method} {response.url}")
        if urlsplit(response.url).path == "/csp-report":
            self.wrong.append(f"{VIOLATION}{response.request.post_data}")


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A running Chromium."""
    program = found()
    if program is None:
        reason = f"no Chromium: {GIVEN} is not set, and none of {', '.join(NAMES)} is in PATH; apt install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI=true, and yet {reason}")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=program, args=["--disable-dev-shm-usage", *options])
        expect.set_options(timeout=WAIT_MS_MAX)
        # Playwright leaves its own loop as the running one, and no other test could run one of its own.
        loop = _leave_loop()
        yield running
        _enter_loop(loop)
        running.close()


@pytest.fixture
def seen() -> Seen:
    """What went wrong on `page`."""
    return Seen()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Somebody's own browser: no cookie, no storage, and nobody else's."""
    with _playing(browser):
        new = browser.new_context(viewport=SIZE, locale="en-GB", timezone_id="Europe/Berlin")
        new.set_default_timeout(WAIT_MS_MAX)
        new.set_default_navigation_timeout(LOAD_MS_MAX)
        new.add_init_script(LISTEN)
        yield new
        new.close()


@pytest.fixture
def page(context: BrowserContext, seen: Seen) -> Iterator[Page]:
    """A window in which nothing may go wrong."""
    new = context.new_page()
    seen.watch(new)
    yield new
    seen.check()


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """Keep a picture of a page in `docs/img`, light and dark, once, where `--screenshots` is given."""
    wanted, taken = bool(request.config.getoption("--screenshots")), set[str]()

    def take(page: Page, name: str) -> None:
        if wanted and name not in taken:
            taken.add(name)
            picture(page, PICTURES, name)

    return take


def found() -> str | None:
    """Return the path of a Chromium, or None."""
    given = os.environ.get(GIVEN)
    if given:
        return shutil.which(given)
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def _playing(browser: Browser) -> Iterator[None]:
    """Let Playwright have its loop as the running one, as long as a test uses it."""
    _enter_loop(browser._impl_obj._loop)
    try:
        yield
    finally:
        _leave_loop()


def _enter_loop(loop: Any) -> None:
    asyncio._set_running_loop(loop)


def _leave_loop() -> Any:
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    return loop


# --- looking ----------------------------------------------------------------------------------------------------------


def faults_of(page: Page) -> list[str]:
    """Return what axe finds on a page that is serious or critical, each with where and why."""
    response = Axe().run(page).response
    return [
        f"{fault['id']} ({fault['impact']}): {' '.join(map(str, node['target']))}: {node['failureSummary']}"
        for fault in response["violations"]
        if fault["impact"] in GRAVE
        for node in fault["nodes"]
    ]


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until something has the focus."""
    for _ in range(20):
        if wanted.evaluate("one => one === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no Tab leads to {wanted}")


def picture(page: Page, directory: Path, name: str) -> None:
    """Write `name-light.png` and `name-dark.png`, of what is to be seen without scrolling."""
    directory.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.screenshot(path=directory / f"{name}-{scheme}.png", animations="disabled")
    page.emulate_media(color_scheme="null", reduced_motion="null")
