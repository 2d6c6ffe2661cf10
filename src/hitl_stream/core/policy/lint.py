"""What a policy must not say although it is well-formed: ceilings, dead ends, references to nothing, rules on claims.

Each law is a function from a policy to its problems; `lint` runs them all. An *error* keeps a file from being used, a
*warning* names what its owner should have meant. The ceilings are public, for whoever
else must hold to them: compiling, promoting, removing a gate.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from decimal import Decimal
from typing import Final

from hitl_stream.core.errors import Problem
from hitl_stream.core.policy.model import (
    ROOTS,
    ActionClass,
    Contains,
    Gate,
    Length,
    Match,
    Money,
    Policy,
    Queue,
    Validator,
    duration_ms,
)

CEILINGS: Final[Mapping[str, int]] = {
    "client_content": 2, "high_risk": 2,
    "prospect": 3, "client_reply": 3, "own_content": 3, "record": 3,
    "financial": 3, "contractual": 3, "irreversible": 3,
    "internal": 4,
}  # fmt: skip
"""The highest level that a class with this consequence may have; where it has several, the lowest wins."""
UNCLASSIFIED_CEILING: Final = 2
"""The ceiling where no consequence is written (D7: unclassified is mandatory review)."""
AUDIT_FLOOR: Final = Decimal("0.01")
"""The share of actions taken alone that people look at afterwards, at least, unless all is internal."""
PROTECTED: Final = frozenset(
    {"client_content", "client_reply", "high_risk", "financial", "contractual", "irreversible"}
)
"""Consequences whose gates are never removed."""

ERROR_RATIO_LIMIT: Final = Decimal("0.20")
"""A larger share of wrong outputs is no threshold for going without people."""

CORE_NEEDS: Final = frozenset(
    {"confidence", "evidence", "entity", "destination", "expires_at", "content.text", "budget", "spend"}
)
"""What a class may need without declaring it as a field: parts of every action, and the facts about its budget."""
READ_ONLY_ROLES: Final = frozenset({"viewer", "auditor", "labeller"})
"""Roles that never decide: two only read, and labels for training stay apart from production (E8)."""

_MINUTE: Final = 60_000
_DAY: Final = 86_400_000
EXECUTE_GRACE_MS: Final = 15 * _MINUTE
HELD_RETENTION_MS: Final = 30 * _DAY
"""How long topic `held` keeps what a switch has parked."""
EXECUTE_BY_MAX_MS: Final = HELD_RETENTION_MS // 2
"""What is parked must expire well before it is deleted."""
ACTIONS_RETENTION_MS: Final = 7 * _DAY
"""How long topic `actions` can be read again, and so how far back a window can be restored."""
MAX_AGE_MEMORY_MS: Final = 60 * _MINUTE
"""Every id is remembered for `max_age`: at the default limit of 1 M ids, an hour carries 277 actions a second."""
SLA_SHORT_MS: Final = _MINUTE
MAX_AGE_SHORT_MS: Final = 1_000
"""Below these a number was probably written without its unit: an integer is milliseconds."""

At = tuple[str | int, ...]


def lint(policy: Policy) -> tuple[Problem, ...]:
    """Return everything that is wrong with a policy, law by law."""
    return tuple(problem for law in _LAWS for problem in law(policy))


def ceiling(consequence: Collection[str]) -> int:
    """Return the highest level that a class with these consequences may have."""
    return min((CEILINGS.get(each, 1) for each in consequence), default=UNCLASSIFIED_CEILING)


def audit_floor(consequence: Collection[str]) -> Decimal:
    """Return the smallest audit sample that a class with these consequences may have when it acts alone."""
    return Decimal(0) if set(consequence) == {"internal"} else AUDIT_FLOOR


def is_protected(consequence: Collection[str]) -> bool:
    """Say whether the class's gates may never be removed. What is unclassified is protected."""
    return not consequence or not PROTECTED.isdisjoint(consequence)


