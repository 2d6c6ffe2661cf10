"""What was looked at from this terminal: a judgement is signed for just that, `<state_dir>/review.json` says what."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hitl_stream.cli.api import write_private
from hitl_stream.core.errors import UsageError
from hitl_stream.settings import Settings

SEEN_MAX = 200
"""Cards remembered, the newest."""


class Seen(Struct, frozen=True, kw_only=True):
    """A card that was looked at. `id` is that of the one judgement that is given on it, however often it is sent."""

    view: str
    painted: str
    id: str
    can_change: Mapping[str, Any] = {}


def note(
    settings: Settings, subject: str, view: str, painted: str, can_change: Mapping[str, Any] | None = None
) -> None:
    """Remember a card. The same card once more keeps its id."""
    seen = _all(settings)
    known = seen.pop(subject, None)
    chosen = known.id if known is not None and known.view == view else uuid.uuid4().hex
    seen[subject] = Seen(view=view, painted=painted, id=chosen, can_change=can_change or {})
    _write(settings, seen)


def look_up(settings: Settings, subject: str, look_first: str) -> Seen:
    """Return the card that was looked at; raise `UsageError` with the verb that looks where there is none."""
    found = _all(settings).get(subject)
    if found is None:
        raise UsageError(f"{subject} was not looked at from here; look first: {look_first}")
    return found


def forget(settings: Settings, subject: str) -> None:
    """Forget a card whose id is used up: whoever says something else on it looks at it again."""
    _write(settings, {name: one for name, one in _all(settings).items() if name != subject})


def _file(settings: Settings) -> Path:
    return settings.state_dir / "review.json"


def _all(settings: Settings) -> dict[str, Seen]:
    try:
        return msgspec.json.decode(_file(settings).read_bytes(), type=dict[str, Seen])
    except (OSError, msgspec.DecodeError):
        return {}


def _write(settings: Settings, seen: Mapping[str, Seen]) -> None:
    write_private(_file(settings), msgspec.json.encode(dict(list(seen.items())[-SEEN_MAX:])))
