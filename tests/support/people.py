"""People who decide: keys that speak for them, what they say, and what they approved, made as desk and console do.

The action is a bid of bidder-7 (whose owner is dana) from 1.20 to 1.80: too much for the machine, so a router of
`acme.yaml` asks one trader. A test changes what it is about.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from hitl_stream.core.commands import KeyEntry
from hitl_stream.core.control import Control
from hitl_stream.core.policy.model import Policy
from hitl_stream.core.verdicts import VERDICT_TYPES, Judged, Verdict
from hitl_stream.core.window import IdBudget
from hitl_stream.lane.step import Moment
from hitl_stream.roles.approvals import HumanApprovals
from hitl_stream.roles.policies import Policies
from hitl_stream.wire import records
from hitl_stream.wire.approved import approved_value
from hitl_stream.wire.desk_records import GivenRow
from hitl_stream.wire.records import DECISION, Decision, Proof, Routed, head_of, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.signing import SigningKey, key_entry, new_signing_key, sign
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wire.verdicts import claims_by, view_of
from support.make import DESK_KEY, NOW_MS, SEAL_KEY, FakeRecord, acme, action_bytes, change, make_router

CLUSTER = "cluster-1"
EXECUTE = "hitl.execute"
APPENDED_MS = NOW_MS + 60_000
"""When the verdicts reached Kafka; they were signed in the second before."""
ISSUED_S = APPENDED_MS // 1000
SHOWN = '{"change":"bid 1.20 → 1.80","by":"bidder-7"}'

CONSOLE_KEY = new_signing_key("console-1", "console", "service")
MONITOR_KEY = new_signing_key("monitor-1", "monitor", "service")
TESS_KEY = new_signing_key("tess-1", "tess")
ANA_KEY = new_signing_key("ana-1", "ana")
STRANGER_KEY = new_signing_key("stranger-1", "stranger")
_numbers = itertools.count()


def entry(key: SigningKey, *types: str, from_ms: int = NOW_MS - 86_400_000, until_ms: int = NOW_MS * 2) -> KeyEntry:
    """Return the entry that lists a key; without `types`, for every type of verdict."""
    times = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (from_ms, until_ms))
    return key_entry(key, types or VERDICT_TYPES, *times)


KEYS: Mapping[str, KeyEntry] = {
    key.key_id: made
    for key, made in (
        (CONSOLE_KEY, entry(CONSOLE_KEY)),
        (MONITOR_KEY, entry(MONITOR_KEY)),
        (TESS_KEY, entry(TESS_KEY, *VERDICT_TYPES, "as:trader")),
        (ANA_KEY, entry(ANA_KEY, *VERDICT_TYPES, "as:senior", "as:marketing_manager")),
    )
}
"""By key id: the console's, another service's, and those of two people who sign by themselves."""


def words(key: SigningKey = CONSOLE_KEY, make: Any = Verdict, shown: str = SHOWN, **fields: Any) -> Any:
    """Return what somebody says: a trader's approval, unless `fields` say otherwise."""
    time = datetime.fromtimestamp(ISSUED_S, UTC)
    common = claims_by(key, CLUSTER, f"v-{next(_numbers)}", ISSUED_S) | {
        "by": "tess",
        "role": "trader",
        "painted": time,
        "decided": time,
        "view": view_of(shown),
        "policy": "d" * 64,
        "epoch": 5,
    }
    if make is Verdict:
        common |= {"item": "r7k2m4qabcdefghi", "hash": "0" * 64, "verdict": "approve"}
    return make(**common | fields)


