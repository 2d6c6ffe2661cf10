"""Whether what was decided, committed and called obeyed what control said: its policies (I3) and its switches (I4).

A switch k, and what was decided at epoch e in its scope, against its mode:

| | then |
|---|---|
| k <= e, and k was engaged at e | it must not have been decided so at all |
| k > e | it must not be committed, or called, once k is EFFECTIVE, released since or not: whoever could, answered |
| k > e, after the append of k, not EFFECTIVE yet | *offending*: counted, with how late it was |

What was decided at an epoch that was not folded here yet is left to the next time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hitl_stream.core.action import Action, Value
from hitl_stream.core.effects import Effect, figure_of
from hitl_stream.core.events import Mode
from hitl_stream.core.ledger import Figure
from hitl_stream.core.switches import Switch, Switches, Target, reduces

COMMIT_MS_MAX = 60_000
"""Between append and commit: a transaction ends, or is ended, within 20 s, and brokers' clocks differ."""
UNRECORDED_MAX = 20
"""Digests remembered of policies that nothing records."""
OFFENDING_MAX = 1_000_000
"""Times kept of what was offending."""


def forbids(switch: Switch, machine: bool, action: Action, present: Sequence[Value | None] | None = None) -> bool:
    """Say whether a switch speaks against an action in its scope. `machine`: nobody approved it.

    `present` is what stood on the platform, change by change; without it the agent is believed, as the router does.
    """
    match switch.mode:
        case Mode.HALT:
            return True
        case Mode.REVIEW_ALL:
            return machine
        case Mode.REDUCE_ONLY:
            return not reduces(action, present)


class Decided(NamedTuple):
    """What is found of an execute record: a fault, and the switches for which the time of its commit counts."""

    fault: str | None
    waits: tuple[int, ...] = ()


class Obeyed:
    """Compares what left with the switches that `control` held when it was folded to `epoch`."""

    def __init__(self, switches: Switches, epoch: int, effect_of: Callable[[int], Effect | None]) -> None:
        self._switches = switches
        self._epoch = epoch
        self._effect_of = effect_of
        self._commits_ms = array("q")
        self._calls_ms = array("q")
        self.unsure = 0
        """What left after a switch that was EFFECTIVE by then or later: the heartbeats that would tell are gone."""

    def decided(self, epoch: int, target: Target, action: Action, machine: bool, append_ms: int) -> Decided:
        """Judge an execute record that was decided at `epoch` and appended at `append_ms`."""
        waits: list[int] = []
        fault = None
        for switch in self._against(epoch, target, action, machine):
            if switch.epoch <= epoch:
                fault = fault or (
                    f"decided at epoch {epoch}, under switch {switch.epoch} "
                    f"({switch.mode} for {' '.join(switch.scope) or 'everything'})"
                )
            elif append_ms >= switch.at_ms - COMMIT_MS_MAX:
                waits.append(switch.epoch)
        return Decided(fault, tuple(waits))

    def committed(self, waits: Sequence[int], commit_ms: int) -> str | None:
        """Judge by when that execute record was committed."""
        return self._judge("committed", waits, commit_ms, self._commits_ms)

    def called(
        self,
        epoch: int,
        target: Target,
        action: Action,
        machine: bool,
        called_ms: int,
        present: Sequence[Value | None] | None,
    ) -> str | None:
        """Judge a platform call that began at `called_ms`, for a decision of `epoch`."""
        against = self._against(epoch, target, action, machine, present)
        later = [switch.epoch for switch in against if switch.epoch > epoch]
        return self._judge("called", later, called_ms, self._calls_ms)

    def figures(self) -> dict[str, Figure]:
        """Return how late offending commits and calls were."""
        found = {"offending_commits": figure_of(self._commits_ms), "offending_calls": figure_of(self._calls_ms)}
        return {name: figure for name, figure in found.items() if figure is not None}

    def _against(
        self,
        epoch: int,
        target: Target,
        action: Action,
        machine: bool,
        present: Sequence[Value | None] | None = None,
    ) -> list[Switch]:
        """Return the switches that spoke against a decision of `epoch`, then or since."""
        if not self._switches.all or epoch > self._epoch:
            return []
        covering = self._switches.blocking(target, -1)
        return [
            switch
            for switch in covering
            if (switch.epoch > epoch or switch.released is None or switch.released > epoch)
            and forbids(switch, machine, action, present)
        ]

    def _judge(self, what: str, epochs: Sequence[int], at_ms: int, late: array[int]) -> str | None:
        fault = None
        for epoch in epochs:
            switch, effect = self._switches.all[epoch], self._effect_of(epoch)
            if at_ms <= switch.at_ms:
                continue
            if len(late) < OFFENDING_MAX:
                late.append(at_ms - switch.at_ms)
            if effect is None or effect.at_ms is None:
                continue
            after_ms = at_ms - effect.at_ms
            if after_ms > 0:
                fault = fault or f"{what} {after_ms} ms after switch {epoch} ({switch.mode}) was EFFECTIVE"
            elif not effect.exact:
                self.unsure += 1
        return fault


class Recorded:
    """The policies that something records: those that control promoted, by epoch, and the file in force before them.

    A file leaves no trace when it is changed: digests of other files are counted, not judged.
    """

    def __init__(self, promoted: Sequence[tuple[int, str]] = (), file: str | None = None) -> None:
        self._epochs = [epoch for epoch, _ in promoted]
        self._digests = [digest for _, digest in promoted]
        self._file = file
        self.unrecorded: Counter[str] = Counter()

    def fault(self, policy: str, epoch: int) -> str | None:
        """Say what is wrong with a decision of `epoch` under a policy."""
        count = bisect_right(self._epochs, epoch)
        if count:
            if policy in self._digests[:count]:
                return None
            return f"decided at epoch {epoch} under the policy {policy:.12}…, which control had not promoted by then"
        if policy != self._file and (policy in self.unrecorded or len(self.unrecorded) < UNRECORDED_MAX):
            self.unrecorded[policy] += 1
        return None
