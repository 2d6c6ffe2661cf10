"""What the monitor keeps of gates, and what one more judgement makes of it: pure folds over three topics.

Over `observations`, by person: what of planted errors a person finds, by type, and per gate, its definition, the
agent's version and that person, what their judgements say of each type of error (`core.gate_evidence`). All that a
person did lies in one partition, so the order is that of the log; evidence of several persons is added by whoever
reads it. A new definition, a new threshold or a new agent version begins at nothing.

Over `closed`: outputs that expired with nobody are errors of every type, or whoever lets the hard ones lie would make
a gate look idle. They are kept as one person's who finds nothing.

Over `evidence`, by gate: what audits say of what a removed gate lets through, by the removal and type of error.

Rules of the first:
- What counts is a decision, or an audit, of a real action at the gates that it was put under. Approved: no error. A
  rejection or a change is an error of the types that it names, of all types where it names none. Skipped, lapsed or
  escalated is one of all types: somebody who leaves what is wrong to others must not make a gate look idle.
- A blind second judgement is no output more, nor is the second approval of an item that needs two: judgements of one
  output are not independent, and counting them all would make the evidence look stronger than it is. A blind second one
  says how hard real errors are to find (`kappa`): of those that this person found so, so many had the first one found.
- Planted errors of a type count for a person at every gate: a person looks as they look, whatever rule put an item
  before them, and no gate alone would see enough of them. One that was let go counts the second time, as missed.
- A judgement is weighed by what was known of the person before it.

Rules of the last: only approvals, rejections and changes count, for an audit that was let go is put to others. An
error of a type in `SEVERE` puts a gate back by itself. Shares are from 0 to 1, days are counted since 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from hitl_stream.core.action import Agent
from hitl_stream.core.events import Purpose
from hitl_stream.core.gate_evidence import KAPPA, SHARE_MIN, Evidence, Relapse, audited, judged, kappa_of, must_return
from hitl_stream.core.policy.rules import Terms
from hitl_stream.roles.monitor_state import APART, LET_GO_MAX, LETS_GO, OBJECTS, Place
from hitl_stream.wire.desk_records import Observation
from hitl_stream.wire.gate_past import Removal

COUNTS = frozenset({Purpose.DECIDE.value, Purpose.AUDIT.value})
WRONG = frozenset({"reject", "change"})
JUDGED = frozenset({"approve", *WRONG})
SEVERE = frozenset({"compliance"})
"""What breaks a rule or a law is not counted until it is often enough."""
KEYS_MAX = 10_000
"""In one partition, of some three kilobytes each. Then what has not been judged for longest is forgotten."""
FORGET_DAYS = 400
NOBODY = "nobody-"
"""No pseudonym begins so; the number of the partition follows, since a table has all partitions of its worker."""


class Hits(Struct, frozen=True, kw_only=True):
    """What one person finds. `offset` and `partition`: of the last judgement that is in it; `day`: of the same.

    `planted`: type of error → how many of how many canaries were caught. Of `errors` that this person found as a second
    one, `found` had the first one found, too. `let_go` names canaries that were skipped once.
    """

    partition: int
    offset: int = -1
    day: int = 0
    planted: dict[str, tuple[int, int]] = {}
    errors: int = 0
    found: int = 0
    let_go: tuple[str, ...] = ()


class AtGate(Struct, frozen=True, kw_only=True):
    """What one person's judgements say of one gate, as it was defined, and one agent version: by type of error.

    `since_ms`: when the first one was appended. `borne`: the shares that it is measured against.
    """

    partition: int
    offset: int = -1
    day: int = 0
    since_ms: int
    borne: dict[str, float]
    evidence: dict[str, Evidence]


class Watched(Struct, frozen=True, kw_only=True):
    """What audits say of one removal of a gate, by type of error. `returned`: the gate was put back by it."""

    partition: int
    offset: int = -1
    day: int = 0
    relapse: dict[str, Relapse]
    returned: bool = False


class GateKey(Struct, frozen=True, order=True):
    """Of whom and what evidence is; `person` is a pseudonym."""

    person: str
    gate: str
    definition: str
    agent: str
    version: str


Kept: TypeAlias = Hits | AtGate
_T = TypeVar("_T")
encode = msgspec.msgpack.Encoder().encode
decode_hits = msgspec.msgpack.Decoder(Hits).decode
decode_gate = msgspec.msgpack.Decoder(AtGate).decode
decode_watched = msgspec.msgpack.Decoder(Watched).decode
Get: TypeAlias = Callable[[bytes], bytes | None]
"""What a table holds under a key."""


# --- evidence ---------------------------------------------------------------------------------------------------------


def kept_after(
    seen: Observation, place: Place, person: str, terms: Callable[[str, str], Terms | None], get: Get
) -> dict[bytes, Kept]:
    """Return what is to be written after one more judgement; what has it already is left out.

    `person` is the reviewer's pseudonym, `terms` says what a gate was in the policy with a digest.
    """
    mine = hits_key(person)
    before = _read(get, mine, decode_hits) or Hits(partition=place.partition)
    if seen.purpose in (Purpose.CANARY, Purpose.SECOND):
        return {mine: _found(before, seen, place)} if place.offset > before.offset else {}
    agent = seen.agent
    if seen.purpose not in COUNTS or seen.again or agent is None:
        return {}
    after: dict[bytes, Kept] = {}
    for gate in seen.gates:
        wanted = terms(seen.policy, gate)
        if wanted is None:
            continue
        key = gate_key(GateKey(person, gate, wanted.definition, agent.id, agent.version))
        there = _read(get, key, decode_gate)
        if there is None or place.offset > there.offset:
            after[key] = _weighed(there, seen, place, before, wanted)
    return after


def expired_after(
    gates: Iterable[str], agent: Agent, place: Place, terms: Callable[[str], Terms | None], get: Get
) -> dict[bytes, Kept]:
    """Return what is to be written after an output that nobody judged in time: an error of every type of its gates.

    It is kept under a name that is nobody's, of the partition of `closed`, where nothing was ever found.
    """
    after: dict[bytes, Kept] = {}
    for gate in gates:
        wanted = terms(gate)
        if wanted is None:
            continue
        key = gate_key(GateKey(f"{NOBODY}{place.partition}", gate, wanted.definition, agent.id, agent.version))
        there = _read(get, key, decode_gate)
        if there is None or place.offset > there.offset:
            wrong = frozenset(wanted.borne)
            after[key] = _with(there, wrong, place, Hits(partition=place.partition), wanted)
    return after


def _found(before: Hits, seen: Observation, place: Place) -> Hits:
    """Return what a person finds, after a planted item or a second judgement."""
    after = replace(before, offset=place.offset, day=place.day)
    if seen.purpose == Purpose.SECOND:
        if seen.first is None or seen.verdict not in WRONG:
            return after
        return replace(after, errors=before.errors + 1, found=before.found + (seen.first.verdict in WRONG))
    if seen.verdict in LETS_GO and seen.item not in before.let_go:
        return replace(after, let_go=(*before.let_go, seen.item)[-LET_GO_MAX:])
    left = tuple(item for item in before.let_go if item != seen.item)
    if seen.planted is None:
        return replace(after, let_go=left)
    caught = seen.verdict in OBJECTS if seen.caught is None else seen.caught
    k, m = before.planted.get(seen.planted, (0, 0))
    return replace(after, let_go=left, planted={**before.planted, seen.planted: (k + caught, m + 1)})


def _weighed(there: AtGate | None, seen: Observation, place: Place, hits: Hits, terms: Terms) -> AtGate:
    return _with(there, wrong_types(seen, terms.borne, terms.reasons), place, hits, terms)


def _with(there: AtGate | None, wrong: frozenset[str], place: Place, hits: Hits, terms: Terms) -> AtGate:
    """Return the evidence with one more output, which has errors of the types `wrong`."""
    kappa = kappa_by(hits)
    evidence = {}
    for error, borne in terms.borne.items():
        one = Evidence() if there is None else there.evidence[error]
        caught, canaries = hits.planted.get(error, (0, 0))
        one = replace(one, caught=caught, canaries=canaries)
        evidence[error] = judged(one, error in wrong, borne, kappa)
    return AtGate(
        partition=place.partition,
        offset=place.offset,
        day=place.day,
        since_ms=place.at_ms if there is None else there.since_ms,
        borne=dict(terms.borne),
        evidence=evidence,
    )


def wrong_types(seen: Observation, types: Iterable[str], reasons: Mapping[str, str]) -> frozenset[str]:
    """Return of which types of error a judgement counts as one."""
    if seen.verdict == "approve":
        return frozenset()
    coded = reasons.get(seen.code or "")
    named = seen.errors or (() if coded is None else (coded,))
    if seen.verdict in WRONG and named:
        return frozenset(named) & frozenset(types)
    return frozenset(types)


def kappa_by(hits: Hits) -> float:
    """Return how much harder real errors are to find than planted ones, by what this person knows of both.

    Who was first is drawn at random among the others, and each is another one's second: the share found by the first
    stands for all of them, against this person's own hits over all types.
    """
    caught, canaries = (sum(column) for column in zip(*hits.planted.values(), strict=True)) if hits.planted else (0, 0)
    return kappa_of(hits.found, hits.errors, caught / canaries) if canaries else KAPPA


def forgotten(days: Mapping[bytes, int], day: int) -> list[bytes]:
    """Return the keys of one partition that are to be forgotten, by the day on which each was written last."""
    gone = [key for key, last in days.items() if last < day - FORGET_DAYS]
    left = sorted((last, key) for key, last in days.items() if last >= day - FORGET_DAYS)
    return gone + [key for _, key in left[: max(0, len(left) - KEYS_MAX)]]


def day_of(value: bytes) -> tuple[int, int]:
    """Return partition and day of whatever is kept, without decoding the rest."""
    found = _decode_day(value)
    return found.partition, found.day


class _Day(Struct):
    partition: int
    day: int


_decode_day = msgspec.msgpack.Decoder(_Day).decode


# --- relapse ----------------------------------------------------------------------------------------------------------


def watched_after(before: Watched | None, seen: Observation, place: Place, removal: Removal, terms: Terms) -> Watched:
    """Return what audits say of a removal after one more; `terms` are the gate's when it was removed."""
    if before is None:
        start = {error: Relapse(frozen_share(removal, error)) for error in terms.borne}
        before = Watched(partition=place.partition, relapse=start)
    after = replace(before, offset=place.offset, day=place.day)
    if seen.verdict not in JUDGED:
        return after
    wrong = wrong_types(seen, before.relapse, terms.reasons)
    relapse = {
        error: audited(one, error in wrong, severe=error in SEVERE and _is_named(seen, error, terms))
        for error, one in before.relapse.items()
    }
    return replace(after, relapse=relapse)


