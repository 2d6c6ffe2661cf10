"""Plugins in a real worker process: whatever one of them does, the batch gets its answers, in time (F14)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from hitl_stream.core.validators import Fault, Verdict
from hitl_stream.roles.plugins import CHUNK_TEXTS_MAX, LOADING, PATIENT, Limits, Plugins

PLUGINS = """
import os, signal, subprocess, sys, time

def length(texts): return [float(len(text)) for text in texts]
def whole(texts): return [1 for _ in texts]
def raises(texts): raise RuntimeError("no model")
def picky(texts):
    if any("bad" in text for text in texts): raise ValueError("cannot read this")
    return [0.5 for _ in texts]
def hangs(texts):
    while True: time.sleep(60)
def spins(texts):
    while True: pass
def exits(texts): os._exit(3)
def crashes(texts): os.kill(os.getpid(), signal.SIGSEGV)
def leaves(texts): sys.exit(1)
def short(texts): return [1.0] * (len(texts) - 1) if len(texts) > 1 else []
def nothing(texts): return None
def nan(texts): return [float("nan") if "bad" in text else 1.0 for text in texts]
def words(texts): return ["0.5" for _ in texts]
def chatty(texts):
    print("a debug line")
    os.write(1, b"another")
    return [1.0 for _ in texts]
def garbles(texts):
    for descriptor in range(3, 40):
        try: os.write(descriptor, b"\\0\\0\\0\\1x")
        except OSError: pass
    return [1.0 for _ in texts]
def late(texts):
    time.sleep(0.2)
    return [1.0 for _ in texts]
def where(texts): return [float(os.getpgid(0)) for _ in texts]
def secret(texts): return [float("HITL_SECRET" in os.environ) for _ in texts]
def sockets(texts):
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
             if os.path.exists(f"/proc/self/fd/{fd}")]
    return [float(sum(name.startswith("socket:") for name in names)) for _ in texts]
def parents(texts):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, file=open(os.environ["CHILD_FILE"], "w"), flush=True)
    while True: time.sleep(60)
number = 7
"""
SLOW = "import time\ntime.sleep(0.6)\ndef slow(texts): return [1.0 for _ in texts]\n"
BROKEN = "raise OSError('no weights on this disk')\n"
QUICK = Limits(call_seconds=0.3, load_seconds=5.0, start_seconds=10.0, start_seconds_max=20.0, batch_seconds=20.0)
"""As in production, but that a busy machine has all the time it needs to start a worker."""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a distribution with plugins, on the path of this process only."""
    (tmp_path / "fake_plugins.py").write_text(PLUGINS)
    (tmp_path / "slow_plugin.py").write_text(SLOW)
    (tmp_path / "broken_plugin.py").write_text(BROKEN)
    names = [line.split("(")[0].removeprefix("def ") for line in PLUGINS.splitlines() if line.startswith("def ")]
    lines = [f"{name} = fake_plugins:{name}" for name in [*names, "number"]]
    lines += ["slow = slow_plugin:slow", "broken = broken_plugin:judge", "sentiment = fake_plugins:whole"]
    info = tmp_path / "fake-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hitl_stream.plugins]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def plugins() -> Iterator[Plugins]:
    with Plugins(QUICK) as plugins:
        yield plugins


def ask(plugins: Plugins, plugin: str, *texts: str) -> Sequence[Verdict]:
    return plugins([(plugin, text) for text in texts])


def why(verdict: Verdict) -> str:
    assert isinstance(verdict, Fault)
    return verdict.why


def test_verdicts_come_in_the_order_of_the_jobs_whichever_plugin_gave_them(plugins: Plugins) -> None:
    jobs = [("length", "a"), ("whole", "b"), ("length", "ccc"), ("length", "a")]

    assert plugins(jobs) == [1.0, 1.0, 3.0, 1.0]


def test_no_process_runs_before_the_first_text_and_one_runs_for_all(plugins: Plugins) -> None:
    assert plugins([]) == []
    assert plugins.process is None

    ask(plugins, "length", "a")
    first = plugins.process
    ask(plugins, "whole", "a")

    assert first is not None
    assert plugins.process == first


def test_more_texts_than_one_call_takes_are_judged_in_chunks(plugins: Plugins) -> None:
    texts = [f"{'x' * i}" for i in range(1, 2 * CHUNK_TEXTS_MAX + 2)]

    assert ask(plugins, "length", *texts) == [float(len(text)) for text in texts]


def test_a_text_larger_than_a_pipe_holds_arrives_whole() -> None:
    with Plugins(
        Limits(60.0, load_seconds=60.0, start_seconds=60.0, start_seconds_max=60.0, batch_seconds=600.0)
    ) as plugins:
        assert ask(plugins, "length", "é" * 1_000_000) == [1_000_000.0]


