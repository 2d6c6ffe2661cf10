"""`hitl erase`: takes a person's data out of the log where Kafka compacts it, and says when the rest ends.

The first time it only says what it would do; with `--yes` it does it. Logged are counts, never whom they are about.
"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table

from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags, Toggle
from hitl_stream.cli.stretch import checked_log
from hitl_stream.cli.terminal import emit, out, say
from hitl_stream.cli.topics import reading
from hitl_stream.core.errors import RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.core.policy.model import ROOTS
from hitl_stream.lane import admin
from hitl_stream.lane.erasure import ERASED, OPEN_SHOWN_MAX, Plan, Wanted, plan
from hitl_stream.lane.erasure import erase as write_nulls
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire.records import time_text
from hitl_stream.wire.topics import TABLE

CONTEXT = "context."


def register(app: App) -> None:
    """Add the verb."""
    app.command(erase)


def erase(
    *,
    tenant: str | None = None,
    subject: Annotated[str | None, Parameter(name="--subject")] = None,
    action: Annotated[str | None, Parameter(name="--action")] = None,
    yes: Toggle = False,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Erase one action, or all about one subject: what is kept by key goes, the rest ends by retention.

    Without --yes nothing is written. Exit 1 if nothing is known of it, 5 while something of it is open.

    Parameters
    ----------
    tenant
        Whose data it is.
    subject
        FIELD=VALUE, such as context.email=anna@example.com: every action whose field has that value.
    action
        The action's id.
    yes
        Do it.
    json
        One object on stdout: {erased, actions, records, ending}.
    """
    settings = flags.load()
    wanted = wanted_of(tenant or settings.tenant, subject, action)
    made = reading(_plan(settings, wanted))
    _refuse_open(made)
    records = sum(made.counts.values())
    if yes and records:
        reading(write_nulls(kafka_client(settings), topic_set(settings).name, made.keys))
    if json:
        emit(_data(made, erased=yes and records > 0))
    else:
        _print(made)
    if settings.sources:
        say(f"not looked at, and ended by their own retention: {', '.join(sorted(settings.sources))}")
    say(_verdict(made, records, yes))
    return 0 if records or made.ending else FOUND


def wanted_of(tenant: str, subject: str | None, action: str | None) -> Wanted:
    """Read what is to be erased; refuse both, neither, and fields that no action has."""
    if not tenant or "/" in tenant:
        raise UsageError("--tenant is missing: say whose data it is; ids and names are one tenant's alone")
    if (subject is None) == (action is None):
        raise UsageError("say what to erase: --subject FIELD=VALUE, or --action ID, and only one of them")
    if action is not None:
        return Wanted(tenant, action_id=action.removeprefix(f"{tenant}/"))
    field, equals, value = (subject or "").partition("=")
    if not equals or not value or not (field in ROOTS or (field.startswith(CONTEXT) and field != CONTEXT)):
        known = ", ".join(ROOTS)
        raise UsageError(f"--subject {subject}: expected FIELD=VALUE, where FIELD is context.<name> or one of {known}")
    return Wanted(tenant, field=field, value=value)


async def _plan(settings: Settings, wanted: Wanted) -> Plan:
    checked = checked_log(settings)
    topics = topic_set(settings)
    kept = await admin.retentions(kafka_client(settings), [topics.name(name) for name in TABLE])
    by_name = {name: kept.get(topics.name(name)) for name in TABLE}
    return await plan(checked.log, checked, wanted, by_name)


def _refuse_open(made: Plan) -> None:
    if not made.open:
        return
    shown = "; ".join(f"{each.item}: {each.why}" for each in made.open[:OPEN_SHOWN_MAX])
    more = len(made.open) - OPEN_SHOWN_MAX
    raise RefusedError(
        f"nothing was erased: {len(made.open)} items are not over: {escaped(shown)}"
        f"{f'; and {more} more' if more > 0 else ''}. Let them be decided or expire, then erase"
    )


def _data(made: Plan, *, erased: bool) -> dict[str, Any]:
    return {
        "erased": erased,
        "actions": made.actions,
        "records": made.counts,
        "ending": [
            {"topic": each.topic, "records": each.count, "until": each.until_ms and time_text(each.until_ms)}
            for each in made.ending
        ],
    }  # fmt: skip


def _print(made: Plan) -> None:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("topic", "records", "what becomes of them"):
        table.add_column(title, justify="right" if title == "records" else "left", overflow="fold")
    for name in ERASED:
        table.add_row(name, f"{made.counts[name]:,}", "erased: a null for each key")
    for each in made.ending:
        ends = "kept until somebody deletes them" if each.until_ms is None else f"gone by {time_text(each.until_ms)}"
        table.add_row(each.topic, f"{each.count:,}", ends)
    out.print(table)


def _verdict(made: Plan, records: int, yes: bool) -> str:
    if not records:
        return "There is nothing to erase." + (" What is left ends by retention." if made.ending else "")
    if not yes:
        return "Nothing was erased. To do it, say the same with --yes."
    return (
        f"Erased {records:,} records of {made.actions:,} actions. Readers pass them over from now on; Kafka takes the "
        "bytes away when it next compacts those segments. Digests stay: action hashes on audit, results and ends."
    )
