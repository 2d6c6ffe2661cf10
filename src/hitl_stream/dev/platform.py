"""An ad platform that never was: a real HTTP server with bids and budgets, which fails on command and counts everything.

| request | does |
|---|---|
| `POST /actions` | carries an action out, once for each `Idempotency-Key`; enforces `Hitl-Not-After` and `Hitl-Epoch` |
| `GET /actions/{key}` | 200 applied, 404 not applied, 409 under way |
| `GET /present?tenant&account&campaign&field` | the value that stands there; 404 where it was never heard of |
| `PUT /present` | sets values: `[{"tenant", "account", "campaign", "field", "value", "unit"}]` |
| `PUT /fence` | `{"epoch": n}`: refuses calls with a lower one from now on; never goes down |
| `PUT /faults` | see `Faults`; `GET` shows them |
| `GET /counts` | how often what happened |
| `GET /ledger` | every action that was applied: how often, when, under which keys; `twice` lists those applied more than once |
| `GET /calls?since=ms` | calls that began after that, the newest `CALLS_MAX`: begin, end, when applied, what came of it |
| `POST /reset` | forgets all but its seed, as if it had just started |

Rules:
1. The same key again gets the first answer, and changes nothing. While the first is under way it is 409; with another body 422.
2. What is counted as applied is counted by tenant and action id: an executor that made up a second key is found out.
3. Not-after is looked at last, in the same turn in which the values change, against this machine's clock.
4. A value is kept as the decimal text that it came as. A field that was never heard of begins at the first write's `before`.
5. Which call fails how is drawn from the seed, the key, and how often the key has come: the same calls meet the same faults.

`python -m hitl_stream.dev.platform --port 0` prints its address first; in a program it is `async with Platform() as platform`.
"""  # noqa: E501 - a table row cannot be broken

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from hashlib import sha256
from random import Random
from types import TracebackType
from typing import Annotated, Any, Final, Literal, NamedTuple, Self, TypeAlias, get_args

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from hitl_stream.adapters import Clock, Option
from hitl_stream.adapters.http import HttpAdapter, http_options
from hitl_stream.core.action import LEGS_MAX, Action, Change, Value
from hitl_stream.core.errors import HitlError, UsageError
from hitl_stream.core.gate import same

CALLS_MAX = 100_000
"""Calls that `GET /calls` can tell about: the newest ones."""
ACTIONS_MAX = 500_000
"""Actions and keys remembered, some 1 kB each; then new ones are refused, since nothing may be forgotten."""
OPEN_MAX = 2_000
"""Calls that may hang here at once; one more is told to come again."""
BODY_BYTES_MAX = 1024 * 1024
STOP_S = 1.0
"""How long a call that is under way may hold up the end."""

Fault: TypeAlias = Literal["fail", "busy", "drop", "hang", "late", "lose", "stall"]
KINDS: Final[tuple[Fault, ...]] = get_args(Fault)
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=600)]


class Faults(Struct, frozen=True, forbid_unknown_fields=True):
    """What goes wrong: with which probability, a call each; `next` says it outright for the calls to come."""

    fail: Share = 0.0
    """Answers `fail_code`, and does nothing."""
    busy: Share = 0.0
    """Answers `busy_code` with Retry-After, and does nothing."""
    drop: Share = 0.0
    """Does nothing, and cuts the connection."""
    hang: Share = 0.0
    """Does nothing for `hang_s`, then answers 500."""
    late: Share = 0.0
    """Carries it out after `late_s`, if its time is not over by then, and answers."""
    lose: Share = 0.0
    """Carries it out, and cuts the connection."""
    stall: Share = 0.0
    """Carries it out, and answers after `hang_s`."""
    fail_code: Annotated[int, Meta(ge=400, le=599)] = 500
    busy_code: Literal[429, 503] = 503
    retry_after_s: Annotated[int, Meta(ge=0, le=3_600)] | None = 1
    """None: without the header."""
    hang_s: Seconds = 30.0
    late_s: Seconds = 1.0
    reads: bool = False
    """Readings meet the same faults; to them `lose` is a `drop`, and `stall` a `late` one."""
    next: tuple[Fault | Literal["none"], ...] = ()
    """For the next calls, in the order in which they come; probabilities count when these are used up."""

    def drawn(self, lot: float) -> Fault | None:
        """Return the fault that a number from 0 to 1 stands for."""
        for kind in KINDS:
            lot -= getattr(self, kind)
            if lot < 0:
                return kind
        return None


