"""What comes in and what goes out over `/api/v1`, as the OpenAPI document describes it.

Unknown members are refused: who misspells `note` learns it. Answers are written by msgspec, so that what stands in a
record comes out as it was written; the models here say what they look like.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StrictStr

from hitl_stream.core.commands import SELECTORS_MAX
from hitl_stream.core.events import Mode
from hitl_stream.core.verdicts import CHANGES_MAX, ERRORS_MAX

NOTE_LENGTH_MAX = 2_000
NAME_LENGTH_MAX = 200
PATTERN = r"^[^\x00-\x1f\x7f]+$"
DIGEST = "^[0-9a-f]{64}$"
RECEIPT = r"^[0-9]{1,15}\.[0-9a-f]{32}$"
JWS = r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*$"


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character (a lone surrogate); expected Unicode text") from None
    return text


def _without_zero(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds the character 0; expected text")
    return _whole(text)


Word = Annotated[str, Field(min_length=1, max_length=NAME_LENGTH_MAX, pattern=PATTERN), AfterValidator(_whole)]
Note = Annotated[str, Field(max_length=NOTE_LENGTH_MAX), AfterValidator(_without_zero)]
Digest = Annotated[str, Field(pattern=DIGEST)]
Receipt = Annotated[str, Field(pattern=RECEIPT, examples=["1795245000140." + "0" * 32])]
ChosenId = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{8,64}$", examples=["5f0c8a2e-0001"])]
"""A client's own id of a judgement: sent again after a lost answer, it counts once."""
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]
Setting = StrictBool | Number | Annotated[StrictStr, Field(max_length=65_536), AfterValidator(_without_zero)]


