"""What `hitl demo` saw people do: what they said and what came of it, what is open still, how they work, who sleeps.

Pure, like `tally`, of which it is a part: records in, numbers out. The records of desk and monitor are believed: nobody
else writes to their topics in a demo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct, structs

from hitl_stream.core.events import Purpose
from hitl_stream.core.review import ENDS, State
from hitl_stream.core.vigilance import Page
from hitl_stream.wire.desk_records import is_lot

WORDS: Final = ("approve", "reject", "change", "escalate", "release")
"""What people say; the last one is of a whole batch."""
COUNTS: Final = frozenset({"applied", "waiting"})
"""Effects of a judgement that does something."""
PEOPLE_MAX = 1_000
"""People who are told apart; the demo's policy has seven roles."""


class _Item(Struct):
    item: str
    state: str
    queue: str
    opened: str


class _Judgement(Struct):
    verdict: str
    effect: str
    why: str | None = None


class _Look(Struct):
    reviewer: str
    dwell_s: float
    floor_s: float
    item: str = ""
    purpose: str = Purpose.DECIDE.value
    caught: bool | None = None


class Alarm(Struct, frozen=True):
    """What the monitor says of somebody in a queue. `page`: what a person would be woken for; None: nobody is.

    `person` is a pseudonym, None where it is of the whole queue; a demo knows its own people, and says their names.
    """

    queue: str
    row: int
    level: int
    person: str | None = None
    page: str | None = None
    figures: dict[str, float] = {}
    ended: bool = False


_decode_item = msgspec.json.Decoder(_Item).decode
_decode_judgement = msgspec.json.Decoder(_Judgement).decode
_decode_look = msgspec.json.Decoder(_Look).decode
_decode_alarm = msgspec.json.Decoder(Alarm).decode


class Pace(Struct):
    """How somebody works: items judged, and seconds that they were looked at and that reading them takes at least."""

    items: int = 0
    dwell_s: float = 0.0
    floor_s: float = 0.0
    canaries: int = 0
    """Planted errors that they judged, and how many of them they objected to."""
    caught: int = 0

    @property
    def dwell_mean_s(self) -> float:
        """Return how long an item was looked at, on average."""
        return self.dwell_s / self.items if self.items else 0.0

    @property
    def floor_mean_s(self) -> float:
        """Return how long reading one takes at least, on average."""
        return self.floor_s / self.items if self.items else 0.0

    @property
    def looks(self) -> bool:
        """Say whether the time would do for reading."""
        return self.dwell_s >= self.floor_s


class Waiting(Struct, frozen=True):
    """A queue: how many items are open in it, and since when the oldest one (milliseconds since 1970)."""

    items: int
    since_ms: int