NO_FAULTS = Faults()


class Place(NamedTuple):
    """Where a value stands."""

    tenant: str
    account: str | None
    campaign: str | None
    field: str


class Standing(NamedTuple):
    """What stands there: a decimal or another text, or a flag."""

    value: str | bool
    unit: str | None


Provider: TypeAlias = Callable[[Place], Value | None]
"""Invents the value of a field that is read for the first time; None: unknown here."""


@dataclass(slots=True)
class Call:
    """A request that would change something. `end_ms` is None while it is open, `applied_ms` where nothing changed."""

    n: int
    begin_ms: int
    key: str
    not_after_ms: int | None = None
    epoch: int | None = None
    tenant: str = ""
    action_id: str = ""
    type: str = ""
    campaigns: tuple[str, ...] = ()
    fault: Fault | None = None
    outcome: str = "open"
    status: int | None = None
    applied_ms: int | None = None
    end_ms: int | None = None


@dataclass(slots=True)
class Entry:
    """What the ledger holds of an action that was applied; `order` counts applications of all actions."""

    tenant: str
    action_id: str
    applied: int = 0
    at_ms: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Answered:
    """What became of a key. `answer` is None while it is under way."""

    digest: bytes
    answer: bytes | None = None
    repeats: int = 0


class Order(Struct, frozen=True):
    """What `POST /actions` understands of an action."""

    tenant: str
    action_id: Annotated[str, Meta(min_length=1)]
    type: str
    changes: Annotated[tuple[Change, ...], Meta(max_length=LEGS_MAX)] = ()


class _Row(Struct, frozen=True, forbid_unknown_fields=True):
    tenant: str
    field: str
    value: Value
    account: str | None = None
    campaign: str | None = None
    unit: str | None = None


class _Fence(Struct, frozen=True, forbid_unknown_fields=True):
    epoch: int


class RefusedError(Exception):
    """The platform says no: nothing has changed."""

    def __init__(self, status: int, error: str, text: str) -> None:
        super().__init__(text)
        self.status, self.error, self.text = status, error, text


class Books:
    """Everything the platform knows, and what it does with it. No HTTP, no waiting; time comes as an argument."""

    def __init__(self) -> None:
        self.values: dict[Place, Standing] = {}
        self.keys: dict[str, Answered] = {}
        self.seen: Counter[str] = Counter()
        """How often each key has come."""
        self.actions: dict[tuple[str, str], Entry] = {}
        self.calls: deque[Call] = deque(maxlen=CALLS_MAX)
        self.counts: Counter[str] = Counter()
        self.epoch = -1

    def begin(self, key: str, now_ms: int) -> Call:
        """Enter a call."""
        self.counts["calls"] += 1
        self.seen[key] += 1
        call = Call(self.counts["calls"], now_ms, key)
        self.calls.append(call)
        return call

    def known(self, key: str, digest: bytes) -> bytes | None:
        """Return the first answer to a key that came before, None for a new one.

        Raises:
            RefusedError: it is under way, came with another body, or there is no room for a new one.
        """
        before = self.keys.get(key)
        if before is None:
            if len(self.keys) >= ACTIONS_MAX:
                raise RefusedError(507, "full", f"{ACTIONS_MAX} keys are remembered and none may be forgotten; reset")
            return None
        if before.digest != digest:
            raise RefusedError(422, "key_reused", "this key came with another body before")
        if before.answer is None:
            raise RefusedError(409, "in_progress", "the first call with this key is under way")
        before.repeats += 1
        self.counts["repeats"] += 1
        return before.answer

    def apply(self, order: Order, key: str, digest: bytes, now_ms: int) -> bytes:
        """Change the values and return the answer; raise `RefusedError` where it cannot be done."""
        places = [Place(order.tenant, c.entity.account, c.entity.campaign, c.field) for c in order.changes]
        for place, change in zip(places, order.changes, strict=True):
            standing = self.values.get(place)
            if standing is not None and None not in (standing.unit, change.unit) and standing.unit != change.unit:
                raise RefusedError(422, "unit", f"{change.field} counts in {standing.unit}, not {change.unit}")
        present = {}
        for index, (place, change) in enumerate(zip(places, order.changes, strict=True)):
            standing = self.values.get(place)
            if standing is not None and change.before is not None and not same(change.before, standing.value):
                self.counts["overwritten"] += 1
            if change.after is not None:
                unit = change.unit if standing is None else standing.unit or change.unit
                self.values[place] = Standing(exact(change.after), unit)
                present[f"/changes/{index}"] = self.values[place].value
        self.counts["applied"] += 1
        number = self.counts["applied"]
        entry = self.actions.setdefault((order.tenant, order.action_id), Entry(order.tenant, order.action_id))
        entry.applied += 1
        entry.at_ms.append(now_ms)
        entry.order.append(number)
        entry.keys.append(key)
        answer = msgspec.json.encode({"ref": f"op-{number}", "present": present})
        self.keys[key] = Answered(digest, answer)
        return answer

    def value(self, place: Place) -> Standing | None:
        """Return what stands there."""
        return self.values.get(place)

    def put(self, place: Place, value: Value, unit: str | None = None) -> None:
        """Set what stands there."""
        self.values[place] = Standing(exact(value), unit)

    def twice(self) -> list[Entry]:
        """Return the actions that were applied more than once."""
        return [entry for entry in self.actions.values() if entry.applied > 1]


