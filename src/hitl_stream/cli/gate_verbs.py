"""`hitl gates evidence | remove | restore | candidates`: what is known of a gate, and going without it, by two people.

A removal is refused here unless everything that it needs is there for every type of error of the gate; what is missing
is said. What is signed holds what it rests on, and the share of errors that audits are held against from then on.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.appending import Desk, KeyFlag, Reason, checked_reason, sign_and_append, signing_key, tell
from hitl_stream.cli.live import Telling
from hitl_stream.cli.rules import InForce, folded, known, named
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import log_of, now_ms
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.action import Agent
from hitl_stream.core.candidates import Candidate, ranked
from hitl_stream.core.commands import GateChange
from hitl_stream.core.control import Control
from hitl_stream.core.errors import RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.policy.rules import gate_digest
from hitl_stream.lane.commander import Make
from hitl_stream.roles.gate_table import GateFigures, GateTable, evidence_of, read_table, removed, seen_of
from hitl_stream.settings import Settings

Name = Annotated[str, Parameter(name="NAME")]
AgentFlag = Annotated[str, Parameter(name="--agent", help="id@version: the one version of one agent.")]
MISSING_SHOWN = 12


def register(gates: App) -> None:
    """Add the verbs to `hitl gates`."""
    for verb in (evidence, remove, restore, candidates):
        gates.command(verb)


# --- evidence ---------------------------------------------------------------------------------------------------------


def evidence(name: Name | None = None, /, *, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Show what judged outputs say of each gate, agent version and type of error, and what is missing to go without it.

    Parameters
    ----------
    name
        Of one gate; not given: all.
    json
        One object on stdout: {policy, digest, gates: [{gate, agent, definition, persons, items, days, types, protected,
        missing}]}; shares from 0 to 1.
    """
    settings = flags.load()
    control, table = reading(_known(settings))
    found = known(settings, control)
    if name is not None:
        named(name, found.policy.gates, "gate", found.place)
    rows = [one for one in table.figures(found.policy, now_ms()) if name in (None, one.gate)]
    if json:
        emit({"policy": found.place, "digest": found.loaded.digest, "gates": [plain(one) for one in rows]})
        return 0
    if not rows:
        what = "no gate" if name is None else f"gate {escaped(name)}"
        _print(
            f"nothing is known of {what} as {escaped(found.place)} defines it: no output under it was judged since, or "
            "no monitor runs (hitl run monitor)"
        )
        return 0
    show(rows)
    return 0


def show(rows: list[GateFigures]) -> None:
    """Print what is known, a table a gate and agent version, and below each what is missing."""
    for one in rows:
        _print(Text(f"{escaped(one.gate)} for {escaped(named_agent(one.agent))}", "bold"))
        _print(f"{one.items:,} judged outputs by {one.persons:,} people in {one.days:,.1f} days")
        table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
        for title in ("type of error", "outputs", "errors", "canaries", "people find", "borne", "E"):
            table.add_column(title, justify="left" if title == "type of error" else "right", overflow="fold")
        for row in one.types:
            table.add_row(
                Text(escaped(row.error)), f"{row.items:,}", f"{row.errors:,}", f"{row.caught:,} of {row.canaries:,}",
                f"at least {row.hit_rate:.0%}", f"{row.threshold:.2%}", f"{row.e:.3g}",
            )  # fmt: skip
        out.print(table)
        for lack in one.missing[:MISSING_SHOWN]:
            _print(Text(f"missing: {escaped(lack)}", "yellow"))
        if not one.missing:
            _print(Text(f"removal can be asked for: {ask(one)}", "green"))
        if one.protected and len(one.missing) == 0:
            _print(f"{escaped(', '.join(one.protected))} would keep it, being of a protected consequence")
        out.print()


def ask(one: GateFigures) -> str:
    """Return the line that asks for a removal."""
    return f"hitl gates remove {escaped(one.gate)} --agent {escaped(named_agent(one.agent))} --reason WHY"


def plain(one: GateFigures) -> dict[str, Any]:
    """Return what is known of a gate as JSON has it."""
    found: dict[str, Any] = msgspec.to_builtins(one)
    return found


# --- remove -----------------------------------------------------------------------------------------------------------


