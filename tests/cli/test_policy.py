"""`hitl policy`: what is wrong, what becomes of the cases, why an action goes where, and what a new file changes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cyclopts import App
from ruamel.yaml import YAML

from hitl_stream.cli import policy as verbs
from hitl_stream.core.policy.cases import CasesError, complete, read_cases
from hitl_stream.core.policy.cases import run as run_cases
from support.make import acme, action_dict, change

Run = Callable[..., tuple[int, str, str]]
OVER = '{type: bid.adjust, confidence: 0.9, changes: [{before: "1.00", after: "1.28", unit: EUR}]}'
NOW = "2026-11-21T07:10:00Z"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a verb in a directory that holds only the example policy, through the entry point's handling of errors."""
    entry = importlib.import_module("hitl_stream.cli.main")

    def build(only: str = "") -> App:
        app = App(name="hitl")
        verbs.register(app)
        return app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HITL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(entry, "build", build)
    Path("acme.yaml").write_text(acme().text)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = entry.run(["policy", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def edit(old: str, new: str, name: str = "new.yaml") -> str:
    """Write the example policy with one edit."""
    assert old in acme().text
    Path(name).write_text(acme().text.replace(old, new, 1))
    return name


def case(expect: str, action: str = OVER, more: str = "") -> str:
    """Write a file of one case beside the example policy."""
    Path("acme.test.yaml").write_text(
        f"tests:\n  - name: a case\n    action: {action}\n    now: {NOW}\n    expect: {expect}\n{more}"
    )
    return "acme.yaml"


def data(answer: tuple[int, str, str]) -> dict[str, Any]:
    """Return the one object on stdout."""
    lines = answer[1].splitlines()
    assert len(lines) == 1
    found: dict[str, Any] = json.loads(lines[0])
    return found


def own_post(budget: str) -> str:
    """Return an action, as YAML, of a campaign with so large a budget."""
    context = f"{{campaign_budget: {{amount: {budget}, currency: EUR}}}}"
    return f"{{type: post.own, confidence: 0.9, content: {{text: Hi}}, context: {context}}}"


# --- lint -------------------------------------------------------------------------------------------------------------


def test_a_policy_that_can_be_used_ends_with_0_and_its_warnings_are_shown(run: Run) -> None:
    code, out, _ = run("lint", "acme.yaml")

    assert code == 0
    assert "acme.yaml:46:67: warning claim.money" in out
    assert f"acme.yaml can be used: 0 errors, 1 warning; digest {acme().digest}" in out


@pytest.mark.behaviour("C3")
def test_a_law_that_is_broken_is_named_with_its_place_and_ends_with_1(run: Run) -> None:
    code, out, _ = run("lint", edit("post.publish:      {level: 2", "post.publish:      {level: 3"))

    assert code == 1
    assert "error ceiling.client_content: classes.post.publish.level" in out
    assert "new.yaml cannot be used: 1 error, 1 warning" in out


def test_a_word_that_is_not_known_ends_with_1_and_the_nearest_is_named(run: Run) -> None:
    code, out, _ = run("lint", edit("\nqueues:", "\nqueue:"))

    assert code == 1
    assert "did you mean `queues`?" in out


def test_lint_as_json_is_one_object(run: Run) -> None:
    good, bad = data(run("lint", "acme.yaml", "--json")), data(run("lint", edit("\nqueues:", "\nqueue:"), "--json"))

    assert (good["ok"], good["digest"]) == (True, acme().digest)
    assert good["problems"][0]["severity"] == "warning"
    assert (bad["ok"], bad["digest"]) == (False, None)
    assert all(problem["line"] > 0 for problem in bad["problems"])


@pytest.mark.parametrize("verb", [("lint", "no.yaml"), ("test", "no.yaml"), ("diff", "no.yaml", "no.yaml")])
def test_a_policy_that_is_not_there_ends_with_2(run: Run, verb: tuple[str, ...]) -> None:
    code, out, said = run(*verb)

    assert (code, out) == (2, "")
    assert "no.yaml" in said


# --- test -------------------------------------------------------------------------------------------------------------


def test_a_case_that_is_as_expected_passes(run: Run) -> None:
    code, out, _ = run("test", case("{outcome: REVIEW, queues: [trading], rules: [class.auto_max_change]}"))

    assert code == 0
    assert "✓ a case" in out
    assert "1 passed, 0 failed" in out


@pytest.mark.parametrize(
    ("expect", "difference"),
    [
        ("{outcome: EXECUTE}", "outcome: expected EXECUTE, got REVIEW"),
        ("{outcome: REVIEW, queues: [brand]}", "queues: expected brand, got trading"),
        ("{outcome: REVIEW, queues: []}", "queues: expected none, got trading"),
        ("{outcome: REVIEW, rules: [unusual]}", "rules: expected unusual to fire, fired: class.auto_max_change"),
    ],
)
def test_a_case_that_is_not_as_expected_says_what_differs_and_every_reason(
    run: Run, expect: str, difference: str
) -> None:
    code, out, _ = run("test", case(expect))

    assert code == 1
    assert "✗ a case" in out
    assert difference in out
    assert "REVIEW class.auto_max_change 0.28 (limit 0.20) → trading" in out
    assert "0 passed, 1 failed" in out


def test_coverage_names_what_no_case_reaches(run: Run) -> None:
    found = data(run("test", case("{outcome: REVIEW}"), "--json"))

    reached = {(part["part"], part["name"]) for part in found["coverage"] if part["cases"]}
    unreached = {(part["part"], part["name"]) for part in found["coverage"] if not part["cases"]}
    assert reached == {
        ("class", "bid.adjust"),
        ("limit", "bid.adjust class.auto_max_change"),
    }
    assert {
        ("rule", "big-campaign"),
        ("validator", "short"),
        ("gate", "style"),
        ("class", "post.own"),
        ("limit", "bid.adjust class.auto_max_amount"),
        ("limit", "budget.reallocate missing.evidence"),
        ("band", "review"),
    } <= unreached


def test_a_verdict_stands_in_for_a_plugin_and_a_text_for_its_fault(run: Run) -> None:
    post = own_post("1")

    good = run("test", case("{outcome: EXECUTE, queues: []}", post, "    verdicts: {negative: 0.4}\n"))
    bad = run(
        "test", case("{outcome: ESCALATE, rules: [validator.negative]}", post, "    verdicts: {negative: -0.9}\n")
    )
    dead = run("test", case("{outcome: ESCALATE, rules: [plugin.sentiment]}", post, "    verdicts: {negative: died}\n"))
    none = run("test", case("{outcome: EXECUTE}", post))

    assert (good[0], bad[0], dead[0], none[0]) == (0, 0, 0, 1)
    assert "hint: plugin.sentiment was not asked: plugins do not run in cases; write verdicts" in none[1]


@pytest.mark.behaviour("A6")
@pytest.mark.parametrize(("amount", "outcome"), [("10000.00", "EXECUTE"), ("10000.01", "ESCALATE")])
def test_an_amount_in_a_case_is_read_to_its_last_digit(run: Run, amount: str, outcome: str) -> None:
    action = own_post(amount)

    code, out, _ = run("test", case(f"{{outcome: {outcome}}}", action, "    verdicts: {negative: 1}\n"))

    assert code == 0, out


def test_gates_are_those_of_the_case_s_own_time(run: Run) -> None:
    post = "{type: post.publish, content: {text: clinically proven, platform: x}, context: {}}"
    text = "tests:\n"
    for day, rules in (("2026-10-31", "[class.level]"), ("2026-11-02", "[validator.claims]")):
        text += f"  - {{name: {day}, action: {post}, now: '{day}T12:00:00+01:00', expect: {{outcome: "
        text += f"{'REVIEW' if day < '2026-11-01' else 'ESCALATE'}, rules: {rules}}}}}\n"
    Path("acme.test.yaml").write_text(text)

    code, out, _ = run("test", "acme.yaml")

    assert code == 0, out


def test_an_action_that_the_router_could_not_read_fails_its_case(run: Run) -> None:
    code, out, _ = run("test", case("{outcome: DEAD}".replace("DEAD", "REVIEW"), "{type: bid.adjust, confidence: {}}"))

    assert code == 1
    assert "the action cannot be read: schema: " in out


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("tests:\n  - {name: a, action: {type: x}}\n", "acme.test.yaml:2:5: error cases.value: tests[0].expect"),
        ("tests:\n  - {name: a, action: {}, expct: {}, expect: {outcome: REVIEW}}\n", "did you mean expect?"),
        ("tests:\n  - {name: a, action: {}, expect: {outcome: MAYBE}}\n", "expected EXECUTE, REVIEW, "),
        ("tests:\n  - {name: a, action: {}, verdicts: {nagative: 1}, expect: {outcome: REVIEW}}\n", "mean negative?"),
        ("tests:\n  - {name: a, action: {}, expect: {outcome: REVIEW, queues: [tading]}}\n", "did you mean trading?"),
        ("tests:\n  - {name: a, action: {}, now: noon, expect: {outcome: REVIEW}}\n", "tests[0].now"),
        ("tests: []\n", "acme.test.yaml:1:1: error cases.value: tests"),
        ("tests: [\n", "file.syntax"),
        ("", "file.empty"),
        ("- a\n", "acme.test.yaml:1:1: error cases.value"),
    ],
)  # fmt: skip
def test_a_file_of_cases_that_cannot_be_read_ends_with_2_and_its_line(run: Run, text: str, found: str) -> None:
    Path("acme.test.yaml").write_text(text)

    code, out, said = run("test", "acme.yaml")

    assert (code, out) == (2, "")
    assert found in " ".join(said.split())


