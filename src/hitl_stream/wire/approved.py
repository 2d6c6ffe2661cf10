"""What people approved: the desk's record around the router's, and whether the approvals inside hold.

The desk says so under its seal, and whoever lets it run believes only what it can check again:
1. the record is a desk's, for this topic, and the action is the one that its hash names (`read_approved`);
2. inside it stands what the router had sealed for review or escalation, the same decision about the same bytes;
3. each verdict is signed by a key that may speak for whom it names, judged by the time at which it was appended, and
   says `approve` to this very hash; or it releases a batch, and the proof leads from this hash to the root it names;
4. none of these people proposed the action or answers for its agent;
5. there are as many, each in a role of the queue or of those it escalates to, as the router asked for, and as our own
   policy asks where it is the one that the router decided by.
Nothing here raises on any bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Raw, Struct

from hitl_stream.core.commands import KeyEntry, milliseconds
from hitl_stream.core.control import is_same_holder
from hitl_stream.core.events import ErrorClass, Outcome, Purpose, Rejection
from hitl_stream.core.gate import alone
from hitl_stream.core.merkle import verify
from hitl_stream.core.policy.compile import EXECUTE_BY_MAX_MS, Compiled
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.review import ESCALATED_MAX
from hitl_stream.core.verdicts import LOT_MAX, BatchRelease, Judged, Verdict
from hitl_stream.wire.codec import Decoded, Undecodable
from hitl_stream.wire.decided import decided_action, routed_value
from hitl_stream.wire.desk_records import GivenRow, ms_of
from hitl_stream.wire.records import (
    ACTION_MARK,
    DECISION,
    ROUTED_MARK,
    Approved,
    Common,
    Decision,
    Held,
    Proof,
    Routed,
    decode_approved,
    decode_held,
    encode,
    header,
    time_text,
)
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealed
from hitl_stream.wire.signing import read_judgement
from hitl_stream.wire.verdicts import authority

ASKING = ("review", "escalation")
"""The topics on which the router asks people to decide."""
VERDICTS_MAX = 32
"""Two people for each of some queues, and who released the batch."""
_OWN = frozenset({"outcome", "epoch", "moment", "execute_by"})
_REPEATED = (*(name for name in Common.__struct_fields__ if name not in _OWN), "origin", "attempt", "supersedes")
"""What the desk's record repeats of the router's."""


class Trust(Struct, frozen=True):
    """What an approval is checked against: whom this reader trusts, and by which rules.

    `topics` are the names of those on which a router asks people. `keys` are those that `control` lists, `rules_at` is
    the epoch at which it last changed the rules, `audience` the Kafka cluster's id.
    """

    topics: Collection[str]
    router_keys: Mapping[str, SealKey]
    keys: Mapping[str, KeyEntry]
    audience: str
    policy: Compiled
    rules_at: int = -1


class Vouching(Struct, frozen=True):
    """An approved record that is a desk's, and its action as the router read it."""

    decision: Approved
    decoded: Decoded


class _Said(Struct, frozen=True):
    """A person who said yes, in which role."""

    by: str
    role: str


# --- writing ----------------------------------------------------------------------------------------------------------


def approved_value(
    routed: Routed,
    decision: Decision,
    raw: bytes,
    *,
    by: Sequence[str],
    given: Sequence[GivenRow],
    moment_ms: int,
    epoch: int,
    execute_by_ms: int,
    held: int | None = None,
    proof: Proof | None = None,
) -> bytes:
    """Return the value of a record on `execute` that people approved; its head is to be sealed by the desk.

    `routed` is the router's sealed record and `decision` what it says, `raw` the action's bytes. `given` are the signed
    approvals as they were appended, `by` the people in them. `held`: where the desk has read that topic itself.
    """
    shared = {name: getattr(decision, name) for name in _REPEATED}
    record = Approved(
        **shared,
        outcome=Outcome.EXECUTE.name,
        execute_by=time_text(execute_by_ms),
        epoch=epoch,
        moment=time_text(moment_ms),
        held=decision.held if held is None else held,
        by=tuple(by),
        routed=routed,
        verdicts=tuple(row.jws for row in given),
        given=tuple(row.appended for row in given),
        proof=proof,
        action=Raw(raw),
    )
    return encode(record)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_approved(
    topic: str, value: bytes | None, headers: Sequence[tuple[str, bytes]], keys: Mapping[str, SealKey]
) -> Vouching | Undecodable:
    """Read a record of `execute` that a desk sealed under one of `keys`; what is inside it is not looked at yet."""
    if not value:
        return Undecodable(ErrorClass.EMPTY, "the record has no value")
    kind = header(headers, TYPE_HEADER)
    if kind != DECISION.encode():
        return Undecodable(ErrorClass.UNKNOWN_TYPE, f"hitl-type {kind!r:.60}, expected {DECISION}")
    head = value[: max(0, value.find(ACTION_MARK))]
    if ROUTED_MARK not in head:
        return Undecodable(ErrorClass.SCHEMA, "not an action behind what a router had sealed")
    if not sealed(keys, topic, DECISION, head, header(headers, SEAL_HEADER) or b""):
        return Undecodable(ErrorClass.SEAL, f"hitl-seal is not that of a desk, for {topic}")
    try:
        decision = decode_approved(value)
    except (ValueError, RecursionError) as error:  # also what is no UTF-8, and no JSON
        return Undecodable(ErrorClass.SCHEMA, str(error))
    decoded = decided_action(value, decision)
    return decoded if isinstance(decoded, Undecodable) else Vouching(decision, decoded)


