"""The console over a real Kafka: from a proposal to what was executed, and one that dies with a verdict unanswered.

One process with control, router, desk and executor works the whole time; consoles come and go beside it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from hitl_stream.client import Action, Publisher
from hitl_stream.dev.broker import free_ports
from hitl_stream.dev.site import make_control_keys
from hitl_stream.lane.admin import apply
from hitl_stream.settings import load
from hitl_stream.wire.topics import TopicSet
from hitl_stream.wiring import make_router_keys
from support import dying_console
from support.cli import environ, hitl, until_ready
from support.kafka import Topics, read, within
from support.make import action_dict, change, iso

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

POLICY = Path("src/hitl_stream/dev/policies/acme.yaml").resolve()
PARTITIONS = 2
SECONDS_MAX = 90.0
POLL_S = 0.1
STOP_S_MAX = 40.0


@dataclass
class Site:
    """An installation, its console, and ana, who trades."""

    state: Path
    kafka: str
    prefix: str
    env: dict[str, str]
    token: str = ""
    kims: str = ""
    port: int = 0
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a process of `hitl run`, or a script; its log goes to a file."""
        (metrics,) = free_ports(1)
        path = self.state / f"log-{len(self.running)}"
        env = environ(self.state, **self.env, **more, HITL_METRICS_PORT=str(metrics))
        with path.open("wb") as log:
            process = subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log, cwd=self.state, env=env)
        self.running.append(process)
        try:
            until_ready(process, metrics)  # type: ignore[arg-type]
        except AssertionError as error:
            raise AssertionError(f"{error}\n{path.read_text()[-4_000:]}") from None
        return process

    def console(self, **more: str) -> subprocess.Popen[bytes]:
        """Start a console, which dies where it is told to."""
        (self.port,) = free_ports(1)
        port = {"HITL_CONSOLE_PORT": str(self.port)}
        if more:
            return self.start(dying_console.__file__, **port, **more)
        return self.start("-m", "hitl_stream", "run", "console", **port)

    def ask(self, method: str, path: str, body: Any = None, *, kim: bool = False, **query: Any) -> httpx.Response:
        """Ask the console, as ana or as kim."""
        url = f"http://127.0.0.1:{self.port}/api/v1{path}"
        headers = {"Authorization": f"Bearer {self.kims if kim else self.token}"}
        return httpx.request(method, url, json=body, params=query, headers=headers, timeout=30)

    def given(self, queue: str = "trading") -> dict[str, Any]:
        """Ask for the next item until there is one."""
        return until(lambda: next(iter(self.ask("GET", f"/queues/{queue}/next").json()["items"]), None))

    def verdict(self, item: Mapping[str, Any], word: str, **more: Any) -> dict[str, Any]:
        """Say that a card is painted; return the body of a verdict on it."""
        painted = self.ask("POST", f"/items/{item['item']}/painted", {"view": item["view"]})
        assert painted.status_code == 200, painted.text
        return {"verdict": word, "view": item["view"], "painted": painted.json()["receipt"], **more}

    def effects(self, item: str) -> list[str]:
        """Return what ana's verdicts on an item did."""
        return [one["effect"] for one in self.ask("GET", f"/items/{item}").json().get("yours", ())]

    def records(self, topic: str) -> list[dict[str, Any]]:
        """Return what stands on a topic."""
        found: list[dict[str, Any]] = []
        for part in range(PARTITIONS):
            found += [json.loads(one.value) for one in within(read(self.kafka, self.prefix + topic, part)) if one.value]
        return found


