"""`hitl review batches`, `batch` and `release`: batches, looked at and released from a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from cyclopts import App, Parameter

from hitl_stream.cli import seen
from hitl_stream.cli.api import HERE, Api, ConsoleFlags, asking
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, out
from hitl_stream.core.errors import UsageError
from hitl_stream.core.escape import escaped

EFFECT_SECONDS_MAX = 10.0
EFFECT_POLL_SECONDS = 0.1
NOT_YET = 3
"""The exit code of a release that was appended, and of which nobody knows yet what it did."""

Batch = Annotated[str, Parameter(name="BATCH")]


def register(review: App) -> None:
    """Add the verbs to `hitl review`."""
    for verb in (batches, batch, release):
        review.command(verb)


def batches(*, at: ConsoleFlags = HERE, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """List the batches of your queues.

    Parameters
    ----------
    json
        One object on stdout: {batches: [{batch, state, card, view}]}, the cards decoded.
    """
    found = asking(flags.load(), at, _all)
    if json:
        emit({"batches": found})
        return 0
    for one in found:
        _print(_line(one["card"]))
    if not found:
        _print("There is no batch in your queues.")
    return 0


def batch(name: Batch, *, at: ConsoleFlags = HERE, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Show a batch that you may release.

    Parameters
    ----------
    name
        Its name, as `hitl review batches` gives it.
    json
        One object on stdout: {batch, state, card, view}, the card decoded.
    """
    settings = flags.load()

    async def look(api: Api) -> dict[str, Any]:
        found = await _one(api, name)
        answer = await api.ask("POST", f"{_path(name)}/painted", {"view": found["view"]})
        seen.note(settings, _subject(name), found["view"], answer["receipt"])
        return found

    found = asking(settings, at, look)
    if json:
        emit(found)
        return 0
    card = found["card"]
    _print(_line(card))
    sample = card["sample"]
    _print(
        f"  sample: {sample['drawn']} drawn, {sample['good']} good, {sample['bad']} bad (at most {sample['accept']}), "
        f"{sample['waiting']} waiting; {card['flagged']} flagged, {card['beside']} decided beside it"
    )
    _print(f"  root {card['root']}")
    for need in card["decide_by"]:
        _print(f"  decide by {need['by']} in {need['queue']}: {need['given']} of {need['people']} releases")
    return 0


def release(name: Batch, *, at: ConsoleFlags = HERE, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """Release a whole batch, over the root of its actions. You have signed in minutes ago, and looked at it.

    Parameters
    ----------
    name
        Its name; you have looked at it with `batch`.
    json
        One object on stdout: {id, state}; the state is null while nobody knows what the release did.
    """
    settings = flags.load()
    looked_at = seen.look_up(settings, _subject(name), f"hitl review batch {name}")
    body = {"view": looked_at.view, "painted": looked_at.painted, "id": looked_at.id}
    told = asking(settings, at, lambda api: _release(api, name, body))
    if json:
        emit(told)
    else:
        _print(
            f"{name} is {told['state']} now."
            if told["state"]
            else f"Appended; what it did is not known yet. See: hitl review batch {name}"
        )
    if told["state"] is None:
        return NOT_YET
    seen.forget(settings, _subject(name))
    return 0


# --- asking -----------------------------------------------------------------------------------------------------------


async def _all(api: Api) -> list[dict[str, Any]]:
    found = (await api.ask("GET", "/batches"))["batches"]
    return [{**one, "card": msgspec.json.decode(one["card"])} for one in found]


async def _one(api: Api, name: str) -> dict[str, Any]:
    for one in await _all(api):
        if one["batch"] == name:
            return one
    raise UsageError(f"there is no batch {name} in your queues; list them: hitl review batches")


async def _release(api: Api, name: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send a release, and wait until the batch is another than the one that was looked at."""
    said = (await api.ask("POST", f"{_path(name)}/release", body))["id"]
    until = time.monotonic() + EFFECT_SECONDS_MAX
    while time.monotonic() < until:
        found = await _one(api, name)
        if found["view"] != body["view"]:
            return {"id": said, "state": found["state"]}
        await asyncio.sleep(EFFECT_POLL_SECONDS)
    return {"id": said, "state": None}


def _path(name: str) -> str:
    return f"/batches/{quote(name, safe='/')}"


def _subject(name: str) -> str:
    return f"batch {name}"


def _line(card: Mapping[str, Any]) -> str:
    given = f", released by {', '.join(card['given'])}" if card["given"] else ""
    return f"{card['batch']}  {card['state']}  {card['queue']}  {card['size']} of {card['wanted']} actions{given}"


def _print(text: str) -> None:
    out.print(escaped(text), markup=False, soft_wrap=True)
