"""Looking at the log: `hitl verify` and `hitl explain`. None of them writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter
from rich.table import Table
from rich.text import Text

from hitl_stream.cli.settings import FOUND, NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import Ago, since_ms_of
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.effective import EXECUTOR, ROLES
from hitl_stream.core.errors import HitlError
from hitl_stream.core.ledger import Report, Violation
from hitl_stream.lane import explain as explaining
from hitl_stream.lane.explain import Entry, Story
from hitl_stream.lane.verify import Verifying
from hitl_stream.lane.verify import verify as verify_log
from hitl_stream.logs import escaped
from hitl_stream.settings import Settings, facts_of
from hitl_stream.wire import seal
from hitl_stream.wire.policy_file import LoadedPolicy
from hitl_stream.wire.records import time_text
from hitl_stream.wire.seal import SealKey
from hitl_stream.wiring import DESK, ROUTER, group_of, kafka_client, load_policy, topic_set

if TYPE_CHECKING:
    from hitl_stream.console.compare import Compared

PENDING = "pending."
FIGURES = {
    "effective": "switches, from append to EFFECTIVE",
    "offending_commits": "committed in the scope of a switch after its append",
    "offending_calls": "called in the scope of a switch after its append",
}


def register(app: App) -> None:
    """Add the verbs."""
    app.command(verify)
    app.command(explain)


# --- verify -----------------------------------------------------------------------------------------------------------


def verify(
    *,
    json: Json = False,
    deep: Annotated[bool, Parameter(negative="")] = False,
    since: Ago = None,
    group: str | None = None,
    view: str | None = None,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Read the log from outside and check that nothing was lost, doubled, reordered, left against a switch, or ran
    without the people whom it takes.

    Exit 1 if anything was.

    Parameters
    ----------
    json
        One object on stdout: {ok, conservation, rows, counts, partitions, violations, figures, notes}.
    deep
        Also compute the hash of every action again.
    since
        Only inputs from so long ago on, such as 1h; not given: everything there is.
    group
        The router's consumer group; not given: the one that `hitl run router` would join.
    view
        Also compare a console's view with the topics: a Postgres DSN, or the path of an SQLite file.
    """
    settings = flags.load()
    keys = _seal_keys(settings)
    desk_keys = keys.get(DESK)
    policy = _policy(settings)
    what = Verifying(
        client=kafka_client(settings),
        topics=topic_set(settings),
        group=group or group_of(settings, ROUTER),
        inputs=_inputs(settings),
        keys=keys.pop(ROUTER, None),
        deep=deep,
        since_ms=since_ms_of(since),
        window_ms=None if policy is None else facts_of(policy.policy).max_age_ms,
        others=keys,
        executors=group_of(settings, EXECUTOR),
        trust=settings.trust,
        policy=None if policy is None else policy.digest,
        rules=None if policy is None else policy.policy,
        desks=group_of(settings, DESK),
    )
    started = time.monotonic()
    report = reading(_verified(what, view, desk_keys))
    if json:
        emit({**_report(report), "seconds": round(time.monotonic() - started, 3)})
    else:
        _print_report(report)
    return 0 if report.ok else FOUND


async def _verified(what: Verifying, view: str | None, desk_keys: Mapping[str, SealKey] | None) -> Report:
    """Verify the log, and the view where one is given."""
    if view is None:
        return await verify_log(what)
    from hitl_stream.console.compare import compare, expect_view  # here: who has no view needs no database

    expect_view(view)
    report = await verify_log(what)
    if not desk_keys:
        note = "the view (I13) was not compared: no seal keys of the desk here (keys_dir)"
        return replace(report, notes=(*report.notes, note))
    return compared_too(report, await compare(what.client, what.topics, {"reviews": desk_keys}, view))


def compared_too(report: Report, found: Compared) -> Report:
    """Return a report that also says how a view compares with the topics (I13)."""
    violations = [
        Violation("I13", f"{one.name} {one.what}", (one.place,) if one.place else ()) for one in found.differences
    ]
    notes = [
        f"{count} {words}"
        for count, words in (
            (found.moving, "items have changed since the view read them, and were not compared (I13)"),
            (found.unjudged, "items stand in the view alone; the topics have lost their beginning (I13)"),
            (found.unreadable, "records of reviews could not be read, and are in no view (I13)"),
            (found.found - len(found.differences), "more differences between view and topics (I13)"),
        )
        if count
    ]
    return report.also("I13", found.items + found.lots, violations, notes)


def _seal_keys(settings: Settings) -> dict[str, dict[str, SealKey]]:
    """Return the seal keys of each role of which there are any here; an unreadable one is an error."""
    there = [role for role in ROLES if any(settings.keys_dir.glob(f"seal-{role}-*"))]
    return {role: seal.read_keys(settings.keys_dir, f"seal-{role}") for role in there}


def _policy(settings: Settings) -> LoadedPolicy | None:
    with suppress(HitlError):  # without a policy that can be read, two checks less, which the report says
        return load_policy(settings)
    return None


