"""The same backlog through a plain Faust agent: decode, two limits, one send per event, as its documentation shows."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import faust
import msgspec

KAFKA, COUNT, PREFIX = os.environ["KAFKA"], int(os.environ["COUNT"]), os.environ["PREFIX"]
DATA = os.environ["DATA"]
LIMITS = {"bid.adjust": 0.20, "budget.reallocate": 0.10}

app = faust.App(
    f"faust-peer-{time.time_ns()}",
    broker=f"kafka://{KAFKA}",
    store="memory://",
    datadir=DATA,
    web_enabled=False,
    topic_disable_leader=True,
    topic_allow_declare=False,
    broker_max_poll_records=2_000,
    stream_buffer_maxsize=8_192,
)


class Change(msgspec.Struct):
    before: str
    after: str


class Action(msgspec.Struct):
    type: str
    changes: list[Change]
    confidence: float


decode = msgspec.json.Decoder(Action).decode
source = app.topic(f"{PREFIX}actions", value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw")
outputs = {
    name: app.topic(f"{PREFIX}{name}", value_type=bytes, value_serializer="raw", key_type=bytes, key_serializer="raw")
    for name in ("execute", "review", "escalation")
}
seen: dict[str, Any] = {"n": 0}


@app.agent(source)
async def route(stream: Any) -> None:
    async for event in stream.events():
        if not seen["n"]:
            seen["wall"], seen["cpu"] = time.perf_counter(), time.process_time()
        action = decode(event.value)
        limit = LIMITS.get(action.type)
        if limit is None:
            outcome = "review"
        else:
            before = float(action.changes[0].before)
            size = abs(float(action.changes[0].after) - before) / before
            unsure = size > limit or action.confidence < 0.6
            outcome = "escalation" if size > 2 * limit else "review" if unsure else "execute"
        await outputs[outcome].send(key=event.key, value=event.value)
        seen["n"] += 1
        if seen["n"] == COUNT:
            wall, cpu = time.perf_counter() - seen["wall"], time.process_time() - seen["cpu"]
            report = msgspec.json.encode({"events": COUNT, "per_s_wall": COUNT / wall, "per_s_cpu": COUNT / cpu})
            # Faust sends `print` to its log, and may have hidden the cursor on the line that stands here.
            os.write(1, b"\n" + report + b"\n")
            os._exit(0)


if __name__ == "__main__":
    sys.argv = ["faust_process", "worker", "-l", "error"]
    app.main()
