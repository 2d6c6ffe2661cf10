"""What a browser has to show before the cookie of a session counts: our own header, and our own origin.

Rules:
- A cookie is sent by a browser itself, whoever made it ask. So it is taken only with a header that no form, link or
  image can carry, and, for whatever changes something, with an Origin that is this console's.
- It never comes together with a bearer token: who holds a token has no use for a cookie, and a page elsewhere that got
  hold of one may not borrow the other.
- The cookie cannot be read by a script, and goes with no request that another site has begun (`SameSite=Strict`). The
  pages themselves hold nothing secret, so that a link from a chart or a chat opens them all the same; what they show
  they ask for.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from hitl_stream.console.problems import ProblemError

COOKIE = "hitl_session"
HEADER = b"x-hitl-console"
SAFE = ("GET", "HEAD", "OPTIONS")
OURS = (b"same-origin", b"none")
"""What `Sec-Fetch-Site` says of a request that one of our pages, or a person's own typing, has begun."""

Headers = Mapping[bytes, bytes]
"""Names in lower case."""


def check(headers: Headers, method: str) -> None:
    """Refuse a request to the API that comes with a cookie and is not one of our own pages'."""
    if b"cookie" not in headers:
        return
    if b"authorization" in headers:
        raise _refused(
            "a cookie came together with a bearer token, expected one of the two",
            "Send a bearer token, and no cookie.",
        )
    if HEADER not in headers:
        raise _refused("a cookie came with the request, and the header X-Hitl-Console did not", _TOKEN)
    if method not in SAFE:
        check_origin(headers)


def check_origin(headers: Headers) -> None:
    """Refuse what another site has made a browser send, and what no browser has sent."""
    origin, host = headers.get(b"origin", b"").decode("latin-1"), headers.get(b"host", b"").decode("latin-1")
    if urlsplit(origin).netloc.lower() != host.lower() or not origin:
        raise ProblemError(
            "origin",
            f"the request comes from {origin[:100] or 'no origin'}, expected this console's own, {host[:100]}",
            where="header Origin",
            todo="Do it at the console's own page; a program sends a bearer token, and no cookie.",
        )
    if headers.get(b"sec-fetch-site", b"same-origin") not in OURS:
        raise ProblemError(
            "origin", "another site has made the browser send this", where="header Sec-Fetch-Site", todo=_TOKEN
        )


def set_cookie(secret: str, seconds: int, headers: Headers) -> str:
    """Return the header that gives a browser its session; over TLS it is never sent without."""
    secure = "; Secure" if headers.get(b"origin", b"").startswith(b"https:") else ""
    return f"{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}"


_TOKEN = "Send a bearer token, and no cookie."


def _refused(what: str, todo: str) -> ProblemError:
    return ProblemError("cookie", what, where="header Cookie", todo=todo)
