"""`hitl decide`: a file of actions goes through the router's own step, and every line gets its answer."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from hitl_stream.cli import decide as verb
from hitl_stream.cli.decide import BATCH_LINES_MAX, LINE_BYTES_MAX, READ_BYTES_MAX
from support.make import NOW_MS, acme, action_dict, change, first_line, iso

Run = Callable[..., tuple[int, list[dict[str, Any]], str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run the verb in an empty directory, through the entry point's own handling of errors."""
    entry = importlib.import_module("hitl_stream.cli.main")

    def build(only: str = "") -> App:
        app = App(name="hitl")
        verb.register(app)
        return app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(entry, "build", build)
    (tmp_path / "acme.yaml").write_text(acme().text)

    def run(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        code = entry.run(["decide", *arguments])
        captured = capsysbinary.readouterr()
        return code, [json.loads(line) for line in captured.out.splitlines()], captured.err.decode()

    return run


def write(*lines: dict[str, Any] | str | bytes, name: str = "actions.jsonl") -> str:
    """Write a file of lines in the working directory."""
    raw = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
           for line in lines]  # fmt: skip
    Path(name).write_bytes(b"\n".join(raw) + b"\n")
    return name


def bids(count: int, **parts: Any) -> list[dict[str, Any]]:
    """Return bids of different campaigns and times that run alone."""
    return [
        action_dict(action_id=f"a{i}", proposed_at=iso(NOW_MS + i * 10), changes=[change(campaign=f"c{i}")], **parts)
        for i in range(count)
    ]


def outcomes(answers: list[dict[str, Any]]) -> list[str]:
    return [answer["outcome"] for answer in answers]


def rules(answer: dict[str, Any]) -> list[str]:
    return [reason["rule"] for reason in answer["reasons"]]


def test_each_line_gets_one_answer_in_order_with_every_reason_and_who_is_asked(run: Run) -> None:
    over = action_dict(action_id="big", changes=[change("1.00", "1.28")])

    code, (alone, asked), _ = run(write(action_dict(), over), "--policy", "acme.yaml")

    assert code == 0
    assert (alone["line"], alone["outcome"], alone["id"], alone["queues"]) == (1, "EXECUTE", "acme/act-1", [])
    assert (asked["line"], asked["outcome"], asked["id"]) == (2, "REVIEW", "acme/big")
    assert asked["queues"] == ["trading"]
    assert asked["reasons"][0]["rule"] == "class.auto_max_change"
    assert (asked["reasons"][0]["saw"], asked["reasons"][0]["limit"]) == ("0.28", "0.20")
    assert asked["approvals"][0]["queue"] == "trading"
    assert asked["score"]["total"] > alone["score"]["total"] > 0
    assert asked["execute_by"].endswith("Z")


def test_what_is_no_action_is_dead_and_the_others_are_decided(run: Run) -> None:
    code, answers, said = run(
        write(action_dict(), "{", {"type": "x"}, action_dict(action_id="b")), "--policy", "acme.yaml"
    )

    assert code == 0
    assert outcomes(answers) == ["EXECUTE", "DEAD", "DEAD", "EXECUTE"]
    assert answers[1] == {"line": 2, "outcome": "DEAD", "error": "not_json", "why": answers[1]["why"]}
    assert answers[2]["error"] == "schema"
    assert "not_json 1" in said


def test_blank_lines_are_passed_over_and_still_counted(run: Run) -> None:
    _, answers, _ = run(write("", action_dict(), "  \r", b"", action_dict(action_id="b")), "--policy", "acme.yaml")

    assert [answer["line"] for answer in answers] == [2, 5]


def test_a_file_without_a_last_line_feed_and_with_those_of_windows_is_read_whole(run: Run) -> None:
    lines = [json.dumps(each).encode() for each in bids(3)]
    Path("a.jsonl").write_bytes(b"\r\n".join(lines))

    _, answers, _ = run("a.jsonl", "--policy", "acme.yaml")

    assert outcomes(answers) == ["EXECUTE"] * 3