def dotted(path: At) -> str:
    """Write a path for people: `rules[0].match`; what must be told apart stays in the tuple."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


# ── Levels ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _ceilings(policy: Policy) -> Iterator[Problem]:
    for name, cls in policy.classes.items():
        if cls.level <= ceiling(cls.consequence):
            continue
        if not cls.consequence:
            why = f"a class without consequence stays at level {UNCLASSIFIED_CEILING}; write its consequence"
            yield _error("ceiling.unclassified", why, "classes", name, "level")
        for each in cls.consequence:
            if cls.level > CEILINGS[each]:
                why = f"{each} stays at level {CEILINGS[each]} or below, found {cls.level}; no file can lift this"
                yield _error(f"ceiling.{each}", why, "classes", name, "level")


def _audits(policy: Policy) -> Iterator[Problem]:
    for name, cls in policy.classes.items():
        floor = audit_floor(cls.consequence)
        sample = policy.defaults.audit_sample if cls.audit_sample is None else cls.audit_sample
        if cls.level >= 3 and sample < floor:
            at: At = ("defaults", "audit_sample") if cls.audit_sample is None else ("classes", name, "audit_sample")
            why = f"{name} acts alone ({_and(cls.consequence)}): audit_sample is at least {floor}, found {sample}"
            yield _error("ceiling.audit_sample", why, *at)


def _reviews(policy: Policy) -> Iterator[Problem]:
    for name, cls in policy.classes.items():
        at: At = ("classes", name, "review")
        if cls.review is None or cls.level == 1:
            continue
        if cls.level == 2 and cls.review != "all":
            yield _error("review.level_2", f"at level 2 a person decides on all, found {cls.review}", *at)
        elif cls.review == "periodic" and audit_floor(cls.consequence):
            why = f"periodic leaves {_and(cls.consequence)} without an audit sample; the least is sample"
            yield _error("review.no_human_path", why, *at)
        elif cls.review in ("edge_cases", "sample") and is_protected(cls.consequence):
            why = f"{cls.review} lets {_and(cls.consequence)} run over its limits alone; above_risk keeps them"
            yield _warning("review.protected", why, *at)


# ── References ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _queue_references(policy: Policy) -> Iterator[Problem]:
    for at, queue in _queue_mentions(policy):
        if queue not in policy.queues:
            yield _error("reference.queue", f"no queue is called {queue}; {_have(policy.queues)}", *at)


def _queue_mentions(policy: Policy) -> Iterator[tuple[At, str]]:
    """Yield every place that names a queue, with the name."""
    named: list[tuple[At, str | None]] = [(("defaults", "queue"), policy.defaults.queue)]
    named += [(("exceptions", kind), queue) for kind, queue in policy.exceptions.items()]
    named += [(("queues", name, "next"), queue.next) for name, queue in policy.queues.items()]
    named += [(("classes", name, "queue"), cls.queue) for name, cls in policy.classes.items()]
    named += [(("rules", i, "queue"), rule.queue) for i, rule in enumerate(policy.rules)]
    named += [(("validators", name, "queue"), validator.queue) for name, validator in policy.validators.items()]
    yield from ((at, queue) for at, queue in named if queue is not None)


def _class_references(policy: Policy) -> Iterator[Problem]:
    named: list[tuple[At, str]] = []
    for i, rule in enumerate(policy.rules):
        named += [(("rules", i, "classes", j), name) for j, name in enumerate(rule.classes)]
    for gate_id, gate in policy.gates.items():
        named += [(("gates", gate_id, "classes", j), name) for j, name in enumerate(gate.classes)]
    for at, name in named:
        if name not in policy.classes:
            yield _error("reference.class", f"no class is called {name}; {_have(policy.classes)}", *at)


def _validator_references(policy: Policy) -> Iterator[Problem]:
    for gate_id, gate in policy.gates.items():
        for j, name in enumerate(gate.validators):
            if name not in policy.validators:
                why = f"no validator is called {name}; {_have(policy.validators)}"
                yield _error("reference.validator", why, "gates", gate_id, "validators", j)


def _field_references(policy: Policy) -> Iterator[Problem]:
    named = [(at, path) for at, path, _ in _matches(policy)]
    for name, validator in policy.validators.items():
        named += [(at, path) for at, path in _fields_of(name, validator)]
    for name, cls in policy.classes.items():
        named += [(("classes", name, "needs", j), path) for j, path in enumerate(cls.needs) if path not in CORE_NEEDS]
    for at, path in named:
        if path not in policy.fields:
            yield _error("reference.field", f"{path} is not declared; add it to fields with its type", *at)


def _matches(policy: Policy) -> Iterator[tuple[At, str, Match]]:
    """Yield every condition of rules and segments with the field it is about."""
    for i, rule in enumerate(policy.rules):
        yield from ((("rules", i, "match", path), path, match) for path, match in rule.match.items())
    for gate_id, gate in policy.gates.items():
        yield from ((("gates", gate_id, "segment", path), path, match) for path, match in gate.segment.items())


def _fields_of(name: str, validator: Validator) -> Iterator[tuple[At, str]]:
    yield ("validators", name, "field"), validator.field
    if isinstance(validator, Contains) and validator.value_of is not None:
        yield ("validators", name, "value_of"), validator.value_of
    if isinstance(validator, Length) and validator.max_by:
        yield from ((("validators", name, "max_by", path), path) for path in validator.max_by)


# ── Fields and what is asked of them ──────────────────────────────────────────────────────────────────────────────────


def _field_roots(policy: Policy) -> Iterator[Problem]:
    for path, spec in policy.fields.items():
        root, _, rest = path.partition(".")
        if root in ("context", "facts"):
            if not all(rest.split(".")):
                yield _error("field.path", f"{path} lacks a name; write one such as {root}.budget", "fields", path)
        elif path not in ROOTS:
            why = f"no action has {path}; write context.<name>, facts.<name> or one of {_and(sorted(ROOTS), 'or')}"
            yield _error("field.path", why, "fields", path)
        elif spec.type != ROOTS[path]:
            yield _error("field.type", f"{path} is always {ROOTS[path]}, found {spec.type}", "fields", path)


_ASKS: Final[Mapping[str, Collection[str]]] = {
    "money": ("over", "under"),
    "number": ("over", "under", "is"),
    "text": ("is", "in", "not_in", "contains"),
    "flag": ("is",),
    "list": ("contains",),
}
"""What can be asked of a field, by its type."""


def _match_types(policy: Policy) -> Iterator[Problem]:
    for at, path, match in _matches(policy):
        spec = policy.fields.get(path)
        if spec is None:
            continue
        for key, asked in _asked(match).items():
            if key not in _ASKS[spec.type]:
                why = f"{path} is {spec.type}, which takes {_and(_ASKS[spec.type], 'or')}, not {key}"
                yield _error("match.type", why, *at, key)
            elif wanted := _wrong_value(spec.type, asked):
                yield _error("match.type", f"{path} is {spec.type}: {key} needs {wanted}", *at, key)


def _asked(match: Match) -> dict[str, object]:
    all_of = {
        "over": match.over, "under": match.under, "is": match.is_,
        "in": match.in_, "not_in": match.not_in, "contains": match.contains,
    }  # fmt: skip
    return {key: asked for key, asked in all_of.items() if asked is not None}


def _wrong_value(kind: str, asked: object) -> str:
    """Say what a value should have been, or nothing if it fits."""
    if kind == "money" and not isinstance(asked, dict):
        return 'an amount with its currency, such as {EUR: "10000"}'
    if kind == "number" and not isinstance(asked, Decimal):
        return "a number without currency or quotes"
    if kind == "text" and not isinstance(asked, str | tuple):
        return "a text; put it in quotes"
    if kind == "flag" and not isinstance(asked, bool):
        return "true or false"
    return ""


def _empty_ranges(policy: Policy) -> Iterator[Problem]:
    for at, path, match in _matches(policy):
        if isinstance(match.over, Decimal) and isinstance(match.under, Decimal) and match.under <= match.over:
            yield _warning("match.never", f"{path} is never over {match.over} and under {match.under} at once", *at)
        if match.in_ == ():
            yield _warning("match.never", f"{path} is never in an empty list", *at, "in")


def _validator_types(policy: Policy) -> Iterator[Problem]:
    for name, validator in policy.validators.items():
        for at, path in _fields_of(name, validator):
            spec = policy.fields.get(path)
            if spec is not None and spec.type != "text":
                yield _error("validator.type", f"a validator reads text, {path} is {spec.type}", *at)
        if isinstance(validator, Length) and validator.min is not None:
            most = [each for each in (validator.max, validator.under and validator.under - 1) if each is not None]
            if most and validator.min > min(most):
                why = f"no text has {validator.min} to {min(most)} characters"
                yield _error("validator.never", why, "validators", name, "min")


def _rates(policy: Policy) -> Iterator[Problem]:
    for at, money in _money(policy):
        for code in money:
            if code != policy.currency and code not in policy.rates:
                why = f"{code} has no rate; add it to rates: how many {policy.currency} is one {code}"
                yield _error("money.rate", why, *at)
    if policy.rates.get(policy.currency, 1) != 1:
        why = f"{policy.currency} is the policy's own currency, its rate is 1; take it out"
        yield _error("money.own_rate", why, "rates", policy.currency)


def _money(policy: Policy) -> Iterator[tuple[At, Money]]:
    named: list[tuple[At, object]] = [(("defaults", "tier3_amount"), policy.defaults.tier3_amount)]
    named += [(("classes", name, "auto_max_amount"), cls.auto_max_amount) for name, cls in policy.classes.items()]
    named += [((*at, "over"), match.over) for at, _, match in _matches(policy)]
    named += [((*at, "under"), match.under) for at, _, match in _matches(policy)]
    for name, gate in policy.gates.items():
        named += [(("gates", name, "baseline", "cost_per_hour"), gate.baseline and gate.baseline.cost_per_hour)]
    yield from ((at, money) for at, money in named if isinstance(money, dict))


# ── People: queues, escalation, time ──────────────────────────────────────────────────────────────────────────────────


def _class_queues(policy: Policy) -> Iterator[Problem]:
    for name, cls in policy.classes.items():
        if cls.queue is None and (why := _reaches_people(name, cls, policy)):
            what = f"{why} brings it to a person, so it names a queue; {_have(policy.queues)}"
            yield _error("class.queue", what, "classes", name)


def _reaches_people(name: str, cls: ActionClass, policy: Policy) -> str:
    """Say what of its own brings a class to its queue. Built-in triggers have `defaults.queue`, level 1 asks nobody."""
    if cls.level == 1:
        return ""
    if cls.level < 4 or cls.consequence != ("internal",):
        return f"level {cls.level}"
    for limit in ("auto_max_change", "auto_min_confidence", "auto_max_amount"):
        if getattr(cls, limit) is not None:
            return limit
    if cls.auto_max_change_per:
        return "auto_max_change_per"
    if cls.review not in (None, "sample", "periodic"):
        return f"review: {cls.review}"
    for rule in policy.rules:
        if name in rule.classes and rule.queue is None and rule.then != "refuse":
            return f"rule {rule.id}"
    for gate_id, gate in policy.gates.items():
        validators = [policy.validators[each] for each in gate.validators if each in policy.validators]
        if name in gate.classes and any(each.queue is None and each.then != "refuse" for each in validators):
            return f"gate {gate_id}"
    return ""


def _cycles(policy: Policy) -> Iterator[Problem]:
    reported: set[str] = set()
    for name in policy.queues:
        chain = _chain(name, policy.queues)
        after = policy.queues[chain[-1]].next
        if after in chain and chain[0] == after and reported.isdisjoint(chain):
            reported.update(chain)
            why = f"escalation runs in a circle: {' → '.join((*chain, after))}; let one of them end"
            yield _error("queue.cycle", why, "queues", name, "next")


def _chain(name: str, queues: Mapping[str, Queue]) -> list[str]:
    """Return the queues that an item passes from `name` on, each once; a circle ends where it would begin again."""
    chain: list[str] = []
    at: str | None = name
    while at is not None and at in queues and at not in chain:
        chain.append(at)
        at = queues[at].next
    return chain


def _queue_people(policy: Policy) -> Iterator[Problem]:
    for name, queue in policy.queues.items():
        for j, role in enumerate(queue.roles):
            if role in READ_ONLY_ROLES:
                yield _error("queue.role", f"{role} never decides; name another role", "queues", name, "roles", j)
        if queue.sla < SLA_SHORT_MS:
            why = f"{queue.sla} ms is too short for a person; a number without a unit is milliseconds"
            yield _warning("queue.sla_short", why, "queues", name, "sla")
    default = policy.queues.get(policy.defaults.queue)
    if default is not None and default.external:
        why = f"{policy.defaults.queue} is external, and everything undefined would go there; name a queue of your own"
        yield _error("queue.external_default", why, "defaults", "queue")
    for kind, name in policy.exceptions.items():
        if name in policy.queues and policy.queues[name].external:
            yield _warning("queue.external", f"{name} is external and would see every {kind}", "exceptions", kind)


def _execute_by(policy: Policy) -> Iterator[Problem]:
    """What can be parked must expire before `held` forgets it, however far it was escalated."""
    for name, cls in policy.classes.items():
        if cls.level == 1:
            continue
        wait, chain = max((_wait(queue, policy), queue) for queue in _queues_of(name, cls, policy))
        closing = cls.batch.close_after if cls.batch is not None else 0
        if closing + wait > EXECUTE_BY_MAX_MS:
            parts = [f"{each} {_days(policy.queues[each].sla)}" for each in _chain(chain, policy.queues)]
            parts = [f"batch {_days(closing)}", *parts] if closing else parts
            why = f"could still run {_days(closing + wait)} after it was routed ({' + '.join(parts)} + 15 min)"
            what = f"{why}; at most {_days(EXECUTE_BY_MAX_MS)}, half of what `held` keeps"
            yield _error("class.execute_by", what, "classes", name)


def _queues_of(name: str, cls: ActionClass, policy: Policy) -> set[str]:
    """Return the queues that an action of the class can be put in first."""
    queues = {policy.defaults.queue, cls.queue, *policy.exceptions.values()}
    queues |= {rule.queue for rule in policy.rules if name in rule.classes}
    gates = [gate for gate in policy.gates.values() if name in gate.classes]
    validators = [policy.validators[each] for gate in gates for each in gate.validators if each in policy.validators]
    return {each for each in queues | {validator.queue for validator in validators} if each is not None}


def _wait(queue: str, policy: Policy) -> int:
    return sum(policy.queues[each].sla for each in _chain(queue, policy.queues)) + EXECUTE_GRACE_MS


def _ages(policy: Policy) -> Iterator[Problem]:
    ages: list[tuple[At, int | None]] = [(("defaults", "max_age"), policy.defaults.max_age)]
    ages += [(("classes", name, "max_age"), cls.max_age) for name, cls in policy.classes.items()]
    for at, age in ages:
        if age is not None and age > MAX_AGE_MEMORY_MS:
            why = f"{_hours(age)}: every id is remembered so long; check that rate × max_age fits (hitl config check)"
            yield _warning("max_age.memory", why, *at)
        if age is not None and age < MAX_AGE_SHORT_MS:
            why = f"{age} ms refuses nearly everything as late; a number without a unit is milliseconds"
            yield _warning("max_age.short", why, *at)


def _windows(policy: Policy) -> Iterator[Problem]:
    windows: list[tuple[At, int]] = [(("defaults", "unusual_window"), policy.defaults.unusual_window)]
    for name, cls in policy.classes.items():
        windows += [(("classes", name, "auto_max_change_per", w), duration_ms(w)) for w in cls.auto_max_change_per]
    for at, window in windows:
        if window > ACTIONS_RETENTION_MS:
            why = f"a window of {_days(window)} cannot be restored: `actions` keeps {_days(ACTIONS_RETENTION_MS)}"
            yield _error("window.retention", why, *at)


# ── Names, gates, claims, leftovers ───────────────────────────────────────────────────────────────────────────────────


def _names(policy: Policy) -> Iterator[Problem]:
    """A name means one thing to whoever reads a report; only a gate may be called as the validator in it."""
    ids = [rule.id for rule in policy.rules]
    for i, name in enumerate(ids):
        if name in ids[:i]:
            yield _error("id.duplicate", f"rule {name} was there before; give it another id", "rules", i, "id")
        for other in ("validators", "gates"):
            if name in getattr(policy, other):
                yield _error("id.collision", f"{name} is also one of {other}; rename one", "rules", i, "id")
    for name, gate in policy.gates.items():
        if name in policy.validators and name not in gate.validators:
            why = f"validator {name} is not in the gate of its name; rename one"
            yield _warning("id.collision", why, "gates", name)


def _gates(policy: Policy) -> Iterator[Problem]:
    for name, gate in policy.gates.items():
        if gate.state == "removed":
            why = "only a signed gate record with its evidence removes a gate; write observe or enforce"
            yield _error("gate.removed", why, "gates", name, "state")
        if gate.until is not None and gate.until < gate.from_:
            yield _error("gate.until", f"ends {gate.until}, before it begins {gate.from_}", "gates", name, "until")
        yield from _error_ratios(policy, name, gate)


def _error_ratios(policy: Policy, name: str, gate: Gate) -> Iterator[Problem]:
    found = {policy.validators[each].error for each in gate.validators if each in policy.validators}
    for error, share in gate.max_error_ratio.items():
        at = ("gates", name, "max_error_ratio", error)
        if error not in found:
            why = f"no validator of the gate finds errors of the type {error}; {_have(found)}"
            yield _error("gate.max_error_ratio", why, *at)
        elif not 0 < share <= ERROR_RATIO_LIMIT:
            why = f"{share} must lie over 0, since no evidence shows none, and at {ERROR_RATIO_LIMIT} at most"
            yield _error("gate.max_error_ratio", why, *at)


def _claims(policy: Policy) -> Iterator[Problem]:
    for i, rule in enumerate(policy.rules):
        money = [path for path in rule.match if path in policy.fields and policy.fields[path].type == "money"]
        claimed = [path for path in money if not path.startswith("facts.")]
        if claimed and len(claimed) == len(money):
            why = f"{_and(claimed)} is the agent's own claim; compare facts.{claimed[0].partition('.')[2]} as well"
            yield _warning("claim.money", why, "rules", i, "match", claimed[0])
    for name, cls in policy.classes.items():
        if cls.auto_max_change is not None:
            continue
        for limit in ("auto_max_amount", "auto_max_change_per"):
            if getattr(cls, limit):
                why = "rests on the agent's `before`, checked by the executor only where auto_max_change is set; set it"
                yield _warning("claim.limit", why, "classes", name, limit)


def _limits(policy: Policy) -> Iterator[Problem]:
    for name, cls in policy.classes.items():
        limits = (cls.auto_max_change, cls.auto_max_amount)
        if cls.level >= 3 and "financial" in cls.consequence and limits == (None, None):
            why = "moves money alone without a limit; set auto_max_change (0.10 is usual) or auto_max_amount"
            yield _warning("limit.none", why, "classes", name)


def _unused(policy: Policy) -> Iterator[Problem]:
    queues = {queue for _, queue in _queue_mentions(policy)}
    for name in policy.queues:
        if name not in queues:
            yield _warning("unused.queue", "nothing sends work here; name it or take it out", "queues", name)
    gated = {name for gate in policy.gates.values() for name in gate.validators}
    for name in policy.validators:
        if name not in gated:
            yield _warning("unused.validator", "no gate runs it; add it to one or take it out", "validators", name)
    if not policy.agents:
        why = "no agent has an owner, so nobody can be told, or kept from approving their own; list them"
        yield _warning("agents.missing", why, "agents")


_LAWS: Final = (
    _ceilings, _audits, _reviews,
    _queue_references, _class_references, _validator_references, _field_references,
    _field_roots, _match_types, _empty_ranges, _validator_types, _rates,
    _class_queues, _cycles, _queue_people, _execute_by, _ages, _windows,
    _names, _gates, _claims, _limits, _unused,
)  # fmt: skip


def _error(rule: str, message: str, *at: str | int) -> Problem:
    return Problem(rule, message, dotted(at), at=at)


def _warning(rule: str, message: str, *at: str | int) -> Problem:
    return Problem(rule, message, dotted(at), severity="warning", at=at)


def _and(words: Collection[str], last: str = "and") -> str:
    *first, final = words or ("no consequence",)
    return f"{', '.join(first)} {last} {final}" if first else final


def _have(names: Collection[str]) -> str:
    known = sorted(names)
    more = f" and {len(known) - 12} more" if len(known) > 12 else ""
    return f"there are {', '.join(known[:12])}{more}" if known else "there are none"


def _days(ms: int) -> str:
    return f"{ms / _DAY:.3g} d" if ms >= _DAY else _hours(ms)


def _hours(ms: int) -> str:
    return f"{ms / (60 * _MINUTE):.3g} h"
