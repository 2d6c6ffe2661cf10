"""Publishing a file of actions: one JSON object a line, its bytes untouched.

Each line is read by the publisher's model and by the router's codec before anything is sent. A bad line is refused with
its number and the reason; the good ones go on, unless `strict`, which reads the whole file first and sends nothing if
any line is bad.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from hitl_stream.client import Action, Placed, explain
from hitl_stream.core.action import ACTION_BYTES_MAX
from hitl_stream.core.errors import UsageError

CHUNK_SECONDS = 0.1
CHUNK_MAX = 5_000
"""Lines checked and handed over together: some 3 MB."""
REFUSALS_KEPT_MAX = 1_000
"""Reasons kept for the summary; further bad lines are only counted."""
LINE_BYTES_MAX = 4 * ACTION_BYTES_MAX
"""A longer line is read in pieces and refused: a file without line ends must not fill the memory."""
_WHITE = b" \t\r\n"


@dataclass(frozen=True)
class Refusal:
    """A line that is no action, and why."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Published:
    """What became of a file so far: lines with something on them, sent, refused, and how long it took."""

    lines: int
    sent: int
    refused: int
    refusals: tuple[Refusal, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Return actions a second."""
        return self.sent / self.seconds if self.seconds else 0.0


class Sink(Protocol):
    """Where actions go: a `Publisher`, or a test's fake."""

    def place(self, action: bytes) -> Placed: ...

    async def publish(self, records: Iterable[Placed]) -> int: ...


async def publish_file(
    path: Path | str,
    sink: Sink,
    *,
    strict: bool = False,
    rate: float | None = None,
    on_progress: Callable[[Published], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Published:
    """Publish the good lines of a JSON Lines file, at most `rate` a second, and return what was sent and refused.

    Raises `UsageError` if the file cannot be read, or with `strict` if any line is bad (nothing was sent then).
    """
    path = Path(path)
    if rate is not None and not rate > 0:
        raise UsageError(f"rate must be over zero, not {rate}")
    if strict:
        _all_good(path, sink)
    chunk_max = CHUNK_MAX if rate is None else max(1, min(CHUNK_MAX, int(rate * CHUNK_SECONDS)))
    lines = sent = refused = 0
    refusals: list[Refusal] = []
    started = clock()
    for found in _chunks(_checked(path, sink), chunk_max):
        good = [entry for entry in found if isinstance(entry, Placed)]
        bad = [entry for entry in found if isinstance(entry, Refusal)]
        lines += len(found)
        refused += len(bad)
        refusals += bad[: REFUSALS_KEPT_MAX - len(refusals)]
        if rate is not None:
            # An absolute schedule: what delivery costs is not added to the pause.
            await sleep(max(0.0, sent / rate - (clock() - started)))
        if good:
            sent += await sink.publish(good)
        if on_progress is not None:
            on_progress(Published(lines, sent, refused, tuple(refusals), clock() - started))
    return Published(lines, sent, refused, tuple(refusals), clock() - started)


def _all_good(path: Path, sink: Sink) -> None:
    bad = [entry for entry in _checked(path, sink) if isinstance(entry, Refusal)]
    if bad:
        shown = "\n".join(f"{path}: {refusal}" for refusal in bad[:20])
        more = f"\n… and {len(bad) - 20} more" if len(bad) > 20 else ""
        raise UsageError(f"{len(bad)} bad lines, nothing was sent\n{shown}{more}")


def _checked(path: Path, sink: Sink) -> Iterator[Placed | Refusal]:
    for number, line in _lines(path):
        yield Refusal(number, line) if isinstance(line, str) else check(number, line, sink)


def check(number: int, line: bytes, sink: Sink) -> Placed | Refusal:
    """Read one stripped line; return where it goes, or why it is refused."""
    try:
        Action.model_validate_json(line)
        return sink.place(line)
    except ValidationError as error:
        return Refusal(number, explain(error))
    except UsageError as error:
        return Refusal(number, str(error))


def _lines(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """Yield the number and stripped bytes of every line with something on it, or what is wrong with its length."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES_MAX):
                number += 1
                if len(line) == LINE_BYTES_MAX and not line.endswith(b"\n"):
                    while (rest := file.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                        pass
                    yield number, f"longer than {LINE_BYTES_MAX} bytes; an action has at most {ACTION_BYTES_MAX}"
                elif stripped := line.strip(_WHITE):
                    yield number, stripped
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None


def _chunks(entries: Iterator[Placed | Refusal], size: int) -> Iterator[list[Placed | Refusal]]:
    chunk: list[Placed | Refusal] = []
    for entry in entries:
        chunk.append(entry)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
