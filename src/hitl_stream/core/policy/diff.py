"""What changes between two policies, knob by knob, and whether each change gives machines more room or less.

*Stricter* and *looser* are said of a knob's own direction: a higher limit is looser, a higher minimum confidence is
stricter. Where it depends on the traffic (a queue's SLA, a rate, a weight) it is *other*: a person has to look.
Rules are compared by id, everything else by its key, so that a new order is one difference and not many.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from hitl_stream.core.policy.lint import PROTECTED, UNCLASSIFIED_CEILING, At, ceiling, dotted
from hitl_stream.core.policy.model import Policy

Direction = Literal["stricter", "looser", "other"]


@dataclass(frozen=True)
class Difference:
    """One changed knob. `before` and `after` are plain values as JSON has them; None means not written."""

    path: str
    before: Any
    after: Any
    direction: Direction
    at: At = ()

    def __str__(self) -> str:
        return f"{self.direction} {self.path}: {_shown(self.before)} → {_shown(self.after)}"


def diff(old: Policy, new: Policy) -> tuple[Difference, ...]:
    """Return every difference between two policies, in the order of the old file, new things last."""
    before, after = _content(old), _content(new)
    found = _compare((), before, after, _World(before, after))
    return tuple(Difference(dotted(at), _json(was), _json(now), how, at) for at, was, now, how in found)


def raises_level_by_more_than_one(old: Policy, new: Policy) -> tuple[str, ...]:
    """Name the classes that rise by more than one level at once, for which a promotion is refused.

    A class that was not there counts as level 2, where unclassified work is; so taking a class out is no way around.
    """
    return tuple(name for name, cls in new.classes.items() if cls.level - _level_of(name, old) > 1)


def _level_of(name: str, policy: Policy) -> int:
    return policy.classes[name].level if name in policy.classes else UNCLASSIFIED_CEILING


def _content(policy: Policy) -> dict[str, Any]:
    """Return the policy as plain data, its rules by id (a second one of the same id keeps a name of its own)."""
    content = policy.model_dump(by_alias=True)
    rules: dict[str, Any] = {}
    for rule in content["rules"]:
        name = rule.pop("id")
        rules[name if name not in rules else f"{name}#{len(rules)}"] = rule
    return {**content, "rules": rules, _ORDER[0]: list(rules)}


_ORDER: Final = ("order of rules",)
_MONEY: Final = frozenset({"over", "under", "auto_max_amount", "tier3_amount", "cost_per_hour"})


@dataclass(frozen=True)
class _World:
    """Both policies whole, for knobs whose direction depends on others (a default, a level, a gate's state)."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]


Change = tuple[At, Any, Any, Direction]


def _compare(at: At, before: Any, after: Any, world: _World) -> Iterator[Change]:
    if _json(before) == _json(after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping) and _opens(at, before, after):
        for key in (*before, *(key for key in after if key not in before)):
            if key in before and key in after:
                yield from _compare((*at, key), before[key], after[key], world)
            else:
                was, now = before.get(key), after.get(key)
                yield (*at, key), was, now, _direction((*at, key), was, now, world)
        return
    if at != _ORDER:
        yield at, before, after, _direction(at, before, after, world)
    elif [name for name in before if name in after] != [name for name in after if name in before]:
        yield ("rules",), before, after, "other"


def _opens(at: At, before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Say whether two groups are compared key by key. Money is one value, and so are two kinds of validator."""
    if at[:1] == ("validators",) and len(at) == 2:
        return bool(before["kind"] == after["kind"])
    return not (at[-1:] and at[-1] in _MONEY and (len(at) > 2 or at[0] == "defaults"))


# ── Directions ────────────────────────────────────────────────────────────────────────────────────────────────────────

Judge = Callable[[At, Any, Any, _World], Direction]


def _direction(at: At, before: Any, after: Any, world: _World) -> Direction:
    for pattern, judge in _KNOBS:
        if len(pattern) == len(at) and all(want in ("*", step) for want, step in zip(pattern, at, strict=True)):
            if at[0] == "gates" and len(at) > 2 and at[2] != "state" and not _counts(str(at[1]), world):
                return "other"
            return judge(at, before, after, world)
    return "other"


def _counts(gate: str, world: _World) -> bool:
    """A gate that observes before and after decides nothing, whatever else of it changes."""
    return any(side["gates"].get(gate, {}).get("state") == "enforce" for side in (world.before, world.after))


def _by(before: Any, after: Any, more: Direction) -> Direction:
    """A larger value goes in direction `more`, a smaller one the other way."""
    if before == after:
        return "other"
    return more if after > before else _opposite(more)


def _opposite(direction: Direction) -> Direction:
    return {"stricter": "looser", "looser": "stricter"}.get(direction, "other")  # type: ignore[return-value]  # mypy widens the dict's values


def _up(more: Direction, absent: Direction = "other") -> Judge:
    """A number: more of it goes in direction `more`; to take it out goes in direction `absent`."""

    def judge(at: At, before: Any, after: Any, world: _World) -> Direction:
        if before is None or after is None:
            return absent if after is None else _opposite(absent)
        amounts = _amount(before, world.before), _amount(after, world.after)
        return "other" if None in amounts else _by(*amounts, more)

    return judge


def _amount(value: Any, side: Mapping[str, Any]) -> Any:
    """Return a number as it is, and money in the currency of its policy (None where it has no rate)."""
    if not isinstance(value, Mapping):
        return value
    ((code, amount),) = value.items()
    rate = Decimal(1) if code == side["currency"] else side["rates"].get(code)
    return None if rate is None else amount * rate


def _rank(*words: Any) -> Judge:
    """A choice among words, from the loosest to the strictest."""

    def judge(at: At, before: Any, after: Any, world: _World) -> Direction:
        return _by(words.index(before), words.index(after), "stricter")

    return judge


def _set(more: Direction) -> Judge:
    """A list: to add goes in direction `more`, to take out the other way, to do both is neither."""

    def judge(at: At, before: Any, after: Any, world: _World) -> Direction:
        was, now = set(before or ()), set(after or ())
        return "other" if was == now or not (was < now or now < was) else more if was < now else _opposite(more)

    return judge


def _there(more: Direction) -> Judge:
    """A part that can be absent: to add goes in direction `more`, to take out the other way, to change is neither."""

    def judge(at: At, before: Any, after: Any, world: _World) -> Direction:
        return more if before is None else _opposite(more) if after is None else "other"

    return judge


def _effective(default: str, more: Direction) -> Judge:
    """A class's own value, or the default where it has none."""

    def judge(at: At, before: Any, after: Any, world: _World) -> Direction:
        was = world.before["defaults"][default] if before is None else before
        now = world.after["defaults"][default] if after is None else after
        return _by(was, now, more)

    return judge


_REVIEWS: Final = ("periodic", "sample", "edge_cases", "above_risk", "all")
_REVIEW_OF_LEVEL: Final = {1: "all", 2: "all", 3: "above_risk", 4: "sample"}


def _review(at: At, before: Any, after: Any, world: _World) -> Direction:
    was = before or _REVIEW_OF_LEVEL[world.before["classes"][at[1]]["level"]]
    now = after or _REVIEW_OF_LEVEL[world.after["classes"][at[1]]["level"]]
    return _by(_REVIEWS.index(was), _REVIEWS.index(now), "stricter")


def _consequence(at: At, before: Any, after: Any, world: _World) -> Direction:
    """A lower ceiling is stricter; under the same ceiling, more protected consequences are."""
    if ceiling(before) != ceiling(after):
        return _by(ceiling(before), ceiling(after), "looser")
    was, now = PROTECTED & set(before), PROTECTED & set(after)
    return "stricter" if was < now else "looser" if now < was else "other"


def _class(at: At, before: Any, after: Any, world: _World) -> Direction:
    """A type without a class escalates: only a class that never executes is stricter than none."""
    if before is None:
        return "stricter" if after["level"] == 1 else "looser"
    return "looser" if before["level"] == 1 else "stricter"


def _gate(at: At, before: Any, after: Any, world: _World) -> Direction:
    enforced = (before or after)["state"] == "enforce"
    return "other" if not enforced else "stricter" if before is None else "looser"


_MATCH: Final[Mapping[str, Judge]] = {
    "over": _up("looser", absent="stricter"),
    "under": _up("stricter", absent="stricter"),
    "is": _there("looser"),
    "in": _there("looser"),
    "not_in": _there("looser"),
    "contains": _there("looser"),
}
"""A condition that holds less often lets more through; each further one narrows the match."""


def _members(there: Judge, members: Judge) -> Judge:
    """A list that can be absent altogether."""

    def judge(at: At, before: Any, after: Any, world: _World) -> Direction:
        return (there if before is None or after is None else members)(at, before, after, world)

    return judge


def _matches(*prefix: str) -> list[tuple[tuple[str, ...], Judge]]:
    knobs = [((*prefix, "*", key), judge) for key, judge in _MATCH.items() if key not in ("in", "not_in")]
    knobs.append(((*prefix, "*", "in"), _members(_MATCH["in"], _set("stricter"))))
    knobs.append(((*prefix, "*", "not_in"), _members(_MATCH["not_in"], _set("looser"))))
    return [*knobs, ((*prefix, "*"), _there("looser"))]


_THEN: Final = _rank("review", "escalate", "refuse")

_KNOBS: Final[tuple[tuple[tuple[str, ...], Judge], ...]] = (
    (("classes", "*"), _class),
    (("classes", "*", "level"), _up("looser")),
    (("classes", "*", "consequence"), _consequence),
    (("classes", "*", "auto_max_change"), _up("looser", absent="looser")),
    (("classes", "*", "auto_max_amount"), _up("looser", absent="looser")),
    (("classes", "*", "auto_max_change_per", "*"), _up("looser", absent="looser")),
    (("classes", "*", "auto_min_confidence"), _up("stricter", absent="looser")),
    (("classes", "*", "max_age"), _effective("max_age", "looser")),
    (("classes", "*", "audit_sample"), _effective("audit_sample", "stricter")),
    (("classes", "*", "second_review"), _up("stricter", absent="looser")),
    (("classes", "*", "needs"), _set("stricter")),
    (("classes", "*", "evidence"), _rank("optional", "required")),
    (("classes", "*", "goal"), _there("stricter")),
    (("classes", "*", "batch"), _there("looser")),
    (("classes", "*", "review"), _review),
    (("classes", "*", "people"), _up("stricter")),
    (("classes", "*", "tier"), _up("stricter", absent="looser")),
    (("classes", "*", "canaries"), _rank(False, True)),
    (("classes", "*", "hide_score"), _rank(False, True)),
    (("defaults", "audit_sample"), _up("stricter")),
    (("defaults", "max_age"), _up("looser")),
    (("defaults", "unusual_over"), _up("looser")),
    (("defaults", "tier3_amount"), _up("looser", absent="looser")),
    (("queues", "*", "roles"), _set("looser")),
    (("queues", "*", "external"), _rank(True, False)),
    (("fields", "*", "redact"), _rank(False, True)),
    (("rules", "*"), _there("stricter")),
    (("rules", "*", "classes"), _set("stricter")),
    (("rules", "*", "then"), _THEN),
    *_matches("rules", "*", "match"),
    (("validators", "*", "under"), _up("looser", absent="looser")),
    (("validators", "*", "max"), _up("looser", absent="looser")),
    (("validators", "*", "min"), _up("stricter", absent="looser")),
    (("validators", "*", "max_by", "*"), _there("stricter")),
    (("validators", "*", "max_by"), _there("stricter")),
    (("validators", "*", "max_by", "*", "*"), _up("looser", absent="looser")),
    (("validators", "*", "terms"), _set("stricter")),
    (("validators", "*", "patterns"), _set("stricter")),
    (("validators", "*", "value_of"), _there("stricter")),
    (("validators", "*", "then"), _THEN),
    (("gates", "*"), _gate),
    (("gates", "*", "state"), _rank("removed", "observe", "enforce")),
    (("gates", "*", "classes"), _set("stricter")),
    (("gates", "*", "validators"), _set("stricter")),
    *_matches("gates", "*", "segment"),
    (("gates", "*", "from"), _up("looser")),
    (("gates", "*", "until"), _up("stricter", absent="stricter")),
    (("gates", "*", "max_error_ratio", "*"), _up("looser")),
    (("bands", "review"), _up("looser")),
    (("bands", "escalate"), _up("looser")),
    (("ethical", "terms"), _set("stricter")),
)
"""Every knob with a direction; what stands in no line is *other*. Lines are tried from the top."""


def _json(value: Any) -> Any:
    """Return plain JSON data: decimals and dates as they are written, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    return value if value is None or isinstance(value, str | bool | int) else str(value)


def _shown(value: Any) -> str:
    return "—" if value is None else json.dumps(value, ensure_ascii=False)