def _report(report: Report) -> dict[str, Any]:
    return {
        "ok": report.ok,
        "conservation": report.conservation,
        "rows": [
            {
                "invariant": row.invariant,
                "what": row.what,
                "checked": row.checked,
                "violations": row.violations,
                "verdict": row.verdict,
            }
            for row in report.rows
        ],
        "counts": report.counts,
        "partitions": report.partitions,
        "violations": [{"invariant": v.invariant, "what": v.what, "places": v.places} for v in report.violations],
        "figures": {name: asdict(figure) for name, figure in report.figures.items()},
        "notes": report.notes,
    }


_VERDICTS = {"ok": "green", "violated": "bold red", "not checked": "dim"}


def _print_report(report: Report) -> None:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("", "what", "checked", "violations", "verdict"):
        table.add_column(title, justify="right" if title in ("checked", "violations") else "left", overflow="fold")
    for row in report.rows:
        verdict = Text(row.verdict, style=_VERDICTS[row.verdict])
        table.add_row(row.invariant, row.what, f"{row.checked:,}", f"{row.violations:,}", verdict)
    out.print(table)
    for line in _counted(report.counts):
        _print(line)
    for name, figure in report.figures.items():
        _print(
            f"{FIGURES[name]}: {figure.count:,}, p50 {_seconds(figure.p50_ms)}, p99 {_seconds(figure.p99_ms)}, "
            f"max {_seconds(figure.max_ms)}"
        )
    for violation in report.violations:
        _print(f"{violation.invariant}  {' ← '.join(violation.places)}: {violation.what}", "red")
    hidden = sum(row.violations for row in report.rows) - len(report.violations)
    if hidden:
        _print(f"… and {hidden:,} more", "red")
    for note in report.notes:
        _print(f"note: {note}", "dim")
    _print(f"conservation: {report.conservation}", "green" if report.conservation == "ok" else "bold red")


