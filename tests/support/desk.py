"""A router's and a desk's partition over one log of their own: what lanes do, without Kafka.

`propose` lets agents speak, `say` people, `later` the clock; `work` hands the desk everything that was appended since.
Every record that the desk commits goes where it belongs: `reviews` to the changelog, `held` and `actions` back to the
router, the rest to `left`.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from hitl_stream.core.batch import Lot
from hitl_stream.core.commands import ReviewerChange
from hitl_stream.core.control import Said
from hitl_stream.core.events import DeskTally, Mode
from hitl_stream.core.review import Review
from hitl_stream.core.switches import Switch
from hitl_stream.core.verdicts import VERDICT_TYPES, BatchRelease, Edit, PairChoice, Qualified, Skipped, Verdict
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.step import Moment, Output, Result
from hitl_stream.roles.desk import INPUTS, Desk, DeskSettings
from hitl_stream.roles.desk_card import Card, lot_name
from hitl_stream.roles.desk_state import Ended, Item
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.codec import Decoded, decode_bytes
from hitl_stream.wire.desk_records import VerdictRecord, decision_of
from hitl_stream.wire.records import DECISION, Routed, encode, head_of, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.signing import SigningKey, key_entry, new_signing_key, sign
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.verdicts import verdict_value, view_of
from hitl_stream.wire.watched import pseudonym, seeded_value
from support.make import DESK_KEY, NOW_MS, SAMPLE_KEY, SEAL_KEY, FakeRecord, acme, make_router

CLUSTER = "cluster-1"
CONSOLE = new_signing_key("console-1", "console", "service")
ANA = new_signing_key("ana-1", "ana")
ROBOT = new_signing_key("robot-1", "robot", "service")
EXECUTOR_KEY = SealKey("e1", b"\x04" * 32)
MONITOR_KEY = SealKey("m1", b"\x05" * 32)
NAMES_KEY = SealKey("p1", b"\x06" * 32)
START = datetime(2020, 1, 1, tzinfo=UTC)
END = datetime(2030, 1, 1, tzinfo=UTC)
PREFIX = "hitl."
TURNS_MAX = 200
SECOND = 1_000
MINUTE = 60_000


class Workplace:
    """One partition of both, one policy, and the people who work there."""

    def __init__(self, policy: Any = None) -> None:
        policy = policy if policy is not None else acme().policy
        self.now_ms = NOW_MS
        self.router = make_router(policy, parkers={DESK_KEY.key_id: DESK_KEY, EXECUTOR_KEY.key_id: EXECUTOR_KEY})
        self.control = self.router.policies.control
        for key, types in (
            (CONSOLE, VERDICT_TYPES),
            (ROBOT, ("heartbeat",)),
            (ANA, (*VERDICT_TYPES, "as:trader")),
        ):
            self.control.keys[key.key_id] = key_entry(key, types, START, END)
        asking = {
            "router": {SEAL_KEY.key_id: SEAL_KEY},
            "executor": {EXECUTOR_KEY.key_id: EXECUTOR_KEY},
            "monitor": {MONITOR_KEY.key_id: MONITOR_KEY},
        }
        settings = DeskSettings(TopicSet(partitions=1), {DESK_KEY.key_id: DESK_KEY}, asking, SAMPLE_KEY, NAMES_KEY)
        self.desk = Desk(settings, Policies(policy, "d" * 64, self.control), lambda: CLUSTER)
        self.routing = self.router.state(IdBudget())
        self.state = self.desk.state()
        self.actions: list[FakeRecord] = []
        self.held: list[FakeRecord] = []
        self.waiting: list[FakeRecord] = []
        """Appended to the desk's inputs, and not read yet."""
        self.offsets: dict[str, Iterator[int]] = defaultdict(itertools.count)
        self.changelog: dict[bytes, FakeRecord] = {}
        self.left: dict[str, list[Output]] = defaultdict(list)
        """What the desk wrote, by topic without its prefix."""
        self.tally = DeskTally()
        self._numbers = itertools.count()
        self.epoch = -1

    # --- what happens ---

    def propose(self, *values: bytes) -> list[Output]:
        """Let agents propose actions; what asks people is on its way to the desk."""
        batch = [FakeRecord(value, len(self.actions) + n, timestamp=self.now_ms) for n, value in enumerate(values)]
        return self.route(*batch)

    def route(self, *batch: FakeRecord) -> list[Output]:
        """Let the router decide these records."""
        self.actions += batch
        result = self.router(list(batch), self.routing, Moment(self.now_ms, self.epoch))
        self.routing.apply(result.changes)
        for output in result.outputs:
            if output.topic.removeprefix(PREFIX) in INPUTS:
                self.append(output.topic.removeprefix(PREFIX), output.value, output.key, output.headers)
        return list(result.outputs)

    def append(self, name: str, value: bytes | None, key: bytes | None = None, headers: Any = ()) -> FakeRecord:
        """Append a record to an input of the desk."""
        record = FakeRecord(value, next(self.offsets[name]), 0, self.now_ms, PREFIX + name, key, tuple(headers))
        self.waiting.append(record)
        return record

    def say(self, item: str, word: str = "approve", by: str = "tess", role: str = "trader", **parts: Any) -> FakeRecord:
        """Let a person judge an item."""
        return self.append("verdicts", self.verdict(item, word, by, role, **parts))

    def verdict(
        self,
        item: str,
        word: str = "approve",
        by: str = "tess",
        role: str = "trader",
        *,
        key: SigningKey = CONSOLE,
        shown: str = '{"card":1}',
        read_s: float = 60.0,
        edits: Sequence[tuple[str, Any]] = (),
        **claims: Any,
    ) -> bytes:
        """Return the value of a signed verdict, given now; `claims` replace single ones."""
        kept = self.state.items.get(item)
        hash_ = kept.review.hash if isinstance(kept, Item) else "0" * 64
        if word in ("reject", "change"):
            claims = {"code": "off_tone", **claims}
        issued_s = claims.pop("issued_s", self.now_ms // 1000)
        fields = {
            "aud": CLUSTER, "kid": key.key_id, "iss": key.holder, "jti": f"v-{next(self._numbers)}", "iat": issued_s,
            "exp": issued_s + 900, "item": item, "hash": hash_, "verdict": word, "by": by, "role": role,
            "painted": when(self.now_ms - int(read_s * 1000)), "decided": when(self.now_ms), "view": view_of(shown),
            "policy": "d" * 64, "epoch": self.epoch, "changes": tuple(Edit(path, value) for path, value in edits),
        }  # fmt: skip
        # Not `verdict_value`, which refuses to write what no reader would take.
        return encode(VerdictRecord(sign(key, Verdict(**{**fields, **claims})).decode(), shown))

    def skip(self, item: str, how: Any = "skip", by: str = "tess", role: str = "trader") -> None:
        """Let a person leave an item."""
        self._judge(Skipped, by, role, {"item": item, "how": how})

    def release_batch(self, lot: Lot, by: str, role: str, **claims: Any) -> None:
        """Let a person release a batch."""
        fields = {"batch": lot.key, "size": len(lot.members), "root": lot.root}
        self._judge(BatchRelease, by, role, {**fields, **claims})

    def prefer(self, pair: str, choice: str, left: str, by: str = "lea", role: str = "labeller") -> None:
        """Let a labeller compare a pair."""
        self._judge(PairChoice, by, role, {"pair": pair, "choice": choice, "left": left})

    def _judge(
        self, make: Any, by: str, role: str, fields: dict[str, Any], shown: str = "{}", key: SigningKey = CONSOLE
    ) -> None:
        now_s = self.now_ms // 1000
        claims = make(
            aud=CLUSTER, kid=key.key_id, iss=key.holder, jti=f"v-{next(self._numbers)}", iat=now_s,
            exp=now_s + 900, by=by, role=role, painted=when(self.now_ms - 5_000), decided=when(self.now_ms),
            view=view_of(shown), policy="d" * 64, epoch=self.epoch, **fields,
        )  # fmt: skip
        self.append("verdicts", verdict_value(key, claims, shown))

    def qualify(self, by: str, right: int = 40, of: int = 40, key: SigningKey = CONSOLE) -> None:
        """Let the console say that somebody has taken a quiz."""
        self._judge(Qualified, by, "trader", {"class_": "bid.adjust", "right": right, "of": of}, key=key)

    def watch(self, name: str, level: int) -> None:
        """Let the monitor say how closely a person is watched."""
        self.epoch += 1
        self.control.epoch = self.control.decided_at = self.epoch
        person = pseudonym(NAMES_KEY, name)
        change = ReviewerChange(
            aud=CLUSTER, kid="m", iss="monitor", jti=f"r-{self.epoch}", iat=0, exp=1, person=person, level=level,
            reason="row 2",
        )  # fmt: skip
        self.control.reviewers[person] = Said(self.epoch, change)

    def seed(self, asked: str, raw: bytes, **parts: Any) -> FakeRecord:
        """Let the monitor ask people: the decision whose head is `asked`, with `parts` replaced, about these bytes."""
        decoded = decode_bytes(raw, {})
        assert isinstance(decoded, Decoded), decoded
        decision = decision_of(Routed(topic="", head=asked, seal=""), raw)
        fields = {
            "action_id": decoded.action.action_id,
            "hash": decoded.hash,
            "moment": time_text(self.now_ms),
            **parts,
        }
        value = seeded_value(structs.replace(decision, **fields), raw)
        seal = sealer(MONITOR_KEY, PREFIX + "review.seeded", DECISION)(head_of(value))
        return self.append("review.seeded", value, b"k", [(TYPE_HEADER, DECISION.encode()), (SEAL_HEADER, seal)])

    def follow(self, name: str, value: bytes, key: bytes) -> None:
        """Append a record to a topic that the desk follows."""
        self.state.follow([FakeRecord(value, next(self.offsets[name]), 0, self.now_ms, PREFIX + name, key)])

    def engage(self, *scope: str, mode: Mode = Mode.HALT) -> int:
        """Engage a switch, now."""
        self.epoch += 1
        self.control.epoch = self.control.decided_at = self.epoch
        self.control.switches.engage(Switch(self.epoch, scope, mode, "ana", self.now_ms))
        return self.epoch

    def release(self, epoch: int) -> None:
        """Release it, now."""
        self.epoch += 1
        self.control.epoch = self.control.decided_at = self.control.released_at = self.epoch
        self.control.switches.release(epoch, self.epoch, self.now_ms)

    # --- what the lane does ---

    def work(self, *, abort: bool = False) -> list[Output]:
        """Hand the desk what was appended; with `abort` its transaction does not commit, and it comes again."""
        batch = sorted(self.waiting, key=lambda record: record.timestamp)
        result = self.desk(batch, self.state, Moment(self.now_ms, self.epoch))
        if abort:
            return list(result.outputs)
        self.waiting = []
        return self.commit(result)

    def later(self, ms: int) -> list[Output]:
        """Let time pass; read what was appended, then bring everything to what is due."""
        self.now_ms += ms
        written = self.work() if self.waiting else []
        for _ in range(TURNS_MAX):
            due = self.state.next_timer_ms()
            if due is None or due > self.now_ms:
                break
            written += self.commit(self.desk.on_timer(self.state, Moment(self.now_ms, self.epoch)))
        else:
            raise AssertionError("a timer that is due for ever")
        return written

    def commit(self, result: Result) -> list[Output]:
        """Write what was decided where it belongs."""
        if result.changes is not None:
            self.state.apply(result.changes)
        self.tally = result.tally
        for output in result.outputs:
            name = output.topic.removeprefix(PREFIX)
            if name == "reviews":
                self._log(output)
            self.left[name].append(output)
        return list(result.outputs)

    def _log(self, output: Output) -> None:
        assert output.key is not None
        record = FakeRecord(output.value, 0, 0, self.now_ms, output.topic, output.key, tuple(output.headers))
        self.changelog[output.key] = record

    def reopen(self) -> None:
        """Open the desk's partition anew, from its changelog."""
        self.state = self.desk.state()
        self.state.replay(list(self.changelog.values()))

    # --- what there is ---

    def open_items(self) -> list[str]:
        """Return the items that are open, in the order in which they were opened."""
        return [name for name, kept in self.state.items.items() if isinstance(kept, Item)]

    def card(self, item: str) -> Card:
        """Return an open item's card."""
        kept = self.state.items[item]
        assert isinstance(kept, Item), kept
        return Card.read(kept.value)

    def review(self, item: str) -> Review:
        """Return an open item's review."""
        kept = self.state.items[item]
        assert isinstance(kept, Item), kept
        return kept.review

    def lot(self, key: str) -> Lot:
        """Return a batch."""
        held = self.state.lot(lot_name(key))
        assert held is not None
        return held.lot

    def end(self, item: str) -> str:
        """Return the state in which an item has ended."""
        kept = self.state.items[item]
        assert isinstance(kept, Ended), kept
        return str(kept.state)

    def take(self, name: str) -> list[dict[str, Any]]:
        """Return the records that the desk has written to a topic since the last call."""
        return [json.loads(output.value) for output in self.left.pop(name, []) if output.value is not None]

    def opened(self, *values: bytes) -> list[str]:
        """Propose actions, and return the items that they have opened."""
        before = set(self.open_items())
        self.propose(*values)
        self.work()
        return [name for name in self.open_items() if name not in before]


def when(ms: int) -> datetime:
    """Return milliseconds since 1970 as a time."""
    return datetime.fromtimestamp(ms / 1000, UTC)
