"""The verbs that look at a log, without one: usage, exit codes, and what is printed."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator

import pytest

import hitl_stream.cli.main  # noqa: F401  # so that it is in sys.modules, where the package's own `main` cannot hide it
from hitl_stream.cli.logs import render
from hitl_stream.lane import admin, reader
from hitl_stream.lane.explain import Entry, Story, asked

VERBS = (
    ("topics", "plan"),
    ("topics", "apply"),
    ("topics", "check"),
    ("verify",),
    ("explain", "acme/act-1"),
    ("dlq", "list"),
    ("dlq", "show", "0/1"),
    ("dlq", "replay"),
    ("tail",),
)
SECONDS_MAX = 5.0


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Only our verbs, and no settings of this machine."""
    monkeypatch.setattr(sys.modules["hitl_stream.cli.main"], "VERBS", ("topics", "logs", "dlq", "tail"))
    for name in ("HITL_KAFKA", "HITL_CONFIG", "HITL_TENANT", "HITL_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def hitl(*arguments: str) -> int:
    return sys.modules["hitl_stream.cli.main"].run([*arguments])


@pytest.fixture
def closed_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_without_kafka_every_verb_ends_fast_with_4_and_names_the_bootstrap(
    verb: tuple[str, ...], closed_port: str, capfd: pytest.CaptureFixture[str]
):
    started = time.monotonic()
    code = hitl(*verb, "--kafka", closed_port)
    shown, said = capfd.readouterr()

    assert code == 4
    assert time.monotonic() - started < SECONDS_MAX
    assert shown == ""
    assert closed_port in said.replace("\n", "")
    assert "Unable" not in said  # the client's own lines are left out


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_a_server_that_never_answers_is_given_up_within_the_limit(
    verb: tuple[str, ...], silent_port: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    for module in (admin, reader):
        monkeypatch.setattr(module, "REACH_SECONDS_MAX", 0.2)
    started = time.monotonic()
    assert hitl(*verb, "--kafka", silent_port) == 4
    assert time.monotonic() - started < SECONDS_MAX
    assert "no answer within" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "--since", "yesterday"),
        ("verify", "--kafka", "nonsense"),
        ("verify", "--view", "nothing.db"),
        ("explain",),
        ("explain", "act-without-a-tenant"),
        ("explain", "acme/"),
        ("dlq", "list", "--error", "nonsense"),
        ("dlq", "list", "--limit", "0"),
        ("dlq", "show", "here"),
        ("dlq", "replay", "--since", "yesterday"),
        ("tail", "nonsense"),
        ("tail", "execute", "--count", "0"),
        ("dlq", "show", "hitl.actions/0/1"),
        ("dlq", "show", "0/²"),
        ("topics", "plan", "--replication", "0"),
        ("topics", "frob"),
    ],
    ids=" ".join,
)
def test_what_does_not_validate_ends_with_2(arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]):
    assert hitl(*arguments) == 2
    shown, said = capfd.readouterr()
    assert shown == ""
    assert said


def test_an_id_may_hold_slashes_after_its_tenant():
    about = asked("acme/a/b")
    assert (about.tenant, about.action_id) == ("acme", "a/b")


def test_a_story_cannot_speak_to_the_terminal():
    says = {"outcome": "REVIEW", "reasons": [{"rule": "x\x1b[2J", "saw": "\u202e1", "outcome": "REVIEW"}]}
    story = Story("acme", "a\nb", (Entry(0, "hitl.review/0/0", "review", says),))

    lines = [line for line, _ in render(story)]

    assert lines[0] == "acme/a\\nb".replace("\\n", "\\x0a")
    assert all(line.isprintable() for line in lines)
    assert any("x\\x1b[2J: saw \\u202e1" in line for line in lines)


def test_a_story_reads_from_top_to_bottom():
    entries = (
        Entry(0, "hitl.actions/0/0", "actions", {"agent": {"id": "bidder-7", "version": "1"}, "type": "bid.adjust"}),
        Entry(1, "hitl.review/0/0", "review", {
            "outcome": "REVIEW", "entity": {"account": "acc-1", "campaign": None}, "score": {"total": 0.41},
            "reasons": [{"rule": "class.auto_max_change", "saw": "0.28", "limit": "0.10", "outcome": "REVIEW"}],
            "approvals": [{"queue": "trading", "people": 1, "decide_by": "soon"}],
        }),
    )  # fmt: skip
    assert [line for line, _ in render(Story("acme", "a", entries, left_out=3))] == [
        "acme/a",
        "… 3 older records of this id",
        "1970-01-01T00:00:00.000Z  proposed     hitl.actions/0/0",
        "    bid.adjust by bidder-7 1",
        "1970-01-01T00:00:00.001Z  to review    hitl.review/0/0",
        "    REVIEW, acc-1, score 0.41",
        "    REVIEW by class.auto_max_change: saw 0.28, limit 0.10",
        "    needs 1 of trading by soon",
    ]


