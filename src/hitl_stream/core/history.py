"""One action measured against the recent past, and the past extended by it.

`recall` sees only the action and the window, never a decision: a replay of the log calls it too, and gets the same.
"""

from __future__ import annotations

from msgspec import Struct

from hitl_stream.core.action import Action
from hitl_stream.core.quantity import Leg, UndefinedError, measure
from hitl_stream.core.window import Draft


class History(Struct, frozen=True, gc=False):
    """What an action does to its entities, seen beside what was done before.

    `ratio` is the signed relative change of the largest leg. `z` is its robust z-score among the agent's own actions of
    this type, None where too few are known. `totals` are (absolute, signed) sums by (window, leg), `largest_sum` the
    largest absolute one. `delta` is |after − before| of a single leg, in its own unit, and −1 where there are several
    or one without a size.
    """

    legs: tuple[Leg, ...] = ()
    ratio: float = 0.0
    z: float | None = None
    totals: tuple[tuple[int, float, float], ...] = ()
    undefined: str | None = None
    crowded: bool = False
    delta: float = -1.0
    largest_sum: float = 0.0


NOTHING = History()
NO_TOTALS: tuple[tuple[int, float, float], ...] = ()


def recall(action: Action, tenant: str, draft: Draft) -> History:
    """Measure an action and add it to the draft: its size to what is normal, its legs to the running sums."""
    changes = action.changes
    if not changes:
        return NOTHING
    if len(changes) > 1 or len(draft.sums) > 1:
        return _recall_all(action, tenant, draft)
    change = changes[0]
    try:
        leg = measure(change)
    except UndefinedError as error:
        return History(undefined=str(error))
    delta, ratio = leg.delta, leg.ratio
    if delta < 0.0:
        delta = -delta
    z = draft.deviation((tenant, action.agent.id, action.type), ratio)
    if not draft.sums:
        return History((leg,), ratio, z, NO_TOTALS, None, False, delta, 0.0)
    entity = change.entity
    total = draft.add(0, (tenant, entity.account, entity.campaign, change.field), ratio)
    if total is None:
        return History((leg,), ratio, z, NO_TOTALS, None, True, delta, 0.0)
    absolute, signed = total
    return History((leg,), ratio, z, ((0, absolute, signed),), None, False, delta, absolute)


def _recall_all(action: Action, tenant: str, draft: Draft) -> History:
    legs: list[Leg] = []
    totals: list[tuple[int, float, float]] = []
    undefined: str | None = None
    crowded = False
    largest = 0.0
    for change in action.changes:
        try:
            leg = measure(change)
        except UndefinedError as error:
            undefined = str(error)
            continue
        legs.append(leg)
        if abs(leg.ratio) > abs(largest):
            largest = leg.ratio
        entity = (tenant, change.entity.account, change.entity.campaign, change.field)
        for which in range(len(draft.sums)):
            total = draft.add(which, entity, leg.ratio)
            if total is None:
                crowded = True
            else:
                totals.append((which, *total))
    z = draft.deviation((tenant, action.agent.id, action.type), largest) if legs else None
    largest_sum = max((total[1] for total in totals), default=0.0)
    return History(tuple(legs), largest, z, tuple(totals), undefined, crowded, -1.0, largest_sum)
