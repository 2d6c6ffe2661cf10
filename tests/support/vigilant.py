"""What a monitor knows of people, gates and alerts, put into a console as if it had read it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hitl_stream.console.watching import Watching
from hitl_stream.core.commands import DAY_MS
from hitl_stream.core.gate_evidence import Evidence, canary, judged
from hitl_stream.core.vigilance import Level, Sign, Watch
from hitl_stream.roles import gate_keeping
from hitl_stream.roles.gate_keeping import AtGate, GateKey, gate_key
from hitl_stream.roles.monitor_state import Kept, encode, key_of
from hitl_stream.wire.records import time_text
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.watched import Alert, pseudonym
from support.console import Front
from support.make import NOW_MS

KEY = SealKey("p1", b"\x07" * 32)


def heard(found: Front, *, names: bool = False) -> Watching:
    """Let a console hear a monitor that knows nothing yet."""
    found.office.watching = Watching(KEY, names=names)
    found.office.watching.trouble = ""
    return found.office.watching


def know(
    found: Front,
    name: str = "ana",
    queue: str = "trading",
    *,
    level: Level = Level.NONE,
    signs: Sequence[Sign] = (),
    caught: int = 18,
    missed: int = 2,
    approved: int = 90,
    objected: int = 10,
    hurried: int = 2,
    day: int = NOW_MS // DAY_MS,
    **watch: Any,
) -> str:
    """Let a console know of somebody; return their pseudonym."""
    person = pseudonym(KEY, name)
    seen = Watch(
        canaries=(True,) * caught + (False,) * missed,
        seen=caught + missed,
        hurried=(True,) * hurried + (False,) * (50 - hurried),
        verdicts=(True,) * approved + (False,) * objected,
        level=level,
        signs=tuple(signs),
        **watch,
    )
    found.office.watching.take_person(key_of(person, queue), encode(Kept(partition=0, day=day, watch=seen)))
    return person


def alarm(
    found: Front, person: str | None, queue: str = "trading", *, at_ms: int = NOW_MS - 60_000, **parts: Any
) -> None:
    """Let a console hear an alert."""
    fields: dict[str, Any] = {"id": f"{queue}/{at_ms}", "row": 2, "level": 3, **parts}
    found.office.watching.take_alert(Alert(queue=queue, person=person, at=time_text(at_ms), **fields))


def evidence(
    found: Front, gate: str, definition: str, agent: str = "copy-2@1", *, items: int = 520, wrong: int = 0,
    canaries: int = 30, days: int = 20, errors: Sequence[str] = ("factual",), name: str = "ana", borne: float = 0.05,
) -> None:  # fmt: skip
    """Let a console know what somebody's judgements say of a gate."""
    one = Evidence()
    for _ in range(canaries):
        one = canary(one, True)
    for n in range(items):
        one = judged(one, n < wrong, borne)
    kept = AtGate(
        partition=0, day=NOW_MS // DAY_MS, since_ms=NOW_MS - days * DAY_MS,
        borne=dict.fromkeys(errors, borne), evidence=dict.fromkeys(errors, one),
    )  # fmt: skip
    agent_id, _, version = agent.partition("@")
    key = gate_key(GateKey(pseudonym(KEY, name), gate, definition, agent_id, version))
    found.office.watching.take_gate(key, gate_keeping.encode(kept))
