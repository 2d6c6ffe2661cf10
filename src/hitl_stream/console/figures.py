"""What people are told of how they review: somebody of themselves, and whoever owns a queue of its reviewers.

Rules:
- A person's own figures count what they judged today whatever it was, planted items among it; these leave the count a
  day later, and only then are told as what they were. So no count betrays one before it is over.
- Whoever owns a queue (`owner` in the policy: a name, or a role), policy admins and auditors see its reviewers, by
  pseudonym, and by name only where the site says so. Scoring people is for quality, not discipline.
- No level depends on how often somebody approves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import msgspec
from msgspec import Struct

from hitl_stream.console.office import Office, Who, is_service
from hitl_stream.console.people import AUDITOR, POLICY_ADMIN
from hitl_stream.console.problems import ProblemError
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.control import is_same_holder
from hitl_stream.core.events import Effect, Purpose
from hitl_stream.core.policy.model import Queue
from hitl_stream.core.vigilance import (
    APPROVALS_KEPT,
    APPROVALS_MIN,
    CANARIES_MIN,
    HIT_RATE_MIN,
    HURRIED_PAGE,
    HURRIED_WARN,
    MISSES_PAGE,
    MISSES_WARN,
    OBJECTIONS_H,
    ROWS,
    VERDICTS_KEPT,
    Looked,
    d_prime,
    hurried,
    hurried_share,
    queue_level,
)
from hitl_stream.roles.monitor_state import ACTIVE_DAYS, Kept, figures_of
from hitl_stream.wire.desk_records import HumanDecision, ms_of
from hitl_stream.wire.judged import OBJECTS
from hitl_stream.wire.records import time_text
from hitl_stream.wire.watched import Alert

DAYS = 7
"""Told one by one."""
CANARIES_MS = 30 * DAY_MS
"""Planted items are told of as far back."""
WORDS = ("approve", *OBJECTS)
COUNTS = (Effect.APPLIED, Effect.WAITING)
SENSE_CANARIES_MIN = 20
"""Fewer canaries say nothing of how well wrong is told from right."""
ALERT_MS = 7 * DAY_MS
ALERTS_MAX = 50
SOON_MS = 14 * DAY_MS
"""A qualification that ends within two weeks is announced."""


# --- one's own --------------------------------------------------------------------------------------------------------


async def own(office: Office, who: Who) -> dict[str, Any]:
    """Return somebody's own figures."""
    if is_service(who):
        raise ProblemError("service", "a service reviews nothing", todo="A person asks this, signed in by themselves.")
    now_ms = office.clock_ms()
    said = await office.store.judged_by(who.account.name, now_ms - CANARIES_MS)
    watching = office.watching
    return {
        **own_figures(said, now_ms),
        "watched": not watching.trouble and watching.known,
        "level": int(watching.level(who.account.name)),
        "qualified": qualifications(who, now_ms),
    }


def own_figures(said: Sequence[HumanDecision], now_ms: int) -> dict[str, Any]:
    """Return the figures of somebody who has said this, newest first; planted items count as any other for a day."""
    judged = [one for one in said if one.verdict in WORDS and one.effect in COUNTS]
    told = [one for one in judged if one.purpose != Purpose.CANARY or _is_new(one, now_ms)]
    planted = [one for one in judged if one.purpose == Purpose.CANARY and not _is_new(one, now_ms)]
    lately = told[:VERDICTS_KEPT]
    approvals = [one for one in told if one.verdict == "approve"][:APPROVALS_KEPT]
    paces = [_dwell_s(one) for one in lately]
    return {
        "days": _days(told, now_ms),
        "items": len(lately),
        "approved": _share([one.verdict == "approve" for one in lately]),
        "median_s": round(median(paces), 1) if paces else None,
        "hurried": hurried_share([_is_hurried(one) for one in approvals]),
        "hurried_of": len(approvals),
        "hurried_needs": APPROVALS_MIN,
        "hurried_warn": HURRIED_WARN,
        "canaries": {
            "seen": len(planted),
            "caught": sum(one.verdict in OBJECTS for one in planted),
            "until": time_text(now_ms - DAY_MS),
        },
    }


def _is_new(one: HumanDecision, now_ms: int) -> bool:
    return ms_of(one.appended) > now_ms - DAY_MS


