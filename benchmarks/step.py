"""What the router's step alone costs for one action of the benchmark: µs of CPU, calls and opcodes, by function.

Times on a busy machine are noise; opcodes are not, and say before and after a change what was saved. They are not the
whole cost: hashing, JSON and the making of objects are work in C that they do not show. Run as
`python benchmarks/step.py`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import FrameType
from typing import Any

import policy
from aiokafka import ConsumerRecord
from fill import Bids, now_text

from hitl_stream.core.window import IdBudget
from hitl_stream.lane.step import Moment
from hitl_stream.roles.router import Policies, Router, RouterSettings, RouterState
from hitl_stream.wire.policy_file import parse
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet

PARTITIONS, BATCH, WARM, ROUNDS = 4, 1_000, 5, 200
SHOWN = 25


def main() -> None:
    key = SealKey("k1", bytes(32))
    loaded = parse(policy.text(), "bench")
    topics = TopicSet(partitions=PARTITIONS)
    router = Router(RouterSettings(topics, {key.key_id: key}, key), Policies(loaded.policy, loaded.digest))
    state = router.state(IdBudget())
    moment = Moment(time.time_ns() // 1_000_000)
    *warm, batch = _batches(topics.name("actions"), moment.now_ms)
    for each in warm:
        state.apply(router(each, state, moment).changes)
    best = min(_seconds(router, batch, state, moment) for _ in range(ROUNDS))
    opcodes, calls = _traced(router, batch, state, moment)
    print(f"{best / BATCH * 1e6:.1f} µs, {calls.total() / BATCH:.1f} calls, {opcodes.total() / BATCH:.0f} opcodes")
    for name, count in opcodes.most_common(SHOWN):
        print(f"{count / BATCH:8.1f} opcodes {calls[name] / BATCH:6.2f} calls  {name}")


def _batches(topic: str, now_ms: int) -> list[list[ConsumerRecord]]:
    bids, stamp = Bids(PARTITIONS), now_text()
    rows: list[tuple[bytes, bytes]] = []
    while len(rows) < (WARM + 1) * BATCH:
        partition, key, value = bids.next(stamp)
        if partition == 0:
            rows.append((key, value))
    records = [
        ConsumerRecord(topic, 0, offset, now_ms, 1, key, value, None, len(key), len(value), ())
        for offset, (key, value) in enumerate(rows)
    ]
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]


def _seconds(router: Router, batch: list[ConsumerRecord], state: RouterState, moment: Moment) -> float:
    started = time.process_time()
    router(batch, state, moment)
    return time.process_time() - started


def _traced(
    router: Router, batch: list[ConsumerRecord], state: RouterState, moment: Moment
) -> tuple[Counter[str], Counter[str]]:
    opcodes: Counter[str] = Counter()
    calls: Counter[str] = Counter()

    def within(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            opcodes[frame.f_code.co_qualname] += 1
        return within

    def entered(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        calls[frame.f_code.co_qualname] += 1
        return within

    sys.settrace(entered)
    try:
        router(batch, state, moment)
    finally:
        sys.settrace(None)
    return opcodes, calls


if __name__ == "__main__":
    main()