def test_a_line_of_megabytes_is_dead_and_the_next_one_is_read(run: Run) -> None:
    giant = b'{"rationale": "' + b"x" * (LINE_BYTES_MAX + READ_BYTES_MAX) + b'"}'

    _, answers, _ = run(write(giant, action_dict()), "--policy", "acme.yaml")

    assert outcomes(answers) == ["DEAD", "EXECUTE"]
    assert answers[0]["error"] == "too_large"


def test_the_second_of_two_equal_lines_is_a_duplicate_and_other_bytes_are_a_conflict(run: Run) -> None:
    _, answers, _ = run(write(action_dict(), action_dict(), action_dict(confidence=0.99)), "--policy", "acme.yaml")

    assert outcomes(answers) == ["EXECUTE", "REFUSE", "REFUSE"]
    assert [answer.get("why") for answer in answers] == [None, "duplicate", "conflict"]


def test_windows_reach_over_batches_so_many_small_steps_do_not_pass_the_limit(run: Run) -> None:
    steps = [
        action_dict(action_id=f"a{i}", proposed_at=iso(NOW_MS + i * 60_000), changes=[change("1.00", "1.09")])
        for i in range(7)
    ]

    _, answers, _ = run(write(*steps), "--policy", "acme.yaml")

    assert outcomes(answers) == ["EXECUTE"] * 5 + ["REVIEW"] * 2
    assert rules(answers[5]) == ["class.auto_max_change_per"]


def test_each_line_counts_as_appended_when_it_was_proposed(run: Run) -> None:
    _, (answer,), _ = run(write(action_dict(proposed_at="2026-11-20T00:00:00Z")), "--policy", "acme.yaml")

    assert answer["outcome"] == "EXECUTE"
    assert answer["execute_by"] == "2026-11-20T00:15:00.000Z"


def test_with_a_time_given_older_lines_are_late(run: Run) -> None:
    _, (answer,), said = run(
        write(action_dict(proposed_at="2026-11-20T00:00:00Z")), "--policy", "acme.yaml", "--now", "2026-11-21T07:10:00Z"
    )

    assert (answer["outcome"], answer["why"]) == ("REFUSE", "late")
    assert "admission.late 1" in said