def _is_named(seen: Observation, error: str, terms: Terms) -> bool:
    """Say whether somebody called it that: what names no type is not severe by that."""
    return error in seen.errors or (not seen.errors and terms.reasons.get(seen.code or "") == error)


def frozen_share(removal: Removal, error: str) -> float:
    """Return the share of errors that was signed with a removal; the least that is watched where none was."""
    return max(SHARE_MIN, removal.change.p.get(error, SHARE_MIN))


def returns(before: Watched | None, after: Watched) -> tuple[str, ...]:
    """Return the types of error for which a gate is put back now; nothing where that was said before."""
    if before is not None and before.returned:
        return ()
    return tuple(error for error, one in after.relapse.items() if must_return(one))


# --- keys -------------------------------------------------------------------------------------------------------------


def hits_key(person: str) -> bytes:
    """Return the key of what a person finds."""
    return person.encode()


def gate_key(key: GateKey) -> bytes:
    """Return the key of a person's evidence at a gate."""
    return APART.join((key.person, key.gate, key.definition, key.agent, key.version)).encode()


def gate_of(key: bytes) -> GateKey | None:
    """Return of whom and what evidence is; None: the key is that of what a person finds. Raises `ValueError`."""
    parts = key.decode().split(APART)
    if len(parts) == 1:
        return None
    person, gate, definition, agent, version = parts
    return GateKey(person, gate, definition, agent, version)


def watched_key(gate: str, agent: Agent, epoch: int) -> bytes:
    """Return the key of what audits say of a removal."""
    return APART.join((gate, agent.id, agent.version, str(epoch))).encode()


def watched_of(key: bytes) -> tuple[str, Agent, int]:
    """Return gate, agent version and epoch of such a key; raise `ValueError` for what is none."""
    gate, agent, version, epoch = key.decode().split(APART)
    return gate, Agent(agent, version), int(epoch)


def _read(get: Get, key: bytes, decode: Callable[[bytes], _T]) -> _T | None:
    value = get(key)
    return None if value is None else decode(value)
