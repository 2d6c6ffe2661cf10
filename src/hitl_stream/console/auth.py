"""Who asks: a bearer token, or the secret of a session; too many wrong ones, and an address has to wait.

A token is for the scopes that it lists, as far as its account's rights go by now. A session, begun with name and
password, is for everything that its account may do, and is fresh for a few minutes: tier 3 and the release of a batch
want that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection

from hitl_stream.console.browser import COOKIE
from hitl_stream.console.office import Office, Who
from hitl_stream.console.people import DECIDING, Kind, Scope, SignedIn
from hitl_stream.console.problems import ProblemError

FAILURES_MAX = 20
FAILURES_MS = 60_000
"""So many wrong secrets in so long a time, and an address is not listened to until the time is over."""
ADDRESSES_MAX = 10_000
SECRET_LENGTH_MAX = 512
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="hitl"'}


class Failures:
    """Wrong secrets, by address."""

    def __init__(self) -> None:
        self._by: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def check(self, address: str, now_ms: int) -> None:
        """Refuse an address that has shown too many wrong secrets."""
        count, since_ms = self._by.get(address, (0, now_ms))
        left_ms = since_ms + FAILURES_MS - now_ms
        if count >= FAILURES_MAX and left_ms > 0:
            raise ProblemError(
                "too_many",
                f"{count} wrong secrets came from this address, expected fewer than {FAILURES_MAX} a minute",
                todo="Wait, and look which token is used.",
                headers={"Retry-After": str(left_ms // 1000 + 1)},
            )

    def failed(self, address: str, now_ms: int) -> None:
        """Count a wrong secret."""
        count, since_ms = self._by.pop(address, (0, now_ms))
        if since_ms + FAILURES_MS <= now_ms:
            count, since_ms = 0, now_ms
        self._by[address] = (count + 1, since_ms)
        while len(self._by) > ADDRESSES_MAX:
            self._by.popitem(last=False)


async def identify(
    office: Office, failures: Failures, secret: str | None, address: str, *, session_only: bool = False
) -> Who:
    """Return who shows this secret. `session_only`: it came in a cookie, where no token belongs."""
    now_ms = office.clock_ms()
    failures.check(address, now_ms)
    if not secret:
        raise ProblemError(
            "not_signed_in",
            "nobody is signed in: there is no bearer token",
            where="header Authorization",
            todo="Send: Authorization: Bearer TOKEN. An administrator makes one: hitl user token NAME.",
            headers=CHALLENGE,
        )
    known = len(secret) <= SECRET_LENGTH_MAX
    who = await _who(office, secret, now_ms, session_only=session_only) if known else None
    if who is None:
        failures.failed(address, now_ms)
        raise ProblemError(
            "not_signed_in",
            "the bearer token is unknown, or its time is over",
            where="header Authorization",
            todo="Sign in again, or have a new one made: hitl user token NAME.",
            headers=CHALLENGE,
        )
    return who


async def begin_session(office: Office, failures: Failures, address: str, name: str, password: str) -> SignedIn:
    """Begin a session by name and password; refuse what does not fit, and count it."""
    return await _begun(
        office,
        failures,
        address,
        lambda now_ms: office.people.sign_in(name, password, now_ms),
        ProblemError(
            "not_signed_in",
            "name and password do not fit, or there were too many that did not",
            todo="Try again, or ask an administrator: hitl user password NAME.",
        ),
    )


async def begin_by_link(office: Office, failures: Failures, address: str, secret: str) -> SignedIn:
    """Begin a session by a one-time link; refuse one that is used up, and count it."""
    return await _begun(
        office,
        failures,
        address,
        lambda now_ms: office.people.sign_in_by_link(secret, now_ms),
        ProblemError(
            "not_signed_in",
            "this link was used already, or its ten minutes are over",
            todo="Have a new one made: hitl user link NAME. Or sign in with name and password.",
        ),
    )


async def _begun(
    office: Office,
    failures: Failures,
    address: str,
    begin: Callable[[int], Awaitable[SignedIn | None]],
    refused: ProblemError,
) -> SignedIn:
    now_ms = office.clock_ms()
    failures.check(address, now_ms)
    begun = await begin(now_ms)
    if begun is None:
        failures.failed(address, now_ms)
        raise refused
    return begun


async def identify_browser(office: Office, failures: Failures, request: HTTPConnection) -> Who:
    """Return whose session a browser's cookie is; what else it has to show was looked at at the door."""
    secret = request.cookies.get(COOKIE)
    return await identify(office, failures, secret, address_of(request), session_only=True)


def address_of(request: HTTPConnection) -> str:
    """Return where a request comes from."""
    return request.client.host if request.client is not None else "unknown"


async def _who(office: Office, secret: str, now_ms: int, *, session_only: bool) -> Who | None:
    bearer = None if session_only else await office.people.bearer(secret, now_ms)
    if bearer is not None:
        return Who(bearer.account, bearer.scopes)
    session = await office.people.session(secret, now_ms)
    if session is None:
        return None
    scopes = frozenset(scope for scope in Scope if session.account.may_use(scope))
    return Who(session.account, scopes, session.is_fresh(now_ms))


def demand(who: Who, scope: Scope) -> None:
    """Refuse what a token is not for; and to a service everything that only people do, whatever its token says."""
    if scope in DECIDING and who.account.kind is Kind.SERVICE:
        raise ProblemError(
            "service",
            f"{who.account.name} is a service, and a service never decides, releases or promotes",
            todo="A person does this, signed in by themselves.",
        )
    if scope not in who.scopes:
        raise ProblemError(
            "scope",
            f"the token is not for {scope.value}, or {who.account.name} lacks the role for it",
            todo=f"Have a token made with that scope: hitl user token {who.account.name} --scope {scope.value}.",
        )


def demand_fresh(who: Who, what: str) -> None:
    """Refuse what wants a sign-in of a moment ago."""
    if not who.fresh:
        raise ProblemError(
            "not_fresh",
            f"{what} wants a sign-in no older than five minutes",
            todo="Sign in with name and password (POST /api/v1/sessions), and do it with that.",
        )
