"""The table of topics: every name once, limits that fit, and the rules that hold for all."""

from __future__ import annotations

import pytest

from hitl_stream.core.action import ACTION_BYTES_MAX
from hitl_stream.wire.topics import (
    CONTROL_TOPICS,
    DAY_MS,
    DESK_TOPICS,
    ENVELOPE_BYTES_MAX,
    MIB,
    ROUTER_TOPICS,
    TABLE,
    Topic,
    TopicSet,
)


def test_every_topic_of_the_architecture_is_there() -> None:
    assert set(TABLE) == {
        "actions", "execute", "review", "escalation", "review.seeded", "recommendations", "held", "verdicts", "reviews",
        "decisions", "closed", "results", "executor.state", "facts", "control", "control.heartbeat", "control.acks",
        "observations", "evidence", "opinions", "pairs", "feedback", "preferences", "audit", "alerts", "monitor.people",
        "monitor.gates", "monitor.relapse", "dlq",
    }  # fmt: skip
    assert set(ROUTER_TOPICS) <= set(TABLE)
    assert set(DESK_TOPICS) <= set(TABLE)


@pytest.mark.parametrize("topic", TABLE.values(), ids=lambda topic: topic.name)
def test_append_times_are_the_brokers_on_every_topic(topic: Topic) -> None:
    assert topic.config()["message.timestamp.type"] == "LogAppendTime"


@pytest.mark.parametrize("topic", TABLE.values(), ids=lambda topic: topic.name)
def test_a_topic_that_deletes_says_after_how_long_and_one_that_compacts_does_not_unless_it_does_both(
    topic: Topic,
) -> None:
    config = topic.config()
    assert ("retention.ms" in config) is ("delete" in config["cleanup.policy"])


@pytest.mark.parametrize(
    ("name", "kept"),
    [("actions", "604800000"), ("control", "-1"), ("audit", "-1"), ("verdicts", str(400 * DAY_MS)),
     ("control.heartbeat", "3600000"), ("held", str(30 * DAY_MS))],
)  # fmt: skip
def test_a_topic_keeps_its_records_as_long_as_the_architecture_says(name: str, kept: str) -> None:
    assert TABLE[name].config()["retention.ms"] == kept


@pytest.mark.parametrize("name", ["facts", "control.acks", "feedback", "preferences"])
def test_what_holds_the_last_word_of_each_key_is_compacted_and_never_deleted(name: str) -> None:
    assert TABLE[name].config()["cleanup.policy"] == "compact"


def test_acks_are_compacted_soon_since_control_reads_all_of_them_at_its_start() -> None:
    assert TABLE["control.acks"].config()["segment.ms"] == "600000"
    assert "segment.ms" not in TABLE["reviews"].config()


def test_the_topics_of_control_have_one_partition() -> None:
    assert {TABLE[name].partitions for name in CONTROL_TOPICS} == {1}


@pytest.mark.parametrize("name", [name for name in ROUTER_TOPICS if name not in ("actions", "dlq")])
def test_an_action_and_its_envelope_fit_wherever_the_router_writes(name: str) -> None:
    assert TABLE[name].bytes_max >= ACTION_BYTES_MAX + ENVELOPE_BYTES_MAX


def test_the_desk_needs_every_topic_that_the_table_says_it_writes_or_reads() -> None:
    named = {name for name, topic in TABLE.items() if "desk" in f"{topic.written_by}, {topic.read_by}"}

    assert set(DESK_TOPICS) == named - {"control.acks", "audit"}


def test_a_dead_letter_holds_the_largest_record_there_can_be() -> None:
    assert TABLE["actions"].bytes_max == 4 * MIB
    assert TABLE["dlq"].bytes_max >= TABLE["actions"].bytes_max + ENVELOPE_BYTES_MAX


def test_names_carry_a_prefix_unless_they_are_overridden() -> None:
    topics = TopicSet("ads.", 6, {"actions": "agent-actions", "review": ""})
    assert [topics.name(name) for name in ("actions", "review", "dlq")] == ["agent-actions", "ads.review", "ads.dlq"]
    with pytest.raises(KeyError):
        topics.name("no-such-topic")


@pytest.mark.parametrize(("name", "count"), [("actions", 6), ("dlq", 6), ("control", 1), ("control.acks", 1)])
def test_topics_of_entities_share_their_count_and_control_has_one(name: str, count: int) -> None:
    assert TopicSet(partitions=6).count(name) == count