def exact(value: Value) -> str | bool:
    """Return a number as a decimal text, the shortest for a float; a text or a flag as it is.

    >>> exact(1.2), exact("1.20"), exact(1e-7)
    ('1.2', '1.20', '0.0000001')
    """
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else value


def wall_ms() -> int:
    """Return this machine's clock in milliseconds since 1970: where the broker runs on it too, that is control time."""
    return time.time_ns() // 1_000_000


class Platform:
    """The server. `port` 0 takes any free one; `url` says where it listens once it is entered.

    `adopt`: a field that is read for the first time takes the value that the reader claims (`claimed` in the query), as
    a demo needs whose agents invent theirs; `claiming_adapter` does so. `fence` False: it enforces neither not-after
    nor epoch, as most platforms do not.
    """

    def __init__(
        self,
        port: int = 0,
        seed: int = 0,
        faults: Faults = NO_FAULTS,
        *,
        host: str = "127.0.0.1",
        adopt: bool = False,
        fence: bool = True,
        provider: Provider | None = None,
        now_ms: Clock = wall_ms,
    ) -> None:
        self.host, self.port, self.seed = host, port, seed
        self.adopt, self.fence, self.provider, self.now_ms = adopt, fence, provider, now_ms
        self.books = Books()
        self.open = 0
        self._reads = 0
        self._set_faults(faults)
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens, such as `http://127.0.0.1:8181`."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def faults(self) -> Faults:
        """What goes wrong; setting it begins its `next` anew."""
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._set_faults(faults)

    def _set_faults(self, faults: Faults) -> None:
        self._faults = _possible(faults)
        self._next = deque(faults.next)

    async def __aenter__(self) -> Self:
        """Listen; raise `UsageError` where the port cannot be had."""
        self._stopping.clear()
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_answer_refusals])
        app.add_routes(
            [
                web.post("/actions", self._post_action),
                web.get("/actions/{key}", self._get_action),
                web.get("/present", self._get_present),
                web.put("/present", self._put_present),
                web.put("/fence", self._put_fence),
                web.get("/faults", self._get_faults),
                web.put("/faults", self._put_faults),
                web.get("/counts", self._get_counts),
                web.get("/ledger", self._get_ledger),
                web.get("/calls", self._get_calls),
                web.post("/reset", self._post_reset),
            ]
        )
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port).start()
        except OSError as error:
            await runner.cleanup()
            raise UsageError(
                f"cannot listen on {self.host}:{self.port} ({error.strerror or error}); choose another port, 0 for any"
            ) from error
        self._runner = runner
        self.port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut what hangs, and stop listening."""
        self._stopping.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    # --- what adapters ask --------------------------------------------------------------------------------------------

    async def _post_action(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key", "")
        call = self.books.begin(key, self.now_ms())
        self.open += 1
        try:
            answer = await self._act(request, call)
            call.status = answer.status
            return answer
        except RefusedError as refused:
            call.outcome, call.status = refused.error, refused.status
            self.books.counts[_COUNTED.get(refused.error, "malformed")] += 1
            raise
        finally:
            call.end_ms = self.now_ms()
            self.open -= 1

    async def _act(self, request: web.Request, call: Call) -> web.StreamResponse:
        books, key = self.books, call.key
        order, digest = await _read_order(request, call)
        fault = call.fault = self._draw(key, books.seen[key])
        if fault in ("fail", "busy", "drop", "hang"):
            books.counts[fault] += 1
            call.outcome = fault
            return await self._unwilling(request, fault)
        first = books.known(key, digest)
        if first is not None:
            call.outcome = "repeat"
            return await self._answer(request, first, fault)
        if fault == "late":
            books.counts[fault] += 1
            await self._wait_with_key(request, key, digest)
        self._refuse_by_fence(call)
        # No await from here on: what is applied was in time when it was applied.
        applied = books.apply(order, key, digest, self.now_ms())
        call.outcome, call.applied_ms = "applied", self.now_ms()
        return await self._answer(request, applied, fault)

    def _draw(self, what: str, times: int) -> Fault | None:
        if self._next:
            told = self._next.popleft()
            return None if told == "none" else told
        if self.open > OPEN_MAX:
            return "busy"
        # A lot is no secret, and must be the same in every run.
        return self._faults.drawn(Random(f"{self.seed}/{what}/{times}").random())

    async def _unwilling(self, request: web.Request, fault: Fault) -> web.StreamResponse:
        """Do nothing, in one of several ways."""
        faults = self._faults
        match fault:
            case "fail":
                return _json({"error": "fault", "text": "told to fail"}, faults.fail_code)
            case "busy":
                after = {} if faults.retry_after_s is None else {"Retry-After": str(faults.retry_after_s)}
                return _json({"error": "busy"}, faults.busy_code, after)
            case "hang" if await self._pause(faults.hang_s):
                return _json({"error": "fault", "text": "told to hang"}, 500)
        return _cut(request)

    async def _wait_with_key(self, request: web.Request, key: str, digest: bytes) -> None:
        """Hold the key while nothing happens yet."""
        self.books.keys[key] = Answered(digest)
        try:
            if not await self._pause(self._faults.late_s):
                raise RefusedError(503, "stopping", "the platform stops")
        finally:
            # A reset may have forgotten it meanwhile.
            self.books.keys.pop(key, None)

    def _refuse_by_fence(self, call: Call) -> None:
        if not self.fence:
            return
        now_ms = self.now_ms()
        if call.not_after_ms is not None and now_ms > call.not_after_ms:
            raise RefusedError(403, "too_late", f"{now_ms - call.not_after_ms} ms after its not-after")
        epoch = self.books.epoch
        if epoch >= 0 and (call.epoch is None or call.epoch < epoch):
            raise RefusedError(403, "old_epoch", f"epoch {call.epoch}, expected {epoch} or a later one")

    async def _answer(self, request: web.Request, body: bytes, fault: Fault | None) -> web.StreamResponse:
        if fault in ("lose", "stall"):
            self.books.counts[fault] += 1
        if fault == "lose" or (fault == "stall" and not await self._pause(self._faults.hang_s)):
            return _cut(request)
        return _json(body)

    async def _get_action(self, request: web.Request) -> web.StreamResponse:
        self.books.counts["read_backs"] += 1
        if (troubled := await self._trouble(request)) is not None:
            return troubled
        known = self.books.keys.get(request.match_info["key"])
        if known is None:
            return _json({"error": "not_applied"}, 404)
        return _json({"error": "in_progress"}, 409) if known.answer is None else _json(known.answer)

    async def _get_present(self, request: web.Request) -> web.StreamResponse:
        self.books.counts["reads"] += 1
        if (troubled := await self._trouble(request)) is not None:
            return troubled
        query = request.query
        place = Place(query.get("tenant", ""), query.get("account"), query.get("campaign"), query.get("field", ""))
        standing = self.books.value(place)
        if standing is None:
            value = self.provider(place) if self.provider is not None else None
            if value is None and self.adopt:
                value = query.get("claimed")
            if value is None:
                self.books.counts["reads_unknown"] += 1
                return _json({"error": "unknown_here"}, 404)
            self.books.put(place, value)
            standing = self.books.values[place]
        return _json({"value": standing.value, "unit": standing.unit})

    async def _trouble(self, request: web.Request) -> web.StreamResponse | None:
        """Answer a reading that meets a fault."""
        if not self._faults.reads:
            return None
        self._reads += 1
        fault = self._draw(request.path_qs, self._reads)
        if fault in ("late", "stall"):
            await self._pause(self._faults.late_s)
            return None
        return None if fault is None else await self._unwilling(request, "drop" if fault == "lose" else fault)

    async def _pause(self, seconds: float) -> bool:
        """Wait; say whether the platform still runs."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return not self._stopping.is_set()

    # --- what tests and demos ask -------------------------------------------------------------------------------------

    async def _put_present(self, request: web.Request) -> web.Response:
        rows = await _read(request, list[_Row])
        for row in rows:
            self.books.put(Place(row.tenant, row.account, row.campaign, row.field), row.value, row.unit)
        return _json({"set": len(rows)})

    async def _put_fence(self, request: web.Request) -> web.Response:
        self.books.epoch = max(self.books.epoch, (await _read(request, _Fence)).epoch)
        return _json({"epoch": self.books.epoch})

    async def _get_faults(self, request: web.Request) -> web.Response:
        return _json(msgspec.structs.replace(self._faults, next=tuple(self._next)))

    async def _put_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults = await _read(request, Faults)
        except UsageError as error:
            raise RefusedError(400, "malformed", str(error)) from None
        return _json(self._faults)

    async def _get_counts(self, request: web.Request) -> web.Response:
        return _json(self.counts())

    def counts(self) -> dict[str, int]:
        """Return how often what happened; what never did is 0."""
        books = self.books
        return {
            **dict.fromkeys(COUNTS, 0),
            **books.counts,
            "open": self.open,
            "actions": len(books.actions),
            "twice": len(books.twice()),
            "epoch": books.epoch,
            "now_ms": self.now_ms(),
        }

    async def _get_ledger(self, request: web.Request) -> web.Response:
        books = self.books
        entries = [asdict(entry) for entry in books.actions.values()]
        repeats = {key: known.repeats for key, known in books.keys.items() if known.repeats}
        twice = [f"{entry.tenant}/{entry.action_id}" for entry in books.twice()]
        return _json({"actions": entries, "twice": twice, "repeats": repeats})

    async def _get_calls(self, request: web.Request) -> web.Response:
        since = request.query.get("since", "-1")
        if not since.lstrip("-").isdecimal():
            raise RefusedError(400, "malformed", f"since: found {since!r}, expected milliseconds since 1970")
        calls = [asdict(call) for call in self.calls_since(int(since))]
        dropped = self.books.counts["calls"] - len(self.books.calls)
        return _json({"calls": calls, "dropped": dropped, "now_ms": self.now_ms()})

    def calls_since(self, ms: int) -> list[Call]:
        """Return the calls that began after `ms`, in their order."""
        return [call for call in self.books.calls if call.begin_ms > ms]

    async def _post_reset(self, request: web.Request) -> web.Response:
        self.books = Books()
        self.faults = NO_FAULTS
        self._reads = 0
        return _json({})


