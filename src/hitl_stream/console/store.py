"""The view that the console works from: what a store can do, and the values that go in and come out.

Rules:
- The log is the truth. A view is a fold over it, with the source offsets in the same transaction as the rows: it can be
  dropped and read anew at any time, and claims outlive that.
- What is handed out of an undecided item says neither why it is asked nor of whom (`purpose`, `for`, `not`, where it
  came from, what its action is called): a canary, an audit copy or a blind second looks like any other item.
- A claim is a lease of `LEASE_MS`. It keeps two people off one item; that an item has one outcome is the desk's work.

Times are milliseconds since 1970; the caller says what time it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Literal, Protocol

from msgspec import Raw, Struct

from hitl_stream.core.action import Agent, Entity
from hitl_stream.core.policy.model import Policy
from hitl_stream.wire.desk_records import HumanDecision, LotState, NeedRow, OpinionRow, ReviewState
from hitl_stream.wire.records import ReasonRow, ScoreRow

LEASE_MS = 120_000
"""How long a claim lasts without a heartbeat."""
NEXT_MAX = 50
"""Items handed out at once: a page shows one and fetches the next three."""
STORY_MAX = 1_000
"""Records of one action's story, and hits of a search."""
ALONE_MAX = 200_000
"""Records of what ended without anybody's word, the newest: a router's whole traffic is no view's to hold. What became
of an older one the log tells: `hitl explain`."""
WITHOUT_MAX = 500
"""Items that a person has put aside; of more, the newest count."""
LOTS_MAX = 100
"""Batches listed at once."""
EXCEPTIONS_MAX = 200
"""Exceptions listed at once."""
JUDGED_MAX = 500
"""Of one person, for their own figures."""
APPROVED_MAX = 1_000
"""Old approvals looked through for what a quiz can be made of."""
KINDS_MAX = 20
"""Exception types that one item counts for."""
MICROS = 1_000_000
MONEY_MICROS_MAX = 900_000_000 * MICROS
"""What one item counts for at most among the waiting money: ten thousand of them still add up in 64 bits."""

Partition = tuple[str, int]
"""A topic by its name in the table of topics, and a partition of it."""
Order = Literal["deadline", "uncertain"]
"""`deadline`: what must be decided first, of equals the dearest. `uncertain`: what is closest to a coin toss."""


# --- what goes in -----------------------------------------------------------------------------------------------------


class Source(Struct, frozen=True):
    """Where a record stands in the log."""

    topic: str
    partition: int
    offset: int


class Waiting(Struct, frozen=True):
    """A queue whose approval an open item lacks, and until when."""

    queue: str
    decide_by_ms: int


class ItemPut(Struct, frozen=True, kw_only=True):
    """The newest state of an item. `barred` may not decide it, or have approved already.

    `open` is false of one that nobody is asked about: it waits for its batch, or has ended (`ended`). `loss` is what is
    expected to be lost on it, `uncertainty` in [0, 1]; both only order queues. `unit` is the money's currency.
    `kinds` are the exception types that it was sent to people for; `raised`: since something could not be carried out.
    """

    source: Source
    item: str
    tenant: str
    action_id: str
    open: bool
    ended: bool
    waiting: tuple[Waiting, ...]
    barred: tuple[str, ...]
    for_person: str | None
    opened_ms: int
    loss: float
    uncertainty: float
    money_micros: int
    unit: str
    value: bytes
    kinds: tuple[str, ...] = ()
    raised: bool = False


class ItemGone(Struct, frozen=True):
    """An item that is past its retention."""

    source: Source
    item: str


class LotPut(Struct, frozen=True, kw_only=True):
    """The newest state of a batch."""

    source: Source
    lot: str
    tenant: str
    queue: str
    opened_ms: int
    value: bytes


class LotGone(Struct, frozen=True):
    """A batch that is past its retention."""

    source: Source
    lot: str


StoryKind = Literal["decision", "closed", "result"]


class StoryPut(Struct, frozen=True, kw_only=True):
    """A record that belongs to the story of one action, as it was written. `by` are the people who decided."""

    source: Source
    kind: StoryKind
    tenant: str
    action_id: str
    by: tuple[str, ...]
    account: str | None
    campaign: str | None
    at_ms: int
    value: bytes