def test_two_cases_of_one_name_are_refused(run: Run) -> None:
    one = f"  - {{name: a, action: {OVER}, expect: {{outcome: REVIEW}}}}\n"
    Path("acme.test.yaml").write_text("tests:\n" + one + one)

    code, _, said = run("test", "acme.yaml")

    assert code == 2
    assert "acme.test.yaml:3:12" in said


def test_without_cases_it_says_how_one_looks_and_the_example_can_be_read(run: Run) -> None:
    code, _, said = run("test", "acme.yaml")

    assert code == 2
    assert "acme.test.yaml is not there" in " ".join(said.split())
    assert len(read_cases(YAML(typ="safe").load(verbs.EXAMPLE), acme().policy)) == 1


def test_cases_can_lie_elsewhere(run: Run) -> None:
    case("{outcome: REVIEW}")
    Path("acme.test.yaml").rename("other.yaml")

    assert run("test", "acme.yaml", "--cases", "other.yaml")[0] == 0


def test_a_case_need_only_say_what_it_is_about() -> None:
    now = datetime(2026, 11, 21, 7, 10, tzinfo=UTC)
    fields = complete({"type": "bid.adjust", "changes": [{"before": 1, "after": 2}]}, acme().policy, now)

    assert fields["agent"] == {"id": "bidder-7"}
    assert fields["proposed_at"] == "2026-11-21T07:10:00+00:00"
    assert fields["changes"] == [{"entity": {"account": "test"}, "field": "value", "before": 1, "after": 2}]


