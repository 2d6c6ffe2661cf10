"""What signed records say beside the policy file: levels, states of gates, pins.

- A level can only tighten: the stricter of the file's and the record's counts.
- `enforce` tightens, and so holds for a gate whatever became of its definition. `observe` and `removed` loosen: they
  hold for the very definition that they name (`gate_digest`), and where the record names an agent's version, for that
  one. Another version of an agent that is let off a gate is held to it until it has evidence of its own.
- A class with a protected consequence never loses a gate by a record.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from hitl_stream.core.action import Agent
from hitl_stream.core.commands import Pin
from hitl_stream.core.control import Control
from hitl_stream.core.policy.model import Contains, Length, Policy, Validator

State: TypeAlias = Literal["observe", "enforce", "removed"]
ERROR_RATIO_MAX = 0.05
"""A gate that says nothing else bears one wrong output of twenty, of each type of error that its validators find."""
STRICTNESS: Mapping[State, int] = {"removed": 0, "observe": 1, "enforce": 2}


@dataclass(frozen=True, slots=True)
class GateRecord:
    """A gate's state as a signed record has it, and the definition that it is about."""

    state: State
    definition: str


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that control has to say of how actions are decided; `gates` by agent version, None: every agent."""

    levels: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    gates: Mapping[str, Mapping[Agent | None, GateRecord]] = field(default_factory=lambda: MappingProxyType({}))
    pins: Mapping[int, Pin] = field(default_factory=lambda: MappingProxyType({}))


NO_RULES = Rules()
NO_RECORDS: Mapping[Agent | None, GateRecord] = MappingProxyType({})


def rules_of(control: Control) -> Rules:
    """Return what the control log says by now."""
    gates: dict[str, dict[Agent | None, GateRecord]] = {}
    for (gate, agent), said in control.gates.items():
        gates.setdefault(gate, {})[agent] = GateRecord(said.command.state, said.command.definition)
    return Rules(dict(control.levels), gates, dict(control.pins))


@dataclass(frozen=True, slots=True)
class GateStates:
    """The state of one gate for one class, agent by agent: `known` versions, others of agents let off, the rest."""

    known: Mapping[Agent, State]
    let_off: frozenset[str]
    rest: State

    @property
    def one(self) -> State | None:
        """Return the state if it is the same for every agent."""
        return None if self.known else self.rest

    def of(self, agent: Agent) -> State:
        """Return the state for one agent."""
        known = self.known.get(agent)
        if known is not None:
            return known
        return "enforce" if agent.id in self.let_off else self.rest


def gate_states(
    filed: State, records: Mapping[Agent | None, GateRecord], definition: str, protected: bool
) -> GateStates:
    """Return the states of a gate that stands in the file as `filed`.

    A file cannot remove a gate: `removed` there is as good as `enforce`.
    """
    base: State = "enforce" if filed == "removed" else filed

    def holds(record: GateRecord) -> bool:
        if record.state == "enforce":
            return True
        looser = STRICTNESS[record.state] < STRICTNESS[base]
        return record.definition == definition and not (protected and looser)

    held = {agent: record.state for agent, record in records.items() if holds(record)}
    rest = held.pop(None, base)
    known = {agent: state for agent, state in held.items() if agent is not None}
    return GateStates(known, frozenset(agent.id for agent, state in known.items() if state == "removed"), rest)


def gate_digest(policy: Policy, name: str) -> str:
    """Return SHA-256, in hex, of what a gate judges by: classes, segment, validators, and the types of their fields;
    and of the shares of errors that it bears, where it names any.

    Its owner, its days and its state may change without making its evidence void. Raises `KeyError` for an unknown one.
    """
    gate = policy.gates[name]
    validators = {one: policy.validators[one] for one in gate.validators}
    read = {*gate.segment, *(path for spec in validators.values() for path in _fields_of(spec))}
    content = {
        "classes": sorted(gate.classes),
        "segment": {path: _plain(match) for path, match in gate.segment.items()},
        "validators": {one: _plain(spec) for one, spec in validators.items()},
        "fields": {path: policy.fields[path].type for path in read if path in policy.fields},
    }
    if gate.max_error_ratio:
        # Evidence is weighed against it; where nothing is written, an older digest stays what it was.
        content["max_error_ratio"] = {error: f"{share.normalize():f}" for error, share in gate.max_error_ratio.items()}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class Terms(Struct, frozen=True, kw_only=True):
    """What evidence about a gate is measured by: its definition, and the share of errors borne, by type.

    `reasons` are the policy's: code of a rejection → type of error.
    """

    definition: str
    borne: Mapping[str, float]
    reasons: Mapping[str, str]


def terms_of(policy: Policy, name: str) -> Terms:
    """Return a gate's terms. Raises `KeyError` for an unknown one."""
    gate = policy.gates[name]
    written: dict[str, float] = {error: float(share) for error, share in gate.max_error_ratio.items()}
    types = sorted({policy.validators[one].error for one in gate.validators})
    return Terms(
        definition=gate_digest(policy, name),
        borne={error: written.get(error, ERROR_RATIO_MAX) for error in types},
        reasons=dict(policy.reasons),
    )


def _plain(part: Any) -> Any:
    return part.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _fields_of(spec: Validator) -> list[str]:
    fields = [spec.field]
    if isinstance(spec, Contains) and spec.value_of is not None:
        fields.append(spec.value_of)
    if isinstance(spec, Length) and spec.max_by:
        fields += spec.max_by
    return fields
