"""Plugins: judging texts with code that may raise, hang or die, without the router ever noticing more than a fault.

A plugin is a function from texts to numbers, `list[str] → list[float]`, found as an entry point of the group
`hitl_stream.plugins` (`name = module:function`). `sentiment` is built in (VADER's compound; Hutto & Gilbert 2014).

All plugins run in one worker process with a process group of its own, which inherits nothing of ours but stderr and
the environment without `HITL_*`, and dies with us (at once on Linux; elsewhere when it next looks for work). The rules:

1. A call to a plugin has a time budget. A worker that overruns it is killed with its group, and started again for the
   next plugin that needs it.
2. All calls of one batch have one budget together, so a partition moves on within five seconds (F14).
3. Chunks of several plugins take turns, those that behaved last time first: a slow plugin does not use up the others'.
4. A plugin that costs the worker its life several times in a row rests for a while, during which it faults at once.
5. Whatever went wrong is a `Fault` for the texts concerned, and nothing here raises.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Self

from hitl_stream.core.validators import Fault, Verdict

GROUP = "hitl_stream.plugins"
SENTIMENT = "sentiment"
CHUNK_TEXTS_MAX = 256
CHUNK_CHARS_MAX = 128 * 1024
"""What one call to a plugin gets at most: short enough to be worth a budget, long enough to be worth a round trip."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""No honest answer or request is longer; a plugin that writes into our pipe must not make us allocate."""
WHY_LENGTH_MAX = 200
STARTING = "the worker is still starting; the next batch asks again"
GARBLED = "wrote into the worker's pipe"
LOADING = "is still loading; the next batch asks again"
SENTIMENT_CHARS_MAX = 5_000
SENTIMENT_EMOJI_MAX = 200
"""VADER is quadratic in both: 16,000 emoji take it 100 s, at these limits it is 0.1 s. A longer text is a fault."""

Function = Callable[[list[str]], Sequence[float]]


@dataclass(frozen=True)
class Limits:
    """How long plugins may take, in seconds, and how often one may cost the worker its life.

    The defaults keep a batch under five seconds: four in all, and the time to kill what overran them.
    """

    call_seconds: float = 0.5
    text_seconds: float = 0.002
    """A call may take `call_seconds` and `text_seconds` for each text: a second for a full chunk."""
    load_seconds: float = 1.5
    """The first batch waits so long for a plugin to be imported; later ones fault until it is there."""
    start_seconds: float = 1.5
    """A batch waits so long for a new worker's first word, about 0.3 s on an idle machine."""
    start_seconds_max: float = 10.0
    """A worker that has not said a word by then is killed."""
    batch_seconds: float = 4.0
    losses_max: int = 3
    rest_seconds: float = 30.0


PATIENT = Limits(load_seconds=60.0, start_seconds=60.0, start_seconds_max=60.0, batch_seconds=600.0)
"""For a command line that reads a file: no partition waits, and the first answer is as good as the last."""