class Unreadable(Struct, frozen=True):
    """A record that cannot be shown, and why: it changes nothing but how far the log is read."""

    source: Source
    why: str


Change = ItemPut | ItemGone | LotPut | LotGone | StoryPut | Unreadable


# --- who asks ---------------------------------------------------------------------------------------------------------


class Viewer(Struct, frozen=True):
    """Who asks: of which tenants (None: every one), and in which queues they decide.

    `confined`: they see nothing but what is put to these queues, as a client does.
    """

    person: str
    tenants: tuple[str, ...] | None = None
    queues: tuple[str, ...] = ()
    confined: bool = False

    def may_see(self, tenant: str) -> bool:
        """Say whether anything of a tenant is shown to them."""
        return self.tenants is None or tenant in self.tenants


def viewer_of(person: str, tenants: Collection[str] | None, roles: Collection[str], policy: Policy) -> Viewer:
    """Return what a person may see by the queue roles they have; only external ones confine them to their queues."""
    queues = {name: queue for name, queue in policy.queues.items() if set(roles) & set(queue.roles)}
    confined = bool(queues) and all(queue.external for queue in queues.values())
    allowed = None if tenants is None else tuple(sorted(tenants))
    return Viewer(person, allowed, tuple(sorted(queues)), confined)


# --- what comes out ---------------------------------------------------------------------------------------------------


class OpenItem(Struct, frozen=True, kw_only=True):
    """An undecided item, as it may be shown.

    It lacks what would tell a planted or a second look from a first one: purpose, who it is for, who may not decide it,
    its source, what the router made of it, and the action's own id. `action` are the original bytes, in which that id
    stands: whoever shows them leaves it away.
    """

    item: str
    tenant: str
    hash: str
    type: str
    level: int
    agent: Agent
    entity: Entity
    queue: str
    opened: str
    approvals: tuple[NeedRow, ...]
    execute_by: str
    tier: int
    floor_s: float
    escalated: int
    covered: tuple[int, ...]
    batch: str | None
    flagged: bool
    opinions: tuple[OpinionRow, ...]
    exception: str | None
    reasons: tuple[ReasonRow, ...]
    score: ScoreRow | None
    policy: str
    action: Raw


class EndedItem(Struct, frozen=True):
    """An item that nothing can happen to any more: all there is of it, `value` as the desk wrote it."""

    review: ReviewState
    value: bytes


class Claim(Struct, frozen=True):
    """A lease on an item."""

    item: str
    person: str
    until_ms: int


class Taken(Struct, frozen=True):
    """An item and the lease on it."""

    item: OpenItem
    claim: Claim


class QueueCount(Struct, frozen=True):
    """How full a queue is: items, when the oldest was opened, and the money that waits, by currency."""

    queue: str
    open: int
    oldest_ms: int
    money: Mapping[str, Decimal]


class ExceptionCount(Struct, frozen=True):
    """How many items of one exception type people are asked about, and when the oldest was opened."""

    kind: str
    open: int
    oldest_ms: int


class Exceptions(Struct, frozen=True):
    """How many wait by type, and what a viewer may decide of what could not be carried out, the most pressing first.

    Nothing else is listed: of what was sent to people before it ran, a list could tell a planted item.
    """

    counts: tuple[ExceptionCount, ...]
    items: tuple[OpenItem, ...]


class StoryRow(Struct, frozen=True):
    """One record of an action's story; `source` is topic/partition/offset."""

    kind: StoryKind
    at_ms: int
    source: str
    value: bytes


class Story(Struct, frozen=True):
    """All that became of one action, in order. `undecided`: people are asked about it; who decides is told no more."""

    tenant: str
    action_id: str
    items: tuple[EndedItem, ...] = ()
    rows: tuple[StoryRow, ...] = ()
    undecided: bool = False


class Hit(Struct, frozen=True):
    """An action that a search found, when the newest record of it was written, and the record that says how it stands.

    That is its newest end or result, else its newest judgement; None: while people are asked, no judgement is told.
    """

    tenant: str
    action_id: str
    at_ms: int
    kind: StoryKind | None = None
    value: bytes = b""


class Dropped(Struct, frozen=True):
    """How much stood in a view that was dropped: items, batches, records of stories."""

    items: int
    lots: int
    records: int


