"""Batches in a browser: what each state says, and releasing one by typing its size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hitl_stream.console.people import FRESH_MS
from hitl_stream.core.verdicts import BatchRelease
from hitl_stream.wire.desk_records import NeedRow
from hitl_stream.wire.records import encode
from hitl_stream.wire.verdicts import Given, read_verdict
from support.browser import Seen, faults_of
from support.console import PASSWORD
from support.make import NOW_MS, FakeRecord, iso
from support.people import CLUSTER
from support.served import Served, served
from support.view import HOUR_MS, lot

pytestmark = pytest.mark.browser
ROOT = "9f" * 32
NAMED = "/batches?batch=acme%2Facc-17%2F"


def batch(name: str, offset: int, state: str, **parts: Any) -> FakeRecord:
    """Return a batch of fifty drawn out of five hundred, of which one may be bad."""
    need = NeedRow(queue="trading", people=1, by=(), decide_by=iso(NOW_MS + HOUR_MS))
    fields = {
        "wanted": 500, "size": 498, "root": ROOT, "accept": 1, "drawn": tuple(f"d{i}" for i in range(50)),
        "good": 50, "approvals": (need,), "beside": (3, 9), "flagged": 2, "execute_by": iso(NOW_MS + HOUR_MS),
    }  # fmt: skip
    return lot(f"acme/acc-17/{name}", offset, state=state, **fields | parts)


WAITING = (*(f"d{i}" for i in range(32, 50)), "f1")
LOTS = (
    batch("gathering", 1, "GATHERING", size=212, root=None, accept=None, drawn=(), good=0, approvals=()),
    batch("sampling", 2, "SAMPLING", good=31, bad=1, waiting=WAITING),
    batch("ready", 3, "READY", good=49, bad=1),
    batch("failed", 4, "FULL", good=10, bad=2, waiting=("d49",)),
    batch("small", 5, "FULL", size=9, wanted=9, drawn=tuple("abcdefghi"), good=0, accept=0, flagged=0, beside=()),
    batch("released", 6, "RELEASED"),
    batch("late", 7, "ENDED"),
    batch("mine", 8, "READY", not_=("ana",)),
)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console with a batch in every state; its view is up to date."""
    with served(tmp_path_factory.mktemp("batches"), *LOTS, names=("ana", "otto", "uma")) as found:
        found.do(lambda front: front.fold(batch("late", 9, "ENDED"), as_of_ms=NOW_MS))
        yield found


@pytest.fixture
def ana(console: Served, context: BrowserContext, page: Page) -> Page:
    """A window of a trader who has just signed in."""
    console.front.now_ms = NOW_MS
    console.sign_in(context, "ana")
    return page


def test_each_batch_is_listed_with_its_state_in_words(ana: Page, console: Served):
    ana.goto(f"{console.url}/batches")
    expect(ana.locator(".batch")).to_have_count(8)

    told = {one.locator("h3").inner_text(): one.inner_text() for one in ana.locator(".batch").all()}
    assert "214 of 500 have come" in told["gathering"]
    assert "31 good · 1 bad · 18 of the sample and 1 flagged to judge" in told["sampling"]
    assert "Ready for release" in told["ready"]
    assert "Sample failed, full review" in told["failed"]
    assert "good" not in told["small"]
    assert faults_of(ana) == []


@pytest.mark.behaviour("E5")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gathering", "When all are here, or the time is over, a sample is drawn."),
        ("sampling", "498 actions, of which 50 were drawn. At most 1 of them may be bad."),
        ("failed", "The sample failed: 2 bad, and at most 1 allowed. So nothing is released as a whole"),
        ("small", "each of its 9 actions is decided by itself"),
        ("late", "Nobody released it in time."),
        ("mine", "You cannot release it now: you proposed something of it, or answer for its agent"),
    ],
)
def test_a_batch_says_what_its_state_means(ana: Page, console: Served, name: str, says: str):
    ana.goto(f"{console.url}{NAMED}{name}")

    expect(ana.locator("#all")).to_contain_text(says)
    expect(ana.get_by_role("heading", level=1)).to_have_text(f"Batch {name}")
    expect(ana.locator("#size")).to_have_count(0)


