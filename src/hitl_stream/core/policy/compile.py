"""A policy as the router reads it: one object per class, with every look-up done beforehand.

Only what names an action's class runs for it. Gates have a first and a last day, and pins an end, so a compiled policy
is good for a stretch of time and says which. What signed records say (`Rules`) is compiled in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import inf
from typing import Any
from zoneinfo import ZoneInfo

from hitl_stream.core.action import Action
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.events import Level, Outcome
from hitl_stream.core.fields import ABSENT, NO_FACTS, Facts, FieldError, Read, raw_reader, reader
from hitl_stream.core.policy.lint import audit_floor, ceiling, is_protected
from hitl_stream.core.policy.model import ActionClass, Gate, Match, Policy, Rule, duration_ms
from hitl_stream.core.policy.rules import NO_RECORDS, NO_RULES, GateStates, Rules, State, gate_digest, gate_states
from hitl_stream.core.quantity import EXACT, NEAR
from hitl_stream.core.reasons import Reason
from hitl_stream.core.score import Scale
from hitl_stream.core.triggers import Trigger, budget_overrun, contradicts, denied_terms, pin_book, wrong_signal
from hitl_stream.core.validators import Check, Finding, PluginError, Verdicts, checker, plugin_of
from hitl_stream.core.window import Reach

LATENESS_MS = 5_000
"""An action proposed further ahead than this is refused: no clock of an agent may buy it time."""
GRACE_MS = 900_000
"""Time to execute after the last decision, where the action itself names no end."""
EXECUTE_BY_MAX_MS = 15 * 86_400_000
"""No action waits longer than half of what `held` keeps."""
AGENTS_CACHED_MAX = 65_536

OUTCOMES = {"review": Outcome.REVIEW, "escalate": Outcome.ESCALATE, "refuse": Outcome.REFUSE}
Extra = Callable[[Action, Facts, Verdicts], Sequence[Reason]]
Under = Callable[[Action, int], tuple[str, ...]]
NONE: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class PluginJob:
    """A text that a worker process must judge before the action can be routed."""

    validator: str
    plugin: str
    read: Read


@dataclass(frozen=True, slots=True)
class Asked:
    """A queue as routing needs it: how long it has, and how many of its people."""

    sla_ms: int
    people: int


@dataclass(frozen=True, slots=True)
class CompiledClass:
    """Everything that routing needs to know of one class of action."""

    name: str
    label: str
    level: Level
    level_number: int
    baseline: Reason | None
    queue: str
    senior: str
    people: int
    limit: Decimal | None
    limit_float: float
    cap: Decimal | None
    cap_float: float
    sized: bool
    limit_safe: float
    cap_safe: float
    sum_safe: float
    confidence: Decimal | None
    doubt_min: float
    doubt_safe: float
    sums: Mapping[int, tuple[float, str]]
    banded: bool
    needs: tuple[tuple[str, Read], ...]
    needs_evidence: bool
    triggers: tuple[Trigger, ...]
    extras: tuple[Extra, ...]
    plugins: tuple[PluginJob, ...]
    max_age_ms: int
    audit_p: float


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy, ready to route with from `since_ms` until `until_ms` (when a gate begins or ends, or a pin ends)."""

    policy: Policy
    digest: str
    classes: Mapping[str, CompiledClass]
    undefined: CompiledClass
    queues: Mapping[str, Asked]
    agents: AgentBook
    exceptions: Mapping[str, str]
    scale: Scale
    currency: str
    review_from: float
    escalate_from: float
    unusual_over: float
    reach: Reach
    plugin_types: tuple[bytes, ...]
    under: Under
    """Which gates look at an action that is routed at a time, whatever their state."""
    since_ms: int
    until_ms: int

    def of(self, kind: str) -> CompiledClass:
        """Return the class of an action type; what no class defines goes to people."""
        return self.classes.get(kind, self.undefined)


class AgentBook:
    """Which agents the policy knows. `known[agent]` is the same as `agent in book` without a call: routing uses it."""

    def __init__(self, policy: Policy) -> None:
        exact = frozenset(name for name in policy.agents if not name.endswith("*"))
        self.known = _Known(exact, tuple(name[:-1] for name in policy.agents if name.endswith("*")))

    def __contains__(self, agent: str) -> bool:
        return self.known[agent]


