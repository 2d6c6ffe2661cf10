"""A console's view against a real topic: what a compacted log gives back is what the view holds, or it is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hitl_stream.console.compare import Compared, compare
from hitl_stream.console.fold import fold
from hitl_stream.console.view import open_view
from hitl_stream.core.review import State
from hitl_stream.lane.admin import apply
from hitl_stream.wire.desk_records import REVIEW
from hitl_stream.wire.records import head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, sealer
from hitl_stream.wire.topics import TopicSet
from support.kafka import Topics, producing, read, within
from support.make import DESK_KEY, FakeRecord
from support.view import gone, review

pytestmark = [pytest.mark.kafka, pytest.mark.behaviour("I13")]
KEYS: Mapping[str, Mapping[str, SealKey]] = {"reviews": {DESK_KEY.key_id: DESK_KEY}}


@pytest.fixture
def names(kafka: str, topics: Topics) -> TopicSet:
    """The topics of a desk, of one partition."""
    found = TopicSet(topics.prefix, 1)
    within(apply({"bootstrap_servers": kafka}, found, ("reviews",)))
    return found


async def write(kafka: str, names: TopicSet, *records: FakeRecord) -> None:
    """Append records to `reviews`, sealed for that topic."""
    topic = names.name("reviews")
    seal = sealer(DESK_KEY, topic, REVIEW)
    async with producing(kafka, acks="all") as producer:
        for one in records:
            headers = (
                [] if one.value is None else [(TYPE_HEADER, REVIEW.encode()), (SEAL_HEADER, seal(head_of(one.value)))]
            )
            await producer.send_and_wait(topic, one.value, key=one.key, partition=0, headers=headers)


async def follow(kafka: str, names: TopicSet, place: Path, sql: Sequence[str] = ()) -> None:
    """Let a view read what is there, as a console does; then spoil it."""
    store = open_view(str(place))
    try:
        done = (await store.offsets()).get(("reviews", 0), -1)
        found = [one for one in await read(kafka, names.name("reviews"), 0) if one.offset > done]
        await store.apply([fold(one, "reviews", KEYS) for one in found], {("reviews", 0): found[-1].offset})
        for statement in sql:
            await store.database.write(lambda tx, statement=statement: tx.rows(statement))  # type: ignore[misc]
    finally:
        await store.close()


def test_a_view_is_compared_as_far_as_it_has_read(kafka: str, names: TopicSet, tmp_path: Path):
    client, place = {"bootstrap_servers": kafka}, tmp_path / "view.db"

    async def scenario() -> tuple[Compared, Compared, Compared]:
        await write(kafka, names, review("i1"), review("i2"), review("i3"), gone("i3"))
        await follow(kafka, names, place)
        good = await compare(client, names, KEYS, place)
        await write(kafka, names, review("i1", state=State.REJECTED), review("i4"))
        behind = await compare(client, names, KEYS, str(place))
        await follow(kafka, names, place, ["DELETE FROM view_item WHERE item = 'i2'"])
        return good, behind, await compare(client, names, KEYS, place)

    good, behind, spoilt = within(scenario())

    assert (good.items, good.found, good.moving) == (2, 0, 0)
    assert (behind.found, behind.moving) == (0, 2)
    assert [(one.name, one.what, one.place) for one in spoilt.differences] == [
        ("i2", "stands in the topics (OPEN), and not in the view", f"{names.name('reviews')}/0/1")
    ]
