"""Test cases of a policy: an action, and what its owner expects to become of it.

```yaml
tests:
  - name: a bid over its limit goes to trading
    action: {type: bid.adjust, confidence: 0.9, changes: [{before: 1.20, after: 1.45, unit: EUR}]}
    verdicts: {negative: 0.4}           # what plugins would say, by validator; a text is a fault
    now: 2026-11-21T07:10:00Z           # gates begin and end; proposed_at is the same unless written
    expect: {outcome: REVIEW, queues: [trading], rules: [class.auto_max_change]}
```

`queues` are all that are asked, in any order; `rules` are some of those that fired. Each case stands alone: nothing
happened before it, so running sums hold only its own changes and nothing is unusual. Times of admission are not tested.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from hitl_stream.core.action import Action
from hitl_stream.core.errors import Problem
from hitl_stream.core.history import recall
from hitl_stream.core.policy.compile import Compiled, CompiledClass, compile_policy
from hitl_stream.core.policy.lint import dotted
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.reasons import Reason
from hitl_stream.core.route import Route, route
from hitl_stream.core.validators import Fault, Verdict
from hitl_stream.core.window import Window

CASES_MAX = 10_000
"""More than anyone reads; the file's own limit of values comes first."""
TENANT: Final = "test"
NO_VERDICT: Final = ": no verdict"

Read = Callable[[Mapping[str, Any]], Action | str]
"""Reads an action from plain data the way the router would, or says what is wrong with it."""


@dataclass(frozen=True)
class Result:
    """What became of one case; `differences` is empty where it passed."""

    name: str
    kind: str
    outcome: str
    queues: tuple[str, ...]
    reasons: tuple[Reason, ...]
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Say whether everything was as expected."""
        return not self.differences


@dataclass(frozen=True)
class Covered:
    """One part of the policy, and the names of the cases in which it had a say."""

    part: str
    name: str
    cases: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Every case's result, and every part of the policy with the cases that reach it."""

    results: tuple[Result, ...]
    coverage: tuple[Covered, ...]

    @property
    def failed(self) -> int:
        """Return how many cases were not as expected."""
        return sum(not result.passed for result in self.results)


class CasesError(ValueError):
    """A file of cases that cannot be run; `problems` name their place by `at`."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


def _outcome(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _time(value: object) -> object:
    if isinstance(value, str):
        return value
    raise ValueError("write a time such as 2026-11-21T07:10:00Z")


def _verdict(value: object) -> object:
    return Fault(value) if isinstance(value, str) else value


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Expectation(_Model):
    """What should come out. What is not written is not compared."""

    outcome: Annotated[str, BeforeValidator(_outcome), Field(pattern="^(EXECUTE|REVIEW|ESCALATE|REFUSE)$")]
    queues: tuple[str, ...] | None = None
    rules: tuple[str, ...] = ()


class Case(_Model):
    """One case, as it is written."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    action: dict[str, Any]
    verdicts: dict[str, Annotated[float | Fault, BeforeValidator(_verdict)]] = Field(default_factory=dict)
    now: Annotated[AwareDatetime, BeforeValidator(_time)] | None = None
    expect: Expectation


class _File(_Model):
    tests: Annotated[tuple[Case, ...], Field(min_length=1, max_length=CASES_MAX)]


def read_cases(data: Any, policy: Policy) -> tuple[Case, ...]:
    """Read the plain data of a file of cases; raise `CasesError` with everything that is wrong with it."""
    try:
        cases = _File.model_validate(data).tests
    except ValidationError as error:
        raise CasesError(tuple(_problem(each) for each in error.errors(include_url=False))) from None
    problems = [*_repeated(cases), *_unknown(cases, policy)]
    if problems:
        raise CasesError(tuple(problems))
    return cases


def run(cases: Sequence[Case], policy: Policy, digest: str, read: Read, now: datetime) -> Report:
    """Run every case against a policy that lint has passed; `now` is for cases that name no time."""
    results = tuple(_run(case, policy, digest, read, case.now or now) for case in cases)
    return Report(results, tuple(_coverage(results, compile_policy(policy, digest, _ms(now)))))


def _run(case: Case, policy: Policy, digest: str, read: Read, now: datetime) -> Result:
    fields = complete(case.action, policy, now)
    kind = str(fields.get("type", ""))
    action = read(fields)
    if isinstance(action, str):
        return Result(case.name, kind, "DEAD", (), (), (f"the action cannot be read: {action}",))
    compiled = compile_policy(policy, digest, _ms(now))
    answer = _route(action, compiled, dict(case.verdicts), _ms(now))
    queues = tuple(approval.queue for approval in answer.approvals)
    differences = tuple(_differences(case.expect, answer, queues))
    return Result(case.name, action.type, answer.outcome.name, queues, answer.reasons, differences)


def _route(action: Action, compiled: Compiled, verdicts: Mapping[str, Verdict], now_ms: int) -> Route:
    draft = Window(compiled.reach).draft()
    draft.at(now_ms)
    return route(action, recall(action, action.tenant, draft), compiled, verdicts=verdicts)


