"""Handmade histories on a real broker: actions through the real router, and what is written of it up to the test.

Executors write as theirs do, and call nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiokafka import TopicPartition

import hitl_stream.dev
from hitl_stream.core.control import Control
from hitl_stream.core.events import Status
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.admin import apply
from hitl_stream.lane.step import Moment, Output
from hitl_stream.lane.verify import Verifying
from hitl_stream.roles.policies import Policies
from hitl_stream.roles.router import Router, RouterSettings
from hitl_stream.wire.executed import result_value
from hitl_stream.wire.policy_file import parse
from hitl_stream.wire.records import DECISION, RESULT, Parked, PlatformRow, decode_held, head_of, held_value, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import ROUTER_TOPICS, TopicSet
from support.kafka import consuming, producing, read
from support.make import FakeRecord

PARTITIONS = 2
KEY = SealKey("r1", b"k" * 32)
EXECUTOR_KEY = SealKey("e1", b"e" * 32)
POLICY = Path(hitl_stream.dev.__file__).parent / "policies" / "acme.yaml"
Writing = Callable[[list[Output]], Iterable[Output]]


def as_it_is(outputs: list[Output]) -> list[Output]:
    """Write what the router answered."""
    return outputs


def action(
    number: int, account: str = "acc-1", after: str = "1.01", campaign: str | None = None, **fields: Any
) -> bytes:
    """Return a small bid change, which the policy executes at once; `after="9.00"` goes to people."""
    change = {
        "entity": {"account": account, "campaign": campaign or f"cmp-{number}"},
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
        self.executors = f"{self.prefix}executor"
        self.passed: dict[int, int] = {}
        """The router's committed offset on `held`, by partition."""
        self.actions = self.topics.name("actions")
        loaded = parse(POLICY.read_text(), str(POLICY))
        parkers = {"e1": EXECUTOR_KEY}
        settings = RouterSettings(topics=self.topics, seal_keys={"r1": KEY}, sample_key=KEY, parkers=parkers)
        self.router = Router(settings, Policies(loaded.policy, loaded.digest))
        self.policy = loaded.digest
        self.under(Control())

    def under(self, control: Control) -> None:
        """Let the router know what control says; it forgets what it had decided."""
        self.control = self.router.policies.control = control
        self.states = [self.router.state(IdBudget()) for _ in range(PARTITIONS)]

    async def create(self, *others: str) -> None:
        """Make the router's topics, and others."""
        await apply(self.client, self.topics, (*ROUTER_TOPICS, *others))

    async def publish(self, partition: int, values: Iterable[bytes], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """Append actions to one partition."""
        async with producing(self.bootstrap, acks="all") as producer:
            for value in values:
                await producer.send_and_wait(self.actions, value, partition=partition, headers=list(headers))

    async def route(self, partition: int, write: Writing = as_it_is, commit: bool = True) -> None:
        """Decide what one partition holds since the last time, write what `write` makes of it, and commit."""
        start = self.decided.get(partition, 0)
        batch = [record for record in await read(self.bootstrap, self.actions, partition) if record.offset >= start]
        result = self.router(batch, self.states[partition], Moment(batch[-1].timestamp, self.control.epoch))
        self.states[partition].apply(result.changes)
        self.decided[partition] = batch[-1].offset + 1
        await self.write(write(list(result.outputs)))
        if commit:
            await self.commit(partition, self.decided[partition])

    async def write(self, outputs: Iterable[Output]) -> None:
        """Append what a role answers."""
        async with producing(self.bootstrap, acks="all") as producer:
            for out in outputs:
                headers = [*out.headers]
                await producer.send_and_wait(
                    out.topic, out.value, key=out.key, partition=out.partition, headers=headers
                )

    async def commit(self, partition: int, offset: int, topic: str = "actions", group: str | None = None) -> None:
        """Commit an offset as the router's group, or another."""
        tp = TopicPartition(self.topics.name(topic), partition)
        async with consuming(self.bootstrap, group_id=group or self.group) as consumer:
            consumer.assign([tp])
            await consumer.commit({tp: offset})

    async def pass_(self, partition: int, write: Writing = as_it_is) -> None:
        """Decide once more all that lies parked, and commit."""
        state, start = self.states[partition], self.passed.get(partition, 0)
        parked = [r for r in await read(self.bootstrap, self.topics.name("held"), partition) if r.offset >= start]
        state.follow(parked)
        result = self.router.again(parked, state, Moment(parked[-1].timestamp, self.control.epoch))
        state.apply(result.changes)
        self.passed[partition] = parked[-1].offset + 1
        await self.write(write(list(result.outputs)))
        await self.commit(partition, self.passed[partition], "held")

    async def to_execute(self, partition: int) -> list[Any]:
        """Return the execute records of a partition."""
        return await read(self.bootstrap, self.topics.name("execute"), partition)

    async def executed(self, *records: Any, status: Status = Status.EXECUTED, called_ms: int | None = None) -> None:
        """Write the results of execute records, called when they were appended unless the test says when."""
        for record in records:
            await self.write([self.result(record, status, called_ms)])

    def result(self, record: Any, status: Status = Status.EXECUTED, called_ms: int | None = None) -> Output:
        """Return the result of an execute record."""
        decision = decode_held(record.value)
        at_ms = record.timestamp if called_ms is None else called_ms
        value = result_value(
            decision, bytes(decision.action), status, "key", present={"/changes/0": "1.00"}, called_ms=at_ms,
            answered_ms=at_ms + 5, platform=PlatformRow(code=200, ref="op-1"),
        )  # fmt: skip
        return self.sealed("results", RESULT, value, record)

    async def send_back(self, record: Any, *switches: int) -> None:
        """Park an execute record, as an executor does."""
        await self.write([self.parked(record, *switches)])

    def parked(self, record: Any, *switches: int) -> Output:
        """Return an execute record as an executor parks it."""
        value = held_value(record.value, Parked(by="executor", epoch=self.control.epoch, switches=switches))
        return self.sealed("held", DECISION, value, record)

    async def transact(
        self, producer: Any, outputs: Sequence[Output], offsets: dict[str, int], partition: int, group: str
    ) -> list[FakeRecord]:
        """Write outputs and committed offsets in one transaction; return the records as a reader gets them."""
        await producer.begin_transaction()
        found = []
        for out in outputs:
            meta = await producer.send_and_wait(
                out.topic, out.value, key=out.key, partition=out.partition, headers=[*out.headers]
            )
            headers = tuple(out.headers)
            found.append(
                FakeRecord(out.value, meta.offset, meta.partition, meta.timestamp, out.topic, out.key, headers)
            )
        committed = {TopicPartition(self.topics.name(name), partition): offset for name, offset in offsets.items()}
        await producer.send_offsets_to_transaction(committed, group)
        await producer.commit_transaction()
        return found

    def sealed(self, topic: str, kind: str, value: bytes, record: Any, key: SealKey = EXECUTOR_KEY) -> Output:
        """Return what a role writes of a record, under its seal."""
        name = self.topics.name(topic)
        headers = [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, sealer(key, name, kind)(head_of(value)))]
        return Output(name, record.partition, record.key, value, headers)

    def verifying(self, **options: Any) -> Verifying:
        """Return what `hitl verify` would be asked of this installation."""
        defaults = {
            "keys": {"r1": KEY}, "deep": True, "window_ms": 900_000, "others": {"executor": {"e1": EXECUTOR_KEY}},
            "executors": self.executors, "policy": self.policy,
        }  # fmt: skip
        return Verifying(self.client, self.topics, self.group, (self.actions,), **defaults | options)
