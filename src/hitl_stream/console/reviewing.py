"""What reviewers do: be given items, look at them, judge them; release batches; compare pairs.

Rules:
- A verdict is signed for the card that stands in its `view`. If the item is another by now, nothing is signed.
- Its answer says that it was appended, and no more: what it did is the desk's to say, and is read back.
- Nothing here tells a planted, audited or second look from a first one: every answer goes by what `OpenItem` holds, and
  to somebody who has judged an item it stays `judged`, whatever became of it. Then, and only then, `lesson` tells them
  of a planted one.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from hitl_stream.console.auth import demand_fresh
from hitl_stream.console.bodies import PairAsk, ReleaseAsk, VerdictAsk
from hitl_stream.console.card import Shown, card, lot_card
from hitl_stream.console.lessons import lesson
from hitl_stream.console.office import HELD_MAX, Office, Place, Who
from hitl_stream.console.pairs import Waiting, pair_card
from hitl_stream.console.people import LABELLER
from hitl_stream.console.problems import ProblemError
from hitl_stream.console.sign import judgement_id
from hitl_stream.console.store import Claim, EndedItem, OpenItem, Order, Viewer
from hitl_stream.core.batch import Stage
from hitl_stream.core.commands import milliseconds
from hitl_stream.core.edits import fault
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.review import TIER_MAX
from hitl_stream.core.verdicts import Edit
from hitl_stream.wire.desk_records import HumanDecision, LotState
from hitl_stream.wire.home import home
from hitl_stream.wire.records import time_text

CANDIDATES = 50
TRIES_MAX = 10
"""Rounds of so many: of further items, of classes that somebody is not qualified for, they are not told."""
NOT_THERE = "there is no such item for you now: it is unknown, not yours to decide, or somebody else holds it"


# --- looking ----------------------------------------------------------------------------------------------------------


async def next_items(
    office: Office, who: Who, queue: str, order: Order, count: int, without: Collection[str]
) -> list[dict[str, Any]]:
    """Claim up to `count` items of a queue for somebody, the most pressing first; what they hold is among them.

    Nothing, while they should have a break.
    """
    viewer = _in_queue(office, who, queue)
    policy = office.policy().policy
    now_ms = office.clock_ms()
    due = office.pace.rest(who.account.name, now_ms)
    if due is not None and due.paused:
        return []
    judged = office.just_judged(who.account.name)  # their claims end with the items, as soon as that is read back
    held = {claim.item for claim in await office.store.held(who.account.name, now_ms)} - set(judged)
    skip = list(dict.fromkeys([*without, *judged]))
    found: list[dict[str, Any]] = []
    for _ in range(TRIES_MAX):
        some = await office.store.next(viewer, now_ms, order=order, limit=CANDIDATES, without=skip)
        for item in some:
            skip.append(item.item)
            if not who.account.is_qualified(item.type, now_ms):
                continue
            if item.item not in held and len(held) >= HELD_MAX:
                continue
            claim = await office.store.claim(item.item, viewer, now_ms)
            if claim is not None:
                held.add(item.item)
                found.append(await _body(office, item.item, item, card(item, policy), claim, ()))
            if len(found) >= count:
                return found
        if len(some) < CANDIDATES:
            break
    return found


async def look(office: Office, who: Who, item: str) -> dict[str, Any]:
    """Return one item as somebody may see it."""
    viewer = office.viewer(who)
    now_ms = office.clock_ms()
    found = await office.store.item(item, viewer, now_ms)
    said = await office.store.said(item, who.account.name)
    policy = office.policy().policy
    if isinstance(found, OpenItem) and not said and _may_look(found, who, viewer, policy):
        held = [one for one in await office.store.held(who.account.name, now_ms) if one.item == item]
        return await _body(office, item, found, card(found, policy), held[0] if held else None, ())
    if said:
        return await _body(office, item, None, None, None, said)
    if isinstance(found, EndedItem) and not _is_hidden(found.review.approvals, who, viewer, policy):
        return await _body(office, item, found, None, None, ())
    raise ProblemError("not_found", NOT_THERE, where=f"item {item}", todo="Ask for the next one.")


async def _body(
    office: Office,
    item: str,
    found: OpenItem | EndedItem | None,
    shown: Shown | None,
    claim: Claim | None,
    said: Sequence[HumanDecision],
) -> dict[str, Any]:
    state = "judged" if said else "open" if isinstance(found, OpenItem) else "ended"
    return {
        "item": item,
        "state": state,
        "card": None if shown is None else shown.text,
        "view": None if shown is None else shown.view,
        "claimed_until": None if claim is None else time_text(claim.until_ms),
        "yours": [
            {
                "id": id_of(one.jws),
                "verdict": one.verdict,
                "effect": one.effect,
                "why": one.why,
                "appended": one.appended,
            }
            for one in said
        ],
        "lesson": lesson(said),
        "stale_s": await stale_s(office),
    }


def rest(office: Office, who: Who) -> dict[str, Any] | None:
    """Return the break that somebody should have now; None: they need none."""
    due = office.pace.rest(who.account.name, office.clock_ms())
    if due is None:
        return None
    times = {"since": time_text(due.began_ms), "until": time_text(due.until_ms)}
    return {"items": due.items, "paused": due.paused, **times}


def go_on(office: Office, who: Who) -> None:
    """Give somebody more items who goes on without a break."""
    if office.pace.go_on(who.account.name, office.clock_ms()):
        structlog.get_logger(role="console").info("somebody goes on without a break", reviewer=who.account.name)


async def stale_s(office: Office) -> float | None:
    """Return how far the view is behind, in seconds."""
    stale_ms = await office.store.stale_ms(office.clock_ms())
    return None if stale_ms is None else stale_ms / 1000


def _may_look(found: OpenItem, who: Who, viewer: Viewer, policy: Policy) -> bool:
    return not _is_hidden(found.approvals, who, viewer, policy)


def _is_hidden(approvals: Collection[Any], who: Who, viewer: Viewer, policy: Policy) -> bool:
    """Say whether it is an external client's, and not for somebody who merely looks."""
    if who.account.has("auditor"):
        return False
    queues = [need.queue for need in approvals]
    external = any(name in policy.queues and policy.queues[name].external for name in queues)
    return external and not set(queues) & set(viewer.queues)