def complete(action: Mapping[str, Any], policy: Policy, now: datetime) -> dict[str, Any]:
    """Fill in what an action must have and a case need not say: ids, time, an agent that the policy knows, entities."""
    agent = next(iter(policy.agents), "agent-*").replace("*", "1")
    fields = {"action_id": "case", "tenant": TENANT, "agent": {"id": agent}, "proposed_at": now.isoformat(), **action}
    if isinstance(fields.get("agent"), str):
        fields["agent"] = {"id": fields["agent"]}
    if isinstance(fields.get("changes"), list):
        fields["changes"] = [
            {"entity": {"account": "test"}, "field": "value", **change} if isinstance(change, Mapping) else change
            for change in fields["changes"]
        ]
    return fields


def _differences(expect: Expectation, answer: Route, queues: tuple[str, ...]) -> Iterator[str]:
    if answer.outcome.name != expect.outcome:
        yield f"outcome: expected {expect.outcome}, got {answer.outcome.name}"
    if expect.queues is not None and set(expect.queues) != set(queues):
        yield f"queues: expected {_listed(expect.queues)}, got {_listed(queues)}"
    fired = [reason.rule for reason in answer.reasons]
    missing = [rule for rule in expect.rules if rule not in fired]
    if missing:
        yield f"rules: expected {_listed(missing)} to fire, fired: {_listed(fired)}"


def hints(result: Result) -> Iterator[str]:
    """Say what a failed case may lack, where it can be told."""
    for reason in result.reasons:
        if reason.rule.startswith("plugin.") and reason.saw.endswith(NO_VERDICT):
            yield f"{reason.rule} was not asked: plugins do not run in cases; write verdicts: {{<validator>: 0.9}}"
        if reason.rule == "agent.unknown":
            yield f"the policy has no agent {reason.saw}; leave agent out, or write one of its agents"
        if reason.rule == "class.undefined":
            yield f"the policy has no class {result.kind}"


# ── Coverage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _coverage(results: Sequence[Result], compiled: Compiled) -> Iterator[Covered]:
    """Yield every class, limit, rule, validator, gate and band with the cases in which it had a say."""
    policy = compiled.policy
    for name, cls in compiled.classes.items():
        own = [result for result in results if result.kind == name]
        yield _covered("class", name, own)
        for limit in _limits(cls):
            yield _covered("limit", f"{name} {limit}", _firing(own, limit))
    for rule in policy.rules:
        yield _covered("rule", rule.id, _firing(results, f"rule.{rule.id}"))
    for name in policy.validators:
        yield _covered("validator", name, _firing(results, f"validator.{name}"))
    for name in policy.gates:
        yield _covered("gate", name, [each for each in results if any(row.gate == name for row in each.reasons)])
    for band in ("band.review", "band.escalate"):
        yield _covered("band", band.removeprefix("band."), _firing(results, band))


def _limits(cls: CompiledClass) -> list[str]:
    """Name the rules that a class's own knobs can fire."""
    there = {
        "class.auto_max_change": cls.limit is not None,
        "class.auto_max_amount": cls.cap is not None,
        "class.auto_min_confidence": cls.confidence is not None,
        "class.auto_max_change_per": bool(cls.sums),
        "missing.evidence": cls.needs_evidence,
        **{f"missing.{path}": True for path, _ in cls.needs},
    }
    return [rule for rule, is_there in there.items() if is_there]


def _firing(results: Iterable[Result], rule: str) -> list[Result]:
    return [result for result in results if any(reason.rule == rule for reason in result.reasons)]


def _covered(part: str, name: str, results: Iterable[Result]) -> Covered:
    return Covered(part, name, tuple(result.name for result in results))


# ── What is wrong with a file of cases ────────────────────────────────────────────────────────────────────────────────


def _repeated(cases: Sequence[Case]) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, case in enumerate(cases):
        if case.name in seen:
            yield _wrong("cases.name", f"{case.name!r} was there before; give it another name", "tests", index, "name")
        seen.add(case.name)


def _unknown(cases: Sequence[Case], policy: Policy) -> Iterator[Problem]:
    """A slip in an expectation would only show as a failure that nobody understands."""
    for index, case in enumerate(cases):
        for name in case.verdicts:
            if name not in policy.validators:
                why = f"the policy has no validator {name}{_meant(name, policy.validators)}"
                yield _wrong("cases.validator", why, "tests", index, "verdicts", name)
        for place, name in enumerate(case.expect.queues or ()):
            if name not in policy.queues:
                why = f"the policy has no queue {name}{_meant(name, policy.queues)}"
                yield _wrong("cases.queue", why, "tests", index, "expect", "queues", place)


def _problem(details: ErrorDetails) -> Problem:
    at = tuple(details["loc"])
    last = at[-1] if at else "the file"
    match details["type"]:
        case "missing":
            why = f"`{last}` is missing"
        case "extra_forbidden":
            why = f"`{last}` is not known here{_meant(str(last), _known(at[:-1]))}"
        case "string_pattern_mismatch":
            why = f"found {details['input']!r}, expected EXECUTE, REVIEW, ESCALATE or REFUSE"
        case "value_error":
            why = str(details["ctx"]["error"])
        case _:
            why = details["msg"][:1].lower() + details["msg"][1:]
    return _wrong("cases.value", why, *at)


def _known(at: tuple[str | int, ...]) -> Iterable[str]:
    if not at:
        return ("tests",)
    return Expectation.model_fields if at[-1] == "expect" else Case.model_fields


def _meant(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {_listed(names)}"


def _wrong(rule: str, why: str, *at: str | int) -> Problem:
    return Problem(rule, why, dotted(at), at=at)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
