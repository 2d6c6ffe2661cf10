"""How far a command is: shown on a terminal once it takes long, and nowhere else."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from hitl_stream.cli.progress import AFTER_S, HowFar, how_far
from hitl_stream.lane.reader import WATCHER


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=100), text


def test_what_is_done_soon_shows_nothing() -> None:
    screen, text = console(terminal=True)
    clock = Clock()
    shown = HowFar(screen, clock)
    clock.now = AFTER_S / 2
    shown(10, 100)
    shown.end()
    assert text.getvalue() == ""


def test_what_takes_long_says_how_far_it_is_and_goes_when_it_is_done() -> None:
    screen, text = console(terminal=True)
    clock = Clock()
    shown = HowFar(screen, clock)
    clock.now = 2 * AFTER_S
    shown(25_000, 100_000)
    shown.end()
    assert "25,000 of 100,000 records" in text.getvalue()
    assert "25%" in text.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_reading_is_watched_on_a_terminal_only(terminal: bool) -> None:
    screen, text = console(terminal=terminal)
    with how_far(screen):
        assert (WATCHER.get() is not None) == terminal
    assert WATCHER.get() is None
    assert text.getvalue() == ""
