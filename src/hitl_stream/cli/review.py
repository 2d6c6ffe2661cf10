"""`hitl review`: be given items, look at them and judge them from a terminal, over the console's API.

What is judged is what was looked at: `next` and `show` note the card's digest and the console's receipt in
`<state_dir>/review.json`, and a verdict sends them. If the item is another by then, the console refuses.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from getpass import getpass
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from cyclopts import App, Parameter

from hitl_stream.cli import api as console_api
from hitl_stream.cli import batches, seen
from hitl_stream.cli.api import HERE, Api, At, ConsoleFlags, asking
from hitl_stream.cli.seen import Seen
from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, out
from hitl_stream.core.errors import RefusedError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.settings import Settings

EFFECT_SECONDS_MAX = 10.0
"""The desk answers in well under one; then the verdict stands there, and `hitl review show` tells later."""
EFFECT_POLL_SECONDS = 0.1
NOT_YET = 3
"""The exit code of a verdict that was appended, and of which nobody knows yet what it did."""
REFUSED = 5
GOOD = ("applied", "waiting")

Item = Annotated[str, Parameter(name="ITEM")]
Code = Annotated[str, Parameter(name="--code")]
MaybeCode = Annotated[str | None, Parameter(name="--code")]
Note = Annotated[str | None, Parameter(name="--note")]


def register(app: App) -> None:
    """Add the verbs."""
    review = App(name="review", help="Be given items to decide, look at them, and judge them.")
    for verb in (show, approve, reject, change, escalate):
        review.command(verb)
    review.command(next_, name="next")
    review.command(sign_in, name="sign-in")
    review.command(sign_out, name="sign-out")
    batches.register(review)
    app.command(review)


def sign_in(
    name: Annotated[str, Parameter(name="NAME")],
    *,
    at: ConsoleFlags = HERE,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Sign in to the console by name and password. Tier 3 and the release of a batch want it, minutes ago at most.

    The session's secret is kept in `<state_dir>/console-session.json`, for you alone, until you sign out.

    Parameters
    ----------
    name
        Your account.
    json
        One object on stdout: {name, console, until}.
    """
    settings = flags.load()
    console_api.address(settings, at)  # before anything secret is typed
    if at.token_file is not None:
        raise UsageError(
            f"the token in {at.token_file} would go before who signs in; leave --token-file away, and unset "
            f"{console_api.TOKEN_FILE_VARIABLE}"
        )
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask the password at; programs show a token: --token-file")
    begun = console_api.sign_in(settings, at, name, getpass(f"Password of {name}: "))
    if json:
        emit({"name": begun.name, "console": begun.console, "until": begun.until})
    else:
        _print(f"{begun.name} is signed in to {begun.console} until {begun.until}.")
    return 0


def sign_out(*, json: Json = False, flags: SettingsFlags = NO_FLAGS) -> int:
    """End the session that `sign-in` began, at its console, and forget its secret.

    Parameters
    ----------
    json
        One object on stdout: {name, console}; both null where nobody was signed in.
    """
    ended = console_api.sign_out(flags.load())
    if json:
        emit({"name": ended and ended.name, "console": ended and ended.console})
    elif ended is None:
        _print("Nobody was signed in.")
    else:
        _print(f"{ended.name} is signed out of {ended.console}.")
    return 0