class Plugins:
    """The router's judge: asks the worker process, and starts it at first use.

    It is called from one thread at a time (the lane decides its batches one after the other).
    """

    def __init__(self, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits or Limits()
        self._clock = clock
        self._worker: _Worker | None = None
        self._rests: dict[str, _Rest] = {}
        self._starts = _Rest()

    def __call__(self, jobs: Sequence[tuple[str, str]]) -> Sequence[Verdict]:
        """Return one verdict per (plugin, text), in order, within the batch's budget."""
        try:
            return self._judge(jobs)
        except Exception as error:
            self.close()
            return [Fault(f"the plugins' worker cannot be used: {_why(error)}")] * len(jobs)

    def close(self) -> None:
        """End the worker process, if there is one. A later call starts a new one."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def process(self) -> int | None:
        """The worker's process id, None while there is none."""
        return None if self._worker is None else self._worker.pid

    def _judge(self, jobs: Sequence[tuple[str, str]]) -> list[Verdict]:
        deadline = self._clock() + self.limits.batch_seconds
        verdicts: dict[tuple[str, str], Verdict] = {}
        for plugin, texts in self._turns(jobs):
            answers = self._ask(plugin, texts, deadline)
            verdicts.update(((plugin, text), answer) for text, answer in zip(texts, answers, strict=True))
        return [verdicts[job] for job in jobs]

    def _turns(self, jobs: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
        """Cut the work into chunks, each text once: the first chunk of every plugin, then the second, and so on."""
        texts: dict[str, dict[str, None]] = {}
        for plugin, text in jobs:
            texts.setdefault(plugin, {})[text] = None
        tamest = sorted(texts, key=lambda plugin: self._rest_of(plugin).losses)
        turns = [
            (turn, order, plugin, chunk)
            for order, plugin in enumerate(tamest)
            for turn, chunk in enumerate(_chunks(texts[plugin]))
        ]
        return [(plugin, chunk) for _, _, plugin, chunk in sorted(turns, key=lambda each: each[:2])]

    def _rest_of(self, plugin: str) -> _Rest:
        return self._rests.setdefault(plugin, _Rest())

    def _ask(self, plugin: str, texts: list[str], deadline: float) -> list[Verdict]:
        """Judge one chunk, or say why not."""
        limits, rest = self.limits, self._rest_of(plugin)
        why = rest.why_at(self._clock())
        if why is None and (worker := self._ready(deadline)) is not None:
            budget = limits.call_seconds + limits.text_seconds * len(texts)
            try:
                if missing := self._load(worker, plugin, deadline - budget):
                    return [Fault(missing)] * len(texts)
                if deadline - self._clock() < budget:
                    return [Fault(f"the batch's {limits.batch_seconds:g} s were used up before this text")] * len(texts)
                answers = worker.judge(plugin, texts, self._clock() + budget)
            except TimeoutError:
                why = f"overran its {budget:.2g} s"
            except _LostError as lost:
                why = str(lost)
            else:
                rest.losses = 0
                return answers
            self.close()
            rest.lost(why, limits, self._clock())
        return [Fault(why or self._starts.why or STARTING)] * len(texts)

    def _load(self, worker: _Worker, plugin: str, deadline: float) -> str:
        """Have a plugin imported, and say why it is not there; only the first batch in a worker waits for it."""
        if plugin in worker.loaded:
            return ""
        now, limits = self._clock(), self.limits
        wait = max(0.0, 0.0 if plugin in worker.asked else min(limits.load_seconds, deadline - now))
        # An import that keeps even the worker's main thread from answering is as good as a hang.
        return worker.load(plugin, wait, now + wait + limits.call_seconds)

    def _ready(self, deadline: float) -> _Worker | None:
        """Return a worker that listens, or None; `_starts` says why there is none at all."""
        limits, starts = self.limits, self._starts
        if self._worker is not None and self._worker.gone():
            self.close()
        if self._worker is None:
            if starts.why_at(self._clock()) is not None:
                return None
            try:
                self._worker = _Worker(self._clock)
            except OSError as error:
                starts.lost(f"the worker cannot be started: {_why(error)}", limits, self._clock())
                return None
        worker = self._worker
        try:
            if not worker.greeted(min(self._clock() + limits.start_seconds, deadline)):
                if self._clock() - worker.since > limits.start_seconds_max:
                    raise _LostError(f"the worker said nothing for {limits.start_seconds_max:g} s")
                return None
        except _LostError as lost:
            self.close()
            starts.lost(f"the worker cannot be started: {lost}", limits, self._clock())
            return None
        starts.losses, starts.why = 0, ""
        return worker


@dataclass
class _Rest:
    """How often in a row something was lost, and until when it is left alone for that."""

    losses: int = 0
    until: float = -math.inf
    why: str = ""

    def lost(self, why: str, limits: Limits, now: float) -> None:
        self.losses += 1
        self.why = why
        if self.losses >= limits.losses_max:
            self.until = now + limits.rest_seconds

    def why_at(self, now: float) -> str | None:
        """Say why it is not asked now, or None. After the rest one loss more is enough for another."""
        if now >= self.until:
            return None
        return f"rests for {self.until - now:.0f} s after {self.losses} losses in a row, the last: {self.why}"


def _chunks(texts: dict[str, None]) -> Iterator[list[str]]:
    chunk: list[str] = []
    chars = 0
    for text in texts:
        if chunk and (len(chunk) == CHUNK_TEXTS_MAX or chars + len(text) > CHUNK_CHARS_MAX):
            yield chunk
            chunk, chars = [], 0
        chunk.append(text)
        chars += len(text)
    if chunk:
        yield chunk


def _why(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    return text if len(text) <= WHY_LENGTH_MAX else f"{text[: WHY_LENGTH_MAX - 1]}…"


# ── Our end of the pipe ───────────────────────────────────────────────────────────────────────────────────────────────

_LENGTH = struct.Struct("!I")
_READ_BYTES = 64 * 1024
_END_SECONDS_MAX = 1.0
"""A killed process is gone in milliseconds, unless the kernel holds it; then it is left behind."""
_BOOT = """
import json, sys
path, parent = json.loads(sys.argv[1])
sys.path[:] = path
from hitl_stream.roles.plugins import work
work(parent)
"""


class _LostError(Exception):
    """The worker died, or wrote what is no answer: it cannot be used any more."""


class _Worker:
    """The process, and the two pipes to it. Nothing here waits longer than it is told."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, json.dumps([sys.path, os.getpid()])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("HITL_")},
        )
        assert self._process.stdin is not None  # both were asked for
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self._read = bytearray()
        self._greeted = False
        self.pid = self._process.pid
        self.since = clock()
        self.asked: set[str] = set()
        self.loaded: set[str] = set()

    def greeted(self, deadline: float) -> bool:
        """Say whether the worker listens; wait for its first word until `deadline`."""
        if not self._greeted:
            with contextlib.suppress(TimeoutError):
                self._greeted = self._receive(deadline) == b"hello"
        return self._greeted

    def gone(self) -> bool:
        """Say whether the worker died, or spoke out of turn, since it was last asked."""
        return self._greeted and (bool(self._read) or self._wait(self._from, select.POLLIN, self._clock()))

    def load(self, plugin: str, wait: float, deadline: float) -> str:
        """Have a plugin imported within `wait` seconds, or say why not; raise `TimeoutError` without an answer."""
        self.asked.add(plugin)
        self._send(json.dumps([plugin, wait, None]).encode(), deadline)
        why = _read_answer(self._receive(deadline))
        if not isinstance(why, str):
            raise _LostError(GARBLED)
        if not why:
            self.loaded.add(plugin)
        return why

    def judge(self, plugin: str, texts: list[str], deadline: float) -> list[Verdict]:
        """Ask about a chunk; raise `TimeoutError` if there is no answer by `deadline`."""
        self._send(json.dumps([plugin, 0, texts]).encode(), deadline)
        found = _read_answer(self._receive(deadline))
        if not isinstance(found, list) or len(found) != len(texts):
            raise _LostError(GARBLED)
        return [_verdict(each) for each in found]

    def end(self) -> None:
        """Kill the worker and whatever it started."""
        if self._process.returncode is None:
            # It was not waited for, so its id, and its group's, cannot belong to another by now.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS_MAX)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, frame: bytes, deadline: float) -> None:
        rest = memoryview(_LENGTH.pack(len(frame)) + frame)
        while rest:
            if not self._wait(self._to, select.POLLOUT, deadline):
                raise TimeoutError
            try:
                rest = rest[os.write(self._to, rest[:_READ_BYTES]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _LostError(self._end_of_it()) from None

    def _receive(self, deadline: float) -> bytes:
        while len(self._read) < _LENGTH.size or len(self._read) < _LENGTH.size + self._length():
            if not self._wait(self._from, select.POLLIN, deadline):
                raise TimeoutError
            try:
                more = os.read(self._from, _READ_BYTES)
            except BlockingIOError:
                continue
            if not more:
                raise _LostError(self._end_of_it())
            self._read += more
        end = _LENGTH.size + self._length()
        frame = bytes(self._read[_LENGTH.size : end])
        del self._read[:end]
        return frame

    def _length(self) -> int:
        length = int(_LENGTH.unpack_from(self._read)[0])
        if length > FRAME_BYTES_MAX:
            raise _LostError(GARBLED)
        return length

    def _wait(self, descriptor: int, event: int, deadline: float) -> bool:
        poll = select.poll()
        poll.register(descriptor, event)
        return bool(poll.poll(max(0.0, deadline - self._clock()) * 1000))

    def _end_of_it(self) -> str:
        """Say how the process ended; it has closed its pipe, so it is ending."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS_MAX)
        code = self._process.returncode
        if code is None:
            return "its process closed the worker's pipe"
        return f"its process ended with signal {-code}" if code < 0 else f"its process ended with exit code {code}"


def _read_answer(answer: bytes) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        raise _LostError(GARBLED) from None


def _verdict(found: Any) -> Verdict:
    if isinstance(found, str):
        return Fault(found)
    if isinstance(found, float) and math.isfinite(found):
        return found
    raise _LostError(GARBLED)


# ── The worker's end ──────────────────────────────────────────────────────────────────────────────────────────────────


def work(parent: int) -> None:
    """Serve requests until the pipe ends: what the worker process runs, and nothing else should."""
    _die_with(parent)
    requests, answers = _own_pipes()
    plugins: dict[str, _Plugin] = {}
    _write(answers, b"hello")
    while (frame := _next(requests)) is not None:
        name, wait, texts = json.loads(frame)
        if name not in plugins:
            plugins[name] = _Plugin(name)
        plugin = plugins[name]
        answer = plugin.missing(wait) if texts is None else plugin.judge(texts)
        _write(answers, json.dumps(answer).encode())


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it ends, also in the middle of a plugin (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _own_pipes() -> tuple[int, int]:
    """Take the pipes away from whatever a plugin reads or prints: what it prints goes to stderr."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return requests, answers


def _next(requests: int) -> bytes | None:
    head = _exactly(requests, _LENGTH.size)
    return None if head is None else _exactly(requests, _LENGTH.unpack(head)[0])


def _exactly(requests: int, count: int) -> bytes | None:
    read = bytearray()
    while len(read) < count:
        more = os.read(requests, min(count - len(read), 1024 * 1024))
        if not more:
            return None
        read += more
    return bytes(read)


def _write(answers: int, frame: bytes) -> None:
    rest = memoryview(_LENGTH.pack(len(frame)) + frame)
    while rest:
        rest = rest[os.write(answers, rest) :]


class _LoadError(Exception):
    """There is no such plugin, or it cannot be imported."""


@dataclass
class _Plugin:
    """A plugin in the worker. It is imported beside the work, so that a slow one does not hold up the others."""

    name: str
    function: Function | None = None
    error: str = ""
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._load, daemon=True)
        self.thread.start()

    def _load(self) -> None:
        try:
            self.function = load(self.name)
        except _LoadError as error:
            self.error = str(error)
        except BaseException as error:
            self.error = f"cannot be loaded: {_why(error)}"

    def missing(self, wait: float) -> str:
        """Wait for the import, and say why there is no function, or nothing."""
        self.thread.join(wait)
        return "" if self.function is not None else self.error or LOADING

    def judge(self, texts: list[str]) -> list[float | str]:
        """Return a number or a reason for each text. Only a plugin that was loaded is asked."""
        assert self.function is not None
        try:
            return _checked(self.function(texts), len(texts))
        except BaseException as error:
            if len(texts) == 1:
                return [_why(error)]
        # One bad text must not cost the others their verdict.
        return [answer for text in texts for answer in self.judge([text])]


def _checked(answers: Any, count: int) -> list[float | str]:
    found = list(answers)
    if len(found) != count:
        raise ValueError(f"{len(found)} verdicts for {count} texts")
    return [_number(answer) for answer in found]


def _number(answer: Any) -> float | str:
    """Return a finite number as a float (NumPy's too), and of anything else what it was."""
    if isinstance(answer, str | bytes | bool) or not hasattr(answer, "__float__"):
        return f"gave {_short(answer)}, not a number"
    number = float(answer)
    return number if math.isfinite(number) else f"gave {number}, not a finite number"


def _short(answer: Any) -> str:
    return f"{type(answer).__name__} {answer!r:.40}" if answer is not None else "nothing"


def load(name: str) -> Function:
    """Find and import a plugin. A name that is built in, or given twice, cannot be taken over."""
    if name == SENTIMENT:
        return _sentiment()
    found = list({each.value: each for each in entry_points(group=GROUP, name=name)}.values())
    if not found:
        known = ", ".join(sorted({SENTIMENT, *entry_points(group=GROUP).names}))
        raise _LoadError(f"no plugin is called {name}; installed are {known} (entry points of {GROUP})")
    if len(found) > 1:
        raise _LoadError(f"several plugins are called {name}: {', '.join(each.value for each in found)}; remove one")
    function = found[0].load()
    if not callable(function):
        raise _LoadError(f"{found[0].value} is no function")
    return function  # type: ignore[no-any-return]  # whatever else it is shows when it is called


def _sentiment() -> Function:
    try:
        vader = import_module("vaderSentiment.vaderSentiment")
    except ImportError:
        raise _LoadError("vaderSentiment is not installed; run: pip install 'hitl-stream[sentiment]'") from None
    analyzer = vader.SentimentIntensityAnalyzer()
    emoji = frozenset(text for text in analyzer.emojis if len(text) == 1)

    def sentiment(texts: list[str]) -> list[float]:
        return [compound(text) for text in texts]

    def compound(text: str) -> float:
        if len(text) > SENTIMENT_CHARS_MAX:
            raise ValueError(f"{len(text)} characters; sentiment reads at most {SENTIMENT_CHARS_MAX}")
        if sum(character in emoji for character in text) > SENTIMENT_EMOJI_MAX:
            raise ValueError(f"more than {SENTIMENT_EMOJI_MAX} emoji")
        return float(analyzer.polarity_scores(text)["compound"])

    return sentiment