def doubt(found: Vouching, trust: Trust) -> str:
    """Say in words why what people approved does not hold; empty: it does."""
    approved = found.decision
    routed = _routed(found, trust)
    if isinstance(routed, str):
        return routed
    fault = _differs(approved, routed) or _lasts(found, routed)
    if fault:
        return fault
    said = _said(approved, trust)
    if isinstance(said, str):
        return said
    if set(approved.by) != {one.by for one in said} or len(set(approved.by)) != len(approved.by):
        return f"by names {_listed(approved.by)}, but signed have {_listed(one.by for one in said)}"
    return _barred(said, routed, trust.policy.policy) or _missing(said, found, routed, trust)


def owners_of(policy: Policy, agent: str) -> tuple[str, ...]:
    """Return everybody who answers for an agent: by its own entry, and by each that ends in `*` and covers it."""
    owners = (
        entry.owner
        for name, entry in policy.agents.items()
        if name == agent or (name.endswith("*") and agent.startswith(name[:-1]))
    )
    return tuple(dict.fromkeys(owners))


# --- what the router had sealed ---------------------------------------------------------------------------------------


def _routed(found: Vouching, trust: Trust) -> Held | str:
    """Return the router's decision that stands inside, or why there is none."""
    approved = found.decision
    routed = approved.routed
    if routed.topic not in trust.topics:
        return f"routed.topic is {routed.topic:.80}, expected one on which people are asked to decide"
    if not sealed(trust.router_keys, routed.topic, DECISION, routed.head.encode(), routed.seal.encode()):
        return f"routed.seal is not a router's, for {routed.topic:.80}"
    value = routed_value(approved, found.decoded.raw)
    if value is None:
        return "routed.head is not that of a decision on this action"
    return decode_held(value)


def _differs(approved: Approved, routed: Held) -> str:
    """Say what the desk's record has otherwise than the router's, or has not as it must be."""
    for name in _REPEATED:
        if getattr(approved, name) != getattr(routed, name):
            return f"{name} is not what the router wrote"
    if approved.purpose != Purpose.DECIDE or approved.for_ is not None:
        return f"purpose {approved.purpose:.40}: only what people were asked to decide may run"
    if routed.outcome not in (Outcome.REVIEW.name, Outcome.ESCALATE.name):
        return f"the router's outcome is {routed.outcome}; nobody was asked"
    if approved.outcome != Outcome.EXECUTE.name:
        return f"outcome is {approved.outcome}, expected {Outcome.EXECUTE.name}"
    return ""


def _lasts(found: Vouching, routed: Held) -> str:
    """Say why it may not run for as long as its record has it."""
    try:
        until_ms = ms_of(found.decision.execute_by or "")
        latest_ms = ms_of(routed.moment) + EXECUTE_BY_MAX_MS
    except (ValueError, OverflowError) as error:
        return f"moment or execute_by is no time: {error}"
    expires_at = found.decoded.action.expires_at
    if expires_at is not None:
        # Not before 1970: what ended then has no other end that could be written.
        latest_ms = min(latest_ms, max(milliseconds(expires_at), 0))
    return f"execute_by lies {until_ms - latest_ms} ms after the end of its action" if until_ms > latest_ms else ""


# --- what people said -------------------------------------------------------------------------------------------------


def _said(approved: Approved, trust: Trust) -> list[_Said] | str:
    """Return who said yes, in which role, or why one of the verdicts is none."""
    count = len(approved.verdicts)
    if not 0 < count <= VERDICTS_MAX or len(approved.given) != count:
        return f"{count} verdicts and {len(approved.given)} times; expected 1 to {VERDICTS_MAX}, and a time for each"
    said: list[_Said] = []
    items: set[str] = set()
    for index, (jws, appended) in enumerate(zip(approved.verdicts, approved.given, strict=True)):
        claims = _claims(jws, appended, trust)
        if isinstance(claims, str):
            return f"verdict {index}: {claims}"
        fault = _no_yes(claims, approved)
        if fault:
            return f"verdict {index} of {claims.by:.80}: {fault}"
        if isinstance(claims, Verdict):
            items.add(claims.item)
        said.append(_Said(claims.by, claims.role))
    return f"its verdicts are on {len(items)} items, expected one" if len(items) > 1 else said


