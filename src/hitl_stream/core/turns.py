"""Whose turn it is: what touches the same entity goes one after another, everything else at the same time."""

from __future__ import annotations

from collections.abc import Iterable

from hitl_stream.core.parking import Keys


class Turns:
    """Numbered things under way, in the order in which they came; conflicts are those of `core.parking`.

    >>> turns = Turns()
    >>> one, all_ = frozenset({("acme", "acc", "cmp")}), frozenset({("acme", "acc", None)})
    >>> turns.add(1, one), turns.add(2, all_), turns.add(3, one)
    (True, False, False)
    >>> turns.done(1), turns.done(2)
    ([2], [3])
    """

    def __init__(self) -> None:
        self._keys: dict[int, Keys] = {}
        self._ahead: dict[int, set[int]] = {}
        """Who waits, and for whom."""
        self._behind: dict[int, list[int]] = {}
        self._lines: dict[tuple[str, str], dict[str | None, set[int]]] = {}

    def add(self, number: int, keys: Keys) -> bool:
        """Take in a thing; return whether it is its turn at once."""
        ahead = set(self._conflicting(keys))
        self._keys[number] = keys
        for tenant, place, campaign in keys:
            self._lines.setdefault((tenant, place), {}).setdefault(campaign, set()).add(number)
        if ahead:
            self._ahead[number] = ahead
            for one in ahead:
                self._behind.setdefault(one, []).append(number)
        return not ahead

    def done(self, number: int) -> list[int]:
        """Take out a thing; return whose turn it is now."""
        for tenant, place, campaign in self._keys.pop(number, ()):
            lines = self._lines[tenant, place]
            lines[campaign].discard(number)
            if not lines[campaign]:
                del lines[campaign]
                if not lines:
                    del self._lines[tenant, place]
        freed = []
        for one in self._behind.pop(number, ()):
            self._ahead[one].discard(number)
            if not self._ahead[one]:
                del self._ahead[one]
                freed.append(one)
        return freed

    def _conflicting(self, keys: Keys) -> Iterable[int]:
        for tenant, place, campaign in keys:
            lines = self._lines.get((tenant, place), {})
            for wanted in lines if campaign is None else (campaign, None):
                yield from lines.get(wanted, ())