def test_cases_are_plain_data_in_and_a_report_out() -> None:
    cases = read_cases(
        {"tests": [{"name": "a", "action": {"type": "draft.internal"}, "expect": {"outcome": "execute"}}]},
        acme().policy,
    )

    report = run_cases(cases, acme().policy, "d" * 64, verbs.read_action, datetime(2026, 11, 21, tzinfo=UTC))

    assert [result.passed for result in report.results] == [True]
    with pytest.raises(CasesError, match="tests"):
        read_cases({}, acme().policy)


# --- explain ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("B1")
def test_explain_shows_every_reason_with_its_values_the_score_who_is_asked_and_until_when(run: Run) -> None:
    Path("a.json").write_text(json.dumps(action_dict(changes=[change("1.00", "1.28")], proposed_at=NOW), indent=2))

    code, out, _ = run("explain", "acme.yaml", "a.json")

    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "REVIEW acme/act-1 bid.adjust level 3 by bidder-7 1"
    assert "class.auto_max_change 0.28 0.20 REVIEW trading" in lines
    assert any(line.startswith("size ████████████████████ 1.00 × weight 3") for line in lines)
    assert "ask trading: 1 person (trader) by 2026-11-21T07:25:00.000Z; owner trading-desk" in lines
    assert "admit by 2026-11-21T07:11:00.000Z · execute by 2026-11-21T07:40:00.000Z" in lines


