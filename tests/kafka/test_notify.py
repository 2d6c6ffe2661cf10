"""`hitl notify run` beside a real Kafka: what a target is told, and that neither a failure nor a restart loses any."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.roles.desk_writing import WRITES
from hitl_stream.wire.desk_records import REVIEW
from hitl_stream.wire.home import partition_of
from hitl_stream.wire.records import head_of, time_text
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, SealKey, create_key, sealer
from hitl_stream.wire.watched import ALERT, Alert, alert_value
from support.cli import start
from support.desk import Workplace
from support.kafka import Topics, producing, within
from support.make import DESK_KEY, NOW_MS, action_bytes, change, iso
from support.oncall import TOPICS, FakeControl, OnCall
from support.staff import demo_policy

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
TOLD_SECONDS_MAX = 60.0


class Target(ThreadingHTTPServer):
    """Where messages arrive. The first one is refused."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refused = 0
        self.told: list[str] = []

    def until(self, text: str, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + TOLD_SECONDS_MAX
        while not any(text in one for one in self.told):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, f"{text!r} is not in {self.told}"
            time.sleep(0.05)


class _Handler(BaseHTTPRequestHandler):
    server: Target

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.server.refused:
            self.server.refused += 1
            self.send_response(503)
        else:
            self.server.told.append(f"{body['title']}\n{body['message']}")
            self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_a_target_hears_of_everything_once_however_often_it_fails_and_we_stop(
    kafka: str, topics: Topics, tmp_path: Path, target: Target
):
    site = OnCall(kafka, topics.prefix, tmp_path / "state").begin(topics=(*TOPICS, "reviews", "alerts"))
    (site.keys_dir / "seal-desk-d1").write_text(DESK_KEY.key.hex() + "\n")
    (site.keys_dir / "seal-desk-d1").chmod(0o600)
    monitor = create_key(site.keys_dir, "seal-monitor", "m1")
    env = site.environ() | {"HITL_NOTIFY_URLS": f"json://127.0.0.1:{target.server_port}"}
    write(site, reviews(site))

    with FakeControl(site):
        process = start(tmp_path, "notify", "run", "--log-format", "json", env=env)
        target.until("trading: 3 items past half of their time", process)
        first = site.engage("tenant:acme", "agent:bidder-7")
        target.until(f"switch {first}, HALT tenant:acme agent:bidder-7 engaged", process)
        stop(process)

        second = site.engage("tenant:acme", "agent:copy-1")
        write(site, [alert(site, monitor)])
        process = start(tmp_path, "notify", "run", "--log-format", "json", env=env)
        target.until("trading: rubber_stamp (row 3)", process)
        target.until(f"switch {second}, HALT tenant:acme agent:copy-1 engaged", process)
        stop(process)

    everything = "\n".join(target.told)
    assert target.refused == 1
    assert everything.count("items past half of their time") == 1
    assert everything.count("agent:bidder-7 engaged") == everything.count("agent:copy-1 engaged") == 1
    assert "p-0123456789abcdef" not in everything, "no message says of whom"


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, (out, err)


Sealed = tuple[str, bytes, bytes, list[tuple[str, bytes]]]


def reviews(site: OnCall) -> Iterator[Sealed]:
    """Yield three open items of months ago, under the desk's seal."""
    work, topic = Workplace(demo_policy()), site.topics.name("reviews")
    assert WRITES["reviews"] == REVIEW
    legs = [change("1.20", "1.60", campaign=f"cmp-{n}") for n in range(3)]
    proposed = iso(NOW_MS - 100)
    work.opened(*[action_bytes(action_id=f"a-{n}", changes=[leg], proposed_at=proposed) for n, leg in enumerate(legs)])
    for key, record in work.changelog.items():
        value = record.value or b""
        yield topic, key, value, sealed(DESK_KEY, topic, REVIEW, head_of(value))


def alert(site: OnCall, key: SealKey) -> Sealed:
    topic = site.topics.name("alerts")
    one = Alert(
        id="a1", queue="trading", person="p-0123456789abcdef", row=3, level=1, page="rubber_stamp",
        at=time_text(NOW_MS),
    )  # fmt: skip
    return topic, b"trading", alert_value(one), sealed(key, topic, ALERT, alert_value(one))


def sealed(key: SealKey, topic: str, kind: str, text: bytes) -> list[tuple[str, bytes]]:
    return [(TYPE_HEADER, kind.encode()), (SEAL_HEADER, sealer(key, topic, kind)(text))]


def write(site: OnCall, records: Any) -> None:
    async def all_of_them() -> None:
        async with producing(site.bootstrap, acks="all") as producer:
            for topic, key, value, headers in records:
                partition = partition_of(key, site.partitions)
                await producer.send_and_wait(topic, value, key, partition, headers=headers)

    within(all_of_them())
