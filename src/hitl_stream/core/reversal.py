"""What would put back what an executed action changed, or why nothing can (E16).

The inverse is proposed as a new action by a person and decided like any other. It starts from what the action has set,
so that the executor refuses it as stale where somebody has changed the value since.

- What stood there before is what was *read* on the platform, never what the agent claimed.
- All of it can be undone or none: half an inverse is another change, which nobody has asked for.
- Changes of one field become one: from what was set last to what stood there first.
- What was published has been seen. It can be followed by another action, not undone.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from hitl_stream.core.action import Action, Change, Entity, Value
from hitl_stream.core.gate import same

_Place = tuple[Entity, str]


class Irreversible(Struct, frozen=True):
    """Why an action cannot be undone. `path` is the JSON pointer of what stands in the way; empty: all of it."""

    path: str
    why: str


def inverse(action: Action, present: Mapping[str, Value | None]) -> tuple[Change, ...] | Irreversible:
    """Return the changes that put back what stood there before an action that was executed.

    `present` is what was read on the platform right before the call, by JSON pointer (`{"/changes/0": "100.00"}`), as
    `wire.records.Result.present` has it; None: there was no such thing. Of an action that failed nothing is to be
    undone: do not ask.
    """
    if action.content is not None:
        return Irreversible("/content", "it was published and may have been seen; propose its removal, or a correction")
    if not action.changes:
        return Irreversible("", "it changed nothing that is known here")
    places: dict[_Place, Change] = {}
    for index, change in enumerate(action.changes):
        path, place = f"/changes/{index}", (change.entity, change.field)
        earlier = places.get(place)
        why = _final(change, path, present, earlier)
        if why is not None:
            return Irreversible(path, why)
        first = present[path] if earlier is None else earlier.after
        places[place] = Change(change.entity, change.field, change.after, first, change.unit)
    back = tuple(change for change in places.values() if not same(change.before, change.after))
    return back or Irreversible("", "what it set is what stood there before; there is nothing to put back")


def _final(change: Change, path: str, present: Mapping[str, Value | None], earlier: Change | None) -> str | None:
    """Say why one change cannot be undone; `earlier` is the inverse of a change of the same field before it."""
    if change.after is None:
        return f"it does not say to what {change.field} was set"
    if path not in present:
        return f"nobody read what {change.field} was before; the agent's own word for it is not enough"
    if present[path] is None:
        return f"{change.field} was not there before; it was created, and setting a value does not remove it"
    if earlier is not None and earlier.unit != change.unit:
        return f"{change.field} was set in {earlier.unit} and in {change.unit}"
    return None
