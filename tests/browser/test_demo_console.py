"""The console beside `hitl demo`, in a real browser: somebody who has just started it comes in, and works."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Literal

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from hitl_stream.console.pages import PAGES
from support.browser import Seen, faults_of, tab_to
from support.demo import Demo, enter, running_demo, session
from support.kafka import require

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
OPEN = tuple(page.path for page in PAGES if "{" not in page.path)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
SETTLE_MS = 500
"""For what a page asks after it has opened; nothing hangs on it but how much of it axe sees."""
EFFECT_SECONDS, EFFECT_TRIES = 0.25, 120
"""A verdict is answered in well under a second; only a failure takes half a minute."""
NOT_SIGNED_IN = "answer: 401 GET .*/api/v1/me"
ITEMS = 30
GOOD = {"applied", "waiting"}
TURN = ("a", "x", "a", "e", "a")
"""What is said of one item after the other; of what takes more than a key to approve, no."""
Shoot = Callable[[Page, str], None]


@pytest.fixture(scope="module")
def demo(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo in which nobody decides but the browser's person; `browser` first: without one it need not start."""
    require("noida")
    arguments = ("--rate", "80", "--reviewers", "none", "--seed", "4")
    with running_demo(tmp_path_factory.mktemp("demo"), *arguments) as running:
        yield running


@pytest.fixture(scope="module")
def secret(demo: Demo) -> str:
    """The secret of a session that began with the demo's password."""
    return session(demo)


@pytest.fixture
def you(page: Page, demo: Demo, secret: str) -> Page:
    """A window of whoever watches the demo, signed in."""
    enter(page, demo, secret)
    return page


def test_whoever_starts_it_comes_in_by_the_link_once(page: Page, demo: Demo, seen: Seen):
    page.goto(demo.link)
    expect(page.locator("#whose")).to_contain_text(demo.name)
    assert demo.link.partition("#")[2] not in page.url
    seen.check()

    page.context.clear_cookies()
    seen.allow("answer: 401 POST .*/session")
    page.goto("about:blank")
    page.goto(demo.link)
    expect(page.get_by_role("alert")).to_contain_text("this link was used already")


def test_who_is_not_signed_in_is_asked_and_comes_back(page: Page, demo: Demo, seen: Seen):
    seen.allow(NOT_SIGNED_IN)
    page.goto(f"{demo.url}kill?scope=agent:bidder-1")
    expect(page.get_by_label("Password")).to_be_visible()
    page.get_by_label("Name").fill(demo.name)
    page.get_by_label("Password").fill(demo.password)
    page.get_by_role("button", name="Sign in").press("Enter")

    expect(page.locator("#whose")).to_contain_text(demo.name)
    assert page.url == f"{demo.url}kill?scope=agent:bidder-1"


# --- items ------------------------------------------------------------------------------------------------------------


def test_thirty_items_are_decided_by_the_keyboard_alone(you: Page, demo: Demo, shoot: Shoot):
    you.goto(f"{demo.url}review")
    to_queue(you, "trading")
    expect(card_of(you)).to_be_visible()
    shoot(you, "review-card")
    assert faults_of(you) == []

    decided = [changed(you, shoot), taken_back(you)]
    skipped = item_of(you)
    press(you, "Space")
    while len(decided) < ITEMS:
        decided.append(said(you, TURN[len(decided) % len(TURN)], shoot))
    expect(you.locator("#outbox")).to_contain_text("Everything you decided has been sent")

    assert len(set(decided)) == ITEMS
    assert skipped not in decided
    effects = {item: effect_of(you.context, demo, item) for item in decided}
    assert set(effects.values()) <= GOOD, effects
    expect(you.locator("#hour")).to_contain_text(f"{ITEMS} decided this hour")


def to_queue(page: Page, queue: str) -> None:
    """Go to a queue from the list of them, by keys."""
    link = page.locator(f"[data-queue={queue}]")
    expect(link).to_be_visible()
    while not link.evaluate("link => link === document.activeElement"):
        page.keyboard.press("j")
    page.keyboard.press("Enter")


def card_of(page: Page) -> Locator:
    return page.locator("article.card")


def item_of(page: Page) -> str:
    return str(card_of(page).get_attribute("data-item"))


def press(page: Page, *keys: str) -> None:
    """Press keys, of which the last one brings another card."""
    item = item_of(page)
    for key in keys:
        page.keyboard.press(key)
    expect(page.locator(f"article.card:not([data-item='{item}'])")).to_be_visible()


def said(page: Page, word: str, shoot: Shoot) -> str:
    """Decide the item that is shown, and return which one that was."""
    item = item_of(page)
    if word == "a" and page.get_by_role("button", name="Approve").get_attribute("aria-keyshortcuts") != "a":
        word = "x"
    match word:
        case "a":
            press(page, "a")
        case "e":
            press(page, "e", "0")
        case "x":
            page.keyboard.press("x")
            expect(page.locator(".reasons-title")).to_be_focused()
            shoot(page, "review-reasons")
            press(page, "4")
    return item


