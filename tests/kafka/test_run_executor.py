"""`hitl run executor`: what it needs to start, and a whole installation in one process, from action to result."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from hitl_stream.core.action import Value
from hitl_stream.dev.platform import Place, Platform
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply
from hitl_stream.settings import load
from hitl_stream.wire.home import home
from hitl_stream.wire.topics import CONTROL_TOPICS, EXECUTOR_TOPICS, ROUTER_TOPICS, TopicSet
from hitl_stream.wiring import make_router_keys
from support.cli import free_port, hitl, start, until_ready
from support.kafka import Topics, producing, read, within
from support.make import action_bytes, change, iso

POLICY = Path(str(files("hitl_stream.dev.policies").joinpath("acme.yaml")))
FIRST = "1.20"
WAIT_S_MAX = 60.0
STOP_S_MAX = 10.0
TRUSTING = ("--trust", "0" * 64, "--policy", str(POLICY))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with keys in it."""
    assert hitl(tmp_path, "keys", "seal").returncode == 0
    return tmp_path


@pytest.mark.parametrize(
    ("adapter", "said"),
    [("", "adapter: none is named"), ("telex", "adapter: found 'telex'"), ("http", "adapter_options")],
)
def test_without_an_adapter_it_says_how_to_name_one(state: Path, adapter: str, said: str):
    done = hitl(state, "run", "executor", *TRUSTING, env={"HITL_ADAPTER": adapter})

    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("missing", ["seal-router-r1", "seal-executor-e1"])
def test_without_a_key_it_says_which_and_how_to_make_it(state: Path, missing: str):
    (state / "state" / "keys" / missing).unlink()

    done = hitl(state, "run", "executor", *TRUSTING, env={"HITL_ADAPTER": "log"})

    assert done.returncode == 2
    assert missing.rpartition("-")[0] in done.stderr
    assert "hitl keys seal" in done.stderr


def starts_at(place: Place) -> Value:
    return FIRST


@pytest.mark.kafka
@pytest.mark.behaviour("A3", "E15", "I4")
def test_from_an_action_to_its_result_and_a_kill_that_stops_it_in_one_process(topics: Topics, tmp_path: Path):
    prefix, partitions, kafka = topics.prefix, 3, topics.bootstrap
    names = TopicSet(prefix, partitions)

    async def publish(count: int, tag: str) -> None:
        async with producing(kafka, acks="all") as producer:
            for n in range(count):
                account = f"acc-{n % 5}"
                value = action_bytes(
                    action_id=f"{tag}-{n}", proposed_at=iso(int(time.time() * 1000)),
                    changes=[change("1.20", "1.21", account=account, campaign=f"{tag}-{n}")],
                )  # fmt: skip
                place = home("acme", account, partitions)
                await producer.send_and_wait(names.name("actions"), value, partition=place)

    async def said(topic: str) -> list[dict[str, Any]]:
        found = []
        for partition in range(partitions):
            found += [json.loads(record.value) for record in await read(kafka, names.name(topic), partition)]
        return found

    async def until_said(topic: str, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(WAIT_S_MAX):
            while len(found := await said(topic)) < count:  # noqa: ASYNC110  a broker sets no event
                await asyncio.sleep(0.2)
            return found

    async def scenario() -> None:
        settings = load(kafka=kafka, prefix=prefix, partitions=partitions, state_dir=tmp_path / "state")
        client = {"bootstrap_servers": kafka}
        await apply(client, names, tuple(dict.fromkeys((*ROUTER_TOPICS, *EXECUTOR_TOPICS, *CONTROL_TOPICS, "facts"))))
        make_router_keys(settings)
        trust = await make_control_keys(settings)
        flags = ("--kafka", kafka, "--prefix", prefix, "--partitions", str(partitions), "--trust", trust)
        async with Platform(provider=starts_at) as platform:
            options = json.dumps({"base_url": platform.url, "fence": True})
            port = free_port()
            process = start(
                tmp_path, "run", "router", "executor", "control", *flags,
                "--policy", str(POLICY), "--metrics-port", str(port), "--log-format", "json",
                env={"HITL_ADAPTER": "http", "HITL_ADAPTER_OPTIONS": options},
            )  # fmt: skip
            try:
                await asyncio.to_thread(until_ready, process, port)
                await publish(30, "before")
                results = await until_said("results", 30)
                assert {result["status"] for result in results} == {"executed"}
                assert platform.counts()["applied"] == 30
                metrics = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
                assert 'hitl_execute_total{class="bid.adjust",status="executed"} 30.0' in metrics
                assert "hitl_execute_seconds_count 30.0" in metrics
                assert "hitl_executor_calls_in_flight 0.0" in metrics

                kill = ("kill", "--scope", "tenant:acme", "--key", "ana-1", *flags)
                killed = await asyncio.to_thread(hitl, tmp_path, *kill)
                assert killed.returncode == 0, killed
                await publish(10, "after")
                await until_said("held", 10)
                assert platform.counts()["calls"] == 30
                assert len(await said("results")) == 30

                process.send_signal(signal.SIGTERM)
                out, err = await asyncio.to_thread(process.communicate, None, STOP_S_MAX)
                assert process.returncode == 0, err
                assert "Traceback" not in out + err
            finally:
                process.kill()
                await asyncio.to_thread(process.communicate)

    within(scenario(), 150.0)


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
        return text
