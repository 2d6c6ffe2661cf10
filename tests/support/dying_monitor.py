"""Starts `hitl run monitor` in a world that is worse, as the environment says. Product code reads none of these.

HITL_DIE_AT: from that table write on none leaves; then it dies (SIGKILL). It goes on for longer than commits are apart,
so that whatever is acknowledged too early is committed.
HITL_SEEK_AFTER_S: after its partitions were assigned it takes so long to go where it was committed, so that whatever
is given out before is lost.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from faust.transport.consumer import Consumer
from faust.transport.producer import ProducerBuffer

from hitl_stream.cli.main import run
from hitl_stream.roles.monitor import TABLE
from hitl_stream.roles.monitor_app import COMMIT_EVERY_S

GOES_ON_S = 2.5 * COMMIT_EVERY_S


def main() -> int:
    if last := os.environ.pop("HITL_DIE_AT", ""):
        die_at(int(last))
    if after_s := os.environ.pop("HITL_SEEK_AFTER_S", ""):
        seek_after(float(after_s))
    return run(["run", "monitor"])


def die_at(last: int) -> None:
    """Lose every table write from that one on, and die a while later."""
    put, count = ProducerBuffer.put, 0

    def put_or_not(self: ProducerBuffer, message: Any) -> None:
        nonlocal count
        count += message.message.channel.get_topic_name().endswith(TABLE)
        if count == last:
            asyncio.get_running_loop().call_later(GOES_ON_S, os.kill, os.getpid(), signal.SIGKILL)
        if count < last:
            put(self, message)

    ProducerBuffer.put = put_or_not  # type: ignore[method-assign]


def seek_after(seconds: float) -> None:
    """Be slow to seek."""
    perform_seek = Consumer.perform_seek

    async def later(self: Consumer) -> None:
        await asyncio.sleep(seconds)
        await perform_seek(self)

    Consumer.perform_seek = later  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