Selector = Annotated[str, Field(min_length=3, max_length=500, pattern="^[a-z-]+:."), AfterValidator(_without_zero)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Out(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- in ---------------------------------------------------------------------------------------------------------------


class SignIn(_In):
    """Name and password."""

    name: Word
    password: Annotated[str, Field(min_length=1, max_length=1_024), AfterValidator(_whole)]


class Painted(_In):
    """That a card stands on the page."""

    view: Digest


class Change(_In):
    """One field of the action, by JSON pointer, and its new value."""

    path: Annotated[str, Field(min_length=2, max_length=500, pattern="^/"), AfterValidator(_without_zero)]
    value: Setting


class VerdictAsk(_In):
    """A judgement of an item. `view` and `painted` are those of the card that was judged."""

    verdict: Literal["approve", "reject", "change", "escalate"]
    view: Digest
    painted: Receipt
    changes: Annotated[tuple[Change, ...], Field(max_length=CHANGES_MAX)] = ()
    code: Word | None = None
    errors: Annotated[tuple[Word, ...], Field(max_length=ERRORS_MAX)] = ()
    note: Note | None = None
    role: Word | None = None
    id: ChosenId | None = None


class ReleaseAsk(_In):
    """The release of a batch, over the root that the card names."""

    view: Digest
    painted: Receipt
    role: Word | None = None
    id: ChosenId | None = None


class PairAsk(_In):
    """Which of two outputs is better, as they stood on the page."""

    choice: Literal["left", "right", "tie", "both_bad"]
    view: Digest
    painted: Receipt
    id: ChosenId | None = None


class EngageAsk(_In):
    """A kill switch: its scope as selectors such as `campaign:cmp-7`; `global:*` stops everything."""

    scope: Annotated[tuple[Selector, ...], Field(min_length=1, max_length=SELECTORS_MAX)]
    mode: Mode
    reason: Annotated[str, Field(max_length=1_500), AfterValidator(_without_zero)] | None = None


class CommandAsk(_In):
    """A command that was signed elsewhere, with an operator's own key, as a compact JWS."""

    jws: Annotated[str, Field(min_length=1, max_length=1_000_000, pattern=JWS)]


# --- out --------------------------------------------------------------------------------------------------------------


class ProblemBody(BaseModel):
    """What went wrong: `title` what was found and expected, `detail` where, `todo` what to do next."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    instance: str
    todo: str


class Session(_Out):
    """A session; `token` is its secret, and is told once."""

    token: str
    until: str
    name: str
    roles: list[str]
    scopes: list[str]


class Me(_Out):
    """Who asks, and for what the token is good. `tenants` null: every one."""

    name: str
    kind: Literal["person", "service"]
    roles: list[str]
    tenants: list[str] | None
    scopes: list[str]
    fresh: bool
    qualified: dict[str, str]


class Proposed(_Out):
    """Where a proposed action was appended."""

    tenant: str
    action_id: str
    hash: str
    topic: str
    partition: int
    offset: int


class Record(_Out):
    """One record of an action's story."""

    kind: Literal["decision", "closed", "result"]
    at: str
    source: str
    record: dict[str, Any]


class Ended(_Out):
    """An item of an action's story, which has ended."""

    item: str
    state: str
    end: str | None
    queue: str
    opened: str


class Story(_Out):
    """All that became of an action, in order. While people are asked about it, those who decide are told no more."""

    tenant: str
    action_id: str
    undecided: bool
    items: list[Ended]
    records: list[Record]


class Queue(_Out):
    """How full a queue is, and whether the caller decides in it."""

    queue: str
    open: int
    oldest: str | None
    money: dict[str, str]
    yours: bool
    external: bool


class Queues(_Out):
    """The queues that the caller may know of; `stale_s` is how far behind these figures are, null: nothing read yet."""

    queues: list[Queue]
    stale_s: float | None


class Judged(_Out):
    """What became of a judgement of the caller's own."""

    id: str
    verdict: str
    effect: str
    why: str | None
    appended: str


class Item(_Out):
    """An item as the caller may see it.

    `state`: open, or judged (the caller has said something on it), or ended. `card` is a JSON text, and `view` its
    SHA-256, which a verdict names. `claimed_until`: until then nobody else is given it.
    """

    item: str
    state: Literal["open", "judged", "ended"]
    card: str | None
    view: str | None
    claimed_until: str | None
    yours: list[Judged]
    stale_s: float | None


class Next(_Out):
    """Items that the caller holds now, the most pressing first."""

    items: list[Item]
    stale_s: float | None


class Claimed(_Out):
    """A claim on an item; ask for it again before it ends."""

    item: str
    until: str


class PaintedAt(_Out):
    """When a card was painted, and the console's receipt for it, which the verdict carries."""

    painted: str
    receipt: str


class Said(_Out):
    """A judgement that stands on `verdicts`. What it did is told by the item, as soon as the desk has read it."""

    id: str
    topic: str
    partition: int
    offset: int


class Batch(_Out):
    """A batch, its card, and the card's SHA-256."""

    batch: str
    state: str
    card: str
    view: str


class Batches(_Out):
    """The batches of the caller's queues, the newest first."""

    batches: list[Batch]
    stale_s: float | None


class Pair(_Out):
    """A pair to be compared."""

    pair: str
    card: str
    view: str


class NextPair(_Out):
    """The next pair; null: none waits."""

    pair: Pair | None


class Switch(_Out):
    """A kill switch. `effective`: it is proved that nothing in its scope starts any more."""

    epoch: int
    scope: list[str]
    mode: Mode
    by: str
    at: str
    reason: str | None
    source: str
    effective: bool


class Switches(_Out):
    """What is engaged, up to which command of `control` that is known, and why it may be out of date."""

    epoch: int
    effective: int
    missing: str
    switches: list[Switch]


class Appended(_Out):
    """A command that stands on `control`, at this offset."""

    epoch: int
    at: str


class Feedbacks(_Out):
    """What people said of agents' actions. `after` asks for what follows; `more`: there is more already."""

    feedback: list[dict[str, Any]]
    after: str
    more: bool
