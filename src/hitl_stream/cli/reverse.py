"""`hitl reverse ACTION_ID`: a person proposes what would undo an executed action; it is decided like any other."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from hitl_stream.cli.api import HERE, At, ConsoleFlags, address, token
from hitl_stream.cli.appending import KeyFlag, Reason, checked_reason, signing_key
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.stretch import checked_log, now_ms, say_seals
from hitl_stream.cli.terminal import emit, out
from hitl_stream.cli.topics import reading
from hitl_stream.core.errors import RefusedError
from hitl_stream.core.escape import escaped
from hitl_stream.core.reversal import Irreversible
from hitl_stream.lane.explain import asked
from hitl_stream.lane.exports import Checked
from hitl_stream.lane.undoing import Found, append, post, result_of
from hitl_stream.settings import Settings, kafka_client, topic_set
from hitl_stream.wire import seal
from hitl_stream.wire.records import time_text
from hitl_stream.wire.undoing import Undo, undo, via_headers

CONSOLE_SEAL = "seal-console"
WHY_NOT_EXECUTED = {
    "failed": "the platform refused it, so that it changed nothing",
    "unresolved": "nobody knows whether it was carried out; look at the platform, then propose what is right",
}


def register(app: App) -> None:
    """Add the verb."""
    app.command(reverse)


def reverse(
    id_: Annotated[str, Parameter(name="ACTION_ID")],
    /,
    *,
    reason: Reason,
    at: ConsoleFlags = HERE,
    key: KeyFlag = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Propose what would undo an executed action, as your own new action. Exit 5 if it cannot be undone.

    The proposal goes over the API of the console that --console names. With none it is written to the log, for which
    the console's seal key must be here.

    Parameters
    ----------
    id_
        tenant/action_id.
    json
        One object on stdout: {id, of, changes, sent}.
    """
    settings = flags.load()
    checked_reason(reason)
    about = asked(id_, settings.tenant, None, None)
    api = _api(settings, at)
    name = f"{about.tenant}/{about.action_id}"
    undone, sent = reading(_reverse(settings, name, about.tenant, about.action_id, reason, api, key))
    action = undone.decoded.action
    if json:
        emit({"id": f"{about.tenant}/{action.action_id}", "of": name, "changes": _changes(undone), "sent": sent})
        return 0
    _print(f"Proposed as {about.tenant}/{action.action_id}, {sent}; nothing has changed yet.")
    for row in _changes(undone):
        place = "/".join(str(part) for part in (row["account"], row["campaign"]) if part)
        _print(f"  {place} {row['field']}: {row['before']} → {row['after']} {row['unit'] or ''}".rstrip())
    _print(f"It is decided like any other action: hitl explain {about.tenant}/{action.action_id}")
    return 0


async def _reverse(
    settings: Settings,
    name: str,
    tenant: str,
    action_id: str,
    reason: str,
    api: tuple[str, str] | None,
    key: str | None,
) -> tuple[Undo, str]:
    checked = checked_log(settings)
    found = await _executed(checked, name, tenant, action_id)
    undone = undo(found.result, time_text(now_ms()), reason)
    if isinstance(undone, Irreversible):
        where = f" ({undone.path})" if undone.path else ""
        raise RefusedError(f"{name} cannot be undone{where}: {undone.why}")
    if api is not None:
        await post(*api, undone)
        return undone, f"over the console at {api[0]}"
    return undone, f"at {await _write(settings, tenant, undone, found.place, key)}"


async def _executed(checked: Checked, name: str, tenant: str, action_id: str) -> Found:
    found = await result_of(checked, tenant, action_id)
    say_seals(checked)
    if found is None:
        raise RefusedError(
            f"no result of {name} is on the log: it was not executed, or so long ago that retention took the result; "
            f"see what became of it: hitl explain {name}"
        )
    why = WHY_NOT_EXECUTED.get(found.result.status)
    if why is not None:
        raise RefusedError(f"{name} is {found.result.status}: {why}")
    return found


async def _write(settings: Settings, tenant: str, undone: Undo, place: str, key: str | None) -> str:
    """Write the proposal under the console's seal, in the name of the person whose key is here."""
    if not any(settings.keys_dir.glob(f"{CONSOLE_SEAL}-*")):
        raise RefusedError(
            "a person's proposal goes through the console, which says who signed in; name it with --console URL, or "
            f"run this where the console's seal key is (no {CONSOLE_SEAL}-<id> in {settings.keys_dir})"
        )
    person = signing_key(settings, key)
    if person.kind != "person":
        raise RefusedError(f"the key {person.key_id} is a service's; only a person proposes what undoes an action")
    topics = topic_set(settings)
    own = list(seal.read_keys(settings.keys_dir, CONSOLE_SEAL).values())[-1]
    headers = via_headers(topics.name("actions"), own, undone, place, person.holder)
    return await append(kafka_client(settings), topics, tenant, undone, headers)


def _api(settings: Settings, at: At) -> tuple[str, str] | None:
    """Return the console's address and the token for it; None where none is named."""
    if at.console is None:
        return None
    url = address(settings, at)
    return url, token(settings, at, url)


def _changes(undone: Undo) -> list[dict[str, Any]]:
    return [
        {
            "account": change.entity.account,
            "campaign": change.entity.campaign,
            "field": change.field,
            "before": change.before,
            "after": change.after,
            "unit": change.unit,
        }
        for change in undone.decoded.action.changes
    ]


def _print(text: str) -> None:
    out.print(escaped(text), markup=False, soft_wrap=True)
