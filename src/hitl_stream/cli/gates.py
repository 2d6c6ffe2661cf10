"""`hitl gates list` and `hitl gates set`: which gate is in which state for whom, and a signed change of that.

A gate is removed by `hitl gates remove` alone, which asks for its evidence (`gate_verbs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from hitl_stream.cli import gate_verbs
from hitl_stream.cli.appending import Desk, KeyFlag, Reason, checked_reason, sign_and_append, signing_key, tell
from hitl_stream.cli.live import Telling
from hitl_stream.cli.rules import folded, known, named
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.commands import GateChange
from hitl_stream.core.control import Control
from hitl_stream.core.errors import RefusedError
from hitl_stream.core.escape import escaped
from hitl_stream.core.policy.lint import is_protected
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import NO_RECORDS, STRICTNESS, GateStates, State, gate_digest, gate_states, rules_of
from hitl_stream.lane.commander import Make
from hitl_stream.roles.gate_table import protected_classes

Name = Annotated[str, Parameter(name="NAME")]


def register(app: App) -> None:
    """Add the verbs."""
    gates = App(name="gates", help="Look at the gates in force, and set the state of one.")
    gates.command(gates_list, name="list")
    gates.command(gates_set, name="set")
    gate_verbs.register(gates)
    app.command(gates)


def gates_list(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Show every gate of the policy in force: what it judges, and in which state it is for whom.

    Parameters
    ----------
    json
        One object on stdout: {policy, digest, gates: [{gate, definition, file, classes, validators, owner, states}]}.
    """
    settings = flags.load()
    control = reading(folded(settings))
    found = known(settings, control)
    rows = gate_rows(found.policy, control)
    if json:
        emit({"policy": found.place, "digest": found.loaded.digest, "gates": rows})
        return 0
    if not rows:
        out.print(f"the policy in force ({found.place}) has no gate", markup=False, soft_wrap=True)
        return 0
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("gate", "state", "for", "class", "validators", "owner", "in the file"):
        table.add_column(title, overflow="fold")
    for row in rows:
        for at, state in enumerate(row["states"]):
            first = (row["gate"], ", ".join(row["validators"]), row["owner"], row["file"]) if not at else ("",) * 4
            table.add_row(
                Text(escaped(first[0]), "bold"),
                Text(state["state"], _STYLES[state["state"]]),
                Text(escaped(state["agent"] or "every agent")),
                Text(escaped(state["class"])),
                *(Text(escaped(cell)) for cell in first[1:]),
            )
    out.print(table)
    return 0


_STYLES = {"enforce": "green", "observe": "yellow", "removed": "bold red"}


def gate_rows(policy: Policy, control: Control) -> list[dict[str, Any]]:
    """Return each gate with its states: one for every class, and one more for each agent version that differs."""
    records = rules_of(control).gates
    return [
        {
            "gate": name,
            "definition": gate_digest(policy, name),
            "file": gate.state,
            "classes": gate.classes,
            "validators": gate.validators,
            "owner": gate.owner,
            "from": gate.from_,
            "until": gate.until,
            "states": [
                {"class": cls, "agent": agent, "state": state}
                for cls in gate.classes
                for agent, state in _states(_gate_states(policy, name, cls, records))
            ],
        }
        for name, gate in policy.gates.items()
    ]


def _gate_states(policy: Policy, name: str, cls: str, records: Mapping[str, Any]) -> GateStates:
    protected = cls not in policy.classes or is_protected(policy.classes[cls].consequence)
    definition = gate_digest(policy, name)
    return gate_states(policy.gates[name].state, records.get(name, NO_RECORDS), definition, protected)


def _states(states: GateStates) -> list[tuple[str | None, State]]:
    rows: list[tuple[str | None, State]] = [(None, states.rest)]
    rows += [(f"{agent.id}@{agent.version}", state) for agent, state in states.known.items()]
    rows += [
        (f"{agent}@(any other version)", "enforce") for agent in sorted(states.let_off) if states.rest != "enforce"
    ]
    return rows


def gates_set(
    name: Name,
    state: Literal["observe", "enforce"],
    /,
    *,
    agent: str | None = None,
    reason: Reason,
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Set a gate's state. `enforce` holds at once; `observe` waits for another holder.

    Parameters
    ----------
    name
        Of the gate.
    state
        observe: it labels and stops nothing. enforce: it stops. To remove one: hitl gates remove.
    agent
        id@version: for that one alone.
    json
        One object on stdout: {state, epoch, at, confirm, gate, to, agent, definition}.
    """
    checked_reason(reason)
    of = None if agent is None else gate_verbs.agent_of(agent)
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    definitions: list[str] = []

    def prepare(desk: Desk) -> Make:
        found = known(settings, desk.log.control)
        named(name, found.policy.gates, "gate", found.place)
        for cls in _protected(found.policy, name, state):
            telling.line(f"Note: {escaped(cls)} keeps it, being of a protected consequence.", "yellow")
        definitions.append(gate_digest(found.policy, name))
        return partial(GateChange, gate=name, definition=definitions[0], state=state, agent=of, reason=reason)

    signed = reading(sign_and_append(settings, signer, "gate", prepare))
    whom = escaped(agent) if agent is not None else "every agent"
    words = {"enforce": "stops", "observe": "only labels"}
    what = f"gate {escaped(name)} {words[state]} for {whom}"
    tell(signed, telling, what, what)
    if json:
        emit({**signed.row, "gate": name, "to": state, "agent": agent, "definition": definitions[0]})
    return 0


def _protected(policy: Policy, name: str, state: State) -> tuple[str, ...]:
    """Return the classes that keep the gate all the same; refuse what would loosen nothing."""
    gate = policy.gates[name]
    filed: State = "enforce" if gate.state == "removed" else gate.state
    if STRICTNESS[state] >= STRICTNESS[filed]:
        return ()
    protected = protected_classes(policy, name)
    if len(protected) == len(gate.classes):
        raise RefusedError(
            f"not appended: {escaped(', '.join(protected))} is of a protected consequence, and never loses a gate by a "
            "record; only a promoted policy can say `observe`"
        )
    return protected
