"""The kill page in a browser: one step to stop, held or typed; what is stopped, how far it is proved, how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hitl_stream.core.commands import Contained, Engage, Waiting
from hitl_stream.core.events import Mode
from support.browser import Seen, faults_of
from support.make import NOW_MS, change
from support.served import Served, served
from support.standing import PAGE_BYTES_MAX, Weight, asked, do, engaged, fits_small_screen, proved, quiet
from support.view import folded, review

pytestmark = pytest.mark.browser
LINK = "/kill?scope=campaign:cmp-204&scope=tenant:acme&mode=REVIEW_ALL"
HOSTILE = "<img src=x onerror=alert(1)> \u202egnp.exe \u0441lick http://evil.example/"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console that is up to date."""
    with served(tmp_path_factory.mktemp("kill"), names=("kim", "kurt", "vic", "carl")) as found:
        found.do(lambda front: front.fold(review(), as_of_ms=NOW_MS))
        yield found


@pytest.fixture
def kim(console: Served, context: BrowserContext, page: Page) -> Page:
    """A window of a kill operator; everything runs, and nothing is stopped."""
    do(console, quiet)
    console.sign_in(context, "kim")
    page.clock.install(time=NOW_MS / 1000)
    return page


def opened(page: Page, console: Served, path: str = "/kill") -> Page:
    """Return the page once it knows how things stand."""
    page.goto(f"{console.url}{path}")
    expect(page.locator("#instances table")).to_be_visible()
    return page


def commands(console: Served) -> list[tuple[tuple[str, ...], Mode, str | None]]:
    """Return what was engaged."""
    found = console.front.commands
    assert all(isinstance(one, Engage) for one in found)
    return [(one.scope, one.mode, one.reason) for one in found if isinstance(one, Engage)]


@pytest.mark.behaviour("E15")
def test_a_button_held_for_a_second_stops_and_one_held_for_less_does_not(kim: Page, console: Served):
    opened(kim, console).get_by_label("Name", exact=True).fill("cmp-7")
    kim.get_by_label("Why").fill("wrong page")
    hold = kim.get_by_role("button", name="Hold to stop")
    hold.scroll_into_view_if_needed()
    hold.hover()
    kim.clock.pause_at((NOW_MS + 3_600_000) / 1000)

    kim.mouse.down()
    expect(kim.get_by_role("button", name="Keep holding…")).to_be_visible()
    kim.clock.run_for(990)
    kim.mouse.up()
    kim.clock.run_for(2_000)
    assert commands(console) == []

    kim.mouse.down()
    kim.clock.run_for(1_010)
    expect(kim.locator("#done")).to_contain_text(
        "HALT is engaged for campaign:cmp-7. On record; waiting for the proof…"
    )
    kim.mouse.up()
    assert commands(console) == [(("campaign:cmp-7",), Mode.HALT, "kim at the console: wrong page")]
    expect(kim.locator("#done")).to_be_focused()


@pytest.mark.parametrize("key", ["Space", "Enter"])
def test_a_key_held_stops_and_one_let_go_does_not(kim: Page, console: Served, key: str):
    opened(kim, console, LINK)
    kim.get_by_role("button", name="Hold to stop").focus()
    kim.clock.pause_at((NOW_MS + 3_600_000) / 1000)

    kim.keyboard.press(key)
    kim.clock.run_for(1_500)
    kim.keyboard.down(key)
    kim.clock.run_for(500)
    kim.keyboard.press("Tab")  # whoever leaves it takes it back
    kim.clock.run_for(1_500)
    kim.keyboard.up(key)
    assert commands(console) == []

    kim.get_by_role("button", name="Hold to stop").focus()
    kim.keyboard.down(key)
    kim.clock.run_for(1_010)
    expect(kim.locator("#done")).to_contain_text("REVIEW_ALL is engaged")
    assert [found[:2] for found in commands(console)] == [(("campaign:cmp-204", "tenant:acme"), Mode.REVIEW_ALL)]