COUNTS: Final[tuple[str, ...]] = (
    "calls", "applied", "repeats", "in_progress", "key_reused", "refused_late", "refused_epoch", "malformed", "full",
    "overwritten", "reads", "reads_unknown", "read_backs", *KINDS,
)  # fmt: skip
_COUNTED: Final[Mapping[str, str]] = {
    "too_late": "refused_late",
    "old_epoch": "refused_epoch",
    "in_progress": "in_progress",
    "key_reused": "key_reused",
    "full": "full",
}


def _possible(faults: Faults) -> Faults:
    total = sum(getattr(faults, kind) for kind in KINDS)
    if total > 1:
        raise UsageError(f"faults: the probabilities add up to {total:g}, expected 1 at most; lower some of them")
    return faults


async def _read_order(request: web.Request, call: Call) -> tuple[Order, bytes]:
    """Read headers and body into the call."""
    body = await request.read()
    if not call.key:
        raise RefusedError(400, "key_missing", "no Idempotency-Key")
    call.not_after_ms = _number(request, "Hitl-Not-After")
    call.epoch = _number(request, "Hitl-Epoch")
    order = _decoded(body, Order)
    call.tenant, call.action_id, call.type = order.tenant, order.action_id, order.type
    call.campaigns = tuple(dict.fromkeys(_campaign(change) for change in order.changes))
    return order, sha256(body).digest()