def _in_queue(office: Office, who: Who, queue: str) -> Viewer:
    """Return a viewer of this queue alone; refuse a queue that is not there, or not theirs."""
    viewer = office.viewer(who)
    if queue not in viewer.queues:
        if viewer.confined or queue not in office.policy().policy.queues:
            raise ProblemError("not_found", f"there is no queue {queue} for you", todo="See GET /api/v1/queues.")
        roles = ", ".join(office.policy().policy.queues[queue].roles)
        raise ProblemError(
            "role",
            f"{who.account.name} has no role that decides in {queue}; it asks {roles}",
            todo=f"Ask an administrator: hitl user role {who.account.name} --add ROLE.",
        )
    return msgspec.structs.replace(viewer, queues=(queue,))


# --- claims -----------------------------------------------------------------------------------------------------------


async def claim_item(office: Office, who: Who, item: str) -> Claim:
    """Claim an item, or keep it."""
    found = await open_item(office, who, item)
    _qualified(office, who, found)
    return await _claim(office, who, item)


async def _claim(office: Office, who: Who, item: str) -> Claim:
    claim = await office.store.claim(item, office.viewer(who), office.clock_ms())
    if claim is None:
        raise ProblemError(
            "held",
            "the item cannot be had: somebody else holds it, or it needs nothing from you",
            where=f"item {item}",
            todo="Ask for the next one.",
        )
    return claim


async def open_item(office: Office, who: Who, item: str) -> OpenItem:
    """Return an undecided item that somebody may decide or look at; refuse any other."""
    viewer = office.viewer(who)
    found = await office.store.item(item, viewer, office.clock_ms())
    if isinstance(found, OpenItem) and _may_look(found, who, viewer, office.policy().policy):
        return found
    if isinstance(found, EndedItem):
        raise ProblemError("changed", "the item has ended", where=f"item {item}", todo="Ask for the next one.")
    raise ProblemError("not_found", NOT_THERE, where=f"item {item}", todo="Ask for the next one.")


def _qualified(office: Office, who: Who, item: OpenItem) -> None:
    if not who.account.is_qualified(item.type, office.clock_ms()):
        raise ProblemError(
            "not_qualified",
            f"{who.account.name} has no current qualification for {item.type}",
            todo=f"After a lesson: hitl user qualify {who.account.name} {item.type}.",
        )


async def painted(office: Office, who: Who, item: str, view: str) -> tuple[int, str]:
    """Return when a card was painted, and the receipt; refuse a card that is not the item's any more."""
    found = await open_item(office, who, item)
    _same_view(card(found, office.policy().policy), view, f"item {item}")
    return _receipt(office, who, item, view)


