"""The feed: what was committed is folded where the store is, and it goes on after Kafka or the database went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from hitl_stream.console import feed as feed_module
from hitl_stream.console.database import DatabaseError
from hitl_stream.console.feed import STALE_MS_MAX, Feed
from hitl_stream.console.pairs import Pairs
from hitl_stream.console.store import OpenItem, Viewer
from hitl_stream.console.view import SqlStore, open_view
from hitl_stream.core.errors import UnreachableError
from hitl_stream.wire.topics import TopicSet
from support.console import pair, run
from support.make import NOW_MS, FakeRecord
from support.view import KEYS, closed, result, review

ANA = Viewer("ana", ("acme",), ("trading",))
NAMES = ("reviews", "decisions", "closed", "results", "pairs", "preferences")
TURNS_MAX = 2_000


class FakeLog:
    """Topics of one partition each, as a consumer reads them. `fails` is raised by the next poll, `marks` end a log."""

    def __init__(self) -> None:
        self.records: dict[str, list[FakeRecord]] = {f"hitl.{name}": [] for name in NAMES}
        self.marks: dict[str, int] = {}
        """How many offsets at the end of a topic are a transaction's marks, which nobody is given."""
        self.fails: Exception | None = None
        self.opened = 0
        self.places: dict[TopicPartition, int] = {}
        self.sought: dict[str, int] = {}
        """Where reading began, by topic."""

    def put(self, *records: FakeRecord) -> None:
        for record in records:
            self.records[record.topic].append(record)

    @asynccontextmanager
    async def started(self, client: Any, *, committed: bool) -> AsyncIterator[FakeLog]:
        assert committed
        self.opened += 1
        self.places = {}
        yield self

    async def partitions_of(self, consumer: Any, topics: Any) -> list[TopicPartition]:
        return [TopicPartition(topic, 0) for topic in topics]

    def _end(self, part: TopicPartition) -> int:
        offsets = [record.offset for record in self.records[part.topic]]
        return max(offsets, default=-1) + 1 + self.marks.get(part.topic, 0)

    async def beginning_offsets(self, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(parts, 0)

    async def end_offsets(self, parts: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {part: self._end(part) for part in parts}

    def assign(self, parts: list[TopicPartition]) -> None:
        self.places = dict.fromkeys(parts, 0)

    def seek(self, part: TopicPartition, offset: int) -> None:
        self.places[part] = self.sought[part.topic] = offset

    async def position(self, part: TopicPartition) -> int:
        return self.places[part]

    async def getmany(self, *, timeout_ms: int, max_records: int) -> dict[TopicPartition, list[FakeRecord]]:
        await asyncio.sleep(0.001)
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        found = {}
        for part, place in self.places.items():
            rows = [record for record in self.records[part.topic] if record.offset >= place]
            if rows:
                found[part] = rows
            self.places[part] = self._end(part)
        return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for seconds."""
    monkeypatch.setattr(feed_module, "RETRY_S", 0.01)
    monkeypatch.setattr(feed_module, "LOOK_S", 0.0)


async def until(question: Callable[[], bool]) -> None:
    for _ in range(TURNS_MAX):
        if question():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")


@asynccontextmanager
async def feeding(
    directory: Path, log: FakeLog, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Feed, SqlStore]]:
    monkeypatch.setattr(feed_module, "started", log.started)
    monkeypatch.setattr(feed_module, "partitions_of", log.partitions_of)
    store = open_view(directory / "view.db")
    feed = Feed({}, TopicSet(partitions=1), store, KEYS, Pairs(), lambda: NOW_MS)
    try:
        await feed.start()
        yield feed, store
        await feed.stop()
    finally:
        await store.close()


def fed(directory: Path, log: FakeLog, monkeypatch: pytest.MonkeyPatch, scenario: Callable[..., Any]) -> Any:
    async def go() -> Any:
        async with feeding(directory, log, monkeypatch) as (feed, store):
            return await scenario(feed, store)

    return run(go())


def test_what_stands_on_the_log_comes_into_the_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FakeLog()
    log.put(review("i1"), closed(action_id="act-2"), pair("p-1"))

    async def scenario(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())
        assert isinstance(await store.item("i1", ANA, NOW_MS), OpenItem)
        assert (await store.story(ANA, "acme", "act-2")).rows
        assert list(feed._pairs.waiting) == ["p-1"]
        assert await store.stale_ms(NOW_MS) == 0
        log.put(review("i2", 1))
        while await store.item("i2", ANA, NOW_MS) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    fed(tmp_path, log, monkeypatch, scenario)


def test_it_reads_on_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FakeLog()
    log.put(review("i1"))

    async def first(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())

    async def second(feed: Feed, store: SqlStore) -> dict[str, int]:
        await until(lambda: len(log.sought) == len(NAMES))
        return log.sought

    fed(tmp_path, log, monkeypatch, first)
    log.sought = {}
    log.records["hitl.reviews"] = [FakeRecord(b"never to be read again", 0, topic="hitl.reviews")]
    sought = fed(tmp_path, log, monkeypatch, second)
    assert (sought["hitl.reviews"], sought["hitl.pairs"]) == (1, 0)


def test_the_mark_of_a_transaction_does_not_leave_the_view_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FakeLog()
    log.put(review("i1"))
    log.marks["hitl.reviews"] = 1

    async def scenario(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())
        assert (await store.offsets())["reviews", 0] == 1

    fed(tmp_path, log, monkeypatch, scenario)


@pytest.mark.parametrize("error", [UnreachableError("no broker"), DatabaseError("no database"), TimeoutError("slow")])
def test_after_kafka_or_the_database_went_away_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    log = FakeLog()

    async def scenario(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())
        opened, log.fails = log.opened, error
        await until(lambda: log.opened > opened)
        log.put(review("i1"))
        await until(lambda: feed.trouble == "")
        while await store.item("i1", ANA, NOW_MS) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    fed(tmp_path, log, monkeypatch, scenario)


def test_how_far_behind_it_is_counts_from_the_last_look(tmp_path: Path):
    now = [NOW_MS]
    store = open_view(tmp_path / "view.db")
    feed = Feed({}, TopicSet(), store, KEYS, Pairs(), lambda: now[0])
    assert feed.missing() == "nothing was read yet"
    feed.as_of_ms, feed.trouble = NOW_MS, ""
    now[0] += STALE_MS_MAX
    assert feed.missing() == ""
    now[0] += 1
    assert "behind" in feed.missing()
    feed.trouble = "no broker"
    assert feed.missing() == "no broker"


def test_a_view_that_was_rebuilt_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FakeLog()
    log.put(review("i1"))

    async def scenario(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())
        await store.rebuild()
        while await store.item("i1", ANA, NOW_MS) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    fed(tmp_path, log, monkeypatch, scenario)


def test_a_view_of_another_cluster_is_dropped_and_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FakeLog()
    log.put(*(review(f"i{n}", n) for n in range(5)))

    async def first(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())

    async def second(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())
        assert await store.item("i0", ANA, NOW_MS) is None
        assert isinstance(await store.item("new", ANA, NOW_MS), OpenItem)

    fed(tmp_path, log, monkeypatch, first)
    other = FakeLog()
    other.put(review("new"))
    fed(tmp_path, other, monkeypatch, second)


def test_a_view_stays_bounded_however_much_runs_without_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(feed_module, "FORGET_EVERY", 10)
    log = FakeLog()
    seen: list[int] = []

    async def scenario(feed: Feed, store: SqlStore) -> None:
        forget = store.forget

        async def few(before_ms: int) -> None:
            await forget(before_ms, alone_max=20)
            ((count,),) = await store.database.read(lambda tx: tx.rows("SELECT COUNT(*) FROM view_story"))
            seen.append(count)

        monkeypatch.setattr(store, "forget", few)
        for start in range(0, 100, 10):
            times = len(seen)
            log.put(*(result(n, NOW_MS + n, by=(), action_id=f"act-{n}") for n in range(start, start + 10)))
            await until(lambda times=times: len(seen) > times)

    fed(tmp_path, log, monkeypatch, scenario)
    assert max(seen) == 20


def test_a_forged_record_is_shown_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    log = FakeLog()
    forged = review("i1")
    forged.headers = [(name, b"d1:forged" if name == "hitl-seal" else content) for name, content in forged.headers]
    log.put(forged, review("i2", 1))

    async def scenario(feed: Feed, store: SqlStore) -> None:
        await until(lambda: not feed.missing())
        assert await store.item("i1", ANA, NOW_MS) is None
        assert isinstance(await store.item("i2", ANA, NOW_MS), OpenItem)

    fed(tmp_path, log, monkeypatch, scenario)