def remove(
    name: Name,
    /,
    *,
    agent: AgentFlag,
    reason: Reason,
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Ask that a gate be not asked any more for one version of one agent; another holder confirms it.

    Exit 5 where anything that it needs is missing. The class's level and the audit of what runs alone stay as they are;
    where those audits find more errors than are signed now, the monitor puts the gate back.

    Parameters
    ----------
    name
        Of the gate.
    json
        One object on stdout: {state, epoch, at, confirm, gate, agent, definition, p, evidence}.
    """
    checked_reason(reason)
    of = agent_of(agent)
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    _, table = reading(_known(settings))
    made: list[dict[str, Any]] = []

    def prepare(desk: Desk) -> Make:
        found = known(settings, desk.log.control)
        named(name, found.policy.gates, "gate", found.place)
        figures = offered(found, table, desk.log.control, name, of, now_ms())
        for cls in figures.protected:
            telling.line(f"Note: {escaped(cls)} keeps it, being of a protected consequence.", "yellow")
        made.append(removal_of(figures))
        return partial(GateChange, gate=name, agent=of, state="removed", reason=reason, **made[0])

    signed = reading(sign_and_append(settings, signer, "gate", prepare))
    what = f"gate {escaped(name)} is not asked for {escaped(agent)}"
    tell(signed, telling, what, what)
    if json:
        emit({**signed.row, "gate": name, "agent": agent, **made[0]})
    return 0


def offered(found: InForce, table: GateTable, control: Control, name: str, of: Agent, now: int) -> GateFigures:
    """Return what is known of a gate by `now`, in milliseconds since 1970.

    Raises `RefusedError` with what is missing before it can be removed, `UsageError` where it is gone already.
    """
    said = control.gates.get((name, of))
    definition = gate_digest(found.policy, name)
    if said is not None and said.command.state == "removed" and said.command.definition == definition:
        raise UsageError(
            f"gate {escaped(name)} is gone for {escaped(named_agent(of))} already (control/{said.epoch}); nothing is "
            "appended"
        )
    figures = table.of(found.policy, name, of, now)
    if figures.missing:
        more = len(figures.missing) - MISSING_SHOWN
        lines = [*figures.missing[:MISSING_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        raise RefusedError(
            f"not appended: gate {escaped(name)} cannot be removed for {escaped(named_agent(of))}: "
            f"{escaped('; '.join(lines))}. It goes on stopping; see hitl gates evidence {escaped(name)}"
        )
    return figures


def removal_of(figures: GateFigures) -> dict[str, Any]:
    """Return what a removal claims beside gate, agent and reason."""
    return {
        "definition": figures.definition,
        "p": {one.error: one.share for one in figures.types},
        "evidence": evidence_of(figures),
    }


# --- restore ----------------------------------------------------------------------------------------------------------


def restore(
    name: Name,
    /,
    *,
    agent: str | None = None,
    reason: Reason,
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Put a gate back. It holds at once.

    Parameters
    ----------
    name
        Of the gate.
    agent
        id@version: for that one alone. Not given: for every agent.
    json
        One object on stdout: {state, epoch, at, confirm, gate, agent, definition}.
    """
    checked_reason(reason)
    of = None if agent is None else agent_of(agent)
    settings = flags.load()
    signer = signing_key(settings, key)
    telling = Telling(json)
    definitions: list[str] = []

    def prepare(desk: Desk) -> Make:
        found = known(settings, desk.log.control)
        named(name, found.policy.gates, "gate", found.place)
        definitions.append(gate_digest(found.policy, name))
        return partial(GateChange, gate=name, definition=definitions[0], state="enforce", agent=of, reason=reason)

    signed = reading(sign_and_append(settings, signer, "gate", prepare))
    what = f"gate {escaped(name)} stops for {escaped(agent) if agent is not None else 'every agent'}"
    tell(signed, telling, what, what)
    if json:
        emit({**signed.row, "gate": name, "agent": agent, "definition": definitions[0]})
    return 0


# --- candidates -------------------------------------------------------------------------------------------------------


def candidates(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Rank what could do without its gate: by volume, how little can go wrong, and how well it can be undone.

    Only where people were shown to look: planted errors of every type were caught, and no more real ones found than the
    gate bears. Protected classes are never listed. A rank is no offer: `hitl gates evidence` says what is missing.

    Parameters
    ----------
    json
        One object on stdout: {policy, candidates: [{gate, agent, per_week, harmless, undone, score, errors, missing}]}.
    """
    settings = flags.load()
    control, table = reading(_known(settings))
    found = known(settings, control)
    gone = {(gate, agent) for gate, agent, _ in removed(control)}
    figures = [one for one in table.figures(found.policy, now_ms()) if (one.gate, one.agent) not in gone]
    missing = {(one.gate, one.agent): one.missing for one in figures}
    rows = ranked(seen_of(found.policy, one) for one in figures)
    if json:
        lines = [msgspec.to_builtins(row) | {"missing": missing[row.gate, row.agent]} for row in rows]
        emit({"policy": found.place, "candidates": lines})
        return 0
    if not rows:
        _print(
            "no candidate: none that is not protected was judged, with planted errors of every type of it caught and "
            "no more real ones found than it bears"
        )
        return 0
    _show_candidates(rows, missing)
    return 0


def _show_candidates(rows: tuple[Candidate, ...], missing: dict[tuple[str, Agent], tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("gate", "agent", "outputs a week", "harmless", "undone", "score", "errors found", "missing"):
        left = title in ("gate", "agent", "errors found", "missing")
        table.add_column(title, justify="left" if left else "right", overflow="fold")
    for row in rows:
        errors = ", ".join(f"{error} {share:.2%}" for error, share in row.errors.items())
        lacking = len(missing[row.gate, row.agent])
        table.add_row(
            Text(escaped(row.gate)), Text(escaped(named_agent(row.agent))), f"{row.per_week:,.0f}",
            f"{row.harmless:.1f}", f"{row.undone:.1f}", f"{row.score:,.1f}", Text(escaped(errors)),
            f"{lacking} things" if lacking else "nothing",
        )  # fmt: skip
    out.print(table)


# --- what all share ---------------------------------------------------------------------------------------------------


def agent_of(text: str) -> Agent:
    """Read id@version; raise `UsageError` for what names no version."""
    name, at, version = text.rpartition("@")
    if not at or not name or not version:
        raise UsageError(f"{text!r} names no version of an agent; write --agent ID@VERSION, such as sdr-1@4")
    return Agent(name, version)


def named_agent(agent: Agent) -> str:
    """Write an agent version as people do."""
    return f"{agent.id}@{agent.version}"


async def _known(settings: Settings) -> tuple[Control, GateTable]:
    return await folded(settings), await read_table(log_of(settings))


def _print(line: str | Text) -> None:
    out.print(line, markup=False, soft_wrap=True)
