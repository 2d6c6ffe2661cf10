"""The quiz by which somebody qualifies anew for a class: forty old actions, half of them spoilt, and who saw which.

Rules:
- It is made of actions that other people approved at least a day ago, of the person's own tenants and queues. Each
  could be spoilt; of half of them one thing is, as canaries are (`core.canaries`). All get the same dates and are
  routed anew by the policy in force, so that nothing but what is wrong tells the halves apart.
- The answers stay on the server. What was missed is told when all are given.
- 35 right of 40 pass: the qualification is lengthened, and the console says so on `verdicts`, which the monitor reads
  as a new beginning. Who fails tries again after a rest.
- A quiz is kept with the account: a reload, another tab or another console goes on with it, for a day. A question
  counts by its first answer.
- Only who was qualified for a class by an administrator once qualifies anew by a quiz.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct

from hitl_stream.console.card import card, shown
from hitl_stream.console.office import Office, Who
from hitl_stream.console.people import Quiz
from hitl_stream.console.problems import ProblemError
from hitl_stream.console.sign import judgement_id
from hitl_stream.console.store import OpenItem
from hitl_stream.core.action import Action
from hitl_stream.core.canaries import AGE_MS_MIN, chosen
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.edits import TEXT, editable, edited, proposed_anew
from hitl_stream.core.events import Effect, Purpose
from hitl_stream.core.history import recall
from hitl_stream.core.policy.compile import Compiled
from hitl_stream.core.route import route
from hitl_stream.core.verdicts import QUIZ_ITEMS_MIN, QUIZ_RIGHT_MIN
from hitl_stream.core.window import Window
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import HumanDecision, decision_of, ms_of
from hitl_stream.wire.home import home
from hitl_stream.wire.records import Held, Routed, time_text
from hitl_stream.wire.writer import reason_row

ITEMS = QUIZ_ITEMS_MIN
RIGHT = QUIZ_RIGHT_MIN
SPOILT = ITEMS // 2
QUALIFIED_MS = 90 * DAY_MS
"""As `hitl user qualify` does where it is told nothing else."""
OPEN_MS = DAY_MS
"""A quiz that was begun longer ago is begun anew, with other items."""
REST_MS = 10 * 60_000
"""After a quiz that was failed: long enough to be a rest, and to read what was missed."""
DRAWN_BITS = 32
ID = "~quiz"
"""Of every action in a quiz: no router takes it, no executor runs it."""
COUNTS = (Effect.APPLIED, Effect.WAITING)
APPROVE, OBJECT = "a", "o"


class Question(Struct, frozen=True):
    """One item of a quiz: what is shown, and, where it is spoilt, what is wrong with it."""

    card: str
    view: str
    wrong: dict[str, Any] | None = None


_encode = msgspec.json.Encoder().encode
_questions = msgspec.json.Decoder(tuple[Question, ...]).decode


# --- how it stands ----------------------------------------------------------------------------------------------------


async def overview(office: Office, who: Who) -> list[dict[str, Any]]:
    """Return each class that somebody was ever qualified for, until when, and how their quiz of it stands."""
    now_ms = office.clock_ms()
    known = await _material(office, who, now_ms)
    return [await _class(office, who, name, until_ms, len(known.get(name, ())), now_ms) for name, until_ms in _own(who)]


def _own(who: Who) -> list[tuple[str, int]]:
    return sorted(who.account.qualifications.items())


async def _class(office: Office, who: Who, class_: str, until_ms: int, known: int, now_ms: int) -> dict[str, Any]:
    kept = await office.people.quiz(who.account.name, class_)
    open_ = kept is not None and bool(kept.questions) and kept.begun_ms > now_ms - OPEN_MS
    again_ms = kept.failed_ms + REST_MS if kept is not None and kept.failed_ms else 0
    return {
        "class": class_,
        "until": time_text(until_ms),
        "holds": until_ms > now_ms,
        "known": known,
        "needed": ITEMS,
        "answered": len(kept.answers) if kept is not None and open_ else None,
        "again_at": time_text(again_ms) if again_ms > now_ms and not open_ else None,
    }


# --- taking it --------------------------------------------------------------------------------------------------------


async def begin(office: Office, who: Who, class_: str) -> dict[str, Any]:
    """Begin a quiz, or go on with the one that is open; return the question that is to be answered."""
    _may_take(who, class_)
    now_ms = office.clock_ms()
    kept = await office.people.quiz(who.account.name, class_)
    if kept is None or not kept.questions or kept.begun_ms <= now_ms - OPEN_MS:
        _rested(kept, now_ms)
        made = Quiz(secrets.token_hex(8), now_ms, await _made(office, who, class_, now_ms), "", 0)
        kept = await office.people.begin_quiz(who.account.name, class_, made, now_ms - OPEN_MS)
    return await _stands(office, who, class_, kept)


async def answer(office: Office, who: Who, class_: str, quiz: str, at: int, approve: bool) -> dict[str, Any]:
    """Keep an answer, and return the next question, or, after the last one, the result."""
    _may_take(who, class_)
    name = who.account.name
    taken = await office.people.answer_quiz(name, class_, quiz, at, APPROVE if approve else OBJECT)
    kept = await office.people.quiz(name, class_)
    if kept is None or kept.quiz != quiz or not kept.questions:
        raise ProblemError(
            "changed",
            "this quiz is over, or another one was begun meanwhile",
            where=f"quiz of {class_}",
            todo="Look at the quizzes again; another tab of yours may have gone on.",
        )
    if not taken and len(kept.answers) <= at:
        raise ProblemError(
            "changed",
            f"question {at + 1} is not the one to be answered, which is {len(kept.answers) + 1}",
            where=f"quiz of {class_}",
            todo="Go on with the question that is asked now.",
        )
    return await _stands(office, who, class_, kept)


def _may_take(who: Who, class_: str) -> None:
    if class_ not in who.account.qualifications:
        raise ProblemError(
            "not_qualified",
            f"{who.account.name} was never qualified for {class_[:100]}, and a quiz only qualifies anew",
            todo=f"After a lesson: hitl user qualify {who.account.name} {class_[:100]}.",
        )


def _rested(kept: Quiz | None, now_ms: int) -> None:
    again_ms = kept.failed_ms + REST_MS if kept is not None and kept.failed_ms else 0
    if again_ms > now_ms:
        raise ProblemError(
            "not_ready",
            "the last quiz of this class was not passed, and the next one comes after a rest",
            where=f"at {time_text(again_ms)}",
            todo="Read what was missed, and come back then.",
        )


async def _stands(office: Office, who: Who, class_: str, kept: Quiz) -> dict[str, Any]:
    questions = _questions(kept.questions)
    at = len(kept.answers)
    told = {"class": class_, "quiz": kept.quiz, "of": len(questions), "at": at, "needed": _needed(len(questions))}
    if at < len(questions):
        asked = {"state": "open", "card": questions[at].card, "view": questions[at].view}
        return {**told, **asked, "right": None, "until": None, "again_at": None, "missed": []}
    return {**told, "card": None, "view": None, **await _ended(office, who, class_, kept, questions)}


def _needed(of: int) -> int:
    return -(-of * QUIZ_RIGHT_MIN // QUIZ_ITEMS_MIN)


async def _ended(office: Office, who: Who, class_: str, kept: Quiz, questions: Sequence[Question]) -> dict[str, Any]:
    """Return the result of a quiz of which all is answered, after what follows from it was done."""
    now_ms = office.clock_ms()
    fits = [(letter == OBJECT) == (one.wrong is not None) for letter, one in zip(kept.answers, questions, strict=True)]
    right = sum(fits)
    missed = [_missed(at, one) for at, one in enumerate(questions) if not fits[at]]
    told = {"right": right, "missed": missed}
    name = who.account.name
    if right < _needed(len(questions)):
        await office.people.end_quiz(name, class_, kept.quiz, now_ms)
        return {**told, "state": "failed", "until": None, "again_at": time_text(now_ms + REST_MS)}
    until_ms = max(who.account.qualifications[class_], now_ms + QUALIFIED_MS)
    # It is said first: what was said twice counts once, and nobody is qualified by a quiz of which nobody hears.
    await _say(office, who, class_, kept, right, len(questions))
    await office.people.qualify(name, class_, until_ms)
    await office.people.end_quiz(name, class_, kept.quiz, 0)
    return {**told, "state": "passed", "until": time_text(until_ms), "again_at": None}


def _missed(at: int, one: Question) -> dict[str, Any]:
    parts = msgspec.json.decode(one.card)
    return {"at": at, "type": parts["type"], "entity": parts["entity"], "wrong": one.wrong}


async def _say(office: Office, who: Who, class_: str, kept: Quiz, right: int, of: int) -> None:
    office.ready()
    name, now_ms = who.account.name, office.watched.now_ms() or office.clock_ms()
    common = office.signer.common(
        office.watched.audience,
        judgement_id(name, f"quiz {class_}", kept.quiz),
        now_ms,
        by=name,
        role=next(iter(who.account.queue_roles), "reviewer"),
        painted_ms=kept.begun_ms,
        policy=office.policy().digest,
        epoch=office.watched.control.epoch,
    )
    summary = shown({"quiz": kept.quiz, "class": class_, "right": right, "of": of})
    value = office.signer.qualified(common, summary, class_=class_, right=right, of=of)
    tenant = (who.account.tenants or (office.tenant,))[0]
    await office.writer.append("verdicts", home(tenant, name, office.topics.partitions), value)


# --- making it --------------------------------------------------------------------------------------------------------


async def _made(office: Office, who: Who, class_: str, now_ms: int) -> str:
    known = (await _material(office, who, now_ms)).get(class_, [])
    if len(known) < ITEMS:
        raise ProblemError(
            "not_ready",
            f"a quiz takes {ITEMS} old approved actions of {class_[:100]} that you have not judged, and {len(known)} "
            "are known here",
            where=f"quiz of {class_[:100]}",
            todo=f"Until there are more, an administrator qualifies you: hitl user qualify {who.account.name} "
            f"{class_[:100]}.",
        )
    drawn = office.chance.sample(known, ITEMS)
    spoilt = set(office.chance.sample(range(ITEMS), SPOILT))
    compiled = office.policy()
    questions = [
        _question(one, compiled, now_ms, office.chance if at in spoilt else None) for at, one in enumerate(drawn)
    ]
    return _encode(questions).decode()


class _Old(Struct, frozen=True):
    """An old approved action, under a new id and date, that a quiz can be made of."""

    held: Held
    raw: bytes
    decoded: Decoded

    @property
    def action(self) -> Action:
        """Return the action as it was proposed."""
        return self.decoded.action


async def _material(office: Office, who: Who, now_ms: int) -> dict[str, list[_Old]]:
    """Return by class what a quiz for somebody could be made of."""
    said = await office.store.approved(office.viewer(who), now_ms - AGE_MS_MIN)
    # A thousand actions take half a second to be looked through, in which everybody else would wait.
    return await asyncio.to_thread(_sifted, said, who, now_ms)


def _sifted(said: Sequence[HumanDecision], who: Who, now_ms: int) -> dict[str, list[_Old]]:
    own = {one.action_id for one in said if one.by == who.account.name}
    found: dict[str, dict[tuple[str, str], _Old]] = {}
    for one in said:
        if one.purpose != Purpose.DECIDE or one.effect not in COUNTS or one.action_id in own:
            continue
        old = _old(one, now_ms)
        if old is not None and old.held.type in who.account.qualifications:
            found.setdefault(old.held.type, {}).setdefault((one.tenant, one.action_id), old)
    return {class_: list(olds.values()) for class_, olds in found.items()}


def _old(one: HumanDecision, now_ms: int) -> _Old | None:
    """Return what people approved as a quiz shows it; None: it has nothing that could be spoilt, or cannot be read."""
    raw = bytes(one.action)
    if one.asked is None or now_ms - ms_of(one.appended) < AGE_MS_MIN:
        return None
    try:
        held = decision_of(Routed(topic="", head=one.asked, seal=""), raw)
        made = _undated(proposed_anew(raw, ID, time_text(now_ms), {"ce_type": held.type}))
    except (msgspec.DecodeError, ValueError):
        return None
    decoded = decode_bytes(made)
    if not isinstance(decoded, Decoded) or chosen(decoded.action, 0) is None:
        return None
    return _Old(held, made, decoded)


_members = msgspec.json.Decoder(dict[str, Raw]).decode


def _undated(raw: bytes) -> bytes:
    """Return an action without the time at which it would have expired, which is over."""
    return msgspec.json.encode({name: value for name, value in _members(raw).items() if name != "expires_at"})


def _question(old: _Old, policy: Compiled, now_ms: int, chance: random.Random | None) -> Question:
    """Return an item of a quiz; with `chance`, one thing of it is spoilt."""
    if chance is None:
        return _shown(old.held, old.raw, old.decoded, policy, now_ms, None)
    way = chosen(old.action, chance.getrandbits(DRAWN_BITS))
    assert way is not None  # `_old` has seen one
    mutation, edit = way
    raw = edited(old.raw, ID, (edit,), time_text(now_ms))
    decoded = decode_bytes(raw)
    assert isinstance(decoded, Decoded), decoded
    wrong = {"error": mutation.error, "places": [_place(old.action, decoded.action, edit.path)]}
    return _shown(old.held, raw, decoded, policy, now_ms, wrong)


def _place(was: Action, now: Action, path: str) -> dict[str, Any]:
    """Return the one place that was changed: what stood before, what had been proposed, and what is shown."""
    proposed, found = editable(was)[path], editable(now)[path]
    if path == TEXT:
        return {"path": path, "field": "text", "before": None, "proposed": proposed, "shown": found, "unit": None}
    change = now.changes[int(path.split("/")[2])]
    told = {"path": path, "field": change.field, "before": change.before}
    return {**told, "proposed": proposed, "shown": found, "unit": change.unit}


def _shown(
    held: Held, raw: bytes, decoded: Decoded, policy: Compiled, now_ms: int, wrong: Mapping[str, Any] | None
) -> Question:
    draft = Window(policy.reach).draft()
    draft.at(now_ms)
    routed = route(decoded.action, recall(decoded.action, held.tenant, draft), policy)
    made = card(
        OpenItem(
            item=f"quiz-{secrets.token_hex(5)}",
            tenant=held.tenant,
            hash=decoded.hash,
            type=held.type,
            level=held.level,
            agent=held.agent,
            entity=held.entity,
            queue="",
            opened=time_text(now_ms),
            approvals=(),
            execute_by="",
            tier=1,
            floor_s=0.0,
            escalated=0,
            covered=(),
            batch=None,
            flagged=False,
            opinions=(),
            exception=None,
            reasons=tuple(reason_row(reason) for reason in routed.reasons),
            score=None,
            policy=policy.digest,
            action=Raw(raw),
        ),
        policy.policy,
    )
    return Question(made.text, made.view, None if wrong is None else dict(wrong))
