"""Pairs in a browser: two outputs beside each other, compared by key, and undone while a choice rests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from hitl_stream.core.verdicts import PairChoice
from hitl_stream.wire.records import encode
from hitl_stream.wire.verdicts import Given, read_verdict
from support.browser import Seen, faults_of
from support.console import Front, pair
from support.make import NOW_MS
from support.people import CLUSTER
from support.served import Served, served

pytestmark = pytest.mark.browser
REST_MS = 3_000
HOSTILE = "<img src=x onerror=alert(1)>\u202etxt\u200b https://elsewhere.example/x"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A console without a pair."""
    with served(tmp_path_factory.mktemp("pairs"), names=("lea", "ana")) as found:
        yield found


@pytest.fixture
def console(standing: Served) -> Served:
    """A console of which nobody has compared anything."""

    async def clear(front: Front) -> None:
        front.office.pairs.waiting.clear()
        front.office.recent.clear()
        front.log.written.clear()
        front.log.error = None

    standing.do(clear)
    return standing


@pytest.fixture
def lea(console: Served, context: BrowserContext, page: Page) -> Page:
    """A labeller's window."""
    console.sign_in(context, "lea")
    return page


def wait(console: Served, *names: str, **parts: Any) -> None:
    """Let pairs wait to be compared."""

    async def put(front: Front) -> None:
        for name in names:
            front.office.pairs.take("pairs", pair(name, **{"prompt": f"Prompt of {name}", **parts}))

    console.do(put)


def choices(console: Served) -> list[tuple[str, str]]:
    """Return what was signed: pair and choice."""
    given = [
        read_verdict(encode(one), NOW_MS, console.front.watch.control.keys, CLUSTER)
        for one in console.front.log.verdicts()
    ]
    said = [one.claims for one in given if isinstance(one, Given) and isinstance(one.claims, PairChoice)]
    assert len(said) == len(given)
    return [(one.pair, one.choice) for one in said]


def stand(page: Page, name: str) -> None:
    expect(page.locator(".prompt")).to_contain_text(f"Prompt of {name}")


@pytest.mark.behaviour("E6")
def test_a_labeller_compares_pairs_by_key_and_each_choice_is_sent_after_its_rest(lea: Page, console: Served):
    keys = {"p-1": "1", "p-2": "2", "p-3": "0", "p-4": "t", "p-5": "n"}
    wait(console, *keys)
    lea.goto(f"{console.url}/pairs")
    for name, key in keys.items():
        stand(lea, name)
        lea.keyboard.press(key)
    expect(lea.locator("#all")).to_contain_text("No pair waits")
    expect(lea.locator("#done")).to_have_text("5 compared in this tab")

    made = {"p-1": "left", "p-2": "right", "p-3": "tie", "p-4": "tie", "p-5": "both_bad"}
    assert choices(console) == list(made.items())


@pytest.mark.behaviour("E6")
def test_what_was_chosen_by_mistake_is_undone_while_it_rests(lea: Page, console: Served):
    wait(console, "p-1", "p-2")
    lea.clock.install()
    lea.goto(f"{console.url}/pairs")
    stand(lea, "p-1")
    lea.clock.pause_at(lea.evaluate("Date.now()") + 1_000)
    lea.keyboard.press("1")
    stand(lea, "p-2")
    lea.keyboard.press("u")
    stand(lea, "p-1")
    lea.keyboard.press("2")
    stand(lea, "p-2")
    lea.clock.run_for(REST_MS + 1_000)
    expect(lea.locator("#done")).to_have_text("1 compared in this tab")

    assert choices(console) == [("p-1", "right")]


def test_a_pair_that_was_put_aside_comes_again_when_asked_for(lea: Page, console: Served):
    wait(console, "p-1")
    lea.goto(f"{console.url}/pairs")
    stand(lea, "p-1")
    lea.keyboard.press("Space")
    expect(lea.locator("#all")).to_contain_text("You put 1 aside.")
    lea.get_by_role("button", name="Show those again").click()
    stand(lea, "p-1")

    assert choices(console) == []


def test_outputs_are_text_and_which_is_which_is_not_said(lea: Page, console: Served, tmp_path: Path):
    wait(console, "p-1", a=HOSTILE, b="B" * 10_000, prompt="Prompt of p-1 " + HOSTILE)
    lea.set_viewport_size({"width": 360, "height": 700})
    lea.emulate_media(color_scheme="dark")
    lea.goto(f"{console.url}/pairs")
    stand(lea, "p-1")

    sides = "".join(lea.locator(".side .words").all_inner_texts())
    assert "<img src=x onerror=alert(1)>RLOtxtZWSP" in sides
    assert "B" * 10_000 in sides
    assert lea.locator("main img, main a").count() == 0
    assert lea.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert faults_of(lea) == []


def test_keys_do_nothing_with_a_modifier_and_a_legend_lists_them(lea: Page, console: Served):
    wait(console, "p-1")
    lea.goto(f"{console.url}/pairs")
    stand(lea, "p-1")
    lea.keyboard.press("Control+1")
    lea.keyboard.press("Alt+n")
    stand(lea, "p-1")
    lea.keyboard.press("?")

    expect(lea.get_by_role("dialog", name="Keys")).to_contain_text("Both are bad")
    assert faults_of(lea) == []


def test_a_choice_that_cannot_be_sent_is_kept_and_sent_later(lea: Page, console: Served, seen: Seen):
    wait(console, "p-1")
    seen.allow("ERR_FAILED|/events")
    lea.goto(f"{console.url}/pairs")
    stand(lea, "p-1")
    lea.route("**/api/v1/pairs/p-1/verdict", lambda route: route.abort())
    lea.keyboard.press("1")
    expect(lea.locator("#rest")).to_contain_text("1 to be sent; it is tried again by itself.")
    assert choices(console) == []
    lea.unroute("**/api/v1/pairs/p-1/verdict")
    lea.get_by_role("button", name="Try now").click()
    expect(lea.locator("#done")).to_have_text("1 compared in this tab")

    assert choices(console) == [("p-1", "left")]


def test_who_is_no_labeller_is_told_how_to_become_one(console: Served, context: BrowserContext, page: Page):
    console.sign_in(context, "ana")
    page.goto(f"{console.url}/pairs")

    expect(page.locator("#all")).to_contain_text("Pairs are for labellers")