def _days(told: Sequence[HumanDecision], now_ms: int) -> list[dict[str, Any]]:
    """Return how much was judged on each of the last days, the oldest first; a day is one of UTC."""
    today = now_ms // DAY_MS
    rows = []
    for day in range(today - DAYS + 1, today + 1):
        there = [one for one in told if ms_of(one.appended) // DAY_MS == day]
        approved = sum(one.verdict == "approve" for one in there)
        rows.append({"day": time_text(day * DAY_MS)[:10], "items": len(there), "approved": approved})
    return rows


class _Floor(Struct, frozen=True):
    floor_s: float = 0.0


_floor = msgspec.json.Decoder(_Floor).decode


def _dwell_s(one: HumanDecision) -> float:
    return max(0, ms_of(one.decided) - ms_of(one.painted)) / 1000


def _is_hurried(one: HumanDecision) -> bool:
    try:
        floor_s = _floor(one.shown).floor_s
    except msgspec.DecodeError:
        floor_s = 0.0
    return hurried(Looked(approved=True, dwell_s=_dwell_s(one), floor_s=floor_s, at_ms=ms_of(one.decided)))


def qualifications(who: Who, now_ms: int) -> list[dict[str, Any]]:
    """Return until when somebody may claim items of each class, also where that is over."""
    return [
        {"class": name, "until": time_text(ms), "holds": ms > now_ms, "soon": now_ms < ms <= now_ms + SOON_MS}
        for name, ms in sorted(who.account.qualifications.items())
    ]


def soon(who: Who, now_ms: int) -> list[str]:
    """Return the classes for which somebody's qualification ends soon, the first to end first."""
    ending = [(ms, name) for name, ms in who.account.qualifications.items() if now_ms < ms <= now_ms + SOON_MS]
    return [name for _, name in sorted(ending)]


# --- a queue's --------------------------------------------------------------------------------------------------------


def may_watch(who: Who, queue: Queue) -> bool:
    """Say whether somebody is told of a queue's reviewers."""
    account = who.account
    owns = is_same_holder(account.name, queue.owner) or account.has(queue.owner)
    return not is_service(who) and (owns or account.has(AUDITOR) or account.has(POLICY_ADMIN))


def watches(office: Office, who: Who) -> list[str]:
    """Return the queues whose reviewers somebody is told of."""
    return [name for name, queue in office.policy().policy.queues.items() if may_watch(who, queue)]


async def watched(office: Office, who: Who) -> dict[str, Any]:
    """Return how the reviewers of somebody's queues do; refuse who owns none."""
    queues = watches(office, who)
    if not queues:
        raise ProblemError(
            "role",
            f"{who.account.name} owns no queue",
            todo="A queue's owner stands in the policy; policy admins and auditors see every queue.",
        )
    now_ms = office.clock_ms()
    people = office.watching.queues()
    names = await _names(office)
    return {
        "trouble": office.watching.trouble,
        "limits": LIMITS,
        "queues": [_queue(name, people.get(name, {}), _alerts(office, name, now_ms), names, now_ms) for name in queues],
    }


LIMITS: Mapping[str, float] = {
    "hit_rate_min": HIT_RATE_MIN,
    "canaries_min": CANARIES_MIN,
    "misses_warn": MISSES_WARN,
    "misses_page": MISSES_PAGE,
    "hurried_warn": HURRIED_WARN,
    "hurried_page": HURRIED_PAGE,
    "objections": OBJECTIONS_H,
}
"""Beyond which something is seen; the page draws them."""


async def _names(office: Office) -> dict[str, str]:
    """Return names by pseudonym where the site tells them."""
    if not office.watching.names:
        return {}
    accounts = await office.people.accounts()
    found = {office.watching.pseudonym(one.name): one.name for one in accounts}
    return {pseudonym: name for pseudonym, name in found.items() if pseudonym is not None}


def _alerts(office: Office, queue: str, now_ms: int) -> list[Alert]:
    found = [one for one in office.watching.alerts.values() if one.queue == queue and ms_of(one.at) > now_ms - ALERT_MS]
    return found[::-1][:ALERTS_MAX]


def _queue(
    name: str, people: Mapping[str, Kept], alerts: Sequence[Alert], names: Mapping[str, str], now_ms: int
) -> dict[str, Any]:
    day = now_ms // DAY_MS
    active = {person: kept for person, kept in people.items() if kept.day >= day - ACTIVE_DAYS}
    figures = figures_of(active.values(), day)
    levels = [kept.watch.level for kept in active.values()]
    rows = sorted(active.items(), key=lambda row: (-row[1].watch.level, row[0]))
    return {
        "queue": name,
        "level": int(queue_level(levels)),
        "at_levels": [sum(level == wanted for level in levels) for wanted in range(4)],
        "reviewers": len(active),
        "hit_rate": figures.hit_rate,
        "hurried": figures.hurried,
        "approved": figures.approved,
        "pairs": figures.pairs,
        "agreement": figures.agreement,
        "escaped": figures.escaped,
        "people": [_person(person, names.get(person), kept) for person, kept in rows],
        "alerts": [_alert(one, names) for one in alerts],
    }


def _person(person: str, name: str | None, kept: Kept) -> dict[str, Any]:
    watch = kept.watch
    seen, caught, items = len(watch.canaries), sum(watch.canaries), len(watch.verdicts)
    objected = items - sum(watch.verdicts)
    sense = d_prime(caught, seen, objected, items)[0] if seen >= SENSE_CANARIES_MIN else None
    return {
        "person": person,
        "name": name,
        "level": int(watch.level),
        "signs": [{"row": ROWS[sign], "sign": sign.value} for sign in watch.signs],
        "canaries": seen,
        "hit_rate": caught / seen if seen else None,
        "misses": round(watch.misses, 2),
        "hurried": hurried_share(watch.hurried),
        "items": items,
        "approved": _share(watch.verdicts),
        "rarer": round(watch.rarer, 2),
        "oftener": round(watch.oftener, 2),
        "sense": None if sense is None else round(sense, 2),
    }


def _alert(one: Alert, names: Mapping[str, str]) -> dict[str, Any]:
    return {
        "at": one.at,
        "person": one.person,
        "name": None if one.person is None else names.get(one.person),
        "text": one.text,
        "row": one.row,
        "level": one.level,
        "page": one.page,
    }


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
