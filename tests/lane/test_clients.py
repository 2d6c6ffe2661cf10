"""Kafka clients stopped quietly, and errors of theirs: what is Kafka's, and what is not."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, TopicAuthorizationFailedError

from hitl_stream.core.errors import BrokenError, HitlError, RefusedError, UnreachableError, UsageError
from hitl_stream.lane.admin import reaching
from hitl_stream.lane.clients import stop_quietly

CLIENT = {"bootstrap_servers": "nowhere:1"}


class Client:
    """A client whose `stop` does what it is told."""

    def __init__(self, raises: BaseException | None = None, hangs: bool = False) -> None:
        self.raises, self.hangs, self.stopped = raises, hangs, 0

    async def stop(self) -> None:
        self.stopped += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.raises is not None:
            raise self.raises


@pytest.mark.parametrize("first", [Client(), Client(KafkaError()), Client(OSError()), Client(hangs=True)])
def test_a_client_that_does_not_stop_well_is_in_no_other_s_way(first: Client):
    second = Client()
    asyncio.run(stop_quietly(first, None, second, seconds=0.01))
    assert (first.stopped, second.stopped) == (1, 1)


def test_whoever_is_cancelled_while_a_client_stops_stays_cancelled():
    async def scenario() -> None:
        task = asyncio.ensure_future(stop_quietly(Client(hangs=True), seconds=3_600))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (KafkaConnectionError("Unable to bootstrap from nowhere:1"), UnreachableError),
        (KafkaTimeoutError(), UnreachableError),
        (KafkaError("Unable to get cluster metadata over all known brokers"), UnreachableError),
        (TimeoutError(), UnreachableError),
        (TopicAuthorizationFailedError("t"), RefusedError),
        (KafkaError("what is this"), BrokenError),
        (UsageError("ours"), UsageError),
    ],
)
def test_an_error_of_kafka_s_is_told_as_ours(raised: Exception, becomes: type[HitlError]):
    with pytest.raises(becomes), reaching(CLIENT):
        raise raised


@pytest.mark.parametrize("raised", [ConnectionRefusedError(111, "refused"), FileNotFoundError(2, "no file"), OSError()])
def test_what_is_not_kafka_s_is_not_blamed_on_it(raised: OSError):
    with pytest.raises(OSError) as found, reaching(CLIENT):
        raise raised
    assert found.value is raised
