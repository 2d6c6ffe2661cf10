"""Robot reviewers: people for demos and tests, who read `reviews`, think, and say what they think on `verdicts`.

| temper | what it does |
|---|---|
| `careful` | reads for as long as the text takes, and says no to what is plainly too much or plainly claimed |
| `lazy` | approves everything within a second or two, as somebody who no longer looks |

What they look at one by one is what a queue hands out: open items, each with one of them at a time, the oldest first. A
batch whose sample is judged and within plan, one of them releases.

They speak by the console's key, each as a person in one role. `haste` divides every time: a demo has a minute. With a
seed they are the same people each time; what is open when they look is not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from hitl_stream.core.action import Action
from hitl_stream.core.batch import Stage, may_release
from hitl_stream.core.dwell import floor_ms, floor_of
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.review import Review, State, may_decide
from hitl_stream.core.verdicts import BatchRelease, Edit, Judged, Verdict
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import (
    LotState,
    decision_of,
    decode_lot,
    decode_review,
    is_lot,
    lot_of,
    review_of,
)
from hitl_stream.wire.records import Held
from hitl_stream.wire.signing import SigningKey
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.verdicts import claims_by, verdict_value, view_of

Temper = Literal["careful", "lazy"]
TEMPERS: Final[tuple[Temper, ...]] = ("careful", "lazy")
TOO_MUCH = 0.35
"""A careful robot says no to a change of more than this share, and makes one that is smaller smaller still."""
TRIMMED = 0.28
ESCALATES = 0.02
LAZY_S = (0.6, 1.8)
CAREFUL_FACTOR = (2.0, 5.0)
"""A careful robot takes so many times as long as reading takes at least."""
POLL_MS = 100
OPEN_MAX = 100_000
"""Items remembered; more are left for later, as the oldest are looked at first."""
RELEASE_WORDS = 40
"""What stands on the card of a batch's release: its size, its sample, its root."""
CLAIMS = ("clinically proven", "guaranteed")

# aiokafka has no types; as Any its calls pass under strict.
_Consumer: Any = AIOKafkaConsumer
_Producer: Any = AIOKafkaProducer


@dataclass(frozen=True)
class Robot:
    """One of them: a name, the role it decides in, and how it goes about it."""

    name: str
    role: str
    temper: Temper = "careful"


@dataclass
class Opinion:
    """What a robot makes of an action."""

    word: Literal["approve", "reject", "change", "escalate"]
    code: str | None = None
    note: str | None = None
    edits: tuple[Edit, ...] = ()


@dataclass(frozen=True)
class Open:
    """An open item as its record has it."""

    partition: int
    value: bytes
    review: Review


@dataclass(frozen=True)
class Ready:
    """A batch that waits for its release."""

    partition: int
    lot: LotState