def until(question: Callable[[], Any]) -> Any:
    """Ask until there is an answer."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        found = question()
        if found:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"no answer within {SECONDS_MAX:g} s")


@pytest.fixture
def site(tmp_path: Path, kafka: str, topics: Topics) -> Iterator[Site]:
    """Everything but the console."""
    settings = load(kafka=kafka, prefix=topics.prefix, partitions=PARTITIONS, state_dir=tmp_path / "state")
    within(apply({"bootstrap_servers": kafka}, TopicSet(topics.prefix, PARTITIONS)))
    make_router_keys(settings)
    env = {
        "HITL_KAFKA": kafka, "HITL_PREFIX": topics.prefix, "HITL_PARTITIONS": str(PARTITIONS),
        "HITL_TRUST": within(make_control_keys(settings)), "HITL_POLICY": str(POLICY), "HITL_ADAPTER": "log",
        "HITL_LOG_FORMAT": "json",
    }  # fmt: skip
    found = Site(tmp_path, kafka, topics.prefix, env)
    for verb in (
        ("add", "ana", "--role", "trader", "--tenant", "acme"),
        ("qualify", "ana", "bid.adjust"),
        ("add", "kim", "--role", "kill-operator", "--every-tenant"),
    ):
        done = hitl(tmp_path, "user", *verb, env=env)
        assert done.returncode == 0, done.stderr
    found.token = token(found, "ana", "items:decide", "queues:read", "actions:write", "actions:read", "feedback:read")
    found.kims = token(found, "kim", "switches:read", "switches:engage")
    try:
        found.start("-m", "hitl_stream", "run", "control", "router", "desk", "executor")
        yield found
    finally:
        for process in found.running:
            process.send_signal(signal.SIGTERM)
        for process in found.running:
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()


def token(site: Site, name: str, *scopes: str) -> str:
    """Return a token of somebody."""
    flags = [flag for scope in scopes for flag in ("--scope", scope)]
    done = hitl(site.state, "user", "token", name, *flags, "--json", env=site.env)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["secret"])


def proposal(number: int) -> Action:
    """Return a bid that is too much for the machine."""
    now_ms = int(time.time() * 1000)
    fields = action_dict(
        action_id=f"act-{number}", changes=[change("1.20", "1.80", campaign=f"cmp-{number}")],
        proposed_at=iso(now_ms), expires_at=iso(now_ms + 3_600_000),
        rationale="It pays.",
    )  # fmt: skip
    return Action.model_validate(fields)


@pytest.mark.behaviour("A7", "B7")
def test_from_a_proposal_over_a_verdict_to_what_was_executed(site: Site):
    site.console()
    action = proposal(1)

    async def send() -> None:
        async with Publisher(site.kafka, topic=site.prefix + "actions") as publisher:
            await publisher.send(action)

    within(send())
    item = site.given()
    card = json.loads(item["card"])
    assert (card["changes"][0]["after"], card["agent_says"]["rationale"]) == ("1.80", "It pays.")
    body = site.verdict(item, "approve", note="as planned")
    said = site.ask("POST", f"/items/{item['item']}/verdict", body)
    assert said.status_code == 202, said.text
    until(lambda: site.effects(item["item"]) == ["applied"])

    async def wait() -> Any:
        async with Publisher(site.kafka, topic=site.prefix + "actions") as publisher:
            return await publisher.wait(action)

    outcome = within(wait(), SECONDS_MAX)
    assert (outcome.end, outcome.by) == ("executed", ("ana",))
    (executed,) = [one for one in site.records("execute") if one["action_id"] == "act-1"]
    assert executed["by"] == ["ana"]
    story = until(lambda: _ended(site.ask("GET", "/actions/acme/act-1").json()))
    assert {one["kind"] for one in story["records"]} == {"decision", "result"}
    (decision,) = [one["record"] for one in story["records"] if one["kind"] == "decision"]
    assert (decision["by"], decision["effect"], decision["shown"]) == ("ana", "applied", item["card"])


def _ended(story: dict[str, Any]) -> dict[str, Any] | None:
    return story if len(story.get("records", ())) == 2 else None


def test_a_proposal_over_the_console_is_the_signed_in_persons_and_they_cannot_approve_it(site: Site):
    site.console()
    action = json.loads(proposal(2).to_bytes())
    assert site.ask("POST", "/actions", action).status_code == 202
    asked = until(lambda: [one for one in site.records("reviews") if "item" in one])
    assert asked[0]["not"][-1] == "ana"
    assert site.ask("GET", "/queues/trading/next").json()["items"] == []
    assert site.ask("GET", f"/items/{asked[0]['item']}").status_code == 404


def test_a_console_killed_between_the_append_and_its_answer_loses_and_doubles_nothing(site: Site, tmp_path: Path):
    file = tmp_path / "die"
    site.console(HITL_DIE_IF=str(file))
    assert site.ask("POST", "/actions", json.loads(proposal(3).to_bytes())).status_code == 202  # by ana: not for her

    async def send() -> None:
        async with Publisher(site.kafka, topic=site.prefix + "actions") as publisher:
            await publisher.send(proposal(4))

    within(send())
    item = site.given()
    body = site.verdict(item, "reject", code="too_large", note="not today", id="one-verdict-only")
    file.touch()
    with pytest.raises(httpx.HTTPError):
        site.ask("POST", f"/items/{item['item']}/verdict", body)
    assert site.running[-1].wait(STOP_S_MAX) == -signal.SIGKILL

    site.console()
    again = site.ask("POST", f"/items/{item['item']}/verdict", body)
    assert again.status_code in (202, 404, 409), again.text  # it was read back before, or the item has ended already
    until(lambda: site.effects(item["item"]) == ["applied"])
    once_more = site.ask("POST", f"/items/{item['item']}/verdict", body)
    assert once_more.status_code == 202, once_more.text
    decided = [one for one in site.records("decisions") if one["item"] == item["item"]]
    assert [(one["verdict"], one["effect"], one["note"]) for one in decided] == [("reject", "applied", "not today")]
    closed = [one for one in site.records("closed") if one["action_id"] == "act-4"]
    assert [(one["end"], one["code"]) for one in closed] == [("rejected", "too_large")]
    told = site.ask("GET", "/feedback").json()
    assert [(one["action_id"], one["code"], one["note"]) for one in told["feedback"]] == [
        ("act-4", "too_large", "not today")
    ]
    assert site.ask("GET", "/feedback", after=told["after"]).json()["feedback"] == []


@pytest.mark.behaviour("E16")
def test_a_switch_from_the_console_is_effective(site: Site):
    site.console()
    said = site.ask("POST", "/switches", {"scope": ["tenant:acme"], "mode": "HALT", "reason": "a try"}, kim=True)
    assert said.status_code == 202, said.text

    def effective() -> Any:
        switches = site.ask("GET", "/switches", kim=True).json()["switches"]
        return [one for one in switches if one["epoch"] == said.json()["epoch"] and one["effective"]]

    (switch,) = until(effective)
    assert (switch["scope"], switch["by"]) == (["tenant:acme"], "console")
    assert switch["reason"] == "kim at the console: a try"
