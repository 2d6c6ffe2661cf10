"""Planted errors on a log, as the desk observes that people judge them."""

from __future__ import annotations

from typing import Any

from hitl_stream.core.action import Agent
from hitl_stream.wire.desk_records import OBSERVATION, Observation
from hitl_stream.wire.records import encode
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, sealer
from support.desk import MINUTE
from support.log import Recorded
from support.make import DESK_KEY, iso


def plant(work: Recorded, number: int, *, caught: bool | None, **parts: Any) -> None:
    """Let somebody judge a planted error now, as the desk observes it; `caught` None: they let it go."""
    fields = {
        "item": f"c{number}", "reviewer": "tess", "tenant": "acme", "queue": "trading", "class_": "bid.adjust",
        "agent": Agent("bidder-7"), "purpose": "canary", "planted": "limit", "caught": caught,
        "verdict": "skip" if caught is None else "reject" if caught else "approve",
        "shown_at": iso(work.now_ms - MINUTE), "decided_at": iso(work.now_ms), "dwell_s": 60.0, "floor_s": 1.0,
        "words": 1, "assets": 0, "policy": "d",
    }  # fmt: skip
    one = Observation(**fields | parts)
    value = encode(one)
    seal = sealer(DESK_KEY, "hitl.observations", OBSERVATION)(value)
    headers = [(TYPE_HEADER, OBSERVATION.encode()), (SEAL_HEADER, seal)]
    work.log.append("observations", value, b"tess", work.now_ms, headers)
