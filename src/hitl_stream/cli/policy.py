"""`hitl policy lint | test | explain | diff | preview | schema`: what a policy's owner asks before it goes live."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hitl_stream import settings as values
from hitl_stream.cli.decide import Decider, OrStdin, moment_of, open_lines, unreadable
from hitl_stream.cli.preview import preview
from hitl_stream.cli.settings import FOUND, Json
from hitl_stream.cli.terminal import emit, out
from hitl_stream.core.action import ACTION_BYTES_MAX, Action
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.errors import PolicyError, Problem, UsageError
from hitl_stream.core.policy.cases import CasesError, Covered, Report, Result, hints, read_cases
from hitl_stream.core.policy.cases import run as run_cases
from hitl_stream.core.policy.diff import Difference, raises_level_by_more_than_one
from hitl_stream.core.policy.diff import diff as differences
from hitl_stream.lane.step import Moment
from hitl_stream.logs import escaped
from hitl_stream.roles.plugins import PATIENT, Plugins
from hitl_stream.wire import policy_file, records
from hitl_stream.wire.codec import Undecodable, decode, decode_bytes
from hitl_stream.wire.policy_file import LoadedPolicy, by_line, json_schema, lint_file, parse
from hitl_stream.wire.records import Common, ReasonRow, ScorePart, time_text
from hitl_stream.wiring import load_policy

CASES_SUFFIX = ".test.yaml"
BAR_CELLS = 20
LOCAL_TENANT = "local"
EXAMPLE = """tests:
  - name: a post for a small campaign goes out alone
    action: {type: post.own, confidence: 0.9, content: {text: Hello}}
    expect: {outcome: EXECUTE}"""
Now = Annotated[str | None, Parameter(show_default=False)]
_encoder = msgspec.json.Encoder(decimal_format="number")
"""A decimal stays a number of JSON, to the last digit that the file has."""
_STYLES = {"EXECUTE": "bold green", "REVIEW": "bold yellow", "ESCALATE": "bold red", "REFUSE": "bold red"}
_MARKS = {"stricter": ("▲ stricter", "green"), "looser": ("▼ looser", "red"), "other": ("• other", "yellow")}


def register(app: App) -> None:
    """Add the verbs."""
    policy = App(name="policy", help="Check, test, explain and compare policies.")
    for verb in (lint, explain, diff, schema, preview):
        policy.command(verb)
    policy.command(run_tests, name="test")
    app.command(policy)


# ── lint ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def lint(file: Path, /, *, json: Json = False) -> int:
    """Check a policy file: its form, its references, its ceilings. Exit code 1 if it cannot be used.

    Parameters
    ----------
    file
        Policy file.
    json
        One object on stdout: {file, ok, digest, problems}.
    """
    text, digest = read(file), None
    try:
        loaded = parse(text, str(file))
        digest, problems = loaded.digest, lint_file(loaded)
    except PolicyError as refused:
        problems = refused.problems
    errors = sum(problem.severity == "error" for problem in problems)
    if json:
        rows = [{name: value for name, value in asdict(each).items() if name != "at"} for each in problems]
        emit({"file": str(file), "ok": not errors, "digest": digest, "problems": rows})
    else:
        for problem in problems:
            _print(_problem(problem, file))
        verdict = "cannot be used" if errors else "can be used"
        warnings = len(problems) - errors
        found = f"{_number(errors, 'error')}, {_number(warnings, 'warning')}"
        _print(f"{escaped(str(file))} {verdict}: {found}{f'; digest {digest}' if digest and not errors else ''}")
    return FOUND if errors else 0


def _problem(problem: Problem, file: Path) -> Text:
    style = "red" if problem.severity == "error" else "yellow"
    place = f"{file}:{problem.line}:{problem.column}: " if problem.line else f"{file}: "
    where = f"{problem.path}: " if problem.path else ""
    return (
        Text(escaped(place), "dim")
        .append(f"{problem.severity} ", style)
        .append(escaped(f"{problem.rule}: {where}{problem.message}"), "default")
    )


# ── test ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_tests(file: Path, /, *, cases: Path | None = None, now: Now = None, json: Json = False) -> int:
    """Run the cases beside a policy, NAME.test.yaml, and show which parts of it no case reaches.

    Exit code 1 if a case fails.

    Parameters
    ----------
    file
        Policy file.
    cases
        File of cases; else the one beside the policy.
    now
        The time of cases that name none; else the present.
    json
        One object on stdout: {file, cases, passed, failed, results, coverage}.
    """
    loaded = usable(file)
    beside = cases if cases is not None else file.with_name(file.name.removesuffix(file.suffix) + CASES_SUFFIX)
    if cases is None and not beside.exists():
        raise UsageError(f"no cases: {beside} is not there. Write some, or give --cases FILE:\n{EXAMPLE}")
    moment = datetime.now(UTC) if now is None else moment_of(now)
    report = report_of(loaded, beside, moment)
    if json:
        emit(_report_data(report, file, beside))
    else:
        _show_report(report)
    return FOUND if report.failed else 0


def report_of(loaded: LoadedPolicy, cases: Path, now: datetime) -> Report:
    """Run a file of cases; raise PolicyError, with lines, where it cannot be read."""
    root, problems = policy_file._read(read(cases))
    if root is None or problems:
        raise PolicyError(str(cases), by_line(problems))
    try:
        found = read_cases(root.value, loaded.policy)
    except CasesError as error:
        placed = [_placed(problem, root) for problem in error.problems]
        raise PolicyError(str(cases), by_line(placed)) from None
    return run_cases(found, loaded.policy, loaded.digest, read_action, now)


def _placed(problem: Problem, root: Any) -> Problem:
    line, column = policy_file._place(root, problem.at)
    return replace(problem, line=line, column=column)


def read_action(fields: Mapping[str, Any]) -> Action | str:
    """Read an action from plain data the way the router reads its bytes."""
    decoded = decode_bytes(_encoder.encode(fields))
    return f"{decoded.error}: {decoded.why}" if isinstance(decoded, Undecodable) else decoded.action


def _report_data(report: Report, file: Path, cases: Path) -> dict[str, Any]:
    return {
        "file": str(file),
        "cases": str(cases),
        "passed": len(report.results) - report.failed,
        "failed": report.failed,
        "results": [
            {
                "name": result.name,
                "passed": result.passed,
                "outcome": result.outcome,
                "queues": result.queues,
                "reasons": [
                    {name: getattr(row, name) for name in row.__struct_fields__} | {"outcome": row.outcome.name}
                    for row in result.reasons
                ],
                "differences": result.differences,
                "hints": sorted(set(hints(result))) if not result.passed else [],
            }
            for result in report.results
        ],
        "coverage": [asdict(covered) for covered in report.coverage],
    }


def _show_report(report: Report) -> None:
    for result in report.results:
        _show_result(result)
    table = Table("part", "cases", "no case reaches", box=None, pad_edge=False, header_style="bold")
    table.columns[1].justify = "right"
    table.columns[2].overflow = "fold"
    for part in dict.fromkeys(covered.part for covered in report.coverage):
        of_part = [covered for covered in report.coverage if covered.part == part]
        unreached = [covered for covered in of_part if not covered.cases]
        reached = f"{len(of_part) - len(unreached)}/{len(of_part)}"
        table.add_row(part, reached, Text(_names(unreached), "yellow" if unreached else "green"))
    out.print()
    out.print(table)
    out.print()
    passed = len(report.results) - report.failed
    _print(Text(f"{passed} passed, {report.failed} failed", "bold red" if report.failed else "bold green"))


def _show_result(result: Result) -> None:
    mark = Text("✓ ", "green") if result.passed else Text("✗ ", "bold red")
    _print(mark.append(escaped(result.name), "default"))
    if result.passed:
        return
    for difference in result.differences:
        _print(f"    {escaped(difference)}")
    for reason in result.reasons:
        queue = f" → {reason.queue}" if reason.queue else ""
        limit = f" (limit {reason.limit})" if reason.limit is not None else ""
        observed = "" if reason.counts else " (observed)"
        row = f"{reason.outcome.name} {reason.rule} {reason.saw}{limit}{queue}{observed}"
        _print(Text(f"      {escaped(row)}", "dim"))
    for hint in sorted(set(hints(result))):
        _print(f"    hint: {escaped(hint)}")


def _names(covered: list[Covered]) -> str:
    return escaped(", ".join(each.name for each in covered)) or "–"


# ── explain ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def explain(file: Path, action: OrStdin, /, *, tenant: str | None = None, now: Now = None, json: Json = False) -> int:
    """Say what becomes of one action and why: every reason, the score part by part, who is asked, and until when.

    Parameters
    ----------
    file
        Policy file.
    action
        JSON file with one action; `-` reads stdin.
    tenant
        Tenant, if the action names none; else the one of the settings, or "local".
    now
        Append time; else what the action says as proposed_at.
    json
        One object on stdout: the decision as the router would write it, and admit_by.
    """
    loaded = usable(file)
    value = _action_bytes(action)
    decoded = decode(value)
    if isinstance(decoded, Undecodable):
        advice = "; for several actions there is `hitl decide`" if value.count(b"\n{") else ""
        raise UsageError(escaped(f"{action}: no action ({decoded.error}): {decoded.why}{advice}"))
    appended_ms = None if now is None else milliseconds(moment_of(now))
    with Plugins(PATIENT) as judge:
        named = tenant or values.load().tenant or LOCAL_TENANT
        decider = Decider(loaded, named, judge=judge, appended_ms=appended_ms)
        row = decider.row(1, value)
        output = decider.outputs([row], Moment(row.timestamp))[0]
    head = orjson.loads(records.head_of(output.value or b"").removesuffix(b"}") + b"}")
    max_age_ms = (
        loaded.policy.classes[decoded.action.type].max_age if decoded.action.type in loaded.policy.classes else None
    )
    admit_by_ms = milliseconds(decoded.action.proposed_at) + (max_age_ms or loaded.policy.defaults.max_age)
    if json:
        emit({**head, "admit_by": time_text(admit_by_ms)})
        return 0
    known = msgspec.convert(head, Common)
    _explain(known, head, time_text(admit_by_ms), loaded)
    return 0


def _action_bytes(name: str) -> bytes:
    with open_lines(name) as stream:
        try:
            return stream.read(16 * ACTION_BYTES_MAX).strip()
        except OSError as error:
            raise unreadable(name, error) from None


def _explain(known: Common, head: Mapping[str, Any], admit_by: str, loaded: LoadedPolicy) -> None:
    _print(
        Text(known.outcome, _STYLES.get(known.outcome, "bold"))
        .append(escaped(f"  {known.tenant}/{known.action_id}  {known.type}  level {known.level}"), "default")
        .append(escaped(f"  by {known.agent.id} {known.agent.version}".rstrip()), "dim")
    )
    if "why" in head:
        _print(f"closed at the router: {head['end']}, {head['why']}")
    elif known.level == 1:
        _print("level 1: it is only recommended; this is the route it would have had")
    _explain_reasons(known.reasons)
    _explain_score(known, loaded)
    out.print()
    for approval in known.approvals:
        queue = loaded.policy.queues[approval.queue]
        people = "1 person" if approval.people == 1 else f"{approval.people} people"
        roles = " or ".join(queue.roles)
        _print(escaped(f"ask {approval.queue}: {people} ({roles}) by {approval.decide_by}; owner {queue.owner}"))
    times = f"admit by {admit_by}"
    if "why" not in head:
        times += f" · execute by {known.execute_by}"
        if known.outcome == "EXECUTE" and known.audit is not None and known.audit.p:
            times += f" · drawn for audit with p {known.audit.p:g}"
    _print(times)


def _explain_reasons(reasons: tuple[ReasonRow, ...]) -> None:
    if not reasons:
        _print("no rule fired: it runs alone")
        return
    table = Table("rule", "saw", "limit", "outcome", "queue", box=None, pad_edge=False, header_style="bold")
    for column in table.columns:
        column.overflow = "fold"
    for row in reasons:
        gate = f" [gate {row.gate}{'' if row.counts else ', observed only'}]" if row.gate is not None else ""
        rate = f" at {row.rate}" if row.rate is not None else ""
        table.add_row(
            Text(escaped(f"{row.rule}{gate}")),
            Text(escaped(f"{row.saw}{rate}")),
            Text(escaped(row.limit or "–")),
            Text(row.outcome, _STYLES.get(row.outcome, "") if row.counts else "dim"),
            Text(escaped(row.queue or "–")),
        )
    out.print()
    out.print(table)


def _explain_score(known: Common, loaded: LoadedPolicy) -> None:
    if known.score is None or not known.score.parts:
        return
    bands = loaded.policy.bands
    out.print()
    _print(f"score {known.score.total:.2f} (review from {bands.review}, escalate from {bands.escalate})")
    for part in known.score.parts:
        _print(_bar(part))


def _bar(part: ScorePart) -> Text:
    full = round(part.x * BAR_CELLS)
    return (
        Text(f"  {part.name:<8} ")
        .append("█" * full, "cyan")
        .append("░" * (BAR_CELLS - full), "dim")
        .append(f"  {part.x:.2f} × weight {part.w:g} = {part.share:.0%} of the score")
    )


# ── diff ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def diff(old: Path, new: Path, /, *, json: Json = False) -> int:
    """Compare two policies, knob by knob: stricter, looser, or for a person to judge. Exit code 1 if they differ.

    Parameters
    ----------
    old
        Policy file in force.
    new
        Policy file that would follow it.
    json
        One object on stdout: {same, old, new, differences, raises}.
    """
    before, after = (parse(read(path), str(path)) for path in (old, new))
    found = differences(before.policy, after.policy)
    raised = raises_level_by_more_than_one(before.policy, after.policy)
    if json:
        emit({
            "same": not found,
            "old": {"file": str(old), "digest": before.digest},
            "new": {"file": str(new), "digest": after.digest},
            "differences": [
                {"path": each.path, "before": each.before, "after": each.after, "direction": each.direction}
                for each in found
            ],
            "raises": raised,
        })  # fmt: skip
        return FOUND if found else 0
    for each in found:
        _print(_difference(each, new, after))
    for name in raised:
        level = after.policy.classes[name].level
        _print(
            Text(escaped(f"! class {name} rises by more than one level, to {level}: promote refuses it"), "bold red")
        )
    if not found:
        note = "" if before.digest == after.digest else "; one writes out a default, so their digests differ"
        _print(f"no difference{note}")
    else:
        counts = {mark: sum(each.direction == mark for each in found) for mark in _MARKS}
        _print(", ".join(f"{count} {mark}" for mark, count in counts.items() if count))
    return FOUND if found else 0


def _difference(each: Difference, file: Path, loaded: LoadedPolicy) -> Text:
    mark, style = _MARKS[each.direction]
    line, _ = loaded.place(each.at)
    change = escaped(f"{each.path}: {_value(each.before)} → {_value(each.after)}")
    return Text(f"{mark:<10}  ", style).append(change, "default").append(escaped(f"  {file}:{line}"), "dim")


def _value(value: Any) -> str:
    """Write a knob's value as JSON; of a whole part only what says something."""
    if isinstance(value, Mapping):
        value = {key: each for key, each in value.items() if each is not None and each != [] and each != {}}
    return "—" if value is None else json_text.dumps(value, ensure_ascii=False)


# ── schema, and what all share ────────────────────────────────────────────────────────────────────────────────────────


def schema() -> int:
    """Print the JSON Schema of a policy file, for editors that check YAML as it is written."""
    sys.stdout.buffer.write(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.flush()
    return 0


def usable(file: Path) -> LoadedPolicy:
    """Read a policy that keeps every law; raise PolicyError with all that it breaks."""
    return load_policy(values.load(policy=file))


def read(file: Path) -> str:
    """Read a file of text, or say why not."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from None


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _print(line: str | Text, console: Console = out) -> None:
    console.print(line, markup=False, soft_wrap=True)
