"""The first page in a browser: is it running, is anything stopped, is anyone waiting; and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hitl_stream.console.live import Live
from support.browser import Seen, faults_of
from support.console import Front
from support.make import NOW_MS
from support.served import Served, served
from support.standing import PAGE_BYTES_MAX, Weight, do, engaged, fits_small_screen, quiet
from support.view import review

pytestmark = pytest.mark.browser
SLA_MS = 15 * 60_000
"""Of the queue trading in `acme.yaml`."""


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console with one item that a trader is asked about."""
    with served(tmp_path_factory.mktemp("home"), names=("ana", "vic", "carl", "mia")) as found:
        found.do(lambda front: front.fold(review(), as_of_ms=NOW_MS))
        yield found


@pytest.fixture
def ana(console: Served, context: BrowserContext, page: Page) -> Page:
    """A trader's window, ten minutes after the item came; everything runs, and nothing is stopped."""
    do(console, quiet)
    console.front.office.live = Live()
    console.sign_in(context, "ana")
    page.clock.set_fixed_time((NOW_MS + 10 * 60_000) / 1000)
    return page


def opened(page: Page, console: Served) -> Page:
    """Return the page once it knows how things stand."""
    page.goto(f"{console.url}/")
    expect(page.locator("#running dl")).to_be_visible()
    return page


@pytest.mark.behaviour("A7")
def test_where_all_is_well_it_says_so_in_words(ana: Page, console: Served):
    weight = Weight(ana)
    opened(ana, console)

    expect(ana.locator("#verdict")).to_have_text("Everything runs.")
    expect(ana.locator("#running")).to_contain_text("Every role is heard, and the console is up to date.")
    expect(ana.locator("#stopped")).to_contain_text("No. Agents act within the policy.")
    expect(ana.locator("#queues")).to_contain_text("1 item waits in 1 queue, and 0.1 EUR with it.")
    expect(ana.locator("#queues")).to_contain_text("The most pressing is trading: 10 min of 15 min.")
    expect(ana.locator("#queues a")).to_have_attribute("href", "/review/trading")
    expect(ana.locator("#rates")).to_contain_text("no metrics are read here")
    for scheme in ("light", "dark"):
        ana.emulate_media(color_scheme=scheme)
        assert faults_of(ana) == []
    assert fits_small_screen(ana)
    assert 5_000 < weight.bytes <= PAGE_BYTES_MAX


@pytest.mark.behaviour("A7")
def test_who_waits_longer_than_the_rule_is_called_overdue(ana: Page, console: Served):
    ana.clock.set_fixed_time((NOW_MS + SLA_MS + 8 * 60_000) / 1000)
    opened(ana, console)

    expect(ana.locator("#verdict")).to_have_text("It runs, and 1 queue is overdue.")
    expect(ana.locator("#queues")).to_contain_text(
        "Overdue: the oldest of trading has waited 23 min; 15 min are the rule."
    )


def test_what_is_wrong_is_named_with_what_to_do(ana: Page, console: Served):
    def gone(found: Front) -> None:
        del found.watch.instances.latest["host-1/executor/0"]
        found.watch.away = "control was not read lately"

    do(console, gone)
    opened(ana, console)
    running = ana.locator("#running")
    expect(ana.locator("#verdict")).to_have_text("2 things are wrong.")
    expect(running).to_contain_text("Nothing can be decided here: control was not read lately.")
    expect(running).to_contain_text("Executors: none is heard. What was approved is not carried out.")
    expect(running).to_contain_text("hitl run executor")
    assert faults_of(ana) == []

    def back(found: Front) -> None:
        found.watch.away = ""

    do(console, quiet, back)
    expect(ana.locator("#verdict")).to_have_text("Everything runs.")


def test_what_is_stopped_is_told_while_one_looks(ana: Page, console: Served):
    opened(ana, console)
    do(console, engaged(41, "campaign:<b>x</b>", "tenant:acme"))

    expect(ana.locator("#verdict")).to_have_text("It runs, and 1 switch holds something back.")
    expect(ana.locator("#stopped")).to_contain_text("Yes: 1 switch is engaged. 1 not proved yet.")
    expect(ana.locator("#stopped")).to_contain_text("campaign:<b>x</b> tenant:acme")


def test_rates_are_told_by_what_becomes_of_actions(ana: Page, console: Served):
    live = Live(["http://router-1:9464/metrics"])
    for number in range(2):
        texts = (
            f'hitl_actions_total{{outcome="{route}"}} {number * n}\n' for route, n in (("EXECUTE", 20), ("REVIEW", 5))
        )
        live.take(NOW_MS + number * 2_000, ["".join(texts) + 'hitl_lag_seconds{role="router"} 90\n'])
    console.front.office.live = live
    opened(ana, console)

    expect(ana.locator("#rates")).to_contain_text("13 actions per second")
    expect(ana.locator("#rates")).to_contain_text("2.5")
    expect(ana.locator("#rates")).to_contain_text("Behind by 1 min.")


@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("vic", ["/live", "/gates", "/audit"]),
        ("mia", ["/review", "/batches", "/exceptions", "/live", "/me", "/gates", "/audit"]),
    ],
)
def test_it_leads_to_what_one_may_do(ana: Page, console: Served, context: BrowserContext, name: str, links: list[str]):
    console.sign_in(context, name)
    opened(ana, console)

    assert [one.get_attribute("href") for one in ana.locator("#links a").all()] == links


def test_who_decides_for_a_client_is_not_shown_how_it_runs(
    ana: Page, console: Served, context: BrowserContext, seen: Seen
):
    console.sign_in(context, "carl")
    seen.allow("403 .*/(instances|live)")
    ana.goto(f"{console.url}/")

    expect(ana.locator("#verdict")).to_have_text("Everything runs.")
    expect(ana.locator("#running-panel")).to_be_hidden()
    expect(ana.locator("#rates-panel")).to_be_hidden()
    assert ana.locator("#links a[href='/live']").count() == 0


def test_when_the_console_goes_away_it_says_so(ana: Page, console: Served, seen: Seen):
    opened(ana, console)
    seen.allow("failed: .*/api/")
    ana.route("**/api/v1/instances", lambda route: route.abort())

    expect(ana.locator("#away")).to_contain_text("The console does not answer.")
    ana.unroute("**/api/v1/instances")
    expect(ana.locator("#away")).to_be_empty()
