"""Canaries: real actions made plainly wrong, to learn who still looks.

A canary is an action that people approved at least a day ago, with one thing changed that nobody who reads it can pass
over: a budget a hundred times as large, a claim that nobody can show, a text that ends in the middle of a word. It gets
an id of its own, which begins with `~` so that neither router nor executor takes it, and the dates of now. Each goes to
one person, once ever, who has never judged what it was made from.

Where an action has nothing that a mutation could change, there is no canary of it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from types import MappingProxyType

import msgspec
from msgspec import Raw, Struct

from hitl_stream.core.action import Action, Value
from hitl_stream.core.commands import DAY_MS, milliseconds
from hitl_stream.core.edits import TEXT, editable, edited
from hitl_stream.core.errors import BrokenError
from hitl_stream.core.events import Effect, Purpose
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.verdicts import Edit

MARK = "~"
"""What the id of a canary begins with; no publisher's holds one."""


def is_planted(action_id: str) -> bool:
    """Say whether an action's id is that of a canary, which never runs."""
    return action_id.startswith(MARK)


AGE_MS_MIN = DAY_MS
WORDS_MIN = 4
"""A shorter text is no text to spoil: what is left out of it, nobody misses."""
FAR = 4
"""So many times as much, or as little, as anything that stands there: nobody can think that it is meant."""
VALUE_MAX = Decimal(10) ** 12

Change = Callable[[Value | None, Value], Value | None]
"""From what stood before and what was proposed, what is proposed instead; None: it cannot be spoilt so."""


class Mutation(Struct, frozen=True):
    """One way to make an action plainly wrong. `error`, its type: limit, factual, tone, compliance, other."""

    name: str
    error: str
    of_text: bool
    change: Change


class Judged(Struct, frozen=True):
    """What is known of a judgement that a canary might be made from."""

    by: str
    purpose: str
    verdict: str
    effect: str
    decided_ms: int


def may_become(
    judged: Judged, seen_by: Collection[str], person: str, now_ms: int, age_ms_min: int = AGE_MS_MIN
) -> bool:
    """Say whether a canary for a person may be made from this; `seen_by` are all who have judged it.

    What people approved had nothing wrong that they saw: whoever objects to the canary objects to what was planted.
    """
    return (
        judged.purpose == Purpose.DECIDE
        and judged.verdict == "approve"
        and judged.effect in (Effect.APPLIED, Effect.WAITING)
        and now_ms - judged.decided_ms >= age_ms_min
        and person not in seen_by
        and person != judged.by
    )


def ways(action: Action) -> tuple[tuple[Mutation, Edit], ...]:
    """Return every way in which an action can be spoilt, and what it changes; always in the same order."""
    standing = editable(action)
    before: dict[str, Value | None] = {
        f"/changes/{index}/after": change.before for index, change in enumerate(action.changes)
    }
    found = []
    for path, value in standing.items():
        for mutation in LIBRARY:
            if mutation.of_text != (path == TEXT):
                continue
            worse = mutation.change(before.get(path), value)
            if worse is not None and worse != value:
                found.append((mutation, Edit(path, worse)))
    return tuple(found)


def chosen(action: Action, drawn: int) -> tuple[Mutation, Edit] | None:
    """Return one of the ways by a number that was drawn; each kind of error is as likely as another.

    None: it cannot be spoilt.
    """
    by_error: dict[str, list[tuple[Mutation, Edit]]] = {}
    for way in ways(action):
        by_error.setdefault(way[0].error, []).append(way)
    if not by_error:
        return None
    rest, which = divmod(drawn, len(by_error))
    there = by_error[sorted(by_error)[which]]
    return there[rest % len(there)]


def planted(
    raw: bytes, edit: Edit, action_id: str, proposed_at: str, ce: Mapping[str, str] = MappingProxyType({})
) -> bytes:
    """Return the bytes of the canary that `raw` becomes; `proposed_at` is RFC 3339, and its other dates move along.

    Raises `ValueError` as `edits.edited` does, `BrokenError` for an id that a router would take.
    """
    if not action_id.startswith(MARK):
        raise BrokenError(
            f"a canary's id is {action_id!r:.60}; expected one that begins with {MARK}: it must never run"
        )
    made = _members(edited(raw, action_id, (edit,), proposed_at, ce))
    was, now = _dates(raw).proposed_at, datetime.fromisoformat(proposed_at)
    expires = _dates(raw).expires_at
    if was is not None and expires is not None:
        made["expires_at"] = Raw(_encode(_text(now + (expires - was))))
    return _encode(made)


# --- numbers ----------------------------------------------------------------------------------------------------------


def _times(factor: str) -> Change:
    """Propose so many times what was proposed."""
    return _number(lambda before, after: after * Decimal(factor))


def _number(change: Callable[[Decimal, Decimal], Decimal]) -> Change:
    """Change a number, in the form that it was written in; flags and words are left alone."""

    def changed(before: Value | None, after: Value) -> Value | None:
        if isinstance(after, bool) or before is None:
            return None
        try:
            old, new = as_decimal(before, "before"), as_decimal(after, "after")
        except UndefinedError:
            return None
        worse = change(old, new)
        if not _plain(old, new, worse):
            return None
        if isinstance(after, str):
            places = max(0, -int(new.as_tuple().exponent))
            text = f"{worse:.{places}f}"
            return text if places or Decimal(text) == worse else None
        return int(worse) if isinstance(after, int) and worse == int(worse) else float(worse)

    return changed


