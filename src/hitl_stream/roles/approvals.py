"""The executor's look at what people approved: `wire.approved` reads it, and here stands what it is checked with.

Keys, policy and time are those of the moment at which a record is read; a verdict is judged by its own append time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hitl_stream.lane.step import Record
from hitl_stream.roles.executor import Vouched
from hitl_stream.roles.policies import Policies
from hitl_stream.wire.approved import ASKING, Trust, doubt, read_approved
from hitl_stream.wire.codec import Undecodable
from hitl_stream.wire.seal import SealKey
from hitl_stream.wire.topics import TopicSet


class HumanApprovals:
    """Checks what people approved, under the seals of desk and router, `control`'s keys and our own policy copy.

    `audience` tells the id of the Kafka cluster, `now_ms` control time. Keys are by id.
    """

    def __init__(
        self,
        topics: TopicSet,
        desk_keys: Mapping[str, SealKey],
        router_keys: Mapping[str, SealKey],
        policies: Policies,
        audience: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        self.desk_keys = desk_keys
        self.router_keys = router_keys
        self.policies = policies
        self.audience = audience
        self.now_ms = now_ms
        self._asking = frozenset(topics.name(name) for name in ASKING)

    def read(self, record: Record) -> Vouched | Undecodable:
        """Read a record on `execute` whose head holds `routed`; `Undecodable` for what no desk has sealed."""
        found = read_approved(record.topic, record.value, record.headers, self.desk_keys)
        if isinstance(found, Undecodable):
            return found
        return Vouched(found.decision, found.decoded, doubt(found, self._trust()))

    def _trust(self) -> Trust:
        control = self.policies.control
        return Trust(
            topics=self._asking,
            router_keys=self.router_keys,
            keys=control.keys,
            audience=self.audience(),
            policy=self.policies.at(self.now_ms()),
            rules_at=control.rules_at,
        )