def test_half_a_character_is_a_text_like_any_other(plugins: Plugins) -> None:
    assert ask(plugins, "length", "\ud800") == [1.0]


@pytest.mark.behaviour("F14")
@pytest.mark.parametrize(
    ("plugin", "found"),
    [
        ("raises", "RuntimeError: no model"),
        ("leaves", "SystemExit: 1"),
        ("short", "ValueError: 0 verdicts for 1 texts"),
        ("nothing", "TypeError: 'NoneType' object is not iterable"),
        ("words", "gave str '0.5', not a number"),
        ("broken", "cannot be loaded: OSError: no weights on this disk"),
        ("number", "fake_plugins:number is no function"),
        ("unheard_of", "no plugin is called unheard_of; installed are "),
    ],
)
def test_a_plugin_that_gives_no_number_is_a_fault_and_costs_no_process(
    plugins: Plugins, plugin: str, found: str
) -> None:
    ask(plugins, "length", "warm")
    before = plugins.process

    verdicts = plugins([(plugin, "a"), ("length", "bb"), (plugin, "c")])

    assert verdicts[1] == 2.0
    assert why(verdicts[0]).startswith(found)
    assert why(verdicts[2]).startswith(found)
    assert plugins.process == before


@pytest.mark.behaviour("F14")
def test_one_bad_text_does_not_cost_its_neighbours_their_verdict(plugins: Plugins) -> None:
    good, bad, other = ask(plugins, "picky", "good", "bad", "fine")

    assert (good, other) == (0.5, 0.5)
    assert why(bad) == "ValueError: cannot read this"


@pytest.mark.behaviour("F14")
def test_nan_is_a_fault_for_its_text_alone(plugins: Plugins) -> None:
    good, bad = ask(plugins, "nan", "good", "bad")

    assert good == 1.0
    assert why(bad) == "gave nan, not a finite number"


@pytest.mark.behaviour("F14")
@pytest.mark.parametrize(
    ("plugin", "found"),
    [
        ("hangs", "overran its 0.3 s"),
        ("spins", "overran its 0.3 s"),
        ("exits", "its process ended with exit code 3"),
        ("crashes", "its process ended with signal 11"),
    ],
)
def test_a_plugin_that_hangs_or_ends_its_process_is_a_fault_and_the_others_get_a_new_one(
    plugins: Plugins, plugin: str, found: str
) -> None:
    ask(plugins, "length", "warm")
    before = plugins.process

    verdicts = plugins([(plugin, "a"), ("length", "bb"), (plugin, "c"), ("whole", "d")])

    assert why(verdicts[0]) == why(verdicts[2]) == found
    assert (verdicts[1], verdicts[3]) == (2.0, 1.0)
    assert plugins.process != before


