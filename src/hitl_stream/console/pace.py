"""For how long somebody has reviewed without a break; when one is suggested, and when nothing is given for a while.

Rules (row 8 of vigilance.md):
- After 20 minutes or 35 items a break is suggested; a little later, nothing new is given to this person until they have
  done nothing for five minutes. Whoever must go on says so, and is given some more.
- It is kept in memory, per person: a console that was restarted counts anew, and several count for themselves.
- It goes by how many items somebody has judged and when, whatever they were.
"""

from __future__ import annotations

from collections import OrderedDict

from msgspec import Struct
from msgspec.structs import replace

from hitl_stream.core.vigilance import BREAK_AFTER_ITEMS, BREAK_AFTER_MS, GAP_MS, Watch, needs_break

GRACE_ITEMS, GRACE_MS = 5, 5 * 60_000
"""After a break was suggested, so much is still given."""
MORE_ITEMS, MORE_MS = 10, 10 * 60_000
"""And so much to whoever goes on without one."""
PEOPLE_MAX = 10_000


class Spell(Struct, frozen=True):
    """A stretch of reviewing without a break, and how much was given beyond what is good."""

    began_ms: int
    last_ms: int
    items: int = 1
    more_items: int = GRACE_ITEMS
    more_ms: int = GRACE_MS


class Rest(Struct, frozen=True):
    """A break that is due. `paused`: nothing new is given before `until_ms`."""

    began_ms: int
    items: int
    paused: bool
    until_ms: int


class Pace:
    """The spells of everybody who reviews here."""

    def __init__(self) -> None:
        self._spells: OrderedDict[str, Spell] = OrderedDict()

    def judged(self, person: str, painted_ms: int, now_ms: int) -> None:
        """Note that somebody has judged an item, which was shown to them at `painted_ms`."""
        found = self._spells.pop(person, None)
        if found is None or now_ms - found.last_ms >= GAP_MS:
            self._spells[person] = Spell(max(painted_ms, now_ms - GAP_MS), now_ms)
        else:
            self._spells[person] = replace(found, last_ms=now_ms, items=found.items + 1)
        while len(self._spells) > PEOPLE_MAX:
            self._spells.popitem(last=False)

    def rest(self, person: str, now_ms: int) -> Rest | None:
        """Return the break that somebody should have now; None: they need none."""
        found = self._spells.get(person)
        if found is None or now_ms - found.last_ms >= GAP_MS or not _is_due(found):
            return None
        over = found.items >= BREAK_AFTER_ITEMS + found.more_items
        late = found.last_ms - found.began_ms >= BREAK_AFTER_MS + found.more_ms
        return Rest(found.began_ms, found.items, over or late, found.last_ms + GAP_MS)

    def go_on(self, person: str, now_ms: int) -> bool:
        """Give somebody some more who goes on without a break; False: none was due."""
        due, found = self.rest(person, now_ms), self._spells.get(person)
        if due is None or found is None:
            return False
        items, spent_ms = found.items - BREAK_AFTER_ITEMS, found.last_ms - found.began_ms - BREAK_AFTER_MS
        more = replace(found, more_items=max(items, 0) + MORE_ITEMS, more_ms=max(spent_ms, 0) + MORE_MS)
        self._spells[person] = more
        return True


def _is_due(spell: Spell) -> bool:
    return needs_break(Watch(items=spell.items, began_ms=spell.began_ms, last_ms=spell.last_ms))
