"""The live page in a browser: charts that are read by looking, by mouse, by keys and as a table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hitl_stream.console.live import Live
from hitl_stream.core.events import Mode
from support.browser import Seen, faults_of
from support.make import NOW_MS
from support.served import Served, served
from support.standing import PAGE_BYTES_MAX, Weight, do, engaged, fits_small_screen, quiet
from support.view import review

pytestmark = pytest.mark.browser
LOOKS = 60
STEP_MS = 2_000


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console with one item that waits."""
    with served(tmp_path_factory.mktemp("live"), names=("vic", "carl")) as found:
        found.do(lambda front: front.fold(review(), as_of_ms=NOW_MS))
        yield found


@pytest.fixture
def vic(console: Served, context: BrowserContext, page: Page) -> Page:
    """A viewer's window; two minutes of metrics are there, of one process of two."""
    do(console, quiet)
    live = Live(["http://router-1:9464/metrics", "http://desk-1:9464/metrics"])
    for number in range(LOOKS):
        take(live, NOW_MS - (LOOKS - number) * STEP_MS, number)
    console.front.office.live = live
    console.front.now_ms = NOW_MS
    console.sign_in(context, "vic")
    return page


def take(live: Live, at_ms: int, number: int) -> None:
    """Let two processes be looked at: eight actions run, two are reviewed a look; the second process is away."""
    text = (
        f'hitl_actions_total{{outcome="EXECUTE"}} {8 * number}\nhitl_actions_total{{outcome="REVIEW"}} {2 * number}\n'
        f'hitl_verdicts_total{{queue="trading",verdict="approve",effect="applied"}} {3 * number}\n'
        f'hitl_verdicts_total{{queue="trading",verdict="reject",effect="applied"}} {number}\n'
        f'hitl_queue_oldest_seconds{{queue="trading"}} {number}\nhitl_lag_seconds{{role="router",partition="0"}} 0.25\n'
    )
    live.take(at_ms, [text, ConnectionRefusedError("nobody listens <b>there</b>")])


def test_the_essential_charts_are_drawn_and_say_what_is_now(vic: Page, console: Served):
    weight = Weight(vic)
    vic.goto(f"{console.url}/live")
    expect(vic.locator(".legend").first).to_contain_text("EXECUTE 4")

    legends = [one.inner_text().replace("\n", " ") for one in vic.locator(".legend").all()]
    assert legends == ["EXECUTE 4 REVIEW 1", "trading 59 s", "approved 75 %", "router 0.25 s"]
    assert vic.locator("path.line").count() == 5
    expect(vic.locator("#charts")).to_contain_text("Nothing was stopped in the last fifteen minutes.")
    expect(vic.locator("#charts")).to_contain_text("0.1 EUR")
    for scheme in ("light", "dark"):
        vic.emulate_media(color_scheme=scheme)
        assert faults_of(vic) == []
    assert fits_small_screen(vic)
    assert 5_000 < weight.bytes <= PAGE_BYTES_MAX


def test_a_chart_is_read_with_the_arrow_keys_with_the_mouse_and_as_a_table(vic: Page, console: Served):
    vic.goto(f"{console.url}/live")
    waits = vic.get_by_role("slider", name="Longest wait for people")
    expect(waits).to_have_attribute("aria-valuenow", str(LOOKS - 1))
    waits.focus()
    waits.press("Home")
    waits.press("ArrowRight")
    expect(waits).to_have_attribute("aria-valuenow", "1")
    assert "trading 1 s" in (waits.get_attribute("aria-valuetext") or "")

    routes = vic.get_by_role("slider", name="Decisions by route")
    box = routes.bounding_box()
    assert box is not None
    vic.mouse.move(box["x"] + box["width"] - 13, box["y"] + 60)
    expect(vic.locator(".chart .cursor")).to_have_count(2)
    vic.locator(".chart details summary").nth(2).click()
    expect(vic.locator(".chart details[open] tbody td").first).to_have_text("75 %")
    assert faults_of(vic) == []


