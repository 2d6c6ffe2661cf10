"""`hitl export`, `report`, `erase`, `reverse` and `policy preview` on a log in memory: what they print."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.cli.stretch import duration, moment_ms
from hitl_stream.core.errors import UsageError
from hitl_stream.core.events import Status
from hitl_stream.wire.seal import SEAL_HEADER, SealKey
from hitl_stream.wire.signing import create_signing_key
from support.desk_cli import Cli, installed
from support.log import Recorded
from support.make import NOW_MS, action_bytes, change, iso

BIG = {"changes": [change("1.00", "1.30")]}
EMAIL = "anna@example.com"
ANNA = {"context": {"email": EMAIL}}
CONSOLE = SealKey("w1", b"\x0b" * 32)


@pytest.fixture
def work() -> Recorded:
    return Recorded()


@pytest.fixture
def hitl(work: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return installed(work, tmp_path, monkeypatch)


def judged(work: Recorded, number: int = 1, word: str = "reject", **action: Any) -> str:
    parts = {**BIG, "action_id": f"act-{number}", "proposed_at": iso(work.now_ms - 100), **action}
    (item,) = work.opened(action_bytes(**parts))
    work.say(item, word)
    work.work()
    return item


def ran(work: Recorded, present: Any = "1.20", **action: Any) -> None:
    work.propose(action_bytes(**action))
    work.carry_out(present={"/changes/0": present})


# --- export -----------------------------------------------------------------------------------------------------------


def test_an_export_is_lines_on_stdout_and_counts_on_stderr(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    judged(hitl.work, 1, **ANNA)
    judged(hitl.work, 2)
    assert hitl("export", "decisions", "--since", "7d") == 0
    lines, said = capfd.readouterr()
    first, second = (json.loads(line) for line in lines.splitlines())
    assert (first["action_id"], second["action_id"]) == ("act-1", "act-2")
    assert EMAIL not in lines
    assert "2 decisions; context.email hidden in 1" in said


@pytest.mark.behaviour("E8")
@pytest.mark.parametrize("kind", ["feedback", "decisions", "preferences"])
def test_a_file_holds_one_kind_whole_and_is_its_owners_alone(kind: str, hitl: Cli, capfd: pytest.CaptureFixture[str]):
    judged(hitl.work)
    out = hitl.directory / "out.jsonl"
    out.write_text("of another kind\n")
    assert hitl("export", kind, "--out", str(out)) == 0
    assert capfd.readouterr().out == ""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == (0 if kind == "preferences" else 1)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [path.name for path in hitl.directory.glob(".out*")] == []


def test_where_seals_do_not_fit_the_rest_leaves_and_the_exit_code_says_so(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    judged(hitl.work)
    (record,) = hitl.work.log.there["feedback"]
    forged = [(name, b"d1:AAAA" if name == SEAL_HEADER else value) for name, value in record.headers]
    hitl.work.log.there["feedback"].append(replace(record, headers=forged, offset=1))
    assert hitl("export", "feedback") == 1
    lines, said = capfd.readouterr()
    assert len(lines.splitlines()) == 1
    assert "left out: 1 of hitl.feedback whose seals do not fit" in said


def test_without_the_desks_key_it_says_that_nothing_was_checked(
    work: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    hitl = installed(work, tmp_path, monkeypatch, ("router",))
    judged(work)
    assert hitl("export", "feedback") == 0
    assert "not checked" in capfd.readouterr().err


def test_without_a_policy_nobody_knows_what_to_hide(
    hitl: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("HITL_POLICY")
    judged(hitl.work)
    assert hitl("export", "decisions") == 2
    lines, said = capfd.readouterr()
    assert lines == ""
    assert "no policy" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("export",),
        ("export", "everything"),
        ("export", "feedback", "--since", "yesterday"),
        ("export", "feedback", "--since", "1d", "--until", "2d"),
        ("export", "feedback", "--format", "csv"),
        ("export", "feedback", "--out", "/no/such/place.jsonl"),
        ("report", "everything"),
        ("erase", "--tenant", "acme"),
        ("erase", "--action", "act-1"),
        ("erase", "--tenant", "acme", "--action", "act-1", "--subject", "context.email=a"),
        ("erase", "--tenant", "acme", "--subject", "context.email"),
        ("erase", "--tenant", "acme", "--subject", "password=x"),
        ("reverse", "acme/act-1"),
        ("reverse", "act-1", "--reason", "why"),
        ("reverse", "acme/act-1", "--reason", " "),
        ("reverse", "acme/act-1", "--reason", "why", "--console", "https://hitl.example"),
        ("reverse", "acme/act-1", "--reason", "why", "--console", "http://hitl.example"),
        ("reverse", "acme/act-1", "--reason", "why", "--console", "hitl.example"),
        ("policy", "preview", "no-such.yaml"),
    ],
    ids=" ".join,
)
def test_what_does_not_validate_ends_with_2(arguments: tuple[str, ...], hitl: Cli, capfd: pytest.CaptureFixture[str]):
    assert hitl(*arguments) == 2
    shown, said = capfd.readouterr()
    assert shown == ""
    assert said


# --- report -----------------------------------------------------------------------------------------------------------


def test_the_digest_is_a_table_and_with_json_one_object(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    ran(hitl.work)
    assert hitl("report", "digest") == 0
    shown = capfd.readouterr().out
    assert "bid.adjust" in shown
    assert "acme/act-1" in shown
    assert "1 actions ran alone" in shown
    assert "\x1b" not in shown, "no colour where nobody sees it"
    assert hitl("report", "digest", "--json") == 0
    (row,) = json.loads(capfd.readouterr().out)["rows"]
    assert (row["count"], row["money"], row["audit_share"]) == (1, "0.10", 0.0)


def test_numbers_stand_under_each_other_at_the_right(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    ran(hitl.work)
    legs = [change("100.00", "102.00", campaign="c", field="daily_budget")]
    ran(hitl.work, action_id="act-2", type="budget.reallocate", changes=legs)
    assert hitl("report", "digest") == 0
    header, *rows = capfd.readouterr().out.splitlines()[:3]
    end = header.index("moved EUR") + len("moved EUR")
    assert [row[end - 4 : end] for row in rows] == ["2.00", "0.10"]


@pytest.mark.parametrize("report", ["digest", "queues", "yield", "pilot", "errors", "monthly", "reviewer-load"])
@pytest.mark.parametrize("json_flag", [(), ("--json",)], ids=["table", "json"])
def test_every_report_says_that_there_is_nothing_yet(
    report: str, json_flag: tuple[str, ...], hitl: Cli, capfd: pytest.CaptureFixture[str]
):
    assert hitl("report", report, *json_flag) == 0
    shown = capfd.readouterr().out
    if json_flag:
        assert len(shown.splitlines()) == 1
        assert json.loads(shown) is not None
    else:
        assert "nothing yet" in shown or "not measured" in shown


def test_queues_speak_of_durations_as_people_do(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    (item,) = hitl.work.opened(action_bytes(**BIG))
    hitl.work.now_ms += 240_000
    hitl.work.say(item, read_s=31.0)
    hitl.work.work()
    assert hitl("report", "queues") == 0
    shown = capfd.readouterr().out
    assert "3 m 29 s" in shown
    assert "31 s" in shown


@pytest.mark.behaviour("A11")
def test_a_pilot_that_measured_nothing_saves_no_hours(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    assert hitl("report", "pilot") == 0
    shown = capfd.readouterr().out
    assert "first_line: 0 items" in shown
    assert "hours saved: not known" in shown


def test_an_agents_words_cannot_steer_the_terminal(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    ran(hitl.work, action_id="act\x1b[2J")
    assert hitl("report", "digest") == 0
    shown = capfd.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[2J" in shown


# --- erase ------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("A12")
def test_erasing_takes_two_steps(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    item = judged(hitl.work, **ANNA)
    what = ("erase", "--tenant", "acme", "--subject", f"context.email={EMAIL}")
    assert hitl(*what) == 0
    shown, said = capfd.readouterr()
    assert hitl.sent == []
    assert "Nothing was erased" in said
    assert "gone by" in shown
    assert hitl(*what, "--yes") == 0
    shown, said = capfd.readouterr()
    assert "Erased 3 records of 1 actions" in said
    assert {name for name, _ in hitl.sent} == {"reviews", "decisions", "feedback"}
    assert ("reviews", item.encode()) in hitl.sent
    assert EMAIL not in shown + said, "logged are counts, never whom they are about"


def test_what_is_open_is_not_erased(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    (item,) = hitl.work.opened(action_bytes(**BIG, **ANNA))
    what = ("erase", "--tenant", "acme", "--action", "act-1", "--yes")
    assert hitl(*what) == 5
    assert f"{item}: it is OPEN in queue trading" in capfd.readouterr().err
    assert hitl.sent == []


def test_what_is_not_known_cannot_be_erased(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    assert hitl("erase", "--tenant", "acme", "--action", "act-9", "--yes", "--json") == 1
    found = json.loads(capfd.readouterr().out)
    assert found == {
        "erased": False, "actions": 0, "ending": [],
        "records": {"reviews": 0, "decisions": 0, "feedback": 0, "preferences": 0},
    }  # fmt: skip


# --- reverse ----------------------------------------------------------------------------------------------------------


def person(hitl: Cli, holder: str = "dana", kind: Any = "person") -> None:
    create_signing_key(hitl.keys, f"{holder}-1", holder, kind)


@pytest.mark.behaviour("E16")
def test_a_person_proposes_what_undoes_an_action(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    ran(hitl.work)
    hitl.key("console", CONSOLE)
    person(hitl)
    assert hitl("reverse", "acme/act-1", "--reason", "wrong page", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["id"].startswith("acme/act-1~undo-")
    assert [(row["before"], row["after"]) for row in found["changes"]] == [("1.30", "1.20")]
    ((undone, headers),) = hitl.sent
    assert undone.decoded.action.rationale == "wrong page"
    assert json.loads(dict(headers)["hitl-via"]) == {
        "role": "console", "from": "hitl.results/0/0", "by": "dana", "supersedes": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("unknown", "no result of acme/act-1"),
        ("failed", "the platform refused it"),
        ("unread", "was not there before"),
        ("no console", "goes through the console"),
        ("a service", "only a person"),
    ],
)
def test_what_cannot_be_undone_is_refused_with_the_reason(
    what: str, says: str, hitl: Cli, capfd: pytest.CaptureFixture[str]
):
    if what != "unknown":
        hitl.work.propose(action_bytes())
        present = {"/changes/0": None if what == "unread" else "1.20"}
        hitl.work.carry_out(Status.FAILED if what == "failed" else Status.EXECUTED, present=present)
    if what != "no console":
        hitl.key("console", CONSOLE)
    person(hitl, kind="service" if what == "a service" else "person")
    flags = ("--key", "dana-1") if what == "a service" else ()
    assert hitl("reverse", "acme/act-1", "--reason", "why", *flags) == 5
    assert says in capfd.readouterr().err
    assert hitl.sent == []


@pytest.mark.parametrize(
    ("console", "says"),
    [("http://hitl.example", "in clear"), ("hitl.example", "no address"), ("ftp://x", "no address")],
)
def test_a_token_goes_nowhere_in_clear(
    console: str, says: str, hitl: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("HITL_CONSOLE_TOKEN", "secret-1")
    ran(hitl.work)
    assert hitl("reverse", "acme/act-1", "--reason", "why", "--console", console) == 2
    said = capfd.readouterr().err
    assert says in said
    assert "secret-1" not in said


class Console:
    """Something that answers as a console's API does, and keeps what it was sent."""

    def __init__(self, status: int) -> None:
        self.got: list[tuple[str, str | None, bytes]] = []
        console = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                console.got.append((self.path, self.headers["Authorization"], body))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b'{"title":"not yours"}')

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(params=[202, 403])
def console(request: pytest.FixtureRequest) -> Iterator[tuple[Console, int]]:
    made = Console(request.param)
    yield made, request.param
    made.close()


