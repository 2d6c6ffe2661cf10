"""`hitl review`: be given items, look at them and judge them from a terminal, over the console's API.

What is judged is what was looked at: `next` and `show` note the card's digest and the console's receipt in
`<state_dir>/review.json`, and a verdict sends them. If the item is another by then, the console refuses.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from cyclopts import App, Parameter
from msgspec import Struct

from hitl_stream.cli.settings import NO_FLAGS, Json, SettingsFlags
from hitl_stream.cli.terminal import emit, out
from hitl_stream.core.errors import RefusedError, UnknownOutcomeError, UnreachableError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.settings import Settings

API_SECONDS_MAX = 30.0
EFFECT_SECONDS_MAX = 10.0
"""The desk answers in well under one; then the verdict stands there, and `hitl review show` tells later."""
EFFECT_POLL_SECONDS = 0.1
ANSWER_BYTES_MAX = 4 * 1024 * 1024
SEEN_MAX = 200
"""Cards remembered, the newest."""
TOKEN_VARIABLE = "HITL_CONSOLE_TOKEN"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
NOT_YET = 3
"""The exit code of a verdict that was appended, and of which nobody knows yet what it did."""
REFUSED = 5
GOOD = ("applied", "waiting")

Console = Annotated[str | None, Parameter(name="--console", env_var="HITL_CONSOLE")]
TokenFile = Annotated[Path | None, Parameter(name="--token-file", env_var="HITL_CONSOLE_TOKEN_FILE")]
Item = Annotated[str, Parameter(name="ITEM")]
Code = Annotated[str, Parameter(name="--code")]
MaybeCode = Annotated[str | None, Parameter(name="--code")]
Note = Annotated[str | None, Parameter(name="--note")]


class At(Struct, frozen=True):
    """Which console is asked, and as whom: the flags of every verb here."""

    console: str | None
    token_file: Path | None


class Seen(Struct, frozen=True, kw_only=True):
    """A card that was looked at. `id` is that of the one verdict that is given on it, however often it is sent."""

    view: str
    painted: str
    id: str
    can_change: Mapping[str, Any] = {}


def register(app: App) -> None:
    """Add the verbs."""
    review = App(name="review", help="Be given items to decide, look at them, and judge them.")
    for verb in (show, approve, reject, change, escalate):
        review.command(verb)
    review.command(next_, name="next")
    app.command(review)


def next_(
    queue: Annotated[str, Parameter(name="QUEUE")],
    *,
    uncertain: Annotated[bool, Parameter(negative="")] = False,
    console: Console = None,
    token_file: TokenFile = None,
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
    console
        The console's address, such as https://hitl.example; not given: this machine's.
    token_file
        File with your token; else HITL_CONSOLE_TOKEN holds it.
    json
        One object on stdout, the item as the API gives it, its card decoded.
    """
    settings = flags.load()
    order = "uncertain" if uncertain else "deadline"
    path = f"/queues/{quote(queue, safe='')}/next?order={order}"
    item = _with(settings, At(console, token_file), lambda api: _next(api, settings, path))
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
    console: Console = None,
    token_file: TokenFile = None,
    json: Json = False,
    flags: SettingsFlags = NO_FLAGS,
) -> int:
    """Show an item, or what your verdict on it did.

    Parameters
    ----------
    item
        Its id, as `hitl review next` gives it.
    console
        The console's address; not given: this machine's.
    token_file
        File with your token; else HITL_CONSOLE_TOKEN holds it.
    json
        One object on stdout, the item as the API gives it, its card decoded.
    """
    settings = flags.load()
    found = _with(settings, At(console, token_file), lambda api: _look(api, settings, item))
    _show(found, json)
    return 0


