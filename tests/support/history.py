"""Handmade histories on a real broker: actions through the real router, and what is written of it up to the test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiokafka import TopicPartition

import hitl_stream.dev
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.admin import apply
from hitl_stream.lane.step import Moment, Output
from hitl_stream.lane.verify import Verifying
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Router, RouterSettings
from hitl_stream.wire.policy_file import parse
from hitl_stream.wire.records import time_text
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import ROUTER_TOPICS, TopicSet
from support.kafka import consuming, producing, read

PARTITIONS = 2
KEY = SealKey("r1", b"k" * 32)
POLICY = Path(hitl_stream.dev.__file__).parent / "policies" / "acme.yaml"
Writing = Callable[[list[Output]], Iterable[Output]]


def as_it_is(outputs: list[Output]) -> list[Output]:
    """Write what the router answered."""
    return outputs


def action(number: int, account: str = "acc-1", after: str = "1.01", **fields: Any) -> bytes:
    """Return a small bid change, which the policy executes at once; `after="9.00"` goes to people."""
    change = {
        "entity": {"account": account, "campaign": f"cmp-{number}"},
        "field": "bid",
        "before": "1.00",
        "after": after,
        "unit": "EUR",
    }
    return orjson.dumps(
        {
            "action_id": f"act-{number}",
            "tenant": "acme",
            "agent": {"id": "bidder-7", "version": "1"},
            "type": "bid.adjust",
            "changes": [change],
            "confidence": 0.95,
            "proposed_at": time_text(int(time.time() * 1000)),
            "evidence": [{"signal": "cpa_7d", "value": 12.31, "before": 13.02, "better": "down"}],
            "context": {"campaign_budget": {"amount": "4200.00", "currency": "EUR"}},
            "rationale": "CPA under target.",
        }
        | fields
    )


@dataclass
class Installation:
    """Topics of their own on a broker, and a router that is called by hand."""

    bootstrap: str
    prefix: str
    decided: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topics = TopicSet(self.prefix, PARTITIONS)
        self.client = {"bootstrap_servers": self.bootstrap}
        self.group = f"{self.prefix}router"
        self.actions = self.topics.name("actions")
        loaded = parse(POLICY.read_text(), str(POLICY))
        settings = RouterSettings(topics=self.topics, seal_keys={"r1": KEY}, sample_key=KEY)
        self.router = Router(settings, Policies(loaded.policy, loaded.digest))
        self.states = [self.router.state(IdBudget()) for _ in range(PARTITIONS)]

    async def create(self) -> None:
        """Make the router's topics."""
        await apply(self.client, self.topics, ROUTER_TOPICS)

    async def publish(self, partition: int, values: Iterable[bytes], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Append actions to one partition."""
        async with producing(self.bootstrap, acks="all") as producer:
            for value in values:
                await producer.send_and_wait(self.actions, value, partition=partition, headers=list(headers))

    async def route(self, partition: int, write: Writing = as_it_is, commit: bool = True) -> None:
        """Decide what one partition holds since the last time, write what `write` makes of it, and commit."""
        start = self.decided.get(partition, 0)
        batch = [record for record in await read(self.bootstrap, self.actions, partition) if record.offset >= start]
        result = self.router(batch, self.states[partition], Moment(batch[-1].timestamp))
        self.states[partition].apply(result.changes)
        self.decided[partition] = batch[-1].offset + 1
        async with producing(self.bootstrap, acks="all") as producer:
            for out in write(list(result.outputs)):
                headers = [*out.headers]
                await producer.send_and_wait(
                    out.topic, out.value, key=out.key, partition=out.partition, headers=headers
                )
        if commit:
            await self.commit(partition, self.decided[partition])

    async def commit(self, partition: int, offset: int) -> None:
        """Commit an offset as the router's group."""
        tp = TopicPartition(self.actions, partition)
        async with consuming(self.bootstrap, group_id=self.group) as consumer:
            consumer.assign([tp])
            await consumer.commit({tp: offset})

    def verifying(self, **options: Any) -> Verifying:
        """Return what `hitl verify` would be asked of this installation."""
        defaults = {"keys": {"r1": KEY}, "deep": True, "window_ms": 900_000}
        return Verifying(self.client, self.topics, self.group, (self.actions,), **defaults | options)
