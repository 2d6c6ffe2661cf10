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
    this type, None where too few are known. `totals` are (absolute, signed) sums by (window, leg).
    """

    legs: tuple[Leg, ...] = ()
    ratio: float = 0.0
    z: float | None = None
    totals: tuple[tuple[int, float, float], ...] = ()
    undefined: str | None = None
    crowded: bool = False


NOTHING = History()


def recall(action: Action, tenant: str, draft: Draft) -> History:
    """Measure an action and add it to the draft: its size to what is normal, its legs to the running sums."""
    changes = action.changes
    if not changes:
        return NOTHING
    if len(changes) == 1 and not draft.window.sum_slot_ms:
        try:
            leg = measure(changes[0])
        except UndefinedError as error:
            return History(undefined=str(error))
        return History((leg,), leg.ratio, _deviation(action, tenant, leg.ratio, draft))
    return _recall_all(action, tenant, draft)


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
        ratio = leg.ratio
        if abs(ratio) > abs(largest):
            largest = ratio
        entity = (tenant, change.entity.account, change.entity.campaign, change.field)
        for which in range(len(draft.window.sum_slot_ms)):
            total = draft.add(which, entity, ratio)
            if total is None:
                crowded = True
            else:
                totals.append((which, *total))
    z = _deviation(action, tenant, largest, draft) if legs else None
    return History(tuple(legs), largest, z, tuple(totals), undefined, crowded)


def _deviation(action: Action, tenant: str, ratio: float, draft: Draft) -> float | None:
    who = (tenant, action.agent.id, action.type)
    normal = draft.normal(who)
    draft.observe(who, ratio)
    return None if normal is None else (ratio - normal[0]) / normal[1]