def test_who_cannot_hold_a_button_types_a_word(kim: Page, console: Served):
    opened(kim, console)
    kim.get_by_label("Kind").select_option("Everything")
    kim.get_by_label("REDUCE_ONLY").check()
    word = kim.get_by_label("Cannot hold a button? Type STOP")
    word.fill("STO")
    word.press("Enter")
    expect(kim.get_by_role("button", name="Stop", exact=True)).to_be_disabled()
    word.fill("stop")
    word.press("Enter")

    expect(kim.locator("#done")).to_contain_text("REDUCE_ONLY is engaged for everything")
    assert [found[:2] for found in commands(console)] == [(("global:*",), Mode.REDUCE_ONLY)]


def test_nothing_is_stopped_where_nothing_is_named(kim: Page, console: Served):
    opened(kim, console).get_by_label("Cannot hold a button?").fill("STOP")
    kim.get_by_role("button", name="Stop", exact=True).click()

    expect(kim.get_by_role("alert")).to_contain_text("Nothing is named yet")
    expect(kim.get_by_label("Name", exact=True)).to_be_focused()
    assert commands(console) == []


@pytest.mark.behaviour("E15")
def test_a_link_from_elsewhere_fills_the_form_and_does_nothing_more(kim: Page, console: Served):
    kim.goto(f"data:text/html,<a href='{quote(console.url + LINK)}'>stop it</a>")
    kim.get_by_text("stop it").click()  # a navigation that another site began: no cookie goes with it
    expect(kim.locator("#prefilled")).to_contain_text("Nothing is stopped yet")

    expect(kim.locator(".chips code")).to_have_text(["campaign:cmp-204", "tenant:acme"])
    expect(kim.get_by_label("REVIEW_ALL")).to_be_checked()
    expect(kim.locator("#switches")).to_contain_text("Nothing is stopped.")
    assert commands(console) == []


def test_scopes_are_put_together_and_names_are_completed(kim: Page, console: Served):
    console.front.office.seen.take(folded(review(changes=[change(campaign="cmp-77")])))
    opened(kim, console)
    name = kim.get_by_label("Name", exact=True)
    name.fill("77")
    expect(kim.locator("#names option[value='cmp-77']")).to_have_count(1)
    name.fill("cmp-77")
    name.press("Enter")
    kim.get_by_label("Kind").select_option("Agent")
    name.fill("bidder-7")
    expect(kim.locator(".summary")).to_have_text("HALT for campaign:cmp-77agent:bidder-7")
    kim.get_by_role("button", name="Take out campaign:cmp-77").click()

    expect(kim.locator(".summary")).to_have_text("HALT for agent:bidder-7")


def test_who_is_of_some_tenants_stops_these_only(kim: Page, console: Served, context: BrowserContext):
    console.sign_in(context, "kurt")
    opened(kim, console)

    expect(kim.locator(".summary")).to_have_text("HALT for tenant:acme")


@pytest.mark.behaviour("A7")
def test_a_switch_tells_how_far_it_is_proved_while_one_looks(kim: Page, console: Served):
    waits = (Waiting(instance="host-2/router/0", since_s=1.2),)
    do(console, engaged(41, reason="wrong page"), proved(40, waiting=waits))
    opened(kim, console)
    card = kim.locator(".switch")
    expect(card).to_contain_text("Not proved yet")
    expect(card).to_contain_text("Waiting for host-2/router/0")
    expect(card).to_contain_text("wrong page")

    do(console, proved(40, contained=(Contained(epoch=41, instance="host-3/executor/0", calls=3),)))
    expect(card).to_contain_text("Contained")
    expect(card).to_contain_text("hitl farewell host-3/executor/0 --reason")
    assert faults_of(kim) == []

    do(console, proved(41, took_ms=97))
    expect(card.locator(".state")).to_have_text("Effective after 97 ms")
    expect(card).not_to_contain_text("host-3/executor/0")


