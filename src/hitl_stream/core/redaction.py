"""What of a record is hidden before it leaves the house: the fields that a policy marks with `redact: true`.

- A hidden field is replaced, not left out: who reads the record sees that something stood there.
- A text that repeats what a hidden field holds (a rationale that quotes the address, a reviewer's note) is hidden as a
  whole. That is a second net, not a promise: an address that a person wrote in another spelling is not found.
- What was shown and what was signed hold copies of the whole action. Where anything of it is hidden, they are too; and
  where the action is not there to say what they hold (a verdict on an item that nobody knew).
- With a keyed digest, equal values stay equal and nobody without the key can try names against it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from hitl_stream.core.policy.model import Policy

Digest: TypeAlias = Callable[[str], str]
"""Hashes a text under a key."""
Pointer: TypeAlias = tuple[str | int, ...]
HIDDEN = "redacted"
QUOTED_LENGTH_MIN = 3
"""A shorter value stands in too many texts by chance; it is hidden in its own place alone."""
TEXT = "content.text"
SOURCE = "content.source"
COPIES = ("shown", "jws")
"""What of a human decision repeats the action in a form of its own."""
LEARNED: Mapping[str, str] = {"/content/text": TEXT}
"""Which field a changed path of a feedback record is."""


class Hidden(Struct, frozen=True):
    """A record without what must not leave, and the JSON pointers of what was replaced."""

    record: dict[str, Any]
    paths: tuple[str, ...]


def hidden_fields(*policies: Policy) -> frozenset[str]:
    """Return the fields that any of these policies hides."""
    return frozenset(name for policy in policies for name, spec in policy.fields.items() if spec.redact)


def decision_without(record: Mapping[str, Any], fields: Collection[str]) -> Hidden:
    """Return a human decision as it may leave: its action, the copies of that, and notes that quote it."""
    action = record.get("action")
    found = list(_found(action, fields)) if isinstance(action, dict) else []
    texts = _texts(value for _, value in found)
    at: dict[Pointer, Any] = {("action", *path): _mark(None) for path, _ in found}
    at |= {path: _mark(None) for path, _ in _found(record, _own(fields))}
    is_unknown = not isinstance(action, dict) and bool(fields)
    if at or is_unknown:
        at |= {(name,): _mark(None) for name in COPIES if record.get(name) is not None}
    return _replaced(record, at, texts)


def feedback_without(record: Mapping[str, Any], fields: Collection[str], digest: Digest | None) -> Hidden:
    """Return a feedback record as it may leave: changed fields hashed, where there is a key to hash them with."""
    at: dict[Pointer, Any] = {path: _mark(None) for path, _ in _found(record, _own(fields))}
    texts: list[Any] = []
    for index, row in enumerate(record.get("diff") or ()):
        if LEARNED.get(row.get("path")) not in fields:
            continue
        for name in ("before", "after"):
            texts.append(row.get(name))
            at["diff", index, name] = _mark(digest, row.get(name))
    return _replaced(record, at, _texts(texts))


def preference_without(record: Mapping[str, Any], fields: Collection[str]) -> Hidden:
    """Return a preference as it may leave: both outputs are texts, the prompt is what they were made from."""
    names = [*(("chosen", "rejected") if TEXT in fields else ()), *(("prompt",) if SOURCE in fields else ())]
    at: dict[Pointer, Any] = {(name,): _mark(None) for name in names if record.get(name) is not None}
    at |= {path: _mark(None) for path, _ in _found(record, _own(fields))}
    return _replaced(record, at, _texts(record.get(name) for name in names))


# --- finding ----------------------------------------------------------------------------------------------------------


def _own(fields: Collection[str]) -> list[str]:
    """Return the fields that a record about an action repeats under the same name."""
    return [name for name in fields if name == "tenant" or name.startswith("agent.")]


def _found(record: Mapping[str, Any], fields: Collection[str]) -> Iterator[tuple[Pointer, Any]]:
    """Yield where each field stands, and what there is."""
    for name in fields:
        path = tuple(name.split("."))
        yield from _at(record, path)
        if path[0] == "entity":
            for index, change in enumerate(record.get("changes") or ()):
                if isinstance(change, dict):
                    yield from (
                        (("changes", index, *inner), value) for inner, value in _at(change, ("entity", *path[1:]))
                    )


def _at(record: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Pointer, Any]]:
    value: Any = record
    for name in path:
        if not isinstance(value, dict) or value.get(name) is None:
            return
        value = value[name]
    yield path, value


def _texts(values: Any) -> tuple[str, ...]:
    """Return every text in these values that is long enough to be looked for, folded."""
    return tuple({text.casefold() for value in values for text in _strings(value) if len(text) >= QUOTED_LENGTH_MIN})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _strings(each)


# --- replacing --------------------------------------------------------------------------------------------------------


def _mark(digest: Digest | None, value: Any = None) -> dict[str, Any]:
    """Return what stands in a hidden value's place."""
    if digest is None or value is None:
        return {HIDDEN: True}
    return {HIDDEN: True, "digest": digest(value if isinstance(value, str) else repr(value))}


def _replaced(record: Mapping[str, Any], at: Mapping[Pointer, Any], texts: Sequence[str]) -> Hidden:
    paths: list[str] = []

    def copied(value: Any, path: Pointer) -> Any:
        mark = at.get(path)
        if mark is not None or (isinstance(value, str) and any(text in value.casefold() for text in texts)):
            paths.append("".join(f"/{_escaped(part)}" for part in path))
            return mark if mark is not None else _mark(None)
        if isinstance(value, dict):
            return {name: copied(each, (*path, name)) for name, each in value.items()}
        if isinstance(value, list):
            return [copied(each, (*path, index)) for index, each in enumerate(value)]
        return value

    made = {name: copied(value, (name,)) for name, value in record.items()}
    return Hidden(made, tuple(paths))


def _escaped(part: str | int) -> str:
    """Write one step of a JSON pointer (RFC 6901)."""
    return str(part).replace("~", "~0").replace("/", "~1")
