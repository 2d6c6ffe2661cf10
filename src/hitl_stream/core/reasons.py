"""Why an action goes where it goes: each rule that fired, with the values it compared."""

from __future__ import annotations

from msgspec import Struct

from hitl_stream.core.events import Outcome


class Reason(Struct, frozen=True):
    """One row of an explanation.

    `rule` names the rule, `saw` and `limit` what was compared, `rate` the exchange rate used. `queue` is who is asked
    (None: nobody), `gate` the gate it belongs to, `error` the error type it is evidence of. `counts` is false for a
    gate that only observes.
    """

    rule: str
    saw: str
    limit: str | None
    outcome: Outcome
    queue: str | None = None
    rate: str | None = None
    gate: str | None = None
    error: str | None = None
    counts: bool = True

    def __str__(self) -> str:
        limit = f" > {self.limit}" if self.limit is not None else ""
        observed = "" if self.counts else " (observed only)"
        return f"{self.rule} {self.saw}{limit}{observed}"