def next_(
    queue: Annotated[str, Parameter(name="QUEUE")],
    *,
    uncertain: Annotated[bool, Parameter(negative="")] = False,
    at: ConsoleFlags = HERE,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Claim the most pressing item of a queue for two minutes, and show it. Exit 1 if none waits.

    Parameters
    ----------
    queue
        A queue of the policy in which you decide.
    uncertain
        The one that is closest to a coin toss, in the place of the one with the nearest deadline.
    json
        One object on stdout, the item as the API gives it, its card decoded.
    """
    settings = flags.load()
    order = "uncertain" if uncertain else "deadline"
    path = f"/queues/{quote(queue, safe='')}/next?order={order}"
    item = asking(settings, at, lambda api: _next(api, settings, path))
    if item is None:
        if json:
            emit({"item": None})
        else:
            _print(f"Nothing waits for you in {queue}.")
        return 1
    _show(item, json)
    return 0


def show(
    item: Item,
    *,
    at: ConsoleFlags = HERE,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Show an item, or what your verdict on it did.

    Parameters
    ----------
    item
        Its id, as `hitl review next` gives it.
    json
        One object on stdout, the item as the API gives it, its card decoded.
    """
    settings = flags.load()
    found = asking(settings, at, lambda api: _look(api, settings, item))
    _show(found, json)
    return 0


def approve(
    item: Item,
    *,
    note: Note = None,
    at: ConsoleFlags = HERE,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Let the action run as it was shown.

    Parameters
    ----------
    item
        Its id; you have looked at it with `next` or `show`.
    note
        What is to be said of it.
    json
        One object on stdout: {id, effect, why}.
    """
    return _judge(flags.load(), at, item, json, {"verdict": "approve", "note": note})


def reject(
    item: Item,
    *,
    code: Code,
    note: Note = None,
    at: ConsoleFlags = HERE,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Say no, with a reason of the policy's; the agent is told both.

    Parameters
    ----------
    item
        Its id; you have looked at it with `next` or `show`.
    code
        A reason that the policy knows, such as too_large.
    note
        What the agent should learn.
    json
        One object on stdout: {id, effect, why}.
    """
    body = {"verdict": "reject", "code": code, "note": note}
    return _judge(flags.load(), at, item, json, body)


def change(
    item: Item,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")],
    code: Code,
    note: Note = None,
    at: ConsoleFlags = HERE,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Propose another value in its place, as your own action: `--set /changes/0/after=1.25`.

    Parameters
    ----------
    item
        Its id; you have looked at it with `next` or `show`.
    set_
        PATH=VALUE, once for each; the card lists which paths can be set.
    code
        A reason that the policy knows, such as too_large.
    note
        What the agent should learn.
    json
        One object on stdout: {id, effect, why}.
    """
    settings = flags.load()
    changes = _changes(set_, _seen(settings, item).can_change)
    body = {"verdict": "change", "code": code, "note": note, "changes": changes}
    return _judge(settings, at, item, json, body)


def escalate(
    item: Item,
    *,
    note: Note = None,
    code: MaybeCode = None,
    at: ConsoleFlags = HERE,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Leave it to the queue's next one.

    Parameters
    ----------
    item
        Its id; you have looked at it with `next` or `show`.
    note
        What they should know.
    code
        A reason that the policy knows.
    json
        One object on stdout: {id, effect, why}.
    """
    body = {"verdict": "escalate", "code": code, "note": note}
    return _judge(flags.load(), at, item, json, body)


# --- looking ----------------------------------------------------------------------------------------------------------


async def _next(api: Api, settings: Settings, path: str) -> dict[str, Any] | None:
    items = (await api.ask("GET", path))["items"]
    return await _painted(api, settings, items[0]) if items else None


async def _look(api: Api, settings: Settings, item: str) -> dict[str, Any]:
    found = await api.ask("GET", _path(item))
    return found if found["card"] is None else await _painted(api, settings, found)


async def _painted(api: Api, settings: Settings, found: dict[str, Any]) -> dict[str, Any]:
    """Say that the card is being shown, and note what a verdict on it will need."""
    answer = await api.ask("POST", f"{_path(found['item'])}/painted", {"view": found["view"]})
    card = msgspec.json.decode(found["card"])
    seen.note(settings, found["item"], found["view"], answer["receipt"], card.get("can_change"))
    return {**found, "card": card}


def _path(item: str) -> str:
    return f"/items/{quote(item, safe='')}"


# --- judging ----------------------------------------------------------------------------------------------------------


def _seen(settings: Settings, item: str) -> Seen:
    return seen.look_up(settings, item, f"hitl review show {item}")


def _changes(sets: Sequence[str], standing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the changes that PATH=VALUE say, each of the kind of what stands there."""
    found = []
    for one in sets:
        path, equals, text = one.partition("=")
        if not equals or path not in standing:
            known = ", ".join(standing) or "nothing"
            raise UsageError(f"--set {one}: expected PATH=VALUE with a path of the card's; it has {known}")
        found.append({"path": path, "value": _value(one, text, standing[path])})
    return found


def _value(one: str, text: str, there: Any) -> Any:
    if isinstance(there, bool):
        if text not in ("true", "false"):
            raise UsageError(f"--set {one}: a flag stands there; write true or false")
        return text == "true"
    if isinstance(there, int | float):
        try:
            return float(text)
        except ValueError:
            raise UsageError(f"--set {one}: a number stands there; write one such as 1.25") from None
    return text


def _judge(settings: Settings, at: At, item: str, json: bool, words: Mapping[str, Any]) -> int:
    looked_at = _seen(settings, item)
    body = {name: word for name, word in words.items() if word is not None}
    body |= {"view": looked_at.view, "painted": looked_at.painted, "id": looked_at.id}
    told = asking(settings, at, lambda api: _say(api, item, body))
    if json:
        emit(told)
    else:
        _print(_sentence(item, told))
    if told["effect"] is None:
        return NOT_YET
    seen.forget(settings, item)
    return 0 if told["effect"] in GOOD else REFUSED


async def _say(api: Api, item: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Send a verdict, and wait until the desk has said what it did."""
    said = (await api.ask("POST", f"{_path(item)}/verdict", body))["id"]
    until = time.monotonic() + EFFECT_SECONDS_MAX
    while time.monotonic() < until:
        try:
            yours = (await api.ask("GET", _path(item)))["yours"]
        except RefusedError:
            yours = []  # nothing of it can be seen before the desk has read it
        for one in yours:
            if one["id"] == said:
                return {"id": said, "effect": one["effect"], "why": one["why"]}
        await asyncio.sleep(EFFECT_POLL_SECONDS)
    return {"id": said, "effect": None, "why": None}


_SENTENCES = {
    "applied": "Done.",
    "waiting": "Noted; another person's approval is missing.",
    "conflict": "Too late: somebody else had decided before. Yours is recorded as a conflict.",
    "late": "Too late: its time was over.",
}


def _sentence(item: str, told: Mapping[str, Any]) -> str:
    effect = told["effect"]
    if effect is None:
        return f"Appended; what it did is not known yet. See: hitl review show {item}"
    return _SENTENCES.get(effect) or f"The desk refused it: {told['why']}."


# --- drawing ----------------------------------------------------------------------------------------------------------


def _show(item: Mapping[str, Any], json: bool) -> None:
    if json:
        emit(item)
        return
    card = item["card"]
    if card is None:
        _print(f"{item['item']} is {item['state']}.")
        for one in item["yours"]:
            _print(f"  you said {one['verdict']} at {one['appended']}: {one['effect']} {one['why'] or ''}".rstrip())
        return
    for line in _lines(card):
        _print(line)


def _lines(card: Mapping[str, Any]) -> list[str]:
    """Return a card as lines of text. What cannot be seen in them is made visible when they are printed."""
    agent = card["agent"]
    by = f"{agent['id']} {agent['version']}"
    lines = [f"{card['item']}  {card['type']}  tier {card['tier']}  {card['tenant']}  by {by}"]
    lines += [f"  exception: {card['exception']}"] if card["exception"] else []
    lines += [f"  {_leg(leg)}" for leg in card["changes"]]
    if card["publishes"] is not None:
        lines += [f"  publishes: {card['publishes']['text']}", f"  source:    {card['source']}"]
    lines += [f"  asset: {one['uri']} {one['sha256']}" for one in card["assets"]]
    lines += [f"  beside {path}: {value}" for path, value in card["beside"].items()]
    lines += [f"  because {one['rule']}: saw {one['saw']}, limit {one['limit']}" for one in card["reasons"]]
    lines += [f"  and {card['reasons_more']} more reasons"] if card["reasons_more"] else []
    for one in card["evidence"]:
        lines.append(f"  evidence {one['signal']}: {one['before']} → {one['value']}  {one['ref'] or ''}".rstrip())
    lines += [f"  score {card['score']['total']}"] if card["score"] else []
    limits = {name: limit for name, limit in card["limits"].items() if limit not in (None, [], {})}
    lines.append("  agents here: " + ", ".join(f"{name} {limit}" for name, limit in limits.items()))
    for one in card["deadlines"]["decide_by"]:
        lines.append(f"  decide by {one['by']} in {one['queue']}: {one['given']} of {one['people']} approvals")
    said = card["agent_says"]
    lines += [f"  the agent says: “{said['rationale']}”"] if said["rationale"] else []
    lines += [f"  can be set: {path}={value}" for path, value in card["can_change"].items()]
    return lines


def _leg(leg: Mapping[str, Any]) -> str:
    entity = leg["entity"]
    place = "/".join(part for part in (entity["account"], entity["campaign"]) if part)
    ratio = "" if leg["ratio"] is None else f", {float(leg['ratio']):+.1%}"
    size = f"  ({leg['delta']}{ratio})" if leg["delta"] else ""
    return f"{place} {leg['field']}: {leg['before']} → {leg['after']} {leg['unit'] or ''}".rstrip() + size


def _print(text: str) -> None:
    out.print(escaped(text), markup=False, soft_wrap=True)
