"""Robot reviewers: people for demos and tests, who read `reviews`, think, and say what they think on `verdicts`.

| temper | what it does |
|---|---|
| `careful` | reads for as long as the text takes, and says no to what is plainly too much, plainly claimed or planted |
| `lazy` | approves everything within a second or two, as somebody who no longer looks |

What they look at one by one is what a queue hands out: open items, each with one of them at a time, the oldest first. A
batch whose sample is judged and within plan, one of them releases.

Beside a person they leave a share: so many of the items that stand alone, and of the releases of batches; what is put
to one of them by name they never leave. A robot cannot read: what was planted, which any person who reads sees, it is
told by the item's record.

They speak by the console's key, each as a person in one role. `haste` divides every time, for tests that have none;
whoever works so is too fast to have read. With a seed they are the same people each time; what is open when they look
is not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal
from zlib import crc32

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from hitl_stream.core.action import Action
from hitl_stream.core.batch import Stage, may_release
from hitl_stream.core.dwell import floor_of
from hitl_stream.core.events import Purpose
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.quantity import UndefinedError, as_decimal
from hitl_stream.core.review import Review, State, may_decide
from hitl_stream.core.verdicts import BatchRelease, Edit, Verdict
from hitl_stream.roles.desk_card import Card
from hitl_stream.wire.desk_records import (
    LotState,
    decode_lot,
    decode_review,
    is_lot,
    lot_of,
    review_of,
)
from hitl_stream.wire.records import Decision
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
SHARES = 1_000
"""Of so many items, by the sum of their names, some are left."""
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


@dataclass(frozen=True)
class Said:
    """What a robot says of an item or a batch: the word, whose, where it goes, signed, on which bytes, seeing what."""

    word: str
    name: str
    partition: int
    value: bytes
    hash: str
    shown: str


@dataclass
class Reviewers:
    """Robots at work. `audience` is the cluster's id, `haste` how many times as fast as people they are.

    `repeats` and `conflicts` are shares: the same verdict once more, another person's a moment later. `leaves` is the
    share that they leave to people. `clock` tells the seconds since 1970, `counts` what was said.
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
    leaves: float = 0.0
    clock: Callable[[], float] = time.time
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
            if value is not None and (lot := decode_lot(value)).state == Stage.READY and not self._leaves(name):
                self._ready[name] = Ready(partition, lot)
            return
        if value is None or (state := decode_review(value)).state != State.OPEN:
            self._forget(name)
        elif name in self._open or len(self._open) < OPEN_MAX:
            review = review_of(state)
            if review.for_ is None and self._leaves(name) and Card.read(value).action.batch is None:
                return  # of a batch they judge everything that must be: else hardly one would be ready
            self._open[name] = Open(partition, value, review)
            for role in self._roles(review):
                self._for[role][name] = None

    def _leaves(self, name: str) -> bool:
        """Say whether this is for a person: by its name, so that it is for good, and for every robot."""
        return crc32(name.encode()) % SHARES < self.leaves * SHARES

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
                if robot.temper == "careful":
                    await asyncio.sleep(0)  # whoever only clicks is faster at taking what comes, too
                continue
            try:
                await self._attend(robot, name, producer)
            finally:
                self.done(name)

    def next_for(self, robot: Robot) -> str | None:
        """Return what this robot looks at next, and take it: a batch to release, else the oldest item that asks it.

        Nobody else looks at it until this one is `done`, as with a claim.
        """
        for name, ready in self._ready.items():
            if name not in self._busy and may_release(lot_of(ready.lot), robot.name, (robot.role,), self.policy):
                return self._taken(name)
        for item in self._for[robot.role]:
            if item not in self._busy and may_decide(self._open[item].review, robot.name, (robot.role,), self.policy):
                return self._taken(item)
        return None

    def done(self, name: str) -> None:
        """Take note that nobody looks at an item or a batch any more."""
        self._busy.discard(name)
        self._news.set()  # it may ask another person, too

    def _taken(self, name: str) -> str:
        self._busy.add(name)
        return name

    async def _attend(self, robot: Robot, name: str, producer: Any) -> None:
        """Look at an item or a batch, and say what there is to say."""
        ready, painted_s, dwell_s = self._ready.get(name), self.clock(), self.dwell_s(robot, name)
        await asyncio.sleep(dwell_s / self.haste)
        if self._ready.get(name) != ready or (ready is None and name not in self._open):
            return  # somebody was faster
        said = self.answer(robot, name, painted_s, dwell_s)
        await self._send(producer, said.partition, said.value)
        self.counts[said.word] += 1
        if ready is not None:
            return
        self._said.append((said.partition, said.value))
        if self._random.random() < self.repeats:
            await self._send(producer, *self._random.choice(self._said))
            self.counts["repeated"] += 1
        if self._random.random() < self.conflicts:
            await self._contradict(robot, said, painted_s, producer)

    async def _send(self, producer: Any, partition: int, value: bytes) -> None:
        await producer.send_and_wait(self.topics.name("verdicts"), value, partition=partition)

    def answer(self, robot: Robot, name: str, painted_s: float, dwell_s: float) -> Said:
        """Return what a robot says now of an item or a batch; it is done with it, unless the desk asks again."""
        ready = self._ready.pop(name, None)
        if ready is not None:
            return self._release(robot, ready, painted_s, dwell_s)
        found = self._open[name]
        self._forget(name)  # before it is sent: what the desk answers may be read first
        card = Card.read(found.value)
        opinion = self.opinion(robot, card.action, card.decision, planted=found.review.purpose is Purpose.CANARY)
        self._policy = card.decision.policy
        shown = orjson.dumps({"item": name, "action": orjson.Fragment(card.raw)}).decode()
        return self._signed(robot, name, found.partition, card.decision.hash, opinion, painted_s, dwell_s, shown)

    async def _contradict(self, robot: Robot, said: Said, painted_s: float, producer: Any) -> None:
        """Let a colleague, who has the same card open, say something else a moment later."""
        colleague = next((one for one in self.robots if one.role == robot.role and one.name != robot.name), None)
        if colleague is None:
            return
        other = Opinion(self._random.choice(("approve", "reject")), code="other", note="as I see it")
        again = self._signed(colleague, said.name, said.partition, said.hash, other, painted_s, 5.0, said.shown)
        await self._send(producer, again.partition, again.value)
        self.counts["contradicted"] += 1

    def _release(self, robot: Robot, ready: Ready, painted_s: float, dwell_s: float) -> Said:
        """Let a batch go whose sample is good: all its members, by their root."""
        lot = ready.lot
        card = {"batch": lot.lot, "size": lot.size, "root": lot.root, "good": lot.good, "bad": lot.bad}
        shown, root = orjson.dumps(card).decode(), lot.root or ""
        claims = self._claims(robot, painted_s, dwell_s, shown)
        release = BatchRelease(batch=lot.lot, size=lot.size, root=root, **claims)
        return Said("release", lot.lot, ready.partition, verdict_value(self.key, release, shown), root, shown)

    def _signed(
        self, robot: Robot, item: str, partition: int, digest: str, opinion: Opinion, painted_s: float, dwell_s: float,
        shown: str,
    ) -> Said:  # fmt: skip
        verdict = Verdict(
            **self._claims(robot, painted_s, dwell_s, shown),
            item=item,
            hash=digest,
            verdict=opinion.word,
            changes=opinion.edits,
            code=opinion.code,
            note=opinion.note,
        )
        return Said(opinion.word, item, partition, verdict_value(self.key, verdict, shown), digest, shown)

    def _claims(self, robot: Robot, painted_s: float, dwell_s: float, shown: str) -> dict[str, Any]:
        """Return what any judgement claims that is given now; a robot in haste looked as long as it would have."""
        self._numbers += 1
        now_s = self.clock()
        return {
            **claims_by(self.key, self.audience, f"robot-{self._session}-{self._numbers}", int(now_s)),
            "by": robot.name,
            "role": robot.role,
            "painted": _time(now_s - max(dwell_s, now_s - painted_s)),
            "decided": _time(now_s),
            "view": view_of(shown),
            "policy": self._policy,
            "epoch": -1,
        }

    def dwell_s(self, robot: Robot, name: str) -> float:
        """Return for how many seconds a robot looks at an item or a batch."""
        if robot.temper == "lazy":
            return self._random.uniform(*LAZY_S)
        least_ms = floor_of(RELEASE_WORDS, 0) if name in self._ready else self._open[name].review.floor_ms
        return least_ms / 1000 * self._random.uniform(*CAREFUL_FACTOR)

    def opinion(self, robot: Robot, action: Action, decision: Decision, *, planted: bool = False) -> Opinion:
        """Return what a robot says of an action that was routed so; `planted`: it was made plainly wrong."""
        if robot.temper == "lazy":
            return Opinion("approve")
        if planted:
            return Opinion("reject", next(iter(self.policy.reasons), None), "nobody can have meant this")
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


def crew(policy: Policy, tempers: Sequence[Temper], careful: int = 1) -> list[Robot]:
    """Return one robot of each temper for every role that the policy's queues ask, and so many careful ones."""
    roles = dict.fromkeys(role for queue in policy.queues.values() for role in queue.roles)
    return [
        Robot(name, role, temper)
        for role in roles
        for temper in tempers
        for name in _names(f"{temper}-{role.replace('_', '-')}", careful if temper == "careful" else 1)
    ]


def _names(name: str, count: int) -> list[str]:
    """Return so many names, with their numbers where there are several."""
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