@pytest.mark.behaviour("E15")
def test_a_release_is_shown_as_the_lines_that_two_holders_run(kim: Page, console: Served, context: BrowserContext):
    do(console, engaged(41))
    opened(kim, console).locator(".release summary").click()
    steps = kim.locator(".steps")
    expect(steps).to_contain_text('hitl release request 41 --reason "WHY IT MAY GO ON"')
    expect(steps).to_contain_text("Nobody has asked so far.")

    do(console, asked(43, 41, by="ana", reason=HOSTILE))
    expect(steps).to_contain_text("ana has asked")
    expect(steps).to_contain_text("<img src=x onerror=alert(1)>")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    kim.get_by_role("button", name="Copy: hitl release confirm 43 --wait").click()
    expect(kim.locator("#said")).to_contain_text("Copied.")
    assert kim.evaluate("navigator.clipboard.readText()") == "hitl release confirm 43 --wait"


def test_silence_of_control_is_shouted(kim: Page, console: Served):
    opened(kim, console)
    assert not kim.locator(".shout").is_visible()

    def silent(found: object) -> None:
        console.front.watch.beats = {}
        console.front.watch.silent_ms = 4_000

    do(console, engaged(41), silent)
    expect(kim.get_by_role("alert")).to_contain_text("No heartbeat. No control role is heard")
    expect(kim.locator(".switch .state")).to_have_text("Nobody can tell")
    expect(kim.locator(".who")).to_contain_text("over")


@pytest.mark.behaviour("E15")
def test_who_may_not_stop_sees_what_is_stopped_and_no_way_to_do_it(
    console: Served, context: BrowserContext, page: Page
):
    do(console, quiet, engaged(41, f"campaign:{HOSTILE}", "tenant:acme", reason=HOSTILE))
    console.sign_in(context, "vic")
    opened(page, console, LINK)

    expect(page.locator("#form")).to_contain_text("takes the role kill-operator")
    assert page.get_by_role("button", name="Hold to stop").count() == 0
    assert page.get_by_label("Name", exact=True).count() == 0
    expect(page.locator(".switch .words")).to_contain_text("RLO")
    expect(page.locator(".switch h3")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("main img, main a[href*='evil']").count() == 0


def test_who_decides_for_a_client_sees_what_is_stopped_and_not_who_runs(
    console: Served, context: BrowserContext, page: Page, seen: Seen
):
    do(console, quiet, engaged(41, "tenant:acme"))
    console.sign_in(context, "carl")
    seen.allow("403 .*/instances")
    page.goto(f"{console.url}/kill")

    expect(page.locator(".switch")).to_contain_text("tenant:acme")
    expect(page.locator("#who")).to_be_hidden()


def test_when_the_console_is_away_it_says_so_and_what_to_run_instead(kim: Page, console: Served, seen: Seen):
    opened(kim, console, LINK)
    seen.allow("failed: .*/api/")
    kim.route("**/api/v1/switches", lambda route: route.abort())
    kim.get_by_label("Cannot hold a button?").fill("STOP")
    kim.get_by_role("button", name="Stop", exact=True).click()

    expect(kim.locator("#wrong")).to_contain_text("The console does not answer.")
    expect(kim.locator("#wrong")).to_contain_text(
        "hitl kill --scope campaign:cmp-204 --scope tenant:acme --mode REVIEW_ALL"
    )
    expect(kim.locator("#away")).to_contain_text("The console does not answer.")
    assert commands(console) == []
    kim.unroute("**/api/v1/switches")
    expect(kim.locator("#away")).to_be_empty()


@pytest.mark.behaviour("E15")
def test_a_switch_is_told_on_every_page(kim: Page, console: Served, context: BrowserContext):
    opened(kim, console)
    other = context.new_page()
    other.goto(f"{console.url}/live")
    expect(other.locator("#charts")).to_contain_text("Nothing was stopped")
    do(console, engaged(41, "account:acc-17"))

    for page in (kim, other):
        expect(page.locator("#banner")).to_contain_text("HALT account:acc-17 by kim")


def test_the_page_is_light_accessible_and_fits_a_small_screen(kim: Page, console: Served):
    weight = Weight(kim)
    do(console, engaged(41, f"campaign:{'x' * 200}", reason="y" * 700), proved(40))
    opened(kim, console, LINK)
    kim.locator(".release summary").click()

    for scheme in ("light", "dark"):
        kim.emulate_media(color_scheme=scheme)
        assert faults_of(kim) == []
    assert fits_small_screen(kim)
    assert 5_000 < weight.bytes <= PAGE_BYTES_MAX