def test_it_goes_on_with_what_is_new(vic: Page, console: Served):
    vic.goto(f"{console.url}/live")
    lag = vic.get_by_role("slider", name="Lag")
    expect(lag).to_have_attribute("aria-valuenow", str(LOOKS - 1))

    def later(found: object) -> None:
        console.front.now_ms = NOW_MS + STEP_MS
        take(console.front.office.live, NOW_MS, LOOKS)

    do(console, later)
    expect(lag).to_have_attribute("aria-valuenow", str(LOOKS))
    expect(vic.locator(".legend").first).to_contain_text("EXECUTE 4")


def test_a_process_that_cannot_be_read_is_named(vic: Page, console: Served):
    vic.goto(f"{console.url}/live")

    expect(vic.locator("#away")).to_contain_text("1 of 2 processes cannot be read")
    expect(vic.locator("#away")).to_contain_text("desk-1:9464: nobody listens <b>there</b>")


def test_switches_stand_on_a_timeline(vic: Page, console: Served):
    do(console, engaged(41, "campaign:<i>x</i>", "tenant:acme", mode=Mode.REDUCE_ONLY))
    vic.goto(f"{console.url}/live")

    expect(vic.locator(".spans")).to_contain_text("REDUCE_ONLY campaign:<i>x</i> tenant:acme from")
    expect(vic.locator("rect.span.reduce")).to_have_count(1)


def test_without_metrics_it_says_how_to_set_them_and_shows_what_it_knows(vic: Page, console: Served):
    console.front.office.live = Live()
    vic.goto(f"{console.url}/live")

    expect(vic.locator("#setting")).to_contain_text("HITL_CONSOLE_SCRAPE=http://router-1:9464/metrics")
    expect(vic.locator("#charts")).to_contain_text("trading")
    assert vic.locator(".legend").count() == 0
    assert faults_of(vic) == []


def test_who_decides_for_a_client_is_told_that_it_is_not_for_them(
    vic: Page, console: Served, context: BrowserContext, seen: Seen
):
    console.sign_in(context, "carl")
    seen.allow("403 .*/live")
    vic.goto(f"{console.url}/live")

    expect(vic.get_by_role("alert")).to_contain_text("is not shown how everything runs")


def test_when_the_console_goes_away_the_charts_stay_and_it_says_so(vic: Page, console: Served, seen: Seen):
    vic.goto(f"{console.url}/live")
    expect(vic.locator(".legend").first).to_contain_text("EXECUTE 4")
    seen.allow("failed: .*/api/")
    vic.route("**/api/v1/live*", lambda route: route.abort())

    expect(vic.locator("#away")).to_contain_text("The console does not answer.")
    assert vic.locator("path.line").count() == 5
    vic.unroute("**/api/v1/live*")
    expect(vic.locator("#away")).to_contain_text("1 of 2 processes")


def test_whether_people_still_look_is_said_by_queue_and_the_alarm_names_nobody(vic: Page, console: Served):
    vic.goto(f"{console.url}/live")
    expect(vic.locator(".legend").first).to_contain_text("EXECUTE 4")
    expect(vic.get_by_role("heading", name="Are people still looking?")).to_have_count(0)

    text = "".join(
        f'{name}{{queue="trading"}} {value}\n'
        for name, value in (("hitl_queue_vigilance_level", 1), ("hitl_queue_reviewers", 2),
                            ("hitl_queue_hurried_ratio", 0.5), ("hitl_queue_canary_hit_ratio", 0.25))
    )  # fmt: skip
    alarm = 'hitl_pages_total{queue="trading",page="rubber_stamp"} 1\n'
    console.front.office.live.take(NOW_MS, [text + alarm, ConnectionRefusedError("nobody listens there")])

    expect(vic.get_by_role("heading", name="Are people still looking?")).to_be_visible()
    expect(vic.locator(".note.bad")).to_have_text("Alarm: trading (rubber stamp)")
    row = vic.locator("tr", has=vic.get_by_role("cell", name="rubber stamp"))
    assert row.inner_text().split() == ["trading", "1", "2", "25", "%", "50", "%", "–", "rubber", "stamp"]
    assert faults_of(vic) == []