@pytest.mark.behaviour("F14")
def test_a_hung_plugin_takes_what_it_started_with_it(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHILD_FILE", str(tmp_path / "child"))

    assert why(ask(plugins, "parents", "a")[0]) == "overran its 0.3 s"

    assert until(lambda: ended(int((tmp_path / "child").read_text())))


@pytest.mark.behaviour("F14")
def test_a_batch_is_answered_within_five_seconds_whatever_every_plugin_does() -> None:
    jobs = [(plugin, f"text {i}") for plugin in ("hangs", "spins", "exits", "late", "raises") for i in range(2_000)]
    with Plugins() as plugins:
        for _ in range(3):
            begun = time.monotonic()
            verdicts = plugins(jobs)
            took = time.monotonic() - begun

            assert took < 5.0
            assert len(verdicts) == len(jobs)
            assert {type(verdict) for verdict in verdicts} <= {float, Fault}


@pytest.mark.behaviour("F14")
def test_a_plugin_that_keeps_losing_its_process_rests_and_is_tried_once_afterwards() -> None:
    now = [0.0]
    with Plugins(QUICK, lambda: time.monotonic() + now[0]) as plugins:
        for _ in range(QUICK.losses_max):
            assert why(ask(plugins, "exits", "a")[0]) == "its process ended with exit code 3"
        ask(plugins, "length", "warm")
        before = plugins.process

        resting = why(ask(plugins, "exits", "a")[0])
        assert resting.startswith("rests for ")
        assert "after 3 losses in a row, the last: its process ended with exit code 3" in resting
        assert plugins.process == before

        now[0] = QUICK.rest_seconds + 1
        assert why(ask(plugins, "exits", "a")[0]) == "its process ended with exit code 3"
        assert why(ask(plugins, "exits", "a")[0]).startswith("rests for ")


def test_a_good_answer_forgives_earlier_losses(plugins: Plugins) -> None:
    rest = plugins._rest_of("length")
    rest.losses = QUICK.losses_max - 1

    ask(plugins, "length", "a")

    assert rest.losses == 0


def test_a_plugin_that_is_slow_to_import_faults_until_it_is_there_and_holds_up_nobody() -> None:
    with Plugins(Limits(load_seconds=0.05, start_seconds=10.0, batch_seconds=20.0)) as plugins:
        slow, quick = plugins([("slow", "a"), ("length", "bb")])

        assert why(slow) == LOADING
        assert quick == 2.0
        assert until(lambda: ask(plugins, "slow", "a") == [1.0])


def test_a_command_line_waits_for_a_plugin_that_is_slow_to_import() -> None:
    with Plugins(PATIENT) as plugins:
        assert ask(plugins, "slow", "a") == [1.0]


def test_what_a_plugin_prints_is_no_answer(plugins: Plugins) -> None:
    assert ask(plugins, "chatty", "a", "b") == [1.0, 1.0]
    assert ask(plugins, "length", "a") == [1.0]


@pytest.mark.behaviour("F14")
def test_a_plugin_that_writes_into_the_pipe_is_a_fault(plugins: Plugins) -> None:
    assert why(ask(plugins, "garbles", "a")[0]) == "wrote into the worker's pipe"
    assert ask(plugins, "length", "bb") == [2.0]


def test_a_worker_that_was_killed_between_batches_is_replaced_without_a_fault(plugins: Plugins) -> None:
    ask(plugins, "length", "a")
    assert plugins.process is not None
    os.kill(plugins.process, signal.SIGKILL)
    assert until(lambda: Path(f"/proc/{plugins.process}/stat").read_text().split()[2] == "Z")

    assert ask(plugins, "length", "bb") == [2.0]


def test_the_worker_has_its_own_process_group(plugins: Plugins) -> None:
    assert ask(plugins, "where", "a") == [float(plugins.process or 0)]


def test_the_worker_inherits_no_connection_and_no_setting(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("HITL_SECRET", "hush")
    with socket.socket() as listening:
        listening.set_inheritable(True)
        listening.bind(("127.0.0.1", 0))

        assert plugins([("secret", "a"), ("sockets", "a")]) == [0.0, 0.0]


def test_a_worker_in_the_middle_of_a_plugin_dies_with_its_parent(tmp_path: Path) -> None:
    script = f"""
import os, sys, threading, time
sys.path.insert(0, {str(tmp_path)!r})
from hitl_stream.roles.plugins import PATIENT, Plugins
plugins = Plugins(PATIENT)
plugins([("length", "a")])
print(plugins.process, flush=True)
threading.Timer(0.1, lambda: os.kill(os.getpid(), 9)).start()
plugins([("hangs", "a")])
"""
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert parent.returncode == -signal.SIGKILL
    assert until(lambda: ended(int(parent.stdout)))


def test_after_closing_nothing_runs_and_a_new_text_starts_anew(plugins: Plugins) -> None:
    ask(plugins, "length", "a")
    process = plugins.process
    assert process is not None

    plugins.close()
    plugins.close()

    assert ended(process)
    assert plugins.process is None
    assert ask(plugins, "length", "bb") == [2.0]


@pytest.mark.behaviour("F14")
def test_a_worker_that_cannot_be_started_is_a_fault_for_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with Plugins(QUICK) as plugins:
        for _ in range(QUICK.losses_max + 1):
            assert why(ask(plugins, "length", "a")[0]).startswith("the worker cannot be started: FileNotFoundError")


@pytest.mark.behaviour("F14")
def test_a_worker_that_dies_at_once_is_a_fault_for_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Plugins(QUICK) as plugins:
        assert why(ask(plugins, "length", "a")[0]).startswith("the worker cannot be started: its process ended")


def test_sentiment_is_built_in_and_cannot_be_replaced(plugins: Plugins) -> None:
    pytest.importorskip("vaderSentiment")
    good, bad = ask(plugins, "sentiment", "We love it, great work!", "An awful, ugly failure.")

    assert isinstance(good, float)
    assert isinstance(bad, float)
    assert bad < -0.3 < 0.3 < good


def test_sentiment_faults_on_what_would_take_it_minutes(plugins: Plugins) -> None:
    pytest.importorskip("vaderSentiment")
    emoji, long = ask(plugins, "sentiment", "😀" * 4_000, "fine " * 2_000)

    assert why(emoji) == "ValueError: more than 200 emoji"
    assert why(long) == "ValueError: 10000 characters; sentiment reads at most 5000"


def test_without_its_library_sentiment_says_how_to_install_it(plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "vaderSentiment.py").write_text("raise ImportError('gone')")

    found = why(ask(plugins, "sentiment", "a")[0])

    assert found == "vaderSentiment is not installed; run: pip install 'hitl-stream[sentiment]'"


def until(holds: Callable[[], bool], seconds_max: float = 20.0) -> bool:
    """Say whether something comes true in time: processes end when the kernel gets to it."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def ended(process: int) -> bool:
    """Say whether a process is gone, or only waits to be collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
