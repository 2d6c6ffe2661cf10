"""The closed vocabularies: every word that may stand in a record, a metric label or a log line."""

from __future__ import annotations

from collections import Counter
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
    STALE = "stale"
    """The platform holds another value than the one that the action starts from."""
    REJECTED = "rejected"
    """A person said no."""
    CHANGED = "changed"
    """A person proposed another action in its place."""


class Effect(StrEnum):
    """What a person's verdict did."""

    APPLIED = "applied"
    WAITING = "waiting"
    """It counts, and another approval is missing."""
    CONFLICT = "conflict"
    """Another one had ended the item before it, by the order of the log."""
    LATE = "late"
    """It was appended after the item's time was over."""
    REFUSED = "refused"


class Refusal(StrEnum):
    """Why a verdict counts for nothing, although its signature is good."""

    UNKNOWN_ITEM = "unknown_item"
    NOT_OPEN = "not_open"
    """The item waits for its batch."""
    HASH = "hash"
    """It is about other bytes."""
    VIEW = "view"
    """What was shown is not what its digest says."""
    PERSON = "person"
    """The key that signed it may not speak for this person, or not in this role."""
    SERVICE = "service"
    """Only a person decides."""
    BARRED = "barred"
    """The submitter, the agent's owner, or whoever judged it before."""
    NOT_ASKED = "not_asked"
    """The item is put to somebody else."""
    ROLE = "role"
    """No approval that is missing can be given in this role."""
    SAME_PERSON = "same_person"
    """Two people means two."""
    TOO_FAST = "too_fast"
    """Its tier asks for as much time as reading takes."""
    REASON = "reason"
    """A rejection or a change names no reason that the policy knows."""
    CHANGE = "change"
    """It changes nothing, or what cannot be changed."""
    NO_NEXT = "no_next"
    """There is no queue to escalate to."""
    SAMPLE = "sample"
    """The batch's sample is not judged yet, or its plan has failed."""
    ROOT = "root"
    """It releases another batch than there is."""
    REPLAYED = "replayed"
    """The same verdict has counted already."""
    LEVEL = "level"
    """Whoever is watched as closely as this approves nothing of the highest tier, and releases no batch."""
    QUIZ = "quiz"
    """Too few answers were right."""


class Status(StrEnum):
    """What became of an execute record whose platform call began."""

    EXECUTED = "executed"
    FAILED = "failed"
    UNRESOLVED = "unresolved"
    """Nobody could find out in time."""


class SentBackWhy(StrEnum):
    """Why an executor sent a decision back to be made again."""

    SWITCH = "switch"
    """A switch covers it, or was engaged after it was decided."""
    BEHIND = "behind"
    """An earlier one of its entity was sent back, and it was decided before the router knew of that."""
    POLICY = "policy"
    """Under our own policy the machine may not let it run alone; it was decided under another one."""
    EPOCH = "epoch"
    """It names a control epoch that did not come."""


class After(StrEnum):
    """After which moment of a kill switch a platform call in its scope began."""

    APPEND = "append"
    EFFECTIVE = "effective"


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
    LEASE = "lease"
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
    FULL = "full"
    """So many commands of this holder wait, or so many of his pins hold, that there is no room for another."""


class RouterTally:
    """What the router counted in one batch; it reaches the metrics after the batch's known commit.

    Every input record is counted exactly once in `routed`, `dead` or `moved`, and every parked one that a pass took in
    `again` or `dead`; the others are details of those.
    `class` is the policy's class, or "none" where the policy has no such class: never a word that an agent chose.
    """

    __slots__ = ("again", "audit", "closed", "dead", "moved", "recommended", "routed")

    def __init__(self) -> None:
        self.routed: dict[tuple[str, str], int] = {}
        """(class, outcome's name, or RECOMMEND at level 1) → actions that were decided, also those that were closed."""
        self.again: dict[tuple[str, str], int] = {}
        """The same of parked actions that a pass decided once more; HOLD: parked again."""
        self.closed: dict[str, int] = {}
        """`Why` → actions that ended at the router, at once or in a pass."""
        self.dead: dict[str, int] = {}
        """`ErrorClass` → records that could not be read."""
        self.moved: int = 0
        """Actions sent on to their home partition."""
        self.recommended: int = 0
        """Actions of level 1, which end as a recommendation."""
        self.audit: int = 0
        """Copies drawn for audit: outputs, not inputs."""


class ExecutorTally:
    """What an executor counted in one commit; it reaches the metrics after that is known to have happened.

    Every execute record is counted exactly once: in `results`, `closed`, `sent_back`, `dead` or `repeated`. `class` is
    the policy's class, or "none".
    """

    __slots__ = ("closed", "dead", "repeated", "results", "seconds", "sent_back")

    def __init__(self) -> None:
        self.results: Counter[tuple[str, str]] = Counter()
        """(class, `Status`) → results."""
        self.closed: Counter[str] = Counter()
        """`Why` → decisions that ended here without a call."""
        self.sent_back: Counter[str] = Counter()
        """`SentBackWhy` → decisions written to `held`."""
        self.dead: Counter[str] = Counter()
        """`ErrorClass` → records that are none of ours."""
        self.repeated: int = 0
        """Records that were done already."""
        self.seconds: list[float] = []
        """How long each platform call took that was answered."""

    def add(self, other: ExecutorTally) -> None:
        """Count what another one has counted."""
        self.results.update(other.results)
        self.closed.update(other.closed)
        self.sent_back.update(other.sent_back)
        self.dead.update(other.dead)
        self.repeated += other.repeated
        self.seconds += other.seconds


class DeskTally:
    """What the desk counted in one batch; it reaches the metrics after the batch's known commit.

    Queues are the policy's, or "none" for a verdict on an item that nobody knows.
    """

    __slots__ = (
        "closed", "dead", "diverted", "executed", "gate_ms", "labelled", "lapsed", "opened", "opinions", "parked",
        "proposed", "refused", "rejected", "repeated", "skipped", "timed", "unjoined", "verdicts", "wait_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.opened: Counter[str] = Counter()
        """Queue → items that were opened."""
        self.diverted: Counter[str] = Counter()
        """Gate → items that it put to people."""
        self.gate_ms: Counter[str] = Counter()
        """Gate → milliseconds that people looked at them."""
        self.verdicts: Counter[tuple[str, str, str]] = Counter()
        """(queue, verdict, `Effect`) → judgements."""
        self.refused: Counter[str] = Counter()
        """`Refusal` → judgements that counted for nothing."""
        self.rejected: Counter[str] = Counter()
        """`Rejection` → records on `verdicts` of which nobody can say who wrote them."""
        self.repeated: int = 0
        """Verdicts that had counted already."""
        self.skipped: int = 0
        self.timed: Counter[tuple[str, str]] = Counter()
        """(queue, state) → what time, or a newer action, made of items: OPEN for an escalation."""
        self.lapsed: Counter[tuple[str, str]] = Counter()
        """(queue, its owner) → items that wait there for half of their time, and go nowhere from there."""
        self.closed: Counter[str] = Counter()
        """`Why` → actions that ended here."""
        self.executed: int = 0
        self.parked: int = 0
        self.proposed: int = 0
        """Actions that people wrote in place of others."""
        self.opinions: int = 0
        self.labelled: int = 0
        """Pairs compared."""
        self.unjoined: Counter[str] = Counter()
        """Why → items that their batch did not take."""
        self.dead: Counter[str] = Counter()
        """`ErrorClass` → records that could not be read."""
        self.wait_s: list[float] = []
        """How long each judged item had been open."""
