"""`hitl report gates`: every gate's state, its evidence, what audits say since it is gone, and what is assumed.

A removal rests on a test that is wrong now and then, however honest: so the report says how often that is to be
expected over all gates that are watched, beside what the test takes for granted.
"""

from __future__ import annotations

from typing import Any

from cyclopts import App
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.gate_verbs import named_agent, plain, show
from hitl_stream.cli.gates import gate_rows
from hitl_stream.cli.rules import folded, known
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import log_of, now_ms
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.action import Agent
from hitl_stream.core.control import Control
from hitl_stream.core.escape import escaped
from hitl_stream.core.gate_evidence import DAYS_MIN, ITEMS_MIN, KAPPA, KAPPA_ERRORS_MIN, OFFER, RESTORE, SHARE_MIN
from hitl_stream.core.policy.model import Policy
from hitl_stream.roles.gate_keeping import SEVERE, Watched
from hitl_stream.roles.gate_table import WRONG, GateTable, read_table
from hitl_stream.settings import Settings

ASSUMPTIONS = (
    f"of real errors people find at least {KAPPA:.0%} of the share that they find of planted ones of the same type, "
    f"until {KAPPA_ERRORS_MIN} that a second person found say how many the first one had",
    "what a person finds of planted errors is the same at every gate that they judge at",
    "an output that somebody skipped, let lapse or escalated, or that expired with nobody, counts as an error of every "
    "type of the gate",
    "a second judgement of an output is no output more",
    f"removal is offered at {ITEMS_MIN} outputs, E at least {OFFER:g} and {DAYS_MIN} days, for every type of error; a "
    "new definition, threshold or agent version begins at nothing",
    f"audits are held against what was signed, at least {SHARE_MIN:.0%}; a gate is put back at {RESTORE:,.0f} to one, "
    f"or at the first error of the type {' or '.join(sorted(SEVERE))}",
)


def register(app: App) -> None:
    """Add the verb; `hitl report` is there already."""
    app["report"].command(gates)


def gates(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Each gate's state, its evidence, audits since it is gone, what is assumed, and how many removals may be wrong.

    Parameters
    ----------
    json
        One object on stdout: {policy, digest, gates: [{gate, states, evidence, audits, …}], assumptions, watched,
        removed, wrong_removals_max}; shares from 0 to 1.
    """
    settings = flags.load()
    control, table = reading(_read(settings))
    found = known(settings, control)
    report = gates_report(found.policy, control, table, now_ms())
    if json:
        emit({"policy": found.place, "digest": found.loaded.digest, **report})
        return 0
    _show(report)
    figures = list(table.figures(found.policy, now_ms()))
    if figures:
        _print(Text("Evidence", "bold"))
        show(figures)
    _show_audits(report)
    _print(Text("What is assumed", "bold"))
    for one in ASSUMPTIONS:
        _print(f"- {one}")
    _print(
        f"{report['watched']} gates and agent versions have evidence, {report['removed']} are removed. Of those that "
        f"are needed at most {WRONG:.0%} would ever be offered, so at most {report['wrong_removals_max']:.2f} wrong "
        "removals are to be expected over all of them."
    )
    return 0


async def _read(settings: Settings) -> tuple[Control, GateTable]:
    return await folded(settings), await read_table(log_of(settings))


def gates_report(policy: Policy, control: Control, table: GateTable, now_ms: int) -> dict[str, Any]:
    """Return the report as JSON has it, without the policy's place."""
    figures = table.figures(policy, now_ms)
    gone = [key for key, said in control.gates.items() if said.command.state == "removed"]
    rows = [
        {
            **row,
            "evidence": [plain(one) for one in figures if one.gate == row["gate"]],
            "audits": [
                audits_row(agent, epoch, watched)
                for (gate, agent, epoch), watched in sorted(table.relapse.items(), key=lambda one: one[0][2])
                if gate == row["gate"]
            ],
        }
        for row in gate_rows(policy, control)
    ]
    return {
        "gates": rows,
        "assumptions": ASSUMPTIONS,
        "watched": len(figures),
        "removed": len(gone),
        "wrong_removals_max": WRONG * len(figures),
    }


def audits_row(agent: Agent, epoch: int, watched: Watched) -> dict[str, Any]:
    """Return what audits say of one removal; `against` is the mean of its e-values, which puts it back at 1,000."""
    return {
        "agent": named_agent(agent),
        "removed_at": epoch,
        "returned": watched.returned,
        "types": [
            {
                "error": error, "audited": one.items, "signed": one.p, "severe": one.severe,
                "against": sum(one.values) / len(one.values),
            }
            for error, one in watched.relapse.items()
        ],
    }  # fmt: skip


def _show(report: dict[str, Any]) -> None:
    table = _table(("gate", "state", "for", "class", "owner"))
    for row in report["gates"]:
        for at, state in enumerate(row["states"]):
            name, owner = (row["gate"], row["owner"]) if not at else ("", "")
            whom = state["agent"] or "every agent"
            table.add_row(*(Text(escaped(cell)) for cell in (name, state["state"], whom, state["class"], owner)))
    out.print(table)
    out.print()


def _show_audits(report: dict[str, Any]) -> None:
    lines = [(row["gate"], one, each) for row in report["gates"] for one in row["audits"] for each in one["types"]]
    if not lines:
        return
    _print(Text("Audits of what removed gates let through", "bold"))
    table = _table(("gate", "agent", "removed at", "type of error", "audited", "signed", "against it", ""))
    for gate, one, each in lines:
        table.add_row(
            *(Text(escaped(cell)) for cell in (gate, one["agent"], str(one["removed_at"]), each["error"])),
            f"{each['audited']:,}", f"{each['signed']:.2%}", f"{each['against']:.3g} of {RESTORE:,.0f}",
            "put back" if one["returned"] else "",
        )  # fmt: skip
    out.print(table)
    out.print()


def _table(titles: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _print(line: str | Text) -> None:
    out.print(line, markup=False, soft_wrap=True)
