"""The gates of the policy in force: in which state each is for whom, and what could be said for removing it.

Nothing is changed here. A gate goes by the signed words of two operators, whose keys the console never holds: the page
shows the line to run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hitl_stream.console.office import Office, Who
from hitl_stream.console.problems import ProblemError
from hitl_stream.core.control import Control
from hitl_stream.core.gate_evidence import DAYS_MIN, ITEMS_MIN, OFFER
from hitl_stream.core.policy.lint import is_protected
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import NO_RECORDS, GateStates, gate_digest, gate_states, rules_of

NEEDS: Mapping[str, float] = {"items": ITEMS_MIN, "e": OFFER, "days": DAYS_MIN}


def overview(office: Office, who: Who) -> dict[str, Any]:
    """Return the gates, with their states and what is known of each; a client of ours sees none."""
    if office.viewer(who).confined:
        raise ProblemError("role", "gates are told to who works here", todo="Ask who put the items to you.")
    evidence = office.watching.evidence()
    return {
        "gates": rows(office.policy().policy, office.watched.control, evidence),
        "needs": NEEDS,
        "trouble": office.watching.trouble,
    }


def rows(
    policy: Policy, control: Control, evidence: Mapping[str, list[dict[str, Any]]] | None = None
) -> list[dict[str, Any]]:
    """Return each gate with its states: one for every class, and one more for each agent version that differs."""
    records = rules_of(control).gates
    found = []
    for name, gate in policy.gates.items():
        digest = gate_digest(policy, name)
        protected = [one for one in gate.classes if _is_protected(policy, one)]
        known = records.get(name, NO_RECORDS)
        states = {one: gate_states(gate.state, known, digest, one in protected) for one in gate.classes}
        found.append(
            {
                "gate": name,
                "definition": digest,
                "owner": gate.owner,
                "classes": gate.classes,
                "protected": protected,
                "validators": gate.validators,
                "states": [row for one in gate.classes for row in _states(one, states[one])],
                "evidence": _evidence(name, digest, evidence),
            }
        )
    return found


def _evidence(
    name: str, definition: str, evidence: Mapping[str, list[dict[str, Any]]] | None
) -> list[dict[str, Any]] | None:
    """Return what is known of a gate as it is defined now; None: nothing."""
    known = [row for row in (evidence or {}).get(name, ()) if row["definition"] == definition]
    return [{key: value for key, value in row.items() if key != "definition"} for row in known] or None


def _is_protected(policy: Policy, class_: str) -> bool:
    return class_ not in policy.classes or is_protected(policy.classes[class_].consequence)


def _states(class_: str, states: GateStates) -> list[dict[str, Any]]:
    rest: list[tuple[str | None, str]] = [(None, states.rest)]
    own = [(f"{agent.id}@{agent.version}", state) for agent, state in states.known.items()]
    others = [(f"{agent}@(any other version)", "enforce") for agent in sorted(states.let_off)]
    rows_ = [*rest, *own, *(others if states.rest != "enforce" else ())]
    return [{"class": class_, "agent": agent, "state": state} for agent, state in rows_]
