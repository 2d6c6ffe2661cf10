"""The topics: names, partitions, retention and limits, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

DAY_MS = 86_400_000
MIB = 1024 * 1024
ENVELOPE_BYTES_MAX = 64 * 1024
"""Head, headers and framing that a role puts around an action: what an output may be longer than its input."""


@dataclass(frozen=True)
class Topic:
    """One topic. `partitions` None means N, which all entity topics share; `retention_ms` −1 keeps for ever."""

    name: str
    retention_ms: int
    cleanup: str = "delete"
    partitions: int | None = None
    bytes_max: int = MIB
    durable: bool = False
    segment_ms: int | None = None
    written_by: str = ""
    read_by: str = ""

    def config(self) -> dict[str, str]:
        """Return the topic's configuration as Kafka spells it."""
        config = {
            "cleanup.policy": self.cleanup,
            "max.message.bytes": str(self.bytes_max),
            "message.timestamp.type": "LogAppendTime",
        }
        if self.durable:
            # Kafka acknowledges before it writes to disk; what nobody can say twice is written first.
            config["flush.messages"] = "1"
        if self.segment_ms is not None:
            # The newest segment is never compacted, and whoever reads the topic from its beginning reads all of it.
            config["segment.ms"] = str(self.segment_ms)
        if "delete" in self.cleanup:
            config["retention.ms"] = str(self.retention_ms)
        return config


def _days(days: int) -> int:
    return days * DAY_MS


COMPACT_DELETE = "compact,delete"
_TABLE = (
    Topic("actions", _days(7), bytes_max=4 * MIB, written_by="publishers; router (moves); desk (changes); console",
          read_by="router"),
    Topic("execute", _days(7), written_by="router, desk", read_by="executor"),
    Topic("review", _days(30), written_by="router", read_by="desk"),
    Topic("escalation", _days(30), written_by="router; executor (exceptions)", read_by="desk"),
    Topic("review.seeded", _days(30), written_by="router (audit copies), monitor (canaries)",
          read_by="desk, monitor"),
    Topic("recommendations", _days(7), written_by="router", read_by="console, publishers"),
    Topic("held", _days(30), written_by="router, desk, executor", read_by="router"),
    Topic("verdicts", _days(400), durable=True, written_by="console, CLI", read_by="desk"),
    Topic("reviews", _days(30), COMPACT_DELETE, written_by="desk", read_by="desk, console, monitor"),
    Topic("decisions", _days(400), COMPACT_DELETE, written_by="desk", read_by="console, monitor"),
    Topic("closed", _days(30), written_by="router, desk, executor", read_by="publishers, console, monitor"),
    Topic("results", _days(30), written_by="executor", read_by="desk, publishers, console, monitor"),
    Topic("executor.state", _days(30), COMPACT_DELETE, segment_ms=600_000, written_by="executor", read_by="executor"),
    Topic("facts", -1, "compact", written_by="executor, connectors", read_by="router, executor"),
    Topic("control", -1, partitions=1, durable=True, written_by="console, CLI, control, monitor, hosts",
          read_by="every role"),
    Topic("control.heartbeat", 3_600_000, partitions=1, written_by="control", read_by="every role, CLI"),
    Topic("control.acks", -1, "compact", partitions=1, segment_ms=600_000, written_by="router, desk, executor",
          read_by="control"),
    Topic("observations", _days(90), written_by="desk", read_by="monitor"),
    Topic("evidence", _days(400), written_by="desk", read_by="monitor"),
    Topic("opinions", _days(30), written_by="publishers (AI reviewers)", read_by="desk, monitor"),
    Topic("pairs", _days(30), written_by="publishers", read_by="desk, console"),
    Topic("feedback", -1, "compact", written_by="desk", read_by="console, exports"),
    Topic("preferences", -1, "compact", written_by="desk", read_by="desk, console, exports"),
    Topic("audit", -1, durable=True, written_by="router, desk, executor", read_by="audit, console"),
    Topic("alerts", _days(90), written_by="monitor", read_by="monitor, console, notifications"),
    Topic("monitor.people", -1, "compact", segment_ms=600_000, written_by="monitor", read_by="monitor, console"),
    Topic("monitor.gates", -1, "compact", segment_ms=600_000, written_by="monitor", read_by="monitor, CLI, console"),
    Topic("monitor.relapse", -1, "compact", segment_ms=600_000, written_by="monitor", read_by="monitor, CLI"),
    Topic("dlq", _days(30), bytes_max=6 * MIB, written_by="router, desk, executor", read_by="operators"),
)  # fmt: skip
TABLE: Mapping[str, Topic] = MappingProxyType({topic.name: topic for topic in _TABLE})
ROUTER_TOPICS = ("actions", "execute", "review", "escalation", "review.seeded", "recommendations", "held", "closed",
                 "facts", "dlq")  # fmt: skip
EXECUTOR_TOPICS = ("execute", "results", "closed", "held", "escalation", "executor.state", "facts", "dlq")
DESK_TOPICS = ("review", "escalation", "review.seeded", "verdicts", "results", "opinions", "reviews", "actions",
               "execute", "held", "closed", "decisions", "observations", "evidence", "feedback", "pairs", "preferences",
               "dlq")  # fmt: skip
CONSOLE_TOPICS = ("actions", "verdicts", "reviews", "decisions", "closed", "results", "pairs", "preferences",
                  "feedback")  # fmt: skip
MONITOR_TOPICS = ("observations", "evidence", "closed", "decisions", "review.seeded", "alerts", "monitor.people",
                  "monitor.gates", "monitor.relapse")  # fmt: skip
CONTROL_TOPICS = ("control", "control.heartbeat", "control.acks")
"""What every role that is stopped by control needs besides."""


@dataclass(frozen=True)
class TopicSet:
    """The topics of one installation: a prefix, N, and names that were overridden."""

    prefix: str = "hitl."
    partitions: int = 12
    names: Mapping[str, str] = field(default_factory=dict)

    def name(self, topic: str) -> str:
        """Return the Kafka name of a topic of the table."""
        return self.names.get(topic) or self.prefix + TABLE[topic].name

    def count(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        return TABLE[topic].partitions or self.partitions