def approve(
    item: Item,
    *,
    note: Note = None,
    console: Console = None,
    token_file: TokenFile = None,
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
    console
        The console's address; not given: this machine's.
    token_file
        File with your token; else HITL_CONSOLE_TOKEN holds it.
    json
        One object on stdout: {id, effect, why}.
    """
    return _judge(flags.load(), At(console, token_file), item, json, {"verdict": "approve", "note": note})


def reject(
    item: Item,
    *,
    code: Code,
    note: Note = None,
    console: Console = None,
    token_file: TokenFile = None,
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
    console
        The console's address; not given: this machine's.
    token_file
        File with your token; else HITL_CONSOLE_TOKEN holds it.
    json
        One object on stdout: {id, effect, why}.
    """
    body = {"verdict": "reject", "code": code, "note": note}
    return _judge(flags.load(), At(console, token_file), item, json, body)


def change(
    item: Item,
    *,
    set_: Annotated[tuple[str, ...], Parameter(name="--set", negative="")],
    code: Code,
    note: Note = None,
    console: Console = None,
    token_file: TokenFile = None,
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
    console
        The console's address; not given: this machine's.
    token_file
        File with your token; else HITL_CONSOLE_TOKEN holds it.
    json
        One object on stdout: {id, effect, why}.
    """
    settings = flags.load()
    changes = _changes(set_, _seen(settings, item).can_change)
    body = {"verdict": "change", "code": code, "note": note, "changes": changes}
    return _judge(settings, At(console, token_file), item, json, body)


def escalate(
    item: Item,
    *,
    note: Note = None,
    code: MaybeCode = None,
    console: Console = None,
    token_file: TokenFile = None,
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
    console
        The console's address; not given: this machine's.
    token_file
        File with your token; else HITL_CONSOLE_TOKEN holds it.
    json
        One object on stdout: {id, effect, why}.
    """
    body = {"verdict": "escalate", "code": code, "note": note}
    return _judge(flags.load(), At(console, token_file), item, json, body)


# --- asking -----------------------------------------------------------------------------------------------------------


class Api:
    """The console's API, as somebody."""

    def __init__(self, session: ClientSession, url: str, token: str) -> None:
        self._session, self._url = session, url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer's JSON; raise the error that its problem is to us."""
        data = None if body is None else msgspec.json.encode(body)
        headers = self._headers | ({} if data is None else {"Content-Type": "application/json"})
        url = f"{self._url}/api/v1{path}"
        try:
            # No redirect is followed: the token is for this console.
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
                content, status = await _content(answer), answer.status
        except (ClientError, TimeoutError, OSError) as error:
            told = f"the console at {self._url}: {error!r}"
            if method == "GET":
                raise UnreachableError(f"{told}; does it run? hitl run console") from None
            unknown = f"{told}. Whether it took this is not known; say it again, it counts once"
            raise UnknownOutcomeError(unknown) from None
        if status // 100 == 2:
            return msgspec.json.decode(content) if content else None
        raise _error(status, content)


async def _content(answer: ClientResponse) -> bytes:
    parts: list[bytes] = []
    length = 0
    async for part in answer.content.iter_chunked(64 * 1024):
        parts.append(part)
        length += len(part)
        if length > ANSWER_BYTES_MAX:
            raise RefusedError(f"the answer is longer than {ANSWER_BYTES_MAX} bytes; is this a console?")
    return b"".join(parts)


def _error(status: int, content: bytes) -> Exception:
    try:
        problem = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.DecodeError:
        problem = {"title": content[:200].decode("utf-8", "replace")}
    where = f" ({problem['detail']})" if problem.get("detail") else ""
    text = escaped(f"{problem.get('title', 'no reason')}{where}. {problem.get('todo', '')}".strip())
    match status:
        case 400 | 422 | 413:
            return UsageError(text)
        case 503:
            return UnreachableError(text)
        case 504:
            return UnknownOutcomeError(text)
    return RefusedError(text)


def _with(settings: Settings, at: At, work: Any) -> Any:
    url, token = _url(settings, at.console), _token(at.token_file)

    async def run() -> Any:
        async with ClientSession(timeout=ClientTimeout(total=API_SECONDS_MAX)) as session:
            return await work(Api(session, url, token))

    return asyncio.run(run())


def _url(settings: Settings, console: str | None) -> str:
    url = (console or f"http://127.0.0.1:{settings.console_port}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--console {url!r} is no address; write one such as https://hitl.example")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise UsageError(f"--console {url}: your token would go over the network in clear; write https://")
    return url


def _token(path: Path | None) -> str:
    if path is None:
        token = os.environ.get(TOKEN_VARIABLE, "")
        if not token:
            raise UsageError(
                "there is no token: name its file with --token-file or HITL_CONSOLE_TOKEN_FILE, or set "
                f"{TOKEN_VARIABLE}; an administrator makes one: hitl user token NAME"
            )
        where = TOKEN_VARIABLE
    else:
        try:
            token, where = path.read_text(encoding="ascii").strip(), f"--token-file {path}"
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {path}: cannot be read: {error}") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"{where} holds no token; expected one line")
    return token


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
    seen = _all_seen(settings)
    known = seen.pop(found["item"], None)
    chosen = known.id if known is not None and known.view == found["view"] else uuid.uuid4().hex
    seen[found["item"]] = Seen(
        view=found["view"], painted=answer["receipt"], id=chosen, can_change=card.get("can_change", {})
    )
    _note(settings, seen)
    return {**found, "card": card}


def _path(item: str) -> str:
    return f"/items/{quote(item, safe='')}"


def _file(settings: Settings) -> Path:
    return settings.state_dir / "review.json"


def _all_seen(settings: Settings) -> dict[str, Seen]:
    try:
        return msgspec.json.decode(_file(settings).read_bytes(), type=dict[str, Seen])
    except (OSError, msgspec.DecodeError):
        return {}


def _note(settings: Settings, seen: Mapping[str, Seen]) -> None:
    file = _file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    newest = dict(list(seen.items())[-SEEN_MAX:])
    fresh = file.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(msgspec.json.encode(newest))
    fresh.replace(file)


def _seen(settings: Settings, item: str) -> Seen:
    found = _all_seen(settings).get(item)
    if found is None:
        raise UsageError(f"{item} was not looked at from here; look first: hitl review show {item}")
    return found


# --- judging ----------------------------------------------------------------------------------------------------------


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
    seen = _seen(settings, item)
    body = {name: word for name, word in words.items() if word is not None}
    body |= {"view": seen.view, "painted": seen.painted, "id": seen.id}
    told = _with(settings, at, lambda api: _say(api, item, body))
    if json:
        emit(told)
    else:
        _print(_sentence(item, told))
    if told["effect"] is None:
        return NOT_YET
    # That id is used up: whoever says something else on the item looks at it again.
    _note(settings, {name: one for name, one in _all_seen(settings).items() if name != item})
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
