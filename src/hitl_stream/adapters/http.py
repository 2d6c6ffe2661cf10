"""The adapter for a platform, or a gateway before one, that speaks this small HTTP interface.

| request | answers |
|---|---|
| `POST {base_url}/actions`, headers `Idempotency-Key`, `Hitl-Not-After` (ms since 1970), `Hitl-Epoch`, `traceparent`; body: what to do, as JSON | see below; `{"ref": …, "present": {"/changes/0": "1.30"}}`, both optional |
| `GET {base_url}/actions/{key}` (`wire_key`) | 200 applied, with the same body; 404 not applied; anything else: unknown |
| `GET {base_url}/present?tenant&account&campaign&field` | 200 `{"value": "1.20", "unit": "EUR"}`, 404 no such thing; anything else: cannot be read |

| answer to `POST` | means |
|---|---|
| 2xx but 202 and 207 | `Applied` |
| 429, 503 with `Retry-After` in seconds | not accepted: asked again then, if that is before not-after and attempts are left; else `Unknown` |
| 403 `{"error": "too_late"}` or `"old_epoch"` | refused by the fence: `Unknown`, so that the last gate is asked again |
| 4xx but 408, 409 (in progress), 425, 429 | `Failed` |
| anything else, no answer, a cut connection | `Unknown` |

Rules: a request is repeated only where it cannot have arrived (no connection) or was not accepted, never once not-after
has come, and always under the same key. Redirects are not followed. What a platform answers is read up to a limit.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable, Mapping
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Final, Self, TypeAlias
from urllib.parse import quote

import aiohttp
import msgspec
import stamina
from msgspec import Struct
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from yarl import URL

from hitl_stream import __version__
from hitl_stream.adapters import Clock, Option
from hitl_stream.core.action import Action, Change, Value
from hitl_stream.core.errors import SettingsError
from hitl_stream.core.escape import escaped
from hitl_stream.core.trace import trace_of
from hitl_stream.execute import (
    Adapter,
    Applied,
    Applying,
    Failed,
    NotApplied,
    ReadingBack,
    Unknown,
    traceparent,
)

KEY_LENGTH_MAX = 255
"""What platforms take as an idempotency key; a longer one is sent as its digest."""
ANSWER_BYTES_MAX = 64 * 1024
SAID_LENGTH_MAX = 500
"""Of what the platform said, this much is shown to people."""
TOKEN_BYTES_MAX = 16 * 1024
KEEPALIVE_S = 4.0
"""Shorter than servers keep a connection (5 s is a common default): a request on one that has just ended is Unknown."""
WAIT_FIRST_S, WAIT_MAX_S, WAIT_JITTER_S = 0.05, 0.5, 0.05
"""Between attempts to connect: a lease is two seconds long, so there is time for four."""
NOT_DONE = frozenset({202, 207})
"""Accepted, or done in part: not known to be applied."""
NOT_FINAL = frozenset({408, 409, 425, 429})
NOT_ACCEPTED = frozenset({429, 503})
AWAY = frozenset({429, 502, 503, 504})
"""Answers after which a reading is tried again."""
FENCED = frozenset({"too_late", "old_epoch"})

Again: TypeAlias = Callable[[Exception], bool | float]
"""Says of an error whether to try again, and after how many seconds."""

_WIRE_KEY = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._~-]{{0,{KEY_LENGTH_MAX - 1}}}")
_SECONDS = re.compile(r"[0-9]{1,6}")
_TOKEN = re.compile(r"[!-~]+")


def http_adapter(now_ms: Clock, **options: Option) -> HttpAdapter:
    """Make the adapter from `adapter_options`.

    Raises:
        SettingsError: naming each option that cannot be used, and never a token.
    """
    return HttpAdapter(http_options(options), now_ms)


def _base_url(text: str) -> str:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("expected a URL such as https://gateway.example/ads")
    if url.user or url.password or url.query_string or url.fragment:
        raise ValueError("expected a URL without user, password, ? and #; give a secret as token_file")
    return text.rstrip("/")


class HttpOptions(BaseModel):
    """What stands in `adapter_options`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)

    base_url: Annotated[str, AfterValidator(_base_url)]
    """Where the interface begins."""
    token_file: Path | None = None
    """A file with a bearer token and nothing else, read before each request: a new token needs no restart."""
    token: SecretStr | None = None
    """The token itself, as it comes from `HITL_ADAPTER_OPTIONS__TOKEN_FILE`."""
    fence: bool = False
    """The platform, or a gateway before it, enforces `Hitl-Not-After` and `Hitl-Epoch`."""
    connect_s: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Making a connection, or waiting for a free one."""
    call_s: Annotated[float, Field(gt=0, le=10)] = 5.0
    """One request that changes something, until its answer is read; the executor gives a call ten seconds in all."""
    read_s: Annotated[float, Field(gt=0, le=10)] = 2.0
    """One request that only reads."""
    connections: Annotated[int, Field(ge=1, le=1_000)] = 64
    """Connections at once; as many as the executor has calls open."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 4
    """How often a request is sent at most."""

    @model_validator(mode="after")
    def _one_token(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("both token and token_file are given; expected one of them")
        return self


def http_options(options: Mapping[str, Any]) -> HttpOptions:
    """Read `adapter_options`; raise SettingsError naming each that cannot be used."""
    try:
        return HttpOptions.model_validate(options)
    except ValidationError as error:
        raise SettingsError("\n".join(_problem(one["loc"], one["msg"], options) for one in error.errors())) from None


def _problem(place: tuple[int | str, ...], message: str, options: Mapping[str, Any]) -> str:
    name = ".".join(("adapter_options", *map(str, place)))
    said = message.removeprefix("Value error, ")
    first = str(place[0]) if place else ""
    if first == "token" or first not in options or first not in HttpOptions.model_fields or first == "base_url":
        return f"{name}: {said}"  # a URL may hold a password
    return f"{name}: found {options[first]!r}: {said}"


class _Said(Struct, frozen=True):
    """What an answer's body may say."""

    ref: str | None = None
    present: dict[str, Value] = {}
    error: str | None = None


class _Reading(Struct, frozen=True):
    value: Value | None
    unit: str | None = None


class _NotAcceptedError(Exception):
    """The platform has not taken the request, and says when to come again (None: it does not say)."""

    def __init__(self, status: int, retry_after_s: int | None) -> None:
        when = "" if retry_after_s is None else f"; Retry-After {retry_after_s} s"
        super().__init__(f"not accepted: HTTP {status}{when}")
        self.retry_after_s = retry_after_s


class _NotSentError(Exception):
    """Its time was over, or its token could not be read, before the request was sent."""


class UnreadableError(Exception):
    """The present value cannot be read; the message says why."""


# Before these, nothing of the request has left this machine: there is no connection yet.
_NOT_CONNECTED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_LOST: Final = (aiohttp.ClientError, OSError, TimeoutError)
_said = msgspec.json.Decoder(_Said)
_reading = msgspec.json.Decoder(_Reading)


class HttpAdapter(Adapter):
    """Speaks HTTP with one platform. `now_ms` returns control time: no request begins after its not-after."""

    def __init__(self, options: HttpOptions, now_ms: Clock) -> None:
        self.options = options
        self.fence = options.fence
        self._now_ms = now_ms
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Make room for connections; raise SettingsError where the token cannot be read."""
        try:
            self._authorization()
        except _NotSentError as error:
            raise SettingsError(f"adapter_options.{error}") from None
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.options.connections, keepalive_timeout=KEEPALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"hitl-stream/{__version__}", "Accept": "application/json"},
            skip_auto_headers=("Accept-Encoding",),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def apply(self, action: Action, idempotency_key: str, not_after_ms: int, epoch: int) -> Applying:
        """Post it; see the table above."""
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": wire_key(idempotency_key),
            "Hitl-Not-After": str(not_after_ms),
            "Hitl-Epoch": str(epoch),
        }
        if trace_of(traceparent.get().encode(errors="replace")) is not None:
            headers["traceparent"] = traceparent.get()
        body = body_of(action)
        try:
            async for attempt in self._attempts(self._again(not_after_ms)):
                with attempt:
                    return await self._post(body, headers, not_after_ms)
        except (_NotAcceptedError, _NotSentError) as why:
            return Unknown(str(why))
        except _LOST as error:
            return Unknown(_why(error))
        raise AssertionError("attempts end with an answer or an exception")

    async def read_back(self, action: Action, idempotency_key: str) -> ReadingBack:
        """Ask for the key; see the table above."""
        url = URL(f"{self.options.base_url}/actions/{wire_key(idempotency_key)}", encoded=True)
        try:
            status, body = await self._get(url)
        except (_NotAcceptedError, _NotSentError) as why:
            return Unknown(str(why))
        except _LOST as error:
            return Unknown(_why(error))
        match status:
            case 200:
                said = _read_said(body)
                return Applied(said.ref, status, said.present)
            case 404:
                return NotApplied()
        return Unknown(f"HTTP {status}{_quoted(body)}")

    async def present(self, change: Change, action: Action) -> Value | None:
        """Read the value; raise `UnreadableError` where that is not possible."""
        url = URL(f"{self.options.base_url}/present", encoded=True).with_query(self.place(change, action))
        try:
            status, body = await self._get(url)
        except (_NotAcceptedError, _NotSentError) as why:
            raise UnreadableError(str(why)) from None
        except _LOST as error:
            raise UnreadableError(_why(error)) from error
        if status == 404:
            return None
        if status != 200:
            raise UnreadableError(f"HTTP {status}{_quoted(body)}")
        try:
            reading = _reading.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreadableError(f"HTTP 200, but no value: {error}") from None
        if reading.unit is not None and change.unit is not None and reading.unit != change.unit:
            raise UnreadableError(f"the platform counts in {reading.unit!r}, the change in {change.unit!r}")
        return reading.value

    def place(self, change: Change, action: Action) -> dict[str, str]:
        """Return the query that names what a change is about."""
        entity = change.entity
        named = {"account": entity.account, "campaign": entity.campaign}
        return {
            "tenant": action.tenant,
            **{name: value for name, value in named.items() if value is not None},
            "field": change.field,
        }

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _post(self, body: bytes, headers: Mapping[str, str], not_after_ms: int) -> Applying:
        left_s = (not_after_ms - self._now_ms()) / 1_000
        if left_s <= 0:
            raise _NotSentError("not sent: its time was over")
        options = self.options
        timeout = aiohttp.ClientTimeout(total=options.call_s, connect=min(options.connect_s, left_s))
        async with self._open().post(
            URL(f"{options.base_url}/actions", encoded=True),
            data=body,
            headers={**headers, **self._authorization()},
            timeout=timeout,
            allow_redirects=False,
        ) as answer:
            return settle(answer.status, answer.headers.get("Retry-After"), await _read(answer))

    async def _get(self, url: URL) -> tuple[int, bytes]:
        """Return status and body; a reading may be repeated as one likes."""
        timeout = aiohttp.ClientTimeout(total=self.options.read_s, connect=self.options.connect_s)
        async for attempt in self._attempts((*_NOT_CONNECTED, _NotAcceptedError)):
            with attempt:
                async with self._open().get(
                    url, headers=self._authorization(), timeout=timeout, allow_redirects=False
                ) as answer:
                    if answer.status in AWAY:
                        raise _NotAcceptedError(answer.status, None)
                    return answer.status, await _read(answer)
        raise AssertionError("attempts end with an answer or an exception")

    def _attempts(self, on: Again | tuple[type[Exception], ...]) -> AsyncIterable[stamina.Attempt]:
        return stamina.retry_context(
            on,
            attempts=self.options.attempts,
            timeout=None,  # a request has its own limit, and there are few attempts
            wait_initial=WAIT_FIRST_S,
            wait_max=WAIT_MAX_S,
            wait_jitter=WAIT_JITTER_S,
        )

    def _again(self, not_after_ms: int) -> Again:
        """Return what says of an error whether the request may be sent again, and when."""

        def again(error: Exception) -> bool | float:
            if isinstance(error, _NotAcceptedError) and error.retry_after_s is not None:
                wait_s = max(error.retry_after_s, WAIT_FIRST_S)
                return wait_s if self._now_ms() + wait_s * 1_000 < not_after_ms else False
            return isinstance(error, _NOT_CONNECTED)

        return again

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the adapter is not entered; use it in `async with`")
        return self._session

    def _authorization(self) -> dict[str, str]:
        options = self.options
        if options.token_file is not None:
            token, name = _read_token(options.token_file), "token_file"
        elif options.token is not None:
            token, name = options.token.get_secret_value(), "token"
        else:
            return {}
        if _TOKEN.fullmatch(token) is None:
            raise _NotSentError(f"{name}: found no token; expected one line of visible ASCII characters")
        return {"Authorization": f"Bearer {token}"}


# --- values in, values out --------------------------------------------------------------------------------------------


def settle(status: int, retry_after: str | None, body: bytes) -> Applying:
    """Say what the answer to a mutating request means; raise where it was not accepted."""
    if 200 <= status < 300 and status not in NOT_DONE:
        said = _read_said(body)
        return Applied(said.ref, status, said.present)
    if status in NOT_ACCEPTED and retry_after is not None and _SECONDS.fullmatch(retry_after.strip()):
        raise _NotAcceptedError(status, int(retry_after))
    if 400 <= status < 500 and status not in NOT_FINAL:
        if status == 403 and (why := _read_said(body).error) in FENCED:
            return Unknown(f"refused by the fence: {why}")
        return Failed(status, _text(body) or f"HTTP {status}")
    return Unknown(f"HTTP {status}{_quoted(body)}")


def wire_key(idempotency_key: str) -> str:
    """Return a key as it is sent, in header and path: letters, digits, `.`, `_`, `-`, and anything else as `~2F`.

    Not percent-encoded, since many a server refuses or decodes `%2F` in a path. A key that becomes too long is sent as
    its digest.

    >>> wire_key("acme/act-1/9f86")
    'acme~2Fact-1~2F9f86'
    """
    key = quote(idempotency_key, safe="", errors="surrogatepass").replace("~", "%7E").replace("%", "~")
    if _WIRE_KEY.fullmatch(key):
        return key
    return f"sha256-{sha256(key.encode()).hexdigest()}"


def body_of(action: Action) -> bytes:
    """Return what the platform is to do, as JSON: not what argues for it, such as evidence and confidence."""
    body: dict[str, Any] = {
        "tenant": action.tenant,
        "action_id": action.action_id,
        "type": action.type,
        "destination": action.destination,
        "entity": action.entity,
        "changes": action.changes,
        "content": action.content,
        "context": action.context,
        "batch": action.batch,
    }
    return msgspec.json.encode({name: part for name, part in body.items() if part is not None})


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """Read a body, up to a limit; of a longer one nothing is used."""
    body = bytearray()
    while chunk := await answer.content.read(ANSWER_BYTES_MAX + 1 - len(body)):
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            return b""
    return bytes(body)


def _read_said(body: bytes) -> _Said:
    """Read what the platform adds to its status; what cannot be read adds nothing."""
    try:
        return _said.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Said()


def _read_token(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            data = file.read(TOKEN_BYTES_MAX + 1)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or error
        raise _NotSentError(f"token_file: {path} cannot be read ({why}); expected a file with the token") from None
    return data.decode("latin-1").strip() if len(data) <= TOKEN_BYTES_MAX else ""


def _why(error: Exception) -> str:
    return escaped(f"{type(error).__name__}: {str(error) or 'no answer in time'}")[:SAID_LENGTH_MAX]


def _text(body: bytes) -> str:
    return escaped(body.decode("utf-8", "replace").strip())[:SAID_LENGTH_MAX]


def _quoted(body: bytes) -> str:
    text = _text(body)
    return f": {text}" if text else ""