def test_explain_says_that_an_action_runs_alone(run: Run) -> None:
    Path("a.json").write_text(json.dumps(action_dict()))

    code, out, _ = run("explain", "acme.yaml", "a.json")

    assert code == 0
    assert "no rule fired: it runs alone" in out
    assert "drawn for audit with p 0.01" in out


def test_explain_says_why_an_action_is_not_even_admitted(run: Run) -> None:
    Path("a.json").write_text(json.dumps(action_dict(proposed_at="2026-11-21T07:00:00Z")))

    _, out, _ = run("explain", "acme.yaml", "a.json", "--now", NOW)

    assert out.startswith("REFUSE")
    assert "closed at the router: refused, late" in out
    assert "admission.late" in out


def test_explain_as_json_is_the_decision_and_admit_by(run: Run) -> None:
    Path("a.json").write_text(json.dumps(action_dict(tenant=..., proposed_at=NOW)))

    found = data(run("explain", "acme.yaml", "a.json", "--json"))

    assert (found["outcome"], found["tenant"], found["policy"]) == ("EXECUTE", "local", acme().digest)
    assert found["admit_by"] == "2026-11-21T07:11:00.000Z"


def test_an_agent_cannot_steer_the_terminal(run: Run) -> None:
    Path("a.json").write_text(json.dumps(action_dict(action_id="\x1b[2J", agent={"id": "\x1b]0;x\x07"})))

    _, out, _ = run("explain", "acme.yaml", "a.json")

    assert "\x1b" not in out
    assert "agent.unknown" in out


def test_what_is_no_action_ends_with_2_and_says_why(run: Run) -> None:
    Path("a.jsonl").write_text(json.dumps(action_dict()) + "\n" + json.dumps(action_dict()) + "\n")

    code, out, said = run("explain", "acme.yaml", "a.jsonl")

    assert (code, out) == (2, "")
    assert "a.jsonl: no action (not_json)" in said
    assert "for several actions there is `hitl decide`" in " ".join(said.split())


# --- diff, schema -----------------------------------------------------------------------------------------------------


def test_a_policy_does_not_differ_from_itself(run: Run) -> None:
    code, out, _ = run("diff", "acme.yaml", "acme.yaml")

    assert (code, out) == (0, "no difference\n")


@pytest.mark.parametrize(
    ("old", "new", "mark"),
    [
        ('auto_max_change: "0.20"', 'auto_max_change: "0.25"', "looser"),
        ('auto_max_change: "0.20"', 'auto_max_change: "0.15"', "stricter"),
        ("sla: 15m", "sla: 20m", "other"),
    ],
)
def test_each_change_is_marked_stricter_looser_or_other_and_ends_with_1(
    run: Run, old: str, new: str, mark: str
) -> None:
    code, out, _ = run("diff", "acme.yaml", edit(old, new))
    found = data(run("diff", "acme.yaml", "new.yaml", "--json"))

    assert code == 1
    assert f"{mark} " in out
    assert out.endswith(f"1 {mark}\n")
    assert [each["direction"] for each in found["differences"]] == [mark]
    assert found["same"] is False


@pytest.mark.behaviour("E2")
def test_a_class_that_rises_by_more_than_one_level_is_flagged(run: Run) -> None:
    edit("draft.internal:    {level: 4", "draft.internal:    {level: 2", "old.yaml")

    _, out, _ = run("diff", "old.yaml", "acme.yaml")
    found = data(run("diff", "old.yaml", "acme.yaml", "--json"))

    assert "! class draft.internal rises by more than one level, to 4: promote refuses it" in out
    assert found["raises"] == ["draft.internal"]


def test_the_schema_is_one_that_the_example_keeps(run: Run) -> None:
    code, out, _ = run("schema")

    assert code == 0
    jsonschema.Draft202012Validator(json.loads(out)).validate(
        YAML(typ="safe").load(acme().text.replace("2026-11-01", "'2026-11-01'").replace("2027-01-10", "'2027-01-10'"))
    )