def _receipt(office: Office, who: Who, subject: str, view: str) -> tuple[int, str]:
    now_ms = office.watched.now_ms() or office.clock_ms()
    return now_ms, office.signer.receipt(who.account.name, subject, view, now_ms)


def _same_view(shown: Shown, view: str, where: str) -> None:
    if shown.view != view:
        raise ProblemError(
            "changed",
            "what you judged is not what stands there now: it has changed since it was shown",
            where=where,
            todo="Look at it again, and judge what you see.",
        )


# --- judging ----------------------------------------------------------------------------------------------------------


class Said(Struct, frozen=True):
    """A judgement that was appended; `place` is None for one that the desk has answered already."""

    id: str
    place: Place


async def judge(office: Office, who: Who, item: str, ask: VerdictAsk) -> Said:
    """Sign a verdict in somebody's name, and append it at the item's partition."""
    jti = judgement_id(who.account.name, item, ask.id)
    repeated = await _answered(office, who, item, jti)
    if repeated is not None:
        return repeated
    office.ready()
    found = await open_item(office, who, item)
    _qualified(office, who, found)
    compiled = office.policy()
    shown = card(found, compiled.policy)
    _same_view(shown, ask.view, f"item {item}")
    role = _role(found.approvals, who, compiled.policy, ask.role)
    _sound(ask, shown, compiled.policy)
    if found.tier >= TIER_MAX and ask.verdict in ("approve", "change"):
        demand_fresh(who, f"{ask.verdict} of tier {found.tier}")
    common = _common(office, who, role, item, ask.view, ask.painted, jti, ask.ago_ms)
    changes = [(change.path, change.value) for change in ask.changes]
    value = _signed(
        lambda: office.signer.verdict(
            common,
            shown,
            item=item,
            hash_=found.hash,
            word=ask.verdict,
            changes=changes,
            code=ask.code,
            errors=ask.errors,
            note=ask.note,
        )
    )
    partition = home(found.tenant, found.entity.account or found.agent.id, office.topics.partitions)
    await _claim(office, who, item)
    place = await office.writer.append("verdicts", partition, value)
    office.remember(who.account.name, item)
    office.pace.judged(who.account.name, milliseconds(common["painted"]), office.clock_ms())
    if ask.verdict == "escalate" or sum(need.people - len(need.by) for need in found.approvals) > 1:
        await office.store.release(item, who.account.name)  # somebody else is asked now; else it ends with the item
    return Said(jti, place)


async def _answered(office: Office, who: Who, item: str, jti: str) -> Said | None:
    """Return the judgement of this id that the desk has read already: the answer to its first sending was lost."""
    for one in await office.store.said(item, who.account.name):
        if id_of(one.jws) == jti:
            topic, partition, offset = one.source.rsplit("/", 2)
            return Said(jti, Place(topic, int(partition), int(offset), 0))
    return None


class _Id(Struct, frozen=True):
    jti: str = ""


_decode_id = msgspec.json.Decoder(_Id).decode


def id_of(jws: str) -> str:
    """Return the id of a signed judgement that the desk has read; empty for what is none."""
    payload = jws.split(".")[1:2]
    try:
        return _decode_id(base64.urlsafe_b64decode(payload[0] + "=" * (-len(payload[0]) % 4))).jti
    except (ValueError, IndexError):
        return ""


def _sound(ask: VerdictAsk, shown: Shown, policy: Policy) -> None:
    """Refuse early what the desk would: a rejection or change without a reason, a change that changes nothing."""
    if ask.verdict in ("reject", "change") and policy.reasons and ask.code not in policy.reasons:
        raise ProblemError(
            "invalid",
            f"a {ask.verdict} needs a reason that the policy knows, found {ask.code!r:.60}",
            where="code",
            todo=f"Name one of: {', '.join(policy.reasons)}.",
        )
    if ask.verdict != "change" and ask.changes:
        raise ProblemError(
            "invalid", f"a {ask.verdict} changes nothing", where="changes", todo="Say change, or leave them."
        )
    if ask.verdict == "change":
        standing = msgspec.json.decode(shown.text)["can_change"]
        standing = {path: float(value) if type(value) is int else value for path, value in standing.items()}
        why = fault([Edit(change.path, change.value) for change in ask.changes], standing)
        if why is not None:
            raise ProblemError("invalid", why, where="changes", todo="The card lists under can_change what can be set.")


