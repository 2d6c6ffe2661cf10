"""The monitor's tables of gates, read from outside, and what they say: per gate, agent version and type of error.

They are what the monitor wrote; `monitor.gates` holds one value for each person, by a pseudonym, and here they are
added. What belongs to another definition of a gate than the one in force says nothing of this one, and is left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec import Struct

from hitl_stream.core.action import Agent
from hitl_stream.core.candidates import Seen
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.control import Control
from hitl_stream.core.gate_evidence import Evidence, hit_rate_low, lacks, log_e, share_to_sign
from hitl_stream.core.policy.lint import is_protected
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import terms_of
from hitl_stream.lane.exports import Log
from hitl_stream.roles.gate_keeping import NOBODY, AtGate, Watched, decode_gate, decode_watched, gate_of, watched_of

EVIDENCE = "monitor.gates"
RELAPSE = "monitor.relapse"
E_MAX = 1e300
"""A larger E is shown as this: it is no news, and no number that everybody can read."""
WRONG = 0.05
"""So often at most a gate that is needed would ever be offered for removal: 2.5 % each by E and by the hit rate."""


class Of(NamedTuple):
    """What evidence is about."""

    gate: str
    definition: str
    agent: Agent


class TypeFigures(Struct, frozen=True, kw_only=True):
    """What is known of one type of error. `hit_rate` is the lower bound of what people find, over persons by their
    items; `missing` what is not there yet before removal can be offered."""

    error: str
    items: int
    errors: int
    caught: int
    canaries: int
    hit_rate: float
    threshold: float
    e: float
    share: float
    """What would be signed, and audits be held against."""
    missing: tuple[str, ...]


class GateFigures(Struct, frozen=True, kw_only=True):
    """What is known of one gate and agent version, as it is defined now. `days`: since the first judged output."""

    gate: str
    agent: Agent
    definition: str
    persons: int
    items: int
    days: float
    types: tuple[TypeFigures, ...]
    protected: tuple[str, ...]
    """The classes that never lose the gate by a record."""
    missing: tuple[str, ...]
    """Nothing: removal can be asked for."""


@dataclass
class GateTable:
    """The newest value of every key, by what it is about; `gates` by the person's pseudonym besides."""

    gates: Mapping[Of, Mapping[str, AtGate]] = field(default_factory=dict)
    relapse: Mapping[tuple[str, Agent, int], Watched] = field(default_factory=dict)

    def figures(self, policy: Policy, now_ms: int) -> tuple[GateFigures, ...]:
        """Return what is known of the gates of a policy as they are defined there, in its order."""
        return tuple(
            self.of(policy, name, agent, now_ms)
            for name in policy.gates
            for agent in self._agents(name, terms_of(policy, name).definition)
        )

    def _agents(self, gate: str, definition: str) -> list[Agent]:
        there = [of.agent for of in self.gates if of[:2] == (gate, definition)]
        return sorted(there, key=lambda one: (one.id, one.version))

    def of(self, policy: Policy, gate: str, agent: Agent, now_ms: int) -> GateFigures:
        """Return what is known of one gate and agent version; where nothing is, everything is missing."""
        terms, protected = terms_of(policy, gate), protected_classes(policy, gate)
        of = Of(gate, terms.definition, agent)
        whole = len(protected) == len(policy.gates[gate].classes)
        return _figures(of, self.gates.get(of, {}), terms.borne, protected, whole, now_ms)


async def read_table(log: Log) -> GateTable:
    """Read both tables to their ends. Of two values of a key the one whose judgement came later counts."""
    gates: dict[bytes, AtGate | None] = {}
    async for batch in log.read(EVIDENCE):
        for record in batch:
            if record.key is not None and gate_of(record.key) is not None:
                _newest(gates, record, decode_gate)
    relapse: dict[bytes, Watched | None] = {}
    async for batch in log.read(RELAPSE):
        for record in batch:
            if record.key is not None:
                _newest(relapse, record, decode_watched)
    return gathered(
        {key: kept for key, kept in gates.items() if kept is not None},
        {key: kept for key, kept in relapse.items() if kept is not None},
    )


