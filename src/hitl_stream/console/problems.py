"""What the API answers when it does not do what it was asked: one shape, `application/problem+json` (RFC 9457).

`type` is a name of a closed set, `title` says what was found and what was expected, `detail` where, `todo` what to do
next. Nothing of a request's secrets is repeated in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hitl_stream.core.errors import HitlError, RefusedError, UnknownOutcomeError, UnreachableError, UsageError

MEDIA_TYPE = "application/problem+json"
TYPES = MappingProxyType(
    {
        "invalid": 422,
        "not_signed_in": 401,
        "forbidden": 403,
        "service": 403,
        "scope": 403,
        "role": 403,
        "tenant": 403,
        "not_fresh": 403,
        "not_qualified": 403,
        "refused": 403,
        "cookie": 400,
        "origin": 403,
        "not_local": 403,
        "host": 421,
        "malformed": 400,
        "not_found": 404,
        "method": 405,
        "changed": 409,
        "held": 409,
        "not_ready": 409,
        "irreversible": 409,
        "too_large": 413,
        "too_many": 429,
        "internal": 500,
        "unavailable": 503,
        "unknown_outcome": 504,
    }
)
"""Every type, and its status."""


class ProblemError(HitlError):
    """A request that is not done."""

    def __init__(
        self, type_: str, what: str, *, where: str = "", todo: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what)
        self.type, self.what, self.where, self.todo = type_, what, where, todo
        self.headers = dict(headers or {})
        self.status = TYPES[type_]

    def body(self, path: str) -> dict[str, object]:
        """Return the answer's JSON."""
        return {
            "type": f"urn:hitl:{self.type}",
            "title": self.what,
            "status": self.status,
            "detail": self.where,
            "instance": path,
            "todo": self.todo,
        }


def problem_of(error: HitlError) -> ProblemError:
    """Return what an error of the product is to who asked."""
    match error:
        case ProblemError():
            return error
        case UnknownOutcomeError():
            return ProblemError("unknown_outcome", str(error), todo="Ask again with the same id: it counts once.")
        case UnreachableError():
            return ProblemError("unavailable", str(error), todo="Try again in a moment; nothing was written.")
        case RefusedError():
            return ProblemError("refused", str(error))
        case UsageError():
            return ProblemError("invalid", str(error))
    if error.exit_code == UnreachableError.exit_code:
        return ProblemError("unavailable", str(error), todo="Try again in a moment; nothing was written.")
    return ProblemError("internal", "an error of hitl itself; its log says more", todo="Report it with that log.")
