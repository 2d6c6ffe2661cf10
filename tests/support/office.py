"""A router's and a desk's partition, everything that they write kept as a log, and `hitl verify`'s look at that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from hitl_stream.core.ledger import Ledger, Report, Taken
from hitl_stream.core.obeyed import Recorded
from hitl_stream.core.policy.model import Policy
from hitl_stream.lane.step import Output, Result
from hitl_stream.lane.verify_facts import ANSWERS, Against, Facts, checks
from hitl_stream.lane.verify_people import PEOPLE, People
from hitl_stream.wire import records
from hitl_stream.wire.approved import ASKING
from hitl_stream.wire.control_past import ControlPast
from hitl_stream.wire.records import head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.trust_at import TrustAt
from hitl_stream.wire.whose import Seals
from support.desk import CLUSTER, EXECUTOR_KEY, INPUTS, PREFIX, Workplace
from support.make import DESK_KEY, SEAL_KEY, FakeRecord

TOPICS = TopicSet(partitions=1)
KEYS: Mapping[str, Mapping[str, SealKey]] = {
    "router": {SEAL_KEY.key_id: SEAL_KEY},
    "desk": {DESK_KEY.key_id: DESK_KEY},
    "executor": {EXECUTOR_KEY.key_id: EXECUTOR_KEY},
}
DIGEST = "d" * 64


class Office(Workplace):
    """A workplace whose topics can be read once more."""

    def __init__(self, policy: Any = None) -> None:
        super().__init__(policy)
        self.logs: dict[str, list[FakeRecord]] = defaultdict(list)
        self.routed = 0
        """The router's committed offset on `actions`."""

    def route(self, *batch: FakeRecord) -> list[Output]:
        """Let the router decide these records; what the desk has proposed meanwhile comes first."""
        self.logs["actions"] += batch
        for number, record in enumerate(self.logs["actions"]):
            record.offset = number
        written = super().route(*self.logs["actions"][self.routed :])
        self.routed = len(self.logs["actions"])
        for output in written:
            name = output.topic.removeprefix(PREFIX)
            if name not in INPUTS:
                self.keep(name, output)
        return written

    def append(self, name: str, value: bytes | None, key: bytes | None = None, headers: Any = ()) -> FakeRecord:
        """Append a record to an input of the desk."""
        record = super().append(name, value, key, headers)
        self.logs[name].append(record)
        return record

    def commit(self, result: Result) -> list[Output]:
        """Write what the desk decided where it belongs."""
        for output in result.outputs:
            self.keep(output.topic.removeprefix(PREFIX), output)
        return super().commit(result)

    def keep(self, name: str, output: Output) -> None:
        """Append an output to the log."""
        log = self.logs[name]
        log.append(FakeRecord(output.value, len(log), 0, self.now_ms, output.topic, output.key, tuple(output.headers)))

    def write(self, name: str, kind: str, value: bytes, key: SealKey = DESK_KEY) -> FakeRecord:
        """Append what somebody with the desk's key writes."""
        seal = sealer(key, PREFIX + name, kind)(head_of(value))
        headers = ((TYPE_HEADER, kind.encode()), (SEAL_HEADER, seal))
        record = FakeRecord(value, len(self.logs[name]), 0, self.now_ms, PREFIX + name, b"k", headers)
        self.logs[name].append(record)
        return record

    def rewrite(self, name: str, index: int, change: Callable[[bytes], bytes], kind: str = records.DECISION) -> None:
        """Change a record and seal it anew, as only the desk could."""
        record = self.logs[name][index]
        before = record.value or b""
        value = change(before)
        assert value != before
        seal = sealer(DESK_KEY, PREFIX + name, kind)(head_of(value))
        record.value, record.headers = value, ((TYPE_HEADER, kind.encode()), (SEAL_HEADER, seal))

    def past(self) -> ControlPast:
        """Return what control has said, as far as this workplace knows."""
        past = ControlPast(CLUSTER, "")
        past.control = self.control
        past.keys = [(-1, dict(self.control.keys))]
        return past

    def verify(
        self,
        *,
        file: tuple[Policy, str] | None = None,
        with_control: bool = True,
        keys: Mapping[str, Mapping[str, SealKey]] = KEYS,
        committed: int | None = None,
        settled: Mapping[str, int] | None = None,
        since_ms: int = 0,
    ) -> tuple[Report, People]:
        """Do as `hitl verify`; the desk has committed `verdicts` up to `committed` (None: all of it)."""
        ledger = Ledger(window_ms=900_000)
        seals = Seals(keys)
        book = ledger.open(f"{PREFIX}actions/0", 0, len(self.logs["actions"]))
        policy = self.desk.policies.policy
        asking = [TOPICS.name(name) for name in ASKING]
        trust = TrustAt(self.past(), asking, keys.get("router", {}), file or (policy, DIGEST))
        people = People(
            ledger,
            seals,
            trust=trust if with_control else None,
            switches=self.control.switches if with_control else None,
            epoch=self.epoch,
            settled={(PREFIX + name, 0): end for name, end in (settled or {}).items()},
        )
        against = Against(seals, True, {}, None, Recorded((), DIGEST), self.epoch)
        facts = Facts(TOPICS, [f"{PREFIX}actions"], ledger, against, people)
        for name in ("actions", *ANSWERS, *PEOPLE):
            if self.logs[name]:
                facts.take(PREFIX + name, 0, self.logs[name])
        done = len(self.logs["verdicts"]) if committed is None else committed
        people.judgements.close({0: done}, {0: since_ms})
        offsets = {book.place: self.routed}
        found = (*checks(against), "I6", "I7")
        return ledger.close(offsets, offsets, held={0: Taken(0, 0)}, checks=found), people


def found(report: Report) -> dict[str, int]:
    """Return how many violations there are of each invariant."""
    return {row.invariant: row.violations for row in report.rows if row.violations}


def said(report: Report, invariant: str) -> list[str]:
    """Return what is said of one invariant's violations."""
    return [violation.what for violation in report.violations if violation.invariant == invariant]