def _plain(old: Decimal, new: Decimal, worse: Decimal) -> bool:
    """Say whether this is far from what was proposed, and from what stood before."""
    if abs(worse) > VALUE_MAX or worse == new:
        return False
    near = [value for value in (old, new) if value]
    return bool(near) and all(worse <= 0 or worse >= FAR * value or value >= FAR * worse for value in near)


_UP = ("5", "8", "10", "12", "20", "25", "50", "100", "1000")
_DOWN = ("0.2", "0.1", "0.05", "0.02", "0.01", "0.001")
_NUMBERS = (
    *(Mutation(f"times_{factor}", "limit", False, _times(factor)) for factor in _UP),
    *(Mutation(f"times_{factor}", "limit", False, _times(factor)) for factor in _DOWN),
    Mutation("nothing", "limit", False, _number(lambda before, after: Decimal(0))),
    Mutation("negative", "limit", False, _number(lambda before, after: -abs(after))),
    Mutation("negative_of_before", "limit", False, _number(lambda before, after: -abs(before))),
    Mutation("sum_tenfold", "limit", False, _number(lambda before, after: (before + after) * 10)),
    Mutation("all_nines", "limit", False, _number(lambda before, after: Decimal(999999))),
)


# --- texts ------------------------------------------------------------------------------------------------------------


def _texts(change: Callable[[str], str]) -> Change:
    def changed(before: Value | None, after: Value) -> Value | None:
        return change(after) if isinstance(after, str) and len(after.split()) >= WORDS_MIN else None

    return changed


def _adds(sentence: str) -> Change:
    return _texts(lambda text: f"{text.rstrip()} {sentence}")


def _begins(sentence: str) -> Change:
    return _texts(lambda text: f"{sentence} {text.lstrip()}")


def _cut(text: str) -> str:
    """Return the first half, to the middle of a word."""
    words = text.split()
    kept = words[: max(2, len(words) // 2)]
    return " ".join([*kept[:-1], kept[-1][: max(1, len(kept[-1]) // 2)]])


_SENTENCES = {
    "factual": (
        ("proven", "It is clinically proven to work for everybody."),
        ("guaranteed", "Results are guaranteed within 24 hours."),
        ("cures", "It cures every disease that doctors know."),
        ("first", "Nine of ten doctors say that nothing else works."),
        ("riskless", "You cannot lose any money with it, ever."),
        ("official", "The government requires you to buy it."),
        ("one_cent", "Today the full price is one cent for life."),
    ),
    "tone": (
        ("pressure", "BUY NOW!!! LAST CHANCE!!! DO NOT MISS THIS!!!"),
        ("insult", "Only an idiot would say no to this."),
        ("threat", "You will regret it if you do not answer today."),
        ("blame", "It is your own fault that you are still this poor."),
        ("curse", "Stop wasting our damn time and sign."),
    ),
    "other": (
        ("name_left", "Hello {first_name} {last_name},"),
        ("insert_left", "[INSERT OFFER AND PRICE HERE]"),
        ("todo_left", "TODO: ask legal whether we may say this."),
        ("latin_left", "Lorem ipsum dolor sit amet, consectetur adipiscing elit."),
        ("undefined_left", "Only undefined left for undefined EUR."),
        ("machine_speaks", "As an AI language model, I cannot write this advertisement."),
    ),
    "compliance": (
        ("card_asked", "Send us your card number and its PIN by reply."),
        ("password_asked", "Answer with your password, so that we can check it."),
        ("minors", "Made for children under ten who have their own money."),
        ("bet", "Borrow money and bet it all on this tonight."),
        ("private", "Mr Miller of 12 Hill Road, who is ill, bought it too."),
    ),
}  # fmt: skip
_TEXTS = (
    *(
        Mutation(name, error, True, _begins(sentence) if name == "name_left" else _adds(sentence))
        for error, sentences in _SENTENCES.items()
        for name, sentence in sentences
    ),
    Mutation("cut", "other", True, _texts(_cut)),
    Mutation("thrice", "other", True, _texts(lambda text: " ".join([text] * 3))),
    Mutation("backwards", "other", True, _texts(lambda text: " ".join(reversed(text.split())))),
    Mutation("shouted", "tone", True, _texts(lambda text: text.upper() + "!!!")),
)
LIBRARY: tuple[Mutation, ...] = (*_NUMBERS, *_TEXTS)


# --- small things -----------------------------------------------------------------------------------------------------


class _Dates(Struct, frozen=True):
    proposed_at: datetime | None = None
    expires_at: datetime | None = None


_dates = msgspec.json.Decoder(_Dates).decode
_members = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.encode


def _text(time: datetime) -> str:
    """Return RFC 3339 in UTC with milliseconds, as records have it."""
    whole = datetime.fromtimestamp(0, time.tzinfo) + timedelta(milliseconds=milliseconds(time))
    return whole.isoformat(timespec="milliseconds").replace("+00:00", "Z")