def _counted(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield where the inputs stand, and of what is pending, where it waits."""
    waiting = {name: number for name, number in counts.items() if name.startswith(PENDING)}
    others = ", ".join(f"{name} {number:,}" for name, number in counts.items() if number and name not in waiting)
    yield f"\n{others or 'no inputs'}"
    if any(waiting.values()):
        yield "pending: " + ", ".join(f"{name.removeprefix(PENDING)} {n:,}" for name, n in waiting.items() if n)


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.3f} s"


# --- explain ----------------------------------------------------------------------------------------------------------


def explain(
    id_: Annotated[str, Parameter(name="ID")],
    /,
    *,
    entity: str | None = None,
    since: Ago = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Tell the story of one action: what was proposed, what was decided and why, what held it, and how it ended.

    Exit 1 if it is unknown.

    Parameters
    ----------
    id_
        tenant/action_id.
    entity
        Its account, or account/campaign: reads one partition instead of all.
    since
        Only records from so long ago on, such as 1h.
    json
        One object on stdout: {id, found, entries, left_out, untold, nearest}.
    """
    settings = flags.load()
    about = explaining.asked(id_, settings.tenant, entity, since_ms_of(since))
    client, topics = kafka_client(settings), topic_set(settings)
    asking = explaining.explain(client, topics, _inputs(settings), about, settings.tenant, settings.trust)
    story = reading(asking)
    if json:
        emit(_story(story))
    else:
        for line, style in render(story):
            _print(line, style)
    return 0 if story.entries else FOUND


def _story(story: Story) -> dict[str, Any]:
    return {
        "id": f"{story.tenant}/{story.action_id}",
        "found": bool(story.entries),
        "entries": [
            {"at": time_text(e.at_ms), "place": e.place, "what": e.what, "says": e.says, "action": e.action}
            for e in story.entries
        ],
        "left_out": story.left_out,
        "untold": story.untold,
        "nearest": story.nearest,
    }


def render(story: Story) -> Iterator[tuple[str, str | None]]:
    """Yield the lines of a story, each with its style; nothing in them can move the cursor."""
    name = escaped(f"{story.tenant}/{story.action_id}")
    if not story.entries:
        yield f"{name} was not found", "red"
        if story.nearest:
            yield "the nearest ids are:", None
        for other in story.nearest:
            yield f"  {escaped(other)}", None
        return
    yield name, "bold"
    if story.left_out:
        yield f"… {story.left_out} older records of this id", "dim"
    parked: set[str] = set()
    for entry in story.entries:
        yield f"{time_text(entry.at_ms)}  {_title(entry, parked):<12} {entry.place}", None
        for line in _details(entry.says):
            yield f"    {escaped(line)}", "dim"
    if story.untold:
        yield f"note: switches are only named: {escaped(story.untold)}", "dim"


_TITLES = {
    "actions": "proposed",
    "execute": "to execute",
    "review": "to review",
    "escalation": "escalated",
    "review.seeded": "audit copy",
    "recommendations": "recommended",
    "held": "held",
    "decisions": "decided",
    "closed": "closed",
    "results": "result",
    "dlq": "dead letter",
    "control": "switch",
}


def _title(entry: Entry, parked: set[str]) -> str:
    """Return what a record is called; `parked` are the attempts that were parked before it."""
    says = entry.says
    match entry.what:
        case "actions" if "via" in says:
            return "moved home"
        case "execute" if "routed" in says:
            return "approved"
        case "escalation" if says.get("purpose") == "exception":
            return "question"
        case "held":
            again = str(says.get("attempt")) in parked
            parked.add(str(says.get("attempt")))
            by = _dict(says.get("parked")).get("by")
            return "parked again" if again else "sent back" if by == "executor" else "parked"
        case "results":
            return str(says.get("status") or "result")[:12]
        case "control":
            return {"engage": "engaged", "release": "released"}.get(str(says.get("typ")), "switch")
    return _TITLES[entry.what]


def _details(says: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a record says, its own words first, then the rules that led there."""
    first = [f"{says[name]}" for name in ("outcome", "end", "why", "status", "error", "verdict") if says.get(name)]
    if says.get("attempt"):
        first.append(f"attempt {says['attempt']}")
    agent, entity = _dict(says.get("agent")), _dict(says.get("entity"))
    if agent:
        first.append(f"{says.get('type')} by {agent.get('id')} {agent.get('version') or ''}".rstrip())
    if entity:
        first.append("/".join(str(part) for part in (entity.get("account"), entity.get("campaign")) if part))
    if _dict(says.get("score")):
        first.append(f"score {_dict(says['score']).get('total')}")
    if first:
        yield ", ".join(part for part in first if part)
    via = _dict(says.get("via"))
    if via:
        yield f"from {via.get('from')} by the {via.get('role')}" if "from" in via else "with a via that cannot be read"
    yield from _control(says)
    yield from _parked(says)
    yield from _called(says)
    for name in ("source", "proposed_at", "moment", "execute_by", "by", "note", "hash", "policy", "epoch"):
        if says.get(name) not in (None, "", [], {}) and "switch" not in says:
            yield f"{name}: {says[name]}"
    for row in map(_dict, _list(says.get("reasons"))):
        limit = f", limit {row['limit']}" if row.get("limit") else ""
        watched = "" if row.get("counts", True) else " (observed only)"
        yield f"{row.get('outcome')} by {row.get('rule')}: saw {row.get('saw')}{limit}{watched}"
    for row in map(_dict, _list(says.get("approvals"))):
        yield f"needs {row.get('people')} of {row.get('queue')} by {row.get('decide_by')}"


def _control(says: Mapping[str, Any]) -> Iterator[str]:
    """Yield what control says of a switch that held the action."""
    if "switch" not in says:
        return
    why = f": {says['reason']}" if says.get("reason") else ""
    if says.get("typ") == "engage":
        scope = " ".join(says.get("scope") or ()) or "everything"
        by = f"{says.get('by')} ({says.get('source')})" if says.get("source") != "person" else says.get("by")
        yield f"switch {says['switch']}: {says.get('mode')} for {scope} by {by}{why}"
    elif says.get("asked_by") == says.get("by"):
        yield f"switch {says['switch']} by {says.get('by')}{why}"
    else:
        asked = f"asked for by {says.get('asked_by')} at {says.get('asked')}"
        yield f"switch {says['switch']} by {says.get('by')}, {asked}{why}"


def _parked(says: Mapping[str, Any]) -> Iterator[str]:
    parked = _dict(says.get("parked"))
    if not parked:
        return
    switches = _list(parked.get("switches"))
    if switches:
        why = "under " + ", ".join(f"switch {epoch}" for epoch in switches)
    else:
        why = "to be decided again" if parked.get("by") == "executor" else "behind an earlier one of its entity"
    yield f"parked by the {parked.get('by')} at epoch {parked.get('epoch')}, {why}"


def _called(says: Mapping[str, Any]) -> Iterator[str]:
    """Yield what an executor says of its call, or asks of people."""
    for pointer, value in _dict(says.get("present")).items():
        yield f"stood there before: {pointer} {value}"
    if "status" in says:
        times = [f"{name} {says[name]}" for name in ("called", "answered") if says.get(name)]
        platform = _dict(says.get("platform"))
        said = [f"{name} {platform[name]}" for name in ("code", "ref", "text") if platform.get(name) is not None]
        yield ", ".join(
            (*(times or ["nobody knows when it was called"]), f"platform: {', '.join(said) or 'no answer'}")
        )
    exception = _dict(says.get("exception"))
    if exception:
        yield f"about the {exception.get('type')}: {exception.get('text')}"


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


# --- shared -----------------------------------------------------------------------------------------------------------


def _inputs(settings: Settings) -> tuple[str, ...]:
    return tuple(sorted({topic_set(settings).name("actions"), *settings.sources}))


def _print(text: str, style: str | None = None) -> None:
    out.print(text, style=style, markup=False, soft_wrap=True)
