"""What people are told of who are not looking: one message for many items, and at once where something was stopped.

Three kinds of message, each with a pace of its own, so that a bad day is a few messages and never one for each item:

| kind | of what | at most |
|---|---|---|
| waiting | items past half of their time, by queue, and expired ones | one in `every_ms` |
| switches | engaged, EFFECTIVE, released | one a minute |
| pages | what the monitor wakes somebody for | one a minute |

Nothing of it says a name. A message is composed first and counts as sent only when `Notes.sent` is told so: until then
everything in it stays, and comes with the next one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from hitl_stream.core.switches import Switch

MINUTE_MS = 60_000
LINES_MAX = 20
"""In one message; what is more is counted."""
ITEMS_MAX = 200_000
"""Open items remembered: 60 MB. Of more, those that came later are not spoken of until others are decided."""
TEXT_MAX = 200
"""Of a reason, which a person typed."""


class Kind(StrEnum):
    """What a message is about."""

    WAITING = "waiting"
    SWITCHES = "switches"
    PAGES = "pages"


class Item(Struct, frozen=True):
    """An open item: where it waits, since when, and when half of its time has passed."""

    queue: str
    opened_ms: int
    half_ms: int


class Message(Struct, frozen=True):
    """What is sent, and about what; `until_ms`: when it was composed."""

    kind: Kind
    title: str
    body: str
    until_ms: int


class Notes:
    """What was seen and not said yet. Times are milliseconds since 1970, from whoever calls.

    `told_ms` is when the last message about what waits was composed, `effective` the newest switch of which everybody
    has been told that it is EFFECTIVE: the two things that must outlast a restart.
    """

    def __init__(self, every_ms: int, told_ms: int = 0, effective: int = -1) -> None:
        self.told_ms = told_ms
        self.effective = effective
        self._every_ms = every_ms
        self._items: dict[str, Item] = {}
        self._expired: Counter[str] = Counter()
        self._lines: dict[Kind, list[str]] = {Kind.SWITCHES: [], Kind.PAGES: []}
        self._proved = effective
        self._last_ms: dict[Kind, int] = {}

    # --- what is seen -------------------------------------------------------------------------------------------------

    def opened(self, name: str, item: Item) -> None:
        """Take in an open item as it is now. One that waits in the same queue has not become younger."""
        known = self._items.get(name)
        if known is None and len(self._items) >= ITEMS_MAX:
            return
        if known is not None and known.queue == item.queue:
            item = Item(item.queue, min(known.opened_ms, item.opened_ms), min(known.half_ms, item.half_ms))
        self._items[name] = item

    def ended(self, name: str, queue: str, *, expired: bool) -> None:
        """Take in that an item waits no longer, and whether time ran out that nobody was told of."""
        self._items.pop(name, None)
        self._expired[queue] += expired

    def engaged(self, switch: Switch) -> None:
        """Take in a switch that was engaged."""
        why = f": {_short(switch.reason)}" if switch.reason else ""
        self._lines[Kind.SWITCHES].append(f"{_named(switch)} engaged{why}")

    def released(self, switch: Switch) -> None:
        """Take in that one was released."""
        self._lines[Kind.SWITCHES].append(f"{_named(switch)} released")

    def proved(self, switch: Switch, after_ms: int) -> None:
        """Take in that one is EFFECTIVE, so long after its append; said once, the older ones first."""
        if switch.epoch > self._proved:
            self._proved = switch.epoch
            self._lines[Kind.SWITCHES].append(f"{_named(switch)} EFFECTIVE after {after_ms / 1000:.1f} s")

    def paged(self, page: str, queue: str, row: int) -> None:
        """Take in that the monitor would wake somebody."""
        self._lines[Kind.PAGES].append(f"{queue}: {page} (row {row}); runbook: hitl-{page.replace('_', '-')}")

    # --- what is said -------------------------------------------------------------------------------------------------

    def due(self, now_ms: int) -> Iterator[Message]:
        """Yield what must be said now, the urgent first; what is not due yet is kept."""
        for kind, title in ((Kind.SWITCHES, "hitl: kill switches"), (Kind.PAGES, "hitl: the monitor wakes somebody")):
            if self._lines[kind] and now_ms - self._last_ms.get(kind, -MINUTE_MS) >= MINUTE_MS:
                yield Message(kind, title, _listed(self._lines[kind]), now_ms)
        if now_ms - self.told_ms >= self._every_ms and (lines := list(self._waiting(now_ms))):
            yield Message(Kind.WAITING, "hitl: items wait for people", _listed(lines), now_ms)

    def sent(self, message: Message) -> None:
        """Take in that a message has reached its target: what was in it is not said again."""
        self._last_ms[message.kind] = message.until_ms
        if message.kind == Kind.WAITING:
            self.told_ms = message.until_ms
            self._expired.clear()
        else:
            self._lines[message.kind].clear()
        if message.kind == Kind.SWITCHES:
            self.effective = self._proved

    def quiet(self, kind: Kind) -> bool:
        """Say whether nothing that was read of this kind is still to be said."""
        return not self._expired.total() if kind == Kind.WAITING else not self._lines[kind]

    def _waiting(self, now_ms: int) -> Iterator[str]:
        """Yield a line for each queue with anything new: what lapsed or expired since the last message."""
        late, oldest_ms, new = Counter[str](), dict[str, int](), set[str](+self._expired)
        for item in self._items.values():
            if item.half_ms > now_ms:
                continue
            late[item.queue] += 1
            oldest_ms[item.queue] = min(oldest_ms.get(item.queue, item.opened_ms), item.opened_ms)
            if item.half_ms > self.told_ms:
                new.add(item.queue)
        for queue in sorted(new):
            parts = [f"{_number(late[queue])} past half of their time"] if late[queue] else []
            parts += [f"{self._expired[queue]:,} expired"] if self._expired[queue] else []
            oldest = f"; oldest {_age(now_ms - oldest_ms[queue])}" if queue in oldest_ms else ""
            yield f"{queue}: {', '.join(parts)}{oldest}"


def _listed(lines: list[str]) -> str:
    more = len(lines) - LINES_MAX
    return "\n".join([*lines[:LINES_MAX], *([f"and {more:,} more"] if more > 0 else [])])


def _named(switch: Switch) -> str:
    return f"switch {switch.epoch}, {switch.mode.value} {' '.join(switch.scope)}"


def _number(n: int) -> str:
    return f"{n:,} item" if n == 1 else f"{n:,} items"


def _short(text: str) -> str:
    return text if len(text) <= TEXT_MAX else f"{text[: TEXT_MAX - 1]}…"


def _age(ms: int) -> str:
    """Return an age in its largest whole unit.

    >>> _age(59_000), _age(7_200_000), _age(2 * 86_400_000)
    ('0 min', '2 h', '2 d')
    """
    minutes = max(0, ms) // MINUTE_MS
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1_440} d"
