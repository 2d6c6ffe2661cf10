"""`make bench-console`: how long a reviewer waits, in a real browser.

From a key to the next card, with 10 and with 10,000 open items. Nothing but the console and a Chromium runs; where
Kafka would be is a fake of the tests, since no key waits for it:
1. a person approves one item after another, at the pace that `--pace` gives;
2. the page's own clock is read at the key, and again when two frames have been drawn with the next card on the page.
Cards that the page was still asking for when a key came are counted in, since a person waits for those too.

From a decision to Kafka, in `hitl demo` on a real Kafka: from the end of a decision's rest, when the page sends it, to
the answer, which comes when every replica in sync has it.

It needs Chromium and the test extra.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from figures import machine
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.browser import found
from support.demo import running_demo
from support.make import NOW_MS
from support.served import served
from support.view import review

SIZES = (10, 10_000)
FOLDED_AT_ONCE = 1_000
LIMIT_MS = 100
SENT_LIMIT_MS = 500
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "console.md"
WAIT_MS_MAX = 30_000
MEASURE = """
window.waits = [];
let pressed = null;
addEventListener("keydown", (event) => { if (event.key === "a") pressed = event.timeStamp; }, true);
new MutationObserver(() => {
  if (pressed === null || !document.querySelector(".card")) return;
  const from = pressed;
  pressed = null;
  requestAnimationFrame(() => requestAnimationFrame(() => window.waits.push(performance.now() - from)));
}).observe(document, { childList: true, subtree: true });
"""


SENT = """() => performance.getEntriesByType("resource")
  .filter((one) => one.name.endsWith("/verdict") && one.responseStatus === 202).map((one) => one.duration)"""


def main() -> None:
    """Measure both, and print a table."""
    asked = _arguments()
    rows = ["| what | open items | n | p50 ms | p95 ms | max ms | limit, p95 |", "|---|---:|---:|---:|---:|---:|---:|"]
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=found(), args=options)
        for size in SIZES:
            waits = _waits(browser, size, min(asked.keys, size - 1), asked.pace)
            rows.append(_row("key to next card", f"{size:,}", waits, LIMIT_MS))
        rows.append(_row("decision to Kafka", "demo", _sent(browser, asked.keys, asked.pace), SENT_LIMIT_MS))
        browser.close()
    print("\n".join(rows))
    if asked.write:
        head = f"# The console\n\n`make bench-console`, {machine()}; {asked.keys} keys, {asked.pace:g} s apart.\n"
        RESULTS.write_text(f"{head}\n" + "\n".join(rows) + "\n", "utf-8")


def _row(what: str, items: str, times_ms: list[float], limit_ms: int) -> str:
    p95 = statistics.quantiles(times_ms, n=20, method="inclusive")[-1]
    return (
        f"| {what} | {items} | {len(times_ms)} | {statistics.median(times_ms):.0f} | {p95:.0f} | {max(times_ms):.0f} "
        f"| {limit_ms} |"
    )


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keys", type=int, default=60, help="so many approvals (default: 60)")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds between two (default: 1.0)")
    parser.add_argument("--write", action="store_true", help=f"keep the table in {RESULTS.name}")
    return parser.parse_args()


def _sent(browser: Browser, keys: int, pace_s: float) -> list[float]:
    """Return how long each decision was on its way into Kafka, in ms."""
    with (
        tempfile.TemporaryDirectory() as directory,
        running_demo(Path(directory), "--reviewers", "none", broker="jar") as demo,
    ):
        context = browser.new_context()
        page = context.new_page()
        page.goto(demo.link)
        page.locator("#whose button").wait_for(timeout=WAIT_MS_MAX)
        page.goto(f"{demo.url.rstrip('/')}/review/brand")
        for _ in range(keys):
            page.locator(".card").wait_for(timeout=WAIT_MS_MAX)
            time.sleep(pace_s)
            page.keyboard.press("a")
        until = time.monotonic() + WAIT_MS_MAX / 1_000
        while len(page.evaluate(SENT)) < keys and time.monotonic() < until:
            time.sleep(0.1)
        sent: list[float] = page.evaluate(SENT)
        context.close()
        return sent


def _waits(browser: Browser, size: int, keys: int, pace_s: float) -> list[float]:
    with tempfile.TemporaryDirectory() as directory, served(Path(directory), names=("ana",)) as console:
        for start in range(0, size, FOLDED_AT_ONCE):
            records = [
                review(f"i{n}", n, action_id=f"act-{n}", decide_by_ms=NOW_MS + 3_600_000 + n, people=1)
                for n in range(start, min(size, start + FOLDED_AT_ONCE))
            ]
            console.fold(*records)
        context = browser.new_context()
        console.sign_in(context, "ana")
        page = context.new_page()
        page.add_init_script(MEASURE)
        page.goto(f"{console.url}/review/trading")
        page.locator(".card").wait_for(timeout=WAIT_MS_MAX)
        for pressed in range(keys):
            time.sleep(pace_s)
            page.keyboard.press("a")
            until = time.monotonic() + WAIT_MS_MAX / 1_000
            while page.evaluate("window.waits.length") <= pressed:
                if time.monotonic() > until:
                    raise TimeoutError(f"no card came within {WAIT_MS_MAX} ms of key {pressed + 1}, with {size} items")
                time.sleep(0.02)
        waits: list[float] = page.evaluate("window.waits")
        context.close()
        return waits


if __name__ == "__main__":
    main()