@dataclass
class Reviewers:
    """Robots at work. `audience` is the cluster's id, `haste` how many times as fast as people they are.

    `repeats` and `conflicts` are shares: the same verdict once more, another person's a moment later. `counts` tells
    what was said.
    """

    client: Mapping[str, Any]
    topics: TopicSet
    key: SigningKey
    audience: str
    policy: Policy
    robots: Sequence[Robot]
    seed: int = 7
    haste: float = 1.0
    repeats: float = 0.0
    conflicts: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._open: dict[str, Open] = {}
        self._ready: dict[str, Ready] = {}
        self._for: dict[str, dict[str, None]] = {robot.role: {} for robot in self.robots}
        """By role, the items that ask it, in the order in which they came: nobody goes through those of others."""
        self._said: deque[tuple[int, bytes]] = deque(maxlen=1_000)
        self._news = asyncio.Event()
        self._numbers = 0
        self._busy: set[str] = set()
        self._session = f"{time.time_ns():x}"
        self._validators = {f"validator.{name}" for name in self.policy.validators}
        self._policy = "0" * 64
        """The digest of the policy that the newest item was decided under."""

    async def run(self) -> None:
        """Review for ever."""
        consumer = _Consumer(
            **self.client, group_id=None, auto_offset_reset="earliest", isolation_level="read_committed",
            enable_auto_commit=False, fetch_max_wait_ms=POLL_MS,
        )  # fmt: skip
        producer = _Producer(**self.client, acks="all", linger_ms=5)
        await consumer.start()
        await producer.start()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(consumer))
                for robot in self.robots:
                    group.create_task(self._work(robot, producer))
        finally:
            await consumer.stop()
            await producer.stop()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _read(self, consumer: Any) -> None:
        topic = self.topics.name("reviews")
        consumer.assign([TopicPartition(topic, n) for n in range(self.topics.partitions)])
        await consumer.seek_to_beginning()
        while True:
            found = await consumer.getmany(timeout_ms=POLL_MS)
            for records in found.values():
                for record in records:
                    self.take(record.partition, record.key, record.value)
            if found:
                self._news.set()

    def take(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Take in one record of `reviews`."""
        name = key.decode()
        if is_lot(key):
            self._ready.pop(name, None)
            if value is not None and (lot := decode_lot(value)).state == Stage.READY:
                self._ready[name] = Ready(partition, lot)
            return
        if value is None or (state := decode_review(value)).state != State.OPEN:
            self._forget(name)
        elif name in self._open or len(self._open) < OPEN_MAX:
            review = review_of(state)
            self._open[name] = Open(partition, value, review)
            for role in self._roles(review):
                self._for[role][name] = None

    def _roles(self, review: Review) -> set[str]:
        queues = (self.policy.queues.get(need.queue) for need in review.needs)
        return {role for queue in queues if queue is not None for role in queue.roles if role in self._for}

    def _forget(self, item: str) -> None:
        self._open.pop(item, None)
        for waiting in self._for.values():
            waiting.pop(item, None)

    # --- deciding -----------------------------------------------------------------------------------------------------

    async def _work(self, robot: Robot, producer: Any) -> None:
        while True:
            name = self.next_for(robot)
            if name is None:
                self._news.clear()
                await self._news.wait()
                continue
            try:
                if name in self._ready:
                    await self._release(robot, name, producer)
                else:
                    await self._judge(robot, name, producer)
            finally:
                self._busy.discard(name)
                self._news.set()  # it may ask another person, too

    def next_for(self, robot: Robot) -> str | None:
        """Return what this robot looks at next, and take it: a batch to release, else the oldest item that asks it.

        Nobody else looks at it until it is judged, as with a claim.
        """
        for name, ready in self._ready.items():
            if name not in self._busy and may_release(lot_of(ready.lot), robot.name, (robot.role,), self.policy):
                return self._taken(name)
        for item in self._for[robot.role]:
            if item not in self._busy and may_decide(self._open[item].review, robot.name, (robot.role,), self.policy):
                return self._taken(item)
        return None

    def _taken(self, name: str) -> str:
        self._busy.add(name)
        return name

    async def _judge(self, robot: Robot, item: str, producer: Any) -> None:
        partition = self._open[item].partition
        state = decode_review(self._open[item].value)
        raw = bytes(state.action)
        decision = decision_of(state.routed, raw)
        decoded = decode_bytes(raw, decision.ce)
        assert isinstance(decoded, Decoded)  # the desk has read it
        painted_s = time.time()
        dwell_s = self._dwell_s(robot, decoded.action)
        await asyncio.sleep(dwell_s / self.haste)
        if item not in self._open:
            return  # somebody was faster
        opinion = self.opinion(robot, decoded.action, decision)
        self._policy = decision.policy
        shown = orjson.dumps({"item": item, "action": orjson.Fragment(raw)}).decode()
        jws = self._signed(robot, item, decision.hash, opinion, painted_s, dwell_s, shown, decision.policy)
        topic = self.topics.name("verdicts")
        self._forget(item)  # first: what the desk answers may be read before this goes on
        await producer.send_and_wait(topic, jws, partition=partition)
        self.counts[opinion.word] += 1
        self._said.append((partition, jws))
        if self._random.random() < self.repeats:
            again_partition, again = self._random.choice(self._said)
            await producer.send_and_wait(topic, again, partition=again_partition)
            self.counts["repeated"] += 1
        if self._random.random() < self.conflicts:
            await self._contradict(robot, item, decision, painted_s, shown, partition, producer)

    async def _contradict(
        self, robot: Robot, item: str, decision: Any, painted_s: float, shown: str, partition: int, producer: Any
    ) -> None:
        """Let a colleague, who has the same card open, say something else a moment later."""
        colleague = next((one for one in self.robots if one.role == robot.role and one.name != robot.name), None)
        if colleague is None:
            return
        other = Opinion(self._random.choice(("approve", "reject")), code="other", note="as I see it")
        jws = self._signed(colleague, item, decision.hash, other, painted_s, 5.0, shown, decision.policy)
        await producer.send_and_wait(self.topics.name("verdicts"), jws, partition=partition)
        self.counts["contradicted"] += 1

    async def _release(self, robot: Robot, name: str, producer: Any) -> None:
        """Let a batch go whose sample is good."""
        ready = self._ready[name]
        painted_s = time.time()
        dwell_s = self._times(robot, floor_of(RELEASE_WORDS, 0))
        await asyncio.sleep(dwell_s / self.haste)
        if self._ready.get(name) != ready:
            return  # it has changed: released by somebody else, or gone
        value = self.release_value(robot, ready.lot, painted_s, dwell_s)
        self._ready.pop(name, None)
        await producer.send_and_wait(self.topics.name("verdicts"), value, partition=ready.partition)
        self.counts["release"] += 1

    def release_value(self, robot: Robot, lot: LotState, painted_s: float, dwell_s: float) -> bytes:
        """Return the signed release of a batch that is ready: of all its members, by their root."""
        card = {"batch": lot.lot, "size": lot.size, "root": lot.root, "good": lot.good, "bad": lot.bad}
        shown = orjson.dumps(card).decode()
        claims = self._claims(robot, painted_s, dwell_s, shown, self._policy)
        release = BatchRelease(batch=lot.lot, size=lot.size, root=lot.root or "", **claims)
        return verdict_value(self.key, release, shown)

    def _signed(
        self, robot: Robot, item: str, digest: str, opinion: Opinion, painted_s: float, dwell_s: float, shown: str,
        policy: str,
    ) -> bytes:  # fmt: skip
        verdict: Judged = Verdict(
            **self._claims(robot, painted_s, dwell_s, shown, policy),
            item=item,
            hash=digest,
            verdict=opinion.word,
            changes=opinion.edits,
            code=opinion.code,
            note=opinion.note,
        )
        return verdict_value(self.key, verdict, shown)

    def _claims(self, robot: Robot, painted_s: float, dwell_s: float, shown: str, policy: str) -> dict[str, Any]:
        """Return what any judgement claims that is given now; a robot in haste looked as long as it would have."""
        self._numbers += 1
        now_s = time.time()
        return {
            **claims_by(self.key, self.audience, f"robot-{self._session}-{self._numbers}", int(now_s)),
            "by": robot.name,
            "role": robot.role,
            "painted": _time(now_s - max(dwell_s, now_s - painted_s)),
            "decided": _time(now_s),
            "view": view_of(shown),
            "policy": policy,
            "epoch": -1,
        }

    def _dwell_s(self, robot: Robot, action: Action) -> float:
        return self._times(robot, floor_ms(action))

    def _times(self, robot: Robot, least_ms: int) -> float:
        """Return for how many seconds a robot looks at what takes at least so long to read."""
        if robot.temper == "lazy":
            return self._random.uniform(*LAZY_S)
        return least_ms / 1000 * self._random.uniform(*CAREFUL_FACTOR)

    def opinion(self, robot: Robot, action: Action, decision: Held) -> Opinion:
        """Return what a robot says of an action that was routed so."""
        if robot.temper == "lazy":
            return Opinion("approve")
        if self._random.random() < ESCALATES and self._can_escalate(robot):
            return Opinion("escalate")
        faults = [row.rule.partition(".")[2] for row in decision.reasons if row.counts and row.rule in self._validators]
        return judged(action, self.policy, faults)

    def _can_escalate(self, robot: Robot) -> bool:
        return all(queue.next is not None for queue in self.policy.queues.values() if robot.role in queue.roles)


def judged(action: Action, policy: Policy, faults: Sequence[str] = ()) -> Opinion:
    """Say what a careful person thinks of an action: by its words, then by how much it changes.

    `faults` are the validators that it failed; what they found is there, and a careful person sees it.
    """
    text = action.content.text if action.content is not None else None
    if text is not None and any(claim in text.lower() for claim in CLAIMS):
        return Opinion("reject", _code(policy, "factual"), "a claim that nobody has shown")
    for name in faults:
        return Opinion("reject", _code(policy, policy.validators[name].error), f"{name}: as the gate says")
    for index, change in enumerate(action.changes):
        try:
            before, after = as_decimal(change.before, "before"), as_decimal(change.after, "after")
        except UndefinedError:
            continue
        share = float(abs(after - before) / abs(before)) if before else 1.0
        if share > TOO_MUCH:
            return Opinion("reject", _code(policy, "limit"), f"{share:.0%} at once")
        if share > TRIMMED and len(action.changes) == 1:
            less = before + (after - before) / 2
            value = f"{less:.2f}" if isinstance(change.after, str) else float(round(less, 2))
            if value != change.after:
                edits = (Edit(f"/changes/{index}/after", value),)
                return Opinion("change", _code(policy, "limit"), "half of it", edits)
    return Opinion("approve")


def _code(policy: Policy, error: str) -> str | None:
    """Return the first reason of the policy that stands for this type of error."""
    return next((code for code, kind in policy.reasons.items() if kind == error), next(iter(policy.reasons), None))


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def crew(policy: Policy, tempers: Sequence[Temper]) -> list[Robot]:
    """Return one robot of each temper for every role that the policy's queues ask."""
    roles = dict.fromkeys(role for queue in policy.queues.values() for role in queue.roles)
    return [Robot(f"{temper}-{role.replace('_', '-')}", role, temper) for role in roles for temper in tempers]
