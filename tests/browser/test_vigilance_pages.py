"""What people see of how they review: own figures, quiz, break and lesson; what a queue's owner sees; and the gates."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hitl_stream.console import quiz
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.events import Purpose
from hitl_stream.core.policy.rules import gate_digest
from hitl_stream.core.review import State
from hitl_stream.core.vigilance import BREAK_AFTER_ITEMS, Level, Sign
from support.browser import Seen, faults_of
from support.console import Front
from support.make import NOW_MS, change
from support.served import Served, served
from support.standing import PAGE_BYTES_MAX, Weight, do, fits_small_screen
from support.view import approval, judged, review
from support.vigilant import alarm, evidence, heard, know

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console that knows old approvals of ben's, and what ana has judged."""
    with served(tmp_path_factory.mktemp("vigilance"), names=("ana", "ben", "uma", "vic")) as found:
        olds = [
            approval(n, action={"changes": [change("1.20", f"1.{30 + n:02}", campaign=f"cmp-{n}")]}) for n in range(40)
        ]
        mine = [
            judged(f"m{n}", 100 + n, NOW_MS - (n // 9) * DAY_MS - 60_000, verdict="reject" if n % 7 == 3 else "approve",
                   purpose="canary" if n % 20 == 10 else "decide", action={"action_id": f"mine-{n}"})
            for n in range(60)
        ]  # fmt: skip
        found.do(lambda front: front.fold(*olds, *mine, as_of_ms=NOW_MS))
        yield found


@pytest.fixture
def at(console: Served, context: BrowserContext, page: Page) -> Page:
    """A trader's window; the console hears a monitor that knows nothing."""
    do(console, heard)
    console.front.office.chance = random.Random(7)
    console.sign_in(context, "ana")
    page.clock.set_fixed_time(NOW_MS / 1000)
    return page


def looks_right(page: Page) -> None:
    """Check what holds of every page: no fault that axe finds, light or dark, and room enough on a small screen."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert faults_of(page) == []
    assert fits_small_screen(page)


# --- one's own --------------------------------------------------------------------------------------------------------


def test_somebody_sees_their_own_figures_in_words(at: Page, console: Served):
    do(console, lambda found: know(found, level=Level.SECONDED, signs=(Sign.HIT_RATE,)))
    weight = Weight(at)
    at.goto(f"{console.url}/me")

    expect(at.get_by_text("Level 2 of 3")).to_be_visible()
    expect(at.locator("#all")).to_contain_text("What you approve is looked at by a second person")
    expect(at.locator("#all")).to_contain_text("57 items in a week.")
    expect(at.locator("#all")).to_contain_text("bid.adjust")
    expect(at.get_by_role("link", name="take the quiz")).to_have_attribute("href", "/quiz")
    looks_right(at)
    assert 4_000 < weight.bytes <= PAGE_BYTES_MAX


# --- the quiz ---------------------------------------------------------------------------------------------------------


def test_a_quiz_is_taken_by_keyboard_and_tells_what_was_missed(at: Page, console: Served):
    at.goto(f"{console.url}/quiz")
    at.get_by_role("button", name="Begin the quiz of bid.adjust").press("Enter")
    expect(at.locator("#where")).to_have_text(f"Question 1 of {quiz.ITEMS}")
    looks_right(at)
    for number in range(1, quiz.ITEMS + 1):
        expect(at.locator("#where")).to_have_text(f"Question {number} of {quiz.ITEMS}")
        after = float(at.locator(".leg-step ins .figure").inner_text().replace("\u2009", "").split()[0])
        right = "a" if 1.30 <= after < 1.70 else "x"
        at.keyboard.press("a" if number == 1 else right)

    expect(at.get_by_role("heading", name="Passed")).to_be_focused()
    expect(at.locator("#all")).to_contain_text(re.compile(f"(40|39) of {quiz.ITEMS} right"))
    looks_right(at)


def test_a_quiz_that_cannot_be_made_says_how_many_it_lacks(at: Page, console: Served):
    at.goto(f"{console.url}/quiz")

    expect(at.get_by_role("heading", name="budget.reallocate")).to_be_visible()
    expect(at.locator("#all")).to_contain_text("There are too few old actions to make a quiz of: 0, and it takes 40.")


# --- whoever owns a queue ---------------------------------------------------------------------------------------------


def test_an_owner_sees_reviewers_by_pseudonym_and_what_to_do(at: Page, console: Served, context: BrowserContext):
    def bad(found: Front) -> None:
        ana = know(found, level=Level.ESCALATED, signs=(Sign.MISSES_WARN, Sign.HURRIED_PAGE, Sign.MISSES_PAGE),
                   caught=9, missed=11, approved=99, objected=1, hurried=30, misses=8.2, rarer=3.0)  # fmt: skip
        know(found, "ben", misses=0.4)
        alarm(found, ana, page="rubber_stamp")

    do(console, bad)
    console.sign_in(context, "uma")
    at.goto(f"{console.url}/watch")
    trading = at.get_by_role("region", name="trading")

    expect(trading).to_contain_text("Level 3")
    expect(trading).to_contain_text("misses far more planted errors than before")
    expect(trading).to_contain_text("Rubber stamp")
    expect(trading.get_by_role("link", name="REVIEW_ALL")).to_have_attribute(
        "href", "/kill?scope=tenant%3Aacme&mode=REVIEW_ALL"
    )
    expect(at.locator("#all")).to_contain_text("Nobody has judged anything since yesterday")
    assert not re.search(r"\b(ana|ben)\b", at.locator("main").inner_text())
    looks_right(at)


def test_who_owns_no_queue_is_told_so(at: Page, console: Served, seen: Seen):
    seen.allow(r"answer: 403 GET .*/watch")
    at.goto(f"{console.url}/watch")

    expect(at.locator("#wrong")).to_contain_text("ana owns no queue")


# --- gates ------------------------------------------------------------------------------------------------------------


def test_gates_tell_their_evidence_and_the_line_to_run(at: Page, console: Served):
    def known(found: Front) -> None:
        policy = found.office.policy().policy
        for name in policy.gates:
            evidence(found, name, gate_digest(policy, name), canaries=60, items=900)
            evidence(found, name, gate_digest(policy, name), "copy-3@1", items=40, wrong=2, days=3)

    do(console, known)
    at.goto(f"{console.url}/gates")
    first = at.locator("#all section").first

    expect(first).to_contain_text("copy-2@1")
    expect(first.locator("code.command")).to_contain_text("hitl gates remove")
    expect(first).to_contain_text("40 judged outputs, expected at least 500")
    expect(first).not_to_contain_text("p-")
    looks_right(at)


# --- while reviewing --------------------------------------------------------------------------------------------------


def test_a_break_is_suggested_then_taken_and_one_can_go_on(at: Page, console: Served):
    def tired(found: Front) -> None:
        found.office.pace.__init__()
        for n in range(BREAK_AFTER_ITEMS + 5):
            found.office.pace.judged("ana", NOW_MS - 1_000_000, NOW_MS - 900_000 + n * 20_000)

    do(console, tired)
    console.fold(review("r1", 900, people=1, action_id="act-r1"))
    at.goto(f"{console.url}/review/trading")

    expect(at.get_by_role("heading", name="Time for a break")).to_be_focused()
    expect(at.locator("#place")).to_contain_text(f"You have decided {BREAK_AFTER_ITEMS + 5} items since")
    expect(at.locator(".card")).to_have_count(0)
    looks_right(at)
    at.keyboard.press("g")
    expect(at.locator(".card-title")).to_be_visible()
    do(console, lambda found: found.office.pace.__init__())


@pytest.mark.behaviour("A10")
@pytest.mark.parametrize(("key", "verdict"), [("a", "approve"), ("x", "reject")])
def test_what_was_planted_is_told_after_the_decision(at: Page, console: Served, key: str, verdict: str):
    item, offset = f"c-{verdict}", {"approve": 1_000, "reject": 1_010}[verdict]
    action = {"action_id": f"~{item}", "changes": [change("1.20", "130")]}
    console.fold(review(item, offset, people=1, purpose=Purpose.CANARY, for_="ana", decide_by_ms=NOW_MS + 1, **action))
    at.clock.install(time=NOW_MS / 1000)
    with at.expect_response("**/painted"):
        at.goto(f"{console.url}/review/trading")
        expect(at.locator(f'.card[data-item="{item}"]')).to_be_visible()
    at.keyboard.press(key)
    if verdict == "reject":
        at.keyboard.press("4")
    with at.expect_response(re.compile("/verdict$")) as sent:
        at.clock.fast_forward(3_100)
    said = json.loads(sent.value.text())["id"]

    def read(found: Front) -> object:
        jws = found.log.verdicts()[-1].jws
        ended = State.APPROVED if verdict == "approve" else State.REJECTED
        return found.fold(
            judged(item, offset, verdict=verdict, purpose="canary", action=action, jws=jws),
            review(item, offset + 1, people=1, purpose=Purpose.CANARY, for_="ana", state=ended, **action),
        )

    console.do(read)
    assert said
    at.clock.fast_forward(20_000)
    lately = at.locator("#lately li").first
    if verdict == "approve":
        expect(lately).to_contain_text("Planted, and missed")
        expect(lately).to_contain_text("The bid was 130 EUR; 1.20 EUR stood before.")
        expect(at.locator("#said")).to_contain_text("it was planted")
    else:
        expect(lately).to_contain_text("Planted, and seen by you")
        expect(at.locator("#said")).to_contain_text("Well seen")


def test_a_qualification_that_ends_soon_is_announced_where_one_reviews(at: Page, console: Served):
    console.do(lambda found: found.people.qualify("ana", "bid.adjust", NOW_MS + 3 * DAY_MS))
    at.goto(f"{console.url}/review/trading")

    expect(at.locator("#lapses")).to_contain_text("Your qualification for bid.adjust ends in 3 days")
    expect(at.locator("#lapses a")).to_have_attribute("href", "/quiz")
