"""`hitl demo` with its console, in a process of its own, for a browser to work at."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from hitl_stream.console.browser import COOKIE
from support.cli import POLL_SECONDS, environ

START_SECONDS_MAX = 150.0
END_SECONDS_MAX = 150.0
"""It waits for every answer, at most half a minute, and verifies what the topics hold."""
INVITED = re.compile(r"console    (http://localhost:\d+/link#[\w-]{43}) ")
LATER = re.compile(r"later: (http://localhost:\d+/), (\w+), password ([\w-]+);")


@dataclass
class Demo:
    """A running demo: how somebody gets in, and, when it has ended, what it found."""

    directory: Path
    link: str
    url: str
    name: str
    password: str
    report: dict[str, Any] = field(default_factory=dict)


@contextmanager
def running_demo(directory: Path, *arguments: str, broker: str = "noida") -> Iterator[Demo]:
    """Run a demo until it is left; what it then found must be whole: every action answered once, every law kept."""
    out, err = directory / "out", directory / "err"
    command = [sys.executable, "-m", "hitl_stream", "demo", "--broker", broker, "--seconds", "600", "--json"]
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, cwd=directory, env=environ(directory),
        )  # fmt: skip
    try:
        demo = _invited(process, err, directory)
        yield demo
        process.send_signal(signal.SIGTERM)
        code = process.wait(END_SECONDS_MAX)
        demo.report |= json.loads(out.read_text().splitlines()[-1]) if out.read_text() else {}
        assert (code, demo.report.get("conservation")) == (0, "ok"), err.read_text()[-4_000:]
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS_MAX)
        finally:
            process.kill()
            process.wait()


def session(demo: Demo) -> str:
    """Sign in, and return the secret."""
    body = json.dumps({"name": demo.name, "password": demo.password}).encode()
    headers = {"Origin": demo.url.rstrip("/"), "X-Hitl-Console": "1", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{demo.url}session", body, headers), timeout=30) as answer:
        return str(SimpleCookie(answer.headers["set-cookie"])[COOKIE].value)


def enter(page: Page, demo: Demo, secret: str) -> None:
    """Give a window a session."""
    page.context.add_cookies([{"name": COOKIE, "value": secret, "url": demo.url, "sameSite": "Strict"}])


def _invited(process: subprocess.Popen[bytes], err: Path, directory: Path) -> Demo:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and process.poll() is None:
        said = err.read_text()
        link, later = INVITED.search(said), LATER.search(said)
        if link is not None and later is not None:
            return Demo(directory, link[1], *later.groups())
        time.sleep(POLL_SECONDS)
    raise AssertionError(f"the demo invited nobody (exit {process.poll()}): {err.read_text()[-4_000:]}")
