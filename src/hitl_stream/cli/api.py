"""The console's API from the command line: which console is asked, as whom, and its problems told as ours.

Who asks is, in this order: the token in `--token-file`, the person who signed in to that console (`hitl review
sign-in`), the token in HITL_CONSOLE_TOKEN. A session is for everything that its account may do, and a token never for
what wants a fresh sign-in.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout
from cyclopts import Parameter
from msgspec import Struct

from hitl_stream.core.errors import RefusedError, UnknownOutcomeError, UnreachableError, UsageError
from hitl_stream.core.escape import escaped
from hitl_stream.settings import Settings

T = TypeVar("T")
API_SECONDS_MAX = 30.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024
TOKEN_VARIABLE = "HITL_CONSOLE_TOKEN"
TOKEN_FILE_VARIABLE = "HITL_CONSOLE_TOKEN_FILE"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SIGN_IN = "hitl review sign-in NAME"
NOT_FRESH = "urn:hitl:not_fresh"


@dataclass(frozen=True, kw_only=True)
class At:
    """Which console is asked, and with which token."""

    console: Annotated[str | None, Parameter(name="--console", env_var="HITL_CONSOLE")] = None
    """The console's address, such as https://hitl.example; not given: this machine's."""
    token_file: Annotated[Path | None, Parameter(name="--token-file", env_var=TOKEN_FILE_VARIABLE)] = None
    """File with your token; else you are who signed in, or HITL_CONSOLE_TOKEN holds it."""


ConsoleFlags = Annotated[At, Parameter(name="*")]
"""The flags, as a parameter of a verb: `def verb(..., *, at: ConsoleFlags = HERE)`."""
HERE = At()


class SignedIn(Struct, frozen=True):
    """A session that was begun from here: at which console, whose, its secret, and until when it lasts (RFC 3339)."""

    console: str
    name: str
    token: str
    until: str


# --- where, and as whom -----------------------------------------------------------------------------------------------


def address(settings: Settings, at: At) -> str:
    """Return the console's address; refuse one that would carry a secret over the network in clear."""
    url = (at.console or f"http://127.0.0.1:{settings.console_port}").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--console {url!r} is no address; write one such as https://hitl.example")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise UsageError(f"--console {url}: your token would go over the network in clear; write https://")
    return url


def token(settings: Settings, at: At, url: str) -> str:
    """Return the secret to show to the console at `url`."""
    if at.token_file is not None:
        try:
            found, where = at.token_file.read_text(encoding="ascii").strip(), f"--token-file {at.token_file}"
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--token-file {at.token_file}: cannot be read: {error}") from None
    else:
        session = signed_in(settings)
        if session is not None and session.console == url:
            return session.token
        found, where = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
        if not found:
            raise UsageError(f"{_nobody(session, url)}; sign in with {SIGN_IN}, or {_OTHERWISE}")
    if not found or not found.isascii() or not found.isprintable() or " " in found:
        raise UsageError(f"{where} holds no token; expected one line")
    return found


_OTHERWISE = (
    f"name a token's file with --token-file or {TOKEN_FILE_VARIABLE}, or set {TOKEN_VARIABLE}; an administrator makes "
    "one: hitl user token NAME"
)


def _nobody(session: SignedIn | None, url: str) -> str:
    if session is None:
        return "there is no token, and nobody is signed in"
    return f"there is no token, and {session.name} signed in to {session.console}, not to {url}"


# --- sessions ---------------------------------------------------------------------------------------------------------


def session_file(settings: Settings) -> Path:
    """Return where the secret of who signed in is kept."""
    return settings.state_dir / "console-session.json"


def signed_in(settings: Settings) -> SignedIn | None:
    """Return the session that was begun from here last; whether it is over by now its console knows."""
    try:
        return msgspec.json.decode(session_file(settings).read_bytes(), type=SignedIn)
    except (OSError, msgspec.DecodeError):
        return None


def sign_in(settings: Settings, at: At, name: str, password: str) -> SignedIn:
    """Begin a session and keep its secret, for the eyes of this user alone."""
    url = address(settings, at)
    told = ask(url, None, lambda api: api.ask("POST", "/sessions", {"name": name, "password": password}))
    session = SignedIn(url, told["name"], told["token"], told["until"])
    write_private(session_file(settings), msgspec.json.encode(session))
    return session


def sign_out(settings: Settings) -> SignedIn | None:
    """End the session that was begun from here, there and here; None: there was none."""
    session = signed_in(settings)
    if session is None:
        return None
    with suppress(RefusedError):  # it has ended by itself
        ask(session.console, session.token, lambda api: api.ask("DELETE", "/sessions"))
    session_file(settings).unlink(missing_ok=True)
    return session


def write_private(file: Path, content: bytes) -> None:
    """Write a file that its owner alone can read, as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)  # one that is there keeps the mode that it was made with
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    fresh.replace(file)


# --- asking -----------------------------------------------------------------------------------------------------------


class Api:
    """The console's API, as somebody; without a token as nobody."""

    def __init__(self, session: ClientSession, url: str, token: str | None) -> None:
        self._session, self._url = session, url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

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


def asking(settings: Settings, at: At, work: Callable[[Api], Awaitable[T]]) -> T:
    """Do work at the console that the flags name, as who they name."""
    url = address(settings, at)
    return ask(url, token(settings, at, url), work)


def ask(url: str, secret: str | None, work: Callable[[Api], Awaitable[T]]) -> T:
    """Do work at a console."""

    async def run() -> T:
        async with ClientSession(timeout=ClientTimeout(total=API_SECONDS_MAX)) as session:
            return await work(Api(session, url, secret))

    return asyncio.run(run())


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
    todo = f"Sign in: {SIGN_IN}" if problem.get("type") == NOT_FRESH else problem.get("todo", "")
    text = escaped(f"{problem.get('title', 'no reason')}{where}. {todo}".strip())
    match status:
        case 400 | 422 | 413:
            return UsageError(text)
        case 503:
            return UnreachableError(text)
        case 504:
            return UnknownOutcomeError(text)
    return RefusedError(text)