def _role(approvals: Sequence[Any], who: Who, policy: Policy, wanted: str | None) -> str:
    """Return the role in which somebody gives an approval that is missing."""
    queues = [need.queue for need in approvals if len(need.by) < need.people]
    asked = [role for queue in queues if queue in policy.queues for role in policy.queues[queue].roles]
    fitting = [role for role in dict.fromkeys(asked) if who.account.has(role)]
    if wanted is not None and wanted in fitting:
        return wanted
    if wanted is not None or not fitting:
        found = ", ".join(who.account.queue_roles) or "none"
        raise ProblemError(
            "role",
            f"no approval that is missing can be given as {wanted or found}",
            where="role",
            todo=f"It asks {', '.join(dict.fromkeys(asked)) or 'nobody'}.",
        )
    return fitting[0]


def _common(
    office: Office, who: Who, role: str, subject: str, view: str, receipt: str, jti: str, ago_ms: int = 0
) -> dict[str, Any]:
    now_ms = office.watched.now_ms() or office.clock_ms()
    painted_ms = office.signer.painted_ms(receipt, who.account.name, subject, view, now_ms)
    if painted_ms is None:
        raise ProblemError(
            "invalid",
            "the receipt is not one of this console for this card",
            where="painted",
            todo="Say that the card is painted, and send the receipt that comes back.",
        )
    return office.signer.common(
        office.watched.audience,
        jti,
        now_ms,
        by=who.account.name,
        role=role,
        painted_ms=painted_ms,
        decided_ms=max(painted_ms, now_ms - ago_ms),
        policy=office.policy().digest,
        epoch=office.watched.control.epoch,
    )


def _signed(make: Any) -> bytes:
    try:
        value = make()
    except ValueError as error:
        raise ProblemError("too_large", str(error), todo="Say less.") from None
    assert isinstance(value, bytes)
    return value


async def skip(office: Office, who: Who, item: str, view: str | None, receipt: str | None) -> None:
    """Give a claim back. With the card's view and receipt it is noted that it was looked at, and left."""
    found = await office.store.item(item, office.viewer(who), office.clock_ms())
    if isinstance(found, OpenItem) and view is not None and receipt is not None and not office.watched.missing():
        compiled = office.policy()
        shown = card(found, compiled.policy)
        _same_view(shown, view, f"item {item}")
        role = _role(found.approvals, who, compiled.policy, None)
        common = _common(office, who, role, item, view, receipt, judgement_id(who.account.name, item, None))
        value = _signed(lambda: office.signer.skipped(common, shown, item=item))
        partition = home(found.tenant, found.entity.account or found.agent.id, office.topics.partitions)
        await office.writer.append("verdicts", partition, value)
    await office.store.release(item, who.account.name)


# --- batches ----------------------------------------------------------------------------------------------------------


async def batches(office: Office, who: Who) -> list[dict[str, Any]]:
    """Return the batches of somebody's queues; to who only looks, those of every queue that is not external."""
    viewer, policy = office.viewer(who), office.policy().policy
    if not viewer.queues:
        auditor = who.account.has("auditor")
        seen = tuple(sorted(name for name, queue in policy.queues.items() if auditor or not queue.external))
        viewer = msgspec.structs.replace(viewer, queues=seen)
    lots = await office.store.lots(viewer)
    return [_batch(lot, who, policy) for lot in lots]


def _batch(lot: LotState, who: Who, policy: Policy) -> dict[str, Any]:
    shown = lot_card(lot)
    why = _why_not_release(lot, who, policy)
    told = {"batch": lot.lot, "state": lot.state, "card": shown.text, "view": shown.view}
    return {**told, "releasable": why is None, "why": why}


_NOT_READY: Mapping[str, str] = {
    Stage.GATHERING: "it is not complete yet",
    Stage.SAMPLING: "its sample, and what was flagged, is judged first",
}


def _why_not_release(lot: LotState, who: Who, policy: Policy) -> str | None:
    """Say why somebody cannot release a batch now; None: they can, once they have just signed in."""
    if lot.root is None or lot.state != Stage.READY:
        return _NOT_READY.get(lot.state, "it is over")
    if who.account.name in lot.not_:
        return "you proposed something of it, or answer for its agent; another person releases it"
    missing = [need for need in lot.approvals if len(need.by) < need.people]
    if any(who.account.name in need.by for need in lot.approvals):
        return "you have released it; another person does so too"
    roles = [role for need in missing if need.queue in policy.queues for role in policy.queues[need.queue].roles]
    if not set(roles) & set(who.account.queue_roles):
        return f"you have no role that releases it; it asks {', '.join(dict.fromkeys(roles)) or 'nobody'}"
    return None


