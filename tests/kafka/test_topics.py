"""The topics of an installation: planned, made, checked; what differs is named and mended, but never repartitioned."""

from __future__ import annotations

import pytest

from hitl_stream.core.errors import UsageError
from hitl_stream.lane import admin
from hitl_stream.lane.admin import TopicPlan, apply, check, plan, retentions
from hitl_stream.wire.topics import MIB, TABLE, TopicSet
from support.kafka import Topics, within

pytestmark = pytest.mark.kafka
NAMES = ("actions", "execute", "reviews", "dlq")


@pytest.fixture
def client(kafka: str) -> dict[str, str]:
    return {"bootstrap_servers": kafka}


@pytest.fixture
def ours(topics: Topics) -> TopicSet:
    return TopicSet(topics.prefix, 3)


def states(plans: tuple[TopicPlan, ...]) -> dict[str, str]:
    return {one.name: one.state for one in plans}


def test_absent_topics_are_made_once_and_are_then_ok(client: dict[str, str], ours: TopicSet):
    assert states(within(plan(client, ours, NAMES))) == dict.fromkeys(NAMES, "absent")

    done = within(apply(client, ours, NAMES))

    assert set(done.created) == {ours.name(name) for name in NAMES}
    assert states(within(plan(client, ours, NAMES))) == dict.fromkeys(NAMES, "ok")
    assert within(check(client, ours, NAMES)) == ()
    again = within(apply(client, ours, NAMES))
    assert (again.created, again.altered, again.left) == ((), (), ())


def test_the_whole_table_can_be_made(client: dict[str, str], ours: TopicSet):
    assert len(within(apply(client, ours)).created) == len(TABLE)
    assert within(check(client, ours)) == ()


def test_an_absent_topic_is_a_problem(client: dict[str, str], ours: TopicSet):
    (problem,) = within(check(client, ours, ["actions"]))
    assert (problem.rule, problem.path) == ("topics.absent", ours.name("actions"))


def test_a_setting_that_differs_is_named_and_mended_and_the_others_stay(
    client: dict[str, str], ours: TopicSet, topics: Topics
):
    topics({"execute": (3, TABLE["execute"].config() | {"retention.ms": "1000", "segment.ms": "60000"})})

    (found,) = within(plan(client, ours, ["execute"]))
    assert found.state == "differs"
    assert [(d.key, d.found, d.wanted) for d in found.differences] == [("retention.ms", "1000", "604800000")]

    assert within(apply(client, ours, ["execute"])).altered == (found.topic,)
    assert states(within(plan(client, ours, ["execute"]))) == {"execute": "ok"}
    assert within(retentions(client, [found.topic])) == {found.topic: 604_800_000}
    assert within(_config(client, found.topic, "segment.ms")) == "60000"


async def _config(client: dict[str, str], topic: str, key: str) -> str:
    async with admin._admin(client) as started:
        return (await admin._configs(started, {topic: (key,)}))[topic][key]


@pytest.mark.parametrize(("partitions", "says"), [(2, "a drained migration"), (5, "never shrink")])
def test_partitions_are_never_changed(
    client: dict[str, str], ours: TopicSet, topics: Topics, partitions: int, says: str
):
    topics({"execute": (partitions, TABLE["execute"].config())})

    done = within(apply(client, ours, ["execute"]))

    assert (done.created, done.altered) == ((), ())
    (difference,) = done.left[0].differences
    assert (difference.key, difference.found, difference.wanted) == ("partitions", str(partitions), "3")
    assert says in difference.remedy
    (problem,) = within(check(client, ours, ["execute"]))
    assert says in problem.message


def test_what_comes_in_must_fit_into_what_goes_out(client: dict[str, str], ours: TopicSet, topics: Topics):
    small = TABLE["dlq"].config() | {"max.message.bytes": str(4 * MIB)}
    topics({"dlq": (3, small), "actions": (3, TABLE["actions"].config())})

    problems = {problem.rule: problem for problem in within(check(client, ours, ["actions", "dlq"]))}

    assert set(problems) == {"topics.max.message.bytes", "topics.size"}
    assert problems["topics.size"].path == ours.name("dlq")
    assert str(4 * MIB + 64 * 1024) in problems["topics.size"].message


def test_further_action_topics_are_made_like_the_first(client: dict[str, str], ours: TopicSet):
    extra = ours.prefix + "agents.x"
    assert set(within(apply(client, ours, ["actions"], sources=[extra])).created) == {ours.name("actions"), extra}


def test_more_replicas_than_brokers_are_refused(client: dict[str, str], ours: TopicSet):
    (wanted,) = within(plan(client, ours, ["actions"], replication=3))
    assert wanted.config["min.insync.replicas"] == "2"
    with pytest.raises(UsageError, match="--replication"):
        within(apply(client, ours, ["actions"], replication=3))
    within(apply(client, ours, ["actions"]))
    (problem,) = [p for p in within(check(client, ours, ["actions"], replication=3)) if "replication" in p.rule]
    assert "reassign" in problem.message


def test_a_name_that_is_none_is_refused(client: dict[str, str], ours: TopicSet):
    with pytest.raises(UsageError, match="no topic of ours"):
        within(plan(client, ours, ["acts"]))
