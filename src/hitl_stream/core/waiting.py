"""How long people let things wait, how long they take, and how much money waits for them now: by queue and class.

Wait is from routing to when a person saw the item, handling from there to the judgement. An item that several people
had to judge is counted with each judgement. A percentile is the nearest rank, so that each is a time that occurred.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal

from msgspec import Struct

from hitl_stream.core.quantity import EXACT


class Judged(Struct, frozen=True):
    """One judgement of one item."""

    queue: str
    cls: str
    wait_ms: int
    handling_ms: int


class Open(Struct, frozen=True):
    """One item that waits. `money` None: it has no amount that can be compared."""

    queue: str
    cls: str
    since_ms: int
    money: Decimal | None = None


class Spread(Struct, frozen=True):
    """Half of all took at most `p50`, and 95 in 100 at most `p95`, in milliseconds."""

    p50: int
    p95: int


class WaitingRow(Struct, frozen=True, kw_only=True):
    """One class in one queue. What nobody judged has no wait and no handling; where nothing is open there is no age."""

    queue: str
    cls: str
    judged: int
    wait: Spread | None
    handling: Spread | None
    open: int
    age: Spread | None
    oldest_ms: int | None
    money: Decimal
    unpriced: int


def waiting(judged: Iterable[Judged], open_: Iterable[Open], now_ms: int) -> tuple[WaitingRow, ...]:
    """Return a row for each queue and class, in order of names."""
    done: dict[tuple[str, str], list[Judged]] = {}
    left: dict[tuple[str, str], list[Open]] = {}
    for judgement in judged:
        done.setdefault((judgement.queue, judgement.cls), []).append(judgement)
    for item in open_:
        left.setdefault((item.queue, item.cls), []).append(item)
    return tuple(_row(key, done.get(key, ()), left.get(key, ()), now_ms) for key in sorted({*done, *left}))


def quantile(values: Sequence[int], share: float) -> int:
    """Return the smallest of `values` that at least `share` of them do not exceed; `values` are not empty.

    >>> quantile([3, 1, 2, 4], 0.5), quantile([3, 1, 2, 4], 0.95)
    (2, 4)
    """
    return sorted(values)[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def spread(values: Sequence[int]) -> Spread | None:
    """Return p50 and p95; None of nothing."""
    return Spread(quantile(values, 0.50), quantile(values, 0.95)) if values else None


def _row(key: tuple[str, str], done: Sequence[Judged], left: Sequence[Open], now_ms: int) -> WaitingRow:
    ages = [max(0, now_ms - item.since_ms) for item in left]
    money = Decimal(0)
    for item in left:
        money = money if item.money is None else EXACT.add(money, item.money)
    return WaitingRow(
        queue=key[0],
        cls=key[1],
        judged=len(done),
        wait=spread([one.wait_ms for one in done]),
        handling=spread([one.handling_ms for one in done]),
        open=len(left),
        age=spread(ages),
        oldest_ms=max(ages, default=None),
        money=money,
        unpriced=sum(item.money is None for item in left),
    )
