"""The records around people: reviews, verdicts, and what the desk leaves of each. See `records` for the rest.

A review carries the router's sealed head as a string and the action's bytes as its last member, so that what is shown,
approved and executed is the same bytes at every step.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.action import Agent, Value
from hitl_stream.wire.records import Routed

EffectName = Literal["applied", "waiting", "conflict", "late", "refused"]
VerdictName = Literal["approve", "reject", "change", "escalate"]


class NeedRow(Struct, frozen=True, kw_only=True):
    """An approval that an item needs, and who has given it. `escalate_at` is null where it goes nowhere from here."""

    queue: str
    people: int
    by: tuple[str, ...] = ()
    decide_by: str
    escalate_at: str | None = None


class GivenRow(Struct, frozen=True):
    """A signed approval that counts, as it was appended."""

    jws: str
    appended: str


class OpinionRow(Struct, frozen=True, kw_only=True):
    """What an AI reviewer says of an action; it orders a queue, and satisfies nothing."""

    reviewer: str
    verdict: str
    confidence: float | None = None
    note: str | None = None


class ReviewState(Struct, frozen=True, kw_only=True):
    """One item on `reviews`, by its key, as the desk has it. Written anew at each change; the desk's changelog.

    `not_`: who may not decide it. `covered`: switches that held it when it was written. `source`: topic/partition/offset
    of the record that opened it. `given`: the approvals so far. `seen`: the ids (`jti`) of the verdicts that have counted.
    """

    item: str
    state: str
    purpose: str
    for_: str | None = msgspec.field(default=None, name="for")
    not_: tuple[str, ...] = msgspec.field(default=(), name="not")
    queue: str
    opened: str
    covered: tuple[int, ...] = ()
    batch: str | None = None
    flagged: bool = False
    approvals: tuple[NeedRow, ...] = ()
    escalated: int = 0
    end: str | None = None
    source: str
    tier: int = 1
    floor_s: float = 0.0
    seen: tuple[str, ...] = ()
    given: tuple[GivenRow, ...] = ()
    opinions: tuple[OpinionRow, ...] = ()
    exception: str | None = None
    routed: Routed
    action: Raw = msgspec.field(default_factory=Raw)


class LotState(Struct, frozen=True, kw_only=True):
    """One batch on `reviews`, by its key `batch/<tenant>/<place>/<id>`.

    `members` are item ids in the order of the tree; `drawn` those of the sample. `good` and `bad` are judged ones of it.
    `after` is how many members of a release are written out; a large batch takes several transactions.
    """

    lot: str
    state: str
    queue: str
    wanted: int
    opened: str
    close_at: str
    members: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    root: str | None = None
    accept: int | None = None
    good: int = 0
    bad: int = 0
    flagged: int = 0
    given: tuple[GivenRow, ...] = ()
    by: tuple[str, ...] = ()
    after: int = 0


class VerdictRecord(Struct, frozen=True):
    """A record on `verdicts`: the signed claims, and the card that was shown, whose digest they hold."""

    jws: str
    shown: str


class HumanDecision(Struct, frozen=True, kw_only=True):
    """One judgement on `decisions`, with the original bytes and what was shown. Key: `<item>/<n>`.

    `n` is the offset of its record on `verdicts`, `source` the whole place of that.
    """

    item: str
    n: int
    tenant: str = ""
    action_id: str = ""
    hash: str
    purpose: str | None = None
    queue: str | None = None
    by: str
    role: str
    verdict: str
    code: str | None = None
    errors: tuple[str, ...] = ()
    note: str | None = None
    effect: EffectName
    why: str | None = None
    routed: str | None = None
    painted: str
    decided: str
    appended: str
    latency_s: float | None = None
    source: str
    jws: str
    shown: str
    action: Raw = msgspec.field(default_factory=Raw)


class First(Struct, frozen=True):
    """The judgement that a blind second one repeats."""

    by: str
    verdict: str


class Observation(Struct, frozen=True, kw_only=True):
    """How one person judged one item: `observations` (key: reviewer), and `evidence` (key: gate) of audit copies."""

    item: str
    reviewer: str
    tenant: str
    queue: str
    class_: str = msgspec.field(name="class")
    agent: Agent
    purpose: str
    verdict: str
    code: str | None = None
    errors: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    planted: str | None = None
    caught: bool | None = None
    first: First | None = None
    shown_at: str
    decided_at: str
    dwell_s: float
    floor_s: float
    words: int
    assets: int
    score: float | None = None
    p: float | None = None
    policy: str


class DiffRow(Struct, frozen=True):
    """One field that a person changed."""

    path: str
    before: Any
    after: Value


class Feedback(Struct, frozen=True, kw_only=True):
    """What an agent can learn of a rejection or a change. Key as on `decisions`."""

    item: str
    tenant: str
    action_id: str
    agent: Agent
    verdict: str
    code: str | None = None
    errors: tuple[str, ...] = ()
    note: str | None = None
    diff: tuple[DiffRow, ...] = ()
    by: str
    at: str


class Preference(Struct, frozen=True, kw_only=True):
    """Which of two outputs a labeller preferred; null for both where neither was better."""

    pair: str
    tenant: str
    prompt: str
    chosen: str | None
    rejected: str | None
    choice: Literal["left", "right", "tie", "both_bad"]
    left: Literal["a", "b"]
    by: str
    at: str


class Opinion(Struct, frozen=True, kw_only=True):
    """On `opinions`: what an AI reviewer says of an action."""

    tenant: str
    action_id: str
    hash: str
    reviewer: str
    verdict: str
    confidence: float | None = None
    note: str | None = None


class Pair(Struct, frozen=True, kw_only=True):
    """On `pairs`: two outputs for one prompt, to be compared."""

    pair: str
    tenant: str
    account: str | None = None
    prompt: str
    a: str
    b: str


decode_review = msgspec.json.Decoder(ReviewState).decode
decode_lot = msgspec.json.Decoder(LotState).decode
decode_verdict_record = msgspec.json.Decoder(VerdictRecord).decode
decode_human_decision = msgspec.json.Decoder(HumanDecision).decode
decode_observation = msgspec.json.Decoder(Observation).decode
decode_feedback = msgspec.json.Decoder(Feedback).decode
decode_preference = msgspec.json.Decoder(Preference).decode
decode_opinion = msgspec.json.Decoder(Opinion).decode
decode_pair = msgspec.json.Decoder(Pair).decode

REVIEW = "review/1"
LOT = "lot/1"
HUMAN_DECISION = "human_decision/1"
OBSERVATION = "observation/1"
FEEDBACK = "feedback/1"
PREFERENCE = "preference/1"
LOT_KEY = "batch/"
"""What the key of a batch on `reviews` begins with; no item id holds a slash."""