class _Known(dict[str, bool]):
    """Answers of the past; what is not among them is looked up."""

    def __init__(self, exact: frozenset[str], prefixes: tuple[str, ...]) -> None:
        super().__init__()
        self.exact = exact
        self.prefixes = prefixes

    def __missing__(self, agent: str) -> bool:
        known = not (self.exact or self.prefixes) or agent in self.exact or agent.startswith(self.prefixes)
        if len(self) < AGENTS_CACHED_MAX:
            self[agent] = known
        return known


def compile_policy(policy: Policy, digest: str, now_ms: int, rules: Rules = NO_RULES) -> Compiled:
    """Compile a policy for the moment `now_ms`, under `rules`. Its references must hold: `lint` has seen them."""
    return _Compiler(policy, digest, now_ms, rules).compile()


def looks(policy: Policy, name: str) -> Callable[[Action, int], bool]:
    """Return what says whether a gate looks at an action that is routed at a time: of its classes, in its segment, on
    its days. Where a field of the segment cannot be read, it does: it escalates."""
    gate = policy.gates[name]
    compiler = _Compiler(policy, "", 0, NO_RULES)
    classes, tests, (since, until) = frozenset(gate.classes), compiler._tests(gate.segment), compiler._days(gate)

    def looks_at(action: Action, at_ms: int) -> bool:
        if action.type not in classes or not since <= at_ms < until:
            return False
        try:
            return _hits(tests, action, NO_FACTS) is not None
        except FieldError:
            return True

    return looks_at


def gates_over(policy: Policy) -> Under:
    """Return what names the gates that look at an action; one that is removed does, too: its audits are held to it."""
    tests = [(name, looks(policy, name)) for name in policy.gates]
    return lambda action, at_ms: tuple(name for name, looks_at in tests if looks_at(action, at_ms))


