"""Saying the same thing many times: the first of a burst at once, then every so often how many there were."""

from __future__ import annotations

from msgspec import Struct

EVERY_S = 10.0
"""A burst ends when nothing of its kind has happened for so long."""
KINDS_MAX = 100
"""Kinds are words in our code. Should there be more all the same, the later ones are said each time."""


class _Burst(Struct):
    said_s: float
    untold: int = 0


class Bursts:
    """What was said of each kind, and when. Times are seconds of any clock that only rises."""

    def __init__(self) -> None:
        self._bursts: dict[str, _Burst] = {}

    def count(self, kind: str, now_s: float) -> int:
        """Count one of a kind; return how many are to be told of now: 1 for the first, 0 for those that wait."""
        burst = self._bursts.get(kind)
        if burst is None:
            if len(self._bursts) < KINDS_MAX:
                self._bursts[kind] = _Burst(now_s)
            return 1
        burst.untold += 1
        return self._told(burst, now_s)

    def due(self, now_s: float) -> list[tuple[str, int]]:
        """Return the kinds of which something waits to be told, and for long enough, with how many."""
        return [(kind, told) for kind, burst in self._bursts.items() if (told := self._told(burst, now_s))]

    def _told(self, burst: _Burst, now_s: float) -> int:
        if not burst.untold or now_s < burst.said_s + EVERY_S:
            return 0
        told, burst.untold, burst.said_s = burst.untold, 0, now_s
        return told
