"""Faust, made to lose nothing: the app of a monitor, its tables, its reader, and when a record is acknowledged.

What Faust does otherwise, and why it is not left to it:
- by default its consumer would count judgements of transactions that were aborted: `_Committed`;
- a failed write to a table would only be logged: `Table` hands out the future of each;
- a worker that was cut off may write an old value after its successor's newer one: of two, the one whose record came
  later counts;
- what is acknowledged out of order may be taken for more than it was: acks go by partition, in order;
- what is fetched while partitions are assigned can be lost: `_Reader`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import faust
import msgspec
from aiokafka import TopicPartition
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from mode import CrashingSupervisor

from hitl_stream.lane import forgiving as _forgiving  # noqa: F401  imported for what it does to aiokafka

UNACKED_MAX = 2_000
"""Judgements whose table writes are on their way; then the next one waits."""
WRITES_MAX = 6 * UNACKED_MAX
"""Each leaves two of its person, what is kept and a chunk of approvals, and one of each gate that it was under."""
SESSION_S = 10.0
"""A worker that is gone for so long gives its partitions away; one that restarts sooner has them back at once."""
HEARTBEAT_S = 2.0
COMMIT_EVERY_S = 1.0
COMMIT_EVERY = 2_000
POLL_RECORDS_MAX = 500
LINGER_S = 0.005
"""So long a table write waits for others: at 2,000 a second a batch holds twenty."""
CHANGELOG_BUFFERED_MAX = 131_072
BYTES = {"key_type": bytes, "value_type": bytes}
RAW = {**BYTES, "key_serializer": "raw", "value_serializer": "raw"}

# Faust's own types do not pass under strict: decorators of agents and tables lose theirs.
_App: Any = faust.App
_FaustTable: Any = faust.Table


class Acks:
    """Acknowledges judgements by partition, in order, each once its table write is done. `failed` hears of one that is
    not."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self.unacked: Counter[int] = Counter()
        self._failed = failed
        self._waiting: dict[int, deque[tuple[Any, asyncio.Future[Any] | None, Callable[[], None] | None]]] = {}

    async def after(
        self, event: Any, written: asyncio.Future[Any] | None, then: Callable[[], None] | None = None
    ) -> None:
        """Acknowledge an event after `written`, None: it left nothing to write; and after all before it.

        `then` is called when it is. Waits where `UNACKED_MAX` are under way.
        """
        partition = event.message.partition
        self._waiting.setdefault(partition, deque()).append((event, written, then))
        self.unacked[partition] += 1
        if written is None:
            self._go_on(partition)
            return
        written.add_done_callback(lambda _: self._go_on(partition))
        if self.unacked.total() >= UNACKED_MAX:
            await asyncio.wait([written])

    def _go_on(self, partition: int) -> None:
        waiting = self._waiting[partition]
        while waiting and ((written := waiting[0][1]) is None or written.done()):
            if written is not None and written.cancelled():
                return  # we are stopping
            if written is not None and (error := written.exception()) is not None:
                self._failed(error)
                return
            event, _, then = waiting.popleft()
            self.unacked[partition] -= 1
            event.ack()
            if then is not None:
                then()


# --- Faust ------------------------------------------------------------------------------------------------------------


class _Offset(msgspec.Struct):
    offset: int


_offset_of = msgspec.msgpack.Decoder(_Offset).decode


class Table(_FaustTable):  # type: ignore[misc]  # Faust's, see `_App`
    """A table that hands out the future of its newest write, and into which no older value comes back."""

    newest: Any = None

    def send_changelog(self, *arguments: Any, **named: Any) -> Any:
        """Write to the changelog, as Faust does."""
        self.newest = super().send_changelog(*arguments, **named)
        return self.newest

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Take in what the changelog holds, without what is older than what came before it."""
        best: dict[bytes, int] = {}

        def newer(event: Any) -> bool:
            key, value = event.key, event.message.value
            if value is None:
                best.pop(key, None)
                return True
            known = self.get(key)
            least = best.get(key, -1 if known is None else _offset_of(known).offset)
            offset = _offset_of(value).offset
            if offset < least:
                return False
            best[key] = offset
            return True

        super().apply_changelog_batch([event for event in batch if newer(event)])


class _Committed(AIOKafkaConsumerThread):
    """Reads what is committed: Faust would do so only where it writes by transactions itself."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer: Any = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer


class _Reader(Consumer):
    """Gives no judgement out before the tables are restored and it stands where it was committed.

    Faust resumes its partitions first and seeks then, and empties its queues when the flow begins: under load a
    judgement that was fetched in between was lost, and acknowledged by those after it.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._held: set[Any] = set()

    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _Committed(self, loop=self.loop, beacon=self.beacon)

    def _set_active_tps(self, tps: Any) -> Any:
        self._held = set()
        return super()._set_active_tps({tp for tp in tps if self._is_changelog_tp(tp)})

    def pause_partitions(self, tps: Iterable[Any]) -> None:
        """Pause partitions, as Faust does."""
        tps = set(tps)
        self._held -= tps
        super().pause_partitions(tps)

    def resume_partitions(self, tps: Iterable[Any]) -> None:
        """Resume those of changelogs; the others wait for the flow to begin."""
        tps = set(tps)
        logs = {tp for tp in tps if self._is_changelog_tp(tp)}
        self._held |= tps - logs
        super().resume_partitions(logs)

    def resume_flow(self) -> None:
        """Begin; Faust calls this after it has restored its tables and stands where it was committed."""
        super().resume_flow()
        held, self._held = self._held, set()
        super().resume_partitions(held)

    async def perform_seek(self) -> None:
        """Go where it was committed; where nothing was, to the beginning: Faust would stay behind what it dropped."""
        await super().perform_seek()
        fresh = [tp for tp in self.assignment() if not self._is_changelog_tp(tp) and not self._committed_offset.get(tp)]
        if fresh:
            await self._thread.seek_to_beginning(*(TopicPartition(tp.topic, tp.partition) for tp in fresh))
            self._read_offset.update(dict.fromkeys(fresh))

    def ack(self, message: Any) -> bool:
        """Acknowledge a judgement of this assignment. What Faust passes over in a rebalance, it is given again."""
        current = message.generation_id == self.app.consumer_generation_id and self.app.flow_control.is_active()
        return current and super().ack(message)


class _Driver(Transport):
    Consumer = _Reader


def new_app(client: Mapping[str, Any], group: str, member: str, directory: Path, partitions: int) -> Any:
    """Make the app, in the running loop. It writes nothing by itself but its tables, and declares no topic.

    `member` is its name in the group, `directory` a place for Faust's own files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    app = _App(
        group,
        broker=[f"kafka://{server.strip()}" for server in client["bootstrap_servers"].split(",")],
        broker_credentials=credentials(client),
        store="memory://",
        datadir=directory,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        topic_partitions=partitions,
        agent_supervisor=CrashingSupervisor,
        table_standby_replicas=0,
        consumer_group_instance_id=member,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_commit_interval=COMMIT_EVERY_S,
        broker_commit_every=COMMIT_EVERY,
        broker_max_poll_records=POLL_RECORDS_MAX,
        producer_acks=-1,
        producer_linger=LINGER_S,
    )
    app.transport = _Driver(app.conf.broker_consumer, app)
    return app


def new_table(app: Any, name: str, topic: str, partitions: int) -> Any:
    """Make a table of bytes by bytes, with a changelog of that name."""
    changelog = app.topic(topic, **RAW, acks=False, internal=True, allow_empty=True, maxsize=CHANGELOG_BUFFERED_MAX)
    return app.tables.add(Table(app, name=name, changelog_topic=changelog, partitions=partitions, **BYTES))


def credentials(client: Mapping[str, Any]) -> Any:
    """Return what Faust wants to know in order to reach a Kafka that asks who we are; None: it does not ask."""
    protocol, context = client.get("security_protocol", "PLAINTEXT"), client.get("ssl_context")
    if protocol == "PLAINTEXT":
        return None
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    return faust.SASLCredentials(
        mechanism=client["sasl_mechanism"],
        username=client["sasl_plain_username"],
        password=client["sasl_plain_password"],
        ssl_context=context,
    )