class Search(Struct, frozen=True, kw_only=True):
    """What to look for; what is None is not asked. `reviewer` is one who decided. At most `limit` are found."""

    tenant: str
    action_id: str | None = None
    account: str | None = None
    campaign: str | None = None
    reviewer: str | None = None
    limit: int = STORY_MAX


# --- the store --------------------------------------------------------------------------------------------------------


class Store(Protocol):
    """The view. Every method is one transaction; several consoles may share one store."""

    async def offsets(self) -> dict[Partition, int]:
        """Return the offset of the last record that each partition was read to; one without any is not there."""

    async def apply(self, changes: Sequence[Change], offsets: Mapping[Partition, int], *, as_of_ms: int = 0) -> bool:
        """Take in records in the order of the log, and say how far each partition was read.

        A change at or below a stored offset changes nothing. `as_of_ms`: up to then these partitions were read.
        False: the view was rebuilt since this store asked for `offsets`; ask again, and read from there.
        """

    async def next(
        self, viewer: Viewer, now_ms: int, *, order: Order = "deadline", limit: int = 1, without: Collection[str] = ()
    ) -> tuple[OpenItem, ...]:
        """Return what could be put to a person next, the most pressing first, claiming nothing.

        What they hold themselves is among it; `without` are items that they have put aside.
        """

    async def take(
        self, viewer: Viewer, now_ms: int, *, order: Order = "deadline", without: Collection[str] = ()
    ) -> Taken | None:
        """Claim the next item that nobody holds for a person; None: there is none."""

    async def held(self, person: str, now_ms: int) -> tuple[Claim, ...]:
        """Return the leases of a person that still run."""

    async def item(self, item: str, viewer: Viewer, now_ms: int) -> OpenItem | EndedItem | None:
        """Return one item. None: there is none, or it is not for this person to see, or somebody else holds it."""

    async def said(self, item: str, person: str) -> tuple[HumanDecision, ...]:
        """Return what a person has said on an item, and what each of it did, oldest first."""

    async def claim(self, item: str, viewer: Viewer, now_ms: int) -> Claim | None:
        """Take an item that nobody holds, or keep one that is held already; None: it is not to be had."""

    async def renew(self, item: str, person: str, now_ms: int) -> Claim | None:
        """Lengthen a lease that still runs; None: it was lost."""

    async def release(self, item: str, person: str) -> None:
        """Give a lease back."""

    async def counts(self, viewer: Viewer) -> tuple[QueueCount, ...]:
        """Return how full each queue is that the viewer may know of."""

    async def lots(self, viewer: Viewer) -> tuple[LotState, ...]:
        """Return the batches of the viewer's queues, the newest first."""

    async def exceptions(self, viewer: Viewer, now_ms: int, limit: int = EXCEPTIONS_MAX) -> Exceptions:
        """Return how many exceptions wait, and those that the viewer may decide, claiming nothing."""

    async def story(self, viewer: Viewer, tenant: str, action_id: str) -> Story:
        """Return all that became of one action; empty where it is unknown, or no tenant of theirs."""

    async def search(self, viewer: Viewer, wanted: Search) -> tuple[Hit, ...]:
        """Return the decided actions that fit, newest first."""

    async def judged_by(self, person: str, since_ms: int, limit: int = JUDGED_MAX) -> tuple[HumanDecision, ...]:
        """Return what somebody has said since then, on items of every purpose, newest first."""

    async def approved(self, viewer: Viewer, before_ms: int, limit: int = APPROVED_MAX) -> tuple[HumanDecision, ...]:
        """Return what people approved before a time, of the viewer's tenants and queues, the newest first."""

    async def stale_ms(self, now_ms: int) -> int | None:
        """Return how far the view is behind, by its slowest partition; None: it has not read anything yet."""

    async def forget(self, before_ms: int, alone_max: int = ALONE_MAX) -> None:
        """Drop the records of stories that were written before a time, as their topics do.

        Of what ended without anybody's word, and was never put to anybody, the newest `alone_max` stay.
        """

    async def rebuild(self) -> Dropped:
        """Drop every row and offset of the view, and keep the claims; return how much that was."""

    async def close(self) -> None:
        """Let go of the database."""