def gathered(gates: Mapping[bytes, AtGate], relapse: Mapping[bytes, Watched]) -> GateTable:
    """Return the table that holds these values, by their keys."""
    by: dict[Of, dict[str, AtGate]] = defaultdict(dict)
    for key, kept in sorted(gates.items()):
        about = gate_of(key)
        if about is not None:
            by[Of(about.gate, about.definition, Agent(about.agent, about.version))][about.person] = kept
    return GateTable(dict(by), {watched_of(key): kept for key, kept in relapse.items()})


def protected_classes(policy: Policy, gate: str) -> tuple[str, ...]:
    """Return the classes of a gate that never lose it by a record; one that the policy does not define is one."""
    return tuple(
        cls
        for cls in policy.gates[gate].classes
        if cls not in policy.classes or is_protected(policy.classes[cls].consequence)
    )


def evidence_of(figures: GateFigures) -> dict[str, Any]:
    """Return what is signed with a removal, by type of error."""
    return {
        "persons": figures.persons,
        "days": round(figures.days, 2),
        **{
            one.error: {
                "items": one.items, "errors": one.errors, "caught": one.caught, "canaries": one.canaries,
                "threshold": one.threshold, "e": float(f"{one.e:.6g}"),
            }
            for one in figures.types
        },
    }  # fmt: skip


def seen_of(policy: Policy, figures: GateFigures) -> Seen:
    """Return what the ranking of candidates asks of a gate."""
    classes = policy.gates[figures.gate].classes
    return Seen(
        gate=figures.gate,
        agent=figures.agent,
        consequences=tuple(policy.classes[cls].consequence if cls in policy.classes else () for cls in classes),
        items=figures.items,
        days=figures.days,
        errors={one.error: one.errors / one.items if one.items else 0.0 for one in figures.types},
        borne={one.error: one.threshold for one in figures.types},
        caught={one.error: one.caught for one in figures.types},
    )


def removed(control: Control) -> list[tuple[str, Agent, int]]:
    """Return which gates are gone for whom, since which epoch."""
    return [
        (gate, agent, said.epoch)
        for (gate, agent), said in control.gates.items()
        if said.command.state == "removed" and agent is not None
    ]


def _figures(
    of: Of,
    people: Mapping[str, AtGate],
    borne: Mapping[str, float],
    protected: tuple[str, ...],
    never: bool,
    now_ms: int,
) -> GateFigures:
    kept = list(people.values())
    persons = sum(not person.startswith(NOBODY) for person in people)
    days = max(0, now_ms - min((one.since_ms for one in kept), default=now_ms)) / DAY_MS
    types = tuple(_type(error, [one.evidence[error] for one in kept], borne[error], days) for error in borne)
    missing = [f"{one.error}: {lack}" for one in types for lack in one.missing]
    if not of.agent.version:
        missing.insert(0, "the agent names no version, and evidence is about one version alone")
    if never:
        missing.insert(0, f"{', '.join(protected)} is of a protected consequence, and never loses a gate by a record")
    return GateFigures(
        gate=of.gate, agent=of.agent, definition=of.definition, persons=persons,
        items=max((one.items for one in types), default=0), days=days, types=types, protected=protected,
        missing=tuple(missing),
    )  # fmt: skip


def _type(error: str, evidence: Sequence[Evidence], threshold: float, days: float) -> TypeFigures:
    items = sum(one.items for one in evidence)
    bound = sum(one.items * hit_rate_low(one.caught, one.canaries) for one in evidence) / items if items else 0.0
    return TypeFigures(
        error=error,
        items=items,
        errors=sum(one.errors for one in evidence),
        caught=sum(one.caught for one in evidence),
        canaries=sum(one.canaries for one in evidence),
        hit_rate=bound,
        threshold=threshold,
        e=math.exp(min(log_e(evidence), math.log(E_MAX))),
        share=share_to_sign(evidence, threshold),
        missing=lacks(evidence, days),
    )


def _newest(found: dict[bytes, Any], record: Any, decode: Any) -> None:
    if record.value is None:
        found[record.key] = None
        return
    value, known = decode(record.value), found.get(record.key)
    if known is None or value.offset >= known.offset:
        found[record.key] = value
