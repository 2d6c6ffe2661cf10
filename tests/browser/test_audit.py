"""Audit in a browser: a search, the whole story of an action, its export, and undoing what ran."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from support.browser import Seen, faults_of
from support.make import NOW_MS, iso
from support.served import Served, served
from support.view import State, closed, judged, result, review

pytestmark = pytest.mark.browser
HOSTILE = "<b>bold</b>\u202etxt\u200b"
READ = {"/changes/0": "1.20"}
STORY = "/audit?tenant=acme&action="
RECORDS = (
    review("i1", 1, state=State.APPROVED, opened_ms=NOW_MS + 1_000, rationale=HOSTILE),
    judged(
        "i1", 2, NOW_MS + 20_000, action={"rationale": HOSTILE}, note="Fine " + HOSTILE,
        painted=iso(NOW_MS + 2_000), decided=iso(NOW_MS + 19_000),
    ),
    result(3, NOW_MS + 30_000, present=READ, rationale=HOSTILE, context={"factor": 1.50, "id": 12345678901234567890}),
    closed(4, NOW_MS + 40_000, action_id="act/2", type="budget.reallocate"),
    result(5, NOW_MS + 50_000, action_id="act-3"),
    review("i4", 6, action_id="act-4"),
    closed(7, NOW_MS + 60_000, action_id="act-3~undo-9f"),
)  # fmt: skip


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console with some actions that have ended, and one that has not."""
    with served(tmp_path_factory.mktemp("audit"), *RECORDS, names=("ana", "uma", "kim")) as found:
        yield found


@pytest.mark.behaviour("D10")
def test_a_search_finds_and_leads_to_the_story_and_back(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "uma")
    page.goto(f"{console.url}/audit")
    expect(page.locator(".hits tbody tr")).to_have_count(4)
    assert faults_of(page) == []
    page.get_by_label("Decided by").fill("ben")
    page.keyboard.press("Enter")
    expect(page.locator(".hits tbody tr")).to_have_count(2)
    expect(page.locator("#found")).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.locator("#found")).to_have_text("act/2")
    expect(page.locator("#all")).to_contain_text("It was rejected, and never ran. Decided by ben.")
    page.get_by_role("link", name="Back to the search").click()

    expect(page.locator(".hits tbody tr")).to_have_count(2)
    expect(page.get_by_label("Decided by")).to_have_value("ben")


@pytest.mark.behaviour("D10")
def test_the_story_tells_in_order_what_happened_and_who_did_it(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "uma")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(f"{console.url}{STORY}act-1")
    steps = page.locator(".story > li")
    expect(steps).to_have_count(4)

    told = steps.all_inner_texts()
    assert [one.inner_text() for one in page.locator(".when .small").all()] == [
        "Proposal",
        "Review",
        "Judgement",
        "Result",
    ]
    assert "bidder-7 proposed it." in told[0]
    assert "People were asked in trading." in told[1]
    assert "ana (trader) approved it, 17 s after it was shown." in told[2]
    assert "Fine <b>bold</b>RLOtxtZWSP" in told[2]
    assert "It was carried out. Approved by ana." in told[3]
    expect(page.locator(".agent-words")).to_contain_text("<b>bold</b>RLOtxtZWSP")
    page.get_by_text("Record").last.click()
    expect(steps.last.locator("pre")).to_contain_text('"id": 12345678901234567890')
    assert page.locator("#all b, #all img").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults_of(page) == []


@pytest.mark.behaviour("A12")
def test_an_auditor_takes_the_story_away_as_it_was_written_and_can_undo_nothing(
    console: Served, context: BrowserContext, page: Page, tmp_path: Path
):
    console.sign_in(context, "uma")
    page.goto(f"{console.url}{STORY}act-1")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Export as JSON Lines").click()
    waiting.value.save_as(tmp_path / "story.jsonl")

    lines = (tmp_path / "story.jsonl").read_text().splitlines()
    assert waiting.value.suggested_filename == "acme-act-1.jsonl"
    assert [json.loads(line)["kind"] for line in lines] == ["decision", "result"]
    assert '"id":12345678901234567890' in lines[1]
    assert json.loads(lines[1])["record"]["action"]["rationale"] == HOSTILE
    expect(page.locator("#reverse")).to_contain_text("You only read: somebody with another role proposes it.")
    expect(page.get_by_role("button", name="Reverse")).to_have_count(0)


@pytest.mark.behaviour("E16")
def test_what_was_carried_out_is_undone_as_a_persons_own_proposal(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "ana")
    page.goto(f"{console.url}{STORY}act-1")
    expect(page.locator("#reverse .changes tbody")).to_contain_text("1.20")
    page.get_by_label("Why?").fill("It was meant for another campaign")
    page.get_by_role("button", name="Reverse").click()
    expect(page.locator("#reverse")).to_contain_text("Proposed in your name; nothing has changed yet.")

    ((topic, _, value, _, headers),) = console.front.log.written
    action = json.loads(value)
    assert (topic, action["rationale"]) == ("actions", "It was meant for another campaign")
    assert (action["changes"][0]["before"], action["changes"][0]["after"]) == ("1.30", "1.20")
    assert json.loads(dict(headers)["hitl-via"])["by"] == "ana"


@pytest.mark.behaviour("E16")
def test_what_cannot_be_undone_says_why(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "ana")
    page.goto(f"{console.url}{STORY}act-3")

    expect(page.locator("#reverse")).to_contain_text("It cannot be undone: nobody read what bid was before")
    expect(page.get_by_role("button", name="Reverse")).to_have_count(0)


def test_what_a_person_proposed_leads_to_the_action_that_it_follows(
    console: Served, context: BrowserContext, page: Page
):
    console.sign_in(context, "ana")
    page.goto(f"{console.url}{STORY}act-3~undo-9f")
    expect(page.locator(".story li").first).to_contain_text("A person proposed it: it follows act-3.")
    page.get_by_role("link", name="act-3", exact=True).click()

    expect(page.locator("#found")).to_have_text("act-3")


def test_of_what_is_still_asked_no_judgement_is_told(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "ana")
    page.goto(f"{console.url}{STORY}act-4")

    expect(page.locator("#all")).to_contain_text("People are asked about it now.")
    expect(page.locator(".story")).to_have_count(0)


def test_what_is_not_known_is_said_and_can_be_searched_anew(
    console: Served, context: BrowserContext, page: Page, seen: Seen
):
    seen.allow("404 GET")
    console.sign_in(context, "kim")
    page.goto(f"{console.url}/audit")
    expect(page.locator("#all")).to_contain_text("Name a tenant and search.")
    page.get_by_label("Tenant").fill("acme")
    page.get_by_label("Action id").fill("no-such")
    page.keyboard.press("Enter")

    expect(page.locator("#wrong")).to_contain_text("nothing is known of such an action")
    expect(page.get_by_label("Action id")).to_have_value("no-such")
