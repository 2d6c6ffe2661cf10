"""What people say of what they were shown, each the payload of a compact JWS on `verdicts`.

The key that signs is the console's, and `by` names who sat there; or it is the person's own. Every claim is about one
action hash, or one root of them: what was approved is what runs.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from hitl_stream.core.action import Name, Time, Value
from hitl_stream.core.commands import Command, Digest, Reached, Text

CHANGES_MAX = 100
ERRORS_MAX = 16
LOT_MAX = 10_000
"""Items of one batch."""
QUIZ_ITEMS_MIN, QUIZ_RIGHT_MIN, QUIZ_ITEMS_MAX = 40, 35, 1_000
Word = Literal["approve", "reject", "change", "escalate"]
"""Four verdicts of equal weight."""
Pointer = Annotated[str, Meta(min_length=2, max_length=500, pattern="^/")]
"""A JSON pointer (RFC 6901) into the action."""


class Edit(Struct, frozen=True):
    """One field of the action that a person sets to another value."""

    path: Pointer
    value: Value


class Judged(Command, frozen=True, kw_only=True):
    """What every judgement says: who, in which role, when it was painted and decided, and what was shown.

    `view` is the SHA-256 of the card that was shown; `policy` and `epoch` are what the page knew.
    """

    by: Name
    role: Name
    painted: Time
    decided: Time
    view: Digest
    policy: Digest
    epoch: Reached


class Verdict(Judged, frozen=True, kw_only=True, tag="verdict"):
    """A verdict on one item, for the very bytes that `hash` names."""

    item: Name
    hash: Digest
    verdict: Word
    changes: Annotated[tuple[Edit, ...], Meta(max_length=CHANGES_MAX)] = ()
    code: Name | None = None
    errors: Annotated[tuple[Name, ...], Meta(max_length=ERRORS_MAX)] = ()
    note: Text | None = None


class BatchRelease(Judged, frozen=True, kw_only=True, tag="batch"):
    """The release of a whole batch: `root` is the Merkle root (RFC 9162) over its action hashes."""

    batch: Annotated[str, Meta(min_length=1, max_length=700)]
    size: Annotated[int, Meta(ge=1, le=LOT_MAX)]
    root: Digest


class PairChoice(Judged, frozen=True, kw_only=True, tag="preference"):
    """Which of two outputs is better; `left` is the one that stood on the left."""

    pair: Name
    left: Literal["a", "b"]
    choice: Literal["left", "right", "tie", "both_bad"]


class Skipped(Judged, frozen=True, kw_only=True, tag="skip"):
    """A person looked at an item and left it, by a key (`skip`) or by letting the claim run out (`lapse`)."""

    item: Name
    how: Literal["skip", "lapse"]


class Qualified(Judged, frozen=True, kw_only=True, tag="qualified"):
    """A person has taken the quiz of a class: so many of its items right, wrong ones and right ones mixed.

    Only the console says it: it keeps the answers that were right.
    """

    class_: Name = field(name="class")
    right: Annotated[int, Meta(ge=0, le=QUIZ_ITEMS_MAX)]
    of: Annotated[int, Meta(ge=1, le=QUIZ_ITEMS_MAX)]


def has_passed(claims: Qualified) -> bool:
    """Say whether a quiz was passed: at least 35 of 40, or as large a share of more."""
    return claims.of >= QUIZ_ITEMS_MIN and claims.right * QUIZ_ITEMS_MIN >= claims.of * QUIZ_RIGHT_MIN


AnyVerdict = Verdict | BatchRelease | PairChoice | Skipped | Qualified
VERDICT_TYPES = ("verdict", "batch", "preference", "skip", "qualified")
"""Every `typ` on `verdicts`; a key lists those that it may sign."""
AS_ROLE = "as:"
"""Before a role among the types of a person's own key: in which roles its holder may decide."""
