"""Talking to a terminal: results to stdout, everything else to stderr, no colour where nobody sees it."""

from __future__ import annotations

import sys
from typing import Any

import orjson
from rich.console import Console

err = Console(stderr=True, highlight=False)
out = Console(highlight=False)


def emit(result: Any) -> None:
    """Print one result as JSON on stdout, on one line."""
    sys.stdout.buffer.write(orjson.dumps(result, default=str) + b"\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Print a line for people, to stderr."""
    err.print(text, markup=False, soft_wrap=True)