class _Compiler:
    def __init__(self, policy: Policy, digest: str, now_ms: int, rules: Rules) -> None:
        self.policy = policy
        self.digest = digest
        self.now_ms = now_ms
        self.rules = rules
        self.zone = ZoneInfo(policy.time_zone)
        windows = {duration_ms(window) for spec in policy.classes.values() for window in spec.auto_max_change_per}
        self.windows = tuple(sorted(windows))
        self.checks: dict[str, Check] = {}
        self.pins = pin_book({n: pin for n, pin in rules.pins.items() if milliseconds(pin.until) > now_ms})

    def compile(self) -> Compiled:
        policy, defaults = self.policy, self.policy.defaults
        longest = max([defaults.max_age, *(spec.max_age for spec in policy.classes.values() if spec.max_age)])
        since, until = self._validity()
        baseline = Reason("class.undefined", "a type without a class", None, Outcome.ESCALATE, defaults.queue)
        undefined = self._class("none", ActionClass(), "none", baseline)
        levels = self.rules.levels
        classes = {
            # A record may hold down a type that the file does not even name.
            name: self._class(name, ActionClass(), "none", baseline, levels[name])
            for name in levels
            if name not in policy.classes
        }
        classes |= {
            name: self._class(name, spec, name, None, levels.get(name, Level.LOG))
            for name, spec in policy.classes.items()
        }
        return Compiled(
            policy=policy,
            digest=self.digest,
            classes=classes,
            undefined=undefined,
            queues={name: Asked(queue.sla, 1) for name, queue in policy.queues.items()},
            agents=AgentBook(policy),
            exceptions=dict(policy.exceptions),
            scale=Scale(policy.weights),
            currency=policy.currency,
            review_from=float(policy.bands.review),
            escalate_from=float(policy.bands.escalate),
            unusual_over=float(defaults.unusual_over),
            reach=Reach(longest + LATENESS_MS, defaults.unusual_window, self.windows),
            plugin_types=tuple(name.encode() for name, cls in classes.items() if cls.plugins),
            under=gates_over(policy),
            since_ms=since,
            until_ms=until,
        )

    def _class(
        self, name: str, spec: ActionClass, label: str, baseline: Reason | None, said: int = Level.LOG
    ) -> CompiledClass:
        policy = self.policy
        queue = spec.queue or policy.defaults.queue
        senior = (policy.queues[queue].next if queue in policy.queues else None) or policy.defaults.queue
        # Lint refuses a file that is over its ceiling; whatever way a policy came here, no action runs over it.
        filed = Level(min(spec.level, ceiling(spec.consequence)))
        level = Level(min(filed, said))
        review = spec.review or {2: "all", 4: "sample"}.get(level, "above_risk")
        risk = review in ("all", "above_risk")
        doubt = risk or review == "edge_cases"
        if baseline is None and (level is Level.CONFIRM or review == "all"):
            rule = "class.level" if level is Level.CONFIRM else "class.review"
            baseline = Reason(rule, str(int(level)) if rule == "class.level" else review, None, Outcome.REVIEW, queue)
        cap = spec.auto_max_amount
        audit = policy.defaults.audit_sample if spec.audit_sample is None else spec.audit_sample
        p = float(max(audit, audit_floor(spec.consequence))) if level >= Level.REPORT else 0.0
        limit = spec.auto_max_change
        # By the file's level: a class that a record holds down loses no limit by it.
        if limit is None and "financial" in spec.consequence and filed >= Level.REPORT:
            limit = policy.defaults.auto_max_change
        extras, plugins = self._extras(name, spec, queue, senior)
        amount = self._money(cap) if cap is not None and risk else None
        confidence = spec.auto_min_confidence if doubt else None
        return CompiledClass(
            name=name,
            label=label,
            level=level,
            level_number=int(level),
            baseline=baseline,
            queue=queue,
            senior=senior,
            people=spec.people,
            limit=limit if risk else None,
            limit_float=float(limit or 0),
            cap=amount,
            cap_float=float(amount or 0),
            sized=risk and (limit is not None or amount is not None or bool(spec.auto_max_change_per)),
            limit_safe=_inside(limit),
            cap_safe=_inside(amount),
            sum_safe=min((allowed for allowed, _ in self._sums(spec).values()), default=inf) if risk else inf,
            confidence=confidence,
            # Floats pass what is clearly confident enough; anything near an edge is looked at in decimals.
            doubt_min=NEAR,
            doubt_safe=1.0 - float(confidence or 0) - NEAR,
            sums=self._sums(spec) if risk else {},
            banded=risk,
            needs=tuple((path, self._need(path)) for path in spec.needs if path not in ("budget", "spend")),
            needs_evidence=spec.evidence == "required",
            triggers=self._triggers(spec, senior),
            extras=extras,
            plugins=plugins,
            max_age_ms=spec.max_age or policy.defaults.max_age,
            audit_p=p,
        )

    def _money(self, money: Mapping[str, Decimal]) -> Decimal:
        ((currency, amount),) = money.items()
        return amount if currency == self.policy.currency else EXACT.multiply(amount, self.policy.rates[currency])

    def _sums(self, spec: ActionClass) -> dict[int, tuple[float, str]]:
        return {
            self.windows.index(duration_ms(window)): (float(limit), window)
            for window, limit in spec.auto_max_change_per.items()
        }

    def _need(self, path: str) -> Read:
        return reader(path, self.policy) if path in self.policy.fields else raw_reader(path)

    def _triggers(self, spec: ActionClass, senior: str) -> tuple[Trigger, ...]:
        needs_budget = any(path.rpartition(".")[2] in ("budget", "spend") for path in spec.needs)
        ethical = self.policy.exceptions.get("ethical", senior)
        found = [budget_overrun(self.policy, needs_budget, senior), denied_terms(self.policy, ethical)]
        if spec.goal is not None:
            found.append(wrong_signal(spec.goal, senior))
        return tuple(trigger for trigger in found if trigger is not None)

    def _extras(
        self, name: str, spec: ActionClass, queue: str, senior: str
    ) -> tuple[tuple[Extra, ...], tuple[PluginJob, ...]]:
        extras = [self._rule(rule, queue, senior) for rule in self.policy.rules if name in rule.classes]
        jobs: dict[str, PluginJob] = {}
        for gate_name, gate in self.policy.gates.items():
            if name not in gate.classes or not self._active(gate):
                continue
            states = self._states(gate_name, gate, spec)
            if states.one == "removed":
                continue
            extras.append(self._stated(gate_name, gate, states, queue, senior))
            for validator in gate.validators:
                judge = self.policy.validators[validator]
                plugin = plugin_of(judge)
                if plugin is not None:
                    jobs[validator] = PluginJob(validator, plugin, reader(judge.field, self.policy))
        if self.pins:
            extras.append(contradicts(self.pins, senior))
        return tuple(extras), tuple(jobs.values())

    def _states(self, name: str, gate: Gate, spec: ActionClass) -> GateStates:
        records = self.rules.gates.get(name, NO_RECORDS)
        definition = gate_digest(self.policy, name) if records else ""
        return gate_states(gate.state, records, definition, is_protected(spec.consequence))

    def _stated(self, name: str, gate: Gate, states: GateStates, queue: str, senior: str) -> Extra:
        """Return a gate that enforces or observes, or one for which that depends on the agent's version."""
        if states.one is not None:
            return self._gate(name, gate, queue, senior, states.one == "enforce")
        by_state: dict[State, Extra] = {
            "enforce": self._gate(name, gate, queue, senior, True),
            "observe": self._gate(name, gate, queue, senior, False),
            "removed": lambda action, facts, verdicts: NONE,
        }
        return lambda action, facts, verdicts: by_state[states.of(action.agent)](action, facts, verdicts)

    def _rule(self, rule: Rule, queue: str, senior: str) -> Extra:
        tests = self._tests(rule.match)
        first, holds = tests[0][1], tests[0][2].holds
        outcome, name, asked = OUTCOMES[rule.then], f"rule.{rule.id}", rule.queue or queue

        def extra(action: Action, facts: Facts, verdicts: Verdicts) -> Sequence[Reason]:
            try:
                # Nearly every rule is not met, mostly by its first field: say so before anything else is looked at.
                value = first(action, facts)
                if value is ABSENT or not holds(value):
                    return NONE
                hits = _hits(tests, action, facts)
            except FieldError as error:
                return [Reason(name, str(error), "its declared type", Outcome.ESCALATE, rule.queue or senior)]
            if hits is None:
                return NONE
            saw, limit, rate = hits
            return [Reason(name, saw, limit, outcome, None if outcome is Outcome.REFUSE else asked, rate=rate)]

        return extra

    def _gate(self, gate_name: str, gate: Gate, queue: str, senior: str, counts: bool) -> Extra:
        segment = self._tests(gate.segment) if gate.segment else None
        parts = []
        for name in gate.validators:
            spec = self.policy.validators[name]
            if name not in self.checks:
                self.checks[name] = checker(name, spec, self.policy)
            plugin = plugin_of(spec)
            parts.append((f"validator.{name}", self.checks[name], OUTCOMES[spec.then], spec.queue, spec.error, plugin))

        def reason(rule: str, found: Finding, outcome: Outcome, asked: str | None, error: str) -> Reason:
            return Reason(rule, found.saw, found.limit, outcome, asked, gate=gate_name, error=error, counts=counts)

        def extra(action: Action, facts: Facts, verdicts: Verdicts) -> Sequence[Reason]:
            try:
                if segment is not None and _hits(segment, action, facts) is None:
                    return NONE
            except FieldError as error:
                found = Finding(str(error), "its declared type")
                return [reason(f"gate.{gate_name}", found, Outcome.ESCALATE, senior, "other")]
            reasons = []
            for rule, check, outcome, asked, error_type, plugin in parts:
                try:
                    found_or_none = check(action, facts, verdicts)
                except PluginError as error:
                    found = Finding(str(error), "a verdict")
                    reasons.append(reason(f"plugin.{plugin}", found, Outcome.ESCALATE, asked or senior, error_type))
                except FieldError as error:
                    found = Finding(str(error), "its declared type")
                    reasons.append(reason(rule, found, Outcome.ESCALATE, asked or senior, error_type))
                else:
                    if found_or_none is not None:
                        where = None if outcome is Outcome.REFUSE else asked or queue
                        reasons.append(reason(rule, found_or_none, outcome, where, error_type))
            return reasons

        return extra

    def _tests(self, match: Mapping[str, Match]) -> _Tests:
        return tuple((path, reader(path, self.policy), self._test(path, spec)) for path, spec in match.items())

    def _test(self, path: str, spec: Match) -> _Test:
        money = self.policy.fields[path].type == "money"

        def bound(value: Decimal | Mapping[str, Decimal]) -> Decimal:
            return value if isinstance(value, Decimal) else self._money(value)

        over = bound(spec.over) if spec.over is not None else None
        under = bound(spec.under) if spec.under is not None else None

        predicates: list[Callable[[Any], bool]] = []
        if over is not None:
            predicates.append(lambda amount: bool(amount > over))
        if under is not None:
            predicates.append(lambda amount: bool(amount < under))
        if spec.is_ is not None:
            wanted = spec.is_
            predicates.append(lambda amount: _same(amount, wanted))
        if spec.in_ is not None:
            predicates.append(frozenset(spec.in_).__contains__)
        if spec.not_in is not None:
            refused = frozenset(spec.not_in)
            predicates.append(lambda amount: amount not in refused)
        if spec.contains is not None:
            part = spec.contains
            predicates.append(lambda amount: _holds(amount, part))
        (first, *others) = predicates

        def every(value: Any) -> bool:
            amount = value[0] if money else value
            return first(amount) and all(other(amount) for other in others)

        holds = every if others or money else first
        pairs = {"over": over, "under": under, "is": spec.is_, "in": spec.in_, "not in": spec.not_in,
                 "contains": spec.contains}  # fmt: skip
        text = " and ".join(f"{name} {value}" for name, value in pairs.items() if value is not None)
        return _Test(holds, text, money)

    def _active(self, gate: Gate) -> bool:
        start, end = self._days(gate)
        return start <= self.now_ms < end

    def _days(self, gate: Gate) -> tuple[int, int]:
        if gate.until is None or gate.until == date.max:
            return self._midnight(gate.from_), 2**62
        return self._midnight(gate.from_), self._midnight(gate.until + timedelta(days=1))

    def _midnight(self, day: date) -> int:
        return int(datetime.combine(day, time(), self.zone).timestamp() * 1000)

    def _validity(self) -> tuple[int, int]:
        edges = [edge for gate in self.policy.gates.values() for edge in self._days(gate)]
        edges += [milliseconds(pin.until) for pin in self.rules.pins.values()]
        before = [edge for edge in edges if edge <= self.now_ms]
        after = [edge for edge in edges if edge > self.now_ms]
        return max(before, default=0), min(after, default=2**62)