def test_over_the_api_the_console_says_who_signed_in(
    console: tuple[Console, int], hitl: Cli, capfd: pytest.CaptureFixture[str]
):
    server, status = console
    ran(hitl.work)
    token = hitl.directory / "token"
    token.write_text("secret-1\n")
    what = ("reverse", "acme/act-1", "--reason", "why", "--console", server.url, "--token-file", str(token))
    assert hitl(*what) == (0 if status == 202 else 5)
    ((path, authorization, body),) = server.got
    assert (path, authorization) == ("/api/v1/actions", "Bearer secret-1")
    assert json.loads(body)["action_id"].startswith("act-1~undo-")
    said = capfd.readouterr()
    assert "secret-1" not in said.out + said.err
    assert ("not yours" in said.err) is (status == 403)
    assert hitl.sent == [], "nothing goes past the console"


# --- preview ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("E7")
def test_a_preview_shows_the_queues_and_the_movers(hitl: Cli, capfd: pytest.CaptureFixture[str]):
    hitl.work.propose(action_bytes(**BIG))
    text = (hitl.directory / "acme.yaml").read_text()
    old, new = (
        'auto_max_change: "0.20", auto_min_confidence: 0.60',
        'auto_max_change: "0.35", auto_min_confidence: 0.60',
    )
    assert old in text
    file = hitl.directory / "new.yaml"
    file.write_text(text.replace(old, new))
    assert hitl("policy", "preview", str(file), "--since", "7d") == 0
    shown = capfd.readouterr().out
    assert "REVIEW → trading" in shown
    assert "1 of 1 actions would go another way (100.0%)" in shown
    assert hitl("policy", "preview", str(file), "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["actions"], found["moved"], found["days"]) == (1, 1, 7.0)
    assert found["before"] != found["after"]


# --- small things -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (None, "–"), (0, "0.0 s"), (1_240, "1.2 s"), (31_000, "31 s"), (240_000, "4 m"), (209_000, "3 m 29 s"),
        (3_600_000, "1 h"), (3_600_500, "1 h"), (93_784_000, "1 d 2 h"), (86_400_000 + 5_000, "1 d"),
        (-240_000, "-4 m"),
    ],
)  # fmt: skip
def test_a_duration_has_two_units_at_most(ms: int | None, text: str):
    assert duration(ms) == text


def test_a_time_is_so_long_ago_or_a_time_with_its_offset():
    assert moment_ms("1h", "--since", NOW_MS) == NOW_MS - 3_600_000
    assert moment_ms("2026-11-21T07:10:00Z", "--since", NOW_MS) == NOW_MS - 140
    assert moment_ms(None, "--since", NOW_MS) is None
    with pytest.raises(UsageError, match="no time"):
        moment_ms("2026-11-21T07:10:00", "--since", NOW_MS)
