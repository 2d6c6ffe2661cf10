"""Judgements at a gate, and the monitor's tables of gates as the pure folds alone make them of the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from msgspec import Raw

from hitl_stream.core.action import Agent
from hitl_stream.core.commands import DAY_MS, GateChange
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.policy.rules import Terms, terms_of
from hitl_stream.roles.gate_keeping import (
    AtGate,
    Watched,
    decode_gate,
    decode_watched,
    encode,
    expired_after,
    gate_of,
    kept_after,
    returns,
    watched_after,
    watched_key,
)
from hitl_stream.roles.gate_table import GateTable, gathered
from hitl_stream.roles.monitor_state import Place
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import Observation
from hitl_stream.wire.gate_past import Removal
from hitl_stream.wire.records import CLOSED, Closed, head_of, time_text
from hitl_stream.wire.records import encode as encode_record
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from support.make import NOW_MS, action_bytes, first_line
from support.watching import START_MS, observation

GATE = "first_line"
TYPES = ("compliance", "factual", "tone")
"""Of errors that the example policy's gate of that name finds."""
SDR = Agent("sdr-1", "4")
POLICY = "d" * 64
"""The digest that judgements name."""


def at_gate(reviewer: str = "ana", verdict: str = "approve", **more: Any) -> Observation:
    """Return a judgement of one output of `SDR` at the gate."""
    fields = {"gates": (GATE,), "agent": SDR, "class_": "firstline.send", "queue": "sdr"}
    return observation(reviewer, verdict, **fields | more)


def planted(reviewer: str = "ana", error: str = "tone", *, caught: bool = True, **more: Any) -> Observation:
    """Return a judgement of a canary with an error of one type."""
    word = "reject" if caught else "approve"
    return at_gate(reviewer, word, purpose="canary", planted=error, caught=caught, **more)


def looking(reviewer: str = "ana", each: int = 60, types: Iterable[str] = TYPES) -> Iterator[Observation]:
    """Yield canaries of every type that somebody has caught."""
    for error in types:
        yield from (planted(reviewer, error, item=f"c-{reviewer}-{error}-{n}") for n in range(each))


def expired(
    topic: str, key: SealKey, policy: str, *, end: Any = "expired", purpose: str = "decide", **parts: Any
) -> tuple[bytes, list[Any]]:
    """Return value and headers of the end of one output at the gate, which nobody judged in time."""
    raw = action_bytes(**first_line(**parts))
    decoded = decode_bytes(raw, {})
    assert isinstance(decoded, Decoded)
    action = decoded.action
    record = Closed(
        id="i", tenant="acme", action_id=action.action_id, hash=decoded.hash, type=action.type, level=3, agent=SDR,
        entity=action.entity, outcome="REVIEW", purpose=purpose, policy=policy, moment=time_text(NOW_MS),
        end=end, why="decide_by", action=Raw(raw),
    )  # fmt: skip
    value = encode_record(record)
    seal = sealer(key, topic, CLOSED)(head_of(value))
    return value, [(TYPE_HEADER, CLOSED.encode()), (SEAL_HEADER, seal)]


def removal(policy: Policy, gate: str = GATE, agent: Agent = SDR, epoch: int = 7, **p: float) -> Removal:
    """Return one that was signed for those shares of errors."""
    change = GateChange(
        aud="c", kid="k", iss="ana", jti="j", iat=0, exp=1, gate=gate, definition=terms_of(policy, gate).definition,
        state="removed", agent=agent, p=p,
    )  # fmt: skip
    return Removal(epoch=epoch, since_ms=0, change=change)


@dataclass
class OfflineGates:
    """The monitor's tables of gates, computed by the folds from records alone."""

    policy: Policy
    digest: str = POLICY
    person: Callable[[str], str] = str
    """What a reviewer is called in the tables."""
    start_ms: int = START_MS
    kept: dict[bytes, bytes] = field(default_factory=dict)
    relapse: dict[bytes, bytes] = field(default_factory=dict)
    offset: int = 0

    def terms(self, digest: str, gate: str) -> Terms | None:
        """Return what a gate is; every judgement names the one policy."""
        return terms_of(self.policy, gate) if digest == self.digest and gate in self.policy.gates else None

    def take(self, seen: Observation, place: Place) -> None:
        """Take in one judgement."""
        after = kept_after(seen, place, self.person(seen.reviewer), self.terms, self.kept.get)
        self.kept |= {key: encode(kept) for key, kept in after.items()}

    def expire(self, place: Place) -> None:
        """Take in the end of an output at the gate that nobody judged in time."""
        after = expired_after((GATE,), SDR, place, lambda gate: self.terms(self.digest, gate), self.kept.get)
        self.kept |= {key: encode(kept) for key, kept in after.items()}

    def each(self, seen: Iterable[Observation], per_day: int = 40) -> OfflineGates:
        """Take in several, so many a day."""
        for one in seen:
            self.take(one, Place(0, self.offset, self.start_ms + self.offset * DAY_MS // per_day))
            self.offset += 1
        return self

    def audit(self, seen: Observation, gone: Removal, place: Place) -> tuple[str, ...]:
        """Take in an audit of what a removed gate let through; return the types for which it is put back."""
        key = watched_key(gone.change.gate, gone.agent, gone.epoch)
        before = decode_watched(self.relapse[key]) if key in self.relapse else None
        after = watched_after(before, seen, place, gone, terms_of(self.policy, gone.change.gate))
        self.relapse[key] = encode(after)
        return returns(before, after)

    def gates(self) -> dict[bytes, AtGate]:
        """Return the evidence by its keys."""
        return {key: decode_gate(value) for key, value in self.kept.items() if gate_of(key) is not None}

    def watched(self) -> dict[bytes, Watched]:
        """Return what audits say by its keys."""
        return {key: decode_watched(value) for key, value in self.relapse.items()}

    def table(self) -> GateTable:
        """Return both as they are read from outside."""
        return gathered(self.gates(), self.watched())

    @property
    def now_ms(self) -> int:
        """Return a time thirty days after the first judgement."""
        return self.start_ms + 30 * DAY_MS