def changed(page: Page, shoot: Shoot) -> str:
    """Set another value in the place of the agent's, with a reason and a note, and never touch the mouse."""
    while True:
        page.keyboard.press("c")
        form = page.get_by_role("form", name="Change this action")
        expect(form).to_be_visible()
        field = form.locator("input[inputmode=decimal]").first
        if field.count():
            break
        page.keyboard.press("Escape")  # a text, or nothing: the next one
        press(page, "Space")
    expect(field).to_be_focused()
    item, standing = item_of(page), float(field.input_value())
    page.keyboard.press("Control+a")
    page.keyboard.type(f"{standing * 0.97 - 0.01:.2f}")
    tab_to(page, page.get_by_label("Why"))
    page.keyboard.press("t")  # too large
    tab_to(page, page.get_by_label("Note"))
    page.keyboard.type("a little less")
    send = page.get_by_role("button", name="Send the change")
    expect(send).to_be_enabled()
    shoot(page, "review-change")
    assert faults_of(page) == []
    tab_to(page, send)
    press(page, "Enter")
    return item


def taken_back(page: Page) -> str:
    """Reject an item, take it back while it rests, look at it again, and reject it once more."""
    item = said(page, "x", lambda *_: None)
    page.keyboard.press("u")
    expect(page.locator(f"article.card[data-item='{item}']")).to_be_visible()
    return said(page, "x", lambda *_: None)


def effect_of(context: BrowserContext, demo: Demo, item: str) -> str:
    """Return what the desk has made of the one verdict of ours on an item."""
    for _ in range(EFFECT_TRIES):
        answer = context.request.get(f"{demo.url}api/v1/items/{item}", headers={"X-Hitl-Console": "1"})
        yours = answer.json()["yours"] if answer.ok else []
        if yours:
            assert len(yours) == 1, yours
            return str(yours[0]["effect"])
        time.sleep(EFFECT_SECONDS)
    raise AssertionError(f"the desk said nothing of {item} for {EFFECT_TRIES * EFFECT_SECONDS:g} s")


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_pairs_are_compared_by_the_keyboard_and_one_choice_is_taken_back(you: Page, demo: Demo, shoot: Shoot):
    you.goto(f"{demo.url}pairs")
    left = you.get_by_role("region", name="Left")
    expect(left).to_be_visible()
    shoot(you, "pairs")
    assert faults_of(you) == []
    first = both_sides(you)

    choose(you, "1")
    you.keyboard.press("u")
    expect(left).to_have_text(first[0])
    choose(you, "0")
    choose(you, "n")

    expect(you.locator("#done")).to_have_text("2 compared in this tab")


def both_sides(page: Page) -> tuple[str, str]:
    left, right = (page.get_by_role("region", name=name).text_content() or "" for name in ("Left", "Right"))
    return left, right


def choose(page: Page, key: str) -> None:
    """Say which is better by a key, and wait for another pair."""
    before = both_sides(page)
    page.keyboard.press(key)
    wait_until(lambda: both_sides(page) != before, "another pair")


def wait_until(done: Callable[[], bool], what: str) -> None:
    """Ask until it is so; only a failure takes long."""
    for _ in range(EFFECT_TRIES):
        if done():
            return
        time.sleep(EFFECT_SECONDS)
    raise AssertionError(f"no {what} within {EFFECT_TRIES * EFFECT_SECONDS:g} s")


# --- switches ---------------------------------------------------------------------------------------------------------


def test_a_switch_is_engaged_by_holding_a_key_and_every_page_shows_it(
    you: Page, context: BrowserContext, demo: Demo, seen: Seen, shoot: Shoot
):
    other = context.new_page()
    seen.watch(other)
    other.goto(f"{demo.url}review")
    expect(other.locator("#whose")).to_contain_text(demo.name)
    you.goto(f"{demo.url}kill?scope=agent:bidder-9&mode=HALT")
    hold = you.get_by_role("button", name="Hold to stop")
    expect(hold).to_be_visible()
    expect(you.locator("#prefilled")).to_be_visible()
    expect(other.locator("#banner")).to_be_empty()

    tab_to(you, hold)
    you.keyboard.down("Space")
    with you.expect_response(lambda one: one.request.method == "POST" and one.url.endswith("/switches")) as answer:
        pass
    you.keyboard.up("Space")

    assert answer.value.status == 202
    expect(other.locator("#banner")).to_contain_text("agent:bidder-9")
    expect(you.locator("#banner")).to_contain_text("agent:bidder-9")
    expect(you.locator("#done")).to_contain_text("Effective after")
    shoot(you, "kill-engaged")
    assert faults_of(you) == []


# --- every page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", OPEN)
def test_each_page_opens_and_axe_finds_nothing_grave(you: Page, demo: Demo, seen: Seen, shoot: Shoot, path: str):
    if path == "/link":
        seen.allow("answer: 4.. POST .*/session")  # there is no secret in the address
    you.goto(f"{demo.url.rstrip('/')}{path}")
    expect(you.locator("#main h1, #main h2").first).to_be_visible()
    you.wait_for_timeout(SETTLE_MS)
    shoot(you, path.strip("/") or "home")

    for scheme in SCHEMES:
        you.emulate_media(color_scheme=scheme)
        assert faults_of(you) == [], scheme