class People:
    """Everything counted so far."""

    def __init__(self) -> None:
        self.said = 0
        """Verdicts that were appended."""
        self.heard = 0
        """Those that the desk has answered, unreadable ones too."""
        self.words: Counter[str] = Counter()
        """What counted, by word; two people who approve one item are two."""
        self.effects: Counter[str] = Counter()
        """All answers of the desk: applied, waiting, conflict, late, refused."""
        self.refusals: Counter[str] = Counter()
        """Why verdicts were refused, such as too_fast."""
        self.approved = 0
        """Decisions that people released to run."""
        self.executed = 0
        """Those of them that the platform has executed."""
        self.proposed = 0
        """Actions that people have put in the place of others."""
        self.paces: dict[str, Pace] = {}
        self.names: Mapping[str, str] = {}
        """Pseudonym → name of those whom whoever runs a demo has put there."""
        self.alarms: dict[tuple[str, str], Alarm] = {}
        """By person and queue, the newest one that pages somebody, or else the newest; with the newest level."""
        self._open: dict[str, dict[str, int]] = {}
        """Queue → item → since when, of what waits for a person."""
        self._places: dict[str, str] = {}
        self._in_batches: set[str] = set()
        self._takes: dict[str, Callable[[bytes | None, bytes], None]] = {
            "reviews": self._item,
            "verdicts": self._verdict,
            "decisions": self._judgement,
            "observations": self._look,
            "alerts": self._alarm,
        }

    @property
    def topics(self) -> tuple[str, ...]:
        """Return the topics that are counted here."""
        return tuple(self._takes)

    @property
    def unheard(self) -> int:
        """Return how many verdicts the desk has not answered yet."""
        return max(0, self.said - self.heard)

    @property
    def open(self) -> int:
        """Return how many items wait for a person."""
        return len(self._places)

    @property
    def in_batches(self) -> int:
        """Return how many items wait for the rest, or the release, of their batch."""
        return len(self._in_batches)

    def queues(self) -> dict[str, Waiting]:
        """Return the queues in which anything is open, the fullest first."""
        found = {name: Waiting(len(items), min(items.values())) for name, items in self._open.items() if items}
        return dict(sorted(found.items(), key=lambda row: (-row[1].items, row[0])))

    @property
    def canaries(self) -> int:
        """Return how many planted errors were judged."""
        return sum(pace.canaries for pace in self.paces.values())

    @property
    def caught(self) -> int:
        """Return how many of them people objected to."""
        return sum(pace.caught for pace in self.paces.values())

    def stamps(self) -> dict[str, Alarm]:
        """Return who rubber-stamps, by name, the first to be found first; whose name is not known, by pseudonym."""
        found = ((person, alarm) for (person, _), alarm in self.alarms.items() if alarm.page == Page.RUBBER_STAMP)
        return {self.names.get(person, person): alarm for person, alarm in found}

    def take(self, topic: str, key: bytes | None, value: bytes | None) -> None:
        """Count one record of one of `topics`."""
        self._takes[topic](key, value or b"")

    def _item(self, key: bytes | None, value: bytes) -> None:
        if key is None or is_lot(key):
            return
        name = key.decode("utf-8", "replace")
        self._leave(name)
        if not value:
            return
        item = _decode_item(value)
        if item.state in ENDS:
            return
        if item.state == State.OPEN:
            self._places[name] = item.queue
            self._open.setdefault(item.queue, {})[name] = round(datetime.fromisoformat(item.opened).timestamp() * 1_000)
        else:
            self._in_batches.add(name)

    def _leave(self, name: str) -> None:
        self._in_batches.discard(name)
        queue = self._places.pop(name, None)
        if queue is not None:
            del self._open[queue][name]

    def _verdict(self, key: bytes | None, value: bytes) -> None:
        self.said += 1

    def _judgement(self, key: bytes | None, value: bytes) -> None:
        judgement = _decode_judgement(value)
        self.heard += 1
        self.effects[judgement.effect] += 1
        if judgement.effect in COUNTS:
            self.words[judgement.verdict] += 1
        elif judgement.effect == "refused":
            self.refusals[judgement.why or "?"] += 1

    def _look(self, key: bytes | None, value: bytes) -> None:
        look = _decode_look(value)
        if not look.item:
            return  # a quiz is no look at anything
        if look.reviewer not in self.paces and len(self.paces) >= PEOPLE_MAX:
            return
        pace = self.paces.setdefault(look.reviewer, Pace())
        pace.items += 1
        pace.dwell_s += look.dwell_s
        pace.floor_s += look.floor_s
        if look.purpose == Purpose.CANARY and look.caught is not None:
            pace.canaries += 1
            pace.caught += look.caught

    def _alarm(self, key: bytes | None, value: bytes) -> None:
        alarm = _decode_alarm(value)
        if not alarm.person:
            return
        at = alarm.person, alarm.queue
        if alarm.ended:
            self.alarms.pop(at, None)
            return
        known = self.alarms.get(at)
        is_paged = known is not None and known.page is not None and alarm.page is None
        self.alarms[at] = structs.replace(known, level=alarm.level) if known is not None and is_paged else alarm
