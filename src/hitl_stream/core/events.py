"""The closed vocabularies: every word that may stand in a record, a metric label or a log line."""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Outcome(IntEnum):
    """Where an action goes next. A larger value is stricter, so `max` picks the strictest."""

    EXECUTE, REVIEW, ESCALATE, HOLD, REFUSE = range(1, 6)


class Level(IntEnum):
    """How far a class of action may go by itself: 1 recommends, 2 asks, 3 acts and reports, 4 acts and logs."""

    RECOMMEND, CONFIRM, REPORT, LOG = range(1, 5)


class Purpose(StrEnum):
    """Why a review exists. Only `decide` can lead to an execute record."""

    DECIDE = "decide"
    AUDIT = "audit"
    SECOND = "second"
    CANARY = "canary"
    EXCEPTION = "exception"


class End(StrEnum):
    """An end without execution."""

    REJECTED = "rejected"
    EXPIRED = "expired"
    STALE = "stale"
    SUPERSEDED = "superseded"
    REFUSED = "refused"


class Why(StrEnum):
    """Why an action was closed."""

    LATE = "late"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    IDENTITY = "identity"
    POLICY = "policy"
    UNSEALED = "unsealed"
    ADMIT_BY = "admit_by"
    DECIDE_BY = "decide_by"
    EXECUTE_BY = "execute_by"


class ErrorClass(StrEnum):
    """Why a record is a dead letter."""

    NOT_JSON = "not_json"
    SCHEMA = "schema"
    TOO_DEEP = "too_deep"
    TOO_LARGE = "too_large"
    UNKNOWN_TYPE = "unknown_type"
    SEAL = "seal"
    ENCODING = "encoding"
    EMPTY = "empty"


class Abort(StrEnum):
    """Why a batch's transaction did not commit. After `unknown` nobody can say whether it did."""

    EPOCH = "epoch"
    ERROR = "error"
    FENCED = "fenced"
    UNKNOWN = "unknown"
    REVOKED = "revoked"


class Mode(StrEnum):
    """What an engaged switch does to the actions that it covers."""

    HALT = "HALT"
    """Nothing runs, whoever approved it."""
    REVIEW_ALL = "REVIEW_ALL"
    """The machine approves nothing by itself."""
    REDUCE_ONLY = "REDUCE_ONLY"
    """Only what lowers a bid or a budget, or pauses, goes on."""


class Rejection(StrEnum):
    """Why a record on the control topics counts for nothing."""

    MALFORMED = "malformed"
    """No compact JWS, no JSON, or not the fields of its type."""
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    SEAL = "seal"
    AUDIENCE = "audience"
    ISSUER = "issuer"
    """Signed with a key that belongs to somebody else."""
    EXPIRED = "expired"
    EARLY = "early"
    """Issued later than it was appended, or good for too long."""
    KEY_TIME = "key_time"
    """The key was not yet, or no longer, valid when the record was appended."""
    TYPE = "type"
    """The key may not sign this type of record."""
    REPLAYED = "replayed"
    SERVICE = "service"
    """Only a person may do this."""
    SAME_HOLDER = "same_holder"
    """A second holder must confirm, not the first one again."""
    TOO_SOON = "too_soon"
    TOO_LATE = "too_late"
    UNKNOWN = "unknown"
    """It names something that is not there to be released, confirmed or changed."""
    INVALID = "invalid"
    """Well-formed, but it asks for what nobody may ask for."""


class RouterTally:
    """What the router counted in one batch; it reaches the metrics after the batch's known commit.

    Every input record is counted exactly once in `routed`, `dead` or `moved`; the others are details of those.
    `class` is the policy's class, or "none" where the policy has no such class: never a word that an agent chose.
    """

    __slots__ = ("audit", "closed", "dead", "moved", "recommended", "routed")

    def __init__(self) -> None:
        self.routed: dict[tuple[str, str], int] = {}
        """(class, outcome's name, or RECOMMEND at level 1) → actions that were decided, also those that were closed."""
        self.closed: dict[str, int] = {}
        """`Why` → routed actions that ended at the router."""
        self.dead: dict[str, int] = {}
        """`ErrorClass` → records that could not be read."""
        self.moved: int = 0
        """Actions sent on to their home partition."""
        self.recommended: int = 0
        """Routed actions of level 1, which end as a recommendation."""
        self.audit: int = 0
        """Copies drawn for audit: outputs, not inputs."""
