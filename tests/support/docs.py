"""Reading the documentation as a newcomer does: its blocks, the commands in them, and whether these exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from cyclopts import App

from hitl_stream.cli.main import build

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ANY = "…"
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_WORD = re.compile(r"[a-z][a-z-]*")


class Block(NamedTuple):
    """A fenced block: its language, the file that it is, and the comment right above it."""

    language: str
    title: str
    note: str
    text: str


class Command(NamedTuple):
    """A line after `$ `, and the lines under it."""

    line: str
    shown: tuple[str, ...]


def blocks(text: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page, in order."""
    for found in _BLOCK.finditer(text):
        yield Block(found["language"], found["title"] or "", found["note"] or "", found["text"])


def commands(block: Block) -> list[Command]:
    """Return the commands of a block; a prompt may name who types."""
    lines = [(re.match(r"(?:[a-z]+)?\$ (.*)", line), line) for line in block.text.splitlines()]
    return [
        Command(found[1], tuple(other for _, other in takewhile(lambda pair: pair[0] is None, lines[n + 1 :])))
        for n, (found, _) in enumerate(lines)
        if found is not None
    ]


def not_shown(shown: tuple[str, ...], output: str) -> list[str]:
    """Return the lines that an output lacks; they must come in order, `…` stands for anything."""
    left = [line.rstrip() for line in output.splitlines()]
    missing = []
    for line in filter(None, (line.strip() for line in shown)):
        wanted = re.compile(".*".join(map(re.escape, line.split(ANY))))
        at = next((n for n, found in enumerate(left) if wanted.search(found)), None)
        if at is None:
            missing.append(line)
        else:
            left = left[at + 1 :]
    return missing


def spoken_of(text: str) -> set[str]:
    """Return every command of ours that a page shows, in a block or between backticks, without the `hitl`."""
    typed = {command.line for block in blocks(text) for command in commands(block)}
    prose = _BLOCK.sub("", text)
    quoted = {" ".join(found.split()) for found in re.findall(r"`(hitl [^`]+)`", prose)}
    parts = (part for line in typed | quoted for part in re.split(r"\$\(|\)|;|\||&&| # ", line))
    return {part.strip().removeprefix("hitl ") for part in parts if re.match(r"\s*hitl [a-z]", part)}


@cache
def _whole() -> App:
    return build()


def unknown_in(command: str, *, groups: bool = True) -> str:
    """Say what of a command does not exist: the verb, or flags of it; nothing where all of it does.

    With `groups` a group of verbs may be named without one of them, as prose does.
    """
    words = [word.strip(",.") for word in command.split()]
    at, depth = _whole(), 0
    for word in words:
        if not _WORD.fullmatch(word) or word not in at:
            break
        at, depth = at[word], depth + 1
    if depth == 0:
        return f"there is no verb {words[0]!r}"
    if at.default_command is None:
        rest = words[depth:]
        if not groups or (rest and _WORD.fullmatch(rest[0])):
            return f"{' '.join(words[:depth])} is a group of verbs, and has no {rest[:1]}"
        return ""
    flags = {word.partition("=")[0] for word in words[depth:] if word.startswith("--")}
    known = {name for argument in at.assemble_argument_collection() for name in argument.names} | {"--help"}
    return f"no flag {', '.join(sorted(flags - known))}" if flags - known else ""
