"""A batch beside `hitl demo`: robots judge its sample, and somebody at the console releases it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from support.browser import faults_of, tab_to
from support.demo import Demo, enter, running_demo, session
from support.kafka import require

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
READY_MS_MAX = 180_000
"""Robots judge the sample of a batch; robots take their time."""
Shoot = Callable[[Page, str], None]


@pytest.fixture
def captions(browser: Browser, tmp_path: Path) -> Iterator[Demo]:
    """A demo of weeks of captions, whose samples robots judge; half of what is ready they leave to a person."""
    require("noida")
    arguments = ("--rate", "10", "--scenario", "posts-week", "--seed", "4")
    with running_demo(tmp_path, *arguments) as running:
        yield running


def test_a_batch_whose_sample_is_good_is_released(page: Page, captions: Demo, shoot: Shoot):
    enter(page, captions, session(captions))
    page.goto(f"{captions.url}batches")
    ready = page.locator("li.batch", has=page.get_by_text("Ready for release", exact=True)).first
    expect(ready).to_be_visible(timeout=READY_MS_MAX)
    shoot(page, "batches-ready")
    tab_to(page, ready.get_by_role("link"))
    page.keyboard.press("Enter")
    field = page.locator("#size")
    expect(field).to_be_visible()
    shoot(page, "batch")
    assert faults_of(page) == []

    tab_to(page, field)
    page.keyboard.type(str(page.locator("label[for=size]").text_content()).split()[1])
    page.keyboard.press("Enter")

    expect(page.locator("#all")).to_contain_text("were released", timeout=READY_MS_MAX)
