"""When each switch was EFFECTIVE, read out of control's heartbeats, and whether that was soon enough (I5).

EFFECTIVE(k) is the append time of the first heartbeat that says so, of whichever control role. Heartbeats are kept for
an hour: of a switch older than the oldest of them only the latest time is known by which it was EFFECTIVE.

The bound is `WITHIN_MS`, and `CUT_OFF_MS` where an instance had to be fenced. It does not hold where no proof can be
had and none is needed: while an executor is CONTAINED, and while control is silent, since then nobody's lease holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hitl_stream.core.commands import Heartbeat
from hitl_stream.core.effective import FENCE_AFTER_MS, LEASE_MS
from hitl_stream.core.ledger import Figure
from hitl_stream.core.switches import Switch

WITHIN_MS = 2_000
CUT_OFF_MS = 3_000


class Effect(NamedTuple):
    """A switch on its way: append time, and when it was EFFECTIVE (None: not yet).

    `exact`: the heartbeats around it are known; otherwise `at_ms` is the latest time that it can have been.
    """

    epoch: int
    appended_ms: int
    at_ms: int | None = None
    exact: bool = True
    cut_off: bool = False
    contained: bool = False
    silent: bool = False

    @property
    def took_ms(self) -> int | None:
        """Return how long it took from append to EFFECTIVE, where that is known."""
        return max(0, self.at_ms - self.appended_ms) if self.at_ms is not None and self.exact else None

    def fault(self, now_ms: int) -> str | None:
        """Say whether its bound is broken; `now_ms` is the append time of the newest heartbeat."""
        if not self.exact or self.contained or self.silent:
            return None
        took_ms = self.took_ms
        bound_ms = CUT_OFF_MS if self.cut_off else WITHIN_MS
        if took_ms is not None:
            what = f"switch {self.epoch} was EFFECTIVE {took_ms} ms after its append, expected within {bound_ms} ms"
            return what if took_ms > bound_ms else None
        waited_ms = now_ms - self.appended_ms
        what = f"switch {self.epoch} is not EFFECTIVE {waited_ms} ms after its append, expected within {bound_ms} ms"
        return what if waited_ms > bound_ms else None


class Effects:
    """The fold of heartbeats, in their order. `complete`: none of them was deleted yet."""

    def __init__(self, switches: Iterable[Switch], *, complete: bool = False) -> None:
        self._pending = {switch.epoch: Effect(switch.epoch, switch.at_ms) for switch in switches}
        self._done: dict[int, Effect] = {}
        self._complete = complete
        self._first_ms: int | None = None
        self.newest_ms: int | None = None
        """Append time of the newest heartbeat; None: there was none."""

    def wants(self, at_ms: int) -> bool:
        """Say whether a heartbeat of then could say anything: whether a switch from before is not EFFECTIVE yet."""
        return any(effect.appended_ms <= at_ms for effect in self._pending.values())

    def passed_over(self, at_ms: int) -> None:
        """Say that there was a heartbeat then, which nobody needs."""
        self._first_ms = at_ms if self._first_ms is None else self._first_ms
        self.newest_ms = at_ms

    def heard(self, at_ms: int, heartbeat: Heartbeat) -> None:
        """Take in what control said."""
        before_ms = self.newest_ms
        self.passed_over(at_ms)
        cut_off = any(waiting.since_s * 1000 >= FENCE_AFTER_MS for waiting in heartbeat.waiting)
        for epoch, effect in list(self._pending.items()):
            if effect.appended_ms > at_ms and heartbeat.effective < epoch:
                continue
            exact = self._complete or (self._first_ms is not None and self._first_ms < effect.appended_ms)
            silent_since = effect.appended_ms if before_ms is None else max(before_ms, effect.appended_ms)
            effect = effect._replace(
                exact=exact,
                cut_off=effect.cut_off or cut_off,
                contained=effect.contained or bool(heartbeat.contained),
                silent=effect.silent or (exact and at_ms - silent_since > LEASE_MS),
            )
            if heartbeat.effective >= epoch:
                del self._pending[epoch]
                self._done[epoch] = effect._replace(at_ms=at_ms)
            else:
                self._pending[epoch] = effect

    def of(self, epoch: int) -> Effect | None:
        """Return what is known of one switch."""
        return self._done.get(epoch) or self._pending.get(epoch)

    def all(self) -> Iterator[Effect]:
        """Yield what is known of each, oldest first."""
        yield from (found for _, found in sorted({**self._done, **self._pending}.items()))

    def judged(self) -> list[tuple[Effect, str | None]]:
        """Return each switch of which the heartbeats say enough, with what is wrong with it."""
        newest_ms = self.newest_ms
        if newest_ms is None:
            return []
        known = [effect for effect in self.all() if effect.exact and effect.appended_ms <= newest_ms]
        return [(effect, effect.fault(newest_ms)) for effect in known]

    def figure(self) -> Figure | None:
        """Return how long it took; None where that is known of none."""
        return figure_of([took for effect in self.all() if (took := effect.took_ms) is not None])


def figure_of(times_ms: Iterable[int]) -> Figure | None:
    """Return the median, the 99th percentile and the longest of some times; None where there are none.

    >>> figure_of(range(1, 101))
    Figure(count=100, p50_ms=50, p99_ms=99, max_ms=100)
    """
    ordered = sorted(times_ms)
    if not ordered:
        return None
    return Figure(len(ordered), _rank(ordered, 50), _rank(ordered, 99), ordered[-1])


def _rank(ordered: list[int], percent: int) -> int:
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
