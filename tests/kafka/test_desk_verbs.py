"""Exports, reports, erasure and previews on a real log: what the router and the desk wrote, read back through Kafka."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from hitl_stream.lane.admin import apply
from hitl_stream.lane.step import Header
from hitl_stream.wire.records import VIA_HEADER, head_of
from hitl_stream.wire.seal import SEAL_HEADER, TYPE_HEADER, create_key, sealer
from hitl_stream.wire.signing import create_signing_key
from hitl_stream.wire.topics import TABLE, TopicSet
from support.cli import hitl
from support.kafka import Topics, producing, read, within
from support.log import Recorded
from support.make import DESK_KEY, FakeRecord, acme, action_bytes, change, iso

pytestmark = pytest.mark.kafka
EMAIL = "anna@example.com"
PARTITIONS = 1


class Place:
    """One installation, with what a workplace wrote in memory carried over into it."""

    def __init__(self, kafka: str, prefix: str, directory: Path) -> None:
        self.kafka = kafka
        self.prefix = prefix
        self.directory = directory
        keys = directory / "state" / "keys"
        keys.mkdir(mode=0o700, parents=True)
        path = keys / f"seal-desk-{DESK_KEY.key_id}"
        path.write_text(DESK_KEY.key.hex())
        path.chmod(0o600)
        self.policy = directory / "acme.yaml"
        self.policy.write_text(acme().text)

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `hitl` against it."""
        flags = ("--kafka", self.kafka, "--prefix", self.prefix, "--partitions", str(PARTITIONS))
        done = hitl(self.directory, *arguments, *flags, env={"HITL_POLICY": str(self.policy)})
        return done.returncode, done.stdout, done.stderr


@asynccontextmanager
async def _writing(kafka: str) -> AsyncIterator[Any]:
    async with producing(kafka, transactional_id=f"test-{time.time_ns()}") as producer, producer.transaction():
        yield producer


async def _carried(work: Recorded, place: Place) -> None:
    """Write what stands in memory to Kafka, in transactions as the lanes do."""
    client = {"bootstrap_servers": place.kafka}
    await apply(client, TopicSet(place.prefix, PARTITIONS), tuple(TABLE))
    async with _writing(place.kafka) as producer:
        found: dict[str, list[FakeRecord]] = defaultdict(list, work.log.there)
        for name, records in found.items():
            sent = [
                await producer.send(
                    place.prefix + name, one.value, key=one.key, partition=0, headers=_sealed(place.prefix + name, one)
                )
                for one in records
            ]
            await asyncio.gather(*sent)


def _sealed(topic: str, record: FakeRecord) -> list[Header]:
    """Return the headers of a record of the desk, whose seal covers the topic's name."""
    headers = dict(record.headers)
    if headers.get(SEAL_HEADER, b"").startswith(DESK_KEY.key_id.encode() + b":") and VIA_HEADER not in headers:
        seal = sealer(DESK_KEY, topic, headers[TYPE_HEADER].decode())
        headers[SEAL_HEADER] = seal(head_of(record.value or b""))
    return list(headers.items())


@pytest.fixture
def place(kafka: str, topics: Topics, tmp_path: Path) -> Place:
    """Two rejected actions, one of them about Anna, one that waits, one that ran; all proposed now."""
    work = Recorded()
    work.now_ms = time.time_ns() // 1_000_000
    made = Place(kafka, topics.prefix, tmp_path)
    _fill(work)
    within(_carried(work, made))
    return made


def _fill(work: Recorded) -> None:
    for number, context in enumerate(({"email": EMAIL}, {}, {})):
        legs = [change("1.00", "1.30", campaign=f"cmp-{number}")]
        at = iso(work.now_ms - 100)
        (item,) = work.opened(action_bytes(action_id=f"act-{number}", changes=legs, proposed_at=at, context=context))
        if number < 2:
            work.say(item, "reject", code="too_large")
            work.work()
    at = iso(work.now_ms - 100)
    work.propose(action_bytes(action_id="act-9", proposed_at=at))
    work.carry_out(present={"/changes/0": "1.20"})


@pytest.mark.behaviour("A12", "C5", "E7", "E11")
def test_what_people_left_is_exported_reported_previewed_and_erased(place: Place):
    code, lines, said = place.run("export", "feedback", "--since", "1d")
    assert code == 0, said
    assert [orjson.loads(line)["action_id"] for line in lines.splitlines()] == ["act-0", "act-1"]

    code, lines, said = place.run("export", "decisions")
    assert code == 0, said
    assert EMAIL not in lines

    code, shown, said = place.run("report", "queues", "--json")
    assert code == 0, said
    (row,) = orjson.loads(shown)["rows"]
    assert (row["queue"], row["judged"], row["open"], row["money"]) == ("trading", 2, 1, "0.30")

    new = place.directory / "new.yaml"
    text = place.policy.read_text()
    new.write_text(text.replace('auto_max_change: "0.20", auto_min', 'auto_max_change: "0.35", auto_min'))
    code, shown, said = place.run("policy", "preview", str(new), "--json")
    assert code == 0, said
    found = orjson.loads(shown)
    assert (found["actions"], found["moved"]) == (4, 3)

    subject = ("erase", "--tenant", "acme", "--subject", f"context.email={EMAIL}", "--json")
    code, shown, said = place.run(*subject, "--yes")
    assert code == 0, said
    assert orjson.loads(shown)["records"] == {"reviews": 1, "decisions": 1, "feedback": 1, "preferences": 0}

    code, lines, said = place.run("export", "feedback")
    assert [orjson.loads(line)["action_id"] for line in lines.splitlines()] == ["act-1"], "a null took it back"
    code, shown, said = place.run(*subject)
    assert sum(orjson.loads(shown)["records"].values()) == 0

    code, shown, said = place.run("erase", "--tenant", "acme", "--action", "act-2", "--yes")
    assert code == 5, "it waits for a person"
    assert "it is OPEN in queue trading" in said


@pytest.mark.behaviour("E16")
def test_an_inverse_is_proposed_at_its_home_in_the_name_of_a_person(place: Place):
    keys = place.directory / "state" / "keys"
    create_key(keys, "seal-console", "w1")
    create_signing_key(keys, "dana-1", "dana")
    code, shown, said = place.run("reverse", "acme/act-9", "--reason", "wrong page", "--json")
    assert code == 0, said
    sent = orjson.loads(shown)
    assert [(row["before"], row["after"]) for row in sent["changes"]] == [("1.30", "1.20")]
    *_, record = within(read(place.kafka, f"{place.prefix}actions"))
    assert orjson.loads(record.value)["action_id"] == sent["id"].removeprefix("acme/")
    assert orjson.loads(dict(record.headers)["hitl-via"])["by"] == "dana"
    assert record.key == b"acme/acc-17/cmp-204"

    code, shown, said = place.run("reverse", "acme/act-0", "--reason", "wrong page")
    assert code == 5, "it was rejected, and never ran"