@pytest.mark.parametrize("proposed_at", ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z"])
def test_a_time_that_no_broker_shows_is_answered_too(run: Run, proposed_at: str) -> None:
    _, answers, _ = run(
        write(action_dict(), action_dict(action_id="b", proposed_at=proposed_at)), "--policy", "acme.yaml"
    )

    assert outcomes(answers) == ["EXECUTE", "REFUSE"]


def test_lines_out_of_order_are_decided_and_the_summary_says_so(run: Run) -> None:
    _, answers, said = run(write(*reversed([*bids(2), *bids_later(2)])), "--policy", "acme.yaml")

    assert outcomes(answers) == ["EXECUTE"] * 4
    assert "sort by proposed_at" in said


def bids_later(count: int) -> list[dict[str, Any]]:
    return [
        {**each, "action_id": f"later{i}", "proposed_at": iso(NOW_MS + 3_600_000)} for i, each in enumerate(bids(count))
    ]


def test_an_id_is_new_in_each_account_as_it_would_be_on_kafka(run: Run) -> None:
    file = write(*(action_dict(changes=[change(account=f"acc-{i // 2}")]) for i in range(8)))

    _, in_one, _ = run(file, "--policy", "acme.yaml")
    _, in_many, _ = run(file, "--policy", "acme.yaml", "--partitions", "64")

    assert outcomes(in_one) == outcomes(in_many) == ["EXECUTE", "REFUSE"] * 4
    assert [answer["line"] for answer in in_many] == list(range(1, 9))


def test_an_action_without_tenant_is_refused_unless_one_is_given(run: Run) -> None:
    file = write(action_dict(tenant=...))

    _, (refused,), said = run(file, "--policy", "acme.yaml")
    _, (decided,), _ = run(file, "--policy", "acme.yaml", "--tenant", "acme")

    assert rules(refused) == ["identity.tenant"]
    assert "give them one with --tenant" in said
    assert (decided["outcome"], decided["id"]) == ("EXECUTE", "acme/act-1")


def test_level_1_is_marked_as_recommended(run: Run) -> None:
    Path("p.yaml").write_text(acme().text.replace("bid.adjust:        {level: 3", "bid.adjust:        {level: 1"))

    _, (answer,), said = run(write(action_dict()), "--policy", "p.yaml")

    assert answer["recommended"] is True
    assert "RECOMMEND" in said


def test_more_lines_than_one_batch_give_the_same_answers_every_time(run: Run) -> None:
    file = write(*bids(2 * BATCH_LINES_MAX + 7))

    code, answers, said = run(file, "--policy", "acme.yaml")
    _, again, _ = run(file, "--policy", "acme.yaml")

    assert code == 0
    assert [answer["line"] for answer in answers] == list(range(1, 2 * BATCH_LINES_MAX + 8))
    assert again == answers
    assert f"{2 * BATCH_LINES_MAX + 7:,} lines" in said


def test_the_summary_counts_by_class_and_outcome_and_names_the_top_reasons(run: Run) -> None:
    over = [action_dict(action_id=f"o{i}", changes=[change("1.00", "1.28", campaign=f"o{i}")]) for i in range(3)]

    _, _, said = run(write(*over, *bids(2), action_dict(action_id="x", type="unheard.of")), "--policy", "acme.yaml")

    lines = [line.split() for line in said.splitlines()]
    assert ["class", "EXECUTE", "REVIEW", "ESCALATE"] in lines
    assert ["bid.adjust", "2", "3", "·"] in lines
    assert ["none", "·", "·", "1"] in lines
    assert "reasons: class.auto_max_change 3, class.undefined 1" in said
    assert "a second) under acme-2026-11" in said


@pytest.mark.behaviour("D2", "D3")
def test_of_500_first_lines_under_an_enforced_gate_370_go_out_and_130_are_queued(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tone_plugin.py").write_text("def tone(texts): return [0.2 if 'BUY NOW' in t else 0.9 for t in texts]")
    info = tmp_path / "tone-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tone\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hitl_stream.plugins]\ntone = tone_plugin:tone\n")
    monkeypatch.syspath_prepend(tmp_path)
    Path("p.yaml").write_text(acme().text.replace("state: observe", "state: enforce"))

    _, answers, _ = run(write(*first_lines()), "--policy", "p.yaml")

    assert Counter(outcomes(answers)) == {"EXECUTE": 370, "REVIEW": 130}
    assert {tuple(answer["queues"]) for answer in answers} == {(), ("sdr",)}
    fired = Counter(rule for answer in answers for rule in rules(answer))
    assert fired == {"validator.short": 50, "validator.names_company": 51, "validator.tone": 30}


def first_lines() -> list[dict[str, Any]]:
    """Return 370 good first lines, 50 that are one character too long, 50 without the company, 30 in a bad tone."""
    good = "Hello Anna, we saw that Acme grows fast. Number {}."
    texts = [good.format(i) for i in range(370)]
    texts += [good.format(i).ljust(120, ".") for i in range(49)] + ["x" * 120]
    texts += [f"Hello Anna, we saw that you grow fast. Number {i}." for i in range(50)]
    texts += [f"Acme, BUY NOW! Number {i}" for i in range(30)]
    return [
        action_dict(**{**first_line(text), "action_id": f"f{i}", "proposed_at": iso(NOW_MS + i)})
        for i, text in enumerate(texts)
    ]


@pytest.mark.behaviour("F14")
def test_a_plugin_that_is_not_installed_escalates_by_its_name(run: Run) -> None:
    Path("p.yaml").write_text(acme().text.replace("state: observe", "state: enforce"))

    _, (answer,), _ = run(write(action_dict(**first_line())), "--policy", "p.yaml")

    assert (answer["outcome"], rules(answer)) == ("ESCALATE", ["plugin.tone"])
    assert "no plugin is called tone" in answer["reasons"][0]["saw"]


@pytest.mark.behaviour("C1")
@pytest.mark.parametrize(
    ("review", "expected"),
    [
        ("all", ["REVIEW", "REVIEW", "REVIEW"]),
        ("above_risk", ["EXECUTE", "REVIEW", "REVIEW"]),
        ("edge_cases", ["EXECUTE", "REVIEW", "EXECUTE"]),
        ("sample", ["EXECUTE", "EXECUTE", "EXECUTE"]),
        ("periodic", ["EXECUTE", "EXECUTE", "EXECUTE"]),
    ],
)
def test_one_key_of_a_class_selects_what_people_see(run: Run, review: str, expected: list[str]) -> None:
    Path("p.yaml").write_text(
        acme().text.replace(
            "email.route:       {level: 3,", f'email.route: {{review: {review}, auto_max_change: "0.10", level: 3,'
        )
    )
    kinds = {"calm": {}, "doubtful": {"confidence": 0.5}, "large": {"changes": [change("1.00", "1.50", campaign="c3")]}}
    actions = [action_dict(**{"action_id": name, "type": "email.route", **parts}) for name, parts in kinds.items()]

    _, answers, _ = run(write(*actions), "--policy", "p.yaml")

    assert outcomes(answers) == expected


def test_a_file_that_is_not_there_is_named(run: Run) -> None:
    code, answers, said = run("nowhere.jsonl", "--policy", "acme.yaml")

    assert (code, answers) == (2, [])
    assert "nowhere.jsonl: cannot be read: No such file or directory; give a file, or - for stdin" in " ".join(
        said.split()
    )


def test_without_a_policy_the_examples_are_named(run: Run) -> None:
    code, _, said = run(write(action_dict()))

    assert code == 2
    assert "--policy FILE, HITL_POLICY or `policy` in hitl.toml" in " ".join(said.split())
    assert "acme.yaml" in said
    assert "demo.yaml" in said


def test_the_policy_of_the_settings_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HITL_POLICY", "acme.yaml")

    assert outcomes(run(write(action_dict()))[1]) == ["EXECUTE"]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [("queues:", "queue:", "file.unknown_key"), ("post.publish:      {level: 2", "post.publish: {level: 3", "ceiling")],
)
def test_a_policy_that_does_not_validate_ends_with_2_and_its_line(run: Run, old: str, new: str, found: str) -> None:
    Path("p.yaml").write_text(
        acme().text.replace(f"\n{old}" if old == "queues:" else old, f"\n{new}" if old == "queues:" else new)
    )

    code, answers, said = run(write(action_dict()), "--policy", "p.yaml")

    assert (code, answers) == (2, [])
    assert found in said
    assert "p.yaml:" in said