async def _lot(office: Office, who: Who, batch: str) -> LotState:
    for lot in await office.store.lots(office.viewer(who)):
        if lot.lot == batch:
            return lot
    raise ProblemError(
        "not_found", "there is no such batch in your queues", where=f"batch {batch}", todo="See GET /api/v1/batches."
    )


async def batch_painted(office: Office, who: Who, batch: str, view: str) -> tuple[int, str]:
    """Return when a batch's card was painted, and the receipt."""
    lot = await _lot(office, who, batch)
    _same_view(lot_card(lot), view, f"batch {batch}")
    return _receipt(office, who, batch, view)


async def release_batch(office: Office, who: Who, batch: str, ask: ReleaseAsk) -> Said:
    """Sign the release of a batch in somebody's name, over the root that its card names."""
    office.ready()
    lot = await _lot(office, who, batch)
    shown = lot_card(lot)
    _same_view(shown, ask.view, f"batch {batch}")
    if lot.root is None or lot.state != Stage.READY:
        raise ProblemError(
            "not_ready",
            f"the batch is {lot.state}, expected READY: its sample is judged first",
            where=f"batch {batch}",
            todo="Judge what is waiting of it, or wait until it is complete.",
        )
    demand_fresh(who, "the release of a batch")
    if who.account.name in lot.not_:
        raise ProblemError(
            "role", "you proposed something of this batch, or answer for its agent", todo="Another person releases it."
        )
    role = _role(lot.approvals, who, office.policy().policy, ask.role)
    jti = judgement_id(who.account.name, batch, ask.id)
    common = _common(office, who, role, batch, ask.view, ask.painted, jti)
    root, size = lot.root, lot.size
    value = _signed(lambda: office.signer.batch_release(common, shown, batch=batch, size=size, root=root))
    tenant, place, _ = batch.split("/", 2)
    partition = home(tenant, place, office.topics.partitions)
    return Said(jti, await office.writer.append("verdicts", partition, value))


# --- pairs ------------------------------------------------------------------------------------------------------------


def next_pair(office: Office, who: Who, without: Collection[str] = ()) -> dict[str, Any] | None:
    """Return the next pair to be compared, of those that were not put aside; None: none waits."""
    _labeller(who)
    found = office.pairs.next(who.sees, [*without, *office.just_judged(who.account.name)])
    if found is None:
        return None
    shown = pair_card(found.pair, office.signer.left(who.account.name, found.pair.pair))
    return {"pair": found.pair.pair, "card": shown.text, "view": shown.view}


def pair_painted(office: Office, who: Who, pair: str, view: str) -> tuple[int, str]:
    """Return when a pair was painted, and the receipt."""
    found = _pair(office, who, pair)
    _same_view(pair_card(found.pair, office.signer.left(who.account.name, pair)), view, f"pair {pair}")
    return _receipt(office, who, pair, view)


async def prefer(office: Office, who: Who, pair: str, ask: PairAsk) -> Said:
    """Sign which of two outputs somebody prefers."""
    office.ready()
    found = _pair(office, who, pair)
    left = office.signer.left(who.account.name, pair)
    shown = pair_card(found.pair, left)
    _same_view(shown, ask.view, f"pair {pair}")
    jti = judgement_id(who.account.name, pair, ask.id)
    common = _common(office, who, LABELLER, pair, ask.view, ask.painted, jti, ask.ago_ms)
    value = _signed(lambda: office.signer.preference(common, shown, pair=pair, left=left, choice=ask.choice))
    place = await office.writer.append("verdicts", found.partition, value)
    office.remember(who.account.name, pair)
    return Said(jti, place)


def _pair(office: Office, who: Who, pair: str) -> Waiting:
    _labeller(who)
    found = office.pairs.waiting.get(pair)
    if found is None or not who.sees(found.pair.tenant):
        raise ProblemError(
            "not_found", "there is no such pair to be compared", where=f"pair {pair}", todo="Ask for the next one."
        )
    return found


def _labeller(who: Who) -> None:
    who.needs(LABELLER)