def _claims(jws: str, appended: str, trust: Trust) -> Judged | str:
    """Return what a verdict claims, if its key may say so, and could at the time."""
    try:
        at_ms = ms_of(appended)
    except (ValueError, OverflowError) as error:
        return f"given is no time: {error}"
    claims = read_judgement(jws.encode(), at_ms, trust.keys, trust.audience)
    if isinstance(claims, Rejection):
        return f"its signature does not count ({claims})"
    refusal = authority(claims, trust.keys)
    return f"{claims.iss:.80} may not speak for {claims.by:.80} ({refusal})" if refusal is not None else claims


def _no_yes(claims: Judged, approved: Approved) -> str:
    """Say why these claims do not say yes to this action."""
    match claims:
        case Verdict():
            if claims.hash != approved.hash:
                return "it is about other bytes"
            return "" if claims.verdict == "approve" else f"it says {claims.verdict}"
        case BatchRelease():
            return _outside(claims, approved)
        case _:
            return "it approves nothing"


def _outside(release: BatchRelease, approved: Approved) -> str:
    """Say why an action is not among those that a batch's release is about."""
    proof = approved.proof
    if proof is None:
        return "it releases a batch, and there is no proof that this action is in it"
    if proof.size != release.size or not 0 <= proof.index < proof.size <= LOT_MAX:
        return f"the proof is for place {proof.index} of {proof.size}, the release for {release.size}"
    try:
        path = [bytes.fromhex(beside) for beside in proof.path]
        leaf, root = bytes.fromhex(approved.hash), bytes.fromhex(release.root)
    except ValueError:
        return "the proof is not in hexadecimal"
    return "" if verify(root, proof.size, proof.index, leaf, path) else "the proof does not lead to its root"


# --- whether they are enough ------------------------------------------------------------------------------------------


def _barred(said: Sequence[_Said], routed: Held, policy: Policy) -> str:
    """Say who of them may not decide about this action."""
    owners = owners_of(policy, routed.agent.id)
    for one in said:
        if routed.by is not None and is_same_holder(one.by, routed.by):
            return f"{one.by:.80} proposed it"
        if any(is_same_holder(one.by, owner) for owner in owners):
            return f"{one.by:.80} answers for the agent {routed.agent.id:.80}"
    return ""


def _missing(said: Sequence[_Said], found: Vouching, routed: Held, trust: Trust) -> str:
    """Say of which queue too few people have approved."""
    for queue, people in _asked(found, routed, trust).items():
        roles = _roles(queue, trust.policy.policy)
        who = _people(one for one in said if one.role in roles)
        if len(who) < people:
            return f"{queue:.80} asks for {people} people, {len(who)} with a role of it approved"
    return ""


def _asked(found: Vouching, routed: Held, trust: Trust) -> dict[str, int]:
    """Return how many people of which queues must have approved."""
    policy, cls = trust.policy, trust.policy.of(found.decoded.action.type)
    asked = {row.queue: max(row.people, 1) for row in routed.approvals}
    if routed.policy == policy.digest and trust.rules_at <= routed.epoch:
        # The router's rules are ours: whatever the action alone asks for, it must have asked for, too.
        for reason in alone(found.decoded.action, policy):
            if reason.queue is not None:
                people = 1 if policy.policy.queues[reason.queue].external else cls.people
                asked[reason.queue] = max(asked.get(reason.queue, 0), people)
    return asked or {cls.queue: 1}


def _roles(queue: str, policy: Policy) -> frozenset[str]:
    """Return who may say yes for a queue: its own roles, and those of the queues that its items escalate to."""
    name: str | None = queue if queue in policy.queues else policy.defaults.queue
    roles: set[str] = set()
    for _ in range(ESCALATED_MAX + 1):
        spec = policy.queues.get(name) if name is not None else None
        if spec is None:
            break
        roles |= set(spec.roles)
        name = spec.next
    return frozenset(roles)


def _people(said: Iterable[_Said]) -> list[str]:
    """Return the names that are different people's."""
    people: list[str] = []
    for one in said:
        if not any(is_same_holder(one.by, other) for other in people):
            people.append(one.by)
    return people


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"{name:.80}" for name in sorted(set(names))[:VERDICTS_MAX]) or "nobody"
