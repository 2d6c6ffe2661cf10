"""The tutorial, typed as it stands: who follows it on a clean machine gets through."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hitl_stream.dev.broker import free_ports
from support.docs import DOCS, ROOT, Block, blocks, commands, not_shown
from support.kafka import require

TEXT = (DOCS / "tutorial.md").read_text("utf-8")
BROKER = "9092"
COMMAND_SECONDS_MAX = 120.0
"""Above the minute that a release waits."""
SHOWN_SECONDS_MAX = 60.0
TEST_SECONDS_MAX = 600
"""A minute and a half where nothing else runs, of which the release waits a minute."""
POLL_SECONDS = 0.5


class Terminal:
    """A shell that a newcomer types into; what it is told stays, as a directory or a variable does."""

    def __init__(self, home: Path, env: dict[str, str]) -> None:
        self.home = home
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, cwd=home, env=env, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._background: list[tuple[int, Path]] = []

    def run(self, line: str) -> tuple[int, str]:
        """Type one line; return its exit code and everything that it printed."""
        assert self.shell.stdin is not None
        self.shell.stdin.write(f"{{ {line}\n}} </dev/null\nprintf '\\n=ended= %s\\n' $?\n")
        self.shell.stdin.flush()
        deadline, printed = time.monotonic() + COMMAND_SECONDS_MAX, []
        while True:
            try:
                got = self._lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"{line}: no end within {COMMAND_SECONDS_MAX:g} s; it printed:\n{''.join(printed)}")
            if got.startswith("=ended= "):
                return int(got.split()[1]), "".join(printed)
            printed.append(got)

    def start(self, line: str, until: str) -> None:
        """Type one line in a terminal of its own, and wait until it says `until`."""
        said = self.home / f"background-{len(self._background)}.log"
        said.touch()  # the shell may tell the number before its child opens the file
        code, printed = self.run(f"{line} >{said} 2>&1 & echo pid $!")
        assert code == 0
        self._background.append((int(printed.split("pid ")[1]), said))
        self.wait(lambda: until in said.read_text("utf-8"), f"{line} did not say {until!r}")

    def wait(self, done: object, otherwise: str) -> None:
        """Look again and again."""
        assert callable(done)
        deadline = time.monotonic() + SHOWN_SECONDS_MAX
        while not done():
            if time.monotonic() > deadline:
                pytest.fail(f"{otherwise} within {SHOWN_SECONDS_MAX:g} s\n{self.logs()}")
            time.sleep(POLL_SECONDS)

    def logs(self) -> str:
        """Return the ends of what runs in the background."""
        return "\n".join(f"--- {log}\n{log.read_text('utf-8')[-3000:]}" for _, log in self._background)

    def close(self) -> None:
        """End what was started, the newest first, then the shell."""
        for pid, _ in reversed(self._background):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                self.run(f"wait {pid}")
        with suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGKILL)
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.close()
        self.shell.wait()
        self._reader.join()
        self.shell.stdout.close()

    def _read(self) -> None:
        assert self.shell.stdout is not None
        for line in self.shell.stdout:
            self._lines.put(line)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Give a terminal in an empty directory, on ports that are free."""
    metrics, console = free_ports(2)
    env = {
        name: value for name, value in os.environ.items() if not name.startswith("HITL_") or name == "HITL_KAFKA_HOME"
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
    ports = {"HITL_METRICS_PORT": str(metrics), "HITL_CONSOLE_PORT": str(console)}
    opened = Terminal(tmp_path, {**env, **ports, "PATH": path, "COLUMNS": "200", "PYTHONWARNINGS": "default"})
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(TEST_SECONDS_MAX)
def test_who_types_what_the_tutorial_says_sees_what_it_shows(terminal: Terminal) -> None:
    require("jar", "noida")
    (broker,) = free_ports(1)
    known = {BROKER: str(broker)}
    here = terminal.home
    for block in blocks(TEXT):
        said = _with(block, known)
        if said.title:
            (here / said.title).write_text(said.text, "utf-8")
        elif said.language == "console" and not said.note.startswith("elsewhere"):
            _type(terminal, said, known)
            here = Path(terminal.run("pwd")[1].strip())


def _with(block: Block, known: dict[str, str]) -> Block:
    """Put what is known here in the place of what the page says."""
    words = re.compile(rf"\b({'|'.join(map(re.escape, known))})\b")
    return block._replace(
        text=words.sub(lambda found: known[found[1]], block.text),
        note=words.sub(lambda found: known[found[1]], block.note),
    )


def _type(terminal: Terminal, block: Block, known: dict[str, str]) -> None:
    for command in commands(block):
        if block.note.startswith("background until: "):
            terminal.start(command.line, block.note.partition(": ")[2])
            continue
        code, printed = terminal.run(command.line)
        if block.note == "until it shows":
            deadline = time.monotonic() + SHOWN_SECONDS_MAX
            while not_shown(command.shown, printed) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                code, printed = terminal.run(command.line)
        story = f"$ {command.line}\n{printed}\n{terminal.logs()}"
        assert code == 0, story
        assert not_shown(command.shown, printed) == [], story
        if block.note.startswith("take "):
            name, pattern = block.note.removeprefix("take ").split(": ", 1)
            found = re.search(pattern, printed, re.MULTILINE)
            assert found, story
            known[name] = found[1]


def test_what_it_leaves_to_another_test_is_there() -> None:
    left = [block.note.partition(": ")[2] for block in blocks(TEXT) if block.note.startswith("elsewhere")]
    assert left
    assert all((ROOT / path).is_file() for path in left)