@dataclass(frozen=True, slots=True)
class _Test:
    holds: Callable[[Any], bool]
    text: str
    money: bool


_Tests = tuple[tuple[str, Read, _Test], ...]
"""By path: how a field is read, and what it is asked."""


def _inside(limit: Decimal | None) -> float:
    """Return a float below which a value is surely inside a limit; without a limit everything is."""
    return inf if limit is None else float(limit) * (1.0 - NEAR) - NEAR


def _hits(tests: _Tests, action: Action, facts: Facts) -> tuple[str, str, str | None] | None:
    """Return what a rule saw, what it allows and the rates used, where all its tests hold."""
    for _, read, test in tests:
        value = read(action, facts)
        if value is ABSENT or not test.holds(value):
            return None
    return _described([(path, read(action, facts), test) for path, read, test in tests])


def _described(hits: Sequence[tuple[str, Any, _Test]]) -> tuple[str, str, str | None]:
    """Write what a rule saw, what it allows, and the exchange rates used."""
    saws, limits, rates = [], [], []
    for path, value, test in hits:
        amount, rate = value if test.money else (value, None)
        saws.append(f"{path} {amount}")
        limits.append(test.text)
        if rate is not None:
            rates.append(str(rate))
    return ", ".join(saws), ", ".join(limits), ", ".join(rates) or None


def _same(value: Any, wanted: str | bool | Decimal) -> bool:
    # A flag is never equal to a number: `is: true` must not match 1.
    if isinstance(value, bool) != isinstance(wanted, bool):
        return False
    return bool(str(value) == wanted if isinstance(wanted, str) else value == wanted)


def _holds(value: Any, wanted: str) -> bool:
    if isinstance(value, tuple):
        return wanted in value
    return wanted.casefold() in value.casefold() if isinstance(value, str) else False
