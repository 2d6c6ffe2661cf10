"""Asking a cluster who it is: any broker that answers will do, and no topic is made by asking for it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError, NodeNotReadyError, RequestTimedOutError

from hitl_stream.core.errors import BrokenError
from hitl_stream.lane.admin import described

ANSWER = {
    "cluster_id": "c-1",
    "topics": [
        {"topic": "hitl.control", "error_code": 0, "partitions": [{}]},
        {"topic": "hitl.gone", "error_code": 3, "partitions": []},
    ],
}


class Cluster:
    """A client of three brokers; `down` are those that do not answer."""

    def __init__(self, down: dict[int, KafkaError], answer: dict[str, Any] = ANSWER) -> None:
        self.cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=number) for number in (1, 2, 3)])
        self.down = down
        self.answer = answer
        self.asked: list[Any] = []

    async def send(self, node: int, request: Any) -> Any:
        self.asked.append(request)
        if node in self.down:
            raise self.down[node]
        return SimpleNamespace(to_object=lambda: self.answer)


@pytest.mark.parametrize("up", [1, 2, 3])
def test_one_broker_that_answers_is_enough(up: int) -> None:
    down: dict[int, KafkaError] = {1: NodeNotReadyError(), 2: RequestTimedOutError(), 3: NodeNotReadyError()}
    del down[up]

    assert asyncio.run(described(Cluster(down), ["hitl.control", "hitl.gone"])) == ("c-1", {"hitl.control": 1})


def test_where_none_answers_the_last_error_is_raised() -> None:
    with pytest.raises(NodeNotReadyError):
        asyncio.run(described(Cluster(dict.fromkeys((1, 2, 3), NodeNotReadyError())), []))


def test_no_topic_is_made_by_asking() -> None:
    cluster = Cluster({})
    asyncio.run(described(cluster, ["hitl.control"]))

    (request,) = cluster.asked
    assert request._allow_auto_topic_creation is False


@pytest.mark.parametrize("name", [None, ""])
def test_a_cluster_without_an_id_is_no_place_for_commands(name: str | None) -> None:
    with pytest.raises(BrokenError, match="no cluster id"):
        asyncio.run(described(Cluster({}, ANSWER | {"cluster_id": name}), []))
