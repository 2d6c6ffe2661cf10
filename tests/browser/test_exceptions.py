"""Exceptions in a browser: the types and who answers them, and what could not be carried out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from support.browser import faults_of
from support.make import change
from support.served import Served, served
from support.view import State, flagged, raised

pytestmark = pytest.mark.browser
HOSTILE = "400: <script>alert(1)</script>\u202etxt"
RECORDS = (
    raised("x1", 1),
    raised("x2", 2, HOSTILE, action_id="act-2", changes=[change(campaign="cmp-9")]),
    flagged("f1", 3, action_id="act-3"),
    flagged("f2", 4, "unknown", action_id="act-4"),
)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console with exceptions of several types."""
    with served(tmp_path_factory.mktemp("exceptions"), *RECORDS, names=("ana", "vic", "carl")) as found:
        yield found


@pytest.mark.behaviour("C4")
def test_every_type_stands_there_with_its_owner_its_queue_and_its_time(
    console: Served, context: BrowserContext, page: Page
):
    console.sign_in(context, "vic")
    page.goto(f"{console.url}/exceptions")
    rows = page.locator(".types tbody tr")
    expect(rows).to_have_count(7)

    told = {row.locator("th span").first.inner_text(): row.inner_text().split("\t")[1:] for row in rows.all()}
    assert told["Brand flag"][:3] == ["brand-team", "brand", "4 h then manager"]
    assert told["Brand flag"][3].startswith("1 oldest")
    assert told["Anything else"][:3] == ["ops", "triage", "1 h"]
    assert told["Data quality"][3] == "none"
    expect(page.locator("#all")).to_contain_text("You may look only")
    assert faults_of(page) == []


@pytest.mark.behaviour("C4")
def test_what_could_not_be_carried_out_leads_to_its_queue_and_goes_when_it_is_decided(
    console: Served, context: BrowserContext, page: Page
):
    console.sign_in(context, "ana")
    page.set_viewport_size({"width": 360, "height": 700})
    page.emulate_media(color_scheme="dark")
    page.goto(f"{console.url}/exceptions")
    items = page.locator(".items li")
    expect(items).to_have_count(2)
    expect(items.nth(1)).to_contain_text("400: <script>alert(1)</script>RLOtxt")
    expect(items.get_by_role("link").first).to_have_attribute("href", "/review/trading")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults_of(page) == []
    console.fold(raised("x1", 9, state=State.REJECTED))

    expect(items).to_have_count(1)
    expect(items).to_contain_text("cmp-9")


def test_a_client_is_told_of_no_type_that_is_not_put_to_it(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "carl")
    page.goto(f"{console.url}/exceptions")

    expect(page.locator("#all")).to_contain_text("None waits for you.")
    expect(page.locator(".types")).to_have_count(0)
