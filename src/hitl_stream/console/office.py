"""What stands behind every route: the stores, the control log as it is known here, the key, and the ways into Kafka.

Each part is a small protocol, so that tests need no broker.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from hitl_stream.console.live import Live
from hitl_stream.console.pace import Pace
from hitl_stream.console.pairs import Pairs
from hitl_stream.console.people import Account, Kind, People, Scope
from hitl_stream.console.problems import ProblemError
from hitl_stream.console.seen import Seen
from hitl_stream.console.sign import Signer
from hitl_stream.console.store import Store, Viewer, viewer_of
from hitl_stream.console.watching import Watching
from hitl_stream.core.commands import Command
from hitl_stream.core.control import Control
from hitl_stream.core.policy.compile import Compiled
from hitl_stream.lane.picture import Picture
from hitl_stream.lane.step import Header
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet

RECENT_MAX = 10_000
"""Judgements remembered, so that what was just judged is not handed out again before it has been read back."""
RECENT_MS = 30_000
HELD_MAX = 8
"""Items that one person holds at once: the one on the page, the next three, and as many in another tab."""


class Watched(Protocol):
    """The control log as it is known here."""

    control: Control

    @property
    def audience(self) -> str:
        """Return the cluster's id; empty before it is known."""

    @property
    def effective(self) -> int:
        """Return up to which epoch everything engaged is proved."""

    def now_ms(self) -> int:
        """Return control time."""

    def missing(self) -> str:
        """Say what keeps this from being up to date; an empty string: nothing."""

    def picture(self) -> Picture:
        """Return how switches, control roles and instances stand."""

    def took_ms(self, epoch: int) -> int | None:
        """Return how long a switch took until it was EFFECTIVE, where that was seen."""


class Place(Struct, frozen=True):
    """Where a record was appended, and when by the broker's clock."""

    topic: str
    partition: int
    offset: int
    at_ms: int


class Writer(Protocol):
    """Appends to topics of the table, acknowledged by every replica in sync."""

    async def append(
        self, topic: str, partition: int, value: bytes, *, key: bytes | None = None, headers: Sequence[Header] = ()
    ) -> Place:
        """Return where the record stands.

        Raises `UnreachableError` where nothing was written, `UnknownOutcomeError` where nobody can tell.
        """


class Standing(Struct, frozen=True):
    """A command that was appended to `control`."""

    epoch: int
    at_ms: int


Engage = Callable[[Callable[..., Command]], Awaitable[Standing]]
"""Signs a command with the console's key, and appends it."""


class Page(Struct, frozen=True):
    """Records of `feedback`, each as it was written, and how far each partition was read."""

    rows: tuple[bytes, ...]
    after: Mapping[int, int]
    more: bool


ReadFeedback = Callable[[Mapping[int, int], int], Awaitable[Page]]


class Who(Struct, frozen=True):
    """Who asks, for what they may be asked for, and whether they signed in a moment ago."""

    account: Account
    scopes: frozenset[Scope]
    fresh: bool = False

    def needs(self, role: str) -> None:
        """Refuse who has not this role."""
        if not self.account.has(role):
            raise ProblemError(
                "role", f"{self.account.name} has not the role {role}", todo="Ask an administrator: hitl user role."
            )

    def sees(self, tenant: str) -> bool:
        """Say whether a tenant is one of theirs."""
        return self.account.tenants is None or tenant in self.account.tenants


@dataclass
class Office:
    """The console's parts."""

    store: Store
    people: People
    signer: Signer
    watched: Watched
    policies: Callable[[int], Compiled]
    writer: Writer
    engage: Engage
    read_feedback: ReadFeedback
    pairs: Pairs
    topics: TopicSet
    clock_ms: Callable[[], int]
    """Wall time: leases, sessions and tokens go by it."""
    via_key: SealKey | None = None
    """The seal for what is proposed here; None: nothing can be."""
    tenant: str = ""
    instance: str = "local/console/0"
    live: Live = field(default_factory=Live)
    seen: Seen = field(default_factory=Seen)
    watching: Watching = field(default_factory=Watching)
    pace: Pace = field(default_factory=Pace)
    chance: random.Random = field(default_factory=random.SystemRandom)
    """Draws the items of a quiz, and which of them are spoilt."""
    recent: OrderedDict[tuple[str, str], int] = field(default_factory=OrderedDict)

    def policy(self) -> Compiled:
        """Return the policy in force."""
        return self.policies(self.watched.now_ms() or self.clock_ms())

    def viewer(self, who: Who) -> Viewer:
        """Return what somebody may see. Who only looks sees no queue that is external."""
        account = who.account
        return viewer_of(account.name, account.tenants, account.queue_roles, self.policy().policy)

    def ready(self) -> None:
        """Refuse while nothing that is signed here would be believed."""
        missing = self.watched.missing()
        if missing or not self.watched.audience:
            raise ProblemError(
                "unavailable",
                f"the console cannot sign now: {missing or 'the cluster is not known yet'}",
                todo="Try again in a moment; nothing was written.",
            )

    # --- what was judged a moment ago ---

    def remember(self, person: str, subject: str) -> None:
        """Note that a person has just judged this."""
        self.recent[person, subject] = self.clock_ms()
        self.recent.move_to_end((person, subject))
        while len(self.recent) > RECENT_MAX:
            self.recent.popitem(last=False)

    def just_judged(self, person: str) -> list[str]:
        """Return what a person has judged so lately that it may not have been read back."""
        since_ms = self.clock_ms() - RECENT_MS
        return [subject for (one, subject), at_ms in self.recent.items() if one == person and at_ms >= since_ms]


def is_service(who: Who) -> bool:
    """Say whether a program asks."""
    return who.account.kind is Kind.SERVICE


def plain(value: Any) -> Any:
    """Return what a problem may repeat of a request: short."""
    return str(value)[:100]
