"""What another policy would change: the same actions decided under two, as queues' sizes and classes' routes.

An action that a policy sends to several queues counts in each of them. One that goes the same way and asks other queues
counts as moved, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

MOVERS_MAX = 10


class Answer(Struct, frozen=True):
    """What a policy makes of one action: its class, where it goes, and which queues are asked."""

    cls: str
    route: str
    queues: tuple[str, ...] = ()


class QueueRow(Struct, frozen=True):
    """How many items a queue gets under each policy."""

    queue: str
    before: int
    after: int

    @property
    def change(self) -> int:
        """Return how many more (or, negative, fewer) it gets."""
        return self.after - self.before


class RouteRow(Struct, frozen=True):
    """How many actions of a class take a route under each policy."""

    cls: str
    route: str
    before: int
    after: int


class Mover(Struct, frozen=True):
    """So many actions of a class that would go another way."""

    cls: str
    before: str
    after: str
    count: int


class Preview(Struct, frozen=True):
    """What changes. `moved` of `actions` would go another way or ask other queues."""

    actions: int
    moved: int
    queues: tuple[QueueRow, ...]
    routes: tuple[RouteRow, ...]
    movers: tuple[Mover, ...]


class Compared:
    """Counts pairs of answers, without keeping them."""

    def __init__(self) -> None:
        self.actions = 0
        self._queues: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._routes: tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]] = (Counter(), Counter())
        self._moved: Counter[tuple[str, str, str]] = Counter()

    def add(self, before: Answer, after: Answer) -> None:
        """Count one action."""
        self.actions += 1
        for side, answer in enumerate((before, after)):
            self._queues[side].update(set(answer.queues))
            self._routes[side][answer.cls, answer.route] += 1
        said = (_said(before), _said(after))
        if said[0] != said[1]:
            self._moved[after.cls, *said] += 1

    def preview(self, queues: Sequence[str] = ()) -> Preview:
        """Return what was counted; `queues` are shown even where nothing comes to them."""
        old, new = self._queues
        names = sorted({*queues, *old, *new})
        rows = [QueueRow(name, old[name], new[name]) for name in names]
        before, after = self._routes
        routes = [RouteRow(*key, before[key], after[key]) for key in sorted({*before, *after})]
        movers = sorted(self._moved.items(), key=lambda each: (-each[1], each[0]))[:MOVERS_MAX]
        return Preview(
            self.actions,
            self._moved.total(),
            tuple(sorted(rows, key=lambda row: (-abs(row.change), row.queue))),
            tuple(routes),
            tuple(Mover(*key, count) for key, count in movers),
        )


def _said(answer: Answer) -> str:
    return answer.route if not answer.queues else f"{answer.route} → {', '.join(sorted(set(answer.queues)))}"