@dataclass
class Case:
    """An action that people were asked about, and what they and the desk made of it. Change a field, then `record`."""

    policy: Policy = field(default_factory=lambda: acme().policy)
    parts: Mapping[str, Any] = field(default_factory=dict)
    by: Sequence[tuple[str, str]] = (("tess", "trader"),)
    """Who said yes, in which role."""
    key: SigningKey = CONSOLE_KEY
    keys: Mapping[str, KeyEntry] = field(default_factory=lambda: dict(KEYS))
    desk_key: SealKey = DESK_KEY
    rules_at: int = -1
    said: Sequence[Judged] | None = None
    """The claims, where they are not plain approvals of `by`."""
    proof: Proof | None = None
    overwrite: Mapping[str, Any] = field(default_factory=dict)
    """Members of the desk's record that are not as they should be."""
    routed_changes: Mapping[str, Any] = field(default_factory=dict)
    router_key: SealKey = SEAL_KEY

    def __post_init__(self) -> None:
        parts = {"changes": [change("1.20", "1.80")], **self.parts}
        router = make_router(self.policy)
        source = FakeRecord(action_bytes(**parts))
        outputs = router([source], router.state(IdBudget()), Moment(NOW_MS, 5)).outputs
        (self.asked,) = [output for output in outputs if output.topic in ("hitl.review", "hitl.escalation")]
        assert self.asked.value is not None

    @property
    def decision(self) -> Decision:
        """Return what the router decided."""
        return records.decode_decision(self.asked.value or b"")

    @property
    def hash(self) -> str:
        """Return the action's hash."""
        return self.decision.hash

    @property
    def raw(self) -> bytes:
        """Return the action's bytes."""
        return bytes(self.decision.action)

    @property
    def routed(self) -> Routed:
        """Return what the router had sealed; `routed_changes` are members of its own, sealed by `router_key`."""
        topic, head = self.asked.topic, head_of(self.asked.value or b"")
        if self.routed_changes:
            head = head_of(records.encode(_changed(self.decision, self.routed_changes)))
        return Routed(topic=topic, head=head.decode(), seal=sealer(self.router_key, topic, DECISION)(head).decode())

    def claims(self) -> list[Judged]:
        """Return what people say."""
        if self.said is not None:
            return list(self.said)
        return [words(self.key, by=by, role=role, hash=self.hash) for by, role in self.by]

    def given(self) -> list[GivenRow]:
        """Return what they signed, as it was appended."""
        ids = {key.key_id: key for key in (CONSOLE_KEY, MONITOR_KEY, TESS_KEY, ANA_KEY, STRANGER_KEY)}
        return [GivenRow(sign(ids[one.kid], one).decode(), time_text(APPENDED_MS)) for one in self.claims()]

    def value(self) -> bytes:
        """Return the desk's record."""
        given = self.given()
        value = approved_value(
            self.routed,
            self.decision,
            self.raw,
            by=tuple(dict.fromkeys(one.by for one in self.claims())),
            given=given,
            moment_ms=APPENDED_MS + 5,
            epoch=7,
            execute_by_ms=records.execute_by_ms(self.decision),
            proof=self.proof,
        )
        if self.overwrite:
            value = records.encode(_changed(records.decode_approved(value), self.overwrite))
        return value

    def record(self) -> FakeRecord:
        """Return it as Kafka hands it out."""
        return sealed_record(self.value(), self.desk_key)

    def with_(self, **changes: Any) -> Case:
        """Return the same with some fields replaced."""
        return replace(self, **changes)

    def approvals(self) -> HumanApprovals:
        """Return an executor's look at it."""
        control = Control()
        control.keys = dict(self.keys)
        control.rules_at = self.rules_at
        return HumanApprovals(
            TopicSet(partitions=1),
            {DESK_KEY.key_id: DESK_KEY},
            {SEAL_KEY.key_id: SEAL_KEY},
            Policies(self.policy, "d" * 64, control),
            lambda: CLUSTER,
            lambda: APPENDED_MS + 10,
        )


def sealed_record(value: bytes, key: SealKey = DESK_KEY, topic: str = EXECUTE) -> FakeRecord:
    """Return a value as a record whose head somebody has sealed."""
    seal = sealer(key, topic, DECISION)(head_of(value))
    headers = [(TYPE_HEADER, DECISION.encode()), (SEAL_HEADER, seal)]
    return FakeRecord(value, topic=topic, headers=headers, timestamp=APPENDED_MS + 8)


def _changed(record: Any, changes: Mapping[str, Any]) -> Any:
    members = {name: getattr(record, name) for name in record.__struct_fields__}
    return type(record)(**members | dict(changes))
