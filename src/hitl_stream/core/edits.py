"""What a person may change of an action, and the bytes of the action that it then is.

- Only how much and in which words: the values that its changes set, and its text. Never where it acts, for whom, as
  which type, or what it claims about itself.
- A value stays of its kind: a number a number, a number in quotes one in quotes, a flag a flag, a text a text.
- What nobody touched stays as it was written: fields that nobody knows, their order, and every digit of 1.20.
- The new action belongs to no batch: it is decided by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType

import msgspec
from msgspec import Raw

from hitl_stream.core.action import ACTION_BYTES_MAX, NUMBER, Action, Value
from hitl_stream.core.gate import same
from hitl_stream.core.verdicts import Edit

TEXT = "/content/text"
_CHANGES = "/changes/"
_AFTER = "/after"
_action = msgspec.json.Decoder(Action).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_elements = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_encode = msgspec.json.encode
_NULL = b"null"


def editable(action: Action) -> Mapping[str, Value]:
    """Return the JSON pointers that a person may set, with what stands there: `{"/changes/0/after": "1.30"}`.

    What is not there cannot be set: a change without a value, an action without a text.
    """
    found: dict[str, Value] = {
        f"{_CHANGES}{index}{_AFTER}": change.after
        for index, change in enumerate(action.changes)
        if change.after is not None
    }
    if action.content is not None and action.content.text is not None:
        found[TEXT] = action.content.text
    return MappingProxyType(found)


def fault(edits: Sequence[Edit], standing: Mapping[str, Value]) -> str | None:
    """Say why these edits cannot be made of what stands there (see `editable`), or None: they can.

    They must set something, each path once, to another value of the same kind. 1.20 and 1.2 are the same value.
    """
    if not edits:
        return "nothing is changed; name at least one path and its new value"
    paths: set[str] = set()
    for edit in edits:
        why = _fault(edit, standing)
        if why is None and edit.path in paths:
            why = "is set twice; name each path once"
        if why is not None:
            return f"{edit.path} {why}"
        paths.add(edit.path)
    return None


def edited(
    raw: bytes,
    action_id: str,
    edits: Sequence[Edit],
    proposed_at: str,
    ce: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """Return the bytes of the action that `raw` becomes: these values set, a new id and time, and no batch.

    `proposed_at` is RFC 3339. `ce` are the CloudEvents values that fill what `raw` leaves out (`wire.codec`): a type
    that only stands there is written into the new bytes, which travel without these headers. Raises `ValueError`, which
    says where, for bytes that are no action, for edits that have a `fault`, and where the result would be too long.
    """
    members = _anew(raw, action_id, proposed_at, ce)
    why = fault(edits, editable(_action(_encode(members))))
    if why is not None:
        raise ValueError(why)
    _set(members, edits)
    made = _encode(members)
    if len(made) > ACTION_BYTES_MAX:
        raise ValueError(
            f"{', '.join(edit.path for edit in edits)}: the changed action has {len(made)} bytes; "
            f"an action has at most {ACTION_BYTES_MAX}: make the new values shorter"
        )
    return made


def proposed_anew(raw: bytes, action_id: str, proposed_at: str, ce: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Return the bytes of the same action under a new id and time, and of no batch; see `edited`."""
    made = _encode(_anew(raw, action_id, proposed_at, ce))
    if len(made) > ACTION_BYTES_MAX:
        raise ValueError(
            f"under the id {action_id} the action has {len(made)} bytes; it has at most {ACTION_BYTES_MAX}"
        )
    return made


def _anew(raw: bytes, action_id: str, proposed_at: str, ce: Mapping[str, str]) -> dict[str, Raw]:
    members = _members(raw)
    if bytes(members.get("type", Raw(_NULL))) == _NULL and "ce_type" in ce:
        members["type"] = Raw(_encode(ce["ce_type"]))
    members["action_id"], members["proposed_at"] = Raw(_encode(action_id)), Raw(_encode(proposed_at))
    members.pop("batch", None)
    return members


def diff(action: Action, edits: Sequence[Edit]) -> tuple[tuple[str, Value, Value], ...]:
    """Return by path what the agent wanted and what the person wants; only paths that can be edited."""
    standing = editable(action)
    return tuple((edit.path, standing[edit.path], edit.value) for edit in edits if edit.path in standing)


# --- small things -----------------------------------------------------------------------------------------------------


def _fault(edit: Edit, standing: Mapping[str, Value]) -> str | None:
    if edit.path not in standing:
        known = ", ".join(list(standing)[:5]) or "nothing"
        return f"is not there, or cannot be changed; what can be changed here: {known}"
    there, value = standing[edit.path], edit.value
    expected, found = _kind(edit.path, there), _kind(edit.path, value)
    if found != expected and not (expected == "text" and isinstance(value, str)):
        return f"is {found}; expected {expected}, as what stands there"
    if isinstance(value, float) and not isfinite(value):
        return f"is {value}; expected a finite number"
    if isinstance(value, str) and _is_broken(value):
        return "holds half of a character (a lone surrogate); expected Unicode text"
    stays = there == value if edit.path == TEXT else same(there, value)
    return "stays what it is; set another value" if stays else None


def _kind(path: str, value: Value) -> str:
    if isinstance(value, bool):
        return "a flag"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, str) and path != TEXT and NUMBER.match(value) is not None:
        return "a number in quotes"
    return "text"


def _is_broken(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _set(members: dict[str, Raw], edits: Sequence[Edit]) -> None:
    """Write the new values into the members; that each has its place was seen before."""
    changes = _elements(members["changes"]) if "changes" in members else []
    touched = False
    for edit in edits:
        value = Raw(_encode(edit.value))
        if edit.path == TEXT:
            content = _members(members["content"])
            content["text"] = value
            members["content"] = Raw(_encode(content))
        else:
            changes[int(edit.path.removeprefix(_CHANGES).removesuffix(_AFTER))]["after"] = value
            touched = True
    if touched:
        members["changes"] = Raw(_encode(changes))