def _campaign(change: Change) -> str:
    return "/".join(part for part in (change.entity.account, change.entity.campaign) if part is not None)


def _number(request: web.Request, header: str) -> int | None:
    text = request.headers.get(header)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise RefusedError(400, "malformed", f"{header}: found {text!r}, expected a whole number") from None


async def _read(request: web.Request, kind: type[Any]) -> Any:
    return _decoded(await request.read(), kind)


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError(400, "malformed", str(error)) from None


def _json(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = data if isinstance(data, bytes) else msgspec.json.encode(data)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _cut(request: web.Request) -> web.Response:
    """End the connection without a word; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


@web.middleware
async def _answer_refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except RefusedError as refused:
        return _json({"error": refused.error, "text": refused.text}, refused.status)


# --- an adapter for demos ---------------------------------------------------------------------------------------------


class ClaimingAdapter(HttpAdapter):
    """Tells a platform that adopts values what the agent claims. For demos: it takes the sense out of reading."""

    def place(self, change: Change, action: Action) -> dict[str, str]:
        """Add the claim to what names the place."""
        named = super().place(change, action)
        return named if change.before is None else {**named, "claimed": str(exact(change.before))}


def claiming_adapter(now_ms: Clock, **options: Option) -> ClaimingAdapter:
    """Make it from `adapter_options`, those of `http`, for `adapter = "hitl_stream.dev.platform:claiming_adapter"`."""
    return ClaimingAdapter(http_options(options), now_ms)


class AgreeingAdapter(ClaimingAdapter):
    """Says of every change that the platform stands where the agent says.

    For `hitl demo`: its agents are simulated and are not told which of their actions ran, so before long nothing that
    they say of the present would be true, and all they propose would be stale.
    """

    async def present(self, change: Change, action: Action) -> Value | None:
        """Answer the agent's claim."""
        return change.before


def agreeing_adapter(now_ms: Clock, **options: Option) -> AgreeingAdapter:
    """Make it from `adapter_options`, those of `http`."""
    return AgreeingAdapter(http_options(options), now_ms)


# --- a process of its own ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one until a signal; the first line printed is its address."""
    parser = argparse.ArgumentParser(prog="python -m hitl_stream.dev.platform", description="A fake ad platform.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one (the default)")
    parser.add_argument("--seed", type=int, default=0, help="which calls meet which faults")
    parser.add_argument("--faults", default="{}", help='JSON, such as {"lose": 0.01, "late": 0.01, "late_s": 2}')
    parser.add_argument("--adopt", action="store_true", help="take the first value that is claimed for a field")
    parser.add_argument("--no-fence", action="store_true", help="enforce neither not-after nor epoch")
    given = parser.parse_args(arguments)
    try:
        faults = _faults_of(given.faults)
        platform = Platform(
            given.port, given.seed, faults, host=given.host, adopt=given.adopt, fence=not given.no_fence
        )
        asyncio.run(_run(platform))
    except HitlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _faults_of(text: str) -> Faults:
    try:
        return _possible(msgspec.json.decode(text, type=Faults))
    except msgspec.DecodeError as error:
        fields: Iterable[str] = Faults.__struct_fields__
        raise UsageError(f"--faults: {error}; expected a JSON object with any of {', '.join(fields)}") from None


async def _run(platform: Platform) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with platform:
        print(platform.url, flush=True)
        await stopping.wait()


if __name__ == "__main__":
    sys.exit(main())