PARKED = {"by": "executor", "epoch": 5, "switches": [4]}
STORY = (
    Entry(0, "hitl.execute/0/0", "execute", {"outcome": "EXECUTE", "attempt": 0}),
    Entry(1, "hitl.control/0/4", "control", {
        "typ": "engage", "switch": 4, "mode": "HALT", "scope": ["campaign:c"], "by": "ana", "reason": "wrong page",
        "source": "person",
    }),
    Entry(2, "hitl.held/0/0", "held", {"outcome": "EXECUTE", "attempt": 0, "parked": PARKED}),
    Entry(3, "hitl.held/0/1", "held", {"outcome": "EXECUTE", "attempt": 0, "parked": {**PARKED, "switches": []}}),
    Entry(4, "hitl.control/0/6", "control", {
        "typ": "release", "switch": 4, "by": "ben", "asked_by": "ana", "asked": "then", "reason": "mended",
    }),
    Entry(5, "hitl.execute/0/1", "execute", {"outcome": "EXECUTE", "attempt": 1, "routed": {}, "by": ["cora"]}),
    Entry(6, "hitl.results/0/0", "results", {
        "status": "failed", "present": {"/changes/0": "1.20"}, "called": "noon", "answered": "later",
        "platform": {"code": 400, "ref": None, "text": "no such bid"},
    }),
    Entry(7, "hitl.escalation/0/0", "escalation", {
        "purpose": "exception", "exception": {"type": "platform", "text": "failed: no such bid"},
    }),
)  # fmt: skip


def test_a_story_tells_what_held_an_action_and_what_came_of_it():
    zero = "1970-01-01T00:00:00.00"
    assert [line for line, _ in render(Story("acme", "a", STORY, untold="no trust"))] == [
        "acme/a",
        f"{zero}0Z  to execute   hitl.execute/0/0",
        "    EXECUTE",
        f"{zero}1Z  engaged      hitl.control/0/4",
        "    switch 4: HALT for campaign:c by ana: wrong page",
        f"{zero}2Z  sent back    hitl.held/0/0",
        "    EXECUTE",
        "    parked by the executor at epoch 5, under switch 4",
        f"{zero}3Z  parked again hitl.held/0/1",
        "    EXECUTE",
        "    parked by the executor at epoch 5, to be decided again",
        f"{zero}4Z  released     hitl.control/0/6",
        "    switch 4 by ben, asked for by ana at then: mended",
        f"{zero}5Z  approved     hitl.execute/0/1",
        "    EXECUTE, attempt 1",
        "    by: ['cora']",
        f"{zero}6Z  failed       hitl.results/0/0",
        "    failed",
        "    stood there before: /changes/0 1.20",
        "    called noon, answered later, platform: code 400, text no such bid",
        f"{zero}7Z  question     hitl.escalation/0/0",
        "    about the platform: failed: no such bid",
        "note: switches are only named: no trust",
    ]


@pytest.mark.parametrize("odd", [7, "x", ["x"], {"x": [1]}, None, True])
def test_a_record_of_any_shape_can_be_told(odd: object):
    names = ("parked", "attempt", "reasons", "approvals", "present", "platform", "exception", "status", "by", "via")
    for what in ("execute", "held", "results", "escalation"):
        story = Story("acme", "a", (Entry(0, "p", what, dict.fromkeys(names, odd)),))
        assert len([*render(story)]) >= 2
        parked = Story("acme", "a", (Entry(0, "p", what, {"parked": {"by": odd, "switches": odd}}),))
        assert len([*render(parked)]) >= 2


def test_a_story_that_was_not_found_names_the_nearest():
    assert [line for line, _ in render(Story("acme", "a", (), ("acme/b",)))] == [
        "acme/a was not found",
        "the nearest ids are:",
        "  acme/b",
    ]


def test_with_json_an_error_leaves_stdout_empty(closed_port: str, capfd: pytest.CaptureFixture[str]):
    assert hitl("verify", "--json", "--kafka", closed_port) == 4
    shown, said = capfd.readouterr()
    assert shown == ""
    with pytest.raises(ValueError):
        json.loads(said)
