"""F12: what is no action among actions. No crash, no stall; each one in the dlq with its bytes or their digest."""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from faults.harness import (
    TENANT,
    Run,
    Sent,
    Site,
    action_bytes,
    all_records,
    explained,
    finished,
    judge,
    site,
    troubles,
)
from hitl_stream.wire.home import home
from support.kafka import within

pytestmark = [pytest.mark.kafka, pytest.mark.faults, pytest.mark.timeout(1_200)]

MIB = 1024 * 1024
GOOD = action_bytes("act-x", "acc-1", "cmp-1")
Headers = list[tuple[str, bytes | None]]


class _NoUtf8(str):
    """A header name that goes out as bytes which are no UTF-8."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        return b"\xff\xfe\xfd"


@dataclass(frozen=True)
class Kind:
    """A way of being no action: its bytes, and the error classes that name it."""

    errors: frozenset[str]
    value: Callable[[random.Random], bytes | None]
    key: Callable[[random.Random], bytes | None] = lambda rng: b"k"
    headers: Callable[[random.Random], Headers] = lambda rng: []


def kind(errors: str, value: Any, **more: Any) -> Kind:
    make = value if callable(value) else lambda rng: value
    return Kind(
        frozenset(errors.split()), make, **{n: v if callable(v) else (lambda rng, v=v: v) for n, v in more.items()}
    )


def replaced(old: bytes, new: bytes) -> bytes:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


NO_UTF8 = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80")
EVENT = b'{"specversion":"1.0","id":"1","source":"s","type":"t"}'
CE = [("content-type", b"application/cloudevents+json")]
KINDS = {
    "cut": kind("not_json schema", lambda rng: GOOD[: rng.randrange(1, len(GOOD) - 1)]),
    "bad UTF-8": kind("encoding", lambda rng: GOOD[:60] + rng.choice(NO_UTF8) + GOOD[60:]),
    "NaN": kind("not_json schema", replaced(b'"confidence":0.95', b'"confidence":NaN')),
    "NaN as a text": kind("schema", replaced(b'"after":"1.05"', b'"after":1e999')),
    "infinite": kind("not_json schema", replaced(b'"confidence":0.95', b'"confidence":-Infinity')),
    "10,000 deep arrays": kind("too_deep", b'{"context":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
    "10,000 deep objects": kind("too_deep", b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "deep and cut": kind("too_deep", b'{"a":' * 10_000),
    "wrong type": kind("schema", replaced(b'"agent":{"id":"bidder-1","version":"1"}', b'"agent":7')),
    "field missing": kind("schema", replaced(b'"agent"', b'"agents"')),
    "time without offset": kind("schema", lambda rng: _without_offset()),
    "an array": kind("not_json schema", b"[1,2,3]"),
    "a text": kind("not_json schema", b'"hello"'),
    "a number": kind("not_json schema", b"12"),
    "null": kind("not_json schema", b"null"),
    "not JSON": kind("not_json schema empty", lambda rng: _no_json(rng)),
    "random bytes": kind("not_json encoding empty schema", lambda rng: rng.randbytes(rng.randrange(1, 300))),
    "no value": kind("empty", None),
    "empty value": kind("empty", b""),
    "white space": kind("empty", b" \t\r\n "),
    "no key": kind("not_json", b"{oops", key=None),
    "neither": kind("empty", None, key=None),
    "2 MB of text": kind("too_large", lambda rng: b'{"rationale":"' + rng.randbytes(1).hex().encode() * MIB + b'"}'),
    "2 MB of depth": kind("too_large", b"[" * 2 * MIB),
    "over 64 KiB": kind("too_large", replaced(b'"seq":0', b'"rationale":"' + b"x" * 70_000 + b'"')),
    "two objects": kind("not_json", GOOD + GOOD),
    "byte order mark": kind("not_json", b"\xef\xbb\xbf" + GOOD),
    "schema registry": kind("not_json", b"\x00\x00\x00\x00\x07" + GOOD),
    "UTF-16": kind("encoding not_json", GOOD.decode().encode("utf-16")),
    "slash in the tenant": kind("schema", replaced(b'"tenant":"acme"', b'"tenant":"ac/me"')),
    "CloudEvent of no version": kind("unknown_type", EVENT.replace(b"1.0", b"9"), headers=CE),
    "CloudEvent without data": kind("empty", EVENT, headers=CE),
    "CloudEvent that is none": kind("schema not_json", b'{"id":1}', headers=CE),
    "ce header that is no UTF-8": kind("encoding", GOOD, headers=[("ce_id", b"\xff\xfe")]),
    "header name that is no UTF-8": kind("not_json", b"{oops", headers=[(_NoUtf8("x"), b"1")]),
    "null header": kind("not_json", b"{oops", headers=[("trace", None), ("", b"")]),
    "1,000 headers": kind("not_json", b"{oops", headers=[(f"h{n}", b"x" * 20) for n in range(1_000)]),
    "2 MB of headers": kind("not_json", b"{oops", headers=[("traceparent", b"x" * 2 * MIB)]),
    "forged dead letter": kind("not_json", b"{oops", headers=[("hitl-source", b"a/0/0"), ("hitl-error", b"seal")]),
}  # fmt: skip
RARE = {
    "2 MB of text",
    "2 MB of depth",
    "2 MB of headers",
    "1,000 headers",
    "10,000 deep objects",
    "10,000 deep arrays",
}
OURS = ("hitl-error", "hitl-why", "hitl-source", "hitl-appended", "hitl-by", "hitl-length", "hitl-sha256")


def _no_json(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 300)).replace(b"{", b"").decode("latin1").encode()


def _without_offset() -> bytes:
    cut = GOOD.index(b"+00:00")
    return GOOD[:cut] + GOOD[cut + 6 :]


@dataclass
class Bad:
    """One malformed record as it was sent."""

    kind: str
    key: bytes | None
    value: bytes | None
    headers: Headers


def test_f12_malformed_records_become_dead_letters_and_stop_nobody(
    kafka: str, full: bool, seed: int, report: Callable[[Run], None]
):
    bad_count, good_count = (20_000, 20_000) if full else (2_000, 2_000)

    async def scenario() -> None:
        async with site(kafka, 3) as here:
            rng = random.Random(seed)
            with explained(here):
                started = time.monotonic()
                bad, sent = await publish(here, rng, bad_count, good_count)
                await finished(here)
                seconds = time.monotonic() - started
                found = await judge(here, sent, dead_expected=True)
                facts = {"malformed": bad_count, "kinds": len(KINDS), "good": good_count, "seconds": f"{seconds:.0f}"}
                report(Run("F12 malformed", "full" if full else "short", seed, facts, found))
                wrong = await compare(here, bad)
                assert wrong == []
                assert found.ok, found.text()
                assert found.ends["dead"] == bad_count
                assert troubles(here) == []
                assert all(router.process.poll() is None for router in here.routers.values())

    within(scenario(), 1_100.0)


def test_every_kind_of_malformed_record_is_named_by_its_error_class(kafka: str):
    """One of each, one partition, one router: a kind that crashed it would be the last."""

    async def scenario() -> None:
        async with site(kafka, 1, partitions=1) as here:
            rng = random.Random(0)
            with explained(here):
                bad, sent = await publish(here, rng, len(KINDS), 20, list(KINDS))
                await finished(here)
                assert await compare(here, bad) == []
                found = await judge(here, sent, dead_expected=True)
                assert found.ok, found.text()
                assert troubles(here) == []

    within(scenario(), 200.0)


async def publish(
    here: Site, rng: random.Random, bad_count: int, good_count: int, kinds: list[str] | None = None
) -> tuple[dict[str, Bad], dict[str, Sent]]:
    """Send good and malformed records among each other; return the bad ones by place, the good ones by id."""
    partitions, topic = here.settings.partitions, here.name("actions")
    bad: dict[str, Bad] = {}
    sent: dict[str, Sent] = {}
    usual = [name for name in KINDS if name not in RARE]
    order = ["good"] * good_count + ["bad"] * bad_count
    rng.shuffle(order)
    seqs: Counter[str] = Counter()
    # Not idempotent, because that takes aiokafka's own builder, which builds nothing this malformed.
    producer = AIOKafkaProducer(bootstrap_servers=here.bootstrap, acks="all", max_request_size=8 * MIB, linger_ms=2)
    await producer.start()
    pending: list[tuple[Any, Bad | None]] = []

    async def settle() -> None:
        for future, one in pending:
            told = await future
            if one is not None:
                bad[f"{topic}/{told.partition}/{told.offset}"] = one
        pending.clear()

    try:
        for what in order:
            if what == "good":
                number = len(sent)
                account = f"acc-{rng.randrange(40)}"
                seqs[account] += 1
                value = action_bytes(f"act-{number:07d}", account, "cmp-0", seqs[account])
                sent[f"act-{number:07d}"] = Sent(f"{account}/cmp-0", seqs[account])
                place = home(TENANT, account, partitions)
                pending.append((await producer.send(topic, value, account.encode(), partition=place), None))
            else:
                if kinds:
                    name = kinds[len(bad) + sum(one is not None for _, one in pending)]
                else:
                    name = rng.choice(list(RARE) if rng.random() < 0.004 else usual)
                made = KINDS[name]
                one = Bad(name, made.key(rng), made.value(rng), made.headers(rng))
                place = rng.randrange(partitions)
                pending.append((await producer.send_batch(batch_of(producer, one), topic, partition=place), one))
            if len(pending) > 200:
                await settle()
        await settle()
    finally:
        await producer.stop()
    return bad, sent


def batch_of(producer: AIOKafkaProducer, one: Bad) -> Any:
    """Return a batch of one record that aiokafka itself would not send: no key and no value, a name of bytes."""
    batch = producer.create_batch()
    batch._builder = _DefaultRecordBatchBuilderPy(2, 0, 0, -1, -1, -1, 16 * MIB)
    batch.append(key=one.key, value=one.value, timestamp=None, headers=one.headers)
    batch.close()
    return batch


async def compare(here: Site, bad: dict[str, Bad]) -> list[str]:
    """Return what differs between the malformed records and the dead letters."""
    wrong: list[str] = []
    seen: Counter[str] = Counter()
    async for record in all_records(here, "dlq"):
        own = dict(pair for pair in record.headers if pair[0] in OURS)
        theirs = [(name, content) for name, content in record.headers if name not in OURS]
        place = own["hitl-source"].decode()
        seen[place] += 1
        one = bad.get(place)
        if one is None:
            wrong.append(f"{place}: a dead letter of what was no bad record")
            continue
        what = f"{place} ({one.kind}):"
        if own["hitl-error"].decode() not in KINDS[one.kind].errors:
            wrong.append(f"{what} {own['hitl-error']!r} {own['hitl-why']!r}, expected {set(KINDS[one.kind].errors)}")
        if record.key != one.key:
            wrong.append(f"{what} key {record.key!r}, expected {one.key!r}")
        if "hitl-sha256" in own:
            digest = hashlib.sha256(one.value or b"").hexdigest().encode()
            if own["hitl-sha256"] != digest or own["hitl-length"] != b"%d" % len(one.value or b"") or record.value:
                wrong.append(f"{what} neither its bytes nor their length and digest")
        elif record.value != one.value:
            wrong.append(f"{what} value of {len(record.value or b'')} bytes, expected {len(one.value or b'')}")
        expected = [(written(name), content or b"") for name, content in one.headers if name not in OURS]
        if theirs != expected:
            wrong.append(f"{what} headers {str(theirs)[:200]}, expected {str(expected)[:200]}")
        if record.partition != int(place.split("/")[-2]):
            wrong.append(f"{what} in partition {record.partition}")
    wrong += [f"{place} ({one.kind}): {seen[place]} dead letters" for place, one in bad.items() if seen[place] != 1]
    return wrong


def written(name: str) -> str:
    """Return how a header name comes out: U+FFFD stands for what is no UTF-8."""
    return str.__str__(name.encode().decode("utf-8", "replace"))
