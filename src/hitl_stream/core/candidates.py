"""What could do without a gate: ranked by how much goes through it, how little can go wrong, how well it can be undone.

A candidate is no offer: it says where evidence is worth gathering, and removal asks for all of it. Only what people
were shown to look at is listed: in the same time planted errors of every type of the gate were caught, and of real ones
no larger a share was found than the gate bears. Where an agent is right and nobody looks, everything looks fine, too.

- Volume: judged outputs a week.
- Harm, and undoing: shares from 0 to 1 for the consequences of the gate's classes, the worst of each counts. They say
  which of two comes first, and nothing more.
- A gate all of whose classes have a protected consequence is none, whatever its numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from hitl_stream.core.action import Agent
from hitl_stream.core.policy.lint import is_protected

HARMLESS: Mapping[str, float] = {"internal": 1.0, "record": 0.7, "own_content": 0.5, "prospect": 0.3}
"""How little is lost by one that is wrong: a draft, an entry, our own page, a stranger's first impression."""
UNDONE: Mapping[str, float] = {"internal": 1.0, "record": 1.0, "own_content": 0.5, "prospect": 0.1}
"""How much of it can be undone: what was published can be taken down but was seen, what was sent is gone."""
WEEK_DAYS = 7.0


class Seen(Struct, frozen=True, kw_only=True):
    """What is known of one gate and agent version. `errors` and `borne` are shares by type of error."""

    gate: str
    agent: Agent
    consequences: tuple[tuple[str, ...], ...]
    """Of each of its classes."""
    items: int
    days: float
    errors: Mapping[str, float]
    borne: Mapping[str, float]
    caught: Mapping[str, int]
    """By type: how many canaries were caught."""


class Candidate(Struct, frozen=True, kw_only=True):
    """One line of the ranking; `score` is the product of the other three."""

    gate: str
    agent: Agent
    per_week: float
    harmless: float
    undone: float
    score: float
    errors: Mapping[str, float]


def ranked(seen: Iterable[Seen]) -> tuple[Candidate, ...]:
    """Return the candidates, the best first.

    >>> of = {"gate": "g", "items": 70, "days": 7.0, "errors": {"tone": 0.0}, "borne": {"tone": 0.05}}
    >>> own, sent = [Seen(agent=Agent("a", "1"), consequences=(c,), caught={"tone": 3}, **of) for c in
    ...              (("own_content",), ("prospect",))]
    >>> [round(one.score, 2) for one in ranked([sent, own])]
    [17.5, 2.1]
    """
    found = [candidate for one in seen if (candidate := _candidate(one)) is not None]
    return tuple(sorted(found, key=lambda one: (-one.score, one.gate, one.agent.id, one.agent.version)))


def _candidate(one: Seen) -> Candidate | None:
    free = [consequence for consequence in one.consequences if not is_protected(consequence)]
    looked = all(one.caught.get(error) for error in one.borne)
    borne = all(one.errors.get(error, 0.0) <= share for error, share in one.borne.items())
    if not free or not looked or not borne or not one.items:
        return None
    per_week = one.items * WEEK_DAYS / max(one.days, WEEK_DAYS)
    harmless, undone = _worst(free, HARMLESS), _worst(free, UNDONE)
    return Candidate(
        gate=one.gate, agent=one.agent, per_week=per_week, harmless=harmless, undone=undone,
        score=per_week * harmless * undone, errors=dict(one.errors),
    )  # fmt: skip


def _worst(consequences: Iterable[Collection[str]], shares: Mapping[str, float]) -> float:
    return min(shares.get(one, 0.0) for each in consequences for one in each)