@pytest.mark.parametrize("now", ["yesterday", "2026-11-21T07:10:00"])
def test_a_time_without_its_offset_is_refused(run: Run, now: str) -> None:
    code, _, said = run(write(action_dict()), "--policy", "acme.yaml", "--now", now)

    assert code == 2
    assert f"--now {now} is no time" in said


def test_an_empty_file_is_no_error(run: Run) -> None:
    code, answers, said = run(write(""), "--policy", "acme.yaml")

    assert (code, answers) == (0, [])
    assert "no actions" in said


def test_stdin_is_read_and_answered_while_it_is_still_open(run: Run) -> None:
    script = f"""
import sys
from cyclopts import App
from hitl_stream.cli import decide
app = App(name="hitl")
decide.register(app)
app(["decide", "-", "--policy", {str(Path("acme.yaml").resolve())!r}])
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(action_dict()).encode() + b"\n")
        process.stdin.flush()

        assert json.loads(process.stdout.readline())["outcome"] == "EXECUTE"

        out, said = process.communicate(json.dumps(action_dict(action_id="b")).encode())
    assert json.loads(out)["line"] == 2
    assert process.returncode == 0
    assert b"2 lines in" in said


def test_on_a_terminal_a_line_is_for_people_and_an_agent_cannot_steer_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = verb.Decider(acme()).decide([(1, json.dumps(action_dict(action_id="\x1b[2Jgone", type="x")).encode())])

    shown = str(verb._shown(answers[0]))

    assert "\x1b" not in shown
    assert shown.split()[:2] == ["1", "ESCALATE"]
    assert "class.undefined" in shown
    assert shown.endswith("→ triage")