def test_what_of_the_sample_waits_leads_into_its_queue(ana: Page, console: Served):
    ana.goto(f"{console.url}{NAMED}sampling")

    expect(ana.locator(".toreview")).to_contain_text("19 items of it wait; flagged ones may wait in another queue")
    expect(ana.get_by_role("link", name="Review in trading")).to_have_attribute("href", "/review/trading")


@pytest.mark.behaviour("E5")
def test_a_batch_is_released_by_typing_its_size_and_signing_in_anew(ana: Page, console: Served, seen: Seen):
    ana.emulate_media(color_scheme="dark")
    console.front.now_ms = NOW_MS + FRESH_MS + 1_000
    written = len(console.front.log.written)
    ana.goto(f"{console.url}{NAMED}ready")
    button = ana.get_by_role("button", name=re.compile("Release 498"))
    expect(button).to_be_disabled()
    expect(ana.locator(".root")).to_have_text(ROOT)
    assert faults_of(ana) == []
    ana.get_by_label("Type 498 to release").fill("49")
    expect(button).to_be_disabled()
    ana.get_by_label("Type 498 to release").fill("498")
    ana.keyboard.press("Enter")
    ana.get_by_label("Password of ana").fill(PASSWORD)
    ana.keyboard.press("Enter")
    expect(ana.locator("#release")).to_contain_text("Your release is signed and stands on the log")

    (last,) = console.front.log.verdicts()[written:]
    given = read_verdict(encode(last), NOW_MS, console.front.watch.control.keys, CLUSTER)
    assert isinstance(given, Given), given
    assert isinstance(given.claims, BatchRelease)
    assert (given.claims.batch, given.claims.root, given.claims.by) == ("acme/acc-17/ready", ROOT, "ana")
    assert json.loads(last.shown)["sample"]["bad"] == 1
    console.fold(batch("ready", 20, "RELEASED", good=49, bad=1))
    expect(ana.locator("#all")).to_contain_text("498 actions were released.")


def test_a_batch_that_changes_while_somebody_types_is_not_released_by_what_they_typed(ana: Page, console: Served):
    console.fold(batch("moving", 30, "READY"))
    ana.goto(f"{console.url}{NAMED}moving")
    ana.get_by_label("Type 498 to release").fill("49")
    console.fold(batch("moving", 31, "READY", size=497, beside=(1, 3, 9), flagged=3))

    expect(ana.locator("#said")).to_contain_text("The batch has changed since you looked.")
    expect(ana.get_by_label("Type 497 to release")).to_have_value("")


def test_a_batch_of_nobodys_queue_is_not_there(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "otto")
    page.goto(f"{console.url}{NAMED}ready")
    expect(page.locator("#all")).to_contain_text("There is no such batch in your queues")
    page.goto(f"{console.url}/batches")
    expect(page.locator("#all")).to_contain_text("No batches")


@pytest.mark.behaviour("A12")
def test_an_auditor_sees_every_batch_and_releases_none(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "uma")
    page.goto(f"{console.url}{NAMED}mine")

    expect(page.locator("#release")).to_contain_text("You cannot release it now: you have no role that releases it")
    expect(page.locator("#size")).to_have_count(0)


def test_a_console_that_does_not_answer_is_said_and_asked_again(ana: Page, console: Served, seen: Seen):
    seen.allow("net::ERR_FAILED|/events")
    ana.goto(f"{console.url}/batches")
    expect(ana.locator(".batch").first).to_be_visible()
    ana.route("**/api/v1/batches", lambda route: route.abort())
    expect(ana.locator("#wrong")).to_contain_text("The console does not answer.")
    expect(ana.locator(".batch").first).to_be_visible()
    ana.unroute("**/api/v1/batches")
    ana.get_by_role("button", name="Try again").click()

    expect(ana.locator("#wrong")).to_be_empty()


def test_nothing_is_wider_than_a_small_screen(ana: Page, console: Served, tmp_path: Path):
    ana.set_viewport_size({"width": 360, "height": 700})
    for where in ("/batches", f"{NAMED}mine", f"{NAMED}sampling"):
        ana.goto(f"{console.url}{where}")
        expect(ana.locator("#all .panel").first).to_be_visible()
        assert ana.evaluate("document.documentElement.scrollWidth <= innerWidth"), where
